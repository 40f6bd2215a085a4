"""The benchmark of the memory operations: what it runs, its memory, and what it checks before it times."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from bench_cases import MIB, SMALL, double, here, never

from fwpkm_eval.bench import correctness, memory, ops, rows, run, worker
from fwpkm_eval.bench.correctness import Agreement
from fwpkm_eval.bench.ops import COPYING, IN_PLACE, REFERENCE
from fwpkm_eval.errors import UserError
from fwpkm_eval.kernels import closed_form

pytestmark = pytest.mark.usefixtures("one_thread", "no_peer")


# --- what is run


def test_sizes_are_those_of_the_scales() -> None:
    paper = ops.op_size("paper")
    assert str(paper) == "S 512, dk 512, dv 512, H 1, k 8, C 512, T 2048, B 1"
    assert ops.op_size("micro").subkeys < 512
    with pytest.raises(UserError, match="unknown size 'papre', did you mean paper"):
        ops.op_size("papre")


def test_inputs_depend_on_the_seed_alone_and_reads_are_spread() -> None:
    first, again, other = ops.draw(SMALL, 1), ops.draw(SMALL, 1), ops.draw(SMALL, 2)
    for name, tensor in vars(first).items():
        assert torch.equal(tensor, getattr(again, name))
        assert not torch.equal(tensor, getattr(other, name))
    result = ops.scan(first, COPYING, SMALL)
    assert result.indices.shape == (1, 50, 2, 3)
    assert result.indices.unique().numel() > 0.5 * SMALL.subkeys**2


def test_words_repeat_and_look_near_the_same_slots() -> None:
    size = dataclasses.replace(SMALL, tokens=400, subkeys=64, key_dim=256)
    evenly, words = (ops.draw(dataclasses.replace(size, words=count), 1) for count in (0, 500))
    assert torch.equal(ops.draw(dataclasses.replace(size, words=500), 1).query, words.query)

    def most_read(inputs: ops.Inputs) -> int:
        slots = ops.scan(inputs, ops.REFERENCE, size).indices[..., 0]
        return int(slots.flatten().bincount().max())

    assert most_read(words) > 400 * 0.05, "every seventh token is the first of 500 words, in each of two heads"
    assert most_read(evenly) < 400 * 0.04


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


PEAK = """
import torch
from fwpkm_eval.bench import memory
assert memory.reset_peak()
before = memory.resident_bytes()
held = torch.ones(16 * 2**20)  # 64 MiB
del held
risen = memory.peak_bytes() - before
assert memory.reset_peak()
print(risen, memory.peak_bytes() - memory.resident_bytes())
"""


def test_peak_memory_counts_what_was_freed_again() -> None:
    """In a process of its own: where malloc keeps freed memory, what was freed before is taken again and no peak."""
    if not memory.reset_peak():
        pytest.skip("the peak cannot be reset here")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-P", "-c", PEAK], capture_output=True, text=True, check=True, env=environment
    )
    risen, left = map(int, done.stdout.split())
    assert 60 * MIB < risen < 100 * MIB
    assert left < 30 * MIB


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
    wrong = double(right)
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
