"""Rows of GPT-2 token ids of a zarr array (format 2), on this machine, over http or on the Hugging Face hub.

The array is a folder of chunks; a block of rows is one chunk high. zarr itself fills what is not there with zeros and
says nothing, and copies of LongCrawl64 are known to lack most of their chunks: here a block that lacks a chunk is
missing, and whoever reads is told so.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from fwpkm_eval.data.corpora.remote import OTHERWISE, address, file_system, first_line, reason, try_again
from fwpkm_eval.errors import UserError, shown

Say = Callable[[str], None]

SAY_EVERY = 5.0
"""Seconds between two words on a block that is being fetched."""

_NEEDED = {"zarr_format": 2, "dtype": "<u2", "order": "C", "filters": None}
_HUB = "hf://datasets/"


class TokenArray:
    """A two-dimensional zarr array of uint16 token ids: `rows` documents of `tokens` tokens, `block_rows` to a block.

    `where` is its address; on the hub it names the commit that is read, `revision`, which is looked up unless given.
    Raises UserError, in one line, for an array that is not there or is another kind of array, and for a chunk that is
    damaged. A connection that is cut is tried again.
    """

    def __init__(
        self,
        source: str,
        revision: str | None = None,
        wait: Callable[[float], None] = time.sleep,
        say: Say = lambda line: None,
    ) -> None:
        self._wait, self._say = wait, say
        self.where, self.revision = _at_revision(address(source).rstrip("/"), revision)
        layout, sizes = self._layout()
        self.rows, self.tokens, self.block_rows, self._columns = sizes
        self._separator = layout.get("dimension_separator", ".")
        self._codec = self._decoder(layout["compressor"])

    @property
    def blocks(self) -> int:
        return -(-self.rows // self.block_rows)

    def block(self, number: int) -> npt.NDArray[np.uint16] | None:
        """Rows `number`·block_rows on [≤ block_rows, tokens], None where a chunk of theirs is missing."""
        rows = min(self.block_rows, self.rows - number * self.block_rows)
        found = np.empty((rows, self.tokens), dtype=np.uint16)
        began, fetched = time.monotonic(), 0
        said = began
        count = -(-self.tokens // self._columns)
        for column in range(count):
            raw = self._chunk(number, column)
            if raw is None:
                return None
            fetched += len(raw)
            start = column * self._columns
            width = min(self._columns, self.tokens - start)
            found[:, start : start + width] = self._decoded(raw, number, column)[:rows, :width]
            now = time.monotonic()
            if now - said >= SAY_EVERY and column + 1 < count:
                said = now
                rate = fetched / (now - began)
                left = fetched / (column + 1) * (count - column - 1) / rate
                self._say(
                    f"{self.where}: rows from {number * self.block_rows:,} on: chunk {column + 1} of {count}, "
                    f"{fetched / 1e6:,.1f} MB, {rate / 1e6:,.1f} MB/s, {left:,.0f} s left"
                )
        return found

    def _layout(self) -> tuple[dict[str, Any], tuple[int, int, int, int]]:
        """What .zarray says, and from it rows, tokens of a row, rows of a chunk and its tokens."""
        try:
            self._system, self._path = file_system(self.where)
            raw = try_again(f"{self.where}/.zarray", lambda: self._system.cat_file(f"{self._path}/.zarray"), self._wait)
        except UserError:
            raise
        except ImportError as error:
            raise UserError(f"cannot read {self.where}: {first_line(error)}") from error
        except Exception as error:  # one of many libraries': each has exceptions of its own
            raise UserError(f"cannot read {self.where}/.zarray: {reason(error)}; {OTHERWISE}") from error
        try:
            layout = json.loads(raw)
            shape, chunks = ([int(size) for size in layout[key]] for key in ("shape", "chunks"))
            wrong = [key for key, value in _NEEDED.items() if layout.get(key) != value]
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(f"{self.where}/.zarray does not describe an array: {first_line(error)}") from error
        if wrong or len(shape) != 2 or len(chunks) != 2 or min(*shape, *chunks) < 1:
            what = f"{wrong[0]} {layout.get(wrong[0])!r}" if wrong else f"shape {shape} and chunks {chunks}"
            raise UserError(
                f"{self.where} is not an array of token ids: it has {shown(what, 80)[1:-1]}; "
                "rows of <u2 in zarr's format 2 are wanted"
            )
        return dict(layout), (shape[0], shape[1], chunks[0], chunks[1])

    def _decoder(self, compressor: dict[str, Any] | None) -> Any:
        if compressor is None:
            return None
        try:
            from numcodecs.registry import get_codec
        except ImportError as error:
            raise UserError(f"to read {self.where}, numcodecs is needed: pip install 'fwpkm-eval[hub]'") from error
        try:
            return get_codec(dict(compressor))
        except Exception as error:  # of each codec its own: some read a type with numpy, which may be a SyntaxError
            raise UserError(f"{self.where} is compressed in a way that is not known: {first_line(error)}") from error

    def _chunk(self, block: int, column: int) -> bytes | None:
        name = f"{block}{self._separator}{column}"
        try:
            return bytes(
                try_again(f"{self.where}/{name}", lambda: self._system.cat_file(f"{self._path}/{name}"), self._wait)
            )
        except FileNotFoundError:
            return None

    def _decoded(self, raw: bytes, block: int, column: int) -> npt.NDArray[np.uint16]:
        name = f"{self.where}/{block}{self._separator}{column}"
        try:
            content = raw if self._codec is None else self._codec.decode(raw)
            return np.frombuffer(content, dtype="<u2").reshape(self.block_rows, self._columns)
        except Exception as error:  # of each codec its own
            raise UserError(f"{name} is damaged: {first_line(error)}; take another copy (--source)") from error


def _at_revision(where: str, revision: str | None) -> tuple[str, str | None]:
    """An address on the hub with the commit in it; any other as it is."""
    if not where.startswith(_HUB):
        return where, None
    owner, _, rest = where.removeprefix(_HUB).partition("/")
    name, *path = rest.split("/")
    if not (owner and name and path):
        raise UserError(f"{where} names no array of a data set: give {_HUB}OWNER/NAME/ARRAY.zarr")
    name, _, named = name.partition("@")
    if revision is None:
        from fwpkm_eval.data.corpora.hub import newest_revision

        try:
            revision = newest_revision(f"{owner}/{name}", named or None)
        except ImportError as error:
            raise UserError(
                f"to read {where}, the package {error.name} is needed: pip install 'fwpkm-eval[hub]'"
            ) from error
        except Exception as error:  # of the hub's library
            raise UserError(f"cannot read {where}: {reason(error)}; {OTHERWISE}") from error
    return "/".join([f"{_HUB}{owner}", f"{name}@{revision}", *path]), revision
