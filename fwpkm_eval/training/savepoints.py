"""Save points of a run: folders `resume/step-00000120`, each there whole or not at all, the last few kept.

    shared.safetensors   slow weights and optimizer: the same for all processes
    rank-0.safetensors   the fast weights and random generators of a process, one file each
    about.json           the step, and what must agree for a run to go on from here; written last

A folder is written under another name and renamed when all of it is on the disk, so that a run killed at any moment,
or a full disk, leaves the last one as it was.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from fwpkm_eval.errors import UserError
from fwpkm_eval.files import write_whole
from fwpkm_eval.reference_models.checkpoint import save_tensors
from fwpkm_eval.training.parallel import Ranks

RESUME = "resume"
SHARED, ABOUT = "shared.safetensors", "about.json"
KEPT = 2


@dataclass(frozen=True)
class SavePoint:
    """What a save point holds, for one process."""

    path: Path
    about: dict[str, Any]
    shared: dict[str, Tensor]
    own: dict[str, Tensor]


def save_points(folder: Path) -> list[Path]:
    """The finished save points of a run's folder, oldest first."""
    found = (folder / RESUME).glob("step-*") if (folder / RESUME).is_dir() else []
    return sorted(path for path in found if re.fullmatch(r"step-[0-9]{8}", path.name))


def write_save_point(
    folder: Path,
    step: int,
    about: Mapping[str, Any],
    shared: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    ranks: Ranks,
    keep: int = KEPT,
) -> None:
    """Writes the save point of a step; every process calls it. `shared` is what the first process has of it.

    Raises: UserError: it cannot be written (a full disk, say); those before it are as they were.
    """
    target = folder / RESUME / f"step-{step:08d}"
    unfinished = target.with_name(f".{target.name}.unfinished")
    problem = None
    try:
        if ranks.is_first:
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
            _write(unfinished / SHARED, shared)
    except (OSError, UserError) as error:
        problem = str(error)
    problem = ranks.agree(problem)
    if problem is None:
        try:
            _write(unfinished / f"rank-{ranks.rank}.safetensors", own)
        except (OSError, UserError) as error:
            problem = str(error)
        problem = ranks.agree(problem)
    if problem is None and ranks.is_first:
        try:
            write_whole(unfinished / ABOUT, json.dumps(dict(about), sort_keys=True) + "\n")
            shutil.rmtree(target, ignore_errors=True)
            unfinished.rename(target)
            _sync_folder(target.parent)
        except (OSError, UserError) as error:
            problem = str(error)
    problem = ranks.agree(problem)
    if problem is not None:
        if ranks.is_first:
            shutil.rmtree(unfinished, ignore_errors=True)
        kept = save_points(folder)
        raise UserError(
            f"step {step} cannot be saved in {target.parent} ({problem}); "
            + (f"{kept[-1].name}, saved before, is kept" if kept else "nothing was saved before")
        )
    if ranks.is_first:
        for old in save_points(folder)[:-keep]:
            shutil.rmtree(old, ignore_errors=True)


def read_save_point(folder: Path, ranks: Ranks) -> SavePoint | None:
    """The newest save point as this process needs it; None if there is none.

    Raises: UserError: it is damaged; names the one before it, if there is one.
    """
    kept = save_points(folder)
    if not kept:
        return None
    path = kept[-1]
    try:
        about = json.loads((path / ABOUT).read_text(encoding="utf-8"))
        shared = _read(path / SHARED)
        own_file = path / f"rank-{ranks.rank}.safetensors"
        own = _read(own_file) if own_file.exists() or ranks.is_first else {}
    except (OSError, ValueError, SafetensorError) as problem:
        before = f"delete it to go on from {kept[-2].name}" if len(kept) > 1 else "delete it to start anew"
        raise UserError(f"{path} is damaged ({problem}); {before}") from None
    return SavePoint(path, about, shared, own)


def remove_save_points(folder: Path) -> None:
    """What a finished run leaves no more use for."""
    shutil.rmtree(folder / RESUME, ignore_errors=True)


def first_difference(found: Any, wanted: Any, where: str = "") -> str | None:
    """Where two settings differ, as "recipe.steps is 6 there and 7 here"; None if they agree."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        # Other numbers follow from that of the steps.
        for key in sorted(set(found) | set(wanted), key=lambda key: (key != "steps", key)):
            difference = first_difference(found.get(key), wanted.get(key), f"{where}.{key}".lstrip("."))
            if difference is not None:
                return difference
        return None
    return None if found == wanted else f"{where} is {json.dumps(found)} there and {json.dumps(wanted)} here"


def _write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    # Clones: tied or sliced tensors share storage, which safetensors refuses.
    save_tensors(path, {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()})


def _read(path: Path) -> dict[str, Tensor]:
    with safe_open(path, framework="pt") as stored:
        # Copies: what safetensors hands out are views, and autograd does not let a function write into those.
        return {name: stored.get_tensor(name).clone() for name in stored.keys()}  # noqa: SIM118 (not a dict)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
