"""The measures of reliability find what they are for: runs that lose rows are told from runs that do not."""

from __future__ import annotations

import math
import sys
from collections import Counter
from pathlib import Path

import pytest

from fwpkm_eval import api, cli
from fwpkm_eval.errors import UserError
from fwpkm_eval.reliability import damage
from fwpkm_eval.reliability.damage import Case, Verdict, try_all
from fwpkm_eval.reliability.kills import Command, Kills, kill_trials
from fwpkm_eval.reliability.long_reading import LongReading
from fwpkm_eval.reliability.repetition import Repetition, repeat
from fwpkm_eval.reliability.runs import compare, expected_of, values_of
from fwpkm_eval.reliability.table import Findings, as_markdown
from fwpkm_eval.runs.rows import Row

# Three cells, stored one after the other. "whole" stores and resumes as it should; "careless" takes whatever is in its
# file for finished; "random" has other values at each run.
PROGRAM = """
import sys, time
from pathlib import Path
behaviour, out = sys.argv[1], Path(sys.argv[2])
from fwpkm_eval.runs.rows import FIELDS, Row, read_rows_csv, write_rows_csv
out.mkdir(parents=True, exist_ok=True)
path = out / "rows.csv"
if behaviour == "careless":
    if not path.exists():
        with path.open("w") as file:
            file.write(",".join(FIELDS) + "\\n")
            for number in range(3):
                file.write("gdn" + "," * 5 + str(number / 3) + "," * (len(FIELDS) - 6) + "\\n")
                file.flush()
                time.sleep(0.1)
else:
    for number in range(3):
        time.sleep(0.1)
        value = number / 3 if behaviour == "whole" else time.time()
        done = read_rows_csv(path) if path.exists() else []
        if len(done) <= number:
            write_rows_csv([*done, Row(model="gdn", value=value, seconds=time.time())], path)
"""


def program(folder: Path, behaviour: str) -> Command:
    script = folder / "program.py"
    script.write_text(PROGRAM)
    return lambda out: [sys.executable, str(script), behaviour, str(out)]


def test_a_run_that_keeps_what_it_has_survives_every_kill(tmp_path: Path) -> None:
    lines: list[str] = []
    result = kill_trials(program(tmp_path, "whole"), tmp_path, 4, 0, lines.append)
    assert (result.tried, result.survived, result.lost, result.added) == (4, 4, 0, 0)
    assert result.killed >= 1  # the others had ended: on a busy machine the first run, which sets the times, is slowest
    assert lines[-1] == "kills survived: 4 of 4"
    assert Findings("", kills=result).sound


def test_a_run_that_loses_rows_when_killed_is_found_out(tmp_path: Path) -> None:
    result = kill_trials(program(tmp_path, "careless"), tmp_path, 6, 0)
    assert result.survived < result.tried
    assert result.lost > 0
    assert len(result.failures) == result.tried - result.survived
    assert not Findings("", kills=result).sound
    assert "## Kills not survived" in as_markdown(Findings("", kills=result))


@pytest.mark.parametrize("left", [None, b"", b"model,scale\n", b"\xff\xfe"])
def test_rows_that_are_missing_or_damaged_are_none_and_nothing_is_held_against_none(
    tmp_path: Path, left: bytes | None
) -> None:
    if left is not None:
        (tmp_path / "rows.csv").write_bytes(left)
    assert values_of(tmp_path) == Counter()
    with pytest.raises(UserError, match="left no rows that others could be held against"):
        expected_of(tmp_path)


@pytest.mark.parametrize(("behaviour", "differing"), [("whole", 0), ("random", 3)])
def test_runs_that_differ_are_counted(tmp_path: Path, behaviour: str, differing: int) -> None:
    result = repeat(program(tmp_path, behaviour), tmp_path)
    assert (result.runs, result.rows, result.differing) == (4, 3, differing)
    assert Findings("", repetition=result).sound == (differing == 0)


def test_rows_are_compared_bit_for_bit() -> None:
    rows = Counter([Row(value=0.1 + 0.2), Row(value=math.nan)])
    assert compare(rows, Counter([Row(value=math.nan), Row(value=0.1 + 0.2)])).none
    changed = compare(rows, Counter([Row(value=math.nan), Row(value=0.3)]))
    assert (changed.lost, changed.added) == (1, 1)


def test_an_input_that_is_taken_or_ends_in_a_traceback_is_not_as_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_name = {case.name: case for case in damage.CASES}
    chosen = (
        by_name["a pickle in the place of a checkpoint"],
        Case("a fine run, said to be refused", "refused", lambda folder: ["env"]),
        Case("a command that does not exist and what it says is fine", "refused", lambda folder: ["no-such-command"]),
        Case("a command that fails, said to be repaired", "repaired", lambda folder: ["no-such-command"]),
    )
    monkeypatch.setattr(damage, "CASES", chosen)
    verdicts = try_all(tmp_path, api.find_checkpoint("gdn+swa"))
    assert [verdict.passed for verdict in verdicts] == [True, False, True, False]


def test_the_table_says_what_was_found() -> None:
    case = Case("a cell cut short", "repaired", lambda folder: [])
    found = Findings(
        "fwpkm-eval soak",
        kills=Kills(tried=50, killed=47, survived=50),
        verdicts=[Verdict(case, True, "")],
        repetition=Repetition(4, 120, 0, 10.0, 5.0),
        long=[LongReading("gdn", 2**20, "1024", 2**31, 12345.6, 0.0)],
    )
    text = as_markdown(found)
    assert "| 50 / 50 |" in text
    assert "| rows lost, rows changed | 0, 0 |" in text
    assert "| 1 / 1 |" in text
    assert "differ from the first in any of 120 rows | 0 of 3 |" in text
    assert "| 2.00 |" in text
    assert "1M-token haystack, `gdn`" in text
    assert "2.00 GiB, 12,346" in text
    assert found.sound


def test_unknown_parts_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["soak", "--only", "kils"]) == 2
    assert "did you mean kills" in capsys.readouterr().err
