"""Needle in a haystack: each statement of the protocols, on a model whose memory can be looked into."""

from __future__ import annotations

import dataclasses
import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from honest_model import HonestModel, State
from tiny_models import tiny_model

from fwpkm_eval.data import Document, TextSet, hash_documents
from fwpkm_eval.data.tokenizers import ByteTokenizer
from fwpkm_eval.errors import UserError
from fwpkm_eval.tasks import niah
from fwpkm_eval.tasks.needles import NeedleSample, build_sample, sample_rng
from fwpkm_eval.tasks.niah import NiahResult, NiahSettings, SampleAnswer, evaluate_niah
from fwpkm_eval.tasks.niah_rows import guess_rows, niah_rows

pytestmark = pytest.mark.usefixtures("one_thread")
TOKENIZER = ByteTokenizer()
LENGTH = 320


def _text_set() -> TextSet:
    words = [
        "of",
        "the",
        "and",
        "to",
        "in",
        "that",
        "for",
        "was",
        "with",
        "not",
        "this",
        "are",
        "his",
        "from",
    ]
    chooser = random.Random(0)
    texts = (" ".join(chooser.choices(words, k=900)) for _ in range(3))
    documents = tuple(Document(str(number), text) for number, text in enumerate(texts))
    return TextSet("words", "test", documents, "path", None, "made for a test", hash_documents(documents))


TEXT = _text_set()


def settings(**changes: Any) -> NiahSettings:
    return NiahSettings(**{"lengths": (LENGTH,), "needles": (3,), "samples": 2, "block": 100, **changes})


def ask(model: Any, **changes: Any) -> NiahResult:
    return evaluate_niah(model, TEXT, settings(**changes), TOKENIZER)


def by_name(result: NiahResult) -> dict[tuple[Any, ...], SampleAnswer]:
    """Every answer by (length, needles, write chunk, protocol, passes, sample); none may be there twice."""
    named = {
        (a.setting.length, a.setting.needles, a.setting.write_chunk, a.protocol, a.passes, a.index): a
        for a in result.answers
    }
    assert len(named) == len(result.answers)
    return named


def sample(index: int, length: int = LENGTH, needles: int = 3) -> NeedleSample:
    tokens = niah.haystack_tokens(TEXT, TOKENIZER)
    return build_sample(sample_rng(0, index), tokens, TOKENIZER, length=length, needles=needles)


def exactly(written: list[tuple[int, ...]]) -> list[int]:
    """The tokens written, in order: a write's first token is the one that the last left in the queue."""
    tokens: list[int] = []
    for write in written:
        tokens += write[1:] if tokens and tokens[-1] == write[0] and len(write) > 1 else write
    return tokens


class Plainly:
    """The protocols once more, as told in words: nothing shared, one answer at a time."""

    def __init__(self, model: Any, write_chunk: int | str, block: int = 1) -> None:
        self.model = model.eval()
        self.write_chunk = write_chunk
        self.block = block

    def feed(self, state: State, tokens: list[int], updates: str) -> tuple[torch.Tensor, State]:
        logits = None
        for start in range(0, len(tokens), self.block):
            piece = torch.tensor([tokens[start : start + self.block]])
            logits, state = self.model(piece, state, updates=updates, write_chunk=self.write_chunk, logits="last")
        assert logits is not None
        return logits[0, 0].double(), state

    def read(self, state: State, haystack: list[int], times: int) -> State:
        for _ in range(times):
            _, state = self.feed(state.fresh_sequence(), haystack, "stream")
            state = self.model.flush(state)
        return state

    def answer(self, logits: torch.Tensor, state: State, truth: list[int]) -> tuple[str, float]:
        greedy, step, step_state = [], logits, state
        for _ in truth:
            greedy.append(int(step.argmax()))
            step, step_state = self.feed(step_state, greedy[-1:], "off")
        logprob = 0.0
        for token in truth:
            logprob += float(torch.log_softmax(logits, 0)[token])
            logits, state = self.feed(state, [token], "off")
        return TOKENIZER.decode(greedy), logprob

    def ask(self, asked: NeedleSample, protocol: str, passes: int, memory: State) -> tuple[str, float, State]:
        haystack, question, truth = asked.haystack.tolist(), asked.question.tolist(), asked.answer.tolist()
        with torch.no_grad():
            if protocol == "published":
                memory = self.read(memory, haystack, passes - 1)
                logits, state = self.feed(memory.fresh_sequence(), haystack + question, "stream")
                state = self.model.flush(state)
                return *self.answer(logits, state, truth), state
            memory = self.read(memory, haystack, passes)
            shown = haystack + question if protocol == "open-book" else question
            logits, state = self.feed(memory.fresh_sequence(), shown, "off")
            return *self.answer(logits, state, truth), memory


@pytest.mark.parametrize("write_chunk", ["haystack", 64, 320, 500])
@pytest.mark.parametrize("scope", ["sample", "stream"])
def test_answers_are_those_of_the_protocols_done_plainly(write_chunk: int | str, scope: str) -> None:
    protocols = ("open-book", "closed-book", "published")
    result = by_name(
        ask(
            HonestModel(recalls_after=2),
            protocols=protocols,
            passes=(1, 2, 3),
            write_chunks=(write_chunk,),
            scope=scope,
        )
    )
    assert len(result) == 3 * 3 * 2
    values = set()
    for protocol in protocols:
        for passes in (1, 2, 3):
            plainly = Plainly(HonestModel(recalls_after=2), write_chunk)
            memory = plainly.model.initial_state()
            for index in range(2):
                if scope == "sample":
                    memory = plainly.model.initial_state()
                answered, logprob, memory = plainly.ask(sample(index), protocol, passes, memory)
                answer = result[LENGTH, 3, write_chunk, protocol, passes, index]
                assert answer.answered == answered
                assert answer.logprob == pytest.approx(logprob, abs=1e-4)
                values.add(round(logprob, 2))
    assert len(values) > 4  # the settings do differ


@pytest.mark.parametrize("write_chunk", ["haystack", 64])
@pytest.mark.parametrize("name", ["gdn+swa:fwpkm@1", "fa:fwmlp@0", "fa:lact@0", "fa:pkm@1+fwpkm@0", "gdn+swa"])
def test_real_models_answer_as_the_protocols_done_plainly(name: str, write_chunk: int | str) -> None:
    protocols = ("open-book", "closed-book", "published")
    result = by_name(ask(tiny_model(name), protocols=protocols, passes=(1, 2), write_chunks=(write_chunk,), samples=1))
    values = set()
    for protocol in protocols:
        for passes in (1, 2):
            plainly = Plainly(tiny_model(name), write_chunk, block=37)
            memory: Any = plainly.model.initial_state()
            answered, logprob, _ = plainly.ask(sample(0), protocol, passes, memory)
            answer = result[LENGTH, 3, write_chunk, protocol, passes, 0]
            assert answer.answered == answered
            assert answer.logprob == pytest.approx(logprob, abs=2e-4)
            values.add(round(logprob, 3))
    assert len(values) == (2 if name == "gdn+swa" else 6)


def test_recall_comes_with_the_passes_it_needs() -> None:
    for needed in (1, 2, 3):
        for protocol in ("open-book", "closed-book"):
            result = ask(HonestModel(recalls_after=needed), protocols=(protocol,), passes=(1, 2, 3))
            for answer in result.answers:
                assert answer.exact == (answer.passes >= needed), (needed, protocol, answer)
                assert answer.digits_right == 6 or not answer.exact


def test_passes_0_is_reading_without_any_memory() -> None:
    model = HonestModel()
    result = by_name(ask(model, passes=(0, 1), samples=1))
    assert not result[LENGTH, 3, "haystack", "open-book", 0, 0].exact
    assert result[LENGTH, 3, "haystack", "open-book", 1, 0].exact
    alone = by_name(ask(HonestModel(), passes=(0,), samples=1))
    assert alone[LENGTH, 3, "haystack", "open-book", 0, 0] == result[LENGTH, 3, "haystack", "open-book", 0, 0]


@pytest.mark.parametrize("write_chunk", ["haystack", 64, 8])
def test_nothing_but_the_haystack_is_written_once_per_pass(write_chunk: int | str) -> None:
    model = HonestModel()
    ask(model, samples=1, passes=(1, 3), write_chunks=(write_chunk,), protocols=("open-book", "closed-book"))
    haystack = sample(0).haystack.tolist()
    assert exactly(model.written) == haystack * 3
    if write_chunk == "haystack":
        assert len(model.written) == 3
    else:
        assert max(len(write) for write in model.written) == int(write_chunk) + 1


def test_published_writes_the_question_with_the_last_reading_but_no_answer() -> None:
    model = HonestModel()
    ask(model, samples=1, passes=(3,), protocols=("published",))
    haystack, question = sample(0).haystack.tolist(), sample(0).question.tolist()
    assert [list(write) for write in model.written] == [haystack, haystack, haystack + question]


def test_published_predicts_the_first_digit_before_the_last_write_and_the_others_after_it() -> None:
    # Recalls after one write: the first digit needs two "iterations", the other five one.
    result = by_name(ask(HonestModel(), passes=(1, 2), protocols=("published",), samples=1))
    first, second = (result[LENGTH, 3, "haystack", "published", passes, 0] for passes in (1, 2))
    assert not first.exact
    assert second.exact
    recalled = second.logprob / 6
    assert first.logprob == pytest.approx(5 * recalled - math.log(257), abs=1.5)


def test_the_question_is_all_that_a_closed_book_shows() -> None:
    model = HonestModel()
    result = ask(model, samples=1, passes=(1,), protocols=("closed-book",))
    asked = sample(0)
    shown = [call for call in model.calls if call.updates == "off"]
    assert shown[0].position == 0  # a fresh sequence: attention has nothing of the haystack
    assert list(shown[0].tokens) == asked.question.tolist()
    assert asked.needles[asked.asked].value not in TOKENIZER.decode(asked.question)
    assert result.answers[0].exact


def test_the_answer_is_decoded_from_the_models_own_digits() -> None:
    """Fed back while decoding greedily is what the model said, never the truth (which only scores)."""
    model = HonestModel(has_fast_weights=False)
    result = ask(model, samples=1, passes=(1,), protocols=("closed-book",))
    question, truth = sample(0).question, sample(0).answer.tolist()
    steps = [call.tokens for call in model.calls if call.position >= len(question)]
    assert steps[-1] == tuple(truth[:-1])
    assert TOKENIZER.decode([token for (token,) in steps[:-1]]) == result.answers[0].answered[:5]
    assert result.answers[0].answered != result.answers[0].expected


def test_open_book_shows_haystack_and_question_to_attention() -> None:
    for model in (
        HonestModel(attends=True, recalls_after=99),
        HonestModel(has_fast_weights=False, attends=True),
    ):
        result = ask(model, samples=1, passes=(1,), protocols=("open-book", "closed-book"))
        exact = {answer.protocol: answer.exact for answer in result.answers}
        assert exact == {"open-book": True, "closed-book": False}


def test_samples_start_from_the_same_memory_whatever_their_order_and_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wanted = {"protocols": ("open-book", "closed-book"), "passes": (1, 2), "lengths": (200,)}
    plain = by_name(ask(HonestModel(recalls_after=2), samples=5, **wanted))
    fewer = by_name(ask(HonestModel(recalls_after=2), samples=2, **wanted))
    assert all(plain[name] == answer for name, answer in fewer.items())
    in_order = niah._Samples.__iter__
    monkeypatch.setattr(niah._Samples, "__iter__", lambda self: reversed(list(in_order(self))))
    backwards = ask(HonestModel(recalls_after=2), samples=5, **wanted)
    assert backwards.answers[0].index == 4
    assert by_name(backwards) == plain


def test_in_scope_stream_the_memory_goes_from_sample_to_sample_for_each_number_of_passes() -> None:
    model = HonestModel()
    together = by_name(ask(model, samples=3, scope="stream", passes=(1, 2), protocols=("closed-book",)))
    assert model.initial_states == 2
    for passes in (1, 2):
        alone = by_name(ask(HonestModel(), samples=3, scope="stream", passes=(passes,), protocols=("closed-book",)))
        assert alone == {name: answer for name, answer in together.items() if name[4] == passes}
    # The samples before were written, too, so the memory of the third is another one.
    fresh = by_name(ask(HonestModel(), samples=3, passes=(1, 2), protocols=("closed-book",)))
    last = (LENGTH, 3, "haystack", "closed-book", 1, 2)
    assert together[last].logprob != fresh[last].logprob


def test_a_model_without_fast_weights_is_measured_once_and_its_rows_repeated() -> None:
    model = HonestModel(has_fast_weights=False)
    changes = {
        "passes": (1, 2, 4),
        "write_chunks": ("haystack", 64),
        "protocols": ("open-book", "closed-book", "published"),
    }
    result = ask(model, **changes)
    haystack_calls = [call for call in model.calls if call.logits == "none"]
    assert sum(len(call.tokens) for call in haystack_calls) == 2 * LENGTH
    assert {call.updates for call in model.calls} == {"off"}
    rows = [row for row in niah_rows(model, TEXT, settings(**changes), result) if row.metric == "answer_logprob"]
    assert len(rows) == 3 * 2 * 3
    for protocol in changes["protocols"]:
        assert len({row.value for row in rows if row.protocol == protocol}) == 1
    # What it answers is what a model with fast weights answers that never wrote anything.
    never = by_name(ask(HonestModel(), passes=(0,), write_chunks=(64,)))
    assert by_name(result)[LENGTH, 3, 64, "open-book", 4, 1].logprob == pytest.approx(
        never[LENGTH, 3, 64, "open-book", 0, 1].logprob
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"write_chunks": ("haystack",), "protocols": ("open-book", "closed-book")},
        {"write_chunks": (64,), "protocols": ("open-book", "closed-book")},
        {"write_chunks": (64,), "protocols": ("published",)},
        {"write_chunks": ("haystack",), "protocols": ("closed-book",), "passes": (1, 3)},
        {"write_chunks": (64,), "protocols": ("open-book", "published"), "scope": "stream"},
    ],
)
@pytest.mark.parametrize("has_fast_weights", [True, False])
def test_the_haystack_is_read_no_more_often_than_said(changes: dict[str, Any], has_fast_weights: bool) -> None:
    model = HonestModel(has_fast_weights=has_fast_weights)
    seen: list[int] = []
    result = evaluate_niah(model, TEXT, settings(**{"passes": (1, 2), **changes}), TOKENIZER, seen.append)
    said = niah.readings_per_sample(
        settings(**{"passes": (1, 2), **changes}),
        has_fast_weights=has_fast_weights,
        write_chunk=changes["write_chunks"][0],
    )
    haystack_calls = [call for call in model.calls if call.logits == "none"]
    assert sum(len(call.tokens) for call in haystack_calls) == said * 2 * LENGTH
    assert sum(seen) == sum(len(call.tokens) for call in model.calls) == next(iter(result.cost.values()))[1]


def test_long_haystacks_are_read_in_blocks_without_logits() -> None:
    model = HonestModel()
    ask(model, samples=1, lengths=(900,), block=128)
    assert max(len(call.tokens) for call in model.calls) == 128
    assert {call.logits for call in model.calls if len(call.tokens) > 40} == {"none"}


def test_how_the_haystack_is_cut_into_calls_changes_nothing() -> None:
    results = [by_name(ask(HonestModel(), block=block, write_chunks=("haystack", 48))) for block in (7, 100, 4096)]
    for name, answer in results[0].items():
        for other in results[1:]:
            assert dataclasses.replace(other[name], logprob=answer.logprob) == answer
            assert other[name].logprob == pytest.approx(answer.logprob, abs=1e-5)


def test_rows_add_up() -> None:
    model = HonestModel(recalls_after=2)
    changes: dict[str, Any] = {
        "samples": 7,
        "lengths": (200,),
        "passes": (1, 2),
        "protocols": ("open-book", "closed-book"),
    }
    result = ask(model, **changes)
    rows = niah_rows(model, TEXT, settings(**changes), result)
    whole = [row for row in rows if row.depth is None]
    assert [row.metric for row in whole[:6]] == [
        "exact_match",
        "digit_accuracy",
        "distractor_rate",
        "other_number_rate",
        "no_number_rate",
        "answer_logprob",
    ]
    assert len(whole) == 6 * 2 * 2
    for row in whole:
        answers = [a for a in result.answers if (a.protocol, a.passes) == (row.protocol, row.passes)]
        value = {
            "exact_match": np.mean([a.answered == a.expected for a in answers]),
            "digit_accuracy": np.mean([a.digits_right for a in answers]) / 6,
            "distractor_rate": np.mean([a.distractor for a in answers]),
            "other_number_rate": np.mean(
                [a.answered.isdigit() and not a.distractor and a.answered != a.expected for a in answers]
            ),
            "no_number_rate": np.mean([not a.answered.isdigit() for a in answers]),
            "answer_logprob": np.mean([a.logprob for a in answers]),
        }[row.metric]
        assert row.value == pytest.approx(value)
        assert row.n == 7
        assert row.ci_low is not None
        assert row.ci_high is not None
        assert row.ci_low <= value <= row.ci_high
        assert (row.length, row.needles, row.write_chunk, row.scope) == (200, 3, "haystack", "sample")
    by_depth = [row for row in rows if row.depth is not None]
    for protocol in changes["protocols"]:
        for passes in (1, 2):
            group = [row for row in by_depth if (row.protocol, row.passes) == (protocol, passes)]
            assert sum(row.n or 0 for row in group) == 7
            (overall,) = (
                row for row in whole if (row.metric, row.protocol, row.passes) == ("exact_match", protocol, passes)
            )
            assert sum((row.n or 0) * (row.value or 0) for row in group) == pytest.approx(7 * (overall.value or 0))
    # The middle of the bucket that the needle starts in.
    for index in range(7):
        asked = sample(index, 200)
        assert round(asked.depths[asked.asked] // 0.1 / 10 + 0.05, 2) in {row.depth for row in by_depth}


def test_an_answer_that_is_another_needles_value_is_told_apart() -> None:
    samples = niah._Samples(
        settings(), niah.haystack_tokens(TEXT, TOKENIZER), TOKENIZER, LENGTH, 3, torch.device("cpu")
    )
    asked = sample(0)
    which = {"setting": niah.Setting(LENGTH, 3, 64), "protocol": "open-book", "passes": 1}
    for number, needle in enumerate(asked.needles):
        answer = niah.Answer(tuple(needle.value.encode()), -1.0)
        graded = samples.grade(asked, 0, answer, **which)
        assert graded.distractor == (number != asked.asked)
        assert graded.exact == (number == asked.asked)
    truth = asked.needles[asked.asked].value
    off_by_one = niah.Answer(tuple((truth[:5] + ("0" if truth[5] != "0" else "1")).encode()), -1.0)
    graded = samples.grade(asked, 0, off_by_one, **which)
    assert (graded.digits_right, graded.exact, graded.distractor) == (5, False, False)
    shifted = niah.Answer(tuple((" " + truth[:5]).encode()), -1.0)
    assert samples.grade(asked, 0, shifted, **which).digits_right == sum(
        a == b for a, b in zip(" " + truth, truth, strict=False)
    )
    assert samples.grade(asked, 0, shifted, **which).instead == "text"
    assert graded.instead == "number"
    for number, needle in enumerate(asked.needles):
        answer = niah.Answer(tuple(needle.value.encode()), -1.0)
        assert samples.grade(asked, 0, answer, **which).instead == (None if number == asked.asked else "needle")


def test_right_answers_and_what_was_answered_instead_add_up() -> None:
    model = HonestModel(broken_from=LENGTH + 5)
    changes = {"protocols": ("open-book", "closed-book"), "passes": (1,), "samples": 3}
    rows = niah_rows(model, TEXT, settings(**changes), ask(model, **changes))
    kinds = ("exact_match", "distractor_rate", "other_number_rate", "no_number_rate")
    for protocol in ("open-book", "closed-book"):
        values = [row.value for row in rows if row.protocol == protocol and row.metric in kinds and row.depth is None]
        assert len(values) == 4
        assert sum(value or 0 for value in values) == pytest.approx(1)


def test_depths_put_the_asked_needle_where_they_say() -> None:
    result = ask(HonestModel(), samples=6, lengths=(800,), depths=(0.1, 0.5, 0.9), passes=(1,))
    for answer in result.answers:
        wanted = (0.1, 0.5, 0.9)[answer.index % 3]
        assert answer.depth == pytest.approx(wanted, abs=0.1)
        assert answer.exact


def test_every_combination_of_lengths_needles_and_write_chunks_is_asked() -> None:
    result = by_name(
        ask(
            HonestModel(),
            samples=1,
            passes=(1,),
            lengths=(250, 300),
            needles=(1, 4),
            write_chunks=("haystack", 50),
        )
    )
    assert {name[:3] for name in result} == {
        (length, needles, chunk) for length in (250, 300) for needles in (1, 4) for chunk in ("haystack", 50)
    }


def test_many_needles() -> None:
    result = ask(HonestModel(), samples=1, passes=(1,), lengths=(64 * 42,), needles=(64,), block=4096)
    assert result.answers[0].exact


def test_the_floor_of_guessing() -> None:
    rows = guess_rows(TEXT, settings(passes=(1, 2), protocols=("open-book", "closed-book")))
    exact = [row for row in rows if row.metric == "exact_match"]
    assert len(exact) == 4
    assert {row.value for row in exact} == {1e-6}
    assert {row.value for row in rows if row.metric == "digit_accuracy"} == {0.1}
    assert {row.value for row in rows if row.metric == "distractor_rate"} == {2e-6}
    assert all(row.value == pytest.approx(math.log(1e-6)) for row in rows if row.metric == "answer_logprob")
    assert {row.model for row in rows} == {"guess"}


def test_a_model_that_diverges_gives_rows_that_say_so() -> None:
    model = HonestModel(broken_from=LENGTH + 5)
    changes = {"protocols": ("open-book", "closed-book"), "passes": (1,)}
    rows = {
        (row.protocol, row.metric): row
        for row in niah_rows(model, TEXT, settings(**changes), ask(model, **changes))
        if row.depth is None
    }
    assert rows["open-book", "diverged"].value == 1
    assert math.isnan(rows["open-book", "answer_logprob"].value or 0)
    assert rows["open-book", "exact_match"].value == 0
    assert ("closed-book", "diverged") not in rows


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"passes": (0,), "protocols": ("closed-book",)}, "closed book needs at least 1 pass"),
        ({"passes": (0,), "protocols": ("published",)}, "'published' needs at least 1 pass"),
        ({"passes": (-1,)}, "passes must be 0 or more"),
        ({"passes": ()}, "no passes given"),
        ({"samples": 0}, "samples must be at least 1"),
        ({"needles": (0,)}, "0 needles"),
        ({"write_chunks": (0,)}, "neither a number of tokens nor 'haystack'"),
        ({"write_chunks": ("hay",)}, "neither a number of tokens nor 'haystack'"),
        ({"protocols": ("open-bok",)}, "did you mean 'open-book'"),
        ({"scope": "samples"}, "did you mean 'sample'"),
        ({"depths": (1.5,)}, "depth 1.5 is outside"),
        ({"lengths": (100,)}, "100 tokens is too short for 3 needles; the shortest is"),
        ({"lengths": (4096, 100)}, "100 tokens is too short"),
    ],
)
def test_wrong_use_is_one_line_before_anything_is_read(changes: dict[str, Any], message: str) -> None:
    model = HonestModel()
    with pytest.raises(UserError, match=message) as error:
        ask(model, **changes)
    assert "\n" not in str(error.value)
    assert model.calls == []
