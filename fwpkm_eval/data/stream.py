"""A text set as one stream of tokens, and the stream cut into segments that score every token exactly once.

The stream is EOS d0 EOS d1 EOS … dn EOS: it starts with EOS and every document ends with one. The first EOS
is only ever an input; every later token is a target exactly once. Document i is tokens[document_starts[i] :
document_starts[i + 1]], its closing EOS included (a stream cut by `max_tokens` may end inside a document).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from fwpkm_eval.data.tokenizers import IntArray, Tokenizer
from fwpkm_eval.data.types import TextSet
from fwpkm_eval.errors import UserError


@dataclass(frozen=True)
class TokenStream:
    """`tokens` [n] int64; `document_starts` [documents] int64; `byte_counts` [n] int32, text per token."""

    tokens: IntArray
    document_starts: IntArray
    byte_counts: npt.NDArray[np.int32]

    @property
    def n_targets(self) -> int:
        """Tokens that are scored: all but the first."""
        return len(self.tokens) - 1

    def n_text_bytes(self, start: int = 1, stop: int | None = None) -> int:
        """Bytes of text in tokens[start:stop]; the whole stream by default."""
        return int(self.byte_counts[start:stop].sum(dtype=np.int64))

    def document_indices(self, start: int = 1, stop: int | None = None) -> IntArray:
        """The document of each of tokens[start:stop], by index; a document's closing EOS belongs to it."""
        where = self._places(start, stop)
        return np.searchsorted(self.document_starts, where, side="right").astype(np.int64) - 1

    def document_positions(self, start: int = 1, stop: int | None = None) -> IntArray:
        """The position of each of tokens[start:stop] within its document, whose first token is at 0."""
        return self._places(start, stop) - self.document_starts[self.document_indices(start, stop)]

    def part(self, start: int, stop: int) -> TokenStream:
        """tokens[start:stop] as a stream of its own, whose first token is only read.

        A document begun before it counts as starting with its second token.
        """
        starts = self.document_starts[(self.document_starts > start + 1) & (self.document_starts < stop)] - start
        starts = np.concatenate([np.ones(1, dtype=np.int64), starts])
        return TokenStream(self.tokens[start:stop], starts, self.byte_counts[start:stop])

    def _places(self, start: int, stop: int | None) -> IntArray:
        if start < 1:
            raise ValueError("the first token of a stream belongs to no document")
        # Never an array over the whole stream: a stream is read in thousands of segments.
        return np.arange(start, len(self.tokens) if stop is None else min(stop, len(self.tokens)), dtype=np.int64)


@dataclass(frozen=True)
class Segment:
    """A run of predictions: `targets[i]` (token `start + 1 + i` of the stream) is predicted from `inputs[: i
    + 1]`.

    `inputs`, `targets` [T] int64; `document_positions` [T] int64 are of the targets. `inputs, targets = segment`
    unpacks the first two.
    """

    start: int
    inputs: IntArray
    targets: IntArray
    document_positions: IntArray

    def __iter__(self) -> Iterator[IntArray]:
        return iter((self.inputs, self.targets))

    def __len__(self) -> int:
        """Number of targets (not of the unpacked parts)."""
        return len(self.targets)

    @property
    def starts_document(self) -> bool:
        """Whether the first target is the first token of a document."""
        return bool(self.document_positions[0] == 0)


def token_stream(text_set: TextSet, tokenizer: Tokenizer, max_tokens: int | None = None) -> TokenStream:
    """The set's documents in order as one stream.

    `max_tokens` bounds the targets, the tokens that are scored: the stream then has at most `max_tokens + 1`
    tokens and documents past the limit are not even tokenised. Raises UserError for a set without a document.
    """
    if not text_set.documents:
        raise UserError(f"set {text_set.name!r}, split {text_set.split!r} holds no documents")
    if max_tokens is not None and max_tokens < 1:
        raise UserError(f"a token budget must be at least 1, not {max_tokens}")
    eos = np.array([tokenizer.eos], dtype=np.int64)
    pieces: list[IntArray] = [eos]
    starts: list[int] = []
    length = 1
    limit = None if max_tokens is None else max_tokens + 1
    for document in text_set.documents:
        if limit is not None and length >= limit:
            break
        ids = tokenizer.encode(document.text)
        starts.append(length)
        pieces += [ids, eos]
        length += len(ids) + 1
    tokens = np.concatenate(pieces)[:limit]
    return TokenStream(tokens, np.array(starts, dtype=np.int64), tokenizer.byte_counts(tokens))


def segments(stream: TokenStream, length: int, within_documents: bool = False) -> Iterator[Segment]:
    """Cut a stream into segments of `length` targets, in order, every token after the first a target exactly
    once.

    The last segment may be shorter. A segment's first input is the token before its first target. With
    `within_documents` a segment never goes past the end of a document, so the last one of each document may
    be shorter (for memory that returns to its start between documents).
    """
    if length < 1:
        raise UserError(f"a segment must hold at least 1 token, not {length}")
    end = len(stream.tokens)
    bounds = [1, *stream.document_starts[1:].tolist(), end] if within_documents else [1, end]
    for first, stop in pairwise(bounds):
        for begin in range(first, stop, length):
            until = min(begin + length, stop)
            yield Segment(
                start=begin - 1,
                inputs=stream.tokens[begin - 1 : until - 1],
                targets=stream.tokens[begin:until],
                document_positions=stream.document_positions(begin, until),
            )
