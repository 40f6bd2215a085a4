"""What the commands share that measure something while a model reads text: gates, addressing, cost."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from fwpkm_eval.commands import options, sources
from fwpkm_eval.errors import UserError

if TYPE_CHECKING:
    from fwpkm_eval.commands.measure import Show
    from fwpkm_eval.runs.engine import Job
    from fwpkm_eval.runs.jobs import ModelSource, TextSource

MakeJobs = Callable[["ModelSource", "TextSource"], "list[Job]"]
"""The cells of a model on a text; none where it has nothing to measure."""


@dataclass(frozen=True)
class Common:
    """The options of every such command, as they were given."""

    models: Sequence[sources.Chosen] | None
    scale: str
    sets: tuple[str, ...] | None
    given: options.Given


def measure_on_texts(
    name: str,
    common: Common,
    settings: dict[str, Any],
    make_jobs: MakeJobs,
    show: Show,
    *,
    nothing: str = "there is nothing to measure",
    first_set_only: bool = False,
) -> None:
    """Runs the cells of all models on all sets, shows their rows and keeps the run in ``--out``.

    ``nothing`` says why there is none, should no model have any. Raises UserError for that, too.
    """
    from fwpkm_eval.commands.measure import conclude, models_config, run_cells
    from fwpkm_eval.data import default_sets, load_set
    from fwpkm_eval.runs.jobs import TextSource, biggest_first
    from fwpkm_eval.runs.manifest import check_free

    given = common.given
    found = sources.find_sources(common.models, common.scale, given)
    names = list(common.sets or default_sets(given.data))[: 1 if first_set_only else None]
    config = models_config(name, common.scale, found, given, sets=names, **settings)
    check_free(given.out, config)
    texts = [TextSource(given.data, load_set(given.data, one, "test")) for one in names]
    jobs = [job for text in texts for source in found for job in make_jobs(source, text)]
    if not jobs:
        raise UserError(nothing)
    conclude(run_cells(biggest_first(jobs), given, config=config, models=found, texts=texts), given, show)


def common_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--models``, ``--scale``, ``--sets`` and all that a measuring command takes, passed on as ``common``."""

    @functools.wraps(command)
    def gathering(**values: Any) -> Any:
        return command(common=Common(**{one.name: values.pop(one.name) for one in fields(Common)}), **values)

    for option in reversed((sources.models, options.scale, options.sets, options.measuring)):
        gathering = option(gathering)
    return gathering
