"""``report.html``: one file that opens without a network, on paper-white or dark, on a desk or a phone."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jinja2
import markupsafe

from fwpkm_eval.reporting import wording
from fwpkm_eval.reporting.command_text import CHECKPOINTS
from fwpkm_eval.reporting.commands import commands
from fwpkm_eval.reporting.explorer import explorer
from fwpkm_eval.reporting.fact import Fact
from fwpkm_eval.reporting.highlights import highlights
from fwpkm_eval.reporting.model_facts import model_facts
from fwpkm_eval.reporting.page_scripts import load_script, security_policy
from fwpkm_eval.reporting.plots import colours_of_models
from fwpkm_eval.reporting.sets import SetFacts
from fwpkm_eval.reporting.style import CARD, GRID, INK, MUTED, ON_DARK, Plot, inline_svg
from fwpkm_eval.reporting.summary import rules, summarise
from fwpkm_eval.reporting.table import Table
from fwpkm_eval.reporting.tables import scale_of_any
from fwpkm_eval.reporting.tables_published import quotes
from fwpkm_eval.reporting.trace_page import trace_section
from fwpkm_eval.runs.manifest import as_mapping

if TYPE_CHECKING:
    import pandas

    from fwpkm_eval.tasks.trace_types import Trace

SCRIPTS = ("sort.js", "chart.js", "explorer.js")
"""What runs on the page, in this order."""


def render(
    frame: pandas.DataFrame,
    tables: Sequence[Table],
    plots: Sequence[Plot],
    manifest: Mapping[str, Any] | None,
    sets: SetFacts,
    unfinished: str = "",
    traces: Sequence[Trace] = (),
) -> str:
    """The page. Names come out as text, whatever they hold; nothing is loaded from elsewhere.

    It says the same without scripts; with them tables can be sorted and needle results explored.
    """
    template = _environment().get_template("report.html.j2")
    figures = [
        # Drawn by us: names are outlines of letters in it, not text, and comments are taken out.
        (plot, markupsafe.Markup(inline_svg(plot, f"p{number}")))
        for number, plot in enumerate(plots)
    ]
    leading, again = leading_plots(plots), commands(frame, manifest)
    scripts = [load_script(name) for name in SCRIPTS]
    return template.render(
        title=title(frame),
        question=question(frame),
        policy=security_policy(scripts),
        scripts=scripts,
        explorer=explorer(frame, colours_of_models(frame), sets),
        unfinished=unfinished,
        highlights=highlights(frame, sets),
        summary=summarise(frame, sets),
        rules=rules(frame),
        legend=legend(tables),
        leading=[pair for pair in figures if pair[0] in leading],
        plots=[pair for pair in figures if pair[0] not in leading],
        tables=[table for table in tables if not table.detail],
        details=[table for table in tables if table.detail],
        facts=facts(manifest, frame),
        texts=text_facts(manifest, sets),
        models=model_facts(manifest),
        manifest=json.dumps(manifest, indent=1, ensure_ascii=False) if manifest else "",
        commands=again,
        other_checkpoints=any(f"{CHECKPOINTS}/" in fact.value for fact in again),
        traces=trace_section(traces),
        on_dark=ON_DARK,
        light={"ink": INK, "muted": MUTED, "grid": GRID, "card": CARD},
    )


def _environment() -> jinja2.Environment:
    """Templates in which every value is escaped; JSON for scripts is written without spaces."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fwpkm_eval.reporting"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["breakable"] = breakable
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    return environment


def breakable(text: str) -> markupsafe.Markup:
    """The text escaped, in which a line may end within a model's long name: before its memories."""
    return markupsafe.Markup(re.sub("([+:])(?=[a-z])", r"\1<wbr>", str(markupsafe.escape(text))))


def leading_plots(plots: Sequence[Plot]) -> list[Plot]:
    """The two pictures for the top of the page: needles found by all models, and bits per byte."""
    found = (next((p for p in plots if p.name.startswith(name)), None) for name in ("niah-models", "bits-per-byte"))
    return [plot for plot in found if plot is not None]


def legend(tables: Sequence[Table]) -> str:
    """How the tables mark what is in them, as far as it is there."""
    said = []
    if any(cell.strong for table in tables for row in table.rows for cell in row):
        said.append("Bold: the best value of its group.")
    if quotes(tables):
        said.append("Published numbers stand in columns of their own, in italics.")
    return " ".join(said)


def title(frame: pandas.DataFrame) -> str:
    """``Fast-weight memory, measured: scale micro``."""
    scale = scale_of_any(frame)
    return f"Fast-weight memory, measured{f': scale {scale}' if scale else ''}"


def question(frame: pandas.DataFrame) -> str:
    """The question that a run of these tasks answers; a run of several has the one that they all are about."""
    tasks = set(frame["task"])
    if tasks and tasks <= {"bench", "cost"}:
        return "What does a memory that is written while it is read cost in time and space?"
    if tasks == {"capacity"}:
        return "How many facts does a memory of a given size hold?"
    return "Can a model remember what it reads by writing into its own weights while it reads?"


def facts(manifest: Mapping[str, Any] | None, frame: pandas.DataFrame) -> list[Fact]:
    """The manifest in a few lines, and of which versions the rows are if that is more than one."""
    if not manifest:
        return []
    versions = dict(manifest.get("versions") or {})
    device = dict(manifest.get("device") or {})
    seeds = [str(seed) for seed in manifest.get("seeds") or []]
    found = [
        Fact("Started", str(manifest.get("started") or "")),
        Fact("Finished", str(manifest.get("finished") or "not yet")),
        Fact("Machine", _machine(device)),
        Fact("Versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
        Fact("Rows of versions", "" if manifest.get("of") else _versions_of_rows(frame)),
        Fact("Commit", str(manifest.get("git_commit") or "")),
        Fact("Seeds", ", ".join(seeds)),
    ]
    parts = [as_mapping(part) for part in manifest.get("of") or []]
    return [fact for fact in [*found, *map(_part, parts)] if fact.value]


def _part(part: Mapping[str, Any]) -> Fact:
    """A run of those that a report is of: where it was, and what it was measured with."""
    label, version = part.get("label"), as_mapping(part.get("versions")).get("fwpkm-eval")
    values = [
        str(part.get("command") or ""),
        _machine(as_mapping(part.get("device"))),
        f"fwpkm-eval {version}" if version else "",
        f"commit {part['git_commit']}" if part.get("git_commit") else "",
    ]
    return Fact(f"{label}={part.get('folder')}" if label else str(part.get("folder")), "; ".join(filter(None, values)))


def _versions_of_rows(frame: pandas.DataFrame) -> str:
    """``0.2.0 (ablation), 0.3.0 and 0.4.0 (niah and ppl): put together from resumed runs``; of one version nothing."""
    by_task = {task: tuple(sorted(set(rows) - {""})) for task, rows in frame.groupby("task")["version"]}
    if len(set().union(*by_task.values())) < 2:
        return ""
    tasks_of: dict[tuple[str, ...], list[str]] = {}
    for task, versions in by_task.items():
        tasks_of.setdefault(versions, []).append(str(task))
    parts = [f"{wording.listing(list(of))} ({wording.listing(tasks)})" for of, tasks in sorted(tasks_of.items()) if of]
    return f"{', '.join(parts)}: put together from resumed runs"


def _machine(device: Mapping[str, Any]) -> str:
    """The machine in words: what is known by name first, then whatever else was noted."""
    parts = [str(device[name]) for name in ("device", "gpu", "processor") if device.get(name)]
    units = {"cores": "cores", "memory_gib": "GiB memory"}
    parts += [f"{device[name]} {unit}" for name, unit in units.items() if device.get(name)]
    known = {"device", "gpu", "processor", *units}
    parts += [f"{name.replace('_', ' ')} {value}" for name, value in device.items() if name not in known]
    return ", ".join(parts)


def text_facts(manifest: Mapping[str, Any] | None, sets: SetFacts) -> list[Fact]:
    """For each text set where it is from and its hash."""
    found = []
    for name, facts_of_set in dict((manifest or {}).get("data") or {}).items():
        about = dict(facts_of_set) if isinstance(facts_of_set, Mapping) else {"sha256": facts_of_set}
        parts = [
            str(about.get("origin") or ""),
            f"sha256 {str(about['sha256'])[:16]}…" if about.get("sha256") else "",
        ]
        found.append(Fact(sets.title(str(name)), "; ".join(filter(None, parts))))
    return found
