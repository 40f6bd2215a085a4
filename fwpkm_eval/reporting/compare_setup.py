"""In what two runs were made otherwise: their manifests, held against each other."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from fwpkm_eval.runs.manifest import as_mapping, differences

TRAINED_WITH = ("seed", "sets", "data_hash")
"""What of a training, beside its recipe, makes other weights."""
_PLACES = ("in A", "in B")


def setup_differences(
    before: Mapping[str, Any] | None, after: Mapping[str, Any] | None, of_two_kinds: Collection[str] = ()
) -> list[str]:
    """What differs between two manifests, in words, apart from when and where they were written.

    ``of_two_kinds``: names under which models of two kinds are held against each other, whose settings are of course
    not the same.
    """
    if before is None or after is None:
        missing = [name for name, manifest in (("A", before), ("B", after)) if manifest is None]
        return [f"{' and '.join(missing)} has no manifest.json: config, data and versions are not known"]
    found = differences(_made_with(before), _made_with(after), places=_PLACES)
    there, here = as_mapping(before.get("models")), as_mapping(after.get("models"))
    for name in sorted(there.keys() & here.keys()):
        found += _model_differences(name, as_mapping(there[name]), as_mapping(here[name]), name in of_two_kinds)
    return found


def _made_with(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What of a manifest can make values differ, by the names that `manifest.check_or_create` gives."""
    parts = {name: manifest.get(name) or {} for name in ("config", "data", "weights", "versions", "device")}
    commit = manifest.get("git_commit")
    return parts | ({"git_commit": commit} if commit else {})


def _model_differences(name: str, there: Mapping[str, Any], here: Mapping[str, Any], of_two_kinds: bool) -> list[str]:
    """In what a model that both runs describe (`describe_model`) has other settings or was trained otherwise."""
    found = []
    if not of_two_kinds:
        found = _differences(name, as_mapping(there.get("settings")), as_mapping(here.get("settings")))
    if not (found or of_two_kinds) and there.get("config_sha256") != here.get("config_sha256"):
        found = [f"{name} is as its scale has it in A and in B, but the two versions have other scales"]
    ours, theirs = (as_mapping(model.get("training")) for model in (there, here))
    found += _differences(f"{name} recipe", as_mapping(ours.get("recipe")), as_mapping(theirs.get("recipe")))
    first, second = ({key: training[key] for key in TRAINED_WITH if key in training} for training in (ours, theirs))
    return found + differences(first, second, name=f"{name} training", places=_PLACES)


def _differences(name: str, there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Of two models' unusual settings: what is unusual in one alone has its usual value in the other."""
    usual = {key: as_mapping(both).get("usual") for one in (there, here) for key, both in one.items()}
    first, second = (
        {key: as_mapping(one[key]).get("is") if key in one else usual[key] for key in usual} for one in (there, here)
    )
    return differences(first, second, name=name, places=_PLACES)
