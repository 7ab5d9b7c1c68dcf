"""BARs in a user's address space (drivers/vfio/pci/vfio_pci_core.c:vfio_pci_core_mmap(), vfio_pci_mmap_fault())."""

from __future__ import annotations

from errno import EFAULT, EINVAL
from typing import TYPE_CHECKING

from pykernel.errors import err
from pykernel.mm.vma import VM_SHARED, Vma, page_align
from pykernel.pci.iomem import Iomem, MappedIo
from pykernel.uapi.linux.vfio import (
    VFIO_PCI_NUM_REGIONS,
    VFIO_PCI_ROM_REGION_INDEX,
    VFIO_REGION_INFO_FLAG_MMAP,
)

if TYPE_CHECKING:
    from pykernel.vfio.pci.core import VfioPciCoreDevice

__all__ = ["OFFSET_SHIFT", "MappedBar", "mmap_region"]

OFFSET_SHIFT = 40  # VFIO_PCI_OFFSET_SHIFT
PAGE_SHIFT = 12


class MappedBar(MappedIo):
    """
    A mapped BAR: a bus error while the device does not decode memory, or is in low power.

    Linux takes the pages away when that begins, and a fault looks; here each access looks.
    """

    __slots__ = ("vdev",)

    def __init__(self, vdev: VfioPciCoreDevice, iomem: Iomem, base: int) -> None:
        super().__init__(iomem, base)
        self.vdev = vdev

    def _fault(self) -> None:
        vdev = self.vdev
        if vdev.pm_runtime_engaged or not vdev.is_open or not vdev.config.memory_enabled():
            raise err(EFAULT, f"{vdev.name} does not decode memory: COMMAND, its power state, or low power")

    def read(self, off: int, n: int) -> bytes:
        """Loads. Raises EFAULT: a bus error."""
        self._fault()
        return super().read(off, n)

    def write(self, off: int, data: bytes) -> None:
        """Stores. Raises EFAULT: a bus error."""
        self._fault()
        super().write(off, data)

    def enqcmd(self, off: int, data: bytes) -> bool:
        """ENQCMD. Raises EFAULT: a bus error."""
        self._fault()
        return super().enqcmd(off, data)

    def phys_addr(self, off: int) -> int:
        """Where the byte at *off* is on the bus. Raises EFAULT: no fault brings the page in."""
        self._fault()
        return super().phys_addr(off)


def mmap_region(vdev: VfioPciCoreDevice, vma: Vma) -> None:
    """
    C: ``int vfio_pci_core_mmap(struct vfio_device *, struct vm_area_struct *)``.

    Raises:
        EINVAL: a region that cannot be mapped, not MAP_SHARED, or beyond the BAR's last page. EBUSY, ENOMEM.
    """
    index, pgoff = divmod(vma.vm_pgoff, 1 << OFFSET_SHIFT - PAGE_SHIFT)
    if index >= VFIO_PCI_NUM_REGIONS + len(vdev.regions):
        raise err(EINVAL, f"there is no region {index}")
    if not vma.vm_flags & VM_SHARED:
        raise err(EINVAL, "MAP_SHARED only")
    if index >= VFIO_PCI_NUM_REGIONS:
        region = vdev.regions[index - VFIO_PCI_NUM_REGIONS]
        if not region.flags & VFIO_REGION_INFO_FLAG_MMAP or not region.ops.mmap(vdev, region, vma):
            raise err(EINVAL, "the region cannot be mapped")
        return
    if index >= VFIO_PCI_ROM_REGION_INDEX or index not in vdev.bars.mmap_supported:
        raise err(EINVAL, f"region {index} cannot be mapped")
    end = (pgoff << PAGE_SHIFT) + vma.vm_end - vma.vm_start
    if end > page_align(vdev.pdev.resource_len(index)):
        raise err(EINVAL, f"{end:#x} is behind the end of BAR {index}")
    iomem = vdev.bars.setup_barmap(index, "vfio-pci")
    vma.vm_private_data = vdev
    vma.io = MappedBar(vdev, iomem, index << OFFSET_SHIFT)
