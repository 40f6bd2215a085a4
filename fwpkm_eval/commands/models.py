"""``fwpkm-eval models``: what can be named, and how large it is."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fwpkm_eval.commands import options, sources
from fwpkm_eval.commands.text_table import aligned
from fwpkm_eval.reporting.model_facts import told

if TYPE_CHECKING:
    from fwpkm_eval.reference_models.config import ModelConfig

BACKBONES = {
    "gdn": "Gated DeltaNet in every layer",
    "gdn+swa": "three layers of Gated DeltaNet, then one of sliding-window attention, repeated",
    "gdn+fa": "three layers of Gated DeltaNet, then one of full attention, repeated",
    "fa": "full attention in every layer",
}
MEMORIES = {
    "pkm": "product-key memory, fixed after training, in place of a layer's MLP",
    "fwpkm": "fast-weight product-key memory, written while reading, before a layer's token mixer",
    "fwmlp": "fast-weight MLP, the dense baseline, where fwpkm would stand",
    "lact": "dense test-time training with Muon (LaCT), where fwpkm would stand",
}


@click.command(name="models")
@click.argument("models", nargs=-1, type=options.Parsed("model", sources.name_or_folder), metavar="[MODEL]...")
@options.scale
@options.as_json
def command(models: tuple[str | Path, ...], scale: str, as_json: bool) -> None:
    """Show backbones, memories and scales, and the parameters of models at a scale, or of trained ones.

    MODEL is a name such as gdn+swa:pkm@6+fwpkm@2,10; without any, each backbone is shown alone and with each
    memory at the scale's default layers. Or it is a folder that holds a checkpoint: what is unusual in it and how it
    was trained is told below the table. "Active" counts the parameters that one token touches; FLOPs are those of
    reading a token, in sequences of 4,096, with its share of the memory's writes. Models whose trained weights
    are shipped can be measured by their names; others are trained first (fwpkm-eval train).
    """
    from fwpkm_eval.reference_models.config import SCALES

    described = [_of_folder(model) if isinstance(model, Path) else _of_name(model, scale) for model in models]
    described = described or [
        _of_name(name, scale) for backbone in BACKBONES for name in (backbone, *_with_memories(backbone))
    ]
    if as_json:
        facts = {
            "backbones": BACKBONES,
            "memories": MEMORIES,
            "scales": list(SCALES),
            "scale": scale,
            "models": described,
        }
        click.echo(json.dumps(facts, indent=2))
        return
    if not any(isinstance(model, Path) for model in models):
        click.echo(aligned(("backbone", ""), list(BACKBONES.items())))
        click.echo("\n" + aligned(("memory", ""), list(MEMORIES.items())))
        click.echo(f"\nscales: {', '.join(SCALES)}\n")
    _print_sizes(described)
    for size in described:
        if "checkpoint" in size:
            click.echo(f"\n{size['checkpoint']}: {'; '.join(filter(None, told(size)))}")


def _print_sizes(described: Sequence[Mapping[str, Any]]) -> None:
    """A table for each scale, of the models in the order given."""
    for number, scale in enumerate(dict.fromkeys(size["scale"] for size in described)):
        header = (f"model at scale {scale}", "parameters", "active", "FLOPs per token", "trained weights")
        rows = [
            (
                size["model"],
                *(f"{size[name]:,}" for name in ("parameters", "active", "flops_per_token")),
                size.get("checkpoint") or ("shipped" if size["shipped"] else ""),
            )
            for size in described
            if size["scale"] == scale
        ]
        click.echo(("\n" if number else "") + aligned(header, rows, right=header[1:4]))


def _of_name(name: str, scale: str) -> dict[str, Any]:
    from fwpkm_eval.api import shipped_checkpoint
    from fwpkm_eval.reference_models.config import model_config

    config = model_config(name, scale)
    return _sizes(config) | {"shipped": shipped_checkpoint(config.name, scale) is not None}


def _of_folder(folder: Path) -> dict[str, Any]:
    from fwpkm_eval.runs.jobs import read_source
    from fwpkm_eval.runs.measured_models import SHIPPED, describe_model

    source = read_source(folder)
    entry = describe_model(source)
    return _sizes(source.config) | {**entry, "shipped": entry["checkpoint"] == SHIPPED, "checkpoint": str(folder)}


def _sizes(config: ModelConfig) -> dict[str, Any]:
    from fwpkm_eval.reference_models import count_parameters
    from fwpkm_eval.reference_models.flops import flops_per_token

    total, active = count_parameters(config)
    flops = round(flops_per_token(config).total)
    sizes = {"parameters": total, "active": active, "flops_per_token": flops}
    return {"model": config.name, "scale": config.scale, **sizes}


def _with_memories(backbone: str) -> list[str]:
    return [f"{backbone}:{memory}" for memory in (*MEMORIES, "pkm+fwpkm")]
