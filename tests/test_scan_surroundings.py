"""What stands around a scan changes nothing in it: autocast; and what it returns is never what it was given."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from lact_cases import LaCTCase
from scan_cases import Case
from torch import Tensor

from fwpkm_eval.kernels import fwmlp_scan
from fwpkm_eval.kernels.lact import lact_scan

CASE = Case(batch=2, tokens=12, heads=2, subkeys=8, half=8, width=16, topk=3, chunk=5)
FWPKM = [(backend, score) for backend in ("reference", "torch") for score in ("idw", "dot")]

Scan = Callable[[], tuple[list[Tensor], list[Tensor]]]
"""Gives its results and its inputs."""


def _fwpkm(backend: str, score: str, tokens: int = 12, **settings: Any) -> tuple[list[Tensor], list[Tensor]]:
    case = Case(**{**vars(CASE), "score": score, "tokens": tokens})
    inputs = case.inputs(torch.float32, requires_grad=True)
    found = case.scan(inputs, backend=backend, **settings)
    return [found.output, found.keys, found.values], list(inputs.values())


def _fwmlp(tokens: int = 12) -> tuple[list[Tensor], list[Tensor]]:
    draw = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return (0.3 * torch.randn(shape, generator=draw)).requires_grad_()

    query, target = normal(2, tokens, 16), normal(2, tokens, 16)
    sizes = {"w_up": (24, 16), "b_up": (24,), "w_gate": (24, 16), "b_gate": (24,), "w_down": (16, 24), "b_down": (16,)}
    weights = {name: normal(*size) for name, size in sizes.items()}
    found = fwmlp_scan(query, target, weights, chunk_size=5)
    return [found.output, *found.weights.values()], [query, target, *weights.values()]


def _lact(tokens: int = 12) -> tuple[list[Tensor], list[Tensor]]:
    query, target, rates, weights = LaCTCase(tokens=tokens).inputs(torch.float32, requires_grad=True)
    found = lact_scan(query, target, rates, weights, chunk_size=5)
    return [found.output, *found.weights.values()], [query, target, rates, *weights.values()]


def _every(tokens: int) -> dict[str, Scan]:
    scans: dict[str, Scan] = {"fwmlp": partial(_fwmlp, tokens), "lact": partial(_lact, tokens)}
    for backend, score in FWPKM:
        scans[f"{backend} {score}"] = partial(_fwpkm, backend, score, tokens)
        scans[f"{backend} {score} without entropy"] = partial(_fwpkm, backend, score, tokens, addressing="none")
    return scans


def _with_gradients(scan: Scan) -> list[Tensor]:
    results, inputs = scan()
    total = torch.stack([x.square().sum() for x in results]).sum()
    return [*results, *torch.autograd.grad(total, inputs, allow_unused=True, materialize_grads=True)]


@pytest.mark.parametrize("name", list(_every(12)))
def test_autocast_around_a_scan_changes_nothing(name: str) -> None:
    """Results bit for bit; gradients too where the backward pass is ours, or comes after autocast as torch asks."""
    scan = _every(12)[name]
    expected = _with_gradients(scan)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        results, inputs = scan()
        ours = name.startswith("torch")
        total = torch.stack([x.square().sum() for x in results]).sum()
        inside = torch.autograd.grad(total, inputs, allow_unused=True, materialize_grads=True) if ours else None
    gradients = inside or torch.autograd.grad(total, inputs, allow_unused=True, materialize_grads=True)
    for x, y in zip([*results, *gradients], expected, strict=True):
        assert x.dtype == torch.float32
        assert torch.equal(x, y)


@pytest.mark.parametrize("tokens", [1, 12])
@pytest.mark.parametrize("name", list(_every(12)))
def test_what_is_returned_shares_no_memory_with_what_was_given(name: str, tokens: int) -> None:
    """A single token has its target in the next call: nothing is written, and what comes out is a copy all the same."""
    with torch.no_grad():
        results, inputs = _every(tokens)[name]()
        before = [x.clone() for x in inputs]
        for x in results:
            x.fill_(9)
    for x, y in zip(inputs, before, strict=True):
        assert torch.equal(x, y)
