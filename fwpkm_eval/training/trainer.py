"""The training loop: on one process or many, resumable at any step; on a CPU bit for bit the same run."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fwpkm_eval import __version__
from fwpkm_eval.api import tokenizer_of
from fwpkm_eval.errors import UserError
from fwpkm_eval.kernels.stream import DenseMemory, ProductKeyMemory
from fwpkm_eval.reference_models.checkpoint import round_weights, save_checkpoint
from fwpkm_eval.reference_models.config import ModelConfig
from fwpkm_eval.reference_models.gated_delta import delta_rule_backend
from fwpkm_eval.reference_models.language_model import LanguageModel
from fwpkm_eval.reference_models.memory_layers import FastWeightLayer, FwPKMLayer
from fwpkm_eval.reference_models.state import ModelState
from fwpkm_eval.training.batches import Batch, make_batches
from fwpkm_eval.training.objective import Objective, Part
from fwpkm_eval.training.optimizer import learning_rate, make_optimizer
from fwpkm_eval.training.parallel import Ranks, like, whole
from fwpkm_eval.training.recipe import Recipe
from fwpkm_eval.training.savepoints import (
    KEPT,
    first_difference,
    read_save_point,
    remove_save_points,
    save_points,
    write_save_point,
)

STORED_DTYPES = {"micro": torch.float16, "small": torch.float16}
"""How the weights of a scale's checkpoints are stored; float32 for the others."""
LEAST_PAUSE = 20
"""Save points come no sooner after one another than so many times as long as the last took to write."""
DIVERGED_IN_A_ROW = 20
"""After so many steps in a row without a finite loss or gradient, training stops."""


class Diverged(UserError):
    """Training came to numbers that are not finite, or too large to be stored; `step` is the last that was good."""

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step


@dataclass(frozen=True)
class Settings:
    """How a run is carried out. What changes its numbers is in its save points, too, and must agree to go on.

    rows_at_once: rows that a process reads at a time, into one memory (None: as many as the recipe allows); with fewer
    than all, gradients are accumulated. bf16: None for the recipe's choice, which is heeded on CUDA alone. recompute:
    mixers and MLPs keep no activations, whatever the recipe says. compiled: their code goes through torch.compile.
    keep: save points kept.
    """

    rows_at_once: int | None = None
    bf16: bool | None = None
    recompute: bool = False
    compiled: bool = False
    keep: int = KEPT


@dataclass(frozen=True)
class StepReport:
    """One step: losses in nats per token, accuracy of the answers' digits (both nan in a step without needles),
    tokens read, seconds since this start, and the rate that the optimizer took. loss is nan where the step diverged and
    was dropped; diverged_memories are then the layers whose fast weights are not finite, and gradient_norm is what it
    was."""

    step: int
    loss: float
    document_loss: float
    answer_loss: float
    answer_accuracy: float
    tokens: int
    seconds: float
    gradient_norm: float = math.nan
    learning_rate: float = math.nan
    diverged_memories: tuple[int, ...] = ()


class Trainer:
    """Trains one model; `run` yields a report per step and keeps resumable save points in `folder`."""

    def __init__(
        self,
        config: ModelConfig,
        recipe: Recipe,
        folder: Path,
        data: str = "embedded",
        settings: Settings | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        config = config.trained_on(recipe.tokens)
        self.config, self.recipe, self.folder, self.data = config, recipe, folder, data
        self.settings = settings or Settings()
        self.ranks = ranks or Ranks(torch.device("cpu"))
        self.parts = _parts(recipe, self.settings, self.ranks)
        self.batches = make_batches(recipe, tokenizer_of(config), data)
        self.model = LanguageModel(config, seed=recipe.seed).to(self.ranks.device)
        if self.settings.compiled:
            for layer in self.model.blocks:
                layer.mix = torch.compile(layer.mix)  # type: ignore[method-assign]
        self.state = self.model.initial_state()
        self.model.forget_drawn()
        self.wrapped = self.ranks.wrap(
            Objective(self.model, recipe.answer_weight, self.settings.recompute or recipe.recompute)
        )
        self.optimizer = make_optimizer(self.model, recipe)
        self.step = 0
        self.diverged_steps = 0
        self._first_state: ModelState | None = None
        self._next: tuple[int, Any] | None = None
        self._loader = ThreadPoolExecutor(1) if self.ranks.device.type == "cuda" else None

    @property
    def bf16(self) -> bool:
        """Whether activations have 16 bits."""
        chosen = self.settings.bf16
        return (self.recipe.bf16 and self.ranks.device.type == "cuda") if chosen is None else chosen

    @property
    def delta_rule(self) -> str:
        """What runs Gated DeltaNet's recurrence."""
        return delta_rule_backend(self.ranks.device, torch.bfloat16 if self.bf16 else torch.float32)

    @property
    def identity(self) -> dict[str, Any]:
        """What must agree for a run to go on where another stopped."""
        split = {"processes": self.ranks.world, "parts": self.parts} if self.model.has_fast_weights else None
        return {
            "config": self.config.to_dict(),
            "recipe": self.recipe.to_dict(),
            "data": self.batches.data_hash,
            "device": self.ranks.device.type,
            "bf16": self.bf16,
            **self._other_delta_rule(),
            "split of the rows over memories": split,
        }

    def _other_delta_rule(self) -> dict[str, str]:
        """Named where it is not torch's: what was trained before there was another stays what it is."""
        return {} if self.delta_rule == "torch" else {"delta_rule": self.delta_rule}

    def run(
        self, save_every_seconds: float = 60.0, log: Callable[[StepReport], None] | None = None
    ) -> Iterator[StepReport]:
        """Trains from the current step to the last; saves now and then, and at the end writes the checkpoint.

        log: gets each report before its step can be saved, so that no step is saved of which nothing was written.

        Raises: Diverged: the loss is not finite for too long, or the weights outgrew what they are stored as.
            UserError: a save point cannot be written.
        """
        started = saved = time.monotonic()
        pause = save_every_seconds
        in_a_row = 0
        for step in range(self.step, self.recipe.steps):
            report = self._train_step(self._batch(step), started)
            self.step = step + 1
            in_a_row = 0 if math.isfinite(report.loss) else in_a_row + 1
            if in_a_row >= DIVERGED_IN_A_ROW or (in_a_row and not self._weights_are_finite()):
                self._stop(in_a_row, report)
            if log is not None:
                log(report)
            due = in_a_row == 0 and time.monotonic() - saved > pause
            if self._all_agree(due):
                began = time.monotonic()
                self.save()
                saved = time.monotonic()
                if save_every_seconds > 0:  # a model of gigabytes on a slow disk would be saved half of the time
                    pause = max(save_every_seconds, LEAST_PAUSE * (saved - began))
            yield report
            if step + 1 == self.recipe.steps == self.diverged_steps:
                self._stop(in_a_row, report)  # nothing was learned
        self.finish()

    def _stop(self, in_a_row: int, report: StepReport) -> None:
        kept = save_points(self.folder)
        layers = ", ".join(map(str, report.diverged_memories))
        raise Diverged(
            f"the loss is not finite since step {self.step - in_a_row + 1}"
            + (f" (the memory of layer {layers} diverged); " if layers else " (no memory diverged: the weights did); ")
            + (f"the last good step saved is kept in {kept[-1]}" if kept else "no step was saved"),
            self.step - in_a_row,
        )

    def _all_agree(self, due: bool) -> bool:
        """Whether the first process's clock says so: all save the same step."""
        if self.ranks.world == 1:
            return due
        return bool(self.ranks.sum(torch.tensor(float(due and self.ranks.is_first), device=self.ranks.device)) > 0)

    def _batch(self, step: int) -> Batch:
        """The batch of a step; on a GPU the next one is made meanwhile."""
        if self._loader is None:
            return self.batches.batch(step)
        made = self._next[1].result() if self._next is not None and self._next[0] == step else self.batches.batch(step)
        if step + 1 < self.recipe.steps:
            self._next = (step + 1, self._loader.submit(self.batches.batch, step + 1))
        return made

    def _train_step(self, batch: Batch, started: float) -> StepReport:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.recipe, self.step)
        self.optimizer.zero_grad(set_to_none=True)
        if batch.new_document:
            self.state = self._state_of_new_document()
        keys = self._keys()
        sums = torch.zeros(4, dtype=torch.float64, device=self.ranks.device)
        counts = np.zeros(3)
        for number in range(self.parts):
            mine = batch.part(self.ranks.rank * self.parts + number, self.ranks.world * self.parts)
            sums += self._train_part(mine, batch, last=number == self.parts - 1)
            counts += mine.is_document.sum() * mine.is_answer.shape[1], mine.is_answer.sum(), mine.is_answer.size
        self.ranks.finish_gradients(self.model)
        norm = whole(torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip))
        summed = self.ranks.sum(torch.cat([sums, self._sent(counts)]))
        # A GPU is waited for here and nowhere else in a step: whether to take it is decided by what it came to.
        *totals, gradient_norm = torch.cat([summed, norm.double().reshape(1)]).tolist()
        loss, document_nats, answer_nats, right, document_tokens, answers, tokens = totals
        diverged: tuple[int, ...] = ()
        if math.isfinite(loss) and math.isfinite(gradient_norm):
            self.optimizer.step()
        else:
            # A fast-weight memory can diverge within a row (FwMLP does, now and then): the step is dropped, values
            # start anew, and the drops are counted in what the checkpoint says of its training. Keys are learned all
            # along, so they are as before the step: what diverged in one layer spoils those of the layers above it.
            self.diverged_steps += 1
            diverged = self._diverged_memories()
            self.state = self._state_of_new_document(keys)
            loss = math.nan
        return StepReport(
            step=self.step + 1,
            loss=loss,
            document_loss=document_nats / max(document_tokens, 1),
            answer_loss=answer_nats / answers if answers else math.nan,
            answer_accuracy=right / answers if answers else math.nan,
            tokens=int(tokens),
            seconds=time.monotonic() - started,
            gradient_norm=gradient_norm,
            learning_rate=learning_rate(self.recipe, self.step),
            diverged_memories=diverged,
        )

    def _train_part(self, mine: Batch, batch: Batch, last: bool) -> Tensor:
        """Adds one part's gradients; returns its sums [4] float64: loss, nats of the documents and of the answers'
        digits, and how many of these are right."""
        all_answers, answers = int(batch.is_answer.sum()), np.flatnonzero(mine.is_answer)
        part = Part(
            tokens=self._sent(mine.tokens),
            answers=self._sent(answers),
            chunk_size=batch.chunk_size,
            training_window=self.config.backbone.window if batch.windowed else None,
            token_share=len(mine.tokens) / len(batch.tokens),
            answer_share=len(answers) / all_answers if all_answers else 0.0,
        )
        documents = self._sent(np.flatnonzero(mine.is_document))
        with self.ranks.accumulating(self.wrapped, last):
            with self._precision():
                loss, result, state = self.wrapped(part, self.state)
            # Mixers' caches hold on to this part's graph, which would live through the next forward pass.
            self.state = state.fresh_sequence()
            # The engines average over processes; the parts' losses are to be added.
            (loss * self.ranks.world).backward()
        sums = (
            loss.detach(),
            result.nats[documents].sum(),
            result.nats.flatten()[part.answers].sum(),
            result.right.flatten()[part.answers].sum(),
        )
        return torch.stack([entry.double() for entry in sums])

    def _sent(self, array: np.ndarray) -> Tensor:
        """The array on the device, which is not waited for."""
        tensor = torch.from_numpy(array)
        if self.ranks.device.type == "cuda":
            tensor = tensor.pin_memory()  # for a copy from memory that is not, CUDA may wait for the stream
        return tensor.to(self.ranks.device, non_blocking=True)

    def _precision(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.ranks.device.type, torch.bfloat16, enabled=self.bf16)

    def _weights_are_finite(self) -> bool:
        finite = all(bool(whole(parameter.isfinite().all())) for parameter in self.model.parameters())
        return not self.ranks.agree(None if finite else "a weight is not finite")

    def _diverged_memories(self) -> tuple[int, ...]:
        """Layers whose fast weights are not finite, in any process."""
        numbers = sorted(self.state.memories)
        broken = [
            not all(bool(x.isfinite().all()) for x in self.state.fast_weights[number].values()) for number in numbers
        ]
        counts = self.ranks.sum(torch.tensor(broken, dtype=torch.float32, device=self.ranks.device)).tolist()
        return tuple(number for number, count in zip(numbers, counts, strict=True) if count)

    def _keys(self) -> dict[int, Tensor]:
        """A copy of each product-key memory's keys, by layer; training writes them in place."""
        held = {number: held.memory for number, held in self.state.memories.items()}
        return {n: memory.keys.clone() for n, memory in held.items() if isinstance(memory, ProductKeyMemory)}

    def _state_of_new_document(self, keys: Mapping[int, Tensor] | None = None) -> ModelState:
        """A fresh sequence with the values as they started. Keys go on: they are learned all along.

        keys: those to go on with, by layer, the first ones in place of any that are not finite; None: as they are.
        """
        if self._first_state is None:
            self._first_state = self.model.initial_state()
            self.model.forget_drawn()
        fresh = self._first_state.copy()
        for number, held in self.state.memories.items():
            memory = fresh.memories[number].memory
            if isinstance(memory, ProductKeyMemory) and isinstance(held.memory, ProductKeyMemory):
                if keys is None:
                    memory.keys = held.memory.keys
                elif keys[number].isfinite().all():
                    memory.keys = keys[number]
        return fresh

    def finish(self) -> None:
        """Writes the checkpoint: the learned keys (the first process's) as first keys, weights as they are stored.

        Where rows go on and on and the memory is never cleared, it starts from what training left in it (the first
        process's, too): the slow weights have not seen another since their first steps.
        """
        dtype = STORED_DTYPES.get(self.config.scale, torch.float32)
        weights = {name: whole(tensor) for name, tensor in self.model.state_dict().items()}
        if self.ranks.is_first:
            model = self.model
            if self.ranks.mode == "fsdp" and self.ranks.world > 1:
                model = LanguageModel(self.config, seed=self.recipe.seed)
                model.load_state_dict(weights)
            for number, held in self.state.memories.items():
                layer = model.blocks[number].memory
                if isinstance(held.memory, ProductKeyMemory) and isinstance(layer, FwPKMLayer):
                    layer.first_keys.copy_(held.memory.keys)
                if self.recipe.layout == "packed" and isinstance(layer, FastWeightLayer):
                    layer.start_from(held.memory.fast_weights)
            try:
                round_weights(model, dtype)
            except UserError as problem:
                raise Diverged(str(problem), self.step) from None
            about = {
                "recipe": self.recipe.to_dict(),
                "data": self.data if self.data in ("embedded", "hub") else "path",
                "data_hash": self.batches.data_hash,
                "tokens": self.recipe.steps * self.recipe.tokens * self.recipe.rows,
                "diverged_steps": self.diverged_steps,
                "processes": self.ranks.world,
                "parts": self.parts,
                "bf16": self.bf16,
                **self._other_delta_rule(),
                "version": __version__,
                "torch": str(torch.__version__).partition("+")[0],
            }
            save_checkpoint(model, self.folder, about, dtype)
            remove_save_points(self.folder)
        self.ranks.barrier()

    def save(self) -> None:
        """Writes a save point: all that is needed to go on from the current step, in every process."""
        shared: dict[str, Tensor] = {f"model/{n}": whole(t) for n, t in self.model.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                shared[f"optimizer/{key}/{name}"] = whole(torch.as_tensor(value))
        own: dict[str, Tensor] = {"random/cpu": torch.get_rng_state()}
        if self.ranks.device.type == "cuda":
            own["random/cuda"] = torch.cuda.get_rng_state(self.ranks.device)
        for number, fast_weights in self.state.fast_weights.items():
            for key, value in fast_weights.items():
                own[f"memory/{number}/{key}"] = value
        about = {"step": self.step, "diverged_steps": self.diverged_steps, "identity": self.identity}
        shared = shared if self.ranks.is_first else {}
        write_save_point(self.folder, self.step, about, shared, own, self.ranks, self.settings.keep)

    def resume(self) -> bool:
        """Goes back to the newest save point; False if there is none. UserError if it belongs to another run."""
        found = read_save_point(self.folder, self.ranks)
        if found is None:
            return False
        difference = first_difference(found.about.get("identity"), json.loads(json.dumps(self.identity)))
        if difference is not None:
            raise UserError(f"{found.path} belongs to another run: {difference}; use another --out folder")
        weights = {n.removeprefix("model/"): t for n, t in found.shared.items() if n.startswith("model/")}
        self.model.load_state_dict({n: like(weights[n], t) for n, t in self.model.state_dict().items()})
        for name, parameter in self.model.named_parameters():
            if f"optimizer/step/{name}" not in found.shared:
                continue  # a parameter that has had no gradient yet
            kept = {k: found.shared[f"optimizer/{k}/{name}"] for k in ("step", "exp_avg", "exp_avg_sq")}
            moments = {k: like(v, parameter) for k, v in kept.items() if k != "step"}
            on_device = self.ranks.device.type == "cuda"  # where the fused optimizer keeps its steps
            self.optimizer.state[parameter] = {
                "step": kept["step"].to(parameter.device) if on_device else kept["step"],
                **moments,
            }
        for number, held in self.state.memories.items():
            _set_fast_weights(held.memory, found.own, f"memory/{number}/", self.ranks.device)
        if "random/cpu" in found.own:
            torch.set_rng_state(found.own["random/cpu"])
        if "random/cuda" in found.own:
            torch.cuda.set_rng_state(found.own["random/cuda"], self.ranks.device)
        self.step, self.diverged_steps = int(found.about["step"]), int(found.about["diverged_steps"])
        return True


def _parts(recipe: Recipe, settings: Settings, ranks: Ranks) -> int:
    """How many parts of its rows a process reads one after the other in a step."""
    mine, left = divmod(recipe.rows, ranks.world)
    if left:
        raise UserError(f"{recipe.rows} rows cannot be shared evenly by {ranks.world} processes; change --rows")
    allowed = min(mine, recipe.rows_at_once or mine)
    at_once = settings.rows_at_once or next(rows for rows in range(allowed, 0, -1) if mine % rows == 0)
    if mine % at_once:
        raise UserError(f"a process's {mine} rows cannot be read {at_once} at once; choose a divisor of {mine}")
    return mine // at_once


def _set_fast_weights(
    memory: ProductKeyMemory | DenseMemory, tensors: dict[str, Tensor], prefix: str, device: torch.device
) -> None:
    if isinstance(memory, ProductKeyMemory):
        memory.keys, memory.values = tensors[f"{prefix}keys"].to(device), tensors[f"{prefix}values"].to(device)
    else:
        memory.weights = {name: tensors[f"{prefix}{name}"].to(device) for name in memory.weights}
