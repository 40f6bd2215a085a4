"""The scan over chunks as one autograd function, over the operations of a sparse backend (`torch` or `triton`).

The forward pass works in place on the fast weights and keeps, per chunk, the old rows of the slots it read; the
backward pass walks the chunks in reverse and needs nothing else of V. Nothing of the size S² × dv is made but the
values themselves (and, only if asked for, the gradient of the first values).
"""

from __future__ import annotations

from typing import Any

import numpy
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fwpkm_eval.kernels.chunk import ChunkGradient, ChunkInputs, ChunkOps, ChunkStep, TouchedRows
from fwpkm_eval.kernels.types import MemoryRule, ScanResult


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
        ops: ChunkOps,
    ) -> tuple[Any, ...]:
        if not inplace:
            keys, values = (x.clone(memory_format=torch.contiguous_format) for x in (keys, values))
        batch, tokens, _ = query.shape
        differentiated = any(ctx.needs_input_grad)
        steps: list[ChunkStep] = []
        old_keys = []
        output = values.new_empty(batch, tokens, values.shape[1])
        for start in range(0, tokens, chunk_size):
            inputs = _chunk(query, target, gate, rule, start, chunk_size)
            if differentiated:
                old_keys.append(keys.clone())
            part = output[:, start : start + chunk_size]
            steps.append(ops.step_chunk(inputs, keys, values, part, log=differentiated))
        shape = (batch, -1, keys.shape[0], rule.topk)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(query, target, gate, output)
        ctx.old_keys, ctx.rule, ctx.chunk_size, ctx.values_shape, ctx.ops = (
            old_keys,
            rule,
            chunk_size,
            values.shape,
            ops,
        )
        ctx.steps = steps if differentiated else []
        indices = torch.cat([s.slots.view(shape) for s in steps], 1).long()
        weights = torch.cat([s.weights.view(shape) for s in steps], 1)
        memory_loss = torch.cat([s.memory_loss for s in steps], 1)
        losses = [s.addressing_loss for s in steps if s.addressing_loss is not None]
        addressing = torch.stack(losses).mean() if losses else query.new_zeros(())
        ctx.mark_non_differentiable(indices, weights, memory_loss, addressing)
        if inplace:
            ctx.mark_dirty(keys, values)
        return output, keys, values, indices, weights, memory_loss, addressing

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        query, target, gate, output = ctx.saved_tensors
        d_output, d_keys, d_values = grads[:3]
        steps: list[ChunkStep] = ctx.steps
        rule: MemoryRule = ctx.rule
        ops: ChunkOps = ctx.ops
        touched = torch.cat([s.touched for s in steps]).unique().long()
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
            d_first_values = _zeros(query, ctx.values_shape) if d_values is None else d_values.clone()
            d_first_values[touched] = rows.gradient
        return d_query, d_target, d_gate, d_keys, d_first_values, None, None, None, None


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
    """The scan over chunks (see `fwpkm_scan` for shapes). inplace=True writes into the keys and values given."""
    result = _Scan.apply(query, target, gate, keys, values, rule, chunk_size, inplace, ops)
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
