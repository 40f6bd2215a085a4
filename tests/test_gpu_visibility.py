"""On a machine with a GPU the tests that want it have it, in pytest-xdist's processes too, and no others."""

from __future__ import annotations

import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

HERE = Path(__file__).parent


@pytest.fixture
def ours(request: pytest.FixtureRequest) -> Any:
    """This folder's conftest."""
    plugins = request.config.pluginmanager.get_plugins()
    return next(one for one in plugins if getattr(one, "__file__", None) == str(HERE / "conftest.py"))


@pytest.mark.parametrize(
    ("config", "hidden"),
    [
        (SimpleNamespace(option=SimpleNamespace()), True),
        (SimpleNamespace(option=SimpleNamespace(numprocesses=None)), True),
        (SimpleNamespace(option=SimpleNamespace(numprocesses=4)), False),
        (SimpleNamespace(option=SimpleNamespace(numprocesses=4), workerinput={}), True),
    ],
    ids=["without-xdist", "one-process", "controller", "worker"],
)
def test_a_gpu_is_hidden_by_processes_that_run_tests_alone(
    ours: Any, config: SimpleNamespace, hidden: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the controller hides, its workers never see."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr(ours, "GPU", False)
    ours.pytest_configure(config)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0", "there is none to hide"
    monkeypatch.setattr(ours, "GPU", True)
    ours.pytest_configure(config)
    assert (os.environ["CUDA_VISIBLE_DEVICES"] == "") == hidden


def test_every_module_with_tests_for_a_gpu_sees_it(ours: Any) -> None:
    files = {file.stem: file.read_text(encoding="utf-8") for file in HERE.glob("test_*.py")}
    asks = re.compile(r"^(@needs_gpu|DEVICE =|from .* import .*\bDEVICE\b)|pytest\.mark\.skipif\(not torch\.cuda", re.M)
    asking = {name for name, text in files.items() if asks.search(text)}
    assert {"test_gpu", "test_graph_recorder", "test_triton_windows"} <= asking
    assert asking <= set(ours.GPU_MODULES) <= set(files)
