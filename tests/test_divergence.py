"""A memory that diverges is a result: noticed, told when and where, and the run goes on."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pandas
import pytest
import torch
from tiny_models import tiny_model

from fwpkm_eval.data import Document, TextSet, hash_documents
from fwpkm_eval.data.tokenizers import ByteTokenizer
from fwpkm_eval.reference_models.language_model import LanguageModel
from fwpkm_eval.reporting.measurements import broken_memories
from fwpkm_eval.runs.rows import Row, rows_to_frame
from fwpkm_eval.tasks.divergence import EXPLODED, DivergenceWatch
from fwpkm_eval.tasks.niah import NiahSettings, evaluate_niah, scoring_version
from fwpkm_eval.tasks.niah_rows import niah_rows
from fwpkm_eval.tasks.perplexity import PerplexitySettings, evaluate_perplexity, perplexity_rows

TOKENIZER = ByteTokenizer()
DOCUMENTS = (Document("a", "There was a king with a large jaw and a queen with a plain face. " * 30),)
TEXT = TextSet("books", "test", DOCUMENTS, "path", None, "made here", hash_documents(DOCUMENTS))
PERPLEXITY = PerplexitySettings(segment=256, tokens=1024)
NEEDLES = NiahSettings(lengths=(512,), passes=(1, 2), write_chunks=(64, "haystack"), samples=2, needles=(2,))


def breaking(layer: int, at: int, to: float) -> LanguageModel:
    """A model whose memory in a layer is spoiled by its `at`-th write (counted from 1)."""
    model = tiny_model("gdn+swa:fwpkm@0,1")
    plain = model.flush

    def forward(tokens: torch.Tensor, state: Any, **options: Any) -> Any:
        logits, state = LanguageModel.forward(model, tokens, state, **options)
        return logits, spoiled(state)

    def flush(state: Any, inplace: bool = False) -> Any:
        return spoiled(plain(state, inplace=inplace))

    def spoiled(state: Any) -> Any:
        memory = state.memories[layer].memory
        if memory.writes >= at:
            memory.values[3, 1] = to
        return state

    model.forward = forward  # type: ignore[method-assign,assignment]
    model.flush = flush  # type: ignore[method-assign]
    return model


def diverged(rows: list[Row]) -> dict[tuple[str, str], tuple[float | None, int | None]]:
    return {(row.metric, row.write_chunk): (row.value, row.n) for row in rows if row.metric.startswith("diverged_")}


@pytest.mark.parametrize("to", [math.nan, math.inf, -10 * EXPLODED])
def test_perplexity_tells_when_and_in_which_layer(to: float) -> None:
    model = breaking(1, at=6, to=to)  # a write every 64 tokens: the sixth is in the second segment of 256
    rows = perplexity_rows(model, TEXT, PERPLEXITY, evaluate_perplexity(model, TEXT, PERPLEXITY, TOKENIZER))
    assert diverged(rows) == {("diverged_after@1", "64"): (512, 3)}
    assert {"perplexity", "bits_per_byte"} <= {row.metric for row in rows}


def test_tokens_are_counted_from_where_the_memory_starts() -> None:
    settings = PerplexitySettings(segment=256, tokens=1024, scope="segment")
    model = breaking(0, at=3, to=math.inf)
    rows = perplexity_rows(model, TEXT, settings, evaluate_perplexity(model, TEXT, settings, TOKENIZER))
    assert diverged(rows) == {("diverged_after@0", "64"): (256, 4)}


def test_tokens_of_documents_before_it_are_not_counted() -> None:
    """The first document is too short for three writes; the second has its third in its first segment."""
    documents = (Document("a", "A short one. " * 8), *DOCUMENTS)
    text = TextSet("books", "test", documents, "path", None, "made here", hash_documents(documents))
    settings = replace(PERPLEXITY, scope="document")
    model = breaking(1, at=3, to=math.inf)
    rows = perplexity_rows(model, text, settings, evaluate_perplexity(model, text, settings, TOKENIZER))
    assert diverged(rows) == {("diverged_after@1", "64"): (256, 4)}


def test_needles_tell_after_how_much_reading() -> None:
    model = breaking(1, at=2, to=math.nan)
    rows = niah_rows(model, TEXT, NEEDLES, evaluate_niah(model, TEXT, NEEDLES, TOKENIZER))
    found = diverged(rows)
    # Every 64 tokens the second write is in the first reading; with one write a reading, in the second.
    assert found == {("diverged_after@1", "64"): (512, 4), ("diverged_after@1", "haystack"): (1024, 2)}
    assert {row.protocol for row in rows if row.metric == "exact_match"} == set(NEEDLES.protocols)


def test_a_sound_memory_is_not_told_of() -> None:
    model = tiny_model("gdn+swa:fwpkm@0,1")
    result = evaluate_perplexity(model, TEXT, PERPLEXITY, TOKENIZER)
    assert result.divergence.looks == 4
    assert not diverged(perplexity_rows(model, TEXT, PERPLEXITY, result))


def test_the_published_protocol_alone_looks_at_its_last_memory() -> None:
    settings = NiahSettings(
        lengths=(512,), passes=(1,), write_chunks=("haystack",), samples=2, protocols=("published",)
    )
    result = evaluate_niah(breaking(1, at=1, to=math.nan), TEXT, settings, TOKENIZER)
    found = diverged(niah_rows(tiny_model("gdn+swa:fwpkm@0,1"), TEXT, settings, result))
    assert set(found) == {("diverged_after@1", "haystack")}
    value, n = found["diverged_after@1", "haystack"]
    assert n == 2
    assert value is not None
    assert value > 512, "the question is read with the haystack"
    assert scoring_version(settings) == scoring_version(NEEDLES) + 1
    both = replace(settings, protocols=("open-book", "published"))
    assert scoring_version(both) == scoring_version(NEEDLES), "another protocol always looked"


@pytest.mark.parametrize("memory", ["fwpkm", "fwmlp", "lact"])
def test_every_fast_weight_is_looked_at(memory: str) -> None:
    state = tiny_model(f"gdn+swa:{memory}@0").initial_state()
    for tensor in state.fast_weights[0].values():
        watch = DivergenceWatch()
        watch.look(state, 1)
        assert not watch.first
        before = tensor.view(-1)[-1].item()
        tensor.view(-1)[-1] = math.nan
        watch.look(state, 7)
        tensor.view(-1)[-1] = before
        assert (watch.first, watch.affected, watch.looks) == ({0: 7}, {0: 1}, 2)


@pytest.mark.parametrize(("size", "layers"), [(5e3, set()), (-5e3, set()), (2e4, {0}), (-2e4, {0})])
def test_a_fast_weight_thousands_of_times_its_target_has_exploded(size: float, layers: set[int]) -> None:
    state, watch = tiny_model("gdn+swa:fwpkm@0").initial_state(), DivergenceWatch()
    state.fast_weights[0]["values"][0, 0] = size
    watch.look(state, 1)
    assert set(watch.first) == layers


def test_looking_changes_nothing() -> None:
    model = tiny_model("gdn+swa:fwpkm@0,1")
    state = model.initial_state()
    before = {name: tensor.clone() for name, tensor in state.fast_weights[0].items()}
    DivergenceWatch().look(state, 1)
    assert all(torch.equal(before[name], tensor) for name, tensor in state.fast_weights[0].items())


@pytest.mark.parametrize("tokens", [(8192, 4096), (4096, 8192)])
def test_the_report_tells_the_earliest(tokens: tuple[int, int]) -> None:
    common = {"model": "gdn:fwmlp@1", "task": "niah", "dataset": "books", "write_chunk": "haystack"}
    rows = [Row(metric="diverged_after@1", value=value, n=1, **common) for value in tokens]  # type: ignore[arg-type]
    frame: pandas.DataFrame = rows_to_frame(rows)
    assert broken_memories(frame) == [("gdn:fwmlp@1", "niah", "books", "haystack", 1, 4096)]
