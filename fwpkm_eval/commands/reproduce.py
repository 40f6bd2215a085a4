"""``fwpkm-eval reproduce``: the main job, every model on every task, to tables, plots and a report."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fwpkm_eval.commands import options, sources
from fwpkm_eval.durations import parse_duration
from fwpkm_eval.errors import UserError

if TYPE_CHECKING:
    from fwpkm_eval.runs.engine import Job
    from fwpkm_eval.runs.jobs import ModelSource, TextSource
    from fwpkm_eval.runs.plan import Plan, Planned

TASKS = ("ppl", "niah", "gates", "addressing", "cost", "trace")
"""What is measured unless told otherwise."""
ABLATION = "ablation"
ALL_TASKS = (*TASKS, ABLATION)
ABLATION_SEEDS = 3
"""Unless told otherwise: differences are held against the spread of the seeds, which fewer do not show."""


@click.command(name="reproduce")
@options.scale
@sources.models
@click.option(
    "--only",
    type=options.choices("tasks", "task", ALL_TASKS),
    default=",".join(TASKS),
    show_default=True,
    help="Tasks, separated by commas; ablation, which trains 54 models, must be asked for.",
)
@click.option(
    "--seeds",
    "given_seeds",
    type=click.IntRange(1, 1000),
    default=None,
    help="Seeds, from --seed on: other needles for each; with --retrain another training for each, too. "
    f"[default: 1; for the ablation {ABLATION_SEEDS}]",
)
@click.option(
    "--budget",
    type=options.Parsed("duration", parse_duration),
    default=None,
    metavar="TIME",
    help="Measure what says most in about this time, such as 90s, 20m or 1h (training not counted).",
)
@click.option(
    "--tokens",
    type=options.SIZE,
    default=None,
    metavar="SIZE",
    help="Read at most so many tokens of each set, for all but needles and traces. [default: by scale and set]",
)
@click.option("--retrain", is_flag=True, help="Train every model anew first, into DIR/checkpoints.")
@click.option("--dry-run", is_flag=True, help="Show the cells and how long they would take, and run nothing.")
@options.measuring_into("runs/SCALE")
def command(
    scale: str,
    models: Sequence[sources.Chosen] | None,
    only: tuple[str, ...],
    given_seeds: int | None,
    budget: float | None,
    tokens: int | None,
    retrain: bool,
    dry_run: bool,
    given: options.Given,
) -> None:
    """Measure every model on every task, and write tables, plots and a report.

    Uses the checkpoints that are shipped, or trains them with --retrain. Without --out the results go to
    runs/SCALE. A run that was stopped, or is given more models, tasks or seeds, goes on where it was; what is finished
    is not measured again.
    """
    from fwpkm_eval.commands.measure import conclude, counted, print_plan, run_cells
    from fwpkm_eval.runs.ablation import TRAINED_TOKEN
    from fwpkm_eval.runs.manifest import check_free, check_or_create
    from fwpkm_eval.runs.plan import plan_of, with_tokens

    plan = with_tokens(plan_of(scale), tokens)
    out = given.out or Path("runs") / scale
    given = replace(given, out=out)
    names = list(sources.chosen(models, scale))
    seeds = given_seeds or 1
    ablation_seeds = given_seeds or ABLATION_SEEDS
    config = {
        "command": "reproduce",
        "scale": scale,
        "models": [str(name) for name in names],
        "only": sorted(only),
        "retrain": retrain,
        **({} if budget is None else {"budget_seconds": budget}),
        **({} if tokens is None else {"tokens": tokens}),
        **({} if seeds == 1 and (given_seeds is None or ABLATION not in only) else {"seeds": seeds}),
        "data": given.data,
        "seed": given.seed,
        "device": given.device,
        "dtype": given.dtype,
        "plan": _as_json({name: value for name, value in asdict(plan).items() if name not in ("models", "further")}),
    }
    if set(only) == {ABLATION}:
        if models is not None:
            raise UserError(
                "--models is of the other tasks: the ablation trains its own; see fwpkm-eval ablate --model"
            )
        names = []
    all_seeds = range(given.seed, given.seed + seeds)
    how: dict[str, Any] = {"scale": scale, "tokens": tokens, "retrain": retrain, "given": given}
    if dry_run:
        configured = [_as_configured(names, scale)] * seeds
        planned = _plan_all(plan, configured, all_seeds, ablation_seeds, only, out / "checkpoints", **how)
        planned = _within(plan, planned, budget, given)
        _refuse_nothing(planned, only, names)
        trainings = _trainings(names, scale, all_seeds, out / "checkpoints", given) if retrain else []
        workers = _workers(planned, given)
        print_plan(plan, [*trainings, *planned.jobs], workers, as_json=given.as_json)
        if trainings and not given.as_json:
            click.echo(
                f"{counted(len(trainings), 'model')} to train first; a token of theirs counts as {TRAINED_TOKEN}"
            )
        if not retrain:
            _tell_what_is_missing(names, scale)
        return
    check_free(out, config)
    by_seed: list[Sequence[sources.Chosen]] = [names] * seeds
    if retrain and names:
        check_or_create(out, config, command=["fwpkm-eval", *sys.argv[1:]], seeds=all_seeds)
        by_seed = []
        for one in all_seeds:
            by_seed.append(_train(names, scale, out / "checkpoints", one, given))
    found = [sources.find_sources(of_seed, scale, given) for of_seed in by_seed]
    planned = _plan_all(plan, found, all_seeds, ablation_seeds, only, out / "checkpoints", **how)
    planned = _within(plan, planned, budget, given)
    _refuse_nothing(planned, only, names)
    measured = run_cells(
        planned.jobs,
        given,
        config=config,
        models=list({source.weights_hash: source for of_seed in found for source in of_seed}.values()),
        texts=planned.texts,
        seeds=all_seeds,
    )
    conclude(measured, given, lambda rows: _print_summary(out, rows))


def _plan_all(
    plan: Plan,
    models: Sequence[Sequence[ModelSource]],
    seeds: Sequence[int],
    ablation_seeds: int,
    only: Sequence[str],
    checkpoints: Path,
    *,
    scale: str,
    tokens: int | None,
    retrain: bool,
    given: options.Given,
) -> Planned:
    """The plan for each seed's models. Models that all seeds share are read once: a seed changes only their needles."""
    from fwpkm_eval.ablations import SCORES, ablation_plan, arms_of, models_to_train
    from fwpkm_eval.runs.ablation import fit_to_data, plan_ablation
    from fwpkm_eval.runs.jobs import biggest_first
    from fwpkm_eval.runs.plan import Planned, plan_run

    jobs: list[Job] = []
    texts: dict[str, TextSource] = {}
    for number, (seed, of_seed) in enumerate(zip(seeds, models, strict=True)):
        wanted = [task for task in only if task != ABLATION and (task == "niah" or retrain or number == 0)]
        if wanted:
            planned = plan_run(plan, of_seed, data=given.data, only=wanted, seed=seed)
            jobs += planned.jobs
            texts |= {text.text_set.name: text for text in planned.texts}
    jobs = biggest_first(jobs)
    if ABLATION in only:
        ablation = fit_to_data(ablation_plan(scale), given.data)
        ablation = replace(ablation, tokens=tokens or ablation.tokens)
        trained = models_to_train(arms_of(ablation.model, scale, ablation), SCORES)
        from_first = range(seeds[0], seeds[0] + ablation_seeds)
        ablated = plan_ablation(
            ablation,
            trained,
            from_first,
            scale=scale,
            data=given.data,
            checkpoints=checkpoints / ABLATION,
            device=given.device,
            dtype=given.dtype,
        )
        jobs = [*ablated.jobs, *jobs]
        texts |= {text.text_set.name: text for text in ablated.texts}
    return Planned(jobs, list(texts.values()))


def _refuse_nothing(planned: Planned, only: Sequence[str], names: Sequence[sources.Chosen]) -> None:
    """Gates, slots and traces are of memories: a run of models without one would hold nothing."""
    if not planned.jobs:
        raise UserError(
            f"nothing to measure: {', '.join(map(str, names))} have nothing for {', '.join(only)} to look at; "
            "name a model such as gdn+swa:fwpkm"
        )


def _workers(planned: Planned, given: options.Given) -> int:
    from fwpkm_eval.devices import resolve_device
    from fwpkm_eval.runs.engine import usable_workers

    return given.workers or usable_workers(len(planned.jobs), device=resolve_device(given.device).type)


def _within(plan: Plan, planned: Planned, budget: float | None, given: options.Given) -> Planned:
    """The plan as far as it fits the budget, and a word on what does not."""
    from fwpkm_eval.runs.budget import cut_to

    if budget is None:
        return planned
    cut = cut_to(plan, planned.jobs, budget, _workers(planned, given))
    if cut.left_out:
        click.echo(f"{cut.left_out} of {len(planned.jobs)} cells do not fit {budget:.0f} s and are left out", err=True)
    return replace(planned, jobs=cut.jobs)


def _train(names: Sequence[sources.Chosen], scale: str, folder: Path, seed: int, given: options.Given) -> list[Path]:
    """Trains the models of a seed that are not finished in ``folder`` yet; returns the folders of their checkpoints."""
    from fwpkm_eval.api import checkpoint_name
    from fwpkm_eval.reference_models.config import model_config
    from fwpkm_eval.runs.engine import usable_workers
    from fwpkm_eval.training.run import train_models

    full_names = [model_config(_trained_by_name(name), scale).name for name in names]
    folders = [folder / checkpoint_name(name, seed) for name in full_names]
    workers = given.workers or usable_workers(len(names))
    train_models(full_names, scale, folders, given.data, workers, given.quiet, given.device, seed)
    return list(folders)


def _trainings(
    names: Sequence[sources.Chosen], scale: str, seeds: Iterable[int], checkpoints: Path, given: options.Given
) -> list[Job]:
    """What ``--retrain`` has still to train, as a dry run shows it: cells that nothing ever runs."""
    from fwpkm_eval.api import checkpoint_name
    from fwpkm_eval.reference_models.config import model_config
    from fwpkm_eval.runs.ablation import TRAINED_TOKEN
    from fwpkm_eval.runs.cells import Cell
    from fwpkm_eval.runs.engine import Job
    from fwpkm_eval.training.finished import is_finished
    from fwpkm_eval.training.recipe import recipe_for

    jobs = []
    for seed in seeds:
        for config in [model_config(_trained_by_name(name), scale) for name in names]:
            recipe = replace(recipe_for(config, given.data), seed=seed)
            if not is_finished(checkpoints / checkpoint_name(config.name, seed), config, recipe, given.data):
                work = recipe.steps * recipe.tokens * recipe.rows * TRAINED_TOKEN
                jobs.append(
                    Job(Cell("train", config.name, {"seed": seed}), f"{config.name}  training, seed {seed}", work)
                )
    return jobs


def _trained_by_name(name: sources.Chosen) -> str:
    """The name, where it is no folder of a checkpoint: that is trained already."""
    if not isinstance(name, str):
        what = "a folder" if isinstance(name, Path) else "a labelled model"
        raise UserError(f"--retrain trains models by name, and {name} is {what}")
    return name


def _as_configured(names: Sequence[sources.Chosen], scale: str) -> list[ModelSource]:
    """The models as they would be measured, whether or not their checkpoints are there."""
    from fwpkm_eval.reference_models.config import model_config
    from fwpkm_eval.runs.jobs import ModelSource, read_source

    return [
        read_source(model, label=label)
        if isinstance(model, Path)
        else ModelSource(Path(model), model_config(model, scale), "", label=label)
        for label, model in map(sources.label_and_model, names)
    ]


def _tell_what_is_missing(names: Sequence[sources.Chosen], scale: str) -> None:
    """What the run itself would refuse: names of models whose trained weights are not there."""
    from fwpkm_eval.api import shipped_checkpoint
    from fwpkm_eval.reference_models.config import model_config

    by_name = [model for _, model in map(sources.label_and_model, names) if isinstance(model, str)]
    full = [model_config(name, scale).name for name in by_name]
    missing = [name for name in full if shipped_checkpoint(name, scale) is None]
    if missing:
        click.echo(
            f"no trained {', '.join(missing)} at scale {scale} is shipped: the run would need --retrain, or folders of "
            "checkpoints in place of names",
            err=True,
        )


def _print_summary(out: Path, rows: Sequence[Any]) -> None:
    """What was found, in a few sentences."""
    from fwpkm_eval.commands.measure import print_tables
    from fwpkm_eval.reporting.sets import SetFacts
    from fwpkm_eval.reporting.summary import summarise
    from fwpkm_eval.reporting.tables import build_tables
    from fwpkm_eval.reporting.training_seeds import with_training_seeds
    from fwpkm_eval.runs.manifest import load_manifest
    from fwpkm_eval.runs.rows import rows_to_frame

    if not rows:
        return
    manifest = load_manifest(out)
    frame, sets = with_training_seeds(rows_to_frame(rows), manifest), SetFacts.from_manifest(manifest)
    findings = summarise(frame, sets)
    if not findings:  # gates, slots and traces: there is no sentence on them, only tables
        print_tables(build_tables(frame, sets), details=True)
    for question, answers in findings.items():
        click.echo(f"\n{question}")
        for finding in answers:
            click.echo(f"  {finding.text}")
    click.echo("")


def _as_json(value: Any) -> Any:
    """Mappings and tuples as JSON has them."""
    if isinstance(value, Mapping):
        return {str(key): _as_json(entry) for key, entry in value.items()}
    return [_as_json(entry) for entry in value] if isinstance(value, list | tuple) else value
