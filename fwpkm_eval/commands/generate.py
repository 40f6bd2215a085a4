"""``fwpkm-eval generate``: what a model says to a prompt, after memorising a text or without."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import click

from fwpkm_eval.commands import options, sources
from fwpkm_eval.errors import UserError


def _one_model(text: str) -> str | Path:
    found = sources.names_or_folders(text)
    if len(found) != 1:
        raise UserError(f"{text!r} names {len(found)} models; one is needed")
    label, model = sources.label_and_model(found[0])
    if label:
        raise UserError(f"{text!r} has a label, which is for tables: name the model alone, {model}")
    return model


@click.command(name="generate")
@click.option(
    "--model",
    type=options.Parsed("model", _one_model),
    required=True,
    metavar="NAME",
    help="A model's name, or a folder that holds a checkpoint.",
)
@options.scale
@click.option("--prompt", default="", help="Text to go on from. [default: the start of a document]")
@click.option(
    "--prompt-file",
    type=click.Path(path_type=Path, allow_dash=True),
    default=None,
    metavar="FILE",
    help="Take the prompt from a file; - is standard input.",
)
@click.option(
    "--memorise",
    type=click.Path(path_type=Path),
    default=None,
    metavar="FILE",
    help="Read this text into the fast weights first; the prompt then starts a fresh sequence.",
)
@click.option(
    "--from",
    "origin",
    type=click.Path(path_type=Path),
    default=None,
    metavar="FILE",
    help="Start from the memory in this file of `state save`. [default: as the model starts]",
)
@click.option("--passes", type=click.IntRange(1, 10_000), default=None, help="Readings of that text.  [default: 1]")
@options.own_write_chunk
@click.option("--write", is_flag=True, help="Write prompt and answer into the fast weights, too, as they come.")
@click.option("--tokens", type=options.SIZE, default="256", show_default=True, help="Tokens to generate at most.")
@click.option("--stop", multiple=True, metavar="TEXT", help="End before this text; may be given more than once.")
@click.option(
    "--temperature",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="0 takes the most probable token, above 0 draws (see --seed).",
)
@options.seed
@options.device
@options.dtype
@options.quiet
@options.as_json
def command(
    model: str | Path,
    scale: str,
    prompt: str,
    prompt_file: Path | None,
    memorise: Path | None,
    origin: Path | None,
    passes: int | None,
    write_chunk: int | str | None,
    write: bool,
    tokens: int,
    stop: tuple[str, ...],
    temperature: float,
    seed: int,
    device: str,
    dtype: str,
    quiet: bool,
    as_json: bool,
) -> None:
    """Go on from a prompt, token by token, until the end of the document, a stop text, or --tokens.

    Nothing is written into the fast weights but the text of --memorise, unless --write is given; files keep what they
    hold (`state save` keeps what was read).
    """
    if prompt and prompt_file is not None:
        raise UserError("--prompt and --prompt-file are both given: one is enough")
    if prompt_file is not None:
        prompt = _read(prompt_file)
    text = None if memorise is None else _read(memorise)
    if text == "":
        raise UserError(f"{memorise} is empty: there is nothing to memorise")
    if passes is not None and text is None:
        raise UserError("--passes counts readings of the text of --memorise: give that, too, or leave it out")
    if "" in stop:
        raise UserError("--stop is empty: give the text to end before, or leave it out")
    from fwpkm_eval.api import load_model, load_state, tokenizer_of
    from fwpkm_eval.devices import resolve_device
    from fwpkm_eval.generation import Sampling, decode
    from fwpkm_eval.generation_text import Written, token_ids
    from fwpkm_eval.malloc import tune_malloc
    from fwpkm_eval.tasks.describe import fresh_state, measuring
    from fwpkm_eval.tasks.reading import Reader

    tune_malloc()
    where = resolve_device(device)
    loaded = load_model(model, scale, where, dtype=dtype)
    tokenizer = tokenizer_of(loaded.config)
    if not loaded.has_fast_weights and (text is not None or write or origin is not None):
        option = "--from" if origin is not None else "--memorise" if text is not None else "--write"
        raise UserError(f"{loaded.config.name} has no fast weights to write into: leave {option} out")
    every = write_chunk or loaded.config.chunk_size
    reader = Reader(loaded, every)
    with measuring(loaded):
        read = None if text is None else token_ids(tokenizer, text, where)
        readings = 0 if read is None else passes or 1
        shown = token_ids(tokenizer, prompt, where)
        # The longest sequence to come says how full attention rotates (YaRN).
        memory = fresh_state(loaded, max(shown.shape[1] + tokens, 0 if read is None else read.shape[1]))
        if origin is not None:
            memory = replace(load_state(origin, loaded).fresh_sequence(), yarn=memory.yarn)
        if read is not None:
            memory = reader.memorise(read, memory, readings)
            if not quiet:
                times = "once" if readings == 1 else f"{readings} times"
                click.echo(f"memorised {read.shape[1]:,} tokens, read {times}", err=True)
        logits, state = reader.predict(shown, memory.fresh_sequence(), write=write)
        steps = decode(
            loaded,
            logits,
            state,
            limit=tokens,
            sampling=Sampling(temperature, seed),
            write=write,
            write_chunk=every,
        )
        written = Written(tokenizer, stop)
        for piece in written.pieces(int(step.token) for step in steps):
            if not as_json:
                click.echo(piece, nl=False)
    if as_json:
        facts = {
            "model": loaded.config.name,
            "weights_hash": loaded.weights_hash,
            "prompt": prompt,
            "memorised_tokens": 0 if read is None else read.shape[1],
            "passes": readings,
            "write_chunk": str(every) if text is not None or write else "",
            "text": written.text,
            "tokens": written.ids,
            "ended_by": written.ended_by,
        }
        click.echo(json.dumps(facts, ensure_ascii=False))
    else:
        click.echo()


def _read(path: Path) -> str:
    data = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start})") from None
