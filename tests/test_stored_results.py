"""The stored runs: what is in results/ is what its rows give, and README tells its figures."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pandas
import pytest

from fwpkm_eval.runs.manifest import load_manifest
from fwpkm_eval.runs.rows import read_rows_csv, rows_to_frame

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
FOLDERS = sorted(path.parent.name for path in RESULTS.glob("*/rows.csv"))
SECONDS = 90
"""20 on an idle machine; here others may be busy."""
REBUILD = (
    "import sys; from fwpkm_eval.cli import main; code = main(['report', sys.argv[1]]);"
    "assert 'torch' not in sys.modules; raise SystemExit(code)"
)


@pytest.mark.parametrize("name", FOLDERS)
def test_a_report_is_what_its_rows_give(name: str, tmp_path: Path) -> None:
    stored, copy = RESULTS / name, tmp_path / name
    copy.mkdir()
    for kept in ("rows.csv", "manifest.json", "trace"):
        if (stored / kept).is_dir():
            shutil.copytree(stored / kept, copy / kept)
        elif (stored / kept).exists():
            shutil.copy(stored / kept, copy / kept)
    begun = time.monotonic()
    subprocess.run([sys.executable, "-P", "-c", REBUILD, str(copy)], check=True, capture_output=True)
    assert time.monotonic() - begun < SECONDS
    assert (copy / "tables.md").read_text() == (stored / "tables.md").read_text()
    for kind in ("tables", "plots"):
        made = {path.name for path in (copy / kind).glob("*")}
        assert made == {path.name for path in (stored / kind).glob("*")}
    for path in (copy / "tables").iterdir():
        assert path.read_text() == (stored / "tables" / path.name).read_text()
    assert words(copy / "report.html") == words(stored / "report.html")


def words(page: Path) -> str:
    """What a report says, without its pictures (which another matplotlib draws in other bytes) and scripts."""
    text = page.read_text(encoding="utf-8")
    text = re.sub(r"<(svg|script|style)\b.*?</\1>", "", text, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", text).split())


@pytest.mark.parametrize("name", FOLDERS)
def test_a_stored_run_is_finished_and_its_rows_are_those_of_its_cells(name: str) -> None:
    from fwpkm_eval.reporting.gather import gather

    manifest = load_manifest(RESULTS / name)
    assert manifest is not None
    assert manifest["finished"]
    results = gather(RESULTS / name)
    if results.from_cells:
        assert results.cells_done == results.cells_planned
        assert results.rows == read_rows_csv(RESULTS / name / "rows.csv")


def rows_of(name: str = "micro") -> pandas.DataFrame:
    return rows_to_frame(read_rows_csv(RESULTS / name / "rows.csv"))


def readme_lines() -> dict[str, list[str]]:
    """README's table of results: label -> cells, without bold."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").split("<!-- from results/micro/tables.md -->")[1]
    rows = [line.strip().strip("|").split("|") for line in text.split("\n\n")[0].strip().splitlines()[2:]]
    return {row[0].strip(): [cell.strip().strip("*") for cell in row[1:]] for row in rows}


MODELS = (
    "gdn+swa",
    "gdn+swa:pkm@1,3",
    "gdn+swa:fwmlp@1,3",
    "gdn+swa:lact@1,3",
    "gdn+swa:fwpkm@1,3",
    "gdn+fa",
    "gdn+fa:fwpkm@1,3",
)


def best(frame: pandas.DataFrame, model: str) -> str:
    """``100% (84–100)``: the best of all numbers of readings, as README gives it."""
    rows = frame[frame["model"] == model]
    if rows.empty:
        return "–"
    top = max(rows.to_dict("records"), key=lambda row: float(row["value"]))
    return f"{100 * top['value']:.0f}% ({100 * top['ci_low']:.0f}–{100 * top['ci_high']:.0f})"


@pytest.mark.parametrize(
    ("label", "length", "needles", "protocol", "chunk"),
    [
        ("control: needles, 512, open book, a write every 1,024 (n = 20)", 512, 5, "open-book", "1024"),
        ("needles, 4K, open book, a write every 1,024 (n = 20)", 4096, 5, "open-book", "1024"),
        ("needles, 4K, closed book, one write a reading (n = 20)", 4096, 5, "closed-book", "haystack"),
        ("needles, 4K, closed book, a write every 1,024 (n = 20)", 4096, 5, "closed-book", "1024"),
        ("needles, 32K, open book, a write every 1,024 (n = 5)", 32768, 5, "open-book", "1024"),
        ("one of 64 needles, 4K, closed book, one write a reading (n = 20)", 4096, 64, "closed-book", "haystack"),
        ("needles, 32K, open book, one write a reading (n = 5)", 32768, 5, "open-book", "haystack"),
        ("needles, 128K, open book, one write a reading (n = 5)", 131072, 5, "open-book", "haystack"),
        ("needles, 128K, open book, a write every 1,024 (n = 5)", 131072, 5, "open-book", "1024"),
        ("one of 256 needles, 16K, closed book, one write a reading (n = 5)", 16384, 256, "closed-book", "haystack"),
    ],
)
def test_readme_tells_the_needles_of_the_stored_run(
    label: str, length: int, needles: int, protocol: str, chunk: str
) -> None:
    frame = rows_of("needles-128k" if length == 131072 else "micro")
    frame = frame[(frame["task"] == "niah") & (frame["metric"] == "exact_match") & frame["depth"].isna()]
    asked = {"length": length, "needles": needles, "protocol": protocol, "write_chunk": chunk}
    for column, value in asked.items():
        frame = frame[frame[column] == value]
    assert readme_lines()[label] == [best(frame, model) for model in MODELS]


def test_readme_tells_the_bits_per_byte_of_the_stored_run() -> None:
    frame = rows_of()
    frame = frame[(frame["task"] == "ppl") & (frame["metric"] == "bits_per_byte") & (frame["dataset"] == "source")]
    writing = ["", "yarn"]
    for label, arms in (("bits per byte, `source` (stand-in for LC64)", writing), ("the same, writes off", ["frozen"])):
        found = frame[frame["arm"].isin(arms)].set_index("model")["value"]
        assert readme_lines()[label] == [f"{found[model]:.3f}" if model in found else "–" for model in MODELS]
