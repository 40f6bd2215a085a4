"""What every Triton kernel's launch needs: block sizes from shapes, the right device, and which mode Triton is in.

Block sizes are chosen from widths and top-k, never from the number of tokens and never by autotuning: a new sequence
length costs no tuning, and at most a few compilations (Triton specialises on arguments of 1 and on multiples of 16).
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 4096
"""Elements of the largest tile of a program: 32 registers for each of 128 threads."""


def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter: TRITON_INTERPRET=1 stood when Triton was imported."""
    return not isinstance(tl.max, triton.JITFunction)


def on_device(x: Tensor) -> contextlib.AbstractContextManager[Any]:
    """Makes the device of x the current one, on which Triton launches."""
    return torch.cuda.device(x.device) if x.device.type == "cuda" else contextlib.nullcontext()


def power(size: int, least: int = 1) -> int:
    """The power of two that holds size, at least `least`."""
    return max(triton.next_power_of_2(size), least)


def blocks(size: int, block: int) -> int:
    return triton.cdiv(size, block)


def fit(size: int, others: int, most: int, least: int = 16) -> int:
    """A block along `size` for a tile whose other dimensions hold `others` elements: at most `most` and TILE in all."""
    return max(least, min(power(size), most, TILE // others))


def dense_rows(x: Tensor) -> Tensor:
    """x with its last dimension contiguous, as kernels take it; the others may have any strides."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


SLOT_READS = 4
"""Reads of one slot summed at a time: most slots have one or two."""


def token_tile(width: int, reads: int) -> tuple[int, int]:
    """(tokens, features) of a program that gathers `reads` rows of `width` for each token."""
    padded = power(reads, 2)
    features = fit(width, padded, 512)
    return max(1, min(16, TILE // (padded * features))), features


def slot_tile(width: int) -> tuple[int, int]:
    """(slots, features) of a program that sums over the reads of each slot."""
    features = fit(width, SLOT_READS, 512)
    return max(1, min(16, TILE // (SLOT_READS * features))), features


SUBKEY_READS = 16
"""Selections of one sub-key summed at a time: on average one has n·k/S."""


def mean_tile(tokens: int) -> tuple[int, int]:
    """(sub-keys, selections) of a program that sums a number over the selections of each sub-key, of so many tokens."""
    return 16, 64 if tokens < 1024 else 256


def subkey_tile(width: int) -> tuple[int, int]:
    """(sub-keys, features) of a program that sums over the selections of each sub-key."""
    features = fit(width, SUBKEY_READS, 256)
    return max(1, min(16, TILE // (SUBKEY_READS * features))), features


def query_tile(width: int) -> tuple[int, int]:
    """(tokens, features) of a program that sums over the sub-keys that each query selected."""
    features = fit(width, 16, 128)
    return min(64, TILE // 2 // features), features
