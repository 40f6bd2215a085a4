"""Needle in a haystack: each statement of the protocols, on a model whose memory can be looked into."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from honest_model import HonestModel
from niah_cases import LENGTH, TEXT, TOKENIZER, Plainly, ask, by_name, exactly, sample, settings
from tiny_models import tiny_model

from fwpkm_eval.tasks import niah
from fwpkm_eval.tasks.divergence import DivergenceWatch
from fwpkm_eval.tasks.niah import evaluate_niah
from fwpkm_eval.tasks.niah_rows import niah_rows

pytestmark = pytest.mark.usefixtures("one_thread")


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


@pytest.mark.parametrize("protocol", ["closed-book", "published"])
def test_in_scope_stream_a_divergence_is_told_after_all_tokens_that_the_memory_read(
    protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    monkeypatch.setattr(DivergenceWatch, "look", lambda self, state, tokens: looks.append(tokens))
    ask(HonestModel(), samples=3, scope="stream", passes=(2,), protocols=(protocol,))
    of_each = 2 * LENGTH + (len(sample(0).question) if protocol == "published" else 0)
    assert looks[-1] == 3 * of_each
    looks.clear()
    ask(HonestModel(), samples=3, passes=(2,), protocols=(protocol,))
    assert looks[-1] == of_each
    asked = [settings(scope=scope, protocols=(protocol,), passes=(1,)) for scope in ("sample", "stream")]
    assert niah.scoring_version(asked[1]) == niah.scoring_version(asked[0]) + 2


def test_what_is_named_twice_is_asked_once() -> None:
    """Asked twice, the same answers would count as twice as many."""
    twice = settings(lengths=(200, 200), passes=(1, 2, 1), needles=(3, 3), protocols=("open-book", "open-book"))
    assert twice == settings(lengths=(200,), passes=(1, 2), needles=(3,), protocols=("open-book",))


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
