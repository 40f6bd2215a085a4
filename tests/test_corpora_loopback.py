"""Corpora fetched from a hub on this machine, through `datasets` and the hub's own client, as from the real one."""

from __future__ import annotations

from pathlib import Path

import pytest
from hub_cases import archive, parquet_folder
from hub_site import HubSite, serve_hub

from fwpkm_eval import cli
from fwpkm_eval.data import load_set
from fwpkm_eval.data.corpora.catalog import CORPORA
from fwpkm_eval.data.corpora.prepare import make_plan, prepare
from fwpkm_eval.data.questions import load_questions
from fwpkm_eval.errors import UserError

TEXTS = [f"Document {n}. " + "words " * n for n in range(60)]


def files_below(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FWPKM_EVAL_DATA", str(tmp_path / "data"))
    for name in ("http_proxy", "https_proxy", "all_proxy", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return tmp_path / "data"


def test_a_data_set_that_its_card_describes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = CORPORA["fineweb_edu"]
    copy = parquet_folder(tmp_path / "copy", [{"text": text} for text in TEXTS], config=corpus.config)
    command = ["data", "prepare", "--data", "hub", "--set", "fineweb_edu"]
    with serve_hub(HubSite(files_below(copy), corpus.location), monkeypatch, tmp_path / "cache") as site:
        assert cli.main(command) == 0
        assert "fineweb_edu/test: 60 documents" in capsys.readouterr().out
        fetched = [path for path in site.requests if path.endswith(".parquet")]
        assert fetched
        assert all(f"/resolve/{site.commit}/sample/part/" in path for path in fetched)
        site.requests.clear()
        assert cli.main(command) == 0
        assert "already in" in capsys.readouterr().out
        assert not site.requests
    assert [document.text for document in load_set("hub", "fineweb_edu", "test").documents] == TEXTS


def test_questions_of_an_archive(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"context": f"Text {n}.", "input": f"Which, {n}?", "answers": [str(n)], "_id": str(n)} for n in range(5)]
    archive(tmp_path / "copy" / "data.zip", {"hotpotqa": rows, "musique": rows[:2]})
    site = HubSite(files_below(tmp_path / "copy"), CORPORA["hotpotqa"].location)
    with serve_hub(site, monkeypatch, tmp_path / "cache"):
        facts = prepare(make_plan("hotpotqa", "test", folder)).facts
    assert (facts["documents"], facts["revision"]) == (5, site.commit)
    questions = load_questions("hub", "hotpotqa").questions
    assert [question.answers for question in questions] == [(str(number),) for number in range(5)]


def test_a_data_set_that_is_gone(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        serve_hub(HubSite({"README.md": b""}, "someone/else"), monkeypatch, tmp_path / "cache"),
        pytest.raises(UserError, match=r"fineweb_edu: cannot read HuggingFaceFW/fineweb-edu") as caught,
    ):
        prepare(make_plan("fineweb_edu", "test", folder))
    assert "\n" not in str(caught.value)
    assert not folder.exists() or not list(folder.rglob("*.gz"))
