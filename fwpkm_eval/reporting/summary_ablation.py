"""The words about the ablations: which part matters most, which may matter not at all, which scoring is better."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from fwpkm_eval.ablations import SCORES
from fwpkm_eval.reporting import wording
from fwpkm_eval.reporting.finding import Finding
from fwpkm_eval.reporting.measurements_ablation import (
    BETTER,
    WITHIN,
    WORSE,
    Difference,
    Results,
    Values,
    ablation_results,
    against_reference,
    bits_values,
    difference,
    found_values,
    haystack_size,
    needle_counts,
)
from fwpkm_eval.reporting.tables_ablation import difference_text

if TYPE_CHECKING:
    import pandas

Text = Callable[[Difference], str]

ONE_TRAINING = " (one training each, so no interval)"


def ablation_findings(frame: pandas.DataFrame) -> list[Finding]:
    """For needles and for text, under each scoring, what hurts most; then the scorings against each other."""
    results = ablation_results(frame)
    if not results:
        return []
    size, findings = haystack_size(frame), []
    for needles in needle_counts(results):
        values = found_values(results, needles)
        what = f"{needles} needles at {size}"
        findings += _of_measure(what, values, results, as_rate=True, text=_points)
    findings += _of_measure("bits per byte of text", bits_values(results), results, as_rate=False, text=_bits)
    return [*findings, *_scorings(results, size)]


def _of_measure(what: str, values: Values, results: Results, *, as_rate: bool, text: Text) -> list[Finding]:
    """One sentence for each scoring: arms whose differences are larger than the seeds' spread, and the others."""
    findings = []
    for score in SCORES:
        found = {
            arm: against
            for arm, of_score in results
            if of_score == score and (against := against_reference(values, arm, score, as_rate=as_rate)) is not None
        }
        if found and all(against.neither for against in found.values()):
            of_all = f"neither the reference nor {wording.listing(list(found))} finds any"
            none = f"{wording.sentence(what)}, scoring {score}: {of_all}, so that nothing can be told of these parts."
            findings.append(Finding("unclear", none))
            continue
        told = {arm: against for arm, against in found.items() if against.low is not None}
        if found and not told:
            apart = sorted(found, key=lambda arm: -abs(found[arm].mean))
            each = wording.listing([f"{arm} {text(found[arm])}" for arm in apart])
            alone = f"{wording.sentence(what)}, scoring {score}, against the reference{ONE_TRAINING}: {each}."
            findings.append(Finding("unclear", alone))
        if not told:
            continue
        worse = sorted(
            (arm for arm, against in told.items() if against.verdict == WORSE), key=lambda arm: -abs(told[arm].mean)
        )
        better = [arm for arm, against in told.items() if against.verdict == BETTER]
        neither = [arm for arm, against in told.items() if against.neither]
        within = [arm for arm, against in told.items() if against.verdict == WITHIN]
        parts = []
        if worse:
            listed = [f"{arm} ({text(told[arm])})" for arm in worse]
            parts.append(f"hurt by {wording.listing(listed)}{', the most first' if len(listed) > 1 else ''}")
        if better:
            parts.append(f"better with {wording.listing([f'{arm} ({text(told[arm])})' for arm in better])}")
        if within:
            parts.append(f"within the seeds' spread: {wording.listing(within)}")
        if neither:
            parts.append(f"finding none, as the reference: {wording.listing(neither)}")
        sentence = f"{wording.sentence(what)}, scoring {score}: {'; '.join(parts)}."
        findings.append(Finding("found" if worse or better else "unclear", sentence))
    return findings


def _scorings(results: Results, size: str) -> list[Finding]:
    """Dot product against inverse distances with nothing taken away."""
    idw, dot = results.get(("reference", "idw")), results.get(("reference", "dot"))
    if idw is None or dot is None:
        return []
    parts = []
    for needles in needle_counts(results):
        against = difference(dot.found_of(needles), idw.found_of(needles), as_rate=True)
        if against is not None:
            parts.append(f"{needles} needles at {size}: {_points(against)}{_verdict(against)}")
    bits = difference(dot.bits, idw.bits, as_rate=False)
    if bits is not None:
        parts.append(f"bits per byte: {_bits(bits)}{_verdict(bits)}")
    return [Finding("note", f"Dot-product scoring against inverse distances: {'; '.join(parts)}.")] if parts else []


def _verdict(found: Difference) -> str:
    return ONE_TRAINING if found.low is None else f", {found.verdict}"


def _points(found: Difference) -> str:
    return difference_text(found, True)


def _bits(found: Difference) -> str:
    return difference_text(found, False)
