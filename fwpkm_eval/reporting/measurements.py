"""From rows to the measurements that tables, plots and words are made of.

Rows of several seeds are pooled: rates by adding up successes and tries, other values by their mean. Where the seeds
are trainings of their own, which the hash of the weights tells, the value of each is kept beside the pooled one: that
another training differs, no pooled interval covers. Rows of one model that differ in something else (dtype, backend,
scoring, an ablation arm …) are never mixed: that is put behind the model's name instead.
"""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fwpkm_eval.reporting.published import STANDS_IN_FOR, has_fast_weights, memories_of
from fwpkm_eval.reporting.training_seeds import COLUMN as TRAINING_SEED
from fwpkm_eval.runs.intervals import wilson_interval
from fwpkm_eval.runs.rows import FROZEN, VARIANT_SEPARATOR, arm_without_yarn
from fwpkm_eval.sizes import HAYSTACK
from fwpkm_eval.tasks.compressors import COMPRESSORS

if TYPE_CHECKING:
    import pandas

GUESS = "guess"
"""The model name of the floor rows: what random digits are expected to get."""
FLOORS = (GUESS, *COMPRESSORS)
"""What rows name in place of a model where none was asked."""

_VARIES = ("scale", "score", "dtype", "backend", "device")
_KINDS_IN_ORDER = ("pkm", "fwmlp", "lact", "fwpkm")
_PROTOCOLS = ("closed-book", "open-book", "published")


@dataclass(frozen=True)
class Measurement:
    """A value from ``n`` samples (or tokens) and ``seeds`` seeds, with its 95% interval if it has one.

    ``by_training``: (seed, value) of each training, if the seeds are several trainings of the model; else empty.
    ``distinct``: of the ``n`` samples those that differ, where several trainings were asked of the same (with one seed
    samples are the same): the interval and every test count each once. None where all differ.
    """

    value: float
    n: int | None = None
    low: float | None = None
    high: float | None = None
    seeds: int = 1
    by_training: tuple[tuple[int, float], ...] = ()
    distinct: int | None = None

    @property
    def tries(self) -> tuple[int, int]:
        """For a rate: successes and tries, each distinct sample counted once (in the mean over the trainings)."""
        n = self.samples or 0
        return round(self.value * n), n

    @property
    def samples(self) -> int | None:
        """How many samples the value is of, each counted once; None where that is not known."""
        return self.distinct or self.n

    @property
    def successes(self) -> int:
        """For a rate: how many of the ``n`` samples succeeded."""
        return round(self.value * (self.n or 0))

    @property
    def trainings(self) -> int:
        """How many trainings the value is of."""
        return max(1, len(self.by_training))


@dataclass(frozen=True)
class Context:
    """What all needles of a table share: protocol, text of the haystack, where memory starts anew."""

    protocol: str
    dataset: str
    scope: str


@dataclass(frozen=True)
class Setting:
    """One way of asking: ``length`` in tokens, ``write_chunk`` is ``haystack`` or a number of tokens."""

    length: int
    needles: int
    write_chunk: str
    passes: int


@dataclass
class NiahResults:
    """One metric of the needle task: for each context and model its measurement in each setting.

    ``depths`` holds the same by depth: ``(setting, midpoint of the depth bucket)``.
    """

    metric: str
    overall: dict[Context, dict[str, dict[Setting, Measurement]]] = field(default_factory=dict)
    depths: dict[Context, dict[str, dict[tuple[Setting, float], Measurement]]] = field(default_factory=dict)

    def models(self, context: Context, *, floor: bool = False) -> list[str]:
        """The models measured in ``context``, baselines first, without the floor unless asked for."""
        return [model for model in ordered(self.overall[context]) if floor or model != GUESS]

    def digits(self, context: Context) -> int | None:
        """Of how many digits an answer is, as the floor of exact match says; None without it."""
        if self.metric != "exact_match":
            return None
        floor = min((m.value for m in self.overall[context].get(GUESS, {}).values()), default=0.0)
        return round(-math.log10(floor)) if floor > 0 else None


@dataclass(frozen=True)
class TextKey:
    """What a perplexity belongs to. ``write_chunk`` is empty for a model that does not write."""

    dataset: str
    scope: str
    model: str
    frozen: bool
    write_chunk: str


@dataclass(frozen=True)
class TextResult:
    """Perplexity of one model on one set; None where a value is not finite or was not measured.

    ``with_match_model``: bits per byte of its mixture with a match model. ``documents``: how many were begun, of those
    that the set has.
    """

    perplexity: Measurement | None = None
    nats_per_token: Measurement | None = None
    bits_per_byte: Measurement | None = None
    with_match_model: Measurement | None = None
    documents: Measurement | None = None
    by_position: Mapping[int, Measurement] = field(default_factory=dict)


def niah_results(frame: pandas.DataFrame, metric: str = "exact_match") -> NiahResults:
    """The needle task's ``metric`` in all settings of the rows."""
    groups: dict[tuple[Context, str, Setting, float | None], list[dict[str, Any]]] = defaultdict(list)
    for row in _records(frame, "niah", metric):
        if None in (row["length"], row["passes"], row["needles"], row["value"]):
            continue
        context = Context(row["protocol"], row["dataset"], row["scope"])
        setting = Setting(row["length"], row["needles"], row["write_chunk"], row["passes"])
        groups[context, row["label"], setting, row["depth"]].append(row)
    results = NiahResults(metric)
    for context, model, setting, depth in groups:
        pooled = pool(groups[context, model, setting, depth])
        if depth is None:
            results.overall.setdefault(context, {}).setdefault(model, {})[setting] = pooled
        else:
            results.depths.setdefault(context, {}).setdefault(model, {})[setting, depth] = pooled
    results.overall = {context: results.overall[context] for context in sorted(results.overall, key=_context_order)}
    return results


_NAMED_OTHERWISE = {"documents_read": "documents", "bits_per_byte_with_match_model": "with_match_model"}
"""Metrics of the perplexity task, and the fields of `TextResult` for them."""


def text_results(frame: pandas.DataFrame) -> dict[TextKey, TextResult]:
    """The perplexity task's results, for each set, scope, model and whether it was frozen."""
    metrics = ("perplexity", "nats_per_token", "bits_per_byte", "bits_per_byte_at_position", *_NAMED_OTHERWISE)
    groups: dict[tuple[TextKey, str, int | None], list[dict[str, Any]]] = defaultdict(list)
    found: dict[TextKey, dict[str, Any]] = defaultdict(lambda: {"by_position": {}})
    frame = frame[~frame["model"].isin(COMPRESSORS)]
    for metric in metrics:
        for row in _records(frame, "ppl", metric):
            frozen = row["arm"] == FROZEN
            key = TextKey(row["dataset"], row["scope"], row["label"], frozen, row["write_chunk"])
            found[key].setdefault("by_position", {})  # a run that diverged is a result, too
            if row["value"] is not None:
                groups[key, metric, row["length"]].append(row)
    for (key, metric, length), rows in groups.items():
        if metric == "bits_per_byte_at_position":
            if length is not None:
                found[key]["by_position"][length] = pool(rows)
        else:
            found[key][_NAMED_OTHERWISE.get(metric, metric)] = pool(rows)
    return {
        key: TextResult(**{**found[key], "by_position": dict(sorted(found[key]["by_position"].items()))})
        for key in sorted(found, key=_text_order)
    }


def compressed(frame: pandas.DataFrame) -> dict[tuple[str, str], dict[str, Measurement]]:
    """Bits per byte of the general compressors, for each set and scope of text."""
    found: dict[tuple[str, str], dict[str, Measurement]] = defaultdict(dict)
    for row in _records(frame[frame["model"].isin(COMPRESSORS)], "ppl", "bits_per_byte"):
        found[row["dataset"], row["scope"]][row["model"]] = pool([row])
    return dict(found)


def ordered(models: Iterable[str]) -> list[str]:
    """Models in the order of tables and legends: no memory, PKM, FwMLP, LaCT, FwPKM, mixtures; the floor last."""
    return sorted(set(models), key=model_order)


def model_order(model: str) -> tuple[int, str]:
    """The place of a model in tables and legends; see :func:`ordered`."""
    kinds = memories_of(spec_of(model))
    ranks = {frozenset(): 0, **{frozenset({kind}): rank for rank, kind in enumerate(_KINDS_IN_ORDER, 1)}}
    return (9 if model in FLOORS else ranks.get(kinds, len(ranks)), model)


def model_rank(model: str) -> tuple[int, str]:
    """How much a report is about a model with fast weights: FwPKM alone, then with PKM, then the others."""
    wanted = (frozenset({"fwpkm"}), frozenset({"pkm", "fwpkm"}))
    kinds = memories_of(spec_of(model))
    return (wanted.index(kinds) if kinds in wanted else len(wanted), model)


def spec_of(model: str) -> str:
    """The model's name without what tells variants of it apart."""
    return model.partition(VARIANT_SEPARATOR)[0]


def label_of(model: str) -> str:
    """What tells a variant of a model apart; "" for the model itself."""
    return model.partition(VARIANT_SEPARATOR)[2]


def writes(model: str) -> bool:
    """Whether the model has fast weights, so that more readings or writes can change its answers."""
    return has_fast_weights(spec_of(model))


def baseline_of(model: str, models: Iterable[str]) -> str | None:
    """The model without memory to hold ``model`` against, None where there is none: of its backbone before others, of
    its label before one without, and that before one of another."""
    plain = [other for other in ordered(models) if other != GUESS and not memories_of(spec_of(other))]
    backbone, label = spec_of(model).partition(":")[0], label_of(model)
    return min(
        plain,
        key=lambda other: (spec_of(other) != backbone, label_of(other) != label, bool(label_of(other))),
        default=None,
    )


def alike(measurements: Mapping[Setting, Measurement]) -> bool:
    """Whether passes and write chunk make no difference at all, length and needles being equal."""
    values: dict[tuple[int, int], set[float]] = defaultdict(set)
    for setting, measurement in measurements.items():
        values[setting.length, setting.needles].add(measurement.value)
    return all(len(found) == 1 for found in values.values())


def usual_needles(results: Mapping[str, Mapping[Setting, Measurement]]) -> int:
    """The number of needles that most settings have; the smaller one if two are as frequent."""
    counts: dict[int, int] = defaultdict(int)
    for settings in results.values():
        for setting in settings:
            counts[setting.needles] += 1
    return min(counts, key=lambda needles: (-counts[needles], needles))


def usual_settings(results: NiahResults, context: Context) -> dict[str, dict[Setting, Measurement]]:
    """The models of a context with those of their settings that have the usual number of needles."""
    needles = usual_needles(results.overall[context])
    chosen = {
        model: {s: m for s, m in results.overall[context][model].items() if s.needles == needles}
        for model in results.models(context)
    }
    return {model: found for model, found in chosen.items() if found}


def chunk_order(write_chunk: str) -> tuple[int, int, str]:
    """Whole-haystack writes first, then ever more frequent writes."""
    if write_chunk == HAYSTACK:
        return (0, 0, "")
    return (1, -int(write_chunk), "") if write_chunk.isdecimal() else (2, 0, write_chunk)


def tokens_per_second(frame: pandas.DataFrame, task: str) -> dict[tuple[str, int | None, str], float]:
    """Tokens read per second: ``(model, length, write_chunk)`` → the median over what was measured."""
    import statistics

    metric = "exact_match" if task == "niah" else "perplexity"
    speeds: dict[tuple[str, int | None, str], list[float]] = defaultdict(list)
    for row in _records(frame, task, metric):
        if row["seconds"] and row["tokens"] and row["depth"] is None and row["arm"] != FROZEN:
            length = row["length"] if task == "niah" else None
            speeds[row["label"], length, row["write_chunk"]].append(row["tokens"] / row["seconds"])
    return {key: statistics.median(values) for key, values in speeds.items()}


def diverged(frame: pandas.DataFrame) -> list[tuple[str, str, str, float]]:
    """Where outputs were not numbers: (model, task, set, share of samples or tokens), the worst first."""
    worst: dict[tuple[str, str, str], float] = {}
    for task in ("niah", "ppl"):
        for row in _records(frame, task, "diverged"):
            key = (row["label"], task, row["dataset"])
            worst[key] = max(worst.get(key, 0.0), row["value"] or 0.0)
    return sorted(((*key, share) for key, share in worst.items() if share), key=lambda entry: -entry[3])


def broken_memories(frame: pandas.DataFrame) -> list[tuple[str, str, str, str, int, int]]:
    """Where fast weights exploded or were not numbers: (model, task, set, write chunk, layer, tokens read by then at
    the earliest), in the order of the rows."""
    first: dict[tuple[str, str, str, str, int], int] = {}
    for metric in dict.fromkeys(frame["metric"]):
        name, _, layer = str(metric).partition("@")
        if name == "diverged_after":
            for task in ("niah", "ppl"):
                for row in _records(frame, task, str(metric)):
                    key = (row["label"], task, row["dataset"], row["write_chunk"], int(layer))
                    first[key] = min(first.get(key, sys.maxsize), int(row["value"]))
    return [(*key, tokens) for key, tokens in first.items()]


def _text_order(key: TextKey) -> tuple[object, ...]:
    """Sets in the order of the paper, then others by name; a frozen run behind its own."""
    embedded = list(STANDS_IN_FOR)
    place = embedded.index(key.dataset) if key.dataset in embedded else len(embedded)
    return (place, key.dataset, key.scope, model_order(key.model), key.frozen, chunk_order(key.write_chunk))


def _context_order(context: Context) -> tuple[int, str, str, str]:
    rank = _PROTOCOLS.index(context.protocol) if context.protocol in _PROTOCOLS else len(_PROTOCOLS)
    return (rank, context.protocol, context.dataset, context.scope)


def _records(frame: pandas.DataFrame, task: str, metric: str) -> list[dict[str, Any]]:
    """The rows of a task as dictionaries with None for what is missing, and the model's ``label``."""
    of_task = frame[frame["task"] == task]
    label = labels(of_task)
    chosen = of_task[of_task["metric"] == metric].drop(columns=["seconds"]).drop_duplicates().index
    records = of_task.loc[chosen].to_dict("records")
    return [
        {str(name): _plain(value) for name, value in record.items()}
        | {"label": label[index], "arm": arm_without_yarn(record["arm"])}
        for index, record in zip(chosen, records, strict=True)
    ]


def labels(frame: pandas.DataFrame) -> dict[Any, str]:
    """For each row of one task the model's name, with what tells apart those that share the name."""
    columns = {name: frame[name].tolist() for name in ("model", "arm", *_VARIES)}
    seen: dict[tuple[str, str], set[str]] = defaultdict(set)
    for name in _VARIES:
        for model, value in zip(columns["model"], columns[name], strict=True):
            seen[model, name].add(value)
    varying = {key for key, values in seen.items() if len(values - {""}) > 1}
    found: dict[Any, str] = {}
    for at, index in enumerate(frame.index):
        model, arm = columns["model"][at], arm_without_yarn(columns["arm"][at])
        parts = [columns[name][at] for name in _VARIES if (model, name) in varying]
        parts += [arm] if arm != FROZEN else []
        found[index] = VARIANT_SEPARATOR.join([model, *filter(None, parts)])
    return found


def _plain(value: Any) -> Any:
    import pandas

    if isinstance(value, str):
        return value
    # What was measured but is not finite is no number to draw or compare: the rows "diverged" tell of it.
    if value is pandas.NA or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value


def pool(rows: list[dict[str, Any]]) -> Measurement:
    """One measurement from the rows of one setting, which differ in their seeds."""
    values = [row["value"] for row in rows]
    counts = [row["n"] for row in rows]
    if len(rows) == 1:
        row = rows[0]
        return Measurement(row["value"], row["n"], row["ci_low"], row["ci_high"])
    total = sum(count or 0 for count in counts)
    trainings = _by_training(rows)
    if rows[0]["unit"] == "fraction" and all(counts):
        rate = sum(value * count for value, count in zip(values, counts, strict=True)) / total
        distinct = _distinct(rows)
        low, high = wilson_interval(min(rate * distinct, distinct), distinct)
        return Measurement(rate, total, low, high, len(rows), trainings, distinct if distinct < total else None)
    return Measurement(math.fsum(values) / len(values), total or None, seeds=len(rows), by_training=trainings)


def _distinct(rows: list[dict[str, Any]]) -> int:
    """How many samples the rows are of, those that several trainings were asked with one seed counted once."""
    by_seed: dict[Any, int] = {}
    for number, row in enumerate(rows):
        seed = ("no seed", number) if row["seed"] is None else row["seed"]
        by_seed[seed] = max(by_seed.get(seed, 0), row["n"])
    return sum(by_seed.values())


def _by_training(rows: list[dict[str, Any]]) -> tuple[tuple[int, float], ...]:
    """Each training's seed and value, in the order of the seeds; nothing for rows of one training.

    The seed is the training's own where it is known (see `training_seeds`), else the first that it was measured with.
    """
    trainings: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        trainings[row["weights_hash"]].append(row)
    name = "seed" if any(row.get(TRAINING_SEED) is None for row in rows) else TRAINING_SEED
    if len(trainings) < 2 or any(row[name] is None for row in rows):
        return ()
    return tuple(sorted((int(min(row[name] for row in of)), pool(of).value) for of in trainings.values()))
