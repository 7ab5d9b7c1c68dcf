"""A machine with plain functions in its slots, behind an IOMMU that the test describes."""

from __future__ import annotations

from typing import Any

import pytest

from pykernel.kernel import Kernel
from pykernel.machine import parse
from pykernel.mm.phys import PhysMem
from pykernel.pci.config import ConfigSpace
from pykernel.pci.core import Pci
from pykernel.pci.driver import PciDriver, PciId
from pykernel.pci.function import PciFunction
from pykernel.start import boot
from pykernel.uapi.linux import pci_regs as r

MULTIFUNCTION = 0x80


class Card(PciFunction):
    """A function that can only do DMA; *acs* is its access control capability, if it has one."""

    def __init__(
        self, *, express: int | None = 0x02, multi: bool = False, acs: int | None = None, class_code: int = 0x0B4000
    ) -> None:
        config = ConfigSpace(0x1234, 0x5678, class_code)
        config.add_bar(0, 0x1000)
        if express is not None:
            config.add_pcie(0x40, flags=express, devcap=0)
        if multi:
            config.define(r.PCI_HEADER_TYPE, 1, MULTIFUNCTION)
        if acs is not None:
            config.add_ext_cap(r.PCI_EXT_CAP_ID_ACS, 1, 0x100, 8)
            config.define(0x100 + r.PCI_ACS_CAP, 2, acs)
        config.settle()
        super().__init__(config)


class CardDriver(PciDriver):
    """Takes every card."""

    id_table = (PciId(0x1234, 0x5678),)

    def probe(self, dev: Any, /) -> None:
        dev.set_master()


class World:
    """One kernel; ``devs`` are its functions in the order of their addresses."""

    def __init__(self, iommu: str, profile: str, cmdline: str, cards: dict[str, Card]) -> None:
        self.kernel: Kernel = boot(parse(f"cmdline = '{cmdline}'\n[iommu]\n{iommu}"), profile)
        self.kernel.up()
        pci = self.kernel.sub(Pci)
        for address, card in cards.items():
            pci.plug(address, card)
        pci.rescan()
        self.devs: list[Any] = [pci.devices[a] for a in sorted(cards)]
        for dev in self.devs:
            dev.set_master()
        self.dev: Any = self.devs[0]
        self.group: Any = self.dev.iommu_group
        self.phys = self.kernel.sub(PhysMem)
        self.p = self.kernel.process()

    @property
    def sysfs(self) -> str:
        """The directory of the first device's group."""
        return f"/sys/kernel/iommu_groups/{self.group.id}"

    def log(self, *words: str) -> list[str]:
        """The messages that have one of *words* in them."""
        return [r.text for r in self.kernel.log.records if any(word in r.text for word in words)]

    def sleep(self, ns: int) -> None:
        """Let so much time of the machine's clock pass."""
        self.kernel.sched.idle_until(lambda: False, ns)

    def end(self) -> None:
        """Shut down: nothing is left."""
        self.p.exit()
        self.kernel.shutdown()


@pytest.fixture
def world():
    worlds: list[World] = []

    def make(iommu: str = "", *, profile: str = "linux-6.1", cmdline: str = "", cards: Any = None) -> World:
        worlds.append(World(iommu, profile, cmdline, cards or {"0000:6a:01.0": Card()}))
        return worlds[-1]

    yield make
    for made in worlds:
        made.end()


@pytest.fixture
def card():
    return Card


@pytest.fixture
def card_driver():
    return CardDriver


@pytest.fixture
def fails():
    def errno_of(fn, *args, **kw) -> int:
        try:
            fn(*args, **kw)
        except OSError as e:
            return e.errno or 0
        return 0

    return errno_of
