"""The driver of Intel's Data Streaming and In-Memory Analytics Accelerators (drivers/dma/idxd of Linux)."""

from pykernel.drivers.idxd.bus import IdxdBusModule
from pykernel.drivers.idxd.init import IdxdModule

MODULE = IdxdModule
MODULES = (IdxdBusModule, IdxdModule)

__all__ = ["MODULE", "MODULES"]
