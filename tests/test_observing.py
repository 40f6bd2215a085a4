"""Who observes a memory is told what it did and where; whether anyone does changes nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_cases import WITH_FAST_WEIGHTS, everything, same, small_model, tokens
from torch import Tensor

from fwpkm_eval.kernels import closed_form as cf
from fwpkm_eval.kernels.observe import Write, first, listed, runs, shift
from fwpkm_eval.kernels.product_keys import split_query
from fwpkm_eval.kernels.stream import ProductKeyMemory
from fwpkm_eval.reference_models.language_model import LanguageModel
from fwpkm_eval.reference_models.state import ModelState
from fwpkm_eval.tasks.describe import fresh_state

pytestmark = pytest.mark.usefixtures("one_thread", "no_gradients")

ONE, TWO = "gdn:fwpkm@1", "gdn+swa:pkm@2+fwpkm@0,3"


@dataclass
class Notes:
    """An observer that writes everything down."""

    reads: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    gates: list[tuple[Tensor, int]] = field(default_factory=list)
    writes: list[Write] = field(default_factory=list)

    def read(self, slots: Tensor, weights: Tensor) -> None:
        self.reads.append((slots, weights))

    def gated(self, gate: Tensor, place: int) -> None:
        self.gates.append((gate, place))

    def wrote(self, write: Write) -> None:
        self.writes.append(write)

    def copy(self) -> Notes:
        return Notes(list(self.reads), list(self.gates), list(self.writes))


def observed(model: LanguageModel) -> ModelState:
    state = model.initial_state()
    for held in state.memories.values():
        assert isinstance(held.memory, ProductKeyMemory)
        held.memory.observer = Notes()
    return state


def notes(state: ModelState, layer: int) -> Notes:
    memory = state.memories[layer].memory
    assert isinstance(memory, ProductKeyMemory)
    assert isinstance(memory.observer, Notes)
    return memory.observer


@pytest.mark.parametrize("spec", [ONE, TWO])
@pytest.mark.parametrize("chunk", [4, "haystack"])
def test_an_observer_changes_nothing(spec: str, chunk: Any) -> None:
    model, text = small_model(spec), tokens(length=19)
    plain, state = model(text, write_chunk=chunk)
    seen, watched = model(text, observed(model), write_chunk=chunk)
    assert torch.equal(plain, seen)
    assert same(everything(model.flush(state)), everything(model.flush(watched)))


def test_reads_gates_and_writes_are_told_as_they_were_done() -> None:
    """Two calls of 7 and 6 tokens, written every 5 with lookahead 1: at 6 tokens and at 11, and the rest at the end."""
    model, text = small_model(ONE, **{"fwpkm.lookahead": 1}), tokens(length=13)
    before = model.initial_state().memories[1].memory
    assert isinstance(before, ProductKeyMemory)
    _, state = model(text[:, :7], observed(model), write_chunk=5)
    _, state = model(text[:, 7:], state, write_chunk=5)
    state = model.flush(state)
    seen = notes(state, 1)

    assert [(gate.shape[1], place) for gate, place in seen.gates] == [(7, 0), (6, 7)]
    assert sum(slots.shape[1] for slots, _ in seen.reads) == 13
    assert [(listed(w.query_places), listed(w.target_places)) for w in seen.writes] == [
        ([0, 1, 2, 3, 4], [1, 2, 3, 4, 5]),
        ([5, 6, 7, 8, 9], [6, 7, 8, 9, 10]),
        ([10, 11], [11, 12]),
    ]
    write = seen.writes[0]
    assert write.gate is not None
    assert torch.equal(write.gate, seen.gates[0][0][:, :5])
    # The slots that the first write changed are those it says, found again here from the keys as they were.
    found = cf.find_reads(split_query(write.query, 1), before.keys, before.rule.topk, before.rule.score)
    assert torch.equal(found.slots, write.slots[0])
    assert torch.equal(found.weights, write.weights[0])
    assert torch.equal(seen.reads[0][0][0, :5], write.slots[0]), "the same tokens were read with the same keys"
    before.write_pairs(write.query, write.target, write.gate)
    for later in seen.writes[1:]:
        before.write_pairs(later.query, later.target, later.gate)
    after = state.memories[1].memory
    assert isinstance(after, ProductKeyMemory)
    assert torch.equal(before.values, after.values)
    assert torch.equal(before.keys, after.keys)
    assert (before.writes, after.writes) == (3, 3)


def test_no_token_is_stored_with_one_from_beyond_what_was_only_read() -> None:
    """What waits when the stream goes on elsewhere is written with the targets it has."""
    model, text = small_model(ONE), tokens(length=10)
    _, state = model(text[:, :3], observed(model), write_chunk="haystack")
    _, state = model(text[:, 3:6], state, updates="off")
    state.origin = 100
    _, state = model(text[:, 6:], state, write_chunk="haystack")
    writes = notes(model.flush(state), 1).writes
    assert [listed(write.query_places) for write in writes] == [[0, 1], [106, 107, 108]]
    assert [listed(write.target_places) for write in writes] == [[1, 2], [107, 108, 109]]


def test_a_copy_is_observed_on_its_own() -> None:
    model, text = small_model(ONE), tokens(length=6)
    _, state = model(text, observed(model))
    _, further = model(text, state)
    assert len(notes(state, 1).gates) == 1
    assert len(notes(further, 1).gates) == 2


@given(st.lists(st.integers(0, 30), max_size=20), st.integers(0, 25))
@settings(max_examples=50)
def test_places_in_runs(places: list[int], count: int) -> None:
    assert listed(runs(places)) == places
    assert listed(first(runs(places), count)) == places[:count]
    assert listed(shift(runs(places), count)) == places[count:]


@pytest.mark.parametrize("spec", [*WITH_FAST_WEIGHTS, "fa"])
def test_a_state_is_fresh_until_something_was_read(spec: str) -> None:
    model = small_model(spec)
    state = fresh_state(model)
    _, read_only = model(tokens(length=3), state, updates="off")
    state.assert_fresh()
    with pytest.raises(RuntimeError, match="position 3"):
        read_only.assert_fresh()


@pytest.mark.parametrize("updates", ["stream", "scan"])
@pytest.mark.parametrize("spec", ["gdn:fwpkm@1", "gdn:fwmlp@1", "gdn:lact@1"])
def test_a_memory_that_was_written_to_is_not_fresh(spec: str, updates: Any) -> None:
    model = small_model(spec)
    _, state = model(tokens(length=12), updates=updates)
    state = model.flush(state).fresh_sequence()
    with pytest.raises(RuntimeError, match=r"\d writes in layer 1"):
        state.assert_fresh()
    with pytest.raises(RuntimeError, match=r"\d writes in layer 1"):
        state.copy().assert_fresh()


def test_a_model_that_hands_out_a_used_state_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model(ONE)
    _, used = model(tokens(length=12))
    monkeypatch.setattr(model, "initial_state", lambda batch_size: used)
    with pytest.raises(RuntimeError, match="a fresh state is needed"):
        fresh_state(model)
