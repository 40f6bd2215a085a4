"""Slot traces: what they say is what was read and written, found again here from the model's own writes."""

from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from tiny_models import tiny_model

from fwpkm_eval.api import load_model
from fwpkm_eval.commands.trace_view import show_trace
from fwpkm_eval.data import Document, TextSet, hash_documents
from fwpkm_eval.data.tokenizers import ByteTokenizer
from fwpkm_eval.errors import UserError
from fwpkm_eval.kernels import closed_form as cf
from fwpkm_eval.kernels.product_keys import split_query
from fwpkm_eval.kernels.stream import ProductKeyMemory
from fwpkm_eval.reporting.trace_page import load_traces, trace_section
from fwpkm_eval.tasks.niah import evaluate_niah
from fwpkm_eval.tasks.trace import TraceSettings, trace_needles
from fwpkm_eval.tasks.trace_rows import trace_rows
from fwpkm_eval.tasks.trace_types import Digit, LayerRead, Pair, SlotRead, Trace, Vote, read_trace, sign, visible

pytestmark = pytest.mark.usefixtures("one_thread")

TOKENIZER = ByteTokenizer()
SETTINGS = TraceSettings(length=300, needles=2, passes=2, write_chunk=64, pairs=10**6)
PROSE = "It was the best of times, it was the worst of times, it was the age of wisdom.\n"


def text_set() -> TextSet:
    words = "".join(f"{PROSE}And in the year {year} it was so.\n" for year in range(1000, 1060))
    documents = (Document("d", words),)
    return TextSet("prose", "test", documents, "path", None, "made for a test", hash_documents(documents))


@pytest.fixture(scope="module")
def trained() -> Any:
    return load_model("gdn+swa:fwpkm@1,3")


def trace_of(model: Any, settings: TraceSettings) -> Trace:
    (trace,) = trace_needles(model, text_set(), settings, TOKENIZER).traces
    return trace


@pytest.mark.parametrize("protocol", ["open-book", "closed-book"])
@pytest.mark.parametrize("write_chunk", [64, "haystack"])
@pytest.mark.parametrize("spec", ["gdn+swa:fwpkm@1", "gdn:fwpkm@0,1"])
def test_a_trace_says_what_was_read_and_last_written(
    spec: str, write_chunk: Any, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every write and read is looked up again beside the trace, with the keys of the moment."""
    model = tiny_model(spec)
    writes: dict[int, list[tuple[torch.Tensor, torch.Tensor]]] = {}
    reads: dict[int, torch.Tensor] = {}
    order: list[int] = []
    write, read = ProductKeyMemory.write, ProductKeyMemory.read

    def number(memory: ProductKeyMemory) -> int:
        if id(memory) not in order:
            order.append(id(memory))
        return order.index(id(memory))

    def look_up(memory: ProductKeyMemory, query: torch.Tensor) -> cf.Reads:
        parts = split_query(query, memory.keys.shape[0])
        return cf.find_reads(parts, memory.keys, memory.rule.topk, memory.rule.score)

    def spy_write(memory: ProductKeyMemory, query: Any, target: Any, gate: Any, places: Any = ()) -> None:
        found = look_up(memory, query)
        writes.setdefault(number(memory), []).append((found.slots, found.weights * gate[0, :, None]))
        write(memory, query, target, gate, places)

    def spy_read(memory: ProductKeyMemory, query: torch.Tensor) -> torch.Tensor:
        found = look_up(memory, query)
        if query.shape[1] > 1:
            reads[number(memory)] = torch.stack([found.slots.float(), found.weights])
        return read(memory, query)

    monkeypatch.setattr(ProductKeyMemory, "write", spy_write)
    monkeypatch.setattr(ProductKeyMemory, "read", spy_read)
    trace = trace_of(model, replace(SETTINGS, write_chunk=write_chunk, protocol=protocol))
    haystack, answer_place = haystack_of(trace)
    per_reading = 5 if write_chunk == 64 else 1  # 299 pairs, 64 at a time
    layers = model.config.spec.layers("fwpkm")
    assert {len(of_layer) for of_layer in writes.values()} == {2 * per_reading}

    for place, digit in enumerate(trace.digits):
        assert digit.expected == trace.expected[place]
        assert [layer.layer for layer in digit.layers] == list(layers)
        for which, layer in enumerate(digit.layers):
            slots, weights = reads[which][:, place - 6]
            assert {slot.slot: slot.weight for slot in layer.slots} == dict(
                zip(slots.int().tolist(), weights.tolist(), strict=True)
            )
            assert [slot.weight for slot in layer.slots] == sorted(weights.tolist(), reverse=True)
            for slot in layer.slots:
                last = [n for n, (written, _) in enumerate(writes[which]) if (written == slot.slot).any()]
                assert slot.write == (last[-1] + 1 if last else None)
                if not last:
                    assert (slot.reading, slot.written, slot.pairs, slot.hit) == (None, 0, (), False)
                    continue
                assert slot.reading == last[-1] // per_reading + 1
                written, strengths = writes[which][last[-1]]
                tokens = (written == slot.slot).any(1).nonzero().squeeze(1)
                expected = {
                    (last[-1] % per_reading) * 64 + int(t): float(strengths[t][written[t] == slot.slot].sum())
                    for t in tokens
                }
                assert {pair.position: pair.strength for pair in slot.pairs} == pytest.approx(expected)
                assert slot.written == len(expected)
                ranked = [pair.strength for pair in slot.pairs]
                assert ranked == sorted(ranked, reverse=True)
                for pair in slot.pairs:
                    p = pair.position
                    assert pair.target_position == p + 1
                    assert pair.before + pair.query + pair.between + pair.target + pair.after == "".join(
                        haystack[max(0, p - 10) : p + 12]
                    )
                    assert pair.hit == (haystack[p + 1] == digit.expected)
                    assert pair.is_answer == (p + 1 == answer_place + place)


def haystack_of(trace: Trace) -> tuple[list[str], int]:
    """The sample's haystack as signs, and where its answer stands."""
    from fwpkm_eval.tasks.niah import NiahSettings, draw_sample, haystack_tokens

    settings = NiahSettings(seed=trace.seed)
    tokens = haystack_tokens(text_set(), TOKENIZER)
    sample = draw_sample(settings, tokens, TOKENIZER, trace.length, trace.needles, trace.sample)
    signs = ["<end>" if t == TOKENIZER.eos else chr(t) for t in sample.haystack]
    sentence = f"The secret number for ID-{trace.key} is "
    return signs, "".join(chr(t) if t < 128 else "?" for t in sample.haystack).index(sentence) + len(sentence)


def test_the_answers_place_is_exact_at_any_length() -> None:
    """Of this length the needle's depth times the length is a little less than its place."""
    trace = trace_of(tiny_model("fa:fwpkm@0"), replace(SETTINGS, length=314, passes=1, write_chunk="haystack"))
    _, answer_place = haystack_of(trace)
    pairs = [
        (pair.target_position == answer_place + place, pair.is_answer)
        for place, digit in enumerate(trace.digits)
        for layer in digit.layers
        for slot in layer.slots
        for pair in slot.pairs
    ]
    assert (True, True) in pairs
    assert all(there == said for there, said in pairs)


def slot(number: int, weight: float, *targets: str, answer: bool = False, true: str = "7") -> SlotRead:
    pairs = tuple(Pair("q", target, 3, 4, 0.5, "b", "", "a", target == true, answer) for target in targets)
    return SlotRead(number, weight, 1 if pairs else None, 1 if pairs else None, len(pairs), pairs)


def test_hits_votes_and_rows_by_hand() -> None:
    """Only a slot's strongest pair counts; a vote weighs weight × gate; rates are means over digits and layers."""
    from fwpkm_eval.tasks import trace as module

    a = LayerRead(1, 0.5, (slot(1, 0.6, "7", "3"), slot(2, 0.3, "3", "7"), slot(3, 0.1)))
    b = LayerRead(3, 1.0, (slot(4, 0.7, "3"), slot(5, 0.3, "7", answer=True)))
    votes = module._votes([a, b])
    assert [vote.token for vote in votes] == ["3", "7"]
    assert [vote.share for vote in votes] == pytest.approx([0.85 / 1.45, 0.6 / 1.45])
    assert [a.weighted_hits, b.weighted_hits, b.weighted_answers] == pytest.approx([0.6, 0.3, 0.3])
    assert module._votes([LayerRead(1, 0.5, (slot(3, 1.0),))]) == ()

    digits = (Digit("7", "7", 0.9, votes, (a, b)), Digit("7", "1", 0.1, (Vote("7", 1.0),), (a, a)))
    traces = [
        Trace(1, "m", "micro", "h", "s", "d", 9, 1, 1, "64", "open-book", 0, i, "k", 0.5, "77", "71", part)
        for i, part in enumerate((digits, digits[1:]))
    ]
    model = tiny_model("gdn:fwpkm@1")
    rows = trace_rows(model, text_set(), SETTINGS, module.TraceResult(traces, 2.0, 100))
    found = {row.metric: row for row in rows}
    assert found["top_slot_hit_rate"].value == pytest.approx((3 / 4 + 1) / 2)
    assert found["weighted_hit_rate"].value == pytest.approx(((0.6 + 0.3 + 0.6 + 0.6) / 4 + 0.6) / 2)
    assert found["weighted_answer_rate"].value == pytest.approx((0.3 / 4 + 0) / 2)
    assert found["consensus_accuracy"].value == pytest.approx((1 / 2 + 1) / 2)
    assert [found[name].n for name in ("top_slot_hit_rate", "consensus_accuracy")] == [6, 3]
    row = rows[0]
    assert (row.task, row.model, row.length, row.passes, row.write_chunk) == ("trace", "gdn:fwpkm@1", 300, 2, "64")
    assert row.ci_low is not None
    assert trace_rows(model, text_set(), SETTINGS, module.TraceResult(traces[:1], 2.0, 100))[0].ci_low is None


@pytest.mark.parametrize("protocol", ["open-book", "closed-book"])
def test_a_trained_memory_is_seen_to_answer(trained: Any, protocol: str) -> None:
    """And the trace's answers are those of the needle task: to be watched changes nothing."""
    settings = replace(SETTINGS, length=600, write_chunk=128, samples=(0, 2), protocol=protocol, pairs=1)
    traces = trace_needles(trained, text_set(), settings, TOKENIZER).traces
    asked = evaluate_niah(trained, text_set(), settings.niah(), TOKENIZER).answers
    assert [trace.sample for trace in traces] == [0, 2]
    for trace in traces:
        (answer,) = (answer for answer in asked if answer.index == trace.sample)
        assert (trace.expected, trace.answered, trace.depth) == (answer.expected, answer.answered, answer.depth)
        assert np.prod([digit.probability for digit in trace.digits]) == pytest.approx(np.exp(answer.logprob), rel=1e-3)
        if answer.exact:
            assert "".join(digit.answered for digit in trace.digits) == trace.answered
        votes = [digit.consensus == digit.expected for digit in trace.digits]
        hits = [layer.weighted_answers for digit in trace.digits for layer in digit.layers]
        assert sum(votes) >= 4
        assert sum(hits) / len(hits) > 0.25


def test_a_memory_that_was_never_written_has_nothing_to_say() -> None:
    trace = trace_of(tiny_model("gdn:fwpkm@1"), replace(SETTINGS, passes=0))
    for digit in trace.digits:
        assert digit.votes == ()
        assert digit.consensus is None
        assert all(slot.write is None for layer in digit.layers for slot in layer.slots)


def test_settings_that_cannot_be_traced() -> None:
    with pytest.raises(UserError, match="unknown protocol 'published'"):
        TraceSettings(protocol="published")
    with pytest.raises(UserError, match="closed book needs at least 1 pass"):
        TraceSettings(protocol="closed-book", passes=0)
    with pytest.raises(UserError, match="samples"):
        TraceSettings(samples=())
    with pytest.raises(UserError, match="write chunk"):
        TraceSettings(write_chunk="now")
    for spec in ("gdn", "gdn:fwmlp@1", "gdn:lact@1"):
        with pytest.raises(UserError, match="no FwPKM"):
            trace_of(tiny_model(spec), SETTINGS)
    with pytest.raises(UserError, match="too short"):
        trace_of(tiny_model("gdn:fwpkm@1"), replace(SETTINGS, length=20))


@pytest.fixture(scope="module")
def small_trace() -> Trace:
    return trace_of(tiny_model("gdn:fwpkm@0,1"), replace(SETTINGS, pairs=2))


def test_a_trace_survives_json(small_trace: Trace, tmp_path: Path) -> None:
    assert Trace.from_json(json.loads(json.dumps(small_trace.to_json()))) == small_trace
    (tmp_path / "t.json").write_text(json.dumps(small_trace.to_json()))
    assert read_trace(tmp_path / "t.json") == small_trace


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data.pop("key"), "trace.key is missing"),
        (lambda data: data.update(colour="red"), "trace.colour is unknown"),
        (lambda data: data.update(format=2), "its format is 2"),
        (lambda data: data.update(passes="2"), "trace.passes is '2', not int"),
        (lambda data: data.update(depth=float("nan")), "trace.depth is nan, not float"),
        (
            lambda data: data["digits"][1]["layers"][0].update(slots={}),
            r"trace.digits\[1\].layers\[0\].slots is not a list",
        ),
        (lambda data: data["digits"][0]["votes"].append(3), r"is not an object"),
        (lambda data: data["digits"][0]["layers"][0]["slots"][0].update(write=True), "write is True, not int"),
    ],
)
def test_what_is_no_trace_is_refused(small_trace: Trace, tmp_path: Path, change: Any, said: str) -> None:
    data = small_trace.to_json()
    change(data)
    (tmp_path / "t.json").write_text(json.dumps(data))
    with pytest.raises(UserError, match=said):
        read_trace(tmp_path / "t.json")


def test_files_that_are_no_json(tmp_path: Path) -> None:
    for content in ("{", "[" * 100_000, "null", ""):
        (tmp_path / "t.json").write_text(content)
        with pytest.raises(UserError, match="not a trace"):
            read_trace(tmp_path / "t.json")


def test_signs_that_would_not_show() -> None:
    assert visible("a\nb\tc\x00\u202ed e") == "a⏎b⇥c··d e"
    assert sign(" ") == "␣"


HOSTILE = "<script>alert(1)</script>[bold]\x1b[31m"


def hostile(trace: Trace) -> Trace:
    """The trace with markup of three kinds in every text that comes from a haystack."""
    pair = Pair(HOSTILE, HOSTILE, 1, 2, 0.5, HOSTILE, HOSTILE, HOSTILE, True, True)
    layer = LayerRead(1, 0.5, (SlotRead(3, 1.0, 1, 1, 1, (pair,)),))
    digit = Digit(HOSTILE, HOSTILE, 0.5, (Vote(HOSTILE, 1.0),), (layer,))
    return replace(trace, dataset=HOSTILE, key=HOSTILE, answered=HOSTILE, digits=(digit,))


def test_the_terminal_view(small_trace: Trace) -> None:
    console = Console(file=StringIO(), width=120, highlight=False)
    show_trace(small_trace, console=console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert f"expected {small_trace.expected}" in text
    assert text.count("digit ") == 6
    for digit in small_trace.digits:
        for layer in digit.layers:
            for read in layer.slots:
                assert f" {read.slot} " in text
                if read.write is not None:
                    assert f"pass {read.reading}, write {read.write}: {read.written} pair" in text
    assert text.count("HIT") >= sum(r.hit for d in small_trace.digits for x in d.layers for r in x.slots)
    few = Console(file=StringIO(), width=120)
    show_trace(small_trace, slots=1, console=few)
    assert len(few.file.getvalue().splitlines()) < len(text.splitlines())  # type: ignore[attr-defined]


def test_text_cannot_change_the_terminal_view(small_trace: Trace) -> None:
    console = Console(file=StringIO(), width=200, force_terminal=True, color_system="truecolor", highlight=False)
    show_trace(hostile(small_trace), console=console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "[bold]·[31m" in text
    assert "\x1b[31m" not in text


def test_the_report_section(small_trace: Trace, tmp_path: Path) -> None:
    assert trace_section([]) == ""
    (tmp_path / "trace").mkdir()
    (tmp_path / "trace" / f"{small_trace.name}.json").write_text(json.dumps(small_trace.to_json()))
    traces = load_traces(tmp_path)
    assert traces == [small_trace]
    html = trace_section([*traces, hostile(small_trace)])
    assert "<script" not in html
    assert html.count("&lt;script&gt;") >= 8
    assert f"expected {small_trace.expected}" in html
    reads = [read for digit in small_trace.digits for layer in digit.layers for read in layer.slots]
    assert html.count("<tr") == 7 + len(reads) + 1
    assert html.count('class="found">HIT') == sum(read.hit for read in reads) + 1
    assert html.count('tabindex="0"') == 7, "each table that scrolls can be reached by keyboard"
    ids = [part.split('"')[0] for part in html.split(' id="')[1:]]
    assert len(ids) == len(set(ids))
    assert html.count("<details") == html.count("</details>") == 9
    (tmp_path / "trace" / "zz.json").write_text("{}")
    with pytest.raises(UserError, match=r"zz.json is not a trace"):
        load_traces(tmp_path)
