"""Checks of arguments that every memory operation has: tensors that are tensors, numbers that are numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Integral, Real

import torch
from torch import Tensor

from fwpkm_eval.errors import UserError


def check_tensors(**tensors: object) -> None:
    """Refuses what is no tensor of real numbers, by name, and tensors of several devices."""
    for name, x in tensors.items():
        if not isinstance(x, Tensor):
            raise UserError(f"{name} is a {type(x).__name__}; it must be a torch.Tensor")
        if torch.is_complex(x):
            raise UserError(f"{name} is {x.dtype}; it must be real")
    devices = {name: x.device for name, x in tensors.items() if isinstance(x, Tensor)}
    if len(set(devices.values())) > 1:
        where = ", ".join(f"{name} on {device}" for name, device in devices.items())
        raise UserError(f"all tensors must be on one device; got {where}")


def check_activations(**tensors: Tensor) -> None:
    """Refuses whole numbers, by name: what a model computes is in floating point."""
    for name, x in tensors.items():
        if not x.is_floating_point():
            raise UserError(f"{name} is {x.dtype}; it must be in floating point")


def check_fast_weights(weights: Mapping[str, Tensor]) -> None:
    """Refuses fast weights below float32 (small steps would be lost in them), or of several dtypes."""
    dtypes = {x.dtype for x in weights.values()}
    if len(dtypes) > 1 or not all(x.is_floating_point() and x.dtype.itemsize >= 4 for x in weights.values()):
        found = ", ".join(f"{name} is {x.dtype}" for name, x in weights.items())
        raise UserError(f"fast weights are float32 (or float64, for tests), all of one kind; {found}")


def check_whole(name: str, number: object, least: int, unit: str = "") -> None:
    """Refuses what is no whole number of at least ``least``; ``unit``: what it counts."""
    counted = f"{least} {unit}".strip()
    if isinstance(number, bool) or not isinstance(number, Integral):
        raise UserError(f"{name} is {number!r}; it must be a whole number of at least {counted}")
    if number < least:
        raise UserError(f"{name} is {number}; it must be at least {counted}")


def check_finite(name: str, number: object) -> None:
    """Refuses what is no finite number."""
    if isinstance(number, bool) or not isinstance(number, Real) or not math.isfinite(number):
        raise UserError(f"{name} is {number!r}; it must be a finite number")
