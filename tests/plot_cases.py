"""Rows that are drawn, and what a drawn figure holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fwpkm_eval.reporting.plots import build_plots
from fwpkm_eval.runs.rows import Row, rows_to_frame

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PLAIN, FWPKM = "gdn+swa", "gdn+swa:fwpkm@1,3"
HOSTILE = '--><script>alert(1)</script>&"$x_{\\\\]\n%s<set>'
Draw = Callable[[Iterable[Row]], dict[str, "Figure"]]


def captions(rows: Iterable[Row]) -> dict[str, str]:
    return {plot.name: plot.caption for plot in build_plots(rows_to_frame(rows))}


def gate_rows(shares: Sequence[float], mean: float, **fields: Any) -> list[Row]:
    common: dict[str, Any] = {
        "task": "gates", "model": FWPKM, "dataset": "docs", "write_chunk": "128", "scope": "stream", "seed": 0,
        "score": "idw", "n": 1000, "unit": "fraction",
    }  # fmt: skip
    layer = fields.pop("layer", 1)
    common |= fields
    rows = [
        Row(metric=f"gate_share@{layer}", value=share, depth=round((at + 0.5) / len(shares), 4), **common)
        for at, share in enumerate(shares)
    ]
    return [*rows, Row(metric=f"gate_mean@{layer}", value=mean, **common)]


def use_rows(whole: Mapping[str, float], single: Mapping[str, tuple[float, float, float]], **fields: Any) -> list[Row]:
    common: dict[str, Any] = {
        "task": "addressing", "model": FWPKM, "dataset": "docs", "write_chunk": "128", "seed": 0, "score": "idw",
    }  # fmt: skip
    layer = fields.pop("layer", 1)
    common |= fields
    rows = [Row(metric=f"{name}@{layer}", value=value, n=131040, **common) for name, value in whole.items()]
    for name, (value, low, high) in single.items():
        rows.append(Row(metric=f"chunk_{name}@{layer}", value=value, n=128, ci_low=low, ci_high=high, **common))
    return rows


WHOLE = {"collision_rate": 0.88, "coverage": 0.69, "kl_to_uniform": 0.67}
SINGLE = {"collision_rate": (0.05, 0.04, 0.06), "coverage": (0.15, 0.14, 0.16), "kl_to_uniform": (4.2, 4.1, 4.3)}


def bars(axes: Axes) -> list[float]:
    """The heights of a histogram's bars, in percent."""
    return [patch.get_height() for patch in axes.patches]  # type: ignore[attr-defined]  # all are rectangles


def dots(axes: Axes, marker: str = "o") -> list[tuple[float, float]]:
    """Where single marks stand."""
    found = []
    for line in axes.lines:
        if line.get_marker() == marker:
            found += list(zip(np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float), strict=True))
    return [(round(float(x), 6), round(float(y), 6)) for x, y in found]


def spans(axes: Axes) -> list[tuple[float, float]]:
    """From where to where the level lines of a panel reach."""
    from matplotlib.collections import LineCollection

    lines = [path for one in axes.collections if isinstance(one, LineCollection) for path in one.get_paths()]
    ends = [np.asarray(line.vertices, float)[:2, 0].round(6).tolist() for line in lines]
    return [(low, high) for low, high in ends]


def uprights(axes: Axes) -> list[tuple[float, float, float]]:
    """Where the upright bars of a panel stand, and from where to where they reach."""
    from matplotlib.collections import LineCollection

    lines = [path for one in axes.collections if isinstance(one, LineCollection) for path in one.get_paths()]
    ends = [np.asarray(line.vertices, float)[:2].round(6) for line in lines]
    return [(float(end[0, 0]), float(end[0, 1]), float(end[1, 1])) for end in ends]


def words(figure: Figure) -> str:
    """All text in a figure, its titles too."""
    from matplotlib.text import Text

    return " | ".join(text.get_text() for text in figure.findobj(Text) if isinstance(text, Text))


def cost(model: str, **values: float) -> list[Row]:
    kinds = {"reading": ("samples_per_second", "reading"), "training": ("samples_per_second", "training")}
    rows = []
    for name, value in values.items():
        metric, protocol = kinds.get(name, (name, ""))
        rows.append(Row(task="cost", model=model, metric=metric, protocol=protocol, value=value, length=4096))
    return rows
