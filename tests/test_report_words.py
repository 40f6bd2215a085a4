"""The report's sentences and the numbers at its top: what is said follows from the rows."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from report_cases import FWPKM, PKM, PLAIN, bench_rows, bits, guess_rows, needle, realistic_rows, said, with_matches

from fwpkm_eval.reporting import wording
from fwpkm_eval.reporting.highlights import highlights
from fwpkm_eval.reporting.summary import summarise
from fwpkm_eval.runs.rows import Row, rows_to_frame


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return list(realistic_rows())


def test_the_best_rival_with_fast_weights_is_named_and_its_readings_told() -> None:
    """A report on FwPKM does not hide another memory that does as well, or better."""
    found = {"base:fwpkm@2": (10, 10), "base:lact@2": (0, 20), "base:fwmlp@2": (0, 0)}
    rows = [
        needle(model, right, passes=n) for model, pair in found.items() for n, right in zip((1, 4), pair, strict=True)
    ]
    rival = highlights(rows_to_frame(rows))[1]
    assert (rival.number, rival.text) == ("100%", "by base:lact@2, the best other model with fast weights, closed book")
    texts = [f.text for f in summarise(rows_to_frame(rows))["What do re-readings and more frequent writes buy?"]]
    more = "base:lact@2 with one write per reading: going from one reading to 4 finds more"
    assert any(text.startswith(more) for text in texts)
    assert not any("fwmlp" in text for text in texts)


def test_models_without_fast_weights_are_shown_with_the_haystack_in_sight() -> None:
    """Closed book they cannot know; that they find nothing there would say nothing."""
    usual: dict[str, Any] = {"scope": "sample", "dataset": "manual", "needles": 5, "passes": 1, "length": 4096}
    closed = [needle(model, n, **usual, protocol="closed-book") for model, n in (("base:fwpkm@2", 20), ("base", 0))]
    opened = [needle(model, n, **usual, protocol="open-book") for model, n in (("base:fwpkm@2", 19), ("base", 11))]
    shown = highlights(rows_to_frame([*closed, *opened]))
    assert [(one.number, one.text) for one in shown] == [
        ("100%", "of needles found by base:fwpkm@2 at 4K, closed book"),
        ("55%", "by base, the best model without fast weights, open book (the haystack in sight)"),
    ]
    assert len(highlights(rows_to_frame(closed))) == 1


def test_tiles_name_all_that_share_a_number_and_the_book_it_is_from() -> None:
    usual: dict[str, Any] = {"scope": "sample", "dataset": "manual", "length": 4096}
    best = ("base:fwpkm@2", "base:lact@2", "other:fwpkm@2")
    rows = [needle(model, 20, **usual) for model in best]
    rows += [needle(model, 0, **usual, protocol="open-book") for model in (*best, "base", "base:pkm@2")]
    assert [one.text for one in highlights(rows_to_frame(rows))] == [
        "of needles found by base:fwpkm@2 at 4K, closed book",
        "by base:lact@2 and other:fwpkm@2, the best other models with fast weights, closed book",
        "by any model without fast weights, open book (the haystack in sight)",
    ]


def test_of_two_models_with_fwpkm_the_tile_is_of_the_one_that_finds_more_at_the_longest_length() -> None:
    usual: dict[str, Any] = {"scope": "sample", "dataset": "manual"}
    rows = [needle("fa:fwpkm@2", 12, **usual, length=4096), needle("gdn:fwpkm@2", 15, **usual, length=4096)]
    first, second = highlights(rows_to_frame([*rows, needle("gdn:lact@2", 20, **usual, length=4096)]))
    assert (first.number, first.text) == ("75%", "of needles found by gdn:fwpkm@2 at 4K, closed book")
    assert (second.number, second.text.partition(",")[0]) == ("100%", "by gdn:lact@2")
    longer = needle("fa:fwpkm@2", 2, **usual, length=8192)
    assert highlights(rows_to_frame([*rows, longer]))[0].text == "of needles found by fa:fwpkm@2 at 8K, closed book"


def test_the_tile_of_text_is_of_the_model_with_the_fewest_bits_and_tells_the_others() -> None:
    rows = [*bits("fa", 2.8), *bits("gdn", 2.0), *bits("fa:fwpkm@2", 1.96), *bits("gdn:fwpkm@2", 1.7)]
    rows += [*bits("gdn:lact@2", 1.8), *bits("gdn:pkm@2", 1.5), *bits("gdn:lact@2", 1.0, arm="frozen")]
    (shown,) = highlights(rows_to_frame(rows))
    assert shown.number == "−15.0%"
    assert shown.text == "bits per byte of gdn:fwpkm@2 against gdn, the fewest of 3 models with fast weights"
    others = "gdn:lact@2 1.800 (−10.0%), fa:fwpkm@2 1.960 (−30.0% against fa)"
    assert shown.detail.endswith(f"one training of each; the others: {others}")


def test_the_tile_of_text_tells_what_is_left_beside_copying() -> None:
    rows = [*with_matches(PLAIN, 2.0, 1.6), *with_matches(FWPKM, 1.7, 1.52, write_chunk="128")]
    (shown,) = highlights(rows_to_frame(rows))
    assert shown.number == "−15.0%"
    assert shown.detail.endswith("one training of each; with a match model, which copies, 1.520 and 1.600 (−5.0%)")


@pytest.mark.parametrize(
    ("short", "length", "said"),
    [
        (
            0,
            512,
            "base and base:pkm@2 find none at 512 tokens with the haystack in sight either: as trained here they did",
        ),
        (
            3,
            512,
            "base:pkm@2 finds none at 512 tokens with the haystack in sight either: as trained here it did not learn",
        ),
        (0, 4096, "No haystack shorter than 4K tokens was asked: base and base:pkm@2 may not have learned to answer"),
    ],
)
def test_models_that_never_learned_to_answer_are_called_so(short: int, length: int, said: str) -> None:
    where: dict[str, Any] = {"protocol": "open-book", "scope": "sample", "dataset": "manual", "needles": 5, "passes": 1}
    rows = [needle("base:fwpkm@2", 20, **{**where, "length": at, "write_chunk": "1024"}) for at in (length, 32768)]
    for model, found in (("base", short), ("base:pkm@2", 0)):
        rows += [needle(model, found if at == length else 0, **{**where, "length": at}) for at in (length, 32768)]
    texts = [finding.text for finding in summarise(rows_to_frame(rows))["Does the memory hold facts?"]]
    assert any(text.startswith(said) for text in texts), texts
    learned = [row for row in rows if row.model == "base:fwpkm@2"]
    assert not any("learn" in f.text for f in summarise(rows_to_frame(learned))["Does the memory hold facts?"])


def test_how_far_attention_reaches_is_told_of_models_that_learned_to_answer() -> None:
    where: dict[str, Any] = {"protocol": "open-book", "scope": "sample", "dataset": "manual", "needles": 5, "passes": 1}
    rows = [needle("base", right, **{**where, "length": at}) for at, right in ((512, 20), (4096, 14), (32768, 4))]
    rows += [needle("base:fwpkm@2", 20, **{**where, "length": at, "write_chunk": "1024"}) for at in (512, 4096, 32768)]
    texts = [finding.text for finding in summarise(rows_to_frame(rows))["Does the memory hold facts?"]]
    assert (
        "base, without fast weights, did learn to answer: with the haystack in sight it finds 100% at 512, 70% at 4K "
        "and 20% at 32K." in texts
    )
    assert not any("learn" in text for text in texts if not text.startswith("base, without"))
    # Who names any of five needles is right once in five times.
    lucky = [needle("base", 4, **{**where, "length": 512}), *(row for row in rows if row.model != "base")]
    assert not any("did learn" in f.text for f in summarise(rows_to_frame(lucky))["Does the memory hold facts?"])
    far = [row for row in rows if row.length != 512]
    assert not any("did learn" in f.text for f in summarise(rows_to_frame(far))["Does the memory hold facts?"])


def test_the_summary_names_what_was_found_with_counts_and_intervals() -> None:
    rows = [
        needle(FWPKM, 11), needle(FWPKM, 20, passes=4), needle(FWPKM, 19, write_chunk="1024"),
        needle(FWPKM, 20, write_chunk="1024", passes=4), needle(PLAIN, 0), needle(PKM, 1),
    ]  # fmt: skip
    rows = [dataclasses.replace(row, protocol="open-book") for row in rows]
    text = said([*rows, *guess_rows(rows)], "found")
    assert f"Open book, 4K: {FWPKM} finds 11 of 20 (95% interval 34–74%) after one reading" in text
    assert "20 of 20 (84–100%) after 4, with one write per reading" in text
    assert "19 of 20 (76–99%) after one reading and 20 of 20 (84–100%) after 4, with a write every 1,024 tokens" in text
    assert (
        f"Without fast weights: 1 of 20 (1–24%) by {PKM}, the best of 2; guessing would find one in 1,000,000." in text
    )


def test_the_summary_turns_when_the_rows_turn() -> None:
    book: dict[str, Any] = {"protocol": "open-book"}
    good = [needle(FWPKM, 20, **book), needle(PLAIN, 0, **book)]
    assert f"{FWPKM} finds 20 of 20" in said(good, "found")
    bad = [needle(FWPKM, 0, **book), needle(PLAIN, 20, **book)]
    assert f"{FWPKM} finds 0 of 20" in said(bad, "worse")
    assert FWPKM not in said(bad, "found")
    none = [needle(model, 0, **book) for model in (FWPKM, PLAIN, PKM)]
    assert "Without fast weights: 0 of 20 (0–16%) by each of 2. Neither finds any." in said(none, "not found")
    even = [needle(FWPKM, 3, **book), needle(PLAIN, 1, **book)]
    assert "So few samples cannot tell them apart." in said(even, "unclear")
    assert FWPKM not in said(even, "found")
    alone = said([needle(FWPKM, 20, **book)], "note")
    assert "No model without fast weights was asked the same." in alone
    mixed = [needle(FWPKM, 20, **book), needle(FWPKM, 2, write_chunk="1024", **book), needle(PLAIN, 1, **book)]
    assert "Clear is only that it finds more with one write per reading." in said(mixed, "unclear")


@pytest.mark.parametrize(
    ("first", "last", "verdict", "words"),
    [
        (5, 18, "found", "finds more at 4K (25% → 90%)"),
        (18, 5, "worse", "finds fewer at 4K (90% → 25%)"),
        (20, 15, "worse", "finds fewer at 4K (100% → 75%)"),
        (0, 0, "not found", "one reading and 4 find none either way at 4K."),
        (15, 18, "unclear", "no difference that so few samples could show at 4K (75% → 90%)"),
        (20, 20, "note", "one reading already finds all at 4K"),
    ],
)
def test_what_rereading_buys(first: int, last: int, verdict: str, words: str) -> None:
    assert words in said([needle(FWPKM, first), needle(FWPKM, last, passes=4)], verdict)


@pytest.mark.parametrize(
    ("whole", "often", "verdict", "words"),
    [
        (2, 20, "found", "finds more"),
        (20, 2, "worse", "finds fewer"),
        (0, 0, "not found", "finds none either way"),
        (9, 10, "unclear", "makes no clear difference"),
    ],
)
def test_what_more_frequent_writes_buy(whole: int, often: int, verdict: str, words: str) -> None:
    text = said([needle(FWPKM, whole), needle(FWPKM, often, write_chunk="512")], verdict)
    assert f"a write every 512 tokens instead of one write per reading {words}, after one reading, at 4K" in text


def test_the_limits_are_named() -> None:
    rows = [needle(FWPKM, 20), needle(FWPKM, 3, needles=64), needle(FWPKM, 4, passes=2, needles=64)]
    assert "under half of the needles, however often it reads, at 4K with 64 needles and one write" in said(
        rows, "limit"
    )
    assert "(20%)" in said(rows, "limit")
    fine = said([needle(FWPKM, 20), needle(FWPKM, 12, needles=64)])
    assert "at least half of the needles in every setting" in fine
    assert "12 of 20" in fine


@pytest.mark.parametrize(
    ("ours", "frozen", "verdict", "words", "direction"),
    [
        (
            1.7,
            2.1,
            "of these weights",
            "15.0% less than gdn+swa (2.000) and 19.0% less than itself",
            "the same direction",
        ),
        (2.2, 2.1, "of these weights", "10.0% more than gdn+swa (2.000) and 4.8% more than itself", "not the same"),
        (2.001, 2.1, "unclear", "about as many as gdn+swa (2.000) and 4.7% less than itself", "not the same direction"),
        (2.001, 2.0, "unclear", "about as many as gdn+swa (2.000) and about as many as itself", "not the same"),
    ],
)
def test_what_the_summary_says_about_text(ours: float, frozen: float, verdict: str, words: str, direction: str) -> None:
    rows = [*bits(PLAIN, 2.0), *bits(FWPKM, ours, write_chunk="128"), *bits(FWPKM, frozen, arm="frozen")]
    text = said(rows, verdict)
    assert f"On source (stand-in for LC64), {FWPKM} needs {ours:.3f} bits per byte: {words}" in text
    assert f"changes by −5.6% (gdn:fwpkm@2,6,10 against gdn): {direction}" in text


def test_the_summary_tells_what_is_left_beside_copying() -> None:
    rows = [*with_matches(PLAIN, 2.0, 1.6), *with_matches(FWPKM, 1.7, 1.52, write_chunk="128")]
    assert f"it needs 1.520: 5.0% less than {PLAIN} with one (1.600)." in said(rows)
    assert "about as many as" in said(
        [*with_matches(PLAIN, 2.0, 1.6), *with_matches(FWPKM, 1.7, 1.6, write_chunk="128")]
    )
    assert "match model" not in said([*bits(PLAIN, 2.0), *with_matches(FWPKM, 1.7, 1.52, write_chunk="128")])


def test_what_was_not_measured_is_said() -> None:
    assert "Not measured in this run: perplexity and cost." in said([needle(FWPKM, 3)])
    assert "Not measured in this run: needles, perplexity and cost." in said([])
    assert "Not measured" not in said(realistic_rows())


def test_samples_seeds_and_scale_are_said(rows: list[Row]) -> None:
    notes = said(rows, "note")
    assert "Each rate comes from 5 to 20 samples" in notes
    assert "Measured with one seed (0)." in notes
    assert "only directions: the models are of scale micro" in notes
    assert "Measured with 2 seeds." in said([needle(FWPKM, 1), needle(FWPKM, 2, seed=1)])


def test_the_numbers_at_the_top_come_from_the_rows() -> None:
    rows = [
        needle(FWPKM, 20), needle(FWPKM, 3, n=5, length=32768), needle(FWPKM, 4, n=5, length=32768, passes=2),
        needle(PLAIN, 0, n=5, length=32768, protocol="open-book"), *bits(PLAIN, 2.0), *bits(FWPKM, 1.7), *bench_rows(),
    ]  # fmt: skip
    shown = highlights(rows_to_frame(rows))
    assert [highlight.number for highlight in shown] == ["80%", "0%", "−15.0%", "122×"]
    assert "32K" in shown[0].text
    assert "best setting: 2 readings, one write per reading; 4 of 5; 95% interval 38–96%" in shown[0].detail
    assert highlights(rows_to_frame([])) == []


def scan(arm: str, value: float, metric: str = "speedup_forward", **fields: Any) -> Row:
    size = {"dataset": "S 512, dk 512, dv 512, H 1, k 8, C 512, T 2048, B 1", "scale": "paper"}
    common: dict[str, Any] = {"task": "bench", "unit": "ratio", "backend": "torch", "device": "cpu", **size}
    return Row(arm=arm, metric=metric, value=value, **{**common, **fields})


def test_the_speed_at_the_top_is_a_case_chosen_beforehand_and_not_the_largest() -> None:
    rows = [
        scan("scan/torch", 32.3),
        scan("scan/torch in place", 183.3),
        scan("scan/torch in place", 190, "speedup_training"),
        scan("scan/torch, tuned malloc", 9.9),
        scan("scan/torch in place, tuned malloc", 19.7, ci_low=18.2, ci_high=23.0),
        scan("write/torch", 493),
        scan("layer/fwpkm_eval", 220, "speedup_over_peer_forward"),
    ]
    (shown,) = highlights(rows_to_frame(rows))
    assert (shown.number, shown.text) == ("20×", "as fast as the reference")
    assert shown.detail == (
        "forward, backend torch in place, S 512, T 2048, malloc told to keep freed memory; "
        "10th to 90th percentile 18.2–23×"
    )
    (shown,) = highlights(rows_to_frame(rows[:3]))
    assert shown.number == "183×"
    assert "malloc as the system has it" in shown.detail
    assert highlights(rows_to_frame(rows[-2:])) == [], "neither an operation alone nor a peer's layer is the scan"


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0, "0%"), (0.004, "0.4%"), (0.85, "85%"), (0.9996, "99.9%"), (1.0, "100%"), (1.18, "118%"), (1.004, "100%")],
)
def test_shares_above_one_are_what_they_are(share: float, text: str) -> None:
    assert wording.percent(share) == text
