"""
``linux/vduse.h``: vDPA devices whose data path is a user process, as in Linux 7.3.

``/dev/vduse/control`` makes devices; each is then served through ``/dev/vduse/NAME``: with ioctls, and with requests
that are read and answers that are written.
"""

from __future__ import annotations

from collections.abc import MutableSequence
from enum import IntEnum
from typing import Annotated, Final

from pykernel.uapi.ioctl import _IO, _IOR, _IOW, _IOWR
from pykernel.uapi.struct import ZERO, Struct, anon_union, char, s32, u8, u16, u32, u64

VDUSE_BASE: Final = 0x81

VDUSE_API_VERSION: Final = 0
VDUSE_API_VERSION_1: Final = 1  # groups of queues and address spaces

# Numbers of the bits of VDUSE_GET_FEATURES
VDUSE_F_QUEUE_READY: Final = 0
VDUSE_F_SUSPEND: Final = 1

# /dev/vduse/control
VDUSE_GET_API_VERSION: Final = _IOR(VDUSE_BASE, 0x00, "__u64")
VDUSE_SET_API_VERSION: Final = _IOW(VDUSE_BASE, 0x01, "__u64")

VDUSE_NAME_MAX: Final = 256


class vduse_dev_config(Struct):
    """``struct vduse_dev_config``: a new device, with its configuration space behind it (VDUSE_CREATE_DEV)."""

    name: Annotated[bytes, char, 256] = b""
    vendor_id: u32 = 0
    device_id: u32 = 0
    features: u64 = 0
    vq_num: u32 = 0
    vq_align: u32 = 0
    ngroups: u32 = 0
    nas: u32 = 0
    reserved: Annotated[MutableSequence[int], u32, 11] = ZERO
    config_size: u32 = 0
    config: Annotated[bytes, u8, ...] = b""


VDUSE_CREATE_DEV: Final = _IOW(VDUSE_BASE, 0x02, vduse_dev_config)
VDUSE_DESTROY_DEV: Final = _IOW(VDUSE_BASE, 0x03, "char[256]")
VDUSE_GET_FEATURES: Final = _IOR(VDUSE_BASE, 0x04, "__u64")
VDUSE_SET_FEATURES: Final = _IOW(VDUSE_BASE, 0x05, "__u64")


# /dev/vduse/NAME
class vduse_iotlb_entry(Struct):
    """``struct vduse_iotlb_entry``: a mapping from ``start`` to ``last``, and where it is in the file descriptor."""

    offset: u64 = 0
    start: u64 = 0
    last: u64 = 0
    perm: u8 = 0


# vduse_iotlb_entry.perm
VDUSE_ACCESS_RO: Final = 0x1
VDUSE_ACCESS_WO: Final = 0x2
VDUSE_ACCESS_RW: Final = 0x3

VDUSE_IOTLB_GET_FD: Final = _IOWR(VDUSE_BASE, 0x10, vduse_iotlb_entry)
VDUSE_DEV_GET_FEATURES: Final = _IOR(VDUSE_BASE, 0x11, "__u64")


class vduse_config_data(Struct):
    """``struct vduse_config_data``: new bytes in configuration space (VDUSE_DEV_SET_CONFIG)."""

    offset: u32 = 0
    length: u32 = 0
    buffer: Annotated[bytes, u8, ...] = b""


VDUSE_DEV_SET_CONFIG: Final = _IOW(VDUSE_BASE, 0x12, vduse_config_data)
VDUSE_DEV_INJECT_CONFIG_IRQ: Final = _IO(VDUSE_BASE, 0x13)


class vduse_vq_config(Struct):
    """``struct vduse_vq_config``: how large a queue may be, and its group (VDUSE_VQ_SETUP)."""

    index: u32 = 0
    max_size: u16 = 0
    reserved1: u16 = 0
    group: u32 = 0
    reserved2: Annotated[MutableSequence[int], u16, 10] = ZERO


VDUSE_VQ_SETUP: Final = _IOW(VDUSE_BASE, 0x14, vduse_vq_config)


class vduse_vq_state_split(Struct):
    """``struct vduse_vq_state_split``: where a split ring stands."""

    avail_index: u16 = 0


class vduse_vq_state_packed(Struct):
    """``struct vduse_vq_state_packed``: where a packed ring stands; the counters are the wrap counters."""

    last_avail_counter: u16 = 0
    last_avail_idx: u16 = 0
    last_used_counter: u16 = 0
    last_used_idx: u16 = 0


class vduse_vq_group_asid(Struct):
    """``struct vduse_vq_group_asid``: the address space of a group of queues."""

    group: u32 = 0
    asid: u32 = 0


class vduse_vq_info(Struct):
    """``struct vduse_vq_info``: what the driver made of a queue (VDUSE_VQ_GET_INFO)."""

    index: u32 = 0
    num: u32 = 0
    desc_addr: u64 = 0
    driver_addr: u64 = 0
    device_addr: u64 = 0
    _state = anon_union(until="packed")
    split: vduse_vq_state_split = ZERO
    packed: vduse_vq_state_packed = ZERO
    ready: u8 = 0


VDUSE_VQ_GET_INFO: Final = _IOWR(VDUSE_BASE, 0x15, vduse_vq_info)


class vduse_vq_eventfd(Struct):
    """``struct vduse_vq_eventfd``: the eventfd that tells of kicks (VDUSE_VQ_SETUP_KICKFD)."""

    index: u32 = 0
    fd: s32 = 0


VDUSE_EVENTFD_DEASSIGN: Final = -1  # vduse_vq_eventfd.fd

VDUSE_VQ_SETUP_KICKFD: Final = _IOW(VDUSE_BASE, 0x16, vduse_vq_eventfd)
VDUSE_VQ_INJECT_IRQ: Final = _IOW(VDUSE_BASE, 0x17, "__u32")


class vduse_iova_umem(Struct):
    """``struct vduse_iova_umem``: memory to use for a region (VDUSE_IOTLB_REG_UMEM, VDUSE_IOTLB_DEREG_UMEM)."""

    uaddr: u64 = 0
    iova: u64 = 0
    size: u64 = 0
    asid: u32 = 0
    reserved: Annotated[MutableSequence[int], u32, 5] = ZERO


VDUSE_IOTLB_REG_UMEM: Final = _IOW(VDUSE_BASE, 0x18, vduse_iova_umem)
VDUSE_IOTLB_DEREG_UMEM: Final = _IOW(VDUSE_BASE, 0x19, vduse_iova_umem)


class vduse_iova_info(Struct):
    """``struct vduse_iova_info``: the first region from ``start`` to ``last`` (VDUSE_IOTLB_GET_INFO)."""

    start: u64 = 0
    last: u64 = 0
    capability: u64 = 0
    asid: u32 = 0
    reserved: Annotated[MutableSequence[int], u32, 5] = ZERO


VDUSE_IOVA_CAP_UMEM: Final = 1 << 0  # vduse_iova_info.capability

VDUSE_IOTLB_GET_INFO: Final = _IOWR(VDUSE_BASE, 0x1A, vduse_iova_info)


class vduse_iotlb_entry_v2(Struct):
    """``struct vduse_iotlb_entry_v2``: a mapping in one of several address spaces (VDUSE_IOTLB_GET_FD2)."""

    offset: u64 = 0
    start: u64 = 0
    last: u64 = 0
    perm: u8 = 0
    padding: Annotated[bytes, u8, 7] = b""
    asid: u32 = 0
    reserved: Annotated[MutableSequence[int], u32, 11] = ZERO


VDUSE_IOTLB_GET_FD2: Final = _IOWR(VDUSE_BASE, 0x1B, vduse_iotlb_entry_v2)


class vduse_req_type(IntEnum):
    """``vduse_dev_request.type``: what the kernel asks the process for."""

    VDUSE_GET_VQ_STATE = 0
    VDUSE_SET_STATUS = 1
    VDUSE_UPDATE_IOTLB = 2
    VDUSE_SET_VQ_GROUP_ASID = 3
    VDUSE_SET_VQ_READY = 4
    VDUSE_SUSPEND = 5


(
    VDUSE_GET_VQ_STATE, VDUSE_SET_STATUS, VDUSE_UPDATE_IOTLB, VDUSE_SET_VQ_GROUP_ASID, VDUSE_SET_VQ_READY,
    VDUSE_SUSPEND,
) = vduse_req_type  # fmt: skip


class vduse_vq_state(Struct):
    """``struct vduse_vq_state``: where a queue stands."""

    index: u32 = 0
    _state = anon_union(until="packed")
    split: vduse_vq_state_split = ZERO
    packed: vduse_vq_state_packed = ZERO


class vduse_dev_status(Struct):
    """``struct vduse_dev_status``: the status byte that the driver wrote."""

    status: u8 = 0


class vduse_iova_range(Struct):
    """``struct vduse_iova_range``: addresses whose mappings changed, both ends included."""

    start: u64 = 0
    last: u64 = 0


class vduse_iova_range_v2(Struct):
    """``struct vduse_iova_range_v2``: the same in one of several address spaces."""

    start: u64 = 0
    last: u64 = 0
    asid: u32 = 0
    padding: u32 = 0


class vduse_vq_ready(Struct):
    """``struct vduse_vq_ready``: the driver made a queue ready, or not ready."""

    num: u32 = 0
    ready: u32 = 0


class vduse_dev_request(Struct):
    """``struct vduse_dev_request``: what read() gives."""

    type: u32 = 0
    request_id: u32 = 0
    reserved: Annotated[MutableSequence[int], u32, 4] = ZERO
    _argument = anon_union(until="padding")
    vq_state: vduse_vq_state = ZERO
    s: vduse_dev_status = ZERO
    iova: vduse_iova_range = ZERO
    iova_v2: vduse_iova_range_v2 = ZERO
    vq_group_asid: vduse_vq_group_asid = ZERO
    vq_ready: vduse_vq_ready = ZERO
    padding: Annotated[MutableSequence[int], u32, 32] = ZERO


class vduse_dev_response(Struct):
    """``struct vduse_dev_response``: what write() takes."""

    request_id: u32 = 0
    result: u32 = 0
    reserved: Annotated[MutableSequence[int], u32, 4] = ZERO
    _argument = anon_union(until="padding")
    vq_state: vduse_vq_state = ZERO
    padding: Annotated[MutableSequence[int], u32, 32] = ZERO


# vduse_dev_response.result
VDUSE_REQ_RESULT_OK: Final = 0x00
VDUSE_REQ_RESULT_FAILED: Final = 0x01

NEWER: Final = {
    # with the header
    "VDUSE_BASE": "5.15",
    "VDUSE_API_VERSION": "5.15",
    "VDUSE_GET_API_VERSION": "5.15",
    "VDUSE_SET_API_VERSION": "5.15",
    "VDUSE_NAME_MAX": "5.15",
    "vduse_dev_config": "5.15",
    "VDUSE_CREATE_DEV": "5.15",
    "VDUSE_DESTROY_DEV": "5.15",
    "vduse_iotlb_entry": "5.15",
    "VDUSE_ACCESS_RO": "5.15",
    "VDUSE_ACCESS_WO": "5.15",
    "VDUSE_ACCESS_RW": "5.15",
    "VDUSE_IOTLB_GET_FD": "5.15",
    "VDUSE_DEV_GET_FEATURES": "5.15",
    "vduse_config_data": "5.15",
    "VDUSE_DEV_SET_CONFIG": "5.15",
    "VDUSE_DEV_INJECT_CONFIG_IRQ": "5.15",
    "vduse_vq_config": "5.15",
    "VDUSE_VQ_SETUP": "5.15",
    "vduse_vq_state_split": "5.15",
    "vduse_vq_state_packed": "5.15",
    "vduse_vq_info": "5.15",
    "VDUSE_VQ_GET_INFO": "5.15",
    "vduse_vq_eventfd": "5.15",
    "VDUSE_EVENTFD_DEASSIGN": "5.15",
    "VDUSE_VQ_SETUP_KICKFD": "5.15",
    "VDUSE_VQ_INJECT_IRQ": "5.15",
    "VDUSE_GET_VQ_STATE": "5.15",
    "VDUSE_SET_STATUS": "5.15",
    "VDUSE_UPDATE_IOTLB": "5.15",
    "vduse_vq_state": "5.15",
    "vduse_dev_status": "5.15",
    "vduse_iova_range": "5.15",
    "vduse_dev_request": "5.15",
    "vduse_dev_response": "5.15",
    "VDUSE_REQ_RESULT_OK": "5.15",
    "VDUSE_REQ_RESULT_FAILED": "5.15",
    # later
    "vduse_iova_umem": "6.0",
    "VDUSE_IOTLB_REG_UMEM": "6.0",
    "VDUSE_IOTLB_DEREG_UMEM": "6.0",
    "vduse_iova_info": "6.0",
    "VDUSE_IOVA_CAP_UMEM": "6.0",
    "VDUSE_IOTLB_GET_INFO": "6.0",
    "VDUSE_API_VERSION_1": "7.0",
    "vduse_dev_config.ngroups": "7.0",
    "vduse_dev_config.nas": "7.0",
    "vduse_vq_config.reserved1": "7.0",
    "vduse_vq_config.group": "7.0",
    "vduse_vq_group_asid": "7.0",
    "vduse_iova_umem.asid": "7.0",
    "vduse_iova_info.asid": "7.0",
    "vduse_iotlb_entry_v2": "7.0",
    "VDUSE_IOTLB_GET_FD2": "7.0",
    "VDUSE_SET_VQ_GROUP_ASID": "7.0",
    "vduse_iova_range_v2": "7.0",
    "vduse_dev_request.iova_v2": "7.0",
    "vduse_dev_request.vq_group_asid": "7.0",
    "VDUSE_F_QUEUE_READY": "7.3",
    "VDUSE_F_SUSPEND": "7.3",
    "VDUSE_GET_FEATURES": "7.3",
    "VDUSE_SET_FEATURES": "7.3",
    "VDUSE_SET_VQ_READY": "7.3",
    "VDUSE_SUSPEND": "7.3",
    "vduse_vq_ready": "7.3",
    "vduse_dev_request.vq_ready": "7.3",
}

CHANGED: Final = {
    "vduse_dev_config.reserved": "7.0",
    "vduse_vq_config.reserved2": "7.0",  # the end of what was reserved
    "vduse_iova_umem.reserved": "7.0",
    "vduse_iova_info.reserved": "7.0",
}

OLDER: Final = {"vduse_vq_config.reserved": "6.19"}
