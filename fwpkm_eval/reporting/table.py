"""A table as data, which Markdown and the report print alike."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Cell:
    """One entry; ``strong`` marks the best value of its group."""

    text: str
    strong: bool = False


@dataclass(frozen=True)
class Table:
    """A table with a name that can stand in an address, and a note that says how to read it.

    The first ``labels`` columns say what a row is about, the last ``words`` hold remarks, those between them
    values. Columns whose title starts
    with "published" hold published numbers and nothing else. ``detail`` marks tables that few readers need.

    Raises:
        ValueError: a row has not one entry per column, or a published number is marked as the best.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    labels: int = 1
    words: int = 0
    detail: bool = False

    @property
    def to_the_right(self) -> list[bool]:
        """For each column whether it is set flush right, as numbers are."""
        return [self.labels <= at < len(self.columns) - self.words for at in range(len(self.columns))]

    @property
    def published(self) -> list[bool]:
        """For each column whether it holds published numbers."""
        return [column.startswith("published") for column in self.columns]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"table {self.name}: {len(row)} entries for {len(self.columns)} columns")
            if any(cell.strong for cell, theirs in zip(row, self.published, strict=True) if theirs):
                raise ValueError(f"table {self.name}: a published number is marked as the best")


@dataclass
class Rows:
    """Rows of a table in the making: plain text becomes cells."""

    rows: list[tuple[Cell, ...]] = field(default_factory=list)

    def add(self, *entries: str | Cell) -> None:
        """Append one row."""
        self.rows.append(tuple(entry if isinstance(entry, Cell) else Cell(entry) for entry in entries))

    def done(self) -> tuple[tuple[Cell, ...], ...]:
        """The rows for a :class:`Table`."""
        return tuple(self.rows)


def to_markdown(tables: Iterable[Table], heading: str) -> str:
    """The tables as GitHub Markdown. Names of models and sets are text there, never markup."""
    lines = [f"# {_escaped(heading)}", "", "Made from `rows.csv` by `fwpkm-eval report`: edit nothing here."]
    for table in tables:
        lines += ["", f"## {_escaped(table.title)}", ""]
        if table.note:
            lines += [_escaped(table.note), ""]
        lines.append(_line(map(_escaped, table.columns)))
        lines.append(_line("---:" if right else "---" for right in table.to_the_right))
        for row in table.rows:
            texts = [_escaped(cell.text) for cell in row]
            lines.append(_line(f"**{t}**" if cell.strong else t for t, cell in zip(texts, row, strict=True)))
    return "\n".join(lines) + "\n"


def slug(*parts: str) -> str:
    """A name for addresses and files: the parts in small letters, digits and hyphens."""
    cleaned = (re.sub(r"[^a-z0-9]+", "-", part.lower()).strip("-") for part in parts)
    return "-".join(part for part in cleaned if part)


def _line(texts: Iterable[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _escaped(text: str) -> str:
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|#~])", r"\\\1", text)
