"""The corpora of the published results: where each is, under which licence, and which documents are train and test.

Sizes are those of the publishers' pages and only help to decide what to fetch. Where nothing is published about
which documents are held out, the choice made here is said in `CorpusSplit.what`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fwpkm_eval.data.questions import PUBLISHED as LONGBENCH
from fwpkm_eval.errors import UserError, unknown

BYTES_PER_TOKEN = 5
"""Text to fetch for a token. English needs about 4.5 bytes with vocabularies of 32K to 50K: this is rather too much."""

TEST_TOKENS = 8 * 2**20
"""The published budget of a perplexity: 8 M tokens a set."""

_TEST_BYTES = TEST_TOKENS * BYTES_PER_TOKEN
_TRAIN_BYTES = 2**30


@dataclass(frozen=True)
class CorpusSplit:
    """Which documents of a corpus are one split of the set.

    Of the documents of `origin` (a split of the hub's data set, or a token file), `last` takes only so many from the
    end, and `but_last` leaves so many at the end out. `budget` is how many bytes of text are fetched unless told
    otherwise (None: all); `what` says it in words.
    """

    origin: str
    what: str
    last: int | None = None
    but_last: int = 0
    budget: int | None = _TEST_BYTES


@dataclass(frozen=True)
class Corpus:
    """A corpus: `name` is its set's name in a data folder, `title` that of the published results.

    `location` is a data set of the Hugging Face hub (with its `config`, if it has several), or the address of
    token arrays or files, with a slash at its end. `files`, if given, names the file to read in place of the hub's own
    description; `{source}` in it stands for the repository or a local copy. `text_field` is the field of the text.
    """

    name: str
    title: str
    location: str
    licence: str
    size: str
    splits: dict[str, CorpusSplit]
    published: str
    kind: Literal["text", "articles", "tokens", "questions"] = "text"
    config: str | None = None
    files: str | None = None
    text_field: str = "text"
    note: str = ""

    @property
    def where(self) -> str:
        """In words: where it is."""
        if self.kind == "tokens":
            return f"{self.location.rstrip('/')}, arrays of GPT-2 ids"
        return f"{self.location} on the Hugging Face hub" + (f", {self.config}" if self.config else "")


_TAIL = 10_000
_BEFORE_TAIL = 1_000


def _held_out_tail(whose: str) -> dict[str, CorpusSplit]:
    """The last documents are held out: 10,000 to test on, and 1,000 before them."""
    held_out = _TAIL + _BEFORE_TAIL
    return {
        "test": CorpusSplit("train", f"the last {_TAIL:,} documents ({whose})", last=_TAIL, budget=None),
        "valid": CorpusSplit(
            "train", f"the {_BEFORE_TAIL:,} documents before those (our choice)", held_out, _TAIL, None
        ),
        "train": CorpusSplit("train", "all documents before those, in order", None, held_out, _TRAIN_BYTES),
    }


_PUBLISHED_PERPLEXITY = "perplexity of 8 M tokens in segments of 4,096 (arXiv 2601.00671)"
_SECONDARY = "perplexity, in a secondary report only, which the paper does not confirm"

_TEXTS = (
    Corpus(
        name="fineweb_edu",
        title="Fineweb-Edu",
        location="HuggingFaceFW/fineweb-edu",
        config="sample-10BT",
        licence="ODC-By 1.0",
        size="9.7 M documents, 28 GB",
        splits=_held_out_tail("as published"),
        published=_PUBLISHED_PERPLEXITY,
    ),
    Corpus(
        name="lc64",
        title="LC64",
        # The publisher's bucket, gs://longcrawl64, is reported to be gone (three public repositories, 2026). Their
        # reports of this mirror: all blocks of the 52,131 held-out documents are there, about 313 of the 3,228 of the
        # training ones, scattered over the first 1,280; read with zarr, whatever is missing turns into zeros.
        location="hf://datasets/clankur/longcrawl64/",
        kind="tokens",
        licence="MIT, says the mirror; web text from RedPajama-v2 (Common Crawl terms of use)",
        size="fetched in blocks of 2,048 documents, 134 M tokens, about 250 MB",
        splits={
            "test": CorpusSplit("heldout.zarr", "the first held-out documents"),
            "train": CorpusSplit("train.zarr", "the first training documents there are", budget=_TRAIN_BYTES),
        },
        published=_PUBLISHED_PERPLEXITY,
        note=(
            "a mirror that lacks most training documents, since the publisher's bucket is reported to be gone; "
            "--source takes another copy, an array (.zarr) or a file of tokens (.bin), by path or address"
        ),
    ),
    Corpus(
        name="lambada",
        title="LAMBADA",
        location="cimec/lambada",
        licence="CC BY 4.0",
        size="2,662 novels, 1 GB of text",
        splits={"test": CorpusSplit("train", "novels of the train split, in order (as published)")},
        published=f"{_PUBLISHED_PERPLEXITY}; the haystack of needles",
    ),
    Corpus(
        name="wikitext103",
        title="WikiText-103",
        location="Salesforce/wikitext",
        config="wikitext-103-raw-v1",
        kind="articles",
        licence="CC BY-SA 3.0 and GFDL",
        size="28,595 articles, 550 MB of text",
        splits={
            "test": CorpusSplit("test", "all 60 test articles", budget=None),
            "valid": CorpusSplit("validation", "all 60 validation articles", budget=None),
            "train": CorpusSplit("train", "the first training articles", budget=_TRAIN_BYTES),
        },
        published=_SECONDARY,
    ),
    Corpus(
        name="openwebtext",
        title="OpenWebText",
        location="Skylion007/openwebtext",
        licence="CC0 1.0",
        size="8.0 M documents, 24 GB",
        splits=_held_out_tail("our choice: none is published"),
        published=_SECONDARY,
    ),
)

_PILE = {
    "dm_mathematics": "DM Mathematics",
    "freelaw": "FreeLaw",
    "philpapers": "PhilPapers",
    "pubmed_central": "PubMed Central",
    "ubuntu_irc": "Ubuntu IRC",
    "uspto_backgrounds": "USPTO Backgrounds",
}

CORPORA: dict[str, Corpus] = {
    corpus.name: corpus
    for corpus in (
        *_TEXTS,
        *(
            Corpus(
                name=name,
                title=f"Pile {title}",
                location=f"timaeus/pile-{name}",
                licence="none stated; each document keeps its own (the Pile, arXiv 2101.00027)",
                size="at most 100,000 documents of the Pile",
                splits={"test": CorpusSplit("train", "the first documents (our choice: none is published)")},
                published="continual learning, 4 M tokens of each domain in turn",
            )
            for name, title in _PILE.items()
        ),
        *(
            Corpus(
                name=name,
                title=f"LongBench {name}",
                location="THUDM/LongBench",
                kind="questions",
                files=f"zip://data/{name}.jsonl::{{source}}/data.zip",
                licence="MIT (each set's own licence goes with its texts)",
                size="150 or 200 questions, in an archive of 114 MB",
                splits={"test": CorpusSplit("train", "all questions", budget=None)},
                published="perplexity of the answers",
            )
            for name in LONGBENCH
        ),
    )
}
"""Every corpus by its set's name, those of the published perplexities first."""

PUBLISHED_TEXTS = ("fineweb_edu", "lc64", "lambada")
"""The sets of the published perplexities."""


def find_corpus(name: str) -> Corpus:
    """The corpus of that set. Raises UserError, with near matches, for a name that is not in the catalogue."""
    if name not in CORPORA:
        raise unknown("corpus", name, CORPORA)
    return CORPORA[name]


def find_split(corpus: Corpus, split: str) -> CorpusSplit:
    """A split of a corpus. Raises UserError if it has none of that name."""
    if split not in corpus.splits:
        if split in ("train", "valid"):
            raise UserError(f"{corpus.name} has no {split} split here; it has: {', '.join(corpus.splits)}")
        raise unknown(f"{corpus.name} split", split, corpus.splits)
    return corpus.splits[split]
