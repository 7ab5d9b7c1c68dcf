"""The RAM of a virtual machine as its VMM has it: populated anonymous memory, found by guest-physical address."""

from __future__ import annotations

from dataclasses import dataclass
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, PROT_READ, PROT_WRITE
from typing import TYPE_CHECKING, Final

from pykernel.mm.phys import HOLE_END, LOW_RAM

if TYPE_CHECKING:
    from pykernel.syscalls import Process

__all__ = ["MAP_POPULATE", "Area", "GuestFault", "GuestMemory"]

MAP_POPULATE: Final = 0x8000


class GuestFault(LookupError):
    """No memory at a guest-physical address."""


@dataclass(frozen=True)
class Area:
    """*size* bytes at guest-physical *gpa*, which the VMM has at *hva*."""

    gpa: int
    size: int
    hva: int


class GuestMemory:
    """*size* bytes of RAM of *proc*'s: what does not fit below the hole of the 32-bit BARs is above 4 GiB."""

    def __init__(self, proc: Process, size: int) -> None:
        self.proc, self.size = proc, size
        low = min(size, LOW_RAM)
        parts = [(0, low)] + ([(HOLE_END, size - low)] if size > low else [])
        self.areas = [Area(gpa, length, self._mmap(length)) for gpa, length in parts]

    def _mmap(self, size: int) -> int:
        return self.proc.mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE)

    def hva(self, gpa: int, n: int) -> int:
        """Where the VMM has *n* bytes of the guest. Raises GuestFault."""
        for area in self.areas:
            if area.gpa <= gpa and gpa + n <= area.gpa + area.size:
                return area.hva + gpa - area.gpa
        raise GuestFault(f"guest-physical {gpa:#x}+{n:#x} is no memory")

    def read(self, gpa: int, n: int) -> bytes:
        """*n* bytes. Raises GuestFault."""
        return bytes(self.proc.mem.read(self.hva(gpa, n), n))

    def write(self, gpa: int, data: bytes | memoryview) -> None:
        """Store *data*. Raises GuestFault."""
        self.proc.mem.write(self.hva(gpa, len(data)), bytes(data))

    def close(self) -> None:
        """Give it back."""
        for area in self.areas:
            self.proc.munmap(area.hva, area.size)
        self.areas = []
