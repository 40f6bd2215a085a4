"""What it costs: operations against the dense reference, and reading speed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fwpkm_eval.reporting import wording
from fwpkm_eval.reporting.measurements import chunk_order, model_order, tokens_per_second, writes
from fwpkm_eval.reporting.table import Rows, Table
from fwpkm_eval.reporting.tables_bench import operation_tables
from fwpkm_eval.reporting.wording import MISSING

if TYPE_CHECKING:
    import pandas

_TITLES = {
    "model": "model",
    "scale": "scale",
    "dataset": "set",
    "arm": "operation",
    "backend": "backend",
    "length": "tokens",
    "device": "device",
    "dtype": "type",
}
"""The columns that may tell bench rows apart, as the table calls them."""


def bench_tables(frame: pandas.DataFrame) -> list[Table]:
    """The tables of the rows of task ``bench``; those that no table is for, one column per metric."""
    bench = frame[frame["task"] == "bench"]
    if bench.empty:
        return []
    tables, bench = operation_tables(bench)
    if bench.empty:
        return tables
    metrics = list(dict.fromkeys(bench["metric"]))
    labels = [name for name in _TITLES if _tells(bench, name)]
    lines: dict[tuple[str, ...], dict[str, str]] = {}
    for record in bench.to_dict("records"):
        key = tuple(MISSING if absent(record[name]) else wording.grouped(str(record[name])) for name in labels)
        lines.setdefault(key, {})[record["metric"]] = quantity(record["value"], record["unit"], record["metric"])
    rows = Rows()
    for key, line in lines.items():
        rows.add(*key, *(line.get(metric, MISSING) for metric in metrics))
    return [
        *tables,
        Table(
            name="speed",
            title="Speed and memory",
            columns=(*(_TITLES[name] for name in labels), *(metric.replace("_", " ") for metric in metrics)),
            rows=rows.done(),
            note="Measured in one run, in which the outputs were first checked against each other.",
            labels=len(labels),
        ),
    ]


def reading_speed_tables(frame: pandas.DataFrame) -> list[Table]:
    """Tokens per second of the needle task, by model, write chunk and length."""
    speeds = tokens_per_second(frame, "niah")
    if not speeds:
        return []
    lengths = sorted({length for _, length, _ in speeds if length is not None})
    lines: dict[tuple[str, str], dict[int | None, float]] = {}
    for (model, length, write_chunk), speed in speeds.items():
        lines.setdefault((model, write_chunk if writes(model) else ""), {})[length] = speed
    rows = Rows()
    for model, write_chunk in sorted(lines, key=lambda line: (model_order(line[0]), chunk_order(line[1]))):
        line = lines[model, write_chunk]
        texts = [f"{line[length]:,.0f}" if length in line else MISSING for length in lengths]
        rows.add(model, wording.writing_short(write_chunk), *texts)
    devices = wording.listing(sorted(set(frame[frame["task"] == "niah"]["device"]) - {""}))
    return [
        Table(
            name="reading-speed",
            title="Reading speed: tokens per second",
            columns=("model", "a write every", *(f"at {wording.size(length)}" for length in lengths)),
            rows=rows.done(),
            note=f"All tokens read over all seconds of the needle task{f' on {devices}' if devices else ''}. "
            "For orientation: whatever else ran on the machine counts in.",
            labels=2,
        )
    ]


@dataclass(frozen=True)
class Speedup:
    """How many times as fast as the reference ``name`` is, in ``what`` (``forward``, say).

    ``low`` and ``high``: over the 10th and 90th percentiles of the calls, None if not told. ``arm``, ``size``,
    ``scale`` and ``device`` are the row's own entries; ``name`` holds only those of them that tell rows apart.
    """

    name: str
    what: str
    ratio: float
    low: float | None = None
    high: float | None = None
    arm: str = ""
    size: str = ""
    scale: str = ""
    device: str = ""


def speedups(frame: pandas.DataFrame) -> list[Speedup]:
    """The bench rows that say how many times as fast something is, in the order they were measured."""
    bench = frame[(frame["task"] == "bench") & frame["metric"].str.contains("speedup")]
    fields = [name for name in ("model", "arm", "backend", "scale") if _tells(bench, name)]
    found = []
    for record in bench[bench["value"] > 0].to_dict("records"):
        parts: list[str] = []
        for name in fields:
            text = str(record[name])
            if text and not any(text in part for part in parts):
                parts.append(f"scale {text}" if name == "scale" else text)
        what = str(record["metric"]).replace("speedup", "").replace("over_reference", "").replace("_", " ")
        found.append(
            Speedup(
                name=", ".join(parts) or "the operation",
                what=" ".join(what.split()),
                ratio=record["value"],
                low=None if absent(record["ci_low"]) else record["ci_low"],
                high=None if absent(record["ci_high"]) else record["ci_high"],
                arm=str(record["arm"]),
                size=str(record["dataset"]),
                scale=str(record["scale"]),
                device=str(record["device"]),
            )
        )
    return found


def quantity(value: Any, unit: str, metric: str) -> str:
    """A measured cost with its unit: ``14.2 ms``, ``118×``, ``81.5 MiB``."""
    if absent(value):
        return MISSING
    if "speedup" in metric or unit in ("ratio", "times", "x", "×"):
        return ratio_text(value)
    if unit in ("seconds", "s"):
        return f"{value:.3g} s" if value >= 1 else f"{value * 1000:.3g} ms"
    if unit in ("bytes", "B"):
        return f"{value / 2**20:,.1f} MiB"
    return f"{value:.3g} {unit}".strip()


def ratio_text(value: float) -> str:
    """``118×``, ``4.2×``."""
    return f"{value:,.0f}×" if value >= 20 else f"{value:.2g}×"


def absent(value: Any) -> bool:
    """Whether a frame's entry is missing: empty text or no number."""
    import pandas

    return value == "" if isinstance(value, str) else bool(pandas.isna(value))


def _tells(bench: pandas.DataFrame, name: str) -> bool:
    """Whether a column belongs in the table: it names something, and not the same thing in every row."""
    values = {str(value) for value in bench[name] if not absent(value)}
    return len(values) > 1 or (name in ("arm", "model") and bool(values))
