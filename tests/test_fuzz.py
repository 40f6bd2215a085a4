"""Anything at all, given to what reads names, sizes, configurations and files: a result or one line, nothing else.

`make soak` runs these for long (``--hypothesis-profile=soak``).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fwpkm_eval.data.folder import load_set
from fwpkm_eval.errors import UserError
from fwpkm_eval.reference_models.config import MICRO, ModelConfig, model_config
from fwpkm_eval.reference_models.notation import parse_model_name, split_model_names
from fwpkm_eval.runs.cells import CellStore
from fwpkm_eval.runs.manifest import load_manifest
from fwpkm_eval.runs.rows import FIELDS, Row, read_rows_csv, write_rows_csv
from fwpkm_eval.runs.shards import parse_shard
from fwpkm_eval.sizes import format_size, parse_size, parse_sizes

NOTATION = st.text(st.sampled_from("gdnfaswpkmlx+:@,0123456789 -\n½"), max_size=40)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
ONE_FILE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def attempt(read: Callable[[], Any]) -> Any:
    """What ``read`` returns, or None where it refuses its input in one line; anything else it raises is a fault."""
    try:
        return read()
    except UserError as error:
        message = str(error)
    assert message
    assert "\n" not in message
    return None


@given(NOTATION | st.text(max_size=60))
def test_any_model_name(text: str) -> None:
    spec = attempt(lambda: parse_model_name(text))
    if spec is not None:
        # What is understood has one way to be written, and that is understood alike.
        assert parse_model_name(spec.name) == spec
        assert [parse_model_name(name) for name in split_model_names(f"{spec.name},{spec.name}")] == [spec, spec]


@pytest.mark.parametrize("parse", [parse_size, parse_sizes, parse_shard])
@given(text=st.text(st.sampled_from("0123456789kKmMgG.,/-+eE _½٣"), max_size=20) | st.text(max_size=30))
def test_any_size_or_shard(parse: Any, text: str) -> None:
    found = attempt(lambda: parse(text))
    if found is not None and parse is parse_size:
        assert found >= 0
        assert parse_size(format_size(found)) == found


@given(path=st.sampled_from(["", "backbone", "fwpkm", "pkm", "fwmlp", "lact"]), data=st.data())
def test_any_configuration(path: str, data: st.DataObject) -> None:
    config = model_config("gdn+swa:lact" if path == "lact" else "gdn+swa").to_dict()
    part = config[path] if path else config
    part[data.draw(st.sampled_from(sorted(part)) | st.text(max_size=10))] = data.draw(JSON)
    found = attempt(lambda: ModelConfig.from_dict(config))
    assert found is None or ModelConfig.from_dict(json.loads(json.dumps(found.to_dict()))) == found


@ONE_FILE
@given(content=st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace")))
def test_any_file_in_the_place_of_one_of_ours(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes(content)
    (tmp_path / "manifest.json").write_bytes(content)
    store = CellStore(tmp_path)
    store.folder.mkdir(exist_ok=True)
    store.path("0" * 20).write_bytes(content)
    folder = tmp_path / "data" / "notes"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "test.jsonl").write_bytes(content)
    attempt(lambda: read_rows_csv(tmp_path / "rows.csv"))
    attempt(lambda: load_manifest(tmp_path))
    attempt(lambda: load_set(str(tmp_path / "data"), "notes", "test"))
    assert store.load("0" * 20) is None


@ONE_FILE
@given(where=st.floats(0, 1), insert=st.binary(max_size=6), drop=st.integers(0, 8))
def test_any_change_in_a_rows_file(where: float, insert: bytes, drop: int, tmp_path: Path) -> None:
    rows = [Row(model="gdn", metric="loss", value=0.1), Row(model='a "b", c\n', value=1 / 3, n=7)]
    path = write_rows_csv(rows, tmp_path / "rows.csv")
    content = path.read_bytes()
    at = int(where * len(content))
    path.write_bytes(content[:at] + insert + content[at + drop :])
    found = attempt(lambda: read_rows_csv(path)) or []
    assert all(set(row.to_json()) == set(FIELDS) for row in found)


@pytest.mark.parametrize(
    ("part", "name", "value", "message"),
    [
        ("fwpkm", "addressing", float("nan"), "fwpkm.addressing is nan; it must be one of entropy, none"),
        ("fwpkm", "gate", "no", "fwpkm.gate is 'no'; it must be true or false"),
        ("backbone", "\n", 1, "unexpected keyword argument ' '"),
    ],
)
def test_configurations_that_were_once_taken(part: str, name: str, value: Any, message: str) -> None:
    config = MICRO.to_dict()
    config[part][name] = value
    with pytest.raises(UserError) as error:
        ModelConfig.from_dict(config)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
