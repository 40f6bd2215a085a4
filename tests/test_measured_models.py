"""What a run keeps of the models that it measured: settings, training, where they were; and what is made of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from measuring_cases import FWPKM, PLAIN, run, two_checkpoints_and_two_sets
from tiny_models import tiny_checkpoint, tiny_model

from fwpkm_eval.api import shipped_checkpoint
from fwpkm_eval.reference_models.checkpoint import save_checkpoint
from fwpkm_eval.reference_models.config import model_config
from fwpkm_eval.reference_models.language_model import LanguageModel
from fwpkm_eval.reporting.command_text import Run
from fwpkm_eval.reporting.commands import commands
from fwpkm_eval.reporting.compare import compare_rows
from fwpkm_eval.reporting.compare_models import pairs_by_weights, renamed
from fwpkm_eval.reporting.compare_setup import setup_differences
from fwpkm_eval.reporting.model_facts import model_facts, unusual
from fwpkm_eval.runs.jobs import read_source
from fwpkm_eval.runs.manifest import load_manifest
from fwpkm_eval.runs.measured_models import SHIPPED, describe_model
from fwpkm_eval.runs.rows import Row, read_rows_csv, rows_to_frame
from fwpkm_eval.training.recipe import RECIPES

LABELLED = f"{FWPKM} · top2"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_checkpoints_and_two_sets(tmp_path_factory.mktemp("measured"))


def ppl(folder: Path, models: str, out: Path) -> int:
    return run("ppl", "--models", models, "--data", str(folder / "data"), "--tokens", "300", "--out", str(out))


def entry(**changes: Any) -> dict[str, Any]:
    usual: dict[str, Any] = {"settings": {}, "config_sha256": "aa", "training": {"seed": 0, "recipe": {}}}
    return {"models": {FWPKM: {**usual, **changes}}}


def test_a_shipped_model_is_as_its_scale_and_was_trained_by_its_recipe() -> None:
    checkpoint = shipped_checkpoint("gdn+swa:fwpkm@1,3")
    assert checkpoint is not None
    found = describe_model(read_source(checkpoint))
    assert (found["checkpoint"], found["settings"], unusual(found)) == (SHIPPED, {}, "")
    assert found["training"]["steps"] == RECIPES["micro"].steps
    assert found["training"]["recipe"] == {}


def test_what_is_unusual_in_a_model_and_its_training_is_told(tmp_path: Path) -> None:
    recipe = RECIPES["micro"].shortened(12).to_dict() | {"needle_share": 0.0, "seed": 3}
    about = {"recipe": recipe, "data": "path", "data_hash": "dd", "tokens": 24576, "version": "0.9.6"}
    save_checkpoint(tiny_model("gdn+swa:fwpkm@1", **{"fwpkm.topk": 2}), tmp_path, about)
    found = describe_model(read_source(tmp_path, label="top2"))
    assert found["settings"]["fwpkm.topk"] == {"is": 2, "usual": 8}
    assert found["training"]["recipe"] == {
        "needle_share": {"is": 0.0, "usual": 0.35},
        "steps": {"is": 12, "usual": RECIPES["micro"].steps},
    }
    words = unusual(found)
    assert "fwpkm.topk 2 in place of 8" in words
    assert "needle_share 0.0 in place of 0.35, steps 12 in place of 3300" in words
    (fact,) = model_facts({"weights": {LABELLED: "abcd"}, "models": {LABELLED: found}})
    assert fact.name == LABELLED
    assert fact.value.startswith(f"abcd; {tmp_path}; ")
    assert fact.value.endswith("; trained for 12 steps (24,576 tokens), on source, docs (path), seed 3, version 0.9.6")


@pytest.mark.parametrize("about", [{}, {"recipe": "none"}, {"recipe": {"steps": 0}}, {"recipe": {"steps": "all"}}])
def test_a_checkpoint_that_tells_little_of_its_training_is_measured_all_the_same(
    about: dict[str, Any], tmp_path: Path
) -> None:
    save_checkpoint(tiny_model("gdn"), tmp_path, about)
    assert "recipe" not in describe_model(read_source(tmp_path))["training"]


def test_older_manifests_and_damaged_ones_name_what_they_have() -> None:
    assert [(fact.name, fact.value) for fact in model_facts({"weights": {"gdn": "ab"}})] == [("gdn", "ab")]
    assert model_facts(None) == model_facts({"models": [], "weights": None}) == []
    for damaged in ({"gdn": 3}, {"gdn": {"settings": 1, "training": []}}, {"gdn": {"settings": {"x": 1}}}):
        (fact,) = model_facts({"weights": {"gdn": "ab"}, "models": damaged})
        assert fact.value.startswith("ab")
        assert setup_differences({"models": damaged}, entry() | {"config": {}}) == []


def test_runs_of_models_with_other_settings_differ_in_words() -> None:
    top2 = {"settings": {"fwpkm.topk": {"is": 2, "usual": 8}}, "config_sha256": "bb"}
    shorter = {"training": {"seed": 1, "recipe": {"steps": {"is": 12, "usual": 3300}}}}
    assert setup_differences(entry(), entry(**top2)) == [f"{FWPKM}.fwpkm.topk is 8 in A and 2 in B"]
    assert setup_differences(entry(**top2), entry(**top2)) == []
    assert setup_differences(entry(**shorter), entry()) == [
        f"{FWPKM} recipe.steps is 12 in A and 3300 in B",
        f"{FWPKM} training.seed is 1 in A and 0 in B",
    ]
    (of_scales,) = setup_differences(entry(), entry(config_sha256="cc"))
    assert "the two versions have other scales" in of_scales


def test_the_same_weights_under_another_label_are_held_against_each_other() -> None:
    bits: dict[str, Any] = {"task": "ppl", "metric": "bits_per_byte", "value": 2.0}
    before = [Row(model=f"{FWPKM} · a", weights_hash="w1", **bits), Row(model=PLAIN, weights_hash="w0", **bits)]
    after = [Row(model=f"{FWPKM} · b", weights_hash="w1", **bits), Row(model=PLAIN, weights_hash="w0", **bits)]
    names = pairs_by_weights(before, after)
    assert names == {f"{FWPKM} · a": f"{FWPKM} · b"}
    assert compare_rows(renamed(before, names), after).same == 2
    # Other weights, another model, or two that it could be: nothing is guessed.
    for others in (
        [Row(model=f"{FWPKM} · b", weights_hash="w2", **bits)],
        [Row(model=f"{PLAIN} · b", weights_hash="w1", **bits)],
        [Row(model=f"{FWPKM} · {label}", weights_hash="w1", **bits) for label in "bc"],
    ):
        assert pairs_by_weights(before, others) == {}
    twice = [*before, Row(model=f"{FWPKM} · c", weights_hash="w1", **bits)]
    assert pairs_by_weights(twice, after) == {}


def test_a_variant_is_compared_with_what_it_varies(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From models as they are measured to what `compare` says of them."""
    variant = tmp_path / "variant"
    save_checkpoint(
        LanguageModel(model_config(FWPKM, "micro", **{"fwpkm.topk": 2, "chunk_size": 64}), seed=1), variant, {}
    )
    a, b = tmp_path / "a", tmp_path / "b"
    assert ppl(folder, f"{folder / 'fwpkm'},top2={variant}", a) == 0
    assert f"{variant} (chunk_size 64 in place of 128, fwpkm.topk 2 in place of 8)\n" in (
        said := capsys.readouterr().out
    )
    assert "and 9 more that manifest.json names)" in said, "of the other one, which is of other sizes throughout"
    assert "fwpkm.topk 2 in place of 8" in (a / "report.html").read_text()
    assert ppl(folder, str(folder / "fwpkm"), b) == 0
    capsys.readouterr()
    assert run_compare(a, b, "--as", f"top2={FWPKM}") == 0
    said = capsys.readouterr().out
    assert f"differs: {LABELLED} in A is held against {FWPKM} in B" in said
    assert f"differs: {FWPKM}.fwpkm.topk is 2 in A and 8 in B" in said
    assert "in A alone: 0, in B alone: 0" in said
    assert f"weights.{FWPKM} is " in said
    for pair, message in (
        ("top2", "is no pair of models"),
        ("top3=" + FWPKM, "unknown model of A 'top3'"),
        ("top2=gdn", "unknown model of B 'gdn'"),
    ):
        assert run_compare(a, b, "--as", pair) == 2
        assert message in (error := capsys.readouterr().err)
        assert error.count("\n") == 1
    assert run_compare(a, b, "--as", f"top2={FWPKM}", "--as", f"{FWPKM}={FWPKM}") == 2
    assert "--as names a model twice" in capsys.readouterr().err


def run_compare(a: Path, b: Path, *more: str) -> int:
    from fwpkm_eval import cli

    return cli.main(["compare", str(a), str(b), *more])


def test_weights_that_were_trained_anew_replace_rows_not_without_a_word(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine, out = tiny_checkpoint(FWPKM, tmp_path / "mine"), tmp_path / "out"
    assert ppl(folder, str(mine), out) == 0
    first = read_source(mine).weights_hash
    assert ppl(folder, str(mine), out) == 0
    assert "other weights" not in capsys.readouterr().err
    tiny_checkpoint(FWPKM, mine, seed=1)
    assert ppl(folder, str(mine), out) == 0
    second = read_source(mine).weights_hash
    said = capsys.readouterr().err
    assert f"whose rows are replaced: {FWPKM} ({first}, now {second})" in said
    assert said.count("\n") == 2
    kept = read_rows_csv(out / "rows-before-1.csv")
    assert {row.weights_hash for row in kept if row.model == FWPKM} == {first}
    assert {row.weights_hash for row in read_rows_csv(out / "rows.csv") if row.model == FWPKM} == {second}
    manifest = load_manifest(out)
    assert manifest is not None
    assert (manifest["weights"], manifest["models"][FWPKM]["weights_hash"]) == ({FWPKM: second}, second)


@pytest.mark.parametrize(
    ("checkpoint", "shown"),
    [
        ("runs/mine", "runs/mine"),
        ("mine", "./mine"),
        ("~/mine", "CHECKPOINTS/gdn-swa-fwpkm-1"),
        ("a,b/mine", "CHECKPOINTS/gdn-swa-fwpkm-1"),
        (SHIPPED, "CHECKPOINTS/gdn-swa-fwpkm-1"),
    ],
)
def test_a_reports_commands_name_the_folder_that_the_manifest_knows(checkpoint: str, shown: str) -> None:
    row = Row(model=FWPKM, weights_hash="ab", task="gates", metric="gate_share", value=0.5, dataset="docs", tokens=1024)
    manifest = {"models": {FWPKM: {"weights_hash": "ab", "checkpoint": checkpoint}}, "config": {"command": "gates"}}
    (command, _) = commands(rows_to_frame([row]), manifest)
    assert f"--models {shown} " in command.value
    damaged = json.loads(json.dumps(manifest | {"models": {FWPKM: [1]}}))
    assert Run.from_manifest(rows_to_frame([row]), damaged).checkpoints == {}
