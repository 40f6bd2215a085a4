"""A text, settings, and the needle task done plainly, to hold its answers against."""

from __future__ import annotations

import random
from typing import Any

import torch
from honest_model import State

from fwpkm_eval.data import Document, TextSet, hash_documents
from fwpkm_eval.data.tokenizers import ByteTokenizer
from fwpkm_eval.tasks import niah
from fwpkm_eval.tasks.needles import NeedleSample, build_sample, sample_rng
from fwpkm_eval.tasks.niah import NiahResult, NiahSettings, SampleAnswer, evaluate_niah

TOKENIZER = ByteTokenizer()
LENGTH = 320


def _text_set() -> TextSet:
    words = [
        "of",
        "the",
        "and",
        "to",
        "in",
        "that",
        "for",
        "was",
        "with",
        "not",
        "this",
        "are",
        "his",
        "from",
    ]
    chooser = random.Random(0)
    texts = (" ".join(chooser.choices(words, k=900)) for _ in range(3))
    documents = tuple(Document(str(number), text) for number, text in enumerate(texts))
    return TextSet("words", "test", documents, "path", None, "made for a test", hash_documents(documents))


TEXT = _text_set()


def settings(**changes: Any) -> NiahSettings:
    return NiahSettings(**{"lengths": (LENGTH,), "needles": (3,), "samples": 2, "block": 100, **changes})


def ask(model: Any, **changes: Any) -> NiahResult:
    return evaluate_niah(model, TEXT, settings(**changes), TOKENIZER)


def by_name(result: NiahResult) -> dict[tuple[Any, ...], SampleAnswer]:
    """Every answer by (length, needles, write chunk, protocol, passes, sample); none may be there twice."""
    named = {
        (a.setting.length, a.setting.needles, a.setting.write_chunk, a.protocol, a.passes, a.index): a
        for a in result.answers
    }
    assert len(named) == len(result.answers)
    return named


def sample(index: int, length: int = LENGTH, needles: int = 3) -> NeedleSample:
    tokens = niah.haystack_tokens(TEXT, TOKENIZER)
    return build_sample(sample_rng(0, index), tokens, TOKENIZER, length=length, needles=needles)


def exactly(written: list[tuple[int, ...]]) -> list[int]:
    """The tokens written, in order: a write's first token is the one that the last left in the queue."""
    tokens: list[int] = []
    for write in written:
        tokens += write[1:] if tokens and tokens[-1] == write[0] and len(write) > 1 else write
    return tokens


class Plainly:
    """The protocols once more, as told in words: nothing shared, one answer at a time."""

    def __init__(self, model: Any, write_chunk: int | str, block: int = 1) -> None:
        self.model = model.eval()
        self.write_chunk = write_chunk
        self.block = block

    def feed(self, state: State, tokens: list[int], updates: str) -> tuple[torch.Tensor, State]:
        logits = None
        for start in range(0, len(tokens), self.block):
            piece = torch.tensor([tokens[start : start + self.block]])
            logits, state = self.model(piece, state, updates=updates, write_chunk=self.write_chunk, logits="last")
        assert logits is not None
        return logits[0, 0].double(), state

    def read(self, state: State, haystack: list[int], times: int) -> State:
        for _ in range(times):
            _, state = self.feed(state.fresh_sequence(), haystack, "stream")
            state = self.model.flush(state)
        return state

    def answer(self, logits: torch.Tensor, state: State, truth: list[int]) -> tuple[str, float]:
        greedy, step, step_state = [], logits, state
        for _ in truth:
            greedy.append(int(step.argmax()))
            step, step_state = self.feed(step_state, greedy[-1:], "off")
        logprob = 0.0
        for token in truth:
            logprob += float(torch.log_softmax(logits, 0)[token])
            logits, state = self.feed(state, [token], "off")
        return TOKENIZER.decode(greedy), logprob

    def ask(self, asked: NeedleSample, protocol: str, passes: int, memory: State) -> tuple[str, float, State]:
        haystack, question, truth = asked.haystack.tolist(), asked.question.tolist(), asked.answer.tolist()
        with torch.no_grad():
            if protocol == "published":
                memory = self.read(memory, haystack, passes - 1)
                logits, state = self.feed(memory.fresh_sequence(), haystack + question, "stream")
                state = self.model.flush(state)
                return *self.answer(logits, state, truth), state
            memory = self.read(memory, haystack, passes)
            shown = haystack + question if protocol == "open-book" else question
            logits, state = self.feed(memory.fresh_sequence(), shown, "off")
            return *self.answer(logits, state, truth), memory
