"""``fwpkm-eval report DIR``: tables, plots and the report again, from stored rows alone."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fwpkm_eval.commands import options
from fwpkm_eval.errors import UserError, shown

if TYPE_CHECKING:
    from fwpkm_eval.reporting.merge import Part


def _part(given: Path) -> Part:
    """``runs/a``, or ``text=runs/a`` with a label."""
    from fwpkm_eval.commands.sources import LABEL, LABEL_RULE
    from fwpkm_eval.reporting.merge import Part

    label, equals, folder = str(given).partition("=")
    if not equals or "/" in label or given.is_dir():
        return Part(given)
    if not (LABEL.fullmatch(label) and folder):
        raise UserError(f"{shown(str(given))} is no LABEL=DIR: {LABEL_RULE}, as in text=runs/a")
    return Part(Path(folder), label)


@click.command(name="report")
@click.argument("runs", metavar="DIR...", nargs=-1, required=True, type=options.Folder())
@click.option(
    "--out",
    type=options.Folder(),
    default=None,
    metavar="DIR",
    help="A folder of its own for a report of several runs; needed for more than one.",
)
@options.quiet
@options.as_json
def command(runs: tuple[Path, ...], out: Path | None, quiet: bool, as_json: bool) -> None:
    """Rebuild tables, plots and report.html in DIR, an earlier run's --out folder. Needs no model.

    Several runs, as in report runs/a runs/b --out runs/both, stand in one report, several trainings of a model pooled
    as such; LABEL=DIR gives all models of a run a label, so that they stand apart. Prints where the report is; with
    --json, the paths of all files written.
    """
    parts = [_part(run) for run in runs]
    if out is None and (len(parts) > 1 or parts[0].label):
        raise UserError("a report of several runs, or of labelled ones, needs a folder of its own: --out DIR")
    for part in parts:
        if not part.folder.is_dir():
            raise UserError(f"no such folder: {str(part.folder)!r}; give the --out folder of an earlier run")

    from fwpkm_eval.reporting import build_report
    from fwpkm_eval.reporting.merge import merge_runs

    directory = parts[0].folder if out is None else out
    if out is not None:
        for note in merge_runs(parts, out, ["fwpkm-eval", *sys.argv[1:]]):
            click.echo(f"note: {note}", err=True)
    written = build_report(directory)
    if as_json:
        click.echo(json.dumps([str(path) for path in written], indent=1))
    elif not quiet:
        click.echo(f"{directory / 'report.html'}")
