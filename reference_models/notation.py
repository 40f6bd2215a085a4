"""The notation models are named in: ``BACKBONE[:MEMORY[@LAYERS][+MEMORY[@LAYERS]]…]``.

``gdn``, ``fa:pkm@2,6,10`` and ``gdn+swa:pkm@6+fwpkm@2,10`` are examples; layers count from 0. A memory
without ``@LAYERS`` stands at the layers that the scale has for it. One model has one name: memories are
put in the order of ``MEMORIES`` and layers in rising order, so ``gdn:fwpkm@10,2`` is named
``gdn:fwpkm@2,10``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from fwpkm_eval.errors import UserError, shown, unknown

BACKBONES = ("gdn", "gdn+swa", "gdn+fa", "fa")
MEMORIES = ("pkm", "fwpkm", "fwmlp", "lact")
FAST_WEIGHTS = ("fwpkm", "fwmlp", "lact")
"""The memories that are written while a model reads; each stands before a layer's mixer."""

_LAYER = re.compile(r"[0-9]{1,4}", re.ASCII)


@dataclass(frozen=True)
class ModelSpec:
    """A backbone and its memory layers, checked and in canonical order.

    ``memories`` holds ``(memory, layers)`` pairs; ``layers`` is empty where the scale's default is meant.

    Raises:
        UserError: an unknown backbone or memory, a memory named twice, a negative layer, a layer given twice.
    """

    backbone: str
    memories: tuple[tuple[str, tuple[int, ...]], ...] = ()

    def __post_init__(self) -> None:
        if self.backbone not in BACKBONES:
            raise unknown("backbone", self.backbone, BACKBONES)
        holder: dict[int, str] = {}
        kinds: set[str] = set()
        for kind, layers in self.memories:
            if kind not in MEMORIES:
                raise unknown("memory", kind, MEMORIES)
            if kind in kinds:
                raise UserError(f"memory {kind!r} is named twice: give all its layers at once, as in {kind}@2,10")
            kinds.add(kind)
            for layer in layers:
                if layer < 0:
                    raise UserError(f"layer {layer} of memory {kind!r} is negative: layers count from 0")
                if layer in holder:
                    both = f"twice to {kind}" if holder[layer] == kind else f"to both {holder[layer]} and {kind}"
                    raise UserError(f"layer {layer} is given {both}: a layer holds one memory")
                holder[layer] = kind
        in_order = sorted(self.memories, key=lambda memory: MEMORIES.index(memory[0]))
        object.__setattr__(self, "memories", tuple((kind, tuple(sorted(layers))) for kind, layers in in_order))

    @property
    def name(self) -> str:
        """The canonical text; ``parse_model_name`` gives this spec back for it."""
        memories = "+".join(
            f"{kind}@{','.join(map(str, layers))}" if layers else kind for kind, layers in self.memories
        )
        return f"{self.backbone}:{memories}" if memories else self.backbone

    def layers(self, memory: str) -> tuple[int, ...]:
        """The layers that hold ``memory``, in rising order; empty if none, or if left to the scale."""
        return dict(self.memories).get(memory, ())

    @property
    def has_fast_weights(self) -> bool:
        """Whether a memory of this model is written while it reads."""
        return any(kind in FAST_WEIGHTS for kind, _ in self.memories)

    def with_default_layers(self, defaults: Mapping[str, tuple[int, ...]]) -> ModelSpec:
        """This spec with the layers of ``defaults`` for each memory that was named without layers.

        Raises:
            UserError: ``defaults`` has no layers for such a memory, or they clash with another memory's.
        """
        filled = []
        for kind, layers in self.memories:
            layers = layers or defaults.get(kind, ())
            if not layers:
                raise UserError(f"memory {kind!r} has no default layers at this scale: name them, as in {kind}@2")
            filled.append((kind, layers))
        return ModelSpec(self.backbone, tuple(filled))

    def check_layers(self, n_layers: int) -> None:
        """Refuses memory layers that a model of ``n_layers`` layers does not have.

        Raises:
            UserError: names the layer and the valid range.
        """
        for kind, layers in self.memories:
            for layer in layers:
                if layer >= n_layers:
                    raise UserError(
                        f"layer {layer} of memory {kind!r} is out of range: "
                        f"the model has {n_layers} layers at this scale, valid: 0 to {n_layers - 1}"
                    )


def parse_model_name(text: str) -> ModelSpec:
    """The spec that ``text`` names.

    Raises:
        UserError: says in one line what is wrong with the name and what is valid.
    """
    text = text.strip()
    if not text:
        raise UserError(f"empty model name: give a backbone ({', '.join(BACKBONES)}), as in gdn:fwpkm@2")
    backbone, colon, memories = text.partition(":")
    if backbone not in BACKBONES:
        raise _unknown_backbone(backbone)
    if not colon:
        return ModelSpec(backbone)
    if not memories:
        raise UserError(f"no memory after ':' in {shown(text)}: valid: {', '.join(MEMORIES)}")
    return ModelSpec(backbone, tuple(_parse_memory(part, text) for part in memories.split("+")))


def split_model_names(text: str) -> list[str]:
    """The names in a list like ``gdn,gdn:fwpkm@2,10,fa``: a comma before a number continues the layers."""
    names: list[str] = []
    for part in text.split(","):
        if names and re.match(r"\s*-?[0-9]", part):
            names[-1] += f",{part}"
        else:
            names.append(part.strip())
    return names


def _parse_memory(part: str, text: str) -> tuple[str, tuple[int, ...]]:
    kind, at, layers = part.partition("@")
    if kind not in MEMORIES:
        raise _unknown_memory(kind, at, text)
    if not at:
        return kind, ()
    if not layers:
        raise UserError(f"no layers after '@' in {shown(part)}: give numbers, as in {kind}@2,10")
    return kind, tuple(_parse_layer(layer, part) for layer in layers.split(","))


def _parse_layer(layer: str, part: str) -> int:
    if _LAYER.fullmatch(layer) is None:
        raise UserError(f"bad layer {shown(layer)} in {shown(part)}: layers are numbers from 0, as in fwpkm@2,10")
    return int(layer)


def _unknown_backbone(backbone: str) -> UserError:
    if not backbone:
        return UserError(f"no backbone before ':': valid: {', '.join(BACKBONES)}")
    base, _, memory = backbone.rpartition("+")
    if memory.partition("@")[0] in MEMORIES and base in BACKBONES:
        return UserError(f"unknown backbone {shown(backbone)}: a memory comes after ':', as in {base}:{memory}")
    base, at, _ = backbone.partition("@")
    if at and base in BACKBONES:
        return UserError(f"layers without a memory in {shown(backbone)}: name one, as in {base}:fwpkm@2")
    if base in MEMORIES:
        return UserError(f"no backbone in {shown(backbone)}: a memory needs one, as in gdn:{base}@2")
    return UserError(f"{unknown('backbone', backbone, BACKBONES)} (a checkpoint's folder is named with a /: ./mine)")


def _unknown_memory(kind: str, at: str, text: str) -> UserError:
    if not kind:
        return UserError(f"no memory name in {shown(text)}: valid: {', '.join(MEMORIES)}")
    name = kind.rstrip("0123456789,")
    if not at and name in MEMORIES:
        return UserError(f"missing '@' in {shown(kind)}, did you mean '{name}@{kind.removeprefix(name)}'?")
    if kind in BACKBONES or kind == "swa":
        return UserError(f"{kind!r} in {shown(text)} is part of a backbone: it comes before ':'")
    return unknown("memory", kind, MEMORIES)
