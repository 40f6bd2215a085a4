"""Measures one cell: loads what it names, checks that it is still the same, and runs its task."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import fwpkm_eval
from fwpkm_eval.data import TextSet, load_set
from fwpkm_eval.devices import peak_memory
from fwpkm_eval.errors import UserError
from fwpkm_eval.runs.cells import with_tuples
from fwpkm_eval.runs.engine import Job, Report
from fwpkm_eval.runs.rows import VARIANT_SEPARATOR

if TYPE_CHECKING:
    from fwpkm_eval.tasks.niah import NiahResult

GUESS, COMPRESSED = "guess", "compressors"
"""The name in the place of a model's for the floor: random digits."""

Load = Callable[[str, str, str], TextSet]
"""Reads a split of a set: (data, name, split)."""

MODELS_KEPT = 2
"""Models that a worker keeps loaded for its next cells."""


def execute(job: Job, report: Report) -> dict[str, Any]:
    """The payload of the job's cell: its settings, rows and version, and for needles every answer.

    Raises: UserError: the weights or the text are no longer those that the cell names, or the task refuses
        the settings.
    """
    from fwpkm_eval.data.questions import QuestionSet
    from fwpkm_eval.runs.measures import MEASURES, measure_continual, measure_longbench

    cell = job.cell
    task, settings = cell.task, dict(cell.settings)
    if job.alone:
        _load_model.cache_clear()  # or the models of the cells before would count as memory held
    text_set = _planned_text(job.data, settings["data"], _questions if task == "longbench" else _text_set)
    measured: dict[str, Any]
    if cell.model == GUESS:
        measured = {"rows": _guess(text_set, settings)}
    elif cell.model == COMPRESSED:
        measured = {"rows": _compressed(text_set, settings)}
    elif task == "ppl":
        measured = {"rows": _perplexity(_model(job, settings), text_set, settings, report)}
    elif task == "trace":
        measured = _trace(_model(job, settings), text_set, settings, report)
    elif task in MEASURES:
        measured = {"rows": MEASURES[task](_model(job, settings), text_set, settings["task"], report)}
    elif task == "continual":
        domains = [_planned_text(job.data, named) for named in settings["task"]["domains"]]
        measured = {"rows": measure_continual(_model(job, settings), domains, settings["task"], report)}
    elif task == "longbench":
        assert isinstance(text_set, QuestionSet)
        measured = {"rows": measure_longbench(_model(job, settings), text_set, settings["task"], report)}
    elif task in ("ablation", "capacity"):
        from fwpkm_eval.runs.ablation import measure_ablation

        haystack = _planned_text(job.data, settings["haystack"])
        measured = {"rows": measure_ablation(job, haystack, text_set, settings, report)}
    else:
        measured = _niah(_model(job, settings), text_set, settings, report)
    return {
        "settings": {"task": task, "model": cell.model, **settings},
        **(_called(cell.model, measured) if VARIANT_SEPARATOR in cell.model else measured),
        "version": fwpkm_eval.__version__,
        "peak_memory_bytes": peak_memory(),
    }


def _called(model: str, measured: dict[str, Any]) -> dict[str, Any]:
    """What was measured under the name that the cell gives the model: its own and the label of its checkpoint."""
    rows = [replace(row, model=model) for row in measured["rows"]]
    traces = [{**trace, "model": model} for trace in measured.get("traces", ())]
    return {**measured, "rows": rows, **({"traces": traces} if traces else {})}


def _guess(text_set: TextSet, settings: Mapping[str, Any]) -> list[Any]:
    from fwpkm_eval.tasks.niah import NiahSettings
    from fwpkm_eval.tasks.niah_rows import guess_rows

    return guess_rows(text_set, NiahSettings(**with_tuples(settings["task"])))


def _compressed(text_set: TextSet, settings: Mapping[str, Any]) -> list[Any]:
    from fwpkm_eval.data.tokenizers import tokenizer_named
    from fwpkm_eval.tasks.compressors import compressor_rows

    task = settings["task"]
    return compressor_rows(text_set, task["tokens"], tokenizer_named(task["tokenizer"]))


def _perplexity(model: Any, text_set: TextSet, settings: Mapping[str, Any], report: Report) -> list[Any]:
    from fwpkm_eval.api import tokenizer_of
    from fwpkm_eval.tasks.perplexity import PerplexitySettings, evaluate_perplexity, perplexity_rows

    task = PerplexitySettings(**settings["task"])
    result = evaluate_perplexity(model, text_set, task, tokenizer_of(model.config), report)
    return perplexity_rows(model, text_set, task, result)


def _niah(model: Any, text_set: TextSet, settings: Mapping[str, Any], report: Report) -> dict[str, Any]:
    from fwpkm_eval.api import tokenizer_of
    from fwpkm_eval.tasks.niah import NiahSettings, evaluate_niah
    from fwpkm_eval.tasks.niah_rows import niah_rows

    task = NiahSettings(**with_tuples(settings["task"]))
    result = evaluate_niah(model, text_set, task, tokenizer_of(model.config), report)
    return {"rows": niah_rows(model, text_set, task, result), "answers": _answers(result)}


def _trace(model: Any, text_set: TextSet, settings: Mapping[str, Any], report: Report) -> dict[str, Any]:
    from fwpkm_eval.api import tokenizer_of
    from fwpkm_eval.tasks.trace import TraceSettings, trace_needles
    from fwpkm_eval.tasks.trace_rows import trace_rows

    task = TraceSettings(**with_tuples(settings["task"]))
    result = trace_needles(model, text_set, task, tokenizer_of(model.config), report)
    rows = trace_rows(model, text_set, task, result)
    return {"rows": rows, "traces": [trace.to_json() for trace in result.traces]}


def _answers(result: NiahResult) -> list[dict[str, Any]]:
    """Every answer in words, for whoever wants to know what was said instead."""
    return [
        {
            "write_chunk": answer.setting.write_chunk,
            "protocol": answer.protocol,
            "passes": answer.passes,
            "sample": answer.index,
            "depth": answer.depth,
            "expected": answer.expected,
            "answered": answer.answered,
            "logprob": answer.logprob if math.isfinite(answer.logprob) else None,
        }
        for answer in result.answers
    ]


def _model(job: Job, settings: Mapping[str, Any]) -> Any:
    assert job.checkpoint is not None
    model, weights_hash = _load_model(job.checkpoint, job.device, settings["dtype"])
    if weights_hash != settings["weights"]:
        raise UserError(f"{job.checkpoint} has changed since this run was planned: start the run again")
    return model


@functools.lru_cache(maxsize=MODELS_KEPT)
def _load_model(checkpoint: str, device: str, dtype: str) -> tuple[Any, str]:
    from fwpkm_eval.api import load_model

    model = load_model(checkpoint, device=device, dtype=dtype)
    return model, model.weights_hash


@functools.lru_cache(maxsize=8)
def _text_set(data: str, name: str, split: str) -> TextSet:
    return load_set(data, name, split)


def _questions(data: str, name: str, split: str) -> TextSet:
    from fwpkm_eval.data.questions import load_questions

    return load_questions(data, name)


def _planned_text(data: str, named: Mapping[str, str], load: Load = _text_set) -> TextSet:
    """The set that a cell names. Raises UserError if its text is no longer the same."""
    text_set = load(data, named["name"], named["split"])
    if text_set.sha256 != named["sha256"]:
        raise UserError(f"set {text_set.name!r} has changed since this run was planned: start the run again")
    return text_set
