"""Continual learning: the change of each domain's loss after each domain that was adapted to."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from fwpkm_eval.reporting import wording
from fwpkm_eval.reporting.measurements import ordered
from fwpkm_eval.reporting.table import Cell, Rows, Table, slug

if TYPE_CHECKING:
    import pandas


def continual_tables(frame: pandas.DataFrame) -> list[Table]:
    """For each model one table: domains adapted to in their order down, domains tested across."""
    rows = frame[(frame["task"] == "continual") & (frame["metric"] == "bits_per_byte")]
    return [_table(model, rows[rows["model"] == model]) for model in ordered(rows["model"])]


def _table(model: str, rows: pandas.DataFrame) -> Table:
    bits: dict[tuple[int, str], list[float]] = {}
    names: dict[int, str] = {}
    for row in rows.to_dict("records"):
        bits.setdefault((int(row["passes"]), str(row["dataset"])), []).append(row["value"])
        names[int(row["passes"])] = str(row["protocol"]) or "before"
    means = {key: math.fsum(values) / len(values) for key, values in bits.items()}
    domains = _in_order([dataset for _, dataset in means], names)
    lines = Rows()
    lines.add(names[0], *(f"{means[0, domain]:.3f} bits per byte" for domain in domains))
    for stage in sorted(set(names) - {0}):
        adapted = names[stage].removeprefix("after ")
        lines.add(
            names[stage],
            *(Cell(_change(means[stage, domain], means[0, domain]), strong=domain == adapted) for domain in domains),
        )
    tokens = int(rows["length"].iloc[0])
    return Table(
        name=slug("continual", model),
        title=f"Continual learning: {model}",
        columns=("adapted", *domains),
        rows=lines.done(),
        note=f"Change of bits per byte on each domain since before anything was read, after adapting to "
        f"{tokens:,} tokens of one domain after the other; the slow weights do not change, and the text tested on is "
        "none of the text adapted to. Strong: the domain adapted to last. Lower is better.",
    )


def _in_order(datasets: list[str], names: dict[int, str]) -> list[str]:
    """The domains tested, in the order in which they are adapted to."""
    adapted = [names[stage].removeprefix("after ") for stage in sorted(set(names) - {0})]
    return [name for name in adapted if name in datasets] + sorted(set(datasets) - set(adapted))


def _change(value: float, before: float) -> str:
    return wording.change(value / before - 1) if math.isfinite(value) and math.isfinite(before) else "diverged"
