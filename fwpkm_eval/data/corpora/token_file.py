"""Ranges of a file of GPT-2 token ids (uint16, little-endian), on this machine or over http.

Only the ranges that are asked for are fetched, a block at a time: 8 M tokens of a file of 100 GB cost 16 MB. What
comes is checked: its length, and its ids (see `token_checks`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from fwpkm_eval.data.corpora.remote import ATTEMPTS, OTHERWISE, address, file_system, first_line, pause, reason
from fwpkm_eval.data.corpora.token_checks import check_tokens
from fwpkm_eval.errors import UserError

BLOCK_TOKENS = 2**19

_DOWNLOAD = "download it and give its path as --source"


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
        self._zeros = check_tokens(self.where, start, tokens, self._zeros if start == self._next else 0)
        self._next = start + len(tokens)
        return tokens

    def _open(self) -> tuple[Any, int]:
        http = self.where.startswith(("http://", "https://"))
        try:
            system, path = file_system(self.where)
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
            raise UserError(f"cannot read {self.where}: {first_line(error)}") from error
        except Exception as error:  # one of many libraries': each has exceptions of its own
            raise UserError(f"cannot read {self.where}: {reason(error)}; {OTHERWISE}") from error

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
                        f"{reason(error)}"
                    ) from error
                pause(failures, self._wait)
                continue
            if not piece:
                raise UserError(
                    f"{self.where} is cut short: it ends at byte {start + len(got):,} of {self.size:,} announced"
                )
            got += piece
            failures = 0
        return bytes(got)
