"""The report of a folder: which rows count, what is written, and what is left alone."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from report_cases import FWPKM, PLAIN, bits, guess_rows, needle

from fwpkm_eval import cli
from fwpkm_eval.errors import UserError
from fwpkm_eval.reporting import build_report
from fwpkm_eval.runs.cells import CellStore
from fwpkm_eval.runs.manifest import check_or_create, update_manifest
from fwpkm_eval.runs.rows import Row, read_rows_csv, write_rows_csv


def test_rows_come_from_cells_in_an_order_of_their_own(tmp_path: Path) -> None:
    rows = [needle(FWPKM, 3, passes=4), needle(PLAIN, 0), needle(FWPKM, 2), *bits(PLAIN, 2.0)]
    expected = [rows[1], rows[2], rows[0], rows[3], rows[4]]
    for turn, order in enumerate((rows, rows[::-1])):
        out = tmp_path / str(turn)
        store = CellStore(out)
        for number, row in enumerate(order):
            store.save(f"{number:020x}", {"settings": {}, "rows": [row], "version": "1"})
        build_report(out)
        found = read_rows_csv(out / "rows.csv")
        assert found[:3] == expected[:3]
        assert sorted(map(repr, found)) == sorted(map(repr, rows))


def test_only_the_cells_of_the_run_count(tmp_path: Path) -> None:
    store = CellStore(tmp_path)
    check_or_create(tmp_path, {"scale": "micro"})
    for number, found in enumerate((3, 20)):
        store.save(f"{number:020x}", {"settings": {}, "rows": [needle(FWPKM, found)], "version": str(number)})
    update_manifest(tmp_path, cells=[f"{0:020x}", f"{5:020x}"])
    build_report(tmp_path)
    assert read_rows_csv(tmp_path / "rows.csv") == [needle(FWPKM, 3)]
    assert "This run is not complete: 1 of 2 cells are finished." in (tmp_path / "report.html").read_text()


def test_the_report_command_prints_where_the_report_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_rows_csv([needle(FWPKM, 3)], tmp_path / "rows.csv")
    assert cli.main(["report", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'report.html'}\n"
    assert cli.main(["report", str(tmp_path), "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    assert cli.main(["report", str(tmp_path), "--json"]) == 0
    paths = json.loads(capsys.readouterr().out)
    assert paths[-1] == str(tmp_path / "report.html")
    assert str(tmp_path / "tables.md") in paths
    assert all(Path(path).is_file() for path in paths)


def test_rows_that_no_cell_gives_are_not_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Somebody's own rows, those of a cell that is damaged, and a file that cannot be read; once each."""
    measured, own = [needle(FWPKM, 3), needle(PLAIN, 0)], Row(task="mine", metric="accuracy", value=0.5, model="theirs")
    store, path = CellStore(tmp_path), tmp_path / "rows.csv"
    for number, row in enumerate(measured):
        store.save(f"{number:020x}", {"settings": {}, "rows": [row], "version": "1"})
    build_report(tmp_path)
    again = dataclasses.replace(measured[0], value=0.5, seconds=9.0, version="0")
    write_rows_csv([again, measured[1]], path)
    build_report(tmp_path)
    assert not capsys.readouterr().err, "a value that was measured again is no row that is lost"

    edited = write_rows_csv([*measured, own], path).read_bytes()
    for _ in range(2):
        assert cli.main(["report", str(tmp_path)]) == 0
    said = capsys.readouterr().err
    assert said == (
        f"note: 1 row of {path} is of no finished cell of this run: the file as it was is kept as "
        f"{tmp_path / 'rows-before-1.csv'}\n"
    )
    assert (tmp_path / "rows-before-1.csv").read_bytes() == edited
    assert sorted(map(repr, read_rows_csv(path))) == sorted(map(repr, measured))

    store.path(f"{1:020x}").write_text("{")
    build_report(tmp_path)
    assert "rows-before-2.csv" in capsys.readouterr().err
    assert measured[1] in read_rows_csv(tmp_path / "rows-before-2.csv")
    assert read_rows_csv(path) == measured[:1]

    path.write_text("not rows\n")
    build_report(tmp_path)
    assert "it cannot be read as rows" in capsys.readouterr().err
    assert (tmp_path / "rows-before-3.csv").read_text() == "not rows\n"


def test_without_cells_rows_csv_is_read_and_left_alone(tmp_path: Path) -> None:
    path = write_rows_csv([needle(FWPKM, 3)], tmp_path / "rows.csv")
    before = path.stat()
    assert path not in build_report(tmp_path)
    after = path.stat()
    assert (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)


def test_plots_of_an_earlier_report_go_and_others_stay(tmp_path: Path) -> None:
    write_rows_csv(bits(FWPKM, 1.7), tmp_path / "rows.csv")
    (tmp_path / "plots").mkdir()
    for name in ("niah-length-closed-book.png", "speed.svg", "mine.png", "speed.txt"):
        (tmp_path / "plots" / name).write_text("old")
    build_report(tmp_path)
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {
        "bits-per-byte.png", "bits-per-byte.svg", "mine.png", "speed.txt",
    }  # fmt: skip


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [Row(task="niah")],
        [Row(task="ppl", metric="perplexity")],
        [Row(task="bench", metric="speedup_forward")],
        [Row(task="something-new", metric="x", value=1.0)],
        [Row(model="gdn", task="niah", metric="exact_match", value=0.5, length=4096, passes=1, needles=5)],
        guess_rows([needle(FWPKM, 3)]),
        [needle(FWPKM, 3, n=20, passes=0, write_chunk="", scope="", dataset="", protocol="new|<b>")],
        bits(FWPKM, 1.7, arm="frozen"),
    ],
    ids=["none", "niah", "ppl", "bench", "unknown", "no-interval", "floor", "odd", "frozen-only"],
)
def test_whatever_is_missing_the_report_is_made(tmp_path: Path, rows: list[Row]) -> None:
    write_rows_csv(rows, tmp_path / "rows.csv")
    build_report(tmp_path)
    assert "How to run it again" in (tmp_path / "report.html").read_text()


def test_a_folder_without_results_is_a_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no results: neither finished cells nor rows\.csv"):
        build_report(tmp_path)
    with pytest.raises(UserError, match="no folder"):
        build_report(tmp_path / "nowhere")
    (tmp_path / "rows.csv").write_text("model\n")
    with pytest.raises(UserError, match="line 1"):
        build_report(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]
