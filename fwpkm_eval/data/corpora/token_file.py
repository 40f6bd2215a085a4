"""Ranges of a file of GPT-2 token ids (uint16, little-endian), on this machine or over http.

Only the ranges that are asked for are fetched, a block at a time: 8 M tokens of a file of 100 GB cost 16 MB. What
comes is checked: its length, ids that GPT-2 does not have, and runs of zeros.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from fwpkm_eval.data.corpora import WITHOUT_NETWORK
from fwpkm_eval.errors import UserError, shown

BLOCK_TOKENS = 2**19
ATTEMPTS = 5
END_TOKEN = 50256
MAX_ZERO_RUN = 64
"""GPT-2's id 0 is "!", and longer rows of "!" have ids of their own: so many zeros in a row are no text."""
MAX_ZERO_SHARE = 0.1
"""Of a block: 32-bit ids read as 16-bit ones are nearly half zeros."""

_WAIT = 1.0


def address(source: str) -> str:
    """What is opened for a source: a public object of Google Cloud Storage (gs://) has an https address, too."""
    return f"https://storage.googleapis.com/{source[5:]}" if source.startswith("gs://") else source


class TokenFile:
    """A file of uint16 token ids; `len()` is its tokens, `where` its address.

    Raises UserError, in one line, for a file that is not there, has no length or an odd one, is shorter than
    announced, or comes from a server that does not answer ranges. A connection that is cut is tried again from the
    block where it was cut, `ATTEMPTS` times in a row at most.
    """

    def __init__(self, source: str, wait: Callable[[float], None] = time.sleep) -> None:
        self.where = address(source)
        self._wait = wait
        self._zeros = 0  # at the end of what was read
        self._next = 0
        self._file, self.size = self._open()
        if not self.size:
            raise UserError(f"{self.where} is empty")
        if self.size % 2:
            raise UserError(f"{self.where} has {self.size:,} bytes, an odd number: it is no file of 16-bit token ids")

    def __len__(self) -> int:
        return self.size // 2

    def close(self) -> None:
        self._file.close()

    def read(self, start: int, count: int) -> npt.NDArray[np.uint16]:
        """Tokens `start` to `start + count` [count], fewer only at the end of the file; checked as said above."""
        stop = min(start + count, len(self))
        tokens = np.frombuffer(self._bytes(2 * start, 2 * stop), dtype="<u2").astype(np.uint16, copy=False)
        self._check(start, tokens)
        return tokens

    def _open(self) -> tuple[Any, int]:
        import fsspec

        http = self.where.startswith(("http://", "https://"))
        try:
            system, path = fsspec.core.url_to_fs(self.where, **({"client_kwargs": {"trust_env": True}} if http else {}))
            facts = system.info(path)
            if facts.get("size") is None or facts.get("partial") is False:
                raise UserError(f"{self.where} is served without ranges or without its length: {_DOWNLOAD}")
            # No cache of blocks: what is read is read once. The size, given, saves asking for it again.
            known = {"size": facts["size"]} if http else {}
            file = system.open(path, "rb", block_size=2 * BLOCK_TOKENS, cache_type="none", **known)
            return file, int(facts["size"])
        except UserError:
            raise
        except ImportError as error:
            raise UserError(f"cannot read {self.where}: {_first_line(error)}") from error
        except Exception as error:  # one of many libraries': each has exceptions of its own
            raise UserError(f"cannot read {self.where}: {_reason(error)}; {_OTHERWISE}") from error

    def _bytes(self, start: int, stop: int) -> bytes:
        got = bytearray()
        failures = 0
        while len(got) < stop - start:
            try:
                self._file.seek(start + len(got))
                piece = self._file.read(stop - start - len(got))
            except ValueError as error:  # fsspec's word for a server that sends all in place of a range
                raise UserError(f"{self.where} is served without ranges: {_DOWNLOAD}") from error
            except Exception as error:  # a cut connection; aiohttp's exceptions are not all OSErrors
                failures += 1
                if failures == ATTEMPTS:
                    raise UserError(
                        f"cannot read {self.where} from byte {start + len(got):,} on, tried {ATTEMPTS} times: "
                        f"{_reason(error)}"
                    ) from error
                self._wait(_WAIT * 2 ** (failures - 1))
                continue
            if not piece:
                raise UserError(
                    f"{self.where} is cut short: it ends at byte {start + len(got):,} of {self.size:,} announced"
                )
            got += piece
            failures = 0
        return bytes(got)

    def _check(self, start: int, tokens: npt.NDArray[np.uint16]) -> None:
        if len(tokens) and int(tokens.max()) > END_TOKEN:
            bad = start + int(np.argmax(tokens > END_TOKEN))
            raise UserError(
                f"{self.where} holds {int(tokens[bad - start])} at token {bad:,}: GPT-2's ids end at {END_TOKEN}"
            )
        before = self._zeros if start == self._next else 0
        run, at, self._zeros = _zero_runs(tokens, before)
        self._next = start + len(tokens)
        share = float(np.mean(tokens == 0)) if len(tokens) >= 1024 else 0.0
        if run >= MAX_ZERO_RUN or share > MAX_ZERO_SHARE:
            row = f"{run:,} zeros in a row from token {start + at:,} on"
            what = row if run >= MAX_ZERO_RUN else f"{share:.0%} zeros from token {start:,} on"
            raise UserError(f"{self.where} holds {what}: that is no text; take another copy (--source)")


_DOWNLOAD = "download it and give its path as --source"
_OTHERWISE = f"give a copy of the file as --source, or {WITHOUT_NETWORK}"


def _zero_runs(tokens: npt.NDArray[np.uint16], before: int) -> tuple[int, int, int]:
    """The longest run of zeros and where it starts, `before` zeros counted with the first; and the run at the end."""
    marks = np.concatenate([[False], tokens == 0, [False]])
    edges = np.flatnonzero(marks[1:] != marks[:-1])
    starts, stops = edges[::2], edges[1::2]
    if not len(starts):
        return 0, 0, 0 if len(tokens) else before
    lengths = stops - starts
    first = starts.copy()
    if starts[0] == 0:
        lengths[0] += before
        first[0] -= before
    longest = int(np.argmax(lengths))
    return int(lengths[longest]), int(first[longest]), int(lengths[-1]) if stops[-1] == len(tokens) else 0


def _reason(error: BaseException) -> str:
    """An HTTP status where there is one (fsspec says FileNotFoundError for all of them), else what went wrong."""
    cause: BaseException | None = error
    while cause is not None:
        status = getattr(cause, "status", None)
        if isinstance(status, int) and status:
            return f"the server answers {status} {getattr(cause, 'message', '')}".rstrip()
        if isinstance(cause, ConnectionError) or "Connect" in type(cause).__name__ or "Timeout" in type(cause).__name__:
            return f"no connection ({_first_line(cause)})"
        if cause.__cause__ is None and cause is not error:
            return _first_line(cause)
        cause = cause.__cause__
    return "there is no such file" if isinstance(error, FileNotFoundError) else _first_line(error)


def _first_line(error: BaseException) -> str:
    text = (str(error).strip().splitlines() or [""])[0]
    return shown(text, 160)[1:-1] if text else type(error).__name__
