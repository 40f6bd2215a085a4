"""What whole models cost: parameters, FLOPs, speed, memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fwpkm_eval.reporting import wording
from fwpkm_eval.reporting.measurements import baseline_of, model_order, spec_of
from fwpkm_eval.reporting.published import memories_of
from fwpkm_eval.reporting.table import Rows, Table
from fwpkm_eval.reporting.wording import MISSING
from fwpkm_eval.runs.rows import FROZEN

if TYPE_CHECKING:
    import pandas

Costs = dict[tuple[str, str, str], float]
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
        key = (str(row["metric"]), str(row["protocol"]), str(row["arm"]))
        costs.setdefault(str(row["model"]), {})[key] = row["value"]
    return {model: costs[model] for model in sorted(costs, key=model_order)}


def cost_ratios(frame: pandas.DataFrame) -> dict[str, dict[str, float]]:
    """For each model with memory and each of `MEASURES` how many times its baseline's cost it is."""
    costs = costs_of(frame)
    ratios: dict[str, dict[str, float]] = {}
    for model, here in costs.items():
        base = costs.get(_baseline(model, costs) or "", {})
        for name, (metric, protocol, inverse) in MEASURES.items():
            ours, theirs = (side.get((metric, protocol, "")) for side in (here, base))
            if ours and theirs and math.isfinite(ours) and math.isfinite(theirs):
                ratios.setdefault(model, {})[name] = theirs / ours if inverse else ours / theirs
    return ratios


def _baseline(model: str, costs: Mapping[str, Costs]) -> str | None:
    return baseline_of(model, costs) if memories_of(spec_of(model)) else None


def cost_tables(frame: pandas.DataFrame) -> list[Table]:
    """One line for each model, speeds also against the same backbone without memory."""
    costs = costs_of(frame)
    if not costs:
        return []
    rows = Rows()
    for model, here in costs.items():
        base = _baseline(model, costs)
        rows.add(
            model,
            _count(here.get(("parameters", "", ""))),
            _count(here.get(("active_parameters", "", ""))),
            _count(here.get(("flops_per_token", "", ""))),
            _count(here.get(("flops_per_token", "", FROZEN))),
            *_speed(here, costs.get(base or ""), "reading"),
            *_speed(here, costs.get(base or ""), "training"),
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
            "loading; peak memory is the process's, while it reads.",
        )
    ]


def _speed(here: Costs, base: Costs | None, protocol: str) -> tuple[str, str]:
    """Samples a second, and as a share of the baseline's."""
    key = ("samples_per_second", protocol, "")
    speed = here.get(key)
    if speed is None:
        return MISSING, MISSING
    other = (base or {}).get(key)
    return f"{speed:.3g}", wording.percent(speed / other) if other else MISSING


def _memory(here: Costs) -> str:
    peak: Any = here.get(("peak_memory", "reading", ""))
    return MISSING if peak is None else f"{peak / 2**20:,.0f} MiB"


def _count(value: float | None) -> str:
    """``519 M``, ``1.2 M``, ``832 K``."""
    if value is None:
        return MISSING
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "K")):
        if value >= unit:
            return f"{value / unit:.3g} {name}"
    return f"{value:.0f}"
