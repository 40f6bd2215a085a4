"""Which way a metric is better: what comparing two runs has to know."""

from __future__ import annotations

import re
from typing import Literal

Direction = Literal["lower", "higher", "neither"]

_LOWER = re.compile(
    r"perplexity|answer_perplexity|nats_per_token|bits_per_byte(_at_position)?|distractor_rate|other_number_rate"
    r"|no_number_rate|diverged|max_relative_error|memory_over_reference_\w+"
)
_HIGHER = re.compile(
    r"exact_match|digit_accuracy|answer_logprob|\w*hit_rate|weighted_answer_rate|consensus_accuracy|acc"
)
_COST_LOWER = re.compile(r"\w*seconds\w*|peak_bytes\w*")
_COST_HIGHER = re.compile(r"\w*(tokens|samples|bytes)_per_second\w*|speedup_\w+|share_of_\w+")


def direction(metric: str) -> Direction:
    """Whether lower or higher values of a metric are better, or neither (parameters, gates, …); layers are ignored."""
    name = metric.partition("@")[0].partition(",")[0]
    if _COST_HIGHER.fullmatch(name) or _HIGHER.fullmatch(name):
        return "higher"
    if _COST_LOWER.fullmatch(name) or _LOWER.fullmatch(name):
        return "lower"
    return "neither"


def is_timing(metric: str) -> bool:
    """Whether a metric is time or memory, which differ from run to run of the same program."""
    name = metric.partition("@")[0]
    return bool(_COST_LOWER.fullmatch(name) or _COST_HIGHER.fullmatch(name))
