"""The project's own text: nothing in it belongs to the machine it was written on."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TEXT = {".py", ".md", ".toml", ".txt", ".yaml", ".yml", ".json", ".csv", ".html", ".j2", ".js", ".svg", ".cfg", ""}
# Absolute paths of one machine: home folders and the like. What stands before spares URLs and relative paths.
LOCAL_PATH = re.compile(r"(?<![\w.\-/}])/(?:work|root|home|Users)/")


def _files() -> list[Path]:
    """Every file that is tracked, or would be; of an unpacked archive, every file but hidden ones."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode == 0 and listed.stdout:
        paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    else:
        paths = [path for path in ROOT.rglob("*") if not any(part.startswith(".") for part in path.parts)]
    return [path for path in paths if path.is_file() and not path.is_symlink() and path.suffix in TEXT]


def test_there_is_text_to_check() -> None:
    assert ROOT / "pyproject.toml" in _files()
    assert ROOT / "tests" / "test_project_text.py" in _files()


def test_the_pattern_knows_a_local_path_from_others() -> None:
    for local in ("/work/a/x", "see /root/.cache/", "'/home/me/data'", "file:/Users/me/x"):
        assert LOCAL_PATH.search(local), local
    for fine in (
        "https://a.example/work/x",
        "../work/x",
        "runs/work/x",
        "a/root/b",
        "/etc/x",
        "/work",
        "${X}/root/y",
    ):
        assert not LOCAL_PATH.search(fine), fine


def test_no_paths_of_one_machine() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}"
        for path in _files()
        if path != Path(__file__).resolve()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if LOCAL_PATH.search(line)
    ]
    assert not found, "\n".join(found)


def test_every_module_says_what_it_is_for() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in _files()
        if path.suffix == ".py" and ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) is None
    ]
    assert not silent, silent


def test_dependencies_installed_for_development_are_pinned() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pins = [line for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if line]
    assert pins == sorted(pins, key=str.lower)
    for pin in pins:
        assert re.fullmatch(r"[\w.-]+==[\w.!]+", pin), pin
    pinned = {_normal(pin) for pin in pins}
    extras = project["optional-dependencies"]
    itself = re.fullmatch(r"fwpkm-eval\[(.+)\]", extras["dev"][0])
    assert itself is not None
    of_extras = [requirement for name in itself[1].split(",") for requirement in extras[name]]
    needed = [*project["dependencies"], *extras["dev"][1:], *of_extras]
    missing = [requirement for requirement in needed if _normal(requirement) not in pinned]
    assert not missing, missing


def _normal(requirement: str) -> str:
    """A requirement's project name as package indexes compare it."""
    match = re.match(r"[\w.-]+", requirement)
    assert match is not None
    return re.sub(r"[-_.]+", "-", match[0]).lower()


@pytest.mark.parametrize("name", ["Makefile", "LICENSE", "README.md", "CHANGELOG.md", ".ci/run", ".gitignore"])
def test_the_project_has(name: str) -> None:
    assert (ROOT / name).stat().st_size > 0
