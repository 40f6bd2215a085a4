"""Rows that others made or changed are shown, or refused in one line that says which and why."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from report_cases import FWPKM, needle

from fwpkm_eval import cli
from fwpkm_eval.reporting.needed_fields import NEEDED
from fwpkm_eval.runs.rows import Row, read_rows_csv, write_rows_csv

STORED = Path(__file__).parents[1] / "results"
WHOLE: dict[str, Any] = {
    "model": "gdn:fwpkm@1", "scale": "micro", "dataset": "docs", "value": 0.5, "n": 3, "length": 512, "passes": 1,
    "needles": 5, "seed": 0, "arm": "no-gate", "score": "idw", "write_chunk": "64", "protocol": "open-book",
}  # fmt: skip
CASES = [(task, metric or "flops_per_token", field) for (task, metric), names in NEEDED.items() for field in names]


@pytest.mark.parametrize(("task", "metric", "field"), CASES, ids="-".join)
def test_a_row_without_what_its_table_needs_is_refused(
    task: str, metric: str, field: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lacking: dict[str, Any] = {field: None}
    row = Row(task=task, metric=metric, **WHOLE)
    write_rows_csv([row, replace(row, **lacking)], tmp_path / "rows.csv")
    assert cli.main(["report", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert f"row 3 ({task}, {metric}) has no {field}" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (replace(needle(FWPKM, 3), needles=0), "has needles 0; it must be at least 1"),
        (replace(needle(FWPKM, 3), value=-0.5), "has value -0.5; a rate is from 0 to 1"),
        (replace(needle(FWPKM, 3), length=0), "has length 0; it must be at least 1"),
        (Row(task="ppl", metric="bits_per_byte", value=0.0, dataset="docs"), "has value 0; it must be above 0"),
        (Row(task="cost", metric="flops_per_token", value=float("inf"), length=9), "has value inf"),
    ],
    ids=["needles", "rate", "length", "bits", "cost"],
)
def test_what_cannot_be_is_refused(row: Row, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_rows_csv([row], tmp_path / "rows.csv")
    assert cli.main(["report", str(tmp_path)]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("run", ["micro", "ablation-micro", "capacity-micro", "bench-paper"])
def test_stored_rows_have_what_is_needed(run: str, tmp_path: Path) -> None:
    from fwpkm_eval.reporting.needed_fields import check_rows

    check_rows(STORED / run / "rows.csv", read_rows_csv(STORED / run / "rows.csv"))
