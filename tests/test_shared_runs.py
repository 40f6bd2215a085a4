"""Several processes on one output folder, and a run cut into parts: every cell is measured once, none is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cell_executors import run_cell
from hypothesis import given
from hypothesis import strategies as st

from fwpkm_eval.commands.measure import Measured, conclude, run_cells
from fwpkm_eval.commands.options import Given
from fwpkm_eval.errors import UserError
from fwpkm_eval.runs.cells import Cell, CellStore
from fwpkm_eval.runs.claims import Claims
from fwpkm_eval.runs.engine import Agenda, Event, Job, run_jobs
from fwpkm_eval.runs.manifest import update_manifest
from fwpkm_eval.runs.rows import Row, read_rows_csv
from fwpkm_eval.runs.shards import Shard, parse_shard

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX locks")

RUN = """
import sys
from pathlib import Path
from cell_executors import run_cell, tell_process
from fwpkm_eval.runs.cells import Cell, CellStore
from fwpkm_eval.runs.engine import Job, run_jobs

if __name__ == "__main__":
    folder, behaviour = Path(sys.argv[1]), sys.argv[2]
    settings = [{"number": n, "behaviour": behaviour, "log": str(folder / "log")} for n in range(int(sys.argv[3]))]
    jobs = [Job(Cell("niah", "gdn", one), f"cell {one['number']}", 1) for one in settings]
    if behaviour == "timed":
        jobs = [Job(job.cell, job.label, 1, alone=number % 2 == 1) for number, job in enumerate(jobs)]
        outcome = run_jobs(jobs, CellStore(folder), tell_process, workers=2)
    else:
        outcome = run_jobs(jobs, CellStore(folder), run_cell)
    print(len(outcome.keys), len(outcome.failures))
"""


def start(folder: Path, behaviour: str, cells: int) -> subprocess.Popen[str]:
    script = folder / "run.py"
    script.write_text(RUN)
    paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        [sys.executable, str(script), str(folder), behaviour, str(cells)],
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def who_holds_it(folder: Path) -> str:
    """Asked by another process: whether one is writing the results in the folder now."""
    ask = (
        "import fcntl, sys; from fwpkm_eval.runs import claims\n"
        "handle = open(sys.argv[1] + '/.claims', 'r+')\n"
        "try: fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, claims._RESULTS)\n"
        "except BlockingIOError: print('another')\n"
        "else: print('nobody')"
    )
    command = [sys.executable, "-c", ask, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def jobs(folder: Path, count: int, behaviour: str = "measure") -> list[Job]:
    settings = [{"number": n, "behaviour": behaviour, "log": str(folder / "log")} for n in range(count)]
    return [Job(Cell("niah", "gdn", one), f"cell {one['number']}", 1) for one in settings]


def log(folder: Path) -> list[str]:
    path = folder / "log"
    return path.read_text().splitlines() if path.exists() else []


def test_two_runs_on_one_folder_share_the_work(tmp_path: Path) -> None:
    runs = [start(tmp_path, "slow", 5), start(tmp_path, "slow", 5)]
    assert [run.communicate(timeout=60)[0] for run in runs] == ["5 0\n", "5 0\n"]
    assert Counter(log(tmp_path)) == {f"cell {number}": 1 for number in range(5)}
    assert len(CellStore(tmp_path).keys()) == 5
    assert not (tmp_path / ".claims").exists()


def test_what_is_timed_is_alone_beside_other_runs_too(tmp_path: Path) -> None:
    runs = [start(tmp_path, "timed", 8), start(tmp_path, "timed", 8)]
    assert [run.communicate(timeout=60)[0] for run in runs] == ["8 0\n", "8 0\n"]
    lines = [line.partition(" in ")[0] for line in log(tmp_path)]
    assert len(lines) == 16
    for number in (1, 3, 5, 7):
        assert lines.index(f"cell {number} ends") == lines.index(f"cell {number} begins") + 1


def test_what_a_killed_run_had_taken_is_done_by_the_other(tmp_path: Path) -> None:
    run = start(tmp_path, "slow", 2)
    end = time.monotonic() + 30
    while not log(tmp_path):
        assert time.monotonic() < end
        time.sleep(0.02)
    run.send_signal(signal.SIGKILL)
    run.communicate(timeout=20)
    outcome = run_jobs(jobs(tmp_path, 2, "slow"), CellStore(tmp_path), run_cell)
    assert len(outcome.keys) == 2
    assert Counter(log(tmp_path)) == {"cell 0": 2, "cell 1": 1}


def test_a_claim_excludes_others_until_it_is_given_back(tmp_path: Path) -> None:
    ask = (
        "import sys; from pathlib import Path; from fwpkm_eval.runs.claims import Claims\n"
        "claims = Claims(Path(sys.argv[1])); print([claims.take(key) for key in sys.argv[2:]]); claims.close()"
    )

    def others_get(*keys: str) -> str:
        command = [sys.executable, "-c", ask, str(tmp_path), *keys]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    # Keys that begin alike, and keys that end alike, are different cells.
    one, other, near, far = "0" * 19 + "1", "f" * 20, "0" * 19 + "2", "f" * 14 + "0" * 5 + "1"
    with Claims(tmp_path) as claims:
        assert claims.take(one)
        assert others_get(one, other, near, far) == "[False, True, True, True]"
        claims.release(one)
        assert others_get(one) == "[True]"
        assert claims.take(one)
        # One that goes home does not take the file from under those who still work.
        assert (tmp_path / ".claims").exists()
        assert others_get(one) == "[False]"
    assert not (tmp_path / ".claims").exists()
    assert others_get(one) == "[True]"


def test_a_claim_on_a_file_that_was_just_removed_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the last who goes home does, between the opening of the file and its first lock."""
    import fcntl

    lock = fcntl.lockf
    removed: list[Path] = []

    def remove(handle: int, *how: int) -> None:
        if not removed:
            removed.append(tmp_path / ".claims")
            removed[0].unlink()
        lock(handle, *how)

    monkeypatch.setattr(fcntl, "lockf", remove)
    with Claims(tmp_path) as claims:
        assert removed
        assert claims.take("0" * 20)
        assert (tmp_path / ".claims").exists()
        assert who_holds_it(tmp_path) == "nobody"
        with claims.writing_results():
            assert who_holds_it(tmp_path) == "another"


def test_a_folder_that_cannot_be_locked_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with Claims(tmp_path / "file" / "below") as claims:
        assert claims.take("0" * 20)
        claims.release("0" * 20)
        with claims.writing_results():
            pass


@given(of=st.integers(1, 9), count=st.integers(0, 30))
def test_shards_are_a_partition(of: int, count: int) -> None:
    everything = [Job(Cell("niah", "gdn", {"number": n}), str(n), 1) for n in range(count)]
    parts = [parse_shard(f"{number}/{of}").select(everything) for number in range(1, of + 1)]
    assert sorted(job.label for part in parts for job in part) == sorted(job.label for job in everything)
    # Where a cell belongs does not depend on the others.
    assert all(part == [job for job in everything if job in part] for part in parts)


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "a/b", "1/2/3", "-1/2", "1/0", "1/9999999", "½/2"])
def test_what_is_no_shard_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(UserError, match=r"parts are named 1/4, 2/4") as error:
        parse_shard(text)
    assert "\n" not in str(error.value)


def test_the_parts_of_a_run_make_the_whole(tmp_path: Path) -> None:
    everything = jobs(tmp_path, 6)
    for number in (1, 2, 3):
        run_jobs(Shard(number, 3).select(everything), CellStore(tmp_path), run_cell)
    assert Counter(log(tmp_path)) == {f"cell {number}": 1 for number in range(6)}
    assert sorted(CellStore(tmp_path).keys()) == sorted(job.cell.key for job in everything)


PART = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
from fwpkm_eval.commands import measure
from fwpkm_eval.commands.options import Given
from fwpkm_eval.runs import rows
from fwpkm_eval.runs.cells import Cell
from fwpkm_eval.runs.engine import Job
from fwpkm_eval.runs.shards import Shard

out, number, waits = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "waits"
jobs = [Job(Cell("fake", "m", {"number": n}), str(n), 1) for n in range(8)]

class Crew:
    def run(self, agenda, workers):
        while job := agenda.next():
            yield job, ({"settings": {}, "rows": [rows.Row(metric="x", value=float(job.label))], "version": "1"}, 0.0)

    def stop(self):
        pass

def write(found, path):
    (out / "read").touch()
    end = time.monotonic() + 3
    while waits and not (out / "ended").exists() and time.monotonic() < end:
        time.sleep(0.05)
    return whole(found, path)

whole, rows.write_rows_csv = rows.write_rows_csv, write
given = Given("embedded", 0, "cpu", "float32", out, True, False, shard=Shard(number, 2))
done = measure.run_cells(jobs, given, config={"command": "x"}, models=[], texts=[], crew=Crew())
(out / "ended").touch()
print(len(done.outcome.keys), done.outcome.missing)
"""


def test_parts_that_end_together_lose_nothing(tmp_path: Path) -> None:
    """The first has read the cells that there are, and is slow to write what is made of them."""
    script, out = tmp_path / "part.py", tmp_path / "out"
    script.write_text(PART)

    def part(*arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, str(script), str(out), *arguments], stdout=subprocess.PIPE, text=True)

    first = part("2", "waits")
    end = time.monotonic() + 60
    while not (out / "read").exists():
        assert time.monotonic() < end
        time.sleep(0.02)
    second = part("1", "does not")
    told = [sum(map(int, run.communicate(timeout=60)[0].split())) for run in (first, second)]
    assert told == [8, 8], "cells that are there, and those left to others"
    manifest = json.loads((out / "manifest.json").read_text())
    assert sorted(manifest["cells"]) == CellStore(out).keys()
    assert len(manifest["cells"]) == 8
    assert manifest["finished"]
    assert len(read_rows_csv(out / "rows.csv")) == 8
    assert not (out / ".claims").exists()


class _Crew:
    """Measures in this process; `log` gets the labels."""

    def __init__(self, meanwhile: Callable[[], object]) -> None:
        self.log: list[str] = []
        self.meanwhile = meanwhile

    def run(self, agenda: Agenda, workers: int) -> Iterator[tuple[Job, Event]]:
        self.meanwhile()
        while job := agenda.next():
            self.log.append(job.label)
            row = Row(metric="x", value=float(job.cell.settings["number"]))
            yield job, ({"settings": {}, "rows": [row], "version": "1"}, 0.0)

    def stop(self) -> None:
        pass


def numbered(count: int) -> list[Job]:
    """Jobs whose keys, and so their parts, are the same in every folder."""
    return [Job(Cell("niah", "gdn", {"number": n}), f"cell {n}", 1) for n in range(count)]


def run_as(
    config: dict[str, Any], out: Path, everything: list[Job], meanwhile: Callable[[], object] = lambda: None
) -> Measured:
    """The whole of a run, as one that measures in this process."""
    given = Given("embedded", 0, "cpu", "float32", out, True, False)
    return run_cells(everything, given, config=config, models=[], texts=[], crew=_Crew(meanwhile))


def run_part(
    out: Path, number: int, of: int, everything: list[Job], meanwhile: Callable[[], object] = lambda: None
) -> tuple[Measured, list[str]]:
    given = Given("embedded", 0, "cpu", "float32", out, True, False, shard=Shard(number, of))
    crew = _Crew(meanwhile)
    measured = run_cells(everything, given, config={"command": "x"}, models=[], texts=[], crew=crew)
    return measured, crew.log


def test_a_part_that_shows_its_rows_late_reports_those_of_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its report, and rows.csv with it, is made of what the run has by then."""
    everything = numbered(6)
    early, log = run_part(tmp_path, 1, 2, everything)
    assert 0 < len(log) < 6
    run_part(tmp_path, 2, 2, everything)
    given = Given("embedded", 0, "cpu", "float32", tmp_path, True, False)
    conclude(early, given, lambda rows: None)
    capsys.readouterr()
    assert {row.value for row in read_rows_csv(tmp_path / "rows.csv")} == set(map(float, range(6)))
    assert "cells are finished" not in (tmp_path / "report.html").read_text()


def test_timed_cells_are_of_every_part_and_of_the_machine_that_wrote_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their keys differ from machine to machine: cut by them, a model might be timed by no part, or by two machines."""
    plain = numbered(6)

    def on(machine: str) -> list[Job]:
        monkeypatch.setattr("fwpkm_eval.runs.manifest.machine", lambda device="cpu": {"processor": machine, "cores": 2})
        cells = [Cell("cost", "gdn", {"number": n, "machine": machine}) for n in (10, 11, 12)]
        return plain + [Job(cell, f"{machine} {cell.settings['number']}", 1, alone=True) for cell in cells]

    for number, machine in ((1, "one"), (2, "other")):
        measured, log = run_part(tmp_path, number, 2, on(machine))
        assert {label for label in log if "cell" not in label} == {f"{machine} {n}" for n in (10, 11, 12)}
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["finished"]
    assert manifest["device"]["processor"] == "other"
    assert manifest["cells"] == [job.cell.key for job in on("other")]
    everything = on("one")
    measured, log = run_part(
        tmp_path, 1, 2, everything, lambda: update_manifest(tmp_path, device={"processor": "other"})
    )
    assert (log, measured.outcome.missing) == ([], 0), "another machine's are kept for when it goes on"
    assert json.loads((tmp_path / "manifest.json").read_text())["device"]["processor"] == "one"
