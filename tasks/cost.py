"""Cost: parameters, FLOPs per token by formula, and what reading and training take here: tokens and samples per second,
peak memory.

A sample is a segment of text, 4096 tokens as published (where samples per second are those of training). Reading is
that of perplexity, with writes and with every token scored; training is one step of the training loop, forward through
the writes, backward and the optimizer's, on rows of one length, with activations as the scale's recipe has them. Speeds
depend on the machine and on what else it does.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fwpkm_eval.data.stream import token_stream
from fwpkm_eval.errors import UserError
from fwpkm_eval.tasks.describe import describe_model, model_tensor
from fwpkm_eval.tasks.perplexity import PerplexitySettings, read_stream

if TYPE_CHECKING:
    import torch

    from fwpkm_eval.data import TextSet
    from fwpkm_eval.data.tokenizers import Tokenizer
    from fwpkm_eval.runs.rows import Row

COST_VERSION = 3
"""Part of every cell's key: raise it whenever a change here can change a number."""

WARM_UP = 512
"""Tokens read before the clock starts; on a GPU two segments are, as Triton compiles for the sizes of later ones."""


@dataclass(frozen=True)
class CostSettings:
    """What is timed: reading ``tokens`` tokens in segments of ``segment``, and ``steps`` training steps (after one that
    is not timed) on ``rows`` rows of ``row_tokens`` tokens each; 0 steps: training is not measured."""

    tokens: int = 16384
    segment: int = 4096
    steps: int = 3
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
    """``tokens`` in ``seconds``, and the most memory in bytes that was held meanwhile, weights included."""

    tokens: int = 0
    seconds: float = 0.0
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
    progress: Callable[[int], None] | None = None,
) -> CostResult:
    """Times reading and training; the model stays as it is."""
    stream = token_stream(text_set, tokenizer, settings.tokens)
    reading = PerplexitySettings(segment=settings.segment, seed=settings.seed)
    device = model_tensor(model).device
    warm_up = WARM_UP if device.type == "cpu" else 2 * settings.segment
    read_stream(model, token_stream(text_set, tokenizer, warm_up), reading)
    with _timing(device) as timed:
        result, _ = read_stream(model, stream, reading, progress=progress)
        timed.tokens = result.tokens
    if not settings.steps:
        return CostResult(timed)
    return CostResult(timed, _train(model, text_set, settings, tokenizer, progress))


def _train(
    model: Any,
    text_set: TextSet,
    settings: CostSettings,
    tokenizer: Tokenizer,
    progress: Callable[[int], None] | None,
) -> Timed:
    """Steps of the training loop, on a copy of the model."""
    import torch

    from fwpkm_eval.training.text_step import TextStep

    count = settings.rows * (settings.row_tokens + 1)
    tokens = token_stream(text_set, tokenizer, count - 1).tokens
    device = model_tensor(model).device
    # A short text is gone round again: what is learned from it does not matter here.
    batch = torch.from_numpy(np.resize(tokens, (settings.rows, settings.row_tokens + 1))).to(device)
    learner = copy.deepcopy(model).train()
    step = TextStep(learner)
    with torch.enable_grad():
        step(batch)
        with _timing(device) as timed:
            for _ in range(settings.steps):
                step(batch)
                timed.tokens += settings.rows * settings.row_tokens
                if progress is not None:
                    progress(settings.rows * settings.row_tokens)
    # The model that was copied stood beside its copy all the time, and is no part of what training takes.
    timed.peak_memory -= sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    return timed


@contextmanager
def _timing(device: torch.device) -> Iterator[Timed]:
    """Seconds and peak memory of what is done meanwhile, work that a GPU has only queued included."""
    import torch

    from fwpkm_eval.bench.memory import peak_bytes, reset_peak
    from fwpkm_eval.malloc import release_freed_memory

    timed = Timed()
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    else:
        release_freed_memory()  # or what this process needed before would count as held
        reset_peak()
    started = time.perf_counter()
    yield timed
    if on_gpu:
        torch.cuda.synchronize(device)
    timed.seconds = time.perf_counter() - started
    timed.peak_memory = torch.cuda.max_memory_allocated(device) if on_gpu else peak_bytes()


def cost_rows(model: Any, text_set: TextSet, settings: CostSettings, result: CostResult) -> list[Row]:
    """``parameters``, ``active_parameters``, ``flops_per_token`` (arm ``frozen``: without writes) for segments of
    ``length`` tokens, ``memory_flops_per_token`` (the part of reads and writes), and for protocols ``reading`` and
    ``training`` ``tokens_per_second``, ``samples_per_second`` and ``peak_memory``."""
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
        cost: dict[str, Any] = {**on_text, "protocol": protocol, "seconds": timed.seconds, "tokens": timed.tokens}
        speed = timed.tokens / timed.seconds
        rows += [
            Row(metric="tokens_per_second", value=speed, unit="tokens/s", n=timed.tokens, **cost),
            Row(metric="samples_per_second", value=speed / settings.segment, unit="samples/s", n=timed.tokens, **cost),
            Row(metric="peak_memory", value=timed.peak_memory, unit="bytes", **cost),
        ]
    return rows
