"""The scan over chunks in closed form, in plain PyTorch, as one autograd function.

The forward pass works in place on the fast weights and keeps, per chunk, the old rows of the slots it read (at most
H·k·C of them); the backward pass needs nothing else of V. Nothing of the size S² × dv is made but the values themselves
(and, only if asked for, the gradient of the first values).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fwpkm_eval.kernels import closed_form as cf
from fwpkm_eval.kernels.product_keys import split_query
from fwpkm_eval.kernels.types import MemoryRule, ScanResult


@dataclass(frozen=True)
class ChunkStep:
    """One chunk's forward pass: what was read, and what its gradient needs.

    output [n,dv]; old_rows [U,dv]: V's rows before the write, if logged; memory_loss [B,written]; addressing_loss [].
    """

    output: Tensor
    reads: cf.Reads
    sort: cf.SlotSort
    old_rows: Tensor | None
    memory_loss: Tensor
    addressing_loss: Tensor | None


@dataclass(frozen=True)
class ChunkInputs:
    """A chunk's query [B,C,H·dk], target [B,C,dv], gate [B,C] or None, and what to do with them."""

    query: Tensor
    target: Tensor
    gate: Tensor | None
    rule: MemoryRule

    @property
    def written(self) -> int:
        """How many tokens of each row have a target: C − L."""
        return max(self.query.shape[1] - self.rule.lookahead, 0)

    def error(self, output: Tensor) -> Tensor:
        """v̂_t − y_t for the tokens written: output [n,dv] → [B, C−L, dv]."""
        batch, size, _ = self.query.shape
        return output.view(batch, size, -1)[:, : self.written] - self.target[:, self.rule.lookahead :]

    def gated(self, error: Tensor) -> Tensor:
        """e [n,dv] = g·(v̂ − y), zero for the last L tokens."""
        batch, size, _ = self.query.shape
        if self.gate is not None:
            error = self.gate[:, : self.written, None] * error
        padded = error.new_zeros(batch, size, error.shape[-1])
        padded[:, : self.written] = error
        return padded.view(batch * size, -1)


def step_chunk(
    inputs: ChunkInputs, keys: Tensor, values: Tensor, counted: Tensor | None = None, log: bool = False
) -> ChunkStep:
    """Reads a chunk, then writes it into keys [H,2,S,d] and values [S²,dv] in place.

    counted [·,H·k]: slots of the reads to take N_i and the factor C/(C−L) from, instead of the chunk's own; only the
    published streaming rule needs it. log: keeps the rows that are overwritten, for the gradient.
    """
    rule, heads = inputs.rule, keys.shape[0]
    query = split_query(inputs.query, heads)
    reads = cf.find_reads(query, keys, rule.topk, rule.score)
    output = cf.read_rows(values, reads.slots, reads.weights)
    sort = cf.sort_reads(reads.slots)
    by_subkey = cf.sort_subkeys(reads, keys.shape[2])
    old_rows = values[sort.slots] if log or rule.addressing == "none" else None

    error = inputs.error(output)
    squared = error.square().mean(-1)
    memory_loss = squared if inputs.gate is None else inputs.gate[:, : inputs.written] * squared
    gated = inputs.gated(error)
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
    return ChunkStep(output, reads, sort, old_rows, memory_loss, addressing_loss)


def _memorisation_ds(
    gated: Tensor, old_rows: Tensor, reads: cf.Reads, sort: cf.SlotSort, inputs: ChunkInputs
) -> Tensor:
    """No-entropy ablation: ∂/∂s [H,2,n,k] of ½·mean over tokens and features of g·(v̂ − y)²."""
    count = inputs.query.shape[0] * inputs.written * gated.shape[-1]
    dw = cf.dot_by_read(gated, old_rows, sort.positions().view(reads.slots.shape)) / count
    return cf.pairs_to_halves(cf.softmax_backward(reads.weights, dw), reads)


@dataclass
class ChunkGradient:
    """Gradients of one chunk: query [B,C,H·dk], target [B,C,dv], gate [B,C] or None, keys, and the rows it read."""

    query: Tensor
    target: Tensor
    gate: Tensor | None
    keys: Tensor
    rows: Tensor


def step_chunk_backward(
    inputs: ChunkInputs, step: ChunkStep, keys: Tensor, d_output: Tensor, d_keys: Tensor, d_rows: Tensor
) -> ChunkGradient:
    """The exact gradient of `step_chunk`.

    keys are those before the chunk; d_output [n,dv]; d_keys [H,2,S,d] of the new keys; d_rows [U,dv] of the new rows.
    """
    rule, reads, sort, old_rows = inputs.rule, step.reads, step.sort, step.old_rows
    assert old_rows is not None, "the step was made without its log"
    batch, size, _ = inputs.query.shape
    heads, _, subkeys, width = keys.shape
    query = split_query(inputs.query, heads)
    by_subkey = cf.sort_subkeys(reads, subkeys)
    positions = sort.positions().view(reads.slots.shape)
    error = inputs.error(step.output)
    gated = inputs.gated(error)
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
    d_gate = None
    if inputs.gate is not None:
        d_gate = torch.zeros_like(inputs.gate)
        d_gate[:, : inputs.written] = (d_error * error).sum(-1)
        d_error = inputs.gate[:, : inputs.written, None] * d_error
    d_target = torch.zeros_like(inputs.target)
    d_target[:, rule.lookahead :] = -d_error
    d_read = d_output.clone()
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
    d_query = d_query.permute(2, 0, 1, 3).reshape(batch, size, heads * 2 * width)
    return ChunkGradient(d_query, d_target, d_gate, new_d_keys, new_d_rows)


class _Scan(torch.autograd.Function):
    """(query, target, gate, keys, values) → (output, keys, values, indices, weights, memory_loss, addressing_loss)."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        target: Tensor,
        gate: Tensor | None,
        keys: Tensor,
        values: Tensor,
        rule: MemoryRule,
        chunk_size: int,
        inplace: bool,
    ) -> tuple[Any, ...]:
        if not inplace:
            keys, values = keys.clone(), values.clone()
        batch, tokens, _ = query.shape
        differentiated = any(ctx.needs_input_grad)
        steps, old_keys = [], []
        for start in range(0, tokens, chunk_size):
            inputs = _chunk(query, target, gate, rule, start, chunk_size)
            if differentiated:
                old_keys.append(keys.clone())
            steps.append(step_chunk(inputs, keys, values, log=differentiated))
        shape = (batch, -1, keys.shape[0], rule.topk)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(query, target, gate)
        ctx.steps, ctx.old_keys, ctx.rule, ctx.chunk_size, ctx.values_shape = (
            steps,
            old_keys,
            rule,
            chunk_size,
            values.shape,
        )
        indices = torch.cat([s.reads.slots.view(shape) for s in steps], 1)
        weights = torch.cat([s.reads.weights.view(shape) for s in steps], 1)
        memory_loss = torch.cat([s.memory_loss for s in steps], 1)
        losses = [s.addressing_loss for s in steps if s.addressing_loss is not None]
        addressing = torch.stack(losses).mean() if losses else query.new_zeros(())
        ctx.mark_non_differentiable(indices, weights, memory_loss, addressing)
        output = torch.cat([s.output.view(batch, -1, values.shape[1]) for s in steps], 1)
        if inplace:
            ctx.mark_dirty(keys, values)
        return output, keys, values, indices, weights, memory_loss, addressing

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        query, target, gate = ctx.saved_tensors
        d_output, d_keys, d_values = grads[:3]
        steps: list[ChunkStep] = ctx.steps
        rule: MemoryRule = ctx.rule
        width = ctx.values_shape[1]
        touched = torch.cat([s.sort.slots for s in steps]).unique()
        d_touched = query.new_zeros(len(touched), width) if d_values is None else d_values[touched]
        d_keys = torch.zeros_like(ctx.old_keys[0]) if d_keys is None else d_keys
        d_query, d_target = torch.zeros_like(query), torch.zeros_like(target)
        d_gate = None if gate is None else torch.zeros_like(gate)
        for number in reversed(range(len(steps))):
            start = number * ctx.chunk_size
            part = slice(start, start + ctx.chunk_size)
            inputs = _chunk(query, target, gate, rule, start, ctx.chunk_size)
            step = steps[number]
            place = torch.searchsorted(touched, step.sort.slots)
            d_out = torch.zeros_like(step.output) if d_output is None else d_output[:, part].reshape(-1, width)
            back = step_chunk_backward(inputs, step, ctx.old_keys[number], d_out, d_keys, d_touched[place])
            d_touched[place] = back.rows
            d_keys = back.keys
            d_query[:, part], d_target[:, part] = back.query, back.target
            if d_gate is not None and back.gate is not None:
                d_gate[:, part] = back.gate
        d_first_values = None
        if ctx.needs_input_grad[4]:
            d_first_values = _zeros(query, ctx.values_shape) if d_values is None else d_values.clone()
            d_first_values[touched] = d_touched
        return d_query, d_target, d_gate, d_keys, d_first_values, None, None, None


def _zeros(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Zeros of which, on a CPU, the system makes only the pages that are written: most slots were never read."""
    if like.device.type != "cpu":
        return like.new_zeros(shape)
    return torch.from_numpy(numpy.zeros(shape, dtype=str(like.dtype).removeprefix("torch.")))


def _chunk(query: Tensor, target: Tensor, gate: Tensor | None, rule: MemoryRule, start: int, size: int) -> ChunkInputs:
    part = slice(start, start + size)
    return ChunkInputs(query[:, part], target[:, part], None if gate is None else gate[:, part], rule)


def scan_torch(
    query: Tensor,
    target: Tensor,
    gate: Tensor | None,
    keys: Tensor,
    values: Tensor,
    rule: MemoryRule,
    chunk_size: int,
    inplace: bool = False,
) -> ScanResult:
    """The scan over chunks (see `fwpkm_scan` for shapes). inplace=True writes into the keys and values given."""
    result = _Scan.apply(query, target, gate, keys, values, rule, chunk_size, inplace)
    output, new_keys, new_values, indices, weights, memory_loss, addressing = result
    return ScanResult(
        output,
        new_keys,
        new_values,
        indices,
        weights,
        memory_loss,
        addressing if rule.addressing == "entropy" else None,
    )
