"""
What Linux's samples of mediated PCI devices have in common (samples/vfio-mdev: the same lines in each of them).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pykernel.fs.ioctl import ioctl
from pykernel.lib.locking import Mutex
from pykernel.mm.uaccess import copy_to_user
from pykernel.uapi.ioctl import Ioctl
from pykernel.uapi.linux.vfio import (
    VFIO_DEVICE_FLAGS_PCI,
    VFIO_DEVICE_GET_INFO,
    VFIO_PCI_NUM_IRQS,
    VFIO_PCI_NUM_REGIONS,
    vfio_device_info,
)
from pykernel.uapi.struct import Struct
from pykernel.vfio.device import VfioDevice

if TYPE_CHECKING:
    from pykernel.mdev import MdevDevice

__all__ = ["SampleDevice"]


def accesses(pos: int, count: int) -> Iterator[tuple[int, int]]:
    """How a read or a write is cut: (position, 4, 2 or 1), each at a multiple of its size."""
    end = pos + count
    while pos < end:
        size = next(n for n in (4, 2, 1) if end - pos >= n and pos % n == 0)
        yield pos, size
        pos += size


class SampleDevice(VfioDevice):
    """
    A PCI device of memory only: reads and writes in pieces, VFIO_DEVICE_GET_INFO.

    Attributes:
        num_irqs: 0 until somebody asks for VFIO_DEVICE_GET_INFO; no interrupt is known before.
    """

    def __init__(self, mdev: MdevDevice) -> None:
        super().__init__(mdev)
        self.ops_lock = Mutex(self.kernel, f"ops_lock of {mdev.name}")
        self.num_irqs = 0

    def access_read(self, pos: int, size: int) -> bytes:
        """1, 2 or 4 bytes, ops_lock held. Raises EFAULT: nothing is there."""
        raise NotImplementedError

    def access_write(self, pos: int, data: bytes) -> None:
        """1, 2 or 4 bytes, ops_lock held. Raises EFAULT: nothing is there."""
        raise NotImplementedError

    def read(self, count: int, pos: int) -> bytes:
        """C: ``mtty_read()``, ``mdpy_read()``. Raises EFAULT: nothing is somewhere there."""
        parts = []
        for at, size in accesses(pos, count):
            with self.ops_lock:
                parts.append(self.access_read(at, size))
        return b"".join(parts)

    def write(self, data: bytes, pos: int) -> int:
        """C: ``mtty_write()``, ``mdpy_write()``. Raises EFAULT: nothing is somewhere there; what was before is done."""
        for at, size in accesses(pos, len(data)):
            with self.ops_lock:
                self.access_write(at, data[at - pos : at - pos + size])
        return len(data)

    def put_info(self, row: Ioctl[Any], info: Struct, arg: int) -> None:
        """What the caller gets: the fields that all have, and no more, however large its argsz. Raises EFAULT."""
        copy_to_user(self.kernel, arg, bytes(info)[: row.minsz])

    @ioctl(VFIO_DEVICE_GET_INFO)
    def get_info(self, info: vfio_device_info, arg: int) -> None:
        """C: ``mtty_get_device_info()``, ``mdpy_get_device_info()``."""
        info.flags = VFIO_DEVICE_FLAGS_PCI
        info.num_regions, info.num_irqs = VFIO_PCI_NUM_REGIONS, VFIO_PCI_NUM_IRQS
        self.num_irqs = info.num_irqs
        self.put_info(VFIO_DEVICE_GET_INFO, info, arg)
