"""What ``reproduce`` measures: the models and settings of a scale, in one place, and how long that takes.

The numbers of `PLANS` are chosen so that the whole of a scale's plan fits its time: for micro less than six
minutes on two cores.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fwpkm_eval.data import default_haystack, default_sets, load_set
from fwpkm_eval.errors import unknown
from fwpkm_eval.runs.jobs import (
    ModelSource,
    TextSource,
    biggest_first,
    compressor_job,
    guess_job,
    niah_jobs,
    perplexity_job,
)

if TYPE_CHECKING:
    from fwpkm_eval.runs.engine import Job
    from fwpkm_eval.tasks.niah import NiahSettings
    from fwpkm_eval.tasks.perplexity import PerplexitySettings

TASKS = ("ppl", "niah", "gates", "addressing", "cost", "trace")
TEST_SPLIT = "test"


@dataclass(frozen=True)
class NeedlePlan:
    """One line of the plan for needles, asked of every model.

    ``write_chunks`` are by memory; a model without fast weights gets the rows of all of them. FwMLP
    diverges when a whole haystack is one write, so it has none of those. A memory with () is not asked.
    """

    length: int
    needles: int
    samples: int
    write_chunks: Mapping[str, tuple[int | str, ...]]
    passes: tuple[int, ...] = (1, 2, 4)
    protocols: tuple[str, ...] = ("open-book", "closed-book")

    @property
    def all_write_chunks(self) -> tuple[int | str, ...]:
        return tuple(dict.fromkeys(chunk for chunks in self.write_chunks.values() for chunk in chunks))


@dataclass(frozen=True)
class Plan:
    """A scale's plan.

    ``further``: models that are measured only where all are asked for. ``tokens`` is the budget of perplexity for each
    set, by name, "" for any other; ``tokens_inside`` that of gates and addressing, for every set; ``tokens_timed`` that
    of the cost of reading; ``tokens_per_second`` what one core reads, by memory, "" for none (only to estimate how long
    it takes).
    """

    models: tuple[str, ...]
    tokens: Mapping[str, int]
    needles: tuple[NeedlePlan, ...]
    tokens_per_second: Mapping[str, float]
    tokens_inside: int = 16 * 1024
    tokens_timed: int = 32 * 1024
    further: tuple[str, ...] = ()


BOTH_WAYS: Mapping[str, tuple[int | str, ...]] = {
    "fwpkm": ("haystack", 1024),
    "lact": ("haystack", 1024),
    "fwmlp": (1024,),
}
MANY_NEEDLES: Mapping[str, tuple[int | str, ...]] = {"fwpkm": ("haystack", 1024), "lact": ("haystack",), "fwmlp": ()}

PLANS: dict[str, Plan] = {
    "micro": Plan(
        # The last sees a whole haystack while it answers: what attention finds without any memory.
        models=("gdn+swa", "gdn+swa:pkm@1,3", "gdn+swa:fwmlp@1,3", "gdn+swa:fwpkm@1,3", "gdn+fa"),
        further=("gdn+swa:pkm@2+fwpkm@1,3", "gdn+swa:lact@1,3", "gdn+fa:fwpkm@1,3"),
        tokens={"source": 192 * 1024, "": 96 * 1024},
        needles=(
            NeedlePlan(4096, 5, 20, BOTH_WAYS),
            # FwMLP, which finds none at 4K, is not asked.
            NeedlePlan(32768, 5, 5, {**BOTH_WAYS, "fwmlp": ()}),
            # The control: no longer than the rows of training, so that who finds none here never learned to answer.
            NeedlePlan(512, 5, 20, BOTH_WAYS, passes=(1, 2)),
            NeedlePlan(4096, 64, 20, MANY_NEEDLES),
            NeedlePlan(16384, 256, 5, MANY_NEEDLES, passes=(1, 2)),
        ),
        tokens_per_second={"": 21_000, "fwmlp": 17_000, "lact": 16_000, "fwpkm": 14_000},
    ),
    # For one GPU: trained in this order, so that what fits least of the time is left out last.
    "small": Plan(
        models=(
            "gdn+swa:fwpkm@2,6",
            "gdn+swa",
            "gdn+swa:pkm@2,6",
            "gdn+swa:pkm@4+fwpkm@2,6",
            "gdn+swa:fwmlp@2,6",
            "gdn+swa:lact@2,6",
        ),
        tokens={"": 256 * 1024},
        needles=(
            NeedlePlan(4096, 5, 100, BOTH_WAYS),
            NeedlePlan(8192, 5, 40, BOTH_WAYS),
            NeedlePlan(32768, 5, 12, BOTH_WAYS),
            NeedlePlan(131072, 5, 6, BOTH_WAYS),
            NeedlePlan(1024, 5, 40, BOTH_WAYS, passes=(1, 2)),
        ),
        # Guesses, for one process of several on a GPU: not measured yet.
        tokens_per_second={"": 100_000, "fwmlp": 60_000, "lact": 60_000, "fwpkm": 60_000},
    ),
    # As published: 8 M tokens a set, 500 samples a length. Those with published numbers come first.
    "paper": Plan(
        models=tuple(
            backbone + memory
            for backbone in ("gdn", "gdn+swa", "gdn+fa", "fa")
            for memory in ("", ":pkm@2,6,10", ":fwpkm@2,6,10", ":pkm@6+fwpkm@2,10")
        ),
        tokens={"": 8 * 2**20},
        needles=(
            NeedlePlan(4096, 5, 500, BOTH_WAYS),
            NeedlePlan(8192, 5, 500, BOTH_WAYS),
            NeedlePlan(32768, 5, 500, BOTH_WAYS),
            NeedlePlan(131072, 5, 500, BOTH_WAYS),
            NeedlePlan(1024, 5, 500, BOTH_WAYS, passes=(1, 2)),
        ),
        # Guesses, too.
        tokens_per_second={"": 40_000, "fwmlp": 25_000, "lact": 25_000, "fwpkm": 25_000},
        tokens_inside=2**20,
    ),
}


def models_of(plan: Plan, everything: bool = False) -> tuple[str, ...]:
    """The plan's models, with those that it leaves for whoever asks for everything."""
    return (*plan.models, *plan.further) if everything else plan.models


def plan_of(scale: str) -> Plan:
    """The plan of a scale. Raises UserError for one that has none."""
    if scale not in PLANS:
        raise unknown("scale with a plan", scale, PLANS)
    return PLANS[scale]


def with_tokens(plan: Plan, tokens: int | None) -> Plan:
    """The plan with so many tokens of each set in place of its own budgets of text; None: as it is."""
    return plan if tokens is None else replace(plan, tokens={"": tokens}, tokens_inside=tokens, tokens_timed=tokens)


@dataclass(frozen=True)
class Planned:
    """The cells of a run, the biggest first, and the texts that they are measured on."""

    jobs: list[Job]
    texts: list[TextSource]


def plan_run(
    plan: Plan,
    models: Sequence[ModelSource],
    *,
    data: str = "embedded",
    only: Iterable[str] = TASKS,
    seed: int = 0,
) -> Planned:
    """Every cell of the plan for these models. Raises UserError for an unknown task, and for missing data."""
    only = set(only)
    for task in only:
        if task not in TASKS:
            raise unknown("task", task, TASKS)
    jobs: list[Job] = []
    texts: dict[str, TextSource] = {}
    if only - {"niah", "trace"}:
        texts = {name: TextSource(data, load_set(data, name, TEST_SPLIT)) for name in default_sets(data)}
    if "ppl" in only and models:
        tokenizer = models[0].config.tokenizer
        jobs += [compressor_job(text, _text_settings(plan, text, seed), tokenizer) for text in texts.values()]
    for model in models:
        if "ppl" in only:
            jobs += _perplexity(plan, model, texts.values(), seed)
        jobs += _inside(plan, model, list(texts.values()), only, seed)
    if only & {"niah", "trace"}:
        name = default_haystack(data)
        haystack = texts.setdefault(name, TextSource(data, load_set(data, name, TEST_SPLIT)))
    if "trace" in only:
        jobs += [_trace(plan, model, haystack, seed) for model in models if model.config.spec.layers("fwpkm")]
    if "niah" in only:
        for line in plan.needles:
            settings = _needle_settings(line, seed)
            jobs.append(guess_job(haystack, settings))
            for model in models:
                chunks = _write_chunks(line, model)
                if not chunks:
                    continue
                jobs += niah_jobs(model, haystack, replace(settings, write_chunks=chunks))
    return Planned(biggest_first(jobs), list(texts.values()))


def estimated_seconds(plan: Plan, job: Job) -> float:
    """How long one core takes for a cell, about."""
    memory = next((memory for memory in plan.tokens_per_second if memory and memory in job.cell.model), "")
    return job.work / plan.tokens_per_second[memory]


def estimated_total(plan: Plan, jobs: Iterable[Job], workers: int) -> float:
    """How many seconds the jobs take on so many workers, each taking the next one when it is free; those that are
    measured alone keep all of them waiting."""
    busy = [0.0] * workers
    for job in jobs:
        if job.alone:
            busy = [max(busy) + estimated_seconds(plan, job)] * workers
        else:
            busy[busy.index(min(busy))] += estimated_seconds(plan, job)
    return max(busy)


def _text_settings(plan: Plan, text: TextSource, seed: int) -> PerplexitySettings:
    from fwpkm_eval.tasks.perplexity import PerplexitySettings

    return PerplexitySettings(tokens=plan.tokens.get(text.text_set.name, plan.tokens[""]), seed=seed)


def _perplexity(plan: Plan, model: ModelSource, texts: Iterable[TextSource], seed: int) -> list[Job]:
    jobs = []
    for text in texts:
        settings = _text_settings(plan, text, seed)
        jobs.append(perplexity_job(model, text, settings))
        if model.has_fast_weights:
            jobs.append(perplexity_job(model, text, replace(settings, frozen=True)))
    return jobs


def _inside(plan: Plan, model: ModelSource, texts: Sequence[TextSource], only: set[str], seed: int) -> list[Job]:
    """Gates and addressing on every set, where the model has them, and the cost on the first."""
    from fwpkm_eval.runs.measures import addressing_job, cost_job, gates_job, has_gates
    from fwpkm_eval.tasks.cost import CostSettings
    from fwpkm_eval.tasks.perplexity import PerplexitySettings

    settings = PerplexitySettings(tokens=plan.tokens_inside, seed=seed)
    jobs = []
    if "gates" in only and has_gates(model):
        jobs += [gates_job(model, text, settings) for text in texts]
    if "addressing" in only and model.config.spec.layers("fwpkm"):
        jobs += [addressing_job(model, text, settings) for text in texts]
    if "cost" in only:
        jobs.append(cost_job(model, texts[0], CostSettings(tokens=plan.tokens_timed, seed=seed)))
    return jobs


def _trace(plan: Plan, model: ModelSource, haystack: TextSource, seed: int) -> Job:
    """One question of the plan's first line of needles, asked in closed book after two readings, slot by slot."""
    from fwpkm_eval.runs.jobs import trace_job
    from fwpkm_eval.tasks.trace import TraceSettings

    line = plan.needles[0]
    chunk = _write_chunks(line, model)[0]
    return trace_job(model, haystack, TraceSettings(line.length, line.needles, 2, chunk, "closed-book", (0,), seed))


def _needle_settings(line: NeedlePlan, seed: int) -> NiahSettings:
    from fwpkm_eval.tasks.niah import NiahSettings

    return NiahSettings(
        lengths=(line.length,),
        passes=line.passes,
        write_chunks=line.all_write_chunks,
        needles=(line.needles,),
        protocols=line.protocols,
        samples=line.samples,
        seed=seed,
    )


def _write_chunks(line: NeedlePlan, model: ModelSource) -> tuple[int | str, ...]:
    """How often this model is to write: as planned for its memory, in all ways if it never writes."""
    for memory, chunks in line.write_chunks.items():
        if model.config.spec.layers(memory):
            return chunks
    return line.all_write_chunks
