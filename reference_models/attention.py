"""Gated softmax attention, full or over a sliding window, with a cache (QwenNext style).

Shapes: B batch, T new tokens, P cached tokens, N query heads, G key/value heads, E head width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fwpkm_eval.reference_models.config import BackboneConfig
from fwpkm_eval.reference_models.norms import RMSNorm
from fwpkm_eval.reference_models.yarn import Yarn

MixerState = dict[str, Tensor]


class Attention(nn.Module):
    """out ⊙ σ(gate) before o_proj; RMSNorm on q and k per head; rotary on the first part of each head.

    window: tokens each token attends to, itself included; None for all.
    """

    def __init__(self, config: BackboneConfig, window: int | None) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.width = config.heads, config.kv_heads, config.head_dim
        self.window = window
        self.q_proj = nn.Linear(config.hidden, 2 * self.heads * self.width, bias=False)
        self.k_proj = nn.Linear(config.hidden, self.kv_heads * self.width, bias=False)
        self.v_proj = nn.Linear(config.hidden, self.kv_heads * self.width, bias=False)
        self.o_proj = nn.Linear(self.heads * self.width, config.hidden, bias=False)
        self.q_norm = RMSNorm(self.width, config.norm_eps)
        self.k_norm = RMSNorm(self.width, config.norm_eps)
        self.rotary_width = int(self.width * config.rotary_fraction) // 2 * 2
        self.theta = config.rotary_theta

    def forward(
        self,
        x: Tensor,
        state: MixerState | None,
        position: int,
        yarn: Yarn | None = None,
        training_window: int | None = None,
    ) -> tuple[Tensor, MixerState]:
        """x [B,T,D] at positions position…; state: keys and values [B,G,P,E] of the tokens before.

        Full attention alone heeds yarn (the same through a sequence), and training_window (pSWA), the window of this
        call.
        """
        batch, tokens, _ = x.shape
        window = training_window if self.window is None else self.window
        yarn = yarn if self.window is None else None
        q, gate = self.q_proj(x).view(batch, tokens, self.heads, 2 * self.width).chunk(2, -1)
        k = self.k_proj(x).view(batch, tokens, self.kv_heads, self.width)
        v = self.v_proj(x).view(batch, tokens, self.kv_heads, self.width).transpose(1, 2)
        q = self._rotate(self.q_norm(q).transpose(1, 2), position, yarn)
        k = self._rotate(self.k_norm(k).transpose(1, 2), position, yarn)
        if state is not None:
            k, v = torch.cat([state["k"], k], 2), torch.cat([state["v"], v], 2)
        groups = self.heads // self.kv_heads
        wide_k, wide_v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        if window is None or k.shape[2] <= window:
            out = causal_attention(q, wide_k, wide_v)
        else:
            out = window_attention(q, wide_k, wide_v, window)
        out = out.transpose(1, 2).reshape(batch, tokens, -1) * torch.sigmoid(gate.reshape(batch, tokens, -1))
        if self.window is not None:
            held = k.shape[2]
            k, v = k[:, :, -(self.window - 1) :], v[:, :, -(self.window - 1) :]
            if held > 2 * self.window:  # as views they would keep all of the call's alive
                k, v = k.clone(), v.clone()
            if self.window == 1:
                k, v = k[:, :, :0], v[:, :, :0]
        return self.o_proj(out), {"k": k, "v": v}

    def fits(self, state: MixerState, position: int) -> bool:
        """Whether `state` is one of this layer's after `position` tokens."""
        cached = position if self.window is None else min(position, self.window - 1)
        return set(state) == {"k", "v"} and all(
            x.shape[1:] == (self.kv_heads, cached, self.width) for x in state.values()
        )

    def _rotate(self, x: Tensor, position: int, yarn: Yarn | None = None) -> Tensor:
        """Rotary embedding on the first rotary_width features: x [B,·,T,E]."""
        half = self.rotary_width // 2
        if half == 0:
            return x
        steps = torch.arange(half, device=x.device, dtype=torch.float32) / half
        # Angles in float64: at 128K tokens a float32 product has lost the fraction of a turn.
        places = torch.arange(position, position + x.shape[2], device=x.device, dtype=torch.float64)
        frequencies = (self.theta**-steps).double()
        angle = torch.outer(places, frequencies if yarn is None else yarn.frequencies(frequencies))
        cos, sin = angle.cos(), angle.sin()
        if yarn is not None:
            cos, sin = cos * yarn.magnitude, sin * yarn.magnitude
        cos, sin = cos.to(x.dtype), sin.to(x.dtype)
        first, second, rest = x.split([half, half, x.shape[-1] - 2 * half], -1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], -1)


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q [B,N,T,E] are the last T of the P+T positions of k and v [B,N,P+T,E]."""
    tokens, total = q.shape[2], k.shape[2]
    if tokens == total:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    if tokens == 1:
        return F.scaled_dot_product_attention(q, k, v)
    seen = torch.ones(tokens, total, dtype=torch.bool, device=q.device).tril(total - tokens)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen)


def window_attention(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Attention to the last `window` positions in blocks of `window` queries: no T × T scores. Shapes as above."""
    batch, heads, tokens, width = q.shape
    past = k.shape[2] - tokens
    blocks = -(-tokens // window)
    after = blocks * window - tokens
    # Keys start exactly one window before the first query; what is not there is padded and masked.
    before = window - past
    if before < 0:
        k, v, before = k[:, :, -before:], v[:, :, -before:], 0
    k, v = F.pad(k, (0, 0, before, after)), F.pad(v, (0, 0, before, after))
    q = F.pad(q, (0, 0, 0, after)).view(batch, heads, blocks, window, width)
    k = k.unfold(2, 2 * window, window).transpose(-1, -2)
    v = v.unfold(2, 2 * window, window).transpose(-1, -2)
    i = torch.arange(window, device=q.device).view(1, window, 1)
    j = torch.arange(2 * window, device=q.device).view(1, 1, 2 * window)
    start = torch.arange(blocks, device=q.device).view(blocks, 1, 1) * window
    seen = (j > i) & (j <= i + window) & (start + j >= before)
    q, k, v = (x.transpose(1, 2).reshape(batch * blocks, heads, -1, width) for x in (q, k, v))
    mask = seen.unsqueeze(1).repeat(batch, 1, 1, 1)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    out = out.view(batch, blocks, heads, window, width).transpose(1, 2).reshape(batch, heads, blocks * window, width)
    return out[:, :, :tokens]
