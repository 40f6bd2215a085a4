"""The loss of a step, as a module that PyTorch's distributed engines can wrap.

Shapes: B rows, T tokens, n = B·T, D hidden, W vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fwpkm_eval.kernels.precision import full_precision
from fwpkm_eval.reference_models.language_model import LanguageModel
from fwpkm_eval.reference_models.state import ModelState

MOST_LOGITS = 2**26
"""More logits than these (256 MiB in float32) are never held at once: the loss is taken in blocks of tokens."""
BLOCK_LOGITS = 2**27


@dataclass(frozen=True)
class Part:
    """The rows of a step that one process reads at once.

    tokens [B,T+1] int64; answers [A] int64: which of the B·T targets, counted row after row, are digits of an answer
    (places: a mask would have to be counted, and a GPU be waited for); token_share and answer_share: how much of the
    whole step's tokens and answer digits these are, so that the parts' losses add up to the step's.
    """

    tokens: Tensor
    answers: Tensor
    chunk_size: int
    training_window: int | None = None
    token_share: float = 1.0
    answer_share: float = 1.0


@dataclass(frozen=True)
class PartLoss:
    """loss [] to be differentiated; nats [B,T] and right [B,T] bool (is the likeliest token the true one), detached."""

    loss: Tensor
    nats: Tensor
    right: Tensor


class Objective(nn.Module):
    """mean nats over all tokens + answer_weight · mean nats over the answers' digits, of a model and a part."""

    def __init__(self, model: LanguageModel, answer_weight: float, recompute: bool = False) -> None:
        super().__init__()
        self.model, self.answer_weight, self.recompute = model, answer_weight, recompute

    def forward(self, part: Part, state: ModelState) -> tuple[Tensor, PartLoss, ModelState]:
        """Reads the part from `state` on, whose fast weights it may write in place; returns the state after it."""
        inputs, targets = part.tokens[:, :-1], part.tokens[:, 1:]
        options: dict[str, Any] = {
            "updates": "scan",
            "write_chunk": part.chunk_size,
            "inplace": True,
            "training_window": part.training_window,
            "recompute": self.recompute,
        }
        if targets.numel() * self.model.config.vocab_size <= MOST_LOGITS:
            logits, state = self.model(inputs, state, **options)
            nats = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)
            answers = nats.flatten()[part.answers]
            loss = nats.mean() * part.token_share
            if len(answers):
                loss = loss + self.answer_weight * answers.mean() * part.answer_share
            right = logits.detach().argmax(-1) == targets
            return loss, PartLoss(loss, nats.detach(), right), state
        hidden, state = self.model(inputs, state, logits="hidden", **options)
        each = part.token_share / targets.numel()
        weights = torch.full_like(targets.flatten(), each, dtype=torch.float32)
        answers_share = self.answer_weight * part.answer_share / max(1, len(part.answers))
        weights.index_fill_(0, part.answers, each + answers_share)
        low = torch.is_autocast_enabled(hidden.device.type)
        dtype = torch.get_autocast_dtype(hidden.device.type) if low else hidden.dtype
        loss, nats, right = weighted_cross_entropy(
            hidden.flatten(0, 1), self.model.embedding.weight, targets.flatten(), weights, dtype
        )
        return loss, PartLoss(loss, nats.view_as(targets), right.view_as(targets)), state


def weighted_cross_entropy(
    hidden: Tensor, head: Tensor, targets: Tensor, weights: Tensor, dtype: torch.dtype, block: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Σ_t weights_t · nats_t over logits hidden·headᵀ, with at most `block` rows of logits at a time.

    hidden [n,D], head [W,D], targets [n] int64, weights [n] float32; dtype of the matrix products. Differentiable in
    hidden and head: the gradient is made block by block in the forward pass, which knows the weights already.

    Returns: (loss [], nats [n] float32, right [n] bool).
    """
    block = block or max(1, BLOCK_LOGITS // head.shape[0])
    loss, nats, right = _WeightedCrossEntropy.apply(hidden, head, targets, weights, dtype, block)
    return loss, nats, right


class _WeightedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor, weights: Tensor, dtype: torch.dtype, block: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        nats = torch.empty(len(targets), dtype=wide, device=hidden.device)
        right = torch.empty(len(targets), dtype=torch.bool, device=hidden.device)
        slope_hidden = torch.empty_like(hidden)
        slope_head = torch.zeros_like(head, dtype=wide)
        with full_precision(hidden.device):
            cast = head.to(dtype)
            for start in range(0, len(targets), block):
                part = slice(start, start + block)
                features, wanted = hidden[part].to(dtype), targets[part, None]
                logits = (features @ cast.T).to(wide)
                right[part] = logits.argmax(-1) == wanted[:, 0]
                nats[part] = torch.logsumexp(logits, -1) - logits.gather(1, wanted)[:, 0]
                slopes = logits.softmax(-1)
                slopes.scatter_add_(1, wanted, torch.full_like(wanted, -1, dtype=wide))
                slopes = (slopes * weights[part, None].to(wide)).to(dtype)
                slope_hidden[part] = (slopes @ cast).to(hidden.dtype)
                slope_head += slopes.T @ features
        ctx.save_for_backward(slope_hidden, slope_head.to(head.dtype))
        ctx.mark_non_differentiable(nats, right)
        return (nats * weights).sum(), nats, right

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        slope_hidden, slope_head = ctx.saved_tensors
        return slope_hidden * slope, slope_head * slope, None, None, None, None
