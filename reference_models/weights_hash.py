"""The hash by which weights are told apart, and a cheap check of whether they are still those that it was made of."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor


def hash_weights(seed: int, weights: Mapping[str, Tensor]) -> str:
    """16 hex digits over the names, shapes, types and bytes of all tensors, the seed included."""
    digest = hashlib.sha256()
    for part in _parts(seed, weights):
        digest.update(part)
    return digest.hexdigest()[:16]


def check_sum(seed: int, weights: Mapping[str, Tensor]) -> int:
    """CRC-32 of what is hashed: several times faster, and enough to notice that something was changed.

    Of the bytes, since nothing else would do: neither the fused optimizers nor writes to `tensor.data` count up a
    tensor's version.
    """
    total = 0
    for part in _parts(seed, weights):
        total = zlib.crc32(part, total)
    return total


def _parts(seed: int, weights: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    yield f"seed {seed}".encode()
    for name, tensor in sorted(weights.items()):
        yield f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode()
        yield tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
