"""The benchmark's command and the process of each measurement."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from bench_cases import SMALL, by_metric, double, here

from fwpkm_eval import cli, malloc
from fwpkm_eval.bench import ops, peers, run, session, worker
from fwpkm_eval.bench.ops import IN_PLACE, REFERENCE
from fwpkm_eval.bench.worker import MeasurementFailed
from fwpkm_eval.commands.measure import print_tables
from fwpkm_eval.kernels import closed_form
from fwpkm_eval.reporting.tables_speed import bench_tables
from fwpkm_eval.runs.rows import Row, read_rows_csv, rows_to_frame

pytestmark = pytest.mark.usefixtures("one_thread", "no_peer")


# --- the process of a measurement


def test_each_allocator_has_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, str]] = []

    def fake(*command: Any, env: dict[str, str], **options: Any) -> subprocess.CompletedProcess[str]:
        seen.append(env)
        return subprocess.CompletedProcess(command, 0, stdout="{}")

    monkeypatch.setattr(subprocess, "run", fake)
    monkeypatch.setenv("MALLOC_TOP_PAD_", "1")  # of whoever started us: not to be measured
    for allocator in worker.ALLOCATORS:
        worker.run_in_process_of_its_own({}, allocator)
    assert not set(malloc.tuned_environment()) & set(seen[0])
    assert malloc.tuned_environment().items() <= seen[1].items()


@pytest.mark.parametrize(
    ("end", "error", "message"),
    [
        (
            "os.kill(os.getpid(), 9)",
            MeasurementFailed,
            "measuring forward was killed by signal 9, most likely for want",
        ),
        ("sys.exit(1)", MeasurementFailed, "measuring forward ended with code 1"),
        ("raise KeyboardInterrupt", KeyboardInterrupt, None),
    ],
)
def test_a_killed_process_is_a_measurement_that_failed_but_an_interrupted_one_ends_all(
    end: str, error: type[BaseException], message: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_START", f"import os, sys; {end}")
    with pytest.raises(error, match=message):
        worker.run_in_process_of_its_own({"what": "forward"}, "default")


# --- the command


def in_this_process(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The command measures here, but the peer's layer not at all; returns what is measured as it is."""
    done: list[tuple[Any, ...]] = []

    def runner(job: Mapping[str, Any], allocator: str) -> dict[str, Any]:
        done.append((job["what"], job.get("arm") or job.get("backend"), allocator))
        return here({**job, "budget": 0.01}, allocator)

    monkeypatch.setattr(session, "run_in_process_of_its_own", runner)
    monkeypatch.setattr(peers, "peer_version", lambda: None)
    return done


def test_the_command_measures_stores_and_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ops, "op_size", lambda *asked: SMALL)
    in_this_process(monkeypatch)
    out = tmp_path / "bench"
    assert cli.main(["bench", "--repeats", "1", "--out", str(out)]) == 0
    shown = capsys.readouterr()
    assert "Largest relative error against the reference: scan/torch " in shown.out
    assert "check against the reference" in shown.err
    stored = read_rows_csv(out / "rows.csv")
    print_tables(bench_tables(rows_to_frame(stored)), notes=True)
    tables = capsys.readouterr().out
    assert tables in shown.out  # those of the report
    assert re.search(r"^training +scan/torch in place ", tables, re.MULTILINE)
    assert "Medians, in brackets the 10th and 90th percentiles" in tables
    assert re.search(r"^\d+ threads? of \d+ cores, ", shown.out.removesuffix(tables), re.MULTILINE)
    assert {row.task for row in stored} == {"bench"}
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["finished"]
    assert manifest["conditions"]["threads"] >= 1
    assert (out / "report.html").exists()
    assert cli.main(["bench", "--repeats", "1", "--scaling", "--out", str(out)]) == 2
    assert "holds another run" in capsys.readouterr().err
    assert read_rows_csv(out / "rows.csv") == stored


def test_a_command_that_is_stopped_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ops, "op_size", lambda *asked: SMALL)
    done = in_this_process(monkeypatch)
    measure, stop_after = session.run_in_process_of_its_own, 6

    def stopped(job: Mapping[str, Any], allocator: str) -> dict[str, Any]:
        if len(done) == stop_after:
            raise KeyboardInterrupt
        return measure(job, allocator)

    monkeypatch.setattr(session, "run_in_process_of_its_own", stopped)
    command = ["bench", "--repeats", "1", "--out", str(tmp_path / "bench")]
    assert cli.main(command) == 130
    first = list(done)
    assert [each[0] for each in first] == ["check", *["forward"] * 3, *["forward_backward"] * 2]
    stop_after = -1
    assert cli.main(command) == 0
    again = capsys.readouterr().err
    assert "[2/20] scan/reference, forward, default malloc: found finished" in again
    assert "[7/20] scan/reference, training, default malloc\n" in again
    assert len(done) == len(set(done)) == 20  # nothing was measured twice


def test_the_command_fails_if_an_arm_does_not_agree(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(closed_form, "write_scale", double(closed_form.write_scale))
    monkeypatch.setattr(ops, "op_size", lambda *asked: SMALL)
    in_this_process(monkeypatch)
    assert cli.main(["bench", "--repeats", "1", "--quiet", "--json"]) == 1
    shown = capsys.readouterr()
    timed = {row["arm"] for row in json.loads(shown.out) if row["metric"].endswith("seconds")}
    assert {arm for arm in timed if arm.startswith("scan/")} == {"scan/reference", "scan/reference, tuned malloc"}
    assert "scan/torch in place does not agree with the reference and was not timed: " in shown.err


def test_the_command_with_its_processes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    # Each starts Python and torch: these few show what there is to show.
    monkeypatch.setattr(run, "ALLOCATORS", ("default",))
    monkeypatch.setattr(run, "arms_on", lambda device: {arm.name: arm for arm in (REFERENCE, IN_PLACE)})
    assert cli.main(["bench", "--size", "micro", "--repeats", "1", "--threads", "1", "--quiet", "--json"]) == 0
    found = [Row.from_json(row) for row in json.loads(capsys.readouterr().out)]
    assert {row.scale for row in found} == {"micro"}
    assert {row.protocol for row in found} == {"threads 1"}
    assert all(row.value is not None and row.value >= 0 for row in found)
    mine, reference = by_metric(found, IN_PLACE.name), by_metric(found, REFERENCE.name)
    assert (mine["peak_bytes_forward"].value or 0) < (reference["peak_bytes_forward"].value or 0) / 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--what", "ops,modles"], "unknown benchmark 'modles', did you mean models?"),
        (["--what", "opps"], "unknown benchmark 'opps', did you mean ops?"),
        (["--size", "huge"], "unknown size 'huge'; valid: micro, paper"),
        (["--what", "models", "--models", "gdn:fwpm"], "did you mean fwpkm?"),
        (["--device", "cuda"], "device 'cuda' cannot be used"),
        (["--repeats", "0"], "0 is not in the range"),
    ],
)
def test_bad_options_are_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
