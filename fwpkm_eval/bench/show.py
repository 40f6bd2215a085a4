"""A benchmark's result for the terminal."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from rich import box
from rich.table import Table

from fwpkm_eval.bench.correctness import TOLERANCE
from fwpkm_eval.bench.models import ModelSpeed, speed_of
from fwpkm_eval.bench.ops import REFERENCE
from fwpkm_eval.bench.peers import OURS, LayerSpeed, ratio_to_peer
from fwpkm_eval.bench.peers import PASSES as LAYER_PASSES
from fwpkm_eval.bench.piece_measure import REFERENCE_BACKEND
from fwpkm_eval.bench.pieces import PIECES
from fwpkm_eval.bench.ratios import percentiles, times_as_fast
from fwpkm_eval.bench.rows import memory_share, speedup
from fwpkm_eval.bench.run import BenchResult, Case, scaling_case
from fwpkm_eval.bench.training import TrainingTimes, ratio_of, training_ratios

ENOUGH_PROCESSOR = 0.8
PASS_NAMES = {"forward": "forward", "forward_backward": "forward + backward", "training": "training"}


def tables(result: BenchResult) -> Iterator[Table | str]:
    """What was measured, in tables and lines of text."""
    yield _agreement(result)
    for allocator, title in (
        ("default", "malloc as the system has it"),
        ("tuned", "malloc told to keep freed memory, as this program's commands run"),
    ):
        yield _speed(result, allocator, title)
    yield (
        "Seconds: median (10th to 90th percentile). Memory: peak of the process, without interpreter and libraries;"
        " above inputs without the tensors given.\nforward + backward: gradients of query, target, gate, first keys"
        " and values. training: of query, target and gate.\nin place: the memory given is overwritten, as models run"
        " it; the others copy it."
    )
    if result.pieces:
        yield _pieces(result)
    if result.scaling:
        yield _scaling(result)
    yield _conditions(result)


def _agreement(result: BenchResult) -> str:
    found = [f"{arm} {result.agreement.worst(arm):.1e}" for arm in result.agreement.errors]
    limits = ", ".join(f"{limit:.0e} for a {kind}" for kind, limit in TOLERANCE.items())
    return (
        f"{result.size}, float32, IDW scores, entropy addressing\n"
        f"Largest relative error against the reference: {', '.join(found)} (tolerance {limits})"
    )


def _speed(result: BenchResult, allocator: str, title: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("")
    for name in ("calls", "seconds", "tokens/s", "speed", "peak", "above inputs", "of reference's"):
        table.add_column(name, justify="right", no_wrap=True)
    for what, pass_name in PASS_NAMES.items():
        for case, measured in result.measured.items():
            if (case.what, case.allocator) != (what, allocator):
                continue
            low, middle, high = percentiles(measured.seconds)
            alone = case.arm == REFERENCE or case.reference() not in result.measured
            ratios = ("", "") if alone else _ratios(result, case)
            table.add_row(
                f"{pass_name}, {case.arm.name}",
                str(len(measured.seconds)),
                f"{middle:.4f} ({low:.4f} to {high:.4f})",
                f"{result.size.tokens * result.size.batch / middle:,.0f}",
                ratios[0],
                f"{measured.peak_bytes / 2**20:,.0f} MiB",
                f"{measured.above_inputs_bytes / 2**20:,.0f} MiB",
                ratios[1],
            )
        table.add_section()
    return table


def _ratios(result: BenchResult, case: Case) -> tuple[str, str]:
    share = memory_share(result, case)
    return f"{speedup(result, case)[1]:.1f}×", f"1/{1 / share:.1f}" if share else ""


def _pieces(result: BenchResult) -> Table:
    limit = f"; a large copy moves {result.bandwidth / 1e9:.1f} GB/s" if result.bandwidth else ""
    title = f"single operations on a chunk of {result.size.chunk}, tuned malloc{limit}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("")
    for name in ("calls", "milliseconds", "speed", "share of the bandwidth", "above inputs"):
        table.add_column(name, justify="right", no_wrap=True)
    for (piece, what, backend), measured in result.pieces.items():
        low, middle, high = (1000 * seconds for seconds in percentiles(measured.seconds))
        reference = result.pieces.get((piece, what, REFERENCE_BACKEND))
        ratio = ""
        if reference is not None and backend != REFERENCE_BACKEND:
            ratio = f"{times_as_fast(measured.seconds, reference.seconds)[1]:.1f}×"
        share = ""
        if result.bandwidth and what == "forward":
            share = f"{1000 * measured.bytes_moved / middle / result.bandwidth:.0%}"
        table.add_row(
            f"{PIECES[piece].title}, {PASS_NAMES[what]}, {backend}",
            str(len(measured.seconds)),
            f"{middle:.3f} ({low:.3f} to {high:.3f})",
            ratio,
            share,
            f"{measured.above_inputs_bytes / 2**20:,.0f} MiB",
        )
    return table


def _scaling(result: BenchResult) -> Table:
    case = scaling_case(result.size.device)
    title = f"{case.arm.name}, {case.what}, {case.allocator} malloc"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for name in ("S", "slots", "tokens", "microseconds a token"):
        table.add_column(name, justify="right")
    for size, measured in result.scaling:
        _, middle, _ = percentiles(measured.seconds)
        each = middle / (size.tokens * size.batch) * 1e6
        table.add_row(str(size.subkeys), f"{size.subkeys**2:,}", f"{size.tokens:,}", f"{each:.1f}")
    return table


def _conditions(result: BenchResult) -> str:
    before, after = result.load
    parts = [f"{result.threads} thread{'s' if result.threads > 1 else ''} of {os.cpu_count()} cores"]
    if before is not None and after is not None:
        parts.append(f"load average {before:.1f} before and {after:.1f} after")
    parts.append(f"{result.seconds:.0f} s in all")
    line = ", ".join(parts)
    lowest = min(measured.cpu_share for measured in result.measured.values())
    if lowest < ENOUGH_PROCESSOR:
        line += (
            f"\nOther programs held the processor: a measurement got {lowest:.0%} of a core. Do not trust these times"
            " and ratios; run again on a quiet machine, or at least with --threads 1."
        )
    return line


def model_table(found: Sequence[ModelSpeed], backbone: str) -> Table:
    """Whole models beside the first of them, the backbone; without shares of its speed if that was not measured."""
    case, alone = found[0].case, speed_of(backbone, found)
    title = f"models at scale {case.scale}, {case.batch} x {case.length:,} tokens, {found[0].device_name}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("")
    names = ("training, samples/s", "of the first's", "reading, tokens/s", "of the first's", "training holds")
    for name in (*names, "million parameters"):
        table.add_column(name, justify="right", no_wrap=True)
    for speed in found:
        cells = []
        for what, tokens in (("training", 1), ("reading", case.length)):
            rate = case.batch * tokens / percentiles(speed.seconds[what])[1]
            share = ""
            if alone is not None and speed is not alone:
                share = f"{times_as_fast(speed.seconds[what], alone.seconds[what])[1]:.0%}"
            cells += [f"{rate:,.2f}" if tokens == 1 else f"{rate:,.0f}", share]
        held = f"{speed.peak_bytes['training'] / 2**20:,.0f} MiB"
        table.add_row(speed.case.name, *cells, held, f"{speed.parameters / 1e6:,.1f}")
    return table


def training_table(found: Sequence[TrainingTimes]) -> Table:
    """Training in the sparse closed form beside dense autograd."""
    first, apart = found[0], max(times.loss_difference for times in found)
    title = (
        f"training {first.case.name} at scale {first.case.scale}, {len(first.sparse)} steps of {first.tokens:,} tokens"
    )
    title += f", {first.device_name} (losses agree to {apart:.0e})"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    names = ("malloc, sparse closed form", "tokens/s", "malloc, dense autograd", "tokens/s", "times as fast")
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for ours, theirs, sparse, dense in training_ratios(found):
        low, ratio, high = ratio_of(sparse, dense)
        rates = [f"{first.tokens * len(seconds) / sum(seconds):,.0f}" for seconds in (sparse, dense)]
        table.add_row(ours, rates[0], theirs, rates[1], f"{ratio:.1f}× ({low:.1f} to {high:.1f})")
    return table


def peer_table(found: Sequence[LayerSpeed]) -> Table:
    """Our layer beside the peer's."""
    size = found[0].size
    title = f"whole layers, {size}, malloc as the system has it (the peer's algorithm differs in details)"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("")
    for name in ("calls", "seconds", "times as fast", "above inputs"):
        table.add_column(name, justify="right", no_wrap=True)
    for what in LAYER_PASSES:
        for speed in (speed for speed in found if what in speed.measured):
            measured = speed.measured[what]
            low, middle, high = percentiles(measured.seconds)
            ratio = ratio_to_peer(found, what)
            table.add_row(
                f"{PASS_NAMES[what]}, {speed.layer} {speed.version}",
                str(len(measured.seconds)),
                f"{middle:.4f} ({low:.4f} to {high:.4f})",
                "" if speed.layer != OURS or ratio is None else f"{ratio[1]:.1f}×",
                f"{measured.above_inputs_bytes / 2**20:,.0f} MiB",
            )
    return table
