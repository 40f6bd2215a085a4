"""Whether runs that go into one report were measured alike, where their rows do not tell the difference."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fwpkm_eval.errors import UserError

TOLD_BY_ROWS = {
    *("length", "lengths", "needles", "passes", "protocol", "protocols", "samples", "scope", "frozen", "seed"),
    *("write_chunks", "pairs", "tokenizer"),
}
"""Settings of tasks of which rows say what they were."""
_NO_MATTER = {"block"}
"""How many tokens are computed at a time changes no value."""
_APART = ("trace", "ablation", "capacity")
"""Tasks of which each run's results stand by themselves, or are checked elsewhere."""


def check_measured_alike(folders: Sequence[Path], cells: Sequence[Iterable[Mapping[str, Any]]]) -> None:
    """Refuses runs of which one has, in a task on a text, other settings than another, such as shorter segments.

    In one table their values would be held against one another. ``cells``: of each folder; a run without them is taken
    as it is.

    Raises:
        UserError: it names the setting.
    """
    first: dict[tuple[str, str, str], tuple[Path, Any]] = {}
    for folder, of_run in zip(folders, cells, strict=True):
        for task, text, settings in filter(None, map(_asked, of_run)):
            for name, value in settings.items():
                other, there = first.setdefault((task, text, name), (folder, value))
                if there != value:
                    raise UserError(
                        f"{other} and {folder} did not measure {task} on {text} alike ({name} is {_shown(there)} and "
                        f"{_shown(value)}), and one report would hold the values against each other: make one of each"
                    )


def _asked(cell: Mapping[str, Any]) -> tuple[str, str, dict[str, Any]] | None:
    """Task, text and the settings that a cell's rows do not tell; None if all of them do."""
    settings, rows = cell.get("settings"), cell.get("rows")
    if not (isinstance(settings, Mapping) and isinstance(settings.get("task"), Mapping) and rows):
        return None
    task = str(rows[0].get("task"))
    if task in _APART:
        return None
    silent = {name: value for name, value in settings["task"].items() if name not in TOLD_BY_ROWS | _NO_MATTER}
    # Domains in turn are the text themselves; the first of them is not.
    return task, "its domains" if "domains" in silent else str(settings.get("data", {}).get("name")), silent


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(str(one.get("name", one) if isinstance(one, Mapping) else one) for one in value)
    return "as usual" if value is None else str(value)
