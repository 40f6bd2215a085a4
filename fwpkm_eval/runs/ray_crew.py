"""Cells measured on a Ray cluster: the same work as with processes of this machine, wherever there is room.

Started cells are Ray tasks with the processors and GPUs that a cell needs. A worker that is lost takes its cell with
it, and Ray starts that cell anew elsewhere, up to `RETRIES` times. Results come back to this process, which alone
writes to the output folder. Checkpoints and data must be found under the same path on every machine. What is timed
waits until nothing else is under way and runs on the machine of this process, which its key names.
"""

from __future__ import annotations

import logging
import os
import time
import traceback
from collections.abc import Iterable, Iterator
from typing import Any

from fwpkm_eval.errors import UserError
from fwpkm_eval.runs.engine import SECONDS_BETWEEN_LOOKS, Agenda, Event, Execute, Failure, Job

RETRIES = 3
"""How often a cell is started again after its worker was lost."""
SECONDS_BETWEEN_REPORTS = 1.0


class RayCrew:
    """Ray tasks, one a cell, on the cluster that ``RAY_ADDRESS`` names, or on a new one of this machine.

    Raises:
        UserError: ray is not installed, or the cluster cannot be reached.
    """

    def __init__(self, execute: Execute, threads: int = 1) -> None:
        try:
            import ray
        except ImportError:
            raise UserError("engine 'ray' needs the package ray: pip install 'fwpkm-eval[cluster]'") from None
        self._ray: Any = ray
        self._execute, self._threads = execute, threads
        self._pending: dict[Any, Job] = {}
        self._started_ray = not ray.is_initialized()
        if self._started_ray:
            try:
                ray.init(logging_level=logging.ERROR, log_to_driver=False, include_dashboard=False)
            except (ConnectionError, RuntimeError, ValueError) as error:
                where = os.environ.get("RAY_ADDRESS", "this machine")
                raise UserError(f"no Ray cluster at {where}: {str(error).splitlines()[0]}") from error

    def run(self, agenda: Agenda, workers: int) -> Iterable[tuple[Job, Event]]:
        """Yields what is heard of the jobs until each is done or failed; at most ``workers`` are under way."""
        from ray.util.queue import Queue

        heard: Any = Queue(actor_options={"num_cpus": 0})
        by_key: dict[str, Job] = {}
        while agenda or self._pending:
            while self._has_room(workers) and (job := agenda.next(idle=not self._pending)):
                by_key[job.cell.key] = job
                self._pending[self._start(job, heard)] = job
            if not self._pending:
                time.sleep(SECONDS_BETWEEN_LOOKS)
                continue
            ready, _ = self._ray.wait(list(self._pending), timeout=SECONDS_BETWEEN_REPORTS)
            for key, tokens in _drain(heard):
                yield by_key[key], tokens
            for reference in ready:
                job = self._pending.pop(reference)
                yield job, self._result(reference, job)
        heard.shutdown(force=True)

    @property
    def room(self) -> int:
        """How many cells the cluster can measure at a time."""
        return max(1, int(self._ray.cluster_resources().get("CPU", 1)) // self._threads)

    def stop(self) -> None:
        """Cancels what is under way, and ends the cluster if it was started here."""
        for reference in self._pending:
            self._ray.cancel(reference, force=True)
        self._pending.clear()
        if self._started_ray:
            self._ray.shutdown()

    def _has_room(self, workers: int) -> bool:
        return len(self._pending) < workers and not any(job.alone for job in self._pending.values())

    def _start(self, job: Job, heard: Any) -> Any:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(self._ray.get_runtime_context().get_node_id(), soft=False)
        task = self._ray.remote(_measure).options(
            num_cpus=self._threads,
            num_gpus=0 if job.device == "cpu" else 1,
            max_retries=RETRIES,
            retry_exceptions=False,
            scheduling_strategy=here if job.alone else "DEFAULT",
            name=job.label,
        )
        return task.remote(self._execute, job, heard, self._threads)

    def _result(self, reference: Any, job: Job) -> Event:
        try:
            kind, content = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            reason = f"its worker was lost {RETRIES + 1} times ({type(error).__name__})"
            return Failure(job, reason)
        return Failure(job, *content) if kind == "failed" else content


def _measure(execute: Execute, job: Job, heard: Any, threads: int) -> tuple[str, Any]:
    """One cell, in a Ray worker: ("done", (payload, seconds)) or ("failed", (reason, details))."""
    from fwpkm_eval.malloc import tune_malloc

    tune_malloc()
    import torch

    torch.set_num_threads(threads)
    started = time.perf_counter()
    reporter = _Reporter(job.cell.key, heard)
    try:
        payload = execute(job, reporter)
        reporter.send()
    except UserError as error:
        return "failed", (str(error),)
    except Exception as error:  # whatever it is, it fails this cell alone; the details are told
        return "failed", (f"{type(error).__name__}: {error}".splitlines()[0], traceback.format_exc())
    return "done", (payload, time.perf_counter() - started)


class _Reporter:
    """Passes on how many tokens were read, not too often; that a report is lost harms nothing."""

    def __init__(self, key: str, heard: Any) -> None:
        self._key, self._heard = key, heard
        self._tokens, self._last = 0, time.monotonic()

    def __call__(self, tokens: int) -> None:
        self._tokens += tokens
        if time.monotonic() - self._last > SECONDS_BETWEEN_REPORTS:
            self.send()

    def send(self) -> None:
        """Tells what was not told yet."""
        if self._tokens:
            self._heard.actor.put_nowait.remote((self._key, self._tokens))
        self._tokens, self._last = 0, time.monotonic()


def _drain(heard: Any) -> Iterator[tuple[str, int]]:
    from ray.util.queue import Empty

    try:
        yield from heard.get_nowait_batch(heard.qsize())
    except (Empty, ValueError):
        return
