"""
Deferrable memory writes on their way from the root complex to a function (PCI Express 6.0, 2.2.7, 6.32, 7.7.9).

What carries ENQCMD: a non-posted write of 64 bytes, whose completion tells whether it was taken. Every switch port on
the way must route such requests, the root port must be allowed to send them, no port may block them, and the function
must say that it completes them. What stops one is answered with Unsupported Request; the processor then says "retry".
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from pykernel.pci.config import (
    PCI_DEV3_DEVCAP3,
    PCI_DEV3_DEVCAP3_DMWR_REQ,
    PCI_DEV3_DEVCTL3,
    PCI_DEV3_DEVCTL3_DMWR_EGRESS_BLK,
    PCI_DEV3_DEVCTL3_DMWR_REQ_EN,
    PCI_ERR_UNC_DMWR_BLOCKED,
    PCI_EXP_DEVCAP2_DMWR_COMPL,
    PCI_EXT_CAP_ID_DEV3,
    ConfigSpace,
)
from pykernel.uapi.linux import pci_regs as r

if TYPE_CHECKING:
    from pykernel.pci.function import PciFunction
    from pykernel.pci.slot import Slot
    from pykernel.trace import Trace

__all__ = ["Completion", "deliver", "ports_above"]

LENGTH: Final = 64  # DevCap2 30:29 are 00b


class Completion(IntEnum):
    """Completion status; RRS (request retry status) has the code of what reads know as CRS."""

    SC = 0
    UR = 1
    RRS = 2
    CA = 4


def ports_above(slot: Slot) -> list[Slot]:
    """The ports from the root port down to *slot*; none above a root complex integrated endpoint."""
    bridges = slot.pci.bridges
    found: list[Slot] = []
    bus = slot.bus_number
    while bridges:
        for port in bridges:
            if port.domain == slot.domain and port.function.config.get(r.PCI_SECONDARY_BUS, 1) == bus:
                found.insert(0, port)
                bus = port.bus_number
                break
        else:
            break
    return found


def _kind(config: ConfigSpace) -> int:
    at = config.caps.get(r.PCI_CAP_ID_EXP)
    return -1 if at is None else config.get(at + r.PCI_EXP_FLAGS, 2) >> 4 & 0xF


def _root_port(control: int, capability: int) -> str:
    return "" if control & PCI_DEV3_DEVCTL3_DMWR_REQ_EN else "requester not enabled"


def _switch_port(control: int, capability: int) -> str:
    return "" if capability & PCI_DEV3_DEVCAP3_DMWR_REQ else "not routed"


PORTS: Final[dict[int, tuple[str, Callable[[int, int], str], bool]]] = {
    # by type: name, what may be wrong, whether a request from above leaves through it
    r.PCI_EXP_TYPE_ROOT_PORT: ("root port", _root_port, True),
    r.PCI_EXP_TYPE_UPSTREAM: ("upstream port", _switch_port, False),
    r.PCI_EXP_TYPE_DOWNSTREAM: ("downstream port", _switch_port, True),
}


def _stopped(config: ConfigSpace) -> tuple[str, str]:
    """What kind of port it is, and why a request from above ends there; an empty text: it does not."""
    name, wrong, egress = PORTS.get(_kind(config), ("bridge", _switch_port, False))
    at = config.ext_caps.get(PCI_EXT_CAP_ID_DEV3)
    control = config.get(at + PCI_DEV3_DEVCTL3, 4) if at is not None else 0
    why = wrong(control, config.get(at + PCI_DEV3_DEVCAP3, 4) if at is not None else 0)
    if why or not egress or not control & PCI_DEV3_DEVCTL3_DMWR_EGRESS_BLK:
        return name, why
    aer = config.ext_caps.get(r.PCI_EXT_CAP_ID_ERR)
    if aer is not None:
        status = aer + r.PCI_ERR_UNCOR_STATUS
        config.put(status, 4, config.get(status, 4) | PCI_ERR_UNC_DMWR_BLOCKED)
    return name, "egress blocked"


def completes(function: PciFunction) -> bool:
    """Whether the function says in DevCap2 that it completes them."""
    config = function.config
    at = config.caps.get(r.PCI_CAP_ID_EXP)
    return at is not None and bool(config.get(at + r.PCI_EXP_DEVCAP2, 4) & PCI_EXP_DEVCAP2_DMWR_COMPL)


def deliver(function: PciFunction, slot: Slot | None, trace: Trace, bar: int, off: int, data: bytes) -> Completion:
    """
    A DMWr of the processor for *bar* of *function*, which is in *slot*: its completion.

    UR: a port stopped it, the function completes none, decodes no memory, or has no enqueue register there.
    """
    for port in ports_above(slot) if slot is not None else ():
        name, why = _stopped(port.function.config)
        if trace:
            trace("dmwr", port=port.address, kind=name, verdict=why or "routed")
        if why:
            return Completion.UR
    inside = function.memory_enabled and off + len(data) <= function.bar_sizes.get(bar, 0)
    if not inside or len(data) != LENGTH or not completes(function) or not function.takes_dmwr(bar, off):
        return Completion.UR
    return Completion.SC if function.dmwr(bar, off, data) else Completion.RRS
