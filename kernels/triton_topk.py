"""Product-key lookup in Triton: no [n,S] score matrix is written to memory.

Two kernels. The first scores tiles of sub-keys against a block of queries and keeps a running top-k per query. The
second takes, for each token, the top-k of the pair sums of each head and the softmax over what was selected. Sub-keys
are numbered through heads and halves, 0 … H·2·S−1, so that keys are one table of rows.

Distances (idw) order sub-keys by q·K − ½‖K‖² and are then taken from the differences q − K, for the selected few: the
expanded square cancels badly where a query meets its key.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from fwpkm_eval.kernels.closed_form import candidate_pairs
from fwpkm_eval.kernels.triton_launch import blocks, fit, power
from fwpkm_eval.kernels.types import IDW_EPSILON


@dataclass(frozen=True)
class Lookups:
    """The lookups of n tokens, int32 and the memory's dtype.

    numbers [H,2,n,k]: top-k sub-keys of each half; scores [H,2,n,k]: theirs; shares [H,2,n,k]: softmax of the scores;
    first, second [H,n,k]: the ranks that each selected pair is made of; slots, weights [n,H·k].
    """

    numbers: Tensor
    scores: Tensor
    shares: Tensor
    first: Tensor
    second: Tensor
    slots: Tensor
    weights: Tensor


@triton.jit
def token_rows(base, token, chunk, stride_b, stride_t):
    """Pointers to rows of a [B,C,·] tensor whose tokens are counted through the batch."""
    return base + (token // chunk).to(tl.int64) * stride_b + (token % chunk).to(tl.int64) * stride_t


@triton.jit
def half_topk_kernel(
    query,
    keys,
    columns,
    numbers_out,
    scores_out,
    shares_out,
    tokens,
    chunk,
    stride_b,
    stride_t,
    subkeys,
    EPSILON: tl.constexpr,
    WIDTH: tl.constexpr,
    TOPK: tl.constexpr,
    PADDED_K: tl.constexpr,
    IDW: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Top-k sub-keys of one half of one head (program 1) for a block of tokens (program 0).

    ``columns`` are the keys with each half transposed [H,2,d,S]: of a tile read from it neighbouring sub-keys, which
    the lanes of a warp multiply, lie in different banks of shared memory; read from ``keys`` they would be a row apart,
    on the same banks, and the product would wait for memory.
    """
    DTYPE: tl.constexpr = scores_out.dtype.element_ty
    LOWEST: tl.constexpr = float("-inf")
    half = tl.program_id(1)
    token = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    live = token < tokens
    rows = token_rows(query, token, chunk, stride_b, stride_t) + half * WIDTH
    table = keys + half.to(tl.int64) * subkeys * WIDTH
    transposed = columns + half.to(tl.int64) * subkeys * WIDTH
    ranks = tl.arange(0, PADDED_K)
    best = tl.full([BLOCK_T, PADDED_K], LOWEST, DTYPE)
    index = tl.full([BLOCK_T, PADDED_K], 0, tl.int32)
    within = tl.arange(0, BLOCK_S)
    features = tl.arange(0, BLOCK_D)

    for tile in range(0, subkeys, BLOCK_S):
        subkey = tile + within
        real = subkey < subkeys
        scored = tl.full([BLOCK_T, BLOCK_S], 0, DTYPE)
        squares = tl.full([BLOCK_S], 0, DTYPE)
        for at in range(0, WIDTH, BLOCK_D):
            d = at + features
            wide = d < WIDTH
            q = tl.load(rows[:, None] + d[None, :], live[:, None] & wide[None, :], 0).to(DTYPE)
            k = tl.load(transposed + d[:, None] * subkeys + subkey[None, :], wide[:, None] & real[None, :], 0).to(DTYPE)
            # TF32 would choose other sub-keys.
            scored = tl.dot(q, k, scored, input_precision="ieee", out_dtype=DTYPE)
            if IDW:
                squares += tl.sum(k * k, 0)
        if IDW:
            scored -= 0.5 * squares[None, :]
        scored = tl.where(real[None, :], scored, LOWEST)
        # Merges the tile into the running best, greatest first; of equals the lowest number.
        merged = tl.full([BLOCK_T, PADDED_K], LOWEST, DTYPE)
        merged_index = tl.full([BLOCK_T, PADDED_K], 0, tl.int32)
        for rank in range(TOPK):
            new, new_at = tl.max(scored, 1, return_indices=True)
            old, old_at = tl.max(best, 1, return_indices=True)
            keep = old >= new
            old_index = tl.sum(tl.where(ranks[None, :] == old_at[:, None], index, 0), 1)
            here = ranks[None, :] == rank
            merged = tl.where(here, tl.where(keep, old, new)[:, None], merged)
            merged_index = tl.where(here, tl.where(keep, old_index, tile + new_at)[:, None], merged_index)
            best = tl.where(keep[:, None] & (ranks[None, :] == old_at[:, None]), LOWEST, best)
            scored = tl.where((within[None, :] == new_at[:, None]) & (old < new)[:, None], LOWEST, scored)
        best = merged
        index = merged_index

    # Scores that are not numbers select anything, but never a row outside the table.
    index = tl.minimum(index, subkeys - 1)
    selected = ranks[None, :] < TOPK
    if IDW:
        distance = tl.full([BLOCK_T, PADDED_K], 0, DTYPE)
        for rank in range(TOPK):
            number = tl.sum(tl.where(ranks[None, :] == rank, index, 0), 1)
            squared = tl.full([BLOCK_T], 0, DTYPE)
            for at in range(0, WIDTH, BLOCK_D):
                d = at + features
                wide = live[:, None] & (d < WIDTH)[None, :]
                q = tl.load(rows[:, None] + d[None, :], wide, 0).to(DTYPE)
                k = tl.load(table + number[:, None] * WIDTH + d[None, :], wide, 0).to(DTYPE)
                squared += tl.sum((q - k) * (q - k), 1)
            distance += tl.where(ranks[None, :] == rank, squared[:, None], 0)
        by_distance = tl.where(selected, -tl.log(distance + EPSILON), LOWEST)
        ordered_index = tl.full([BLOCK_T, PADDED_K], 0, tl.int32)
        best = tl.full([BLOCK_T, PADDED_K], LOWEST, DTYPE)
        for rank in range(TOPK):
            new, new_at = tl.max(by_distance, 1, return_indices=True)
            here = ranks[None, :] == rank
            best = tl.where(here, new[:, None], best)
            ordered_index = tl.where(
                here, tl.sum(tl.where(ranks[None, :] == new_at[:, None], index, 0), 1)[:, None], ordered_index
            )
            by_distance = tl.where(ranks[None, :] == new_at[:, None], LOWEST, by_distance)
        index = ordered_index
    raised = tl.where(selected, tl.exp(best - tl.max(best, 1)[:, None]), 0)
    share = raised / tl.sum(raised, 1)[:, None]
    place = (half.to(tl.int64) * tokens + token)[:, None] * TOPK + ranks[None, :]
    stored = live[:, None] & selected
    tl.store(numbers_out + place, index + half * subkeys, stored)
    tl.store(scores_out + place, best, stored)
    tl.store(shares_out + place, share, stored)


@triton.jit
def pair_topk_kernel(
    numbers,
    scores,
    candidates,
    first_out,
    second_out,
    slots_out,
    weights_out,
    tokens,
    subkeys,
    HEADS: tl.constexpr,
    PADDED_HEADS: tl.constexpr,
    TOPK: tl.constexpr,
    PADDED_K: tl.constexpr,
    PAIRS: tl.constexpr,
    PADDED_PAIRS: tl.constexpr,
    PER_HEAD: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
    """Top-k of the pair sums of each head, and the softmax over a token's H·k scores, or over each head's k."""
    DTYPE: tl.constexpr = scores.dtype.element_ty
    LOWEST: tl.constexpr = float("-inf")
    token = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    live = token < tokens
    ranks = tl.arange(0, PADDED_K)
    head_numbers = tl.arange(0, PADDED_HEADS)
    pair = tl.arange(0, PADDED_PAIRS)
    candidate = pair < PAIRS
    i = tl.load(candidates + pair, candidate, 0)
    j = tl.load(candidates + PAIRS + pair, candidate, 0)
    valid = live[:, None] & candidate[None, :]
    stored = live[:, None] & (ranks < TOPK)[None, :]
    chosen = tl.full([BLOCK_T, PADDED_HEADS, PADDED_K], LOWEST, DTYPE)
    for head in range(HEADS):
        upper = ((2 * head) * tokens + token).to(tl.int64) * TOPK
        lower = ((2 * head + 1) * tokens + token).to(tl.int64) * TOPK
        sums = tl.load(scores + upper[:, None] + i[None, :], valid, 0)
        sums += tl.load(scores + lower[:, None] + j[None, :], valid, 0)
        sums = tl.where(candidate[None, :], sums, LOWEST)
        score = tl.full([BLOCK_T, PADDED_K], LOWEST, DTYPE)
        first = tl.full([BLOCK_T, PADDED_K], 0, tl.int32)
        second = tl.full([BLOCK_T, PADDED_K], 0, tl.int32)
        for rank in range(TOPK):
            best, at = tl.max(sums, 1, return_indices=True)
            here = ranks[None, :] == rank
            picked = pair[None, :] == at[:, None]
            score = tl.where(here, best[:, None], score)
            first = tl.where(here, tl.sum(tl.where(picked, i[None, :], 0), 1)[:, None], first)
            second = tl.where(here, tl.sum(tl.where(picked, j[None, :], 0), 1)[:, None], second)
            sums = tl.where(picked, LOWEST, sums)
        row = tl.load(numbers + upper[:, None] + first, stored, 0) - 2 * head * subkeys
        line = tl.load(numbers + lower[:, None] + second, stored, 0) - (2 * head + 1) * subkeys
        place = (head * tokens + token).to(tl.int64)[:, None] * TOPK + ranks[None, :]
        tl.store(first_out + place, first, stored)
        tl.store(second_out + place, second, stored)
        read = token.to(tl.int64)[:, None] * (HEADS * TOPK) + head * TOPK + ranks[None, :]
        tl.store(slots_out + read, row * subkeys + line, stored)
        chosen = tl.where(head_numbers[None, :, None] == head, score[:, None, :], chosen)
    # Heads that only pad the block select nothing: 0 and 1 keep them numbers.
    there = (head_numbers < HEADS)[None, :]
    largest = tl.max(chosen, 2)
    if not PER_HEAD:
        largest = tl.max(largest, 1)[:, None]
    largest = tl.where(there, largest, 0)
    real = (head_numbers < HEADS)[None, :, None] & (ranks < TOPK)[None, None, :]
    raised = tl.where(real, tl.exp(chosen - largest[:, :, None]), 0)
    total = tl.sum(raised, 2)
    if not PER_HEAD:
        total = tl.sum(total, 1)[:, None]
    weight = raised / tl.where(there, total, 1)[:, :, None]
    read = token.to(tl.int64)[:, None, None] * (HEADS * TOPK)
    read += head_numbers[None, :, None] * TOPK + ranks[None, None, :]
    tl.store(weights_out + read, weight, live[:, None, None] & real)


@functools.cache  # kept for good: CUDA graphs read it where it is
def _candidates(topk: int, device: torch.device) -> Tensor:
    """Pairs of ranks that can be among the k best sums [2,·]."""
    return torch.stack(candidate_pairs(topk, device)).to(torch.int32)


def find_slots(query: Tensor, keys: Tensor, topk: int, score: str, per_head: bool = False) -> Lookups:
    """The k best slots of each head: query [B,C,H·dk] (last dimension contiguous), keys [H,2,S,d] contiguous.

    per_head: one softmax for each head (PKM) instead of one over all H·k scores of a token (FwPKM).
    """
    heads, _, subkeys, width = keys.shape
    batch, chunk, _ = query.shape
    tokens = batch * chunk
    half = (heads, 2, tokens, topk)
    numbers = torch.empty(half, dtype=torch.int32, device=keys.device)
    scores, shares = torch.empty(half, dtype=keys.dtype, device=keys.device), keys.new_empty(half)
    padded_k = power(topk, 2)
    block_t = 32 if topk <= 16 else 16
    half_topk_kernel[(blocks(tokens, block_t), heads * 2)](
        query,
        keys,
        keys.mT.contiguous(),
        numbers,
        scores,
        shares,
        tokens,
        chunk,
        query.stride(0),
        query.stride(1),
        subkeys,
        EPSILON=IDW_EPSILON,
        WIDTH=width,
        TOPK=topk,
        PADDED_K=padded_k,
        IDW=score == "idw",
        BLOCK_T=block_t,
        BLOCK_S=fit(subkeys, block_t, 64),
        BLOCK_D=max(16, min(power(width), 32)),
        num_warps=4,
    )
    first = torch.empty(heads, tokens, topk, dtype=torch.int32, device=keys.device)
    second = torch.empty_like(first)
    slots = torch.empty(tokens, heads * topk, dtype=torch.int32, device=keys.device)
    weights = torch.empty(tokens, heads * topk, dtype=keys.dtype, device=keys.device)
    candidates = _candidates(topk, keys.device)
    pairs = candidates.shape[1]
    block_t = max(1, min(32, 1024 // max(power(pairs, 2), power(heads) * padded_k)))
    pair_topk_kernel[(blocks(tokens, block_t),)](
        numbers,
        scores,
        candidates,
        first,
        second,
        slots,
        weights,
        tokens,
        subkeys,
        HEADS=heads,
        PADDED_HEADS=power(heads),
        TOPK=topk,
        PADDED_K=padded_k,
        PAIRS=pairs,
        PADDED_PAIRS=power(pairs, 2),
        PER_HEAD=per_head,
        BLOCK_T=block_t,
        num_warps=4,
    )
    return Lookups(numbers, scores, shares, first, second, slots, weights)
