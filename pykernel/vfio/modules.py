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
    from pykernel.vfio.core import IommufdHooks

__all__ = ["VfioModule", "VfioVirqfdModule"]


class VfioModule(Module):
    """``vfio.ko``: containers, groups, devices."""

    name_ = "vfio"
    version = "0.3"
    aliases = ("devname:vfio/vfio", "char-major-10-196")
    softdep_post = ("vfio_iommu_type1",)
    params = (Param("enable_unsafe_noiommu_mode", "bool", default=False, mode=0o644),)

    @classmethod
    def has_param(cls, kernel: Kernel, name: str) -> bool:
        """With CONFIG_VFIO_NOIOMMU only."""
        return "VFIO_NOIOMMU" in kernel.profile.config

    @classmethod
    def needs(cls, kernel: Kernel) -> tuple[str, ...]:
        """Built with IOMMUFD it needs that."""
        return ("iommufd",) if "IOMMUFD" in kernel.profile.config else ()

    def init(self) -> None:
        """drivers/vfio/vfio_main.c:vfio_init(). Raises ENOMEM, EBUSY; what was made is taken back."""
        with ExitStack() as undo:
            if "IOMMUFD_VFIO_CONTAINER" not in self.kernel.profile.config:
                self._container_init(undo)
            core = self.kernel.sub(VfioCore)
            core.init(self, self._iommufd())
            undo.callback(core.exit)
            self.kernel.log.printk(INFO, "VFIO - User Level meta-driver version: 0.3")
            self.undo = undo.pop_all()

    def _container_init(self, undo: ExitStack) -> None:
        # drivers/vfio/container.c:vfio_container_init(); not built where IOMMUFD has /dev/vfio/vfio
        kernel = self.kernel
        misc = VfioMisc(kernel, self)
        misc_register(misc)
        undo.callback(misc_deregister, misc)
        drivers = kernel.sub(IommuDrivers)
        if drivers.config_noiommu:
            noiommu = NoIommuDriver(kernel)
            vfio_register_iommu_driver(kernel, noiommu)
            undo.callback(vfio_unregister_iommu_driver, kernel, noiommu)

    def _iommufd(self) -> IommufdHooks | None:
        self.kernel.sub(IommuDrivers).param = self.param
        if "IOMMUFD" not in self.kernel.profile.config:
            return None
        from pykernel.vfio.iommufd import VfioIommufd  # most kernels have none

        return VfioIommufd()

    def exit(self) -> None:
        """drivers/vfio/vfio_main.c:vfio_cleanup()."""
        self.undo.close()


class VfioVirqfdModule(Module):
    """``vfio_virqfd.ko`` of Linux 6.1: a work queue, no more; later it is part of vfio.ko."""

    name_ = "vfio_virqfd"
    version = "0.1"
