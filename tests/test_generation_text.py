"""Text in, text out, from Python: what is memorised can be asked for, as the command line does it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import tiny_model

import fwpkm_eval
from fwpkm_eval import cli, generate, load_model, memorise
from fwpkm_eval.errors import UserError
from fwpkm_eval.reference_models.language_model import LanguageModel

FACT = "It was a dark and stormy night. The secret number for ID-ab12 is 123456. The rain fell. "
TEXT = "Nothing happened on the way to the sea, and nobody spoke. " * 12 + FACT + "And so they went home again. " * 12
QUESTION = "What is the secret number for ID-ab12? The secret number for ID-ab12 is "


@pytest.fixture(scope="module")
def shipped() -> LanguageModel:
    model = load_model("gdn+swa:fwpkm")
    assert isinstance(model, LanguageModel)
    return model


def test_what_was_memorised_can_be_asked_for(shipped: LanguageModel) -> None:
    state = memorise(shipped, TEXT, passes=2)
    before = state.copy()
    assert generate(shipped, QUESTION, state, tokens=6) == "123456"
    assert state == before, "asking writes nothing"
    assert generate(shipped, QUESTION, tokens=6) != "123456", "and without the memory nobody can know"
    assert generate(shipped, QUESTION, state, tokens=6, stop="4") == "123"


def test_it_is_what_the_command_line_says(
    shipped: LanguageModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text").write_text(TEXT)
    asked = ["generate", "--model", "gdn+swa:fwpkm", "--memorise", str(tmp_path / "text"), "--prompt", QUESTION]
    for options, more in (
        (["--tokens", "12"], {"tokens": 12}),
        (["--tokens", "9", "--temperature", "1.5", "--seed", "3"], {"tokens": 9, "temperature": 1.5, "seed": 3}),
    ):
        settings: dict[str, Any] = more
        assert cli.main([*asked, *options, "--json", "--quiet"]) == 0
        there = json.loads(capsys.readouterr().out)["text"]
        assert generate(shipped, QUESTION, memorise(shipped, TEXT), **settings) == there


def test_a_text_is_written_on_what_was_memorised_before(shipped: LanguageModel) -> None:
    first = memorise(shipped, TEXT)
    kept = first.copy()
    both = memorise(shipped, TEXT.replace("ab12", "zz99").replace("123456", "777777"), first)
    assert first == kept, "the state given stays as it was"
    assert all(held.memory.writes > first.memories[n].memory.writes for n, held in both.memories.items())
    assert generate(shipped, QUESTION.replace("ab12", "zz99"), both, tokens=6) == "777777"
    # It is the state that reading the tokens gives, in the pieces in which tasks read.
    state = None
    with torch.no_grad():
        for piece in torch.tensor([list(TEXT.encode())]).split(1024, dim=1):
            _, state = shipped(piece, state, logits="none")
    assert state is not None
    assert memorise(shipped, TEXT) == shipped.flush(state).fresh_sequence()


def test_wrong_use_is_one_line(shipped: LanguageModel) -> None:
    other = tiny_model("gdn+swa:fwpkm@1").eval()
    state = memorise(other, "some words")
    wrong: list[tuple[Callable[[], object], str]] = [
        (lambda: memorise(shipped, ""), "text is empty"),
        (lambda: memorise(shipped, [1, 2]), "text is a list; it must be text"),  # type: ignore[arg-type]
        (lambda: memorise(shipped, "x", passes=0), "passes is 0; it must be at least 1"),
        (lambda: memorise(tiny_model("gdn"), "x"), "gdn has no fast weights to write into"),
        (lambda: memorise(shipped, "x", state), "this state is not one of a gdn"),
        (lambda: generate(shipped, "x", state), "this state is not one of a gdn"),
        (lambda: generate(shipped, b"x"), "prompt is a bytes; it must be text"),  # type: ignore[arg-type]
        (lambda: generate(shipped, "x", tokens=0), "tokens is 0; it must be at least 1"),
        (lambda: generate(shipped, "x", stop=[""]), "stop holds an empty text"),
        (lambda: generate(shipped, "x", temperature=-1), "temperature is -1"),
    ]
    for call, message in wrong:
        with pytest.raises(UserError, match=message):
            call()


def test_every_name_of_the_interface_is_there() -> None:
    for name in fwpkm_eval.__all__:
        assert getattr(fwpkm_eval, name)
        assert name in dir(fwpkm_eval)
