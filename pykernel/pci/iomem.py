"""BARs as the kernel and a client's mapping reach them (arch/x86/mm/ioremap.c, include/asm-generic/io.h)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pykernel.cpu import Cpus, Trap
from pykernel.cpu.insn import check_supervisor
from pykernel.errors import Oops
from pykernel.pci.dmwr import Completion, deliver
from pykernel.pci.function import PciFunction

if TYPE_CHECKING:
    from pykernel.kernel import Kernel

__all__ = ["Iomem", "MappedIo", "natural"]


class Iomem:
    """
    ``void __iomem *``: an ioremap()ed part of a BAR.

    Offsets in bytes; writes take the value first, as writel() does. *start* is the physical address.
    """

    __slots__ = ("bar", "function", "kernel", "length", "name", "off", "start")

    def __init__(
        self, kernel: Kernel, function: PciFunction, bar: int, off: int, length: int, name: str, start: int = 0
    ) -> None:
        self.kernel = kernel
        self.function = function
        self.bar = bar
        self.off = off
        self.length = length
        self.name = name
        self.start = start

    def read(self, off: int, size: int) -> int:
        """A load of *size* bytes."""
        kernel = self.kernel
        if kernel.sched.exploring:
            kernel.sched.point()
        value = self.function.mmio_read(self.bar, self.off + off, size)
        if kernel.trace:
            kernel.trace("mmio_read", device=self.name, bar=self.bar, off=self.off + off, size=size, value=value)
        return value

    def write(self, off: int, size: int, value: int) -> None:
        """A store of *size* bytes."""
        kernel = self.kernel
        if kernel.sched.exploring:
            kernel.sched.point()
        if kernel.trace:
            kernel.trace("mmio_write", device=self.name, bar=self.bar, off=self.off + off, size=size, value=value)
        if kernel.faults.active and kernel.faults.should_fail("reg", f"{self.name}+{self.off + off:#x}"):
            return
        self.function.mmio_write(self.bar, self.off + off, size, value)

    def readb(self, off: int) -> int:
        """C: ``u8 readb(const volatile void __iomem *)``."""
        return self.read(off, 1)

    def readw(self, off: int) -> int:
        """C: ``u16 readw()``."""
        return self.read(off, 2)

    def readl(self, off: int) -> int:
        """C: ``u32 readl()``."""
        return self.read(off, 4)

    def readq(self, off: int) -> int:
        """C: ``u64 readq()``."""
        return self.read(off, 8)

    def writeb(self, value: int, off: int) -> None:
        """C: ``void writeb(u8, volatile void __iomem *)``."""
        self.write(off, 1, value)

    def writew(self, value: int, off: int) -> None:
        """C: ``void writew()``."""
        self.write(off, 2, value)

    def writel(self, value: int, off: int) -> None:
        """C: ``void writel()``."""
        self.write(off, 4, value)

    def writeq(self, value: int, off: int) -> None:
        """C: ``void writeq()``."""
        self.write(off, 8, value)

    def movdir64b(self, off: int, data: bytes) -> None:
        """C: ``void iosubmit_cmds512(void __iomem *, const void *, size_t)``, one descriptor."""
        if self.kernel.sched.exploring:
            self.kernel.sched.point()
        self.posted(off, data)

    def posted(self, off: int, data: bytes) -> None:
        """
        A posted write of 64 bytes to the bus.

        No other task runs between a client's page table and this: munmap() waits for the processors that use it.
        """
        if self.kernel.trace:
            self.kernel.trace("movdir64b", device=self.name, bar=self.bar, off=self.off + off, data=data.hex())
        self.function.posted_write(self.bar, self.off + off, data)

    def enqcmds(self, off: int, data: bytes) -> bool:
        """
        ENQCMDS; True when accepted. C: ``int enqcmds(void __iomem *, const void *)`` gives 0 or -EAGAIN.

        Raises:
            Oops: an exception of the processor in kernel mode.
        """
        if self.kernel.sched.exploring:
            self.kernel.sched.point()
        cpus = self.kernel.sub(Cpus)
        try:
            check_supervisor(cpus.current, data, 0)
        except Trap as e:
            raise Oops(f"{e} in kernel mode") from e
        if cpus.nonroot is not None:
            return cpus.nonroot.enqcmd(self.start + off, data, supervisor=True)
        return self.dmwr(off, data)

    def enqcmd(self, off: int, data: bytes) -> bool:
        """Raises Oops: it is not for the kernel, whose IA32_PASID is whoever's runs."""
        return self.kernel.sub(Cpus).current.enqcmd(None, self.start + off, data, cpl=0).zf

    def dmwr(self, off: int, data: bytes) -> bool:
        """A deferrable memory write to the bus, as ENQCMD and ENQCMDS send one; as :meth:`posted`. True: accepted."""
        kernel, function = self.kernel, self.function
        at = self.off + off
        status = deliver(function, getattr(function, "port", None), kernel.trace, self.bar, at, data)
        ok = status is Completion.SC
        if kernel.trace:
            kernel.trace(
                "enqcmds",
                device=self.name,
                bar=self.bar,
                off=at,
                accepted=ok,
                completion=status.name,
                data=data.hex(),
            )
        return ok


class MappedIo:
    """An Iomem as what a mapping's loads and stores reach (``VmaIo``); *base* is the file offset of its first byte."""

    __slots__ = ("base", "iomem")

    def __init__(self, iomem: Iomem, base: int = 0) -> None:
        self.iomem = iomem
        self.base = base

    def read(self, off: int, n: int) -> bytes:
        """Loads of the natural sizes that cover *n* bytes."""
        out, at, end = bytearray(), off - self.base, off - self.base + n
        while at < end:
            step = natural(at, end - at)
            out += self.iomem.read(at, step).to_bytes(step, "little")
            at += step
        return bytes(out)

    def write(self, off: int, data: bytes) -> None:
        """Stores; 64 bytes at a 64-byte boundary are one posted write (MOVDIR64B)."""
        at = off - self.base
        if len(data) == 64 and at % 64 == 0:
            self.iomem.posted(at, bytes(data))
            return
        done = 0
        while done < len(data):
            step = natural(at + done, len(data) - done)
            self.iomem.write(at + done, step, int.from_bytes(data[done : done + step], "little"))
            done += step

    def phys_addr(self, off: int) -> int:
        """Where the byte at *off* is on the bus."""
        return self.iomem.start + off - self.base

    def enqcmd(self, off: int, data: bytes) -> bool:
        """ENQCMD to the mapping; True when accepted."""
        return self.iomem.dmwr(off - self.base, data)


def natural(at: int, left: int) -> int:
    """The largest access of 8, 4, 2 or 1 bytes that is aligned at *at* and not longer than *left*."""
    for size in (8, 4, 2):
        if at % size == 0 and left >= size:
            return size
    return 1
