"""Which training a row's weights are of: what trainings of two models are paired by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fwpkm_eval.runs.manifest import as_mapping
from fwpkm_eval.runs.rows import VARIANT_SEPARATOR

if TYPE_CHECKING:
    import pandas

COLUMN = "training_seed"


def trainings_apart(frame: pandas.DataFrame) -> pandas.DataFrame:
    """The rows in which models that several weights have in common are called by their weights, too: for tables that
    hold one value of a model, not a mean of trainings."""
    weights = frame[frame["weights_hash"] != ""].groupby("model")["weights_hash"].nunique()
    several = frame["model"].isin(weights[weights > 1].index) & frame["weights_hash"].ne("")
    if not several.any():
        return frame
    return frame.assign(
        model=frame["model"].where(~several, frame["model"] + VARIANT_SEPARATOR + frame["weights_hash"].str[:8])
    )


def with_training_seeds(frame: pandas.DataFrame, manifest: Mapping[str, Any] | None) -> pandas.DataFrame:
    """The rows with the seed of the training that gave their weights, from what the manifest says of its models.

    A row's own ``seed`` chose its needles: trainings that were measured in one run share it. The frame comes back as it
    is where the manifest (of an earlier version, say) does not know the training of all weights in it.
    """
    seeds: dict[str, int] = {}
    for entry in map(as_mapping, as_mapping((manifest or {}).get("models")).values()):
        seed = as_mapping(entry.get("training")).get("seed")
        if type(seed) is int:
            seeds[str(entry.get("weights_hash"))] = seed
    if not seeds or set(frame["weights_hash"]) - {""} - set(seeds):
        return frame
    return frame.assign(**{COLUMN: frame["weights_hash"].map(seeds).astype("Int64")})
