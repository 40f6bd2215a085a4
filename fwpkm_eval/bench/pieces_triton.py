"""The operations of `pieces` as Triton kernels; imported only where they can run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fwpkm_eval.kernels.pkm import pkm_read
from fwpkm_eval.kernels.triton_chunk import addressing_ds, mean_shares, write_rows
from fwpkm_eval.kernels.triton_gradients import move_keys
from fwpkm_eval.kernels.triton_read import gather
from fwpkm_eval.kernels.triton_segments import group_by_slot, group_by_subkey
from fwpkm_eval.kernels.triton_topk import Lookups, find_slots
from fwpkm_eval.kernels.types import MemoryRule

if TYPE_CHECKING:
    from fwpkm_eval.bench.pieces import Chunk


def _query(chunk: Chunk) -> Tensor:
    """[1,n,H·dk], as models have it."""
    found = chunk.extra.get("flat query")
    if found is None:
        found = chunk.extra["flat query"] = chunk.query.permute(2, 0, 1, 3).reshape(1, chunk.tokens, -1).contiguous()
    assert isinstance(found, Tensor)
    return found


def _lookups(chunk: Chunk) -> Lookups:
    """What the lookup gives the others: made once, outside of their time after the first call."""
    found = chunk.extra.get("lookups")
    if found is None:
        found = chunk.extra["lookups"] = _find(chunk)
    assert isinstance(found, Lookups)
    return found


def _find(chunk: Chunk) -> Lookups:
    return find_slots(_query(chunk), chunk.keys, chunk.reads.first.shape[-1], "idw")


def lookup(chunk: Chunk) -> dict[str, Tensor]:
    """Product-key top-k."""
    found = _find(chunk)
    return {"slots": found.slots, "weights": found.weights}


def read(chunk: Chunk) -> dict[str, Tensor]:
    """Sparse read."""
    found = _lookups(chunk)
    return {"output": gather(chunk.values, found.slots, found.weights)}


def write(chunk: Chunk) -> dict[str, Tensor]:
    """Sparse write, with the sort that counts the reads."""
    found = _lookups(chunk)
    by_slot = group_by_slot(found.slots, len(chunk.values))
    write_rows(chunk.values, found.weights, by_slot, chunk.error, 1.0, read=1, written=1)
    return {"values": chunk.values}


def addressing(chunk: Chunk) -> dict[str, Tensor]:
    """Addressing step, with the sort that groups the selections by sub-key."""
    found = _lookups(chunk)
    heads, _, subkeys, _ = chunk.keys.shape
    by_subkey = group_by_subkey(found.numbers, subkeys)
    _, slope, _ = mean_shares(found, by_subkey, heads, subkeys, MemoryRule(chunk.reads.first.shape[-1]))
    ds = addressing_ds(found, slope, subkeys)
    out = torch.empty_like(chunk.keys)
    return {"keys": move_keys(found, by_subkey, ds, _query(chunk), chunk.keys, chunk.keys, out, "idw", -1.0)}


def pkm(chunk: Chunk) -> dict[str, Tensor]:
    """PKM's read, with the gradient of the rows that were read."""
    query, keys = chunk.extra["pkm_query"], chunk.extra["pkm_keys"]
    topk = chunk.extra["pkm_topk"]
    return {"output": pkm_read(query, keys, chunk.values, topk=topk, backend="triton")[0][0]}


ARMS = {"lookup": lookup, "read": read, "write": write, "addressing": addressing, "pkm": pkm}
