"""`lact_scan` against autograd, and what it promises; the layer around it; configurations without it stay the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lact_cases import LaCTCase, Weights, by_autograd
from model_cases import small_config, small_model, tokens
from tolerances import assert_close
from torch import Tensor

from fwpkm_eval.api import SHIPPED
from fwpkm_eval.errors import UserError
from fwpkm_eval.kernels.lact import NEWTON_SCHULZ, ascent_directions, lact_scan, orthogonalised, swiglu, unit
from fwpkm_eval.kernels.types import DenseScanResult
from fwpkm_eval.reference_models import count_parameters
from fwpkm_eval.reference_models.config import LaCTConfig, ModelConfig, model_config
from fwpkm_eval.reference_models.lact_layer import LaCTLayer
from fwpkm_eval.reference_models.language_model import LanguageModel
from fwpkm_eval.reference_models.memory_layers import MemoryState
from fwpkm_eval.reference_models.state_files import load_state, save_state
from fwpkm_eval.runs.jobs import read_source

pytestmark = pytest.mark.usefixtures("poisoned_memory", "one_thread")

NAMES = ("w_gate", "w_up", "w_down")
RULES = [("mean", 1), ("next", 1), ("next", 0), ("mean", 3), ("next", 3)]
AWKWARD = LaCTCase(batch=3, tokens=63, width_in=60, hidden=100, width_out=60)
SMALL = LaCTCase()


@pytest.mark.parametrize(
    "case", [AWKWARD, LaCTCase(batch=3, tokens=63, width_in=60, hidden=24, width_out=7)], ids=["wide", "narrow"]
)
def test_the_closed_form_is_autograds_gradient(case: LaCTCase) -> None:
    query, target, rates, weights = case.inputs()
    found = ascent_directions(query, target, rates, weights)
    asked = {name: w.clone().requires_grad_() for name, w in weights.items()}
    agreement = (swiglu(unit(query), asked) * target).sum(-1)
    for number, name in enumerate(NAMES):
        (slope,) = torch.autograd.grad((rates[..., number] * agreement).sum(), asked[name], retain_graph=True)
        assert_close("lact.forward", found[name], slope, name)


@pytest.mark.parametrize("chunk", [2, 4, 11, 50])
@pytest.mark.parametrize(("rule", "lookahead"), RULES)
def test_agrees_with_autograd(rule: Any, lookahead: int, chunk: int) -> None:
    check_scan(SMALL, rule, lookahead, chunk)


@pytest.mark.parametrize("chunk", [16, 63])
def test_agrees_with_autograd_at_awkward_sizes(chunk: int) -> None:
    check_scan(AWKWARD, "next", 1, chunk)


def check_scan(case: LaCTCase, rule: Any, lookahead: int, chunk: int) -> None:
    """Outputs, weights and the gradient of every input, against autograd through autograd."""
    inputs = query, target, rates, weights = case.inputs(requires_grad=True)
    result = lact_scan(*inputs, lookahead=lookahead, target_rule=rule, chunk_size=chunk)
    output, after = by_autograd(*inputs, lookahead, rule, chunk)
    assert_close("lact.forward", result.output, output)
    for name in NAMES:
        assert_close("lact.forward", result.weights[name], after[name], name)
    per_chunk = [max(min(chunk, case.tokens - start) - lookahead, 0) for start in range(0, case.tokens, chunk)]
    assert result.memory_loss.shape == (case.batch, sum(per_chunk))
    given = dict(zip(("query", "target", "rates", *NAMES), (query, target, rates, *weights.values()), strict=True))
    draw = torch.Generator().manual_seed(1)
    directions = [torch.randn(x.shape, generator=draw, dtype=x.dtype) for x in (output, *after.values())]

    def slopes(outputs: tuple[Tensor, ...]) -> tuple[Tensor | None, ...]:
        total = torch.stack([(x * d).sum() for x, d in zip(outputs, directions, strict=True)]).sum()
        return torch.autograd.grad(total, list(given.values()), allow_unused=True)

    ours = slopes((result.output, *(result.weights[name] for name in after)))
    expected = slopes((output, *after.values()))
    for name, slope, oracle in zip(given, ours, expected, strict=True):
        assert (slope is None or not slope.any()) == (oracle is None or not oracle.any()), name
        if slope is not None and oracle is not None:
            assert_close("lact.gradient", slope, oracle, name)


@pytest.mark.parametrize(("rule", "lookahead"), RULES)
def test_gradcheck(rule: Any, lookahead: int) -> None:
    query, target, rates, weights = LaCTCase(tokens=5).inputs(requires_grad=True)

    def run(q: Tensor, v: Tensor, r: Tensor, *w: Tensor) -> tuple[Tensor, ...]:
        named = dict(zip(NAMES, w, strict=True))
        result = lact_scan(q, v, r, named, lookahead=lookahead, target_rule=rule, chunk_size=3)
        return result.output, *(result.weights[name] for name in NAMES)

    assert torch.autograd.gradcheck(run, [query, target, rates, *(weights[name] for name in NAMES)])


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (7, 7), (1, 6)])
def test_newton_schulz_keeps_the_directions_and_brings_every_length_near_one(shape: tuple[int, int]) -> None:
    draw = torch.Generator().manual_seed(3)
    matrix = torch.randn(shape, generator=draw, dtype=torch.float64) * 1e-3
    u, lengths, v = torch.linalg.svd(matrix, full_matrices=False)
    a, b, c = NEWTON_SCHULZ
    lengths = lengths / lengths.norm()
    for _ in range(5):
        lengths = a * lengths + b * lengths**3 + c * lengths**5
    found = orthogonalised(matrix)
    assert found.shape == shape
    assert_close("lact.forward", found, u @ torch.diag(lengths) @ v)
    assert torch.linalg.svdvals(found).min() > 0.68
    assert torch.linalg.svdvals(found).max() < 1.21


def one(weights: Weights, query: Tensor, target: Tensor, rates: Tensor | None) -> DenseScanResult:
    return lact_scan(query, target, rates, weights, chunk_size=4, lookahead=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_keep_the_norms_of_the_first_weights(dtype: torch.dtype) -> None:
    query, target, rates, weights = LaCTCase(tokens=800).inputs(dtype)
    result = one(weights, query, target, rates)
    for name, first in weights.items():
        assert not torch.allclose(result.weights[name], first, atol=0.1)
        assert torch.allclose(result.weights[name].norm(dim=1), first.norm(dim=1), rtol=1e-5)


def test_rates_weigh_tokens_against_each_other() -> None:
    query, target, rates, weights = SMALL.inputs()
    result = one(weights, query, target, rates)
    # One factor for all tokens is taken away again, also one for each weight; no rates are equal rates.
    same = one(weights, query, target, rates * torch.tensor([3.0, 0.2, 7.0], dtype=torch.float64))
    assert_close("lact.rates", same.output, result.output)
    equal = one(weights, query, target, torch.full_like(rates, 0.3))
    assert_close("lact.rates", one(weights, query, target, None).output, equal.output)
    assert not torch.allclose(equal.output, result.output, atol=1e-3)
    # A token of rate 0 is not written; of rate 0 for one weight, not into that.
    none, other = rates.clone(), target.clone()
    none[:, 2] = 0
    other[:, 2] += 1
    assert torch.equal(one(weights, query, other, none).output, one(weights, query, target, none).output)
    none[:, 2, 1:] = 1
    first = [one(weights, query[:, :4], v[:, :4], none[:, :4]).weights for v in (target, other)]
    assert torch.equal(first[0]["w_gate"], first[1]["w_gate"])
    assert not torch.allclose(first[0]["w_up"], first[1]["w_up"])
    assert not torch.allclose(first[0]["w_down"], first[1]["w_down"])


def test_a_chunk_is_read_before_it_is_written() -> None:
    query, target, rates, weights = SMALL.inputs()
    result = lact_scan(query, target, rates, weights, chunk_size=4)
    changed = target.clone()
    changed[:, 5] += 1  # of the second chunk, tokens 4 to 7: read from token 8 on
    after = lact_scan(query, changed, rates, weights, chunk_size=4)
    assert torch.equal(after.output[:, :8], result.output[:, :8])
    assert not torch.isclose(after.output[:, 8:], result.output[:, 8:]).any(-1).all()
    assert torch.equal(result.output[:, :4], swiglu(unit(query[:, :4]), weights))


def test_one_memory_serves_the_whole_batch() -> None:
    query, target, rates, weights = LaCTCase(batch=3).inputs()
    result = one(weights, query, target, rates)
    turn = [2, 0, 1]
    assert_close("lact.rates", one(weights, query[turn], target[turn], rates[turn]).output, result.output[turn])
    doubled = one(weights, *(x.repeat(2, 1, 1) for x in (query, target, rates)))
    assert_close("lact.rates", doubled.output[:3], result.output)
    alone = one(weights, query[:1], target[:1], rates[:1])
    assert_close("lact.forward", alone.output[:, :4], result.output[:1, :4])
    assert not torch.allclose(alone.output[:, 4:], result.output[:1, 4:])


@pytest.mark.parametrize("nothing", ["query", "target", "rates", "weights"])
def test_zeros_read_and_write_nothing_and_give_no_nan(nothing: str) -> None:
    query, target, rates, weights = LaCTCase().inputs(torch.float32)
    given: dict[str, Any] = {"query": query, "target": target, "rates": rates, "weights": weights}
    given[nothing] = {n: w * 0 for n, w in weights.items()} if nothing == "weights" else given[nothing] * 0
    leaves = [given["query"], given["target"], given["rates"], *given["weights"].values()]
    for leaf in leaves:
        leaf.requires_grad_()
    result = lact_scan(given["query"], given["target"], given["rates"], given["weights"], chunk_size=3)
    if nothing in ("query", "weights"):
        assert not result.output.any()
    for name, first in given["weights"].items():
        assert torch.allclose(result.weights[name], first), name
    total = result.output.square().sum() + sum(w.sin().sum() for w in result.weights.values())
    assert all(slope.isfinite().all() for slope in torch.autograd.grad(total, leaves))


def test_what_is_given_is_not_changed_and_no_graph_is_kept_unasked() -> None:
    query, target, rates, weights = SMALL.inputs()
    given = (query, target, rates, *weights.values())
    before = [x.clone() for x in given]
    result = lact_scan(query, target, rates, weights, chunk_size=4)
    assert all(torch.equal(x, old) for x, old in zip(given, before, strict=True))
    assert not any(x.requires_grad for x in (result.output, *result.weights.values()))
    asking = lact_scan(query, target, rates.clone().requires_grad_(), weights, chunk_size=4)
    assert asking.output.requires_grad
    assert not asking.memory_loss.requires_grad
    assert torch.equal(asking.output, result.output)
    loss = -(result.output[:, :3] * target[:, 1:4]).sum(-1)
    assert_close("lact.forward", result.memory_loss[:, :3], loss)


def test_low_precision_activations_with_float32_weights() -> None:
    query, target, rates, weights = SMALL.inputs(torch.float32)
    low = one(weights, query.bfloat16(), target.bfloat16(), rates.bfloat16())
    raised = one(weights, query.bfloat16().float(), target.bfloat16().float(), rates.bfloat16().float())
    assert low.weights["w_up"].dtype == torch.float32
    assert torch.equal(low.output, raised.output)
    assert all(torch.equal(low.weights[name], raised.weights[name]) for name in NAMES)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"query": torch.zeros(6, 4)}, ["query", "[6, 4]"]),
        ({"target": torch.zeros(2, 10, 3)}, ["target", "[2, 10, 3]"]),
        ({"query": torch.zeros(2, 11, 5)}, ["w_gate [6, 4]", "[6, 5]"]),
        ({"target": torch.zeros(2, 11, 4)}, ["w_down", "[4, 6]"]),
        ({"rates": torch.zeros(2, 11)}, ["rates [2, 11]", "[2, 11, 3]"]),
        ({"rates": torch.zeros(2, 10, 3)}, ["rates [2, 10, 3]", "[2, 11, 3]"]),
        ({"weights": {"w_up": torch.zeros(6, 4)}}, ["w_gate, w_up, w_down", "got w_up"]),
        ({"chunk_size": 0}, ["chunk_size", "0"]),
        ({"lookahead": -1}, ["lookahead", "-1"]),
        ({"target_rule": "nxet"}, ["nxet", "did you mean next"]),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(changes: dict[str, Any], words: list[str]) -> None:
    given: dict[str, Any] = dict(zip(("query", "target", "rates", "weights"), SMALL.inputs(), strict=True))
    with pytest.raises(UserError) as raised:
        lact_scan(**{**given, **changes})
    assert "\n" not in str(raised.value)
    for word in words:
        assert word in str(raised.value)


def lact_layer(**changes: Any) -> tuple[LanguageModel, LaCTLayer]:
    model = small_model("gdn:lact@1", **changes)
    layer = model.blocks[1].memory
    assert isinstance(layer, LaCTLayer)
    return model, layer


def test_rates_start_at_the_base_rate() -> None:
    for base in (0.01, 2.0):
        _, layer = lact_layer(**{"lact.base_rate": base})
        layer.r_proj.weight.data.zero_()
        x = torch.randn(2, 7, 24)
        rates = layer.write_weight(x, torch.ones(2, 7))
        assert rates is not None
        assert torch.allclose(rates, torch.full((2, 7, 3), base))


@torch.no_grad()
def test_the_length_of_a_read_counts_only_without_its_norm() -> None:
    for norm in (True, False):
        _, layer = lact_layer(**{"lact.read_norm": norm})
        x = torch.randn(1, 7, 24, generator=torch.Generator().manual_seed(0))
        short, long = MemoryState(layer.initial_memory(0)), MemoryState(layer.initial_memory(0))
        long.memory.fast_weights["w_down"].mul_(50)
        ours, theirs = (layer(x, state, "off", 5)[0] for state in (short, long))
        assert torch.allclose(ours, theirs, atol=1e-5) == norm


def test_rates_wait_with_their_tokens_and_are_stored(tmp_path: Path) -> None:
    model, _ = lact_layer()
    with torch.no_grad():
        _, state = model(tokens(length=8), None, write_chunk=5)
    waiting = state.memories[1].queue.joined()
    assert waiting.gate is not None
    assert waiting.gate.shape == (1, 3, 3)  # of 8 tokens 5 are written; a rate for each weight
    save_state(tmp_path / "state", model, state)
    stored = load_state(tmp_path / "state", model).memories[1].queue.joined()
    assert stored.gate is not None
    assert torch.equal(stored.gate, waiting.gate)


def test_active_parameters_are_those_of_fwmlp_without_its_biases() -> None:
    for scale in ("micro", "small", "paper"):
        lact, fwmlp = (count_parameters(model_config(f"gdn:{kind}", scale))[1] for kind in ("lact", "fwmlp"))
        assert lact == pytest.approx(fwmlp, rel=1e-3)


def test_configurations_of_other_models_stay_what_they_were() -> None:
    """Cells' keys hash them: the checkpoints that are shipped were made before there was LaCT."""
    found = sorted(SHIPPED.rglob("model.json"))
    assert found
    for path in found:
        config = read_source(path.parent).config
        assert json.loads(json.dumps(config.to_dict())) == json.loads(path.read_text())["config"]
    for spec in ("gdn+swa", "gdn+swa:fwpkm", "gdn+swa:lact"):
        config = model_config(spec, "small")
        assert ("lact" in config.to_dict()) == ("lact" in spec)
        assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    other = model_config("gdn", "micro", **{"lact.hidden": 5})
    assert ModelConfig.from_dict(other.to_dict()) == other


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lact.base_rate": 0.0}, "lact.base_rate is 0.0; it must be above 0"),
        ({"lact.base_rate": -1}, "above 0"),
        ({"fwpkm.learning_rate": -1.0}, "fwpkm.learning_rate is -1.0; it must be at least 0"),
        ({"fwmlp.learning_rate": -0.1}, "fwmlp.learning_rate is -0.1; it must be at least 0"),
        ({"lact.lookahead": 5}, "chunk_size 5 must be larger than the lookahead 5"),
        ({"lact.target_rule": "last"}, "lact.target_rule is 'last'"),
        ({"lact.rate": 1}, "unknown setting of lact 'rate'"),
        ({"lcat.base_rate": 1}, "no setting 'lcat.base_rate'"),
    ],
)
def test_settings_that_do_not_fit(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as raised:
        small_config("gdn:lact@1", **changes)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_paper_scale_has_the_defaults() -> None:
    assert model_config("gdn:lact", "paper").lact == LaCTConfig()
