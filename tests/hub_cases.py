"""Corpora in small, as the hub has them: a folder with a README that describes its splits, or files alone."""

from __future__ import annotations

import gzip
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from fwpkm_eval.data.corpora.catalog import Corpus, CorpusSplit


def go_offline(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """What HF_HUB_OFFLINE=1 does (both libraries read it when they are imported), and a cache of its own."""
    import datasets
    import huggingface_hub.constants

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def corpus(**changes: Any) -> Corpus:
    splits = {
        "test": CorpusSplit("train", "the last 10", last=10, budget=None),
        "valid": CorpusSplit("train", "the 3 before", last=13, but_last=10, budget=None),
        "train": CorpusSplit("train", "all before those", but_last=13, budget=None),
        "all": CorpusSplit("train", "all", budget=None),
    }
    facts: dict[str, Any] = {"name": "books", "title": "Books", "location": "nobody/books", "licence": "CC0"}
    return Corpus(**(facts | {"size": "small", "splits": splits, "published": "nothing"} | changes))


def parquet_folder(folder: Path, rows: list[dict[str, Any]], files: int = 3, config: str | None = None) -> Path:
    """Rows over several files in row groups of 10; with a config, in a subfolder that only the README tells of."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = folder / ("sample/part" if config else "data")
    data.mkdir(parents=True)
    each = -(-len(rows) // files)
    for number in range(files):
        table = pa.Table.from_pylist(rows[number * each : (number + 1) * each])
        pq.write_table(table, data / f"train-{number:05d}.parquet", row_group_size=10)
    if config:
        (folder / "README.md").write_text(
            f"---\nconfigs:\n- config_name: {config}\n  data_files:\n"
            "  - split: train\n    path: sample/part/*\n"
            "- config_name: other\n  data_files:\n  - split: train\n    path: none/*\n---\n"
        )
    return folder


def lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(lines(rows)) if path.suffix == ".gz" else lines(rows))
    return path


def archive(path: Path, sets: dict[str, list[dict[str, Any]]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as zipped:
        for name, rows in sets.items():
            zipped.writestr(f"data/{name}.jsonl", lines(rows))
    return path
