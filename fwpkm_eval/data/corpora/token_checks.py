"""Whether token ids can be GPT-2's ids of a text: none beyond its vocabulary, no long runs of zeros."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fwpkm_eval.errors import UserError

END_TOKEN = 50256
MAX_ZERO_RUN = 64
"""GPT-2's id 0 is "!", and longer rows of "!" have ids of their own: so many zeros in a row are no text."""
MAX_ZERO_SHARE = 0.1
"""Of a block: 32-bit ids read as 16-bit ones are nearly half zeros."""


def check_tokens(where: str, start: int, tokens: npt.NDArray[np.uint16], zeros_before: int = 0) -> int:
    """Checks ids that stand from token `start` on, after a run of `zeros_before` zeros; returns the run at their end.

    Raises UserError, in one line that begins with `where`.
    """
    if len(tokens) and int(tokens.max()) > END_TOKEN:
        bad = start + int(np.argmax(tokens > END_TOKEN))
        raise UserError(f"{where} holds {int(tokens[bad - start])} at token {bad:,}: GPT-2's ids end at {END_TOKEN}")
    run, at, zeros = _zero_runs(tokens, zeros_before)
    share = float(np.mean(tokens == 0)) if len(tokens) >= 1024 else 0.0
    if run >= MAX_ZERO_RUN or share > MAX_ZERO_SHARE:
        row = f"{run:,} zeros in a row from token {start + at:,} on"
        what = row if run >= MAX_ZERO_RUN else f"{share:.0%} zeros from token {start:,} on"
        raise UserError(f"{where} holds {what}: that is no text; take another copy (--source)")
    return zeros


def _zero_runs(tokens: npt.NDArray[np.uint16], before: int) -> tuple[int, int, int]:
    """The longest run of zeros and where it starts, `before` zeros counted with the first; and the run at the end."""
    marks = np.concatenate([[False], tokens == 0, [False]])
    edges = np.flatnonzero(marks[1:] != marks[:-1])
    starts, stops = edges[::2], edges[1::2]
    if not len(starts):
        return 0, 0, 0 if len(tokens) else before
    lengths = stops - starts
    first = starts.copy()
    if starts[0] == 0:
        lengths[0] += before
        first[0] -= before
    longest = int(np.argmax(lengths))
    return int(lengths[longest]), int(first[longest]), int(lengths[-1]) if stops[-1] == len(tokens) else 0
