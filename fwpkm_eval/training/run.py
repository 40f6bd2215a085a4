"""Training as a command runs it: one model with its progress lines, or several models side by side."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from fwpkm_eval.errors import UserError
from fwpkm_eval.files import write_whole
from fwpkm_eval.reference_models.checkpoint import DESCRIPTION
from fwpkm_eval.reference_models.config import ModelConfig
from fwpkm_eval.training.progress import TrainingProgress
from fwpkm_eval.training.recipe import Recipe
from fwpkm_eval.training.trainer import METRICS, RESUME, StepReport, Trainer


def train_model(
    config: ModelConfig, recipe: Recipe, folder: Path, data: str, resume: bool, quiet: bool
) -> dict[str, float]:
    """Trains one model into `folder` and returns its last averages.

    Raises:
        UserError: the folder holds a checkpoint, or an unfinished run and resume is not asked for; missing data.
    """
    if (folder / DESCRIPTION).exists():
        raise UserError(f"{folder} holds a finished checkpoint already; choose another --out folder")
    if (folder / RESUME).exists() and not resume:
        raise UserError(f"{folder} holds an unfinished run; add --resume to go on, or choose another --out folder")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; --out must be a folder")
    trainer = Trainer(config, recipe, folder, data)
    if resume and trainer.resume():
        print(f"going on after step {trainer.step} of {recipe.steps}", file=sys.stderr)
    folder.mkdir(parents=True, exist_ok=True)
    metrics = folder / METRICS
    _keep_metrics_up_to(metrics, trainer.step)
    progress = TrainingProgress(config.name, recipe.steps, trainer.step, quiet)
    with metrics.open("a", encoding="utf-8") as stored:
        for report in trainer.run():
            stored.write(json.dumps(_row(report)) + "\n")
            progress.show(report)
    return progress.close()


def _row(report: StepReport) -> dict[str, float | None]:
    # nan (a step without needles) is not JSON
    return {key: None if value != value else value for key, value in asdict(report).items()}


def _keep_metrics_up_to(path: Path, step: int) -> None:
    """Drops what a killed run wrote after its last saved step, so that every step stands there once."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            break  # the line that was being written when the run was killed
    write_whole(path, "".join(kept))


def train_models(
    names: Sequence[str], scale: str, folders: Sequence[Path], data: str, workers: int, quiet: bool
) -> None:
    """Trains the models that are not finished yet, `workers` at a time, each a process of one thread.

    Two processes of one thread train two small models faster than two threads train them one after the other.

    Raises:
        UserError: a training failed; the others are finished first.
    """
    waiting = [(n, f) for n, f in zip(names, folders, strict=True) if not (f / DESCRIPTION).exists()]
    running: list[tuple[str, subprocess.Popen[bytes]]] = []
    failed: list[str] = []
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                name, folder = waiting.pop(0)
                running.append((name, _start(name, scale, folder, data, quiet)))
            time.sleep(0.2)
            for entry in list(running):
                if entry[1].poll() is not None:
                    running.remove(entry)
                    if entry[1].returncode:
                        failed.append(entry[0])
    finally:
        for _, process in running:
            process.terminate()
    if failed:
        raise UserError(f"training failed for {', '.join(failed)}; the finished ones are kept, run again to go on")


def _start(name: str, scale: str, folder: Path, data: str, quiet: bool) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-P", "-m", "fwpkm_eval", "train", "--model", name, "--scale", scale]
    command += ["--out", str(folder), "--data", data, "--threads", "1", "--resume"]
    return subprocess.Popen(command + ["--quiet"] * quiet, env=dict(os.environ))
