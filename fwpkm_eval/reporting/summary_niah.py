"""The words about the needle task: what re-reading and more frequent writes buy, where the memory fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fwpkm_eval.reporting import published, wording
from fwpkm_eval.reporting.contrasts import contrast
from fwpkm_eval.reporting.finding import Finding, Verdict
from fwpkm_eval.reporting.measurements import (
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

USUAL_LENGTH = 4096


def main_context(results: NiahResults) -> Context | None:
    """The context that tells most about memory: closed book if it was measured."""
    return next((context for context in results.overall if results.models(context)), None)


def usual_length(models: Mapping[str, Mapping[Setting, Measurement]]) -> int:
    """4K if it was measured, else the shortest longer one, else the longest."""
    lengths = sorted({setting.length for found in models.values() for setting in found})
    return next((length for length in lengths if length >= USUAL_LENGTH), lengths[-1])


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
            lines = {length: line_of(models[model], length, write_chunk) for length in lengths}
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
        outcome = contrast(line[last], line[first])
        change = f"{wording.percent(line[first].value)} → {wording.percent(line[last].value)}"
        span = f"from {wording.readings(first)} to {last}"
        key: tuple[Verdict, str]
        if outcome > 0:
            key = ("found", f"going {span} finds more")
        elif outcome < 0:
            key = ("worse", f"going {span} finds fewer")
        elif line[first].value == 1.0 == line[last].value:
            key = ("note", "one reading already finds all" if first == 1 else "the first reading finds all")
        elif line[first].value == line[last].value == 0.0:
            key = ("not found", f"{wording.readings(first)} and {last} find none either way")
        else:
            key = ("unclear", f"going {span} makes no difference that so few samples could show")
        shown = f" ({change})" if key[0] not in ("note", "not found") else ""
        sorted_out.setdefault(key, []).append(f"{wording.size(length)}{shown}")
    return [
        Finding(verdict, f"{model} with {wording.writing(write_chunk)}: {what} at {wording.listing(where)}.")
        for (verdict, what), where in sorted_out.items()
    ]


def _write_findings(model: str, found: Mapping[Setting, Measurement], lengths: Sequence[int]) -> list[Finding]:
    """After the fewest readings: the most frequent writes against one write per reading."""
    sorted_out: dict[tuple[Verdict, str], list[str]] = {}
    for length in lengths:
        chunks = chunks_of(found, length)
        if len(chunks) < 2 or chunks[0] != HAYSTACK:
            continue
        whole, often = line_of(found, length, HAYSTACK), line_of(found, length, chunks[-1])
        passes = min(set(whole) & set(often), default=None)
        if passes is None or whole[passes].value == often[passes].value == 1.0:
            continue  # nothing to compare, or nothing left to gain
        verdict, outcome = _WRITES[contrast(often[passes], whole[passes])]
        shown = f" ({wording.percent(whole[passes].value)} → {wording.percent(often[passes].value)})"
        if whole[passes].value == often[passes].value == 0.0:
            verdict, outcome, shown = "not found", "finds none either way", ""
        what = (
            f"{wording.writing(chunks[-1])} instead of {wording.writing(HAYSTACK)} {outcome}, after "
            f"{wording.readings(passes)},"
        )
        sorted_out.setdefault((verdict, what), []).append(f"{wording.size(length)}{shown}")
    return [
        Finding(verdict, f"{model}: {what} at {wording.listing(where)}.")
        for (verdict, what), where in sorted_out.items()
    ]


_WRITES: Mapping[int, tuple[Verdict, str]] = {
    1: ("found", "finds more"),
    0: ("unclear", "makes no clear difference"),
    -1: ("worse", "finds fewer"),
}


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
        if not weak and all(measured.value == 1 for measured in best.values()):
            findings.append(Finding("note", f"{model} finds every needle in every setting, given enough readings."))
            continue
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


def line_of(found: Mapping[Setting, Measurement], length: int, write_chunk: str) -> dict[int, Measurement]:
    """Measurements by number of readings."""
    chosen = {s.passes: m for s, m in found.items() if (s.length, s.write_chunk) == (length, write_chunk)}
    return dict(sorted(chosen.items()))


def chunks_of(found: Mapping[Setting, Measurement], length: int) -> list[str]:
    return sorted({setting.write_chunk for setting in found if setting.length == length}, key=chunk_order)


def best_at(found: Mapping[Setting, Measurement], length: int) -> Measurement | None:
    return max((m for s, m in found.items() if s.length == length), key=lambda m: m.value, default=None)


def _where(length: int, needles: int, write_chunk: str) -> str:
    return f"{wording.size(length)} with {needles} needles and {wording.writing(write_chunk)}"
