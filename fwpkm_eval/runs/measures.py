"""The cells of the other measures: gates, addressing, cost, continual learning and answers to long questions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from fwpkm_eval.runs.cells import with_tuples
from fwpkm_eval.runs.engine import Job, Report
from fwpkm_eval.runs.jobs import ModelSource, TextSource, job_on_text, named, tokens_of
from fwpkm_eval.runs.rows import Row

if TYPE_CHECKING:
    from fwpkm_eval.data import TextSet
    from fwpkm_eval.data.questions import QuestionSet
    from fwpkm_eval.tasks.continual import ContinualSettings
    from fwpkm_eval.tasks.cost import CostSettings
    from fwpkm_eval.tasks.longbench import LongBenchSettings
    from fwpkm_eval.tasks.perplexity import PerplexitySettings

Measure = Callable[[Any, "TextSet", Mapping[str, Any], Report], list[Row]]
"""Measures a model on a text with settings as they were stored."""


def gates_job(model: ModelSource, text: TextSource, settings: PerplexitySettings) -> Job:
    """One reading of one set; for models whose memory has a gate."""
    from fwpkm_eval.tasks.gates import GATES_VERSION
    from fwpkm_eval.tasks.perplexity import PERPLEXITY_VERSION

    label = f"{model.name}  gates on {text.text_set.name}"
    version = [GATES_VERSION, PERPLEXITY_VERSION]
    return job_on_text("gates", model, text, asdict(settings), version, label, tokens_of(model, text, settings.tokens))


def has_gates(model: ModelSource) -> bool:
    """Whether there is a layer whose output a gate mixes."""
    from fwpkm_eval.tasks.gates import gated_layers

    return bool(gated_layers(model))


def addressing_job(model: ModelSource, text: TextSource, settings: PerplexitySettings) -> Job:
    """One reading of one set; for models with a FwPKM layer."""
    from fwpkm_eval.tasks.addressing import ADDRESSING_VERSION
    from fwpkm_eval.tasks.perplexity import PERPLEXITY_VERSION

    label = f"{model.name}  addressing on {text.text_set.name}"
    work = tokens_of(model, text, settings.tokens)
    return job_on_text(
        "addressing", model, text, asdict(settings), [ADDRESSING_VERSION, PERPLEXITY_VERSION], label, work
    )


def cost_job(model: ModelSource, text: TextSource, settings: CostSettings) -> Job:
    """Reading and training, timed: alone, and its key names the machine, whose speed and memory are measured."""
    from fwpkm_eval.tasks.cost import COST_VERSION, timed_tokens

    work = timed_tokens(settings, tokens_of(model, text, settings.tokens), bool(model.config.spec.memories))
    job = job_on_text("cost", model, text, asdict(settings), COST_VERSION, f"{model.name}  cost", work)
    values = {**job.cell.settings, "machine": _timed_on(job.device)}
    return replace(job, cell=replace(job.cell, settings=values), alone=True)


def _timed_on(device: str) -> dict[str, Any]:
    """Processor and cores as the manifest has them, and the name of the GPU if that is the device."""
    from fwpkm_eval.runs.manifest import machine

    return {name: fact for name, fact in machine(device).items() if name in ("processor", "cores", "gpu")}


def _gates(model: Any, text_set: TextSet, settings: Mapping[str, Any], report: Report) -> list[Row]:
    from fwpkm_eval.api import tokenizer_of
    from fwpkm_eval.tasks.gates import evaluate_gates, gate_rows
    from fwpkm_eval.tasks.perplexity import PerplexitySettings

    task = PerplexitySettings(**settings)
    return gate_rows(model, text_set, task, evaluate_gates(model, text_set, task, tokenizer_of(model.config), report))


def _addressing(model: Any, text_set: TextSet, settings: Mapping[str, Any], report: Report) -> list[Row]:
    from fwpkm_eval.api import tokenizer_of
    from fwpkm_eval.tasks.addressing import addressing_rows, evaluate_addressing
    from fwpkm_eval.tasks.perplexity import PerplexitySettings

    task = PerplexitySettings(**settings)
    return addressing_rows(
        model, text_set, task, evaluate_addressing(model, text_set, task, tokenizer_of(model.config), report)
    )


def _cost(model: Any, text_set: TextSet, settings: Mapping[str, Any], report: Report) -> list[Row]:
    from fwpkm_eval.api import tokenizer_of
    from fwpkm_eval.tasks.cost import CostSettings, cost_rows, evaluate_cost

    task = CostSettings(**settings)
    return cost_rows(model, text_set, task, evaluate_cost(model, text_set, task, tokenizer_of(model.config), report))


def continual_job(model: ModelSource, domains: Sequence[TextSource], settings: ContinualSettings) -> Job:
    """All domains in their order; for models with fast weights."""
    from fwpkm_eval.tasks.continual import CONTINUAL_VERSION
    from fwpkm_eval.tasks.perplexity import PERPLEXITY_VERSION

    task = {**asdict(settings), "domains": [named(domain.text_set) for domain in domains]}
    count = len(domains)
    work = count * settings.adapt + count * (count + 1) * settings.test
    version = [CONTINUAL_VERSION, PERPLEXITY_VERSION]
    return job_on_text("continual", model, domains[0], task, version, f"{model.name}  {count} domains in turn", work)


def measure_continual(model: Any, domains: Sequence[TextSet], settings: Mapping[str, Any], report: Report) -> list[Row]:
    """The rows of a cell of continual learning; the domains are those that its settings name."""
    from fwpkm_eval.api import tokenizer_of
    from fwpkm_eval.tasks.continual import ContinualSettings, continual_rows, evaluate_continual

    task = ContinualSettings(**{name: value for name, value in settings.items() if name != "domains"})
    result = evaluate_continual(model, domains, task, tokenizer_of(model.config), report)
    return continual_rows(model, domains, task, result)


def longbench_job(model: ModelSource, questions: TextSource, settings: LongBenchSettings) -> Job:
    """All questions of one set."""
    from fwpkm_eval.tasks.longbench import LONGBENCH_VERSION
    from fwpkm_eval.tasks.niah import readings_of

    share = min(1.0, (settings.questions or 10**9) / len(questions.text_set.documents))
    readings = readings_of(
        settings.passes, settings.protocols, has_fast_weights=model.has_fast_weights, write_chunk=settings.write_chunk
    )
    work = int(tokens_of(model, questions, None) * share) * readings
    label = f"{model.name}  answers of {questions.text_set.name}"
    return job_on_text("longbench", model, questions, asdict(settings), LONGBENCH_VERSION, label, work)


def measure_longbench(model: Any, questions: QuestionSet, settings: Mapping[str, Any], report: Report) -> list[Row]:
    """The rows of a cell of LongBench."""
    from fwpkm_eval.api import tokenizer_of
    from fwpkm_eval.tasks.longbench import LongBenchSettings, evaluate_longbench, longbench_rows

    task = LongBenchSettings(**with_tuples(settings))
    result = evaluate_longbench(model, questions, task, tokenizer_of(model.config), report)
    return longbench_rows(model, questions, task, result)


MEASURES: dict[str, Measure] = {"gates": _gates, "addressing": _addressing, "cost": _cost}
"""By task: what measures a cell of one model on one text."""
