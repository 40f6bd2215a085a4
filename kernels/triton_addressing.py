"""The step on the keys in Triton, forward and backward, over the selected sub-keys only.

Sums over tokens run over the selections of one sub-key, sorted (`triton_segments`), so they repeat bit for bit. With
∂s/∂K_i = q (dot) or −2·(K_i − q)·exp(s) (idw), a gradient ds at the selected sub-scores moves the keys by

    Σ ds·∂s/∂K_i = Σ c·q   (dot, c = ds)    or    (Σ c)·K_i − Σ c·q   (idw, c = −2·ds·exp(s)).
"""

from __future__ import annotations

import triton
import triton.language as tl

from fwpkm_eval.kernels.triton_windows import split_group


@triton.jit
def subkey_mean_kernel(
    order,
    starts,
    selected,
    mean,
    slope,
    term,
    through,
    subkeys,
    count,
    WEIGHT: tl.constexpr,
    DELTA: tl.constexpr,
    HEADS: tl.constexpr,
    BACKWARD: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """Means over tokens and heads by sub-key of a half [2,S], of what stands at the selections, `count` = n·H.

    Forward, of p: p̄ itself, its slope λ·(log(p̄+δ) + p̄/(p̄+δ))/count and the loss's term λ·p̄·log(p̄+δ).
    Backward, of the centred cotangent: times λ·(1/(p̄+δ) + δ/(p̄+δ)²)/count, what goes back through p̄.
    """
    DTYPE: tl.constexpr = selected.dtype.element_ty
    entry = tl.program_id(0) * BLOCK_G + tl.arange(0, BLOCK_G)
    known = entry < 2 * subkeys
    total = tl.full([BLOCK_G, BLOCK_R], 0, DTYPE)
    for head in range(HEADS):
        group = 2 * head * subkeys + entry
        begin = tl.load(starts + group, known, 0)
        end = tl.load(starts + group + 1, known, 0)
        for at in range(0, tl.max(end - begin, 0), BLOCK_R):
            here = begin[:, None] + at + tl.arange(0, BLOCK_R)[None, :]
            live = here < end[:, None]
            total += tl.load(selected + tl.load(order + here, live, 0), live, 0)
    average = tl.sum(total, 1) / count
    if BACKWARD:
        shifted = tl.load(mean + entry, known, 1) + DELTA
        curvature = WEIGHT * (1 / shifted + DELTA / (shifted * shifted))
        tl.store(through + entry, average * curvature / count, known)
    else:
        shifted = average + DELTA
        tl.store(mean + entry, average, known)
        tl.store(slope + entry, WEIGHT * (tl.log(shifted) + average / shifted) / count, known)
        tl.store(term + entry, WEIGHT * average * tl.log(shifted), known)


@triton.jit
def addressing_slope_kernel(
    numbers, shares, slope, ds_out, rows, subkeys, TOPK: tl.constexpr, PADDED_K: tl.constexpr, BLOCK: tl.constexpr
):
    """ds = p·(dp − Σ p·dp) at the selected sub-scores, for a block of the H·2·n rows of [H,2,n,k]."""
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    ranks = tl.arange(0, PADDED_K)
    live = (row < rows)[:, None] & (ranks < TOPK)[None, :]
    place = row.to(tl.int64)[:, None] * TOPK + ranks[None, :]
    p = tl.load(shares + place, live, 0)
    dp = tl.load(slope + tl.load(numbers + place, live, 0) % (2 * subkeys), live, 0)
    tl.store(ds_out + place, p * (dp - tl.sum(p * dp, 1)[:, None]), live)


@triton.jit
def subkey_sum_kernel(
    order,
    starts,
    ds,
    scores,
    step_ds,
    query,
    keys,
    base,
    out,
    sums,
    own_sums,
    step_sums,
    tokens,
    chunk,
    stride_b,
    stride_t,
    subkeys,
    groups,
    RATE: tl.constexpr,
    STEP_RATE: tl.constexpr,
    WIDTH: tl.constexpr,
    TOPK: tl.constexpr,
    IDW: tl.constexpr,
    STEP: tl.constexpr,
    WINDOW: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """out = base + RATE·Σ ds·∂s/∂K for a block of sub-keys (program 0) and of their features (program 1).

    STEP (idw, backward): also STEP_RATE·(Σ c of step_ds)·base, what the key step's own (Σ c)·K sends back. WINDOW: the
    sums over whole windows are there already (`triton_windows`); 0: none are.
    """
    DTYPE: tl.constexpr = ds.dtype.element_ty
    group = tl.program_id(0) * BLOCK_G + tl.arange(0, BLOCK_G)
    known = group < groups
    begin = tl.load(starts + group, known, 0)
    end = tl.load(starts + group + 1, known, 0)
    half = group // subkeys
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    wide = d < WIDTH
    total = tl.full([BLOCK_G, BLOCK_R, BLOCK_D], 0, DTYPE)
    own = tl.full([BLOCK_G, BLOCK_R], 0, DTYPE)
    step_own = tl.full([BLOCK_G, BLOCK_R], 0, DTYPE)
    outside = end - begin
    if WINDOW:
        first, windows, before, outside = split_group(begin, end, WINDOW)
        for at in range(0, tl.max(windows, 0), BLOCK_R):
            number = at + tl.arange(0, BLOCK_R)[None, :]
            live = number < windows[:, None]
            window = (first[:, None] + number).to(tl.int64)
            places = sums + window[:, :, None] * WIDTH + d[None, None, :]
            total += tl.load(places, live[:, :, None] & wide[None, None, :], 0)
            if IDW:
                own += tl.load(own_sums + window, live, 0)
                if STEP:
                    step_own += tl.load(step_sums + window, live, 0)
    for at in range(0, tl.max(outside, 0), BLOCK_R):
        number = at + tl.arange(0, BLOCK_R)[None, :]
        live = number < outside[:, None]
        here = begin[:, None] + number
        if WINDOW:
            here += tl.where(number < before[:, None], 0, (windows * WINDOW)[:, None])
        selection = tl.load(order + here, live, 0)
        c = tl.load(ds + selection, live, 0)
        if IDW:
            raised = -2 * tl.exp(tl.load(scores + selection, live, 0))
            c *= raised
            own += c
            if STEP:
                step_own += raised * tl.load(step_ds + selection, live, 0)
        token = (selection // TOPK) % tokens
        rows = query + (token // chunk) * stride_b + (token % chunk) * stride_t + half[:, None] * WIDTH
        q = tl.load(rows[:, :, None] + d[None, None, :], live[:, :, None] & wide[None, None, :], 0).to(DTYPE)
        total += c[:, :, None] * q
    cells = known[:, None] & wide[None, :]
    place = group.to(tl.int64)[:, None] * WIDTH + d[None, :]
    start = tl.load(base + place, cells, 0)
    moved = tl.sum(total, 1)
    if IDW:
        moved = tl.sum(own, 1)[:, None] * tl.load(keys + place, cells, 0) - moved
    result = start + RATE * moved
    if STEP:
        result += STEP_RATE * tl.sum(step_own, 1)[:, None] * start
    tl.store(out + place, result, cells)
