"""What a memory costs a whole model: sequences per second in training and in reading, beside the backbone alone.

Models are untrained: speed does not depend on what the weights hold. A training step is that of `train` (loss,
precision, clipping, AdamW) on `batch` sequences of `length` tokens; reading is the forward pass of the same in the same
precision, with writes, without gradients.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING, Any

from fwpkm_eval import __version__
from fwpkm_eval.bench.ratios import percentiles, times_as_fast
from fwpkm_eval.bench.worker import Runner, Together, attempt, run_in_process_of_its_own
from fwpkm_eval.runs.rows import Row

if TYPE_CHECKING:
    import torch

PASSES = ("training", "reading")


@dataclass(frozen=True)
class ModelCase:
    """What is measured: a model's name at a scale, and the batch."""

    name: str
    scale: str
    batch: int
    length: int
    device: str = "cpu"


@dataclass(frozen=True)
class ModelSpeed:
    """One model: seconds of each call by pass, bytes held at most beyond the model, parameters in all and active."""

    case: ModelCase
    seconds: dict[str, list[float]]
    peak_bytes: dict[str, int]
    parameters: int
    active_parameters: int
    device_name: str
    threads: int
    dtype: str = "float32"
    """Of activations; weights and fast weights are float32."""
    backend: str = ""
    """On a GPU: of the memory operations, and "fla" where that runs Gated DeltaNet's recurrence."""


def run_models(
    cases: Sequence[ModelCase],
    *,
    failed: dict[str, str],
    threads: int | None,
    repeats: int,
    budget: float,
    runner: Runner = run_in_process_of_its_own,
    tell: Callable[[str], None] = lambda line: None,
    together: Together = lambda jobs: None,
) -> list[ModelSpeed]:
    """Each model in a process of its own, with malloc told to keep freed memory; ``failed`` gets those that fail."""
    common = {"what": "model", "threads": threads, "repeats": repeats, "budget": budget}
    jobs = [{**common, "case": dataclasses.asdict(case), "size": {"name": case.name}} for case in cases]
    together([(job, "tuned") for job in jobs])
    found = []
    for case, job in zip(cases, jobs, strict=True):
        label = f"{case.name} at scale {case.scale}, {case.batch} x {case.length} tokens"
        tell(label)
        result = attempt(label, runner, job, "tuned", failed)
        if result is not None:
            found.append(ModelSpeed(**{**result, "case": ModelCase(**result["case"])}))
    return found


def measure_model(job: Mapping[str, Any]) -> dict[str, Any]:
    """A worker's job ``model``; JSON values."""
    import torch

    from fwpkm_eval.bench.stopwatch import stopwatch, time_calls
    from fwpkm_eval.reference_models.config import model_config
    from fwpkm_eval.reference_models.language_model import LanguageModel
    from fwpkm_eval.reference_models.parameters import count_parameters
    from fwpkm_eval.training.text_step import TextStep

    case = ModelCase(**job["case"])
    watch = stopwatch(case.device)
    config = model_config(case.name, case.scale)
    model = LanguageModel(config).to(case.device)
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(config.vocab_size, (case.batch, case.length + 1), generator=draw).to(case.device)
    step, state = TextStep(model), model.initial_state()

    def train() -> None:
        step(tokens)

    def read() -> None:
        nonlocal state
        with torch.no_grad(), torch.autocast(tokens.device.type, torch.bfloat16, enabled=step.bf16):
            _, new = model(tokens[:, :-1], state, updates="scan", write_chunk=config.chunk_size, inplace=True)
        state = new.fresh_sequence()

    seconds, peaks = {}, {}
    for what, call in (("training", train), ("reading", read)):
        call()
        held = watch.held_bytes()
        watch.reset_peak()
        call()  # what was given back to be counted is taken again outside of the time
        seconds[what] = time_calls(watch, repeat(call), job["repeats"], job["budget"])
        peaks[what] = max(0, watch.peak_bytes() - held)
    total, active = count_parameters(config)
    return {
        "case": dataclasses.asdict(case),
        "seconds": seconds,
        "peak_bytes": peaks,
        "parameters": total,
        "active_parameters": active,
        "device_name": watch.device_name,
        "threads": torch.get_num_threads(),
        "dtype": "bfloat16" if step.bf16 else "float32",
        "backend": backends(model.device, torch.bfloat16 if step.bf16 else torch.float32),
    }


def backends(device: torch.device, activations: torch.dtype) -> str:
    """``triton``, ``triton, fla``; empty on a CPU, where all is torch's."""
    from fwpkm_eval.kernels.backends import resolve_backend
    from fwpkm_eval.reference_models.gated_delta import delta_rule_backend

    if device.type == "cpu":
        return ""
    rule = delta_rule_backend(device, activations)
    return resolve_backend("auto", device) + ("" if rule == "torch" else f", {rule}")


def model_rows(found: Sequence[ModelSpeed], backbone: str) -> Iterator[Row]:
    """Sequences and tokens per second, bytes, parameters; and the share of the backbone's speed, unless that failed."""
    alone = speed_of(backbone, found)
    for speed in found:
        case = speed.case
        common: dict[str, Any] = {
            "model": case.name,
            "scale": case.scale,
            "task": "bench",
            "dataset": f"{case.batch} x {case.length} random tokens",
            "length": case.length,
            "protocol": f"threads {speed.threads}",
            "device": speed.device_name,
            "dtype": speed.dtype,
            "backend": speed.backend,
            "version": __version__,
        }
        for what in PASSES:
            low, middle, high = percentiles(speed.seconds[what])
            calls = len(speed.seconds[what])
            cost: dict[str, Any] = {
                "n": calls,
                "seconds": sum(speed.seconds[what]),
                "tokens": calls * case.batch * case.length,
            }
            yield Row(
                metric=f"samples_per_second_{what}", value=case.batch / middle, unit="samples/s",
                ci_low=case.batch / high, ci_high=case.batch / low, **common, **cost,
            )  # fmt: skip
            rate = case.batch * case.length / middle
            yield Row(metric=f"tokens_per_second_{what}", value=rate, unit="tokens/s", **common, **cost)
            yield Row(metric=f"peak_bytes_{what}", value=float(speed.peak_bytes[what]), unit="bytes", **common, **cost)
            if alone is not None and speed is not alone:
                least, share, most = times_as_fast(speed.seconds[what], alone.seconds[what])
                yield Row(
                    metric=f"share_of_backbone_speed_{what}", value=share, unit="fraction",
                    ci_low=least, ci_high=most, **common, **cost,
                )  # fmt: skip
        yield Row(metric="parameters", value=float(speed.parameters), unit="parameters", **common)
        yield Row(metric="active_parameters", value=float(speed.active_parameters), unit="parameters", **common)


def speed_of(name: str, found: Sequence[ModelSpeed]) -> ModelSpeed | None:
    """The speed of a model, None if it was not measured."""
    return next((speed for speed in found if speed.case.name == name), None)
