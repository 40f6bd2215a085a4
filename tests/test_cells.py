"""Cells: keys that forget nothing, files that are whole or not there, and damage that is seen."""

from __future__ import annotations

import json
import math
import os
import stat
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fwpkm_eval import files
from fwpkm_eval.errors import UserError
from fwpkm_eval.runs.cells import Cell, CellStore, canonical_json, canonical_key
from fwpkm_eval.runs.rows import Row

SETTINGS = {"length": 4096, "passes": [1, 2, 4], "model": "gdn:fwpkm@2", "seed": 0}
KEY = canonical_key(SETTINGS)
ROWS = [Row(model="gdn:fwpkm@2", metric="exact_match", value=0.1, n=20), Row(value=math.inf), Row()]
PAYLOAD = {"settings": SETTINGS, "rows": ROWS, "version": "0.1.0"}

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=8), JSON, max_size=5))
def test_a_key_does_not_depend_on_the_order_of_settings(settings: dict[str, Any]) -> None:
    turned_around = dict(reversed(settings.items()))
    assert canonical_key(turned_around) == canonical_key(settings)
    assert json.loads(canonical_json(settings)) == settings


def test_a_key_is_the_same_in_every_version() -> None:
    # Written down, made with sha256sum: if this changes, nobody's finished cells are found again.
    assert canonical_key({"b": [1, 2.5, None, True], "a": "ä"}) == "f11879da5f07e5304f3e"
    assert canonical_key({"p": (1, 2)}) == canonical_key({"p": [1, 2]})


@pytest.mark.parametrize(
    "other",
    [
        {"length": 8192},
        {"passes": [1, 2]},
        {"passes": [4, 2, 1]},
        {"seed": 1},
        {"seed": False},
        {"seed": None},
        {"seed": "0"},
        {"extra": None},
        {"model": "gdn:fwpkm@2 "},
    ],
)
def test_whatever_differs_gives_another_key(other: dict[str, Any]) -> None:
    assert canonical_key({**SETTINGS, **other}) != KEY
    cell = Cell("niah", "gdn", SETTINGS)
    assert Cell("niah", "gdn", {**SETTINGS, **other}).key != cell.key
    assert Cell("ppl", "gdn", SETTINGS).key != cell.key
    assert Cell("niah", "fa", SETTINGS).key != cell.key


@pytest.mark.parametrize("value", [{1: "a"}, {"a": {2}}, {"a": np.float64(0.5)}, {"a": b"x"}, {"a": Path("x")}])
def test_settings_without_one_way_to_write_them_are_refused(value: dict[Any, Any]) -> None:
    with pytest.raises(TypeError):
        canonical_key(value)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_settings_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_key({"a": value})


def test_saved_cells_come_back(tmp_path: Path) -> None:
    store = CellStore(tmp_path)
    assert store.load(KEY) is None
    assert not store.has(KEY)
    assert store.keys() == []
    store.save(KEY, PAYLOAD)
    fresh = CellStore(tmp_path)
    loaded = fresh.load(KEY)
    assert loaded is not None
    assert [Row.from_json(row) for row in loaded["rows"]] == ROWS
    assert loaded | {"rows": ROWS} == {**PAYLOAD, "key": KEY}
    assert fresh.rows() == ROWS
    assert fresh.keys() == [KEY]
    assert fresh.rows(["0" * 20, KEY]) == ROWS


@settings(max_examples=25)
@given(st.dictionaries(st.text(max_size=8), JSON, max_size=4), st.lists(st.floats(), max_size=3))
def test_any_payload_comes_back(inner: dict[str, Any], values: list[float]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = CellStore(Path(folder))
        rows = [Row(value=value) for value in values]
        store.save(KEY, {"settings": inner, "rows": rows, "version": "1"})
        loaded = store.load(KEY)
        assert loaded is not None
        assert loaded["settings"] == inner
        assert [repr(row.value) for row in store.rows()] == [repr(value) for value in values]


def test_a_cut_file_counts_as_missing_wherever_it_is_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = CellStore(tmp_path).save(KEY, PAYLOAD)
    whole = path.read_bytes()
    for length in [0, 1, 17, len(whole) // 2, len(whole) - 3]:
        path.write_bytes(whole[:length])
        store = CellStore(tmp_path)
        assert not store.has(KEY)
        assert store.load(KEY) is None
        assert store.keys() == []
        warning = capsys.readouterr().err
        assert warning.count("\n") == 1, "one line, once"
        assert path.name in warning
        assert "damaged" in warning
    store.save(KEY, PAYLOAD)
    assert CellStore(tmp_path).rows() == ROWS
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace(b'"value": 0.1', b'"value": 0.9'),
        lambda text: text.replace(b"4096", b"4097"),
        lambda text: text.replace(KEY.encode(), b"0" * 20),
        lambda text: text.replace(b'"sha256"', b'"sha255"'),
        lambda text: b"[]",
        lambda text: b"\xff\xfe" + text,
        lambda text: b"[" * 100_000,
        lambda text: b"null",
    ],
)
def test_a_changed_file_counts_as_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Any) -> None:
    path = CellStore(tmp_path).save(KEY, PAYLOAD)
    before = path.read_bytes()
    path.write_bytes(damage(before))
    assert path.read_bytes() != before
    assert not CellStore(tmp_path).has(KEY)
    assert path.name in capsys.readouterr().err


def test_a_key_that_is_none_never_becomes_a_path(tmp_path: Path) -> None:
    for key in ["../../etc/passwd", "", KEY.upper(), KEY + "0"]:
        with pytest.raises(ValueError, match="no cell key"):
            CellStore(tmp_path).save(key, PAYLOAD)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_payload_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    store = CellStore(tmp_path)
    with pytest.raises(ValueError, match="names cell"):
        store.save(KEY, {**PAYLOAD, "key": "0" * 20})
    with pytest.raises(TypeError):
        store.save(KEY, {**PAYLOAD, "rows": [{"model": "gdn", "colour": "red"}]})
    with pytest.raises(ValueError, match="JSON"):
        store.save(KEY, {**PAYLOAD, "settings": {"rate": math.nan}})
    assert not store.folder.exists() or list(store.folder.iterdir()) == []


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_an_error_while_saving_leaves_the_old_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    store = CellStore(tmp_path)
    store.save(KEY, PAYLOAD)

    def no_room(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, step, no_room)
    with pytest.raises(UserError, match=r"cannot write .*: No space left on device"):
        store.save(KEY, {**PAYLOAD, "rows": []})
    monkeypatch.undo()
    assert CellStore(tmp_path).rows() == ROWS
    assert [path.name for path in store.folder.iterdir()] == [f"{KEY}.json"]


def test_a_saved_cell_is_on_the_disk_with_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut leaves what was written, and the folder's entry for it, where both were synchronised."""
    synchronised: list[str] = []
    sync = files.os.fsync

    def noted(handle: int) -> None:
        synchronised.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        sync(handle)

    monkeypatch.setattr(files.os, "fsync", noted)
    CellStore(tmp_path).save(KEY, PAYLOAD)
    assert synchronised == ["file", "folder"]


def run_python(code: str, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), *arguments], stderr=subprocess.PIPE)


def test_a_process_killed_in_the_middle_of_saving_loses_only_that_cell(tmp_path: Path) -> None:
    first = canonical_key({"cell": 1})
    CellStore(tmp_path).save(first, PAYLOAD)
    code = """
        import os, signal, sys
        from pathlib import Path
        from fwpkm_eval import files
        from fwpkm_eval.runs.cells import CellStore
        out, key, step = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
        setattr(files.os, step, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        CellStore(out).save(key, {"settings": {}, "rows": [], "version": "x" * 100_000})
    """
    for step in ("fsync", "replace"):
        for key in (KEY, first):
            process = run_python(code, str(tmp_path), key, step)
            assert process.wait(timeout=30) == -9, process.communicate()[1].decode()
    store = CellStore(tmp_path)
    assert store.keys() == [first], "the finished cell is as it was, the other is not there"
    assert store.rows() == ROWS
    store.save(KEY, PAYLOAD)
    assert store.keys() == sorted([first, KEY])


def test_processes_that_save_the_same_cell_do_no_harm(tmp_path: Path) -> None:
    code = """
        import sys
        from pathlib import Path
        from fwpkm_eval.runs.cells import CellStore
        from fwpkm_eval.runs.rows import Row
        out, key, name = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
        store = CellStore(out)
        for _ in range(60):
            store.save(key, {"settings": {}, "rows": [Row(model=name, value=1.0)] * 50, "version": "1"})
            assert store.load(key) is not None, "never a mixture, never half"
    """
    processes = [run_python(code, str(tmp_path), KEY, name) for name in ("a", "b", "c")]
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors.decode()
        assert errors == b""
    rows = CellStore(tmp_path).rows()
    assert len(rows) == 50
    assert len({row.model for row in rows}) == 1
    assert os.listdir(tmp_path / "cells") == [f"{KEY}.json"]


def test_other_files_in_the_folder_are_no_cells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = CellStore(tmp_path)
    store.save(KEY, PAYLOAD)
    (store.folder / "notes.json").write_text("{}")
    (store.folder / f".{KEY}.json.123.ab.tmp").write_text("{")
    (store.folder / "README").write_text("")
    assert store.keys() == [KEY]
    assert capsys.readouterr().err == ""
