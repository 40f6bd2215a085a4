"""A trace as data: what `tasks.trace` makes, JSON holds, and terminal and report show. Importing it needs no torch."""

from __future__ import annotations

import json
import math
import re
import types
import typing
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from fwpkm_eval.errors import UserError

FORMAT = 1


@dataclass(frozen=True)
class Pair:
    """Two tokens of the haystack that a slot was given together: at `query`, remember `target`.

    position, target_position: where they stand; strength: read weight × gate at the write; before, between, after: the
    text around them. hit: target is the true next token. is_answer: it is even the asked needle's own digit.
    """

    query: str
    target: str
    position: int
    target_position: int
    strength: float
    before: str
    between: str
    after: str
    hit: bool
    is_answer: bool


@dataclass(frozen=True)
class SlotRead:
    """A slot that was read with `weight`, and its last write: number and reading from 1 (None: there was none).

    written: how many pairs that write put there; pairs: the strongest of them, strongest first.
    """

    slot: int
    weight: float
    write: int | None
    reading: int | None
    written: int
    pairs: tuple[Pair, ...]

    @property
    def hit(self) -> bool:
        """HIT: the strongest pair of the slot's last write holds the true next token."""
        return bool(self.pairs) and self.pairs[0].hit

    @property
    def is_answer(self) -> bool:
        return bool(self.pairs) and self.pairs[0].is_answer


@dataclass(frozen=True)
class LayerRead:
    """What one memory layer read for one digit, heaviest slot first; gate: what share of its output the read has."""

    layer: int
    gate: float
    slots: tuple[SlotRead, ...]

    @property
    def weighted_hits(self) -> float:
        """Σ of the weights of the slots that are a HIT; the weights of all slots add up to 1."""
        return sum(slot.weight for slot in self.slots if slot.hit)

    @property
    def weighted_answers(self) -> float:
        """Σ of the weights of the slots that hold the asked needle's own digit."""
        return sum(slot.weight for slot in self.slots if slot.is_answer)


@dataclass(frozen=True)
class Vote:
    """A token, and its share of the votes: Σ weight × gate over the slots whose strongest pair has it as target."""

    token: str
    share: float


@dataclass(frozen=True)
class Digit:
    """One digit of the answer, predicted after the question and the true digits before it.

    answered: the likeliest token; probability: of the expected one. votes: the memory's, largest share first; slots
    that were never written do not vote.
    """

    expected: str
    answered: str
    probability: float
    votes: tuple[Vote, ...]
    layers: tuple[LayerRead, ...]

    @property
    def consensus(self) -> str | None:
        return self.votes[0].token if self.votes else None


@dataclass(frozen=True)
class Trace:
    """One needle, asked for after `passes` readings of the haystack; answered: as decoded greedily."""

    format: int
    model: str
    scale: str
    weights_hash: str
    dataset: str
    data_hash: str
    length: int
    needles: int
    passes: int
    write_chunk: str
    protocol: str
    seed: int
    sample: int
    key: str
    depth: float
    expected: str
    answered: str
    digits: tuple[Digit, ...]

    @property
    def name(self) -> str:
        """A name for its file: what was asked of which model."""
        model = re.sub(r"[^0-9A-Za-z]+", "-", self.model)
        asked = f"{self.length}-n{self.needles}-p{self.passes}-w{self.write_chunk}-{self.protocol}"
        return f"{model}-{asked}-s{self.seed}-{self.sample}"

    def to_json(self) -> dict[str, Any]:
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain

    @classmethod
    def from_json(cls, data: Any) -> Trace:
        """The trace that `to_json` wrote. ValueError if it is not one, saying where."""
        trace = _built(cls, data, "trace")
        if trace.format != FORMAT:
            raise ValueError(f"its format is {trace.format}, and this version reads {FORMAT}")
        return trace


def read_trace(path: Path) -> Trace:
    """The trace in a file. UserError if it is not one."""
    try:
        return Trace.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError) as problem:
        raise UserError(f"{path} is not a trace: {problem}") from None


def visible(text: str) -> str:
    """Text on one line with every sign showing: line ends as ⏎, tabs as ⇥, other control signs as ·."""
    plain = text.replace("\n", "⏎").replace("\t", "⇥")
    return "".join(sign if sign.isprintable() else "·" for sign in plain)


def sign(token: str) -> str:
    """A token that stands alone: spaces, which would not show, as ␣."""
    return visible(token).replace(" ", "␣")


Built = TypeVar("Built")


def _built(kind: type[Built], data: Any, where: str) -> Built:
    """A dataclass from JSON values, every field there and of its type, and none beside them."""
    assert is_dataclass(kind)
    if not isinstance(data, dict):
        raise ValueError(f"{where} is not an object")
    wanted = typing.get_type_hints(kind)
    names = [field.name for field in fields(kind)]
    if set(data) != set(names):
        odd = sorted(set(data) ^ set(names))[0]
        raise ValueError(f"{where}.{odd} is {'unknown' if odd in data else 'missing'}")
    return kind(**{name: _value(wanted[name], data[name], f"{where}.{name}") for name in names})


def _value(kind: Any, value: Any, where: str) -> Any:
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise ValueError(f"{where} is not a list")
        inner = typing.get_args(kind)[0]
        return tuple(_value(inner, one, f"{where}[{number}]") for number, one in enumerate(value))
    if isinstance(kind, types.UnionType):
        return None if value is None else _value(typing.get_args(kind)[0], value, where)
    if is_dataclass(kind):
        assert isinstance(kind, type)
        return _built(kind, value, where)
    if kind is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if kind is not float and type(value) is kind:
        return value
    raise ValueError(f"{where} is {value!r:.60}, not {kind.__name__}")
