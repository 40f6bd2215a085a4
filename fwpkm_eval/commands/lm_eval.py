"""``fwpkm-eval lm-eval``: tasks of the lm-evaluation-harness, any of its tasks or ours."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fwpkm_eval.commands import options, sources
from fwpkm_eval.errors import UserError

if TYPE_CHECKING:
    from fwpkm_eval.commands.measure import Measured
    from fwpkm_eval.harness.subjects import Subject
    from fwpkm_eval.runs.rows import Row


def _names(text: str) -> tuple[str, ...]:
    names = tuple(filter(None, options.listed(text)))
    if not names:
        raise UserError("no task is named")
    return names


def _task_arguments(pairs: Sequence[str]) -> dict[str, Any]:
    """``length=8K`` → {"length": "8K"}; values that are JSON (numbers, lists, true) are taken as that."""
    arguments: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise UserError(f"task argument {pair!r} is not NAME=VALUE, such as length=8K")
        try:
            arguments[name.strip()] = json.loads(value)
        except ValueError:
            arguments[name.strip()] = value
    return arguments


@click.command(name="lm-eval")
@click.option(
    "--model",
    "--models",
    "model",
    required=True,
    metavar="NAMES",
    help="Models of ours, names or folders; or with --model-args one of lm-eval's (hf, vllm, …).",
)
@click.option(
    "--model-args",
    default=None,
    metavar="ARGS",
    help="Arguments of an lm-eval model, such as pretrained=gpt2: its results become one more row.",
)
@options.scale
@click.option(
    "--tasks",
    type=options.Parsed("tasks", _names, lists=True),
    required=True,
    metavar="NAMES",
    help="Tasks of lm-eval.",
)
@click.option(
    "--include-path",
    "include_paths",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="DIR",
    help="A folder with YAML files of further tasks; ours are always there.",
)
@click.option(
    "--task-args",
    multiple=True,
    metavar="NAME=VALUE",
    help="An argument for the tasks, such as length=8K for fwpkm_niah; may be given more than once.",
)
@click.option(
    "--limit", type=click.FloatRange(0, min_open=True), default=None, help="Documents of each task, or a share."
)
@click.option("--num-fewshot", type=click.IntRange(0), default=None, help="Examples in a prompt. [default: the task's]")
@click.option("--bootstrap", type=click.IntRange(0), default=1000, show_default=True, help="Resamplings for intervals.")
@click.option(
    "--batch-size",
    default=None,
    metavar="N|auto",
    help="For lm-eval's models; ours read one request at a time, whatever it is.",
)
@click.option(
    "--memory",
    type=options.OneOf("memory", ["request", "stream", "off"]),
    default="request",
    show_default=True,
    help="Where the memory starts anew: with each request, or (stream) with each task; off: nothing is written.",
)
@click.option(
    "--passes",
    type=click.IntRange(0, 10_000),
    default=0,
    show_default=True,
    help="Readings that memorise the context before it is read for the answer; 0: it is written as it is read.",
)
@options.own_write_chunk
@click.option(
    "--memorise",
    default="haystack",
    show_default=True,
    metavar="FIELD",
    help="What the passes read: this field of a task's document, or without it the whole context.",
)
@click.option(
    "--segment", type=options.SIZE, default="4K", show_default=True, help="Tokens of a sequence, for rolling."
)
@options.measuring_here
def command(
    model: str,
    model_args: str | None,
    scale: str,
    tasks: tuple[str, ...],
    include_paths: tuple[Path, ...],
    task_args: tuple[str, ...],
    limit: float | None,
    num_fewshot: int | None,
    bootstrap: int,
    batch_size: str | None,
    memory: str,
    passes: int,
    write_chunk: int | str | None,
    memorise: str,
    segment: int,
    given: options.Given,
) -> None:
    """Run tasks of the lm-evaluation-harness on our models, or our tasks on its models.

    Ours are fwpkm_niah (arguments length, needles, samples, …), fwpkm_perplexity (set, bytes) and those with a length
    or a set in their names; they take their text from --data. Each request starts from the same memory unless --memory
    says otherwise, so that order and batch size change nothing.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError("this needs the lm-evaluation-harness: pip install 'fwpkm-eval[harness]'")
    arguments = {"data": given.data, "seed": given.seed, **_task_arguments(task_args)}
    from fwpkm_eval.malloc import tune_malloc

    tune_malloc()
    _calm(given.quiet)
    from fwpkm_eval.commands.measure import conclude
    from fwpkm_eval.harness.evaluation import RunSettings
    from fwpkm_eval.harness.settings import ReadingSettings

    reading = ReadingSettings(memory, passes, write_chunk, memorise, segment)
    settings = RunSettings(limit, num_fewshot, bootstrap, given.seed)
    subjects = _subjects(model, model_args, scale, batch_size, reading, given)
    config = {
        "command": "lm-eval",
        "models": [subject.name for subject in subjects],
        "scale": scale,
        "tasks": list(tasks),
        "task_arguments": arguments,
        "device": given.device,
        "dtype": given.dtype,
        "reading": asdict(reading),
        **asdict(settings),
    }
    conclude(_run(subjects, tasks, include_paths, arguments, settings, config, given), given, _show)


def _subjects(
    model: str, model_args: str | None, scale: str, batch_size: str | None, reading: Any, given: options.Given
) -> list[Subject]:
    from fwpkm_eval.harness.subjects import other_subject, our_subject

    if model_args is not None:
        _refuse_what_is_ours()
        return [other_subject(model, model_args, batch_size, given.device)]
    found = sources.find_sources(sources.names_or_folders(model), scale, given)
    return [our_subject(source, reading, quiet=given.quiet) for source in found]


def _refuse_what_is_ours() -> None:
    """Options that say how our models are loaded and read, of which lm-eval's know nothing."""
    context = click.get_current_context(silent=True)
    ours = {"memory": "--memory", "passes": "--passes", "write_chunk": "--write-chunk", "memorise": "--memorise"}
    ours |= {"segment": "--segment", "scale": "--scale", "dtype": "--dtype"}
    for name, option in ours.items():
        if context is not None and context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            hint = ", as in dtype=bfloat16" if name == "dtype" else ""
            raise UserError(f"{option} is for models of ours; what lm-eval's take goes into --model-args{hint}")


def _run(
    subjects: Sequence[Subject],
    names: Sequence[str],
    include_paths: Sequence[Path],
    arguments: dict[str, Any],
    settings: Any,
    config: dict[str, Any],
    given: options.Given,
) -> Measured:
    from fwpkm_eval.commands.measure import run_cells
    from fwpkm_eval.harness.evaluation import InThisProcess, task_job
    from fwpkm_eval.harness.load_tasks import load_tasks
    from fwpkm_eval.tasks.lm_eval.text_unit import lengths_in_tokens_of

    jobs, planned = [], {}
    for subject in subjects:
        with lengths_in_tokens_of(subject.lm):
            loaded = load_tasks(names, include_paths, arguments)
        for task in loaded:
            job = task_job(subject, task, settings)
            jobs.append(job)
            planned[job.cell.key] = (subject, task)
    return run_cells(
        jobs,
        given,
        config=config,
        models=[subject.source for subject in subjects if subject.source is not None],
        texts=[],
        crew=InThisProcess(planned, settings),
    )


def _calm(quiet: bool) -> None:
    """Leaves of lm-eval's and its libraries' remarks what the user can act on."""
    if os.environ.get("FWPKM_EVAL_DEBUG", "") not in ("", "0"):
        return
    os.environ.setdefault("TQDM_DISABLE", "1" if quiet else "")
    for name in ("lm_eval", "datasets", "huggingface_hub", "httpx"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _show(rows: Sequence[Row]) -> None:
    """A line for each metric."""
    from fwpkm_eval.commands.measure import print_table

    table = []
    for row in rows:
        value = "–" if row.value is None else f"{row.value:.4g}"
        interval = "–" if row.ci_low is None or row.ci_high is None else f"{row.ci_low:.4g} to {row.ci_high:.4g}"
        table.append((row.model, row.task.partition(":")[2], row.metric, value, interval, row.n or "–"))
    print_table(("model", "task", "metric", "value", "95% interval", "n"), table, right=("value", "95% interval", "n"))
