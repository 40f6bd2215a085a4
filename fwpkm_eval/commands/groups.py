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
        name, command, rest = super().resolve_command(ctx, args)
        if command is not None and not isinstance(command, click.Group):
            _refuse_lists_given_twice(click.Context(command, info_name=name, parent=ctx), rest)
        return name, command, rest


def _refuse_lists_given_twice(ctx: click.Context, args: list[str]) -> None:
    """Raises UsageError for an option that takes a list and comes again: the last would win, and drop the others."""
    from fwpkm_eval.commands.options import Parsed

    try:
        _, _, given = ctx.command.make_parser(ctx).parse_args(list(args))
    except click.UsageError:
        return  # the command itself says it
    for param in set(given):
        if isinstance(param.type, Parsed) and param.type.lists and not param.multiple and given.count(param) > 1:
            option = max(param.opts, key=len)
            raise click.UsageError(f"{option} is given {given.count(param)} times: give it once, with a list", ctx)
