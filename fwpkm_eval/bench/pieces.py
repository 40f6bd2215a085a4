"""The operations that a scan is made of, and PKM's read, each by itself: what it computes, and how much it must move.

All work on one chunk of n = B·C tokens. Reads go to U distinct slots. Bytes are those that no implementation can do
without: every tensor given read once, every tensor returned written once, of V the rows that are touched, once each
way; what they are over the time, against the bandwidth measured in the same process, is the share of the limit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from fwpkm_eval.bench.ops import Inputs, OpSize, draw
from fwpkm_eval.kernels import closed_form as cf
from fwpkm_eval.kernels.pkm import pkm_read
from fwpkm_eval.kernels.product_keys import half_scores, lookup, split_query
from fwpkm_eval.kernels.reference import addressing_loss
from fwpkm_eval.kernels.types import Score

PKM_HEADS, PKM_TOPK = 4, 32
"""PKM reads far more slots of a token than FwPKM (paper: H 4, k 32)."""
CHUNKS = 4
"""Chunks that the calls go through by turns, so that one's rows are not all in the cache when it is asked for again."""

TIE = 1e-5
"""Pair sums of order one that differ by less may come in either order in float32."""

Run = Callable[["Chunk"], Mapping[str, Tensor]]
"""One call; what it returns is compared with the reference's by name."""


@dataclass
class Chunk:
    """One chunk as the pieces meet it.

    query [H,2,n,dk/2]; error [n,dv] = g·(v̂ − y) of the tokens written (all of them here); keys [H,2,S,dk/2], values
    [S²,dv], shared by all chunks; reads: what the tokens read; extra: PKM's query, keys, and its output's cotangent.
    """

    query: Tensor
    error: Tensor
    keys: Tensor
    values: Tensor
    reads: cf.Reads
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        return self.query.shape[2]

    def tensor(self, name: str) -> Tensor:
        """A field, or an entry of ``extra``."""
        found = self.extra[name] if name in self.extra else getattr(self, name)
        assert isinstance(found, Tensor)
        return found

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Chunk:
        """The same chunk with other tensors in the place of some."""
        extra = {name: tensors.get(name, value) for name, value in self.extra.items()}
        fields: dict[str, Any] = {name: tensors[name] for name in ("keys", "values", "query") if name in tensors}
        return replace(self, extra=extra, **fields)

    @property
    def distinct(self) -> int:
        """U."""
        return len(self.reads.slots.unique())


@dataclass(frozen=True)
class Piece:
    """An operation: its implementations by backend, and the bytes a call must move.

    differentiable: the tensors of a `Chunk` whose gradients forward + backward takes; none: it is a step of the scan,
    whose gradient is not a function of its own.
    """

    name: str
    arms: Mapping[str, Run]
    bytes_moved: Callable[[Chunk], int]
    differentiable: tuple[str, ...] = ()

    @property
    def passes(self) -> tuple[str, ...]:
        return ("forward", "forward_backward") if self.differentiable else ("forward",)

    def arm(self, backend: str) -> Run:
        """The implementation of a backend; Triton's are imported when they are asked for."""
        if backend == "triton":
            from fwpkm_eval.bench.pieces_triton import ARMS

            return ARMS[self.name]
        return self.arms[backend]

    def call(self, backend: str, what: str, chunk: Chunk) -> dict[str, Tensor]:
        """One call: what it returns and, for forward + backward, the gradients, by name."""
        if what == "forward":
            with torch.no_grad():
                return dict(self.arm(backend)(chunk))
        wanted = {name: chunk.tensor(name).detach().requires_grad_() for name in self.differentiable}
        found = dict(self.arm(backend)(chunk.with_tensors(wanted)))
        gradients = torch.autograd.grad((found["output"] * chunk.extra["cotangent"]).sum(), list(wanted.values()))
        named = zip(wanted, gradients, strict=True)
        return {"output": found["output"].detach()} | {f"gradient of {name}": value for name, value in named}


def chunks_of(size: OpSize, seed: int, count: int = CHUNKS) -> list[Chunk]:
    """Chunks on one memory, their reads spread over all slots."""
    inputs = draw(_with_tokens(size, size.chunk * count), seed)
    return [_chunk(inputs, size, number) for number in range(count)]


def _with_tokens(size: OpSize, tokens: int) -> OpSize:
    return OpSize(**{**vars(size), "tokens": tokens})


def _chunk(inputs: Inputs, size: OpSize, number: int) -> Chunk:
    part = slice(number * size.chunk, (number + 1) * size.chunk)
    query = without_ties(split_query(inputs.query[:, part], size.heads).contiguous(), inputs.keys, size.topk, "idw")
    reads = cf.find_reads(query, inputs.keys, size.topk, "idw")
    error = (inputs.gate[:, part, None] * inputs.target[:, part]).reshape(-1, size.value_dim)
    random = torch.Generator().manual_seed(number)
    half = inputs.keys.shape[-1]
    pkm_query = torch.randn(1, query.shape[2], PKM_HEADS * 2 * half, generator=random)
    pkm_keys = torch.randn(PKM_HEADS, 2, size.subkeys, half, generator=random) * half**-0.5
    cotangent = torch.randn(1, query.shape[2], size.value_dim, generator=random)
    extra: dict[str, Any] = {"pkm_keys": pkm_keys.to(size.device), "cotangent": cotangent.to(size.device)}
    extra["pkm_topk"] = min(PKM_TOPK, size.subkeys)
    pkm_query = split_query(pkm_query.to(size.device), PKM_HEADS)
    pkm_query = without_ties(pkm_query, extra["pkm_keys"], extra["pkm_topk"], "dot")
    extra["pkm_query"] = pkm_query.permute(2, 0, 1, 3).reshape(1, query.shape[2], -1)
    return Chunk(query, error, inputs.keys, inputs.values, reads, extra)


def without_ties(query: Tensor, keys: Tensor, topk: int, score: Score) -> Tensor:
    """The queries [H,2,n,d]; tokens whose k-th and next best pairs tie in any head have those of one that does not.

    One token that reads another slot than the reference is an error beyond all tolerance, and of some thousand tokens
    at the size of the paper one or another ties.
    """
    best = half_scores(query.double(), keys.double(), score)
    best = best.topk(min(topk + 1, keys.shape[2]), dim=-1).values
    sums = (best[:, 0].unsqueeze(-1) + best[:, 1].unsqueeze(-2)).flatten(-2)
    if sums.shape[-1] <= topk:
        return query
    last, after = sums.topk(topk + 1, dim=-1).values[..., -2:].unbind(-1)
    clear = (last - after > TIE).all(0)
    if not clear.any():
        return query
    numbers = torch.arange(len(clear), device=clear.device)
    return query[:, :, torch.where(clear, numbers, clear.int().argmax())]


def _lookup_reference(chunk: Chunk) -> dict[str, Tensor]:
    found = lookup(chunk.query, chunk.keys, chunk.reads.first.shape[-1], "idw")
    return {"slots": found.slots.flatten(1), "weights": found.scores.flatten(1).softmax(-1)}


def _lookup_torch(chunk: Chunk) -> dict[str, Tensor]:
    found = cf.find_reads(chunk.query, chunk.keys, chunk.reads.first.shape[-1], "idw")
    return {"slots": found.slots, "weights": found.weights}


def _read_reference(chunk: Chunk) -> dict[str, Tensor]:
    return {"output": (chunk.reads.weights.unsqueeze(-1) * chunk.values[chunk.reads.slots]).sum(-2)}


def _read_torch(chunk: Chunk) -> dict[str, Tensor]:
    return {"output": cf.read_rows(chunk.values, chunk.reads.slots, chunk.reads.weights)}


def _write_reference(chunk: Chunk) -> dict[str, Tensor]:
    """Autograd's dense gradient of V and a dense step, as the published implementation writes."""
    values = chunk.values.detach().requires_grad_()
    with torch.enable_grad():
        read = (chunk.reads.weights.unsqueeze(-1) * values[chunk.reads.slots]).sum(-2)
        (step,) = torch.autograd.grad((read * chunk.error).sum(), values)
    counts = torch.bincount(chunk.reads.slots.flatten(), minlength=len(values)).clamp_min(1)
    chunk.values = values.detach() - step / counts.unsqueeze(-1)
    return {"values": chunk.values}


def _write_torch(chunk: Chunk) -> dict[str, Tensor]:
    sort = cf.sort_reads(chunk.reads.slots)
    cf.add_by_slot_(chunk.values, chunk.error, chunk.reads.weights, sort, -1 / sort.counts.to(chunk.error.dtype))
    return {"values": chunk.values}


def _addressing_reference(chunk: Chunk) -> dict[str, Tensor]:
    keys = chunk.keys.detach().requires_grad_()
    with torch.enable_grad():
        found = lookup(chunk.query, keys, chunk.reads.first.shape[-1], "idw")
        loss = addressing_loss(found, keys.shape[2], 1.0)
        (step,) = torch.autograd.grad(loss, keys)
    return {"keys": keys.detach() - step}


def _addressing_torch(chunk: Chunk) -> dict[str, Tensor]:
    sort = cf.sort_subkeys(chunk.reads, chunk.keys.shape[2])
    _, ds = cf.addressing_ds(chunk.reads, sort, 1.0)
    return {"keys": chunk.keys - cf.scores_to_keys(ds, chunk.reads, sort, chunk.query, chunk.keys, "idw")}


def _pkm_reference(chunk: Chunk) -> dict[str, Tensor]:
    found = lookup(split_query(chunk.extra["pkm_query"], PKM_HEADS), chunk.extra["pkm_keys"], _pkm_topk(chunk), "dot")
    weights = found.scores.softmax(-1).flatten(1)
    read = (weights.unsqueeze(-1) * chunk.values[found.slots.flatten(1)]).sum(-2)
    return {"output": read}


def _pkm_torch(chunk: Chunk) -> dict[str, Tensor]:
    query, keys = chunk.extra["pkm_query"], chunk.extra["pkm_keys"]
    found = pkm_read(query, keys, chunk.values, topk=_pkm_topk(chunk), backend="torch")
    return {"output": found[0][0]}


def _pkm_topk(chunk: Chunk) -> int:
    topk = chunk.extra["pkm_topk"]
    assert isinstance(topk, int)
    return topk


def _float_bytes(*tensors: Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _rows_bytes(chunk: Chunk) -> int:
    return chunk.distinct * chunk.values.shape[1] * chunk.values.element_size()


def _lookup_bytes(chunk: Chunk) -> int:
    return _float_bytes(chunk.query, chunk.keys, chunk.reads.slots, chunk.reads.weights)


def _read_bytes(chunk: Chunk) -> int:
    return _rows_bytes(chunk) + _float_bytes(chunk.reads.slots, chunk.reads.weights, chunk.error)


def _write_bytes(chunk: Chunk) -> int:
    return 2 * _rows_bytes(chunk) + _float_bytes(chunk.reads.slots, chunk.reads.weights, chunk.error)


def _addressing_bytes(chunk: Chunk) -> int:
    picked = _float_bytes(chunk.reads.half_indices, chunk.reads.half_scores)
    return _float_bytes(chunk.query) + 2 * _float_bytes(chunk.keys) + picked


def _pkm_bytes(chunk: Chunk) -> int:
    query, keys = chunk.extra["pkm_query"], chunk.extra["pkm_keys"]
    found = lookup(split_query(query, PKM_HEADS), keys, _pkm_topk(chunk), "dot")
    rows = len(found.slots.unique()) * chunk.values.shape[1] * chunk.values.element_size()
    return _float_bytes(query, keys, chunk.extra["cotangent"]) + rows


PIECES = {
    piece.name: piece
    for piece in (
        Piece("lookup", {"reference": _lookup_reference, "torch": _lookup_torch}, _lookup_bytes),
        Piece("read", {"reference": _read_reference, "torch": _read_torch}, _read_bytes),
        Piece("write", {"reference": _write_reference, "torch": _write_torch}, _write_bytes),
        Piece(
            "addressing",
            {"reference": _addressing_reference, "torch": _addressing_torch},
            _addressing_bytes,
        ),
        Piece(
            "pkm",
            {"reference": _pkm_reference, "torch": _pkm_torch},
            _pkm_bytes,
            differentiable=("pkm_query", "pkm_keys", "values"),
        ),
    )
}
