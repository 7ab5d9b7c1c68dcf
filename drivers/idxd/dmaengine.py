"""
The DMA engine's core, as far as channels show in /sys/class/dma (drivers/dma/dmaengine.c).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pykernel.base.class_ import Class
from pykernel.base.core import Device
from pykernel.fs.sysfs import AttrGroup
from pykernel.lib.idr import Ida

if TYPE_CHECKING:
    from pykernel.kernel import Kernel

DMA_PREP_INTERRUPT = 1 << 0


class DmaEngine:
    """The class ``dma`` and the numbers of its devices."""

    def __init__(self, kernel: Kernel) -> None:
        self.cls = Class(kernel, "dma")
        self.cls.register()
        self.device_ids = Ida()


class DmaDevice:
    """``struct dma_device``: an engine below the device *dev*."""

    def __init__(self, dev: Device, id: int) -> None:
        self.dev = dev
        self.id = id
        self.chan_ids = Ida()
        self.cap_mask: set[str] = set()


class DmaChan(Device):
    """``struct dma_chan`` with its device ``dma<D>chan<C>``."""

    attrs = AttrGroup("memcpy_count", "bytes_transferred", "in_use")

    def __init__(self, device: DmaDevice) -> None:
        kernel = device.dev.kernel
        self.chan_id = device.chan_ids.alloc()
        super().__init__(
            kernel, f"dma{device.id}chan{self.chan_id}", parent=device.dev, class_=kernel.sub(DmaEngine).cls
        )
        self.device = device
        self.client_count = 0
        self.memcpy_count = 0
        self.bytes_transferred = 0
        self.cookie = 0

    def next_cookie(self) -> int:
        """C: ``dma_cookie_t dma_cookie_assign(struct dma_async_tx_descriptor *)``."""
        self.cookie = self.cookie + 1 if self.cookie < 0x7FFFFFFF else 1
        return self.cookie

    def alloc_chan_resources(self) -> None:
        """``device_alloc_chan_resources``: the first client comes."""

    def free_chan_resources(self) -> None:
        """``device_free_chan_resources``: the last client goes."""

    def chan_get(self) -> None:
        """C: ``int dma_chan_get(struct dma_chan *chan)``."""
        if self.client_count == 0:
            self.alloc_chan_resources()
        self.client_count += 1

    def chan_put(self) -> None:
        """C: ``void dma_chan_put(struct dma_chan *chan)``."""
        self.client_count -= 1
        if self.client_count == 0:
            self.free_chan_resources()

    def memcpy_count_show(self) -> str:
        """drivers/dma/dmaengine.c:memcpy_count_show()."""
        return f"{self.memcpy_count}\n"

    def bytes_transferred_show(self) -> str:
        """drivers/dma/dmaengine.c:bytes_transferred_show()."""
        return f"{self.bytes_transferred}\n"

    def in_use_show(self) -> str:
        """drivers/dma/dmaengine.c:in_use_show()."""
        return f"{self.client_count}\n"

    def release(self) -> None:
        """C: ``chan_dev_release()``."""
        self.device.chan_ids.free(self.chan_id)
