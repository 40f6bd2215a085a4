"""The report's tables: what stands in which cell."""

from __future__ import annotations

import dataclasses
import math
import re

from report_cases import (
    FWMLP,
    FWPKM,
    PKM,
    PLAIN,
    bench_rows,
    bits,
    guess_rows,
    line_of,
    lines_of,
    needle,
    said,
    tables_of,
    with_matches,
)

from fwpkm_eval.reporting.plots import build_plots
from fwpkm_eval.reporting.sets import SetFacts
from fwpkm_eval.reporting.table import to_markdown
from fwpkm_eval.reporting.tables import build_tables
from fwpkm_eval.runs.rows import Row, rows_to_frame


def test_needle_rates_stand_in_their_cells() -> None:
    rows = [
        needle(FWPKM, 11),
        needle(FWPKM, 20, passes=4),
        needle(FWPKM, 17, write_chunk="1024"),
        needle(FWPKM, 3, length=32768, n=5),
        needle(FWPKM, 6, protocol="open-book"),
        needle(FWPKM, 2, needles=64),
        *(needle(PLAIN, 1, passes=passes, write_chunk=chunk) for passes in (1, 4) for chunk in ("haystack", "1024")),
    ]
    tables = tables_of([*rows, *guess_rows(rows)])
    closed = tables["niah-closed-book"]
    first = line_of(closed, length="4K", model=FWPKM, write="haystack")
    assert (first["one reading"], first["4 readings"], first["samples"]) == ("55% (34–74)", "100% (84–100)", "20")
    second = line_of(closed, length="4K", model=FWPKM, write="1,024")
    assert (second["one reading"], second["4 readings"]) == ("85% (64–95)", "–")
    assert line_of(closed, length="32K", model=FWPKM)["one reading"] == "60% (23–88)"
    plain = line_of(closed, model=PLAIN)
    assert (plain["a write every"], plain["one reading"], plain["4 readings"]) == ("any", "5% (1–24)", "5% (1–24)")
    assert line_of(closed, model="guess")["one reading"] == "0.0001%"
    assert line_of(tables["niah-open-book"], model=FWPKM)["one reading"] == "30% (15–52)"
    many = line_of(tables["needles-closed-book"], model=FWPKM, write="haystack", readings="1")
    assert (many["5 needles"], many["64 needles"]) == ("55% (34–74)", "10% (3–30)")
    assert {line["one reading"] for line in lines_of(closed)} == {
        "55% (34–74)", "85% (64–95)", "60% (23–88)", "5% (1–24)", "0.0001%",
    }, "only what was asked with five needles"  # fmt: skip


def test_the_best_of_a_length_is_bold_and_only_it() -> None:
    table = tables_of([needle(PLAIN, 0), needle(FWPKM, 9), needle(FWPKM, 12, passes=2)])["niah-closed-book"]
    assert [cell.text for row in table.rows for cell in row if cell.strong] == ["60% (39–78)"]
    assert not any(c.strong for r in tables_of([needle(PLAIN, 0)])["niah-closed-book"].rows for c in r)


def test_a_length_that_was_only_asked_with_many_needles_is_in_a_table() -> None:
    tables = tables_of([needle(FWPKM, 20), needle(FWPKM, 3, n=5, length=16384, needles=256)])
    line = line_of(tables["needles-closed-book"], length="16K")
    assert (line["256 needles"], line["samples"]) == ("60% (23–88)", "5")


def test_seeds_are_pooled_and_other_variants_are_not() -> None:
    rows = [needle(FWPKM, 10), needle(FWPKM, 18, seed=1), needle(FWPKM, 4, dtype="bfloat16")]
    table = tables_of(rows)["niah-closed-book"]
    found = {line["model"]: (line["one reading"], line["samples"]) for line in lines_of(table)}
    assert found == {
        f"{FWPKM} · float32": ("70% (55–82)", "40"),
        f"{FWPKM} · bfloat16": ("20% (8–42)", "20"),
    }
    arms = tables_of([needle(FWPKM, 10), needle(FWPKM, 2, arm="no-lookahead")])["niah-closed-book"]
    assert {line["model"] for line in lines_of(arms)} == {FWPKM, f"{FWPKM} · no-lookahead"}


def test_the_same_row_twice_counts_once() -> None:
    table = tables_of([needle(FWPKM, 10), needle(FWPKM, 10), needle(FWPKM, 10, seconds=3.0)])["niah-closed-book"]
    assert line_of(table, model=FWPKM)["samples"] == "20"


def test_perplexity_stands_beside_the_frozen_run_the_baseline_and_the_paper() -> None:
    rows = [*bits(PLAIN, 2.0), *bits(FWPKM, 1.7, write_chunk="128"), *bits(FWPKM, 2.125, arm="frozen")]
    tables = tables_of(rows)
    assert [name for name in tables if name.startswith("perplexity")] == ["perplexity-source"]
    line = line_of(tables["perplexity-source"], model=FWPKM)
    assert line == {
        "model": FWPKM,
        "perplexity": "3.249",
        "bits per byte": "1.700",
        "writes off": "2.125",
        "change by writing": "−20.0%",
        "against baseline": "−15.0%",
        "published perplexity": "8.89 (gdn:fwpkm@2,6,10)",
        "published change": "−5.6%",
        "comparable": "direction",
    }
    plain = line_of(tables["perplexity-source"], model=PLAIN)
    assert (plain["writes off"], plain["against baseline"], plain["published perplexity"]) == ("–", "–", "10.12 (gdn)")
    assert len(lines_of(tables["perplexity-source"])) == 2
    note = tables["perplexity-source"].note
    assert "5,000 tokens" in note
    assert "a model of scale micro, another backbone and stand-in text" in note


def test_what_a_memory_is_worth_beside_copying_has_columns_where_it_was_measured() -> None:
    rows = [*with_matches(PLAIN, 2.0, 1.6), *with_matches(FWPKM, 1.7, 1.52, write_chunk="128")]
    table = tables_of(rows)["perplexity-source"]
    line = line_of(table, model=FWPKM)
    assert (line["with match model"], line["against baseline with it"]) == ("1.520", "−5.0%")
    plain = line_of(table, model=PLAIN)
    assert (plain["with match model"], plain["against baseline with it"]) == ("1.600", "–")
    assert "what copying is worth" in table.note
    # A run of before had no such measure; beside one that has it, it lacks the value and keeps its place.
    older = [*bits(PKM, 1.9), *rows]
    assert line_of(tables_of(older)["perplexity-source"], model=PKM)["with match model"] == "–"
    assert "with match model" not in tables_of([*bits(PLAIN, 2.0)])["perplexity-source"].columns


def test_yarn_follows_from_model_and_length_and_keeps_nothing_apart() -> None:
    model = "gdn+fa:fwpkm@1"
    rows = [*bits(model, 1.7, arm="yarn", write_chunk="128"), *bits(model, 2.125, arm="frozen+yarn")]
    rows += [needle(model, 10, length=512), needle(model, 10, arm="yarn"), needle(PLAIN, 2)]
    tables = tables_of(rows)
    line = line_of(tables["perplexity-source"], model=model)
    assert (line["writes off"], line["change by writing"]) == ("2.125", "−20.0%")
    assert {line["model"] for line in lines_of(tables["niah-closed-book"])} == {model, PLAIN}
    for table in ("perplexity-source", "niah-closed-book"):
        assert "full attention takes YaRN" in tables[table].note
    assert "YaRN" not in tables_of([needle(PLAIN, 2)])["niah-closed-book"].note


def test_a_run_that_diverged_is_in_the_table_and_in_the_words() -> None:
    rows = [*bits(PLAIN, 2.0), *bits(FWPKM, math.nan), *bits(FWMLP, math.inf)]
    rows += [dataclasses.replace(rows[2], metric="diverged", value=0.25)]
    table = tables_of(rows)["perplexity-source"]
    assert line_of(table, model=FWPKM)["bits per byte"] == "diverged"
    assert line_of(table, model=FWMLP)["bits per byte"] == "diverged"
    assert f"{FWPKM} diverged: 25% of the tokens on source" in said(rows, "not found")
    assert build_plots(rows_to_frame(rows))


def test_of_several_runs_that_diverged_the_worst_is_told() -> None:
    lost = [dataclasses.replace(bits(FWPKM, value, seed=s)[0], metric="diverged") for s, value in enumerate((0.5, 0.1))]
    assert f"{FWPKM} diverged: 50% of the tokens on source" in said([*bits(PLAIN, 2.0), *lost], "not found")


def test_a_users_own_set_is_no_stand_in() -> None:
    rows = [*bits(PLAIN, 2.0), *bits(FWPKM, 1.7)]
    own = SetFacts.from_manifest({"config": {"data": "books"}, "data": {"source": {"stands_in_for": None}}})
    table = tables_of(rows, own)["perplexity-source"]
    assert table.title == "Perplexity: source"
    assert line_of(table, model=FWPKM)["published perplexity"] == "–"
    assert "LC64" not in table.note
    named = SetFacts.from_manifest({"config": {"data": "x"}, "data": {"source": {"stands_in_for": "LC64"}}})
    assert tables_of(rows, named)["perplexity-source"].title == "Perplexity: source (stand-in for LC64)"
    hub = SetFacts.from_manifest({"config": {"data": "hub"}, "data": {"lc64": {}, "mine": {}}})
    assert (hub.published_name("lc64"), hub.title("lc64"), hub.is_stand_in("lc64")) == ("LC64", "LC64", False)
    assert (hub.published_name("mine"), hub.title("mine")) == (None, "mine")
    embedded = SetFacts.from_manifest({"config": {"data": "embedded"}})
    assert embedded.title("docs") == "docs (stand-in for Fineweb-Edu)"


def test_speed_is_shown_with_its_units() -> None:
    table = tables_of(bench_rows())["speed"]
    line = line_of(table, operation="torch")
    assert line["forward seconds"] == "58 ms"
    assert line["speedup forward"] == "122×"
    assert line["peak bytes"] == "515.0 MiB"
    assert line_of(table, operation="reference")["speedup forward"] == "–"


def test_operations_of_several_sizes_are_told_apart_and_are_no_scale_of_the_run() -> None:
    rows = [
        Row(task="bench", arm="scan/torch", backend="torch", scale=scale, metric="forward_speedup", value=value)
        for scale, value in (("micro", 40.0), ("paper", 90.4))
    ]
    text = said([needle(FWPKM, 3), *rows])
    assert "The scan, backend torch: 90× forward" in text
    assert "the models are of scale micro and" in text
    table = tables_of(rows)["speed"]
    assert line_of(table, operation="scan/torch", scale="paper")["forward speedup"] == "90×"


def test_tasks_of_the_harness_are_shown_once() -> None:
    row = Row(task="lm-eval:arc_easy", model=FWPKM, metric="acc", value=0.31, n=100, unit="fraction")
    own = Row(task="mine", model=FWPKM, metric="acc", value=0.5, n=100, unit="fraction")
    assert list(tables_of([row, own])) == ["lm-eval", "task-mine"]


def test_reading_speed_is_tokens_over_seconds() -> None:
    rows = [needle(FWPKM, 10, tokens=81920, seconds=4.0), needle(PLAIN, 0, tokens=50000, seconds=1.0)]
    table = tables_of(rows)["reading-speed"]
    assert line_of(table, model=FWPKM)["at 4K"] == "20,480"
    assert line_of(table, model=PLAIN)["at 4K"] == "50,000"


def test_reading_speed_gives_way_to_what_was_timed_side_by_side() -> None:
    timed = Row(task="cost", model=PLAIN, metric="tokens_per_second", value=9.0, scale="micro", length=4096)
    found = tables_of([needle(PLAIN, 0, tokens=50000, seconds=1.0), timed])
    assert "cost" in found
    assert "reading-speed" not in found


def test_markdown_keeps_its_shape_whatever_names_hold() -> None:
    name = "a|b\n`c` *d* <script>alert(1)</script> [e](http://x)"
    text = to_markdown(build_tables(rows_to_frame([needle(name, 7)])), "T")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    body = next(line for line in lines if "alert" in line)
    assert len(re.findall(r"(?<!\\)\|", body)) == len(re.findall(r"(?<!\\)\|", lines[0]))
    assert "<script" not in text
    assert r"a\|b \`c\` \*d\*" in body
    assert r"\[e\](http" in body
