"""What a set of texts is: documents, a split of a set, and the line `data list` prints about a set."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Document:
    """One document; `id` is unique within its split."""

    id: str
    text: str


@dataclass(frozen=True)
class TextSet:
    """One split of one set, held in memory.

    `source` is "embedded" or "path"; `stands_in_for` names the published corpus an embedded set replaces
    (None for a user's own data); `origin` says in words where the text is from; `sha256` is `hash_documents`
    of the documents.
    """

    name: str
    split: str
    documents: tuple[Document, ...]
    source: str
    stands_in_for: str | None
    origin: str
    sha256: str

    @property
    def text_bytes(self) -> int:
        """Size of all texts in UTF-8."""
        return sum(len(document.text.encode("utf-8")) for document in self.documents)


@dataclass(frozen=True)
class SetInfo:
    """A set that can be loaded, known without reading its texts."""

    name: str
    splits: tuple[str, ...]
    source: str
    stands_in_for: str | None
    origin: str


class DocumentHash:
    """SHA-256 over ids and texts in order, each after its length (no two lists agree), a document at a time."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def update(self, document: Document) -> None:
        for part in (document.id, document.text):
            data = part.encode("utf-8")
            self._digest.update(len(data).to_bytes(8, "little"))
            self._digest.update(data)

    def hexdigest(self) -> str:
        """64 hex digits."""
        return self._digest.hexdigest()


def hash_documents(documents: Iterable[Document]) -> str:
    """The `DocumentHash` of documents, 64 hex digits."""
    digest = DocumentHash()
    for document in documents:
        digest.update(document)
    return digest.hexdigest()
