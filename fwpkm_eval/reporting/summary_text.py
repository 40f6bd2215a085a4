"""The words about the perplexity task: against the baseline, with writes off, along a document.

Bits per byte move from training to training, by several percent between short ones. So the trainings that a run has
judge: a change is found where the interval over their changes leaves out zero. Of one training there is no interval,
and whatever it shows is called a finding of these weights.
"""

from __future__ import annotations

from collections.abc import Sequence

from fwpkm_eval.reporting import published, wording
from fwpkm_eval.reporting.contrasts import RelativeChange, relative_change
from fwpkm_eval.reporting.finding import Finding, Verdict
from fwpkm_eval.reporting.measurements import TextKey, TextResult, model_rank, spec_of, writes
from fwpkm_eval.reporting.sets import SetFacts
from fwpkm_eval.reporting.tables_text import baseline_key, frozen_of, frozen_result

HARDLY = 0.005
"""A relative change of bits per byte below this is called none, whatever it rests on."""


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
    compared: list[tuple[RelativeChange, str, str]] = []
    if base and base_key:
        compared.append((relative_change(bits, base), base_key.model, f"{base.value:.3f}"))
    if frozen:
        compared.append((relative_change(bits, frozen), "itself with writes off", f"{frozen.value:.3f}"))
    if not compared:
        return Finding("note", f"{text}. Nothing was measured to hold it against.")
    text += ": " + wording.listing([_against(*one) for one in compared])
    verdict = _verdict([change for change, _, _ in compared])
    along = ""
    if "fwpkm" in published.memories_of(spec_of(key.model)):
        along = _gain_along(results[key], frozen_result(key, results))
    beside = _as_published(key, compared[0][0].value, sets) if base else ""
    copying = _beside_copying(results[key], results[base_key], base_key.model) if base_key else ""
    return Finding(verdict, f"{text}.{along}{beside}{copying}")


def _beside_copying(result: TextResult, base: TextResult, base_name: str) -> str:
    """What the memory saves where copying from the text read so far is to be had without it."""
    ours, theirs = result.with_match_model, base.with_match_model
    if ours is None or theirs is None:
        return ""
    change = _against(relative_change(ours, theirs), f"{base_name} with one", f"{theirs.value:.3f}")
    return (
        f" With a match model, which copies what followed the same context before, it needs {ours.value:.3f}: {change}."
    )


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


def _verdict(changes: Sequence[RelativeChange]) -> Verdict:
    """Found or worse where all trainings' intervals say so; what one training did is of these weights."""
    if not all(change.by_training for change in changes):
        return "of these weights" if all(abs(change.value) >= HARDLY for change in changes) else "unclear"
    if all(change.direction < 0 and change.value <= -HARDLY for change in changes):
        return "found"
    if any(change.direction > 0 and change.value >= HARDLY for change in changes):
        return "worse"
    return "not found" if all(abs(change.value) < HARDLY for change in changes) else "unclear"


def _against(change: RelativeChange, what: str, value: str) -> str:
    """``14.1% less than gdn+swa (2.050; 95% interval −19.2% to −9.0% over 2 trainings)``."""
    less = "about as many as" if abs(change.value) < HARDLY else f"{wording.more_or_less(change.value)} than"
    over = ""
    if change.low is not None and change.high is not None:
        interval = f"{wording.change(change.low)} to {wording.change(change.high)}"
        over = f"; 95% interval {interval} over {len(change.by_training)} trainings"
    return f"{less} {what} ({value}{over})"
