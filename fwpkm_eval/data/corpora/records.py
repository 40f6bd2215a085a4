"""What a source of documents gives to the preparation of a set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

Position = list[int]
"""Where a source goes on: a list of numbers that only the source itself reads, kept in JSON between runs."""


@dataclass(frozen=True)
class Record:
    """One document as a line of the prepared file (None: it was empty), and where the document after it begins.

    `text_bytes` is the size of its text in UTF-8.
    """

    line: dict[str, Any] | None
    text_bytes: int
    after: Position


class Source(Protocol):
    """Documents in a fixed order, from any position on.

    `where` says in words where they are from; `revision` is the version of what is read, where it has one. Reading
    raises UserError, in one line, for whatever is wrong with the source.
    """

    revision: str | None

    @property
    def where(self) -> str: ...

    def records(self, start: Position | None) -> Iterator[Record]: ...


def text_record(name: str, text: str, after: Position) -> Record:
    """A record of a document with a text; one of nothing but white space counts as empty."""
    if not text.strip():
        return Record(None, 0, after)
    return Record({"id": name, "text": text}, len(text.encode("utf-8")), after)
