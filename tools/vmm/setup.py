"""
Accelerators made ready: the host's for virtual machines, and the guest's own for its processes.

On the host there is a shared queue for everybody and dedicated ones for one machine each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pykernel.tools.dsa import BUS, settings

if TYPE_CHECKING:
    from pykernel.syscalls import Process

__all__ = ["enable", "prepare"]

WQ_SIZE = 16


def prepare(proc: Process, *, shared: int = WQ_SIZE, dedicated: int = 0, number: int = 0, **attrs: str | int) -> None:
    """
    Configure and enable accelerator *number*, its queues with driver ``mdev``.

    Args:
        shared: entries of the shared queue, which is the first; 0: there is none.
        dedicated: how many dedicated queues, of 16 entries each.
        attrs: more of what each queue is, as ``block_on_fault``.

    Raises:
        OSError: what the driver says to a store.
    """
    wqs = ([("shared", shared)] if shared else []) + [("dedicated", WQ_SIZE)] * dedicated
    stores: list[tuple[str, str]] = []
    binds: list[tuple[str, str]] = []
    for n, (mode, size) in enumerate(wqs):
        wq = f"wq{number}.{n}"
        more = attrs | ({"driver_name": "mdev"} if "driver_name" in proc.listdir(f"{BUS}/devices/{wq}") else {})
        rows = settings(proc, wq, mode=mode, size=size, type="mdev", name=f"guests{n}", **more)
        stores += [row for row in rows if not row[0].endswith("/bind")]
        binds += [row for row in rows if row[0].endswith("/bind")]
    for path, text in [*stores, *dict.fromkeys(binds)]:
        proc.write_text(path, text + "\n")


def enable(proc: Process, wq: str = "wq0.0", kind: str = "user") -> None:
    """
    Enable a guest's queue and its device; what they are the VMM has decided, so only type and name are to be told.

    Raises:
        OSError: what the driver says to a store.
    """
    where = f"{BUS}/devices/{wq}"
    driver = kind if kind == "user" else "dmaengine"
    rows = [(f"{where}/type", kind), (f"{where}/name", driver)]
    if "driver_name" in proc.listdir(where):
        rows.append((f"{where}/driver_name", driver))
    device = proc.realpath(where).split("/")[-2]
    if "driver" not in proc.listdir(f"{BUS}/devices/{device}"):  # one that cannot be configured is bound by itself
        rows.append((f"{BUS}/drivers/idxd/bind", device))
    rows.append((f"{BUS}/drivers/{driver}/bind", wq))
    for path, text in rows:
        proc.write_text(path, text + "\n")
