"""Published numbers, each with its source, and how far they can be compared with ours.

They stand beside our numbers in a column of their own and are never mixed with them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from fwpkm_eval.reference_models.notation import FAST_WEIGHTS
from fwpkm_eval.training.recipe import RECIPES

PAPER = "arXiv 2601.00671v2"
SECONDARY = "a secondary report, not confirmed by the paper"

BASELINE, PKM, FWPKM, MIXED = "gdn", "gdn:pkm@2,6,10", "gdn:fwpkm@2,6,10", "gdn:pkm@6+fwpkm@2,10"


@dataclass(frozen=True)
class Published:
    """One published number. ``sign`` is ``=``, or ``<``, ``>``, ``≈`` where only that was said.

    ``length`` counts tokens and ``passes`` readings; None where the number is not about one of them.
    """

    task: str
    model: str
    dataset: str
    metric: str
    value: float
    sign: str = "="
    length: int | None = None
    passes: int | None = None
    note: str = ""
    source: str = PAPER

    @property
    def text(self) -> str:
        """The number as it was published, such as ``88.6%``, ``< 10%`` or ``18.09``."""
        if self.metric == "exact_match":
            number = f"{self.value * 100:.3g}%"
        else:
            number = f"{self.value:.2f}" if self.task == "ppl" else f"{self.value:g}"
        return number if self.sign == "=" else f"{self.sign} {number}"


def _perplexities(model: str, fineweb_edu: float, lc64: float, lambada: float) -> list[Published]:
    values = {"Fineweb-Edu": fineweb_edu, "LC64": lc64, "LAMBADA": lambada}
    return [Published("ppl", model, name, "perplexity", value) for name, value in values.items()]


PUBLISHED: tuple[Published, ...] = (
    *_perplexities(BASELINE, 19.73, 10.12, 32.91),
    *_perplexities(PKM, 18.27, 9.22, 29.97),
    *_perplexities(FWPKM, 18.09, 8.89, 26.73),
    *_perplexities(MIXED, 17.39, 8.54, 25.91),
    Published("niah", FWPKM, "LAMBADA", "exact_match", 0.886, length=4096, note="best number of readings"),
    Published("niah", FWPKM, "LAMBADA", "exact_match", 0.758, length=131072, note="best number of readings"),
    Published("niah", FWPKM, "LAMBADA", "exact_match", 0.10, "<", passes=1, note="“1-iter”"),
    Published("niah", FWPKM, "LAMBADA", "exact_match", 0.50, ">", passes=2, note="“2-iter”"),
    Published("niah", FWPKM, "LAMBADA", "exact_match", 0.70, ">", note="more than 2 iterations"),
    Published("niah", "fa", "LAMBADA", "exact_match", 0.10, "<", note="long haystacks: single digits"),
    Published("cost", BASELINE, "", "samples per second", 54, note="training on 4×H100"),
    Published("cost", FWPKM, "", "samples per second", 19, "≈", note="35%, put down to immature kernels"),
    Published("cost", FWPKM, "", "million parameters", 519, note="116 M active; the baseline has 112 M"),
)
"""What the paper says about the tasks that this version measures."""

SECONDARY_REPORT: tuple[Published, ...] = tuple(
    Published("ppl", model, name, "perplexity", value, source=SECONDARY)
    for name, values in {
        "WikiText-103 (4K to 32K)": (18.7, 17.9, 15.2),
        "OpenWebText (4K to 64K)": (21.4, 20.6, 18.1),
    }.items()
    for model, value in zip(("base", "PKM", "FwPKM"), values, strict=True)
) + tuple(
    Published("niah", model, "", "exact_match", value, length=131072, note="retrieval", source=SECONDARY)
    for model, value in zip(("base", "PKM", "FwPKM"), (0.0012, 0.0031, 0.028), strict=True)
)
"""Numbers that the paper never confirmed, kept apart; no conclusion is drawn from them."""

STANDS_IN_FOR: Mapping[str, str] = {"docs": "Fineweb-Edu", "source": "LC64", "manual": "LAMBADA"}
"""The embedded sets and the published corpora they stand in for."""


def corpus_key(name: str) -> str:
    """What a corpus is recognised by, however it is written: ``wikitext103`` for ``WikiText-103 (4K to 32K)``."""
    return "".join(sign for sign in name.partition(" (")[0].lower() if sign.isalnum())


def memories_of(model: str) -> frozenset[str]:
    """The kinds of memory in a model's name: ``{"pkm", "fwpkm"}`` for ``gdn:pkm@6+fwpkm@2,10``."""
    _, _, memories = model.partition(":")
    return frozenset(part.partition("@")[0] for part in memories.split("+") if part)


def has_fast_weights(model: str) -> bool:
    """Whether a model of this name writes while it reads."""
    return not memories_of(model).isdisjoint(FAST_WEIGHTS)


def nearest_published_model(model: str, task: str) -> str | None:
    """The model with published numbers for ``task`` that has the same kinds of memory as ``model``, if any.

    A model of the same name comes first, then one of the same backbone.
    """
    backbone = model.partition(":")[0]
    candidates = {p.model for p in PUBLISHED if p.task == task and memories_of(p.model) == memories_of(model)}
    if not candidates:
        return None
    return min(candidates, key=lambda name: (name != model, name.partition(":")[0] != backbone, name))


def find(task: str, model: str | None, dataset: str | None, **fields: object) -> Published | None:
    """The paper's number for ``model`` on ``dataset`` with the other fields as given, or None."""
    for published in PUBLISHED:
        if (published.task, published.model, published.dataset) == (task, model, dataset) and all(
            getattr(published, name) == value for name, value in fields.items()
        ):
            return published
    return None


def published_loss_change(model: str | None, dataset: str | None) -> float | None:
    """How the paper's loss per token on ``dataset`` changes from its baseline to ``model`` (−0.056: 5.6%
    less).

    Computed from the published perplexities, ``log(ppl) / log(ppl of the baseline) − 1``: unlike perplexity
    itself, a relative change of loss can be held against a relative change of bits per byte.
    """
    ours, base = find("ppl", model, dataset), find("ppl", BASELINE, dataset)
    if ours is None or base is None or model == BASELINE:
        return None
    return math.log(ours.value) / math.log(base.value) - 1


DIGITS = 6
"""Of a needle's number, in the published harness."""


def differences(task: str, scale: str, stand_in: bool, model: str, published_model: str) -> list[str]:
    """What keeps our number from being held against the published one, in plain words; empty if nothing does."""
    found = []
    if scale != "paper":
        found.append(f"a model of scale {scale}" if scale else "a model of another size")
    recipe = RECIPES.get(scale)
    if task == "niah" and recipe is not None and recipe.needle_share > 0:
        found.append("training on questions of this wording (the published model had read texts alone)")
    if model.partition(":")[0] != published_model.partition(":")[0]:
        found.append("another backbone")
    elif scale == "paper" and model != published_model:
        found.append("other memory layers")
    if stand_in:
        found.append("stand-in text")
    return found


def comparable(found: list[str]) -> str:
    """What may be compared, given the differences: the value itself or only its direction."""
    return "direction" if found else "value"
