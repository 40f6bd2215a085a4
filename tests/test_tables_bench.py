"""The benchmark's tables: a table for each question, and nothing that was measured is left out."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from fwpkm_eval.bench import rows as bench
from fwpkm_eval.bench.correctness import Agreement
from fwpkm_eval.bench.models import ModelCase, ModelSpeed, model_rows
from fwpkm_eval.bench.ops import IN_PLACE, REFERENCE, Measurement, OpSize
from fwpkm_eval.bench.piece_measure import PieceMeasurement
from fwpkm_eval.bench.run import BenchResult, Case
from fwpkm_eval.reporting import published
from fwpkm_eval.reporting.plots_speed import speed_plots
from fwpkm_eval.reporting.published import FWPKM, PUBLISHED
from fwpkm_eval.reporting.summary_speed import speed_findings
from fwpkm_eval.reporting.table import Table
from fwpkm_eval.reporting.tables_bench import operation_in_words
from fwpkm_eval.reporting.tables_speed import bench_tables
from fwpkm_eval.runs.rows import Row, rows_to_frame

SIZE = OpSize("paper", subkeys=512, key_dim=512, value_dim=512, heads=1, topk=8, chunk=512, tokens=2048)


def timing(*seconds: float, above: int = 2**20) -> Measurement:
    return Measurement(list(seconds), 1.0, 2 * above, above, 2)


def measured() -> list[Row]:
    result = BenchResult(SIZE, Agreement(0, {IN_PLACE.name: 0}, {IN_PLACE.name: {"output": 1.3e-6}}))
    for what, slow, fast in (("forward", 2.0, 0.02), ("training", 6.0, 0.1)):
        result.measured[Case(REFERENCE, what, "default")] = timing(slow, slow, slow, above=2**31)
        result.measured[Case(IN_PLACE, what, "default")] = timing(fast, fast, fast, above=2**24)
    result.bandwidth = 4e10
    result.piece_errors = {"torch": {"read": 6e-8}}
    result.pieces = {
        ("read", "forward", "reference"): PieceMeasurement([2e-3] * 3, 10**7, 2**20, 512),
        ("read", "forward", "torch"): PieceMeasurement([2e-4] * 3, 10**7, 2**19, 512),
    }
    for subkeys, tokens, each in ((128, 2048, 8e-6), (512, 2048, 1e-5), (1024, 2048, 1.6e-5), (512, 4096, 1.1e-5)):
        size = OpSize(**{**vars(SIZE), "subkeys": subkeys, "tokens": tokens})
        result.scaling.append((size, timing(*[each * tokens] * 3)))
    speeds = [
        ModelSpeed(
            ModelCase(name, "paper", 1, 1024),
            {"training": [each] * 3, "reading": [each / 3] * 3},
            {"training": 1, "reading": 1},
            parameters,
            112_000_000,
            "cpu",
            2,
        )
        for name, each, parameters in (("gdn", 4.0, 112_100_000), ("gdn:fwpkm@2,6,10", 5.0, 519_100_000))
    ]
    return [*bench.bench_rows(result), *model_rows(speeds, "gdn")]


def tables() -> dict[str, Table]:
    return {table.name: table for table in bench_tables(rows_to_frame(measured()))}


def line(table: Table, *labels: str) -> dict[str, Any]:
    (found,) = (row for row in table.rows if tuple(cell.text for cell in row[: len(labels)]) == labels)
    return dict(zip(table.columns, (cell.text for cell in found), strict=True))


def test_each_question_has_its_table_and_no_row_is_left_over() -> None:
    assert list(tables()) == ["speed-scan", "speed-operations", "speed-scaling", "speed-models"]


def test_the_scan() -> None:
    table = tables()["speed-scan"]
    found = line(table, "forward", "scan/torch in place")
    assert found["seconds"] == "20 (20–20) ms"
    assert found["times as fast"] == "100 (100–100)×"
    assert found["of reference's"] == "1/128"
    assert found["memory above inputs"] == "16 MiB"
    assert line(table, "training", "scan/reference")["times as fast"] == "–"
    assert "Largest relative error against the reference: 1.3e-06." in table.note
    assert "S 512" in table.note


def test_the_operations_and_how_time_grows() -> None:
    found = line(tables()["speed-operations"], "read", "torch")
    assert found["forward"] == "0.2 (0.2–0.2) ms"
    assert found["times as fast"] == "10 (10–10)×"
    assert found["share of bandwidth"] == "125%"
    assert "40.0 GB/s" in tables()["speed-operations"].note
    assert line(tables()["speed-scaling"], "1024", "1,048,576", "2,048")["microseconds a token"] == "16.0 (16.0–16.0)"


def test_models_and_the_published_share_in_a_column_of_its_own() -> None:
    found = line(tables()["speed-models"], "gdn:fwpkm@2,6,10")
    assert found["of the first"] == "80%"
    assert found["published, of gdn in training"] == "35%"
    assert line(tables()["speed-models"], "gdn")["published, of gdn in training"] == "–"


def test_the_published_share_is_that_of_the_published_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    (rate,) = (one for one in PUBLISHED if (one.model, one.metric) == (FWPKM, "samples per second"))
    assert rate.note.startswith(line(tables()["speed-models"], FWPKM)["published, of gdn in training"])
    changed = tuple(dataclasses.replace(one, value=27) if one is rate else one for one in PUBLISHED)
    monkeypatch.setattr(published, "PUBLISHED", changed)
    table = tables()["speed-models"]
    assert line(table, FWPKM)["published, of gdn in training"] == "50%"
    assert "Published: 27 of 54 samples/s" in table.note


def test_plots_of_ratios_and_of_growth() -> None:
    assert [plot.name for plot in speed_plots(rows_to_frame(measured()))] == ["speed", "speed-scaling"]


def test_an_operation_has_one_name_everywhere() -> None:
    rows = [
        Row(task="bench", arm=f"lookup/{backend}", backend=backend, metric=metric, value=value, device="cpu", n=3)
        for backend, metric, value in (
            ("reference", "forward_seconds", 0.4),
            ("torch", "forward_seconds", 0.2),
            ("torch", "speedup_forward", 2.0),
        )
    ]
    (table,) = bench_tables(rows_to_frame(rows))
    assert line(table, "top-k lookup", "torch")["forward"].startswith("200")
    assert [finding.text for finding in speed_findings(rows_to_frame(rows))] == [
        "One by one, forward, against the reference's: top-k lookup 2×."
    ]
    assert operation_in_words("lookup/torch") == "top-k lookup, torch"
