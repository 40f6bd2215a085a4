"""The static memory's read, streams and whole models in Triton, beside the torch backend."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from scan_cases import Case
from tiny_models import tiny_model
from tolerances import assert_close
from torch import Tensor
from torch.autograd.function import FunctionCtx

from fwpkm_eval.errors import UserError
from fwpkm_eval.kernels.pkm import pkm_read
from fwpkm_eval.kernels.stream import ProductKeyMemory, WriteQueue, flush, read_and_queue
from fwpkm_eval.kernels.triton_topk import Lookups

pytestmark = pytest.mark.usefixtures("poisoned_memory", "one_thread")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def pkm_inputs(heads: int, subkeys: int, half: int, width: int, tokens: int) -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    shapes = (2, tokens, heads * 2 * half), (heads, 2, subkeys, half), (subkeys**2, width)
    return [torch.randn(shape, generator=draw, dtype=torch.float64) for shape in shapes]


@pytest.mark.parametrize(
    ("heads", "subkeys", "half", "width", "topk"), [(4, 40, 8, 20, 32), (1, 5, 3, 4, 1), (3, 12, 30, 60, 5)]
)
def test_pkm_agrees_with_torch(heads: int, subkeys: int, half: int, width: int, topk: int) -> None:
    found = {}
    for backend in ("triton", "torch"):
        device = DEVICE if backend == "triton" else "cpu"
        given = [x.to(device).requires_grad_() for x in pkm_inputs(heads, subkeys, half, width, 3)]
        query, keys, values = given
        read, slots = pkm_read(query, keys, values, topk=topk, backend=backend)
        found[backend] = [slots, read, *torch.autograd.grad(read.square().sum(), given)]
    assert torch.equal(found["triton"][0].cpu(), found["torch"][0])
    names = ("read", "query", "keys", "values")
    for what, ours, expected in zip(names, found["triton"][1:], found["torch"][1:], strict=True):
        assert_close("scan.forward", ours.cpu(), expected, what)
    untouched = torch.ones(subkeys**2, dtype=torch.bool)
    untouched[found["torch"][0].flatten()] = False
    assert (found["triton"][-1].cpu()[untouched] == 0).all()


def test_a_gradient_of_a_gradient_is_refused() -> None:
    given = [x.to(DEVICE).requires_grad_() for x in pkm_inputs(1, 5, 3, 4, 3)]
    read, _ = pkm_read(*given, topk=2, backend="triton")
    slopes = torch.autograd.grad(read.sum(), given, create_graph=True)
    with pytest.raises(UserError, match="no gradient of a gradient"):
        slopes[0].square().sum().backward()


def test_a_read_without_a_gradient_keeps_nothing_for_one() -> None:
    given = [x.to(DEVICE).requires_grad_() for x in pkm_inputs(1, 5, 3, 4, 3)]
    query, keys, values = given
    memory = ProductKeyMemory(keys, values, Case(topk=2, width=4).rule, backend="triton")
    reads: list[Callable[[], Tensor]] = [
        lambda: pkm_read(query, keys, values, topk=2, backend="triton")[0],
        lambda: memory.read(query),
    ]
    for read in reads:
        with mock.patch.object(FunctionCtx, "save_for_backward", autospec=True) as saved:
            with torch.no_grad():
                without = read()
            assert not saved.called
            assert not without.requires_grad
        with_gradient = read()
        assert torch.equal(with_gradient, without)
        assert all(slope.abs().sum() > 0 for slope in torch.autograd.grad(with_gradient.square().sum(), given))


@pytest.mark.parametrize("backend", ["triton", "torch"])
def test_pkm_in_bfloat16_looks_up_in_float32(backend: str) -> None:
    """Inputs are rounded first; the lookup and its sums then run in float32."""
    query, keys, values = (x.to(DEVICE, torch.bfloat16).requires_grad_() for x in pkm_inputs(2, 9, 4, 20, 4))
    read, slots = pkm_read(query, keys, values, topk=3, backend=backend)
    raised = [x.detach().cpu().double().requires_grad_() for x in (query, keys, values)]
    expected, expected_slots = pkm_read(raised[0], raised[1], raised[2], topk=3, backend="torch")
    assert read.dtype == torch.bfloat16
    assert torch.equal(slots.cpu(), expected_slots)
    assert_close("scan.low_precision_gradient", read.cpu().double(), expected, "read", dtype=torch.bfloat16)
    cotangent = torch.randn(read.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    ours = torch.autograd.grad(read, (query, keys, values), cotangent.to(DEVICE))
    theirs = torch.autograd.grad(expected, raised, cotangent.double())
    for what, gradient, other in zip(("query", "keys", "values"), ours, theirs, strict=True):
        assert gradient.dtype == torch.bfloat16
        assert_close("scan.low_precision_gradient", gradient.cpu().double(), other, what, dtype=torch.bfloat16)


@pytest.mark.parametrize("count", ["written", "read"])
def test_a_stream_agrees_with_torch(count: Any) -> None:
    """Reads, counted writes and a flush, cut unevenly."""
    case = Case(batch=2, tokens=17, heads=2, subkeys=6, topk=2)
    inputs = case.inputs()
    ends = {}
    for backend in ("triton", "torch"):
        on = {name: x.to(DEVICE if backend == "triton" else "cpu", copy=True) for name, x in inputs.items()}
        memory = ProductKeyMemory(on["keys"], on["values"], case.rule, count, backend=backend)
        queue, outputs, start = WriteQueue(), [], 0
        for size in (3, 11, 2, 1):
            part = slice(start, start + size)
            piece = on["query"][:, part], on["target"][:, part], on["gate"][:, part]
            outputs.append(read_and_queue(memory, queue, *piece, 6))
            start += size
        flush(memory, queue)
        ends[backend] = torch.cat(outputs, 1), memory.keys, memory.values
        assert memory.copy().backend == backend
    for what, ours, expected in zip(("reads", "keys", "values"), ends["triton"], ends["torch"], strict=True):
        assert_close("stream.oracle", ours.cpu(), expected, what)


def test_autograd_finds_out_a_write_after_a_read() -> None:
    """A read's gradient needs the values as they were: kernels that overwrite them are no exception."""
    case = Case(tokens=4)
    inputs = {name: x.to(DEVICE) for name, x in case.inputs().items()}
    memory = ProductKeyMemory(inputs["keys"], inputs["values"], case.rule, backend="triton")
    query = inputs["query"].requires_grad_()
    read = memory.read(query)
    memory.write(query[:, :3].detach(), inputs["target"], None)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        read.sum().backward()


def test_the_gradient_of_a_read_in_a_stream() -> None:
    case = Case(batch=2, tokens=5, heads=2, subkeys=4, topk=2)
    found = []
    for backend in ("triton", "torch"):
        inputs = {name: x.to(DEVICE if backend == "triton" else "cpu") for name, x in case.inputs().items()}
        memory = ProductKeyMemory(inputs["keys"], inputs["values"], case.rule, backend=backend)
        query = inputs["query"].requires_grad_()
        found.append(torch.autograd.grad(memory.read(query).square().sum(), query)[0].cpu())
    assert_close("scan.gradient", found[0], found[1], "query")


@pytest.mark.usefixtures("any_operation")
@pytest.mark.parametrize("spec", ["gdn:fwpkm@1", "gdn:pkm@1"])
def test_a_model_reads_and_writes_with_the_backend_that_was_chosen(spec: str) -> None:
    model = tiny_model(spec).to(DEVICE)
    tokens = torch.randint(model.config.backbone.vocab_size, (1, 12), generator=torch.Generator().manual_seed(0))
    found = []
    for backend in ("triton", "torch"):
        model.use_backend(backend)
        with torch.no_grad():
            logits, _ = model(tokens.to(DEVICE), write_chunk=6)
        scanned, _ = model(tokens.to(DEVICE), updates="scan", write_chunk=6)
        scanned.square().sum().backward()
        slopes = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        model.zero_grad()
        found.append((logits, scanned.detach(), *slopes))
    for ours, expected in zip(*found, strict=True):
        assert_close("model.logits", ours, expected)


def test_recomputation_keeps_nothing_of_a_read() -> None:
    """What the lookups found is saved as autograd's tensors are, so that checkpointing drops it."""
    from torch.utils.checkpoint import checkpoint

    def alive() -> int:
        gc.collect()
        return sum(type(thing) is Lookups for thing in gc.get_objects())

    given = [x.to(DEVICE).requires_grad_() for x in pkm_inputs(2, 9, 4, 20, 4)]
    before = alive()
    read = checkpoint(lambda *x: pkm_read(*x, topk=3, backend="triton")[0], *given, use_reentrant=False)
    assert alive() == before
    expected = pkm_read(given[0], given[1], given[2], topk=3, backend="triton")[0]
    slopes = [torch.autograd.grad(one.square().sum(), given) for one in (read, expected)]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*slopes, strict=True))
    assert alive() == before
