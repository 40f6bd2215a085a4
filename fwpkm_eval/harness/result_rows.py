"""What lm-eval reports, as rows: task ``lm-eval:<task>``, the metric as lm-eval names it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from fwpkm_eval.runs.intervals import Z_95, wilson_interval
from fwpkm_eval.runs.rows import Row

TASK_PREFIX = "lm-eval:"
_UNITS = {"bits_per_byte": "bits", "answer_logprob": "nats"}


def result_rows(results: Mapping[str, Any], common: Mapping[str, Any]) -> list[Row]:
    """A row for each metric of each task and group in what `lm_eval.simple_evaluate` returns.

    A metric of a filter other than "none" is named ``metric,filter``. Intervals (95%): Wilson's for means of what each
    document got right, 0 to 1, else the value ± 1.96 of lm-eval's standard error; none where lm-eval has no error.
    ``n`` is the number of documents, ``data_hash`` is over them; length and needles are those that all of them name.
    """
    rows = []
    for task, values in results["results"].items():
        samples = results.get("samples", {}).get(task, [])
        documents = _distinct(samples)
        counted = results.get("n-samples", {}).get(task, {}).get("effective")
        fields = {
            **common,
            "task": f"{TASK_PREFIX}{task}",
            "dataset": str(_shared(documents, "dataset") or _dataset(results, task)),
            "length": _shared(documents, "length"),
            "needles": _shared(documents, "needles"),
            "data_hash": _shared(documents, "data_hash") or _hash(documents),
            "n": counted or len(documents) or values.get("sample_len") or None,
        }
        if (seed := _shared(documents, "seed")) is not None:
            fields["seed"] = seed
        for key, value in values.items():
            metric, _, filter_name = key.partition(",")
            if not filter_name or metric.endswith("_stderr") or isinstance(value, bool | str):
                continue
            each = [sample.get(metric) for sample in samples if sample["filter"] == filter_name]
            rate = bool(each) and all(isinstance(one, int | float) and 0 <= one <= 1 for one in each)
            low, high = _interval(each if rate else [], value, values.get(f"{metric}_stderr,{filter_name}"))
            rows.append(
                Row(
                    metric=metric if filter_name == "none" else key,
                    value=float(value),
                    unit=_UNITS.get(metric, "fraction" if rate else ""),
                    ci_low=low,
                    ci_high=high,
                    **fields,
                )
            )
    return rows


def _interval(rates: Sequence[Any], value: float, stderr: Any) -> tuple[float | None, float | None]:
    """``rates``: each document's share of a success, for metrics that are such shares."""
    if rates and math.isclose(sum(rates) / len(rates), value, abs_tol=1e-12):
        return wilson_interval(min(math.fsum(rates), len(rates)), len(rates))
    if not isinstance(stderr, int | float) or not math.isfinite(stderr):
        return None, None
    return value - Z_95 * stderr, value + Z_95 * stderr


def _distinct(samples: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The documents, once each: there is a sample for each filter."""
    return [sample["doc"] for sample in {sample["doc_id"]: sample for sample in samples}.values()]


def _shared(documents: Sequence[Mapping[str, Any]], name: str) -> Any:
    """What all documents have under a name, of the kind that the row's column takes; None if they differ."""
    kind = int if name in ("length", "needles", "seed") else str
    found = {doc.get(name) for doc in documents if isinstance(doc.get(name), kind)}
    alike = len(found) == 1 and all(isinstance(doc.get(name), kind) for doc in documents)
    return found.pop() if alike else None


def _dataset(results: Mapping[str, Any], task: str) -> str:
    config = results.get("configs", {}).get(task, {})
    return ":".join(str(config[name]) for name in ("dataset_path", "dataset_name") if config.get(name))


def _hash(documents: Sequence[Mapping[str, Any]]) -> str:
    digest = hashlib.sha256()
    for document in documents:
        digest.update(json.dumps(document, sort_keys=True, default=str).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:16] if documents else ""
