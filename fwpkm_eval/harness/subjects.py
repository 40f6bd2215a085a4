"""What is evaluated: a model of ours, or another model of lm-eval's as one more row beside them."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.requirements import Requirement

import fwpkm_eval
from fwpkm_eval.devices import resolve_device
from fwpkm_eval.errors import UserError, unknown
from fwpkm_eval.harness.model import FwPKMLM
from fwpkm_eval.harness.settings import OFF, ReadingSettings
from fwpkm_eval.runs.jobs import how_computed
from fwpkm_eval.runs.manifest import MANIFEST, RESULT_NAMES
from fwpkm_eval.tasks.describe import describe_model

if TYPE_CHECKING:
    from fwpkm_eval.runs.jobs import ModelSource

LIBRARIES = ("sglang", "transformers", "vllm")
"""What runs other models: another version of it can change a number."""


@dataclass(frozen=True)
class Subject:
    """An lm-eval model; what its rows say of it, what of it is in the keys of its cells; ``source``: if it is ours."""

    name: str
    lm: Any
    row_fields: Mapping[str, Any]
    identity: Mapping[str, Any]
    source: ModelSource | None = None


def our_subject(source: ModelSource, settings: ReadingSettings, *, quiet: bool = False) -> Subject:
    """A checkpoint of ours. A model without fast weights is read once, whatever the settings ask of memories."""
    arguments = asdict(settings)
    if not source.has_fast_weights:
        arguments |= {"passes": 0, "memory": "request"}
    lm = FwPKMLM(str(source.checkpoint), device=source.device, dtype=source.dtype, quiet=quiet, **arguments)
    writes = source.has_fast_weights and settings.memory != OFF
    fields = {
        **describe_model(lm.model),
        "model": source.name,
        "scope": settings.memory if source.has_fast_weights else "",
        "passes": settings.passes if writes else None,
        "write_chunk": str(settings.write_chunk or lm.model.config.chunk_size) if writes else "",
        "arm": "frozen" if source.has_fast_weights and not writes else "",
    }
    identity = {
        "weights": source.weights_hash,
        **how_computed(source.config, resolve_device(source.device), source.dtype),
        "reading": asdict(settings),
    }
    return Subject(source.name, lm, fields, identity, source)


def _wanted(model: str, error: ImportError) -> str:
    """What is not installed, and the command that installs what lm-eval says this model needs."""
    if error.name is None:
        return f"a package: {error}"
    package = error.name.partition(".")[0]
    needed = [Requirement(line) for line in importlib.metadata.requires("lm_eval") or ()]
    extra = {"huggingface": "hf"}.get(model, model.partition("-")[0])
    of_model = [one for one in needed if one.marker is not None and one.marker.evaluate({"extra": extra})]
    stated = [f"{one.name}{one.specifier}" for one in of_model if one.name == package] or [package]
    missing = [f"{one.name}{one.specifier}" for one in of_model if not _is_installed(one.name)]
    command = " ".join(f"'{one}'" for one in dict.fromkeys([*stated, *missing]))
    return f"the package {package}: pip install {command}"


def _is_installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def other_subject(name: str, arguments: str, batch_size: str | None, device: str | None) -> Subject:
    """A model that lm-eval brings (``hf``, ``vllm``, …) with lm-eval's ``model_args``; its row is named by both.

    The keys of its cells hold what is known of its weights without reading them: stamps of the files and folders that
    ``model_args`` name, and the commits of models of the hub. A model behind an address can change unnoticed.

    Raises UserError for a name that lm-eval does not know, and for a model that cannot be loaded.
    """
    import lm_eval.models
    from lm_eval.api.registry import get_model
    from lm_eval.utils import simple_parse_args_string

    if name not in lm_eval.models.MODEL_MAPPING:
        raise unknown("lm-eval model", name, lm_eval.models.MODEL_MAPPING)
    given = simple_parse_args_string(arguments)
    texts = [value for value in given.values() if isinstance(value, str)]
    # Before they are loaded: of files that change meanwhile, the old weights must not be found by the new stamp.
    files = {text: _stamp(text) for text in texts if os.path.exists(text)}
    options = {"batch_size": batch_size, "device": None if device == "auto" else device}
    try:
        lm = get_model(name).create_from_arg_string(arguments, options)
    except ImportError as error:
        raise UserError(f"lm-eval's model {name} needs {_wanted(name, error)}") from error
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise UserError(f"lm-eval's model {name} cannot be loaded: {type(error).__name__}: {reason}") from error
    shown = f"{name} {arguments}".strip()
    device_used = str(getattr(lm, "device", "") or "").partition(":")[0]
    fields = {"model": shown, "device": device_used, "version": fwpkm_eval.__version__}
    identity = {
        "lm_eval_model": name,
        "model_args": arguments,
        "files": files,
        "commits": _commits(texts, str(given.get("revision") or "main")),
        "libraries": _libraries(lm),
        "device": device_used,
        "batch_size": batch_size,
    }
    return Subject(shown, lm, fields, identity)


def _stamp(place: str) -> str:
    """A short hash of the names, sizes and times of change of a folder's files, or of one file; none is read.

    Hidden files and results of ours are left out: they change and the model does not.
    """
    found = [place] if os.path.isfile(place) else []
    for folder, inner, files in os.walk(place):
        ours = {MANIFEST, *RESULT_NAMES} if MANIFEST in files else set()
        inner[:] = [name for name in inner if name not in ours and not name.startswith(".")]
        found += [os.path.join(folder, name) for name in files if name not in ours and not name.startswith(".")]
    facts = []
    for path in sorted(found):
        if os.path.exists(path):  # a link may lead nowhere
            about = os.stat(path)
            facts.append((os.path.relpath(path, place), about.st_size, about.st_mtime_ns))
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _commits(names: Iterable[str], revision: str) -> dict[str, str]:
    """The commit of each of ``names`` that is a model of the hub: its cache keeps what ``revision`` stood for.

    To be asked once the models are loaded; of transformers' models themselves it cannot be had any more.
    """
    from huggingface_hub.constants import HF_HUB_CACHE

    kept = {name: Path(HF_HUB_CACHE, f"models--{name.replace('/', '--')}", "refs", revision) for name in names}
    return {name: path.read_text(encoding="utf-8").strip() for name, path in kept.items() if os.path.isfile(path)}


def _libraries(lm: Any) -> dict[str, str]:
    """The version of each of `LIBRARIES` that the modules of the model's class and of those above it import from."""
    named = {
        str(getattr(value, "__module__", None) or getattr(value, "__name__", "")).partition(".")[0]
        for kind in type(lm).__mro__
        for value in vars(sys.modules[kind.__module__]).values()
    }
    return {name: importlib.metadata.version(name) for name in LIBRARIES if name in named and _is_installed(name)}
