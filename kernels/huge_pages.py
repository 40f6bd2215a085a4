"""Large tensors on a CPU in huge pages, where the system gives them to whoever asks (Linux, by default on most).

The rows that a memory reads and writes lie anywhere in its values. In pages of 4 KiB nearly each of them misses the
processor's table of addresses, and half a gigabyte of new values is 131,072 pages for the system to find and to clear;
in pages of 2 MiB it is 256. No number changes.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

LARGE = 32 * 2**20
"""Bytes from which on a tensor is worth asking for: what glibc maps anew each time, unless told otherwise."""

_HUGE = 2 * 2**20
MADV_HUGEPAGE: int | None = getattr(mmap, "MADV_HUGEPAGE", None)  # Linux alone has it


def empty_large(*shape: int) -> Tensor:
    """As `torch.empty(*shape)` on the CPU, in huge pages if it is large."""
    return _in_huge_pages(torch.empty(*shape, device="cpu"))


def copy_large(x: Tensor) -> Tensor:
    """A contiguous copy of x, in huge pages if it is large and on the CPU."""
    return _in_huge_pages(torch.empty_like(x, memory_format=torch.contiguous_format)).copy_(x)


def _in_huge_pages(new: Tensor) -> Tensor:
    """Asks the system for huge pages below a tensor that nothing was written to; where it has none, nothing happens."""
    size = new.numel() * new.element_size()
    ask = _madvise() if new.device.type == "cpu" and size >= LARGE else None
    if ask is not None:
        first = -(-new.data_ptr() // _HUGE) * _HUGE
        last = (new.data_ptr() + size) // _HUGE * _HUGE
        ask(ctypes.c_void_p(first), ctypes.c_size_t(last - first), MADV_HUGEPAGE)
    return new


@cache
def _madvise() -> Callable[..., int] | None:
    """The system's call of that name, where it knows of huge pages."""
    return None if MADV_HUGEPAGE is None else getattr(ctypes.CDLL(None), "madvise", None)
