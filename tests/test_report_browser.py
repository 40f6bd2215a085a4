"""The report in a browser: it opens clean, its tables sort, its explorer answers, and everybody can use it."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import pytest
from PIL import Image

from fwpkm_eval.reporting.plots import build_plots
from fwpkm_eval.reporting.report import render
from fwpkm_eval.reporting.sets import SetFacts
from fwpkm_eval.reporting.style import Plot
from fwpkm_eval.reporting.table import Cell, Table
from fwpkm_eval.reporting.tables import build_tables
from fwpkm_eval.runs.intervals import wilson_interval
from fwpkm_eval.runs.rows import Row, rows_to_frame
from fwpkm_eval.tasks.trace_types import Digit, LayerRead, Pair, SlotRead, Trace, Vote

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")

PLAIN, FWMLP, FWPKM = "gdn", "gdn:fwmlp@2", "gdn:fwpkm@2"
RULES = {
    "resultTypes": ["violations"],
    "runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]},
}
PLOTS = "figure > [role=img] > svg"
"""Thousands of outlines without text, which would take most of the time that the rules take."""
DESK, PHONE = (1280, 900), (360, 740)


def rate(metric: str, found: int, n: int, **fields: Any) -> Row:
    low, high = wilson_interval(found, n)
    return Row(
        task="niah", metric=metric, value=found / n, unit="fraction", n=n, ci_low=low, ci_high=high,
        **{"dataset": "manual", "scope": "sample", "scale": "micro", "seed": 0, **fields},
    )  # fmt: skip


def needle_rows(model: str, **fields: Any) -> list[Row]:
    """One setting in all its measures: more readings find more needles, longer haystacks and more needles hide more."""
    harder = fields["length"] // 16384 + fields["needles"] // 32
    found = 0 if model == PLAIN else max(0, {FWMLP: 3, FWPKM: 12}[model] + 2 * fields["passes"] - harder)
    depths = [rate("exact_match", min(found, 10), 10, model=model, depth=depth, **fields) for depth in (0.05, 0.55)]
    return [
        rate("exact_match", found, 20, model=model, **fields),
        rate("digit_accuracy", 20 - found, 20, model=model, **fields),
        Row(
            task="niah", metric="answer_logprob", value=found / 2 - 14, unit="nats", n=20, ci_low=found / 2 - 15,
            ci_high=found / 2 - 13, model=model, dataset="manual", scope="sample", scale="micro", seed=0, **fields,
        ),
        *depths,
    ]  # fmt: skip


def run_rows() -> list[Row]:
    """Needles at 4K and 32K; at 16K only 256, read twice at most; one model only writes every 1,024 tokens."""
    rows = []
    for protocol in ("closed-book", "open-book"):
        for model in (PLAIN, FWMLP, FWPKM):
            for chunk in ("1024",) if model == FWMLP else ("haystack", "1024"):
                asked = [
                    (length, needles, n) for length, needles in ((4096, 5), (4096, 64), (32768, 5)) for n in (1, 2, 4)
                ]
                asked += [(16384, 256, n) for n in (1, 2)]
                for length, needles, passes in asked:
                    setting = {"length": length, "needles": needles, "passes": passes, "write_chunk": chunk}
                    rows += needle_rows(model, protocol=protocol, **setting)
    guess: dict[str, Any] = {
        "model": "guess",
        "task": "niah",
        "metric": "exact_match",
        "value": 1e-6,
        "unit": "fraction",
    }
    guess |= {"dataset": "manual", "scope": "sample", "protocol": "closed-book", "write_chunk": "1024"}
    rows += [Row(**guess, length=4096, needles=5, passes=passes) for passes in (1, 2, 4)]
    for at, (model, bits) in enumerate({PLAIN: 2.31, FWMLP: 2.21, FWPKM: 2.12}.items()):
        text: dict[str, Any] = {"task": "ppl", "model": model, "dataset": "docs", "scope": "stream", "n": 9000 + at}
        rows.append(Row(metric="bits_per_byte", value=bits, unit="bits", **text))
        rows.append(Row(metric="perplexity", value=2**bits, unit="ratio", **text))
    return rows


@dataclass
class Visit:
    """An open page and what the browser said or asked for since."""

    page: Page
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def clean(self) -> bool:
        assert self.said == []
        assert [url for url in self.asked if not url.startswith("file:///")] == []
        assert len(self.asked) <= 1, "the page itself and nothing else"
        return True

    def find(self, name: str) -> Locator:
        return self.page.locator(f"#explorer-{name}")

    @property
    def status(self) -> str:
        return self.find("status").inner_text()

    @property
    def address(self) -> dict[str, list[str]]:
        return parse_qs(self.page.evaluate("location.hash").removeprefix("#explorer&"))

    def result(self, model: str) -> str:
        """What the list of models says of this one."""
        return (
            self.find("models")
            .locator("label", has=self.page.get_by_text(model, exact=True))
            .locator("output")
            .inner_text()
        )


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
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


def visit(browser: Browser, path: Path, fragment: str = "", size: tuple[int, int] = DESK, **options: Any) -> Visit:
    opened = Visit(browser.new_context(viewport={"width": size[0], "height": size[1]}, **options).new_page())
    opened.page.set_default_timeout(8000)
    opened.page.on("console", lambda message: opened.said.append(f"{message.type}: {message.text}"))
    opened.page.on("pageerror", lambda error: opened.said.append(str(error)))
    opened.page.on("request", lambda request: opened.asked.append(request.url))
    opened.page.on("requestfailed", lambda request: opened.said.append(f"failed: {request.url}"))
    opened.page.goto(path.as_uri() + fragment)
    return opened


@pytest.fixture(scope="module")
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


# Tables


def cells(table: Locator, column: int) -> list[str]:
    return table.locator(f"tbody td:nth-child({column + 1})").all_inner_texts()


def test_tables_sort_by_mouse_by_number_and_back(desk: Visit) -> None:
    table = desk.page.locator("table", has=desk.page.locator("th", has_text="perplexity")).first
    heading = table.locator("th", has_text="bits per byte")
    column = [text.split(" ↕")[0] for text in table.locator("th").all_inner_texts()].index("bits per byte")
    before = cells(table, column)
    assert heading.get_attribute("aria-sort") is None
    for expected, order in (
        ("ascending", sorted(before)),
        ("descending", sorted(before, reverse=True)),
        (None, before),
    ):
        heading.locator("button").click()
        assert (heading.get_attribute("aria-sort"), cells(table, column)) == (expected, order)


def test_tables_sort_by_keyboard_one_column_at_a_time(desk: Visit) -> None:
    table = desk.page.locator("table.sortable", has=desk.page.locator("th", has_text="bits per byte")).first
    first, second = table.locator("th button").nth(0), table.locator("th button").nth(1)
    first.focus()
    desk.page.keyboard.press("Enter")
    desk.page.keyboard.press("Enter")
    assert cells(table, 0) == sorted(cells(table, 0), reverse=True)
    desk.page.keyboard.press("Tab")
    assert second.evaluate("(button) => button === document.activeElement")
    desk.page.keyboard.press("Space")
    assert [th.get_attribute("aria-sort") for th in table.locator("th").all()[:2]] == [None, "ascending"]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["32K", "4K", "any", "512", "1M"], ["512", "4K", "32K", "1M", "any"]),
        (["100% (84–100)", "–", "5% (1–24)", "0.4%"], ["0.4%", "5% (1–24)", "100% (84–100)", "–"]),
        (["129 (124–138) ms", "2.24 (2.17–2.59) s", "80 µs"], ["80 µs", "129 (124–138) ms", "2.24 (2.17–2.59) s"]),
        (["1/4.05", "–", "1/109", "1"], ["1/109", "1/4.05", "1", "–"]),
        (["+0.9%", "−8.7%", "0.0%", "−0.5%"], ["−8.7%", "−0.5%", "0.0%", "+0.9%"]),
        (["1.21 M", "845 K", "999 K"], ["845 K", "999 K", "1.21 M"]),
        (["1.9e+03", "25,051", "512 MiB", "9"], ["9", "1.9e+03", "25,051", "512 MiB"]),
        (["b", "", "a", "a"], ["a", "a", "b", ""]),
        (["5 samples", "40 samples", "< 10%"], ["5 samples", "< 10%", "40 samples"]),
    ],
)
def test_cells_are_ordered_by_what_they_mean(desk: Visit, texts: list[str], expected: list[str]) -> None:
    table = desk.page.locator("table.sortable", has=desk.page.locator("th", has_text="bits per byte")).first
    table.evaluate(
        "(table, texts) => table.tBodies[0].replaceChildren(...texts.map((text) => {"
        "const row = document.createElement('tr'); row.insertCell().textContent = text; return row; }))",
        texts,
    )
    button = table.locator("th button").first
    button.click()
    assert cells(table, 0) == expected
    button.click()
    missing = [text for text in expected if text in ("", "–")]
    present = [text for text in expected if text not in ("", "–")]
    assert cells(table, 0) == present[::-1] + missing, "what is missing stays last"
    button.click()
    assert cells(table, 0) == texts


# The explorer


def test_it_starts_with_what_most_models_were_asked(desk: Visit) -> None:
    assert desk.status == (
        f"Exact match (all digits right), closed book, 4K tokens, 5 needles, a write every 1,024 tokens, 4 readings: "
        f"3 of 3 models measured; highest: {FWPKM}, 100% (84–100)."
    )
    assert desk.result(FWMLP) == "55% (34–74)"
    assert desk.result("guess") == "0.0001%"
    assert desk.find("charts").locator("svg").count() == 3
    assert desk.page.evaluate("location.hash") == ""


@pytest.mark.parametrize(
    ("control", "picked", "title", "result"),
    [
        ("metric", "digit_accuracy", "Digits right", "0% (0–16)"),
        ("metric", "answer_logprob", "Log-probability", "−4.00 (−5.00 to −3.00)"),
        ("protocol", "open-book", "open book", "100% (84–100)"),
        ("length", "32K", "32K tokens", "90% (70–97)"),
        ("needles", "64", "64 needles", "90% (70–97)"),
        ("write_chunk", "haystack", "one write per reading", "100% (84–100)"),
        ("passes", "1", "one reading", "70% (48–85)"),
        ("depth", "0.55", "depth 55%", "100% (72–100)"),
    ],
)
def test_every_control_changes_what_is_shown(desk: Visit, control: str, picked: str, title: str, result: str) -> None:
    charts, numbers = desk.find("charts").inner_html(), desk.find("numbers").inner_text()
    desk.find(control).select_option(picked)
    assert title in desk.status
    assert desk.result(FWPKM) == result
    assert desk.address[control] == [picked]
    assert desk.find("charts").inner_html() != charts
    if control != "protocol":  # whose numbers are the same here
        assert desk.find("numbers").inner_text() != numbers


def test_what_was_not_measured_together_is_said_and_led_out_of(desk: Visit) -> None:
    assert desk.find("protocol").locator("option:disabled").all_inner_texts() == [
        "protocol of the public implementation – not measured"
    ]
    options = desk.find("length").locator("option").all_inner_texts()
    assert options == [
        "4K tokens",
        "16K tokens – not measured with 5 needles, 4 readings",
        "32K tokens",
    ]
    desk.find("length").select_option("16K")
    assert desk.status.startswith(
        "16K tokens was not measured with 5 needles, 4 readings: changed to 256 needles, 2 readings. Exact match"
    )
    assert desk.find("needles").input_value() == "256"
    assert desk.find("charts").locator("svg").count() == 1
    assert "only 16K tokens measured" in desk.find("single").inner_text()
    desk.find("write_chunk").select_option("haystack")
    assert desk.result(FWMLP) == "not measured"
    desk.find("metric").select_option("digit_accuracy")
    assert desk.find("depth-note").inner_text().startswith("Not measured by depth: digits right")
    assert not desk.find("strip").is_visible()


def test_models_are_picked_by_themselves(desk: Visit) -> None:
    boxes = desk.find("models").locator("input")
    for box in boxes.all()[1:]:
        box.uncheck()
    assert "1 of 1 models measured" in desk.status
    assert {row.split("\t")[0] for row in desk.find("numbers").locator("tbody").inner_text().splitlines()} == {PLAIN}
    assert desk.address["model"] == [PLAIN]
    boxes.first.uncheck()
    assert desk.status.endswith("pick at least one model.")
    desk.find("reset").click()
    assert boxes.evaluate_all("(boxes) => boxes.every((box) => box.checked)")


def test_charts_and_depths_hold_the_numbers(desk: Visit) -> None:
    drawn = [
        text for text in desk.find("charts").locator("svg").first.locator("title").all_text_contents() if FWPKM in text
    ]
    assert drawn == [
        f"{FWPKM}, one reading: 70% (48–85)",
        f"{FWPKM}, 2 readings: 80% (58–92)",
        f"{FWPKM}, 4 readings: 100% (84–100)",
    ]
    heads = desk.find("strip").locator("thead th").all_inner_texts()
    assert heads == ["5%", "55%"]
    lines = desk.find("strip").locator("tbody", has_text=FWMLP).locator("td").all_inner_texts()
    assert [line.split() for line in lines] == [["100%", "(72–100)", "n", "10"]] * 2
    numbers = desk.find("numbers").locator("tbody tr").all_inner_texts()
    assert f"{FWPKM}\t4K\t5\t4\tall\t100% (84–100)\t20" in numbers


def test_the_table_of_numbers_keeps_its_order_when_it_changes(desk: Visit) -> None:
    desk.find("numbers").locator("th button", has_text="readings").click()
    assert cells(desk.find("numbers"), 3) == sorted(cells(desk.find("numbers"), 3))
    desk.find("protocol").select_option("open-book")
    found = cells(desk.find("numbers"), 3)
    assert found == sorted(found)
    assert len(set(found)) > 1


def test_a_view_can_be_linked(browser: Browser, report: Path, desk: Visit) -> None:
    desk.find("passes").select_option("2")
    desk.find("length").select_option("32K")
    desk.find("models").locator("input").first.uncheck()
    link = desk.find("link").get_attribute("href") or ""
    assert link == desk.page.evaluate("location.hash")
    again = visit(browser, report, link)
    assert again.status == desk.status
    assert again.find("charts").inner_html() == desk.find("charts").inner_html()
    assert again.page.locator("#explorer").evaluate("(title) => title.getBoundingClientRect().top") < DESK[1]
    again.page.evaluate("location.hash = '#explorer&length=9M&needles=64&metric=<b>x</b>'")
    playwright.expect(again.find("status")).to_contain_text("9M")
    assert again.status.startswith(
        "Not measured: metric <b>x</b>, length 9M; this is the nearest that was. Exact match"
    )
    assert "64 needles" in again.status
    assert again.clean()
    again.page.context.close()


def test_charts_follow_the_width_of_the_window(desk: Visit) -> None:
    chart = desk.find("charts").locator("svg").first
    before = chart.get_attribute("width") or ""
    desk.page.set_viewport_size({"width": 360, "height": 740})
    playwright.expect(chart).not_to_have_attribute("width", before)
    assert float(chart.get_attribute("width") or 0) < 330


def test_the_keyboard_reaches_everything_and_one_sees_where_it_is(desk: Visit) -> None:
    wanted = {
        "explorer-metric",
        "explorer-length",
        "explorer-passes",
        "explorer-depth",
        "explorer-reset",
        "explorer-link",
    }
    reached, seen = [], []
    for _ in range(80):
        desk.page.keyboard.press("Tab")
        at, outline = desk.page.evaluate(
            "() => { const e = document.activeElement; const s = getComputedStyle(e);"
            "return [e.id || e.type || e.tagName, s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) >= 1]; }"
        )
        reached.append(at)
        seen.append(outline or at == "BODY")
    assert wanted < set(reached)
    assert reached.count("checkbox") == 4
    assert reached.count("button") >= 5, "headings that sort"
    assert all(seen)
    desk.find("passes").focus()
    desk.page.keyboard.press("ArrowUp")
    assert desk.address["passes"] == ["2"]
    desk.find("models").locator("input").first.focus()
    desk.page.keyboard.press("Space")
    assert PLAIN not in desk.address["model"]


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
