"""What the report says in words about ablations and speed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fwpkm_eval.reporting.summary import summarise
from fwpkm_eval.reporting.summary_ablation import ablation_findings
from fwpkm_eval.reporting.summary_speed import speed_findings
from fwpkm_eval.reporting.tables_ablation import ablation_tables
from fwpkm_eval.runs.rows import Row, rows_to_frame


def rows_of(arm: str, score: str, found: list[float], bits: list[float]) -> list[Row]:
    common: dict[str, Any] = {"task": "ablation", "model": "gdn+swa:fwpkm@2", "arm": arm, "score": score}
    way: dict[str, Any] = {"needles": 64, "write_chunk": "haystack", "passes": 1, "length": 4096}
    rows = [Row(metric="exact_match", value=value, seed=seed, **common, **way) for seed, value in enumerate(found)]
    return rows + [Row(metric="bits_per_byte", value=value, seed=seed, **common) for seed, value in enumerate(bits)]


def said(rows: list[Row]) -> list[tuple[str, str]]:
    return [(finding.verdict, finding.text) for finding in ablation_findings(rows_to_frame(rows))]


def test_the_worst_arm_comes_first_and_what_the_seeds_hide_is_called_so() -> None:
    rows = [
        *rows_of("reference", "idw", [0.60, 0.62, 0.61], [3.0, 3.1, 3.05]),
        *rows_of("no-lookahead", "idw", [0.0, 0.0, 0.01], [3.0, 3.2, 3.0]),
        *rows_of("no-gate", "idw", [0.50, 0.51, 0.50], [3.1, 3.0, 3.1]),
        *rows_of("no-entropy", "idw", [0.70, 0.50, 0.63], [2.0, 2.1, 2.05]),
        *rows_of("top32", "idw", [0.80, 0.82, 0.81], [3.5, 3.6, 3.55]),
        *rows_of("frozen", "idw", [0.0, 0.0, 0.0], [3.3, 3.4, 3.35]),
    ]
    (needles, bits) = said(rows)
    assert needles[0] == "found"
    assert "64 needles at 4K, scoring idw: hurt by frozen (−61 points" in needles[1]
    assert needles[1].index("no-lookahead") < needles[1].index("no-gate") < needles[1].index("better with top32")
    assert "within the seeds' spread: no-entropy." in needles[1]
    assert "no-lookahead (−61 points" in needles[1]
    assert "hurt by top32 (+0.500" in bits[1]
    assert "better with no-entropy (−1.000" in bits[1]


def test_a_clear_gain_is_found_and_only_what_the_seeds_hide_is_unclear() -> None:
    reference = rows_of("reference", "idw", [0.60, 0.62, 0.61], [3.0, 3.1, 3.05])
    better = rows_of("top32", "idw", [0.80, 0.82, 0.81], [3.0, 3.2, 3.0])
    ((needles, text), (bits, _)) = said([*reference, *better])
    assert (needles, bits) == ("found", "unclear")
    assert "better with top32 (+20 points" in text


def test_where_nothing_is_found_no_part_is_missed() -> None:
    reference = rows_of("reference", "idw", [0.0, 0.0], [3.0, 3.1])
    arms = [rows_of("no-lookahead", "idw", [0.0, 0.0], [3.1, 3.2]), rows_of("frozen", "idw", [0.0, 0.0], [3.1, 3.2])]
    needles, bits = said([*reference, *arms[0], *arms[1]])
    assert needles[0] == "unclear"
    assert "scoring idw: neither the reference nor no-lookahead and frozen finds any, so" in needles[1]
    assert "no-lookahead" in bits[1]
    (table, *_) = ablation_tables(rows_to_frame([*reference, *arms[0]]))
    assert [cell.text for cell in table.rows[1]] == [
        "no-lookahead",
        "0% (0–0)",
        "0 points (0 to 0)",
        "neither finds any",
    ]
    needles, _ = said([*reference, *arms[0], *rows_of("top32", "idw", [0.5, 0.6], [3.0, 3.1])])
    assert "finding none, as the reference: no-lookahead" in needles[1]


def test_seeds_of_an_ablation_are_not_taken_for_those_of_the_needles() -> None:
    way: dict[str, Any] = {"model": "gdn", "length": 4096, "needles": 5, "passes": 1, "write_chunk": "haystack"}
    needles = Row(task="niah", metric="exact_match", value=0.5, n=4, seed=7, unit="fraction", **way)
    rows = [needles, *rows_of("reference", "idw", [0.6, 0.7], [3.0, 3.1])]
    texts = [finding.text for finding in summarise(rows_to_frame(rows))["How sure is this?"]]
    assert "Measured with one seed (7)." in texts
    assert "The models of the ablation were trained and measured with 2 seeds." in texts


def test_one_seed_is_told_as_one_and_finds_nothing() -> None:
    rows = [*rows_of("reference", "idw", [0.6], [3.0]), *rows_of("reference", "dot", [0.7], [3.0])]
    rows += [*rows_of("top32", "idw", [0.8], [2.9]), *rows_of("no-gate", "idw", [0.1], [3.3])]
    needles, bits, scorings = said(rows)
    assert {needles[0], bits[0], scorings[0]} == {"unclear", "note"}
    assert needles[1].endswith("(one training each, so no interval): no-gate −50 points and top32 +20 points.")
    assert bits[1].endswith("no-gate +0.300 and top32 −0.100.")
    assert "64 needles at 4K: +10 points (one training each, so no interval); bits" in scorings[1]
    assert "–" not in scorings[1].replace("−", "")


def test_how_needles_were_asked_is_told() -> None:
    rows = [*rows_of("reference", "idw", [0.6, 0.5], [3.0, 3.1]), *rows_of("no-gate", "idw", [0.1, 0.2], [3.3, 3.2])]
    asked = [replace(row, protocol="closed-book") if row.needles else row for row in rows]
    assert "64 needles at 4K, closed book, scoring idw" in said(asked)[0][1]


def test_the_scorings_are_held_against_each_other() -> None:
    rows = [
        *rows_of("reference", "idw", [0.60, 0.62, 0.61], [3.0, 3.1, 3.05]),
        *rows_of("reference", "dot", [0.80, 0.82, 0.81], [3.0, 3.2, 3.0]),
    ]
    ((verdict, text),) = said(rows)
    assert verdict == "note"
    assert text.startswith("Dot-product scoring against inverse distances: 64 needles at 4K: +20 points")
    assert "better; bits per byte" in text
    assert "within the seeds' spread" in text


def test_the_cost_of_a_memory_is_told_against_its_backbone() -> None:
    def rows_for(model: str, parameters: float, speed: float) -> list[Row]:
        common = {"task": "cost", "model": model, "length": 4096}
        return [
            Row(metric="parameters", value=parameters, **common),  # type: ignore[arg-type]
            Row(metric="active_parameters", value=100, **common),  # type: ignore[arg-type]
            Row(metric="flops_per_token", value=200, **common),  # type: ignore[arg-type]
            Row(metric="samples_per_second", protocol="reading", value=speed, **common),  # type: ignore[arg-type]
            Row(metric="samples_per_second", protocol="training", value=speed / 2, **common),  # type: ignore[arg-type]
        ]

    rows = [*rows_for("gdn", 100, 4.0), *rows_for("gdn:fwpkm@2", 1000, 3.0)]
    (finding,) = speed_findings(rows_to_frame(rows))
    assert finding.text == (
        "gdn:fwpkm@2 against its backbone alone: 10× the parameters (those active for a token: 0.0%); 0.0% FLOPs per "
        "token; reads at 75% and trains at 75% of its speed."
    )


def test_speed_in_a_few_sentences() -> None:
    def row(arm: str, metric: str, value: float) -> Row:
        return Row(task="bench", arm=arm, metric=metric, value=value, unit="ratio", backend="torch", scale="paper")

    rows = [
        row("scan/torch in place", "speedup_forward", 89),
        row("scan/torch in place", "speedup_training", 60),
        row("read/torch", "speedup_forward", 12),
        row("write/torch", "speedup_forward", 62),
        row("layer/fwpkm_eval", "speedup_over_peer_forward", 40),
        Row(task="bench", model="gdn:fwpkm@2", metric="share_of_backbone_speed_training", value=0.94, device="cpu"),
    ]
    texts = [finding.text for finding in speed_findings(rows_to_frame(rows))]
    assert texts == [
        "The scan, backend torch in place: 89× forward and 60× in training the speed of the dense reference.",
        "Our layer is 40 times as fast as the peer package's (forward).",
        "One by one, forward, against the reference's: read 12× and write 62×.",
        "gdn:fwpkm@2 trains at 94% of the speed of its backbone (cpu).",
    ]
