"""Documents of LongCrawl64, decoded to text: rows of an array of GPT-2 ids, or a file in which 50256 ends a document.

Source: https://manifestai.com/articles/longcrawl64 (documents of 65,536 tokens, each cut to that length).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from fwpkm_eval.data.corpora.records import Position, Record, Source, text_record
from fwpkm_eval.data.corpora.token_array import Say, TokenArray
from fwpkm_eval.data.corpora.token_checks import END_TOKEN, check_tokens
from fwpkm_eval.data.corpora.token_file import BLOCK_TOKENS, TokenFile
from fwpkm_eval.errors import UserError

Decoder = Callable[[list[int]], bytes]
"""GPT-2 ids to the bytes that they stand for."""

MAX_DOCUMENT_TOKENS = 2**22


def gpt2_decoder() -> Decoder:
    """GPT-2's own, of tiktoken. Raises UserError if tiktoken or its vocabulary is missing."""
    try:
        import tiktoken
    except ImportError as error:
        raise UserError("to decode GPT-2 ids, tiktoken is needed: pip install 'fwpkm-eval[hub]'") from error
    try:
        return tiktoken.get_encoding("gpt2").decode_bytes
    except (OSError, ValueError) as error:  # not fetched (requests' are OSErrors), not kept, or not what was expected
        raise UserError(
            "to decode GPT-2 ids, tiktoken needs GPT-2's vocabulary, which it fetches once and could not: "
            f"{type(error).__name__}; connect, or point TIKTOKEN_CACHE_DIR to a folder that has it"
        ) from error


def longcrawl_source(
    source: str, split: str, revision: str | None = None, decode: Decoder | None = None, say: Say = lambda line: None
) -> Source:
    """The documents at an address: of an array if its name ends in .zarr, else of a file of tokens."""
    if source.rstrip("/").endswith(".zarr"):
        return LongCrawlRows(TokenArray(source, revision, say=say), split, decode)
    return LongCrawlSource(source, split, decode)


class LongCrawlRows:
    """Documents of an array of tokens, a row each.

    A position is [row, missing]: the next document's, and how many blocks of rows before it this copy lacks. Those are
    left out, and counted in `where`. Bytes at a document's two ends that are no whole character, since the document
    was cut there, are left out, too.
    """

    def __init__(self, array: TokenArray, split: str, decode: Decoder | None = None) -> None:
        self._array, self._split = array, split
        self._decode = decode or gpt2_decoder()
        self._missing = 0
        self.revision = array.revision

    @property
    def where(self) -> str:
        """The array's address, and how many blocks of rows were missing among those that were asked for."""
        blocks = "block" if self._missing == 1 else "blocks"
        gone = f" ({self._missing:,} {blocks} of {self._array.block_rows:,} rows missing)" if self._missing else ""
        return self._array.where + gone

    def records(self, start: Position | None) -> Iterator[Record]:
        array = self._array
        begin, self._missing = (start[0], start[1]) if start else (0, 0)
        if begin > array.rows:
            raise UserError(f"{array.where} has {array.rows:,} rows now, fewer than were read before ({begin:,})")
        for block in range(begin // array.block_rows, array.blocks):
            first = block * array.block_rows
            found = array.block(block)
            if found is None:
                self._missing += 1
                continue
            for row in range(max(begin - first, 0), len(found)):
                check_tokens(f"{array.where}, row {first + row:,},", 0, found[row])
                tokens = found[row][found[row] != END_TOKEN]
                text = whole_characters(self._decode(tokens.tolist()))
                yield text_record(f"{self._split}:{first + row}", text, [first + row + 1, self._missing])
        if self._missing == array.blocks:
            raise UserError(f"{array.where} holds none of its {array.blocks:,} blocks of rows whole")


class LongCrawlSource:
    """Documents of one token file. A position is [token], where the next document begins.

    A document without an end token, which the end of the file cuts, is left out. Bytes at a document's two ends that
    are no whole character, since the document was cut there, are left out, too.
    """

    def __init__(
        self,
        source: str,
        split: str,
        decode: Decoder | None = None,
        open_file: Callable[[str], TokenFile] = TokenFile,
    ) -> None:
        self._file = open_file(source)
        self._split = split
        self._decode = decode or gpt2_decoder()
        self.where = self._file.where
        self.revision: str | None = None

    def records(self, start: Position | None) -> Iterator[Record]:
        begin = start[0] if start else 0
        if begin > len(self._file):
            raise UserError(f"{self.where} has {len(self._file):,} tokens now, fewer than were read before ({begin:,})")
        pending: list[np.ndarray] = []
        at = begin  # the first token not yet fetched
        found = False
        while at < len(self._file):
            tokens = self._file.read(at, BLOCK_TOKENS)
            first = 0
            for end in np.flatnonzero(tokens == END_TOKEN).tolist():
                found = True
                document = np.concatenate([*pending, tokens[first:end]])
                pending = []
                first = end + 1
                text = whole_characters(self._decode(document.tolist()))
                yield text_record(f"{self._split}:{begin}", text, [at + first])
                begin = at + first
            pending.append(tokens[first:])
            at += len(tokens)
            if at - begin > MAX_DOCUMENT_TOKENS:
                raise UserError(
                    f"{self.where} holds no end of a document ({END_TOKEN}) in the {at - begin:,} tokens from "
                    f"{begin:,} on: it is no token file of LongCrawl64"
                )
        if not found and not start:
            raise UserError(f"{self.where} holds no whole document: no token is {END_TOKEN}")


def whole_characters(raw: bytes) -> str:
    """The text of UTF-8 bytes that were cut at both ends; damage within becomes U+FFFD."""
    first = 0
    while first < min(3, len(raw)) and raw[first] & 0xC0 == 0x80:
        first += 1
    last = len(raw)
    for back in range(1, min(3, last - first) + 1):
        lead = raw[last - back]
        if lead & 0xC0 != 0x80:
            if lead >= 0xC0 and back < (2 if lead < 0xE0 else 3 if lead < 0xF0 else 4):
                last -= back
            break
    return raw[first:last].decode("utf-8", errors="replace")
