"""Where a run's steps are written: `metrics.jsonl` always, TensorBoard and Weights & Biases if asked for."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Protocol

from fwpkm_eval.errors import UserError, unknown
from fwpkm_eval.files import write_whole
from fwpkm_eval.training.trainer import StepReport

METRICS = "metrics.jsonl"
EXTRA = ("tensorboard", "wandb")


class Logger(Protocol):
    """Takes the report of each step, in order."""

    def __call__(self, report: StepReport) -> None: ...


@contextmanager
def loggers(folder: Path, name: str, done: int, extra: Sequence[str] = ()) -> Iterator[Logger]:
    """Writes every report to all that are asked for. done: the step the run goes on after.

    Raises: UserError: an unknown logger, or one whose package is not installed.
    """
    for entry in extra:
        if entry not in EXTRA:
            raise unknown("logger", entry, EXTRA)
    _keep_metrics_up_to(folder / METRICS, done)
    with ExitStack() as stack:
        # One that cannot be opened is noticed before anything is written.
        writers = [stack.enter_context(_OPEN[entry](folder, name, done)) for entry in extra]
        stored = stack.enter_context((folder / METRICS).open("a", encoding="utf-8"))

        def log(report: StepReport) -> None:
            row = as_row(report)
            stored.write(json.dumps(row) + "\n")
            stored.flush()
            numbers = {key: value for key, value in row.items() if isinstance(value, int | float) and key != "step"}
            for writer in writers:
                writer(report.step, numbers)

        yield log


def as_row(report: StepReport) -> dict[str, Any]:
    """A report as JSON has it: what is not a number (a step without needles) is null; no memory diverged, no field."""
    row = {key: None if _is_nan(value) else value for key, value in asdict(report).items()}
    if not report.diverged_memories:
        del row["diverged_memories"]
    return row


def last_reports(folder: Path, most: int) -> list[StepReport]:
    """The last reports that a run's `metrics.jsonl` holds, oldest first; none where there is no such file."""
    path = folder / METRICS
    lines = path.read_text(encoding="utf-8").splitlines()[-most:] if path.exists() else []
    return [as_report(json.loads(line)) for line in lines]


def as_report(row: Mapping[str, Any]) -> StepReport:
    """The inverse of `as_row`; fields that an older version did not write are nan."""
    numbers: dict[str, Any] = {key: math.nan if value is None else value for key, value in row.items()}
    known = {field.name for field in fields(StepReport)}
    return StepReport(**{key: value for key, value in numbers.items() if key in known})


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


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


@contextmanager
def _tensorboard(folder: Path, name: str, done: int) -> Iterator[Any]:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError("--log tensorboard needs the package tensorboard: pip install tensorboard") from None
    with SummaryWriter(str(folder / "tensorboard"), purge_step=done + 1) as writer:

        def log(step: int, numbers: dict[str, float]) -> None:
            for key, value in numbers.items():
                writer.add_scalar(key, value, step)

        yield log


@contextmanager
def _wandb(folder: Path, name: str, done: int) -> Iterator[Any]:
    try:
        import wandb
    except ImportError:
        raise UserError("--log wandb needs the package wandb: pip install wandb") from None
    run = wandb.init(project="fwpkm-eval", name=name, dir=str(folder), resume="allow")
    try:
        yield lambda step, numbers: run.log(numbers, step=step)
    finally:
        run.finish()


_OPEN: dict[str, Any] = {"tensorboard": _tensorboard, "wandb": _wandb}
