"""Slot traces: which memory slots answered each digit of a needle, and which tokens had last written there.

A haystack is read ``passes`` times, as in `tasks.niah`, with an observer on every FwPKM. Then the question is asked.
Each digit of the answer is predicted after the question and the true digits before it (one wrong digit would make a
miss of all later ones); beside that the answer is decoded greedily, as in the needle task.

For every digit and memory layer the trace holds the H·k slots that were read, with their weights; the gate; and of each
slot's last write the pairs (query token t, target token t + L) with the largest strength w·g. A slot is a HIT where the
strongest of them has the true next token as its target. The memory's *consensus* is a vote over all slots and layers:
each slot for that target, with its weight × the gate. What a slot holds is the sum of all that was ever written to it;
the trace shows the last write alone.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fwpkm_eval.errors import UserError, unknown
from fwpkm_eval.sizes import HAYSTACK
from fwpkm_eval.tasks.describe import fresh_state, measuring, model_tensor
from fwpkm_eval.tasks.needles import NeedleSample
from fwpkm_eval.tasks.niah import NiahSettings, draw_sample, exam_of, haystack_tokens
from fwpkm_eval.tasks.reading import CLOSED_BOOK, OPEN_BOOK, Exam, Reader
from fwpkm_eval.tasks.trace_types import FORMAT, Digit, LayerRead, Pair, SlotRead, Trace, Vote

if TYPE_CHECKING:
    import numpy as np

    from fwpkm_eval.data import TextSet
    from fwpkm_eval.data.tokenizers import Tokenizer
    from fwpkm_eval.tasks.trace_recorder import SlotRecorder

TRACE_VERSION = 2
"""Part of every cell's key: raise it whenever a change here can change a trace."""

TRACED = (OPEN_BOOK, CLOSED_BOOK)
CONTEXT = 10
"""Tokens of text that are shown on either side of a pair."""


@dataclass(frozen=True)
class TraceSettings:
    """Which samples are traced, of one setting of the needle task; pairs: how many are listed for each slot."""

    length: int = 4096
    needles: int = 5
    passes: int = 2
    write_chunk: int | str = HAYSTACK
    protocol: str = OPEN_BOOK
    samples: tuple[int, ...] = (0,)
    seed: int = 0
    pairs: int = 3
    block: int = 1024

    def __post_init__(self) -> None:
        object.__setattr__(self, "samples", tuple(dict.fromkeys(self.samples)))
        if self.protocol not in TRACED:
            raise unknown("protocol", self.protocol, TRACED)
        if not self.samples or min(self.samples) < 0:
            raise UserError("samples are numbers from 0 on, such as 0,1,2")
        if self.pairs < 1:
            raise UserError(f"pairs must be at least 1, not {self.pairs}")
        self.niah()

    def niah(self) -> NiahSettings:
        """The same as a setting of the needle task, which draws the samples and checks the values."""
        return NiahSettings(
            lengths=(self.length,),
            passes=(self.passes,),
            write_chunks=(self.write_chunk,),
            needles=(self.needles,),
            protocols=(self.protocol,),
            samples=max(self.samples) + 1,
            seed=self.seed,
            block=self.block,
        )


@dataclass(frozen=True)
class TraceResult:
    """The traces of a run, and what they cost."""

    traces: list[Trace]
    seconds: float
    tokens: int


def trace_needles(
    model: Any,
    text_set: TextSet,
    settings: TraceSettings,
    tokenizer: Tokenizer,
    progress: Callable[[int], None] | None = None,
) -> TraceResult:
    """Traces each sample in the settings, from a fresh memory.

    ``progress`` is called with the number of tokens read since its last call. Raises UserError for a model
    without FwPKM, and where the length is too short for the needles.
    """
    text = haystack_tokens(text_set, tokenizer)
    started, tokens, traces = time.perf_counter(), 0, []

    def count(read: int) -> None:
        nonlocal tokens
        tokens += read
        if progress is not None:
            progress(read)

    with measuring(model):
        for index in settings.samples:
            sample = draw_sample(settings.niah(), text, tokenizer, settings.length, settings.needles, index)
            exam = exam_of(sample, model_tensor(model).device)
            traces.append(_trace(model, text_set, settings, tokenizer, index, sample, exam, count))
    return TraceResult(traces, time.perf_counter() - started, tokens)


def _trace(
    model: Any,
    text_set: TextSet,
    settings: TraceSettings,
    tokenizer: Tokenizer,
    index: int,
    sample: NeedleSample,
    exam: Exam,
    progress: Callable[[int], None],
) -> Trace:
    import numpy as np
    import torch

    from fwpkm_eval.tasks.trace_recorder import record

    state = fresh_state(model, settings.length)
    recorders = record(state, model.config.name)
    reader = Reader(model, settings.write_chunk, settings.block, progress)
    for reading in range(settings.passes):
        for recorder in recorders.values():
            recorder.reading = reading + 1
        state = model.flush(reader.read(exam.haystack, state.fresh_sequence(), write=True), inplace=True)
    state = state.fresh_sequence()
    if settings.protocol == OPEN_BOOK:
        state = reader.read(exam.haystack, state, write=False)
    decoded = reader.answer(state, exam)

    for recorder in recorders.values():
        recorder.keeps_reads = True
    asked = torch.cat([exam.question, exam.answer[:, :-1]], 1)
    logits, _ = model(asked, state, updates="off", logits="all")
    progress(asked.shape[1])
    digits = exam.answer.shape[1]
    probabilities = logits[0, -digits:].double().softmax(-1).cpu()
    sentence = round(sample.depths[sample.asked] * settings.length)
    view = _View(sample.haystack, tokenizer, settings.pairs)
    has_gate = model.config.fwpkm.gate
    found = []
    for number, true in enumerate(sample.answer.tolist()):
        answer_place = sentence + len(sample.question) + number
        layers = [
            _layer_read(layer, recorder, number - digits, has_gate, view, true, answer_place)
            for layer, recorder in recorders.items()
        ]
        found.append(
            Digit(
                expected=view.token(true),
                answered=view.token(int(probabilities[number].argmax())),
                probability=_finite(float(probabilities[number, true])),
                votes=_votes(layers),
                layers=tuple(layers),
            )
        )
    return Trace(
        format=FORMAT,
        model=model.config.name,
        scale=model.config.scale,
        weights_hash=model.weights_hash,
        dataset=text_set.name,
        data_hash=text_set.sha256[:16],
        length=settings.length,
        needles=settings.needles,
        passes=settings.passes,
        write_chunk=str(settings.write_chunk),
        protocol=settings.protocol,
        seed=settings.seed,
        sample=index,
        key=sample.needles[sample.asked].key,
        depth=sample.depths[sample.asked],
        expected=sample.needles[sample.asked].value,
        answered=tokenizer.decode(np.array(decoded.tokens, dtype=np.int64)),
        digits=tuple(found),
    )


@dataclass(frozen=True)
class _View:
    """The haystack's tokens as text."""

    haystack: np.ndarray
    tokenizer: Tokenizer
    pairs: int

    def token(self, number: int) -> str:
        return "<end>" if number == self.tokenizer.eos else self.text([number])

    def text(self, tokens: Any) -> str:
        import numpy as np

        return self.tokenizer.decode(np.asarray(tokens, dtype=np.int64))


def _layer_read(
    layer: int, recorder: SlotRecorder, token: int, has_gate: bool, view: _View, true: int, answer_place: int
) -> LayerRead:
    """What a layer read at a token of the question, counted from its end."""
    import torch

    slots, weights = torch.cat(recorder.slots)[token].tolist(), torch.cat(recorder.weights)[token].tolist()
    gate = float(torch.cat(recorder.gates)[token]) if has_gate else 1.0
    by_slot: dict[int, float] = defaultdict(float)
    for slot, weight in zip(slots, weights, strict=True):
        by_slot[slot] += _finite(weight)  # two heads may read the same slot
    reads = []
    for slot, weight in sorted(by_slot.items(), key=lambda item: (-item[1], item[0])):
        last = recorder.last_write(slot)
        if last is None:
            reads.append(SlotRead(slot, weight, None, None, 0, ()))
            continue
        pairs = tuple(
            _pair(view, pair.query_place, pair.target_place, pair.strength, true, answer_place)
            for pair in last.pairs[: view.pairs]
        )
        reads.append(SlotRead(slot, weight, last.number, last.reading, len(last.pairs), pairs))
    return LayerRead(layer, _finite(gate), tuple(reads))


def _pair(view: _View, query: int, target: int, strength: float, true: int, answer_place: int) -> Pair:
    tokens = view.haystack
    return Pair(
        query=view.token(int(tokens[query])),
        target=view.token(int(tokens[target])),
        position=query,
        target_position=target,
        strength=_finite(strength),
        before=view.text(tokens[max(0, query - CONTEXT) : query]),
        between=view.text(tokens[query + 1 : target]),
        after=view.text(tokens[target + 1 : target + 1 + CONTEXT]),
        hit=int(tokens[target]) == true,
        is_answer=target == answer_place,
    )


def _votes(layers: list[LayerRead]) -> tuple[Vote, ...]:
    votes: dict[str, float] = defaultdict(float)
    for layer in layers:
        for slot in layer.slots:
            if slot.pairs:
                votes[slot.pairs[0].target] += slot.weight * layer.gate
    total = sum(votes.values())
    ranked = sorted(votes.items(), key=lambda item: (-item[1], item[0]))
    return tuple(Vote(token, share / total) for token, share in ranked) if total else ()


def _finite(number: float) -> float:
    """JSON has no word for what is not a number; a memory that diverged has read nothing."""
    return number if math.isfinite(number) else 0.0
