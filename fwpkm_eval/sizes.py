"""Sizes as people write them: ``4K`` is 4096, ``8M`` is 8388608 (1K = 1024, for lengths and budgets)."""

from __future__ import annotations

import re
from fractions import Fraction

from fwpkm_eval.errors import UserError, did_you_mean, shown

HAYSTACK = "haystack"
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?)([KMG]?)", re.ASCII | re.IGNORECASE)


def parse_size(text: str) -> int:
    """The whole number above zero that ``text`` stands for.

    Raises:
        UserError: ``text`` is no size, is zero or negative, or is not whole (``1.5K`` is, ``0.3K`` is not).
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise UserError(f"{shown(text)} is not a size: give a whole number above zero, such as 512, 4K or 8M")
    size = Fraction(match[1]) * _UNITS[match[2].upper()]
    if size.denominator != 1:
        raise UserError(f"size {shown(text)} is not a whole number: it comes to {float(size):g}")
    if size == 0:
        raise UserError(f"size {shown(text)} is zero: give a whole number above zero, such as 512, 4K or 8M")
    return int(size)


def parse_sizes(text: str) -> tuple[int, ...]:
    """The sizes of a list such as ``4K,32K,128K``, in the order given; one given twice is kept once."""
    return tuple(dict.fromkeys(parse_size(part) for part in text.split(",")))


def parse_write_chunk(text: str) -> int | str:
    """How often a reading is written: every so many tokens (a size), or ``haystack``, once at its end.

    Raises:
        UserError: ``text`` is neither.
    """
    if text == HAYSTACK:
        return text
    if text.strip()[:1].isalpha():
        hint = did_you_mean(text, [HAYSTACK]) or ";"
        raise UserError(f"{shown(text)} is neither a size nor {HAYSTACK!r}{hint} valid: 512, 4K, {HAYSTACK}")
    return parse_size(text)


def format_size(size: int) -> str:
    """``size`` with the largest unit that divides it (``4K``, ``8M``), or its digits if none does."""
    for unit in ("G", "M", "K"):
        if size and size % _UNITS[unit] == 0:
            return f"{size // _UNITS[unit]}{unit}"
    return str(size)
