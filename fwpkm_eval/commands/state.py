"""``fwpkm-eval state``: memory states as files."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fwpkm_eval.commands import options
from fwpkm_eval.commands.groups import ListingGroup
from fwpkm_eval.commands.state_view import log_size_of, norm_of, print_layers, size_of
from fwpkm_eval.commands.text_table import aligned
from fwpkm_eval.errors import UserError

if TYPE_CHECKING:
    from fwpkm_eval.reference_models.stored_state import Span, StoredState

FILE = click.Path(dir_okay=False, path_type=Path)
EXISTING = click.Path(exists=True, dir_okay=False, path_type=Path)


def _span(text: str) -> tuple[int, int]:
    start, colon, stop = text.partition(":")
    if not (colon and all(part.strip().isascii() and part.strip().isdigit() for part in (start, stop))):
        raise UserError(f"span {text!r} is not two token numbers, such as 120:180")
    if int(start) >= int(stop):
        raise UserError(f"span {text!r} is empty: it goes from its first token to before its last, such as 120:180")
    return int(start), int(stop)


model_option = click.option("--model", required=True, metavar="NAME|DIR", help="A shipped model's name, or a folder.")
force_option = click.option("--force", is_flag=True, help="Replace the file, should it be there.")
out_option = click.option("--out", type=FILE, required=True, metavar="FILE", help="The state file to write.")


@click.group(name="state", cls=ListingGroup)
def command() -> None:
    """Keep what a memory has read in a file: see it, diff it, reset it, make it forget.

    A state file belongs to one model, whose weights' hash it holds.
    """


def _check_new(out: Path, force: bool) -> None:
    """Raises UserError, before anything is read, for a file that cannot be written, and for one that would be replaced
    without a word: its write log cannot be had again."""
    if out.exists() and not force:
        raise UserError(f"{out} is there already: choose another --out, or replace it with --force")
    folder = next(place for place in out.absolute().parents if place.exists())
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as problem:
        raise UserError(f"cannot write {out}: {problem.strerror or problem} ({folder})") from None


@command.command(name="save")
@model_option
@options.scale
@click.option(
    "--text",
    "texts",
    type=EXISTING,
    multiple=True,
    required=True,
    metavar="FILE",
    help="UTF-8 text to read; several are read one after another.",
)
@click.option(
    "--label", "labels", multiple=True, metavar="NAME", help="Names for the texts, in order. [default: file names]"
)
@click.option("--passes", type=click.IntRange(1), default=1, show_default=True, help="How often all of it is read.")
@click.option(
    "--write-chunk",
    type=options.WRITE_CHUNK,
    default=None,
    metavar="N|haystack",
    help="Write every N tokens, or once per reading. [default: as trained]",
)
@click.option("--from", "origin", type=EXISTING, default=None, metavar="FILE", help="Read on from this state.")
@click.option("--log", is_flag=True, help="Keep all that is written, so that it can be forgotten exactly.")
@out_option
@force_option
@options.device
@options.quiet
def save(
    model: str,
    scale: str,
    texts: Sequence[Path],
    labels: Sequence[str],
    passes: int,
    write_chunk: int | str | None,
    origin: Path | None,
    log: bool,
    out: Path,
    force: bool,
    device: str,
    quiet: bool,
) -> None:
    """Have a model read text, and save the state it is in after that."""
    _check_new(out, force)
    from fwpkm_eval.api import load_model, tokenizer_of
    from fwpkm_eval.reference_models.state_files import check_same_model, load_state, read_state, save_state
    from fwpkm_eval.reference_models.write_log import keep_log
    from fwpkm_eval.runs.progress import for_terminal
    from fwpkm_eval.tasks.describe import fresh_state
    from fwpkm_eval.tasks.memorise import memorise, read_texts

    loaded = load_model(model, scale, device)
    spans, read_before = [], 0
    if origin is None:
        state = fresh_state(loaded)
        if log:
            keep_log(state)
    else:
        stored = read_state(origin)
        check_same_model(origin, stored, loaded)
        if log and not stored.has_log:
            raise UserError(f"{origin} was saved without --log: a log cannot start in the middle")
        spans, read_before = stored.spans, stored.tokens_read
        state = load_state(origin, loaded).fresh_sequence()
        state.origin = max([span.stop for span in [*spans, *stored.forgotten]], default=read_before)
    tokens, named = read_texts(texts, labels, spans, tokenizer_of(loaded.config), state.origin)
    progress = for_terminal(quiet=quiet)
    progress.start(1, passes * len(tokens), 0)
    started = time.perf_counter()
    try:
        state = memorise(loaded, tokens, state, passes=passes, write_chunk=write_chunk, progress=progress.advance)
        progress.finished(f"{loaded.config.name}  {passes} × {len(tokens):,} tokens", time.perf_counter() - started)
    finally:
        progress.close()
    save_state(out, loaded, state, tokens_read=read_before + passes * len(tokens), spans=[*spans, *named])
    click.echo(f"{out}: {size_of(out.stat().st_size)}{log_size_of(read_state(out))}")


@command.command(name="show", short_help="Show what a state holds, and what reading changed.")
@click.argument("state", type=EXISTING)
@options.as_json
def show(state: Path, as_json: bool) -> None:
    """Show what a state holds: its model, what was read, and what that has changed."""
    from fwpkm_eval.reference_models.state_diff import diff_states
    from fwpkm_eval.reference_models.state_files import read_state

    stored = read_state(state)
    layers = diff_states(stored.reset(), stored, top=0)
    writes = {number: held.memory.writes for number, held in stored.state.memories.items()}
    facts = {
        "model": stored.config.name,
        "scale": stored.config.scale,
        "weights_hash": stored.weights_hash,
        "tokens_read": stored.tokens_read,
        "position": stored.state.position,
        "queued_tokens": stored.state.queued_tokens,
        "file_bytes": state.stat().st_size,
        "log_bytes": stored.log_bytes if stored.has_log else None,
        "spans": [asdict(span) for span in stored.spans],
        "forgotten": [asdict(span) for span in stored.forgotten],
        "layers": [
            {
                "layer": layer.layer,
                "memory": layer.memory,
                "writes": writes[layer.layer],
                "norm": norm_of(stored, layer.layer),
                **{name: value for name, value in asdict(layer).items() if name not in ("layer", "memory", "top")},
            }
            for layer in layers
        ],
    }
    if as_json:
        click.echo(json.dumps(facts, indent=1))
        return
    click.echo(f"{stored.config.name} ({stored.config.scale}), weights {stored.weights_hash}")
    queued = f", {stored.state.queued_tokens} of them not written yet" if stored.state.queued_tokens else ""
    click.echo(f"{stored.tokens_read:,} tokens read{queued}; {size_of(state.stat().st_size)}{log_size_of(stored)}")
    for what, spans in (("tokens", stored.spans), ("forgotten", stored.forgotten)):
        for span in spans:
            click.echo(f"{what} {span.start}:{span.stop}  {span.name}".rstrip())
    print_layers(layers, {layer.layer: writes[layer.layer] for layer in layers}, "changed since the start")


@command.command(name="diff", short_help="Show which slots differ between two states of one model.")
@click.argument("a", type=EXISTING)
@click.argument("b", type=EXISTING)
@click.option("--top", type=click.IntRange(0), default=10, show_default=True, help="Slots to list for each layer.")
@options.as_json
def diff(a: Path, b: Path, top: int, as_json: bool) -> None:
    """Show which slots differ between two states of one model, and by how much."""
    from fwpkm_eval.reference_models.state_diff import diff_states
    from fwpkm_eval.reference_models.state_files import read_state

    layers = diff_states(read_state(a), read_state(b), top)
    if as_json:
        click.echo(json.dumps([asdict(layer) for layer in layers], indent=1))
        return
    if all(layer.empty for layer in layers):
        click.echo("the fast weights are the same, bit for bit")
        return
    print_layers(layers, {}, "changed")
    listed = [
        (layer.layer, slot.slot, f"{slot.change:.4g}", f"{slot.before:.4g}", f"{slot.after:.4g}")
        for layer in layers
        for slot in layer.top
    ]
    if listed:
        header = ("layer", "slot", "change", "norm before", "norm after")
        click.echo("\n" + aligned(header, listed, right=header))


@command.command(name="reset")
@click.argument("state", type=EXISTING)
@out_option
@force_option
def reset(state: Path, out: Path, force: bool) -> None:
    """Write the state in which the same model has read nothing."""
    _check_new(out, force)
    from fwpkm_eval.reference_models.state_files import read_state, write_state

    write_state(out, read_state(state).reset())
    click.echo(f"{out}: {size_of(out.stat().st_size)}")


@command.command(name="forget", short_help="Undo exactly what a span of tokens wrote.")
@click.argument("state", type=EXISTING)
@click.option(
    "--span", type=options.Parsed("span", _span), default=None, metavar="A:B", help="Tokens A to B−1 of what was read."
)
@click.option("--label", default=None, metavar="NAME", help="The text of this name.")
@click.option(
    "--keys",
    type=options.OneOf("choice", ["kept", "undone"]),
    default="kept",
    show_default=True,
    help="Leave the steps of the keys, which hold no contents, or undo them, too.",
)
@out_option
@force_option
@options.device
def forget(
    state: Path, span: tuple[int, int] | None, label: str | None, keys: Any, out: Path, force: bool, device: str
) -> None:
    """Undo exactly what a span of tokens wrote, in every reading of it, by replaying the state's write log.

    The state must have been saved with --log, on the same kind of device. The result is the memory in which
    these tokens were read with a closed gate. What later tokens had already taken from them while being read
    stays with those.
    """
    from fwpkm_eval.devices import resolve_device
    from fwpkm_eval.reference_models.state_diff import diff_states
    from fwpkm_eval.reference_models.state_files import read_state, write_state

    _check_new(out, force)
    if (span is None) == (label is None):
        raise UserError("say what to forget: either --span A:B or --label NAME")
    stored = read_state(state)
    forgotten = _chosen(stored, span, label)
    stored.to(resolve_device(device))
    after = stored.forget(forgotten, keys)
    write_state(out, after)
    layers = diff_states(stored, after, top=0)
    click.echo(f"forgot tokens {forgotten.start}:{forgotten.stop}  {forgotten.name}".rstrip())
    print_layers(layers, {}, "changed")
    click.echo(f"{out}: {size_of(out.stat().st_size)}{log_size_of(after)}")


def _chosen(stored: StoredState, span: tuple[int, int] | None, label: str | None) -> Span:
    """The span that is meant, checked to have been read."""
    from fwpkm_eval.reference_models.stored_state import Span

    if label is not None:
        return stored.span(label)
    assert span is not None
    start, stop = span
    read = max([one.stop for one in [*stored.spans, *stored.forgotten]], default=stored.tokens_read)
    if stop > read:
        raise UserError(f"span {start}:{stop} goes past what was read, which is tokens 0:{read}")
    return Span("", start, stop)
