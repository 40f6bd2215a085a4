"""The ``fwpkm-eval`` command line: finds the command, runs it, and turns what goes wrong into one line.

A command's module is imported only when that command is called, so that ``--help`` answers at once.
"""

from __future__ import annotations

import errno
import importlib
import os
import re
import sys
from collections.abc import Sequence

import click

from fwpkm_eval import __version__
from fwpkm_eval.commands.groups import ListingGroup
from fwpkm_eval.errors import UserError, shown
from fwpkm_eval.memory_limit import is_out_of_memory

# name -> what it does. Each stands in fwpkm_eval/commands/<name>.py (- becomes _) as a click command "command".
COMMANDS = {
    "reproduce": "Run every model on every task; write tables, plots and a report.",
    "ppl": "Measure perplexity on long text, with and without memory writes.",
    "niah": "Measure recall: needles in a haystack, read once or several times.",
    "trace": "Show which memory slots answered, and what was last written there.",
    "state": "Save, show, diff and reset memory states; make them forget.",
    "lm-eval": "Run tasks of the lm-evaluation-harness, any of its tasks or ours.",
    "generate": "Go on from a prompt, after memorising a text or without.",
    "gates": "Measure how much each memory layer's gate lets through.",
    "addressing": "Measure how evenly the slots of each memory are used.",
    "cost": "Count parameters and FLOPs, and time reading and training.",
    "continual": "Adapt a memory to one domain after the other, and test it on all of them.",
    "longbench": "Measure how well answers to questions about long texts are predicted.",
    "ablate": "Measure what each part of FwPKM is worth: trains each arm with several seeds.",
    "capacity": "Measure how many needles memories of several sizes hold: trains each size.",
    "train": "Train one model.",
    "soak": "Try to lose results: kills, damaged and hostile input, repetition, very long readings.",
    "bench": "Measure speed and memory, with the agreement checked in the same run.",
    "data": "Show the text sets there are, or prepare them.",
    "models": "Show backbones, memories and scales, and count parameters.",
    "env": "Show versions, devices, memory and settings.",
    "compare": "Compare the rows of two runs, and fail where one got worse.",
    "report": "Rebuild tables, plots and the report from stored rows.",
}

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141  # as a process killed by SIGPIPE
CANNOT_WRITE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}
"""What a write to an open file fails with for the user's reasons; the error does not name the file then."""


class LazyGroup(ListingGroup):
    """A group whose commands are listed from ``COMMANDS`` and imported when called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f"fwpkm_eval.commands.{cmd_name.replace('-', '_')}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    name="fwpkm-eval",
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Sizes read as 4K, 128K or 8M (1K = 1024). FWPKM_EVAL_DEBUG=1 shows where an error comes from.",
)
@click.version_option(__version__, message="fwpkm-eval %(version)s")
def group() -> None:
    """Evaluate language models with fast-weight product-key memory beside their baselines.

    Models are named BACKBONE[:MEMORY[@LAYERS][+MEMORY[@LAYERS]]], such as gdn+swa, gdn+swa:fwpkm or, of 12 layers at
    scale paper, gdn+swa:pkm@6+fwpkm@2,10. Layers count from 0.
    """


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command (``argv`` without the program's name) and returns the exit code.

    0 is success, 2 an error of the user's or too little memory (one line on stderr), 130 an interrupt. Anything else
    that goes wrong is a fault of this program and keeps its traceback. With ``FWPKM_EVAL_DEBUG=1`` every error
    keeps it.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    try:
        _refuse_what_is_no_text(arguments)
        try:
            with group.make_context("fwpkm-eval", arguments) as ctx:
                group.invoke(ctx)
            code = 0
        except click.exceptions.Exit as end:  # --help and --version end this way, too
            code = end.exit_code
        sys.stdout.flush()  # here, so that a closed pipe is noticed here
        return code
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return EXIT_USER_ERROR
    except click.ClickException as error:
        return _refuse(_with_help_hint(error), error)
    except UserError as error:
        return _refuse(str(error), error)
    except BrokenPipeError:
        return _discard_further_output()
    except OSError as error:
        if error.filename is None:
            return _refuse_lost_output(error)
        return _refuse(f"cannot use {str(error.filename)!r}: {error.strerror}", error)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        asked = re.search(r"tried to allocate ([\d.]+ ?\w+)", str(error), re.IGNORECASE)
        return _refuse(f"not enough memory{f' for another {asked[1]}' if asked else ''}: ask for less at a time", error)
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        return EXIT_INTERRUPTED


def _refuse_what_is_no_text(arguments: Sequence[str]) -> None:
    """Raises UserError for an argument that is not UTF-8: no model can read it, no manifest hold it."""
    for argument in arguments:
        try:
            argument.encode("utf-8")
        except UnicodeEncodeError:
            raise UserError(f"argument {shown(argument)} is not UTF-8 text") from None


def _refuse(message: str, error: Exception) -> int:
    if os.environ.get("FWPKM_EVAL_DEBUG", "") not in ("", "0"):
        raise error
    click.echo(f"error: {' '.join(message.split())}", err=True)
    return EXIT_USER_ERROR


def _refuse_lost_output(error: OSError) -> int:
    """Output that cannot be written is the user's to correct; any other error without a file's name is a fault."""
    if error.errno not in CANNOT_WRITE:
        raise error
    code = _refuse(f"cannot write output: {error.strerror}", error)
    _discard_further_output()
    return code


def _with_help_hint(error: click.ClickException) -> str:
    if isinstance(error, click.UsageError) and error.ctx is not None:
        return f"{error.format_message()} (see {error.ctx.command_path} --help)"
    return error.format_message()


def _discard_further_output() -> int:
    """Points stdout at nothing, so that Python's flush at exit does not complain about the closed pipe or full disk."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, sys.stdout.fileno())
    os.close(nothing)
    return EXIT_BROKEN_PIPE


if __name__ == "__main__":
    sys.exit(main())
