"""Tables, plots and the report, rebuilt from stored rows alone: no model and no torch is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["build_report"]


def build_report(out_dir: Path, payloads: Sequence[Mapping[str, Any]] | None = None) -> list[Path]:
    """Write ``rows.csv``, ``tables.md``, ``tables/``, ``plots/`` and ``report.html`` from what ``out_dir`` holds.

    The rows are those of the finished cells, or if there are none those of ``rows.csv``, which is then left as it is;
    rows in it that no cell gives are kept beside it (`replace_rows`). The same rows and manifest give the same bytes.
    Tables and plots that the rows do not give any more are removed. ``payloads``: the run's finished cells, of whoever
    has loaded them; None: they are read.

    Returns:
        The files written, the report last.

    Raises:
        UserError: the folder holds no results, a file in it is damaged, or it cannot be written to.
    """
    from fwpkm_eval.files import write_whole
    from fwpkm_eval.reporting.exports import write_tables
    from fwpkm_eval.reporting.gather import ROWS, gather
    from fwpkm_eval.reporting.plots import PLOT_NAMES, build_plots
    from fwpkm_eval.reporting.report import render, title
    from fwpkm_eval.reporting.sets import SetFacts
    from fwpkm_eval.reporting.table import to_markdown
    from fwpkm_eval.reporting.tables import build_tables
    from fwpkm_eval.reporting.trace_page import load_traces
    from fwpkm_eval.reporting.training_seeds import with_training_seeds
    from fwpkm_eval.runs.replaced_rows import replace_rows
    from fwpkm_eval.runs.rows import rows_to_frame

    out = Path(out_dir)
    results = gather(out, payloads)
    frame = with_training_seeds(rows_to_frame(results.rows), results.manifest)
    sets = SetFacts.from_manifest(results.manifest)
    tables, plots = build_tables(frame, sets), build_plots(frame, sets)
    unfinished = ""
    if results.cells_done < results.cells_planned:
        unfinished = f"{results.cells_done} of {results.cells_planned} cells are finished"

    written = [replace_rows(results.rows, out / ROWS)] if results.from_cells else []
    written.append(write_whole(out / "tables.md", to_markdown(tables, title(frame))))
    written += write_tables(tables, out / "tables")
    for plot in plots:
        written.append(write_whole(out / "plots" / f"{plot.name}.svg", plot.svg))
        written.append(write_whole(out / "plots" / f"{plot.name}.png", plot.png))
    for old in (out / "plots").glob("*"):
        if old not in written and old.suffix in (".svg", ".png") and old.name.startswith(PLOT_NAMES):
            old.unlink()
    page = render(frame, tables, plots, results.manifest, sets, unfinished, load_traces(out))
    return [*written, write_whole(out / "report.html", page)]
