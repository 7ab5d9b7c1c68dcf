"""
The command line: ``pykernel COMMAND``.

One module a command, imported when the command is used: ``pykernel run -- true`` pays for nothing that it
does not need.
Whatever goes wrong on the user's side is one sentence on stderr and an exit status that is not 0.
"""

from __future__ import annotations

import sys
from typing import Any, NoReturn

import click

from pykernel import __version__
from pykernel.tools import stdio
from pykernel.tools.lazy import LazyGroup

__all__ = ["COMMANDS", "cli", "main"]

EXAMPLES = """\b
Examples:
  pykernel demo                                  a first tour: configure a queue, copy memory with it
  pykernel demo enqcmd                           a command of a guest's process, step by step
  pykernel demo scalability                      one accelerator for 1 to 1,000 clients
  pykernel run -- accel-config list -i            a real program sees the emulated devices
  pykernel run --as nobody -- cat /sys/bus/dsa/devices/dsa0/state
  pykernel run --machine my.toml --trace t.jsonl -- ./my-test
  pykernel trace t.jsonl --errors                which calls failed, and why
  pykernel shell                                 look around: ls /sys/bus/dsa/devices
  pykernel tree                                  the devices as a tree
"""

# command, its module in pykernel.tools, what it does in a line
COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("run", "Run a program, unmodified, against the emulated machine."),
    "shell": ("shell", "Run your shell against the emulated machine."),
    "demo": ("demo", "A first tour: configure a work queue, copy memory with it; and more to watch."),
    "tree": ("tree", "Draw the accelerators with their groups, queues and engines."),
    "dmesg": ("dmesg", "Boot a machine and print what its kernel said."),
    "trace": ("trace", "Print a recorded trace, or that of a boot."),
    "record": ("record", "Record what this host shows in /sys, as a machine file."),
    "new": ("new", "Make a driver to start from, with its machine and its test."),
    "module": ("module", "List the kernel modules that there are, or tell about one."),
    "ioctls": ("ioctls", "The support table: system calls, ioctls, and what is not built."),
    "uapi": ("uapi", "Headers of Linux: compare them with real ones, print structs, explain ioctl numbers."),
    "soak": ("soak", "Run a test that explores interleavings with thousands of seeds."),
    "doctor": ("doctor", "Tell whether this host allows to run programs, and how to make it so."),
}


class Commands(LazyGroup):
    """The commands."""

    rows = COMMANDS


@click.group(cls=Commands, epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="pykernel")
def cli() -> None:
    """A Linux kernel for devices you do not have: emulated /sys, /dev and ioctls for driver developers."""


def main(argv: list[str] | None = None) -> NoReturn:
    """Run the command line and exit."""
    stdio.prepare()
    status = 1
    try:
        status = _call(argv)
        sys.stdout.flush()
    except OSError as e:
        if e.filename not in (stdio.STDOUT, stdio.STDERR):
            raise
        # who reads our output (head, less) may have seen enough; else it is lost, and that is not success
        stdio.drop(1 if e.filename == stdio.STDOUT else 2)
        if not isinstance(e, BrokenPipeError):
            stdio.complain(f"pykernel: {e.filename}: {e.strerror}")
        status = status or 1
    sys.exit(status)


def _call(argv: list[str] | None) -> int:
    """The exit status of the command; what is wrong has been said."""
    try:
        status: Any = cli.main(argv, "pykernel", standalone_mode=False)
    except click.UsageError as e:
        # a group without a command is help, not a mistake to be explained
        if isinstance(e, click.exceptions.NoArgsIsHelpError):
            e.show()
            return e.exit_code
        where = e.ctx.command_path if e.ctx else "pykernel"
        stdio.complain(f"{where}: {e.format_message().rstrip('.')}; see {where} --help")
        return e.exit_code
    except click.ClickException as e:
        stdio.complain(f"pykernel: {e.format_message()}")
        return e.exit_code
    except (click.Abort, KeyboardInterrupt):
        return 130
    return int(status or 0)


if __name__ == "__main__":
    main()
