"""Reads grouped by slot and selections grouped by sub-key, so that one program sums a group in a fixed order.

A stable sort and segment sums take the place of atomics: a run repeats bit for bit. Sizes are bounds known before the
data (at most min(n·H·k, S²) slots are read), so the device is never waited for.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from fwpkm_eval.kernels.triton_launch import blocks

_BLOCK = 1024


@dataclass(frozen=True)
class SlotSegments:
    """Reads [n·H·k] grouped by slot, in U ≤ rows groups.

    slots [rows] int64: distinct slots, ascending (0 beyond U); order [n·H·k] int64: the reads, sorted by slot;
    starts [rows+1] int32: where each group begins in that order (its end beyond U); positions [n·H·k] int32: each
    read's group.
    """

    slots: Tensor
    order: Tensor
    starts: Tensor
    positions: Tensor


@dataclass(frozen=True)
class SubkeySegments:
    """Selections [H·2·n·k] grouped by sub-key: order int64, as above; starts [H·2·S + 1] int64."""

    order: Tensor
    starts: Tensor


@triton.jit
def segment_kernel(ordered, order, numbers, slots_out, starts_out, positions_out, reads, BLOCK: tl.constexpr):
    """Writes each read's group, and each group's slot and start; numbers are the groups counted from 1."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    live = at < reads
    slot = tl.load(ordered + at, live, 0)
    before = tl.load(ordered + at - 1, live & (at > 0), -1)
    group = tl.load(numbers + at, live, 1) - 1
    tl.store(positions_out + tl.load(order + at, live, 0), group, live)
    leads = live & (slot != before)
    tl.store(slots_out + group, slot.to(tl.int64), leads)
    tl.store(starts_out + group, at.to(tl.int32), leads)


def group_by_slot(slots: Tensor, memory_slots: int) -> SlotSegments:
    """slots [n,H·k] int32 of a memory of S² slots."""
    ordered, order = slots.flatten().sort(stable=True)
    reads = len(order)
    rows = min(reads, memory_slots)
    leads = torch.ones_like(ordered)
    torch.ne(ordered[1:], ordered[:-1], out=leads[1:])
    numbers = leads.cumsum(0, dtype=torch.int32)
    distinct = torch.zeros(rows, dtype=torch.int64, device=slots.device)
    starts = torch.full((rows + 1,), reads, dtype=torch.int32, device=slots.device)
    positions = torch.empty_like(numbers)
    segment_kernel[(blocks(reads, _BLOCK),)](
        ordered, order, numbers, distinct, starts, positions, reads, BLOCK=_BLOCK, num_warps=4
    )
    return SlotSegments(distinct, order, starts, positions)


def group_by_subkey(numbers: Tensor, subkeys: int) -> SubkeySegments:
    """numbers [H,2,n,k] int32: the selected sub-keys, counted through heads and halves."""
    ordered, order = numbers.flatten().sort(stable=True)
    return SubkeySegments(order, torch.searchsorted(ordered, _count_to(numbers.shape[0] * 2 * subkeys, ordered.device)))


@functools.cache  # kept for good: CUDA graphs read it where it is
def _count_to(last: int, device: torch.device) -> Tensor:
    return torch.arange(last + 1, dtype=torch.int32, device=device)
