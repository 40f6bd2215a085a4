"""Results in long format: one row per measured number, with all that says what it is a number of."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import numbers
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fwpkm_eval.errors import UserError, shown
from fwpkm_eval.files import write_whole

if TYPE_CHECKING:
    import pandas

VARIANT_SEPARATOR = " · "
"""Between a model's full name and what tells its variants apart, such as a label given to a checkpoint."""
FROZEN, YARN = "frozen", "yarn"
"""In `arm`: the fast weights were not written; full attention took YaRN. Of both: "frozen+yarn"."""


def joined_arm(*parts: str) -> str:
    """The `arm` of rows to which all of these apply; empty ones say nothing."""
    return "+".join(filter(None, parts))


def arm_without_yarn(arm: str) -> str:
    """An `arm` as rows are compared by: whether YaRN was needed follows from the model and the length."""
    return joined_arm(*(part for part in arm.split("+") if part != YARN))


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measured number. Text that is missing is ``""`` (None is taken for it), a missing number None.

    ``value`` is in ``unit`` and comes from ``n`` samples (or tokens); ``ci_low`` and ``ci_high`` bound its 95%
    interval (of timings: 10th and 90th percentile). ``length`` counts tokens; ``passes`` are readings before the
    question; ``write_chunk`` is ``"haystack"`` or a number of tokens; ``depth`` is a fraction of the haystack;
    ``seconds`` and ``tokens`` say what the measurement cost; the hashes name the weights and the text it was made
    with, and ``version`` the code.

    Raises:
        TypeError: a field is given something of another type (a whole number may stand for a float).
    """

    model: str = ""
    scale: str = ""
    task: str = ""
    dataset: str = ""
    metric: str = ""
    value: float | None = None
    unit: str = ""
    n: int | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    length: int | None = None
    passes: int | None = None
    write_chunk: str = ""
    needles: int | None = None
    depth: float | None = None
    scope: str = ""
    protocol: str = ""
    arm: str = ""
    score: str = ""
    seed: int | None = None
    device: str = ""
    dtype: str = ""
    backend: str = ""
    seconds: float | None = None
    tokens: int | None = None
    weights_hash: str = ""
    data_hash: str = ""
    version: str = ""

    def __post_init__(self) -> None:
        for name, kind in KINDS.items():
            value = getattr(self, name)
            if value is None:
                plain: str | float | int | None = "" if kind is str else None
            elif isinstance(value, bool) or not isinstance(value, _ACCEPTED[kind]):
                found = type(value).__name__
                raise TypeError(f"row field {name} is {value!r}: {found} instead of {kind.__name__}")
            else:
                # Subclasses and numpy's numbers become plain ones: writing and reading then give equal rows.
                plain = kind(value)
            object.__setattr__(self, name, plain)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values; infinity and NaN, which JSON lacks, as ``"inf"`` and ``"nan"``."""
        fields = dataclasses.asdict(self)
        return {
            name: repr(value) if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in fields.items()
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Row:
        """The row that :meth:`to_json` wrote.

        Raises:
            TypeError: a field is unknown or has the wrong type.
            ValueError: a number is written as text that is no number.
        """
        values = dict(fields)
        for name in FIELDS:
            if KINDS[name] is float and isinstance(values.get(name), str):
                values[name] = float(values[name])
        return cls(**values)


def without_values(row: Row) -> Row:
    """What a row says is measured, without how much that was, what it cost, and by which version: two rows of one
    quantity are equal in it."""
    return dataclasses.replace(
        row, value=None, n=None, ci_low=None, ci_high=None, seconds=None, tokens=None, version=""
    )


FIELDS: tuple[str, ...] = tuple(field.name for field in dataclasses.fields(Row))
"""The columns of ``rows.csv``, in order."""

_ACCEPTED: dict[type, type] = {str: str, int: numbers.Integral, float: numbers.Real}
_KIND_OF_ANNOTATION: dict[str, type] = {"str": str, "float | None": float, "int | None": int}
KINDS: dict[str, type] = {field.name: _KIND_OF_ANNOTATION[str(field.type)] for field in dataclasses.fields(Row)}
"""The type of each field: str, int or float."""


def rows_to_frame(rows: Iterable[Row]) -> pandas.DataFrame:
    """The rows as a table with the columns ``FIELDS``: text str, whole numbers Int64, others float64."""
    import pandas

    listed = list(rows)
    pandas_kinds: dict[type, Any] = {str: "str", int: "Int64", float: "float64"}
    return pandas.DataFrame(
        {
            name: pandas.Series([getattr(row, name) for row in listed], dtype=pandas_kinds[kind])
            for name, kind in KINDS.items()
        }
    )


def write_rows_csv(rows: Iterable[Row], path: Path) -> Path:
    """Write ``rows`` as CSV, whole or not at all. Reading a float gives the same bits back.

    Raises:
        UserError: the file cannot be written.
    """
    lines = [",".join(FIELDS)]
    lines += [",".join(_to_text(getattr(row, name)) for name in FIELDS) for row in rows]
    return write_whole(path, "\n".join(lines) + "\n")


def read_rows_csv(path: Path) -> list[Row]:
    """The rows of a file that :func:`write_rows_csv` wrote.

    Raises:
        UserError: the file is missing, is not UTF-8, or a line (its number is named) is not a row.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start})") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[Row] = []
    line = 1
    try:
        for cells in reader:
            if line == 1:
                _check_header(cells)
            else:
                rows.append(_parse(cells))
            line = reader.line_num + 1
    except (csv.Error, ValueError) as error:
        raise UserError(f"{path}, line {line}: {error}") from error
    if line == 1:
        raise UserError(f"{path} is empty: a rows file starts with the line {','.join(FIELDS[:3])},…")
    return rows


def _to_text(value: str | float | int | None) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        # The csv module leaves a lone carriage return unquoted, and then refuses to read it.
        return '"' + value.replace('"', '""') + '"' if any(sign in value for sign in ',"\r\n') else value
    return repr(value)


def _check_header(cells: list[str]) -> None:
    if tuple(cells) == FIELDS:
        return
    missing = [name for name in FIELDS if name not in cells]
    unexpected = [name for name in cells if name not in FIELDS]
    if missing:
        raise ValueError(f"these are not the columns of a rows file: {missing[0]} is missing")
    if unexpected:
        raise ValueError(f"these are not the columns of a rows file: {shown(unexpected[0])} is not one of them")
    raise ValueError("the columns of a rows file are in another order")


def _parse(cells: list[str]) -> Row:
    if len(cells) != len(FIELDS):
        raise ValueError(f"{len(cells)} fields instead of {len(FIELDS)}")
    values: dict[str, Any] = {}
    for name, cell in zip(FIELDS, cells, strict=True):
        kind = KINDS[name]
        if kind is str:
            values[name] = cell
        elif cell:
            try:
                values[name] = kind(cell)
            except ValueError:
                wanted = "a whole number" if kind is int else "a number"
                raise ValueError(f"{name} is {shown(cell)}, not {wanted}") from None
    return Row(**values)
