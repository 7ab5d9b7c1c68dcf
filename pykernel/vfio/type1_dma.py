"""
The mappings of one container in order (drivers/vfio/vfio_iommu_type1.c: struct vfio_dma, its tree, struct vfio_pfn).

Looking one up, adding one and taking one off cost the logarithm of their number. Mappings do not overlap, with one
exception: before Linux 6.18 the end of a mapping up to the last address, 2 ** 64, is 0 in the tree's arithmetic. No
look-up finds such a mapping, nor does a range that ends there find anything; it goes with the container. They are
kept apart here, and the others are found as ever.

Linux has them in the same tree, sorted to the left, so that the tree is out of order. What else comes of it depends on
the shape that all calls before gave the tree, and is not imitated: mappings that are left of one are not found to be
unmapped, an unmap of all that begins left of one takes it off, and a dirty bitmap may end at it.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

from sortedcontainers import SortedDict

if TYPE_CHECKING:
    from pykernel.task import Mm, Task

__all__ = ["ADDRESSES", "DmaList", "VfioDma", "VfioPfn"]

ADDRESSES: Final = 1 << 64


class VfioPfn:
    """
    A page that drivers of emulated devices pinned. C: ``struct vfio_pfn``.

    Attributes:
        iova: its address for devices.
        pa: its physical address.
        runs: the pin, and ``mem`` the address space to give it back to.
        ref_count: how many times it is pinned.
    """

    __slots__ = ("iova", "mem", "pa", "ref_count", "runs")

    def __init__(self, iova: int, pa: int, mem: Any, runs: list[Any]) -> None:
        self.iova = iova
        self.pa = pa
        self.mem = mem
        self.runs = runs
        self.ref_count = 1


class VfioDma:
    """
    One mapping. C: ``struct vfio_dma``.

    Attributes:
        iova, vaddr, size: address for devices, of the process, and bytes.
        prot: IOMMU_READ, IOMMU_WRITE.
        iommu_mapped: whether the domains have it.
        lock_cap: whether who mapped it had CAP_IPC_LOCK.
        vaddr_invalid: the process's address was taken back, until another is given.
        task, mm: who is charged.
        locked_vm: pages charged.
        pfns: what drivers pinned, by iova.
        bitmap: a bit a page: written; None while nobody tracks.
        extents: while mapped, what is contiguous: (physical address, pages).
        pins: while mapped, how to give the pages back: (address space, runs).
        origin: the line that made it, for a leak report.
    """

    __slots__ = (
        "bitmap",
        "extents",
        "iommu_mapped",
        "iova",
        "lock_cap",
        "locked_vm",
        "mm",
        "origin",
        "pfns",
        "pins",
        "prot",
        "size",
        "task",
        "vaddr",
        "vaddr_invalid",
    )

    def __init__(self, iova: int, vaddr: int, size: int, prot: int, task: Task, mm: Mm, *, lock_cap: bool) -> None:
        self.iova = iova
        self.vaddr = vaddr
        self.size = size
        self.prot = prot
        self.task = task
        self.mm = mm
        self.lock_cap = lock_cap
        self.iommu_mapped = False
        self.vaddr_invalid = False
        self.locked_vm = 0
        self.pfns: dict[int, VfioPfn] = {}
        self.bitmap: bytearray | None = None
        self.extents: list[tuple[int, int]] = []
        self.pins: list[tuple[Any, list[Any]]] = []
        self.origin = ""

    @property
    def end(self) -> int:
        """The first address behind it."""
        return self.iova + self.size

    def __str__(self) -> str:
        return f"{self.iova:#x}-{self.end - 1:#x}"


class DmaList:
    """
    ``dma_list``, the tree of mappings.

    Args:
        whole: a mapping up to the last address is found as any other (Linux 6.18).
    """

    def __init__(self, *, whole: bool) -> None:
        self._whole = whole
        self._dmas: SortedDict = SortedDict()  # iova -> VfioDma
        self._top: list[VfioDma] = []  # those that end at 2 ** 64, unless they are found

    def __len__(self) -> int:
        return len(self._dmas) + len(self._top)

    def __iter__(self) -> Iterator[VfioDma]:
        """All, by address."""
        if not self._top:
            return iter(self._dmas.values())
        return iter(sorted(chain(self._top, self._dmas.values()), key=attrgetter("iova")))

    def _wraps(self, end: int) -> bool:
        return end >= ADDRESSES and not self._whole

    def find(self, start: int, size: int) -> VfioDma | None:
        """
        A mapping of which some part is in the range; with *size* 0, one that has *start* behind its first address.

        C: ``vfio_find_dma(iommu, start, size)``
        """
        end = start + size
        if self._wraps(end):
            end -= ADDRESSES
        for key in self._dmas.irange(maximum=end - 1, reverse=True):
            dma: VfioDma = self._dmas[key]
            return dma if start < dma.end else None
        return None

    def at(self, iova: int, size: int) -> VfioDma | None:
        """The mapping that is exactly this range."""
        dma: VfioDma | None = self._dmas.get(iova)
        return dma if dma is not None and dma.size == size else None

    def walk(self, start: int, size: int) -> Iterator[VfioDma]:
        """
        The mappings that reach into the range or begin in it, by address. Those that were given may go meanwhile.

        C: ``vfio_find_dma_first_node(iommu, start, size)`` and ``rb_next()`` until behind the range
        """
        end = start + size
        if self._wraps(end):
            return
        dma = self.find(start, 1) or self._after(start - 1, end)
        while dma is not None:
            yield dma
            dma = self._after(dma.iova, end)

    def _after(self, iova: int, end: int) -> VfioDma | None:
        """The first mapping that begins behind *iova* and before *end*."""
        key = next(self._dmas.irange(iova + 1, end - 1), None)
        return None if key is None else self._dmas[key]

    def within(self, start: int, size: int) -> list[VfioDma]:
        """The mappings that begin in the range, by address."""
        end = start + size
        found = [self._dmas[key] for key in self._dmas.irange(start, end - 1)]
        if self._top:
            found += [dma for dma in self._top if start <= dma.iova < end]
            found.sort(key=attrgetter("iova"))
        return found

    def add(self, dma: VfioDma) -> None:
        """C: ``vfio_link_dma(iommu, dma)``."""
        if self._wraps(dma.end):
            self._top.insert(0, dma)
        else:
            self._dmas[dma.iova] = dma

    def remove(self, dma: VfioDma) -> None:
        """C: ``vfio_unlink_dma(iommu, dma)``."""
        if self._wraps(dma.end):
            self._top.remove(dma)
        else:
            del self._dmas[dma.iova]
