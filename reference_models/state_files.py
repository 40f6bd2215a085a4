"""States as files: one safetensors file whose header holds a checked description as JSON; no pickle.

Of a FwPKM's values only the slots that differ from the first ones are stored: the first ones are drawn from the model's
seed again, and a hash says whether that gave the same (unless the checkpoint keeps them: then so does the file). A file
belongs to one model: its configuration, seed and the hash of its weights are in it. It can be shown, compared, reset
and made to forget without that model.

Tensors: memory.N.slots [U], .rows [U,dv], .keys and .first_keys [H,2,S,dk/2] (FwPKM) or memory.N.w_up … (FwMLP, LaCT),
and .first_values or .first_w_up … where the checkpoint keeps them;
past.N; queue.N.query, .target, .gate; mixer.N.name; log.N.W.query, .target, .gate of write W.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fwpkm_eval.errors import UserError
from fwpkm_eval.kernels.observe import Places
from fwpkm_eval.kernels.stream import ProductKeyMemory
from fwpkm_eval.reference_models.checkpoint import save_tensors
from fwpkm_eval.reference_models.language_model import LanguageModel
from fwpkm_eval.reference_models.memory_layers import FastWeightLayer, MemoryState
from fwpkm_eval.reference_models.state import ModelState
from fwpkm_eval.reference_models.state_parts import StateParts, values_hash
from fwpkm_eval.reference_models.stored_state import Span, StoredState
from fwpkm_eval.reference_models.write_log import LoggedWrite, log_of

FORMAT = 1
_HEADER = "fwpkm_eval_state"


def save_state(
    path: Path, model: LanguageModel, state: ModelState, *, tokens_read: int | None = None, spans: Sequence[Span] = ()
) -> None:
    """Writes the state of this model to a file, whole or not at all.

    tokens_read: in all (default: those of the sequence being read); spans: names for what was read.

    Raises:
        UserError: the state is of another model, or the file cannot be written.
    """
    _check_model(model)
    model.check_state(state)
    first = {
        number: {name: x.detach().float().cpu() for name, x in layer.memory.kept_weights().items()}
        for number, layer in enumerate(model.blocks)
        if isinstance(layer.memory, FastWeightLayer)
    }
    tokens = state.position if tokens_read is None else tokens_read
    about = (model.config, model.seed, model.weights_hash)
    write_state(Path(path), StoredState(*about, state, first, tokens, list(spans)))


def load_state(path: Path | str, model: LanguageModel) -> ModelState:
    """The state in a file, on the model's device: the model goes on from it as from the state that was saved.

    Raises:
        UserError: no such file, damaged, or the state of another model; a sequence that was read in another dtype.
    """
    _check_model(model)
    stored = read_state(Path(path))
    check_same_model(path, stored, model)
    ours, theirs = (str(x).removeprefix("torch.") for x in (model.embedding.weight.dtype, _read_in(stored.state)))
    if theirs not in (ours, "None"):
        raise UserError(
            f"{path} holds a sequence read in {theirs}, which a model in {ours} cannot go on with: load the model with "
            f"dtype={theirs!r}, or save the state's fresh_sequence()"
        )
    state = stored.to(model.device).state
    state.weights = model.loaded_weights  # it is this model's, though its weights may have been changed since
    for held in state.memories.values():
        if isinstance(held.memory, ProductKeyMemory):
            held.memory.backend = model.backend  # as `initial_state` has it: a file says nothing of how to compute
    return state


def _check_model(model: object) -> None:
    if not isinstance(model, LanguageModel):
        raise UserError(f"model is a {type(model).__name__}; it must be what load_model returns")


def _read_in(state: ModelState) -> torch.dtype | None:
    """The dtype of the activations that a state's caches hold; recurrent matrices may be wider. None: no caches."""
    caches = [tensor for mixer in state.mixers for tensor in (mixer or {}).values()]
    return min((tensor.dtype for tensor in caches), key=lambda dtype: dtype.itemsize, default=None)


def check_same_model(path: Path | str, stored: StoredState, model: LanguageModel) -> None:
    """Refuses a state that another model made."""
    ours, theirs = (config.name + f" ({config.scale})" for config in (model.config, stored.config))
    if ours == theirs and (stored.weights_hash, stored.seed) != (model.weights_hash, model.seed):
        raise UserError(
            f"{path} is a state of a {stored.config.name} with weights {stored.weights_hash}; "
            f"this model's are {model.weights_hash}"
        )
    if stored.config != model.config:
        other = theirs if ours != theirs else "one with other settings"
        raise UserError(f"{path} is a state of another model: of {other}, not of this {model.config.name}")


def write_state(path: Path, stored: StoredState) -> None:
    """The file of a state, there whole or as it was. UserError if it cannot be written."""
    tensors: dict[str, Tensor] = {}
    state = stored.state
    layers = {str(n): _put_memory(stored, n, held, tensors) for n, held in state.memories.items()}
    for number, mixer in enumerate(state.mixers):
        tensors |= {f"mixer.{number}.{name}": x for name, x in (mixer or {}).items()}
    tensors = {name: x.detach().cpu().contiguous().clone() for name, x in tensors.items()}
    about = {
        "format": FORMAT,
        "config": stored.config.to_dict(),
        "seed": stored.seed,
        "weights_hash": stored.weights_hash,
        "position": state.position,
        "origin": state.origin,
        "yarn": None if state.yarn is None else vars(state.yarn),
        "tokens_read": stored.tokens_read,
        "spans": [vars(span) for span in stored.spans],
        "forgotten": [vars(span) for span in stored.forgotten],
        "layers": layers,
    }
    header = {"about": about, "sha256": _digest(about, tensors)}
    save_tensors(path, tensors, {_HEADER: json.dumps(header)})


def _put_memory(stored: StoredState, number: int, held: MemoryState, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Adds a layer's tensors, and returns what the description says of it."""
    memory, name = held.memory, f"memory.{number}"
    about: dict[str, Any] = {"writes": memory.writes}
    if isinstance(memory, ProductKeyMemory):
        if memory.count != "written" or memory.values.dtype != torch.float32:
            raise UserError(f"layer {number}: only float32 memories that count the reads of written tokens are stored")
        values = memory.values.detach().cpu()
        first = stored.first_memory(number)
        assert isinstance(first, ProductKeyMemory)
        changed = (values.view(torch.int32) != first.values.view(torch.int32)).any(1).nonzero().squeeze(-1)
        tensors |= {f"{name}.slots": changed, f"{name}.rows": values[changed]}
        tensors[f"{name}.keys"] = memory.keys
        about["values_hash"] = values_hash(values)
        log = log_of(memory)
        if log is not None:
            about["log"] = [_put_write(write, f"log.{number}.{w}", tensors) for w, write in enumerate(log.writes)]
    else:
        tensors |= {f"{name}.{part}": weight for part, weight in memory.weights.items()}
    tensors |= {f"{name}.first_{part}": x for part, x in stored.first.get(number, {}).items()}
    if held.past is not None:
        tensors[f"past.{number}"] = held.past
    if held.queue.pieces:
        query, target, gate, places = held.queue.joined()
        _put(f"queue.{number}", query, target, gate, tensors)
        about["queue"] = _ranges(places)
    return about


def _put_write(write: LoggedWrite, name: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    _put(name, write.query, write.target, write.gate, tensors)
    return {"queries": _ranges(write.query_places), "targets": _ranges(write.target_places)}


def _put(name: str, query: Tensor, target: Tensor, gate: Tensor | None, tensors: dict[str, Tensor]) -> None:
    tensors |= {f"{name}.query": query, f"{name}.target": target}
    if gate is not None:
        tensors[f"{name}.gate"] = gate


def _ranges(places: Places) -> list[list[int]]:
    return [[run.start, run.stop] for run in places]


def read_state(path: Path) -> StoredState:
    """What a state file holds, on the CPU; its model is not needed.

    Raises:
        UserError: no such file, not a state file, damaged, or made with other first fast weights.
    """
    try:
        with safe_open(path, framework="pt") as opened:
            header = json.loads((opened.metadata() or {})[_HEADER])
            tensors = {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118 (not a dict)
    except FileNotFoundError:
        raise UserError(f"no state file {path}: 'fwpkm-eval state save' makes one") from None
    except KeyError:
        raise UserError(f"{path} is not a state file: it has no description") from None
    except (OSError, ValueError, SafetensorError) as problem:
        raise UserError(f"{path} is not a state file: {problem}") from None
    try:
        about = header["about"]
        if about["format"] != FORMAT:
            raise ValueError(f"its format is {about['format']}, and this version reads {FORMAT}")
        if header["sha256"] != _digest(about, tensors):
            raise ValueError("it is damaged, its content does not have the hash it was written with")
        return StateParts(about, tensors).stored()
    except (KeyError, TypeError, ValueError, AttributeError, UserError) as problem:
        reason = f"no {problem}" if isinstance(problem, KeyError) else problem
        raise UserError(f"{path} is not a whole state file: {reason}") from None


def _digest(about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the description and the names, types, shapes and bytes of all tensors."""
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
