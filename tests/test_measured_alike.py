"""Runs that go into one report were measured alike, or are refused: their rows would be held against each other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from fwpkm_eval import cli
from fwpkm_eval.errors import UserError
from fwpkm_eval.reporting.measured_alike import TOLD_BY_ROWS, check_measured_alike

PPL: dict[str, Any] = {"tokens": 4096, "segment": 1024, "scope": "stream", "frozen": False, "seed": 0, "block": 1024}
NIAH: dict[str, Any] = {"lengths": [512], "samples": 3, "depths": None, "key_length": 4, "value_length": 6}


def cell(task: str, settings: dict[str, Any], text: str = "docs", read: int | None = None) -> dict[str, Any]:
    return {"settings": {"task": settings, "data": {"name": text}}, "rows": [{"task": task, "tokens": read}]}


def check(*cells: dict[str, Any]) -> None:
    check_measured_alike([Path(f"run{number}") for number in range(len(cells))], [[one] for one in cells])


@pytest.mark.parametrize(
    ("one", "other", "told"),
    [
        (cell("ppl", PPL), cell("ppl", PPL | {"tokens": 8192}), "ppl on docs alike (tokens is 4096 and 8192)"),
        (cell("ppl", PPL), cell("ppl", PPL | {"segment": 512}), "(segment is 1024 and 512)"),
        (
            cell("ppl", PPL | {"tokens": 9000}, read=40),
            cell("ppl", PPL | {"tokens": 30}, read=30),
            "(tokens is 9000 and 30)",
        ),
        (
            cell("continual", {"write_chunk": 64, "domains": []}),
            cell("continual", {"write_chunk": None, "domains": []}),
            "(write_chunk is 64 and as usual)",
        ),
        (cell("gates", PPL), cell("gates", PPL | {"tokens": None}), "(tokens is 4096 and as usual)"),
        (cell("niah", NIAH), cell("niah", NIAH | {"value_length": 1}), "(value_length is 6 and 1)"),
        (cell("niah", NIAH), cell("niah", NIAH | {"depths": [0.5, 1.0]}), "(depths is as usual and 0.5, 1.0)"),
        (cell("longbench", {"questions": 2}), cell("longbench", {"questions": None}), "(questions is 2 and as usual)"),
        (
            cell("continual", {"adapt": 4096, "domains": [{"name": "source"}, {"name": "docs"}]}),
            cell("continual", {"adapt": 4096, "domains": [{"name": "docs"}, {"name": "source"}]}, "source"),
            "continual on its domains alike (domains is source, docs and docs, source)",
        ),
    ],
    ids=["tokens", "segment", "text-at-its-end", "continual", "gates", "digits", "depths", "questions", "domains"],
)
def test_other_settings_of_a_task_on_a_text_are_refused(one: Any, other: Any, told: str) -> None:
    with pytest.raises(UserError) as refused:
        check(one, other)
    assert told in str(refused.value)
    assert str(refused.value).startswith("run0 and run1 did not measure ")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (cell("ppl", PPL), cell("ppl", PPL | {"tokens": 8192}, "source")),
        (cell("ppl", PPL), cell("gates", PPL | {"tokens": 8192})),
        (cell("ppl", PPL), cell("ppl", PPL | {"scope": "document", "frozen": True, "seed": 3, "block": 512})),
        (cell("ppl", PPL | {"write_chunk": None}), cell("ppl", PPL | {"write_chunk": 128})),
        (cell("ppl", PPL | {"tokens": 9000}, read=40), cell("ppl", PPL | {"tokens": 8000}, read=40)),
        (cell("ppl", PPL), cell("ppl", {"tokens": 4096, "tokenizer": "bytes"})),
        (cell("niah", NIAH), cell("niah", NIAH | {"lengths": [4096], "samples": 50})),
        (cell("trace", {"length": 512}), cell("trace", {"length": 4096})),
        (cell("ppl", PPL), {"settings": {"task": "ablation", "tokens": 1}, "rows": [{"task": "ablation"}]}),
        (cell("ppl", PPL), {"rows": []}),
    ],
    ids=[
        "text",
        "task",
        "told",
        "write-chunk",
        "text-at-its-end",
        "compressors",
        "lengths",
        "traces",
        "ablation",
        "without-rows",
    ],
)
def test_what_rows_tell_and_other_tasks_and_texts_may_differ(one: Any, other: Any) -> None:
    check(one, other)
    check(other, one)


def test_other_arguments_of_lm_evals_tasks_are_refused() -> None:
    def config(**arguments: Any) -> dict[str, Any]:
        return {"command": "lm-eval", "task_arguments": {"data": "embedded", **arguments}}

    def check_configs(one: dict[str, Any], other: dict[str, Any]) -> None:
        check_measured_alike([Path("run0"), Path("run1")], [[], []], [one, other])

    check_configs(config(length="4K", needles=5), config(length="8K", samples=3))
    check_configs(config(value_length=3), {"command": "ppl"})
    with pytest.raises(UserError, match=r"lm-eval's tasks alike .arguments is data=embedded and .*value_length=3"):
        check_configs(config(), config(value_length=3))


def test_every_setting_that_rows_tell_is_one_of_a_task() -> None:
    """One that was renamed would let runs differ in it."""
    from dataclasses import fields

    from fwpkm_eval.tasks.longbench import LongBenchSettings
    from fwpkm_eval.tasks.niah import NiahSettings
    from fwpkm_eval.tasks.perplexity import PerplexitySettings
    from fwpkm_eval.tasks.trace import TraceSettings

    kinds = (LongBenchSettings, NiahSettings, PerplexitySettings, TraceSettings)
    assert {field.name for kind in kinds for field in fields(kind)} | {"tokenizer"} >= TOLD_BY_ROWS


def test_a_report_of_runs_of_more_and_less_text_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It said that every model had scored the tokens of the longer one."""
    asked = ["ppl", "--sets", "docs", "--segment", "512", "--quiet"]
    for model, tokens in (("gdn+swa", "1K"), ("gdn+swa:fwpkm", "2K")):
        assert cli.main([*asked, "--models", model, "--tokens", tokens, "--out", str(tmp_path / tokens)]) == 0
    capsys.readouterr()
    runs = [str(tmp_path / "1K"), str(tmp_path / "2K")]
    assert cli.main(["report", *runs, "--out", str(tmp_path / "both")]) == 2
    assert "did not measure ppl on docs alike (tokens is 1024 and 2048)" in capsys.readouterr().err
    assert not (tmp_path / "both").exists()
    assert cli.main([*asked, "--models", "gdn+swa", "--tokens", "2K", "--out", str(tmp_path / "same")]) == 0
    assert cli.main(["report", str(tmp_path / "same"), runs[1], "--out", str(tmp_path / "both")]) == 0


def test_tables_and_pictures_say_of_how_many_digits_answers_are(tmp_path: Path) -> None:
    asked = ["niah", "--model", "gdn+swa:fwpkm", "--lengths", "4K", "--passes", "1", "--samples", "1", "--quiet"]
    assert cli.main([*asked, "--value-length", "1", "--out", str(tmp_path / "one")]) == 0
    tables = (tmp_path / "one" / "tables.md").read_text(encoding="utf-8")
    assert "its one digit right, with the 95% Wilson interval" in tables
    assert "(guessing: −2.3)" in tables
    assert "answers of 1 digit in place of 6" in tables
    shutil.rmtree(tmp_path / "one" / "cells")
    rows = (tmp_path / "one" / "rows.csv").read_text(encoding="utf-8")
    without = [line for line in rows.splitlines(keepends=True) if not line.startswith("guess,")]
    (tmp_path / "one" / "rows.csv").write_text("".join(without), encoding="utf-8")
    assert cli.main(["report", str(tmp_path / "one"), "--quiet"]) == 0
    tables = (tmp_path / "one" / "tables.md").read_text(encoding="utf-8")
    assert "one asked for; all digits right, with the 95%" in tables
    assert "probability of the true answer." in tables
    assert json.loads((tmp_path / "one" / "manifest.json").read_text())["config"]["value_length"] == 1
