"""Has a model read texts into its memory, once or several times, as the needle protocols read a haystack."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fwpkm_eval.errors import UserError
from fwpkm_eval.tasks.describe import measuring, model_tensor
from fwpkm_eval.tasks.reading import Reader

if TYPE_CHECKING:
    from fwpkm_eval.data.tokenizers import IntArray, Tokenizer
    from fwpkm_eval.reference_models.stored_state import Span


def memorise(
    model: Any,
    tokens: IntArray,
    state: Any,
    *,
    passes: int = 1,
    write_chunk: int | str | None = None,
    progress: Callable[[int], None] | None = None,
) -> Any:
    """The state after ``passes`` readings of ``tokens`` [n], each a fresh sequence that is written to its end.

    ``state`` must not be used afterwards. ``write_chunk``: as in `reading`, None for the model's own.
    """
    import torch

    ids = torch.from_numpy(np.ascontiguousarray(tokens, dtype=np.int64))[None].to(model_tensor(model).device)
    reader = Reader(model, model.config.chunk_size if write_chunk is None else write_chunk, progress=progress)
    with measuring(model):
        return reader.memorise(ids, state, passes)


def read_texts(
    texts: Sequence[Path], labels: Sequence[str], taken: Sequence[Span], tokenizer: Tokenizer, origin: int
) -> tuple[IntArray, list[Span]]:
    """The tokens [n] of the texts, an end token after each, and where each stands, from `origin` on."""
    from fwpkm_eval.reference_models.stored_state import Span

    if labels and len(labels) != len(texts):
        raise UserError(f"{len(labels)} labels for {len(texts)} texts: give one for each, or none")
    names = list(labels) or [path.stem for path in texts]
    used = [span.name for span in taken]
    for name in names:
        if name in used:
            raise UserError(f"two texts are named {name!r}: give each its own --label")
        used.append(name)
    pieces, spans, place = [], [], origin
    for path, name in zip(texts, names, strict=True):
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as problem:
            raise UserError(f"{path} is not UTF-8 text (byte {problem.start})") from None
        if not text:
            raise UserError(f"{path} is empty: there is nothing to read")
        ids = np.append(tokenizer.encode(text), tokenizer.eos)
        pieces.append(ids)
        spans.append(Span(name, place, place + len(ids)))
        place += len(ids)
    return np.concatenate(pieces), spans
