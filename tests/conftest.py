"""Fixtures that several test files use, and the way to the helpers beside them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from plot_cases import Draw

    from fwpkm_eval.reporting.style import Plot
    from fwpkm_eval.runs.rows import Row

# Triton's kernels run compiled where there is a GPU and in Triton's interpreter elsewhere; it looks once, at import.
GPU = torch.cuda.is_available()
GPU_MODULES = (
    "test_triton_backend",
    "test_triton_reads",
    "test_triton_scan",
    "test_triton_windows",
    "test_bench_pieces",
    "test_goldens",
    "test_gpu",
    "test_graph_recorder",
    "test_graphs",
    "test_bench_graphs",
)
"""Tests that use a GPU where there is one; all others run on the CPU, on any machine."""
VISIBLE = os.environ.get("CUDA_VISIBLE_DEVICES")
if GPU:
    # This process holds the GPU before the variable hides it from the processes that tests start.
    torch.cuda.init()
    torch.cuda.device_count()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS is not deterministic
    torch.backends.cuda.matmul.allow_tf32 = False  # some environments switch it on
else:
    os.environ["TRITON_INTERPRET"] = "1"


def pytest_configure(config: pytest.Config) -> None:
    """Hides the GPU from the processes that tests start; not from those of pytest-xdist, which run the tests."""
    runs_tests = hasattr(config, "workerinput") or not getattr(config.option, "numprocesses", None)
    if GPU and runs_tests:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


# No deadlines: what takes 1 ms here takes a second on a machine that is busy with something else.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
# For `make soak`: --hypothesis-profile=soak.
settings.register_profile("soak", max_examples=20_000, deadline=None)

# With --import-mode=importlib pytest leaves sys.path alone; tests import helpers (tolerances, …) by name.
if str(Path(__file__).parent) not in sys.path:
    sys.path.append(str(Path(__file__).parent))


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests keep is theirs, and so is what they find: neither from nor in the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FWPKM_EVAL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module", autouse=True)
def auto_is_the_cpu(request: pytest.FixtureRequest) -> Iterator[None]:
    """Device "auto" is the CPU in tests whose numbers, names of devices and times are those of a CPU."""
    with pytest.MonkeyPatch.context() as patch:
        if GPU and request.module.__name__.rpartition(".")[2] not in GPU_MODULES:
            patch.setattr(torch.cuda, "is_available", lambda: False)
            patch.setattr(torch.cuda, "is_initialized", lambda: False)  # memory is counted where it is used
        yield


@pytest.fixture
def gpu_in_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that the test starts see the GPU, too."""
    if VISIBLE is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", VISIBLE)


@pytest.fixture
def any_operation(poisoned_memory: None) -> Iterator[None]:
    """Poisoned memory, but nothing refused: a mixer's cumulative sum has no deterministic form on a GPU."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(True)


@pytest.fixture(scope="module")
def poisoned_memory() -> Iterator[None]:
    """Fills uninitialised tensors with NaN (integers: their largest value): whoever reads one is found out.

    Torch does it, below torch.empty, empty_like and new_empty, in its deterministic mode; operations that
    are not deterministic are refused meanwhile.
    """
    switch: Any = torch.utils.deterministic  # its attribute is a property, unknown to type checkers
    fill = switch.fill_uninitialized_memory
    deterministic = torch.are_deterministic_algorithms_enabled()
    switch.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    assert torch.zeros(2, 3).new_empty(2).isnan().all()
    yield
    torch.use_deterministic_algorithms(deterministic)
    switch.fill_uninitialized_memory = fill


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """One thread: at test sizes a second one costs more than it gives."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def no_gradients() -> Iterator[None]:
    """Runs the test without autograd, as models are evaluated."""
    with torch.no_grad():
        yield


@pytest.fixture
def without_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells are run in this process: workers take seconds to start, and have tests of their own."""
    from fwpkm_eval.errors import UserError
    from fwpkm_eval.runs import engine

    def one_by_one(
        crew: engine.LocalCrew, agenda: engine.Agenda, workers: int
    ) -> Iterator[tuple[engine.Job, engine.Event]]:
        while job := agenda.next():
            try:
                yield job, (crew.execute(job, lambda tokens: None), 0.1)
            except UserError as error:
                yield job, engine.Failure(job, str(error))

    monkeypatch.setattr(engine.LocalCrew, "run", one_by_one)


@pytest.fixture
def no_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmark as where no peer is installed; `test_bench_peers` has the others."""
    from fwpkm_eval.bench import peers

    monkeypatch.setattr(peers, "peer_version", lambda: None)


@pytest.fixture
def draw(monkeypatch: pytest.MonkeyPatch) -> Draw:
    """The figures that rows give, by name, as they are before they become files."""
    from fwpkm_eval.reporting import style
    from fwpkm_eval.reporting.plots import build_plots
    from fwpkm_eval.runs.rows import rows_to_frame

    def figures(rows: Iterable[Row]) -> dict[str, Figure]:
        found: dict[str, Figure] = {}

        def keep(figure: Figure, name: str, title: str, caption: str) -> Plot:
            found[name] = figure
            assert title
            assert caption.endswith(".")
            return style.Plot(name, title, caption, "", b"", 1.0)

        monkeypatch.setattr(style, "finish", keep)
        build_plots(rows_to_frame(rows))
        return found

    return figures
