"""Byte tokens, the stream of a set, and its segments: every token is scored exactly once."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fwpkm_eval.data.stream import TokenStream, segments, token_stream
from fwpkm_eval.data.tokenizers import ByteTokenizer
from fwpkm_eval.data.types import Document, TextSet
from fwpkm_eval.errors import UserError

BYTES = ByteTokenizer()
EOS = BYTES.eos


def _set(texts: list[str]) -> TextSet:
    documents = tuple(Document(str(i), text) for i, text in enumerate(texts))
    return TextSet("s", "test", documents, "path", None, "made here", "0")


@given(st.text())
def test_bytes_there_and_back(text: str) -> None:
    ids = BYTES.encode(text)
    assert ids.dtype == np.int64
    assert ids.tolist() == list(text.encode("utf-8"))
    assert BYTES.decode(ids) == text
    assert BYTES.byte_counts(ids).sum() == len(text.encode("utf-8"))
    assert BYTES.decode([EOS, *ids.tolist(), EOS]) == text


def test_byte_ids() -> None:
    assert (BYTES.name, BYTES.vocab_size, BYTES.eos) == ("bytes", 257, 256)
    assert BYTES.decode([0xC3, 0x41]) == "\ufffdA"
    assert BYTES.decode([]) == ""
    assert BYTES.byte_counts(np.array([EOS, 0, 255, EOS])).tolist() == [0, 1, 1, 0]
    for bad in (-1, 257):
        with pytest.raises(ValueError, match=r"0\.\.256"):
            BYTES.decode([bad])


def test_a_stream_written_out() -> None:
    stream = token_stream(_set(["ab", "é"]), BYTES)
    assert stream.tokens.tolist() == [EOS, 97, 98, EOS, 0xC3, 0xA9, EOS]
    assert stream.document_starts.tolist() == [1, 4]
    assert stream.byte_counts.tolist() == [0, 1, 1, 0, 1, 1, 0]
    assert stream.document_indices().tolist() == [0, 0, 0, 1, 1, 1]
    assert stream.document_positions().tolist() == [0, 1, 2, 0, 1, 2]
    assert stream.document_positions(2, 5).tolist() == [1, 2, 0]
    assert (stream.n_targets, stream.n_text_bytes(), stream.n_text_bytes(2, 5)) == (6, 4, 2)
    two, one = segments(stream, 4)
    assert two.inputs.tolist() == [EOS, 97, 98, EOS]
    assert two.targets.tolist() == [97, 98, EOS, 0xC3]
    assert one.inputs.tolist() == [0xC3, 0xA9]
    assert one.targets.tolist() == [0xA9, EOS]
    assert [segment.inputs.tolist() for segment in segments(stream, 4, within_documents=True)] == [
        [EOS, 97, 98],
        [EOS, 0xC3, 0xA9],
    ]


TEXTS = st.lists(st.text(max_size=40), min_size=1, max_size=6)


@given(
    texts=TEXTS,
    length=st.integers(1, 60),
    within=st.booleans(),
    budget=st.one_of(st.none(), st.integers(1, 200)),
)
@example(texts=[""], length=1, within=True, budget=None)
@example(texts=["", "", "a"], length=1, within=True, budget=2)
@example(texts=["abc", "d"], length=4, within=True, budget=4)
def test_every_token_once(texts: list[str], length: int, within: bool, budget: int | None) -> None:
    expected = [EOS]
    owner = [-1]
    place = [-1]
    for index, text in enumerate(texts):
        ids = [*text.encode("utf-8"), EOS]
        expected += ids
        owner += [index] * len(ids)
        place += range(len(ids))
    limit = None if budget is None else budget + 1
    expected, owner, place = expected[:limit], owner[:limit], place[:limit]

    stream = token_stream(_set(texts), BYTES, budget)
    assert stream.tokens.dtype == np.int64
    assert stream.tokens.tolist() == expected
    assert stream.n_targets == len(expected) - 1
    assert len(stream.document_starts) == len(set(owner) - {-1})

    pieces = list(segments(stream, length, within_documents=within))
    position = 1
    for piece in pieces:
        inputs, targets = piece
        assert len(piece) == len(inputs) == len(targets) > 0
        assert piece.start == position - 1
        # The input of a target is the token before it, always.
        assert inputs.tolist() == expected[position - 1 : position - 1 + len(inputs)]
        assert targets.tolist() == expected[position : position + len(targets)]
        owners = stream.document_indices(position, position + len(targets)).tolist()
        assert owners == owner[position : position + len(targets)]
        assert piece.document_positions.tolist() == place[position : position + len(targets)]
        assert piece.starts_document == (place[position] == 0)
        position += len(targets)
        ends_document = position == len(expected) or place[position] == 0
        if within:
            assert len(set(owners)) == 1
            assert len(targets) == length or ends_document
        else:
            assert len(targets) == length or position == len(expected)
    assert position == len(expected)
    assert stream.byte_counts.tolist() == [int(token != EOS) for token in expected]
    assert stream.byte_counts[1:].sum() == stream.n_text_bytes()


def test_documents_past_the_budget_are_not_tokenised() -> None:
    class Counting(ByteTokenizer):
        seen: int = 0

        def encode(self, text: str) -> np.ndarray:
            self.seen += 1
            return super().encode(text)

    tokenizer = Counting()
    stream = token_stream(_set(["aaaa"] * 100), tokenizer, 10)
    assert (tokenizer.seen, stream.n_targets) == (2, 10)


def test_long_streams_are_cut_in_linear_time() -> None:
    stream = token_stream(_set(["a" * 2_000_000] * 4), BYTES)
    started = time.perf_counter()
    assert sum(len(segment) for segment in segments(stream, 4096)) == stream.n_targets
    assert time.perf_counter() - started < 5  # about 0.3 s; work over the whole stream in each segment takes 30 s


def test_bad_requests() -> None:
    with pytest.raises(UserError, match="holds no documents"):
        token_stream(_set([]), BYTES)
    with pytest.raises(UserError, match="budget must be at least 1"):
        token_stream(_set(["a"]), BYTES, 0)
    stream: TokenStream = token_stream(_set(["a"]), BYTES)
    with pytest.raises(UserError, match="at least 1 token, not 0"):
        list(segments(stream, 0))
    for ask in (stream.document_positions, stream.document_indices):
        with pytest.raises(ValueError, match="belongs to no document"):
            ask(0)
