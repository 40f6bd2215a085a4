"""Gated DeltaNet (Yang, Kautz, Hatamizadeh, arXiv 2412.06464): a recurrent mixer, in its chunked form.

    S_t = α_t·(I − β_t·k_t·k_tᵀ)·S_{t−1} + β_t·k_t·v_tᵀ,    o_t = S_tᵀ·q_t

Shapes: B batch, T tokens, M chunks of C tokens, N heads, E head width (of keys and of values).
"""

from __future__ import annotations

import functools
import importlib.util
import math
import re
import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fwpkm_eval.kernels.precision import at_least_float32, full_precision
from fwpkm_eval.reference_models.attention import MixerState
from fwpkm_eval.reference_models.config import BackboneConfig
from fwpkm_eval.reference_models.norms import CausalConv, RMSNorm

CHUNK = 64


@functools.cache
def fla_is_installed() -> bool:
    """Whether flash-linear-attention's kernels can be imported (nothing is imported to find out)."""
    return importlib.util.find_spec("fla") is not None


def delta_rule_backend(device: torch.device, dtype: torch.dtype) -> str:
    """What runs the recurrence over activations of `dtype`: "fla" (16 bits, on CUDA, if installed) or "torch".

    The kernels round their products to few bits; activations of 32 bits are worth the torch form's full ones.
    """
    return "fla" if _is_for_fla(device, dtype) and fla_trouble(device) is None else "torch"


def _is_for_fla(device: torch.device, dtype: torch.dtype) -> bool:
    return device.type == "cuda" and dtype in (torch.bfloat16, torch.float16)


def fla_trouble(device: torch.device) -> str | None:
    """Why flash-linear-attention's kernels cannot run on this GPU, or None."""
    if not fla_is_installed():
        return "flash-linear-attention is not installed (pip install 'fwpkm-eval[gpu]')"
    if is_miscompiled(device):
        return "this Triton gets its kernels wrong on this GPU (3.7.1 does not)"
    return None


@functools.cache  # once
def _warn_of(trouble: str) -> None:
    warnings.warn(f"Gated DeltaNet runs on its torch form, slowly: {trouble}", stacklevel=3)


@functools.cache
def is_miscompiled(device: torch.device) -> bool:
    """Whether fla's kernels refuse their backward: with Triton 3.4 to 3.7.0 it is wrong on Hopper (fla's issue 640)."""
    import triton

    version = tuple(int(part) for part in re.findall(r"\d+", triton.__version__)[:3])
    return torch.cuda.get_device_capability(device)[0] == 9 and (3, 4) <= version < (3, 7, 1)


class GatedDeltaNet(nn.Module):
    """Causal convolution over q, k, v then SiLU; q, k of unit norm; β = σ(b); α = exp(−exp(A_log)·softplus(a + dt))."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.heads, self.width = config.gdn_heads, config.gdn_head_dim
        inner = self.heads * self.width
        self.qkv_proj = nn.Linear(config.hidden, 3 * inner, bias=False)
        self.z_proj = nn.Linear(config.hidden, inner, bias=False)
        self.ab_proj = nn.Linear(config.hidden, 2 * self.heads, bias=False)
        self.conv = CausalConv(3 * inner, config.gdn_conv)
        self.a_log = nn.Parameter(torch.empty(self.heads))
        self.dt_bias = nn.Parameter(torch.empty(self.heads))
        self.norm = RMSNorm(self.width, config.norm_eps)
        self.out_proj = nn.Linear(inner, config.hidden, bias=False)

    def init_decay(self) -> None:
        """exp(A_log) uniform on 1…16; softplus(dt_bias) log-uniform on 0.001…0.1, as in the published layer."""
        with torch.no_grad():
            self.a_log.uniform_(1, 16).log_()
            step = torch.empty_like(self.dt_bias).uniform_(math.log(0.001), math.log(0.1)).exp_()
            self.dt_bias.copy_(step + torch.log(-torch.expm1(-step)))

    def forward(self, x: Tensor, state: MixerState | None, position: int) -> tuple[Tensor, MixerState]:
        """x [B,T,D]; state: the recurrent matrix S [B,N,E,E] and the convolution's past."""
        batch, tokens, _ = x.shape
        qkv, past = self.conv(self.qkv_proj(x), None if state is None else state["conv"])
        q, k, v = F.silu(qkv).view(batch, tokens, 3, self.heads, self.width).permute(2, 0, 3, 1, 4)
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        a, b = at_least_float32(self.ab_proj(x).view(batch, tokens, 2, self.heads).permute(2, 0, 3, 1))
        rate, bias = (at_least_float32(one).view(1, -1, 1) for one in (self.a_log, self.dt_bias))
        log_decay = -rate.exp() * F.softplus(a + bias)
        by_fla = tokens > 1 and delta_rule_backend(v.device, v.dtype) == "fla"
        if tokens > 1 and not by_fla and _is_for_fla(v.device, v.dtype):
            _warn_of(str(fla_trouble(v.device)))
        rule = fla_delta_rule if by_fla else gated_delta_rule
        with full_precision(x.device):
            out, matrix = rule(
                q * self.width**-0.5, k, v, log_decay, torch.sigmoid(b), None if state is None else state["s"]
            )
        z = self.z_proj(x).view(batch, tokens, self.heads, self.width)
        out = self.norm(out.transpose(1, 2).to(x.dtype)) * F.silu(z)
        return self.out_proj(out.reshape(batch, tokens, -1)), {"s": matrix, "conv": past}

    def fits(self, state: MixerState, position: int) -> bool:
        """Whether `state` is one of this layer's, after however many tokens."""
        past = (self.conv.taps - 1, self.conv.weight.shape[1])
        return (
            set(state) == {"s", "conv"}
            and state["s"].shape[1:] == (self.heads, self.width, self.width)
            and state["conv"].shape[1:] == past
        )


def gated_delta_rule(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, start: Tensor | None, chunk: int = CHUNK
) -> tuple[Tensor, Tensor]:
    """The recurrence over T tokens in chunks (WY form): only T/chunk steps are sequential.

    q, k, v [B,N,T,E], log_decay = log α and beta [B,N,T], start [B,N,E,E] or None for zeros; computed in float32.
    Returns the outputs [B,N,T,E] and the last matrix.
    """
    batch, heads, tokens, width = q.shape
    dtype = torch.promote_types(q.dtype, torch.float32)
    q, k, v = (x.to(dtype) for x in (q, k, v))
    state = q.new_zeros(batch, heads, width, v.shape[-1]) if start is None else start
    chunk = min(chunk, tokens)
    pad = -tokens % chunk
    if pad:  # padded tokens: k = 0, so they write nothing, and decay 1
        q, k, v = (F.pad(x, (0, 0, 0, pad)) for x in (q, k, v))
        log_decay, beta = F.pad(log_decay, (0, pad)), F.pad(beta, (0, pad))
    q, k, v = (x.view(batch, heads, -1, chunk, x.shape[-1]) for x in (q, k, v))
    beta = beta.to(dtype).view(batch, heads, -1, chunk, 1)
    total = log_decay.to(dtype).view(batch, heads, -1, chunk).cumsum(-1)
    lower = torch.ones(chunk, chunk, dtype=torch.bool, device=q.device).tril()
    # decay[t,i] = Π_{i<s≤t} α_s for i ≤ t, else 0; masked before exp so that nothing overflows.
    decay = (total.unsqueeze(-1) - total.unsqueeze(-2)).masked_fill(~lower, -torch.inf).exp()
    within = (q @ k.transpose(-1, -2)) * decay
    coupling = (beta * (k @ k.transpose(-1, -2)) * decay).tril(-1)
    eye = torch.eye(chunk, dtype=dtype, device=q.device)
    grown = total.exp().unsqueeze(-1)
    both = torch.cat([beta * v, beta * grown * k], -1)
    both = torch.linalg.solve_triangular(coupling + eye, both, upper=False, unitriangular=True)
    fresh, seen = both.split([v.shape[-1], width], -1)
    # What a chunk adds to the state: keys decayed to the chunk's end.
    carried = (k * (total[..., -1:] - total).exp().unsqueeze(-1)).transpose(-1, -2)
    shrink = total[..., -1].exp()[..., None, None]
    asking = q * grown
    outputs = []
    # Unbound at once: the gradient of an index is a tensor of the whole's size, of which there would be M.
    chunks = zip(*(x.unbind(2) for x in (fresh, seen, asking, within, shrink, carried)), strict=True)
    for fresh_m, seen_m, asking_m, within_m, shrink_m, carried_m in chunks:
        update = fresh_m - seen_m @ state
        outputs.append(asking_m @ state + within_m @ update)
        state = shrink_m * state + carried_m @ update
    return torch.stack(outputs, 2).flatten(2, 3)[:, :, :tokens], state


def fla_delta_rule(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, start: Tensor | None
) -> tuple[Tensor, Tensor]:
    """`gated_delta_rule` by flash-linear-attention's chunked kernel (CUDA): the same arguments and results.

    q, k, v go in as v's dtype, decay, β and the matrix as float32.
    """
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule

    out, matrix = chunk_gated_delta_rule(
        *(x.transpose(1, 2).to(v.dtype).contiguous() for x in (q, k, v)),
        g=log_decay.transpose(1, 2).float().contiguous(),
        beta=beta.transpose(1, 2).float().contiguous(),
        scale=1.0,  # q comes scaled
        initial_state=None if start is None else start.float(),
        output_final_state=True,
    )
    return out.transpose(1, 2), matrix
