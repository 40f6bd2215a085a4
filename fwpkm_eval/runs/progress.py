"""What a run shows of itself while it goes on: on a terminal a bar, elsewhere a line now and then.

All of it goes to standard error, so that standard output holds the result alone.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

SECONDS_BETWEEN_LINES = 15.0


class Progress(Protocol):
    """What the engine tells. Work is counted in tokens, and planned only about."""

    def start(self, cells: int, work: int, already_done: int) -> None:
        """``cells`` are to be run, ``work`` tokens in all; ``already_done`` ones were found finished."""

    def advance(self, tokens: int) -> None:
        """So many tokens more were read."""

    def finished(self, label: str, seconds: float) -> None:
        """A cell is stored."""

    def failed(self, label: str, reason: str, details: str = "") -> None:
        """A cell gave no result, and why: in one line, and in more where the fault is the program's."""

    def close(self) -> None:
        """Nothing more will come."""


class Quiet:
    """Shows nothing but failures."""

    def start(self, cells: int, work: int, already_done: int) -> None:
        pass

    def advance(self, tokens: int) -> None:
        pass

    def finished(self, label: str, seconds: float) -> None:
        pass

    def failed(self, label: str, reason: str, details: str = "") -> None:
        print(_failure(label, reason, details), file=sys.stderr, flush=True)

    def close(self) -> None:
        pass


class Lines:
    """One line when a cell is finished, and one at least every quarter of a minute."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self.meter = _Meter()
        self._last_line = 0.0

    def start(self, cells: int, work: int, already_done: int) -> None:
        self.meter.start(cells, work)
        done = f", {already_done} found finished" if already_done else ""
        self._print(f"{cells} {'cell' if cells == 1 else 'cells'} to run{done}")

    def advance(self, tokens: int) -> None:
        self.meter.advance(tokens)
        if time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            self._print(self.meter.summary())

    def finished(self, label: str, seconds: float) -> None:
        self.meter.finished()
        self._print(f"{self.meter.summary()}  {label} ({seconds:.1f} s)")

    def failed(self, label: str, reason: str, details: str = "") -> None:
        self.meter.finished()
        self._print(f"{self.meter.summary()}  {_failure(label, reason, details)}")

    def close(self) -> None:
        pass

    def _print(self, line: str) -> None:
        self._last_line = time.monotonic()
        print(line, file=self.stream, flush=True)


class Bar:
    """A bar on a terminal, with the cells that are finished scrolling by above it."""

    def __init__(self) -> None:
        self.meter = _Meter()
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None

    def start(self, cells: int, work: int, already_done: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self.meter.start(cells, work)
        self._bar = Progress(BarColumn(bar_width=24), TextColumn("{task.description}"), console=Console(stderr=True))
        if already_done:
            self._bar.console.print(f"{already_done} cells found finished", highlight=False)
        self._task = self._bar.add_task(self.meter.summary(), total=max(work, 1))
        self._bar.start()

    def advance(self, tokens: int) -> None:
        self.meter.advance(tokens)
        self._show()

    def finished(self, label: str, seconds: float) -> None:
        self.meter.finished()
        self._line(f"{label} ({seconds:.1f} s)")

    def failed(self, label: str, reason: str, details: str = "") -> None:
        self.meter.finished()
        self._line(_failure(label, reason, details))

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _line(self, text: str) -> None:
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, markup=False)
        self._show()

    def _show(self) -> None:
        if self._bar is not None and self._task is not None:
            done = min(self.meter.tokens, self.meter.work)
            self._bar.update(self._task, completed=done, description=self.meter.summary())


def for_terminal(*, quiet: bool = False) -> Progress:
    """The fitting one: nothing if ``quiet``, a bar where standard error is a terminal, lines elsewhere."""
    if quiet:
        return Quiet()
    return Bar() if sys.stderr.isatty() else Lines()


def _failure(label: str, reason: str, details: str) -> str:
    return "\n".join([f"failed: {label}: {reason}", *details.splitlines()])


class _Meter:
    """Counts cells and tokens, and says how fast it goes and how long it will take."""

    def __init__(self) -> None:
        self.cells = self.work = self.tokens = self.cells_done = 0
        self._started = time.monotonic()

    def start(self, cells: int, work: int) -> None:
        self.cells, self.work = cells, work
        self._started = time.monotonic()

    def advance(self, tokens: int) -> None:
        self.tokens += tokens

    def finished(self) -> None:
        self.cells_done += 1

    def summary(self) -> str:
        seconds = time.monotonic() - self._started
        parts = [f"[{self.cells_done}/{self.cells}]"]
        if self.tokens and seconds > 1:
            rate = self.tokens / seconds
            parts.append(f"{rate / 1000:.1f}K tokens/s" if rate >= 1000 else f"{rate:.0f} tokens/s")
            left = max(self.work - self.tokens, 0) / rate
            if self.cells_done < self.cells:
                parts.append(f"{clock(left)} left")
        return "  ".join(parts)


def clock(seconds: float) -> str:
    """``4:05`` or ``1:04:05``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
