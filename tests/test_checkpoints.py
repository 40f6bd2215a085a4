"""Checkpoints: what goes in comes out bit for bit, and whatever is damaged or foreign is refused in one line."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from model_cases import SPECS, fast_weights, same, small_config, small_model, tokens
from safetensors.torch import load_file, save_file

from fwpkm_eval.errors import UserError
from fwpkm_eval.reference_models import checkpoint
from fwpkm_eval.reference_models.checkpoint import load_checkpoint, round_weights, save_checkpoint
from fwpkm_eval.reference_models.config import ModelConfig

pytestmark = pytest.mark.usefixtures("one_thread", "no_gradients")

SPEC = "gdn+swa:pkm@2+fwpkm@0,3"
WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_checkpoint(small_model(SPEC, seed=3), tmp_path / "checkpoint", {"recipe": "none"})
    return tmp_path / "checkpoint"


@pytest.mark.parametrize("spec", SPECS)
def test_a_round_trip_changes_no_bit(spec: str, tmp_path: Path) -> None:
    model, ids = small_model(spec, seed=3), tokens(batch=2)
    save_checkpoint(model, tmp_path, {})
    loaded = load_checkpoint(tmp_path)
    assert loaded.config == model.config
    assert loaded.seed == model.seed
    assert loaded.weights_hash == model.weights_hash
    assert not loaded.training
    assert same(dict(loaded.state_dict()), dict(model.state_dict()))
    assert same(fast_weights(loaded.initial_state()), fast_weights(model.initial_state()))
    assert torch.equal(loaded(ids, None)[0], model(ids, None)[0])
    assert sorted(path.name for path in tmp_path.iterdir()) == [DESCRIPTION, WEIGHTS]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_fast_weights_start_from_the_same_numbers_in_every_dtype(folder: Path, dtype: torch.dtype) -> None:
    """float32 keys and values, not rounded to the activations' sixteen bits."""
    first = fast_weights(load_checkpoint(folder).initial_state())
    assert same(fast_weights(load_checkpoint(folder, dtype=dtype).initial_state()), first)
    assert {x.dtype for x in first.values()} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rounded_weights_are_stored_small_and_come_back_the_same(tmp_path: Path, dtype: torch.dtype) -> None:
    model = small_model(SPEC)
    save_checkpoint(model, tmp_path / "large", {})
    round_weights(model, dtype)
    save_checkpoint(model, tmp_path / "small", {}, dtype)
    loaded = load_checkpoint(tmp_path / "small")
    assert same(dict(loaded.state_dict()), dict(model.state_dict()))
    sizes = [(tmp_path / name / WEIGHTS).stat().st_size for name in ("small", "large")]
    assert sizes[0] < 0.6 * sizes[1]


def test_weights_that_do_not_fit_their_stored_dtype_are_never_stored_unreadably(tmp_path: Path) -> None:
    """Saved as float16 without rounding first: refused at once, or read back; not an error when it is too late."""
    model = small_model(SPEC)
    try:
        save_checkpoint(model, tmp_path, {}, torch.float16)
    except UserError:
        assert not (tmp_path / WEIGHTS).exists()
        return
    load_checkpoint(tmp_path)


DTYPES = [torch.float32, torch.float64, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_hash_is_the_checkpoints_in_every_type(dtype: torch.dtype, folder: Path) -> None:
    model = load_checkpoint(folder, dtype=dtype)
    assert {tensor.dtype for tensor in model.parameters()} == {dtype}
    assert model.weights_hash == json.loads((folder / DESCRIPTION).read_text())["weights_hash"]


def step_fused(weight: torch.Tensor) -> None:
    weight.grad = torch.ones_like(weight)
    torch.optim.AdamW([weight], lr=0.1, fused=True).step()
    weight.grad = None


CHANGES: dict[str, Callable[[torch.Tensor], Any]] = {
    "in place": lambda weight: weight[0].add_(1),
    "through .data": lambda weight: weight.data[1].mul_(2),
    "a new .data": lambda weight: setattr(weight, "data", weight.data.flip(0)),
    "fused optimizer": step_fused,
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
def test_a_changed_weight_is_another_hash(
    change: Callable[[torch.Tensor], Any], dtype: torch.dtype, folder: Path
) -> None:
    """However it was changed: not every way counts up the tensor's version."""
    model = load_checkpoint(folder, dtype=dtype)
    before = model.weights_hash
    assert model.weights_hash == before
    change(model.embedding.weight)
    assert model.weights_hash != before


def test_a_changed_key_or_seed_is_another_hash(folder: Path) -> None:
    model = load_checkpoint(folder, dtype=torch.bfloat16)
    hashes = {model.weights_hash}
    model.get_buffer("layers.0.memory.first_keys").data.view(-1)[3] += 1
    hashes.add(model.weights_hash)
    model.seed += 1
    hashes.add(model.weights_hash)
    assert len(hashes) == 3


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_model_loaded_in_any_type_can_be_stored_again(dtype: torch.dtype, folder: Path, tmp_path: Path) -> None:
    model = load_checkpoint(folder, dtype=dtype)
    save_checkpoint(model, tmp_path / "again", {}, dtype)
    again = load_checkpoint(tmp_path / "again", dtype=dtype)
    assert same(dict(again.state_dict()), dict(model.state_dict()))
    assert (again.weights_hash == model.weights_hash) == (dtype != torch.bfloat16)  # rounded, they are other weights


def test_values_of_fast_weights_are_not_stored_and_keys_are(folder: Path) -> None:
    stored = load_file(folder / WEIGHTS)
    assert {name for name in stored if "first_keys" in name} == {
        "layers.0.memory.first_keys",
        "layers.3.memory.first_keys",
    }
    assert not any(name.startswith("layers.0.memory.values") for name in stored)


def test_the_description_says_what_it_is(folder: Path) -> None:
    about = json.loads((folder / DESCRIPTION).read_text())
    assert about["training"] == {"recipe": "none"}
    assert about["seed"] == 3
    assert ModelConfig.from_dict(about["config"]) == small_config(SPEC)


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(UserError) as raised:
        load_checkpoint(folder)
    message = str(raised.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS)


def change_description(folder: Path, **changes: Any) -> None:
    about = json.loads((folder / DESCRIPTION).read_text())
    about.update(changes)
    (folder / DESCRIPTION).write_text(json.dumps({k: v for k, v in about.items() if v is not None}))


def test_one_changed_number_is_a_wrong_hash(folder: Path) -> None:
    def change(weights: dict[str, torch.Tensor]) -> None:
        weights["embedding.weight"][3, 4] += 1e-6

    change_weights(folder, change)
    refused(folder, WEIGHTS, "hash")


def test_another_seed_is_a_wrong_hash(folder: Path) -> None:
    """The seed decides the fast weights' values, which are not stored."""
    change_description(folder, seed=4)
    refused(folder, "hash")


@pytest.mark.parametrize("stored", ["0123456789abcdef", 7, None])
def test_a_wrong_hash_in_the_description(folder: Path, stored: Any) -> None:
    change_description(folder, weights_hash=stored)
    refused(folder, "hash")


def test_weights_of_another_model(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    save_checkpoint(small_model("gdn+swa", seed=3), other, {})
    (folder / WEIGHTS).write_bytes((other / WEIGHTS).read_bytes())
    refused(folder, WEIGHTS, "another model")


def test_weights_of_another_shape(folder: Path) -> None:
    def widen(weights: dict[str, torch.Tensor]) -> None:
        weights["layers.0.memory.q_proj.weight"] = torch.zeros(8, 25)

    change_weights(folder, widen)
    refused(folder, "layers.0.memory.q_proj.weight", "[8, 25]", "[8, 24]")


@pytest.mark.parametrize("lost", [True, False])
def test_a_tensor_too_few_or_too_many(folder: Path, lost: bool) -> None:
    def change(weights: dict[str, torch.Tensor]) -> None:
        if lost:
            del weights["layers.2.mlp.values"]
        else:
            weights["layers.9.extra"] = torch.zeros(2)

    change_weights(folder, change)
    refused(folder, "layers.2.mlp.values" if lost else "layers.9.extra", "another model")


@pytest.mark.parametrize("name", [WEIGHTS, DESCRIPTION])
def test_a_missing_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    refused(folder, str(folder), name)


def test_a_missing_folder(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "nowhere", "checkpoint")
    (tmp_path / "file").write_text("hello")
    refused(tmp_path / "file", "file")


@pytest.mark.parametrize("kept", [0, 4, 100, 0.5, -1])
@pytest.mark.parametrize("name", [WEIGHTS, DESCRIPTION])
def test_a_truncated_file(folder: Path, name: str, kept: float) -> None:
    """kept: bytes left; a share of them; or all but the last few."""
    data = (folder / name).read_bytes()
    length = int(len(data) * kept) if isinstance(kept, float) else kept if kept >= 0 else len(data) - 3
    (folder / name).write_bytes(data[:length])
    refused(folder, name)


class Bomb:
    """Unpickling this shows that a file was unpickled."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("unpickled"),))


@pytest.mark.parametrize("name", [WEIGHTS, DESCRIPTION])
def test_a_pickle_is_refused_and_not_run(
    folder: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (folder / name).write_bytes(pickle.dumps(Bomb()))
    refused(folder, name)
    if name == WEIGHTS:
        torch.save(small_model(SPEC).state_dict(), folder / name)
        refused(folder, name)
    assert not (tmp_path / "unpickled").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 2},
        {"format": None},
        {"config": None},
        {"config": "gdn"},
        {"config": {"name": "gdn"}},
        {"seed": None},
        {"seed": "three"},
        {"seed": [3]},
    ],
    ids=str,
)
def test_a_description_that_is_not_ours(folder: Path, changes: dict[str, Any]) -> None:
    change_description(folder, **changes)
    refused(folder)


@pytest.mark.parametrize("text", ["[]", "null", "3", "{}", '"gdn"', "{", "\ufeff{}"])
def test_a_description_that_is_not_a_description(folder: Path, text: str) -> None:
    (folder / DESCRIPTION).write_text(text, encoding="utf-8")
    refused(folder, DESCRIPTION)


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("fwpkm", {"topk": 9}),
        ("fwpkm", {"key_dim": 7}),
        ("fwpkm", {"score": "cosine"}),
        ("fwpkm", {"depth": 3}),
        ("backbone", {"hidden": "24"}),
        ("backbone", {"hidden": -1}),
        ("backbone", {"kv_heads": 3}),
        ("backbone", {"kv_heads": 0}),
        ("backbone", {"layers": 3}),
    ],
    ids=str,
)
def test_a_configuration_that_does_not_fit(folder: Path, part: str, changes: dict[str, Any]) -> None:
    config = json.loads((folder / DESCRIPTION).read_text())["config"]
    config[part].update(changes)
    change_description(folder, config=config)
    refused(folder)


def test_a_save_that_fails_leaves_the_checkpoint_that_was_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full_disk(tensors: dict[str, torch.Tensor], path: Path, metadata: object) -> None:
        Path(path).write_bytes(b"half of")
        raise OSError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "save_file", full_disk)
        with pytest.raises(UserError, match=r"cannot write .*space"):
            save_checkpoint(small_model(SPEC, seed=4), folder, {})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    load_checkpoint(folder)


@pytest.mark.parametrize("part", [None, [], 3, "idw", [["query_conv", 4]]])
def test_a_part_of_a_configuration_that_is_none_is_one_line(part: object) -> None:
    with pytest.raises(UserError, match="not a model configuration"):
        ModelConfig.from_dict({**small_config(SPEC).to_dict(), "fwpkm": part})


def test_a_configuration_survives_json() -> None:
    by_layer = small_config("gdn+swa:fwpkm@0,3", **{"fwpkm.query_conv": (4, 0)})
    for config in (*map(small_config, SPECS), by_layer):
        assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
