"""Forgetting gives, bit for bit, the memory of a run in which the span was not stored from the start."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_cases import everything, same, small_model, tokens
from scan_cases import Case
from torch import Tensor

from fwpkm_eval import load_model
from fwpkm_eval.data.tokenizers import ByteTokenizer
from fwpkm_eval.errors import UserError
from fwpkm_eval.kernels.stream import ProductKeyMemory, WriteQueue, flush, read_and_queue
from fwpkm_eval.reference_models.language_model import LanguageModel
from fwpkm_eval.reference_models.memory_layers import FwPKMLayer
from fwpkm_eval.reference_models.state import ModelState
from fwpkm_eval.reference_models.state_files import Span, load_state, read_state, save_state
from fwpkm_eval.reference_models.stored_state import StoredState
from fwpkm_eval.reference_models.write_log import KEYS, Keys, LoggedWrite, WriteLog, forget, keep_log, log_of
from fwpkm_eval.tasks.memorise import memorise
from fwpkm_eval.tasks.reading import Exam, Reader

pytestmark = pytest.mark.usefixtures("one_thread", "no_gradients")

TOKENS = 24
ONE, TWO = "gdn:fwpkm@1", "gdn+swa:pkm@2+fwpkm@0,3"


def streams(case: Case) -> tuple[dict[str, Any], ProductKeyMemory]:
    """The inputs of a stream, and its memory before it."""
    inputs = case.inputs()
    return inputs, ProductKeyMemory(inputs["keys"].clone(), inputs["values"].clone(), case.rule)


def run(first: ProductKeyMemory, inputs: dict[str, Any], gate: Tensor | None, chunk: int | None) -> ProductKeyMemory:
    """The whole stream read twice, each reading flushed; the memory logs its writes."""
    memory = first.copy()
    memory.observer = WriteLog()
    for _ in range(2):
        queue = WriteQueue()
        read_and_queue(memory, queue, inputs["query"], inputs["target"], gate, chunk)
        flush(memory, queue)
    return memory


def same_memory(a: ProductKeyMemory, b: ProductKeyMemory) -> bool:
    return torch.equal(a.keys, b.keys) and torch.equal(a.values, b.values) and a.writes == b.writes


@given(
    lookahead=st.integers(0, 3),
    gated=st.booleans(),
    score=st.sampled_from(["idw", "dot"]),
    addressing=st.sampled_from(["entropy", "none"]),
    chunk=st.sampled_from([5, 8, None]),
    ends=st.tuples(st.integers(0, TOKENS + 3), st.integers(0, TOKENS + 3)),
)
@settings(max_examples=60)
def test_a_forgotten_span_was_never_stored(
    lookahead: int, gated: bool, score: Any, addressing: Any, chunk: int | None, ends: tuple[int, int]
) -> None:
    """The run it must equal has gate 0 at the span, and at the L tokens before it, whose targets lie in it."""
    case = replace(Case(tokens=TOKENS, batch=1, heads=2, subkeys=6, topk=3), lookahead=lookahead)
    case = replace(case, score=score, addressing=addressing)
    inputs, first = streams(case)
    gate = inputs["gate"] if gated else None
    span = range(min(ends), max(ends))
    closed = torch.ones(1, TOKENS, dtype=first.values.dtype) if gate is None else gate.clone()
    closed[:, span.start : span.stop] = 0
    for ahead in [lookahead] * bool(len(span)):
        closed[:, max(0, span.start - ahead) : max(0, span.stop - ahead)] = 0

    memory = run(first, inputs, gate, chunk)
    before = memory.copy()
    ours = forget(first, memory, span)
    assert same_memory(ours, run(first, inputs, closed, chunk))
    assert same_memory(memory, before), "what is forgotten from is left as it was"
    if addressing == "entropy":
        assert torch.equal(ours.keys, memory.keys), "keys keep their steps"
    log, log_before = log_of(ours), log_of(memory)
    assert log is not None
    assert log_before is not None
    assert len(log.writes) == len(log_before.writes)


@given(
    lookahead=st.integers(0, 2),
    chunk=st.sampled_from([5, 8, None]),
    a=st.integers(0, TOKENS),
    b=st.integers(0, TOKENS),
    c=st.integers(0, TOKENS),
    keys=st.sampled_from(["kept", "undone"]),
)
@settings(max_examples=40)
def test_forgetting_in_two_steps_is_forgetting_at_once(
    lookahead: int, chunk: int | None, a: int, b: int, c: int, keys: Keys
) -> None:
    inputs, first = streams(replace(Case(tokens=TOKENS, batch=1, subkeys=6, topk=3), lookahead=lookahead))
    memory = run(first, inputs, inputs["gate"], chunk)
    a, b, c = sorted((a, b, c))
    one_by_one = forget(first, forget(first, memory, range(b, c), keys), range(a, b), keys)
    assert same_memory(one_by_one, forget(first, memory, range(a, c), keys))


@pytest.mark.parametrize("keys", ["kept", "undone"])
@pytest.mark.parametrize("chunk", [5, None])
def test_forgetting_nothing_and_everything(keys: Keys, chunk: int | None) -> None:
    inputs, first = streams(Case(tokens=TOKENS, batch=1, subkeys=6, topk=3))
    memory = run(first, inputs, inputs["gate"], chunk)
    assert not torch.equal(memory.values, first.values)
    assert same_memory(forget(first, memory, range(7, 7), keys), memory)
    empty = forget(first, memory, range(TOKENS), keys)
    assert torch.equal(empty.values, first.values)
    assert torch.equal(empty.keys, memory.keys if keys == "kept" else first.keys)
    assert empty.writes == (memory.writes if keys == "kept" else 0)


def test_undone_pairs_are_left_out_of_their_writes() -> None:
    """Against writes made by hand of the pairs that stay; the counts and the mean of the key step are theirs alone."""
    inputs, first = streams(Case(tokens=TOKENS, batch=1, subkeys=6, topk=3))
    memory = first.copy()
    memory.observer = WriteLog()
    queue = WriteQueue()
    read_and_queue(memory, queue, inputs["query"], inputs["target"], inputs["gate"], 8)
    flush(memory, queue)
    expected = first.copy()
    for start, stop in ((0, 8), (8, 16), (16, 23)):
        stays = [t for t in range(start, stop) if not (t in range(6, 12) or t + 1 in range(6, 12))]
        ahead = [t + 1 for t in stays]
        expected.write_pairs(inputs["query"][:, stays], inputs["target"][:, ahead], inputs["gate"][:, stays])
    assert same_memory(forget(first, memory, range(6, 12), "undone"), expected)


@pytest.mark.parametrize("keys", ["kept", "undone"])
def test_the_log_does_not_remember_what_was_forgotten(keys: Keys) -> None:
    inputs, first = streams(Case(tokens=TOKENS, batch=1, subkeys=6, topk=3))
    memory = run(first, inputs, inputs["gate"], 8)
    secret = inputs["target"][0, 10]

    def holds(log: WriteLog | None) -> bool:
        assert log is not None
        return any((write.target[0] == secret).all(1).any() for write in log.writes)

    assert holds(log_of(memory))
    assert not holds(log_of(forget(first, memory, range(10, 11), keys)))


def stored(model: LanguageModel, state: ModelState, path: Path, spans: Any = ()) -> StoredState:
    save_state(path, model, state, spans=spans)
    return read_state(path)


def read(model: LanguageModel, text: Tensor, chunk: Any, passes: int = 2) -> ModelState:
    state = keep_log(model.initial_state())
    for _ in range(passes):
        _, state = model(text, state.fresh_sequence(), write_chunk=chunk)
        state = model.flush(state)
    return state


@pytest.mark.parametrize("chunk", [5, "haystack"])
def test_a_model_with_closed_gates_has_the_memory_after_forgetting(
    chunk: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One memory, so that nothing it reads comes back in what it is given."""
    model, text = small_model(ONE), tokens(length=TOKENS)
    forgotten = stored(model, read(model, text, chunk), tmp_path / "state").forget(Span("", 8, 13))
    project = FwPKMLayer.project

    def with_closed_gates(layer: FwPKMLayer, x: Tensor, past: Tensor | None) -> Any:
        q, v, gate, past = project(layer, x, past)
        return q, v, gate.index_fill(1, torch.arange(7, 13), 0), past

    monkeypatch.setattr(FwPKMLayer, "project", with_closed_gates)
    expected = read(model, text, chunk).fresh_sequence()
    assert same(everything(forgotten.state), everything(expected))


@pytest.mark.parametrize("keys", ["kept", "undone"])
def test_forgetting_in_every_layer_and_reading_on(keys: Keys, tmp_path: Path) -> None:
    model, text = small_model(TWO), tokens(length=TOKENS)
    whole = stored(model, read(model, text, 5), tmp_path / "whole", [Span("a", 0, 9), Span("b", 9, TOKENS)])
    part = whole.forget(whole.span("b"), keys)
    assert [span.name for span in part.spans] == ["a"]
    assert part.forgotten == [Span("b", 9, TOKENS)]
    assert part.tokens_read == whole.tokens_read
    for number, held in part.state.memories.items():
        before, first = whole.state.memories[number].memory, whole.first_memory(number)
        assert isinstance(held.memory, ProductKeyMemory)
        assert isinstance(before, ProductKeyMemory)
        assert isinstance(first, ProductKeyMemory)
        assert not torch.equal(held.memory.values, before.values)
        assert not torch.equal(held.memory.values, first.values)
    nothing = part.forget(whole.span("a"), keys)
    if keys == "undone":
        nothing.state.assert_fresh()
        again = read(model, text, 5)
        _, state = model(text, nothing.state, write_chunk=5)
        _, state = model(text, model.flush(state).fresh_sequence(), write_chunk=5)
        assert same(everything(model.flush(state)), everything(again)), "what was forgotten can be read anew"


def test_a_trained_model_knows_a_secret_until_it_is_forgotten() -> None:
    """Closed book: the question alone, with fresh attention and recurrent state."""
    model, tokenizer = load_model("gdn+swa:fwpkm@1,3"), ByteTokenizer()
    prose = "".join(f"In the year {year} it was the best of times, in {year + 3} the worst. " for year in range(9))
    pieces = [tokenizer.encode(text) for text in (prose, " The secret number for ID-ab12 is 493817. ", prose)]
    state = memorise(model, np.concatenate(pieces), keep_log(model.initial_state()), passes=2, write_chunk=128)
    secret = Span("secret", len(pieces[0]), len(pieces[0]) + len(pieces[1]))
    first = {number: {"keys": model.blocks[number].memory.first_keys} for number in (1, 3)}
    held = StoredState(model.config, model.seed, model.weights_hash, state.fresh_sequence(), first)
    question, answer = (
        torch.from_numpy(tokenizer.encode(text))[None] for text in ("The secret number for ID-ab12 is ", "493817")
    )

    def answered(state: ModelState) -> str:
        exam = Exam(question, question, answer)
        return tokenizer.decode(np.array(Reader(model, 128).answer(state.fresh_sequence(), exam).tokens))

    assert answered(held.state) == "493817"
    for keys in KEYS:
        digits = answered(held.forget(secret, keys).state)
        assert sum(a == b for a, b in zip(digits, "493817", strict=True)) <= 2
    assert answered(held.forget(Span("prose", 0, secret.start - 1)).state) == "493817", "nothing else is forgotten"


def test_what_cannot_be_forgotten_exactly_is_refused(tmp_path: Path) -> None:
    model, text = small_model(ONE), tokens(length=12)
    span = Span("", 0, 4)
    _, queued = model(text, keep_log(model.initial_state()), write_chunk=5)
    with pytest.raises(UserError, match="2 tokens wait to be written"):
        stored(model, queued, tmp_path / "queued").forget(span)
    _, unlogged = model(text)
    with pytest.raises(UserError, match="no write log"):
        stored(model, model.flush(unlogged), tmp_path / "unlogged").forget(span)
    tampered = stored(model, read(model, text, 5), tmp_path / "state")
    log = log_of(tampered.state.memories[1].memory)
    assert log is not None
    write = log.writes[0]
    log.writes[0] = LoggedWrite(write.query, write.target + 1, write.gate, write.query_places, write.target_places)
    with pytest.raises(UserError, match="bit for bit"):
        tampered.forget(span)
    with pytest.raises(UserError, match="unknown keys 'keep', did you mean kept"):
        stored(model, read(model, text, 5), tmp_path / "state").forget(span, "keep")  # type: ignore[arg-type]


def test_what_cannot_be_logged_is_refused() -> None:
    for spec, reason in (("gdn:fwmlp@1", "holds fwmlp"), ("gdn:lact@1", "holds lact"), ("gdn", "no fast")):
        with pytest.raises(UserError, match=reason):
            keep_log(small_model(spec).initial_state())
    model = small_model(ONE)
    _, state = model(tokens(length=12))
    with pytest.raises(RuntimeError, match="fresh"):
        keep_log(state)
    with pytest.raises(UserError, match="batch of 2"):
        model(tokens(batch=2, length=12), keep_log(model.initial_state(2)))


def test_a_copy_of_a_state_logs_on_its_own(tmp_path: Path) -> None:
    model, text = small_model(ONE), tokens(length=12)
    state = read(model, text, 5)
    _, further = model(text, state.fresh_sequence(), write_chunk=5)
    logs = [log_of(each.memories[1].memory) for each in (state, further)]
    assert [len(log.writes) for log in logs if log is not None] == [6, 8]
    save_state(tmp_path / "state", model, state)
    assert load_state(tmp_path / "state", model).memories[1].memory.writes == 6
