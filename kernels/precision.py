"""The precision that memories and norms are computed in, whatever stands around them."""

from __future__ import annotations

import torch
from torch import Tensor


def full_precision(device: torch.device) -> torch.autocast:
    """Autocast switched off: for what is computed in its tensors' own dtype, such as every fast-weight memory."""
    return torch.autocast(device.type, enabled=False)


def at_least_float32(x: Tensor) -> Tensor:
    """x, or if its dtype is of 16 bits x in float32; float64 stays what it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
