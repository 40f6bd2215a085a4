"""What the rows show, in plain words: what was found, what was not, and how sure that is.

Every sentence is made from the rows. When two numbers are called different is decided in ``contrasts``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fwpkm_eval.reporting import wording
from fwpkm_eval.reporting.finding import Finding
from fwpkm_eval.reporting.measurements import (
    NiahResults,
    TextKey,
    TextResult,
    broken_memories,
    diverged,
    niah_results,
    text_results,
)
from fwpkm_eval.reporting.sets import SetFacts
from fwpkm_eval.reporting.summary_ablation import ablation_findings
from fwpkm_eval.reporting.summary_capacity import capacity_findings
from fwpkm_eval.reporting.summary_niah import limit_findings, rereading_findings
from fwpkm_eval.reporting.summary_recall import CLOSED_BOOK, control_findings, recall_findings
from fwpkm_eval.reporting.summary_speed import speed_findings
from fwpkm_eval.reporting.summary_text import text_findings

if TYPE_CHECKING:
    import pandas


TRAINED_HERE = {"ablation": "The models of the ablation", "capacity": "The memories of several sizes"}
"""Tasks whose cells train the models that they measure, each seed anew."""


def summarise(frame: pandas.DataFrame, sets: SetFacts | None = None) -> dict[str, list[Finding]]:
    """Findings under the questions that they answer; questions without an answer are left out."""
    sets = sets or SetFacts()
    needles, texts = niah_results(frame), text_results(frame)
    answers = {
        "Does the memory hold facts?": [*recall_findings(needles), *control_findings(needles)],
        "What do re-readings and more frequent writes buy?": rereading_findings(needles),
        "Where does it fail?": limit_findings(needles),
        "How much does it hold?": capacity_findings(frame),
        "Does it help on long text?": text_findings(texts, sets),
        "Which part of it matters?": ablation_findings(frame),
        "What does it cost?": speed_findings(frame),
        "How sure is this?": caveats(frame, needles, texts, sets),
    }
    return {question: findings for question, findings in answers.items() if findings}


def rules(frame: pandas.DataFrame) -> str:
    """What the findings go by, as far as there are such findings."""
    said = ["Made from the rows, without a hand in it."]
    needles, texts = niah_results(frame), text_results(frame)
    if sum(len(of) for by_model in needles.overall.values() for of in by_model.values()) > 1:
        said.append(
            "Two rates are called different, of the weights measured and not of another training, only where Fisher's "
            "exact test gives p < 0.05."
        )
        if any(context.protocol == CLOSED_BOOK for context in needles.overall):
            said.append(
                "Closed book, where a model without fast weights cannot know, a rate is held against chance (binomial, "
                "p < 0.05)."
            )
        said.append(
            "There are many such sentences and none is corrected for that: where there is no difference, up to one "
            "sentence in twenty tells of one."
        )
    if len(texts) > 1:
        said.append(
            "Bits per byte are called different only where Student's 95% interval over several trainings of the models "
            "leaves out zero; of one training each, “of these weights” says what was measured, and another training "
            "may differ from it by as much as two models do."
        )
    return " ".join(said)


def caveats(
    frame: pandas.DataFrame, needles: NiahResults, texts: dict[TextKey, TextResult], sets: SetFacts
) -> list[Finding]:
    """What to keep in mind: samples, seeds, scale, stand-ins, and what went wrong or was not measured."""
    found = []
    rates = [m for by_model in needles.overall.values() for of in by_model.values() for m in of.values()]
    bits = [result.bits_per_byte for result in texts.values() if result.bits_per_byte]
    trainings = max((m.trainings for m in [*rates, *bits]), default=1)
    counts = sorted({m.samples for m in rates if m.samples})
    shared = any(m.distinct for m in rates)
    if counts:
        span = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        how = f"each asked of {trainings} trainings" if shared else f"those of {trainings} trainings taken together"
        pooled = f", {how} (tables show them apart)" if trainings > 1 else ""
        found.append(
            f"Each rate comes from {span} samples{pooled}; 95% intervals cover the draw of samples, not another "
            "training of the models."
        )
    measured = frame[frame["task"].isin(["ppl", "niah"])]
    if seeds := _seeds(measured):
        found.append(f"Measured with {seeds}{_of_trainings(measured, trainings)}.")
    if trainings == 1 and len(bits) > 1:
        found.append(
            "Bits per byte are of one training of each model: another may differ from it by as much as two models do."
        )
    for task, what in TRAINED_HERE.items():
        if seeds := _seeds(frame[frame["task"] == task]):
            found.append(f"{what} were trained and measured with {seeds}.")
    measured = frame[frame["task"].isin(["ppl", "niah", *TRAINED_HERE])]
    scale = "+".join(sorted(set(measured["scale"]) - {"", "paper"}))
    stand_ins = [sets.title(name) for name in sorted(set(measured["dataset"])) if sets.is_stand_in(name)]
    if scale or stand_ins:
        why = [f"the models are of scale {scale}"] if scale else []
        why += [f"the text is {wording.listing(stand_ins)}"] if stand_ins else []
        found.append(f"Values cannot be held against published ones, only directions: {wording.listing(why)}.")
    findings = [Finding("note", text) for text in found]
    for model, task, dataset, share in diverged(frame):
        unit = "answers" if task == "niah" else "tokens"
        text = f"{model} diverged: {wording.percent(share)} of the {unit} on {dataset} have no finite loss."
        findings.append(Finding("not found", text))
    for model, task, dataset, chunk, layer, tokens in broken_memories(frame):
        reading = "haystacks" if task == "niah" else dataset
        every = {"": "", "haystack": " with one write a reading"}.get(chunk, f" with a write every {chunk} tokens")
        text = f"{model} on {reading}{every}: the memory of layer {layer} had diverged after {tokens:,} tokens."
        findings.append(Finding("not found", text))
    missing = [
        name
        for name, there in (
            ("needles", needles.overall),
            ("perplexity", texts),
            ("cost", _has(frame, "bench") or _has(frame, "cost")),
        )
        if not there
    ]
    # A run of one kind alone (an ablation, a benchmark) was never to have the others.
    whole = bool(needles.overall or texts) or frame.empty
    if missing and whole:
        findings.append(Finding("note", f"Not measured in this run: {wording.listing(missing)}."))
    return findings


def _seeds(rows: pandas.DataFrame) -> str:
    """``one seed (0)``, ``3 seeds``; nothing where no row has one."""
    seeds = sorted({int(seed) for seed in rows["seed"].dropna()})
    if not seeds:
        return ""
    return f"one seed ({seeds[0]})" if len(seeds) == 1 else f"{len(seeds)} seeds"


def _of_trainings(rows: pandas.DataFrame, trainings: int) -> str:
    """How the seeds and the trainings go together, where there are several trainings."""
    if trainings < 2:
        return ""
    one = len(set(rows["seed"].dropna())) == 1
    return (
        f"; the {trainings} trainings of a model were asked of the same samples"
        if one
        else ", each a training of its own"
    )


def _has(frame: pandas.DataFrame, task: str) -> bool:
    return bool((frame["task"] == task).any())
