"""The axes of plots: rates, sizes in powers of two, percent, ratios."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fwpkm_eval.sizes import format_size

if TYPE_CHECKING:
    from matplotlib.axis import Axis
    from matplotlib.ticker import Formatter


def percent_axis(axis: Axis) -> None:
    """An axis for rates: 0, 50 and 100%, with room for markers at both ends."""
    axis.axes.set_ylim(-6, 106)
    axis.set_ticks([0, 50, 100], ["0", "50", "100%"])


def size_axis(axis: Axis, sizes: Sequence[int], widest: int = 6, room: float = 0.0) -> None:
    """A base-2 axis for counts with ``4K`` and ``32K`` as labels, at most ``widest`` of them.

    ``room``: how many octaves at either end marks need that stand beside their place.
    """
    from matplotlib.ticker import FixedLocator, NullLocator

    listed = sorted(set(sizes))
    if listed[0] > 0:
        axis.axes.set_xscale("log", base=2)
    else:  # no reading at all is a number of readings, too
        axis.axes.set_xscale("symlog", base=2, linthresh=1)
    every = -(-len(listed) // widest)
    shown = listed[::-1][::every][::-1]
    axis.set_major_locator(FixedLocator(shown))
    axis.set_minor_locator(NullLocator())
    axis.set_ticklabels([format_size(value) for value in shown])
    lowest = listed[0] or 1
    margin = (listed[-1] / lowest) ** 0.06 if len(listed) > 1 and listed[-1] > lowest else 2
    margin *= 2**room
    # From 0 to 1 is as far as two octaves.
    axis.axes.set_xlim(listed[0] / margin if listed[0] else -0.2 - room / 2, max(listed[-1], 1) * margin)


def percents() -> Formatter:
    """Ticks of an axis in percent: ``20%``."""
    from matplotlib.ticker import FuncFormatter

    return FuncFormatter(lambda value, _: f"{value:g}%")


def times_axis(axis: Axis) -> None:
    """A logarithmic axis of ratios: ``1×``, ``10×``, ``100×``."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.set_major_locator(LogLocator(base=10))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
