"""Arms of one's own: any setting of the model, and several arms at once, beside the same reference."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from fwpkm_eval import cli
from fwpkm_eval.ablations import (
    ARMS,
    REFERENCE,
    Trained,
    ablated_config,
    ablated_training,
    ablation_plan,
    arm_named,
    models_to_train,
)
from fwpkm_eval.commands import trained
from fwpkm_eval.errors import UserError
from fwpkm_eval.reference_models.config import ModelConfig
from fwpkm_eval.reporting.commands import commands
from fwpkm_eval.reporting.tables_ablation import ablation_tables
from fwpkm_eval.runs.ablation import _folder_name, plan_ablation
from fwpkm_eval.runs.rows import Row, rows_to_frame
from fwpkm_eval.training.recipe import Recipe

PLAN = ablation_plan("micro")


def config_of(arm: str, model: str = PLAN.model) -> ModelConfig:
    return ablated_config(model, "micro", PLAN, Trained(arm, "idw"))


@pytest.mark.parametrize(
    ("arm", "changed"),
    [
        ("fwpkm.topk=16", {"topk": 16}),
        ("no-gate+fwpkm.topk=16", {"topk": 16, "gate": False}),
        ("no-lookahead+no-entropy", {"lookahead": 0, "addressing": "none"}),
        ("fwpkm.addressing=none", {"addressing": "none"}),
        ("fwpkm.target_norm=false + fwpkm.learning_rate=0.5", {"target_norm": False, "learning_rate": 0.5}),
    ],
)
def test_it_changes_what_it_says_and_nothing_else(arm: str, changed: dict[str, object]) -> None:
    reference, own = config_of(REFERENCE), config_of(arm_named(arm).name)
    assert replace(own, fwpkm=reference.fwpkm) == reference
    before, after = asdict(reference.fwpkm), asdict(own.fwpkm)
    assert {name: after[name] for name in after if after[name] != before[name]} == changed


def test_it_may_change_the_backbone_and_the_chunk_too() -> None:
    assert config_of("backbone.window=32").backbone.window == 32
    assert config_of("chunk_size=64").chunk_size == 64
    assert config_of("pkm.topk=4", "gdn:pkm@1+fwpkm@2").pkm.topk == 4


def test_it_may_change_the_recipe_too() -> None:
    reference, recipe = ablated_training(PLAN.model, "micro", PLAN, Trained(REFERENCE, "idw"))
    assert recipe == PLAN.recipe
    config, fewer = ablated_training(PLAN.model, "micro", PLAN, Trained("recipe.needle_share=0.1", "idw"))
    assert (config, fewer) == (reference, replace(PLAN.recipe, needle_share=0.1))
    config, both = ablated_training(PLAN.model, "micro", PLAN, Trained("no-gate+recipe.chunks=[64,128]", "idw"))
    assert not config.fwpkm.gate
    assert both == replace(PLAN.recipe, chunks=(64, 128))
    full = ablated_training("gdn+fa:fwpkm@2", "micro", PLAN, Trained("recipe.tokens=1K", "idw"))[0]
    assert full.row_tokens is None, "as its scale's"
    assert ablated_config("gdn+fa:fwpkm@2", "micro", PLAN, Trained(REFERENCE, "idw")).row_tokens == PLAN.recipe.tokens


def test_two_names_of_one_arm_are_not_trained_twice(capsys: pytest.CaptureFixture[str]) -> None:
    arms = ["no-query-conv", "fwpkm.query_conv=0"]
    assert cli.main(["ablate", "--arms", ",".join(arms), "--dry-run"]) == 2
    assert "'no-query-conv' and 'fwpkm.query_conv=0' are the same: leave one out" in capsys.readouterr().err


def test_each_arm_is_trained_by_its_own_recipe(tmp_path: Path) -> None:
    arms = [Trained(arm, "idw") for arm in (REFERENCE, "recipe.needle_share=0.1", 'recipe.sets=["docs"]')]
    jobs = plan_ablation(PLAN, arms, [3], scale="micro", data="embedded", checkpoints=tmp_path).jobs
    recipes = [Recipe.from_dict(job.cell.settings["recipe"]) for job in jobs]
    expected = replace(PLAN.recipe, seed=3)
    assert recipes == [expected, replace(expected, needle_share=0.1), replace(expected, sets=("docs",))]
    assert [len(job.cell.settings["training"]) for job in jobs] == [2, 2, 1]
    assert len({job.cell.key for job in jobs}) == 3


def test_one_arm_has_one_name() -> None:
    for text in ("no-gate+fwpkm.query_conv=[8,0]", " no-gate + fwpkm.query_conv = [8, 0] "):
        assert arm_named(text).name == "no-gate+fwpkm.query_conv=[8,0]"
    assert arm_named("no-gate") is ARMS["no-gate"]


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ("fwpkm.tpk=4", "unknown setting of fwpkm 'tpk', did you mean topk?"),
        ("fwpkm.topk=4000", "fwpkm.topk is 4000; it must be 1 to 128"),
        ("fwpkm.topk=8", "arm 'fwpkm.topk=8' changes nothing of gdn+swa:fwpkm@2"),
        ("pkm.topk=8", "pkm.topk: gdn+swa:fwpkm@2 has no pkm"),
        ("backbone.vocab_size=9", "the vocabulary is that of the scale's tokenizer"),
        ("topk=8", "'topk=8' is not a setting and its value, such as"),
        ("no-gate+fwpkm.gate=true", "sets fwpkm.gate twice"),
        ("no-gate+no-gate", "sets fwpkm.gate twice"),
        ("no-gate+idw", "unknown arm 'idw'"),
        ("no-gate+frozen", "'frozen' is the reference as trained: it cannot be joined"),
        ("no-gate+", "unknown arm ''"),
        ("fwpkm.score=dot", "fwpkm.score is no arm: --scores says"),
        ("recipe.steps=9", "recipe.steps is no arm: all are trained as long"),
        ("recipe.needle_share=0.7", "arm 'recipe.needle_share=0.7' changes nothing of gdn+swa:fwpkm@2"),
        ("recipe.needle_share=2", "needle_share is 2.0; it must be 0 to 1"),
        ('recipe.sets=["doc"]', "unknown set 'doc', did you mean docs?"),
        ("no-gat", "did you mean no-gate?"),
    ],
)
def test_what_is_no_arm_is_one_line(arm: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["ablate", "--arms", arm, "--scores", "idw", "--seeds", "1", "--out", str(tmp_path / "run")]
    assert cli.main(command) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert errors.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_it_stands_among_the_named_ones_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    arms = "fwpkm.query_conv=[8],no-gate,no-gate+fwpkm.topk=4"
    command = ["ablate", "--arms", arms, "--scores", "dot", "--seeds", "1", "--needles", "3", "--dry-run", "--json"]
    assert cli.main(command) == 0
    labels = [cell["label"] for cell in json.loads(capsys.readouterr().out)]
    assert labels == [
        f"{arm}, dot, seed 0" for arm in (REFERENCE, "fwpkm.query_conv=[8]", "no-gate", "no-gate+fwpkm.topk=4")
    ]


def test_as_many_needles_are_asked_for_as_were_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = []
    monkeypatch.setattr(trained, "train_and_measure", lambda command, plan, *_, **__: given.append(plan.needles))
    for arguments in ([], ["--needles", "3,9"], ["--full", "--needles", "12"]):
        assert cli.main(["ablate", *arguments, "--out", str(tmp_path)]) == 0
    assert given == [PLAN.needles, (3, 9), (12,)]


@pytest.mark.parametrize(("needles", "option"), [((5, 64), ""), ((3, 9), " --needles 3,9")])
def test_the_report_says_how_to_run_it_again(needles: tuple[int, ...], option: str) -> None:
    asked = {"length": 1024, "passes": 1, "write_chunk": "haystack", "protocol": "open-book", "n": 2, "seed": 0}
    common: dict[str, Any] = {"model": PLAN.model, "scale": "micro", "score": "idw", "dtype": "float32", **asked}
    rows = [
        Row(task="ablation", metric="exact_match", value=1.0, arm=arm, needles=count, **common)
        for arm in (REFERENCE, "no-gate+fwpkm.query_conv=[8]")
        for count in needles
    ]
    (told,) = [fact.value for fact in commands(rows_to_frame(rows), None) if fact.name == "Ablation"]
    assert f"--arms 'no-gate+fwpkm.query_conv=[8]' --scores idw --seeds 1 --length 1K --samples 2{option} --out" in told


def test_each_is_trained_once_and_beside_its_reference() -> None:
    wanted = models_to_train(["no-gate+fwpkm.topk=4", "no-gate + fwpkm.topk = 4"], ["idw"])
    assert wanted == [Trained(REFERENCE, "idw"), Trained("no-gate+fwpkm.topk=4", "idw")]
    with pytest.raises(UserError, match="unknown arm"):
        models_to_train(["fwpkm"], ["idw"])


def test_folders_are_named_without_what_shells_read() -> None:
    names = ["no-gate", "S 128, dv 64", "fwpkm.query_conv=[16,0]", "no-gate+fwpkm.gate_bias=-1.5"]
    assert [_folder_name(name) for name in names] == [
        "no-gate",
        "S128-dv64",
        "fwpkm.query_conv-16-0",
        "no-gate+fwpkm.gate_bias--1.5",
    ]


def test_the_report_says_what_it_is() -> None:
    arms = [REFERENCE, "no-gate+fwpkm.topk=4", "an arm of a later version"]
    rows = [
        Row(
            model=PLAN.model,
            scale="micro",
            task="ablation",
            metric="bits_per_byte",
            value=2.0,
            arm=arm,
            score="idw",
            seed=0,
        )
        for arm in arms
    ]
    tables = {table.name: table for table in ablation_tables(rows_to_frame(rows))}
    told = {row[0].text: row[4].text for row in tables["ablation-training"].rows}
    assert told["no-gate+fwpkm.topk=4"] == f"{ARMS['no-gate'].tests}; fwpkm.topk is 4"
    assert told[REFERENCE] == "nothing is changed"
    assert told["an arm of a later version"] == "–"
