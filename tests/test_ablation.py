"""Ablations: what each arm changes, what is trained for it, and that what goes wrong in one is a row, not a crash."""

from __future__ import annotations

import json
import math
import random
import shutil
from dataclasses import asdict, replace
from itertools import islice, product
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import SIZES

from fwpkm_eval import ablations, cli
from fwpkm_eval.ablations import (
    ARMS,
    FROZEN,
    REFERENCE,
    SCORES,
    AblationPlan,
    Trained,
    ablated_config,
    ablation_plan,
    arms_of,
    models_to_train,
)
from fwpkm_eval.api import SHIPPED
from fwpkm_eval.commands import trained as trained_models
from fwpkm_eval.data import load_set
from fwpkm_eval.data.tokenizers import ByteTokenizer
from fwpkm_eval.errors import UserError
from fwpkm_eval.reference_models.checkpoint import read_description, save_checkpoint
from fwpkm_eval.reference_models.config import SCALES, FwPKMConfig, ModelConfig
from fwpkm_eval.reference_models.language_model import LanguageModel
from fwpkm_eval.reference_models.yarn import YARN_VERSION
from fwpkm_eval.runs.ablation import LAST_STEPS, _training_rows, ablation_jobs, fit_to_data
from fwpkm_eval.runs.cells import CellStore
from fwpkm_eval.runs.engine import Job
from fwpkm_eval.runs.execute import execute
from fwpkm_eval.runs.jobs import TextSource
from fwpkm_eval.runs.rows import Row, read_rows_csv
from fwpkm_eval.training.batches import training_text
from fwpkm_eval.training.finished import is_finished, recipe_computed_on
from fwpkm_eval.training.loggers import METRICS
from fwpkm_eval.training.recipe import RECIPES, Recipe
from fwpkm_eval.training.savepoints import save_points
from fwpkm_eval.training.trainer import Diverged, Trainer

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = Recipe(
    steps=3, tokens=128, warmup=1, needle_share=1.0, dense_share=1.0, chunks=(32,), document_pieces=2, sets=("tales",)
)
PLAN = AblationPlan(
    model="fa:fwpkm@1",
    recipe=RECIPE,
    overrides={**SIZES, "fwpkm.subkeys": 32},  # top32 reads 32 of them
    length=300,
    needles=(5,),
    samples=2,
    passes=(1,),
    write_chunks=("haystack", 64),
    text="tales",
    tokens=300,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with one set, to train on and to test on."""
    chooser = random.Random(0)
    folder = tmp_path_factory.mktemp("data") / "tales"
    folder.mkdir()
    for split in ("train", "test"):
        words = ["".join(chooser.choices("abcdefghijkl", k=4)) for _ in range(40)]
        lines = [json.dumps({"text": " ".join(chooser.choices(words, k=300))}) for _ in range(3)]
        (folder / f"{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return str(folder.parent)


def jobs(
    data: str,
    out: Path,
    models: list[Trained],
    plan: AblationPlan = PLAN,
    seeds: tuple[int, ...] = (0,),
    **where: str,
) -> list[Job]:
    text = TextSource(data, load_set(data, "tales", "test"))
    return ablation_jobs(
        plan, models, seeds, model=plan.model, scale="micro", haystack=text, text=text, checkpoints=out, **where
    )


def config_of(arm: str, score: str = "idw") -> ModelConfig:
    return ablated_config(PLAN.model, "micro", PLAN, Trained(arm, score))


@pytest.mark.parametrize(
    ("arm", "changed"),
    [
        ("no-lookahead", {"lookahead": 0}),
        ("no-entropy", {"addressing": "none"}),
        ("no-gate", {"gate": False}),
        ("no-gated-loss", {"gated_loss": False}),
        ("no-target-norm", {"target_norm": False}),
        ("heads4", {"heads": 4}),
        ("top32", {"topk": 32}),
        ("no-query-conv", {"query_conv": 0}),
    ],
)
@pytest.mark.parametrize("score", ["idw", "dot"])
def test_an_arm_changes_what_it_says_and_nothing_else(arm: str, changed: dict[str, Any], score: str) -> None:
    reference, ablated = config_of(REFERENCE, score), config_of(arm, score)
    assert reference.fwpkm.score == ablated.fwpkm.score == score
    assert replace(ablated, fwpkm=reference.fwpkm) == reference
    before, after = asdict(reference.fwpkm), asdict(ablated.fwpkm)
    assert {name: after[name] for name in after if after[name] != before[name]} == changed


def test_every_published_setting_is_the_references() -> None:
    """The reference is the paper's memory but for its sizes, the query convolution and the start of the gate."""
    ours, paper = asdict(config_of(REFERENCE).fwpkm), asdict(FwPKMConfig())
    differing = {name for name in ours if ours[name] != paper[name]}
    assert differing <= {"subkeys", "key_dim", "value_dim", "query_conv", "gate_bias"}


def test_each_arm_is_trained_under_each_scoring_beside_its_reference() -> None:
    assert models_to_train(["no-gate"], ["idw", "dot"]) == [
        Trained(REFERENCE, "idw"),
        Trained(REFERENCE, "dot"),
        Trained("no-gate", "idw"),
        Trained("no-gate", "dot"),
    ]
    assert models_to_train(["no-gate"], ["dot"]) == [Trained(REFERENCE, "dot"), Trained("no-gate", "dot")]
    assert models_to_train([FROZEN], ["idw"]) == [Trained(REFERENCE, "idw", frozen_too=True)]
    assert models_to_train(["dot"], ["idw", "dot"]) == [Trained(REFERENCE, "dot")]
    assert models_to_train(["idw", "dot"], ["idw", "dot"]) == [Trained(REFERENCE, "idw"), Trained(REFERENCE, "dot")]
    assert models_to_train(["dot", "no-gate"], ["idw"]) == [
        Trained(REFERENCE, "idw"),
        Trained(REFERENCE, "dot"),
        Trained("no-gate", "idw"),
    ]
    everything = models_to_train(list(ARMS), ["idw", "dot"])
    assert len(everything) == 20
    assert [one for one in everything if one.frozen_too] == [
        Trained(REFERENCE, score, True) for score in ("idw", "dot")
    ]


@pytest.mark.parametrize(
    ("arms", "scores", "message"),
    [
        (["no-lookahed"], ["idw"], "did you mean no-lookahead"),
        (["no-gate"], ["dots"], "unknown scoring 'dots', did you mean dot"),
        ([], ["idw"], "nothing to compare"),
    ],
)
def test_what_there_is_no_arm_for(arms: list[str], scores: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        models_to_train(arms, scores)


def test_models_that_cannot_be_ablated() -> None:
    with pytest.raises(UserError, match="gdn has none"):
        ablated_config("gdn", "micro", PLAN, Trained(REFERENCE, "idw"))
    without = replace(PLAN, overrides={**PLAN.overrides, "fwpkm.query_conv": 0})
    with pytest.raises(UserError, match="'no-query-conv' changes nothing"):
        ablated_config(PLAN.model, "micro", without, Trained("no-query-conv", "idw"))


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("scale", list(SCALES))
def test_every_scale_has_a_plan_and_each_of_its_arms_changes_something(scale: str, full: bool) -> None:
    plan = ablation_plan(scale, full=full)
    arms = arms_of(plan.model, scale, plan)
    configs = [ablated_config(plan.model, scale, plan, one) for one in models_to_train(arms, SCORES)]
    assert len(configs) == len({str(config) for config in configs}) == 2 * len(arms)  # the reference in FROZEN's place
    reference = ablated_config(plan.model, scale, plan, Trained(REFERENCE, "idw"))
    # At paper there is no convolution; a model with one memory layer has it wherever it could.
    missing = {"no-query-conv"} if scale == "paper" else set()
    by_layer = isinstance(reference.fwpkm.query_conv, tuple)
    assert set(ARMS) - set(arms) == (missing if by_layer else {*missing, "query-conv-everywhere"})


def test_a_convolution_everywhere_is_the_first_layers() -> None:
    plan = ablation_plan("micro", full=True)
    assert ablated_config(plan.model, "micro", plan, Trained(REFERENCE, "idw")).fwpkm.query_conv == (16, 0)
    assert ablated_config(plan.model, "micro", plan, Trained("query-conv-everywhere", "idw")).fwpkm.query_conv == 16
    with pytest.raises(UserError, match="'query-conv-everywhere' changes nothing"):
        config_of("query-conv-everywhere")


@pytest.mark.parametrize("full", [False, True])
def test_paper_scale_is_ablated_as_published(full: bool) -> None:
    plan = ablation_plan("paper", full=full)
    assert plan.recipe == RECIPES["paper"]
    assert plan.model == "gdn+swa:pkm@6+fwpkm@2,10"
    assert (plan.length, plan.needles, plan.samples, plan.write_chunks) == (4096, (5,), 500, ("haystack",))


def test_in_full_the_reference_is_the_shipped_model() -> None:
    """Trained by its recipe, too: what an arm lacks is told of the model that the other tables are about."""
    plan = fit_to_data(ablation_plan("micro", full=True), "embedded")
    (folder,) = (
        folder for folder in SHIPPED.glob("micro/*") if read_description(folder)["config"]["name"] == plan.model
    )
    shipped = read_description(folder)
    assert ablated_config(plan.model, "micro", plan, Trained(REFERENCE, "idw")) == ModelConfig.from_dict(
        shipped["config"]
    )
    assert plan.recipe == Recipe.from_dict(shipped["training"]["recipe"])


def test_fewer_steps_shorten_the_short_rows_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are the same share of a training."""
    given = []
    monkeypatch.setattr(trained_models, "train_and_measure", lambda command, plan, *_, **__: given.append(plan))
    for arguments in ([], ["--full"]):
        assert cli.main(["ablate", *arguments, "--steps", "33", "--out", str(tmp_path)]) == 0
    short, full = given
    assert short.recipe == replace(ablation_plan("micro").recipe, steps=33)
    assert full.recipe == RECIPES["micro"].shortened(33)
    assert full.recipe.exercise_steps == (5, 13, 17)


def test_seeds_are_those_of_weights_batches_and_haystacks_alike(data: str, tmp_path: Path) -> None:
    models = [Trained(REFERENCE, "idw"), Trained("no-gate", "idw"), Trained(REFERENCE, "dot")]
    found = jobs(data, tmp_path, models, seeds=(0, 1))
    assert len({job.cell.key for job in found}) == len({job.label for job in found}) == 6
    assert len({job.checkpoint for job in found}) == 6
    for job in found:
        settings = job.cell.settings
        assert settings["seed"] == settings["recipe"]["seed"] == settings["niah"]["seed"] == settings["ppl"]["seed"]
    first = [job.cell.settings for job in found if job.cell.settings["seed"] == 1]
    assert all(settings["recipe"] == first[0]["recipe"] and settings["niah"] == first[0]["niah"] for settings in first)


def test_a_cells_key_holds_all_that_can_change_its_value(data: str, tmp_path: Path) -> None:
    one = [Trained(REFERENCE, "idw")]
    here = jobs(data, tmp_path, one)[0].cell.key
    assert jobs(data, tmp_path / "elsewhere", one)[0].cell.key == here
    for plan in (
        replace(PLAN, recipe=replace(RECIPE, steps=4)),
        replace(PLAN, overrides={**PLAN.overrides, "chunk_size": 32}),
        replace(PLAN, samples=3),
        replace(PLAN, tokens=301),
    ):
        assert jobs(data, tmp_path, one, plan)[0].cell.key != here
    assert jobs(data, tmp_path, [Trained(REFERENCE, "idw", True)])[0].cell.key != here


def test_every_text_that_is_read_is_in_the_key(data: str, tmp_path: Path) -> None:
    one = [Trained(REFERENCE, "idw")]
    tales = TextSource(data, load_set(data, "tales", "test"))
    other = replace(tales, text_set=replace(tales.text_set, sha256="0" * 64))
    where: dict[str, Any] = {"model": PLAN.model, "scale": "micro", "checkpoints": tmp_path}
    found = {
        ablation_jobs(PLAN, one, (0,), haystack=haystack, text=text, **where)[0].cell.key
        for haystack, text in product((tales, other), repeat=2)
    }
    assert len(found) == 4
    shutil.copytree(Path(data) / "tales", tmp_path / "tales")
    shutil.copy(tmp_path / "tales" / "test.jsonl", tmp_path / "tales" / "train.jsonl")
    assert jobs(str(tmp_path), tmp_path, one)[0].cell.key not in found, "trained on another text"


def test_full_attention_is_read_beyond_the_rows_that_an_ablation_trains_on(data: str, tmp_path: Path) -> None:
    job = jobs(data, tmp_path, [Trained(REFERENCE, "idw")], replace(PLAN, model="fa:fwpkm@0"))[0]
    assert job.cell.settings["yarn"] == [YARN_VERSION, RECIPE.tokens]
    assert ModelConfig.from_dict(job.cell.settings["config"]).trained_length == RECIPE.tokens


def test_who_ablates_full_attention_is_told_that_it_learns_little(
    data: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["ablate", "--data", data, "--model", "gdn+fa:fwpkm@2", "--dry-run"]) == 0
    assert "full attention does not learn to answer; the memory may" in capsys.readouterr().err
    assert cli.main(["ablate", "--data", data, "--dry-run"]) == 0
    assert not capsys.readouterr().err


def test_a_folder_without_the_plans_training_sets_trains_on_its_own(data: str, tmp_path: Path) -> None:
    """Also where it has a test set of the plan's name."""
    for name, split in (("source", "test"), ("mine", "train"), ("mine", "test")):
        (tmp_path / name).mkdir(exist_ok=True)
        shutil.copy(Path(data) / "tales" / "test.jsonl", tmp_path / name / f"{split}.jsonl")
    plan = fit_to_data(ablation_plan("micro"), str(tmp_path))
    assert (plan.text, plan.recipe.sets) == ("source", ("mine",))


def test_cells_and_settings_of_the_stored_run_are_those_of_today(data: str, tmp_path: Path) -> None:
    """A run from before there was a choice of device is found finished; only the text is not to be had here."""
    stored = Path(__file__).resolve().parents[1] / "results" / "ablation-micro"
    config = json.loads((stored / "manifest.json").read_text())["config"]
    plan = ablation_plan("micro")
    assert json.loads(json.dumps(plan.to_config())) == config["plan"]
    here = replace(plan, recipe=replace(plan.recipe, sets=("tales",)), length=2048, needles=(5,))
    text = CellStore(stored).load(CellStore(stored).keys()[0])
    assert text is not None
    keys = []
    for job in jobs(data, tmp_path, models_to_train(config["arms"], config["scores"]), here, seeds=(0, 1, 2)):
        settings = dict(job.cell.settings)
        settings["recipe"] = {**settings["recipe"], "sets": plan.recipe.sets}
        settings["niah"] = {**settings["niah"], "lengths": (plan.length,), "needles": plan.needles}
        settings |= {name: text["settings"][name] for name in ("training", "haystack", "data")}
        keys.append(replace(job.cell, settings=settings).key)
    assert sorted(keys) == sorted(json.loads((stored / "manifest.json").read_text())["cells"])


def test_another_device_is_another_cell_in_another_folder(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = [Trained(REFERENCE, "idw")]
    here = jobs(data, tmp_path, one)[0]
    assert (here.device, here.cell.settings["device"], here.cell.settings["dtype"]) == ("cpu", "cpu", "float32")
    monkeypatch.setattr("fwpkm_eval.devices.resolve_device", lambda name: torch.device(name))
    there = jobs(data, tmp_path, one, device="cuda:1")[0]
    assert (there.device, there.cell.settings["device"]) == ("cuda:1", "cuda")
    assert there.checkpoint == f"{here.checkpoint}-cuda"
    assert there.cell.key != here.cell.key
    # Training has a type of its own, so what is trained is the same.
    wide = jobs(data, tmp_path, one, dtype="float64")[0]
    assert wide.checkpoint == here.checkpoint
    assert wide.cell.key != here.cell.key


def test_a_model_is_trained_on_the_device_that_was_asked_for(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained_on: list[str] = []

    def trainer(*arguments: Any, ranks: Any) -> Trainer:
        trained_on.append(str(ranks.device))
        raise Diverged("far enough", 0)

    monkeypatch.setattr("fwpkm_eval.training.trainer.Trainer", trainer)
    monkeypatch.setattr("fwpkm_eval.devices.resolve_device", lambda name: torch.device(name))
    job = jobs(data, tmp_path, [Trained(REFERENCE, "idw")], device="cuda:1")[0]
    (row,) = execute(job, lambda tokens: None)["rows"]
    assert (row.metric, row.device) == ("diverged", "cuda")
    assert trained_on == ["cuda:1"]


@pytest.mark.usefixtures("without_workers")
def test_a_model_is_measured_in_the_type_that_was_asked_for(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ablations, "ablation_plan", lambda scale, full: PLAN)
    command = ["ablate", "--arms", "idw", "--scores", "idw", "--seeds", "1", "--data", data, "--quiet"]
    assert cli.main([*command, "--device", "cpu", "--dtype", "float64", "--out", str(tmp_path)]) == 0
    assert {row.dtype for row in read_rows_csv(tmp_path / "rows.csv")} == {"float64"}
    config = json.loads((tmp_path / "manifest.json").read_text())["config"]
    assert config["dtype"] == "float64"
    assert "device" not in config


@pytest.fixture(scope="module")
def measured(data: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, list[Row], int]:
    """A reference that was measured frozen, too: its cell, its rows, and the work that was reported."""
    job = jobs(data, tmp_path_factory.mktemp("run"), [Trained(REFERENCE, "dot", frozen_too=True)], seeds=(7,))[0]
    told: list[int] = []
    return job, execute(job, told.append)["rows"], sum(told)


def test_rows_carry_arm_scoring_and_seed(measured: tuple[Job, list[Row], int]) -> None:
    job, rows, told = measured
    assert {(row.task, row.score, row.seed) for row in rows} == {("ablation", "dot", 7)}
    assert {row.arm for row in rows} == {REFERENCE, FROZEN}
    ways = {(row.arm, row.write_chunk, row.passes) for row in rows if row.metric == "exact_match"}
    assert ways == {(arm, chunk, 1) for arm in (REFERENCE, FROZEN) for chunk in ("haystack", "64")}
    assert {row.weights_hash for row in rows} == {rows[0].weights_hash}
    bits = {row.arm: row.value for row in rows if row.metric == "bits_per_byte"}
    assert bits[REFERENCE] != bits[FROZEN]
    assert {"train_answer_accuracy", "dropped_steps"} <= {row.metric for row in rows}
    assert told == pytest.approx(job.work, rel=0.2)


def test_frozen_answers_do_not_depend_on_how_it_would_be_written(measured: tuple[Job, list[Row], int]) -> None:
    logprobs = {(row.arm, row.write_chunk): row.value for row in measured[1] if row.metric == "answer_logprob"}
    assert logprobs[FROZEN, "haystack"] == logprobs[FROZEN, "64"]
    assert logprobs[REFERENCE, "haystack"] != logprobs[FROZEN, "haystack"]


def test_a_model_that_is_trained_is_not_trained_again(measured: tuple[Job, list[Row], int]) -> None:
    job, rows, told = measured
    again: list[int] = []
    values = [replace(row, seconds=None) for row in execute(job, again.append)["rows"]]
    assert values == [replace(row, seconds=None) for row in rows]
    assert told - sum(again) == 3 * RECIPE.steps * RECIPE.tokens * 2


def test_a_training_that_was_killed_goes_on_and_gives_the_same_rows(
    measured: tuple[Job, list[Row], int], tmp_path: Path
) -> None:
    job, rows, told_before = measured
    settings = job.cell.settings
    folder = tmp_path / "killed"
    config, recipe = ModelConfig.from_dict(settings["config"]), Recipe.from_dict(settings["recipe"])
    killed = Trainer(config, recipe, folder, job.data)
    assert len(list(islice(killed.run(save_every_seconds=-1.0), 2))) == 2
    assert save_points(folder)
    told: list[int] = []
    resumed = execute(replace(job, checkpoint=str(folder)), told.append)["rows"]
    assert told_before - sum(told) == 2 * 3 * RECIPE.tokens * 2  # the two steps that were made are not made again
    same = ("exact_match", "answer_logprob", "bits_per_byte")
    assert [row.value for row in resumed if row.metric in same] == [row.value for row in rows if row.metric in same]


def test_a_folder_with_another_model_is_not_taken_for_this_one(
    measured: tuple[Job, list[Row], int], data: str, tmp_path: Path
) -> None:
    other = jobs(data, tmp_path, [Trained("no-gate", "dot")], seeds=(7,))[0]
    with pytest.raises(UserError, match="holds another model"):
        execute(replace(other, checkpoint=measured[0].checkpoint), lambda tokens: None)


def test_what_is_left_to_do_counts_no_training_that_is_finished(
    measured: tuple[Job, list[Row], int], data: str
) -> None:
    job, _, _ = measured
    assert job.checkpoint is not None
    trained = [Trained(REFERENCE, "dot", frozen_too=True)]
    [again] = jobs(data, Path(job.checkpoint).parent, trained, seeds=(7,))
    assert again.cell == job.cell
    assert again.checkpoint == job.checkpoint
    recipe = Recipe.from_dict(job.cell.settings["recipe"])
    assert job.work - again.work == recipe.steps * recipe.tokens * recipe.rows * 3
    assert again.work > 0


def test_a_model_of_another_text_is_not_taken_for_this_one(data: str, tmp_path: Path) -> None:
    trained = LanguageModel(config_of(REFERENCE).trained_on(RECIPE.tokens))
    about = {"recipe": RECIPE.to_dict(), "data_hash": training_text(RECIPE, ByteTokenizer(), data).data_hash}
    save_checkpoint(trained, tmp_path / "model", about)
    assert is_finished(tmp_path / "model", trained.config, RECIPE, data)
    shutil.copytree(Path(data) / "tales", tmp_path / "tales")
    shutil.copy(tmp_path / "tales" / "test.jsonl", tmp_path / "tales" / "train.jsonl")
    with pytest.raises(UserError, match="holds another model: data_hash"):
        is_finished(tmp_path / "model", trained.config, RECIPE, str(tmp_path))


def test_what_training_learned_is_told_of_its_end(tmp_path: Path) -> None:
    model = LanguageModel(config_of(REFERENCE))
    save_checkpoint(model, tmp_path, {"tokens": 9, "recipe": {"steps": 150}, "diverged_steps": 2})
    right = [*[0.0] * 40, *[None] * 10, *[0.5] * LAST_STEPS]  # None: a step without needles
    lines = [json.dumps({"answer_accuracy": share}) for share in right]
    (tmp_path / METRICS).write_text("\n".join(lines), encoding="utf-8")
    dropped, learned = _training_rows(model, tmp_path)
    assert (dropped.metric, dropped.value, dropped.n) == ("dropped_steps", 2, 150)
    assert (learned.metric, learned.value, learned.n) == ("train_answer_accuracy", 0.5, LAST_STEPS)


def test_a_training_that_diverges_is_a_row(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fwpkm_eval.training.trainer.DIVERGED_IN_A_ROW", 2)
    plan = replace(PLAN, recipe=replace(RECIPE, steps=12, learning_rate=1e30, clip=1e30))
    job = jobs(data, tmp_path, [Trained(REFERENCE, "idw", frozen_too=True)], plan)[0]
    rows = execute(job, lambda tokens: None)["rows"]
    assert [(row.metric, row.unit, row.arm) for row in rows] == [
        ("diverged", "step", REFERENCE),
        ("diverged", "step", FROZEN),
    ]
    assert 0 <= (rows[0].value or 0) < 12
    assert rows[0].n == 12
    assert (rows[0].score, rows[0].seed, rows[0].model) == ("idw", 0, "fa:fwpkm@1")


def test_weights_that_outgrow_what_they_are_stored_as_have_diverged(data: str, tmp_path: Path) -> None:
    trainer = Trainer(config_of(REFERENCE), RECIPE, tmp_path, data)
    trainer.model.final_norm.weight.data.fill_(1e6)
    with pytest.raises(Diverged, match="final_norm") as raised:
        trainer.finish()
    assert raised.value.step == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("without_workers")
def test_the_command(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ablations, "ablation_plan", lambda scale, full: PLAN)
    out = tmp_path / "run"
    command = ["ablate", "--arms", "no-lookahead,frozen", "--scores", "idw", "--seeds", "2", "--data", data]
    command += ["--out", str(out), "--quiet"]
    assert cli.main(command) == 0
    printed = capsys.readouterr().out
    assert "5 needles found at 300" in printed
    assert "no-lookahead" in printed
    rows = read_rows_csv(out / "rows.csv")
    assert {(row.arm, row.seed) for row in rows} == {
        (arm, seed) for arm in (REFERENCE, "no-lookahead", FROZEN) for seed in (0, 1)
    }
    assert all(math.isfinite(row.value or 0) for row in rows)
    assert json.loads((out / "manifest.json").read_text())["seeds"] == [0, 1]
    before = (out / "rows.csv").read_bytes()
    assert cli.main(command) == 0
    assert (out / "rows.csv").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--arms", "no-lookahed"], "unknown arm 'no-lookahed', did you mean no-lookahead?"),
        (["--scores", "cosine"], "unknown scoring 'cosine'"),
        (["--arms", ""], "nothing to compare"),
        (["--model", "gdn"], "gdn has none"),
        (["--scale", "large"], "unknown scale with a plan of models to train 'large'"),
        (["--length", "1K"], "too short for 64 needles"),
    ],
)
def test_wrong_use_is_one_line(
    data: str, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["ablate", "--data", data, *arguments, "--dry-run"]) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert errors.count("\n") == 1


def test_a_dry_run_names_what_would_be_trained(data: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["ablate", "--data", data, "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "54 models to train and measure, 400 steps each"
    assert any(line.startswith("no-lookahead, dot, seed 2  ") for line in lines)


def test_what_trained_a_model_on_a_gpu_is_in_its_key(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The delta rule of training in 16 bits is another's than that of measuring in 32."""
    recipe = replace(RECIPE, bf16=True)
    gpu = torch.device("cuda")
    assert recipe_computed_on(torch.device("cpu"), recipe) == {}
    assert recipe_computed_on(gpu, RECIPE) == {}
    found = {}
    for installed in (False, True):
        monkeypatch.setattr("fwpkm_eval.reference_models.gated_delta.fla_is_installed", lambda there=installed: there)
        monkeypatch.setattr("fwpkm_eval.reference_models.gated_delta.is_miscompiled", lambda device: False)
        found[installed] = recipe_computed_on(gpu, recipe)
    assert found == {False: {"bf16": True}, True: {"bf16": True, "delta_rule": "fla"}}


def test_a_checkpoint_computed_otherwise_is_another(
    measured: tuple[Job, list[Row], int], data: str, tmp_path: Path
) -> None:
    job, _, _ = measured
    assert job.checkpoint is not None
    folder = tmp_path / "trained"
    shutil.copytree(job.checkpoint, folder)
    wanted = ModelConfig.from_dict(job.cell.settings["config"]), Recipe.from_dict(job.cell.settings["recipe"]), data
    assert is_finished(folder, *wanted, torch.device("cpu"))
    about = json.loads((folder / "model.json").read_text())
    about["training"]["bf16"] = True
    (folder / "model.json").write_text(json.dumps(about))
    assert is_finished(folder, *wanted), "whoever only measures it does not ask"
    with pytest.raises(UserError, match=r"holds another model: computed\.bf16 is true there and null here"):
        is_finished(folder, *wanted, torch.device("cpu"))
