"""The command line: quick help, one line for what the user got wrong, and the exit codes."""

from __future__ import annotations

import dataclasses
import errno
import importlib
import json
import os
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path

import click
import pytest
import torch

from fwpkm_eval import __version__, cli
from fwpkm_eval.commands import options
from fwpkm_eval.errors import UserError, did_you_mean, unknown

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "triton", "numpy", "pandas", "matplotlib", "jinja2", "rich")


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """One run of the command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "fwpkm_eval", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "100", **environment},
    )


@pytest.fixture
def add_command(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Puts a function into the table as the command ``probe``."""

    def add(function: Callable[[], None]) -> None:
        module = types.ModuleType("fwpkm_eval.commands.probe")
        module.command = click.command(name="probe")(function)  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(cli.COMMANDS, "probe", "Raise something.")

    return add


@pytest.mark.parametrize("arguments", [["--help"], ["niah", "--help"], ["reproduce", "--help"]])
def test_help_answers_in_half_a_second(arguments: list[str]) -> None:
    """The quickest of five: what the machine does beside it is not the program's time."""
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        done = run(*arguments)
        seconds.append(time.perf_counter() - start)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("Usage: fwpkm-eval")
    assert min(seconds) < 0.5


@pytest.mark.parametrize("arguments", [[], *([name] for name in cli.COMMANDS), ["data", "list"], ["data", "prepare"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys; from fwpkm_eval.cli import main\n"
        f"assert main([*{arguments!r}, '--help']) == 0\n"
        f"print('HEAVY:', *(name for name in {HEAVY!r} if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].split() == ["HEAVY:"]


def test_help_lists_every_command_with_its_line() -> None:
    shown = " ".join(run("--help").stdout.split())
    for name, line in cli.COMMANDS.items():
        assert f"{name} {line}" in shown


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_is_there_under_its_name(name: str) -> None:
    command = importlib.import_module(f"fwpkm_eval.commands.{name.replace('-', '_')}").command
    assert isinstance(command, click.Command)
    assert command.name == name
    assert command.help


@pytest.mark.parametrize("arguments", [["-m", "fwpkm_eval"], [str(ROOT / "cli.py")]])
def test_other_ways_to_start_it(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, *arguments, "--version"], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert (done.returncode, done.stdout.strip()) == (0, f"fwpkm-eval {__version__}")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["naih"], ["no command 'naih'", "did you mean niah?", "valid: reproduce, ppl, niah"]),
        (["--modle"], ["--modle"]),
        (["env", "--jsno"], ["--jsno", "--json"]),
        (["data", "lst"], ["lst", "list"]),
        (
            ["models", "gdn:fwpmk@2"],
            ["unknown memory 'fwpmk'", "did you mean fwpkm?", "valid: fwmlp, fwpkm, lact, pkm"],
        ),
        (["models", "gdn:pkm@2+fwpkm@2"], ["layer 2", "both pkm and fwpkm"]),
        (["models", "runs/mine"], ["no checkpoint in runs/mine: it must hold model.json and model.safetensors"]),
        (["train", "--model", "./mine", "--out", "x"], ["'./mine' is a folder, and a model's name is wanted here"]),
        (["models", "gdn:fwpkm@99"], ["layer 99", "out of range", "valid: 0 to"]),
        (["models", "--scale", "mikro"], ["unknown scale 'mikro'", "did you mean micro?"]),
        (["state", "compare", "a", "b"], ["no command 'compare'", "valid: ", "save", "diff"]),
        (["data", "prepar"], ["no command 'prepar'", "did you mean prepare?"]),
        (["data", "list", "--data", "no/such/folder"], ["no/such/folder"]),
        (
            ["data", "prepare", "--data", "hub", "--set", "lambda"],
            ["unknown corpus 'lambda'", "did you mean lambada?"],
        ),
        (["data", "prepare", "--set", "sorce"], ["unknown set 'sorce'", "did you mean source?"]),
        (["data", "prepare", "--sets", "docs,sorce"], ["unknown set 'sorce'", "did you mean source?"]),
        (["bench", "--scale", "mikro"], ["'mikro'", "did you mean micro?"]),
        (["ppl", "--model", "gdn+swa", "--set", "sorce"], ["'sorce'", "did you mean source?"]),
        (["report", "no/such/folder"], ["no such folder", "no/such/folder"]),
        # Bytes that are not UTF-8, as Python shows them.
        (["generate", "--model", "gdn+swa", "--prompt", "a\udcff"], [r"argument 'a\udcff' is not UTF-8 text"]),
        (["ppl", "--model", "gdn+swa", "--out", "o\udcff"], [r"argument 'o\udcff' is not UTF-8 text"]),
    ],
)
def test_what_the_user_got_wrong_is_one_line_and_exit_code_2(arguments: list[str], words: list[str]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: ")
    for word in words:
        assert word in done.stderr


def test_without_a_command_it_shows_the_help() -> None:
    done = run()
    assert done.returncode == 2
    assert "Commands:" in done.stderr


def test_debug_shows_where_an_error_comes_from() -> None:
    done = run("data", "list", "--data", "no/such/folder", FWPKM_EVAL_DEBUG="1")
    assert done.returncode != 0
    assert "Traceback" in done.stderr
    assert "UserError" in done.stderr


def test_an_error_of_several_lines_is_put_on_one(
    add_command: Callable[[Callable[[], None]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def probe() -> None:
        raise UserError("first\n  second")

    add_command(probe)
    assert cli.main(["probe"]) == 2
    assert capsys.readouterr().err == "error: first second\n"


def test_a_file_that_cannot_be_used_is_the_users_to_correct(
    add_command: Callable[[Callable[[], None]], None], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def probe() -> None:
        (tmp_path / "missing" / "rows.csv").write_text("")

    add_command(probe)
    assert cli.main(["probe"]) == 2
    assert capsys.readouterr().err.startswith("error: cannot use ")


def test_a_fault_of_the_program_keeps_its_traceback(
    add_command: Callable[[Callable[[], None]], None],
) -> None:
    def probe() -> None:
        raise ZeroDivisionError("a fault")

    add_command(probe)
    with pytest.raises(ZeroDivisionError, match="a fault"):
        cli.main(["probe"])


def test_too_little_memory_is_one_line_and_exit_code_2(
    add_command: Callable[[Callable[[], None]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """As Python, torch on a CPU (asked for more than any machine has) and torch on a GPU put it."""
    cuda = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 1.00 GiB"
    said = []

    def python() -> None:
        bytearray(2**60)

    def cpu() -> None:
        torch.empty(2**60)

    def gpu() -> None:
        raise torch.OutOfMemoryError(cuda)

    for probe in (python, cpu, gpu):
        add_command(probe)
        assert cli.main(["probe"]) == 2
        said.append(capsys.readouterr().err)
    ends = ["", f" for another {2**62} bytes", " for another 2.00 GiB"]
    assert said == [f"error: not enough memory{end}: ask for less at a time\n" for end in ends]


def test_an_interrupt_ends_with_130_and_one_line(
    add_command: Callable[[Callable[[], None]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def probe() -> None:
        raise KeyboardInterrupt

    add_command(probe)
    assert cli.main(["probe"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no device that is always full")
@pytest.mark.parametrize("command", [["--help"], ["models"]])
def test_output_that_finds_no_room_is_one_line_and_exit_code_2(command: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "fwpkm_eval", *command],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            # Buffered, as it is by default: what is left in the buffer must not be complained of once more at exit.
            env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
        )
    assert done.returncode == 2
    assert done.stderr == "error: cannot write output: No space left on device\n"


def test_a_system_error_that_is_not_about_room_keeps_its_traceback(
    add_command: Callable[[Callable[[], None]], None],
) -> None:
    def probe() -> None:
        raise OSError(errno.ENOTCONN, "a fault")

    add_command(probe)
    with pytest.raises(OSError, match="a fault"):
        cli.main(["probe"])


def test_a_reader_that_goes_away_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "fwpkm_eval", "--help"],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writer)
    assert done.returncode == 141
    assert done.stderr == ""


def test_near_names_are_suggested_whatever_their_case() -> None:
    assert did_you_mean("FWPMK", ["pkm", "fwpkm"]) == ", did you mean fwpkm?"
    assert did_you_mean("fwpkm", ["FwPKM"]) == ", did you mean FwPKM?"
    assert did_you_mean("zebra", ["pkm", "fwpkm"]) == ""
    assert did_you_mean("x", []) == ""


def test_unknown_names_list_what_is_valid() -> None:
    assert str(unknown("memory", "fwpmk", ["pkm", "fwpkm", "fwmlp"])) == (
        "unknown memory 'fwpmk', did you mean fwpkm? valid: fwmlp, fwpkm, pkm"
    )
    assert str(unknown("task", "zebra", ["ppl"])) == "unknown task 'zebra'; valid: ppl"
    assert len(str(unknown("task", "z\n" * 10_000, ["ppl"])).splitlines()) == 1


@pytest.fixture
def shared_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command ``probe`` that takes the shared options and prints what it got."""

    @click.command(name="probe")
    @options.tokens
    @options.models
    @click.option("--lengths", type=options.SIZES, default=(4096,))
    @options.measuring
    def probe(given: options.Given, **got: object) -> None:
        click.echo(json.dumps({**got, **dataclasses.asdict(given)}, default=str))

    module = types.ModuleType("fwpkm_eval.commands.probe")
    module.command = probe  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(cli.COMMANDS, "probe", "Print the options.")


@pytest.mark.usefixtures("shared_options")
def test_shared_options_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["probe"]) == 0
    defaults = json.loads(capsys.readouterr().out)
    assert defaults == {
        "data": "embedded",
        "tokens": None,
        "models": None,
        "lengths": [4096],
        "seed": 0,
        "device": "auto",
        "dtype": "float32",
        "out": None,
        "engine": "local",
        "shard": None,
        "memory_limit": None,
        "workers": None,
        "quiet": False,
        "as_json": False,
    }
    given = "probe --tokens 8M --models gdn,gdn:fwpkm@10,2,fa,fa --lengths 4K,32K --seed 3 --device cuda:1"
    given += " --dtype bfloat16 --out runs/x --workers 2 --quiet --json --engine local --data some/folder"
    assert cli.main(given.split()) == 0
    assert json.loads(capsys.readouterr().out) == {
        "data": "some/folder",
        "tokens": 8 * 2**20,
        "models": ["gdn", "gdn:fwpkm@2,10", "fa"],
        "lengths": [4096, 32_768],
        "seed": 3,
        "device": "cuda:1",
        "dtype": "bfloat16",
        "out": "runs/x",
        "engine": "local",
        "shard": None,
        "memory_limit": None,
        "workers": 2,
        "quiet": True,
        "as_json": True,
    }


@pytest.mark.usefixtures("shared_options")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--tokens", "8Q"], ["--tokens", "'8Q' is not a size"]),
        (["--lengths", "4K,0"], ["--lengths", "zero"]),
        (["--models", "gdn,gdn:fwpmk@2"], ["--models", "did you mean fwpkm?"]),
        (["--device", "tpu"], ["unknown device 'tpu'", "valid: auto, cpu, cuda, cuda:N"]),
        (["--models", ""], ["--models", "the list of models is empty"]),
        (["--dtype", "float8"], ["float8", "bfloat16"]),
        (["--dtype", "bfloat61"], ["unknown dtype 'bfloat61'", "did you mean bfloat16?"]),
        (["--out", ""], ["--out", "it is empty"]),
        (["--engine", "spark"], ["unknown engine 'spark'", "local, ray"]),
        (["--seed", "-1"], ["--seed", "-1"]),
        (["--workers", "0"], ["--workers", "0"]),
    ],
)
def test_shared_options_refuse(arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["probe", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    for word in words:
        assert word in captured.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["niah", "--lengths", "8000M"], ["a haystack of 8000M tokens is too long; the longest is 64M"]),
        (["trace", "--length", "65M"], ["a haystack of 65M tokens is too long; the longest is 64M"]),
        (["ablate", "--length", "8000M", "--dry-run"], ["a haystack of 8000M tokens is too long"]),
        (["capacity", "--samples", "1000001", "--dry-run"], ["1,000,001 samples are too many"]),
        (
            ["niah", "--write-chunk", "4K,haystak"],
            ["neither a size nor 'haystack', did you mean haystack?"],
        ),
        (["trace", "--write-chunk", "often"], ["'often' is neither a size nor 'haystack'; valid: 512, 4K, haystack"]),
        (["niah", "--protocol", "publishd"], ["unknown protocol 'publishd'", "did you mean published?"]),
        (["niah", "--model", " "], ["the list of models is empty"]),
        (["train", "--model", "gdn", "--out", ""], ["--out", "it is empty"]),
    ],
)
def test_values_that_cannot_be_meant_are_one_line(
    arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    for word in words:
        assert word in captured.err


def test_ray_where_it_is_not_installed_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert cli.main(["ppl", "--engine", "ray"]) == 2
    error = capsys.readouterr().err
    assert "engine 'ray' needs the package ray: pip install 'fwpkm-eval[cluster]'" in error
    assert error.count("\n") == 1


def test_sets_to_prepare_may_be_listed_or_repeated() -> None:
    done = run("data", "prepare", "--set", "docs", "--sets", "manual,docs")
    assert done.returncode == 0
    shown = [line.split(":")[0] for line in done.stdout.splitlines()]
    assert shown == ["docs/train", "docs/valid", "docs/test", "manual/test"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("ppl --model gdn+swa --models gdn+swa:fwpkm", "--models is given 2 times: give it once, with a list"),
        ("niah --lengths 512 --passes 1 --lengths 1K --lengths 2K", "--lengths is given 3 times"),
        ("reproduce --only ppl --only niah --dry-run", "--only is given 2 times"),
    ],
)
def test_a_list_given_twice_is_refused_as_the_last_would_drop_the_first(
    words: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words.split()) == 2
    assert said in capsys.readouterr().err
