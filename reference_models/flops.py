"""FLOPs per token of a model, by formula: what is computed for a sequence that is read in one call.

Counted are the multiply-adds, two FLOPs each, of matrix products, of weighted sums of memory rows and of triangular
solves. Norms, activations, softmax, convolutions of a few taps and the distances to the k selected sub-keys are not.
Blocks of attention and of Gated DeltaNet count as they are computed, padding and masked entries included.

Letters: T tokens, D hidden, S sub-keys per half, H heads, k top-k, dk key width, dv value width, L lookahead.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from fwpkm_eval.kernels.lact import NEWTON_SCHULZ_STEPS, RATES
from fwpkm_eval.reference_models.config import (
    BackboneConfig,
    FwMLPConfig,
    FwPKMConfig,
    LaCTConfig,
    ModelConfig,
    PKMConfig,
)
from fwpkm_eval.reference_models.gated_delta import CHUNK


@dataclass(frozen=True)
class Flops:
    """FLOPs per token, by part. ``memory_writes`` are those of the fast weights' updates, 0 if they are frozen."""

    mixers: float
    mlps: float
    memory_reads: float
    memory_writes: float
    head: float

    @property
    def total(self) -> float:
        return sum(getattr(self, part.name) for part in fields(self))


def flops_per_token(config: ModelConfig, tokens: int = 4096, *, writes: bool = True) -> Flops:
    """What a token of a sequence of `tokens` costs on average; `writes`: each token that has a target is written."""
    back, spec = config.backbone, config.spec
    mixers = mlps = reads = updates = 0.0
    written = max(tokens - config.fwpkm.lookahead, 0) / tokens
    for number, kind in enumerate(config.layer_kinds):
        window = back.window if kind == "swa" else None
        mixers += _gated_delta_net(back, tokens) if kind == "gdn" else _attention(back, tokens, window)
        mlps += _pkm(config.pkm, back.hidden) if number in spec.layers("pkm") else 6 * back.hidden * back.mlp_hidden
        if number in spec.layers("fwpkm"):
            reads += _fwpkm_read(config.fwpkm, back.hidden)
            updates += _fwpkm_write(config.fwpkm) * written
        elif number in spec.layers("fwmlp"):
            reads += _dense_read(config.fwmlp, back.hidden)
            updates += _fwmlp_write(config.fwmlp) * max(tokens - config.fwmlp.lookahead, 0) / tokens
        elif number in spec.layers("lact"):
            reads += _dense_read(config.lact, back.hidden) + 2 * back.hidden * RATES
            with_target = max(tokens - config.lact.lookahead, 0)
            updates += _lact_write(config.lact) * with_target / tokens
            updates += _newton_schulz(config.lact) * -(-with_target // config.chunk_size) / tokens
    head = 2 * back.hidden * back.vocab_size
    return Flops(mixers, mlps, reads, updates if writes else 0.0, head)


def _attention(back: BackboneConfig, tokens: int, window: int | None) -> float:
    inner = back.heads * back.head_dim
    projections = 2 * back.hidden * (2 * inner + 2 * back.kv_heads * back.head_dim + inner)
    if window is None or tokens <= window:
        return projections + 4 * tokens * inner
    padded = -(-tokens // window) * window / tokens
    return projections + 4 * 2 * window * inner * padded


def _gated_delta_net(back: BackboneConfig, tokens: int) -> float:
    heads, width = back.gdn_heads, back.gdn_head_dim
    inner = heads * width
    chunk = min(CHUNK, tokens)
    padded = -(-tokens // chunk) * chunk / tokens
    projections = 2 * back.hidden * (3 * inner + inner + 2 * heads + inner)
    # Per chunk and head: q·kᵀ and k·kᵀ, the triangular solve for 2E columns, three products with the E × E state and
    # one with the C × C scores.
    within_chunk = 4 * chunk * width + 2 * chunk * width + 6 * width**2 + 2 * chunk * width
    return projections + heads * within_chunk * padded


def _pkm(pkm: PKMConfig, hidden: int) -> float:
    query = pkm.heads * pkm.key_dim
    read = 2 * pkm.subkeys * query + 2 * pkm.heads * pkm.topk * pkm.value_dim
    return 2 * hidden * query + read + 2 * 2 * hidden * pkm.value_dim


def _lookup(memory: FwPKMConfig) -> float:
    """All sub-keys of both halves scored, and H·k rows read."""
    return 2 * memory.heads * memory.subkeys * memory.key_dim + 2 * memory.heads * memory.topk * memory.value_dim


def _fwpkm_read(memory: FwPKMConfig, hidden: int) -> float:
    projections = 2 * hidden * (memory.heads * memory.key_dim + memory.value_dim + 1 + memory.value_dim)
    return projections + _lookup(memory)


def _fwpkm_write(memory: FwPKMConfig) -> float:
    """Read again, add to H·k rows, and move the 2·H·k selected sub-keys."""
    selected = memory.heads * memory.topk
    to_keys = 2 * selected * memory.key_dim
    # Sums over the selections of each sub-key: of probabilities (entropy), and of coefficients (distances).
    sums = 4 * selected * ((memory.addressing == "entropy") + (memory.score == "idw"))
    from_loss = 2 * selected * memory.value_dim if memory.addressing == "none" else 0
    return _lookup(memory) + 2 * selected * memory.value_dim + to_keys + sums + from_loss


def _dense_read(memory: FwMLPConfig | LaCTConfig, hidden: int) -> float:
    projections = 2 * hidden * (memory.input_dim + memory.output_dim + 1 + memory.output_dim)
    return projections + 2 * memory.hidden * (2 * memory.input_dim + memory.output_dim)


def _fwmlp_write(memory: FwMLPConfig) -> float:
    """The MLP once more, the gradient of its three matrices, and that of its hidden features."""
    forward = 2 * memory.hidden * (2 * memory.input_dim + memory.output_dim)
    return 2 * forward + 2 * memory.hidden * memory.output_dim


def _lact_write(memory: LaCTConfig) -> float:
    """The inside of the MLP once more (the loss needs no read), its gradient, and that of the three matrices."""
    inside = 2 * memory.hidden * 2 * memory.input_dim
    return 2 * inside + 2 * 2 * memory.hidden * memory.output_dim


def _newton_schulz(memory: LaCTConfig) -> float:
    """Of a whole write, however many tokens it has: the three gradients' orthogonalisation."""

    def of_matrix(rows: int, columns: int) -> float:
        short, long = sorted((rows, columns))
        return NEWTON_SCHULZ_STEPS * (2 * 2 * short**2 * long + 2 * short**3)

    return 2 * of_matrix(memory.hidden, memory.input_dim) + of_matrix(memory.output_dim, memory.hidden)
