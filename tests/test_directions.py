"""The table of metrics: it holds all that are written, and says of each which way is better."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from written_metrics import ROOT, written_metrics

from fwpkm_eval import cli
from fwpkm_eval.reporting.directions import METRICS, direction, is_timing, sense
from fwpkm_eval.runs.rows import Row, read_rows_csv, write_rows_csv


@pytest.mark.parametrize("name", sorted(path.parent.name for path in ROOT.glob("results/*/rows.csv")))
def test_every_metric_of_a_stored_run_is_listed(name: str) -> None:
    stored = {(row.metric, row.unit) for row in read_rows_csv(ROOT / "results" / name / "rows.csv")}
    assert {metric for metric, unit in stored if sense(metric, unit) is None} == set()


def test_every_metric_that_the_code_writes_is_listed() -> None:
    found = set(written_metrics())
    # One of each way to name a metric: outright, by place, by pass, by layer, in a loop.
    assert {
        ("longbench", "answer_perplexity"),
        ("niah_rows", "exact_match"),
        ("niah_rows", "distractor_rate"),
        ("rows", "speedup_forward_backward"),
        ("rows", "share_of_bandwidth_forward"),
        ("training", "training_ratio_to_dense_autograd"),
        ("gates", "gate_above_0.9@3"),
        ("divergence", "diverged_after@3"),
        ("addressing", "chunk_coverage@3"),
        ("trace_rows", "consensus_accuracy"),
    } <= found
    assert {metric for _, metric in found if sense(metric) is None} == set()


def test_no_metric_is_listed_that_nothing_writes() -> None:
    lm_eval = pytest.importorskip("lm_eval.api.registry")
    pytest.importorskip("lm_eval.api.metrics")
    ours = {re.sub(r"@\d+$", "", metric) for _, metric in written_metrics()}
    theirs = set(lm_eval.HIGHER_IS_BETTER_REGISTRY.keys())
    assert set(METRICS) - ours - theirs == set()


def test_the_harness_says_the_same_of_its_metrics_and_of_our_tasks() -> None:
    lm_eval = pytest.importorskip("lm_eval.api.registry")
    pytest.importorskip("lm_eval.api.metrics")
    theirs = dict(lm_eval.HIGHER_IS_BETTER_REGISTRY.items())
    for path in (ROOT / "tasks" / "lm_eval").glob("*.yaml"):
        for metric, higher in re.findall(r"- metric: (\S+)\n.*\n +higher_is_better: (\w+)", path.read_text()):
            theirs[metric] = higher == "true"
    assert {"acc_norm", "byte_perplexity", "answer_logprob", "word_perplexity", "other_number_rate"} <= set(theirs)
    del theirs["bypass"]  # nothing is measured by it
    assert {metric: direction(metric) for metric in theirs} == {
        metric: "higher" if higher else "lower" for metric, higher in theirs.items()
    }


@pytest.mark.parametrize(
    ("metric", "way", "timing"),
    [
        ("exact_match", "higher", False),
        ("bits_per_byte", "lower", False),
        ("bits_per_byte_at_position", "lower", False),
        ("bits_per_byte_change", "lower", False),
        ("answer_logprob", "higher", False),
        ("answer_nats_per_token", "lower", False),
        ("answer_perplexity", "lower", False),
        ("diverged_after@3", "higher", False),
        ("forward_seconds", "lower", True),
        ("tokens_per_second_training", "higher", True),
        ("training_ratio_to_dense_autograd", "higher", True),
        ("peak_bytes_forward", "lower", True),
        ("memory_over_reference_forward", "lower", True),
        ("peak_memory", "lower", True),
        ("speedup_forward", "higher", True),
        ("gate_mean@3", "neither", False),
        ("gate_below_0.1@3", "neither", False),
        ("parameters", "neither", False),
        ("no_number_rate", "lower", False),
        ("byte_perplexity,none", "lower", False),
        ("acc_norm,none", "higher", False),
        ("exact_match,strict-match", "higher", False),
        ("a_metric_of_somebody_else", "neither", False),
    ],
)
def test_metrics_know_their_direction(metric: str, way: str, timing: bool) -> None:
    assert direction(metric) == way
    assert is_timing(metric) == timing


def test_a_training_that_is_given_up_later_is_no_worse() -> None:
    assert direction("diverged", "fraction") == "lower"
    assert direction("diverged", "step") == "higher"


def test_comparing_counts_all_of_quality_and_no_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def exit_code(metric: str, before: float, after: float, *options: str, unit: str = "") -> int:
        for name, value in (("a", before), ("b", after)):
            write_rows_csv([Row(metric=metric, value=value, unit=unit)], tmp_path / name / "rows.csv")
        return cli.main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--fail-if-worse", "1%", *options])

    for metric in ("answer_nats_per_token", "word_perplexity", "bits_per_byte_change"):
        assert exit_code(metric, 1.0, 1.1) == 1
        assert exit_code(metric, 1.1, 1.0) == 0
    assert exit_code("acc_norm,none", 1.1, 1.0) == 1
    assert exit_code("diverged_after@1", 4096, 1024) == 1
    assert exit_code("diverged", 300, 400, unit="step") == 0
    assert exit_code("training_ratio_to_dense_autograd", 9.0, 3.0) == 0
    capsys.readouterr()
    assert exit_code("peak_memory", 2**30, 2**31) == 0
    assert "peak_memory" not in capsys.readouterr().out
    assert exit_code("peak_memory", 2**30, 2**31, "--timings") == 0
    assert "worse by 100.00%" in capsys.readouterr().out
    assert exit_code("theirs,none", 2.0, 1.0) == 0
    assert "not known which way is better, and so never worse: theirs,none" in capsys.readouterr().out
