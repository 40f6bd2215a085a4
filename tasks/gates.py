"""Gates: how much the memory layers listen to what they read, g of o = g·v̂ + (1 − g)·v, while text is read.

A layer's gate near 0 means that its memory is not used (published: gates go to 0 under full attention). The text is
read as for perplexity, scope ``stream``, with writes, and every token's gate is counted once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fwpkm_eval.reference_models.notation import FAST_WEIGHTS
from fwpkm_eval.tasks.describe import describe_model, yarn_arm
from fwpkm_eval.tasks.perplexity import PerplexitySettings, evaluate_perplexity

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from fwpkm_eval.data import TextSet
    from fwpkm_eval.data.tokenizers import Tokenizer
    from fwpkm_eval.runs.rows import Row

GATES_VERSION = 1
"""Part of every cell's key: raise it whenever a change here can change a number."""

BINS = 20
CLOSED, OPEN = 0.1, 0.9
"""Gates below the first and above the second are counted apart."""


@dataclass
class LayerGates:
    """The gates of one layer: ``counts`` [BINS] of the bins of [0, 1], their sum, and how many are closed or open."""

    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, dtype=np.int64))
    total: float = 0.0
    closed: int = 0
    opened: int = 0

    @property
    def tokens(self) -> int:
        return int(self.counts.sum())

    def add(self, gates: npt.NDArray[np.floating]) -> None:
        """Counts gates of any shape, each in [0, 1]; one that is not a number is in no bin."""
        self.counts += np.histogram(gates, bins=BINS, range=(0.0, 1.0))[0]
        self.total += float(np.nansum(gates, dtype=np.float64))
        self.closed += int((gates < CLOSED).sum())
        self.opened += int((gates > OPEN).sum())


@dataclass(frozen=True)
class GatesResult:
    """By layer; and what the reading cost."""

    layers: dict[int, LayerGates]
    seconds: float
    tokens: int


def evaluate_gates(
    model: Any,
    text_set: TextSet,
    settings: PerplexitySettings,
    tokenizer: Tokenizer,
    progress: Callable[[int], None] | None = None,
) -> GatesResult:
    """Reads the set once and counts the gates of every memory layer that has one."""
    with watched_gates(model) as layers:
        result = evaluate_perplexity(model, text_set, settings, tokenizer, progress)
    return GatesResult(layers, result.seconds, result.tokens)


@contextmanager
def watched_gates(model: Any) -> Iterator[dict[int, LayerGates]]:
    """Counts, by layer, the gates of all tokens that the model reads meanwhile; layers without one are left out."""
    import torch

    found: dict[int, LayerGates] = {}
    hooks = []

    def watch(module: torch.nn.Module, number: int) -> torch.utils.hooks.RemovableHandle:
        layer = found.setdefault(number, LayerGates())

        def count(_: torch.nn.Module, __: Any, output: torch.Tensor) -> None:
            layer.add(torch.sigmoid(output.squeeze(-1).float()).cpu().numpy())

        return module.register_forward_hook(count)

    for number in gated_layers(model):
        hooks.append(watch(model.blocks[number].memory.g_proj, number))
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def gated_layers(model: Any) -> list[int]:
    """The layers whose output a gate mixes (FwPKM unless it is ablated, FwMLP and LaCT), in rising order."""
    config = model.config
    kinds = [kind for kind in FAST_WEIGHTS if kind != "fwpkm" or config.fwpkm.gate]
    return sorted(layer for kind in kinds for layer in config.spec.layers(kind))


def gate_rows(model: Any, text_set: TextSet, settings: PerplexitySettings, result: GatesResult) -> list[Row]:
    """For each layer L: ``gate_mean@L``, ``gate_below_0.1@L``, ``gate_above_0.9@L`` and the histogram.

    The histogram's rows are ``gate_share@L``: the share of tokens in a bin, whose midpoint stands under ``depth``.
    """
    from fwpkm_eval.runs.rows import Row

    common: dict[str, Any] = {
        **describe_model(model),
        "task": "gates",
        "dataset": text_set.name,
        "write_chunk": str(settings.write_chunk or model.config.chunk_size),
        "scope": settings.scope,
        "arm": yarn_arm(model, settings.segment),
        "seed": settings.seed,
        "seconds": result.seconds,
        "tokens": result.tokens,
        "data_hash": text_set.sha256[:16],
        "unit": "fraction",
    }
    rows = []
    for number, gates in result.layers.items():
        of_layer = {**common, "n": gates.tokens}
        if not gates.tokens:
            continue
        rows += [
            Row(metric=f"gate_mean@{number}", value=gates.total / gates.tokens, **of_layer),
            Row(metric=f"gate_below_{CLOSED}@{number}", value=gates.closed / gates.tokens, **of_layer),
            Row(metric=f"gate_above_{OPEN}@{number}", value=gates.opened / gates.tokens, **of_layer),
        ]
        for bin_number, count in enumerate(gates.counts.tolist()):
            middle = round((bin_number + 0.5) / BINS, 4)
            rows.append(Row(metric=f"gate_share@{number}", value=count / gates.tokens, depth=middle, **of_layer))
    return rows
