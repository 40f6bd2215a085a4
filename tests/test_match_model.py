"""The match model beside a language model: what it says, that it sees nothing ahead, and what it is worth."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fwpkm_eval.tasks.match_model import LONGEST, NO_MATCH, longest_matches, mixed_nats

TEXTS = st.lists(st.integers(0, 2), min_size=1, max_size=60)
LEAST = st.integers(1, 4)


def mixed(tokens: list[int], nats: list[float], starts: tuple[int, ...] = (), size: int = 1) -> list[float]:
    byte_counts = np.full(len(tokens), size, dtype=np.int32)
    return mixed_nats(np.array(nats, dtype=np.float32), np.array(tokens), starts, byte_counts).tolist()


def by_definition(tokens: list[int], least: int) -> tuple[list[int], list[int]]:
    """The same by looking at all earlier places each time."""
    predicted, lengths = [NO_MATCH], [0]
    at = None
    for now in range(1, len(tokens)):
        if at is not None and tokens[at] == tokens[now - 1]:
            at += 1
        else:
            places = [
                p for p in range(least, now) if now >= least and tokens[p - least : p] == tokens[now - least : now]
            ]
            at = max(places, default=None)
        agreeing = 0
        while (
            at is not None and agreeing < min(at, LONGEST) and tokens[at - agreeing - 1] == tokens[now - agreeing - 1]
        ):
            agreeing += 1
        predicted.append(NO_MATCH if at is None else tokens[at])
        lengths.append(agreeing)
    return predicted, lengths


@given(TEXTS, LEAST)
def test_matches_are_the_last_earlier_occurrence_followed_while_it_is_right(tokens: list[int], least: int) -> None:
    predicted, lengths = longest_matches(np.array(tokens), least)
    assert (predicted.tolist(), lengths.tolist()) == by_definition(tokens, least)


def test_a_match_by_hand() -> None:
    text = "abcd-abcde"
    predicted, lengths = longest_matches(np.frombuffer(text.encode(), np.uint8).astype(np.int64), 2)
    assert [chr(token) if token >= 0 else "." for token in predicted] == list(".......cd-")
    assert lengths.tolist() == [0, 0, 0, 0, 0, 0, 0, 2, 3, 4]


@given(TEXTS, st.data())
def test_nothing_is_seen_ahead(tokens: list[int], data: st.DataObject) -> None:
    cut = data.draw(st.integers(1, len(tokens)))
    other = tokens[:cut] + data.draw(
        st.lists(st.integers(0, 2), min_size=len(tokens) - cut, max_size=len(tokens) - cut)
    )
    nats = [0.5 + token for token in range(len(tokens))]
    assert mixed(tokens, nats)[:cut] == mixed(other, nats)[:cut]


@given(TEXTS, st.lists(st.floats(0.01, 1), min_size=3, max_size=3))
def test_the_mixture_is_a_distribution(tokens: list[int], weights: list[float]) -> None:
    """Over all tokens that could come next, its probabilities sum to one."""
    nats = [-math.log(weight / sum(weights)) for weight in weights]
    last = [mixed([*tokens, token], [nats[one] for one in [*tokens, token]])[-1] for token in range(3)]
    assert sum(math.exp(-one) for one in last) == pytest.approx(1, abs=1e-6)


def test_what_repeats_is_copied_and_what_does_not_costs_little_more() -> None:
    chooser = random.Random(0)
    noise = chooser.choices(range(256), k=2000)
    bits = [8 * math.log(2)] * len(noise)
    once, twice = mixed(noise, bits), mixed(noise * 2, bits * 2)
    assert sum(once) == pytest.approx(sum(bits), rel=1e-3)
    assert sum(twice[len(noise) :]) < 0.02 * sum(bits)


def test_nothing_is_copied_from_before_the_memory_began() -> None:
    noise = random.Random(0).choices(range(256), k=2000)
    bits = [8 * math.log(2)] * (2 * len(noise))
    assert sum(mixed(noise * 2, bits, starts=(0, len(noise)))) == pytest.approx(sum(bits), rel=1e-3)


def test_shorter_contexts_are_looked_up_where_tokens_are_longer() -> None:
    tokens, nats = [1, 2, 3, 4, 5, 1, 2, 3], [5.0] * 8
    assert mixed(tokens, nats, size=1) == pytest.approx(nats)
    found = mixed(tokens, nats, size=4)
    assert found[:7] == pytest.approx(nats[:7])
    assert found[7] == pytest.approx(-math.log(0.5 * math.exp(-5) + 0.5))  # the first match is trusted by half


def test_losses_that_are_no_numbers() -> None:
    """nan stays and teaches nothing; of a token that the model gave no chance a match makes a finite loss."""
    tokens = [1, 2, 3, 4] * 4
    nats = [2.0] * 16
    whole = mixed(tokens, nats)
    assert all(map(math.isnan, mixed(tokens, [math.nan] * 16)))
    broken = mixed(tokens, [*nats[:10], math.nan, *nats[11:]])
    assert [place for place, loss in enumerate(broken) if math.isnan(loss)] == [10]
    assert math.isfinite(mixed(tokens, [*nats[:10], math.inf, *nats[11:]])[10])
    assert mixed([*tokens[:10], 9], [*nats[:10], math.inf])[10] == math.inf
    assert whole[10] < nats[10]


@pytest.mark.parametrize("tokens", [[], [3], [3, 3]])
def test_texts_of_hardly_any_token(tokens: list[int]) -> None:
    assert mixed(tokens, [1.0] * len(tokens)) == [1.0] * len(tokens)
