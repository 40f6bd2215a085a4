"""The scripts of the report, and the policy that lets a browser run them and nothing else."""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
from collections.abc import Iterable
from dataclasses import dataclass

import markupsafe


@dataclass(frozen=True)
class Script:
    """A script of ours as it stands between ``<script>`` and ``</script>``."""

    text: markupsafe.Markup

    @property
    def source(self) -> str:
        """How a content security policy names it: by the hash of its very characters."""
        digest = hashlib.sha256(self.text.encode("utf-8")).digest()
        return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def load_script(name: str) -> Script:
    """The script of that file name among the templates."""
    source = importlib.resources.files("fwpkm_eval.reporting").joinpath("templates", name)
    # Ours, and constant: no value of a run is ever put into it.
    return Script(markupsafe.Markup(source.read_text(encoding="utf-8")))


def security_policy(scripts: Iterable[Script]) -> str:
    """Nothing is fetched or sent, and nothing runs but ``scripts``, whatever the results hold."""
    sources = " ".join(script.source for script in scripts) or "'none'"
    return f"default-src 'none'; style-src 'unsafe-inline'; script-src {sources}; base-uri 'none'; form-action 'none'"
