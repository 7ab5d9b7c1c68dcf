"""A device of VFIO without silicon, an IOMMU driver without an IOMMU, and a client's calls: for tests of the core."""

from __future__ import annotations

import struct
from typing import Any

from pykernel.base.core import Device
from pykernel.kernel import Kernel
from pykernel.syscalls import Process
from pykernel.uapi.linux import vfio as v
from pykernel.vfio.container import VfioIommuDriver, vfio_register_iommu_driver
from pykernel.vfio.main import VfioDevice, vfio_register_emulated_iommu_dev, vfio_unregister_group_dev

__all__ = [
    "Log",
    "Mappings",
    "Toy",
    "add_mappings",
    "add_toy",
    "drop_toy",
    "get_device_fd",
    "open_group",
    "put_string",
    "set_container",
    "usable",
]

EXTENSION = 77  # one that no IOMMU driver of Linux has

Log = list[tuple[Any, ...]]


class Toy(VfioDevice):
    """Notes what it is asked, in ``log``."""

    ops_name = "toy"

    def __init__(self, dev: Device, log: Log) -> None:
        super().__init__(dev)
        self.log = log
        self.fails: OSError | None = None
        self.on_request: Any = lambda count: None

    def open_device(self) -> None:
        self.log.append(("open",))
        if self.fails is not None:
            raise self.fails

    def close_device(self) -> None:
        self.log.append(("close",))

    def read(self, count: int, pos: int) -> bytes:
        return bytes((pos + n) & 0xFF for n in range(min(count, 16)))

    def write(self, data: bytes, pos: int) -> int:
        self.log.append(("write", pos, data))
        return len(data)

    def request(self, count: int) -> None:
        self.log.append(("request", count, self.kernel.sched.clock_ns() // 10**9))
        self.on_request(count)


class Mappings(VfioIommuDriver):
    """Has one extension; notes what it is asked. Its iommu_data is a set of groups."""

    name = "mappings"

    def __init__(self, kernel: Kernel, log: Log) -> None:
        super().__init__(kernel)
        self.log = log
        self.fails: OSError | None = None

    def open(self, arg: int) -> Any:
        self.log.append(("iommu open", arg))
        return set()

    def release(self, data: Any) -> None:
        self.log.append(("iommu release",))

    def ioctl(self, data: Any, cmd: int, arg: int) -> int:
        if cmd == v.VFIO_CHECK_EXTENSION.nr:
            return (2 if data is None else 3) if arg == EXTENSION else 0
        return super().ioctl(data, cmd, arg)

    def attach_group(self, data: Any, group: Any, type: Any) -> None:
        if self.fails is not None:
            raise self.fails
        data.add(group)

    def detach_group(self, data: Any, group: Any) -> None:
        data.remove(group)

    def register_device(self, data: Any, vdev: VfioDevice) -> None:
        self.log.append(("register", vdev.name))

    def unregister_device(self, data: Any, vdev: VfioDevice) -> None:
        self.log.append(("unregister", vdev.name))

    def pin_pages(self, data: Any, group: Any, iova: int, npage: int, prot: int) -> list[int]:
        return [iova + (n << 12) for n in range(npage)]

    def unpin_pages(self, data: Any, iova: int, npage: int) -> None:
        self.log.append(("unpin", iova, npage))

    def dma_rw(self, data: Any, iova: int, buf: bytearray, write: bool) -> None:
        if not write:
            buf[:] = bytes((iova + n) & 0xFF for n in range(len(buf)))
        self.log.append(("dma", iova, bytes(buf), write))

    def notify(self, data: Any) -> None:
        self.log.append(("container closed",))


def add_toy(kernel: Kernel, name: str = "toy0", log: Log | None = None) -> Toy:
    """A device with an emulated IOMMU, in a group of its own."""
    dev = Device(kernel, name)
    dev.register()
    toy = Toy(dev, [] if log is None else log)
    vfio_register_emulated_iommu_dev(toy)
    return toy


def drop_toy(toy: Toy) -> None:
    """Take it and what is below it away."""
    if toy.index >= 0:
        vfio_unregister_group_dev(toy)
    toy.dev.unregister()


def add_mappings(kernel: Kernel, log: Log | None = None) -> Mappings:
    """The IOMMU driver, registered."""
    driver = Mappings(kernel, [] if log is None else log)
    vfio_register_iommu_driver(kernel, driver)
    return driver


def put_string(proc: Process, text: str) -> int:
    """The address of a string in the client's memory."""
    data = text.encode() + b"\0"
    addr: int = proc.mem.alloc(len(data))
    proc.mem.write(addr, data)
    return addr


def open_group(proc: Process, toy: VfioDevice) -> int:
    """A descriptor of the device's group."""
    return proc.open(f"/dev/vfio/{toy.the_group.name}", 2)


def set_container(proc: Process, group: int, container: int) -> int:
    """VFIO_GROUP_SET_CONTAINER."""
    return proc.ioctl(group, v.VFIO_GROUP_SET_CONTAINER, bytearray(struct.pack("<i", container)))


def get_device_fd(proc: Process, group: int, name: str) -> int:
    """VFIO_GROUP_GET_DEVICE_FD."""
    return proc.ioctl(group, v.VFIO_GROUP_GET_DEVICE_FD, put_string(proc, name))


def usable(proc: Process, toy: VfioDevice) -> tuple[int, int]:
    """A container with the toy's group and the test's IOMMU driver, and the group."""
    container, group = proc.open("/dev/vfio/vfio", 2), open_group(proc, toy)
    set_container(proc, group, container)
    proc.ioctl(container, v.VFIO_SET_IOMMU, EXTENSION)
    return container, group
