"""A host's accelerator made ready for virtual machines: a shared queue for everybody, dedicated ones for one each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pykernel.tools.dsa import BUS, settings

if TYPE_CHECKING:
    from pykernel.syscalls import Process

__all__ = ["configure"]

WQ_SIZE = 16


def configure(proc: Process, *, shared: int = WQ_SIZE, dedicated: int = 0, number: int = 0) -> None:
    """
    Configure and enable accelerator *number*, its queues with driver ``mdev``.

    Args:
        shared: entries of the shared queue, which is the first; 0: there is none.
        dedicated: how many dedicated queues, of 16 entries each.

    Raises:
        OSError: what the driver says to a store.
    """
    wqs = ([("shared", shared)] if shared else []) + [("dedicated", WQ_SIZE)] * dedicated
    stores: list[tuple[str, str]] = []
    binds: list[tuple[str, str]] = []
    for n, (mode, size) in enumerate(wqs):
        wq = f"wq{number}.{n}"
        names = {"driver_name": "mdev"} if "driver_name" in proc.listdir(f"{BUS}/devices/{wq}") else {}
        rows = settings(proc, wq, mode=mode, size=size, type="mdev", name=f"guests{n}", **names)
        stores += [row for row in rows if not row[0].endswith("/bind")]
        binds += [row for row in rows if row[0].endswith("/bind")]
    for path, text in [*stores, *dict.fromkeys(binds)]:
        proc.write_text(path, text + "\n")
