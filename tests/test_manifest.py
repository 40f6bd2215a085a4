"""The manifest: what it records and leaves out, and that two runs never share a folder."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

import fwpkm_eval
from fwpkm_eval.data.shards import CACHE, cache_folder
from fwpkm_eval.errors import UserError
from fwpkm_eval.runs import manifest as module
from fwpkm_eval.runs.manifest import (
    MANIFEST,
    RESULT_NAMES,
    check_or_create,
    git_commit,
    load_manifest,
    machine,
    tidy,
    update_manifest,
    versions,
)

CONFIG: dict[str, Any] = {"command": "niah", "scale": "micro", "passes": (1, 2, 4), "needles": {"count": 5}}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_new_folder_gets_a_manifest_with_all_that_was_asked(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "run"
    check_or_create(
        out,
        CONFIG,
        command=["fwpkm-eval", "niah", "--models", "gdn:fwpkm@2 x"],
        seeds=[3, 0, 3],
        device={"device": "cpu"},
        data={"docs": {"sha256": "ab", "stands_in_for": "Fineweb-Edu"}},
        weights={"gdn": "cd"},
    )
    stored = json.loads((out / MANIFEST).read_text())
    assert stored["config"] == {**CONFIG, "passes": [1, 2, 4]}
    assert stored["command"] == "fwpkm-eval niah --models 'gdn:fwpkm@2 x'"
    assert stored["seeds"] == [0, 3]
    assert stored["device"]["device"] == "cpu"
    assert stored["data"]["docs"]["sha256"] == "ab"
    assert stored["weights"] == {"gdn": "cd"}
    assert stored["versions"]["fwpkm-eval"] == fwpkm_eval.__version__
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", stored["started"])
    assert stored["finished"] is None
    assert {"git_commit", "cells"} <= stored.keys()


def test_the_same_run_is_joined_and_keeps_its_start(tmp_path: Path) -> None:
    first = check_or_create(tmp_path, CONFIG, command=["a"], weights={"gdn": "cd"})
    update_manifest(tmp_path, cells=["k1"], finished=True)
    again = check_or_create(tmp_path, dict(reversed(CONFIG.items())) | {"passes": [1, 2, 4]}, command=["b"])
    assert again["started"] == first["started"]
    assert again["finished"] is None
    assert again["weights"] == {"gdn": "cd"}
    assert again["cells"] == ["k1"]
    assert (again["command"], len(again["resumed"])) == ("b", 1)
    assert load_manifest(tmp_path) == again


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scale": "small"}, 'scale is "micro" there and "small" here'),
        ({"needles": {"count": 64}}, "needles.count is 5 there and 64 here"),
        ({"passes": [3]}, "passes is [1, 2, 4] there and [3] here"),
        ({"more": None}, "more is not set there and null here"),
        ({"needles": {}}, "needles.count is 5 there and not set here"),
        ({"needles": {"count": True}}, "needles.count is 5 there and true here"),
        (dict.fromkeys("abcde", 1), "and 2 more"),
        ({"text": "x" * 500}, "…"),
    ],
)
def test_another_run_is_refused_in_one_line_and_nothing_changes(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    check_or_create(tmp_path, CONFIG)
    (tmp_path / "rows.csv").write_text("precious")
    before = contents(tmp_path)
    with pytest.raises(UserError) as error:
        check_or_create(tmp_path, {**CONFIG, **change}, weights={"gdn": "new"})
    message = str(error.value)
    assert words in message
    assert f"{tmp_path} holds another run" in message
    assert "\n" not in message
    assert len(message) < 500
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", RESULT_NAMES)
def test_results_without_a_manifest_are_not_written_over(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir() if name in ("cells", "plots") else (tmp_path / name).write_text("someone's")
    with pytest.raises(UserError, match=f"holds {re.escape(name)} but no manifest.json"):
        check_or_create(tmp_path, CONFIG)
    assert not (tmp_path / MANIFEST).exists()


def test_a_folder_with_other_things_in_it_may_be_used(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    check_or_create(tmp_path, CONFIG)
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"config": 3}', "\xff", "[" * 100_000])
def test_a_damaged_manifest_is_refused_and_kept(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text, encoding="latin-1")
    before = contents(tmp_path)
    with pytest.raises(UserError) as error:
        check_or_create(tmp_path, CONFIG)
    assert MANIFEST in str(error.value)
    assert "\n" not in str(error.value)
    assert contents(tmp_path) == before


def test_the_folder_of_a_checkpoint_is_no_place_for_results(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(UserError, match="holds a checkpoint, and results would lie among its files"):
        check_or_create(tmp_path, CONFIG)
    assert contents(tmp_path) == {"model.json": b"{}"}


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x")
    with pytest.raises(UserError, match="is a file"):
        check_or_create(tmp_path / "out", CONFIG)
    with pytest.raises(UserError, match="cannot write"):
        check_or_create(tmp_path / "out" / "deeper", CONFIG)


def test_of_two_runs_that_start_together_one_gets_the_folder(tmp_path: Path) -> None:
    code = """
        import sys
        from pathlib import Path
        from fwpkm_eval.errors import UserError
        from fwpkm_eval.runs.manifest import check_or_create
        sys.stdin.readline()
        try:
            check_or_create(Path(sys.argv[1]), {"name": sys.argv[2]})
        except UserError as error:
            sys.exit("holds another run" in str(error) and 3 or 4)
    """
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "out"), name], stdin=subprocess.PIPE
        )
        for name in "abcd"
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.close()
    assert sorted(process.wait(timeout=60) for process in processes) == [0, 3, 3, 3]
    assert [path.name for path in (tmp_path / "out").iterdir()] == [MANIFEST]


def test_no_secrets_and_no_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, work = tmp_path / "home" / "lovelace", tmp_path / "work"
    home.mkdir(parents=True)
    work.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("HF_TOKEN", "environment-secret")
    monkeypatch.chdir(work)
    check_or_create(
        work / "out",
        {"data": str(home / "books"), "out": str(work / "out"), "hub_token": "config-secret", "tokens": 8},
        command=["fwpkm-eval", "--api-key", "option-secret", "--password=equal-secret", "--data", str(home / "books")],
        data={"books": {"origin": "https://lovelace:address-secret@example.org/books", "path": str(home)}},
    )
    text = (work / "out" / MANIFEST).read_text()
    assert "secret" not in text
    assert str(tmp_path) not in text
    assert "lovelace" not in text
    stored = json.loads(text)
    assert stored["config"] == {"data": "~/books", "out": "out", "hub_token": "REMOVED", "tokens": 8}
    assert stored["command"] == "fwpkm-eval --api-key REMOVED --password=REMOVED --data ~/books"
    assert stored["data"]["books"] == {"origin": "https://REMOVED@example.org/books", "path": "~"}


def test_a_user_without_a_home_folder_has_manifests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", none)
    monkeypatch.chdir(tmp_path)
    assert tidy(str(tmp_path / "run")) == "run"
    monkeypatch.delenv(CACHE, raising=False)
    with pytest.raises(UserError, match=f"home directory.; set {CACHE}"):
        cache_folder()
    monkeypatch.setenv(CACHE, str(tmp_path))
    assert cache_folder() == tmp_path


def test_only_whole_folder_names_are_shortened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/srv/al")
    monkeypatch.chdir(tmp_path)
    for text in ("/srv/alice/x", "/data/srv/al/x", "/srv/al.old", "srv/al", "a/./b", ".", "./x/../y"):
        assert tidy(text) == text.removeprefix("./")
    assert tidy("--data=/srv/al/x:/srv/al") == "--data=~/x:~"
    assert tidy(["/srv/al", ("/srv/al/x",), 3, None, True, 0.5]) == ["~", ["~/x"], 3, None, True, 0.5]
    assert tidy(Path("/srv/al/x")) == "~/x"


def test_updates_merge_mappings_and_cannot_change_the_config(tmp_path: Path) -> None:
    check_or_create(tmp_path, CONFIG, weights={"gdn": "1"})
    stored = update_manifest(tmp_path, weights={"fa": "2"}, cells=["k"], finished=True)
    assert stored["weights"] == {"gdn": "1", "fa": "2"}
    assert stored["cells"] == ["k"]
    assert stored["finished"]
    for name in ("config", "started", "format"):
        with pytest.raises(KeyError):
            update_manifest(tmp_path, finished=False, **{name: 1})
    assert load_manifest(tmp_path) == stored
    with pytest.raises(UserError, match=r"holds no manifest\.json"):
        update_manifest(tmp_path / "elsewhere", cells=[])


def test_a_run_that_is_not_finished_after_all_has_no_time(tmp_path: Path) -> None:
    """Another of its parts had written one."""
    check_or_create(tmp_path, CONFIG)
    assert update_manifest(tmp_path, finished=True)["finished"]
    assert update_manifest(tmp_path, cells=["k"])["finished"] is None


def test_the_commit_is_this_codes_and_not_that_of_whatever_folder_it_lies_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "venv" / "fwpkm_eval"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    monkeypatch.setattr(module.fwpkm_eval, "__file__", str(package / "__init__.py"))
    assert git_commit() is None, "not in any checkout"

    def git(*arguments: str) -> None:
        options = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *options, *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init")
    (tmp_path / "other.txt").write_text("someone's project")
    git("add", "other.txt")
    git("commit", "-m", "theirs")
    assert git_commit() is None, "installed inside somebody else's checkout"
    git("add", "venv")
    git("commit", "-m", "ours")
    commit = git_commit()
    assert commit is not None
    assert re.fullmatch("[0-9a-f]{40}", commit)
    (package / "__init__.py").write_text("changed = True\n")
    assert git_commit() == f"{commit}+changes"


def test_the_gpu_is_named_where_the_run_is_on_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: f"a GPU at {device}")
    assert machine("cuda:1") == {**machine(), "gpu": "a GPU at cuda:1"}
    assert "gpu" not in machine()


def test_versions_are_known_without_importing_torch() -> None:
    code = (
        "import sys; from fwpkm_eval.runs.manifest import versions, machine; versions(); machine(); "
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert {"fwpkm-eval", "python", "torch", "numpy"} <= versions().keys()
