"""Rolling log-likelihoods as perplexity reads text: the same segments, writes and scores, document by document."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fwpkm_eval.data import Document, TextSet
from fwpkm_eval.errors import UserError
from fwpkm_eval.harness.settings import OFF, STREAM, ReadingSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fwpkm_eval.data.tokenizers import Tokenizer


def rolling_logprobs(
    model: Any,
    tokenizer: Tokenizer,
    texts: list[str],
    settings: ReadingSettings,
    progress: Callable[[int], None] | None = None,
) -> Iterator[float]:
    """Yields Σ log p over the tokens of each text, in nats, the first from the end of a document before it.

    Memory ``request`` is `ppl --scope document`, ``off`` the same frozen; ``stream`` is `ppl --scope stream` over the
    texts laid end to end, so that segments and memory go on from one to the next. The end token that follows a text is
    read, and not counted.

    Raises UserError where the texts were to be memorised first: what is scored must not have been read.
    """
    if settings.passes:
        raise UserError("passes would memorise the very text that is scored: leave passes out for rolling tasks")
    groups = [texts] if settings.memory == STREAM and texts else [[text] for text in texts]
    for group in groups:
        yield from _read(model, tokenizer, group, settings, progress)


def _read(
    model: Any,
    tokenizer: Tokenizer,
    texts: list[str],
    settings: ReadingSettings,
    progress: Callable[[int], None] | None,
) -> list[float]:
    import numpy as np

    from fwpkm_eval.tasks.perplexity import PerplexitySettings, evaluate_perplexity

    chunk = settings.write_chunk
    how = PerplexitySettings(
        segment=settings.segment,
        scope="stream" if settings.memory == STREAM else "document",
        frozen=settings.memory == OFF,
        # As long as the sequence: only its end writes.
        write_chunk=settings.segment if isinstance(chunk, str) else chunk,
        block=settings.block,
    )
    documents = tuple(Document(str(number), text) for number, text in enumerate(texts))
    text_set = TextSet("requests", "test", documents, "path", None, "requests of lm-eval", "")
    result = evaluate_perplexity(model, text_set, how, tokenizer, progress)
    # A document's tokens are those from its position 0 to the next one's.
    starts = np.flatnonzero(result.positions == 0)
    nats = np.where(result.byte_counts > 0, result.nats.astype(np.float64), 0.0)
    return [-float(nats[start:stop].sum()) for start, stop in zip(starts, [*starts[1:], len(nats)], strict=True)]
