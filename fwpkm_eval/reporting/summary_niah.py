"""The words about the needle task: what the memory holds, what re-reading buys, where it fails.

Two rates are called different only where Newcombe's 95% interval for their difference leaves out zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fwpkm_eval.reporting import published, wording
from fwpkm_eval.reporting.finding import Finding, Verdict
from fwpkm_eval.reporting.measurements import (
    GUESS,
    HAYSTACK,
    Context,
    Measurement,
    NiahResults,
    Setting,
    chunk_order,
    model_rank,
    spec_of,
    usual_settings,
    writes,
)
from fwpkm_eval.runs.intervals import newcombe_interval

USUAL_LENGTH = 4096
CONTROL_LENGTH = 1024
"""Tokens: models are trained on rows of at least so many, so that a haystack of no more is nothing new to them."""


def main_context(results: NiahResults) -> Context | None:
    """The context that tells most about memory: closed book if it was measured."""
    return next((context for context in results.overall if results.models(context)), None)


def usual_length(models: Mapping[str, Mapping[Setting, Measurement]]) -> int:
    """4K if it was measured, else the shortest longer one, else the longest."""
    lengths = sorted({setting.length for found in models.values() for setting in found})
    return next((length for length in lengths if length >= USUAL_LENGTH), lengths[-1])


def recall_findings(results: NiahResults) -> list[Finding]:
    """For each protocol and model with fast weights: does it find needles that models without cannot?

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
        floor = [m.value for m in results.overall[context].get(GUESS, {}).values()]
        name = wording.sentence(wording.context_name(context, contexts))
        for model in sorted(filter(writes, models), key=model_rank):
            finding = _recall_finding(f"{name}, {wording.size(length)}", model, models[model], length, plain, floor)
            findings += [finding] if finding else []
    return findings


def _recall_finding(
    where: str,
    model: str,
    found: Mapping[Setting, Measurement],
    length: int,
    plain: Mapping[str, Measurement | None],
    floor: Sequence[float],
) -> Finding | None:
    best_plain = max(((m, name) for name, m in plain.items() if m), key=lambda pair: pair[0].value, default=None)
    parts: list[str] = []
    better: list[str] = []
    worse: list[str] = []
    for write_chunk in _chunks(found, length):
        line = _line(found, length, write_chunk)
        first, last = min(line), max(line)
        part = f"{wording.rate_in_words(line[first], again=bool(parts))} after {wording.readings(first)}"
        if last != first:
            same = line[last].value == line[first].value
            part += f" and {'as many' if same else wording.rate_in_words(line[last], again=True)} after {last}"
        parts.append(f"{part}, with {wording.writing(write_chunk)}")
        if best_plain:
            low, high = difference(line[last], best_plain[0])
            better += [write_chunk] if low > 0 else []
            worse += [write_chunk] if high < 0 or line[last].value <= best_plain[0].value else []
    if not parts:
        return None
    text = f"{where}: {model} finds {'; '.join(parts)}."
    if best_plain is None:
        return Finding("note", f"{text} No model without fast weights was asked the same.")
    one, name = best_plain
    among = f"the best of {len(plain)}" if len(plain) > 1 else "the only one asked"
    chance = f"; guessing would find {_chance(min(floor))}" if floor else ""
    text += f" Without fast weights: {wording.rate_in_words(one, again=True)} by {name}, {among}{chance}."
    if len(better) == len(parts):
        return Finding("found", text)
    if better:
        clear = wording.listing([f"with {wording.writing(chunk)}" for chunk in better])
        return Finding("unclear", f"{text} The difference is clear only {clear}.")
    if len(worse) == len(parts):
        return Finding("not found", f"{text} It finds no more than they do.")
    return Finding("unclear", f"{text} So few samples cannot tell them apart.")


def control_findings(results: NiahResults) -> list[Finding]:
    """Which models do not answer at the shortest length either, haystack in sight: those never learned to.

    Their 0% further out says nothing of how far they remember. Without a haystack of `CONTROL_LENGTH` tokens or less
    nobody can tell. And how far those without fast weights come that do answer there.
    """
    context = next((context for context in results.overall if context.protocol == "open-book"), None)
    models = usual_settings(results, context) if context else {}
    if context is None or not models:
        return []
    shortest = min(setting.length for found in models.values() for setting in found)
    rates = {model: best_at(found, shortest) for model, found in models.items()}
    none = [model for model, rate in rates.items() if rate is not None and rate.value == 0]
    able = [model for model, rate in rates.items() if rate is not None and rate.value > 0 and not writes(model)]
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
        f"{who} find{'s' if one else ''} none at {length} tokens with the haystack in sight either: in this training "
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


def rereading_findings(results: NiahResults) -> list[Finding]:
    """For the main context and each length whether more readings, and whether more writes, find more."""
    context = main_context(results)
    if context is None:
        return []
    models = usual_settings(results, context)
    findings = []
    for model in _main_kind(models):
        lengths = sorted({setting.length for setting in models[model]})
        for write_chunk in sorted({setting.write_chunk for setting in models[model]}, key=chunk_order):
            lines = {length: _line(models[model], length, write_chunk) for length in lengths}
            findings += _rereading_findings(model, write_chunk, {n: line for n, line in lines.items() if line})
        findings += _write_findings(model, models[model], lengths)
    return findings


def _main_kind(models: Mapping[str, Mapping[Setting, Measurement]]) -> list[str]:
    """The models with FwPKM, then others with fast weights that found anything; if there are none with FwPKM, all."""
    with_fwpkm = [model for model in models if "fwpkm" in published.memories_of(spec_of(model))]
    others = [model for model in models if writes(model) and model not in with_fwpkm]
    if not with_fwpkm:
        return others
    return with_fwpkm + [model for model in others if any(m.value > 0 for m in models[model].values())]


def _rereading_findings(model: str, write_chunk: str, lines: Mapping[int, Mapping[int, Measurement]]) -> list[Finding]:
    """One sentence for each verdict, naming the lengths that share it."""
    sorted_out: dict[tuple[Verdict, str], list[str]] = {}
    for length, line in lines.items():
        first, last = min(line), max(line)
        if first == last:
            continue
        low, high = difference(line[last], line[first])
        change = f"{wording.percent(line[first].value)} → {wording.percent(line[last].value)}"
        span = f"from {wording.readings(first)} to {last}"
        key: tuple[Verdict, str]
        if low > 0:
            key = ("found", f"going {span} finds more")
        elif high < 0:
            key = ("not found", f"going {span} finds fewer")
        elif line[first].value == 1.0:
            key = ("note", "one reading already finds all" if first == 1 else "the first reading finds all")
        else:
            key = ("unclear", f"going {span} makes no difference that so few samples could show")
        shown = f" ({change})" if key[0] != "note" else ""
        sorted_out.setdefault(key, []).append(f"{wording.size(length)}{shown}")
    return [
        Finding(verdict, f"{model} with {wording.writing(write_chunk)}: {what} at {wording.listing(where)}.")
        for (verdict, what), where in sorted_out.items()
    ]


def _write_findings(model: str, found: Mapping[Setting, Measurement], lengths: Sequence[int]) -> list[Finding]:
    """After the fewest readings: the most frequent writes against one write per reading."""
    sorted_out: dict[tuple[Verdict, str], list[str]] = {}
    for length in lengths:
        chunks = _chunks(found, length)
        if len(chunks) < 2 or chunks[0] != HAYSTACK:
            continue
        whole, often = _line(found, length, HAYSTACK), _line(found, length, chunks[-1])
        passes = min(set(whole) & set(often), default=None)
        if passes is None or whole[passes].value == often[passes].value == 1.0:
            continue  # nothing to compare, or nothing left to gain
        low, high = difference(often[passes], whole[passes])
        verdict: Verdict = "found" if low > 0 else "not found" if high < 0 else "unclear"
        outcome = {"found": "finds more", "not found": "finds fewer"}.get(verdict, "makes no clear difference")
        what = (
            f"{wording.writing(chunks[-1])} instead of {wording.writing(HAYSTACK)} {outcome}, after "
            f"{wording.readings(passes)},"
        )
        change = f"{wording.percent(whole[passes].value)} → {wording.percent(often[passes].value)}"
        sorted_out.setdefault((verdict, what), []).append(f"{wording.size(length)} ({change})")
    return [
        Finding(verdict, f"{model}: {what} at {wording.listing(where)}.")
        for (verdict, what), where in sorted_out.items()
    ]


def limit_findings(results: NiahResults, most: int = 3) -> list[Finding]:
    """For each model with fast weights the settings of the main context in which it finds under half."""
    context = main_context(results)
    if context is None:
        return []
    findings = []
    for model in sorted(filter(writes, results.models(context)), key=model_rank):
        found = results.overall[context][model]
        best: dict[tuple[int, int, str], Measurement] = {}
        for setting, measurement in found.items():
            key = (setting.length, setting.needles, setting.write_chunk)
            if key not in best or measurement.value > best[key].value:
                best[key] = measurement
        weak = sorted((key for key in best if best[key].value < 0.5), key=lambda key: best[key].value)
        if not weak:
            lowest = min(best, key=lambda key: best[key].value)
            where = _where(*lowest)
            text = f"{model} finds at least half of the needles in every setting, given enough readings; least"
            findings.append(Finding("note", f"{text} at {where}: {wording.rate_in_words(best[lowest])}."))
            continue
        cases = [f"{_where(*key)} ({wording.percent(best[key].value)})" for key in weak[:most]]
        more = f", and in {len(weak) - most} more settings" if len(weak) > most else ""
        text = f"{model} finds under half of the needles, however often it reads, at {wording.listing(cases)}"
        findings.append(Finding("limit", f"{text}{more}."))
    return findings


def difference(one: Measurement, other: Measurement) -> tuple[float, float]:
    """95% interval for the difference of two rates; (−1, 1), which says nothing, if one has no count."""
    if not one.n or not other.n:
        return -1.0, 1.0
    return newcombe_interval(one.successes, one.n, other.successes, other.n)


def _line(found: Mapping[Setting, Measurement], length: int, write_chunk: str) -> dict[int, Measurement]:
    """Measurements by number of readings."""
    chosen = {s.passes: m for s, m in found.items() if (s.length, s.write_chunk) == (length, write_chunk)}
    return dict(sorted(chosen.items()))


def _chunks(found: Mapping[Setting, Measurement], length: int) -> list[str]:
    return sorted({setting.write_chunk for setting in found if setting.length == length}, key=chunk_order)


def best_at(found: Mapping[Setting, Measurement], length: int) -> Measurement | None:
    return max((m for s, m in found.items() if s.length == length), key=lambda m: m.value, default=None)


def _where(length: int, needles: int, write_chunk: str) -> str:
    return f"{wording.size(length)} with {needles} needles and {wording.writing(write_chunk)}"


def _chance(probability: float) -> str:
    return f"one in {wording.grouped(round(1 / probability))}" if probability > 0 else "none"
