"""A match model beside a language model: what copying from the text read so far is worth, without a learned memory.

Data compressors predict the next symbol as the one that followed the longest earlier occurrence of what was just read
(the match model of PAQ: Mahoney 2005, "Adaptive weighing of context models for lossless data compression"); cache
language models mix such a prediction into a model's own (Kuhn and De Mori 1990; Grave et al. 2017, arXiv 1612.04426).
A memory that is written while reading can do the same, and more: what it saves beside a match model is not copying.

A token's probability is  (1 − λ_L)·p_model + λ_L·[it is the one that followed],  with L the length of the match. λ_L is
learned while reading, by a step of EM after each token, so that nothing is seen ahead.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt

    from fwpkm_eval.data.tokenizers import IntArray

MATCH_VERSION = 1
"""Part of every perplexity cell's key: raise it whenever a change here can change a number."""

LEAST_BYTES, LEAST_SUBWORDS = 4, 2
"""Contexts of fewer tokens are not looked up."""
LONGEST = 32
"""Tokens of a match; longer ones are told no more apart."""
NO_MATCH = -1


def mixed_nats(
    nats: npt.NDArray[np.float32], targets: IntArray, starts: Iterable[int], byte_counts: npt.NDArray[np.int32]
) -> npt.NDArray[np.float64]:
    """−log of the mixture's probability of each token [n], from the model's −log p, nats [n].

    targets [n]: the tokens, in reading order; starts: where the text to copy from begins anew, ascending; byte_counts
    [n]: bytes of text for each token (0: an end token). A loss that is nan stays so.
    """
    least = LEAST_BYTES if byte_counts.max(initial=0) <= 1 else LEAST_SUBWORDS
    parts = np.split(targets, [start for start in starts if start > 0])
    found = [longest_matches(part, least) for part in parts]
    predicted, lengths = (np.concatenate(some) for some in zip(*found, strict=True))
    return _mixed(nats.astype(np.float64), predicted == targets, lengths)


def longest_matches(tokens: IntArray, least: int) -> tuple[IntArray, IntArray]:
    """For each of tokens [n] what a match model says of it, from those before it: (prediction, match length), both [n].

    A match begins where the last ``least`` tokens occurred before, at their last occurrence, and goes on while its
    predictions are right. Without one the prediction is ``NO_MATCH`` and the length 0.
    """
    there, seen = tokens.tolist(), _last_occurrences(tokens, least).tolist()
    predicted, lengths = [NO_MATCH] * len(there), [0] * len(there)
    at = length = 0
    for now in range(1, len(there)):
        if length and there[at] == there[now - 1]:
            at, length = at + 1, min(length + 1, LONGEST)
        elif seen[now] < 0:
            length = 0
        else:
            at, length = seen[now], least
            while length < min(at, LONGEST) and there[at - length - 1] == there[now - length - 1]:
                length += 1
        if length:
            predicted[now], lengths[now] = there[at], length
    return np.array(predicted, dtype=np.int64), np.array(lengths, dtype=np.int64)


def _last_occurrences(tokens: IntArray, least: int) -> IntArray:
    """For each place [n] the last one before it that the same ``least`` tokens precede, or −1."""
    last = np.full(len(tokens), -1, dtype=np.int64)
    if len(tokens) <= least:
        return last
    context = np.zeros(len(tokens) - least, dtype=np.int64)  # a number for what precedes each place from `least` on
    for first in range(least):
        part = tokens[first : first + len(context)]
        pairs = context * (int(tokens.max()) + 1) + part
        context = np.unique(pairs, return_inverse=True)[1].astype(np.int64)
    order = np.argsort(context, kind="stable")
    again = context[order[1:]] == context[order[:-1]]
    last[order[1:][again] + least] = order[:-1][again] + least
    return last


def _mixed(nats: npt.NDArray[np.float64], right: npt.NDArray[np.bool_], lengths: IntArray) -> npt.NDArray[np.float64]:
    """The mixture's −log p [n], of the model's [n], whether matches were right [n], and their lengths [n]."""
    mixed = nats.copy()
    places = np.flatnonzero(lengths)
    credit, tokens = [0.5] * (LONGEST + 1), [1.0] * (LONGEST + 1)
    of_matches = zip(nats[places].tolist(), right[places].tolist(), lengths[places].tolist(), strict=True)
    for place, (loss, is_right, length) in zip(places.tolist(), of_matches, strict=True):
        if math.isnan(loss):
            continue
        share = credit[length] / tokens[length]
        if is_right:
            p = (1 - share) * math.exp(-loss) + share
            mixed[place] = -math.log(p)
            credit[length] += share / p
        else:
            mixed[place] = loss - math.log1p(-share)
        tokens[length] += 1
    return mixed
