"""``pykernel dmesg``: what a kernel says while it brings its devices up."""

from __future__ import annotations

import sys

import click

from pykernel.tools.options import Setup, machine_options

__all__ = ["command"]


@click.command()
@machine_options
@click.pass_context
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def command(ctx: click.Context, setup: Setup, as_json: bool) -> None:
    """
    Boot a machine, bring its devices up and print the kernel's log; the exit status is 70 when it has an oops.

    \b
    Examples:
      pykernel dmesg --machine dsa
      pykernel dmesg --modprobe "idxd sva=0" --json
    """
    from pykernel.surfaces.process.run import EXIT_OOPS

    kernel = setup.boot()
    kernel.up()
    click.echo(kernel.log.json() if as_json else kernel.log.human(colors=sys.stdout.isatty()), nl=False)
    if kernel.oopses:
        ctx.exit(EXIT_OOPS)
