"""``pykernel demo``: things to watch. Without a name, the first tour; each other is a module of its own."""

from __future__ import annotations

from importlib import import_module

import click

from pykernel.tools.lazy import LazyGroup

__all__ = ["DEMOS", "command"]

# demo, what it shows in a line; the module has its name
DEMOS: dict[str, str] = {
    "enqcmd": "One ENQCMD of a guest's process, step by step to the device and back; --break takes a step away.",
    "scalability": "One accelerator for 1 to 1,000 clients: queues of their own against a shared one.",
}


class Demos(LazyGroup):
    """The demos, imported when they are used."""

    rows = {name: (f"demo.{name}", line) for name, line in DEMOS.items()}


@click.group(cls=Demos, invoke_without_command=True)
@click.option("-p", "--profile", default="linux-6.1", metavar="NAME", show_default=True, help="Which kernel.")
@click.pass_context
def command(ctx: click.Context, profile: str) -> None:
    """Configure a work queue, copy memory with it, and show how to test that."""
    if ctx.invoked_subcommand is None:
        import_module("pykernel.tools.demo.tour").tour(profile)
