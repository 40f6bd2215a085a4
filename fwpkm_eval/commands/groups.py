"""Groups of commands that say what there is where a command is not."""

from __future__ import annotations

import click

from fwpkm_eval.errors import did_you_mean


class ListingGroup(click.Group):
    """A group that answers an unknown command with the nearest one and all there are."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        known = self.list_commands(ctx)
        if args[0] not in known and not args[0].startswith("-"):
            hint = did_you_mean(args[0], known) or ";"
            raise click.UsageError(f"no command {args[0]!r}{hint} valid: {', '.join(known)}", ctx)
        return super().resolve_command(ctx, args)
