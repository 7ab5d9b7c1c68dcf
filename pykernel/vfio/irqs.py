"""The checks of VFIO_DEVICE_SET_IRQS that all drivers share (drivers/vfio/vfio_main.c)."""

from __future__ import annotations

from errno import EINVAL

from pykernel.errors import err
from pykernel.uapi.linux.vfio import (
    VFIO_IRQ_SET_ACTION_TYPE_MASK,
    VFIO_IRQ_SET_DATA_BOOL,
    VFIO_IRQ_SET_DATA_EVENTFD,
    VFIO_IRQ_SET_DATA_NONE,
    VFIO_IRQ_SET_DATA_TYPE_MASK,
    vfio_irq_set,
)

__all__ = ["vfio_set_irqs_validate_and_prepare"]

U32_MAX = 0xFFFFFFFF
SIZES = {VFIO_IRQ_SET_DATA_NONE: 0, VFIO_IRQ_SET_DATA_BOOL: 1, VFIO_IRQ_SET_DATA_EVENTFD: 4}


def vfio_set_irqs_validate_and_prepare(hdr: vfio_irq_set, num_irqs: int, max_irq_type: int) -> int:
    """
    How many bytes of data come behind *hdr*, 20 bytes after its start.

    C: ``int vfio_set_irqs_validate_and_prepare(struct vfio_irq_set *, int, int, size_t *)``.

    Raises:
        EINVAL: an index, a range or flags that there are not, no or two kinds of data, argsz without room for it.
    """
    minsz = vfio_irq_set.offsetofend("count")
    known = VFIO_IRQ_SET_DATA_TYPE_MASK | VFIO_IRQ_SET_ACTION_TYPE_MASK
    if hdr.argsz < minsz or hdr.index >= max_irq_type or hdr.count >= U32_MAX - hdr.start or hdr.flags & ~known:
        raise err(EINVAL)
    if hdr.start >= num_irqs or hdr.start + hdr.count > num_irqs:
        raise err(EINVAL, f"interrupts {hdr.start}+{hdr.count} of {num_irqs}")
    each = SIZES.get(hdr.flags & VFIO_IRQ_SET_DATA_TYPE_MASK)
    if each is None:
        raise err(EINVAL, "one kind of data")
    if hdr.argsz - minsz < hdr.count * each:
        raise err(EINVAL, f"argsz is {hdr.argsz}, {hdr.count * each} bytes of data come behind {minsz}")
    return hdr.count * each
