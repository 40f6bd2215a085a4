"""Which implementation runs a memory operation."""

from __future__ import annotations

import functools
import importlib
import os
import shutil
import sysconfig
import warnings
from pathlib import Path
from typing import Literal, cast, get_args

import torch

from fwpkm_eval.errors import UserError, unknown
from fwpkm_eval.kernels.chunk import ChunkOps
from fwpkm_eval.kernels.graphs import active_graphs

Backend = Literal["auto", "reference", "torch", "triton"]

_SPARSE = {"torch": "fwpkm_eval.kernels.sparse_torch", "triton": "fwpkm_eval.kernels.triton_chunk"}


def resolve_backend(name: str, device: torch.device) -> str:
    """The backend to run: "auto" is triton on CUDA and torch elsewhere; a name that cannot run is refused.

    Within `graphs.cuda_graphs`, one that cannot be recorded is refused, too.
    """
    if name not in get_args(Backend):
        raise unknown("backend", str(name), list(get_args(Backend)))
    if name == "triton" and (trouble := _triton_trouble(device)) is not None:
        raise UserError(
            f"backend 'triton' cannot run on {device.type}: {trouble}; use 'torch' (any device), 'reference' or 'auto'"
        )
    if name == "auto":
        name = "torch"
        if device.type == "cuda":
            trouble = _triton_trouble(device)
            name = "triton" if trouble is None else "torch"
            if trouble is not None:
                _warn_of(trouble)
    if (graphs := active_graphs()) is not None:
        graphs.check(name, device)
    return name


@functools.cache  # once
def _warn_of(trouble: str) -> None:
    warnings.warn(f"memory operations run on backend 'torch', slowly: {trouble}", stacklevel=3)


def _triton_trouble(device: torch.device) -> str | None:
    """Why Triton's kernels cannot run on the device, or None."""
    if device.type not in ("cuda", "cpu"):
        return "its kernels are for CUDA"
    try:
        from fwpkm_eval.kernels.triton_launch import interpreted
    except ImportError as error:
        return f"Triton cannot be imported ({error})"
    if interpreted():
        return None
    if device.type == "cpu":
        return (
            "its kernels are for CUDA; on a CPU they need TRITON_INTERPRET=1, set before Triton is imported (for tests)"
        )
    return _build_trouble()


@functools.cache
def _build_trouble() -> str | None:
    """Why Triton cannot build its launcher, which it compiles from C before the first launch on a machine; or None."""
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "Triton needs a C compiler and finds neither gcc nor clang (on Debian and Ubuntu, apt install gcc)"
    scheme = sysconfig.get_default_scheme().replace("posix_local", "posix_prefix")
    header = Path(sysconfig.get_path("include", scheme)) / "Python.h"
    if not header.exists():
        return f"Triton needs {header}, which is not there (on Debian and Ubuntu, apt install python3-dev)"
    return None


def chunk_ops(resolved: str) -> ChunkOps:
    """The operations of a sparse backend, "torch" or "triton"."""
    if resolved not in _SPARSE:
        raise UserError(f"backend {resolved!r} reads and writes whole sequences only; use 'torch', 'triton' or 'auto'")
    return cast(ChunkOps, importlib.import_module(_SPARSE[resolved]))
