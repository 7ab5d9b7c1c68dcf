"""
vhost-mdev: vhost requests as messages through a region of a mediated VFIO device; never in a header of Linux.

- v2018: "vhost: introduce mdev based hardware vhost backend", RFC of 2 April 2018, with QEMU's vhost-vfio of that
  autumn: a vfio-pci device; messages go to BAR 0, kicks to BAR 1, interrupts are MSI-X vectors.
- rfc2: "[RFC v2] vhost: introduce mdev based hardware vhost backend", 3 July 2019: a vfio-vhost device with a region
  for messages and one for kicks, and one interrupt index.

A message is 16 bytes of header and ``size`` bytes of payload, written at offset 0 of the region in one go. A request
that asks for something (VHOST_GET_FEATURES, VHOST_GET_VRING_BASE) is written, then its answer is read.
"""

from __future__ import annotations

from typing import Annotated, Final

from pykernel.uapi.ioctl import _IOW
from pykernel.uapi.linux.vhost import VHOST_VIRTIO
from pykernel.uapi.linux.vhost_types import vhost_memory, vhost_vring_addr, vhost_vring_state
from pykernel.uapi.struct import ZERO, Name, Struct, Union, u32, u64

HEADERS: Final = ()


class vhost_vfio_op_payload(Union, ctype="__typeof__(((struct vhost_vfio_op *)0)->payload)"):
    """
    ``vhost_vfio_op.payload``: what the request carries as an ioctl.

    ``memory_`` is of v2018 only, its regions lie behind it; rfc2 has the VFIO container for memory.
    """

    u64_: Annotated[u64, Name("u64")] = 0
    state: vhost_vring_state = ZERO
    addr: vhost_vring_addr = ZERO
    memory_: Annotated[vhost_memory, vhost_memory, Name("memory")] = ZERO


class vhost_vfio_op(Struct):
    """``struct vhost_vfio_op``: a message; ``request`` is the number of a vhost ioctl."""

    request: u64 = 0
    flags: u32 = 0
    size: u32 = 0
    payload: vhost_vfio_op_payload = ZERO


VHOST_VFIO_NEED_REPLY: Final = 0x1  # vhost_vfio_op.flags

VHOST_VFIO_OP_HDR_SIZE: Final = 16
VHOST_VFIO_OP_PAYLOAD_MAX_SIZE: Final = 1024  # rfc2

# Start and stop: the one request that is no ioctl of vhost. QEMU sent 4 bytes of its 8
VHOST_DEVICE_SET_STATE: Final = _IOW(VHOST_VIRTIO, 0x70, "__u64")
VHOST_DEVICE_S_STOPPED: Final = 0
VHOST_DEVICE_S_RUNNING: Final = 1
VHOST_DEVICE_S_MAX: Final = 2

# rfc2: the VFIO device; Linux gave the flag to VFIO_DEVICE_FLAGS_FSL_MC
VFIO_DEVICE_FLAGS_VHOST: Final = 1 << 6
VFIO_DEVICE_API_VHOST_STRING: Final = "vfio-vhost"

# rfc2: its regions; in the second each virtqueue has a page
VFIO_VHOST_CONFIG_REGION_INDEX: Final = 0
VFIO_VHOST_NOTIFY_REGION_INDEX: Final = 1
VFIO_VHOST_NUM_REGIONS: Final = 2

# rfc2: its interrupts, one for each virtqueue
VFIO_VHOST_VQ_IRQ_INDEX: Final = 0
VFIO_VHOST_NUM_IRQS: Final = 1

# rfc2: offsets in the device's file; the offset of a region is its index, shifted
VDPA_CONFIG_SIZE: Final = 0x1000000
VDPA_VFIO_VHOST_OFFSET_SHIFT: Final = 40
VDPA_VFIO_VHOST_OFFSET_MASK: Final = (1 << VDPA_VFIO_VHOST_OFFSET_SHIFT) - 1


def VDPA_VFIO_VHOST_OFFSET_TO_INDEX(offset: int) -> int:
    """Which region an offset means."""
    return (offset & 0xFFFFFFFFFFFFFFFF) >> VDPA_VFIO_VHOST_OFFSET_SHIFT


def VDPA_VFIO_VHOST_INDEX_TO_OFFSET(index: int) -> int:
    """Where a region begins."""
    return (index & 0xFFFFFFFFFFFFFFFF) << VDPA_VFIO_VHOST_OFFSET_SHIFT & 0xFFFFFFFFFFFFFFFF


def VDPA_VFIO_VHOST_REGION_OFFSET(offset: int) -> int:
    """Where in its region an offset is."""
    return offset & VDPA_VFIO_VHOST_OFFSET_MASK
