"""Training steps of a model with FwPKM, in the sparse closed form and with the memory left to dense autograd.

Backbone, optimizer and batches are the same in both (see `training.speed`), so that at small sizes, where the backbone
is half of a step, no memory however fast could make a step many times as fast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fwpkm_eval import __version__
from fwpkm_eval.bench.worker import ALLOCATORS, Runner, Together, attempt, run_in_process_of_its_own
from fwpkm_eval.runs.rows import Row

MOST_STEPS = 8
"""After more, roundings have grown so far through writes and optimizer that the losses no longer tell a fault."""
SPARSE, DENSE = "sparse closed form", "dense autograd"


@dataclass(frozen=True)
class TrainingCase:
    """A model's name at a scale; its own training recipe is run, from the first step with long rows on."""

    name: str
    scale: str
    device: str = "cpu"


@dataclass(frozen=True)
class TrainingTimes:
    """Seconds of the same steps of `tokens` tokens under one malloc, and how far apart the losses came."""

    case: TrainingCase
    allocator: str
    tokens: int
    sparse: list[float]
    dense: list[float]
    first_difference: float
    loss_difference: float
    device_name: str
    threads: int
    dtype: str = "float32"


def run_training(
    case: TrainingCase,
    *,
    failed: dict[str, str],
    threads: int | None,
    repeats: int,
    runner: Runner = run_in_process_of_its_own,
    tell: Callable[[str], None] = lambda line: None,
    together: Together = lambda jobs: None,
) -> list[TrainingTimes]:
    """Both ways step by step in one process, which has malloc as the system has it; then in one that has it tuned.

    ``failed`` gets the process that fails.
    """
    # A GPU's memory is not malloc's.
    allocators = ALLOCATORS if case.device == "cpu" else ALLOCATORS[:1]
    job: dict[str, Any] = {"what": "dense-training", "case": asdict(case), "size": {"name": case.name}}
    job |= {"threads": threads, "steps": min(repeats, MOST_STEPS)}
    together([(job, allocator) for allocator in allocators])
    found = []
    for allocator in allocators:
        label = f"training steps of {case.name} at scale {case.scale}, {allocator} malloc"
        tell(label)
        result = attempt(label, runner, job, allocator, failed)
        if result is not None:
            found.append(TrainingTimes(case=case, allocator=allocator, **result))
    return found


def steps_of_training(device: str) -> int:
    """How many jobs `run_training` has."""
    return len(ALLOCATORS) if device == "cpu" else 1


def measure_training(job: Mapping[str, Any]) -> dict[str, Any]:
    """A worker's job ``dense-training``; JSON values."""
    import torch

    from fwpkm_eval.bench.stopwatch import stopwatch
    from fwpkm_eval.reference_models.config import model_config
    from fwpkm_eval.training.recipe import recipe_for
    from fwpkm_eval.training.speed import training_speed

    case = TrainingCase(**job["case"])
    config = model_config(case.name, case.scale)
    found = training_speed(config, recipe_for(config, exercises=False), job["steps"], device=case.device)
    return {**asdict(found), "device_name": stopwatch(case.device).device_name, "threads": torch.get_num_threads()}


def training_ratios(found: Sequence[TrainingTimes]) -> Iterator[tuple[str, str, list[float], list[float]]]:
    """What is held against what: (malloc of the sparse way, of the dense way, seconds, seconds), the same steps.

    With each malloc alike; and the sparse way as this package's commands train, malloc tuned, against the dense way as
    a program trains that does nothing about malloc.
    """
    by_allocator = {times.allocator: times for times in found}
    for times in found:
        yield times.allocator, times.allocator, times.sparse, times.dense
    if len(by_allocator) == len(ALLOCATORS):
        yield "tuned", "default", by_allocator["tuned"].sparse, by_allocator["default"].dense


def ratio_of(sparse: Sequence[float], dense: Sequence[float]) -> tuple[float, float, float]:
    """How many times as fast over all steps, between the 10th and 90th percentiles of the single steps."""
    low, high = np.percentile(np.divide(dense, sparse), (10, 90))
    return float(low), sum(dense) / sum(sparse), float(high)


def training_rows(found: Sequence[TrainingTimes]) -> Iterator[Row]:
    """Tokens per second of both ways and their ratios; ``arm`` names the way and its malloc."""
    if not found:
        return
    first = found[0]
    common: dict[str, Any] = {
        "model": first.case.name,
        "scale": first.case.scale,
        "task": "bench",
        "dataset": f"{first.tokens} tokens a step",
        "protocol": f"threads {first.threads}",
        "device": first.device_name,
        "dtype": first.dtype,
        "version": __version__,
    }
    for times in found:
        cost: dict[str, Any] = {"n": len(times.sparse), "tokens": len(times.sparse) * times.tokens}
        for way, seconds in ((SPARSE, times.sparse), (DENSE, times.dense)):
            yield Row(
                metric="training_tokens_per_second", value=times.tokens * len(seconds) / sum(seconds), unit="tokens/s",
                arm=f"{way}, {times.allocator} malloc", seconds=sum(seconds), **cost, **common,
            )  # fmt: skip
        yield Row(
            metric="training_loss_difference", value=times.loss_difference, unit="ratio",
            arm=f"{times.allocator} malloc", **cost, **common,
        )  # fmt: skip
    for ours, theirs, sparse, dense in training_ratios(found):
        low, ratio, high = ratio_of(sparse, dense)
        yield Row(
            metric="training_ratio_to_dense_autograd", value=ratio, unit="ratio", ci_low=low, ci_high=high,
            n=len(sparse), arm=f"{ours} malloc against {theirs} malloc", **common,
        )  # fmt: skip
