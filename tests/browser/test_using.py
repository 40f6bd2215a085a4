"""The report in a browser: its tables sort, its explorer answers, by mouse and by keyboard."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browser_pages import CHROMIUM, DESK, FWMLP, FWPKM, PLAIN, Visit, visit

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")


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


def test_models_that_share_the_highest_value_are_listed(desk: Visit) -> None:
    desk.find("metric").select_option("no_number_rate")
    assert f"highest: {PLAIN}, {FWMLP} and {FWPKM}, 0% (0–16)." in desk.status


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
