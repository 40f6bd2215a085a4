"""A benchmark in which something does not run at all: the rest is measured, and what failed is said."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fwpkm_eval import __version__, cli
from fwpkm_eval.bench import correctness, ops, peers, piece_measure, rows, run, session, training, worker
from fwpkm_eval.bench.ops import COPYING, IN_PLACE, REFERENCE, OpSize
from fwpkm_eval.bench.peers import OURS, PEER
from fwpkm_eval.bench.run import Case
from fwpkm_eval.bench.worker import MeasurementFailed
from fwpkm_eval.reporting.tables_bench import operation_tables
from fwpkm_eval.runs.rows import Row, read_rows_csv, rows_to_frame

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = OpSize("small", subkeys=12, key_dim=16, value_dim=20, heads=2, topk=3, chunk=16, tokens=50)


@pytest.fixture(autouse=True)
def little_to_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(piece_measure, "BANDWIDTH_BYTES", 2**16)


def here(job: Mapping[str, Any], allocator: str) -> dict[str, Any]:
    return json.loads(json.dumps(worker.do({**json.loads(json.dumps(job)), "budget": 0.01})))


def failing(*cases: tuple[str, str]) -> Any:
    """A runner in which these (arm, backend, layer, model or malloc; what) fail as a process does."""

    def runner(job: Mapping[str, Any], allocator: str) -> dict[str, Any]:
        of = {job.get("arm"), job.get("backend"), job.get("layer"), job.get("case", {}).get("name"), allocator}
        if any((name, job.get("pass", job["what"])) in cases for name in of):
            raise MeasurementFailed(f"the process measuring {job['what']} ended with code 1")
        return here(job, allocator)

    return runner


def test_an_arm_that_does_not_run_is_not_timed_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    scan = correctness.scan

    def broken(inputs: Any, arm: Any, size: OpSize) -> Any:
        if arm == COPYING:
            raise RuntimeError("operation not permitted\nwhen stream is capturing")
        return scan(inputs, arm, size)

    monkeypatch.setattr(correctness, "scan", broken)
    result = run.run_ops(SMALL, repeats=1, runner=here)
    assert result.failures == {
        COPYING.name: ["it does not run: RuntimeError: operation not permitted when stream is capturing"]
    }
    assert {case.arm for case in result.measured} == {REFERENCE, IN_PLACE}
    (row,) = [row for row in rows.bench_rows(result) if row.arm == COPYING.name]
    assert (row.metric, row.value) == ("max_relative_error", float("inf"))


def test_an_operation_that_does_not_run_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    computed = piece_measure._computed

    def broken(piece: Any, backend: str, what: str, chunk: Any) -> Any:
        if (piece.name, backend) == ("write", "torch"):
            raise ValueError("no such kernel")
        return computed(piece, backend, what, chunk)

    monkeypatch.setattr(piece_measure, "_computed", broken)
    result = run.run_ops(SMALL, repeats=1, runner=here)
    assert list(result.failures) == ["write/torch"]
    assert not [key for key in result.pieces if key[0] == "write" and key[2] == "torch"]
    assert [key for key in result.pieces if key[2] == "torch"]


def test_the_rest_is_measured_without_the_reference_and_has_no_ratios() -> None:
    result = run.run_ops(SMALL, repeats=1, runner=failing((REFERENCE.name, "forward"), ("torch", "pieces")))
    assert Case(REFERENCE, "forward", "default") not in result.measured
    assert Case(IN_PLACE, "forward", "default") in result.measured
    found = rows.bench_rows(result)
    assert not [row for row in found if row.metric == "speedup_forward"]
    assert [row for row in found if row.metric == "speedup_training"]
    assert set(result.failures) == {
        "scan/reference, forward, default malloc",
        "scan/reference, forward, tuned malloc",
        "single operations, torch, tuned malloc",
    }


def test_single_operations_that_cannot_be_checked_are_not_timed() -> None:
    result = run.run_ops(SMALL, repeats=1, runner=failing(("default", "check-pieces")))
    label = "check of the single operations against the reference"
    assert result.failures == {label: ["the process measuring check-pieces ended with code 1"]}
    assert result.pieces == {}
    assert Case(IN_PLACE, "training", "default") in result.measured
    assert [row for row in rows.bench_rows(result) if row.metric == "speedup_training"]


def test_a_pass_that_does_not_run_in_one_layer_leaves_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "limit_memory", lambda limit: None)
    monkeypatch.setattr(peers, "peer_version", lambda: "2")
    monkeypatch.setitem(peers._LAYERS, PEER, peers._ours)
    failed: dict[str, str] = {}
    runner = failing((OURS, "forward"), (PEER, "training"))
    found = peers.run_peers(SMALL, failed=failed, threads=1, repeats=1, budget=1.0, runner=runner)
    assert set(failed) == {f"layer of {OURS} {__version__}, forward", f"layer of {PEER} 2, training"}
    assert [set(speed.measured) for speed in found] == [{"training"}, {"forward"}]
    assert len([row for row in peers.peer_rows(found) if row.metric.endswith("_seconds")]) == 2
    (table,), _ = operation_tables(rows_to_frame(peers.peer_rows(found)))
    assert [row[0].text for row in table.rows] == ["forward", "training"]


# --- the command


class Command:
    """``bench`` as a user runs it, with the measurements in this process; ``out``: its folder."""

    def __init__(self, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.out, self._monkeypatch = out, monkeypatch
        monkeypatch.setattr(peers, "peer_version", lambda: None)
        monkeypatch.setattr(ops, "op_size", lambda *arguments: SMALL)

    def __call__(self, what: str, *failed: tuple[str, str]) -> int:
        self._monkeypatch.setattr(session, "run_in_process_of_its_own", failing(*failed))
        asked = ["bench", "--what", what, "--models", ",".join(MODELS), "--length", "130", "--repeats", "1"]
        return cli.main([*asked, "--threads", "1", "--quiet", "--out", str(self.out)])

    def rows(self) -> list[Row]:
        """What is stored of a run that is not finished; its report is there, too."""
        assert (self.out / "report.html").exists()
        assert not json.loads((self.out / "manifest.json").read_text()).get("finished")
        return read_rows_csv(self.out / "rows.csv")


MODELS = ("gdn", "gdn:fwpkm@1", "gdn:fwpkm@2")


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    return Command(tmp_path / "out", monkeypatch)


def test_the_command_keeps_the_rest_and_ends_with_1(bench: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("ops,models", (IN_PLACE.name, "training"), *[(name, "model") for name in MODELS]) == 1
    error = capsys.readouterr().err
    assert "scan/torch in place, training, tuned malloc failed: the process measuring training" in error
    assert f"{MODELS[2]} at scale micro, 1 x 130 tokens failed: the process measuring model" in error
    assert {row.model for row in bench.rows()} == {""}


def test_operations_that_do_not_run_at_all_leave_the_models(bench: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("ops,models", ("default", "check")) == 1
    assert "operations failed: the process measuring check ended with code 1" in capsys.readouterr().err
    assert {row.model for row in bench.rows()} == set(MODELS)


@pytest.mark.parametrize("broken", MODELS[:2])
def test_a_model_that_does_not_run_leaves_the_others(
    broken: str, bench: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench("models", (broken, "model")) == 1
    error = capsys.readouterr().err
    assert error == f"{broken} at scale micro, 1 x 130 tokens failed: the process measuring model ended with code 1\n"
    found = bench.rows()
    assert {row.model for row in found} == set(MODELS) - {broken}
    # Without the backbone, the first, there is nothing to take a share of.
    shares = {row.model for row in found if row.metric == "share_of_backbone_speed_training"}
    assert shares == (set() if broken == MODELS[0] else {MODELS[2]})


def test_training_that_does_not_run_with_one_malloc_leaves_the_other(
    bench: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    times = {"tokens": 1, "sparse": [1.0], "dense": [2.0], "first_difference": 0.0, "loss_difference": 0.0}
    monkeypatch.setattr(training, "measure_training", lambda job: {**times, "device_name": "cpu", "threads": 1})
    assert bench("training", ("default", "dense-training")) == 1
    assert "training steps of gdn:fwpkm@2 at scale micro, default malloc failed: " in capsys.readouterr().err
    arms = {row.arm for row in bench.rows() if row.metric == "training_ratio_to_dense_autograd"}
    assert arms == {"tuned malloc against tuned malloc"}


@pytest.mark.parametrize("what", ["ops", "models", "training"])
def test_nothing_measured_at_all_is_one_line(what: str, bench: Command, capsys: pytest.CaptureFixture[str]) -> None:
    passes = ("forward", "training", "forward_backward", "model", "dense-training")
    broken = [(malloc, one) for malloc in worker.ALLOCATORS for one in passes]
    assert bench(what, *broken) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: nothing could be measured: ")
    assert error.count("\n") == 1
    assert not (bench.out / "rows.csv").exists()
