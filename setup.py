"""Says where the packages are; everything else about the project is in pyproject.toml.

``kernels``, ``reference_models`` and ``tasks`` stand at the top level and are installed inside
``fwpkm_eval``, so that nothing called "kernels" or "tasks" gets into site-packages. In a checkout they
are also linked into the package (``fwpkm_eval/kernels -> ../kernels``), which is how type checkers and
editors find them. They are named here as well because links can get lost: a source archive has none, nor
has a checkout where links are not supported.
"""

from __future__ import annotations

from setuptools import find_packages, setup

LINKED = ("kernels", "reference_models", "tasks")

packages = set(find_packages(include=["fwpkm_eval", "fwpkm_eval.*"]))
for folder in LINKED:
    packages.add(f"fwpkm_eval.{folder}")
    packages.update(f"fwpkm_eval.{folder}.{inner}" for inner in find_packages(folder))

setup(packages=sorted(packages), package_dir={f"fwpkm_eval.{folder}": folder for folder in LINKED})
