"""Files are whole or not there, and what is there is not replaced unless it is to be."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from fwpkm_eval.files import create_whole


@pytest.mark.parametrize("links", [True, False], ids=["hard-links", "no-hard-links"])
def test_what_is_there_is_never_replaced(links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*given: Any, **named: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", refused)
    file = tmp_path / "folder" / "file"
    assert create_whole(file, "first")
    assert not create_whole(file, "second")
    assert file.read_text() == "first"
    assert [path.name for path in file.parent.iterdir()] == ["file"]
