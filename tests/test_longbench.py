"""LongBench: only the answer is scored, after the text was read as often as asked; missing data is named."""

from __future__ import annotations

import gzip
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from honest_model import HonestModel
from tiny_models import tiny_checkpoint, tiny_model

from fwpkm_eval import cli
from fwpkm_eval.data.questions import Question, QuestionSet, load_questions, question_sets
from fwpkm_eval.data.tokenizers import ByteTokenizer
from fwpkm_eval.errors import UserError
from fwpkm_eval.runs.rows import read_rows_csv
from fwpkm_eval.tasks.longbench import (
    AnswerLoss,
    LongBenchResult,
    LongBenchSettings,
    cut_middle,
    evaluate_longbench,
    longbench_rows,
)

pytestmark = pytest.mark.usefixtures("one_thread")
TOKENIZER = ByteTokenizer()
QUESTIONS = (
    Question("Alice lives in Rome. Bob lives in Oslo. " * 3, "Where does Bob live?", ("Oslo", "Norway")),
    Question("Water boils at a hundred degrees. " * 4, "When does water boil?", ("at a hundred degrees",)),
)
SETTINGS = LongBenchSettings(passes=(0, 1, 2), block=64)


def question_set(*questions: Question) -> QuestionSet:
    return QuestionSet("hotpotqa", "test", (), "path", None, "made for a test", "0" * 64, questions or QUESTIONS)


def tokens(text: str) -> torch.Tensor:
    return torch.from_numpy(TOKENIZER.encode(text))[None]


@pytest.mark.parametrize("write_chunk", ["haystack", 48])
def test_losses_are_those_of_the_protocol_done_plainly(write_chunk: int | str) -> None:
    model = tiny_model("gdn+swa:fwpkm@1").eval()
    result = evaluate_longbench(model, question_set(), replace(SETTINGS, write_chunk=write_chunk), TOKENIZER)
    for number, question in enumerate(QUESTIONS):
        state = model.initial_state()
        for passes in (0, 1, 2):
            with torch.no_grad():
                if passes:
                    _, state = model(tokens(question.context), state.fresh_sequence(), write_chunk=write_chunk)
                    state = model.flush(state)
                answer = tokens(f" {question.answers[0]}")
                whole = tokens(f"{question.context}\n\nQuestion: {question.question}\nAnswer:")
                logits, _ = model(torch.cat([whole, answer], 1), state.fresh_sequence(), updates="off")
            assert logits is not None
            log_p = torch.log_softmax(logits[0, whole.shape[1] - 1 : -1].double(), -1)
            expected = -float(log_p.gather(1, answer[0, :, None]).sum())
            loss = result.losses["open-book", passes][number]
            assert loss.tokens == answer.shape[1] == len(question.answers[0]) + 1
            assert loss.nats == pytest.approx(expected, rel=1e-4)


def test_answers_are_scored_and_not_decoded() -> None:
    model = HonestModel()
    evaluate_longbench(model, question_set(QUESTIONS[1]), replace(SETTINGS, passes=(1,)), TOKENIZER)
    assert [len(call.tokens) for call in model.calls if call.updates == "off"].count(1) == 0


def test_readings_help_a_model_that_remembers() -> None:
    """The honest model recalls what followed eight tokens, once it has read that often enough."""
    question = Question(
        "Q: Who? Question: Who?\nAnswer: Napoleon Bonaparte. " + "and so on. " * 9, "Who?", ("Napoleon",)
    )
    result = evaluate_longbench(HonestModel(recalls_after=2), question_set(question), SETTINGS, TOKENIZER)
    nats = {passes: result.losses["open-book", passes][0].nats for passes in (0, 1, 2)}
    assert nats[2] < nats[0] - 10
    assert abs(nats[1] - nats[0]) < 1


def test_nothing_but_the_context_is_written_and_each_question_starts_anew() -> None:
    model = HonestModel()
    evaluate_longbench(model, question_set(), SETTINGS, TOKENIZER)
    assert model.initial_states == len(QUESTIONS)
    contexts = [tuple(question.context.encode()) for question in QUESTIONS for _ in range(2)]
    assert model.written == contexts


def test_a_model_without_memory_is_scored_once_and_alike() -> None:
    model = HonestModel(has_fast_weights=False)
    result = evaluate_longbench(model, question_set(), SETTINGS, TOKENIZER)
    assert result.losses["open-book", 0] == result.losses["open-book", 2]
    assert model.written == []
    contexts = sum(len(question.context) for question in QUESTIONS)
    assert sum(len(call.tokens) for call in model.calls if call.logits == "none") == contexts


def test_perplexity_is_over_all_answer_tokens_and_its_interval_over_questions() -> None:
    losses = [AnswerLoss(2.0, 4), AnswerLoss(9.0, 6), AnswerLoss(1.0, 10)]
    result = LongBenchResult({("open-book", 1): losses}, seconds=1.0, tokens=100)
    rows = {row.metric: row for row in longbench_rows(HonestModel(), question_set(), SETTINGS, result)}
    nats, perplexity = rows["answer_nats_per_token"], rows["answer_perplexity"]
    assert (nats.value, nats.n) == (12 / 20, 20)
    assert perplexity.value == pytest.approx(math.exp(0.6))
    # The ratio's standard error, by hand: residuals 2 − 2.4, 9 − 3.6 and 1 − 6.
    half = 1.96 * math.sqrt((0.4**2 + 5.4**2 + 5.0**2) * 3 / 2) / 20
    assert (nats.ci_low, nats.ci_high) == pytest.approx((0.6 - half, 0.6 + half), rel=1e-4)
    assert perplexity.ci_high == pytest.approx(math.exp(0.6 + half), rel=1e-3)
    assert (perplexity.dataset, perplexity.passes, perplexity.protocol) == ("hotpotqa", 1, "open-book")
    assert "diverged" not in rows


def test_a_model_that_diverges_gives_a_row_that_says_so() -> None:
    result = evaluate_longbench(HonestModel(broken_from=120), question_set(), SETTINGS, TOKENIZER)
    rows = [row for row in longbench_rows(HonestModel(), question_set(), SETTINGS, result) if row.passes == 1]
    assert math.isnan(rows[0].value or 0)
    assert (rows[-1].metric, rows[-1].value) == ("diverged", 1.0)


def test_long_texts_are_cut_in_their_middle() -> None:
    text = np.arange(10)
    assert cut_middle(text, 5).tolist() == [0, 1, 2, 8, 9]
    assert cut_middle(text, 4).tolist() == [0, 1, 8, 9]
    assert cut_middle(text, 1).tolist() == [0]
    assert cut_middle(text, 10) is text
    assert cut_middle(text, None) is text


def line(question: Question, **more: Any) -> str:
    return json.dumps(
        {"context": question.context, "input": question.question, "answers": question.answers, "length": 9, **more}
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two checkpoints, and three sets of questions, each stored in another way."""
    root = tmp_path_factory.mktemp("longbench")
    tiny_checkpoint("gdn+swa:fwpkm@1", root / "fwpkm")
    tiny_checkpoint("gdn+swa", root / "plain")
    data = root / "data"
    (data / "mine").mkdir(parents=True)
    (data / "hotpotqa.jsonl").write_text(line(QUESTIONS[0], _id="q0") + "\n\n" + line(QUESTIONS[1]), encoding="utf-8")
    (data / "2wikimqa.jsonl.gz").write_bytes(gzip.compress(line(QUESTIONS[1]).encode()))
    (data / "mine" / "test.jsonl").write_text(line(QUESTIONS[0]), encoding="utf-8")
    return root


def test_questions_are_read_from_files(folder: Path) -> None:
    data = str(folder / "data")
    assert question_sets(data) == ["2wikimqa", "hotpotqa", "mine"]
    loaded = load_questions(data, "hotpotqa")
    assert loaded.questions == QUESTIONS
    assert [document.id for document in loaded.documents] == ["q0", "hotpotqa:3"]
    assert load_questions(data, "2wikimqa").questions == QUESTIONS[1:]
    assert load_questions(data, "mine").questions == QUESTIONS[:1]
    assert len({load_questions(data, name).sha256 for name in question_sets(data)}) == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "bad.jsonl:1: not JSON"),
        (b"[]", "bad.jsonl:1: not a JSON object"),
        (b'{"input": "?", "answers": ["a"]}', "'context' is missing"),
        (b'{"context": "c", "input": "?", "answers": []}', "'answers' is not a list of texts"),
        (b'{"context": "c", "input": "?", "answers": "a"}', "'answers' is not a list of texts"),
        (b"\xff", "is not UTF-8 text"),
        (rb'{"context": "\ud800", "input": "?", "answers": ["a"]}', "bad.jsonl:1: holds half of a surrogate pair"),
        (rb'{"context": "c", "input": "\ud800", "answers": ["a"]}', "bad.jsonl:1: holds half of a surrogate pair"),
        (rb'{"context": "c", "input": "?", "answers": ["a", "\ud800"]}', "holds half of a surrogate pair"),
        (rb'{"context": "c", "input": "?", "answers": ["a"], "_id": "\udfff"}', "holds half of a surrogate pair"),
        (b"\n", "holds no questions"),
    ],
)
def test_files_that_are_no_questions(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "bad.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_questions(str(tmp_path), "bad")


def test_what_a_download_left_is_no_set(folder: Path, tmp_path: Path) -> None:
    for name in ("hotpotqa/test.jsonl.part", "foo.jsonl.bak", "a.jsonl.b"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(UserError, match="no questions in"):
        question_sets(str(tmp_path))


def run(folder: Path, *arguments: str) -> int:
    models = f"{folder / 'fwpkm'},{folder / 'plain'}"
    return cli.main(["longbench", "--models", models, "--data", str(folder / "data"), "--quiet", *arguments])


@pytest.mark.usefixtures("without_workers")
def test_the_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    arguments = ("--protocol", "open-book", "--passes", "0,1", "--max-context", "64", "--out", str(out))
    assert run(folder, *arguments) == 0
    printed = capsys.readouterr().out
    assert "Answer perplexity: hotpotqa" in printed
    assert "mine" not in printed
    assert f"hotpotqa: {len(load_questions(str(folder / 'data'), 'hotpotqa').questions)} questions\n" in printed
    rows = read_rows_csv(out / "rows.csv")
    assert {(row.task, row.length) for row in rows} == {("longbench", 64)}
    assert {(row.model, row.write_chunk) for row in rows} == {("gdn+swa", ""), ("gdn+swa:fwpkm@1", "haystack")}
    assert {row.passes for row in rows} == {0, 1}
    before = (out / "rows.csv").read_bytes()
    assert run(folder, *arguments) == 0
    assert (out / "rows.csv").read_bytes() == before
    assert "published, with another tokeniser" in (out / "tables.md").read_text().lower()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "embedded"], "no LongBench questions: a folder is needed; give --data DIR"),
        (["--data", "nowhere"], "no LongBench questions: there is no folder 'nowhere'"),
        (["--sets", "hotpot"], "did you mean hotpotqa"),
        (["--protocol", "closed-book"], "passes 0 goes with protocol open-book alone"),
        (["--passes", "one"], "not numbers of readings"),
    ],
)
def test_wrong_use_is_one_line(
    folder: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, *arguments) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert errors.count("\n") == 1


def test_a_folder_without_questions(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"it needs <set>\.jsonl with context, input and answers"):
        question_sets(str(tmp_path))
