"""What README shows is run: its examples as they stand, its commands as far as they can be checked."""

from __future__ import annotations

import platform
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from command_lines import parse

from fwpkm_eval import cli
from fwpkm_eval.commands import measure
from fwpkm_eval.runs.manifest import load_manifest
from fwpkm_eval.runs.rows import read_rows_csv

ROOT = Path(__file__).parents[1]
PAGES = [(ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "results/README.md")]
README = PAGES[0]
EXAMPLES = [
    block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "class " in block or "def " in block
]
pytestmark = pytest.mark.usefixtures("one_thread")


def lines_of_code(block: str) -> int:
    return sum(bool(line.strip()) for line in block.splitlines())


def test_there_is_an_example_of_a_model_and_one_of_a_task() -> None:
    assert len(EXAMPLES) == 2
    assert all(lines_of_code(block) < 30 for block in EXAMPLES), [lines_of_code(block) for block in EXAMPLES]


def test_what_is_shown_of_the_python_interface_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = [block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "fwpkm_scan" in block]
    names: dict[str, Any] = {}
    exec(compile(block, "README.md", "exec"), names)
    assert re.search(r"4096 +[124](?:\.0)? +1\.0", capsys.readouterr().out)
    assert names["logits"].shape == (*names["tokens"].shape, 257)
    assert names["result"].output.shape == (1, 1000, 32)


def test_what_is_shown_of_memorising_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = [block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "memorise(" in block]
    exec(compile(block, "README", "exec"), {})
    assert f"# {capsys.readouterr().out.strip()}\n" in block


def test_a_model_of_ones_own_finds_needles(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    exec(compile(EXAMPLES[0], "README.md", "exec"), names)
    shown = capsys.readouterr().out
    assert re.search(r"ngram8 +2048 +[124](?:\.0)? +1\.0", shown), shown


def test_a_task_of_ones_own_makes_rows_and_is_in_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(EXAMPLES[1], "README.md", "exec"), {})
    printed = re.search(r"It prints `(.*?)`", README)
    assert printed is not None
    manifest = load_manifest(ROOT / "results" / "micro")
    assert manifest is not None
    if manifest["versions"]["python"] == platform.python_version():  # another one has other text
        assert printed[1] == capsys.readouterr().out.strip()
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
    in_prose = [" ".join(line.split()) for page in PAGES for line in re.findall(r"`(fwpkm-eval [^`]+)`", page)]
    return sorted({line for line in (*shown, *in_prose) if not re.search("[·…]", line)})


@pytest.mark.parametrize("line", commands())
def test_a_command_that_is_shown_has_these_options(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parsed as typed, without being run: click refuses an option that there is not, and a value of a wrong kind."""
    monkeypatch.chdir(tmp_path)
    for name in re.findall(r"\b\w+\.(?:txt|state)\b", line):
        (tmp_path / name).touch()
    parse(line)


@pytest.mark.parametrize(
    "line", [line for line in commands() if line.split()[1] in ("niah", "ppl") and "PATH" not in line]
)
def test_a_measurement_that_is_shown_begins(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a command checks before it measures is all right: lengths hold the needles, models and sets are there."""

    class Begun(Exception):
        pass

    def begin(jobs: Sequence[object], *given: object, **how: object) -> None:
        raise Begun(len(jobs))

    monkeypatch.setattr(measure, "run_cells", begin)
    with pytest.raises(Begun):
        cli.group.main(shlex.split(line)[1:], standalone_mode=False)


@pytest.mark.parametrize("page", ["README.md", "results/README.md", "CHANGELOG.md"])
def test_links_lead_somewhere(page: str) -> None:
    """Those to files, and to headings of other pages."""
    path = ROOT / page
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if target.startswith("https://"):
            continue
        name, _, heading = target.partition("#")
        linked = path.parent / name
        assert linked.exists(), target
        if heading:
            page_text = (linked / "README.md" if linked.is_dir() else linked).read_text(encoding="utf-8")
            headings = re.findall(r"^#+ (.+)$", page_text, re.MULTILINE)
            assert heading in [re.sub(r"[^\w\- ]", "", one).lower().replace(" ", "-") for one in headings], target
