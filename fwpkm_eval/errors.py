"""Errors that are the user's to correct, worded in one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """What is wrong with the input and what would be right, in one line.

    The command line prints it as ``error: …`` and ends with exit code 2, without a traceback.
    """


def did_you_mean(bad: str, valid: Iterable[str]) -> str:
    """``", did you mean x?"`` for the entry of ``valid`` nearest to ``bad``, or ``""`` if none is near."""
    by_lower_case = {name.lower(): name for name in valid}
    near = difflib.get_close_matches(bad.lower(), by_lower_case, n=1, cutoff=0.6)
    return f", did you mean {by_lower_case[near[0]]}?" if near else ""


def unknown(kind: str, bad: str, valid: Iterable[str]) -> UserError:
    """The error for a name that is not one of ``valid``; ``kind`` says what was being named."""
    names = sorted(valid)
    hint = did_you_mean(bad, names) or ";"
    return UserError(f"unknown {kind} {shown(bad)}{hint} valid: {', '.join(names)}")


def shown(text: str, longest: int = 60) -> str:
    """``text`` quoted on one line for an error message, cut in the middle if it is very long."""
    if len(text) > longest:
        half = (longest - 1) // 2
        text = f"{text[:half]}…{text[-half:]}"
    return repr(text)
