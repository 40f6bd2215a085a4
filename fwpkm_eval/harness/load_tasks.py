"""Finds lm-eval tasks by name, ours and the built-in ones, and says in one line why one cannot be had."""

from __future__ import annotations

import os
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fwpkm_eval.errors import UserError, did_you_mean, shown, unknown
from fwpkm_eval.tasks.lm_eval import FOLDER

HUB = "https://huggingface.co"


@dataclass(frozen=True)
class Loaded:
    """A task, tag or group by the name it was asked for, as lm-eval holds it; ``tasks`` are its single tasks."""

    name: str
    objects: list[Any]
    tasks: dict[str, Any]


def load_tasks(
    names: Sequence[str], include_paths: Sequence[Path] = (), metadata: Mapping[str, Any] | None = None
) -> list[Loaded]:
    """The tasks, with their documents. ``metadata`` goes to all of them (`tasks.lm_eval` says what ours take).

    The built-in tasks are looked through only if a name is neither ours nor in ``include_paths``: that takes ten
    seconds.

    Raises UserError for a name that there is not, for arguments that none of the tasks takes, for a package or a
    dataset that is missing, and for a task that cannot be read.
    """
    for path in include_paths:
        if not path.is_dir():
            raise UserError(f"no folder {path}: --include-path wants one with the YAML files of tasks")
    manager = _manager(include_paths, metadata or {}, include_defaults=False)
    ours_alone = all(_is_ours(manager, name) for name in names)
    if ours_alone:
        _check_arguments(metadata or {})
    if any(name not in manager.task_index for name in names):
        manager = _manager(include_paths, metadata or {}, include_defaults=True)
    for name in names:
        if name not in manager.task_index:
            hint = did_you_mean(name, manager.all_tasks) or ";"
            raise UserError(f"no lm-eval task {shown(name)}{hint} 'lm-eval ls tasks' lists the built-in ones")
    with nullcontext() if ours_alone else _told_if_offline():
        return [_load(manager, name) for name in names]


def _manager(include_paths: Sequence[Path], metadata: Mapping[str, Any], *, include_defaults: bool) -> Any:
    from lm_eval.tasks import TaskManager

    paths = [str(path) for path in (FOLDER, *include_paths)]
    return TaskManager(include_path=paths, include_defaults=include_defaults, metadata=dict(metadata))


def _is_ours(manager: Any, name: str) -> bool:
    entry = manager.task_index.get(name)
    if entry is None:
        return False
    if entry.yaml_path is None:  # a tag
        return all(_is_ours(manager, task) for task in entry.tags)
    return Path(entry.yaml_path).resolve().is_relative_to(FOLDER)


def _check_arguments(metadata: Mapping[str, Any]) -> None:
    from fwpkm_eval.tasks.lm_eval import niah, perplexity

    valid = {*niah.ARGUMENTS, "logprob", *perplexity.ARGUMENTS}
    for name in metadata:
        if name not in valid:
            raise unknown("task argument", name, valid)


def _load(manager: Any, name: str) -> Loaded:
    try:
        loaded = manager.load([name])
    except UserError:
        raise
    except ImportError as error:
        missing = f"the package {error.name}" if error.name else str(error)
        raise UserError(f"task {name} needs {missing}, which is not installed") from error
    except (ConnectionError, FileNotFoundError) as error:
        raise UserError(
            f"task {name} needs data that is not here: {_first_line(error)}; it is fetched from {HUB} when there is a "
            "network, and kept"
        ) from error
    except Exception as error:  # a task's YAML may run code of its own, and lm-eval passes on whatever that raises
        raise UserError(f"task {name} cannot be loaded: {type(error).__name__}: {_first_line(error)}") from error
    groups = loaded.get("groups", {})
    objects = [groups[name]] if name in groups else list(loaded["tasks"].values())
    return Loaded(name, objects, loaded["tasks"])


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


@contextmanager
def _told_if_offline() -> Iterator[None]:
    """Without a way to the hub, its client is told so meanwhile, or it would try for half a minute; its cache works."""
    if _reaches_the_hub():
        yield
        return
    import datasets
    import huggingface_hub.constants

    told: tuple[Any, ...] = (huggingface_hub.constants, datasets.config)
    before = [module.HF_HUB_OFFLINE for module in told]
    try:
        for module in told:
            module.HF_HUB_OFFLINE = True
        yield
    finally:  # the next thing that this process fetches may have a network, or a hub of its own
        for module, was in zip(told, before, strict=True):
            module.HF_HUB_OFFLINE = was


def _reaches_the_hub() -> bool:
    host = urllib.parse.urlparse(os.environ.get("HF_ENDPOINT", HUB)).hostname
    if host is None or urllib.request.getproxies():
        return True
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        return False
    return True
