"""What tasks share: what a row says of its model, the state they start from, and the mode they measure in."""

from __future__ import annotations

from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch


def model_tensor(model: torch.nn.Module) -> torch.Tensor:
    """A slow tensor of the model: its device and dtype are those that the model runs on and in."""
    return next(chain(model.parameters(), model.buffers()))


def describe_model(model: Any) -> dict[str, Any]:
    """The row fields that are the model's: the same for every row that it makes."""
    from fwpkm_eval import __version__
    from fwpkm_eval.kernels.backends import resolve_backend

    tensor = model_tensor(model)
    spec = model.config.spec
    return {
        "model": model.config.name,
        "scale": model.config.scale,
        "score": model.config.fwpkm.score if spec.layers("fwpkm") else "",
        "device": tensor.device.type,
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "backend": resolve_backend(getattr(model, "backend", "auto"), tensor.device) if spec.memories else "",
        "weights_hash": model.weights_hash,
        "version": __version__,
    }


def fresh_state(model: Any) -> Any:
    """The state that a task starts from, checked to hold nothing that was read before."""
    state = model.initial_state(1)
    state.assert_fresh()
    return state


@contextmanager
def measuring(model: torch.nn.Module) -> Iterator[None]:
    """The model in evaluation mode and without gradients; its mode is put back afterwards, come what may.

    ``no_grad`` and not ``inference_mode``: tables that a model caches while being measured (rotary angles,
    say) would be inference tensors for ever, and training on would fail.
    """
    import torch

    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)
