"""Perplexity of a text set: every token scored once, fast weights carried as far as the scope says.

The documents d₁, d₂, … of a set are laid end to end, each after an end token, and read in order:

    read    EOS d₁ EOS d₂ … EOS dₙ
    scored  d₁ EOS d₂ EOS … dₙ EOS

so every text token and every end token is scored once, the first token of a document from the end token
before it. The stream is cut into segments (4096 tokens as published). Attention and recurrent state are
fresh in each segment; what was queued in it is written at its end. The fast weights return to their start

    scope ``stream``     never,
    scope ``document``   where a document starts (segments then end with their document),
    scope ``segment``    where a segment starts.

A *frozen* run never writes: the distance to the same run with writes is what the updates are worth. Each is also
scored beside a match model, which copies from what was read since the memory began: what is left of that distance is
worth more than copying.

Source of the protocol: arXiv 2601.00671, section 4 (8 M tokens per set, 4096-token segments, batch 1,
memory never reset).
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from fwpkm_eval.data.stream import segments, token_stream
from fwpkm_eval.errors import UserError, unknown
from fwpkm_eval.kernels.precision import at_least_float32
from fwpkm_eval.tasks.describe import describe_model, fresh_state, measuring, model_tensor, yarn_arm
from fwpkm_eval.tasks.divergence import DivergenceWatch
from fwpkm_eval.tasks.match_model import mixed_nats

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from fwpkm_eval.data import TextSet
    from fwpkm_eval.data.stream import Segment, TokenStream
    from fwpkm_eval.data.tokenizers import IntArray, Tokenizer
    from fwpkm_eval.runs.rows import Row

PERPLEXITY_VERSION = 2
"""Part of every cell's key: raise it whenever a change here can change a number."""

SCOPES = ("stream", "document", "segment")
FIRST_BUCKET = 128
"""Positions below this share the first bucket of the position curve; each later bucket doubles."""


@dataclass(frozen=True)
class PerplexitySettings:
    """How a set is read. Sizes are in tokens.

    ``tokens`` is the budget: the first that many tokens of the set are scored (None = all of them).
    ``write_chunk`` None writes every chunk of the model's own size. ``block`` is how many tokens one call
    of the model sees, which bounds the memory for logits and cannot change a number (beyond rounding).
    """

    tokens: int | None = None
    segment: int = 4096
    scope: str = "stream"
    frozen: bool = False
    write_chunk: int | None = None
    block: int = 1024
    seed: int = 0

    def __post_init__(self) -> None:
        if self.scope not in SCOPES:
            raise unknown("scope", self.scope, SCOPES)
        for name in ("tokens", "segment", "write_chunk", "block"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name.replace('_', ' ')} must be at least 1 token, not {value}")


@dataclass(frozen=True)
class PositionBucket:
    """Bits per byte of the text tokens at positions ``start`` ≤ p < ``end`` of their documents."""

    start: int
    end: int
    tokens: int
    bits_per_byte: float


@dataclass(frozen=True)
class PerplexityResult:
    """What one reading of a set gave; the arrays have one entry for each scored token, in reading order.

    ``nats`` [n] float32 is −log p; ``targets`` [n] the tokens; ``byte_counts`` [n] the bytes of text that the token
    stands for (0: an end token); ``positions`` [n] its place in its document (0: the first); ``fresh_at`` the places
    where the memory began anew; ``divergence`` looked at the fast weights after each segment.
    """

    nats: npt.NDArray[np.float32]
    targets: IntArray
    byte_counts: npt.NDArray[np.int32]
    positions: npt.NDArray[np.int64]
    fresh_at: tuple[int, ...]
    seconds: float
    divergence: DivergenceWatch = field(default_factory=DivergenceWatch)

    @property
    def tokens(self) -> int:
        return len(self.nats)

    @property
    def diverged(self) -> float:
        """Share of tokens whose loss is not a finite number; above 0, every average below is nan or inf."""
        return float(np.mean(~np.isfinite(self.nats)))

    @property
    def nats_per_token(self) -> float:
        return float(self.nats.mean(dtype=np.float64))

    @property
    def perplexity(self) -> float:
        nats = self.nats_per_token
        return math.exp(nats) if nats < 700 else (math.nan if math.isnan(nats) else math.inf)

    @property
    def bits_per_byte(self) -> float:
        """Bits of the text tokens over the text's bytes; end tokens stand for no text and are in neither."""
        return self._bits_per_byte(self.byte_counts > 0)

    @property
    def bits_per_byte_with_match_model(self) -> float:
        """The same of the model's mixture with what followed the longest context read before: see `match_model`."""
        mixed = mixed_nats(self.nats, self.targets, self.fresh_at, self.byte_counts)
        return self._bits_per_byte(self.byte_counts > 0, mixed)

    def position_curve(self) -> list[PositionBucket]:
        """Bits per byte by position in the document, in buckets [0,128), [128,256), [256,512), …"""
        buckets = []
        start, end = 0, FIRST_BUCKET
        is_text = self.byte_counts > 0
        last = int(self.positions[is_text].max(initial=-1))
        while start <= last:
            inside = is_text & (self.positions >= start) & (self.positions < end)
            buckets.append(PositionBucket(start, end, int(inside.sum()), self._bits_per_byte(inside)))
            start, end = end, end * 2
        return buckets

    def _bits_per_byte(self, chosen: npt.NDArray[np.bool_], losses: npt.NDArray[np.floating] | None = None) -> float:
        byte_count = int(self.byte_counts[chosen].sum(dtype=np.int64))
        nats = float((self.nats if losses is None else losses)[chosen].sum(dtype=np.float64))
        return nats / math.log(2) / byte_count if byte_count else math.nan


def evaluate_perplexity(
    model: Any,
    text_set: TextSet,
    settings: PerplexitySettings,
    tokenizer: Tokenizer,
    progress: Callable[[int], None] | None = None,
    watch: Callable[[Any], None] | None = None,
) -> PerplexityResult:
    """Reads the set once and scores each of its tokens once.

    ``progress`` is called with the number of tokens read since its last call, ``watch`` with each state in which
    the memory starts anew, before anything is read. A loss that is not finite is
    kept as it is (see `PerplexityResult.diverged`): a memory that diverges is a result, not an error.
    Raises UserError for an empty set.
    """
    stream = token_stream(text_set, tokenizer, settings.tokens)
    result, _ = read_stream(model, stream, settings, progress=progress, watch=watch)
    return result


def read_stream(
    model: Any,
    stream: TokenStream,
    settings: PerplexitySettings,
    state: Any = None,
    *,
    progress: Callable[[int], None] | None = None,
    watch: Callable[[Any], None] | None = None,
) -> tuple[PerplexityResult, Any]:
    """Reads a stream of tokens as `evaluate_perplexity` reads a set; returns the state after it, too.

    ``state``: whose fast weights to start from (None: as they are before anything was read); it must not be used
    afterwards. The budget of the settings is the caller's to keep.
    """
    import torch

    nats = np.empty(stream.n_targets, dtype=np.float32)
    device = model_tensor(model).device
    writes = model.has_fast_weights and not settings.frozen
    divergence, begun = DivergenceWatch(), [0]
    started = time.perf_counter()
    with measuring(model):
        for segment in segments(stream, settings.segment, within_documents=settings.scope == "document"):
            if state is None or (segment.start and _memory_starts_anew(settings.scope, segment)):
                state = fresh_state(model, settings.segment)
                begun += [segment.start] if segment.start else []
                if watch is not None:
                    watch(state)
            else:
                state = state.fresh_sequence()
            inputs, targets = (torch.from_numpy(tokens).to(device) for tokens in segment)
            for block in range(0, len(segment), settings.block):
                part = slice(block, min(block + settings.block, len(segment)))
                logits, state = model(
                    inputs[None, part],
                    state,
                    updates="stream" if writes else "off",
                    write_chunk=settings.write_chunk,
                    logits="all",
                    inplace=True,
                )
                losses = torch.nn.functional.cross_entropy(at_least_float32(logits[0]), targets[part], reduction="none")
                nats[segment.start + part.start : segment.start + part.stop] = losses.cpu().numpy()
                if progress is not None:
                    progress(part.stop - part.start)
            if writes:
                state = model.flush(state, inplace=True)
                divergence.look(state, segment.start + len(segment) - begun[-1])
    result = PerplexityResult(
        nats=nats,
        targets=stream.tokens[1:],
        byte_counts=stream.byte_counts[1:],
        positions=stream.document_positions(),
        fresh_at=tuple(begun),
        seconds=time.perf_counter() - started,
        divergence=divergence,
    )
    return result, state


def _memory_starts_anew(scope: str, segment: Segment) -> bool:
    return scope == "segment" or (scope == "document" and segment.starts_document)


def perplexity_rows(model: Any, text_set: TextSet, settings: PerplexitySettings, result: PerplexityResult) -> list[Row]:
    """The result as rows: perplexity, nats per token, bits per byte, these by position, and with a match model.

    ``documents_read`` counts the documents that were begun, the last one perhaps in part, of the set's n.
    A run with losses that are not finite keeps its nan or inf and gets one more row, metric ``diverged``,
    with the share of such tokens. Where a memory's fast weights broke, ``diverged_after@LAYER`` says after how many
    tokens.
    """
    from fwpkm_eval.runs.rows import Row

    writes = model.has_fast_weights and not settings.frozen
    write_chunk = (settings.write_chunk or model.config.chunk_size) if writes else None
    common: dict[str, Any] = {
        **describe_model(model),
        "task": "ppl",
        "dataset": text_set.name,
        "write_chunk": str(write_chunk or ""),
        "scope": settings.scope,
        "arm": yarn_arm(model, settings.segment, "frozen" if settings.frozen else ""),
        "seed": settings.seed,
        "seconds": result.seconds,
        "tokens": result.tokens,
        "data_hash": text_set.sha256[:16],
    }
    text_tokens = int((result.byte_counts > 0).sum())
    begun, there = int((result.positions == 0).sum()), len(text_set.documents)
    mixed = result.bits_per_byte_with_match_model
    rows = [
        Row(metric="perplexity", value=result.perplexity, unit="ratio", n=result.tokens, **common),
        Row(metric="nats_per_token", value=result.nats_per_token, unit="nats", n=result.tokens, **common),
        Row(metric="bits_per_byte", value=result.bits_per_byte, unit="bits", n=text_tokens, **common),
        Row(metric="bits_per_byte_with_match_model", value=mixed, unit="bits", n=text_tokens, **common),
        Row(metric="documents_read", value=float(begun), unit="documents", n=there, **common),
    ]
    if result.diverged:
        rows.append(Row(metric="diverged", value=result.diverged, unit="fraction", n=result.tokens, **common))
    rows += result.divergence.rows(common)
    for bucket in result.position_curve():
        if bucket.tokens:
            rows.append(
                Row(
                    metric="bits_per_byte_at_position",
                    value=bucket.bits_per_byte,
                    unit="bits",
                    n=bucket.tokens,
                    length=bucket.end,
                    **common,
                )
            )
    return rows
