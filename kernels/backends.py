"""Which implementation runs a memory operation."""

from __future__ import annotations

from typing import Literal, get_args

import torch

from fwpkm_eval.errors import UserError, unknown

Backend = Literal["auto", "reference", "torch", "triton"]


def resolve_backend(name: str, device: torch.device) -> str:
    """The backend to run. "auto" takes the fastest one there is for the device; a name that cannot run is refused."""
    if name not in get_args(Backend):
        raise unknown("backend", name, list(get_args(Backend)))
    if name == "triton":
        raise UserError(
            f"backend 'triton' cannot run on {device.type}: this version has no Triton kernels yet; "
            "use 'torch' (any device), 'reference' or 'auto'"
        )
    return "torch" if name == "auto" else name
