"""The embedded sets: real, long, the same everywhere, and no text to be tested on in what is trained on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fwpkm_eval.data import available_sets, default_haystack, default_sets, embedded, load_set
from fwpkm_eval.data.embedded import docstrings, module_split, topic_split
from fwpkm_eval.data.manual import paragraphs
from fwpkm_eval.data.overlap import SHARED_CHARACTERS, SHARED_SQUEEZED_CHARACTERS, PassageIndex
from fwpkm_eval.data.types import Document, TextSet, hash_documents
from fwpkm_eval.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
WINDOW = 200


def _texts(name: str, split: str) -> list[str]:
    return [document.text for document in load_set("embedded", name, split).documents]


def _shared_window(train: Iterable[str], test: Iterable[str]) -> str | None:
    """Some run of WINDOW characters that stands in both, found by plain comparison of strings.

    Any such run in a train text holds a whole block of half its length at a multiple of that length.
    """
    half = WINDOW // 2
    blocks: dict[str, list[tuple[str, int]]] = {}
    for text in train:
        for start in range(0, len(text) - half + 1, half):
            blocks.setdefault(text[start : start + half], []).append((text, start))
    for text in test:
        for start in range(len(text) - half + 1):
            for other, other_start in blocks.get(text[start : start + half], ()):
                for shift in range(half + 1):
                    run = text[max(0, start - shift) :][:WINDOW]
                    if len(run) == WINDOW and other.startswith(run, max(0, other_start - shift)):
                        return run
    return None


def test_no_test_text_in_training_text() -> None:
    train = _texts("docs", "train") + _texts("source", "train")
    test = _texts("docs", "test") + _texts("source", "test") + _texts("manual", "test")
    assert _shared_window(train, test) is None


def test_the_leak_test_finds_leaks() -> None:
    uncut = [document.text for document in embedded._documents("docs", "train")]
    assert _shared_window(uncut, _texts("docs", "test"))  # topics quote one another
    long_text = _texts("source", "test")[0]
    assert _shared_window([f"x\n{long_text[777:977]}\ny"], [long_text])
    assert not _shared_window([f"x\n{long_text[777:976]}\x00"], [long_text])


def test_little_is_cut_from_training_texts() -> None:
    for name in ("docs", "source"):
        uncut = sum(len(document.text) for document in embedded._documents(name, "train"))
        assert sum(map(len, _texts(name, "train"))) > 0.9 * uncut


def test_splits_are_by_module_and_the_same_in_both_sets() -> None:
    splits = {
        split: {
            document.id
            for name in ("docs", "source")
            for document in load_set("embedded", name, split).documents
            if not document.id.startswith("topic:")
        }
        for split in ("train", "valid", "test")
    }
    assert not splits["train"] & splits["test"]
    assert not splits["train"] & splits["valid"]
    assert not splits["valid"] & splits["test"]
    for split, modules in splits.items():
        assert {module_split(module) for module in modules} == {split}
    # A package's parts follow it, wherever a Python version puts them; a name that only starts alike does
    # not.
    assert module_split("zipfile._path.glob") == "test"
    assert module_split("iobase") == "train"
    assert topic_split("debugger") == "test"


def test_sizes() -> None:
    source = load_set("embedded", "source", "test")
    assert {"turtle", "typing", "tarfile"} <= {document.id for document in source.documents}
    assert any(document.id.startswith("zipfile") for document in source.documents)
    assert min(len(document.text.encode()) for document in source.documents) >= 40_000
    assert source.text_bytes > 1_000_000
    assert load_set("embedded", "source", "train").text_bytes > 4_000_000
    assert load_set("embedded", "docs", "train").text_bytes > 1_000_000
    assert load_set("embedded", "docs", "test").text_bytes > 300_000
    assert load_set("embedded", "manual", "test").text_bytes > 300_000
    for name in ("docs", "source"):
        assert 20_000 < load_set("embedded", name, "valid").text_bytes < 500_000


def test_labels() -> None:
    infos = {info.name: info for info in available_sets("embedded")}
    assert {name: info.stands_in_for for name, info in infos.items()} == {
        "docs": "Fineweb-Edu",
        "source": "LC64",
        "manual": "LAMBADA",
    }
    assert infos["manual"].splits == ("test",)
    version = ".".join(map(str, sys.version_info[:3]))
    for name, info in infos.items():
        text_set = load_set("embedded", name, "test")
        assert (text_set.name, text_set.split, text_set.source) == (name, "test", "embedded")
        assert text_set.origin == info.origin
        assert version in text_set.origin
        assert f"a stand-in for {text_set.stands_in_for}" in text_set.origin
        assert text_set.sha256 == hash_documents(text_set.documents)
        assert len({document.id for document in text_set.documents}) == len(text_set.documents)
    assert default_sets("embedded") == ["docs", "source", "manual"]
    assert default_haystack("embedded") == "manual"


def test_same_in_another_process(tmp_path: Path) -> None:
    """With another folder, locale, hash seed and terminal width, and with docstrings optimised away."""
    code = (
        "import json, sys; from fwpkm_eval.data import load_set; before = set(sys.modules);"
        "hashes = {name: load_set('embedded', name, 'test').sha256 for name in ('docs', 'source', 'manual')};"
        "print(json.dumps([hashes, sorted(set(sys.modules) - before)]))"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "LC_ALL": "C",
        "PYTHONHASHSEED": "11",
        "PYTHONOPTIMIZE": "2",
        "COLUMNS": "33",
        "HOME": str(tmp_path),
        "FWPKM_EVAL_CACHE": os.devnull,  # made anew
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    hashes, imported = json.loads(done.stdout)
    assert hashes == {name: load_set("embedded", name, "test").sha256 for name in hashes}
    # Making the sets imports none of the modules they are made of.
    assert not {"turtle", "tkinter", "this", "antigravity", "unicodedata", "_lsprof", "imaplib"} & set(imported)
    assert list(tmp_path.iterdir()) == []


def test_manual_holds_nothing_of_this_machine() -> None:
    text = "\n".join(_texts("manual", "test"))
    for word in (
        os.path.dirname(os.__file__),
        sys.prefix,
        sys.base_prefix,
        str(ROOT),
        " at 0x",
        "Built-in subclasses",
    ):
        assert word not in text, word
    assert "inherited from" not in text
    assert "Return a copy of the string with leading and trailing whitespace removed." in text


def test_only_library_modules_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "x = 1\n"
    for name in ("good.py", "package/__init__.py", "package/inner.py", "crlf.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "crlf.py").write_bytes(b"\xef\xbb\xbfx = 1\r\n")
    (tmp_path / "latin.py").write_bytes(b"# caf\xe9\n")
    for name in (
        "site-packages/other.py",
        "dist-packages/other.py",
        "lib-dynload/other.py",
        "config-3.11-x86_64/other.py",
        "test/other.py",
        "package/tests/other.py",
        "package/__pycache__/other.py",
        "encodings/other.py",
        "_sysconfigdata__linux_x86_64-linux-gnu.py",
        "sitecustomize.py",
        "empty.py",
        "notes.txt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("" if name == "empty.py" else text)
    monkeypatch.setattr(embedded, "_library", lambda: tmp_path)
    sources = embedded._sources.__wrapped__()
    assert sources == {"crlf": text, "good": text, "package": text, "package.inner": text}
    assert list(sources) == sorted(sources)


def test_docstrings_under_full_names() -> None:
    source = (
        '"""Top."""\nimport os\nclass A:\n    """Of A."""\n    x = "not one"\n    async def f(self):\n'
        '        """Of f.\n\n        More.\n        """\n        def inner(): "Inner."\n'
        'try:\n    def g():\n        return 1\nexcept ImportError:\n    def g():\n        "Of g."\n'
    )
    expected = "m\n\nTop.\n\nm.A\n\nOf A.\n\nm.A.f\n\nOf f.\n\nMore.\n\nm.A.f.inner\n\nInner.\n\nm.g\n\nOf g.\n"
    assert docstrings("m", source) == expected
    assert docstrings("m", "print 'python 2'") == ""
    assert docstrings("m", "x = 1\0") == ""


def test_manual_pages_are_cleaned() -> None:
    page = f"""NAME
    m - things

MODULE REFERENCE
    https://x

CLASSES
    class A(object)
     |  A thing.
     |
     |  Built-in subclasses:
     |      B
     |      ... and 3 other subclasses
     |
     |  Methods defined here:
     |
     |  f(x=<function f at 0x7f00dead>)
     |      Do.
     |
     |  {"-" * 70}
     |  Data descriptors inherited from base.Object:
     |
     |  gone

    class B(object)
     |  Kept.

DATA
    path = '/somewhere'

FILE
    (built-in)

"""
    assert paragraphs(page) == [
        "NAME\n    m - things",
        "CLASSES\n    class A(object)\n        A thing.",
        "        Methods defined here:",
        "        f(x=<function f>)\n            Do.",
        "    class B(object)\n        Kept.",
    ]


def test_unknown_names() -> None:
    with pytest.raises(UserError, match=r"unknown set 'sauce', did you mean source\?.*docs, manual, source"):
        load_set("embedded", "sauce", "test")
    with pytest.raises(UserError, match=r"unknown manual split 'train'.*valid: test$"):
        load_set("embedded", "manual", "train")


def test_hash_tells_documents_apart() -> None:
    def digest(*documents: tuple[str, str]) -> str:
        return hash_documents(Document(*document) for document in documents)

    different = [
        digest(("a", "bc")),
        digest(("ab", "c")),
        digest(("a", "b"), ("c", "")),
        digest(("c", ""), ("a", "b")),
        digest(),
        digest(("a", "bć")),
    ]
    assert len(set(different)) == len(different)
    assert TextSet("n", "s", (Document("a", "ć1"),), "path", None, "o", "h").text_bytes == 3


def test_importing_the_package_is_light() -> None:
    code = "import sys, fwpkm_eval.data; sys.exit('numpy' in sys.modules or 'torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0


def _windows(text: str, size: int) -> set[str]:
    return {text[start : start + size] for start in range(len(text) - size + 1)}


def _squeezed(text: str) -> str:
    return "".join(text.replace("|", " ").split())


@settings(max_examples=60)
@given(
    protected=st.lists(st.text("abcdef", min_size=45, max_size=80), min_size=8, max_size=20),
    own=st.lists(st.text("ABCDEF", min_size=1, max_size=80), min_size=1, max_size=20),
    at=st.integers(0, 20),
    wrapped=st.booleans(),
    data=st.data(),
)
def test_a_shared_passage_is_always_cut(
    protected: list[str], own: list[str], at: int, wrapped: bool, data: st.DataObject
) -> None:
    secret = "\n".join(protected)
    start = data.draw(st.integers(0, len(secret) - SHARED_CHARACTERS))
    stolen = secret[start : start + SHARED_CHARACTERS]
    if wrapped:  # the same words, indented and with pydoc's bar beside them
        stolen = "\n".join(f"     |  {line}" for line in stolen.split("\n"))
    cut = PassageIndex([secret, "short"]).without_shared("\n".join([*own[:at], stolen, *own[at:]]))

    assert not _windows(secret, SHARED_CHARACTERS) & _windows(cut, SHARED_CHARACTERS)
    size = SHARED_SQUEEZED_CHARACTERS
    assert not _windows(_squeezed(secret), size) & _windows(_squeezed(cut), size)
    assert [line for line in cut.splitlines() if line in own] == own
    assert {line for line in cut.split("\n") if line not in own} <= {*stolen.split("\n"), ""}


def test_text_that_shares_nothing_is_untouched() -> None:
    index = PassageIndex(["abcdefgh " * 100, "ÄÖÜß|" * 100, ""])
    for text in ("", "x", "hello\r\nworld\n\n", "zyxw vuts " * 200, "abcdefgh " * 3):
        assert index.without_shared(text) == text
    assert PassageIndex([]).without_shared("abc " * 100) == "abc " * 100


def test_passages_below_the_limit_may_be_shared() -> None:
    """Half the limits is what the method can see; nothing shorter is cut."""
    secret = "".join(chr(0x4E00 + i) for i in range(2000))
    index = PassageIndex([secret])
    # The longest common run that is never seen holds no whole block.
    short = secret[1 : SHARED_SQUEEZED_CHARACTERS // 2]
    assert not index.shared(f"aaa{short}bbb").any()
    assert index.shared(f"aaa{secret[7 : 7 + SHARED_SQUEEZED_CHARACTERS]}bbb").any()


def test_a_text_that_is_mostly_a_copy_is_left_out_whole() -> None:
    shared = "".join(f"line {number} of what is held out\n" for number in range(20))
    own = "".join(f"{number} is a line of its own\n" for number in range(100))
    mostly, little = Document("mostly", shared + own[:300]), Document("little", shared + own)
    kept = embedded._without_shared([mostly, little], PassageIndex([shared]))
    assert [document.id for document in kept] == ["little"]
