"""Needles found: by length, readings and write chunk; by number of needles; and how answers go wrong."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from fwpkm_eval.reporting import published, wording
from fwpkm_eval.reporting.measurements import (
    GUESS,
    HAYSTACK,
    Context,
    Measurement,
    NiahResults,
    Setting,
    alike,
    chunk_order,
    niah_results,
    ordered,
    spec_of,
    usual_needles,
    writes,
)
from fwpkm_eval.reporting.sets import SetFacts
from fwpkm_eval.reporting.table import Cell, Rows, Table, slug
from fwpkm_eval.reporting.wording import MISSING

if TYPE_CHECKING:
    import pandas

ANY = "any"
"""Stands where a setting makes no difference to a model."""


def recall_tables(results: NiahResults, scale: str, sets: SetFacts) -> list[Table]:
    """For each protocol exact match by length, model, write chunk and number of readings."""
    return [_recall_table(results, context, scale, sets) for context in results.overall]


def _recall_table(results: NiahResults, context: Context, scale: str, sets: SetFacts) -> Table:
    models = results.overall[context]
    needles = usual_needles(models)
    settings = {setting for found in models.values() for setting in found if setting.needles == needles}
    passes = sorted({setting.passes for setting in settings})
    quotes = context.protocol != "closed-book"
    rows = Rows()
    reasons: list[str] = []
    for length in sorted({setting.length for setting in settings}):
        lines = list(_recall_lines(results, context, length, needles))
        best = max((m.value for _, _, line in lines for m in line.values()), default=0.0)
        for model, write_chunk, line in lines:
            rates = [
                Cell(wording.rate_apart(line[n]), strong=line[n].value == best > 0) if n in line else MISSING
                for n in passes
            ]
            stand_in = sets.is_stand_in(context.dataset)
            *quoted, why = _published_recall(model, write_chunk, length, scale, stand_in, results.digits(context))
            reasons += why
            counts = _counts(line.values())
            shown = quoted if quotes else ()
            rows.add(wording.size(length), model, write_chunk, *rates, counts, *shown)
    floor = {m.value for setting, m in models.get(GUESS, {}).items() if setting.needles == needles}
    if floor:
        guesses = [wording.percent(min(floor))] * len(passes)
        rows.add(ANY, GUESS, ANY, *guesses, MISSING, *([MISSING] * 2 if quotes else []))
    columns = ("length", "model", "a write every", *map(wording.readings, passes), "samples")
    contexts = list(results.overall)
    return Table(
        name=slug("niah", wording.context_slug(context, contexts)),
        title=f"Needles found: {wording.context_name(context, contexts)}",
        columns=(*columns, "published best", "comparable") if quotes else columns,
        rows=rows.done(),
        note=_recall_note(results, context, needles, sets, list(dict.fromkeys(reasons)))
        + _trainings_note(models)
        + wording.rotary(models),
        labels=3,
        words=1 if quotes else 0,
    )


def _recall_lines(
    results: NiahResults, context: Context, length: int, needles: int
) -> Iterator[tuple[str, str, dict[int, Measurement]]]:
    """Model, write chunk, measurements by readings; a model to which nothing matters has one line."""
    for model in results.models(context):
        of_model = results.overall[context][model]
        found = {s: m for s, m in of_model.items() if (s.length, s.needles) == (length, needles)}
        same = not writes(model) and alike(found)
        for write_chunk in sorted({setting.write_chunk for setting in found}, key=chunk_order):
            line = {s.passes: m for s, m in found.items() if s.write_chunk == write_chunk}
            yield model, ANY if same else wording.writing_short(write_chunk), line
            if same:
                break


def _published_recall(
    model: str, write_chunk: str, length: int, scale: str, stand_in: bool, digits: int | None
) -> tuple[str, str, list[str]]:
    """The published number, what may be compared, and why no more than that."""
    near = published.nearest_published_model(spec_of(model), "niah")
    paper = published.find("niah", near, "LAMBADA", length=length)
    if paper is None or write_chunk not in (HAYSTACK, ANY):
        return MISSING, MISSING, []
    reasons = published.differences("niah", scale, stand_in, spec_of(model), paper.model)
    if digits not in (None, published.DIGITS):
        reasons.append(f"answers of {digits} digit{'s' if digits != 1 else ''} in place of {published.DIGITS}")
    return f"{paper.text} ({paper.model})", published.comparable(reasons), reasons


def _recall_note(results: NiahResults, context: Context, needles: int, sets: SetFacts, reasons: Sequence[str]) -> str:
    meaning = wording.PROTOCOL_MEANINGS.get(context.protocol, context.protocol)
    memory = {
        "sample": "Every sample starts from the same memory. ",
        "stream": "The memory is carried from sample to sample. ",
    }.get(context.scope, "")
    if context.protocol == "closed-book":
        beside = "No published harness asks with a closed book, so there is nothing to set beside it."
    else:
        beside = f"Published: {published.PAPER}, best number of readings, haystacks from LAMBADA."
        beside += f" Direction only, not value: {wording.listing(reasons)}." if reasons else ""
    return (
        f"{wording.sentence(meaning)}. {needles} needle{'s' if needles > 1 else ''} in text from "
        f"{sets.title(context.dataset)}, one asked for; {wording.digits_right(results.digits(context))}, with the 95% "
        f"Wilson interval in percent.{_any_needle(needles)} {memory}“{HAYSTACK}” is one write per reading, as "
        f"published; “{ANY}”: it makes no difference to the model. {beside}"
    )


def _trainings_note(models: Mapping[str, Mapping[Setting, Measurement]]) -> str:
    note = wording.trainings_note(m for found in models.values() for m in found.values())
    return f"{note} No interval covers that another training differs." if note else ""


def _any_needle(needles: int) -> str:
    """What the floor of guessing hides: a memory of numbers without their keys."""
    if needles == 1:
        return ""
    return f" Any needle's number, whoever is asked for, would be right in {wording.percent(1 / needles)}."


def needle_count_tables(results: NiahResults) -> list[Table]:
    """For each protocol exact match by number of needles, at lengths with more than the usual number."""
    tables = []
    contexts = list(results.overall)
    for context in contexts:
        counts: dict[int, set[int]] = {}
        models = {model: results.overall[context][model] for model in results.models(context)}
        for setting in (setting for found in models.values() for setting in found):
            counts.setdefault(setting.length, set()).add(setting.needles)
        usual = usual_needles(results.overall[context])
        lengths = sorted(length for length, needles in counts.items() if needles != {usual})
        if not lengths:
            continue
        columns = sorted(set().union(*(counts[length] for length in lengths)))
        rows = Rows()
        for length in lengths:
            for model, found in models.items():
                _add_needle_lines(rows, model, found, length, columns, usual)
        titles = [f"{count} needle{'s' if count > 1 else ''}" for count in columns]
        tables.append(
            Table(
                name=slug("needles", wording.context_slug(context, contexts)),
                title=f"More needles: {wording.context_name(context, contexts)}",
                columns=("length", "model", "a write every", "readings", *titles, "samples"),
                rows=rows.done(),
                note="How many facts the memory holds at once: so many needles are hidden, one is asked for. "
                f"{wording.sentence(wording.digits_right(results.digits(context)))}, with the 95% Wilson interval in "
                "percent." + _trainings_note(models),
                labels=4,
            )
        )
    return tables


def _add_needle_lines(
    rows: Rows,
    model: str,
    found: Mapping[Setting, Measurement],
    length: int,
    counts: Sequence[int],
    usual: int,
) -> None:
    here = {setting: m for setting, m in found.items() if setting.length == length}
    same = not writes(model) and alike(here)
    lines: dict[tuple[str, str], dict[int, Measurement]] = {}
    for setting in sorted(here, key=_setting_order):
        which = (ANY, ANY) if same else (wording.writing_short(setting.write_chunk), str(setting.passes))
        lines.setdefault(which, {})[setting.needles] = here[setting]
    for which, line in lines.items():
        if set(line) != {usual}:  # that is in the table of the usual number already
            rates = [wording.rate_apart(line[count]) if count in line else MISSING for count in counts]
            rows.add(wording.size(length), model, *which, *rates, _counts(line.values()))


def detail_tables(frame: pandas.DataFrame, exact: NiahResults) -> list[Table]:
    """For each protocol the other measures of an answer, in all settings."""
    metrics = ("digit_accuracy", "distractor_rate", "other_number_rate", "no_number_rate", "answer_logprob")
    by_metric = {metric: niah_results(frame, metric) for metric in metrics}
    tables = []
    contexts = list(exact.overall)
    for context in contexts:
        rows = Rows()
        here = {metric: by_metric[metric].overall.get(context, {}) for metric in metrics}
        for model in ordered({model for by_model in here.values() for model in by_model}):
            _add_detail_lines(rows, model, {metric: by_model.get(model, {}) for metric, by_model in here.items()})
        if not rows.rows:
            continue
        labels = ("model", "length", "needles", "a write every", "readings")
        values = ("digits right", "another needle's number", "no needle's number", "no number", "log-probability")
        tables.append(
            Table(
                name=slug("niah-detail", wording.context_slug(context, contexts)),
                title=f"How answers go wrong: {wording.context_name(context, contexts)}",
                columns=(*labels, *values),
                rows=rows.done(),
                note="Digits that are right in their place; answers that are the number of another needle, digits of "
                "none, or not digits alone; natural logarithm of the probability of the true answer"
                + (f" (guessing: −{digits * math.log(10):.1f})." if (digits := exact.digits(context)) else ".")
                + _trainings_note(exact.overall[context]),
                labels=len(labels),
                detail=True,
            )
        )
    return tables


def _add_detail_lines(rows: Rows, model: str, found: dict[str, dict[Setting, Measurement]]) -> None:
    same = not writes(model) and all(alike(values) for values in found.values())
    told: set[tuple[int, int]] = set()
    for setting in sorted({s for values in found.values() for s in values}, key=_setting_order):
        if same and (setting.length, setting.needles) in told:
            continue
        told.add((setting.length, setting.needles))
        which = (ANY, ANY) if same else (wording.writing_short(setting.write_chunk), str(setting.passes))
        entries = [_entry(metric, values.get(setting)) for metric, values in found.items()]
        rows.add(model, wording.size(setting.length), str(setting.needles), *which, *entries)


def _entry(metric: str, measurement: Measurement | None) -> str:
    if measurement is None:
        return MISSING
    if metric == "answer_logprob":
        return _logprob(measurement.value) + wording.trainings_apart(measurement, _logprob)
    return wording.rate_apart(measurement)


def _logprob(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def _setting_order(setting: Setting) -> tuple[object, ...]:
    return (setting.length, setting.needles, chunk_order(setting.write_chunk), setting.passes)


def _counts(measurements: Iterable[Measurement]) -> str:
    counts = sorted({m.n for m in measurements if m.n is not None})
    if not counts:
        return MISSING
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]}–{counts[-1]}"
