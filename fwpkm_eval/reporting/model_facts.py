"""What a manifest knows of the models that were measured, in words: their weights, settings and training."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from fwpkm_eval.reporting.fact import Fact
from fwpkm_eval.runs.manifest import as_mapping

USUAL = "in place of"


def model_facts(manifest: Mapping[str, Any] | None) -> list[Fact]:
    """A line for each model whose weights the manifest names; those of older versions name the weights alone."""
    manifest = manifest or {}
    described = as_mapping(manifest.get("models"))
    weights = {**dict.fromkeys(described, ""), **as_mapping(manifest.get("weights"))}
    return [
        Fact(name, "; ".join(filter(None, (str(of_model), *_described(as_mapping(described.get(name)))))))
        for name, of_model in sorted(weights.items())
    ]


def unusual(entry: Mapping[str, Any], most: int | None = None) -> str:
    """In what a model (an entry of ``models``) and its training are not as its scale's: ``fwpkm.topk 32 in place of
    8``; nothing if they are. ``most``: so many are named, and the rest counted."""
    settings, recipe = as_mapping(entry.get("settings")), as_mapping(as_mapping(entry.get("training")).get("recipe"))
    found = [*_differences(settings.items()), *_differences(recipe.items())]
    more = [] if most is None or len(found) <= most else [f"and {len(found) - most} more that manifest.json names"]
    return ", ".join(found[:most] + more)


def told(entry: Mapping[str, Any]) -> list[str]:
    """In what a model and its training are unusual, and how it was trained; each empty where nothing is known."""
    return [unusual(entry), _trained(as_mapping(entry.get("training")))]


def _described(entry: Mapping[str, Any]) -> list[str]:
    return [str(entry.get("checkpoint") or ""), *told(entry)] if entry else []


def _trained(training: Mapping[str, Any]) -> str:
    """``trained for 3,300 steps (6,758,400 tokens) on source and docs (embedded), seed 0, by version 0.9.0``."""
    parts = []
    steps, tokens, sets = training.get("steps"), training.get("tokens"), training.get("sets")
    if isinstance(steps, int):
        parts.append(f"for {steps:,} steps" + (f" ({tokens:,} tokens)" if isinstance(tokens, int) else ""))
    if isinstance(sets, list) and sets:
        parts.append(f"on {', '.join(map(str, sets))}" + (f" ({training['data']})" if training.get("data") else ""))
    parts += [
        f"{word} {training[name]}" for name, word in (("seed", "seed"), ("version", "version")) if name in training
    ]
    return f"trained {', '.join(parts)}" if parts else ""


def _differences(settings: Iterable[tuple[str, Any]]) -> list[str]:
    return [
        f"{name} {_short(as_mapping(both).get('is'))} {USUAL} {_short(as_mapping(both).get('usual'))}"
        for name, both in settings
    ]


def _short(value: Any) -> str:
    return "none" if value is None or value == [] else value if isinstance(value, str) else json.dumps(value)
