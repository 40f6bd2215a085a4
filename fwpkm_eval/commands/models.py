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
    "lact": "dense test-time training with Muon (LaCT), where fwpkm would stand",
}


@click.command(name="models")
@click.argument("names", nargs=-1, type=options.MODEL, metavar="[MODEL]...")
@options.scale
@options.as_json
def command(names: tuple[str, ...], scale: str, as_json: bool) -> None:
    """Show backbones, memories and scales, and the parameters of models at a scale.

    MODEL is a name such as gdn+swa:pkm@6+fwpkm@2,10; without any, each backbone is shown alone and with each
    memory at the scale's default layers. "Active" counts the parameters that one token touches; FLOPs are those of
    reading a token, in sequences of 4,096, with its share of the memory's writes. Models whose trained weights
    are shipped can be measured by their names; others are trained first (fwpkm-eval train).
    """
    from fwpkm_eval.api import shipped_checkpoint
    from fwpkm_eval.commands.text_table import aligned
    from fwpkm_eval.reference_models import count_parameters
    from fwpkm_eval.reference_models.config import SCALES, model_config
    from fwpkm_eval.reference_models.flops import flops_per_token

    wanted = names or [name for backbone in BACKBONES for name in (backbone, *_with_memories(backbone))]
    sizes = []
    for name in wanted:
        config = model_config(name, scale)
        total, active = count_parameters(config)
        flops = flops_per_token(config).total
        sizes.append(
            {
                "model": config.name,
                "parameters": total,
                "active": active,
                "flops_per_token": round(flops),
                "shipped": shipped_checkpoint(config.name, scale) is not None,
            }
        )
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
    header = (f"model at scale {scale}", "parameters", "active", "FLOPs per token", "trained weights")
    rows = [
        (
            size["model"],
            *(f"{size[name]:,}" for name in ("parameters", "active", "flops_per_token")),
            "shipped" if size["shipped"] else "",
        )
        for size in sizes
    ]
    click.echo(aligned(header, rows, right=header[1:4]))


def _with_memories(backbone: str) -> list[str]:
    return [f"{backbone}:{memory}" for memory in (*MEMORIES, "pkm+fwpkm")]
