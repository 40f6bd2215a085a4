"""What the commands that measure have in common: run the cells, store the rows, say how it went."""

from __future__ import annotations

import json
import sys
import tempfile
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fwpkm_eval.commands.text_table import aligned
from fwpkm_eval.errors import UserError

if TYPE_CHECKING:
    import pandas

    from fwpkm_eval.commands.options import Given
    from fwpkm_eval.reporting.table import Table
    from fwpkm_eval.runs.engine import Crew, Job, Outcome
    from fwpkm_eval.runs.jobs import ModelSource, TextSource
    from fwpkm_eval.runs.plan import Plan
    from fwpkm_eval.runs.rows import Row

NOTE_WIDTH = 120
Show = Callable[["Sequence[Row]"], None]
"""Prints rows, in whatever form."""


@dataclass(frozen=True)
class Measured:
    """The rows of a run in the order of its jobs, how it went, the most memory that a worker held, and the cells.

    ``folders``: where the models are that are not shipped and in what they are not as their scale's, by the model's
    name and its weights' in tables.
    """

    rows: list[Row]
    outcome: Outcome
    peak_memory_bytes: int | None
    payloads: list[dict[str, Any]]
    folders: dict[str, str] = field(default_factory=dict)


def models_config(
    command: str, scale: str, models: Sequence[ModelSource], given: Given, /, **settings: Any
) -> dict[str, Any]:
    """What makes two runs the same run, as the manifest of a command that measures models holds it."""
    return {
        "command": command,
        "scale": scale,
        "models": [model.name for model in models],
        "data": given.data,
        "device": given.device,
        "dtype": given.dtype,
        **settings,
    }


def run_cells(
    jobs: Sequence[Job],
    given: Given,
    *,
    config: Mapping[str, Any],
    models: Sequence[ModelSource],
    texts: Sequence[TextSource],
    seeds: Sequence[int] = (),
    crew: Crew | None = None,
    device: str | None = None,
) -> Measured:
    """Runs the jobs and keeps manifest, cells and rows.csv in ``--out``, if one was given.

    ``--engine`` and ``--shard`` say who runs them, and which part; ``crew``, if there is one, runs them whatever the
    engine. Jobs that are timed are of every part: their keys name the machine, and only those of one machine compare.
    The rows are those of all jobs that are finished, also of other parts. ``seeds``: those of a run that has
    more than one; ``device``: where the jobs run (None: where the models say).

    Raises UserError, before anything is run, if ``--out`` holds another run, or for a memory limit where another
    program manages the memory.
    """
    from fwpkm_eval.devices import resolve_device
    from fwpkm_eval.runs.cells import CellStore, rows_of
    from fwpkm_eval.runs.engine import run_jobs, usable_workers
    from fwpkm_eval.runs.execute import execute
    from fwpkm_eval.runs.manifest import as_mapping, check_or_create, load_manifest, machine, update_manifest
    from fwpkm_eval.runs.measured_models import describe_model
    from fwpkm_eval.runs.progress import for_terminal
    from fwpkm_eval.runs.replaced_rows import replace_rows

    if given.memory_limit is not None and given.engine != "local":
        raise UserError(f"--memory-limit is for --engine local; {given.engine} limits the memory of its workers itself")
    out = given.out
    where = resolve_device(device or (models[0].device if models else "cpu"))
    here = machine(str(where))
    name_of = _told_apart((model.name, model.weights_hash) for model in models)
    weights = {name_of[model.name, model.weights_hash]: model.weights_hash for model in models}
    if out is not None:
        before = as_mapping((load_manifest(out) or {}).get("weights"))
        check_or_create(
            out,
            config,
            command=["fwpkm-eval", *sys.argv[1:]],
            seeds=seeds or [given.seed],
            device=here,
            data={text.text_set.name: _described(text) for text in texts},
            weights=weights,
            models={name_of[model.name, model.weights_hash]: describe_model(model) for model in models},
        )
        _note_other_weights(before, weights)
    mine = jobs if given.shard is None else [job for job in jobs if job.alone or given.shard.select([job])]
    if crew is not None:
        room = 1
    elif given.engine == "ray":
        from fwpkm_eval.runs.ray_crew import RayCrew

        cluster = RayCrew(execute)
        crew, room = cluster, cluster.room
    else:
        room = usable_workers(len(mine), device=where.type)
    with _folder(out) as folder:
        store = CellStore(folder)
        outcome = run_jobs(
            mine,
            store,
            execute,
            workers=given.workers or room,
            progress=for_terminal(quiet=given.quiet),
            memory_limit=given.memory_limit,
            crew=crew,
        )
        keys = list(dict.fromkeys(job.cell.key for job in jobs))
        with _writing_results(out):
            found = outcome.found | store.load_all(key for key in keys if key not in outcome.found)
            payloads = [found[key] for key in keys if key in found]
            outcome.keys = [key for key in keys if key in found]
            failed = {failure.job.cell.key for failure in outcome.failures}
            outcome.missing = sum(key not in found and key not in failed for key in keys)
            rows = rows_of(payloads)
            if out is not None:
                larger = _larger_run(out, config)
                more = [str(key) for key in larger.get("cells", ()) if key not in keys]
                replace_rows([*rows, *rows_of(store.load_all(more).values())], out / "rows.csv")
                finished = bool(larger["finished"]) if larger else len(outcome.keys) == len(keys)
                # Also the machine: another one that joined this run meanwhile has its own there.
                update_manifest(out, cells=[*outcome.keys, *more], finished=finished, device=here)
        return Measured(rows, outcome, _peak_memory(payloads), payloads, _folders(models, rows))


def _note_other_weights(before: Mapping[str, Any], now: Mapping[str, str]) -> None:
    """Says that models are not those that this run measured before: their rows will not be among its rows any more."""
    other = [f"{name} ({before[name]}, now {now[name]})" for name in now if before.get(name, now[name]) != now[name]]
    if other:
        click.echo(
            f"note: other weights than those measured here before, whose rows are replaced: {', '.join(other)}",
            err=True,
        )


def conclude(measured: Measured, given: Given, show: Show, show_json: Show | None = None) -> None:
    """Shows the rows, with ``--json`` as JSON (``show_json``: as that shows them), and ends the command.

    Before its end, tables, plots and report are built in ``--out``, and where is said: also where nobody reads what is
    shown to its end (``| head``). The exit code is 1 if anything failed.
    """
    out = given.out if measured.rows else None
    try:
        if given.as_json:
            (show_json or print_rows)(measured.rows)
        else:
            show(measured.rows)
            for name, folder in measured.folders.items():
                click.echo(f"{name}: {folder}")
    finally:
        if out is not None:
            from fwpkm_eval.reporting import build_report

            with _writing_results(out):
                payloads = _with_those_of_other_parts(out, measured.payloads)
                _keep_traces(out, payloads)
                build_report(out, payloads)
    if out is not None:
        click.echo(f"report: {out / 'report.html'}", err=given.as_json)
    _end(measured)


def _larger_run(out: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest in ``out`` if one that asks for more took the folder on since this run began; else nothing."""
    from fwpkm_eval.runs.growth import is_more_of
    from fwpkm_eval.runs.manifest import as_stored, load_manifest

    manifest = load_manifest(out) or {}
    return manifest if manifest and is_more_of(as_stored(config), manifest["config"]) else {}


def _with_those_of_other_parts(out: Path, payloads: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The cells that make up the run by now: these, and those that other processes have ended with since."""
    from fwpkm_eval.runs.cells import CellStore
    from fwpkm_eval.runs.manifest import load_manifest

    known = {str(payload["key"]): payload for payload in payloads}
    listed = [str(key) for key in (load_manifest(out) or {}).get("cells", [])]
    known |= CellStore(out).load_all(key for key in listed if key not in known)
    return list(known.values())


def _keep_traces(out: Path, payloads: Sequence[Mapping[str, Any]]) -> None:
    """Each slot trace in a file of its own, for the report and for whoever wants to read it."""
    from fwpkm_eval.files import write_whole
    from fwpkm_eval.tasks.trace_types import Trace

    traces = [Trace.from_json(stored) for payload in payloads for stored in payload.get("traces", [])]
    alone = Counter(trace.name for trace in traces)
    for trace in traces:
        content = json.dumps(trace.to_json(), indent=1, ensure_ascii=False, allow_nan=False)
        # Trainings of one model were asked the same.
        name = trace.name if alone[trace.name] == 1 else f"{trace.name}-{trace.weights_hash[:8]}"
        write_whole(out / "trace" / f"{name}.json", content + "\n")


def _end(measured: Measured) -> None:
    """Says how many cells failed, and ends the command with exit code 1 if any did; each was told of as it happened."""
    failures = len(measured.outcome.failures)
    if measured.outcome.missing:
        click.echo(f"{measured.outcome.missing} cells are left to other parts of the run", err=True)
    if failures:
        cells = len(measured.outcome.keys) + failures
        why = "the lines with “failed:” above say why"
        click.echo(f"{failures} of {cells} cells failed: {why}; run again to try those alone", err=True)
        raise click.exceptions.Exit(1)


def print_rows(rows: Sequence[Row]) -> None:
    """The rows as JSON, a list of objects."""
    click.echo(json.dumps([row.to_json() for row in rows], indent=1))


def names_of(rows: Iterable[Row]) -> dict[tuple[str, str], str]:
    """What a table calls a row's model, by name and weights: its name, with the weights' where several share it."""
    return _told_apart((row.model, row.weights_hash) for row in rows)


def _with_weights(model: str, weights_hash: str) -> str:
    """What a model is called where others share its name."""
    return f"{model} {weights_hash[:8]}"


def _told_apart(models: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    known = dict.fromkeys(models)
    alone = Counter(model for model, _ in known)
    return {(model, weights): model if alone[model] == 1 else _with_weights(model, weights) for model, weights in known}


def _folders(models: Sequence[ModelSource], rows: Sequence[Row]) -> dict[str, str]:
    """The checkpoints measured that are not shipped, by name and weights, with what is unusual in them: tables do not
    say either."""
    from fwpkm_eval.reporting.model_facts import unusual
    from fwpkm_eval.runs.measured_models import SHIPPED, describe_model

    measured = {(row.model, row.weights_hash) for row in rows}
    found = {}
    for model in models:
        if (model.name, model.weights_hash) in measured:
            entry = describe_model(model)
            if entry["checkpoint"] != SHIPPED:
                different = unusual(entry, most=4)
                called = _with_weights(model.name, model.weights_hash)
                found[called] = entry["checkpoint"] + (f" ({different})" if different else "")
    return found


def print_table(header: Sequence[str], lines: Sequence[Sequence[object]], right: Sequence[str]) -> None:
    """A table on standard output, or a word that there is nothing to show."""
    click.echo(aligned(header, lines, right) if lines else "nothing was measured")


def print_plan(plan: Plan, jobs: Sequence[Job], workers: int, *, as_json: bool = False) -> None:
    """The cells that would be run, and about how long they would take; as JSON a list of them.

    There ``seconds`` are those of one core, and null for a cell that reads nothing.
    """
    from fwpkm_eval.runs.plan import estimated_seconds, estimated_total

    if as_json:
        cells = [
            {
                "label": job.label,
                "task": job.cell.task,
                "model": job.cell.model,
                "tokens": job.work,
                "seconds": round(estimated_seconds(plan, job), 1) if job.work else None,
            }
            for job in jobs
        ]
        click.echo(json.dumps(cells, indent=1))
        return
    lines = [(job.label, f"{job.work:,}", f"{estimated_seconds(plan, job):.0f}") for job in jobs if job.work]
    print_table(("cell", "tokens", "seconds on a core"), lines, right=("tokens", "seconds on a core"))
    time = _in_words(estimated_total(plan, jobs, workers))
    tokens = sum(job.work for job in jobs)
    click.echo(f"{counted(len(lines), 'cell')}, {tokens:,} tokens: about {time} with {counted(workers, 'worker')}")


def counted(number: int, thing: str) -> str:
    """``1 cell``, ``2 cells``."""
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


def _in_words(seconds: float) -> str:
    if seconds < 60:
        return counted(round(seconds), "second")
    return f"{seconds / 60:.1f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def print_tables(tables: Sequence[Table], *, details: bool = False, notes: bool = False) -> None:
    """The report's tables in plain text; those with details, and what is noted below each, only if asked for."""
    for table in tables:
        if details or not table.detail:
            lines = [[cell.text for cell in row] for row in table.rows]
            right = [name for name, flush in zip(table.columns, table.to_the_right, strict=True) if flush]
            click.echo(f"\n{table.title}\n{aligned(table.columns, lines, right)}")
            if notes and table.note:
                click.echo(textwrap.fill(table.note, NOTE_WIDTH))
    if not tables:
        click.echo("nothing was measured")


def shown_as(tables: Callable[[pandas.DataFrame], list[Table]], *, details: bool = False, notes: bool = False) -> Show:
    """What shows rows as the tables that are made of them."""

    def show(rows: Sequence[Row]) -> None:
        from fwpkm_eval.runs.rows import rows_to_frame

        print_tables(tables(rows_to_frame(rows)), details=details, notes=notes)

    return show


def _described(text: TextSource) -> dict[str, Any]:
    text_set = text.text_set
    return {
        "split": text_set.split,
        "sha256": text_set.sha256,
        "stands_in_for": text_set.stands_in_for,
        "origin": text_set.origin,
        "documents": len(text_set.documents),
    }


@contextmanager
def _folder(out: Path | None) -> Iterator[Path]:
    if out is not None:
        yield out
        return
    with tempfile.TemporaryDirectory(prefix="fwpkm-eval-") as folder:
        yield Path(folder)


@contextmanager
def _writing_results(out: Path | None) -> Iterator[None]:
    """While no other process writes what is made of all cells in ``out``: each would lose what the other adds."""
    from fwpkm_eval.runs.claims import Claims

    if out is None:
        yield
        return
    with Claims(out) as claims, claims.writing_results():
        yield


def _peak_memory(payloads: Sequence[Mapping[str, Any]]) -> int | None:
    return max((payload.get("peak_memory_bytes") or 0 for payload in payloads), default=0) or None
