"""Runs cells and stores each as soon as it is finished; here with processes of this machine.

A cell is measured in one process, on one thread unless told otherwise, so that its values do not depend on
how many workers there are. What goes wrong in a cell, a worker that is killed included, is reported with
the cell's name, and the others go on. Runs that share an output folder share the work.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any, Literal, Protocol

from fwpkm_eval.errors import UserError
from fwpkm_eval.malloc import tune_malloc
from fwpkm_eval.memory_limit import is_out_of_memory, limit_memory
from fwpkm_eval.runs.cells import Cell, CellStore
from fwpkm_eval.runs.claims import Claims
from fwpkm_eval.runs.progress import Progress, Quiet

LIFELINE = "FWPKM_EVAL_LIFELINE"
"""The variable with the number of an inherited pipe, whose other end only the process that started this one has."""
SECONDS_BETWEEN_REPORTS = 0.5
SECONDS_BETWEEN_LOOKS = 0.3
"""How often to look whether a cell that another run has taken is finished."""


@dataclass(frozen=True)
class Job:
    """A cell, and what it takes to run it.

    ``label`` names it for people; ``work`` is about how many tokens it reads; ``data`` is the value of
    ``--data``, ``checkpoint`` the folder of the model's weights (None: there are none) and ``device`` where
    to run. The cell's settings hold the hashes of text and weights, so where these are found cannot change
    a value. ``alone``: no other job of this run, whichever process has it, may be at work on the machine
    meanwhile, as it is timed.
    """

    cell: Cell
    label: str
    work: int
    data: str = "embedded"
    checkpoint: str | None = None
    device: str = "cpu"
    alone: bool = False


Report = Callable[[int], None]
Execute = Callable[[Job, Report], Mapping[str, Any]]
"""Measures one cell and returns its payload (see `CellStore.save`), telling ``Report`` of tokens read."""


@dataclass(frozen=True)
class Failure:
    """A cell without a result: the reason in one line, and a traceback where the fault is the program's."""

    job: Job
    reason: str
    details: str = ""


@dataclass
class Outcome:
    """``keys`` of the cells that are stored now, in the order of the jobs, and how it went.

    ``found`` holds the payloads of those that were finished before, by key; ``missing`` cells were left to other parts
    of a run that is cut into parts.
    """

    keys: list[str] = field(default_factory=list)
    found: dict[str, dict[str, Any]] = field(default_factory=dict)
    missing: int = 0
    failures: list[Failure] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def found_finished(self) -> int:
        """How many cells were finished before."""
        return len(self.found)


class Agenda:
    """The jobs still to be begun, less those that other runs on the same folder are at, as long as they are.

    ``by_others`` are the jobs that were found finished by other runs.
    """

    def __init__(self, jobs: Iterable[Job], store: CellStore, claims: Claims) -> None:
        self._jobs = deque(jobs)
        self._store, self._claims = store, claims
        self.by_others: list[Job] = []

    def __bool__(self) -> bool:
        return bool(self._jobs)

    def next(self, *, idle: bool = True) -> Job | None:
        """A job for this run, taken off the list; None if there is none now (``bool`` tells if there may be later).

        idle: whether nothing is at work, as a job needs that is to be alone.
        """
        if idle:
            self._claims.leave_machine()
        for _ in range(len(self._jobs)):
            job = self._jobs.popleft()
            if (job.alone and not idle) or not self._claims.take(job.cell.key):
                self._jobs.append(job)
            elif self._store.has(job.cell.key):
                self._claims.release(job.cell.key)
                self.by_others.append(job)
            elif not self._claims.use_machine(alone=job.alone):
                self._claims.release(job.cell.key)
                self._jobs.append(job)
            else:
                return job
        return None


class Crew(Protocol):
    """What measures cells somewhere."""

    def run(self, agenda: Agenda, workers: int) -> Iterable[tuple[Job, Event]]:
        """Yields what is heard of the agenda's jobs, at most ``workers`` at a time, until each is done or failed."""
        ...

    def stop(self) -> None:
        """Ends all that is still running; its results are lost."""
        ...


def run_jobs(
    jobs: Sequence[Job],
    store: CellStore,
    execute: Execute,
    *,
    workers: int = 1,
    threads: int = 1,
    memory_limit: int | None = None,
    progress: Progress | None = None,
    crew: Crew | None = None,
) -> Outcome:
    """Runs the jobs that are not in the store yet, in their order, in ``workers`` processes.

    ``execute`` must be importable by name, as processes are spawned. An interrupt ends the workers and
    leaves the finished cells. A cell that another run on the same folder is measuring is left to it, unless
    that run ends without a result. ``memory_limit``: bytes that a process may allocate; a cell that needs more fails
    with a word on it, and the others go on. ``crew``: who measures (None: processes of this machine).
    Raises UserError if a finished cell cannot be stored.
    """
    started = time.perf_counter()
    progress = progress or Quiet()
    distinct = list({job.cell.key: job for job in jobs}.values())
    outcome = Outcome(found=store.load_all(job.cell.key for job in distinct))
    missing = [job for job in distinct if job.cell.key not in outcome.found]
    progress.start(len(missing), sum(job.work for job in missing), outcome.found_finished)
    crew = crew or LocalCrew(execute, threads, memory_limit)
    stored = set(outcome.found)
    with Claims(store.folder.parent) as claims:
        agenda = Agenda(missing, store, claims)
        try:
            for job, event in crew.run(agenda, workers):
                if isinstance(event, int):
                    progress.advance(event)
                    continue
                if isinstance(event, Failure):
                    outcome.failures.append(event)
                    progress.failed(job.label, event.reason, event.details)
                else:
                    payload, seconds = event
                    store.save(job.cell.key, payload)
                    stored.add(job.cell.key)
                    progress.finished(job.label, seconds)
                claims.release(job.cell.key)
        finally:
            crew.stop()
            progress.close()
        stored |= {job.cell.key for job in agenda.by_others}
    outcome.keys = [job.cell.key for job in distinct if job.cell.key in stored]
    outcome.seconds = time.perf_counter() - started
    return outcome


def usable_workers(jobs: int, *, device: str = "cpu") -> int:
    """How many workers to take for so many jobs: one a core, but only one on a GPU."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores if device == "cpu" else 1, jobs))


Message = tuple[Literal["tokens", "done", "failed"], Any]
Event = int | Failure | tuple[Mapping[str, Any], float]
"""What is heard of a running job: tokens read, its failure, or (payload, seconds)."""


@dataclass
class _Worker:
    process: multiprocessing.process.BaseProcess
    connection: Connection
    job: Job | None = None


class LocalCrew:
    """Worker processes of this machine, and the jobs handed to them one at a time."""

    def __init__(self, execute: Execute, threads: int, memory_limit: int | None = None) -> None:
        self.execute, self.threads, self.memory_limit = execute, threads, memory_limit
        self.context = multiprocessing.get_context("spawn")
        self.workers: list[_Worker] = []

    def run(self, agenda: Agenda, workers: int) -> Iterable[tuple[Job, Event]]:
        """Yields what is heard of the jobs until each is done or failed."""
        while agenda or any(worker.job for worker in self.workers):
            self.workers = [worker for worker in self.workers if worker.job or worker.process.is_alive()]
            idle = [worker for worker in self.workers if worker.job is None]
            while self._has_room(workers, len(idle)) and (next_job := agenda.next(idle=len(idle) == len(self.workers))):
                self._hand(idle.pop() if idle else self._hire(), next_job)
            busy = {worker.connection: worker for worker in self.workers if worker.job is not None}
            if not busy and agenda:
                time.sleep(SECONDS_BETWEEN_LOOKS)
            for connection in wait(list(busy), SECONDS_BETWEEN_LOOKS if agenda else None) if busy else ():
                assert isinstance(connection, Connection)
                worker = busy[connection]
                job = worker.job
                assert job is not None
                try:
                    kind, content = connection.recv()
                except (EOFError, OSError):
                    yield job, Failure(job, self._dismiss(worker))
                    continue
                if kind != "tokens":
                    worker.job = None
                if kind == "failed" and job.device != "cpu" and len(content) > 1:
                    self._retire(worker)
                yield job, Failure(job, *content) if kind == "failed" else content

    def stop(self) -> None:
        """Ends all workers: at once where they are in a cell, whose result is lost."""
        for worker in self.workers:
            if worker.job is not None:
                worker.process.kill()
            worker.connection.close()
        for worker in self.workers:
            worker.process.join(timeout=5)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
        self.workers.clear()

    def _has_room(self, workers: int, idle: int) -> bool:
        alone = any(worker.job.alone for worker in self.workers if worker.job is not None)
        return not alone and len(self.workers) - idle < workers

    def _retire(self, worker: _Worker) -> None:
        """After a fault on a GPU, which may have broken all that the process has there: its next jobs would fail."""
        self.workers.remove(worker)
        worker.process.kill()
        worker.connection.close()

    def _hire(self) -> _Worker:
        ours, theirs = self.context.Pipe()
        process = self.context.Process(
            target=_work,
            args=(theirs, self.execute, self.threads, self.memory_limit),
            name="fwpkm-eval worker",
            daemon=True,
        )
        process.start()
        theirs.close()  # or the end of the process would not be noticed here
        self.workers.append(_Worker(process, ours))
        return self.workers[-1]

    def _hand(self, worker: _Worker, job: Job) -> None:
        worker.job = job
        with contextlib.suppress(OSError):  # that it has died is noticed where answers are read
            worker.connection.send(job)

    def _dismiss(self, worker: _Worker) -> str:
        """Takes a dead worker off the list and says what it died of."""
        self.workers.remove(worker)
        worker.connection.close()
        worker.process.join(timeout=5)
        code = worker.process.exitcode
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            hint = "; the memory may have run out" if name == "SIGKILL" else ""
            return f"its process was ended by {name}{hint}"
        return f"its process ended with exit code {code}"


def _work(connection: Connection, execute: Execute, threads: int, memory_limit: int | None) -> None:
    """A worker's life: takes jobs until there is nobody left to give any."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is the parent's to handle
    parent = multiprocessing.parent_process()
    if parent is not None:
        _end_after(parent.join)
    tune_malloc()
    if memory_limit is not None:
        limit_memory(memory_limit)
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
    if "torch" in sys.modules:  # else it reads the variables when it is imported
        sys.modules["torch"].set_num_threads(threads)
    while True:
        try:
            job = connection.recv()
        except (EOFError, OSError):
            return
        started = time.perf_counter()
        reporter = _Reporter(connection)
        message: Message
        try:
            payload = execute(job, reporter)
            reporter.send()
            message = ("done", (payload, time.perf_counter() - started))
        except (BrokenPipeError, ConnectionResetError):
            return  # the parent is gone
        except UserError as error:
            message = ("failed", (str(error),))
        except Exception as error:  # whatever it is, it fails this cell alone; the details are told
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            message = ("failed", (reason, traceback.format_exc()))
            if memory_limit is not None and job.device == "cpu" and is_out_of_memory(error):
                message = ("failed", (f"it needs more than the memory limit of {memory_limit / 2**30:.3g} GiB",))
        try:
            connection.send(message)
        except (BrokenPipeError, ConnectionResetError):
            return


def end_with_the_starter() -> bool:
    """Ends this process when the one that passed it a `LIFELINE` is gone; False if none did: a person started it."""
    pipe = os.environ.pop(LIFELINE, None)
    if pipe is None:
        return False
    _end_after(functools.partial(os.read, int(pipe), 1))
    return True


def _end_after(wait_for_the_other: Callable[[], object]) -> None:
    """Ends this process when the one that would take its results is gone, however that ended."""

    def end() -> None:
        wait_for_the_other()
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()


class _Reporter:
    """Passes on how many tokens were read, not too often."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.tokens = 0
        self.last = time.monotonic()

    def __call__(self, tokens: int) -> None:
        self.tokens += tokens
        if time.monotonic() - self.last > SECONDS_BETWEEN_REPORTS:
            self.send()

    def send(self) -> None:
        if self.tokens:
            self.connection.send(("tokens", self.tokens))
            self.tokens = 0
        self.last = time.monotonic()
