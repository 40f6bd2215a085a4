"""glibc's malloc, told to keep freed memory instead of returning it to the system at every free.

By default glibc maps every buffer above 32 MiB (at first 128 KiB) anew and gives it back when it is freed, so that
each tensor of a training step starts as pages that the system has yet to find and to clear. Keeping them makes a step
of training several times faster, and changes no result; the price is memory held until the process ends.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys

_SETTINGS = {
    # Buffers below this come from the heap, which keeps what is freed …
    "MALLOC_MMAP_THRESHOLD_": 1_000_000_000,
    # … unless more than this is free at its end …
    "MALLOC_TRIM_THRESHOLD_": 4_000_000_000,
    # … and which grows by this much at a time.
    "MALLOC_TOP_PAD_": 200_000_000,
}
_MALLOPT = {"MALLOC_TRIM_THRESHOLD_": -1, "MALLOC_TOP_PAD_": -2, "MALLOC_MMAP_THRESHOLD_": -3}
_LARGEST_INT = 2**31 - 1
_LARGEST_OLD_MMAP_THRESHOLD = 32 * 2**20
"""Older versions of glibc refuse a larger one."""


def tuned_environment() -> dict[str, str]:
    """The environment variables with which a process started anew has the setting from its first allocation on."""
    return {name: str(value) for name, value in _SETTINGS.items()}


def is_glibc() -> bool:
    """Whether this Python runs on glibc, whose malloc this is about."""
    return sys.platform == "linux" and platform.libc_ver()[0] == "glibc"


def tune_malloc() -> bool:
    """Applies the setting to this process, at any time, and to those it will start; does nothing but on glibc.

    Whoever has set one of the variables, or malloc's in ``GLIBC_TUNABLES``, keeps what they chose.

    Returns:
        Whether this process now keeps freed memory because of this call.
    """
    chosen = any(name in os.environ for name in _SETTINGS) or "malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if chosen or not is_glibc():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    accepted = [mallopt(_MALLOPT[name], min(value, _LARGEST_INT)) for name, value in _SETTINGS.items()]
    if not accepted[0]:
        accepted[0] = mallopt(_MALLOPT["MALLOC_MMAP_THRESHOLD_"], _LARGEST_OLD_MMAP_THRESHOLD)
    os.environ.update(tuned_environment())
    return all(accepted)


def release_freed_memory() -> None:
    """Gives back to the system what malloc keeps, so that what a process holds is what it uses; only on glibc."""
    if is_glibc():
        ctypes.CDLL(None).malloc_trim(0)
