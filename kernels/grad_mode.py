"""Whether a call takes a gradient, asked before it enters an autograd function; gradients that it needs itself; and the
refusal of gradients of gradients, which these autograd functions do not have."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from fwpkm_eval.errors import UserError


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


def first_gradient_only(backward: Callable[..., tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
    """For an autograd function's `backward`, whose result does not record how it came about (no second derivative).

    Whoever asks for a gradient of that gradient is refused. `torch.autograd.function.once_differentiable` refuses only
    where the incoming gradient itself has one: of `grad(output.sum(), query, create_graph=True)`, whose incoming
    gradient is a constant, it leaves the second derivative out without a word.
    """

    @functools.wraps(backward)
    def once(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        with torch.no_grad():
            found = backward(ctx, *grads)
        if not torch.is_grad_enabled():  # nobody asked for create_graph
            return found
        return tuple(x if x is None else _NoSecondGradient.apply(x.detach().requires_grad_()) for x in found)

    return once


class _NoSecondGradient(torch.autograd.Function):
    """x, of which no gradient can be taken."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        raise UserError("this backend gives no gradient of a gradient; use backend='reference' for second derivatives")
