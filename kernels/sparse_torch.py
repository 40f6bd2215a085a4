"""One chunk of FwPKM, forward and backward, in plain PyTorch on any device: the operations of backend `torch`.

The gradient needs nothing of V but the old rows of the slots that the chunk read (at most H·k·C of them).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fwpkm_eval.kernels import closed_form as cf
from fwpkm_eval.kernels.chunk import ChunkGradient, ChunkInputs, ChunkStep, TouchedRows
from fwpkm_eval.kernels.product_keys import split_query
from fwpkm_eval.kernels.types import MemoryRule


@dataclass(frozen=True)
class Saved:
    """What the gradient of a chunk needs: its reads, their order by slot, V's rows [U,dv] before the write."""

    reads: cf.Reads
    sort: cf.SlotSort
    old_rows: Tensor


def _error(inputs: ChunkInputs, output: Tensor) -> Tensor:
    """v̂_t − y_t for the tokens written: output [n,dv] → [B, C−L, dv]."""
    batch, size, _ = inputs.query.shape
    return output.view(batch, size, -1)[:, : inputs.written] - inputs.target[:, inputs.rule.lookahead :]


def _gated(inputs: ChunkInputs, error: Tensor) -> Tensor:
    """e [n,dv] = g·(v̂ − y), zero for the last L tokens."""
    batch, size, _ = inputs.query.shape
    if inputs.gate is not None:
        error = inputs.gate[:, : inputs.written, None] * error
    padded = error.new_zeros(batch, size, error.shape[-1])
    padded[:, : inputs.written] = error
    return padded.view(batch * size, -1)


def read_memory(query: Tensor, keys: Tensor, values: Tensor, rule: MemoryRule) -> tuple[Tensor, Tensor, Tensor]:
    """query [B,C,H·dk] → (v̂ [B,C,dv], slots, weights [n,H·k]) (see `ChunkOps`)."""
    reads = cf.find_reads(split_query(query, keys.shape[0]), keys, rule.topk, rule.score)
    output = cf.read_rows(values, reads.slots, reads.weights).view(*query.shape[:2], -1)
    return output, reads.slots, reads.weights


def step_chunk(
    inputs: ChunkInputs,
    keys: Tensor,
    values: Tensor,
    output: Tensor | None = None,
    counted: Tensor | None = None,
    log: bool = False,
) -> ChunkStep:
    """Reads a chunk, then writes it in place (see `ChunkOps`)."""
    rule, heads = inputs.rule, keys.shape[0]
    query = split_query(inputs.query, heads)
    reads = cf.find_reads(query, keys, rule.topk, rule.score)
    read_out = cf.read_rows(values, reads.slots, reads.weights)
    if output is not None:
        output.copy_(read_out.view_as(output))
    sort = cf.sort_reads(reads.slots)
    by_subkey = cf.sort_subkeys(reads, keys.shape[2])
    old_rows = values[sort.slots] if log or rule.addressing == "none" else None

    error = _error(inputs, read_out)
    squared = error.square().mean(-1)
    memory_loss = squared if inputs.gate is None else inputs.gate[:, : inputs.written] * squared
    gated = _gated(inputs, error)
    ds, addressing_loss = None, None
    if rule.addressing == "entropy":
        addressing_loss, ds = cf.addressing_ds(reads, by_subkey, rule.addressing_weight)
    elif inputs.written:
        assert old_rows is not None
        ds = _memorisation_ds(gated, old_rows, reads, sort, inputs)
    if inputs.written:
        read, counts = inputs.query.shape[1], sort.counts
        if counted is not None:
            read, counts = len(counted) // inputs.query.shape[0], cf.count_reads(counted, sort.slots)
        scale = cf.write_scale(rule, heads, read, inputs.written)
        cf.add_by_slot_(values, gated, reads.weights, sort, -scale / counts.to(gated.dtype))
    if ds is not None:
        key_step = cf.scores_to_keys(ds, reads, by_subkey, query, keys, rule.score)
        keys.sub_(key_step, alpha=rule.learning_rate)
    saved = Saved(reads, sort, old_rows) if log and old_rows is not None else None
    return ChunkStep(reads.slots, reads.weights, memory_loss, addressing_loss, sort.slots, saved)


def _memorisation_ds(
    gated: Tensor, old_rows: Tensor, reads: cf.Reads, sort: cf.SlotSort, inputs: ChunkInputs
) -> Tensor:
    """No-entropy ablation: ∂/∂s [H,2,n,k] of ½·mean over tokens and features of g·(v̂ − y)²."""
    count = inputs.query.shape[0] * inputs.written * gated.shape[-1]
    dw = cf.dot_by_read(gated, old_rows, sort.positions().view(reads.slots.shape)) / count
    return cf.pairs_to_halves(cf.softmax_backward(reads.weights, dw), reads)


def step_chunk_backward(
    inputs: ChunkInputs,
    step: ChunkStep,
    keys: Tensor,
    output: Tensor,
    d_output: Tensor | None,
    d_keys: Tensor,
    rows: TouchedRows,
    into: ChunkGradient,
) -> Tensor:
    """The exact gradient of `step_chunk` (see `ChunkOps`)."""
    saved: Saved | None = step.saved
    assert saved is not None, "the step was made without its log"
    rule, reads, sort, old_rows = inputs.rule, saved.reads, saved.sort, saved.old_rows
    places = torch.searchsorted(rows.slots, sort.slots)
    d_rows = rows.gradient[places]
    batch, size, _ = inputs.query.shape
    heads, _, subkeys, width = keys.shape
    query = split_query(inputs.query, heads)
    by_subkey = cf.sort_subkeys(reads, subkeys)
    positions = sort.positions().view(reads.slots.shape)
    flat_output = output.reshape(batch * size, -1)
    error = _error(inputs, flat_output)
    gated = _gated(inputs, error)
    d_gated = torch.zeros_like(gated)
    d_weights = torch.zeros_like(reads.weights)
    d_half = torch.zeros_like(reads.half_scores)

    if inputs.written:
        # The slots' scales D go with the weights of their reads, so that no copy of the rows is made for them.
        scale = (cf.write_scale(rule, heads, size, inputs.written) / sort.counts.to(d_rows.dtype))[positions]
        d_gated -= cf.read_rows(d_rows, positions, scale * reads.weights)
        d_weights -= scale * cf.dot_by_read(gated, d_rows, positions)

    # The step on the keys: K' = K − η·(Σ ds·∂s/∂K), whose ds came from the entropy or from the memorisation loss.
    new_d_keys = d_keys.clone()
    d_query_step, from_keys = None, None
    if rule.addressing == "entropy" or inputs.written:
        cotangent = -rule.learning_rate * d_keys
        if rule.addressing == "entropy":
            _, ds = cf.addressing_ds(reads, by_subkey, rule.addressing_weight)
        else:
            ds = _memorisation_ds(gated, old_rows, reads, sort, inputs)
        back = cf.key_step_backward(cotangent, ds, reads, by_subkey, query, keys, rule.score)
        d_query_step = back.query
        if back.keys is not None:
            new_d_keys += back.keys
        if back.scores is not None:
            d_half += back.scores
        if rule.addressing == "entropy":
            d_half += cf.addressing_backward(back.ds, reads, by_subkey, rule.addressing_weight)
        else:
            count = batch * inputs.written * gated.shape[-1]
            pull = cf.halves_to_pairs(back.ds, reads)
            w, dw = reads.weights, cf.dot_by_read(gated, old_rows, positions) / count
            mean_pull = (w * pull).sum(-1, keepdim=True)
            d_weights += pull * (dw - (w * dw).sum(-1, keepdim=True)) - mean_pull * dw
            d_dw = w * (pull - mean_pull) / count
            d_gated += cf.read_rows(old_rows, positions, d_dw)
            from_keys = cf.sum_by_slot(gated, d_dw, sort)

    # e = g·(v̂ − y) on the tokens written.
    d_error = d_gated.view(batch, size, -1)[:, : inputs.written]
    if inputs.gate is not None and into.gate is not None:
        into.gate[:, : inputs.written] = (d_error * error).sum(-1)
        d_error = inputs.gate[:, : inputs.written, None] * d_error
    into.target[:, rule.lookahead :] = -d_error
    d_read = torch.zeros_like(flat_output) if d_output is None else d_output.reshape(batch * size, -1).clone()
    d_read.view(batch, size, -1)[:, : inputs.written] += d_error

    # v̂ = A·R, then through the softmax and the scores.
    new_d_rows = cf.sum_by_slot(d_read, reads.weights, sort).add_(d_rows)
    if from_keys is not None:
        new_d_rows += from_keys
    d_weights += cf.dot_by_read(d_read, old_rows, positions)
    d_half += cf.pairs_to_halves(cf.softmax_backward(reads.weights, d_weights), reads)
    d_query = cf.scores_to_query(d_half, reads, query, keys, rule.score)
    new_d_keys += cf.scores_to_keys(d_half, reads, by_subkey, query, keys, rule.score)
    if d_query_step is not None:
        d_query = d_query + d_query_step
    into.query.copy_(d_query.permute(2, 0, 1, 3).reshape(batch, size, heads * 2 * width))
    rows.gradient[places] = new_d_rows
    return new_d_keys
