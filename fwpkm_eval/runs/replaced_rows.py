"""``rows.csv`` written anew, without a row being lost that is not measured again."""

from __future__ import annotations

import itertools
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from fwpkm_eval.errors import UserError
from fwpkm_eval.files import create_whole
from fwpkm_eval.runs.rows import Row, read_rows_csv, without_values, write_rows_csv


def replace_rows(rows: Sequence[Row], path: Path) -> Path:
    """Writes ``rows`` to ``path``. Rows that are there and name something else than these (somebody's own, those of a
    cell that was damaged, or of weights that are no more) are kept: the file as it was, beside it, as
    ``rows-before-1.csv``, which one line on standard error says.

    Raises:
        UserError: a file cannot be written.
    """
    if path.exists():
        try:
            lost = _left_out(read_rows_csv(path), rows)
            which = f"1 row of {path} is" if lost == 1 else f"{lost} rows of {path} are"
            what = f"{which} of no finished cell of this run" if lost else ""
        except UserError as problem:
            what = f"it cannot be read as rows ({problem})"
        if what:
            kept = _keep(path)
            print(f"note: {what}: the file as it was is kept as {kept}", file=sys.stderr, flush=True)
    return write_rows_csv(rows, path)


def _left_out(before: Iterable[Row], now: Iterable[Row]) -> int:
    return (Counter(map(without_values, before)) - Counter(map(without_values, now))).total()


def _keep(path: Path) -> Path:
    content = path.read_bytes()
    for number in itertools.count(1):
        kept = path.with_name(f"{path.stem}-before-{number}{path.suffix}")
        if (kept.exists() and kept.read_bytes() == content) or create_whole(kept, content):
            return kept
    raise AssertionError
