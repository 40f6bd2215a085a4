"""``fwpkm-eval state`` and ``trace`` as they are typed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_models import tiny_checkpoint

from fwpkm_eval import cli, load_model, load_state, save_state
from fwpkm_eval.reference_models.state_files import read_state
from fwpkm_eval.tasks.trace_types import Trace

pytestmark = pytest.mark.usefixtures("one_thread")

SAVE = ["save", "--model", "model/"]
SECRET = "The secret number for ID-ab12 is 493817."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, two texts, and a state that has read both twice."""
    folder = tmp_path_factory.mktemp("states")
    tiny_checkpoint("gdn+swa:fwpkm@0,1", folder / "model")
    tiny_checkpoint("gdn+swa:fwpkm@0,1", folder / "other", seed=1)
    (folder / "prose.txt").write_text("It was the best of times, it was the worst of times. " * 4)
    (folder / "secret.txt").write_text(SECRET)
    (folder / "empty.txt").write_text("")
    (folder / "latin.txt").write_bytes(b"caf\xe9")
    texts = ["--text", str(folder / "prose.txt"), "--text", str(folder / "secret.txt")]
    out = ["--out", str(folder / "state"), "--quiet"]
    assert cli.main(["state", "save", "--model", str(folder / "model"), *texts, "--passes", "2", "--log", *out]) == 0
    return folder


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What a command that succeeds prints."""
    capsys.readouterr()
    assert cli.main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


def facts(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    return json.loads(said(capsys, *arguments, "--json"))


def test_show(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prose, secret = (len((folder / name).read_text()) + 1 for name in ("prose.txt", "secret.txt"))
    shown = facts(capsys, "state", "show", folder / "state")
    assert (shown["model"], shown["tokens_read"], shown["queued_tokens"]) == (
        "gdn+swa:fwpkm@0,1",
        2 * (prose + secret),
        0,
    )
    assert shown["spans"] == [
        {"name": "prose", "start": 0, "stop": prose},
        {"name": "secret", "start": prose, "stop": prose + secret},
    ]
    # 254 tokens in chunks of 64, twice, each reading flushed.
    assert [(layer["layer"], layer["writes"]) for layer in shown["layers"]] == [(0, 8), (1, 8)]
    assert all(0 < layer["slots_changed"] <= 256 and layer["norm"] > 0 for layer in shown["layers"])
    assert shown["log_bytes"] == 2 * 2 * (prose + secret - 1) * (16 + 16 + 1) * 4
    text = said(capsys, "state", "show", folder / "state")
    assert f"tokens {prose}:{prose + secret}  secret" in text
    assert "the write log" in text


@pytest.mark.parametrize(
    "command",
    [
        ["save", "--model", "model", "--text", "secret.txt", "--quiet"],
        ["reset", "state"],
        ["forget", "state", "--label", "secret"],
    ],
)
def test_a_state_is_replaced_only_if_told_so(
    command: list[str],
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(folder)
    out = tmp_path / "state"
    out.write_text("with a write log")
    capsys.readouterr()
    assert cli.main(["state", *command, "--out", str(out)]) == 2
    said_why = f"error: {out} is there already: choose another --out, or replace it with --force\n"
    assert capsys.readouterr().err == said_why
    assert out.read_text() == "with a write log"
    said(capsys, "state", *command, "--out", out, "--force")
    assert read_state(out).config.name == "gdn+swa:fwpkm@0,1"


def test_forget_by_label_and_by_span_are_the_same(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    span = facts(capsys, "state", "show", folder / "state")["spans"][1]
    said(capsys, "state", "forget", folder / "state", "--label", "secret", "--out", tmp_path / "by-label")
    place = f"{span['start']}:{span['stop']}"
    said(capsys, "state", "forget", folder / "state", "--span", place, "--out", tmp_path / "by-span")
    same = said(capsys, "state", "diff", tmp_path / "by-label", tmp_path / "by-span")
    assert same == "the fast weights are the same, bit for bit\n"
    layers = facts(capsys, "state", "diff", folder / "state", tmp_path / "by-label", "--top", "2")
    assert all(layer["slots_changed"] > 0 and layer["subkeys_changed"] == 0 for layer in layers)
    assert all(len(layer["top"]) == 2 for layer in layers)
    shown = facts(capsys, "state", "show", tmp_path / "by-label")
    assert [one["name"] for one in shown["spans"]] == ["prose"]
    assert [one["name"] for one in shown["forgotten"]] == ["secret"]
    assert "forgotten" in said(capsys, "state", "show", tmp_path / "by-label")
    said(capsys, "state", "forget", folder / "state", "--label", "secret", "--keys", "undone", "--out", tmp_path / "s")
    layers = facts(capsys, "state", "diff", folder / "state", tmp_path / "s")
    assert all(layer["subkeys_changed"] > 0 for layer in layers)


def test_reset_and_reading_on(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is read on from a state has places of its own, and is forgotten on its own."""
    model = load_model(folder / "model")
    said(capsys, "state", "reset", folder / "state", "--out", tmp_path / "reset")
    load_state(tmp_path / "reset", model).assert_fresh()
    common = ["--model", folder / "model", "--quiet", "--log"]
    more = ["--text", folder / "secret.txt", "--label", "again", "--out", tmp_path / "more"]
    said(capsys, "state", "save", *common, "--from", folder / "state", *more)
    shown = facts(capsys, "state", "show", tmp_path / "more")
    assert [(one["name"], one["stop"] - one["start"]) for one in shown["spans"]] == [
        ("prose", 213),
        ("secret", 41),
        ("again", 41),
    ]
    assert shown["spans"][2]["start"] == 254
    said(capsys, "state", "forget", tmp_path / "more", "--label", "again", "--keys", "undone", "--out", tmp_path / "un")
    assert "bit for bit" in said(capsys, "state", "diff", tmp_path / "un", folder / "state")


@pytest.mark.parametrize(("chunk", "writes"), [("32", 7), ("haystack", 1)])
def test_how_often_a_reading_is_written(
    chunk: str, writes: int, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--text", folder / "prose.txt", "--write-chunk", chunk, "--out", tmp_path / "state", "--quiet"]
    said(capsys, "state", "save", "--model", folder / "model", *arguments)
    shown = facts(capsys, "state", "show", tmp_path / "state")
    assert [layer["writes"] for layer in shown["layers"]] == [writes, writes]  # 212 pairs
    assert shown["log_bytes"] is None


def test_states_in_python(folder: Path, tmp_path: Path) -> None:
    model = load_model(folder / "model")
    state = load_state(folder / "state", model)
    save_state(tmp_path / "again", model, state)
    assert read_state(tmp_path / "again").log_bytes == read_state(folder / "state").log_bytes


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["show", "nothing"], "does not exist"),
        (["show", "prose.txt"], "is not a state file"),
        (["show", "model/model.safetensors"], "is not a state file"),
        (["forget", "state", "--out", "x"], "either --span A:B or --label NAME"),
        (["forget", "state", "--span", "1:2", "--label", "a", "--out", "x"], "either --span A:B or --label NAME"),
        (["forget", "state", "--label", "sekret", "--out", "x"], "did you mean secret?"),
        (["forget", "state", "--span", "9:5", "--out", "x"], "is empty"),
        (["forget", "state", "--span", "nine", "--out", "x"], "is not two token numbers"),
        (["forget", "state", "--span", "0:1000000", "--out", "x"], "goes past what was read, which is tokens 0:254"),
        ([*SAVE, "--text", "empty.txt", "--out", "x"], "is empty: there is nothing to read"),
        ([*SAVE, "--text", "latin.txt", "--out", "x"], "is not UTF-8 text (byte 3)"),
        ([*SAVE, "--text", "prose.txt", "--text", "prose.txt", "--out", "x"], "two texts are named"),
        ([*SAVE, "--text", "prose.txt", "--label", "a", "--label", "b", "--out", "x"], "2 labels for 1"),
        (["save", "--model", "other/", "--text", "prose.txt", "--from", "state", "--out", "x"], "with weights"),
        ([*SAVE, "--text", "secret.txt", "--from", "state", "--out", "x"], "two texts are named"),
        ([*SAVE, "--text", "prose.txt", "--from", "plain", "--log", "--out", "x"], "saved without --log"),
        (["save", "--model", "gdn+swa", "--text", "prose.txt", "--log", "--out", "x"], "no fast weights"),
        (["forget", "plain", "--span", "0:5", "--out", "x"], "save it with --log"),
        (["diff", "state", "of-other"], "different weights"),
    ],
)  # fmt: skip
def test_one_line_for_what_cannot_be_done(
    folder: Path,
    arguments: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(folder)
    for name, model in (("plain", "model/"), ("of-other", "other/")):
        if name in arguments and not Path(name).exists():
            said(capsys, "state", "save", "--model", model, "--text", "prose.txt", "--quiet", "--out", name)
    capsys.readouterr()
    assert cli.main(["state", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert len(error.splitlines()) == 1
    assert not Path("x").exists()


def test_trace_keeps_its_traces_for_the_report(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    (tmp_path / "data" / "prose").mkdir(parents=True)
    text = "".join(f"In the year {year} it was the best of times. " for year in range(1000, 1060))
    (tmp_path / "data" / "prose" / "test.jsonl").write_text(json.dumps({"text": text}) + "\n")
    options = ["--length", "300", "--needles", "2", "--write-chunk", "64", "--sample", "0,3", "--workers", "1"]
    options += ["--data", str(tmp_path / "data"), "--haystack", "prose"]
    found = facts(capsys, "trace", "--model", folder / "model", *options, "--out", out, "--quiet")
    traces = [Trace.from_json(one) for one in found["traces"]]
    assert [(trace.sample, trace.passes, len(trace.digits)) for trace in traces] == [(0, 2, 6), (3, 2, 6)]
    assert sorted(path.name for path in (out / "trace").iterdir()) == sorted(f"{trace.name}.json" for trace in traces)
    metrics = {row["metric"]: row for row in found["rows"]}
    assert list(metrics) == ["top_slot_hit_rate", "weighted_hit_rate", "weighted_answer_rate", "consensus_accuracy"]
    assert all(row["task"] == "trace" and 0 <= row["value"] <= 1 for row in found["rows"])
    assert [metrics[name]["n"] for name in ("top_slot_hit_rate", "consensus_accuracy")] == [24, 12]
    page = (out / "report.html").read_text()
    assert '<h2 id="trace">' in page
    assert '<a href="#trace">' in page
    assert traces[1].name in page
    # Once more: nothing is measured again, and the terminal view says the same.
    shown = said(capsys, "trace", "--model", folder / "model", *options, "--out", out, "--quiet")
    assert f"expected {traces[0].expected}" in shown
    assert "consensus accuracy" in shown


def test_a_report_without_traces_has_no_section(tmp_path: Path) -> None:
    from fwpkm_eval.reporting import build_report
    from fwpkm_eval.runs.rows import Row, write_rows_csv

    row = Row(model="gdn", scale="micro", task="ppl", dataset="docs", metric="bits_per_byte", value=1.5, n=9)
    write_rows_csv([row], tmp_path / "rows.csv")
    build_report(tmp_path)
    assert "#trace" not in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "gdn+swa"], "gdn+swa has no FwPKM"),
        (["--model", "model/", "--sample", "one"], "are not numbers from 0 on"),
        (["--model", "model/", "--passes", "0", "--protocol", "closed-book"], "closed book needs at least 1 pass"),
        (["--model", "model/", "--write-chunk", "0"], "Invalid value for '--write-chunk': size '0' is zero"),
    ],
)
def test_one_line_for_what_cannot_be_traced(
    folder: Path,
    arguments: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(folder)
    assert cli.main(["trace", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert len(error.splitlines()) == 1
