"""
Driver ``dsa``: the old way to bind, which picks the right driver itself (drivers/dma/idxd/compat.c).

Only on kernels with CONFIG_INTEL_IDXD_COMPAT.
"""

from __future__ import annotations

from errno import ENODEV

from pykernel.base.bus import Driver
from pykernel.base.dd import device_release_driver
from pykernel.drivers.idxd.idxd import DevType, IdxdDevice, IdxdWq, WqType
from pykernel.errors import err

WQ_DRIVERS = {WqType.KERNEL: "dmaengine", WqType.USER: "user"}


class DsaCompatDriver(Driver):
    """``dsa_drv``: it matches no device; its own bind and unbind do the work."""

    types: tuple[DevType, ...] = ()

    def bind_store(self, buf: str) -> None:
        """C: compat.c's ``bind_store()``. Raises ENODEV, and what the real driver raises."""
        dev = self.bus.find_device_by_name(buf)
        if dev is None or dev.driver is not None:
            raise err(ENODEV, f"{buf!r} is unknown or bound")
        name = ""
        if isinstance(dev, IdxdDevice):
            name = "idxd"
        elif isinstance(dev, IdxdWq):
            name = WQ_DRIVERS.get(dev.wq_type, "")
        driver = self.bus.drivers.get(name)
        if driver is None:
            raise err(ENODEV, f"no driver for {buf!r}")
        driver.attach(dev)

    def unbind_store(self, buf: str) -> None:
        """C: compat.c's ``unbind_store()``. Raises ENODEV."""
        dev = self.bus.find_device_by_name(buf)
        if dev is None or dev.driver is None:
            raise err(ENODEV, f"{buf!r} is unknown or not bound")
        device_release_driver(dev)
