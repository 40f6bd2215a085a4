"""A plan cut to the time there is: whole groups, the telling ones first, within the estimate."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fwpkm_eval import cli
from fwpkm_eval.durations import parse_duration
from fwpkm_eval.errors import UserError
from fwpkm_eval.reference_models.config import model_config
from fwpkm_eval.runs.budget import _groups, cut_to
from fwpkm_eval.runs.engine import Job
from fwpkm_eval.runs.jobs import ModelSource
from fwpkm_eval.runs.plan import PLANS, estimated_total, plan_run

PLAN = PLANS["micro"]
MODELS = [ModelSource(Path(name), model_config(name), name) for name in PLAN.models]
JOBS = plan_run(PLAN, MODELS).jobs
WHOLE = estimated_total(PLAN, JOBS, 2)


def shared(job: Job) -> tuple[object, ...]:
    task = job.cell.settings["task"]
    if job.cell.task == "niah":
        return (job.cell.task, task["lengths"], task["needles"])
    return (job.cell.task, job.cell.settings["data"]["name"])


@settings(max_examples=25)
@given(share=st.floats(0.02, 1.5), workers=st.integers(1, 4))
def test_what_is_kept_fits_and_no_group_is_torn(share: float, workers: int) -> None:
    seconds = WHOLE * share
    try:
        cut = cut_to(PLAN, JOBS, seconds, workers)
    except UserError:
        assume(False)
    assert estimated_total(PLAN, cut.jobs, workers) <= seconds
    assert len(cut.jobs) + cut.left_out == len(JOBS)
    kept, left = {job.cell.key for job in cut.jobs}, [job for job in JOBS if job not in cut.jobs]
    assert not {shared(job) for job in cut.jobs} & {shared(job) for job in left}
    assert [job.cell.key for job in JOBS if job.cell.key in kept] == [job.cell.key for job in cut.jobs]


def test_a_long_budget_keeps_everything() -> None:
    cut = cut_to(PLAN, JOBS, WHOLE + 1, 2)
    assert cut.jobs == JOBS
    assert cut.left_out == 0


def test_the_first_needles_come_before_perplexity_and_long_haystacks_last() -> None:
    first = [job for job in JOBS if shared(job) == ("niah", (4096,), (5,))]
    seconds = estimated_total(PLAN, first, 2)
    assert {shared(job) for job in cut_to(PLAN, JOBS, seconds + 0.1, 2).jobs} >= {("niah", (4096,), (5,))}
    most = cut_to(PLAN, JOBS, WHOLE * 0.75, 2).jobs
    assert {job.cell.task for job in most} >= {"niah", "ppl", "gates", "addressing", "cost"}
    assert ("niah", (32768,), (5,)) not in {shared(job) for job in most}


def test_what_says_more_comes_first_within_a_task() -> None:
    """The largest set of text; of further needles the plan's line that comes first: groups are tried in this order."""
    order = [group[0] for group in _groups(PLAN, JOBS)]
    read = [job for job in order if job.cell.task == "ppl"]
    sizes = [max(one.work for one in JOBS if shared(one) == shared(job)) for job in read]
    assert len(sizes) == 3
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[-1]
    needles = [shared(job)[1:] for job in order if job.cell.task == "niah"]
    assert needles == [((line.length,), (line.needles,)) for line in PLAN.needles]
    tasks = list(dict.fromkeys(job.cell.task for job in order))
    assert tasks == ["niah", "ppl", "gates", "addressing", "cost", "trace"]
    assert [job.cell.task for job in order[-len(PLAN.needles) + 1 :]] == ["niah"] * (len(PLAN.needles) - 1)


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("20m", 1200), ("1.5h", 5400), (" 2M ", 120)])
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "20", "0m", "m", "-1m", "1d", "1e3s", "٣m"])
def test_what_is_no_duration_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(UserError, match="no duration") as error:
        parse_duration(text)
    assert "\n" not in str(error.value)


def test_the_command_says_what_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["reproduce", "--dry-run", "--budget", "3m", "--workers", "2"]) == 0
    shown = capsys.readouterr()
    assert "do not fit 180 s and are left out" in shown.err
    minutes = float(shown.out.rsplit("about ", 1)[1].split()[0])
    assert minutes <= 3.0
    assert cli.main(["reproduce", "--dry-run", "--budget", "0.1s"]) == 2
    error = capsys.readouterr().err
    assert "too short: the shortest part takes about" in error
    assert error.count("\n") == 1
