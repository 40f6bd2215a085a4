"""The command `reproduce`, and what dry runs of the long commands say."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from measuring_cases import models, run, two_checkpoints_and_two_sets

from fwpkm_eval.commands.options import Given
from fwpkm_eval.errors import UserError
from fwpkm_eval.tasks.compressors import COMPRESSORS

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_checkpoints_and_two_sets(tmp_path_factory.mktemp("measuring"))


def test_a_dry_run_shows_the_plan_and_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("reproduce", "--dry-run", "--workers", "2") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "with 2 workers" in lines[-1]
    assert any("64 needles in 4K" in line for line in lines)
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_shows_what_would_be_trained_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = ("reproduce", "--models", "gdn+swa,gdn+swa:fwpkm", "--dry-run")
    assert run(*plan, "--json") == 0
    measured = json.loads(capsys.readouterr().out)
    assert run(*plan, "--retrain", "--seeds", "2", "--json") == 0
    cells = json.loads(capsys.readouterr().out)
    names = ("gdn+swa", "gdn+swa:fwpkm@1,3")
    assert [cell["label"] for cell in cells if cell["task"] == "train"] == [
        f"{name}  training, seed {seed}" for seed in (0, 1) for name in names
    ]
    assert all(cell["seconds"] > 600 for cell in cells if cell["task"] == "train")
    assert len(cells) > len(measured)
    assert run(*plan, "--retrain") == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("2 models to train first")
    assert run("reproduce", "--models", "some/folder", "--dry-run", "--retrain") == 2
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_tells_which_models_were_never_trained(capsys: pytest.CaptureFixture[str]) -> None:
    plan = ("reproduce", "--only", "cost", "--dry-run", "--models")
    assert run(*plan, "gdn+swa,gdn:fwpkm@2,gdn:pkm@1") == 0
    assert "no trained gdn:fwpkm@2, gdn:pkm@1 at scale micro is shipped" in capsys.readouterr().err
    for further in (("gdn+swa",), ("gdn+swa:pkm",), ("gdn:fwpkm@2", "--retrain")):
        assert run(*plan, *further) == 0
        assert "shipped" not in capsys.readouterr().err


@pytest.mark.parametrize("command", ["reproduce", "ablate", "capacity"])
def test_a_dry_run_as_json_is_a_list_of_cells(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command, "--dry-run", "--json") == 0
    cells = json.loads(capsys.readouterr().out)
    assert len(cells) > 5
    for cell in cells:
        assert set(cell) == {"label", "task", "model", "tokens", "seconds"}
        assert (cell["seconds"] is None) == (cell["tokens"] == 0)
        assert cell["seconds"] is None or cell["seconds"] > 0
    tasks = {"reproduce": {"ppl", "niah", "gates", "addressing", "cost", "trace"}, "ablate": {"ablation"}}
    assert {cell["task"] for cell in cells} >= tasks.get(command, {command})


def test_reproduce_reads_as_many_tokens_as_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def cells(*arguments: str) -> dict[str, int]:
        assert run("reproduce", "--dry-run", "--json", "--models", "gdn+swa:fwpkm", *arguments) == 0
        return {cell["label"]: cell["tokens"] for cell in json.loads(capsys.readouterr().out)}

    usual, fewer = cells(), cells("--tokens", "2K")
    assert usual.keys() == fewer.keys()
    read = [label for label in usual if any(word in label for word in ("perplexity", "gates", "addressing"))]
    assert len(read) > 5
    assert {fewer[label] for label in read} == {2048}
    assert min(usual[label] for label in read) > 2048
    assert 2048 <= fewer["gdn+swa:fwpkm@1,3  cost"] < usual["gdn+swa:fwpkm@1,3  cost"]
    assert all(fewer[label] == usual[label] for label in usual if "needles" in label or "trace" in label)


def test_the_tokens_of_a_run_are_in_its_manifest_only_where_they_are_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fwpkm_eval.runs import manifest

    found: list[dict[str, Any]] = []

    def stop(out: Path, config: dict[str, Any]) -> None:
        found.append(config)
        raise UserError("stopped here")

    monkeypatch.setattr(manifest, "check_free", stop)
    assert run("reproduce", "--out", str(tmp_path)) == 2
    assert run("reproduce", "--out", str(tmp_path), "--tokens", "2K") == 2
    assert "tokens" not in found[0]
    assert found[0]["plan"]["tokens"] == {"source": 192 * 1024, "": 96 * 1024}
    assert found[1]["tokens"] == found[1]["plan"]["tokens"][""] == 2048


@pytest.mark.usefixtures("without_workers")
def test_reproduce_measures_what_its_plan_says_and_writes_a_report(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from fwpkm_eval.runs import plan

    line = plan.NeedlePlan(512, 5, 2, {"fwpkm": ("haystack", 64)}, passes=(1, 2))
    small = plan.Plan(models=(), tokens={"": 300}, needles=(line,), tokens_per_second={"": 1000.0})
    monkeypatch.setitem(plan.PLANS, "micro", small)
    out = tmp_path / "run"
    command = ["reproduce", "--models", models(folder), "--data", str(folder / "data"), "--out", str(out)]
    assert run(*command) == 0
    printed = capsys.readouterr().out
    assert "What do re-readings" in printed
    assert f"report: {out / 'report.html'}" in printed
    with (out / "rows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["task"] for row in rows} == {"ppl", "niah", "gates", "addressing", "cost", "trace"}
    floors = [(row["dataset"], row["model"]) for row in rows if row["model"] in COMPRESSORS]
    assert sorted(floors) == sorted((name, one) for name in ("notes", "tales") for one in COMPRESSORS)
    for name in ("manifest.json", "tables.md", "report.html", "plots"):
        assert (out / name).exists()


@pytest.mark.usefixtures("without_workers")
def test_reproduce_over_seeds_draws_other_needles_and_reads_the_text_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fwpkm_eval.runs import plan

    line = plan.NeedlePlan(512, 5, 2, {"fwpkm": (64,)}, passes=(1,))
    small = plan.Plan(models=(), tokens={"": 300}, needles=(line,), tokens_per_second={"": 1000.0})
    monkeypatch.setitem(plan.PLANS, "micro", small)
    common = ("--models", models(folder), "--data", str(folder / "data"), "--only", "ppl,niah", "--seeds", "2")
    assert run("reproduce", *common, "--seed", "5", "--out", str(tmp_path / "run")) == 0
    with (tmp_path / "run" / "rows.csv").open(newline="") as file:
        found = [row for row in csv.DictReader(file) if row["model"] not in COMPRESSORS]
    assert {(row["task"], row["seed"]) for row in found} == {("niah", "5"), ("niah", "6"), ("ppl", "5")}
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["seeds"] == [5, 6]


def test_reproduce_trains_each_seed_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fwpkm_eval.commands import reproduce

    asked: list[tuple[list[str], int]] = []

    def train(names: list[str], scale: str, folders: list[Path], *rest: object) -> None:
        asked.append(([one.name for one in folders], int(str(rest[-1]))))

    monkeypatch.setattr("fwpkm_eval.training.run.train_models", train)
    given = Given("embedded", 0, "cpu", "float32", None, quiet=True, as_json=False, workers=1)
    for seed in (0, 1):
        reproduce._train(["gdn:fwpkm"], "micro", tmp_path, seed, given)
    assert asked == [(["gdn-fwpkm-1-3"], 0), (["gdn-fwpkm-1-3-seed1"], 1)]


def test_reproduce_plans_the_ablation_only_if_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("reproduce", "--dry-run") == 0
    assert "no-lookahead" not in capsys.readouterr().out
    assert run("reproduce", "--dry-run", "--only", "ablation") == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("no-lookahead, ") for line in lines) == 6
    assert lines[-1].startswith("54 cells")
    assert " minutes with " in lines[-1]


def test_reproduce_takes_as_many_seeds_for_the_ablation_as_it_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    for seeds in (1, 2, 4):
        assert run("reproduce", "--dry-run", "--only", "ablation", "--seeds", str(seeds)) == 0
        assert capsys.readouterr().out.splitlines()[-1].startswith(f"{18 * seeds} cells")
    assert run("reproduce", "--help") == 0
    assert "default: 1; for the ablation 3" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("further", [(), ("--dry-run",)])
@pytest.mark.parametrize("task", ["gates", "trace", "addressing"])
def test_a_run_that_would_hold_nothing_is_refused(
    task: str, further: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert run("reproduce", "--only", task, "--models", "gdn+swa", "--out", str(out), *further) == 2
    errors = capsys.readouterr().err
    assert f"nothing to measure: gdn+swa have nothing for {task}" in errors
    assert errors.count("\n") == 1
    assert not out.exists()


def test_the_ablation_needs_no_checkpoint_of_its_scale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It trains its own models: at small, where none is shipped, it gets as far as measuring."""
    from fwpkm_eval.commands import measure

    asked: list[int] = []

    def refuse(jobs: list[Any], *_: Any, **__: Any) -> None:
        asked.append(len(jobs))
        raise UserError("as far as this")

    monkeypatch.setattr(measure, "run_cells", refuse)
    assert run("reproduce", "--scale", "small", "--only", "ablation", "--out", str(tmp_path / "run")) == 2
    assert "as far as this" in capsys.readouterr().err
    assert asked[0] > 20
    assert run("reproduce", "--only", "ablation", "--models", "gdn", "--dry-run") == 2
    assert "the ablation trains its own" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "without_it"),
    [
        ("reproduce", "runs/SCALE"),
        ("ablate", "runs/ablation-SCALE"),
        ("capacity", "runs/capacity-SCALE"),
        ("niah", "only print"),
        ("bench", "only print"),
    ],
)
def test_help_says_what_a_command_does_without_out(
    command: str, without_it: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(command, "--help") == 0
    words = f"a run goes on where it stopped. [default: {without_it}]"
    assert "".join(words.split()) in "".join(capsys.readouterr().out.split())  # wrapped anywhere


@pytest.mark.parametrize("command", ["ablate", "capacity"])
def test_dry_runs_of_trainings_say_how_long_they_would_take(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command, "--dry-run", "--seeds", "1", "--workers", "1", "--steps", "1") == 0
    *cells, total, models = capsys.readouterr().out.splitlines()
    assert cells[0].split() == ["cell", "tokens", "seconds", "on", "a", "core"]
    assert total.startswith(f"{len(cells) - 1} cells, ")
    assert total.endswith(" minutes with 1 worker")
    assert models == f"{len(cells) - 1} models to train and measure, 1 step each"
