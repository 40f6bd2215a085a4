"""How a request of the lm-evaluation-harness is read: what may be written into the fast weights, and when."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from fwpkm_eval.errors import UserError, unknown
from fwpkm_eval.sizes import parse_size

REQUEST, STREAM, OFF = "request", "stream", "off"
MEMORIES = (REQUEST, STREAM, OFF)


@dataclass(frozen=True)
class ReadingSettings:
    """What happens to the fast weights; sizes are in tokens.

    memory: ``request``: each request starts from the same fast weights, so that neither order nor batch can change a
        score; ``stream``: they are carried from request to request of one task (or of a group that is asked for by
        its name), in the order these are given; ``off``: never written. In lm-eval's own command line, which does not
        say where a task ends, ``stream`` goes on from task to task.
    passes: 0: the context is read once and written as it is read. n: it is memorised first, read n times as `niah`
        does (each a fresh sequence, written to its end), then read once more without a write. Scored or generated
        tokens are never written.
    write_chunk: a number of tokens or "haystack" (once per reading); None for the model's own chunk.
    memorise: the field of a task's document whose text is what ``passes`` read; a document without it: the context.
    segment: tokens of a sequence in rolling log-likelihoods; attention and recurrent state are fresh in each.
    block: tokens that one call of the model sees; bounds the memory for activations, cannot change a score (beyond
        rounding).

    Raises UserError for settings that do not fit each other.
    """

    memory: str = REQUEST
    passes: int = 0
    write_chunk: int | str | None = None
    memorise: str = "haystack"
    segment: int = 4096
    block: int = 1024

    def __post_init__(self) -> None:
        if self.memory not in MEMORIES:
            raise unknown("memory", str(self.memory), MEMORIES)
        chunk = self.write_chunk
        if isinstance(chunk, str) and chunk != "haystack":
            object.__setattr__(self, "write_chunk", parse_size(chunk))
        elif isinstance(chunk, int) and chunk < 1:
            raise UserError(f"write chunk {chunk} is neither a number of tokens nor 'haystack'")
        for name in ("segment", "block"):
            value = getattr(self, name)
            value = parse_size(value) if isinstance(value, str) else value
            if type(value) is not int or value < 1:
                raise UserError(f"{name} must be at least 1 token, not {value!r}")
            object.__setattr__(self, name, value)
        if type(self.passes) is not int or self.passes < 0:
            raise UserError(f"passes must be 0 or more readings, not {self.passes!r}")
        if self.passes and self.memory == OFF:
            raise UserError(f"{self.passes} passes write into the memory, and memory=off forbids it: leave one out")


def reading_settings(arguments: dict[str, Any]) -> ReadingSettings:
    """The settings of model arguments. Raises UserError for one that is none of them."""
    valid = [field.name for field in fields(ReadingSettings)]
    for name in arguments:
        if name not in valid:
            raise unknown("model argument", name, [*valid, *MODEL_ARGUMENTS])
    return ReadingSettings(**arguments)


MODEL_ARGUMENTS = ("pretrained", "scale", "seed", "device", "dtype", "max_gen_toks", "quiet", "batch_size")
"""The other arguments of `harness.model.FwPKMLM`."""
