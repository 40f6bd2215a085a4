"""What README shows is run: its examples as they stand, its commands as far as they can be checked."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from command_lines import parse

from fwpkm_eval import cli
from fwpkm_eval.runs.rows import read_rows_csv

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
EXAMPLES = [
    block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "class " in block or "def " in block
]
pytestmark = pytest.mark.usefixtures("one_thread")


def lines_of_code(block: str) -> int:
    return sum(bool(line.strip()) for line in block.splitlines())


def test_there_is_an_example_of_a_model_and_one_of_a_task() -> None:
    assert len(EXAMPLES) == 2
    assert all(lines_of_code(block) < 30 for block in EXAMPLES), [lines_of_code(block) for block in EXAMPLES]


def test_a_model_of_ones_own_finds_needles(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    exec(compile(EXAMPLES[0], "README.md", "exec"), names)
    shown = capsys.readouterr().out
    assert re.search(r"ngram8 +2048 +[124](?:\.0)? +1\.0", shown), shown


def test_a_task_of_ones_own_makes_rows_and_is_in_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(EXAMPLES[1].replace("tokens=8192", "tokens=4096"), "README.md", "exec"), {})
    base, with_memory = read_rows_csv(tmp_path / "runs" / "mine" / "rows.csv")
    assert base.value == 0
    assert with_memory.value is not None
    assert with_memory.value > 0.5
    assert cli.main(["report", "runs/mine"]) == 0
    capsys.readouterr()
    assert "bits per byte saved" in (tmp_path / "runs" / "mine" / "tables.md").read_text(encoding="utf-8")
    assert "Second reading" in (tmp_path / "runs" / "mine" / "report.html").read_text(encoding="utf-8")


def commands() -> list[str]:
    shown = [line.split("  #")[0].strip() for line in README.splitlines() if line.startswith("fwpkm-eval ")]
    return sorted({line for line in shown if "·" not in line})


@pytest.mark.parametrize("line", commands())
def test_a_command_that_is_shown_has_these_options(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parsed as typed, without being run: click refuses an option that there is not, and a value of a wrong kind."""
    monkeypatch.chdir(tmp_path)
    for name in re.findall(r"\b\w+\.(?:txt|state)\b", line):
        (tmp_path / name).touch()
    parse(line)
