"""What a row of a task must hold to be shown: rows of a ``rows.csv`` may have been made, or changed, by others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from fwpkm_eval.errors import UserError
from fwpkm_eval.runs.rows import Row

NEEDED: dict[tuple[str, str], tuple[str, ...]] = {
    ("niah", "exact_match"): ("value", "length", "passes", "needles"),
    ("capacity", "exact_match"): ("value", "seed", "length", "passes", "needles", "arm"),
    ("ablation", ""): ("seed", "score", "arm"),
    ("ablation", "exact_match"): ("value", "passes", "needles"),
    ("longbench", "answer_perplexity"): ("value", "n", "passes"),
    ("continual", "bits_per_byte"): ("value", "length", "passes"),
    ("cost", ""): ("value", "length"),
}
"""By task and metric ("": all of the task)."""
_COUNTS = ("length", "needles", "n")
"""Of these there is one at least."""
_RATES = ("exact_match", "digit_accuracy", "distractor_rate", "other_number_rate", "no_number_rate")
_POSITIVE = {("ppl", "bits_per_byte"), ("ppl", "perplexity"), ("continual", "bits_per_byte")}


def check_rows(path: Path, rows: Sequence[Row]) -> None:
    """Refuses rows, read from ``path``, that lack what their task's tables are made of, or hold what cannot be.

    Raises:
        UserError: it names the row and the field.
    """
    for number, row in enumerate(rows, 2):  # the first line has the names
        where = f"{path}: row {number} ({row.task}, {row.metric})"
        for name in (*NEEDED.get((row.task, ""), ()), *NEEDED.get((row.task, row.metric), ())):
            value = getattr(row, name)
            if value is None or value == "":
                raise UserError(f"{where} has no {name}, without which it cannot be shown")
            if name in _COUNTS and value < 1:
                raise UserError(f"{where} has {name} {value}; it must be at least 1")
        value = row.value
        if value is None or math.isnan(value):
            continue
        if (row.task, row.metric) in _POSITIVE and value <= 0:
            raise UserError(f"{where} has value {value:g}; it must be above 0")
        if row.task in ("niah", "ablation", "capacity") and row.metric in _RATES and not 0 <= value <= 1:
            raise UserError(f"{where} has value {value:g}; a rate is from 0 to 1")
        if row.task == "cost" and not 0 < value < math.inf:
            raise UserError(f"{where} has value {value:g}; it must be a number above 0")
