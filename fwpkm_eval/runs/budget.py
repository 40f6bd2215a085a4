"""A plan cut to the time there is: the cells that say most come first, each for all models or for none.

A value without its baselines says nothing, so cells are taken in groups: one setting on every model. The order:

1. the plan's first line of needles (recall, and what re-reading buys),
2. perplexity with and without writes, the longest set first (whether the memory helps on long text),
3. gates, use of slots, cost, a trace,
4. the further lines of needles, in the plan's order (longer haystacks, more needles),
5. the ablations.

A group that no longer fits is left out, and cheaper ones after it are still tried.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from fwpkm_eval.errors import UserError
from fwpkm_eval.runs.engine import Job
from fwpkm_eval.runs.plan import Plan, estimated_total

_TASK_ORDER = {"niah": 0, "ppl": 1, "gates": 2, "addressing": 3, "cost": 4, "trace": 5}


@dataclass(frozen=True)
class Cut:
    """The jobs that are kept, in the order given, and how many others there are."""

    jobs: list[Job]
    left_out: int


def cut_to(plan: Plan, jobs: Sequence[Job], seconds: float, workers: int) -> Cut:
    """The most telling jobs that take ``seconds`` on so many workers, by the plan's estimate.

    Raises:
        UserError: not even one group fits.
    """
    found: list[Job] = []
    chosen: set[str] = set()
    groups = _groups(plan, jobs)
    for group in groups:
        # In the order in which they will run: it decides which worker is idle at the end.
        wider = chosen | {job.cell.key for job in group}
        in_order = [job for job in jobs if job.cell.key in wider]
        if estimated_total(plan, in_order, workers) <= seconds:
            found, chosen = in_order, wider
    if jobs and not any(job.work for job in found):
        least = min(estimated_total(plan, group, workers) for group in groups)
        raise UserError(f"a budget of {seconds:g} s is too short: the shortest part takes about {least:.1f} s")
    return Cut(found, len(jobs) - len(found))


def _groups(plan: Plan, jobs: Sequence[Job]) -> list[list[Job]]:
    found: dict[Hashable, list[Job]] = {}
    for job in jobs:
        found.setdefault(_setting(job), []).append(job)
    return sorted(found.values(), key=lambda group: _rank(plan, group))


def _setting(job: Job) -> Hashable:
    """What the jobs of a group share: the task and its text, for needles the line of the plan."""
    if job.cell.task == "ablation":
        return job.cell.task
    settings = job.cell.settings["task"]
    if job.cell.task == "niah":
        return job.cell.task, settings["lengths"], settings["needles"]
    return job.cell.task, job.cell.settings["data"]["name"]


def _rank(plan: Plan, group: Sequence[Job]) -> tuple[int, int, float]:
    job = group[0]
    if job.cell.task == "ablation":
        return len(_TASK_ORDER) + 1, 0, 0.0
    if job.cell.task == "niah":
        settings = job.cell.settings["task"]
        lines = [((line.length,), (line.needles,)) for line in plan.needles]
        line = lines.index((tuple(settings["lengths"]), tuple(settings["needles"])))
        return (0, 0, 0.0) if line == 0 else (len(_TASK_ORDER), line, 0.0)
    return _TASK_ORDER[job.cell.task], 0, -max(one.work for one in group)
