"""Streaming memories: how a stream is cut changes nothing, and a token never sees what it may not see yet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lact_cases import LaCTCase
from naive_memory import NaiveMemory, NaiveStream
from scan_cases import Case
from tolerances import assert_close
from torch import Tensor

from fwpkm_eval.errors import UserError
from fwpkm_eval.kernels import closed_form
from fwpkm_eval.kernels.fwmlp import FwMLPRule
from fwpkm_eval.kernels.lact import LaCTRule
from fwpkm_eval.kernels.observe import Places
from fwpkm_eval.kernels.stream import DenseMemory, ProductKeyMemory, WriteQueue, flush, read_and_queue
from fwpkm_eval.kernels.types import MemoryRule

pytestmark = pytest.mark.usefixtures("poisoned_memory", "one_thread")

AnyMemory = ProductKeyMemory | DenseMemory
TOKENS = 40


@dataclass
class Stream:
    """One stream's tokens, its memory and its queue."""

    memory: AnyMemory
    query: Tensor
    target: Tensor
    gate: Tensor | None
    chunk: int | None
    queue: WriteQueue = field(default_factory=WriteQueue)
    position: int = 0

    def feed(self, count: int) -> Tensor:
        """Reads the next tokens; returns their outputs."""
        part = slice(self.position, self.position + count)
        gate = None if self.gate is None else self.gate[:, part]
        self.position += count
        return read_and_queue(self.memory, self.queue, self.query[:, part], self.target[:, part], gate, self.chunk)

    def feed_all(self, cuts: list[int] | None = None) -> Tensor:
        """Everything, cut before the tokens in `cuts`."""
        edges = sorted({0, *(cuts or []), self.query.shape[1]})
        return torch.cat([self.feed(stop - start) for start, stop in pairwise(edges)], 1)

    def flush(self) -> None:
        flush(self.memory, self.queue)


def fast_weights(memory: AnyMemory) -> dict[str, Tensor]:
    if isinstance(memory, ProductKeyMemory):
        return {"keys": memory.keys, "values": memory.values}
    return memory.weights


def same_queue(ours: WriteQueue, expected: WriteQueue) -> bool:
    """Whether the same tokens wait, in whatever pieces."""
    if ours.tokens != expected.tokens:
        return False
    for i in range(3):
        a, b = ([x for piece in queue.pieces if isinstance(x := piece[i], Tensor)] for queue in (ours, expected))
        if bool(a) != bool(b) or (a and not torch.equal(torch.cat(a, 1), torch.cat(b, 1))):
            return False
    return True


def fwpkm_stream(chunk: int | None, **changes: Any) -> Stream:
    case = replace(Case(tokens=TOKENS, batch=2, heads=2, subkeys=6, topk=3), **changes)
    inputs = case.inputs()
    memory = ProductKeyMemory(inputs["keys"], inputs["values"], case.rule)
    return Stream(memory, inputs["query"], inputs["target"], inputs["gate"], chunk)


def fwmlp_stream(chunk: int | None, lookahead: int = 1, target_rule: Any = "mean", **_: Any) -> Stream:
    draw = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float64) * shape[-1] ** -0.5

    weights = {"w_up": normal(6, 4), "b_up": normal(6), "w_gate": normal(6, 4), "b_gate": normal(6)}
    weights |= {"w_down": normal(3, 6), "b_down": normal(3)}
    memory = DenseMemory(weights, FwMLPRule(lookahead, target_rule, learning_rate=0.5))
    return Stream(memory, normal(2, TOKENS, 4), normal(2, TOKENS, 3), None, chunk)


def lact_stream(chunk: int | None, lookahead: int = 1, target_rule: Any = "next", **_: Any) -> Stream:
    query, target, rates, weights = LaCTCase(tokens=TOKENS).inputs()
    return Stream(DenseMemory(weights, LaCTRule(lookahead, target_rule)), query, target, rates, chunk)


MAKERS: dict[str, Callable[..., Stream]] = {
    "fwpkm": fwpkm_stream,
    "fwpkm-dot": lambda chunk, **s: fwpkm_stream(chunk, score="dot", **s),
    "fwpkm-no-entropy": lambda chunk, **s: fwpkm_stream(chunk, addressing="none", **s),
    "fwpkm-no-gate": lambda chunk, **s: fwpkm_stream(chunk, gated=False, **s),
    "fwmlp-mean": fwmlp_stream,
    "fwmlp-next": lambda chunk, **s: fwmlp_stream(chunk, target_rule="next", **s),
    "lact-mean": lambda chunk, **s: lact_stream(chunk, target_rule="mean", **s),
    "lact-next": lact_stream,
}
kinds = pytest.mark.parametrize("kind", MAKERS)


@settings(max_examples=100)
@given(
    kind=st.sampled_from(sorted(MAKERS)),
    chunk=st.one_of(st.none(), st.integers(1, TOKENS + 2)),
    lookahead=st.integers(0, 3),
    cuts=st.lists(st.integers(1, TOKENS - 1), max_size=12, unique=True),
)
def test_cutting_a_stream_anywhere_changes_nothing(
    kind: str, chunk: int | None, lookahead: int, cuts: list[int]
) -> None:
    whole, cut = (MAKERS[kind](chunk, lookahead=lookahead) for _ in range(2))
    assert_close("stream.split", cut.feed_all(cuts), whole.feed_all(), "outputs")
    for _ in range(2):
        assert same_queue(cut.queue, whole.queue)
        for name, expected in fast_weights(whole.memory).items():
            assert_close("stream.split", fast_weights(cut.memory)[name], expected, name)
        whole.flush()
        cut.flush()


@kinds
def test_one_token_at_a_time(kind: str) -> None:
    """The extreme cut; and no more than chunk + lookahead − 1 tokens ever wait after a call."""
    whole, cut = (MAKERS[kind](5, lookahead=2) for _ in range(2))
    outputs = []
    for _ in range(TOKENS):
        outputs.append(cut.feed(1))
        assert cut.queue.tokens < 5 + 2
    assert_close("stream.split", torch.cat(outputs, 1), whole.feed_all())


@pytest.mark.parametrize("chunk", [1, 4, 9, None])
@pytest.mark.parametrize("lookahead", [0, 1, 3])
@pytest.mark.parametrize("kind", [kind for kind in MAKERS if kind.startswith("fwpkm")])
def test_agrees_with_loops_over_the_equations(kind: str, lookahead: int, chunk: int | None) -> None:
    """Reads at once; writes of C tokens once C + L wait, with their true targets; then the flush."""
    stream = MAKERS[kind](chunk, lookahead=lookahead, tokens=15, batch=1, subkeys=4)
    memory = stream.memory
    assert isinstance(memory, ProductKeyMemory)
    rule = memory.rule
    naive = NaiveMemory(memory.keys.numpy().copy(), memory.values.numpy().copy(), rule.topk, rule.score)
    naive.addressing = rule.addressing
    loops = NaiveStream(naive, lookahead, chunk)
    outputs = []
    for t in range(15):
        gate = 1.0 if stream.gate is None else float(stream.gate[0, t])
        outputs.append(loops.feed(stream.query[0, t].numpy(), stream.target[0, t].numpy(), gate))
    read = stream.feed_all([4, 11])
    for t, output in enumerate(outputs):
        assert_close("stream.oracle", read[0, t], torch.from_numpy(output), f"token {t}")
    assert stream.queue.tokens == len(loops.queue)
    stream.flush()
    loops.flush()
    assert_close("stream.oracle", memory.values, torch.from_numpy(naive.values), "values")
    assert_close("stream.oracle", memory.keys, torch.from_numpy(naive.keys), "keys")


@pytest.mark.parametrize("lookahead", [0, 1, 3])
@kinds
def test_a_token_is_seen_only_after_its_chunk_is_complete(kind: str, lookahead: int) -> None:
    """Changing token p's target changes nothing before the write that uses it, and something after."""
    chunk = 7
    for place in (0, 3, 6, 7, 8, 20):
        before, after = MAKERS[kind](chunk, lookahead=lookahead), MAKERS[kind](chunk, lookahead=lookahead)
        after.target[:, place] += 1
        ours, expected = after.feed_all(), before.feed_all()
        # v_p is the target of p − L ("mean" spreads it over p − L … p: the first of them decides).
        user = max(place - lookahead, 0)
        seen = (user // chunk + 1) * chunk + lookahead
        assert torch.equal(ours[:, :seen], expected[:, :seen])
        if place >= lookahead or kind.endswith("-mean"):
            assert not torch.equal(ours[:, seen:], expected[:, seen:])
        else:
            assert torch.equal(ours, expected)  # nobody's target: too early for the lookahead


@kinds
def test_a_query_changes_its_own_read_and_those_after_its_write(kind: str) -> None:
    chunk, place = 7, 9
    before, after = MAKERS[kind](chunk), MAKERS[kind](chunk)
    after.query[:, place] += 1
    ours, expected = after.feed_all(), before.feed_all()
    changed = (ours != expected).any(-1).any(0)
    assert changed[place]
    assert not changed[:place].any()
    assert not changed[place + 1 : 2 * chunk + 1].any()
    assert changed[2 * chunk + 1 :].any()


@kinds
def test_reading_changes_no_memory(kind: str) -> None:
    stream = MAKERS[kind](None)
    before = {name: x.clone() for name, x in fast_weights(stream.memory).items()}
    stream.memory.read(stream.query)
    stream.feed_all([13])
    assert stream.queue.tokens == TOKENS
    assert all(torch.equal(x, before[name]) for name, x in fast_weights(stream.memory).items())


@kinds
def test_a_flush_writes_what_has_a_target_and_empties_the_queue(kind: str) -> None:
    stream, twice = MAKERS[kind](8, lookahead=2), MAKERS[kind](8, lookahead=2)
    for one in (stream, twice):
        one.feed(13)  # one write of 8 at token 10; tokens 8 to 12 wait
        assert one.queue.tokens == 5
    before = {name: x.clone() for name, x in fast_weights(stream.memory).items()}
    stream.flush()
    assert stream.queue.tokens == 0
    assert all(not torch.equal(x, before[name]) for name, x in fast_weights(stream.memory).items())
    twice.flush()
    twice.flush()
    for name, expected in fast_weights(stream.memory).items():
        assert torch.equal(fast_weights(twice.memory)[name], expected)


@pytest.mark.parametrize("waiting", [0, 1, 2])
@kinds
def test_a_flush_without_targets_writes_nothing(kind: str, waiting: int) -> None:
    stream = MAKERS[kind](8, lookahead=2)
    if waiting:
        stream.feed(waiting)
    before = {name: x.clone() for name, x in fast_weights(stream.memory).items()}
    stream.flush()
    assert stream.queue.tokens == 0
    assert all(torch.equal(x, before[name]) for name, x in fast_weights(stream.memory).items())


@kinds
def test_without_lookahead_a_stream_is_a_scan(kind: str) -> None:
    """L = 0: writes fall where a scan's chunks end, and the flush is its ragged last chunk."""
    rule: Any
    if kind.startswith("fwmlp"):
        from fwpkm_eval.kernels.fwmlp import fwmlp_scan

        rule = kind.removeprefix("fwmlp-")
        stream = fwmlp_stream(9, lookahead=0, target_rule=rule)
        result: Any = fwmlp_scan(
            stream.query,
            stream.target,
            fast_weights(stream.memory),
            lookahead=0,
            target_rule=rule,
            chunk_size=9,
            learning_rate=0.5,
        )
        expected = result.weights
    elif kind.startswith("lact"):
        from fwpkm_eval.kernels.lact import lact_scan

        stream, rule = MAKERS[kind](9, lookahead=0), kind.removeprefix("lact-")
        inputs = (stream.query, stream.target, stream.gate, fast_weights(stream.memory))
        result = lact_scan(*inputs, lookahead=0, target_rule=rule, chunk_size=9)
        expected = result.weights
    else:
        from fwpkm_eval.kernels.fwpkm import fwpkm_scan

        stream = MAKERS[kind](9, lookahead=0)
        assert isinstance(stream.memory, ProductKeyMemory)
        result = fwpkm_scan(
            stream.query,
            stream.target,
            stream.gate,
            stream.memory.keys,
            stream.memory.values,
            **vars(stream.memory.rule),
            chunk_size=9,
            backend="reference",
        )
        expected = {"keys": result.keys, "values": result.values}
    assert_close("stream.split", stream.feed_all([5, 17]), result.output)
    stream.flush()
    for name, x in fast_weights(stream.memory).items():
        assert_close("stream.split", x, expected[name], name)


@pytest.mark.parametrize("kind", [kind for kind in MAKERS if kind.startswith("fwpkm")])
@pytest.mark.parametrize("block", [1, 7, 39])
def test_a_haystack_written_in_blocks_is_the_same(kind: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole haystack as one chunk is looked up and written block by block."""
    whole, blocks = MAKERS[kind](None), MAKERS[kind](None)
    expected = whole.feed_all()
    whole.flush()
    monkeypatch.setattr(closed_form, "LOOKUP_BLOCK", block)
    assert_close("stream.split", blocks.feed_all([11]), expected)
    blocks.flush()
    for name, x in fast_weights(blocks.memory).items():
        assert_close("stream.split", x, fast_weights(whole.memory)[name], name)


@kinds
def test_copies_are_independent(kind: str) -> None:
    stream = MAKERS[kind](8)
    stream.feed(13)
    before = {name: x.clone() for name, x in fast_weights(stream.memory).items()}
    copy = replace(stream, memory=stream.memory.copy(), queue=stream.queue.copy())
    copy.feed(20)
    copy.flush()
    assert stream.queue.tokens == 5
    assert all(torch.equal(x, before[name]) for name, x in fast_weights(stream.memory).items())
    # And the original goes on as if there had been no copy.
    alone = MAKERS[kind](8)
    alone.feed(13)
    assert_close("stream.split", stream.feed(20), alone.feed(20))


def test_the_published_count_is_copied_too() -> None:
    """count="read": reads since the last write are part of the state."""
    case = Case(tokens=TOKENS)
    inputs = case.inputs()
    memory = ProductKeyMemory(inputs["keys"], inputs["values"], case.rule, "read")
    stream = Stream(memory, inputs["query"], inputs["target"], inputs["gate"], 8)
    stream.feed(13)
    copy = replace(stream, memory=memory.copy(), queue=stream.queue.copy())
    for one in (stream, copy):
        one.feed(10)
        one.flush()
    assert torch.equal(fast_weights(copy.memory)["values"], memory.values)


class CountingMemory:
    """Refuses to be read forever."""

    lookahead = 1

    def __init__(self) -> None:
        self.reads, self.written = 0, 0

    def read(self, query: Tensor) -> Tensor:
        self.reads += 1
        assert self.reads < 100, "the stream does not come to an end"
        return query

    def write(self, query: Tensor, target: Tensor, gate: Tensor | None, places: Places = ()) -> None:
        assert target.shape[1] == query.shape[1] + 1
        self.written += query.shape[1]


@pytest.mark.parametrize("first", [8, 30, None])
@pytest.mark.parametrize("second", [1, 4, 8])
def test_a_shorter_chunk_after_a_longer_one(first: int | None, second: int) -> None:
    """More tokens may wait than the new chunk takes: they are written with it, none lost and none twice."""
    memory, queue = CountingMemory(), WriteQueue()
    tokens = torch.randn(1, 50, 3, dtype=torch.float64)
    head, tail = tokens[:, :20], tokens[:, 20:]
    read = [read_and_queue(memory, queue, head, head, None, first)]
    read.append(read_and_queue(memory, queue, tail, tail, None, second))
    assert torch.equal(torch.cat(read, 1), tokens)
    assert queue.tokens <= second
    assert memory.written + queue.tokens == 50
    flush(memory, queue)
    assert memory.written == 49


@pytest.mark.parametrize("chunk", [0, -1, -30])
def test_a_chunk_must_hold_a_token(chunk: int) -> None:
    tokens = torch.randn(1, 5, 3)
    with pytest.raises(UserError) as raised:
        read_and_queue(CountingMemory(), WriteQueue(), tokens, tokens, None, chunk)
    assert str(chunk) in str(raised.value)


def test_activations_of_low_precision_are_written_in_float32() -> None:
    inputs = Case(tokens=TOKENS).inputs(torch.float32)
    low = {name: inputs[name].bfloat16() for name in ("query", "target", "gate")}
    found = []
    for given_ in (low, {name: x.float() for name, x in low.items()}):
        memory = ProductKeyMemory(inputs["keys"].clone(), inputs["values"].clone(), MemoryRule(topk=3))
        output = read_and_queue(memory, WriteQueue(), given_["query"], given_["target"], given_["gate"], 8)
        found.append((output.float(), memory.keys, memory.values))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert found[0][2].dtype == torch.float32
