"""The cells of the other measures: gates, addressing and cost, each of one model on one text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from fwpkm_eval.runs.engine import Job, Report
from fwpkm_eval.runs.jobs import ModelSource, TextSource, job_on_text, tokens_of
from fwpkm_eval.runs.rows import Row

if TYPE_CHECKING:
    from fwpkm_eval.data import TextSet
    from fwpkm_eval.tasks.cost import CostSettings
    from fwpkm_eval.tasks.perplexity import PerplexitySettings

Measure = Callable[[Any, "TextSet", Mapping[str, Any], Report], list[Row]]
"""Measures a model on a text with settings as they were stored."""


def gates_job(model: ModelSource, text: TextSource, settings: PerplexitySettings) -> Job:
    """One reading of one set; for models with a FwPKM or FwMLP layer."""
    from fwpkm_eval.tasks.gates import GATES_VERSION
    from fwpkm_eval.tasks.perplexity import PERPLEXITY_VERSION

    label = f"{model.name}  gates on {text.text_set.name}"
    version = [GATES_VERSION, PERPLEXITY_VERSION]
    return job_on_text("gates", model, text, asdict(settings), version, label, tokens_of(model, text, settings.tokens))


def has_gates(model: ModelSource) -> bool:
    """Whether there is a layer whose output a gate mixes."""
    spec = model.config.spec
    return bool(spec.layers("fwmlp") or (spec.layers("fwpkm") and model.config.fwpkm.gate))


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
    """Reading and training, timed."""
    from fwpkm_eval.tasks.cost import COST_VERSION

    work = tokens_of(model, text, settings.tokens) + settings.steps * settings.rows * settings.row_tokens
    return job_on_text("cost", model, text, asdict(settings), COST_VERSION, f"{model.name}  cost", work)


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


MEASURES: dict[str, Measure] = {"gates": _gates, "addressing": _addressing, "cost": _cost}
"""By task: what measures a cell of it."""
