"""The progress lines of a training run: loss, answer accuracy, tokens per second, time left."""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from collections.abc import Iterable

from fwpkm_eval.training.trainer import StepReport

AVERAGED_STEPS = 100
SECONDS_BETWEEN_LINES = 15.0


class TrainingProgress:
    """Shows averages over the last steps: rewritten in place on a terminal, a line now and then elsewhere.

    before: the last steps of the run's earlier starts, which are averaged, too, and whose time does not count.
    """

    def __init__(self, name: str, steps: int, done: int, quiet: bool, before: Iterable[StepReport] = ()) -> None:
        self.name, self.steps, self.done, self.quiet = name, steps, done, quiet
        self.recent: deque[StepReport] = deque(before, maxlen=AVERAGED_STEPS)
        self.terminal = sys.stderr.isatty()
        self._tokens, self._seconds, self._last = 0, 0.0, 0.0

    def show(self, report: StepReport) -> None:
        self.recent.append(report)
        if report.diverged_memories and not self.quiet:
            layers = ", ".join(map(str, report.diverged_memories))
            lead = "\n" if self.terminal else ""
            print(f"{lead}step {report.step} dropped: the memory of layer {layers} diverged", file=sys.stderr)
        self._tokens, self._seconds = self._tokens + report.tokens, report.seconds
        now = time.monotonic()
        pause = 0.5 if self.terminal else SECONDS_BETWEEN_LINES
        if self.quiet or (now - self._last < pause and report.step < self.steps):
            return
        self._last = now
        line = self.line(report)
        print(
            f"\r{line}\x1b[K" if self.terminal else line,
            end="" if self.terminal else "\n",
            file=sys.stderr,
            flush=True,
        )

    def line(self, report: StepReport) -> str:
        averages = self.averages()
        rate = self._tokens / max(report.seconds, 1e-9)
        left = (self.steps - report.step) * report.tokens / max(rate, 1e-9)
        answers, bits = averages["answer_accuracy"], averages["document_bits"]
        return (
            f"{self.name}  step {report.step}/{self.steps}  "
            + ("every step dropped  " if bits is None else f"documents {bits:.2f} bits/token  ")
            + ("" if answers is None else f"answers {100 * answers:.0f}% of digits  ")
            + f"{rate:,.0f} tokens/s  {int(left) // 60}:{int(left) % 60:02d} left"
        )

    def averages(self) -> dict[str, float | None]:
        """Over the last steps: bits per token of documents (None where every step diverged and was dropped), and the
        share of answer digits that were right (None where no step asked for any)."""
        answered = [r.answer_accuracy for r in self.recent if not math.isnan(r.answer_accuracy)]
        bits = [r.document_loss / math.log(2) for r in self.recent if math.isfinite(r.document_loss)]
        return {
            "document_bits": sum(bits) / len(bits) if bits else None,
            "answer_accuracy": sum(answered) / len(answered) if answered else None,
        }

    def close(self) -> dict[str, float | None]:
        """The last averages, and the tokens per second of all steps shown."""
        if self.terminal and not self.quiet:
            print(file=sys.stderr)
        return self.averages() | {"tokens_per_second": self._tokens / self._seconds if self._seconds else None}
