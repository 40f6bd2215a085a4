"""``fwpkm-eval compare A B``: two runs, row by row, for people and for continuous integration."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fwpkm_eval.commands import options
from fwpkm_eval.errors import UserError, shown

if TYPE_CHECKING:
    from fwpkm_eval.reporting.compare import Change, Comparison
    from fwpkm_eval.runs.rows import Row

EXIT_WORSE = 1


def _share(text: str) -> float:
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*%", text.strip(), re.ASCII)
    if match is None:
        raise UserError(f"{text!r} is no share; give one such as 1% or 0.5%")
    return float(match[1]) / 100


def _pair(text: str) -> tuple[str, str]:
    there, equals, here = (part.strip() for part in text.partition("="))
    if not (there and equals and here) or "=" in here:
        raise UserError(f"{shown(text)} is no pair of models; give one such as top32=gdn+swa:fwpkm@1,3: A's, then B's")
    return there, here


_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command(name="compare")
@click.argument("before", metavar="A", type=_FOLDER)
@click.argument("after", metavar="B", type=_FOLDER)
@click.option(
    "--fail-if-worse",
    type=options.Parsed("share", _share),
    default=None,
    metavar="P%",
    help="End with exit code 1 if a value of B is worse by more than this, of other text, or missing; time and memory "
    "do not count.",
)
@click.option(
    "--within",
    type=options.Parsed("share", _share),
    default=None,
    metavar="P%",
    help="Only count, and do not list, values that lie no further apart: another processor rounds otherwise.",
)
@click.option(
    "--as",
    "pairs",
    type=options.Parsed("pair", _pair),
    multiple=True,
    metavar="NAME=NAME",
    help="Hold A's model of the first name (or label) against B's of the second; again for each pair. The same weights "
    "under another label are found without.",
)
@click.option("--timings", is_flag=True, help="Show times, speeds and memory too: they differ between any two runs.")
@click.option("--most", type=click.IntRange(1), default=30, show_default=True, help="Lines shown at most.")
@options.as_json
def command(
    before: Path,
    after: Path,
    fail_if_worse: float | None,
    within: float | None,
    pairs: tuple[tuple[str, str], ...],
    timings: bool,
    most: int,
    as_json: bool,
) -> None:
    """Compare the rows of two runs: their --out folders A (before) and B (after).

    Rows are matched by what they measure: model, task, set, metric, length, passes, write chunk, needles, depth, scope,
    protocol, arm, score and seed. Each metric knows whether lower or higher is better.
    """
    from fwpkm_eval.reporting.compare import compare_rows
    from fwpkm_eval.reporting.compare_models import (
        aligned,
        chosen_pairs,
        pairs_by_weights,
        renamed,
        renamed_in_manifest,
    )
    from fwpkm_eval.reporting.compare_setup import setup_differences
    from fwpkm_eval.reporting.measurements import spec_of
    from fwpkm_eval.runs.manifest import load_manifest

    ours, theirs = _rows(before), _rows(after)
    names = chosen_pairs(ours, theirs, pairs)
    ours = renamed(ours, names)
    same = pairs_by_weights(ours, theirs)
    found = compare_rows(*aligned(renamed(ours, same), theirs, names))
    names |= same
    found.setup = [f"{name} in A is held against {other} in B" for name, other in names.items()]
    of_two_kinds = {other for name, other in names.items() if spec_of(name) != spec_of(other)}
    found.setup += setup_differences(
        renamed_in_manifest(load_manifest(before), names), load_manifest(after), of_two_kinds
    )
    different = [change for change in found.changed if timings or not change.timing]
    listed = [change for change in different if within is None or not change.within(within)]
    near = len(different) - len(listed)
    if as_json:
        click.echo(json.dumps(_as_json(found, listed) | ({} if within is None else {"within": near}), indent=1))
    else:
        _show(found, listed, most, "" if within is None else f", within {100 * within:g}%: {near}")
    if fail_if_worse is None:
        return
    worse, others = found.worse(fail_if_worse), sum(change.other_text for change in found.changed)
    if worse or others or found.only_before:
        missing = f", {others} of other text" if others else ""
        missing += f", {len(found.only_before)} missing" if found.only_before else ""
        values = "value" if len(worse) == 1 else "values"
        click.echo(f"{len(worse)} {values} worse by more than {100 * fail_if_worse:g}%{missing}", err=True)
        raise click.exceptions.Exit(EXIT_WORSE)


def _rows(folder: Path) -> list[Row]:
    from fwpkm_eval.reporting.gather import ROWS, gather
    from fwpkm_eval.runs.rows import read_rows_csv

    if not folder.is_dir():
        raise UserError(f"no such folder: {str(folder)!r}; give the --out folder of a run")
    # A run that was stopped has its finished cells alone; a folder without any is refused there.
    return read_rows_csv(folder / ROWS) if (folder / ROWS).exists() else gather(folder).rows


def _show(found: Comparison, listed: list[Change], most: int, near: str) -> None:
    from fwpkm_eval.commands.measure import print_table

    for line in found.setup:
        click.echo(f"differs: {line}")
    lines = [_line(change) for change in listed[:most]]
    if lines:
        header = ("quantity", "A", "B", "B is", "intervals")
        print_table(header, lines, right=("A", "B"))
    if len(listed) > most:
        click.echo(f"… and {len(listed) - most} more (--most)")
    if found.unknown:
        click.echo(f"not known which way is better, and so never worse: {', '.join(found.unknown)}")
    alone = f"in A alone: {len(found.only_before)}, in B alone: {len(found.only_after)}"
    click.echo(f"equal: {found.same}{near}, different: {len(listed)}, {alone}")


def _line(change: Change) -> tuple[str, ...]:
    before, after = change.before, change.after
    way = ""
    if change.other_text:
        way = "of other text"
    elif change.relative is not None:
        share = abs(change.relative)
        size = f" by {share:.2%}" if math.isfinite(share) else ""
        way = ("worse" if change.relative > 0 else "better") + size
    return (_name(before), _number(before), _number(after), way, "apart" if change.beyond_intervals else "")


def _name(row: Row) -> str:
    passes = f"{row.passes} passes" if row.passes is not None else ""
    needles = f"{row.needles} needles" if row.needles is not None else ""
    depth = f"depth {row.depth}" if row.depth is not None else ""
    chunk = f"every {row.write_chunk}" if row.write_chunk else ""
    length = str(row.length) if row.length is not None else ""
    parts = (row.model, row.dataset, row.metric, length, needles, chunk, passes, depth, row.protocol, row.arm)
    return "  ".join(part for part in parts if part)


def _number(row: Row) -> str:
    return "–" if row.value is None else f"{row.value:.5g}"


def _as_json(found: Comparison, listed: list[Change]) -> dict[str, object]:
    return {
        "equal": found.same,
        "changed": [
            {
                "before": change.before.to_json(),
                "after": change.after.to_json(),
                "better": change.better,
                "other_text": change.other_text,
                "worse_by": change.relative if change.relative is None or math.isfinite(change.relative) else None,
                "beyond_intervals": change.beyond_intervals,
            }
            for change in listed
        ],
        "only_in_a": [row.to_json() for row in found.only_before],
        "only_in_b": [row.to_json() for row in found.only_after],
        "unknown_direction": found.unknown,
        "setup": found.setup,
    }
