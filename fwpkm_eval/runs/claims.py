"""Which cells a process has taken, told to the other processes that work on the same output folder."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from types import TracebackType

try:
    import fcntl
except ImportError:  # no POSIX: processes then may measure the same cell twice, which harms nothing but time
    fcntl = None  # type: ignore[assignment]

_FILE = ".claims"
_BYTES = 2**40
_AT_WORK = _BYTES
"""The byte on which everyone who has the file open holds a shared lock."""


class Claims:
    """Locks on single bytes of ``<out>/.claims``, one byte a cell.

    The system drops a process's locks when it ends, however it ends: no claim outlives its owner, and none has to
    be judged stale. Where locks are not supported every claim is granted; cells are stored whole in any case.
    """

    def __init__(self, out: Path) -> None:
        self._path = Path(out) / _FILE
        self._handle: int | None = None
        if fcntl is not None:
            with contextlib.suppress(OSError):  # a folder that cannot be written is reported where cells are stored
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
                fcntl.lockf(self._handle, fcntl.LOCK_SH | fcntl.LOCK_NB, 1, _AT_WORK)

    def take(self, key: str) -> bool:
        """Whether the cell ``key`` is this process's now: False if another process has it."""
        return self._lock(key, fcntl.LOCK_EX | fcntl.LOCK_NB) if self._handle is not None else True

    def release(self, key: str) -> None:
        """Gives the cell back: it is stored, or could not be measured."""
        if self._handle is not None:
            self._lock(key, fcntl.LOCK_UN)

    def close(self) -> None:
        """Gives all back, and removes the file if nobody else is at work."""
        if self._handle is None:
            return
        with contextlib.suppress(OSError):
            fcntl.lockf(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _AT_WORK)
            self._path.unlink()
        os.close(self._handle)
        self._handle = None

    def __enter__(self) -> Claims:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _lock(self, key: str, how: int) -> bool:
        assert self._handle is not None
        try:
            fcntl.lockf(self._handle, how, 1, int(key, 16) % _BYTES)
        except BlockingIOError:
            return False
        except OSError:
            return True  # a file system without locks
        return True
