"""General compressors beside the models: the same text, and no place among models."""

from __future__ import annotations

import bz2
import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_cases import FWPKM, PLAIN, bits, lines_of, said, tables_of

from fwpkm_eval.data import Document, TextSet
from fwpkm_eval.data.tokenizers import tokenizer_named
from fwpkm_eval.errors import UserError
from fwpkm_eval.reporting.plots import build_plots
from fwpkm_eval.runs.rows import rows_to_frame
from fwpkm_eval.tasks.compressors import COMPRESSORS, compressor_rows

BYTES = tokenizer_named("bytes")


def text_set(*texts: str) -> TextSet:
    documents = tuple(Document(str(number), text) for number, text in enumerate(texts))
    return TextSet("tales", "test", documents, "path", None, "", "0123456789abcdef0123")


def test_repetition_and_noise() -> None:
    """What repeats costs next to nothing; letters drawn from sixteen cost four bits each, and little more."""
    chooser = random.Random(0)
    noise = "".join(chooser.choices("abcdefghijklmnop", k=60_000))
    found = {row.model: row.value or 0 for row in compressor_rows(text_set(noise), None, BYTES)}
    assert list(found) == ["zlib", "bzip2", "xz"]
    assert all(4 <= value < 5 for value in found.values())
    # A second copy 60,000 bytes behind the first: beyond what zlib looks back, within the others' reach.
    again = {row.model: row.value or 0 for row in compressor_rows(text_set(noise, noise), None, BYTES)}
    assert again["zlib"] > 0.99 * found["zlib"]
    assert again["xz"] < 0.55 * found["xz"]


@given(st.lists(st.text(min_size=1, max_size=30), min_size=1, max_size=4), st.integers(1, 80))
def test_the_text_is_what_the_models_score(texts: list[str], budget: int) -> None:
    """Cut where a model's tokens are cut, end tokens counted and not compressed."""
    scored = b"\x00".join([*(text.encode() for text in texts), b""])[:budget]
    ends = {sum(len(text.encode()) + 1 for text in texts[: number + 1]) - 1 for number in range(len(texts))}
    text = bytes(byte for place, byte in enumerate(scored) if place not in ends)
    rows = {row.model: row for row in compressor_rows(text_set(*texts), budget, BYTES)}
    assert rows["bzip2"].value == 8 * len(bz2.compress(text, 9)) / len(text)
    assert rows["zlib"].value == 8 * len(zlib.compress(text, 9)) / len(text)
    assert {row.n for row in rows.values()} == {len(text)}
    assert {row.tokens for row in rows.values()} == {len(scored)}


def test_an_empty_set_is_one_line() -> None:
    with pytest.raises(UserError, match="holds no documents"):
        compressor_rows(text_set(), None, BYTES)


def test_they_stand_under_the_models_and_are_none() -> None:
    models = [*bits(PLAIN, 2.0), *bits(FWPKM, 1.7, write_chunk="128")]
    floor = [row for name in COMPRESSORS for row in bits(name, 1.5, scale="") if row.metric == "bits_per_byte"]
    table = tables_of([*models, *floor])["perplexity-source"]
    lines = lines_of(table)
    assert [line["model"] for line in lines] == [PLAIN, FWPKM, *COMPRESSORS]
    assert [line["bits per byte"] for line in lines[2:]] == ["1.500"] * 3
    assert {line["against baseline"] for line in lines[2:]} == {"–"}
    assert "zlib, bzip2 and xz, each at its highest level" in table.note
    assert said([*models, *floor]) == said(models)


def test_the_plot_has_a_line_for_the_best_of_them() -> None:
    models = [*bits(PLAIN, 2.0), *bits(FWPKM, 1.7, write_chunk="128")]
    floor = [bits(name, value, scale="")[0] for name, value in zip(COMPRESSORS, (1.9, 1.5, 1.6), strict=True)]
    (plot,) = (plot for plot in build_plots(rows_to_frame([*models, *floor])) if plot.name == "bits-per-byte")
    assert "Cross: the general compressor" in plot.caption
    (plain,) = (plot for plot in build_plots(rows_to_frame(models)) if plot.name == "bits-per-byte")
    assert "Cross" not in plain.caption
    drawn = {name for name in (*COMPRESSORS, PLAIN) if f"<!-- {name}" in plot.svg}
    assert drawn == {"bzip2", PLAIN}
