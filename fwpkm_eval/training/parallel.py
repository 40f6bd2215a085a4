"""One process or many: what a training run needs of `torch.distributed`, on the CPU (gloo) and on GPUs (nccl).

Started by torchrun, every process reads its own part of each global batch into its own fast weights; slow weights are
the same everywhere (DDP) or sharded (FSDP2).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fwpkm_eval.devices import resolve_device
from fwpkm_eval.errors import UserError, shown, unknown
from fwpkm_eval.reference_models.language_model import LanguageModel
from fwpkm_eval.reference_models.memory_layers import FwPKMLayer, PKMLayer
from fwpkm_eval.training.objective import Objective

Mode = Literal["ddp", "fsdp"]


@dataclass(frozen=True)
class Ranks:
    """This process among those of its run."""

    device: torch.device
    rank: int = 0
    world: int = 1
    mode: Mode = "ddp"

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def wrap(self, objective: Objective) -> nn.Module:
        """The objective as it is called in training; with several processes, as PyTorch's engine wraps it."""
        if self.world == 1:
            return objective
        if self.mode == "fsdp":
            from torch.distributed.device_mesh import init_device_mesh
            from torch.distributed.fsdp import fully_shard

            # Left to itself it takes the accelerator that torch was built for, used or not.
            mesh = init_device_mesh(self.device.type, (self.world,))
            for layer in objective.model.blocks:
                fully_shard(layer, mesh=mesh)
            fully_shard(objective, mesh=mesh)
            return objective
        # Gradients of PKM values have rows for the slots that were read: see `sum_rows`.
        ignored = [f"model.{name}" for name, _ in pkm_values(objective.model)]
        nn.parallel.DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(objective, ignored)
        devices = None if self.device.type == "cpu" else [self.device]
        unused = _has_unused_parameters(objective.model)
        return nn.parallel.DistributedDataParallel(objective, device_ids=devices, find_unused_parameters=unused)

    @contextmanager
    def accumulating(self, wrapped: nn.Module, last: bool) -> Iterator[None]:
        """Around one part of a step: gradients are exchanged with the last."""
        if isinstance(wrapped, nn.parallel.DistributedDataParallel):
            with nullcontext() if last else wrapped.no_sync():
                yield
            return
        if self.world > 1:
            sharded: Any = wrapped
            sharded.set_requires_gradient_sync(last)
        yield

    def finish_gradients(self, model: LanguageModel) -> None:
        """Averages the gradients that the engine left alone: those of PKM values, under DDP."""
        if self.world > 1 and self.mode == "ddp":
            for _, values in pkm_values(model):
                if values.grad is not None:
                    sum_rows(values.grad)
                    values.grad /= self.world

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.world > 1:
            dist.all_reduce(tensor)
        return tensor

    def barrier(self) -> None:
        if self.world > 1:
            dist.barrier()

    def agree(self, problem: str | None) -> str | None:
        """The first process's problem that any has, told to all; None if none has."""
        if self.world == 1:
            return problem
        problems: list[Any] = [None] * self.world
        dist.all_gather_object(problems, problem)
        return next((entry for entry in problems if entry is not None), None)


def of_launcher(name: str, otherwise: int) -> int:
    """A whole number that torchrun puts into the environment. Raises UserError where something else stands there."""
    text = os.environ.get(name, "")
    if text and not text.isdecimal():
        raise UserError(f"the environment's {name} is {shown(text)}; torchrun sets it to a whole number: unset it")
    return int(text or otherwise)


@contextmanager
def started(device: str = "cpu", mode: str = "ddp") -> Iterator[Ranks]:
    """This process's place; under torchrun (its environment variables) with the process group around it.

    device: "auto", "cpu", "cuda" (under torchrun: each process its own GPU) or "cuda:N".

    Raises: UserError: a device that is not there, an unknown mode, or FSDP with one process.
    """
    if mode not in get_args(Mode):
        raise unknown("kind of parallelism", mode, list(get_args(Mode)))
    world = of_launcher("WORLD_SIZE", 1)
    chosen = resolve_device(device)
    if world == 1:
        if mode == "fsdp":
            raise UserError("--parallel fsdp shards over several processes: start it with torchrun")
        yield Ranks(chosen)
        return
    if chosen.type == "cuda":
        chosen = resolve_device(f"cuda:{of_launcher('LOCAL_RANK', 0)}")
        torch.cuda.set_device(chosen)
    if chosen.type == "cuda":
        dist.init_process_group("nccl", device_id=chosen)
    else:
        dist.init_process_group("gloo")
    try:
        yield Ranks(chosen, dist.get_rank(), world, "fsdp" if mode == "fsdp" else "ddp")
    finally:
        dist.destroy_process_group()


def pkm_values(model: LanguageModel) -> list[tuple[str, nn.Parameter]]:
    """The value tables of static product-key memories: (name, parameter [S²,dv])."""
    return [
        (f"layers.{number}.mlp.values", layer.mlp.values)
        for number, layer in enumerate(model.blocks)
        if isinstance(layer.mlp, PKMLayer)
    ]


def sum_rows(gradient: Tensor) -> None:
    """Sums a gradient [N,dv] over all processes, in place, sending only rows that are not zero.

    A step reads at most H·k rows per token; where all processes together read fewer than N, the rows and their numbers
    are gathered and added in the order of the ranks, so that every process gets the same bits. Where they read more
    (a large batch on few slots), the dense sum sends less, and is taken.
    """
    rows = gradient.ne(0).any(1).nonzero().squeeze(1)
    counts = torch.zeros(dist.get_world_size(), dtype=torch.int64, device=gradient.device)
    counts[dist.get_rank()] = len(rows)
    dist.all_reduce(counts)
    sent = counts.tolist()
    if len(sent) * max(sent) >= len(gradient):
        dist.all_reduce(gradient)
        return
    if max(sent) == 0:
        return
    padded_rows = rows.new_zeros(max(sent))
    padded_rows[: len(rows)] = rows
    padded = gradient.new_zeros(max(sent), gradient.shape[1])
    padded[: len(rows)] = gradient[rows]
    all_rows = [torch.empty_like(padded_rows) for _ in sent]
    all_parts = [torch.empty_like(padded) for _ in sent]
    dist.all_gather(all_rows, padded_rows)
    dist.all_gather(all_parts, padded)
    gradient[rows] = 0
    for number, count in enumerate(sent):
        # Each process names a row once, so no two additions of one call meet.
        gradient[all_rows[number][:count]] += all_parts[number][:count]


def _has_unused_parameters(model: LanguageModel) -> bool:
    """Whether a memory has no gate, neither in its reads nor in its writes: an ablation without its gradient."""
    return any(isinstance(layer.memory, FwPKMLayer) and not layer.memory.config.gate for layer in model.blocks)


def whole(tensor: Tensor) -> Tensor:
    """The full tensor of one that FSDP sharded (every process must ask), any other as it is."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def like(full: Tensor, tensor: Tensor) -> Tensor:
    """`full` laid out as `tensor` is: sharded over the same processes, or on its device."""
    full = full.to(tensor.device)
    if not hasattr(tensor, "full_tensor"):
        return full
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(tensor, DTensor)
    return distribute_tensor(full, tensor.device_mesh, tensor.placements)
