"""The words about speed: the scan against the dense reference, its operations, the peer's layer, whole models."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from fwpkm_eval.reporting import wording
from fwpkm_eval.reporting.finding import Finding
from fwpkm_eval.reporting.tables_bench import OPERATIONS, PASSES_IN_WORDS
from fwpkm_eval.reporting.tables_cost import cost_ratios, share_in_words
from fwpkm_eval.reporting.tables_speed import ratio_text, speedups

if TYPE_CHECKING:
    import pandas

_OPERATIONS = ("lookup", "read", "write", "addressing", "pkm")


def speed_findings(frame: pandas.DataFrame) -> list[Finding]:
    """A sentence for each implementation of the scan, one for all operations, and one for each whole model."""
    findings: list[Finding] = []
    scans: dict[str, list[tuple[str, float]]] = defaultdict(list)
    operations: list[tuple[str, float]] = []
    for speedup in speedups(frame):
        family, _, rest = speedup.name.partition("/")
        if family == "scan":
            scans[rest].append((speedup.what, speedup.ratio))
        elif family == "layer":
            peer = speedup.what.removeprefix("over peer ")
            text = f"Our layer is {wording.times(speedup.ratio)} as fast as the peer package's ({peer})."
            findings.append(Finding("note" if speedup.ratio > 1 else "limit", text))
        elif family in _OPERATIONS:
            if speedup.what == "forward":
                operations.append((OPERATIONS.get(family, family) + _backend(rest), speedup.ratio))
        else:
            text = f"{wording.sentence(speedup.name)} is {wording.times(speedup.ratio)} as fast as the reference"
            text += f" ({speedup.what})." if speedup.what else "."
            findings.append(Finding("note" if speedup.ratio > 1 else "limit", text))
    scan_findings = []
    for name, ratios in scans.items():
        backend, _, setting = name.partition(", ")
        how = "" if not setting else " (both with malloc told to keep freed memory)"
        passes = [f"{ratio_text(ratio)} {PASSES_IN_WORDS.get(what.replace(' ', '_'), what)}" for what, ratio in ratios]
        listed = wording.listing(passes)
        text = f"The scan, backend {backend}: {listed} the speed of the dense reference{how}."
        scan_findings.append(Finding("note" if min(ratio for _, ratio in ratios) > 1 else "limit", text))
    if operations:
        listed = wording.listing([f"{name} {ratio_text(ratio)}" for name, ratio in operations])
        findings.append(Finding("note", f"One by one, forward, against the reference's: {listed}."))
    return [*_cost_findings(frame), *scan_findings, *findings, *_model_findings(frame)]


def _cost_findings(frame: pandas.DataFrame) -> list[Finding]:
    """What a memory costs a whole model, as multiples of the same backbone without it."""
    findings = []
    for model, ratios in cost_ratios(frame).items():
        parts = []
        if {"parameters", "active parameters"} <= set(ratios):
            active = wording.change(ratios["active parameters"].value - 1)
            parts.append(
                f"{ratio_text(ratios['parameters'].value)} the parameters (those active for a token: {active})"
            )
        if "FLOPs per token" in ratios:
            parts.append(f"{wording.change(ratios['FLOPs per token'].value - 1)} FLOPs per token")
        speeds = [
            f"{verb} at {share_in_words(ratios[name])}"
            for name, verb in (("time, reading", "reads"), ("time, training", "trains"))
            if name in ratios
        ]
        if speeds:
            parts.append(f"{wording.listing(speeds)} of its speed")
        if parts:
            findings.append(Finding("note", f"{model} against its backbone alone: {'; '.join(parts)}."))
    return findings


def _backend(rest: str) -> str:
    return "" if rest == "torch" else f" ({rest})"


def _model_findings(frame: pandas.DataFrame) -> list[Finding]:
    """How fast a model with a memory trains, as a share of its backbone's speed."""
    rows = frame[(frame["task"] == "bench") & (frame["metric"] == "share_of_backbone_speed_training")]
    return [
        Finding("note", f"{row['model']} trains at {row['value']:.0%} of the speed of its backbone ({row['device']}).")
        for row in rows.to_dict("records")
    ]
