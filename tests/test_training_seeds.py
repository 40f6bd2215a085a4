"""Trainings that were measured in one run are paired by the seeds they were trained with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from report_cases import FWPKM, PLAIN, bits

from fwpkm_eval.reporting import build_report
from fwpkm_eval.reporting.training_seeds import COLUMN, with_training_seeds
from fwpkm_eval.runs.manifest import check_or_create
from fwpkm_eval.runs.rows import rows_to_frame, write_rows_csv

ROWS = [
    *(row for seed, value in ((1, 2.0), (0, 4.0)) for row in bits(PLAIN, value, seed=0, weights_hash=f"plain{seed}")),
    *(row for seed, value in ((0, 3.0), (1, 1.8)) for row in bits(FWPKM, value, seed=0, weights_hash=f"fwpkm{seed}")),
]
"""A training with seed 0 that takes twice the bits, for both; all measured with one seed."""


def manifest(*names: str) -> dict[str, Any]:
    return {"models": {name: {"weights_hash": name, "training": {"seed": int(name[-1])}} for name in names}}


ALL = manifest("plain0", "plain1", "fwpkm0", "fwpkm1")


def report(folder: Path, told: dict[str, Any]) -> str:
    check_or_create(folder, {"scale": "micro"}, **told)
    write_rows_csv(ROWS, folder / "rows.csv")
    build_report(folder)
    return (folder / "tables.md").read_text(encoding="utf-8")


def test_a_training_is_held_against_the_one_of_its_seed(tmp_path: Path) -> None:
    assert "−17.5% \\[−25.0% to −10.0%\\]" in report(tmp_path, ALL)


def test_what_is_not_known_of_every_model_pairs_none(tmp_path: Path) -> None:
    table = report(tmp_path, manifest("plain0", "plain1", "fwpkm0"))
    assert "−20.0% |" in table
    assert "−17.5%" not in table


@pytest.mark.parametrize(
    "told", [None, {}, {"models": []}, {"models": {"a": None}}, {"models": {"plain0": {"training": {"seed": "0"}}}}]
)
def test_rows_stay_as_they_are_where_nothing_is_told(told: Any) -> None:
    frame = rows_to_frame(ROWS)
    assert with_training_seeds(frame, told) is frame


def test_rows_without_weights_have_no_training() -> None:
    frame = with_training_seeds(rows_to_frame([*ROWS, *bits("bzip2", 2.5, seed=0, weights_hash="")]), ALL)
    assert frame[COLUMN].tolist()[:2] == [1, 1]
    assert frame[COLUMN].isna().tolist() == [False] * (len(frame) - 2) + [True] * 2
