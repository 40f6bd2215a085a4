"""What whole models cost: parameters, FLOPs, speed, memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from fwpkm_eval.reporting import wording
from fwpkm_eval.reporting.measurements import baseline_of, model_order, spec_of
from fwpkm_eval.reporting.published import memories_of
from fwpkm_eval.reporting.table import Rows, Table
from fwpkm_eval.reporting.tables_speed import absent
from fwpkm_eval.reporting.wording import MISSING
from fwpkm_eval.runs.rows import FROZEN, arm_without_yarn

if TYPE_CHECKING:
    import pandas

SHARE = "share_of_backbone_speed"


class Cost(NamedTuple):
    """A row's value, and 10th and 90th percentile of what was timed several times."""

    value: float
    low: float | None = None
    high: float | None = None


Costs = dict[tuple[str, str, str], Cost]
"""By (metric, protocol, arm)."""


MEASURES: dict[str, tuple[str, str, bool]] = {
    "parameters": ("parameters", "", False),
    "active parameters": ("active_parameters", "", False),
    "FLOPs per token": ("flops_per_token", "", False),
    "time, reading": ("samples_per_second", "reading", True),
    "time, training": ("samples_per_second", "training", True),
    "memory, reading": ("peak_memory", "reading", False),
}
"""What is compared with the baseline: metric, protocol, and whether its inverse is the cost."""


def costs_of(frame: pandas.DataFrame) -> dict[str, Costs]:
    """The rows of task ``cost`` by model, baselines first."""
    costs: dict[str, Costs] = {}
    for row in frame[frame["task"] == "cost"].to_dict("records"):
        key = (str(row["metric"]), str(row["protocol"]), arm_without_yarn(str(row["arm"])))
        bounds = (None if absent(row[name]) else float(row[name]) for name in ("ci_low", "ci_high"))
        costs.setdefault(str(row["model"]), {})[key] = Cost(row["value"], *bounds)
    return {model: costs[model] for model in sorted(costs, key=model_order)}


def cost_ratios(frame: pandas.DataFrame) -> dict[str, dict[str, Cost]]:
    """For each model with memory and each of `MEASURES` how many times its baseline's cost it is.

    Times are those of turns with its backbone; of rows that hold none, the ratio of what was timed apart.
    """
    costs = costs_of(frame)
    ratios: dict[str, dict[str, Cost]] = {}
    for model, here in costs.items():
        base = costs.get(_baseline(model, costs) or "", {})
        for name, (metric, protocol, inverse) in MEASURES.items():
            share = here.get((SHARE, protocol, "")) if inverse else None
            if share is not None:
                low, high = (None if bound is None else 1 / bound for bound in (share.high, share.low))
                ratios.setdefault(model, {})[name] = Cost(1 / share.value, low, high)
                continue
            ours, theirs = (
                side[metric, protocol, ""].value if (metric, protocol, "") in side else 0 for side in (here, base)
            )
            if ours and theirs and math.isfinite(ours) and math.isfinite(theirs):
                ratios.setdefault(model, {})[name] = Cost(theirs / ours if inverse else ours / theirs)
    return ratios


def share_in_words(ratio: Cost) -> str:
    """``44% (40–47%)``: the share of the baseline's speed whose time this is, between the percentiles of the turns."""
    if ratio.low is None or ratio.high is None:
        return wording.percent(1 / ratio.value)
    return f"{wording.percent(1 / ratio.value)} ({1 / ratio.high:.0%}–{1 / ratio.low:.0%})".replace("%–", "–")


def _baseline(model: str, costs: Mapping[str, Costs]) -> str | None:
    return baseline_of(model, costs) if memories_of(spec_of(model)) else None


def cost_tables(frame: pandas.DataFrame) -> list[Table]:
    """One line for each model, speeds also against the same backbone without memory."""
    costs = costs_of(frame)
    if not costs:
        return []
    ratios = cost_ratios(frame)
    rows = Rows()
    for model, here in costs.items():
        rows.add(
            model,
            _count(here.get(("parameters", "", ""))),
            _count(here.get(("active_parameters", "", ""))),
            _count(here.get(("flops_per_token", "", ""))),
            _count(here.get(("flops_per_token", "", FROZEN))),
            *_speed(here, ratios.get(model, {}), "reading"),
            *_speed(here, ratios.get(model, {}), "training"),
            _memory(here),
        )
    length = int(frame[frame["task"] == "cost"]["length"].dropna().iloc[0])
    return [
        Table(
            name="cost",
            title="Cost of whole models",
            columns=(
                "model",
                "parameters",
                "active",
                "FLOPs per token",
                "without writes",
                "samples/s, reading",
                "against baseline",
                "samples/s, training",
                "against baseline, training",
                "peak memory",
            ),
            rows=rows.done(),
            note=f"Fast weights count as parameters; active are those that one token touches. FLOPs by formula, for "
            f"samples of {length:,} tokens: two for each multiply-add of matrix products and of sums of memory rows. "
            "Speeds are those of one process of the machine of this run, writes included, training without data "
            f"loading{_timed_by_turns(costs)}. Peak memory is what the model takes while it reads: weights, "
            "state and activations.",
        )
    ]


def _timed_by_turns(costs: Mapping[str, Costs]) -> str:
    if not any(metric == SHARE for here in costs.values() for metric, _, _ in here):
        return ""
    return (
        ". Against the baseline: model and backbone timed by turns in one process, the median of the turns' ratios and "
        "their 10th to 90th percentile"
    )


def _speed(here: Costs, ratios: Mapping[str, Cost], protocol: str) -> tuple[str, str]:
    """Samples a second, and as a share of the baseline's."""
    speed, ratio = here.get(("samples_per_second", protocol, "")), ratios.get(f"time, {protocol}")
    return (
        MISSING if speed is None else f"{speed.value:.3g}",
        MISSING if speed is None or ratio is None else share_in_words(ratio),
    )


def _memory(here: Costs) -> str:
    peak = here.get(("peak_memory", "reading", ""))
    return MISSING if peak is None else f"{peak.value / 2**20:,.0f} MiB"


def _count(cost: Cost | None) -> str:
    """``519 M``, ``1.2 M``, ``832 K``."""
    if cost is None:
        return MISSING
    value = cost.value
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "K")):
        if value >= unit:
            return f"{value / unit:.3g} {name}"
    return f"{value:.0f}"
