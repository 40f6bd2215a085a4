"""From rows to what goes on inside the memories: gates and the use of slots, by model, layer, set and write."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from fwpkm_eval.reporting.measurements import Measurement, labels, model_order
from fwpkm_eval.reporting.wording import grouped
from fwpkm_eval.runs.intervals import mean_interval

if TYPE_CHECKING:
    import pandas


class Place(NamedTuple):
    """What was watched, and on which text. ``model`` is its label: variants (scoring, …) are told apart in it."""

    model: str
    layer: int
    dataset: str
    write_chunk: str

    @property
    def memory(self) -> tuple[str, int, str]:
        """The same without the set."""
        return (self.model, self.layer, self.write_chunk)


def by_layer(frame: pandas.DataFrame, task: str) -> dict[Place, dict[str, Measurement]]:
    """The rows of a task whose metrics end in ``@LAYER``: each metric of each place.

    Of one seed as it was measured; of several the mean with Student's interval over the seeds.
    """
    found: dict[Place, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for place, metric, row in _records(frame, task):
        if not _given(row["depth"]):
            found[place][metric].append(row)
    return {place: {m: _pooled(rows) for m, rows in found[place].items()} for place in _in_order(found)}


def gate_histograms(frame: pandas.DataFrame) -> dict[Place, dict[float, float]]:
    """For each place the share of the tokens whose gate is in each bin, by the bin's middle; the mean of the seeds."""
    found: dict[Place, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for place, metric, row in _records(frame, "gates"):
        if metric == "gate_share" and _given(row["depth"]):
            found[place][row["depth"]].append(row["value"])
    return {
        place: {middle: math.fsum(values) / len(values) for middle, values in sorted(found[place].items())}
        for place in _in_order(found)
    }


def layer_name(place: tuple[str, int, str], places: Iterable[tuple[str, int, str]]) -> str:
    """``layer 2``, and where ``places`` differ in it how often was written."""
    _, layer, chunk = place
    several = len({other[2] for other in places}) > 1
    return f"layer {layer}{f', a write every {grouped(chunk)}' if several and chunk else ''}"


def _records(frame: pandas.DataFrame, task: str) -> Iterable[tuple[Place, str, dict[str, Any]]]:
    rows = frame[frame["task"] == task]
    label = labels(rows)
    for index, row in rows.drop(columns=["seconds"]).drop_duplicates().iterrows():
        metric, at, layer = str(row["metric"]).partition("@")
        if at and layer.isdecimal() and _given(row["value"]):
            place = Place(label[index], int(layer), str(row["dataset"]), str(row["write_chunk"]))
            yield place, metric, {str(name): value for name, value in row.items()}


def _given(value: Any) -> bool:
    import pandas

    return not pandas.isna(value) and math.isfinite(value)


def _pooled(rows: list[dict[str, Any]]) -> Measurement:
    counts = [int(row["n"]) for row in rows if _given(row["n"])]
    if len(rows) == 1:
        low, high = (end if _given(end) else None for end in (rows[0]["ci_low"], rows[0]["ci_high"]))
        return Measurement(rows[0]["value"], sum(counts) or None, low, high)
    mean, low, high = mean_interval([row["value"] for row in rows])
    return Measurement(mean, sum(counts) or None, low, high, len(rows))


def _in_order(places: Mapping[Place, object]) -> list[Place]:
    return sorted(places, key=lambda place: (model_order(place.model), place[1:]))
