"""How to run it again: the command of the whole run, and one for each part of it, from its rows and manifest."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fwpkm_eval.reporting import wording
from fwpkm_eval.reporting.command_text import Run, fact_of, line_of, listed, number_text, size_text, unless
from fwpkm_eval.reporting.fact import Fact
from fwpkm_eval.reporting.measurements import GUESS, chunk_order, ordered, writes
from fwpkm_eval.runs.rows import FROZEN, arm_without_yarn

if TYPE_CHECKING:
    import pandas

_CAPACITY_ARM = re.compile(r"S (\d+), dv (\d+)")


def commands(frame: pandas.DataFrame, manifest: Mapping[str, Any] | None) -> list[Fact]:
    """The command of the whole run, one for each task measured, and the one that makes the report.

    Settings are those of the rows; what rows do not hold is taken from the manifest where the run was made by that
    command alone, and is otherwise as the command has it.
    """
    run = Run.from_manifest(frame, manifest)
    found = []
    if manifest and manifest.get("command"):
        found.append(Fact("All of it", str(manifest["command"])))
    for part in (_needles, _perplexity, _inside, _cost, _trace, _continual, _longbench, _ablation, _capacity, _bench):
        found += part(run)
    found.append(Fact("This page, its tables and plots, from the rows in DIR", "fwpkm-eval report DIR"))
    return found


def _needles(run: Run) -> list[Fact]:
    """One command for each way of asking. What was asked alike shares one, and so do models that never write: theirs
    are the same answers for every way of writing."""
    rows = run.rows("niah", "exact_match")
    rows = rows[rows["depth"].isna() & (rows["model"] != GUESS)].dropna(subset=["length", "passes", "needles", "n"])
    asked: dict[tuple[str, ...], dict[str, dict[str, set[str]]]] = defaultdict(dict)
    for row in rows.to_dict("records"):
        place = tuple(str(row[name]) for name in ("needles", "length", "n", "dataset", "scope"))
        of_model = asked[place].setdefault(str(row["model"]), defaultdict(set))
        for name in ("passes", "write_chunk", "protocol"):
            of_model[name].add(str(row[name]))
    own = run.settings("niah")
    depths = own.get("depths")
    found = []
    for (needles, length, samples, dataset, scope), models in asked.items():
        groups = _asked_alike(models)
        for of_group, way in groups:
            size, chunks = wording.size(int(length)), sorted(way["write_chunk"], key=chunk_order)
            options = {
                "lengths": size,
                "needles": needles,
                "passes": ",".join(sorted(way["passes"], key=int)),
                "samples": samples,
                "write-chunk": ",".join(chunks),
                "protocol": sorted(way["protocol"], reverse=True),
                "scope": "" if scope == "sample" else scope,
                "haystack": dataset,
                "depths": ",".join(map(str, depths)) if depths else "",
                "key-length": unless(own.get("key_length"), 4),
                "value-length": unless(own.get("value_length"), 6),
            }
            name = f"{needles} needles at {size}"
            if len(groups) > 1:
                name += f", {wording.listing([wording.writing(chunk) for chunk in chunks])}"
            found.append(fact_of(run, name, "niah", of_group, "niah", options))
    return found


def _asked_alike(models: Mapping[str, Mapping[str, set[str]]]) -> list[tuple[list[str], Mapping[str, set[str]]]]:
    """Models with the same readings, write chunks and protocols together; those that never write with any of them."""

    def way(model: str, *names: str) -> tuple[frozenset[str], ...]:
        return tuple(frozenset(models[model][name]) for name in names)

    found: dict[tuple[frozenset[str], ...], list[str]] = defaultdict(list)
    for model in filter(writes, ordered(models)):
        found[way(model, "passes", "protocol", "write_chunk")].append(model)
    # The group with most ways of writing first: it is the one that models without memory are asked with.
    order = sorted(found, key=lambda key: -len(key[2]))
    groups = {key: found[key] for key in order}
    for model in ordered(models):
        if not writes(model):
            key = next((key for key in order if key[:2] == way(model, "passes", "protocol")), None)
            groups.setdefault(key or way(model, "passes", "protocol", "write_chunk"), []).append(model)
    return [(ordered(of_group), models[next(filter(writes, of_group), of_group[0])]) for of_group in groups.values()]


def _perplexity(run: Run) -> list[Fact]:
    own, rows = run.settings("ppl"), run.rows("ppl", "perplexity")
    found = []
    for (tokens, scope), of_size in rows.groupby(["tokens", "scope"], sort=False):
        sets, models = list(dict.fromkeys(of_size["dataset"])), list(of_size["model"])
        arms = set(of_size[of_size["model"].map(writes)]["arm"].map(arm_without_yarn))
        options = {
            "sets": ",".join(sets),
            "tokens": wording.size(int(own.get("tokens") or str(tokens))),
            "segment": size_text(own.get("segment")),
            "scope": unless(scope, "stream"),
            "frozen": "" if len(arms) != 1 else "only" if arms == {FROZEN} else "no",
            "write-chunk": size_text(own.get("write_chunk")),
        }
        found.append(fact_of(run, f"Perplexity on {', '.join(sets)}", "ppl", models, "ppl", options))
    return found


def _inside(run: Run) -> list[Fact]:
    """Gates and addressing."""
    found = []
    for task in ("gates", "addressing"):
        rows, own = run.rows(task), run.settings(task)
        if rows.empty:
            continue
        options = {
            "sets": ",".join(dict.fromkeys(rows["dataset"])),
            "tokens": size_text(own.get("tokens") or rows["tokens"].max()),
            "write-chunk": size_text(own.get("write_chunk")),
        }
        found.append(fact_of(run, wording.sentence(task), task, rows["model"], task, options))
    return found


def _cost(run: Run) -> list[Fact]:
    rows, own = run.rows("cost"), run.settings("cost")
    if rows.empty:
        return []
    sets = [name for name in dict.fromkeys(rows["dataset"]) if name]
    reading = rows[rows["protocol"] == "reading"]
    options = {
        "sets": ",".join(sets[:1]),
        "tokens": size_text(own.get("tokens") or reading["tokens"].max()),
        "segment": size_text(rows["length"].max()),
        "steps": number_text(own.get("steps")),
    }
    return [fact_of(run, "Cost", "cost", rows["model"], "cost", options)]


def _trace(run: Run) -> list[Fact]:
    rows, own = run.rows("trace"), run.settings("trace")
    ways = ["dataset", "length", "needles", "passes", "write_chunk", "protocol"]
    found = []
    for (dataset, length, needles, passes, chunk, protocol), of_way in rows.groupby(ways, sort=False):
        options = {
            "length": size_text(length),
            "needles": str(needles),
            "passes": str(passes),
            "write-chunk": chunk,
            "protocol": protocol,
            "sample": ",".join(map(str, own.get("samples") or ())),
            "haystack": dataset,
        }
        found.append(fact_of(run, "Slot traces", "trace", of_way["model"], "trace", options))
    return found


def _continual(run: Run) -> list[Fact]:
    rows, own = run.rows("continual"), run.settings("continual")
    if rows.empty:
        return []
    options = {
        "domains": ",".join(dict.fromkeys(rows["dataset"])),
        "adapt": size_text(rows["length"].max()),
        "test": size_text(own.get("test")),
        "segment": size_text(own.get("segment")),
        "write-chunk": size_text(own.get("write_chunk")),
        "test-writes": bool(own.get("test_writes")),
    }
    return [fact_of(run, "Domains one after the other", "continual", rows["model"], "continual", options)]


def _longbench(run: Run) -> list[Fact]:
    rows, own = run.rows("longbench"), run.settings("longbench")
    if rows.empty:
        return []
    chunks = [chunk for chunk in dict.fromkeys(rows["write_chunk"]) if chunk]
    options = {
        "sets": ",".join(dict.fromkeys(rows["dataset"])),
        "passes": ",".join(str(count) for count in sorted(set(rows["passes"].dropna()))),
        "write-chunk": chunks[0] if chunks else "",
        "protocol": [name for name in dict.fromkeys(rows["protocol"]) if name],
        "questions": number_text(own.get("questions")),
        "max-context": size_text(own.get("max_context")),
    }
    return [fact_of(run, "Questions about long texts", "longbench", rows["model"], "longbench", options)]


def _ablation(run: Run) -> list[Fact]:
    from fwpkm_eval.ablations import REFERENCE, AblationPlan

    found, own = [], run.settings("ablate")
    for model, rows in run.rows("ablation").groupby("model", sort=False):
        scores = list(dict.fromkeys(rows["score"]))
        arms = [arm for arm in dict.fromkeys(rows["arm"]) if arm != REFERENCE] or scores
        options = {
            "model": model,
            # A scoring whose reference alone was trained stands among the arms.
            "arms": ",".join(own.get("arms") or arms),
            "scores": ",".join(own.get("scores") or scores),
            "full": set(rows["protocol"].dropna()) - {""} == {"closed-book"},
            **_trained(rows),
            "needles": unless(listed(rows["needles"].dropna()), listed(AblationPlan.needles)),
            "tokens": size_text(rows[rows["metric"] == "bits_per_byte"]["tokens"].max()),
        }
        found.append(fact_of(run, "Ablation", "ablate", (), "ablation", options))
    return found


def _capacity(run: Run) -> list[Fact]:
    from fwpkm_eval.capacity import MemorySize
    from fwpkm_eval.reporting.tables_capacity import usual_size

    rows = run.rows("capacity")
    sizes = [MemorySize.of(arm) for arm in dict.fromkeys(rows["arm"]) if _CAPACITY_ARM.fullmatch(arm)]
    if not sizes:
        return []
    usual = usual_size(sizes)
    options = {
        "subkeys": listed(size.subkeys for size in sizes if size.value_dim == usual.value_dim),
        "value-dims": listed(size.value_dim for size in sizes if size.subkeys == usual.subkeys),
        "needles": listed(rows["needles"].dropna()),
        "score": str(rows["score"].iloc[0]),
        **_trained(rows),
    }
    return [fact_of(run, "Capacity", "capacity", (), "capacity", options)]


def _trained(rows: pandas.DataFrame) -> dict[str, Any]:
    """What commands share that train the models they measure."""
    asked = rows[rows["metric"] == "exact_match"]
    return {
        "seeds": str(rows["seed"].nunique()),
        "steps": number_text(rows[rows["metric"] == "dropped_steps"]["n"].max()),
        "length": size_text(asked["length"].max()),
        "samples": number_text(asked["n"].max()),
    }


def _bench(run: Run) -> list[Fact]:
    """One command for each size; the batch is the last part of a size's name."""
    found = []
    for name, rows in run.rows("bench").groupby("scale", sort=False):
        scale = str(name)
        own = run.settings("bench")
        models = [model for model in dict.fromkeys(rows["model"]) if model]
        operations = rows[rows["arm"].str.contains("/")]
        what = own.get("what") or [name for name, there in (("ops", len(operations)), ("models", len(models))) if there]
        batches = {match[1] for name in operations["dataset"] if (match := re.search(r"\bB (\d+)$", name))}
        calls = rows[rows["metric"].str.endswith("_seconds")]["n"].max()
        options = {
            "what": ",".join(what),
            "size": scale,
            "batch": unless(next(iter(batches), None), "1") if len(batches) < 2 else "",
            "models": ",".join(models),
            "length": size_text(own.get("length") or rows[rows["model"] != ""]["length"].max()) if models else "",
            "device": "cpu" if set(rows["device"]) == {"cpu"} else "",
            "threads": number_text(own.get("threads")),
            "repeats": number_text(calls),
            "scaling": bool((rows["metric"] == "seconds_per_token_forward").any()),
        }
        if scale:
            found.append(Fact(f"Speed, size {scale}", line_of("bench", options)))
    return found or ([Fact("Speed", line_of("bench", {"what": "ops"}))] if len(run.rows("bench")) else [])
