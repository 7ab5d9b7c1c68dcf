"""``linux/vhost.h``: the ioctls of ``/dev/vhost-*``, as in Linux 7.3; their structs are in ``vhost_types``."""

from __future__ import annotations

from typing import Final

from pykernel.uapi.ioctl import _IO, _IOR, _IOW, _IOWR
from pykernel.uapi.linux.vhost_types import (
    vhost_features_array,
    vhost_memory,
    vhost_scsi_target,
    vhost_vdpa_config,
    vhost_vdpa_iova_range,
    vhost_vring_addr,
    vhost_vring_file,
    vhost_vring_state,
    vhost_vring_worker,
    vhost_worker_state,
)

VHOST_FILE_UNBIND: Final = -1  # instead of a file descriptor
VHOST_VIRTIO: Final = 0xAF

# The device
VHOST_GET_FEATURES: Final = _IOR(VHOST_VIRTIO, 0x00, "__u64")
VHOST_SET_FEATURES: Final = _IOW(VHOST_VIRTIO, 0x00, "__u64")
VHOST_SET_OWNER: Final = _IO(VHOST_VIRTIO, 0x01)
VHOST_RESET_OWNER: Final = _IO(VHOST_VIRTIO, 0x02)
VHOST_SET_MEM_TABLE: Final = _IOW(VHOST_VIRTIO, 0x03, vhost_memory)
VHOST_SET_LOG_BASE: Final = _IOW(VHOST_VIRTIO, 0x04, "__u64")
VHOST_SET_LOG_FD: Final = _IOW(VHOST_VIRTIO, 0x07, "int")
VHOST_NEW_WORKER: Final = _IOR(VHOST_VIRTIO, 0x8, vhost_worker_state)
VHOST_FREE_WORKER: Final = _IOW(VHOST_VIRTIO, 0x9, vhost_worker_state)

# A ring
VHOST_SET_VRING_NUM: Final = _IOW(VHOST_VIRTIO, 0x10, vhost_vring_state)
VHOST_SET_VRING_ADDR: Final = _IOW(VHOST_VIRTIO, 0x11, vhost_vring_addr)
VHOST_SET_VRING_BASE: Final = _IOW(VHOST_VIRTIO, 0x12, vhost_vring_state)
VHOST_GET_VRING_BASE: Final = _IOWR(VHOST_VIRTIO, 0x12, vhost_vring_state)
VHOST_VRING_LITTLE_ENDIAN: Final = 0
VHOST_VRING_BIG_ENDIAN: Final = 1
VHOST_SET_VRING_ENDIAN: Final = _IOW(VHOST_VIRTIO, 0x13, vhost_vring_state)
VHOST_GET_VRING_ENDIAN: Final = _IOW(VHOST_VIRTIO, 0x14, vhost_vring_state)
VHOST_ATTACH_VRING_WORKER: Final = _IOW(VHOST_VIRTIO, 0x15, vhost_vring_worker)
VHOST_GET_VRING_WORKER: Final = _IOWR(VHOST_VIRTIO, 0x16, vhost_vring_worker)
VHOST_SET_VRING_KICK: Final = _IOW(VHOST_VIRTIO, 0x20, vhost_vring_file)
VHOST_SET_VRING_CALL: Final = _IOW(VHOST_VIRTIO, 0x21, vhost_vring_file)
VHOST_SET_VRING_ERR: Final = _IOW(VHOST_VIRTIO, 0x22, vhost_vring_file)
VHOST_SET_VRING_BUSYLOOP_TIMEOUT: Final = _IOW(VHOST_VIRTIO, 0x23, vhost_vring_state)
VHOST_GET_VRING_BUSYLOOP_TIMEOUT: Final = _IOW(VHOST_VIRTIO, 0x24, vhost_vring_state)
VHOST_SET_BACKEND_FEATURES: Final = _IOW(VHOST_VIRTIO, 0x25, "__u64")
VHOST_GET_BACKEND_FEATURES: Final = _IOR(VHOST_VIRTIO, 0x26, "__u64")

# /dev/vhost-net
VHOST_NET_SET_BACKEND: Final = _IOW(VHOST_VIRTIO, 0x30, vhost_vring_file)

# /dev/vhost-scsi
VHOST_SCSI_SET_ENDPOINT: Final = _IOW(VHOST_VIRTIO, 0x40, vhost_scsi_target)
VHOST_SCSI_CLEAR_ENDPOINT: Final = _IOW(VHOST_VIRTIO, 0x41, vhost_scsi_target)
VHOST_SCSI_GET_ABI_VERSION: Final = _IOW(VHOST_VIRTIO, 0x42, "int")
VHOST_SCSI_SET_EVENTS_MISSED: Final = _IOW(VHOST_VIRTIO, 0x43, "__u32")
VHOST_SCSI_GET_EVENTS_MISSED: Final = _IOW(VHOST_VIRTIO, 0x44, "__u32")

# /dev/vhost-vsock
VHOST_VSOCK_SET_GUEST_CID: Final = _IOW(VHOST_VIRTIO, 0x60, "__u64")
VHOST_VSOCK_SET_RUNNING: Final = _IOW(VHOST_VIRTIO, 0x61, "int")

# /dev/vhost-vdpa-N
VHOST_VDPA_GET_DEVICE_ID: Final = _IOR(VHOST_VIRTIO, 0x70, "__u32")
VHOST_VDPA_GET_STATUS: Final = _IOR(VHOST_VIRTIO, 0x71, "__u8")
VHOST_VDPA_SET_STATUS: Final = _IOW(VHOST_VIRTIO, 0x72, "__u8")
VHOST_VDPA_GET_CONFIG: Final = _IOR(VHOST_VIRTIO, 0x73, vhost_vdpa_config)
VHOST_VDPA_SET_CONFIG: Final = _IOW(VHOST_VIRTIO, 0x74, vhost_vdpa_config)
VHOST_VDPA_SET_VRING_ENABLE: Final = _IOW(VHOST_VIRTIO, 0x75, vhost_vring_state)
VHOST_VDPA_GET_VRING_NUM: Final = _IOR(VHOST_VIRTIO, 0x76, "__u16")
VHOST_VDPA_SET_CONFIG_CALL: Final = _IOW(VHOST_VIRTIO, 0x77, "int")
VHOST_VDPA_GET_IOVA_RANGE: Final = _IOR(VHOST_VIRTIO, 0x78, vhost_vdpa_iova_range)
VHOST_VDPA_GET_CONFIG_SIZE: Final = _IOR(VHOST_VIRTIO, 0x79, "__u32")
VHOST_VDPA_GET_AS_NUM: Final = _IOR(VHOST_VIRTIO, 0x7A, "unsigned int")
VHOST_VDPA_GET_VRING_GROUP: Final = _IOWR(VHOST_VIRTIO, 0x7B, vhost_vring_state)
VHOST_VDPA_SET_GROUP_ASID: Final = _IOW(VHOST_VIRTIO, 0x7C, vhost_vring_state)
VHOST_VDPA_SUSPEND: Final = _IO(VHOST_VIRTIO, 0x7D)
VHOST_VDPA_RESUME: Final = _IO(VHOST_VIRTIO, 0x7E)
VHOST_VDPA_GET_VRING_DESC_GROUP: Final = _IOWR(VHOST_VIRTIO, 0x7F, vhost_vring_state)
VHOST_VDPA_GET_VQS_COUNT: Final = _IOR(VHOST_VIRTIO, 0x80, "__u32")
VHOST_VDPA_GET_GROUP_NUM: Final = _IOR(VHOST_VIRTIO, 0x81, "__u32")
VHOST_VDPA_GET_VRING_SIZE: Final = _IOWR(VHOST_VIRTIO, 0x82, vhost_vring_state)

# More than 64 feature bits
VHOST_GET_FEATURES_ARRAY: Final = _IOR(VHOST_VIRTIO, 0x83, vhost_features_array)
VHOST_SET_FEATURES_ARRAY: Final = _IOW(VHOST_VIRTIO, 0x83, vhost_features_array)

# Whose thread serves the rings: the kernel's, or one forked from the owner
VHOST_FORK_OWNER_KTHREAD: Final = 0
VHOST_FORK_OWNER_TASK: Final = 1
VHOST_SET_FORK_FROM_OWNER: Final = _IOW(VHOST_VIRTIO, 0x84, "__u8")
VHOST_GET_FORK_FROM_OWNER: Final = _IOR(VHOST_VIRTIO, 0x85, "__u8")

NEWER: Final = {
    "VHOST_VDPA_GET_DEVICE_ID": "5.7",
    "VHOST_VDPA_GET_STATUS": "5.7",
    "VHOST_VDPA_SET_STATUS": "5.7",
    "VHOST_VDPA_GET_CONFIG": "5.7",
    "VHOST_VDPA_SET_CONFIG": "5.7",
    "VHOST_VDPA_SET_VRING_ENABLE": "5.7",
    "VHOST_VDPA_GET_VRING_NUM": "5.7",
    "VHOST_FILE_UNBIND": "5.8",
    "VHOST_VDPA_SET_CONFIG_CALL": "5.8",
    "VHOST_VDPA_GET_IOVA_RANGE": "5.10",
    "VHOST_VDPA_GET_CONFIG_SIZE": "5.18",
    "VHOST_VDPA_GET_VQS_COUNT": "5.18",
    "VHOST_VDPA_GET_GROUP_NUM": "5.19",
    "VHOST_VDPA_GET_AS_NUM": "5.19",
    "VHOST_VDPA_GET_VRING_GROUP": "5.19",
    "VHOST_VDPA_SET_GROUP_ASID": "5.19",
    "VHOST_VDPA_SUSPEND": "6.0",
    "VHOST_VDPA_RESUME": "6.3",
    "VHOST_NEW_WORKER": "6.5",
    "VHOST_FREE_WORKER": "6.5",
    "VHOST_ATTACH_VRING_WORKER": "6.5",
    "VHOST_GET_VRING_WORKER": "6.5",
    "VHOST_VDPA_GET_VRING_DESC_GROUP": "6.7",
    "VHOST_VDPA_GET_VRING_SIZE": "6.9",
    "VHOST_FORK_OWNER_KTHREAD": "6.17",
    "VHOST_FORK_OWNER_TASK": "6.17",
    "VHOST_SET_FORK_FROM_OWNER": "6.17",
    "VHOST_GET_FORK_FROM_OWNER": "6.17",
    "VHOST_GET_FEATURES_ARRAY": "6.17",
    "VHOST_SET_FEATURES_ARRAY": "6.17",
}

# Names in NEWER that stable versions of older kernels got, too
BACKPORTED: Final = frozenset(
    {
        "VHOST_FORK_OWNER_KTHREAD",
        "VHOST_FORK_OWNER_TASK",
        "VHOST_SET_FORK_FROM_OWNER",
        "VHOST_GET_FORK_FROM_OWNER",
    }
)

# In linux/vhost_types.h since then
OLDER: Final = {"VHOST_BACKEND_F_IOTLB_MSG_V2": "5.18", "VHOST_BACKEND_F_IOTLB_BATCH": "5.18"}
