"""How many needles memories of several sizes hold."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fwpkm_eval.capacity import MemorySize
from fwpkm_eval.reporting import wording
from fwpkm_eval.reporting.measurements import Measurement, chunk_order, pool
from fwpkm_eval.reporting.table import Cell, Rows, Table, slug
from fwpkm_eval.reporting.wording import MISSING

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Way:
    """How it was asked: haystack in tokens, a write every so many or "haystack", readings."""

    length: int
    write_chunk: str
    passes: int


@dataclass(frozen=True)
class OfSize:
    """Exact match of one size by number of needles: the seeds pooled, and each seed's alone."""

    pooled: dict[int, Measurement]
    by_seed: dict[int, dict[int, float]]

    @property
    def most_held(self) -> float:
        """The most needles held at once: the largest number asked of times the share that was found."""
        return self._best * self.pooled[self._best].value

    @property
    def most_in_words(self) -> str:
        """``43``, or with several seeds ``43 (32–54)``: in brackets the seeds that held least and most of as many."""
        held = sorted(self._best * rates[self._best] for rates in self.by_seed.values() if self._best in rates)
        return f"{self.most_held:.0f}" + (f" ({held[0]:.0f}–{held[-1]:.0f})" if len(held) > 1 else "")

    @property
    def _best(self) -> int:
        """The number of needles of which most were held."""
        return max(self.pooled, key=lambda needles: needles * self.pooled[needles].value)


Found = dict[MemorySize, OfSize]


def capacity_results(frame: pandas.DataFrame) -> dict[Way, Found]:
    """The rows of task ``capacity`` by way of asking; sizes and numbers of needles in order."""
    groups: dict[Way, dict[MemorySize, dict[int, list[dict[Any, Any]]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list))
    )
    rows = frame[(frame["task"] == "capacity") & (frame["metric"] == "exact_match")]
    for row in rows.to_dict("records"):
        way = Way(int(row["length"]), str(row["write_chunk"]), int(row["passes"]))
        groups[way][MemorySize.of(str(row["arm"]))][int(row["needles"])].append(row)
    order = sorted(groups, key=lambda way: (way.length, chunk_order(way.write_chunk), way.passes))
    return {
        way: {
            size: _of_size(groups[way][size])
            for size in sorted(groups[way], key=lambda size: (size.subkeys, size.value_dim))
        }
        for way in order
    }


def _of_size(rows: dict[int, list[dict[Any, Any]]]) -> OfSize:
    by_seed: dict[int, dict[int, float]] = defaultdict(dict)
    for needles in sorted(rows):
        for row in rows[needles]:
            by_seed[int(row["seed"])][needles] = float(row["value"])
    return OfSize({needles: pool(rows[needles]) for needles in sorted(rows)}, dict(by_seed))


def usual_size(found: Collection[MemorySize]) -> MemorySize:
    """The number of sub-keys, and the width, from which most sizes differ in no more than one of the two: all, as the
    command has them. It need not be among them."""
    numbers, widths = (sorted({getattr(size, name) for size in found}) for name in ("subkeys", "value_dim"))
    candidates = [MemorySize(number, width) for number in numbers for width in widths]

    def place(one: MemorySize) -> tuple[int, int]:
        as_many = sum(one.subkeys == size.subkeys for size in found)
        as_wide = sum(one.value_dim == size.value_dim for size in found)
        return as_many + as_wide - (one in found), min(as_many, as_wide)

    return max(candidates, key=place)


def capacity_tables(frame: pandas.DataFrame) -> list[Table]:
    """A table for each way of asking: a line for each size, a column for each number of needles."""
    return [_table(way, found) for way, found in capacity_results(frame).items()]


def _table(way: Way, found: Found) -> Table:
    pooled = {size: of_size.pooled for size, of_size in found.items()}
    asked = sorted({needles for rates in pooled.values() for needles in rates})
    best = {needles: max(rates[needles].value for rates in pooled.values() if needles in rates) for needles in asked}
    rows = Rows()
    for size, of_size in found.items():
        cells = []
        for needles in asked:
            measured = of_size.pooled.get(needles)
            strong = measured is not None and measured.value == best[needles] > 0
            cells.append(Cell(wording.rate(measured) if measured else MISSING, strong=strong))
        rows.add(
            f"{size.subkeys**2:,}",
            str(size.value_dim),
            *cells,
            of_size.most_in_words,
        )
    some = next(iter(next(iter(pooled.values())).values()))
    how = f"{wording.writing(way.write_chunk)}, {wording.readings(way.passes)}"
    over = f"over {some.seeds} seeds" if some.seeds > 1 else "of one training"
    return Table(
        name=slug("capacity", wording.size(way.length), way.write_chunk, wording.readings(way.passes)),
        title=f"Capacity: needles found at {wording.size(way.length)}, {how}",
        columns=("slots", "dv", *(f"{needles} needles" for needles in asked), "most held"),
        rows=rows.done(),
        note="Closed book: the question alone is shown. Each size is a model of its own, trained with the same short "
        f"recipe; {some.n} haystacks {over}, in brackets 95% intervals for the draw of haystacks, "
        "which leave out that another training differs. Most held: the largest number of needles times the share that "
        f"was found{'; in brackets from the seed with the least to that with the most' if some.seeds > 1 else ''}.",
        labels=2,
    )
