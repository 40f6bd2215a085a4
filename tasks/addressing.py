"""Addressing: how evenly a memory's slots are used, per write and over a whole set.

With N_i the number of times slot i of N was read by the tokens of a write (over all heads):

    collision rate   Σ_{N_i>1} N_i / Σ N_i      share of reads of slots that were read more than once
    coverage         Σ_{N_i>0} 1 / N            share of slots that were read at all
    KL to uniform    Σ p_i·log(p_i·N), p = N_i/ΣN   in nats: 0 if all slots are read alike, log N if only one is

A write of n reads cannot come below KL log(N/n): compare it between writes of one size. The text is read as for
perplexity, scope ``stream``. Sources: arXiv 2601.00671 (addressing loss), arXiv 1907.05242 (usage and KL).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fwpkm_eval.tasks.describe import describe_model, yarn_arm
from fwpkm_eval.tasks.perplexity import PerplexitySettings, evaluate_perplexity

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from fwpkm_eval.data import TextSet
    from fwpkm_eval.data.tokenizers import Tokenizer
    from fwpkm_eval.kernels.observe import Write
    from fwpkm_eval.runs.rows import Row

ADDRESSING_VERSION = 2
"""Part of every cell's key: raise it whenever a change here can change a number."""


@dataclass(frozen=True)
class SlotUse:
    """How evenly slots were used; see the module's formulas. ``reads`` is Σ N_i."""

    collision_rate: float
    coverage: float
    kl_to_uniform: float
    reads: int


def slot_use(counts: npt.NDArray[np.integer], slots: int) -> SlotUse:
    """From how often slots were read: ``counts`` [·] of those that were read at least once, or of all ``slots``.

    Raises ValueError if there was no read.
    """
    used = counts[counts > 0].astype(np.float64)
    reads = used.sum()
    if reads == 0:
        raise ValueError("the use of slots that were never read")
    share = used / reads
    return SlotUse(
        collision_rate=float(used[used > 1].sum() / reads),
        coverage=len(used) / slots,
        kl_to_uniform=float((share * np.log(share * slots)).sum()),
        reads=int(reads),
    )


@dataclass
class SlotCounts:
    """Observes a memory: the use of its slots by each write, and ``counts`` [S²] over all of them."""

    counts: npt.NDArray[np.int64]
    writes: list[SlotUse] = field(default_factory=list)

    def read(self, slots: torch.Tensor, weights: torch.Tensor) -> None:
        """Reads are counted when they are written."""

    def gated(self, gate: torch.Tensor, place: int) -> None:
        """Gates are another task's."""

    def wrote(self, write: Write) -> None:
        slots, counts = np.unique(write.slots.cpu().numpy(), return_counts=True)
        self.writes.append(slot_use(counts, len(self.counts)))
        self.counts[slots] += counts

    def copy(self) -> SlotCounts:
        return SlotCounts(self.counts.copy(), list(self.writes))


@dataclass(frozen=True)
class AddressingResult:
    """By layer; and what the reading cost."""

    layers: dict[int, SlotCounts]
    seconds: float
    tokens: int


def evaluate_addressing(
    model: Any,
    text_set: TextSet,
    settings: PerplexitySettings,
    tokenizer: Tokenizer,
    progress: Callable[[int], None] | None = None,
) -> AddressingResult:
    """Reads the set once and counts the slots that each write of a FwPKM layer reads."""
    layers: dict[int, SlotCounts] = {}

    def watch(state: Any) -> None:
        for number in model.config.spec.layers("fwpkm"):
            memory = state.memories[number].memory
            # One count a layer, also where the memory starts anew in between.
            memory.observer = layers.setdefault(number, SlotCounts(np.zeros(len(memory.values), dtype=np.int64)))

    result = evaluate_perplexity(model, text_set, settings, tokenizer, progress, watch)
    return AddressingResult(layers, result.seconds, result.tokens)


def addressing_rows(model: Any, text_set: TextSet, settings: PerplexitySettings, result: AddressingResult) -> list[Row]:
    """For each layer L: ``collision_rate@L``, ``coverage@L`` and ``kl_to_uniform@L`` over all writes.

    Beside them the same for single chunks, each one write: ``chunk_collision_rate@L`` and so on, their mean with
    its 95% interval.
    """
    from fwpkm_eval.runs.intervals import mean_interval
    from fwpkm_eval.runs.rows import Row

    common: dict[str, Any] = {
        **describe_model(model),
        "task": "addressing",
        "dataset": text_set.name,
        "write_chunk": str(settings.write_chunk or model.config.chunk_size),
        "scope": settings.scope,
        "arm": yarn_arm(model, settings.segment),
        "seed": settings.seed,
        "seconds": result.seconds,
        "tokens": result.tokens,
        "data_hash": text_set.sha256[:16],
    }
    units = {"collision_rate": "fraction", "coverage": "fraction", "kl_to_uniform": "nats"}
    rows = []
    for number, layer in result.layers.items():
        if not layer.writes:
            continue
        whole = slot_use(layer.counts, len(layer.counts))
        for metric, unit in units.items():
            value = getattr(whole, metric)
            rows.append(Row(metric=f"{metric}@{number}", value=value, unit=unit, n=whole.reads, **common))
            mean, low, high = mean_interval([getattr(write, metric) for write in layer.writes])
            rows.append(
                Row(
                    metric=f"chunk_{metric}@{number}",
                    value=mean,
                    unit=unit,
                    n=len(layer.writes),
                    ci_low=low,
                    ci_high=high,
                    **common,
                )
            )
    return rows
