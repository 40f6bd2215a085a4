"""Save points: a training can be killed anywhere, and a full disk, damage or another run costs none of it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from training_cases import ALWAYS, TINY, contents, run, write_words
from training_cases import tiny_training_config as config

from fwpkm_eval.errors import UserError
from fwpkm_eval.reference_models import checkpoint
from fwpkm_eval.training.savepoints import RESUME, save_points
from fwpkm_eval.training.trainer import Settings, Trainer

pytestmark = pytest.mark.usefixtures("one_thread")
SPECS = ["gdn:pkm@0+fwpkm@1", "fa:fwmlp@0+lact@1"]
CHECKPOINT = ("model.json", "model.safetensors")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_words(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("spec", SPECS)
def test_a_killed_run_resumed_ends_as_one_never_killed(spec: str, data: str, tmp_path: Path) -> None:
    """Bit for bit, wherever it was killed, after its last step too; and it takes up where it stopped."""
    whole = run(Trainer(config(spec), TINY, tmp_path / "whole", data))
    expected = {name: (tmp_path / "whole" / name).read_bytes() for name in CHECKPOINT}
    for killed_after in (1, 4, 6):
        folder = tmp_path / f"killed{killed_after}"
        first = run(Trainer(config(spec), TINY, folder, data), killed_after, ALWAYS)
        assert not (folder / "model.json").exists()
        torch.manual_seed(killed_after)  # another process: another state of everything global
        resumed = Trainer(config(spec), TINY, folder, data)
        assert resumed.resume()
        second = run(resumed)
        assert [r.step for r in first + second] == [1, 2, 3, 4, 5, 6]
        assert [r.loss for r in first + second] == [r.loss for r in whole]
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == expected


def test_nothing_to_resume(data: str, tmp_path: Path) -> None:
    trainer = Trainer(config("gdn"), TINY, tmp_path / "new", data)
    assert not trainer.resume()
    assert trainer.step == 0
    assert not (tmp_path / "new").exists()


def test_another_run_is_not_resumed(data: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(Trainer(config("gdn:fwpkm@1"), TINY, folder, data), 2, ALWAYS)
    before = contents(folder / RESUME)
    for spec, changes, recipe, where, difference in (
        ("gdn:fwpkm@0", {}, TINY, data, 'config.name is "gdn:fwpkm@1" there and "gdn:fwpkm@0" here'),
        ("gdn:fwpkm@1", {"fwpkm.score": "dot"}, TINY, data, 'fwpkm.score is "idw" there and "dot" here'),
        ("gdn:fwpkm@1", {"scale": "small"}, TINY, data, 'config.scale is "micro" there and "small" here'),
        ("gdn:fwpkm@1", {}, replace(TINY, seed=1), data, "recipe.seed is 0 there and 1 here"),
        ("gdn:fwpkm@1", {}, replace(TINY, steps=7), data, "recipe.steps is 6 there and 7 here"),
        ("gdn:fwpkm@1", {}, TINY, write_words(tmp_path / "other", seed=1), "data is"),
    ):
        scale = str(changes.pop("scale", "micro"))
        other = Trainer(replace(config(spec, **changes), scale=scale), recipe, folder, where)
        weights = other.model.weights_hash
        with pytest.raises(UserError) as raised:
            other.resume()
        assert str(folder) in str(raised.value)
        assert difference in str(raised.value)
        assert "\n" not in str(raised.value)
        assert contents(folder / RESUME) == before
        assert (other.step, other.model.weights_hash) == (0, weights)


@pytest.mark.parametrize("kept", [0, 5, 1000])
@pytest.mark.parametrize("name", ["shared.safetensors", "rank-0.safetensors", "about.json"])
def test_a_damaged_save_point_is_refused(name: str, kept: int, data: str, tmp_path: Path) -> None:
    """With one line that names it, and the one to go on from without it, if there is one."""
    run(Trainer(config("gdn:fwpkm@1"), TINY, tmp_path, data), 2, ALWAYS)
    first, second = save_points(tmp_path)
    file = second / name
    file.write_bytes(file.read_bytes()[: min(kept, file.stat().st_size // 2)])
    with pytest.raises(UserError, match=f"{second.name} is damaged.*delete it to go on from {first.name}"):
        Trainer(config("gdn:fwpkm@1"), TINY, tmp_path, data).resume()
    shutil.rmtree(second)
    trainer = Trainer(config("gdn:fwpkm@1"), TINY, tmp_path, data)
    assert trainer.resume()
    assert trainer.step == 1


def test_the_last_few_save_points_are_kept(data: str, tmp_path: Path) -> None:
    for keep, left in ((1, [5]), (3, [3, 4, 5])):
        folder = tmp_path / str(keep)
        run(Trainer(config("gdn"), TINY, folder, data, Settings(keep=keep)), 5, ALWAYS)
        assert [path.name for path in save_points(folder)] == [f"step-{step:08d}" for step in left]


@pytest.mark.parametrize("fails_at", ["shared.safetensors", "rank-0.safetensors"])
def test_a_full_disk_keeps_the_last_save_point(
    fails_at: str, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run stops with one line; what was saved before is as it was and can be gone on from."""
    trainer = Trainer(config("gdn:fwpkm@1"), TINY, tmp_path, data)
    run(trainer, 2, ALWAYS)
    before = contents(tmp_path)
    write = checkpoint.save_file

    def full_disk(tensors: Any, path: Path, **options: Any) -> None:
        if fails_at not in Path(path).name:
            write(tensors, path, **options)
            return
        Path(path).write_bytes(b"half of")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "save_file", full_disk)
        with pytest.raises(UserError, match=r"step 3 cannot be saved.*No space left.*step-00000002, saved before"):
            run(trainer, None, ALWAYS)
    assert contents(tmp_path) == before
    again = Trainer(config("gdn:fwpkm@1"), TINY, tmp_path, data)
    assert again.resume()
    run(again)
    run(Trainer(config("gdn:fwpkm@1"), TINY, tmp_path / "whole", data))
    assert (tmp_path / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
