"""
The address space of the patched process: its own real memory, and areas of emulated files at addresses it reserves.

A reserved area is mapped without any access, so C code that touches it gets SIGSEGV instead of somebody else's bytes.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pykernel.mm.phys import PhysMem, Run, merged
from pykernel.mm.self import SelfMemory
from pykernel.mm.sim import SimMemory
from pykernel.mm.uaccess import PAGE_SIZE, UserMemory
from pykernel.mm.vma import MAP_FIXED_NOREPLACE, VmaList, page_align

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

__all__ = ["HostMemory"]

MAP_NORESERVE = 0x4000
MAP_FAILED = ctypes.c_void_p(-1).value


class HostMemory(UserMemory):
    """Real memory, with the areas of emulated files (:attr:`vmas`) in front of it."""

    def __init__(self, phys: PhysMem, areas: SimMemory | None = None) -> None:
        self.phys = phys
        self.real = SelfMemory(phys=phys)
        self.areas = SimMemory(phys) if areas is None else areas
        self._blocks: list[ctypes.Array[ctypes.c_char]] = []
        libc = ctypes.CDLL(None, use_errno=True)
        self._mmap, self._munmap = libc.mmap, libc.munmap
        self._mmap.restype = ctypes.c_void_p
        self._mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_long)
        self._munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)

    @property
    def vmas(self) -> VmaList:
        """The areas of emulated files."""
        return self.areas.vmas

    def copy_from(self, addr: int, buf: WriteableBuffer) -> int:
        """As :meth:`UserMemory.copy_from`."""
        return self._at(addr).copy_from(addr, buf)

    def copy_to(self, addr: int, data: ReadableBuffer) -> int:
        """As :meth:`UserMemory.copy_to`."""
        return self._at(addr).copy_to(addr, data)

    def pin_user_pages(self, addr: int, npages: int, *, write: bool) -> list[Run]:
        """As :meth:`UserMemory.pin_user_pages`; a range may reach over real memory and areas."""
        runs: list[Run] = []
        at, end = addr & -PAGE_SIZE, (addr & -PAGE_SIZE) + npages * PAGE_SIZE
        try:
            while at < end:
                mem, stop = self._part(at, end)
                runs += mem.pin_user_pages(at, (stop - at) // PAGE_SIZE, write=write)
                at = stop
        except OSError:
            self.unpin_user_pages(runs)
            raise
        return merged(runs)

    def _part(self, addr: int, end: int) -> tuple[UserMemory, int]:
        """Whose *addr* is, and up to where."""
        near = self.areas.vmas.overlapping(addr, end)
        if not near or near[0].vm_start > addr:
            return self.real, near[0].vm_start if near else end
        return self.areas, min(near[0].vm_end, end)

    def follow_pfnmap(self, addr: int, *, write: bool = False) -> int:
        """As :meth:`UserMemory.follow_pfnmap`."""
        return self.areas.follow_pfnmap(addr, write=write)

    def subscribe(self, invalidate: Callable[[int, int], None]) -> Callable[[], None]:
        """As :meth:`UserMemory.subscribe`: of the areas."""
        return self.areas.subscribe(invalidate)

    def _at(self, addr: int) -> UserMemory:
        return self.areas if len(self.areas.vmas) and self.areas.vmas.find(addr) else self.real

    def mmap(self, addr: int, length: int, prot: int, flags: int, **kw: Any) -> int:
        """Map an emulated file where the real kernel has room. Raises what :meth:`SimMemory.mmap` does."""
        size = page_align(length) or PAGE_SIZE
        hold = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
        start = self._mmap(None, size, 0, hold, -1, 0)
        if start == MAP_FAILED:
            code = ctypes.get_errno()
            raise OSError(code, "mmap")
        try:
            return self.areas.mmap(start, length, prot, flags | MAP_FIXED_NOREPLACE, **kw)
        except BaseException:
            self._munmap(start, size)
            raise

    def munmap(self, addr: int, length: int) -> None:
        """Unmap areas, and give the addresses back."""
        self.areas.munmap(addr, length)
        self._munmap(addr, page_align(length))

    def mprotect(self, addr: int, length: int, prot: int) -> None:
        """C: ``int mprotect(void *, size_t, int)`` of an area."""
        self.areas.mprotect(addr, length, prot)

    def alloc(self, n: int, align: int = 16) -> int:
        """*n* bytes of real memory, zeros; they stay as long as this object."""
        block = ctypes.create_string_buffer(n + align)
        self._blocks.append(block)
        return -(-ctypes.addressof(block) // align) * align

    def fork(self) -> HostMemory:
        """The child's: real memory is its own already, areas are copied as fork() copies them."""
        return HostMemory(self.phys, self.areas.fork())

    def exit(self) -> None:
        """Unmap every area."""
        self.release()
        for vma in list(self.areas.vmas):
            self.munmap(vma.vm_start, vma.vm_end - vma.vm_start)
