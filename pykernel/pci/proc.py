"""/proc/bus/pci (drivers/pci/proc.c): the devices as one table, and the configuration space of each."""

from __future__ import annotations

import os
import stat
from errno import EINVAL
from typing import TYPE_CHECKING

from pykernel.errors import err
from pykernel.fs.procfs import ProcDir, ProcFile, ProcFs
from pykernel.fs.ramfs import RamNode, UpDir
from pykernel.fs.vfs import File, generic_llseek

if TYPE_CHECKING:
    from pykernel.kernel import Kernel
    from pykernel.pci.dev import PciDev

__all__ = ["ProcBusPci"]

PCI_REGION_FLAG_MASK = 0xF  # include/linux/pci.h
PCI_NUM_BARS = 7  # and the expansion ROM
PCIIOC_CONTROLLER = 0x50430000  # include/uapi/linux/pci.h


class ProcPciFile(RamNode):
    """The configuration space of one device."""

    __slots__ = ("pdev",)
    noexec = True

    def __init__(self, kernel: Kernel, pdev: PciDev, parent: ProcDir) -> None:
        super().__init__(kernel, stat.S_IFREG | 0o644, parent)
        self.uid = self.gid = 0
        self.pdev = pdev

    @property
    def size(self) -> int:
        """C: ``proc_set_size(e, dev->cfg_size)``."""
        return self.pdev.cfg_size

    def open(self, flags: int) -> File:
        """Open."""
        return ProcPciOpenFile(self, flags)


class ProcPciOpenFile(File):
    """``proc_bus_pci_ops``."""

    __slots__ = ()
    inode: ProcPciFile

    def pread(self, pos: int, count: int) -> bytes:
        """proc_bus_pci_read(): 64 bytes for who had no CAP_SYS_ADMIN when it opened the file."""
        return self.inode.pdev.read_config(self, pos, count)

    def pwrite(self, pos: int, data: bytes) -> int:
        """proc_bus_pci_write()."""
        return self.inode.pdev.write_config(self, pos, data)

    def llseek(self, offset: int, whence: int) -> int:
        """proc_bus_pci_lseek(). Raises EINVAL: beyond the end."""
        pos = generic_llseek(self, offset, whence)
        if whence not in (os.SEEK_SET, os.SEEK_CUR, os.SEEK_END) or pos > self.inode.size:
            raise err(EINVAL)
        self.pos = pos
        return pos

    def ioctl(self, cmd: int, arg: int) -> int:
        """proc_bus_pci_ioctl(): the domain. Raises EINVAL: mmap of BARs is for sysfs alone."""
        if cmd != PCIIOC_CONTROLLER:
            raise err(EINVAL)
        return self.inode.pdev.domain


class ProcBusPciDir(UpDir, ProcDir):
    """The directory with the table and the buses."""

    __slots__ = ()


class ProcBusPci:
    """The files of one kernel."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        root = kernel.sub(ProcFs).root
        bus = ProcDir(kernel, 0o555, root)
        self.dir = ProcBusPciDir(kernel, 0o555, bus)
        self.devices: dict[PciDev, tuple[ProcDir, str]] = {}
        self.dir.attach("devices", ProcFile(kernel, self._devices, self.dir))
        bus.attach("pci", self.dir)
        root.attach("bus", bus)

    def attach_device(self, pdev: PciDev) -> None:
        """C: ``int pci_proc_attach_device(struct pci_dev *)``."""
        name = f"{pdev.domain:04x}:{pdev.bus_number:02x}" if pdev.domain else f"{pdev.bus_number:02x}"
        where = self.dir.children.get(name)
        if where is None:
            where = self.dir.attach(name, ProcDir(self.kernel, 0o555, self.dir))
        assert isinstance(where, ProcDir)
        file = f"{pdev.devfn >> 3:02x}.{pdev.devfn & 7:x}"
        where.attach(file, ProcPciFile(self.kernel, pdev, where))
        self.devices[pdev] = where, file

    def detach_device(self, pdev: PciDev) -> None:
        """C: ``int pci_proc_detach_device(struct pci_dev *)``; its bus stays."""
        if pdev in self.devices:
            where, file = self.devices.pop(pdev)
            where.detach(file)

    def _devices(self) -> str:
        """The text of ``devices``."""
        return "".join(show_device(pdev) for pdev in self.devices)


def show_device(pdev: PciDev) -> str:
    """One row. show_device()."""
    bars = [pdev.resources.get(n) for n in range(PCI_NUM_BARS)]
    starts = [bar.start | bar.flags & PCI_REGION_FLAG_MASK if bar else 0 for bar in bars]
    sizes = [bar.size if bar else 0 for bar in bars]
    return (
        f"{pdev.bus_number:02x}{pdev.devfn:02x}\t{pdev.vendor:04x}{pdev.device:04x}\t{pdev.irq:x}"
        + "".join(f"\t{number:16x}" for number in (*starts, *sizes))
        + f"\t{pdev.driver.name if pdev.driver else ''}\n"
    )
