"""Tables that hold one value of a model call its trainings by their weights: none is lost, none stands for another."""

from __future__ import annotations

from typing import Any

from fwpkm_eval.reporting.tables_harness import harness_tables
from fwpkm_eval.reporting.tables_longbench import longbench_tables
from fwpkm_eval.reporting.training_seeds import trainings_apart
from fwpkm_eval.runs.rows import Row, rows_to_frame

TRAINED: dict[str, Any] = {"model": "gdn:fwpkm@1", "write_chunk": "haystack"}


def test_two_trainings_have_names_of_their_own_and_one_its_usual_one() -> None:
    rows = [Row(model="gdn", weights_hash="c" * 16), Row(model="gdn:fwpkm@1", weights_hash="a" * 16)]
    assert list(trainings_apart(rows_to_frame(rows))["model"]) == ["gdn", "gdn:fwpkm@1"]
    both = rows_to_frame([*rows, Row(model="gdn:fwpkm@1", weights_hash="b" * 16), Row(model="gdn:fwpkm@1")])
    assert list(trainings_apart(both)["model"]) == [
        "gdn", "gdn:fwpkm@1 · aaaaaaaa", "gdn:fwpkm@1 · bbbbbbbb", "gdn:fwpkm@1",
    ]  # fmt: skip


def test_answers_of_two_trainings_are_two_lines() -> None:
    asked: dict[str, Any] = {"task": "longbench", "metric": "answer_perplexity", "dataset": "hotpotqa", "n": 9}
    rows = [
        Row(**asked, **TRAINED, passes=0, value=value, weights_hash=name * 16) for name, value in (("a", 3), ("b", 4))
    ]
    (table,) = longbench_tables(rows_to_frame(rows))
    assert [[cell.text for cell in line][0::3] for line in table.rows] == [
        ["gdn:fwpkm@1 · aaaaaaaa", "3.00"], ["gdn:fwpkm@1 · bbbbbbbb", "4.00"],
    ]  # fmt: skip


def test_a_task_asked_with_several_numbers_of_needles_has_a_line_for_each() -> None:
    asked: dict[str, Any] = {"task": "lm-eval:fwpkm_niah", "metric": "exact_match", "length": 512, "n": 3}
    rows = [Row(**asked, **TRAINED, needles=count, value=value) for count, value in ((5, 0.0), (1, 1.0))]
    (table,) = harness_tables(rows_to_frame(rows))
    assert [[line[0].text, line[-1].text] for line in table.rows] == [
        ["fwpkm_niah, 5 needles", "0"], ["fwpkm_niah, 1 needle", "1"],
    ]  # fmt: skip
    (alone,) = harness_tables(rows_to_frame(rows[:1]))
    assert alone.rows[0][0].text == "fwpkm_niah"
