"""Three sets of real text made from what every Python has, so that everything runs without a network.

    docs    pydoc topics and the docstrings of standard library modules      stands in for Fineweb-Edu
    source  standard library source files, long, full of their own names     stands in for LC64
    manual  pydoc's manual pages of modules written in C; test only          stands in for LAMBADA

Modules and topics are assigned to train, valid or test by name, and the same for `docs` and `source`: a
module held out of one is held out of the other. What a held-out text still shares with a training text
(licence headers, a section that two topics both hold) is cut from the training text; what a manual page
shares with a training text, from the page.

The sets depend on the Python version and, a little, on how Python was built and packaged; their hash says so.
They do not depend on the working directory, the virtual environment, the locale or what is imported.
"""

from __future__ import annotations

import ast
import functools
import inspect
import os
import platform
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

from fwpkm_eval.data.overlap import PassageIndex
from fwpkm_eval.data.types import SPLITS, Document, SetInfo, TextSet, hash_documents
from fwpkm_eval.errors import UserError, unknown

# Long modules (from 40 KB), then short ones that go with them or that have a twin written in C, whose manual
# page says the same. A name stands for a package with all that is in it, too.
TEST_MODULES = (
    "turtle",
    "typing",
    "tarfile",
    "zipfile",
    "_pydecimal",
    "_pyio",
    "datetime",
    "_pydatetime",
    "difflib",
    "subprocess",
    "email._header_value_parser",
    "mailbox",
    "ipaddress",
    "xml.dom.minidom",
    "configparser",
    "imaplib",
    "optparse",
    "statistics",
    "decimal",
    "io",
    "heapq",
    "bisect",
    "fractions",
    "textwrap",
    "sched",
    "string",
    "cmd",
    "queue",
)
VALID_MODULES = ("shutil", "http.client", "csv", "random", "tempfile", "contextlib", "gettext", "calendar")
TEST_TOPICS = (
    "debugger",
    "dynamic-features",
    "execmodel",
    "formatstrings",
    "import",
    "naming",
    "string-methods",
    "strings",
    "try",
    "typesmapping",
    "with",
)
VALID_TOPICS = ("comparisons", "id-classes", "numeric-types", "slicings")

TEST_FILE_BYTES = 40_000
MIN_TOPIC_CHARACTERS = 200
MIN_DOCSTRING_CHARACTERS = 1_500
# A training text that loses more than this part to held-out text is mostly a copy of it, and left out whole.
MAX_CUT = 0.5

_NOT_TEXT = {"encodings", "pydoc_data", "sitecustomize", "usercustomize"}
_TEST_FOLDERS = {"test", "tests", "idle_test", "__pycache__"}


def available_sets() -> list[SetInfo]:
    """The three sets; builds nothing."""
    return [
        SetInfo(name, splits, "embedded", stands_in_for, _origin(what, stands_in_for))
        for name, (splits, stands_in_for, what) in _SETS.items()
    ]


@functools.cache
def load_set(name: str, split: str) -> TextSet:
    """Build one split of one set, in about a second; `manual`, which takes some, is kept in the cache.

    Raises UserError for names that are not known.
    """
    if name not in _SETS:
        raise unknown("set", name, _SETS)
    splits, stands_in_for, what = _SETS[name]
    if split not in splits:
        raise unknown(f"{name} split", split, splits)
    if name == "manual":
        documents = _manual_documents()
    elif split == "train":
        documents = _without_shared(_documents(name, split), _held_out_passages())
    else:
        documents = tuple(_documents(name, split))
    if not documents:
        raise UserError(f"set {name!r}, split {split!r} cannot be made: {_library()} lacks the files it is made from")
    return TextSet(
        name,
        split,
        documents,
        "embedded",
        stands_in_for,
        _origin(what, stands_in_for),
        hash_documents(documents),
    )


_SETS: dict[str, tuple[tuple[str, ...], str, str]] = {
    "docs": (SPLITS, "Fineweb-Edu", "help topics and docstrings of Python {version}'s standard library"),
    "source": (SPLITS, "LC64", "source files of Python {version}'s standard library"),
    "manual": (("test",), "LAMBADA", "manual pages of the modules of Python {version} that are written in C"),
}


def _origin(what: str, stands_in_for: str) -> str:
    return f"{what.format(version=platform.python_version())}, a stand-in for {stands_in_for}"


def module_split(module: str) -> str:
    """Which split a module's texts belong to; a submodule follows its package."""
    parts = module.split(".")
    names = {".".join(parts[: i + 1]) for i in range(len(parts))}
    if names & set(TEST_MODULES):
        return "test"
    return "valid" if names & set(VALID_MODULES) else "train"


def topic_split(topic: str) -> str:
    """Which split a pydoc topic belongs to."""
    if topic in TEST_TOPICS:
        return "test"
    return "valid" if topic in VALID_TOPICS else "train"


def _library() -> Path:
    """The running Python's standard library, also from within a virtual environment."""
    folder = Path(os.path.dirname(os.__file__)) if getattr(os, "__file__", None) else Path(sysconfig.get_path("stdlib"))
    if not folder.is_dir():
        raise UserError(f"the standard library is not a folder here ({folder}); use --data PATH")
    return folder


@functools.cache
def _sources() -> dict[str, str]:
    """Module name → source of every library module worth reading, by name."""
    found: dict[str, str] = {}
    root = _library()
    for folder, subfolders, files in os.walk(root):
        # Only names that can be imported: this leaves out site-packages, lib-dynload and config-3.x folders.
        subfolders[:] = [name for name in subfolders if name.isidentifier() and name not in _TEST_FOLDERS | _NOT_TEXT]
        package = Path(folder).relative_to(root).parts
        for file in files:
            stem = file.removesuffix(".py")
            # _sysconfigdata and its like describe the machine Python was built on.
            if stem == file or stem in _NOT_TEXT or stem.startswith(("_sysconfig", "test_")):
                continue
            name = ".".join(package if stem == "__init__" else (*package, stem))
            text = _read(Path(folder) / file)
            if name and text.strip():
                found[name] = text
    return dict(sorted(found.items()))


def _read(path: Path) -> str:
    """The file's text, or nothing if it is not UTF-8 or cannot be read."""
    try:
        return path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except (UnicodeDecodeError, OSError):
        return ""


def _documents(name: str, split: str) -> Iterator[Document]:
    """The documents of `docs` or `source`, before anything shared is cut."""
    names = [module for module in _sources() if module_split(module) == split]
    if split == "test":  # the order of TEST_MODULES: a small budget then reads the ones listed first
        names.sort(key=_test_rank)
    if name == "source":
        for module in names:
            text = _sources()[module]
            if split != "test" or len(text.encode("utf-8")) >= TEST_FILE_BYTES:
                yield Document(module, text)
        return
    for topic, text in sorted(_topics().items()):
        if topic_split(topic) == split and len(text) >= MIN_TOPIC_CHARACTERS:
            yield Document(f"topic:{topic}", text)
    for module in names:
        text = docstrings(module, _sources()[module])
        if len(text) >= MIN_DOCSTRING_CHARACTERS:
            yield Document(module, text)


def _test_rank(module: str) -> tuple[int, str]:
    for rank, name in enumerate(TEST_MODULES):
        if module == name or module.startswith(f"{name}."):
            return rank, module
    return len(TEST_MODULES), module


def _topics() -> dict[str, str]:
    try:
        from pydoc_data.topics import topics
    except ImportError:  # some distributions leave it out
        return {}
    return {name: text for name, text in topics.items() if isinstance(text, str)}


def docstrings(module: str, source: str) -> str:
    """A module's docstrings in order, each under its full name; "" if the module does not parse."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return ""
    return "\n\n".join(f"{name}\n\n{text}" for name, text in _docstrings(tree, module)) + "\n"


def _docstrings(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    body = getattr(node, "body", [])
    if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and body:
        first = body[0]
        if (
            isinstance(first, ast.Expr)
            and isinstance(first.value, ast.Constant)
            and isinstance(first.value.value, str)
            and first.value.value.strip()
        ):
            yield name, inspect.cleandoc(first.value.value)
    for field in ("body", "orelse", "handlers", "finalbody"):
        for child in getattr(node, field, ()):
            if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                yield from _docstrings(child, f"{name}.{child.name}")
            elif isinstance(child, (ast.If, ast.Try, ast.With, ast.ExceptHandler, ast.For, ast.While)):
                yield from _docstrings(child, name)


def _held_out_passages() -> PassageIndex:
    """What training texts must not hold: the valid and test texts of both sets that have a train split."""
    return PassageIndex(
        document.text
        for name in ("docs", "source")
        for split in ("valid", "test")
        for document in _documents(name, split)
    )


def _without_shared(documents: Iterable[Document], passages: PassageIndex) -> tuple[Document, ...]:
    kept = []
    for document in documents:
        text = passages.without_shared(document.text)
        if len(text) >= (1 - MAX_CUT) * len(document.text):
            kept.append(Document(document.id, text))
    return tuple(kept)


def _manual_documents() -> tuple[Document, ...]:
    """Through the cache: printing the pages and cutting them takes seconds, in every process that reads them."""
    from fwpkm_eval.data import kept_text, manual, overlap, types

    try:
        code = [*kept_text.facts_of_code(sys.modules[__name__], manual, overlap, types)]
    except OSError:
        return _make_manual()
    return kept_text.kept_documents("manual", [*code, *kept_text.facts_of_python(_library())], _make_manual)


def _make_manual() -> tuple[Document, ...]:
    from fwpkm_eval.data.manual import manual_documents

    training = PassageIndex(
        document.text for name in ("docs", "source") for document in load_set(name, "train").documents
    )
    return _without_shared(manual_documents(), training)
