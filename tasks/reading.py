"""How a model reads a haystack and answers: the needle protocols, one sample at a time.

A *reading* of the haystack starts a fresh sequence (attention and recurrent state empty, the fast weights
as they are) and ends with writing what is still queued. After n readings, n = ``passes``:

``open-book``    in a fresh sequence the haystack and the question are read again, and the answer decoded
                 greedily. Nothing is written in this last reading or while answering: the memory holds n
                 readings of the haystack alone.
``closed-book``  in a fresh sequence the question alone is read, and the answer decoded. Nothing is written.
                 Only the fast weights can hold the answer.
``published``    as the public implementation counts its n iterations (arXiv 2601.00671): n−1 readings of
                 the haystack alone, then one that also holds the question. The first token of the answer is
                 predicted at its end, by a memory that (written once per reading) has seen n−1 readings;
                 then that reading is written, question included, and the other tokens of the answer follow
                 in the same sequence, with nothing further written.

``write_chunk`` says how often a reading writes: every so many tokens, or ``"haystack"``: once, at its end,
as published.

The passes are cumulative: the memory after two readings is read once more to have it after four. Of work
that would be exactly the same, only one copy is done: written once per reading, reading n+1 sees until its
end just the memory after n readings, so its end serves as the last reading of the open-book answer after n
passes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fwpkm_eval.generation import decode, score
from fwpkm_eval.sizes import HAYSTACK
from fwpkm_eval.tasks.describe import fresh_state
from fwpkm_eval.tasks.divergence import DivergenceWatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import torch

OPEN_BOOK, CLOSED_BOOK, PUBLISHED = "open-book", "closed-book", "published"
PROTOCOLS = (OPEN_BOOK, CLOSED_BOOK, PUBLISHED)


@dataclass(frozen=True)
class Answer:
    """``tokens`` as decoded greedily (none where that is not asked for), and ``logprob`` of the true answer.

    ``logprob`` = Σ log p(true token | the true tokens before it), in nats.
    """

    tokens: tuple[int, ...]
    logprob: float


@dataclass(frozen=True)
class Exam:
    """One sample as token tensors [1, T] on the model's device."""

    haystack: torch.Tensor
    question: torch.Tensor
    answer: torch.Tensor


@dataclass(frozen=True)
class Reader:
    """A model, how often it writes, in which blocks it reads, who is told of the tokens read, and who looks at the fast
    weights after each reading that was written. decodes: whether answers are decoded, and not only scored."""

    model: Any
    write_chunk: int | str
    block: int = 1024
    progress: Callable[[int], None] | None = None
    divergence: DivergenceWatch | None = None
    decodes: bool = True

    def read(self, tokens: torch.Tensor, state: Any, *, write: bool) -> Any:
        """Reads on in ``state``, which must not be used again; what is left in the queue stays there."""
        for start in range(0, tokens.shape[1], self.block):
            piece = tokens[:, start : start + self.block]
            _, state = self._call(piece, state, write=write, logits="none", inplace=True)
        return state

    def predict(self, tokens: torch.Tensor, state: Any, *, write: bool) -> tuple[torch.Tensor, Any]:
        """As `read`, and the logits [V] of the token that follows."""
        last = (tokens.shape[1] - 1) // self.block * self.block
        state = self.read(tokens[:, :last], state, write=write)
        logits, state = self._call(tokens[:, last:], state, write=write, logits="last", inplace=True)
        return logits[0, -1], state

    def memorise(self, tokens: torch.Tensor, memory: Any, passes: int) -> Any:
        """Reads ``tokens`` ``passes`` times, each a fresh sequence written to its end; ``memory`` is used up."""
        for count in range(1, passes + 1):
            state = self.read(tokens, memory.fresh_sequence(), write=True)
            memory = self.written(state, count * tokens.shape[1])
        return memory

    def written(self, state: Any, tokens: int) -> Any:
        """Writes what waits in the queue of ``state``, which is used up, after ``tokens`` tokens read in all."""
        memory = self.model.flush(state, inplace=True)
        if self.divergence is not None:
            self.divergence.look(memory, tokens)
        return memory

    def answer(self, state: Any, exam: Exam) -> Answer:
        """Reads the question and answers it. Nothing is queued or written; ``state`` stays as it was."""
        logits, state = self._call(exam.question, state, write=False, logits="last")
        return self._decode(logits[0, -1], state, exam)

    def answer_published(self, state: Any, exam: Exam) -> tuple[Answer, Any]:
        """Reads the question at the end of the reading ``state`` is in, writes that reading, and answers.

        Returns the answer and the state after the write; ``state`` itself is as it was.
        """
        logits, state = self._call(exam.question, state, write=True, logits="last")
        written = self.model.flush(state)
        return self._decode(logits[0, -1], written, exam), written

    def _decode(self, first: torch.Tensor, state: Any, exam: Exam) -> Answer:
        """Decodes greedily from the logits [V] of the first token, and scores the true answer from there."""
        model, digits = self.model, exam.answer.shape[1] if self.decodes else 0
        steps = decode(model, first, state, limit=digits, write_chunk=self.write_chunk, progress=self.progress)
        tokens = [step.token for step in steps]  # as tensors: a GPU is not waited for at each step
        scores = score(model, first, state, exam.answer, write_chunk=self.write_chunk, progress=self.progress)
        return Answer(tuple(int(token) for token in tokens), scores.logprob)

    def _call(
        self, tokens: torch.Tensor, state: Any, *, write: bool, logits: str, inplace: bool = False
    ) -> tuple[Any, Any]:
        result: tuple[Any, Any] = self.model(
            tokens,
            state,
            updates="stream" if write else "off",
            write_chunk=self.write_chunk,
            logits=logits,
            inplace=inplace,
        )
        if self.progress is not None:
            self.progress(tokens.shape[1])
        return result


Answers = dict[tuple[str, int], Answer]
"""By protocol and number of passes."""


def memorise_and_answer(
    reader: Reader, exam: Exam, memory: Any, protocols: Iterable[str], passes: Iterable[int], already_read: int = 0
) -> tuple[Answers, Any]:
    """Reads the haystack max(``passes``) times and answers after each number in it, by each protocol.

    Returns the answers and the state after the last write. ``memory``, which has read ``already_read`` tokens, must not
    be used afterwards.

    With several passes or protocols the answers are those of separate runs from the same memory; the state
    returned is the one after the last reading of the haystack alone, or, where ``published`` is the only
    protocol, after the last reading with the question.
    """
    protocols, passes = set(protocols), set(passes)
    once_per_reading = reader.write_chunk == HAYSTACK
    only_published = protocols == {PUBLISHED}
    answers: Answers = {}

    def answer_open_book(state: Any, count: int) -> None:
        if OPEN_BOOK in protocols and count in passes:
            answers[OPEN_BOOK, count] = reader.answer(state, exam)

    def answer_after(count: int) -> None:
        """All that is asked after ``count`` readings, but for what the next one gives for nothing."""
        if CLOSED_BOOK in protocols and count in passes:
            answers[CLOSED_BOOK, count] = reader.answer(memory.fresh_sequence(), exam)
        comes_with_next = once_per_reading and count < max(passes)
        if OPEN_BOOK in protocols and count in passes and not comes_with_next:
            answer_open_book(reader.read(exam.haystack, memory.fresh_sequence(), write=False), count)

    answer_after(0)
    for count in range(1, max(passes) + 1):
        state = reader.read(exam.haystack, memory.fresh_sequence(), write=True)
        if once_per_reading:
            answer_open_book(state, count - 1)
        if PUBLISHED in protocols and count in passes:
            answers[PUBLISHED, count], written = reader.answer_published(state, exam)
            if only_published and count == max(passes):
                if reader.divergence is not None:  # no reading of the haystack alone comes to look
                    reader.divergence.look(written, already_read + tokens_written(exam, count, only_published))
                return answers, written
        memory = reader.written(state, already_read + tokens_written(exam, count, False))
        answer_after(count)
    return answers, memory


def tokens_written(exam: Exam, passes: int, only_published: bool) -> int:
    """Tokens that a memory has read after so many readings: of the haystack, and by `PUBLISHED` alone of the question
    in the last one."""
    return passes * exam.haystack.shape[1] + only_published * exam.question.shape[1]


def answer_without_memory(reader: Reader, exam: Exam, protocols: Iterable[str]) -> dict[str, Answer]:
    """The answers of a model without fast weights, by protocol; passes and writes cannot change them."""
    protocols = set(protocols)
    answers: dict[str, Answer] = {}

    def start() -> Any:
        # The question alone, too, is rotated as after the haystack: as it is with a memory that read it.
        return fresh_state(reader.model, exam.haystack.shape[1])

    if protocols & {OPEN_BOOK, PUBLISHED}:
        state = reader.read(exam.haystack, start(), write=False)
        with_haystack = reader.answer(state, exam)
        answers.update({protocol: with_haystack for protocol in (OPEN_BOOK, PUBLISHED) if protocol in protocols})
    if CLOSED_BOOK in protocols:
        answers[CLOSED_BOOK] = reader.answer(start(), exam)
    return answers
