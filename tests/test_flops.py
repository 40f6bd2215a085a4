"""FLOPs by formula against torch's own count of what is computed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fwpkm_eval.reference_models.config import model_config
from fwpkm_eval.reference_models.flops import flops_per_token
from fwpkm_eval.reference_models.language_model import LanguageModel
from fwpkm_eval.reference_models.notation import parse_model_name

pytestmark = pytest.mark.usefixtures("one_thread", "no_gradients")

T = 384
Shape = tuple[int, ...]


def weighted_sum(table: Shape, indices: Shape, *_: Any, **__: Any) -> int:
    """An embedding bag: one multiply-add for each feature of each row that is summed."""
    return 2 * torch.Size(indices).numel() * table[-1]


def triangular_solve(left: Shape, right: Shape, *_: Any, **__: Any) -> int:
    """Forward substitution: n² / 2 multiply-adds for each column."""
    return torch.Size(left).numel() * right[-1]


COUNTED = {
    torch.ops.aten._embedding_bag: weighted_sum,
    torch.ops.aten._embedding_bag_forward_only: weighted_sum,
    torch.ops.aten.linalg_solve_triangular: triangular_solve,
}


def counted(name: str, writes: bool, **overrides: Any) -> float:
    """Torch's count for a reading of T tokens, per token."""
    model = LanguageModel(model_config(name, "micro", **overrides)).eval()
    tokens = torch.randint(0, 256, (1, T), generator=torch.Generator().manual_seed(0))
    with FlopCounterMode(display=False, custom_mapping=COUNTED) as counter, sdpa_kernel(SDPBackend.MATH):
        _, state = model(tokens, updates="stream" if writes else "off", inplace=True)
        if writes:
            model.flush(state, inplace=True)
    return counter.get_total_flops() / T


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("gdn", {}),
        ("gdn", {"backbone.gdn_heads": 2, "backbone.gdn_head_dim": 128}),
        ("fa", {}),
        ("gdn+swa", {}),
        ("gdn+fa", {"backbone.heads": 8}),
        ("gdn:pkm@0,1,2,3", {}),
        ("gdn+swa:fwpkm@0,1,2,3", {}),
        ("gdn+swa:fwpkm@0,1,2,3", {"fwpkm.score": "dot", "fwpkm.heads": 4, "fwpkm.key_dim": 32}),
        ("gdn+swa:fwpkm@0,1,2,3", {"fwpkm.addressing": "none", "fwpkm.topk": 32, "fwpkm.value_dim": 128}),
        ("fa:fwmlp@0,1,2,3", {}),
        ("gdn+swa:pkm@2+fwpkm@1+fwmlp@3", {}),
        ("fa:lact@0,1,2,3", {}),
        ("gdn:lact@0,1,2,3", {"lact.input_dim": 96, "lact.hidden": 80, "lact.output_dim": 48, "chunk_size": 100}),
    ],
)
@pytest.mark.parametrize("writes", [True, False])
def test_the_formula_is_what_is_computed(name: str, overrides: dict[str, Any], writes: bool) -> None:
    flops = flops_per_token(model_config(name, "micro", **overrides), T, writes=writes)
    assert flops.total == pytest.approx(counted(name, writes, **overrides), rel=0.005)
    has_writes = parse_model_name(name).has_fast_weights and writes
    assert (flops.memory_writes > 0) == has_writes


def test_parts_add_up_and_a_memory_costs_what_it_adds() -> None:
    with_memory = flops_per_token(model_config("gdn+swa:fwpkm@1,3", "micro"), 4096)
    without = flops_per_token(model_config("gdn+swa", "micro"), 4096)
    memory = with_memory.memory_reads + with_memory.memory_writes
    assert with_memory.total == pytest.approx(without.total + memory)
    assert with_memory.total == pytest.approx(memory + with_memory.mixers + with_memory.mlps + with_memory.head)


@pytest.mark.parametrize("memory", ["fwpkm", "fwmlp"])
def test_tokens_without_a_target_are_not_written(memory: str) -> None:
    config = model_config(f"gdn:{memory}@2", "micro")
    one, two, four = (flops_per_token(config, tokens).memory_writes for tokens in (1, 2, 4))
    assert one == 0
    assert two == pytest.approx(four * (1 / 2) / (3 / 4))


def test_full_attention_grows_with_the_sequence_and_the_others_do_not() -> None:
    def mixers(name: str, tokens: int) -> float:
        return flops_per_token(model_config(name, "paper"), tokens).mixers

    assert mixers("fa", 2**17) > 10 * mixers("fa", 2**12)
    assert mixers("gdn", 2**17) == mixers("gdn", 2**12)
    assert mixers("gdn+swa", 2**17) == mixers("gdn+swa", 2**12)
