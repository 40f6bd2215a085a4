"""The ablations: what is taken from the model one part at a time, and how each model of them is trained and measured.

An arm is a change of `ModelConfig`; every arm is trained and measured beside its reference, the same model without
the change, with the same scoring and the same seeds.

Source of the arms: arXiv 2601.00671v2, ablation study; heads, top-k and query convolution are this project's additions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from fwpkm_eval.errors import UserError, shown, unknown
from fwpkm_eval.model_settings import by_owner, check_settings, parse_setting, setting_text
from fwpkm_eval.runs.rows import FROZEN

if TYPE_CHECKING:
    from fwpkm_eval.reference_models.config import ModelConfig
    from fwpkm_eval.training.recipe import Recipe

SCORES = ("idw", "dot")
REFERENCE = "reference"


@dataclass(frozen=True)
class Arm:
    """One ablation: what it makes of the reference's settings, what it tests, and what was published about it."""

    name: str
    overrides: Mapping[str, Any] | Callable[[ModelConfig], Mapping[str, Any]]
    tests: str
    published: str = ""

    def changes(self, reference: ModelConfig) -> Mapping[str, Any]:
        """The settings that it changes, with their new values; those of the recipe begin with ``recipe.``."""
        return self.overrides(reference) if callable(self.overrides) else self.overrides


def _query_conv_everywhere(reference: ModelConfig) -> dict[str, Any]:
    taps = reference.fwpkm.query_conv
    return {"fwpkm.query_conv": taps if isinstance(taps, int) else max(taps)}


ARMS: dict[str, Arm] = {
    arm.name: arm
    for arm in (
        Arm(
            "no-lookahead",
            {"fwpkm.lookahead": 0},
            "each query is stored with its own token's value, not the next one's",
            "hurts most: at best 8.2% of needles at 4K against 80.8%",
        ),
        Arm(
            "no-entropy",
            {"fwpkm.addressing": "none"},
            "no loss spreads the reads over the slots; the memorisation loss trains the keys instead",
        ),
        Arm("no-gate", {"fwpkm.gate": False}, "the read is used alone and every token is written with full weight"),
        Arm(
            "no-gated-loss", {"fwpkm.gated_loss": False}, "the gate mixes read and value, but does not weigh the writes"
        ),
        Arm("no-target-norm", {"fwpkm.target_norm": False}, "values are stored as they are, not normalised"),
        Arm("heads4", {"fwpkm.heads": 4, "fwpkm.topk": 8}, "four queries a token, 8 slots each"),
        Arm("top32", {"fwpkm.heads": 1, "fwpkm.topk": 32}, "one query a token, 32 slots"),
        Arm(FROZEN, {}, "the reference as trained, never written while it is measured"),
        Arm("no-query-conv", {"fwpkm.query_conv": 0}, "the query sees its own token's features alone, as in the paper"),
        Arm(
            "query-conv-everywhere",
            _query_conv_everywhere,
            "the queries of every memory layer see the tokens before, not those of the first alone",
        ),
    )
}

_THE_SAME_FOR_ALL = ("recipe.steps", "recipe.rows", "recipe.rows_at_once", "recipe.seed")
JOIN = "+"
"""Between the parts of an arm of one's own."""


def arm_named(name: str) -> Arm:
    """One of `ARMS`; or an arm of one's own, settings and arms joined by ``+``: ``no-gate+fwpkm.topk=16``.

    Raises:
        UserError: a part that is neither an arm nor a setting, or a setting that an arm cannot change.
    """
    if name in ARMS:
        return ARMS[name]
    parts = [part.strip() for part in name.split(JOIN)]
    read = [parse_setting(part) if "=" in part else part for part in parts]
    for part in read:
        if isinstance(part, str):
            _check_part(part, alone=len(read) == 1)
        elif part[0] == "fwpkm.score":
            raise UserError("fwpkm.score is no arm: --scores says under which scorings all arms are trained")
        elif part[0] in _THE_SAME_FOR_ALL:
            raise UserError(f"{part[0]} is no arm: all are trained as long, with as many rows and the same seeds")
    names = [part if isinstance(part, str) else setting_text(*part) for part in read]
    tests = [ARMS[part].tests if isinstance(part, str) else f"{part[0]} is {part[1]}" for part in read]

    def overrides(reference: ModelConfig) -> dict[str, Any]:
        changed: dict[str, Any] = {}
        for part in read:
            changes = ARMS[part].changes(reference) if isinstance(part, str) else dict([part])
            if twice := sorted(changed.keys() & changes.keys()):
                raise UserError(f"arm {shown(name)} sets {twice[0]} twice")
            changed.update(changes)
        return changed

    return Arm(JOIN.join(names), overrides, "; ".join(tests))


def _check_part(part: str, *, alone: bool) -> None:
    if part not in ARMS:
        raise unknown("arm", part, [*ARMS, *(SCORES if alone else ()), "SETTING=VALUE"])
    if not alone and part == FROZEN:
        raise UserError(f"arm {FROZEN!r} is the reference as trained: it cannot be joined with another")


PUBLISHED_SCORING = (
    "the paper reports that dot-product scoring collapses or diverges and uses inverse distances (idw); a secondary "
    "account prefers dot for stability"
)


@dataclass(frozen=True)
class AblationPlan:
    """How the ablations of a scale are trained and measured.

    ``overrides`` are settings of every model in it. Needles are asked for in haystacks of ``length`` tokens, each of
    the numbers of ``needles``, ``samples`` haystacks for each seed; ``tokens`` of the text set are read for perplexity.
    """

    model: str
    recipe: Recipe
    overrides: Mapping[str, Any] = field(default_factory=dict)
    length: int = 4096
    needles: tuple[int, ...] = (5, 64)
    samples: int = 12
    passes: tuple[int, ...] = (1, 2, 4)
    write_chunks: tuple[int | str, ...] = ("haystack", 1024)
    protocols: tuple[str, ...] = ("open-book",)
    text: str = "source"
    tokens: int = 64 * 1024

    def to_config(self) -> dict[str, Any]:
        """What a run's manifest holds of it beside the recipe.

        The protocols only where they are not the default: runs from before there was a choice go on.
        """
        config = {name: value for name, value in asdict(self).items() if name != "recipe"}
        if config["protocols"] == AblationPlan.protocols:
            del config["protocols"]
        return config


def ablation_plan(scale: str, *, full: bool = False) -> AblationPlan:
    """The plan of a scale; full: of one whose models are trained as `train` would, and asked closed book.

    The micro model has one memory of 128² slots and learns recall within 150 steps: every arm gets 400, about 70 CPU
    seconds, half of it after the reference answers as well as it ever will. With 5 needles the reference then finds
    all of them, so 64 are asked for too. At small, a fifth of its models' training, meant for one GPU and not tried on
    one yet. At paper, training and test are as published. In full, the reference of micro and small is the scale's own
    model (at micro the shipped one) by its own recipe, and an arm takes as long to train. Raises UserError for a scale
    without a plan.
    """
    from fwpkm_eval.training.recipe import RECIPES, Recipe

    published = AblationPlan(
        model="gdn+swa:pkm@6+fwpkm@2,10",
        recipe=RECIPES["paper"],
        needles=(5,),
        samples=500,
        write_chunks=("haystack",),
        text="lc64",
        tokens=8 * 2**20,
    )
    in_full = {
        "micro": _in_full("gdn+swa:fwpkm@1,3", RECIPES["micro"]),
        "small": _in_full("gdn+swa:fwpkm@2,6", RECIPES["small"]),
        "paper": published,
    }
    plans = {
        "micro": AblationPlan(
            model="gdn+swa:fwpkm@2",
            recipe=Recipe(steps=400, tokens=512, needle_share=0.7, warmup=50),
            overrides={"fwpkm.subkeys": 128},
        ),
        "small": AblationPlan(
            model="gdn+swa:fwpkm@2,6", recipe=RECIPES["small"].shortened(300), samples=20, tokens=128 * 1024
        ),
        "paper": published,
    }
    if scale not in plans:
        raise unknown("scale with a plan of models to train", scale, plans)
    return in_full[scale] if full else plans[scale]


def _in_full(model: str, recipe: Recipe) -> AblationPlan:
    return AblationPlan(model=model, recipe=recipe, samples=20, protocols=("closed-book",), tokens=192 * 1024)


@dataclass(frozen=True)
class Trained:
    """One model to train for each seed: its arm (REFERENCE for none), its scoring, and whether to measure it frozen.

    ``overrides``: the settings that it changes, where they are not its arm's (`arm_named`).
    """

    arm: str
    score: str
    frozen_too: bool = False
    overrides: Mapping[str, Any] | None = None


def models_to_train(arms: Sequence[str], scores: Sequence[str]) -> list[Trained]:
    """What is trained for these arms: each under every scoring, after the references that they are held against.

    The arms ``idw`` and ``dot`` are the references of those scorings. Raises UserError for a name that is neither
    an arm nor a scoring.
    """
    arms = [arm if arm in SCORES else arm_named(arm).name for arm in arms]
    for score in scores:
        if score not in SCORES:
            raise unknown("scoring", score, SCORES)
    if not arms or not scores:
        raise UserError("nothing to compare: name at least one arm and one scoring")
    only_scores = set(arms) <= set(SCORES)
    wanted = [score for score in SCORES if score in arms or (score in scores and not only_scores)]
    found = [Trained(REFERENCE, score, FROZEN in arms and score in scores) for score in wanted]
    changed = [arm for arm in dict.fromkeys(arms) if arm not in (*SCORES, FROZEN)]
    return found + [Trained(arm, score) for arm in changed for score in SCORES if score in scores]


def arms_of(model: str, scale: str, plan: AblationPlan) -> tuple[str, ...]:
    """The arms that change something of the model at this scale: at paper it has no query convolution to take away."""
    from fwpkm_eval.reference_models.config import model_config

    reference = model_config(model, scale, **plan.overrides)
    changes = {name: {**plan.overrides, **arm.changes(reference)} for name, arm in ARMS.items()}
    return tuple(name for name in ARMS if name == FROZEN or model_config(model, scale, **changes[name]) != reference)


def ablated_config(model: str, scale: str, plan: AblationPlan, trained: Trained) -> ModelConfig:
    """The configuration of one arm under one scoring; see `ablated_training`."""
    return ablated_training(model, scale, plan, trained)[0]


def ablated_training(model: str, scale: str, plan: AblationPlan, trained: Trained) -> tuple[ModelConfig, Recipe]:
    """The configuration of one arm under one scoring, and the recipe that it is trained by.

    Raises UserError for a model without FwPKM, and for an arm that changes nothing of model and recipe.
    """
    from fwpkm_eval.reference_models.config import model_config

    common = {**plan.overrides, "fwpkm.score": trained.score}
    reference = model_config(model, scale, **common).trained_on(plan.recipe.tokens)
    if not reference.spec.layers("fwpkm"):
        raise UserError(f"the ablations are of FwPKM, and {reference.name} has none: name a model such as {plan.model}")
    if trained.arm == REFERENCE:
        return reference, plan.recipe
    overrides = arm_named(trained.arm).changes(reference) if trained.overrides is None else trained.overrides
    check_settings(list(overrides.items()), reference.spec)
    of_model, of_recipe = by_owner(overrides)
    recipe = plan.recipe.changed(of_recipe)
    config = model_config(model, scale, **{**common, **of_model}).trained_on(recipe.tokens)
    if trained.overrides is None and (config, recipe) == (reference, plan.recipe):
        raise UserError(f"arm {trained.arm!r} changes nothing of {reference.name} at scale {scale}: leave it out")
    return config, recipe
