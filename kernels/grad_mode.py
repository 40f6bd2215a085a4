"""Whether a call takes a gradient, asked before it enters an autograd function."""

from __future__ import annotations

import torch
from torch import Tensor


def takes_gradient(*inputs: Tensor | None) -> bool:
    """Whether autograd records what is made of these inputs, so that a backward pass can come.

    Within an autograd function nobody can tell: autograd is off there, and `ctx.needs_input_grad` is true for a leaf
    that requires a gradient even under `torch.no_grad()`.
    """
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs)
