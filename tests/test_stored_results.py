"""The stored runs: what is in results/ is what its rows give, and README tells its figures."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pandas
import pytest
from readme_tables import BACKBONE, PAGES, TABLES, TRAININGS, WITH_MEMORY, block, page_of, trained

from fwpkm_eval.runs.manifest import load_manifest
from fwpkm_eval.runs.rows import read_rows_csv

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


@pytest.mark.parametrize("name", sorted(TABLES))
def test_readme_tells_the_stored_rows(name: str) -> None:
    match = block(name).search(page_of(name).read_text(encoding="utf-8"))
    assert match is not None
    assert match[2] == TABLES[name]()


def test_readme_tells_what_the_memory_is_worth_on_text() -> None:
    """How many fewer bits than the backbone trained with the same seed, on docs, source and manual, by seed."""
    told = " ".join(PAGES[1].read_text(encoding="utf-8").split())
    worth = [_worth(seed) for seed in TRAININGS[WITH_MEMORY]]
    docs, source, manual = (_listed(f"{one[place]:.1f}" for one in worth) for place in range(3))
    assert f"{docs}% on `docs`, {source}% on `source` and {manual}% on `manual`" in told


def _listed(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def _worth(seed: int) -> list[float]:
    backbone, with_memory = (_bits(trained(model, seed)) for model in (BACKBONE, WITH_MEMORY))
    return [100 * (1 - with_memory[name] / backbone[name]) for name in ("docs", "source", "manual")]


def _bits(frame: pandas.DataFrame) -> dict[str, float]:
    frame = frame[(frame["task"] == "ppl") & (frame["metric"] == "bits_per_byte") & (frame["arm"] == "")]
    return dict(zip(frame["dataset"], frame["value"], strict=True))
