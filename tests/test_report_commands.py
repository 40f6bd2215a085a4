"""Commands that a report shows: they parse, and ask for what the rows say was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from command_lines import parse

from fwpkm_eval.api import shipped_weights
from fwpkm_eval.reporting.commands import commands
from fwpkm_eval.runs.manifest import load_manifest
from fwpkm_eval.runs.rows import Row, read_rows_csv, rows_to_frame

RESULTS = Path(__file__).parents[1] / "results"
PLAIN, FWMLP, FWPKM = "gdn+swa", "gdn+swa:fwmlp@1,3", "gdn+swa:fwpkm@1,3"
SIZE = "S 512, dk 512, dv 512, H 1, k 8, C 512, T 2048, B 4"


def made(rows: list[Row], **config: Any) -> dict[str, dict[str, Any]]:
    """Each command by its name, parsed."""
    found = commands(rows_to_frame(rows), {"config": config} if config else None)
    assert all("--out DIR" in fact.value for fact in found[:-1]), "without it no figure is drawn"
    assert found[-1].value == "fwpkm-eval report DIR"
    return {fact.name: parse(fact.value) for fact in found[:-1]}


def row(task: str, model: str = FWPKM, **fields: Any) -> Row:
    common: dict[str, Any] = {"scale": "micro", "seed": 0, "dtype": "float32", "device": "cpu"}
    return Row(**{**common, "task": task, "model": model, "value": 0.5, **fields})


def needle(model: str, chunk: str, passes: int = 1, **fields: Any) -> Row:
    asked: dict[str, Any] = {"metric": "exact_match", "length": 4096, "needles": 5, "n": 20, "dataset": "manual"}
    more = {"write_chunk": chunk, "passes": passes, "protocol": "closed-book", "scope": "sample"}
    return row("niah", model, **{**asked, **more, **fields})


@pytest.mark.parametrize("name", sorted(path.parent.name for path in RESULTS.glob("*/rows.csv")))
def test_commands_of_the_stored_runs_parse_and_none_is_missing(name: str) -> None:
    frame = rows_to_frame(read_rows_csv(RESULTS / name / "rows.csv"))
    found = commands(frame, load_manifest(RESULTS / name))
    for fact in found:
        parse(fact.value)
    shown = {fact.value.split()[1] for fact in found[1:]}
    names = {"ablation": "ablate"}
    assert {names.get(task, task) for task in set(frame["task"])} <= shown


def test_a_name_stands_for_the_weights_that_are_shipped_and_a_folder_for_others() -> None:
    shipped = str(shipped_weights(FWPKM, "micro"))
    for hashes, asked in (
        ([shipped], FWPKM),
        (["991d6cc8cc679f96"], Path("CHECKPOINTS/gdn-swa-fwpkm-1-3")),
        ([""], FWPKM),
    ):
        (found,) = made([needle(FWPKM, "1024", weights_hash=one) for one in hashes]).values()
        assert found["models"] == (asked,)
    two = [needle(FWPKM, "1024", weights_hash=one) for one in (shipped, "991d6cc8cc679f96")]
    (found,) = made(two).values()
    folder = "CHECKPOINTS/gdn-swa-fwpkm-1-3"
    assert found["models"] == (Path(f"{folder}-{shipped[:8]}"), Path(f"{folder}-991d6cc8"))
    (found,) = made([needle("gdn:pkm@2", "1024", weights_hash="aa")]).values()
    assert found["models"] == (Path("CHECKPOINTS/gdn-pkm-2"),)


def test_models_that_were_asked_otherwise_have_a_command_of_their_own() -> None:
    rows = [needle(FWPKM, chunk, passes) for chunk in ("haystack", "1024") for passes in (1, 2)]
    rows += [needle(PLAIN, chunk, passes) for chunk in ("haystack", "1024", "512") for passes in (1, 2)]
    rows += [needle(FWMLP, "1024", passes) for passes in (1, 2)]
    found = made(rows)
    both, often = found.values()
    assert list(found) == [
        "5 needles at 4K, one write per reading and a write every 1,024 tokens",
        "5 needles at 4K, a write every 1,024 tokens",
    ]
    assert (both["models"], both["write_chunks"]) == ((PLAIN, FWPKM), (("haystack", 1024),))
    assert (often["models"], often["write_chunks"]) == ((FWMLP,), ((1024,),))
    assert both["passes"] == (1, 2)
    assert both["haystack"] == "manual"


def test_settings_that_rows_do_not_hold_come_from_the_manifest_of_that_command_alone() -> None:
    rows = [needle(FWPKM, "1024"), needle(FWPKM, "1024", seed=7)]
    own = {"key_length": 8, "depths": [0.0, 0.5], "data": "corpora"}
    (found,) = made(rows, command="niah", **own).items()
    assert found[0] == "5 needles at 4K (again with --seed 7)"
    assert (found[1]["key_length"], found[1]["depths"], found[1]["data"]) == (8, (0.0, 0.5), "corpora")
    (other,) = made(rows, command="reproduce", key_length=8).values()
    assert other["key_length"] == 4


def test_every_task_has_its_command() -> None:
    trained: dict[str, Any] = {"model": "gdn+swa:fwpkm@2", "score": "dot", "seed": 3}
    rows = [
        row("ppl", metric="perplexity", dataset="docs", n=90, tokens=65536, scope="document"),
        row("gates", metric="gate_mean@1", dataset="docs", tokens=16384),
        row("addressing", metric="coverage@1", dataset="docs", tokens=8192),
        row("cost", metric="tokens_per_second", dataset="docs", tokens=16384, length=2048, protocol="reading"),
        row("trace", metric="consensus_accuracy", dataset="manual", length=4096, needles=3, passes=0,
            write_chunk="haystack", protocol="closed-book"),
        row("continual", metric="bits_per_byte", dataset="docs", length=32768, passes=0),
        row("longbench", metric="answer_perplexity", dataset="narrativeqa", passes=1, write_chunk="1024",
            protocol="closed-book"),
        row("ablation", metric="exact_match", arm="no-gate", length=4096, n=6, needles=5, **trained),
        row("ablation", metric="exact_match", arm="reference", length=4096, n=6, needles=5, **trained),
        row("capacity", metric="exact_match", arm="S 16, dv 64", needles=4, length=8192, n=12, **trained),
        row("capacity", metric="exact_match", arm="S 128, dv 64", needles=16, length=8192, n=12, **trained),
        row("capacity", metric="exact_match", arm="S 128, dv 32", needles=4, length=8192, n=12, **trained),
        row("bench", "", metric="forward_seconds", arm="scan/torch", dataset=SIZE, scale="paper", n=10),
        row("bench", "", metric="seconds_per_token_forward", arm="scan/torch in place", dataset=SIZE, scale="paper"),
        row("bench", "gdn", metric="parameters", scale="paper", length=1024),
    ]  # fmt: skip
    found = made(rows, command="reproduce")
    assert found["Perplexity on docs"]["tokens"] == 65536
    assert (found["Perplexity on docs"]["scope"], found["Perplexity on docs"]["frozen"]) == ("document", "no")
    assert (found["Gates"]["tokens"], found["Addressing"]["tokens"]) == (16384, 8192)
    assert (found["Cost"]["segment"], found["Cost"]["tokens"]) == (2048, 16384)
    trace = found["Slot traces"]
    assert (trace["needles"], trace["passes"], trace["protocol"]) == (3, 0, "closed-book")
    assert found["Domains one after the other"]["adapt"] == 32768
    assert found["Questions about long texts"]["passes"] == (1,)
    ablation, capacity, speed = found["Ablation"], found["Capacity"], found["Speed, size paper"]
    assert (ablation["arms"], ablation["scores"], ablation["seed"]) == (("no-gate",), ("dot",), 3)
    assert (capacity["subkeys"], capacity["value_dims"], capacity["needles"]) == ((16, 128), (32, 64), (4, 16))
    assert (speed["what"], speed["batch"], speed["repeats"], speed["scaling"]) == (("ops", "models"), 4, 10, True)
    assert (speed["models"], speed["length"]) == (("gdn",), 1024)


def test_an_ablation_is_trained_again_as_it_was() -> None:
    """In full or in short; and a scoring whose reference alone was trained does not train every arm."""
    asked: dict[str, Any] = {"metric": "exact_match", "length": 4096, "n": 20, "needles": 5}
    rows = [row("ablation", arm="no-gate", score="idw", protocol="closed-book", **asked)]
    rows += [row("ablation", arm="reference", score=score, protocol="closed-book", **asked) for score in ("idw", "dot")]
    own: dict[str, Any] = {"command": "ablate", "arms": ["dot", "no-gate"], "scores": ["idw"]}
    (full,) = made(rows, **own).values()
    assert (full["full"], full["arms"], full["scores"]) == (True, ("dot", "no-gate"), ("idw",))
    (short,) = made([row("ablation", arm="no-gate", score="idw", protocol="open-book", **asked)]).values()
    assert not short["full"]
