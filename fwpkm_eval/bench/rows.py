"""Rows of a benchmark: what was measured and the ratios to the reference of the same run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fwpkm_eval import __version__
from fwpkm_eval.bench.ops import ARMS, REFERENCE, Arm, Measurement, OpSize
from fwpkm_eval.bench.piece_measure import REFERENCE_BACKEND
from fwpkm_eval.bench.ratios import percentiles, times_as_fast
from fwpkm_eval.bench.run import BenchResult, Case, scaling_case
from fwpkm_eval.runs.rows import Row


def bench_rows(result: BenchResult) -> list[Row]:
    """The rows of a run; an arm that does not agree with the reference has only the row that says how far off it is.

    Metrics, each with its pass (forward, forward_backward, training) in the name: seconds, with the 10th and 90th
    percentiles of the calls in place of an interval; tokens per second; bytes at the peak, with and above the inputs;
    and for arms other than the reference the ratios to it: speed, and peak above the inputs.
    """
    rows = [
        _row(
            result,
            result.size,
            ARMS[arm],
            arm,
            "max_relative_error",
            result.agreement.worst(arm),
            "ratio",
            n=len(errors),
        )
        for arm, errors in result.agreement.errors.items()
    ]
    for case, measured in result.measured.items():
        rows += _rows_of(result, case, measured)
    rows += _piece_rows(result)
    case = scaling_case(result.size.device)
    for size, measured in result.scaling:
        tokens = size.tokens * size.batch
        low, middle, high = (seconds / tokens for seconds in percentiles(measured.seconds))
        rows.append(
            _row(
                result,
                size,
                case.arm,
                arm_name(case),
                f"seconds_per_token_{case.what}",
                middle,
                "seconds",
                measured,
                low=low,
                high=high,
            )
        )
    return rows


def _piece_rows(result: BenchResult) -> Iterator[Row]:
    """The operations one by one; arms are named like ``read/torch``.

    share_of_bandwidth: the bytes that a call must move (see `pieces`), over its time and the bandwidth of a large copy.
    """

    def row(piece: str, backend: str, metric: str, value: float, unit: str, **more: Any) -> Row:
        arm = Arm(f"{piece}/{backend}", backend)
        return _row(result, result.size, arm, arm.name, metric, value, unit, **more)

    if result.bandwidth:
        yield row("copy", "torch", "bytes_per_second", result.bandwidth, "bytes/s")
    for backend, errors in result.piece_errors.items():
        for piece, error in errors.items():
            yield row(piece, backend, "max_relative_error", error, "ratio")
    for (piece, what, backend), measured in result.pieces.items():
        low, middle, high = percentiles(measured.seconds)
        calls = len(measured.seconds)
        yield row(piece, backend, f"{what}_seconds", middle, "seconds", n=calls, low=low, high=high)
        yield row(piece, backend, f"peak_bytes_above_inputs_{what}", measured.above_inputs_bytes, "bytes", n=calls)
        if what == "forward":
            yield row(piece, backend, "bytes_moved_forward", measured.bytes_moved, "bytes")
            if result.bandwidth:
                share = measured.bytes_moved / middle / result.bandwidth
                yield row(piece, backend, "share_of_bandwidth_forward", share, "fraction", n=calls)
        reference = result.pieces.get((piece, what, REFERENCE_BACKEND))
        if reference is not None and backend != REFERENCE_BACKEND:
            least, ratio, most = times_as_fast(measured.seconds, reference.seconds)
            yield row(piece, backend, f"speedup_{what}", ratio, "ratio", n=calls, low=least, high=most)


def arm_name(case: Case) -> str:
    """How rows and tables name a case, without its pass."""
    return case.arm.name + (", tuned malloc" if case.allocator == "tuned" else "")


def speedup(result: BenchResult, case: Case) -> tuple[float, float, float]:
    """How many times as fast as the reference, between its bounds."""
    return times_as_fast(result.measured[case].seconds, result.measured[case.reference()].seconds)


def memory_share(result: BenchResult, case: Case) -> float | None:
    """The peak above the inputs, as a part of the reference's; None at sizes too small for the system to count."""
    reference = result.measured[case.reference()].above_inputs_bytes
    return result.measured[case].above_inputs_bytes / reference if reference > 0 else None


def _rows_of(result: BenchResult, case: Case, measured: Measurement) -> Iterator[Row]:
    size, what = result.size, case.what
    low, middle, high = percentiles(measured.seconds)
    tokens = size.tokens * size.batch

    def row(metric: str, value: float, unit: str, low: float | None = None, high: float | None = None) -> Row:
        return _row(result, size, case.arm, arm_name(case), metric, value, unit, measured, low=low, high=high)

    yield row(f"{what}_seconds", middle, "seconds", low, high)
    yield row(f"tokens_per_second_{what}", tokens / middle, "tokens/s", tokens / high, tokens / low)
    yield row(f"peak_bytes_{what}", measured.peak_bytes, "bytes")
    yield row(f"peak_bytes_above_inputs_{what}", measured.above_inputs_bytes, "bytes")
    if case.arm != REFERENCE and case.reference() in result.measured:
        least, ratio, most = speedup(result, case)
        yield row(f"speedup_{what}", ratio, "ratio", least, most)
        share = memory_share(result, case)
        if share is not None:
            yield row(f"memory_over_reference_{what}", share, "ratio")


def _row(
    result: BenchResult,
    size: OpSize,
    arm: Arm,
    label: str,
    metric: str,
    value: float,
    unit: str,
    measured: Measurement | None = None,
    *,
    n: int | None = None,
    low: float | None = None,
    high: float | None = None,
) -> Row:
    cost: dict[str, Any] = {"n": n}
    if measured is not None:
        calls = len(measured.seconds)
        cost = {"n": calls, "seconds": sum(measured.seconds), "tokens": calls * size.tokens * size.batch}
    return Row(
        scale=size.name,
        task="bench",
        dataset=str(size),
        metric=metric,
        value=float(value),
        unit=unit,
        ci_low=low,
        ci_high=high,
        length=size.tokens,
        write_chunk=str(size.chunk),
        protocol=f"threads {result.threads}" if result.measured else "",
        arm=label,
        score="idw",
        seed=result.agreement.seed,
        device=result.device_name,
        dtype="float32",
        backend=arm.backend,
        version=__version__,
        **cost,
    )
