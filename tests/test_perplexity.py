"""Perplexity: every token scored once, and the memory carried exactly as far as the scope says."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from honest_model import HonestModel
from tiny_models import tiny_model

from fwpkm_eval.data import Document, TextSet, hash_documents
from fwpkm_eval.data.tokenizers import ByteTokenizer
from fwpkm_eval.errors import UserError
from fwpkm_eval.tasks.perplexity import (
    SCOPES,
    PerplexityResult,
    PerplexitySettings,
    evaluate_perplexity,
    perplexity_rows,
)

pytestmark = pytest.mark.usefixtures("one_thread")
TOKENIZER = ByteTokenizer()
EOS = TOKENIZER.eos
VERSE = "Round and round the rugged rock the ragged rascal ran. "


def text_set(*texts: str) -> TextSet:
    documents = tuple(Document(str(number), text) for number, text in enumerate(texts))
    return TextSet("verses", "test", documents, "path", None, "made for a test", hash_documents(documents))


def measure(model: Any, *texts: str, **settings: Any) -> PerplexityResult:
    return evaluate_perplexity(model, text_set(*texts), PerplexitySettings(**settings), TOKENIZER)


class SixteenBits(HonestModel):
    """A model whose logits come in bfloat16, as they are or made float32 again."""

    def __init__(self, wide: bool) -> None:
        super().__init__()
        self.wide = wide

    def forward(self, *arguments: Any, **options: Any) -> Any:
        logits, state = super().forward(*arguments, **options)
        logits = None if logits is None else logits.bfloat16()
        return (logits.float() if self.wide and logits is not None else logits), state


def test_logits_of_sixteen_bits_are_scored_in_float32() -> None:
    """A model from outside may give them so; the loss itself is not rounded."""
    narrow, wide = (measure(SixteenBits(wide), VERSE).nats for wide in (False, True))
    assert np.array_equal(narrow, wide)


def scored_tokens(*texts: str) -> list[int]:
    return [token for text in texts for token in [*text.encode(), EOS]]


def test_each_token_is_scored_once_each_document_from_its_end_token() -> None:
    model = HonestModel()
    texts = ("First document.", "Zwei: äöü.", "3")
    result = measure(model, *texts, segment=7, block=3)
    scored = scored_tokens(*texts)
    assert result.tokens == len(scored)
    assert result.byte_counts.tolist() == [int(token != EOS) for token in scored]
    read = [token for call in model.calls for token in call.tokens]
    assert read == [EOS, *scored[:-1]]


@pytest.mark.parametrize("scope", ["stream", "document", "segment"])
def test_equals_one_token_at_a_time(scope: str) -> None:
    texts = (VERSE * 5, VERSE * 2 + "But.", "x", VERSE * 4)
    result = measure(HonestModel(), *texts, segment=100, block=33, write_chunk=24, scope=scope)

    model = HonestModel().eval()
    expected = []
    state = model.initial_state()
    start_of_segment = 0
    scored = scored_tokens(*texts)
    document_starts = [0, *(place + 1 for place, token in enumerate(scored[:-1]) if token == EOS)]
    with torch.no_grad():
        for place, (token, target) in enumerate(zip([EOS, *scored], scored, strict=False)):
            new_document = scope == "document" and place in document_starts
            if place and (place - start_of_segment == 100 or new_document):
                start_of_segment = place
                state = model.flush(state).fresh_sequence()
                if scope == "segment" or new_document:
                    state = model.initial_state()
            logits, state = model(torch.tensor([[token]]), state, write_chunk=24)
            assert logits is not None
            expected.append(-float(torch.log_softmax(logits[0, 0].double(), 0)[target]))
    np.testing.assert_allclose(result.nats, expected, rtol=1e-5)


@pytest.mark.parametrize("scope", ["stream", "document", "segment"])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("name", ["gdn+swa:fwpkm@1", "fa:fwmlp@0", "fa:lact@0", "fa:pkm@1+fwpkm@0", "gdn+fa"])
def test_real_models_are_scored_as_one_token_at_a_time(name: str, frozen: bool, scope: str) -> None:
    """Segment borders fall into writes, blocks into segments, and a document ends amid a segment."""
    texts = (VERSE * 3, VERSE[:20])
    result = measure(tiny_model(name), *texts, segment=90, block=32, write_chunk=24, scope=scope, frozen=frozen)
    model = tiny_model(name).eval()
    expected = []
    state = model.initial_state()
    start_of_segment = 0
    scored = scored_tokens(*texts)
    second_document = len(texts[0]) + 1
    with torch.no_grad():
        for place, (token, target) in enumerate(zip([EOS, *scored], scored, strict=False)):
            new_document = scope == "document" and place == second_document
            if place - start_of_segment == 90 or new_document:
                start_of_segment = place
                state = (state if frozen else model.flush(state)).fresh_sequence()
                if scope == "segment" or new_document:
                    state = model.initial_state()
            updates: Any = "off" if frozen else "stream"
            logits, state = model(torch.tensor([[token]]), state, updates=updates, write_chunk=24)
            assert logits is not None
            expected.append(-float(torch.log_softmax(logits[0, 0].double(), 0)[target]))
    np.testing.assert_allclose(result.nats, expected, rtol=1e-4)


@pytest.mark.parametrize("name", ["gdn+swa:fwpkm@1", "fa:fwmlp@0", "fa:lact@0"])
def test_what_distinguishes_the_scopes_of_a_real_model(name: str) -> None:
    """Each scope starts its memory anew at another place, and from there on its losses are its own."""
    texts = (VERSE * 3, VERSE[:20])

    def nats(**settings: Any) -> Any:
        return measure(tiny_model(name), *texts, segment=60, write_chunk=24, **settings).nats

    stream, document, segment, frozen = nats(), nats(scope="document"), nats(scope="segment"), nats(frozen=True)
    first_segment, first_document = slice(0, 60), slice(0, len(texts[0]) + 1)
    np.testing.assert_array_equal(stream[first_segment], segment[first_segment])
    np.testing.assert_allclose(stream[first_document], document[first_document], rtol=1e-5)  # cut at other places
    assert np.abs(stream[60:] - segment[60:]).max() > 1e-4
    assert np.abs(stream[first_document.stop :] - document[first_document.stop :]).max() > 1e-4
    np.testing.assert_array_equal(stream[:25], frozen[:25])  # a write of 24 tokens comes with the token after them
    assert np.abs(stream[25:60] - frozen[25:60]).max() > 1e-4


def test_the_defaults_are_the_published_protocol() -> None:
    from fwpkm_eval.commands.ppl import PUBLISHED_BUDGET, command
    from fwpkm_eval.reference_models.config import model_config

    settings = PerplexitySettings()
    assert (settings.segment, settings.scope, settings.frozen, settings.write_chunk) == (4096, "stream", False, None)
    assert model_config("gdn:fwpkm@2,6,10", "paper").chunk_size == 512
    assert PUBLISHED_BUDGET == 8 * 2**20
    defaults = {option.name: option.default for option in command.params}
    assert (defaults["segment"], defaults["scope"], defaults["frozen"]) == ("4K", "stream", "also")


def test_how_the_text_is_cut_into_calls_changes_nothing() -> None:
    results = [measure(HonestModel(), VERSE * 9, segment=200, block=block).nats for block in (1, 13, 64, 1024)]
    for other in results[1:]:
        np.testing.assert_allclose(other, results[0], rtol=1e-6)


def test_sequences_start_afresh_in_each_segment_and_no_write_crosses_one() -> None:
    model = HonestModel()
    measure(model, VERSE * 6, "short", VERSE * 3, segment=128, block=50, write_chunk=48)
    read = [token for call in model.calls for token in call.tokens]
    segments = [tuple(read[start : start + 128]) for start in range(0, len(read), 128)]
    assert [call.position for call in model.calls[:6]] == [0, 50, 100, 0, 50, 100]
    writes = iter(model.written)
    for segment in segments:
        # The last queued token of a write opens the next one: the token after it is its target.
        written: list[int] = []
        while len(written) < len(segment):
            write = next(writes)
            assert written[-1:] in ([], [write[0]])
            written += write[1:] if written else write
        assert tuple(written) == segment
    assert next(writes, None) is None


def test_memory_is_carried_as_far_as_the_scope_says() -> None:
    nats = {
        scope: measure(HonestModel(), VERSE, VERSE, VERSE, segment=len(VERSE) + 1, scope=scope).nats.reshape(3, -1)
        for scope in ("stream", "document", "segment")
    }
    settled = slice(10, -1)  # at first there is no full context; the last write has no token to predict
    assert np.all(nats["stream"][1][settled] < nats["stream"][0][settled] - 1)
    for scope in ("document", "segment"):
        np.testing.assert_array_equal(nats[scope][1], nats[scope][0])
        np.testing.assert_array_equal(nats[scope][0], nats["stream"][0])

    doubled = {
        scope: measure(HonestModel(), VERSE * 2, VERSE * 2, segment=len(VERSE), scope=scope).nats
        for scope in ("document", "segment")
    }
    second_half = slice(len(VERSE) + 10, 2 * len(VERSE) - 10)
    assert np.all(doubled["document"][second_half] < doubled["segment"][second_half] - 1)


def test_a_write_is_seen_only_by_what_comes_after_it() -> None:
    first, second = VERSE, VERSE.swapcase()
    alone = measure(HonestModel(), first, segment=4096).nats
    followed = measure(HonestModel(), first, second, segment=4096).nats
    np.testing.assert_array_equal(followed[: len(first)], alone[: len(first)])


def test_a_frozen_run_writes_nothing() -> None:
    model = HonestModel()
    frozen = measure(model, VERSE * 4, segment=100, frozen=True)
    assert model.written == []
    assert {call.updates for call in model.calls} == {"off"}
    without = measure(HonestModel(has_fast_weights=False), VERSE * 4, segment=100)
    np.testing.assert_array_equal(frozen.nats, without.nats)
    assert measure(HonestModel(), VERSE * 4, segment=100).bits_per_byte < frozen.bits_per_byte


@pytest.mark.parametrize("tokens", [1, 20, 21, 22, 30, 10_000])
def test_the_budget_counts_scored_tokens_in_order(tokens: int) -> None:
    texts = ("Twenty bytes of text", "And some more of it.")
    whole = measure(HonestModel(), *texts)
    part = measure(HonestModel(), *texts, tokens=tokens)
    assert part.tokens == min(tokens, 42)
    np.testing.assert_array_equal(part.nats, whole.nats[:tokens])


def test_averages_are_what_their_names_say() -> None:
    text = "ä–€ and plain"
    result = measure(HonestModel(), text)
    nats = result.nats.astype(np.float64)
    assert result.tokens == len(text.encode()) + 1
    assert result.nats_per_token == pytest.approx(nats.mean(), rel=1e-12)
    assert result.perplexity == pytest.approx(math.exp(nats.mean()), rel=1e-12)
    # The end token's nats are no bits of text.
    assert result.bits_per_byte == pytest.approx(nats[:-1].sum() / math.log(2) / len(text.encode()), rel=1e-12)


def test_the_position_curve_covers_the_text_once() -> None:
    texts = (VERSE * 20, VERSE, VERSE * 3)
    result = measure(HonestModel(), *texts, segment=64)
    curve = result.position_curve()
    assert [(bucket.start, bucket.end) for bucket in curve] == [
        (0, 128),
        (128, 256),
        (256, 512),
        (512, 1024),
        (1024, 2048),
    ]
    assert sum(bucket.tokens for bucket in curve) == sum(len(text) for text in texts)
    assert curve[0].tokens == 128 + len(VERSE) + 128
    bits = sum(bucket.bits_per_byte * bucket.tokens for bucket in curve)
    assert bits == pytest.approx(result.bits_per_byte * sum(len(text) for text in texts), rel=1e-9)
    first = np.concatenate([result.nats[:128], result.nats[len(VERSE) * 20 + 1 :][: len(VERSE)]])
    first = np.concatenate([first, result.nats[-(len(VERSE) * 3 + 1) :][:128]]).astype(np.float64)
    assert curve[0].bits_per_byte == pytest.approx(first.mean() / math.log(2), rel=1e-9)


def test_rows() -> None:
    texts = text_set(VERSE * 4)
    settings = PerplexitySettings(segment=100, seed=3)
    model = HonestModel()
    result = evaluate_perplexity(model, texts, settings, TOKENIZER)
    rows = {(row.metric, row.length): row for row in perplexity_rows(model, texts, settings, result)}
    assert [metric for metric, length in rows if length is None] == [
        "perplexity",
        "nats_per_token",
        "bits_per_byte",
        "bits_per_byte_with_match_model",
        "documents_read",
    ]
    assert (rows["documents_read", None].value, rows["documents_read", None].n) == (1.0, 1)
    assert [length for metric, length in rows if metric == "bits_per_byte_at_position"] == [128, 256]
    row = rows["bits_per_byte", None]
    assert row.value == result.bits_per_byte
    assert (row.model, row.task, row.dataset, row.scope, row.arm) == (
        "fa:fwpkm@2",
        "ppl",
        "verses",
        "stream",
        "",
    )
    assert (row.n, row.tokens, row.write_chunk, row.seed) == (len(VERSE) * 4, result.tokens, "64", 3)
    assert (row.weights_hash, row.data_hash) == (model.weights_hash, texts.sha256[:16])
    frozen = perplexity_rows(model, texts, PerplexitySettings(frozen=True), result)
    assert {(row.arm, row.write_chunk) for row in frozen} == {("frozen", "")}


def test_a_match_model_copies_from_what_the_memory_may_hold() -> None:
    """Two documents of the same text: the second costs next to nothing where the memory is carried to it."""
    chooser = random.Random(0)
    noise = "".join(chooser.choices("abcdefghijklmnop", k=2000))
    found = {scope: measure(HonestModel(), noise, noise, scope=scope, segment=500, frozen=True) for scope in SCOPES}
    bits = {scope: result.bits_per_byte_with_match_model for scope, result in found.items()}
    assert bits["stream"] < 0.6 * found["stream"].bits_per_byte
    assert min(bits["document"], bits["segment"]) > 0.9 * found["document"].bits_per_byte
    assert found["stream"].fresh_at == (0,)
    assert found["document"].fresh_at == (0, len(noise) + 1)
    assert found["segment"].fresh_at == tuple(range(0, 2 * len(noise) + 2, 500))


def test_a_model_that_diverges_gives_rows_that_say_so() -> None:
    texts = text_set(VERSE * 4)
    model = HonestModel(broken_from=150)
    result = evaluate_perplexity(model, texts, PerplexitySettings(), TOKENIZER)
    rows = {row.metric: row for row in perplexity_rows(model, texts, PerplexitySettings(), result)}
    assert math.isnan(rows["perplexity"].value or 0)
    assert math.isnan(rows["bits_per_byte"].value or 0)
    assert math.isnan(rows["bits_per_byte_with_match_model"].value or 0)
    assert rows["diverged"].value == pytest.approx((result.tokens - 149) / result.tokens)
    fine = evaluate_perplexity(HonestModel(), texts, PerplexitySettings(), TOKENIZER)
    assert "diverged" not in {row.metric for row in perplexity_rows(model, texts, PerplexitySettings(), fine)}


def test_the_model_is_left_in_its_mode_and_progress_counts_every_token() -> None:
    model = HonestModel()
    model.train()
    seen: list[int] = []
    result = evaluate_perplexity(
        model, text_set(VERSE * 3), PerplexitySettings(segment=50, block=20), TOKENIZER, seen.append
    )
    assert model.training
    assert torch.is_grad_enabled()
    assert sum(seen) == result.tokens


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scope": "documents"}, "did you mean document"),
        ({"tokens": 0}, "tokens must be at least 1"),
        ({"segment": 0}, "segment must be at least 1"),
        ({"write_chunk": -4}, "write chunk must be at least 1"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        PerplexitySettings(**settings)


def test_an_empty_set_is_refused() -> None:
    with pytest.raises(UserError, match="no documents"):
        measure(HonestModel())
