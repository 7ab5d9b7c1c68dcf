"""Containers of type 1 for tests: a client, a device that does no DMA of its own, one that does."""

from __future__ import annotations

import os
import struct
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, PROT_READ, PROT_WRITE
from typing import Any

from type1_scenarios import AREAS, K, M

from pykernel.base.core import Device
from pykernel.kernel import Kernel
from pykernel.pci.dev import PciDev
from pykernel.pci.driver import PciDriver, PciId
from pykernel.syscalls import Process
from pykernel.task import RLIMIT_MEMLOCK
from pykernel.uapi.linux import vfio as v
from pykernel.vfio.device import VfioDevice
from pykernel.vfio.main import (
    vfio_register_emulated_iommu_dev,
    vfio_register_group_dev,
    vfio_unpin_pages,
    vfio_unregister_group_dev,
)

__all__ = ["Box", "Deaf", "Emulated", "Physical", "PhysicalDriver", "emulated", "machine", "physical", "remove"]

MACHINE = """
[iommu]
address_width = {width}
snoop_control = {snoop}
intr_remap = {remap}
{cards}
[modules]
vfio = ""
vfio_iommu_type1 = "{params}"
"""
CARD = """[[pci]]
model = "dsa"
"""


def machine(cards: int = 0, *, width: int = 39, snoop: bool = False, remap: bool = True, params: str = "") -> str:
    """A machine of so many accelerators, with VFIO; its IOMMU is as QEMU's unless said."""
    return MACHINE.format(
        cards=CARD * cards, width=width, snoop=str(snoop).lower(), remap=str(remap).lower(), params=params
    )


class Emulated(VfioDevice):
    """A device that pins what it is told to, and gives it back when that is unmapped, if it is *polite*."""

    ops_name = "vfio-test"

    def __init__(self, dev: Device) -> None:
        super().__init__(dev)
        self.pinned: list[int] = []
        self.unmaps: list[tuple[int, int]] = []
        self.polite = True

    def dma_unmap(self, iova: int, length: int) -> None:
        """Unpin what is in the range."""
        self.unmaps.append((iova, length))
        if self.polite:
            for at in [at for at in self.pinned if iova <= at < iova + length]:
                vfio_unpin_pages(self, at, 1)
                self.pinned.remove(at)


class Deaf(VfioDevice):
    """A device that has no dma_unmap()."""

    ops_name = "vfio-deaf"


def emulated(kernel: Kernel, name: str = "emu0", cls: type[VfioDevice] = Emulated) -> Any:
    """A registered device in a group of its own."""
    kernel.up()
    dev = Device(kernel, name)
    dev.register()
    vdev = cls(dev)
    vfio_register_emulated_iommu_dev(vdev)
    return vdev


class Physical(VfioDevice):
    """A device of PCI that does DMA; nothing of it can be used."""

    ops_name = "vfio-test-pci"


class PhysicalDriver(PciDriver):
    """Gives every accelerator to VFIO."""

    id_table = (PciId(0x8086, 0x0B25),)
    driver_managed_dma = True

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel, "vfio-test-pci")
        self.vdevs: list[VfioDevice] = []

    def probe(self, dev: PciDev, /) -> None:
        """drivers/vfio/pci/vfio_pci.c:vfio_pci_probe(), without the device."""
        vdev = Physical(dev)
        vfio_register_group_dev(vdev)
        self.vdevs.append(vdev)

    def remove(self, dev: PciDev, /) -> None:
        """drivers/vfio/pci/vfio_pci.c:vfio_pci_remove()."""
        for vdev in [vdev for vdev in self.vdevs if vdev.dev is dev]:
            vfio_unregister_group_dev(vdev)
            self.vdevs.remove(vdev)


def physical(kernel: Kernel) -> PhysicalDriver:
    """The driver of all accelerators of the machine; its devices are in ``vdevs``."""
    kernel.up()
    driver = PhysicalDriver(kernel)
    driver.register()
    return driver


def remove(vdev: VfioDevice) -> None:
    """It goes."""
    vfio_unregister_group_dev(vdev)
    vdev.dev.unregister()


class Box:
    """A client with a container, and what the player of scenarios needs."""

    def __init__(self, kernel: Kernel, *vdevs: VfioDevice, kind: int = v.VFIO_TYPE1v2_IOMMU, **who: Any) -> None:
        self.kernel = kernel
        self.proc: Process = kernel.process(**who)
        self.kind = kind
        self.container = self.proc.open("/dev/vfio/vfio", os.O_RDWR)
        self.groups = [self.join(vdev) for vdev in vdevs]
        self.devices: list[int] = []
        self.areas: dict[str, int] = {}
        proc = self.proc
        for name, (size, prot) in AREAS.items():
            bits = PROT_READ | PROT_WRITE if prot == "rw" else PROT_READ
            at = self.areas[name] = proc.mmap(0, size, bits, MAP_PRIVATE | MAP_ANONYMOUS)
            if prot == "r":
                proc.mem.read(at, size)
            elif name == "a":
                proc.mem.write(at, b"\1" * size)
        at = proc.mmap(0, 64 * K, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS)
        proc.mem.write(at, b"\1" * (64 * K))
        proc.munmap(at + 32 * K, 32 * K)
        self.areas["beforehole"] = at + 28 * K

    def join(self, vdev: VfioDevice) -> int:
        """The group of *vdev* comes into the container."""
        number = self.group_name(vdev)
        group = self.proc.open(f"/dev/vfio/{number}", os.O_RDWR)
        self.proc.ioctl(group, v.VFIO_GROUP_SET_CONTAINER, bytearray(struct.pack("<i", self.container)))
        return group

    @staticmethod
    def group_name(vdev: VfioDevice) -> str:
        """What its node is called."""
        assert vdev.dev.iommu_group is not None
        return str(vdev.dev.iommu_group.id)

    def open(self, vdev: VfioDevice, group: int | None = None) -> int:
        """The device's descriptor."""
        name = bytearray(vdev.name.encode() + b"\0")
        group = self.groups[0] if group is None else group
        fd = self.proc.ioctl(group, v.VFIO_GROUP_GET_DEVICE_FD, name)
        self.devices.append(fd)
        return fd

    # ---- what the player calls

    def set_iommu(self) -> int:
        """0, or -errno."""
        return self.ioctl(0x3B66, self.kind)[0]

    def address(self, name: str, off: int) -> int:
        """Where an area is."""
        if name == "abs":
            return off
        return self.areas[name] + off * (K if name == "beforehole" else 1)

    def ioctl(self, cmd: int, arg: Any) -> tuple[int, Any]:
        """The result or -errno, and the argument afterwards."""
        try:
            return self.proc.ioctl(self.container, cmd, arg), arg
        except OSError as e:
            return -(e.errno or 0), arg

    def buffer(self, data: bytes) -> int:
        """A buffer of the client."""
        at: int = self.proc.mem.alloc(len(data))
        self.proc.mem.write(at, data)
        return at

    def bytes(self, at: int, n: int) -> bytes:
        """What is in the client's memory."""
        data: bytes = self.proc.mem.read(at, n)
        return data

    def locked(self) -> int:
        """Locked pages."""
        assert self.proc.task.mm is not None
        return self.proc.task.mm.locked_vm

    def limit(self, nbytes: int) -> int:
        """RLIMIT_MEMLOCK, and nobody special from now on."""
        self.proc.setrlimit(RLIMIT_MEMLOCK, (nbytes, nbytes))
        self.proc.setuid(65534)
        return 0

    def map(self, iova: int, size: int, flags: int = 3, vaddr: int | None = None) -> int:
        """MAP_DMA: 0 or -errno."""
        vaddr = self.areas["a"] if vaddr is None else vaddr
        return self.ioctl(0x3B71, bytearray(struct.pack("<IIQQQ", 32, flags, vaddr, iova, size)))[0]

    def unmap(self, iova: int, size: int, flags: int = 0) -> tuple[int, int]:
        """UNMAP_DMA: 0 or -errno, and the size that comes back."""
        code, out = self.ioctl(0x3B72, bytearray(struct.pack("<IIQQ", 24, flags, iova, size)))
        return code, struct.unpack_from("<Q", out, 16)[0]

    def dirty(self, flags: int) -> int:
        """DIRTY_PAGES START or STOP."""
        return self.ioctl(0x3B75, bytearray(struct.pack("<II", 8, flags)))[0]

    def bitmap(self, iova: int, npages: int) -> int | str:
        """DIRTY_PAGES GET_BITMAP: a number with a bit a page, or the errno."""
        n = -(-npages // 64) * 8
        at = self.buffer(bytes(n))
        code, _ = self.ioctl(0x3B75, bytearray(struct.pack("<IIQQQQQ", 48, 4, iova, npages * K, K, n, at)))
        return code if code else int.from_bytes(self.bytes(at, n), "little")

    def close(self) -> None:
        """The client ends."""
        self.proc.exit()


assert M == 512 * K
