"""A client on a machine with processors, and an area of registers that notes what it is given."""

from __future__ import annotations

from mmap import MAP_ANONYMOUS, MAP_PRIVATE, MAP_SHARED, PROT_READ, PROT_WRITE
from typing import Any

from pykernel.cpu import Cpus
from pykernel.kernel import Kernel
from pykernel.mm.vma import Vma
from pykernel.syscalls import Process

RW = PROT_READ | PROT_WRITE


class Registers:
    """An enqueue register at every multiple of 64; *room* commands fit, the others are told to retry."""

    def __init__(self, room: int = 1 << 30) -> None:
        self.room = room
        self.commands: list[tuple[int, bytes]] = []
        self.stores: list[tuple[int, bytes]] = []

    def read(self, off: int, n: int) -> bytes:
        return b"\xff" * n

    def write(self, off: int, data: bytes) -> None:
        self.stores.append((off, data))

    def enqcmd(self, off: int, data: bytes) -> bool:
        if len(self.commands) >= self.room:
            return False
        self.commands.append((off, data))
        return True

    def phys_addr(self, off: int) -> int:
        return 0x2000_0000_0000 + off


class Bench:
    """A process, its PASID as the IOMMU layer tells it, and how to map things into its memory."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.cpus = kernel.sub(Cpus)
        self.proc = kernel.process()
        self.pasids: dict[int, int] = {}
        kernel.pasid_of = lambda mm: self.pasids.get(id(mm), 0)

    def bind(self, pasid: int, proc: Process | None = None) -> None:
        """What a first bind does: the address space has a PASID."""
        self.pasids[id((proc or self.proc).task.mm)] = pasid

    def map(self, io: Any, prot: int = RW, proc: Process | None = None) -> int:
        """Two pages of registers."""

        def setup(vma: Vma) -> None:
            vma.io = io

        return (proc or self.proc).mem.mmap(0, 8192, prot, MAP_SHARED | MAP_ANONYMOUS, setup=setup)  # type: ignore[no-any-return]

    def memory(self, prot: int = RW, pages: int = 1) -> int:
        """Plain memory."""
        return self.proc.mmap(0, 4096 * pages, prot, MAP_PRIVATE | MAP_ANONYMOUS)
