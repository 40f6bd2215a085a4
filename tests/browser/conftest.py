"""One Chromium, and one report open in it, for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browser_pages import CHROMIUM, DESK, FWPKM, Visit, run_rows, visit

from fwpkm_eval.reporting.plots import build_plots
from fwpkm_eval.reporting.report import render
from fwpkm_eval.reporting.sets import SetFacts
from fwpkm_eval.reporting.tables import build_tables
from fwpkm_eval.runs.rows import rows_to_frame
from fwpkm_eval.tasks.trace_types import Digit, LayerRead, Pair, SlotRead, Trace, Vote

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        found = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="package")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All parts of a report; of the plots only that of texts, as they take the longest."""
    frame = rows_to_frame(run_rows())
    manifest = {"command": "fwpkm-eval reproduce", "started": "today", "weights": {FWPKM: "f3f3"}, "seeds": [0]}
    pair = Pair("4", "2", 11, 12, 0.5, "The number ", " is ", ".", True, True)
    read = LayerRead(2, 0.5, (SlotRead(3, 0.9, 1, 1, 1, (pair,)), SlotRead(4, 0.1, None, None, 0, ())))
    digits = (Digit("2", "2", 0.9, (Vote("2", 1.0),), (read,)),)
    where = ("manual", "d" * 16, 4096, 5, 1, "haystack", "closed-book", 0, 0, "AB12", 0.5)
    trace = Trace(1, FWPKM, "micro", "f3f3", *where, "2", "2", digits)
    plots = build_plots(frame[frame["task"] == "ppl"])
    page = render(frame, build_tables(frame), plots, manifest, SetFacts(), traces=[trace])
    path = tmp_path_factory.mktemp("run") / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


@pytest.fixture(scope="package")
def window(browser: Browser, report: Path) -> Visit:
    return visit(browser, report)


@pytest.fixture
def desk(window: Visit, report: Path) -> Iterator[Visit]:
    """The page opened anew on a desk; it has to be clean when the test is over, too."""
    window.page.goto("about:blank")
    window.page.set_viewport_size({"width": DESK[0], "height": DESK[1]})
    window.said.clear()
    window.asked.clear()
    window.page.goto(report.as_uri())
    yield window
    assert window.clean()
