"""What the memories of dense fast weights share: SwiGLU matrices, a target L tokens ahead, and the sizes that must fit.

Shapes: B batch, T tokens, m tokens written, in, hidden, out: widths of the memory's query, its inside and its target.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, get_args

import torch
from torch import Tensor

from fwpkm_eval.errors import UserError, unknown
from fwpkm_eval.kernels.arguments import check_activations, check_fast_weights, check_finite, check_tensors, check_whole
from fwpkm_eval.kernels.types import TargetRule


class DenseRule(Protocol):
    """How a dense memory reads and writes; everything that is not a tensor. name: the memory's, in the notation."""

    @property
    def name(self) -> str: ...

    @property
    def lookahead(self) -> int: ...

    @property
    def target_rule(self) -> TargetRule: ...

    def read(self, query: Tensor, weights: dict[str, Tensor]) -> Tensor:
        """query [B,T,in] → [B,T,out]."""
        ...

    def step(
        self, query: Tensor, wanted: Tensor, rates: Tensor | None, weights: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """The weights after one write of query [B,m,in] with the targets wanted [B,m,out] beside it: new, detached.

        rates [B,m,·]: how much each token weighs, for the rules that have it; None: all the same.
        """
        ...


def shifted_target(target: Tensor, lookahead: int, rule: TargetRule) -> Tensor:
    """target [B,C,out] → the targets y_t of the first C − L tokens [B, max(C−L, 0), out].

    y_t is the mean of v_t … v_{t+L} ("mean") or v_{t+L} ("next").
    """
    count = max(target.shape[1] - lookahead, 0)
    if rule == "next":
        return target[:, lookahead : lookahead + count]
    return torch.stack([target[:, ahead : ahead + count] for ahead in range(lookahead + 1)]).mean(0)


def own_unless_written(weights: dict[str, Tensor], tokens: int, chunk_size: int, lookahead: int) -> dict[str, Tensor]:
    """The weights, copied where no token of any chunk has its target in it: a write would have made new ones."""
    written = min(tokens, chunk_size) > lookahead
    return weights if written else {name: weight.clone() for name, weight in weights.items()}


def check_rule(rule: DenseRule, **numbers: float) -> None:
    """Refuses a target rule or lookahead that there is not, and numbers that are not finite."""
    if rule.target_rule not in get_args(TargetRule):
        raise unknown("target rule", str(rule.target_rule), list(get_args(TargetRule)))
    check_whole("lookahead", rule.lookahead, 0, "tokens")
    for name, number in numbers.items():
        check_finite(name, number)


def check_sizes(
    query: Tensor,
    target: Tensor,
    weights: Mapping[str, Tensor],
    shapes: Mapping[str, Sequence[str]],
    chunk_size: int,
) -> None:
    """Refuses what does not fit; shapes: of each weight, in the words in, hidden and out (hidden is w_up's)."""
    check_whole("chunk_size", chunk_size, 1, "token")
    if not isinstance(weights, Mapping):
        raise UserError(f"weights is a {type(weights).__name__}; it must be a dict of {', '.join(shapes)}")
    if weights.keys() != shapes.keys():
        raise UserError(f"weights must hold {', '.join(shapes)}; got {', '.join(map(str, weights))}")
    check_tensors(query=query, target=target, **weights)
    if query.dim() != 3 or target.dim() != 3 or query.shape[:2] != target.shape[:2] or query.shape[1] == 0:
        raise UserError(
            f"query {list(query.shape)} and target {list(target.shape)} must be [B,T,in] and [B,T,out] of the same B, T"
        )
    if weights["w_up"].dim() != 2:
        raise UserError(f"w_up {list(weights['w_up'].shape)} must be a matrix [hidden,in]")
    check_fast_weights(weights)
    check_activations(query=query, target=target)
    sizes = {"in": query.shape[2], "hidden": weights["w_up"].shape[0], "out": target.shape[2]}
    for name, words in shapes.items():
        wanted = [sizes[word] for word in words]
        if list(weights[name].shape) != wanted:
            raise UserError(f"{name} {list(weights[name].shape)} must be {wanted} for this query and target")
