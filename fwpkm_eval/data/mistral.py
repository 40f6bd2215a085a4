"""The 32,000-piece tokenizer of Mistral-7B-v0.1, which the paper uses; `mistral-common` carries it in its wheel."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fwpkm_eval.data.tokenizers import IntArray
from fwpkm_eval.errors import UserError

MODEL_FILE = "tokenizer.model.v1"
SHA256 = "dadfd56d766715c61d2ef780a525ab43b8e6da4de6865bda3d95fdef5e134055"
"""Of the model file: other pieces would give other tokens, and so other results under the same name."""

_SPACE = "\u2581"  # how the pieces write a space
_PIECE_CHARACTERS = 4096
"""Texts go to the library in pieces of about this many characters: three times as fast as a whole book at once."""


class MistralTokenizer:
    """SentencePiece BPE with byte fallback; `eos` is 2. Text comes back exactly from its tokens.

    Unlike the library by default, no space is put before a text: tokens of parts that are joined at a line's end are
    those of the whole, a digit is one token, and the bytes of the tokens are those of the text. The first word of a
    document is therefore a word without a space before it.

    Raises UserError where the packages are missing, or hold another tokenizer.
    """

    name = "mistral"
    fingerprint: str | None = SHA256
    vocab_size = 32_000
    eos = 2

    def __init__(self) -> None:
        self._pieces = _load()
        self._bytes = [self._text_of(number) for number in range(self.vocab_size)]
        self._byte_counts = np.array([len(text) for text in self._bytes], dtype=np.int32)
        self._first_byte = self._pieces.piece_to_id("<0x00>")

    def encode(self, text: str) -> IntArray:
        """[n] int64, ids of the text; none of them is `eos`."""
        parts = list(_parts(text))
        # A line's end is always a token of its own, a byte. One in front takes the space that is put before a text,
        # and both are cut off again.
        encoded = self._pieces.encode(["\n" + part for part in parts if part != _SPACE])
        pieces: Iterator[list[int]] = iter(encoded)
        ids = [self._of_bytes(part) if part == _SPACE else next(pieces)[2:] for part in parts]
        return np.concatenate([np.empty(0, dtype=np.int64), *(np.array(part, dtype=np.int64) for part in ids)])

    def decode(self, ids: Sequence[int] | npt.NDArray[np.integer]) -> str:
        """Text of the ids. Ends of documents are left out; bytes that are not UTF-8 become U+FFFD.

        Raises ValueError for an id outside 0..31999.
        """
        array = np.asarray(ids, dtype=np.int64).reshape(-1)
        if array.size and (array.min() < 0 or array.max() >= self.vocab_size):
            raise ValueError(f"token ids must be in 0..{self.vocab_size - 1}")
        return b"".join(self._bytes[number] for number in array.tolist()).decode("utf-8", errors="replace")

    def byte_counts(self, ids: npt.NDArray[np.integer]) -> npt.NDArray[np.int32]:
        """[n] int32, bytes of text each id stands for; 0 for the end of a document."""
        return self._byte_counts[np.asarray(ids, dtype=np.int64)]

    def _of_bytes(self, text: str) -> list[int]:
        return [self._first_byte + byte for byte in text.encode("utf-8")]

    def _text_of(self, number: int) -> bytes:
        pieces = self._pieces
        if pieces.is_control(number) or pieces.is_unknown(number):
            return b""
        piece: str = pieces.id_to_piece(number)
        return bytes([int(piece[3:5], 16)]) if pieces.is_byte(number) else piece.replace(_SPACE, " ").encode("utf-8")


def _parts(text: str) -> Iterator[str]:
    """The text cut where tokens cannot join: after line ends, and around the character that stands for a space in the
    pieces. The library would take such a character for a space, so that the text did not come back."""
    for number, stretch in enumerate(re.split(f"({_SPACE})", text)):
        if number % 2:
            yield stretch
            continue
        start = 0
        while start < len(stretch):
            stop = stretch.find("\n", start + _PIECE_CHARACTERS) + 1 or len(stretch)
            yield stretch[start:stop]
            start = stop


def _load() -> Any:
    try:
        from importlib.resources import files

        from sentencepiece import SentencePieceProcessor

        model = (files("mistral_common") / "data" / MODEL_FILE).read_bytes()
    except ImportError as error:
        raise UserError(
            f"tokenizer 'mistral' needs the package {error.name}: pip install 'fwpkm-eval[tokenizers]'"
        ) from error
    except OSError as error:
        raise UserError(
            f"the installed mistral-common has no {MODEL_FILE}: pip install 'fwpkm-eval[tokenizers]' again"
        ) from error
    found = hashlib.sha256(model).hexdigest()
    if found != SHA256:
        raise UserError(
            f"the installed mistral-common has another {MODEL_FILE} (sha256 {found[:12]}…, not {SHA256[:12]}…)"
        )
    return SentencePieceProcessor(model_proto=model)
