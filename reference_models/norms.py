"""Normalisations and the small convolution that several layers share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fwpkm_eval.kernels.precision import at_least_float32


class RMSNorm(nn.Module):
    """x / rms(x) · (1 + w), w starting at 0, over the last dimension; computed in float32 at least."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide, weight = at_least_float32(x), at_least_float32(self.weight)
        return F.rms_norm(wide, x.shape[-1:], (1 + weight).to(wide.dtype), self.eps).to(x.dtype)


class CausalConv(nn.Module):
    """Depthwise causal convolution over the last `taps` positions: x [B,T,D] → [B,T,D]."""

    def __init__(self, width: int, taps: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(taps, width))
        self.taps = taps

    def forward(self, x: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor]:
        """past: the last taps − 1 inputs [B,taps−1,D] (None: zeros). Returns the outputs and the new past."""
        if past is None:
            past = x.new_zeros(x.shape[0], self.taps - 1, x.shape[2])
        padded = torch.cat([past, x], 1)
        # A sum of shifted products: on a CPU several times faster than a grouped conv1d of this size.
        tokens = x.shape[1]
        weight = self.weight.to(x.dtype)  # another one only under autocast
        out = padded[:, :tokens] * weight[0]
        for tap in range(1, self.taps):
            out = torch.addcmul(out, padded[:, tap : tap + tokens], weight[tap])
        past = padded[:, tokens:]
        # A few rows of many: as a view they would keep all of them alive for as long as a state is.
        return out, past.clone() if tokens > self.taps else past
