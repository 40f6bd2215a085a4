"""Finding and cutting text that two sets share, so that nothing a model is tested on stands in what it is
trained on.

Two texts share a passage if they have a run of characters in common, either as it is (200 characters or more)
or with all white space and margin bars left out (120 or more: the same paragraph, indented or wrapped
otherwise).

Method: any run of 2n characters holds a whole block of n that starts at a multiple of n. So the protected
texts are cut into such blocks, and every window of n characters of the other text is looked up among them, by
a 64-bit hash: H(i) = b^-i Σ_{i ≤ j < i+n} r(c_j) b^j mod 2^64, with r(c) a fixed 64-bit mix of the character.
A false match needs a 64-bit collision and would only cut a line too many; a shared passage is never missed.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

SHARED_CHARACTERS = 200
SHARED_SQUEEZED_CHARACTERS = 120

_BASE = 0x9E3779B97F4A7C15 | 1
_INVERSE = pow(_BASE, -1, 2**64)


class PassageIndex:
    """The passages of protected texts, against which other texts are checked."""

    def __init__(self, texts: Iterable[str]) -> None:
        raw: list[npt.NDArray[np.uint64]] = []
        squeezed: list[npt.NDArray[np.uint64]] = []
        for text in texts:
            characters = _characters(text)
            raw.append(_block_hashes(characters, _RAW_BLOCK))
            squeezed.append(_block_hashes(_squeeze(characters)[0], _SQUEEZED_BLOCK))
        self._raw = _HashSet(raw)
        self._squeezed = _HashSet(squeezed)

    def shared(self, text: str) -> npt.NDArray[np.bool_]:
        """[len(text)] bool: which characters lie in a passage shared with a protected text."""
        characters = _characters(text)
        marked = _covered(self._raw, characters, _RAW_BLOCK)
        squeezed, places = _squeeze(characters)
        marked[places[_covered(self._squeezed, squeezed, _SQUEEZED_BLOCK)]] = True
        return marked

    def without_shared(self, text: str) -> str:
        """The text without the lines that touch a shared passage, again until cutting has made no new one."""
        while True:
            marked = self.shared(text)
            if not marked.any():
                return text
            kept = []
            position = 0
            for line in text.splitlines(keepends=True):
                if not marked[position : position + len(line)].any():
                    kept.append(line)
                position += len(line)
            text = "".join(kept)


_RAW_BLOCK = SHARED_CHARACTERS // 2
_SQUEEZED_BLOCK = SHARED_SQUEEZED_CHARACTERS // 2


class _HashSet:
    """Set of 64-bit hashes; `contains` is fast as a table of their top bits rules out nearly all others."""

    def __init__(self, parts: list[npt.NDArray[np.uint64]]) -> None:
        self._sorted = np.unique(np.concatenate([*parts, np.empty(0, dtype=np.uint64)]))
        self._table = np.zeros(2**22, dtype=bool)
        self._table[self._sorted >> np.uint64(42)] = True

    def contains(self, hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        found = self._table[hashes >> np.uint64(42)]
        candidates = np.flatnonzero(found)
        if len(candidates):
            wanted = hashes[candidates]
            nearest = np.minimum(np.searchsorted(self._sorted, wanted), len(self._sorted) - 1)
            found[candidates] = self._sorted[nearest] == wanted
        return found


def _characters(text: str) -> npt.NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)


def _squeeze(characters: npt.NDArray[np.uint32]) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.intp]]:
    """The characters without white space and bars, and where each stood."""
    places = np.flatnonzero((characters > ord(" ")) & (characters != ord("|")))
    return characters[places], places


def _covered(index: _HashSet, characters: npt.NDArray[np.uint32], block: int) -> npt.NDArray[np.bool_]:
    """Which characters lie in a window of `block` characters that the index holds."""
    edges = np.zeros(len(characters) + 1, dtype=np.int64)
    starts = np.flatnonzero(index.contains(_window_hashes(characters, block)))
    np.add.at(edges, starts, 1)
    np.add.at(edges, starts + block, -1)
    return np.cumsum(edges)[:-1] > 0


def _block_hashes(characters: npt.NDArray[np.uint32], block: int) -> npt.NDArray[np.uint64]:
    """[n // block] hashes of the windows that start at multiples of `block`."""
    count = len(characters) // block
    # Unsigned arithmetic is modulo 2^64, which is what is wanted; so below.
    blocks = _mix(characters[: count * block]).reshape(count, block)
    return (blocks * _powers(_BASE, block)).sum(axis=1, dtype=np.uint64)


def _window_hashes(characters: npt.NDArray[np.uint32], block: int) -> npt.NDArray[np.uint64]:
    """[max(0, n - block + 1)] hashes of all windows."""
    count = len(characters) - block + 1
    if count <= 0:
        return np.empty(0, dtype=np.uint64)
    prefix = np.zeros(len(characters) + 1, dtype=np.uint64)
    np.cumsum(_mix(characters) * _powers(_BASE, len(characters)), out=prefix[1:])
    return (prefix[block:] - prefix[:count]) * _powers(_INVERSE, count)


def _powers(base: int, count: int) -> npt.NDArray[np.uint64]:
    """[count] base^0, base^1, … modulo 2^64."""
    # Rounded up to a power of two, so that texts of many lengths share one table.
    return _power_table(base, 1 << max(count - 1, 0).bit_length())[:count]


@functools.lru_cache(maxsize=64)
def _power_table(base: int, count: int) -> npt.NDArray[np.uint64]:
    factors = np.full(count, base, dtype=np.uint64)
    factors[0] = 1
    table = np.multiply.accumulate(factors)
    table.flags.writeable = False
    return table


def _mix(characters: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint64]:
    """The finaliser of splitmix64, so that neighbouring characters get unrelated numbers."""
    mixed = characters.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
