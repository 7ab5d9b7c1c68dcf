"""
The memory of a virtual machine: slots, extended page tables and what fills them (arch/x86/kvm/mmu/mmu.c, tdp_mmu.c).

An access of the guest that the tables do not know is an EPT violation, and KVM looks its page up: guest page, slot,
address in the VMM, host frame. Registers that the VMM has mapped (VM_IO: the portals of a VFIO device) are entered
uncached, so the guest's stores go to the device without an exit. What no slot has is MMIO: the first access is a
violation, further ones find an entry of KVM's that is misconfigured, which is faster on silicon. Translations that were
used are cached, as in a TLB; the VMM's mmu notifier and changes of slots take them away.

The code of a guest's kernel, which is Python, does not go through here: its RAM (:class:`GuestRam`) is the slots'
frames mapped again. :meth:`Mmu.back` pins them for that, so they stay the guest's as long as the slot is there,
whatever the VMM unmaps. What goes through here is what KVM itself reads and writes, and the guest's accesses to MMIO
and to mapped registers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from errno import EFAULT, EINVAL, ENOENT
from typing import TYPE_CHECKING, Final, Protocol

from pykernel.errors import err
from pykernel.mm.guest import GuestRam
from pykernel.mm.notifier import mmu_notifier_register, mmu_notifier_unregister
from pykernel.mm.phys import PAGE_SIZE, PhysMem, Run, merged
from pykernel.uapi.linux.kvm import (
    KVM_DIRTY_LOG_INITIALLY_SET,
    KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE,
    KVM_MEM_LOG_DIRTY_PAGES,
)
from pykernel.virt.kvm import dirty
from pykernel.virt.kvm.ept import (
    EPT_ACCESSED,
    EPT_DIRTY,
    EPT_IPAT,
    EPT_LARGE,
    EPT_MISCONFIG_WX,
    EPT_MT_SHIFT,
    EPT_R,
    EPT_W,
    EPT_X,
    MT_UC,
    MT_WB,
    Ept,
    EptMisconfig,
    EptViolation,
)
from pykernel.virt.kvm.memslots import (
    KVM_USER_MEM_SLOTS,
    Change,
    MemSlot,
    MemSlots,
    region_change,
    slot_ids,
)

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

    from pykernel.kernel import Kernel
    from pykernel.mm.uaccess import UserMemory
    from pykernel.mm.vma import VmaList
    from pykernel.task import Mm

__all__ = ["EptMisconfig", "EptViolation", "Mmu"]

_PAGE_MASK: Final = PAGE_SIZE - 1
_MMIO_ENTRIES: Final = 4096  # so many emulated pages are remembered
_LARGEST: Final = 3  # 1 GiB
_INIT_SET: Final = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET


class _Vm(Protocol):
    """What of a virtual machine its memory needs: ``struct kvm``."""

    kernel: Kernel
    mm: Mm


class Mmu:
    """
    The memory of one virtual machine.

    Args:
        vm: its ``kernel``, and ``mm``, the VMM's address space.

    Attributes:
        spaces: the slots of each address space; the guest's accesses see the first.
        ept: the tables.
        manual_protect: flags of KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2.
        ram: the guest kernel's RAM, if slots back it.

    Raises:
        OSError: ENOMEM.
    """

    def __init__(self, vm: _Vm) -> None:
        self.kernel = vm.kernel
        self.mem: UserMemory = vm.mm.mem
        self.phys: PhysMem = vm.kernel.sub(PhysMem)
        self.spaces = [MemSlots(), MemSlots()]
        self.slots = self.spaces[0]
        self.ept = Ept(self.phys)
        self.manual_protect = 0
        self.ram: GuestRam | None = None
        self._pinned: dict[MemSlot, list[Run]] = {}
        self._reads: dict[int, int] = {}  # the TLB: guest page -> address of the host's frame
        self._writes: dict[int, int] = {}
        self._mmio: set[int] = set()
        mmu_notifier_register(self.mem, self)

    def destroy(self) -> None:
        """The virtual machine goes: slots, tables, pins. C: ``kvm_destroy_vm()``, of the memory."""
        mmu_notifier_unregister(self.mem, self)
        for slots in self.spaces:
            for slot in list(slots):
                self._unback(slot)
                slots.remove(slot)
        self.ept.destroy()

    # ---- the processor

    def translate(self, gpa: int, *, write: bool = False) -> int:
        """
        The host's physical address of the byte at *gpa*, as the processor finds it for an access of the guest.

        KVM handles the violations that it can handle, and the access is made again.

        Raises:
            EptViolation: KVM cannot: ``mmio`` says whether the VMM emulates it.
            EptMisconfig: a page that is known to be emulated.
            OSError: ENOMEM, no frame for a table.
        """
        pa = (self._writes if write else self._reads).get(gpa >> 12)
        if pa is not None:
            return pa | gpa & _PAGE_MASK
        try:
            pa = self.ept.walk(gpa, write=write)[0]
        except EptViolation:
            self._fault(gpa, write=write)
            pa = self.ept.walk(gpa, write=write)[0]
        gfn = gpa >> 12
        self._reads[gfn] = pa & -PAGE_SIZE
        if write:
            self._writes[gfn] = pa & -PAGE_SIZE
        return pa

    # ---- faults

    def _fault(self, gpa: int, *, write: bool) -> None:
        """Handle an EPT violation. C: ``kvm_tdp_page_fault()``. Raises EptViolation: it cannot be."""
        gfn = gpa >> 12
        slot = self.slots.find(gfn)
        if slot is None:
            self._remember_mmio(gpa)
            raise EptViolation(gpa, write=write, cause="no slot")
        if write and slot.readonly:
            raise EptViolation(gpa, write=write, rights=self.ept.entry(gfn)[0] & 7, cause="read-only")
        # virt/kvm/kvm_main.c:hva_to_pfn()
        hva = slot.hva(gfn)
        try:
            pa, writable, is_io = self._look_up(hva, write=write)
        except OSError as e:
            raise EptViolation(gpa, write=write, cause="fault") from e
        writable = writable and not slot.readonly
        if not write and slot.dirty_bitmap is not None:
            writable = False  # only what is written is dirty; Linux reports what it could map writable, too
        level = 1 if is_io or slot.dirty_bitmap is not None else self._level(slot, gfn, pa, writable=writable)
        size = 1 << 9 * (level - 1)
        self._enter(gfn & -size, level, pa & -(size << 12), writable=writable, is_io=is_io)
        if writable:
            dirty.mark(slot, gfn)

    def _look_up(self, hva: int, *, write: bool) -> tuple[int, bool, bool]:
        """The frame of the VMM's page, whether it may be written, whether it is registers. Raises EFAULT, ENOMEM."""
        find = getattr(self.mem, "translate", None)
        if find is not None:
            pa = find(hva, write=True)
            if pa is not None:
                return pa, True, False
        try:
            pa = self.mem.get_user_page(hva, write=write)
        except OSError:
            pa = self.mem.follow_pfnmap(hva, write=write)
            if write:
                return pa, True, True
            try:
                self.mem.follow_pfnmap(hva, write=True)
            except OSError:
                return pa, False, True
            return pa, True, True
        return pa, write, False

    def _level(self, slot: MemSlot, gfn: int, pa: int, *, writable: bool) -> int:
        """The largest page that the slot and the host's frames allow. C: ``kvm_mmu_max_mapping_level()``."""
        level = 1
        while level < _LARGEST:
            pages = 1 << 9 * level
            first = gfn & -pages
            if first < slot.base_gfn or first + pages > slot.end_gfn:
                break
            hva = slot.hva(first)
            if hva & (pages << 12) - 1 or (pa ^ (gfn << 12)) & (pages << 12) - 1:
                break
            spans, found = self.mem.translate_range(hva, pages << 12, write=writable)  # type: ignore[attr-defined]
            if found < pages << 12 or len(spans) > 1:
                break
            level += 1
        return level

    def _enter(self, gfn: int, level: int, pa: int, *, writable: bool, is_io: bool) -> None:
        """One entry. C: ``make_spte()``, ``vmx_get_mt_mask()``. Raises ENOMEM."""
        entry = pa | EPT_R | EPT_X | EPT_ACCESSED
        entry |= MT_UC << EPT_MT_SHIFT if is_io else MT_WB << EPT_MT_SHIFT | EPT_IPAT
        if writable:
            entry |= EPT_W | EPT_DIRTY
        self.ept.set(gfn, level, entry | (EPT_LARGE if level > 1 else 0))

    def _remember_mmio(self, gpa: int) -> None:
        """The next access is a misconfiguration. C: ``mark_mmio_spte()``."""
        if gpa >> 48:
            return
        if len(self._mmio) >= _MMIO_ENTRIES:
            self._forget_mmio()
        gfn = gpa >> 12
        self._mmio.add(gfn)
        self.ept.set(gfn, 1, gfn << 12 | EPT_MISCONFIG_WX)

    def _forget_mmio(self) -> None:
        """C: ``kvm_mmu_invalidate_mmio_sptes()``: a new generation of slots."""
        for gfn in self._mmio:
            self.ept.zap(gfn, gfn + 1)
        self._mmio.clear()

    # ---- invalidation

    def invalidate_range(self, start: int, end: int) -> None:
        """The VMM's pages change. C: ``kvm_mmu_notifier_invalidate_range_start()``."""
        for slots in self.spaces:
            for slot, first, last in slots.by_hva(start, end):
                self.zap(max(first, slot.base_gfn), last)

    def release(self) -> None:
        """The VMM's address space goes. C: ``kvm_mmu_notifier_release()``, ``kvm_flush_shadow_all()``."""
        self.zap(0, 1 << 40)
        self._mmio.clear()
        for slot in list(self._pinned):
            self._unback(slot)

    def zap(self, start: int, end: int) -> None:
        """Forget the guest pages *start* to *end*, and what is cached of them."""
        self.ept.zap(start, end)
        self.flush(start, end)

    def flush(self, start: int, end: int) -> None:
        """Empty the TLB of these pages. C: ``kvm_flush_remote_tlbs_range()``, INVEPT."""
        for tlb in (self._reads, self._writes):
            if end - start > len(tlb):
                for gfn in [gfn for gfn in tlb if start <= gfn < end]:
                    del tlb[gfn]
            else:
                for gfn in range(start, end):
                    tlb.pop(gfn, None)

    # ---- slots

    def set_memory_region(self, slot: int, flags: int, gpa: int, size: int, hva: int) -> None:
        """
        Make, move, change or (*size* 0) delete a slot.

        C: ``KVM_SET_USER_MEMORY_REGION``, ``int kvm_set_memory_region()``

        Raises:
            OSError: EINVAL, EEXIST, see region_change(); ENOMEM or EFAULT, the guest kernel's RAM cannot be backed.
        """
        found = region_change(self.spaces, slot, flags, gpa, size, hva)
        if found is None:
            return
        change, old, new = found
        slots = self.spaces[slot >> 16]
        if old is not None and change is not Change.FLAGS_ONLY:
            self.zap(old.base_gfn, old.end_gfn)
        if new is not None:
            dirty.prepare(new, old, init_set=self.manual_protect & _INIT_SET == _INIT_SET)
            if change is not Change.FLAGS_ONLY:
                self._back(new, old)
        if old is not None:
            if change is Change.FLAGS_ONLY and new is not None and old in self._pinned:
                self._pinned[new] = self._pinned.pop(old)
            self._unback(old)
            slots.remove(old)
        if new is not None:
            slots.insert(new)
            if change is Change.FLAGS_ONLY and new.flags & KVM_MEM_LOG_DIRTY_PAGES:
                self.zap(new.base_gfn, new.end_gfn)  # C: kvm_mmu_slot_remove_write_access()
            if new.dirty_bitmap is not None and new.clean is None:
                dirty.start(new, self.mem)
        self._forget_mmio()

    # ---- the log of written pages

    def mark_dirty(self, gpa: int) -> None:
        """The page of *gpa* was written. C: ``void mark_page_dirty(struct kvm *, gfn_t)``."""
        slot = self.slots.find(gpa >> 12)
        if slot is not None:
            dirty.mark(slot, gpa >> 12)

    def get_dirty_log(self, slot: int) -> bytes:
        """
        The bitmap of *slot*, which is clear then, unless KVM_CLEAR_DIRTY_LOG is to do it (``manual_protect``).

        C: ``KVM_GET_DIRTY_LOG``, ``kvm_get_dirty_log_protect()``; the caller copies it out, EFAULT loses it.

        Raises:
            OSError: EINVAL, no such number; ENOENT, no such slot, or it is not logged.
        """
        found, bitmap = self._logged(*slot_ids(slot, KVM_USER_MEM_SLOTS))
        dirty.sync(found, self.mem)
        log = bytes(bitmap)
        if not self.manual_protect & KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE:
            self._protect(dirty.take(found, 0, log))
        return log

    def clear_dirty_log(self, slot: int, first: int, npages: int, read: Callable[[int], bytes]) -> None:
        """
        Clear bits of *slot* from page *first* on: those that are set in the VMM's bitmap, *read* (number of bytes).

        C: ``KVM_CLEAR_DIRTY_LOG``, ``kvm_clear_dirty_log_protect()``

        Raises:
            OSError: EINVAL, no such number or pages, *first* is no multiple of 64, nor *npages* before the end; ENOENT,
                no such slot, or it is not logged; what *read* raises (EFAULT).
        """
        ids = slot_ids(slot, KVM_USER_MEM_SLOTS)
        if first & 63:
            raise err(EINVAL, f"page {first} is no multiple of 64")
        found, _ = self._logged(*ids)
        left = found.npages - first
        if left < 0 or npages > left or (npages < left and npages & 63):
            raise err(EINVAL, f"{npages} pages from {first} of {found.npages}")
        dirty.sync(found, self.mem)
        self._protect(dirty.take(found, first, read(-(-npages // 64) * 8)))

    def _logged(self, as_id: int, id: int) -> tuple[MemSlot, bytearray]:
        slot = self.spaces[as_id].by_id.get(id)
        if slot is None or slot.dirty_bitmap is None:
            raise err(ENOENT, f"slot {id} is not there or not logged")
        return slot, slot.dirty_bitmap

    def _protect(self, gfns: list[int]) -> None:
        """The next write of these is seen. C: ``kvm_arch_mmu_enable_log_dirty_pt_masked()``."""
        for gfn in gfns:
            self._writes.pop(gfn, None)
            self.ept.protect(gfn)

    # ---- accesses of KVM itself

    def vm_read(self, gpa: int, n: int) -> bytes:
        """
        *n* bytes of the guest's memory.

        C: ``int kvm_read_guest(struct kvm *, gpa_t, void *, unsigned long)``

        Raises:
            OSError: EFAULT, no slot, or the VMM has no memory there.
        """
        return b"".join(
            [self.mem.read(slot.hva(gpa >> 12) + (gpa & _PAGE_MASK), step) for slot, gpa, step in self._pages(gpa, n)]
        )

    def vm_write(self, gpa: int, data: ReadableBuffer) -> None:
        """
        Store *data*, which makes its pages dirty.

        C: ``int kvm_write_guest(struct kvm *, gpa_t, const void *, unsigned long)``

        Raises:
            OSError: EFAULT, no slot, a read-only one, or the VMM may not write there; what lies before is written.
        """
        view = memoryview(data).cast("B")
        done = 0
        for slot, at, step in self._pages(gpa, len(view)):
            if slot.readonly:
                raise err(EFAULT, f"guest-physical {at:#x} is read-only")
            self.mem.write(slot.hva(at >> 12) + (at & _PAGE_MASK), view[done : done + step])
            dirty.mark(slot, at >> 12)
            done += step

    def _pages(self, gpa: int, n: int) -> Iterator[tuple[MemSlot, int, int]]:
        """Page by page: the slot, the address, and how many bytes. Raises EFAULT when it comes to one without slot."""
        while n > 0:
            slot = self.slots.find(gpa >> 12)
            if slot is None:
                raise err(EFAULT, f"no slot has guest-physical {gpa:#x}")
            step = min(n, PAGE_SIZE - (gpa & _PAGE_MASK))
            yield slot, gpa, step
            gpa, n = gpa + step, n - step

    # ---- the guest kernel's RAM

    def back(self, ram: GuestRam) -> None:
        """
        *ram* is the slots' memory from now on, those to come among them: the VMM's pages are pinned and placed.

        What is placed already, of another host, is moved here: the VMM has copied it.

        Raises:
            OSError: EFAULT, the VMM has no memory there that it may write; EINVAL, another host has other pages placed;
                ENOMEM, EINVAL, ENODEV of GuestRam.place().
        """
        mine = [slot for slot in self.slots if self._backs(slot, ram)]
        if ram.host is not None and ram.extents() != merged(Run(slot.base_gfn << 12, slot.npages) for slot in mine):
            raise err(EINVAL, "the slots are not where the guest's RAM is")
        runs = {slot: self._pin(slot) for slot in mine}
        self._pinned |= runs
        try:
            if ram.host is None:
                for slot in mine:
                    ram.place(slot.base_gfn << 12, self.phys, runs[slot])
            else:
                ram.move(self.phys, [run for slot in mine for run in runs[slot]])
        except OSError:
            if ram.host is self.phys:
                ram.clear()
            for slot in mine:
                self.mem.unpin_user_pages(self._pinned.pop(slot))
            raise
        self.ram = ram

    def leave(self) -> None:
        """The guest kernel goes on elsewhere: its RAM stays as it is, and no slot backs it."""
        self.ram = None
        for runs in self._pinned.values():
            self.mem.unpin_user_pages(runs)
        self._pinned.clear()

    def _backs(self, slot: MemSlot, ram: GuestRam) -> bool:
        """Whether *slot* is RAM of the guest, not a device's registers in it or a ROM."""
        areas: VmaList | None = getattr(self.mem, "vmas", None)
        vma = areas.find(slot.userspace_addr) if areas is not None else None
        is_io = vma is not None and vma.io is not None
        return slot.as_id == 0 and not slot.readonly and not is_io and ram.is_ram(slot.base_gfn << 12)

    def _pin(self, slot: MemSlot) -> list[Run]:
        return self.mem.pin_user_pages(slot.userspace_addr, slot.npages, write=True)

    def _back(self, new: MemSlot, old: MemSlot | None) -> None:
        ram = self.ram
        if ram is None or not self._backs(new, ram):
            return
        runs = self._pin(new)
        before = self._pinned.get(old) if old is not None else None
        if old is not None and before is not None:
            ram.unplace(old.base_gfn << 12, old.npages)
        try:
            ram.place(new.base_gfn << 12, self.phys, runs)
        except OSError:
            if old is not None and before is not None:
                ram.place(old.base_gfn << 12, self.phys, before)
            self.mem.unpin_user_pages(runs)
            raise
        self._pinned[new] = runs

    def _unback(self, slot: MemSlot) -> None:
        runs = self._pinned.pop(slot, None)
        if runs is None:
            return
        ram = self.ram
        if ram is not None and ram.host is self.phys and ram.host_phys(slot.base_gfn << 12) == runs[0].pa:
            ram.unplace(slot.base_gfn << 12, slot.npages)
        self.mem.unpin_user_pages(runs)
