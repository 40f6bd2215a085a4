"""Published numbers beside ours: copied right, kept apart, and called comparable only where they are."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable

import pytest
from report_cases import FWPKM, bench_rows, bits, lines_of, needle, realistic_rows, tables_of

from fwpkm_eval.reporting import published, tables_longbench
from fwpkm_eval.runs.rows import Row


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return list(realistic_rows())


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
    assert [number.value for number in published.SECONDARY_REPORT] == [
        *(18.7, 17.9, 15.2),
        *(21.4, 20.6, 18.1),
        *(0.0012, 0.0031, 0.028),
    ]
    assert tables_longbench.PUBLISHED == {
        "2wikimqa": "gdn 19.50, gdn:fwpkm@2,6,10 13.38",
        "hotpotqa": "gdn 36.25, gdn:fwpkm@2,6,10 21.38",
    }
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


def test_what_is_published_is_listed_where_a_table_quotes_it() -> None:
    def models(rows: Iterable[Row], name: str = "published") -> set[str]:
        table = tables_of(rows).get(name)
        return {cells["what"] for cells in lines_of(table)} if table else set()

    assert models(bits(FWPKM, 1.7)) == {"perplexity"}
    assert models(bits(FWPKM, 1.7), "secondary") == set(), "it says nothing of these sets"
    assert models(bits(FWPKM, 1.7, dataset="wikitext103"), "secondary") == {"perplexity"}
    assert models([needle(FWPKM, 3, length=131072)], "secondary") == {"exact match"}
    assert models([needle(FWPKM, 3, protocol="open-book")]) == {"exact match"}
    assert models([needle(FWPKM, 3)]) == set(), "nobody published a closed book"
    assert models(bench_rows()) == set()
    priced = [
        Row(task="bench", model="gdn:fwpkm@2,6,10", metric=metric, value=0.9, scale="paper", device="cpu")
        for metric in ("samples_per_second_training", "share_of_backbone_speed_training")
    ]
    assert models(priced) == {"samples per second", "million parameters"}
    assert models(priced, "secondary") == set()
