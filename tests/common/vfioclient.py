"""
A small user-space client of VFIO: the calls of QEMU's hw/vfio and of libvirt, in their order, over ``proc.ioctl``.

``Container`` is the legacy way (a group, a container, type1), ``Iommufd`` the other (a device's own node, /dev/iommu).
Both give a ``Device``: its regions, its interrupts, its features. Errors are the kernel's OSErrors.
"""

from __future__ import annotations

import os
import stat
import struct
from dataclasses import dataclass
from errno import EINVAL
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, MAP_SHARED, PROT_READ, PROT_WRITE
from typing import Any

from pykernel.syscalls import Process
from pykernel.uapi.linux import iommufd as i
from pykernel.uapi.linux import vfio as v

PAGE = 4096
RW = v.VFIO_DMA_MAP_FLAG_READ | v.VFIO_DMA_MAP_FLAG_WRITE


# ---- libvirt: who drives the device (src/util/virpci.c:virPCIDeviceBindToStub(), virPCIDeviceUnbindFromStub())


def sysfs(bdf: str) -> str:
    """The directory of a PCI function."""
    return f"/sys/bus/pci/devices/{bdf}"


def driver_of(proc: Process, bdf: str) -> str | None:
    """The name of the driver that has it."""
    try:
        return os.path.basename(proc.readlink(f"{sysfs(bdf)}/driver"))
    except FileNotFoundError:
        return None


def detach(proc: Process, bdf: str) -> None:
    """Give the function to vfio-pci, and to no other driver."""
    proc.write_text(f"{sysfs(bdf)}/driver_override", "vfio-pci")
    if driver_of(proc, bdf) is not None:
        proc.write_text(f"{sysfs(bdf)}/driver/unbind", bdf)
    proc.write_text("/sys/bus/pci/drivers_probe", bdf)


def reattach(proc: Process, bdf: str) -> None:
    """Give it back to the driver that it had."""
    proc.write_text(f"{sysfs(bdf)}/driver_override", "\n")
    if driver_of(proc, bdf) is not None:
        proc.write_text(f"{sysfs(bdf)}/driver/unbind", bdf)
    proc.write_text("/sys/bus/pci/drivers_probe", bdf)


# ---- what both ways end in


@dataclass
class Region:
    """A region, and the capabilities of its info by their number."""

    device: Device
    info: v.vfio_region_info
    caps: dict[int, bytes]

    def read(self, off: int, n: int) -> bytes:
        """pread() at *off*."""
        return self.device.proc.pread(self.device.fd, n, self.info.offset + off)

    def write(self, off: int, data: bytes) -> int:
        """pwrite() at *off*."""
        return self.device.proc.pwrite(self.device.fd, data, self.info.offset + off)

    def mmap(self, length: int = 0, off: int = 0) -> int:
        """The address of a shared mapping."""
        size = length or -(-self.info.size // PAGE) * PAGE
        return self.device.proc.mmap(
            0, size, PROT_READ | PROT_WRITE, MAP_SHARED, self.device.fd, self.info.offset + off
        )


class Device:
    """A device descriptor."""

    def __init__(self, proc: Process, fd: int) -> None:
        self.proc, self.fd = proc, fd
        self.info = v.vfio_device_info(argsz=v.vfio_device_info.sizeof())
        proc.ioctl(fd, v.VFIO_DEVICE_GET_INFO, self.info)

    def region(self, index: int) -> Region:
        """Its region, asked twice when the first answer has capabilities, as vfio_get_region_info() does."""
        size = v.vfio_region_info.sizeof()
        buf = bytearray(bytes(v.vfio_region_info(argsz=size, index=index)))
        self.proc.ioctl(self.fd, v.VFIO_DEVICE_GET_REGION_INFO, buf)
        info = v.vfio_region_info.from_bytes(bytes(buf[:size]))
        if info.argsz > size:
            buf = bytearray(bytes(v.vfio_region_info(argsz=info.argsz, index=index))) + bytearray(info.argsz - size)
            self.proc.ioctl(self.fd, v.VFIO_DEVICE_GET_REGION_INFO, buf)
            info = v.vfio_region_info.from_bytes(bytes(buf[:size]))
        has = info.flags & v.VFIO_REGION_INFO_FLAG_CAPS
        return Region(self, info, capabilities(buf, info.cap_offset if has else 0))

    def config(self) -> Region:
        """PCI configuration space."""
        return self.region(v.VFIO_PCI_CONFIG_REGION_INDEX)

    def enable_memory(self, *, master: bool = True) -> None:
        """Memory decoding and bus mastering on."""
        config = self.config()
        command = int.from_bytes(config.read(4, 2), "little") | 2 | (4 if master else 0)
        config.write(4, command.to_bytes(2, "little"))

    def irq(self, index: int) -> v.vfio_irq_info:
        """VFIO_DEVICE_GET_IRQ_INFO."""
        info = v.vfio_irq_info(argsz=v.vfio_irq_info.sizeof(), index=index)
        self.proc.ioctl(self.fd, v.VFIO_DEVICE_GET_IRQ_INFO, info)
        return info

    def set_irqs(self, index: int, flags: int, start: int = 0, count: int = 0, data: bytes = b"") -> int:
        """VFIO_DEVICE_SET_IRQS."""
        size = v.vfio_irq_set.sizeof()
        head = v.vfio_irq_set(argsz=size + len(data), flags=flags, index=index, start=start, count=count)
        return self.proc.ioctl(self.fd, v.VFIO_DEVICE_SET_IRQS, bytearray(bytes(head)[:size] + data))

    def signal_by(self, index: int, fds: list[int], start: int = 0) -> int:
        """Let eventfds stand for interrupts."""
        data = struct.pack(f"<{len(fds)}i", *fds)
        flags = v.VFIO_IRQ_SET_DATA_EVENTFD | v.VFIO_IRQ_SET_ACTION_TRIGGER
        return self.set_irqs(index, flags, start, len(fds), data)

    def disable(self, index: int) -> int:
        """No interrupts of this kind."""
        return self.set_irqs(index, v.VFIO_IRQ_SET_DATA_NONE | v.VFIO_IRQ_SET_ACTION_TRIGGER)

    def trigger(self, index: int, start: int = 0) -> int:
        """Loop back one interrupt."""
        return self.set_irqs(index, v.VFIO_IRQ_SET_DATA_NONE | v.VFIO_IRQ_SET_ACTION_TRIGGER, start, 1)

    def reset(self) -> int:
        """VFIO_DEVICE_RESET."""
        return self.proc.ioctl(self.fd, v.VFIO_DEVICE_RESET)

    def feature(self, flags: int, payload: bytes = b"") -> bytes:
        """VFIO_DEVICE_FEATURE; the payload afterwards."""
        buf = bytearray(struct.pack("<II", 8 + len(payload), flags) + payload)
        self.proc.ioctl(self.fd, v.VFIO_DEVICE_FEATURE, buf)
        return bytes(buf[8:])

    def close(self) -> None:
        """Close the descriptor."""
        self.proc.close(self.fd)


def capabilities(buf: bytes | bytearray, at: int) -> dict[int, bytes]:
    """The chain that begins at *at*: number -> what comes after the header, up to the next one in memory."""
    starts = []
    while at:
        starts.append(at)
        at = int(struct.unpack_from("<HHI", buf, at)[2])
    ends = {s: min((e for e in [*starts, len(buf)] if e > s), default=len(buf)) for s in starts}
    return {struct.unpack_from("<H", buf, s)[0]: bytes(buf[s + 8 : ends[s]]) for s in starts}


# ---- QEMU, the legacy way (hw/vfio/container.c)


class Container:
    """``/dev/vfio/vfio`` with groups, or IOMMUFD in its place; the best type that the kernel has, or *iommu_type*."""

    def __init__(self, proc: Process, iommu_type: int | None = None, path: str = "/dev/vfio/vfio") -> None:
        self.proc = proc
        self.iommu_type = iommu_type
        self.groups: dict[str, int] = {}
        self.fd = proc.open(path, os.O_RDWR)
        if proc.ioctl(self.fd, v.VFIO_GET_API_VERSION) != v.VFIO_API_VERSION:
            raise AssertionError("not the API that Linux has")

    def device(self, path: str) -> Device:
        """The device whose directory in sysfs is *path*: its group joins, its descriptor is asked for."""
        number = os.path.basename(self.proc.readlink(f"{path}/iommu_group"))
        group = self.group(number)
        name = os.path.basename(path).encode() + b"\0"
        return Device(self.proc, self.proc.ioctl(group, v.VFIO_GROUP_GET_DEVICE_FD, bytearray(name)))

    def group(self, number: str) -> int:
        """The descriptor of a group that is in this container."""
        if number in self.groups:
            return self.groups[number]
        proc = self.proc
        fd = self.groups[number] = proc.open(f"/dev/vfio/{number}", os.O_RDWR)
        status = v.vfio_group_status(argsz=v.vfio_group_status.sizeof())
        proc.ioctl(fd, v.VFIO_GROUP_GET_STATUS, status)
        assert status.flags & v.VFIO_GROUP_FLAGS_VIABLE, f"group {number} is not viable"
        first = len(self.groups) == 1
        if first and self.iommu_type is None:
            types = (v.VFIO_TYPE1v2_IOMMU, v.VFIO_TYPE1_IOMMU)
            self.iommu_type = next(t for t in types if proc.ioctl(self.fd, v.VFIO_CHECK_EXTENSION, t))
        proc.ioctl(fd, v.VFIO_GROUP_SET_CONTAINER, bytearray(self.fd.to_bytes(4, "little")))
        if first:
            assert self.iommu_type is not None
            proc.ioctl(self.fd, v.VFIO_SET_IOMMU, self.iommu_type)
        return fd

    def info(self) -> tuple[v.vfio_iommu_type1_info, dict[int, bytes]]:
        """VFIO_IOMMU_GET_INFO, asked twice (vfio_get_iommu_info())."""
        size = v.vfio_iommu_type1_info.sizeof()
        buf = bytearray(bytes(v.vfio_iommu_type1_info(argsz=size)))
        self.proc.ioctl(self.fd, v.VFIO_IOMMU_GET_INFO, buf)
        total = int.from_bytes(buf[:4], "little")
        buf = bytearray(total.to_bytes(4, "little")) + bytearray(max(total, size) - 4)
        self.proc.ioctl(self.fd, v.VFIO_IOMMU_GET_INFO, buf)
        info = v.vfio_iommu_type1_info.from_bytes(bytes(buf[:size]))
        return info, capabilities(buf[:total], info.cap_offset)

    def ranges(self) -> list[tuple[int, int]]:
        """What can be mapped (vfio_get_info_iova_range())."""
        cap = self.info()[1][v.VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE]
        count = int.from_bytes(cap[:4], "little")
        words = struct.unpack_from(f"<{2 * count}Q", cap, 8)
        return list(zip(words[::2], words[1::2], strict=True))

    def map(self, vaddr: int, iova: int, size: int, flags: int = RW) -> None:
        """VFIO_IOMMU_MAP_DMA."""
        row = v.vfio_iommu_type1_dma_map(
            argsz=v.vfio_iommu_type1_dma_map.sizeof(), flags=flags, vaddr=vaddr, iova=iova, size=size
        )
        self.proc.ioctl(self.fd, v.VFIO_IOMMU_MAP_DMA, row)

    def unmap(self, iova: int, size: int, flags: int = 0) -> int:
        """VFIO_IOMMU_UNMAP_DMA; how much was unmapped."""
        row = v.vfio_iommu_type1_dma_unmap(
            argsz=v.vfio_iommu_type1_dma_unmap.sizeof(), flags=flags, iova=iova, size=size
        )
        self.proc.ioctl(self.fd, v.VFIO_IOMMU_UNMAP_DMA, row)
        return int(row.size)

    def unmap_all(self) -> int:
        """All of it at once; how much that was."""
        return self.unmap(0, 0, v.VFIO_DMA_UNMAP_FLAG_ALL)

    def leave(self, number: str) -> None:
        """A group leaves; it has left by itself when its devices are not VFIO's any more (vfio_put_group())."""
        fd = self.groups.pop(number)
        try:
            self.proc.ioctl(fd, v.VFIO_GROUP_UNSET_CONTAINER)
        except OSError as e:
            if e.errno != EINVAL:
                raise
        self.proc.close(fd)

    def close(self) -> None:
        """Groups leave, then the container goes."""
        for number in list(self.groups):
            self.leave(number)
        self.proc.close(self.fd)


# ---- QEMU, the new way (hw/vfio/iommufd.c)


class Iommufd:
    """``/dev/iommu`` with one IO address space."""

    def __init__(self, proc: Process) -> None:
        self.proc = proc
        self.fd = proc.open("/dev/iommu", os.O_RDWR)
        alloc = i.iommu_ioas_alloc(size=i.iommu_ioas_alloc.sizeof())
        proc.ioctl(self.fd, i.IOMMU_IOAS_ALLOC, alloc)
        self.ioas = int(alloc.out_ioas_id)

    def device(self, path: str) -> Device:
        """The device whose directory in sysfs is *path*, bound and attached."""
        proc = self.proc
        (name,) = proc.listdir(f"{path}/vfio-dev")
        number = proc.read_text(f"{path}/vfio-dev/{name}/dev").strip()
        node = proc.stat(f"/dev/vfio/devices/{name}")
        assert stat.S_ISCHR(node.st_mode)
        assert number == f"{os.major(node.st_rdev)}:{os.minor(node.st_rdev)}"
        fd = proc.open(f"/dev/vfio/devices/{name}", os.O_RDWR)
        bind = v.vfio_device_bind_iommufd(argsz=16, iommufd=self.fd)
        proc.ioctl(fd, v.VFIO_DEVICE_BIND_IOMMUFD, bind)
        self.devid = int(bind.out_devid)
        attach = v.vfio_device_attach_iommufd_pt(argsz=12, pt_id=self.ioas)
        proc.ioctl(fd, v.VFIO_DEVICE_ATTACH_IOMMUFD_PT, attach)
        self.pt_id = int(attach.pt_id)
        return Device(proc, fd)

    def ranges(self) -> list[tuple[int, int]]:
        """What can be mapped: first asked with no room, which is EMSGSIZE (iommufd_cdev_get_info_iova_range())."""
        ask = i.iommu_ioas_iova_ranges(size=i.iommu_ioas_iova_ranges.sizeof(), ioas_id=self.ioas)
        try:
            self.proc.ioctl(self.fd, i.IOMMU_IOAS_IOVA_RANGES, ask)
        except OSError as e:
            if e.strerror != "Message too long":
                raise
        at = self.proc.mem.alloc(16 * ask.num_iovas)
        ask.allowed_iovas = at
        self.proc.ioctl(self.fd, i.IOMMU_IOAS_IOVA_RANGES, ask)
        words = struct.unpack(f"<{2 * ask.num_iovas}Q", self.proc.mem.read(at, 16 * ask.num_iovas))
        return list(zip(words[::2], words[1::2], strict=True))

    def map(self, vaddr: int, iova: int, size: int) -> None:
        """IOMMU_IOAS_MAP at a fixed place."""
        flags = i.IOMMU_IOAS_MAP_FIXED_IOVA | i.IOMMU_IOAS_MAP_READABLE | i.IOMMU_IOAS_MAP_WRITEABLE
        row = i.iommu_ioas_map(
            size=i.iommu_ioas_map.sizeof(), flags=flags, ioas_id=self.ioas, user_va=vaddr, length=size, iova=iova
        )
        self.proc.ioctl(self.fd, i.IOMMU_IOAS_MAP, row)

    def unmap(self, iova: int, size: int) -> int:
        """IOMMU_IOAS_UNMAP; how much was unmapped."""
        row = i.iommu_ioas_unmap(size=i.iommu_ioas_unmap.sizeof(), ioas_id=self.ioas, iova=iova, length=size)
        self.proc.ioctl(self.fd, i.IOMMU_IOAS_UNMAP, row)
        return int(row.length)

    def unmap_all(self) -> int:
        """All of it at once; how much that was."""
        return self.unmap(0, (1 << 64) - 1)

    def close(self) -> None:
        """Everything of it goes."""
        self.proc.close(self.fd)


def anonymous(proc: Process, size: int) -> int:
    """Memory of the client's own."""
    return proc.mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS)


def expect(proc: Process, fd: int, request: Any, arg: Any = 0) -> str:
    """The result of an ioctl, or the name of its errno."""
    import errno

    try:
        return str(proc.ioctl(fd, request, arg))
    except OSError as e:
        return errno.errorcode[e.errno or 0]
