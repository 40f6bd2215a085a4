"""The ablation's tables: differences paired over the seeds, and words that say which are larger than their spread."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas
import pytest

from fwpkm_eval.reporting.measurements_ablation import WITHIN, ArmResult, Difference, Rates, difference, mean_of
from fwpkm_eval.reporting.table import Table
from fwpkm_eval.reporting.tables import build_tables
from fwpkm_eval.reporting.tables_ablation import ablation_tables, difference_text
from fwpkm_eval.runs.rows import Row, rows_to_frame


def rows_of(arm: str, score: str, found: Mapping[int, float], bits: Mapping[int, float]) -> list[Row]:
    common: dict[str, Any] = {
        "task": "ablation",
        "model": "gdn+swa:fwpkm@2",
        "scale": "micro",
        "arm": arm,
        "score": score,
    }
    needles: dict[str, Any] = {"metric": "exact_match", "unit": "fraction", "needles": 5, "length": 4096}
    rows = [Row(**common, metric="bits_per_byte", value=value, seed=seed) for seed, value in bits.items()]
    for seed, value in found.items():
        # One reading finds as much less as two find more: the mean of both is the value.
        rows.append(Row(**common, **needles, value=value - 0.05, passes=1, write_chunk="1024", seed=seed))
        rows.append(Row(**common, **needles, value=value + 0.05, passes=2, write_chunk="1024", seed=seed))
    return rows


def frame(*groups: list[Row]) -> pandas.DataFrame:
    return rows_to_frame([row for group in groups for row in group])


def table(tables: list[Table], name: str) -> dict[str, list[str]]:
    """The rows of a table, by their labels."""
    found = next(one for one in tables if one.name == name)
    lines = [[cell.text for cell in row] for row in found.rows]
    return {" ".join(line[: found.labels]): line[found.labels :] for line in lines}


REFERENCE = rows_of("reference", "idw", {0: 0.9, 1: 0.5, 2: 0.7}, {0: 3.0, 1: 3.3, 2: 3.1})


def test_differences_are_paired_over_the_seeds() -> None:
    """Seeds differ by more than the arm does, but the arm loses 0.2 (± 0.02) with each of them."""
    arm = rows_of("no-gate", "idw", {0: 0.7, 1: 0.29, 2: 0.51}, {0: 3.1, 1: 3.2, 2: 3.1})
    tables = ablation_tables(frame(REFERENCE, arm))
    found = table(tables, "ablation-5-needles")
    assert found["reference"] == ["70% (20–100)", "–", "–"]
    assert found["no-gate"] == ["50% (0–100)", "−20 points (−22 to −18)", "worse"]
    bits = table(tables, "ablation-bits")
    assert bits["no-gate"][1:] == ["0.000 (−0.248 to +0.248)", "within the seeds' spread"]


def test_ways_of_asking_are_averaged_over_the_seeds_that_have_all_of_them() -> None:
    rates = {(5, "64", 1): {0: 0.25, 1: 0.9}, (5, "64", 2): {0: 0.75}, (8, "64", 1): {2: 1.0}}
    found = ArmResult(found={way: Rates(by_seed) for way, by_seed in rates.items()}).found_of(5)
    assert found == {0: 0.5}
    assert found.haystacks is None


def test_where_all_seeds_are_alike_the_interval_is_over_all_haystacks() -> None:
    """Rates of few haystacks tie: an interval without width would call one haystack of twelve a finding."""

    def rates(*values: float) -> Rates:
        found = Rates(enumerate(values))
        found.haystacks = 12
        return found

    one_less, all_of_them, none = rates(*[11 / 12] * 3), rates(1, 1, 1), rates(0, 0, 0)
    little, much = (difference(arm, all_of_them, as_rate=True) for arm in (one_less, none))
    assert little is not None
    assert much is not None
    assert (little.verdict, much.verdict) == (WITHIN, "worse")
    assert (little.low, little.high) == pytest.approx((-0.2183, 0.0275), abs=1e-4)  # Newcombe's, 33 and 36 of 36
    assert mean_of(none, as_rate=True) == pytest.approx((0.0, 0.0, 0.0964), abs=1e-4)  # Wilson's, 0 of 36
    assert mean_of(all_of_them, as_rate=True) == pytest.approx((1.0, 0.9036, 1.0), abs=1e-4)
    assert mean_of(rates(0.5), as_rate=True) == (0.5, None, None)
    unlike = difference(rates(0.5, 0.75, 0.5), all_of_them, as_rate=True)
    assert unlike is not None
    assert unlike.high == pytest.approx(-0.0581, abs=1e-4), "Student's t"


def test_words_say_which_way_is_better() -> None:
    lower = difference({0: 1.0, 1: 1.1}, {0: 2.0, 1: 2.1}, as_rate=False)
    higher = difference({0: 1.0, 1: 1.1}, {0: 2.0, 1: 2.1}, as_rate=True)
    assert lower is not None
    assert higher is not None
    assert (lower.verdict, higher.verdict) == ("better", "worse")


def test_no_interval_of_a_rate_leaves_what_a_rate_can_be() -> None:
    lost = difference({0: 0.0, 1: 0.1, 2: 0.0}, {0: 0.9, 1: 0.95, 2: 1.0}, as_rate=True)
    won = difference({0: 0.9, 1: 0.6}, {0: 0.5, 1: 0.5}, as_rate=True)
    assert lost is not None
    assert won is not None
    assert difference_text(lost, True) == "−92 points (−100 to −73)"
    assert difference_text(won, True) == "+25 points (−100 to +100)"
    free = difference({0: 0.9, 1: 0.6}, {0: 0.5, 1: 0.5}, as_rate=False)
    assert free is not None
    assert difference_text(free, False) == "+0.250 (−1.656 to +2.156)"
    full = difference({0: 1.0, 1: 0.4, 2: 1.0}, {0: 1.0, 1: 1.0, 2: 1.0}, as_rate=True)
    assert full is not None
    assert full.verdict == "within the seeds' spread"


def test_the_interval_of_a_difference_is_not_cut_at_what_these_seeds_left_room_for() -> None:
    """An arm that finds nothing loses what each reference found: that spreads both ways, and seeds lie within."""
    reference = {0: 0.55, 1: 0.68, 2: 0.57}
    lost = difference(dict.fromkeys(reference, 0.0), reference, as_rate=True)
    assert lost is not None
    assert lost.low is not None
    assert lost.high is not None
    assert lost.mean - lost.low == pytest.approx(lost.high - lost.mean)
    assert all(lost.low < change < lost.high for change in lost.by_seed.values())


@pytest.mark.parametrize(
    ("low", "high", "as_rate", "text"),
    [
        (-0.0023, 0.34, True, "+17 points (−0.2 to +34)"),
        (0.0000049, 0.127, False, "+0.170 (+0.000005 to +0.127)"),
        (1e-17, 0.2, False, "+0.170 (0.000 to +0.200)"),
        (0.0, 0.34, True, "+17 points (0 to +34)"),
        (0.004, 0.34, True, "+17 points (+0.4 to +34)"),
    ],
)
def test_a_bound_that_is_not_0_is_not_written_as_0(low: float, high: float, as_rate: bool, text: str) -> None:
    assert difference_text(Difference(0.17, low, high, not as_rate, {}), as_rate) == text


def test_the_columns_say_what_they_hold() -> None:
    (found, *_) = ablation_tables(frame(REFERENCE))
    assert found.columns == ("arm", "idw", "idw: difference", "idw: verdict")
    assert "±" not in found.note


def test_one_seed_says_nothing_of_the_spread_and_no_shared_seed_nothing_at_all() -> None:
    one = difference({0: 1.0, 5: 9.0}, {0: 2.0, 1: 1.0}, as_rate=False)
    assert one is not None
    assert (one.mean, one.low, one.high, one.verdict) == (-1.0, None, None, "–")
    assert difference({0: 1.0}, {1: 1.0}, as_rate=False) is None


def test_scorings_stand_side_by_side_and_are_compared() -> None:
    dot = rows_of("reference", "dot", {0: 0.95, 1: 0.55, 2: 0.75}, {0: 3.1, 1: 3.4, 2: 3.2})
    tables = ablation_tables(frame(REFERENCE, dot))
    assert table(tables, "ablation-bits")["reference"][0::3] == ["3.133 (2.754–3.513)", "3.233 (2.854–3.613)"]
    scoring = table(tables, "ablation-scoring")
    assert scoring["reference 5 needles found"] == ["+5 points (+5 to +5)", "better"]
    assert scoring["reference bits per byte"] == ["+0.100 (+0.100 to +0.100)", "worse"]
    assert "ablation-scoring" not in {one.name for one in ablation_tables(frame(REFERENCE))}


def test_an_arm_that_diverged_says_when_and_is_compared_over_the_other_seeds() -> None:
    arm = rows_of("no-entropy", "idw", {0: 0.8, 1: 0.4}, {0: 3.1, 1: 3.4})
    gone = Row(task="ablation", metric="diverged", value=120, unit="step", arm="no-entropy", score="idw", seed=2)
    found = table(ablation_tables(frame(REFERENCE, arm, [gone])), "ablation-5-needles")
    assert found["no-entropy"] == [
        "60% (0–100); 1 diverged (after step 120)",
        "−10 points (−10 to −10)",
        "worse",
    ]
    all_gone = table(ablation_tables(frame(REFERENCE, [gone])), "ablation-5-needles")
    assert all_gone["no-entropy"] == ["1 diverged (after step 120)", "–", "–"]


def test_text_on_which_a_model_diverged_is_no_number() -> None:
    arm = rows_of("no-gate", "idw", {0: 0.7, 1: 0.3, 2: 0.5}, {0: float("nan"), 1: 3.2, 2: 3.1})
    bits = table(ablation_tables(frame(REFERENCE, arm)), "ablation-bits")
    assert bits["no-gate"][0] == "3.150 (2.515–3.785)"


def test_the_report_has_them_and_other_runs_do_not() -> None:
    names = [one.name for one in build_tables(frame(REFERENCE))]
    assert names[:2] == ["ablation-5-needles", "ablation-bits"]
    assert "ablation-5-needles-1024" in names
    with pytest.raises(StopIteration):
        table(build_tables(frame([Row(task="ppl", metric="perplexity", value=3.0, model="gdn")])), "ablation-bits")


def test_one_training_each_has_no_intervals_and_no_verdicts() -> None:
    rows = frame(
        rows_of("reference", "idw", {0: 0.9}, {0: 2.0}),
        rows_of("reference", "dot", {0: 0.8}, {0: 2.1}),
        rows_of("no-gate", "idw", {0: 0.5}, {0: 2.5}),
    )
    tables = {one.name: one for one in ablation_tables(rows)}
    bits, scoring = tables["ablation-bits"], tables["ablation-scoring"]
    assert bits.columns == ("arm", "idw", "idw: difference", "dot", "dot: difference")
    assert table([bits], "ablation-bits")["no-gate"] == ["2.500", "+0.500", "–", "–"]
    assert scoring.columns == ("arm", "measure", "dot less idw")
    for one in tables.values():
        assert "interval" not in one.note
        assert ("One training of each" in one.note) == (one.name != "ablation-training")
