"""Rows of the needle task: rates that add up, depths, the floor of guessing, and what is refused."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from honest_model import HonestModel
from niah_cases import LENGTH, TEXT, TOKENIZER, ask, by_name, sample, settings

from fwpkm_eval.errors import UserError
from fwpkm_eval.tasks import niah
from fwpkm_eval.tasks.niah_rows import guess_rows, niah_rows

pytestmark = pytest.mark.usefixtures("one_thread")


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
    result = ask(
        HonestModel(),
        samples=1,
        passes=(1,),
        lengths=(250, 300),
        needles=(1, 4),
        write_chunks=("haystack", 50),
    )
    assert {name[:3] for name in by_name(result)} == {
        (length, needles, chunk) for length in (250, 300) for needles in (1, 4) for chunk in ("haystack", 50)
    }
    for setting, (_, tokens) in result.cost.items():
        longer = dataclasses.replace(setting, length=300)
        assert result.cost[longer][1] - tokens == 2 * (300 - setting.length), "each haystack is read twice"


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


def test_one_sample_that_diverged_leaves_no_mean() -> None:
    result = ask(HonestModel(), passes=(1,))
    result.answers[0] = dataclasses.replace(result.answers[0], logprob=math.nan)
    rows = {row.metric: row for row in niah_rows(HonestModel(), TEXT, settings(passes=(1,)), result)}
    assert rows["diverged"].value == 0.5
    assert math.isnan(rows["answer_logprob"].value or 0)


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
        ({"protocols": ("open-bok",)}, "did you mean open-book"),
        ({"scope": "samples"}, "did you mean sample"),
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
