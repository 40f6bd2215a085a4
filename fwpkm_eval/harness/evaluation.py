"""Runs lm-eval tasks on a model and stores each as a cell: what is finished is not run again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import fwpkm_eval
from fwpkm_eval.devices import peak_memory
from fwpkm_eval.errors import UserError
from fwpkm_eval.harness.load_tasks import Loaded
from fwpkm_eval.harness.model import FwPKMLM
from fwpkm_eval.harness.result_rows import result_rows
from fwpkm_eval.runs.cells import Cell
from fwpkm_eval.runs.engine import Agenda, Event, Failure, Job
from fwpkm_eval.runs.rows import YARN, joined_arm

if TYPE_CHECKING:
    from fwpkm_eval.harness.subjects import Subject

HARNESS_VERSION = 3
"""Part of every cell's key: raise it whenever a change in `harness` or `tasks.lm_eval` can change a number."""

LM_EVAL_SEED = 1234
"""lm-eval's own seed for few-shot examples: what seed 0 means."""

ANSWER_LENGTH = 500
"""Characters of a generated text that a cell keeps."""


@dataclass(frozen=True)
class RunSettings:
    """How tasks are run: documents of each at most (a share below 1), examples, resamplings for intervals, seed."""

    limit: float | None = None
    num_fewshot: int | None = None
    bootstrap: int = 1000
    seed: int = 0

    @property
    def lm_eval_limit(self) -> int | float | None:
        return int(self.limit) if self.limit is not None and self.limit >= 1 else self.limit


def task_job(subject: Subject, loaded: Loaded, settings: RunSettings) -> Job:
    """The cell of one task on one model. Its key holds a hash of every request that the model will be given.

    Raises UserError for passes with a task that scores whole texts.
    """
    import lm_eval

    reading = getattr(subject.lm, "settings", None)
    if reading is not None and reading.passes:
        for name, task in loaded.tasks.items():
            if task.OUTPUT_TYPE == "loglikelihood_rolling":
                raise UserError(f"task {name} scores whole texts, which passes would memorise first: leave passes out")
    digests = {name: _digest(task, settings) for name, task in sorted(loaded.tasks.items())}
    values = {
        **subject.identity,
        "task": {"name": loaded.name, **asdict(settings)},
        "requests": {name: digest for name, (digest, _) in digests.items()},
        "task_version": HARNESS_VERSION,
        "lm_eval": lm_eval.__version__,
    }
    work = sum(characters for _, characters in digests.values())
    return Job(Cell("lm-eval", subject.name, values), f"{subject.name}  {loaded.name}", work)


def run_task(subject: Subject, loaded: Loaded, settings: RunSettings) -> dict[str, Any]:
    """Runs one task; the payload of its cell, without settings."""
    import lm_eval

    if isinstance(subject.lm, FwPKMLM):  # or a value would depend on the tasks before, which no key holds
        subject.lm.drop_carried_memory()
    tokens_before = getattr(subject.lm, "tokens_read", None)
    with_yarn = getattr(subject.lm, "sequences_with_yarn", 0)
    started = time.perf_counter()
    # lm-eval prints progress of its resampling on standard output, and resamples in processes of its own.
    with contextlib.redirect_stdout(sys.stderr), _environment(DISABLE_MULTIPROC="1"), _git_not_asked():
        results = lm_eval.simple_evaluate(
            model=subject.lm,
            tasks=loaded.objects,
            num_fewshot=settings.num_fewshot,
            limit=settings.lm_eval_limit,
            bootstrap_iters=settings.bootstrap,
            fewshot_random_seed=LM_EVAL_SEED + settings.seed,
            task_manager=_NotNeeded(),
            log_samples=True,
        )
    seconds = time.perf_counter() - started
    tokens = None if tokens_before is None else subject.lm.tokens_read - tokens_before
    took_yarn = getattr(subject.lm, "sequences_with_yarn", 0) > with_yarn
    arm = joined_arm(subject.row_fields.get("arm", ""), YARN if took_yarn else "")
    common = {**subject.row_fields, "arm": arm, "seed": settings.seed, "seconds": seconds, "tokens": tokens}
    return {
        "rows": result_rows(results, common),
        "answers": {name: _answers(samples) for name, samples in results["samples"].items()},
        "version": fwpkm_eval.__version__,
        "peak_memory_bytes": peak_memory(),
    }


class InThisProcess:
    """A crew of one: the tasks are loaded here, and a model that is not ours may not fit twice."""

    def __init__(self, subjects: Mapping[str, tuple[Subject, Loaded]], settings: RunSettings) -> None:
        """``subjects``: by the key of the cell, what to run."""
        self.subjects, self.settings = subjects, settings

    def run(self, agenda: Agenda, workers: int) -> Iterable[tuple[Job, Event]]:
        """Runs the agenda's jobs one after the other."""
        while agenda:
            job = agenda.next()
            if job is None:  # another run is at it
                time.sleep(0.3)
                continue
            started = time.perf_counter()
            subject, loaded = self.subjects[job.cell.key]
            try:
                payload = run_task(subject, loaded, self.settings)
            except UserError as error:
                yield job, Failure(job, str(error))
                continue
            except Exception as error:  # a task may run code of its own: it fails this task alone
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                yield job, Failure(job, reason, traceback.format_exc())
                continue
            payload["settings"] = {"task": job.cell.task, "model": job.cell.model, **job.cell.settings}
            yield job, job.work
            yield job, (payload, time.perf_counter() - started)

    def stop(self) -> None:
        """Nothing is left running."""


def _digest(task: Any, settings: RunSettings) -> tuple[str, int]:
    """A hash of the task's definition and of all that it will ask, and the number of characters in that."""
    if settings.num_fewshot is not None and task.get_config("num_fewshot") != 0:
        task.set_config(key="num_fewshot", value=settings.num_fewshot)
    elif task.get_config("num_fewshot") is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=LM_EVAL_SEED + settings.seed)
    with contextlib.redirect_stdout(sys.stderr):
        limit = settings.lm_eval_limit
        if isinstance(limit, float):
            limit = math.ceil(len(task.eval_docs) * limit)
        task.build_all_requests(limit=limit, rank=0, world_size=1, fewshot_as_multiturn=True)
    config = task.dump_config()
    config.get("metadata", {}).pop("config_source", None)  # where the file lies is no part of the task
    definition = re.sub(r" at 0x[0-9a-f]+", "", json.dumps(config, sort_keys=True, default=str))
    digest = hashlib.sha256(definition.encode("utf-8", "surrogatepass"))
    characters = 0
    for instance in task.instances:
        asked = json.dumps([instance.request_type, instance.args, instance.doc], sort_keys=True, default=str)
        digest.update(asked.encode("utf-8", "surrogatepass"))
        characters += sum(len(text) for text in instance.args if isinstance(text, str))
    return digest.hexdigest()[:20], characters


def _answers(samples: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every answer with its metrics, for whoever wants to know what was said instead."""
    return [
        {
            "document": sample["doc_id"],
            "filter": sample["filter"],
            "expected": str(sample["target"])[:ANSWER_LENGTH],
            "answered": [str(response)[:ANSWER_LENGTH] for response in sample["filtered_resps"]],
            "metrics": {name: str(sample[name]) for name in sample["metrics"]},
        }
        for sample in samples
    ]


class _NotNeeded:
    """Stands where lm-eval would look through its thousands of tasks for ones that are loaded already."""

    def __init__(self) -> None:
        self.task_index: Mapping[str, Any] = {}

    def load(self, tasks: list[Any]) -> dict[str, Any]:
        from lm_eval.api.group import Group

        groups = {item.name: item for item in tasks if isinstance(item, Group)}
        single = {item.task_name: item for item in tasks if not isinstance(item, Group)}
        for group in list(groups.values()):
            groups |= {inner.name: inner for inner in group.get_all_groups()}
            single |= {task.task_name: task for task in group.get_all_tasks()}
        return {"tasks": single, "groups": groups, "group_map": {g.name: g.child_names for g in groups.values()}}


@contextlib.contextmanager
def _git_not_asked() -> Iterator[None]:
    """lm-eval asks git for the commit of the working folder, and git complains where that is in no checkout.

    The answer is not used: the manifest names the commit of this code, whatever the folder.
    """
    from lm_eval import evaluator

    name = "get_git_commit_hash"
    asking = getattr(evaluator, name, None)
    if asking is None:  # another version, which asks in another way
        yield
        return
    setattr(evaluator, name, lambda: None)
    try:
        yield
    finally:
        setattr(evaluator, name, asking)


@contextlib.contextmanager
def _environment(**variables: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value
