"""Settings of a task as they are given in Python: sizes as numbers or text, one value for a list of one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from numbers import Integral, Real
from typing import Any

from fwpkm_eval.errors import UserError, shown, unknown
from fwpkm_eval.sizes import parse_size, parse_write_chunk


def read_settings(settings: Mapping[str, Any], kind: type) -> dict[str, Any]:
    """The settings as the dataclass ``kind`` takes them, by the types of its fields.

    A size may be text ("8K"), a list of them text with commas ("4K,32K"), a whole number a float (4096.0); one value
    may stand for a list of one. None is left out where a field cannot be None.

    Raises:
        UserError: a setting that there is not, a number that is not whole where one is asked for, a value that is no
            text where text is.
    """
    types = {field.name: str(field.type) for field in fields(kind)}
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if name not in types:
            raise unknown("setting", name, types)
        wanted = types[name]
        if value is None:
            if "None" in wanted:
                found[name] = None
        elif "tuple[" in wanted:
            entries = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
            entries = entries if isinstance(entries, list | tuple | range) else [entries]
            found[name] = tuple(_read(name, entry, wanted) for entry in entries)
        else:
            found[name] = _read(name, value, wanted)
    return found


def _read(name: str, value: Any, wanted: str) -> Any:
    """One value; ``wanted`` is the type of its field as the dataclass has it written."""
    if "int" in wanted:
        return parse_write_chunk(value) if "str" in wanted and isinstance(value, str) else _whole(name, value)
    if "float" in wanted:
        return _number(name, value)
    kind, called = (bool, "True or False") if wanted == "bool" else (str, "text")
    if not isinstance(value, kind):
        raise UserError(f"{name} is {shown(str(value))}; it must be {called}")
    return value


def _number(name: str, value: Any) -> float:
    try:
        if isinstance(value, bool) or not isinstance(value, str | Real):
            raise ValueError
        return float(value)
    except ValueError:
        raise UserError(f"{name} is {shown(str(value))}; it must be a number") from None


def _whole(name: str, value: Any) -> int:
    if isinstance(value, str):
        # Counts from 0 on, such as passes and seeds, are no sizes.
        return 0 if value.strip() == "0" else parse_size(value)
    if isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    if isinstance(value, Real) and not isinstance(value, bool) and float(value).is_integer():
        return int(float(value))
    raise UserError(f"{name} is {shown(str(value))}; it must be a whole number or a size such as 4K")
