"""What the memory operations refuse, each in one line: sizes, settings and backends that do not fit."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scan_cases import Case

from fwpkm_eval.errors import UserError
from fwpkm_eval.kernels import triton_launch
from fwpkm_eval.kernels.fwmlp import fwmlp_scan

CASE = Case(batch=2, tokens=6, heads=2, subkeys=4, half=3, width=5, topk=2, chunk=3)


def refused(words: list[str], **changes: Any) -> None:
    """The scan with these changes raises UserError, in one line that holds the words."""
    inputs = CASE.inputs()
    inputs.update({name: changes.pop(name) for name in list(changes) if name in inputs})
    before = {name: x.clone() for name, x in inputs.items() if isinstance(x, torch.Tensor)}
    for backend in [changes.pop("backend")] if "backend" in changes else ["reference", "torch", "auto"]:
        with pytest.raises(UserError) as raised:
            CASE.scan(inputs, backend=backend, **changes)
        message = str(raised.value)
        assert "\n" not in message
        for word in words:
            assert word in message, message
    for name, x in before.items():
        assert torch.equal(inputs[name], x)


zeros = torch.zeros


@pytest.mark.parametrize(
    ("name", "bad", "words"),
    [
        # query [2,6,12], target [2,6,5], gate [2,6], keys [2,2,4,3] and values [16,5] would fit.
        ("query", zeros(6, 12), ["query", "[6, 12]"]),
        ("query", zeros(2, 6, 10), ["10", "12"]),
        ("query", zeros(2, 6, 24), ["24", "12"]),
        ("query", zeros(2, 5, 12), ["query", "target"]),
        ("query", zeros(1, 6, 12), ["query", "target"]),
        ("target", zeros(2, 6, 4), ["4", "dv"]),
        ("target", zeros(2, 6), ["target", "[2, 6]"]),
        ("target", zeros(2, 7, 5), ["query", "target"]),
        ("gate", zeros(2, 6, 1), ["gate", "[2, 6, 1]"]),
        ("gate", zeros(2, 5), ["gate", "[2, 5]"]),
        ("gate", zeros(1, 6), ["gate", "[1, 6]"]),
        ("keys", zeros(2, 2, 4, 2), ["keys", "12"]),
        ("keys", zeros(1, 2, 4, 3), ["keys", "12"]),
        ("keys", zeros(2, 3, 4, 3), ["keys", "[2, 3, 4, 3]"]),
        ("keys", zeros(16, 3), ["keys", "[16, 3]"]),
        ("keys", zeros(2, 2, 3, 3), ["values", "9"]),
        ("values", zeros(15, 5), ["values", "16"]),
        ("values", zeros(16, 4), ["values", "dv"]),
        ("values", zeros(4, 4, 5), ["values", "[4, 4, 5]"]),
        ("keys", zeros(0, 2, 4, 3), ["keys", "[0, 2, 4, 3]", "at least 1"]),
        ("keys", zeros(2, 2, 4, 0), ["keys", "[2, 2, 4, 0]", "at least 1"]),
        ("values", zeros(16, 0), ["values", "[16, 0]", "at least 1"]),
    ],
)
def test_shapes_that_do_not_fit(name: str, bad: torch.Tensor, words: list[str]) -> None:
    refused(words, **{name: bad.double()})


def test_tensors_of_two_devices() -> None:
    with pytest.raises(UserError, match=r"all tensors must be on one device; got .*gate on meta"):
        CASE.scan({**CASE.inputs(), "gate": torch.zeros(2, 6, device="meta")})


def test_no_tokens() -> None:
    refused(["T"], query=zeros(2, 0, 12).double(), target=zeros(2, 0, 5).double(), gate=zeros(2, 0).double())


def test_no_rows() -> None:
    refused(["B"], query=zeros(0, 6, 12).double(), target=zeros(0, 6, 5).double(), gate=zeros(0, 6).double())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64])
def test_fast_weights_of_low_precision(dtype: torch.dtype) -> None:
    refused(["float32"], keys=CASE.inputs()["keys"].to(dtype), values=CASE.inputs()["values"].to(dtype))
    refused(["float32"], keys=CASE.inputs()["keys"].float())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"topk": 5}, ["topk", "5", "4"]),
        ({"topk": 0}, ["topk", "0"]),
        ({"topk": -1}, ["topk", "-1"]),
        ({"chunk_size": 0}, ["chunk_size", "0"]),
        ({"chunk_size": -3}, ["chunk_size", "-3"]),
        ({"lookahead": -1}, ["lookahead", "-1"]),
        ({"score": "idv"}, ["idv", "did you mean idw", "dot"]),
        ({"score": "cosine"}, ["cosine", "dot", "idw"]),
        ({"addressing": "entropie"}, ["entropie", "did you mean entropy"]),
        ({"learning_rate": math.nan}, ["learning_rate"]),
        ({"addressing_weight": math.inf}, ["addressing_weight"]),
        ({"topk": 2.5}, ["topk", "2.5", "whole number"]),
        ({"topk": True}, ["topk", "True", "whole number"]),
        ({"topk": "8"}, ["topk", "'8'", "whole number"]),
        ({"lookahead": 1.5}, ["lookahead", "1.5", "whole number"]),
        ({"chunk_size": 2.5}, ["chunk_size", "2.5", "whole number"]),
        ({"chunk_size": None}, ["chunk_size", "None", "whole number"]),
        ({"learning_rate": "1"}, ["learning_rate", "'1'", "finite number"]),
        ({"learning_rate": 1j}, ["learning_rate", "1j", "finite number"]),
        ({"score": None}, ["score", "None", "dot"]),
        ({"addressing": 3}, ["addressing", "3", "entropy"]),
        ({"backend": None}, ["backend", "None", "torch"]),
        ({"query": zeros(2, 6, 12).tolist()}, ["query", "list", "Tensor"]),
        ({"target": zeros(2, 6, 5).numpy()}, ["target", "ndarray", "Tensor"]),
        ({"gate": 1.0}, ["gate", "float", "Tensor"]),
        ({"keys": None}, ["keys", "NoneType", "Tensor"]),
        ({"query": zeros(2, 6, 12).to(torch.complex64)}, ["query", "complex64", "real"]),
        ({"values": zeros(16, 5).to(torch.complex128)}, ["values", "complex128", "real"]),
    ],
)
def test_settings_that_do_not_fit(changes: dict[str, Any], words: list[str]) -> None:
    refused(words, **changes)


def test_an_unknown_backend_names_the_near_one() -> None:
    refused(["torhc", "did you mean torch", "reference"], backend="torhc")
    refused(["cuda", "auto", "reference", "torch"], backend="cuda")


def test_triton_on_a_cpu_is_refused_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """Never a silent fallback: a backend asked for by name runs or is refused."""
    monkeypatch.setattr(triton_launch, "interpreted", lambda: False)
    refused(["triton", "cpu", "torch"], backend="triton")


def test_the_reference_has_no_inplace_form() -> None:
    refused(["reference", "inplace"], backend="reference", inplace=True)


@pytest.mark.parametrize("name", ["keys", "values"])
def test_inplace_into_weights_that_want_a_gradient(name: str) -> None:
    """Leaves of the graph cannot be overwritten; they must be found unchanged after the refusal."""
    inputs = CASE.inputs()
    before = inputs[name].clone()
    inputs[name].requires_grad_()
    with pytest.raises((UserError, RuntimeError)):
        CASE.scan(inputs, backend="torch", inplace=True)
    assert torch.equal(inputs[name], before)


def test_inplace_with_a_gradient_says_what_became_of_the_weights() -> None:
    inputs = CASE.inputs()
    inputs["query"].requires_grad_()
    CASE.scan(inputs, backend="torch", inplace=True)
    with pytest.raises(UserError, match="part of its graph: detach_"):
        CASE.scan(inputs, backend="torch", inplace=True)
    inputs["keys"].detach_(), inputs["values"].detach_()
    CASE.scan(inputs, backend="torch", inplace=True)


def test_inplace_with_a_gradient_refuses_views() -> None:
    inputs = CASE.inputs()
    bank = torch.stack([inputs["values"], inputs["values"]])
    inputs["values"] = bank[1]
    CASE.scan(inputs, backend="torch", inplace=True)
    assert not torch.equal(bank[0], bank[1])
    inputs["query"].requires_grad_()
    with pytest.raises(UserError, match="views"):
        CASE.scan(inputs, backend="torch", inplace=True)


def weights() -> dict[str, torch.Tensor]:
    return {
        "w_up": zeros(7, 4),
        "b_up": zeros(7),
        "w_gate": zeros(7, 4),
        "b_gate": zeros(7),
        "w_down": zeros(3, 7),
        "b_down": zeros(3),
    }


def fwmlp_refused(words: list[str], **changes: Any) -> None:
    given: dict[str, Any] = {
        "query": zeros(2, 6, 4),
        "target": zeros(2, 6, 3),
        "weights": weights(),
        **changes,
    }
    with pytest.raises(UserError) as raised:
        fwmlp_scan(**given)
    message = str(raised.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


@pytest.mark.parametrize("name", list(weights()))
def test_fwmlp_weights_that_do_not_fit(name: str) -> None:
    fwmlp_refused([name], weights={n: w for n, w in weights().items() if n != name})
    fwmlp_refused([name, "[2, 2]"], weights={**weights(), name: zeros(2, 2)})
    fwmlp_refused([name, "bias"], weights={**{n: w for n, w in weights().items() if n != name}, "bias": zeros(3)})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"query": zeros(6, 4)}, ["query", "[6, 4]"]),
        ({"target": zeros(2, 5, 3)}, ["target", "[2, 5, 3]"]),
        ({"query": zeros(2, 0, 4), "target": zeros(2, 0, 3)}, ["query"]),
        ({"query": zeros(2, 6, 5)}, ["w_up"]),
        ({"target": zeros(2, 6, 4)}, ["w_down"]),
        ({"chunk_size": 0}, ["chunk_size", "0"]),
        ({"lookahead": -1}, ["lookahead", "-1"]),
        ({"target_rule": "average"}, ["average", "mean", "next"]),
        ({"target_rule": "nxet"}, ["nxet", "did you mean next"]),
        ({"target_rule": None}, ["target rule", "None", "next"]),
        ({"learning_rate": math.nan}, ["learning_rate"]),
        ({"learning_rate": "1"}, ["learning_rate", "'1'"]),
        ({"lookahead": 1.5}, ["lookahead", "1.5", "whole number"]),
        ({"chunk_size": 2.5}, ["chunk_size", "2.5", "whole number"]),
        ({"query": zeros(2, 6, 4).numpy()}, ["query", "ndarray", "Tensor"]),
        ({"target": zeros(2, 6, 3).to(torch.complex64)}, ["target", "complex64", "real"]),
        ({"weights": list(weights().values())}, ["weights", "list", "w_up"]),
        ({"weights": {**weights(), "b_up": [0.0] * 7}}, ["b_up", "list", "Tensor"]),
        ({"weights": {**weights(), "w_up": torch.tensor(1.0)}}, ["w_up", "[]", "matrix"]),
        ({"weights": {n: w.bfloat16() for n, w in weights().items()}}, ["float32", "bfloat16"]),
        ({"weights": {n: w.long() for n, w in weights().items()}}, ["float32", "int64"]),
        ({"weights": {**weights(), "b_up": zeros(7).double()}}, ["one kind", "b_up is torch.float64"]),
    ],
)
def test_fwmlp_settings_that_do_not_fit(changes: dict[str, Any], words: list[str]) -> None:
    fwmlp_refused(words, **changes)
