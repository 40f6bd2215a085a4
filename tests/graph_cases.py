"""Scans and memories for the tests of CUDA graphs, recorded by CUDA or, where there is no GPU, by a stand-in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextvars import Context
from dataclasses import replace
from typing import Any

import pytest
import torch
from scan_cases import Case
from torch import Tensor

from fwpkm_eval.kernels.types import ScanResult

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
BACKEND = "triton" if CUDA else "torch"
needs_gpu = pytest.mark.skipif(not CUDA, reason="needs a GPU")

SMALL = Case(batch=2, tokens=7, heads=2, subkeys=5, half=3, width=4, topk=3, chunk=4)


def memory_of(case: Case, seed: int = 100) -> dict[str, Any]:
    drawn = replace(case, seed=seed).inputs(torch.float32)
    return {name: drawn[name].to(DEVICE, copy=True) for name in ("keys", "values")}


def calls_of(case: Case, count: int) -> Iterator[dict[str, Any]]:
    """Queries, targets and gates of several calls, without the memory."""
    for seed in range(count):
        drawn = replace(case, seed=seed).inputs(torch.float32)
        yield {name: x if x is None else x.to(DEVICE) for name, x in drawn.items() if name not in ("keys", "values")}


def scan_on(case: Case, memory: dict[str, Tensor], given: dict[str, Any], backend: str = BACKEND) -> ScanResult:
    """As a layer calls it: the memory is a view of the last call's, another tensor each time."""
    views = {name: x.detach() for name, x in memory.items()}
    return case.scan({**given, **views}, backend=backend, inplace=True)


def results(result: ScanResult) -> list[Tensor]:
    found = (result.output, result.indices, result.weights, result.memory_loss, result.addressing_loss)
    return [x for x in found if x is not None]


def assert_same(ours: list[Tensor], expected: list[Tensor]) -> None:
    assert len(ours) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))


def without_graphs(call: Callable[..., ScanResult], *arguments: Any) -> ScanResult:
    """A call within `cuda_graphs`, as outside of it."""
    return Context().run(call, *arguments)
