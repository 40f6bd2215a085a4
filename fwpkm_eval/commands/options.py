"""Options that several commands share, so that each means and reads the same everywhere.

Each is a decorator for a click command: ``@options.seed``; ``@options.measuring`` adds all that a command
which runs models takes, and passes them on together, as ``given`` (see `Given`). To add one, write it here
beside the others. Nothing here imports torch.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from fwpkm_eval.devices import DTYPES, check_device_name
from fwpkm_eval.errors import UserError, shown, unknown
from fwpkm_eval.runs.shards import Shard, parse_shard
from fwpkm_eval.sizes import parse_size, parse_sizes, parse_write_chunk

ENGINES = ("local", "ray")
SMALLEST_LIMIT = 512 * 2**20
Command = TypeVar("Command", bound=Callable[..., Any])


class Parsed(click.ParamType):
    """An option type that is read by a function of the text; its UserError becomes the option's error.

    lists: the text is a list, all of it: an option given again would drop the first one, and is refused.
    """

    def __init__(self, name: str, parse: Callable[[str], Any], *, lists: bool = False) -> None:
        self.name = name
        self.lists = lists
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value  # a default that is already what the text would be read as
        try:
            return self._parse(value)
        except UserError as error:
            self.fail(str(error), param, ctx)


class OneOf(click.Choice[str]):
    """One of the ``valid`` names; an error calls another an unknown ``one``, and says which was meant."""

    def __init__(self, one: str, valid: Sequence[str]) -> None:
        super().__init__(valid)
        self._one = one

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value not in self.choices:
            self.fail(str(unknown(self._one, str(value), self.choices)), param, ctx)
        return str(value)


class Folder(click.Path):
    """A folder, there or not; an empty name, which would be the working folder, is refused."""

    def __init__(self) -> None:
        super().__init__(file_okay=False, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("it is empty: name a folder ('.' is the working folder)", param, ctx)
        return super().convert(value, param, ctx)


def _model_name(text: str) -> str:
    from fwpkm_eval.reference_models.notation import parse_model_name

    if "/" in text:
        raise UserError(f"{shown(text)} is a folder, and a model's name is wanted here, such as gdn+swa:fwpkm@1,3")
    return parse_model_name(text).name


def _model_names(text: str) -> tuple[str, ...]:
    from fwpkm_eval.reference_models.notation import split_model_names

    refuse_no_models(text)
    return tuple(dict.fromkeys(_model_name(name) for name in split_model_names(text)))


def refuse_no_models(text: str) -> None:
    """Raises UserError for a list of models that is empty."""
    if not text.strip(", \t"):
        raise UserError("the list of models is empty: name at least one, such as gdn+swa:fwpkm")


def listed(text: str) -> tuple[str, ...]:
    """The parts of a text that commas separate, each once."""
    return tuple(dict.fromkeys(part.strip() for part in text.split(",")))


def _names(text: str) -> tuple[str, ...]:
    if not text.strip(", "):
        raise UserError("the list is empty: name at least one, or leave the option out")
    return listed(text)


def numbers(name: str, wanted: str, digits: int) -> Parsed:
    """A type for a list of whole numbers of at most so many digits; an error says what is ``wanted``."""

    def parse(text: str) -> tuple[int, ...]:
        parts = listed(text)
        if not all(part.isascii() and part.isdigit() and len(part) <= digits for part in parts):
            raise UserError(f"{name} {text!r} are not {wanted}")
        return tuple(dict.fromkeys(map(int, parts)))

    return Parsed(name, parse, lists=True)


def choices(name: str, one: str, valid: Sequence[str], *, may_be_none: bool = False) -> Parsed:
    """A type for a list of ``valid`` names; an error calls what is not valid an unknown ``one``.

    ``may_be_none``: empty names are passed over, and an empty text is an empty list.
    """

    def parse(text: str) -> tuple[str, ...]:
        parts = tuple(part for part in listed(text) if part or not may_be_none)
        for part in parts:
            if part not in valid:
                raise unknown(one, part, valid)
        return parts

    return Parsed(name, parse, lists=True)


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


SIZE = Parsed("size", parse_size)
"""One size, ``4K`` or ``4096`` -> 4096."""
SIZES = Parsed("sizes", parse_sizes, lists=True)
"""A list of sizes or counts, ``4K,32K`` or ``1,2,4`` -> a tuple of int."""
WRITE_CHUNK = Parsed("write chunk", parse_write_chunk)
"""How often a reading is written: ``512`` -> 512, or ``haystack`` (once, at its end)."""
PASSES = numbers("passes", "numbers of readings, such as 1,2,4", 5)
"""Numbers of readings, ``0,1,2`` -> a tuple of int."""
NAMES = Parsed("names", _names, lists=True)
"""Names separated by commas -> a tuple of str, at least one."""
MODEL = Parsed("model", _model_name)
"""A model's name, checked -> its canonical name."""
MODELS = Parsed("models", _model_names, lists=True)
"""Names separated by commas (commas within layers are understood) -> a tuple of canonical names."""


def _noting_what_is_skipped(ctx: click.Context, param: click.Parameter, data: str) -> str:
    from fwpkm_eval.data import skipped_note

    if (note := skipped_note(data)) is not None:
        click.echo(note, err=True)
    return data


data = click.option(
    "--data",
    callback=_noting_what_is_skipped,
    default="embedded",
    show_default=True,
    metavar="embedded|hub|PATH",
    help="Text to use: made from this Python, corpora fetched by `data prepare --data hub`, or a folder of "
    "<set>/<split>.jsonl[.gz] with a text field.",
)


def tokens_or(default: str) -> Callable[[Command], Command]:
    """``--tokens``; ``default`` says in words what is read without it."""
    return click.option(
        "--tokens",
        type=SIZE,
        default=None,
        metavar="SIZE",
        help=f"Token budget, such as 64K or 8M. [default: {default}]",
    )


tokens = tokens_or("by scale")
sets = click.option(
    "--sets",
    "--set",
    type=NAMES,
    default=None,
    metavar="NAMES",
    help="Text sets, separated by commas. [default: all with a test split]",
)
haystack = click.option(
    "--haystack", default=None, metavar="SET", help="The set that haystacks are cut from. [default: by --data]"
)
write_chunk = click.option(
    "--write-chunk",
    type=WRITE_CHUNK,
    default="haystack",
    show_default=True,
    metavar="N|haystack",
    help="Write every N tokens, or once per reading.",
)
own_write_chunk = click.option(
    "--write-chunk",
    type=WRITE_CHUNK,
    default=None,
    metavar="N|haystack",
    help="Write every N tokens, or once per reading. [default: the model's own chunk]",
)
tokens_of_a_write = click.option(
    "--write-chunk", type=SIZE, default=None, help="Tokens of a write. [default: the model's own]"
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
    type=OneOf("dtype", DTYPES),
    default="float32",
    show_default=True,
    help="Type of weights and activations; fast weights are never below float32.",
)


def out_folder(default: str) -> Callable[[Command], Command]:
    """``--out`` of a command that says what it does without one."""
    return click.option(
        "--out",
        type=Folder(),
        default=None,
        metavar="DIR",
        help=f"Folder for rows, tables, plots, report; a run goes on where it stopped. [default: {default}]",
    )


out = out_folder("only print")
engine = click.option(
    "--engine",
    type=Parsed("engine", _engine),
    default="local",
    show_default=True,
    metavar="local|ray",
    help="Processes of this machine, or a Ray cluster (the one of RAY_ADDRESS, else a local one).",
)
shard = click.option(
    "--shard",
    type=Parsed("shard", parse_shard),
    default=None,
    metavar="I/N",
    help="Measure only the I-th of N parts of the work, such as 2/8. [default: all of it]",
)
memory_limit = click.option(
    "--memory-limit",
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


@dataclass(frozen=True)
class Given:
    """What a command that runs models was given with the options that all of them have; ``memory_limit`` in bytes."""

    data: str
    seed: int
    device: str
    dtype: str
    out: Path | None
    quiet: bool
    as_json: bool
    engine: str = "local"
    shard: Shard | None = None
    memory_limit: int | None = None
    workers: int | None = None


def _passed_on_together(*taken: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Adds the options to a command, and passes their values on as one `Given`, named ``given``."""

    def add(command: Command) -> Command:
        @functools.wraps(command)
        def gathering(**values: Any) -> Any:
            found = {one.name: values.pop(one.name) for one in fields(Given) if one.name in values}
            return command(given=Given(**found), **values)

        for option in reversed(taken):
            gathering = option(gathering)
        return cast(Command, gathering)

    return add


def measuring_into(default: str) -> Callable[[Command], Command]:
    """The options of a command that runs models: data, seed, device, dtype, out, engine, shard, workers, …

    ``default``: what it does without ``--out``.
    """
    of_out = out_folder(default)
    return _passed_on_together(data, seed, device, dtype, of_out, engine, shard, memory_limit, workers, quiet, as_json)


measuring = measuring_into("only print")
measuring_here = _passed_on_together(data, seed, device, dtype, out, quiet, as_json)
"""Those of a command whose cells are all run by its own process."""
