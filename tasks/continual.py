"""Continual learning: a memory adapts to one domain after the other, and is tested on all of them after each.

The slow weights never change. The memory starts as it is before anything was read and is carried on through all
domains. Of each domain's text the first tokens are there to adapt to and the last to test on; they do not overlap.
While a domain is tested nothing is written, so that a test cannot adapt to its own text; with ``test_writes`` the test
writes as any reading does, into a copy that is dropped afterwards.

Source: arXiv 2601.00671 (4 M tokens of each of six domains of the Pile).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fwpkm_eval.data.stream import token_stream
from fwpkm_eval.errors import UserError
from fwpkm_eval.tasks.describe import describe_model, fresh_state, yarn_arm
from fwpkm_eval.tasks.perplexity import PerplexityResult, PerplexitySettings, read_stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from fwpkm_eval.data import TextSet
    from fwpkm_eval.data.stream import TokenStream
    from fwpkm_eval.data.tokenizers import Tokenizer
    from fwpkm_eval.reference_models.config import ModelConfig
    from fwpkm_eval.runs.rows import Row

CONTINUAL_VERSION = 1
"""Part of every cell's key: raise it whenever a change here can change a number."""

PILE_DOMAINS = (
    "dm_mathematics",
    "freelaw",
    "philpapers",
    "pubmed_central",
    "ubuntu_irc",
    "uspto_backgrounds",
)
"""The published domains, in the order in which they are adapted to, by the names of their sets."""


@dataclass(frozen=True)
class ContinualSettings:
    """Sizes in tokens: ``adapt`` of each domain to adapt to, ``test`` to test on, ``segment`` of a sequence."""

    adapt: int = 64 * 1024
    test: int = 16 * 1024
    segment: int = 4096
    write_chunk: int | None = None
    test_writes: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("adapt", "test", "segment", "write_chunk"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name.replace('_', ' ')} must be at least 1 token, not {value}")


@dataclass(frozen=True)
class ContinualResult:
    """``losses[stage][domain]``: stage 0 is before anything was read, stage i after the i-th domain; and the cost."""

    losses: list[list[PerplexityResult]]
    seconds: float
    tokens: int


def evaluate_continual(
    model: Any,
    domains: Sequence[TextSet],
    settings: ContinualSettings,
    tokenizer: Tokenizer,
    progress: Callable[[int], None] | None = None,
) -> ContinualResult:
    """Adapts to the domains in their order and tests on all of them before the first and after each.

    Raises UserError, before anything is read, for a domain that has too little text.
    """
    texts = [split_domain(domain, settings, tokenizer) for domain in domains]
    adapting = PerplexitySettings(segment=settings.segment, write_chunk=settings.write_chunk, seed=settings.seed)
    testing = PerplexitySettings(
        segment=settings.segment,
        write_chunk=settings.write_chunk,
        frozen=not settings.test_writes,
        seed=settings.seed,
    )
    memory = fresh_state(model, settings.segment)
    cost: list[PerplexityResult] = []

    def test() -> list[PerplexityResult]:
        # A copy only where it will be written on: fast weights may be gigabytes.
        held = (memory.copy() if settings.test_writes else memory for _ in texts)
        results = [
            read_stream(model, last, testing, state, progress=progress)[0]
            for (_, last), state in zip(texts, held, strict=True)
        ]
        cost.extend(results)
        return results

    losses = [test()]
    for first, _ in texts:
        result, memory = read_stream(model, first, adapting, memory, progress=progress)
        cost.append(result)
        losses.append(test())
    return ContinualResult(losses, sum(each.seconds for each in cost), sum(each.tokens for each in cost))


def split_domain(domain: TextSet, settings: ContinualSettings, tokenizer: Tokenizer) -> tuple[TokenStream, TokenStream]:
    """(what to adapt to: the first tokens, what to test on: the last). Raises UserError if there are not enough."""
    stream = token_stream(domain, tokenizer)
    needed, end = settings.adapt + settings.test, len(stream.tokens)
    if stream.n_targets < needed:
        raise UserError(
            f"set {domain.name!r} has {stream.n_targets:,} tokens; to adapt to {settings.adapt:,} and test on "
            f"{settings.test:,} others it needs {needed:,}"
        )
    return stream.part(0, settings.adapt + 1), stream.part(end - settings.test - 1, end)


def check_domain(domain: TextSet, settings: ContinualSettings, config: ModelConfig) -> None:
    """Raises UserError for a domain that has too little text for a model of this configuration."""
    from fwpkm_eval.api import tokenizer_of

    split_domain(domain, settings, tokenizer_of(config))


def continual_rows(
    model: Any, domains: Sequence[TextSet], settings: ContinualSettings, result: ContinualResult
) -> list[Row]:
    """For each stage and tested domain ``bits_per_byte`` and ``nats_per_token``, and their change since stage 0.

    ``dataset`` is the domain tested, ``passes`` the number of domains adapted to so far, ``protocol`` the last of them
    (as ``after NAME``), ``length`` the tokens of each that were read. ``bits_per_byte_change`` is the difference to
    stage 0; a loss that is not finite stays as it is.
    """
    from fwpkm_eval.runs.rows import Row

    of_model = describe_model(model)
    rows = []
    for stage, tested in enumerate(result.losses):
        for number, (domain, loss) in enumerate(zip(domains, tested, strict=True)):
            common: dict[str, Any] = {
                **of_model,
                "task": "continual",
                "dataset": domain.name,
                "length": settings.adapt,
                "passes": stage,
                "protocol": f"after {domains[stage - 1].name}" if stage else "",
                "write_chunk": str(settings.write_chunk or model.config.chunk_size),
                "scope": "stream",
                "arm": yarn_arm(model, settings.segment),
                "seed": settings.seed,
                "n": loss.tokens,
                "seconds": result.seconds,
                "tokens": result.tokens,
                "data_hash": domain.sha256[:16],
            }
            rows += [
                Row(metric="bits_per_byte", value=loss.bits_per_byte, unit="bits", **common),
                Row(metric="nats_per_token", value=loss.nats_per_token, unit="nats", **common),
            ]
            if stage:
                change = loss.bits_per_byte - result.losses[0][number].bits_per_byte
                rows.append(Row(metric="bits_per_byte_change", value=change, unit="bits", **common))
    return rows
