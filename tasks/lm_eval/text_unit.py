"""What a length counts in texts for any model, and how the end of a document is written in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fwpkm_eval.data.tokenizers import ByteTokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from fwpkm_eval.data.tokenizers import IntArray, Tokenizer


@dataclass(frozen=True)
class TextUnit:
    """``tokenizer`` counts lengths; ``document_end`` is the text that stands for its end token."""

    name: str
    tokenizer: Tokenizer
    document_end: str

    def text(self, ids: npt.NDArray[np.integer]) -> str:
        """The ids as text. Bytes that make no character (a window may cut one in two) become ``?``, one each."""
        pieces = np.split(ids, np.flatnonzero(ids == self.tokenizer.eos))
        texts = [self._decode(piece[piece != self.tokenizer.eos]) for piece in pieces]
        return self.document_end.join(texts)

    def _decode(self, ids: npt.NDArray[np.integer]) -> str:
        if isinstance(self.tokenizer, ByteTokenizer):
            text = ids.astype(np.uint8).tobytes().decode("utf-8", errors="surrogateescape")
            return re.sub("[\udc80-\udcff]", "?", text)
        return self.tokenizer.decode(ids)


BYTES = TextUnit("bytes", ByteTokenizer(), "\n")
"""For models that show no tokenizer: lengths are bytes of UTF-8, and a line ends a document."""

_current: ContextVar[TextUnit] = ContextVar("_current", default=BYTES)


def current_unit() -> TextUnit:
    """What lengths count here: bytes, unless `lengths_in_tokens_of` says otherwise."""
    return _current.get()


@contextmanager
def lengths_in_tokens_of(lm: Any) -> Iterator[TextUnit]:
    """Within it, tasks that are loaded count lengths in the tokens of ``lm``, an lm-eval model.

    A model without a tokenizer that it shows (``tok_encode`` and ``tok_decode``), or with one that does not keep a
    number whose digits are tokenised one by one, is counted in bytes.
    """
    unit = unit_of(lm)
    token = _current.set(unit)
    try:
        yield unit
    finally:
        _current.reset(token)


def unit_of(lm: Any) -> TextUnit:
    """What lengths count for an lm-eval model."""
    unit = getattr(lm, "text_unit", None)
    if isinstance(unit, TextUnit):
        return unit
    if callable(getattr(lm, "tok_encode", None)) and callable(getattr(lm, "tok_decode", None)):
        tokenizer = LmTokenizer(lm)
        if not tokenizer.joins_parts:
            return BYTES
        end = lm.tok_decode([tokenizer.eos])
        # A tokenizer that does not read its own end token in a text gets a new line instead.
        known = isinstance(end, str) and tokenizer.encode(end).tolist() == [tokenizer.eos]
        return TextUnit(tokenizer.name, tokenizer, end if known else "\n")
    return BYTES


class LmTokenizer:
    """The tokenizer that an lm-eval model shows, as our data code takes it: the ids of parts are those of their whole.

    Some (Llama 2's, Mistral's) put a space before every text, and so one before each digit of a needle, which is
    tokenised by itself. Their ids are those of the text behind a new line, without the new line's.
    """

    fingerprint: str | None = None

    def __init__(self, lm: Any) -> None:
        self._lm = lm
        self.eos = int(lm.eot_token_id)
        self.vocab_size = int(getattr(lm, "vocab_size", 0))
        try:
            self.name = str(lm.tokenizer_name)
        except (AttributeError, NotImplementedError):
            self.name = type(lm).__name__
        self._before: list[int] = []
        if not self.joins_parts:
            self._before = self._ids("\n")

    @property
    def joins_parts(self) -> bool:
        """Whether parts that are tokenised one by one are their whole again when they are read as text together."""
        parts = ("number is ", *"1234", ". ")
        return "".join(parts).strip() in self.decode(np.concatenate([self.encode(part) for part in parts]))

    def encode(self, text: str) -> IntArray:
        ids = self._ids(f"\n{text}" if self._before else text)
        if self._before and ids[: len(self._before)] == self._before:
            return np.array(ids[len(self._before) :], dtype=np.int64)
        return np.array(self._ids(text) if self._before else ids, dtype=np.int64)

    def _ids(self, text: str) -> list[int]:
        return [int(token) for token in self._lm.tok_encode(text, add_special_tokens=False)]

    def decode(self, ids: Sequence[int] | npt.NDArray[np.integer]) -> str:
        text: str = self._lm.tok_decode([int(token) for token in ids])
        return text

    def byte_counts(self, ids: npt.NDArray[np.integer]) -> npt.NDArray[np.int32]:
        """Bytes of each token decoded alone; 0 for the end token."""
        distinct, places = np.unique(np.asarray(ids), return_inverse=True)
        counts = [0 if token == self.eos else len(self.decode([int(token)]).encode("utf-8")) for token in distinct]
        return np.array(counts, dtype=np.int32)[places]
