"""`fwpkm_scan`: the torch backend against the reference, both against plain loops, and what they promise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from naive_memory import NaiveMemory, naive_scan
from scan_cases import INPUTS, WRITTEN_OUT, Case, cases
from tolerances import assert_close, relative_error
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fwpkm_eval.errors import UserError
from fwpkm_eval.kernels import closed_form, sparse_torch
from fwpkm_eval.kernels.types import ScanResult

pytestmark = pytest.mark.usefixtures("poisoned_memory", "one_thread")

FORWARD = ("output", "keys", "values", "memory_loss", "weights")
SETTINGS = [
    pytest.param(Case(score=score, addressing=addressing, gated=gated), id=f"{score}-{addressing}-{gate}")
    for score in ("idw", "dot")
    for addressing in ("entropy", "none")
    for gated, gate in ((True, "gate"), (False, "no gate"))
]


def gradients(
    result: ScanResult, inputs: dict[str, Any], of: tuple[str, ...] = ("output", "keys", "values")
) -> dict[str, Tensor]:
    """Gradients of a random weighting of output, keys and values, for every input that asks for one."""
    draw = torch.Generator().manual_seed(1)
    total = torch.zeros((), dtype=torch.float64)
    for name in ("output", "keys", "values"):
        found = getattr(result, name)
        cotangent = torch.randn(found.shape, generator=draw, dtype=torch.float64)
        if name in of:
            total = total + (found * cotangent).sum()
    asked = {name: x for name, x in inputs.items() if x is not None and x.requires_grad}
    # A chunk no longer than its lookahead writes no target: zeros, where autograd would say "unused".
    found = torch.autograd.grad(total, list(asked.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(asked, found, strict=True))


def check_forward(ours: ScanResult, expected: ScanResult) -> None:
    for name in FORWARD:
        assert_close("scan.forward", getattr(ours, name), getattr(expected, name), name)
    assert torch.equal(ours.indices, expected.indices)
    assert (ours.addressing_loss is None) == (expected.addressing_loss is None)
    if ours.addressing_loss is not None and expected.addressing_loss is not None:
        assert_close("scan.forward", ours.addressing_loss, expected.addressing_loss, "addressing_loss")


def check_case(case: Case) -> None:
    inputs = case.inputs(requires_grad=True)
    ours, expected = case.scan(inputs, backend="torch"), case.scan(inputs, backend="reference")
    check_forward(ours, expected)
    theirs = gradients(expected, inputs)
    for name, gradient in gradients(ours, inputs).items():
        assert_close("scan.gradient", gradient, theirs[name], f"gradient of {name}")


@pytest.mark.parametrize("case", WRITTEN_OUT, ids=range(len(WRITTEN_OUT)))
def test_torch_agrees_with_reference_at_awkward_sizes(case: Case) -> None:
    check_case(case)


def is_steady(case: Case) -> bool:
    """Whether inputs that differ in the 12th digit leave fast weights that agree in the 8th.

    Where one write feeds the next through idw's slopes, up to 1e3 a write, rounding can grow past any tolerance.
    Three directions: one alone can miss by ten times how fast a difference grows.
    """

    def keys_and_values(frequency: float | None) -> list[Tensor]:
        inputs = case.inputs()
        if frequency is not None:
            inputs = {
                name: None if x is None else x * (1 + 1e-12 * torch.cos(frequency * x)) for name, x in inputs.items()
            }
        found = case.scan(inputs, backend="reference")
        return [found.keys, found.values]

    found = keys_and_values(None)
    return all(
        relative_error(one, other) < 1e-8
        for frequency in (1e6, 1.3e6, 2e6)
        for one, other in zip(found, keys_and_values(frequency), strict=True)
    )


WILD = Case(
    1, 63, heads=4, subkeys=13, half=1, width=60, topk=13, chunk=11, lookahead=0, addressing="none", gated=False
)
UNSTEADY = [WILD, replace(WILD, batch=2, subkeys=5, width=1, topk=1, seed=1)]


@settings(max_examples=150)
@given(case=cases())
@example(case=Case(score="dot", addressing="none", topk=8, chunk=2, lookahead=3))
def test_torch_agrees_with_reference_at_any_size(case: Case) -> None:
    assume(is_steady(case))
    check_case(case)


def test_nearly_all_cases_are_steady() -> None:
    assert not any(is_steady(case) for case in UNSTEADY)
    assert all(is_steady(case) for case in WRITTEN_OUT)


def as_numpy(x: Tensor | None) -> Any:
    return None if x is None else x.detach().numpy().copy()


@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize("lookahead", [0, 1, 3])
@pytest.mark.parametrize("case", SETTINGS)
def test_agrees_with_loops_over_the_equations(case: Case, lookahead: int, backend: str) -> None:
    """Both backends share some code; the loops share none with either."""
    case = replace(case, batch=2, tokens=11, heads=2, subkeys=5, topk=3, chunk=4, lookahead=lookahead)
    given = case.inputs()
    result = case.scan(given, backend=backend)
    naive = NaiveMemory(
        as_numpy(given["keys"]), as_numpy(given["values"]), case.topk, case.score, addressing=case.addressing
    )
    output = naive_scan(
        naive,
        as_numpy(given["query"]),
        as_numpy(given["target"]),
        as_numpy(given["gate"]),
        case.chunk,
        lookahead,
    )
    assert_close("scan.forward", result.output, torch.from_numpy(output), "output")
    assert_close("scan.forward", result.keys, torch.from_numpy(naive.keys), "keys")
    assert_close("scan.forward", result.values, torch.from_numpy(naive.values), "values")


def test_one_slot_read_once_holds_its_target_afterwards() -> None:
    """k = 1 and full gate: V ← V − (V − y) = y, the heart of the write, by hand."""
    case = Case(tokens=1, topk=1, chunk=1, lookahead=0, gated=False)
    inputs = case.inputs()
    result = case.scan(inputs, backend="torch")
    slot = int(result.indices)
    assert_close("scan.forward", result.values[slot], inputs["target"][0, 0])
    others = torch.arange(len(result.values)) != slot
    assert torch.equal(result.values[others], inputs["values"][others])


@pytest.mark.parametrize("lookahead", [0, 1, 2])
@pytest.mark.parametrize("case", SETTINGS)
def test_gradcheck(case: Case, lookahead: int) -> None:
    """The closed-form gradient against finite differences, in float64."""
    case = replace(
        case,
        batch=2,
        tokens=5,
        heads=2,
        subkeys=3,
        half=2,
        width=2,
        topk=2,
        chunk=3,
        lookahead=lookahead,
        seed=3,
    )
    names = [name for name in INPUTS if case.gated or name != "gate"]
    start = case.inputs(requires_grad=True)

    def run(*tensors: Tensor) -> tuple[Tensor, ...]:
        result = case.scan({"gate": None, **dict(zip(names, tensors, strict=True))}, backend="torch")
        return result.output, result.keys, result.values

    assert torch.autograd.gradcheck(run, [start[name] for name in names], eps=1e-6, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("addressing", ["entropy", "none"])
@pytest.mark.parametrize("of", ["output", "keys", "values"])
@pytest.mark.parametrize("wanted", INPUTS)
def test_gradient_of_one_result_for_one_input(of: str, wanted: str, addressing: Any) -> None:
    """Where only some inputs ask for a gradient, and only some results have one."""
    case = Case(batch=2, heads=2, addressing=addressing)
    inputs = case.inputs()
    inputs[wanted].requires_grad_()
    ours = gradients(case.scan(inputs, backend="torch"), inputs, (of,))
    expected = gradients(case.scan(inputs, backend="reference"), inputs, (of,))
    assert list(ours) == [wanted]
    assert_close("scan.gradient", ours[wanted], expected[wanted])
    # The entropy term moves the keys by the queries alone; all else depends on all else.
    independent = addressing == "entropy" and of == "keys" and wanted not in ("query", "keys")
    assert (expected[wanted].norm() == 0) == independent


@pytest.mark.parametrize("total", [Tensor.sum, lambda x: x.square().sum()], ids=["of a constant slope", "of a slope"])
def test_a_second_derivative_is_refused(total: Callable[[Tensor], Tensor]) -> None:
    """Never left out without a word: the torch backend has a closed form of the first derivative only."""

    def second(backend: str) -> Tensor:
        inputs = Case().inputs(requires_grad=True)
        (first,) = torch.autograd.grad(
            total(Case().scan(inputs, backend=backend).output), inputs["query"], create_graph=True
        )
        (2 * inputs["query"].sum() + first.square().sum()).backward()
        return inputs["query"].grad

    assert (second("reference") - 2).norm() > 1
    with pytest.raises(UserError, match="backend='reference' for second derivatives"):
        second("torch")


def test_a_first_derivative_with_a_graph_is_the_first_derivative() -> None:
    inputs = Case().inputs(requires_grad=True)
    loss = Case().scan(inputs, backend="torch").output.square().sum()
    (with_graph,) = torch.autograd.grad(loss, inputs["query"], create_graph=True)
    assert torch.equal(with_graph, torch.autograd.grad(loss, inputs["query"])[0])


@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_what_is_given_is_not_changed(backend: str, requires_grad: bool) -> None:
    inputs = Case(batch=2).inputs(requires_grad=requires_grad)
    before = {name: x.detach().clone() for name, x in inputs.items() if x is not None}
    result = Case(batch=2).scan(inputs, backend=backend)
    if requires_grad:
        gradients(result, inputs)
    for name, old in before.items():
        assert torch.equal(inputs[name], old)
    assert not torch.equal(result.values, before["values"])
    assert not torch.equal(result.keys, before["keys"])


def test_a_gradient_can_be_taken_twice() -> None:
    """The backward pass uses up nothing that it saved."""
    case = Case(batch=2, heads=2)
    inputs = case.inputs(requires_grad=True)
    result = case.scan(inputs, backend="torch")
    query = inputs["query"]
    once, again = (torch.autograd.grad(result.output.sum(), query, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(once, again)


@pytest.mark.parametrize("case", SETTINGS)
def test_inplace_writes_into_what_is_given_and_gives_the_same(case: Case) -> None:
    case = replace(case, batch=2, heads=2)
    inputs = case.inputs()
    copied = case.scan(case.inputs(), backend="torch")
    keys, values = inputs["keys"], inputs["values"]
    places = keys.data_ptr(), values.data_ptr()
    result = case.scan(inputs, backend="torch", inplace=True)
    assert (result.keys.data_ptr(), result.values.data_ptr()) == places == (keys.data_ptr(), values.data_ptr())
    for ours, expected in ((keys, copied.keys), (values, copied.values), (result.output, copied.output)):
        assert torch.equal(ours, expected)


def test_inplace_has_the_same_gradients() -> None:
    case = Case(batch=2, heads=2, addressing="none")
    found = []
    for inplace in (False, True):
        inputs = case.inputs(requires_grad=True)
        for name in ("keys", "values"):
            inputs[name] = case.inputs()[name]
        result = case.scan(inputs, backend="torch", inplace=inplace)
        asked = [x for name, x in inputs.items() if name in ("query", "target", "gate") and x is not None]
        found.append(torch.autograd.grad(result.output.square().sum() + result.keys.sum(), asked))
    for ours, expected in zip(*found, strict=True):
        assert torch.equal(ours, expected)


@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize("case", SETTINGS)
def test_one_memory_serves_the_whole_batch(case: Case, backend: str) -> None:
    """Rows in another order write the same memory; rows given twice write as if once (N_i counts both)."""
    case = replace(case, batch=3, lookahead=0)
    inputs = case.inputs()
    result = case.scan(inputs, backend=backend)

    def rows(index: list[int]) -> dict[str, Any]:
        return {name: x if x is None or name in ("keys", "values") else x[index] for name, x in inputs.items()}

    turned = case.scan(rows([2, 0, 1]), backend=backend)
    doubled = case.scan(rows([0, 1, 2, 0, 1, 2]), backend=backend)
    alone = case.scan(rows([0]), backend=backend)
    assert_close("scan.forward", turned.output, result.output[[2, 0, 1]])
    assert_close("scan.forward", doubled.output[3:], result.output)
    for other in (turned, doubled):
        assert_close("scan.forward", other.values, result.values)
        assert_close("scan.forward", other.keys, result.keys)
    # What the other rows wrote is read by row 0, from the second chunk on.
    assert_close("scan.forward", alone.output[:, : case.chunk], result.output[:1, : case.chunk])
    assert not torch.allclose(alone.output[:, case.chunk :], result.output[:1, case.chunk :])


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_slots_that_every_token_reads(backend: str) -> None:
    """All queries alike: N_i is the number of tokens, and each read slot moves by the mean error."""
    case = Case(batch=2, tokens=6, chunk=6, lookahead=0, gated=False, topk=2)
    inputs = case.inputs()
    query, target, values = inputs["query"], inputs["target"], inputs["values"]
    inputs["query"] = query[:1, :1].expand_as(query)
    result = case.scan(inputs, backend=backend)
    slots, weights = result.indices[0, 0, 0], result.weights[0, 0, 0]
    mean_error = (weights @ values[slots]) - target.mean((0, 1))
    for slot, weight in zip(slots, weights, strict=True):
        assert_close("scan.forward", result.values[slot], values[slot] - case.topk * weight * mean_error)


@pytest.mark.parametrize("score", ["idw", "dot"])
def test_ties_give_one_of_the_best_answers(score: Any) -> None:
    """Every sub-key twice, and every value row four times: which of the equals is read does not matter."""
    case = Case(batch=2, subkeys=8, topk=3, score=score, chunk=100)
    inputs = case.inputs()
    keys, values = inputs["keys"], inputs["values"]
    inputs["keys"] = keys[:, :, :4].repeat_interleave(2, dim=2)
    grid = values.view(8, 8, -1)[:4, :4]
    inputs["values"] = grid.repeat_interleave(2, 0).repeat_interleave(2, 1).reshape(64, -1)
    ours, expected = (case.scan(inputs, backend=backend) for backend in ("torch", "reference"))
    assert_close("scan.forward", ours.weights, expected.weights, "weights in order")
    # An odd k may split a pair of equal sums, so only the weights are the same for sure; slots are distinct.
    assert (ours.indices.sort(-1).values.diff(dim=-1) > 0).all()
    again = case.scan(inputs, backend="torch")
    assert torch.equal(again.values, ours.values)
    assert torch.equal(again.indices, ours.indices)


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_a_query_that_meets_its_key(backend: str) -> None:
    """Distance 0 scores −log ε, is finite in float32 too, and so are all gradients."""
    case = Case(tokens=8, subkeys=8, topk=2, chunk=3)
    expected = None
    for dtype in (torch.float64, torch.float32):
        inputs = case.inputs(dtype)
        keys = inputs["keys"]
        inputs["query"] = keys[0].transpose(0, 1).reshape(1, 8, -1).clone()
        inputs = {name: x if x is None else x.requires_grad_() for name, x in inputs.items()}
        result = case.scan(inputs, backend=backend)
        first = result.indices[0, :3, 0, 0]
        assert first.tolist() == [0, 9, 18]
        assert all(g.isfinite().all() for g in gradients(result, inputs).values())
        expected = expected or result
        # The reference expands the square as written, and at distance 0 that leaves 1e-7 beside ε = 1e-3.
        loose = backend == "reference" and dtype == torch.float32
        assert_close("scan.met_key" if loose else "scan.forward", result.output, expected.output.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_low_precision_activations_with_float32_memory(backend: str, dtype: torch.dtype) -> None:
    """Inputs are rounded first, then raised for the oracle: the scan itself runs in float32."""
    case = Case(batch=2, heads=2)
    low = {
        name: x if x is None or name in ("keys", "values") else x.detach().to(dtype).requires_grad_()
        for name, x in case.inputs(torch.float32).items()
    }
    raised = {name: x if x is None else x.detach().float().requires_grad_(x.requires_grad) for name, x in low.items()}
    ours, expected = case.scan(low, backend=backend), case.scan(raised, backend=backend)
    assert ours.keys.dtype == ours.values.dtype == torch.float32
    for name in ("output", "keys", "values"):
        assert torch.equal(getattr(ours, name).float(), getattr(expected, name))
    theirs = gradients(expected, raised)
    for name, gradient in gradients(ours, low).items():
        assert gradient.dtype == dtype
        assert_close("scan.low_precision_gradient", gradient, theirs[name], name)


def test_float32_stays_near_float64() -> None:
    for case in (Case(tokens=63, width=60, chunk=16), Case(tokens=100, heads=4, score="dot", chunk=32)):
        ours, expected = (case.scan(case.inputs(t), backend="torch") for t in (torch.float32, torch.float64))
        assert torch.equal(ours.indices, expected.indices)
        for name in ("output", "keys", "values"):
            assert_close("scan.forward", getattr(ours, name), getattr(expected, name).float(), name)


def test_memory_that_is_not_contiguous() -> None:
    case = Case(batch=2, heads=2)
    inputs = case.inputs()
    expected = case.scan(inputs, backend="torch")
    strided = {
        name: None if x is None else torch.stack([x, x], -1)[..., 0].requires_grad_() for name, x in inputs.items()
    }
    ours = case.scan(strided, backend="torch")
    assert_close("scan.forward", ours.values, expected.values)
    # Sums have expanded (stride 0) gradients.
    (ours.output.sum() + ours.keys.sum() + ours.values.sum()).backward()
    assert all(x is None or (x.grad is not None and x.grad.isfinite().all()) for x in strided.values())


def test_a_chunk_scored_in_blocks_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """More queries than fit one score matrix (a haystack as one chunk) are looked up block by block."""
    for case in (
        Case(batch=2, tokens=40, chunk=40, heads=2),
        Case(tokens=40, chunk=40, addressing="none", score="dot"),
    ):
        inputs = case.inputs(requires_grad=True)
        expected = case.scan(inputs, backend="torch")
        with monkeypatch.context() as patched:
            patched.setattr(closed_form, "LOOKUP_BLOCK", 7)
            ours = case.scan(inputs, backend="torch")
            check_forward(ours, expected)
            ours_gradients = gradients(ours, inputs)
        for name, gradient in gradients(expected, inputs).items():
            assert_close("scan.gradient", ours_gradients[name], gradient, name)


@pytest.mark.parametrize("inplace", [False, True])
def test_without_a_gradient_nothing_is_kept_for_one(inplace: bool) -> None:
    """Leaves that require one are no reason under no_grad: what each chunk overwrites would be kept for nothing."""
    case = Case(tokens=24, chunk=7)
    found = []
    for mode in (torch.enable_grad(), torch.no_grad(), torch.inference_mode()):
        inputs = case.inputs()
        for name in ("query", "target", "gate", *(() if inplace else ("keys", "values"))):
            inputs[name].requires_grad_()
        with mode, mock.patch.object(sparse_torch, "step_chunk", wraps=sparse_torch.step_chunk) as steps:
            result = case.scan(inputs, backend="torch", inplace=inplace)
        kept = isinstance(mode, torch.enable_grad)
        assert [call.kwargs["log"] for call in steps.call_args_list] == [kept] * 4
        assert result.output.requires_grad == kept
        found.append(result)
    for name in FORWARD:
        assert torch.equal(getattr(found[0], name), getattr(found[1], name))
        assert torch.equal(getattr(found[0], name), getattr(found[2], name))


class LargestTensor(TorchDispatchMode):
    """Notes the most elements that any operation newly made, `known` storages aside."""

    def __init__(self, known: list[Tensor]) -> None:
        super().__init__()
        self.known = {x.untyped_storage().data_ptr() for x in known}
        self.largest, self.operation, self.operations = 0, "", 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.operations += 1
        for x in out if isinstance(out, tuple | list) else (out,):
            if isinstance(x, Tensor) and x.untyped_storage().data_ptr() not in self.known:
                elements = x.untyped_storage().nbytes() // x.element_size()
                if elements > self.largest:
                    self.largest, self.operation = elements, str(func)
        return out


@pytest.mark.parametrize("case", SETTINGS)
def test_nothing_of_the_size_of_the_values_is_made(case: Case) -> None:
    """In place, forward and backward touch only the rows that are read."""
    case = replace(case, tokens=48, subkeys=64, half=8, width=32, topk=4, chunk=16)
    inputs = case.inputs(torch.float32)
    for name in ("query", "target", "gate"):
        x = inputs[name]
        if x is not None:
            x.requires_grad_()
    keys, values = inputs["keys"], inputs["values"]
    with LargestTensor([keys, values]) as made:
        result = case.scan(inputs, backend="torch", inplace=True)
        forward = made.operations
        result.output.sum().backward()
    assert forward > 30
    assert made.operations > forward + 30, "the backward pass was not watched"
    assert made.largest * 16 < values.numel(), made.operation
    # The measure itself: the reference is caught.
    with LargestTensor([keys, values]) as dense:
        case.scan(case.inputs(torch.float32), backend="reference")
    assert dense.largest >= values.numel()


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_a_run_repeats_bit_for_bit(backend: str) -> None:
    case = Case(tokens=100, batch=2, heads=2, chunk=20)
    runs = []
    for _ in range(2):
        inputs = case.inputs(torch.float32, requires_grad=True)
        result = case.scan(inputs, backend=backend)
        runs.append([result.output, result.values, result.keys, *gradients(result, inputs).values()])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_auto_takes_the_sparse_form_on_a_cpu() -> None:
    case = Case()
    assert torch.equal(case.scan(case.inputs()).values, case.scan(case.inputs(), backend="torch").values)
    assert np.isfinite(case.scan(case.inputs()).memory_loss.numpy()).all()
