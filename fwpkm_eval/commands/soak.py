"""``fwpkm-eval soak``: kills, damaged input, repetition and very long readings, and a table of what was found."""

from __future__ import annotations

import shlex
import sys
import tempfile
from pathlib import Path

import click

from fwpkm_eval.commands import options

PARTS = ("kills", "damage", "repetition", "long")
MODELS = ("gdn+swa", "gdn+swa:fwpkm")


@click.command(name="soak")
@click.option(
    "--only",
    type=options.choices("parts", "part", PARTS),
    default=",".join(PARTS),
    show_default=True,
    help="What to try.",
)
@click.option("--kills", type=click.IntRange(1, 10_000), default=50, show_default=True, help="Runs to kill.")
@click.option(
    "--length", type=options.SIZE, default="1M", show_default=True, help="Tokens of the long haystack, such as 1M."
)
@options.seed
@click.option(
    "--out",
    type=options.Folder(),
    default=None,
    metavar="DIR",
    help="Folder for reliability.md. [default: only print]",
)
@options.quiet
def command(only: tuple[str, ...], kills: int, length: int, seed: int, out: Path | None, quiet: bool) -> None:
    """Try to lose results: kill runs, damage their files, feed them hostile input, repeat them.

    Prints a table of what was found, and ends with exit code 1 if a row was lost or changed, or an input
    neither refused in one line nor repaired. All of it takes about half an hour on two cores.
    """
    from fwpkm_eval.api import find_checkpoint
    from fwpkm_eval.files import write_whole
    from fwpkm_eval.reliability.damage import try_all
    from fwpkm_eval.reliability.kills import kill_trials, small_run
    from fwpkm_eval.reliability.long_reading import read_long
    from fwpkm_eval.reliability.repetition import repeat
    from fwpkm_eval.reliability.table import Findings, as_markdown

    def tell(line: str) -> None:
        if not quiet:
            click.echo(line, err=True)

    found = Findings(shlex.join(["fwpkm-eval", *sys.argv[1:]]))
    with tempfile.TemporaryDirectory(prefix="fwpkm-eval-soak-") as name:
        folder = Path(name)
        run = small_run(MODELS, 4096)
        if "damage" in only:
            found.verdicts = try_all(folder / "damage", find_checkpoint(MODELS[1], "micro"), tell)
        if "repetition" in only:
            found.repetition = repeat(run, folder / "repetition", tell)
        if "kills" in only:
            found.kills = kill_trials(run, folder / "kills", kills, seed, tell)
        if "long" in only:
            tell(f"reading {length:,} tokens")
            found.long = read_long(MODELS, length, folder / "long")
    text = as_markdown(found)
    if out is not None:
        write_whole(out / "reliability.md", text)
    click.echo(text)
    if not found.sound:
        raise click.exceptions.Exit(1)
