"""Capacity: how many needles a memory holds, against its slots S² and the width dv of its values.

Each size is a model of its own, trained with the recipe of the ablations, and asked in closed book, so that only the
fast weights can hold an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fwpkm_eval.ablations import AblationPlan, Trained, ablation_plan

if TYPE_CHECKING:
    from fwpkm_eval.reference_models.config import ModelConfig

TASK = "capacity"
SUBKEYS = (16, 32, 64, 128, 256)
VALUE_DIMS = (16, 32, 64, 128)
NEEDLES = (4, 16, 64, 128)


@dataclass(frozen=True)
class MemorySize:
    """S sub-keys a half, so S² slots, each of value_dim numbers."""

    subkeys: int
    value_dim: int

    @property
    def name(self) -> str:
        """How rows name it, as their arm: ``S 128, dv 64``."""
        return f"S {self.subkeys}, dv {self.value_dim}"

    @staticmethod
    def of(name: str) -> MemorySize:
        """The size of a row's arm. Raises ValueError for an arm that is none."""
        subkeys, value_dim = name.split(", ")
        return MemorySize(int(subkeys.removeprefix("S ")), int(value_dim.removeprefix("dv ")))


def capacity_plan(scale: str) -> AblationPlan:
    """How sizes are trained and asked: as the ablations, but in 8K tokens, after one and two readings, in closed book.

    Raises UserError for a scale without a plan.
    """
    plan = ablation_plan(scale)
    return replace(plan, length=8192, needles=NEEDLES, passes=(1, 2), protocols=("closed-book",), tokens=16 * 1024)


def sizes_of(config: ModelConfig, subkeys: Sequence[int], value_dims: Sequence[int]) -> list[MemorySize]:
    """Every number of sub-keys at the configuration's value width, and every width at its number of sub-keys."""
    own = config.fwpkm
    found = [MemorySize(one, own.value_dim) for one in subkeys] + [MemorySize(own.subkeys, one) for one in value_dims]
    return list(dict.fromkeys(found))


def models_of(sizes: Sequence[MemorySize], score: str) -> list[Trained]:
    """What is trained for these sizes."""
    return [
        Trained(size.name, score, overrides={"fwpkm.subkeys": size.subkeys, "fwpkm.value_dim": size.value_dim})
        for size in sizes
    ]
