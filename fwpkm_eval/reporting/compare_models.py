"""Which model of one run is held against which of another, where they are not called the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fwpkm_eval.errors import UserError, unknown
from fwpkm_eval.reporting.compare import READING
from fwpkm_eval.reporting.measurements import label_of, spec_of
from fwpkm_eval.runs.rows import FROZEN, Row


def chosen_pairs(before: Sequence[Row], after: Sequence[Row], pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """For each pair of what models of A and B are called (their name, or their label alone) A's name and B's.

    Raises:
        UserError: a run has no such model, or several; or A's or B's is named twice.
    """
    found = {_named(before, "A", there): _named(after, "B", here) for there, here in pairs}
    if len(found) < len(pairs) or len(set(found.values())) < len(pairs):
        raise UserError("--as names a model twice: give each one another of the other run")
    return found


def pairs_by_weights(before: Sequence[Row], after: Sequence[Row]) -> dict[str, str]:
    """Models that one run alone names so, and whose weights are those of one model that the other alone names so: the
    same checkpoint under another label."""
    there, here = _weights(before), _weights(after)
    found = {}
    for name in there.keys() - here.keys():
        alike = [
            other
            for other in here.keys() - there.keys()
            if spec_of(name) == spec_of(other) and there[name] & here[other]
        ]
        if len(alike) == 1:
            found[name] = alike[0]
    alone = list(found.values())
    return {name: other for name, other in sorted(found.items()) if alone.count(other) == 1}


def renamed(rows: Sequence[Row], names: Mapping[str, str]) -> list[Row]:
    """The rows with other names of models, without those of models that had such a name already: they are not asked
    for."""
    taken = set(names.values()) - names.keys()
    return [replace(row, model=names.get(row.model, row.model)) for row in rows if row.model not in taken]


def aligned(before: Sequence[Row], after: Sequence[Row], names: Mapping[str, str]) -> tuple[list[Row], list[Row]]:
    """The rows of two runs, those of A under B's names, without what keeps models of two kinds that were named as a
    pair from being held against each other: how slots are scored, and how often a text was written, which a model has
    only if it has slots, or writes. Where either has several of one, they stay as they are."""
    runs = [list(before), list(after)]
    for model in {other for name, other in names.items() if spec_of(name) != spec_of(other)}:
        of_score: dict[str, Any] = {"score": ""}
        of_write: dict[str, Any] = {"write_chunk": ""}
        for left_out, counts in ((of_score, lambda row: True), (of_write, _is_written)):
            (name,) = left_out
            own = [[row.model == model and counts(row) for row in rows] for rows in runs]
            values = [
                {getattr(row, name) for row, is_own in zip(rows, which, strict=True) if is_own}
                for rows, which in zip(runs, own, strict=True)
            ]
            if values[0] != values[1] and max(map(len, values)) == 1:
                runs = [
                    [replace(row, **left_out) if is_own else row for row, is_own in zip(rows, which, strict=True)]
                    for rows, which in zip(runs, own, strict=True)
                ]
    return runs[0], runs[1]


def _is_written(row: Row) -> bool:
    """Of a text that was read and, by models that write, written."""
    return row.task in READING and FROZEN not in row.arm.split("+")


def renamed_in_manifest(manifest: Mapping[str, Any] | None, names: Mapping[str, str]) -> Mapping[str, Any] | None:
    """The manifest with other names in what it says of models."""
    if manifest is None or not names:
        return manifest
    taken = set(names.values()) - names.keys()
    told = {}
    for part in ("weights", "models"):
        if isinstance(manifest.get(part), Mapping):
            told[part] = {names.get(name, name): fact for name, fact in manifest[part].items() if name not in taken}
    return {**manifest, **told}


def _weights(rows: Sequence[Row]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for row in rows:
        if row.model and row.weights_hash:
            found.setdefault(row.model, set()).add(row.weights_hash)
    return found


def _named(rows: Sequence[Row], run: str, asked: str) -> str:
    names = dict.fromkeys(row.model for row in rows if row.model)
    if asked in names:
        return asked
    found = [name for name in names if label_of(name) == asked]
    if len(found) > 1:
        raise UserError(f"{asked!r} is the label of several models of {run}: {', '.join(found)}; give a name")
    if not found:
        raise unknown(f"model of {run}", asked, names)
    return found[0]
