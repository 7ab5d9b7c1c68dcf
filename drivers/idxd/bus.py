"""
The bus ``dsa`` and the module idxd_bus that brings it (drivers/dma/idxd/bus.c).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pykernel.base.bus import Bus
from pykernel.base.module import Module
from pykernel.drivers.idxd.idxd import IdxdDev

if TYPE_CHECKING:
    from pykernel.base.bus import Driver
    from pykernel.base.core import Device
    from pykernel.kernel import Kernel


class DsaBus(Bus):
    """``dsa_bus_type``: a driver names the types of devices that it takes."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel, "dsa")

    def match(self, dev: Device, drv: Driver) -> bool:
        """C: ``int idxd_config_bus_match(struct device *, struct device_driver *)``."""
        assert isinstance(dev, IdxdDev)
        return dev.dev_type in getattr(drv, "types", ())

    def uevent(self, dev: Device, env: dict[str, str]) -> None:
        """C: ``int idxd_bus_uevent(const struct device *, struct kobj_uevent_env *)``."""
        if self.kernel.profile.idxd_modalias:
            env["MODALIAS"] = "idxd:t0"


class IdxdBusModule(Module):
    """Module ``idxd_bus``."""

    name_ = "idxd_bus"

    def init(self) -> None:
        """C: ``int dsa_bus_init(void)``; the old driver ``dsa`` comes with the bus, where it is configured."""
        bus = self.kernel.sub(DsaBus)
        bus.register()
        if "INTEL_IDXD_COMPAT" in self.kernel.profile.config:
            from pykernel.drivers.idxd.compat import DsaCompatDriver

            DsaCompatDriver(self.kernel, "dsa", bus).register()

    def exit(self) -> None:
        """C: ``void dsa_bus_exit(void)``."""
        bus = self.kernel.sub(DsaBus)
        for driver in list(bus.drivers.values()):
            driver.unregister()
        bus.unregister()
