"""The needle explorer of the report: its controls, and what its script must know of the rows.

The script (``templates/explorer.js``) only looks up and draws. What is a measurement, how seeds are pooled and
how numbers read is decided here by what tables and plots use, too, so that all of them agree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fwpkm_eval.reporting import wording
from fwpkm_eval.reporting.measurements import GUESS, Measurement, chunk_order, niah_results, ordered
from fwpkm_eval.reporting.sets import SetFacts

if TYPE_CHECKING:
    import pandas

METRICS = {
    "exact_match": "exact match (all digits right)",
    "digit_accuracy": "digits right in their place",
    "distractor_rate": "answers with another needle's number",
    "other_number_rate": "answers with no needle's number",
    "no_number_rate": "answers that are no number",
    "answer_logprob": "log-probability of the answer (nats)",
}
"""The measures of an answer in words; others go by the name that rows give them."""

ALL_DEPTHS = "all"

Values = tuple[Any, ...]
"""A value of each control, as rows hold them."""


@dataclass(frozen=True)
class Option:
    """One value to pick: ``id`` stands in addresses, ``title`` in lists and sentences, ``tick`` at an axis."""

    id: str
    title: str
    tick: str
    measured: bool


@dataclass(frozen=True)
class Control:
    """One thing to pick. It is ``shown`` unless there is just one value, of which nobody would think."""

    name: str
    label: str
    options: tuple[Option, ...]
    shown: bool


@dataclass(frozen=True)
class Explorer:
    """An explorer: ``controls``, the most important first, ``models``, and the ``data`` of the script.

    ``data`` holds the controls' names and measured options; for each model its name, colour and whether it is the
    floor; ``results``, each ``[value, low, high, samples, text]``; ``points``, each the numbers of a model, of
    an option for every control, and of a result; ``start``, an option for every control; and for each measure
    whether it is a rate.
    """

    controls: tuple[Control, ...]
    models: tuple[str, ...]
    data: Mapping[str, Any]


@dataclass(frozen=True)
class _Dimension:
    """What settings differ in, how its values are ordered and named, and those that readers expect in any case."""

    name: str
    label: str
    title: Callable[[Any], str]
    id: Callable[[Any], str] = str
    tick: Callable[[Any], str] = str
    order: Callable[[Any], Any] = lambda value: value
    expected: tuple[Any, ...] = ()
    always: bool = True


def explorer(frame: pandas.DataFrame, colours_of: Mapping[str, str], sets: SetFacts) -> Explorer | None:
    """The explorer of the needle rows, None if there are none; ``colours_of`` are the models' colours in plots."""
    measured = _measured(frame)
    if not measured:
        return None
    dimensions = _dimensions(sets)
    columns = list(zip(*(values for _, values in measured), strict=True))
    controls = tuple(_control(dimension, set(column)) for dimension, column in zip(dimensions, columns, strict=True))
    offered = [[option for option in control.options if option.measured] for control in controls]
    places = [{option.id: at for at, option in enumerate(options)} for options in offered]

    def numbers(values: Values) -> list[int]:
        return [place[d.id(value)] for d, place, value in zip(dimensions, places, values, strict=True)]

    models = tuple(ordered(model for model, _ in measured))
    rates = set(frame.loc[(frame["task"] == "niah") & (frame["unit"] == "fraction"), "metric"])
    results: dict[Values, int] = {}
    points = [
        [
            models.index(model),
            *numbers(values),
            results.setdefault(_result(measurement, values[0] in rates), len(results)),
        ]
        for (model, values), measurement in measured.items()
    ]
    data = {
        "controls": [
            {"name": c.name, "options": [{"id": o.id, "title": o.title, "tick": o.tick} for o in options]}
            for c, options in zip(controls, offered, strict=True)
        ],
        "models": [
            {"name": model, "colour": colours_of.get(model, "").removeprefix("#"), "floor": model == GUESS}
            for model in models
        ],
        "results": [list(result) for result in results],
        "points": points,
        "start": numbers(_start(measured)),
        "rates": [option.id in rates for option in offered[0]],
    }
    return Explorer(controls, models, data)


def _measured(frame: pandas.DataFrame) -> dict[tuple[str, Values], Measurement]:
    """Each model's measurements, by the values of all dimensions (see :func:`_dimensions`)."""
    found: dict[tuple[str, Values], Measurement] = {}
    for metric in dict.fromkeys(frame.loc[frame["task"] == "niah", "metric"]):
        results = niah_results(frame, metric)
        for kept in (results.overall, results.depths):
            for context, by_model in kept.items():
                for model, by_setting in by_model.items():
                    for key, measurement in by_setting.items():
                        setting, depth = key if isinstance(key, tuple) else (key, None)
                        where = (metric, context.protocol, context.dataset, context.scope)
                        how = (setting.length, setting.needles, setting.write_chunk, setting.passes)
                        found[model, (*where, *how, depth)] = measurement
    return found


def _dimensions(sets: SetFacts) -> tuple[_Dimension, ...]:
    """In the order of their weight: where not all wishes were measured together, the first ones are kept."""
    protocols = wording.PROTOCOL_NAMES
    return (
        _Dimension(
            "metric",
            "Measure",
            lambda metric: METRICS.get(metric, metric.replace("_", " ")),
            order=lambda metric: _place(metric, METRICS),
            expected=tuple(METRICS),
        ),
        _Dimension(
            "protocol",
            "Book",
            lambda protocol: protocols.get(protocol, protocol),
            order=lambda protocol: _place(protocol, protocols),
            expected=tuple(protocols),
        ),
        _Dimension("dataset", "Text", lambda name: f"text from {sets.title(name)}", always=False),
        _Dimension("scope", "Memory", lambda scope: f"memory kept for one {scope}", always=False),
        _Dimension(
            "length", "Haystack length", lambda n: f"{wording.size(n)} tokens", id=wording.size, tick=wording.size
        ),
        _Dimension("needles", "Needles", lambda n: f"{n} needle{'s' if n != 1 else ''}"),
        _Dimension("write_chunk", "Writes", wording.writing, order=chunk_order),
        _Dimension("passes", "Readings (passes)", wording.readings),
        _Dimension(
            "depth",
            "Depth of the needle",
            lambda depth: "all depths" if depth is None else f"depth {_percent(depth)}",
            id=lambda depth: ALL_DEPTHS if depth is None else f"{depth:g}",
            tick=lambda depth: "" if depth is None else _percent(depth),
            order=lambda depth: -1.0 if depth is None else depth,
        ),
    )


def _control(dimension: _Dimension, found: set[Any]) -> Control:
    values = sorted(found | set(dimension.expected), key=dimension.order)
    options = tuple(
        Option(dimension.id(value), dimension.title(value), dimension.tick(value), value in found) for value in values
    )
    return Control(dimension.name, dimension.label, options, dimension.always or len(found) > 1)


def _start(measured: Iterable[tuple[str, Values]]) -> Values:
    """What is shown first: the first measure and protocol, and there what most models were asked, read most often."""
    models = Counter(values for model, values in measured if model != GUESS) or Counter(v for _, v in measured)

    def rank(values: Values) -> tuple[Any, ...]:
        metric, protocol, _, _, length, needles, write_chunk, passes, depth = values
        first = (_place(metric, METRICS), _place(protocol, wording.PROTOCOL_NAMES), depth is not None)
        return (*first, -models[values], needles, length, -passes, chunk_order(write_chunk), values[2:4])

    return min(models, key=rank)


def _result(measurement: Measurement, rate: bool) -> Values:
    low, high = measurement.low, measurement.high
    text = wording.rate(measurement) if rate else _decimal(measurement.value)
    if not rate and low is not None and high is not None:
        text += f" ({_decimal(low)} to {_decimal(high)})"
    numbers = (None if number is None else float(f"{number:.6g}") for number in (measurement.value, low, high))
    return (*numbers, measurement.n, text)


def _place(name: str, known: Iterable[str]) -> tuple[int, str]:
    """Known names in their order, others behind them by name."""
    listed = list(known)
    return (listed.index(name) if name in listed else len(listed), name)


def _decimal(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def _percent(share: float) -> str:
    return f"{share * 100:g}%"
