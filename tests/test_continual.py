"""Continual learning: domains in turn, the memory carried on, tests that leave nothing behind."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from honest_model import HonestModel
from tiny_models import tiny_checkpoint, tiny_model

from fwpkm_eval import cli
from fwpkm_eval.data import Document, TextSet, hash_documents
from fwpkm_eval.data.stream import token_stream
from fwpkm_eval.data.tokenizers import ByteTokenizer
from fwpkm_eval.errors import UserError
from fwpkm_eval.reporting.tables_continual import continual_tables
from fwpkm_eval.runs.rows import Row, read_rows_csv, rows_to_frame
from fwpkm_eval.tasks.continual import (
    PILE_DOMAINS,
    ContinualResult,
    ContinualSettings,
    continual_rows,
    evaluate_continual,
    split_domain,
)

pytestmark = pytest.mark.usefixtures("one_thread")
TOKENIZER = ByteTokenizer()
SENTENCES = (
    "The quick brown fox jumps over the lazy dog. ",
    "Sphinx of black quartz, judge my vow! ",
    "PACK MY BOX WITH FIVE DOZEN LIQUOR JUGS? ",
)
SETTINGS = ContinualSettings(adapt=400, test=100, segment=256, write_chunk=32)


def domain(name: str, sentence: str, repeats: int = 20) -> TextSet:
    documents = (Document("0", sentence * repeats), Document("1", sentence * repeats))
    return TextSet(name, "test", documents, "path", None, "made for a test", hash_documents(documents))


DOMAINS = [domain(name, sentence) for name, sentence in zip(("fox", "sphinx", "box"), SENTENCES, strict=True)]


def bits(result: ContinualResult) -> np.ndarray:
    return np.array([[loss.bits_per_byte for loss in stage] for stage in result.losses])


def test_a_domain_is_remembered_once_it_was_read_and_not_before() -> None:
    """The honest model knows a text exactly from the moment on that it has read it, and forgets nothing."""
    result = evaluate_continual(HonestModel(), DOMAINS, SETTINGS, TOKENIZER)
    table = bits(result)
    assert table.shape == (4, 3)
    for number in range(3):
        before, after = table[: number + 1, number], table[number + 1 :, number]
        assert np.all(after < before.min() - 1)
        # The count of writes stirs the honest model's outputs a little, other domains do not.
        assert np.ptp(before) < 0.2
        assert np.ptp(after) < 0.2


def test_tests_write_nothing_and_the_memory_goes_on_from_domain_to_domain() -> None:
    model = HonestModel()
    evaluate_continual(model, DOMAINS, SETTINGS, TOKENIZER)
    assert model.initial_states == 1
    calls = [(call.updates, len(call.tokens)) for call in model.calls]
    tested = [("off", 100)] * 3
    adapted = [("stream", 256), ("stream", 144)]
    assert calls == [*tested, *adapted, *tested, *adapted, *tested, *adapted, *tested]
    read = [token for call in model.calls if call.updates == "stream" for token in call.tokens]
    expected = [token for one in DOMAINS for token in [TOKENIZER.eos, *one.documents[0].text.encode()][:400]]
    assert read == expected


@pytest.mark.parametrize("name", ["gdn+swa:fwpkm@1", "fa:fwmlp@0", "fa:lact@0"])
@pytest.mark.parametrize("test_writes", [False, True])
def test_testing_changes_no_memory_and_adapting_no_weight(name: str, test_writes: bool) -> None:
    """The losses after the last domain are the same whatever was tested in between, and however often."""
    model = tiny_model(name)
    before = model.weights_hash
    settings = replace(SETTINGS, test_writes=test_writes)
    all_three = bits(evaluate_continual(model, DOMAINS, settings, TOKENIZER))
    assert model.weights_hash == before
    # The first domain twice in the list: it is tested twice as often, and its losses are alike.
    again = bits(evaluate_continual(model, [DOMAINS[0], DOMAINS[1]], settings, TOKENIZER))
    np.testing.assert_array_equal(again, all_three[:3, :2])
    other = bits(evaluate_continual(model, DOMAINS, replace(SETTINGS, test_writes=not test_writes), TOKENIZER))
    assert np.abs(other - all_three).max() > 1e-6


def test_what_is_adapted_to_is_never_tested_on() -> None:
    first, last = split_domain(DOMAINS[0], SETTINGS, TOKENIZER)
    stream = token_stream(DOMAINS[0], TOKENIZER)
    assert (first.n_targets, last.n_targets) == (400, 100)
    np.testing.assert_array_equal(first.tokens, stream.tokens[:401])
    np.testing.assert_array_equal(last.tokens[1:], stream.tokens[-100:])
    exact = replace(SETTINGS, adapt=stream.n_targets - 100)
    assert split_domain(DOMAINS[0], exact, TOKENIZER)[0].n_targets == stream.n_targets - 100
    with pytest.raises(UserError, match=r"'fox' has [\d,]+ tokens; to adapt to [\d,]+ and test on 100 others"):
        split_domain(DOMAINS[0], replace(exact, adapt=exact.adapt + 1), TOKENIZER)


def test_part_of_a_stream() -> None:
    stream = token_stream(domain("d", "0123456789", 1), TOKENIZER)
    part = stream.part(5, 15)
    np.testing.assert_array_equal(part.tokens, stream.tokens[5:15])
    np.testing.assert_array_equal(part.byte_counts, stream.byte_counts[5:15])
    assert part.document_starts.tolist() == [1, 7]
    assert part.document_positions().tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 2]
    np.testing.assert_array_equal(stream.part(0, len(stream.tokens)).document_starts, stream.document_starts)


def rows() -> list[Row]:
    result = evaluate_continual(HonestModel(), DOMAINS, SETTINGS, TOKENIZER)
    return continual_rows(HonestModel(), DOMAINS, SETTINGS, result)


def test_rows_and_table() -> None:
    found = rows()
    stages = {(row.passes, row.protocol) for row in found}
    assert stages == {(0, ""), (1, "after fox"), (2, "after sphinx"), (3, "after box")}
    values = {(row.metric, row.passes, row.dataset): row.value or 0 for row in found}
    for stage in (1, 2, 3):
        for name in ("fox", "sphinx", "box"):
            change = values["bits_per_byte", stage, name] - values["bits_per_byte", 0, name]
            assert values["bits_per_byte_change", stage, name] == pytest.approx(change)
    assert ("bits_per_byte_change", 0, "fox") not in values
    assert {row.length for row in found} == {400}
    [table] = continual_tables(rows_to_frame(found))
    assert table.columns == ("adapted", "fox", "sphinx", "box")
    assert [row[0].text for row in table.rows] == ["before", "after fox", "after sphinx", "after box"]
    assert [[cell.strong for cell in row[1:]] for row in table.rows[1:]] == np.eye(3, dtype=bool).tolist()
    assert all(table.rows[stage][stage].text.startswith("−") for stage in (1, 2, 3))


def test_the_table_tells_changes_since_the_start() -> None:
    common: dict[str, Any] = {"model": "gdn", "task": "continual", "dataset": "fox", "metric": "bits_per_byte"}
    stages = [("", 2.0), ("after fox", 1.0), ("after box", 1.5)]
    found = [Row(**common, length=9, passes=n, protocol=name, value=bits) for n, (name, bits) in enumerate(stages)]
    [table] = continual_tables(rows_to_frame(found))
    assert [row[1].text for row in table.rows] == ["2.000 bits per byte", "−50.0%", "−25.0%"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two checkpoints, and a data folder with two of the Pile's domains and another set."""
    root = tmp_path_factory.mktemp("continual")
    tiny_checkpoint("gdn+swa:fwpkm@1", root / "fwpkm")
    tiny_checkpoint("gdn+swa", root / "plain")
    for name, sentence in zip(("freelaw", "aaa", "dm_mathematics"), SENTENCES, strict=True):
        (root / "data" / name).mkdir(parents=True)
        line = json.dumps({"text": sentence * 20})
        (root / "data" / name / "test.jsonl").write_text(line, encoding="utf-8")
    return root


def run(folder: Path, models: str, *arguments: str) -> int:
    names = ",".join(str(folder / name) for name in models.split(","))
    sizes = ["--adapt", "300", "--test", "64", "--quiet"]
    return cli.main(["continual", "--models", names, "--data", str(folder / "data"), *sizes, *arguments])


@pytest.mark.usefixtures("without_workers")
def test_the_domains_of_the_pile_are_taken_where_they_are(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert run(folder, "fwpkm,plain", "--out", str(out)) == 0
    shown = capsys.readouterr()
    assert "after dm_mathematics" in shown.out
    assert "left out, as nothing in them adapts (no fast weights): gdn+swa\n" in shown.err
    found = read_rows_csv(out / "rows.csv")
    assert {row.task for row in found} == {"continual"}
    assert {row.model for row in found} == {"gdn+swa:fwpkm@1"}
    assert {(row.passes, row.protocol) for row in found} == {(0, ""), (1, "after dm_mathematics"), (2, "after freelaw")}
    assert PILE_DOMAINS.index("dm_mathematics") < PILE_DOMAINS.index("freelaw")
    assert run(folder, "fwpkm", "--domains", "aaa,freelaw", "--out", str(tmp_path / "other")) == 0
    assert {row.protocol for row in read_rows_csv(tmp_path / "other" / "rows.csv")} == {
        "",
        "after aaa",
        "after freelaw",
    }


@pytest.mark.parametrize(
    ("models", "arguments", "message"),
    [
        ("plain", (), "no model here has a memory that adapts"),
        ("fwpkm", ("--domains", "frelaw"), "did you mean freelaw"),
        ("fwpkm", ("--adapt", "64K"), "others it needs 65,600"),
    ],
)
def test_wrong_use_is_one_line(
    folder: Path, models: str, arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, models, *arguments) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert errors.count("\n") == 1


def test_settings_that_cannot_work() -> None:
    bad: list[dict[str, Any]] = [{"adapt": 0}, {"test": -1}, {"write_chunk": 0}]
    for changes in bad:
        with pytest.raises(UserError, match="at least 1 token"):
            replace(SETTINGS, **changes)
