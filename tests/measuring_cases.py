"""Two tiny untrained models and two small sets, and the command line over them."""

from __future__ import annotations

import json
from pathlib import Path

from tiny_models import tiny_checkpoint

from fwpkm_eval import cli

FWPKM, PLAIN = "gdn+swa:fwpkm@1", "gdn+swa"


def two_checkpoints_and_two_sets(root: Path) -> Path:
    """Checkpoints in root/fwpkm and root/plain, and a data folder, root/data, with two sets; returns root."""
    tiny_checkpoint(FWPKM, root / "fwpkm")
    tiny_checkpoint(PLAIN, root / "plain")
    for name in ("tales", "notes"):
        (root / "data" / name).mkdir(parents=True)
        lines = [
            json.dumps({"id": str(i), "text": f"{name} {i}: " + "It was a dark and stormy night. " * (20 + i)})
            for i in range(3)
        ]
        (root / "data" / name / "test.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return root


def models(folder: Path) -> str:
    return f"{folder / 'fwpkm'},{folder / 'plain'}"


def run(*arguments: str) -> int:
    return cli.main([*arguments, "--quiet"])
