"""Rows of tasks that are not this package's, as plain tables: whoever adds a task sees it in the report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fwpkm_eval.reporting import wording
from fwpkm_eval.reporting.table import Rows, Table, slug
from fwpkm_eval.reporting.tables_harness import PREFIX
from fwpkm_eval.reporting.tables_speed import absent
from fwpkm_eval.reporting.wording import MISSING

if TYPE_CHECKING:
    import pandas

OURS = frozenset(
    {
        *("niah", "ppl", "gates", "addressing", "cost", "trace", "continual", "longbench"),
        *("ablation", "capacity", "bench", "lm-eval", "soak", ""),
    }
)
"""Tasks with tables of their own."""
_SETTINGS = ("dataset", "length", "passes", "write_chunk", "needles", "depth", "protocol", "arm", "seed")


def other_tables(frame: pandas.DataFrame) -> list[Table]:
    """A table for each unknown task: models and settings that differ, metric, value, interval, number of samples."""
    tables = []
    for task in dict.fromkeys(frame["task"]):
        if task in OURS or str(task).startswith(PREFIX):
            continue
        of_task = frame[frame["task"] == task]
        told = [name for name in _SETTINGS if of_task[name].nunique(dropna=False) > 1 or name == "dataset"]
        rows = Rows()
        for record in of_task.to_dict("records"):
            low, high = record["ci_low"], record["ci_high"]
            interval = MISSING if absent(low) or absent(high) else f"{low:.4g} to {high:.4g}"
            rows.add(
                str(record["model"]),
                *(MISSING if absent(record[name]) else str(record[name]) for name in told),
                str(record["metric"]).replace("_", " "),
                MISSING if absent(record["value"]) else f"{record['value']:.4g} {record['unit']}".strip(),
                interval,
                MISSING if absent(record["n"]) else f"{int(record['n']):,}",
            )
        columns = ("model", *told, "metric", "value", "95% interval", "n")
        title = wording.sentence(str(task).replace("_", " ").replace("-", " "))
        tables.append(Table(slug("task", str(task)), title, columns, rows.done(), labels=2 + len(told)))
    return tables
