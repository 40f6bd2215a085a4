"""Numbers and settings in the words that tables, captions and sentences share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from fwpkm_eval.reporting.measurements import Context, Measurement, spec_of
from fwpkm_eval.sizes import HAYSTACK, format_size

MISSING = "–"
_SMALL_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

PROTOCOL_NAMES = {
    "closed-book": "closed book",
    "open-book": "open book",
    "published": "protocol of the public implementation",
}
PROTOCOL_MEANINGS = {
    "closed-book": "only the question is shown after the readings: the answer can only come from the memory",
    "open-book": "after the readings the model sees the haystack again, followed by the question",
    "published": "the last reading also holds the question and is written after it, as the public code does",
}


def percent(fraction: float) -> str:
    """``85%``; one digit more where it would be lost (``0.4%``), ``100%`` and ``0%`` only if exact."""
    value = fraction * 100
    if fraction in (0.0, 1.0):
        return f"{value:.0f}%"
    if 0 < value < 1:
        return f"{value:.{math.ceil(-math.log10(value))}f}%"
    return f"{min(value, 99.9):.1f}%" if 99 < value < 100 else f"{value:.0f}%"


def rate(measurement: Measurement) -> str:
    """``85% (64–95)``: a rate and its 95% interval, both in percent."""
    if measurement.low is None or measurement.high is None:
        return percent(measurement.value)
    return f"{percent(measurement.value)} ({measurement.low * 100:.0f}–{measurement.high * 100:.0f})"


def rate_apart(measurement: Measurement) -> str:
    """``95% (83–99) [90% to 100%]``: the same, with the rates of several trainings apart."""
    return rate(measurement) + trainings_apart(measurement, percent)


def rate_in_words(measurement: Measurement, *, again: bool = False) -> str:
    """``17 of 20 (95% interval 64–95%)``, or if that was said before just ``17 of 20 (64–95%)``.

    Of several trainings with their rates: ``39 of 40 (87–100%; by training 95% to 100%)``; of trainings asked of the
    same samples with their number too: ``12 of 15 (5 samples; 95% interval 38–96%; by training …)``.
    """
    if measurement.n is None or measurement.low is None or measurement.high is None:
        return percent(measurement.value)
    interval = f"{measurement.low * 100:.0f}–{measurement.high * 100:.0f}%"
    said = "" if again else "95% interval "
    shared = f"{measurement.distinct} samples; " if measurement.distinct else ""
    apart = span((value for _, value in measurement.by_training), percent)
    trained = f"; by training {apart}" if apart else ""
    return f"{measurement.successes} of {measurement.n} ({shared}{said}{interval}{trained})"


def span(values: Iterable[float], show: Callable[[float], str]) -> str:
    """``90% to 95%``, the least and the most; nothing where they read the same, or there are none."""
    ordered = sorted(values)
    shown = [show(ordered[0]), show(ordered[-1])] if ordered else []
    return " to ".join(shown) if len(set(shown)) > 1 else ""


def apart(values: Iterable[float], show: Callable[[float], str]) -> str:
    """What tables put behind a value of several trainings: `` [90% to 95%]``; nothing where they are alike."""
    shown = span(values, show)
    return f" [{shown}]" if shown else ""


def trainings_apart(measurement: Measurement, show: Callable[[float], str]) -> str:
    """The same for a measurement."""
    return apart((value for _, value in measurement.by_training), show)


def trainings_note(measurements: Iterable[Measurement | None]) -> str:
    """What a note says of square brackets: nothing where every measurement is of one training."""
    measured = [m for m in measurements if m is not None]
    most = max((m.trainings for m in measured), default=1)
    if most < 2:
        return ""
    note = f" Pooled over {most} trainings of a model; in square brackets the least and the most, where they differ."
    if any(m.distinct for m in measured):
        note += " Samples that several trainings were asked count once in an interval."
    return note


def change(ratio: float) -> str:
    """``−14.0%`` for a relative change of −0.14, with a true minus sign."""
    text = f"{abs(ratio) * 100:.1f}%"
    return "0.0%" if text == "0.0%" else f"{'−' if ratio < 0 else '+'}{text}"


def more_or_less(ratio: float) -> str:
    """``14.0% less`` or ``2.1% more``."""
    return f"{abs(ratio) * 100:.1f}% {'less' if ratio < 0 else 'more'}"


def times(ratio: float) -> str:
    """``118 times`` or ``4.2 times``."""
    return f"{ratio:.0f} times" if ratio >= 20 else f"{ratio:.2g} times"


def digits_right(digits: int | None) -> str:
    """What an exact match is of an answer of so many digits (None: not known)."""
    if digits == 1:
        return "its one digit right"
    number = "" if digits is None else _SMALL_NUMBERS[digits] if digits < len(_SMALL_NUMBERS) else str(digits)
    return f"all {number} digits right" if number else "all digits right"


def readings(passes: int) -> str:
    """``one reading``, ``4 readings``."""
    number = _SMALL_NUMBERS[passes] if passes < 2 else str(passes)
    return f"{number} reading{'' if passes == 1 else 's'}"


def writing(write_chunk: str) -> str:
    """``one write per reading`` or ``a write every 1,024 tokens``."""
    if write_chunk == HAYSTACK:
        return "one write per reading"
    return f"a write every {grouped(write_chunk)} tokens" if write_chunk else "the model's own writes"


def writing_short(write_chunk: str) -> str:
    """The same for a table: ``haystack``, ``1,024``."""
    return grouped(write_chunk) or MISSING


def grouped(number: str | int) -> str:
    """``1024`` as ``1,024``; text that is no number stays as it is."""
    return f"{int(number):,}" if str(number).isdecimal() else str(number)


def size(tokens: int) -> str:
    """``4K`` for 4096, ``300`` for 300."""
    return format_size(tokens)


def about(tokens: int) -> str:
    """A size in round figures, ``3.4M``: for counts that need not be exact."""
    for unit, name in ((2**20, "M"), (2**10, "K")):
        if tokens >= unit:
            return f"{tokens / unit:.3g}{name}"
    return str(tokens)


def context_name(context: Context, contexts: Sequence[Context]) -> str:
    """``closed book``, with the set and the scope of memory behind it where ``contexts`` differ in them."""
    parts = [PROTOCOL_NAMES.get(context.protocol, context.protocol)]
    if len({other.dataset for other in contexts}) > 1:
        parts.append(f"haystacks from {context.dataset}")
    if len({other.scope for other in contexts}) > 1:
        parts.append(f"scope {context.scope}")
    return ", ".join(parts)


def context_slug(context: Context, contexts: Sequence[Context]) -> str:
    """The same as part of a file name: letters, digits and hyphens only."""
    name = context_name(context, contexts).replace(PROTOCOL_NAMES.get(context.protocol, ""), context.protocol)
    return "-".join("".join(sign if sign.isalnum() and sign.isascii() else " " for sign in name).split())


def listing(parts: Sequence[str]) -> str:
    """``a, b and c``."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}" if parts else ""


def rotary(models: Iterable[str]) -> str:
    """What a note adds where a model has full attention."""
    backbones = {spec_of(model).partition(":")[0] for model in models}
    if not any("fa" in backbone.split("+") for backbone in backbones):
        return ""
    return " Beyond the length that it was trained on, full attention takes YaRN."


def sentence(text: str) -> str:
    """``text`` with a capital first letter."""
    return text[:1].upper() + text[1:]
