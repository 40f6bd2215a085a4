"""``fwpkm-eval models``: what can be named, and how large it is."""

from __future__ import annotations

import json

import click

from fwpkm_eval.commands import options

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
}


@click.command(name="models")
@click.argument("names", nargs=-1, type=options.MODEL, metavar="[MODEL]...")
@options.scale
@options.as_json
def command(names: tuple[str, ...], scale: str, as_json: bool) -> None:
    """Show backbones, memories and scales, and the parameters of models at a scale.

    MODEL is a name such as gdn+swa:pkm@6+fwpkm@2,10; without any, each backbone is shown alone and with each
    memory at the scale's default layers. "Active" counts the parameters that one token touches.
    """
    from fwpkm_eval.commands.text_table import aligned
    from fwpkm_eval.reference_models import count_parameters
    from fwpkm_eval.reference_models.config import SCALES, model_config

    wanted = names or [name for backbone in BACKBONES for name in (backbone, *_with_memories(backbone))]
    sizes = []
    for name in wanted:
        config = model_config(name, scale)
        total, active = count_parameters(config)
        sizes.append({"model": config.name, "parameters": total, "active": active})
    if as_json:
        facts = {
            "backbones": BACKBONES,
            "memories": MEMORIES,
            "scales": list(SCALES),
            "scale": scale,
            "models": sizes,
        }
        click.echo(json.dumps(facts, indent=2))
        return
    click.echo(aligned(("backbone", ""), list(BACKBONES.items())))
    click.echo("\n" + aligned(("memory", ""), list(MEMORIES.items())))
    click.echo(f"\nscales: {', '.join(SCALES)}\n")
    rows = [(size["model"], f"{size['parameters']:,}", f"{size['active']:,}") for size in sizes]
    header = (f"model at scale {scale}", "parameters", "active")
    click.echo(aligned(header, rows, right=("parameters", "active")))


def _with_memories(backbone: str) -> list[str]:
    return [f"{backbone}:{memory}" for memory in (*MEMORIES, "pkm+fwpkm")]
