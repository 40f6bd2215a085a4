"""The benchmark's rows: every figure of every case, and the ratios it forms."""

from __future__ import annotations

import dataclasses

import pytest
from bench_cases import MIB, SMALL, by_metric, here, measurement

from fwpkm_eval.bench import ops, ratios, rows, run, show
from fwpkm_eval.bench.correctness import Agreement
from fwpkm_eval.bench.ops import COPYING, IN_PLACE, REFERENCE
from fwpkm_eval.bench.run import BenchResult, Case
from fwpkm_eval.reporting.tables_bench import _scaling_table

pytestmark = pytest.mark.usefixtures("one_thread", "no_peer")


def test_rows_hold_every_figure_of_every_case() -> None:
    told: list[str] = []
    result = run.run_ops(SMALL, repeats=2, threads=1, runner=here, tell=told.append)
    found = rows.bench_rows(result)
    assert told[0].startswith("check against the reference: S 12,")
    assert len(told) == 1 + 2 * (3 + 3 + 2) + 3
    keys = [(row.arm, row.metric) for row in found]
    assert len(set(keys)) == len(keys)
    scans = {row.arm for row in found if row.arm.startswith("scan/")}
    assert scans == {f"{arm}{suffix}" for arm in ops.arms_on("cpu") for suffix in ("", ", tuned malloc")}
    mine = by_metric(found, IN_PLACE.name)
    assert set(mine) == {"max_relative_error"} | {
        name
        for what in ("forward", "training")
        for name in (
            f"{what}_seconds",
            f"tokens_per_second_{what}",
            f"peak_bytes_{what}",
            f"peak_bytes_above_inputs_{what}",
            f"speedup_{what}",
            f"memory_over_reference_{what}",
        )
    }
    assert not any(metric.startswith(("speedup", "memory")) for metric in by_metric(found, REFERENCE.name))
    row = by_metric(found, COPYING.name)["forward_backward_seconds"]
    assert (row.task, row.scale, row.unit, row.n, row.length, row.write_chunk) == (
        "bench",
        "small",
        "seconds",
        2,
        50,
        "16",
    )
    assert (row.backend, row.device, row.dtype, row.protocol, row.dataset) == (
        "torch", "cpu", "float32", "threads 1", str(SMALL),
    )  # fmt: skip
    assert row.tokens == 100


def test_a_ratio_is_of_medians_between_bounds_over_percentiles() -> None:
    ours, theirs = [0.4, 0.5, 0.6], [9.0, 10.0, 11.0]
    assert ratios.percentiles(theirs) == pytest.approx((9.2, 10, 10.8))
    assert ratios.times_as_fast(ours, theirs) == pytest.approx((9.2 / 0.58, 20, 10.8 / 0.42))


def test_ratios_are_to_the_same_pass_and_allocator_of_the_reference() -> None:
    result = BenchResult(SMALL, Agreement(0, {COPYING.name: 0}, {COPYING.name: {"output": 1e-7}}))
    result.measured = {
        Case(REFERENCE, "forward", "default"): measurement(9.0, 10.0, 11.0, above=100 * MIB),
        Case(REFERENCE, "training", "default"): measurement(30.0, above=200 * MIB),
        Case(REFERENCE, "forward", "tuned"): measurement(4.0, above=300 * MIB),
        Case(COPYING, "forward", "default"): measurement(0.4, 0.5, 0.6, peak=50 * MIB, above=20 * MIB),
        Case(COPYING, "training", "default"): measurement(3.0),
        Case(COPYING, "forward", "tuned"): measurement(1.0),
    }
    found = rows.bench_rows(result)
    default, tuned = by_metric(found, "scan/torch"), by_metric(found, "scan/torch, tuned malloc")
    assert default["forward_seconds"].value == 0.5
    assert default["forward_seconds"].ci_low == pytest.approx(0.42)
    assert default["forward_seconds"].ci_high == pytest.approx(0.58)
    assert default["speedup_forward"].value == 20
    assert default["speedup_forward"].ci_low == pytest.approx(9.2 / 0.58)
    assert default["speedup_forward"].ci_high == pytest.approx(10.8 / 0.42)
    assert default["speedup_training"].value == 10
    assert tuned["speedup_forward"].value == 4
    assert default["memory_over_reference_forward"].value == pytest.approx(0.2)
    assert default["peak_bytes_forward"].value == 50 * MIB
    assert default["tokens_per_second_forward"].value == 50 / 0.5
    assert default["max_relative_error"].value == 1e-7


def test_no_share_of_a_memory_too_small_to_be_counted() -> None:
    result = BenchResult(SMALL, Agreement(0, {}, {}))
    case = Case(COPYING, "forward", "default")
    result.measured = {case.reference(): measurement(1.0, above=0), case: measurement(0.5, above=0)}
    found = by_metric(rows.bench_rows(result), COPYING.name)
    assert "speedup_forward" in found
    assert "memory_over_reference_forward" not in found


def test_starved_measurements_are_called_so() -> None:
    result = BenchResult(SMALL, Agreement(0, {}, {}))
    result.measured = {Case(REFERENCE, "forward", "default"): measurement(1.0)}
    assert "Do not trust" not in show.conditions(result)
    starved = dataclasses.replace(measurement(1.0), cpu_share=0.31)
    result.measured[Case(REFERENCE, "training", "default")] = starved
    assert "got 31% of a core. Do not trust" in show.conditions(result)


def test_scaling_goes_over_slots_and_tokens() -> None:
    sizes = run.scaling_sizes(ops.op_size("paper"))
    assert {size.subkeys for size in sizes} == {128, 256, 512, 1024}
    assert {size.tokens for size in sizes} == {512, 1024, 2048, 4096, 8192}
    assert len(set(sizes)) == len(sizes) == 9
    assert [size.words for size in sizes] == [0] * 8 + [32_000]
    result = BenchResult(SMALL, Agreement(0, {}, {}), {Case(REFERENCE, "forward", "default"): measurement(1.0)})
    result.scaling = [(SMALL, measurement(2.0)), (dataclasses.replace(SMALL, tokens=100), measurement(5.0))]
    found = [row for row in rows.bench_rows(result) if row.metric == "seconds_per_token_forward"]
    assert [(row.value, row.length, row.arm) for row in found] == [
        (2 / 50, 50, "scan/torch in place, tuned malloc"),
        (5 / 100, 100, "scan/torch in place, tuned malloc"),
    ]


def test_tokens_that_repeat_stand_in_the_table_of_scaling_alone() -> None:
    result = BenchResult(SMALL, Agreement(0, {}, {}), {Case(REFERENCE, "forward", "default"): measurement(1.0)})
    sizes = [SMALL, dataclasses.replace(SMALL, subkeys=64), dataclasses.replace(SMALL, tokens=64)]
    repeating = dataclasses.replace(SMALL, words=70)
    assert str(repeating).endswith("W 70, B 1"), "the batch stays the last part"
    for measured, count in ((sizes, 0), ([*sizes, repeating], 1)):
        result.scaling = [(size, measurement(2.0)) for size in measured]
        found = [row for row in rows.bench_rows(result) if "per_token" in row.metric]
        (table,) = _scaling_table([vars(row) for row in found])
        assert [line[2].text.endswith(", of 70 words") for line in table.rows].count(True) == count
        assert ("the r-th is as frequent" in table.note) == bool(count)


def test_tenths_of_a_microsecond_are_shown() -> None:
    """A token's time on a GPU."""
    result = BenchResult(SMALL, Agreement(0, {}, {}), {Case(REFERENCE, "forward", "default"): measurement(1.0)})
    result.scaling = [(SMALL, measurement(50 * seconds)) for seconds in (2.5e-7, 9e-6)]
    (table,) = _scaling_table([vars(row) for row in rows.bench_rows(result) if "per_token" in row.metric])
    assert [line[-1].text.split()[0] for line in table.rows] == ["0.250", "9.0"]


def test_on_a_gpu_scaling_is_of_what_runs_there() -> None:
    done = BenchResult(dataclasses.replace(SMALL, device="cuda"), Agreement(0, {}, {}))
    done.measured = {Case(REFERENCE, "forward", "default"): measurement(1.0)}
    done.scaling = [(SMALL, measurement(2.0))]
    (row,) = [row for row in rows.bench_rows(done) if row.metric == "seconds_per_token_forward"]
    assert (row.arm, row.backend) == ("scan/triton in place", "triton")
