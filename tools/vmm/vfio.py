"""VFIO as a VMM uses it: a container, groups, devices with their regions and interrupts (hw/vfio of QEMU)."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, field
from errno import ENOTTY
from mmap import MAP_SHARED, PROT_READ, PROT_WRITE
from typing import TYPE_CHECKING

from pykernel.uapi.linux import vfio as v

if TYPE_CHECKING:
    from pykernel.syscalls import Process

__all__ = ["VfioContainer", "VfioDevice", "VfioRegion"]

PAGE = 4096


@dataclass(frozen=True)
class VfioRegion:
    """A region of a device: where in its descriptor, how large, and which parts may be mapped."""

    index: int
    flags: int
    size: int
    offset: int
    areas: tuple[tuple[int, int], ...] = ()  # (offset, size)


class VfioContainer:
    """``/dev/vfio/vfio`` with the groups of a machine's devices, and the page tables of type *iommu_type*."""

    def __init__(self, proc: Process, iommu_type: int) -> None:
        self.proc, self.iommu_type = proc, iommu_type
        self.groups: dict[str, int] = {}
        self.fd = proc.open("/dev/vfio/vfio", os.O_RDWR)

    def device(self, path: str) -> VfioDevice:
        """The device whose directory in sysfs is *path*: its group joins, its descriptor is asked for."""
        group = self._group(os.path.basename(self.proc.readlink(f"{path}/iommu_group")))
        name = os.path.basename(path).encode() + b"\0"
        return VfioDevice(self.proc, self.proc.ioctl(group, v.VFIO_GROUP_GET_DEVICE_FD, bytearray(name)))

    def _group(self, number: str) -> int:
        if number in self.groups:
            return self.groups[number]
        proc = self.proc
        fd = proc.open(f"/dev/vfio/{number}", os.O_RDWR)
        try:
            proc.ioctl(fd, v.VFIO_GROUP_SET_CONTAINER, bytearray(self.fd.to_bytes(4, "little")))
            if not self.groups:
                proc.ioctl(self.fd, v.VFIO_SET_IOMMU, self.iommu_type)
        except OSError:
            proc.close(fd)
            raise
        self.groups[number] = fd
        return fd

    def map(self, vaddr: int, iova: int, size: int, *, write: bool = True) -> None:
        """VFIO_IOMMU_MAP_DMA, for reading and, with *write*, for writing."""
        flags = v.VFIO_DMA_MAP_FLAG_READ | (v.VFIO_DMA_MAP_FLAG_WRITE if write else 0)
        row = v.vfio_iommu_type1_dma_map(
            argsz=v.vfio_iommu_type1_dma_map.sizeof(), flags=flags, vaddr=vaddr, iova=iova, size=size
        )
        self.proc.ioctl(self.fd, v.VFIO_IOMMU_MAP_DMA, row)

    def close(self) -> None:
        """Groups leave, then it goes."""
        for fd in self.groups.values():
            self.proc.close(fd)
        self.groups.clear()
        self.proc.close(self.fd)


@dataclass
class VfioDevice:
    """A device's descriptor."""

    proc: Process
    fd: int
    regions: list[VfioRegion] = field(init=False)

    def __post_init__(self) -> None:
        info = v.vfio_device_info(argsz=v.vfio_device_info.sizeof())
        self.proc.ioctl(self.fd, v.VFIO_DEVICE_GET_INFO, info)
        wanted = min(int(info.num_regions), v.VFIO_PCI_CONFIG_REGION_INDEX + 1)
        self.regions = [self._region(index) for index in range(wanted)]
        self.config = self.regions[v.VFIO_PCI_CONFIG_REGION_INDEX]

    def _region(self, index: int) -> VfioRegion:
        size = v.vfio_region_info.sizeof()
        buf = bytearray(bytes(v.vfio_region_info(argsz=size, index=index)))
        self.proc.ioctl(self.fd, v.VFIO_DEVICE_GET_REGION_INFO, buf)
        info = v.vfio_region_info.from_bytes(bytes(buf[:size]))
        if info.argsz > size:
            buf = bytearray(bytes(v.vfio_region_info(argsz=info.argsz, index=index))) + bytearray(info.argsz - size)
            self.proc.ioctl(self.fd, v.VFIO_DEVICE_GET_REGION_INFO, buf)
            info = v.vfio_region_info.from_bytes(bytes(buf[:size]))
        areas: tuple[tuple[int, int], ...] = ()
        if info.flags & v.VFIO_REGION_INFO_FLAG_MMAP:
            sparse = _sparse(buf, int(info.cap_offset)) if info.flags & v.VFIO_REGION_INFO_FLAG_CAPS else None
            areas = ((0, int(info.size)),) if sparse is None else sparse
        return VfioRegion(index, int(info.flags), int(info.size), int(info.offset), areas)

    def read(self, region: VfioRegion, off: int, size: int) -> int:
        """A load of *size* bytes."""
        return int.from_bytes(self.proc.pread(self.fd, size, region.offset + off), "little")

    def write(self, region: VfioRegion, off: int, size: int, value: int) -> None:
        """A store."""
        self.proc.pwrite(self.fd, value.to_bytes(size, "little"), region.offset + off)

    def mmap(self, region: VfioRegion, off: int, size: int) -> int:
        """The address of a shared mapping of a part of *region*."""
        return self.proc.mmap(0, size, PROT_READ | PROT_WRITE, MAP_SHARED, self.fd, region.offset + off)

    def signal_by(self, index: int, fds: list[int]) -> None:
        """Let eventfds stand for the interrupts of a kind; with none they are off."""
        kind = v.VFIO_IRQ_SET_DATA_EVENTFD if fds else v.VFIO_IRQ_SET_DATA_NONE
        data = struct.pack(f"<{len(fds)}i", *fds)
        size = v.vfio_irq_set.sizeof()
        head = v.vfio_irq_set(
            argsz=size + len(data), flags=kind | v.VFIO_IRQ_SET_ACTION_TRIGGER, index=index, count=len(fds)
        )
        self.proc.ioctl(self.fd, v.VFIO_DEVICE_SET_IRQS, bytearray(bytes(head)[:size] + data))

    # ---- migration

    def _feature(self, flags: int, data: bytes) -> bytes:
        buf = bytearray(struct.pack("<II", 8 + len(data), flags) + data)
        self.proc.ioctl(self.fd, v.VFIO_DEVICE_FEATURE, buf)
        return bytes(buf[8:])

    def migrates(self) -> bool:
        """Whether it can be stopped, read out and loaded elsewhere."""
        try:
            row = self._feature(v.VFIO_DEVICE_FEATURE_GET | v.VFIO_DEVICE_FEATURE_MIGRATION, bytes(8))
        except OSError as e:
            if e.errno != ENOTTY:
                raise
            return False
        return bool(int.from_bytes(row, "little") & v.VFIO_MIGRATION_STOP_COPY)

    def set_state(self, state: int) -> int:
        """VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE: the stream's descriptor, or -1. Raises OSError."""
        flags = v.VFIO_DEVICE_FEATURE_SET | v.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE
        row = self._feature(flags, struct.pack("<Ii", int(state), -1))
        return int(struct.unpack("<Ii", row)[1])

    def save(self) -> bytes:
        """What a stopped device is. Raises OSError."""
        fd = self.set_state(v.VFIO_DEVICE_STATE_STOP_COPY)
        data = b""
        try:
            while part := self.proc.read(fd, PAGE):
                data += part
        finally:
            self.proc.close(fd)
        self.set_state(v.VFIO_DEVICE_STATE_STOP)
        return data

    def load(self, data: bytes) -> None:
        """Be what :meth:`save` said, stopped. Raises OSError: EINVAL, it was another device."""
        fd = self.set_state(v.VFIO_DEVICE_STATE_RESUMING)
        try:
            for at in range(0, len(data), PAGE):
                self.proc.write(fd, data[at : at + PAGE])
        finally:
            self.proc.close(fd)
        self.set_state(v.VFIO_DEVICE_STATE_STOP)

    def close(self) -> None:
        """Close the descriptor."""
        self.proc.close(self.fd)


def _sparse(buf: bytearray, at: int) -> tuple[tuple[int, int], ...] | None:
    """The areas of VFIO_REGION_INFO_CAP_SPARSE_MMAP in the chain that begins at *at*, if it is there."""
    while at:
        kind, _, following = struct.unpack_from("<HHI", buf, at)
        if kind == v.VFIO_REGION_INFO_CAP_SPARSE_MMAP:
            (n,) = struct.unpack_from("<I", buf, at + 8)
            words = struct.unpack_from(f"<{2 * n}Q", buf, at + 16)
            return tuple(zip(words[::2], words[1::2], strict=True))
        at = following
    return None
