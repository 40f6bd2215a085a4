"""Inside the memories: gates and the use of slots, by layer and set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fwpkm_eval.reporting import wording
from fwpkm_eval.reporting.measurements_memory import by_layer
from fwpkm_eval.reporting.table import Rows, Table
from fwpkm_eval.reporting.wording import MISSING

if TYPE_CHECKING:
    import pandas


def gate_tables(frame: pandas.DataFrame) -> list[Table]:
    """The mean gate of every layer on every set, and how many gates are shut or open."""
    rows = Rows()
    for (model, layer, dataset, _), values in by_layer(frame, "gates").items():
        mean, low, high = (values.get(f"gate_{name}") for name in ("mean", "below_0.1", "above_0.9"))
        rows.add(
            model,
            str(layer),
            dataset,
            f"{mean.value:.3f}" if mean else MISSING,
            *(wording.percent(share.value) if share else MISSING for share in (low, high)),
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
                entries.append(MISSING if value is None else wording.percent(value.value))
            kl = values.get(f"{prefix}kl_to_uniform")
            entries.append(MISSING if kl is None else f"{kl.value:.2f}")
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
