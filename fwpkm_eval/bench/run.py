"""The benchmark of the memory operations: first the agreement, then time and memory of those that agree."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from fwpkm_eval.bench.correctness import TOLERANCE, Agreement
from fwpkm_eval.bench.ops import IN_PLACE, REFERENCE, TRITON_IN_PLACE, Arm, Measurement, OpSize, arms_on
from fwpkm_eval.bench.piece_measure import REFERENCE_BACKEND, PieceMeasurement
from fwpkm_eval.bench.worker import ALLOCATORS, MeasurementFailed, Runner, Together, attempt, run_in_process_of_its_own

SECONDS_A_MEASUREMENT = 20.0
"""After about so long a measurement ends, with three calls or more."""
SECONDS_A_PIECE = 3.0
SCALING_SUBKEYS = (128, 256, 512, 1024)
SCALING_TOKENS = (512, 1024, 2048, 4096, 8192)
SCALING_WORDS = 32_000
"""The tokens of the paper's tokeniser."""


@dataclass(frozen=True)
class Case:
    """One line of the result: an implementation, a pass (see `ops.PASSES`) and malloc's setting."""

    arm: Arm
    what: str
    allocator: str

    def reference(self) -> Case:
        """The same of the dense reference."""
        return Case(REFERENCE, self.what, self.allocator)


def scaling_case(device: str) -> Case:
    """What `BenchResult.scaling` holds at other sizes: the scan in place, as models run it on the device."""
    return Case(IN_PLACE, "forward", "tuned") if device == "cpu" else Case(TRITON_IN_PLACE, "forward", "default")


@dataclass
class BenchResult:
    """Everything measured in one run.

    `pieces` are the operations by (operation, pass, backend), `piece_errors` how far they are from the reference, by
    backend and operation, and `bandwidth` bytes per second of a large copy. `scaling` holds `scaling_case` at other
    sizes; `load` the system's load average (runnable processes) just before and after, None where it is not known;
    `threads` those of each measuring process. `crashed` says what became of measurements whose process failed, by what
    was measured: the others are of use without them.
    """

    size: OpSize
    agreement: Agreement
    measured: dict[Case, Measurement] = field(default_factory=dict)
    scaling: list[tuple[OpSize, Measurement]] = field(default_factory=list)
    pieces: dict[tuple[str, str, str], PieceMeasurement] = field(default_factory=dict)
    piece_errors: dict[str, dict[str, float]] = field(default_factory=dict)
    bandwidth: float | None = None
    load: tuple[float | None, float | None] = (None, None)
    seconds: float = 0.0
    crashed: dict[str, str] = field(default_factory=dict)

    @property
    def threads(self) -> int:
        return next(iter(self.measured.values())).threads

    @property
    def device_name(self) -> str:
        """What it ran on."""
        return next((measured.device_name for measured in self.measured.values()), self.size.device)

    @property
    def failures(self) -> dict[str, list[str]]:
        """What is wrong with each arm that does not agree with the reference, and each measurement that failed."""
        found = {arm: self.agreement.failures(arm) for arm in self.agreement.errors}
        for backend, errors in self.piece_errors.items():
            wrong = {name: error for name, error in errors.items() if not error <= TOLERANCE["gradient"]}
            found |= {f"{name}/{backend}": [f"it is off by {error:.1e}"] for name, error in wrong.items()}
        return {arm: wrong for arm, wrong in found.items() if wrong} | {n: [why] for n, why in self.crashed.items()}


def run_ops(
    size: OpSize,
    *,
    threads: int | None = None,
    repeats: int = 20,
    scaling: bool = False,
    runner: Runner = run_in_process_of_its_own,
    budget: float = SECONDS_A_MEASUREMENT,
    tell: Callable[[str], None] = lambda line: None,
    together: Together = lambda jobs: None,
) -> BenchResult:
    """Checks every arm at `size`, then times the reference and the arms that agree.

    Args:
        threads: of each measuring process; None for torch's own choice.
        repeats: calls timed at most in a measurement, each of which has a process of its own.
        scaling: also times the in-place arm, if it agrees, over numbers of slots and of tokens.
        budget: seconds after which a measurement ends, with three calls or fewer `repeats` at least.
        tell: gets a line before each step.
        together: gets the jobs, with their allocators, that are held against one another, before the first of them.

    Raises:
        MeasurementFailed: the check failed, or each of the measurements did.
    """
    started, load = time.monotonic(), _load()
    common = {"threads": threads, "repeats": repeats, "budget": budget}
    tell(f"check against the reference: {size}")
    # The check is not timed, and with the default malloc it needs the least memory.
    found = runner({"what": "check", "size": dataclasses.asdict(size), **common}, "default")
    result = BenchResult(size, Agreement(**found))
    sound = [arm for arm in arms_on(size.device).values() if arm.name not in result.failures]

    def job(at: OpSize, case: Case) -> dict[str, Any]:
        what = {"what": case.what, "arm": case.arm.name, "size": dataclasses.asdict(at), "seed": result.agreement.seed}
        return what | common

    cases = cases_of(size, sound)
    # Those that are held against one another come one after the other: a run that is stopped then has most of them.
    for pair in {(case.allocator, case.what): None for case in cases}:
        of_pair = [case for case in cases if (case.allocator, case.what) == pair]
        together([(job(size, case), case.allocator) for case in of_pair])
        for case in of_pair:
            label = f"{case.arm.name}, {case.what}, {case.allocator} malloc"
            tell(label)
            measured = attempt(label, runner, job(size, case), case.allocator, result.crashed)
            if measured is not None:
                result.measured[case] = Measurement(**measured)
    result.measured = {case: result.measured[case] for case in cases if case in result.measured}
    if not result.measured:
        raise MeasurementFailed("; ".join(dict.fromkeys(result.crashed.values())))
    add_pieces(result, runner, common, tell, together)
    case = scaling_case(size.device)
    if scaling and case.arm in sound:
        # The size itself is measured once more among the others.
        jobs = [(other, job(other, case) | {"part": "scaling"}) for other in scaling_sizes(size)]
        together([(one, case.allocator) for _, one in jobs])
        for other, one in jobs:
            label = f"{case.arm.name}, {case.what}: {other}"
            tell(label)
            scaled = attempt(label, runner, one, case.allocator, result.crashed)
            if scaled is not None:
                result.scaling.append((other, Measurement(**scaled)))
    result.load = (load, _load())
    result.seconds = time.monotonic() - started
    return result


def cases_of(size: OpSize, arms: Iterable[Arm]) -> list[Case]:
    """What is timed of these arms."""
    # A GPU's memory is not malloc's.
    allocators = ALLOCATORS if size.device == "cpu" else ALLOCATORS[:1]
    return [Case(arm, what, allocator) for allocator in allocators for arm in arms for what in arm.passes]


def steps_of_ops(size: OpSize, scaling: bool) -> int:
    """How many jobs `run_ops` has if all arms agree."""
    timed = len(cases_of(size, arms_on(size.device).values()))
    return 1 + timed + 2 + len(backends_on(size.device)) + (len(scaling_sizes(size)) if scaling else 0)


def backends_on(device: str) -> tuple[str, ...]:
    """Those compared with the reference, operation by operation."""
    return ("torch",) if device == "cpu" else ("torch", "triton")


def add_pieces(
    result: BenchResult,
    runner: Runner,
    common: dict[str, Any],
    tell: Callable[[str], None],
    together: Together = lambda jobs: None,
) -> None:
    """The operations one by one: the agreement, then the reference and each backend in a process of its own."""
    job = {"size": dataclasses.asdict(result.size), "seed": result.agreement.seed, **common}
    job["budget"] = SECONDS_A_PIECE
    label = "check of the single operations against the reference"
    tell(label)
    backends = backends_on(result.size.device)
    check = {**job, "what": "check-pieces", "backends": backends}
    errors = attempt(label, runner, check, "default", result.crashed)
    if errors is None:
        return  # what was not checked is not timed
    result.piece_errors = errors
    jobs = {name: {**job, "what": "pieces", "backend": name} for name in (REFERENCE_BACKEND, *backends)}
    together([(one, "tuned") for one in jobs.values()])
    for backend, one in jobs.items():
        label = f"single operations, {backend}, tuned malloc"
        tell(label)
        found = attempt(label, runner, one, "tuned", result.crashed)
        if found is None:
            continue
        # The bandwidth of the reference's process would do as well; the last one stays.
        result.bandwidth = found["bandwidth"]
        for name, what, measured in found["measured"]:
            if f"{name}/{backend}" not in result.failures:
                result.pieces[name, what, backend] = PieceMeasurement(**measured)


def scaling_sizes(size: OpSize) -> list[OpSize]:
    """The same scan over numbers of sub-keys (slots grow with their square), then over numbers of tokens, and with
    tokens that repeat as words do."""
    sizes = [dataclasses.replace(size, subkeys=subkeys) for subkeys in SCALING_SUBKEYS]
    sizes += [dataclasses.replace(size, tokens=tokens) for tokens in SCALING_TOKENS]
    sizes.append(dataclasses.replace(size, words=SCALING_WORDS))
    return list(dict.fromkeys(sizes))


def _load() -> float | None:
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None
