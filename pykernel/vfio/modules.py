"""The modules ``vfio`` and, of Linux 6.1, ``vfio_virqfd``."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from pykernel.base.misc import misc_deregister, misc_register
from pykernel.base.module import Module, Param
from pykernel.log import INFO
from pykernel.vfio.container import (
    IommuDrivers,
    NoIommuDriver,
    VfioMisc,
    vfio_register_iommu_driver,
    vfio_unregister_iommu_driver,
)
from pykernel.vfio.core import VfioCore

if TYPE_CHECKING:
    from pykernel.kernel import Kernel

__all__ = ["VfioModule", "VfioVirqfdModule"]

NOIOMMU = Param("enable_unsafe_noiommu_mode", "bool", default=False, mode=0o644)


class VfioModule(Module):
    """``vfio.ko``: containers, groups, devices."""

    name_ = "vfio"
    version = "0.3"
    aliases = ("devname:vfio/vfio", "char-major-10-196")
    softdep_post = ("vfio_iommu_type1",)
    params: tuple[Param, ...] = (NOIOMMU,)  # type: ignore[misc]  # a kernel may have been built without it

    def __init__(self, kernel: Kernel, args: str = "") -> None:
        if "VFIO_NOIOMMU" not in kernel.profile.config:
            self.params = ()
        super().__init__(kernel, args)

    def init(self) -> None:
        """drivers/vfio/vfio_main.c:vfio_init(). Raises ENOMEM, EBUSY; what was made is taken back."""
        kernel = self.kernel
        with ExitStack() as undo:
            misc = VfioMisc(kernel, self)
            misc_register(misc)
            undo.callback(misc_deregister, misc)
            drivers = kernel.sub(IommuDrivers)
            drivers.param = self.param
            if drivers.config_noiommu:
                noiommu = NoIommuDriver(kernel)
                vfio_register_iommu_driver(kernel, noiommu)
                undo.callback(vfio_unregister_iommu_driver, kernel, noiommu)
            core = kernel.sub(VfioCore)
            core.init(self)
            undo.callback(core.exit)
            kernel.log.printk(INFO, "VFIO - User Level meta-driver version: 0.3")
            self.undo = undo.pop_all()

    def exit(self) -> None:
        """drivers/vfio/vfio_main.c:vfio_cleanup()."""
        self.undo.close()


class VfioVirqfdModule(Module):
    """``vfio_virqfd.ko`` of Linux 6.1: a work queue, no more; later it is part of vfio.ko."""

    name_ = "vfio_virqfd"
    version = "0.1"
