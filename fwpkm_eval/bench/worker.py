"""One measurement or check in a process of its own, so that none warms, fills or fragments another's memory.

The job comes as JSON on standard input; its result goes as JSON to standard output.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import fwpkm_eval
from fwpkm_eval.errors import UserError
from fwpkm_eval.malloc import tuned_environment

Runner = Callable[[Mapping[str, Any], str], dict[str, Any]]
"""Does a job under an allocator, one of `ALLOCATORS`, and returns its result."""

Together = Callable[[Sequence[tuple[Mapping[str, Any], str]]], None]
"""Is told which jobs, each with its allocator, are held against one another, before the first of them is done."""

ALLOCATORS = ("default", "tuned")
"""malloc as the system has it, or told to keep freed memory, as this package's own commands run."""

_REFUSED = "refused"
"""Where a result holds one line in place of measurements: what is wrong with the job."""


class MeasurementFailed(Exception):
    """The process of a measurement failed or was killed, in one line; the other measurements are of use without it."""


_START = "import sys; sys.path.append(sys.argv[1]); from fwpkm_eval.bench.worker import main; main()"


def run_in_process_of_its_own(job: Mapping[str, Any], allocator: str) -> dict[str, Any]:
    """The result of a job.

    Raises:
        MeasurementFailed: the process was killed, as the system does when memory runs out; or it failed, and why is on
            standard error.
        UserError: what the job raised in it.
        KeyboardInterrupt: it was interrupted.
    """
    environment = {name: value for name, value in os.environ.items() if name not in tuned_environment()}
    if allocator == "tuned":
        environment |= tuned_environment()
    root = str(Path(fwpkm_eval.__file__).resolve().parents[1])  # for a checkout that is not installed
    done = subprocess.run(
        [sys.executable, "-P", "-c", _START, root],
        input=json.dumps(job),
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
        check=False,
    )
    if done.returncode == -signal.SIGINT:
        raise KeyboardInterrupt
    if done.returncode < 0:
        raise MeasurementFailed(
            f"the process measuring {job['what']} was killed by signal {-done.returncode}, "
            "most likely for want of memory; close other programs or take --size micro"
        )
    if done.returncode:
        raise MeasurementFailed(f"the process measuring {job['what']} ended with code {done.returncode}")
    result = json.loads(done.stdout)
    assert isinstance(result, dict)
    if _REFUSED in result:
        raise UserError(result[_REFUSED])
    return result


def attempt(
    name: str, runner: Runner, job: Mapping[str, Any], allocator: str, failed: dict[str, str]
) -> dict[str, Any] | None:
    """The result of a job, or None if its process failed; why is then put into ``failed`` under ``name``."""
    try:
        return runner(job, allocator)
    except MeasurementFailed as problem:
        failed[name] = str(problem)
        return None


def do(job: Mapping[str, Any]) -> dict[str, Any]:
    """Does a job: ``what`` is "check", a pass of ``arm``, or of pieces, a model, a layer, training; ``size`` the fields
    of an `OpSize`."""
    import torch

    from fwpkm_eval.bench import correctness
    from fwpkm_eval.bench.ops import ARMS, OpSize, measure

    if job["threads"] is not None:
        torch.set_num_threads(job["threads"])
    # Some environments switch it on; in TF32 the reference would find other sub-keys.
    torch.backends.cuda.matmul.allow_tf32 = False
    device = torch.device(job.get("case", job["size"])["device"])
    if device.index is not None:
        # Events, and kernels that are called by themselves, go to the current device: of cuda:1, not to the first.
        torch.cuda.set_device(device)
    if job["what"] == "model":
        from fwpkm_eval.bench.models import measure_model

        return measure_model(job)
    if job["what"] == "dense-training":
        from fwpkm_eval.bench.training import measure_training

        return measure_training(job)
    if job["what"] == "layer":
        from fwpkm_eval.bench.peers import measure_layer

        return measure_layer(job)
    size = OpSize(**job["size"])
    if job["what"] in ("check-pieces", "pieces"):
        from fwpkm_eval.bench.piece_measure import do_pieces

        return do_pieces(job, size)
    if job["what"] == "check":
        return dataclasses.asdict(correctness.check(size))
    measured = measure(
        size,
        ARMS[job["arm"]],
        job["what"],
        seed=job["seed"],
        repeats=job["repeats"],
        budget=job["budget"],
    )
    return dataclasses.asdict(measured)


def main() -> None:
    """Reads a job, does it, writes the result."""
    job = json.load(sys.stdin)
    # What a library prints must not end up within the result.
    result_to, sys.stdout = sys.stdout, sys.stderr
    try:
        result = do(job)
    except UserError as problem:
        result = {_REFUSED: str(problem)}
    json.dump(result, result_to)
