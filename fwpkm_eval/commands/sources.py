"""Which trained models a command measures: names of shipped ones, or folders of checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fwpkm_eval.commands.options import Given, Parsed, refuse_no_models
from fwpkm_eval.errors import UserError

if TYPE_CHECKING:
    from fwpkm_eval.runs.jobs import ModelSource


ALL = "all"
"""In place of models: every one of the scale's plan."""


def names_or_folders(text: str) -> tuple[str | Path, ...]:
    """The models of a list such as ``gdn,gdn:fwpkm@2,runs/mine``: names, or folders (they hold a /); or `ALL`."""
    from fwpkm_eval.reference_models.notation import parse_model_name, split_model_names

    refuse_no_models(text)
    if text.strip() == ALL:
        return (ALL,)
    found: dict[str | Path, None] = {}
    for part in split_model_names(text):
        is_folder = "/" in part or Path(part).is_dir()
        found[Path(part) if is_folder else parse_model_name(part).name] = None
    return tuple(found)


models = click.option(
    "--models",
    "--model",
    "models",
    type=Parsed("models", names_or_folders, lists=True),
    default=None,
    metavar="NAMES",
    help="Models, separated by commas: names, or folders that hold a checkpoint; all: every one of the scale's plan. "
    "[default: by scale]",
)


def chosen(models: Sequence[str | Path] | None, scale: str) -> tuple[str | Path, ...]:
    """What ``--models`` chose: the models of the scale's plan if nothing, with its further ones if `ALL`."""
    from fwpkm_eval.runs.plan import models_of, plan_of

    if models is None or tuple(models) == (ALL,):
        return models_of(plan_of(scale), everything=models is not None)
    return tuple(models)


def find_sources(models: Sequence[str | Path] | None, scale: str, given: Given) -> list[ModelSource]:
    """The checkpoints of ``models``; of those in the scale's plan that are shipped, if they are not named.

    Raises UserError for one that is not there or damaged, for none at all, for one that is given twice, and for a
    folder of another scale than the one asked for.
    """
    from fwpkm_eval.api import find_checkpoint
    from fwpkm_eval.reference_models.checkpoint import load_checkpoint
    from fwpkm_eval.runs.jobs import read_source

    if models is not None and tuple(models) != (ALL,):
        folders = [find_checkpoint(model, scale) for model in models]
    else:
        folders, missing = [], None
        for model in chosen(models, scale):
            try:
                folders.append(find_checkpoint(model, scale))
            except UserError as error:
                missing = missing or error
        if missing is not None and not folders:
            raise missing
    for folder in folders:
        load_checkpoint(folder)  # so that one that is damaged is refused now, and not cell by cell
    sources = [read_source(folder, given.device, given.dtype) for folder in folders]
    _refuse_another_scale(sources, scale)
    if len({(source.name, source.weights_hash) for source in sources}) < len(sources):
        raise UserError("the same model is given twice")
    _refuse_two_of_one_name(sources)
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
    """Checkpoints of one name are trainings of one model to every table; with other settings they are not."""
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
            raise UserError(
                f"{source.checkpoint} is {source.name} as {other.checkpoint} is, but {difference}: measure them one by "
                "one, each into an --out folder of its own"
            )


def _trained_by(source: ModelSource) -> dict[str, Any]:
    """What a checkpoint says of its training, without what differs between trainings of one kind."""
    from fwpkm_eval.reference_models.checkpoint import read_description

    training = read_description(source.checkpoint).get("training") or {}
    recipe = {f"recipe.{name}": value for name, value in (training.get("recipe") or {}).items() if name != "seed"}
    return recipe | ({"data_hash": training["data_hash"]} if "data_hash" in training else {})
