"""What the rows show, in plain words: what was found, what was not, and how sure that is.

Every sentence is made from the rows. Two rates are called different only where Newcombe's 95% interval for
their difference leaves out zero.
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
from fwpkm_eval.reporting.summary_niah import (
    control_findings,
    limit_findings,
    recall_findings,
    rereading_findings,
)
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
    rates = sum(len(of) for by_model in niah_results(frame).overall.values() for of in by_model.values())
    parts = ["two rates are called different only where the 95% interval of their difference leaves out zero"]
    parts = parts if rates > 1 else []
    if len(text_results(frame)) > 1:
        parts.append(f"bits per byte {'' if parts else 'are called different '}only where they differ by at least 0.5%")
    if parts:
        said.append(wording.sentence(f"{'; '.join(parts)}."))
    return " ".join(said)


def caveats(
    frame: pandas.DataFrame, needles: NiahResults, texts: dict[TextKey, TextResult], sets: SetFacts
) -> list[Finding]:
    """What to keep in mind: samples, seeds, scale, stand-ins, and what went wrong or was not measured."""
    found = []
    counts = sorted(
        {m.n for by_model in needles.overall.values() for of in by_model.values() for m in of.values() if m.n}
    )
    if counts:
        span = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        found.append(
            f"Each rate comes from {span} samples; 95% intervals cover the draw of samples, not another "
            "training of the models."
        )
    measured = frame[frame["task"].isin(["ppl", "niah"])]
    if seeds := _seeds(measured):
        found.append(f"Measured with {seeds}.")
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
            ("speed", _has(frame, "bench") or _has(frame, "cost")),
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


def _has(frame: pandas.DataFrame, task: str) -> bool:
    return bool((frame["task"] == task).any())
