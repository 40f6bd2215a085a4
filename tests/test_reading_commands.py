"""``gates``, ``addressing`` and ``cost`` from the command line and from Python, on tiny untrained models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_models import tiny_checkpoint

import fwpkm_eval
from fwpkm_eval import cli
from fwpkm_eval.errors import UserError
from fwpkm_eval.runs.rows import read_rows_csv

pytestmark = pytest.mark.usefixtures("one_thread", "without_workers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four checkpoints, and a data folder with two sets."""
    root = tmp_path_factory.mktemp("reading")
    for name in ("fwpkm", "fwmlp", "lact"):
        tiny_checkpoint(f"gdn+swa:{name}@1", root / name)
    tiny_checkpoint("gdn+swa", root / "plain")
    for name in ("tales", "notes"):
        (root / "data" / name).mkdir(parents=True)
        line = json.dumps({"text": f"{name}: " + "Once upon a midnight dreary. " * 12})
        (root / "data" / name / "test.jsonl").write_text(line, encoding="utf-8")
    return root


def run(folder: Path, command: str, models: str, *arguments: str) -> int:
    names = ",".join(str(folder / name) for name in models.split(","))
    return cli.main([command, "--models", names, "--data", str(folder / "data"), "--quiet", *arguments])


@pytest.mark.parametrize(
    ("command", "shown", "not_shown"),
    [
        ("gates", ["gdn+swa:fwpkm@1", "gdn+swa:fwmlp@1", "gdn+swa:lact@1", "mean gate"], "gdn+swa "),
        ("addressing", ["gdn+swa:fwpkm@1", "coverage"], "lact"),
        ("cost", ["gdn+swa:fwpkm@1", "gdn+swa:lact@1", "gdn+swa ", "FLOPs per token"], "nothing"),
    ],
)
def test_a_table_and_a_folder_that_can_be_gone_on_with(
    folder: Path,
    tmp_path: Path,
    command: str,
    shown: list[str],
    not_shown: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = (folder, command, "fwpkm,fwmlp,lact,plain", "--tokens", "200", "--out", str(tmp_path / "run"))
    assert run(*arguments) == 0
    printed = capsys.readouterr().out
    assert all(words in printed for words in shown)
    assert not_shown not in printed
    rows = read_rows_csv(tmp_path / "run" / "rows.csv")
    assert {row.task for row in rows} == {command}
    assert {row.dataset for row in rows} - {""} == ({"tales", "notes"} if command != "cost" else {"notes"})
    assert (tmp_path / "run" / "report.html").exists()
    before = (tmp_path / "run" / "rows.csv").read_bytes()
    assert run(*arguments) == 0
    assert (tmp_path / "run" / "rows.csv").read_bytes() == before


def test_reproduce_can_measure_these_alone(folder: Path, tmp_path: Path) -> None:
    only = ("--only", "gates,cost,addressing")
    assert run(folder, "reproduce", "fwpkm,plain", *only, "--out", str(tmp_path / "run")) == 0
    assert {row.task for row in read_rows_csv(tmp_path / "run" / "rows.csv")} == {"gates", "cost", "addressing"}


def test_reproduce_shows_tables_where_it_has_no_sentence(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, "reproduce", "fwpkm", "--only", "gates", "--tokens", "200", "--out", str(tmp_path / "run")) == 0
    assert "mean gate" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "models", "arguments", "message"),
    [
        ("gates", "plain", (), "no model here has a gate"),
        ("addressing", "fwmlp,lact,plain", (), "no model here has slots that are written"),
        ("gates", "fwpkm", ("--sets", "tails"), "did you mean tales"),
        ("gates", "fwpkm", ("--scale", "paper"), "fwpkm is of scale micro, not paper: leave out --scale"),
        ("cost", "fwpkm", ("--segment", "0"), "above zero"),
        ("addressing", "fwpkm", ("--write-chunk", "none"), "none"),
    ],
)
def test_wrong_use_is_one_line(
    folder: Path,
    command: str,
    models: str,
    arguments: tuple[str, ...],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(folder, command, models, *arguments) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert errors.count("\n") == 1


def test_from_python(folder: Path) -> None:
    model = fwpkm_eval.load_model(folder / "fwpkm")
    data = str(folder / "data")
    assert set(fwpkm_eval.evaluate(model, "gates", data, tokens=100)["dataset"]) == {"tales", "notes"}
    assert set(fwpkm_eval.evaluate(model, "addressing", data, sets=["tales"])["dataset"]) == {"tales"}
    costs = fwpkm_eval.evaluate(model, "cost", data, sets=["tales"], tokens=100, steps=0)
    assert set(costs["protocol"]) == {"", "reading"}
    with pytest.raises(UserError, match="unknown setting 'token'"):
        fwpkm_eval.evaluate(model, "gates", data, token=100)
