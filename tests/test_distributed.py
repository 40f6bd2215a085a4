"""Two processes train as one: the same losses, weights alike in both, each with its own memory; and they can stop."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from training_cases import TINY, write_words

from fwpkm_eval.errors import UserError
from fwpkm_eval.training.parallel import started

WORKER = Path(__file__).with_name("distributed_worker.py")
ROWS = replace(TINY, steps=8, rows=4, pswa=0.5, learning_rate=5e-3)
PACKED = replace(ROWS, layout="packed", needle_share=0.0, answer_weight=0.0)
MEMORY = "gdn:fwpkm@1"

SAME_LOSS, SAME_LOSS_BY_SLOTS = 5e-6, 1e-4
"""Relative: gradients are summed in another order (float32, 6e-8 each) through eight steps of Adam (seen: up to 4e-7);
in a product-key memory a rounding can put another slot among the top three (seen: 2e-5)."""


def cases(processes: int) -> list[dict[str, Any]]:
    """What both numbers of processes train, and what only two do."""

    def case(name: str, model: str, recipe: Any = ROWS, **more: Any) -> dict[str, Any]:
        return {"name": name, "model": model, "recipe": recipe.to_dict(), **more}

    both = [
        case("plain", "gdn"),
        case("attention", "fa"),
        case("pkm", "gdn:pkm@1"),
        case("packed", "gdn", PACKED),
        case("accumulated", "gdn:pkm@1", settings={"rows_at_once": 1}),
    ]
    if processes == 1:
        return [*both, case("memory", MEMORY)]
    return [
        *both,
        case("sharded", "gdn:pkm@1", mode="fsdp"),
        case("sharded-parts", "gdn:pkm@1", mode="fsdp", settings={"rows_at_once": 1}),
        case("memory", MEMORY),
        case("stopped", MEMORY, stop=3),
        case("stopped", MEMORY, resume=True),
        case("sharded-memory", MEMORY, mode="fsdp"),
        case("sharded-stopped", MEMORY, mode="fsdp", stop=3),
        case("sharded-stopped", MEMORY, mode="fsdp", resume=True),
        case("no-gate", MEMORY, replace(ROWS, steps=3), changes={"fwpkm.gate": False}),
        case("sharded-no-gate", MEMORY, replace(ROWS, steps=3), changes={"fwpkm.gate": False}, mode="fsdp"),
    ]


def launch(processes: int, folder: Path, data: str) -> list[dict[str, Any]]:
    """What each process saw."""
    folder.mkdir()
    task = folder / "task.json"
    task.write_text(json.dumps({"data": data, "out": str(folder), "runs": cases(processes)}))
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(torchrun if processes > 1 else []), str(WORKER), str(task)]
    paths = [str(WORKER.parent), *filter(None, [os.environ.get("PYTHONPATH")]), str(WORKER.parent.parent)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr[-4000:]
    return [json.loads((folder / f"seen-{rank}-of-{processes}.json").read_text()) for rank in range(processes)]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[dict[str, Any]], Path]:
    folder = tmp_path_factory.mktemp("distributed")
    data = write_words(folder / "data")
    (one,) = launch(1, folder / "one", data)
    return one, launch(2, folder / "two", data), folder


@pytest.mark.parametrize("name", ["plain", "attention", "pkm", "packed", "accumulated", "sharded", "sharded-parts"])
def test_two_processes_have_the_losses_of_one(name: str, seen: Any) -> None:
    """At the same global batch, for models without fast weights; replicated or sharded, at once or in parts."""
    one, two, _ = seen
    expected = one["pkm" if name.startswith("sharded") else name]
    for process in two:
        tolerance = SAME_LOSS if name in ("plain", "attention", "packed") else SAME_LOSS_BY_SLOTS
        assert process[name]["losses"] == pytest.approx(expected["losses"], rel=tolerance)
        assert process[name]["accuracies"] == pytest.approx(expected["accuracies"], nan_ok=True, abs=1e-9)
        assert process[name]["tokens"] == expected["tokens"] == [4 * 96] * 8
    assert len(set(expected["losses"])) == 8


def test_both_processes_have_the_same_slow_weights_and_their_own_memories(seen: Any) -> None:
    _, (first, second), _ = seen
    for name in ("plain", "pkm", "accumulated", "sharded", "memory", "no-gate"):
        assert first[name]["slow"] == second[name]["slow"], name
    for name in ("memory", "sharded-memory"):
        assert first[name]["memory"] != second[name]["memory"], name


def test_a_memory_without_a_gate_trains_on_two_processes(seen: Any) -> None:
    """Its gate is in the model and gets no gradient: DDP must not wait for one. Sharded, the same is learned."""
    _, two, _ = seen
    for process in two:
        assert len(set(process["no-gate"]["losses"])) == 3
        assert process["sharded-no-gate"]["losses"] == pytest.approx(
            process["no-gate"]["losses"], rel=SAME_LOSS_BY_SLOTS
        )


@pytest.mark.parametrize(("whole", "stopped"), [("memory", "stopped"), ("sharded-memory", "sharded-stopped")])
def test_stopped_and_resumed_processes_end_as_if_never_stopped(whole: str, stopped: str, seen: Any) -> None:
    """Bit for bit: slow weights, every process's memory, and the checkpoint."""
    _, two, folder = seen
    for process in two:
        assert process[stopped]["losses"] == process[whole]["losses"][3:]
        assert process[stopped]["slow"] == process[whole]["slow"]
        assert process[stopped]["memory"] == process[whole]["memory"]
    files = [folder / "two" / name / "model.safetensors" for name in (whole, stopped)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_gradients_of_few_rows_are_summed_row_by_row(seen: Any) -> None:
    """The same sum and bits in both processes; few rows send less than the table, many send the table."""
    _, (first, second), _ = seen
    for name, most in (("few", 2 + 3 + 3 * 4), ("many", 2 + 50 * 4), ("none", 2)):
        assert first["sums"][name]["equal"]
        assert second["sums"][name]["equal"]
        assert first["sums"][name]["bits"] == second["sums"][name]["bits"]
        assert first["sums"][name]["sent"] <= most


def test_sharding_needs_several_processes() -> None:
    with pytest.raises(UserError, match="torchrun"), started("cpu", "fsdp"):
        pass
    with pytest.raises(UserError, match=r"unknown kind of parallelism 'dpp'.*ddp"), started("cpu", "dpp"):
        pass
