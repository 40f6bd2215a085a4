"""What the captions of all needle plots say alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fwpkm_eval.reporting import wording
from fwpkm_eval.reporting.measurements import Context, Measurement, NiahResults, Setting

INTERVALS = "Upright bars: 95% Wilson intervals."
BESIDE = "Points of one place on the axis stand side by side; heights are as measured."


def of_file(results: NiahResults, context: Context) -> str:
    """What tells the context apart in the name of a file."""
    return wording.context_slug(context, list(results.overall))


def meaning(context: Context) -> str:
    """What the protocol is, in a sentence."""
    words = wording.PROTOCOL_MEANINGS.get(context.protocol)
    name = wording.sentence(wording.PROTOCOL_NAMES.get(context.protocol, context.protocol))
    return f"{name}: {words}." if words else f"{name}."


def needles(results: NiahResults, context: Context, models: Mapping[str, Mapping[Setting, Measurement]]) -> str:
    """How many needles were hidden, and what counts as found."""
    number = min(setting.needles for found in models.values() for setting in found)
    right = wording.digits_right(results.digits(context))
    return f"{number} needles, one asked for, {right}." if number > 1 else f"{wording.sentence(right)}."


def samples(models: Mapping[str, Mapping[Setting, Measurement]]) -> str:
    """How many samples a point stands for; empty if that is not known."""
    measured = [m for found in models.values() for m in found.values()]
    counts = {m.samples for m in measured if m.samples is not None}
    shared = max((m.trainings for m in measured if m.distinct), default=0)
    each = f", each asked of {shared} trainings" if shared else ""
    return f"{span(counts)} samples per point{each}." if counts else ""


def span(counts: Iterable[int]) -> str:
    """``20``, ``5 to 20``."""
    listed = sorted(counts)
    return f"{listed[0]}{f' to {listed[-1]}' if listed[-1] > listed[0] else ''}"


def shown_readings(passes: int, models: Mapping[str, Mapping[Setting, Measurement]]) -> str:
    """After how many readings a point was measured, where others were measured, too, that a table may show."""
    counts = {setting.passes for found in models.values() for setting in found}
    if counts == {passes}:
        return ""
    why = ", the most with which every length was measured" if max(counts) > passes else ""
    return f" Every point is after {wording.readings(passes)}{why}; tables also have the best number of readings."


def left_out(highest: Mapping[str, float]) -> str:
    """The models that are not drawn as readings and writes change nothing for them, with the most that they find."""
    if not highest:
        return ""
    names, most = wording.listing(list(highest)), wording.percent(max(highest.values()))
    return f" Not drawn, as readings and writes change nothing for them: {names} (at most {most} found)."


def none_found(models: Mapping[str, Mapping[Setting, Measurement]]) -> str:
    """The models that are not drawn as they find no needle at all, with how much their intervals leave open."""
    if not models:
        return ""
    highs = [m.high for found in models.values() for m in found.values() if m.high is not None]
    bound = f" (95% intervals reach {wording.percent(max(highs))} at most)" if highs else ""
    return f" Not drawn, as not one needle was found by them: {wording.listing(list(models))}{bound}."
