"""
PCI-to-PCI bridges of PCI Express: a root port, and the upstream and downstream ports of a switch.

Layouts are those of the PCI Express base specification (type 1 header, PCIe, ACS); the numbers are those of QEMU's
``pcie-root-port``, ``x3130-upstream`` and ``xio3130-downstream``. A bridge knows the bus below it by its number; a
reset of that bus reaches the functions on it through the port that the bridge is plugged into.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from pykernel.hw.options import Boolean, Integer, Rule, check_options
from pykernel.pci.config import PCI_DEV3_DEVCTL3_DMWR_EGRESS_BLK, PCI_DEV3_DEVCTL3_DMWR_REQ_EN, ConfigSpace
from pykernel.pci.function import PciFunction
from pykernel.uapi.linux import pci_regs as r

__all__ = ["BridgeFunction", "make_bridge"]

OPTIONS: dict[str, Rule] = {
    "secondary": Integer(1, 0xFF),
    "subordinate": Integer(1, 0xFF),
    "acs": Boolean(),
    "dmwr": Boolean(),
    "dmwr_egress_block": Boolean(),
}
CLASS = 0x060400
EXP, SSVID, ACS, AER, DEV3 = 0x54, 0x40, 0x148, 0x150, 0x1A0
ACS_BITS = r.PCI_ACS_SV | r.PCI_ACS_TB | r.PCI_ACS_RR | r.PCI_ACS_CR | r.PCI_ACS_UF
# model -> vendor, device, device/port type
KINDS = {
    "root-port": (0x1B36, 0x000C, r.PCI_EXP_TYPE_ROOT_PORT),
    "upstream-port": (0x104C, 0x8232, r.PCI_EXP_TYPE_UPSTREAM),
    "downstream-port": (0x104C, 0x8233, r.PCI_EXP_TYPE_DOWNSTREAM),
}


class BridgeFunction(PciFunction):
    """
    One port; *secondary* to *subordinate* are the buses below it.

    Args:
        dmwr: deferrable memory writes pass: a switch routes them, firmware lets the root port send them.
        dmwr_egress_block: but firmware blocks those that would leave here.
    """

    def __init__(
        self,
        kind: str,
        secondary: int,
        subordinate: int | None = None,
        acs: bool = True,
        dmwr: bool = False,
        dmwr_egress_block: bool = False,
    ) -> None:
        vendor, device, port_type = KINDS[kind]
        config = ConfigSpace(vendor, device, CLASS)
        config.type_1_header()
        config.put(r.PCI_SECONDARY_BUS, 1, secondary)
        config.put(r.PCI_SUBORDINATE_BUS, 1, max(secondary, subordinate or secondary))
        config.add_cap(r.PCI_CAP_ID_SSVID, SSVID, 8)
        # version 2, a slot behind every port that has a link downwards
        slot = r.PCI_EXP_FLAGS_SLOT if port_type != r.PCI_EXP_TYPE_UPSTREAM else 0
        config.add_pcie(EXP, flags=2 | port_type << 4 | slot, devcap=0x8000)
        config.define(EXP + r.PCI_EXP_LNKCAP, 4, 0x0000_0411)  # x1, 2.5 GT/s
        config.define(EXP + r.PCI_EXP_LNKSTA, 2, 0x2011)
        config.add_ext_cap(r.PCI_EXT_CAP_ID_VNDR, 1, 0x100, 8)
        if acs and port_type != r.PCI_EXP_TYPE_UPSTREAM:
            config.add_ext_cap(r.PCI_EXT_CAP_ID_ACS, 1, ACS, 8)
            config.define(ACS + r.PCI_ACS_CAP, 2, ACS_BITS)
            config.define(ACS + r.PCI_ACS_CTRL, 2, 0, rw=ACS_BITS)
        if dmwr:
            root = port_type == r.PCI_EXP_TYPE_ROOT_PORT
            sends, blocks = PCI_DEV3_DEVCTL3_DMWR_REQ_EN * root, PCI_DEV3_DEVCTL3_DMWR_EGRESS_BLK
            config.add_aer(AER)
            config.add_dev3(DEV3, control=sends | blocks * dmwr_egress_block, rw=sends | blocks)
        config.settle()
        super().__init__(config)

    @property
    def resets(self) -> bool:
        """BRIDGE_CONTROL holds the bus below in reset."""
        return bool(self.config.get(r.PCI_BRIDGE_CONTROL, 2) & r.PCI_BRIDGE_CTL_BUS_RESET)

    def config_write(self, off: int, size: int, value: int) -> None:
        """When a secondary bus reset begins, what is on that bus is reset."""
        before = self.resets
        super().config_write(off, size, value)
        if self.resets and not before:
            self.port.reset_secondary(self.config.get(r.PCI_SECONDARY_BUS, 1))

    def hot_reset(self) -> None:
        """It forgets everything but its bus numbers, which firmware gave it, and resets what is below."""
        buses = self.config.get(r.PCI_PRIMARY_BUS, 4)
        super().hot_reset()
        self.config.put(r.PCI_PRIMARY_BUS, 4, buses)
        self.port.reset_secondary(self.config.get(r.PCI_SECONDARY_BUS, 1))


def _make(kind: str, options: Mapping[str, Any]) -> BridgeFunction:
    check_options(kind, options, OPTIONS)
    if "secondary" not in options:
        raise ValueError(f"{kind}: secondary is missing: the number of the bus below it, as in secondary = 0x65")
    if options.get("dmwr_egress_block") and not options.get("dmwr"):
        raise ValueError(f"{kind}: dmwr_egress_block is a control of ports with dmwr = true")
    return BridgeFunction(kind, **options)


def make_bridge(kind: str) -> Callable[[Mapping[str, Any]], BridgeFunction]:
    """What makes a bridge of *kind* from the options of a machine file."""
    return partial(_make, kind)


make_root_port, make_upstream_port, make_downstream_port = (make_bridge(kind) for kind in KINDS)
