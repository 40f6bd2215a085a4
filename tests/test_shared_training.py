"""Several processes that train models into the same folders, and what is left when one of them is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from training_cases import write_words

from fwpkm_eval.training import run
from fwpkm_eval.training.loggers import METRICS
from fwpkm_eval.training.run import InUse, train_models

fcntl = pytest.importorskip("fcntl")
# What starts the tests may ignore the signals, and so would all that they start.
KILLED = """
import signal
import sys
from pathlib import Path
from fwpkm_eval.training.run import train_models

if __name__ == "__main__":
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    train_models(["gdn"], "micro", [Path(sys.argv[1])], sys.argv[2], 1, True)
"""


@contextmanager
def other_training(folder: Path) -> Iterator[None]:
    folder.mkdir()
    with (folder / ".training").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
        (folder / ".training").unlink()


class Trainings:
    """Stands in for the processes that `train_models` starts, each of which ends at once; and for the passing of time.

    `started`: models with the files in their folders; `finished`: the folders that hold a trained model.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.started: list[tuple[str, list[str]]] = []
        self.finished: set[Path] = set()
        self.after: dict[int, Callable[[], Any]] = {}
        self.looks = 0
        monkeypatch.setattr(run, "_start", self.start)
        monkeypatch.setattr(run, "is_finished", lambda folder, *rest: folder in self.finished)
        monkeypatch.setattr(run, "time", SimpleNamespace(sleep=self.sleep))

    def start(self, name: str, scale: str, folder: Path, *rest: Any) -> Any:
        self.started.append((name, [path.name for path in folder.iterdir()]))
        self.finished.add(folder)
        return subprocess.Popen([sys.executable, "-c", ""])

    def sleep(self, seconds: float) -> None:
        assert seconds < 1
        time.sleep(seconds)
        self.looks += 1
        self.after.get(self.looks, lambda: None)()


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> Trainings:
    return Trainings(monkeypatch)


@pytest.mark.parametrize("quiet", [False, True])
def test_what_another_process_trains_is_waited_for_and_taken(
    quiet: bool, trainings: Trainings, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    other = ExitStack()
    other.enter_context(other_training(tmp_path / "gdn"))
    trainings.after = {5: lambda: trainings.finished.add(tmp_path / "gdn"), 6: other.close}
    train_models(["gdn", "gdn+fa"], "micro", [tmp_path / "gdn", tmp_path / "fa"], "embedded", 1, quiet)
    assert trainings.started == [("gdn+fa", [".training"])], "the folder that is free comes first, and is held"
    line = f"waiting for another process that trains gdn into {tmp_path / 'gdn'}\n"
    assert capfd.readouterr().err == ("" if quiet else line)
    assert list(tmp_path.rglob("*")) == [tmp_path / "gdn"], "nor a folder in which nothing was written"


def test_what_another_process_leaves_unfinished_is_gone_on_with(trainings: Trainings, tmp_path: Path) -> None:
    other = ExitStack()
    other.enter_context(other_training(tmp_path / "gdn"))
    trainings.after = {3: other.close}
    train_models(["gdn"], "micro", [tmp_path / "gdn"], "embedded", 1, True)
    assert trainings.looks > 3
    assert trainings.started == [("gdn", [".training"])]


def test_a_lock_on_a_file_that_was_just_removed_is_taken_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a training that ends does, between the opening of the file and the lock."""
    lock = fcntl.flock
    removed: list[Path] = []

    def remove(*how: int) -> None:
        if not removed:
            removed.append(tmp_path / ".training")
            removed[0].unlink()
        lock(*how)

    monkeypatch.setattr(fcntl, "flock", remove)
    with run._alone_in(tmp_path):
        assert removed
        with pytest.raises(InUse), run._alone_in(tmp_path):
            pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGHUP, signal.SIGTERM])
def test_trainings_end_with_the_process_that_started_them(sent: signal.Signals, tmp_path: Path) -> None:
    script, folder = tmp_path / "killed.py", tmp_path / "checkpoints" / "gdn"
    script.write_text(KILLED)
    data = write_words(tmp_path / "data")
    process = subprocess.Popen([sys.executable, str(script), str(folder), data], start_new_session=True)
    try:
        _wait_until(lambda: (folder / METRICS).exists() and (folder / METRICS).stat().st_size > 0)
        with pytest.raises(InUse), run._alone_in(folder):
            pass
        process.send_signal(sent)  # not to its training, as Ctrl-C on a terminal would be
        process.communicate(timeout=60)
        _wait_until(lambda: _is_free(folder))  # which the training kept from all others as long as it lived
        written = (folder / METRICS).read_bytes()
        time.sleep(0.5)
        assert (folder / METRICS).read_bytes() == written
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _is_free(folder: Path) -> bool:
    try:
        with run._alone_in(folder):
            return True
    except InUse:
        return False


def _wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.05)
