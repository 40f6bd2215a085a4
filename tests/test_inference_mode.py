"""Under torch.inference_mode everything reads and writes as under torch.no_grad, to the bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from model_cases import small_model
from model_cases import tokens as some_tokens
from torch import Tensor

from fwpkm_eval.kernels import fwmlp_scan, fwpkm_scan


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def fwpkm_inputs() -> dict[str, Any]:
    inputs = {"query": drawn(2, 20, 8), "target": drawn(2, 20, 6), "gate": drawn(2, 20).sigmoid()}
    return inputs | {"keys": drawn(1, 2, 4, 4), "values": drawn(16, 6)}


def fwmlp_inputs() -> dict[str, Any]:
    weights = {"w_up": drawn(7, 8), "b_up": drawn(7), "w_gate": drawn(7, 8), "b_gate": drawn(7)}
    weights |= {"w_down": drawn(6, 7), "b_down": drawn(6)}
    return {"query": drawn(2, 20, 8), "target": drawn(2, 20, 6), "weights": weights}


def flat(result: Any) -> list[Tensor]:
    parts = (part.values() if isinstance(part, dict) else [part] for part in vars(result).values())
    return [tensor for part in parts for tensor in part if tensor is not None]


SCANS = {
    "reference": (lambda **inputs: fwpkm_scan(**inputs, topk=2, chunk_size=8, backend="reference"), fwpkm_inputs),
    "torch": (lambda **inputs: fwpkm_scan(**inputs, topk=2, chunk_size=8, backend="torch"), fwpkm_inputs),
    "fwmlp": (lambda **inputs: fwmlp_scan(**inputs, chunk_size=8), fwmlp_inputs),
}


@pytest.mark.parametrize("name", SCANS)
@pytest.mark.parametrize("made_inside", [False, True])
def test_scans_in_inference_mode(name: str, made_inside: bool) -> None:
    scan, make = SCANS[name]
    with torch.no_grad():
        wanted = flat(scan(**make()))
    inputs = None if made_inside else make()
    with torch.inference_mode():
        inputs = inputs or make()
        found = flat(scan(**inputs))
    with torch.no_grad():
        later = flat(scan(**inputs))  # its inputs may have been made in inference mode
    for one, inside, after in zip(wanted, found, later, strict=True):
        assert torch.equal(one, inside)
        assert torch.equal(one, after)


@pytest.mark.parametrize("memory", ["fwpkm", "fwmlp", "lact"])
@pytest.mark.parametrize("updates", ["stream", "scan"])
def test_models_in_inference_mode(memory: str, updates: Any) -> None:
    def read(mode: Callable[[], Any]) -> tuple[Tensor, dict[int, dict[str, Tensor]]]:
        # A rate at which so small a FwMLP does not diverge: what is not a number equals nothing.
        slow: dict[str, Any] = {"fwmlp.learning_rate": 0.001}
        model = small_model(f"gdn+swa:{memory}@1", **slow)
        with mode():
            tokens = some_tokens(length=48)
            _, state = model(tokens, updates=updates, write_chunk=16)
            logits, state = model(tokens, model.flush(state), updates=updates, write_chunk=16)
        return logits, state.fast_weights

    wanted, weights = read(torch.no_grad)
    found, weights_inside = read(torch.inference_mode)
    assert torch.equal(wanted, found)
    for number, of_layer in weights.items():
        assert all(torch.equal(tensor, weights_inside[number][name]) for name, tensor in of_layer.items())
