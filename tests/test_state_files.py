"""States as files: what is loaded goes on as what was saved; what does not belong or is damaged is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_cases import WITH_FAST_WEIGHTS, everything, fast_weights, same, small_model, tokens
from safetensors import safe_open
from safetensors.torch import save_file

from fwpkm_eval.errors import UserError
from fwpkm_eval.kernels.stream import ProductKeyMemory
from fwpkm_eval.reference_models import checkpoint
from fwpkm_eval.reference_models.checkpoint import load_checkpoint, save_checkpoint
from fwpkm_eval.reference_models.language_model import LanguageModel
from fwpkm_eval.reference_models.state import ModelState
from fwpkm_eval.reference_models.state_diff import diff_states
from fwpkm_eval.reference_models.state_files import Span, load_state, read_state, save_state, write_state
from fwpkm_eval.reference_models.write_log import keep_log, log_of

pytestmark = pytest.mark.usefixtures("one_thread", "no_gradients")

ONE, TWO = "gdn:fwpkm@1", "gdn+swa:pkm@2+fwpkm@0,3"


def read(model: LanguageModel, lengths: list[int], chunk: Any, state: ModelState | None = None) -> ModelState:
    """Sequences of these lengths, the last one not flushed."""
    state = state or model.initial_state()
    for number, length in enumerate(lengths):
        if number:
            state = model.flush(state).fresh_sequence()
        _, state = model(tokens(length=length, seed=number), state, write_chunk=chunk)
    return state


@given(
    spec=st.sampled_from([*WITH_FAST_WEIGHTS, TWO, "gdn+swa"]),
    lengths=st.lists(st.integers(1, 14), max_size=3),
    chunk=st.sampled_from([3, 5, "haystack"]),
    log=st.booleans(),
)
@settings(max_examples=40)
def test_a_loaded_state_goes_on_as_the_one_that_was_saved(
    tmp_path_factory: pytest.TempPathFactory, spec: str, lengths: list[int], chunk: Any, log: bool
) -> None:
    path = tmp_path_factory.mktemp("states") / "state"
    slow: dict[str, Any] = {"fwmlp.learning_rate": 0.001}  # at its own it diverges within twenty tokens
    model = small_model(spec, **slow)
    log = log and "fwpkm" in spec
    state = read(model, lengths, chunk, keep_log(model.initial_state()) if log else None)
    save_state(path, model, state)
    loaded = load_state(path, model)
    assert same(everything(loaded), everything(state))
    more = tokens(length=9, seed=7)
    ours, after = model(more, loaded, write_chunk=chunk)
    expected, after_saved = model(more, state, write_chunk=chunk)
    assert torch.equal(ours, expected)
    assert same(everything(model.flush(after)), everything(model.flush(after_saved)))
    for number, held in model.flush(after).memories.items():
        ours_log, expected_log = (log_of(x) for x in (held.memory, model.flush(after_saved).memories[number].memory))
        assert (ours_log is None) == (not log)
        assert held.memory.writes == model.flush(after_saved).memories[number].memory.writes
        if ours_log is not None and expected_log is not None:
            assert len(ours_log.writes) == held.memory.writes
            for one, other in zip(ours_log.writes, expected_log.writes, strict=True):
                assert torch.equal(one.query, other.query)
                assert torch.equal(one.target, other.target)
                assert one.query_places == other.query_places
                assert one.target_places == other.target_places


def test_only_the_slots_that_were_written_are_stored(tmp_path: Path) -> None:
    model = small_model(ONE, **{"fwpkm.subkeys": 64, "fwpkm.value_dim": 32})
    save_state(tmp_path / "fresh", model, model.initial_state())
    save_state(tmp_path / "read", model, read(model, [12, 1], 5))
    with safe_open(tmp_path / "fresh", framework="pt") as opened:
        assert opened.get_tensor("memory.1.rows").shape == (0, 32)
    changed = fast_weights(read(model, [12, 1], 5))["1.values"] != fast_weights(model.initial_state())["1.values"]
    with safe_open(tmp_path / "read", framework="pt") as opened:
        assert opened.get_tensor("memory.1.slots").tolist() == changed.any(1).nonzero().squeeze(1).tolist()
    assert (tmp_path / "read").stat().st_size < 64 * 64 * 32 * 4 / 4


def refused(path: Path, model: LanguageModel, match: str) -> None:
    with pytest.raises(UserError, match=match) as refusal:
        load_state(path, model)
    assert "\n" not in str(refusal.value)


def test_a_sequence_goes_on_only_in_the_type_that_it_was_read_in(tmp_path: Path) -> None:
    """What a memory holds is float32 in every type: a new sequence may start from it in another."""
    save_checkpoint(small_model(ONE), tmp_path / "model", {})
    narrow = load_checkpoint(tmp_path / "model", dtype=torch.bfloat16)
    wide = load_checkpoint(tmp_path / "model")
    for model, other, name in ((narrow, wide, "bfloat16"), (wide, narrow, "float32")):
        state = read(model, [8], 5)
        save_state(tmp_path / "state", model, state)
        load_state(tmp_path / "state", model)
        refused(tmp_path / "state", other, f"a sequence read in {name}.*dtype='{name}'")
        save_state(tmp_path / "state", model, state.fresh_sequence())
        loaded = load_state(tmp_path / "state", other)
        assert same(fast_weights(loaded), fast_weights(state))
        assert other(tokens(length=9), loaded)[0].isfinite().all()


def test_a_state_of_another_model_is_refused(tmp_path: Path) -> None:
    model = small_model(ONE)
    save_state(tmp_path / "state", model, read(model, [8], 5))
    refused(tmp_path / "state", small_model(ONE, seed=1), "with weights")
    refused(tmp_path / "state", small_model(TWO), "another model")
    refused(tmp_path / "state", small_model(ONE, **{"fwpkm.topk": 2}), "another model")
    with pytest.raises(UserError, match="not one of a gdn"):
        save_state(tmp_path / "other", small_model(TWO), model.initial_state())
    for mine, others in ((ONE, "gdn:lact@1"), ("gdn:lact@1", ONE), (ONE, "gdn"), ("gdn", ONE)):
        with pytest.raises(UserError, match=f"not one of a {mine}: layer 1 has another memory"):
            save_state(tmp_path / "other", small_model(mine), small_model(others).initial_state())
    assert not (tmp_path / "other").exists()


def test_files_that_are_not_states_are_refused(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "sprung"),)

    model = small_model(ONE)
    refused(tmp_path / "nothing", model, "no state file")
    refused(tmp_path, model, "not a state file")
    (tmp_path / "text").write_text("hello")
    refused(tmp_path / "text", model, "not a state file")
    torch.save({"trap": Trap()}, tmp_path / "pickle.pt")
    refused(tmp_path / "pickle.pt", model, "not a state file")
    assert not (tmp_path / "sprung").exists(), "a pickle was run"
    save_file({"x": torch.zeros(1)}, tmp_path / "tensors")
    refused(tmp_path / "tensors", model, "no description")
    for header in ("null", "[]", '{"about": 1}', '{"about": {"format": 1}, "sha256": ""}', "{"):
        save_file({"x": torch.zeros(1)}, tmp_path / "tensors", metadata={"fwpkm_eval_state": header})
        refused(tmp_path / "tensors", model, "state file|damaged")


@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(max_examples=60)
def test_a_changed_byte_is_noticed(tmp_path_factory: pytest.TempPathFactory, where: float, bit: int) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    model = small_model(ONE)
    save_state(folder / "state", model, read(model, [12], 5, keep_log(model.initial_state())))
    content = bytearray((folder / "state").read_bytes())
    content[int(where * len(content))] ^= 1 << bit
    (folder / "state").write_bytes(content)
    with pytest.raises(UserError) as refusal:
        load_state(folder / "state", model)
    assert "\n" not in str(refusal.value)


def test_a_description_that_was_made_to_fit_its_hash_is_still_checked(tmp_path: Path) -> None:
    """What a forger can do: any description with a right hash. It gets one line, never a traceback."""
    from fwpkm_eval.reference_models.state_files import _digest

    model = small_model(ONE)
    save_state(tmp_path / "state", model, read(model, [12], 5, keep_log(model.initial_state())))
    with safe_open(tmp_path / "state", framework="pt") as opened:
        about = json.loads(opened.metadata()["fwpkm_eval_state"])["about"]
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118

    def forged(change: Any) -> None:
        story, parts = json.loads(json.dumps(about)), dict(tensors)
        change(story, parts)
        header = json.dumps({"about": story, "sha256": _digest(story, parts)})
        save_file(parts, tmp_path / "forged", metadata={"fwpkm_eval_state": header})
        refused(tmp_path / "forged", model, "forged")

    changes: list[Any] = [
        lambda story, parts: story.pop("config"),
        lambda story, parts: story["config"].update(name="gdn"),
        lambda story, parts: story["config"].update(name="nonsense"),
        lambda story, parts: story.update(format=2),
        lambda story, parts: story.update(position=-1),
        lambda story, parts: story.update(position="7"),
        lambda story, parts: story.update(seed=5),
        lambda story, parts: story.update(layers={}),
        lambda story, parts: story["layers"].update({"0": {}}),
        lambda story, parts: story["layers"]["1"].update(queue=[[0, 99]]),
        lambda story, parts: story["layers"]["1"]["log"][0].update(queries=[[5, 0]]),
        lambda story, parts: story.update(spans=[{"name": "x"}]),
        lambda story, parts: story.update(spans=[{"name": "x", "start": 3, "stop": 1}]),
        lambda story, parts: parts.pop("memory.1.keys"),
        lambda story, parts: parts.update({"memory.1.keys": torch.zeros(3)}),
        lambda story, parts: parts.update({"memory.1.slots": parts["memory.1.slots"] + 64}),
        lambda story, parts: parts.update({"memory.1.rows": parts["memory.1.rows"] + 1}),
        lambda story, parts: parts.update({"memory.1.rows": parts["memory.1.rows"].double()}),
        lambda story, parts: parts.update({"log.1.0.target": torch.zeros(1)}),
    ]
    for change in changes:
        forged(change)


def test_a_save_that_fails_leaves_the_file_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model(ONE)
    save_state(tmp_path / "state", model, model.initial_state())
    before = (tmp_path / "state").read_bytes()

    def full_disk(tensors: Any, path: Path, metadata: Any) -> None:
        Path(path).write_bytes(b"half of")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full_disk)
    with pytest.raises(UserError, match=r"cannot write .*No space left"):
        save_state(tmp_path / "state", model, read(model, [8], 5))
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("state", before)]


@given(spec=st.sampled_from(WITH_FAST_WEIGHTS), length=st.integers(0, 15))
@settings(max_examples=20)
def test_states_that_are_the_same_do_not_differ(
    tmp_path_factory: pytest.TempPathFactory, spec: str, length: int
) -> None:
    path = tmp_path_factory.mktemp("same") / "state"
    model = small_model(spec)
    save_state(path, model, read(model, [length] if length else [], 4))
    a, b = read_state(path), read_state(path)
    assert all(layer.empty for layer in diff_states(a, b))
    assert len(diff_states(a, b)) == len(a.state.memories)


def test_a_difference_names_the_slots_and_says_by_how_much(tmp_path: Path) -> None:
    model = small_model(ONE)
    save_state(tmp_path / "a", model, model.initial_state())
    state = model.initial_state()
    memory = state.memories[1].memory
    assert isinstance(memory, ProductKeyMemory)
    memory.values[5, 0] += 3.0
    memory.values[5, 1] += 4.0
    memory.values[9, 2] += 0.5
    memory.keys[0, 1, 2, 0] += 2.0
    save_state(tmp_path / "b", model, state)
    (layer,) = diff_states(read_state(tmp_path / "a"), read_state(tmp_path / "b"), top=1)
    assert (layer.layer, layer.memory, layer.slots, layer.slots_changed) == (1, "fwpkm", 64, 2)
    assert (layer.subkeys, layer.subkeys_changed) == (16, 1)
    assert layer.values_change == pytest.approx(25.25**0.5, rel=1e-5)
    assert layer.keys_change == pytest.approx(2.0, rel=1e-5)
    (slot,) = layer.top
    first = model.initial_state().memories[1].memory
    assert isinstance(first, ProductKeyMemory)
    assert slot.slot == 5
    assert slot.change == pytest.approx(5.0, rel=1e-5)
    assert slot.before == pytest.approx(float(first.values[5].norm()), rel=1e-5)
    assert slot.after == pytest.approx(float(memory.values[5].norm()), rel=1e-5)


def test_states_of_two_models_are_not_compared(tmp_path: Path) -> None:
    for number, model in enumerate((small_model(ONE), small_model(ONE, seed=1), small_model(TWO))):
        save_state(tmp_path / str(number), model, model.initial_state())
    stored = [read_state(tmp_path / str(number)) for number in range(3)]
    with pytest.raises(UserError, match="different weights"):
        diff_states(stored[0], stored[1])
    with pytest.raises(UserError, match="different models"):
        diff_states(stored[0], stored[2])


@pytest.mark.parametrize("spec", [ONE, TWO, "gdn:fwmlp@1", "gdn:lact@1"])
def test_reset_is_the_state_before_anything_was_read(spec: str, tmp_path: Path) -> None:
    model = small_model(spec)
    save_state(tmp_path / "state", model, read(model, [9, 8], 5), spans=[Span("all", 0, 9)])
    write_state(tmp_path / "reset", read_state(tmp_path / "state").reset())
    loaded = load_state(tmp_path / "reset", model)
    loaded.assert_fresh()
    assert same(everything(loaded), everything(model.initial_state()))
    assert read_state(tmp_path / "reset").spans == []


def test_a_loaded_state_is_computed_as_the_model_is(tmp_path: Path) -> None:
    model = small_model(ONE)
    model.backend = "torch"
    save_state(tmp_path / "a.state", model, model.initial_state())
    loaded = load_state(tmp_path / "a.state", model)
    memory = loaded.memories[1].memory
    assert isinstance(memory, ProductKeyMemory)
    assert memory.backend == "torch"
