"""The report from rows: tables, plots, words and the page. No model and no torch is involved."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import html
import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas
import pytest

from fwpkm_eval.errors import UserError
from fwpkm_eval.reporting import build_report, published, wording
from fwpkm_eval.reporting.highlights import highlights
from fwpkm_eval.reporting.plots import build_plots
from fwpkm_eval.reporting.report import render, title
from fwpkm_eval.reporting.sets import SetFacts
from fwpkm_eval.reporting.style import CARD, GRID, INK, MUTED, ON_DARK, colours
from fwpkm_eval.reporting.summary import summarise
from fwpkm_eval.reporting.table import Table, to_markdown
from fwpkm_eval.reporting.tables import build_tables
from fwpkm_eval.runs.cells import CellStore
from fwpkm_eval.runs.intervals import wilson_interval
from fwpkm_eval.runs.manifest import check_or_create, update_manifest
from fwpkm_eval.runs.rows import Row, read_rows_csv, rows_to_frame, write_rows_csv

PLAIN, PKM, FWMLP, FWPKM = "gdn+swa", "gdn+swa:pkm@2", "gdn+swa:fwmlp@2", "gdn+swa:fwpkm@2"
MODELS = (PLAIN, PKM, FWMLP, FWPKM)
WRITING = (FWMLP, FWPKM)
COMMON: dict[str, Any] = {"scale": "micro", "device": "cpu", "dtype": "float32", "version": "0.1.0"}


def recall(model: str, length: int, passes: int, write_chunk: str, needles: int) -> float:
    """A made-up but likely probability to find a needle."""
    if model in (PLAIN, PKM):
        return 0.0
    hard = (
        math.log2(length / 512) * (0.75 if write_chunk == "haystack" else 0.05) + max(0, math.log2(needles / 16)) * 0.9
    )
    strength = (2.4 if write_chunk == "haystack" else 3.2) + 1.1 * math.log2(passes) - hard
    return (0.25 if model == FWMLP else 1.0) / (1 + math.exp(-1.6 * strength))


def rate(metric: str, successes: float, n: int, **fields: Any) -> Row:
    low, high = wilson_interval(successes, n)
    return Row(metric=metric, value=successes / n, unit="fraction", n=n, ci_low=low, ci_high=high, **fields)


def niah_rows(
    models: Iterable[str] = MODELS,
    length: int = 4096,
    passes: Iterable[int] = (1, 2, 4),
    needles: int = 5,
    protocol: str = "closed-book",
    n: int = 20,
    chunks: Mapping[str, tuple[str, ...]] = {FWMLP: ("1024",), FWPKM: ("haystack", "1024")},
) -> list[Row]:
    """Rows as the needle task makes them: a model without fast weights has the same ones for every way of reading."""
    rng = np.random.default_rng([length, needles, n, len(protocol)])
    rows: list[Row] = []
    for model in models:
        writes = model in WRITING
        same = int(rng.binomial(n, 0.0 if protocol == "closed-book" else 0.02))
        for write_chunk in chunks[model] if writes else sorted({c for of in chunks.values() for c in of}):
            for number in passes:
                p = recall(model, length, number, write_chunk, needles)
                found = int(rng.binomial(n, p)) if writes else same
                common: dict[str, Any] = {
                    **COMMON, "model": model, "task": "niah", "dataset": "manual", "length": length,
                    "passes": number, "write_chunk": write_chunk, "needles": needles, "scope": "sample",
                    "protocol": protocol, "seed": 0, "seconds": length / 9000 * n, "tokens": length * n,
                    "data_hash": "d" * 16, "backend": "torch" if writes else "", "score": "idw" if writes else "",
                }  # fmt: skip
                digits = found + 0.3 * (n - found) if writes else 0.1 * n
                logprob = -0.1 - 13 * (1 - found / n) if writes else -14.2
                rows += [
                    rate("exact_match", found, n, **common),
                    rate("digit_accuracy", digits, n, **common),
                    rate("distractor_rate", min(n - found, 2) if writes else 0, n, **common),
                    Row(metric="answer_logprob", value=logprob, unit="nats", n=n, **common),
                ]
                buckets = rng.integers(0, 10, n)
                right = rng.permutation(n) < found
                for bucket in sorted(set(buckets.tolist())):
                    inside = right[buckets == bucket]
                    depth = round(bucket / 10 + 0.05, 4)
                    rows.append(rate("exact_match", int(inside.sum()), len(inside), depth=depth, **common))
    return rows


def guess_rows(rows: Iterable[Row]) -> list[Row]:
    """The floor beside every setting of the needle rows."""
    settings = {
        (row.length, row.passes, row.write_chunk, row.needles, row.protocol): Row(
            model="guess", task="niah", dataset=row.dataset, metric="exact_match", value=1e-6, unit="fraction",
            length=row.length, passes=row.passes, write_chunk=row.write_chunk, needles=row.needles, scope=row.scope,
            protocol=row.protocol, seed=0, data_hash=row.data_hash, version=row.version,
        )
        for row in rows
        if row.task == "niah" and row.depth is None
    }  # fmt: skip
    return list(settings.values())


BITS = {
    "docs": {PLAIN: (2.31, None), PKM: (2.24, None), FWMLP: (2.21, 2.36), FWPKM: (2.12, 2.35)},
    "source": {PLAIN: (2.05, None), PKM: (1.99, None), FWMLP: (1.93, 2.09), FWPKM: (1.72, 2.10)},
    "manual": {PLAIN: (2.44, None), PKM: (2.40, None), FWMLP: (2.41, 2.46), FWPKM: (2.43, 2.48)},
}
"""Bits per byte of each model on each set, as it reads and with writes off."""


def text_rows(models: Iterable[str] = MODELS, tokens: int = 262144) -> list[Row]:
    rows: list[Row] = []
    for dataset, by_model in BITS.items():
        for model in models:
            for arm, bits in zip(("", "frozen"), by_model[model], strict=True):
                if bits is not None:
                    rows += text_rows_of(model, dataset, arm, bits, by_model[model][1], tokens)
    return rows


def text_rows_of(model: str, dataset: str, arm: str, bits: float, frozen: float | None, tokens: int) -> list[Row]:
    """One run over a set: the longer the document, the more its writes are worth."""
    common: dict[str, Any] = {
        **COMMON, "model": model, "task": "ppl", "dataset": dataset, "scope": "stream", "arm": arm, "seed": 0,
        "write_chunk": "128" if model in WRITING and not arm else "", "seconds": 30.0, "tokens": tokens,
    }  # fmt: skip
    nats = bits * math.log(2)
    rows = [
        Row(metric="perplexity", value=math.exp(nats), unit="ratio", n=tokens, **common),
        Row(metric="nats_per_token", value=nats, unit="nats", n=tokens, **common),
        Row(metric="bits_per_byte", value=bits, unit="bits", n=tokens, **common),
    ]
    last = {"docs": 14, "source": 17, "manual": 13}[dataset]
    gain = 0.0 if arm or frozen is None else frozen - bits
    for power in range(7, last + 1):
        share = (power - 7) / (last - 7)
        value = bits + gain + 0.5 * 0.6 ** (power - 7) - 2 * gain * share
        where: dict[str, Any] = {"n": 500, "length": 2**power}
        rows.append(Row(metric="bits_per_byte_at_position", value=value, unit="bits", **where, **common))
    return rows


def bench_rows() -> list[Row]:
    rows: list[Row] = []
    for arm, values in {
        "reference": {"forward_seconds": 7.1, "forward_backward_seconds": 20.4, "peak_bytes": 3.1e9},
        "torch": {
            "forward_seconds": 0.058, "speedup_forward": 122.4, "forward_backward_seconds": 0.71,
            "speedup_forward_backward": 28.7, "peak_bytes": 5.4e8,
        },
    }.items():  # fmt: skip
        for metric, value in values.items():
            unit = "ratio" if metric.startswith("speedup") else "bytes" if metric == "peak_bytes" else "seconds"
            rows.append(
                Row(task="bench", arm=arm, metric=metric, value=value, unit=unit, device="cpu", dtype="float32")
            )
    return rows


def realistic_rows() -> list[Row]:
    """A run as `reproduce` makes it: four models, two protocols, many needles, three sets, operations."""
    rows: list[Row] = []
    for protocol in ("open-book", "closed-book"):
        both = {FWMLP: ("512", "1024"), FWPKM: ("haystack", "1024")}
        rows += niah_rows(protocol=protocol, chunks=both)
        rows += niah_rows(length=32768, passes=(1, 2), protocol=protocol, n=5)
        rows += niah_rows(needles=64, protocol=protocol)
        rows += niah_rows(length=16384, needles=256, passes=(1, 2), protocol=protocol, n=5)
    return [*rows, *guess_rows(rows), *text_rows(), *bench_rows()]


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return realistic_rows()


@pytest.fixture(scope="module")
def frame(rows: list[Row]) -> pandas.DataFrame:
    return rows_to_frame(rows)


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


def tables_of(rows: Iterable[Row], sets: SetFacts | None = None) -> dict[str, Table]:
    return {table.name: table for table in build_tables(rows_to_frame(rows), sets)}


def lines_of(table: Table) -> list[dict[str, str]]:
    return [dict(zip(table.columns, (cell.text for cell in row), strict=True)) for row in table.rows]


def line_of(table: Table, **labels: str) -> dict[str, str]:
    """The one line with these entries (``write`` is short for the column ``a write every``)."""
    wanted = {{"write": "a write every"}.get(name, name): text for name, text in labels.items()}
    (line,) = [line for line in lines_of(table) if wanted.items() <= line.items()]
    return line


def needle(model: str, found: int, n: int = 20, **fields: Any) -> Row:
    common: dict[str, Any] = {
        **COMMON, "model": model, "task": "niah", "dataset": "manual", "length": 4096, "passes": 1,
        "write_chunk": "haystack", "needles": 5, "scope": "sample", "protocol": "closed-book", "seed": 0,
    }  # fmt: skip
    return rate("exact_match", found, n, **{**common, **fields})


def bits(model: str, value: float, **fields: Any) -> list[Row]:
    common: dict[str, Any] = {
        **COMMON,
        "model": model,
        "task": "ppl",
        "dataset": "source",
        "scope": "stream",
        "n": 5000,
    }
    common |= fields
    return [
        Row(metric="bits_per_byte", value=value, unit="bits", **common),
        Row(metric="perplexity", value=2**value, unit="ratio", **common),
    ]


def said(rows: Iterable[Row], verdict: str | None = None) -> str:
    """The sentences of the summary, or those with one verdict."""
    found = [f for findings in summarise(rows_to_frame(rows)).values() for f in findings]
    return "\n".join(finding.text for finding in found if verdict in (None, finding.verdict))


# Tables


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


def test_a_run_that_diverged_is_in_the_table_and_in_the_words() -> None:
    rows = [*bits(PLAIN, 2.0), *bits(FWPKM, math.nan), *bits(FWMLP, math.inf)]
    rows += [dataclasses.replace(rows[2], metric="diverged", value=0.25)]
    table = tables_of(rows)["perplexity-source"]
    assert line_of(table, model=FWPKM)["bits per byte"] == "diverged"
    assert line_of(table, model=FWMLP)["bits per byte"] == "diverged"
    assert f"{FWPKM} diverged: 25% of the tokens on source" in said(rows, "not found")
    assert build_plots(rows_to_frame(rows))


def test_published_numbers_are_never_in_our_columns(rows: list[Row]) -> None:
    """Ours carry impossible values here, and no published value turns up among them."""
    odd = [
        dataclasses.replace(row, value=0.123) if row.metric in ("perplexity", "bits_per_byte") else row for row in rows
    ]
    paper = {number.text for number in (*published.PUBLISHED, *published.SECONDARY_REPORT)}
    assert {"18.09", "88.6%", "75.8%", "8.54"} <= paper
    seen = set()
    for table in tables_of(odd).values():
        if table.name in ("published", "secondary"):
            continue
        for line in lines_of(table):
            for column, text in line.items():
                numbers = set(re.findall(r"[\d.]+%?", text))
                if column.startswith("published"):
                    seen |= numbers & paper
                elif column not in ("model", "length", "samples"):
                    assert not numbers & (paper - {"54", "19", "519"}), (table.name, column, text)
    assert {"18.09", "10.12", "88.6%"} <= seen


def test_published_numbers_are_those_of_the_paper() -> None:
    """Copied once more from the sources, so that a slip of the finger in the table is noticed."""
    for model, values in {
        "gdn": (19.73, 10.12, 32.91),
        "gdn:pkm@2,6,10": (18.27, 9.22, 29.97),
        "gdn:fwpkm@2,6,10": (18.09, 8.89, 26.73),
        "gdn:pkm@6+fwpkm@2,10": (17.39, 8.54, 25.91),
    }.items():
        for corpus, value in zip(("Fineweb-Edu", "LC64", "LAMBADA"), values, strict=True):
            number = published.find("ppl", model, corpus)
            assert number is not None
            assert (number.value, number.source) == (value, "arXiv 2601.00671v2")
    best = {p.length: p.value for p in published.PUBLISHED if p.task == "niah" and p.length}
    assert best == {4096: 0.886, 131072: 0.758}
    assert all(number.source == published.SECONDARY for number in published.SECONDARY_REPORT)
    change = published.published_loss_change("gdn:fwpkm@2,6,10", "LC64")
    assert change == pytest.approx(math.log(8.89) / math.log(10.12) - 1)
    assert published.published_loss_change("gdn", "LC64") is None


def test_comparability_says_what_differs() -> None:
    model = "gdn:fwpkm@2,6,10"
    assert published.comparable(published.differences("niah", "paper", False, model, model)) == "value"
    for case in (("micro", False, model), ("paper", True, model), ("paper", False, "fa:fwpkm@2"), ("", False, model)):
        assert published.comparable(published.differences("niah", *case, model)) == "direction", case


def test_small_models_are_trained_on_such_questions_and_the_published_ones_were_not() -> None:
    model = "gdn:fwpkm@2,6,10"
    (why,) = [w for w in published.differences("niah", "micro", False, model, model) if "scale" not in w]
    assert "training on questions of this wording" in why
    assert published.differences("ppl", "micro", False, model, model) == ["a model of scale micro"]


def test_the_best_rival_with_fast_weights_is_named_and_its_readings_told() -> None:
    """A report on FwPKM does not hide another memory that does as well, or better."""
    found = {"base:fwpkm@2": (10, 10), "base:lact@2": (0, 20), "base:fwmlp@2": (0, 0)}
    rows = [
        needle(model, right, passes=n) for model, pair in found.items() for n, right in zip((1, 4), pair, strict=True)
    ]
    rival = highlights(rows_to_frame(rows))[1]
    assert (rival.number, rival.text) == ("100%", "by base:lact@2, the best other model with fast weights")
    texts = [f.text for f in summarise(rows_to_frame(rows))["What do re-readings and more frequent writes buy?"]]
    more = "base:lact@2 with one write per reading: going from one reading to 4 finds more"
    assert any(text.startswith(more) for text in texts)
    assert not any("fwmlp" in text for text in texts)


@pytest.mark.parametrize(
    ("short", "length", "said"),
    [
        (
            0,
            512,
            "base and base:pkm@2 find none at 512 tokens with the haystack in sight either: in this training they did",
        ),
        (
            3,
            512,
            "base:pkm@2 finds none at 512 tokens with the haystack in sight either: in this training it did not learn",
        ),
        (0, 4096, "No haystack shorter than 4K tokens was asked: base and base:pkm@2 may not have learned to answer"),
    ],
)
def test_models_that_never_learned_to_answer_are_called_so(short: int, length: int, said: str) -> None:
    where: dict[str, Any] = {"protocol": "open-book", "scope": "sample", "dataset": "manual", "needles": 5, "passes": 1}
    rows = [needle("base:fwpkm@2", 20, **{**where, "length": at, "write_chunk": "1024"}) for at in (length, 32768)]
    for model, found in (("base", short), ("base:pkm@2", 0)):
        rows += [needle(model, found if at == length else 0, **{**where, "length": at}) for at in (length, 32768)]
    texts = [finding.text for finding in summarise(rows_to_frame(rows))["Does the memory hold facts?"]]
    assert any(text.startswith(said) for text in texts), texts
    learned = [row for row in rows if row.model == "base:fwpkm@2"]
    assert not any("learn" in f.text for f in summarise(rows_to_frame(learned))["Does the memory hold facts?"])


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


def test_what_is_published_is_listed_where_a_table_quotes_it() -> None:
    def models(rows: Iterable[Row], name: str = "published") -> set[str]:
        table = tables_of(rows).get(name)
        return {cells["what"] for cells in lines_of(table)} if table else set()

    assert models(bits(FWPKM, 1.7)) == models(bits(FWPKM, 1.7), "secondary") == {"perplexity"}
    assert models([needle(FWPKM, 3, protocol="open-book")]) == {"exact match"}
    assert models([needle(FWPKM, 3)]) == set(), "nobody published a closed book"
    assert models(bench_rows()) == set()
    priced = [
        Row(task="bench", model="gdn:fwpkm@2,6,10", metric=metric, value=0.9, scale="paper", device="cpu")
        for metric in ("samples_per_second_training", "share_of_backbone_speed_training")
    ]
    assert models(priced) == {"samples per second", "million parameters"}
    assert models(priced, "secondary") == set()


def page_of(rows: Iterable[Row]) -> str:
    frame = rows_to_frame(rows)
    return render(frame, build_tables(frame), [], None, SetFacts())


def test_a_page_has_no_heading_without_content_and_no_rule_for_what_it_does_not_say() -> None:
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
    assert "Bits per byte are called different only where they differ by at least 0.5%." in text
    assert "Two rates" not in text
    assert "Two rates are called different only where" in page_of([needle(FWPKM, 3), needle(PLAIN, 0)])


@pytest.mark.parametrize("task", ["bench", "ablation", "capacity", "cost"])
def test_the_title_has_the_scale_of_whatever_was_measured(task: str) -> None:
    other = Row(task=task, metric="bits_per_byte", value=3, scale="paper")
    assert title(rows_to_frame([other])) == "Fast-weight memory, measured: scale paper"
    assert title(rows_to_frame([other, needle(FWPKM, 3)])) == "Fast-weight memory, measured: scale micro"


def test_tasks_of_the_harness_are_shown_once() -> None:
    row = Row(task="lm-eval:arc_easy", model=FWPKM, metric="acc", value=0.31, n=100, unit="fraction")
    own = Row(task="mine", model=FWPKM, metric="acc", value=0.5, n=100, unit="fraction")
    assert list(tables_of([row, own])) == ["lm-eval", "task-mine"]


def test_reading_speed_is_tokens_over_seconds() -> None:
    rows = [needle(FWPKM, 10, tokens=81920, seconds=4.0), needle(PLAIN, 0, tokens=50000, seconds=1.0)]
    table = tables_of(rows)["reading-speed"]
    assert line_of(table, model=FWPKM)["at 4K"] == "20,480"
    assert line_of(table, model=PLAIN)["at 4K"] == "50,000"


def test_markdown_keeps_its_shape_whatever_names_hold() -> None:
    name = "a|b\n`c` *d* <script>alert(1)</script> [e](http://x)"
    text = to_markdown(build_tables(rows_to_frame([needle(name, 7)])), "T")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    body = next(line for line in lines if "alert" in line)
    assert len(re.findall(r"(?<!\\)\|", body)) == len(re.findall(r"(?<!\\)\|", lines[0]))
    assert "<script" not in text
    assert r"a\|b \`c\` \*d\*" in body
    assert r"\[e\](http" in body


# Words


def test_the_summary_names_what_was_found_with_counts_and_intervals() -> None:
    rows = [
        needle(FWPKM, 11), needle(FWPKM, 20, passes=4), needle(FWPKM, 19, write_chunk="1024"),
        needle(FWPKM, 20, write_chunk="1024", passes=4), needle(PLAIN, 0), needle(PKM, 1),
    ]  # fmt: skip
    text = said([*rows, *guess_rows(rows)], "found")
    assert f"Closed book, 4K: {FWPKM} finds 11 of 20 (95% interval 34–74%) after one reading" in text
    assert "20 of 20 (84–100%) after 4, with one write per reading" in text
    assert "19 of 20 (76–99%) after one reading and 20 of 20 (84–100%) after 4, with a write every 1,024 tokens" in text
    assert (
        f"Without fast weights: 1 of 20 (1–24%) by {PKM}, the best of 2; guessing would find one in 1,000,000." in text
    )


def test_the_summary_turns_when_the_rows_turn() -> None:
    good = [needle(FWPKM, 20), needle(PLAIN, 0)]
    assert f"{FWPKM} finds 20 of 20" in said(good, "found")
    bad = [needle(FWPKM, 0), needle(PLAIN, 20)]
    assert f"{FWPKM} finds 0 of 20" in said(bad, "not found")
    assert FWPKM not in said(bad, "found")
    even = [needle(FWPKM, 3), needle(PLAIN, 1)]
    assert "So few samples cannot tell them apart." in said(even, "unclear")
    assert FWPKM not in said(even, "found")
    alone = said([needle(FWPKM, 20)], "note")
    assert "No model without fast weights was asked the same." in alone
    mixed = [needle(FWPKM, 20), needle(FWPKM, 2, write_chunk="1024"), needle(PLAIN, 1)]
    assert "The difference is clear only with one write per reading." in said(mixed, "unclear")


@pytest.mark.parametrize(
    ("first", "last", "verdict", "words"),
    [
        (5, 18, "found", "finds more at 4K (25% → 90%)"),
        (18, 5, "not found", "finds fewer at 4K (90% → 25%)"),
        (15, 18, "unclear", "no difference that so few samples could show at 4K (75% → 90%)"),
        (20, 20, "note", "one reading already finds all at 4K"),
    ],
)
def test_what_rereading_buys(first: int, last: int, verdict: str, words: str) -> None:
    assert words in said([needle(FWPKM, first), needle(FWPKM, last, passes=4)], verdict)


@pytest.mark.parametrize(
    ("whole", "often", "verdict", "words"),
    [
        (2, 20, "found", "finds more"),
        (20, 2, "not found", "finds fewer"),
        (9, 10, "unclear", "makes no clear difference"),
    ],
)
def test_what_more_frequent_writes_buy(whole: int, often: int, verdict: str, words: str) -> None:
    text = said([needle(FWPKM, whole), needle(FWPKM, often, write_chunk="512")], verdict)
    assert f"a write every 512 tokens instead of one write per reading {words}, after one reading, at 4K" in text


def test_the_limits_are_named() -> None:
    rows = [needle(FWPKM, 20), needle(FWPKM, 3, needles=64), needle(FWPKM, 4, passes=2, needles=64)]
    assert "under half of the needles, however often it reads, at 4K with 64 needles and one write" in said(
        rows, "limit"
    )
    assert "(20%)" in said(rows, "limit")
    fine = said([needle(FWPKM, 20), needle(FWPKM, 12, needles=64)])
    assert "at least half of the needles in every setting" in fine
    assert "12 of 20" in fine


@pytest.mark.parametrize(
    ("ours", "frozen", "verdict", "words", "direction"),
    [
        (1.7, 2.1, "found", "15.0% less than gdn+swa (2.000) and 19.0% less than itself", "the same direction"),
        (2.2, 2.1, "not found", "10.0% more than gdn+swa (2.000) and 4.8% more than itself", "not the same direction"),
        (2.001, 2.1, "unclear", "about as many as gdn+swa (2.000) and 4.7% less than itself", "not the same direction"),
        (2.001, 2.0, "not found", "about as many as gdn+swa (2.000) and about as many as itself", "not the same"),
    ],
)
def test_what_the_summary_says_about_text(ours: float, frozen: float, verdict: str, words: str, direction: str) -> None:
    rows = [*bits(PLAIN, 2.0), *bits(FWPKM, ours, write_chunk="128"), *bits(FWPKM, frozen, arm="frozen")]
    text = said(rows, verdict)
    assert f"On source (stand-in for LC64), {FWPKM} needs {ours:.3f} bits per byte: {words}" in text
    assert f"changes by −5.6% (gdn:fwpkm@2,6,10 against gdn): {direction}" in text


def test_what_was_not_measured_is_said() -> None:
    assert "Not measured in this run: perplexity and speed." in said([needle(FWPKM, 3)])
    assert "Not measured in this run: needles, perplexity and speed." in said([])
    assert "Not measured" not in said(realistic_rows())


def test_samples_seeds_and_scale_are_said(rows: list[Row]) -> None:
    notes = said(rows, "note")
    assert "Each rate comes from 5 to 20 samples" in notes
    assert "Measured with one seed (0)." in notes
    assert "only directions: the models are of scale micro" in notes
    assert "Measured with 2 seeds." in said([needle(FWPKM, 1), needle(FWPKM, 2, seed=1)])


def test_the_numbers_at_the_top_come_from_the_rows() -> None:
    rows = [
        needle(FWPKM, 20), needle(FWPKM, 3, n=5, length=32768), needle(FWPKM, 4, n=5, length=32768, passes=2),
        needle(PLAIN, 0, n=5, length=32768), *bits(PLAIN, 2.0), *bits(FWPKM, 1.7), *bench_rows(),
    ]  # fmt: skip
    shown = highlights(rows_to_frame(rows))
    assert [highlight.number for highlight in shown] == ["80%", "0%", "−15.0%", "122×"]
    assert "32K" in shown[0].text
    assert "best setting: 2 readings, one write per reading; 4 of 5; 95% interval 38–96%" in shown[0].detail
    assert highlights(rows_to_frame([])) == []


def scan(arm: str, value: float, metric: str = "speedup_forward", **fields: Any) -> Row:
    size = {"dataset": "S 512, dk 512, dv 512, H 1, k 8, C 512, T 2048, B 1", "scale": "paper"}
    common: dict[str, Any] = {"task": "bench", "unit": "ratio", "backend": "torch", "device": "cpu", **size}
    return Row(arm=arm, metric=metric, value=value, **{**common, **fields})


def test_the_speed_at_the_top_is_a_case_chosen_beforehand_and_not_the_largest() -> None:
    rows = [
        scan("scan/torch", 32.3),
        scan("scan/torch in place", 183.3),
        scan("scan/torch in place", 190, "speedup_training"),
        scan("scan/torch, tuned malloc", 9.9),
        scan("scan/torch in place, tuned malloc", 19.7, ci_low=18.2, ci_high=23.0),
        scan("write/torch", 493),
        scan("layer/fwpkm_eval 1", 220, "speedup_over_peer_forward"),
    ]
    (shown,) = highlights(rows_to_frame(rows))
    assert (shown.number, shown.text) == ("20×", "as fast as the reference")
    assert shown.detail == (
        "forward, backend torch in place, S 512, T 2048, malloc told to keep freed memory; "
        "10th to 90th percentile 18.2–23×"
    )
    (shown,) = highlights(rows_to_frame(rows[:3]))
    assert shown.number == "183×"
    assert "malloc as the system has it" in shown.detail
    assert highlights(rows_to_frame(rows[-2:])) == [], "neither an operation alone nor a peer's layer is the scan"


# Plots


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


def test_only_what_has_rows_is_drawn() -> None:
    def names(*rows: Row) -> set[str]:
        return {plot.name for plot in build_plots(rows_to_frame(rows))}

    assert names() == set()
    assert names(needle(FWPKM, 3)) == set(), "one point is no plot"
    assert names(needle(FWPKM, 3), needle(FWPKM, 5, passes=2)) == {"niah-length-closed-book"}
    assert names(*bits(FWPKM, 1.7)) == {"bits-per-byte"}
    assert names(*bench_rows()) == {"speed"}
    assert names(needle(FWPKM, 3, depth=0.05, n=5)) == set(), "no whole to belong to"


def test_figures_are_the_same_bytes_each_time_and_carry_no_date() -> None:
    frame = rows_to_frame([*bits(PLAIN, 2.0), *bits(FWPKM, 1.7), needle(FWPKM, 3), needle(FWPKM, 9, passes=2)])
    once, again = build_plots(frame), build_plots(frame)
    assert [(plot.svg, plot.png) for plot in once] == [(plot.svg, plot.png) for plot in again]
    assert len(once) == 2
    for plot in once:
        assert not re.search(r"20\d\d-\d\d-\d\d", plot.svg)
        assert b"Software" not in plot.png


def test_a_users_matplotlib_settings_change_no_figure_and_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib

    frame = rows_to_frame([*bits(PLAIN, 2.0), *bits(FWPKM, 1.7)])
    (before,) = build_plots(frame)
    with matplotlib.rc_context({"lines.linewidth": 9, "font.size": 30, "axes.facecolor": "red"}):
        (within,) = build_plots(frame)
        assert matplotlib.rcParams["font.size"] == 30
    assert within.svg == before.svg


def test_a_model_keeps_its_colour_and_models_have_different_ones() -> None:
    few, many = colours([PLAIN, FWPKM]), colours([*MODELS, "fa", "fa:fwpkm@2", "gdn:pkm@6+fwpkm@2,10", "guess"])
    assert few[FWPKM] == many["fa:fwpkm@2"] or few[FWPKM] == many[FWPKM]
    assert len(set(many.values())) == len(many) == 7
    assert "guess" not in many
    assert set(many.values()) <= set(ON_DARK)
    hundred = colours(f"gdn:fwpkm@{layer}" for layer in range(100))
    assert len(hundred) == 100


def test_needle_plots_say_how_many_samples_and_needles(page: str) -> None:
    captions = {text.split("plots/")[1]: text for text in "".join(Page(page).words).split(".svg") if "plots/" in text}
    assert "5 needles, one asked for" in captions["niah-length-closed-book"]
    assert "5 to 20 samples per point" in captions["niah-length-closed-book"]
    assert f"{PLAIN} and {PKM} (at most 0%)" in captions["niah-depth-closed-book"]


# The page


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


# The folder


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


def test_rows_come_from_cells_in_an_order_of_their_own(tmp_path: Path) -> None:
    rows = [needle(FWPKM, 3, passes=4), needle(PLAIN, 0), needle(FWPKM, 2), *bits(PLAIN, 2.0)]
    expected = [rows[1], rows[2], rows[0], rows[3], rows[4]]
    for turn, order in enumerate((rows, rows[::-1])):
        out = tmp_path / str(turn)
        store = CellStore(out)
        for number, row in enumerate(order):
            store.save(f"{number:020x}", {"settings": {}, "rows": [row], "version": "1"})
        build_report(out)
        found = read_rows_csv(out / "rows.csv")
        assert found[:3] == expected[:3]
        assert sorted(map(repr, found)) == sorted(map(repr, rows))


def test_only_the_cells_of_the_run_count(tmp_path: Path) -> None:
    store = CellStore(tmp_path)
    check_or_create(tmp_path, {"scale": "micro"})
    for number, found in enumerate((3, 20)):
        store.save(f"{number:020x}", {"settings": {}, "rows": [needle(FWPKM, found)], "version": str(number)})
    update_manifest(tmp_path, cells=[f"{0:020x}", f"{5:020x}"])
    build_report(tmp_path)
    assert read_rows_csv(tmp_path / "rows.csv") == [needle(FWPKM, 3)]
    assert "This run is not complete: 1 of 2 cells are finished." in (tmp_path / "report.html").read_text()


def test_without_cells_rows_csv_is_read_and_left_alone(tmp_path: Path) -> None:
    path = write_rows_csv([needle(FWPKM, 3)], tmp_path / "rows.csv")
    before = path.stat()
    assert path not in build_report(tmp_path)
    after = path.stat()
    assert (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)


def test_plots_of_an_earlier_report_go_and_others_stay(tmp_path: Path) -> None:
    write_rows_csv(bits(FWPKM, 1.7), tmp_path / "rows.csv")
    (tmp_path / "plots").mkdir()
    for name in ("niah-length-closed-book.png", "speed.svg", "mine.png", "speed.txt"):
        (tmp_path / "plots" / name).write_text("old")
    build_report(tmp_path)
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {
        "bits-per-byte.png", "bits-per-byte.svg", "mine.png", "speed.txt",
    }  # fmt: skip


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [Row(task="niah")],
        [Row(task="ppl", metric="perplexity")],
        [Row(task="bench", metric="speedup_forward")],
        [Row(task="something-new", metric="x", value=1.0)],
        [Row(model="gdn", task="niah", metric="exact_match", value=0.5, length=4096, passes=1, needles=5)],
        guess_rows([needle(FWPKM, 3)]),
        [needle(FWPKM, 3, n=20, passes=0, write_chunk="", scope="", dataset="", protocol="new|<b>")],
        bits(FWPKM, 1.7, arm="frozen"),
    ],
    ids=["none", "niah", "ppl", "bench", "unknown", "no-interval", "floor", "odd", "frozen-only"],
)
def test_whatever_is_missing_the_report_is_made(tmp_path: Path, rows: list[Row]) -> None:
    write_rows_csv(rows, tmp_path / "rows.csv")
    build_report(tmp_path)
    assert "How to run it again" in (tmp_path / "report.html").read_text()


def test_a_folder_without_results_is_a_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no results: neither finished cells nor rows\.csv"):
        build_report(tmp_path)
    with pytest.raises(UserError, match="no folder"):
        build_report(tmp_path / "nowhere")
    (tmp_path / "rows.csv").write_text("model\n")
    with pytest.raises(UserError, match="line 1"):
        build_report(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0, "0%"), (0.004, "0.4%"), (0.85, "85%"), (0.9996, "99.9%"), (1.0, "100%"), (1.18, "118%"), (1.004, "100%")],
)
def test_shares_above_one_are_what_they_are(share: float, text: str) -> None:
    assert wording.percent(share) == text
