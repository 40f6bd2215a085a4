"""Several runs in one report: their rows side by side, in a folder of their own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fwpkm_eval.errors import UserError
from fwpkm_eval.files import write_whole
from fwpkm_eval.reporting.gather import ROWS, Results, gather, in_order
from fwpkm_eval.reporting.measured_alike import check_measured_alike
from fwpkm_eval.reporting.measurements import FLOORS
from fwpkm_eval.reporting.trace_page import FOLDER as TRACES
from fwpkm_eval.runs.manifest import as_mapping, check_or_create, tidy, update_manifest
from fwpkm_eval.runs.replaced_rows import replace_rows
from fwpkm_eval.runs.rows import VARIANT_SEPARATOR, Row, without_values


@dataclass(frozen=True)
class Part:
    """A run that goes into a report of several: its ``--out`` folder, and a label for all its models, "" for none."""

    folder: Path
    label: str = ""

    def __str__(self) -> str:
        return f"{self.label}={self.folder}" if self.label else str(self.folder)

    def name(self, model: str) -> str:
        """What a model of this run is called beside those of others."""
        return f"{model}{VARIANT_SEPARATOR}{self.label}" if self.label and model and model not in FLOORS else model


def merge_runs(parts: Sequence[Part], out: Path, command: Sequence[str] = ()) -> list[str]:
    """Puts rows, manifest and traces of the runs into ``out``, a new folder or one of the same runs, for
    `build_report`.

    What several runs measured of the same weights is taken from the first that has it. Returns what is to be said of
    them: how many such rows had another value, and models of one name whose trainings may not be of one kind.

    Raises:
        UserError: a folder without results, runs of other text under one name, trainings of one model by other settings
            under one name, ablations that were trained or asked otherwise, runs that measured a task otherwise, or an
            ``out`` that holds something else.
    """
    if len({(part.folder.resolve(), part.label) for part in parts}) < len(parts):
        raise UserError("a run is named twice")
    found = [gather(part.folder) for part in parts]
    manifests = [as_mapping(result.manifest) for result in found]
    config = {"command": "report", "of": [str(part) for part in parts], **_shared_data(parts, manifests)}
    _check_trained_alike(parts, manifests)
    configs = [as_mapping(manifest.get("config")) for manifest in manifests]
    check_measured_alike([part.folder for part in parts], [result.cells for result in found], configs)
    texts = _texts(parts, manifests)
    models = _models(parts, manifests)
    rows, other = _rows(parts, found)
    notes = [f"other values in a later run of the same weights: {other}; the first run's are taken"] if other else []
    notes += _not_known_to_be_alike(rows, models)
    check_or_create(
        out, config, command=command, seeds=_all_seeds(manifests), data=texts, weights=_weights(parts, manifests),
        models=models, elsewhere=_measured_with(manifests),
    )  # fmt: skip
    replace_rows(in_order(rows), out / ROWS)
    for part in parts:
        for trace in sorted((part.folder / TRACES).glob("*.json")):
            write_whole(out / TRACES / f"{part.label}{'-' if part.label else ''}{trace.name}", trace.read_bytes())
    update_manifest(
        out,
        finished=all(manifest.get("finished") for manifest in manifests),
        of=[_origin(part, manifest) for part, manifest in zip(parts, manifests, strict=True)],
    )
    return notes


def _rows(parts: Sequence[Part], found: Sequence[Results]) -> tuple[list[Row], int]:
    """All rows under their names; and how many were left out whose value an earlier run has otherwise."""
    rows: dict[Row, Row] = {}
    others = 0
    for part, result in zip(parts, found, strict=True):
        own: dict[Row, Row] = {}
        for row in result.rows:
            named = replace(row, model=part.name(row.model))
            own.setdefault(without_values(named), named)
        others += sum(repr(own[key].value) != repr(rows[key].value) for key in own.keys() & rows.keys())
        rows = own | rows
    return list(rows.values()), others


def _shared_data(parts: Sequence[Part], manifests: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the config says of the runs' text; paths may be spelled otherwise: the texts have hashes."""
    values = [str(as_mapping(manifest.get("config")).get("data") or "") for manifest in manifests]
    kinds = {value if value in ("embedded", "hub", "") else "a path" for value in values} - {""}
    if len(kinds) > 1:
        which = ", ".join(f"{part.folder} of {value}" for part, value in zip(parts, values, strict=True) if value)
        raise UserError(f"these runs are of other data, and one report cannot say which is which: {which}")
    return {"data": next(value for value in values if value)} if kinds else {}


def _texts(parts: Sequence[Part], manifests: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    texts: dict[str, Any] = {}
    of: dict[str, Part] = {}
    for part, manifest in zip(parts, manifests, strict=True):
        for name, facts in as_mapping(manifest.get("data")).items():
            if as_mapping(texts.get(name, facts)).get("sha256") != as_mapping(facts).get("sha256"):
                raise UserError(f"{of[name].folder} and {part.folder} have other text under the name {name}")
            texts.setdefault(name, facts)
            of.setdefault(name, part)
    return texts


def _check_trained_alike(parts: Sequence[Part], manifests: Sequence[Mapping[str, Any]]) -> None:
    """Refuses ablations, and memories of several sizes, that were not all trained and asked alike: their rows do not
    say how they were, and would be taken for seeds of one."""
    first: dict[str, tuple[Part, dict[str, Any]]] = {}
    for part, manifest in zip(parts, manifests, strict=True):
        config = as_mapping(manifest.get("config"))
        command = str(config.get("command"))
        if command not in ("ablate", "capacity"):
            continue
        here = _flat({name: config.get(name) for name in ("model", "scale", "recipe", "plan")})
        other, there = first.setdefault(command, (part, here))
        differing = next((name for name in (*there, *here) if there.get(name) != here.get(name)), None)
        if differing is not None:
            raise UserError(
                f"{other.folder} and {part.folder} did not train and ask their models alike ({differing} is "
                f"{there.get(differing)} and {here.get(differing)}), and one report would mix them: make one of each"
            )


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """``{"recipe": {"steps": 3}}`` as ``{"recipe.steps": 3}``, one level deep."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        found |= {f"{name}.{key}": one for key, one in value.items()} if isinstance(value, Mapping) else {name: value}
    return found


def _models(parts: Sequence[Part], manifests: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The models that the runs describe; those of one name with other weights have the weights in theirs."""
    found: dict[str, Any] = {}
    for part, manifest in zip(parts, manifests, strict=True):
        for name, entry in as_mapping(manifest.get("models")).items():
            named, weights = part.name(name), str(as_mapping(entry).get("weights_hash"))
            other = found.get(named)
            if other is not None and _kind(other) != _kind(entry):
                raise UserError(
                    f"{named} of {part.folder} has other settings, or was trained otherwise, than {named} of an "
                    f"earlier one of the runs: give it a label, as in mine={part.folder}"
                )
            if other is not None and as_mapping(other).get("weights_hash") != weights:
                named = f"{named} {weights[:8]}"
            found.setdefault(named, entry)
    return found


def _kind(entry: Any) -> tuple[Any, ...]:
    """What trainings of one kind share."""
    facts = as_mapping(entry)
    training = as_mapping(facts.get("training"))
    return (facts.get("config_sha256"), training.get("recipe"), training.get("steps"), training.get("data_hash"))


def _weights(parts: Sequence[Part], manifests: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for part, manifest in zip(parts, manifests, strict=True):
        for name, weights in as_mapping(manifest.get("weights")).items():
            named = part.name(str(name))
            found.setdefault(named if found.get(named, weights) == weights else f"{named} {str(weights)[:8]}", weights)
    return found


def _not_known_to_be_alike(rows: Iterable[Row], models: Mapping[str, Any]) -> list[str]:
    """Models of several weights, of which a run's manifest, as older ones do, does not say how they were trained."""
    weights: dict[str, set[str]] = {}
    for row in rows:
        if row.model not in FLOORS and row.weights_hash and row.task not in ("ablation", "capacity"):
            weights.setdefault(row.model, set()).add(row.weights_hash)
    described = {str(as_mapping(entry).get("weights_hash")) for entry in models.values()}
    unknown = [name for name, of in weights.items() if len(of) > 1 and not of <= described]
    if not unknown:
        return []
    return [
        f"taken as trainings of one model, though not every run says how they were trained: {', '.join(unknown)}; "
        "where that is not so give the runs labels, as in mine=DIR"
    ]


def _all_seeds(manifests: Sequence[Mapping[str, Any]]) -> list[int]:
    return sorted({seed for manifest in manifests for seed in manifest.get("seeds") or [] if isinstance(seed, int)})


def _measured_with(manifests: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Machine, versions and commit that all runs have alike; nothing where they differ: `_origin` keeps each one's."""
    kinds: dict[str, Any] = {"device": {}, "versions": {}, "git_commit": None}
    values = {name: [manifest.get(name) for manifest in manifests] for name in kinds}
    return {name: of[0] if of[0] and of.count(of[0]) == len(of) else kinds[name] for name, of in values.items()}


def _origin(part: Part, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What the manifest keeps of each run."""
    kept = ("command", "started", "finished", "versions", "device", "git_commit")
    return {"folder": tidy(part.folder), "label": part.label, **{name: manifest.get(name) for name in kept}}
