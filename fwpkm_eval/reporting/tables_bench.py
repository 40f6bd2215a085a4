"""The benchmark's rows as tables: the scan, its operations one by one, how time grows, and whole models."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fwpkm_eval.bench.training import DENSE, SPARSE
from fwpkm_eval.reporting import published, wording
from fwpkm_eval.reporting.published import BASELINE, FWPKM
from fwpkm_eval.reporting.table import Rows, Table
from fwpkm_eval.reporting.wording import MISSING

if TYPE_CHECKING:
    import pandas

Record = Mapping[Any, Any]
PASSES = {"forward": "forward", "forward_backward": "forward + backward", "training": "training"}
"""The passes as tables, plots and the terminal name them."""
PASSES_IN_WORDS = PASSES | {"forward_backward": "forward and backward", "training": "in training"}
"""The same in sentences."""
OPERATIONS = {
    "lookup": "top-k lookup",
    "addressing": "addressing step",
    "pkm": "PKM's read",
}
"""Operations by another name than their arms have: the same in tables, plots and sentences."""
_PER_TOKEN = "seconds_per_token_forward"
_SCAN_METRICS = ("{}_seconds", "tokens_per_second_{}", "peak_bytes_above_inputs_{}", "peak_bytes_{}")
_RATIOS = ("speedup_{}", "memory_over_reference_{}", "speedup_over_peer_{}")
_PIECE_METRICS = ("bytes_moved_forward", "share_of_bandwidth_forward", "bytes_per_second", "max_relative_error")
_MODEL_METRICS = tuple(
    f"{name}_{what}"
    for name in ("samples_per_second", "tokens_per_second", "peak_bytes", "share_of_backbone_speed")
    for what in ("training", "reading")
)
_TRAINING_METRICS = ("training_tokens_per_second", "training_ratio_to_dense_autograd", "training_loss_difference")


def operation_tables(frame: pandas.DataFrame) -> tuple[list[Table], pandas.DataFrame]:
    """The tables of what `fwpkm-eval bench` measures, and the bench rows that are none of its."""
    of_pass = {metric.format(what) for metric in (*_SCAN_METRICS, *_RATIOS) for what in PASSES}
    on_operation = frame["arm"].str.contains("/") & frame["metric"].isin({*of_pass, *_PIECE_METRICS, _PER_TOKEN})
    on_model = frame["model"].ne("") & frame["metric"].isin({*_MODEL_METRICS, "parameters", "active_parameters"})
    on_training = frame["metric"].isin(_TRAINING_METRICS)
    scans = frame[on_operation & frame["arm"].str.startswith("scan/")].to_dict("records")
    layers = frame[on_operation & frame["arm"].str.startswith("layer/")].to_dict("records")
    pieces = frame[on_operation & ~frame["arm"].str.match("(scan|layer)/")].to_dict("records")
    tables = [
        *_scan_table([record for record in scans if record["metric"] != _PER_TOKEN]),
        *_piece_table(pieces),
        *_layer_table(layers),
        *_scaling_table([record for record in scans if record["metric"] == _PER_TOKEN]),
        *_model_table(frame[on_model].to_dict("records")),
        *_training_table(frame[on_training].to_dict("records")),
    ]
    return tables, frame[~on_operation & ~on_model & ~on_training]


def _scan_table(records: Sequence[Record]) -> list[Table]:
    """One line for each pass and implementation."""
    values = _by_arm(records)
    rows = Rows()
    for what, name in PASSES.items():
        for arm, line in values.items():
            seconds = line.get(f"{what}_seconds")
            if seconds is None:
                continue
            ratio, share = line.get(f"speedup_{what}"), line.get(f"memory_over_reference_{what}")
            rows.add(
                name,
                arm,
                _seconds(seconds),
                _plain(line.get(f"tokens_per_second_{what}"), "{:,.0f}"),
                _ratio(ratio),
                _mebibytes(line.get(f"peak_bytes_above_inputs_{what}")),
                MISSING if share is None or share["value"] <= 0 else f"1/{1 / share['value']:.3g}",
            )
    if not rows.rows:
        return []
    columns = (
        "pass",
        "implementation",
        "seconds",
        "tokens/s",
        "times as fast",
        "memory above inputs",
        "of reference's",
    )
    return [
        Table(
            name="speed-scan",
            title="Speed and memory of the scan",
            columns=columns,
            rows=rows.done(),
            note=f"{_sizes(records)}. Medians, in brackets the 10th and 90th percentiles of the calls; ratios to the "
            f"reference of the same run and malloc setting. {_errors(values)} Forward + backward: gradients of query, "
            "target, gate, first keys and values; training: of query, target and gate.",
            labels=2,
        )
    ]


def _piece_table(records: Sequence[Record]) -> list[Table]:
    values = _by_arm(records)
    copy = next((line["bytes_per_second"] for line in values.values() if "bytes_per_second" in line), None)
    rows = Rows()
    for arm, line in values.items():
        if "forward_seconds" not in line:
            continue
        rows.add(
            OPERATIONS.get(arm.partition("/")[0], arm.partition("/")[0]),
            arm.partition("/")[2],
            _seconds(line["forward_seconds"]),
            _ratio(line.get("speedup_forward")),
            _plain(line.get("share_of_bandwidth_forward"), "{:.0%}"),
            _mebibytes(line.get("peak_bytes_above_inputs_forward")),
            _seconds(line.get("forward_backward_seconds")),
            _ratio(line.get("speedup_forward_backward")),
        )
    if not rows.rows:
        return []
    bandwidth = (
        f" A large copy moves {copy['value'] / 1e9:.1f} GB/s; what fits the caches can be faster." if copy else ""
    )
    on_gpu = any(record["device"] != "cpu" for record in records)
    clock = " Times are the GPU's own: what Python takes to launch its kernels is left out." if on_gpu else ""
    columns = ("operation", "backend", "forward", "times as fast", "share of bandwidth", "memory above inputs")
    return [
        Table(
            name="speed-operations",
            title="The operations one by one, on one chunk",
            columns=(*columns, "forward + backward", "times as fast "),
            rows=rows.done(),
            note=f"{_sizes(records)}; PKM's read: 4 heads, k 32. Share of bandwidth: the bytes that must move, over "
            f"the time and the bandwidth of a copy in the same process.{bandwidth}{clock} {_errors(values)}",
            labels=2,
        )
    ]


def _layer_table(records: Sequence[Record]) -> list[Table]:
    """Our layer beside a peer package's."""
    rows = Rows()
    values = _by_arm(records)
    for what in ("forward", "training"):
        for arm, line in values.items():
            if f"{what}_seconds" in line:
                rows.add(
                    PASSES[what],
                    arm.partition("/")[2],
                    _seconds(line[f"{what}_seconds"]),
                    _ratio(line.get(f"speedup_over_peer_{what}")),
                    _mebibytes(line.get(f"peak_bytes_above_inputs_{what}")),
                )
    if not rows.rows:
        return []
    return [
        Table(
            name="speed-peer",
            title="Our layer beside a peer's",
            columns=("pass", "layer", "seconds", "times as fast", "memory above inputs"),
            rows=rows.done(),
            note=f"{_sizes(records)}, malloc as the system has it. Projections, reads and writes, from the memory a "
            "layer starts with; training takes gradients of the input and of all projections. The peer's algorithm "
            "differs in details (fast weights for each row of a batch, another write): outputs do not compare.",
            labels=2,
        )
    ]


def words_of(size: str) -> int:
    """W of a size in text, the number of words that its tokens are drawn from; 0: slots are read evenly."""
    found = re.search(r"\bW (\d+),", size)
    return int(found[1]) if found else 0


def _scaling_table(records: Sequence[Record]) -> list[Table]:
    rows, repeats = Rows(), False
    for record in records:
        subkeys, words = int(str(record["dataset"]).split(",")[0].removeprefix("S ")), words_of(record["dataset"])
        repeats = repeats or bool(words)
        middle, low, high = (record[name] * 1e6 for name in ("value", "ci_low", "ci_high"))
        digits = 1 if middle >= 1 else 3  # a GPU takes tenths of a microsecond
        each = f"{middle:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"
        tokens = f"{int(record['length']):,}" + (f", of {words:,} words" if words else "")
        rows.add(str(subkeys), f"{subkeys**2:,}", tokens, each)
    if not rows.rows:
        return []
    tuned = ", malloc told to keep freed memory" if records[0]["arm"].endswith("tuned malloc") else ""
    return [
        Table(
            name="speed-scaling",
            title="Time of a token over slots and tokens",
            columns=("S", "slots", "tokens", "microseconds a token"),
            rows=rows.done(),
            note=f"The scan in place, forward{tuned}. 64 times the slots are eight times the "
            "sub-keys to score; what is read and written stays the same."
            + (
                " Words: the r-th is as frequent as 1/r, and reads near the same slot each time, as in text; otherwise "
                "slots are read evenly."
                if repeats
                else ""
            ),
        )
    ]


def _model_table(records: Sequence[Record]) -> list[Table]:
    base, theirs = (published.find("cost", model, "", metric="samples per second") for model in (BASELINE, FWPKM))
    assert base is not None
    assert theirs is not None
    values: dict[str, dict[str, Record]] = {}
    for record in records:
        values.setdefault(record["model"], {})[record["metric"]] = record
    rows = Rows()
    for model, line in values.items():
        if "samples_per_second_training" not in line:
            continue
        rows.add(
            model,
            _plain(line.get("parameters"), "{:,.1f}", 1e-6),
            _plain(line["samples_per_second_training"], "{:,.3g}"),
            _plain(line.get("share_of_backbone_speed_training"), "{:.0%}"),
            _plain(line.get("tokens_per_second_reading"), "{:,.0f}"),
            _plain(line.get("share_of_backbone_speed_reading"), "{:.0%}"),
            f"{theirs.value / base.value:.0%}" if model == theirs.model else MISSING,
        )
    if not rows.rows:
        return []
    devices = wording.listing(sorted({str(record["device"]) for record in records}))
    backends = sorted({str(record["backend"]) for record in records if record["backend"]})
    by = f", by {wording.listing(backends)}" if backends else ""
    columns = (
        "model",
        "million parameters",
        "training, samples/s",
        "of the first",
        "reading, tokens/s",
        "of the first ",
    )
    return [
        Table(
            name="speed-models",
            title="What a memory costs a model",
            columns=(*columns, "published, of gdn in training"),
            rows=rows.done(),
            note=f"Untrained models on {records[0]['dataset']} ({devices}{by}); a training step is forward, backward "
            f"and AdamW. Published: {theirs.value:g} of {base.value:g} samples/s on 4×H100 ({base.source}); another "
            "device and batch: only the direction compares.",
        )
    ]


def _training_table(records: Sequence[Record]) -> list[Table]:
    """Training steps in the sparse closed form beside the same with dense autograd, under each malloc."""
    rates = {r["arm"]: r["value"] for r in records if r["metric"] == "training_tokens_per_second"}
    apart = [record["value"] for record in records if record["metric"] == "training_loss_difference"]
    rows = Rows()
    for record in records:
        if record["metric"] == "training_ratio_to_dense_autograd":
            ours, theirs = record["arm"].split(" against ")
            sparse, dense = (rates.get(f"{way}, {of}") for way, of in ((SPARSE, ours), (DENSE, theirs)))
            shown = [MISSING if rate is None else f"{rate:,.0f}" for rate in (sparse, dense)]
            rows.add(record["model"], ours, shown[0], theirs, shown[1], _ratio(record))
    if not rows.rows:
        return []
    first = records[0]
    return [
        Table(
            name="speed-training",
            title="Training beside dense autograd",
            columns=("model", "sparse closed form", "tokens/s", "dense autograd", "tokens/s ", "times as fast"),
            rows=rows.done(),
            note=f"Scale {first['scale']}, {first['n']:.0f} steps of {first['dataset'].removesuffix(' a step')} "
            f"({first['device']}): the same steps in both ways, by turns; losses agree to {max(apart):.0e}. Backbone "
            "and optimizer are the same in both. Default malloc: as the system has it; tuned: told to keep freed "
            "memory, as this program trains. In brackets the 10th and 90th percentiles of the steps.",
            labels=2,
        )
    ]


def operation_in_words(arm: str) -> str:
    """``top-k lookup, torch`` for ``lookup/torch``; a layer is told by its package alone."""
    family, _, rest = arm.partition("/")
    if family == "layer":
        return rest
    return ", ".join(filter(None, (OPERATIONS.get(family, family), rest)))


def _by_arm(records: Iterable[Record]) -> dict[str, dict[str, Record]]:
    found: dict[str, dict[str, Record]] = {}
    for record in records:
        found.setdefault(record["arm"], {})[record["metric"]] = record
    return found


def _errors(values: Mapping[str, Mapping[str, Record]]) -> str:
    found = [line["max_relative_error"]["value"] for line in values.values() if "max_relative_error" in line]
    return f"Largest relative error against the reference: {max(found):.1e}." if found else ""


def _sizes(records: Iterable[Record]) -> str:
    return wording.listing(sorted({str(record["dataset"]) for record in records if record["dataset"]})) or "One size"


def _seconds(record: Record | None) -> str:
    if record is None:
        return MISSING
    unit, scale = ("s", 1.0) if record["value"] >= 1 else ("ms", 1e3)
    low, high = record["ci_low"], record["ci_high"]
    bounds = f" ({low * scale:.3g}–{high * scale:.3g})" if low == low and high == high else ""
    return f"{record['value'] * scale:.3g}{bounds} {unit}"


def _ratio(record: Record | None) -> str:
    if record is None:
        return MISSING
    low, high = record["ci_low"], record["ci_high"]
    bounds = f" ({low:.3g}–{high:.3g})" if low == low and high == high else ""
    return f"{record['value']:.3g}{bounds}×"


def _plain(record: Record | None, form: str, scale: float = 1.0) -> str:
    return MISSING if record is None else form.format(record["value"] * scale)


def _mebibytes(record: Record | None) -> str:
    return MISSING if record is None else f"{record['value'] / 2**20:,.0f} MiB"
