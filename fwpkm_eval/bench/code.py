"""A hash of the code that is measured."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("fwpkm_eval", "fwpkm_eval.kernels", "fwpkm_eval.reference_models", "fwpkm_eval.tasks")
"""Those after the first are links in a checkout, which a search of the first one's folder does not follow."""


def code_hash() -> str:
    """SHA-256 over the names and contents of all modules, wherever each package is."""
    found = hashlib.sha256()
    for package in PACKAGES:
        spec = find_spec(package)
        assert spec is not None
        for folder in map(Path, spec.submodule_search_locations or ()):
            for path in sorted(folder.rglob("*.py")):
                found.update(f"{package}/{path.relative_to(folder).as_posix()}".encode())
                found.update(path.read_bytes())
    return found.hexdigest()
