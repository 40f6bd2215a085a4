"""One chunk of FwPKM in closed form, and its exact gradient, touching only the slots that were read.

Notation, beside that of `types.py`: n = B·C tokens of the chunk, U distinct slots read in it, R [U,dv] their rows of V
before the write, A [n,U] the sparse matrix of read weights, D_u = scale / N_u with N_u the reads of slot u. Then

    read    v̂ = A·R                                   e_t = m_t·g_t·(v̂_t − y_t)     (m_t = 1 for the tokens written)
    write   R' = R − D ⊙ (Aᵀ·e)

and, with P = D ⊙ dR', the gradient of the write is  de = −A·P,  dA_tu = −e_t·P_u,  dR = dR' + Aᵀ·dv̂.
Products with A and Aᵀ are `embedding_bag` sums over reads, sorted by slot for Aᵀ, so that a run repeats bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fwpkm_eval.kernels.types import ENTROPY_EPSILON, IDW_EPSILON, MemoryRule

LOOKUP_BLOCK = 4096
"""Queries scored at a time: bounds the [H,2,n,S] score matrix when a whole haystack is one chunk."""


ELEMENTS_AT_A_TIME = 2**17
"""Elements of a temporary made at a time on a CPU: they stay in its cache, and no large buffer is mapped anew."""


@dataclass(frozen=True)
class Reads:
    """The lookups of n tokens.

    half_indices, half_scores [H,2,n,k]: top-k sub-keys of each half; first, second [H,n,k]: which of them each selected
    pair is made of; slots [n,H·k] int64; weights [n,H·k]: softmax over all selected scores of a token.
    """

    half_indices: Tensor
    half_scores: Tensor
    first: Tensor
    second: Tensor
    slots: Tensor
    weights: Tensor


@dataclass(frozen=True)
class SlotSort:
    """Reads sorted by slot.

    slots [U]: distinct slots, ascending; order [n·H·k]: the reads, sorted by slot; starts [U]: where each slot's reads
    begin in that order; counts [U]: N_u.
    """

    slots: Tensor
    order: Tensor
    starts: Tensor
    counts: Tensor

    def positions(self) -> Tensor:
        """[n·H·k]: for every read, the place of its slot in `slots`."""
        row = torch.repeat_interleave(torch.arange(len(self.slots), device=self.order.device), self.counts)
        return torch.empty_like(row).scatter_(0, self.order, row)


@dataclass(frozen=True)
class SubkeySort:
    """Selected sub-keys by group: order [H·2·n·k], the selections by sub-key; starts [H·2·S]: where each group is."""

    order: Tensor
    starts: Tensor

    def sum(self, per_query: Tensor, coefficients: Tensor) -> Tensor:
        """Σ over a sub-key's selections of c·x: per_query [H,2,n,d], coefficients [H,2,n,k] → [H·2·S,d]."""
        queries = torch.div(self.order, coefficients.shape[-1], rounding_mode="floor")
        flat = per_query.reshape(-1, per_query.shape[-1])
        by_subkey = coefficients.flatten()[self.order]
        return F.embedding_bag(queries, flat, self.starts, per_sample_weights=by_subkey, mode="sum")

    def total(self, coefficients: Tensor) -> Tensor:
        """Σ over a sub-key's selections of c [H,2,n,k] → [H·2·S]."""
        return F.embedding_bag(self.order, coefficients.reshape(-1, 1), self.starts, mode="sum").squeeze(-1)


def find_reads(query: Tensor, keys: Tensor, topk: int, score: str) -> Reads:
    """The k best slots of each query and head: query [H,2,n,d], keys [H,2,S,d]."""
    if query.shape[2] <= LOOKUP_BLOCK:
        return _find_block(query, keys, topk, score)
    blocks = [_find_block(part, keys, topk, score) for part in query.split(LOOKUP_BLOCK, dim=2)]
    return Reads(
        half_indices=torch.cat([b.half_indices for b in blocks], 2),
        half_scores=torch.cat([b.half_scores for b in blocks], 2),
        first=torch.cat([b.first for b in blocks], 1),
        second=torch.cat([b.second for b in blocks], 1),
        slots=torch.cat([b.slots for b in blocks], 0),
        weights=torch.cat([b.weights for b in blocks], 0),
    )


def _find_block(query: Tensor, keys: Tensor, topk: int, score: str) -> Reads:
    heads, _, tokens, _ = query.shape
    dots = query @ keys.transpose(-1, -2)
    if score == "dot":
        best, index = dots.topk(topk, dim=-1)
    else:
        # The order of −log(ε + ‖q − K‖²) is that of q·K − ½‖K‖². The distances of the selected few are then taken
        # from the differences: the expanded square cancels badly where a query meets its key.
        index = dots.sub_(keys.square().sum(-1).mul_(0.5).unsqueeze(-2)).topk(topk, dim=-1).indices
        best = -torch.log(IDW_EPSILON + _squared_distances(query, keys, index))
        best, by_distance = best.sort(dim=-1, descending=True)
        index = index.gather(-1, by_distance)
    i, j = candidate_pairs(topk, index.device)
    scores, which = (best[:, 0, :, i] + best[:, 1, :, j]).topk(topk, dim=-1)  # [H,n,k]
    first, second = i[which], j[which]
    slots = index[:, 0].gather(-1, first) * keys.shape[2] + index[:, 1].gather(-1, second)
    weights = scores.transpose(0, 1).reshape(tokens, heads * topk).softmax(-1)
    return Reads(index, best, first, second, slots.transpose(0, 1).reshape(tokens, heads * topk), weights)


def candidate_pairs(topk: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Pairs of ranks that can be among the k best sums: (i+1)·(j+1) ≤ k, since all pairs of better ranks beat them."""
    pairs = [(i, j) for i in range(topk) for j in range(topk) if (i + 1) * (j + 1) <= topk]
    i, j = torch.tensor(pairs, device=device).unbind(1)
    return i, j


def _squared_distances(query: Tensor, keys: Tensor, index: Tensor) -> Tensor:
    """‖q − K‖² to the selected sub-keys: query [H,2,n,d], keys [H,2,S,d], index [H,2,n,k] → [H,2,n,k]."""
    width = query.shape[-1]
    numbers = _subkey_numbers(index, keys.shape[2]).flatten(0, 2)
    queries, table = query.reshape(-1, width), keys.flatten(0, 2)
    block = max(1, _at_a_time(queries) // index.shape[-1])
    parts = [
        torch.linalg.vector_norm(F.embedding(some, table).sub_(q.unsqueeze(-2)), dim=-1)
        for some, q in zip(numbers.split(block), queries.split(block), strict=True)
    ]
    return torch.cat(parts).square_().view(index.shape)


def _subkey_numbers(index: Tensor, subkeys: int) -> Tensor:
    """Sub-keys counted through heads and halves, 0 … H·2·S−1, of index [H,2,n,k]."""
    heads = index.shape[0]
    offset = torch.arange(heads * 2, device=index.device).view(heads, 2, 1, 1) * subkeys
    return index + offset


def sort_subkeys(reads: Reads, subkeys: int) -> SubkeySort:
    """Groups the selections of each half by sub-key."""
    ordered, order = _subkey_numbers(reads.half_indices, subkeys).flatten().sort(stable=True)
    every = torch.arange(reads.half_indices.shape[0] * 2 * subkeys, device=order.device)
    return SubkeySort(order, torch.searchsorted(ordered, every))


def sort_reads(slots: Tensor) -> SlotSort:
    """Groups the reads slots [n,H·k] by slot."""
    ordered, order = slots.flatten().sort(stable=True)
    is_first = torch.ones_like(ordered, dtype=torch.bool)
    torch.ne(ordered[1:], ordered[:-1], out=is_first[1:])
    starts = is_first.nonzero().squeeze(-1)
    ends = torch.cat([starts[1:], starts.new_full((1,), len(ordered))])
    return SlotSort(ordered[starts], order, starts, ends - starts)


def count_reads(counted: Tensor, slots: Tensor) -> Tensor:
    """How often each of slots [U] occurs among the reads counted [·,H·k]; at least 1."""
    ordered = counted.flatten().sort().values
    return (torch.searchsorted(ordered, slots, right=True) - torch.searchsorted(ordered, slots)).clamp_min(1)


def read_rows(rows: Tensor, positions: Tensor, weights: Tensor) -> Tensor:
    """A·R: rows [·,dv], positions and weights [n,H·k] → [n,dv]."""
    return F.embedding_bag(positions, rows, per_sample_weights=weights, mode="sum")


def dot_by_read(per_token: Tensor, rows: Tensor, positions: Tensor) -> Tensor:
    """⟨x_t, R_u⟩ for every read: per_token [n,dv], rows [·,dv], positions [n,H·k] → [n,H·k]."""
    block = max(1, _at_a_time(rows) // positions.shape[1])
    parts = [
        torch.bmm(F.embedding(at, rows), x.unsqueeze(-1)).squeeze(-1)
        for at, x in zip(positions.split(block), per_token.split(block), strict=True)
    ]
    return torch.cat(parts)


def sum_by_slot(per_token: Tensor, weights: Tensor, sort: SlotSort) -> Tensor:
    """Aᵀ·x: per_token [n,dv], weights [n,H·k] → [U,dv]."""
    tokens = torch.div(sort.order, weights.shape[1], rounding_mode="floor")
    by_slot = weights.flatten()[sort.order]
    return F.embedding_bag(tokens, per_token, sort.starts, per_sample_weights=by_slot, mode="sum")


def add_by_slot_(rows: Tensor, per_token: Tensor, weights: Tensor, sort: SlotSort, scale: Tensor) -> None:
    """R += D ⊙ (Aᵀ·x), in place: rows [·,dv] of all slots, per_token [n,dv], weights [n,H·k], scale [U]: D."""
    tokens = torch.div(sort.order, weights.shape[1], rounding_mode="floor")
    by_slot = weights.flatten()[sort.order] * scale.repeat_interleave(sort.counts)
    block = _at_a_time(rows)
    reads = torch.cat([sort.starts[::block], sort.starts.new_full((1,), len(tokens))]).tolist()
    for number, (slots, starts) in enumerate(zip(sort.slots.split(block), sort.starts.split(block), strict=True)):
        part = slice(reads[number], reads[number + 1])
        step = F.embedding_bag(
            tokens[part], per_token, starts - reads[number], per_sample_weights=by_slot[part], mode="sum"
        )
        rows.index_add_(0, slots, step)  # every slot once: no two additions meet


def _at_a_time(rows: Tensor) -> int:
    """How many rows of a temporary to make at a time."""
    elements = ELEMENTS_AT_A_TIME if rows.device.type == "cpu" else 2**28
    return max(1, elements // rows.shape[-1])


def write_scale(rule: MemoryRule, heads: int, read: int, written: int) -> float:
    """η·H·k·C/(C−L): the mean loss is rescaled by tokens, features, k and heads before the division by N_i."""
    return rule.learning_rate * heads * rule.topk * read / written


def softmax_backward(p: Tensor, dp: Tensor) -> Tensor:
    """The gradient of softmax's input, along the last dimension."""
    return p * (dp - (p * dp).sum(-1, keepdim=True))


def mean_probabilities(p: Tensor, sort: SubkeySort) -> Tensor:
    """p̄ [2,S]: the mean over tokens and heads of p [H,2,n,k], zero where a sub-key was not selected."""
    heads, _, tokens, _ = p.shape
    return sort.total(p).view(heads, 2, -1).sum(0) / (heads * tokens)


def entropy_slope(mean: Tensor, weight: float) -> Tensor:
    """∂/∂p̄ of λ·Σ p̄·log(p̄ + 1e-8): [2,S]."""
    shifted = mean + ENTROPY_EPSILON
    return weight * (torch.log(shifted) + mean / shifted)


def take_halves(table: Tensor, index: Tensor) -> Tensor:
    """table [2,S], index [H,2,n,k] → the table's entries [H,2,n,k]."""
    heads, _, tokens, _ = index.shape
    return table[None, :, None, :].expand(heads, -1, tokens, -1).gather(-1, index)


def addressing_ds(reads: Reads, sort: SubkeySort, weight: float) -> tuple[Tensor, Tensor]:
    """(L_addr [], ∂L_addr/∂s [H,2,n,k]) at the selected sub-scores, of λ·Σ_m Σ_i p̄_i·log(p̄_i + 1e-8)."""
    p = reads.half_scores.softmax(-1)
    mean = mean_probabilities(p, sort)
    loss = weight * (mean * torch.log(mean + ENTROPY_EPSILON)).sum()
    dp = take_halves(entropy_slope(mean, weight) / (p.shape[0] * p.shape[2]), reads.half_indices)
    return loss, softmax_backward(p, dp)


def pairs_to_halves(per_pair: Tensor, reads: Reads) -> Tensor:
    """Gradient of the selected pair sums [n,H·k] → of the sub-scores they are made of [H,2,n,k]."""
    heads, _, tokens, topk = reads.half_scores.shape
    pairs = per_pair.view(tokens, heads, topk).transpose(0, 1)
    halves = torch.zeros_like(reads.half_scores)
    halves[:, 0].scatter_add_(-1, reads.first, pairs)
    halves[:, 1].scatter_add_(-1, reads.second, pairs)
    return halves


def halves_to_pairs(halves: Tensor, reads: Reads) -> Tensor:
    """Sum of both halves' entries [H,2,n,k] for each selected pair: [n,H·k]."""
    sums = halves[:, 0].gather(-1, reads.first) + halves[:, 1].gather(-1, reads.second)
    return sums.transpose(0, 1).reshape(reads.slots.shape)


def _coefficients(ds: Tensor, reads: Reads, score: str) -> Tensor:
    """c of ∂s [H,2,n,k]: ds (dot) or −2·ds·exp(s) (idw)."""
    return ds if score == "dot" else -2 * ds * reads.half_scores.exp()


def scores_to_keys(ds: Tensor, reads: Reads, sort: SubkeySort, query: Tensor, keys: Tensor, score: str) -> Tensor:
    """Σ ds·∂s/∂K [H,2,S,d]; ∂s/∂K is q (dot) or −2(K − q)·exp(s) (idw)."""
    c = _coefficients(ds, reads, score)
    dots = sort.sum(query, c).view(keys.shape)
    return dots if score == "dot" else sort.total(c).view(keys.shape[:3]).unsqueeze(-1) * keys - dots


def scores_to_query(ds: Tensor, reads: Reads, query: Tensor, keys: Tensor, score: str) -> Tensor:
    """Σ ds·∂s/∂q [H,2,n,d]; ∂s/∂q is K (dot) or 2(K − q)·exp(s) (idw)."""
    c = _coefficients(ds, reads, score)
    dots = _sum_selected(c, reads, keys)
    return dots if score == "dot" else c.sum(-1, keepdim=True) * query - dots


def _sum_selected(c: Tensor, reads: Reads, table: Tensor) -> Tensor:
    """Σ over a query's selected sub-keys of c·x: c [H,2,n,k], table [H,2,S,d] → [H,2,n,d]."""
    numbers = _subkey_numbers(reads.half_indices, table.shape[2])
    flat = table.flatten(0, 2)
    summed = F.embedding_bag(numbers.flatten(0, 2), flat, per_sample_weights=c.flatten(0, 2), mode="sum")
    return summed.view(*c.shape[:3], -1)


@dataclass(frozen=True)
class KeyStepGradient:
    """What the cotangent X of `scores_to_keys(ds, …)` sends back: to ds and s (both [H,2,n,k]), to q and to K."""

    ds: Tensor
    scores: Tensor | None
    query: Tensor
    keys: Tensor | None


def key_step_backward(
    cotangent: Tensor, ds: Tensor, reads: Reads, sort: SubkeySort, query: Tensor, keys: Tensor, score: str
) -> KeyStepGradient:
    """The gradient of ⟨X, scores_to_keys(ds, …)⟩, X [H,2,S,d]."""
    c = _coefficients(ds, reads, score)
    along = (query @ cotangent.transpose(-1, -2)).gather(-1, reads.half_indices)  # X_i·q_t
    if score == "dot":
        return KeyStepGradient(ds=along, scores=None, query=_sum_selected(c, reads, cotangent), keys=None)
    own = (cotangent * keys).sum(-1).unsqueeze(2).expand(-1, -1, query.shape[2], -1).gather(-1, reads.half_indices)
    slope = -2 * reads.half_scores.exp() * (own - along)
    return KeyStepGradient(
        ds=slope,
        scores=ds * slope,
        query=-_sum_selected(c, reads, cotangent),
        keys=sort.total(c).view(keys.shape[:3]).unsqueeze(-1) * cotangent,
    )


def addressing_backward(dds: Tensor, reads: Reads, sort: SubkeySort, weight: float) -> Tensor:
    """The gradient of ⟨dds, addressing_ds⟩ with respect to the sub-scores [H,2,n,k] (second order of the entropy)."""
    p = reads.half_scores.softmax(-1)
    count = p.shape[0] * p.shape[2]
    mean = mean_probabilities(p, sort)
    dp = take_halves(entropy_slope(mean, weight) / count, reads.half_indices)
    centred = dds - (p * dds).sum(-1, keepdim=True)
    direct = dds * (dp - (p * dp).sum(-1, keepdim=True)) - (p * dds).sum(-1, keepdim=True) * dp
    # dp depends on p̄, and p̄ on every token's p: φ'(p̄) = λ·(1/(p̄+δ) + δ/(p̄+δ)²).
    shifted = mean + ENTROPY_EPSILON
    curvature = weight * (1 / shifted + ENTROPY_EPSILON / shifted.square())
    through_mean = mean_probabilities(p * centred, sort) * curvature / count
    return softmax_backward(p, direct + take_halves(through_mean, reads.half_indices))
