"""Cells: the units of work of a run, each stored in a file of its own, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fwpkm_eval.files import write_whole
from fwpkm_eval.runs.rows import Row

_KEY = re.compile(r"[0-9a-f]{20}")


def canonical_json(value: Any) -> str:
    """``value`` as JSON that does not depend on the order of keys, on spaces, or on list against tuple.

    Raises:
        TypeError: something in it is not a str, int, float, bool, None, list, tuple or a mapping with str
            keys.
        ValueError: a number is not finite.
    """
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def canonical_key(settings: Mapping[str, Any]) -> str:
    """20 hexadecimal digits that name ``settings``: SHA-256 over its canonical JSON.

    All that can change a cell's value belongs in the settings: weights, config, task and scoring version,
    data, length, passes, seed, dtype, backend.
    """
    return hashlib.sha256(canonical_json(settings).encode("ascii")).hexdigest()[:20]


def with_tuples(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as they are after JSON, with lists as the tuples they were."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}


@dataclass(frozen=True)
class Cell:
    """One unit of work: a task on a model with everything that can change the result in ``settings``."""

    task: str
    model: str
    settings: Mapping[str, Any]

    @property
    def key(self) -> str:
        """The name under which the result is stored; see :func:`canonical_key`."""
        return canonical_key({"task": self.task, "model": self.model, "settings": self.settings})


class CellStore:
    """The finished cells of one output folder, in ``cells/<key>.json``.

    A file holds ``{"key", "settings", "rows", "version", "sha256"}``. A file that is cut short or was changed
    is reported once on standard error and treated as missing, so that its cell is measured again. Several
    processes may save the same cell: the file is whole at any time, and the last one stays.
    """

    def __init__(self, out: Path) -> None:
        self.folder = Path(out) / "cells"
        self._warned: set[Path] = set()

    def path(self, key: str) -> Path:
        """Where the cell ``key`` is stored.

        Raises:
            ValueError: ``key`` is not 20 hexadecimal digits.
        """
        if not _KEY.fullmatch(key):
            raise ValueError(f"{key!r} is no cell key")
        return self.folder / f"{key}.json"

    def save(self, key: str, payload: Mapping[str, Any]) -> Path:
        """Store a finished cell: ``settings``, ``rows`` (:class:`Row` objects or their JSON) and ``version``.

        Raises:
            ValueError: the payload names another key, or holds a number that is not finite outside of its
                rows.
            TypeError: it holds something that JSON has no word for, or a row that is none.
            UserError: the file cannot be written.
        """
        content = {**payload, "key": payload.get("key", key)}
        if content["key"] != key:
            raise ValueError(f"the payload of cell {key} names cell {content['key']}")
        rows = (row if isinstance(row, Row) else Row.from_json(row) for row in payload["rows"])
        content["rows"] = [row.to_json() for row in rows]
        content.pop("sha256", None)
        content["sha256"] = _digest(content)
        return write_whole(self.path(key), json.dumps(_plain(content), indent=1, allow_nan=False) + "\n")

    def load(self, key: str) -> dict[str, Any] | None:
        """The payload of a cell (rows as JSON values), or None if it is missing or damaged."""
        path = self.path(key)
        try:
            content = json.loads(path.read_bytes())
            if not isinstance(content, dict) or content.get("key") != key:
                raise ValueError("it is not this cell's")
            stored = content.pop("sha256", None)
            if stored != _digest(content):
                raise ValueError("its checksum does not fit")
            [Row.from_json(row) for row in content["rows"]]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            self._warn(path, error)
            return None
        return content

    def has(self, key: str) -> bool:
        """Whether the cell is there and whole."""
        return self.load(key) is not None

    def load_all(self, keys: Iterable[str] | None = None) -> dict[str, dict[str, Any]]:
        """The payloads of the cells ``keys`` (default: of all, sorted) in that order, less those missing or damaged."""
        if keys is None:
            found = (path.stem for path in self.folder.glob("*.json")) if self.folder.is_dir() else ()
            keys = sorted(key for key in found if _KEY.fullmatch(key))
        return {key: payload for key in keys if (payload := self.load(key)) is not None}

    def keys(self) -> list[str]:
        """The keys of all cells that are there and whole, sorted."""
        return list(self.load_all())

    def rows(self, keys: Iterable[str] | None = None) -> list[Row]:
        """The rows of the cells ``keys`` (default: of all) in that order; missing cells have none."""
        return rows_of(self.load_all(keys).values())

    def _warn(self, path: Path, error: Exception) -> None:
        if path not in self._warned:
            self._warned.add(path)
            reason = "it is not whole" if isinstance(error, json.JSONDecodeError | UnicodeDecodeError) else str(error)
            reason = " ".join(reason.split())
            print(f"warning: {path} is damaged and counts as missing: {reason}", file=sys.stderr, flush=True)


def rows_of(payloads: Iterable[Mapping[str, Any]]) -> list[Row]:
    """The rows of cells that were loaded, in their order."""
    return [Row.from_json(row) for payload in payloads for row in payload["rows"]]


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(content).encode("ascii")).hexdigest()


def _plain(value: Any) -> Any:
    """``value`` with mappings as dicts and tuples as lists; what could be ambiguous is refused."""
    if value is None or isinstance(value, str | int | float):
        # Subclasses such as numpy.float64 or an IntEnum print in ways of their own.
        if type(value) not in (type(None), str, int, float, bool):
            raise TypeError(f"{value!r} ({type(value).__name__}) has no canonical form: convert it first")
        return value
    if isinstance(value, Mapping):
        for key in value:
            if type(key) is not str:
                raise TypeError(f"{key!r} is no key: keys are text, so that 1 and '1' cannot meet")
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    raise TypeError(f"{value!r} ({type(value).__name__}) has no canonical form: convert it first")
