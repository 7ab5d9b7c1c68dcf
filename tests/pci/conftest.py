"""A kernel with test silicon in its slots, and drivers to put on it."""

from __future__ import annotations

import pytest

from pykernel.kernel import Kernel
from pykernel.machine import IommuSpec, Machine
from pykernel.pci.config import ConfigSpace
from pykernel.pci.core import Pci
from pykernel.pci.dev import PciDev
from pykernel.pci.driver import PciDriver, PciId
from pykernel.pci.function import PciFunction
from pykernel.start import boot


class Card(PciFunction):
    """BAR0 with four MSI-X vectors at 0x1000 and pending bits at 0x1800, BAR2 of 32 bits, FLR, MSI, SR-IOV."""

    def __init__(self, *, vfs: int = 0, msix: bool = True, msi: bool = True, express: bool = True) -> None:
        config = ConfigSpace(0x1234, 0x5678, 0x0B4000, revision=2, subsystem=(0x1AF4, 0x1100), interrupt_pin=1)
        config.add_bar(0, 0x2000)
        config.add_bar(2, 0x1000, wide=False, prefetch=False)
        if express:
            config.add_pcie(0x40, flags=0x02, devcap=0x10000000)
        config.add_pm(0x90, no_soft_reset=express)
        if msix:
            config.add_msix(0x80, 4, table=(0, 0x1000), pba=(0, 0x1800))
        if msi:
            config.add_msi(0xA0, vectors_log2=2)
        if vfs:
            config.add_sriov(0x100, vfs=vfs, offset=8, stride=8, device=0x5679, bars={0: 0x1000})
        config.settle()
        super().__init__(config)
        if msix:
            self.place_msix(4, 0, 0x1000, 0x1800)
        self.resets = 0

    def bar_read(self, bar: int, off: int, size: int) -> int:
        return off & (1 << 8 * size) - 1

    def flr(self) -> None:
        super().flr()
        self.resets += 1

    def make_vf(self, i: int) -> PciFunction:
        """A virtual function: its identity and BARs are its parent's business, its memory always decodes."""
        config = ConfigSpace(0xFFFF, 0xFFFF, 0x0B4000, command_rw=4)
        config.bar_sizes[0] = 0x1000
        config.settle()
        vf = PciFunction(config)
        vf.memory_enabled = True
        return vf


class CardDriver(PciDriver):
    """Matches the card and its virtual functions."""

    id_table = (PciId(0x1234, 0x5678, driver_data=7), PciId(0x1234, 0x5679, driver_data=8))

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel, "card")
        self.log: list[str] = []
        self.configured: int | None = None

    def probe(self, dev: PciDev, /) -> None:
        self.log.append(f"probe {dev.name}")
        dev.enable_device()
        dev.set_master()

    def remove(self, dev: PciDev, /) -> None:
        self.log.append(f"remove {dev.name}")
        dev.disable_device()

    def reset_prepare(self, pdev: PciDev) -> None:
        self.log.append("prepare")

    def reset_done(self, pdev: PciDev) -> None:
        self.log.append("done")

    def sriov_configure(self, dev: PciDev, n: int) -> int:
        if n:
            dev.iov.enable(n)
        else:
            dev.iov.disable()
        return n if self.configured is None else self.configured


@pytest.fixture
def pci_kernel():
    def make(*cards: PciFunction, profile: str = "linux-6.1") -> Kernel:
        kernel = boot(Machine("slots", iommu=IommuSpec(enabled=False, sva=False)), profile)
        kernel.up()
        pci = kernel.sub(Pci)
        for n, card in enumerate(cards, 1):
            pci.plug(f"0000:6a:{n:02x}.0", card)
        pci.rescan()
        return kernel

    return make


@pytest.fixture
def card_type():
    return Card


@pytest.fixture
def card_driver():
    return CardDriver


@pytest.fixture
def kernel(pci_kernel):
    return pci_kernel(Card(vfs=3))


@pytest.fixture
def dev(kernel):
    return kernel.sub(Pci).devices["0000:6a:01.0"]


@pytest.fixture
def driver(kernel):
    drv = CardDriver(kernel)
    drv.register()
    return drv
