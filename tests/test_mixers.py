"""The mixers: window attention against a mask, the chunked gated delta rule against its recurrence, rotary, gates."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from tolerances import assert_close
from torch import Tensor

from fwpkm_eval.reference_models.attention import Attention, causal_attention, window_attention
from fwpkm_eval.reference_models.config import BackboneConfig
from fwpkm_eval.reference_models.gated_delta import CHUNK, GatedDeltaNet, gated_delta_rule
from fwpkm_eval.reference_models.norms import CausalConv, RMSNorm

pytestmark = pytest.mark.usefixtures("poisoned_memory", "one_thread", "no_gradients")

SMALL = BackboneConfig(layers=1, hidden=24, heads=4, kv_heads=2, head_dim=8, window=5, gdn_heads=2, gdn_head_dim=8)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def masked_attention(q: Tensor, k: Tensor, v: Tensor, window: int | None) -> Tensor:
    """Softmax attention with a mask, q being the last of k's positions; written out."""
    tokens, total = q.shape[2], k.shape[2]
    asking = torch.arange(total - tokens, total).unsqueeze(1)
    asked = torch.arange(total).unsqueeze(0)
    seen = asked <= asking
    if window is not None:
        seen &= asked > asking - window
    scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
    return scores.masked_fill(~seen, -torch.inf).softmax(-1) @ v


def test_what_a_state_keeps_does_not_keep_the_whole_call_alive() -> None:
    x = normal(1, 400, SMALL.hidden, dtype=torch.float32)
    _, past = CausalConv(SMALL.hidden, 4)(x, None)
    kept = [past]
    for mixer in (Attention(SMALL, SMALL.window), GatedDeltaNet(SMALL)):
        for parameter in mixer.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        kept += [part for part in mixer(x, None, 0)[1].values() if part is not None]
    for part in kept:
        assert part.untyped_storage().nbytes() <= 2 * part.nbytes


@pytest.mark.parametrize("window", [1, 2, 5, 16])
@pytest.mark.parametrize(("tokens", "past"), [(17, 0), (63, 0), (1, 4), (16, 0), (30, 15), (4, 1), (100, 4)])
def test_window_attention_is_masked_full_attention(tokens: int, past: int, window: int) -> None:
    past = min(past, window - 1)  # a cache holds no more
    q, k, v = normal(2, 3, tokens, 8), normal(2, 3, past + tokens, 8, seed=1), normal(2, 3, past + tokens, 8, seed=2)
    ours = window_attention(q, k, v, window)
    assert_close("mixer.forward", ours, masked_attention(q, k, v, window))


@pytest.mark.parametrize(("tokens", "past"), [(9, 0), (1, 20), (5, 20), (1, 0)])
def test_causal_attention_is_masked_attention(tokens: int, past: int) -> None:
    q, k, v = normal(2, 3, tokens, 8), normal(2, 3, past + tokens, 8, seed=1), normal(2, 3, past + tokens, 8, seed=2)
    assert_close("mixer.forward", causal_attention(q, k, v), masked_attention(q, k, v, None))


def recurrence(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, start: Tensor | None
) -> tuple[Tensor, Tensor]:
    """S_t = α_t·(I − β_t·k_t·k_tᵀ)·S_{t−1} + β_t·k_t·v_tᵀ, o_t = S_tᵀ·q_t, one token, row and head after the other."""
    batch, heads, tokens, width = q.shape
    state = torch.zeros(batch, heads, width, v.shape[-1], dtype=q.dtype) if start is None else start.clone()
    outputs = torch.zeros_like(v)
    for b in range(batch):
        for n in range(heads):
            s = state[b, n]
            for t in range(tokens):
                key, rate = k[b, n, t], beta[b, n, t]
                erase = torch.eye(width, dtype=q.dtype) - rate * torch.outer(key, key)
                s = log_decay[b, n, t].exp() * (erase @ s) + rate * torch.outer(key, v[b, n, t])
                outputs[b, n, t] = s.T @ q[b, n, t]
            state[b, n] = s
    return outputs, state


def delta_inputs(tokens: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """q, k (unit length), v, log α (from barely to thoroughly forgetting) and β of two rows and three heads."""
    q, k = (F.normalize(normal(2, 3, tokens, 8, seed=s), dim=-1) for s in (0, 1))
    v = normal(2, 3, tokens, 8, seed=2)
    log_decay = -normal(2, 3, tokens, seed=3).exp() * torch.tensor([1e-3, 0.3, 20.0], dtype=torch.float64).view(3, 1)
    beta = normal(2, 3, tokens, seed=4).sigmoid()
    return q.to(dtype), k.to(dtype), v.to(dtype), log_decay.to(dtype), beta.to(dtype)


@pytest.mark.parametrize("with_past", [False, True])
@pytest.mark.parametrize(("tokens", "chunk"), [(1, 64), (5, 64), (63, 16), (100, CHUNK), (64, 8), (40, 1)])
def test_the_chunked_delta_rule_is_the_recurrence(tokens: int, chunk: int, with_past: bool) -> None:
    inputs = delta_inputs(tokens)
    start = normal(2, 3, 8, 8, seed=5) if with_past else None
    kept = None if start is None else start.clone()
    output, state = gated_delta_rule(*inputs, start, chunk)
    expected, last = recurrence(*inputs, start)
    assert_close("mixer.forward", output, expected, "outputs")
    assert_close("mixer.forward", state, last, "last matrix")
    assert start is None or (kept is not None and torch.equal(start, kept))


def test_the_delta_rule_in_float32_stays_near_float64() -> None:
    output, state = gated_delta_rule(*delta_inputs(200, torch.float32), None)
    expected, last = gated_delta_rule(*delta_inputs(200), None)
    assert output.dtype == state.dtype == torch.float32
    assert_close("mixer.forward", output, expected.float())
    assert_close("mixer.forward", state, last.float())


def test_a_decay_to_nothing_stays_finite() -> None:
    """α of e^-1000 per token: products of decays underflow to 0, and nothing divides by them."""
    q, k, v, log_decay, beta = delta_inputs(150, torch.float32)
    output, state = gated_delta_rule(q, k, v, torch.full_like(log_decay, -1000.0), beta, None)
    assert output.isfinite().all()
    assert_close("mixer.forward", output, (q * k).sum(-1, keepdim=True) * beta.unsqueeze(-1) * v)
    assert state.isfinite().all()


def attention(window: int | None, rotary_fraction: float = 0.25) -> Attention:
    module = Attention(replace(SMALL, rotary_fraction=rotary_fraction), window)
    with torch.no_grad():
        for number, parameter in enumerate(module.parameters()):
            parameter.copy_(normal(*parameter.shape, seed=number) * 0.3)
    return module


def delta_net() -> GatedDeltaNet:
    module = GatedDeltaNet(SMALL)
    with torch.no_grad():
        for number, parameter in enumerate(module.parameters()):
            parameter.copy_(normal(*parameter.shape, seed=number) * 0.3)
    return module


@pytest.mark.parametrize("cuts", [[1], [40], [4, 5, 6], [3, 17, 30], list(range(41))])
@pytest.mark.parametrize("kind", ["gdn", "fa", "swa"])
def test_a_mixer_goes_on_where_it_stopped(kind: str, cuts: list[int]) -> None:
    module = {"gdn": delta_net, "fa": lambda: attention(None), "swa": lambda: attention(5)}[kind]()
    x = normal(2, 41, 24, dtype=torch.float32)
    expected, last = module(x, None, 0)
    outputs, state = [], None
    for start, stop in pairwise(sorted({0, *cuts, 41})):
        given: dict[str, Tensor] = state or {}
        before = {name: s.clone() for name, s in given.items()}
        output, state = module(x[:, start:stop], state, start)
        assert all(torch.equal(s, before[name]) for name, s in given.items())
        outputs.append(output)
    assert_close("mixer.forward", torch.cat(outputs, 1), expected)
    assert state is not None
    for name, s in state.items():
        assert_close("mixer.forward", s, last[name], name)


def test_a_window_cache_keeps_no_more_than_its_window() -> None:
    _, state = attention(5)(normal(1, 41, 24, dtype=torch.float32), None, 0)
    assert state["k"].shape[2] == state["v"].shape[2] == 4


def test_a_window_wider_than_the_text_is_full_attention() -> None:
    x = normal(2, 41, 24, dtype=torch.float32)
    assert_close("mixer.forward", attention(41)(x, None, 0)[0], attention(None)(x, None, 0)[0])
    assert not torch.allclose(attention(40)(x, None, 0)[0][:, -1], attention(None)(x, None, 0)[0][:, -1])


@pytest.mark.parametrize("position", [1, 1000, 131072])
def test_attention_depends_on_distances_alone(position: int) -> None:
    """Rotary angles are relative: the same text further on, up to 128K, gives the same outputs."""
    module, x = attention(None, rotary_fraction=1.0), normal(2, 20, 24, dtype=torch.float32)
    assert_close("mixer.forward", module(x, None, position)[0], module(x, None, 0)[0])


def test_rotary_turns_a_quarter_of_each_head_and_tells_order() -> None:
    module = attention(None)
    x = normal(1, 1, 4, 8, dtype=torch.float32)
    turned = module._rotate(x, 3)
    assert module.rotary_width == 2
    assert torch.equal(turned[..., 2:], x[..., 2:])
    assert_close("mixer.forward", turned.square().sum(-1), x.square().sum(-1))
    # The one pair of features turns by its position, theta^0 = 1 radian a token.
    for t in range(4):
        angle = torch.tensor(3.0 + t)
        first, second = x[0, 0, t, 0], x[0, 0, t, 1]
        wanted = torch.stack([first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()])
        assert_close("mixer.forward", turned[0, 0, t, :2], wanted)
    hidden = normal(1, 9, 24, dtype=torch.float32)
    swapped = hidden[:, [1, 0, *range(2, 9)]]
    assert not torch.allclose(module(hidden, None, 0)[0][:, -1], module(swapped, None, 0)[0][:, -1], atol=1e-5)


def test_attention_by_hand() -> None:
    """Grouped heads, q and k normalised per head, and the output gated before o_proj (spec: QwenNext style)."""
    module, x = attention(None, rotary_fraction=0.0), normal(2, 7, 24, dtype=torch.float32)

    def heads(y: Tensor, count: int) -> Tensor:
        return y.view(2, 7, count, -1).transpose(1, 2)

    def norm(y: Tensor, layer: RMSNorm) -> Tensor:
        return y / (y.square().mean(-1, keepdim=True) + layer.eps).sqrt() * (1 + layer.weight)

    joined = heads(x @ module.q_proj.weight.T, 4)
    q, gate = joined[..., :8], joined[..., 8:]
    k, v = heads(x @ module.k_proj.weight.T, 2), heads(x @ module.v_proj.weight.T, 2)
    q, k = norm(q, module.q_norm), norm(k, module.k_norm)
    k, v = (y[:, [0, 0, 1, 1]] for y in (k, v))  # two query heads for each key head
    out = masked_attention(q, k, v, None) * gate.sigmoid()
    expected = out.transpose(1, 2).reshape(2, 7, 32) @ module.o_proj.weight.T
    assert_close("mixer.forward", module(x, None, 0)[0], expected)


def test_gated_delta_net_by_hand() -> None:
    """Convolution of 4 then SiLU, unit q and k, β = σ(b), decay exp(−e^A·softplus(a + dt)), gated norm."""
    module, x = delta_net(), normal(1, 11, 24, dtype=torch.float32)
    mixed = x @ module.qkv_proj.weight.T
    convolved = torch.zeros_like(mixed)
    for t in range(11):
        for tap in range(4):
            if t - tap >= 0:
                convolved[:, t] += module.conv.weight[3 - tap] * mixed[:, t - tap]
    q, k, v = F.silu(convolved).view(1, 11, 3, 2, 8).permute(2, 0, 3, 1, 4)
    q, k = q / q.norm(dim=-1, keepdim=True), k / k.norm(dim=-1, keepdim=True)
    a, b = (x @ module.ab_proj.weight.T).view(1, 11, 2, 2).permute(2, 0, 3, 1)
    log_decay = -module.a_log.exp().view(2, 1) * F.softplus(a + module.dt_bias.view(2, 1))
    out, _ = recurrence(q * 8**-0.5, k, v, log_decay, b.sigmoid(), None)
    out = out.transpose(1, 2)
    out = out / (out.square().mean(-1, keepdim=True) + module.norm.eps).sqrt() * (1 + module.norm.weight)
    z = (x @ module.z_proj.weight.T).view(1, 11, 2, 8)
    expected = (out * F.silu(z)).reshape(1, 11, 16) @ module.out_proj.weight.T
    assert_close("mixer.forward", module(x, None, 0)[0], expected)


def test_decay_rates_start_in_their_ranges() -> None:
    module = GatedDeltaNet(replace(SMALL, gdn_heads=64))
    module.init_decay()
    rate, step = module.a_log.exp(), F.softplus(module.dt_bias)
    assert rate.min() >= 1
    assert rate.max() <= 16
    assert step.min() >= 0.000999
    assert step.max() <= 0.1001
    assert rate.std() > 2
    assert step.log().std() > 0.5


@pytest.mark.parametrize("taps", [1, 2, 16])
def test_the_convolution_sees_only_the_past(taps: int) -> None:
    module, x = CausalConv(6, taps), normal(2, 20, 6, dtype=torch.float32)
    with torch.no_grad():
        module.weight.copy_(normal(taps, 6, seed=1))
    expected, last = module(x, None)
    assert last.shape == (2, taps - 1, 6)
    other = x.clone()
    other[:, 9] += 1
    changed = (module(other, None)[0] != expected).any(-1).any(0)
    assert changed.nonzero().flatten().tolist() == list(range(9, min(9 + taps, 20)))
