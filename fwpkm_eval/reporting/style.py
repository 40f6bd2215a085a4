"""How plots look: colours, type, axes, and how a figure becomes PNG and SVG, the same bytes each time.

Colours are those of Okabe and Ito, some of them lighter or darker, so that all stay apart for colour-blind readers.
A model's colour follows from its name alone: its kinds of memory, and whether it has full attention. It is therefore
the same in all plots of all reports. Models of one colour differ in their markers, which tell backbones apart.
"""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fwpkm_eval.reporting.measurements import FLOORS, ordered, spec_of
from fwpkm_eval.reporting.published import memories_of

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMN = 3.5
"""Width in inches of one column of a paper; every figure is that wide."""

INK, MUTED, GRID, CARD = "#1f2328", "#656d76", "#d8dee4", "#ffffff"
"""Text, secondary text, grid and background: unlike any model's colour, so that a page can change them."""

_GREY, _BLUE, _VERMILION, _GREEN = "#8a8f98", "#0072b2", "#d55e00", "#009e73"
_ORANGE, _PURPLE, _SKY, _BROWN, _SLATE = "#e0a100", "#a83279", "#4ba6dc", "#6b4f2a", "#3b4450"
_OLIVE, _LAVENDER = "#7d8c1f", "#8f7fd1"
BAR = _BLUE
"""For marks that stand for no model."""
BETTER, WORSE, EVEN = _BLUE, _VERMILION, _GREY
"""For differences, where shape or place says the same: to the good, to the bad, and within their spread.
No model has the colour of what is worse."""
_OF_KIND: dict[tuple[frozenset[str], bool], str] = {
    (frozenset(), False): _GREY,
    (frozenset(), True): _SLATE,
    (frozenset({"pkm"}), False): _ORANGE,
    (frozenset({"fwmlp"}), False): _GREEN,
    (frozenset({"lact"}), False): _PURPLE,
    (frozenset({"fwpkm"}), False): _BLUE,
    (frozenset({"fwpkm"}), True): _SKY,
    (frozenset({"pkm", "fwpkm"}), False): _BROWN,
}
"""By kinds of memory and whether there is full attention; what is not named with it has the colour without."""
_OTHER_KINDS = (_OLIVE, _LAVENDER)
STEPS = ("#93b83a", "#3fa373", "#2a7f8e", "#3b528b", "#46236b")
"""For an ordered quantity, from little to much: as in viridis, ever darker."""
ON_DARK: dict[str, str] = {
    _GREY: "#a4abb5",
    _SLATE: "#e3e8ee",
    _BLUE: "#4aa8e8",
    _VERMILION: "#f3854a",
    _GREEN: "#2fc69a",
    _ORANGE: "#f0bd4e",
    _PURPLE: "#e07ab3",
    _SKY: "#86caf3",
    _BROWN: "#c9a878",
    _OLIVE: "#b5c454",
    _LAVENDER: "#b9acf0",
    **dict(zip(STEPS, ("#5a7fb0", "#3fa0a8", "#46c08a", "#9fd84f", "#fde74c"), strict=True)),
}
"""What becomes of these colours on a dark page."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

_RC: dict[str, Any] = {
    "text.parse_math": False,
    "svg.hashsalt": "fwpkm-eval",
    "svg.fonttype": "path",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 7.5,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.titlecolor": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": CARD,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "legend.columnspacing": 1.2,
    "figure.constrained_layout.h_pad": 0.04,
    "figure.constrained_layout.w_pad": 0.03,
}


@dataclass(frozen=True)
class Plot:
    """A finished plot: file name without ending, title, caption, and its two forms."""

    name: str
    title: str
    caption: str
    svg: str
    png: bytes
    height: float
    """Height over width."""


@contextmanager
def styled() -> Iterator[None]:
    """Our look, for the figures made inside; matplotlib's settings are put back afterwards."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a user's matplotlibrc must not change a figure
        matplotlib.rcParams.update(_RC)  # type: ignore[arg-type]  # newer stubs list each name
        yield


def new_figure(rows: int, columns: int, height: float, **options: Any) -> tuple[Figure, list[list[Axes]]]:
    """A figure of one column's width and ``height`` inches with a grid of axes; needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(COLUMN, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, [list(row) for row in figure.subplots(rows, columns, squeeze=False, **options)]


def finish(figure: Figure, name: str, title: str, caption: str) -> Plot:
    """The figure as a :class:`Plot`: SVG without a date and with fixed ids, PNG at 240 dots per inch."""
    svg, png = io.StringIO(), io.BytesIO()
    figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None}, facecolor=CARD)
    figure.set_layout_engine("none")  # what was laid out for the one stays for the other
    figure.savefig(png, format="png", metadata={"Software": None}, facecolor=CARD, dpi=240)
    lines = (line.rstrip() for line in svg.getvalue().splitlines())
    shape = figure.get_figheight() / figure.get_figwidth()
    return Plot(name, title, caption, "\n".join(lines) + "\n", png.getvalue(), shape)


def colours(models: Iterable[str]) -> dict[str, str]:
    """The colour of each model, which follows from its name alone; the floor has none."""
    return {model: _colour(spec_of(model)) for model in ordered(models) if model not in FLOORS}


def _colour(spec: str) -> str:
    kinds = memories_of(spec)
    known = _OF_KIND.get((kinds, _has_full_attention(spec))) or _OF_KIND.get((kinds, False))
    return known or _OTHER_KINDS[zlib.crc32("+".join(sorted(kinds)).encode()) % len(_OTHER_KINDS)]


def markers(models: Iterable[str]) -> dict[str, str]:
    """A marker for each model: that of its backbone, or where a model has colour and marker already, a free one."""
    chosen: dict[str, str] = {}
    taken: set[tuple[str, str]] = set()
    for model, colour in colours(models).items():
        usual = _marker(spec_of(model))
        chosen[model] = next((m for m in (usual, *MARKERS) if (colour, m) not in taken), usual)
        taken.add((colour, chosen[model]))
    return chosen


def _marker(spec: str) -> str:
    """Squares with full attention, dots with a sliding window, else triangles."""
    mixers = spec.partition(":")[0].split("+")
    return "s" if _has_full_attention(spec) else "o" if "swa" in mixers else "^"


def _has_full_attention(spec: str) -> bool:
    return "fa" in spec.partition(":")[0].split("+")


def opacities(count: int) -> list[float]:
    """From faint to full, for lines of one colour in a meaningful order."""
    return [1.0] if count == 1 else [0.4 + 0.6 * at / (count - 1) for at in range(count)]


def steps(count: int) -> list[str]:
    """Colours for ``count`` steps of a quantity, from little to much, spread over all there are."""
    last = len(STEPS) - 1
    return [STEPS[last if count == 1 else round(at * last / (count - 1))] for at in range(count)]


def row_title(axes: Axes, name: str, note: str = "") -> None:
    """A title over a row of panels, from its first panel on; long ones reach over the next panels."""
    from matplotlib.offsetbox import AnchoredOffsetbox, HPacker, TextArea

    axes.set_title(" ", fontsize=7.5)  # keeps the height free; the words themselves must not widen the panel
    name = shortened(name, max(24, 46 - len(note)))
    words: list[Artist] = [TextArea(name, textprops={"fontsize": 7.5, "fontweight": "bold"})]
    words += [TextArea(note, textprops={"fontsize": 7, "color": MUTED})] if note else []
    box = AnchoredOffsetbox(
        "lower left",
        child=HPacker(children=words, pad=0, sep=4, align="baseline"),
        pad=0,
        borderpad=0.35,
        frameon=False,
        bbox_to_anchor=(0, 1),
        bbox_transform=axes.transAxes,
    )
    box.set_in_layout(False)
    axes.add_artist(box)


def heading(axes: Axes, text: str, *, over_title: bool = True) -> None:
    """A heading over a column of panels, above the title of its first row if it has one."""
    axes.annotate(
        text,
        xy=(0.5, 1),
        xytext=(0, 15 if over_title else 2),
        xycoords="axes fraction",
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=7,
        annotation_clip=False,
    )


def legend_of_models(figure: Figure, models: Sequence[str], colours_of: Mapping[str, str], *more: Artist) -> None:
    """A legend above the panels with each model's colour and marker, and ``more`` entries behind them."""
    from matplotlib.lines import Line2D

    columns = 2 if all(len(model) <= 26 for model in models) else 1
    shapes = markers(colours_of)
    handles: list[Artist] = [
        Line2D(
            [], [], color=colours_of[model], marker=shapes[model], markersize=3.5, label=shortened(model, 54 // columns)
        )
        for model in models
    ]
    figure.legend(handles=[*handles, *more], loc="outside upper center", ncols=columns)


def leave_out(axes: Axes) -> None:
    """A panel for which there is nothing: its place stays free, its title stays."""
    axes.set_axis_off()


def label_edges(grid: Sequence[Sequence[Axes]]) -> None:
    """Of panels that share their axes, the first of each row and the last of each column that are drawn have labels."""
    for panels, side in ((grid, "labelleft"), ([column[::-1] for column in zip(*grid, strict=True)], "labelbottom")):
        for line in panels:
            first = next((axes for axes in line if axes.axison), line[0])
            first.tick_params(axis="y" if side == "labelleft" else "x", **{side: True})


def shortened(text: str, most: int) -> str:
    """``text`` in one line of at most ``most`` characters, for names that would run into each other."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: max(most - 1, 1)]}…"


def inline_svg(plot: Plot, prefix: str) -> str:
    """The SVG to stand within a page: ids of its own, the page's colours, no fixed size."""
    body = plot.svg[plot.svg.index("<svg") :]
    body = re.sub(r'\bid="', f'id="{prefix}-', body)
    body = re.sub(r'(xlink:href="|url\()#', rf"\g<1>#{prefix}-", body)
    for colour, variable in ((INK, "ink"), (MUTED, "muted"), (GRID, "grid"), (CARD, "card")):
        body = body.replace(colour, f"var(--{variable})")
    for colour in ON_DARK:
        body = body.replace(colour, f"var(--c{colour[1:]})")
    body = re.sub(r"<!--.*?-->\s*", "", body, flags=re.DOTALL)
    body = re.sub(r"<metadata>.*?</metadata>\s*", "", body, flags=re.DOTALL)
    start, end = body.split(">", 1)
    return re.sub(r' (?:width|height)="[^"]*"', "", start) + ">" + end
