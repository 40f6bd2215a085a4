"""Several processes on one output folder, and a run cut into parts: every cell is measured once, none is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from cell_executors import run_cell
from hypothesis import given
from hypothesis import strategies as st

from fwpkm_eval.errors import UserError
from fwpkm_eval.runs.cells import Cell, CellStore
from fwpkm_eval.runs.claims import Claims
from fwpkm_eval.runs.engine import Job, run_jobs
from fwpkm_eval.runs.shards import Shard, parse_shard

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX locks")

RUN = """
import sys
from pathlib import Path
from cell_executors import run_cell
from fwpkm_eval.runs.cells import Cell, CellStore
from fwpkm_eval.runs.engine import Job, run_jobs

if __name__ == "__main__":
    folder, behaviour = Path(sys.argv[1]), sys.argv[2]
    settings = [{"number": n, "behaviour": behaviour, "log": str(folder / "log")} for n in range(int(sys.argv[3]))]
    jobs = [Job(Cell("niah", "gdn", one), f"cell {one['number']}", 1) for one in settings]
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

    one, other = "0" * 19 + "1", "f" * 20
    with Claims(tmp_path) as claims:
        assert claims.take(one)
        assert others_get(one, other) == "[False, True]"
        claims.release(one)
        assert others_get(one) == "[True]"
        assert claims.take(one)
        # One that goes home does not take the file from under those who still work.
        assert (tmp_path / ".claims").exists()
        assert others_get(one) == "[False]"
    assert not (tmp_path / ".claims").exists()
    assert others_get(one) == "[True]"


def test_a_folder_that_cannot_be_locked_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with Claims(tmp_path / "file" / "below") as claims:
        assert claims.take("0" * 20)
        claims.release("0" * 20)


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
