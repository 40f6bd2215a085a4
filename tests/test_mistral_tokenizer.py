"""The paper's tokenizer: nothing of a text is lost, and a needle has the same tokens wherever it stands."""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fwpkm_eval.api import tokenizer_of
from fwpkm_eval.data import mistral
from fwpkm_eval.data.tokenizers import tokenizer_named
from fwpkm_eval.errors import UserError
from fwpkm_eval.reference_models.config import model_config
from fwpkm_eval.tasks.needles import build_sample, sample_rng

TOKENIZER = tokenizer_named("mistral")
# Text with everything that a tokenizer may trip over: its own sign for a space, its control tokens written out, bytes.
TEXTS = st.text(st.sampled_from("aeT the \n\n\t\r\u2581</s>0123.,-é漢😀\x00"), max_size=60) | st.text(max_size=40)


@given(TEXTS)
@example("\u2581\u2581a\u2581 \u2581")
@example("</s><s><unk><0x0A>")
@example("line\r\n" * 2000)
def test_a_text_comes_back_from_its_tokens(text: str) -> None:
    ids = TOKENIZER.encode(text)
    assert TOKENIZER.decode(ids) == text
    assert TOKENIZER.byte_counts(ids).sum() == len(text.encode("utf-8"))
    assert ids.dtype == np.int64
    assert not np.isin(ids, [0, 1, TOKENIZER.eos]).any()


@given(TEXTS, TEXTS)
def test_lines_are_tokenised_alone_as_together(first: str, second: str) -> None:
    apart = np.concatenate([TOKENIZER.encode(first + "\n"), TOKENIZER.encode(second)])
    assert apart.tolist() == TOKENIZER.encode(first + "\n" + second).tolist()


def test_a_long_text_in_pieces_is_the_text_at_once() -> None:
    text = "".join(f"It was line {number}, said he;\n\n  and\twent on.\n" for number in range(3000))
    at_once = TOKENIZER._pieces.encode("\n" + text)[2:]  # type: ignore[attr-defined]
    assert TOKENIZER.encode(text).tolist() == at_once


def test_its_pieces_are_those_of_the_library() -> None:
    pieces = TOKENIZER._pieces  # type: ignore[attr-defined]
    assert [pieces.id_to_piece(int(number)) for number in TOKENIZER.encode("The secret number")] == [
        "The",
        "\u2581secret",
        "\u2581number",
    ]
    assert TOKENIZER.vocab_size == pieces.vocab_size()
    assert TOKENIZER.eos == pieces.eos_id()


def test_ids_that_are_no_tokens_are_refused() -> None:
    for number in (-1, 32_000):
        with pytest.raises(ValueError, match=r"0\.\.31999"):
            TOKENIZER.decode([number])


def test_the_end_of_a_document_has_no_text() -> None:
    assert TOKENIZER.decode([TOKENIZER.eos]) == ""
    assert TOKENIZER.byte_counts(np.array([TOKENIZER.eos])).tolist() == [0]


def test_a_needle_has_the_tokens_that_are_asked_for() -> None:
    text = TOKENIZER.encode("Once upon a time there was a miller who had nothing. " * 60)
    sample = build_sample(sample_rng(0, 0), text, TOKENIZER, length=512, needles=5)
    assert len(sample.haystack) == 512
    assert len(sample.answer) == 6
    wanted = np.concatenate([sample.question, sample.answer])
    places = [i for i in range(512 - len(wanted) + 1) if np.array_equal(sample.haystack[i : i + len(wanted)], wanted)]
    assert len(places) == 1
    assert TOKENIZER.decode(wanted) == sample.needles[sample.asked].sentence[:-1]


def test_models_of_the_larger_scales_use_it() -> None:
    for scale in ("small", "paper"):
        assert tokenizer_of(model_config("gdn", scale)) is TOKENIZER


def test_without_its_packages_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(UserError, match=r"pip install 'fwpkm-eval\[tokenizers\]'"):
        mistral.MistralTokenizer()


def test_another_model_file_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setattr(mistral, "SHA256", "0" * 64)
    with pytest.raises(UserError, match=r"another tokenizer.model.v1 \(sha256 dadfd56d766"):
        mistral.MistralTokenizer()
    assert isinstance(sys.modules["sentencepiece"], ModuleType)


def test_an_unknown_tokenizer_is_named() -> None:
    with pytest.raises(UserError, match=r"mistrl.*did you mean mistral"):
        tokenizer_named("mistrl")
