"""Two runs, row by row: what changed, by how much, which way, and what differs in how they were made."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Any

from fwpkm_eval.reporting.directions import Direction, direction, is_timing, sense, tells_of_harm
from fwpkm_eval.runs.rows import Row, arm_without_yarn

SAME_MEASUREMENT = (
    *("model", "scale", "task", "dataset", "metric", "length", "passes", "write_chunk", "needles", "depth"),
    *("scope", "protocol", "arm", "score", "seed"),
)
"""What two rows must share to be two values of one quantity. Device, type, backend, weights and version may differ."""
READING = ("ppl", "gates", "addressing")
"""Tasks whose rows say in `tokens` how much of a set they are of."""
Key = tuple[Any, ...]
_WITHIN_A_MEASUREMENT = ("metric", "passes", "depth")
"""In what the rows of one measurement differ among themselves."""


@dataclass(frozen=True)
class Change:
    """One quantity in both runs.

    relative: (there − here)/|here| as a loss of quality, positive where B is worse, None where no way is better
    or the text is another.
    beyond_intervals: the 95% intervals of both are known and do not meet. A run that has no such row as nothing went
    wrong in it has one without a value here.
    """

    before: Row
    after: Row
    better: Direction
    relative: float | None
    beyond_intervals: bool

    @property
    def other_text(self) -> bool:
        """Whether the values are of different text, or of more of it: then none of them is the better one."""
        return _of_other_text(self.before, self.after)

    @property
    def timing(self) -> bool:
        return is_timing(self.before.metric)

    def within(self, share: float) -> bool:
        """Whether the values lie no further apart than that share of A's (0.01: 1%), whichever way is better."""
        here, there = self.before.value, self.after.value
        if here is None or there is None or not (math.isfinite(here) and math.isfinite(there)):
            return False
        return abs(there - here) <= share * abs(here)


@dataclass
class Comparison:
    """Quantities with equal values; those that changed, the worst first; rows of one run alone; and the manifests."""

    same: int = 0
    changed: list[Change] = field(default_factory=list)
    only_before: list[Row] = field(default_factory=list)
    only_after: list[Row] = field(default_factory=list)
    setup: list[str] = field(default_factory=list)

    def worse(self, limit: float) -> list[Change]:
        """What got worse by more than ``limit`` (0.01: by 1%). Time and memory, which always differ, are left out."""
        return [c for c in self.changed if not c.timing and c.relative is not None and c.relative > limit]

    @property
    def unknown(self) -> list[str]:
        """Metrics that changed and of which it is not known which way is better: those of somebody's own tasks."""
        return sorted({change.before.metric for change in self.changed if sense(change.before.metric) is None})


def compare_rows(before: Sequence[Row], after: Sequence[Row]) -> Comparison:
    """The rows of two runs, matched by what they measure; several trainings of a model as `_pairs` does."""
    measured_there, measured_here = ({key for row in rows for key in _measurements(row)} for rows in (after, before))
    result = Comparison()
    for row, other in _pairs(before, after):
        if row is not None and other is not None:
            if _equal(row.value, other.value):
                result.same += 1
            else:
                result.changed.append(_change(row, other))
        elif row is not None:
            if tells_of_harm(row.metric) and _measurement(row) in measured_there:
                result.changed.append(_gone_or_new(row, replace(row, value=None)))
            else:
                result.only_before.append(row)
        elif other is not None:
            if tells_of_harm(other.metric) and _measurement(other) in measured_here:
                result.changed.append(_gone_or_new(replace(other, value=None), other))
            else:
                result.only_after.append(other)
    result.changed.sort(key=lambda change: -math.inf if change.relative is None else change.relative, reverse=True)
    return result


def _pairs(before: Sequence[Row], after: Sequence[Row]) -> Iterator[tuple[Row | None, Row | None]]:
    """Rows of one quantity in two runs, None where a run has none.

    Where a run has several, of several trainings of a model, those of the same weights belong together; the others are
    taken in their order.
    """
    here, there = _by_key(before), _by_key(after)
    for key in here | there:
        ours, theirs = here.get(key, {}), there.get(key, {})
        shared = [weights for weights in ours if weights in theirs]
        yield from ((ours[weights], theirs[weights]) for weights in shared)
        rest = ([row for weights, row in rows.items() if weights not in shared] for rows in (ours, theirs))
        yield from zip_longest(*rest)


def _by_key(rows: Sequence[Row]) -> dict[Key, dict[str, Row]]:
    """The rows of each quantity, by the weights that they are of."""
    found: dict[Key, dict[str, Row]] = {}
    for row in rows:
        found.setdefault(tuple(_quantity(row).values()), {})[row.weights_hash] = row
    return found


def _quantity(row: Row) -> dict[str, Any]:
    """What two rows must share; whether YaRN was needed follows from model and length."""
    return {name: getattr(row, name) for name in SAME_MEASUREMENT} | {"arm": arm_without_yarn(row.arm)}


def _measurement(row: Row) -> Key:
    """What the rows of one measurement share. A row of harm belongs to one that wrote other rows, too."""
    return tuple(value for name, value in _quantity(row).items() if name not in _WITHIN_A_MEASUREMENT)


def _measurements(row: Row) -> Iterator[Key]:
    """The measurement of a row and, where a model is asked by some protocol, that of what it read before: a memory that
    diverges then does so whatever is asked, and its row has no protocol."""
    yield _measurement(row)
    if row.protocol:
        yield _measurement(replace(row, protocol=""))


def _equal(one: float | None, other: float | None) -> bool:
    return one == other or (one is not None and other is not None and math.isnan(one) and math.isnan(other))


def _change(before: Row, after: Row) -> Change:
    better = direction(before.metric, before.unit)
    relative = None if _of_other_text(before, after) else _worse_by(before.value, after.value, better)
    return Change(before, after, better, relative, _apart(before, after))


def _of_other_text(before: Row, after: Row) -> bool:
    if before.data_hash and after.data_hash and before.data_hash != after.data_hash:
        return True
    read = before.tokens, after.tokens
    return before.task in READING and None not in read and read[0] != read[1]


def _gone_or_new(before: Row, after: Row) -> Change:
    """Of a row that tells of harm, where one run has none."""
    relative = math.inf if before.value is None else -math.inf
    return Change(before, after, direction(before.metric, before.unit), relative, beyond_intervals=False)


def _worse_by(before: float | None, after: float | None, better: Direction) -> float | None:
    if better == "neither":
        return None
    finite = [value is not None and math.isfinite(value) for value in (before, after)]
    if not all(finite):  # a value that was lost, or came back
        return math.inf if finite[0] else -math.inf
    assert before is not None
    assert after is not None
    loss = after - before if better == "lower" else before - after
    return loss / abs(before) if before else math.copysign(math.inf, loss)


def _apart(before: Row, after: Row) -> bool:
    bounds = (before.ci_low, before.ci_high, after.ci_low, after.ci_high)
    if any(bound is None for bound in bounds):
        return False
    low, high, other_low, other_high = (float(bound) for bound in bounds if bound is not None)
    return high < other_low or other_high < low
