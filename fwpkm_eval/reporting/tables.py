"""All tables of a report, from rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fwpkm_eval.reporting.measurements import compressed, niah_results, text_results
from fwpkm_eval.reporting.sets import SetFacts
from fwpkm_eval.reporting.table import Table
from fwpkm_eval.reporting.tables_ablation import ablation_tables
from fwpkm_eval.reporting.tables_capacity import capacity_tables
from fwpkm_eval.reporting.tables_continual import continual_tables
from fwpkm_eval.reporting.tables_cost import cost_tables
from fwpkm_eval.reporting.tables_harness import harness_tables
from fwpkm_eval.reporting.tables_longbench import longbench_tables
from fwpkm_eval.reporting.tables_memory import addressing_tables, gate_tables
from fwpkm_eval.reporting.tables_niah import detail_tables, needle_count_tables, recall_tables
from fwpkm_eval.reporting.tables_other import other_tables
from fwpkm_eval.reporting.tables_published import published_tables, quotes
from fwpkm_eval.reporting.tables_speed import bench_tables, reading_speed_tables
from fwpkm_eval.reporting.tables_text import perplexity_tables

if TYPE_CHECKING:
    import pandas


def build_tables(frame: pandas.DataFrame, sets: SetFacts | None = None) -> list[Table]:
    """All tables that the rows have numbers for, in the order of the report; none if there are no rows."""
    sets = sets or SetFacts()
    scale = scale_of(frame)
    exact = niah_results(frame)
    recall = recall_tables(exact, scale, sets)
    perplexity = perplexity_tables(text_results(frame), scale, sets, compressed(frame))
    cost, bench = cost_tables(frame), bench_tables(frame)
    # Where speeds were timed side by side, those of whatever the needle task took are no more than noise beside them.
    reading = [] if cost else reading_speed_tables(frame)
    quoted = [task for task, made in (("niah", recall), ("ppl", perplexity), ("cost", [*cost, *bench])) if quotes(made)]
    return [
        *recall,
        *needle_count_tables(exact),
        *perplexity,
        *harness_tables(frame),
        *longbench_tables(frame),
        *continual_tables(frame),
        *ablation_tables(frame),
        *capacity_tables(frame),
        *other_tables(frame),
        *cost,
        *bench,
        *reading,
        *detail_tables(frame, exact),
        *gate_tables(frame),
        *addressing_tables(frame),
        *published_tables(quoted, frame),
    ]


def scale_of(frame: pandas.DataFrame) -> str:
    """The scale of the models that were measured on text; several are joined with ``+``."""
    return _scales(frame[frame["task"].isin(["niah", "ppl"])])


def scale_of_any(frame: pandas.DataFrame) -> str:
    """The same, and where no model was measured on text, the scale of whatever was measured."""
    return scale_of(frame) or _scales(frame)


def _scales(rows: pandas.DataFrame) -> str:
    return "+".join(sorted(set(rows["scale"]) - {""}))
