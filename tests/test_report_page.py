"""The report's page and files as built for a whole run. No model and no torch is involved."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from report_cases import FWMLP, FWPKM, PKM, PLAIN, bits, needle, realistic_rows

from fwpkm_eval.reporting import build_report
from fwpkm_eval.reporting.report import breakable, render, title
from fwpkm_eval.reporting.sets import SetFacts
from fwpkm_eval.reporting.style import CARD, GRID, INK, MUTED, ON_DARK
from fwpkm_eval.reporting.tables import build_tables
from fwpkm_eval.runs.manifest import check_or_create
from fwpkm_eval.runs.rows import Row, rows_to_frame, write_rows_csv


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return list(realistic_rows())


@pytest.fixture(scope="module")
def built(rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output folder with a manifest and a report."""
    out = tmp_path_factory.mktemp("run")
    check_or_create(
        out,
        {"scale": "micro", "data": "embedded"},
        command=["fwpkm-eval", "reproduce", "--scale", "micro"],
        data={"docs": {"sha256": "a" * 64, "stands_in_for": "Fineweb-Edu", "origin": "docstrings"}},
        weights={FWPKM: "f3f3"},
    )
    write_rows_csv(rows, out / "rows.csv")
    build_report(out)
    return out


def page_of(rows: Iterable[Row]) -> str:
    frame = rows_to_frame(rows)
    return render(frame, build_tables(frame), [], None, SetFacts())


def test_a_page_has_no_heading_without_content_and_no_rule_for_what_it_does_not_say() -> None:
    assert "Can a model remember" not in page_of([Row(task="bench", arm="torch", metric="speedup_forward", value=3.0)])
    own = page_of([Row(task="mine", model=FWPKM, metric="acc", value=0.5, n=100)])
    assert "Summary" not in own
    assert "#summary" not in own
    for words in ("Two rates are", "bits per byte only", "Bold: the best", "Published numbers", "secondary report"):
        assert words not in own
    ablation = [
        Row(task="ablation", arm=arm, score="idw", metric="bits_per_byte", value=3, seed=0, scale="micro")
        for arm in ("reference", "no-gate")
    ]
    one = page_of([*ablation, Row(task="bench", arm="torch", metric="speedup_forward", value=3.0)])
    assert "Summary</h2>" in one
    assert "called different" not in one
    text = page_of([*bits(PLAIN, 2.0), *bits(FWPKM, 1.7)])
    assert (
        "Bits per byte are called different only where Student's 95% interval over several trainings"
        in text.replace("&#39;", "'")
    )
    assert "Two rates" not in text
    assert "Two rates are called different, of the weights measured" in page_of([needle(FWPKM, 3), needle(PLAIN, 0)])


@pytest.mark.parametrize("task", ["bench", "ablation", "capacity", "cost"])
def test_the_title_has_the_scale_of_whatever_was_measured(task: str) -> None:
    other = Row(task=task, metric="bits_per_byte", value=3, scale="paper")
    assert title(rows_to_frame([other])) == "Fast-weight memory, measured: scale paper"
    assert title(rows_to_frame([other, needle(FWPKM, 3)])) == "Fast-weight memory, measured: scale micro"


def test_every_plot_is_made_and_shows_something(built: Path) -> None:
    names = {path.stem for path in (built / "plots").iterdir()}
    of_needles = {f"niah-{what}" for what in ("models", "length", "readings", "needles", "depth")}
    assert names == {
        *(f"{name}-{protocol}-book" for name in of_needles for protocol in ("open", "closed")),
        *("bits-per-byte", "loss-by-position", "speed"),
    }
    for name in names:
        png = (built / "plots" / f"{name}.png").read_bytes()
        width, height = np.frombuffer(png[16:24], dtype=">u4")
        assert width == 840, "one column at 240 dots per inch"
        assert 300 < height < 2400
        assert len(png) > 10_000
        root = ElementTree.fromstring((built / "plots" / f"{name}.svg").read_bytes())
        assert len(root.findall(".//{http://www.w3.org/2000/svg}path")) > 10


def test_needle_plots_say_how_many_samples_and_needles(page: str) -> None:
    captions = {text.split("plots/")[1]: text for text in "".join(Page(page).words).split(".svg") if "plots/" in text}
    assert "5 needles, one asked for" in captions["niah-length-closed-book"]
    assert "5 to 20 samples per point" in captions["niah-length-closed-book"]
    assert f"none found by {PLAIN} and {PKM};" in captions["niah-depth-closed-book"]


class Page(HTMLParser):
    """What a browser would load, run or show."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            self.ids += [value or ""] if name == "id" else []
            self.loads += [value or ""] if name in ("src", "srcset", "data", "action", "poster", "background") else []
            self.links += [value or ""] if name in ("href", "xlink:href") else []
            assert not name.startswith("on"), f"{tag} has a handler"

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture(scope="module")
def page(built: Path) -> str:
    return (built / "report.html").read_text(encoding="utf-8")


def test_the_page_loads_nothing_and_runs_its_own_scripts_alone(page: str) -> None:
    parsed = Page(page)
    assert parsed.loads == []
    assert not {"link", "iframe", "object", "embed", "img", "base"} & set(parsed.tags)
    assert parsed.links
    assert all(link.startswith("#") for link in parsed.links), "only places on the page itself"
    assert not re.search(r"@import|url\((?!#)", page)
    policy = re.search(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', page)
    assert policy is not None
    directives = dict(part.split(" ", 1) for part in html.unescape(policy[1]).split("; "))
    assert directives["default-src"] == directives["base-uri"] == directives["form-action"] == "'none'"
    scripts = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert directives["script-src"] == " ".join(f"'sha256-{digest}'" for digest in hashes)
    assert len(hashes) == 3
    assert parsed.tags.count("script") == 4, "and one that is data"
    assert not re.search(r"\b(eval|innerHTML|insertAdjacentHTML|fetch|XMLHttpRequest|import)\b", "".join(scripts))


def test_ids_are_unique_and_every_place_linked_to_exists(page: str) -> None:
    parsed = Page(page)
    assert len(parsed.ids) == len(set(parsed.ids))
    assert {link[1:] for link in parsed.links} <= set(parsed.ids)
    assert set(re.findall(r"url\(#([^)]+)\)", page)) <= set(parsed.ids)


def test_the_page_holds_summary_tables_plots_manifest_and_commands(page: str) -> None:
    words = " ".join(" ".join(Page(page).words).split())
    assert "What do re-readings and more frequent writes buy?" in words
    assert f"Closed book, 4K: {FWPKM} finds" in words
    assert "Perplexity: source (stand-in for LC64)" in words
    assert page.count("<svg") == 13
    assert "fwpkm-eval reproduce --scale micro" in words
    assert f"--models {PLAIN},{PKM},{FWPKM} --scale micro --lengths 16K --needles 256 --passes 1,2" in words
    assert f"--models {FWMLP} --scale micro --lengths 16K --needles 256 --passes 1,2 --samples 5" in words
    assert "fwpkm-eval report DIR" in words
    assert "docs (stand-in for Fineweb-Edu)" in words
    assert "f3f3" in words
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport"' in page


def test_plots_on_the_page_follow_its_colours(page: str) -> None:
    svg = page[page.index("<svg") : page.rindex("</svg>")]
    for colour in (INK, MUTED, GRID, CARD, *ON_DARK):
        assert colour not in svg
    used = set(re.findall(r"var\(--([a-z0-9]+)\)", svg))
    assert {"ink", "card"} < used
    defined = set(re.findall(r"--([a-z0-9]+):", page[: page.index("</style>")]))
    assert used <= defined


def test_lines_may_end_within_a_models_name() -> None:
    """In the tiles, which are narrower than some names."""
    assert breakable("gdn+swa:pkm@2+fwpkm@1,3 <b>") == "gdn+<wbr>swa:<wbr>pkm@2+<wbr>fwpkm@1,3 &lt;b&gt;"
    assert breakable("at 32K: +0.5%") == "at 32K: +0.5%"


def test_names_are_inert_wherever_they_turn_up(tmp_path: Path) -> None:
    name = "gdn:<script>alert(1)</script>&amp;\"'$\\nonsense$\u2028"
    rows = [needle(name, 3), needle(name, 9, passes=2), needle(PLAIN, 1)]
    rows += [*bits(name, 1.7, dataset="<img src=x onerror=alert(2)>"), *bits(PLAIN, 2.0)]
    write_rows_csv(rows, tmp_path / "rows.csv")
    build_report(tmp_path)
    page = (tmp_path / "report.html").read_text()
    parsed = Page(page)
    assert parsed.tags.count("script") == 4, "those of the page"
    assert "img" not in parsed.tags
    data = re.search(r'<script type="application/json" id="explorer-data">(.*?)</script>', page)
    assert data is not None
    assert not set("<>&\u2028\u2029") & set(data[1])
    assert name in [model["name"] for model in json.loads(data[1])["models"]]
    assert name in "".join(parsed.words), "shown as it is"
    assert "<script" not in (tmp_path / "tables.md").read_text()
    for plot in (tmp_path / "plots").glob("*.svg"):
        root = ElementTree.fromstring(plot.read_bytes())
        assert not [element for element in root.iter() if "script" in str(element.tag)]


def test_the_same_rows_give_the_same_files_without_torch(built: Path, tmp_path: Path) -> None:
    shutil.copy(built / "rows.csv", tmp_path)
    shutil.copy(built / "manifest.json", tmp_path)
    code = (
        "import sys; from pathlib import Path; from fwpkm_eval.reporting import build_report; "
        "assert 'matplotlib' not in sys.modules; print(*build_report(Path(sys.argv[1])), sep='\\n'); "
        "assert not {'torch', 'triton', 'matplotlib.pyplot'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True, text=True, timeout=300
    )
    written = [Path(line) for line in done.stdout.splitlines()]
    assert written[-1] == tmp_path / "report.html"
    assert {path.relative_to(tmp_path) for path in written} == {
        path.relative_to(built)
        for path in built.rglob("*")
        if path.suffix in (".md", ".html", ".svg", ".png", ".tex", ".csv") and path != built / "rows.csv"
    }
    for path in written:
        assert path.read_bytes() == (built / path.relative_to(tmp_path)).read_bytes(), path.name
