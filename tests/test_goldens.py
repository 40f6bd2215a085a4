"""Every golden file, what the published implementations computed, against every backend."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tolerances import assert_close
from torch import Tensor

from fwpkm_eval.kernels.fwmlp import WEIGHT_NAMES, fwmlp_scan
from fwpkm_eval.kernels.fwpkm import fwpkm_scan
from fwpkm_eval.kernels.pkm import pkm_read
from fwpkm_eval.kernels.stream import ProductKeyMemory, WriteQueue, flush, read_and_queue
from fwpkm_eval.kernels.types import MemoryRule, ScanResult
from fwpkm_eval.reference_models.config import PKMConfig
from fwpkm_eval.reference_models.memory_layers import PKMLayer

pytestmark = pytest.mark.usefixtures("poisoned_memory", "one_thread")

FOLDER = Path(__file__).parent / "golden"
FILES = sorted(path.stem for path in FOLDER.glob("*.npz"))
STREAMS = [name for name in FILES if "stream" in name]
SCANS = [name for name in FILES if name.startswith("fwpkm") and name not in STREAMS]
FWMLPS = [name for name in FILES if name.startswith("fwmlp")]
PKMS = [name for name in FILES if name.startswith("pkm")]


class Golden:
    """A golden file that knows which of its results were compared."""

    def __init__(self, name: str, dtype: torch.dtype = torch.float32, device: str = "cpu") -> None:
        with np.load(FOLDER / f"{name}.npz") as stored:
            self.config: dict[str, Any] = json.loads(str(stored["config"]))
            self.arrays = {key: torch.from_numpy(stored[key]) for key in stored.files if key != "config"}
        self.dtype, self.device = dtype, device
        self.compared: set[str] = set()

    def given(self, name: str, requires_grad: bool = False) -> Tensor:
        """The input `in_<name>`."""
        return self.arrays[f"in_{name}"].to(self.device, self.dtype).requires_grad_(requires_grad)

    def has(self, name: str) -> bool:
        return name in self.arrays

    def expected(self, name: str) -> Tensor:
        """The result `out_<name>`, now counted as compared."""
        self.compared.add(f"out_{name}")
        return self.arrays[f"out_{name}"]

    def check(self, tolerance: str, name: str, ours: Tensor) -> None:
        """Ours against `out_<name>`. The golden numbers are float32 whatever ours were computed in."""
        assert ours.dtype == self.dtype
        assert_close(tolerance, ours.cpu(), self.expected(name).view_as(ours), name, dtype=torch.float32)

    def check_all_compared(self) -> None:
        """No result of the file was passed over."""
        assert self.compared == {key for key in self.arrays if key.startswith("out_")}

    def rule(self) -> MemoryRule:
        c = self.config
        return MemoryRule(c["topk"], c["score"], c["lookahead"], c["addressing"])

    def shaped_keys(self, requires_grad: bool = False) -> Tensor:
        c = self.config
        keys = self.given("keys").view(c["heads"], 2, c["subkeys"], c["key_dim"] // 2)
        return keys.requires_grad_(requires_grad)


def test_every_kind_of_file_is_here() -> None:
    assert (len(SCANS), len(STREAMS), len(FWMLPS), len(PKMS)) == (14, 3, 5, 2)
    assert len(FILES) == 24


def same_sets(ours: Tensor, expected: Tensor) -> Tensor:
    """[…] bool: whether the slots along the last dimension are the same, in any order."""
    return (ours.sort(-1).values == expected.sort(-1).values).all(-1)


def check_reads(golden: Golden, result: ScanResult) -> None:
    """Slots as sets, and weights slot by slot; a tie may swap a slot for one of equal weight."""
    slots, weights = golden.expected("indices"), golden.expected("weights")
    assert result.indices.dtype == torch.int64
    indices, our_weights = result.indices.cpu(), result.weights.cpu()
    same = same_sets(indices, slots)
    ours = our_weights.gather(-1, indices.argsort(-1))
    theirs = weights.gather(-1, slots.argsort(-1))
    assert_close("golden.forward", ours[same], theirs[same], "weights, slot by slot", dtype=torch.float32)
    # No golden file has ties at the edge of the top-k in more than one read of a thousand.
    assert same.float().mean() >= 0.999
    descending = (our_weights.sort(-1, descending=True).values, weights.sort(-1, descending=True).values)
    assert_close("golden.forward", *descending, "weights in order", dtype=torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize("name", SCANS)
def test_scan(name: str, backend: str, dtype: torch.dtype) -> None:
    check_scan(Golden(name, dtype), backend)


# Triton's interpreter is slow: of files that tell the same, those with gradients.
@pytest.mark.parametrize(
    "name", [n for n in SCANS if "grad" in n or f"{n.replace('fwpkm', 'fwpkm_grad')}" not in SCANS]
)
def test_scan_in_triton(name: str) -> None:
    check_scan(Golden(name, device="cuda" if torch.cuda.is_available() else "cpu"), "triton")


def check_scan(golden: Golden, backend: str) -> None:
    config = golden.config
    with_gradients = "in_cotangent" in golden.arrays
    inputs = {
        "query": golden.given("query", with_gradients),
        "value": golden.given("value", with_gradients),
        "keys": golden.shaped_keys(with_gradients),
        "values": golden.given("values", with_gradients),
    }
    if config["gated_loss"]:
        inputs["gate"] = golden.given("gate", with_gradients)
    result = fwpkm_scan(
        inputs["query"],
        inputs["value"],
        inputs.get("gate"),
        inputs["keys"],
        inputs["values"],
        **vars(golden.rule()),
        chunk_size=config["chunk"],
        backend=backend,
    )
    golden.check("golden.forward", "output", result.output)
    golden.check("golden.forward", "keys", result.keys)
    golden.check("golden.forward", "values", result.values)
    golden.check("golden.forward", "memory_loss", result.memory_loss)
    if config["addressing"] == "entropy":
        assert result.addressing_loss is not None
        golden.check("golden.forward", "addressing_loss", result.addressing_loss)
    else:
        assert result.addressing_loss is None
    check_reads(golden, result)
    if with_gradients:
        gradients = torch.autograd.grad((result.output * golden.given("cotangent")).sum(), list(inputs.values()))
        for what, gradient in zip(inputs, gradients, strict=True):
            golden.check("golden.gradient", f"grad_{what}", gradient)
    golden.check_all_compared()


@pytest.mark.parametrize("name", STREAMS)
def test_stream(name: str) -> None:
    """The published streaming rule: N_i and the factor from the reads since the last write."""
    golden = Golden(name)
    query, target, gate = golden.given("query"), golden.given("value"), golden.given("gate")
    memory = ProductKeyMemory(golden.shaped_keys().clone(), golden.given("values").clone(), golden.rule(), "read")
    queue = WriteQueue()
    first, *singles = golden.config["pieces"]
    read = read_and_queue(memory, queue, query[:, :first], target[:, :first], gate[:, :first], golden.config["chunk"])
    flush(memory, queue)
    outputs = [read]
    for at in range(first, first + len(singles)):
        outputs.append(memory.read(query[:, at : at + 1]))
    golden.check("golden.forward", "output", torch.cat(outputs, 1))
    golden.check("golden.forward", "keys", memory.keys)
    golden.check("golden.forward", "values", memory.values)
    golden.check_all_compared()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", FWMLPS)
def test_fwmlp(name: str, dtype: torch.dtype) -> None:
    golden = Golden(name, dtype)
    config = golden.config
    with_gradients = "in_cotangent" in golden.arrays
    query, target = golden.given("query", with_gradients), golden.given("value", with_gradients)
    weights = {weight: golden.given(weight, with_gradients) for weight in WEIGHT_NAMES}
    result = fwmlp_scan(
        query,
        target,
        weights,
        lookahead=config["lookahead"],
        target_rule=config["target"],
        chunk_size=config["chunk"],
        learning_rate=config["learning_rate"],
    )
    golden.check("golden.forward", "output", result.output)
    golden.check("golden.forward", "memory_loss", result.memory_loss)
    for weight in WEIGHT_NAMES:
        golden.check("golden.forward", weight, result.weights[weight])
    if with_gradients:
        inputs = {"query": query, "value": target, **weights}
        gradients = torch.autograd.grad((result.output * golden.given("cotangent")).sum(), list(inputs.values()))
        for what, gradient in zip(inputs, gradients, strict=True):
            golden.check("golden.gradient", f"grad_{what}", gradient)
    golden.check_all_compared()


@pytest.mark.parametrize("name", PKMS)
def test_pkm_layer(name: str) -> None:
    """The static layer: output, slots and the gradients of the input and of every parameter."""
    golden = Golden(name)
    c = golden.config
    layer = PKMLayer(PKMConfig(c["subkeys"], c["key_dim"], c["value_dim"], c["heads"], c["topk"]), c["hidden"])
    parameters = dict(layer.named_parameters())
    for parameter_name, parameter in parameters.items():
        stored = golden.given(parameter_name.replace(".", "_"))
        assert stored.numel() == parameter.numel()
        with torch.no_grad():
            parameter.copy_(stored.view_as(parameter))
    stored_names = {key.removeprefix("in_") for key in golden.arrays if key.startswith("in_")}
    assert stored_names == {n.replace(".", "_") for n in parameters} | {"hidden", "cotangent"}

    hidden = golden.given("hidden", requires_grad=True)
    output = layer(hidden)
    golden.check("golden.forward", "output", output)
    _, slots = pkm_read(layer.query_norm(layer.query(hidden)), layer.keys, layer.values, topk=c["topk"])
    per_head = (*slots.shape[:2], c["heads"], c["topk"])
    assert same_sets(slots.view(per_head), golden.expected("indices").view(per_head)).all()
    inputs = {"hidden": hidden, **{n.replace(".", "_"): p for n, p in parameters.items()}}
    gradients = torch.autograd.grad((output * golden.given("cotangent")).sum(), list(inputs.values()))
    for what, gradient in zip(inputs, gradients, strict=True):
        golden.check("golden.gradient", f"grad_{what}", gradient)
    golden.check_all_compared()
