"""Command lines that are shown somewhere, parsed as typed without being run."""

from __future__ import annotations

import shlex
from typing import Any

import click

from fwpkm_eval import cli


def parse(line: str) -> dict[str, Any]:
    """The values of its options. click refuses an option that there is not, and a value of a wrong kind."""
    program, *words = shlex.split(line)
    assert program == "fwpkm-eval"
    command = cli.LazyGroup(name="fwpkm-eval").get_command(click.Context(click.Group()), words.pop(0))
    while isinstance(command, click.Group):
        command = command.get_command(click.Context(command), words.pop(0))
    assert command is not None
    return command.make_context("fwpkm-eval", words).params
