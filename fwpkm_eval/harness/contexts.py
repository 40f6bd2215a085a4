"""What a model knows after a request's context: read once, asked as often as there are requests with that context."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fwpkm_eval.harness.settings import OFF, STREAM, ReadingSettings
from fwpkm_eval.sizes import HAYSTACK
from fwpkm_eval.tasks.describe import fresh_state, model_tensor
from fwpkm_eval.tasks.reading import Reader

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

Ids = tuple[int, ...]


@dataclass(frozen=True)
class Context:
    """The token ids of a context, in two parts that are read one after the other, and what passes memorise of it.

    The parts are cut where the memorised text ends, as needles' haystack and question are; ``rest`` may be empty.
    """

    begin: Ids
    rest: Ids
    memorised: Ids


class ContextReader:
    """Reads contexts as the settings say. In scope ``stream`` it holds the memory that is carried on."""

    def __init__(self, model: Any, settings: ReadingSettings, progress: Callable[[int], None] | None = None) -> None:
        self.model, self.settings = model, settings
        self.every = settings.write_chunk or model.config.chunk_size
        self.reader = Reader(model, self.every, settings.block, progress)
        self.writes = bool(model.has_fast_weights) and settings.memory != OFF
        self._first: Any = None
        self._carried: Any = None

    def after(self, context: Context) -> tuple[torch.Tensor, Any]:
        """The logits [W] of the token after the context, and the state; whoever asks must leave both as they are."""
        passes = self.settings.passes if self.writes else 0
        memory = self._with_rotary_for(context, self._memory(self._will_write(context)))
        if passes:
            memory = self.reader.memorise(self.tensor(context.memorised), memory, passes)
        write = self.writes and not passes
        state = memory.fresh_sequence()
        if context.rest:
            state = self.reader.read(self.tensor(context.begin), state, write=write)
        logits, state = self.reader.predict(self.tensor(context.rest or context.begin), state, write=write)
        if self.settings.memory == STREAM:
            self._carried = state
        return logits, state

    def tensor(self, ids: Ids) -> torch.Tensor:
        """Token ids as [1,T] on the model's device."""
        import torch

        return torch.tensor([ids], dtype=torch.int64, device=model_tensor(self.model).device)

    def _memory(self, will_write: bool) -> Any:
        """A state with the fast weights to start from, which the reading may use up."""
        if self.settings.memory == STREAM:
            if self._carried is None:
                return fresh_state(self.model)
            # What the last context left in the queue is written now: nobody is asking any more.
            return self.model.flush(self._carried, inplace=True)
        if self._first is None:
            self._first = fresh_state(self.model)
        # Fast weights are gigabytes at paper scale: they are copied only where they will change.
        return self._first.copy() if will_write else self._first

    def _with_rotary_for(self, context: Context, memory: Any) -> Any:
        """The same state before sequences as long as these: full attention may take YaRN, as in the needle task."""
        from fwpkm_eval.reference_models.yarn import yarn_for

        longest = max(len(context.begin) + len(context.rest), len(context.memorised))
        return replace(memory, yarn=yarn_for(self.model.config, longest))

    def _will_write(self, context: Context) -> bool:
        if not self.writes:
            return False
        tokens = len(context.begin) + len(context.rest)
        # A write comes with write_chunk + lookahead tokens: as early as this where the lookahead is 0.
        return bool(self.settings.passes) or (self.every != HAYSTACK and tokens >= int(self.every))
