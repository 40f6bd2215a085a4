"""Device and dtype names as users give them."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

from fwpkm_eval.errors import UserError, shown, unknown

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "float64", "bfloat16")


def check_device_name(name: str) -> str:
    """``name`` if it reads as a device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``. Needs no torch."""
    if re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,3})?", name, re.ASCII) is None:
        raise UserError(f"unknown device {shown(name)}; valid: auto, cpu, cuda, cuda:N")
    return name


def resolve_device(name: str) -> torch.device:
    """The device that ``name`` means; ``auto`` is CUDA where there is one, else the CPU.

    Raises:
        UserError: no device is called that, or it is not on this machine.
    """
    import torch

    check_device_name(name)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count == 0:
            why = "this build of torch has no CUDA" if torch.version.cuda is None else "torch finds no GPU"
            raise UserError(f"device {name!r} cannot be used: {why}; use cpu")
        if device.index is not None and device.index >= count:
            raise UserError(f"device {name!r} is not there: this machine has cuda:0 to cuda:{count - 1}")
    return device


def resolve_dtype(name: str | torch.dtype) -> torch.dtype:
    """The torch dtype called ``name``, one of ``DTYPES``, or that dtype itself."""
    import torch

    name = str(name).removeprefix("torch.")
    if name not in DTYPES:
        raise unknown("dtype", name, DTYPES)
    dtype = getattr(torch, name)
    assert isinstance(dtype, torch.dtype)
    return dtype


def peak_memory() -> int | None:
    """The most memory in bytes that this process has held so far: on the GPU if it used one, else in all.

    None where the system does not tell.
    """
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return max(int(torch.cuda.max_memory_allocated(number)) for number in range(torch.cuda.device_count()))
    try:
        import resource
    except ImportError:
        return None
    kilobyte = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilobyte
