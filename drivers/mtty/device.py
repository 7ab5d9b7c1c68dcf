"""A port card as a device of VFIO (samples/vfio-mdev/mtty.c: mdev_access(), mtty_read(), mtty_ioctl())."""

from __future__ import annotations

from errno import EFAULT, EINVAL, ENOSPC
from typing import TYPE_CHECKING, Final

from pykernel.drivers.mdev_sample import SampleDevice
from pykernel.drivers.mtty.config import MTTY_CONFIG_SPACE_SIZE, MTTY_IO_BAR_SIZE, MttyConfig
from pykernel.drivers.mtty.irq import LooseIrqs, MttyIrqs, NamedIrqs
from pykernel.drivers.mtty.migration import MttyMigration
from pykernel.drivers.mtty.uart import SerialPort
from pykernel.errors import err
from pykernel.fs.ioctl import ioctl
from pykernel.log import INFO
from pykernel.mm.uaccess import copy_from_user
from pykernel.uapi.linux.vfio import (
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
    vfio_irq_info,
    vfio_irq_set,
    vfio_region_info,
)
from pykernel.vfio.main import vfio_set_irqs_validate_and_prepare

if TYPE_CHECKING:
    from pykernel.drivers.mtty import MttyDev
    from pykernel.mdev import MdevDevice

__all__ = ["OFFSET_SHIFT", "MttyDevice"]

OFFSET_SHIFT: Final = 40
OFFSET_MASK: Final = (1 << OFFSET_SHIFT) - 1
BARS: Final = (VFIO_PCI_BAR0_REGION_INDEX, VFIO_PCI_BAR1_REGION_INDEX)


class MttyDevice(SampleDevice):
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
        self.config = MttyConfig(self.kernel, nr_ports)
        kinds: type[MttyIrqs] = NamedIrqs if self.kernel.profile.mtty_migration else LooseIrqs
        self.irqs = kinds(self.kernel, self.ops_lock)
        self.ports = [SerialPort(self.irqs.trigger), SerialPort(self.irqs.trigger)]
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

    def access_read(self, pos: int, size: int) -> bytes:
        """mdev_access(): a port gives one byte at a time. Raises EFAULT: no such region."""
        index, offset = pos >> OFFSET_SHIFT, pos & OFFSET_MASK
        if index == VFIO_PCI_CONFIG_REGION_INDEX:
            return self.config.read(offset, size)
        return self._port(index).read(offset & 0xFFFF).to_bytes(size, "little")

    def access_write(self, pos: int, data: bytes) -> None:
        """mdev_access(): a port takes one byte at a time. Raises EFAULT: no such region."""
        index, offset = pos >> OFFSET_SHIFT, pos & OFFSET_MASK
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

    @ioctl(VFIO_DEVICE_GET_REGION_INFO)
    def get_region_info(self, info: vfio_region_info, arg: int) -> None:
        """mtty_get_region_info(). Raises EINVAL: no such region."""
        if info.index >= VFIO_PCI_NUM_REGIONS:
            raise err(EINVAL, f"region {info.index}")
        info.size = self._region_size(info.index)
        info.offset = info.index << OFFSET_SHIFT
        info.flags = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE
        self.put_info(VFIO_DEVICE_GET_REGION_INFO, info, arg)

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
        self.put_info(VFIO_DEVICE_GET_IRQ_INFO, info, arg)

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
