"""The report in a browser: its shape, and that it opens clean and everybody can read it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from browser_pages import CHROMIUM, DESK, PHONE, PLAIN, PLOTS, RULES, Visit, rate, visit
from PIL import Image

from fwpkm_eval.reporting.report import render
from fwpkm_eval.reporting.sets import SetFacts
from fwpkm_eval.reporting.style import Plot
from fwpkm_eval.reporting.table import Cell, Table
from fwpkm_eval.reporting.tables import build_tables
from fwpkm_eval.runs.rows import rows_to_frame

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")


# Its shape


def drawn(name: str, height: float) -> Plot:
    """A plot of one line, ``height`` times as high as it is wide."""
    svg = f'<svg viewBox="0 0 100 {height * 100:g}"><path d="M0 0L100 10"/></svg>'
    return Plot(name, name, "A caption.", svg, b"", height)


def table_of(name: str, columns: int) -> Table:
    """So many columns of short entries, and one of many words that were published."""
    row = (*(Cell(f"some value {at}") for at in range(columns)), Cell("quoted words " * 20))
    return Table(name, name, (*(f"column {at}" for at in range(columns)), "published"), (row,))


def box(locator: Locator) -> dict[str, float]:
    found = locator.bounding_box()
    assert found is not None
    return {"x": found["x"], "y": found["y"], "width": found["width"], "height": found["height"]}


def shaped(browser: Browser, folder: Path, plots: int, size: tuple[int, int]) -> Visit:
    """A page with plots of unlike heights, and tables that fit, need more than the text's width, and scroll."""
    drawings = [drawn(f"plot-{at}", (1.6, 0.4, 0.4, 0.9, 0.4)[at]) for at in range(plots)]
    tables = [table_of("fits", 3), table_of("wide", 10), table_of("scrolls", 30)]
    path = folder / "report.html"
    path.write_text(render(rows_to_frame([]), tables, drawings, None, SetFacts()), encoding="utf-8")
    return visit(browser, path, size=size)


def test_plots_are_read_downwards_on_a_desk_and_on_a_phone(browser: Browser, tmp_path: Path) -> None:
    for size, columns in ((DESK, 2), (PHONE, 1)):
        opened = shaped(browser, tmp_path, 5, size)
        boxes = [box(figure) for figure in opened.page.locator(".figures figure").all()]
        places = [(round(each["x"]), each["y"]) for each in boxes]
        assert places == sorted(places), "down the first column, then down the next"
        assert len({x for x, _ in places}) == columns
        opened.page.context.close()


def test_a_lone_plot_is_not_blown_up(browser: Browser, tmp_path: Path) -> None:
    opened = shaped(browser, tmp_path, 1, (1400, 900))
    assert 300 < box(opened.page.locator(".figures svg"))["width"] <= 34 * 16
    opened.page.set_viewport_size({"width": 760, "height": 900})
    assert box(opened.page.locator(".figures svg"))["width"] <= 34 * 16
    opened.page.context.close()


def test_a_plot_scrolls_where_its_letters_would_be_too_small(browser: Browser, tmp_path: Path) -> None:
    opened = shaped(browser, tmp_path, 3, PHONE)
    for drawing in opened.page.locator("figure > [role=img]").all():
        assert box(drawing.locator("svg"))["width"] >= 26 * 16
        assert box(drawing)["width"] < PHONE[0]
        drawing.focus()
        assert drawing.evaluate("e => e === document.activeElement"), "the keyboard reaches it"
        assert drawing.evaluate("e => { e.scrollLeft = 40; return e.scrollLeft; }") == 40
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= PHONE[0]
    opened.page.set_viewport_size({"width": DESK[0], "height": DESK[1]})
    hidden = opened.page.locator("figure > [role=img]").evaluate_all(
        "all => all.map(e => e.scrollWidth - e.clientWidth)"
    )
    assert hidden == [0, 0, 0]
    opened.page.context.close()


def test_wide_tables_take_the_room_there_is_and_one_sees_where_they_go_on(browser: Browser, tmp_path: Path) -> None:
    opened = shaped(browser, tmp_path, 1, (1400, 900))
    regions = {name: opened.page.locator(f".scroll[aria-labelledby={name}]") for name in ("fits", "wide", "scrolls")}
    text = box(opened.page.locator("h2").first)["width"]
    hidden = {name: region.evaluate("e => e.scrollWidth - e.clientWidth") for name, region in regions.items()}
    widths = {name: box(region)["width"] for name, region in regions.items()}
    assert widths["fits"] == text
    assert text < widths["wide"] < 1400 - 32 + 1
    assert (hidden["fits"], hidden["wide"]) == (0, 0)
    assert hidden["scrolls"] > 0
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 1400
    assert box(regions["fits"].locator("td").last)["height"] > 40, "published words wrap"

    def edges() -> tuple[int, int]:
        """How dark the region is at its left and right edge, between two rows' texts."""
        image = Image.open(io.BytesIO(regions["scrolls"].screenshot())).convert("L")
        middle = image.height - 8
        return tuple(255 - int(image.getpixel((at, middle))) for at in (3, image.width - 4))  # type: ignore[return-value, arg-type]

    left, right = edges()
    assert left < 5 < 20 < right, "more to the right"
    regions["scrolls"].evaluate("e => e.scrollLeft = e.scrollWidth")
    left, right = edges()
    assert right < 5 < 20 < left, "and then to the left"
    opened.page.context.close()


# Opening it


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_it_opens_clean_fits_and_everybody_can_read_it(
    browser: Browser, report: Path, scheme: str, size: tuple[int, int]
) -> None:
    opened = visit(browser, report, size=size, color_scheme=scheme)
    opened.page.evaluate("document.querySelectorAll('details').forEach((details) => details.open = true)")
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= size[0]
    assert opened.page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") == (scheme == "dark")
    assert opened.page.locator("figure svg, #trace, #run, #explorer-view").count() >= 4, "what the rules look at"
    found = axe.Axe().run(opened.page, {"exclude": [[PLOTS]]}, RULES)
    assert found.violations_count == 0, found.generate_report()
    passed = {rule["id"] for rule in found.response["passes"]}
    assert {"color-contrast", "label", "select-name", "scrollable-region-focusable", "aria-valid-attr-value"} <= passed
    assert opened.clean()
    opened.page.context.close()


def test_without_scripts_it_says_so_and_shows_the_rest(browser: Browser, report: Path) -> None:
    opened = visit(browser, report, java_script_enabled=False)
    assert "needs scripts" in opened.find("off").inner_text()
    assert not opened.find("view").is_visible()
    assert opened.page.locator("table.sortable:visible th").count() > 5
    assert opened.page.locator("th button").count() == 0
    assert opened.clean()
    opened.page.context.close()


def test_no_script_runs_but_those_of_the_page(desk: Visit) -> None:
    ran = desk.page.evaluate(
        "() => { const script = document.createElement('script'); script.textContent = 'window.ran = 1';"
        "document.body.append(script);"
        "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.ran = 2\">');"
        "return window.ran ?? 0; }"
    )
    assert ran == 0
    assert any("Content Security Policy" in said for said in desk.said)
    assert not [url for url in desk.asked if not url.startswith("file:///")]
    desk.said.clear()
    desk.asked.clear()


# Names that want to be more than names


def test_names_stay_names(browser: Browser, tmp_path: Path) -> None:
    model = "gdn:</script><script>window.ran = 1</script><!--&amp;\u2028"
    dataset = "<img src=x onerror='window.ran = 2'>"
    rows = []
    for passes in (1, 2):
        setting: dict[str, Any] = {"length": 4096, "needles": 5, "passes": passes, "write_chunk": "haystack"}
        for text in (dataset, "manual"):
            rows += [
                rate(
                    "exact_match", passes, 20, model=name, dataset=text, protocol="closed-book", depth=depth, **setting
                )
                for name in (model, PLAIN)
                for depth in (None, 0.55)
            ]
    frame = rows_to_frame(rows)
    path = tmp_path / "report.html"
    path.write_text(render(frame, build_tables(frame), [], None, SetFacts()), encoding="utf-8")
    opened = visit(browser, path)
    opened.find("dataset").select_option(dataset)
    assert dataset in opened.status
    assert model in (opened.find("models").text_content() or "")
    assert model in (opened.find("strip").text_content() or "")
    assert model in (opened.find("numbers").text_content() or "")
    opened.find("models").locator("input").last.uncheck()
    assert opened.page.evaluate("window.ran ?? 0") == 0
    assert opened.page.locator("img").count() == 0
    assert opened.clean()
    opened.page.reload()
    assert dataset in opened.status
    assert opened.page.evaluate("window.ran ?? 0") == 0
    opened.page.context.close()
