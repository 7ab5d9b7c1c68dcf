"""
Nested domains (drivers/iommu/intel/nested.c): a guest's first-stage tables over the second stage that the host keeps.

What a device accesses is looked up in the guest's tables, and each address there, those of the tables too, in the
parent's. Nothing of it is remembered, so an invalidation has nothing to forget.
"""

from __future__ import annotations

from errno import EINVAL, ENODEV, EOPNOTSUPP
from typing import TYPE_CHECKING, Any, Final

from pykernel.errors import err
from pykernel.iommu import dmar
from pykernel.iommu.domain import PAGING, IommuDomain
from pykernel.iommu.paging import PagingDomain
from pykernel.iommu.space import Translated
from pykernel.log import ERR
from pykernel.uapi.linux.iommufd import (
    IOMMU_HWPT_INVALIDATE_DATA_VTD_S1,
    IOMMU_VTD_INV_FLAGS_LEAF,
    IOMMU_VTD_S1_SRE,
    iommu_hwpt_vtd_s1_invalidate,
)

if TYPE_CHECKING:
    from pykernel.iommu.user import UserDataArray

__all__ = ["IOMMU_DOMAIN_NESTED", "NestedDomain"]

IOMMU_DOMAIN_NESTED: Final = 1 << 6
LEVELS: Final = {48: 4, 57: 5}
PRESENT, WRITE, ACCESSED, DIRTY, LARGE = 1, 2, 1 << 5, 1 << 6, 1 << 7
U64_MAX: Final = (1 << 64) - 1
FRAME: Final = (1 << 52) - 1 & -4096


class NestedDomain(IommuDomain):
    """A domain of the guest's: its table is at *pgtbl*, an address of *parent*."""

    def __init__(self, parent: IommuDomain, flags: int, pgtbl: int, addr_width: int) -> None:
        super().__init__(parent.unit, IOMMU_DOMAIN_NESTED)
        if not isinstance(parent, PagingDomain) or parent.type != PAGING:
            raise err(EINVAL, "the parent has no second-stage tables")
        self.parent, self.flags, self.pgtbl, self.addr_width = parent, flags, pgtbl, addr_width

    def attach_dev(self, dev: Any) -> None:
        """
        drivers/iommu/intel/nested.c:intel_nested_attach_dev(), pasid.c:intel_pasid_setup_nested().

        Raises:
            EINVAL: the width of the guest's addresses. ENODEV: the parent's addresses are wider than this IOMMU's.
        """
        unit = self.unit
        old = unit.domains.get(dev)
        if old is not None:
            unit.detach(old, dev)
        if unit.address_width < self.parent.width:
            dev.err("Adjusted guest address width not compatible")
            raise err(ENODEV)
        if self.addr_width not in LEVELS:
            dev.err(f"Invalid stage-1 address width {self.addr_width}")
            raise err(EINVAL)
        if LEVELS[self.addr_width] == 5 and unit.address_width != 57:
            dev.err("5-level paging not supported")
            raise err(EINVAL)
        if self.flags & IOMMU_VTD_S1_SRE and not unit.scalable:
            self.unit.kernel.log.printk(ERR, "DMAR: No supervisor request support on dmar0")
            raise err(EINVAL)
        unit.attach(self, dev)
        dev.slot.space = NestedSpace(self, dev)

    def cache_invalidate_user(self, array: UserDataArray) -> None:
        """
        drivers/iommu/intel/nested.c:intel_nested_cache_invalidate_user().

        Raises:
            EINVAL: entries of another type or length, an address within a page. EOPNOTSUPP: a flag. EFAULT.
        """
        num, array.entry_num = array.entry_num, 0
        if array.data_type != IOMMU_HWPT_INVALIDATE_DATA_VTD_S1:
            raise err(EINVAL, f"entries of type {array.data_type}")
        for n in range(num):
            entry = array.entry(n).copy(iommu_hwpt_vtd_s1_invalidate, IOMMU_HWPT_INVALIDATE_DATA_VTD_S1)
            if entry.flags & ~IOMMU_VTD_INV_FLAGS_LEAF or entry.reserved:
                raise err(EOPNOTSUPP, f"flags {entry.flags:#x}")
            if entry.addr % 4096 or (entry.npages == U64_MAX and entry.addr):
                raise err(EINVAL, f"{entry.npages:#x} pages at {entry.addr:#x}")
            if self.unit.kernel.trace:
                self.unit.kernel.trace("iotlb_invalidate_nested", addr=entry.addr, npages=entry.npages)
            array.entry_num += 1


class NestedSpace:
    """What a device in a nested domain reaches."""

    __slots__ = ("_dev", "_parent", "domain")

    def __init__(self, domain: NestedDomain, dev: Any) -> None:
        self.domain, self._dev = domain, dev
        self._parent = Translated(dev.slot, domain.parent, self._fault)

    def read(self, addr: int, n: int) -> bytes:
        """Read. Raises DmaFault."""
        return b"".join(self._parent.read(gpa, step) for gpa, step in self._pieces(addr, n, write=False))

    def write(self, addr: int, data: bytes | memoryview) -> None:
        """Write. Raises DmaFault: then nothing was written."""
        view = memoryview(data)
        for gpa, step in self._pieces(addr, len(view), write=True):
            self._parent.write(gpa, view[:step])
            view = view[step:]

    def view(self, addr: int, n: int, *, write: bool) -> list[memoryview] | None:
        """The bytes themselves in pieces, where it is all RAM. Raises DmaFault."""
        views: list[memoryview] = []
        for gpa, step in self._pieces(addr, n, write=write):
            part = self._parent.view(gpa, step, write=write)
            if part is None:
                return None
            views += part
        return views

    def _pieces(self, addr: int, n: int, *, write: bool) -> list[tuple[int, int]]:
        out: list[tuple[int, int]] = []
        while n:
            gpa, room = self._walk(addr, write=write)
            step = min(room, n)
            out.append((gpa, step))
            addr, n = addr + step, n - step
        return out

    def _walk(self, addr: int, *, write: bool) -> tuple[int, int]:
        """Where the guest's tables say *addr* is, and how many bytes from there on its page has. Raises DmaFault."""
        width = self.domain.addr_width
        if addr >> width - 1 not in (0, (1 << 64 - width + 1) - 1):
            self._fault(addr, dmar.SM_NOT_CANONICAL, write)
        table = self.domain.pgtbl
        for level in range(LEVELS[width], 0, -1):
            shift = 3 + 9 * level
            at = (table & FRAME) + (addr >> shift & 511) * 8
            entry = int.from_bytes(self._parent.read(at, 8), "little")
            if not entry & PRESENT:
                self._fault(addr, dmar.SM_FL_NOT_PRESENT, write)
            if write and not entry & WRITE:
                self._fault(addr, dmar.SM_NO_WRITE, write)
            leaf = level == 1 or (level < 4 and bool(entry & LARGE))
            marks = ACCESSED | (DIRTY if leaf and write else 0)
            if entry & marks != marks:
                self._parent.write(at, (entry | marks).to_bytes(8, "little"))
            if leaf:
                size = 1 << shift
                return (entry & FRAME & -size) | addr & size - 1, size - (addr & size - 1)
            table = entry
        raise AssertionError("the lowest level is a leaf")

    def _fault(self, addr: int, reason: int, write: bool) -> Any:
        self.domain.unit.fault(self._dev.bus_number << 8 | self._dev.devfn, addr, reason, write=write)
