"""LongCrawl64's token files: what is read, from where, and one line for each way a file or a server can be wrong."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from loopback import Site, serve

from fwpkm_eval.data.corpora import longcrawl
from fwpkm_eval.data.corpora.longcrawl import LongCrawlSource, gpt2_decoder, whole_characters
from fwpkm_eval.data.corpora.records import Record
from fwpkm_eval.data.corpora.remote import address
from fwpkm_eval.data.corpora.token_checks import END_TOKEN
from fwpkm_eval.data.corpora.token_file import TokenFile
from fwpkm_eval.errors import UserError

DOCUMENTS = [f"Document {n}: " + "naïve 日本 words " * (3 + n) for n in range(20)]


def ids_of(text: str) -> list[int]:
    """A vocabulary for tests: a byte is its value and one more, since 0 is checked."""
    return [byte + 1 for byte in text.encode("utf-8")]


def decode(ids: list[int]) -> bytes:
    return bytes(token - 1 for token in ids)


def content(documents: list[str]) -> bytes:
    ids = [token for text in documents for token in [*ids_of(text), END_TOKEN]]
    return np.array(ids, dtype="<u2").tobytes()


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 100 tokens, so that documents, runs and cuts fall across blocks."""
    monkeypatch.setattr(longcrawl, "BLOCK_TOKENS", 100)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def site() -> Iterator[Site]:
    with serve(Site({"heldout.bin": content(DOCUMENTS)})) as running:
        yield running


Opened = Callable[[str], TokenFile]


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def opened(waits: list[float]) -> Opened:
    return lambda source: TokenFile(source, wait=waits.append)


def texts(records: list[Record]) -> list[str]:
    return [record.line["text"] for record in records if record.line]


def read(source: str | Path, opened: Opened = TokenFile) -> list[Record]:
    return list(LongCrawlSource(str(source), "test", decode, opened).records(None))


def test_documents_of_a_local_file(tmp_path: Path) -> None:
    path = tmp_path / "heldout.bin"
    path.write_bytes(content(DOCUMENTS))
    records = read(path)
    assert texts(records) == DOCUMENTS
    lengths = [len(ids_of(text)) + 1 for text in DOCUMENTS]
    assert [record.after for record in records] == [[n] for n in np.cumsum(lengths).tolist()]
    assert records[1].line is not None
    assert records[1].line["id"] == f"test:{lengths[0]}"
    assert records[3].text_bytes == len(DOCUMENTS[3].encode())


def test_it_goes_on_from_any_document(tmp_path: Path) -> None:
    path = tmp_path / "heldout.bin"
    path.write_bytes(content(DOCUMENTS))
    records = read(path)
    for number, record in enumerate(records):
        rest = LongCrawlSource(str(path), "test", decode).records(record.after)
        assert list(rest) == records[number + 1 :]


def test_over_http_the_same_is_read(site: Site) -> None:
    assert texts(read(f"{site.url}/heldout.bin")) == DOCUMENTS


def test_only_the_ranges_needed_are_fetched(site: Site) -> None:
    site.files["train.bin"] = content(DOCUMENTS * 200)
    records = LongCrawlSource(f"{site.url}/train.bin", "train", decode).records(None)
    first = [next(records) for _ in range(4)]
    assert texts(first) == DOCUMENTS[:4]
    assert first[-1].after[0] * 2 <= site.sent < first[-1].after[0] * 2 + 400
    assert "whole" not in site.requests
    site.sent = 0
    deep = LongCrawlSource(f"{site.url}/train.bin", "train", decode)
    assert texts([next(deep.records([len(content(DOCUMENTS)) // 2 * 150]))]) == DOCUMENTS[:1]
    assert site.sent <= 400


def test_a_cut_connection_is_tried_again_from_there(site: Site, opened: Opened, waits: list[float]) -> None:
    records = LongCrawlSource(f"{site.url}/heldout.bin", "test", decode, opened).records(None)
    before = next(records)
    site.cuts, site.requests[:] = 2, []
    assert texts([before, *records]) == DOCUMENTS
    assert waits == [1.0, 2.0]
    assert site.requests[0] == site.requests[1] == site.requests[2]
    assert not any(asked.startswith("0-") for asked in site.requests)


def test_a_server_that_fails_for_a_moment(site: Site, opened: Opened, waits: list[float]) -> None:
    site.failures = 3
    assert texts(read(f"{site.url}/heldout.bin", opened)) == DOCUMENTS
    assert len(waits) == 3


def test_a_server_that_goes_on_failing(site: Site, opened: Opened, waits: list[float]) -> None:
    site.failures = 10**6
    with pytest.raises(
        UserError, match=r"heldout\.bin from byte 0 on, tried 5 times: the server answers 503"
    ) as caught:
        read(f"{site.url}/heldout.bin", opened)
    assert "\n" not in str(caught.value)
    assert waits == [1.0, 2.0, 4.0, 8.0]


def test_a_connection_that_is_always_cut(site: Site, opened: Opened) -> None:
    site.cuts = 10**6
    with pytest.raises(UserError, match=r"cannot read .*heldout\.bin from byte 0 on, tried 5 times"):
        read(f"{site.url}/heldout.bin", opened)


def test_a_file_that_is_not_there(site: Site, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"nowhere\.bin: the server answers 404 .*--source, or --data embedded or"
    ) as caught:
        read(f"{site.url}/nowhere.bin")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"nowhere\.bin: there is no such file; give a copy"):
        read(tmp_path / "nowhere.bin")


def test_no_connection(site: Site) -> None:
    with serve(Site({})) as gone:
        pass
    with pytest.raises(UserError, match=r"no connection \(.*--data embedded or --data PATH needs no network") as caught:
        read(f"{gone.url}/heldout.bin")
    assert "\n" not in str(caught.value)


def test_a_server_that_announces_more_than_there_is(site: Site, opened: Opened) -> None:
    there = len(site.files["heldout.bin"])
    site.announced = there + 1000
    with pytest.raises(UserError, match=rf"is cut short: it ends at byte {there:,} of {there + 1000:,} announced"):
        read(f"{site.url}/heldout.bin", opened)


def test_a_server_without_ranges(site: Site, opened: Opened) -> None:
    site.ranges = False
    with pytest.raises(UserError, match=r"served without ranges.*download it and give its path as --source"):
        read(f"{site.url}/heldout.bin", opened)
    assert site.sent == 0


def test_a_server_that_says_nothing_and_ignores_ranges(site: Site, opened: Opened) -> None:
    source = LongCrawlSource(f"{site.url}/heldout.bin", "test", decode, opened)
    site.ranges = False
    with pytest.raises(UserError, match="served without ranges"):
        list(source.records([200]))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "is empty"),
        (content(DOCUMENTS) + b"x", r"has [\d,]+ bytes, an odd number"),
        (content(["no end"])[:-2], "holds no whole document: no token is 50256"),
        (
            np.array([5] * 130 + [60000] + [END_TOKEN], dtype="<u2").tobytes(),
            "holds 60000 at token 130: GPT-2's ids end",
        ),
    ],
)
def test_wrong_files(tmp_path: Path, raw: bytes, message: str) -> None:
    path = tmp_path / "heldout.bin"
    path.write_bytes(raw)
    with pytest.raises(UserError, match=message) as caught:
        read(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("start", [0, 60, 99, 100, 101, 250])
def test_runs_of_zeros_are_refused_wherever_blocks_end(tmp_path: Path, start: int) -> None:
    ids = np.full(1000, 7, dtype="<u2")
    ids[start : start + 64] = 0
    path = tmp_path / "heldout.bin"
    path.write_bytes(ids.tobytes())
    with pytest.raises(UserError, match=rf"zeros in a row from token {start} on: that is no text"):
        read(path)
    ids[start : start + 64 : 63] = 7  # both ends: 62 in a row are left
    ids[-1] = END_TOKEN
    path.write_bytes(ids.tobytes())
    records = LongCrawlSource(str(path), "test", lambda ids: b"text").records(None)
    assert len(list(records)) == 1


def test_a_mirror_that_is_all_zeros_after_4096_tokens(tmp_path: Path) -> None:
    ids = np.zeros(70_000, dtype="<u2")
    ids[:4096] = 7
    path = tmp_path / "heldout.bin"
    path.write_bytes(ids.tobytes())
    with pytest.raises(UserError, match="zeros in a row from token 4,096 on: that is no text; take another copy"):
        read(path)


def test_ids_of_32_bits_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(longcrawl, "BLOCK_TOKENS", 2048)
    path = tmp_path / "heldout.bin"
    path.write_bytes(np.full(5000, 7, dtype="<u4").tobytes())
    with pytest.raises(UserError, match="holds 50% zeros from token 0 on"):
        read(path)


def test_no_end_of_a_document_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(longcrawl, "MAX_DOCUMENT_TOKENS", 500)
    path = tmp_path / "heldout.bin"
    path.write_bytes(np.full(5000, 7, dtype="<u2").tobytes())
    with pytest.raises(UserError, match=r"holds no end of a document \(50256\) in the 600 tokens from 0 on"):
        read(path)


def test_a_document_that_the_end_cuts_and_empty_ones(tmp_path: Path) -> None:
    path = tmp_path / "heldout.bin"
    path.write_bytes(content(["one", "", " \n", "two"]) + content(["cut off"])[:-6])
    records = read(path)
    assert texts(records) == ["one", "two"]
    assert [record.line is None for record in records] == [False, True, True, False]


def test_a_file_that_has_become_shorter(tmp_path: Path) -> None:
    path = tmp_path / "heldout.bin"
    path.write_bytes(content(DOCUMENTS))
    with pytest.raises(UserError, match=r"has [\d,]+ tokens now, fewer than were read before \(1,000,000\)"):
        list(LongCrawlSource(str(path), "test", decode).records([1_000_000]))


def test_characters_that_a_document_was_cut_in() -> None:
    whole = "日é😀x"
    raw = whole.encode()
    for cut in range(len(raw) + 1):
        kept = whole_characters(raw[:cut])
        assert whole.startswith(kept)
        assert len(raw[:cut]) - len(kept.encode()) < 4
        assert "�" not in kept + whole_characters(raw[cut:])
        assert whole.endswith(whole_characters(raw[cut:]))
    assert whole_characters(b"a\xffb") == "a�b"
    assert whole_characters(b"") == ""


def test_addresses() -> None:
    assert address("gs://longcrawl64/heldout.bin") == "https://storage.googleapis.com/longcrawl64/heldout.bin"
    assert address("http://x/y.bin") == "http://x/y.bin"
    assert address("folder/heldout.bin") == "folder/heldout.bin"


@pytest.mark.parametrize("error", [ConnectionError("no route"), ValueError("Hash mismatch for data downloaded")])
def test_gpt2_decoder_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    tiktoken = pytest.importorskip("tiktoken")

    def without(name: str) -> None:
        raise error

    monkeypatch.setattr(tiktoken, "get_encoding", without)
    words = rf"needs GPT-2's vocabulary.*could not: {type(error).__name__}; connect, or point"
    with pytest.raises(UserError, match=words):
        gpt2_decoder()
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    with pytest.raises(UserError, match=r"tiktoken is needed: pip install 'fwpkm-eval\[hub\]'"):
        gpt2_decoder()


def test_gpt2_decoder_is_tiktokens(monkeypatch: pytest.MonkeyPatch) -> None:
    tiktoken = pytest.importorskip("tiktoken")
    ranks = {bytes([value]): value for value in range(256)}
    small = tiktoken.Encoding("small", pat_str=r"\w+|\W", mergeable_ranks=ranks, special_tokens={})
    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: {"gpt2": small}[name])
    assert gpt2_decoder()(list("é".encode())) == "é".encode()


def test_a_missing_protocol_is_one_line() -> None:
    with pytest.raises(UserError, match=r"cannot read nonsense://x/y\.bin: Protocol not known"):
        TokenFile("nonsense://x/y.bin")
