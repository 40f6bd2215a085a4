"""A trace on the terminal. Colours only repeat what the words say, so that it can be read in a pipe, too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fwpkm_eval.tasks.trace_types import sign, visible

if TYPE_CHECKING:
    from fwpkm_eval.tasks.trace_types import Digit, LayerRead, Pair, SlotRead, Trace

NARROWEST = 110
"""Columns to fill where there is no terminal to say how many it has."""


def show_trace(trace: Trace, slots: int | None = None, console: Console | None = None) -> None:
    """Prints the trace, with at most so many slots for each layer."""
    console = console or Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, NARROWEST)
    right, passes = trace.answered == trace.expected, f"{trace.passes} pass{'es' * (trace.passes != 1)}"
    console.print(
        Text.assemble(
            (f"{trace.model}", "bold"),
            f" ({trace.scale}): the number for ID-{visible(trace.key)} at depth {trace.depth:.0%} of {trace.length:,} "
            f"tokens of {visible(trace.dataset)}, {trace.needles} needles, {passes} written "
            f"{_every(trace.write_chunk)}, {trace.protocol}, sample {trace.sample}",
        )
    )
    console.print(
        Text.assemble(
            f"expected {trace.expected}, answered ", (visible(trace.answered), _colour(right)), _mark(right), "\n"
        )
    )
    for number, digit in enumerate(trace.digits, start=1):
        console.print(_heading(digit, number, len(trace.digits)))
        for layer in digit.layers:
            console.print(_layer_table(layer, slots))


def _every(write_chunk: str) -> str:
    return "once each" if write_chunk == "haystack" else f"every {write_chunk} tokens"


def _colour(right: bool) -> str:
    return "bold green" if right else "bold red"


def _mark(right: bool) -> str:
    return " ✓" if right else " ✗"


def _heading(digit: Digit, number: int, count: int) -> Text:
    right, agreed = digit.answered == digit.expected, digit.consensus == digit.expected
    heading = Text.assemble(
        (f"digit {number} of {count}", "bold underline"),
        f"  expected {sign(digit.expected)}, answered ",
        (sign(digit.answered), _colour(right)),
        _mark(right),
        f" with p({sign(digit.expected)}) = {digit.probability:.3f}; slots vote ",
    )
    if digit.consensus is None:
        return heading.append("for nothing: none was ever written")
    heading.append(sign(digit.consensus), _colour(agreed)).append(_mark(agreed))
    return heading.append(" (" + ", ".join(f"{sign(v.token)} {v.share:.0%}" for v in digit.votes[:3]) + ")")


def _layer_table(layer: LayerRead, slots: int | None) -> Table:
    table = Table(
        title=f"layer {layer.layer}: gate {layer.gate:.2f}, {layer.weighted_hits:.0%} of the weight on HITs",
        title_justify="left",
        title_style="",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    for name in ("slot", "weight"):
        table.add_column(name, justify="right")
    table.add_column("")
    table.add_column("last written")
    table.add_column("strength", justify="right")
    table.add_column(Text("where: …[query token]→[target token]…"), overflow="fold")
    for slot in layer.slots[:slots]:
        strongest = f"{slot.pairs[0].strength:.3f}" if slot.pairs else ""
        table.add_row(str(slot.slot), f"{slot.weight:.3f}", _verdict(slot), _when(slot), strongest, _what(slot))
    return table


def _verdict(slot: SlotRead) -> Text:
    if slot.is_answer and slot.hit:
        return Text("HIT answer", "bold green")
    return Text("HIT", "green") if slot.hit else Text("")


def _when(slot: SlotRead) -> str:
    if slot.write is None:
        return "never"
    return f"pass {slot.reading}, write {slot.write}: {slot.written} pair{'s' * (slot.written != 1)}"


def _what(slot: SlotRead) -> Text:
    return _pair(slot.pairs[0]) if slot.pairs else Text("–")


def _pair(pair: Pair) -> Text:
    between = visible(pair.between)
    return Text.assemble(
        (f"{pair.position:,}: ", "dim"),
        (f"…{visible(pair.before)}", "dim"),
        (f"[{sign(pair.query)}]", "bold"),
        between,
        "→",
        (f"[{sign(pair.target)}]", "bold green" if pair.hit else "bold"),
        (f"{visible(pair.after)}…", "dim"),
    )
