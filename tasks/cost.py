"""Cost: parameters, FLOPs per token by formula, and what reading and training take here: tokens and samples per second,
peak memory of the model, and the share of its backbone's speed that a model with memory keeps.

A sample is a segment of text, 4096 tokens as published (where samples per second are those of training). Reading is
that of perplexity, with writes and with every token scored; training is a step of the training loop, forward through
the writes, backward and the optimizer's, on rows of one length, with activations as the scale's recipe has them.

Speeds depend on the machine and on what else it does, which changes while a run goes on. So a model with memory and
its backbone without (of the same sizes, untrained: speed does not depend on what weights hold) are timed by turns, a
segment or a step each, and a turn gives one ratio.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from fwpkm_eval.bench.ratios import percentiles
from fwpkm_eval.bench.stopwatch import Stopwatch, stopwatch
from fwpkm_eval.data.stream import token_stream
from fwpkm_eval.errors import UserError
from fwpkm_eval.tasks.describe import describe_model, model_tensor, yarn_arm
from fwpkm_eval.tasks.perplexity import PerplexitySettings, read_stream

if TYPE_CHECKING:
    from fwpkm_eval.data import TextSet
    from fwpkm_eval.data.tokenizers import Tokenizer
    from fwpkm_eval.runs.rows import Row

COST_VERSION = 4
"""Part of every cell's key: raise it whenever a change here can change a number."""

WARM_UP = 512
"""Tokens read before anything is measured; on a GPU two segments, as Triton compiles for the sizes of later ones."""

Call = Callable[[], Any]
Progress = Callable[[int], None]


@dataclass(frozen=True)
class CostSettings:
    """What is timed: reading ``tokens`` tokens in segments of ``segment``, and ``steps`` training steps (after some
    untimed ones) on ``rows`` rows of ``row_tokens`` tokens each; 0 steps: training is not measured.

    Segments are whole ones: what is left over is not read, and a text of less than one is one by itself.
    """

    tokens: int = 32768
    segment: int = 4096
    steps: int = 8
    rows: int = 2
    row_tokens: int = 1024
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("tokens", "segment", "rows", "row_tokens"):
            if getattr(self, name) < 1:
                raise UserError(f"{name.replace('_', ' ')} must be at least 1, not {getattr(self, name)}")
        if self.steps < 0:
            raise UserError(f"steps must be 0 or more, not {self.steps}")


@dataclass
class Timed:
    """``seconds`` of each call, which takes ``tokens`` tokens; those of the backbone's calls, made by turns with them
    (none for a model that is a backbone itself); and the most memory in bytes that the model took in a call: weights,
    state and activations, in training gradients and what the optimizer keeps, and nothing else of the process."""

    tokens: int
    seconds: list[float] = field(default_factory=list)
    backbone_seconds: list[float] = field(default_factory=list)
    peak_memory: int = 0


@dataclass(frozen=True)
class CostResult:
    """``training`` is None where it was not measured."""

    reading: Timed
    training: Timed | None = None


def evaluate_cost(
    model: Any,
    text_set: TextSet,
    settings: CostSettings,
    tokenizer: Tokenizer,
    progress: Progress | None = None,
) -> CostResult:
    """Times reading and training; the model stays as it is."""
    progress = progress or (lambda tokens: None)
    reading = _read(model, text_set, settings, tokenizer, progress)
    if not settings.steps:
        return CostResult(reading)
    return CostResult(reading, _train(model, text_set, settings, tokenizer, progress))


def timed_tokens(settings: CostSettings, text_tokens: int, has_memory: bool) -> int:
    """Tokens of all that is timed, the backbone's calls included, where the text has so many."""
    length, count = _whole_segments(min(text_tokens, settings.tokens), settings.segment)
    return (1 + has_memory) * (length * count + settings.steps * settings.rows * settings.row_tokens)


def _whole_segments(tokens: int, segment: int) -> tuple[int, int]:
    """Tokens of a segment, and how many there are."""
    return (segment, tokens // segment) if tokens >= segment else (tokens, 1)


def _read(model: Any, text_set: TextSet, settings: CostSettings, tokenizer: Tokenizer, progress: Progress) -> Timed:
    stream = token_stream(text_set, tokenizer, settings.tokens)
    length, count = _whole_segments(stream.n_targets, settings.segment)
    parts = [stream.part(at * length, (at + 1) * length + 1) for at in range(count)]
    task = PerplexitySettings(segment=settings.segment, seed=settings.seed)
    device = model_tensor(model).device
    warm_up = token_stream(text_set, tokenizer, WARM_UP if device.type == "cpu" else 2 * settings.segment)

    def reader(reading_model: Any) -> Call:
        read_stream(reading_model, warm_up, task)
        following, state = cycle(parts), None

        def read() -> None:
            nonlocal state
            _, state = read_stream(reading_model, next(following), task, state)

        return read

    watch = stopwatch(str(device))
    call = reader(model)
    held = watch.held_bytes()
    watch.reset_peak()
    call()
    timed = Timed(length, peak_memory=watch.peak_bytes() - held + _bytes_of(model))
    backbone = backbone_of(model)
    _by_turns(timed, call, None if backbone is None else reader(backbone), count, watch, progress)
    return timed


def _train(model: Any, text_set: TextSet, settings: CostSettings, tokenizer: Tokenizer, progress: Progress) -> Timed:
    """Steps of the training loop, on a copy of the model."""
    import torch

    from fwpkm_eval.training.text_step import TextStep

    tokens_of_step = settings.rows * settings.row_tokens
    tokens = token_stream(text_set, tokenizer, tokens_of_step + settings.rows - 1).tokens
    device = model_tensor(model).device
    # A short text is gone round again: what is learned from it does not matter here.
    batch = torch.from_numpy(np.resize(tokens, (settings.rows, settings.row_tokens + 1))).to(device)

    def trainer(learner: Any) -> Call:
        step = partial(TextStep(learner.train()), batch)
        step()  # the optimizer takes its memory in the first step
        return step

    watch = stopwatch(str(device))
    with torch.enable_grad():
        trainer(copy.deepcopy(model))  # what a process loads in its first step is no model's memory
        held = watch.held_bytes()
        call = trainer(copy.deepcopy(model))
        watch.reset_peak()
        call()
        timed = Timed(tokens_of_step, peak_memory=watch.peak_bytes() - held)
        backbone = backbone_of(model)
        other = None if backbone is None else trainer(backbone)
        if other is not None:
            other()
        _by_turns(timed, call, other, settings.steps, watch, progress)
    return timed


def _bytes_of(model: Any) -> int:
    return sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))


def backbone_of(model: Any) -> Any | None:
    """The untrained backbone of a model with memory, on its device and in its dtype; None where there is none to build:
    for a model without memory, or one that is not of this package."""
    import torch

    from fwpkm_eval.reference_models.language_model import LanguageModel

    if not isinstance(model, LanguageModel) or not model.config.spec.memories:
        return None
    like = model_tensor(model)
    with torch.random.fork_rng(devices=()):  # a measurement leaves the generators of who asked for it as they are
        backbone = LanguageModel(replace(model.config, name=model.config.spec.backbone))
    return backbone.to(like.device, like.dtype).eval()


def _by_turns(timed: Timed, call: Call, other: Call | None, turns: int, watch: Stopwatch, progress: Progress) -> None:
    """Adds the seconds of so many calls, and of as many of the ``other``, which goes first in every second turn."""
    calls = [(call, timed.seconds)]
    if other is not None:
        calls.append((other, timed.backbone_seconds))
    for _ in range(turns):
        for one, seconds in calls:
            seconds.append(watch.seconds(one))
            progress(timed.tokens)
        calls.reverse()


def cost_rows(model: Any, text_set: TextSet, settings: CostSettings, result: CostResult) -> list[Row]:
    """``parameters``, ``active_parameters``, ``flops_per_token`` (arm ``frozen``: without writes) for segments of
    ``length`` tokens, ``memory_flops_per_token`` (the part of reads and writes), and for protocols ``reading`` and
    ``training`` ``tokens_per_second``, ``samples_per_second``, ``peak_memory`` and, beside the same backbone without
    memory, ``share_of_backbone_speed``.

    Of what was timed the rows hold the median of ``n`` calls or turns and, as interval, 10th and 90th percentile.
    """
    from fwpkm_eval.reference_models.flops import flops_per_token
    from fwpkm_eval.reference_models.parameters import count_parameters
    from fwpkm_eval.runs.rows import Row

    common: dict[str, Any] = {
        **describe_model(model),
        "task": "cost",
        "seed": settings.seed,
        "length": settings.segment,
    }
    total, active = count_parameters(model.config)
    writing = flops_per_token(model.config, settings.segment)
    rows = [
        Row(metric="parameters", value=total, unit="parameters", **common),
        Row(metric="active_parameters", value=active, unit="parameters", **common),
        Row(metric="flops_per_token", value=writing.total, unit="FLOPs", **common),
    ]
    if model.has_fast_weights:
        memory = writing.memory_reads + writing.memory_writes
        frozen = flops_per_token(model.config, settings.segment, writes=False).total
        rows += [
            Row(metric="memory_flops_per_token", value=memory, unit="FLOPs", **common),
            Row(metric="flops_per_token", value=frozen, unit="FLOPs", arm="frozen", **common),
        ]
    on_text = {**common, "dataset": text_set.name, "data_hash": text_set.sha256[:16]}
    for protocol, timed in (("reading", result.reading), ("training", result.training)):
        if timed is None:
            continue
        calls = len(timed.seconds)
        cost: dict[str, Any] = {
            **on_text,
            "protocol": protocol,
            "arm": yarn_arm(model, settings.segment) if protocol == "reading" else "",
            "seconds": sum(timed.seconds),
            "tokens": calls * timed.tokens,
        }
        rates = [timed.tokens / seconds for seconds in timed.seconds]
        samples = [rate / settings.segment for rate in rates]
        rows += [
            Row(metric="tokens_per_second", unit="tokens/s", n=calls, **_spread(rates), **cost),
            Row(metric="samples_per_second", unit="samples/s", n=calls, **_spread(samples), **cost),
            Row(metric="peak_memory", value=timed.peak_memory, unit="bytes", **cost),
        ]
        if timed.backbone_seconds:
            shares = [theirs / ours for ours, theirs in zip(timed.seconds, timed.backbone_seconds, strict=True)]
            rows.append(Row(metric="share_of_backbone_speed", unit="fraction", n=calls, **_spread(shares), **cost))
    return rows


def _spread(values: Sequence[float]) -> dict[str, Any]:
    """Median, and 10th and 90th percentile of more than one."""
    low, middle, high = percentiles(values)
    several = len(values) > 1
    return {"value": middle, "ci_low": low if several else None, "ci_high": high if several else None}
