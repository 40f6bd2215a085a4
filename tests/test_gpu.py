"""What only a GPU can show: training, measuring and benchmarking on one, sizes that fill it, repetition bit for bit.

Kernels against the reference are in `test_triton_scan` and `test_triton_reads`, which use a GPU where there is one.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tolerances import assert_close
from training_cases import TINY, tiny_training_config, write_words

from fwpkm_eval import cli
from fwpkm_eval.bench.ops import PASSES, TRITON, TRITON_IN_PLACE, OpSize, draw, scan
from fwpkm_eval.kernels import fwpkm_scan
from fwpkm_eval.kernels.stream import ProductKeyMemory
from fwpkm_eval.kernels.types import MemoryRule, Score
from fwpkm_eval.reference_models.gated_delta import (
    fla_delta_rule,
    fla_is_installed,
    gated_delta_rule,
    is_miscompiled,
)
from fwpkm_eval.runs.rows import read_rows_csv
from fwpkm_eval.training.parallel import Ranks
from fwpkm_eval.training.trainer import Settings, Trainer

DEVICE = "cuda"
pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.usefixtures("gpu_in_processes"),
]


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("spec", ["gdn:fwpkm@1", "fa:pkm@1", "gdn+swa:fwmlp@1", "gdn:lact@1"])
def test_a_model_is_trained_goes_on_and_is_measured(spec: str, bf16: bool, tmp_path: Path) -> None:
    data = write_words(tmp_path / "data")
    config = tiny_training_config(spec)

    def trainer(folder: str) -> Trainer:
        return Trainer(config, TINY, tmp_path / folder, data, Settings(bf16=bf16), Ranks(torch.device(DEVICE)))

    whole = [report.loss for report in trainer("whole").run()]
    first = trainer("model")
    steps = first.run(save_every_seconds=-1)
    losses = [next(steps).loss for _ in range(4)]
    second = trainer("model")
    assert second.resume()
    losses += [report.loss for report in second.run()]
    # A GPU may take some of a backbone's sums in another order.
    assert losses == pytest.approx(whole, rel=1e-2)
    words = tmp_path / "data" / "words"
    (words / "test.jsonl").write_bytes((words / "train.jsonl").read_bytes())
    asked = ["ppl", "--models", str(tmp_path / "model"), "--data", data, "--tokens", "256", "--segment", "128"]
    assert cli.main([*asked, "--device", DEVICE, "--out", str(tmp_path / "run"), "--quiet"]) == 0
    rows = read_rows_csv(tmp_path / "run" / "rows.csv")
    assert rows
    assert {row.device for row in rows} == {DEVICE}


@pytest.mark.skipif(not fla_is_installed(), reason="needs the extra gpu: pip install 'fwpkm-eval[gpu]'")
@pytest.mark.parametrize("started", [False, True])
def test_the_cuda_form_of_gated_deltanet_agrees_with_the_torch_form(started: bool) -> None:
    """Outputs, the last matrix and every gradient, at the width and length that models have."""
    if is_miscompiled(torch.device(DEVICE)):
        pytest.skip("this Triton gets the kernels wrong on this GPU")
    draws = torch.Generator(DEVICE).manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draws, device=DEVICE)

    q, k = (F.normalize(normal(2, 8, 300, 64), dim=-1) for _ in range(2))
    decay, beta = -F.softplus(normal(2, 8, 300)), torch.sigmoid(normal(2, 8, 300))
    given = [(q * 64**-0.5).bfloat16(), k.bfloat16(), normal(2, 8, 300, 64).bfloat16(), decay, beta]
    given += [normal(2, 8, 64, 64)] if started else []
    cotangents = normal(2, 8, 300, 64), normal(2, 8, 64, 64)
    found = []
    for rule in (fla_delta_rule, gated_delta_rule):
        inputs = [x.detach().clone().requires_grad_() for x in given]
        start = inputs[5] if started else None
        results = rule(inputs[0], inputs[1], inputs[2], inputs[3], inputs[4], start)
        loss = (results[0].float() * cotangents[0]).sum() + (results[1] * cotangents[1]).sum()
        found.append([*results, *torch.autograd.grad(loss, inputs)])
    names = ("output", "matrix", "q", "k", "v", "decay", "beta", "start")
    for name, ours, expected in zip(names, *found, strict=False):
        assert_close("mixer.fla", ours.float(), expected.float(), name)


def test_the_benchmark_finds_that_all_agree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = [
        "bench",
        "--what",
        "ops,models",
        "--models",
        "gdn,gdn:fwpkm@1,gdn:pkm@1",
        "--length",
        "256",
        "--batch",
        "4",
    ]
    assert cli.main([*asked, "--repeats", "3", "--device", DEVICE, "--out", str(tmp_path / "out")]) == 0
    arms = {row.arm for row in read_rows_csv(tmp_path / "out" / "rows.csv")}
    assert {TRITON.name, TRITON_IN_PLACE.name, "lookup/triton", "pkm/triton"} <= arms
    assert "does not agree" not in capsys.readouterr().err


@pytest.mark.parametrize("subkeys", [512, 1024])
def test_a_run_of_papers_size_repeats_bit_for_bit(subkeys: int) -> None:
    size = OpSize("paper", subkeys, 512, 512, heads=1, topk=8, chunk=512, tokens=1024, batch=8, device=DEVICE)
    runs = []
    for _ in range(2):
        inputs = draw(size, 0)
        wanted = [getattr(inputs, name).requires_grad_() for name in PASSES["training"]]
        result = scan(inputs, TRITON_IN_PLACE, size)
        gradients = torch.autograd.grad((result.output * inputs.cotangent).sum(), wanted)
        runs.append([result.output, result.keys, result.values, *gradients])
    assert all(torch.equal(ours, again) for ours, again in zip(*runs, strict=True))
    assert all(x.isfinite().all() for x in runs[0])


@pytest.mark.parametrize("score", ["idw", "dot"])
def test_slots_that_thousands_of_tokens_read(score: Score) -> None:
    """As text reads them: their sums are made in parts, of windows as large as they are meant to be."""
    size = OpSize("words", 128, 64, 64, heads=1, topk=8, chunk=512, tokens=1024, batch=8, device=DEVICE, words=100)
    found: dict[str, list[torch.Tensor]] = {}
    for backend in ("triton", "torch"):
        drawn = {name: x.double() for name, x in vars(draw(size, 0)).items()}
        cotangent = drawn.pop("cotangent")
        given = [x.requires_grad_() for x in drawn.values()]
        result = fwpkm_scan(*given, score=score, chunk_size=size.chunk, backend=backend)
        found[backend] = [result.output, result.keys, result.values]
        found[backend] += torch.autograd.grad((result.output * cotangent).sum(), given)
    tables = ["scan.forward"] * 3 + ["scan.gradient"] * 5
    for table, name, ours, theirs in zip(tables, range(8), found["triton"], found["torch"], strict=True):
        assert_close(table, ours, theirs, str(name))


@pytest.mark.parametrize(("heads", "topk"), [(1, 8), (4, 32)])
def test_reads_beyond_two_billion_numbers(heads: int, topk: int) -> None:
    """Offsets of 32 bits would end at 2**31: the last of many tokens read what they read by themselves."""
    tokens = 2**31 // 512 + 64
    if torch.cuda.mem_get_info()[0] < 48 * 2**30:
        pytest.skip("needs 48 GiB of free memory")
    draws = torch.Generator(DEVICE).manual_seed(0)
    keys = torch.randn(heads, 2, 32, 4, generator=draws, device=DEVICE)
    values = torch.randn(32**2, 512, generator=draws, device=DEVICE)
    query = torch.randn(1, tokens, heads * 8, generator=draws, device=DEVICE)
    memory = ProductKeyMemory(keys, values, MemoryRule(topk, "dot"), backend="triton")
    with torch.no_grad():
        every, alone = memory.read(query), memory.read(query[:, -64:])
    assert torch.equal(every[:, -64:], alone)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_gpu_that_is_not_the_current_one() -> None:
    size = OpSize("small", 32, 32, 32, heads=2, topk=4, chunk=32, tokens=64, batch=2)
    found = []
    for device in ("cuda:0", "cuda:1"):
        there = replace(size, device=device)
        found.append(scan(draw(there, 0), TRITON, there).output.cpu())
    assert torch.equal(*found)
