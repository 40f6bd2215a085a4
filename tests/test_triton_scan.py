"""`fwpkm_scan` in Triton against the float64 reference: compiled where there is a GPU, in the interpreter elsewhere.

The kernels take the dtype of the memory, so in float64 they are held to float64's tolerances.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scan_cases import Case
from test_fwpkm_scan import LargestTensor
from tolerances import assert_close
from torch import Tensor

from fwpkm_eval.kernels.types import ScanResult

pytestmark = pytest.mark.usefixtures("poisoned_memory", "one_thread")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FORWARD = ("output", "keys", "values", "memory_loss", "weights")
SMALL = Case(batch=2, tokens=7, heads=2, subkeys=5, half=3, width=4, topk=3, chunk=4)
SETTINGS = [
    replace(SMALL, score="idw", addressing="entropy", gated=True, lookahead=0),
    replace(SMALL, score="idw", addressing="entropy", gated=True, lookahead=1),
    replace(SMALL, score="idw", addressing="entropy", gated=False, lookahead=2),
    replace(SMALL, score="idw", addressing="none", gated=True, lookahead=2),
    replace(SMALL, score="idw", addressing="none", gated=False, lookahead=1),
    replace(SMALL, score="idw", addressing="none", gated=True, lookahead=0),
    replace(SMALL, score="dot", addressing="entropy", gated=True, lookahead=2),
    replace(SMALL, score="dot", addressing="entropy", gated=False, lookahead=1),
    replace(SMALL, score="dot", addressing="entropy", gated=False, lookahead=0),
    replace(SMALL, score="dot", addressing="none", gated=True, lookahead=1),
    replace(SMALL, score="dot", addressing="none", gated=False, lookahead=2),
    replace(SMALL, score="dot", addressing="none", gated=True, lookahead=0),
]
# Block sizes follow widths and k: these pass every block's edge, in tokens, sub-keys, key, value and read dimensions.
AWKWARD = {
    "T 63, dv 60": Case(tokens=63, width=60, chunk=40, subkeys=6),
    "T 100, 4 heads": Case(tokens=100, heads=4, chunk=64, score="dot", topk=2),
    "S 12, dk/2 30, k 3": Case(batch=2, tokens=18, subkeys=12, half=30, width=60, chunk=10),
    "k 1": Case(topk=1, tokens=11),
    "k 1, dot, no entropy": Case(topk=1, score="dot", addressing="none", tokens=11),
    "k = S": Case(topk=8, subkeys=8, heads=2, tokens=10),
    "one slot": Case(subkeys=1, topk=1, tokens=5, chunk=2),
    "batch 3, L 3, no gate": Case(batch=3, lookahead=3, gated=False, tokens=13, chunk=7),
    "batch 3, no entropy": Case(batch=3, heads=2, addressing="none", score="dot", lookahead=2, tokens=10),
    "3 heads, no entropy": Case(batch=2, heads=3, addressing="none", topk=2, tokens=10),
    "chunk = L": Case(tokens=7, chunk=2, lookahead=2),
    "chunk < L, no entropy": Case(tokens=7, chunk=2, lookahead=3, addressing="none"),
    "last chunk = L": Case(tokens=8, chunk=7, lookahead=1, addressing="none"),
    "one token": Case(tokens=1, chunk=512, lookahead=0, score="dot"),
    "rates": Case(tokens=12, chunk=5, lookahead=0, learning_rate=0.3, addressing_weight=2.5),
    "wide values": Case(tokens=4, subkeys=3, topk=2, width=700, chunk=2),
    "wide keys": Case(tokens=4, subkeys=3, topk=2, half=270, chunk=4),
    "many sub-keys": Case(tokens=4, subkeys=70, chunk=4),
    "k 18": Case(tokens=4, subkeys=20, topk=18, chunk=2, addressing="none", width=40, lookahead=0),
}


def moved(inputs: dict[str, Any], dtype: torch.dtype | None = None) -> dict[str, Any]:
    """The same numbers as new leaves on the device that Triton runs on."""
    return {
        name: None if x is None else x.detach().to(DEVICE, dtype, copy=True).requires_grad_(x.requires_grad)
        for name, x in inputs.items()
    }


def gradients(result: ScanResult, inputs: dict[str, Any]) -> dict[str, Tensor]:
    """Gradients of a random weighting of output, keys and values, for every input that asks for one."""
    draw = torch.Generator().manual_seed(1)
    total: Tensor | float = 0.0
    for name in ("output", "keys", "values"):
        found = getattr(result, name)
        total = total + (found * torch.randn(found.shape, generator=draw, dtype=torch.float64).to(found)).sum()
    asked = {name: x for name, x in inputs.items() if x is not None and x.requires_grad}
    slopes = torch.autograd.grad(total, list(asked.values()), allow_unused=True, materialize_grads=True)  # type: ignore[arg-type]
    return dict(zip(asked, slopes, strict=True))


def check_case(case: Case) -> None:
    inputs = case.inputs(requires_grad=True)
    ours_inputs = moved(inputs)
    ours, expected = case.scan(ours_inputs, backend="triton"), case.scan(inputs, backend="reference")
    for name in FORWARD:
        assert_close("scan.forward", getattr(ours, name).cpu(), getattr(expected, name), name)
    assert torch.equal(ours.indices.cpu(), expected.indices)
    assert (ours.addressing_loss is None) == (expected.addressing_loss is None)
    if ours.addressing_loss is not None and expected.addressing_loss is not None:
        assert_close("scan.forward", ours.addressing_loss.cpu(), expected.addressing_loss, "addressing_loss")
    theirs = gradients(expected, inputs)
    for name, gradient in gradients(ours, ours_inputs).items():
        assert_close("scan.gradient", gradient.cpu(), theirs[name], f"gradient of {name}")


@pytest.mark.parametrize("case", AWKWARD.values(), ids=AWKWARD.keys())
def test_agrees_with_reference_at_awkward_sizes(case: Case) -> None:
    check_case(case)


@pytest.mark.parametrize("case", SETTINGS, ids=lambda c: f"{c.score}-{c.addressing}-{c.gated}-{c.lookahead}")
def test_agrees_with_reference_in_every_setting(case: Case) -> None:
    check_case(case)


@pytest.mark.parametrize("wanted", ["target", "values"])
def test_gradient_of_the_output_for_one_input(wanted: str) -> None:
    """Where only one input asks for a gradient and only one result has one."""
    inputs = SMALL.inputs()
    inputs[wanted].requires_grad_()
    found = {}
    for backend in ("triton", "reference"):
        given = moved(inputs) if backend == "triton" else inputs
        (found[backend],) = torch.autograd.grad(SMALL.scan(given, backend=backend).output.square().sum(), given[wanted])
    assert_close("scan.gradient", found["triton"].cpu(), found["reference"], wanted)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
@pytest.mark.parametrize("score", ["idw", "dot"])
def test_low_precision_activations(score: Any, dtype: torch.dtype) -> None:
    """Rounded first, then raised to float64 for the oracle; the memory itself is float32."""
    case = Case(batch=2, tokens=10, width=20, half=8, score=score)
    low = {
        name: x if x is None or name in ("keys", "values") else x.detach().to(dtype).requires_grad_()
        for name, x in case.inputs(torch.float32, requires_grad=True).items()
    }
    raised = {name: x if x is None else x.detach().double().requires_grad_() for name, x in low.items()}
    given = moved(low)
    ours, expected = case.scan(given, backend="triton"), case.scan(raised, backend="reference")
    assert ours.keys.dtype == ours.values.dtype == ours.output.dtype == torch.float32
    assert torch.equal(ours.indices.cpu(), expected.indices)
    for name in FORWARD:
        assert_close("scan.forward", getattr(ours, name).cpu(), getattr(expected, name).float(), name)
    theirs = gradients(expected, raised)
    for name, gradient in gradients(ours, given).items():
        assert gradient.dtype == low[name].dtype
        assert_close("scan.low_precision_gradient", gradient.cpu().double(), theirs[name], name, dtype=gradient.dtype)


def test_a_slot_that_every_token_reads() -> None:
    """All queries alike: N_i is the number of tokens, and each read slot moves by the mean error."""
    case = Case(batch=2, tokens=70, chunk=70, lookahead=0, gated=False, topk=2)
    inputs = case.inputs()
    inputs["query"] = inputs["query"][:1, :1].expand_as(inputs["query"])
    target, values = inputs["target"], inputs["values"]
    result = case.scan(moved(inputs), backend="triton")
    slots, weights = result.indices[0, 0, 0].cpu(), result.weights[0, 0, 0].cpu()
    mean_error = (weights @ values[slots]) - target.mean((0, 1))
    for slot, weight in zip(slots, weights, strict=True):
        ours = result.values[slot].cpu()
        assert_close("scan.forward", ours, values[slot] - case.topk * weight * mean_error)
    untouched = torch.ones(len(values), dtype=torch.bool)
    untouched[slots] = False
    assert torch.equal(result.values.cpu()[untouched], values[untouched])


@pytest.mark.parametrize("score", ["idw", "dot"])
def test_ties_give_one_of_the_best_answers(score: Any) -> None:
    """Every sub-key twice, and every value row four times: which of the equals is read does not matter."""
    case = Case(batch=2, subkeys=8, topk=3, score=score, chunk=100, tokens=12)
    inputs = case.inputs()
    keys, values = inputs["keys"], inputs["values"]
    inputs["keys"] = keys[:, :, :4].repeat_interleave(2, dim=2)
    grid = values.view(8, 8, -1)[:4, :4]
    inputs["values"] = grid.repeat_interleave(2, 0).repeat_interleave(2, 1).reshape(64, -1)
    ours, expected = case.scan(moved(inputs), backend="triton"), case.scan(inputs, backend="reference")
    assert_close("scan.forward", ours.weights.cpu(), expected.weights, "weights in order")
    assert (ours.indices.sort(-1).values.diff(dim=-1) > 0).all()


def test_a_query_that_meets_its_key() -> None:
    """Distance 0 scores −log ε, is finite in float32 too, and so are all gradients."""
    case = Case(tokens=8, subkeys=8, topk=2, chunk=3)
    inputs = case.inputs(torch.float32, requires_grad=True)
    with torch.no_grad():
        inputs["query"].copy_(inputs["keys"][0].transpose(0, 1).reshape(1, 8, -1))
    given = moved(inputs)
    result = case.scan(given, backend="triton")
    assert result.indices[0, :3, 0, 0].tolist() == [0, 9, 18]
    assert all(gradient.isfinite().all() for gradient in gradients(result, given).values())
    exact = case.scan({name: x.detach().double() for name, x in inputs.items()}, backend="reference")
    assert_close("scan.forward", result.output.cpu(), exact.output.float())


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_queries_that_are_not_numbers_stay_within_the_memory(bad: float) -> None:
    inputs = SMALL.inputs(torch.float32)
    inputs["query"][0, 2] = bad
    indices = SMALL.scan(moved(inputs), backend="triton").indices
    assert indices.min() >= 0
    assert indices.max() < SMALL.subkeys**2


def test_a_run_repeats_bit_for_bit() -> None:
    case = Case(tokens=20, batch=2, chunk=15, topk=2)
    runs = []
    for _ in range(2):
        inputs = moved(case.inputs(torch.float32, requires_grad=True))
        result = case.scan(inputs, backend="triton")
        runs.append([result.output, result.values, result.keys, *gradients(result, inputs).values()])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_what_is_given_is_not_changed_unless_in_place() -> None:
    inputs = moved(SMALL.inputs())
    before = {name: x.clone() for name, x in inputs.items()}
    copied = SMALL.scan(inputs, backend="triton")
    assert all(torch.equal(inputs[name], x) for name, x in before.items())
    keys, values = inputs["keys"], inputs["values"]
    result = SMALL.scan(inputs, backend="triton", inplace=True)
    assert (result.keys.data_ptr(), result.values.data_ptr()) == (keys.data_ptr(), values.data_ptr())
    for ours, expected in ((keys, copied.keys), (values, copied.values), (result.output, copied.output)):
        assert torch.equal(ours, expected)


@pytest.mark.parametrize(
    "strided",
    [lambda x: torch.stack([x, x], -1)[..., 0], lambda x: x.transpose(0, -1).contiguous().transpose(0, -1)],
    ids=["every second", "transposed"],
)
def test_inputs_that_are_not_contiguous(strided: Callable[[Tensor], Tensor]) -> None:
    inputs = SMALL.inputs()
    ends = []
    for layout in (strided, torch.clone):
        given = {name: layout(x.to(DEVICE)).requires_grad_() for name, x in inputs.items()}
        assert given["query"].is_contiguous() == (layout is torch.clone)
        result = SMALL.scan(given, backend="triton")
        # A sum has an expanded (stride 0) gradient, a transposed cotangent a transposed one.
        turned = torch.linspace(0, 1, result.values.numel(), dtype=torch.float64, device=DEVICE)
        total = result.output.sum() + result.keys.sum() + (result.values.T * turned.view_as(result.values.T)).sum()
        ends.append([result.output, result.keys, result.values, *torch.autograd.grad(total, list(given.values()))])
    assert all(torch.equal(ours, expected) for ours, expected in zip(*ends, strict=True))


def test_numbers_of_numpy_are_numbers() -> None:
    """Kernels are compiled for numbers of Python alone."""
    inputs = moved(SMALL.inputs())
    given = {"topk": np.int64(3), "lookahead": np.int64(1), "chunk_size": np.int64(4)}
    rates = {"learning_rate": np.float32(0.5), "addressing_weight": np.float32(2.0)}
    ours = SMALL.scan(inputs, backend="triton", **given, **rates)
    plain = {name: number.item() for name, number in (given | rates).items()}
    expected = SMALL.scan(inputs, backend="triton", **plain)
    assert torch.equal(ours.values, expected.values)
    assert torch.equal(ours.keys, expected.keys)


def test_a_gradient_can_be_taken_twice() -> None:
    inputs = moved(SMALL.inputs(requires_grad=True))
    output = SMALL.scan(inputs, backend="triton").output.sum()
    once, again = (torch.autograd.grad(output, inputs["query"], retain_graph=True)[0] for _ in range(2))
    assert torch.equal(once, again)


@pytest.mark.parametrize("addressing", ["entropy", "none"])
def test_nothing_of_the_size_of_the_values_is_made(addressing: Any) -> None:
    """In place, forward and backward touch only the rows that are read."""
    case = Case(tokens=8, subkeys=64, half=8, width=32, topk=2, chunk=4, addressing=addressing)
    inputs = moved(case.inputs(torch.float32))
    for name in ("query", "target", "gate"):
        inputs[name].requires_grad_()
    keys, values = inputs["keys"], inputs["values"]
    with LargestTensor([keys, values]) as made:
        result = case.scan(inputs, backend="triton", inplace=True)
        forward = made.operations
        result.output.sum().backward()
    assert forward > 10
    assert made.operations > forward + 5, "the backward pass was not watched"
    assert made.largest * 16 < values.numel(), made.operation
