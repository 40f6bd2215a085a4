"""A size that is measured in no time, and jobs done in this process, for tests of the benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fwpkm_eval.bench import worker
from fwpkm_eval.bench.ops import Measurement, OpSize
from fwpkm_eval.runs.rows import Row

SMALL = OpSize("small", subkeys=12, key_dim=16, value_dim=20, heads=2, topk=3, chunk=16, tokens=50)
MIB = 2**20


def here(job: Mapping[str, Any], allocator: str) -> dict[str, Any]:
    """Does a job in this process, so that what a test changed is what is measured; bytes as if a size were large."""
    found = worker.do({**job, "threads": 1})
    return found | {"peak_bytes": 2 * MIB, "above_inputs_bytes": MIB} if "peak_bytes" in found else found


def never(job: Mapping[str, Any], allocator: str) -> dict[str, Any]:
    raise AssertionError(job)


def measurement(*seconds: float, peak: int = 10 * MIB, above: int = 4 * MIB) -> Measurement:
    return Measurement(list(seconds), 1.0, peak, above, threads=1)


def by_metric(found: list[Row], arm: str) -> dict[str, Row]:
    return {row.metric: row for row in found if row.arm == arm}


def double(function: Any) -> Any:
    return lambda *arguments, **options: 2 * function(*arguments, **options)
