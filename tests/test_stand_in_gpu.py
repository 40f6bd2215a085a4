"""What runs on a GPU, on a stand-in for one: no tensor is left on the other device, and the numbers are the CPU's.

Where there is a GPU, `test_gpu` has the real thing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import stand_in_gpu
import torch
from bench_cases import SMALL, here
from measuring_cases import run, two_checkpoints_and_two_sets
from scan_cases import INPUTS, Case
from stand_in_gpu import GPU, OtherDevice, waits
from tiny_models import tiny_checkpoint, tiny_config, tiny_model
from torch import Tensor
from training_cases import NEVER, TINY, tiny_training_config, write_words

from fwpkm_eval.bench import ops, worker
from fwpkm_eval.bench.models import ModelCase
from fwpkm_eval.kernels import backends
from fwpkm_eval.reference_models import config as model_configs
from fwpkm_eval.runs.rows import Row, read_rows_csv
from fwpkm_eval.sizes import HAYSTACK
from fwpkm_eval.tasks.describe import fresh_state
from fwpkm_eval.tasks.divergence import DivergenceWatch
from fwpkm_eval.tasks.reading import Reader
from fwpkm_eval.training import objective
from fwpkm_eval.training.parallel import Ranks
from fwpkm_eval.training.speed import training_speed
from fwpkm_eval.training.text_step import TextStep
from fwpkm_eval.training.trainer import Settings, Trainer

CLOSE = 1e-3
pytestmark = [
    pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
    pytest.mark.filterwarnings("ignore:memory operations run on backend 'torch'"),
]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in_gpu.install(monkeypatch)


@pytest.fixture
def no_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """Backend "torch" on the GPU: what is around the kernels can be seen without their interpreter, which is slow."""
    monkeypatch.setattr(backends, "_triton_trouble", lambda device: "it is left out here")


WRONG: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sum": lambda here, there: here + there,
    "in place": lambda here, there: there.add_(here),
    "concatenation": lambda here, there: torch.cat([there, here]),
    "number among numbers": lambda here, there: torch.stack([there[0], here[0]]),
    "index": lambda here, there: here[there.long()],
    "rows": lambda here, there: there.index_add(0, here.long(), there),
    "numpy": lambda here, there: torch.from_numpy(there.numpy()),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_what_a_gpu_refuses_is_refused(wrong: Callable[[Tensor, Tensor], Tensor], gpu: None) -> None:
    with pytest.raises((OtherDevice, TypeError), match=r"among tensors on the GPU|to numpy"):
        wrong(torch.ones(3), torch.ones(3, device="cuda"))


def test_what_a_gpu_takes_is_taken(gpu: None) -> None:
    there = torch.ones(3, device="cuda", requires_grad=True)
    assert there.device == GPU
    loss = (there * torch.tensor(2.0))[torch.tensor([0, 2])].sum()
    loss.backward()
    assert there.grad is not None
    assert (loss.item(), there.grad.device, there.grad.tolist()) == (4, GPU, [2, 0, 2])
    assert there.detach().cpu().numpy().tolist() == [1, 1, 1]


@pytest.mark.parametrize("wanted", [INPUTS[:3], INPUTS], ids=["as models train", "all"])
@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("case", [Case(batch=2, chunk=9), Case(subkeys=2, topk=2, score="dot")], ids=str)
def test_gradients_of_the_scan(case: Case, backend: str, wanted: tuple[str, ...], gpu: None) -> None:
    """Where the first values take none, the slots that were read are not counted: the GPU is not waited for."""
    found = {}
    for device in ("cpu", "cuda"):
        inputs = {name: x.to(device) for name, x in case.inputs(torch.float32).items()}
        leaves = [inputs[name].requires_grad_() for name in wanted]
        case.scan(inputs, backend="torch" if device == "cpu" else backend)  # what is made once is made by now
        with waits() as waited:
            output = case.scan(inputs, backend="torch" if device == "cpu" else backend).output
            found[device] = torch.autograd.grad(output.square().sum(), leaves)
    if backend == "triton" and "values" not in wanted:
        assert waited == []
    for name, ours, expected in zip(wanted, found["cuda"], found["cpu"], strict=True):
        torch.testing.assert_close(ours.cpu(), expected, rtol=CLOSE, atol=CLOSE * float(expected.abs().max()), msg=name)


def train(spec: str, folder: Path, data: str, device: str) -> list[float]:
    """The losses of a run that is killed and gone on with."""
    recipe = replace(TINY, steps=3)

    def trainer() -> Trainer:
        return Trainer(tiny_training_config(spec), recipe, folder, data, Settings(), Ranks(torch.device(device)))

    losses = [next(trainer().run(save_every_seconds=-1)).loss]
    second = trainer()
    assert second.resume()
    return losses + [report.loss for report in second.run()]


@pytest.mark.parametrize("spec", ["gdn+fa:pkm@0+fwpkm@1", "gdn+swa:fwmlp@1", "gdn:lact@1"])
def test_a_model_is_trained_and_goes_on(spec: str, tmp_path: Path, gpu: None) -> None:
    """With Triton's kernels, in their interpreter."""
    data = write_words(tmp_path / "data")
    losses = {device: train(spec, tmp_path / device, data, device) for device in ("cpu", "cuda")}
    np.testing.assert_allclose(losses["cuda"], losses["cpu"], rtol=CLOSE)


@pytest.mark.parametrize("most_logits", [0, objective.MOST_LOGITS], ids=["loss in blocks", "loss at once"])
@pytest.mark.parametrize("spec", ["gdn+swa:pkm@0+fwpkm@1", "gdn+fa:fwmlp@1", "gdn:lact@1"])
def test_a_step_waits_once(
    spec: str, most_logits: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpu: None
) -> None:
    """A program that waits is no longer ahead of the GPU, which then waits for each of the memory's small kernels."""
    monkeypatch.setattr(objective, "MOST_LOGITS", most_logits)
    recipe = replace(TINY, rows_at_once=1)
    on = Ranks(torch.device("cuda"))
    trainer = Trainer(tiny_training_config(spec), recipe, tmp_path, write_words(tmp_path / "data"), ranks=on)
    steps = trainer.run(save_every_seconds=NEVER)
    next(steps)
    with waits() as waited:
        next(steps)
    assert [what.partition(" at ")[0] for what in waited] == ["tolist"], "losses and the gradient's norm"
    tokens = torch.randint(200, (1, 50), device="cuda")
    timed = TextStep(trainer.model)
    timed(tokens)
    state = trainer.model.initial_state()
    with torch.no_grad(), waits() as waited:
        trainer.model(tokens, state, updates="scan", write_chunk=16)
    assert waited == []
    with waits() as waited:
        timed(tokens)
    assert waited == []


@pytest.mark.parametrize("write_chunk", [16, HAYSTACK])
@pytest.mark.parametrize("spec", ["gdn+swa:pkm@0+fwpkm@1", "gdn+fa:fwmlp@1"])
@pytest.mark.usefixtures("no_gradients")
def test_reading_and_writing_wait_for_nothing(spec: str, write_chunk: int | str, gpu: None) -> None:
    model = tiny_model(spec).to("cuda").eval()
    tokens = torch.randint(200, (1, 70), device="cuda")
    reader = Reader(model, write_chunk, block=48)
    memory = reader.memorise(tokens, fresh_state(model, 70), 1)  # what is made once is made by now
    with waits() as waited:
        reader.memorise(tokens, memory, 2)
    assert waited == []


def test_diverged_memories_are_looked_for_at_once(gpu: None) -> None:
    state = tiny_model("gdn:fwpkm@0+fwmlp@1").to("cuda").initial_state()
    watch = DivergenceWatch()
    with waits() as waited:
        watch.look(state, 5)
    assert len(waited) == 1
    assert not watch.first


COMMANDS = {
    "ppl": "ppl --models {all} --tokens 192 --segment 64",
    "niah": "niah --models {all} --haystack notes --lengths 384 --passes 1 --samples 1 --write-chunk haystack,64",
    "niah of a stream": "niah --models {one} --haystack notes --lengths 384 --samples 1 --passes 1 --scope stream",
    "trace": "trace --models {one} --haystack notes --length 384 --needles 2",
    "gates": "gates --models {all} --tokens 192",
    "addressing": "addressing --models {one} --tokens 192",
    "continual": "continual --models {one} --domains tales,notes --adapt 192 --test 96",
    "cost": "cost --models {one} --tokens 192 --segment 64 --steps 0",
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_commands_measure_what_they_measure_on_a_cpu(
    command: str, tmp_path: Path, gpu: None, no_triton: None, without_workers: None
) -> None:
    root = two_checkpoints_and_two_sets(tmp_path)
    others = (tiny_checkpoint("fa:pkm@0+fwmlp@1", root / "fwmlp"), tiny_checkpoint("gdn:lact@1", root / "lact"))
    named = {"one": root / "fwpkm", "all": ",".join(map(str, (root / "fwpkm", *others)))}
    found = {}
    for device in ("cpu", "cuda"):
        out = str(tmp_path / device)
        words = [*command.format(**named).split(), "--data", str(root / "data"), "--device", device, "--out", out]
        assert run(*words) == 0
        rows = read_rows_csv(tmp_path / device / "rows.csv")
        assert {row.device for row in rows} - {""} == {device}  # that nobody knows a random answer has none
        found[device] = [(row.metric, row.value) for row in rows if not is_timed(row)]
    assert found["cpu"]
    assert [metric for metric, _ in found["cuda"]] == [metric for metric, _ in found["cpu"]]
    for (metric, value), (_, expected) in zip(found["cuda"], found["cpu"], strict=True):
        assert value == pytest.approx(expected, rel=CLOSE, abs=1e-6), metric


def is_timed(row: Row) -> bool:
    return "second" in row.metric or "peak" in row.metric or "speed" in row.metric


@pytest.mark.parametrize("arm", [ops.COPYING, ops.TRITON], ids=lambda arm: arm.name)
def test_operations_are_timed(arm: ops.Arm, gpu: None) -> None:
    """But for CUDA graphs, which `test_graph_recorder` has."""
    size = replace(SMALL, device="cuda", tokens=17)
    measured = ops.measure(size, arm, "training", seed=0, repeats=1, budget=0)
    assert measured.device_name == "stand-in"
    job = {"seed": 0, "repeats": 1, "budget": 0, "size": asdict(size)}
    assert here({**job, "what": "check-pieces", "backends": [arm.backend]}, "default")
    assert here({**job, "what": "pieces", "backend": arm.backend}, "tuned")["measured"]


def test_models_are_timed(monkeypatch: pytest.MonkeyPatch, gpu: None, no_triton: None) -> None:
    monkeypatch.setattr(model_configs, "model_config", lambda name, scale: tiny_config(name))
    job = {"what": "model", "threads": 1, "repeats": 1, "budget": 0}
    case = ModelCase("gdn:fwpkm@1", "micro", batch=2, length=64, device="cuda")
    found = worker.do({**job, "case": asdict(case), "size": {"name": case.name}})
    assert (found["device_name"], found["backend"]) == ("stand-in", "torch")


def test_training_is_timed_beside_dense_autograd(gpu: None, no_triton: None, tmp_path: Path) -> None:
    data = write_words(tmp_path)
    found = training_speed(tiny_training_config("gdn:fwpkm@1"), TINY, 1, data=data, device="cuda")
    assert found.dtype == "float32"
