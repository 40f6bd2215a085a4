"""A state file's description (JSON) and tensors, checked against each other and put together again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fwpkm_eval.kernels.lact import RATES
from fwpkm_eval.kernels.observe import Places
from fwpkm_eval.kernels.stream import ProductKeyMemory, QueuedPiece, WriteQueue
from fwpkm_eval.reference_models.attention import MixerState
from fwpkm_eval.reference_models.config import ModelConfig
from fwpkm_eval.reference_models.memory_layers import MemoryState
from fwpkm_eval.reference_models.notation import FAST_WEIGHTS
from fwpkm_eval.reference_models.state import ModelState
from fwpkm_eval.reference_models.stored_state import Span, StoredState, first_memory
from fwpkm_eval.reference_models.write_log import LoggedWrite, WriteLog
from fwpkm_eval.reference_models.yarn import Yarn


@dataclass
class StateParts:
    """A file's description and tensors, and the way back to the state from them.

    Whatever does not fit raises a KeyError, TypeError, ValueError or AttributeError.
    """

    about: Mapping[str, Any]
    tensors: dict[str, Tensor]

    def stored(self) -> StoredState:
        about = self.about
        config = ModelConfig.from_dict(about["config"])
        layers = {_whole(int(number)): layer for number, layer in about["layers"].items()}
        spec = config.spec
        if set(layers) != {layer for kind in FAST_WEIGHTS for layer in spec.layers(kind)}:
            raise ValueError(f"its memories are not those of {config.name}")
        first = {n: self._first(n, config) for n in sorted(layers)}
        seed = _whole(about["seed"])
        memories = {n: self._memory(n, layers[n], config, seed, first[n]) for n in sorted(layers)}
        mixers = [self._mixer(n) for n in range(config.backbone.layers)]
        longer = about.get("yarn")
        yarn = None if longer is None else Yarn(_whole(longer["factor"]), _whole(longer["trained_length"]))
        weights = str(about["weights_hash"])
        state = ModelState(_whole(about["position"]), mixers, memories, _whole(about["origin"]), yarn, weights)
        spans, forgotten = (
            [Span(str(one["name"]), *_span(one["start"], one["stop"])) for one in about[name]]
            for name in ("spans", "forgotten")
        )
        tokens_read = _whole(about["tokens_read"])
        return StoredState(config, seed, weights, state, first, tokens_read, spans, forgotten)

    def _first(self, number: int, config: ModelConfig) -> dict[str, Tensor]:
        """Which of a layer's first fast weights the file holds: a FwPKM's keys always, the others all or none."""
        shapes: dict[str, tuple[int, ...]]
        fw, name = config.fwpkm, f"memory.{number}.first"
        if number in config.spec.layers("fwpkm"):
            shapes = {"keys": (fw.heads, 2, fw.subkeys, fw.key_dim // 2)}
            if f"{name}_values" in self.tensors:
                shapes["values"] = (fw.subkeys**2, fw.value_dim)
        else:
            drawn = first_memory(config, 0, number, {}).fast_weights
            shapes = {part: tuple(weight.shape) for part, weight in drawn.items()}
            if not any(f"{name}_{part}" in self.tensors for part in shapes):
                return {}
        return {part: self._tensor(f"{name}_{part}", shape) for part, shape in shapes.items()}

    def _memory(
        self, number: int, about: Mapping[str, Any], config: ModelConfig, seed: int, first: Mapping[str, Tensor]
    ) -> MemoryState:
        memory, name = first_memory(config, seed, number, first), f"memory.{number}"
        memory.writes = _whole(about["writes"])
        if isinstance(memory, ProductKeyMemory):
            slots = self._tensor(f"{name}.slots", (None,), torch.int64)
            rows = self._tensor(f"{name}.rows", (len(slots), memory.values.shape[1]))
            if len(slots) and not (slots.min() >= 0 and slots.max() < len(memory.values)):
                raise ValueError(f"{name}.slots names slots that are not there")
            memory.values[slots] = rows
            memory.keys = self._tensor(f"{name}.keys", tuple(memory.keys.shape))
            if values_hash(memory.values) != about["values_hash"]:
                raise ValueError(
                    f"layer {number}'s first values, drawn again from seed {seed}, are others than when it was saved"
                )
            if "log" in about:
                writes = [self._write(f"log.{number}.{w}", one) for w, one in enumerate(about["log"])]
                memory.observer = WriteLog(writes)
        else:
            memory.weights = {
                part: self._tensor(f"{name}.{part}", tuple(weight.shape)) for part, weight in memory.weights.items()
            }
        queue = WriteQueue()
        if "queue" in about:
            rates = (RATES,) if number in config.spec.layers("lact") else ()
            query, target, gate = self._inputs(f"queue.{number}", rates)
            queue.pieces = [QueuedPiece(query, target, gate, _places(about["queue"], query.shape[1]))]
        return MemoryState(memory, queue, self.tensors.get(f"past.{number}"))

    def _write(self, name: str, about: Mapping[str, Any]) -> LoggedWrite:
        query, target, gate = self._inputs(name)
        places = (_places(about[ends], query.shape[1]) for ends in ("queries", "targets"))
        return LoggedWrite(query, target, gate, *places)

    def _inputs(self, name: str, of_token: tuple[int, ...] = ()) -> tuple[Tensor, Tensor, Tensor | None]:
        """query, target and gate; of_token: the gate's shape for one token, () for a single number."""
        query = self._tensor(f"{name}.query", (None, None, None), None)
        target = self._tensor(f"{name}.target", (*query.shape[:2], None), None)
        gate = f"{name}.gate"
        shape = (*query.shape[:2], *of_token)
        return query, target, self._tensor(gate, shape, None) if gate in self.tensors else None

    def _mixer(self, number: int) -> MixerState | None:
        prefix = f"mixer.{number}."
        found = {n.removeprefix(prefix): x for n, x in self.tensors.items() if n.startswith(prefix)}
        return found or None

    def _tensor(self, name: str, shape: tuple[int | None, ...], dtype: torch.dtype | None = torch.float32) -> Tensor:
        """A tensor of the file, checked; None stands for any size or type."""
        tensor = self.tensors[name]
        fits = len(shape) == tensor.dim() and all(b is None or a == b for a, b in zip(tensor.shape, shape, strict=True))
        if not fits or (dtype is not None and tensor.dtype != dtype):
            raise ValueError(f"{name} is {list(tensor.shape)} {tensor.dtype}, which does not fit")
        return tensor


def _whole(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no whole number of at least 0")
    return value


def _span(start: Any, stop: Any) -> tuple[int, int]:
    if _whole(start) > _whole(stop):
        raise ValueError(f"{start}:{stop} is no span")
    return start, stop


def _places(ranges: Any, count: int) -> Places:
    places = tuple(range(*_span(start, stop)) for start, stop in ranges)
    if sum(map(len, places)) != count:
        raise ValueError(f"{count} tokens have {sum(map(len, places))} places")
    return places


def values_hash(values: Tensor) -> str:
    """16 hex digits over a memory's values, on the CPU."""
    return hashlib.sha256(values.contiguous().numpy().tobytes()).hexdigest()[:16]
