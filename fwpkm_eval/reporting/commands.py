"""How to run it again: the command of the whole run, and one for each part of it, from its rows and manifest."""

from __future__ import annotations

import re
import shlex
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fwpkm_eval.reporting import wording
from fwpkm_eval.reporting.fact import Fact
from fwpkm_eval.reporting.measurements import FROZEN, GUESS, chunk_order, ordered, writes

if TYPE_CHECKING:
    import pandas

PLACE = "DIR"
"""Where a command puts its results: a new folder for each."""
_CAPACITY_ARM = re.compile(r"S (\d+), dv (\d+)")


@dataclass(frozen=True)
class _Run:
    """What commands are made from: all rows, and the settings that the manifest keeps of the run."""

    frame: pandas.DataFrame
    config: Mapping[str, Any]

    def rows(self, task: str, metric: str = "") -> pandas.DataFrame:
        """The rows of a task, or of one metric of it."""
        of_task = self.frame[self.frame["task"] == task]
        return of_task[of_task["metric"] == metric] if metric else of_task

    def settings(self, command: str) -> Mapping[str, Any]:
        """The manifest's settings if the run was made by this command alone."""
        return self.config if command in (self.config.get("command"), self.config.get("task")) else {}


def commands(frame: pandas.DataFrame, manifest: Mapping[str, Any] | None) -> list[Fact]:
    """The command of the whole run, one for each task measured, and the one that makes the report.

    Settings are those of the rows; what rows do not hold is taken from the manifest where the run was made by that
    command alone, and is otherwise as the command has it.
    """
    run = _Run(frame, dict((manifest or {}).get("config") or {}))
    found = []
    if manifest and manifest.get("command"):
        found.append(Fact("All of it", str(manifest["command"])))
    for part in (_needles, _perplexity, _inside, _cost, _trace, _continual, _longbench, _ablation, _capacity, _bench):
        found += part(run)
    found.append(Fact("This page, its tables and plots, from the rows in DIR", "fwpkm-eval report DIR"))
    return found


def _needles(run: _Run) -> list[Fact]:
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
                "key-length": _unless(own.get("key_length"), 4),
                "value-length": _unless(own.get("value_length"), 6),
            }
            name = f"{needles} needles at {size}"
            if len(groups) > 1:
                name += f", {wording.listing([wording.writing(chunk) for chunk in chunks])}"
            found.append(_fact(run, name, "niah", of_group, "niah", options))
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


def _perplexity(run: _Run) -> list[Fact]:
    own, rows = run.settings("ppl"), run.rows("ppl", "perplexity")
    found = []
    for (tokens, scope), of_size in rows.groupby(["tokens", "scope"], sort=False):
        sets, models = list(dict.fromkeys(of_size["dataset"])), list(of_size["model"])
        arms = set(of_size[of_size["model"].map(writes)]["arm"])
        options = {
            "sets": ",".join(sets),
            "tokens": wording.size(int(own.get("tokens") or str(tokens))),
            "segment": _size(own.get("segment")),
            "scope": _unless(scope, "stream"),
            "frozen": "" if len(arms) != 1 else "only" if arms == {FROZEN} else "no",
            "write-chunk": _size(own.get("write_chunk")),
        }
        found.append(_fact(run, f"Perplexity on {', '.join(sets)}", "ppl", models, "ppl", options))
    return found


def _inside(run: _Run) -> list[Fact]:
    """Gates and addressing."""
    found = []
    for task in ("gates", "addressing"):
        rows, own = run.rows(task), run.settings(task)
        if rows.empty:
            continue
        options = {
            "sets": ",".join(dict.fromkeys(rows["dataset"])),
            "tokens": _size(own.get("tokens") or rows["tokens"].max()),
            "write-chunk": _size(own.get("write_chunk")),
        }
        found.append(_fact(run, wording.sentence(task), task, rows["model"], task, options))
    return found


def _cost(run: _Run) -> list[Fact]:
    rows, own = run.rows("cost"), run.settings("cost")
    if rows.empty:
        return []
    sets = [name for name in dict.fromkeys(rows["dataset"]) if name]
    reading = rows[rows["protocol"] == "reading"]
    options = {
        "sets": ",".join(sets[:1]),
        "tokens": _size(own.get("tokens") or reading["tokens"].max()),
        "segment": _size(rows["length"].max()),
        "steps": _text(own.get("steps")),
    }
    return [_fact(run, "Cost", "cost", rows["model"], "cost", options)]


def _trace(run: _Run) -> list[Fact]:
    rows, own = run.rows("trace"), run.settings("trace")
    ways = ["dataset", "length", "needles", "passes", "write_chunk", "protocol"]
    found = []
    for (dataset, length, needles, passes, chunk, protocol), of_way in rows.groupby(ways, sort=False):
        options = {
            "length": _size(length),
            "needles": str(needles),
            "passes": str(passes),
            "write-chunk": chunk,
            "protocol": protocol,
            "sample": ",".join(map(str, own.get("samples") or ())),
            "haystack": dataset,
        }
        found.append(_fact(run, "Slot traces", "trace", of_way["model"], "trace", options))
    return found


def _continual(run: _Run) -> list[Fact]:
    rows, own = run.rows("continual"), run.settings("continual")
    if rows.empty:
        return []
    options = {
        "domains": ",".join(dict.fromkeys(rows["dataset"])),
        "adapt": _size(rows["length"].max()),
        "test": _size(own.get("test")),
        "segment": _size(own.get("segment")),
        "write-chunk": _size(own.get("write_chunk")),
        "test-writes": bool(own.get("test_writes")),
    }
    return [_fact(run, "Domains one after the other", "continual", rows["model"], "continual", options)]


def _longbench(run: _Run) -> list[Fact]:
    rows, own = run.rows("longbench"), run.settings("longbench")
    if rows.empty:
        return []
    chunks = [chunk for chunk in dict.fromkeys(rows["write_chunk"]) if chunk]
    options = {
        "sets": ",".join(dict.fromkeys(rows["dataset"])),
        "passes": ",".join(str(count) for count in sorted(set(rows["passes"].dropna()))),
        "write-chunk": chunks[0] if chunks else "",
        "protocol": [name for name in dict.fromkeys(rows["protocol"]) if name],
        "questions": _text(own.get("questions")),
        "max-context": _size(own.get("max_context")),
    }
    return [_fact(run, "Questions about long texts", "longbench", rows["model"], "longbench", options)]


def _ablation(run: _Run) -> list[Fact]:
    from fwpkm_eval.ablations import REFERENCE

    found = []
    for model, rows in run.rows("ablation").groupby("model", sort=False):
        arms = [arm for arm in dict.fromkeys(rows["arm"]) if arm != REFERENCE]
        scores = list(dict.fromkeys(rows["score"]))
        options = {
            "model": model,
            "arms": ",".join(arms or scores),
            "scores": ",".join(scores),
            **_trained(rows),
            "tokens": _size(rows[rows["metric"] == "bits_per_byte"]["tokens"].max()),
        }
        found.append(_fact(run, "Ablation", "ablate", (), "ablation", options))
    return found


def _capacity(run: _Run) -> list[Fact]:
    rows = run.rows("capacity")
    matches = [_CAPACITY_ARM.fullmatch(arm) for arm in dict.fromkeys(rows["arm"])]
    sizes = [(int(match[1]), int(match[2])) for match in matches if match]
    if not sizes:
        return []
    usual_subkeys, usual_width = (statistics.mode(values) for values in zip(*sizes, strict=True))
    options = {
        "subkeys": _listed(s for s, width in sizes if width == usual_width),
        "value-dims": _listed(width for s, width in sizes if s == usual_subkeys),
        "needles": _listed(rows["needles"].dropna()),
        "score": str(rows["score"].iloc[0]),
        **_trained(rows),
    }
    return [_fact(run, "Capacity", "capacity", (), "capacity", options)]


def _trained(rows: pandas.DataFrame) -> dict[str, Any]:
    """What commands share that train the models they measure."""
    asked = rows[rows["metric"] == "exact_match"]
    return {
        "seeds": str(rows["seed"].nunique()),
        "steps": _text(rows[rows["metric"] == "dropped_steps"]["n"].max()),
        "length": _size(asked["length"].max()),
        "samples": _text(asked["n"].max()),
    }


def _bench(run: _Run) -> list[Fact]:
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
            "batch": _unless(next(iter(batches), None), "1") if len(batches) < 2 else "",
            "models": ",".join(models),
            "length": _size(own.get("length") or rows[rows["model"] != ""]["length"].max()) if models else "",
            "device": "cpu" if set(rows["device"]) == {"cpu"} else "",
            "threads": _text(own.get("threads")),
            "repeats": _text(calls),
            "scaling": bool((rows["metric"] == "seconds_per_token_forward").any()),
        }
        if scale:
            found.append(Fact(f"Speed, size {scale}", _line("bench", options)))
    return found or ([Fact("Speed", _line("bench", {"what": "ops"}))] if len(run.rows("bench")) else [])


def _fact(run: _Run, name: str, command: str, models: Iterable[str], task: str, options: Mapping[str, Any]) -> Fact:
    """A command with what all share: models, scale, text, type and the first seed; further seeds are named."""
    rows = run.rows(task)
    named = [model for model in ordered(models) if model not in ("", GUESS)]
    rows = rows[rows["model"].isin(named)] if named else rows
    scales, types = sorted(set(rows["scale"]) - {""}), sorted(set(rows["dtype"]) - {""})
    seeds = sorted({int(seed) for seed in rows["seed"].dropna()})
    data = str(run.config.get("data", "embedded"))
    line = _line(
        command,
        {
            "models": ",".join(named),
            "scale": scales[0] if len(scales) == 1 else "",
            **options,
            "data": _unless(data, "embedded"),
            "dtype": _unless(types[0], "float32") if len(types) == 1 else "",
            "seed": _unless(str(seeds[0]), "0") if seeds else "",
        },
    )
    if len(seeds) > 1 and "seeds" not in options:
        name += f" (again with --seed {wording.listing([str(seed) for seed in seeds[1:]])})"
    return Fact(name, line)


def _line(command: str, options: Mapping[str, Any]) -> str:
    """The command: options without a value are left out, True is a flag, a list an option given several times."""
    words = ["fwpkm-eval", command]
    for name, value in options.items():
        if value is True:
            words.append(f"--{name}")
        elif value:
            for each in [value] if isinstance(value, (str, int)) else value:
                words += [f"--{name}", str(each)]
    return shlex.join([*words, "--out", PLACE])


def _size(value: Any) -> str:
    return "" if _absent(value) else wording.size(int(value))


def _text(value: Any) -> str:
    return "" if _absent(value) else str(int(value))


def _absent(value: Any) -> bool:
    import pandas

    return value is None or bool(pandas.isna(value))


def _unless(value: Any, default: Any) -> str:
    """The value in text, nothing where it is what the command has anyway."""
    return "" if value is None or value == default else str(value)


def _listed(numbers: Iterable[Any]) -> str:
    return ",".join(str(number) for number in sorted({int(number) for number in numbers}))
