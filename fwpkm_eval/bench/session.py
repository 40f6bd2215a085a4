"""A benchmark that was stopped and goes on: finished measurements are kept, and ratios are of one run all the same.

Each measurement is kept in ``measurements/`` of the output folder under a key of all that can change it, with the run
that took it. Measurements of which ratios are made go together: unless one and the same run has taken them all, all of
them are taken again.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import fwpkm_eval
from fwpkm_eval.bench.code import code_hash
from fwpkm_eval.bench.peers import peer_version
from fwpkm_eval.bench.worker import run_in_process_of_its_own
from fwpkm_eval.malloc import tuned_environment
from fwpkm_eval.runs.cells import CellStore, canonical_key
from fwpkm_eval.runs.manifest import machine, versions
from fwpkm_eval.runs.progress import clock

FOLDER = "measurements"
FORMAT = 1
_VARIABLES = (
    "OMP_",
    "MKL_",
    "KMP_",
    "MALLOC_",
    "GLIBC_TUNABLES",
    "LD_PRELOAD",
    "CUDA_",
    "TRITON_",
    "PYTORCH_",
    "TORCH_",
)
"""How the names of the environment's variables begin that change how fast torch is."""

Tell = Callable[[str], None]
Job = Mapping[str, Any]


class Session:
    """A `Runner` that counts, says how long the rest will take, and keeps what it measures in ``out`` (None: nowhere).

    ``planned``: how many measurements there will be. ``say`` gets a line for each.
    """

    def __init__(self, out: Path | None, planned: int, say: Tell, device: str = "cpu") -> None:
        self._store = None if out is None else CellStore(out / FOLDER)
        self._planned, self._say = planned, say
        self._conditions = _conditions(device)
        self._run = secrets.token_hex(8)
        self._again: set[str] = set()
        self._count = self._measured = 0
        self._seconds = 0.0
        self._label = ""

    def tell(self, label: str) -> None:
        """What the next job is called."""
        self._label = label

    def __call__(self, job: Job, allocator: str) -> dict[str, Any]:
        self._count += 1
        line = f"[{self._count}/{self._planned}] {self._label}"
        settings = self._settings(job, allocator)
        key = canonical_key(settings)
        kept = None if key in self._again else self._kept(key)
        if kept is not None:
            self._say(f"{line}: found finished")
            result: dict[str, Any] = kept["result"]
            return result
        if self._measured:
            left = max(1, self._planned - self._count + 1) * self._seconds / self._measured
            line += f"  about {clock(left)} left"
        self._say(line)
        started = time.monotonic()
        result = run_in_process_of_its_own(job, allocator)
        self._seconds += time.monotonic() - started
        self._measured += 1
        self._again.discard(key)
        # One that failed for want of memory is tried again; one with nan or inf has no place in a store.
        if self._store is not None and "failed" not in result:
            content = {"settings": settings, "rows": [], "run": self._run, "result": result}
            with contextlib.suppress(ValueError):
                self._store.save(key, {**content, "version": fwpkm_eval.__version__})
        return result

    def together(self, jobs: Sequence[tuple[Job, str]]) -> None:
        """These jobs' results are held against one another: they are taken by one run, all of them again if need be."""
        keys = [canonical_key(self._settings(job, allocator)) for job, allocator in jobs]
        runs = [kept and kept["run"] for kept in map(self._kept, keys)]
        if len(set(runs)) > 1:
            self._again |= set(keys)
            self._say(f"{sum(map(bool, runs))} of {len(runs)} were measured by a run that was stopped: measured again")

    def _kept(self, key: str) -> dict[str, Any] | None:
        return None if self._store is None else self._store.load(key)

    def _settings(self, job: Job, allocator: str) -> dict[str, Any]:
        malloc = tuned_environment() if allocator == "tuned" else {}
        return {"format": FORMAT, "job": job, "allocator": allocator, "malloc": malloc, **self._conditions}


def _conditions(device: str) -> dict[str, Any]:
    """What changes a measurement beside the job itself: the code, libraries, machine, environment."""
    tuned = tuned_environment()
    environment = {
        name: value for name, value in os.environ.items() if name.startswith(_VARIABLES) and name not in tuned
    }
    return {
        "code": code_hash(),
        "versions": {**versions(), "peer": peer_version()},
        "machine": {**machine(), "gpu": _gpu(device)},
        "environment": environment,
    }


def _gpu(device: str) -> str | None:
    if device == "cpu":
        return None
    import torch

    return torch.cuda.get_device_name(torch.device(device))
