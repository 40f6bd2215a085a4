"""`data prepare --data hub`: what is planned, fetched, kept when cut, verified and named."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hub_cases import archive, go_offline, jsonl, parquet_folder
from loopback import Site, serve

from fwpkm_eval import cli
from fwpkm_eval.data import available_sets, default_haystack, default_sets, load_set
from fwpkm_eval.data.corpora import hub_folder, longcrawl, prepare, remote
from fwpkm_eval.data.corpora.hub import HubSource
from fwpkm_eval.data.corpora.prepare import Plan, make_plan
from fwpkm_eval.data.questions import load_questions, question_sets
from fwpkm_eval.errors import UserError

pytest.importorskip("datasets")

ROWS = [{"text": f"Novel {n}. " + "It was a dark night. " * (n + 1)} for n in range(60)]
WHOLE = sum(len(row["text"]) for row in ROWS)


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    go_offline(monkeypatch, tmp_path / "cache")
    monkeypatch.setattr(prepare, "PART_BYTES", 4_000)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where prepared sets go."""
    monkeypatch.setenv("FWPKM_EVAL_DATA", str(tmp_path / "prepared"))
    return tmp_path / "prepared"


@pytest.fixture
def novels(tmp_path: Path) -> str:
    """A copy of LAMBADA."""
    return str(parquet_folder(tmp_path / "copy", ROWS))


def lambada(folder: Path, novels: str, **changes: Any) -> Plan:
    return make_plan("lambada", "test", folder, source=novels, **changes)


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_prepared_set_is_read_as_hub_and_as_path(folder: Path, novels: str) -> None:
    said: list[str] = []
    done = prepare.prepare(lambada(folder, novels), said.append)
    assert files(folder) == ["lambada/test.json", "lambada/test.jsonl.gz"]
    by_hub, by_path = load_set("hub", "lambada", "test"), load_set(str(folder), "lambada", "test")
    assert by_hub.documents == by_path.documents
    assert [document.text for document in by_hub.documents] == [row["text"] for row in ROWS]
    facts = json.loads((folder / "lambada" / "test.json").read_text())
    assert facts == done.facts
    assert (facts["documents"], facts["text_bytes"], facts["sha256"]) == (60, WHOLE, by_hub.sha256)
    assert (facts["licence"], facts["source"], facts["empty_left_out"]) == ("CC BY 4.0", novels, 0)
    assert available_sets("hub")[0].name == default_haystack("hub") == "lambada"
    assert default_sets("hub") == ["lambada"]
    assert len(said) > 5
    assert "60 documents" in said[-1]
    assert f"60 documents, {WHOLE:,} bytes" in done.describe()


def test_what_is_there_is_verified_and_never_replaced(folder: Path, novels: str) -> None:
    first = prepare.prepare(lambada(folder, novels))
    before = first.plan.file.stat()
    again = prepare.prepare(lambada(folder, novels))
    assert again.already
    assert again.facts == first.facts
    assert first.plan.file.stat().st_mtime_ns == before.st_mtime_ns
    with pytest.raises(UserError, match=r"was prepared with another budget \(41943040, not 100\): remove it"):
        prepare.prepare(lambada(folder, novels, text_bytes=100))
    content = gzip.decompress(first.plan.file.read_bytes()).replace(b"dark", b"dull", 1)
    first.plan.file.write_bytes(gzip.compress(content))
    with pytest.raises(UserError, match=r"is not what was prepared: remove it, then: fwpkm-eval data prepare"):
        prepare.prepare(lambada(folder, novels))
    first.plan.facts_file.unlink()
    with pytest.raises(UserError, match=r"was not prepared here "):
        prepare.prepare(lambada(folder, novels))


class Killed(BaseException):
    """As an interrupt, or the power going."""


def kill_after(monkeypatch: pytest.MonkeyPatch, count: int) -> list[Any]:
    """Sources die after that many records; returns where each was started."""
    started: list[Any] = []
    records = HubSource.records

    def dying(self: HubSource, start: Any) -> Iterator[Any]:
        started.append(start)
        for number, record in enumerate(records(self, start)):
            if number == count and len(started) == 1:
                raise Killed
            yield record

    monkeypatch.setattr(HubSource, "records", dying)
    return started


@pytest.mark.parametrize("count", [0, 3, 30, 59])
def test_a_killed_run_goes_on_after_its_last_part(
    folder: Path, novels: str, monkeypatch: pytest.MonkeyPatch, count: int, tmp_path: Path
) -> None:
    whole = prepare.prepare(lambada(tmp_path / "in one go", novels))
    started = kill_after(monkeypatch, count)
    plan = lambada(folder, novels)
    with pytest.raises(Killed):
        prepare.prepare(plan)
    assert not plan.file.exists()
    assert not plan.facts_file.exists()
    parts = len(list(plan.parts_folder.glob("*.jsonl.gz")))
    assert (parts > 0) == (count > 20)
    with pytest.raises(UserError, match="no set is prepared in"):
        load_set("hub", "docs", "test")
    said: list[str] = []
    done = prepare.prepare(plan, said.append)
    assert done.facts["sha256"] == whole.facts["sha256"]
    assert done.plan.file.read_bytes() == whole.plan.file.read_bytes() or parts == 0
    assert (started[-1] is not None) == (parts > 0)
    assert ("going on after" in said[0]) == (parts > 0)
    assert not plan.parts_folder.exists()


def test_killed_while_joining(folder: Path, novels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = lambada(folder, novels)

    def die(*arguments: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(prepare, "_read_back", die)
        with pytest.raises(Killed):
            prepare.prepare(plan)
    assert not plan.file.exists()
    started = kill_after(monkeypatch, 10**6)
    assert prepare.prepare(plan).facts["documents"] == 60
    assert started == [[3, 0, 0, 60]], "nothing is read again"


@pytest.mark.parametrize("damage", ["part", "counts", "missing"])
def test_a_damaged_part_is_fetched_again(
    folder: Path, novels: str, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    started = kill_after(monkeypatch, 50)
    plan = lambada(folder, novels)
    with pytest.raises(Killed):
        prepare.prepare(plan)
    parts = sorted(plan.parts_folder.glob("*.jsonl.gz"))
    assert len(parts) > 3
    if damage == "part":
        parts[1].write_bytes(parts[1].read_bytes()[:-1])
    elif damage == "counts":
        parts[1].with_name("00001.json").write_text("{")
    else:
        parts[1].unlink()
    done = prepare.prepare(plan)
    first = json.loads(gzip.decompress(done.plan.file.read_bytes()).splitlines()[0])
    assert first == {"id": "test:1", "text": ROWS[0]["text"]}
    assert [document.text for document in load_set("hub", "lambada", "test").documents] == [r["text"] for r in ROWS]
    assert started[-1][3] < 30


def test_parts_of_another_request_are_not_gone_on_with(
    folder: Path, novels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = kill_after(monkeypatch, 50)
    with pytest.raises(Killed):
        prepare.prepare(lambada(folder, novels))
    done = prepare.prepare(lambada(folder, novels, text_bytes=5_000))
    assert started[-1] is None
    assert 5_000 <= done.facts["text_bytes"] < 6_000


def test_a_run_that_goes_on_reads_the_revision_it_began_with(
    folder: Path, novels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    from fwpkm_eval.data.corpora import hub

    versions = iter(["first", "second"])
    monkeypatch.setattr(hub, "newest_revision", lambda location: next(versions))
    load = datasets.load_dataset
    asked: list[Any] = []

    def from_copy(path: str, config: str | None, split: str, streaming: bool, revision: str) -> Any:
        asked.append((path, revision))
        return load(novels, split=split, streaming=streaming)

    monkeypatch.setattr(datasets, "load_dataset", from_copy)
    kill_after(monkeypatch, 40)
    plan = make_plan("lambada", "test", folder)
    with pytest.raises(Killed):
        prepare.prepare(plan)
    assert prepare.prepare(plan).facts["revision"] == "first"
    assert asked == [("cimec/lambada", "first")] * 2


def test_a_full_disk_keeps_what_is_there(folder: Path, novels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = lambada(folder, novels)
    sync = os.fsync
    written = 0

    def full(handle: int) -> None:
        nonlocal written
        written += 1
        if written > 8:
            raise OSError(28, "No space left on device")
        sync(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        UserError, match=r"No space left on device \(\d parts are kept: the same command goes on\)"
    ) as e:
        prepare.prepare(plan)
    assert "\n" not in str(e.value)
    assert not plan.file.exists()
    assert not list(plan.parts_folder.glob(".*.tmp"))
    monkeypatch.setattr(os, "fsync", sync)
    assert prepare.prepare(plan).facts["documents"] == 60


def test_budgets(folder: Path, novels: str) -> None:
    done = prepare.prepare(lambada(folder, novels, tokens=1_000))
    assert done.plan.budget == 5_000
    last = len(ROWS[done.facts["documents"] - 1]["text"])
    assert done.facts["text_bytes"] - last < 5_000 <= done.facts["text_bytes"]
    with pytest.raises(UserError, match="--tokens or --bytes, not both"):
        lambada(folder, novels, tokens=1, text_bytes=1)
    with pytest.raises(UserError, match=r"21,474\.8 MB of text are too much for a split .*: at most 3,221\.2 MB"):
        lambada(folder, novels, tokens=2**32)
    assert make_plan("fineweb_edu", "train", folder, tokens=2**32).budget == 5 * 2**32


def test_a_split_without_a_budget_that_is_too_large(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "MAX_TEXT_BYTES", 10_000)
    copy = parquet_folder(tmp_path / "web", ROWS)
    with pytest.raises(UserError, match=r"openwebtext/test is more than 0\.0 MB of text: give --bytes"):
        prepare.prepare(make_plan("openwebtext", "test", folder, source=str(copy)))


def test_empty_documents_are_left_out_and_counted(folder: Path, tmp_path: Path) -> None:
    rows = [{"text": "a b"}, {"text": " "}, {"text": "c d"}, {"text": ""}]
    copy = jsonl(tmp_path / "novels.jsonl", rows)
    done = prepare.prepare(lambada(folder, str(copy)))
    assert (done.facts["documents"], done.facts["empty_left_out"]) == (2, 2)
    assert "2 documents, 2 empty ones left out" in done.describe()
    assert [document.id for document in load_set("hub", "lambada", "test").documents] == ["test:1", "test:3"]
    nothing = jsonl(tmp_path / "nothing.jsonl", rows[1:2])
    with pytest.raises(UserError, match="gave no documents for lambada/test"):
        prepare.prepare(lambada(tmp_path / "other", str(nothing)))


def test_a_shard_cut_short_leaves_no_set(folder: Path, novels: str) -> None:
    shard = Path(novels) / "data" / "train-00002.parquet"
    good = shard.read_bytes()
    shard.write_bytes(good[:200])
    plan = lambada(folder, novels)
    with pytest.raises(UserError, match=r"lambada: cannot read .* parts are kept: the same command goes on\)"):
        prepare.prepare(plan)
    assert not plan.file.exists()
    shard.write_bytes(good)
    assert prepare.prepare(plan).facts["documents"] == 60


def test_longbench_sets_do_not_stand_among_texts(folder: Path, novels: str, tmp_path: Path) -> None:
    question = {"context": "Long text.", "input": "What?", "answers": ["This"], "_id": "q1"}
    copy = archive(tmp_path / "bench" / "data.zip", {"hotpotqa": [question, question | {"_id": "q2"}]}).parent
    with pytest.raises(UserError, match=r"no LongBench questions are prepared in .*: fwpkm-eval data prepare"):
        question_sets("hub")
    done = prepare.prepare(make_plan("hotpotqa", "test", folder, source=str(copy)))
    assert files(folder) == ["hotpotqa.json", "hotpotqa.jsonl.gz"]
    assert done.facts["sha256"] == load_questions("hub", "hotpotqa").sha256
    assert question_sets("hub") == ["hotpotqa"]
    assert prepare.prepare(make_plan("hotpotqa", "test", folder, source=str(copy))).already
    prepare.prepare(lambada(folder, novels))
    assert default_sets("hub") == ["lambada"]


def test_lc64_over_http(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(longcrawl, "BLOCK_TOKENS", 500)
    monkeypatch.setattr(remote, "_WAIT", 0.0)
    ids = [token for row in ROWS for token in [*row["text"].encode(), 50256]]
    with serve(Site({"heldout.bin": np.array(ids, dtype="<u2").tobytes()}, cuts=1)) as site:
        plan = make_plan("lc64", "test", folder, source=f"{site.url}/heldout.bin", text_bytes=9_000)
        done = prepare.prepare(plan, decode=bytes)
        assert 18_000 <= site.sent < 22_000
    documents = load_set("hub", "lc64", "test").documents
    assert [document.text for document in documents] == [row["text"] for row in ROWS[: len(documents)]]
    assert done.facts["read_from"] == f"{site.url}/heldout.bin"
    assert make_plan("lc64", "test", folder).address == "hf://datasets/clankur/longcrawl64/heldout.zarr"
    assert make_plan("lc64", "train", folder, source=str(folder)).address == str(folder / "train.zarr")
    (folder / "train.bin").touch()
    assert make_plan("lc64", "train", folder, source=str(folder)).address == str(folder / "train.bin")


def test_hub_says_how_to_prepare_what_is_not(folder: Path, novels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for ask in (
        lambda: load_set("hub", "fineweb_edu", "test"),
        lambda: available_sets("hub"),
        lambda: default_sets("hub"),
        lambda: default_haystack("hub"),
    ):
        with pytest.raises(UserError, match=r"prepare --data hub --set fineweb_edu; --data embedded or --data PATH"):
            ask()
    prepare.prepare(lambada(folder, novels))
    with pytest.raises(UserError, match=r"lc64/train is not prepared in .*--set lc64 --splits train; --data embedded"):
        load_set("hub", "lc64", "train")
    with pytest.raises(UserError, match="unknown set 'lambda', did you mean lambada"):
        load_set("hub", "lambda", "test")
    monkeypatch.delenv("FWPKM_EVAL_DATA")
    assert hub_folder() == Path.home() / ".cache" / "fwpkm_eval" / "data"


def test_the_command_shows_what_it_will_fetch_and_fetches_it(
    folder: Path, novels: str, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["data", "prepare", "--data", "hub", "--set", "lambada", "--source", novels, "--bytes", "8K"]
    assert cli.main([*base, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "novels of the train split" in shown
    assert "licence: CC BY 4.0" in shown
    assert not folder.exists()
    assert cli.main(base) == 0
    captured = capsys.readouterr()
    assert shown in captured.out
    assert "written to" in captured.out
    assert "MB/s" in captured.err
    assert cli.main([*base, "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert cli.main(["data", "list", "--data", "hub"]) == 0
    listed = capsys.readouterr().out
    assert any(line.split()[:3] == ["lambada", "test", "yes"] for line in listed.splitlines())
    assert any(line.split()[:3] == ["lc64", "train", "no"] for line in listed.splitlines())
    assert cli.main(["data", "list", "--data", "hub", "--json"]) == 0
    splits = json.loads(capsys.readouterr().out)["splits"]
    assert [split["set"] for split in splits if split["prepared"] == "yes"] == ["lambada"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "hub", "--set", "lambda"], "unknown corpus 'lambda', did you mean lambada"),
        (["--data", "hub", "--set", "lambada", "--splits", "train"], "lambada has no train split here"),
        (["--data", "hub", "--splits", ","], "--splits names no split"),
        (["--data", "hub", "--source", "x"], "--source is a copy of one corpus: say which with --set NAME"),
        (["--data", "hub", "--set", "lambada", "--tokens", "none"], "'none' is not a size"),
        (["--tokens", "4K"], "--tokens goes with --data hub alone"),
        (["--dry-run"], "--dry-run goes with --data hub alone"),
        (["--data", "hub", "--set", "lambada"], "error: lambada: no connection to cimec/lambada"),
        (["--data", "hub", "--set", "lambada", "--set", "musique"], "2 of 2 splits were not prepared; first: lambada"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert cli.main(["data", "prepare", "--quiet", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_offline_in_a_process_of_its_own(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "fwpkm_eval.cli", "data", "prepare", "--data", "hub", "--set", "fineweb_edu"],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: fineweb_edu: no connection to HuggingFaceFW/fineweb-edu")
    assert done.stderr.endswith("--data embedded or --data PATH needs no network\n")
    assert not folder.exists()
