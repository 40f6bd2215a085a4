"""Manual pages of the modules that are written in C, as `pydoc` prints them: signatures and one-line
descriptions.

The pages are printed by a fresh interpreter (isolated, without site), so that they do not depend on what this
process has imported or on its environment, and importing the modules has no effect here. What depends on the
machine is left out: paths, values of constants, addresses, lists of subclasses. So is what pydoc repeats from
class to class, which would be too easy to predict: inherited members, and every paragraph that stood in an
earlier place.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys

from fwpkm_eval.data.types import Document
from fwpkm_eval.errors import UserError

# One document for each group. Modules around other libraries (curses, sqlite, OpenSSL) are left out, as their
# pages change with the library; a module that this Python lacks is skipped.
GROUPS: dict[str, str] = {
    "builtins": "builtins",
    "numbers": "_decimal math cmath _random _statistics array _struct binascii zlib audioop",
    "system": "sys posix nt time _signal _socket select fcntl mmap resource pwd grp",
    "input-output": "_io _csv _json _pickle marshal _codecs _multibytecodec _bz2 _lzma",
    "objects-and-text": "_datetime itertools _functools _collections _operator _heapq _bisect _abc gc"
    " unicodedata _sre _string _elementtree pyexpat _locale _tokenize _symtable _ctypes",
    "threads-and-hashes": "_thread _queue _asyncio _contextvars _weakref _lsprof _tracemalloc _warnings"
    " _blake2 _sha3 _md5 _sha1 _sha2 _sha256 _sha512 atexit faulthandler _imp",
}
_OMITTED_SECTIONS = {"FILE", "DATA", "MODULE REFERENCE", "VERSION"}
_SECTION = re.compile(r"[A-Z][A-Z ]*")
_MEMBERS = re.compile(r"[A-Z][A-Za-z ]* (defined here|inherited from \S+):")
_MARGIN = re.compile(r"^( *) \|(  )?")
_ADDRESS = re.compile(r" at 0x[0-9A-Fa-f]+")
_SUBCLASSES = "Built-in subclasses:"
_TIMEOUT_SECONDS = 120

_PRINT_PAGES = """
import importlib, json, pydoc, sys, warnings
warnings.simplefilter("ignore")
pages = {}
for name in json.loads(sys.argv[1]):
    try:
        module = importlib.import_module(name)
    except ImportError:
        continue
    if not (getattr(module, "__file__", None) or "").endswith((".py", ".pyc")):
        pages[name] = pydoc.plaintext.document(module)
sys.stdout.buffer.write(json.dumps(pages).encode("ascii"))
"""


def manual_documents() -> tuple[Document, ...]:
    """One document for each group of modules. Raises UserError if the interpreter cannot be run again."""
    pages = _pages([name for names in GROUPS.values() for name in names.split()])
    seen: set[str] = set()
    documents = []
    for group, names in GROUPS.items():
        kept = []
        for name in names.split():
            for paragraph in paragraphs(pages.get(name, "")):
                key = " ".join(paragraph.split())
                if key not in seen:
                    seen.add(key)
                    kept.append(paragraph)
        if kept:
            documents.append(Document(group, "\n\n".join(kept) + "\n"))
    return tuple(documents)


def _pages(names: list[str]) -> dict[str, str]:
    """Module name → page as pydoc prints it, of those modules that exist and are written in C."""
    if not sys.executable:
        raise UserError("the set 'manual' cannot be made: this process does not know its Python interpreter")
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _PRINT_PAGES, json.dumps(names)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
            timeout=_TIMEOUT_SECONDS,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise UserError(
            f"the set 'manual' cannot be made: {sys.executable} does not print its manual: {error}"
        ) from error
    pages: dict[str, str] = json.loads(done.stdout)
    return pages


def paragraphs(page: str) -> list[str]:
    """The paragraphs of a page, without what depends on the machine and without pydoc's margin bars."""
    found: list[str] = []
    current: list[str] = []
    omitted = inherited = subclasses = False
    for raw in page.splitlines():
        margin = _MARGIN.match(raw)
        line = raw if margin is None else f"{margin[1]}    {raw[margin.end() :]}"
        words = line.strip()
        if not words:
            subclasses = False
            if current:
                found.append("\n".join(current))
            current = []
            continue
        if margin is None:
            inherited = False
            if _SECTION.fullmatch(raw):
                omitted = raw in _OMITTED_SECTIONS
        elif heading := _MEMBERS.fullmatch(words):
            inherited = heading[1] != "defined here"
        if words == _SUBCLASSES:
            subclasses = True
        is_rule = len(words) == 70 and set(words) == {"-"}
        if not (omitted or inherited or subclasses or is_rule):
            current.append(_ADDRESS.sub("", line).rstrip())
    return [*found, "\n".join(current)] if current else found
