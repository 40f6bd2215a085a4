"""``manifest.json``: what was run, with what, when; and the guard against two runs in one folder."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import re
import shlex
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import fwpkm_eval
from fwpkm_eval.errors import UserError
from fwpkm_eval.files import create_whole, write_whole
from fwpkm_eval.runs.cells import canonical_json
from fwpkm_eval.runs.claims import Claims
from fwpkm_eval.runs.growth import is_beside, is_more_of

MANIFEST = "manifest.json"
RESULT_NAMES = ("cells", "rows.csv", "tables.md", "tables", "plots", "report.html")
"""What a run writes beside its manifest."""

_PACKAGES = ("torch", "triton", "fla-core", "numpy", "pandas", "matplotlib", "safetensors")
_SECRET_NAME = re.compile(r"(?:^|[_-])(?:token|secret|password|passwd|api[_-]?key|credentials?)$", re.IGNORECASE)
_SECRET_IN_ADDRESS = re.compile(r"(?<=://)[^/@\s]+(?=@)")
_REMOVED = "REMOVED"


def check_or_create(
    out: Path,
    config: Mapping[str, Any],
    *,
    command: Sequence[str] = (),
    seeds: Iterable[int] = (),
    device: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    weights: Mapping[str, str] | None = None,
    models: Mapping[str, Any] | None = None,
    elsewhere: Mapping[str, Any] | None = None,
    grows: bool = True,
) -> dict[str, Any]:
    """Claim the folder ``out`` for the run of ``config``, or join that run again; returns its manifest.

    ``config`` is what makes two runs the same run (JSON values); one that asks for more of the same (``grows``, see
    `is_more_of`) takes the place of the one that is there. The rest is for the record: ``command`` the
    arguments of the command line, ``device`` what it runs on, ``data`` each text set with its hash (and
    ``stands_in_for``), ``weights`` the hash of each model's weights, ``models`` what each is and how it was trained
    (`describe_model`), ``elsewhere`` the ``device``, ``versions`` and ``git_commit`` of rows that were not measured
    here. Paths below the working or home folder are shortened, secrets left out.

    Raises:
        UserError: ``out`` holds another run (what differs is named), results without a manifest, or a
            manifest that cannot be read, or it cannot be written to. Nothing in it was changed then.
    """
    out = Path(out)
    path = out / MANIFEST
    wanted = as_stored(config)
    facts: dict[str, Any] = {
        "command": tidy(shlex.join(_without_secrets(command))),
        "seeds": sorted(set(seeds)),
        "versions": versions(),
        "device": tidy({**machine(), **(device or {})}),
        "git_commit": git_commit(),
        "data": tidy(data or {}),
        "weights": tidy(weights or {}),
        "models": tidy(models or {}),
    }
    measured = tidy(elsewhere or {})
    facts |= measured
    _check_folder(out)
    if not path.exists():
        fresh = {"format": 1, **facts, "config": wanted, "cells": [], "started": _now(), "finished": None}
        if create_whole(path, _to_text(fresh)):
            return fresh
    with Claims(out) as claims, claims.writing_results():
        manifest = load_manifest(out)
        if manifest is None:
            raise UserError(f"{path} came and went while this run started: try again")
        _refuse_another(out, manifest, wanted, grows)
        manifest["config"] = wanted
        manifest |= {name: fact or manifest.get(name) for name, fact in facts.items()} | measured
        manifest |= {"resumed": [*manifest.get("resumed", []), _now()], "finished": None}
        write_whole(path, _to_text(manifest))
    return manifest


def check_free(out: Path | None, config: Mapping[str, Any]) -> None:
    """Raises UserError as `check_or_create` would, and claims nothing: for before any text is read. None: no folder."""
    if out is not None:
        _check_folder(out)
        manifest = load_manifest(out)
        if manifest is not None:
            _refuse_another(out, manifest, as_stored(config))


def as_stored(config: Mapping[str, Any]) -> Any:
    """The config as a manifest holds it."""
    return json.loads(canonical_json(tidy(config)))


def _refuse_another(out: Path, manifest: Mapping[str, Any], wanted: Any, grows: bool = True) -> None:
    there, here = _on_the_same_device(manifest["config"], wanted)
    found = differences(there, here)
    if not found or (grows and is_more_of(there, here)):
        return
    found.sort(key=lambda line: not line.startswith("command "))  # it explains all the others
    named = ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
    what, instead = "another run", "choose another --out or the same settings"
    if grows and is_more_of(here, there):
        what, instead = "more than this run", "ask for all of it, or choose another --out"
    elif grows and is_beside(there, here):
        instead += ", or name what is there beside what is new"
    raise UserError(f"{out} holds {what}: {named}; {instead}")


def _on_the_same_device(there: dict[str, Any], here: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Both configs with the device that "auto" means, where one of them names it."""
    devices = [there.get("device"), here.get("device")]
    if devices[0] == devices[1] or "auto" not in devices:
        return there, here
    from fwpkm_eval.devices import resolve_device

    auto = resolve_device("auto").type
    first, second = (
        {**config, "device": auto} if config.get("device") == "auto" else config for config in (there, here)
    )
    return first, second


def update_manifest(out: Path, *, finished: bool = False, **entries: Any) -> dict[str, Any]:
    """Add ``entries`` to the manifest in ``out``, and the time if ``finished``, else none; returns the manifest.

    An entry that is a mapping is merged into the one that is there (``weights={"gdn": "…"}``), any other
    replaces it. ``cells`` is the list of the keys that make up the run: the report reads only those. Where other
    processes work on the run, too, the caller holds `Claims.writing_results`.

    Raises:
        UserError: there is no manifest, or it cannot be read or written.
        KeyError: an entry would overwrite what :func:`check_or_create` guards.
    """
    manifest = load_manifest(out)
    if manifest is None:
        raise UserError(f"{out} holds no {MANIFEST}")
    for name, value in entries.items():
        if name in ("format", "config", "started", "finished"):
            raise KeyError(name)
        old = manifest.get(name)
        manifest[name] = {**old, **tidy(value)} if isinstance(old, dict) else tidy(value)
    manifest["finished"] = _now() if finished else None
    write_whole(Path(out) / MANIFEST, _to_text(manifest))
    return manifest


def load_manifest(out: Path) -> dict[str, Any] | None:
    """The manifest of the folder ``out``, or None if there is none.

    Raises:
        UserError: it cannot be read.
    """
    path = Path(out) / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: move its folder away or choose another --out") from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("config"), dict):
        raise UserError(f"{path} is not a manifest of this program: choose another --out")
    return manifest


def as_mapping(value: Any) -> Mapping[str, Any]:
    """What stands in a manifest, which anybody may have edited, if it is of the right kind; else nothing."""
    return value if isinstance(value, Mapping) else {}


def tidy(value: Any) -> Any:
    """``value`` without secrets, with paths below the working folder relative and the home folder as ``~``.

    A secret is the text under a name such as ``api_key`` or ``token`` and what stands before the ``@`` of an
    address.
    """
    if isinstance(value, Mapping):
        return {
            key: _REMOVED if isinstance(entry, str) and _SECRET_NAME.search(str(key)) else tidy(entry)
            for key, entry in value.items()
        }
    if isinstance(value, list | tuple):
        return [tidy(entry) for entry in value]
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str):
        return value
    value = _SECRET_IN_ADDRESS.sub(_REMOVED, value)
    for folder, instead in ((Path.cwd(), "."), *_home()):
        for spelling in dict.fromkeys((str(folder), str(folder.resolve()))):
            if len(folder.parts) > 1:  # not the root, which every path is below
                value = re.sub(rf"(?<![\w./~-]){re.escape(spelling)}(?![\w.-])", instead, value)
    return re.sub(r"(?<![\w./~-])\./(?=[\w.])", "", value)


def _home() -> Iterator[tuple[Path, str]]:
    with contextlib.suppress(RuntimeError):  # a user without one
        yield Path.home(), "~"


def versions() -> dict[str, str]:
    """Versions of this package, Python and the libraries that numbers depend on (those installed)."""
    found = {"fwpkm-eval": fwpkm_eval.__version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine(device: str = "cpu") -> dict[str, Any]:
    """What seconds depend on: system, cores, processor, memory, the GPU if ``device`` is one. No host or user name."""
    facts: dict[str, Any] = {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }
    try:
        names = re.findall(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        facts |= {"processor": names[0].strip()} if names else {}
        facts["memory_gib"] = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (OSError, ValueError):
        pass
    if device.startswith("cuda"):
        import torch

        facts["gpu"] = torch.cuda.get_device_name(device)
    return facts


def git_commit() -> str | None:
    """The commit this code is at, with ``+changes`` if files differ; None if it is not from a checkout."""
    package = Path(fwpkm_eval.__file__).resolve().parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", *arguments], cwd=package, capture_output=True, text=True, timeout=10, check=True
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    # An installed package may lie inside of somebody else's checkout, whose commit says nothing about this
    # code.
    if git("ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    commit = git("rev-parse", "HEAD")
    changed = git("status", "--porcelain", "--untracked-files=no")
    return f"{commit}+changes" if commit and changed else commit


def _check_folder(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: --out wants a folder")
    if (out / "model.json").exists():
        raise UserError(f"{out} holds a checkpoint, and results would lie among its files: choose another --out")
    if (out / MANIFEST).exists():
        return
    found = [name for name in RESULT_NAMES if (out / name).exists()]
    if found:
        raise UserError(
            f"{out} holds {found[0]} but no {MANIFEST} saying whose results these are: choose another --out"
        )


def differences(there: Any, here: Any, name: str = "", places: tuple[str, str] = ("there", "here")) -> list[str]:
    """What differs between two configs, each in words, deepest names first-level dotted; ``places`` name the two."""
    first, second = places
    if isinstance(there, dict) and isinstance(here, dict):
        found = []
        for key in sorted({*there, *here}):
            path = f"{name}.{key}" if name else key
            if key not in there:
                found.append(f"{path} is not set {first} and {_short(here[key])} {second}")
            elif key not in here:
                found.append(f"{path} is {_short(there[key])} {first} and not set {second}")
            else:
                found += differences(there[key], here[key], path, places)
        return found
    # JSON text tells 1 from True and 1 from 1.0, which == does not.
    if json.dumps(there, sort_keys=True) == json.dumps(here, sort_keys=True):
        return []
    return [f"{name or 'config'} is {_short(there)} {first} and {_short(here)} {second}"]


def _short(value: Any, longest: int = 60) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _without_secrets(arguments: Sequence[str]) -> list[str]:
    """The command line with the values of options such as ``--api-key`` removed."""
    kept: list[str] = []
    for argument in arguments:
        option, equals, _ = argument.partition("=")
        if kept and kept[-1].startswith("--") and _SECRET_NAME.search(kept[-1]) and not argument.startswith("--"):
            kept.append(_REMOVED)
        elif equals and option.startswith("--") and _SECRET_NAME.search(option):
            kept.append(f"{option}={_REMOVED}")
        else:
            kept.append(argument)
    return kept


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _to_text(manifest: Mapping[str, Any]) -> str:
    return json.dumps(manifest, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
