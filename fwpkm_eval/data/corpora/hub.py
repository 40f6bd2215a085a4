"""Documents of a data set of the Hugging Face hub, streamed with `datasets`; local files go the same way.

A data set is read piece by piece: a piece is a row group of a parquet file, or a whole file of JSON lines. A position
is [file, piece of the file, row of the piece, documents before], so a run that goes on reads at most one piece again.
Where documents at the end are held out, those are read first each time: to take them, or to know where to stop.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from fwpkm_eval.data.corpora import WITHOUT_NETWORK
from fwpkm_eval.data.corpora.catalog import Corpus, CorpusSplit
from fwpkm_eval.data.corpora.records import Position, Record, text_record
from fwpkm_eval.errors import UserError, shown

_FORMATS = {".parquet": "parquet", ".jsonl": "json", ".json": "json"}
_COMPRESSED = {".gz", ".zst", ".xz", ".bz2"}
_NO_CONNECTION = ("OfflineModeIsEnabled", "LocalEntryNotFoundError", "ConnectError", "ConnectTimeout", "NameResolution")

Place = tuple[int, int, int]
"""File, piece of the file, row of the piece."""
Row = tuple[Place, dict[str, Any]]


class HubSource:
    """One split of a corpus. `source` is a local copy in place of the hub's: a folder as the hub has it, or a file.

    `revision` fixes the version of the hub's data set; without one, the newest is looked up.
    """

    def __init__(
        self, corpus: Corpus, split: CorpusSplit, name: str, source: str | None = None, revision: str | None = None
    ) -> None:
        self.where = source or corpus.where
        self.revision = revision
        self._corpus, self._split, self._name = corpus, split, name
        with self._said_in_one_line():
            if source is None and revision is None:
                self.revision = newest_revision(corpus.location)
            self._rows = self._open(source)

    def records(self, start: Position | None) -> Iterator[Record]:
        place: Place = (start[0], start[1], start[2]) if start else (0, 0, 0)
        number = start[3] if start else 0
        for fields, after in _with_next(self._documents(place, number), (self._rows.num_shards, 0, 0)):
            number += 1
            yield self._record(fields, number, [*after, number])

    def _documents(self, start: Place, number: int) -> Iterator[Row]:
        """The split's rows from `start` on; `number` of them were read before."""
        with self._said_in_one_line():
            if self._split.last is not None:
                rows = _tail(self._rows, self._split.last)
                kept = rows[: len(rows) - self._split.but_last]
                yield from kept[number:]
                return
            end: Place | None = None
            if self._split.but_last:
                tail = _tail(self._rows, self._split.but_last)
                end = tail[0][0] if tail else None
            rows_on = (row for row in _walk(self._rows, start) if end is None or row[0] < end)
            yield from _articles(rows_on, self._corpus.text_field) if self._corpus.kind == "articles" else rows_on

    def _record(self, fields: dict[str, Any], number: int, after: Position) -> Record:
        where = f"{self.where}: document {number:,}"
        if self._corpus.kind == "questions":
            return _question(fields, where, f"{self._corpus.name}:{number}", after)
        field = self._corpus.text_field
        if field not in fields:
            raise UserError(f"{where} has no field {field!r} (fields: {shown(', '.join(fields) or 'none')})")
        text = fields[field]
        if text is not None and not isinstance(text, str):
            raise UserError(f"{where}: {field!r} must be text, not {type(text).__name__}")
        return text_record(f"{self._name}:{number}", text or "", after)

    def _open(self, source: str | None) -> Any:
        import datasets

        corpus, split = self._corpus, self._split.origin
        builder, files = _files(corpus, source, self.revision)
        if builder is not None:
            return datasets.load_dataset(builder, data_files=files, split="train", streaming=True)
        if source is not None and not Path(source).is_dir():
            raise UserError(f"{source!r} is neither a folder nor a .parquet or .jsonl file")
        described = source is None or (Path(source) / "README.md").is_file()
        return datasets.load_dataset(
            source or corpus.location,
            corpus.config if described else None,
            split=split,
            streaming=True,
            revision=self.revision,
        )

    @contextmanager
    def _said_in_one_line(self) -> Iterator[None]:
        try:
            yield
        except (UserError, GeneratorExit, MemoryError):
            raise
        except ImportError as error:
            raise UserError(
                f"to read {self.where}, the package {error.name or 'datasets'} is needed: pip install 'fwpkm-eval[hub]'"
            ) from error
        except Exception as error:  # datasets passes on what half a dozen libraries raise
            raise UserError(f"{self._corpus.name}: {_reason(error, self.where)}") from error


def newest_revision(location: str, branch: str | None = None) -> str | None:
    """The commit that the hub's data set, or a branch or tag of it, is at."""
    import datasets
    from huggingface_hub import HfApi

    if datasets.config.HF_HUB_OFFLINE:
        raise ConnectionError("HF_HUB_OFFLINE or HF_DATASETS_OFFLINE is set")
    return HfApi().dataset_info(location, revision=branch, timeout=20).sha


def _files(corpus: Corpus, source: str | None, revision: str | None) -> tuple[str | None, str | None]:
    """The builder and the file where a corpus is read from one file, not as the hub describes the data set."""
    if source is not None:
        suffixes = [suffix for suffix in Path(source).suffixes if suffix not in _COMPRESSED]
        if suffixes and suffixes[-1] in _FORMATS and not Path(source).is_dir():
            if "://" not in source and not any(sign in source for sign in "*?[") and not Path(source).is_file():
                raise UserError(f"there is no file {source!r}")
            return _FORMATS[suffixes[-1]], source
    if corpus.files is None:
        return None, None
    if source is not None and not Path(source).is_dir():
        raise UserError(f"{source!r} is neither a folder nor a .jsonl file")
    return "json", corpus.files.format(source=source or f"hf://datasets/{corpus.location}@{revision or 'main'}")


def _pieces(rows: Any, file: int) -> Any:
    """A file's pieces; a file is one piece where `datasets` cannot split it."""
    whole = rows.shard(num_shards=rows.num_shards, index=file)
    return whole.reshard() if hasattr(whole, "reshard") else whole


def _piece(pieces: Any, index: int) -> Any:
    return pieces.shard(num_shards=pieces.num_shards, index=index)


def _walk(rows: Any, start: Place) -> Iterator[Row]:
    for file in range(start[0], rows.num_shards):
        pieces = _pieces(rows, file)
        for index in range(start[1] if file == start[0] else 0, pieces.num_shards):
            skip = start[2] if (file, index) == start[:2] else 0
            for number, fields in enumerate(islice(_piece(pieces, index), skip, None), skip):
                yield (file, index, number), fields


def _tail(rows: Any, count: int) -> list[Row]:
    """The last `count` rows: pieces are read from the end, so the rest is not fetched."""
    kept: deque[Row] = deque()
    for file in reversed(range(rows.num_shards)):
        pieces = _pieces(rows, file)
        for index in reversed(range(pieces.num_shards)):
            piece: deque[Row] = deque(maxlen=count - len(kept))
            piece.extend(((file, index, number), fields) for number, fields in enumerate(_piece(pieces, index)))
            kept.extendleft(reversed(piece))
            if len(kept) == count:
                return list(kept)
    return list(kept)


def _articles(rows: Iterator[Row], field: str) -> Iterator[Row]:
    """WikiText's rows are lines: an article is its heading ("= Title =") and all lines before the next one."""
    first: Place | None = None
    lines: list[str] = []
    for place, fields in rows:
        line = str(fields.get(field) or "")
        if _is_heading(line) and any(line.strip() for line in lines):
            yield first or place, {field: "".join(lines)}
            first, lines = place, []
        if first is None:
            first = place
        lines.append(line)
    if first is not None:
        yield first, {field: "".join(lines)}


def _is_heading(line: str) -> bool:
    words = line.split()
    return len(words) > 2 and words[0] == words[-1] == "=" and words[1] != "=" and words[-2] != "="


def _with_next(rows: Iterator[Row], end: Place) -> Iterator[tuple[dict[str, Any], Place]]:
    """The fields of each row, with the place of the row after it."""
    before: dict[str, Any] | None = None
    for place, fields in rows:
        if before is not None:
            yield before, place
        before = fields
    if before is not None:
        yield before, end


def _question(fields: dict[str, Any], where: str, name: str, after: Position) -> Record:
    context, question, answers = (fields.get(key) for key in ("context", "input", "answers"))
    if not isinstance(context, str) or not isinstance(question, str) or not isinstance(answers, list):
        raise UserError(f"{where} is no question: it needs context, input and answers (it has: {', '.join(fields)})")
    answers = [answer for answer in answers if isinstance(answer, str) and answer.strip()]
    if not context.strip() or not question.strip() or not answers:
        return Record(None, 0, after)
    line = {"id": str(fields.get("_id") or name), "context": context, "input": question, "answers": answers}
    return Record(line, len((context + question).encode("utf-8")), after)


def _reason(error: Exception, where: str) -> str:
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    if any(isinstance(each, ConnectionError) or type(each).__name__.startswith(_NO_CONNECTION) for each in chain):
        offline = " (HF_HUB_OFFLINE or HF_DATASETS_OFFLINE is set)" if "_OFFLINE" in str(error) else ""
        return f"no connection to {where}{offline}; {WITHOUT_NETWORK}"
    lines = str(error).strip().splitlines() or [""]
    return f"cannot read {where}: {type(error).__name__}: {shown(lines[0], 200)[1:-1]}; {WITHOUT_NETWORK}"
