"""Which way a metric is better: what comparing two runs has to know."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Direction = Literal["lower", "higher", "neither"]


@dataclass(frozen=True)
class Sense:
    """``better``: which values are better. ``machine``: it is time or memory, which differ between any two runs."""

    better: Direction
    machine: bool = False


_LOWER, _HIGHER, _NEITHER = Sense("lower"), Sense("higher"), Sense("neither")
_COST, _SPEED = Sense("lower", machine=True), Sense("higher", machine=True)

_BENCH_PASSES = ("forward", "forward_backward", "training", "reading")
_OF_A_PASS = {
    "{}_seconds": _COST,
    "seconds_per_token_{}": _COST,
    "tokens_per_second_{}": _SPEED,
    "samples_per_second_{}": _SPEED,
    "peak_bytes_{}": _COST,
    "peak_bytes_above_inputs_{}": _COST,
    "memory_over_reference_{}": _COST,
    "speedup_{}": _SPEED,
    "speedup_over_peer_{}": _SPEED,
    "share_of_backbone_speed_{}": _SPEED,
}
"""Metrics that the benchmark has for each pass."""

METRICS: Mapping[str, Sense] = {
    # text
    "perplexity": _LOWER,
    "nats_per_token": _LOWER,
    "bits_per_byte": _LOWER,
    "bits_per_byte_with_match_model": _LOWER,
    "bits_per_byte_at_position": _LOWER,
    "bits_per_byte_change": _LOWER,
    "answer_perplexity": _LOWER,
    "answer_nats_per_token": _LOWER,
    "documents_read": _NEITHER,
    # needles
    "exact_match": _HIGHER,
    "digit_accuracy": _HIGHER,
    "answer_logprob": _HIGHER,
    "distractor_rate": _LOWER,
    "other_number_rate": _LOWER,
    "no_number_rate": _LOWER,
    # training that goes wrong, and memories that do
    "train_answer_accuracy": _HIGHER,
    "dropped_steps": _LOWER,
    "diverged": _LOWER,
    "diverged_after": _HIGHER,
    # inside the memory; slots and gates are used in one way or another, which is no merit by itself
    "top_slot_hit_rate": _HIGHER,
    "weighted_hit_rate": _HIGHER,
    "weighted_answer_rate": _HIGHER,
    "consensus_accuracy": _HIGHER,
    "collision_rate": _NEITHER,
    "coverage": _NEITHER,
    "kl_to_uniform": _NEITHER,
    "chunk_collision_rate": _NEITHER,
    "chunk_coverage": _NEITHER,
    "chunk_kl_to_uniform": _NEITHER,
    "gate_mean": _NEITHER,
    "gate_below_0.1": _NEITHER,
    "gate_above_0.9": _NEITHER,
    "gate_share": _NEITHER,
    # cost: what a model is, and how long it takes on a machine
    "parameters": _NEITHER,
    "active_parameters": _NEITHER,
    "flops_per_token": _NEITHER,
    "memory_flops_per_token": _NEITHER,
    "tokens_per_second": _SPEED,
    "samples_per_second": _SPEED,
    "share_of_backbone_speed": _SPEED,
    "peak_memory": _COST,
    # benchmark
    **{name.format(what): sense for name, sense in _OF_A_PASS.items() for what in _BENCH_PASSES},
    "bytes_per_second": _SPEED,
    "share_of_bandwidth_forward": _SPEED,
    "bytes_moved_forward": _NEITHER,
    "max_relative_error": _LOWER,
    "training_tokens_per_second": _SPEED,
    "training_ratio_to_dense_autograd": _SPEED,
    "training_loss_difference": _LOWER,
    # lm-eval's own; bypass is a number that it puts where nothing is measured
    "acc": _HIGHER,
    "acc_norm": _HIGHER,
    "acc_mutual_info": _HIGHER,
    "acc_bytes": _HIGHER,
    "acc_all": _HIGHER,
    "likelihood": _HIGHER,
    "mcc": _HIGHER,
    "f1": _HIGHER,
    "bleu": _HIGHER,
    "chrf": _HIGHER,
    "chrf++": _HIGHER,
    "ter": _LOWER,
    "brier_score": _LOWER,
    "word_perplexity": _LOWER,
    "byte_perplexity": _LOWER,
    "bypass": _NEITHER,
}
"""Every metric that this package writes, without layers, and every one that the lm-evaluation-harness names itself."""


def sense(metric: str, unit: str = "") -> Sense | None:
    """What is known of a row's metric; None of one that only somebody else's lm-eval task has.

    Left aside are a layer, as in ``gate_mean@3``, and an lm-eval filter, as in ``exact_match,strict-match``.
    """
    if (metric, unit) == ("diverged", "step"):
        return _HIGHER  # not a share of values, but the step at which a training was given up: the later, the better
    return METRICS.get(re.sub(r"@\d+$", "", metric.partition(",")[0]))


def tells_of_harm(metric: str) -> bool:
    """Whether a row of this metric is there only where something went wrong: none is better than any."""
    return metric == "diverged" or metric.startswith("diverged_after@")


def direction(metric: str, unit: str = "") -> Direction:
    """Whether lower or higher values of a metric are better; neither too where nothing is known of it."""
    known = sense(metric, unit)
    return known.better if known else "neither"


def is_timing(metric: str) -> bool:
    """Whether a metric is time or memory, which differ from run to run of the same program."""
    known = sense(metric)
    return known is not None and known.machine
