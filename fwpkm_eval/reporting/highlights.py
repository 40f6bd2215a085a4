"""The few numbers at the top of the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fwpkm_eval.reporting import wording
from fwpkm_eval.reporting.contrasts import RelativeChange, relative_change
from fwpkm_eval.reporting.measurements import (
    Context,
    Measurement,
    NiahResults,
    Setting,
    TextKey,
    TextResult,
    chunk_order,
    model_rank,
    niah_results,
    text_results,
    usual_settings,
    writes,
)
from fwpkm_eval.reporting.sets import SetFacts
from fwpkm_eval.reporting.summary_niah import best_at, main_context
from fwpkm_eval.reporting.summary_recall import OPEN_BOOK
from fwpkm_eval.reporting.tables_speed import Speedup, ratio_text, speedups
from fwpkm_eval.reporting.tables_text import baseline_key

if TYPE_CHECKING:
    import pandas

_TUNED = "tuned malloc"
"""How a bench row's arm says that malloc was told to keep freed memory."""


@dataclass(frozen=True)
class Highlight:
    """One number to put in large type: what it is a number of, and the setting it comes from."""

    number: str
    text: str
    detail: str


def highlights(frame: pandas.DataFrame, sets: SetFacts | None = None) -> list[Highlight]:
    """A few numbers for the top of the page; the settings they come from are named beside them."""
    sets = sets or SetFacts()
    return [
        *_recall_highlights(niah_results(frame)),
        *_text_highlight(text_results(frame), sets),
        *_speed_highlight(frame),
    ]


def _recall_highlights(results: NiahResults) -> list[Highlight]:
    context = main_context(results)
    models = usual_settings(results, context) if context else {}
    main = main_model(models)
    if context is None or main is None:
        return []
    length = max(setting.length for setting in models[main])
    found = {setting: m for setting, m in models[main].items() if setting.length == length}
    setting = min(found, key=lambda s: (-found[s].value, s.passes, chunk_order(s.write_chunk)))
    best = found[setting]
    protocol = wording.PROTOCOL_NAMES.get(context.protocol, context.protocol)
    how = f"best setting: {wording.readings(setting.passes)}, {wording.writing(setting.write_chunk)}"
    shown = [
        Highlight(
            wording.percent(best.value),
            f"of needles found by {main} at {wording.size(length)}, {protocol}",
            f"the longest length tried; {how}; {_interval(best)}",
        )
    ]
    others = {model: best_at(of, length) for model, of in models.items() if writes(model) and model != main}
    rival = _best(others, "the best other model", "with fast weights")
    if rival:
        rate, names = rival
        detail = f"at the best setting; {_interval(rate)}"
        shown.append(Highlight(wording.percent(rate.value), f"by {names}, {protocol}", detail))
    return [*shown, *_plain_highlight(results, context, length)]


def _best(measured: Mapping[str, Measurement | None], one: str, what: str) -> tuple[Measurement, str] | None:
    """The highest rate and whose it is, all of those that share it: ``A and B, the best other models with …``."""
    rates = {model: rate for model, rate in measured.items() if rate is not None}
    if not rates:
        return None
    top = max(rate.value for rate in rates.values())
    names = [model for model, rate in rates.items() if rate.value == top]
    return rates[names[0]], f"{wording.listing(names)}, {one}{'s' if len(names) > 1 else ''} {what}"


def _plain_highlight(results: NiahResults, context: Context, length: int) -> list[Highlight]:
    """What a model without fast weights finds at a length with the haystack in sight, if that was asked.

    With a closed book it cannot know anything: that it finds nothing there is no number to show.
    """
    where = replace(context, protocol=OPEN_BOOK)
    models = usual_settings(results, where) if where in results.overall else {}
    plain = {model: of for model, of in models.items() if not writes(model)}
    found = _best({model: best_at(of, length) for model, of in plain.items()}, "the best model", "without fast weights")
    if found is None:
        return []
    rate, names = found
    shortest = min(setting.length for of in models.values() for setting in of)
    short = max((m.value for m in (best_at(of, shortest) for of in plain.values()) if m), default=None)
    detail = _interval(rate)
    if short is not None and shortest < length:
        detail += f"; {wording.percent(short)} at {wording.size(shortest)}"
    who = names if rate.value else "any model without fast weights"
    name = wording.PROTOCOL_NAMES[OPEN_BOOK]
    return [Highlight(wording.percent(rate.value), f"by {who}, {name} (the haystack in sight)", detail)]


def _text_highlight(results: dict[TextKey, TextResult], sets: SetFacts) -> list[Highlight]:
    """The model with fast weights of the fewest bits, on the set with the longest documents, and the others' changes.

    The set is chosen whatever came out; the model is the best, and called so. Best is not who gains most over its own
    backbone, which may be a weak one.
    """
    changes: dict[TextKey, tuple[RelativeChange, Measurement, Measurement, str]] = {}
    for key, result in results.items():
        base_key = baseline_key(key, results)
        base = results[base_key].bits_per_byte if base_key else None
        if not key.frozen and writes(key.model) and base_key and base and result.bits_per_byte:
            change = relative_change(result.bits_per_byte, base)
            changes[key] = (change, result.bits_per_byte, base, base_key.model)
    if not changes:
        return []
    longest = max(changes, key=lambda key: max(results[key].by_position, default=0))
    changes = {key: of for key, of in changes.items() if (key.dataset, key.scope) == (longest.dataset, longest.scope)}
    best = min(changes, key=lambda key: changes[key][1].value)
    change, bits, base, baseline = changes[best]
    text = f"bits per byte of {best.model} against {baseline}"
    if len(changes) > 1:
        text += f", the fewest of {len(changes)} models with fast weights"
    trainings = _trainings(change, bits, base)
    where = f"{sets.title(best.dataset)}, the set with the longest documents"
    detail = f"{bits.value:.3f} and {base.value:.3f} on {where}; {trainings}{_beside_copying(best, results)}"
    behind = sorted((of[1].value, of[0].value, key.model, of[3]) for key, of in changes.items() if key != best)
    others = [
        f"{model} {bits:.3f} ({wording.change(value)}{'' if base == baseline else f' against {base}'})"
        for bits, value, model, base in behind
    ]
    if others:
        detail += f"; the others: {', '.join(others)}"
    return [Highlight(wording.change(change.value), text, detail)]


def _beside_copying(key: TextKey, results: dict[TextKey, TextResult]) -> str:
    """What the same two models take with a match model, where that was measured."""
    base_key = baseline_key(key, results)
    ours, theirs = results[key].with_match_model, results[base_key].with_match_model if base_key else None
    if ours is None or theirs is None:
        return ""
    change = wording.change(relative_change(ours, theirs).value)
    return f"; with a match model, which copies, {ours.value:.3f} and {theirs.value:.3f} ({change})"


def _trainings(change: RelativeChange, bits: Measurement, base: Measurement) -> str:
    """Of how many trainings a change is, and whether they are held against each other by their seeds."""
    if change.by_training:
        return f"{len(change.by_training)} trainings of each"
    ours, theirs = (max(1, len(one.by_training)) for one in (bits, base))
    if ours == theirs == 1:
        return "one training of each"
    return f"{ours} trainings of the one and {theirs} of the other, not paired by seeds"


def _speed_highlight(frame: pandas.DataFrame) -> list[Highlight]:
    """The scan in place, forward, malloc tuned, at the paper's size: the first of these that was measured.

    The choice looks at what was measured and never at how fast it was.
    """
    whole = [speedup for speedup in speedups(frame) if speedup.what == "forward" and _is_whole(speedup)]
    for speedup in sorted(whole, key=_headline_order)[:1]:
        name, _, setting = speedup.arm.removeprefix("scan/").partition(", ")
        size = ", ".join(part for part in speedup.size.split(", ") if part[:2] in ("S ", "T "))
        malloc = "malloc told to keep freed memory" if setting == _TUNED else "malloc as the system has it"
        span = ""
        if speedup.low is not None and speedup.high is not None:
            span = f"10th to 90th percentile {speedup.low:.3g}–{speedup.high:.3g}×"
        backend = f"backend {name or speedup.name}"
        detail = ", ".join(filter(None, ("forward", backend, size, malloc if speedup.device == "cpu" else "")))
        detail = "; ".join(filter(None, (detail, span)))
        return [Highlight(ratio_text(speedup.ratio), "as fast as the reference", detail)]
    return []


def _is_whole(speedup: Speedup) -> bool:
    """Whether a whole scan was timed, and not one of its operations or a layer beside a peer's."""
    return speedup.arm.startswith("scan/") or "/" not in speedup.arm


def _headline_order(speedup: Speedup) -> tuple[bool, bool, bool, bool]:
    """What the headline is to be about comes first; among equals the order of measuring decides."""
    return (
        not speedup.arm.startswith("scan/"),
        speedup.scale != "paper",
        "in place" not in speedup.arm,
        not speedup.arm.endswith(_TUNED),
    )


def main_model(models: Mapping[str, Mapping[Setting, Measurement]]) -> str | None:
    """The model that the report is about: FwPKM alone, else FwPKM with PKM, else any with fast weights; of several
    such, on other backbones, the one that finds most at the longest length."""

    def place(model: str) -> tuple[int, int, float, str]:
        kind, name = model_rank(model)
        length = max(setting.length for setting in models[model])
        best = best_at(models[model], length)
        return kind, -length, -best.value if best else 0.0, name

    return min(filter(writes, models), key=place, default=None)


def _interval(measurement: Measurement) -> str:
    if measurement.low is None or measurement.high is None:
        return "no interval"
    bounds = f"{measurement.low * 100:.0f}–{measurement.high * 100:.0f}%"
    apart = wording.span((value for _, value in measurement.by_training), wording.percent)
    trained = f"; by training {apart}" if apart else ""
    shared = f" ({measurement.distinct} samples)" if measurement.distinct else ""
    return f"{measurement.successes} of {measurement.n}{shared}; 95% interval {bounds}{trained}"
