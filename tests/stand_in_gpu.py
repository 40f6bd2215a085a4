"""A stand-in for a GPU where there is none: tensors that say they are on cuda:0 and keep their numbers on the CPU.

What a GPU refuses, this refuses: an operation over tensors of both devices, numpy's view of a tensor on it. It computes
what the CPU computes, so that whole commands run on it and their numbers can be held against the CPU's. What it cannot
show: compiled kernels, autocast, streams, timings, memory.

Underneath the tensors are on torch's device "meta", which any build of torch has: autograd asks for no driver there.
"""

from __future__ import annotations

import contextlib
import math
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map
from triton.runtime.interpreter import GridExecutor

GPU = torch.device("cuda", 0)
_ATEN: Any = torch.ops.aten
_COPIES = (_ATEN._to_copy.default, _ATEN.copy_.default)
_INDEXING = (_ATEN.index.Tensor, _ATEN.index_put.default, _ATEN.index_put_.default, _ATEN._index_put_impl_.default)
_FACTORIES = (
    *("arange", "as_tensor", "empty", "eye", "full", "linspace", "ones"),
    *("rand", "randint", "randn", "randperm", "tensor", "zeros"),
)
_WAITING = (
    *(_ATEN._local_scalar_dense.default, _ATEN.equal.default, _ATEN.nonzero.default, _ATEN.masked_select.default),
    *(_ATEN._unique2.default, _ATEN.unique_consecutive.default, _ATEN.unique_dim.default),
)
_PINNED = "pinned"
_zeros = torch.zeros
_waits: list[str] = []


@contextlib.contextmanager
def waits() -> Iterator[list[str]]:
    """What makes the program wait until the GPU has done all it was given: its numbers are read, sizes depend on them,
    or memory of the CPU is copied that is not pinned, or without non_blocking. Each with the lines that asked."""
    _waits.clear()
    found: list[str] = []
    yield found
    found += _waits


def _wait(what: str) -> None:
    asked = [frame for frame in traceback.extract_stack() if "/site-packages/" not in frame.filename]
    lines = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in asked if frame.filename != __file__]
    _waits.append(f"{what} at {' < '.join(reversed(lines[-3:]))}")


class OtherDevice(AssertionError):
    """An operation over tensors of both devices, as a GPU would refuse it."""


class GpuTensor(Tensor):
    """`held`, a tensor on the CPU, as one on the GPU."""

    held: Tensor
    _is_param: bool
    # Operations come to __torch_dispatch__, below autograd.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, held: Tensor) -> GpuTensor:
        make: Any = Tensor._make_wrapper_subclass
        place = {"strides": held.stride(), "storage_offset": held.storage_offset()}
        made = make(cls, held.shape, **place, dtype=held.dtype, device="meta")
        return cast(GpuTensor, made)

    def __init__(self, held: Tensor) -> None:
        self.held = held

    def __repr__(self, **options: Any) -> str:  # type: ignore[override]
        return f"on the GPU: {self.held!r}"

    device = property(lambda self: GPU)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)
    is_meta = property(lambda self: False)

    def tolist(self) -> Any:
        _wait("tolist")
        return self.held.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    def __deepcopy__(self, memo: dict[int, Any]) -> GpuTensor:
        copied = GpuTensor(self.held.clone())
        copied.requires_grad_(self.requires_grad)
        if isinstance(self, nn.Parameter):
            copied._is_param = True  # what makes it one, for tensors of a class of their own
        return copied

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        _check(func, args, given)
        if _is_waited_for(func, args, kwargs):
            _wait(func.__name__)
        stays = args[0].is_cuda if func is _ATEN.copy_.default else True
        if kwargs.get("device") is not None:
            stays = torch.device(kwargs["device"]).type != "cpu"
            kwargs["device"] = torch.device("cpu")
        out = func(*tree_map(_held, args), **tree_map(_held, kwargs))
        same = {id(x.held): x for x in given if isinstance(x, GpuTensor)}  # in place: the tensor itself comes back

        def wrap(x: Any) -> Any:
            if not isinstance(x, Tensor) or not stays:
                return x
            return same[id(x)] if id(x) in same else GpuTensor(x)

        return tree_map(wrap, out)


def _check(func: Any, args: Any, given: list[Tensor]) -> None:
    """Refuses what a GPU refuses: a tensor elsewhere, unless it is copied, an index, or a number among its numbers."""
    for x in given:
        if isinstance(x, GpuTensor) or func in _COPIES:
            continue
        if x.is_meta and torch._C._current_graph_task_id() >= 0:
            continue  # zeros that autograd made for a gradient that is none: see `_held`
        if func in _INDEXING and isinstance(args[0], GpuTensor) and x is not args[0] and x is not args[-1]:
            continue
        if x.dim() == 0 and torch.Tag.pointwise in func.tags:
            continue
        raise OtherDevice(f"{func}: a tensor {tuple(x.shape)} on {x.device} among tensors on the GPU")


def _is_waited_for(func: Any, args: Any, kwargs: dict[str, Any]) -> bool:
    if func is _ATEN.copy_.default:
        target, source = args[:2]
        other = source.dim() > 0 and isinstance(target, GpuTensor) != isinstance(source, GpuTensor)
        return other and not (len(args) > 2 and args[2])
    if func is _ATEN._to_copy.default:
        leaves = kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "cpu"
        return leaves and not kwargs.get("non_blocking")
    if func in _INDEXING:
        return any(x is not None and (x.dtype == torch.bool or not isinstance(x, GpuTensor)) for x in args[1])
    return func in _WAITING


def _held(x: Any) -> Any:
    if isinstance(x, GpuTensor):
        return x.held
    return _zeros(x.shape, dtype=x.dtype) if isinstance(x, Tensor) and x.is_meta else x


def _is_gpu(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cuda"


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes torch take the device "cuda" for this test."""
    for name in _FACTORIES:
        monkeypatch.setattr(torch, name, _made_there(getattr(torch, name)))
    monkeypatch.setattr(Tensor, "to", _moved(Tensor.to))
    monkeypatch.setattr(Tensor, "pin_memory", _pinned)
    monkeypatch.setattr(GridExecutor, "__call__", _launched(GridExecutor.__call__))
    monkeypatch.setattr(F, "scaled_dot_product_attention", _attend(F.scaled_dot_product_attention))
    said: dict[str, Any] = {"is_available": True, "is_initialized": True, "device_count": 1, "current_device": 0}
    said |= {"get_device_name": "stand-in", "get_device_capability": (9, 0), "synchronize": None, "set_device": None}
    said |= {"memory_allocated": 2**20, "max_memory_allocated": 2**20, "reset_peak_memory_stats": None}
    said |= {"is_current_stream_capturing": False}  # optimizers ask, and torch built for CUDA asks the driver
    for name, answer in said.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, answer=answer: answer)
    monkeypatch.setattr(torch.cuda, "device", lambda *_: contextlib.nullcontext())
    properties = SimpleNamespace(L2_cache_size=2**20, total_memory=2**30, name="stand-in")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda *_: properties)
    monkeypatch.setattr("fwpkm_eval.bench.stopwatch.FLUSH_BYTES", 2**22)  # it has no cache to empty
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda *_: torch.get_rng_state())
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda *_: None)


class Event:
    """A mark in a stream: the clock's time."""

    def __init__(self, enable_timing: bool = False) -> None:
        self.at = 0.0

    def record(self) -> None:
        self.at = time.perf_counter()

    def elapsed_time(self, later: Event) -> float:
        return 1000 * (later.at - self.at)


def _made_there(real: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def made(*args: Any, device: Any = None, requires_grad: bool = False, **named: Any) -> Tensor:
        if not _is_gpu(device):
            return real(*args, device=device, **named).requires_grad_(requires_grad)
        if real.__name__ in ("tensor", "as_tensor"):
            _wait(real.__name__)
        return GpuTensor(real(*tree_map(_held, args), device="cpu", **named)).requires_grad_(requires_grad)

    return made


def _moved(real: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def to(self: Tensor, *args: Any, **named: Any) -> Tensor:
        device, dtype = named.get("device"), named.get("dtype")
        for x in args:
            if isinstance(x, Tensor):
                device, dtype = x.device, x.dtype
            elif isinstance(x, torch.dtype):
                dtype = x
            elif isinstance(x, str | torch.device):
                device = x
        if not _is_gpu(device):
            return real(self, *args, **named)
        if isinstance(self, GpuTensor):
            return real(self, dtype or self.dtype)
        if not (named.get("non_blocking") and hasattr(self, _PINNED)):
            _wait("to")
        assert not (self.requires_grad and torch.is_grad_enabled()), "no gradient goes back from the stand-in"
        return GpuTensor(self.detach().to(dtype or self.dtype, copy=True))

    return to


def _pinned(self: Tensor) -> Tensor:
    assert not isinstance(self, GpuTensor), "cannot pin 'torch.cuda.FloatTensor', only dense CPU tensors can be pinned"
    copied = self.clone()
    setattr(copied, _PINNED, True)
    return copied


def _launched(real: Callable[..., None]) -> Callable[..., None]:
    """A kernel's launch, in Triton's interpreter: a GPU's kernel cannot read a tensor of the CPU."""

    def launch(self: Any, *args: Any, **named: Any) -> None:
        for x in (*args, *named.values()):
            if isinstance(x, Tensor) and not isinstance(x, GpuTensor):
                raise OtherDevice(f"a kernel is given a tensor {tuple(x.shape)} on {x.device}")
        real(self, *map(_held, args), **{name: _held(x) for name, x in named.items()})

    return launch


def _attend(real: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Attention as written: torch's own draws its mask on the device underneath, where there are no numbers."""

    def attention(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        if not isinstance(q, GpuTensor):
            return real(q, k, v, attn_mask=attn_mask, is_causal=is_causal)
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        if is_causal:
            attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
        if attn_mask is not None:
            hidden = scores.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
            scores = hidden
        return scores.softmax(-1) @ v

    return attention
