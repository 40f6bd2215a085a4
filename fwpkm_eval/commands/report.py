"""``fwpkm-eval report DIR``: tables, plots and the report again, from stored rows alone."""

from __future__ import annotations

from pathlib import Path

import click

from fwpkm_eval.errors import UserError


@click.command(name="report")
@click.argument("directory", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
def command(directory: Path) -> None:
    """Rebuild tables, plots and report.html in DIR, an earlier run's --out folder. Needs no model."""
    if not directory.is_dir():
        raise UserError(f"no such folder: {str(directory)!r}; give the --out folder of an earlier run")

    from fwpkm_eval.reporting import build_report

    build_report(directory)
    click.echo(f"{directory / 'report.html'}")
