"""Text in, text out: a model that memorises a text, and one that goes on from a prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fwpkm_eval.errors import UserError
from fwpkm_eval.generation import Sampling, decode
from fwpkm_eval.kernels.arguments import check_whole
from fwpkm_eval.reference_models.yarn import yarn_for
from fwpkm_eval.tasks.describe import fresh_state, measuring, model_tensor
from fwpkm_eval.tasks.memorise import memorise as memorise_tokens
from fwpkm_eval.tasks.reading import Reader

if TYPE_CHECKING:
    from fwpkm_eval.data.tokenizers import Tokenizer


def memorise(model: Any, text: str, state: Any = None, *, passes: int = 1, write_chunk: int | str | None = None) -> Any:
    """The state after ``passes`` readings of ``text``, each a sequence of its own that is written to its end.

    Args:
        model: what `load_model` returns, with fast weights. state: whose memory is written on, and which stays as it
            was; None for the model's first one. write_chunk: tokens a write, ``"haystack"`` for one a reading, None for
            the model's own.

    Returns:
        A state before a new sequence, with that memory: for `generate`, or to be called with.

    Raises:
        UserError: no text, a model without fast weights, a state of another model.
    """
    _check_model(model)
    _check_text("text", text)
    if not text:
        raise UserError("text is empty: there is nothing to memorise")
    if not model.has_fast_weights:
        raise UserError(f"{model.config.name} has no fast weights to write into")
    check_whole("passes", passes, 1)
    tokens = _tokenizer(model).encode(text)
    memory = _memory(model, state, len(tokens))
    memory = memory if state is None else memory.copy()  # it is written on
    return memorise_tokens(model, tokens, memory, passes=passes, write_chunk=write_chunk).fresh_sequence()


def generate(
    model: Any,
    prompt: str,
    state: Any = None,
    *,
    tokens: int = 256,
    stop: Sequence[str] = (),
    temperature: float = 0.0,
    seed: int = 0,
) -> str:
    """What the model writes on from ``prompt``, in a new sequence with the memory of ``state``; nothing is written into
    its fast weights, and ``state`` stays as it was.

    Args:
        state: as `memorise` returns it; None for the model's first one. tokens: at most so many. stop: texts to end
            before. temperature: 0 takes the most probable token, above 0 draws by ``seed``.

    Raises:
        UserError: settings that do not fit, a state of another model.
    """
    _check_model(model)
    _check_text("prompt", prompt)
    check_whole("tokens", tokens, 1)
    stop = (stop,) if isinstance(stop, str) else tuple(stop)
    if "" in stop:
        raise UserError("stop holds an empty text: give the text to end before, or leave it out")
    sampling = Sampling(temperature, seed)
    ids = token_ids(_tokenizer(model), prompt, model_tensor(model).device)
    with measuring(model):
        memory = _memory(model, state, ids.shape[1] + tokens)
        logits, after = Reader(model, model.config.chunk_size).predict(ids, memory.fresh_sequence(), write=False)
        written = Written(_tokenizer(model), stop)
        steps = decode(model, logits, after, limit=tokens, sampling=sampling)
        for _ in written.pieces(int(step.token) for step in steps):
            pass
    return written.text


def _check_model(model: object) -> None:
    if not hasattr(model, "config"):
        raise UserError(f"model is a {type(model).__name__}; it must be what load_model returns")


def _check_text(name: str, text: object) -> None:
    if not isinstance(text, str):
        raise UserError(f"{name} is a {type(text).__name__}; it must be text")
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise UserError(f"{name} holds half of a surrogate pair, which is no character")


def _memory(model: Any, state: Any, length: int) -> Any:
    """A state before a new sequence, with the fast weights of ``state``, not copies; how long it is to be says how full
    attention rotates."""
    if state is None:
        return fresh_state(model, length)
    model.check_state(state)
    return replace(state.fresh_sequence(), yarn=yarn_for(model.config, length))


def _tokenizer(model: Any) -> Tokenizer:
    from fwpkm_eval.api import tokenizer_of

    return tokenizer_of(model.config)


def token_ids(tokenizer: Tokenizer, text: str, device: Any) -> Any:
    """The text as [1,T] on the device; no text is the end of a document, after which the next one starts."""
    import torch

    ids = tokenizer.encode(text)
    return torch.tensor([ids.tolist() or [tokenizer.eos]], dtype=torch.int64, device=device)


@dataclass
class Written:
    """Turns tokens into text as they come, and knows where to end."""

    tokenizer: Tokenizer
    stop: tuple[str, ...]

    def pieces(self, tokens: Iterator[int]) -> Iterator[str]:
        """The text in pieces that can be shown: whole characters, and nothing that may turn out to be a stop text."""
        self.ids: list[int] = []
        self.text, self.ended_by = "", "tokens"
        shown = 0
        for token in tokens:
            if token == self.tokenizer.eos:
                self.ended_by = "end of document"
                break
            self.ids.append(token)
            self.text = self.tokenizer.decode(self.ids)
            ends = [place for stop in self.stop if stop and (place := self.text.find(stop)) >= 0]
            if ends:
                self.text, self.ended_by = self.text[: min(ends)], "stop"
                break
            safe = len(self.text.rstrip("\ufffd")) - max((len(stop) - 1 for stop in self.stop), default=0)
            if safe > shown:
                yield self.text[shown:safe]
                shown = safe
        yield self.text[shown:]
