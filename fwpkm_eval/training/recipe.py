"""What a training run is made of; the same for every model of a scale."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from fwpkm_eval.errors import UserError, unknown
from fwpkm_eval.reference_models.config import ModelConfig
from fwpkm_eval.reference_models.notation import FAST_WEIGHTS
from fwpkm_eval.settings import read_settings

Layout = Literal["needles", "packed"]
_EXERCISES = ("exercise_tokens", "exercise_steps")
_MEMORY = ("rows_at_once", "recompute")
OPTIONS = {
    "steps": "--steps",
    "seed": "--seed",
    "rows": "--rows",
    "rows_at_once": "--rows-at-once",
    "bf16": "--precision",
    "recompute": "--recompute",
}
"""Fields of a recipe that `fwpkm-eval train` has options for."""


@dataclass(frozen=True)
class Recipe:
    """How a model is trained.

    A step reads `rows` rows of `tokens` tokens: the global batch, however many processes share it.

    layout "needles": the first half of the rows go on through documents, a row each; each of the others holds, with
    probability needle_share, needles and asks for them, and else goes on through a document, too. The memory's values
    return to their start with each new document of the first row (after `document_pieces` rows at most).
    layout "packed": documents joined with end tokens and cut into pieces of tokens + 1; each row reads on through its
    own part of the text, and the memory is never reset (as published; the paper does not say in which order it reads).

    loss = mean over all tokens + answer_weight · mean over the answers' digits.

    exercise_tokens, exercise_steps: before step exercise_steps[i] a step reads as many tokens in rows of only
    exercise_tokens[i], half of them text and half with needles; full attention sees each whole, and the memory's values
    return to their start in every step. In short rows full attention learns to look an answer up, in long ones it does
    not begin to; and a step reads text from many places in place of one, which helps the backbones.

    chunks: sizes in tokens of a memory write, drawn per step; in exercises at most half a row, so that needles are
    written before they are asked for. pswa: the share of steps in which full attention sees a window. bf16: activations
    of 16 bits on CUDA; fast weights, optimizer and slow weights keep 32.

    rows_at_once: at most so many rows are read at a time by a process, into one memory, accumulating gradients (None:
    all of them); recompute: mixers and MLPs keep no activations. Without the two, `paper`'s 128 rows of 4,096 tokens
    would take hundreds of GiB.
    """

    steps: int = 2400
    tokens: int = 1024
    learning_rate: float = 2e-3
    final_rate: float = 0.1
    warmup: int = 100
    weight_decay: float = 0.1
    clip: float = 1.0
    answer_weight: float = 2.0
    document_pieces: int = 16
    needle_share: float = 0.35
    dense_share: float = 0.5
    chunks: tuple[int, ...] = (64, 128, 256)
    sets: tuple[str, ...] = ("source", "docs")
    seed: int = 0
    rows: int = 2
    layout: Layout = "needles"
    pswa: float = 0.0
    bf16: bool = False
    rows_at_once: int | None = None
    recompute: bool = False
    exercise_tokens: tuple[int, ...] = ()
    exercise_steps: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.layout not in get_args(Layout):
            raise unknown("layout", self.layout, list(get_args(Layout)))
        for name in ("steps", "tokens", "document_pieces", "rows", "rows_at_once"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not self.chunks or min(self.chunks) < 1:
            raise UserError(f"chunks is {self.chunks}; it must hold sizes of at least 1 token")
        if not self.sets:
            raise UserError("sets is empty; it must name at least one set of texts")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise UserError(f"learning_rate is {self.learning_rate}; it must be a number above 0")
        if self.layout == "needles" and self.rows % 2:
            raise UserError(f"rows is {self.rows}; it must be even, since half of the rows hold documents")
        for name in ("needle_share", "dense_share", "pswa", "final_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be 0 to 1")
        for name in ("warmup", "weight_decay", "answer_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"{name} is {getattr(self, name)}; it must be a number of at least 0")
        if not self.clip > 0:
            raise UserError(f"clip is {self.clip}; it must be a number above 0")
        if len(self.exercise_tokens) != len(self.exercise_steps):
            raise UserError("exercise_tokens and exercise_steps differ in number; each size needs its last step")
        if any(one < 1 or self.tokens % one for one in self.exercise_tokens):
            raise UserError(
                f"exercise_tokens is {self.exercise_tokens}; each must divide a row of {self.tokens} tokens"
            )
        if list(self.exercise_steps) != sorted(self.exercise_steps):
            raise UserError(f"exercise_steps is {self.exercise_steps}; they must not fall")
        if self.exercise_steps and self.exercise_steps[-1] >= self.steps:
            raise UserError(f"exercise_steps is {self.exercise_steps}; they must leave some of the {self.steps} steps")
        if self.exercise_steps and self.layout == "packed":
            raise UserError("layout packed has no exercises: leave exercise_tokens and exercise_steps out")

    def shortened(self, steps: int) -> Recipe:
        """The same recipe with another number of steps, its exercises the same share of them."""
        ends = tuple(end * steps // self.steps for end in self.exercise_steps)
        return replace(self, steps=steps, exercise_steps=ends)

    def changed(self, settings: Mapping[str, Any], **fields: Any) -> Recipe:
        """The same recipe with other values of some fields, by their names; ``fields`` are not the user's.

        Raises:
            UserError: a field that there is not, or that `train` has an option for; a value that does not fit.
        """
        for name in settings:
            if name in OPTIONS:
                raise UserError(f"recipe.{name} has an option of its own: {OPTIONS[name]}")
        return replace(self, **read_settings(settings, Recipe), **fields)

    @property
    def warm_up_note(self) -> str | None:
        """What to say of a training that ends before its learning rate has risen; None where it has."""
        if self.steps >= self.warmup:
            return None
        return (
            f"{'1 step ends' if self.steps == 1 else f'{self.steps} steps end'} within the recipe's {self.warmup} "
            "steps of warm-up: the learning rate comes to "
            f"{self.learning_rate * self.steps / self.warmup:.2g} of {self.learning_rate:g}"
        )

    def to_dict(self) -> dict[str, Any]:
        """As checkpoints and cells' keys hold it: what not every recipe has only where there is some, as before there
        was any."""
        left_out = [
            *(_EXERCISES if not self.exercise_steps else ()),
            *(name for name in _MEMORY if not getattr(self, name)),
        ]
        return {name: value for name, value in asdict(self).items() if name not in left_out}

    @staticmethod
    def from_dict(data: dict[str, Any]) -> Recipe:
        settings: Any = {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}
        return Recipe(**settings)


# The windows (pswa) are for full attention alone: without them a memory beside it would never be needed.
_MICRO = Recipe(steps=3300, exercise_tokens=(128, 256, 512), exercise_steps=(500, 1300, 1700), pswa=0.5)
# micro's mixture at 4,096 tokens, after short rows, in which micro learns to answer within a hundred steps. Four steps
# of 8 rows fill a memory of 512² slots as a haystack of 128K tokens does, before its values start anew; 49 M tokens in
# all.
_SMALL = Recipe(
    steps=1500,
    tokens=4096,
    rows=8,
    learning_rate=1e-3,
    document_pieces=4,
    needle_share=0.7,
    chunks=(512, 1024, 2048),
    pswa=0.9,
    bf16=True,
    exercise_tokens=(256, 1024),
    exercise_steps=(150, 450),
)
# arXiv 2601.00671: 10 B tokens, half LongCrawl64 and half Fineweb-Edu, AdamW, cosine to a tenth.
_PAPER = Recipe(
    steps=20_000,
    tokens=4096,
    rows=128,
    learning_rate=1e-3,
    answer_weight=0.0,
    needle_share=0.0,
    chunks=(512,),
    sets=("lc64", "fineweb_edu"),
    layout="packed",
    pswa=0.9,
    bf16=True,
    # A GPU of 80 GB holds the 32 rows that each of the paper's four read at once, if activations are made anew in the
    # backward pass (169 KiB a token of `gdn` in place of 1,240).
    rows_at_once=32,
    recompute=True,
)
RECIPES: dict[str, Recipe] = {"micro": _MICRO, "small": _SMALL, "paper": _PAPER}


def lookahead_note(config: ModelConfig, recipe: Recipe) -> str | None:
    """What to say of a lookahead that leaves chunks of a training without a write of values; None where all write."""
    shortest = min([*recipe.chunks, *(size // 2 for size in recipe.exercise_tokens)])
    for kind in FAST_WEIGHTS:
        lookahead = getattr(config, kind).lookahead
        if config.spec.layers(kind) and lookahead >= shortest:
            return (
                f"{kind}.lookahead is {lookahead}: chunks of no more tokens write nothing, and this training has some "
                f"of {shortest}"
            )
    return None


def recipe_for(config: ModelConfig, data: str = "embedded", exercises: bool = True, needles: bool = True) -> Recipe:
    """The recipe of a model's scale, with the training sets that `data` has in place of those it does not.

    exercises: whether training begins with the short rows that the recipe has, if it has any; without them every step
    has long ones. needles: whether rows hold needles and questions, if the recipe has them; without them all is text,
    as the published models were trained, and there are no exercises either, which are half needles. Raises UserError
    for a scale that has no recipe.
    """
    if config.scale not in RECIPES:
        raise unknown("scale with a training recipe", config.scale, list(RECIPES))
    recipe = RECIPES[config.scale]
    if not (exercises and needles):
        recipe = replace(recipe, exercise_tokens=(), exercise_steps=())
    if not needles:
        recipe = replace(recipe, needle_share=0.0, answer_weight=0.0)
    return replace(recipe, sets=sets_there_are(recipe.sets, data))


def sets_there_are(wanted: tuple[str, ...], data: str) -> tuple[str, ...]:
    """The sets wanted, if `data` has all of them to train on; else every one that it has.

    Raises UserError if it has none.
    """
    from fwpkm_eval.data import available_sets
    from fwpkm_eval.data.corpora.catalog import CORPORA

    if data == "hub" and set(wanted) <= set(CORPORA):
        return wanted  # who misses one is told how to prepare it
    there = tuple(info.name for info in available_sets(data) if "train" in info.splits)
    if not there:
        raise UserError(f"no set in {data!r} has a train split (a file <set>/train.jsonl or <set>/train.jsonl.gz)")
    return wanted if set(wanted) <= set(there) else there
