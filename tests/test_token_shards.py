"""Tokenised text on a disk: the same tokens as in memory, made once, whole or not at all."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fwpkm_eval.data import Document, load_set, shards
from fwpkm_eval.data.shards import tokens_of_set, tokens_of_split
from fwpkm_eval.data.token_text import TokenText, token_text
from fwpkm_eval.data.tokenizers import ByteTokenizer
from fwpkm_eval.errors import UserError
from fwpkm_eval.tasks.niah import haystack_tokens
from fwpkm_eval.training.batches import make_batches
from fwpkm_eval.training.recipe import Layout, Recipe

TEXTS = [f"Chapter {number}. " + "It was the best of times. " * (10 + number) for number in range(9)]


class Counting(ByteTokenizer):
    """Bytes, as a tokenizer worth caching, that counts what it is asked for."""

    name = "counting"
    fingerprint: str | None = "1"

    def __init__(self) -> None:
        self.encoded = 0

    def encode(self, text: str) -> np.ndarray:
        self.encoded += 1
        return super().encode(text)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(shards.CACHE, str(tmp_path / "cache"))
    monkeypatch.setattr(shards, "SHARD_TOKENS", 700)  # several shards of a few documents each
    return tmp_path / "cache"


@pytest.fixture
def data(tmp_path: Path) -> str:
    write(tmp_path / "data" / "books" / "train.jsonl.gz", TEXTS)
    return str(tmp_path / "data")


def write(path: Path, texts: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("".join(json.dumps({"text": text}) + "\n" for text in texts).encode()))


def same(found: TokenText, wanted: TokenText) -> bool:
    documents = zip(found.documents(), wanted.documents(), strict=True)
    return (
        found.data_hash == wanted.data_hash
        and np.array_equal(found.read(0, len(found)), wanted.read(0, len(wanted)))
        and all(np.array_equal(ours, theirs) for ours, theirs in documents)
    )


def test_shards_hold_the_tokens_of_the_text(cache: Path, data: str) -> None:
    tokenizer = Counting()
    found = tokens_of_split(data, "books", "train", tokenizer)
    assert len(found.parts) > 2
    assert all(part.dtype == np.uint16 for part in found.parts)
    assert same(found, token_text(load_set(data, "books", "train"), ByteTokenizer()))
    for start, stop in ((0, 5), (690, 1410), (1000, 1000), (len(found) - 3, len(found))):
        assert found.read(start, stop).tolist() == found.read(0, len(found))[start:stop].tolist()


def test_a_text_is_tokenised_once(cache: Path, data: str) -> None:
    tokenizer = Counting()
    first = tokens_of_split(data, "books", "train", tokenizer)
    assert tokenizer.encoded == len(TEXTS)
    assert same(tokens_of_split(data, "books", "train", tokenizer), first)
    assert same(tokens_of_set(load_set(data, "books", "train"), tokenizer), first)
    assert tokenizer.encoded == len(TEXTS)


def test_another_text_or_tokenizer_has_other_shards(cache: Path, data: str) -> None:
    tokens_of_split(data, "books", "train", Counting())
    path = Path(data) / "books" / "train.jsonl.gz"
    before = path.stat()
    write(path, ["Chapter X" + text[9:] for text in TEXTS])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    changed = tokens_of_split(data, "books", "train", Counting())
    assert ByteTokenizer().decode(changed.documents()[0][:9]) == "Chapter X"
    other = Counting()
    other.fingerprint = "2"
    tokens_of_split(data, "books", "train", other)
    assert other.encoded == len(TEXTS)
    assert len(list((cache / "tokens").iterdir())) == 3


def test_texts_joined_are_named_by_all_of_them() -> None:
    one, two = (TokenText((np.arange(3),), (np.array([2]),), name) for name in ("aa", "bb"))
    names = {TokenText.joined(texts).data_hash for texts in ([one], [two], [one, two], [two, one])}
    assert len(names) == 4


@pytest.mark.parametrize("name", ["tokens-00001.bin", "ends-00000.bin", "index.json"])
@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_a_damaged_cache_is_refused_in_one_line(cache: Path, data: str, name: str, damage: str) -> None:
    tokens_of_split(data, "books", "train", Counting())
    (folder,) = (cache / "tokens").iterdir()
    path = folder / name
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(content[:-1] if damage == "cut" else b"\x07" + content[1:])
    with pytest.raises(UserError, match=r"tokenised text is damaged: .*; delete .*tokens") as refused:
        tokens_of_split(data, "books", "train", Counting())
    assert "\n" not in str(refused.value)


def test_what_is_broken_off_leaves_nothing(cache: Path, data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(Counting):
        def encode(self, text: str) -> np.ndarray:
            if self.encoded == 5:
                raise KeyboardInterrupt
            return super().encode(text)

    with pytest.raises(KeyboardInterrupt):
        tokens_of_split(data, "books", "train", Killed())
    assert not list((cache / "tokens").iterdir())
    tokens_of_split(data, "books", "train", Counting())


def test_leavings_of_killed_processes_are_swept_a_day_later(cache: Path, data: str) -> None:
    old, new = cache / "tokens" / ".1-old", cache / "tokens" / ".2-new"
    for left in (old, new):
        left.mkdir(parents=True)
    os.utime(old, (0, 0))
    tokens_of_split(data, "books", "train", Counting())
    assert not old.exists()
    assert new.exists()


def test_an_empty_document_is_refused_where_it_stands(cache: Path, data: str) -> None:
    write(Path(data) / "books" / "train.jsonl.gz", [*TEXTS, " "])
    with pytest.raises(UserError, match=r"train.jsonl.gz:10: 'text' is empty"):
        tokens_of_split(data, "books", "train", Counting())
    assert not list((cache / "tokens").iterdir())


def test_a_cache_that_cannot_be_written_is_one_line(cache: Path, data: str) -> None:
    cache.write_text("a file where the folder should be")
    with pytest.raises(UserError, match=r"cannot write tokenised text in .*set FWPKM_EVAL_CACHE"):
        tokens_of_split(data, "books", "train", Counting())


def test_documents_are_tokenised_as_they_come(cache: Path) -> None:
    tokenizer = Counting()
    ahead = []

    def documents() -> Iterator[Document]:
        for number in range(50):
            ahead.append(number - tokenizer.encoded)
            yield Document(str(number), "a" * 100)

    shards._make(documents(), "set/train", tokenizer, None)
    assert ahead == [0] * 50  # none is asked for before the one before it is done with


@pytest.mark.parametrize("layout", ["needles", "packed"])
def test_batches_are_the_same_from_memory_and_from_shards(cache: Path, data: str, layout: Layout) -> None:
    recipe = Recipe(steps=4, tokens=128, sets=("books",), layout=layout, needle_share=0.0, answer_weight=0.0)
    ours, theirs = (make_batches(recipe, tokenizer, data) for tokenizer in (Counting(), ByteTokenizer()))
    assert ours.data_hash == theirs.data_hash
    for step in range(4):
        a, b = ours.batch(step), theirs.batch(step)
        assert a.tokens.dtype == b.tokens.dtype == np.int64
        assert np.array_equal(a.tokens, b.tokens)


def test_haystacks_are_cut_from_the_same_text(cache: Path, data: str) -> None:
    text_set = load_set(data, "books", "train")
    assert np.array_equal(haystack_tokens(text_set, Counting()), haystack_tokens(text_set, ByteTokenizer()))
