"""Text kept in the cache: the same text, made once, and made anew where the file or what decides it has changed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fwpkm_eval.data import embedded, kept_text, load_set
from fwpkm_eval.data.types import Document

PAGES = (Document("numbers", "math – sums\n"), Document("system", "sys\n"))


class Maker:
    """Makes the pages, and counts how often."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> tuple[Document, ...]:
        self.calls += 1
        return PAGES


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FWPKM_EVAL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_text_is_made_once_for_all_that_decides_it(cache: Path) -> None:
    make = Maker()
    for _ in range(3):
        assert kept_text.kept_documents("manual", ["3.11", "code"], make) == PAGES
    assert make.calls == 1
    assert len(list(cache.rglob("*.json"))) == 1
    for decided_by in (["3.12", "code"], ["3.11", "other code"], ["3.11code"]):
        assert kept_text.kept_documents("manual", decided_by, make) == PAGES
    assert make.calls == 4


@pytest.mark.parametrize("damage", ["", "[]", '{"documents": 1}', "another word", "cut short"])
def test_a_damaged_file_is_made_anew(cache: Path, damage: str) -> None:
    make = Maker()
    kept_text.kept_documents("manual", ["3.11"], make)
    (file,) = cache.rglob("*.json")
    whole = file.read_text()
    changed = {"another word": whole.replace("sums", "sins"), "cut short": whole[:-9]}.get(damage, damage)
    assert changed != whole
    file.write_text(changed)
    assert kept_text.kept_documents("manual", ["3.11"], make) == PAGES
    assert make.calls == 2
    assert file.read_text() == whole


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("FWPKM_EVAL_CACHE", str(tmp_path / "file"))
    make = Maker()
    assert kept_text.kept_documents("manual", ["3.11"], make) == PAGES
    assert kept_text.kept_documents("manual", ["3.11"], make) == PAGES
    assert make.calls == 2


def test_a_library_that_has_changed_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "site-packages").mkdir()
    module, other = tmp_path / "csv.py", tmp_path / "site-packages" / "numpy.py"
    module.write_text("x = 1\n")
    before = list(kept_text.facts_of_python(tmp_path))
    other.write_text("x = 1\n")
    assert list(kept_text.facts_of_python(tmp_path)) == before
    assert sys.version in before[0]
    module.write_text("x = 12\n")
    assert list(kept_text.facts_of_python(tmp_path)) != before


def test_code_that_has_changed_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = tmp_path / "code.py"
    code.write_text("GROUPS = {}\n")
    monkeypatch.setattr(kept_text, "__file__", str(code))
    before = list(kept_text.facts_of_code(kept_text))
    code.write_text("GROUPS = {1}\n")
    assert list(kept_text.facts_of_code(kept_text)) != before


def test_manual_is_kept_for_other_processes(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = load_set("embedded", "manual", "test").documents
    monkeypatch.setattr(embedded, "_make_manual", lambda: made)
    assert embedded._manual_documents() == made
    (file,) = cache.rglob("*.json")
    assert file.name.startswith("manual-")
    # Another process, such as a worker, finds it there, and runs no interpreter to print the pages.
    code = (
        "import subprocess; subprocess.run = None; from fwpkm_eval.data import load_set;"
        "print(load_set('embedded', 'manual', 'test').sha256)"
    )
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ}, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == load_set("embedded", "manual", "test").sha256
