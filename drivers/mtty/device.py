"""A port card as a device of VFIO (samples/vfio-mdev/mtty.c: mdev_access(), mtty_read(), mtty_ioctl())."""

from __future__ import annotations

from collections.abc import Iterator
from errno import EFAULT, EINVAL, ENOSPC
from typing import TYPE_CHECKING, Any, Final

from pykernel.drivers.mtty.config import MTTY_CONFIG_SPACE_SIZE, MTTY_IO_BAR_SIZE, MttyConfig
from pykernel.drivers.mtty.irq import LooseIrqs, MttyIrqs, NamedIrqs
from pykernel.drivers.mtty.migration import MttyMigration
from pykernel.drivers.mtty.uart import SerialPort
from pykernel.errors import err
from pykernel.fs.ioctl import ioctl
from pykernel.lib.locking import Mutex
from pykernel.log import INFO
from pykernel.mm.uaccess import copy_from_user, copy_to_user
from pykernel.uapi.ioctl import Ioctl
from pykernel.uapi.linux.vfio import (
    VFIO_DEVICE_FLAGS_PCI,
    VFIO_DEVICE_GET_INFO,
    VFIO_DEVICE_GET_IRQ_INFO,
    VFIO_DEVICE_GET_REGION_INFO,
    VFIO_DEVICE_RESET,
    VFIO_DEVICE_SET_IRQS,
    VFIO_IRQ_INFO_AUTOMASKED,
    VFIO_IRQ_INFO_EVENTFD,
    VFIO_IRQ_INFO_MASKABLE,
    VFIO_IRQ_INFO_NORESIZE,
    VFIO_PCI_BAR0_REGION_INDEX,
    VFIO_PCI_BAR1_REGION_INDEX,
    VFIO_PCI_CONFIG_REGION_INDEX,
    VFIO_PCI_INTX_IRQ_INDEX,
    VFIO_PCI_NUM_IRQS,
    VFIO_PCI_NUM_REGIONS,
    VFIO_REGION_INFO_FLAG_READ,
    VFIO_REGION_INFO_FLAG_WRITE,
    vfio_device_info,
    vfio_irq_info,
    vfio_irq_set,
    vfio_region_info,
)
from pykernel.uapi.struct import Struct
from pykernel.vfio.device import VfioDevice
from pykernel.vfio.main import vfio_set_irqs_validate_and_prepare

if TYPE_CHECKING:
    from pykernel.drivers.mtty import MttyDev
    from pykernel.mdev import MdevDevice

__all__ = ["OFFSET_SHIFT", "MttyDevice", "accesses"]

OFFSET_SHIFT: Final = 40
BARS: Final = (VFIO_PCI_BAR0_REGION_INDEX, VFIO_PCI_BAR1_REGION_INDEX)


def accesses(pos: int, count: int) -> Iterator[tuple[int, int]]:
    """How the samples cut a read or write: (position, 4, 2 or 1), each at a multiple of its size."""
    end = pos + count
    while pos < end:
        size = next(n for n in (4, 2, 1) if end - pos >= n and pos % n == 0)
        yield pos, size
        pos += size


class MttyDevice(VfioDevice):
    """
    ``struct mdev_state``: one card of one or two ports.

    Raises:
        ENOSPC: the parent has not as many ports left. ENOMEM: by fault injection.
    """

    ops_name = "vfio-mtty"

    def __init__(self, mdev: MdevDevice, parent: MttyDev, nr_ports: int) -> None:
        super().__init__(mdev)
        self.parent = parent
        self.nr_ports = nr_ports
        if parent.avail_ports < nr_ports:
            raise err(ENOSPC, f"{parent.name} has {parent.avail_ports} ports left")
        self.kernel.faults.alloc("mtty vconfig")
        parent.avail_ports -= nr_ports
        self.ops_lock = Mutex(self.kernel, f"ops_lock of {mdev.name}")
        self.config = MttyConfig(self.kernel, nr_ports)
        kinds: type[MttyIrqs] = NamedIrqs if self.kernel.profile.mtty_migration else LooseIrqs
        self.irqs = kinds(self.kernel, self.ops_lock)
        self.ports = [SerialPort(self.irqs.trigger), SerialPort(self.irqs.trigger)]
        self.num_irqs = 0  # nothing is known of interrupts until somebody asks for VFIO_DEVICE_GET_INFO
        self.migration: MttyMigration | None = None
        if self.kernel.profile.mtty_migration:
            self.migration = MttyMigration(self)

    def release(self) -> None:
        """mtty_release_dev(): the ports are the parent's again."""
        self.parent.avail_ports += self.nr_ports

    def close_device(self) -> None:
        """mtty_close(), from Linux 6.8 on."""
        if self.migration is not None:
            self.migration.disable_files()
        self.irqs.close()

    # ---- regions

    def read(self, count: int, pos: int) -> bytes:
        """mtty_read(). Raises EFAULT: no such region."""
        return b"".join(self._read(at, size) for at, size in accesses(pos, count))

    def _read(self, pos: int, size: int) -> bytes:
        index, offset = pos >> OFFSET_SHIFT, pos & (1 << OFFSET_SHIFT) - 1
        with self.ops_lock:
            if index == VFIO_PCI_CONFIG_REGION_INDEX:
                return self.config.read(offset, size)
            return self._port(index).read(offset & 0xFFFF).to_bytes(size, "little")

    def write(self, data: bytes, pos: int) -> int:
        """mtty_write(). Raises EFAULT: no such region."""
        for at, size in accesses(pos, len(data)):
            self._write(at, data[at - pos : at - pos + size])
        return len(data)

    def _write(self, pos: int, data: bytes) -> None:
        index, offset = pos >> OFFSET_SHIFT, pos & (1 << OFFSET_SHIFT) - 1
        with self.ops_lock:
            if index == VFIO_PCI_CONFIG_REGION_INDEX:
                self.config.write(offset, data)
            else:
                self._port(index).write(offset & 0xFFFF, data[0])

    def _port(self, index: int) -> SerialPort:
        # there are two of them, whatever the type; Linux runs over their end with the other BARs
        if index not in BARS:
            raise err(EFAULT, f"no region {index} that can be accessed")
        return self.ports[index]

    # ---- ioctls

    def _out(self, row: Ioctl[Any], info: Struct, arg: int) -> None:
        copy_to_user(self.kernel, arg, bytes(info)[: row.minsz])

    @ioctl(VFIO_DEVICE_GET_INFO)
    def get_info(self, info: vfio_device_info, arg: int) -> None:
        """Not more than 16 bytes, however much the caller has."""
        info.flags = VFIO_DEVICE_FLAGS_PCI
        info.num_regions, info.num_irqs = VFIO_PCI_NUM_REGIONS, VFIO_PCI_NUM_IRQS
        self.num_irqs = info.num_irqs
        self._out(VFIO_DEVICE_GET_INFO, info, arg)

    @ioctl(VFIO_DEVICE_GET_REGION_INFO)
    def get_region_info(self, info: vfio_region_info, arg: int) -> None:
        """mtty_get_region_info(). Raises EINVAL: no such region."""
        if info.index >= VFIO_PCI_NUM_REGIONS:
            raise err(EINVAL, f"region {info.index}")
        info.size = self._region_size(info.index)
        info.offset = info.index << OFFSET_SHIFT
        info.flags = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE
        self._out(VFIO_DEVICE_GET_REGION_INFO, info, arg)

    def _region_size(self, index: int) -> int:
        if index == VFIO_PCI_CONFIG_REGION_INDEX:
            return MTTY_CONFIG_SPACE_SIZE
        return MTTY_IO_BAR_SIZE if index < self.nr_ports else 0

    @ioctl(VFIO_DEVICE_GET_IRQ_INFO)
    def get_irq_info(self, info: vfio_irq_info, arg: int) -> None:
        """mtty_get_irq_info(). Raises EINVAL: no such interrupt, or nobody asked for the device's info."""
        if info.index >= self.num_irqs or info.index not in self.irqs.answered:
            raise err(EINVAL, f"interrupt {info.index}")
        intx = info.index == VFIO_PCI_INTX_IRQ_INDEX
        more = VFIO_IRQ_INFO_MASKABLE | VFIO_IRQ_INFO_AUTOMASKED if intx else VFIO_IRQ_INFO_NORESIZE
        info.flags, info.count = VFIO_IRQ_INFO_EVENTFD | more, 1
        self._out(VFIO_DEVICE_GET_IRQ_INFO, info, arg)

    @ioctl(VFIO_DEVICE_SET_IRQS)
    def set_irqs(self, hdr: vfio_irq_set, arg: int) -> None:
        """Raises EINVAL, EFAULT, and what the interrupts say."""
        size = vfio_set_irqs_validate_and_prepare(hdr, self.num_irqs, VFIO_PCI_NUM_IRQS)
        data = copy_from_user(self.kernel, arg + VFIO_DEVICE_SET_IRQS.minsz, size) if size else b""
        self.irqs.set_irqs(hdr, data)

    @ioctl(VFIO_DEVICE_RESET)
    def reset(self, arg: int) -> None:
        """mtty_reset(): the ports stay as they are."""
        self.kernel.log.printk(INFO, "mtty_reset: called")
        if self.migration is not None:
            self.migration.reset()
