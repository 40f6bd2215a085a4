"""Tokenised text on a disk: shards of uint16 ids with an index, made once for a text and a tokenizer.

A folder of the cache is called after the hash of the text, the tokenizer's fingerprint and the format:

    index.json         what it holds: hashes, sizes, where it was from
    tokens-00000.bin   ids, uint16, little endian; whole documents, each with an end token after it
    ends-00000.bin     where each document's end token is in its shard, int64, little endian

It appears whole or not at all. A file that is shorter than the index says, or other than it was, is refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from fwpkm_eval.data.token_text import TokenText, token_text
from fwpkm_eval.data.tokenizers import Tokenizer
from fwpkm_eval.data.types import Document, DocumentHash, TextSet
from fwpkm_eval.errors import UserError
from fwpkm_eval.files import write_whole

FORMAT = 1
SHARD_TOKENS = 2**26
"""A shard is closed once it holds as many: 128 MiB. A longer document makes a longer shard."""
CACHE = "FWPKM_EVAL_CACHE"
_INDEX = "index.json"

Report = Callable[[str], None]


def cache_folder() -> Path:
    """Where tokenised text is kept: the environment's FWPKM_EVAL_CACHE, else ~/.cache/fwpkm_eval.

    Raises UserError where neither is known.
    """
    named = os.environ.get(CACHE)
    try:
        return Path(named).expanduser() if named else Path.home() / ".cache" / "fwpkm_eval"
    except RuntimeError as error:  # no home folder
        raise UserError(f"no folder for tokenised text: {error}; set {CACHE}") from error


def tokens_of_split(data: str, name: str, split: str, tokenizer: Tokenizer, report: Report | None = None) -> TokenText:
    """A split as tokens. Through the cache where the tokenizer has a fingerprint: then a text is never whole in memory,
    and is read again only if its file has changed.

    Raises UserError for text that is missing or malformed, a damaged cache, and a disk that cannot be written.
    """
    from fwpkm_eval.data import documents_of, load_set, split_file

    if tokenizer.fingerprint is None:
        return token_text(load_set(data, name, split), tokenizer)
    file = split_file(data, name, split)
    if file is None:
        return tokens_of_set(load_set(data, name, split), tokenizer, report)
    stamp = _Stamp(file)
    known = stamp.text_hash()
    if known is not None and (folder := _folder(known, tokenizer)).is_dir():
        return open_shards(folder)
    folder, text_hash = _make(documents_of(data, name, split), f"{name}/{split}", tokenizer, report)
    stamp.write(text_hash)
    return open_shards(folder)


def tokens_of_set(text_set: TextSet, tokenizer: Tokenizer, report: Report | None = None) -> TokenText:
    """A set that is in memory as tokens, through the cache where the tokenizer has a fingerprint."""
    if tokenizer.fingerprint is None:
        return token_text(text_set, tokenizer)
    folder = _folder(text_set.sha256, tokenizer)
    if not folder.is_dir():
        _make(text_set.documents, f"{text_set.name}/{text_set.split}", tokenizer, report)
    return open_shards(folder)


def open_shards(folder: Path) -> TokenText:
    """A cached text; ids stay on the disk until they are read.

    Raises UserError for a file that is missing, cut short or other than it was: the folder can be deleted.
    """
    parts, ends = [], []
    try:
        index = json.loads((folder / _INDEX).read_bytes())
        data_hash = str(index["text_sha256"])[:16]
        for shard in index["shards"]:
            mapped = {}
            for kind, dtype in (("tokens", "<u2"), ("ends", "<i8")):
                path = folder / shard[kind]["file"]
                wanted = shard[kind]["count"] * np.dtype(dtype).itemsize
                size = path.stat().st_size
                if size != wanted:
                    raise _damaged(folder, f"{path.name} has {size:,} bytes, not {wanted:,}")
                mapped[kind] = np.memmap(path, dtype=dtype, mode="r") if size else np.empty(0, dtype=dtype)
                if hashlib.sha256(mapped[kind].data).hexdigest() != shard[kind]["sha256"]:
                    raise _damaged(folder, f"{path.name} is not what it was")
            parts.append(mapped["tokens"])
            ends.append(np.asarray(mapped["ends"], dtype=np.int64))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(folder, str(error)) from error
    return TokenText(tuple(parts), tuple(ends), data_hash)


def _damaged(folder: Path, why: str) -> UserError:
    return UserError(f"tokenised text is damaged: {why}; delete {folder}, and it is made anew")


def _folder(text_hash: str, tokenizer: Tokenizer) -> Path:
    key = hashlib.sha256(f"{FORMAT} {tokenizer.name} {tokenizer.fingerprint} {text_hash}".encode()).hexdigest()
    return cache_folder() / "tokens" / key[:32]


def _make(documents: Iterable[Document], title: str, tokenizer: Tokenizer, report: Report | None) -> tuple[Path, str]:
    """Tokenises documents one at a time. Returns the finished folder and the hash of the text."""
    root = cache_folder() / "tokens"
    making = root / f".{os.getpid()}-{secrets.token_hex(4)}"
    try:
        _sweep(root)
        making.mkdir(parents=True)
        text_hash = DocumentHash()
        shards = _write_shards(_progress(documents, title, text_hash, report), making, tokenizer)
        text_sha256 = text_hash.hexdigest()
        index = {
            "format": FORMAT,
            "text": title,
            "text_sha256": text_sha256,
            "tokenizer": tokenizer.name,
            "tokenizer_sha256": tokenizer.fingerprint,
            "shards": shards,
        }
        write_whole(making / _INDEX, json.dumps(index, indent=2))
        folder = _folder(text_sha256, tokenizer)
        try:
            making.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process has made the same meanwhile
                raise
        return folder, text_sha256
    except OSError as error:
        raise UserError(f"cannot write tokenised text in {root}: {error.strerror or error} (or set {CACHE})") from error
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _sweep(root: Path) -> None:
    """Removes what killed processes left half made, a day later."""
    for left in root.glob(".*"):
        with contextlib.suppress(OSError):  # another process has finished it meanwhile, and named it
            if left.is_dir() and time.time() - left.stat().st_mtime > 86_400:
                shutil.rmtree(left, ignore_errors=True)


def _progress(
    documents: Iterable[Document], title: str, text_hash: DocumentHash, report: Report | None
) -> Iterator[Document]:
    began = told = time.monotonic()
    count = size = 0
    for document in documents:
        text_hash.update(document)
        yield document
        count, size = count + 1, size + len(document.text)
        if report is not None and (now := time.monotonic()) - told > 5:
            report(f"tokenising {title}: {count:,} documents, {size / 1e6 / (now - began):.1f} M characters/s")
            told = now


def _write_shards(documents: Iterable[Document], folder: Path, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    shards: list[dict[str, Any]] = []
    waiting = iter(documents)
    while True:
        number = len(shards)
        with _Counted(folder / f"tokens-{number:05}.bin") as tokens, _Counted(folder / f"ends-{number:05}.bin") as ends:
            for document in waiting:
                ids = np.append(tokenizer.encode(document.text), tokenizer.eos)
                tokens.write(ids.astype("<u2"))
                ends.write(np.array([tokens.count - 1], dtype="<i8"))
                if tokens.count >= SHARD_TOKENS:
                    break
            else:
                if ends.count or not shards:
                    shards.append({"tokens": tokens.about(), "ends": ends.about()})
                return shards
        shards.append({"tokens": tokens.about(), "ends": ends.about()})


class _Counted:
    """A file of numbers that knows how many it holds, and their hash."""

    def __init__(self, path: Path) -> None:
        self.path, self.count, self._digest = path, 0, hashlib.sha256()

    def __enter__(self) -> _Counted:
        self._file: BinaryIO = self.path.open("wb")
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def write(self, numbers: np.ndarray[Any, Any]) -> None:
        data = numbers.tobytes()
        self._file.write(data)
        self._digest.update(data)
        self.count += len(numbers)

    def about(self) -> dict[str, Any]:
        return {"file": self.path.name, "count": self.count, "sha256": self._digest.hexdigest()}


class _Stamp:
    """The hash of a file's text, remembered as long as the file's size and time of change stay the same."""

    def __init__(self, file: Path) -> None:
        facts = file.stat()
        path = str(file.resolve())
        self._facts = {"path": path, "size": facts.st_size, "changed_ns": facts.st_mtime_ns}
        name = hashlib.sha256(path.encode()).hexdigest()[:32]
        self._path = cache_folder() / "stamps" / f"{name}.json"

    def text_hash(self) -> str | None:
        try:
            known = json.loads(self._path.read_bytes())
            return str(known["text_sha256"]) if known["file"] == self._facts else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, text_hash: str) -> None:
        write_whole(self._path, json.dumps({"file": self._facts, "text_sha256": text_hash}))
