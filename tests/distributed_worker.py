"""One process of a training under torchrun, for test_distributed.py: trains what it is told, writes what it saw.

Its argument is a JSON file of {"data", "out", "runs": […]}, and a run {"name", "model", "recipe"} with, if need be,
"mode", "settings", "changes" (of the configuration), "stop" (the step to stop after) and "resume".
"""

from __future__ import annotations

import faulthandler
import hashlib
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from training_cases import tiny_training_config

from fwpkm_eval.training import parallel
from fwpkm_eval.training.parallel import Ranks, started, whole
from fwpkm_eval.training.recipe import Recipe
from fwpkm_eval.training.trainer import Settings, Trainer


def digest(tensors: dict[str, torch.Tensor]) -> str:
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(name.encode() + whole(tensor).detach().contiguous().numpy().tobytes())
    return found.hexdigest()


def train(run: dict[str, Any], ranks: Ranks, data: str, out: Path) -> dict[str, Any]:
    """Trains, as far as `stop` says, with a save point after every step."""
    config = tiny_training_config(run["model"], **run.get("changes", {}))
    recipe = Recipe.from_dict(run["recipe"])
    trainer = Trainer(config, recipe, out / run["name"], data, Settings(**run.get("settings", {})), ranks)
    if run.get("resume"):
        assert trainer.resume()
    reports, slow = [], ""
    for report in trainer.run(-1.0):
        reports.append(report)
        slow = digest(dict(trainer.model.named_parameters()))  # before the first process rounds its own for storing
        if report.step == run.get("stop"):
            break
    memories = {
        f"{number}/{name}": tensor
        for number, held in trainer.state.memories.items()
        for name, tensor in vars(held.memory).items()
        if isinstance(tensor, torch.Tensor)
    }
    return {
        "losses": [report.loss for report in reports],
        "accuracies": [report.answer_accuracy for report in reports],
        "tokens": [report.tokens for report in reports],
        "slow": slow,
        "memory": digest(memories),
    }


def sums_of_rows() -> dict[str, Any]:
    """`sum_rows` against the dense sum, for gradients of few and of many rows; and what each sent."""
    results: dict[str, Any] = {}
    for name, count in (("few", 3), ("many", 40), ("none", 0)):
        draw = torch.Generator().manual_seed(dist.get_rank())
        gradient = torch.zeros(50, 4)
        rows = torch.randperm(50, generator=draw)[:count]
        gradient[rows] = torch.randn(count, 4, generator=draw)
        dense = gradient.clone()
        dist.all_reduce(dense)
        with (
            mock.patch.object(dist, "all_reduce", wraps=dist.all_reduce) as reduced,
            mock.patch.object(dist, "all_gather", wraps=dist.all_gather) as gathered,
        ):
            parallel.sum_rows(gradient)
        sent = [call.args[0] for call in reduced.call_args_list] + [call.args[1] for call in gathered.call_args_list]
        results[name] = {
            "equal": bool(torch.allclose(gradient, dense, atol=1e-6)),
            "sent": sum(tensor.numel() for tensor in sent),
            "bits": digest({"": gradient}),
        }
    return results


def main() -> None:
    faulthandler.dump_traceback_later(60, exit=True)  # a process that waits for another that died says where
    torch.set_num_threads(1)
    task = json.loads(Path(sys.argv[1]).read_text())
    found: dict[str, Any] = {}
    # As in a torch that was built for GPUs, which tells of them where there is none and whatever is used.
    built_for_gpus = mock.patch.object(torch._C, "_get_accelerator", return_value=torch.device("cuda"))
    with built_for_gpus, started("cpu") as ranks:
        if ranks.world > 1:
            found["sums"] = sums_of_rows()
        for run in task["runs"]:
            of_run = replace(ranks, mode=run.get("mode", "ddp"))
            found[run["name"]] = train(run, of_run, task["data"], Path(task["out"]))
    path = Path(task["out"]) / f"seen-{os.environ.get('RANK', '0')}-of-{os.environ.get('WORLD_SIZE', '1')}.json"
    path.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
