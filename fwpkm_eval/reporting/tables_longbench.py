"""Answer perplexity on long texts, by set and number of readings, beside what was published."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from fwpkm_eval.reporting import wording
from fwpkm_eval.reporting.measurements import chunk_order, model_order, writes
from fwpkm_eval.reporting.table import Rows, Table, slug
from fwpkm_eval.reporting.training_seeds import trainings_apart
from fwpkm_eval.reporting.wording import MISSING

if TYPE_CHECKING:
    import pandas

PUBLISHED = {
    "2wikimqa": "gdn 19.50, gdn:fwpkm@2,6,10 13.38",
    "hotpotqa": "gdn 36.25, gdn:fwpkm@2,6,10 21.38",
}
"""Answer perplexities of arXiv 2601.00671v2, by set."""

Line = tuple[str, str, str]
"""(model, protocol, write chunk)."""


def longbench_tables(frame: pandas.DataFrame) -> list[Table]:
    """For each set one table: models and ways of reading down, numbers of readings across."""
    rows = trainings_apart(frame[(frame["task"] == "longbench") & (frame["metric"] == "answer_perplexity")])
    return [_table(str(name), of_set) for name, of_set in rows.groupby("dataset", sort=True)]


def _table(name: str, rows: pandas.DataFrame) -> Table:
    found: dict[Line, dict[int, str]] = {}
    for row in rows.to_dict("records"):
        line = (str(row["model"]), str(row["protocol"]), str(row["write_chunk"]))
        found.setdefault(line, {})[int(row["passes"])] = _value(row["value"], row["ci_low"], row["ci_high"])
    passes = sorted({count for line in found.values() for count in line})
    lines = Rows()
    for model, protocol, chunk in sorted(found, key=lambda line: (model_order(line[0]), line[1], chunk_order(line[2]))):
        values = found[model, protocol, chunk]
        written = wording.writing_short(chunk) if writes(model) else MISSING
        lines.add(model, protocol, written, *(values.get(count, MISSING) for count in passes))
    quoted = PUBLISHED.get(name)
    published = f" Published, with another tokeniser and at another scale: {quoted}." if quoted else ""
    return Table(
        name=slug("longbench", name),
        title=f"Answer perplexity: {name}",
        columns=("model", "protocol", "a write every", *(wording.readings(count) for count in passes)),
        rows=lines.done(),
        note=f"exp of the nats per token of the right answers, {int(rows['n'].max()):,} tokens, with its 95% interval "
        f"over questions; readings of the text come before the question. Lower is better.{published}",
        labels=3,
    )


def _value(value: float, low: float | None, high: float | None) -> str:
    if not math.isfinite(value):
        return "diverged"
    if low is None or high is None or math.isnan(low):
        return f"{value:.2f}"
    return f"{value:.2f} ({low:.2f}–{high:.2f})"
