"""Traces as rows: how often the slots that answered held the right token."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fwpkm_eval.tasks.describe import describe_model, yarn_arm

if TYPE_CHECKING:
    from fwpkm_eval.data import TextSet
    from fwpkm_eval.runs.rows import Row
    from fwpkm_eval.tasks.trace import TraceResult, TraceSettings
    from fwpkm_eval.tasks.trace_types import LayerRead, Trace


def trace_rows(model: Any, text_set: TextSet, settings: TraceSettings, result: TraceResult) -> list[Row]:
    """Four rates over all digits (and layers) of all samples; n counts the digits (times layers) they are made of.

    ``top_slot_hit_rate``: the heaviest slot is a HIT. ``weighted_hit_rate``: the read weight on slots that
    are. ``weighted_answer_rate``: the read weight on slots whose strongest pair is the asked needle's own
    digit. ``consensus_accuracy``: the vote names the true digit. The digits of one sample stand and fall
    together, so intervals are over samples, where there are several that are not all alike, and within 0 and 1.
    """
    from fwpkm_eval.runs.intervals import mean_interval
    from fwpkm_eval.runs.rows import Row

    common = {
        **describe_model(model),
        "task": "trace",
        "dataset": text_set.name,
        "length": settings.length,
        "passes": settings.passes,
        "write_chunk": str(settings.write_chunk),
        "needles": settings.needles,
        "scope": "sample",
        "protocol": settings.protocol,
        "arm": yarn_arm(model, settings.length),
        "seed": settings.seed,
        "seconds": result.seconds,
        "tokens": result.tokens,
        "data_hash": text_set.sha256[:16],
    }
    measures: dict[str, Callable[[Trace], list[float]]] = {
        "top_slot_hit_rate": lambda trace: [layer.slots[0].hit for layer in _reads(trace)],
        "weighted_hit_rate": lambda trace: [layer.weighted_hits for layer in _reads(trace)],
        "weighted_answer_rate": lambda trace: [layer.weighted_answers for layer in _reads(trace)],
        "consensus_accuracy": lambda trace: [digit.consensus == digit.expected for digit in trace.digits],
    }
    rows = []
    for metric, measure in measures.items():
        by_sample = [measure(trace) for trace in result.traces]
        value, low, high = mean_interval([sum(values) / len(values) for values in by_sample])
        if low is not None and high is not None:
            low, high = (max(low, 0.0), min(high, 1.0)) if low < high else (None, None)
        number = sum(map(len, by_sample))
        rows.append(Row(metric=metric, value=value, unit="fraction", n=number, ci_low=low, ci_high=high, **common))
    return rows


def _reads(trace: Trace) -> list[LayerRead]:
    return [layer for digit in trace.digits for layer in digit.layers]
