"""Settings as they are written on a command line: ``fwpkm.topk=32``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fwpkm_eval.errors import UserError, shown
from fwpkm_eval.reference_models.notation import MEMORIES

if TYPE_CHECKING:
    from fwpkm_eval.reference_models.notation import ModelSpec

_RECIPE, _BACKBONE, _CHUNK_SIZE = "recipe", "backbone", "chunk_size"
Setting = tuple[str, Any]


def parse_setting(text: str) -> Setting:
    """``fwpkm.query_conv=[16,0]`` as ("fwpkm.query_conv", [16, 0]): of a memory, the backbone, the recipe, or
    ``chunk_size``. Whether there is such a setting, and whether it can be that, is not known here.

    Raises:
        UserError: a text that is no setting and its value.
    """
    key, equals, value = (part.strip() for part in text.partition("="))
    if not (equals and is_setting(key)):
        raise UserError(
            f"{shown(text)} is not a setting and its value, such as fwpkm.query_conv=0, {_BACKBONE}.window=128, "
            f"{_CHUNK_SIZE}=256 or {_RECIPE}.needle_share=0.1"
        )
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def is_setting(key: str) -> bool:
    """Whether a name is formed as that of a setting."""
    owner, _, name = key.partition(".")
    return key == _CHUNK_SIZE or (owner in (*MEMORIES, _BACKBONE, _RECIPE) and bool(name))


def setting_text(key: str, value: Any) -> str:
    """A setting as `parse_setting` reads it."""
    return f"{key}={value if isinstance(value, str) else json.dumps(value, separators=(',', ':'))}"


def by_owner(settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings of the model, and those of the recipe by their names in it."""
    of_recipe = {name: value for key, value in settings.items() if (name := key.removeprefix(f"{_RECIPE}.")) != key}
    return {key: value for key, value in settings.items() if not key.startswith(f"{_RECIPE}.")}, of_recipe


def check_settings(settings: Sequence[Setting], spec: ModelSpec) -> None:
    """Refuses a setting of a memory that the model does not have, one that is given twice, and the vocabulary's size.

    Raises:
        UserError: which it is.
    """
    for key, _ in settings:
        owner = key.partition(".")[0]
        if owner in MEMORIES and owner not in {kind for kind, _ in spec.memories}:
            raise UserError(f"{key}: {spec.name} has no {owner}, such as {spec.backbone}:{owner}")
    if len(dict(settings)) < len(settings):
        keys = [key for key, _ in settings]
        twice = next(key for at, key in enumerate(keys) if key in keys[:at])
        raise UserError(f"{twice} is given twice")
    if f"{_BACKBONE}.vocab_size" in dict(settings):
        raise UserError(f"{_BACKBONE}.vocab_size: the vocabulary is that of the scale's tokenizer")
