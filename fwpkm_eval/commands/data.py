"""``fwpkm-eval data list|prepare``: what text there is, what is missing and how to get it."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fwpkm_eval.commands import options
from fwpkm_eval.commands.groups import ListingGroup

if TYPE_CHECKING:
    from fwpkm_eval.data import TextSet


@click.group(name="data", cls=ListingGroup)
def command() -> None:
    """Show the text sets there are, or prepare them."""


@command.command(name="list", short_help="Show each set and what is missing.")
@options.data
@options.as_json
def list_sets(data: str, as_json: bool) -> None:
    """Show each set (documents, bytes, hash, what it stands in for), and how to get what is missing.

    With --data hub: the published corpora, and which of them are prepared.
    """
    from fwpkm_eval.commands.text_table import aligned
    from fwpkm_eval.data import available_sets
    from fwpkm_eval.data.corpora.catalog import CORPORA, PUBLISHED_TEXTS

    if data == "hub":
        from fwpkm_eval.commands.data_hub import list_corpora

        list_corpora(as_json)
        return

    sets = available_sets(data)
    splits = [_describe(data, info.name, split) for info in sets for split in info.splits]
    names = {info.name for info in sets}
    missing = [
        {"set": name, "title": corpus.title, "stand_in": stand_in, "from": corpus.where}
        for name, corpus in ((name, CORPORA[name]) for name in PUBLISHED_TEXTS)
        if name not in names
        for stand_in in [next((info.name for info in sets if info.stands_in_for == corpus.title), None)]
    ]
    unreadable = [split for split in splits if split["problem"]]
    if as_json:
        click.echo(json.dumps({"data": data, "splits": splits, "missing": missing}, indent=2))
    else:
        header = ("set", "split", "documents", "bytes", "sha256", "stands in for", "origin")
        click.echo(aligned(header, [_cells(split) for split in splits], right=("documents", "bytes")))
        if missing:
            click.echo("\nNot here:")
            for corpus in missing:
                instead = f" ({corpus['stand_in']} stands in for it)" if corpus["stand_in"] else ""
                click.echo(f"  {corpus['title']}{instead}: from {corpus['from']}")
            click.echo(
                f"To fetch one: fwpkm-eval data prepare --data hub --set {missing[0]['set']}. Or put it in a folder as"
                " <set>/<split>.jsonl[.gz], one JSON object with a text field a line"
                f" ({missing[0]['set']}/test.jsonl.gz), and give that folder as --data."
            )
    if unreadable:
        from fwpkm_eval.errors import UserError

        raise UserError(f"{len(unreadable)} of {len(splits)} splits cannot be used; first: {unreadable[0]['problem']}")


@command.command(name="prepare", short_help="Check every set, write them as files, or fetch published corpora.")
@options.data
@click.option(
    "--set",
    "--sets",
    "only",
    type=options.NAMES,
    multiple=True,
    metavar="NAMES",
    help="Only these sets, separated by commas; may be repeated. [default: all]",
)
@click.option(
    "--out",
    type=options.Folder(),
    default=None,
    metavar="DIR",
    help="Also write the sets there, as a folder that --data takes. [default for hub: the folder --data hub reads]",
)
@click.option("--splits", default=None, metavar="NAMES", help="hub: splits, separated by commas. [default: test]")
@click.option("--tokens", type=options.SIZE, default=None, metavar="SIZE", help="hub: text for so many tokens.")
@click.option("--bytes", "text_bytes", type=options.SIZE, default=None, metavar="SIZE", help="hub: so much text.")
@click.option("--source", default=None, metavar="PATH|URL", help="hub: a copy of the corpus to read in its place.")
@click.option("--dry-run", is_flag=True, help="hub: only show what would be fetched.")
@options.quiet
def prepare_sets(
    data: str,
    only: tuple[tuple[str, ...], ...],
    out: Path | None,
    splits: str | None,
    tokens: int | None,
    text_bytes: int | None,
    source: str | None,
    dry_run: bool,
    quiet: bool,
) -> None:
    """Read and check every split; with --out, write them as files, for another machine to read.

    With --data hub: fetch published corpora into the folder that --data hub reads. What will be fetched is shown
    first; a run that was cut goes on where it stopped.
    """
    from fwpkm_eval.data import available_sets, load_set
    from fwpkm_eval.errors import UserError, unknown

    wanted = tuple(dict.fromkeys(name for names in only for name in names))
    if data == "hub":
        from fwpkm_eval.commands.data_hub import prepare_corpora

        prepare_corpora(wanted, splits, out, tokens, text_bytes, source, dry_run=dry_run, quiet=quiet)
        return
    given = {"--splits": splits, "--tokens": tokens, "--bytes": text_bytes, "--source": source, "--dry-run": dry_run}
    if without := [option for option, value in given.items() if value]:
        raise UserError(f"{without[0]} goes with --data hub alone")
    sets = {info.name: info for info in available_sets(data)}
    for name in wanted:
        if name not in sets:
            raise unknown("set", name, sets)
    for name in wanted or sets:
        for split in sets[name].splits:
            text_set = load_set(data, name, split)
            facts = [
                f"{len(text_set.documents):,} documents",
                f"{text_set.text_bytes:,} bytes",
                f"sha256 {text_set.sha256[:16]}",
            ]
            if out is not None:
                facts.append(_write(text_set, out))
            if not quiet:
                click.echo(f"{name}/{split}: {', '.join(facts)}")


def _describe(data: str, name: str, split: str) -> dict[str, Any]:
    from fwpkm_eval.data import load_set
    from fwpkm_eval.errors import UserError

    facts: dict[str, Any] = {"set": name, "split": split}
    try:
        text_set = load_set(data, name, split)
    except UserError as error:
        return facts | {"problem": str(error)}
    return facts | {
        "documents": len(text_set.documents),
        "bytes": text_set.text_bytes,
        "sha256": text_set.sha256,
        "stands_in_for": text_set.stands_in_for,
        "origin": text_set.origin,
        "problem": None,
    }


def _cells(split: dict[str, Any]) -> tuple[str, ...]:
    if split["problem"]:
        return (split["set"], split["split"], "-", "-", "-", "-", split["problem"])
    return (
        split["set"],
        split["split"],
        f"{split['documents']:,}",
        f"{split['bytes']:,}",
        split["sha256"][:16],
        split["stands_in_for"] or "-",
        split["origin"],
    )


def _write(text_set: TextSet, out: Path) -> str:
    """Writes one split into the data folder ``out``; what is already there is checked, never replaced."""
    from fwpkm_eval.data import load_set
    from fwpkm_eval.errors import UserError
    from fwpkm_eval.files import create_whole

    path = out / text_set.name / f"{text_set.split}.jsonl.gz"
    lines = "".join(
        json.dumps({"id": document.id, "text": document.text}, ensure_ascii=False) + "\n"
        for document in text_set.documents
    )
    plain = path.with_suffix("")
    if plain.exists():  # beside it another file of the split would make the set unreadable
        path, created = plain, False
    else:
        created = create_whole(path, gzip.compress(lines.encode("utf-8"), mtime=0))
    if load_set(str(out), text_set.name, text_set.split).sha256 != text_set.sha256:
        raise UserError(f"{path} holds other text than {text_set.name}/{text_set.split}: give another folder as --out")
    return f"{'written to' if created else 'already in'} {path}"
