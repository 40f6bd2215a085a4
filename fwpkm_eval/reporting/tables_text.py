"""Perplexity by model and set, with and without writes, beside what was published."""

from __future__ import annotations

from collections.abc import Mapping

from fwpkm_eval.reporting import published, wording
from fwpkm_eval.reporting.contrasts import relative_change
from fwpkm_eval.reporting.measurements import Measurement, TextKey, TextResult, baseline_of, spec_of
from fwpkm_eval.reporting.sets import SetFacts
from fwpkm_eval.reporting.table import Cell, Rows, Table, slug
from fwpkm_eval.reporting.wording import MISSING

COLUMNS = (
    "model",
    "perplexity",
    "bits per byte",
    "writes off",
    "change by writing",
    "against baseline",
    "published perplexity",
    "published change",
    "comparable",
)
WITH_MATCHES = ("with match model", "against baseline with it")
"""Columns after `BEFORE_MATCHES`, where that was measured."""
BEFORE_MATCHES = "against baseline"
_SCOPES = {
    "stream": "the memory is carried from document to document",
    "document": "the memory starts anew with each document",
    "segment": "the memory starts anew with each segment",
}


def perplexity_tables(
    results: dict[TextKey, TextResult],
    scale: str,
    sets: SetFacts,
    floors: Mapping[tuple[str, str], Mapping[str, Measurement]] | None = None,
) -> list[Table]:
    """One table for each set and scope; ``floors``: bits per byte of general compressors on the same text."""
    tables = []
    several = len({key.scope for key in results}) > 1
    for dataset, scope in dict.fromkeys((key.dataset, key.scope) for key in results):
        here = {key: value for key, value in results.items() if (key.dataset, key.scope) == (dataset, scope)}
        rows = Rows()
        matches = any(result.with_match_model for result in here.values())
        columns = _columns(matches)
        for key in _lines(here):
            rows.add(*_row(key, here, scale, sets, matches))
        floor = (floors or {}).get((dataset, scope), {})
        for name, bits in floor.items():
            rows.add(name, MISSING, f"{bits.value:.3f}", *([MISSING] * (len(columns) - 3)))
        read = [result.perplexity for result in here.values() if result.perplexity]
        tokens = max((once.n // once.seeds for once in read if once.n), default=0)  # of one reading of one model
        tables.append(
            Table(
                name=slug("perplexity", dataset, scope if several else ""),
                title=f"Perplexity: {sets.title(dataset)}{f', scope {scope}' if several else ''}",
                columns=columns,
                rows=rows.done(),
                note=_note(scope, tokens, here, scale, sets)
                + wording.trainings_note(result.bits_per_byte for result in here.values())
                + wording.rotary(key.model for key in here)
                + _floor_note(floor)
                + (_MATCHES if matches else ""),
                words=1,
            )
        )
    return tables


_MATCHES = (
    " With a match model: the model's probabilities mixed with what followed the longest context read before, in "
    "shares learned while reading, as data compressors do: what copying is worth, and a memory beside it."
)


def _columns(matches: bool) -> tuple[str, ...]:
    at = COLUMNS.index(BEFORE_MATCHES) + 1
    return (*COLUMNS[:at], *WITH_MATCHES, *COLUMNS[at:]) if matches else COLUMNS


def frozen_result(key: TextKey, results: Mapping[TextKey, TextResult]) -> TextResult | None:
    """The same model on the same set with writes off, if that was measured."""
    for other, result in results.items():
        if other.frozen and (other.dataset, other.scope, other.model) == (key.dataset, key.scope, key.model):
            return result
    return None


def frozen_of(key: TextKey, results: Mapping[TextKey, TextResult]) -> Measurement | None:
    """The bits per byte of :func:`frozen_result`."""
    frozen = frozen_result(key, results)
    return frozen.bits_per_byte if frozen else None


def baseline_key(key: TextKey, results: dict[TextKey, TextResult]) -> TextKey | None:
    """The result without memory that ``key`` is held against; None for a baseline itself."""
    there = {
        other.model: other
        for other in results
        if (other.dataset, other.scope) == (key.dataset, key.scope) and not other.frozen
    }
    base = baseline_of(key.model, there)
    if base is None or not published.memories_of(spec_of(key.model)):
        return None
    return there[base]


def _floor_note(floor: Mapping[str, Measurement]) -> str:
    if not floor:
        return ""
    return f" No model: {wording.listing(list(floor))}, each at its highest level, on the same text as one piece."


def _lines(here: dict[TextKey, TextResult]) -> list[TextKey]:
    """One line per model; a frozen run has one of its own only where there is none to put it beside."""
    writing = {key.model for key in here if not key.frozen}
    return [key for key in here if not key.frozen or key.model not in writing]


def _row(key: TextKey, here: dict[TextKey, TextResult], scale: str, sets: SetFacts, matches: bool) -> list[str | Cell]:
    bits, matched = here[key].bits_per_byte, here[key].with_match_model
    perplexity = here[key].perplexity
    frozen = None if key.frozen else frozen_of(key, here)
    base = baseline_key(key, here)
    base_bits, base_matched = (here[base].bits_per_byte, here[base].with_match_model) if base else (None, None)
    of_matches = [_number(matched) if matched else MISSING, _change(matched, base_matched)] if matches else []
    lowest = min((r.bits_per_byte.value for r in here.values() if r.bits_per_byte), default=None)
    return [
        _name(key, here),
        _number(perplexity) if perplexity else "diverged",
        Cell(_number(bits), strong=bits.value == lowest) if bits else "diverged",
        _number(frozen) if frozen else MISSING,
        _change(bits, frozen),
        _change(bits, base_bits)
        + (f" ({base.model})" if base and base_bits and not _is_clear(base, key, here) else ""),
        *of_matches,
        *_published(key, scale, sets),
    ]


def _is_clear(base: TextKey, key: TextKey, here: Mapping[TextKey, TextResult]) -> bool:
    """Whether it goes without saying which model without memory a change is against: the only one of that backbone."""
    backbone = spec_of(key.model).partition(":")[0]
    return {other.model for other in here if spec_of(other.model) == backbone} == {base.model}


def _number(measurement: Measurement) -> str:
    return f"{measurement.value:.3f}" + wording.trainings_apart(measurement, "{:.3f}".format)


def _change(bits: Measurement | None, other: Measurement | None) -> str:
    if bits is None or other is None:
        return MISSING
    found = relative_change(bits, other)
    return wording.change(found.value) + wording.apart(found.by_training, wording.change)


def _published(key: TextKey, scale: str, sets: SetFacts) -> tuple[str, str, str]:
    model, corpus = spec_of(key.model), sets.published_name(key.dataset)
    near = None if key.frozen or corpus is None else published.nearest_published_model(model, "ppl")
    paper = published.find("ppl", near, corpus)
    if paper is None:
        return MISSING, MISSING, MISSING
    change = published.published_loss_change(near, corpus)
    return (
        f"{paper.text} ({paper.model})",
        MISSING if change is None else wording.change(change),
        published.comparable(published.differences("ppl", scale, sets.is_stand_in(key.dataset), model, paper.model)),
    )


def _name(key: TextKey, here: dict[TextKey, TextResult]) -> str:
    chunks = {other.write_chunk for other in here if other.model == key.model and not other.frozen}
    name = key.model if len(chunks) < 2 else f"{key.model}, {wording.writing(key.write_chunk)}"
    return f"{name}, writes off" if key.frozen else name


def _documents(here: dict[TextKey, TextResult]) -> str:
    """Of which documents the tokens are: a budget may end within the first of them."""
    found = next((result.documents for result in here.values() if result.documents), None)
    if found is None or not found.n:
        return ""
    begun, there = round(found.value), found.n // found.seeds
    if begun == there:
        return f" of all {there} documents" if there > 1 else " of one document"
    return f" of the first {begun} of {there} documents" if begun > 1 else f" of the first of {there} documents"


def _note(scope: str, tokens: int, here: dict[TextKey, TextResult], scale: str, sets: SetFacts) -> str:
    carried = _SCOPES.get(scope, f"scope {scope}")
    text = (
        f"{tokens:,} tokens{_documents(here)}, each scored once by each model; {carried}. “Writes off” is the "
        "same model with its memory frozen, the baseline the same backbone without memory, both compared "
        "in bits per byte. Lower is better."
    )
    dataset = next(iter(here)).dataset
    corpus = sets.published_name(dataset)
    if corpus is None:
        return text
    reasons: list[str] = []
    for key in here:
        model = spec_of(key.model)
        near = published.nearest_published_model(model, "ppl")
        reasons += published.differences("ppl", scale, sets.is_stand_in(dataset), model, near) if near else []
    why = f" Direction only, not value: {wording.listing(list(dict.fromkeys(reasons)))}." if reasons else ""
    return (
        f"{text} Published numbers ({published.PAPER}) are per token of another tokeniser on {corpus}; what "
        "can be held against ours is their change of loss (log perplexity) from the paper's own "
        f"baseline.{why}"
    )
