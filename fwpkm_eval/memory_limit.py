"""A limit on what a process may allocate: one that needs too much fails alone instead of taking others along."""

from __future__ import annotations

import sys


def limit_memory(limit: int) -> None:
    """From here on an allocation that would take the process beyond `limit` bytes fails, with an exception.

    What is limited is the data a process writes to, not address space: libraries reserve much more than they use.
    Nothing where the system has no such limit.
    """
    if sys.platform != "linux":
        return
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def is_out_of_memory(error: Exception) -> bool:
    """Whether an allocation failed, by this limit or otherwise, on a CPU or a GPU."""
    if isinstance(error, RuntimeError):  # torch's, for which torch need not be imported
        return "can't allocate memory" in str(error) or type(error).__name__ == "OutOfMemoryError"
    return isinstance(error, MemoryError)


def available_memory() -> int:
    """Bytes that can be allocated now without swapping."""
    import psutil

    return int(psutil.virtual_memory().available)
