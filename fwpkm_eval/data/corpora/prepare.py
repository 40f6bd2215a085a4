"""From a corpus to a file of a data folder: what will be fetched, then fetched in parts, joined, verified, named.

A set of texts becomes `<set>/<split>.jsonl.gz`, with its facts in `<set>/<split>.json`; a set of questions
`<set>.jsonl.gz`, with `<set>.json`. Nothing half is ever under such a name.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fwpkm_eval import __version__
from fwpkm_eval.data.corpora import how_to_prepare
from fwpkm_eval.data.corpora.catalog import BYTES_PER_TOKEN, Corpus, CorpusSplit, find_corpus, find_split
from fwpkm_eval.data.corpora.longcrawl import Decoder, longcrawl_source
from fwpkm_eval.data.corpora.parts import Parts, read_json
from fwpkm_eval.data.corpora.records import Record, Source
from fwpkm_eval.data.folder import MAX_SPLIT_BYTES, read_documents
from fwpkm_eval.data.types import Document, hash_documents
from fwpkm_eval.errors import UserError
from fwpkm_eval.files import write_whole

PART_BYTES = 8 * 2**20
MAX_TEXT_BYTES = MAX_SPLIT_BYTES * 3 // 4
"""The most text of a split that is read into memory, which all but train are; JSON adds to it."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What is to be prepared, and where. `budget` is in bytes of text (None: all); `source` a copy to read in place
    of the published place."""

    corpus: Corpus
    split: str
    folder: Path
    budget: int | None
    source: str | None = None

    @property
    def origin(self) -> CorpusSplit:
        return self.corpus.splits[self.split]

    @property
    def name(self) -> str:
        return f"{self.corpus.name}/{self.split}"

    @property
    def file(self) -> Path:
        """Where the prepared file will be."""
        if self.corpus.kind == "questions":
            return self.folder / f"{self.corpus.name}.jsonl.gz"
        return self.folder / self.corpus.name / f"{self.split}.jsonl.gz"

    @property
    def facts_file(self) -> Path:
        return self.file.with_name(self.file.name.removesuffix(".jsonl.gz") + ".json")

    @property
    def parts_folder(self) -> Path:
        return self.file.with_name(f".{self.file.name.removesuffix('.jsonl.gz')}.parts")

    @property
    def address(self) -> str:
        """The one file of tokens that is read."""
        if self.source is None:
            return self.corpus.location + self.origin.origin
        local = Path(self.source)
        if not local.is_dir() or (local / ".zarray").is_file():
            return self.source
        # Copies hold arrays (heldout.zarr) or plain files of tokens (heldout.bin).
        names = [self.origin.origin, Path(self.origin.origin).with_suffix(".bin").name]
        return str(local / next((name for name in names if (local / name).exists()), names[0]))

    @property
    def request(self) -> dict[str, Any]:
        """All that decides which documents are fetched, but for the revision."""
        return {
            "set": self.corpus.name,
            "split": self.split,
            "source": self.source or self.corpus.where,
            "which": self.origin.what,
            "budget": self.budget,
        }

    def describe(self) -> str:
        """One line: what will be fetched, how much, its licence, and where it goes."""
        amount = "all of it" if self.budget is None else f"{megabytes(self.budget)} of text"
        return (
            f"{self.name}: {self.origin.what}, {amount}, of {self.source or self.corpus.where} "
            f"({self.corpus.size}; licence: {self.corpus.licence}) to {self.file}"
        )


@dataclass(frozen=True)
class Prepared:
    """A prepared split: the facts in its JSON file, and whether it was already there."""

    plan: Plan
    facts: dict[str, Any] = field(hash=False)
    already: bool = False

    def describe(self) -> str:
        facts = self.facts
        empty = f", {facts['empty_left_out']:,} empty ones left out" if facts["empty_left_out"] else ""
        return (
            f"{self.plan.name}: {facts['documents']:,} documents{empty}, {facts['text_bytes']:,} bytes, "
            f"sha256 {facts['sha256'][:16]}, {'already in' if self.already else 'written to'} {self.plan.file}"
        )


def make_plan(
    name: str,
    split: str,
    folder: Path,
    *,
    tokens: int | None = None,
    text_bytes: int | None = None,
    source: str | None = None,
) -> Plan:
    """The plan of one split of one corpus. Raises UserError for names that are not known and for too large a budget."""
    corpus = find_corpus(name)
    origin = find_split(corpus, split)
    if tokens is not None and text_bytes is not None:
        raise UserError("give --tokens or --bytes, not both")
    budget = tokens * BYTES_PER_TOKEN if tokens is not None else text_bytes or origin.budget
    if budget is not None and budget > MAX_TEXT_BYTES and split != "train":
        raise UserError(
            f"{megabytes(budget)} of text are too much for a split that is read into memory: at most "
            f"{megabytes(MAX_TEXT_BYTES)} ({MAX_TEXT_BYTES // BYTES_PER_TOKEN // 2**20}M tokens)"
        )
    return Plan(corpus, split, folder, budget, source)


def prepare(plan: Plan, say: Say = lambda line: None, decode: Decoder | None = None) -> Prepared:
    """Fetch, verify and name one split; what is already there is verified, never replaced.

    `say` is told of each part; `decode` takes the place of GPT-2's decoder. Raises UserError in one line for what is
    missing or wrong; finished parts are kept, so the same plan goes on after them.
    """
    if plan.file.exists():
        return _already(plan)
    revision = (read_json(plan.parts_folder / "request.json") or {}).get("revision")
    unfinished = Parts(plan.parts_folder, plan.request | {"revision": revision})
    source = _open(plan, revision if unfinished.parts else None, decode, say)
    parts = unfinished if unfinished.parts else Parts(plan.parts_folder, plan.request | {"revision": source.revision})
    try:
        parts.begin()
        _fetch(plan, source, parts, say)
        facts = _finish(plan, source, parts)
    except UserError as error:
        if plan.file.exists():  # another process has finished it meanwhile
            shutil.rmtree(plan.parts_folder, ignore_errors=True)
            return _already(plan)
        kept = f" ({len(parts.parts):,} parts are kept: the same command goes on)" if parts.parts else ""
        raise UserError(f"{error}{kept}") from error
    return Prepared(plan, facts)


def megabytes(count: float) -> str:
    """`41.9 MB`."""
    return f"{count / 1e6:,.1f} MB"


def _open(plan: Plan, revision: str | None, decode: Decoder | None, say: Say) -> Source:
    if plan.corpus.kind == "tokens":
        return longcrawl_source(plan.address, plan.split, revision, decode, say)
    from fwpkm_eval.data.corpora.hub import HubSource

    return HubSource(plan.corpus, plan.origin, plan.split, plan.source, revision)


def _fetch(plan: Plan, source: Source, parts: Parts, say: Say) -> None:
    """Read records into parts until the budget is spent: the document that spends it is the last one."""
    if plan.budget is not None and parts.text_bytes >= plan.budget:
        return
    if parts.parts:
        say(f"{plan.name}: going on after {parts.documents:,} documents, {megabytes(parts.text_bytes)}")
    began, before = time.monotonic(), parts.text_bytes
    batch: list[Record] = []
    size = 0

    def write() -> None:
        nonlocal batch, size
        lines = [record.line for record in batch if record.line is not None]
        parts.add(lines, size, len(batch) - len(lines), batch[-1].after)
        batch, size = [], 0
        rate = (parts.text_bytes - before) / max(time.monotonic() - began, 1e-9)
        say(_progress(plan, parts, rate))

    for record in source.records(parts.after):
        batch.append(record)
        size += record.text_bytes
        spent = plan.budget is not None and parts.text_bytes + size >= plan.budget
        if parts.text_bytes + size > MAX_TEXT_BYTES and plan.split != "train":
            raise UserError(f"{plan.name} is more than {megabytes(MAX_TEXT_BYTES)} of text: give --bytes")
        if size >= PART_BYTES or spent:
            write()
        if spent:
            return
    if batch:
        write()


def _progress(plan: Plan, parts: Parts, rate: float) -> str:
    line = f"{plan.name}: {parts.documents:,} documents, {megabytes(parts.text_bytes)}"
    if plan.budget is not None:
        left = max(plan.budget - parts.text_bytes, 0) / max(rate, 1e-9)
        return f"{line} of {megabytes(plan.budget)}, {megabytes(rate)}/s, {left:,.0f} s left"
    if plan.origin.last is not None:
        of = plan.origin.last - plan.origin.but_last
        return f"{line} ({parts.documents / of:.0%} of {of:,} documents), {megabytes(rate)}/s"
    return f"{line}, {megabytes(rate)}/s"


def _finish(plan: Plan, source: Source, parts: Parts) -> dict[str, Any]:
    if not parts.documents:
        raise UserError(f"{source.where} gave no documents for {plan.name}")
    joined = parts.join(plan.file.name)
    documents, sha256 = _read_back(plan, joined)
    if documents != parts.documents:
        raise UserError(f"{joined} holds {documents:,} documents, not {parts.documents:,}: remove {parts.folder}")
    facts = {
        **plan.request,
        "documents": documents,
        "text_bytes": parts.text_bytes,
        "empty_left_out": parts.empty,
        "sha256": sha256,
        "read_from": source.where,
        "revision": source.revision,
        "licence": plan.corpus.licence,
        "prepared_with": f"fwpkm_eval {__version__}",
    }
    # The facts come first: a file without facts would be nobody's, facts without a file are written again.
    write_whole(plan.facts_file, json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
    try:
        os.replace(joined, plan.file)
    except OSError as error:
        raise UserError(f"cannot write {plan.file}: {error.strerror or error}") from error
    parts.remove()
    return facts


def _read_back(plan: Plan, path: Path) -> tuple[int, str]:
    """Documents and their hash, read as `--data` reads them."""
    if plan.corpus.kind == "questions":
        from fwpkm_eval.data.questions import load_questions

        questions = load_questions(str(path.parent), plan.corpus.name)
        return len(questions.documents), questions.sha256
    count = 0

    def counted() -> Iterator[Document]:
        nonlocal count
        for document in read_documents(path, plan.split):
            count += 1
            yield document

    sha256 = hash_documents(counted())
    return count, sha256


def _already(plan: Plan) -> Prepared:
    facts = read_json(plan.facts_file)
    if facts is None:
        raise UserError(
            f"{plan.file} was not prepared here (there is no {plan.facts_file.name} beside it): move it away"
        )
    changed = [key for key, value in plan.request.items() if facts.get(key) != value]
    if changed:
        raise UserError(
            f"{plan.file} was prepared with another {changed[0]} ({facts.get(changed[0])}, not "
            f"{plan.request[changed[0]]}): remove it, or give another folder as --out"
        )
    documents, sha256 = _read_back(plan, plan.file)
    if (documents, sha256) != (facts.get("documents"), facts.get("sha256")):
        again = how_to_prepare(plan.corpus.name, plan.split)
        raise UserError(f"{plan.file} is not what was prepared: remove it, then: {again}")
    return Prepared(plan, facts, already=True)
