"""The answers of `tasks.niah` as rows, and the floor of guessing beside them."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from fwpkm_eval.tasks.describe import describe_model, yarn_arm
from fwpkm_eval.tasks.niah import NiahResult, NiahSettings, SampleAnswer, Setting

if TYPE_CHECKING:
    from fwpkm_eval.data import TextSet
    from fwpkm_eval.runs.rows import Row

DEPTH_BUCKETS = 10
INSTEAD = (("needle", "distractor_rate"), ("number", "other_number_rate"), ("text", "no_number_rate"))
"""What was answered in place of the truth (`SampleAnswer.instead`), and the metric that counts it."""


def niah_rows(model: Any, text_set: TextSet, settings: NiahSettings, result: NiahResult) -> list[Row]:
    """The answers as rows: for each setting, protocol and number of passes.

    ``exact_match``, also by depth, and what was answered instead: ``distractor_rate`` (another needle's value),
    ``other_number_rate`` (digits of no needle) and ``no_number_rate`` (not only digits); these four add up to 1.
    ``digit_accuracy`` (digits right, each in its place) and ``answer_logprob`` (mean over samples). The rates
    have Wilson 95% intervals with n = samples; the digits of an answer stand and fall together, so they do not count as
    samples of their own. Where outputs were not numbers there is a row ``diverged`` with the share of such
    samples; where a memory's fast weights broke, ``diverged_after@LAYER`` tokens of reading. Seconds and tokens are
    those of the whole setting, shared by its protocols and passes.
    """
    grouped: dict[tuple[Setting, str, int], list[SampleAnswer]] = defaultdict(list)
    for answer in result.answers:
        grouped[answer.setting, answer.protocol, answer.passes].append(answer)
    rows: list[Row] = []
    of_model = describe_model(model)
    for (setting, protocol, passes), answers in grouped.items():
        seconds, tokens = result.cost[setting]
        common = {
            **of_model,
            **_setting_fields(settings, text_set, setting, protocol, passes),
            "arm": yarn_arm(model, setting.length),
            "seconds": seconds,
            "tokens": tokens,
        }
        rows += _metric_rows(answers, settings.value_length, common)
        rows += _depth_rows(answers, common)
    for setting, watch in result.divergence.items():
        # What a reading does to the memory does not depend on what is asked after it.
        of_reading = _setting_fields(settings, text_set, setting, "", None)
        rows += watch.rows({**of_model, **of_reading, "arm": yarn_arm(model, setting.length)})
    return rows


def guess_rows(text_set: TextSet, settings: NiahSettings) -> list[Row]:
    """The floor beside every accuracy: what guessing digits at random is expected to get, model ``guess``."""
    from fwpkm_eval import __version__
    from fwpkm_eval.runs.rows import Row

    digits = settings.value_length
    rows = []
    for length in settings.lengths:
        for needles in settings.needles:
            for write_chunk in settings.write_chunks:
                for protocol in settings.protocols:
                    for passes in settings.passes:
                        setting = Setting(length, needles, write_chunk)
                        common = _setting_fields(settings, text_set, setting, protocol, passes)
                        common.update(model="guess", version=__version__)
                        rows += [
                            Row(metric="exact_match", value=10.0**-digits, unit="fraction", **common),
                            Row(metric="digit_accuracy", value=0.1, unit="fraction", **common),
                            Row(
                                metric="distractor_rate",
                                value=(needles - 1) * 10.0**-digits,
                                unit="fraction",
                                **common,
                            ),
                            Row(
                                metric="other_number_rate",
                                value=1 - needles * 10.0**-digits,
                                unit="fraction",
                                **common,
                            ),
                            Row(metric="no_number_rate", value=0.0, unit="fraction", **common),
                            Row(metric="answer_logprob", value=-digits * math.log(10), unit="nats", **common),
                        ]
    return rows


def _setting_fields(
    settings: NiahSettings, text_set: TextSet, setting: Setting, protocol: str, passes: int | None
) -> dict[str, Any]:
    return {
        "task": "niah",
        "dataset": text_set.name,
        "length": setting.length,
        "passes": passes,
        "write_chunk": str(setting.write_chunk),
        "needles": setting.needles,
        "scope": settings.scope,
        "protocol": protocol,
        "seed": settings.seed,
        "data_hash": text_set.sha256[:16],
    }


def _metric_rows(answers: list[SampleAnswer], digits: int, common: dict[str, Any]) -> list[Row]:
    from fwpkm_eval.runs.intervals import mean_interval
    from fwpkm_eval.runs.rows import Row

    logprobs = [answer.logprob for answer in answers]
    diverged = sum(not math.isfinite(logprob) for logprob in logprobs)
    logprob, low, high = (math.nan, None, None) if diverged else mean_interval(logprobs)
    rows = [
        _rate_row("exact_match", sum(answer.exact for answer in answers), len(answers), common),
        _rate_row("digit_accuracy", sum(a.digits_right for a in answers) / digits, len(answers), common),
        *(_rate_row(metric, sum(a.instead == kind for a in answers), len(answers), common) for kind, metric in INSTEAD),
        Row(
            metric="answer_logprob",
            value=logprob,
            unit="nats",
            n=len(answers),
            ci_low=low,
            ci_high=high,
            **common,
        ),
    ]
    if diverged:
        rows.append(_rate_row("diverged", diverged, len(answers), common))
    return rows


def _depth_rows(answers: list[SampleAnswer], common: dict[str, Any]) -> list[Row]:
    """Exact match by where the asked needle lies: ten buckets, named by their midpoints 0.05 to 0.95."""
    rows = []
    for bucket in range(DEPTH_BUCKETS):
        inside = [a for a in answers if min(int(a.depth * DEPTH_BUCKETS), DEPTH_BUCKETS - 1) == bucket]
        if inside:
            at = {**common, "depth": round((bucket + 0.5) / DEPTH_BUCKETS, 4)}
            rows.append(_rate_row("exact_match", sum(answer.exact for answer in inside), len(inside), at))
    return rows


def _rate_row(metric: str, successes: float, samples: int, common: dict[str, Any]) -> Row:
    from fwpkm_eval.runs.intervals import wilson_interval
    from fwpkm_eval.runs.rows import Row

    low, high = wilson_interval(successes, samples)
    return Row(
        metric=metric,
        value=successes / samples,
        unit="fraction",
        n=samples,
        ci_low=low,
        ci_high=high,
        **common,
    )
