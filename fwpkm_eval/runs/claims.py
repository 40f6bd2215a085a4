"""Who is at what in an output folder that several processes work on: which cells are taken, who writes the results."""

from __future__ import annotations

import contextlib
import os
import platform
import zlib
from collections.abc import Iterator
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
_RESULTS = _BYTES + 1
"""The byte of whoever writes what is made of all cells: rows.csv, manifest, report."""
_MACHINES = _BYTES + 2
"""The first of the bytes of machines, on which those hold a lock that measure there."""


class Claims:
    """Locks on single bytes of ``<out>/.claims``, one byte a cell.

    The system drops a process's locks when it ends, however it ends: no claim outlives its owner, and none has to
    be judged stale. Where locks are not supported every claim is granted; cells are stored whole in any case.
    A process may have one of these of a folder at a time: the end of one drops the locks of all.
    """

    def __init__(self, out: Path) -> None:
        self._path = Path(out) / _FILE
        self._handle: int | None = None
        if fcntl is not None:
            with contextlib.suppress(OSError):  # a folder that cannot be written is reported where cells are stored
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._handle = self._open()
                # Whoever goes home as this one comes removes the file: locks on that one would tell nobody.
                while not self._is_there():
                    os.close(self._handle)
                    self._handle = None  # if it cannot be opened again, either
                    self._handle = self._open()

    def take(self, key: str) -> bool:
        """Whether the cell ``key`` is this process's now: False if another process has it."""
        return self._lock(key, fcntl.LOCK_EX | fcntl.LOCK_NB) if self._handle is not None else True

    def release(self, key: str) -> None:
        """Gives the cell back: it is stored, or could not be measured."""
        if self._handle is not None:
            self._lock(key, fcntl.LOCK_UN)

    def use_machine(self, *, alone: bool) -> bool:
        """Whether this process may measure on this machine now: beside the others of the folder, or ``alone``."""
        if self._handle is None:
            return True
        how = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
        return self._lock_byte(_this_machine(), how | fcntl.LOCK_NB)

    def leave_machine(self) -> None:
        """Says that this process measures nothing now."""
        if self._handle is not None:
            self._lock_byte(_this_machine(), fcntl.LOCK_UN)

    @contextlib.contextmanager
    def writing_results(self) -> Iterator[None]:
        """Waits until no other process writes what is made of all cells, and keeps the others waiting."""
        if self._handle is not None:
            self._lock_byte(_RESULTS, fcntl.LOCK_EX)
        try:
            yield
        finally:
            if self._handle is not None:
                self._lock_byte(_RESULTS, fcntl.LOCK_UN)

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

    def _open(self) -> int:
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.lockf(handle, fcntl.LOCK_SH, 1, _AT_WORK)
        return handle

    def _is_there(self) -> bool:
        """Whether the open file is still the one of that name."""
        assert self._handle is not None
        try:
            return os.path.samestat(os.fstat(self._handle), os.stat(self._path))
        except FileNotFoundError:
            return False

    def _lock(self, key: str, how: int) -> bool:
        return self._lock_byte(int(key, 16) % _BYTES, how)

    def _lock_byte(self, byte: int, how: int) -> bool:
        assert self._handle is not None
        try:
            fcntl.lockf(self._handle, how, 1, byte)
        except BlockingIOError:
            return False
        except OSError:
            return True  # a file system without locks
        return True


def _this_machine() -> int:
    return _MACHINES + zlib.crc32(platform.node().encode())
