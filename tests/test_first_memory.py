"""What a memory starts from: a seed, or what training left in it where training never cleared it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from model_cases import same, small_model
from safetensors.torch import load_file, save_file
from training_cases import TINY, run, tiny_training_config, write_words

from fwpkm_eval.api import load_model
from fwpkm_eval.errors import UserError
from fwpkm_eval.reference_models.memory_layers import FwPKMLayer
from fwpkm_eval.reference_models.state_files import load_state, read_state, save_state, write_state
from fwpkm_eval.training.text_step import TextStep
from fwpkm_eval.training.trainer import STORED_DTYPES, Trainer

pytestmark = pytest.mark.usefixtures("one_thread")

PACKED = replace(TINY, layout="packed", rows=3, needle_share=0.0, answer_weight=0.0)
KEPT = {
    "gdn:fwpkm@1": ["first_keys", "first_values"],
    "gdn:fwmlp@1": ["first_b_down", "first_b_gate", "first_b_up", "first_w_down", "first_w_gate", "first_w_up"],
    "gdn:lact@1": ["first_w_down", "first_w_gate", "first_w_up"],
}


@pytest.fixture
def data(tmp_path: Path) -> str:
    return write_words(tmp_path / "data")


def kept_in(folder: Path) -> list[str]:
    names = (name.rpartition(".")[2] for name in load_file(folder / "model.safetensors"))
    return sorted(name for name in names if name.startswith("first_"))


@pytest.mark.parametrize("spec", list(KEPT))
def test_what_training_never_cleared_is_what_a_test_starts_from(spec: str, data: str, tmp_path: Path) -> None:
    """As published: fast weights are carried on from row to row, and slow weights have seen no others for long."""
    trainer = Trainer(tiny_training_config(spec), PACKED, tmp_path / "model", data)
    run(trainer)
    assert kept_in(tmp_path / "model") == KEPT[spec]
    model = load_model(tmp_path / "model")
    dtype = STORED_DTYPES["micro"]
    left = {name: tensor.to(dtype).float() for name, tensor in trainer.state.fast_weights[1].items()}
    assert same(model.initial_state().fast_weights[1], left)
    assert not same(left, small_drawn(trainer))
    # A memory that is written writes into its own.
    with torch.no_grad():
        model(torch.randint(256, (1, 200)), model.initial_state(), write_chunk=32, inplace=True)
    assert same(model.initial_state().fast_weights[1], left)
    again = load_model(tmp_path / "model", dtype="bfloat16").initial_state()
    assert all(tensor.dtype == torch.float32 for tensor in again.fast_weights[1].values())


def small_drawn(trainer: Trainer) -> dict[str, torch.Tensor]:
    """What a new model of the same seed starts from."""
    fresh = type(trainer.model)(trainer.config, seed=trainer.recipe.seed)
    return fresh.initial_state().fast_weights[1]


@pytest.mark.parametrize("spec", list(KEPT))
def test_a_state_is_stored_and_reset_to_what_it_started_from(spec: str, data: str, tmp_path: Path) -> None:
    """Without the model, whose seed no longer tells."""
    run(Trainer(tiny_training_config(spec), PACKED, tmp_path / "model", data))
    model = load_model(tmp_path / "model")
    with torch.no_grad():
        _, state = model(torch.randint(256, (1, 100)), model.initial_state(), write_chunk=32)
        model.flush(state, inplace=True)
    save_state(tmp_path / "a.state", model, state)
    stored = read_state(tmp_path / "a.state")
    assert same(stored.state.fast_weights[1], state.fast_weights[1])
    again = stored.reset()
    assert same(again.state.fast_weights[1], model.initial_state().fast_weights[1])
    write_state(tmp_path / "b.state", again)
    assert same(load_state(tmp_path / "b.state", model).fast_weights[1], model.initial_state().fast_weights[1])


def test_where_training_clears_the_memory_a_seed_is_enough(data: str, tmp_path: Path) -> None:
    run(Trainer(tiny_training_config("gdn:fwpkm@1"), TINY, tmp_path / "model", data))
    assert kept_in(tmp_path / "model") == ["first_keys"]


def test_kept_values_of_another_size_are_refused(data: str, tmp_path: Path) -> None:
    run(Trainer(tiny_training_config("gdn:fwpkm@1"), PACKED, tmp_path / "model", data))
    path = tmp_path / "model" / "model.safetensors"
    weights = load_file(path)
    (name,) = (name for name in weights if name.endswith("first_values"))
    save_file({**weights, name: weights[name][:-1].clone()}, path)
    with pytest.raises(UserError, match=r"first_values is \[\d+, \d+\], the model needs"):
        load_model(tmp_path / "model")


def test_beside_a_gpu_values_are_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing them takes longer than reading a haystack; what a memory writes into is its own all the same."""
    model = small_model("gdn:fwpkm@1").to("meta")
    layer = model.blocks[1].memory
    assert isinstance(layer, FwPKMLayer)
    drawn: list[int] = []
    draw = layer.draw

    def counted(seed: int) -> dict[str, torch.Tensor]:
        drawn.append(seed)
        return draw(seed)

    monkeypatch.setattr(layer, "draw", counted)
    first, second = layer.first_weights(3)["values"], layer.first_weights(3)["values"]
    assert first is not second
    assert first.device.type == "meta"
    assert layer.first_weights(4)["values"].shape == first.shape
    assert drawn == [3, 4]
    model.forget_drawn()
    assert layer.first_weights(4)["values"].shape == first.shape
    assert drawn == [3, 4, 4]


def test_training_keeps_no_drawn_values_beside_those_it_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model("gdn:fwpkm@1")
    layer = model.blocks[1].memory
    assert isinstance(layer, FwPKMLayer)
    layer._drawn = (0, torch.device("cuda")), {"values": torch.zeros(1)}
    TextStep(model)
    assert layer._drawn is None
