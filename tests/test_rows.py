"""Rows: what may stand in them, and that CSV and JSON give the same rows back."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fwpkm_eval.errors import UserError
from fwpkm_eval.runs.rows import FIELDS, KINDS, Row, read_rows_csv, rows_to_frame, write_rows_csv

CONTRACT = (
    "model, scale, task, dataset, metric, value, unit, n, ci_low, ci_high, length, passes, write_chunk, needles, "
    "depth, scope, protocol, arm, score, seed, device, dtype, backend, seconds, tokens, weights_hash, data_hash, "
    "version"
)

OF_KIND: dict[type, st.SearchStrategy[Any]] = {
    str: st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=12),
    int: st.none() | st.integers(),
    float: st.none() | st.floats(allow_nan=False),
}
ROWS = st.builds(Row, **{name: OF_KIND[kind] for name, kind in KINDS.items()})


def test_the_columns_are_those_of_the_contract() -> None:
    assert ", ".join(FIELDS) == CONTRACT


@settings(max_examples=60)
@given(st.lists(ROWS, max_size=5))
def test_csv_gives_the_same_rows_back(rows: list[Row]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = write_rows_csv(rows, Path(folder) / "rows.csv")
        assert read_rows_csv(path) == rows


@settings(max_examples=60)
@given(ROWS)
def test_json_gives_the_same_row_back(row: Row) -> None:
    assert Row.from_json(row.to_json()) == row


@pytest.mark.parametrize("text", ['"', ",", "\r", "a\nb", "\r\n", "ä\0", " x ", "'", "1e5", "\N{LINE SEPARATOR}"])
def test_text_that_looks_like_csv_survives(tmp_path: Path, text: str) -> None:
    row = Row(model=text, metric=text, version=text)
    assert read_rows_csv(write_rows_csv([row, row], tmp_path / "rows.csv")) == [row, row]


def test_floats_come_back_to_the_last_bit(tmp_path: Path) -> None:
    values = [0.1, 1 / 3, 5e-324, 1.7976931348623157e308, -0.0, math.inf, 2**53 + 1.0]
    rows = [Row(value=value) for value in values]
    back = [row.value for row in read_rows_csv(write_rows_csv(rows, tmp_path / "rows.csv"))]
    assert ["" if value is None else value.hex() for value in back] == [value.hex() for value in values]


def test_nan_is_kept_and_is_not_a_missing_value(tmp_path: Path) -> None:
    (row,) = read_rows_csv(write_rows_csv([Row(value=math.nan)], tmp_path / "rows.csv"))
    assert row.value is not None
    assert math.isnan(row.value)
    assert Row().to_json()["value"] is None
    assert Row(value=math.nan).to_json()["value"] == "nan"
    assert math.isnan(Row.from_json({"value": "nan"}).value or 0.0)


def test_numpy_numbers_and_none_for_text_become_plain() -> None:
    row = Row(value=np.float32(0.5), n=np.int64(20), length=4096, arm=None)  # type: ignore[arg-type]
    assert row == Row(value=0.5, n=20, length=4096, arm="")
    assert type(row.value) is float
    assert type(row.n) is int
    assert type(Row(value=3).value) is float


@pytest.mark.parametrize(
    "field", [{"n": 2.5}, {"n": True}, {"value": "0.5"}, {"model": 3}, {"write_chunk": 1024}, {"value": True}]
)
def test_a_field_of_the_wrong_type_is_refused(field: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=f"row field {next(iter(field))} "):
        Row(**field)


def test_the_frame_has_a_type_for_each_column() -> None:
    frame = rows_to_frame([Row(model="gdn", n=20, value=0.5), Row(model="", value=None)])
    assert tuple(frame.columns) == FIELDS
    assert frame["n"].dtype == "Int64"
    assert frame["n"].isna().tolist() == [False, True]
    assert frame["value"].dtype == "float64"
    assert frame["model"].tolist() == ["gdn", ""]
    assert rows_to_frame([]).dtypes.equals(frame.dtypes)


def lines_of(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").split("\n")


@pytest.mark.parametrize(
    ("number", "change", "words"),
    [
        (1, lambda line: line.replace("ci_low", "low"), "ci_low is missing"),
        (1, lambda line: line + ",more", "'more' is not one of them"),
        (1, lambda line: line.replace("model,scale", "scale,model"), "in another order"),
        (3, lambda line: line + ",", "29 fields instead of 28"),
        (3, lambda line: line.replace("0.5", "half"), "value is 'half', not a number"),
        (3, lambda line: line.replace(",20,", ",20.5,"), "n is '20.5', not a whole number"),
        (3, lambda line: line.replace("gdn", '"gdn'), ""),
        (2, lambda line: "", "0 fields instead of 28"),
    ],
)
def test_a_bad_file_is_refused_with_its_line(tmp_path: Path, number: int, change: Any, words: str) -> None:
    path = write_rows_csv([Row(model="gdn", value=0.5, n=20)] * 2, tmp_path / "rows.csv")
    lines = lines_of(path)
    lines[number - 1] = change(lines[number - 1])
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(UserError) as error:
        read_rows_csv(path)
    assert f"rows.csv, line {number}: " in str(error.value)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_an_empty_and_a_binary_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    with pytest.raises(UserError, match="cannot read"):
        read_rows_csv(path)
    path.write_bytes(b"")
    with pytest.raises(UserError, match="is empty"):
        read_rows_csv(path)
    path.write_bytes(b"model,\xff\xfe")
    with pytest.raises(UserError, match="not UTF-8"):
        read_rows_csv(path)


def test_writing_where_one_cannot_is_a_users_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match="cannot write"):
        write_rows_csv([Row()], tmp_path / "file" / "rows.csv")
    assert (tmp_path / "file").read_text() == "not a folder"
