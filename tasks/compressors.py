"""General compressors on the very text that perplexity scores: what repetition alone is worth, without a model.

A compressor learns from what it has read, as a memory that is written does. Bits per byte of all of the text as one
piece, at the compressor's highest level, headers included: zlib looks back 32 KiB, bzip2 sorts blocks of 900 kB, xz
looks back 64 MiB. The end tokens between documents, which models score, are not in it.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from typing import TYPE_CHECKING

from fwpkm_eval.data.stream import token_stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from fwpkm_eval.data import TextSet
    from fwpkm_eval.data.tokenizers import Tokenizer
    from fwpkm_eval.runs.rows import Row

COMPRESSORS_VERSION = 1
"""Part of every cell's key: raise it whenever a change here can change a number."""


def _xz(text: bytes) -> bytes:
    # Level 9 asks for 64 MiB to look back over, and ten times that to work in, however short the text.
    back = min(max(len(text), 4096), 64 * 2**20)
    return lzma.compress(text, filters=[{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": back}])


COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "zlib": lambda text: zlib.compress(text, 9),
    "bzip2": lambda text: bz2.compress(text, 9),
    "xz": _xz,
}


def compressor_rows(text_set: TextSet, tokens: int | None, tokenizer: Tokenizer) -> list[Row]:
    """``bits_per_byte`` of each compressor, n the text's tokens, for the text of the set's first ``tokens`` tokens
    (None: all of it).

    Raises UserError for an empty set.
    """
    from fwpkm_eval import __version__
    from fwpkm_eval.runs.rows import Row

    stream = token_stream(text_set, tokenizer, tokens)
    size = stream.n_text_bytes()
    begun = text_set.documents[: len(stream.document_starts)]
    text = "".join(document.text for document in begun).encode("utf-8")[:size]
    return [
        Row(
            model=name,
            task="ppl",
            dataset=text_set.name,
            metric="bits_per_byte",
            value=8 * len(compress(text)) / size,
            unit="bits",
            n=int((stream.byte_counts[1:] > 0).sum()),
            scope="stream",
            tokens=stream.n_targets,
            data_hash=text_set.sha256[:16],
            version=__version__,
        )
        for name, compress in COMPRESSORS.items()
        if size
    ]
