"""An open ``/dev/iommu``: its commands by the struct's fields, as iommufd_utils.h of the kernel's test has them."""

from __future__ import annotations

import os
import struct
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, MAP_SHARED, PROT_READ, PROT_WRITE
from typing import Any

from pykernel.syscalls import Process
from pykernel.uapi.ioctl import Ioctl
from pykernel.uapi.linux import iommufd as i
from pykernel.uapi.linux import vfio as v

PAGE = 4096
RW = i.IOMMU_IOAS_MAP_READABLE | i.IOMMU_IOAS_MAP_WRITEABLE
FIXED = RW | i.IOMMU_IOAS_MAP_FIXED_IOVA
ALL = (1 << 64) - 1
HUGE = 2 << 20
MAP_FIXED = 0x10


class Iommufd:
    """A descriptor of ``/dev/iommu``."""

    def __init__(self, proc: Process, fd: int | None = None) -> None:
        self.proc = proc
        self.fd = proc.open("/dev/iommu", os.O_RDWR) if fd is None else fd

    def __call__(self, row: Ioctl[Any], **fields: Any) -> Any:
        """The command with these fields; the struct afterwards."""
        assert row.struct is not None
        cmd = row.struct(**{"size": row.struct.sizeof()} | fields)
        self.proc.ioctl(self.fd, row, cmd)
        return cmd

    def close(self) -> None:
        self.proc.close(self.fd)

    def destroy(self, id: int) -> None:
        self(i.IOMMU_DESTROY, id=id)

    def ioas(self) -> int:
        """A new IOAS."""
        return int(self(i.IOMMU_IOAS_ALLOC).out_ioas_id)

    def map(self, ioas: int, va: int, length: int, flags: int = RW) -> int:
        """Map where there is room; the address."""
        return int(self(i.IOMMU_IOAS_MAP, flags=flags, ioas_id=ioas, user_va=va, length=length).iova)

    def map_fixed(self, ioas: int, va: int, length: int, iova: int, flags: int = FIXED) -> None:
        self(i.IOMMU_IOAS_MAP, flags=flags, ioas_id=ioas, user_va=va, length=length, iova=iova)

    def unmap(self, ioas: int, iova: int, length: int) -> int:
        """How many bytes were unmapped."""
        return int(self(i.IOMMU_IOAS_UNMAP, ioas_id=ioas, iova=iova, length=length).length)

    def copy(self, dst: int, src: int, length: int, dst_iova: int, src_iova: int, flags: int = FIXED) -> int:
        """The address of the copy."""
        row = self(
            i.IOMMU_IOAS_COPY,
            flags=flags, dst_ioas_id=dst, src_ioas_id=src, length=length, dst_iova=dst_iova, src_iova=src_iova,
        )  # fmt: skip
        return int(row.dst_iova)

    def ranges(self, ioas: int, room: int = 64) -> tuple[list[tuple[int, int]], int]:
        """What can be mapped, and the alignment."""
        at = self.proc.mem.alloc(room * 16)
        row = self(i.IOMMU_IOAS_IOVA_RANGES, ioas_id=ioas, num_iovas=room, allowed_iovas=at)
        words = struct.unpack(f"<{2 * row.num_iovas}Q", self.proc.mem.read(at, 16 * row.num_iovas))
        return list(zip(words[::2], words[1::2], strict=True)), int(row.out_iova_alignment)

    def allow(self, ioas: int, *ranges: tuple[int, int]) -> None:
        """IOMMU_IOAS_ALLOW_IOVAS."""
        at = self.proc.mem.alloc(16 * len(ranges) or 16)
        self.proc.mem.write(at, b"".join(struct.pack("<2Q", *row) for row in ranges))
        self(i.IOMMU_IOAS_ALLOW_IOVAS, ioas_id=ioas, num_iovas=len(ranges), allowed_iovas=at)

    def option(self, option_id: int, op: int, val: int = 0, object_id: int = 0) -> int:
        """IOMMU_OPTION; the value."""
        return int(self(i.IOMMU_OPTION, option_id=option_id, op=op, val64=val, object_id=object_id).val64)

    def hwpt(self, dev: int, pt: int, flags: int = 0, **fields: Any) -> int:
        """IOMMU_HWPT_ALLOC; the number."""
        return int(self(i.IOMMU_HWPT_ALLOC, flags=flags, dev_id=dev, pt_id=pt, **fields).out_hwpt_id)

    def put(self, data: bytes) -> int:
        """The address of *data* in the client's memory."""
        at = self.proc.mem.alloc(len(data) or 1)
        self.proc.mem.write(at, data)
        return at


class Cdev:
    """A descriptor of ``/dev/vfio/devices/vfioN`` of the device whose directory in sysfs is *path*."""

    def __init__(self, proc: Process, path: str) -> None:
        self.proc, self.path = proc, path
        (self.name,) = proc.listdir(f"{path}/vfio-dev")
        self.fd = proc.open(f"/dev/vfio/devices/{self.name}", os.O_RDWR)

    def again(self) -> Cdev:
        """Another descriptor of the same node."""
        return Cdev(self.proc, self.path)

    def bind(self, iommufd: int, **fields: int) -> int:
        """VFIO_DEVICE_BIND_IOMMUFD; the number of the device there."""
        cmd = v.vfio_device_bind_iommufd(**{"argsz": 16, "iommufd": iommufd} | fields)
        self.proc.ioctl(self.fd, v.VFIO_DEVICE_BIND_IOMMUFD, cmd)
        return int(cmd.out_devid)

    def attach(self, pt_id: int, **fields: int) -> int:
        """VFIO_DEVICE_ATTACH_IOMMUFD_PT; what it is attached to."""
        cmd = v.vfio_device_attach_iommufd_pt(**{"argsz": 12, "pt_id": pt_id} | fields)
        self.proc.ioctl(self.fd, v.VFIO_DEVICE_ATTACH_IOMMUFD_PT, cmd)
        return int(cmd.pt_id)

    def detach(self, **fields: int) -> None:
        """VFIO_DEVICE_DETACH_IOMMUFD_PT."""
        cmd = v.vfio_device_detach_iommufd_pt(**{"argsz": 8} | fields)
        self.proc.ioctl(self.fd, v.VFIO_DEVICE_DETACH_IOMMUFD_PT, cmd)

    def get_info(self) -> int:
        """VFIO_DEVICE_GET_INFO."""
        size = v.vfio_device_info.sizeof()
        return self.proc.ioctl(self.fd, v.VFIO_DEVICE_GET_INFO, v.vfio_device_info(argsz=size))

    def close(self) -> None:
        self.proc.close(self.fd)


def shared(proc: Process, size: int, at: int = 0x600000000000) -> int:
    """*size* bytes of shared anonymous memory, at a huge page."""
    return proc.mmap(at, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED)


def private(proc: Process, size: int, at: int) -> int:
    """The same of private memory, which huge pages of the machine stand for."""
    return proc.mmap(at, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED)
