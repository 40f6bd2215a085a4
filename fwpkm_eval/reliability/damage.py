"""Damaged and hostile input: each is refused in one line with exit code 2, or repaired with the same rows."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fwpkm_eval.reliability.runs import command_line, compare, expected_of, must_succeed, run_to_the_end, values_of

BOMB_MEGABYTES = 400


@dataclass(frozen=True)
class Case:
    """A name, what is to come of it ("refused" or "repaired"), and what makes it.

    make(folder) prepares input below a folder that holds a checkpoint in ``model``, a data folder in ``data`` and, if
    on_a_run, a finished small run in ``run``; it returns the arguments of the command that meets it.
    """

    name: str
    expected: str
    make: Callable[[Path], list[str]]
    on_a_run: bool = False


@dataclass(frozen=True)
class Verdict:
    """One case: whether it ended as expected, and what was said."""

    case: Case
    passed: bool
    said: str


def try_all(folder: Path, model: Path, progress: Callable[[str], None] = lambda line: None) -> list[Verdict]:
    """Every case of `CASES`, each on its own copy of the checkpoint ``model`` and of some text."""
    base = folder / "base"
    shutil.copytree(model, base / "model")
    (base / "data" / "notes").mkdir(parents=True)
    lines = [json.dumps({"text": f"Note {number}: " + "memory " * 60}) for number in range(3)]
    (base / "data" / "notes" / "test.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    verdicts = []
    for number, case in enumerate(CASES):
        verdicts.append(_try(case, base, folder / f"case-{number}"))
        progress(f"damaged inputs: {sum(v.passed for v in verdicts)} of {len(verdicts)} as they should be")
    return verdicts


def _try(case: Case, base: Path, here: Path) -> Verdict:
    shutil.copytree(base, here)
    if case.on_a_run:
        must_succeed(run_to_the_end(command_line(*_measure(here))))
    before = expected_of(here / "run") if case.on_a_run else None
    arguments = case.make(here)
    done = run_to_the_end(command_line(*arguments))
    lines = done.said.strip().splitlines()
    if case.expected == "repaired":
        passed = done.code == 0 and before is not None and compare(before, values_of(here / "run")).none
    else:
        passed = done.code == 2 and len(lines) == 1 and lines[0].startswith("error: ")
    # What a pickle would do when it is read.
    passed = passed and not (here / "executed").exists()
    shutil.rmtree(here, ignore_errors=True)
    return Verdict(case, passed, lines[-1] if lines else f"exit code {done.code}")


def _measure(folder: Path, model: str = "model", data: str = "data") -> list[str]:
    where = ["--model", str(folder / model), "--data", str(folder / data), "--out", str(folder / "run")]
    return ["ppl", *where, "--tokens", "256", "--quiet"]


class _Trap:
    """A pickle of this makes the folder that says it was executed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder / "executed"),)


def _a_cell(folder: Path) -> Path:
    return sorted((folder / "run" / "cells").glob("*.json"))[0]


def _rows(folder: Path) -> Path:
    return folder / "run" / "rows.csv"


def _manifest(folder: Path) -> Path:
    return folder / "run" / "manifest.json"


def _cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _flip(path: Path, share: float = 0.9) -> None:
    content = bytearray(path.read_bytes())
    content[int(len(content) * share)] ^= 0x10
    path.write_bytes(content)


def _damaged(change: Callable[[Path], None], which: Callable[[Path], Path]) -> Callable[[Path], list[str]]:
    """The command of the finished run, after one of its files was changed."""

    def make(folder: Path) -> list[str]:
        change(which(folder))
        return _measure(folder)

    return make


def _new_run(make: Callable[[Path], None]) -> Callable[[Path], list[str]]:
    """A new run on input that was changed."""

    def prepare(folder: Path) -> list[str]:
        make(folder)
        return _measure(folder)

    return prepare


def _data(content: bytes, name: str = "test.jsonl") -> Callable[[Path], list[str]]:
    def make(folder: Path) -> None:
        (folder / "data" / "notes" / "test.jsonl").unlink()
        (folder / "data" / "notes" / name).write_bytes(content)

    return _new_run(make)


def _pickled_model(folder: Path) -> list[str]:
    (folder / "model.pt").write_bytes(pickle.dumps(_Trap(folder)))
    return _measure(folder, model="model.pt")


def _pickled_weights(folder: Path) -> None:
    (folder / "model" / "model.safetensors").write_bytes(pickle.dumps(_Trap(folder)))


def _other_sizes(folder: Path) -> None:
    path = folder / "model" / "model.json"
    description = json.loads(path.read_text(encoding="utf-8"))
    description["config"]["backbone"]["hidden"] *= 2
    path.write_text(json.dumps(description), encoding="utf-8")


def _other_run(folder: Path) -> list[str]:
    arguments = _measure(folder)
    arguments[arguments.index("256")] = "128"
    return arguments


def _report_of_cut_rows(folder: Path) -> list[str]:
    shutil.rmtree(folder / "run" / "cells")  # or the rows would be taken from there
    path = _rows(folder)
    path.write_bytes(path.read_bytes()[:-25])
    return ["report", str(folder / "run")]


def _out_is_a_file(folder: Path) -> list[str]:
    (folder / "run").write_text("here first", encoding="utf-8")
    return _measure(folder)


def _escape(folder: Path) -> None:
    secret = folder / "elsewhere.jsonl"
    secret.write_text('{"text": "not part of the data"}\n', encoding="utf-8")
    path = folder / "data" / "notes" / "test.jsonl"
    path.unlink()
    path.symlink_to(secret)


def _bomb() -> bytes:
    line = b'{"text": "' + b" " * (BOMB_MEGABYTES * 2**20) + b'"}\n'
    return gzip.compress(line, compresslevel=9)


def _weights(folder: Path) -> Path:
    return folder / "model" / "model.safetensors"


def _text(*texts: str) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


def _bomb_data(folder: Path) -> list[str]:
    return _data(_bomb(), "test.jsonl.gz")(folder)


CASES = (
    Case("a cell cut short", "repaired", _damaged(_cut, _a_cell), on_a_run=True),
    Case("a cell with one bit changed", "repaired", _damaged(_flip, _a_cell), on_a_run=True),
    Case("an empty cell", "repaired", _damaged(_empty, _a_cell), on_a_run=True),
    Case(
        "a missing rows.csv",
        "repaired",
        _damaged(Path.unlink, _rows),
        on_a_run=True,
    ),
    Case(
        "a manifest cut short",
        "refused",
        _damaged(_cut, _manifest),
        on_a_run=True,
    ),
    Case("rows.csv cut short, for a report", "refused", _report_of_cut_rows, on_a_run=True),
    Case("a folder that holds another run", "refused", _other_run, on_a_run=True),
    Case("a file in the place of the folder", "refused", _out_is_a_file),
    Case("weights cut short", "refused", _new_run(lambda folder: _cut(_weights(folder)))),
    Case("weights with one bit changed", "refused", _new_run(lambda folder: _flip(_weights(folder)))),
    Case("weights that are a pickle", "refused", _new_run(_pickled_weights)),
    Case("a pickle in the place of a checkpoint", "refused", _pickled_model),
    Case("a description of another model", "refused", _new_run(_other_sizes)),
    Case("a description cut short", "refused", _new_run(lambda folder: _cut(folder / "model" / "model.json"))),
    Case("text that is not UTF-8", "refused", _data(b'{"text": "\xff\xfe"}\n')),
    Case("a line that is no JSON", "refused", _data(_text("fine") + b'{"text": \n')),
    Case("an empty document", "refused", _data(_text("fine", ""))),
    Case("a document that is a number", "refused", _data(b'{"text": 7}\n')),
    Case("an empty file", "refused", _data(b"")),
    Case("an archive cut short", "refused", _data(gzip.compress(_text("fine " * 999))[:-9], "test.jsonl.gz")),
    Case(f"{BOMB_MEGABYTES} MB in an archive of less than one", "refused", _bomb_data),
    Case("a link out of the data folder", "refused", _new_run(_escape)),
)
