"""The tables as files to go on with: CSV for programs and spreadsheets, LaTeX for papers."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from fwpkm_eval.files import write_whole
from fwpkm_eval.reporting.latex import MADE, to_latex
from fwpkm_eval.reporting.table import Table


def write_tables(tables: Sequence[Table], folder: Path) -> list[Path]:
    """Write ``folder/NAME.csv`` and ``folder/NAME.tex`` for each table; those that are not made any more are removed.

    Returns:
        The files written.

    Raises:
        UserError: the folder cannot be written to.
    """
    written = []
    for name, table in zip(file_names(tables), tables, strict=True):
        written.append(write_whole(folder / f"{name}.csv", to_csv(table)))
        written.append(write_whole(folder / f"{name}.tex", to_latex(table, name)))
    for old in folder.glob("*.tex"):
        if old not in written and old.read_bytes().startswith(MADE.encode()):
            old.with_suffix(".csv").unlink(missing_ok=True)
            old.unlink()
    return written


def file_names(tables: Sequence[Table]) -> list[str]:
    """A name for each table, its own with a number behind it if another has taken it."""
    names: list[str] = []
    for table in tables:
        tries = (f"{table.name}{f'-{number}' if number > 1 else ''}" for number in range(1, len(tables) + 1))
        names.append(next(name for name in tries if name not in names))
    return names


def to_csv(table: Table) -> str:
    """The table as CSV: a header and the texts as they are shown. What they were made of is in ``rows.csv``."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows([cell.text for cell in row] for row in table.rows)
    return text.getvalue()
