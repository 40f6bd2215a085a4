"""What a user of the Python interface gets wrong: one line that says what would be right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import tiny_checkpoint, tiny_model

from fwpkm_eval import evaluate, generate, load_model, load_state, memorise, save_state
from fwpkm_eval.errors import UserError
from fwpkm_eval.kernels import fwpkm_scan
from fwpkm_eval.reference_models.language_model import LanguageModel

TOKENS = torch.zeros(1, 4, dtype=torch.int64)


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return tiny_model("gdn+swa:fwpkm@1").eval()


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([[1, 2]], "tokens is a list; it must be a torch.Tensor"),
        (TOKENS.float(), "tokens is torch.float32; it must be int64"),
        (TOKENS.bool(), "tokens is torch.bool; it must be int64"),
        (TOKENS[0], r"tokens \[4\] must be \[B,T\]"),
        (TOKENS[:, :0], "at least one token"),
        (TOKENS + 257, "tokens holds 257; this model's tokens are 0 to 256"),
        (TOKENS - 1, "tokens holds -1; this model's tokens are 0 to 256"),
    ],
)
def test_tokens_that_are_none_are_refused(tokens: Any, message: str, model: LanguageModel) -> None:
    with pytest.raises(UserError, match=message):
        model(tokens)


def test_a_state_of_other_weights_is_refused(tmp_path: Path) -> None:
    """Of the same sizes, so that only the checkpoint tells them apart."""
    ours, theirs = (load_model(tiny_checkpoint("gdn+swa:fwpkm@1", tmp_path / str(n), seed=n)) for n in (0, 1))
    state = memorise(ours, "some text to remember")
    for call in (
        lambda: theirs(TOKENS, state),
        lambda: theirs(TOKENS, ours(TOKENS, state)[1].copy().fresh_sequence()),
        lambda: generate(theirs, "some", state),
        lambda: save_state(tmp_path / "x", theirs, state),
    ):
        with pytest.raises(
            UserError, match=f"weights {ours.weights_hash}; those of this gdn.* are {theirs.weights_hash}"
        ):
            call()
    save_state(tmp_path / "kept", ours, state)
    for weight in ours.parameters():
        weight.data.mul_(1.01)
    ours(TOKENS, state)  # its own, as it was trained on
    with pytest.raises(UserError, match="with weights"):
        load_state(tmp_path / "kept", ours)
    save_state(tmp_path / "now", ours, state)
    ours(TOKENS, load_state(tmp_path / "now", ours))


def test_text_in_text_out_says_what_is_wrong(model: LanguageModel) -> None:
    wrong: list[tuple[Callable[[], object], str]] = [
        (lambda: generate("gdn", "x"), "model is a str; it must be what load_model returns"),
        (lambda: memorise("gdn", "x"), "model is a str; it must be what load_model returns"),
        (lambda: generate(model, "\ud800"), "prompt holds half of a surrogate pair"),
        (
            lambda: memorise(model, "abc " * 40, write_chunk=0),
            "write_chunk is 0; it must be a number of tokens above 0",
        ),
        (lambda: memorise(model, "abc " * 40, write_chunk=False), "write_chunk is False"),
    ]
    for call, message in wrong:
        with pytest.raises(UserError, match=message):
            call()


def test_a_set_that_is_named_twice_is_measured_once(model: LanguageModel) -> None:
    once, twice = (evaluate(model, "ppl", sets=sets, tokens=300) for sets in ("docs", ["docs", "docs"]))
    assert len(once) == len(twice)


def test_tokens_of_32_bits_are_those_of_64(model: LanguageModel) -> None:
    assert torch.equal(model(TOKENS + 256)[0], model((TOKENS + 256).int())[0])


def test_arguments_in_another_order_are_refused(model: LanguageModel, tmp_path: Path) -> None:
    _, state = model(TOKENS)
    wrong: list[tuple[Callable[[], object], str]] = [
        (lambda: save_state(tmp_path / "x", state, model), "model is a ModelState; it must be what load_model returns"),
        (lambda: save_state(tmp_path / "x", model, None), "the state is a NoneType"),
        (lambda: load_state(tmp_path / "x", "gdn"), "model is a str"),
        (lambda: model(TOKENS, "state"), "the state is a str"),
        (lambda: model.initial_state("2"), "batch_size is '2'; it must be a whole number of at least 1"),  # type: ignore[arg-type]
    ]
    for call, message in wrong:
        with pytest.raises(UserError, match=message):
            call()
    assert not list(tmp_path.iterdir())


def test_queries_that_are_no_numbers_in_floating_point_are_refused() -> None:
    whole = torch.zeros(1, 4, 8, dtype=torch.int64)
    keys, values = torch.randn(1, 2, 4, 4), torch.randn(16, 8)
    with pytest.raises(UserError, match=r"query is torch\.int64; it must be in floating point"):
        fwpkm_scan(whole, whole.float(), None, keys, values, topk=2)
    with pytest.raises(UserError, match=r"target is torch\.bool"):
        fwpkm_scan(whole.float(), whole.bool(), None, keys, values, topk=2)


def test_a_state_is_shown_in_a_line(model: LanguageModel) -> None:
    _, state = model(torch.zeros(1, 70, dtype=torch.int64))
    assert repr(state) == "ModelState(position 70; memory of layer 1: 1 writes; 6 tokens queued)"
    _, without = tiny_model("gdn").eval()(TOKENS)
    assert repr(without) == "ModelState(position 4)"
