"""The words about the perplexity task: against the baseline, with writes off, along a document."""

from __future__ import annotations

from fwpkm_eval.reporting import published, wording
from fwpkm_eval.reporting.finding import Finding, Verdict
from fwpkm_eval.reporting.measurements import TextKey, TextResult, model_rank, spec_of, writes
from fwpkm_eval.reporting.sets import SetFacts
from fwpkm_eval.reporting.tables_text import baseline_key, frozen_of, frozen_result

HARDLY = 0.005
"""A relative change of bits per byte below this is called none: seeds alone move more."""


def text_findings(results: dict[TextKey, TextResult], sets: SetFacts) -> list[Finding]:
    """For each set and model with fast weights: bits per byte against its baseline and itself frozen."""
    keys = [key for key in results if not key.frozen and writes(key.model)]
    order = list(dict.fromkeys((key.dataset, key.scope) for key in keys))
    keys.sort(key=lambda key: (order.index((key.dataset, key.scope)), model_rank(key.model)))
    return [_text_finding(key, results, sets) for key in keys]


def _text_finding(key: TextKey, results: dict[TextKey, TextResult], sets: SetFacts) -> Finding:
    bits = results[key].bits_per_byte
    base_key = baseline_key(key, results)
    base = results[base_key].bits_per_byte if base_key else None
    frozen = frozen_of(key, results)
    if bits is None:
        return Finding("not found", f"On {sets.title(key.dataset)}, {key.model} diverged: its loss is not finite.")
    text = f"On {sets.title(key.dataset)}, {key.model} needs {bits.value:.3f} bits per byte"
    compared: list[tuple[float, str]] = []
    if base and base_key:
        compared.append((bits.value / base.value - 1, f"{base_key.model} ({base.value:.3f})"))
    if frozen:
        compared.append((bits.value / frozen.value - 1, f"itself with writes off ({frozen.value:.3f})"))
    if not compared:
        return Finding("note", f"{text}. Nothing was measured to hold it against.")
    text += ": " + wording.listing([f"{_against(ratio)} {what}" for ratio, what in compared])
    ratios = [ratio for ratio, _ in compared]
    verdict: Verdict = "unclear"
    if all(ratio <= -HARDLY for ratio in ratios):
        verdict = "found"
    elif any(ratio >= HARDLY for ratio in ratios) or all(abs(ratio) < HARDLY for ratio in ratios):
        verdict = "not found"
    along = ""
    if "fwpkm" in published.memories_of(spec_of(key.model)):
        along = _gain_along(results[key], frozen_result(key, results))
    beside = _as_published(key, compared[0][0], sets) if base else ""
    return Finding(verdict, f"{text}.{along}{beside}")


def _gain_along(written: TextResult, frozen: TextResult | None) -> str:
    """What writing is worth early and late in a document."""
    shared = sorted(set(written.by_position) & set(frozen.by_position)) if frozen else []
    if frozen is None or len(shared) < 2:
        return ""
    gains = [written.by_position[at].value / frozen.by_position[at].value - 1 for at in (shared[0], shared[-1])]
    return (
        f" Writing changes it by {wording.change(gains[0])} in the first {wording.size(shared[0])} tokens "
        f"of a document and by {wording.change(gains[1])} in the tokens up to {wording.size(shared[-1])}."
    )


def _as_published(key: TextKey, ours: float, sets: SetFacts) -> str:
    corpus = sets.published_name(key.dataset)
    near = published.nearest_published_model(spec_of(key.model), "ppl")
    theirs = published.published_loss_change(near, corpus)
    if theirs is None:
        return ""
    same = (ours < -HARDLY) == (theirs < -HARDLY)
    return (
        f" The paper's loss on {corpus} changes by {wording.change(theirs)} ({near} against "
        f"{published.BASELINE}): {'the same direction' if same else 'not the same direction'}."
    )


def _against(ratio: float) -> str:
    return "about as many as" if abs(ratio) < HARDLY else f"{wording.more_or_less(ratio)} than"
