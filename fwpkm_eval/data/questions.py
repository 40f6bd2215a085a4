"""Questions about long texts, as LongBench has them: JSON lines with ``context``, ``input`` and ``answers``.

A folder holds ``<set>.jsonl[.gz]`` or ``<set>/test.jsonl[.gz]``; other fields of a line are left aside, but for an
``_id`` or ``id``.
"""

from __future__ import annotations

import gzip
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fwpkm_eval.data.folder import check_unicode
from fwpkm_eval.data.types import Document, TextSet, hash_documents
from fwpkm_eval.errors import UserError, unknown

PUBLISHED = ("2wikimqa", "hotpotqa", "multifieldqa_en", "musique", "narrativeqa")
"""The sets of the published answer perplexities."""

_ENDS = (".jsonl", ".jsonl.gz")
_FILES = ("{}.jsonl", "{}.jsonl.gz", "{}/test.jsonl", "{}/test.jsonl.gz")


@dataclass(frozen=True)
class Question:
    """A question about a text, and the answers that are right."""

    context: str
    question: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class QuestionSet(TextSet):
    """A text set whose documents are the questions, as JSON: its hash covers contexts, questions and answers."""

    questions: tuple[Question, ...] = ()


def question_sets(data: str) -> list[str]:
    """The sets of questions in a folder, the published ones first. Raises UserError if there are none."""
    folder = _folder(data)
    names = {path.name.removesuffix(end) for end in _ENDS for path in folder.glob(f"*{end}") if path.is_file()}
    names |= {path.parent.name for end in _ENDS for path in folder.glob(f"*/test{end}") if path.is_file()}
    found = [name for name in PUBLISHED if name in names] + sorted(names - set(PUBLISHED))
    if not found:
        raise UserError(f"no questions in {data!r}: it needs <set>.jsonl with context, input and answers in each line")
    return found


def load_questions(data: str, name: str) -> QuestionSet:
    """One set, read whole. Raises UserError, with file and line, for anything that is not as described above."""
    folder = _folder(data)
    if name not in (names := question_sets(data)):
        raise unknown("set of questions", name, names)
    path = next(path for pattern in _FILES if (path := folder / pattern.format(name)).is_file())
    questions, documents = [], []
    for number, line in enumerate(_lines(path), 1):
        if line.strip():
            question, identity = _parse(line, f"{path}:{number}")
            questions.append(question)
            content = json.dumps([question.context, question.question, question.answers])
            documents.append(Document(identity or f"{name}:{number}", content))
    if not questions:
        raise UserError(f"{path} holds no questions")
    return QuestionSet(
        name, "test", tuple(documents), "path", None, f"file {path}", hash_documents(documents), tuple(questions)
    )


def _folder(data: str) -> Path:
    from fwpkm_eval.data.corpora import how_to_prepare, hub_folder

    if data == "hub":
        folder = hub_folder()
        if not any((folder / f"{name}.jsonl.gz").is_file() for name in PUBLISHED):
            raise UserError(f"no LongBench questions are prepared in {folder}: {how_to_prepare(PUBLISHED[0])}")
        return folder
    folder = Path(data)
    if data == "embedded" or not folder.is_dir():
        where = "a folder is needed" if data == "embedded" else f"there is no folder {data!r}"
        raise UserError(
            f"no LongBench questions: {where}; give --data DIR with {PUBLISHED[0]}.jsonl and others of "
            f"THUDM/LongBench (context, input and answers in each line), or --data hub: {how_to_prepare(PUBLISHED[0])}"
        )
    return folder


def _lines(path: Path) -> list[str]:
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        return content.decode("utf-8").split("\n")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except (EOFError, zlib.error) as error:
        raise UserError(f"{path} is not a whole gzip file: {error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start})") from error


def _parse(line: str, where: str) -> tuple[Question, str]:
    """The question of a line, and what it calls itself."""
    try:
        entry: Any = json.loads(line)
    except (ValueError, RecursionError):
        raise UserError(f"{where}: not JSON") from None
    if not isinstance(entry, dict):
        raise UserError(f"{where}: not a JSON object")
    for field in ("context", "input"):
        if not isinstance(entry.get(field), str) or not entry[field].strip():
            raise UserError(f"{where}: {field!r} is missing, empty or no text")
    answers = entry.get("answers")
    if not isinstance(answers, list) or not answers or not all(isinstance(a, str) and a.strip() for a in answers):
        raise UserError(f"{where}: 'answers' is not a list of texts with at least one in it")
    identity = str(entry.get("_id", entry.get("id", "")))
    check_unicode((entry["context"], entry["input"], *answers, identity), where)
    return Question(entry["context"], entry["input"], tuple(answers)), identity
