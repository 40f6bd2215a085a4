"""When backend `triton` runs, when it is refused, and that its kernels compile for the GPU they are written for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import warnings
from pathlib import Path

import pytest
import torch

from fwpkm_eval.errors import UserError
from fwpkm_eval.kernels import backends, triton_launch
from fwpkm_eval.kernels.backends import chunk_ops, resolve_backend

COMPILE = Path(__file__).parent / "compile_triton.py"


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """A Python of its own, in which Triton is not interpreted and no GPU is seen."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["CUDA_VISIBLE_DEVICES"] = ""
    return subprocess.run(
        [sys.executable, "-P", *command], env=environment, capture_output=True, text=True, timeout=300
    )


def test_auto_is_torch_on_a_cpu_even_in_the_interpreter() -> None:
    assert resolve_backend("auto", torch.device("cpu")) == "torch"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_auto_is_triton_on_cuda() -> None:
    assert resolve_backend("auto", torch.device("cuda")) == "triton"


def test_triton_is_refused_where_it_cannot_run() -> None:
    with pytest.raises(UserError, match="for CUDA"):
        resolve_backend("triton", torch.device("meta"))
    with pytest.raises(UserError, match="whole sequences"):
        chunk_ops("reference")


@pytest.mark.parametrize(("lacking", "named"), [("compiler", "gcc"), ("header", "Python.h")])
def test_triton_on_a_gpu_needs_what_its_launcher_is_built_with(
    lacking: str, named: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One clear line before anything is launched; "auto" goes without."""
    monkeypatch.setattr(triton_launch, "interpreted", lambda: False)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None if lacking == "compiler" else f"/usr/bin/{name}")
    monkeypatch.setattr(sysconfig, "get_path", lambda name, scheme: str(tmp_path))
    monkeypatch.setattr(backends, "_build_trouble", backends._build_trouble.__wrapped__)
    with pytest.raises(UserError, match=named):
        resolve_backend("triton", torch.device("cuda"))
    backends._warn_of.cache_clear()
    with pytest.warns(UserWarning, match="on backend 'torch', slowly: Triton needs"):
        assert resolve_backend("auto", torch.device("cuda")) == "torch"
    with warnings.catch_warnings(action="error"):
        assert resolve_backend("auto", torch.device("cuda")) == "torch", "it is said once"
    (tmp_path / "Python.h").touch()
    if lacking == "header":
        assert resolve_backend("auto", torch.device("cuda")) == "triton"


@pytest.mark.parametrize("late", [False, True])
def test_triton_on_a_cpu_needs_the_interpreter_from_the_start(late: bool) -> None:
    """One clear line, also if the variable is set after Triton was imported."""
    code = "import torch, triton, os\n"
    code += "os.environ['TRITON_INTERPRET'] = '1'\n" if late else ""
    code += "from fwpkm_eval.kernels.backends import resolve_backend\n"
    code += "try: resolve_backend('triton', torch.device('cpu'))\nexcept Exception as error: print(error)\n"
    done = run("-c", code)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert "backend 'triton' cannot run on cpu" in line
    assert "TRITON_INTERPRET=1" in line
    assert "'torch'" in line


@pytest.fixture(scope="module")
def compiled() -> list[list[str]]:
    done = run(str(COMPILE))
    assert done.returncode == 0, done.stdout + done.stderr
    return [line.split() for line in done.stdout.splitlines()]


def test_every_kernel_compiles_for_hopper(compiled: list[list[str]]) -> None:
    """What the interpreter cannot see, types, tile limits and shared memory, at paper widths. It needs no GPU."""
    kernels = [line for line in compiled if line[0] not in ("waits", "narrow")]
    assert len({name for name, *_ in kernels}) == 14
    # One block of an H100 has 227 KB; two blocks at a time hide each other's waits.
    assert all(int(shared) <= 113 * 1024 for _, shared, _ in kernels)


def test_no_kernel_spills_its_registers(compiled: list[list[str]]) -> None:
    """A tile that does not fit goes through memory at every step; a few registers are none.

    The lookup of k 32 spills 20 bytes under Triton 3.6, and none under 3.7.
    """
    assert [line for line in compiled if line[0] not in ("waits", "narrow") and int(line[2]) > 32] == []


def test_offsets_of_rows_have_64_bits(compiled: list[list[str]]) -> None:
    """4 million tokens of 512 features, or the values of S 2,048, are 2**31 numbers."""
    assert [line for line in compiled if line[0] == "narrow"] == []


def test_a_scan_never_waits_for_the_device_forward_and_once_backward(compiled: list[list[str]]) -> None:
    """Launches queue up while the GPU works; the one wait is for the number of distinct slots of all chunks."""
    waits = {line[1]: line[2:] for line in compiled if line[0] == "waits"}
    assert {what: found for what, found in waits.items() if what.startswith("forward")} == {
        "forward-entropy": [],
        "forward-none": [],
    }
    assert waits["backward-entropy"] == waits["backward-none"] == ["_unique2"]
