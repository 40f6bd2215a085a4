"""Rows as a run would have them, and ways to read the tables and sentences that a report makes of them."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from fwpkm_eval.reporting.sets import SetFacts
from fwpkm_eval.reporting.summary import summarise
from fwpkm_eval.reporting.table import Table
from fwpkm_eval.reporting.tables import build_tables
from fwpkm_eval.runs.intervals import wilson_interval
from fwpkm_eval.runs.rows import Row, rows_to_frame

PLAIN, PKM, FWMLP, FWPKM = "gdn+swa", "gdn+swa:pkm@2", "gdn+swa:fwmlp@2", "gdn+swa:fwpkm@2"
MODELS = (PLAIN, PKM, FWMLP, FWPKM)
WRITING = (FWMLP, FWPKM)
COMMON: dict[str, Any] = {"scale": "micro", "device": "cpu", "dtype": "float32", "version": "0.1.0"}


def recall(model: str, length: int, passes: int, write_chunk: str, needles: int) -> float:
    """A made-up but likely probability to find a needle."""
    if model in (PLAIN, PKM):
        return 0.0
    hard = (
        math.log2(length / 512) * (0.75 if write_chunk == "haystack" else 0.05) + max(0, math.log2(needles / 16)) * 0.9
    )
    strength = (2.4 if write_chunk == "haystack" else 3.2) + 1.1 * math.log2(passes) - hard
    return (0.25 if model == FWMLP else 1.0) / (1 + math.exp(-1.6 * strength))


def rate(metric: str, successes: float, n: int, **fields: Any) -> Row:
    low, high = wilson_interval(successes, n)
    return Row(metric=metric, value=successes / n, unit="fraction", n=n, ci_low=low, ci_high=high, **fields)


def niah_rows(
    models: Iterable[str] = MODELS,
    length: int = 4096,
    passes: Iterable[int] = (1, 2, 4),
    needles: int = 5,
    protocol: str = "closed-book",
    n: int = 20,
    chunks: Mapping[str, tuple[str, ...]] = {FWMLP: ("1024",), FWPKM: ("haystack", "1024")},
) -> list[Row]:
    """Rows as the needle task makes them: a model without fast weights has the same ones for every way of reading."""
    rng = np.random.default_rng([length, needles, n, len(protocol)])
    rows: list[Row] = []
    for model in models:
        writes = model in WRITING
        same = int(rng.binomial(n, 0.0 if protocol == "closed-book" else 0.02))
        for write_chunk in chunks[model] if writes else sorted({c for of in chunks.values() for c in of}):
            for number in passes:
                p = recall(model, length, number, write_chunk, needles)
                found = int(rng.binomial(n, p)) if writes else same
                common: dict[str, Any] = {
                    **COMMON, "model": model, "task": "niah", "dataset": "manual", "length": length,
                    "passes": number, "write_chunk": write_chunk, "needles": needles, "scope": "sample",
                    "protocol": protocol, "seed": 0, "seconds": length / 9000 * n, "tokens": length * n,
                    "data_hash": "d" * 16, "backend": "torch" if writes else "", "score": "idw" if writes else "",
                }  # fmt: skip
                digits = found + 0.3 * (n - found) if writes else 0.1 * n
                logprob = -0.1 - 13 * (1 - found / n) if writes else -14.2
                rows += [
                    rate("exact_match", found, n, **common),
                    rate("digit_accuracy", digits, n, **common),
                    rate("distractor_rate", min(n - found, 2) if writes else 0, n, **common),
                    Row(metric="answer_logprob", value=logprob, unit="nats", n=n, **common),
                ]
                buckets = rng.integers(0, 10, n)
                right = rng.permutation(n) < found
                for bucket in sorted(set(buckets.tolist())):
                    inside = right[buckets == bucket]
                    depth = round(bucket / 10 + 0.05, 4)
                    rows.append(rate("exact_match", int(inside.sum()), len(inside), depth=depth, **common))
    return rows


def guess_rows(rows: Iterable[Row]) -> list[Row]:
    """The floor beside every setting of the needle rows."""
    settings = {
        (row.length, row.passes, row.write_chunk, row.needles, row.protocol): Row(
            model="guess", task="niah", dataset=row.dataset, metric="exact_match", value=1e-6, unit="fraction",
            length=row.length, passes=row.passes, write_chunk=row.write_chunk, needles=row.needles, scope=row.scope,
            protocol=row.protocol, seed=0, data_hash=row.data_hash, version=row.version,
        )
        for row in rows
        if row.task == "niah" and row.depth is None
    }  # fmt: skip
    return list(settings.values())


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
            for arm, bits in zip(("", "frozen"), by_model[model], strict=True):
                if bits is not None:
                    rows += text_rows_of(model, dataset, arm, bits, by_model[model][1], tokens)
    return rows


def text_rows_of(model: str, dataset: str, arm: str, bits: float, frozen: float | None, tokens: int) -> list[Row]:
    """One run over a set: the longer the document, the more its writes are worth."""
    common: dict[str, Any] = {
        **COMMON, "model": model, "task": "ppl", "dataset": dataset, "scope": "stream", "arm": arm, "seed": 0,
        "write_chunk": "128" if model in WRITING and not arm else "", "seconds": 30.0, "tokens": tokens,
    }  # fmt: skip
    nats = bits * math.log(2)
    rows = [
        Row(metric="perplexity", value=math.exp(nats), unit="ratio", n=tokens, **common),
        Row(metric="nats_per_token", value=nats, unit="nats", n=tokens, **common),
        Row(metric="bits_per_byte", value=bits, unit="bits", n=tokens, **common),
    ]
    last = {"docs": 14, "source": 17, "manual": 13}[dataset]
    gain = 0.0 if arm or frozen is None else frozen - bits
    for power in range(7, last + 1):
        share = (power - 7) / (last - 7)
        value = bits + gain + 0.5 * 0.6 ** (power - 7) - 2 * gain * share
        where: dict[str, Any] = {"n": 500, "length": 2**power}
        rows.append(Row(metric="bits_per_byte_at_position", value=value, unit="bits", **where, **common))
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
            rows.append(
                Row(task="bench", arm=arm, metric=metric, value=value, unit=unit, device="cpu", dtype="float32")
            )
    return rows


@functools.cache
def realistic_rows() -> tuple[Row, ...]:
    """A run as `reproduce` makes it: four models, two protocols, many needles, three sets, operations."""
    rows: list[Row] = []
    for protocol in ("open-book", "closed-book"):
        both = {FWMLP: ("512", "1024"), FWPKM: ("haystack", "1024")}
        rows += niah_rows(protocol=protocol, chunks=both)
        rows += niah_rows(length=32768, passes=(1, 2), protocol=protocol, n=5)
        rows += niah_rows(needles=64, protocol=protocol)
        rows += niah_rows(length=16384, needles=256, passes=(1, 2), protocol=protocol, n=5)
    return (*rows, *guess_rows(rows), *text_rows(), *bench_rows())


def tables_of(rows: Iterable[Row], sets: SetFacts | None = None) -> dict[str, Table]:
    return {table.name: table for table in build_tables(rows_to_frame(rows), sets)}


def lines_of(table: Table) -> list[dict[str, str]]:
    return [dict(zip(table.columns, (cell.text for cell in row), strict=True)) for row in table.rows]


def line_of(table: Table, **labels: str) -> dict[str, str]:
    """The one line with these entries (``write`` is short for the column ``a write every``)."""
    wanted = {{"write": "a write every"}.get(name, name): text for name, text in labels.items()}
    (line,) = [line for line in lines_of(table) if wanted.items() <= line.items()]
    return line


def needle(model: str, found: int, n: int = 20, **fields: Any) -> Row:
    common: dict[str, Any] = {
        **COMMON, "model": model, "task": "niah", "dataset": "manual", "length": 4096, "passes": 1,
        "write_chunk": "haystack", "needles": 5, "scope": "sample", "protocol": "closed-book", "seed": 0,
    }  # fmt: skip
    return rate("exact_match", found, n, **{**common, **fields})


def bits(model: str, value: float, **fields: Any) -> list[Row]:
    common: dict[str, Any] = {
        **COMMON,
        "model": model,
        "task": "ppl",
        "dataset": "source",
        "scope": "stream",
        "n": 5000,
    }
    common |= fields
    return [
        Row(metric="bits_per_byte", value=value, unit="bits", **common),
        Row(metric="perplexity", value=2**value, unit="ratio", **common),
    ]


def with_matches(model: str, value: float, matched: float, **fields: Any) -> list[Row]:
    """What `bits` gives, and the bits of the model's mixture with a match model."""
    rows = bits(model, value, **fields)
    return [*rows, replace(rows[0], metric="bits_per_byte_with_match_model", value=matched)]


def said(rows: Iterable[Row], verdict: str | None = None) -> str:
    """The sentences of the summary, or those with one verdict."""
    found = [f for findings in summarise(rows_to_frame(rows)).values() for f in findings]
    return "\n".join(finding.text for finding in found if verdict in (None, finding.verdict))
