"""Memory states in words and numbers, for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from fwpkm_eval.commands.text_table import aligned

if TYPE_CHECKING:
    from fwpkm_eval.reference_models.state_diff import LayerDiff
    from fwpkm_eval.reference_models.stored_state import StoredState


def print_layers(layers: Sequence[LayerDiff], writes: dict[int, int], change: str) -> None:
    lines = []
    for layer in layers:
        if layer.weights is None:
            where = (f"{layer.slots_changed:,} of {layer.slots:,}", f"{layer.subkeys_changed:,} of {layer.subkeys:,}")
            norms = (f"{layer.values_change:.4g}", f"{layer.keys_change:.4g}")
        else:
            total = sum(size**2 for size in layer.weights.values()) ** 0.5
            where, norms = ("all" if total else "none", "–"), (f"{total:.4g}", "–")
        written = (f"{writes[layer.layer]:,}",) if writes else ()
        lines.append((layer.layer, layer.memory, *written, where[0], norms[0], where[1], norms[1]))
    wrote = ("writes",) if writes else ()
    header = ("layer", "memory", *wrote, f"slots {change}", "by (norm)", "sub-keys", "by (norm) ")
    if lines:
        click.echo(aligned(header, lines, right=("layer", *header[2:])))
    else:
        click.echo("this model has no fast weights")


def norm_of(stored: StoredState, layer: int) -> float:
    """The Frobenius norm of a layer's values (FwMLP, LaCT: of all its weights)."""
    from fwpkm_eval.kernels.stream import ProductKeyMemory

    memory = stored.state.memories[layer].memory
    if isinstance(memory, ProductKeyMemory):
        return float(memory.values.double().norm())
    return float(sum(weight.double().square().sum() for weight in memory.weights.values())) ** 0.5


def size_of(count: int) -> str:
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.1f} KiB"


def log_size_of(stored: StoredState) -> str:
    return f", of which {size_of(stored.log_bytes)} are the write log" if stored.has_log else ", without a write log"
