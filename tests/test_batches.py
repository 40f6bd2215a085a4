"""Batches of a training: of recipe and step alone, with questions that can be answered."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from training_cases import TINY, write_words

from fwpkm_eval.data.tokenizers import ByteTokenizer
from fwpkm_eval.errors import UserError
from fwpkm_eval.training.batches import Batch, BatchMaker
from fwpkm_eval.training.recipe import Recipe

pytestmark = pytest.mark.usefixtures("one_thread")

NEEDLES = replace(TINY, steps=40, tokens=640, needle_share=0.6, dense_share=0.5)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_words(tmp_path_factory.mktemp("data"))


def maker(recipe: Recipe, data: str) -> BatchMaker:
    return BatchMaker(recipe, ByteTokenizer(), data)


def same_batch(ours: Batch, expected: Batch) -> bool:
    return (
        np.array_equal(ours.tokens, expected.tokens)
        and np.array_equal(ours.is_answer, expected.is_answer)
        and (ours.new_document, ours.chunk_size) == (expected.new_document, expected.chunk_size)
    )


def test_a_batch_depends_on_recipe_and_step_alone(data: str) -> None:
    """In any order, from another maker, in a longer run: the same; at another step or seed: another."""
    forward = [maker(NEEDLES, data).batch(step) for step in range(40)]
    again, longer = maker(NEEDLES, data), maker(replace(NEEDLES, steps=400), data)
    np.random.seed(7)  # noqa: NPY002 (the global generator is what must not matter)
    for step in reversed(range(40)):
        assert same_batch(again.batch(step), forward[step])
        assert same_batch(again.batch(step), forward[step])
        assert same_batch(longer.batch(step), forward[step])
    other = maker(replace(NEEDLES, seed=1), data)
    assert not any(same_batch(other.batch(step), forward[step]) for step in range(40))
    assert len({batch.tokens[1].tobytes() for batch in forward}) == 40
    assert {batch.chunk_size for batch in forward} == {16, 32}


def test_shapes(data: str) -> None:
    for recipe in (TINY, NEEDLES):
        for step in range(recipe.steps):
            batch = maker(recipe, data).batch(step)
            assert batch.tokens.shape == (2, recipe.tokens + 1)
            assert batch.tokens.dtype == np.int64
            assert batch.is_answer.shape == (2, recipe.tokens)
            assert batch.is_answer.dtype == bool
            assert batch.tokens.min() >= 0
            assert batch.tokens.max() <= 256


def test_the_first_row_goes_on_through_a_document(data: str) -> None:
    """Each row starts with the last token of the row before, in one document, until a new one starts."""
    made = maker(NEEDLES, data)
    texts = [document.astype(np.int64).tobytes() for document in made.documents]
    before = None
    run, runs = 0, []
    for step in range(40):
        batch = made.batch(step)
        row = batch.tokens[0]
        assert any(row.tobytes() in text for text in texts)
        assert not batch.is_answer[0].any()
        if batch.new_document:
            runs.append(run)
            run = 0
        else:
            assert before is not None
            assert row[0] == before[-1]
            assert any(np.concatenate([before, row[1:]]).tobytes() in text for text in texts)
        run += 1
        before = row
    assert runs[0] == 0, "the first batch starts a document"
    assert len(runs) > 40 / 3 - 1
    assert max(runs) == 3  # document_pieces


def test_documents_are_drawn_by_their_length(tmp_path: Path) -> None:
    (tmp_path / "words").mkdir()
    lines = [json.dumps({"text": sign * length}) for sign, length in (("a", 1000), ("b", 9000))]
    (tmp_path / "words" / "train.jsonl").write_text("\n".join(lines), encoding="utf-8")
    made = maker(replace(TINY, steps=400, document_pieces=1), str(tmp_path))
    short = [made.batch(step).tokens[0, 0] == ord("a") for step in range(400)]
    assert 0.05 < np.mean(short) < 0.15


def test_each_question_was_answered_before_and_only_its_digits_count(data: str) -> None:
    made, tokenizer = maker(NEEDLES, data), ByteTokenizer()
    sentence = re.compile(rb"The secret number for ID-([a-z0-9]{4}) is ([0-9]{6})\.")
    rows = dense = 0
    for step in range(40):
        batch = made.batch(step)
        row = batch.tokens[1]
        text = bytes(row.tolist())
        found = list(sentence.finditer(text))
        marked = np.flatnonzero(batch.is_answer[1]) + 1  # targets are one token later than inputs
        if not found:
            assert not len(marked)
            continue
        rows += 1
        stated: dict[bytes, bytes] = {}
        digits: list[int] = []
        assert found[len(found) // 2 - 1].start() < 320 <= found[len(found) // 2].start(), "asked in the second half"
        for match in found:
            key, value = match.groups()
            if key in stated:
                assert stated.pop(key) == value
                digits += range(match.start(2), match.end(2))
            else:
                stated[key] = value
        assert not stated, "a needle was stated and not asked for"
        assert marked.tolist() == digits
        assert tokenizer.decode(row[marked]).isdigit()
        count = len(found) // 2
        assert len({match[1] for match in found}) == count
        assert count in (4, 5, 6, 7)  # 640 tokens hold 7 dense ones
        dense += count == 7
        halves = [match.group(1) for match in found]
        assert set(halves[:count]) == set(halves[count:]), "statements come first"
    assert 15 <= rows <= 33  # needle_share 0.6 of 40
    assert 3 <= dense < rows


def test_questions_are_asked_in_another_order_than_stated(data: str) -> None:
    made = maker(replace(NEEDLES, needle_share=1.0), data)
    same_order = 0
    for step in range(20):
        keys = re.findall(rb"ID-([a-z0-9]{4})", bytes(made.batch(step).tokens[1].tolist()))
        same_order += keys[: len(keys) // 2] == keys[len(keys) // 2 :]
    assert same_order <= 2


@pytest.mark.parametrize("length", [8, 40, 96, 160, 400])
def test_rows_too_short_for_their_needles_are_refused_at_the_start(data: str, length: int) -> None:
    """Not by an accident in the middle of a run; or the rows are right for any length."""
    try:
        made = maker(Recipe(steps=30, tokens=length, sets=("words",), needle_share=1.0), data)
    except UserError:
        return
    for step in range(30):
        batch = made.batch(step)
        assert batch.tokens.shape == (2, length + 1)
        assert batch.is_answer.any()


def test_documents_too_short_for_a_row_are_refused(data: str) -> None:
    with pytest.raises(UserError, match="100000"):
        maker(replace(TINY, tokens=100_000), data)


EXERCISES = replace(NEEDLES, exercise_tokens=(128, 320), exercise_steps=(10, 20), pswa=0.8)


def test_exercises_are_short_rows_that_ask_for_what_they_stated(data: str) -> None:
    """As many tokens as any other step; half the rows are text, each of the others asks for all that it states."""
    made = maker(EXERCISES, data)
    corpus = made.text.tobytes()
    needles = set()
    for step in range(20):
        batch, size = made.batch(step), 128 if step < 10 else 320
        assert batch.tokens.shape == (EXERCISES.rows * EXERCISES.tokens // size, size + 1)
        assert batch.tokens.dtype == np.int64
        assert batch.new_document
        assert not batch.windowed
        for row, is_answer, is_document in zip(batch.tokens, batch.is_answer, batch.is_document, strict=True):
            if is_document:
                assert row.astype(made.text.dtype).tobytes() in corpus
                assert not is_answer.any()
                continue
            found = re.findall(rb"ID-([a-z0-9]{4}) is ([0-9]{6})", bytes(row.tolist()))
            assert sorted(found[: len(found) // 2]) == sorted(found[len(found) // 2 :])
            assert is_answer.sum() == 6 * len(found) // 2
            asked = b"".join(value for _, value in found[len(found) // 2 :])
            assert bytes(row[1:][is_answer].tolist()) == asked
            needles.add((size, len(found) // 2))
        assert batch.is_document.sum() * 2 == len(batch.tokens)
    assert needles == {(128, 1), (320, 3)}


def test_exercises_write_what_they_ask_for_before_they_ask(data: str) -> None:
    """Questions come in the second half of a row, and writes in the middle of it at the latest."""
    made = maker(replace(EXERCISES, chunks=(16, 64, 200, 1000)), data)
    chunks = set()
    for step in range(20):
        batch, size = made.batch(step), 128 if step < 10 else 320
        chunks.add((size, batch.chunk_size))
        for row, is_answer in zip(batch.tokens, batch.is_answer, strict=True):
            if is_answer.any():
                found = list(re.finditer(rb"The secret number for ID-", bytes(row.tolist())))
                assert found[len(found) // 2 - 1].start() < size // 2 <= found[len(found) // 2].start()
    assert chunks == {(128, 16), (128, 64), (320, 16), (320, 64), (320, 160)}


def test_after_the_exercises_training_is_as_without_them(data: str) -> None:
    with_them, without = maker(EXERCISES, data), maker(replace(NEEDLES, pswa=0.8), data)
    for step in range(20, 40):
        assert same_batch(with_them.batch(step), without.batch(step))
        assert with_them.batch(step).windowed == without.batch(step).windowed
    assert {with_them.batch(step).windowed for step in range(20, 40)} == {True, False}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"exercise_tokens": (128,)}, "differ in number"),
        ({"exercise_tokens": (0,), "exercise_steps": (5,)}, "must divide a row of 640"),
        ({"exercise_tokens": (100,), "exercise_steps": (5,)}, "must divide a row of 640"),
        ({"exercise_tokens": (128, 320), "exercise_steps": (9, 5)}, "must not fall"),
        ({"exercise_tokens": (128,), "exercise_steps": (20,), "steps": 20}, "must leave some of the 20 steps"),
        ({"exercise_tokens": (128,), "exercise_steps": (5,), "layout": "packed"}, "layout packed has no exercises"),
        ({"exercise_tokens": (64,), "exercise_steps": (5,)}, "a needle and its question need"),
    ],
)
def test_exercises_that_cannot_be(data: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        maker(replace(NEEDLES, **changes), data)
