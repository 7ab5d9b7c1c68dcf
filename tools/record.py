"""``pykernel record``: what this host shows in /sys, as a machine file."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager

import click

from pykernel.tools import stdio
from pykernel.tools.options import Fail

__all__ = ["command"]


@contextmanager
def _progress() -> Generator[Callable[[str], None], None, None]:
    """Tells on a terminal where the walk is."""
    if not sys.stderr.isatty():
        yield lambda path: None
        return
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    with console.status("/sys") as status:
        yield lambda path: status.update(path, spinner=None)


@click.command()
@click.option("-o", "--output", metavar="FILE", help="Write to FILE instead of standard output.")
@click.option("--exclude", multiple=True, metavar="GLOB", help="Leave out paths like this: '/sys/*/statistics'.")
@click.option(
    "--max-size",
    type=click.IntRange(0),
    default=256,
    show_default=True,
    metavar="KIB",
    help="Leave out contents longer than this.",
)
@click.option("--redact", is_flag=True, help="Zeros for serial numbers, UUIDs and hardware addresses.")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
def command(output: str | None, exclude: tuple[str, ...], max_size: int, redact: bool, paths: tuple[str, ...]) -> None:
    """
    Record what this host shows in /sys, as a machine file.

    PATH is a directory of /sys or a device node: its devices are recorded with those above them, their buses, classes,
    drivers and modules. /sys is the whole machine. A recording has what the files have: look through it for serial
    numbers and addresses before you give it away; --redact knows the usual ones.

    \b
    Examples:
      pykernel record /sys/bus/pci -o machine.toml
      pykernel run --machine machine.toml -- lspci -v
      pykernel record --redact /sys/class/net/eth0 /dev/sda > m.toml
      pykernel run -- pykernel record /sys -o full.toml        an emulated machine
    """
    from pykernel import __version__
    from pykernel.recorded.host import Host
    from pykernel.recorded.text import to_toml
    from pykernel.recorded.walk import Recorder, RecordError

    if os.path.realpath("/sys") != "/sys" or not os.path.isdir("/sys/devices"):
        raise Fail("no sysfs is mounted on /sys")
    with _progress() as progress:
        recorder = Recorder(Host(), exclude=exclude, max_size=max_size << 10, redact=redact, progress=progress)
        try:
            for path in paths:
                recorder.record(path)
        except RecordError as e:
            raise Fail(str(e)) from e
    header = [f"Linux {_release()}: {' '.join(paths)}", f"recorded by pykernel {__version__}"]
    text = to_toml(recorder.recorded(), header)
    _write(output, text)
    for why, found in sorted(recorder.notes.items()):
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        stdio.complain(f"pykernel record: {why}: {found[0]}{more}")


def _release() -> str:
    # an emulated kernel tells its own in /proc; uname(2) is the host's
    with open("/proc/version", encoding="latin-1") as f:
        return f.read().split()[2]


def _write(output: str | None, text: str) -> None:
    if output is None:
        sys.stdout.write(text)
        return
    try:
        with open(output, "w", encoding="utf-8") as f:
            f.write(text)
    except OSError as e:
        raise Fail(f"{output}: {e.strerror}") from e
