"""Long sums in parts: a slot that every hundredth token reads must not keep one program busy while all others wait.

Reads sorted by slot, and selections sorted by sub-key, are cut into windows of `WINDOW`. A window that lies within one
group is summed by a program of its own; whoever sums the group takes those sums and the single reads before and after
them. Which windows lie within a group follows from the sorted order alone, so a run still repeats bit for bit, and
nothing waits for the device. What a group of n reads costs falls from n steps to n/WINDOW and at most 2·WINDOW more.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from fwpkm_eval.kernels.triton_launch import blocks, fit
from fwpkm_eval.kernels.triton_segments import SlotSegments, SubkeySegments
from fwpkm_eval.kernels.triton_topk import Lookups

WINDOW = 64
"""Reads or selections of a window: small groups have no whole one, and the most frequent one a few hundred."""
LONG_CHUNK = 1024
"""Tokens of a chunk from which windows are used: with fewer, the launch costs more than any sum could save."""
_READS_AT_A_TIME = 16


def window_for(tokens: int) -> int:
    """The size of windows for a chunk of so many tokens; 0: no windows.

    A static memory reads all tokens of a batch at once: larger windows then, whose sums take a quarter of the room.
    """
    if tokens < LONG_CHUNK:
        return 0
    return WINDOW if tokens < 32 * LONG_CHUNK else 4 * WINDOW


@triton.jit
def split_group(begin, end, WINDOW: tl.constexpr):
    """A group's reads begin … end as (first window, windows, reads before them, reads outside of them).

    The reads outside, counted on: those before come first, and from the next on windows · WINDOW are left out.
    """
    first = (begin + WINDOW - 1) // WINDOW
    windows = tl.maximum(end // WINDOW - first, 0)
    return first, windows, first * WINDOW - begin, end - begin - windows * WINDOW


@triton.jit
def slot_windows_kernel(
    per_token,
    weights,
    order,
    positions,
    sums,
    READS: tl.constexpr,
    WIDTH: tl.constexpr,
    WINDOW: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_V: tl.constexpr,
):
    """Σ w·x over each window (program 0) that lies within one slot, for a block of features (program 1)."""
    window = tl.program_id(0).to(tl.int64)
    begin = window * WINDOW
    if tl.load(positions + tl.load(order + begin)) == tl.load(positions + tl.load(order + begin + WINDOW - 1)):
        v = tl.program_id(1) * BLOCK_V + tl.arange(0, BLOCK_V)
        wide = v < WIDTH
        total = tl.full([BLOCK_R, BLOCK_V], 0, weights.dtype.element_ty)
        for at in range(0, WINDOW, BLOCK_R):
            read = tl.load(order + begin + at + tl.arange(0, BLOCK_R))
            w = tl.load(weights + read)
            x = tl.load(per_token + (read // READS)[:, None] * WIDTH + v[None, :], wide[None, :], 0)
            total += w[:, None] * x
        tl.store(sums + window * WIDTH + v, tl.sum(total, 0), wide)


def sum_slot_windows(per_token: Tensor, weights: Tensor, by_slot: SlotSegments) -> tuple[Tensor, int]:
    """(sums [·,dv], WINDOW) of w·x, per_token [n,dv], weights [n,H·k]; sums of windows that no slot fills are unset.

    (weights, 0) where the chunk is too short for windows.
    """
    window, width = window_for(len(weights)), per_token.shape[1]
    count = len(by_slot.order) // window if window else 0
    if not count:
        return weights, 0
    sums = weights.new_empty(count, width)
    block_r = min(_READS_AT_A_TIME, window)
    block_v = fit(width, block_r, 256)
    slot_windows_kernel[(count, blocks(width, block_v))](
        per_token,
        weights,
        by_slot.order,
        by_slot.positions,
        sums,
        READS=weights.shape[1],
        WIDTH=width,
        WINDOW=window,
        BLOCK_R=block_r,
        BLOCK_V=block_v,
        num_warps=4,
    )
    return sums, window


@triton.jit
def subkey_windows_kernel(
    order,
    numbers,
    ds,
    scores,
    step_ds,
    query,
    sums,
    own_sums,
    step_sums,
    tokens,
    chunk,
    stride_b,
    stride_t,
    subkeys,
    WIDTH: tl.constexpr,
    TOPK: tl.constexpr,
    IDW: tl.constexpr,
    STEP: tl.constexpr,
    WINDOW: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Σ c·q, Σ c and (STEP) the step's Σ c over each window within one sub-key (see `subkey_sum_kernel`)."""
    DTYPE: tl.constexpr = ds.dtype.element_ty
    window = tl.program_id(0).to(tl.int64)
    begin = window * WINDOW
    group = tl.load(numbers + tl.load(order + begin))
    if group == tl.load(numbers + tl.load(order + begin + WINDOW - 1)):
        half = group // subkeys
        d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
        wide = d < WIDTH
        total = tl.full([BLOCK_R, BLOCK_D], 0, DTYPE)
        own = tl.full([BLOCK_R], 0, DTYPE)
        step_own = tl.full([BLOCK_R], 0, DTYPE)
        for at in range(0, WINDOW, BLOCK_R):
            selection = tl.load(order + begin + at + tl.arange(0, BLOCK_R))
            c = tl.load(ds + selection)
            if IDW:
                raised = -2 * tl.exp(tl.load(scores + selection))
                c *= raised
                own += c
                if STEP:
                    step_own += raised * tl.load(step_ds + selection)
            token = (selection // TOPK) % tokens
            rows = query + (token // chunk) * stride_b + (token % chunk) * stride_t + half * WIDTH
            q = tl.load(rows[:, None] + d[None, :], wide[None, :], 0).to(DTYPE)
            total += c[:, None] * q
        tl.store(sums + window * WIDTH + d, tl.sum(total, 0), wide)
        if tl.program_id(1) == 0:
            tl.store(own_sums + window, tl.sum(own, 0))
            tl.store(step_sums + window, tl.sum(step_own, 0))


def sum_subkey_windows(
    found: Lookups,
    by_subkey: SubkeySegments,
    ds: Tensor,
    query: Tensor,
    keys: Tensor,
    idw: bool,
    step_ds: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, int]:
    """(Σ c·q [·,d], Σ c [·], the step's Σ c [·], WINDOW); sums of windows that no sub-key fills are unset.

    (ds, ds, ds, 0) where the chunk is too short for windows.
    """
    tokens, topk = found.first.shape[1:]
    subkeys, width = keys.shape[2:]
    window = window_for(tokens)
    count = len(by_subkey.order) // window if window else 0
    if not count:
        return ds, ds, ds, 0
    sums, own, step_own = ds.new_empty(count, width), ds.new_empty(count), ds.new_empty(count)
    block_r = min(_READS_AT_A_TIME, window)
    block_d = fit(width, block_r, 256)
    subkey_windows_kernel[(count, blocks(width, block_d))](
        by_subkey.order,
        found.numbers,
        ds,
        found.scores,
        ds if step_ds is None else step_ds,
        query,
        sums,
        own,
        step_own,
        tokens,
        query.shape[1],
        query.stride(0),
        query.stride(1),
        subkeys,
        WIDTH=width,
        TOPK=topk,
        IDW=idw,
        STEP=step_ds is not None and idw,
        WINDOW=window,
        BLOCK_R=block_r,
        BLOCK_D=block_d,
        num_warps=4,
    )
    return sums, own, step_own, window
