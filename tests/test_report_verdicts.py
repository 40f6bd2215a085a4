"""What the report's verdicts rest on: exact tests of rates, trainings of a model, chance; and what is told of them."""

from __future__ import annotations

from typing import Any

import pytest
from report_cases import FWPKM, PKM, PLAIN, bench_rows, bits, guess_rows, line_of, needle, said, tables_of

from fwpkm_eval.reporting.contrasts import above_chance, contrast, relative_change
from fwpkm_eval.reporting.highlights import highlights
from fwpkm_eval.reporting.measurements import Measurement, niah_results
from fwpkm_eval.reporting.report import facts, question
from fwpkm_eval.reporting.summary import rules
from fwpkm_eval.runs.rows import Row, rows_to_frame


def rate(successes: int, n: int, *by_training: float) -> Measurement:
    return Measurement(successes / n, n, by_training=tuple(enumerate(by_training)))


@pytest.mark.parametrize(
    ("one", "other", "sign"),
    [
        (rate(5, 5), rate(2, 5), 0),  # Newcombe's interval leaves out zero, but p is 0.17
        (rate(3, 5), rate(0, 5), 0),
        (rate(4, 5), rate(0, 5), 1),
        (rate(0, 5), rate(5, 5), -1),
        (rate(19, 20), rate(20, 20), 0),
        (rate(13, 20), rate(6, 20), 0),  # p is 0.056
        (rate(14, 20), rate(6, 20), 1),  # p is 0.026
        (rate(20, 40, 1.0, 0.0), rate(0, 40, 0.0, 0.0), 0),  # all of it is one training
        (rate(20, 40, 0.6, 0.4), rate(0, 40, 0.0, 0.0), 1),
        (rate(20, 40, 0.6, 0.4), rate(0, 20), 1),
        (Measurement(1.0), rate(0, 5), 0),
    ],
)
def test_rates_differ_where_an_exact_test_and_every_training_say_so(
    one: Measurement, other: Measurement, sign: int
) -> None:
    assert (contrast(one, other), contrast(other, one)) == (sign, -sign)


def test_above_chance() -> None:
    assert above_chance(rate(4, 5), 0.2)
    assert not above_chance(rate(3, 5), 0.2), "p is 0.058"
    assert not above_chance(rate(20, 40, 1.0, 0.0), 0.2), "one training did it all"
    assert above_chance(rate(1, 5), 1e-6)
    assert not above_chance(Measurement(1.0), 0.2)


def test_changes_are_paired_by_training_and_one_training_has_no_direction() -> None:
    one = Measurement(1.8, by_training=((1, 1.7), (2, 1.9)))
    other = Measurement(2.0, by_training=((1, 1.9), (2, 2.1)))
    found = relative_change(one, other)
    assert found.by_training == pytest.approx((1.7 / 1.9 - 1, 1.9 / 2.1 - 1))
    assert found.value == pytest.approx(sum(found.by_training) / 2)
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.value < found.high < 0, "the seeds move both alike"
    assert (found.direction, relative_change(other, one).direction) == (-1, 1)
    alone = relative_change(Measurement(1.0), Measurement(2.0))
    assert (alone.value, alone.low, alone.direction) == (-0.5, None, 0)
    crossed = relative_change(one, Measurement(2.0, by_training=((1, 1.6), (2, 2.4))))
    assert crossed.direction == 0
    same_seed = Measurement(2.0, by_training=((1, 1.6), (1, 2.4)))
    assert relative_change(same_seed, same_seed).by_training == ()
    three = Measurement(1.8, by_training=((1, 1.7), (1, 1.8), (2, 1.9)))
    assert relative_change(three, other).by_training == relative_change(other, three).by_training == ()


def trained(model: str, values: tuple[float, ...], **fields: Any) -> list[Row]:
    """Bits per byte of several trainings."""
    rows = [bits(model, v, seed=seed, weights_hash=f"{model}{seed}", **fields) for seed, v in enumerate(values)]
    return [row for of in rows for row in of]


@pytest.mark.parametrize(
    ("ours", "verdict", "words"),
    [
        ((1.70, 1.72), "found", "14.5% less than gdn+swa (2.000; 95% interval −"),
        ((1.50, 1.98), "unclear", "13.0% less than gdn+swa"),
        ((2.30, 2.31), "worse", "15.2% more than gdn+swa"),
        ((2.001, 2.002), "not found", "about as many as gdn+swa"),
        ((1.70,), "of these weights", "15.0% less than gdn+swa (2.000)."),
        ((1.995,), "unclear", "about as many as gdn+swa"),
    ],
)
def test_bits_per_byte_are_judged_by_the_trainings_of_the_run(
    ours: tuple[float, ...], verdict: str, words: str
) -> None:
    rows = [*trained(PLAIN, (2.0, 2.0)[: len(ours)]), *trained(FWPKM, ours)]
    assert words in said(rows, verdict)


@pytest.mark.parametrize(
    ("frozen", "verdict"), [((1.90, 1.92), "found"), ((1.60, 1.81), "unclear"), ((1.60, 1.61), "worse")]
)
def test_both_comparisons_of_a_model_are_judged(frozen: tuple[float, ...], verdict: str) -> None:
    """It clearly needs less than its baseline; with its writes off more, now more and now less, or less."""
    rows = [*trained(PLAIN, (2.0, 2.0)), *trained(FWPKM, (1.70, 1.72)), *trained(FWPKM, frozen, arm="frozen")]
    assert f"{FWPKM} needs 1.710 bits per byte" in said(rows, verdict)


def test_one_training_is_said_to_be_one() -> None:
    once = [*bits(PLAIN, 2.0), *bits(FWPKM, 1.7)]
    assert (
        "Bits per byte are of one training of each model: another may differ from it by as much as two models do."
        in said(once)
    )
    assert "may differ from it by as much as two models do" in rules(rows_to_frame(once))
    twice = said([*trained(PLAIN, (2.0, 2.1)), *trained(FWPKM, (1.7, 1.75))])
    assert "of one training" not in twice
    assert "Measured with 2 seeds, each a training of its own." in twice


def test_trainings_stand_apart_in_tables_and_tokens_are_those_of_one_reading() -> None:
    rows = [*trained(PLAIN, (2.0, 2.0)), *trained(FWPKM, (1.7, 1.8)), *trained(FWPKM, (1.9, 2.0), arm="frozen")]
    table = tables_of(rows)["perplexity-source"]
    line = line_of(table, model=FWPKM)
    assert line["bits per byte"] == "1.750 [1.700 to 1.800]"
    assert line["writes off"] == "1.950 [1.900 to 2.000]"
    assert line["against baseline"] == "−12.5% [−15.0% to −10.0%]"
    assert line_of(table, model=PLAIN)["bits per byte"] == "2.000", "where they are alike"
    assert table.note.startswith("5,000 tokens, each scored once")
    assert "Pooled over 2 trainings of a model" in table.note
    assert "Pooled" not in tables_of(bits(PLAIN, 2.0))["perplexity-source"].note


def test_rates_of_several_trainings_are_pooled_and_shown_apart() -> None:
    rows = [needle(FWPKM, right, seed=seed, weights_hash=f"w{seed}") for seed, right in ((1, 20), (2, 18))]
    rows += [needle(FWPKM, 10, seed=seed, weights_hash="w1", passes=2) for seed in (1, 2)]
    table = tables_of(rows)["niah-closed-book"]
    line = line_of(table, model=FWPKM)
    assert line["one reading"] == "95% (83–99) [90% to 100%]"
    assert line["2 readings"] == "50% (35–65)", "two draws of samples for one training are one rate"
    assert "No interval covers that another training differs." in table.note
    assert "38 of 40 (95% interval 83–99%; by training 90% to 100%)" in said(rows)
    (shown,) = highlights(rows_to_frame(rows))
    assert shown.detail.endswith("38 of 40; 95% interval 83–99%; by training 90% to 100%")
    assert "40 samples, those of 2 trainings taken together" in said(rows, "note")


def test_seeds_weigh_by_their_samples() -> None:
    """At one depth each seed has as many samples as happened to be asked there."""
    rows = [needle(FWPKM, 1, n=1, depth=0.05), needle(FWPKM, 0, n=3, depth=0.05, seed=1)]
    [by_model] = niah_results(rows_to_frame(rows)).depths.values()
    [pooled] = by_model[FWPKM].values()
    assert (pooled.value, pooled.n, pooled.seeds) == (0.25, 4, 2)


def test_samples_that_several_trainings_were_asked_count_once() -> None:
    rows = [needle(FWPKM, right, n=5, weights_hash=f"w{right}") for right in (3, 5)]
    table = tables_of(rows)["niah-closed-book"]
    assert line_of(table, model=FWPKM)["one reading"] == "80% (38–96) [60% to 100%]", "4 of 5, not 8 of 10"
    assert "Samples that several trainings were asked count once in an interval." in table.note
    assert "Measured with one seed (0); the 2 trainings of a model were asked of the same samples." in said(rows)
    assert "Each rate comes from 5 samples, each asked of 2 trainings (tables show them apart)" in said(rows)
    assert "8 of 10 (5 samples; 95% interval 38–96%; by training 60% to 100%)" in said(rows)
    two_seeds = [needle(FWPKM, 3, n=5, weights_hash=w, seed=seed) for seed in (0, 1) for w in ("a", "b")]
    assert line_of(tables_of(two_seeds)["niah-closed-book"], model=FWPKM)["one reading"] == "60% (31–83)", "6 of 10"


def test_trainings_that_share_a_seed_are_each_held_against_each() -> None:
    one = Measurement(0.95, 40, by_training=((0, 0.9), (0, 1.0)), distinct=20)
    assert contrast(one, Measurement(0.3, 40, by_training=((0, 0.2), (0, 0.4)), distinct=20)) == 1
    assert contrast(one, Measurement(0.5, 40, by_training=((0, 0.05), (0, 0.95)), distinct=20)) == 0
    few = Measurement(1.0, 8, by_training=((0, 1.0), (0, 1.0)), distinct=4)
    none = Measurement(0.5, 8, by_training=((0, 0.5), (0, 0.5)), distinct=4)
    assert contrast(few, none) == 0, "4 of 4 against 2 of 4, and not 8 of 8 against 4 of 8 (p is 0.08)"
    assert not above_chance(Measurement(0.6, 10, by_training=((0, 0.4), (0, 0.8)), distinct=5), 0.2)


def test_closed_book_nothing_is_held_against_models_that_cannot_know() -> None:
    rows = [needle(FWPKM, 20), needle(PLAIN, 0), needle(PKM, 0)]
    rows += guess_rows(rows)
    assert f"{FWPKM} finds 20 of 20 (95% interval 84–100%) after one reading, with one write per reading." in said(
        rows, "found"
    )
    assert (
        f"Closed book: a model without fast weights cannot know, by construction, and {PLAIN} and {PKM} find none. "
        "That is a check of the protocol and no comparison. Rates are held against chance: any needle's number, "
        "whoever is asked for, is right one in 5 times (guessing: one in 1,000,000)."
    ) in said(rows, "note")
    assert "Without fast weights" not in said(rows)
    assert "It finds no more than chance." in said([needle(FWPKM, 3), needle(PLAIN, 0)], "not found")
    assert "So few samples cannot tell it from chance." in said([needle(FWPKM, 3, n=5)], "unclear")
    mixed = [needle(FWPKM, 20), needle(FWPKM, 2, write_chunk="512")]
    assert "Clear is only that it finds more than chance with one write per reading." in said(mixed, "unclear")


def test_a_closed_book_that_was_open_is_compared_with() -> None:
    assert f"Without fast weights: 20 of 20 (84–100%) by {PLAIN}" in said([needle(FWPKM, 20), needle(PLAIN, 20)])


def test_that_sentences_are_many_is_said_once() -> None:
    told = rules(rows_to_frame([needle(FWPKM, 3), needle(PLAIN, 0), *bits(PLAIN, 2.0), *bits(FWPKM, 1.7)]))
    assert told.count("none is corrected") == 1
    assert "Fisher's exact test gives p < 0.05" in told


def test_the_question_of_a_page_is_what_its_rows_are_about() -> None:
    remember = "Can a model remember"
    assert question(rows_to_frame([needle(FWPKM, 3), *bench_rows()])).startswith(remember)
    assert "time and space" in question(rows_to_frame(bench_rows()))
    assert "How many facts" in question(rows_to_frame([Row(task="capacity", metric="exact_match", value=0.5)]))
    assert question(rows_to_frame([])).startswith(remember)


def test_rows_of_several_versions_are_told_by_task() -> None:
    def told(*rows: Row) -> dict[str, str]:
        return {fact.name: fact.value for fact in facts({"command": "x", "started": "now"}, rows_to_frame(rows))}

    old, new = needle(FWPKM, 3, version="0.3.0"), needle(FWPKM, 3, passes=2, version="0.4.0")
    ablation = Row(task="ablation", metric="bits_per_byte", value=3, version="0.2.0")
    text = Row(task="ppl", metric="perplexity", value=3, version="0.4.0")
    assert told(old, new, ablation, text)["Rows of versions"] == (
        "0.2.0 (ablation), 0.3.0 and 0.4.0 (niah), 0.4.0 (ppl): put together from resumed runs"
    )
    assert "Rows of versions" not in told(new, text)
