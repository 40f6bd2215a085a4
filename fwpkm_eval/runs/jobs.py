"""Cells from what is to be measured: a model, a text and settings, cut so that workers can share the work."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fwpkm_eval.data import TextSet
from fwpkm_eval.runs.cells import Cell
from fwpkm_eval.runs.engine import Job
from fwpkm_eval.runs.execute import COMPRESSED, GUESS
from fwpkm_eval.runs.rows import VARIANT_SEPARATOR
from fwpkm_eval.sizes import HAYSTACK, format_size

if TYPE_CHECKING:
    import torch

    from fwpkm_eval.reference_models.config import ModelConfig
    from fwpkm_eval.tasks.niah import NiahSettings
    from fwpkm_eval.tasks.perplexity import PerplexitySettings
    from fwpkm_eval.tasks.trace import TraceSettings


@dataclass(frozen=True)
class ModelSource:
    """A checkpoint as planned with: what it says of itself, without its weights being loaded.

    ``label``: what the user calls it, beside others of the same name; part of the name in its rows.
    """

    checkpoint: Path
    config: ModelConfig
    weights_hash: str
    device: str = "cpu"
    dtype: str = "float32"
    label: str = ""

    @property
    def name(self) -> str:
        return VARIANT_SEPARATOR.join(filter(None, (self.config.name, self.label)))

    @property
    def has_fast_weights(self) -> bool:
        return self.config.spec.has_fast_weights


@dataclass(frozen=True)
class TextSource:
    """A text set and the value of ``--data`` that it was loaded from."""

    data: str
    text_set: TextSet


def read_source(checkpoint: Path, device: str = "cpu", dtype: str = "float32", label: str = "") -> ModelSource:
    """What a checkpoint's description says. Raises UserError if it cannot be read."""
    from fwpkm_eval.reference_models.checkpoint import read_description
    from fwpkm_eval.reference_models.config import ModelConfig

    description = read_description(checkpoint)
    config = ModelConfig.from_dict(description["config"])
    return ModelSource(checkpoint, config, str(description.get("weights_hash")), device, dtype, label)


def perplexity_job(model: ModelSource, text: TextSource, settings: PerplexitySettings) -> Job:
    """One reading of one set."""
    from fwpkm_eval.tasks.match_model import MATCH_VERSION
    from fwpkm_eval.tasks.perplexity import PERPLEXITY_VERSION

    frozen = settings.frozen and model.has_fast_weights
    label = f"{model.name}  perplexity of {text.text_set.name}{', frozen' if frozen else ''}"
    work = tokens_of(model, text, settings.tokens)
    versions = [PERPLEXITY_VERSION, MATCH_VERSION]
    return job_on_text("ppl", model, text, asdict(settings), versions, label, work)


def tokens_of(model: ModelSource, text: TextSource, budget: int | None) -> int:
    """About how many tokens of a text this model reads within a budget (None: all)."""
    from fwpkm_eval.data.tokenizers import ByteTokenizer

    bytes_per_token = 1 if model.config.tokenizer == ByteTokenizer.name else 4
    work = text.text_set.text_bytes // bytes_per_token + len(text.text_set.documents)
    return work if budget is None else min(work, budget)


def niah_jobs(model: ModelSource, text: TextSource, settings: NiahSettings) -> list[Job]:
    """One cell for each length, number of needles and write chunk; passes and protocols share readings.

    A model without fast weights is measured once for all write chunks.
    """
    from fwpkm_eval.tasks.niah import readings_per_sample, scoring_version

    split = [(chunk,) for chunk in settings.write_chunks] if model.has_fast_weights else [settings.write_chunks]
    jobs = []
    for length in settings.lengths:
        for needles in settings.needles:
            for write_chunks in split:
                one = replace(settings, lengths=(length,), needles=(needles,), write_chunks=write_chunks)
                readings = readings_per_sample(
                    one, has_fast_weights=model.has_fast_weights, write_chunk=write_chunks[0]
                )
                label = f"{model.name}  {needles} needles in {format_size(length)}"
                if model.has_fast_weights:
                    label += (
                        ", one write a reading" if write_chunks[0] == HAYSTACK else f", written every {write_chunks[0]}"
                    )
                work = settings.samples * (length * readings + 100 * len(settings.protocols))
                jobs.append(job_on_text("niah", model, text, asdict(one), scoring_version(one), label, work))
    return jobs


def trace_job(model: ModelSource, text: TextSource, settings: TraceSettings) -> Job:
    """The traces of one setting."""
    from fwpkm_eval.tasks.trace import OPEN_BOOK, TRACE_VERSION

    readings = settings.passes + (settings.protocol == OPEN_BOOK)
    work = len(settings.samples) * (settings.length * readings + 100)
    label = f"{model.name}  trace of {settings.needles} needles in {format_size(settings.length)}"
    return job_on_text("trace", model, text, asdict(settings), TRACE_VERSION, label, work)


def guess_job(text: TextSource, settings: NiahSettings) -> Job:
    """The floor rows that go with ``settings``."""
    from fwpkm_eval.tasks.niah import NIAH_VERSION

    values = {"task": asdict(settings), "task_version": NIAH_VERSION, "data": named(text.text_set)}
    return Job(Cell("niah", GUESS, values), "guessing", 0, data=text.data)


def compressor_job(text: TextSource, settings: PerplexitySettings, tokenizer: str) -> Job:
    """General compressors on the text that perplexity scores with these settings, cut where the tokenizer's tokens
    are."""
    from fwpkm_eval.tasks.compressors import COMPRESSORS_VERSION

    values = {
        "task": {"tokens": settings.tokens, "tokenizer": tokenizer},
        "task_version": COMPRESSORS_VERSION,
        "data": named(text.text_set),
    }
    return Job(Cell("ppl", COMPRESSED, values), f"compressors on {text.text_set.name}", 0, data=text.data)


def biggest_first(jobs: Iterable[Job]) -> list[Job]:
    """The jobs in an order that keeps all workers busy to the end."""
    return sorted(jobs, key=lambda job: -job.work)


def job_on_text(
    task: str,
    model: ModelSource,
    text: TextSource,
    settings: dict[str, Any],
    version: int | list[int],
    label: str,
    work: int,
) -> Job:
    """A cell of one model and one text, with all that can change its value in the key."""
    from fwpkm_eval.devices import resolve_device

    device = resolve_device(model.device)
    values: dict[str, Any] = {
        "weights": model.weights_hash,
        **how_computed(model.config, device, model.dtype),
        "data": named(text.text_set),
        "task": settings,
        "task_version": version,
    }
    cell = Cell(task, model.name, values)
    return Job(cell, label, work, data=text.data, checkpoint=str(model.checkpoint), device=str(device))


def how_computed(config: ModelConfig, device: torch.device, dtype: str) -> dict[str, Any]:
    """What a cell's key holds of a model beside its weights: its sizes, and all that chooses how it computes."""
    from fwpkm_eval.devices import resolve_dtype
    from fwpkm_eval.kernels.backends import resolve_backend
    from fwpkm_eval.reference_models.gated_delta import delta_rule_backend
    from fwpkm_eval.reference_models.yarn import YARN_VERSION, uses_yarn

    delta_rule = delta_rule_backend(device, resolve_dtype(dtype))
    return {
        "config": config.to_dict(),
        "device": device.type,
        "dtype": dtype,
        "backend": resolve_backend("auto", device),
        **({} if delta_rule == "torch" else {"delta_rule": delta_rule}),
        **({"yarn": [YARN_VERSION, config.trained_length]} if uses_yarn(config) else {}),
    }


def named(text_set: TextSet) -> dict[str, str]:
    """What a cell's key holds of a text."""
    return {"name": text_set.name, "split": text_set.split, "sha256": text_set.sha256}
