"""What an output folder holds: rows, from its cells or from ``rows.csv``, and its manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fwpkm_eval.errors import UserError
from fwpkm_eval.reporting.measurements import chunk_order, model_order
from fwpkm_eval.reporting.needed_fields import check_rows
from fwpkm_eval.runs.cells import CellStore, rows_of
from fwpkm_eval.runs.manifest import load_manifest
from fwpkm_eval.runs.rows import Row, read_rows_csv

ROWS = "rows.csv"


@dataclass(frozen=True)
class Results:
    """The rows of a run. ``from_cells`` says that ``rows.csv`` is to be written anew from them, the ``cells``."""

    rows: list[Row]
    manifest: Mapping[str, Any] | None
    from_cells: bool
    cells_done: int = 0
    cells_planned: int = 0
    cells: Sequence[Mapping[str, Any]] = ()


def gather(out: Path, payloads: Sequence[Mapping[str, Any]] | None = None) -> Results:
    """The rows of the folder ``out``: of its finished cells if there are any, else those of its ``rows.csv``.

    ``payloads``: the cells, of whoever has loaded them; None: they are read.

    If the manifest lists the cells that make up the run, others (of an earlier version, say) are left aside.

    Raises:
        UserError: there is neither, or a file is damaged.
    """
    out = Path(out)
    if not out.is_dir():
        raise UserError(f"no folder {out}: give the --out folder of a run")
    manifest = load_manifest(out)
    there = CellStore(out).load_all() if payloads is None else {str(payload["key"]): payload for payload in payloads}
    planned = [str(key) for key in (manifest or {}).get("cells") or []]
    done = [key for key in planned if key in there] if planned else sorted(there)
    if done:
        cells = [there[key] for key in done]
        return Results(in_order(rows_of(cells)), manifest, True, len(done), len(planned) or len(done), cells)
    if (out / ROWS).exists():
        rows = read_rows_csv(out / ROWS)
        check_rows(out / ROWS, rows)
        return Results(rows, manifest, False)
    raise UserError(f"{out} holds no results: neither finished cells nor {ROWS}")


def in_order(rows: list[Row]) -> list[Row]:
    """The rows by task, model and setting, whatever order their cells were finished in."""

    def place(row: Row) -> tuple[Any, ...]:
        return (
            row.task,
            model_order(row.model),
            row.arm,
            row.dataset,
            row.scope,
            row.protocol,
            # Positions of a loss curve and depths come behind the whole they are parts of.
            (row.length or 0) if row.task == "niah" else 0,
            row.needles or 0,
            chunk_order(row.write_chunk),
            -1 if row.passes is None else row.passes,
            -1 if row.seed is None else row.seed,
            row.depth is not None,
        )

    return sorted(rows, key=place)
