"""One command line of a report: what all commands share, and how values are written in them."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fwpkm_eval.reporting import wording
from fwpkm_eval.reporting.fact import Fact
from fwpkm_eval.reporting.measurements import FLOORS, ordered
from fwpkm_eval.runs.manifest import as_mapping
from fwpkm_eval.runs.measured_models import SHIPPED
from fwpkm_eval.runs.rows import VARIANT_SEPARATOR

if TYPE_CHECKING:
    import pandas

PLACE = "DIR"
"""Where a command puts its results: a new folder for each."""
CHECKPOINTS = "CHECKPOINTS"
"""Where the checkpoints are that are not the shipped ones, if a manifest does not say it."""


@dataclass(frozen=True)
class Run:
    """What commands are made from: all rows, and the settings that the manifest keeps of the run."""

    frame: pandas.DataFrame
    config: Mapping[str, Any]
    checkpoints: Mapping[str, str] = field(default_factory=dict)
    """Where the weights are, by their hash, as far as the manifest says so."""

    @classmethod
    def from_manifest(cls, frame: pandas.DataFrame, manifest: Mapping[str, Any] | None) -> Run:
        """The run that a manifest is of; None: nothing is known of it but its rows."""
        entries = [as_mapping(entry) for entry in as_mapping((manifest or {}).get("models")).values()]
        checkpoints = {
            str(entry["weights_hash"]): str(entry["checkpoint"]) for entry in entries if "checkpoint" in entry
        }
        return cls(frame, as_mapping((manifest or {}).get("config")), checkpoints)

    def rows(self, task: str, metric: str = "") -> pandas.DataFrame:
        """The rows of a task, or of one metric of it."""
        of_task = self.frame[self.frame["task"] == task]
        return of_task[of_task["metric"] == metric] if metric else of_task

    def settings(self, command: str) -> Mapping[str, Any]:
        """The manifest's settings if the run was made by this command alone."""
        return self.config if command in (self.config.get("command"), self.config.get("task")) else {}


def fact_of(run: Run, name: str, command: str, models: Iterable[str], task: str, options: Mapping[str, Any]) -> Fact:
    """A command with what all share: models, scale, text, type and the first seed; further seeds are named."""
    rows = run.rows(task)
    named = [model for model in ordered(models) if model not in ("", *FLOORS)]
    rows = rows[rows["model"].isin(named)] if named else rows
    scales, types = sorted(set(rows["scale"]) - {""}), sorted(set(rows["dtype"]) - {""})
    seeds = sorted({int(seed) for seed in rows["seed"].dropna()})
    data = str(run.config.get("data", "embedded"))
    line = line_of(
        command,
        {
            "models": ",".join(_asked_for(run, rows, model) for model in named),
            "scale": scales[0] if len(scales) == 1 else "",
            **options,
            "data": unless(data, "embedded"),
            "dtype": unless(types[0], "float32") if len(types) == 1 else "",
            "seed": unless(str(seeds[0]), "0") if seeds else "",
        },
    )
    if len(seeds) > 1 and "seeds" not in options:
        name += f" (again with --seed {wording.listing([str(seed) for seed in seeds[1:]])})"
    return Fact(name, line)


def _asked_for(run: Run, rows: pandas.DataFrame, model: str) -> str:
    """How a command names the model whose rows these are: a name stands for the weights that are shipped, and any
    others for a checkpoint's folder."""
    from fwpkm_eval.api import checkpoint_name, shipped_weights

    of_model = rows[rows["model"] == model]
    weights = sorted(set(of_model["weights_hash"].fillna("")) - {""})
    scales = set(of_model["scale"]) - {""}
    name, _, label = model.partition(VARIANT_SEPARATOR)
    called = f"{label}=" if label else ""
    if not weights or (len(scales) == 1 and weights == [shipped_weights(name, *scales)]):
        return f"{called}{name}"
    folder = f"{CHECKPOINTS}/{label or checkpoint_name(name)}"
    unknown = [folder] if len(weights) == 1 else [f"{folder}-{one[:8]}" for one in weights]
    folders = [_folder(run.checkpoints.get(one)) or other for one, other in zip(weights, unknown, strict=True)]
    return ",".join(f"{called}{one}" for one in folders)


def _folder(checkpoint: str | None) -> str:
    """A checkpoint's folder as a command takes it; nothing for what is none, or would be read otherwise there."""
    if checkpoint is None or checkpoint == SHIPPED or "," in checkpoint or checkpoint.startswith("~"):
        return ""
    return checkpoint if "/" in checkpoint else f"./{checkpoint}"


def line_of(command: str, options: Mapping[str, Any]) -> str:
    """The command: options without a value are left out, True is a flag, a list an option given several times."""
    words = ["fwpkm-eval", command]
    for name, value in options.items():
        if value is True:
            words.append(f"--{name}")
        elif value:
            for each in [value] if isinstance(value, (str, int)) else value:
                words += [f"--{name}", str(each)]
    return shlex.join([*words, "--out", PLACE])


def size_text(value: Any) -> str:
    """``4K`` for 4096, nothing for what is missing."""
    return "" if _absent(value) else wording.size(int(value))


def number_text(value: Any) -> str:
    """``3`` for 3.0, nothing for what is missing."""
    return "" if _absent(value) else str(int(value))


def _absent(value: Any) -> bool:
    import pandas

    return value is None or bool(pandas.isna(value))


def unless(value: Any, default: Any) -> str:
    """The value in text, nothing where it is what the command has anyway."""
    return "" if value is None or value == default else str(value)


def listed(numbers: Iterable[Any]) -> str:
    """Each number once, by size: ``16,32``."""
    return ",".join(str(number) for number in sorted({int(number) for number in numbers}))
