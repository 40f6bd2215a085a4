"""A training that is gone on with, or was finished before: what it says, and what others say of its folder."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from training_cases import ALWAYS, TINY, run, tiny_training_config, write_words

from fwpkm_eval import cli
from fwpkm_eval.api import find_checkpoint
from fwpkm_eval.data.tokenizers import ByteTokenizer
from fwpkm_eval.errors import UserError
from fwpkm_eval.reference_models.config import model_config
from fwpkm_eval.training.batches import training_text
from fwpkm_eval.training.loggers import as_report, as_row, last_reports, loggers
from fwpkm_eval.training.optimizer import learning_rate
from fwpkm_eval.training.recipe import RECIPES, lookahead_note, recipe_for
from fwpkm_eval.training.run import train_model
from fwpkm_eval.training.trainer import Diverged, StepReport, Trainer


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_words(tmp_path_factory.mktemp("words"))


def test_the_last_averages_are_of_all_steps_also_those_before_a_kill(data: str, tmp_path: Path) -> None:
    config = tiny_training_config("gdn")
    whole = train_model(config, TINY, tmp_path / "whole", data, resume=False, quiet=True)
    killed = tmp_path / "killed"
    killed.mkdir()
    trainer = Trainer(config, TINY, killed, data)
    with loggers(killed, "gdn", 0) as log:
        for report in run(trainer, steps=4, save_every_seconds=ALWAYS):
            log(report)
    resumed = train_model(config, TINY, killed, data, resume=True, quiet=True)
    assert whole is not None
    assert resumed is not None
    for name in ("document_bits", "answer_accuracy"):
        assert resumed[name] == whole[name]
    rate = resumed["tokens_per_second"]
    assert rate
    last = [json.loads(line) for line in (killed / "metrics.jsonl").read_text().splitlines()]
    new = [row for row in last if row["step"] > 4]
    assert rate == pytest.approx(sum(row["tokens"] for row in new) / last[-1]["seconds"]), "of this start alone"


def test_a_step_is_written_of_before_it_can_be_saved(data: str, tmp_path: Path) -> None:
    """Or a kill between the two leaves it out for good."""
    trainer, seen = Trainer(tiny_training_config("gdn"), TINY, tmp_path, data), []
    save = trainer.save

    def saved() -> None:
        seen.append(("saved", trainer.step))
        save()

    trainer.save = saved  # type: ignore[method-assign]
    for report in trainer.run(ALWAYS, lambda report: seen.append(("written", report.step))):
        seen.append(("told", report.step))
    assert seen[:6] == [("written", 1), ("saved", 1), ("told", 1), ("written", 2), ("saved", 2), ("told", 2)]


def test_a_training_of_which_every_step_was_dropped_is_no_checkpoint(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It said 0.000 bits per token, and left a model that had learned nothing."""
    weights = Trainer._train_step

    def dropped(self: Trainer, *given: Any) -> StepReport:
        report = weights(self, *given)
        self.diverged_steps += 1
        return replace(report, loss=math.nan, document_loss=math.nan)

    monkeypatch.setattr(Trainer, "_train_step", dropped)
    with pytest.raises(Diverged, match="not finite since step 1 "):
        train_model(tiny_training_config("gdn"), TINY, tmp_path, data, resume=False, quiet=False)
    assert "every step dropped" in capsys.readouterr().err
    assert not (tmp_path / "model.json").exists()


def test_each_step_says_its_learning_rate(data: str, tmp_path: Path) -> None:
    assert train_model(tiny_training_config("gdn"), TINY, tmp_path, data, resume=False, quiet=True)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["learning_rate"] for row in rows] == [learning_rate(TINY, step) for step in range(TINY.steps)]


def test_reports_come_back_from_what_was_written(tmp_path: Path) -> None:
    report = StepReport(3, 1.0, 2.0, math.nan, math.nan, 96, 0.5, 1.5, 1e-3, (1,))
    again = as_report(json.loads(json.dumps(as_row(report))))
    assert repr(replace(again, diverged_memories=tuple(again.diverged_memories))) == repr(report)
    older = {"step": 1, "loss": 1.0, "document_loss": 1.0, "answer_loss": None, "answer_accuracy": None, "tokens": 2}
    assert math.isnan(as_report({**older, "seconds": 1.0, "of_tomorrow": 3}).learning_rate)
    assert last_reports(tmp_path, 3) == []


def finished(folder: Path, data: str, seed: int) -> Path:
    """A folder as a finished training of gdn at scale micro leaves it, as far as a command looks at it."""
    config = model_config("gdn")
    recipe = replace(recipe_for(config, data), seed=seed)
    about = {"recipe": recipe.to_dict(), "data_hash": training_text(recipe, ByteTokenizer(), data).data_hash}
    folder.mkdir()
    stored = {"format": 1, "config": config.to_dict(), "seed": seed, "training": about}
    (folder / "model.json").write_text(json.dumps(stored))
    return folder


def test_going_on_with_what_is_finished_is_no_mistake(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A script that starts it again and again until it is done ends, too."""
    folder = finished(tmp_path / "one", data, seed=1)
    (folder / "resume" / "step-00000001").mkdir(parents=True)  # killed before it was cleared away
    command = ["train", "--model", "gdn", "--data", data, "--out", str(folder), "--resume"]
    assert cli.main([*command, "--seed", "1"]) == 0
    assert not (folder / "resume").exists()
    assert capsys.readouterr().out == f"{folder} holds this training, finished\n"
    assert cli.main([*command, "--seed", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"model": "gdn", "out": str(folder), "finished": True}
    monkeypatch.setenv("RANK", "1")
    assert cli.main([*command, "--seed", "1"]) == 0
    assert capsys.readouterr().out == ""
    monkeypatch.delenv("RANK")
    assert cli.main([*command, "--seed", "2"]) == 2
    assert "holds another model: recipe.seed is 1 there and 2 here" in capsys.readouterr().err
    assert cli.main([*command[:-1], "--seed", "1"]) == 2
    assert "holds a finished checkpoint already" in capsys.readouterr().err


def test_a_training_that_ends_in_its_warm_up_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = RECIPES["micro"]
    assert recipe.warm_up_note is None
    assert recipe.shortened(recipe.warmup).warm_up_note is None, "its last step has the rate"
    assert learning_rate(recipe, recipe.warmup - 1) == recipe.learning_rate
    assert recipe.shortened(recipe.warmup - 1).warm_up_note is not None
    assert recipe.shortened(12).warm_up_note == (
        "12 steps end within the recipe's 100 steps of warm-up: the learning rate comes to 0.00024 of 0.002"
    )
    assert cli.main(["ablate", "--steps", "20", "--dry-run"]) == 0
    assert "note: 20 steps end within the recipe's 50 steps of warm-up" in capsys.readouterr().err


def test_a_lookahead_that_leaves_chunks_without_a_write_is_told() -> None:
    recipe = RECIPES["micro"]
    assert lookahead_note(model_config("gdn+swa:fwpkm"), recipe) is None
    assert lookahead_note(model_config("gdn+swa:fwpkm", "micro", **{"fwpkm.lookahead": 63}), recipe) is None
    assert lookahead_note(model_config("gdn+swa", "micro", **{"fwpkm.lookahead": 64}), recipe) is None, (
        "it has no such memory"
    )
    assert lookahead_note(model_config("gdn+swa:fwmlp", "micro", **{"fwmlp.lookahead": 64}), recipe) == (
        "fwmlp.lookahead is 64: chunks of no more tokens write nothing, and this training has some of 64"
    )
    short = replace(recipe, chunks=(256,), exercise_tokens=(32,), exercise_steps=(9,))
    assert "some of 16" in str(lookahead_note(model_config("gdn+swa:fwpkm", "micro", **{"fwpkm.lookahead": 16}), short))


def test_the_folder_of_an_unfinished_training_is_told_as_that(data: str, tmp_path: Path) -> None:
    run(Trainer(tiny_training_config("gdn"), TINY, tmp_path / "one", data), steps=3, save_every_seconds=ALWAYS)
    with pytest.raises(UserError, match=r"its training is not finished: 'fwpkm-eval train' with its settings and"):
        find_checkpoint(tmp_path / "one")
    with pytest.raises(UserError, match="there is no such folder"):
        find_checkpoint(tmp_path / "two")
    with pytest.raises(UserError, match=r"it holds no model\.json"):
        find_checkpoint(tmp_path)
