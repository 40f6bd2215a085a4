"""The language model: embedding, layers (memory residual, mixer, MLP or PKM), tied head.

Shapes: B batch, T tokens, D hidden, W vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fwpkm_eval.errors import UserError, unknown
from fwpkm_eval.kernels.arguments import check_whole
from fwpkm_eval.kernels.backends import chunk_ops, resolve_backend
from fwpkm_eval.kernels.precision import at_least_float32
from fwpkm_eval.reference_models.attention import Attention, MixerState
from fwpkm_eval.reference_models.config import BackboneConfig, ModelConfig
from fwpkm_eval.reference_models.gated_delta import GatedDeltaNet
from fwpkm_eval.reference_models.lact_layer import LaCTLayer
from fwpkm_eval.reference_models.memory_layers import (
    FwMLPLayer,
    FwPKMLayer,
    MemoryState,
    PKMLayer,
    Updates,
    finish_reading,
)
from fwpkm_eval.reference_models.norms import RMSNorm
from fwpkm_eval.reference_models.state import ModelState
from fwpkm_eval.reference_models.weights_hash import check_sum, hash_weights
from fwpkm_eval.reference_models.yarn import Yarn, yarn_for


@dataclass(frozen=True)
class Call:
    """What a layer needs to know of a call: see `LanguageModel.forward`. position: tokens of the sequence before it;
    place: where its first token stands in all the text that the memories were ever shown."""

    position: int
    updates: Updates
    write_chunk: int | None
    yarn: Yarn | None = None
    training_window: int | None = None
    recompute: bool = False
    place: int = 0


class SwiGLU(nn.Module):
    """W_down (SiLU(W_gate x) ⊙ W_up x)."""

    def __init__(self, hidden: int, inner: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(hidden, 2 * inner, bias=False)
        self.down = nn.Linear(inner, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, -1)
        return self.down(F.silu(gate) * up)


class Layer(nn.Module):
    """[FwPKM, FwMLP or LaCT residual] → x + mixer(norm(x)) → x + (MLP or PKM)(norm(x))."""

    def __init__(self, config: ModelConfig, number: int) -> None:
        super().__init__()
        back, spec = config.backbone, config.spec
        self.memory: FwPKMLayer | FwMLPLayer | LaCTLayer | None = None
        if number in spec.layers("fwpkm"):
            self.memory = FwPKMLayer(config, number)
        elif number in spec.layers("fwmlp"):
            self.memory = FwMLPLayer(config, number)
        elif number in spec.layers("lact"):
            self.memory = LaCTLayer(config, number)
        self.mixer_norm = RMSNorm(back.hidden, back.norm_eps)
        kind = config.layer_kinds[number]
        self.mixer: GatedDeltaNet | Attention
        if kind == "gdn":
            self.mixer = GatedDeltaNet(back)
        else:
            self.mixer = Attention(back, back.window if kind == "swa" else None)
        self.mlp_norm = RMSNorm(back.hidden, back.norm_eps)
        self.mlp: SwiGLU | PKMLayer
        if number in spec.layers("pkm"):
            self.mlp = PKMLayer(config.pkm, back.hidden)
        else:
            self.mlp = SwiGLU(back.hidden, back.mlp_hidden)

    def forward(
        self, x: Tensor, mixer_state: MixerState | None, memory_state: MemoryState | None, call: Call
    ) -> tuple[Tensor, MixerState, MemoryState | None]:
        if self.memory is not None and memory_state is not None:
            x, memory_state = self.memory(x, memory_state, call.updates, call.write_chunk, call.place)
        if call.recompute:
            # Not the memory: reading it again would read what was written since.
            x, mixer_state = checkpoint(self.mix, x, mixer_state, call, use_reentrant=False)
        else:
            x, mixer_state = self.mix(x, mixer_state, call)
        return x, mixer_state, memory_state

    def mix(self, x: Tensor, state: MixerState | None, call: Call) -> tuple[Tensor, MixerState]:
        """The mixer and the MLP or PKM, each with its residual."""
        normed = self.mixer_norm(x)
        if isinstance(self.mixer, Attention):
            mixed, state = self.mixer(normed, state, call.position, call.yarn, call.training_window)
        else:
            mixed, state = self.mixer(normed, state, call.position)
        x = x + mixed
        return x + self.mlp(self.mlp_norm(x)), state


def _check_rows(state: ModelState, rows: int) -> None:
    """Refuses recurrences, caches and queued tokens of another number of rows than are to be read now."""
    held = [x for mixer in state.mixers if mixer is not None for x in mixer.values()]
    held += [piece.query for memory in state.memories.values() for piece in memory.queue.pieces]
    for x in held:
        if x.shape[0] != rows:
            raise UserError(
                f"this state is of {x.shape[0]} rows and tokens have {rows}: "
                "go on with as many, or from the state's fresh_sequence()"
            )


def values_seed(seed: int, layer: int) -> int:
    """The seed of the first fast weights of a layer's memory, in a model of this seed."""
    return seed * 1000 + layer


class LanguageModel(nn.Module):
    """A model of the paper's notation. It keeps no fast weights: a `ModelState` goes in and comes out."""

    def __init__(self, config: ModelConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.seed = seed
        self.backend = "auto"
        self._known_hash: tuple[int, str] | None = None
        self.loaded_weights = ""
        back = config.backbone
        with torch.random.fork_rng(devices=[]):
            self.embedding = nn.Embedding(back.vocab_size, back.hidden)
            self.layers = nn.ModuleList(Layer(config, number) for number in range(back.layers))
            self.final_norm = RMSNorm(back.hidden, back.norm_eps)
            torch.manual_seed(seed)
            self._init_weights(back)

    def _init_weights(self, back: BackboneConfig) -> None:
        nn.init.normal_(self.embedding.weight, std=back.embedding_std)
        for layer in self.blocks:
            for module in layer.modules():
                if isinstance(module, nn.Linear):
                    nn.init.normal_(module.weight, std=back.init_std)
            if isinstance(layer.mixer, GatedDeltaNet):
                layer.mixer.init_decay()
                nn.init.normal_(layer.mixer.conv.weight, std=layer.mixer.conv.taps**-0.5)
                nn.init.normal_(layer.mixer.out_proj.weight, std=back.mixer_out_std)
            else:
                nn.init.normal_(layer.mixer.o_proj.weight, std=back.mixer_out_std)
            if isinstance(layer.mlp, PKMLayer):
                layer.mlp.init_weights()
            if layer.memory is not None:
                layer.memory.init_weights(back.init_std)

    @property
    def blocks(self) -> list[Layer]:
        """The layers, as what they are (a ModuleList hands out plain modules)."""
        return [layer for layer in self.layers if isinstance(layer, Layer)]

    @property
    def has_fast_weights(self) -> bool:
        return any(layer.memory is not None for layer in self.blocks)

    @property
    def device(self) -> torch.device:
        return self.embedding.weight.device

    def use_backend(self, name: str) -> None:
        """Has product-key memories read and written by "torch" or "triton", from the next `initial_state` on.

        Raises:
            UserError: a backend that cannot run on the model's device, or that cannot stream.
        """
        chunk_ops(resolve_backend(name, self.device))
        self.backend = name
        for layer in self.blocks:
            for module in (layer.memory, layer.mlp):
                if isinstance(module, FwPKMLayer | PKMLayer):
                    module.backend = name

    @property
    def weights_hash(self) -> str:
        """16 hex digits over the names, shapes and bytes of all slow weights and first keys, the seed included.

        Of a model that was loaded in another dtype than float32: those of its checkpoint, until a weight is changed.
        """
        found = check_sum(self.seed, self.state_dict())
        if self._known_hash is None or self._known_hash[0] != found:
            self._known_hash = found, hash_weights(self.seed, self.state_dict())
        return self._known_hash[1]

    def was_loaded(self, weights_hash: str) -> None:
        """Has `weights_hash` give the hash of the checkpoint that the weights are of, as long as they are as now."""
        self._known_hash = check_sum(self.seed, self.state_dict()), weights_hash
        self.loaded_weights = weights_hash

    def initial_state(self, batch_size: int = 1, length: int | None = None) -> ModelState:
        """Before the first token, with the fast weights as they are before anything was read.

        All rows of a batch share one memory, so batch_size does not change it; it is checked to be at least 1.
        length: tokens of the sequences to come; where they are longer than those trained on, full attention takes YaRN.
        """
        check_whole("batch_size", batch_size, 1)
        memories = {}
        for number, layer in enumerate(self.blocks):
            if layer.memory is not None:
                memories[number] = MemoryState(layer.memory.initial_memory(values_seed(self.seed, number)))
        yarn = None if length is None else yarn_for(self.config, length)
        return ModelState(0, [None] * len(self.layers), memories, yarn=yarn, weights=self.loaded_weights)

    def forget_drawn(self) -> None:
        """Frees the first fast weights that memories keep on a GPU for the next `initial_state`: training needs one."""
        for layer in self.blocks:
            if layer.memory is not None:
                layer.memory.forget_drawn()

    def check_state(self, state: ModelState) -> None:
        """Refuses a state of another model: of another checkpoint, where both are of one, or by the kind and sizes of
        each layer's memory, recurrence and cache.

        Raises:
            UserError: they are not this model's.
        """
        if not isinstance(state, ModelState):
            raise UserError(f"the state is a {type(state).__name__}; it must be what this model returned")
        if state.weights and self.loaded_weights and state.weights != self.loaded_weights:
            raise UserError(
                f"this state is one of a model with weights {state.weights}; those of this {self.config.name} are "
                f"{self.loaded_weights}"
            )
        if len(state.mixers) != len(self.layers):
            raise UserError(
                f"this state is not one of a {self.config.name}: "
                f"it has {len(state.mixers)} layers and the model {len(self.layers)}"
            )
        for number, layer in enumerate(self.blocks):
            held = state.memories.get(number)
            if layer.memory is None:
                same = held is None
            else:
                same = held is not None and layer.memory.fits(held.memory)
            if not same:
                raise UserError(f"this state is not one of a {self.config.name}: layer {number} has another memory")
            mixer = state.mixers[number]
            if mixer is not None and not layer.mixer.fits(mixer, state.position):
                raise UserError(
                    f"this state is not one of a {self.config.name} after {state.position} tokens: "
                    f"layer {number} has another recurrence or cache"
                )

    def forward(
        self,
        tokens: Tensor,
        state: ModelState | None = None,
        *,
        updates: Updates = "stream",
        write_chunk: int | Literal["haystack"] | None = None,
        logits: Literal["all", "last", "none", "hidden"] = "all",
        inplace: bool = False,
        training_window: int | None = None,
        recompute: bool = False,
    ) -> tuple[Tensor | None, ModelState]:
        """Reads tokens [B,T] int64 from `state` on.

        Args:
            state: None for `initial_state()`.
            updates: "stream" queues tokens and writes every write_chunk of them (any split of a stream into calls gives
                the same results); "off" only reads: where the stream goes on behind it, what was queued before is first
                written with the targets it has, as by `flush`; "scan" is the training form: chunks counted from the
                first token of this call, targets within their chunk, differentiable through the writes.
            write_chunk: tokens per write; None for the model's chunk_size, "haystack" for a write only at `flush`
                (with "scan": at the end of this call).
            logits: for which tokens. inplace: the given state's fast weights may be written in place; use only the
                returned state after that. By default the given state is left as it was. After updates "off" the
                returned state has the very fast weights of the given one, not copies: where the given one is still
                needed, go on from ``returned.copy()`` before an inplace call.
            training_window: full attention sees so many tokens in this call (pSWA). recompute: mixers and MLPs keep no
                activations for the gradient but are computed again (activation checkpointing).

        Returns:
            (logits [B,T,W] or [B,1,W] float32, float64 of a float64 model, or None; the state after the last token).
            With logits "hidden" the normed features [B,T,D] before the head, for a loss that makes the logits itself.
        """
        _check_tokens(tokens, self.config.vocab_size)
        if updates not in ("stream", "off", "scan"):
            raise unknown("updates", str(updates), ["stream", "off", "scan"])
        if logits not in ("all", "last", "none", "hidden"):
            raise unknown("logits", str(logits), ["all", "last", "none", "hidden"])
        if not (write_chunk is None or write_chunk == "haystack" or (type(write_chunk) is int and write_chunk > 0)):
            raise UserError(f"write_chunk is {write_chunk!r}; it must be a number of tokens above 0, or 'haystack'")
        if state is None:
            state = self.initial_state(tokens.shape[0])
        else:
            self.check_state(state)
            _check_rows(state, tokens.shape[0])
        if not inplace and updates != "off":
            state = state.copy()
        every = self.config.chunk_size if write_chunk is None else None if write_chunk == "haystack" else write_chunk
        call = Call(state.position, updates, every, state.yarn, training_window, recompute, state.place)
        x = self.embedding(tokens)
        mixers: list[MixerState | None] = []
        memories: dict[int, MemoryState] = {}
        for number, layer in enumerate(self.blocks):
            held = state.memories.get(number)
            held = None if held is None else MemoryState(held.memory, held.queue, held.past)
            x, mixer, held = layer(x, state.mixers[number], held, call)
            mixers.append(mixer)
            if held is not None:
                memories[number] = held
        after = ModelState(state.position + tokens.shape[1], mixers, memories, state.origin, state.yarn, state.weights)
        if logits == "none":
            return None, after
        if logits == "hidden":
            return self.final_norm(x), after
        x = x if logits == "all" else x[:, -1:]
        return at_least_float32(F.linear(self.final_norm(x), self.embedding.weight)), after

    @torch.no_grad()
    def flush(self, state: ModelState, inplace: bool = False) -> ModelState:
        """Writes what is queued: the end of a reading. Tokens without a target (the last L) are dropped."""
        state = state if inplace else state.copy()
        for memory in state.memories.values():
            finish_reading(memory)
        return state


def _check_tokens(tokens: object, vocabulary: int) -> None:
    """Refuses what is no [B,T] of token numbers, and on a CPU, where looking is free, those that the model has not."""
    if not isinstance(tokens, Tensor):
        raise UserError(f"tokens is a {type(tokens).__name__}; it must be a torch.Tensor [B,T] of int64")
    if tokens.dtype not in (torch.int64, torch.int32):
        raise UserError(f"tokens is {tokens.dtype}; it must be int64")
    if tokens.dim() != 2 or tokens.shape[1] == 0:
        raise UserError(f"tokens {list(tokens.shape)} must be [B,T] with at least one token")
    if tokens.device.type == "cpu" and tokens.numel():
        least, most = (int(x) for x in tokens.aminmax())
        if least < 0 or most >= vocabulary:
            wrong = least if least < 0 else most
            raise UserError(f"tokens holds {wrong}; this model's tokens are 0 to {vocabulary - 1}")
