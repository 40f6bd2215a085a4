"""Which cells a run is made of, and what their keys depend on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_models import tiny_checkpoint, tiny_config, tiny_model

from fwpkm_eval.commands import sources as sources_of
from fwpkm_eval.commands.options import Given
from fwpkm_eval.data import Document, TextSet, hash_documents
from fwpkm_eval.errors import UserError
from fwpkm_eval.reference_models.checkpoint import save_checkpoint
from fwpkm_eval.reference_models.config import model_config
from fwpkm_eval.reporting.published import has_fast_weights
from fwpkm_eval.reporting.summary_recall import CONTROL_LENGTH
from fwpkm_eval.runs.execute import COMPRESSED, GUESS
from fwpkm_eval.runs.jobs import ModelSource, TextSource, compressor_job, guess_job, niah_jobs, perplexity_job
from fwpkm_eval.runs.plan import PLANS, TASKS, Plan, estimated_total, models_of, plan_of, plan_run
from fwpkm_eval.tasks.niah import NiahSettings
from fwpkm_eval.tasks.perplexity import PerplexitySettings
from fwpkm_eval.training.recipe import RECIPES


def source(name: str = "gdn+swa:fwpkm@1", weights_hash: str = "aa") -> ModelSource:
    return ModelSource(Path("somewhere"), tiny_config(name), weights_hash)


def text(words: str = "some text", data: str = "embedded") -> TextSource:
    documents = (Document("0", words),)
    text_set = TextSet("docs", "test", documents, "path", None, "made for a test", hash_documents(documents))
    return TextSource(data, text_set)


SETTINGS = NiahSettings(lengths=(512, 1024), needles=(5, 8), write_chunks=("haystack", 64))


def test_needles_are_cut_into_a_cell_for_each_length_number_and_write_chunk() -> None:
    jobs = niah_jobs(source(), text(), SETTINGS)
    assert len(jobs) == len({job.cell.key for job in jobs}) == len({job.label for job in jobs}) == 8
    assert {(*job.cell.settings["task"]["lengths"], *job.cell.settings["task"]["write_chunks"]) for job in jobs} == {
        (512, "haystack"),
        (512, 64),
        (1024, "haystack"),
        (1024, 64),
    }


def test_a_model_without_fast_weights_has_one_cell_for_all_write_chunks() -> None:
    jobs = niah_jobs(source("gdn+swa"), text(), SETTINGS)
    assert len(jobs) == 4
    assert {job.cell.settings["task"]["write_chunks"] for job in jobs} == {("haystack", 64)}
    with_memory = niah_jobs(source(), text(), SETTINGS)
    assert max(job.work for job in jobs) < min(job.work for job in with_memory if "1K" in job.label)


def test_a_cells_key_holds_all_that_can_change_its_value() -> None:
    ppl, niah = PerplexitySettings(), replace(SETTINGS, lengths=(512,), needles=(5,), write_chunks=(64,))

    def keys(model: ModelSource, on: TextSource) -> tuple[str, str]:
        return perplexity_job(model, on, ppl).cell.key, niah_jobs(model, on, niah)[0].cell.key

    here = keys(source(), text())
    other_config = replace(tiny_config("gdn+swa:fwpkm@1"), chunk_size=32)
    for model, on in (
        (source(weights_hash="bb"), text()),
        (replace(source(), config=other_config), text()),
        (replace(source(), dtype="bfloat16"), text()),
        (source("gdn+swa:fwpkm@0"), text()),
        (source(), text("other text")),
    ):
        assert set(keys(model, on)).isdisjoint(here)
    # Where the same weights and the same text lie changes nothing.
    assert keys(replace(source(), checkpoint=Path("elsewhere")), text(data="a/folder")) == here

    changes: list[dict[str, Any]] = [
        {"tokens": 99},
        {"segment": 99},
        {"scope": "document"},
        {"frozen": True},
        {"write_chunk": 99},
        {"seed": 1},
    ]
    assert len({perplexity_job(source(), text(), replace(ppl, **change)).cell.key for change in changes}) == 6
    changes = [
        {"passes": (1, 2)},
        {"samples": 3},
        {"seed": 1},
        {"protocols": ("closed-book",)},
        {"scope": "stream"},
        {"depths": (0.5,)},
        {"key_length": 5},
        {"value_length": 7},
        {"lengths": (1024,)},
        {"needles": (6,)},
        {"write_chunks": (65,)},
    ]
    found = {niah_jobs(source(), text(), replace(niah, **change))[0].cell.key for change in changes}
    assert len(found | {here[1]}) == len(changes) + 1
    assert guess_job(text(), niah).cell.key not in found


def test_compressors_have_a_cell_for_each_tokenizer_and_budget() -> None:
    ppl = PerplexitySettings()
    first = compressor_job(text(), ppl, "bytes").cell
    others = [
        compressor_job(text(), ppl, "mistral"),
        compressor_job(text("other text"), ppl, "bytes"),
        compressor_job(text(), replace(ppl, tokens=99), "bytes"),
    ]
    assert len({first.key, *(job.cell.key for job in others)}) == 4
    assert compressor_job(text(), replace(ppl, segment=99), "bytes").cell == first


def sources(plan: Plan) -> list[ModelSource]:

    return [ModelSource(Path(name), model_config(name, "micro"), name) for name in models_of(plan, everything=True)]


def test_the_seed_of_a_run_is_that_of_every_cell() -> None:
    plan = plan_of("micro")
    cells = [job.cell for job in plan_run(plan, sources(plan), seed=3).jobs]
    assert {cell.settings["task"]["seed"] for cell in cells if cell.model != COMPRESSED} == {3}


def test_the_micro_plan_asks_all_that_it_should() -> None:
    plan = plan_of("micro")
    planned = plan_run(plan, sources(plan))
    keys = [job.cell.key for job in planned.jobs]
    assert len(keys) == len(set(keys))
    assert [job.work for job in planned.jobs] == sorted((job.work for job in planned.jobs), reverse=True)
    assert {on.text_set.name for on in planned.texts} == {"docs", "source", "manual"}
    of: dict[str, list[dict[str, Any]]] = {}
    for job in planned.jobs:
        if job.cell.task == "niah":
            of.setdefault(job.cell.model, []).append(dict(job.cell.settings["task"]))
    assert set(of) == {*models_of(plan, everything=True), GUESS}
    for model, asked in of.items():
        chunks = {chunk for settings in asked for chunk in settings["write_chunks"]}
        assert ("haystack" in chunks) == ("fwmlp" not in model)
        assert 1024 in chunks
        at_4k = [settings for settings in asked if settings["lengths"] == (4096,)]
        many = set() if "fwmlp" in model else {(64,)}  # it finds none of 5, and reads slowly
        assert {settings["needles"] for settings in at_4k} == {(5,), *many}
        assert all(settings["samples"] >= 20 and settings["passes"] == (1, 2, 4) for settings in at_4k)
        assert all("closed-book" in settings["protocols"] for settings in at_4k)
        assert ((32768,) in {settings["lengths"] for settings in asked}) == ("fwmlp" not in model)
    texts = [
        (job.cell.model, job.cell.settings["data"]["name"], job.cell.settings["task"]["frozen"])
        for job in planned.jobs
        if job.cell.task == "ppl" and job.cell.model != COMPRESSED
    ]
    floors = [job.cell.settings for job in planned.jobs if job.cell.model == COMPRESSED]
    assert {(one["data"]["name"], one["task"]["tokens"]) for one in floors} == {
        (name, plan.tokens.get(name, plan.tokens[""])) for name in ("docs", "source", "manual")
    }
    assert len(texts) == len(set(texts))
    for model in models_of(plan, everything=True):
        arms = {frozen for name, _, frozen in texts if name == model}
        assert arms == ({False, True} if has_fast_weights(model) else {False})
        assert {on for name, on, _ in texts if name == model} == {"docs", "source", "manual"}


def test_the_paper_plan_is_the_published_one() -> None:

    plan = plan_of("paper")
    names = {model_config(name, "paper").name for name in plan.models}
    assert len(names) == 16
    assert {"gdn", "gdn:pkm@2,6,10", "gdn:fwpkm@2,6,10", "gdn:pkm@6+fwpkm@2,10", "fa"} <= names
    published = {line.length: line for line in plan.needles if line.length >= 4096}
    assert sorted(published) == [4096, 8192, 32768, 131072]
    assert all((line.needles, line.samples, line.passes) == (5, 500, (1, 2, 4)) for line in published.values())
    assert all("haystack" in line.write_chunks["fwpkm"] for line in published.values())
    assert plan.tokens == {"": 8 * 2**20}


@pytest.mark.parametrize("scale", sorted(PLANS))
def test_every_plan_has_a_control_no_longer_than_its_training_rows(scale: str) -> None:
    assert min(line.length for line in PLANS[scale].needles) <= min(CONTROL_LENGTH, RECIPES[scale].tokens)
    assert PLANS[scale].needles[0].length == 4096, "the trace asks the first line's question"


def test_the_micro_plan_fits_its_time() -> None:
    plan = plan_of("micro")
    jobs = plan_run(plan, [source for source in sources(plan) if source.name in plan.models]).jobs
    assert {job.cell.model for job in jobs} == {*plan.models, GUESS, COMPRESSED}
    assert estimated_total(plan, jobs, 2) < 6 * 60
    assert estimated_total(plan, jobs, 1) > 1.7 * estimated_total(plan, jobs, 2)  # two workers are kept busy


def test_what_is_measured_alone_keeps_all_workers_waiting() -> None:
    plan = PLANS["micro"]
    costs = plan_run(plan, sources(plan), only=("cost",)).jobs
    assert all(job.alone for job in costs)
    assert estimated_total(plan, costs, 4) == pytest.approx(estimated_total(plan, costs, 1))


def test_parts_of_a_plan() -> None:
    plan = PLANS["micro"]
    assert {job.cell.task for job in plan_run(plan, sources(plan), only=("ppl",)).jobs} == {"ppl"}
    assert {job.cell.task for job in plan_run(plan, sources(plan), only=("niah",)).jobs} == {"niah"}
    one_model = plan_run(plan, sources(plan)[:1], only=("ppl",)).jobs
    assert {job.cell.model for job in one_model} == {plan.models[0], COMPRESSED}
    inside = plan_run(plan, sources(plan), only=("gates", "addressing", "cost")).jobs
    measured = {task: [job.cell.model for job in inside if job.cell.task == task] for task in TASKS}
    fwmlp, lact, fwpkm = "gdn+swa:fwmlp@1,3", "gdn+swa:lact@1,3", "gdn+swa:fwpkm@1,3"
    in_sight, both = "gdn+fa:fwpkm@1,3", "gdn+swa:pkm@2+fwpkm@1,3"
    assert sorted(measured["gates"]) == [in_sight] * 3 + [fwmlp] * 3 + [fwpkm] * 3 + [lact] * 3 + [both] * 3
    assert sorted(measured["addressing"]) == [in_sight] * 3 + [fwpkm] * 3 + [both] * 3
    assert sorted(measured["cost"]) == sorted(models_of(plan, everything=True))
    assert not measured["ppl"] + measured["niah"]


def test_the_command_knows_the_tasks_of_the_plan() -> None:
    from fwpkm_eval.commands import reproduce

    assert reproduce.TASKS == TASKS


def test_what_has_no_plan_is_refused() -> None:
    with pytest.raises(UserError, match="did you mean micro"):
        plan_of("mikro")
    with pytest.raises(UserError, match="did you mean niah"):
        plan_run(PLANS["micro"], [], only=("nia",))


def test_models_may_be_named_left_to_the_plan_or_all() -> None:
    plan = PLANS["micro"]
    assert sources_of.chosen(None, "micro") == plan.models
    assert sources_of.chosen(sources_of.names_or_folders(" all "), "micro") == (*plan.models, *plan.further)
    assert sources_of.chosen(sources_of.names_or_folders("gdn,runs/mine"), "micro") == ("gdn", Path("runs/mine"))
    assert sources_of.chosen(("all",), "small") == PLANS["small"].models
    given = Given(data="embedded", seed=0, device="cpu", dtype="float32", out=None, quiet=True, as_json=False)
    shipped = [source.name for source in sources_of.find_sources(("all",), "micro", given)]
    assert shipped == [*plan.models, *plan.further]


def test_models_of_one_name_with_other_settings_are_not_measured_together(tmp_path: Path) -> None:
    """Tables would pool them as trainings of one model, which they are with the same settings."""
    name, folders = "gdn+swa:fwpkm@1", [tmp_path / "one", tmp_path / "again", tmp_path / "other"]
    tiny_checkpoint(name, folders[0])
    tiny_checkpoint(name, folders[1], seed=1)
    tiny_checkpoint(name, folders[2], **{"fwpkm.query_conv": 3})
    given = Given(data="embedded", seed=0, device="cpu", dtype="float32", out=None, quiet=True, as_json=False)
    assert len(sources_of.find_sources(folders[:2], "micro", given)) == 2
    with pytest.raises(UserError, match=r"fwpkm\.query_conv is 16 there and 3 here: tell them apart by a label"):
        sources_of.find_sources(folders, "micro", given)
    same_weights = tiny_checkpoint(name, tmp_path / "same-weights", **{"fwpkm.topk": 2})
    with pytest.raises(UserError, match=r"fwpkm\.topk is 8 there and 2 here: tell them apart by a label"):
        sources_of.find_sources([folders[0], same_weights], "micro", given)
    with pytest.raises(UserError, match="the same model is given twice"):
        sources_of.find_sources([folders[0], sources_of.Labelled("", folders[0])], "micro", given)
    labelled: list[sources_of.Chosen] = [*folders[:2], sources_of.Labelled("conv3", folders[2])]
    names = [source.name for source in sources_of.find_sources(labelled, "micro", given)]
    assert names == [name, name, f"{name} · conv3"]


def test_models_may_have_labels() -> None:
    Labelled, read = sources_of.Labelled, sources_of.names_or_folders
    assert read("top4=runs/x,gdn:fwpkm@2,6,a.b_c-1=gdn:fwpkm@2,6") == (
        Labelled("top4", Path("runs/x")),
        "gdn:fwpkm@2,6",
        Labelled("a.b_c-1", "gdn:fwpkm@2,6"),
    )
    assert read("runs/a=b") == (Path("runs/a=b"),), "a folder may have such a name"
    assert read("one=runs/a,two=runs/a") == (Labelled("one", Path("runs/a")), Labelled("two", Path("runs/a")))
    for wrong in ("=runs/x", "x y=runs/x", "a+b=gdn", "x=", "· x=gdn", "a" * 41 + "=gdn"):
        with pytest.raises(UserError, match="is no LABEL=MODEL: a label is letters, digits"):
            read(wrong)
    with pytest.raises(UserError, match="unknown backbone"):
        read("x=gdm")


@pytest.mark.parametrize(
    ("training", "difference"),
    [
        ({"recipe": {"steps": 9, "seed": 5}, "data_hash": "aa"}, None),
        ({"recipe": {"steps": 9, "seed": 0, "of_today": 1}, "data_hash": "aa"}, None),
        ({}, None),
        ({"recipe": {"steps": 8, "seed": 0}, "data_hash": "aa"}, "recipe.steps is 9 there and 8 here"),
        ({"recipe": {"steps": 9, "seed": 0}, "data_hash": "bb"}, 'data_hash is "aa" there and "bb" here'),
    ],
)
def test_models_of_one_name_and_another_training_are_not_measured_together(
    training: dict[str, Any], difference: str | None, tmp_path: Path
) -> None:
    """Seeds may differ, and so may what one of them does not tell."""
    folders = [tmp_path / "one", tmp_path / "other"]
    first = {"recipe": {"steps": 9, "seed": 0}, "data_hash": "aa"}
    for seed, (folder, kind) in enumerate(zip(folders, (first, training), strict=True)):
        save_checkpoint(tiny_model("gdn", seed), folder, kind)
    given = Given(data="embedded", seed=0, device="cpu", dtype="float32", out=None, quiet=True, as_json=False)
    if difference is None:
        assert len(sources_of.find_sources(folders, "micro", given)) == 2
    else:
        with pytest.raises(UserError, match=f"{difference}: tell them apart by a label"):
            sources_of.find_sources(folders, "micro", given)
