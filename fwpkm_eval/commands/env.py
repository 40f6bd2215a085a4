"""``fwpkm-eval env``: what this machine is and what is installed, for a bug report or a measurement."""

from __future__ import annotations

import json
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import click

from fwpkm_eval import __version__
from fwpkm_eval.commands import options
from fwpkm_eval.malloc import tuned_environment

PACKAGES = (
    "torch",
    "triton",
    "numpy",
    "pandas",
    "matplotlib",
    "safetensors",
    "lm-eval",
    "datasets",
    "fast-weight-product-key-memory",
)


@click.command(name="env")
@options.as_json
def command(as_json: bool) -> None:
    """Show versions, devices, cores, memory and the settings that change speed."""
    facts = environment()
    click.echo(json.dumps(facts, indent=2) if as_json else _as_text(facts))


def environment() -> dict[str, Any]:
    """What ``env`` shows, ready for JSON; sizes in bytes, None for what is absent or unset."""
    import psutil
    import torch

    memory = psutil.virtual_memory()
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    return {
        "fwpkm_eval": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "cpu": {
            "usable_cores": usable_cores(),
            "logical_cores": os.cpu_count(),
            "torch_threads": torch.get_num_threads(),
        },
        "memory": {
            "total_bytes": memory.total,
            "available_bytes": memory.available,
            "limit_bytes": memory_limit(),
        },
        "gpus": [
            {
                "name": torch.cuda.get_device_name(i),
                "memory_bytes": torch.cuda.get_device_properties(i).total_memory,
            }
            for i in gpus
        ],
        "cuda": torch.version.cuda,
        "malloc": {name: os.environ.get(name) for name in tuned_environment()},
    }


def usable_cores() -> int:
    """Cores this process may run on: its affinity, limited by a container's quota where there is one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = _read("/sys/fs/cgroup/cpu.max").partition(" ")
    if quota.isdigit() and period.isdigit() and int(period):
        cores = min(cores, max(1, int(quota) // int(period)))
    return cores


def memory_limit() -> int | None:
    """A container's memory limit in bytes (control groups, version 2 or 1), None where there is none."""
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        text = _read(path)
        if text.isdigit() and int(text) < 2**60:  # version 1 writes a huge number for "no limit"
            return int(text)
    return None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _as_text(facts: dict[str, Any]) -> str:
    cpu, memory = facts["cpu"], facts["memory"]
    limit = f", limited to {_gib(memory['limit_bytes'])}" if memory["limit_bytes"] else ""
    gpus = [f"{gpu['name']}, {_gib(gpu['memory_bytes'])}" for gpu in facts["gpus"]]
    lines = [
        ("fwpkm_eval", facts["fwpkm_eval"]),
        ("python", facts["python"]),
        ("platform", facts["platform"]),
        *((name, version or "not installed") for name, version in facts["packages"].items()),
        ("cores", f"{cpu['usable_cores']} usable of {cpu['logical_cores']}"),
        ("torch threads", str(cpu["torch_threads"])),
        ("memory", f"{_gib(memory['total_bytes'])}, {_gib(memory['available_bytes'])} available{limit}"),
        ("gpu", "; ".join(gpus) if gpus else f"none (torch built {_built_for(facts['cuda'])})"),
        *((name, "not set" if value is None else value) for name, value in facts["malloc"].items()),
    ]
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in lines)


def _built_for(cuda: str | None) -> str:
    return f"for CUDA {cuda}" if cuda else "without CUDA"


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
