"""Cells on a real Ray cluster of this machine: the same rows as with local processes, and lost workers replaced."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cell_executors import count_threads, run_cell, tell_process

from fwpkm_eval.errors import UserError
from fwpkm_eval.runs.cells import Cell, CellStore
from fwpkm_eval.runs.engine import Job, Outcome, run_jobs

ray = pytest.importorskip("ray", reason="needs the extra cluster: pip install 'fwpkm-eval[cluster]'")


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        runtime_env={"env_vars": {"PYTHONPATH": paths}},
    )
    yield
    ray.shutdown()


def job(folder: Path, number: int, behaviour: str = "measure") -> Job:
    settings = {"number": number, "behaviour": behaviour, "log": str(folder / "log")}
    return Job(Cell("niah", "gdn", settings), f"cell {number}", work=10)


def run(folder: Path, jobs: list[Job], **options: Any) -> Outcome:
    from fwpkm_eval.runs.ray_crew import RayCrew

    return run_jobs(jobs, CellStore(folder), run_cell, workers=2, crew=RayCrew(run_cell), **options)


def log(folder: Path) -> Counter[str]:
    return Counter((folder / "log").read_text().splitlines())


def test_rows_are_those_of_local_processes(tmp_path: Path) -> None:
    from fwpkm_eval.runs.ray_crew import RayCrew

    (tmp_path / "ray").mkdir()
    (tmp_path / "local").mkdir()
    there = run(tmp_path / "ray", [job(tmp_path, number) for number in range(4)])
    here = run_jobs([job(tmp_path, number) for number in range(4)], CellStore(tmp_path / "local"), run_cell)
    assert there.keys == here.keys
    assert there.failures == []
    assert RayCrew(run_cell).room == 2
    assert CellStore(tmp_path / "ray").rows(there.keys) == CellStore(tmp_path / "local").rows(here.keys)
    assert ray.is_initialized()  # a cluster that was there before is left running


def test_a_cell_whose_worker_is_killed_midway_is_measured_by_another(tmp_path: Path) -> None:
    outcome = run(tmp_path, [job(tmp_path, 0, "die once"), job(tmp_path, 1), job(tmp_path, 2)])
    assert outcome.failures == []
    assert len(outcome.keys) == 3
    assert log(tmp_path) == {"cell 0": 2, "cell 1": 1, "cell 2": 1}


def test_what_goes_wrong_is_reported_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fwpkm_eval.runs import ray_crew

    monkeypatch.setattr(ray_crew, "RETRIES", 1)
    outcome = run(
        tmp_path, [job(tmp_path, 0, "die"), job(tmp_path, 1, "refuse"), job(tmp_path, 2, "break"), job(tmp_path, 3)]
    )
    reasons = {failure.job.label: failure.reason for failure in outcome.failures}
    assert reasons["cell 0"].startswith("its worker was lost 2 times")
    assert reasons["cell 1"] == "the settings do not fit"
    assert reasons["cell 2"] == "ValueError: a fault"
    assert outcome.keys == [job(tmp_path, 3).cell.key]
    assert log(tmp_path)["cell 0"] == 2


def test_what_is_timed_runs_while_nothing_else_does(tmp_path: Path) -> None:
    from fwpkm_eval.runs.ray_crew import RayCrew

    jobs = [replace(job(tmp_path, number), alone=number in (1, 2)) for number in range(5)]
    outcome = run_jobs(jobs, CellStore(tmp_path), tell_process, workers=2, crew=RayCrew(tell_process))
    assert len(outcome.keys) == 5
    lines = [line.partition(" in ")[0] for line in (tmp_path / "log").read_text().splitlines()]
    for number in (1, 2):
        assert lines.index(f"cell {number} ends") == lines.index(f"cell {number} begins") + 1


def test_one_thread_a_cell(tmp_path: Path) -> None:
    from fwpkm_eval.runs.ray_crew import RayCrew

    outcome = run_jobs([job(tmp_path, 0)], CellStore(tmp_path), count_threads, crew=RayCrew(count_threads))
    assert CellStore(tmp_path).rows(outcome.keys)[0].value == 1


def test_a_cluster_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from fwpkm_eval.runs import ray_crew

    def refuse(**options: Any) -> None:
        raise ConnectionError("Failed to connect to 10.0.0.1:6379\nand more")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(UserError, match=r"no Ray cluster at 10\.0\.0\.1:6379: Failed to connect") as error:
        ray_crew.RayCrew(run_cell)
    assert "\n" not in str(error.value)
