"""The commands that show what there is: ``env``, ``models``, ``data``; and device names."""

from __future__ import annotations

import dataclasses
import gzip
import importlib.metadata
import json
import re
from pathlib import Path

import pytest

from fwpkm_eval import __version__, cli
from fwpkm_eval.commands.text_table import aligned
from fwpkm_eval.devices import DTYPES, resolve_device, resolve_dtype
from fwpkm_eval.errors import UserError
from fwpkm_eval.reference_models.checkpoint import save_checkpoint
from fwpkm_eval.reference_models.config import model_config
from fwpkm_eval.reference_models.language_model import LanguageModel
from fwpkm_eval.training.recipe import RECIPES


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder with one good set."""
    (tmp_path / "data" / "lambada").mkdir(parents=True)
    lines = [json.dumps({"id": f"novel-{i}", "text": f"Chapter {i}. Ünïcode."}) for i in range(3)]
    (tmp_path / "data" / "lambada" / "test.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path / "data"


def test_env_says_what_is_installed_and_what_the_machine_has(capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    assert cli.main(["env", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["fwpkm_eval"] == __version__
    installed = importlib.metadata.version("torch")  # torch.__version__ of builds for CUDA adds which CUDA it is
    assert facts["packages"]["torch"] == installed
    assert 1 <= facts["cpu"]["usable_cores"] <= facts["cpu"]["logical_cores"]
    assert 0 < facts["memory"]["available_bytes"] <= facts["memory"]["total_bytes"]
    assert len(facts["gpus"]) == (torch.cuda.device_count() if torch.cuda.is_available() else 0)


def test_env_shows_the_malloc_settings(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TOP_PAD_", "12345")
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
    assert cli.main(["env"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"MALLOC_TOP_PAD_ +12345", text)
    assert re.search(r"MALLOC_TRIM_THRESHOLD_ +not set", text)


def test_models_lists_every_family_with_its_size(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["models", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert list(facts["backbones"]) == ["gdn", "gdn+swa", "gdn+fa", "fa"]
    assert list(facts["memories"]) == ["pkm", "fwpkm", "fwmlp", "lact"]
    assert "micro" in facts["scales"]
    sizes = {size["model"]: size for size in facts["models"]}
    assert len(sizes) == 24
    assert all(0 < size["active"] <= size["parameters"] for size in sizes.values())
    with_memory = next(size for name, size in sizes.items() if name.startswith("gdn:fwpkm@"))
    assert with_memory["parameters"] > sizes["gdn"]["parameters"]


def test_models_shows_the_ones_asked_for_as_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["models", "gdn", "fa:fwpkm@1"]) == 0
    text = capsys.readouterr().out
    assert "Gated DeltaNet in every layer" in text
    assert re.search(r"^gdn +[\d,]+ +[\d,]+ +[\d,]+$", text, re.MULTILINE)
    assert re.search(r"^fa:fwpkm@1 +[\d,]+ +[\d,]+ +[\d,]+$", text, re.MULTILINE)


def test_models_shows_a_checkpoint_with_what_is_unusual_in_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = model_config("gdn:fwpkm@1", "micro", **{"fwpkm.topk": 16})
    recipe = dataclasses.replace(RECIPES["micro"], seed=3, needle_share=0.1)
    training = {"recipe": recipe.to_dict(), "tokens": 5000, "data": "embedded", "version": "0.9.8"}
    save_checkpoint(LanguageModel(config, seed=0), tmp_path / "mine", training)
    assert cli.main(["models", str(tmp_path / "mine"), "gdn"]) == 0
    table, told = capsys.readouterr().out.split("\n\n")
    assert re.search(rf"^gdn:fwpkm@1 +[\d,]+ +[\d,]+ +[\d,]+ +{tmp_path}/mine$", table, re.MULTILINE)
    assert re.search(r"^gdn +[\d,]+ +[\d,]+ +[\d,]+$", table, re.MULTILINE)
    assert told.startswith(f"{tmp_path}/mine: fwpkm.topk 16 in place of 8, needle_share 0.1 in place of 0.35; trained")
    assert told.endswith("on source, docs (embedded), seed 3, version 0.9.8\n")
    assert cli.main(["models", str(tmp_path / "mine"), "--scale", "paper", "gdn", "--json"]) == 0
    mine, paper = json.loads(capsys.readouterr().out)["models"]
    assert (mine["scale"], paper["scale"]) == ("micro", "paper")
    assert mine["settings"] == {"fwpkm.topk": {"is": 16, "usual": 8}}
    assert (mine["shipped"], mine["training"]["seed"]) == (False, 3)
    assert cli.main(["models", str(tmp_path / "mine"), "--scale", "paper", "gdn"]) == 0
    assert [line[:20] for line in capsys.readouterr().out.splitlines() if line.startswith("model at scale")] == [
        "model at scale micro",
        "model at scale paper",
    ]


def test_data_list_shows_the_embedded_sets_and_what_they_stand_in_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["data", "list", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    tests = {split["set"]: split for split in facts["splits"] if split["split"] == "test"}
    assert {name: split["stands_in_for"] for name, split in tests.items()} == {
        "docs": "Fineweb-Edu",
        "source": "LC64",
        "manual": "LAMBADA",
    }
    for split in facts["splits"]:
        assert split["documents"] > 0
        assert split["bytes"] > 0
        assert re.fullmatch(r"[0-9a-f]{64}", split["sha256"])
    assert {corpus["title"]: corpus["stand_in"] for corpus in facts["missing"]} == {
        "Fineweb-Edu": "docs",
        "LC64": "source",
        "LAMBADA": "manual",
    }


def test_data_list_of_a_folder_says_what_is_missing_and_where_to_get_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["data", "list", "--data", str(folder)]) == 0
    text = capsys.readouterr().out
    assert re.search(r"^lambada +test +3 +", text, re.MULTILINE)
    missing = text.partition("Not here:")[2]
    assert "LC64: from hf://datasets/clankur/longcrawl64" in missing
    assert "Fineweb-Edu: from HuggingFaceFW/fineweb-edu" in missing
    assert "LAMBADA" not in missing


def test_data_list_shows_the_good_sets_beside_a_bad_one(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "broken").mkdir()
    (folder / "broken" / "test.jsonl").write_bytes(b'{"text": "caf\xe9"}\n')
    assert cli.main(["data", "list", "--data", str(folder)]) == 2
    captured = capsys.readouterr()
    assert re.search(r"^lambada +test +3 +", captured.out, re.MULTILINE)
    assert captured.err.startswith("error: 1 of 2 splits cannot be used")
    assert "UTF-8" in captured.err


def test_data_prepare_writes_a_folder_that_reads_the_same(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from fwpkm_eval.data import load_set

    out = tmp_path / "out"
    arguments = ["data", "prepare", "--data", str(folder), "--out", str(out)]
    assert cli.main(arguments) == 0
    assert "written to" in capsys.readouterr().out
    written = load_set(str(out), "lambada", "test")
    assert written.documents == load_set(str(folder), "lambada", "test").documents
    before = (out / "lambada" / "test.jsonl.gz").read_bytes()
    assert cli.main(arguments) == 0
    assert "already in" in capsys.readouterr().out
    assert (out / "lambada" / "test.jsonl.gz").read_bytes() == before


def test_data_prepare_replaces_nothing(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "out" / "lambada" / "test.jsonl.gz"
    other.parent.mkdir(parents=True)
    content = gzip.compress(b'{"text": "something else"}\n')
    other.write_bytes(content)
    assert cli.main(["data", "prepare", "--data", str(folder), "--out", str(tmp_path / "out")]) == 2
    assert "holds other text" in capsys.readouterr().err
    assert other.read_bytes() == content


def test_data_prepare_leaves_a_folder_as_it_is_that_has_the_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Beside a plain file a compressed one would be a second of the same split, and the set of no use."""
    (tmp_path / "one").mkdir()
    file = tmp_path / "one" / "test.jsonl"
    file.write_text('{"text": "hello"}\n')
    for _ in range(2):
        assert cli.main(["data", "prepare", "--data", str(tmp_path), "--out", str(tmp_path)]) == 0
        assert f"already in {file}" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["test.jsonl"]


def test_tables_are_aligned_without_trailing_spaces() -> None:
    assert aligned(("name", "n"), [("a", 5), ("longer", 1000)], right=("n",)) == (
        "name       n\na          5\nlonger  1000"
    )
    assert aligned(("a", "b"), []) == "a  b"


def test_devices_resolve_or_are_refused() -> None:
    import torch

    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(UserError, match="unknown device 'gpu'"):
        resolve_device("gpu")
    with pytest.raises(UserError, match="device 'cuda:999'"):
        resolve_device("cuda:999")


def test_dtypes_resolve_or_are_refused() -> None:
    import torch

    assert [resolve_dtype(name) for name in DTYPES] == [torch.float32, torch.float64, torch.bfloat16]
    with pytest.raises(UserError, match="unknown dtype 'float31', did you mean float32"):
        resolve_dtype("float31")
