"""Answer perplexity on LongBench: a long text is read n times, then the text and a question, and the answer is scored.

The readings are those of the needle task (`tasks.reading`), with the context for the haystack. Read last, and scored:

    {context}\\n\\nQuestion: {input}\\nAnswer: {answer}

Of the tokens only the answer's are scored, its leading space included; of several right answers the first is taken.
Each question starts from the same memory. The perplexity is exp(Σ nats / Σ tokens) over all answers of a set.

Source: arXiv 2601.00671 (answer perplexity on five sets of LongBench); the wording of the prompt is ours.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from fwpkm_eval.errors import UserError, unknown
from fwpkm_eval.tasks.describe import describe_model, fresh_state, measuring, model_tensor, yarn_arm
from fwpkm_eval.tasks.reading import (
    CLOSED_BOOK,
    HAYSTACK,
    OPEN_BOOK,
    PROTOCOLS,
    PUBLISHED,
    Exam,
    Reader,
    answer_without_memory,
    memorise_and_answer,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from fwpkm_eval.data.questions import Question, QuestionSet
    from fwpkm_eval.data.tokenizers import IntArray, Tokenizer
    from fwpkm_eval.runs.rows import Row

LONGBENCH_VERSION = 1
"""Part of every cell's key: raise it whenever a change here or in `tasks.reading` can change a number."""


@dataclass(frozen=True)
class LongBenchSettings:
    """``passes`` are readings of the context before the question; ``write_chunk`` a token count or "haystack" (one
    write per reading). ``questions`` bounds their number; ``max_context`` cuts longer contexts in their middle."""

    passes: tuple[int, ...] = (0, 1, 2)
    write_chunk: int | str = HAYSTACK
    protocols: tuple[str, ...] = (OPEN_BOOK,)
    questions: int | None = None
    max_context: int | None = None
    block: int = 1024
    seed: int = 0

    def __post_init__(self) -> None:
        for protocol in self.protocols:
            if protocol not in PROTOCOLS:
                raise unknown("protocol", protocol, PROTOCOLS)
        for name in ("questions", "max_context", "block"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name.replace('_', ' ')} must be at least 1, not {value}")
        if not self.passes or min(self.passes) < 0:
            raise UserError(f"passes must be numbers of readings, 0 or more, not {list(self.passes)}")
        if min(self.passes) == 0 and {CLOSED_BOOK, PUBLISHED} & set(self.protocols):
            raise UserError(f"protocols {CLOSED_BOOK!r} and {PUBLISHED!r} need at least 1 pass")
        if self.write_chunk != HAYSTACK and (isinstance(self.write_chunk, str) or self.write_chunk < 1):
            raise UserError(f"write chunk {self.write_chunk!r} is neither a number of tokens nor {HAYSTACK!r}")


@dataclass(frozen=True)
class AnswerLoss:
    """What the right answer to one question cost: nats, over so many tokens."""

    nats: float
    tokens: int


@dataclass
class LongBenchResult:
    """The answers' losses by (protocol, passes), in the order of the questions; what their rows' `arm` says (YaRN for
    any of the contexts); and what reading cost."""

    losses: dict[tuple[str, int], list[AnswerLoss]] = field(default_factory=lambda: defaultdict(list))
    arm: str = ""
    seconds: float = 0.0
    tokens: int = 0


def evaluate_longbench(
    model: Any,
    questions: QuestionSet,
    settings: LongBenchSettings,
    tokenizer: Tokenizer,
    progress: Callable[[int], None] | None = None,
) -> LongBenchResult:
    """Scores the right answer to every question. A model without fast weights scores alike after any passes."""
    result = LongBenchResult()

    def read(tokens: int) -> None:
        result.tokens += tokens
        if progress is not None:
            progress(tokens)

    reader = Reader(model, settings.write_chunk, settings.block, read, decodes=False)
    started = time.perf_counter()
    with measuring(model):
        for question in questions.questions[: settings.questions]:
            exam = exam_of(question, settings, tokenizer, model_tensor(model).device)
            size = exam.answer.shape[1]
            result.arm = result.arm or yarn_arm(model, exam.haystack.shape[1])
            if model.has_fast_weights:
                memory = fresh_state(model, exam.haystack.shape[1])
                answers, _ = memorise_and_answer(reader, exam, memory, settings.protocols, settings.passes)
            else:
                once = answer_without_memory(reader, exam, settings.protocols)
                answers = {(p, n): once[p] for p in settings.protocols for n in settings.passes}
            for key, answer in answers.items():
                result.losses[key].append(AnswerLoss(-answer.logprob, size))
    result.seconds = time.perf_counter() - started
    return result


def exam_of(question: Question, settings: LongBenchSettings, tokenizer: Tokenizer, device: torch.device) -> Exam:
    """Context, question and right answer as tokens."""
    import torch

    context = cut_middle(tokenizer.encode(question.context), settings.max_context)
    asked = tokenizer.encode(f"\n\nQuestion: {question.question}\nAnswer:")
    answer = tokenizer.encode(f" {question.answers[0]}")
    parts = (torch.from_numpy(np.ascontiguousarray(part))[None].to(device) for part in (context, asked, answer))
    return Exam(*parts)


def cut_middle(tokens: IntArray, longest: int | None) -> IntArray:
    """The first and the last half of ``longest`` tokens, if there are more."""
    if longest is None or len(tokens) <= longest:
        return tokens
    first = longest - longest // 2
    return np.concatenate([tokens[:first], tokens[len(tokens) - longest // 2 :]])


def longbench_rows(
    model: Any, questions: QuestionSet, settings: LongBenchSettings, result: LongBenchResult
) -> list[Row]:
    """``answer_perplexity`` and ``answer_nats_per_token`` for each protocol and number of passes.

    The 95% interval is over questions (the ratio's normal one). Answers whose loss is not finite make both nan or inf,
    and a row ``diverged`` with their share.
    """
    from fwpkm_eval.runs.rows import Row

    rows = []
    for (protocol, passes), losses in result.losses.items():
        nats, low, high = _nats_per_token(losses)
        count = sum(loss.tokens for loss in losses)
        common: dict[str, Any] = {
            **describe_model(model),
            "task": "longbench",
            "dataset": questions.name,
            "length": settings.max_context,
            "passes": passes,
            "write_chunk": str(settings.write_chunk) if model.has_fast_weights else "",
            "scope": "sample",
            "protocol": protocol,
            "arm": result.arm,
            "seed": settings.seed,
            "seconds": result.seconds,
            "tokens": result.tokens,
            "data_hash": questions.sha256[:16],
        }
        rows += [
            Row(
                metric="answer_perplexity",
                value=_exp(nats),
                unit="ratio",
                n=count,
                ci_low=None if low is None else _exp(low),
                ci_high=None if high is None else _exp(high),
                **common,
            ),
            Row(metric="answer_nats_per_token", value=nats, unit="nats", n=count, ci_low=low, ci_high=high, **common),
        ]
        if diverged := sum(not math.isfinite(loss.nats) for loss in losses):
            share = diverged / len(losses)
            rows.append(Row(metric="diverged", value=share, unit="fraction", n=len(losses), **common))
    return rows


def _nats_per_token(losses: list[AnswerLoss]) -> tuple[float, float | None, float | None]:
    """Σ nats / Σ tokens over the answers, and its interval: answers are drawn, not tokens."""
    from fwpkm_eval.runs.intervals import Z_95

    tokens = sum(loss.tokens for loss in losses)
    nats = sum(loss.nats for loss in losses) / tokens
    if len(losses) < 2 or not math.isfinite(nats):
        return nats, None, None
    squares = math.fsum((loss.nats - nats * loss.tokens) ** 2 for loss in losses)
    half = Z_95 * math.sqrt(squares * len(losses) / (len(losses) - 1)) / tokens
    return nats, nats - half, nats + half


def _exp(nats: float) -> float:
    return math.exp(nats) if nats < 700 else (math.nan if math.isnan(nats) else math.inf)
