"""Inside the memories: gates and the use of slots, by layer and set."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from fwpkm_eval.reporting import wording
from fwpkm_eval.reporting.measurements import model_order
from fwpkm_eval.reporting.table import Rows, Table
from fwpkm_eval.reporting.wording import MISSING

if TYPE_CHECKING:
    import pandas

Place = tuple[str, int, str, str]
"""What a line of a table is about: (model, layer, set, tokens of a write)."""


def by_layer(frame: pandas.DataFrame, task: str) -> dict[Place, dict[str, float]]:
    """The rows of a task whose metrics end in ``@LAYER``: for each place the mean over the seeds of each metric."""
    values: dict[Place, dict[str, list[float]]] = {}
    for row in frame[(frame["task"] == task) & frame["depth"].isna()].to_dict("records"):
        metric, _, layer = str(row["metric"]).partition("@")
        place = (str(row["model"]), int(layer), str(row["dataset"]), str(row["write_chunk"]))
        values.setdefault(place, {}).setdefault(metric, []).append(row["value"])
    order = sorted(values, key=lambda place: (model_order(place[0]), place[1:]))
    return {place: {m: math.fsum(v) / len(v) for m, v in values[place].items()} for place in order}


def gate_tables(frame: pandas.DataFrame) -> list[Table]:
    """The mean gate of every layer on every set, and how many gates are shut or open."""
    rows = Rows()
    for (model, layer, dataset, _), values in by_layer(frame, "gates").items():
        rows.add(
            model,
            str(layer),
            dataset,
            f"{values['gate_mean']:.3f}",
            wording.percent(values["gate_below_0.1"]),
            wording.percent(values["gate_above_0.9"]),
        )
    if not rows.rows:
        return []
    return [
        Table(
            name="gates",
            title="Gates of the memory layers",
            columns=("model", "layer", "set", "mean gate", "below 0.1", "above 0.9"),
            rows=rows.done(),
            note="The share of what the memory recalls in a layer's output, the rest being the token's own value. "
            "Published: gates go to 0 under full attention.",
            labels=3,
            detail=True,
        )
    ]


def addressing_tables(frame: pandas.DataFrame) -> list[Table]:
    """Collisions, coverage and KL to uniform of every layer on every set, per write and over all of them."""
    rows = Rows()
    for (model, layer, dataset, chunk), values in by_layer(frame, "addressing").items():
        entries = []
        for prefix in ("chunk_", ""):
            for metric in ("collision_rate", "coverage"):
                value = values.get(f"{prefix}{metric}")
                entries.append(MISSING if value is None else wording.percent(value))
            kl = values.get(f"{prefix}kl_to_uniform")
            entries.append(MISSING if kl is None else f"{kl:.2f}")
        rows.add(model, str(layer), dataset, wording.grouped(chunk), *entries)
    if not rows.rows:
        return []
    return [
        Table(
            name="addressing",
            title="Use of the slots",
            columns=(
                "model",
                "layer",
                "set",
                "a write every",
                "collisions in a write",
                "coverage of a write",
                "KL of a write",
                "collisions",
                "coverage",
                "KL",
            ),
            rows=rows.done(),
            note="Collisions: the share of reads of slots that were read more than once. Coverage: the share of slots "
            "that were read. KL: distance to even use of all slots, in nats (0 is even); a write of few reads cannot "
            "come near 0. First for single writes, then over the whole set.",
            labels=4,
            detail=True,
        )
    ]
