"""
Reads and writes of BARs, ROM and VGA ranges, and eventfds that write registers (drivers/vfio/pci/vfio_pci_rdwr.c).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from errno import EEXIST, EINVAL, EIO, ENODEV, ENOMEM, ENOSPC
from typing import TYPE_CHECKING, Protocol

from pykernel.errors import err
from pykernel.mm.uaccess import PAGE_SIZE
from pykernel.pci.iomem import Iomem
from pykernel.pci.resource import IORESOURCE_MEM, PCI_ROM_RESOURCE
from pykernel.pci.rom import map_rom, unmap_rom
from pykernel.uapi.linux.vfio import VFIO_PCI_BAR5_REGION_INDEX
from pykernel.vfio.virqfd import VirqfdSlot, vfio_virqfd_disable, vfio_virqfd_enable

if TYPE_CHECKING:
    from pykernel.vfio.pci.core import VfioPciCoreDevice

__all__ = ["Bars", "do_io_read", "do_io_write"]

VFIO_PCI_IOEVENTFD_MAX = 1000
NO_BAR = 0xFF
VGA_RANGES = (range(0xA0000, 0xC0000), range(0x3B0, 0x3BC), range(0x3C0, 0x3E0))


class Io(Protocol):
    """What is read and written in pieces: an Iomem, or a legacy range."""

    def read(self, off: int, size: int) -> int:
        """A load."""
        ...

    def write(self, off: int, size: int, value: int) -> None:
        """A store."""


def _pieces(off: int, count: int, hole: range, width: int) -> list[tuple[int, int, bool]]:
    """*count* bytes at *off* as (offset, size, whether it is out of the *hole*), naturally aligned."""
    found, end = list[tuple[int, int, bool]](), off + count
    while off < end:
        if off in hole:
            step, real = min(end, hole.stop) - off, False
        else:
            room, real = (min(end, hole.start) if off < hole.start else end) - off, True
            step = next(size for size in (8, 4, 2, 1) if size <= width and size <= room and off % size == 0)
        found.append((off, step, real))
        off += step
    return found


def do_io_read(io: Io, off: int, count: int, hole: range, width: int, check: Callable[[], None] | None) -> bytes:
    """
    The *hole* reads as all ones. C: ``ssize_t vfio_pci_core_do_io_rw(...)``.

    Raises:
        OSError: what *check* says before each piece.
    """
    out = bytearray()
    for at, size, real in _pieces(off, count, hole, width):
        if not real:
            out += b"\xff" * size
            continue
        if check is not None:
            check()
        out += io.read(at, size).to_bytes(size, "little")
    return bytes(out)


def do_io_write(io: Io, off: int, data: bytes, hole: range, width: int, check: Callable[[], None] | None) -> None:
    """What goes to the *hole* is dropped. C: ``ssize_t vfio_pci_core_do_io_rw(...)``. Raises what *check* does."""
    for at, size, real in _pieces(off, len(data), hole, width):
        if real:
            if check is not None:
                check()
            io.write(at, size, int.from_bytes(data[at - off : at - off + size], "little"))


@dataclass
class IoEventFd:
    """``struct vfio_pci_ioeventfd``: a write to an eventfd writes *data* to a register."""

    bar: int
    pos: int
    count: int
    data: int
    slot: VirqfdSlot = field(default_factory=VirqfdSlot)

    @property
    def key(self) -> tuple[int, int, int, int]:
        """What makes it this one."""
        return self.bar, self.pos, self.count, self.data


class LegacyVga:
    """VGA's legacy ranges as the function decodes them."""

    def __init__(self, vdev: VfioPciCoreDevice) -> None:
        self.function = vdev.pdev.function

    def read(self, off: int, size: int) -> int:
        """A load of memory, or of a port below 64 KiB."""
        return self.function.vga_read(off, size)

    def write(self, off: int, size: int, value: int) -> None:
        """A store."""
        self.function.vga_write(off, size, value)


class Bars:
    """
    The BARs of one device while it is open.

    Attributes:
        barmap: those that were accessed.
        mmap_supported: those that can be mapped.
        msix_bar: which one has the MSI-X table, 0xFF without; msix_table: where in it.
    """

    def __init__(self, vdev: VfioPciCoreDevice) -> None:
        self.vdev = vdev
        self.barmap: dict[int, Iomem] = {}
        self.mmap_supported: set[int] = set()
        self.reserved: list[tuple[int, int]] = []
        self.msix_bar, self.msix_table = NO_BAR, range(0)
        self.width = 8 if vdev.kernel.profile.vfio_pci_io64 else 4
        self.ioeventfds: dict[tuple[int, int, int, int], IoEventFd] = {}

    def probe_mmaps(self) -> None:
        """C: ``void vfio_pci_probe_mmaps(struct vfio_pci_core_device *)``: the rest of a page is reserved."""
        pdev = self.vdev.pdev
        for bar in range(6):
            res = pdev.resources.get(bar)
            if res is None or not res.flags & IORESOURCE_MEM:
                continue
            if res.size < PAGE_SIZE:
                rest = (res.start + res.size, PAGE_SIZE - res.size)
                if res.start % PAGE_SIZE or not pdev.pci.reserve_mmio(*rest):
                    continue
                self.reserved.append(rest)
            self.mmap_supported.add(bar)

    def close(self) -> None:
        """The device is closed."""
        pdev = self.vdev.pdev
        for ioeventfd in self.ioeventfds.values():
            vfio_virqfd_disable(ioeventfd.slot)
        self.ioeventfds.clear()
        for bar in self.barmap:
            pdev.release_region(bar)
        self.barmap.clear()
        for start, size in self.reserved:
            pdev.pci.release_mmio(start, size)
        self.reserved.clear()

    def setup_barmap(self, bar: int, name: str = "vfio") -> Iomem:
        """C: ``int vfio_pci_core_setup_barmap(struct vfio_pci_core_device *, int)``. Raises EBUSY, ENOMEM."""
        io = self.barmap.get(bar)
        if io is None:
            pdev = self.vdev.pdev
            pdev.request_region(bar, name)
            try:
                io = self.barmap[bar] = pdev.iomap(bar)
            except OSError as e:
                pdev.release_region(bar)
                raise err(ENOMEM) from e
        return io

    def check_memory(self) -> None:
        """Raises EIO: memory is not decoded."""
        if not self.vdev.config.memory_enabled():
            raise err(EIO, "the device does not decode memory: COMMAND, or its power state")

    def _window(self, bar: int, pos: int, count: int) -> int:
        """How much of *count* is in the BAR."""
        size = self.vdev.pdev.resource_len(bar)
        if pos >= size:
            raise err(EINVAL, f"{pos:#x} is behind the end of BAR {bar}")
        return min(count, size - pos)

    def _hole(self, bar: int) -> range:
        return self.msix_table if bar == self.msix_bar else range(0)

    def _checker(self, bar: int) -> Callable[[], None] | None:
        return self.check_memory if self.vdev.pdev.resources[bar].flags & IORESOURCE_MEM else None

    def read(self, bar: int, pos: int, count: int) -> bytes:
        """
        C: ``ssize_t vfio_pci_bar_rw(...)``: the MSI-X table reads as all ones.

        Raises:
            EINVAL: no such BAR, or behind its end. EIO: memory is not decoded. EBUSY, ENOMEM.
        """
        count = self._window(bar, pos, count)
        if bar == PCI_ROM_RESOURCE:
            return self._read_rom(pos, count)
        io = self.setup_barmap(bar)
        return do_io_read(io, pos, count, self._hole(bar), self.width, self._checker(bar))

    def _read_rom(self, pos: int, count: int) -> bytes:
        pdev = self.vdev.pdev
        mapped = map_rom(pdev)
        if mapped is None:
            raise err(ENOMEM, "there is no image in the ROM")
        io, size = mapped
        try:
            hole = range(size, max(size, pdev.resource_len(PCI_ROM_RESOURCE)))
            return do_io_read(io, pos, count, hole, 4, self.check_memory)
        finally:
            unmap_rom(pdev)

    def write(self, bar: int, pos: int, data: bytes) -> int:
        """C: ``ssize_t vfio_pci_bar_rw(...)``: how much was written. Raises as :meth:`read`."""
        data = data[: self._window(bar, pos, len(data))]
        io = self.setup_barmap(bar)
        do_io_write(io, pos, data, self._hole(bar), self.width, self._checker(bar))
        return len(data)

    def _vga(self, pos: int, count: int) -> int:
        """How much of *count* is in the range of *pos*. Raises EINVAL: no VGA, or no range."""
        for ports in VGA_RANGES:
            if self.vdev.has_vga and pos in ports:
                return min(count, ports.stop - pos)
        raise err(EINVAL)

    def vga_read(self, pos: int, count: int) -> bytes:
        """C: ``ssize_t vfio_pci_vga_rw(...)``. Raises EINVAL: no VGA, or none of its ranges."""
        return do_io_read(LegacyVga(self.vdev), pos, self._vga(pos, count), range(0), self.width, None)

    def vga_write(self, pos: int, data: bytes) -> int:
        """C: ``ssize_t vfio_pci_vga_rw(...)``. Raises EINVAL: no VGA, or none of its ranges."""
        data = data[: self._vga(pos, len(data))]
        do_io_write(LegacyVga(self.vdev), pos, data, range(0), self.width, None)
        return len(data)

    # ---- ioeventfds

    def ioeventfd(self, bar: int, pos: int, data: int, count: int, fd: int) -> None:
        """
        C: ``int vfio_pci_ioeventfd(struct vfio_pci_core_device *, loff_t, u64 data, int count, int fd)``.

        Raises:
            EINVAL: no BAR's register, or of the MSI-X table; no eventfd.
            EEXIST: there is this one. ENODEV: there is none to take away. ENOSPC: 1000. EBADF.
        """
        table = self._hole(bar)
        if bar > VFIO_PCI_BAR5_REGION_INDEX or pos + count > self.vdev.pdev.resource_len(bar):
            raise err(EINVAL, "not in a BAR")
        if bar == self.msix_bar and pos + count > table.start and pos < table.stop:
            raise err(EINVAL, "in the MSI-X table")
        self.setup_barmap(bar)
        wanted = IoEventFd(bar, pos, count, data)
        there = self.ioeventfds.get(wanted.key)
        if there is not None:
            if fd != -1:
                raise err(EEXIST)
            vfio_virqfd_disable(there.slot)
            del self.ioeventfds[wanted.key]
            return
        if fd < 0:
            raise err(ENODEV)
        if len(self.ioeventfds) >= VFIO_PCI_IOEVENTFD_MAX:
            raise err(ENOSPC)
        vfio_virqfd_enable(self.vdev.kernel, wanted.slot, fd, lambda: self._fire(wanted), lambda: None)
        self.ioeventfds[wanted.key] = wanted

    def _fire(self, ioeventfd: IoEventFd) -> bool:
        # drivers/vfio/pci/vfio_pci_rdwr.c:vfio_pci_ioeventfd_handler()
        if self._checker(ioeventfd.bar) is None or self.vdev.config.memory_enabled():
            mask = (1 << 8 * ioeventfd.count) - 1
            self.barmap[ioeventfd.bar].write(ioeventfd.pos, ioeventfd.count, ioeventfd.data & mask)
        return False
