"""Measuring from the command line and from Python, on tiny untrained models."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from measuring_cases import FWPKM, PLAIN, models, run, two_checkpoints_and_two_sets
from tiny_models import tiny_checkpoint

import fwpkm_eval
from fwpkm_eval import api
from fwpkm_eval.commands.measure import print_plan, run_cells
from fwpkm_eval.commands.options import Given
from fwpkm_eval.errors import UserError
from fwpkm_eval.runs.cells import Cell, CellStore
from fwpkm_eval.runs.engine import Job, run_jobs
from fwpkm_eval.runs.execute import execute
from fwpkm_eval.runs.jobs import TextSource, biggest_first, guess_job, niah_jobs, perplexity_job, read_source
from fwpkm_eval.runs.manifest import check_or_create
from fwpkm_eval.runs.plan import Plan
from fwpkm_eval.runs.rows import Row, read_rows_csv
from fwpkm_eval.tasks import niah
from fwpkm_eval.tasks.niah import NiahSettings
from fwpkm_eval.tasks.perplexity import PerplexitySettings

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_checkpoints_and_two_sets(tmp_path_factory.mktemp("measuring"))


def jobs_of(folder: Path) -> list[Job]:
    data = str(folder / "data")
    from fwpkm_eval.data import load_set

    text = TextSource(data, load_set(data, "tales", "test"))
    needles = NiahSettings(
        lengths=(400,),
        passes=(1, 2),
        write_chunks=("haystack", 64),
        samples=2,
        protocols=("open-book", "closed-book"),
    )
    jobs = [guess_job(text, needles)]
    for source in (read_source(folder / "fwpkm"), read_source(folder / "plain")):
        jobs += [
            perplexity_job(source, text, PerplexitySettings(tokens=500)),
            *niah_jobs(source, text, needles),
        ]
    return biggest_first(jobs)


def comparable(rows: list[Row]) -> list[dict[str, Any]]:
    return [{**row.to_json(), "seconds": None} for row in rows]


def test_one_and_two_workers_and_no_worker_at_all_give_the_same_values(folder: Path, tmp_path: Path) -> None:
    jobs = jobs_of(folder)
    found = []
    for workers in (1, 2):
        store = CellStore(tmp_path / str(workers))
        outcome = run_jobs(jobs, store, execute, workers=workers)
        assert outcome.failures == []
        found.append(comparable(store.rows(outcome.keys)))
    assert found[0] == found[1]
    tokens: list[int] = []
    here = [row for job in jobs for row in execute(job, tokens.append)["rows"]]
    assert len(here) == len(found[0])
    for mine, theirs in zip(comparable(here), found[0], strict=True):
        assert mine == theirs
    assert sum(tokens) == pytest.approx(sum(job.work for job in jobs), rel=0.1)


def test_cells_refuse_weights_and_text_that_are_no_longer_those_planned_with(folder: Path, tmp_path: Path) -> None:
    job = next(job for job in jobs_of(folder) if job.cell.model == PLAIN)
    other = tiny_checkpoint(PLAIN, tmp_path / "other", seed=1)
    with pytest.raises(UserError, match="has changed since this run was planned"):
        execute(Job(job.cell, job.label, job.work, job.data, str(other)), lambda tokens: None)
    (tmp_path / "data" / "tales").mkdir(parents=True)
    (tmp_path / "data" / "tales" / "test.jsonl").write_text('{"text": "something else"}')
    with pytest.raises(UserError, match="'tales' has changed since this run was planned"):
        execute(Job(job.cell, job.label, job.work, str(tmp_path / "data"), job.checkpoint), lambda tokens: None)


def test_a_cell_keeps_every_answer(folder: Path) -> None:
    job = next(job for job in jobs_of(folder) if job.cell.model == FWPKM and job.cell.task == "niah")
    payload = execute(job, lambda tokens: None)
    assert len(payload["answers"]) == 2 * 2 * 2
    rows = {(row.protocol, row.passes): row for row in payload["rows"] if row.metric == "answer_logprob"}
    for (protocol, passes), row in rows.items():
        logprobs = [a["logprob"] for a in payload["answers"] if (a["protocol"], a["passes"]) == (protocol, passes)]
        assert row.value == pytest.approx(np.mean(logprobs))
    assert payload["settings"]["weights"] == rows["open-book", 1].weights_hash
    assert payload["peak_memory_bytes"] > 2**20


def test_a_memory_limit_is_refused_where_another_program_manages_memory(tmp_path: Path) -> None:
    given = Given("embedded", 0, "cpu", "float32", tmp_path / "out", True, False, engine="ray", memory_limit=2**30)
    with pytest.raises(UserError, match="--memory-limit is for --engine local; ray limits"):
        run_cells([], given, config={}, models=[], texts=[])
    assert not (tmp_path / "out").exists()


def test_niah_prints_a_table_and_keeps_a_run_that_can_be_gone_on_with(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["niah", "--models", models(folder), "--data", str(folder / "data"), "--haystack", "tales"]
    command += ["--lengths", "400", "--passes", "1,2", "--samples", "1", "--write-chunk", "haystack,64"]
    command += ["--closed-book", "--out", str(out)]
    assert run(*command) == 0
    table = capsys.readouterr().out
    assert table.count("closed-book") == table.count("open-book") == 4
    assert re.search(r"exact match, 1 reading +2 readings +right digits", table)
    asked = [re.findall("haystack|64 |open-book|closed-book", line) for line in table.splitlines() if "-book" in line]
    books = ("open-book", "closed-book")
    assert asked == [[chunk, book] for _ in range(2) for chunk in ("haystack", "64 ") for book in books], "as asked for"
    assert table.count("% (") == 8 * 2  # each rate of exact match with its interval
    rows = read_rows_csv(out / "rows.csv")
    assert {row.model for row in rows} == {FWPKM, PLAIN, "guess"}
    assert {row.write_chunk for row in rows} == {"haystack", "64"}
    manifest = json.loads((out / "manifest.json").read_text())
    assert len(manifest["cells"]) == 4
    assert manifest["finished"]
    assert set(manifest["weights"]) == {FWPKM, PLAIN}
    before = {path: path.stat().st_mtime_ns for path in (out / "cells").iterdir()}
    assert run(*command) == 0
    assert {path: path.stat().st_mtime_ns for path in (out / "cells").iterdir()} == before
    assert (out / "report.html").stat().st_size > 1000
    capsys.readouterr()
    assert run(*command, "--samples", "2") == 2
    assert "holds another run: samples is 1 there and 2 here" in capsys.readouterr().err


@pytest.mark.usefixtures("without_workers")
def test_a_checkpoint_with_a_label_stands_beside_another_of_its_name(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In rows, tables, traces and the commands of the report; what was measured is the same."""
    other, out = tiny_checkpoint(FWPKM, tmp_path / "other", seed=1, **{"fwpkm.topk": 2}), tmp_path / "out"
    names = f"{folder / 'plain'},{folder / 'fwpkm'},top2={other}"
    asked = ["--data", str(folder / "data"), "--only", "ppl,gates,trace", "--tokens", "300"]
    assert run("reproduce", "--models", names, *asked, "--out", str(out)) == 0
    labelled = f"{FWPKM} · top2"
    rows = read_rows_csv(out / "rows.csv")
    hashes = {row.model: row.weights_hash for row in rows if row.weights_hash}
    assert hashes[labelled] == read_source(other).weights_hash != hashes[FWPKM]
    assert {row.task for row in rows if row.model == labelled} == {"ppl", "gates", "trace"}
    frozen = [row for row in rows if row.model == labelled and row.arm == "frozen"]
    assert frozen, "what tells a reading without writes stands where it stood"
    assert f"| {labelled} |" in (out / "tables.md").read_text()
    assert f"top2={other}" in (out / "report.html").read_text(), "the manifest knows where it was"
    assert {path.name.partition("-4096")[0] for path in (out / "trace").iterdir()} == {
        "gdn-swa-fwpkm-1",
        "gdn-swa-fwpkm-1-top2",
    }
    assert f"{labelled} {hashes[labelled][:8]}: {other}" in capsys.readouterr().out
    alone = fwpkm_eval.evaluate(other, "ppl", str(folder / "data"), sets="tales", tokens=300)
    mine = [row.value for row in rows if (row.model, row.task, row.arm, row.dataset) == (labelled, "ppl", "", "tales")]
    assert mine == pytest.approx(alone["value"].tolist())
    assert run("generate", "--model", f"top2={other}", "--prompt", "x") == 2
    assert "has a label, which is for tables" in capsys.readouterr().err
    assert run("reproduce", "--models", f"x={FWPKM}", "--retrain", "--out", str(tmp_path / "retrained")) == 2
    assert f"x={FWPKM} is a labelled model" in capsys.readouterr().err


@pytest.mark.usefixtures("without_workers")
def test_traces_of_two_trainings_are_both_kept(folder: Path, tmp_path: Path) -> None:
    other = tiny_checkpoint(FWPKM, tmp_path / "other", seed=1)
    asked = ["--data", str(folder / "data"), "--length", "400", "--out", str(tmp_path / "out")]
    assert run("trace", "--models", f"{folder / 'fwpkm'},{other}", *asked) == 0
    stored = [json.loads(path.read_text()) for path in (tmp_path / "out" / "trace").iterdir()]
    assert {trace["weights_hash"] for trace in stored} == {
        read_source(one).weights_hash for one in (folder / "fwpkm", other)
    }


@pytest.mark.usefixtures("without_workers")
def test_a_run_that_is_gone_on_with_reads_each_cell_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["ppl", "--models", models(folder), "--data", str(folder / "data"), "--tokens", "300"]
    command += ["--out", str(tmp_path)]
    monkeypatch.setattr("fwpkm_eval.reporting.plots.build_plots", lambda *arguments: [])  # they take long
    assert run(*command) == 0
    report, rows = (tmp_path / "tables.md").read_text(), read_rows_csv(tmp_path / "rows.csv")
    keys = json.loads((tmp_path / "manifest.json").read_text())["cells"]
    read: list[str] = []
    load = CellStore.load

    def noted(store: CellStore, key: str) -> dict[str, Any] | None:
        read.append(key)
        return load(store, key)

    monkeypatch.setattr(CellStore, "load", noted)
    for part in ([], ["--shard", "2/2"]):
        assert run(*command, *part) == 0
        assert sorted(read) == sorted(keys)
        assert (tmp_path / "tables.md").read_text() == report
        assert read_rows_csv(tmp_path / "rows.csv") == rows
        read.clear()
    damaged = tmp_path / "cells" / f"{keys[1]}.json"
    damaged.write_text(damaged.read_text().replace('"value": ', '"value": 1'))
    capsys.readouterr()
    assert run(*command) == 0
    assert capsys.readouterr().err.count("is damaged and counts as missing") == 1
    assert [read.count(key) for key in keys if key != keys[1]] == [1] * (len(keys) - 1)
    assert comparable(read_rows_csv(tmp_path / "rows.csv")) == comparable(rows)
    assert CellStore(tmp_path).has(keys[1])


@pytest.mark.parametrize(
    "command", [["niah"], ["ppl"], ["continual"], ["gates"], ["trace"], ["reproduce"], ["ablate"], ["capacity"]]
)
def test_a_folder_of_another_run_is_refused_before_any_text_is_read(
    command: list[str],
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def read(*which: str) -> None:
        raise AssertionError(f"{which} was read")

    for module in ("fwpkm_eval.data", "fwpkm_eval.data.embedded", "fwpkm_eval.runs.plan"):
        monkeypatch.setattr(f"{module}.load_set", read)
    check_or_create(tmp_path, {"command": "another"})
    if command[0] not in ("ablate", "capacity"):
        command = [*command, "--models", str(folder / "fwpkm")]
    assert run(*command, "--out", str(tmp_path)) == 2
    assert 'holds another run: command is "another" there' in capsys.readouterr().err


@pytest.mark.usefixtures("without_workers")
@pytest.mark.parametrize(
    "command", [["niah", "--lengths", "400", "--samples", "2", "--write-chunk", "64"], ["ppl", "--tokens", "200"]]
)
def test_two_trainings_of_a_model_have_lines_of_their_own(
    command: list[str], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tiny_checkpoint(FWPKM, tmp_path / "other", seed=1)
    asked = f"{folder / 'fwpkm'},{other},{folder / 'plain'}"
    assert run(*command, "--models", asked, "--data", str(folder / "data"), "--workers", "1") == 0
    shown = capsys.readouterr().out
    for one in (folder / "fwpkm", other):
        told_apart = f"{FWPKM} {read_source(one).weights_hash[:8]}"
        assert f"{told_apart} " in shown
        assert f"\n{told_apart}: {one} (" in shown, "it is not of its scale's sizes"
    assert f"{PLAIN}  " in shown


def test_ppl_as_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["ppl", "--models", models(folder), "--data", str(folder / "data"), "--tokens", "300", "--json"]
    assert run(*command) == 0
    rows = [Row.from_json(row) for row in json.loads(capsys.readouterr().out)]
    whole = {(r.dataset, r.model, r.arm): r for r in rows if r.metric == "bits_per_byte"}
    assert set(whole) == {
        (name, model, arm)
        for name in ("tales", "notes")
        for model, arm in ((FWPKM, ""), (FWPKM, "frozen"), (PLAIN, ""))
    }
    assert all(row.tokens == 300 and math.isfinite(row.value or math.nan) for row in whole.values())
    assert whole["tales", FWPKM, ""].value != whole["tales", FWPKM, "frozen"].value


@pytest.mark.usefixtures("without_workers")
def test_parts_of_a_run_measured_one_after_the_other_make_the_whole(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["ppl", "--models", models(folder), "--data", str(folder / "data"), "--tokens", "300"]
    counts = []
    for part in ("1/3", "2/3", "3/3"):
        assert run(*command, "--out", str(tmp_path / "parts"), "--shard", part) == 0
        counts.append(len(list((tmp_path / "parts" / "cells").glob("*.json"))))  # the keys say which part has how many
        left = counts[-1] < 6
        assert ("cells are left to other parts" in capsys.readouterr().err) == left
        assert json.loads((tmp_path / "parts" / "manifest.json").read_text())["finished"] != left
    assert counts[0] < counts[-1] == 6
    assert run(*command, "--out", str(tmp_path / "whole")) == 0

    def values(name: str) -> list[tuple[object, ...]]:
        rows = read_rows_csv(tmp_path / name / "rows.csv")
        return [(row.model, row.dataset, row.arm, row.metric, row.value) for row in rows if row.unit != "tokens/s"]

    assert values("parts") == values("whole")


@pytest.mark.usefixtures("without_workers")
def test_ppl_prints_a_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["ppl", "--model", str(folder / "fwpkm"), "--data", str(folder / "data"), "--sets", "notes"]
    assert run(*command, "--tokens", "200", "--frozen", "only", "--scope", "document") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["set", "model"]
    assert lines[1].split()[:3] == ["notes", FWPKM, "frozen"]
    assert "documents" in lines[0]
    assert re.search(r" [123] of 3 ", lines[1])
    assert f": {folder / 'fwpkm'} (" in lines[2], "not the shipped one"
    assert len(lines) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["niah", "--lengths", "128", "--needles", "64"], "128 tokens is too short for 64 needles"),
        (["niah", "--passes", "0", "--closed-book"], "closed book needs at least 1 pass"),
        (["niah", "--passes", "one"], "are not numbers of readings"),
        (["niah", "--write-chunk", "hay"], "'hay' is neither a size nor 'haystack'"),
        (["niah", "--depths", "deep"], "are not numbers from 0 to 1"),
        (["niah", "--haystack", "tale"], "did you mean tales"),
        (["ppl", "--sets", "tales,note"], "did you mean notes"),
        (["ppl", "--sets", ""], "the list is empty: name at least one"),
        (["continual", "--domains", " "], "the list is empty: name at least one"),
        (["ppl", "--data", "hub"], "no set is prepared in"),
        (["ppl", "--models", "gdn+swa:fwpmk@1"], "did you mean fwpkm"),
        (["ppl", "--models", "no/such/folder"], "no checkpoint in no/such/folder: there is no such folder"),
        (["ppl", "--models", "gdn:fwmlp@1,gdn:fwmlp@0"], "no trained gdn:fwmlp@1 at scale micro is shipped"),
        (["reproduce", "--scale", "mikro"], "did you mean micro"),
        (["reproduce", "--only", "nia"], "did you mean niah"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.setenv("FWPKM_EVAL_DATA", str(folder / "nothing prepared"))
    command, *rest = arguments
    defaults = {"--models": models(folder), "--data": str(folder / "data")}
    for option, value in defaults.items():
        if option not in rest:
            rest += [option, value]
    assert run(command, *rest) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["report", ""], "it is empty: name a folder"),
        (["generate", "--model", "gdn+swa", "--prompt", "x", "--stop", ""], "--stop is empty"),
    ],
)
def test_an_empty_text_is_not_taken_for_none(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert errors.count("\n") == 1


def test_haystacks_longer_than_the_text_are_said_to_repeat_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = str(folder / "data")
    command = ["niah", "--models", str(folder / "plain"), "--data", data, "--haystack", "tales", "--samples", "1"]
    assert run(*command, "--passes", "1", "--lengths", "512") == 0
    assert "comes again" not in capsys.readouterr().err
    assert run(*command, "--passes", "1", "--lengths", "512,4K") == 0
    assert re.search(r"note: tales holds 2,\d{3} tokens: in haystacks of 4,096 the same text", capsys.readouterr().err)
    with pytest.warns(UserWarning, match="the same text comes again"):
        fwpkm_eval.evaluate(folder / "plain", "niah", data=data, sets="tales", lengths=4096, samples=1, passes=1)


def test_what_nobody_reads_to_its_end_is_kept_all_the_same(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``… --out DIR | head -1``: the report is built though what is shown meets a closed pipe."""

    def closed(*_: object, **__: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("fwpkm_eval.commands.trace_view.show_trace", closed)
    out = tmp_path / "run"
    command = ["trace", "--model", str(folder / "fwpkm"), "--data", str(folder / "data"), "--haystack", "tales"]
    assert run(*command, "--length", "512", "--out", str(out)) != 0
    assert (out / "report.html").exists()
    assert list((out / "trace").iterdir())


@pytest.mark.usefixtures("without_workers")
def test_a_cell_that_fails_is_named_and_the_exit_code_says_so(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(niah, "check_fit", lambda *arguments: None)
    command = ["niah", "--models", models(folder), "--data", str(folder / "data"), "--haystack", "tales"]
    assert run(*command, "--lengths", "300,400", "--needles", "8", "--samples", "1", "--passes", "1") == 1
    captured = capsys.readouterr()
    told = captured.err.splitlines()
    failed = [line for line in told if line.startswith("failed:")]
    assert len(failed) == 3
    assert all("8 needles in 300" in line and "300 tokens is too short for 8 needles" in line for line in failed)
    assert captured.err.count("too short") == 3  # each is told of once
    assert told[-1].startswith("3 of 7 cells failed: the lines with “failed:” above say why")
    assert "400" in captured.out


@pytest.mark.parametrize(
    ("tokens_per_second", "words"), [(100.0, "about 3 seconds"), (1.0, "about 5.0 minutes"), (0.01, "about 8.3 hours")]
)
def test_a_plans_time_is_said_in_a_fitting_unit(
    tokens_per_second: float, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = Plan(models=(), tokens={"": 1}, needles=(), tokens_per_second={"": tokens_per_second})
    print_plan(plan, [Job(Cell("ppl", PLAIN, {}), "text", 300)], 1)
    assert f"1 cell, 300 tokens: {words} with 1 worker\n" in capsys.readouterr().out


def test_load_model_and_evaluate(folder: Path) -> None:
    model = fwpkm_eval.load_model(folder / "fwpkm")
    assert model.config.name == FWPKM
    assert not model.training
    data = str(folder / "data")
    frame = fwpkm_eval.evaluate(model, "ppl", data=data, sets=["tales"], tokens=200, frozen=True)
    assert set(frame["dataset"]) == {"tales"}
    assert set(frame["arm"]) == {"frozen"}
    frame = fwpkm_eval.evaluate(model, "niah", data=data, lengths=300, samples=1, passes=1, write_chunks=["haystack"])
    assert list(frame["metric"][:3]) == ["exact_match", "digit_accuracy", "distractor_rate"]
    assert fwpkm_eval.load_model(str(folder / "plain"), dtype="float64").device.type == "cpu"


@pytest.mark.usefixtures("without_workers")
@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_a_run_in_another_type_than_the_checkpoints(dtype: str, folder: Path, tmp_path: Path) -> None:
    """From the command line, where the weights loaded are held against those planned; and the same from Python."""
    data, out = str(folder / "data"), tmp_path / "out"
    command = [
        "ppl",
        "--models",
        models(folder),
        "--sets",
        "tales",
        "--tokens",
        "200",
        "--data",
        data,
        "--dtype",
        dtype,
    ]
    assert run(*command, "--out", str(out)) == 0
    rows = {row.model: row for row in read_rows_csv(out / "rows.csv") if row.metric == "perplexity" and row.arm == ""}
    for name, where in ((FWPKM, "fwpkm"), (PLAIN, "plain")):
        stored = json.loads((folder / where / "model.json").read_text())["weights_hash"]
        assert (rows[name].dtype, rows[name].weights_hash) == (dtype, stored)
        loaded = fwpkm_eval.load_model(folder / where, dtype=dtype)
        frame = fwpkm_eval.evaluate(loaded, "ppl", data=data, sets=["tales"], tokens=200)
        (same,) = frame[frame["metric"] == "perplexity"].itertuples()
        assert (same.value, same.weights_hash, same.dtype) == (rows[name].value, stored, dtype)


def test_a_damaged_checkpoint_is_refused_before_anything_is_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = tiny_checkpoint(PLAIN, tmp_path / "damaged")
    content = bytearray((checkpoint / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (checkpoint / "model.safetensors").write_bytes(content)
    out = tmp_path / "out"
    assert run("niah", "--models", str(checkpoint), "--out", str(out)) == 2
    assert "the weights were changed" in capsys.readouterr().err
    assert not out.exists()


def test_what_cannot_be_loaded_or_evaluated(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no trained fa at scale micro is shipped: train it with 'fwpkm-eval train"):
        fwpkm_eval.load_model("fa")
    with pytest.raises(UserError, match="no checkpoint in"):
        fwpkm_eval.load_model(tmp_path)
    with pytest.raises(UserError, match="the name of the model is empty"):
        fwpkm_eval.load_model("")
    for several in (None, ["gdn+swa"]):
        with pytest.raises(UserError, match="it must be one model"):
            fwpkm_eval.evaluate(several)
    with pytest.raises(
        UserError, match="a Linear cannot be measured without config, has_fast_weights, weights_hash, ini"
    ):
        fwpkm_eval.evaluate(torch.nn.Linear(2, 2))
    plain = fwpkm_eval.load_model(folder / "plain")
    kept = {name: getattr(plain, name) for name in ("config", "has_fast_weights", "weights_hash", "flush")}
    own: Any = type("Own", (torch.nn.Module,), {**kept, "initial_state": lambda self, batch: ()})()
    with pytest.raises(UserError, match="a tuple, cannot be measured without fresh_sequence, assert_fresh: README"):
        fwpkm_eval.evaluate(own)
    with pytest.raises(UserError, match="sets names none"):
        fwpkm_eval.evaluate(folder / "plain", data=str(folder / "data"), sets=[])
    model = fwpkm_eval.load_model(folder / "plain")
    with pytest.raises(UserError, match="did you mean niah"):
        fwpkm_eval.evaluate(model, "nia")
    with pytest.raises(UserError, match="unknown setting 'passe', did you mean passes"):
        fwpkm_eval.evaluate(model, "niah", data=str(folder / "data"), passe=2)


def test_folder_names_of_models_are_plain_and_distinct() -> None:
    names = ["gdn", "gdn+swa", "gdn:pkm@2", "gdn+swa:pkm@6+fwpkm@2,10", "gdn:fwpkm@2,6", "gdn:fwpkm@26"]
    folders = [api.checkpoint_name(name, seed) for name in names for seed in (0, 1)]
    assert len(set(folders)) == len(folders)
    assert api.checkpoint_name("gdn+swa:pkm@6+fwpkm@2,10") == "gdn-swa-pkm-6-fwpkm-2-10"
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") for name in folders)
