"""The batches of a training run: each a pure function of the recipe and the step, so that a run can stop anywhere."""

from __future__ import annotations

import math
import string
import sys
from bisect import bisect_right
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np

from fwpkm_eval.data.shards import tokens_of_split
from fwpkm_eval.data.token_text import TokenText
from fwpkm_eval.data.tokenizers import IntArray, Tokenizer
from fwpkm_eval.errors import UserError
from fwpkm_eval.tasks.needles import Needle, draw_needles
from fwpkm_eval.training.recipe import Recipe

MOST_SPARSE_NEEDLES = 6
DENSE_FILL = 0.45
"""Share of a dense row that states needles; as much asks for them again."""


@dataclass(frozen=True)
class Batch:
    """tokens [B,T+1] int64 (inputs are all but the last, targets all but the first; B and T are the recipe's, but in
    exercises); is_answer [B,T] bool: targets that are digits of an answer; is_document [B] bool: rows of nothing but
    text, always; new_document: the memory's values return to their start before this batch; windowed: full attention
    sees a window in this batch (pSWA)."""

    tokens: IntArray
    is_answer: np.ndarray
    new_document: bool
    chunk_size: int
    is_document: np.ndarray
    windowed: bool = False

    def part(self, number: int, parts: int) -> Batch:
        """One of `parts` equal parts: every parts-th row, so that each has rows of all kinds."""
        rows = slice(number, None, parts)
        return replace(
            self, tokens=self.tokens[rows], is_answer=self.is_answer[rows], is_document=self.is_document[rows]
        )


@dataclass(frozen=True)
class Track:
    """One row's way through the documents: (document, first token, rows) pieces, and the step each starts at."""

    pieces: list[tuple[int, int, int]]
    starts: list[int]


class BatchMaker:
    """Makes the batch of any step of a run.

    Documents no longer than a row are left out. Text around needles and in exercises is cut from anywhere in the rest,
    laid end to end without end tokens. Raises UserError where no document is longer than a row.
    """

    def __init__(self, recipe: Recipe, tokenizer: Tokenizer, data: str = "embedded") -> None:
        self.recipe, self.tokenizer = recipe, tokenizer
        self._end = np.concatenate([tokenizer.encode("."), tokenizer.encode(" ")])
        # A call of SentencePiece takes 90 microseconds, and a batch has thousands of digits.
        self._digits = {digit: tokenizer.encode(digit) for digit in string.digits}
        text = training_text(recipe, tokenizer, data)
        self.data_hash = text.data_hash
        self.documents = [d for d in text.documents() if len(d) > recipe.tokens]
        if not self.documents:
            raise UserError(f"no training document is longer than a row of {recipe.tokens} tokens")
        self.text = np.concatenate(self.documents)
        drawn = draw_needles(np.random.default_rng(0), 32)
        self._sentence = max(len(part) for part in map(self._statement, drawn))
        dense_alone = recipe.dense_share == 1
        for_one = math.ceil(self._sentence / DENSE_FILL)
        if min(recipe.exercise_tokens, default=for_one) < for_one:
            raise UserError(f"exercise_tokens is {recipe.exercise_tokens}; a needle and its question need {for_one}")
        shortest = for_one if dense_alone else 2 * MOST_SPARSE_NEEDLES * self._sentence
        if recipe.needle_share > 0 and recipe.tokens < shortest:
            raise UserError(f"a row of {recipe.tokens} tokens is too short for its needles; the shortest is {shortest}")
        self._tracks = [self._plan(number) for number in range(recipe.rows)]

    def _plan(self, number: int) -> Track:
        """Documents drawn by length, each read on from a random place, until the steps are covered."""
        rng = np.random.default_rng([self.recipe.seed, 1, number])
        lengths = np.array([len(d) for d in self.documents], dtype=float)
        covered, pieces = 0, []
        while covered < self.recipe.steps:
            which = int(rng.choice(len(lengths), p=lengths / lengths.sum()))
            rows = min(self.recipe.document_pieces, (len(self.documents[which]) - 1) // self.recipe.tokens)
            start = int(rng.integers(0, len(self.documents[which]) - rows * self.recipe.tokens))
            pieces.append((which, start, rows))
            covered += rows
        return Track(pieces, [0, *accumulate(rows for _, _, rows in pieces)])

    def _document_row(self, number: int, step: int) -> tuple[IntArray, bool]:
        """The row of recipe.tokens + 1 tokens that a track reads at a step, and whether a document starts with it."""
        track = self._tracks[number]
        place = bisect_right(track.starts, step) - 1
        which, start, _ = track.pieces[place]
        row = step - track.starts[place]
        first = start + row * self.recipe.tokens
        return self.documents[which][first : first + self.recipe.tokens + 1].astype(np.int64), row == 0

    def batch(self, step: int) -> Batch:
        """The batch of a step, counted from 0."""
        recipe = self.recipe
        if step < max(recipe.exercise_steps, default=0):
            return self._exercise_batch(step)
        rng = np.random.default_rng([recipe.seed, 2, step])
        rows, marks = [], []
        no_answer = np.zeros(recipe.tokens + 1, dtype=bool)
        for number in range(recipe.rows):
            row, is_answer = None, no_answer
            if number >= recipe.rows // 2 and rng.random() < recipe.needle_share:
                row, is_answer = self._needle_row(rng, recipe.tokens + 1, dense=rng.random() < recipe.dense_share)
            rows.append(self._document_row(number, step)[0] if row is None else row)
            marks.append(is_answer)
        return Batch(
            tokens=np.stack(rows),
            is_answer=np.stack(marks)[:, 1:],
            new_document=self._document_row(0, step)[1],
            chunk_size=int(rng.choice(recipe.chunks)),
            is_document=np.arange(recipe.rows) < recipe.rows // 2,
            windowed=is_windowed(recipe, step),
        )

    def _statement(self, needle: Needle) -> IntArray:
        """A needle's sentence and a space, in the tokens of question, single digits and end, as in the task."""
        return np.concatenate([*self._question_and_value(needle), self._end])

    def _question_and_value(self, needle: Needle) -> tuple[IntArray, IntArray]:
        digits = np.concatenate([self._digits[digit] for digit in needle.value])
        return self.tokenizer.encode(needle.question), digits

    def _exercise_batch(self, step: int) -> Batch:
        """As many tokens in short rows: one half pieces of documents from anywhere, the other dense rows of needles."""
        recipe = self.recipe
        rng = np.random.default_rng([recipe.seed, 2, step])
        size = recipe.exercise_tokens[bisect_right(recipe.exercise_steps, step)]
        rows = recipe.rows * recipe.tokens // size
        pieces = [self._piece(rng, size) for _ in range(rows // 2)]
        asking = [self._needle_row(rng, size + 1, dense=True) for _ in range(rows // 2)]
        no_answer = np.zeros(size + 1, dtype=bool)
        return Batch(
            tokens=np.stack([*pieces, *(row for row, _ in asking)]),
            is_answer=np.stack([*[no_answer] * len(pieces), *(is_answer for _, is_answer in asking)])[:, 1:],
            new_document=True,
            # What is asked for must have been written: reads that answer nothing teach the model to do without them.
            chunk_size=min(int(rng.choice(recipe.chunks)), size // 2),
            is_document=np.arange(rows) < rows // 2,
        )

    def _piece(self, rng: np.random.Generator, size: int) -> IntArray:
        """size + 1 tokens from anywhere in the documents."""
        start = int(rng.integers(0, len(self.text) - size))
        return self.text[start : start + size + 1].astype(np.int64)

    def _needle_row(self, rng: np.random.Generator, length: int, dense: bool) -> tuple[IntArray, np.ndarray]:
        """A row of `length` tokens: statements in its first half, then the same needles asked for, text between."""
        sentence = self._sentence
        count = int(length * DENSE_FILL / sentence) if dense else int(rng.integers(4, MOST_SPARSE_NEEDLES + 1))
        needles = draw_needles(rng, count)
        asked = [needles[i] for i in rng.permutation(count)]
        parts_of = {needle: self._question_and_value(needle) for needle in needles}
        # Gaps of text: between statements, and then between questions.
        used = 2 * sum(len(question) + len(value) + len(self._end) for question, value in parts_of.values())
        free = max(length - used, 0)
        half = free // 2
        gaps = np.concatenate([self._gaps(rng, half, count), self._gaps(rng, free - half, count)])
        at = int(rng.integers(0, len(self.text) - free))
        parts, marks = [], []
        for number, needle in enumerate([*needles, *asked]):
            gap = self.text[at : at + gaps[number]]
            at += int(gaps[number])
            (question, value), end = parts_of[needle], self._end
            parts += [gap, question, value, end]
            mark = np.zeros(len(gap) + len(question) + len(value) + len(end), dtype=bool)
            if number >= count:
                mark[len(gap) + len(question) : len(gap) + len(question) + len(value)] = True
            marks.append(mark)
        return np.concatenate(parts)[:length], np.concatenate(marks)[:length]

    @staticmethod
    def _gaps(rng: np.random.Generator, total: int, count: int) -> IntArray:
        """`count` gaps that add up to `total`."""
        cuts = np.sort(rng.integers(0, total + 1, count - 1))
        return np.diff(np.concatenate([[0], cuts, [total]])).astype(np.int64)


class PackedBatchMaker:
    """Makes the batch of any step of a run over packed text: pieces of tokens + 1, each row in its own part of it."""

    def __init__(self, recipe: Recipe, tokenizer: Tokenizer, data: str = "embedded") -> None:
        self.recipe = recipe
        self.text = training_text(recipe, tokenizer, data)
        self.data_hash = self.text.data_hash
        self.pieces = len(self.text) // (recipe.tokens + 1)
        if not self.pieces:
            raise UserError(f"the training text has {len(self.text)} tokens, less than one row of {recipe.tokens + 1}")

    def batch(self, step: int) -> Batch:
        """The batch of a step, counted from 0; the text is read round and round."""
        recipe, size = self.recipe, self.recipe.tokens + 1
        places = [(number * self.pieces // recipe.rows + step) % self.pieces for number in range(recipe.rows)]
        rng = np.random.default_rng([recipe.seed, 2, step])
        return Batch(
            tokens=np.stack([self.text.read(place * size, (place + 1) * size) for place in places]),
            is_answer=np.zeros((recipe.rows, recipe.tokens), dtype=bool),
            new_document=False,
            chunk_size=int(rng.choice(recipe.chunks)),
            is_document=np.ones(recipe.rows, dtype=bool),
            windowed=is_windowed(recipe, step),
        )


def training_text(recipe: Recipe, tokenizer: Tokenizer, data: str) -> TokenText:
    """The train splits of a recipe's sets, one after the other. Raises UserError for one that is not there."""

    def report(line: str) -> None:
        print(line, file=sys.stderr)

    return TokenText.joined([tokens_of_split(data, name, "train", tokenizer, report) for name in recipe.sets])


def is_windowed(recipe: Recipe, step: int) -> bool:
    """Whether full attention sees a window in a step (pSWA): a function of the seed and the step."""
    return bool(np.random.default_rng([recipe.seed, 3, step]).random() < recipe.pswa)


def make_batches(recipe: Recipe, tokenizer: Tokenizer, data: str) -> BatchMaker | PackedBatchMaker:
    """The batches of a recipe. Raises UserError for sets that are missing or too short."""
    maker = PackedBatchMaker if recipe.layout == "packed" else BatchMaker
    return maker(recipe, tokenizer, data)
