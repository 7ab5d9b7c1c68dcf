"""
The log of pages that were written: KVM_MEM_LOG_DIRTY_PAGES, KVM_GET_DIRTY_LOG, KVM_CLEAR_DIRTY_LOG.

Two things set bits. What goes through the EPT sets them when an entry becomes writable, and KVM's own writes at once.
The guest kernel's RAM is written without that, and so it is by devices; such writes are found by comparing each page
with a copy of what it was when it was last found clean. A page that was written with what it held is not reported,
which a migration, to which it is the same, cannot tell. A slot that is logged takes its size again in this process.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from pykernel.mm.phys import PAGE_SIZE
from pykernel.uapi.linux.kvm import KVM_MEM_LOG_DIRTY_PAGES
from pykernel.virt.kvm.memslots import MemSlot

if TYPE_CHECKING:
    from pykernel.mm.uaccess import UserMemory

__all__ = ["mark", "prepare", "start", "sync", "take"]

_CHUNK: Final = 64 * PAGE_SIZE
_BITS: Final = [[j for j in range(8) if b >> j & 1] for b in range(256)]


def prepare(new: MemSlot, old: MemSlot | None, *, init_set: bool) -> None:
    """The bitmap of a slot's new version: none, the old one's, or a fresh one. C: ``kvm_prepare_memory_region()``."""
    if not new.flags & KVM_MEM_LOG_DIRTY_PAGES:
        return
    if old is not None and old.dirty_bitmap is not None:
        new.dirty_bitmap, new.clean = old.dirty_bitmap, old.clean
        return
    new.dirty_bitmap = bytearray(new.bitmap_bytes)
    if init_set:
        full, rest = divmod(new.npages, 8)
        new.dirty_bitmap[:full] = b"\xff" * full
        if rest:
            new.dirty_bitmap[full] = (1 << rest) - 1


def start(slot: MemSlot, mem: UserMemory) -> None:
    """All pages of *slot* are clean as they are."""
    slot.clean = bytearray(slot.npages * PAGE_SIZE)
    for at, pa, n in _spans(slot, mem, 0, slot.npages * PAGE_SIZE):
        slot.clean[at : at + n] = mem.phys.ram[pa : pa + n]


def sync(slot: MemSlot, mem: UserMemory) -> None:
    """Mark what differs from its copy, which is new then. C: ``kvm_arch_sync_dirty_log()``."""
    clean, arena = slot.clean, mem.phys.arena
    if clean is None or slot.dirty_bitmap is None:
        return
    for start, where, length in _spans(slot, mem, 0, slot.npages * PAGE_SIZE):
        for skip in range(0, length, _CHUNK):
            at, pa, n = start + skip, where + skip, min(_CHUNK, length - skip)
            now = arena[pa : pa + n]
            if now == clean[at : at + n]:
                continue
            for page in range(0, n, PAGE_SIZE):
                if now[page : page + PAGE_SIZE] != clean[at + page : at + page + PAGE_SIZE]:
                    mark(slot, slot.base_gfn + (at + page >> 12))
            clean[at : at + n] = now


def _spans(slot: MemSlot, mem: UserMemory, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Where the slot's bytes *at* to *end* are, as far as the VMM has frames there: offset, address, bytes."""
    find = getattr(mem, "translate_range", None)
    while find is not None and at < end:
        spans, found = find(slot.userspace_addr + at, end - at)
        for pa, n in spans:
            yield at, pa, n
            at += n
        if not found:
            at += PAGE_SIZE


def mark(slot: MemSlot, gfn: int) -> None:
    """The guest page was written. C: ``mark_page_dirty_in_slot()``."""
    if slot.dirty_bitmap is not None:
        nth = gfn - slot.base_gfn
        slot.dirty_bitmap[nth >> 3] |= 1 << (nth & 7)


def take(slot: MemSlot, first: int, mask: bytes) -> list[int]:
    """Clear the bits of *mask*, which begins with page *first* of the slot: the guest pages that had been dirty."""
    bitmap = slot.dirty_bitmap
    assert bitmap is not None
    base = first >> 3
    had = int.from_bytes(bitmap[base : base + len(mask)], "little") & int.from_bytes(mask, "little")
    left = int.from_bytes(bitmap[base : base + len(mask)], "little") & ~had
    size = len(bitmap[base : base + len(mask)])
    bitmap[base : base + size] = left.to_bytes(size, "little")
    return [
        slot.base_gfn + first + i * 8 + j for i, b in enumerate(had.to_bytes(size, "little")) if b for j in _BITS[b]
    ]
