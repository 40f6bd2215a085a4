"""The hub's data sets, read from local files in the same formats by the same code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hub_cases import archive, corpus, go_offline, jsonl, parquet_folder

from fwpkm_eval.data.corpora import hub
from fwpkm_eval.data.corpora.catalog import (
    CORPORA,
    PUBLISHED_TEXTS,
    Corpus,
    CorpusSplit,
    find_corpus,
    find_split,
)
from fwpkm_eval.data.corpora.hub import HubSource
from fwpkm_eval.data.corpora.records import Record
from fwpkm_eval.data.questions import PUBLISHED
from fwpkm_eval.errors import UserError
from fwpkm_eval.reference_models.config import PAPER
from fwpkm_eval.tasks.continual import PILE_DOMAINS
from fwpkm_eval.training.recipe import recipe_for

pytest.importorskip("datasets")

ROWS = [{"text": f"Document {n}, naïve.", "url": f"http://x/{n}"} for n in range(75)]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    go_offline(monkeypatch, tmp_path / "cache")


def source(of: Corpus, split: str, where: Path | str) -> HubSource:
    return HubSource(of, of.splits[split], split, str(where))


def numbers(records: list[Record]) -> list[int]:
    """Which of ROWS the records are."""
    return [ROWS.index({"text": r.line["text"], "url": f"http://x/{r.line['text'][9:-8]}"}) for r in records if r.line]


@pytest.mark.parametrize(
    ("split", "expected"),
    [("test", range(65, 75)), ("valid", range(62, 65)), ("train", range(62)), ("all", range(75))],
)
def test_splits_of_a_data_set(tmp_path: Path, split: str, expected: range) -> None:
    folder = parquet_folder(tmp_path / "books", ROWS)
    records = list(source(corpus(), split, folder).records(None))
    assert numbers(records) == list(expected)
    assert records[1].line == {"id": f"{split}:2", "text": ROWS[expected[1]]["text"]}
    assert records[1].text_bytes == len(ROWS[expected[1]]["text"].encode())


@pytest.mark.parametrize("split", ["test", "valid", "train"])
def test_it_goes_on_from_any_document(tmp_path: Path, split: str) -> None:
    folder = parquet_folder(tmp_path / "books", ROWS)
    records = list(source(corpus(), split, folder).records(None))
    for number in {0, 1, 2, 8, 9, len(records) // 2, len(records) - 1} & set(range(len(records))):
        again = source(corpus(), split, folder)
        assert list(again.records(records[number].after)) == records[number + 1 :]


def test_the_tail_is_read_without_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = parquet_folder(tmp_path / "books", ROWS)
    read: list[Any] = []
    piece = hub._piece

    def counted(pieces: Any, index: int) -> Any:
        read.append(index)
        return piece(pieces, index)

    monkeypatch.setattr(hub, "_piece", counted)
    assert len(list(source(corpus(), "test", folder).records(None))) == 10
    assert read == [2, 1], "the last row group has 5 rows, the one before it 10"


def test_going_on_reads_from_the_row_group_it_was_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = parquet_folder(tmp_path / "books", ROWS)
    records = list(source(corpus(), "all", folder).records(None))
    read: list[Any] = []
    piece = hub._piece

    def counted(pieces: Any, index: int) -> Any:
        read.append(index)
        return piece(pieces, index)

    monkeypatch.setattr(hub, "_piece", counted)
    rest = source(corpus(), "all", folder).records(records[61].after)
    assert numbers(list(rest)) == list(range(62, 75))
    assert read == [1, 2]


def test_a_tail_longer_than_the_data_set(tmp_path: Path) -> None:
    folder = parquet_folder(tmp_path / "books", ROWS[:7], files=1)
    long = corpus(splits={"test": CorpusSplit("train", "the last 10", last=10)})
    assert numbers(list(source(long, "test", folder).records(None))) == list(range(7))
    assert not list(source(corpus(), "train", folder).records(None))


def test_a_folder_that_describes_its_configs(tmp_path: Path) -> None:
    folder = parquet_folder(tmp_path / "books", ROWS, config="sample-10BT")
    found = source(corpus(config="sample-10BT"), "test", folder)
    assert numbers(list(found.records(None))) == list(range(65, 75))
    with pytest.raises(UserError, match=r"cannot read .*sample-9BT.*--data embedded or --data PATH") as caught:
        source(corpus(config="sample-9BT"), "test", folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["books.jsonl", "books.jsonl.gz", "books.parquet"])
def test_files_alone(tmp_path: Path, name: str) -> None:
    if name.endswith("parquet"):
        path = next((parquet_folder(tmp_path, ROWS, files=1) / "data").iterdir())
    else:
        path = jsonl(tmp_path / name, ROWS)
    for split, expected in (("test", range(65, 75)), ("train", range(62))):
        records = list(source(corpus(), split, path).records(None))
        assert numbers(records) == list(expected)
        assert list(source(corpus(), split, path).records(records[3].after)) == records[4:]


def test_empty_documents_are_told_apart(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"text": "a"}, {"text": ""}, {"text": None}, {"text": " \n"}, {"text": "b"}]
    records = list(source(corpus(), "all", jsonl(tmp_path / "x.jsonl", rows)).records(None))
    assert [record.line is None for record in records] == [False, True, True, True, False]
    assert records[-1].line == {"id": "all:5", "text": "b"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"content": "a", "url": "b"}], r"document 1 has no field 'text' \(fields: 'content, url'\)"),
        ([{"text": 7}], "document 1: 'text' must be text, not int"),
        ([{"text": ["a"]}], "document 1: 'text' must be text, not list"),
    ],
)
def test_documents_that_are_not_as_described(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        list(source(corpus(), "all", jsonl(tmp_path / "x.jsonl", rows)).records(None))


def test_a_shard_cut_short(tmp_path: Path) -> None:
    folder = parquet_folder(tmp_path / "books", ROWS)
    shard = folder / "data" / "train-00001.parquet"
    shard.write_bytes(shard.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"books: cannot read .*Parquet") as caught:
        list(source(corpus(), "all", folder).records(None))
    assert "\n" not in str(caught.value)
    zipped = jsonl(tmp_path / "x.jsonl.gz", ROWS * 20)
    zipped.write_bytes(zipped.read_bytes()[:-30])
    with pytest.raises(UserError, match=r"books: cannot read .*x\.jsonl\.gz"):
        list(source(corpus(), "all", zipped).records(None))


def test_lines_that_are_not_json(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "a"}\n{"text": "b\n')
    with pytest.raises(UserError, match="books: cannot read") as caught:
        list(source(corpus(), "all", path).records(None))
    assert "\n" not in str(caught.value)


def test_copies_that_are_not_there(tmp_path: Path) -> None:
    for where, message in (("no.jsonl", "there is no file"), ("no", "is neither a folder nor a .parquet or .jsonl")):
        with pytest.raises(UserError, match=message):
            source(corpus(), "test", tmp_path / where)
    with pytest.raises(UserError, match="is neither a folder nor"):
        source(CORPORA["hotpotqa"], "test", tmp_path / "no")


def test_wikitext_lines_become_articles(tmp_path: Path) -> None:
    articles = []
    for n in range(7):
        articles.append(["", f" = Title {n} = \n", "", f" Text {n} . \n", " = = Part = = \n", f" More {n} . \n", ""])
    rows = [{"text": line} for article in articles for line in article]
    folder = parquet_folder(tmp_path / "wiki", rows, files=2)
    wiki = corpus(kind="articles")
    records = list(source(wiki, "all", folder).records(None))
    texts = [record.line["text"] for record in records if record.line]
    assert len(texts) == 7
    assert texts[2] == " = Title 2 = \n Text 2 . \n = = Part = = \n More 2 . \n"
    assert "".join(texts) == "".join(row["text"] for row in rows)
    for number in range(7):
        assert list(source(wiki, "all", folder).records(records[number].after)) == records[number + 1 :]


QUESTION = {"context": "Long text.", "input": "What?", "answers": ["This", ""], "_id": "q1", "length": 2}


def test_longbench_questions_of_an_archive(tmp_path: Path) -> None:
    rows = [QUESTION, QUESTION | {"_id": "q2", "answers": []}, QUESTION | {"_id": None, "input": "Who?"}]
    archive(tmp_path / "copy" / "data.zip", {"hotpotqa": rows, "musique": [QUESTION]})
    records = list(source(CORPORA["hotpotqa"], "test", tmp_path / "copy").records(None))
    expected = {"id": "q1", "context": "Long text.", "input": "What?", "answers": ["This"]}
    assert records[0].line == expected
    assert records[1].line is None
    assert records[2].line == expected | {"id": "hotpotqa:3", "input": "Who?"}
    assert len(list(source(CORPORA["musique"], "test", tmp_path / "copy").records(None))) == 1
    with pytest.raises(UserError, match="narrativeqa: cannot read"):
        list(source(CORPORA["narrativeqa"], "test", tmp_path / "copy").records(None))
    with pytest.raises(UserError, match="document 1 is no question: it needs context, input and answers"):
        list(source(CORPORA["hotpotqa"], "test", jsonl(tmp_path / "x.jsonl", [{"input": "?"}])).records(None))


def test_offline_is_one_line() -> None:
    for name in ("fineweb_edu", "hotpotqa"):
        with pytest.raises(UserError, match=rf"^{name}: no connection to .*OFFLINE is set") as caught:
            HubSource(CORPORA[name], CORPORA[name].splits["test"], "test")
        assert str(caught.value).endswith("--data embedded or --data PATH needs no network")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ConnectionError("a\nb"), "books: no connection to nobody/books"),
        (lambda: type("ConnectTimeout", (Exception,), {})("slow"), "books: no connection to nobody/books"),
        (lambda: ValueError("first line\nsecond"), "books: cannot read .*: ValueError: first line; --data"),
        (lambda: ImportError("x", name="datasets"), r"the package datasets is needed: pip install 'fwpkm-eval\[hub\]'"),
    ],
)
def test_what_the_libraries_raise(monkeypatch: pytest.MonkeyPatch, make: Callable[[], Exception], message: str) -> None:
    def fail(location: str) -> None:
        raise make()

    monkeypatch.setattr(hub, "newest_revision", fail)
    with pytest.raises(UserError, match=message) as caught:
        HubSource(corpus(), corpus().splits["test"], "test")
    assert "\n" not in str(caught.value)


def test_the_revision_is_looked_up_once_and_used(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(hub, "newest_revision", lambda location: f"newest of {location}")
    monkeypatch.setattr(datasets, "load_dataset", lambda *given, **named: asked.append(named | {"given": given}))
    fineweb = CORPORA["fineweb_edu"]
    for revision, expected in ((None, f"newest of {fineweb.location}"), ("abc", "abc")):
        assert HubSource(fineweb, fineweb.splits["test"], "test", None, revision).revision == expected
        assert asked[-1]["revision"] == expected
        assert asked[-1]["given"] == (fineweb.location, "sample-10BT")
        assert (asked[-1]["split"], asked[-1]["streaming"]) == ("train", True)
    HubSource(CORPORA["musique"], CORPORA["musique"].splits["test"], "test", None, "abc")
    assert asked[-1]["data_files"] == "zip://data/musique.jsonl::hf://datasets/THUDM/LongBench@abc/data.zip"


def test_the_catalogue_names_what_the_rest_of_the_project_names() -> None:
    assert set(recipe_for(PAPER, "hub").sets) <= {name for name, each in CORPORA.items() if "train" in each.splits}
    assert {*PUBLISHED_TEXTS, *PUBLISHED, *PILE_DOMAINS, "wikitext103", "openwebtext"} == set(CORPORA)
    for name, each in CORPORA.items():
        assert each.name == name
        assert "test" in each.splits
        assert (each.kind == "questions") == (name in PUBLISHED)
        assert each.licence
        assert each.size
    assert CORPORA["fineweb_edu"].splits["test"].last == 10_000
    assert CORPORA["lambada"].splits["test"].origin == "train"
    with pytest.raises(UserError, match="unknown corpus 'fineweb', did you mean fineweb_edu"):
        find_corpus("fineweb")
    with pytest.raises(UserError, match="lambada has no train split here; it has: test"):
        find_split(CORPORA["lambada"], "train")
    with pytest.raises(UserError, match="unknown lc64 split 'tets', did you mean test"):
        find_split(CORPORA["lc64"], "tets")
