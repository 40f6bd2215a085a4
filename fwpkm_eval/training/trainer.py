"""The training loop: one process, resumable at any step, bit for bit the same run on one device."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fwpkm_eval import __version__
from fwpkm_eval.data.tokenizers import ByteTokenizer
from fwpkm_eval.errors import UserError
from fwpkm_eval.kernels.stream import DenseMemory, ProductKeyMemory
from fwpkm_eval.reference_models.checkpoint import round_weights, save_checkpoint, save_tensors
from fwpkm_eval.reference_models.config import ModelConfig
from fwpkm_eval.reference_models.language_model import LanguageModel
from fwpkm_eval.reference_models.memory_layers import FwPKMLayer
from fwpkm_eval.reference_models.state import ModelState
from fwpkm_eval.training.batches import Batch, BatchMaker
from fwpkm_eval.training.recipe import Recipe

RESUME = "resume.safetensors"
METRICS = "metrics.jsonl"
STORED_DTYPE = torch.float16
DIVERGED_IN_A_ROW = 20
"""After so many steps in a row without a finite loss or gradient, training stops."""


@dataclass(frozen=True)
class StepReport:
    """One step: losses in nats per token, accuracy of the answers' digits (both nan in a step without needles),
    tokens read, seconds since this start. loss is nan where the step diverged and was dropped."""

    step: int
    loss: float
    document_loss: float
    answer_loss: float
    answer_accuracy: float
    tokens: int
    seconds: float


class Trainer:
    """Trains one model; `run` yields a report per step and keeps a resumable copy in `folder`."""

    def __init__(self, config: ModelConfig, recipe: Recipe, folder: Path, data: str = "embedded") -> None:
        self.config, self.recipe, self.folder, self.data = config, recipe, folder, data
        self.model = LanguageModel(config, seed=recipe.seed)
        self.batches = BatchMaker(recipe, ByteTokenizer(), data)
        self.optimizer = make_optimizer(self.model, recipe)
        self.state = self.model.initial_state()
        self.step = 0
        self.diverged_steps = 0

    @property
    def identity(self) -> dict[str, Any]:
        """What must agree for a run to go on where another stopped."""
        return {
            "config": self.config.to_dict(),
            "recipe": self.recipe.to_dict(),
            "data": self.batches.data_hash,
        }

    def run(self, save_every_seconds: float = 60.0) -> Iterator[StepReport]:
        """Trains from the current step to the last; saves now and then, and at the end writes the checkpoint."""
        started = saved = time.monotonic()
        in_a_row = 0
        for step in range(self.step, self.recipe.steps):
            report = self._train_step(self.batches.batch(step), started)
            self.step = step + 1
            in_a_row = 0 if math.isfinite(report.loss) else in_a_row + 1
            if in_a_row >= DIVERGED_IN_A_ROW or (in_a_row and not self._weights_are_finite()):
                kept = self.folder / RESUME
                raise UserError(
                    f"the loss is not finite since step {self.step - in_a_row + 1}; "
                    + (f"the last good step saved is kept in {kept}" if kept.exists() else "no step was saved")
                )
            if in_a_row == 0 and time.monotonic() - saved > save_every_seconds:
                self.save()
                saved = time.monotonic()
            yield report
        self.finish()

    def _train_step(self, batch: Batch, started: float) -> StepReport:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.recipe, self.step)
        self.state = self._next_state(batch.new_document)
        tokens = torch.from_numpy(batch.tokens)
        is_answer = torch.from_numpy(batch.is_answer)
        logits, self.state = self.model(
            tokens[:, :-1], self.state, updates="scan", write_chunk=batch.chunk_size, inplace=True
        )
        targets = tokens[:, 1:]
        nats = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)
        answers = nats[is_answer]
        loss = nats.mean()
        if len(answers):
            loss = loss + self.recipe.answer_weight * answers.mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        if loss.isfinite() and norm.isfinite():
            self.optimizer.step()
        else:
            # A fast-weight memory can diverge within a row (FwMLP does, now and then): the step is dropped, the
            # memory starts anew, and the drops are counted in what the checkpoint says of its training.
            self.diverged_steps += 1
            self.state = self.model.initial_state()
            loss = loss.detach() * math.nan
        right = (logits.argmax(-1) == targets)[is_answer].float().mean()
        return StepReport(
            step=self.step + 1,
            loss=loss.item(),
            document_loss=nats[0].mean().item(),
            answer_loss=answers.mean().item(),
            answer_accuracy=right.item(),
            tokens=targets.numel(),
            seconds=time.monotonic() - started,
        )

    def _weights_are_finite(self) -> bool:
        return all(bool(parameter.isfinite().all()) for parameter in self.model.parameters())

    def _next_state(self, new_document: bool) -> ModelState:
        """A fresh sequence; with a new document the values start anew too. Keys go on: they are learned all along."""
        if not new_document:
            return self.state.fresh_sequence()
        fresh = self.model.initial_state()
        for number, held in self.state.memories.items():
            memory = fresh.memories[number].memory
            if isinstance(memory, ProductKeyMemory) and isinstance(held.memory, ProductKeyMemory):
                memory.keys = held.memory.keys
        return fresh

    def finish(self) -> None:
        """Keeps the learned keys as the model's first keys, rounds the weights to how they are stored, and saves."""
        for number, held in self.state.memories.items():
            layer = self.model.blocks[number].memory
            if isinstance(held.memory, ProductKeyMemory) and isinstance(layer, FwPKMLayer):
                layer.first_keys.copy_(held.memory.keys)
        round_weights(self.model, STORED_DTYPE)
        about = {
            "recipe": self.recipe.to_dict(),
            "data": self.data if self.data == "embedded" else "path",
            "data_hash": self.batches.data_hash,
            "tokens": self.recipe.steps * self.recipe.tokens * 2,
            "diverged_steps": self.diverged_steps,
            "version": __version__,
            "torch": str(torch.__version__).partition("+")[0],
        }
        save_checkpoint(self.model, self.folder, about, STORED_DTYPE)
        (self.folder / RESUME).unlink(missing_ok=True)

    def save(self) -> None:
        """Everything needed to go on from the current step, in one file that is there whole or as it was."""
        tensors: dict[str, Tensor] = {f"model/{n}": t for n, t in self.model.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer/{key}/{name}"] = torch.as_tensor(value)
        for number, held in self.state.memories.items():
            for key, value in _fast_weights(held.memory).items():
                tensors[f"memory/{number}/{key}"] = value
        tensors = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
        counts = {"step": str(self.step), "diverged_steps": str(self.diverged_steps)}
        about = {**counts, "identity": json.dumps(self.identity, sort_keys=True)}
        self.folder.mkdir(parents=True, exist_ok=True)
        save_tensors(self.folder / RESUME, tensors, about)

    def resume(self) -> bool:
        """Goes back to what `save` kept; False if there is nothing. UserError if it belongs to another run."""
        path = self.folder / RESUME
        if not path.exists():
            return False
        about, tensors = _read_resume_file(path)
        if json.loads(about.get("identity", "{}")) != json.loads(json.dumps(self.identity)):
            raise UserError(f"{path} belongs to another run (model, recipe or data differ); use another --out folder")
        self.model.load_state_dict({n.removeprefix("model/"): t for n, t in tensors.items() if n.startswith("model/")})
        for name, parameter in self.model.named_parameters():
            kept = {k: tensors[f"optimizer/{k}/{name}"] for k in ("step", "exp_avg", "exp_avg_sq")}
            self.optimizer.state[parameter] = dict(kept)
        for number, held in self.state.memories.items():
            _set_fast_weights(held.memory, tensors, f"memory/{number}/")
        self.step, self.diverged_steps = int(about["step"]), int(about.get("diverged_steps", 0))
        return True


def _read_resume_file(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """(what the file says of itself, its tensors). UserError if it is damaged."""
    try:
        with safe_open(path, framework="pt") as stored:
            # Copies: what safetensors hands out are views, and autograd does not let a function write into those.
            tensors = {name: stored.get_tensor(name).clone() for name in stored.keys()}  # noqa: SIM118 (not a dict)
            return stored.metadata() or {}, tensors
    except (OSError, SafetensorError) as problem:
        raise UserError(f"{path} is damaged ({problem}); delete it to start anew") from None


def make_optimizer(model: LanguageModel, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW; weight decay on matrices only, not on biases, norms, convolutions or decay rates."""
    matrices = [p for n, p in model.named_parameters() if p.dim() >= 2 and "conv" not in n]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    groups = [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.95))


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then a cosine to `final_rate` of the peak."""
    if step < recipe.warmup:
        return recipe.learning_rate * (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    floor = recipe.final_rate
    return recipe.learning_rate * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done)))


def _fast_weights(memory: ProductKeyMemory | DenseMemory) -> dict[str, Tensor]:
    if isinstance(memory, ProductKeyMemory):
        return {"keys": memory.keys, "values": memory.values}
    return memory.weights


def _set_fast_weights(memory: ProductKeyMemory | DenseMemory, tensors: dict[str, Tensor], prefix: str) -> None:
    if isinstance(memory, ProductKeyMemory):
        memory.keys, memory.values = tensors[f"{prefix}keys"], tensors[f"{prefix}values"]
    else:
        memory.weights = {name: tensors[f"{prefix}{name}"] for name in memory.weights}
