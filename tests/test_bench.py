"""The benchmark: what it checks, what it times, the ratios it forms, and malloc's setting."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from fwpkm_eval import cli, malloc
from fwpkm_eval.bench import correctness, memory, ops, peers, rows, run, session, show, worker
from fwpkm_eval.bench.correctness import Agreement
from fwpkm_eval.bench.ops import COPYING, IN_PLACE, REFERENCE, Measurement, OpSize
from fwpkm_eval.bench.run import BenchResult, Case
from fwpkm_eval.errors import UserError
from fwpkm_eval.kernels import closed_form
from fwpkm_eval.runs.rows import Row, read_rows_csv

SMALL = OpSize("small", subkeys=12, key_dim=16, value_dim=20, heads=2, topk=3, chunk=16, tokens=50)
MIB = 2**20
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def no_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where no peer is installed; `test_bench_peers` has the others."""
    monkeypatch.setattr(peers, "peer_version", lambda: None)


def here(job: Mapping[str, Any], allocator: str) -> dict[str, Any]:
    """Does a job in this process, so that what a test changed is what is measured; bytes as if a size were large."""
    found = worker.do({**job, "threads": 1})
    return found | {"peak_bytes": 2 * MIB, "above_inputs_bytes": MIB} if "peak_bytes" in found else found


def never(job: Mapping[str, Any], allocator: str) -> dict[str, Any]:
    raise AssertionError(job)


def measurement(*seconds: float, peak: int = 10 * MIB, above: int = 4 * MIB) -> Measurement:
    return Measurement(list(seconds), 1.0, peak, above, threads=1)


def by_metric(found: list[Row], arm: str) -> dict[str, Row]:
    return {row.metric: row for row in found if row.arm == arm}


# --- what is run


def test_sizes_are_those_of_the_scales() -> None:
    paper = ops.op_size("paper")
    assert str(paper) == "S 512, dk 512, dv 512, H 1, k 8, C 512, T 2048, B 1"
    assert ops.op_size("micro").subkeys < 512
    with pytest.raises(UserError, match="unknown size 'papre', did you mean 'paper'"):
        ops.op_size("papre")


def test_inputs_depend_on_the_seed_alone_and_reads_are_spread() -> None:
    first, again, other = ops.draw(SMALL, 1), ops.draw(SMALL, 1), ops.draw(SMALL, 2)
    for name, tensor in vars(first).items():
        assert torch.equal(tensor, getattr(again, name))
        assert not torch.equal(tensor, getattr(other, name))
    result = ops.scan(first, COPYING, SMALL)
    assert result.indices.shape == (1, 50, 2, 3)
    assert result.indices.unique().numel() > 0.5 * SMALL.subkeys**2


def test_only_the_in_place_arm_changes_the_memory_it_is_given() -> None:
    for arm, changed in ((REFERENCE, False), (COPYING, False), (IN_PLACE, True)):
        inputs = ops.draw(SMALL, 0)
        keys, values = inputs.keys.clone(), inputs.values.clone()
        ops.scan(inputs, arm, SMALL)
        assert (not torch.equal(inputs.values, values)) == changed
        assert (not torch.equal(inputs.keys, keys)) == changed


@pytest.mark.parametrize(
    ("arm", "what"), [(arm.name, what) for arm in ops.arms_on("cpu").values() for what in arm.passes]
)
def test_every_arm_can_be_measured_again_and_again(arm: str, what: str) -> None:
    found = ops.measure(SMALL, ops.ARMS[arm], what, seed=0, repeats=4, budget=60)
    assert len(found.seconds) == 4
    assert min(found.seconds) > 0
    assert found.cpu_share > 0


def test_an_arm_whose_memory_is_overwritten_takes_no_gradient_of_it() -> None:
    assert IN_PLACE.passes == ("forward", "training")
    assert set(REFERENCE.passes) == set(COPYING.passes) == set(ops.PASSES)


@pytest.mark.parametrize(("repeats", "budget", "calls"), [(5, 0.0, 3), (2, 0.0, 2), (4, 60.0, 4), (1, 60.0, 1)])
def test_a_measurement_ends_with_its_budget_but_not_before_three_calls(repeats: int, budget: float, calls: int) -> None:
    found = ops.measure(SMALL, IN_PLACE, "forward", seed=0, repeats=repeats, budget=budget)
    assert len(found.seconds) == calls


# --- memory


def test_peak_memory_counts_what_was_freed_again() -> None:
    if not memory.reset_peak():
        pytest.skip("the peak cannot be reset here")
    before = memory.resident_bytes()
    held = torch.ones(16 * MIB)  # 64 MiB
    del held
    assert 60 * MIB < memory.peak_bytes() - before < 100 * MIB
    assert memory.reset_peak()
    assert memory.peak_bytes() - memory.resident_bytes() < 30 * MIB


def test_the_peak_without_linux_is_that_of_the_whole_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    known = memory.peak_bytes()
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "none")
    monkeypatch.setattr(memory, "_RESET", tmp_path / "no" / "clear_refs")
    assert not memory.reset_peak()
    assert memory.resident_bytes() > 50 * MIB
    assert memory.peak_bytes() >= known - 10 * MIB


def test_a_copy_of_the_memory_shows_in_the_peak_and_the_inputs_in_the_whole() -> None:
    large = dataclasses.replace(SMALL, subkeys=512, heads=1, value_dim=32)  # values of 32 MiB
    job = {"size": dataclasses.asdict(large), "seed": 0, "repeats": 1, "budget": 1, "threads": 1, "what": "forward"}
    copying = worker.run_in_process_of_its_own({**job, "arm": COPYING.name}, "default")
    in_place = worker.run_in_process_of_its_own({**job, "arm": IN_PLACE.name}, "default")
    difference = copying["above_inputs_bytes"] - in_place["above_inputs_bytes"]
    assert 26 * MIB < difference < 42 * MIB
    for found in (copying, in_place):
        assert 31 * MIB < found["peak_bytes"] - found["above_inputs_bytes"] < 45 * MIB


# --- agreement


def test_all_arms_agree_with_the_reference_in_every_quantity() -> None:
    agreement = correctness.check(SMALL)
    assert set(agreement.errors) == {COPYING.name, IN_PLACE.name}
    for arm, errors in agreement.errors.items():
        assert agreement.failures(arm) == []
        assert 0 < agreement.worst(arm) == max(errors.values()) < 1e-4
        assert {"output", "weights", "memory_loss", "addressing_loss", "keys", "values"} < set(errors)
    gradients = {name for name in agreement.errors[COPYING.name] if name.startswith("gradient")}
    assert gradients == {f"gradient of {name}" for name in ("query", "target", "gate", "keys", "values")}
    assert len(agreement.errors[IN_PLACE.name]) == 9


def test_inputs_in_which_slots_tie_are_drawn_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    big = dataclasses.replace(SMALL, tokens=1000)
    elsewhere = {0: 2, 1: 1, 2: 0}
    monkeypatch.setattr(
        correctness, "compare", lambda size, seed: Agreement(seed, {"a": elsewhere[seed]}, {"a": {"output": 0.0}})
    )
    assert correctness.check(big).seed == 2
    elsewhere[0] = 500  # no ties: half of all tokens
    assert correctness.check(big).seed == 0
    assert correctness.check(big).failures("a") == ["500 tokens read other slots"]


def test_an_error_that_is_no_number_is_no_agreement() -> None:
    agreement = Agreement(0, {"a": 0, "b": 0}, {"a": {"output": float("nan"), "keys": 1e-3}, "b": {"output": 0.0}})
    assert len(agreement.failures("a")) == 2
    assert str(agreement.worst("a")) == "nan"
    assert agreement.failures("b") == []


def _double(function: Any) -> Any:
    return lambda *arguments, **options: 2 * function(*arguments, **options)


@pytest.mark.parametrize(
    ("name", "noticed"),
    [
        ("write_scale", "values"),  # the write, forward and backward
        ("scores_to_query", "gradient of query"),  # the gradient alone
        ("addressing_ds", "keys"),
    ],
)
def test_a_wrong_implementation_is_caught_and_not_timed(
    name: str, noticed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = getattr(closed_form, name)
    wrong = _double(right)
    if name == "addressing_ds":

        def wrong(*arguments: Any) -> Any:
            loss, ds = right(*arguments)
            return loss, 1.5 * ds

    monkeypatch.setattr(closed_form, name, wrong)
    result = run.run_ops(SMALL, repeats=1, runner=here)
    assert set(result.failures) >= {COPYING.name, IN_PLACE.name}
    for arm in (COPYING.name, IN_PLACE.name):
        wrongs = result.failures[arm]
        assert any(line.startswith(f"{noticed} is off by") for line in wrongs)
    assert {case.arm for case in result.measured} == {REFERENCE}
    found = rows.bench_rows(result)
    scans = [row for row in found if row.arm.startswith("scan/torch")]
    assert {row.metric for row in scans} == {"max_relative_error"}


def test_nothing_is_timed_if_the_check_cannot_be_made() -> None:
    with pytest.raises(AssertionError, match="check"):
        run.run_ops(SMALL, runner=never)


# --- rows and ratios


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
    assert "Do not trust" not in str(list(show.tables(result))[-1])
    starved = dataclasses.replace(measurement(1.0), cpu_share=0.31)
    result.measured[Case(REFERENCE, "training", "default")] = starved
    assert "got 31% of a core. Do not trust" in str(list(show.tables(result))[-1])


def test_scaling_goes_over_slots_and_tokens() -> None:
    sizes = run.scaling_sizes(ops.op_size("paper"))
    assert {size.subkeys for size in sizes} == {128, 256, 512, 1024}
    assert {size.tokens for size in sizes} == {512, 1024, 2048, 4096, 8192}
    assert len(set(sizes)) == len(sizes) == 8
    result = BenchResult(SMALL, Agreement(0, {}, {}), {Case(REFERENCE, "forward", "default"): measurement(1.0)})
    result.scaling = [(SMALL, measurement(2.0)), (dataclasses.replace(SMALL, tokens=100), measurement(5.0))]
    found = [row for row in rows.bench_rows(result) if row.metric == "seconds_per_token_forward"]
    assert [(row.value, row.length, row.arm) for row in found] == [
        (2 / 50, 50, "scan/torch in place, tuned malloc"),
        (5 / 100, 100, "scan/torch in place, tuned malloc"),
    ]


# --- the process of a measurement


def test_each_allocator_has_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, str]] = []

    def fake(*command: Any, env: dict[str, str], **options: Any) -> subprocess.CompletedProcess[str]:
        seen.append(env)
        return subprocess.CompletedProcess(command, 0, stdout="{}")

    monkeypatch.setattr(subprocess, "run", fake)
    monkeypatch.setenv("MALLOC_TOP_PAD_", "1")  # of whoever started us: not to be measured
    for allocator in worker.ALLOCATORS:
        worker.run_in_process_of_its_own({}, allocator)
    assert not set(malloc.tuned_environment()) & set(seen[0])
    assert malloc.tuned_environment().items() <= seen[1].items()


def test_a_killed_measurement_is_one_line_and_a_failed_one_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    job = {"what": "forward", "size": {"name": "paper"}}
    code = -9
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, code, stdout=""))
    with pytest.raises(UserError, match="forward at size 'paper' was killed by signal 9"):
        worker.run_in_process_of_its_own(job, "default")
    code = 1
    with pytest.raises(RuntimeError, match="ended with code 1"):
        worker.run_in_process_of_its_own(job, "default")


# --- the command


def in_this_process(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The command measures here, but the peer's layer not at all; returns what is measured as it is."""
    done: list[tuple[Any, ...]] = []

    def runner(job: Mapping[str, Any], allocator: str) -> dict[str, Any]:
        done.append((job["what"], job.get("arm") or job.get("backend"), allocator))
        return here({**job, "budget": 0.01}, allocator)

    monkeypatch.setattr(session, "run_in_process_of_its_own", runner)
    monkeypatch.setattr(peers, "peer_version", lambda: None)
    return done


def test_the_command_measures_stores_and_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ops, "op_size", lambda *asked: SMALL)
    in_this_process(monkeypatch)
    out = tmp_path / "bench"
    assert cli.main(["bench", "--repeats", "1", "--out", str(out)]) == 0
    shown = capsys.readouterr()
    assert "Largest relative error against the reference: scan/torch " in shown.out
    assert "training, scan/torch in place" in shown.out
    assert "check against the reference" in shown.err
    stored = read_rows_csv(out / "rows.csv")
    assert {row.task for row in stored} == {"bench"}
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["finished"]
    assert manifest["conditions"]["threads"] >= 1
    assert (out / "report.html").exists()
    assert cli.main(["bench", "--repeats", "1", "--scaling", "--out", str(out)]) == 2
    assert "holds another run" in capsys.readouterr().err
    assert read_rows_csv(out / "rows.csv") == stored


def test_a_command_that_is_stopped_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ops, "op_size", lambda *asked: SMALL)
    done = in_this_process(monkeypatch)
    measure, stop_after = session.run_in_process_of_its_own, 6

    def stopped(job: Mapping[str, Any], allocator: str) -> dict[str, Any]:
        if len(done) == stop_after:
            raise KeyboardInterrupt
        return measure(job, allocator)

    monkeypatch.setattr(session, "run_in_process_of_its_own", stopped)
    command = ["bench", "--repeats", "1", "--out", str(tmp_path / "bench")]
    assert cli.main(command) == 130
    first = list(done)
    assert [each[0] for each in first] == ["check", *["forward"] * 3, *["forward_backward"] * 2]
    stop_after = -1
    assert cli.main(command) == 0
    again = capsys.readouterr().err
    assert "[2/20] scan/reference, forward, default malloc: found finished" in again
    assert "[7/20] scan/reference, training, default malloc\n" in again
    assert len(done) == len(set(done)) == 20  # nothing was measured twice


def test_the_command_fails_if_an_arm_does_not_agree(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(closed_form, "write_scale", _double(closed_form.write_scale))
    monkeypatch.setattr(ops, "op_size", lambda *asked: SMALL)
    in_this_process(monkeypatch)
    assert cli.main(["bench", "--repeats", "1", "--quiet", "--json"]) == 1
    shown = capsys.readouterr()
    timed = {row["arm"] for row in json.loads(shown.out) if row["metric"].endswith("seconds")}
    assert {arm for arm in timed if arm.startswith("scan/")} == {"scan/reference", "scan/reference, tuned malloc"}
    assert "scan/torch in place does not agree with the reference and was not timed: " in shown.err


def test_the_command_with_its_processes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    # Each starts Python and torch: these few show what there is to show.
    monkeypatch.setattr(run, "ALLOCATORS", ("default",))
    monkeypatch.setattr(run, "arms_on", lambda device: {arm.name: arm for arm in (REFERENCE, IN_PLACE)})
    assert cli.main(["bench", "--size", "micro", "--repeats", "1", "--threads", "1", "--quiet", "--json"]) == 0
    found = [Row.from_json(row) for row in json.loads(capsys.readouterr().out)]
    assert {row.scale for row in found} == {"micro"}
    assert {row.protocol for row in found} == {"threads 1"}
    assert all(row.value is not None and row.value >= 0 for row in found)
    mine, reference = by_metric(found, IN_PLACE.name), by_metric(found, REFERENCE.name)
    assert (mine["peak_bytes_forward"].value or 0) < (reference["peak_bytes_forward"].value or 0) / 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--what", "ops,modles"], "unknown benchmark 'modles', did you mean 'models'?"),
        (["--what", "opps"], "unknown benchmark 'opps', did you mean 'ops'?"),
        (["--size", "huge"], "unknown size 'huge'; valid: micro, paper"),
        (["--what", "models", "--models", "gdn:fwpm"], "did you mean 'fwpkm'?"),
        (["--device", "cuda"], "device 'cuda' cannot be used"),
        (["--repeats", "0"], "0 is not in the range"),
    ],
)
def test_bad_options_are_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


# --- malloc

KEPT = """
import ctypes
from fwpkm_eval.malloc import tune_malloc
print(tune_malloc(), tune_malloc())

class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")]

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
libc.mallinfo2.restype = Info
buffer = libc.malloc(16 * 2**20)
held = libc.mallinfo2()
libc.free(buffer)
freed = libc.mallinfo2()
print(held.hblkhd // 2**20, freed.fordblks // 2**20)
"""


def _kept(**environment: str) -> tuple[str, int, int]:
    """What `tune_malloc` said twice, MiB mapped for a buffer of 16 MiB, and MiB free in the heap once it was freed."""
    kept = {name: value for name, value in os.environ.items() if name not in malloc.tuned_environment()}
    done = subprocess.run(
        [sys.executable, "-P", "-c", KEPT], env=kept | environment, capture_output=True, text=True, check=True
    )
    said, sizes = done.stdout.splitlines()
    mapped, free = map(int, sizes.split())
    return said, mapped, free


@pytest.mark.skipif(
    not malloc.is_glibc() or tuple(map(int, platform.libc_ver()[1].split("."))) < (2, 33), reason="needs mallinfo2"
)
def test_malloc_keeps_freed_memory_once_told_to() -> None:
    # By malloc's own account: the system's count of page faults depends on what else the machine does.
    said, mapped, free = _kept()
    assert said == "True False"  # the second call finds it set
    assert mapped == 0
    assert free >= 16
    said, mapped, free = _kept(MALLOC_TRIM_THRESHOLD_="131072")
    assert said == "False False"  # whoever chose otherwise keeps their choice
    assert mapped >= 16 or free < 16


def test_malloc_is_left_alone_where_there_is_no_glibc(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in malloc.tuned_environment():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(malloc, "is_glibc", lambda: False)
    assert not malloc.tune_malloc()
    assert not set(malloc.tuned_environment()) & set(os.environ)


def test_children_inherit_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    if not malloc.is_glibc():
        pytest.skip("needs glibc")
    for name in malloc.tuned_environment():
        monkeypatch.delenv(name, raising=False)
    calls: list[tuple[int, int]] = []

    class OldLibrary:
        """As glibc before 2.35: no threshold above 32 MiB."""

        @staticmethod
        def mallopt(which: int, value: int) -> int:
            calls.append((which, value))
            return int(which != -3 or value <= 32 * MIB)

    monkeypatch.setattr(malloc.ctypes, "CDLL", lambda name: OldLibrary)
    assert malloc.tune_malloc()
    assert calls == [(-3, 1_000_000_000), (-1, 2**31 - 1), (-2, 200_000_000), (-3, 32 * MIB)]
    assert malloc.tuned_environment().items() <= os.environ.items()
