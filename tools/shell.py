"""``pykernel shell``: ``pykernel run`` with the user's shell."""

from __future__ import annotations

import sys

import click

from pykernel.tools.options import Setup, machine_options
from pykernel.tools.run import run_program, shell_name

__all__ = ["command"]


@click.command()
@machine_options
@click.option("--as", "as_user", metavar="USER", help="Be this user (name or uid) instead of root.")
@click.option("--trace", metavar="FILE", help="Write what the kernel does to FILE, JSON lines; - is stderr.")
@click.option("--dmesg", is_flag=True, help="Print the kernel's log to stderr at the end.")
@click.option("--persist", metavar="DIR", help="Keep mdevctl's definitions in DIR: it is at /etc/mdevctl.d.")
@click.pass_context
def command(
    ctx: click.Context, setup: Setup, as_user: str | None, trace: str | None, dmesg: bool, persist: str | None
) -> None:
    """
    Run your shell ($SHELL) against the emulated machine.

    \b
    Try:
      ls /sys/bus/dsa/devices
      echo dedicated > /sys/bus/dsa/devices/wq0.0/mode
      exit
    """
    shell = shell_name()
    if sys.stderr.isatty():
        click.echo(f"{shell} on the machine {setup.machine!r}; exit ends it", err=True)
    ctx.exit(run_program(setup, [shell], as_user=as_user, trace=trace, dmesg=dmesg, persist=persist))
