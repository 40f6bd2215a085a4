"""What the captions of all needle plots say alike."""

from __future__ import annotations

from collections.abc import Mapping

from fwpkm_eval.reporting import wording
from fwpkm_eval.reporting.measurements import Context, Measurement, NiahResults, Setting

BANDS = "Bands: 95% Wilson intervals."


def of_file(results: NiahResults, context: Context) -> str:
    """What tells the context apart in the name of a file."""
    return wording.context_slug(context, list(results.overall))


def meaning(context: Context) -> str:
    """What the protocol is, in a sentence."""
    words = wording.PROTOCOL_MEANINGS.get(context.protocol)
    name = wording.sentence(wording.PROTOCOL_NAMES.get(context.protocol, context.protocol))
    return f"{name}: {words}." if words else f"{name}."


def needles(models: Mapping[str, Mapping[Setting, Measurement]]) -> str:
    """How many needles were hidden, and what counts as found."""
    number = min(setting.needles for found in models.values() for setting in found)
    return f"{number} needles, one asked for, all six digits right." if number > 1 else "All six digits right."


def samples(models: Mapping[str, Mapping[Setting, Measurement]]) -> str:
    """How many samples a point stands for; empty if that is not known."""
    counts = sorted({m.n for found in models.values() for m in found.values() if m.n is not None})
    if not counts:
        return ""
    return f"{counts[0]}{f' to {counts[-1]}' if counts[-1] > counts[0] else ''} samples per point."


def left_out(highest: Mapping[str, float]) -> str:
    """The models that are not drawn, with the most that each finds."""
    if not highest:
        return ""
    names, most = wording.listing(list(highest)), wording.percent(max(highest.values()))
    return f" Not drawn, as nothing makes a difference to them: {names} (at most {most})."
