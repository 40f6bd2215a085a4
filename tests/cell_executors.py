"""What the workers run in the tests of the engine: cells that take no time, fail, or end their process."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from fwpkm_eval.errors import UserError
from fwpkm_eval.runs.engine import Job, Report
from fwpkm_eval.runs.rows import Row


def run_cell(job: Job, report: Report) -> dict[str, Any]:
    """Does what the cell's settings say, and leaves a line in the file ``log`` named there."""
    settings = dict(job.cell.settings)
    with Path(settings["log"]).open("a", encoding="utf-8") as log:
        log.write(f"{job.label}\n")
    report(job.work)
    match settings["behaviour"]:
        case "refuse":
            raise UserError("the settings do not fit")
        case "break":
            raise ValueError("a fault\nof the program")
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            os._exit(7)
        case "sleep":
            time.sleep(60)
        case "large":
            bytearray(3 * 2**30)
        case "large tensor":
            import torch

            torch.ones(3 * 2**28)
        case "full GPU":
            import torch

            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        case "slow":
            time.sleep(1)
        case "die once":
            if _lines(settings["log"]).count(job.label) == 1:
                os.kill(os.getpid(), signal.SIGKILL)
    row = Row(task=job.cell.task, model=job.cell.model, metric="threads", value=float(settings["number"]) / 3)
    return {"settings": settings, "rows": [row], "version": "0"}


def _lines(log: str) -> list[str]:
    return Path(log).read_text(encoding="utf-8").splitlines()


def count_threads(job: Job, report: Report) -> dict[str, Any]:
    """How many threads torch would use in this process."""
    import torch

    row = Row(metric="threads", value=float(torch.get_num_threads()))
    return {"settings": dict(job.cell.settings), "rows": [row], "version": "0"}


def tell_process(job: Job, report: Report) -> dict[str, Any]:
    """Logs when the cell begins and ends, and in which process."""
    for moment in ("begins", "ends"):
        with Path(job.cell.settings["log"]).open("a", encoding="utf-8") as log:
            log.write(f"{job.label} {moment} in {os.getpid()}\n")
        time.sleep(0.2 if moment == "begins" else 0)
    if job.cell.settings["behaviour"] == "break":
        raise ValueError("a fault")
    if job.cell.settings["behaviour"] == "refuse":
        raise UserError("the settings do not fit")
    return {"settings": dict(job.cell.settings), "rows": [], "version": "0"}
