"""Two runs compared: what changed, which way, what differs in their making, and exit codes for automation."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from fwpkm_eval import cli
from fwpkm_eval.reporting.compare import compare_rows
from fwpkm_eval.reporting.compare_setup import setup_differences
from fwpkm_eval.runs import manifest
from fwpkm_eval.runs.cells import CellStore
from fwpkm_eval.runs.manifest import check_or_create
from fwpkm_eval.runs.rows import Row, write_rows_csv

EXACT = Row(model="gdn", task="niah", metric="exact_match", value=0.5, ci_low=0.4, ci_high=0.6, n=20, length=4096)
BITS = Row(model="gdn", task="ppl", dataset="docs", metric="bits_per_byte", value=2.0)
SPEED = Row(model="gdn", task="bench", metric="tokens_per_second_forward", value=100.0)
SHARE = Row(model="gdn", task="gates", metric="gate_share@1", value=0.25, depth=0.5)


def change(row: Row, **fields: float | str | None) -> Row:
    return dataclasses.replace(row, **fields)  # type: ignore[arg-type]


def test_changes_are_matched_and_the_worst_comes_first() -> None:
    before = [EXACT, BITS, SPEED, SHARE]
    after = [
        change(SHARE, value=0.3),
        change(BITS, value=1.9),
        change(EXACT, value=0.3, ci_low=0.2, ci_high=0.39, weights_hash="other", version="9"),
        SPEED,
    ]
    found = compare_rows(before, after)
    assert found.same == 1
    assert [one.before.metric for one in found.changed] == ["exact_match", "bits_per_byte", "gate_share@1"]
    worst, better, neither = found.changed
    assert worst.relative == pytest.approx(0.4)
    assert worst.beyond_intervals
    assert better.relative == pytest.approx(-0.05)
    assert neither.relative is None
    assert found.worse(0.01) == [worst]
    assert found.worse(0.5) == []


@pytest.mark.parametrize(("metric", "unit"), [("diverged_after@1", "tokens"), ("diverged", "fraction")])
def test_a_divergence_that_is_gone_is_better_and_a_new_one_worse(metric: str, unit: str) -> None:
    """Its row is there only where a memory diverged; where nothing was measured, it is missing like any other."""
    gone = change(EXACT, metric=metric, unit=unit, value=0.5, passes=None)
    better = compare_rows([EXACT, gone], [EXACT])
    assert not better.only_before
    assert [(one.before, one.after.value, one.relative) for one in better.changed] == [(gone, None, -math.inf)]
    worse = compare_rows([EXACT], [EXACT, gone])
    assert not worse.only_after
    assert worse.worse(0.01) == worse.changed
    assert compare_rows([EXACT, gone], [BITS]).only_before == [EXACT, gone]
    assert compare_rows([BITS], [EXACT, gone]).only_after == [EXACT, gone]


def test_several_trainings_of_a_model_are_compared_each_with_its_own() -> None:
    one, two, three = (change(BITS, value=2.0 + n, weights_hash=f"{n}") for n in range(3))
    assert compare_rows([one, two], [two, one]).same == 2
    # Trained anew, with other weights: in their order.
    found = compare_rows([one, two], [change(one, weights_hash="a"), change(two, value=3.3, weights_hash="b")])
    assert found.same == 1
    assert [(row.before.value, row.after.value) for row in found.changed] == [(3.0, 3.3)]
    found = compare_rows([one, two, three], [change(three, value=1.0), two])
    assert (found.same, found.only_before, found.only_after) == (1, [one], [])
    assert [(row.before.value, row.after.value) for row in found.changed] == [(4.0, 1.0)]


def test_rows_of_one_run_alone_and_values_that_are_lost() -> None:
    other = change(EXACT, length=8192)
    found = compare_rows([EXACT, BITS], [other, change(BITS, value=math.nan)])
    assert found.only_before == [EXACT]
    assert found.only_after == [other]
    assert found.changed[0].relative == math.inf
    assert found.worse(0.99) == found.changed
    back = compare_rows([change(BITS, value=math.nan)], [BITS])
    assert [one.relative for one in back.changed] == [-math.inf]
    assert back.worse(0.0) == []
    assert compare_rows([change(BITS, value=math.nan)], [change(BITS, value=math.nan)]).same == 1


def test_a_rate_that_was_zero_gets_worse_by_any_rise() -> None:
    rate = Row(metric="distractor_rate", value=0.0)
    assert compare_rows([rate], [change(rate, value=0.1)]).worse(10.0)
    assert not compare_rows([change(EXACT, value=0.0)], [EXACT]).worse(0.0)


def test_log_probabilities_get_worse_as_they_fall_further_below_zero() -> None:
    logprob = Row(metric="answer_logprob", value=-10.0, unit="nats")
    for value, relative in ((-12.0, 0.2), (-8.0, -0.2)):
        [found] = compare_rows([logprob], [change(logprob, value=value)]).changed
        assert found.relative == pytest.approx(relative)


def test_what_got_worse_by_just_the_limit_is_allowed() -> None:
    found = compare_rows([BITS], [change(BITS, value=2.5)])
    assert (found.worse(0.25), found.worse(0.24)) == ([], found.changed)


def test_time_never_fails_a_comparison() -> None:
    found = compare_rows([SPEED], [change(SPEED, value=1.0)])
    assert found.changed[0].relative == pytest.approx(0.99)
    assert found.worse(0.01) == []


def test_manifests_are_compared_in_words() -> None:
    one = {"config": {"seed": 0}, "versions": {"torch": "2.13.0"}, "started": "yesterday"}
    other = {"config": {"seed": 1}, "versions": {"torch": "2.13.0"}, "started": "today"}
    assert setup_differences(one, other) == ["config.seed is 0 in A and 1 in B"]
    assert setup_differences(one, one) == []
    assert "B has no manifest.json" in setup_differences(one, None)[0]


def test_runs_of_two_commits_differ_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, commit in (("a", "1234abc"), ("b", "5678def+changes"), ("installed", None)):
        monkeypatch.setattr(manifest, "git_commit", lambda commit=commit: commit)
        check_or_create(tmp_path / name, {"command": "niah"}, seeds=[0], device={"device": "cpu"})
        write_rows_csv([EXACT], tmp_path / name / "rows.csv")
    a, b, installed = (str(tmp_path / name) for name in ("a", "b", "installed"))
    assert cli.main(["compare", a, b]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("differs")] == [
        'differs: git_commit is "1234abc" in A and "5678def+changes" in B'
    ]
    assert cli.main(["compare", a, installed]) == 0
    assert 'differs: git_commit is "1234abc" in A and not set in B\n' in capsys.readouterr().out
    assert cli.main(["compare", a, a]) == 0
    assert "differs" not in capsys.readouterr().out


def test_the_command_and_its_exit_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    write_rows_csv([EXACT, BITS, SPEED], a / "rows.csv")
    write_rows_csv([EXACT, change(BITS, value=2.03), change(SPEED, value=50.0)], b / "rows.csv")
    assert cli.main(["compare", str(a), str(b)]) == 0
    shown = capsys.readouterr().out
    assert "worse by 1.50%" in shown
    assert "tokens_per_second" not in shown
    assert "equal: 1, different: 1, in A alone: 0, in B alone: 0" in shown
    assert cli.main(["compare", str(a), str(b), "--fail-if-worse", "1%"]) == 1
    assert "1 value worse by more than 1%" in capsys.readouterr().err
    assert cli.main(["compare", str(a), str(b), "--fail-if-worse", "2%", "--timings"]) == 0
    assert "tokens_per_second" in capsys.readouterr().out
    assert cli.main(["compare", str(a), str(b), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["equal"] == 1
    assert found["changed"][0]["worse_by"] == pytest.approx(0.015)
    write_rows_csv([EXACT], b / "rows.csv")
    assert cli.main(["compare", str(a), str(b), "--fail-if-worse", "1%"]) == 1
    assert "0 values worse by more than 1%, 2 missing" in capsys.readouterr().err


def test_values_of_other_text_are_neither_better_nor_worse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    read = change(BITS, data_hash="aa", tokens=16384)
    for other in ({"data_hash": "bb"}, {"tokens": 8192}):
        [found] = compare_rows([read], [change(read, value=3.0, **other)]).changed
        assert found.other_text
    unknown = change(BITS, value=3.0)
    asked = change(EXACT, value=0.1, tokens=9)  # what needles took to read is no text of theirs
    for one, same in ((read, unknown), (change(EXACT, tokens=8), asked), (read, change(read, value=3.0))):
        [found] = compare_rows([one], [same]).changed
        assert not found.other_text
    a, b = tmp_path / "a", tmp_path / "b"
    write_rows_csv([read], a / "rows.csv")
    write_rows_csv([change(read, value=3.0, data_hash="bb")], b / "rows.csv")
    assert cli.main(["compare", str(a), str(b), "--fail-if-worse", "1%"]) == 1
    said = capsys.readouterr()
    assert "of other text" in said.out
    assert "worse by" not in said.out
    assert said.err == "0 values worse by more than 1%, 1 of other text\n"
    assert cli.main(["compare", str(a), str(b), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["changed"][0]["other_text"]


def test_what_lies_near_is_counted_and_not_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Better or worse, also where no way is better; a value that was lost, or was zero, is never near."""
    rows = [EXACT, BITS, SHARE, change(EXACT, length=512, value=0.0), change(EXACT, length=256)]
    near = [EXACT, change(BITS, value=1.992), change(SHARE, value=0.2515)]
    far = [change(EXACT, length=512, value=0.01), change(EXACT, length=256, value=None)]
    a, b = tmp_path / "a", tmp_path / "b"
    write_rows_csv(rows, a / "rows.csv")
    write_rows_csv([*near, *far], b / "rows.csv")
    for share, counts in (("0.7%", "within 0.7%: 2, different: 2"), ("0.5%", "within 0.5%: 1, different: 3")):
        assert cli.main(["compare", str(a), str(b), "--within", share]) == 0
        assert f"equal: 1, {counts}, in A alone: 0" in capsys.readouterr().out
    assert cli.main(["compare", str(a), str(b), "--within", "50%", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["within"], [one["before"]["length"] for one in found["changed"]]) == (2, [256, 512])
    # What is not listed can still be too much worse.
    write_rows_csv([change(BITS, value=2.03)], b / "rows.csv")
    write_rows_csv([BITS], a / "rows.csv")
    assert cli.main(["compare", str(a), str(b), "--within", "2%", "--fail-if-worse", "1%"]) == 1
    assert "within 2%: 1, different: 0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "nowhere"], "no such folder: 'nowhere'"),
        ([".", "."], ". holds no results"),
        ([".", ".", "--fail-if-worse", "a bit"], "'a bit' is no share"),
        ([".", ".", "--within", "-1%"], "'-1%' is no share"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["compare", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_folder_without_results_and_one_with_cells_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there, empty, cells = tmp_path / "there", tmp_path / "empty", tmp_path / "cells"
    empty.mkdir()
    write_rows_csv([SHARE], there / "rows.csv")
    CellStore(cells).save("0" * 20, {"settings": {}, "rows": [SHARE], "version": "1"})
    for pair in ((empty, there), (there, empty)):
        assert cli.main(["compare", *map(str, pair)]) == 2
        said = capsys.readouterr().err
        assert said == f"error: {empty} holds no results: neither finished cells nor rows.csv\n"
    assert cli.main(["compare", str(there), str(cells)]) == 0
    assert "equal: 1, different: 0" in capsys.readouterr().out


@pytest.mark.parametrize("arm", ["", "yarn"])
def test_a_memory_that_breaks_on_needles_in_one_run_alone_is_worse(arm: str) -> None:
    """Its row is about all that is asked of the haystack, and has no protocol of its own."""
    found = change(EXACT, protocol="open-book", passes=1, arm=arm)
    harm = change(EXACT, metric="diverged_after@1", value=512, unit="tokens", ci_low=None, ci_high=None)
    both = compare_rows([found], [found, harm])
    assert [one.before.metric for one in both.worse(0.01)] == ["diverged_after@1"]
    assert not both.only_after
    assert compare_rows([found], [found, change(harm, length=8192)]).only_after  # of a haystack that A has not read


def test_rows_that_say_yarn_are_held_against_rows_that_do_not_say_it_yet() -> None:
    assert compare_rows([EXACT], [change(EXACT, arm="yarn")]).same == 1
    assert compare_rows([change(BITS, arm="frozen")], [change(BITS, arm="frozen+yarn")]).same == 1
    assert compare_rows([BITS], [change(BITS, arm="frozen")]).same == 0


def test_models_of_two_kinds_are_held_against_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One has slots that are scored and writes while it reads a text, the other does neither."""
    text: dict[str, Any] = {"task": "ppl", "metric": "bits_per_byte", "dataset": "docs", "scope": "stream"}
    backbone = Row(model="gdn", value=2.0, **text)
    memory = Row(model="gdn:fwpkm@1", value=1.8, score="idw", write_chunk="128", **text)
    asked: dict[str, Any] = {"task": "niah", "metric": "exact_match", "length": 512, "write_chunk": "1024"}
    needles = [Row(model="gdn", value=0.0, **asked), Row(model="gdn:fwpkm@1", value=1.0, score="idw", **asked)]
    described = {"weights_hash": "aa", "settings": {}, "training": {}}
    for name in "ab":
        check_or_create(
            tmp_path / name, {"command": "ppl"}, command=["x"], seeds=[0], data={}, weights={},
            models={"gdn": {**described, "config_sha256": "g"}, "gdn:fwpkm@1": {**described, "config_sha256": "f"}},
        )  # fmt: skip
        write_rows_csv([backbone, memory, *needles], tmp_path / name / "rows.csv")
    command = ["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--as", "gdn=gdn:fwpkm@1"]
    assert cli.main(command) == 0
    told = capsys.readouterr().out
    assert "equal: 0, different: 2, in A alone: 0, in B alone: 2" in told
    assert "better by 10.00%" in told
    assert "other scales" not in told
    # The memory left as it is, which `ppl` measures, too, is a reading of its own.
    frozen = change(memory, write_chunk="", arm="frozen", value=2.1)
    write_rows_csv([memory, frozen, *needles], tmp_path / "b" / "rows.csv")
    assert cli.main(command) == 0
    assert "equal: 0, different: 2, in A alone: 0, in B alone: 2" in capsys.readouterr().out
    # Of several ways of writing a text nobody can say which is meant.
    write_rows_csv([memory, change(memory, write_chunk="512")], tmp_path / "b" / "rows.csv")
    assert cli.main(command) == 0
    assert "different: 0" in capsys.readouterr().out
