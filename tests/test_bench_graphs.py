"""The benchmark's arm that replays CUDA graphs, with a recorder that is made up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from graph_stand_in import StandIn
from torch import Tensor

from fwpkm_eval.bench import correctness, ops, run, worker
from fwpkm_eval.bench.ops import IN_PLACE, REFERENCE, TRITON_GRAPH, Arm, OpSize
from fwpkm_eval.bench.rows import bench_rows
from fwpkm_eval.kernels import graphs
from fwpkm_eval.kernels.graph_capture import Inputs, Outputs, Replay, Step
from fwpkm_eval.reporting.tables_speed import bench_tables
from fwpkm_eval.runs.rows import rows_to_frame

SIZE = OpSize("small", subkeys=12, key_dim=16, value_dim=20, heads=2, topk=3, chunk=16, tokens=50)
GRAPH = Arm("scan/torch in place as a graph", "torch", inplace=True, graphs=True)
pytestmark = pytest.mark.usefixtures("one_thread")


class Counting(StandIn):
    """Counts what is recorded and replayed; `wrong`: a replay's outputs are off by as much."""

    recorded = replayed = 0
    wrong = 0.0

    def record(self, step: Step, inputs: Inputs, keys: Tensor, values: Tensor) -> tuple[Replay, Outputs]:
        replay, outputs = super().record(step, inputs, keys, values)
        Counting.recorded += 1

        def counted() -> None:
            replay()
            outputs[0].mul_(1 + self.wrong)
            Counting.replayed += 1

        return counted, outputs


@pytest.fixture(autouse=True)
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "CudaRecorder", Counting)
    monkeypatch.setattr(Counting, "recorded", 0)
    monkeypatch.setattr(Counting, "replayed", 0)
    monkeypatch.setattr(run, "add_pieces", lambda *arguments: None)
    chosen = {arm.name: arm for arm in (REFERENCE, IN_PLACE, GRAPH)}
    for module in (ops, correctness, run):
        monkeypatch.setattr(module, "arms_on", lambda device: chosen)
    monkeypatch.setitem(ops.ARMS, GRAPH.name, GRAPH)


def here(job: Mapping[str, Any], allocator: str) -> dict[str, Any]:
    return worker.do({**job, "threads": 1})


def test_every_timed_call_is_a_replay() -> None:
    found = ops.measure(SIZE, GRAPH, "forward", seed=0, repeats=4, budget=60)
    assert len(found.seconds) == 4
    assert Counting.recorded == 2, "of the small call that loads libraries, and of the one that warms up"
    assert Counting.replayed == 4


def test_what_is_checked_is_a_replay() -> None:
    agreement = correctness.check(SIZE)
    assert Counting.replayed == 1
    assert agreement.failures(GRAPH.name) == []
    assert set(agreement.errors[GRAPH.name]) == {
        "output",
        "weights",
        "memory_loss",
        "addressing_loss",
        "keys",
        "values",
    }
    assert agreement.errors[GRAPH.name]["values"] == agreement.errors[IN_PLACE.name]["values"]


def test_a_replay_that_is_wrong_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Counting, "wrong", 1e-3)
    result = run.run_ops(SIZE, repeats=1, runner=here)
    assert set(result.failures) == {GRAPH.name}
    assert GRAPH not in {case.arm for case in result.measured}
    assert IN_PLACE in {case.arm for case in result.measured}


def test_it_stands_beside_the_others_in_rows_and_tables() -> None:
    result = run.run_ops(SIZE, repeats=1, runner=here)
    assert [case.what for case in result.measured if case.arm == GRAPH] == ["forward"] * 2  # by each malloc
    (table,) = [table for table in bench_tables(rows_to_frame(bench_rows(result))) if table.name == "speed-scan"]
    lines = [[cell.text for cell in line] for line in table.rows]
    mine = [line for line in lines if line[1] == GRAPH.name]
    assert [line[0] for line in mine] == ["forward"]
    assert mine[0][table.columns.index("times as fast")].endswith("×")


def test_it_is_there_on_a_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert TRITON_GRAPH.name in ops.arms_on("cuda")
    assert TRITON_GRAPH.name not in ops.arms_on("cpu")
    assert TRITON_GRAPH.passes == ("forward",)
    assert TRITON_GRAPH.backend == "triton"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_it_agrees_and_is_timed_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    size = ops.op_size("micro", device="cuda")
    assert correctness.check(size).failures(TRITON_GRAPH.name) == []
    assert len(ops.measure(size, TRITON_GRAPH, "forward", seed=0, repeats=3, budget=10).seconds) == 3
