"""Where the code stands, and what gets installed."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LINKED = ("kernels", "reference_models", "tasks")
SOURCES = ("fwpkm_eval", *LINKED, "cli.py", "setup.py", "pyproject.toml", "README.md", "LICENSE")


@pytest.mark.parametrize("folder", LINKED)
def test_top_level_folders_are_linked_into_the_package(folder: str) -> None:
    link = ROOT / "fwpkm_eval" / folder
    assert link.is_symlink()
    assert link.readlink() == Path("..") / folder
    assert (ROOT / folder).is_dir()
    assert not (ROOT / folder).is_symlink()


@pytest.mark.parametrize("folder", LINKED)
def test_they_import_from_the_package(folder: str) -> None:
    module = importlib.import_module(f"fwpkm_eval.{folder}")
    assert module.__file__ is not None
    assert Path(module.__file__).resolve() == ROOT / folder / "__init__.py"


@pytest.mark.parametrize("folder", LINKED)
def test_they_do_not_import_under_their_bare_names(folder: str, tmp_path: Path) -> None:
    code = f"import importlib.util as u, sys; sys.exit(u.find_spec({folder!r}) is not None)"
    assert subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, check=False).returncode == 0


def test_the_package_is_typed_and_light() -> None:
    assert (ROOT / "fwpkm_eval" / "py.typed").is_file()
    code = (
        "import sys, fwpkm_eval, fwpkm_eval.kernels\n"
        "assert fwpkm_eval.kernels.__version__ == '0.0.0'\n"
        "assert {'load_model', 'evaluate'} <= set(dir(fwpkm_eval))\n"
        "sys.exit(', '.join({'torch', 'numpy', 'pandas', 'matplotlib'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_names_of_the_package_that_come_from_the_api() -> None:
    import fwpkm_eval

    assert callable(fwpkm_eval.load_model)
    assert callable(fwpkm_eval.evaluate)
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        _ = fwpkm_eval.no_such_name


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """The names inside a wheel made from the sources, and inside one made from the source archive."""
    work = tmp_path_factory.mktemp("build")
    source = work / "source"
    _copy_sources(source)
    _python(source, "-c", f"import setuptools.build_meta as b; b.build_sdist({str(work)!r})")
    (archive,) = work.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(work / "unpacked", filter="data")
    (unpacked,) = (work / "unpacked").iterdir()
    return {"sources": _wheel(source, work / "a"), "source archive": _wheel(unpacked, work / "b")}


@pytest.mark.parametrize("origin", ["sources", "source archive"])
def test_a_wheel_holds_every_module_and_data_file(archives: dict[str, set[str]], origin: str) -> None:
    expected = {
        Path(folder, name).relative_to(ROOT).as_posix()
        for folder, _, names in os.walk(ROOT / "fwpkm_eval", followlinks=True)
        for name in names
        if name == "py.typed" or name.endswith((".py", ".yaml", ".j2", ".js", ".safetensors", ".json"))
    }
    assert {"fwpkm_eval/cli.py", "fwpkm_eval/kernels/__init__.py", "fwpkm_eval/py.typed"} <= expected
    assert expected <= archives[origin], sorted(expected - archives[origin])


@pytest.mark.parametrize("origin", ["sources", "source archive"])
def test_a_wheel_holds_nothing_outside_the_package(archives: dict[str, set[str]], origin: str) -> None:
    tops = {name.split("/")[0] for name in archives[origin]}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"fwpkm_eval"}


def _copy_sources(target: Path) -> None:
    """What a build reads, copied with links kept: building in place would leave files behind."""
    target.mkdir()
    names = [name for name in SOURCES if (ROOT / name).exists()]
    pack = subprocess.Popen(["tar", "--exclude=__pycache__", "-cf", "-", *names], cwd=ROOT, stdout=subprocess.PIPE)
    subprocess.run(["tar", "-xf", "-"], cwd=target, stdin=pack.stdout, check=True)
    assert pack.wait() == 0


def _wheel(source: Path, out: Path) -> set[str]:
    _python(source, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(out), ".")
    (wheel,) = out.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def _python(folder: Path, *arguments: str) -> None:
    done = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
