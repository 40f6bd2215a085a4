"""All tables of a report, from rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fwpkm_eval.reporting.measurements import niah_results, text_results
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
from fwpkm_eval.reporting.tables_published import published_tables
from fwpkm_eval.reporting.tables_speed import bench_tables, reading_speed_tables
from fwpkm_eval.reporting.tables_text import perplexity_tables

if TYPE_CHECKING:
    import pandas


def build_tables(frame: pandas.DataFrame, sets: SetFacts | None = None) -> list[Table]:
    """All tables that the rows have numbers for, in the order of the report; none if there are no rows."""
    sets = sets or SetFacts()
    scale = scale_of(frame)
    exact = niah_results(frame)
    tables = [
        *recall_tables(exact, scale, sets),
        *needle_count_tables(exact),
        *perplexity_tables(text_results(frame), scale, sets),
        *harness_tables(frame),
        *longbench_tables(frame),
        *continual_tables(frame),
        *ablation_tables(frame),
        *capacity_tables(frame),
        *other_tables(frame),
        *cost_tables(frame),
        *bench_tables(frame),
        *reading_speed_tables(frame),
        *detail_tables(frame, exact),
        *gate_tables(frame),
        *addressing_tables(frame),
    ]
    return [*tables, *published_tables()] if tables else []


def scale_of(frame: pandas.DataFrame) -> str:
    """The scale of the models that were measured on text; several are joined with ``+``."""
    return "+".join(sorted(set(frame[frame["task"].isin(["niah", "ppl"])]["scale"]) - {""}))
