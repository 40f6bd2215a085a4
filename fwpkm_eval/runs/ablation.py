"""The cells of an ablation: each trains one model (arm, scoring, seed) and measures it on needles and text."""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fwpkm_eval.ablations import AblationPlan, Trained, ablated_training
from fwpkm_eval.errors import UserError
from fwpkm_eval.runs.cells import Cell, with_tuples
from fwpkm_eval.runs.engine import Job, Report
from fwpkm_eval.runs.jobs import TextSource, how_computed, named
from fwpkm_eval.runs.rows import FROZEN, Row

if TYPE_CHECKING:
    from fwpkm_eval.data import TextSet
    from fwpkm_eval.reference_models.config import ModelConfig
    from fwpkm_eval.tasks.niah import NiahSettings
    from fwpkm_eval.tasks.perplexity import PerplexitySettings
    from fwpkm_eval.training.recipe import Recipe

TASK = "ablation"
ABLATION_VERSION = 1
"""Part of every cell's key: raise it whenever a change here or in training can change a number."""

TRAINED_TOKEN = 3
"""Tokens read that cost as much as one trained on, forward and backward: the unit of a cell's work."""

LAST_STEPS = 100
"""Steps at the end of training over which its answers are averaged."""


def ablation_jobs(
    plan: AblationPlan,
    models: Sequence[Trained],
    seeds: Sequence[int],
    *,
    model: str,
    scale: str,
    haystack: TextSource,
    text: TextSource,
    checkpoints: Path,
    task: str = TASK,
    device: str = "cpu",
    dtype: str = "float32",
) -> list[Job]:
    """A cell of ``task`` for each model and seed, seed by seed; work that is left counts no training that is finished.

    Raises UserError for what cannot be trained or read, and for a checkpoint of another model in a model's place.

    Models are trained and measured on ``device``. ``dtype`` is of the weights when measured; training has its own.
    """
    from fwpkm_eval.api import tokenizer_of
    from fwpkm_eval.data import load_set
    from fwpkm_eval.devices import resolve_device
    from fwpkm_eval.tasks.niah import NIAH_VERSION, check_fit, readings_per_sample
    from fwpkm_eval.tasks.perplexity import PERPLEXITY_VERSION
    from fwpkm_eval.training.finished import is_finished, recipe_computed_on

    training_set = functools.cache(lambda name: load_set(haystack.data, name, "train"))
    where = resolve_device(device)
    elsewhere = "" if where.type == "cpu" else f"-{where.type}"
    jobs = []
    for seed in seeds:
        niah, reading = _needles(plan, seed), _reading(plan, seed)
        for trained in models:
            config, recipe = ablated_training(model, scale, plan, trained)
            recipe = replace(recipe, seed=seed)
            training = [training_set(name) for name in recipe.sets]
            check_fit(haystack.text_set, niah, tokenizer_of(config))
            settings = {
                "arm": trained.arm,
                "score": trained.score,
                "seed": seed,
                "frozen_too": trained.frozen_too,
                **how_computed(config, where, dtype),
                "recipe": recipe.to_dict(),
                **({"trained": how} if (how := recipe_computed_on(where, recipe)) else {}),
                "training": [named(one) for one in training],
                "haystack": named(haystack.text_set),
                "data": named(text.text_set),
                "niah": asdict(niah),
                "ppl": asdict(reading),
                "versions": [ABLATION_VERSION, NIAH_VERSION, PERPLEXITY_VERSION],
            }
            readings = [readings_per_sample(niah, has_fast_weights=True, write_chunk=c) for c in plan.write_chunks]
            if trained.frozen_too:
                readings.append(readings_per_sample(niah, has_fast_weights=False, write_chunk="haystack"))
            name = f"{_folder_name(trained.arm)}-{trained.score}-seed{seed}{elsewhere}"
            folder = checkpoints / name
            there = is_finished(folder, config, recipe, haystack.data, where)
            work = 0 if there else recipe.steps * recipe.tokens * recipe.rows * TRAINED_TOKEN
            work += len(plan.needles) * plan.samples * plan.length * sum(readings)
            work += plan.tokens * (2 if trained.frozen_too else 1)
            label = f"{trained.arm}, {trained.score}, seed {seed}"
            cell = Cell(task, config.name, settings)
            jobs.append(Job(cell, label, work, haystack.data, str(folder), str(where)))
    return jobs


def _folder_name(arm: str) -> str:
    """``S 128, dv 64`` as ``S128-dv64``, ``fwpkm.query_conv=[16,0]`` as ``fwpkm.query_conv-16-0``."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", arm.replace(" ", "")).rstrip("-")


@dataclass(frozen=True)
class PlannedAblation:
    """The cells of a scale's ablations, and the texts that they are measured on."""

    jobs: list[Job]
    texts: list[TextSource]


def plan_ablation(
    plan: AblationPlan,
    models: Sequence[Trained],
    seeds: Sequence[int],
    *,
    scale: str,
    data: str,
    checkpoints: Path,
    model: str | None = None,
    task: str = TASK,
    device: str = "cpu",
    dtype: str = "float32",
) -> PlannedAblation:
    """Cells as `ablation_jobs` makes them, of a plan that fits `data` (see `fit_to_data`).

    Raises UserError for what cannot be, before any text is read where it can.
    """
    from fwpkm_eval.data import default_haystack, load_set

    trained: list[tuple[ModelConfig, Recipe]] = []
    for one in models:
        this = ablated_training(model or plan.model, scale, plan, one)
        if this in trained:
            raise UserError(f"{models[trained.index(this)].arm!r} and {one.arm!r} are the same: leave one out")
        trained.append(this)
    haystack = TextSource(data, load_set(data, default_haystack(data), "test"))
    text = TextSource(data, load_set(data, plan.text, "test"))
    jobs = ablation_jobs(
        plan,
        models,
        seeds,
        model=model or plan.model,
        scale=scale,
        haystack=haystack,
        text=text,
        checkpoints=checkpoints.absolute(),
        task=task,
        device=device,
        dtype=dtype,
    )
    return PlannedAblation(jobs, [haystack, text])


def run_config(
    plan: AblationPlan, *, scale: str, seeds: Sequence[int], data: str, device: str, dtype: str
) -> dict[str, Any]:
    """What the manifest of a run that trains its models holds of it, whatever they are.

    Device and type are left out as long as they are what every run had before there was a choice: those go on.
    """
    return {
        "scale": scale,
        "seeds": list(seeds),
        "data": data,
        "recipe": plan.recipe.to_dict(),
        "plan": plan.to_config(),
        **({} if device == "cpu" else {"device": device}),
        **({} if dtype == "float32" else {"dtype": dtype}),
    }


def fit_to_data(plan: AblationPlan, data: str) -> AblationPlan:
    """The plan on the sets that ``data`` has, without reading them: a folder of the user's own has other sets."""
    from fwpkm_eval.data import default_sets
    from fwpkm_eval.training.recipe import sets_there_are

    recipe = replace(plan.recipe, sets=sets_there_are(plan.recipe.sets, data))
    sets = default_sets(data)
    return replace(plan, text=plan.text if plan.text in sets else sets[0], recipe=recipe)


def _needles(plan: AblationPlan, seed: int) -> NiahSettings:
    from fwpkm_eval.tasks.niah import NiahSettings

    return NiahSettings(
        lengths=(plan.length,),
        passes=plan.passes,
        write_chunks=plan.write_chunks,
        protocols=plan.protocols,
        needles=plan.needles,
        samples=plan.samples,
        seed=seed,
    )


def _reading(plan: AblationPlan, seed: int) -> PerplexitySettings:
    from fwpkm_eval.tasks.perplexity import PerplexitySettings

    return PerplexitySettings(tokens=plan.tokens, seed=seed)


def measure_ablation(
    job: Job, haystack: TextSet, text: TextSet, settings: Mapping[str, Any], report: Report
) -> list[Row]:
    """Trains the cell's model, or finds it trained, and measures it.

    A training that diverges gives one row, metric ``diverged`` with the last good step as its value.
    """
    from fwpkm_eval.api import load_model
    from fwpkm_eval.reference_models.config import ModelConfig
    from fwpkm_eval.tasks.niah import NiahSettings
    from fwpkm_eval.tasks.perplexity import PerplexitySettings
    from fwpkm_eval.training.recipe import Recipe
    from fwpkm_eval.training.trainer import Diverged

    assert job.checkpoint is not None
    folder = Path(job.checkpoint)
    config, recipe = ModelConfig.from_dict(settings["config"]), Recipe.from_dict(settings["recipe"])
    arms = [settings["arm"], *([FROZEN] if settings["frozen_too"] else [])]
    try:
        _train(config, recipe, folder, job, report)
    except Diverged as problem:
        return _diverged_rows(job.cell.task, config, settings, arms, problem.step)
    model = load_model(folder, device=job.device, dtype=settings["dtype"])
    needles = NiahSettings(**with_tuples(settings["niah"]))
    reading = PerplexitySettings(**settings["ppl"])
    rows = []
    for arm in arms:
        measured = [
            *_training_rows(model, folder),
            *_needle_rows(model, haystack, needles, arm == FROZEN, report),
            *_text_rows(model, text, replace(reading, frozen=arm == FROZEN), report),
        ]
        rows += [replace(row, task=job.cell.task, arm=arm, seed=settings["seed"]) for row in measured]
    return rows


def _train(config: ModelConfig, recipe: Recipe, folder: Path, job: Job, report: Report) -> None:
    """Trains on the job's device into `folder`, going on where a killed run stopped; a finished checkpoint is kept."""
    from fwpkm_eval.devices import resolve_device
    from fwpkm_eval.training.finished import is_finished
    from fwpkm_eval.training.loggers import loggers
    from fwpkm_eval.training.parallel import Ranks
    from fwpkm_eval.training.trainer import Trainer

    device = resolve_device(job.device)
    if is_finished(folder, config, recipe, job.data, device):
        return
    trainer = Trainer(config, recipe, folder, job.data, ranks=Ranks(device))
    trainer.resume()
    folder.mkdir(parents=True, exist_ok=True)
    with loggers(folder, config.name, trainer.step) as log:
        for step in trainer.run():
            log(step)
            report(step.tokens * TRAINED_TOKEN)


def _diverged_rows(
    task: str, config: ModelConfig, settings: Mapping[str, Any], arms: Sequence[str], step: int
) -> list[Row]:
    from fwpkm_eval import __version__

    return [
        Row(
            model=config.name,
            scale=config.scale,
            task=task,
            metric="diverged",
            value=step,
            unit="step",
            n=settings["recipe"]["steps"],
            arm=arm,
            score=settings["score"],
            seed=settings["seed"],
            device=settings["device"],
            dtype=settings["dtype"],
            backend=settings["backend"],
            version=__version__,
        )
        for arm in arms
    ]


def _training_rows(model: Any, folder: Path) -> list[Row]:
    """How training went: digits right at its end, and steps that were dropped because they diverged."""
    from fwpkm_eval.reference_models.checkpoint import read_description
    from fwpkm_eval.tasks.describe import describe_model
    from fwpkm_eval.training.loggers import METRICS

    about = read_description(folder)["training"]
    common: dict[str, Any] = {**describe_model(model), "tokens": about["tokens"]}
    steps = about["recipe"]["steps"]
    rows = [Row(metric="dropped_steps", value=about["diverged_steps"], unit="steps", n=steps, **common)]
    right = [entry for entry in _accuracies(folder / METRICS) if entry is not None][-LAST_STEPS:]
    if right:
        accuracy = math.fsum(right) / len(right)
        rows.append(Row(metric="train_answer_accuracy", value=accuracy, unit="fraction", n=len(right), **common))
    return rows


def _accuracies(path: Path) -> Iterator[float | None]:
    """The share of right digits of each step; None for one without needles."""
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            yield json.loads(line)["answer_accuracy"]


def _needle_rows(model: Any, text_set: TextSet, settings: NiahSettings, frozen: bool, report: Report) -> list[Row]:
    """The needle task's rows for whole haystacks; a frozen model's are those of one that has no memory to write."""
    from fwpkm_eval.api import tokenizer_of
    from fwpkm_eval.tasks.niah import evaluate_niah
    from fwpkm_eval.tasks.niah_rows import niah_rows

    result = evaluate_niah(model, text_set, settings, tokenizer_of(model.config), report, frozen=frozen)
    kept = ("exact_match", "digit_accuracy", "answer_logprob", "diverged")
    return [row for row in niah_rows(model, text_set, settings, result) if row.metric in kept and row.depth is None]


NOT_OF_ABLATIONS = ("bits_per_byte_at_position", "bits_per_byte_with_match_model")


def _text_rows(model: Any, text_set: TextSet, settings: PerplexitySettings, report: Report) -> list[Row]:
    from fwpkm_eval.api import tokenizer_of
    from fwpkm_eval.tasks.perplexity import evaluate_perplexity, perplexity_rows

    result = evaluate_perplexity(model, text_set, settings, tokenizer_of(model.config), report)
    rows = perplexity_rows(model, text_set, settings, result)
    return [row for row in rows if row.metric not in NOT_OF_ABLATIONS]
