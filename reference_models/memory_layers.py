"""The memory layers: PKM in place of an MLP, FwPKM and FwMLP before a mixer with their own residual.

LaCT, which stands where they do, is in `lact_layer`.

Shapes: B batch, T tokens, D hidden, dk key width, dv value width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fwpkm_eval.kernels.fwmlp import SHAPES, WEIGHT_NAMES, FwMLPRule, fwmlp_scan
from fwpkm_eval.kernels.fwpkm import fwpkm_scan
from fwpkm_eval.kernels.huge_pages import copy_large, empty_large
from fwpkm_eval.kernels.lact import LaCTRule
from fwpkm_eval.kernels.pkm import pkm_read
from fwpkm_eval.kernels.precision import full_precision
from fwpkm_eval.kernels.stream import DenseMemory, ProductKeyMemory, WriteQueue, flush, read_and_queue
from fwpkm_eval.kernels.types import DenseScanResult, MemoryRule
from fwpkm_eval.reference_models.config import FwMLPConfig, FwPKMConfig, LaCTConfig, ModelConfig, PKMConfig
from fwpkm_eval.reference_models.norms import CausalConv, RMSNorm

Updates = Literal["stream", "off", "scan"]


@dataclass
class MemoryState:
    """One memory layer's fast weights, the tokens waiting to be written, and the query convolution's past [B,·,D]."""

    memory: ProductKeyMemory | DenseMemory
    queue: WriteQueue = field(default_factory=WriteQueue)
    past: Tensor | None = None

    def copy(self) -> MemoryState:
        return MemoryState(self.memory.copy(), self.queue.copy(), self.past)


class PKMLayer(nn.Module):
    """Linear_out(read(RMSNorm(Linear(h))) ⊙ SiLU(Linear_gate(h))); values are slow weights (Lample et al. 2019)."""

    def __init__(self, config: PKMConfig, hidden: int) -> None:
        super().__init__()
        self.heads, self.topk = config.heads, config.topk
        self.backend = "auto"
        width = config.heads * config.key_dim
        self.query = nn.Linear(hidden, width)
        self.query_norm = nn.RMSNorm(width, eps=1e-6)
        self.keys = nn.Parameter(torch.empty(config.heads, 2, config.subkeys, config.key_dim // 2))
        self.values = nn.Parameter(torch.empty(config.subkeys**2, config.value_dim))
        self.gate_proj = nn.Linear(hidden, config.value_dim)
        self.out_proj = nn.Linear(config.value_dim, hidden)

    def init_weights(self) -> None:
        nn.init.uniform_(self.keys, -((2 * self.keys.shape[-1]) ** -0.5), (2 * self.keys.shape[-1]) ** -0.5)
        nn.init.normal_(self.values, std=self.values.shape[1] ** -0.5)
        nn.init.xavier_uniform_(self.query.weight)
        for linear in (self.gate_proj, self.out_proj):
            nn.init.normal_(linear.weight, std=self.gate_proj.in_features**-0.5)
        for linear in (self.query, self.gate_proj, self.out_proj):
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        query = self.query_norm(self.query(x).to(self.keys.dtype))
        with full_precision(x.device):
            read, _ = pkm_read(query, self.keys, self.values, topk=self.topk, backend=self.backend)
        return self.out_proj(read.to(x.dtype) * F.silu(self.gate_proj(x)))


class FastWeightLayer(nn.Module):
    """What FwPKM, FwMLP and LaCT share: query, target, gate and output projections around a memory of fast weights.

    q = Linear_q([conv] RMSNorm_q(h)), v = Linear_v(RMSNorm_v(h)) normalised, g = σ(Linear_g(RMSNorm_g(h))),
    v̂ = read(q), o = g·v̂ + (1 − g)·v, and the layer gives h + Linear_o(RMSNorm_o(o)).
    """

    def __init__(
        self,
        config: FwPKMConfig | FwMLPConfig | LaCTConfig,
        model: ModelConfig,
        number: int,
        query_dim: int,
        value_dim: int,
    ) -> None:
        super().__init__()
        hidden, eps = model.backbone.hidden, model.backbone.norm_eps
        self.target_norm, self.gate_bias = config.target_norm, config.gate_bias
        self.q_norm, self.v_norm, self.g_norm = (RMSNorm(hidden, eps) for _ in range(3))
        self.o_norm = RMSNorm(value_dim, eps)
        taps = model.query_conv(number)
        self.conv = CausalConv(hidden, taps) if taps else None
        self.q_proj = nn.Linear(hidden, query_dim)
        self.v_proj = nn.Linear(hidden, value_dim)
        self.g_proj = nn.Linear(hidden, 1)
        self.o_proj = nn.Linear(value_dim, hidden)
        self._drawn: tuple[tuple[int, torch.device], dict[str, Tensor]] | None = None

    def init_weights(self, std: float) -> None:
        for linear in (self.q_proj, self.v_proj, self.g_proj, self.o_proj):
            nn.init.normal_(linear.weight, std=std)
            nn.init.zeros_(linear.bias)
        nn.init.constant_(self.g_proj.bias, self.gate_bias)
        if self.conv is not None:
            nn.init.normal_(self.conv.weight, std=self.conv.taps**-0.5)

    def project(self, x: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """x [B,T,D] → query [B,T,·], target [B,T,dv], gate [B,T], and the convolution's new past."""
        q = self.q_norm(x)
        if self.conv is not None:
            q, past = self.conv(q, past)
        v = self.v_proj(self.v_norm(x)).float()
        if self.target_norm:
            v = (v - v.mean(-1, keepdim=True)) / (v.std(-1, keepdim=True) + 1e-6)
        return self.q_proj(q), v, torch.sigmoid(self.g_proj(self.g_norm(x)).squeeze(-1).float()), past

    def output(self, x: Tensor, read: Tensor, target: Tensor, gate: Tensor | None) -> Tensor:
        mixed = read if gate is None else gate.unsqueeze(-1) * read + (1 - gate.unsqueeze(-1)) * target
        return x + self.o_proj(self.o_norm(mixed.to(x.dtype)))

    def scan(self, state: MemoryState, q: Tensor, v: Tensor, weigh: Tensor | None, chunk_size: int) -> Tensor:
        """The training form: reads and writes in chunks counted from the first token, differentiable through both."""
        raise NotImplementedError("each memory scans in its own way")

    def fits(self, memory: ProductKeyMemory | DenseMemory) -> bool:
        """Whether the memory is of this layer's kind and sizes."""
        raise NotImplementedError("each memory has its own sizes")

    @property
    def drawn_shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the fast weights that are drawn from a seed."""
        raise NotImplementedError("each memory has its own sizes")

    def draw(self, values_seed: int) -> dict[str, Tensor]:
        """Those fast weights, on the CPU."""
        raise NotImplementedError("each memory draws its own")

    def start_from(self, fast_weights: Mapping[str, Tensor]) -> None:
        """Keeps these with the layer's weights: from here on a memory starts from them, and not from a seed."""
        for name, shape in self.drawn_shapes.items():
            kept = torch.empty(shape, dtype=torch.float32, device=self.q_proj.weight.device)
            self.register_buffer(f"first_{name}", kept.copy_(fast_weights[name]))

    def kept_weights(self) -> dict[str, Tensor]:
        """The first fast weights that are kept with the layer's weights: a FwPKM's keys, all after `start_from`."""
        kept = ((name.removeprefix("first_"), x) for name, x in self._buffers.items() if name.startswith("first_"))
        return {name: x for name, x in kept if x is not None}

    def first_weights(self, values_seed: int) -> dict[str, Tensor]:
        """The fast weights that a memory starts from, for it to write in."""
        kept = self.kept_weights()
        if set(self.drawn_shapes) <= set(kept):
            return {name: copy_large(kept[name].float()) for name in self.drawn_shapes}
        device = self.q_proj.weight.device
        if device.type == "cpu":
            return self.draw(values_seed)
        # Drawn on the CPU, whatever the device, so that they are the same; once, for that takes longer than reading.
        if self._drawn is None or self._drawn[0] != (values_seed, device):
            self._drawn = (values_seed, device), {n: w.to(device) for n, w in self.draw(values_seed).items()}
        return {name: weight.clone() for name, weight in self._drawn[1].items()}

    def forget_drawn(self) -> None:
        """Frees what `first_weights` keeps on a GPU; it is drawn again where it is needed again."""
        self._drawn = None

    def write_weight(self, x: Tensor, gate: Tensor) -> Tensor | None:
        """How much each token weighs in the write; None: all the same."""
        return gate

    def read_gate(self, gate: Tensor) -> Tensor | None:
        """The gate that mixes v̂ and v."""
        return gate

    def forward(
        self, x: Tensor, state: MemoryState, updates: Updates, write_chunk: int | None, place: int = 0
    ) -> tuple[Tensor, MemoryState]:
        """x [B,T,D]; state is updated in place and returned. write_chunk None: only a flush writes.

        place: where x's first token stands, in all the text that the memory was ever shown.
        """
        q, v, gate, past = self.project(x, state.past)
        weigh = self.write_weight(x, gate)
        with full_precision(x.device):
            if updates == "scan":
                read = self.scan(state, q, v, weigh, write_chunk or x.shape[1])
            elif updates == "off":
                read = state.memory.read(q)
            else:
                if state.queue.tokens and state.queue.end != place:
                    flush(state.memory, state.queue)  # a token is not stored with one from beyond what was only read
                read = read_and_queue(state.memory, state.queue, q, v, weigh, write_chunk, place)
        state.past = past
        if isinstance(state.memory, ProductKeyMemory) and state.memory.observer is not None:
            state.memory.observer.gated(gate, place)
        return self.output(x, read, v, self.read_gate(gate)), state


class FwPKMLayer(FastWeightLayer):
    """Fast-weight product-key memory (Zhao & Jones, arXiv 2601.00671)."""

    def __init__(self, model: ModelConfig, number: int) -> None:
        config = model.fwpkm
        super().__init__(config, model, number, config.heads * config.key_dim, config.value_dim)
        self.config = config
        self.backend = "auto"
        self.rule = memory_rule(config)
        self.register_buffer("first_keys", torch.empty(config.heads, 2, config.subkeys, config.key_dim // 2))
        self.first_keys: Tensor

    def init_weights(self, std: float) -> None:
        super().init_weights(std)
        nn.init.uniform_(self.first_keys, -(self.config.key_dim**-0.5), self.config.key_dim**-0.5)

    def fits(self, memory: ProductKeyMemory | DenseMemory) -> bool:
        return (
            isinstance(memory, ProductKeyMemory)
            and memory.keys.shape == self.first_keys.shape
            and memory.values.shape == self.drawn_shapes["values"]
        )

    @property
    def drawn_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"values": (self.config.subkeys**2, self.config.value_dim)}

    def draw(self, values_seed: int) -> dict[str, Tensor]:
        return {"values": first_values(self.config, values_seed)}

    def write_weight(self, x: Tensor, gate: Tensor) -> Tensor | None:
        return gate if self.config.gate and self.config.gated_loss else None

    def read_gate(self, gate: Tensor) -> Tensor | None:
        return gate if self.config.gate else None

    def scan(self, state: MemoryState, q: Tensor, v: Tensor, weigh: Tensor | None, chunk_size: int) -> Tensor:
        assert isinstance(state.memory, ProductKeyMemory)
        result = fwpkm_scan(
            q.float(),
            v,
            weigh,
            state.memory.keys,
            state.memory.values,
            **vars(self.rule),
            chunk_size=chunk_size,
            backend=self.backend,
            inplace=self.backend != "reference",
        )
        state.memory.keys, state.memory.values = result.keys.detach(), result.values.detach()
        state.memory.writes += -(-q.shape[1] // chunk_size)
        return result.output

    def initial_memory(self, values_seed: int) -> ProductKeyMemory:
        """What the memory is before it has read: the keys kept with the weights, values N(0, dv^-½) from a seed, unless
        they are kept, too (see `start_from`)."""
        values = self.first_weights(values_seed)["values"]
        # The dense reference scans, for comparing speeds, but has no stream.
        streams = "auto" if self.backend == "reference" else self.backend
        return ProductKeyMemory(self.first_keys.float().clone(), values, self.rule, backend=streams)


class DenseLayer(FastWeightLayer):
    """What FwMLP and LaCT share beyond that: fast weights that are drawn from a seed, all of them.

    shapes: of each fast weight, in the words in, hidden and out.
    """

    config: FwMLPConfig | LaCTConfig
    shapes: ClassVar[Mapping[str, Sequence[str]]]

    def fits(self, memory: ProductKeyMemory | DenseMemory) -> bool:
        if not isinstance(memory, DenseMemory):
            return False
        return self.drawn_shapes == {name: tuple(weight.shape) for name, weight in memory.weights.items()}

    @property
    def drawn_shapes(self) -> dict[str, tuple[int, ...]]:
        sizes = {"in": self.config.input_dim, "hidden": self.config.hidden, "out": self.config.output_dim}
        return {name: tuple(sizes[word] for word in words) for name, words in self.shapes.items()}

    def draw(self, values_seed: int) -> dict[str, Tensor]:
        return first_dense_weights(self.config, values_seed)

    def keep(self, memory: DenseMemory, result: DenseScanResult, chunk_size: int) -> Tensor:
        """Carries the weights on, detached; returns what was read."""
        memory.weights = {name: weight.detach() for name, weight in result.weights.items()}
        memory.writes += -(-result.output.shape[1] // chunk_size)
        return result.output

    def initial_memory(self, values_seed: int) -> DenseMemory:
        """What the memory is before it has read: drawn from a seed (see `first_dense_weights`), unless it is kept."""
        return DenseMemory(self.first_weights(values_seed), dense_rule(self.config))


class FwMLPLayer(DenseLayer):
    """The dense fast-weight MLP in FwPKM's place; its write is not weighted by the gate."""

    shapes = SHAPES

    def __init__(self, model: ModelConfig, number: int) -> None:
        config = model.fwmlp
        super().__init__(config, model, number, config.input_dim, config.output_dim)
        self.config = config

    def write_weight(self, x: Tensor, gate: Tensor) -> Tensor | None:
        return None

    def scan(self, state: MemoryState, q: Tensor, v: Tensor, weigh: Tensor | None, chunk_size: int) -> Tensor:
        memory = state.memory
        assert isinstance(memory, DenseMemory)
        result = fwmlp_scan(q.float(), v, memory.weights, **vars(memory.rule), chunk_size=chunk_size)
        return self.keep(memory, result, chunk_size)


def memory_rule(config: FwPKMConfig) -> MemoryRule:
    """How a FwPKM of this configuration reads and writes."""
    return MemoryRule(
        config.topk,
        config.score,
        config.lookahead,
        config.addressing,
        config.learning_rate,
        config.addressing_weight,
    )


def first_values(config: FwPKMConfig, values_seed: int) -> Tensor:
    """A FwPKM's values [S²,dv] before anything was read: N(0, dv^-½) from a seed, on the CPU."""
    draw = torch.Generator().manual_seed(values_seed)
    drawn = empty_large(config.subkeys**2, config.value_dim).normal_(generator=draw)
    return drawn.mul_(config.value_dim**-0.5)


def dense_rule(config: FwMLPConfig | LaCTConfig) -> FwMLPRule | LaCTRule:
    """How a dense memory of this configuration reads and writes."""
    if isinstance(config, LaCTConfig):
        return LaCTRule(config.lookahead, config.target_rule)
    return FwMLPRule(config.lookahead, config.target_rule, config.learning_rate)


def first_dense_weights(config: FwMLPConfig | LaCTConfig, values_seed: int) -> dict[str, Tensor]:
    """Fast weights drawn from a seed, on the CPU: W_up, W_gate N(0, in^-½), W_down N(0, hidden^-½), biases 0."""
    draw = torch.Generator().manual_seed(values_seed)

    def normal(rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns, generator=draw) * columns**-0.5

    weights = {
        "w_up": normal(config.hidden, config.input_dim),
        "w_gate": normal(config.hidden, config.input_dim),
        "w_down": normal(config.output_dim, config.hidden),
    }
    if isinstance(config, LaCTConfig):
        return weights
    weights |= {f"b{name[1:]}": torch.zeros(len(weight)) for name, weight in weights.items()}
    return {name: weights[name] for name in WEIGHT_NAMES}


def finish_reading(state: MemoryState) -> None:
    """Writes what is queued (see `kernels.stream.flush`)."""
    flush(state.memory, state.queue)
