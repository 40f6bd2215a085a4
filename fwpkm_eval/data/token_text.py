"""A split's documents as tokens: in memory, or as memory maps of shards on a disk, read in the same way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fwpkm_eval.data.tokenizers import IntArray, Tokenizer
from fwpkm_eval.data.types import TextSet

Tokens = npt.NDArray[Any]
"""Token ids of any integer type, in memory or mapped."""


@dataclass(frozen=True)
class TokenText:
    """Documents one after the other, each with an end token after it.

    `parts` hold whole documents; `ends[i]` [documents of part i] int64 says where each one's end token is in its part.
    `data_hash` names the text by its hash.
    """

    parts: tuple[Tokens, ...]
    ends: tuple[IntArray, ...]
    data_hash: str

    def __len__(self) -> int:
        """Tokens in all, end tokens included."""
        return sum(len(part) for part in self.parts)

    def documents(self) -> list[Tokens]:
        """Each document without its end token, in order; views, so that nothing is read or copied."""
        found = []
        for part, ends in zip(self.parts, self.ends, strict=True):
            starts = np.concatenate([np.zeros(1, dtype=np.int64), ends[:-1] + 1]) if len(ends) else ends
            found += [part[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
        return found

    def read(self, start: int, stop: int) -> IntArray:
        """[stop − start] int64, the tokens of all parts from start to stop."""
        pieces, before = [], 0
        for part in self.parts:
            pieces.append(np.asarray(part[max(start - before, 0) : max(stop - before, 0)], dtype=np.int64))
            before += len(part)
        return np.concatenate(pieces) if pieces else np.empty(0, dtype=np.int64)

    @staticmethod
    def joined(texts: Sequence[TokenText]) -> TokenText:
        """Several texts as one, in order."""
        return TokenText(
            tuple(part for text in texts for part in text.parts),
            tuple(ends for text in texts for ends in text.ends),
            "+".join(text.data_hash for text in texts),
        )


def token_text(text_set: TextSet, tokenizer: Tokenizer) -> TokenText:
    """A set's tokens in memory: ids of 16 bits where all fit, since a set may be gigabytes."""
    dtype = np.uint16 if tokenizer.vocab_size <= 2**16 else np.int64
    end = np.array([tokenizer.eos], dtype=dtype)
    encoded = [tokenizer.encode(document.text).astype(dtype) for document in text_set.documents]
    ends = np.cumsum([len(document) + 1 for document in encoded], dtype=np.int64) - 1
    tokens = np.concatenate([np.empty(0, dtype=dtype), *(part for document in encoded for part in (document, end))])
    return TokenText((tokens,), (ends,), text_set.sha256[:16])
