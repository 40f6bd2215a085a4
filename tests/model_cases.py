"""Small models of every kind, in which each part matters within twenty tokens, and their states laid open."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fwpkm_eval.kernels.stream import DenseMemory, ProductKeyMemory
from fwpkm_eval.reference_models.config import ModelConfig, model_config
from fwpkm_eval.reference_models.language_model import LanguageModel
from fwpkm_eval.reference_models.notation import parse_model_name
from fwpkm_eval.reference_models.state import ModelState

BACKBONES = ("gdn", "gdn+swa", "gdn+fa", "fa")
MEMORIES = ("", ":pkm@1", ":fwpkm@1", ":fwmlp@1", ":lact@1")
SPECS = [*(backbone + memory for backbone in BACKBONES for memory in MEMORIES), "gdn+swa:pkm@2+fwpkm@0,3"]
WITH_FAST_WEIGHTS = [spec for spec in SPECS if parse_model_name(spec).has_fast_weights]

# A window, a query convolution and a chunk far shorter than the streams of the tests.
SIZES: dict[str, Any] = {
    "backbone.hidden": 24,
    "backbone.mlp_hidden": 32,
    "backbone.vocab_size": 31,
    "backbone.heads": 4,
    "backbone.kv_heads": 2,
    "backbone.head_dim": 8,
    "backbone.window": 5,
    "backbone.gdn_heads": 2,
    "backbone.gdn_head_dim": 8,
    "backbone.embedding_std": 0.5,
    "backbone.mixer_out_std": 0.3,
    "backbone.init_std": 0.3,
    "fwpkm.subkeys": 8,
    "fwpkm.key_dim": 8,
    "fwpkm.value_dim": 8,
    "fwpkm.topk": 3,
    "fwpkm.query_conv": 4,
    "pkm.subkeys": 8,
    "pkm.key_dim": 8,
    "pkm.value_dim": 8,
    "pkm.heads": 2,
    "pkm.topk": 3,
    "fwmlp.input_dim": 8,
    "fwmlp.hidden": 12,
    "fwmlp.output_dim": 8,
    "fwmlp.query_conv": 4,
    "lact.input_dim": 8,
    "lact.hidden": 12,
    "lact.output_dim": 8,
    "lact.query_conv": 4,
    "chunk_size": 5,
}


def small_config(spec: str, **changes: Any) -> ModelConfig:
    """Two layers, or four where a backbone mixes kinds. changes: as in `model_config`."""
    layers = 4 if "+" in spec.partition(":")[0] else 2
    return model_config(spec, "micro", **{**SIZES, "backbone.layers": layers, **changes})


def small_model(spec: str, seed: int = 0, **changes: Any) -> LanguageModel:
    """Norm weights are moved off their start, so that every parameter takes part."""
    model = LanguageModel(small_config(spec, **changes), seed)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))
    return model.eval()


def tokens(batch: int = 1, length: int = 20, seed: int = 0, vocab: int = 31) -> Tensor:
    return torch.randint(vocab, (batch, length), generator=torch.Generator().manual_seed(seed))


def fast_weights(state: ModelState) -> dict[str, Tensor]:
    """The fast weights of a state, by layer and name; not copies."""
    found: dict[str, Tensor] = {}
    for number, held in state.memories.items():
        if isinstance(held.memory, ProductKeyMemory):
            found |= {f"{number}.keys": held.memory.keys, f"{number}.values": held.memory.values}
        elif isinstance(held.memory, DenseMemory):
            found |= {f"{number}.{name}": weight for name, weight in held.memory.weights.items()}
    return found


def everything(state: ModelState) -> dict[str, Tensor]:
    """Copies of all a state holds: position, mixer states, fast weights, queues and convolutions' pasts."""
    found = {"position": torch.tensor(state.position)}
    for number, mixer in enumerate(state.mixers):
        found |= {f"mixer.{number}.{name}": x.clone() for name, x in (mixer or {}).items()}
    found |= {f"fast.{name}": x.clone() for name, x in fast_weights(state).items()}
    for number, held in state.memories.items():
        if held.past is not None:
            found[f"past.{number}"] = held.past.clone()
        for part in range(3):
            waiting = [x for piece in held.queue.pieces if isinstance(x := piece[part], Tensor)]
            if waiting:
                found[f"queue.{number}.{part}"] = torch.cat(waiting, 1).clone()
    return found


def same(ours: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    """Bit for bit."""
    return ours.keys() == expected.keys() and all(torch.equal(x, expected[name]) for name, x in ours.items())
