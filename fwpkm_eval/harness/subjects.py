"""What is evaluated: a model of ours, or another model of lm-eval's as one more row beside them."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from packaging.requirements import Requirement

import fwpkm_eval
from fwpkm_eval.devices import resolve_device
from fwpkm_eval.errors import UserError, unknown
from fwpkm_eval.harness.model import FwPKMLM
from fwpkm_eval.harness.settings import OFF, ReadingSettings
from fwpkm_eval.runs.jobs import how_computed
from fwpkm_eval.tasks.describe import describe_model

if TYPE_CHECKING:
    from fwpkm_eval.runs.jobs import ModelSource


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

    Raises UserError for a name that lm-eval does not know, and for a model that cannot be loaded.
    """
    import lm_eval.models
    from lm_eval.api.registry import get_model

    if name not in lm_eval.models.MODEL_MAPPING:
        raise unknown("lm-eval model", name, lm_eval.models.MODEL_MAPPING)
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
    identity = {"lm_eval_model": name, "model_args": arguments, "device": device_used, "batch_size": batch_size}
    return Subject(shown, lm, fields, identity)
