"""
What a fresh IAX device is configured for: the kernel's own compression (drivers/dma/idxd/defaults.c).
"""

from __future__ import annotations

from errno import EPERM

from pykernel.drivers.idxd.idxd import IdxdDevice, WqState, WqType
from pykernel.errors import err


def load_iaa_device_defaults(idxd: IdxdDevice) -> None:
    """
    One dedicated kernel queue with all entries in group 0, and engine 0 with it.

    C: ``int idxd_load_iaa_device_defaults(struct idxd_device *idxd)``. Raises EPERM.
    """
    if not idxd.configurable:
        return
    wq, group, engine = idxd.wqs[0], idxd.groups[0], idxd.engines[0]
    if wq.state != WqState.DISABLED:
        raise err(EPERM, "the queue is enabled")
    wq.dedicated = True
    wq.threshold = 0
    wq.size = idxd.max_wq_size
    wq.priority = 10
    wq.wq_type = WqType.KERNEL
    wq.group = group
    group.num_wqs += 1
    wq.wq_name = "iaa_crypto"
    wq.driver_name = "crypto"
    engine.group = group
    group.num_engines += 1
