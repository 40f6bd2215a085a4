"""`fwpkm_eval.train` trains what the command trains, and refuses in one line what cannot be trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import SIZES
from training_cases import write_words

from fwpkm_eval import cli, load_model, train
from fwpkm_eval.errors import UserError
from fwpkm_eval.reference_models.checkpoint import read_description
from fwpkm_eval.training.savepoints import save_points

pytestmark = pytest.mark.usefixtures("one_thread")
MODEL = "gdn:pkm@0+fwpkm@1"
SETTINGS: dict[str, Any] = {
    **{name: value for name, value in SIZES.items() if name.partition(".")[0] not in ("fwmlp", "lact")},
    "fwpkm.topk": np.int64(4),
    "fwpkm.query_conv": (3,),
    "recipe.tokens": 64,
    "recipe.chunks": [16, 32],
    "recipe.warmup": 1,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_words(tmp_path_factory.mktemp("data"))


def test_it_trains_what_the_command_trains(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = train(MODEL, tmp_path / "here", settings=SETTINGS, data=data, seed=2, steps=3, needles=False, device="cpu")
    told = capsys.readouterr().err
    assert "3/3" in told
    assert "note: fwpkm.lookahead" not in told
    command = ["train", "--model", MODEL, "--data", data, "--seed", "2", "--steps", "3", "--no-needles", "--quiet"]
    chosen = (
        part for name, value in SETTINGS.items() for part in ("--set", f"{name}={json.dumps(value, default=int)}")
    )
    assert cli.main([*command, "--device", "cpu", "--out", str(tmp_path / "there"), *chosen]) == 0
    here, there = (read_description(tmp_path / name) for name in ("here", "there"))
    assert here["weights_hash"] == there["weights_hash"] == model.weights_hash
    assert here["config"] == there["config"]
    assert model.config.fwpkm.topk == 4
    assert not model.training


def test_numbers_may_be_numpys_and_folders_paths(data: str, tmp_path: Path) -> None:
    """They were kept as they came, and refused by JSON when the training was over."""
    asked: dict[str, Any] = {"settings": SETTINGS, "needles": False, "quiet": True}
    numbers: dict[str, Any] = {"seed": np.int64(2), "steps": np.int32(2)}
    model = train(MODEL, tmp_path / "one", data=Path(data), **numbers, **asked)
    assert model.weights_hash == train(MODEL, tmp_path / "two", data=data, seed=2, steps=2, **asked).weights_hash


def test_a_training_on_text_that_has_changed_since_is_another(tmp_path: Path) -> None:
    data = write_words(tmp_path / "data")
    asked: dict[str, Any] = {"settings": SETTINGS, "data": data, "steps": 1, "needles": False, "quiet": True}
    train(MODEL, tmp_path / "run", **asked)
    write_words(tmp_path / "data", seed=1)
    with pytest.raises(UserError, match="holds another model: data_hash"):
        train(MODEL, tmp_path / "run", **asked, resume=True)


def test_a_finished_training_is_loaded_and_another_is_not_written_over(data: str, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"settings": SETTINGS, "data": data, "steps": 2, "needles": False, "quiet": True}
    first = train(MODEL, tmp_path, **asked)
    assert train(MODEL, tmp_path, **asked, resume=True).weights_hash == first.weights_hash
    with pytest.raises(UserError, match="holds a finished checkpoint already"):
        train(MODEL, tmp_path, **asked)
    with pytest.raises(UserError, match="steps"):
        train(MODEL, tmp_path, **asked | {"steps": 3}, resume=True)
    assert load_model(tmp_path).weights_hash == first.weights_hash


def test_a_killed_training_goes_on(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fwpkm_eval.training import progress

    asked: dict[str, Any] = {"settings": SETTINGS, "data": data, "steps": 4, "quiet": True, "needles": False}
    whole = train(MODEL, tmp_path / "whole", **asked)
    shown = progress.TrainingProgress.show
    with monkeypatch.context() as killed:

        def stop(self: Any, report: Any) -> None:
            shown(self, report)
            if report.step == 2:
                raise KeyboardInterrupt

        killed.setattr(progress.TrainingProgress, "show", stop)
        with pytest.raises(KeyboardInterrupt):
            train(MODEL, tmp_path / "killed", **asked, save_every=0.0)
    assert save_points(tmp_path / "killed")
    with pytest.raises(UserError, match="holds an unfinished run"):
        train(MODEL, tmp_path / "killed", **asked)
    assert train(MODEL, tmp_path / "killed", **asked, resume=True).weights_hash == whole.weights_hash


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model": "gdn:fwpk"}, "unknown memory 'fwpk', did you mean fwpkm?"),
        ({"model": 3}, "model is a int; it must be a name"),
        ({"scale": "mini"}, "unknown scale 'mini'"),
        ({"settings": {"topk": 3}}, "'topk' is no setting; they are named as in fwpkm.topk"),
        ({"settings": {3: 3}}, "'3' is no setting"),
        ({"settings": {"fwpkm.tpk": 3}}, "unknown setting of fwpkm 'tpk', did you mean topk?"),
        ({"settings": {"fwmlp.hidden": 3}}, "fwmlp.hidden: gdn:fwpkm has no fwmlp"),
        ({"settings": {"recipe.steps": 3}}, "recipe.steps has an option of its own"),
        ({"settings": {"fwpkm.subkeys": "many"}}, "fwpkm.subkeys is 'many'; it must be a whole number"),
        ({"settings": ["fwpkm.topk=4"]}, "settings is a list; it must be a dict"),
        (
            {"settings": {"recipe.needle_share": 0.5}, "needles": False},
            "recipe.needle_share is of what this training is",
        ),
        ({"settings": {"recipe.exercise_steps": [1, 2, 3]}, "exercises": False}, "recipe.exercise_steps is of what"),
        ({"needles": "no"}, "needles is 'no'; it must be True or False"),
        ({"save_every": -1}, "save_every is -1; it must be at least 0"),
        ({"steps": 0}, "steps is 0; it must be at least 1"),
        ({"steps": 1.5}, "steps is 1.5; it must be a whole number"),
        ({"save_every": "often"}, "save_every is 'often'; it must be a finite number"),
        ({"seed": -1}, "seed is -1; it must be at least 0"),
        ({"data": "nowhere"}, "nowhere"),
        ({"device": "gpu"}, "gpu"),
        ({"device": 3}, "device is 3; it must be text"),
        ({"scale": 3}, "scale is 3; it must be text"),
        ({"data": 5}, "data is 5; it must be embedded, hub or a folder"),
        ({"data": Path("/nowhere")}, "nowhere"),
        ({"seed": 2**70}, r"it must be below 2\*\*32"),
        ({"settings": {"recipe.sets": 5}}, "sets is '5'; it must be text"),
    ],
)
def test_what_cannot_be_trained_is_one_line(changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"model": "gdn:fwpkm", "steps": 1, "quiet": True} | changed
    with pytest.raises(UserError, match=message.replace("?", r"\?")) as error:
        train(asked.pop("model"), tmp_path / "run", **asked)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()
