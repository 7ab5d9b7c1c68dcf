"""PCI configuration space of a virtual DSA: 4096 bytes, of which a guest may write little."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pykernel.drivers.idxd.config import VDSA_SUBSYSTEM
from pykernel.drivers.vdsa.regs import BAR_SIZE, MSIX_PBA, MSIX_TABLE, VECTORS
from pykernel.pci.config import ConfigSpace
from pykernel.uapi.linux import pci_regs as r

if TYPE_CHECKING:
    from pykernel.drivers.idxd.idxd import IdxdDevice

__all__ = ["VdsaConfig"]

MSIX, PCIE, ATS, PRI, PASID, SIOV = 0x40, 0x50, 0x100, 0x110, 0x120, 0x130
EXT_CAP_ID_DVSEC: Final = 0x23
COMMAND_RW: Final = r.PCI_COMMAND_MEMORY | r.PCI_COMMAND_MASTER | r.PCI_COMMAND_INTX_DISABLE


class VdsaConfig:
    """
    The space as the user of VFIO reads and writes it.

    A BAR that is written with all ones reads back as its size mask, as hardware does; the series' code gave the size
    itself, which no guest understands.
    """

    def __init__(self, idxd: IdxdDevice, portals: int) -> None:
        self.space = ConfigSpace(
            0x8086,
            idxd.pdev.read_config_word(r.PCI_DEVICE_ID),
            0x088000,
            subsystem=VDSA_SUBSYSTEM,
            command_rw=COMMAND_RW,
        )
        self.space.add_bar(0, BAR_SIZE)
        self.space.add_bar(2, portals)
        self.space.add_msix(MSIX, VECTORS, table=(0, MSIX_TABLE), pba=(0, MSIX_PBA))
        self.space.add_pcie(PCIE, flags=0x0092, devcap=0x10008002, devctl=0x2910, devcap2=0x10200010, devctl2_rw=0)
        self.space.add_ats(ATS)
        self.space.add_pri(PRI)
        self.space.add_pasid(PASID)
        self._add_siov()
        self.space.settle()

    def _add_siov(self) -> None:
        """The DVSEC of Scalable IOV: who sees it knows that it is virtual."""
        at = self.space.add_ext_cap(EXT_CAP_ID_DVSEC, 1, SIOV, 0x18)
        self.space.put(at + 4, 4, 0x018 << 20 | 0x8086)
        self.space.put(at + 8, 2, 5)

    def read(self, off: int, n: int) -> bytes:
        """*n* bytes; ones behind the end."""
        return b"".join(self.space.read(off + i, 1).to_bytes(1, "little") for i in range(n))

    def write(self, off: int, data: bytes) -> None:
        """Each bit by its rule."""
        self.space.write(off, len(data), int.from_bytes(data, "little"))

    def reset(self) -> None:
        """A function-level reset."""
        self.space.reset()

    def wants_flr(self, off: int, data: bytes) -> bool:
        """Does this write ask for one?"""
        control = PCIE + r.PCI_EXP_DEVCTL + 1
        return off <= control < off + len(data) and bool(data[control - off] & r.PCI_EXP_DEVCTL_BCR_FLR >> 8)

    def _control(self, at: int, bit: int) -> bool:
        return bool(self.space.get(at, 2) & bit)

    @property
    def bus_master(self) -> bool:
        """COMMAND."""
        return self._control(r.PCI_COMMAND, r.PCI_COMMAND_MASTER)

    @property
    def memory(self) -> bool:
        """COMMAND: does it decode its BARs?"""
        return self._control(r.PCI_COMMAND, r.PCI_COMMAND_MEMORY)

    @property
    def pasid(self) -> bool:
        """PASID control: enable."""
        return self._control(PASID + r.PCI_PASID_CTRL, r.PCI_PASID_CTRL_ENABLE)

    @property
    def pasid_priv(self) -> bool:
        """PASID control: privileged mode."""
        return self._control(PASID + r.PCI_PASID_CTRL, r.PCI_PASID_CTRL_PRIV)

    @property
    def ats(self) -> bool:
        """ATS control: enable."""
        return self._control(ATS + r.PCI_ATS_CTRL, r.PCI_ATS_CTRL_ENABLE)

    @property
    def pri(self) -> bool:
        """PRI control: enable."""
        return self._control(PRI + r.PCI_PRI_CTRL, r.PCI_PRI_CTRL_ENABLE)

    def save(self) -> bytes:
        """For migration."""
        return b"".join(self.space.read(off, 4).to_bytes(4, "little") for off in range(0, self.space.size, 4))

    def load(self, data: bytes) -> None:
        """Registers that can be written, from the other side."""
        for off in range(0, self.space.size, 4):
            self.space.write(off, 4, int.from_bytes(data[off : off + 4], "little"))
