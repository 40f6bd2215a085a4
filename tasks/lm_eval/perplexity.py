"""Perplexity of a text set for any lm-eval model: each document scored whole, with words and bytes to divide by.

Arguments (lm-eval's ``metadata``): set (which one; "docs" of the embedded sets, else the only one there is; a task that
has it in its name takes no other), data ("embedded" or a folder of ``<set>/<split>.jsonl[.gz]``), bytes (budget: the
first so many bytes of the set, the last document cut there).

Word and byte perplexity and bits per byte do not depend on a tokenizer. lm-eval scores documents one by one: for our
models that is `ppl --scope document`, for others whatever context they have.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from fwpkm_eval.data import default_sets, load_set
from fwpkm_eval.errors import UserError
from fwpkm_eval.sizes import parse_size

if TYPE_CHECKING:
    import datasets

ARGUMENTS = ("set", "data", "bytes")
"""What `load` reads from a task's metadata."""


def load(named_set: str | None = None, **metadata: Any) -> dict[str, datasets.Dataset]:
    """The set's test split as documents. Raises UserError for a set that is not there, or not named."""
    import datasets

    data = str(metadata.get("data") or "embedded")
    name = str(metadata.get("set") or named_set or _only_set(data))
    if named_set not in (None, name):
        raise UserError(f"this task's set is {named_set}: take fwpkm_perplexity for set={name}")
    text_set = load_set(data, name, "test")
    budget = metadata.get("bytes")
    left = None if budget is None else budget if type(budget) is int else parse_size(str(budget))
    if left is not None and left < 1:
        raise UserError(f"a budget of bytes must be at least 1, not {left}")
    documents = []
    for document in text_set.documents:
        if left == 0:
            break
        text = document.text if left is None else _first_bytes(document.text, left)
        if left is not None:
            left -= min(left, len(document.text.encode("utf-8")))
        if text:  # without a byte there is nothing to divide by
            described = {"dataset": text_set.name, "data_hash": text_set.sha256[:16]}
            documents.append({"id": document.id, "text": text, **described})
    if not documents:
        raise UserError(f"set {text_set.name!r} holds no text")
    return {"test": datasets.Dataset.from_list(documents)}


def grade(doc: dict[str, Any], results: list[float]) -> dict[str, tuple[float, int]]:
    """(log-probability, what to divide it by) of one document, for lm-eval to sum over all."""
    words, size = len(re.split(r"\s+", doc["text"])), len(doc["text"].encode("utf-8"))
    logprob = results[0]
    return {
        "word_perplexity": (logprob, words),
        "byte_perplexity": (logprob, size),
        "bits_per_byte": (logprob, size),
    }


def _only_set(data: str) -> str:
    names = default_sets(data)
    if data == "embedded" and "docs" in names:
        return "docs"
    if len(names) > 1:
        raise UserError(f"{data!r} has {len(names)} sets: name one with set=NAME; valid: {', '.join(names)}")
    return names[0]


def _first_bytes(text: str, count: int) -> str:
    return text.encode("utf-8")[:count].decode("utf-8", errors="ignore")
