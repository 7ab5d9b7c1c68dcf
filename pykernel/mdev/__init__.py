"""
The bus of mediated devices (drivers/vfio/mdev).

A parent is a device that makes others when somebody writes a UUID into ``mdev_supported_types/TYPE/create``: the
parent's driver calls :func:`mdev_register_parent` with its types and the :class:`MdevDriver` that takes what is made.
"""

from pykernel.mdev.core import (
    MdevDevice,
    MdevModule,
    MdevParent,
    mdev_get_iommu_device,
    mdev_register_parent,
    mdev_set_iommu_device,
    mdev_unregister_parent,
)
from pykernel.mdev.driver import MdevDriver, mdev_register_driver, mdev_unregister_driver
from pykernel.mdev.sysfs import MdevType

MODULE = MdevModule

__all__ = [
    "MODULE",
    "MdevDevice",
    "MdevDriver",
    "MdevModule",
    "MdevParent",
    "MdevType",
    "mdev_get_iommu_device",
    "mdev_register_driver",
    "mdev_register_parent",
    "mdev_set_iommu_device",
    "mdev_unregister_driver",
    "mdev_unregister_parent",
]
