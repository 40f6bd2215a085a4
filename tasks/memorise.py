"""Has a model read a text into its memory, once or several times, as the needle protocols read a haystack."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from fwpkm_eval.tasks.describe import measuring, model_tensor
from fwpkm_eval.tasks.reading import Reader

if TYPE_CHECKING:
    from fwpkm_eval.data.tokenizers import IntArray


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
    reader = Reader(model, write_chunk or model.config.chunk_size, progress=progress)
    with measuring(model):
        for _ in range(passes):
            state = reader.read(ids, state.fresh_sequence(), write=True)
            state = model.flush(state, inplace=True)
    return state
