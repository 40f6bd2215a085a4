"""Several runs in one report: rows side by side, labels, what is refused, what is said."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from report_cases import COMMON, FWPKM, PLAIN, guess_rows, needle

from fwpkm_eval import cli
from fwpkm_eval.errors import UserError
from fwpkm_eval.reporting.measurements import baseline_of
from fwpkm_eval.reporting.merge import Part, merge_runs
from fwpkm_eval.runs.manifest import check_or_create, load_manifest, update_manifest
from fwpkm_eval.runs.rows import Row, read_rows_csv, write_rows_csv

GUESSED = guess_rows([needle(FWPKM, 3)])


def bits(model: str, value: float, weights: str, seed: int = 0) -> Row:
    return Row(
        **COMMON, model=model, task="ppl", dataset="docs", metric="bits_per_byte", value=value, unit="bits", seed=seed,
        scope="stream", tokens=1000, n=1000, weights_hash=weights,
    )  # fmt: skip


def a_run(folder: Path, rows: list[Row], *, data: str = "embedded", sha: str = "aa", **facts: Any) -> Path:
    check_or_create(
        folder,
        {"command": "ppl", "data": data},
        command=["fwpkm-eval", "ppl"],
        seeds=[rows[0].seed or 0],
        data={"docs": {"sha256": sha}},
        weights={row.model: row.weights_hash for row in rows},
        **facts,
    )
    write_rows_csv(rows, folder / "rows.csv")
    update_manifest(folder, finished=True)
    return folder


def described(weights: str, steps: int = 9) -> dict[str, Any]:
    training = {"seed": 0, "steps": steps, "recipe": {}, "data_hash": "dd"}
    return {"weights_hash": weights, "settings": {}, "config_sha256": "cc", "training": training}


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"recipe": {"steps": 20}}, "recipe.steps is 10 and 20"),
        ({"plan": {"length": 512}}, "plan.length is 4096 and 512"),
        ({"model": "gdn:fwpkm@2"}, "model is gdn:fwpkm@1 and gdn:fwpkm@2"),
        ({}, ""),
    ],
)
@pytest.mark.parametrize("command", ["ablate", "capacity"])
def test_ablations_that_were_not_trained_and_asked_alike_are_refused(
    command: str, changed: dict[str, Any], told: str, tmp_path: Path
) -> None:
    """Their rows do not say how they were: they would be taken for seeds of one."""
    config = {"command": command, "model": "gdn:fwpkm@1", "recipe": {"steps": 10}, "plan": {"length": 4096}}
    parts = []
    for seed, own in enumerate((config, {**config, **changed})):
        folder = tmp_path / str(seed)
        check_or_create(folder, own, command=["x"], seeds=[seed], data={}, weights={})
        write_rows_csv(
            [replace(needle(FWPKM, 3), task="ablation", arm="no-gate", score="idw", seed=seed)], folder / "rows.csv"
        )
        parts.append(Part(folder, "x" if seed else ""))
    if told:
        with pytest.raises(UserError, match=f"did not train and ask their models alike \\({told}\\)"):
            merge_runs(parts, tmp_path / "both")
    else:
        merge_runs(parts, tmp_path / "both")


def test_trainings_of_several_runs_are_pooled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [
        a_run(
            tmp_path / str(seed), [bits(PLAIN, 2.0 + seed / 10, f"p{seed}", seed), bits(FWPKM, 1.6, f"f{seed}", seed)]
        )
        for seed in range(3)
    ]
    out = tmp_path / "all"
    command = ["report", *map(str, runs[:2])]
    assert cli.main([*command, "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert said.out == f"{out / 'report.html'}\n"
    assert (
        f"note: taken as trainings of one model, though not every run says how they were trained: {PLAIN}" in said.err
    )
    assert "Pooled over 2 trainings" in (out / "tables.md").read_text()
    # One more joins them; the same again changes nothing; fewer are another report.
    assert cli.main([*command, str(runs[2]), "--out", str(out)]) == 0
    assert cli.main([*command, str(runs[2]), "--out", str(out)]) == 0
    assert not (out / "rows-before-1.csv").exists()
    assert len(read_rows_csv(out / "rows.csv")) == 6
    assert "Pooled over 3 trainings" in (out / "tables.md").read_text()
    capsys.readouterr()
    assert cli.main([*command, "--out", str(out)]) == 2
    assert "holds more than this run" in capsys.readouterr().err
    manifest = load_manifest(out)
    assert manifest is not None
    assert manifest["config"]["of"] == [str(run) for run in runs]
    assert [one["command"] for one in manifest["of"]] == ["fwpkm-eval ppl"] * 3
    assert manifest["seeds"] == [0, 1, 2]
    assert manifest["finished"]
    assert manifest["weights"] == {
        PLAIN: "p0", FWPKM: "f0", f"{PLAIN} p1": "p1", f"{FWPKM} f1": "f1", f"{PLAIN} p2": "p2", f"{FWPKM} f2": "f2",
    }  # fmt: skip


def test_a_report_names_the_machines_that_measured_and_not_the_one_that_made_it(tmp_path: Path) -> None:
    facts = [
        {"device": {"processor": name}, "versions": {"fwpkm-eval": "0.1"}, "git_commit": commit}
        for name, commit in (("Abacus", "c0ffee"), ("Abacus", "c0ffee"), ("Slide rule", "decaf"))
    ]
    runs = [
        a_run(tmp_path / str(seed), [bits(FWPKM, 1.6, f"f{seed}", seed)], elsewhere=about)
        for seed, about in enumerate(facts)
    ]
    alike, others = tmp_path / "alike", tmp_path / "others"
    assert cli.main(["report", *map(str, runs[:2]), "--out", str(alike)]) == 0
    manifest = load_manifest(alike)
    assert manifest is not None
    assert {name: manifest[name] for name in facts[0]} == facts[0]
    for _ in range(2):
        assert cli.main(["report", *map(str, runs), "--out", str(others)]) == 0
        manifest = load_manifest(others)
        assert manifest is not None
        assert [manifest[name] for name in ("device", "versions", "git_commit")] == [{}, {"fwpkm-eval": "0.1"}, None]
    page = (others / "report.html").read_text()
    assert f"<dt>{runs[2]}</dt><dd>fwpkm-eval ppl; Slide rule; fwpkm-eval 0.1; commit decaf</dd>" in page


def test_a_label_keeps_the_models_of_a_run_apart(tmp_path: Path) -> None:
    """And each is held against the backbone of its own label."""
    text = a_run(tmp_path / "text", [bits(PLAIN, 2.0, "p0"), bits(FWPKM, 1.8, "f0")])
    other = a_run(tmp_path / "other", [bits(PLAIN, 3.0, "p1"), bits(FWPKM, 2.4, "f1"), *GUESSED])
    out = tmp_path / "both"
    assert cli.main(["report", f"text={text}", f"needles={other}", "--out", str(out)]) == 0
    rows = read_rows_csv(out / "rows.csv")
    assert {row.model for row in rows if row.task == "ppl"} == {
        f"{model} · {label}" for model in (PLAIN, FWPKM) for label in ("text", "needles")
    }
    assert {row.model for row in rows if row.task == "niah"} == {row.model for row in GUESSED}, "no model of its own"
    tables = (out / "tables.md").read_text()
    assert f"−10.0% ({PLAIN} · text)" in tables
    assert f"−20.0% ({PLAIN} · needles)" in tables
    manifest = load_manifest(out)
    assert manifest is not None
    assert manifest["weights"][f"{FWPKM} · text"] == "f0"
    # A run with a label and one without.
    assert cli.main(["report", str(text), f"x={other}", "--out", str(tmp_path / "one")]) == 0
    assert {row.model for row in read_rows_csv(tmp_path / "one" / "rows.csv")} >= {FWPKM, f"{FWPKM} · x"}


def test_a_baseline_is_of_the_same_backbone_and_label_where_there_is_one() -> None:
    models = ["gdn", "gdn+swa", "gdn+swa · a", "gdn+swa · b", "gdn · b"]
    assert baseline_of("gdn+swa:fwpkm@1 · b", models) == "gdn+swa · b"
    assert baseline_of("gdn+swa:fwpkm@1 · c", models) == "gdn+swa"
    assert baseline_of("gdn+swa:fwpkm@1", models) == "gdn+swa"
    assert baseline_of("gdn:fwpkm@1 · a", models) == "gdn"
    assert baseline_of("fa:fwpkm@1 · b", models) in ("gdn+swa · b", "gdn · b")
    assert baseline_of("gdn+swa:fwpkm@1", ["gdn+swa · b"]) == "gdn+swa · b"
    assert baseline_of("gdn+swa:fwpkm@1", ["gdn+swa:pkm@1"]) is None


def test_what_two_runs_measured_of_the_same_weights_is_there_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = [bits(PLAIN, 2.0, "p0"), needle(FWPKM, 3, weights_hash="f0")]
    again = [replace(first[0], version="0.2", seconds=3.0), replace(first[1], value=0.9), bits(FWPKM, 1.8, "f0")]
    runs = [a_run(tmp_path / "a", first), a_run(tmp_path / "b", again)]
    (note,) = merge_runs([Part(run) for run in runs], tmp_path / "both")
    assert note == "other values in a later run of the same weights: 1; the first run's are taken"
    rows = read_rows_csv(tmp_path / "both" / "rows.csv")
    assert sorted(map(repr, rows)) == sorted(map(repr, [*first, again[2]]))


def test_runs_that_cannot_stand_in_one_report_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = a_run(tmp_path / "a", [bits(FWPKM, 2.0, "f0")], models={FWPKM: described("f0")})
    other_text = a_run(tmp_path / "b", [bits(FWPKM, 2.0, "f1")], sha="bb")
    by_path = a_run(tmp_path / "c", [bits(FWPKM, 2.0, "f1")], data="data", sha="bb")
    shorter = a_run(tmp_path / "d", [bits(FWPKM, 2.0, "f2")], models={FWPKM: described("f2", steps=3)})
    alike = a_run(tmp_path / "e", [bits(FWPKM, 2.0, "f3", 1)], models={FWPKM: described("f3")})
    out = tmp_path / "out"
    for runs, message in (
        ([a, other_text], "have other text under the name docs"),
        ([a, by_path], "are of other data, and one report cannot say which is which"),
        ([a, shorter], f"was trained otherwise, than {FWPKM} of an earlier one of the runs: give it a label"),
        ([a, a], "a run is named twice"),
        ([a, tmp_path / "nowhere"], "no such folder"),
        ([a, tmp_path], "holds no results"),
    ):
        assert cli.main(["report", *map(str, runs), "--out", str(out)]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
        assert not out.exists()
    assert cli.main(["report", str(a), str(alike), "--out", str(out)]) == 0
    assert not capsys.readouterr().err, "both say how they were trained, and that was alike"
    assert cli.main(["report", str(a), f"short={shorter}", "--out", str(tmp_path / "labelled")]) == 0
    for words, message in (
        (["report", str(a), str(alike)], "needs a folder of its own: --out DIR"),
        (["report", f"x={a}"], "needs a folder of its own: --out DIR"),
        (["report", "x y=runs/a"], "is no LABEL=DIR"),
        (["report"], "Missing argument"),
        (["report", str(a), str(alike), "--out", str(a)], "holds another run"),
    ):
        assert cli.main(words) == 2
        assert message in capsys.readouterr().err


def test_traces_come_along_and_what_is_not_finished_is_told(tmp_path: Path) -> None:
    a, b = (a_run(tmp_path / name, [bits(FWPKM, 2.0, name, seed)]) for seed, name in enumerate("ab"))
    update_manifest(b, finished=False)
    (a / "trace").mkdir()
    (a / "trace" / "one.json").write_text("{}")
    merge_runs([Part(a, "x"), Part(b)], tmp_path / "out")
    assert [path.name for path in (tmp_path / "out" / "trace").iterdir()] == ["x-one.json"]
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["finished"] is None


def test_a_folder_may_have_an_equals_sign_in_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    a_run(Path("k=8"), [bits(FWPKM, 2.0, "f0")])
    assert cli.main(["report", "k=8"]) == 0
    with pytest.raises(UserError, match="a run is named twice"):
        merge_runs([Part(Path("k=8")), Part(tmp_path / "k=8")], Path("out"))
