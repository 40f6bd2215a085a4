"""The report from rows: tables, plots, words and the page. No model and no torch is involved."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

import numpy as np
import pytest

from fwpkm_eval.runs.intervals import wilson_interval
from fwpkm_eval.runs.rows import Row

PLAIN, PKM, FWMLP, FWPKM = "gdn", "gdn:pkm@2", "gdn:fwmlp@2", "gdn:fwpkm@2"
MODELS = (PLAIN, PKM, FWMLP, FWPKM)
CHUNKS = ("haystack", "1024")
COMMON = {"scale": "micro", "device": "cpu", "dtype": "float32", "version": "0.1.0"}


def recall(model: str, length: int, passes: int, write_chunk: str, needles: int) -> float:
    """A made-up but likely probability to find a needle."""
    if model in (PLAIN, PKM):
        return 0.0
    hard = math.log2(length / 512) * (0.75 if write_chunk == "haystack" else 0.05) + max(0, math.log2(needles / 16)) * 0.9
    strength = (2.4 if write_chunk == "haystack" else 3.2) + 1.1 * math.log2(passes) - hard
    return (0.25 if model == FWMLP else 1.0) / (1 + math.exp(-1.6 * strength))


def rate(metric: str, successes: float, n: int, **fields: object) -> Row:
    low, high = wilson_interval(successes, n)
    return Row(metric=metric, value=successes / n, unit="fraction", n=n, ci_low=low, ci_high=high, **fields)  # type: ignore[arg-type]


def niah_rows(
    models: Iterable[str] = MODELS,
    lengths: Iterable[int] = (512, 4096, 32768, 131072),
    passes: Iterable[int] = (1, 2, 4),
    needles: Iterable[int] = (5,),
    protocol: str = "closed-book",
    n: int = 20,
) -> list[Row]:
    rng = np.random.default_rng(7)
    rows: list[Row] = []
    for model in models:
        writes = "fw" in model
        for length in lengths:
            for count in needles:
                same = int(rng.binomial(n, 0.0 if protocol == "closed-book" else 0.02))
                for write_chunk in CHUNKS:
                    for number in passes:
                        p = recall(model, length, number, write_chunk, count)
                        found = int(rng.binomial(n, p)) if writes else same
                        common = {
                            **COMMON, "model": model, "task": "niah", "dataset": "manual", "length": length, "passes": number,
                            "write_chunk": write_chunk, "needles": count, "scope": "sample", "protocol": protocol, "seed": 0,
                            "seconds": length / 9000, "tokens": length * n, "data_hash": "d" * 16,
                            "backend": "torch" if writes else "", "score": "idw" if writes else "",
                        }  # fmt: skip
                        digits = found + 0.3 * (n - found) if writes else 0.1 * n
                        rows.append(rate("exact_match", found, n, **common))
                        rows.append(rate("digit_accuracy", digits, n, **common))
                        rows.append(rate("distractor_rate", min(n - found, 2) if writes else 0, n, **common))
                        rows.append(
                            Row(metric="answer_logprob", value=-1.0 if writes else -14.2, unit="nats", n=n, **common)  # type: ignore[arg-type]
                        )
                        for bucket in range(10):
                            hits = int(rng.binomial(n // 10, p))
                            rows.append(rate("exact_match", hits, n // 10, depth=bucket / 10 + 0.05, **common))
    return rows


def guess_rows(rows: Iterable[Row]) -> list[Row]:
    """The floor beside every setting of the needle rows."""
    settings = {
        (row.length, row.passes, row.write_chunk, row.needles, row.protocol): row
        for row in rows
        if row.task == "niah" and row.depth is None
    }
    return [
        dataclasses.replace(
            row, model="guess", scale="", metric="exact_match", value=1e-6, unit="fraction", n=None,
            ci_low=None, ci_high=None, seconds=None, tokens=None, device="", dtype="", backend="", score="",
        )  # fmt: skip
        for row in settings.values()
    ]


BITS = {
    "docs": {PLAIN: (2.31, None), PKM: (2.24, None), FWMLP: (2.21, 2.36), FWPKM: (2.12, 2.35)},
    "source": {PLAIN: (2.05, None), PKM: (1.99, None), FWMLP: (1.93, 2.09), FWPKM: (1.72, 2.10)},
    "manual": {PLAIN: (2.44, None), PKM: (2.40, None), FWMLP: (2.41, 2.46), FWPKM: (2.43, 2.48)},
}
"""Bits per byte of each model on each set, as it reads and with writes off."""


def text_rows(models: Iterable[str] = MODELS, tokens: int = 262144) -> list[Row]:
    rows: list[Row] = []
    for dataset, by_model in BITS.items():
        for model in models:
            for arm, bits in zip(("", "frozen"), by_model.get(model, by_model[PLAIN]), strict=True):
                if bits is None:
                    continue
                common = {
                    **COMMON, "model": model, "task": "ppl", "dataset": dataset, "scope": "stream", "arm": arm, "seed": 0,
                    "write_chunk": "128" if "fw" in model and not arm else "", "seconds": 30.0, "tokens": tokens,
                }  # fmt: skip
                nats = bits * math.log(2)
                rows.append(Row(metric="perplexity", value=math.exp(nats), unit="ratio", n=tokens, **common))  # type: ignore[arg-type]
                rows.append(Row(metric="nats_per_token", value=nats, unit="nats", n=tokens, **common))  # type: ignore[arg-type]
                rows.append(Row(metric="bits_per_byte", value=bits, unit="bits", n=tokens, **common))  # type: ignore[arg-type]
                last = {"docs": 14, "source": 17, "manual": 13}[dataset]
                for power in range(7, last + 1):
                    gain = 0.0 if arm or "fw" not in model else (by_model[model][1] or bits) - bits
                    value = (bits + gain) + 0.5 * 0.6 ** (power - 7) - 2 * gain * (power - 7) / (last - 7) * (0 if arm else 1)
                    rows.append(
                        Row(metric="bits_per_byte_at_position", value=value, unit="bits", n=500, length=2**power, **common)  # type: ignore[arg-type]
                    )
    return rows


def bench_rows() -> list[Row]:
    rows: list[Row] = []
    for arm, values in {
        "reference": {"forward_seconds": 7.1, "forward_backward_seconds": 20.4, "peak_bytes": 3.1e9},
        "torch": {
            "forward_seconds": 0.058, "speedup_forward": 122.4, "forward_backward_seconds": 0.71,
            "speedup_forward_backward": 28.7, "peak_bytes": 5.4e8,
        },
    }.items():  # fmt: skip
        for metric, value in values.items():
            unit = "ratio" if metric.startswith("speedup") else "bytes" if metric == "peak_bytes" else "seconds"
            rows.append(Row(task="bench", arm=arm, metric=metric, value=value, unit=unit, device="cpu", dtype="float32"))
    return rows


def realistic_rows() -> list[Row]:
    """A run as `reproduce` makes it: four models, two protocols, more needles, three sets, operations."""
    needles = niah_rows()
    more = niah_rows(lengths=(4096,), needles=(16, 64, 256))
    opened = niah_rows(lengths=(4096, 32768), protocol="open-book")
    return [*needles, *more, *opened, *guess_rows([*needles, *more, *opened]), *text_rows(), *bench_rows()]
