"""Which trained models a command measures: names of shipped ones, or folders of checkpoints."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fwpkm_eval.commands.options import Given, Parsed, refuse_no_models
from fwpkm_eval.errors import UserError, shown

if TYPE_CHECKING:
    from fwpkm_eval.runs.jobs import ModelSource


ALL = "all"
"""In place of models: every one of the scale's plan."""
LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")


LABEL_RULE = "a label is letters, digits, '.', '_' and '-', at most 40"


@dataclass(frozen=True)
class Labelled:
    """A model with what the user calls it, so that tables tell it from others of the same name."""

    label: str
    model: str | Path

    def __str__(self) -> str:
        return f"{self.label}={self.model}"


Chosen = str | Path | Labelled
"""A model as it was asked for: its name, the folder of its checkpoint, or either with a label."""


def label_and_model(chosen: Chosen) -> tuple[str, str | Path]:
    """A model's label, "" for none, and its name or folder."""
    return (chosen.label, chosen.model) if isinstance(chosen, Labelled) else ("", chosen)


def names_or_folders(text: str) -> tuple[Chosen, ...]:
    """The models of a list such as ``gdn,gdn:fwpkm@2,runs/mine,top32=runs/top32``: names, or folders (they hold a /),
    with a label before a = or without; or `ALL`."""
    from fwpkm_eval.reference_models.notation import split_model_names

    refuse_no_models(text)
    if text.strip() == ALL:
        return (ALL,)
    found: dict[Chosen, None] = {}
    for part in split_model_names(text):
        label, equals, model = part.partition("=")
        if not equals or "/" in label or Path(part).is_dir():
            found[name_or_folder(part)] = None
        elif LABEL.fullmatch(label) and model:
            found[Labelled(label, name_or_folder(model))] = None
        else:
            raise UserError(f"{shown(part)} is no LABEL=MODEL: {LABEL_RULE}, as in top32=runs/top32")
    return tuple(found)


def name_or_folder(text: str) -> str | Path:
    """A model's canonical name, or the folder that is meant: it holds a /, or is there."""
    from fwpkm_eval.reference_models.notation import parse_model_name

    return Path(text) if "/" in text or Path(text).is_dir() else parse_model_name(text).name


models = click.option(
    "--models",
    "--model",
    "models",
    type=Parsed("models", names_or_folders, lists=True),
    default=None,
    metavar="NAMES",
    help="Models, separated by commas: names, or folders that hold a checkpoint, also as LABEL=FOLDER; all: every one "
    "of the scale's plan. [default: by scale]",
)


def chosen(models: Sequence[Chosen] | None, scale: str) -> tuple[Chosen, ...]:
    """What ``--models`` chose: the models of the scale's plan if nothing, with its further ones if `ALL`."""
    from fwpkm_eval.runs.plan import models_of, plan_of

    if models is None or tuple(models) == (ALL,):
        return models_of(plan_of(scale), everything=models is not None)
    return tuple(models)


def find_sources(models: Sequence[Chosen] | None, scale: str, given: Given) -> list[ModelSource]:
    """The checkpoints of ``models``; of those in the scale's plan that are shipped, if they are not named.

    Raises UserError for one that is not there or damaged, for none at all, for one that is given twice, and for a
    folder of another scale than the one asked for.
    """
    from fwpkm_eval.api import find_checkpoint
    from fwpkm_eval.reference_models.checkpoint import load_checkpoint
    from fwpkm_eval.runs.jobs import read_source
    from fwpkm_eval.runs.plan import models_of, plan_of

    if models is not None and tuple(models) != (ALL,):
        folders = [(find_checkpoint(model, scale), label) for label, model in map(label_and_model, models)]
    else:
        folders, missing = [], None
        for model in models_of(plan_of(scale), everything=models is not None):
            try:
                folders.append((find_checkpoint(model, scale), ""))
            except UserError as error:
                missing = missing or error
        if missing is not None and not folders:
            raise missing
    for folder, _ in folders:
        load_checkpoint(folder)  # so that one that is damaged is refused now, and not cell by cell
    sources = [read_source(folder, given.device, given.dtype, label) for folder, label in folders]
    _refuse_another_scale(sources, scale)
    _refuse_two_of_one_name(sources)
    if len({(source.name, source.weights_hash) for source in sources}) < len(sources):
        raise UserError("the same model is given twice")
    return sources


def _refuse_another_scale(sources: Sequence[ModelSource], scale: str) -> None:
    """A folder says itself of which scale it is; ``--scale`` beside it, where it was typed, must not say another."""
    context = click.get_current_context(silent=True)
    if context is None or context.get_parameter_source("scale") is not click.core.ParameterSource.COMMANDLINE:
        return
    for source in sources:
        if source.config.scale != scale:
            raise UserError(f"{source.checkpoint} is of scale {source.config.scale}, not {scale}: leave out --scale")


def _refuse_two_of_one_name(sources: Sequence[ModelSource]) -> None:
    """Checkpoints of one name and label are trainings of one model to every table; with other settings they are not."""
    from fwpkm_eval.api import shipped_weights
    from fwpkm_eval.training.savepoints import first_difference

    first: dict[str, ModelSource] = {}
    for source in sources:
        other = first.setdefault(source.name, source)
        difference = first_difference(other.config.to_dict(), source.config.to_dict())
        if difference is None:
            there, here = _trained_by(other), _trained_by(source)
            both = there.keys() & here.keys()  # older checkpoints and those made elsewhere tell less
            difference = first_difference({name: there[name] for name in both}, {name: here[name] for name in both})
        if difference is not None:
            own = other if source.weights_hash == shipped_weights(source.config.name, source.config.scale) else source
            raise UserError(
                f"{source.checkpoint} is {source.name} as {other.checkpoint} is, but {difference}: tell them apart "
                f"by a label, as in mine={own.checkpoint}"
            )


def _trained_by(source: ModelSource) -> dict[str, Any]:
    """What a checkpoint says of its training, without what differs between trainings of one kind."""
    from fwpkm_eval.reference_models.checkpoint import read_description

    training = read_description(source.checkpoint).get("training") or {}
    recipe = {f"recipe.{name}": value for name, value in (training.get("recipe") or {}).items() if name != "seed"}
    return recipe | ({"data_hash": training["data_hash"]} if "data_hash" in training else {})
