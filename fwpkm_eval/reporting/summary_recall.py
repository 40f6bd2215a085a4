"""The words about what a memory holds: needles found against models without fast weights, or against chance.

With a closed book no model without fast weights can know anything, by construction: that it finds none is no evidence,
and a rate is held against chance instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fwpkm_eval.reporting import wording
from fwpkm_eval.reporting.contrasts import above_chance, contrast
from fwpkm_eval.reporting.finding import Finding
from fwpkm_eval.reporting.measurements import (
    GUESS,
    Measurement,
    NiahResults,
    Setting,
    model_rank,
    usual_settings,
    writes,
)
from fwpkm_eval.reporting.summary_niah import best_at, chunks_of, line_of, usual_length

CLOSED_BOOK, OPEN_BOOK = "closed-book", "open-book"
CONTROL_LENGTH = 1024
"""Tokens: models are trained on rows of at least so many, so that a haystack of no more is nothing new to them."""


def recall_findings(results: NiahResults) -> list[Finding]:
    """For each protocol and model with fast weights: does it find needles that models without do not, or chance?

    Looks at the usual length, and judges by the largest number of readings, whichever number did best.
    """
    findings: list[Finding] = []
    contexts = list(results.overall)
    for context in contexts:
        models = usual_settings(results, context)
        if not models:
            continue
        length = usual_length(models)
        plain = {model: best_at(found, length) for model, found in models.items() if not writes(model)}
        rivals = {model: measurement for model, measurement in plain.items() if measurement}
        floor = min((m.value for m in results.overall[context].get(GUESS, {}).values()), default=None)
        needles = next(setting.needles for found in models.values() for setting in found)
        chance = 1 / needles if needles > 1 else floor or 0.0
        # Should one find needles all the same, the book was not closed: then that is what to hold the others against.
        closed = context.protocol == CLOSED_BOOK and not any(m.value for m in rivals.values())
        name = wording.sentence(wording.context_name(context, contexts))
        for model in sorted(filter(writes, models), key=model_rank):
            lines = {chunk: line_of(models[model], length, chunk) for chunk in chunks_of(models[model], length)}
            if not lines:
                continue
            text = f"{name}, {wording.size(length)}: {model} finds {_told(lines)}."
            last = {chunk: line[max(line)] for chunk, line in lines.items()}
            if closed:
                findings.append(_against_chance(text, last, chance))
            else:
                findings.append(_against_plain(text, last, rivals, floor))
        if closed and any(map(writes, models)):
            findings.append(Finding("note", _closed_book(name, list(rivals), floor, needles)))
    return findings


def _told(lines: Mapping[str, Mapping[int, Measurement]]) -> str:
    """For each way of writing how many needles the fewest and the most readings find."""
    parts: list[str] = []
    for write_chunk, line in lines.items():
        first, last = min(line), max(line)
        part = f"{wording.rate_in_words(line[first], again=bool(parts))} after {wording.readings(first)}"
        if last != first:
            same = line[last].value == line[first].value
            part += f" and {'as many' if same else wording.rate_in_words(line[last], again=True)} after {last}"
        parts.append(f"{part}, with {wording.writing(write_chunk)}")
    return "; ".join(parts)


def _against_chance(text: str, last: Mapping[str, Measurement], chance: float) -> Finding:
    """Closed book: what a memory finds against chance, which :func:`_closed_book` tells once."""
    clear = [chunk for chunk, rate in last.items() if above_chance(rate, chance)]
    if len(clear) == len(last):
        return Finding("found", text)
    if clear:
        return Finding("unclear", f"{text} Clear is only that it finds more than chance {_with(clear)}.")
    if all(rate.value <= chance for rate in last.values()):
        return Finding("not found", f"{text} It finds no more than chance.")
    return Finding("unclear", f"{text} So few samples cannot tell it from chance.")


def _closed_book(name: str, plain: Sequence[str], floor: float | None, needles: int) -> str:
    """Why nothing without fast weights is set beside these, and what chance is."""
    text = f"{name}: a model without fast weights cannot know, by construction"
    if plain:
        text += f", and {wording.listing(plain)} find{'s' if len(plain) == 1 else ''} none"
    guess = _chance(floor) if floor is not None else ""
    chance = f"guessing finds {guess}" if guess else ""
    if needles > 1:
        chance = f"any needle's number, whoever is asked for, is right {_chance(1 / needles)} times"
        chance += f" (guessing: {guess})" if guess else ""
    against = f" Rates are held against chance: {chance}." if chance else ""
    return f"{text}. That is a check of the protocol and no comparison.{against}"


def _against_plain(
    text: str, last: Mapping[str, Measurement], plain: Mapping[str, Measurement], floor: float | None
) -> Finding:
    """What a model with fast weights finds against the best of those without, asked the same."""
    if not plain:
        return Finding("note", f"{text} No model without fast weights was asked the same.")
    name = max(plain, key=lambda model: plain[model].value)
    best = plain[name]
    who = f"{name}, {f'the best of {len(plain)}' if len(plain) > 1 else 'the only one asked'}"
    if len(plain) > 1 and not best.value:
        who = f"each of {len(plain)}"
    chance = f"; guessing would find {_chance(floor)}" if floor is not None else ""
    text += f" Without fast weights: {wording.rate_in_words(best, again=True)} by {who}{chance}."
    outcome = {chunk: contrast(rate, best) for chunk, rate in last.items()}
    better, worse = ([chunk for chunk in last if outcome[chunk] == sign] for sign in (1, -1))
    if len(better) == len(last):
        return Finding("found", text)
    if len(worse) == len(last):
        return Finding("worse", f"{text} It finds fewer.")
    if better or worse:
        parts = [f"more {_with(better)}"] if better else []
        parts += [f"fewer {_with(worse)}"] if worse else []
        return Finding("unclear", f"{text} Clear is only that it finds {wording.listing(parts)}.")
    if not best.value and not any(rate.value for rate in last.values()):
        return Finding("not found", f"{text} Neither finds any.")
    return Finding("unclear", f"{text} So few samples cannot tell them apart.")


def _with(chunks: Sequence[str]) -> str:
    return wording.listing([f"with {wording.writing(chunk)}" for chunk in chunks])


def control_findings(results: NiahResults) -> list[Finding]:
    """Which models do not answer at the shortest length either, haystack in sight: those never learned to.

    Their 0% further out says nothing of how far they remember. Without a haystack of `CONTROL_LENGTH` tokens or less
    nobody can tell. And how far those without fast weights come that do answer there.
    """
    context = next((context for context in results.overall if context.protocol == OPEN_BOOK), None)
    models = usual_settings(results, context) if context else {}
    if context is None or not models:
        return []
    shortest = min(setting.length for found in models.values() for setting in found)
    rates = {model: best_at(found, shortest) for model, found in models.items()}
    none = [model for model, rate in rates.items() if rate is not None and rate.value == 0]
    # Who names any needle's number, whichever was asked for, has not learned to answer.
    needles = next(setting.needles for found in models.values() for setting in found)
    floor = min((m.value for m in results.overall[context].get(GUESS, {}).values()), default=0.0)
    chance = 1 / needles if needles > 1 else floor
    able = [m for m, rate in rates.items() if rate is not None and above_chance(rate, chance) and not writes(m)]
    reach = [_reach_finding(model, models[model]) for model in able if shortest <= CONTROL_LENGTH]
    if not none:
        return reach
    length = wording.size(shortest)
    who = wording.listing(none)
    if shortest > CONTROL_LENGTH:
        text = f"No haystack shorter than {length} tokens was asked: {who} may not have learned to answer at all."
        return [Finding("note", text)]
    one = len(none) == 1
    text = (
        f"{who} find{'s' if one else ''} none at {length} tokens with the haystack in sight either: as trained here "
        f"{'it' if one else 'they'} did not learn to answer, so that 0% at other lengths says nothing of how far "
        f"{'it remembers' if one else 'they remember'}."
    )
    return [*reach, Finding("limit", text)]


def _reach_finding(model: str, found: Mapping[Setting, Measurement]) -> Finding:
    """How many needles a model without fast weights finds at each length, the haystack in sight."""
    rates = {length: best_at(found, length) for length in sorted({setting.length for setting in found})}
    shown = [f"{wording.percent(rate.value)} at {wording.size(length)}" for length, rate in rates.items() if rate]
    text = f"{model}, without fast weights, did learn to answer: with the haystack in sight it finds "
    return Finding("note", f"{text}{wording.listing(shown)}.")


def _chance(probability: float) -> str:
    return f"one in {wording.grouped(round(1 / probability))}" if probability > 0 else "none"
