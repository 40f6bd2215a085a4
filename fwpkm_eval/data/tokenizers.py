"""Tokenizers by name: at scale micro a token is a byte of UTF-8, and one more id ends a document; at the others the
pieces are those of the paper (`fwpkm_eval.data.mistral`)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Protocol

import numpy as np
import numpy.typing as npt

from fwpkm_eval.errors import unknown

IntArray = npt.NDArray[np.int64]


class Tokenizer(Protocol):
    """What the data code needs of a tokenizer. `eos` is an id that `encode` never produces from text. `fingerprint`
    tells its pieces from all others'; where it is None (or unknown) its tokens are not cached."""

    name: str
    fingerprint: str | None
    vocab_size: int
    eos: int

    def encode(self, text: str) -> IntArray: ...

    def decode(self, ids: Sequence[int] | npt.NDArray[np.integer]) -> str: ...

    def byte_counts(self, ids: npt.NDArray[np.integer]) -> npt.NDArray[np.int32]: ...


class ByteTokenizer:
    """UTF-8 bytes 0..255 and an end-of-document id, 256. Nothing to train, and bits per byte are exact."""

    name = "bytes"
    fingerprint: str | None = None  # faster than reading a cache
    vocab_size = 257
    eos = 256

    def encode(self, text: str) -> IntArray:
        """[n] int64, one id for each byte of the text in UTF-8."""
        return np.frombuffer(text.encode("utf-8"), dtype=np.uint8).astype(np.int64)

    def decode(self, ids: Sequence[int] | npt.NDArray[np.integer]) -> str:
        """Text of the ids. Ends of documents are left out; bytes that are not UTF-8 become U+FFFD.

        Raises ValueError for an id outside 0..256.
        """
        array = np.asarray(ids, dtype=np.int64).reshape(-1)
        if array.size and (array.min() < 0 or array.max() >= self.vocab_size):
            raise ValueError(f"token ids must be in 0..{self.vocab_size - 1}")
        return array[array != self.eos].astype(np.uint8).tobytes().decode("utf-8", errors="replace")

    def byte_counts(self, ids: npt.NDArray[np.integer]) -> npt.NDArray[np.int32]:
        """[n] int32, bytes of text each id stands for: 1 for a byte, 0 for the end of a document."""
        return (np.asarray(ids) != self.eos).astype(np.int32)


@cache
def tokenizer_named(name: str) -> Tokenizer:
    """The tokenizer called `name` in a model's configuration, made once in a process.

    Raises UserError for a name that there is not, and where the packages of one are missing.
    """
    if name == ByteTokenizer.name:
        return ByteTokenizer()
    if name == "mistral":
        from fwpkm_eval.data.mistral import MistralTokenizer

        return MistralTokenizer()
    raise unknown("tokenizer", name, [ByteTokenizer.name, "mistral"])
