"""What the needle explorer is told: the same measurements, numbers and names as tables and plots show."""

from __future__ import annotations

import json
from typing import Any

from fwpkm_eval.reporting.explorer import Explorer, explorer
from fwpkm_eval.reporting.measurements import niah_results
from fwpkm_eval.reporting.sets import SetFacts
from fwpkm_eval.reporting.style import colours
from fwpkm_eval.runs.intervals import wilson_interval
from fwpkm_eval.runs.rows import Row, rows_to_frame

PLAIN, FWPKM = "gdn", "gdn:fwpkm@2"
SETTING: dict[str, Any] = {
    "task": "niah", "dataset": "manual", "scope": "sample", "protocol": "closed-book", "length": 4096, "needles": 5,
    "passes": 1, "write_chunk": "haystack", "seed": 0,
}  # fmt: skip


def needle(model: str, found: int, n: int = 20, metric: str = "exact_match", **fields: Any) -> Row:
    low, high = wilson_interval(found, n)
    rate: dict[str, Any] = {"value": found / n, "unit": "fraction", "n": n, "ci_low": low, "ci_high": high}
    return Row(model=model, metric=metric, **{**SETTING, **rate, **fields})


def made(*rows: Row, sets: SetFacts | None = None) -> Explorer:
    found = explorer(rows_to_frame(rows), colours([PLAIN, FWPKM]), sets or SetFacts())
    assert found is not None
    return found


def told(found: Explorer) -> dict[tuple[str, ...], list[Any]]:
    """Each model and its options by their ids, to the result: the points as the script reads them."""
    data = json.loads(json.dumps(found.data))
    return {
        (
            data["models"][model]["name"],
            *(c["options"][at]["id"] for c, at in zip(data["controls"], places, strict=True)),
        ): (data["results"][result])
        for model, *places, result in data["points"]
    }


def titles(found: Explorer, control: str) -> list[str]:
    (options,) = (c.options for c in found.controls if c.name == control)
    return [option.title for option in options if option.measured]


def test_every_measurement_is_there_as_tables_have_it() -> None:
    rows = [
        needle(FWPKM, 11), needle(FWPKM, 20, passes=4), needle(PLAIN, 0, length=32768, n=5),
        needle(FWPKM, 17, write_chunk="1024", protocol="open-book"), needle(FWPKM, 5, n=5, depth=0.55),
        needle(FWPKM, 3, metric="digit_accuracy"),
    ]  # fmt: skip
    points = told(made(*rows))
    closed = ("closed-book", "manual", "sample")
    assert points[FWPKM, "exact_match", *closed, "4K", "5", "haystack", "1", "all"] == [
        0.55, 0.342085, 0.741802, 20, "55% (34–74)",
    ]  # fmt: skip
    assert points[PLAIN, "exact_match", *closed, "32K", "5", "haystack", "1", "all"][3:] == [5, "0% (0–43)"]
    assert points[FWPKM, "exact_match", *closed, "4K", "5", "haystack", "1", "0.55"][4] == "100% (57–100)"
    assert points[FWPKM, "exact_match", "open-book", "manual", "sample", "4K", "5", "1024", "1", "all"][0] == 0.85
    assert points[FWPKM, "digit_accuracy", *closed, "4K", "5", "haystack", "1", "all"][0] == 0.15
    assert len(points) == len(rows)
    overall = niah_results(rows_to_frame(rows)).overall
    assert sum(len(found) for models in overall.values() for found in models.values()) == 4


def test_seeds_are_pooled_and_what_is_not_finite_is_left_out() -> None:
    rows = [needle(FWPKM, 10), needle(FWPKM, 18, seed=1), needle(PLAIN, 3, value=float("nan"))]
    (result,) = told(made(*rows)).values()
    assert result[3:] == [40, "70% (55–82)"]
    json.dumps(made(*rows).data, allow_nan=False)


def test_a_value_that_is_no_rate_has_its_own_interval() -> None:
    logprob = {"metric": "answer_logprob", "value": -1.5, "unit": "nats", "n": 20, "ci_low": -2.25, "ci_high": -0.75}
    found = made(needle(FWPKM, 3), Row(model=FWPKM, **{**SETTING, **logprob}))
    assert [result[4] for result in told(found).values()] == ["15% (5–36)", "−1.50 (−2.25 to −0.75)"]
    assert found.data["rates"] == [True, False]


def test_options_stand_in_order_and_say_what_they_are() -> None:
    found = made(
        *(needle(FWPKM, 1, length=length, write_chunk=chunk) for length in (32768, 300) for chunk in ("512", "1024")),
        needle(FWPKM, 1, passes=2, metric="new_measure"),
        needle(FWPKM, 1, needles=1, depth=0.05, dataset="docs"),
    )
    assert titles(found, "length") == ["300 tokens", "4K tokens", "32K tokens"]
    assert titles(found, "write_chunk") == [
        "one write per reading", "a write every 1,024 tokens", "a write every 512 tokens",
    ]  # fmt: skip
    assert titles(found, "passes") == ["one reading", "2 readings"]
    assert titles(found, "needles") == ["1 needle", "5 needles"]
    assert titles(found, "depth") == ["all depths", "depth 5%"]
    assert titles(found, "metric") == ["exact match (all digits right)", "new measure"]
    assert titles(found, "dataset") == [
        "text from docs (stand-in for Fineweb-Edu)",
        "text from manual (stand-in for LAMBADA)",
    ]


def test_measures_and_books_that_no_row_has_are_offered_as_not_measured() -> None:
    found = {control.name: control for control in made(needle(FWPKM, 1)).controls}
    assert [option.id for option in found["protocol"].options if not option.measured] == ["open-book", "published"]
    assert [option.id for option in found["metric"].options if option.measured] == ["exact_match"]
    assert [name for name, control in found.items() if not control.shown] == ["dataset", "scope"]


def test_it_starts_where_most_models_were_measured_with_the_most_readings() -> None:
    rows = [needle(PLAIN, 0, passes=passes) for passes in (1, 2)] + [
        needle(FWPKM, 3, passes=passes) for passes in (1, 2, 4)
    ]
    rows += [needle(model, 3, length=512, protocol="open-book") for model in (PLAIN, FWPKM)]
    found = made(*rows, needle("guess", 0, passes=4), needle("guess", 0, length=512))
    start = {
        c["name"]: c["options"][at]["id"] for c, at in zip(found.data["controls"], found.data["start"], strict=True)
    }
    assert start["passes"] == "2"
    assert (start["protocol"], start["length"], start["depth"]) == ("closed-book", "4K", "all")


def test_models_have_their_colours_and_guessing_is_the_floor() -> None:
    found = made(needle("guess", 0), needle(FWPKM, 3), needle(PLAIN, 1))
    chosen = colours([PLAIN, FWPKM])
    assert found.data["models"] == [
        {"name": PLAIN, "colour": chosen[PLAIN][1:], "floor": False},
        {"name": FWPKM, "colour": chosen[FWPKM][1:], "floor": False},
        {"name": "guess", "colour": "", "floor": True},
    ]


def test_without_needle_rows_there_is_none() -> None:
    for rows in ([], [Row(task="ppl", metric="perplexity", value=3.0)], [Row(task="niah", metric="exact_match")]):
        assert explorer(rows_to_frame(rows), {}, SetFacts()) is None


def test_many_rows_stay_small() -> None:
    rows = [
        needle(FWPKM, found % 21, length=2**power, passes=passes, needles=needles, write_chunk=str(chunk))
        for found, power in enumerate(range(9, 18))
        for passes in (1, 2, 3, 4)
        for needles in (1, 5, 64)
        for chunk in (256, 512, 1024)
    ]
    assert len(json.dumps(made(*rows).data, separators=(",", ":"))) < 30 * len(rows) + 4000
