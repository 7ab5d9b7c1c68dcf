"""BAR 2 of a virtual DSA: the host's portal pages in its user's address space, and writes that come the slow way."""

from __future__ import annotations

from errno import EAGAIN, EFAULT, EINVAL
from typing import TYPE_CHECKING, Any

from pykernel.drivers.idxd.idxd import DESC_SIZE
from pykernel.drivers.vdsa.host import PORTAL_PAGES
from pykernel.errors import err
from pykernel.fs.vfs import PAGE_SIZE
from pykernel.mm.phys import PhysMem
from pykernel.mm.vma import VM_DONTCOPY, VM_SHARED, Vma
from pykernel.pci.iomem import MappedIo
from pykernel.uapi.linux.vfio import (
    VFIO_PCI_BAR2_REGION_INDEX,
    vfio_region_info_cap_sparse_mmap,
    vfio_region_sparse_mmap_area,
)

if TYPE_CHECKING:
    from pykernel.drivers.vdsa.device import VdsaDevice
    from pykernel.pci.iomem import Iomem

__all__ = ["Portal"]

PGOFF_SHIFT = 40 - 12
PRIV = 1 << 31


class MappedPortal(MappedIo):
    """
    A mapped page. While its device is stopped, or the shared queue is off, nothing comes through.

    A DMWr is answered with "retry" then, which the processor shows as a full queue, and a store is dropped. Who maps it
    may submit what its own processor makes of it; a guest may only when its processors translate PASIDs.
    """

    __slots__ = ("portal",)

    def __init__(self, portal: Portal, iomem: Iomem, base: int) -> None:
        super().__init__(iomem, base)
        self.portal = portal

    def write(self, off: int, data: bytes) -> None:
        """A store; dropped while it is closed."""
        if self.portal.is_open:
            super().write(off, data)

    def enqcmd(self, off: int, data: bytes) -> bool:
        """ENQCMD; False while it is closed."""
        return self.portal.is_open and super().enqcmd(off, data)

    def phys_addr(self, off: int) -> int:
        """Where the byte at *off* is; while it is closed, in the sink. Raises EFAULT: no guest may have it."""
        if not self.portal.translated:
            raise err(EFAULT, f"the portals of {self.portal.device.name} are closed")
        return super().phys_addr(off) if self.portal.is_open else self.portal.sink + off % PAGE_SIZE


class Portal:
    """
    The four pages of one device, and where they are mapped.

    A guest that reached a shared queue without PASID translation would put its own numbers on the bus, which are
    others' there ("portal gate" of the /dev/iommu proposal). So a page has no address for a guest before KVM's VFIO
    device has named the machine, and the machine translates; when that ends it is taken out of the guest.
    """

    def __init__(self, device: VdsaDevice) -> None:
        self.device = device
        self._phys = device.kernel.sub(PhysMem)
        self._sink: int | None = None
        self._parts: dict[int, bytearray] = {}
        self._maps: list[tuple[Any, Vma]] = []

    @property
    def is_open(self) -> bool:
        """
        The device runs, and so does the guest's shared queue, which is not the host's: that one is on for others.

        A dedicated queue of the host is off when the guest's is, and takes nothing by itself.
        """
        device = self.device
        if not device.migration.running:
            return False
        return device.wq.dedicated or (device.commands.wq_on and device.regs.enabled)

    @property
    def sink(self) -> int:
        """A page of memory that a guest finds instead of a closed portal: ENQCMD says "retry" there. Raises ENOMEM."""
        if self._sink is None:
            self._sink = self._phys.alloc_page()
            self._phys.write(self._sink, b"\xff" * PAGE_SIZE)
        return self._sink

    def free(self) -> None:
        """The device goes; nobody has it mapped."""
        if self._sink is not None:
            self._phys.free_pages(self._sink)
        self._sink = None

    @property
    def translated(self) -> bool:
        """No number of the guest's gets on the bus; a dedicated queue takes none."""
        kvm = self.device.kvm
        return self.device.wq.dedicated or (kvm is not None and kvm.translates_pasids)

    def zap(self) -> None:
        """Who has the pages must look again. C: ``unmap_mapping_range()``."""
        for mem, vma in self._maps:
            mem.zap_vma_ptes(vma)

    @staticmethod
    def areas() -> bytes:
        """VFIO_REGION_INFO_CAP_SPARSE_MMAP without its header: each page by itself."""
        areas = [vfio_region_sparse_mmap_area(offset=n * PAGE_SIZE, size=PAGE_SIZE) for n in range(PORTAL_PAGES)]
        head = vfio_region_info_cap_sparse_mmap(nr_areas=PORTAL_PAGES)
        return bytes(head)[8:16] + b"".join(bytes(area) for area in areas)

    def mmap(self, vma: Vma) -> None:
        """C: ``int idxd_vdcm_mmap(...)``. Raises EINVAL: another region, more than a page, or not MAP_SHARED."""
        index, page = divmod(vma.vm_pgoff, 1 << PGOFF_SHIFT)
        if not vma.vm_flags & VM_SHARED:
            raise err(EINVAL, "MAP_SHARED only")
        if index != VFIO_PCI_BAR2_REGION_INDEX or page >= PORTAL_PAGES:
            raise err(EINVAL, "only the portals can be mapped")
        if vma.vm_end - vma.vm_start > PAGE_SIZE:
            raise err(EINVAL, "a page at a time")
        vma.vm_flags |= VM_DONTCOPY
        vma.vm_private_data = self.device
        vma.io = MappedPortal(self, self.device.host.portal(page), vma.vm_pgoff * PAGE_SIZE)
        vma.close = self._unmapped
        mm = self.device.kernel.current.mm
        if mm is not None and hasattr(mm.mem, "zap_vma_ptes"):
            self._maps.append((mm.mem, vma))

    def _unmapped(self, gone: Vma) -> None:
        self._maps = [(mem, vma) for mem, vma in self._maps if vma is not gone]

    def write(self, off: int, data: bytes) -> None:
        """
        The slow way: what is written in pieces is submitted when its 64 bytes are whole.

        Raises:
            EAGAIN: the shared queue is full or off, or the device stopped. EINVAL: its PASID is none of the guest's.
        """
        at = off & -DESC_SIZE
        part = self._parts.setdefault(at, bytearray())
        if len(part) != off - at:
            part.clear()
            if off != at:
                return
        part += data
        if len(part) == DESC_SIZE:
            del self._parts[at]
            self._submit(off // PAGE_SIZE, at % PAGE_SIZE, bytes(part))

    def _submit(self, page: int, off: int, raw: bytes) -> None:
        portal = self.device.host.portal(page)
        if not self.is_open:
            raise err(EAGAIN, "the device is stopped, or its queue off")
        if self.device.wq.dedicated:
            portal.movdir64b(off, raw)
            return
        first = int.from_bytes(raw[:4], "little")
        pasid = self.device.pasids.host_pasid(first & 0xFFFFF)
        if pasid is None or first & ~PRIV & ~0xFFFFF:
            raise err(EINVAL, f"PASID {first & 0xFFFFF} is none of the guest's")
        if not portal.enqcmds(off, pasid.to_bytes(4, "little") + raw[4:]):
            raise err(EAGAIN, "the shared queue is full")
