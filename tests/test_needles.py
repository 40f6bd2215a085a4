"""Needles and haystacks: exact lengths, whole needles where they should be, one answer to every question."""

from __future__ import annotations

import functools
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fwpkm_eval.data.tokenizers import ByteTokenizer
from fwpkm_eval.errors import UserError
from fwpkm_eval.tasks.needles import Needle, NeedleSample, build_sample, draw_needles, sample_rng

BYTES = ByteTokenizer()
TEXT = BYTES.encode("It was the best of times, it was the worst of times; 42 naïve souls.\n" * 40)
BLOCK = len(" The secret number for ID-ab12 is 123456. ")


def _same(a: NeedleSample, b: NeedleSample) -> bool:
    return (
        np.array_equal(a.haystack, b.haystack)
        and (a.needles, a.asked, a.depths) == (b.needles, b.asked, b.depths)
        and np.array_equal(a.question, b.question)
        and np.array_equal(a.answer, b.answer)
    )


def _raw(sample: NeedleSample) -> bytes:
    return sample.haystack.astype(np.uint8).tobytes()


def test_every_window_and_every_place_may_be_drawn() -> None:
    text, drawn = BYTES.encode("xyz"), set()
    for seed in range(60):
        sample = build_sample(sample_rng(seed, 0), text, BYTES, length=BLOCK + 2, needles=1)
        start = round(sample.depths[0] * len(sample.haystack)) - 1
        around = np.delete(sample.haystack, slice(start, start + BLOCK))
        drawn.add((BYTES.decode(around), start))
    assert drawn == {(window, start) for window in ("xy", "yz") for start in range(3)}


def test_wording() -> None:
    needle = Needle("ab12", "012345")
    assert needle.sentence == "The secret number for ID-ab12 is 012345."
    assert needle.question == "The secret number for ID-ab12 is "


@given(
    seed=st.integers(0, 2**32),
    count=st.integers(1, 12),
    extra=st.integers(0, 4000),
    key_length=st.integers(2, 9),
    value_length=st.integers(3, 9),
    data=st.data(),
)
def test_every_sample(
    seed: int, count: int, extra: int, key_length: int, value_length: int, data: st.DataObject
) -> None:
    build = functools.partial(
        build_sample,
        text_tokens=TEXT,
        tokenizer=BYTES,
        needles=count,
        key_length=key_length,
        value_length=value_length,
    )
    shortest = count * (BLOCK - 10 + key_length + value_length)
    length = shortest + extra
    depths = data.draw(st.none() | st.lists(st.floats(0, 1), min_size=count, max_size=count))
    sample = build(sample_rng(seed, 0), length=length, depths=depths)

    assert sample.haystack.dtype == np.int64
    assert sample.haystack.shape == (length,)
    raw = _raw(sample)
    assert len({needle.key for needle in sample.needles}) == count == len(sample.needles)
    assert len({needle.value for needle in sample.needles}) == count
    taken = np.zeros(length, dtype=bool)
    for needle, depth in zip(sample.needles, sample.depths, strict=True):
        assert len(needle.key) == key_length
        assert len(needle.value) == value_length
        assert 0 <= depth < 1
        start = round(depth * length)
        block = f" {needle.sentence} ".encode()
        assert raw[start - 1 :].startswith(block)
        assert raw.count(needle.question.encode()) == 1
        where = slice(start - 1, start - 1 + len(block))
        assert not taken[where].any()
        taken[where] = True
    # What is left is a window of the text, read round its end if need be.
    left = sample.haystack[~taken].astype(np.uint8).tobytes()
    assert len(left) == extra
    assert left in TEXT.astype(np.uint8).tobytes() * (extra // len(TEXT) + 2)

    asked = sample.needles[sample.asked]
    assert BYTES.decode(sample.question) == asked.question
    assert BYTES.decode(sample.answer) == asked.value
    assert len(sample.answer) == value_length
    at = raw.index(sample.question.astype(np.uint8).tobytes()) + len(sample.question)
    assert sample.haystack[at : at + value_length].tolist() == sample.answer.tolist()

    if depths is not None:
        for wanted, got in zip(depths, sample.depths, strict=True):
            assert abs(wanted - got) * length <= shortest + 1  # never further off than the needles' own text
        for a in range(count):
            for b in range(count):
                assert not (depths[a] < depths[b] and sample.depths[a] > sample.depths[b])

    with pytest.raises(UserError, match=rf"too short for {count} needles; the shortest is {shortest}"):
        build(sample_rng(seed, 0), length=shortest - 1)


def test_depths_are_met_exactly_where_there_is_room() -> None:
    depths = (0.95, 0.05, 0.5)
    sample = build_sample(sample_rng(0, 0), TEXT, BYTES, length=2000, needles=3, depths=depths)
    assert sample.depths == pytest.approx(depths, abs=0.5 / 2000)
    first = build_sample(sample_rng(0, 0), TEXT, BYTES, length=2000, needles=1, depths=[0.0])
    assert _raw(first).startswith(f" {first.needles[0].sentence} ".encode())
    last = build_sample(sample_rng(0, 0), TEXT, BYTES, length=2000, needles=1, depths=[1.0])
    assert _raw(last).endswith(f" {last.needles[0].sentence} ".encode())


def test_samples_do_not_depend_on_their_order() -> None:
    def sample(index: int, seed: int = 3) -> NeedleSample:
        return build_sample(sample_rng(seed, index), TEXT, BYTES, length=700)

    forwards = [sample(index) for index in range(8)]
    backwards = [sample(index) for index in reversed(range(8))][::-1]
    assert all(_same(a, b) for a, b in zip(forwards, backwards, strict=True))
    assert len({_raw(one) for one in forwards}) == 8
    assert not _same(sample(0), sample(0, seed=4))
    # Adding seed and index would make these two the same.
    assert not _same(sample(1, seed=3), sample(0, seed=4))


def test_questions_and_depths_are_spread_evenly() -> None:
    samples = [build_sample(sample_rng(1, index), TEXT, BYTES, length=2000) for index in range(400)]
    asked = np.bincount([sample.asked for sample in samples], minlength=5)
    assert asked.min() > 50  # 80 expected
    depths = np.array([sample.depths[sample.asked] for sample in samples])
    counts, _ = np.histogram(depths, bins=5, range=(0, 1))
    assert counts.min() > 50
    # The first needle of the tuple is as often behind the second as before it.
    assert 150 < sum(sample.depths[0] < sample.depths[1] for sample in samples) < 250


def test_values_may_start_with_zero_and_use_every_digit() -> None:
    needles = draw_needles(sample_rng(0, 0), 2000)
    for place in range(6):
        counts = np.bincount([int(needle.value[place]) for needle in needles], minlength=10)
        assert counts.min() > 130  # 200 expected
    letters = {letter for needle in needles for letter in needle.key}
    assert letters == set("abcdefghijklmnopqrstuvwxyz0123456789")


@pytest.mark.parametrize(("count", "key_length", "value_length"), [(36, 1, 2), (100, 2, 2), (10, 1, 1), (1296, 2, 6)])
def test_all_there_are_can_be_drawn(count: int, key_length: int, value_length: int) -> None:
    needles = draw_needles(sample_rng(0, 0), count, key_length, value_length)
    assert len({needle.key for needle in needles}) == len({needle.value for needle in needles}) == count
    assert {len(needle.key) for needle in needles} == {key_length}
    assert {len(needle.value) for needle in needles} == {value_length}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((37, 1, 6), "only 36 keys of length 1; 37 needles need longer keys"),
        ((11, 4, 1), "only 10 values of length 1; 11 needles need longer values"),
        ((0, 4, 6), "needles must be at least 1, not 0"),
        ((-3, 4, 6), "needles must be at least 1, not -3"),
        ((1, 0, 6), "key length must be at least 1"),
        ((1, 4, 0), "value length must be at least 1"),
    ],
)
def test_impossible_needles(arguments: tuple[int, int, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        draw_needles(sample_rng(0, 0), *arguments)


def test_very_long_keys() -> None:
    needles = draw_needles(sample_rng(0, 0), 5, key_length=40, value_length=30)
    assert {len(needle.key) for needle in needles} == {40}


def test_impossible_samples() -> None:
    for depths, message in [
        ([0.5], "5 needles need 5 depths, not 1"),
        ([0.5] * 4 + [1.5], "between 0 and 1, not 1.5"),
    ]:
        with pytest.raises(UserError, match=message):
            build_sample(sample_rng(0, 0), TEXT, BYTES, length=1000, depths=depths)
    with pytest.raises(UserError, match="between 0 and 1, not nan"):
        build_sample(sample_rng(0, 0), TEXT, BYTES, length=1000, needles=1, depths=[float("nan")])
    with pytest.raises(UserError, match="text to cut haystacks from is empty"):
        build_sample(sample_rng(0, 0), TEXT[:0], BYTES, length=1000)
    for seed, index in ((-1, 0), (0, -1)):
        with pytest.raises(UserError, match="must not be negative, not -1"):
            sample_rng(seed, index)


def test_text_that_asks_the_same_questions() -> None:
    """A key that the text asks for is never asked for; text that asks for every key is refused."""
    keys = "abcdefghijklmnopqrstuvwxyz0123456789"
    some = "".join(f"The secret number for ID-{key} is 1. " for key in keys[:18])
    for index in range(30):
        sample = build_sample(sample_rng(0, index), BYTES.encode(some), BYTES, length=1200, needles=1, key_length=1)
        assert _raw(sample).count(sample.question.astype(np.uint8).tobytes()) == 1
    every = "".join(f"The secret number for ID-{key} is 1. " for key in keys)
    with pytest.raises(UserError, match="already holds sentences"):
        build_sample(sample_rng(0, 0), BYTES.encode(every), BYTES, length=4000, needles=1, key_length=1)


def test_the_text_is_not_changed() -> None:
    before = TEXT.copy()
    sample = build_sample(sample_rng(0, 0), TEXT, BYTES, length=1000)
    sample.haystack[:] = 0
    assert np.array_equal(TEXT, before)


def test_long_haystacks_with_many_needles_are_made_quickly() -> None:
    started = time.perf_counter()
    sample = build_sample(sample_rng(0, 0), TEXT, BYTES, length=2**20, needles=500)
    assert len(sample.haystack) == 2**20
    assert len(sample.depths) == 500
    assert time.perf_counter() - started < 2  # about 0.05 s; a loop over tokens takes far longer
