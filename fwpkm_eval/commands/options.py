"""Options that several commands share, so that each means and reads the same everywhere.

Each is a decorator for a click command: ``@options.seed``; ``@options.measuring`` adds all that a command
which runs models takes. What they pass on is named as in ``def command(data, seed, device, dtype, out,
engine, workers, quiet, as_json)``. To add one, write it here beside the others. Nothing here imports
torch.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import click

from fwpkm_eval.devices import DTYPES, check_device_name
from fwpkm_eval.errors import UserError, unknown
from fwpkm_eval.runs.shards import Shard, parse_shard
from fwpkm_eval.sizes import parse_size, parse_sizes

ENGINES = ("local", "ray")
SMALLEST_LIMIT = 512 * 2**20
Command = TypeVar("Command", bound=Callable[..., Any])


class Parsed(click.ParamType):
    """An option type that is read by a function of the text; its UserError becomes the option's error."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value  # a default that is already what the text would be read as
        try:
            return self._parse(value)
        except UserError as error:
            self.fail(str(error), param, ctx)


def _model_name(text: str) -> str:
    from fwpkm_eval.reference_models.notation import parse_model_name

    return parse_model_name(text).name


def _model_names(text: str) -> tuple[str, ...]:
    from fwpkm_eval.reference_models.notation import split_model_names

    return tuple(dict.fromkeys(_model_name(name) for name in split_model_names(text)))


def _passes(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) < 6 for part in parts):
        raise UserError(f"passes {text!r} are not numbers of readings, such as 1,2,4")
    return tuple(dict.fromkeys(int(part) for part in parts))


def _engine(text: str) -> str:
    if text not in ENGINES:
        raise unknown("engine", text, ENGINES)
    if text == "ray" and importlib.util.find_spec("ray") is None:
        raise UserError("engine 'ray' needs the package ray: pip install 'fwpkm-eval[cluster]'")
    return text


def _memory_limit(text: str) -> int:
    limit = parse_size(text)
    if limit < SMALLEST_LIMIT:
        raise UserError(f"memory limit {text} is too small to load a model at all: give at least 512M")
    if importlib.util.find_spec("resource") is None:
        raise UserError("--memory-limit needs a system that can limit a process (Linux)")
    return limit


def _write_chunk(text: str) -> int | str:
    return text if text == "haystack" else parse_size(text)


SIZE = Parsed("size", parse_size)
"""One size, ``4K`` or ``4096`` -> 4096."""
SIZES = Parsed("sizes", parse_sizes)
"""A list of sizes or counts, ``4K,32K`` or ``1,2,4`` -> a tuple of int."""
WRITE_CHUNK = Parsed("write chunk", _write_chunk)
"""How often a reading is written: ``512`` -> 512, or ``haystack`` (once, at its end)."""
PASSES = Parsed("passes", _passes)
"""Numbers of readings, ``0,1,2`` -> a tuple of int."""
MODEL = Parsed("model", _model_name)
"""A model's name, checked -> its canonical name."""
MODELS = Parsed("models", _model_names)
"""Names separated by commas (commas within layers are understood) -> a tuple of canonical names."""

data = click.option(
    "--data",
    default="embedded",
    show_default=True,
    metavar="embedded|hub|PATH",
    help="Text to use: made from this Python, corpora fetched by `data prepare --data hub`, or a folder of "
    "<set>/<split>.jsonl[.gz] with a text field.",
)
tokens = click.option(
    "--tokens",
    type=SIZE,
    default=None,
    metavar="SIZE",
    help="Token budget, such as 64K or 8M. [default: by scale]",
)
scale = click.option("--scale", default="micro", show_default=True, metavar="SCALE", help="Size of the models.")
models = click.option(
    "--models",
    type=MODELS,
    default=None,
    metavar="NAMES",
    help="Models by name, separated by commas. [default: by scale]",
)
seed = click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Random seed.")
device = click.option(
    "--device",
    type=Parsed("device", check_device_name),
    default="auto",
    show_default=True,
    metavar="auto|cpu|cuda[:N]",
    help="Where to run.",
)
dtype = click.option(
    "--dtype",
    type=click.Choice(DTYPES),
    default="float32",
    show_default=True,
    help="Type of weights and activations; fast weights are never below float32.",
)


def out_folder(default: str) -> Callable[[Command], Command]:
    """``--out`` of a command that says what it does without one."""
    return click.option(
        "--out",
        type=click.Path(file_okay=False, path_type=Path),
        default=None,
        metavar="DIR",
        help=f"Folder for rows, tables, plots, report; a run goes on where it stopped. [default: {default}]",
    )


out = out_folder("only print")


def _kept(name: str) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """A callback that keeps an option's value where `how_to_run` finds it."""

    def keep(context: click.Context, option: click.Parameter, value: Any) -> Any:
        context.meta[f"{__name__}.{name}"] = value
        return value

    return keep


@dataclass(frozen=True)
class HowToRun:
    """Who measures, which part of the work, and with how much memory a process (in bytes; None: all there is)."""

    engine: str = "local"
    shard: Shard = field(default_factory=Shard)
    memory_limit: int | None = None


def how_to_run() -> HowToRun:
    """What the running command was given that only the engine needs to know.

    Raises UserError for a memory limit where another program manages the memory.
    """
    context = click.get_current_context(silent=True)
    meta = {} if context is None else context.meta
    engine, limit = meta.get(f"{__name__}.engine", "local"), meta.get(f"{__name__}.memory_limit")
    if limit is not None and engine != "local":
        raise UserError(f"--memory-limit is for --engine local; {engine} limits the memory of its workers itself")
    return HowToRun(engine, meta.get(f"{__name__}.shard") or Shard(), limit)


engine = click.option(
    "--engine",
    callback=_kept("engine"),
    type=Parsed("engine", _engine),
    default="local",
    show_default=True,
    metavar="local|ray",
    help="Processes of this machine, or a Ray cluster (the one of RAY_ADDRESS, else a local one).",
)
shard = click.option(
    "--shard",
    callback=_kept("shard"),
    expose_value=False,
    type=Parsed("shard", parse_shard),
    default=None,
    metavar="I/N",
    help="Measure only the I-th of N parts of the work, such as 2/8. [default: all of it]",
)
memory_limit = click.option(
    "--memory-limit",
    callback=_kept("memory_limit"),
    expose_value=False,
    type=Parsed("memory limit", _memory_limit),
    default=None,
    metavar="SIZE",
    help="Memory that a measuring process may take, such as 4G; a cell that needs more fails alone. [default: all]",
)
workers = click.option(
    "--workers",
    type=click.IntRange(1, 1024),
    default=None,
    help="Processes to run at a time. [default: one a core]",
)
quiet = click.option("--quiet", is_flag=True, help="No progress lines.")
as_json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")


def measuring_into(default: str) -> Callable[[Command], Command]:
    """The options of a command that runs models: data, seed, device, dtype, out, engine, shard, workers, …

    ``default``: what it does without ``--out``.
    """
    of_out = out_folder(default)
    taken = (data, seed, device, dtype, of_out, engine, shard, memory_limit, workers, quiet, as_json)

    def add(command: Command) -> Command:
        for option in reversed(taken):
            command = option(command)
        return command

    return add


measuring = measuring_into("only print")
