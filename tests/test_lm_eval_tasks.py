"""Our tasks in lm-eval, with models that are not ours; and the command ``lm-eval``."""

from __future__ import annotations

import json
import math
import os
import re
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import tiny_checkpoint

from fwpkm_eval import cli
from fwpkm_eval.data import load_set
from fwpkm_eval.data.tokenizers import ByteTokenizer
from fwpkm_eval.errors import UserError
from fwpkm_eval.runs.cells import Cell
from fwpkm_eval.runs.intervals import wilson_interval
from fwpkm_eval.runs.jobs import read_source
from fwpkm_eval.runs.rows import Row, read_rows_csv
from fwpkm_eval.tasks.niah import NiahSettings, draw_sample, haystack_tokens

lm_eval = pytest.importorskip("lm_eval")

from lm_eval.api.model import LM  # noqa: E402

from fwpkm_eval.harness.evaluation import RunSettings, run_task  # noqa: E402
from fwpkm_eval.harness.load_tasks import load_tasks  # noqa: E402
from fwpkm_eval.harness.result_rows import result_rows  # noqa: E402
from fwpkm_eval.harness.settings import ReadingSettings  # noqa: E402
from fwpkm_eval.harness.subjects import other_subject, our_subject  # noqa: E402
from fwpkm_eval.tasks.lm_eval import niah, perplexity  # noqa: E402
from fwpkm_eval.tasks.lm_eval.text_unit import BYTES, current_unit, lengths_in_tokens_of, unit_of  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
TINY = "gdn+swa:fwpkm@1"


class Reads(LM):
    """Text in, text out: finds the number it is asked for; any text has 8 bits for each byte. Shows no tokenizer."""

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        answers = []
        for request in requests:
            context, options = request.args
            question = context[context.rindex("The secret") :]
            (number,) = re.findall(re.escape(question) + r"(\d+)\.", context)
            answers.append(f" {number}."[: options["max_gen_toks"]])
        return answers

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        return [(-math.log(256) * len(request.args[1].encode()), False) for request in requests]

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        return [-math.log(256) * len(request.args[0].encode()) for request in requests]


class Words(Reads):
    """The same with a tokenizer: a token is a word, or what stands between two, and 0 ends a document."""

    eot_token_id = 0
    tokenizer_name = "words"

    def __init__(self) -> None:
        super().__init__()
        self.known = ["</s>"]

    def tok_encode(self, string: str, add_special_tokens: bool | None = None) -> list[int]:
        pieces = re.findall(r"</s>|\w+|\W", string)
        self.known += [piece for piece in dict.fromkeys(pieces) if piece not in self.known]
        return [self.known.index(piece) for piece in pieces]

    def tok_decode(self, tokens: list[int]) -> str:
        return "".join(self.known[token] for token in tokens)


def evaluate(lm: Any, name: str, **metadata: Any) -> dict[str, Any]:
    (loaded,) = load_tasks([name], metadata=metadata)
    results = lm_eval.simple_evaluate(
        model=lm, tasks=loaded.objects, bootstrap_iters=0, task_manager=_Given(loaded), log_samples=True
    )
    assert isinstance(results, dict)
    return results


class _Given:
    """Stands for a task manager: the tasks are loaded already."""

    def __init__(self, loaded: Any) -> None:
        self.task_index: dict[str, Any] = {}
        self.load = lambda tasks: {"tasks": loaded.tasks, "groups": {}, "group_map": {}}


def test_any_model_can_be_asked_for_needles_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    results = evaluate(Reads(), "fwpkm_niah", length=700, samples=3, needles=2)
    values = results["results"]["fwpkm_niah"]
    assert (values["exact_match,none"], values["digit_accuracy,none"], values["distractor_rate,none"]) == (1, 1, 0)
    assert values["answer_logprob,none"] == pytest.approx(-6 * math.log(256))
    for sample in results["samples"]["fwpkm_niah"]:
        context = sample["arguments"][0][0]
        assert context == sample["arguments"][1][0]
        assert context.endswith(" is ")
        assert len(context.removesuffix(sample["doc"]["question"]).encode()) == 700
        assert context.count(sample["doc"]["question"]) == 2
    without = evaluate(Reads(), "fwpkm_niah", length=700, samples=1, logprob=False)
    assert "answer_logprob,none" not in without["results"]["fwpkm_niah"]


def test_the_documents_are_the_samples_of_niah() -> None:
    documents = niah.load(length="1K", samples=2, needles=3, seed=5, depths="0.2,0.9", version=1)["test"]
    settings = NiahSettings(lengths=(1024,), needles=(3,), samples=2, seed=5, depths=(0.2, 0.9))
    tokens = haystack_tokens(load_set("embedded", "manual", "test"), ByteTokenizer())
    for index, document in enumerate(documents):
        sample = draw_sample(settings, tokens, ByteTokenizer(), 1024, 3, index)
        assert document["haystack"].encode() == bytes(sample.haystack.tolist())
        assert document["answer"] == sample.needles[sample.asked].value
        assert len(document["others"]) == 2
        assert document["depth"] == sample.depths[sample.asked]


def test_lengths_count_tokens_of_a_model_that_shows_its_tokenizer() -> None:
    lm = Words()
    assert current_unit() is BYTES
    with lengths_in_tokens_of(lm) as unit:
        assert (unit.name, unit.document_end) == ("words", "</s>")
        document = niah.load(length=400, samples=1)["test"][0]
        (loaded,) = load_tasks(["fwpkm_niah"], metadata={"length": 400, "samples": 2})
    assert current_unit() is BYTES
    assert document["length_in"] == "words"
    assert len(lm.tok_encode(document["haystack"])) == pytest.approx(400, abs=40)
    assert len(document["haystack"]) > 600
    results = lm_eval.simple_evaluate(model=lm, tasks=loaded.objects, bootstrap_iters=0, task_manager=_Given(loaded))
    assert results["results"]["fwpkm_niah"]["exact_match,none"] == 1
    assert unit_of(Reads()) is BYTES
    counts = unit.tokenizer.byte_counts(np.array(lm.tok_encode("two éé</s>")))
    assert counts.tolist() == [3, 1, 4, 0]


class Prefixing(Reads):
    """A tokenizer with a token for each character that puts a space before every text, as Llama 2's does, and takes
    one away where it reads tokens as text."""

    eot_token_id = 0
    tokenizer_name = "prefixing"

    def tok_encode(self, string: str, add_special_tokens: bool | None = None) -> list[int]:
        parts = re.findall(r"</s>|.", f" {string}", re.DOTALL)
        return [0 if part == "</s>" else ord(part) for part in (parts[1:] if string == "</s>" else parts)]

    def tok_decode(self, tokens: list[int]) -> str:
        return "".join("</s>" if token == 0 else chr(token) for token in tokens).removeprefix(" ")


class Upper(Prefixing):
    """One that cannot be put together from parts at all."""

    def tok_encode(self, string: str, add_special_tokens: bool | None = None) -> list[int]:
        return [ord(letter) for letter in f" {string.strip()}"]


def test_needles_stay_whole_for_a_tokenizer_that_puts_a_space_before_every_text() -> None:
    with lengths_in_tokens_of(Prefixing()) as unit:
        assert (unit.name, unit.document_end) == ("prefixing", "</s>")
        assert unit.tokenizer.encode("12").tolist() == [ord("1"), ord("2")]
        documents = niah.load(length=600, samples=3, needles=2)["test"]
    for document in documents:
        assert f"{document['question']}{document['answer']}." in document["haystack"]
        assert len(document["haystack"]) in (599, 600)  # a space at its start is taken for the one put there
        assert niah.grade(document, [f"{document['answer']}."])["exact_match"] == 1
    assert unit_of(Upper()) is BYTES


def test_text_keeps_its_length_where_documents_end_and_characters_are_cut() -> None:
    ids = np.array([*"aé".encode(), 256, 0xC3, 98, *"é".encode()[:1]])
    assert BYTES.text(ids) == "aé\n?b?"
    assert len(BYTES.text(ids).encode()) == len(ids)


@pytest.mark.parametrize(
    ("given", "metric", "digits"),
    [
        ("123456", "exact_match", 6),
        (" 123456. The", "exact_match", 6),
        ("654321.", "distractor_rate", 0),
        ("123450", "other_number_rate", 5),
        ("the 12", "no_number_rate", 0),
        ("", "no_number_rate", 0),
    ],
)
def test_an_answer_counts_as_one_kind_of_four(given: str, metric: str, digits: int) -> None:
    document = {"answer": "123456", "others": ["654321"], "index": 0, "depth": 0.5, "length": 9, "needles": 2}
    metrics = niah.grade(document, [given])
    assert metrics.pop("digit_accuracy") == digits / 6
    assert metrics.pop(metric) == 1
    assert len(metrics) == 3
    assert not any(metrics.values())


def test_perplexity_of_a_model_that_takes_a_byte_for_one_of_256(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    texts = ["one two\nthrée", "[1, 2]", "{{four}}"]
    (tmp_path / "mine" / "test.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    results = evaluate(Reads(), "fwpkm_perplexity", data=str(tmp_path))
    values = results["results"]["fwpkm_perplexity"]
    assert values["bits_per_byte,none"] == pytest.approx(8)
    assert values["byte_perplexity,none"] == pytest.approx(256)
    size, words = sum(len(t.encode()) for t in texts), 3 + 2 + 1
    assert values["word_perplexity,none"] == pytest.approx(256 ** (size / words))
    # Text is text: no template is filled in, and no list is read.
    assert [s["arguments"][0][0] for s in results["samples"]["fwpkm_perplexity"]] == texts


def test_a_budget_cuts_the_set_at_a_character(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "test.jsonl").write_text('{"text": "one"}\n{"text": "dé"}\n{"text": "three"}\n')
    assert perplexity.load(data=str(tmp_path), bytes=5)["test"]["text"] == ["one", "d"]
    assert perplexity.load(data=str(tmp_path), bytes="6")["test"]["text"] == ["one", "dé"]
    assert len(perplexity.load(bytes="2K")["test"]["text"][0].encode()) == 2048


def test_what_is_asked_for_wrongly_is_said_in_one_line(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "test.jsonl").write_text('{"text": "a"}\n')
    for name, metadata, words in (
        ("fwpkm_niah_8k", {"length": 512}, "length is 8192: take fwpkm_niah"),
        ("fwpkm_niah", {"length": 50}, "the shortest is 210"),
        ("fwpkm_niah", {"length": [512, 600]}, "length must be one whole number"),
        ("fwpkm_niah", {"lenght": 512}, "unknown task argument 'lenght', did you mean length"),
        ("fwpkm_niah", {"length": 512, "depths": "top"}, "depths 'top' are not numbers"),
        ("fwpkm_perplexity_docs", {"set": "manual"}, "set is docs: take fwpkm_perplexity"),
        ("fwpkm_perplexity", {"set": "dogs"}, "dogs"),
        ("fwpkm_perplexity", {"data": str(tmp_path)}, "has 2 sets: name one with set=NAME; valid: one, two"),
        ("fwpkm_perplexity", {"bytes": 0}, "at least 1"),
    ):
        with pytest.raises(UserError, match=re.escape(words)):
            load_tasks([name], metadata=metadata)
    with pytest.raises(UserError, match="no folder"):
        load_tasks(["fwpkm_niah"], [tmp_path / "none"])


def test_a_task_that_needs_the_hub_says_so_when_there_is_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets
    import huggingface_hub.constants

    (tmp_path / "task.yaml").write_text(
        "task: on_the_hub\ndataset_path: nobody/such-a-set\noutput_type: loglikelihood_rolling\ntest_split: test\n"
    )
    (tmp_path / "other.yaml").write_text("task: broken\ncustom_dataset: !function no_module.load\n")

    def no_network(*arguments: Any) -> None:
        raise socket.gaierror("no network")

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    for module in (huggingface_hub.constants, datasets.config):
        monkeypatch.setattr(module, "HF_HUB_OFFLINE", False)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match=r"task on_the_hub needs data that is not here: .*nobody/such-a-set"):
        load_tasks(["on_the_hub"], [tmp_path])
    with pytest.raises(UserError, match=r"task broken needs .*no_module"):
        load_tasks(["broken"], [tmp_path])
    assert not huggingface_hub.constants.HF_HUB_OFFLINE, "for the loading alone"
    assert not datasets.config.HF_HUB_OFFLINE


def test_results_become_rows_with_intervals() -> None:
    documents = [{"id": number, "length": 9} for number in range(4)]
    samples = [
        {"doc_id": number, "doc": document, "filter": name, "acc": number % 2, "ppl": 2.0 + number}
        for number, document in enumerate(documents)
        for name in ("none", "strict")
    ]
    values = {
        "alias": "toy",
        "sample_len": 4,
        "acc,none": 0.5,
        "acc_stderr,none": 0.28,
        "acc,strict": 0.5,
        "acc_stderr,strict": "N/A",
        "ppl,none": 3.5,
        "ppl_stderr,none": 0.5,
    }
    results = {
        "results": {"toy": values},
        "samples": {"toy": samples},
        "n-samples": {"toy": {"original": 9, "effective": 4}},
        "configs": {"toy": {"dataset_path": "some/set", "dataset_name": "small"}},
    }
    rows = {row.metric: row for row in result_rows(results, {"model": "m", "seed": 3})}
    assert set(rows) == {"acc", "acc,strict", "ppl"}
    for metric in ("acc", "acc,strict"):
        assert (rows[metric].ci_low, rows[metric].ci_high) == wilson_interval(2, 4)
        assert rows[metric].unit == "fraction"
    assert rows["ppl"].ci_low == pytest.approx(3.5 - 0.98, abs=1e-3)
    for row in rows.values():
        assert (row.task, row.dataset, row.n, row.length) == ("lm-eval:toy", "some/set:small", 4, 9)
        assert (row.model, row.seed, row.needles) == ("m", 3, None)
        assert re.fullmatch("[0-9a-f]{16}", row.data_hash)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return tiny_checkpoint(TINY, tmp_path / "models" / "tiny")


def test_the_command_stores_rows_and_does_not_run_again_what_is_finished(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["lm-eval", "--model", str(checkpoint), "--tasks", "fwpkm_niah,fwpkm_perplexity_docs", "--quiet"]
    arguments += ["--task-args", "length=300", "--task-args", "samples=2", "--task-args", "bytes=500"]
    assert cli.main([*arguments, "--out", str(out), "--json"]) == 0
    rows = [Row.from_json(row) for row in json.loads(capsys.readouterr().out)]
    by_name = {(row.task, row.metric): row for row in rows}
    assert len(by_name) == len(rows) == 9
    exact = by_name["lm-eval:fwpkm_niah", "exact_match"]
    assert (exact.model, exact.dataset, exact.n, exact.length, exact.needles) == (TINY, "manual", 2, 300, 5)
    assert (exact.scope, exact.write_chunk, exact.passes, exact.unit) == ("request", "64", 0, "fraction")
    assert by_name["lm-eval:fwpkm_perplexity_docs", "bits_per_byte"].value == pytest.approx(8, abs=0.5)
    assert exact.weights_hash == json.loads((checkpoint / "model.json").read_text())["weights_hash"]
    assert {(row.task, row.metric): row for row in read_rows_csv(out / "rows.csv")} == by_name
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["finished"]
    assert manifest["config"]["tasks"] == ["fwpkm_niah", "fwpkm_perplexity_docs"]
    assert "Tasks of the lm-evaluation-harness" in (out / "report.html").read_text()
    before = {path: path.stat().st_mtime_ns for path in (out / "cells").iterdir()}
    assert len(before) == 2
    assert cli.main([*arguments, "--batch-size", "5", "--out", str(out)]) == 0
    assert {path: path.stat().st_mtime_ns for path in (out / "cells").iterdir()} == before
    assert re.search(r"fwpkm_niah +exact_match +", capsys.readouterr().out)
    assert cli.main([*arguments, "--passes", "1", "--out", str(out)]) == 2
    assert "leave passes out" in capsys.readouterr().err


def test_a_carried_memory_starts_anew_with_each_task(checkpoint: Path) -> None:
    subject = our_subject(read_source(checkpoint, label="mine"), ReadingSettings(memory="stream"), quiet=True)
    found = []
    for _ in range(2):
        (loaded,) = load_tasks(["fwpkm_niah"], metadata={"length": 300, "samples": 2})
        rows = run_task(subject, loaded, RunSettings(bootstrap=0))["rows"]
        found.append({row.metric: row.value for row in rows})
        assert {row.model for row in rows} == {f"{TINY} · mine"}
    assert found[0]["answer_logprob"] < 0
    assert found[0] == found[1]


FAULTY_TASK = """
task: faulty
custom_dataset: !function faulty.load
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
process_results: !function faulty.grade
metric_list: [{metric: exact_match}]
"""


@pytest.mark.parametrize(("fault", "code"), [("ZeroDivisionError", 1), ("KeyboardInterrupt", 130)])
def test_the_code_of_a_task_that_raises_fails_that_task_alone(
    fault: str, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "faulty.yaml").write_text(FAULTY_TASK)
    (tmp_path / "faulty.py").write_text(
        "import datasets\n"
        "def load(**_):\n    return {'test': datasets.Dataset.from_list([{'question': 'a', 'answer': 'b'}])}\n"
        f"def grade(document, results):\n    raise {fault}('of the task')\n"
    )
    out = tmp_path / "out"
    arguments = ["lm-eval", "--model", "dummy", "--model-args", "", "--tasks", "faulty,fwpkm_niah", "--limit", "1"]
    arguments += ["--include-path", str(tmp_path), "--task-args", "length=300", "--quiet", "--out", str(out)]
    assert cli.main(arguments) == code
    said = capsys.readouterr().err
    if code == 1:
        assert "dummy  faulty: ZeroDivisionError: of the task\n" in said
        assert "faulty.py" in said  # in the traceback
        assert {row.task for row in read_rows_csv(out / "rows.csv")} == {"lm-eval:fwpkm_niah"}
    else:
        assert not (out / "rows.csv").exists()


def test_a_model_of_lm_evals_own_is_one_more_row(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["lm-eval", "--model", "dummy", "--model-args", "", "--tasks", "fwpkm_niah", "--limit", "1"]
    assert cli.main([*arguments, "--task-args", "length=300", "--quiet", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {(row["model"], row["n"], row["weights_hash"]) for row in rows} == {("dummy", 1, "")}


@pytest.fixture
def reads_as_hf(monkeypatch: pytest.MonkeyPatch) -> None:
    """`Reads` in the place of lm-eval's model hf."""
    monkeypatch.setattr("lm_eval.api.registry.get_model", lambda name: Reads)
    monkeypatch.setattr(Reads, "__init__", lambda self, **arguments: LM.__init__(self))


def key_of(arguments: str) -> str:
    return Cell("lm-eval", "hf", other_subject("hf", arguments, None, None).identity).key


@pytest.mark.usefixtures("reads_as_hf")
def test_other_weights_in_a_folder_are_another_model(tmp_path: Path) -> None:
    weights = tmp_path / "model" / "weights" / "1.bin"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"one")
    arguments = f"pretrained={tmp_path / 'model'},dtype=float32"
    first = key_of(arguments)
    # Links that lead nowhere, hidden files and results beside the weights are no part of them.
    (tmp_path / "model" / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "model" / ".lock").touch()
    for name in ("manifest.json", "rows.csv", "cells/1.json"):
        path = tmp_path / "model" / "run" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert key_of(arguments) == first
    os.utime(weights, ns=(0, 0))
    assert key_of(arguments) != first
    keys = {key_of(arguments), key_of(f"pretrained={weights}")}
    weights.write_bytes(b"four")
    os.utime(weights, ns=(0, 0))
    assert not keys & {key_of(arguments), key_of(f"pretrained={weights}")}


@pytest.mark.usefixtures("reads_as_hf")
def test_another_commit_of_a_branch_on_the_hub_is_another_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    arguments = "pretrained=some/model,revision=branch"
    keys = [key_of(arguments)]
    branch = tmp_path / "models--some--model" / "refs" / "branch"
    branch.parent.mkdir(parents=True)
    for commit in ("0" * 40, "1" * 40):
        branch.write_text(commit)
        keys.append(key_of(arguments))
    assert len(set(keys)) == 3


@pytest.mark.usefixtures("reads_as_hf")
def test_another_version_of_what_runs_a_model_is_another_model(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"vllm": "1.0"}
    monkeypatch.setattr("fwpkm_eval.harness.subjects._is_installed", versions.__contains__)
    monkeypatch.setattr("importlib.metadata.version", versions.__getitem__)
    without = key_of("pretrained=some/model")
    engine = type("LLM", (), {"__module__": "vllm.entrypoints.llm"})
    monkeypatch.setitem(globals(), "LLM", engine)  # as if this module imported it
    first = key_of("pretrained=some/model")
    assert first != without
    versions["vllm"] = "1.1"
    assert key_of("pretrained=some/model") not in (first, without)


def test_git_is_not_heard_outside_of_a_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    arguments = ["lm-eval", "--model", "dummy", "--model-args", "", "--tasks", "fwpkm_niah", "--limit", "1"]
    assert cli.main([*arguments, "--task-args", "length=300", "--quiet"]) == 0
    assert "git" not in capfd.readouterr().err
    assert lm_eval.evaluator.get_git_commit_hash is lm_eval.loggers.utils.get_git_commit_hash  # as it was


def test_what_a_model_of_lm_evals_needs_is_named_with_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from fwpkm_eval.harness import subjects

    def not_installed(name: str) -> Any:
        raise ModuleNotFoundError("No module named 'transformers'", name="transformers.models")

    monkeypatch.setattr("lm_eval.api.registry.get_model", not_installed)
    monkeypatch.setattr(subjects, "_is_installed", lambda package: package in ("torch", "peft"))
    assert cli.main(["lm-eval", "--model", "hf", "--model-args", "pretrained=x", "--tasks", "fwpkm_niah"]) == 2
    said = capsys.readouterr().err
    assert "needs the package transformers: pip install 'transformers>=" in said
    assert "'accelerate>=" in said
    assert "peft" not in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "gdn+swa:fwpkm", "--tasks", ","], "no task is named"),
        (["--model", "gdn+swa:fwpkm", "--tasks", "fwpkm_niah", "--task-args", "length"], "is not NAME=VALUE"),
        (["--model", "hff", "--model-args", "a=b", "--tasks", "fwpkm_niah"], "did you mean hf?"),
        (
            ["--model", "dummy", "--model-args", "", "--tasks", "fwpkm_niah", "--passes", "2"],
            "--passes is for models of ours; what lm-eval's take goes into --model-args",
        ),
        (
            ["--model", "dummy", "--model-args", "", "--tasks", "fwpkm_niah", "--dtype", "bfloat16"],
            "goes into --model-args, as in dtype=bfloat16",
        ),
        (["--model", "gdn+swa:fwpkm", "--tasks", "fwpkm_niah", "--memory", "off", "--passes", "2"], "forbids it"),
        (["--model", "gdn+swa:fwpmk", "--tasks", "fwpkm_niah"], "did you mean fwpkm?"),
    ],
)
def test_wrong_use_of_the_command_is_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["lm-eval", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert words in captured.err
