"""A client of VFIO on the edu function: bound to vfio-pci, its container, group and device descriptors."""

from __future__ import annotations

import fcntl
import os
import select
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from probing import Probe, call, write_text
from subject import OTHER, Subject
from vfio_abi import CONFIG, GET_DEVICE_FD, SET_CONTAINER, SET_IOMMU, TYPE1V2, plain
from vfio_host import Host, Memory

CONTAINER = "/dev/vfio/vfio"


class Vfio(Subject):  # type: ignore[misc,unused-ignore]  # probes are imported by plain names
    """The device, its group's number and node; the host of the probe."""

    def __init__(self, q: Probe) -> None:
        super().__init__(q)
        self.host: Host = q.host
        self.group_id = os.path.basename(os.readlink(self.at("iommu_group")))
        self.node = f"/dev/vfio/{self.group_id}"
        q.words.append((self.node, "/dev/vfio/GROUP"))
        for text in ("iommu_groups/{}", "vfio/{}'", "=vfio/{}\\n"):
            q.words.append((text.format(self.group_id), text.format("GROUP")))

    def bind(self) -> None:
        """To vfio-pci."""
        write_text(self.at("driver_override"), "vfio-pci")
        write_text(f"{OTHER}/bind", self.addr)


class Fds:
    """Descriptors of one client; closed at the end, in the order container, device, group."""

    def __init__(self, v: Vfio, iommu: int | None = TYPE1V2, *, device: bool = True) -> None:
        self.v = v
        self.container = os.open(CONTAINER, os.O_RDWR)
        self.group = os.open(v.node, os.O_RDWR)
        self.device = -1
        fcntl.ioctl(self.group, SET_CONTAINER, bytearray(struct.pack("<i", self.container)))
        if iommu is not None:
            fcntl.ioctl(self.container, SET_IOMMU, iommu)
            if device:
                self.device = self.open_device()

    def open_device(self) -> int:
        """GET_DEVICE_FD by the address."""
        return int(fcntl.ioctl(self.group, GET_DEVICE_FD, bytearray(self.v.addr.encode() + b"\0")))

    def close(self) -> None:
        """What is still open."""
        for name in ("container", "device", "group"):
            self.shut(name)

    def shut(self, name: str) -> None:
        """One of them, if it is open."""
        fd = getattr(self, name)
        if fd >= 0:
            os.close(fd)
            setattr(self, name, -1)

    # ---- the function behind the device

    def read(self, offset: int, size: int = 4, region: int = 0) -> int:
        """A register of a BAR."""
        return int.from_bytes(os.pread(self.device, size, (region << 40) + offset), "little")

    def write(self, offset: int, value: int, size: int = 4, region: int = 0) -> None:
        """A register of a BAR."""
        os.pwrite(self.device, value.to_bytes(size, "little"), (region << 40) + offset)

    def config(self, offset: int, size: int) -> int:
        """Configuration space."""
        return int.from_bytes(os.pread(self.device, size, CONFIG + offset), "little")

    def set_config(self, offset: int, value: int, size: int) -> None:
        """Configuration space."""
        os.pwrite(self.device, value.to_bytes(size, "little"), CONFIG + offset)

    def decode(self, *, memory: bool = True, master: bool = False) -> None:
        """COMMAND: memory decode, bus master."""
        self.set_config(4, 2 * memory + 4 * master, 2)


@contextmanager
def bound(q: Probe) -> Iterator[Vfio]:
    """edu on vfio-pci, as after boot at the end."""
    v = Vfio(q)
    v.bind()
    try:
        yield v
    finally:
        v.release()


@contextmanager
def client(v: Vfio, iommu: int | None = TYPE1V2, *, device: bool = True) -> Iterator[Fds]:
    """A client that closes everything."""
    fds = Fds(v, iommu, device=device)
    try:
        yield fds
    finally:
        fds.close()


@contextmanager
def eventfds(n: int) -> Iterator[list[int]]:
    """Counters."""
    with ExitStack() as stack:
        fds = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(n)]
        for fd in fds:
            stack.callback(call, os.close, fd)
        yield fds


def count(fd: int, wait: float = 0) -> int:
    """What the counter has, waiting for it at most so many milliseconds; 0 without."""
    p = select.poll()
    p.register(fd, select.POLLIN)
    if not p.poll(wait):
        return 0
    return int(struct.unpack("<Q", os.read(fd, 8))[0])


def extension(fd: int) -> list[object]:
    """CHECK_EXTENSION of every number that has a name, and some without."""
    from vfio_abi import CHECK_EXTENSION

    return [plain(fd, CHECK_EXTENSION, n) for n in range(13)]


__all__ = ["CONTAINER", "Fds", "Memory", "Vfio", "bound", "client", "count", "eventfds", "extension"]
