"""Training as a command runs it: one model with its progress lines, or several models one after the other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fwpkm_eval.devices import peak_memory
from fwpkm_eval.errors import UserError
from fwpkm_eval.reference_models.checkpoint import DESCRIPTION
from fwpkm_eval.reference_models.config import ModelConfig, model_config
from fwpkm_eval.runs.engine import LIFELINE
from fwpkm_eval.runs.manifest import MANIFEST
from fwpkm_eval.training.finished import is_finished
from fwpkm_eval.training.loggers import last_reports, loggers
from fwpkm_eval.training.parallel import started
from fwpkm_eval.training.progress import AVERAGED_STEPS, TrainingProgress
from fwpkm_eval.training.recipe import Recipe, recipe_for
from fwpkm_eval.training.savepoints import RESUME, save_points
from fwpkm_eval.training.trainer import Settings, Trainer

LOCK = ".training"


@dataclass(frozen=True)
class Where:
    """Where and how a run is carried out: device ("auto", "cpu", "cuda…"), parallelism ("ddp", "fsdp"), what logs its
    steps beside metrics.jsonl, seconds between save points, and whether the process that started this one keeps others
    out of the folder."""

    device: str = "cpu"
    parallel: str = "ddp"
    log: tuple[str, ...] = ()
    save_every: float = 60.0
    is_held: bool = False


class InUse(UserError):
    """Another process is training into the folder."""


def train_model(
    config: ModelConfig,
    recipe: Recipe,
    folder: Path,
    data: str,
    resume: bool,
    quiet: bool,
    settings: Settings | None = None,
    where: Where | None = None,
) -> dict[str, float | None] | None:
    """Trains one model into `folder`; under torchrun each process calls it. Returns its last averages, tokens per
    second and peak memory in bytes, of the first process (the others: None).

    Raises:
        UserError: the folder holds a checkpoint, or an unfinished run and resume is not asked for; missing data;
            a run that cannot go on.
    """
    where = where or Where()
    with ExitStack() as held:
        ranks = held.enter_context(started(where.device, where.parallel))
        if not where.is_held:
            held.enter_context(_alone_in(folder, ranks.is_first))
        _check_folder(folder, resume)
        trainer = Trainer(config, recipe, folder, data, settings, ranks)
        if resume and trainer.resume() and ranks.is_first:
            print(f"going on after step {trainer.step} of {recipe.steps}", file=sys.stderr)
        if not ranks.is_first:
            for _ in trainer.run(where.save_every):
                pass
            return None
        with loggers(folder, config.name, trainer.step, where.log) as log:
            before = last_reports(folder, AVERAGED_STEPS)
            progress = TrainingProgress(config.name, recipe.steps, trainer.step, quiet, before)
            for report in trainer.run(where.save_every, log):
                progress.show(report)
        return progress.close() | {"peak_memory_bytes": peak_memory()}


def _check_folder(folder: Path, resume: bool) -> None:
    if (folder / MANIFEST).exists():
        raise UserError(f"{folder} holds the results of a measuring run; choose another --out folder")
    if (folder / DESCRIPTION).exists():
        raise UserError(f"{folder} holds a finished checkpoint already; choose another --out folder")
    if save_points(folder) and not resume:
        raise UserError(f"{folder} holds an unfinished run; add --resume to go on, or choose another --out folder")
    if (folder / f"{RESUME}.safetensors").exists():
        raise UserError(f"{folder} holds a save of an older version; delete {RESUME}.safetensors to start anew")


@contextmanager
def _alone_in(folder: Path, is_first: bool = True) -> Iterator[int | None]:
    """Makes the folder, and keeps all other runs out of it as long as this process lives, or one that inherits the file
    whose number this gives (None: the system has no locks). Of the processes of a run the first has the lock.

    A folder that was not there and into which nothing was written is not left behind.

    Raises:
        InUse: another run has it.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; --out must be a folder")
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _locked(folder, is_first) as lock:
            yield lock
    finally:
        with suppress(OSError):  # it is not empty: something was written
            for path in made:
                path.rmdir()


@contextmanager
def _locked(folder: Path, is_first: bool) -> Iterator[int | None]:
    try:
        import fcntl
    except ImportError:
        is_first = False
    if not is_first:
        yield None
        return
    path = folder / LOCK
    with ExitStack() as opened:
        while True:
            lock = opened.enter_context(path.open("w")).fileno()
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InUse(f"another process is training into {folder}; wait for it, or choose another") from None
            except OSError:  # a file system without locks
                break
            # Whoever ends as this one comes removes the file: a lock on that one would keep nobody out.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(lock), path.stat()):
                    break
        try:
            yield lock
        finally:
            path.unlink(missing_ok=True)


def train_models(
    names: Sequence[str],
    scale: str,
    folders: Sequence[Path],
    data: str,
    workers: int,
    quiet: bool,
    device: str = "cpu",
    seed: int = 0,
) -> None:
    """Trains the models that are not finished yet, by their scale's recipe.

    On a CPU `workers` at a time, each a process of one thread: two such train two small models faster than two threads
    train them one after the other. On a GPU one after the other. These processes end with this one, however it ends. A
    model that another process is training into its folder is left to that one, and trained here if that ends before
    its time.

    Raises:
        UserError: a folder holds another model; or a training failed, and the others were finished first.
    """
    from fwpkm_eval.devices import resolve_device

    on_cpu = resolve_device(device).type == "cpu"
    options = ["--data", data, "--device", device, "--seed", str(seed), *(["--threads", "1"] if on_cpu else [])]

    def is_trained(name: str, folder: Path) -> bool:
        config = model_config(name, scale)
        return is_finished(folder, config, replace(recipe_for(config, data), seed=seed), data)

    waiting = [(name, folder) for name, folder in zip(names, folders, strict=True) if not is_trained(name, folder)]
    running: list[tuple[str, subprocess.Popen[bytes], ExitStack]] = []
    others: set[Path] = set()
    failed: list[str] = []
    try:
        with _terminated_as_interrupted(), _pipe() as lifeline:
            while waiting or running:
                for name, folder in list(waiting):
                    if len(running) == (workers if on_cpu else 1):
                        break
                    with ExitStack() as held:
                        try:
                            lock = held.enter_context(_alone_in(folder))
                        except InUse:
                            if folder not in others and not quiet:
                                print(f"waiting for another process that trains {name} into {folder}", file=sys.stderr)
                            others.add(folder)
                            continue
                        waiting.remove((name, folder))
                        if not is_trained(name, folder):  # by whoever had the folder until now
                            process = _start(name, scale, folder, options, quiet, lifeline, lock)
                            running.append((name, process, held.pop_all()))
                time.sleep(0.2)
                for entry in list(running):
                    name, process, held = entry
                    if process.poll() is not None:
                        running.remove(entry)
                        held.close()
                        if process.returncode:
                            failed.append(name)
    finally:
        for _, process, _ in running:
            process.terminate()
        for _, process, held in running:
            process.wait()  # until then the folder is not free
            held.close()
    if failed:
        raise UserError(f"training failed for {', '.join(failed)}; the finished ones are kept, run again to go on")


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM ends the block like Ctrl-C, so that the processes it started are ended, too."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _pipe() -> Iterator[int]:
    """The end of a pipe for processes that are started to read: the other one is this process's until it ends."""
    theirs, ours = os.pipe()
    try:
        yield theirs
    finally:
        os.close(theirs)
        os.close(ours)


def _start(
    name: str, scale: str, folder: Path, options: Sequence[str], quiet: bool, lifeline: int, lock: int | None
) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-P", "-m", "fwpkm_eval", "train", "--model", name, "--scale", scale]
    command += ["--out", str(folder), "--resume", *options, *["--quiet"] * quiet]
    if lock is None:  # no POSIX: files cannot be passed on
        return subprocess.Popen(command)
    return subprocess.Popen(command, env={**os.environ, LIFELINE: str(lifeline)}, pass_fds=(lifeline, lock))
