"""What a preparation has fetched so far: numbered parts, each whole or not there, so that a killed run goes on.

A part is `00000.jsonl.gz` with `00000.json` beside it (its counts, its hash, and where the source goes on), which is
written last: without it there is no such part. `request.json` says what is being fetched; parts of another request
are not gone on with.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fwpkm_eval.data.corpora.records import Position
from fwpkm_eval.errors import UserError
from fwpkm_eval.files import write_whole


@dataclass(frozen=True)
class Part:
    """`documents` and `text_bytes` of this part, empty documents left out of it, and where its source goes on."""

    documents: int
    text_bytes: int
    empty: int
    after: Position
    sha256: str


class Parts:
    """The parts in a folder, in order: those that are whole and belong to the request, checked when opened."""

    def __init__(self, folder: Path, request: dict[str, Any]) -> None:
        self.folder = folder
        self._request = request
        self.parts: list[Part] = list(self._whole()) if self.stored_request() == request else []

    def stored_request(self) -> dict[str, Any] | None:
        """What the folder's parts are of; None if there are none."""
        return read_json(self.folder / "request.json")

    def begin(self) -> None:
        """Make the folder ready for more parts; what is there of another request, or half, goes."""
        if self.stored_request() != self._request:
            self.remove()
            write_whole(self.folder / "request.json", json.dumps(self._request, indent=2) + "\n")
        else:
            for leftover in self.folder.glob(".*.tmp"):
                with contextlib.suppress(OSError):
                    leftover.unlink()

    def add(self, lines: list[dict[str, Any]], text_bytes: int, empty: int, after: Position) -> None:
        """Write one more part."""
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        content = gzip.compress(text.encode("utf-8"), compresslevel=6, mtime=0)
        part = Part(len(lines), text_bytes, empty, after, hashlib.sha256(content).hexdigest())
        name = self._name(len(self.parts))
        write_whole(self.folder / f"{name}.jsonl.gz", content)
        write_whole(self.folder / f"{name}.json", json.dumps(asdict(part)) + "\n")
        self.parts.append(part)

    @property
    def after(self) -> Position | None:
        """Where the source goes on; None if nothing was read."""
        return self.parts[-1].after if self.parts else None

    @property
    def documents(self) -> int:
        return sum(part.documents for part in self.parts)

    @property
    def text_bytes(self) -> int:
        return sum(part.text_bytes for part in self.parts)

    @property
    def empty(self) -> int:
        return sum(part.empty for part in self.parts)

    def join(self, name: str) -> Path:
        """All parts as one file of the folder: gzip files one after the other are one gzip file."""

        def write(path: Path) -> None:
            with path.open("xb") as file:
                for number, part in enumerate(self.parts):
                    content = (self.folder / f"{self._name(number)}.jsonl.gz").read_bytes()
                    if hashlib.sha256(content).hexdigest() != part.sha256:
                        raise UserError(f"{self.folder} was changed while it was read; run the same command again")
                    file.write(content)

        return write_whole(self.folder / name, write)

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _whole(self) -> Iterator[Part]:
        number = 0
        while (facts := read_json(self.folder / f"{self._name(number)}.json")) is not None:
            try:
                part = Part(**facts)
                content = (self.folder / f"{self._name(number)}.jsonl.gz").read_bytes()
            except (OSError, TypeError):
                return
            if hashlib.sha256(content).hexdigest() != part.sha256:
                return
            yield part
            number += 1

    @staticmethod
    def _name(number: int) -> str:
        return f"{number:05d}"


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a file; None if there is no such file or it holds none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
