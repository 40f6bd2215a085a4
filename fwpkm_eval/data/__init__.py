"""Texts to train and measure on: made from the running Python ("embedded") or read from a folder of JSON
lines.

`data` is everywhere the value of `--data`: "embedded", the path of a folder of `<set>/<split>.jsonl[.gz]`, or
"hub", the folder where `data prepare --data hub` keeps published corpora (`fwpkm_eval.data.corpora`). Importing
this package loads nothing heavy; the readers are imported when a set is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fwpkm_eval.data.types import SPLITS, Document, SetInfo, TextSet, hash_documents
from fwpkm_eval.errors import UserError

__all__ = [
    "SPLITS",
    "Document",
    "SetInfo",
    "TextSet",
    "available_sets",
    "default_haystack",
    "default_sets",
    "documents_of",
    "hash_documents",
    "load_set",
    "skipped_note",
    "split_file",
]


def load_set(data: str, name: str, split: str) -> TextSet:
    """Load one split of one set. Raises UserError in one line for anything missing or malformed."""
    if data == "embedded":
        from fwpkm_eval.data import embedded

        return embedded.load_set(name, split)
    from fwpkm_eval.data import folder

    return folder.load_set(_folder_path(data, name, split), name, split)


def documents_of(data: str, name: str, split: str) -> Iterator[Document]:
    """The documents of one split of one set, one at a time. Raises UserError as `load_set` does."""
    if data == "embedded":
        return iter(load_set(data, name, split).documents)
    from fwpkm_eval.data import folder

    return folder.documents_of(_folder_path(data, name, split), name, split)


def split_file(data: str, name: str, split: str) -> Path | None:
    """The file that holds a split; None for text that is made here. Raises UserError as `load_set` does."""
    if data == "embedded":
        return None
    from fwpkm_eval.data import folder

    return folder.split_file(_folder_path(data, name, split), name, split)


def available_sets(data: str) -> list[SetInfo]:
    """The sets there are, in the order they are reported, without reading their texts."""
    if data == "embedded":
        from fwpkm_eval.data import embedded

        return embedded.available_sets()
    from fwpkm_eval.data import folder

    return folder.available_sets(_folder_path(data))


def skipped_note(data: str) -> str | None:
    """One line on what in a folder of the user's is no set for its name alone; None if there is nothing to say."""
    if data in ("embedded", "hub"):
        return None
    from fwpkm_eval.data import folder

    return folder.skipped_note(data)


def default_sets(data: str) -> list[str]:
    """Names of the sets with a test split: what perplexity is measured on unless told otherwise."""
    names = [info.name for info in available_sets(data) if "test" in info.splits]
    if not names:
        raise UserError(f"no set in {data!r} has a test split (a file <set>/test.jsonl or <set>/test.jsonl.gz)")
    return names


def default_haystack(data: str) -> str:
    """The set haystacks are cut from: LAMBADA (as published), its stand-in, or the largest test split."""
    if data == "embedded":
        return "manual"
    from fwpkm_eval.data import folder

    return folder.default_haystack(_folder_path(data))


def _folder_path(data: str, name: str | None = None, split: str = "test") -> str:
    """The folder that `data` is; of "hub", the one of prepared sets.

    Raises UserError, with the command that prepares it, if nothing is prepared or that split of a corpus is not.
    """
    if data != "hub":
        return data
    from fwpkm_eval.data.corpora import WITHOUT_NETWORK, how_to_prepare, hub_folder
    from fwpkm_eval.data.corpora.catalog import CORPORA

    folder = hub_folder()
    corpus = CORPORA.get(name) if name else None
    if corpus and split in corpus.splits and corpus.kind != "questions":
        if not any((folder / corpus.name).glob(f"{split}.jsonl*")):
            how = how_to_prepare(corpus.name, split)
            raise UserError(f"{name}/{split} is not prepared in {folder}: {how}; {WITHOUT_NETWORK}")
    elif not any(folder.glob("*/*.jsonl*")):
        raise UserError(f"no set is prepared in {folder}: {how_to_prepare('fineweb_edu')}; {WITHOUT_NETWORK}")
    return str(folder)
