"""Sets in a folder: `<set>/<split>.jsonl` or `<set>/<split>.jsonl.gz`, one JSON object a line with a `text`
field.

An `id` field (a string or a number) is kept; a line without one is called after its line number. Blank lines
are skipped. Everything else that is not as described is refused with the file and the line.
"""

from __future__ import annotations

import gzip
import json
import unicodedata
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from fwpkm_eval.data.types import SPLITS, Document, SetInfo, TextSet, hash_documents
from fwpkm_eval.errors import UserError, did_you_mean, shown, unknown

MAX_LINE_BYTES = 64 * 2**20
MAX_SPLIT_BYTES = 4 * 2**30
SUFFIXES = (".jsonl", ".jsonl.gz")

_IN_NAMES = " ._+-"
"""What names may hold beside letters and digits of any script, but not at their start."""


def is_name(text: str) -> bool:
    """Whether a set or split can be called so.

    A name is one path component without a leading dot, so that no path leaves the folder; without a comma, which
    separates names; without a leading hyphen, which makes an option.
    """
    if not text or text != text.strip() or text[0] in _IN_NAMES.replace("_", ""):
        return False
    return all(letter in _IN_NAMES or unicodedata.category(letter)[0] in "LMN" for letter in text)


def available_sets(data: str) -> list[SetInfo]:
    """The sets of a folder by name, each with its splits (train, valid, test, then others). Reads no text."""
    infos, skipped = _sets_and_skipped(data)
    if not infos:
        why = f"; {_why_skipped(skipped)}" if skipped else ""
        raise UserError(
            f"data folder {data!r} holds no sets: it needs <set>/<split>.jsonl or <set>/<split>.jsonl.gz{why}"
        )
    return infos


def skipped_note(data: str) -> str | None:
    """One line on the folders that hold splits and are no sets for their names; None if every one is a set.

    Hidden folders (.name) are passed over without a word. None, too, where `available_sets` raises an error.
    """
    try:
        infos, skipped = _sets_and_skipped(data)
    except UserError:
        return None
    return f"note: data folder {data!r}: {_why_skipped(skipped)}" if infos and skipped else None


def _sets_and_skipped(data: str) -> tuple[list[SetInfo], list[str]]:
    infos, skipped = [], []
    try:
        for directory in sorted(_root(data).iterdir(), key=lambda path: path.name):
            if not directory.name.startswith(".") and directory.is_dir() and (splits := _splits(directory)):
                if is_name(directory.name):
                    infos.append(SetInfo(directory.name, splits, "path", None, f"files in {directory}"))
                else:
                    skipped.append(directory.name)
    except OSError as error:
        raise UserError(f"cannot read data folder {data!r}: {error.strerror or error}") from error
    return infos, skipped


def _why_skipped(names: list[str]) -> str:
    named = ", ".join(map(shown, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return (
        f"skipped for {'its name' if len(names) == 1 else 'their names'}: {named} "
        "(a name has letters, digits, spaces, and . _ + - after its first character)"
    )


def load_set(data: str, name: str, split: str) -> TextSet:
    """Read one split whole. Raises UserError, with file and line, for anything not as described above."""
    path = split_file(data, name, split)
    documents = tuple(read_documents(path, split, MAX_SPLIT_BYTES))
    if not documents:
        raise UserError(f"{path} holds no documents")
    return TextSet(name, split, documents, "path", None, f"file {path}", hash_documents(documents))


def documents_of(data: str, name: str, split: str) -> Iterator[Document]:
    """The documents of one split, one at a time, however many there are. Raises UserError as `load_set` does."""
    path = split_file(data, name, split)
    found = False
    for document in read_documents(path, split):
        found = True
        yield document
    if not found:
        raise UserError(f"{path} holds no documents")


def split_file(data: str, name: str, split: str) -> Path:
    """The file of one split. Raises UserError for a set or a split that there is not."""
    infos = {info.name: info for info in available_sets(data)}
    if name not in infos:
        raise unknown("set", name, infos)
    if split not in infos[name].splits:
        raise unknown(f"{name} split", split, infos[name].splits)
    path = _split_file(Path(data) / name, split)
    _check_inside(path, Path(data))
    return path


def default_haystack(data: str) -> str:
    """`lambada` if the folder has it with a test split, else the set whose test file is the largest."""
    candidates = [info.name for info in available_sets(data) if "test" in info.splits]
    if not candidates:
        raise UserError(f"no set in {data!r} has a test split (a file <set>/test.jsonl or <set>/test.jsonl.gz)")
    if "lambada" in candidates:
        return "lambada"
    return max(candidates, key=lambda name: _split_file(Path(data) / name, "test").stat().st_size)


def _root(data: str) -> Path:
    root = Path(data)
    if not data or not root.exists():
        hint = did_you_mean(data, ["embedded", "hub"])
        raise UserError(
            f"data folder {data!r} does not exist{hint} (give 'embedded', 'hub', or a folder of <set>/<split>.jsonl)"
        )
    if not root.is_dir():
        raise UserError(f"data {data!r} is a file; give the folder that holds <set>/<split>.jsonl")
    return root


def _splits(directory: Path) -> tuple[str, ...]:
    found = set()
    for path in directory.iterdir():
        for suffix in SUFFIXES:
            stem = path.name.removesuffix(suffix)
            if path.name.endswith(suffix) and is_name(stem) and path.is_file():
                found.add(stem)
    return tuple(s for s in SPLITS if s in found) + tuple(sorted(found - set(SPLITS)))


def _split_file(directory: Path, split: str) -> Path:
    files = [path for suffix in SUFFIXES if (path := directory / f"{split}{suffix}").is_file()]
    if len(files) != 1:
        raise UserError(f"{directory} has both {files[0].name} and {files[1].name}; keep the one that is meant")
    return files[0]


def _check_inside(path: Path, root: Path) -> None:
    """Refuses a file that a link takes from somewhere else: a folder of data from others must not name our files."""
    if not path.resolve().is_relative_to(root.resolve()):
        raise UserError(f"{path} is a link out of the data folder, to {path.resolve()}; put the file itself there")


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as raw:
            if path.name.endswith(".gz"):
                with gzip.GzipFile(fileobj=raw) as unzipped:
                    yield cast(BinaryIO, unzipped)
            else:
                yield raw
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path} is not a whole gzip file: {error}") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def read_documents(path: Path, split: str, most_bytes: int | None = None) -> Iterator[Document]:
    """Documents of a file; of no more than `most_bytes`, where they all go into memory."""
    seen: set[str] = set()
    total = 0
    with _opened(path) as lines:
        number = 0
        # Lines are read with a limit, so that a file without line ends (or a gzip bomb) cannot fill the
        # memory.
        while line := lines.readline(MAX_LINE_BYTES + 1):
            number += 1
            total += len(line)
            if len(line) > MAX_LINE_BYTES:
                raise UserError(
                    f"{path}:{number}: the line is longer than {MAX_LINE_BYTES >> 20} MiB; split the document"
                )
            if most_bytes is not None and total > most_bytes:
                raise UserError(f"{path} holds more than {most_bytes >> 30} GiB; split it into several sets")
            if not line.strip():
                continue
            document = _parse(line, f"{path}:{number}", f"{split}:{number}")
            if document.id in seen:
                raise UserError(f"{path}:{number}: id {document.id!r} was already used; ids must be unique in a file")
            seen.add(document.id)
            yield document


def _parse(line: bytes, where: str, default_id: str) -> Document:
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 (byte {error.start} of the line); save the file as UTF-8") from error
    except (ValueError, RecursionError) as error:
        detail = (
            f": {error.msg.removesuffix(' at')} at column {error.colno}"
            if isinstance(error, json.JSONDecodeError)
            else ""
        )
        raise UserError(f"{where}: not a JSON object{detail}") from error
    if not isinstance(record, dict):
        raise UserError(
            f'{where}: not a JSON object but a {type(record).__name__}; a line must look like {{"text": …}}'
        )
    if "text" not in record:
        fields = ", ".join(list(record)[:8]) or "none"
        raise UserError(f"{where}: no 'text' field (fields: {shown(fields)})")
    text = record["text"]
    if not isinstance(text, str):
        raise UserError(f"{where}: 'text' must be a string, not {type(text).__name__}")
    if not text.strip():
        raise UserError(f"{where}: 'text' is empty; leave the line out")
    name = record.get("id")
    if name is None:
        name = default_id
    if isinstance(name, bool) or not isinstance(name, (str, int)):
        raise UserError(f"{where}: 'id' must be a string or a whole number, not {type(name).__name__}")
    document = Document(str(name), text)
    check_unicode((document.id, text), where)
    return document


def check_unicode(fields: Iterable[str], where: str) -> None:
    """Raises UserError for a text with half of a surrogate pair, which JSON can hold and UTF-8 cannot."""
    for field in fields:
        try:
            field.encode("utf-8")
        except UnicodeEncodeError:
            raise UserError(
                f"{where}: holds half of a surrogate pair (\\ud800…\\udfff), which is no character"
            ) from None
