"""One chunk of FwPKM in Triton: the operations of backend `triton` (see `ChunkOps`).

A forward step is eight kernels besides the two sorts: lookup (two), read with errors and losses, groups of reads,
write with its log, and three for the keys; of a long chunk two more, which sum what is read often (`triton_windows`).
Nothing waits for the device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fwpkm_eval.errors import UserError
from fwpkm_eval.kernels.chunk import ChunkInputs, ChunkStep
from fwpkm_eval.kernels.closed_form import count_reads
from fwpkm_eval.kernels.triton_addressing import addressing_slope_kernel, subkey_mean_kernel
from fwpkm_eval.kernels.triton_chunk_backward import Saved, step_chunk_backward
from fwpkm_eval.kernels.triton_gradients import move_keys, scores_back
from fwpkm_eval.kernels.triton_launch import (
    SLOT_READS,
    blocks,
    dense_rows,
    fit,
    mean_tile,
    on_device,
    power,
    slot_tile,
    token_tile,
)
from fwpkm_eval.kernels.triton_read import read_memory
from fwpkm_eval.kernels.triton_rows import read_kernel, write_kernel
from fwpkm_eval.kernels.triton_segments import SlotSegments, SubkeySegments, group_by_slot, group_by_subkey
from fwpkm_eval.kernels.triton_topk import Lookups, find_slots
from fwpkm_eval.kernels.triton_windows import sum_slot_windows
from fwpkm_eval.kernels.types import ENTROPY_EPSILON, MemoryRule

__all__ = ["read_memory", "step_chunk", "step_chunk_backward"]


def step_chunk(
    inputs: ChunkInputs,
    keys: Tensor,
    values: Tensor,
    output: Tensor | None = None,
    counted: Tensor | None = None,
    log: bool = False,
) -> ChunkStep:
    """Reads a chunk, then writes it in place (see `ChunkOps`)."""
    if not (keys.is_contiguous() and values.is_contiguous()):
        raise UserError(
            "backend 'triton' writes in place into contiguous keys and values only; pass .contiguous() ones"
        )
    # Autograd does not see what kernels write: whoever saved these tensors has to be found out.
    torch.autograd.graph.increment_version([x for x in (keys, values) if not x.is_inference()])
    with on_device(values):
        return _step(inputs, keys, values, output, counted, log)


def _step(
    inputs: ChunkInputs, keys: Tensor, values: Tensor, output: Tensor | None, counted: Tensor | None, log: bool
) -> ChunkStep:
    rule, query = inputs.rule, dense_rows(inputs.query)
    heads, _, subkeys, _ = keys.shape
    found = find_slots(query, keys, rule.topk, rule.score)
    gated, memory_loss, ds_pairs = _read(inputs, values, found, output, rule.addressing == "none")
    by_subkey = group_by_subkey(found.numbers, subkeys)
    ds, mean, slope, addressing_loss = None, None, None, None
    if rule.addressing == "entropy":
        mean, slope, addressing_loss = mean_shares(found, by_subkey, heads, subkeys, rule)
        ds = addressing_ds(found, slope, subkeys)
    elif inputs.written:
        ds = scores_back(found, ds_pairs, query, keys, rule.score, None)
    by_slot, old_rows = None, None
    if inputs.written or log:
        by_slot = group_by_slot(found.slots, subkeys * subkeys)
        old_rows = values.new_empty(len(by_slot.slots), values.shape[1]) if log else None
        read, counts = query.shape[1], None
        if counted is not None:
            read, counts = len(counted) // query.shape[0], count_reads(counted.long(), by_slot.slots)
        rate = rule.learning_rate * heads * rule.topk
        write_rows(
            values,
            found.weights,
            by_slot,
            gated,
            rate,
            read=read,
            written=inputs.written,
            counts=counts,
            log=old_rows,
        )
    saved = None
    if log and by_slot is not None and old_rows is not None:
        saved = Saved(found, by_slot, by_subkey, old_rows, ds, mean, slope)
    if ds is not None:
        # In place: a program reads and writes only its own sub-key.
        move_keys(found, by_subkey, ds, query, keys, keys, keys, rule.score, -rule.learning_rate)
    return ChunkStep(found.slots, found.weights, memory_loss, addressing_loss, found.slots.flatten(), saved)


def _read(
    inputs: ChunkInputs, values: Tensor, found: Lookups, output: Tensor | None, slope: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """e [n,dv], the memory loss [B,written], and the pair scores' slope [n,H·k] (of the no-entropy ablation)."""
    batch, chunk, _ = inputs.query.shape
    tokens, width, written = batch * chunk, values.shape[1], inputs.written
    gated = values.new_empty(tokens, width)
    memory_loss = values.new_empty(batch, written)
    ds_pairs = torch.empty_like(found.weights) if slope else found.weights
    target = dense_rows(inputs.target)
    gate = target if inputs.gate is None else inputs.gate
    stored = gated.view(batch, chunk, width) if output is None else output
    heads, _, topk = found.first.shape
    block_t, block_v = token_tile(width, heads * topk)
    read_kernel[(blocks(tokens, block_t),)](
        values,
        found.slots,
        found.weights,
        stored,
        target,
        gate,
        gated,
        memory_loss,
        ds_pairs,
        tokens,
        chunk,
        written,
        stored.stride(0),
        stored.stride(1),
        target.stride(0),
        target.stride(1),
        gate.stride(0),
        gate.stride(1),
        inputs.rule.lookahead,
        max(1, batch * written * width),
        WIDTH=width,
        HEADS=heads,
        TOPK=topk,
        PADDED_READS=power(heads * topk, 2),
        STORE=output is not None,
        TARGET=True,
        GATE=inputs.gate is not None,
        SLOPE=slope and written > 0,
        BLOCK_T=block_t,
        BLOCK_V=block_v,
        num_warps=4,
    )
    return gated, memory_loss, ds_pairs


def mean_shares(
    found: Lookups, by_subkey: SubkeySegments, heads: int, subkeys: int, rule: MemoryRule
) -> tuple[Tensor, Tensor, Tensor]:
    """p̄ [2,S], the slope [2,S] of the addressing loss in each token's p, and the loss []."""
    mean = torch.empty(2, subkeys, dtype=found.scores.dtype, device=found.scores.device)
    slope, term = torch.empty_like(mean), torch.empty_like(mean)
    block_g, block_r = mean_tile(found.first.shape[1])
    subkey_mean_kernel[(blocks(2 * subkeys, block_g),)](
        by_subkey.order,
        by_subkey.starts,
        found.shares,
        mean,
        slope,
        term,
        mean,
        subkeys,
        found.first.shape[1] * heads,
        WEIGHT=rule.addressing_weight,
        DELTA=ENTROPY_EPSILON,
        HEADS=heads,
        BACKWARD=False,
        BLOCK_G=block_g,
        BLOCK_R=block_r,
        num_warps=4,
    )
    return mean, slope, term.sum()


def addressing_ds(found: Lookups, slope: Tensor, subkeys: int) -> Tensor:
    """∂L_addr/∂s [H,2,n,k] at the selected sub-scores."""
    heads, _, tokens, topk = found.shares.shape
    ds = torch.empty_like(found.shares)
    rows, padded_k = heads * 2 * tokens, power(topk, 2)
    block = fit(256, padded_k, 256)
    addressing_slope_kernel[(blocks(rows, block),)](
        found.numbers, found.shares, slope, ds, rows, subkeys, TOPK=topk, PADDED_K=padded_k, BLOCK=block, num_warps=4
    )
    return ds


def write_rows(
    values: Tensor,
    weights: Tensor,
    by_slot: SlotSegments,
    errors: Tensor,
    rate: float,
    *,
    read: int = 1,
    written: int = 1,
    counts: Tensor | None = None,
    log: Tensor | None = None,
) -> None:
    """V_u ← V_u − rate·(read/written)/N_u · Σ over slot u's reads of w·e, in place; written = 0: only the log.

    values [S²,dv], weights [n,H·k], errors [n,dv]. counts [rows]: N_u, if not the reads in by_slot. log [rows,dv]:
    where the rows go as they were.
    """
    groups, width = len(by_slot.slots), values.shape[1]
    block_u, block_v = slot_tile(width)
    sums, window = sum_slot_windows(errors, weights, by_slot) if written else (weights, 0)
    write_kernel[(blocks(groups, block_u), blocks(width, block_v))](
        values,
        by_slot.slots,
        by_slot.starts,
        by_slot.order,
        weights,
        errors,
        sums,
        values if log is None else log,
        by_slot.starts if counts is None else counts,
        groups,
        read,
        max(1, written),
        RATE=rate,
        READS=weights.shape[1],
        WIDTH=width,
        WINDOW=window,
        WRITE=written > 0,
        LOG=log is not None,
        COUNTS=counts is not None,
        BLOCK_U=block_u,
        BLOCK_R=SLOT_READS,
        BLOCK_V=block_v,
        num_warps=4,
    )
