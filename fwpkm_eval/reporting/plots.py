"""All plots of a report, from rows."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from fwpkm_eval.reporting.measurements import compressed, niah_results, text_results
from fwpkm_eval.reporting.measurements_memory import by_layer
from fwpkm_eval.reporting.plots_ablation import ablation_plots
from fwpkm_eval.reporting.plots_capacity import capacity_plots
from fwpkm_eval.reporting.plots_cost import cost_plots
from fwpkm_eval.reporting.plots_memory import memory_plots
from fwpkm_eval.reporting.plots_niah import niah_plots
from fwpkm_eval.reporting.plots_speed import speed_plots
from fwpkm_eval.reporting.plots_text import text_plots
from fwpkm_eval.reporting.sets import SetFacts
from fwpkm_eval.reporting.style import Plot, colours, styled
from fwpkm_eval.reporting.tables_cost import cost_ratios

if TYPE_CHECKING:
    import pandas

PLOT_NAMES = (
    "niah-models",
    "niah-length",
    "niah-readings",
    "niah-needles",
    "niah-depth",
    "bits-per-byte",
    "loss-by-position",
    "ablation",
    "capacity",
    "cost",
    "speed",
    "gates",
    "addressing",
)
"""How the names of our plots start; files of these names that a report does not make any more are removed."""


def colours_of_models(frame: pandas.DataFrame) -> dict[str, str]:
    """The colour that each model of the rows has in all plots and in whatever stands beside them."""
    models = {model for by_model in niah_results(frame).overall.values() for model in by_model}
    models |= {key.model for key in text_results(frame)} | set(cost_ratios(frame))
    models |= {place.model for task in ("gates", "addressing") for place in by_layer(frame, task)}
    return colours(models)


def build_plots(frame: pandas.DataFrame, sets: SetFacts | None = None) -> list[Plot]:
    """All plots that the rows have measurements for, in the order of the report."""
    sets = sets or SetFacts()
    needles, texts = niah_results(frame), text_results(frame)
    chosen = colours_of_models(frame)
    with styled(), warnings.catch_warnings():
        # A set may be named in a script that the font does not have: it is drawn as boxes, and tables have the name.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        return [
            *niah_plots(needles, chosen),
            *text_plots(texts, chosen, sets, compressed(frame)),
            *ablation_plots(frame),
            *capacity_plots(frame),
            *cost_plots(frame, chosen),
            *speed_plots(frame),
            *memory_plots(frame, chosen),
        ]
