"""The local engine: every cell once, stored when it is finished, whatever goes wrong with the others."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cell_executors import count_threads, run_cell, tell_process

from fwpkm_eval.errors import UserError
from fwpkm_eval.runs import engine
from fwpkm_eval.runs.cells import Cell, CellStore
from fwpkm_eval.runs.engine import Job, Outcome, run_jobs, usable_workers
from fwpkm_eval.runs.progress import Bar, Lines, Progress, Quiet


def job(folder: Path, number: int, behaviour: str = "measure") -> Job:
    settings = {"number": number, "behaviour": behaviour, "log": str(folder / "log")}
    return Job(Cell("niah", "gdn", settings), f"cell {number}", work=10)


def run(folder: Path, jobs: list[Job], **options: Any) -> Outcome:
    return run_jobs(jobs, CellStore(folder), run_cell, **options)


def log(folder: Path) -> list[str]:
    return (folder / "log").read_text().splitlines()


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_every_cell_is_run_once_and_stored_whatever_the_number_of_workers(tmp_path: Path, workers: int) -> None:
    jobs = [job(tmp_path, number) for number in range(4)]
    outcome = run(tmp_path, jobs, workers=workers)
    assert outcome.keys == [one.cell.key for one in jobs]
    assert outcome.failures == []
    assert sorted(log(tmp_path)) == [f"cell {number}" for number in range(4)]
    rows = CellStore(tmp_path).rows(outcome.keys)
    assert [row.value for row in rows] == [number / 3 for number in range(4)]


def test_a_second_run_does_only_what_is_missing(tmp_path: Path) -> None:
    jobs = [job(tmp_path, number) for number in range(3)]
    run(tmp_path, jobs[:2])
    CellStore(tmp_path).path(jobs[0].cell.key).write_text("cut sho")
    outcome = run(tmp_path, [*jobs, jobs[2]], workers=2)
    assert outcome.found_finished == 1
    assert outcome.keys == [one.cell.key for one in jobs]
    assert sorted(log(tmp_path)) == ["cell 0", "cell 0", "cell 1", "cell 2"]
    assert run(tmp_path, jobs).found_finished == 3
    assert len(log(tmp_path)) == 4


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("behaviour", "reason", "has_details"),
    [
        ("die", "its process was ended by SIGKILL; the memory may have run out", False),
        ("exit", "its process ended with exit code 7", False),
        ("refuse", "the settings do not fit", False),
        ("break", "ValueError: a fault", True),
    ],
)
def test_what_goes_wrong_is_reported_and_the_others_go_on(
    tmp_path: Path, workers: int, behaviour: str, reason: str, has_details: bool
) -> None:
    jobs = [job(tmp_path, 0), job(tmp_path, 1, behaviour), job(tmp_path, 2), job(tmp_path, 3)]
    outcome = run(tmp_path, jobs, workers=workers)
    (failure,) = outcome.failures
    assert failure.job.label == "cell 1"
    assert failure.reason == reason
    assert ("run_cell" in failure.details) == has_details
    assert outcome.keys == [jobs[0].cell.key, jobs[2].cell.key, jobs[3].cell.key]
    # What failed is tried again, what is finished is not.
    assert run(tmp_path, jobs, workers=workers).failures[0].reason == reason
    assert sorted(log(tmp_path)) == ["cell 0", "cell 1", "cell 1", "cell 2", "cell 3"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the data of a process")
@pytest.mark.parametrize("behaviour", ["large", "large tensor"])
def test_a_cell_that_needs_more_memory_than_it_may_fails_alone(tmp_path: Path, behaviour: str) -> None:
    jobs = [job(tmp_path, 0), job(tmp_path, 1, behaviour), job(tmp_path, 2)]
    outcome = run(tmp_path, jobs, memory_limit=2**30)
    (failure,) = outcome.failures
    assert failure.reason == "it needs more than the memory limit of 1 GiB"
    assert outcome.keys == [jobs[0].cell.key, jobs[2].cell.key]


def test_a_gpu_that_is_full_is_not_put_down_to_the_limit(tmp_path: Path) -> None:
    """Which is of the process's own memory."""
    outcome = run(tmp_path, [replace(job(tmp_path, 0, "full GPU"), device="cuda")], memory_limit=2**32)
    (failure,) = outcome.failures
    assert failure.reason == "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."


def test_a_job_that_is_timed_is_alone(tmp_path: Path) -> None:
    jobs = [job(tmp_path, number) for number in range(6)]
    jobs = [replace(one, alone=number in (0, 3)) for number, one in enumerate(jobs)]
    outcome = run_jobs(jobs, CellStore(tmp_path), tell_process, workers=3)
    assert outcome.keys == [one.cell.key for one in jobs]
    lines = [line.partition(" in ")[0] for line in log(tmp_path)]
    for number in (0, 3):
        assert lines.index(f"cell {number} ends") == lines.index(f"cell {number} begins") + 1
    together = [line for line in lines if not line.startswith(("cell 0", "cell 3"))]
    assert together != sorted(together), "the others share the machine"


@pytest.mark.parametrize(
    ("device", "behaviour", "goes_on"), [("cuda", "break", False), ("cuda", "refuse", True), ("cpu", "break", True)]
)
def test_after_a_fault_on_a_gpu_a_process_gets_no_more_jobs(
    device: str, behaviour: str, goes_on: bool, tmp_path: Path
) -> None:
    """What it has there may be broken: every job after would fail within a moment."""
    jobs = [job(tmp_path, 0), job(tmp_path, 1, behaviour), job(tmp_path, 2)]
    outcome = run_jobs([replace(one, device=device) for one in jobs], CellStore(tmp_path), tell_process)
    assert len(outcome.failures) == 1
    assert len(outcome.keys) == 2
    first, failed, last = (line.partition(" ends in ")[2] for line in log(tmp_path) if " ends " in line)
    assert first == failed
    assert (last == failed) == goes_on


def test_every_cell_may_fail(tmp_path: Path) -> None:
    outcome = run(tmp_path, [job(tmp_path, number, "die") for number in range(3)], workers=2)
    assert len(outcome.failures) == 3
    assert outcome.keys == []


def test_a_result_that_cannot_be_stored_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: CellStore, key: str, payload: Any) -> Path:
        raise UserError("cannot write: no space left on device")

    monkeypatch.setattr(CellStore, "save", full)
    with pytest.raises(UserError, match="no space left"):
        run(tmp_path, [job(tmp_path, 0), job(tmp_path, 1, "sleep")], workers=2)


def test_one_thread_a_worker_unless_told_otherwise(tmp_path: Path) -> None:
    def threads(number: int, **options: Any) -> float | None:
        outcome = run_jobs([job(tmp_path, number)], CellStore(tmp_path), count_threads, **options)
        return CellStore(tmp_path).rows(outcome.keys)[0].value

    assert threads(0) == 1
    assert threads(1, threads=2) == 2


def test_the_number_of_workers() -> None:
    cores = len(os.sched_getaffinity(0))
    assert usable_workers(1000) == cores
    assert usable_workers(1) == 1
    assert usable_workers(0) == 1
    assert usable_workers(1000, device="cuda") == 1


# A shell's background jobs ignore interrupts, and so do all that they start: the test must not depend on who starts it.
INTERRUPTED = """
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from cell_executors import run_cell
from fwpkm_eval.runs.cells import Cell, CellStore
from fwpkm_eval.runs.engine import Job, run_jobs

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    folder = Path(sys.argv[1])
    jobs = [
        Job(Cell("niah", "gdn", {"number": n, "behaviour": b, "log": str(folder / "log")}), f"cell {n}", 1)
        for n, b in enumerate(["measure", "sleep", "sleep"])
    ]
    run_jobs(jobs, CellStore(folder), run_cell, workers=2)
"""


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_stopped_keeps_its_finished_cells_and_leaves_no_process(
    tmp_path: Path, sent: signal.Signals
) -> None:
    script = tmp_path / "interrupted.py"
    script.write_text(INTERRUPTED)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)],
        env=environment,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    _wait_until(lambda: (tmp_path / "log").exists() and len(log(tmp_path)) == 3)
    _wait_until(lambda: len(CellStore(tmp_path).keys()) == 1)
    workers = _children(process.pid)
    assert len(workers) >= 2
    if sent == signal.SIGINT:
        os.killpg(process.pid, sent)  # as a terminal does: to the workers, too
    else:
        process.kill()
    _, errors = process.communicate(timeout=50)  # well under the 60 s of the cells, on however slow a machine
    if sent == signal.SIGINT:
        assert errors.decode().rstrip().endswith("KeyboardInterrupt")
    _wait_until(lambda: not any(_alive(worker) for worker in workers))
    assert len(CellStore(tmp_path).keys()) == 1
    assert not [path for path in (tmp_path / "cells").iterdir() if path.suffix != ".json"]


def _children(pid: int) -> list[int]:
    there = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
    return [one for one in there if _state_and_parent(one)[1] == str(pid)]


def _alive(pid: int) -> bool:
    return _state_and_parent(pid)[0] not in ("", "Z")


def _state_and_parent(pid: int) -> tuple[str, str]:
    """Read here, since a slim machine has no `ps`; ("", "") of a process that is gone."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[:2]
    except OSError:
        return "", ""
    return state, parent


def _wait_until(condition: Any, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.05)


def test_lines_say_what_is_done_how_fast_and_what_failed(tmp_path: Path) -> None:
    shown = io.StringIO()
    jobs = [job(tmp_path, 0), job(tmp_path, 1, "refuse")]
    run(tmp_path, jobs, progress=Lines(shown))
    lines = shown.getvalue().splitlines()
    assert lines[0] == "2 cells to run"
    assert lines[1].startswith("[1/2]")
    assert "cell 0" in lines[1]
    assert lines[2].startswith("[2/2]")
    assert lines[2].endswith("failed: cell 1: the settings do not fit")
    run(tmp_path, jobs[:1], progress=Lines(shown))
    assert shown.getvalue().splitlines()[3] == "0 cells to run, 1 found finished"


def test_progress_tells_every_token_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []

    class Heard(Quiet):
        def advance(self, tokens: int) -> None:
            told.append(tokens)

    jobs = [replace(job(tmp_path, number), work=1000 * (number + 1)) for number in range(3)]
    run(tmp_path, jobs, workers=2, progress=Heard())
    assert sum(told) == 6000, "also what was read just before a cell was done"

    sent: list[tuple[str, int]] = []
    monkeypatch.setattr(engine, "SECONDS_BETWEEN_REPORTS", -1.0)
    reporter = engine._Reporter(SimpleNamespace(send=sent.append))  # type: ignore[arg-type]
    for tokens in (5, 7):
        reporter(tokens)
    reporter.send()
    assert sent == [("tokens", 5), ("tokens", 7)]


@pytest.mark.parametrize(
    ("seconds", "told"), [(2.0, "2.0K tokens/s  0:02 left"), (80.0, "51 tokens/s  1:20 left")], ids=["fast", "slow"]
)
def test_progress_has_a_rate_and_the_time_left(seconds: float, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    shown = io.StringIO()
    lines = Lines(shown)
    lines.start(2, 8192, 0)
    now[0] = seconds
    lines.advance(4096)
    lines.finished("half of it", seconds)
    assert told in shown.getvalue()


@pytest.mark.parametrize("progress", [Quiet, Lines, Bar])
def test_a_fault_of_the_program_is_told_of_with_its_traceback(
    tmp_path: Path, progress: Callable[[], Progress], capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, [job(tmp_path, 0, "break")], progress=progress())
    told = capsys.readouterr().err
    assert told.count("failed: cell 0: ValueError: a fault\nTraceback (most recent call last):\n") == 1
    assert "run_cell" in told
