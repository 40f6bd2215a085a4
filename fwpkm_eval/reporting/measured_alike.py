"""Whether runs that go into one report were measured alike, where their rows do not tell the difference."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fwpkm_eval.errors import UserError
from fwpkm_eval.runs.manifest import as_mapping

TOLD_BY_ROWS = {
    *("length", "lengths", "needles", "passes", "protocol", "protocols", "samples", "scope", "frozen", "seed"),
    *("write_chunk", "write_chunks", "pairs", "tokenizer"),
}
"""Settings of tasks of which rows say what they were; for `continual` not how often it wrote."""
_NO_MATTER = {"block"}
"""How many tokens are computed at a time changes no value."""
_APART = ("trace", "ablation", "capacity", "lm-eval")
"""Tasks of which each run's results stand by themselves, or are checked elsewhere."""
_OF_TASKS = ("length", "needles", "samples", "seed")
"""Arguments of lm-eval's tasks that rows tell."""


def check_measured_alike(
    folders: Sequence[Path], cells: Sequence[Iterable[Mapping[str, Any]]], configs: Sequence[Mapping[str, Any]] = ()
) -> None:
    """Refuses runs of which one has, in a task on a text, other settings than another, such as shorter segments.

    In one table their values would be held against one another. ``cells``: of each folder; a run without them is taken
    as it is. ``configs``: of their manifests, which alone say what arguments lm-eval's tasks had.

    Raises:
        UserError: it names the setting.
    """
    first: dict[tuple[str, str], tuple[Path, Any, Any]] = {}
    for number, (folder, of_run) in enumerate(zip(folders, cells, strict=True)):
        asked = [one for cell in of_run for one in _of_cell(cell)]
        for what, name, value, alike in [*asked, *(_of_harness(configs[number]) if configs else ())]:
            other, there, same = first.setdefault((what, name), (folder, value, alike))
            if there != value and (alike is None or same != alike):
                raise UserError(
                    f"{other} and {folder} did not measure {what} alike ({name} is {_shown(there)} and "
                    f"{_shown(value)}), and one report would hold the values against each other: make one of each"
                )


def _of_cell(cell: Mapping[str, Any]) -> list[tuple[str, str, Any, Any]]:
    """Task and text, setting, value, for the settings that a cell's rows do not tell; and of a budget of tokens how
    many were read, which two budgets beyond the text's end have alike."""
    settings, rows = cell.get("settings"), cell.get("rows")
    if not (isinstance(settings, Mapping) and isinstance(settings.get("task"), Mapping) and rows):
        return []
    task, asked = str(rows[0].get("task")), settings["task"]
    if task in _APART or task.startswith("lm-eval"):
        return []
    told = TOLD_BY_ROWS | _NO_MATTER
    what = f"{task} on {as_mapping(settings.get('data')).get('name')}"
    if "domains" in asked:  # they are the text; `data` is the first of them alone
        what, told = f"{task} on its domains", told - {"write_chunk"}
    read = max((row.get("tokens") or 0 for row in rows), default=0)
    return [
        (what, name, value, read if name == "tokens" and read else None)
        for name, value in asked.items()
        if name not in told
    ]


def _of_harness(config: Mapping[str, Any]) -> list[tuple[str, str, Any, Any]]:
    if config.get("command") != "lm-eval":
        return []
    given = {name: value for name, value in as_mapping(config.get("task_arguments")).items() if name not in _OF_TASKS}
    return [("lm-eval's tasks", "arguments", given, None)]


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={one}" for name, one in value.items())
    if isinstance(value, list):
        return ", ".join(str(one.get("name", one) if isinstance(one, Mapping) else one) for one in value)
    return "as usual" if value is None else str(value)
