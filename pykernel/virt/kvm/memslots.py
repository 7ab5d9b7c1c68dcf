"""
Memory slots: which guest-physical pages are which pages of the VMM (virt/kvm/kvm_main.c).

``KVM_SET_USER_MEMORY_REGION`` makes, moves, changes and deletes them; checks are in Linux's order. There are two
address spaces: the second is that of system management mode, which only its slots have.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from enum import Enum
from errno import EEXIST, EINVAL
from typing import Final

from pykernel.cpu.cpuid import MAXPHYADDR
from pykernel.errors import err
from pykernel.mm.phys import PAGE_SIZE
from pykernel.mm.uaccess import access_ok
from pykernel.uapi.linux.kvm import KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY

__all__ = [
    "KVM_USER_MEM_SLOTS",
    "NR_ADDRESS_SPACES",
    "Change",
    "MemSlot",
    "MemSlots",
    "region_change",
    "slot_ids",
]

# include/linux/kvm_host.h, arch/x86/include/asm/kvm_host.h
_MEM_SLOTS_NUM: Final = 32767
KVM_USER_MEM_SLOTS: Final = _MEM_SLOTS_NUM - 3
KVM_MEM_MAX_NR_PAGES: Final = (1 << 31) - 1
NR_ADDRESS_SPACES: Final = 2  # CONFIG_KVM_SMM
_MAX_GFN: Final = (1 << MAXPHYADDR - 12) - 1  # arch/x86/kvm/mmu.h:kvm_mmu_max_gfn()
_U64: Final = 1 << 64


class Change(Enum):
    """What happens to a slot. C: ``enum kvm_mr_change``."""

    CREATE = "create"
    DELETE = "delete"
    MOVE = "move"
    FLAGS_ONLY = "flags"


class MemSlot:
    """
    One slot. C: ``struct kvm_memory_slot``.

    Attributes:
        base_gfn: number of its first guest page.
        npages: how many.
        userspace_addr: where the VMM has the first.
        dirty_bitmap: one bit a page, in whole words of 64; None: not logged.
        clean: what its pages held when they were last found clean, by page of the slot; see dirty.py.
    """

    __slots__ = ("as_id", "base_gfn", "clean", "dirty_bitmap", "flags", "id", "npages", "userspace_addr")

    def __init__(self, as_id: int, id: int, base_gfn: int, npages: int, flags: int, userspace_addr: int) -> None:
        self.as_id, self.id = as_id, id
        self.base_gfn, self.npages = base_gfn, npages
        self.flags, self.userspace_addr = flags, userspace_addr
        self.dirty_bitmap: bytearray | None = None
        self.clean: bytearray | None = None

    @property
    def readonly(self) -> bool:
        """C: ``memslot_is_readonly(slot)``."""
        return bool(self.flags & KVM_MEM_READONLY)

    @property
    def end_gfn(self) -> int:
        """The page after the last."""
        return self.base_gfn + self.npages

    @property
    def bitmap_bytes(self) -> int:
        """C: ``kvm_dirty_bitmap_bytes(memslot)``."""
        return -(-self.npages // 64) * 8

    def hva(self, gfn: int) -> int:
        """C: ``__gfn_to_hva_memslot(slot, gfn)``."""
        return self.userspace_addr + (gfn - self.base_gfn << 12)

    def __repr__(self) -> str:
        return f"<MemSlot {self.id} gpa {self.base_gfn << 12:#x} pages {self.npages} flags {self.flags}>"


def slot_ids(slot: int, limit: int) -> tuple[int, int]:
    """Address space and number of *slot*. Raises EINVAL: there is no such."""
    as_id, id = slot >> 16, slot & 0xFFFF
    if as_id >= NR_ADDRESS_SPACES or id >= limit:
        raise err(EINVAL, f"slot {id} of address space {as_id}: there are {limit} and {NR_ADDRESS_SPACES}")
    return as_id, id


class MemSlots:
    """The slots of one address space of a virtual machine. C: ``struct kvm_memslots``."""

    def __init__(self) -> None:
        self.by_id: dict[int, MemSlot] = {}
        self._starts: list[int] = []
        self._slots: list[MemSlot] = []

    def __iter__(self) -> Iterator[MemSlot]:
        return iter(self._slots)

    def find(self, gfn: int) -> MemSlot | None:
        """The slot that has the guest page *gfn*. C: ``__gfn_to_memslot(slots, gfn)``."""
        at = bisect_right(self._starts, gfn) - 1
        if at >= 0 and gfn < self._slots[at].end_gfn:
            return self._slots[at]
        return None

    def overlaps(self, id: int, start: int, end: int) -> bool:
        """Whether another slot has one of these guest pages. C: ``kvm_check_memslot_overlap()``."""
        return any(s.id != id and s.base_gfn < end and start < s.end_gfn for s in self._slots)

    def insert(self, slot: MemSlot) -> None:
        """Let it be seen."""
        at = bisect_right(self._starts, slot.base_gfn)
        self._starts.insert(at, slot.base_gfn)
        self._slots.insert(at, slot)
        self.by_id[slot.id] = slot

    def remove(self, slot: MemSlot) -> None:
        """Let it be seen no more."""
        at = self._slots.index(slot)
        del self._starts[at], self._slots[at], self.by_id[slot.id]

    def by_hva(self, start: int, end: int) -> Iterator[tuple[MemSlot, int, int]]:
        """Which guest pages are the VMM's *start* to *end*: the slot, the first, and the one after the last."""
        for slot in self._slots:
            low = max(start, slot.userspace_addr)
            high = min(end, slot.userspace_addr + (slot.npages << 12))
            if low < high:
                first = slot.base_gfn + (low - slot.userspace_addr >> 12)
                yield slot, first, slot.base_gfn + (high - slot.userspace_addr + PAGE_SIZE - 1 >> 12)


def region_change(
    spaces: list[MemSlots], slot: int, flags: int, gpa: int, size: int, hva: int
) -> tuple[Change, MemSlot | None, MemSlot | None] | None:
    """
    What a region that is set means: the change, the old slot and the new one; None: nothing changes.

    C: ``int __kvm_set_memory_region(struct kvm *, const struct kvm_userspace_memory_region2 *)``

    Raises:
        OSError: EINVAL, flags, alignment, the VMM's half, a slot or a size that is none, or a change that only a
            deletion and a new slot can make; EEXIST, another slot has some of its pages.
    """
    # virt/kvm/kvm_main.c:kvm_vm_ioctl_set_memory_region(), check_memory_region_flags()
    if slot & 0xFFFF >= KVM_USER_MEM_SLOTS:
        raise err(EINVAL, f"slot {slot & 0xFFFF} of {KVM_USER_MEM_SLOTS}")
    if flags & ~(KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY):
        raise err(EINVAL, f"flags {flags:#x}")
    if size % PAGE_SIZE or gpa % PAGE_SIZE or hva % PAGE_SIZE or not access_ok(hva, size):
        raise err(EINVAL, f"{size:#x} bytes at {hva:#x} for {gpa:#x}: not whole pages of the user's half")
    as_id, id = slot_ids(slot, _MEM_SLOTS_NUM)
    npages, base = size >> 12, gpa >> 12
    if gpa + size >= _U64 or npages > KVM_MEM_MAX_NR_PAGES:
        raise err(EINVAL, f"{npages} pages at {gpa:#x} are too many")
    slots = spaces[as_id]
    old = slots.by_id.get(id)
    if not size:
        if old is None:
            raise err(EINVAL, f"slot {id} is not there")
        return Change.DELETE, old, None
    change = Change.CREATE if old is None else _modified(old, flags, base, npages, hva)
    if change is None:
        return None
    if change is not Change.FLAGS_ONLY and slots.overlaps(id, base, base + npages):
        raise err(EEXIST, f"another slot has pages of {gpa:#x} to {gpa + size:#x}")
    # arch/x86/kvm/x86.c:kvm_arch_prepare_memory_region()
    if change is not Change.FLAGS_ONLY and base + npages - 1 > _MAX_GFN:
        raise err(EINVAL, f"{gpa + size:#x} is behind the last physical address")
    return change, old, MemSlot(as_id, id, base, npages, flags, hva)


def _modified(old: MemSlot, flags: int, base: int, npages: int, hva: int) -> Change | None:
    if hva != old.userspace_addr or npages != old.npages or (flags ^ old.flags) & KVM_MEM_READONLY:
        raise err(EINVAL, "an old slot's memory, size and KVM_MEM_READONLY stay")
    if base != old.base_gfn:
        return Change.MOVE
    return Change.FLAGS_ONLY if flags != old.flags else None
