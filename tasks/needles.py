"""Needles and the haystacks that hold them: `The secret number for ID-ab12 is 123456.`, hidden in real text.

A sample is a pure function of its random generator, and `sample_rng(seed, index)` makes one for each sample:
samples can be drawn in any order, alone or in parallel, and are the same.

Source: the NIAH task of arXiv 2601.00671v2 (5 needles, 4-character keys, 6 digits, random depths). The key's
alphabet (lowercase letters and digits) is ours; number and sizes of needles are free.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fwpkm_eval.data.tokenizers import IntArray, Tokenizer
from fwpkm_eval.errors import UserError

KEY_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"
DIGITS = "0123456789"
_PREFIX = "The secret number for ID-"
_ATTEMPTS = 20


@dataclass(frozen=True)
class Needle:
    """A secret number (`value`, digits) and what it is asked for by (`key`)."""

    key: str
    value: str

    @property
    def sentence(self) -> str:
        """What the haystack says."""
        return f"{self.question}{self.value}."

    @property
    def question(self) -> str:
        """The sentence up to the number; the answer is what follows it."""
        return f"{_PREFIX}{self.key} is "


@dataclass(frozen=True)
class NeedleSample:
    """A haystack, its needles and one question.

    `haystack` [length] int64, needles counted; `depths[i]` is the start of `needles[i]`'s sentence over the
    length, in [0, 1); `needles[asked]` is asked for with `question` [·] int64; `answer` [value_length] int64
    holds its digits.
    """

    haystack: IntArray
    needles: tuple[Needle, ...]
    asked: int
    depths: tuple[float, ...]
    question: IntArray
    answer: IntArray


def sample_rng(seed: int, index: int) -> np.random.Generator:
    """The generator of sample `index` of a run with `seed`; no two pairs share one."""
    if seed < 0 or index < 0:
        raise UserError(f"a seed and a sample's number must not be negative, not {min(seed, index)}")
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(index,)))


def draw_needles(rng: np.random.Generator, count: int, key_length: int = 4, value_length: int = 6) -> list[Needle]:
    """`count` needles with distinct keys and distinct values. Raises UserError if there are not that many."""
    for name, number in (("needles", count), ("key length", key_length), ("value length", value_length)):
        if number < 1:
            raise UserError(f"{name} must be at least 1, not {number}")
    keys = _distinct_words(rng, count, KEY_ALPHABET, key_length, "keys")
    values = _distinct_words(rng, count, DIGITS, value_length, "values")
    return [Needle(key, value) for key, value in zip(keys, values, strict=True)]


def build_sample(
    rng: np.random.Generator,
    text_tokens: npt.NDArray[np.integer],
    tokenizer: Tokenizer,
    *,
    length: int,
    needles: int = 5,
    key_length: int = 4,
    value_length: int = 6,
    depths: Sequence[float] | None = None,
) -> NeedleSample:
    """A haystack of exactly `length` tokens: a random window of `text_tokens` with whole needles in it.

    A window longer than the text goes round from its end to its start. Each needle stands between two spaces,
    and no two overlap. `depths` (one for each needle, 0 = start, 1 = end) says where the needles are to
    stand, as near as length and the other needles allow; without it each is put between two tokens of the
    text drawn evenly. The needle asked for is drawn evenly. A key that the text itself already asks for is
    drawn anew: each question occurs exactly once.

    Raises UserError if the length is too short for the needles (and says which is the shortest), for more
    needles than there are keys or values, and for text that is empty.
    """
    drawn = draw_needles(rng, needles, key_length, value_length)
    _check_depths(depths, needles)
    space = tokenizer.encode(" ")
    block_lengths = np.array([len(_block(needle, tokenizer, space)) for needle in drawn], dtype=np.int64)
    shortest = int(block_lengths.sum())
    if length < shortest:
        raise UserError(f"a length of {length} tokens is too short for {needles} needles; the shortest is {shortest}")
    if len(text_tokens) == 0:
        raise UserError("the text to cut haystacks from is empty")
    for _ in range(_ATTEMPTS):
        blocks = [_block(needle, tokenizer, space) for needle in drawn]
        lengths = np.array([len(block) for block in blocks], dtype=np.int64)
        text = _window(rng, text_tokens, length - int(lengths.sum()))
        starts = _starts(rng, lengths, length, depths, len(space))
        haystack = _insert(text, blocks, starts, length)
        if _each_question_once(haystack, drawn, tokenizer):
            asked = int(rng.integers(needles))
            return NeedleSample(
                haystack=haystack,
                needles=tuple(drawn),
                asked=asked,
                depths=tuple(float(start + len(space)) / length for start in starts),
                question=tokenizer.encode(drawn[asked].question),
                answer=_digits(drawn[asked], tokenizer),
            )
        drawn = draw_needles(rng, needles, key_length, value_length)
    raise UserError(f"the text to cut haystacks from already holds sentences '{_PREFIX}…': choose another set")


def _distinct_words(rng: np.random.Generator, count: int, alphabet: str, length: int, what: str) -> list[str]:
    """`count` distinct words over the alphabet, every set and order of them equally likely."""
    # Beyond 2**62 there are more words than anyone draws, and their number no longer fits an int64.
    available = len(alphabet) ** length if length * np.log2(len(alphabet)) < 62 else 2**62
    if count > available:
        raise UserError(f"there are only {available} {what} of length {length}; {count} needles need longer {what}")
    if 2 * count > available:
        numbers = rng.permutation(available)[:count]
        return [_word(int(number), alphabet, length) for number in numbers]
    letters = np.array(list(alphabet))
    words: dict[str, None] = {}
    while len(words) < count:
        drawn = letters[rng.integers(len(alphabet), size=(count - len(words), length))]
        words.update(dict.fromkeys("".join(row) for row in drawn))
    return list(words)


def _word(number: int, alphabet: str, length: int) -> str:
    letters = []
    for _ in range(length):
        number, letter = divmod(number, len(alphabet))
        letters.append(alphabet[letter])
    return "".join(letters)


def _check_depths(depths: Sequence[float] | None, needles: int) -> None:
    if depths is None:
        return
    if len(depths) != needles:
        raise UserError(f"{needles} needles need {needles} depths, not {len(depths)}")
    for depth in depths:
        if not 0 <= depth <= 1:
            raise UserError(f"a depth must be between 0 and 1, not {depth}")


def _digits(needle: Needle, tokenizer: Tokenizer) -> IntArray:
    """One token for each digit, whatever a tokenizer would make of the whole number."""
    return np.concatenate([tokenizer.encode(digit) for digit in needle.value])


def _block(needle: Needle, tokenizer: Tokenizer, space: IntArray) -> IntArray:
    """What is inserted: the sentence between two spaces, tokenised as question and answer are."""
    return np.concatenate(
        [space, tokenizer.encode(needle.question), _digits(needle, tokenizer), tokenizer.encode("."), space]
    )


def _window(rng: np.random.Generator, text: npt.NDArray[np.integer], length: int) -> IntArray:
    if length <= len(text):
        start = int(rng.integers(len(text) - length + 1))
        return text[start : start + length].astype(np.int64)
    start = int(rng.integers(len(text)))
    return np.resize(np.roll(text, -start), length).astype(np.int64)


def _starts(
    rng: np.random.Generator,
    lengths: IntArray,
    length: int,
    depths: Sequence[float] | None,
    margin: int,
) -> list[int]:
    """Where each block starts, in the order of the blocks; they do not overlap and end by `length`.

    A block's sentence starts `margin` tokens after the block.
    """
    count = len(lengths)
    free = length - int(lengths.sum())
    if depths is None:
        order = rng.permutation(count)
        gaps = np.sort(rng.integers(free + 1, size=count))
        before = np.concatenate([[0], np.cumsum(lengths[order])[:-1]])
        placed = gaps + before
    else:
        order = np.argsort(np.asarray(depths), kind="stable")
        wanted = np.round(np.asarray(depths, dtype=np.float64)[order] * length).astype(np.int64) - margin
        ends = np.cumsum(lengths[order])
        before = ends - lengths[order]
        # In text coordinates (needles taken out) the blocks need only be in order and within 0..free.
        placed = np.clip(np.maximum.accumulate(wanted - before), 0, free) + before
    starts = np.empty(count, dtype=np.int64)
    starts[order] = placed
    return [int(start) for start in starts]


def _insert(text: IntArray, blocks: Sequence[IntArray], starts: Sequence[int], length: int) -> IntArray:
    haystack = np.empty(length, dtype=np.int64)
    is_text = np.ones(length, dtype=bool)
    for block, start in zip(blocks, starts, strict=True):
        haystack[start : start + len(block)] = block
        is_text[start : start + len(block)] = False
    haystack[is_text] = text
    return haystack


def _each_question_once(haystack: IntArray, needles: Sequence[Needle], tokenizer: Tokenizer) -> bool:
    """Whether the haystack asks for no needle's key outside the needle itself."""
    prefix = tokenizer.encode(_PREFIX)
    found = np.flatnonzero(haystack[: len(haystack) - len(prefix) + 1] == prefix[0])
    for offset in range(1, len(prefix)):
        found = found[haystack[found + offset] == prefix[offset]]
    if len(found) == len(needles):
        return True
    questions = [tokenizer.encode(needle.question) for needle in needles]
    for question in questions:
        places = found[found + len(question) <= len(haystack)]
        if sum(np.array_equal(haystack[p : p + len(question)], question) for p in places.tolist()) != 1:
            return False
    return True
