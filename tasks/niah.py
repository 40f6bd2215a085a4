"""Needle in a haystack: numbers hidden in text, one asked for after the haystack was read n times.

A haystack of exactly ``length`` tokens holds ``needles`` sentences such as "The secret number for ID-ab12
is 123456."; the model is shown "The secret number for ID-ab12 is " and decodes six digits greedily. How
often the haystack is read, when its reading is written into the fast weights, and what the model sees while
answering is in `tasks.reading`.

Sample i is a function of (seed, i) and the setting alone. In scope ``sample`` each sample starts from the
same memory, so that neither the order nor the number of samples can change an answer; in scope ``stream``
(as the public implementation has it) the fast weights persist from sample to sample, separately for each
number of passes.

A model without fast weights answers alike after any number of passes and any way of writing: it is measured
once for each length and number of needles, and its rows repeated for each setting.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fwpkm_eval.data.shards import tokens_of_set
from fwpkm_eval.errors import UserError, unknown
from fwpkm_eval.sizes import format_size
from fwpkm_eval.tasks.describe import fresh_state, measuring, model_tensor
from fwpkm_eval.tasks.divergence import DivergenceWatch
from fwpkm_eval.tasks.needles import NeedleSample, build_sample, sample_rng
from fwpkm_eval.tasks.reading import (
    CLOSED_BOOK,
    HAYSTACK,
    OPEN_BOOK,
    PROTOCOLS,
    PUBLISHED,
    Answer,
    Exam,
    Reader,
    answer_without_memory,
    memorise_and_answer,
    tokens_written,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import torch

    from fwpkm_eval.data import TextSet
    from fwpkm_eval.data.tokenizers import Tokenizer

NIAH_VERSION = 3
"""Part of every cell's key: raise it whenever a change here or in `tasks.reading` can change a number."""

SCOPES = ("sample", "stream")
MOST_HAYSTACK_TOKENS = 64 * 2**20
"""A longer haystack is taken for a mistake: it would have to be held in memory several times over."""
MOST_SAMPLES = 1_000_000


@dataclass(frozen=True)
class NiahSettings:
    """What is asked: every combination of lengths, needles, write chunks, protocols and passes.

    ``lengths`` are exact haystack lengths in tokens, needles included. ``write_chunks`` are token counts or
    "haystack" (one write per reading). ``depths`` fixes where the asked needle lies (0 = start, 1 = end),
    by turns over the samples; None draws it. ``block`` is how many tokens one call of the model sees; it
    bounds activations and cannot change an answer.
    """

    lengths: tuple[int, ...] = (4096,)
    passes: tuple[int, ...] = (1, 2, 4)
    write_chunks: tuple[int | str, ...] = (HAYSTACK,)
    needles: tuple[int, ...] = (5,)
    protocols: tuple[str, ...] = (OPEN_BOOK,)
    samples: int = 20
    scope: str = "sample"
    seed: int = 0
    depths: tuple[float, ...] | None = None
    key_length: int = 4
    value_length: int = 6
    block: int = 1024

    def __post_init__(self) -> None:
        for name in ("lengths", "passes", "write_chunks", "needles", "protocols"):
            # Asked twice, the same answers would count as twice as many.
            object.__setattr__(self, name, tuple(dict.fromkeys(getattr(self, name))))
        for protocol in self.protocols:
            if protocol not in PROTOCOLS:
                raise unknown("protocol", protocol, PROTOCOLS)
        if self.scope not in SCOPES:
            raise unknown("scope", self.scope, SCOPES)
        for name in ("lengths", "passes", "write_chunks", "needles", "protocols"):
            if not getattr(self, name):
                raise UserError(f"no {name.replace('_', ' ')} given: at least one is needed")
        for name in ("samples", "key_length", "value_length", "block"):
            if getattr(self, name) < 1:
                raise UserError(f"{name.replace('_', ' ')} must be at least 1, not {getattr(self, name)}")
        if max(self.lengths) > MOST_HAYSTACK_TOKENS:
            raise UserError(
                f"a haystack of {format_size(max(self.lengths))} tokens is too long; "
                f"the longest is {format_size(MOST_HAYSTACK_TOKENS)}"
            )
        if self.samples > MOST_SAMPLES:
            raise UserError(f"{self.samples:,} samples are too many; the most is {MOST_SAMPLES:,}")
        for needles in self.needles:
            if needles < 1:
                raise UserError(f"{needles} needles: at least 1 is needed, since one is asked for")
        for write_chunk in self.write_chunks:
            if write_chunk != HAYSTACK and (isinstance(write_chunk, str) or write_chunk < 1):
                raise UserError(f"write chunk {write_chunk!r} is neither a number of tokens nor '{HAYSTACK}'")
        for depth in self.depths or ():
            if not 0 <= depth <= 1:
                raise UserError(f"depth {depth} is outside 0 (start of the haystack) to 1 (its end)")
        self._check_passes()

    def _check_passes(self) -> None:
        fewest = min(self.passes)
        if fewest < 0:
            raise UserError(f"passes must be 0 or more, not {fewest}")
        if fewest == 0 and CLOSED_BOOK in self.protocols:
            raise UserError("closed book needs at least 1 pass: after 0 passes the model has never seen the haystack")
        if fewest == 0 and PUBLISHED in self.protocols:
            raise UserError("protocol 'published' needs at least 1 pass: its first is the reading with the question")


@dataclass(frozen=True)
class Setting:
    """One way of reading: what the answers of a run are grouped by, before protocol and passes."""

    length: int
    needles: int
    write_chunk: int | str


@dataclass(frozen=True)
class SampleAnswer:
    """One sample's answer under one protocol after one number of passes.

    ``depth`` is where the asked needle starts, as a share of the haystack; ``logprob`` is the true
    answer's, in nats (nan where the model's output was not a number).
    """

    setting: Setting
    protocol: str
    passes: int
    index: int
    depth: float
    expected: str
    answered: str
    digits_right: int
    distractor: bool
    logprob: float

    @property
    def exact(self) -> bool:
        return self.answered == self.expected

    @property
    def instead(self) -> str | None:
        """What was answered in place of the truth: a "needle", another "number" or "text"; None if it is right."""
        if self.exact:
            return None
        if self.distractor:
            return "needle"
        return "number" if self.answered.isascii() and self.answered.isdigit() else "text"


@dataclass
class NiahResult:
    """All answers of a run; what each setting cost in all: (seconds, tokens read); and who looked at its fast weights
    after each reading."""

    answers: list[SampleAnswer] = field(default_factory=list)
    cost: dict[Setting, tuple[float, int]] = field(default_factory=dict)
    divergence: dict[Setting, DivergenceWatch] = field(default_factory=dict)


def evaluate_niah(
    model: Any,
    text_set: TextSet,
    settings: NiahSettings,
    tokenizer: Tokenizer,
    progress: Callable[[int], None] | None = None,
    *,
    frozen: bool = False,
) -> NiahResult:
    """Asks for needles in haystacks cut from ``text_set``, for every combination in the settings.

    ``progress`` is called with the number of tokens read since its last call. ``frozen``: fast weights stay as
    they start, so that the model answers as one that has none. Raises UserError, before the
    model reads anything, where a length is too short for its needles. Where the text is shorter than
    a haystack it goes round (`repeats_note` says so).
    """
    check_fit(text_set, settings, tokenizer)
    text = haystack_tokens(text_set, tokenizer)
    combinations = [(length, needles) for length in settings.lengths for needles in settings.needles]
    result = NiahResult()
    with measuring(model):
        for length, needles in combinations:
            samples = _Samples(settings, text, tokenizer, length, needles, model_tensor(model).device)
            if model.has_fast_weights and not frozen:
                for write_chunk in settings.write_chunks:
                    _ask_with_memory(model, samples, Setting(length, needles, write_chunk), result, progress)
            else:
                _ask_without_memory(model, samples, result, progress)
    return result


def scoring_version(settings: NiahSettings) -> int:
    """What a cell's key holds of how needles are scored."""
    # Asked by `published` alone, memories were not looked at for divergence until 0.9.2; until 0.9.9 the tokens of
    # earlier samples were not counted where a memory is carried on: the other cells are as before.
    return NIAH_VERSION + (set(settings.protocols) == {PUBLISHED}) + 2 * (settings.scope == "stream")


def check_fit(text_set: TextSet, settings: NiahSettings, tokenizer: Tokenizer) -> None:
    """Raises UserError if a length is too short for its needles, or there are not as many needles."""
    text = haystack_tokens(text_set, tokenizer)
    for length in settings.lengths:
        for needles in settings.needles:
            draw_sample(settings, text, tokenizer, length, needles, 0)


def repeats_note(text_set: TextSet, settings: NiahSettings, tokenizer: Tokenizer) -> str | None:
    """A line for whoever asks for haystacks longer than all the text there is; None where there is enough."""
    there, longest = len(haystack_tokens(text_set, tokenizer)), max(settings.lengths)
    if longest <= there:
        return None
    return f"{text_set.name} holds {there:,} tokens: in haystacks of {longest:,} the same text comes again"


def haystack_tokens(text_set: TextSet, tokenizer: Tokenizer) -> np.ndarray:
    """The set's documents end to end, an end token after each: what haystacks are cut from."""
    parts = tokens_of_set(text_set, tokenizer).parts
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


@dataclass(frozen=True)
class _Samples:
    """The samples of one length and number of needles, drawn when they are needed."""

    settings: NiahSettings
    text: np.ndarray
    tokenizer: Tokenizer
    length: int
    needles: int
    device: torch.device

    def __iter__(self) -> Iterator[tuple[int, NeedleSample, Exam]]:
        for index in range(self.settings.samples):
            sample = draw_sample(self.settings, self.text, self.tokenizer, self.length, self.needles, index)
            yield index, sample, exam_of(sample, self.device)

    def grade(self, sample: NeedleSample, index: int, answer: Answer, **which: Any) -> SampleAnswer:
        answered = self.tokenizer.decode(np.array(answer.tokens, dtype=np.int64))
        others = {needle.value for number, needle in enumerate(sample.needles) if number != sample.asked}
        return SampleAnswer(
            index=index,
            depth=sample.depths[sample.asked],
            expected=sample.needles[sample.asked].value,
            answered=answered,
            digits_right=int(np.sum(np.array(answer.tokens) == sample.answer)),
            distractor=answered in others,
            logprob=answer.logprob,
            **which,
        )


def draw_sample(
    settings: NiahSettings, text: np.ndarray, tokenizer: Tokenizer, length: int, needles: int, index: int
) -> NeedleSample:
    """Sample ``index`` of the setting: a function of its arguments alone."""
    rng = sample_rng(settings.seed, index)
    depths = None
    if settings.depths is not None:
        depths = [settings.depths[index % len(settings.depths)], *rng.random(needles - 1).tolist()]
    sample = build_sample(
        rng,
        text,
        tokenizer,
        length=length,
        needles=needles,
        key_length=settings.key_length,
        value_length=settings.value_length,
        depths=depths,
    )
    return sample if depths is None else ask_for(sample, 0, tokenizer)


def exam_of(sample: NeedleSample, device: torch.device) -> Exam:
    """The sample as the tensors that a model reads."""
    import torch

    return Exam(
        *(
            torch.from_numpy(np.ascontiguousarray(tokens, dtype=np.int64))[None].to(device)
            for tokens in (sample.haystack, sample.question, sample.answer)
        )
    )


def ask_for(sample: NeedleSample, which: int, tokenizer: Tokenizer) -> NeedleSample:
    """The same haystack, with another of its needles asked for."""
    needle = sample.needles[which]
    answer = np.concatenate([tokenizer.encode(digit) for digit in needle.value])
    return replace(sample, asked=which, question=tokenizer.encode(needle.question), answer=answer)


def _ask_with_memory(
    model: Any,
    samples: _Samples,
    setting: Setting,
    result: NiahResult,
    progress: Callable[[int], None] | None,
) -> None:
    settings = samples.settings
    meter = _Meter(progress)
    divergence = result.divergence.setdefault(setting, DivergenceWatch())
    reader = Reader(model, setting.write_chunk, settings.block, meter, divergence)
    started = time.perf_counter()
    if settings.scope == "sample":
        for index, sample, exam in samples:
            memory = fresh_state(model, setting.length)
            answers, _ = memorise_and_answer(reader, exam, memory, settings.protocols, settings.passes)
            for (protocol, passes), answer in answers.items():
                which = {"setting": setting, "protocol": protocol, "passes": passes}
                result.answers.append(samples.grade(sample, index, answer, **which))
    else:
        # What is carried on depends on how often, and with or without the question, each haystack is
        # written: these runs share no work.
        for protocols in _that_write_alike(settings.protocols):
            for passes in settings.passes:
                memory, read = fresh_state(model, setting.length), 0
                for index, sample, exam in samples:
                    answers, memory = memorise_and_answer(
                        reader, exam, memory.fresh_sequence(), protocols, (passes,), already_read=read
                    )
                    read += tokens_written(exam, passes, protocols == {PUBLISHED})
                    for (protocol, _), answer in answers.items():
                        which = {"setting": setting, "protocol": protocol, "passes": passes}
                        result.answers.append(samples.grade(sample, index, answer, **which))
    result.cost[setting] = (time.perf_counter() - started, meter.tokens)


def _that_write_alike(protocols: Iterable[str]) -> list[set[str]]:
    """Protocols grouped by what they write: for open and closed book that is the haystack alone."""
    groups = [set(protocols) & {OPEN_BOOK, CLOSED_BOOK}, set(protocols) & {PUBLISHED}]
    return [group for group in groups if group]


def _ask_without_memory(
    model: Any, samples: _Samples, result: NiahResult, progress: Callable[[int], None] | None
) -> None:
    settings = samples.settings
    meter = _Meter(progress)
    reader = Reader(model, HAYSTACK, settings.block, meter)
    started = time.perf_counter()
    repeats = [Setting(samples.length, samples.needles, write_chunk) for write_chunk in settings.write_chunks]
    for index, sample, exam in samples:
        for protocol, answer in answer_without_memory(reader, exam, settings.protocols).items():
            for setting in repeats:
                for passes in settings.passes:
                    which = {"setting": setting, "protocol": protocol, "passes": passes}
                    result.answers.append(samples.grade(sample, index, answer, **which))
    for setting in repeats:
        result.cost[setting] = (time.perf_counter() - started, meter.tokens)


@dataclass
class _Meter:
    """Counts the tokens read and passes the count on."""

    progress: Callable[[int], None] | None
    tokens: int = 0

    def __call__(self, tokens: int) -> None:
        self.tokens += tokens
        if self.progress is not None:
            self.progress(tokens)


def readings_per_sample(settings: NiahSettings, *, has_fast_weights: bool, write_chunk: int | str) -> int:
    """How many times a sample's haystack is read in all: what a sample costs, in units of its length."""
    open_book, published = OPEN_BOOK in settings.protocols, PUBLISHED in settings.protocols
    if settings.scope == "sample" or not has_fast_weights:
        return readings_of(
            settings.passes, settings.protocols, has_fast_weights=has_fast_weights, write_chunk=write_chunk
        )
    return sum(
        (passes + open_book) * bool({OPEN_BOOK, CLOSED_BOOK} & set(settings.protocols)) + passes * published
        for passes in settings.passes
    )


def readings_of(
    passes: Sequence[int], protocols: Sequence[str], *, has_fast_weights: bool, write_chunk: int | str
) -> int:
    """How many times `tasks.reading` reads one haystack for all of these passes and protocols, from a fresh memory."""
    if not has_fast_weights:
        return int(bool({OPEN_BOOK, PUBLISHED} & set(protocols)))
    asked_again = 1 if write_chunk == HAYSTACK else len(set(passes))
    return max(passes) + asked_again * (OPEN_BOOK in set(protocols))
