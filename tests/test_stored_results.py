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
from readme_tables import (
    BACKBONE,
    BOOK_SETS,
    BOOKS_MATCHED,
    FROZEN,
    FULL,
    FULL_WITH_MEMORY,
    FWMLP,
    LACT,
    MODELS,
    PAGES,
    PKM,
    SETS,
    TABLES,
    TRAINED_OTHERWISE,
    TRAININGS,
    WITH_BOTH,
    WITH_MATCHES,
    WITH_MEMORY,
    bits,
    block,
    of_training,
    page_of,
    rows_of,
    trained,
)

from fwpkm_eval.runs.manifest import load_manifest
from fwpkm_eval.runs.rows import YARN, read_rows_csv

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


def test_readme_tells_the_speed_beside_the_backbone() -> None:
    """The middle of the turns with it, between 10th and 90th percentile, in reading and in training."""
    for page, model, words in (
        (PAGES[0], WITH_MEMORY, "reads at {} and trains at {} of its backbone's speed"),
        (PAGES[1], WITH_MEMORY, "reads at {} of its speed and trains at {},"),
        (PAGES[1], LACT, "LaCT at {} and {}."),
    ):
        told = " ".join(page.read_text(encoding="utf-8").split())
        assert words.format(_share(model, "reading"), _share(model, "training")) in told


def _share(model: str, protocol: str) -> str:
    frame = rows_of("micro")
    frame = frame[(frame["model"] == model) & (frame["metric"] == "share_of_backbone_speed")]
    (row,) = frame[frame["protocol"] == protocol].to_dict("records")
    return f"{row['value']:.0%} ({row['ci_low']:.0%} to {row['ci_high']:.0%})".replace("% to", " to").replace("%)", ")")


def test_readme_tells_what_other_memories_are_worth_in_each_training() -> None:
    told = " ".join(PAGES[1].read_text(encoding="utf-8").split())
    fewer = {model: [_worth(seed, model) for seed in TRAININGS[model]] for model in (LACT, PKM, FWMLP)}
    docs, source, manual = (_listed(f"{abs(one[place]):.1f}" for one in fewer[LACT]) for place in range(3))
    assert f"{source}% fewer bits than the backbone of the same seed on `source`, {manual}% fewer on `manual`" in told
    assert f"and {docs}% more on `docs`" in told
    (first, second, third) = ([f"{-one[place]:.1f}" for place in (1, 0, 2)] for one in fewer[PKM])
    assert f"{first[0]}% more on `source`, {first[1]}% more on `docs` and {first[2]}% more on `manual`" in told
    assert f"then {_listed(one.removeprefix('-') for one in second)}% fewer, then {_listed(third)}% more" in told
    (first, second, third) = ([f"{-one[place]:.1f}" for place in (1, 0, 2)] for one in fewer[FWMLP])
    more = [f"{one.removeprefix('-')}% {'fewer' if one.startswith('-') else 'more'}" for one in (*first, *second)]
    assert f"{more[0]} on `source`, {more[1]} on `docs` and {more[2]} on `manual`, then {_listed(more[3:])}" in told
    assert f"then {_listed(third)}% more. Its writes" in told
    off = [_off_worth(seed, name) for seed in TRAININGS[FWMLP] for name in SETS]
    assert f"without them it takes {-min(off):.1f}% fewer to {max(off):.1f}% more" in told


def _off_worth(seed: int, name: str) -> float:
    """How many percent more bits FwMLP takes with its writes off."""
    frame = trained(FWMLP, seed)
    written, frozen = (float(bits(frame, FWMLP, name, arm)) for arm in ("", FROZEN))
    return 100 * (frozen / written - 1)


def test_readme_tells_how_many_of_64_needles_each_training_finds() -> None:
    short, long = (" ".join(page.read_text(encoding="utf-8").split()) for page in PAGES[:2])
    ours, theirs = ({passes: _listed(_of_64(model, passes)) for passes in (1, 2, 4)} for model in (WITH_MEMORY, LACT))
    assert f"find {ours[1]} of 20 after one reading, three of LaCT {theirs[1]}, and {theirs[4]} after four" in short
    assert f"{theirs[1]} of 20 after one reading, {theirs[2]} after two and {theirs[4]} after four" in long
    assert f"three of FwPKM {ours[1]} after one, and all after more" in long
    assert ours[2] == ours[4] == "20, 20 and 20"


def test_readme_tells_what_was_asked_more_often() -> None:
    short, long = (" ".join(page.read_text(encoding="utf-8").split()) for page in PAGES[:2])

    def rates(run: str, model: str, chunk: str) -> list[int]:
        rows = rows_of(run)
        rows = rows[(rows["model"] == model) & (rows["metric"] == "exact_match") & rows["depth"].isna()]
        rows = rows[(rows["write_chunk"] == chunk) & (rows["protocol"] == "closed-book")]
        return [round(100 * value) for value in rows.sort_values("passes")["value"]]

    ours, theirs = ({c: rates("needles-16k", model, c) for c in ("haystack", "1024")} for model in (WITH_MEMORY, LACT))
    assert f"FwPKM finds {ours['haystack'][1]}% after two readings, LaCT {theirs['haystack'][1]}%." in short
    first, second = ours["haystack"]
    assert f"{first}% after one reading and {second}% after two, and written every 1,024 {_both(ours['1024'])}%" in long
    both = {c: _both(rates("needles-16k", WITH_BOTH, c)) for c in ("haystack", "1024")}
    assert f"with PKM beside it {both['haystack']}%, and {both['1024']}%" in long
    assert f"LaCT {_both(theirs['haystack'])}%, and {_both(theirs['1024'])}%." in long
    once, often = (rates("needles-32k", WITH_MEMORY, chunk) for chunk in ("haystack", "1024"))
    assert f"{_listed(map(str, once))}% after 1, 2 and 4 readings, and written every 1,024 all after one" in long
    assert f"FwPKM {once[0]}% of those in 32K, {once[2]}% after four readings, and none in 128K" in short
    lact_once, lact_often = (rates("needles-32k", LACT, chunk) for chunk in ("haystack", "1024"))
    assert often == lact_once == rates("needles-128k-memories", LACT, "haystack") == [100, 100, 100]
    assert f"LaCT all after one, and {_listed(map(str, lact_often))}%." in long
    assert f"LaCT {lact_often[0]}% and none." in short
    assert rates("needles-128k-memories", LACT, "1024") == [0, 0, 0]
    assert rates("needles-128k-memories", WITH_MEMORY, "haystack") == [0, 0, 0]
    assert rates("needles-128k-memories", WITH_MEMORY, "1024")[0] == 60


def _both(values: Iterable[int]) -> str:
    return " and ".join(map(str, values))


def _of_64(model: str, passes: int) -> list[str]:
    asked = {"metric": "exact_match", "length": 4096, "needles": 64, "protocol": "closed-book", "passes": passes}
    counts = []
    for seed in TRAININGS[model]:
        frame = trained(model, seed)
        frame = frame[(frame["write_chunk"] == "haystack") & frame["depth"].isna()]
        for column, value in asked.items():
            frame = frame[frame[column] == value]
        counts.append(f"{20 * frame['value'].item():.0f}")
    return counts


def _listed(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def test_readme_tells_what_fwpkm_is_worth_beside_full_attention() -> None:
    short, long = (" ".join(page.read_text(encoding="utf-8").split()) for page in PAGES[:2])
    worth = [_worth(seed, FULL_WITH_MEMORY, FULL) for seed in TRAININGS[FULL]]
    docs, source, manual = (_listed(f"{one[place]:.1f}" for one in worth) for place in range(3))
    assert f"{source}% fewer bits on `source`, {docs}% on `docs` and {manual}% on `manual`" in long
    low, high = ([f"{least(one[place] for one in worth):.0f}" for place in (1, 2, 0)] for least in (min, max))
    assert low[0] == high[0]
    assert f"beside `gdn+fa` {low[0]}, {low[1]} to {high[1]} and {low[2]} to {high[2]}%, in two" in short


def test_readme_tells_what_fewer_needles_in_training_are_worth() -> None:
    short, long = _pages()
    [seeds] = [models[WITH_MEMORY] for name, _, models in TRAINED_OTHERWISE if name == "micro-few"]
    usual = _by_set(
        [_saved(_bits_in("micro-few", WITH_MEMORY, seed), _bits(trained(WITH_MEMORY, seed))) for seed in seeds]
    )
    assert f"{usual[0]}% on `docs`, {usual[1]}% on `source` and {usual[2]}% on `manual`, and as many" in long
    beside = [_saved(*(_bits_in("micro-few", model, seed) for model in (WITH_MEMORY, BACKBONE))) for seed in seeds]
    docs, source, manual = _by_set(beside)
    assert f"takes {docs}% fewer on `docs`, {source}% on `source` and {manual}% on `manual`" in long
    low, high = ([f"{least(one[place] for one in beside):.0f}" for place in range(3)] for least in (min, max))
    ranges = [f"{least} to {most}%" for least, most in zip(low, high, strict=True)]
    assert f"{ranges[0]} on `docs`, {ranges[1]} on `source` and {ranges[2]} on `manual`" in short
    (more, fewer) = (_saved(_bits_in("micro-few", BACKBONE, seed), _bits(trained(BACKBONE, seed))) for seed in seeds)
    told = f"{_listed(f'{-one:.1f}' for one in more)}% more bits, then {_listed(f'{one:.1f}' for one in fewer)}% fewer"
    assert told in long


def test_readme_tells_what_longer_training_and_a_wider_convolution_are_worth() -> None:
    short, long = _pages()
    backbone, with_memory = (_bits_in("micro-long", model, 0) for model in (BACKBONE, WITH_MEMORY))
    usual, usual_with_memory = (_bits(trained(model, 0)) for model in (BACKBONE, WITH_MEMORY))
    wide = _bits_in("micro-conv", BACKBONE, 0)
    for page, digits in ((long, 1), (short, 0)):

        def told(less: dict[str, float], more: dict[str, float], sign: int = 1, digits: int = digits) -> str:
            return f"{_listed(f'{sign * one:.{digits}f}' for one in _saved(less, more))}%"

        assert f"takes {told(backbone, usual)} fewer bits than trained for 3,300 steps" in page
        assert f"FwPKM trained for 3,300 steps takes {told(usual_with_memory, backbone)} fewer than that" in page
        assert f"trained as long, {told(with_memory, backbone)} fewer" in page
        assert f"takes {told(wide, usual, -1)} more bits than the usual one" in page
        assert f"FwPKM {told(usual_with_memory, wide)} fewer than it" in page
    assert not any(_found(rows_of(name), BACKBONE) for name in ("micro-long", "micro-conv"))


def test_readme_tells_what_is_left_beside_a_match_model() -> None:
    short, long = _pages()
    frame = rows_of("micro-match")
    mixed = {model: {name: _matched(frame, model, name) for name in SETS} for model in MODELS}
    alone = {name: bits(frame, BACKBONE, name) for name in SETS}
    assert alone == {name: bits(rows_of("micro"), BACKBONE, name) for name in SETS}  # the same weights, read again
    assert all(mixed[BACKBONE][name] < float(bits(frame, WITH_MEMORY, name)) for name in SETS)
    told = " on `source`, {} on `docs` and {} on `manual`"
    source, docs, manual = (f"{mixed[BACKBONE][name]:.3f}" for name in SETS)
    assert f"`gdn+swa` takes {source} bits on `source`, {docs} on `docs` and {manual} on `manual`" in short
    (beside, full) = (
        [f"{100 * (1 - mixed[model][name] / mixed[base][name]):.1f}" for name in SETS]
        for model, base in ((WITH_MEMORY, BACKBONE), (FULL_WITH_MEMORY, FULL))
    )
    assert f"{_listed(beside)}% fewer than that, and beside full attention {_listed(full)}% fewer" in short
    assert f"FwPKM {beside[0]}% fewer than that{told.format(*(f'{one}%' for one in beside[1:]))}" in long
    assert f"beside full attention {_listed(full)}%." in long
    others = [100 * (mixed[model][name] / mixed[BACKBONE][name] - 1) for model in (PKM, FWMLP, LACT) for name in SETS]
    assert f"{-min(others):.1f}% fewer to {max(others):.1f}% more" in short
    assert f"{-min(others):.1f}% fewer to {max(others):.1f}% more" in long


def test_readme_tells_what_is_left_beside_a_match_model_on_prose() -> None:
    short, long = _pages()
    left: dict[str, list[float]] = {name: [] for name in BOOK_SETS}
    for seed in BOOKS_MATCHED:
        frame = of_training(rows_of("books-match"), seed)
        for name in BOOK_SETS:
            ours, theirs = (_matched(frame, model, name) for model in (WITH_MEMORY, BACKBONE))
            left[name].append(100 * (1 - ours / theirs))
            backbone_alone, with_memory_alone = (float(bits(frame, model, name)) for model in (BACKBONE, WITH_MEMORY))
            assert with_memory_alone < backbone_alone
            assert (theirs < with_memory_alone) == ((name, seed) != ("books", 1))
    books, lambada, fineweb, wikitext = ([f"{one:.1f}" for one in left[name]] for name in BOOK_SETS)
    told = f"{_listed(books)}% on books, {_listed(fineweb)}% on Fineweb-Edu, {_listed(wikitext)}% on WikiText-2 and"
    assert f"{told} {_listed(lambada)}% on LAMBADA" in long
    assert "fewer bits than FwPKM without (on books in one training of two)" in long
    books, lambada, fineweb, wikitext = ([f"{one:.0f}" for one in left[name]] for name in BOOK_SETS)
    told = f"{_listed(books)}% of bits for another book, {_listed(fineweb)}% for Fineweb-Edu, {_listed(wikitext)}% for"
    assert f"{told} WikiText-2 and {_listed(lambada)}% for LAMBADA" in short


def _matched(frame: pandas.DataFrame, model: str, dataset: str) -> float:
    rows = frame[(frame["metric"] == WITH_MATCHES) & (frame["model"] == model) & (frame["dataset"] == dataset)]
    return float(rows[rows["arm"] == ""]["value"].item())


def _found(frame: pandas.DataFrame, model: str) -> float:
    """The sum of all shares of needles that a model found, whatever it was asked."""
    asked = frame[(frame["task"] == "niah") & (frame["metric"] == "exact_match") & (frame["model"] == model)]
    assert len(asked)
    return float(asked["value"].sum())


def _pages() -> list[str]:
    return [" ".join(page.read_text(encoding="utf-8").split()) for page in PAGES[:2]]


def _bits_in(name: str, model: str, seed: int) -> dict[str, float]:
    frame = rows_of(name)
    return _bits(of_training(frame[frame["model"] == model], seed))


def _saved(less: dict[str, float], more: dict[str, float]) -> list[float]:
    """How many percent fewer bits the first takes on docs, source and manual."""
    return [100 * (1 - less[name] / more[name]) for name in ("docs", "source", "manual")]


def _by_set(worth: list[list[float]]) -> list[str]:
    return [_listed(f"{one[place]:.1f}" for one in worth) for place in range(3)]


def _worth(seed: int, model: str = WITH_MEMORY, backbone: str = BACKBONE) -> list[float]:
    return _saved(*(_bits(trained(one, seed)) for one in (model, backbone)))


def _bits(frame: pandas.DataFrame) -> dict[str, float]:
    frame = frame[(frame["task"] == "ppl") & (frame["metric"] == "bits_per_byte") & frame["arm"].isin(("", YARN))]
    return dict(zip(frame["dataset"], frame["value"], strict=True))
