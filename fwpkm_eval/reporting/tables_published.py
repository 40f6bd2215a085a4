"""Published numbers with their sources, in tables that hold nothing of ours."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from fwpkm_eval.reporting import published, wording
from fwpkm_eval.reporting.published import Published
from fwpkm_eval.reporting.table import Rows, Table
from fwpkm_eval.reporting.wording import MISSING

if TYPE_CHECKING:
    import pandas


def published_tables(quoted: Collection[str], frame: pandas.DataFrame) -> list[Table]:
    """What the paper says about the tasks whose tables quote it; apart from it what a secondary report says of the very
    corpora and lengths that the rows are of."""
    paper = tuple(number for number in published.PUBLISHED if number.task in quoted)
    sets = {published.corpus_key(name) for name in frame["dataset"]}
    lengths = set(frame[frame["task"] == "niah"]["length"].dropna())
    other = tuple(
        number
        for number in published.SECONDARY_REPORT
        if (number.length in lengths if number.length else published.corpus_key(number.dataset) in sets)
    )
    tables = [
        _table("published", "Published numbers quoted here", paper),
        _table("secondary", "A secondary report, never confirmed by the paper", other),
    ]
    return [table for table in tables if table.rows]


def quotes(tables: Iterable[Table]) -> bool:
    """Whether some table has a published number in it."""
    return any(
        theirs and cell.text not in ("", MISSING)
        for table in tables
        for row in table.rows
        for cell, theirs in zip(row, table.published, strict=True)
    )


def _table(name: str, title: str, numbers: tuple[Published, ...]) -> Table:
    rows = Rows()
    for number in numbers:
        where = (
            number.dataset,
            wording.size(number.length) if number.length else "",
            wording.readings(number.passes) if number.passes else "",
            number.note,
        )
        what = number.metric.replace("_", " ")
        rows.add(number.model, what, ", ".join(filter(None, where)) or MISSING, number.text, number.source)
    return Table(
        name=name,
        title=title,
        columns=("model", "what", "where", "published value", "source"),
        rows=rows.done(),
        note="Measured by others, on larger models and mostly other data: quoted here, not reproduced.",
        labels=3,
        words=1,
        detail=True,
    )
