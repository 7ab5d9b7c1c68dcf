"""Groups of commands, one module each, imported when the command is used."""

from __future__ import annotations

from importlib import import_module

import click

__all__ = ["LazyGroup"]


class LazyGroup(click.Group):
    """A group whose commands are imported when they are used; help needs no import. *rows*: its commands."""

    rows: dict[str, tuple[str, str]]  # command, its module in pykernel.tools, what it does in a line

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of the table."""
        return list(self.rows)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now; None when there is no such command."""
        if cmd_name not in self.rows:
            return None
        command: click.Command = import_module(f"pykernel.tools.{self.rows[cmd_name][0]}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Names and lines from the table."""
        if self.rows:
            with formatter.section("Commands"):
                formatter.write_dl([(name, line) for name, (_, line) in self.rows.items()])
