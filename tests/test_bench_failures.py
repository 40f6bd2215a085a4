"""A benchmark in which something does not run at all: the rest is measured, and what failed is said."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fwpkm_eval import cli
from fwpkm_eval.bench import correctness, ops, peers, piece_measure, rows, run, session, worker
from fwpkm_eval.bench.ops import COPYING, IN_PLACE, REFERENCE, OpSize
from fwpkm_eval.bench.run import Case
from fwpkm_eval.errors import UserError

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = OpSize("small", subkeys=12, key_dim=16, value_dim=20, heads=2, topk=3, chunk=16, tokens=50)


@pytest.fixture(autouse=True)
def little_to_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(piece_measure, "BANDWIDTH_BYTES", 2**16)


def here(job: Mapping[str, Any], allocator: str) -> dict[str, Any]:
    return json.loads(json.dumps(worker.do({**json.loads(json.dumps(job)), "budget": 0.01})))


def failing(*cases: tuple[str, str]) -> Any:
    """A runner in which these (arm or backend, pass) fail as a process does."""

    def runner(job: Mapping[str, Any], allocator: str) -> dict[str, Any]:
        if (str(job.get("arm") or job.get("backend")), job["what"]) in cases:
            raise RuntimeError(f"the process measuring {job['what']} ended with code 1")
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


def test_nothing_measured_at_all_is_one_line() -> None:
    arms = [arm.name for arm in (REFERENCE, COPYING, IN_PLACE)]
    runner = failing(*[(arm, what) for arm in arms for what in ("forward", "training", "forward_backward")])
    with pytest.raises(UserError, match="nothing could be measured"):
        run.run_ops(SMALL, repeats=1, runner=runner)


def test_the_command_keeps_the_rest_and_ends_with_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(session, "run_in_process_of_its_own", failing((IN_PLACE.name, "training")))
    monkeypatch.setattr(peers, "peer_version", lambda: None)
    monkeypatch.setattr(ops, "op_size", lambda *arguments: SMALL)
    out = tmp_path / "out"
    assert cli.main(["bench", "--repeats", "1", "--threads", "1", "--quiet", "--out", str(out)]) == 1
    error = capsys.readouterr().err
    assert "scan/torch in place, training, tuned malloc failed: the process measuring training" in error
    assert (out / "rows.csv").exists()
    assert not json.loads((out / "manifest.json").read_text()).get("finished")


def test_a_model_that_does_not_run_leaves_the_operations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(session, "run_in_process_of_its_own", failing(("None", "model")))
    monkeypatch.setattr(peers, "peer_version", lambda: None)
    monkeypatch.setattr(ops, "op_size", lambda *arguments: SMALL)
    asked = ["bench", "--repeats", "1", "--threads", "1", "--quiet"]
    out = tmp_path / "out"
    assert cli.main([*asked, "--what", "ops,models", "--out", str(out)]) == 1
    assert "models failed: the process measuring model ended with code 1" in capsys.readouterr().err
    assert (out / "report.html").exists()
    assert not json.loads((out / "manifest.json").read_text()).get("finished")
    assert cli.main([*asked, "--what", "models"]) == 2
    assert "nothing could be measured: models failed" in capsys.readouterr().err
