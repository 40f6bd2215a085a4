"""Sets in a folder: what is read, and one line with file and line number for everything that is wrong."""

from __future__ import annotations

import gzip
import json
import random
import re
from pathlib import Path

import pytest

from fwpkm_eval import cli
from fwpkm_eval.data import available_sets, default_haystack, default_sets, folder, load_set, skipped_note
from fwpkm_eval.data.types import Document, hash_documents
from fwpkm_eval.errors import UserError


def _write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if path.name.endswith(".gz") else data)
    return path


GOOD = '{"text": "fine"}\n'


def _lines(*records: object) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def test_reads_plain_and_compressed(tmp_path: Path) -> None:
    records = _lines(
        {"text": "naïve 日本", "id": "a"}, {"text": "two\nlines", "id": 7}, {"text": "no id", "other": [1]}
    )
    _write(tmp_path / "books" / "test.jsonl", records)
    _write(tmp_path / "zipped" / "test.jsonl.gz", records)
    plain, zipped = (load_set(str(tmp_path), name, "test") for name in ("books", "zipped"))
    assert plain.documents == (
        Document("a", "naïve 日本"),
        Document("7", "two\nlines"),
        Document("test:3", "no id"),
    )
    assert zipped.documents == plain.documents
    assert zipped.sha256 == plain.sha256 == hash_documents(plain.documents)
    assert (plain.name, plain.split, plain.source, plain.stands_in_for) == ("books", "test", "path", None)
    assert str(tmp_path / "books" / "test.jsonl") in plain.origin


def test_blank_lines_byte_order_mark_and_no_last_newline(tmp_path: Path) -> None:
    _write(tmp_path / "s" / "test.jsonl", b'\xef\xbb\xbf{"text": "a"}\r\n\n  \n{"text": "b"}')
    assert [d.id for d in load_set(str(tmp_path), "s", "test").documents] == ["test:1", "test:4"]


def test_lists_sets_and_splits(tmp_path: Path) -> None:
    for name in (
        "b/test.jsonl",
        "b/train.jsonl.gz",
        "b/extra.jsonl",
        "a/valid.jsonl",
        ".hidden/test.jsonl",
        "c/x.txt",
    ):
        _write(tmp_path / name, _lines({"text": "x"}))
    _write(tmp_path / "README.md", "x")
    (tmp_path / "b" / "folder.jsonl").mkdir()
    infos = available_sets(str(tmp_path))
    assert [(info.name, info.splits) for info in infos] == [
        ("a", ("valid",)),
        ("b", ("train", "test", "extra")),
    ]
    assert {info.source for info in infos} == {"path"}
    assert default_sets(str(tmp_path)) == ["b"]
    assert default_haystack(str(tmp_path)) == "b"


@pytest.mark.parametrize("name", ["my set", "naïve", "日本", "हिन्दी", "e\u0301", "_x", "2", "a.b-c+d_e"])
def test_sets_are_named_in_any_script(name: str, tmp_path: Path) -> None:
    _write(tmp_path / name / "test.jsonl", GOOD)
    assert default_sets(str(tmp_path)) == [name]
    assert load_set(str(tmp_path), name, "test").name == name
    assert skipped_note(str(tmp_path)) is None


@pytest.mark.parametrize("name", ["-x", "+x", "a,b", " x", "x ", "a\nb", "a\x1b[31m", "a:b", "a\u202eb", "a\u00a0b"])
def test_sets_that_are_skipped_for_their_name_are_told(name: str, tmp_path: Path) -> None:
    _write(tmp_path / name / "test.jsonl.gz", GOOD)
    with pytest.raises(UserError, match=r"holds no sets.*; skipped for its name: ") as caught:
        available_sets(str(tmp_path))
    assert repr(name) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert skipped_note(str(tmp_path)) is None  # the error says it
    _write(tmp_path / "good" / "test.jsonl", GOOD)
    assert [info.name for info in available_sets(str(tmp_path))] == ["good"]
    note = skipped_note(str(tmp_path))
    assert note is not None
    assert f"skipped for its name: {name!r}" in note


def test_hidden_folders_and_those_without_splits_are_not_told(tmp_path: Path) -> None:
    for path in (".cache/test.jsonl", "-x/notes.txt", "good/test.jsonl"):
        _write(tmp_path / path, GOOD)
    assert skipped_note(str(tmp_path)) is None
    assert skipped_note(str(tmp_path / "nowhere")) is None
    assert skipped_note("embedded") is None


def test_a_skipped_set_is_one_line_on_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("-1", "-2", "-3", "-4", "good"):
        _write(tmp_path / name / "test.jsonl", GOOD)
    assert cli.main(["data", "list", "--data", str(tmp_path)]) == 0
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "skipped for their names: '-1', '-2', '-3' and 1 more" in told


def test_default_haystack(tmp_path: Path) -> None:
    _write(tmp_path / "a" / "test.jsonl", _lines({"text": "x"}))
    _write(tmp_path / "b" / "test.jsonl", _lines({"text": "x" * 100}))
    _write(tmp_path / "c" / "train.jsonl", _lines({"text": "x" * 1000}))
    assert default_haystack(str(tmp_path)) == "b"
    _write(tmp_path / "lambada" / "test.jsonl", _lines({"text": "x"}))
    assert default_haystack(str(tmp_path)) == "lambada"


def test_no_test_split_anywhere(tmp_path: Path) -> None:
    _write(tmp_path / "a" / "train.jsonl", _lines({"text": "x"}))
    for ask in (default_sets, default_haystack):
        with pytest.raises(UserError, match="has a test split"):
            ask(str(tmp_path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"test\.jsonl holds no documents"),
        (b"\n \n", r"test\.jsonl holds no documents"),
        (GOOD.encode() + b'{"text": "caf\xe9"}\n', r"test\.jsonl:2: not UTF-8 \(byte 13 of the line\)"),
        (
            GOOD + "{'text': 'x'}\n",
            r"test\.jsonl:2: not a JSON object: Expecting property name .* at column 2",
        ),
        (GOOD + '{"text": "cut', r"test\.jsonl:2: not a JSON object: Unterminated string"),
        (GOOD + '["text"]\n', r"test\.jsonl:2: not a JSON object but a list"),
        (GOOD + "[" * 100_000 + "\n", r"test\.jsonl:2: not a JSON object"),
        (GOOD + '{"n": ' + "1" * 5_000 + "}\n", r"test\.jsonl:2: not a JSON object"),
        (
            GOOD + '{"content": "x", "url": ""}\n',
            r"test\.jsonl:2: no 'text' field \(fields: 'content, url'\)",
        ),
        (GOOD + "{}\n", r"test\.jsonl:2: no 'text' field \(fields: 'none'\)"),
        (GOOD + '{"text": null}\n', r"test\.jsonl:2: 'text' must be a string, not NoneType"),
        (GOOD + '{"text": ["a"]}\n', r"test\.jsonl:2: 'text' must be a string, not list"),
        (GOOD + '{"text": ""}\n', r"test\.jsonl:2: 'text' is empty"),
        (GOOD + '{"text": " \\n"}\n', r"test\.jsonl:2: 'text' is empty"),
        (
            GOOD + '{"text": "x", "id": [1]}\n',
            r"test\.jsonl:2: 'id' must be a string or a whole number, not list",
        ),
        (GOOD + '{"text": "x", "id": true}\n', r"test\.jsonl:2: 'id' must be .* not bool"),
        ('{"text": "x", "id": 1}\n{"text": "y", "id": "1"}\n', r"test\.jsonl:2: id '1' was already used"),
        (GOOD + '{"text": "a\\ud800"}\n', r"test\.jsonl:2: holds half of a surrogate pair"),
        (GOOD + '{"text": "a", "id": "\\udfff"}\n', r"test\.jsonl:2: holds half of a surrogate pair"),
    ],
)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_bad_files(tmp_path: Path, content: str | bytes, message: str, suffix: str) -> None:
    _write(tmp_path / "s" / f"test.jsonl{suffix}", content)
    with pytest.raises(UserError, match=message.replace(r"jsonl", rf"jsonl{re.escape(suffix)}")) as caught:
        load_set(str(tmp_path), "s", "test")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_damaged_gzip(tmp_path: Path) -> None:
    words = random.Random(0)
    records = [{"text": f"{words.getrandbits(400):x}"} for _ in range(200)]
    whole = gzip.compress(_lines(*records).encode())
    path = tmp_path / "s" / "test.jsonl.gz"
    path.parent.mkdir()
    wrong_checksum = whole[:-8] + bytes([whole[-8] ^ 1]) + whole[-7:]
    for content in (whole[: len(whole) // 2], whole[:-4], b"not gzip", b"\x1f\x8b\x08", wrong_checksum):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"test\.jsonl\.gz is not a whole gzip file"):
            load_set(str(tmp_path), "s", "test")
    path.write_bytes(whole)
    assert len(load_set(str(tmp_path), "s", "test").documents) == 200


def test_line_without_an_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "MAX_LINE_BYTES", 2**20)
    bomb = _write(tmp_path / "s" / "test.jsonl.gz", GOOD.encode() + b'{"text": "' + b"a" * 2**24)
    assert bomb.stat().st_size < 2**17
    with pytest.raises(UserError, match=r"test\.jsonl\.gz:2: the line is longer than 1 MiB"):
        load_set(str(tmp_path), "s", "test")


def test_split_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "MAX_SPLIT_BYTES", 40)
    _write(tmp_path / "s" / "test.jsonl", GOOD * 2)
    assert len(load_set(str(tmp_path), "s", "test").documents) == 2
    _write(tmp_path / "s" / "test.jsonl", GOOD * 3)
    with pytest.raises(UserError, match=r"test\.jsonl holds more than"):
        load_set(str(tmp_path), "s", "test")


def test_missing_things(tmp_path: Path) -> None:
    _write(tmp_path / "books" / "test.jsonl", GOOD)
    _write(tmp_path / "books" / "train.jsonl", GOOD)
    _write(tmp_path / "file", "x")
    (tmp_path / "empty").mkdir()
    data = str(tmp_path)
    for arguments, message in [
        ((f"{data}/nowhere", "books", "test"), "nowhere' does not exist"),
        (("embeded", "docs", "test"), r"'embeded' does not exist, did you mean embedded\?"),
        (("", "docs", "test"), "'' does not exist"),
        (("x" * 5000, "docs", "test"), "does not exist|cannot read data folder"),
        ((f"{data}/file", "books", "test"), "is a file; give the folder"),
        ((f"{data}/empty", "books", "test"), "holds no sets"),
        ((data, "boks", "test"), r"unknown set 'boks', did you mean books\? valid: books"),
        ((data, "books", "tets"), r"unknown books split 'tets', did you mean test\? valid: test, train"),
        ((data, "books", "valid"), "unknown books split 'valid'"),
    ]:
        with pytest.raises(UserError, match=message) as caught:
            load_set(*arguments)
        assert "\n" not in str(caught.value)


def test_names_cannot_leave_the_folder(tmp_path: Path) -> None:
    _write(tmp_path / "outside" / "test.jsonl", GOOD)
    _write(tmp_path / "data" / "inside" / "test.jsonl", GOOD)
    data = str(tmp_path / "data")
    for name in ("../outside", "..", ".", "", str(tmp_path / "outside"), "inside/../../outside", "a\0b"):
        with pytest.raises(UserError, match="unknown set"):
            load_set(data, name, "test")
    for split in ("../../outside/test", "../inside/test", "", "test.jsonl"):
        with pytest.raises(UserError, match="unknown inside split"):
            load_set(data, "inside", split)


def test_both_forms_of_a_split_are_refused(tmp_path: Path) -> None:
    _write(tmp_path / "s" / "test.jsonl", GOOD)
    _write(tmp_path / "s" / "test.jsonl.gz", GOOD)
    with pytest.raises(UserError, match=r"has both test\.jsonl and test\.jsonl\.gz"):
        load_set(str(tmp_path), "s", "test")


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(tmp_path / "s" / "test.jsonl", GOOD)

    def refuse(self: Path, *arguments: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError, match=r"cannot read .*test\.jsonl: Permission denied$"):
        load_set(str(tmp_path), "s", "test")


def test_unreadable_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(UserError, match=r"cannot read data folder .*: Permission denied$"):
        available_sets(str(tmp_path))


def test_links_stay_within_the_folder(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "notes").mkdir(parents=True)
    (data / "kept.jsonl").write_text('{"text": "inside"}\n')
    (tmp_path / "private.jsonl").write_text('{"text": "outside"}\n')
    (data / "notes" / "test.jsonl").symlink_to(data / "kept.jsonl")
    assert load_set(str(data), "notes", "test").documents[0].text == "inside"
    (data / "notes" / "test.jsonl").unlink()
    (data / "notes" / "test.jsonl").symlink_to(tmp_path / "private.jsonl")
    with pytest.raises(UserError, match="is a link out of the data folder"):
        load_set(str(data), "notes", "test")
    (data / "others").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "test.jsonl").write_text('{"text": "outside"}\n')
    with pytest.raises(UserError, match="is a link out of the data folder"):
        load_set(str(data), "others", "test")
    # The folder itself may be reached by a link: it is the user's own word.
    (tmp_path / "by-link").symlink_to(data)
    (data / "notes" / "train.jsonl").write_text('{"text": "inside"}\n')
    assert load_set(str(tmp_path / "by-link"), "notes", "train").documents[0].text == "inside"
