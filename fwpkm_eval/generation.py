"""Tokens from a model, one at a time, and log-probabilities of given ones; both from the state that reading left.

Shapes: T tokens, W vocabulary. Recurrent, attention and memory state all go from token to token in the model's state,
so what is predicted is what one call over the whole sequence would predict. Nothing is written into the fast weights
unless asked for: the memory that answers is the one that reading made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fwpkm_eval.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen: the most probable one at ``temperature`` 0, else drawn from softmax(logits / t).

    Draws depend on ``seed`` alone. Raises UserError for a temperature below 0.
    """

    temperature: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise UserError(f"temperature is {self.temperature}; it must be 0 (the most probable token) or above")


GREEDY = Sampling()


@dataclass(frozen=True)
class Step:
    """One generated token: ``token`` [] int64 on the model's device, chosen from ``logits`` [W]."""

    token: torch.Tensor
    logits: torch.Tensor


def decode(
    model: Any,
    logits: torch.Tensor,
    state: Any,
    *,
    limit: int,
    sampling: Sampling = GREEDY,
    write: bool = False,
    write_chunk: int | str | None = None,
    progress: Callable[[int], None] | None = None,
) -> Iterator[Step]:
    """Yields up to ``limit`` tokens; each is read by the model when the next is asked for, the last one never.

    Args:
        logits: [W] of the first token, as the reading that led to ``state`` gave them.
        state: stays as it was, unless ``write``: then it must not be used again.
        write: queue the tokens and write them every ``write_chunk``, as a reading does.
        progress: called with the number of tokens read since its last call.

    Raises UserError if there is no token to draw: the logits are not numbers.
    """
    draw = _drawer(sampling)
    for count in range(limit):
        token = draw(logits)
        yield Step(token, logits)
        if count + 1 < limit:
            following, state = model(
                token.view(1, 1),
                state,
                updates="stream" if write else "off",
                write_chunk=write_chunk,
                logits="last",
                inplace=write,
            )
            logits = following[0, -1]
            if progress is not None:
                progress(1)


@dataclass(frozen=True)
class Scores:
    """Of each given token: ``logprobs`` [T] float64 in nats; ``greedy`` [T]: whether it was the most probable one."""

    logprobs: torch.Tensor
    greedy: torch.Tensor

    @property
    def logprob(self) -> float:
        return float(self.logprobs.sum())


def score(
    model: Any,
    logits: torch.Tensor,
    state: Any,
    tokens: torch.Tensor,
    *,
    block: int = 1024,
    write_chunk: int | str | None = None,
    progress: Callable[[int], None] | None = None,
) -> Scores:
    """Scores ``tokens`` [1,T], each given those before it; nothing is written and ``state`` stays as it was.

    ``logits`` [W] are the first token's. ``block``: tokens that one call of the model sees, which bounds the memory
    for logits.
    """
    import torch

    logprobs, greedy = [], []
    known = logits[None]
    for start in range(0, tokens.shape[1], block):
        wanted = tokens[0, start : start + block]
        # The last token of all predicts nothing that is asked for, so it is not read.
        piece = tokens[:, start : min(start + block, tokens.shape[1] - 1)]
        if piece.shape[1]:
            following, state = model(piece, state, updates="off", write_chunk=write_chunk, logits="all")
            known = torch.cat([known, following[0]])
            if progress is not None:
                progress(piece.shape[1])
        given, known = known[: len(wanted)], known[len(wanted) :]
        logprobs.append(torch.log_softmax(given.double(), dim=-1).gather(1, wanted[:, None])[:, 0])
        greedy.append(given.argmax(-1) == wanted)
    if not logprobs:
        return Scores(logits.new_zeros(0, dtype=torch.float64), logits.new_zeros(0, dtype=torch.bool))
    return Scores(torch.cat(logprobs), torch.cat(greedy))


def _drawer(sampling: Sampling) -> Callable[[torch.Tensor], torch.Tensor]:
    if sampling.temperature == 0:
        return lambda logits: logits.argmax()
    import torch

    # On the CPU, in float64: a seed gives the same draws on every device.
    generator = torch.Generator().manual_seed(sampling.seed)

    def draw(logits: torch.Tensor) -> torch.Tensor:
        double = logits.detach().cpu().double()
        # Less their greatest: what is divided by a temperature near 0 grows beyond all numbers.
        shares = torch.softmax((double - double.max()) / sampling.temperature, dim=-1)
        if not shares.isfinite().all():
            raise UserError("the model's outputs are not numbers: there is no token to draw")
        return torch.multinomial(shares, 1, generator=generator)[0].to(logits.device)

    return draw
