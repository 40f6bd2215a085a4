"""How close is close enough: one table, by operation and dtype, each entry with its reason.

Errors are relative to the whole tensor, ‖ours − expected‖ / ‖expected‖: entries near zero decide nothing.
A tolerance is loosened only with the reason written beside it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tolerance:
    """The largest relative error allowed, and why it is not smaller."""

    relative: float
    reason: str


TOLERANCES: dict[tuple[str, torch.dtype], Tolerance] = {
    ("golden.forward", torch.float32): Tolerance(1e-5, "a few float32 roundings, summed in another order than theirs"),
    ("golden.gradient", torch.float32): Tolerance(1e-4, "errors of the forward pass grow through four unrolled writes"),
    ("scan.forward", torch.float64): Tolerance(
        1e-9,
        "rounding grown by six writes; idw slopes reach 1e3 where dk/2 = 1. Worst of 2,500 draws: 7e-11",
    ),
    ("scan.gradient", torch.float64): Tolerance(
        1e-7,
        "the same growth, there and back (norms reach 3e5). Worst of 2,500 draws: 3e-9, most 1e-13",
    ),
    ("scan.forward", torch.float32): Tolerance(1e-4, "as in float64, from 6e-8 on"),
    ("scan.met_key", torch.float32): Tolerance(
        1e-2,
        "the reference expands ‖q − K‖²; at distance 0 float32 leaves 1e-6 of it beside ε = 1e-3",
    ),
    ("scan.low_precision_gradient", torch.float16): Tolerance(1e-3, "the gradient itself is rounded to 11 bits"),
    ("scan.low_precision_gradient", torch.float32): Tolerance(
        1e-4, "of the memory, which stays in float32: as forward"
    ),
    ("scan.low_precision_gradient", torch.bfloat16): Tolerance(8e-3, "the gradient itself is rounded to 8 bits"),
    ("stream.split", torch.float64): Tolerance(1e-10, "matrix products over other row counts round differently"),
    ("stream.oracle", torch.float64): Tolerance(1e-9, "scalar loops sum in another order"),
    ("lact.forward", torch.float64): Tolerance(1e-9, "Newton-Schulz lengthens what is near zero 485 times"),
    ("lact.gradient", torch.float64): Tolerance(1e-8, "the same, there and back, through up to six writes"),
    ("lact.rates", torch.float64): Tolerance(1e-9, "as forward: other sums and factors round differently"),
    ("mixer.forward", torch.float64): Tolerance(
        1e-11, "the chunked form inverts a well conditioned triangle per chunk"
    ),
    ("mixer.forward", torch.float32): Tolerance(2e-5, "float32 roundings of a softmax or a triangular solve"),
    ("mixer.fla", torch.float32): Tolerance(
        3e-2,
        "kernels multiply numbers of 8 bits (4e-3 each) through five chunks; a wrong gradient is off by its own size",
    ),
    ("model.logits", torch.float32): Tolerance(
        1e-4,
        "float32 rounding through four layers and through writes (idw slopes reach 1e3)",
    ),
    ("model.lact", torch.float32): Tolerance(
        1e-3,
        "Newton-Schulz lengthens what is near zero 485 times, and of a write of three tokens most is: 3e-5 a write",
    ),
    ("model.logits", torch.bfloat16): Tolerance(
        0.3, "activations of 8 bits, and with them now and then another slot in a top-k of three"
    ),
    ("training.loss", torch.float32): Tolerance(
        1e-6, "one mean over a few hundred losses, taken in float32 both times"
    ),
}


def relative_error(ours: Tensor, expected: Tensor) -> float:
    """‖ours − expected‖ / ‖expected‖; a norm below 1e-3 counts as 1e-3, as test data is of order one."""
    difference = (ours.detach().double() - expected.detach().double()).norm().item()
    return difference / max(expected.detach().double().norm().item(), 1e-3)


def assert_close(name: str, ours: Tensor, expected: Tensor, what: str = "", dtype: torch.dtype | None = None) -> None:
    """Asserts that ours has expected's shape and is as near to it as the table says for name and dtype."""
    assert ours.shape == expected.shape, f"{what}: shape {list(ours.shape)}, expected {list(expected.shape)}"
    tolerance = TOLERANCES[name, dtype or ours.dtype]
    error = relative_error(ours, expected)
    assert error <= tolerance.relative, f"{what}: relative error {error:.2g}, allowed {tolerance.relative:.2g} ({name})"
