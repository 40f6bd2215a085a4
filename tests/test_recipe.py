"""Recipes: what they refuse, one for all models of a scale, and that what is shipped was trained by it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from training_cases import TINY

from fwpkm_eval import cli
from fwpkm_eval.api import SHIPPED
from fwpkm_eval.errors import UserError
from fwpkm_eval.reference_models.config import ModelConfig, model_config
from fwpkm_eval.training.recipe import RECIPES, Recipe, recipe_for


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 0},
        {"tokens": 0},
        {"chunks": (0,)},
        {"chunks": ()},
        {"document_pieces": 0},
        {"sets": ()},
        {"learning_rate": math.nan},
    ],
    ids=str,
)
def test_recipes_that_cannot_work(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError) as raised:
        replace(TINY, **changes)
    assert next(iter(changes)).rstrip("s") in str(raised.value)


WITHOUT_EXERCISES = recipe_for(model_config("gdn+swa"), exercises=False)


def test_one_recipe_for_all_models_of_a_scale() -> None:
    recipe = recipe_for(model_config("gdn+swa:fwpkm"))
    assert recipe == RECIPES["micro"]
    assert recipe.exercise_steps
    assert all(recipe_for(model_config(name)) == recipe for name in ("gdn+swa", "gdn+fa", "gdn+fa:fwpkm", "fa:pkm@1"))
    assert recipe_for(model_config("gdn+fa", "paper")) == replace(RECIPES["paper"], sets=("docs", "source"))
    with pytest.raises(UserError, match="micro"):
        recipe_for(replace(model_config("gdn"), scale="mirco"))


@pytest.mark.parametrize("folder", sorted(SHIPPED.glob("*/*")), ids=lambda f: f.name)
def test_what_is_shipped_was_trained_by_this_recipe(folder: Path) -> None:
    stored = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    assert Recipe.from_dict(stored["training"]["recipe"]) == recipe_for(ModelConfig.from_dict(stored["config"]))
    assert stored["training"]["diverged_steps"] == 0


def test_without_exercises_as_many_tokens_are_read() -> None:
    recipe = RECIPES["micro"]
    assert replace(recipe, exercise_tokens=(), exercise_steps=()) == WITHOUT_EXERCISES
    config = model_config("gdn", "paper")
    assert recipe_for(config, exercises=False) == recipe_for(config)


@pytest.mark.parametrize("scale", sorted(RECIPES))
def test_without_needles_all_is_text(scale: str) -> None:
    recipe = recipe_for(model_config("gdn", scale), needles=False)
    assert (recipe.needle_share, recipe.answer_weight, recipe.exercise_steps) == (0, 0, ())
    assert recipe_for(model_config("gdn", scale), exercises=False, needles=False) == recipe
    kept = replace(recipe, needle_share=RECIPES[scale].needle_share, answer_weight=RECIPES[scale].answer_weight)
    assert kept == recipe_for(model_config("gdn", scale), exercises=False)


@pytest.mark.parametrize("recipe", [RECIPES["micro"], WITHOUT_EXERCISES], ids=["exercises", "without"])
def test_recipes_outlive_json_and_name_exercises_only_where_there_are_some(recipe: Recipe) -> None:
    stored = json.loads(json.dumps(recipe.to_dict()))
    assert Recipe.from_dict(stored) == recipe
    assert ("exercise_steps" in stored) == bool(recipe.exercise_steps)


def test_a_recipe_takes_the_sets_that_are_prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FWPKM_EVAL_DATA", str(tmp_path))
    (tmp_path / "fineweb_edu").mkdir()
    (tmp_path / "fineweb_edu" / "train.jsonl").write_text('{"text": "hello"}\n')
    assert recipe_for(model_config("gdn"), "hub").sets == ("fineweb_edu",)
    assert recipe_for(model_config("gdn", "paper"), "hub").sets == ("lc64", "fineweb_edu"), "which it asks for by name"


def test_a_shorter_training_has_shorter_exercises() -> None:
    short = RECIPES["micro"].shortened(33)
    assert (short.steps, short.exercise_steps) == (33, (5, 13, 17))
    assert short.shortened(1).exercise_steps == (0, 0, 0)


@pytest.mark.parametrize(
    "flags", [[], ["--no-exercises"], ["--no-needles"], ["--no-needles", "--no-exercises"]], ids=str
)
def test_the_command_trains_by_the_recipe_that_was_asked_for(
    flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Recipe] = []
    monkeypatch.setattr("fwpkm_eval.training.run.train_model", lambda config, recipe, *rest: asked.append(recipe))
    command = ["train", "--model", "gdn", "--seed", "3", "--steps", "660", "--out", str(tmp_path / "run"), *flags]
    assert cli.main(command) == 0
    expected = recipe_for(
        model_config("gdn"), exercises="--no-exercises" not in flags, needles="--no-needles" not in flags
    )
    assert asked == [replace(expected.shortened(660), seed=3)]


@pytest.mark.parametrize(("tokens", "rows", "steps"), [("20K", 2, 10), ("20K", 4, 5), ("1", 2, 1)])
def test_a_training_may_be_as_long_as_so_many_tokens(
    tokens: str, rows: int, steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Recipe] = []
    monkeypatch.setattr("fwpkm_eval.training.run.train_model", lambda config, recipe, *rest: asked.append(recipe))
    command = ["train", "--model", "gdn", "--out", str(tmp_path / "run"), "--rows", str(rows), "--tokens", tokens]
    assert cli.main(command) == 0
    assert asked == [replace(recipe_for(model_config("gdn")).shortened(steps), rows=rows)]
    assert cli.main([*command, "--steps", "3"]) == 2


def test_a_memory_is_trained_with_the_settings_that_were_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[ModelConfig] = []
    monkeypatch.setattr("fwpkm_eval.training.run.train_model", lambda config, *rest: asked.append(config))
    chosen = ["--set", "fwpkm.query_conv=0", "--set", "fwpkm.gate=false", "--set", "fwpkm.score=dot"]
    command = ["train", "--model", "gdn+swa:pkm@1+fwpkm@3", "--out", str(tmp_path / "run"), *chosen]
    assert cli.main([*command, "--set", "pkm.topk=4"]) == 0
    changes: dict[str, Any] = {"fwpkm.query_conv": 0, "fwpkm.gate": False, "fwpkm.score": "dot", "pkm.topk": 4}
    assert asked == [model_config("gdn+swa:pkm@1+fwpkm@3", **changes)]
    assert cli.main([*command, "--set", "backbone.window=32", "--set", "chunk_size=256"]) == 0
    del changes["pkm.topk"]
    assert asked[1] == model_config("gdn+swa:pkm@1+fwpkm@3", **(changes | {"backbone.window": 32, "chunk_size": 256}))


def test_a_recipe_has_the_settings_that_were_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Recipe] = []
    monkeypatch.setattr("fwpkm_eval.training.run.train_model", lambda config, recipe, *rest: asked.append(recipe))
    chosen = ["needle_share=0.1", "learning_rate=1e-3", "chunks=[128,256]", 'sets=["docs"]', "tokens=2K", "pswa=0"]
    command = ["train", "--model", "gdn:fwpkm", "--out", str(tmp_path / "run"), "--seed", "1", "--steps", "660"]
    assert cli.main([*command, *(part for one in chosen for part in ("--set", f"recipe.{one}"))]) == 0
    changes: dict[str, Any] = {"needle_share": 0.1, "learning_rate": 1e-3, "chunks": (128, 256), "sets": ("docs",)}
    expected = replace(RECIPES["micro"], **changes, tokens=2048, pswa=0.0).shortened(660)
    assert asked == [replace(expected, seed=1)]


@pytest.mark.parametrize(("length", "steps"), [(["--steps", "6600"], 6600), (["--tokens", "12M"], 6144)])
def test_steps_of_exercises_that_are_asked_for_are_steps_of_this_training(
    length: list[str], steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Beyond the recipe's own last step, too; they were taken as steps of that, and stretched with the training."""
    asked: list[Recipe] = []
    monkeypatch.setattr("fwpkm_eval.training.run.train_model", lambda config, recipe, *rest: asked.append(recipe))
    command = ["train", "--model", "gdn:fwpkm", "--out", str(tmp_path / "run"), *length]
    assert cli.main([*command, "--set", "recipe.exercise_steps=[2000,3400,5000]"]) == 0
    assert asked == [replace(RECIPES["micro"], steps=steps, exercise_steps=(2000, 3400, 5000))]
    assert cli.main([*command, "--set", f"recipe.exercise_steps=[20,30,{steps}]"]) == 2
    assert f"they must leave some of the {steps} steps" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ("sets=[1]", "sets is '1'; it must be text"),
        ("sets=[null]", "sets is 'None'; it must be text"),
        ("sets={}", "sets is '{}'; it must be text"),
        ("layout=1", "layout is '1'; it must be text"),
        ("layout=true", "layout is 'True'; it must be text"),
        ("tokens=0", "tokens is 0; it must be at least 1"),
    ],
)
def test_a_setting_of_another_type_is_refused(
    setting: str, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "--model", "gdn:fwpkm", "--out", str(tmp_path / "run"), "--tokens", "20K"]
    assert cli.main([*command, "--set", f"recipe.{setting}"]) == 2
    assert why in capsys.readouterr().err


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (["fwpkm.query_conv"], "'fwpkm.query_conv' is not a setting and its value, such as"),
        (["hidden=64"], "'hidden=64' is not a setting and its value"),
        (["backbone.hiden=64"], "unknown setting of backbone 'hiden', did you mean hidden?"),
        (["backbone.hidden=0"], "backbone.hidden is 0; it must be a whole number of at least 1"),
        (["backbone.vocab_size=64"], "the vocabulary is that of the scale's tokenizer"),
        (["chunk_size=1"], "chunk_size 1 must be larger than the lookahead 1"),
        (["recipe.needle_share=2"], "needle_share is 2.0; it must be 0 to 1"),
        (["recipe.needle_shares=0.1"], "unknown setting 'needle_shares', did you mean needle_share?"),
        (["recipe.learning_rate=fast"], "learning_rate is 'fast'; it must be a number"),
        (["recipe.clip=0"], "clip is 0.0; it must be a number above 0"),
        (["recipe.weight_decay=-1"], "weight_decay is -1.0; it must be a number of at least 0"),
        (["recipe.steps=9"], "recipe.steps has an option of its own: --steps"),
        (["fwpkm.query_cov=0"], "unknown setting of fwpkm 'query_cov', did you mean query_conv?"),
        (["fwpkm.score=cosine"], "fwpkm.score is 'cosine'; it must be one of idw, dot"),
        (
            ["fwpkm.query_conv=[16"],
            "fwpkm.query_conv is '[16'; it must be a whole number of at least 0, or one for each",
        ),
        (["fwpkm.topk=[8]"], "fwpkm.topk is [8]; it must be a whole number"),
        (["pkm.topk=4"], "pkm.topk: gdn:fwpkm has no pkm, such as gdn:pkm"),
        (["fwpkm.topk=4", "fwpkm.topk=5"], "fwpkm.topk is given twice"),
        (["fwpkm.subkeys=10000000"], "not enough memory"),
    ],
)
def test_settings_that_cannot_be_are_one_line(
    chosen: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "--model", "gdn:fwpkm", "--steps", "1", "--out", str(tmp_path / "run"), "--quiet"]
    assert cli.main([*command, *(part for one in chosen for part in ("--set", one))]) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert errors.count("\n") == 1
    assert not (tmp_path / "run").exists()
