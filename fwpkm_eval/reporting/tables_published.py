"""Published numbers with their sources, in tables that hold nothing of ours."""

from __future__ import annotations

from fwpkm_eval.reporting import published, wording
from fwpkm_eval.reporting.published import Published
from fwpkm_eval.reporting.table import Rows, Table
from fwpkm_eval.reporting.wording import MISSING


def published_tables() -> list[Table]:
    """What the paper says about the tasks measured here, and apart from it what a secondary report says."""
    return [
        _table("published", "Published numbers quoted here", published.PUBLISHED),
        _table("secondary", "A secondary report, never confirmed by the paper", published.SECONDARY_REPORT),
    ]


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
