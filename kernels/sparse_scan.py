"""The scan over chunks as one autograd function, over the operations of a sparse backend (`torch` or `triton`).

The forward pass works in place on the fast weights and keeps, per chunk, the old rows of the slots it read; the
backward pass walks the chunks in reverse and needs nothing else of V. Nothing of the size S² × dv is made but the
values themselves (and, only if asked for, the gradient of the first values).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy
import torch
from torch import Tensor

from fwpkm_eval.kernels.chunk import ChunkGradient, ChunkInputs, ChunkOps, ChunkStep, TouchedRows
from fwpkm_eval.kernels.grad_mode import first_gradient_only, takes_gradient
from fwpkm_eval.kernels.graph_capture import Inputs, Outputs, Step
from fwpkm_eval.kernels.graphs import active_graphs
from fwpkm_eval.kernels.huge_pages import copy_large
from fwpkm_eval.kernels.precision import full_precision
from fwpkm_eval.kernels.types import MemoryRule, ScanResult


class _Chunks(NamedTuple):
    """All chunks of a scan: what it gives (see `ScanResult`), and what its gradient needs, if it was logged."""

    output: Tensor
    indices: Tensor
    weights: Tensor
    memory_loss: Tensor
    addressing_loss: Tensor
    steps: list[ChunkStep]
    old_keys: list[Tensor]


def _scan_chunks(
    query: Tensor,
    target: Tensor,
    gate: Tensor | None,
    keys: Tensor,
    values: Tensor,
    rule: MemoryRule,
    chunk_size: int,
    ops: ChunkOps,
    log: bool,
) -> _Chunks:
    """Reads and writes chunk by chunk, in place."""
    batch, tokens, _ = query.shape
    steps: list[ChunkStep] = []
    old_keys = []
    output = values.new_empty(batch, tokens, values.shape[1])
    for start in range(0, tokens, chunk_size):
        inputs = _chunk(query, target, gate, rule, start, chunk_size)
        if log:
            old_keys.append(keys.clone())
        part = output[:, start : start + chunk_size]
        steps.append(ops.step_chunk(inputs, keys, values, part, log=log))
    shape = (batch, -1, keys.shape[0], rule.topk)
    indices = torch.cat([s.slots.view(shape) for s in steps], 1).long()
    weights = torch.cat([s.weights.view(shape) for s in steps], 1)
    memory_loss = torch.cat([s.memory_loss for s in steps], 1)
    losses = [s.addressing_loss for s in steps if s.addressing_loss is not None]
    addressing = torch.stack(losses).mean() if losses else query.new_zeros(())
    return _Chunks(output, indices, weights, memory_loss, addressing, steps if log else [], old_keys)


class _Scan(torch.autograd.Function):
    """(query, target, gate, keys, values) → (output, keys, values, indices, weights, memory_loss, addressing_loss).

    log: whether a gradient is taken, for which the rows and keys that each chunk overwrites are kept.
    """

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
        ops: ChunkOps,
        log: bool,
    ) -> tuple[Any, ...]:
        if not inplace:
            keys, values = copy_large(keys), copy_large(values)
        done = _scan_chunks(query, target, gate, keys, values, rule, chunk_size, ops, log)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(query, target, gate, done.output)
        ctx.steps, ctx.old_keys = done.steps, done.old_keys
        ctx.rule, ctx.chunk_size, ctx.values_shape, ctx.ops = rule, chunk_size, values.shape, ops
        not_differentiable = done.indices, done.weights, done.memory_loss, done.addressing_loss
        ctx.mark_non_differentiable(*not_differentiable)
        if inplace:
            ctx.mark_dirty(keys, values)
        return done.output, keys, values, *not_differentiable

    @staticmethod
    @first_gradient_only
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        with full_precision(ctx.saved_tensors[0].device):  # a backward pass may be run within autocast
            return _backward(ctx, *grads)


def _backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
    query, target, gate, output = ctx.saved_tensors
    d_output, d_keys, d_values = grads[:3]
    steps: list[ChunkStep] = ctx.steps
    rule: MemoryRule = ctx.rule
    ops: ChunkOps = ctx.ops
    exactly = d_values is not None or ctx.needs_input_grad[4]
    touched = _touched_slots(steps, ctx.values_shape[0], exactly)
    d_rows = query.new_zeros(len(touched), ctx.values_shape[1]) if d_values is None else d_values[touched]
    rows = TouchedRows(touched, d_rows.contiguous())
    d_keys = torch.zeros_like(ctx.old_keys[0]) if d_keys is None else d_keys
    d_query, d_target = query.new_zeros(query.shape), target.new_zeros(target.shape)
    d_gate = None if gate is None else torch.zeros_like(gate)
    for number in reversed(range(len(steps))):
        start = number * ctx.chunk_size
        part = slice(start, start + ctx.chunk_size)
        d_keys = ops.step_chunk_backward(
            _chunk(query, target, gate, rule, start, ctx.chunk_size),
            steps[number],
            ctx.old_keys[number],
            output[:, part],
            None if d_output is None else d_output[:, part],
            d_keys,
            rows,
            ChunkGradient(d_query[:, part], d_target[:, part], None if d_gate is None else d_gate[:, part]),
        )
    d_first_values = None
    if ctx.needs_input_grad[4]:
        d_first_values = _zeros(query, ctx.values_shape) if d_values is None else copy_large(d_values)
        d_first_values[touched] = rows.gradient
    return d_query, d_target, d_gate, d_keys, d_first_values, None, None, None, None, None


def _touched_slots(steps: list[ChunkStep], memory_slots: int, exactly: bool) -> Tensor:
    """The slots [U] int64 that any chunk read, ascending.

    On a GPU their number would have to be waited for, and the program would no longer be ahead of the GPU when it
    launches the chunks' many small kernels. So there are min(reads, S²) of them, beyond U of the number S², which no
    slot has; unless `exactly` those read are asked for.
    """
    reads = torch.cat([s.touched for s in steps])
    if exactly or reads.device.type == "cpu":
        return reads.unique().long()
    ordered = reads.sort().values
    first = torch.ones_like(ordered)
    torch.ne(ordered[1:], ordered[:-1], out=first[1:])
    touched = torch.full((min(len(reads), memory_slots),), memory_slots, dtype=torch.int64, device=reads.device)
    # Reads of one slot have one place, and all write the same there.
    return touched.scatter_(0, first.cumsum(0) - 1, ordered.long())


def _zeros(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Zeros of which, on a CPU, the system makes only the pages that are written: most slots were never read."""
    if like.device.type != "cpu":
        return like.new_zeros(shape)
    return torch.from_numpy(numpy.zeros(shape, dtype=str(like.dtype).removeprefix("torch.")))


def _chunk(query: Tensor, target: Tensor, gate: Tensor | None, rule: MemoryRule, start: int, size: int) -> ChunkInputs:
    part = slice(start, start + size)
    return ChunkInputs(query[:, part], target[:, part], None if gate is None else gate[:, part], rule)


def scan_sparse(
    query: Tensor,
    target: Tensor,
    gate: Tensor | None,
    keys: Tensor,
    values: Tensor,
    rule: MemoryRule,
    chunk_size: int,
    inplace: bool,
    ops: ChunkOps,
) -> ScanResult:
    """The scan over chunks (see `fwpkm_scan` for shapes). inplace=True writes into the keys and values given.

    In place and without a gradient it is replayed from a graph within `graphs.cuda_graphs`.
    """
    graphs = active_graphs()
    if graphs is not None and inplace and not takes_gradient(query, target, gate):
        what = ("scan", ops, rule, chunk_size)
        found = graphs.run(what, _scan_step(rule, chunk_size, ops), (query, target, gate), keys, values)
        result = found[0], keys, values, *found[1:]
    else:
        log = takes_gradient(query, target, gate, keys, values)
        result = _Scan.apply(query, target, gate, keys, values, rule, chunk_size, inplace, ops, log)
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


def _scan_step(rule: MemoryRule, chunk_size: int, ops: ChunkOps) -> Step:
    """All chunks: (query, target, gate) → output, indices, weights, memory loss, addressing loss."""

    def step(inputs: Inputs, keys: Tensor, values: Tensor) -> Outputs:
        query, target, gate = inputs
        assert query is not None
        assert target is not None
        return _scan_chunks(query, target, gate, keys, values, rule, chunk_size, ops, log=False)[:5]

    return step
