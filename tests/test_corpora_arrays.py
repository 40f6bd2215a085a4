"""LongCrawl64's arrays: rows as stored, nothing made up for chunks that a copy lacks, one line for what is wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hub_site import HubSite, serve_hub
from loopback import Site, serve
from zarr_copies import write_copy, zarr_files

from fwpkm_eval.data import load_set
from fwpkm_eval.data.corpora import prepare, remote, token_array
from fwpkm_eval.data.corpora.longcrawl import LongCrawlRows, longcrawl_source
from fwpkm_eval.data.corpora.prepare import make_plan
from fwpkm_eval.data.corpora.records import Record
from fwpkm_eval.data.corpora.token_array import TokenArray
from fwpkm_eval.errors import UserError

ROWS, WIDTH = 10, 150
TOKENS: npt.NDArray[np.uint16] = np.random.default_rng(0).integers(97, 123, (ROWS, WIDTH)).astype(np.uint16)
TEXTS = [bytes(row.tolist()).decode() for row in TOKENS]
FILES = zarr_files(TOKENS)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def texts(records: list[Record]) -> list[str]:
    return [record.line["text"] for record in records if record.line]


def read(source: str | Path, waits: list[float] | None = None) -> list[Record]:
    array = TokenArray(str(source), wait=(waits if waits is not None else []).append)
    return list(LongCrawlRows(array, "test", bytes).records(None))


def copy_of(folder: Path, files: dict[str, bytes], **changes: bytes | None) -> Path:
    files = files | {name.replace("_", "."): content for name, content in changes.items() if content is not None}
    gone = [name.replace("_", ".") for name, content in changes.items() if content is None]
    return write_copy(folder / "heldout.zarr", {name: content for name, content in files.items() if name not in gone})


@pytest.mark.parametrize("compressed", [True, False])
def test_rows_of_a_local_copy(tmp_path: Path, compressed: bool) -> None:
    records = read(copy_of(tmp_path, zarr_files(TOKENS, compressed)))
    assert texts(records) == TEXTS
    assert [record.after for record in records] == [[row + 1, 0] for row in range(ROWS)]
    assert records[3].line is not None
    assert records[3].line["id"] == "test:3"


def test_it_goes_on_from_any_document(tmp_path: Path) -> None:
    copy = copy_of(tmp_path, FILES, **{"1_0": None})
    records = read(copy)
    assert texts(records) == TEXTS[:4] + TEXTS[8:]
    for number, record in enumerate(records):
        rows = LongCrawlRows(TokenArray(str(copy)), "test", bytes)
        assert list(rows.records(record.after)) == records[number + 1 :]
        assert rows.where.endswith("(1 block of 4 rows missing)")


@pytest.mark.parametrize("lacking", ["0_0", "0_1", "0_2"])
def test_a_block_that_lacks_a_chunk_is_left_out_and_counted(tmp_path: Path, lacking: str) -> None:
    copy = copy_of(tmp_path, FILES, **{lacking: None})
    source = longcrawl_source(str(copy), "test", decode=bytes)
    assert texts(list(source.records(None))) == TEXTS[4:]
    assert source.where == f"{copy} (1 block of 4 rows missing)"


def test_a_copy_without_any_chunk(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds none of its 3 blocks of rows whole"):
        read(copy_of(tmp_path, {".zarray": FILES[".zarray"]}))


def test_end_tokens_are_no_text(tmp_path: Path) -> None:
    tokens = TOKENS.copy()
    tokens[0, 7] = tokens[0, -1] = 50256
    assert texts(read(copy_of(tmp_path, zarr_files(tokens))))[0] == TEXTS[0][:7] + TEXTS[0][8:-1]


def test_zeros_in_a_row_are_refused(tmp_path: Path) -> None:
    tokens = TOKENS.copy()
    tokens[5, 30:94] = 0
    with pytest.raises(UserError, match=r"row 5, holds 64 zeros in a row from token 30 on: that is no text"):
        read(copy_of(tmp_path, zarr_files(tokens)))


def test_ids_that_gpt2_does_not_have_are_refused(tmp_path: Path) -> None:
    tokens = TOKENS.copy()
    tokens[9, 3] = 50257
    with pytest.raises(UserError, match=r"row 9, holds 50257 at token 3: GPT-2's ids end at 50256"):
        read(copy_of(tmp_path, zarr_files(tokens)))


@pytest.mark.parametrize("content", [b"", b"half of a chu", FILES["0.1"][:-9], zarr_files(TOKENS, False)["0.1"]])
def test_a_damaged_chunk(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(UserError, match=r"heldout\.zarr/0\.1 is damaged: .*; take another copy") as caught:
        read(copy_of(tmp_path, FILES, **{"0_1": content}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (b"no json", "does not describe an array"),
        (b"[]", "does not describe an array"),
        (zarr_files(TOKENS, dtype="<u4")[".zarray"], "it has dtype '<u4'; rows of <u2 in zarr's format 2 are wanted"),
        (zarr_files(TOKENS, zarr_format=3)[".zarray"], "it has zarr_format 3"),
        (zarr_files(TOKENS, shape=[10])[".zarray"], r"it has shape \[10\] and chunks \[4, 64\]"),
        (zarr_files(TOKENS, shape=[2, 5, 150], chunks=[4])[".zarray"], r"it has shape \[2, 5, 150\] and chunks \[4\]"),
        (zarr_files(TOKENS, compressor={"id": "??"})[".zarray"], "compressed in a way that is not known"),
        (zarr_files(TOKENS, compressor={"id": "vlen-array", "dtype": "f4,)"})[".zarray"], "a way that is not known"),
    ],
)
def test_arrays_of_another_kind(tmp_path: Path, layout: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read(write_copy(tmp_path / "heldout.zarr", FILES | {".zarray": layout}))
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_no_array(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read .*heldout\.zarr/\.zarray: there is no such file; give a copy"):
        read(tmp_path / "heldout.zarr")


def test_over_http(tmp_path: Path) -> None:
    files = {f"heldout.zarr/{name}": content for name, content in FILES.items() if name != "1.2"}
    waits: list[float] = []
    with serve(Site(files, cuts=2)) as site:
        assert texts(read(f"{site.url}/heldout.zarr/", waits)) == TEXTS[:4] + TEXTS[8:]
    assert waits == [1.0, 2.0]


def test_no_connection() -> None:
    waits: list[float] = []
    with pytest.raises(
        UserError, match=r"cannot read .*/heldout\.zarr/\.zarray, tried 5 times: no connection"
    ) as caught:
        read("http://127.0.0.1:9/heldout.zarr", waits)
    assert waits == [1.0, 2.0, 4.0, 8.0]
    assert "\n" not in str(caught.value)


def test_prepared_from_a_folder_of_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FWPKM_EVAL_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(token_array, "SAY_EVERY", 0.0)
    copies = copy_of(tmp_path / "copies", FILES, **{"0_1": None}).parent
    said: list[str] = []
    plan = make_plan("lc64", "test", tmp_path / "data", source=str(copies), text_bytes=500)
    done = prepare.prepare(plan, said.append, decode=bytes)
    assert [document.text for document in load_set("hub", "lc64", "test").documents] == TEXTS[4:8]
    assert done.facts["read_from"] == f"{copies / 'heldout.zarr'} (1 block of 4 rows missing)"
    assert any("heldout.zarr: rows from 4 on: chunk 2 of 3, " in line and "s left" in line for line in said)
    one = make_plan("lc64", "test", tmp_path / "other", source=str(copies / "heldout.zarr"))
    assert prepare.prepare(one, decode=bytes).facts["documents"] == 6


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubSite]:
    """The hub with the mirror that the catalogue names; it lacks a chunk."""
    files = {f"heldout.zarr/{name}": content for name, content in FILES.items() if name != "0.2"}
    with serve_hub(HubSite(files, "clankur/longcrawl64"), monkeypatch, tmp_path / "cache") as site:
        yield site


def test_the_mirror_on_the_hub_at_one_commit(mirror: HubSite, tmp_path: Path) -> None:
    plan = make_plan("lc64", "test", tmp_path)
    done = prepare.prepare(plan, decode=bytes)
    place = f"hf://datasets/clankur/longcrawl64@{mirror.commit}/heldout.zarr"
    assert (done.facts["revision"], done.facts["documents"]) == (mirror.commit, 6)
    assert done.facts["read_from"] == f"{place} (1 block of 4 rows missing)"
    assert json.loads(plan.facts_file.read_text())["sha256"] == done.facts["sha256"]
    resolved = [path for path in mirror.requests if "/resolve/" in path]
    assert resolved
    assert all(f"/resolve/{mirror.commit}/" in path for path in resolved)


def test_a_run_that_goes_on_reads_the_commit_it_began_with(mirror: HubSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_WAIT", 0.0)
    there = "hf://datasets/clankur/longcrawl64/heldout.zarr"
    assert longcrawl_source(there, "test", decode=bytes).revision == mirror.commit
    began = mirror.commit
    mirror.commit = "f" * 40  # and the site has nothing of the commit before
    with pytest.raises(UserError, match=rf"cannot read hf://datasets/clankur/longcrawl64@{began}/heldout\.zarr"):
        longcrawl_source(there, "test", began, bytes)


def test_a_data_set_that_the_hub_does_not_have(mirror: HubSite) -> None:
    with pytest.raises(UserError, match=r"cannot read hf://datasets/nobody/nothing/heldout\.zarr: ") as caught:
        longcrawl_source("hf://datasets/nobody/nothing/heldout.zarr", "test", decode=bytes)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"longcrawl64@0+1/other\.zarr/\.zarray: there is no such file"):
        longcrawl_source("hf://datasets/clankur/longcrawl64/other.zarr", "test", decode=bytes)


@pytest.mark.parametrize(
    "address", ["hf://datasets/only.zarr", "hf://datasets/owner/name.zarr", "hf://datasets//x/y.zarr"]
)
def test_an_address_on_the_hub_that_names_no_array(address: str) -> None:
    with pytest.raises(UserError, match=r"names no array of a data set: give hf://datasets/OWNER/NAME/ARRAY\.zarr"):
        longcrawl_source(address, "test", decode=bytes)
