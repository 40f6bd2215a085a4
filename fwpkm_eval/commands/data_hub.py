"""What ``fwpkm-eval data list|prepare --data hub`` do: published corpora, and which of them are prepared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from fwpkm_eval.errors import UserError


def list_corpora(as_json: bool) -> None:
    """Print the catalogue: a line a split, prepared or not."""
    from fwpkm_eval.commands.text_table import aligned
    from fwpkm_eval.data.corpora import how_to_prepare, hub_folder
    from fwpkm_eval.data.corpora.catalog import CORPORA

    folder = hub_folder()
    splits = [_describe(name, split, folder) for name, corpus in CORPORA.items() for split in corpus.splits]
    if as_json:
        click.echo(json.dumps({"data": "hub", "folder": str(folder), "splits": splits}, indent=2))
        return
    header = ("set", "split", "prepared", "documents", "bytes", "what", "from", "licence")
    rows = [
        (
            split["set"],
            split["split"],
            split["prepared"],
            f"{split['documents']:,}" if split["documents"] else "-",
            f"{split['bytes']:,}" if split["bytes"] else "-",
            split["what"],
            split["from"],
            split["licence"],
        )
        for split in splits
    ]
    click.echo(aligned(header, rows, right=("documents", "bytes")))
    click.echo(f"\nPrepared sets are kept in {folder} (FWPKM_EVAL_DATA names another folder).")
    missing = next((split for split in splits if split["prepared"] != "yes"), None)
    if missing:
        click.echo(f"To prepare one: {how_to_prepare(missing['set'], missing['split'])}")
    for corpus in CORPORA.values():
        if corpus.note:
            click.echo(f"{corpus.name}: {corpus.note}.")


def prepare_corpora(
    names: tuple[str, ...],
    splits: str | None,
    out: Path | None,
    tokens: int | None,
    text_bytes: int | None,
    source: str | None,
    *,
    dry_run: bool,
    quiet: bool,
) -> None:
    """Show what will be fetched, then fetch it, one split after the other; a split that fails does not stop others."""
    from fwpkm_eval.data.corpora import hub_folder
    from fwpkm_eval.data.corpora.catalog import PUBLISHED_TEXTS
    from fwpkm_eval.data.corpora.prepare import make_plan, prepare

    folder = out or hub_folder()
    wanted = list(dict.fromkeys(part.strip() for part in (splits or "test").split(",") if part.strip()))
    if not wanted:
        raise UserError("--splits names no split; valid: test, train")
    chosen = names or PUBLISHED_TEXTS
    if source is not None and (len(chosen) > 1 or not names):
        raise UserError("--source is a copy of one corpus: say which with --set NAME")
    plans = [
        make_plan(name, split, folder, tokens=tokens, text_bytes=text_bytes, source=source)
        for name in chosen
        for split in wanted
    ]

    def say(line: str) -> None:
        if not quiet:
            click.echo(line, err=True)

    for plan in plans:
        if dry_run or not quiet:
            click.echo(plan.describe() + (f"; {plan.corpus.note}" if plan.corpus.note and not source else ""))
    if dry_run:
        return
    failed: list[str] = []
    for plan in plans:
        try:
            prepared = prepare(plan, say)
        except UserError as error:
            if len(plans) == 1:
                raise
            failed.append(f"{plan.name}: {error}")
            say(f"failed: {failed[-1]}")
        else:
            if not quiet:
                click.echo(prepared.describe())
    if failed:
        raise UserError(f"{len(failed)} of {len(plans)} splits were not prepared; first: {failed[0]}")


def _describe(name: str, split: str, folder: Path) -> dict[str, Any]:
    from fwpkm_eval.data.corpora.parts import read_json
    from fwpkm_eval.data.corpora.prepare import make_plan

    plan = make_plan(name, split, folder)
    facts = (read_json(plan.facts_file) or {}) if plan.file.is_file() else {}
    begun = plan.parts_folder.is_dir()
    return {
        "set": name,
        "split": split,
        "prepared": "yes" if plan.file.is_file() else "in part" if begun else "no",
        "documents": facts.get("documents"),
        "bytes": facts.get("text_bytes"),
        "sha256": facts.get("sha256"),
        "what": plan.origin.what,
        "from": plan.corpus.where,
        "size": plan.corpus.size,
        "licence": plan.corpus.licence,
        "published": plan.corpus.published,
    }
