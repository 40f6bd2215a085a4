"""Text that takes seconds to make, kept in the cache between runs and given to each of their workers.

A file is named after all that decides its text, and holds the text's hash: one that is damaged counts as missing, and
a cache that cannot be written is done without.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType

from fwpkm_eval.data.types import Document, hash_documents
from fwpkm_eval.errors import UserError
from fwpkm_eval.files import write_whole

FORMAT = 1
_NOT_THE_LIBRARY = {"site-packages", "dist-packages", "__pycache__"}
_MODULES = (".py", ".so", ".pyd")


def kept_documents(
    name: str, decided_by: Iterable[str], make: Callable[[], tuple[Document, ...]]
) -> tuple[Document, ...]:
    """What ``make`` returns, or what it returned when it was last called for the same name and ``decided_by``."""
    from fwpkm_eval.data.shards import cache_folder

    key = hashlib.sha256(json.dumps([FORMAT, name, *decided_by]).encode()).hexdigest()[:32]
    try:
        path = cache_folder() / "embedded" / f"{name}-{key}.json"
    except UserError:  # a user without a home
        return make()
    documents = _read(path)
    if documents is None:
        documents = make()
        content = {"sha256": hash_documents(documents), "documents": [[each.id, each.text] for each in documents]}
        with contextlib.suppress(UserError):
            write_whole(path, json.dumps(content))
    return documents


def _read(path: Path) -> tuple[Document, ...] | None:
    try:
        content = json.loads(path.read_bytes())
        documents = tuple(Document(str(name), str(text)) for name, text in content["documents"])
        return documents if hash_documents(documents) == content["sha256"] else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def facts_of_python(library: Path) -> Iterator[str]:
    """The Python that runs this: its build, its executable, and each module's file of its library."""
    yield f"{sys.implementation.cache_tag} {sys.version} {sys.platform}"
    yield _file_facts(Path(sys.executable))
    for folder, subfolders, files in os.walk(library):
        subfolders[:] = sorted(set(subfolders) - _NOT_THE_LIBRARY)
        yield from (_file_facts(Path(folder, file)) for file in sorted(files) if file.endswith(_MODULES))


def facts_of_code(*modules: ModuleType) -> Iterator[str]:
    """The hashes of modules' own code. Raises OSError where it is not a file."""
    for module in modules:
        yield hashlib.sha256(Path(module.__file__ or "").read_bytes()).hexdigest()


def _file_facts(path: Path) -> str:
    try:
        facts = path.stat()
    except OSError:
        return f"{path} -"
    return f"{path} {facts.st_size} {facts.st_mtime_ns}"
