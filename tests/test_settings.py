"""Settings as Python gives them, and what `evaluate` takes for a model and for sets."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import tiny_checkpoint

from fwpkm_eval import evaluate, load_model
from fwpkm_eval.errors import UserError
from fwpkm_eval.settings import read_settings
from fwpkm_eval.tasks.cost import CostSettings
from fwpkm_eval.tasks.niah import NiahSettings
from fwpkm_eval.tasks.perplexity import PerplexitySettings


@pytest.mark.parametrize(
    ("kind", "given", "read"),
    [
        (PerplexitySettings, {"tokens": "8K", "segment": 512.0}, {"tokens": 8192, "segment": 512}),
        (PerplexitySettings, {"tokens": None, "scope": "segment"}, {"tokens": None, "scope": "segment"}),
        (PerplexitySettings, {"seed": "0", "frozen": True}, {"seed": 0, "frozen": True}),
        (NiahSettings, {"lengths": "4K"}, {"lengths": (4096,)}),
        (NiahSettings, {"lengths": "4K, 32K", "passes": "0,1"}, {"lengths": (4096, 32768), "passes": (0, 1)}),
        (NiahSettings, {"lengths": ["1K", 512, np.int64(256)]}, {"lengths": (1024, 512, 256)}),
        (NiahSettings, {"write_chunks": "haystack,1K"}, {"write_chunks": ("haystack", 1024)}),
        (NiahSettings, {"write_chunks": 512, "depths": 0.5}, {"write_chunks": (512,), "depths": (0.5,)}),
        (NiahSettings, {"depths": "0.1,0.9", "passes": range(1, 3)}, {"depths": (0.1, 0.9), "passes": (1, 2)}),
        (NiahSettings, {"protocols": "closed-book", "depths": None}, {"protocols": ("closed-book",), "depths": None}),
        (NiahSettings, {"passes": None}, {}),
        (CostSettings, {"row_tokens": "2K", "steps": 0}, {"row_tokens": 2048, "steps": 0}),
    ],
)
def test_settings_read(kind: type, given: dict[str, Any], read: dict[str, Any]) -> None:
    found = read_settings(given, kind)
    assert found == read
    assert str(found) == str(read)  # 4096 and 4096.0 are equal, but not to a cell's key
    kind(**found)


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        (PerplexitySettings, {"tokens": 100.5}, "tokens is '100.5'; it must be a whole number"),
        (PerplexitySettings, {"tokens": float("nan")}, "tokens is 'nan'; it must be a whole number"),
        (PerplexitySettings, {"segment": float("inf")}, "segment is 'inf'; it must be a whole number"),
        (PerplexitySettings, {"tokens": True}, "tokens is 'True'; it must be a whole number"),
        (PerplexitySettings, {"tokens": "8Q"}, "'8Q' is not a size"),
        (PerplexitySettings, {"tokens": [1024]}, "tokens is '[1024]'; it must be a whole number"),
        (PerplexitySettings, {"frozen": "no"}, "frozen is 'no'; it must be True or False"),
        (PerplexitySettings, {"token": 5}, "unknown setting 'token', did you mean tokens?"),
        (NiahSettings, {"lengths": (4096, 0.5)}, "lengths is '0.5'; it must be a whole number"),
        (NiahSettings, {"write_chunks": "haystak"}, "neither a size nor 'haystack', did you mean haystack?"),
        (NiahSettings, {"depths": "deep"}, "depths is 'deep'; it must be a number"),
        (NiahSettings, {"depths": [None]}, "depths is 'None'; it must be a number"),
    ],
)
def test_settings_refused(kind: type, given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)) as raised:
        read_settings(given, kind)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lengths": (64 * 2**20 + 1,)}, "a haystack of 67108865 tokens is too long; the longest is 64M"),
        ({"lengths": (512, 8000 * 2**20)}, "a haystack of 8000M tokens is too long"),
        ({"samples": 1_000_001}, "1,000,001 samples are too many; the most is 1,000,000"),
    ],
)
def test_sizes_that_cannot_be_meant(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        NiahSettings(**changes)


def test_the_largest_sizes() -> None:
    assert NiahSettings(lengths=(64 * 2**20,), samples=1_000_000)


def test_evaluate_takes_a_folder_and_one_set(tmp_path: Path) -> None:
    folder = tiny_checkpoint("gdn:fwpkm@1", tmp_path / "model")
    wanted = evaluate(load_model(folder), "ppl", sets=["source"], tokens=256)
    assert len(wanted)
    for model in (folder, str(folder)):
        found = evaluate(model, "ppl", sets="source", tokens="256")
        assert found["value"][found["metric"] == "perplexity"].tolist() == (
            wanted["value"][wanted["metric"] == "perplexity"].tolist()
        )


def test_evaluate_takes_a_models_name() -> None:
    with pytest.raises(UserError, match="unknown memory 'fwpmk', did you mean fwpkm"):
        evaluate("gdn+swa:fwpmk", "ppl", sets="source")
    rows = evaluate("gdn+swa:fwpkm", "ppl", sets="source", tokens="64")
    assert set(rows["model"]) == {"gdn+swa:fwpkm@1,3"}


def test_evaluate_warns_of_sets_that_are_skipped(tmp_path: Path) -> None:
    folder = tiny_checkpoint("gdn", tmp_path / "model")
    for name in ("my set", "-bad"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "test.jsonl").write_text('{"text": "some words"}\n')
    with pytest.warns(UserWarning, match="skipped for its name: '-bad'"):
        rows = evaluate(folder, "ppl", str(tmp_path / "data"))
    assert set(rows["dataset"]) == {"my set"}
