"""A report open in Chromium: the rows it is made of, and what the browser said of it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from fwpkm_eval.runs.intervals import wilson_interval
from fwpkm_eval.runs.rows import Row

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
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
        rate("no_number_rate", 0, 20, model=model, **fields),
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


def visit(browser: Browser, path: Path, fragment: str = "", size: tuple[int, int] = DESK, **options: Any) -> Visit:
    opened = Visit(browser.new_context(viewport={"width": size[0], "height": size[1]}, **options).new_page())
    opened.page.set_default_timeout(8000)
    opened.page.on("console", lambda message: opened.said.append(f"{message.type}: {message.text}"))
    opened.page.on("pageerror", lambda error: opened.said.append(str(error)))
    opened.page.on("request", lambda request: opened.asked.append(request.url))
    opened.page.on("requestfailed", lambda request: opened.said.append(f"failed: {request.url}"))
    opened.page.goto(path.as_uri() + fragment)
    return opened
