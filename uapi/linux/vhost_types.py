"""
``linux/vhost_types.h``: what vhost ioctls and IOTLB messages carry, as in Linux 7.3.

Until Linux 4.20 all of it was in ``linux/vhost.h``.
"""

from __future__ import annotations

from collections.abc import MutableSequence
from typing import Annotated, Final

from pykernel.uapi.struct import ZERO, Struct, anon_union, char, s32, u8, u16, u32, u64


class vhost_vring_state(Struct):
    """``struct vhost_vring_state``: one number of a ring: its size, its base, its byte order, its group ..."""

    index: u32 = 0
    num: u32 = 0


class vhost_vring_file(Struct):
    """``struct vhost_vring_file``: an eventfd or a backend of a ring; -1 for none."""

    index: u32 = 0
    fd: s32 = 0


class vhost_vring_addr(Struct):
    """``struct vhost_vring_addr``: where the parts of a ring are (VHOST_SET_VRING_ADDR). Used is before avail."""

    index: u32 = 0
    flags: u32 = 0
    desc_user_addr: u64 = 0
    used_user_addr: u64 = 0
    avail_user_addr: u64 = 0
    log_guest_addr: u64 = 0


VHOST_VRING_F_LOG: Final = 0  # number of the bit in flags


class vhost_worker_state(Struct):
    """``struct vhost_worker_state``: a thread of a device (VHOST_NEW_WORKER, VHOST_FREE_WORKER)."""

    worker_id: u32 = 0


class vhost_vring_worker(Struct):
    """``struct vhost_vring_worker``: which thread serves a ring (VHOST_ATTACH_VRING_WORKER)."""

    index: u32 = 0
    worker_id: u32 = 0


class vhost_iotlb_msg(Struct):
    """``struct vhost_iotlb_msg``: one mapping, made, taken away or missed."""

    iova: u64 = 0
    size: u64 = 0
    uaddr: u64 = 0
    perm: u8 = 0
    type: u8 = 0


# vhost_iotlb_msg.perm
VHOST_ACCESS_RO: Final = 0x1
VHOST_ACCESS_WO: Final = 0x2
VHOST_ACCESS_RW: Final = 0x3

# vhost_iotlb_msg.type
VHOST_IOTLB_MISS: Final = 1
VHOST_IOTLB_UPDATE: Final = 2
VHOST_IOTLB_INVALIDATE: Final = 3
VHOST_IOTLB_ACCESS_FAIL: Final = 4
VHOST_IOTLB_BATCH_BEGIN: Final = 5
VHOST_IOTLB_BATCH_END: Final = 6

# vhost_msg.type
VHOST_IOTLB_MSG: Final = 0x1
VHOST_IOTLB_MSG_V2: Final = 0x2


class vhost_msg(Struct):
    """``struct vhost_msg``: what read() and write() move, version 1; a hole of 4 bytes follows the type."""

    type: s32 = 0
    _payload = anon_union(until="padding")
    iotlb: vhost_iotlb_msg = ZERO
    padding: Annotated[bytes, u8, 64] = b""


class vhost_msg_v2(Struct):
    """``struct vhost_msg_v2``: what read() and write() move once VHOST_BACKEND_F_IOTLB_MSG_V2 is set."""

    type: u32 = 0
    asid: u32 = 0
    _payload = anon_union(until="padding")
    iotlb: vhost_iotlb_msg = ZERO
    padding: Annotated[bytes, u8, 64] = b""


class vhost_memory_region(Struct):
    """``struct vhost_memory_region``: where a piece of guest memory is in the caller's."""

    guest_phys_addr: u64 = 0
    memory_size: u64 = 0
    userspace_addr: u64 = 0
    flags_padding: u64 = 0


VHOST_PAGE_SIZE: Final = 0x1000


class vhost_memory(Struct):
    """``struct vhost_memory``: all of guest memory (VHOST_SET_MEM_TABLE)."""

    nregions: u32 = 0
    padding: u32 = 0
    regions: Annotated[MutableSequence[vhost_memory_region], vhost_memory_region, ...] = ZERO


VHOST_SCSI_ABI_VERSION: Final = 1


class vhost_scsi_target(Struct):
    """``struct vhost_scsi_target``: the target of a device (VHOST_SCSI_SET_ENDPOINT)."""

    abi_version: s32 = 0
    vhost_wwpn: Annotated[bytes, char, 224] = b""
    vhost_tpgt: u16 = 0
    reserved: u16 = 0


class vhost_vdpa_config(Struct):
    """``struct vhost_vdpa_config``: a piece of configuration space (VHOST_VDPA_GET_CONFIG, VHOST_VDPA_SET_CONFIG)."""

    off: u32 = 0
    len: u32 = 0
    buf: Annotated[bytes, u8, ...] = b""


class vhost_vdpa_iova_range(Struct):
    """``struct vhost_vdpa_iova_range``: what the device can reach, both ends included (VHOST_VDPA_GET_IOVA_RANGE)."""

    first: u64 = 0
    last: u64 = 0


class vhost_features_array(Struct):
    """``struct vhost_features_array``: more than 64 feature bits (VHOST_GET_FEATURES_ARRAY)."""

    count: u64 = 0
    features: Annotated[MutableSequence[int], u64, ...] = ZERO


# Numbers of feature bits
VHOST_F_LOG_ALL: Final = 26
VHOST_NET_F_VIRTIO_NET_HDR: Final = 27

# Numbers of backend feature bits
VHOST_BACKEND_F_IOTLB_MSG_V2: Final = 0x1
VHOST_BACKEND_F_IOTLB_BATCH: Final = 0x2
VHOST_BACKEND_F_IOTLB_ASID: Final = 0x3
VHOST_BACKEND_F_SUSPEND: Final = 0x4
VHOST_BACKEND_F_RESUME: Final = 0x5
VHOST_BACKEND_F_ENABLE_AFTER_DRIVER_OK: Final = 0x6
VHOST_BACKEND_F_DESC_ASID: Final = 0x7
VHOST_BACKEND_F_IOTLB_PERSIST: Final = 0x8

NEWER: Final = {
    "vhost_vdpa_config": "5.7",
    "VHOST_IOTLB_BATCH_BEGIN": "5.9",
    "VHOST_IOTLB_BATCH_END": "5.9",
    "vhost_vdpa_iova_range": "5.10",
    "vhost_msg_v2.asid": "5.19",
    "VHOST_BACKEND_F_IOTLB_MSG_V2": "5.19",  # from linux/vhost.h, where it was since 4.19
    "VHOST_BACKEND_F_IOTLB_BATCH": "5.19",  # from linux/vhost.h, where it was since 5.9
    "VHOST_BACKEND_F_IOTLB_ASID": "5.19",
    "VHOST_BACKEND_F_SUSPEND": "6.0",
    "VHOST_BACKEND_F_RESUME": "6.3",
    "vhost_worker_state": "6.5",
    "vhost_vring_worker": "6.5",
    "VHOST_BACKEND_F_ENABLE_AFTER_DRIVER_OK": "6.6",
    "VHOST_BACKEND_F_DESC_ASID": "6.7",
    "VHOST_BACKEND_F_IOTLB_PERSIST": "6.7",
    "vhost_features_array": "6.17",
}

OLDER: Final = {"vhost_msg_v2.reserved": "5.18"}  # asid has its place
