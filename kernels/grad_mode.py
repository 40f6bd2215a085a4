"""Whether a call takes a gradient, asked before it enters an autograd function; and gradients that it needs itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def takes_gradient(*inputs: Tensor | None) -> bool:
    """Whether autograd records what is made of these inputs, so that a backward pass can come.

    Within an autograd function nobody can tell: autograd is off there, and `ctx.needs_input_grad` is true for a leaf
    that requires a gradient even under `torch.no_grad()`.
    """
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs)


@contextmanager
def own_gradients() -> Iterator[None]:
    """Autograd is on inside, whatever the caller has it at: for a write that is a gradient step.

    Inference mode is left for it; tensors that were made in it must go through `recordable` inside.
    """
    with torch.inference_mode(False), torch.enable_grad():
        yield


def recordable(x: Tensor) -> Tensor:
    """x, or a copy of it where it was made in inference mode, which autograd refuses. Outside of inference mode."""
    return x.clone() if x.is_inference() else x
