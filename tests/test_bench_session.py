"""A benchmark that is stopped goes on, and holds against one another only what one run has measured."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fwpkm_eval.bench import session
from fwpkm_eval.bench.code import PACKAGES
from fwpkm_eval.bench.session import Session

ROOT = Path(__file__).parents[1]
OURS, THEIRS = ({"what": "forward", "arm": arm, "threads": 1} for arm in ("ours", "theirs"))
PAIR = [(OURS, "default"), (THEIRS, "default")]


class Bench:
    """Runs sessions on a folder; ``done`` is what they measure as it is, ``said`` the lines of the latest."""

    def __init__(self, out: Path | None) -> None:
        self.out, self.done = out, list[str]()
        self.said: list[str] = []
        self.result: dict[str, Any] = {"seconds": [1.0]}

    def measure(self, job: Mapping[str, Any], allocator: str) -> dict[str, Any]:
        self.done.append(job["arm"])
        return self.result

    def run(self, *jobs: Mapping[str, Any], allocator: str = "default") -> list[dict[str, Any]]:
        """One run: a pair that belongs together, of which only these jobs are reached."""
        self.said, self.done = [], []
        one = Session(self.out, 2, self.said.append)
        one.together(PAIR)
        found = []
        for job in jobs:
            one.tell(job["arm"])
            found.append(one(job, allocator))
        return found


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    made = Bench(tmp_path)
    monkeypatch.setattr(session, "run_in_process_of_its_own", made.measure)
    return made


def test_what_is_finished_is_not_measured_again(bench: Bench) -> None:
    assert bench.run(OURS, THEIRS) == [{"seconds": [1.0]}] * 2
    assert bench.done == ["ours", "theirs"]
    assert bench.said == ["[1/2] ours", "[2/2] theirs  about 0:00 left"]
    assert bench.run(OURS, THEIRS) == [{"seconds": [1.0]}] * 2
    assert bench.done == []
    assert bench.said == ["[1/2] ours: found finished", "[2/2] theirs: found finished"]


def test_sides_of_a_ratio_are_of_one_run(bench: Bench, tmp_path: Path) -> None:
    bench.run(OURS)  # and stopped
    bench.run(OURS, THEIRS)
    assert bench.done == ["ours", "theirs"]
    assert bench.said[0] == "1 of 2 were measured by a run that was stopped: measured again"
    bench.run(OURS)
    assert bench.done == []
    # Both are there, but one was taken by a later run.
    cells = tmp_path / session.FOLDER / "cells"
    cells.rename(tmp_path / "aside")
    bench.run(THEIRS)
    for cell in (tmp_path / "aside").iterdir():
        there = cells / cell.name
        if not there.exists():
            cell.rename(there)
    bench.run(OURS, THEIRS)
    assert bench.done == ["ours", "theirs"]


@pytest.mark.parametrize("change", ["job", "allocator", "environment", "code", "versions"])
def test_what_can_change_a_measurement_is_in_its_key(
    bench: Bench, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.run(OURS, THEIRS)
    jobs, allocator = [OURS, THEIRS], "default"
    if change == "job":
        jobs = [{**job, "threads": 2} for job in jobs]
    elif change == "allocator":
        allocator = "tuned"
    elif change == "environment":
        monkeypatch.setenv("OMP_NUM_THREADS", "7")
    elif change == "code":
        monkeypatch.setattr(session, "code_hash", lambda: "of other code")
    else:
        monkeypatch.setattr(session, "versions", lambda: {"torch": "0"})
    bench.run(*jobs, allocator=allocator)
    assert bench.done == ["ours", "theirs"]


def test_the_code_of_linked_packages_is_in_its_hash(tmp_path: Path) -> None:
    """In a layout as a checkout has it, of the modules that it takes to hash it and two of each linked package."""
    package = tmp_path / "fwpkm_eval"
    (package / "bench").mkdir(parents=True)
    for name in ("__init__.py", "bench/__init__.py", "bench/code.py"):
        shutil.copy(ROOT / "fwpkm_eval" / name, package / name)
    linked = [name.rpartition(".")[2] for name in PACKAGES[1:]]
    assert {path.name for path in (ROOT / "fwpkm_eval").iterdir() if path.is_symlink()} == set(linked)
    for name in linked:
        (tmp_path / name / "inner").mkdir(parents=True)
        (package / name).symlink_to(Path("..") / name)
        for module in ("__init__.py", "inner/one.py"):
            (tmp_path / name / module).write_text("", encoding="utf-8")

    def found() -> str:
        code = "import fwpkm_eval.bench.code as c; print(c.__file__, c.code_hash())"
        return subprocess.run(
            [sys.executable, "-P", "-c", code],
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout

    hashes = [found()]
    assert hashes[0].startswith(str(package))
    assert found() == hashes[0]
    for name in linked:
        (tmp_path / name / "inner" / "one.py").write_text("changed = True\n", encoding="utf-8")
        hashes.append(found())
    assert len(set(hashes)) == 1 + len(linked)


@pytest.mark.parametrize("result", [{"failed": "no memory"}, {"errors": {"output": float("nan")}}])
def test_what_went_wrong_is_tried_again(bench: Bench, result: dict[str, Any]) -> None:
    bench.result = result
    for _ in range(2):
        bench.run(OURS, THEIRS)
        assert bench.done == ["ours", "theirs"]


def test_without_a_folder_nothing_is_kept(bench: Bench, tmp_path: Path) -> None:
    bench.out = None
    for _ in range(2):
        bench.run(OURS, THEIRS)
        assert bench.done == ["ours", "theirs"]
    assert list(tmp_path.iterdir()) == []
