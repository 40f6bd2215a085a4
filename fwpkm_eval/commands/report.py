"""``fwpkm-eval report DIR``: tables, plots and the report again, from stored rows alone."""

from __future__ import annotations

import json
from pathlib import Path

import click

from fwpkm_eval.commands import options
from fwpkm_eval.errors import UserError


@click.command(name="report")
@click.argument("directory", metavar="DIR", type=options.Folder())
@options.quiet
@options.as_json
def command(directory: Path, quiet: bool, as_json: bool) -> None:
    """Rebuild tables, plots and report.html in DIR, an earlier run's --out folder. Needs no model.

    Prints where the report is; with --json, the paths of all files written.
    """
    if not directory.is_dir():
        raise UserError(f"no such folder: {str(directory)!r}; give the --out folder of an earlier run")

    from fwpkm_eval.reporting import build_report

    written = build_report(directory)
    if as_json:
        click.echo(json.dumps([str(path) for path in written], indent=1))
    elif not quiet:
        click.echo(f"{directory / 'report.html'}")
