"""`fwmlp_scan`: its gradient step by hand, finite differences, and what it promises about its inputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tolerances import assert_close
from torch import Tensor

from fwpkm_eval.kernels.fwmlp import WEIGHT_NAMES, fwmlp_scan
from fwpkm_eval.kernels.types import DenseScanResult

pytestmark = pytest.mark.usefixtures("poisoned_memory", "one_thread")

Weights = dict[str, Tensor]
RULES = [("mean", 1), ("next", 1), ("mean", 0), ("next", 0), ("mean", 3), ("next", 3)]


def inputs(
    batch: int = 2, tokens: int = 11, requires_grad: bool = False, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Weights]:
    """query [B,T,4], target [B,T,3] and the weights of a hidden layer of 6."""
    draw = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        x = torch.randn(shape, generator=draw, dtype=torch.float64)
        return (x * shape[-1] ** -0.5).to(dtype).requires_grad_(requires_grad)

    sizes = {"w_up": (6, 4), "b_up": (6,), "w_gate": (6, 4), "b_gate": (6,), "w_down": (3, 6), "b_down": (3,)}
    return (
        normal(batch, tokens, 4),
        normal(batch, tokens, 3),
        {name: normal(*size) for name, size in sizes.items()},
    )


def by_hand(
    query: Tensor, target: Tensor, weights: Weights, lookahead: int, rule: str, chunk: int, rate: float
) -> tuple[Tensor, Weights]:
    """The scan with the gradient of the SwiGLU MLP by the chain rule, token by token."""
    w = {name: x.clone() for name, x in weights.items()}
    outputs = torch.zeros_like(target)
    for start in range(0, query.shape[1], chunk):
        stop = min(start + chunk, query.shape[1])
        written = max(stop - start - lookahead, 0)
        step = {name: torch.zeros_like(x) for name, x in w.items()}
        for b in range(query.shape[0]):
            for t in range(start, stop):
                q = query[b, t]
                up, z = w["w_up"] @ q + w["b_up"], w["w_gate"] @ q + w["b_gate"]
                sigma = 1 / (1 + torch.exp(-z))
                inner = up * z * sigma
                outputs[b, t] = w["w_down"] @ inner + w["b_down"]
                if t >= start + written:
                    continue
                ahead = target[b, t : t + lookahead + 1]
                wanted = ahead.mean(0) if rule == "mean" else ahead[-1]
                slope = 2 * (outputs[b, t] - wanted) / (query.shape[0] * written * target.shape[2])
                d_inner = w["w_down"].T @ slope
                d_up = d_inner * z * sigma
                d_z = d_inner * up * (sigma + z * sigma * (1 - sigma))
                step["w_down"] += torch.outer(slope, inner)
                step["b_down"] += slope
                step["w_up"] += torch.outer(d_up, q)
                step["b_up"] += d_up
                step["w_gate"] += torch.outer(d_z, q)
                step["b_gate"] += d_z
        w = {name: x - rate * step[name] for name, x in w.items()}
    return outputs, w


@pytest.mark.parametrize("chunk", [2, 4, 11, 50])
@pytest.mark.parametrize(("rule", "lookahead"), RULES)
def test_agrees_with_the_step_by_hand(rule: Any, lookahead: int, chunk: int) -> None:
    query, target, weights = inputs()
    result = fwmlp_scan(
        query, target, weights, lookahead=lookahead, target_rule=rule, chunk_size=chunk, learning_rate=0.7
    )
    output, after = by_hand(query, target, weights, lookahead, rule, chunk, 0.7)
    assert_close("stream.oracle", result.output, output)
    for name in WEIGHT_NAMES:
        assert_close("stream.oracle", result.weights[name], after[name], name)
    per_chunk = [max(min(chunk, 11 - start) - lookahead, 0) for start in range(0, 11, chunk)]
    assert result.memory_loss.shape == (2, sum(per_chunk))


@pytest.mark.parametrize(("rule", "lookahead"), RULES)
def test_gradcheck(rule: Any, lookahead: int) -> None:
    query, target, weights = inputs(batch=2, tokens=5, requires_grad=True)

    def run(q: Tensor, v: Tensor, *w: Tensor) -> tuple[Tensor, ...]:
        result = fwmlp_scan(
            q,
            v,
            dict(zip(WEIGHT_NAMES, w, strict=True)),
            lookahead=lookahead,
            target_rule=rule,
            chunk_size=3,
            learning_rate=0.7,
        )
        return result.output, *(result.weights[name] for name in WEIGHT_NAMES)

    assert torch.autograd.gradcheck(run, [query, target, *(weights[n] for n in WEIGHT_NAMES)])


def test_what_is_given_is_not_changed() -> None:
    query, target, weights = inputs()
    before = [x.clone() for x in (query, target, *weights.values())]
    result = fwmlp_scan(query, target, weights, chunk_size=4)
    assert all(torch.equal(x, old) for x, old in zip((query, target, *weights.values()), before, strict=True))
    assert not torch.equal(result.weights["w_up"], weights["w_up"])
    assert not any(x.requires_grad for x in (query, target, *weights.values()))


@pytest.mark.parametrize("enabled", [False, True])
def test_results_keep_no_graph_that_was_not_asked_for(enabled: bool) -> None:
    """With or without grad mode: the same numbers, and nothing that requires a gradient if no input does."""
    query, target, weights = inputs()
    with torch.set_grad_enabled(enabled):
        result = fwmlp_scan(query, target, weights, chunk_size=4)
    assert not any(x.requires_grad for x in (result.output, *result.weights.values()))
    asking = fwmlp_scan(query.clone().requires_grad_(), target, weights, chunk_size=4)
    assert asking.output.requires_grad
    assert_close("stream.oracle", result.output, asking.output)


def one(weights: Weights, query: Tensor, target: Tensor) -> DenseScanResult:
    return fwmlp_scan(query, target, weights, chunk_size=4, lookahead=0, target_rule="next")


def test_one_memory_serves_the_whole_batch() -> None:
    """The loss is a mean over the batch: rows given twice change nothing, other rows do."""
    query, target, weights = inputs(batch=3)
    result = one(weights, query, target)
    turned = one(weights, query[[2, 0, 1]], target[[2, 0, 1]])
    doubled = one(weights, query.repeat(2, 1, 1), target.repeat(2, 1, 1))
    alone = one(weights, query[:1], target[:1])
    assert_close("stream.oracle", turned.output, result.output[[2, 0, 1]])
    assert_close("stream.oracle", doubled.output[:3], result.output)
    assert_close("stream.oracle", alone.output[:, :4], result.output[:1, :4])
    assert not torch.allclose(alone.output[:, 4:], result.output[:1, 4:])


def test_low_precision_activations_with_float32_weights() -> None:
    query, target, weights = inputs(dtype=torch.float32)
    low = fwmlp_scan(query.bfloat16(), target.bfloat16(), weights, chunk_size=4)
    raised = fwmlp_scan(query.bfloat16().float(), target.bfloat16().float(), weights, chunk_size=4)
    assert low.weights["w_up"].dtype == torch.float32
    assert torch.equal(low.output, raised.output)
    for name in WEIGHT_NAMES:
        assert torch.equal(low.weights[name], raised.weights[name])


def test_weights_that_were_not_written_are_not_new_leaves() -> None:
    """They would have the next call keep its graph."""
    query, target, weights = inputs(tokens=1)
    result = fwmlp_scan(query.requires_grad_(), target, weights)
    assert result.output.requires_grad
    assert not any(weight.requires_grad for weight in result.weights.values())
    assert all(torch.equal(weights[name], weight) for name, weight in result.weights.items())
