"""Results of the lm-evaluation-harness: a line for each metric, a column for each model and way of reading."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fwpkm_eval.reporting import wording
from fwpkm_eval.reporting.table import Rows, Table
from fwpkm_eval.reporting.tables_speed import absent
from fwpkm_eval.reporting.training_seeds import trainings_apart
from fwpkm_eval.reporting.wording import MISSING

if TYPE_CHECKING:
    import pandas

PREFIX = "lm-eval:"


def harness_tables(frame: pandas.DataFrame) -> list[Table]:
    """One table of all rows of tasks ``lm-eval:…``; none without such rows."""
    found = trainings_apart(frame[frame["task"].str.startswith(PREFIX)])
    if found.empty:
        return []
    readers: dict[str, None] = {}
    lines: dict[tuple[str, str, str, str], dict[str, str]] = {}
    for record in found.to_dict("records"):
        reader = _reader(record)
        readers[reader] = None
        length = wording.size(int(record["length"])) if not absent(record["length"]) else ""
        line = (_task(record, found), length, str(record["metric"]), str(record["n"]))
        lines.setdefault(line, {})[reader] = _value(record)
    rows = Rows()
    for line, values in lines.items():
        rows.add(*(part or MISSING for part in line), *(values.get(reader, MISSING) for reader in readers))
    return [
        Table(
            name="lm-eval",
            title="Tasks of the lm-evaluation-harness",
            columns=("task", "length", "metric", "n", *readers),
            rows=rows.done(),
            note="Metrics as lm-eval names them, with 95% intervals where there are any. Each request starts from the "
            "same memory unless the column says otherwise.",
            labels=4,
        )
    ]


def _task(record: Mapping[Any, Any], found: pandas.DataFrame) -> str:
    """The task, and where it was asked with several numbers of needles, with how many."""
    name = str(record["task"]).removeprefix(PREFIX)
    counts = found[found["task"] == record["task"]]["needles"].dropna().unique()
    if len(counts) < 2 or absent(record["needles"]):
        return name
    count = int(record["needles"])
    return f"{name}, {count} needle{'' if count == 1 else 's'}"


def _reader(record: Mapping[Any, Any]) -> str:
    """The model, and what of its reading is not the default."""
    words = [str(record["model"])]
    if record["arm"]:
        words.append(str(record["arm"]))
    if record["scope"] == "stream":
        words.append("memory carried on")
    if record["write_chunk"]:
        words.append(f"written every {record['write_chunk']}")
    if not absent(record["passes"]) and record["passes"]:
        words.append(f"{int(record['passes'])} passes")
    return ", ".join(words)


def _value(record: Mapping[Any, Any]) -> str:
    if absent(record["value"]):
        return "nan"
    text = f"{record['value']:.4g}"
    if not absent(record["ci_low"]) and not absent(record["ci_high"]):
        text += f" ({record['ci_low']:.3g} to {record['ci_high']:.3g})"
    return text
