"""``pykernel run -- COMMAND``: a program and its children against an emulated machine."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from pykernel.tools import stdio
from pykernel.tools.options import Fail, Setup, TraceFile, machine_options

if TYPE_CHECKING:
    from pykernel.kernel import Kernel

__all__ = ["command", "run_program"]

EXIT_IO = 74  # sysexits.h:EX_IOERR


def run_program(
    setup: Setup, argv: list[str], *, as_user: str | None, trace: str | None, dmesg: bool, persist: str | None
) -> int:
    """
    Boot, run *argv*, stop the machine; the exit status of the program, or 74 when it is 0 and a trace or log was lost.

    Raises:
        Fail: it could not be run; the sentence says why.
    """
    from pykernel.surfaces.process import RunError, run
    from pykernel.surfaces.process.run import EXIT_OOPS

    kernel = setup.boot(clock="monotonic")
    record = None if trace is None else TraceFile(kernel, trace)
    lost = []
    try:
        status = run(kernel, argv, as_user=as_user, persist=persist)
    except RunError as e:
        raise Fail(str(e), e.status) from e
    finally:
        lost += record.close() if record else []
        lost += _print_log(kernel) if dmesg else []
        for sentence in lost:
            stdio.complain(f"pykernel: {sentence}")
    if kernel.oopses:
        first = kernel.oopses[0]
        what = f"{type(first).__name__}: {first}"
        stdio.complain(f"pykernel: a bug in kernel code ({what}); --dmesg has its stack")
        return status or EXIT_OOPS  # also when it happened while the devices came up
    return status or (EXIT_IO if lost else 0)


def _print_log(kernel: Kernel) -> list[str]:
    try:
        sys.stderr.write(kernel.log.human(colors=sys.stderr.isatty()))
        sys.stderr.flush()
    except OSError as e:
        stdio.drop(2)
        return [f"{stdio.STDERR}: {e.strerror}; the log is incomplete"]
    return []


@click.command(context_settings={"allow_interspersed_args": False})
@machine_options
@click.option("--as", "as_user", metavar="USER", help="The client is this user (name or uid) instead of root.")
@click.option("--trace", metavar="FILE", help="Write what the kernel does to FILE, JSON lines; - is stderr.")
@click.option("--dmesg", is_flag=True, help="Print the kernel's log to stderr at the end.")
@click.option("--persist", metavar="DIR", help="Keep mdevctl's definitions in DIR: it is at /etc/mdevctl.d.")
@click.argument("argv", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- CMD...")
@click.pass_context
def command(
    ctx: click.Context,
    setup: Setup,
    as_user: str | None,
    trace: str | None,
    dmesg: bool,
    persist: str | None,
    argv: tuple[str, ...],
) -> None:
    """
    Run a program, unmodified, against the emulated machine.

    The program and its children see the emulated /sys and /dev; the exit status is the program's.

    \b
    Examples:
      pykernel run -- accel-config list -i
      pykernel run --machine dsa --profile linux-6.12 -- ls /sys/bus/dsa/devices/wq0.0
      pykernel run --as nobody -- cat /sys/bus/dsa/devices/dsa0/state
      pykernel run --machine mdev --persist ./defs -- mdevctl types
      pykernel run --trace t.jsonl --dmesg -- pytest tests/
    """
    ctx.exit(run_program(setup, list(argv), as_user=as_user, trace=trace, dmesg=dmesg, persist=persist))


def shell_name() -> str:
    """The user's shell."""
    return os.environ.get("SHELL") or "/bin/sh"
