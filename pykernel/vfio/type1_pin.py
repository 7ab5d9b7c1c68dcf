"""
Pages of a mapping: pinned, charged to who mapped them, and put into the domains
(drivers/vfio/vfio_iommu_type1.c: vfio_pin_map_dma(), vfio_pin_pages_remote(), vfio_unmap_unpin()).

Pages are pinned in batches; what is contiguous is one extent, which a domain maps at once, in as large pages as it
has. What is no memory that the kernel counts - a BAR, the page of zeros - is neither pinned nor charged: *reserved*.
"""

from __future__ import annotations

from collections import deque
from errno import ENODEV, ENOMEM
from typing import TYPE_CHECKING, Any, Final

from pykernel.errors import Oops, err
from pykernel.iommu.iommu import IOMMU_CACHE, IOMMU_WRITE
from pykernel.log import WARNING
from pykernel.mm.locked import account_locked_vm
from pykernel.mm.phys import ZERO_PA, Run, merged
from pykernel.mm.uaccess import PAGE_SIZE
from pykernel.task import RLIMIT_MEMLOCK

if TYPE_CHECKING:
    from pykernel.vfio.type1_dma import VfioDma, VfioPfn
    from pykernel.vfio.type1_state import VfioIommu

__all__ = [
    "Batch",
    "pin_page",
    "put_page",
    "vfio_iommu_map",
    "vfio_lock_acct",
    "vfio_pin_map_dma",
    "vfio_remove_dma",
    "vfio_unmap_unpin",
    "vfio_unpin_dma",
]

VFIO_BATCH_MAX_CAPACITY: Final = 512
SHIFT: Final = 12


def vfio_lock_acct(dma: VfioDma, npage: int, *, async_: bool = False) -> None:
    """
    Charge *npage* pages, or give back as many when it is negative.

    C: ``int vfio_lock_acct(struct vfio_dma *, long, bool)``

    Args:
        async_: nothing is done when the process is gone.

    Raises:
        OSError: ENOMEM, more than RLIMIT_MEMLOCK.
    """
    if not npage or (async_ and not dma.mm.users):
        return
    account_locked_vm(dma.mm, abs(npage), inc=npage > 0, task=dma.task, bypass=dma.lock_cap)
    dma.locked_vm += npage


def get_pfns(mem: Any, vaddr: int, npages: int, *, write: bool) -> tuple[list[Run], bool]:
    """
    Pin up to *npages* pages, at least one; of registers, their physical addresses.

    C: ``int vaddr_get_pfns(struct mm_struct *, unsigned long, long, int, unsigned long *, struct page **)``

    Returns:
        Runs, and whether they are reserved.

    Raises:
        OSError: EFAULT.
    """
    try:
        return mem.pin_user_pages(vaddr, npages, write=write), False
    except OSError:
        runs = _pin_some(mem, vaddr, npages, write=write) if npages > 1 else []
        if runs:
            return runs, False
        runs = _follow(mem, vaddr, npages, write=write)
        if not runs:
            raise
    return runs, True


def _pin_some(mem: Any, vaddr: int, npages: int, *, write: bool) -> list[Run]:
    """As many pages as can be pinned before one that cannot."""
    runs: list[Run] = []
    for at in range(vaddr, vaddr + npages * PAGE_SIZE, PAGE_SIZE):
        try:
            runs += mem.pin_user_pages(at, 1, write=write)
        except OSError:
            break
    return merged(runs)


def _follow(mem: Any, vaddr: int, npages: int, *, write: bool) -> list[Run]:
    """Registers: where their pages are. C: ``follow_fault_pfn()``."""
    runs: list[Run] = []
    for at in range(vaddr, vaddr + npages * PAGE_SIZE, PAGE_SIZE):
        try:
            runs.append(Run(mem.follow_pfnmap(at, write=write), 1))
        except OSError:
            break
    return merged(runs)


class Batch:
    """
    ``struct vfio_batch``: what the running task has pinned for a mapping beyond the last extent.

    Raises:
        ENODEV: a kernel thread has no memory.
    """

    def __init__(self, iommu: VfioIommu) -> None:
        task = iommu.kernel.current
        if task.mm is None:
            raise err(ENODEV, "no user memory")
        self.iommu = iommu
        self.mm = task.mm
        self.limit = task.rlimit(RLIMIT_MEMLOCK) >> SHIFT
        self.huge = not iommu.param["disable_hugepages"]
        self.runs: deque[tuple[Run, bool]] = deque()

    def pin(self, dma: VfioDma, iova: int, npage: int) -> tuple[int, int]:
        """
        The next extent of *dma*, of *npage* pages at most: pinned, charged and noted there.

        C: ``long vfio_pin_pages_remote(...)``

        Returns:
            Physical address, number of pages.

        Raises:
            OSError: ENOMEM, more than RLIMIT_MEMLOCK; EFAULT, nothing is there, or it is read-only.
        """
        pinned: list[Run] = []  # not the reserved ones
        pa, n, charge, reserved = -1, 0, 0, False
        try:
            while n < npage:
                if not self.runs:
                    self._refill(dma, iova + (n << SHIFT), npage - n)
                run, rsvd = self.runs[0]
                if pa < 0:
                    pa, reserved = run.pa, rsvd
                elif run.pa != pa + (n << SHIFT) or rsvd != reserved:
                    break
                if not rsvd:
                    charge += run.npages - self._already(dma, iova + (n << SHIFT), run.npages)
                    if not dma.lock_cap and self.mm.locked_vm + charge > self.limit:
                        self._exceeded()
                    pinned.append(run)
                n += run.npages
                self.runs.popleft()
                if not self.huge:
                    break
            vfio_lock_acct(dma, charge)
        except OSError:
            put_pages(self.mm.mem, pinned, dma.prot)
            self.drop(dma)
            raise
        if pinned:
            dma.pins.append((self.mm.mem, pinned))
        dma.extents.append((pa, n))
        return pa, n

    def _refill(self, dma: VfioDma, iova: int, npage: int) -> None:
        vaddr = dma.vaddr + iova - dma.iova
        want = min(npage, VFIO_BATCH_MAX_CAPACITY if self.huge else 1)
        mem = self.mm.mem
        runs, reserved = get_pfns(mem, vaddr, want, write=bool(dma.prot & IOMMU_WRITE))
        for run in runs:
            if run.pa == ZERO_PA:  # always there: it needs no pin
                mem.unpin_user_pages([run])
            self.runs.append((run, reserved or run.pa == ZERO_PA))

    @staticmethod
    def _already(dma: VfioDma, iova: int, npages: int) -> int:
        """How many of the pages drivers have pinned: those are charged."""
        if not dma.pfns:
            return 0
        return sum(at in dma.pfns for at in range(iova, iova + (npages << SHIFT), PAGE_SIZE))

    def _exceeded(self) -> None:
        text = f"vfio_pin_pages_remote: RLIMIT_MEMLOCK ({self.limit << SHIFT}) exceeded"
        self.iommu.kernel.log.printk(WARNING, text)
        raise err(ENOMEM, text)

    def drop(self, dma: VfioDma) -> None:
        """Give back what was pinned and is not mapped. C: ``vfio_batch_unpin(batch, dma)``."""
        put_pages(self.mm.mem, [run for run, reserved in self.runs if not reserved], dma.prot)
        self.runs.clear()


def put_pages(mem: Any, runs: list[Run], prot: int) -> None:
    """C: ``put_pfn(pfn, prot)`` of several."""
    if runs:
        mem.unpin_user_pages(runs, dirty=bool(prot & IOMMU_WRITE))


def vfio_iommu_map(iommu: VfioIommu, iova: int, pa: int, npage: int, prot: int) -> None:
    """Map an extent in all domains, or in none. C: of the same name. Raises what the domain says."""
    for n, d in enumerate(iommu.domain_list):
        try:
            d.domain.map(iova, pa, npage << SHIFT, prot | IOMMU_CACHE)
        except OSError:
            for before in reversed(iommu.domain_list[:n]):
                before.domain.unmap(iova, npage << SHIFT)
            raise


def vfio_pin_map_dma(iommu: VfioIommu, dma: VfioDma) -> None:
    """
    Pin all of *dma* and map it. On failure nothing of it is left.

    C: ``int vfio_pin_map_dma(struct vfio_iommu *, struct vfio_dma *, size_t)``

    Raises:
        OSError: as :meth:`Batch.pin`, and what a domain says.
    """
    batch = Batch(iommu)
    iova, end, prot = dma.iova, dma.iova + dma.size, dma.prot
    dma.iommu_mapped = True
    try:
        while iova < end:
            pa, npage = batch.pin(dma, iova, end - iova >> SHIFT)
            vfio_iommu_map(iommu, iova, pa, npage, prot)
            iova += npage << SHIFT
    except OSError:
        batch.drop(dma)
        for d in iommu.domain_list:
            if iova > dma.iova:
                d.domain.unmap(dma.iova, iova - dma.iova)
        vfio_lock_acct(dma, -vfio_unpin_dma(dma), async_=True)
        raise


def vfio_unpin_dma(dma: VfioDma) -> int:
    """Give the pins of *dma* back: how many pages that were. C: ``vfio_unpin_pages_remote()`` of all extents."""
    unlocked = 0
    for mem, runs in dma.pins:
        mem.unpin_user_pages(runs, dirty=bool(dma.prot & IOMMU_WRITE))
        for run in runs:
            unlocked += run.npages
    dma.pins.clear()
    dma.extents.clear()
    dma.iommu_mapped = False
    return unlocked


def vfio_unmap_unpin(iommu: VfioIommu, dma: VfioDma) -> int:
    """Take *dma* out of all domains: how many charged pages that were. C: of the same name, not accounting."""
    if not iommu.domain_list:
        return 0
    for d in iommu.domain_list:
        d.domain.unmap(dma.iova, dma.size)
    return vfio_unpin_dma(dma)


def vfio_remove_dma(iommu: VfioIommu, dma: VfioDma) -> None:
    """C: ``void vfio_remove_dma(struct vfio_iommu *, struct vfio_dma *)``."""
    if dma.pfns:
        iommu.kernel.oops(Oops(f"WARN_ON(!RB_EMPTY_ROOT(&dma->pfn_list)): {dma} is unmapped while drivers have pins"))
        iommu.lost.extend(dma.pfns.values())
    unlocked = vfio_unmap_unpin(iommu, dma)
    if unlocked:
        vfio_lock_acct(dma, -unlocked, async_=True)
    iommu.dma_list.remove(dma)
    if dma.vaddr_invalid:
        iommu.vaddr_invalid_count -= 1
    iommu.dma_avail += 1


# ---- a page for a driver


def pin_page(iommu: VfioIommu, dma: VfioDma, vaddr: int, *, accounting: bool) -> tuple[int, list[Run]]:
    """
    Pin one page of who mapped *dma*, charged if *accounting*.

    C: ``int vfio_pin_page_external(struct vfio_dma *, unsigned long, unsigned long *, bool)``

    Returns:
        Its physical address, and the pin; no pin is one of reserved memory.

    Raises:
        OSError: ENODEV, the process is gone; EFAULT; ENOMEM, more than RLIMIT_MEMLOCK.
    """
    if not dma.mm.users:
        raise err(ENODEV, "who mapped it is gone")
    mem = dma.mm.mem
    runs, reserved = get_pfns(mem, vaddr, 1, write=bool(dma.prot & IOMMU_WRITE))
    pa = runs[0].pa
    if not reserved and pa == ZERO_PA:
        mem.unpin_user_pages(runs)
        reserved = True
    if reserved:
        return pa, []
    if accounting:
        try:
            vfio_lock_acct(dma, 1)
        except OSError as e:
            put_pages(mem, runs, dma.prot)
            if e.errno == ENOMEM:
                limit = dma.task.rlimit(RLIMIT_MEMLOCK)
                iommu.kernel.log.printk(
                    WARNING,
                    f"vfio_pin_page_external: Task {dma.task.comm} ({dma.task.pid}) RLIMIT_MEMLOCK ({limit}) exceeded",
                )
            raise
    return pa, runs


def put_page(dma: VfioDma, vpfn: VfioPfn) -> int:
    """
    Drop one reference of a page; the last gives the pin back. C: ``int vfio_iova_put_vfio_pfn(...)``.

    Returns:
        How many charged pages that were.
    """
    vpfn.ref_count -= 1
    if vpfn.ref_count:
        return 0
    put_pages(vpfn.mem, vpfn.runs, dma.prot)
    del dma.pfns[vpfn.iova]
    return len(vpfn.runs)
