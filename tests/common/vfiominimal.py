"""The least that is a device of VFIO: an emulated IOMMU, no regions, no interrupts, VFIO_DEVICE_GET_INFO."""

from __future__ import annotations

from pykernel.base.core import Device
from pykernel.fs.ioctl import ioctl
from pykernel.kernel import Kernel
from pykernel.uapi.linux.vfio import VFIO_DEVICE_GET_INFO, vfio_device_info
from pykernel.vfio.main import VfioDevice, vfio_register_emulated_iommu_dev, vfio_unregister_group_dev


class Minimal(VfioDevice):
    """Its driver uses memory by ``vfio_pin_pages()`` and ``vfio_dma_read()`` only."""

    ops_name = "minimal"

    @ioctl(VFIO_DEVICE_GET_INFO)
    def get_info(self, info: vfio_device_info) -> vfio_device_info:
        info.flags = info.num_regions = info.num_irqs = info.cap_offset = 0
        return info


def add_minimal(kernel: Kernel, name: str = "minimal0") -> Minimal:
    """A device in a group of its own."""
    dev = Device(kernel, name)
    dev.register()
    vdev = Minimal(dev)
    vfio_register_emulated_iommu_dev(vdev)
    return vdev


def remove_minimal(vdev: Minimal) -> None:
    """It goes."""
    vfio_unregister_group_dev(vdev)
    vdev.dev.unregister()
