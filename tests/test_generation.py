"""Generation: the same logits as one call over it all, nothing written, and the command ``generate``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny_models import tiny_model

from fwpkm_eval import cli
from fwpkm_eval.errors import UserError
from fwpkm_eval.generation import Sampling, decode, score
from fwpkm_eval.tasks.reading import Reader

pytestmark = pytest.mark.usefixtures("one_thread", "no_gradients")
MODELS = ["gdn", "fa", "gdn+swa:fwpkm@1", "gdn+swa:pkm@1", "gdn:fwmlp@1", "gdn:lact@1"]
PROMPT = torch.randint(256, (1, 70), generator=torch.Generator().manual_seed(1))
TEXT = torch.randint(256, (1, 90), generator=torch.Generator().manual_seed(2))


def after_reading(name: str, seed: int = 0) -> tuple[torch.nn.Module, torch.Tensor, object]:
    """A model that has memorised TEXT (if it can) and then read PROMPT: with the next token's logits, and its state."""
    model = tiny_model(name, seed).eval()
    reader = Reader(model, 32, block=37)
    memory = reader.memorise(TEXT, model.initial_state(1), 2)
    logits, state = reader.predict(PROMPT, memory.fresh_sequence(), write=False)
    return model, logits, state


def fast_weights(state: object) -> list[torch.Tensor]:
    found = []
    for memory in state.memories.values():  # type: ignore[attr-defined]
        kept = memory.memory
        found += list(kept.weights.values()) if hasattr(kept, "weights") else [kept.keys, kept.values]
    return [tensor.clone() for tensor in found]


@pytest.mark.parametrize("name", MODELS)
def test_each_step_has_the_logits_of_one_call_over_the_whole_sequence(name: str) -> None:
    model, logits, state = after_reading(name)
    steps = list(decode(model, logits, state, limit=40, sampling=Sampling(1.0, seed=5)))
    tokens = torch.stack([step.token for step in steps])[None]
    assert len(set(tokens[0].tolist())) > 10
    memory = Reader(model, 32).memorise(TEXT, model.initial_state(1), 2).fresh_sequence()  # type: ignore[operator]
    whole, _ = model(torch.cat([PROMPT, tokens], 1), memory, updates="off")
    expected = whole[0, PROMPT.shape[1] - 1 : -1]
    torch.testing.assert_close(torch.stack([step.logits for step in steps]), expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_scores_are_those_of_one_call_whatever_the_block(name: str) -> None:
    model, logits, state = after_reading(name)
    wanted = TEXT[:, :50]
    whole = score(model, logits, state, wanted)
    assert whole.logprobs.shape == whole.greedy.shape == (50,)
    following, _ = model(wanted[:, :-1], state, updates="off")
    expected = torch.log_softmax(torch.cat([logits[None], following[0]]).double(), -1)
    torch.testing.assert_close(whole.logprobs, expected.gather(1, wanted[0, :, None])[:, 0])
    assert whole.greedy.tolist() == (expected.argmax(-1) == wanted[0]).tolist()
    for block in (1, 7, 49, 50):
        torch.testing.assert_close(
            score(model, logits, state, wanted, block=block).logprobs, whole.logprobs, atol=1e-4, rtol=1e-4
        )
    assert score(model, logits, state, wanted[:, :0]).logprob == 0


def test_greedy_takes_the_most_probable_token_and_scoring_agrees() -> None:
    model, logits, state = after_reading("gdn+swa:fwpkm@1")
    steps = list(decode(model, logits, state, limit=8))
    assert [int(step.token) for step in steps] == [int(step.logits.argmax()) for step in steps]
    assert score(model, logits, state, torch.stack([step.token for step in steps])[None]).greedy.all()


def test_nothing_is_written_unless_asked_for() -> None:
    model, logits, state = after_reading("gdn+swa:fwpkm@1")
    before = fast_weights(state)
    first = [int(step.token) for step in decode(model, logits, state, limit=40, write_chunk=8)]
    assert all(torch.equal(a, b) for a, b in zip(before, fast_weights(state), strict=True))
    assert state.queued_tokens == 0  # type: ignore[attr-defined]
    assert first == [int(step.token) for step in decode(model, logits, state, limit=40)]
    list(decode(model, logits, state, limit=40, write=True, write_chunk=8))
    assert not all(torch.equal(a, b) for a, b in zip(before, fast_weights(state), strict=True))


def test_the_last_token_is_not_read_and_reading_is_counted() -> None:
    model, logits, state = after_reading("gdn")
    read: list[int] = []
    list(decode(model, logits, state, limit=5, progress=read.append))
    assert sum(read) == 4
    read.clear()
    score(model, logits, state, TEXT[:, :30], block=9, progress=read.append)
    assert sum(read) == 29


def test_drawing_depends_on_the_seed_alone() -> None:
    model, logits, state = after_reading("gdn")

    def drawn(seed: int, temperature: float = 1.0) -> list[int]:
        sampling = Sampling(temperature, seed)
        return [int(step.token) for step in decode(model, logits, state, limit=30, sampling=sampling)]

    assert drawn(3) == drawn(3)
    assert drawn(3) != drawn(4)
    assert drawn(3, 1e-4) == [int(step.token) for step in decode(model, logits, state, limit=30)]
    assert drawn(3, 1e-320) == drawn(3, 1e-4)
    with pytest.raises(UserError, match="temperature is -1"):
        Sampling(-1)
    with pytest.raises(UserError, match="not numbers"):
        list(decode(model, logits * float("nan"), state, limit=1, sampling=Sampling(1.0)))


NUMBER = "The secret number for ID-ab12 is 483920."


@pytest.fixture
def note(tmp_path: Path) -> Path:
    path = tmp_path / "note.txt"
    path.write_text(f"Some text before it. {NUMBER} The secret number for ID-zz99 is 111222. And the end.")
    return path


def test_generate_recalls_what_it_memorised(note: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompt = ["generate", "--model", "gdn+swa:fwpkm", "--prompt", NUMBER[:-7], "--tokens", "6"]
    remembers = ["--memorise", str(note), "--passes", "2", "--write-chunk", "haystack"]
    assert cli.main([*prompt, *remembers]) == 0
    captured = capsys.readouterr()
    assert captured.out == "483920\n"
    assert captured.err == f"memorised {len(note.read_text())} tokens, read 2 times\n"
    assert cli.main([*prompt, *remembers, "--json", "--quiet"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    facts = json.loads(captured.out)
    assert (facts["text"], facts["memorised_tokens"], facts["passes"]) == ("483920", len(note.read_text()), 2)
    assert facts["tokens"] == list(b"483920")
    assert facts["ended_by"] == "tokens"
    for how, times in ((["--memorise", str(note)], 1), ([], 0)):
        assert cli.main([*prompt, *how, "--json", "--quiet"]) == 0
        assert json.loads(capsys.readouterr().out)["passes"] == times
    assert cli.main(prompt) == 0
    assert capsys.readouterr().out != "483920\n"


def test_generate_starts_from_a_state_that_was_saved(note: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved = note.with_name("note.state")
    model = ["--model", "gdn+swa:fwpkm"]
    how = ["--passes", "2", "--write-chunk", "haystack", "--quiet"]
    assert cli.main(["state", "save", *model, "--text", str(note), *how, "--out", str(saved)]) == 0
    held = saved.read_bytes()
    capsys.readouterr()
    asked = ["generate", *model, "--prompt", NUMBER[:-7], "--tokens", "6"]
    for further in ((), ("--write",)):
        assert cli.main([*asked, "--from", str(saved), *further]) == 0
        assert capsys.readouterr().out == "483920\n"
    assert saved.read_bytes() == held
    assert cli.main([*asked[:1], "--model", "gdn+swa:pkm@2+fwpkm", "--from", str(saved)]) == 2
    assert "is a state of another model" in capsys.readouterr().err


def test_generate_ends_before_a_stop_text_and_shows_only_what_it_keeps(
    note: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["generate", "--model", "gdn+swa:fwpkm", "--prompt", NUMBER[:-7], "--memorise", str(note), "--quiet"]
    command += ["--write-chunk", "haystack", "--passes", "2"]
    assert cli.main([*command, "--stop", "92", "--stop", "nothing"]) == 0
    assert capsys.readouterr().out == "483\n"
    prompt = note.with_name("prompt.txt")
    prompt.write_text(NUMBER[:-7])
    assert cli.main([*command[:3], "--prompt-file", str(prompt), *command[5:], "--stop", "0", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["text"], facts["ended_by"], facts["prompt"]) == ("48392", "stop", NUMBER[:-7])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--model", "gdn+swa", "--memorise", "NOTE"],
            "gdn+swa has no fast weights to write into: leave --memorise out",
        ),
        (["--model", "gdn+swa", "--write"], "leave --write out"),
        (["--model", "gdn+swa", "--from", "NOTE"], "leave --from out"),
        (["--model", "gdn+swa:fwpkm", "--from", "NOTE"], "note.txt"),
        (["--model", "gdn+swa:fwpkm", "--from", "no/such.state"], "no/such.state"),
        (["--model", "gdn+swa:fwpkm", "--memorise", "no/such.txt"], "no/such.txt"),
        (["--model", "gdn+swa:fwpkm", "--memorise", "EMPTY"], "is empty"),
        (["--model", "gdn+swa:fwpkm", "--memorise", "BYTES"], "is not UTF-8 text (byte 1)"),
        (["--model", "gdn+swa:fwpkm", "--prompt", "a", "--prompt-file", "NOTE"], "one is enough"),
        (["--model", "gdn+swa,gdn+swa:fwpkm"], "names 2 models; one is needed"),
        (["--model", "gdn+swa:fwpkm", "--write-chunk", "haystak"], "haystak"),
        (["--model", "gdn+swa:fwpkm", "--passes", "3"], "--passes counts readings of the text of --memorise"),
    ],
)
def test_generate_says_in_one_line_what_is_wrong(
    arguments: list[str], words: str, note: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (note.parent / "empty.txt").write_text("")
    (note.parent / "bytes.txt").write_bytes(b"a\xff")
    files = {"NOTE": note, "EMPTY": note.parent / "empty.txt", "BYTES": note.parent / "bytes.txt"}
    assert cli.main(["generate", *(str(files.get(argument, argument)) for argument in arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert words in captured.err
