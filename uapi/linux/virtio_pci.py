"""
``linux/virtio_pci.h``: virtio devices on PCI, legacy and modern, and their administration commands, as in Linux 7.3.

Fields of modern devices are little-endian: what is read here is the host's byte order.
"""

from __future__ import annotations

from collections.abc import MutableSequence
from typing import Annotated, Final

from pykernel.uapi.struct import ZERO, Struct, Union, anon_union, le16, le32, le64, u8, u16, u32

# Registers of a legacy device: byte offsets in its I/O BAR 0
VIRTIO_PCI_HOST_FEATURES: Final = 0
VIRTIO_PCI_GUEST_FEATURES: Final = 4
VIRTIO_PCI_QUEUE_PFN: Final = 8
VIRTIO_PCI_QUEUE_NUM: Final = 12
VIRTIO_PCI_QUEUE_SEL: Final = 14
VIRTIO_PCI_QUEUE_NOTIFY: Final = 16
VIRTIO_PCI_STATUS: Final = 18
VIRTIO_PCI_ISR: Final = 19
VIRTIO_MSI_CONFIG_VECTOR: Final = 20
VIRTIO_MSI_QUEUE_VECTOR: Final = 22


def VIRTIO_PCI_CONFIG_OFF(msix_enabled: int) -> int:
    """Where the configuration space of a legacy device begins in BAR 0."""
    return 24 if msix_enabled else 20


VIRTIO_PCI_ABI_VERSION: Final = 0
VIRTIO_PCI_QUEUE_ADDR_SHIFT: Final = 12
VIRTIO_PCI_VRING_ALIGN: Final = 4096

VIRTIO_PCI_ISR_CONFIG: Final = 0x2  # the bit of the interrupt status for a change of configuration
VIRTIO_MSI_NO_VECTOR: Final = 0xFFFF

# virtio_pci_cap.cfg_type
VIRTIO_PCI_CAP_COMMON_CFG: Final = 1
VIRTIO_PCI_CAP_NOTIFY_CFG: Final = 2
VIRTIO_PCI_CAP_ISR_CFG: Final = 3
VIRTIO_PCI_CAP_DEVICE_CFG: Final = 4
VIRTIO_PCI_CAP_PCI_CFG: Final = 5
VIRTIO_PCI_CAP_SHARED_MEMORY_CFG: Final = 8
VIRTIO_PCI_CAP_VENDOR_CFG: Final = 9


class virtio_pci_cap(Struct):
    """``struct virtio_pci_cap``: the capability that says where a structure of the device is."""

    cap_vndr: u8 = 0
    cap_next: u8 = 0
    cap_len: u8 = 0
    cfg_type: u8 = 0
    bar: u8 = 0
    id: u8 = 0
    padding: Annotated[bytes, u8, 2] = b""
    offset: le32 = 0
    length: le32 = 0


class virtio_pci_vndr_data(Struct):
    """``struct virtio_pci_vndr_data``: head of a capability with data of a vendor."""

    cap_vndr: u8 = 0
    cap_next: u8 = 0
    cap_len: u8 = 0
    cfg_type: u8 = 0
    vendor_id: u16 = 0


class virtio_pci_cap64(Struct):
    """``struct virtio_pci_cap64``: a capability with offset and length of 64 bits (shared memory)."""

    cap: virtio_pci_cap = ZERO
    offset_hi: le32 = 0
    length_hi: le32 = 0


class virtio_pci_notify_cap(Struct):
    """``struct virtio_pci_notify_cap``: VIRTIO_PCI_CAP_NOTIFY_CFG; the multiplier is in bytes."""

    cap: virtio_pci_cap = ZERO
    notify_off_multiplier: le32 = 0


class virtio_pci_common_cfg(Struct):
    """``struct virtio_pci_common_cfg``: VIRTIO_PCI_CAP_COMMON_CFG; from ``queue_select`` on, of the selected queue."""

    device_feature_select: le32 = 0
    device_feature: le32 = 0
    guest_feature_select: le32 = 0
    guest_feature: le32 = 0
    msix_config: le16 = 0
    num_queues: le16 = 0
    device_status: u8 = 0
    config_generation: u8 = 0
    queue_select: le16 = 0
    queue_size: le16 = 0
    queue_msix_vector: le16 = 0
    queue_enable: le16 = 0
    queue_notify_off: le16 = 0
    queue_desc_lo: le32 = 0
    queue_desc_hi: le32 = 0
    queue_avail_lo: le32 = 0
    queue_avail_hi: le32 = 0
    queue_used_lo: le32 = 0
    queue_used_hi: le32 = 0


class virtio_pci_modern_common_cfg(Struct):
    """``struct virtio_pci_modern_common_cfg``: what virtio 1.2 and later have behind it."""

    cfg: virtio_pci_common_cfg = ZERO
    queue_notify_data: le16 = 0
    queue_reset: le16 = 0
    admin_queue_index: le16 = 0
    admin_queue_num: le16 = 0


class virtio_pci_cfg_cap(Struct):
    """``struct virtio_pci_cfg_cap``: VIRTIO_PCI_CAP_PCI_CFG, a window to a BAR in configuration space."""

    cap: virtio_pci_cap = ZERO
    pci_cfg_data: Annotated[bytes, u8, 4] = b""


# The same as byte offsets: in virtio_pci_cap and virtio_pci_notify_cap ...
VIRTIO_PCI_CAP_VNDR: Final = 0
VIRTIO_PCI_CAP_NEXT: Final = 1
VIRTIO_PCI_CAP_LEN: Final = 2
VIRTIO_PCI_CAP_CFG_TYPE: Final = 3
VIRTIO_PCI_CAP_BAR: Final = 4
VIRTIO_PCI_CAP_OFFSET: Final = 8
VIRTIO_PCI_CAP_LENGTH: Final = 12
VIRTIO_PCI_NOTIFY_CAP_MULT: Final = 16

# ... and in virtio_pci_modern_common_cfg
VIRTIO_PCI_COMMON_DFSELECT: Final = 0
VIRTIO_PCI_COMMON_DF: Final = 4
VIRTIO_PCI_COMMON_GFSELECT: Final = 8
VIRTIO_PCI_COMMON_GF: Final = 12
VIRTIO_PCI_COMMON_MSIX: Final = 16
VIRTIO_PCI_COMMON_NUMQ: Final = 18
VIRTIO_PCI_COMMON_STATUS: Final = 20
VIRTIO_PCI_COMMON_CFGGENERATION: Final = 21
VIRTIO_PCI_COMMON_Q_SELECT: Final = 22
VIRTIO_PCI_COMMON_Q_SIZE: Final = 24
VIRTIO_PCI_COMMON_Q_MSIX: Final = 26
VIRTIO_PCI_COMMON_Q_ENABLE: Final = 28
VIRTIO_PCI_COMMON_Q_NOFF: Final = 30
VIRTIO_PCI_COMMON_Q_DESCLO: Final = 32
VIRTIO_PCI_COMMON_Q_DESCHI: Final = 36
VIRTIO_PCI_COMMON_Q_AVAILLO: Final = 40
VIRTIO_PCI_COMMON_Q_AVAILHI: Final = 44
VIRTIO_PCI_COMMON_Q_USEDLO: Final = 48
VIRTIO_PCI_COMMON_Q_USEDHI: Final = 52
VIRTIO_PCI_COMMON_Q_NDATA: Final = 56
VIRTIO_PCI_COMMON_Q_RESET: Final = 58
VIRTIO_PCI_COMMON_ADM_Q_IDX: Final = 60
VIRTIO_PCI_COMMON_ADM_Q_NUM: Final = 62

# virtio_admin_cmd_status.status
VIRTIO_ADMIN_STATUS_OK: Final = 0

# virtio_admin_cmd_hdr.group_type
VIRTIO_ADMIN_GROUP_TYPE_SELF: Final = 0x0
VIRTIO_ADMIN_GROUP_TYPE_SRIOV: Final = 0x1

# virtio_admin_cmd_hdr.opcode
VIRTIO_ADMIN_CMD_LIST_QUERY: Final = 0x0
VIRTIO_ADMIN_CMD_LIST_USE: Final = 0x1
VIRTIO_ADMIN_CMD_LEGACY_COMMON_CFG_WRITE: Final = 0x2
VIRTIO_ADMIN_CMD_LEGACY_COMMON_CFG_READ: Final = 0x3
VIRTIO_ADMIN_CMD_LEGACY_DEV_CFG_WRITE: Final = 0x4
VIRTIO_ADMIN_CMD_LEGACY_DEV_CFG_READ: Final = 0x5
VIRTIO_ADMIN_CMD_LEGACY_NOTIFY_INFO: Final = 0x6
VIRTIO_ADMIN_CMD_CAP_ID_LIST_QUERY: Final = 0x7
VIRTIO_ADMIN_CMD_DEVICE_CAP_GET: Final = 0x8
VIRTIO_ADMIN_CMD_DRIVER_CAP_SET: Final = 0x9
VIRTIO_ADMIN_CMD_RESOURCE_OBJ_CREATE: Final = 0xA
VIRTIO_ADMIN_CMD_RESOURCE_OBJ_DESTROY: Final = 0xD
VIRTIO_ADMIN_CMD_DEV_PARTS_METADATA_GET: Final = 0xE
VIRTIO_ADMIN_CMD_DEV_PARTS_GET: Final = 0xF
VIRTIO_ADMIN_CMD_DEV_PARTS_SET: Final = 0x10
VIRTIO_ADMIN_CMD_DEV_MODE_SET: Final = 0x11


class virtio_admin_cmd_hdr(Struct):
    """``struct virtio_admin_cmd_hdr``: what every administration command begins with."""

    opcode: le16 = 0
    group_type: le16 = 0
    reserved1: Annotated[bytes, u8, 12] = b""
    group_member_id: le64 = 0


class virtio_admin_cmd_status(Struct):
    """``struct virtio_admin_cmd_status``: what the device answers to every administration command."""

    status: le16 = 0
    status_qualifier: le16 = 0
    reserved2: Annotated[bytes, u8, 4] = b""


class virtio_admin_cmd_legacy_wr_data(Struct):
    """``struct virtio_admin_cmd_legacy_wr_data``: VIRTIO_ADMIN_CMD_LEGACY_COMMON_CFG_WRITE, ..._DEV_CFG_WRITE."""

    offset: u8 = 0
    reserved: Annotated[bytes, u8, 7] = b""
    registers: Annotated[bytes, u8, ...] = b""


class virtio_admin_cmd_legacy_rd_data(Struct):
    """``struct virtio_admin_cmd_legacy_rd_data``: VIRTIO_ADMIN_CMD_LEGACY_COMMON_CFG_READ, ..._DEV_CFG_READ."""

    offset: u8 = 0


# virtio_admin_cmd_notify_info_data.flags
VIRTIO_ADMIN_CMD_NOTIFY_INFO_FLAGS_END: Final = 0
VIRTIO_ADMIN_CMD_NOTIFY_INFO_FLAGS_OWNER_DEV: Final = 0x1
VIRTIO_ADMIN_CMD_NOTIFY_INFO_FLAGS_OWNER_MEM: Final = 0x2

VIRTIO_ADMIN_CMD_MAX_NOTIFY_INFO: Final = 4


class virtio_admin_cmd_notify_info_data(Struct):
    """``struct virtio_admin_cmd_notify_info_data``: where a legacy device may be kicked."""

    flags: u8 = 0
    bar: u8 = 0
    padding: Annotated[bytes, u8, 6] = b""
    offset: le64 = 0


class virtio_admin_cmd_notify_info_result(Struct):
    """``struct virtio_admin_cmd_notify_info_result``: the answer to VIRTIO_ADMIN_CMD_LEGACY_NOTIFY_INFO."""

    entries: Annotated[MutableSequence[virtio_admin_cmd_notify_info_data], virtio_admin_cmd_notify_info_data, 4] = ZERO


VIRTIO_DEV_PARTS_CAP: Final = 0x0000  # a capability id


class virtio_dev_parts_cap(Struct):
    """``struct virtio_dev_parts_cap``: the capability VIRTIO_DEV_PARTS_CAP."""

    get_parts_resource_objects_limit: u8 = 0
    set_parts_resource_objects_limit: u8 = 0


MAX_CAP_ID: Final = 1  # words of 64 capability ids


class virtio_admin_cmd_query_cap_id_result(Struct):
    """``struct virtio_admin_cmd_query_cap_id_result``: the answer to VIRTIO_ADMIN_CMD_CAP_ID_LIST_QUERY."""

    supported_caps: Annotated[MutableSequence[int], le64, 1] = ZERO


class virtio_admin_cmd_cap_get_data(Struct):
    """``struct virtio_admin_cmd_cap_get_data``: VIRTIO_ADMIN_CMD_DEVICE_CAP_GET."""

    id: le16 = 0
    reserved: Annotated[bytes, u8, 6] = b""


class virtio_admin_cmd_cap_set_data(Struct):
    """``struct virtio_admin_cmd_cap_set_data``: VIRTIO_ADMIN_CMD_DRIVER_CAP_SET."""

    id: le16 = 0
    reserved: Annotated[bytes, u8, 6] = b""
    cap_specific_data: Annotated[bytes, u8, ...] = b""


class virtio_admin_cmd_resource_obj_cmd_hdr(Struct):
    """``struct virtio_admin_cmd_resource_obj_cmd_hdr``: which resource object a command means."""

    type: le16 = 0
    reserved: Annotated[bytes, u8, 2] = b""
    id: le32 = 0


class virtio_admin_cmd_resource_obj_create_data(Struct):
    """``struct virtio_admin_cmd_resource_obj_create_data``: VIRTIO_ADMIN_CMD_RESOURCE_OBJ_CREATE."""

    hdr: virtio_admin_cmd_resource_obj_cmd_hdr = ZERO
    flags: le64 = 0
    resource_obj_specific_data: Annotated[bytes, u8, ...] = b""


# virtio_admin_cmd_resource_obj_cmd_hdr.type
VIRTIO_RESOURCE_OBJ_DEV_PARTS: Final = 0

# virtio_resource_obj_dev_parts.type
VIRTIO_RESOURCE_OBJ_DEV_PARTS_TYPE_GET: Final = 0
VIRTIO_RESOURCE_OBJ_DEV_PARTS_TYPE_SET: Final = 1


class virtio_resource_obj_dev_parts(Struct):
    """``struct virtio_resource_obj_dev_parts``: what a new object of device parts is for."""

    type: u8 = 0
    reserved: Annotated[bytes, u8, 7] = b""


# virtio_admin_cmd_dev_parts_metadata_data.type
VIRTIO_ADMIN_CMD_DEV_PARTS_METADATA_TYPE_SIZE: Final = 0
VIRTIO_ADMIN_CMD_DEV_PARTS_METADATA_TYPE_COUNT: Final = 1
VIRTIO_ADMIN_CMD_DEV_PARTS_METADATA_TYPE_LIST: Final = 2


class virtio_admin_cmd_dev_parts_metadata_data(Struct):
    """``struct virtio_admin_cmd_dev_parts_metadata_data``: VIRTIO_ADMIN_CMD_DEV_PARTS_METADATA_GET."""

    hdr: virtio_admin_cmd_resource_obj_cmd_hdr = ZERO
    type: u8 = 0
    reserved: Annotated[bytes, u8, 7] = b""


VIRTIO_DEV_PART_F_OPTIONAL: Final = 0  # number of the bit in virtio_dev_part_hdr.flags


class virtio_dev_part_hdr_pci_common_cfg(
    Struct, ctype="__typeof__(((struct virtio_dev_part_hdr *)0)->selector.pci_common_cfg)"
):
    """``virtio_dev_part_hdr.selector.pci_common_cfg``: a part that is a field of the common configuration."""

    offset: le32 = 0
    reserved: u32 = 0


class virtio_dev_part_hdr_vq_index(Struct, ctype="__typeof__(((struct virtio_dev_part_hdr *)0)->selector.vq_index)"):
    """``virtio_dev_part_hdr.selector.vq_index``: a part that belongs to a queue."""

    index: le16 = 0
    reserved: Annotated[bytes, u8, 6] = b""


class virtio_dev_part_hdr_selector(Union, ctype="__typeof__(((struct virtio_dev_part_hdr *)0)->selector)"):
    """``virtio_dev_part_hdr.selector``: which one of its kind a part is."""

    pci_common_cfg: virtio_dev_part_hdr_pci_common_cfg = ZERO
    vq_index: virtio_dev_part_hdr_vq_index = ZERO


class virtio_dev_part_hdr(Struct):
    """``struct virtio_dev_part_hdr``: what a part is, and how many bytes of it follow."""

    part_type: le16 = 0
    flags: u8 = 0
    reserved: u8 = 0
    selector: virtio_dev_part_hdr_selector = ZERO
    length: le32 = 0


class virtio_dev_part(Struct):
    """``struct virtio_dev_part``: a piece of a device's state."""

    hdr: virtio_dev_part_hdr = ZERO
    value: Annotated[bytes, u8, ...] = b""


class virtio_admin_cmd_dev_parts_metadata_result_parts_size(
    Struct, ctype="__typeof__(((struct virtio_admin_cmd_dev_parts_metadata_result *)0)->parts_size)"
):
    """``virtio_admin_cmd_dev_parts_metadata_result.parts_size``: bytes of all parts."""

    size: le32 = 0
    reserved: le32 = 0


class virtio_admin_cmd_dev_parts_metadata_result_hdr_list_count(
    Struct, ctype="__typeof__(((struct virtio_admin_cmd_dev_parts_metadata_result *)0)->hdr_list_count)"
):
    """``virtio_admin_cmd_dev_parts_metadata_result.hdr_list_count``: the number of parts."""

    count: le32 = 0
    reserved: le32 = 0


class virtio_admin_cmd_dev_parts_metadata_result_hdr_list(
    Struct, ctype="__typeof__(((struct virtio_admin_cmd_dev_parts_metadata_result *)0)->hdr_list)"
):
    """``virtio_admin_cmd_dev_parts_metadata_result.hdr_list``: the headers of all parts."""

    count: le32 = 0
    reserved: le32 = 0
    hdrs: Annotated[MutableSequence[virtio_dev_part_hdr], virtio_dev_part_hdr, ...] = ZERO


class virtio_admin_cmd_dev_parts_metadata_result(Struct):
    """
    ``struct virtio_admin_cmd_dev_parts_metadata_result``: the answer to VIRTIO_ADMIN_CMD_DEV_PARTS_METADATA_GET.

    To reach the headers behind it, read ``virtio_admin_cmd_dev_parts_metadata_result_hdr_list`` from the buffer.
    """

    _form = anon_union(until="hdr_list")
    parts_size: virtio_admin_cmd_dev_parts_metadata_result_parts_size = ZERO
    hdr_list_count: virtio_admin_cmd_dev_parts_metadata_result_hdr_list_count = ZERO
    hdr_list: virtio_admin_cmd_dev_parts_metadata_result_hdr_list = ZERO


# virtio_admin_cmd_dev_parts_get_data.type
VIRTIO_ADMIN_CMD_DEV_PARTS_GET_TYPE_SELECTED: Final = 0
VIRTIO_ADMIN_CMD_DEV_PARTS_GET_TYPE_ALL: Final = 1


class virtio_admin_cmd_dev_parts_get_data(Struct):
    """``struct virtio_admin_cmd_dev_parts_get_data``: VIRTIO_ADMIN_CMD_DEV_PARTS_GET."""

    hdr: virtio_admin_cmd_resource_obj_cmd_hdr = ZERO
    type: u8 = 0
    reserved: Annotated[bytes, u8, 7] = b""
    hdr_list: Annotated[MutableSequence[virtio_dev_part_hdr], virtio_dev_part_hdr, ...] = ZERO


class virtio_admin_cmd_dev_parts_set_data(Struct):
    """``struct virtio_admin_cmd_dev_parts_set_data``: VIRTIO_ADMIN_CMD_DEV_PARTS_SET; parts differ in length."""

    hdr: virtio_admin_cmd_resource_obj_cmd_hdr = ZERO
    parts: Annotated[MutableSequence[virtio_dev_part], virtio_dev_part, ...] = ZERO


VIRTIO_ADMIN_CMD_DEV_MODE_F_STOPPED: Final = 0  # number of the bit in virtio_admin_cmd_dev_mode_set_data.flags


class virtio_admin_cmd_dev_mode_set_data(Struct):
    """``struct virtio_admin_cmd_dev_mode_set_data``: VIRTIO_ADMIN_CMD_DEV_MODE_SET."""

    flags: u8 = 0


NEWER: Final = {
    "virtio_pci_cap.id": "5.10",
    "VIRTIO_PCI_CAP_SHARED_MEMORY_CFG": "5.10",
    "virtio_pci_cap64": "5.10",
    "VIRTIO_PCI_COMMON_Q_NDATA": "6.0",
    "VIRTIO_PCI_COMMON_Q_RESET": "6.0",
    "virtio_pci_modern_common_cfg": "6.7",
    "virtio_pci_modern_common_cfg.admin_queue_index": "6.8",
    "virtio_pci_modern_common_cfg.admin_queue_num": "6.8",
    "VIRTIO_PCI_COMMON_ADM_Q_IDX": "6.8",
    "VIRTIO_PCI_COMMON_ADM_Q_NUM": "6.8",
    "VIRTIO_ADMIN_STATUS_OK": "6.8",
    "VIRTIO_ADMIN_GROUP_TYPE_SRIOV": "6.8",
    "VIRTIO_ADMIN_CMD_LIST_QUERY": "6.8",
    "VIRTIO_ADMIN_CMD_LIST_USE": "6.8",
    "VIRTIO_ADMIN_CMD_LEGACY_COMMON_CFG_WRITE": "6.8",
    "VIRTIO_ADMIN_CMD_LEGACY_COMMON_CFG_READ": "6.8",
    "VIRTIO_ADMIN_CMD_LEGACY_DEV_CFG_WRITE": "6.8",
    "VIRTIO_ADMIN_CMD_LEGACY_DEV_CFG_READ": "6.8",
    "VIRTIO_ADMIN_CMD_LEGACY_NOTIFY_INFO": "6.8",
    "VIRTIO_ADMIN_CMD_NOTIFY_INFO_FLAGS_END": "6.8",
    "VIRTIO_ADMIN_CMD_NOTIFY_INFO_FLAGS_OWNER_DEV": "6.8",
    "VIRTIO_ADMIN_CMD_NOTIFY_INFO_FLAGS_OWNER_MEM": "6.8",
    "VIRTIO_ADMIN_CMD_MAX_NOTIFY_INFO": "6.8",
    "virtio_admin_cmd_hdr": "6.8",
    "virtio_admin_cmd_status": "6.8",
    "virtio_admin_cmd_legacy_wr_data": "6.8",
    "virtio_admin_cmd_legacy_rd_data": "6.8",
    "virtio_admin_cmd_notify_info_data": "6.8",
    "virtio_admin_cmd_notify_info_result": "6.8",
    "VIRTIO_ADMIN_CMD_CAP_ID_LIST_QUERY": "6.13",
    "VIRTIO_ADMIN_CMD_DEVICE_CAP_GET": "6.13",
    "VIRTIO_ADMIN_CMD_DRIVER_CAP_SET": "6.13",
    "VIRTIO_ADMIN_CMD_RESOURCE_OBJ_CREATE": "6.13",
    "VIRTIO_ADMIN_CMD_RESOURCE_OBJ_DESTROY": "6.13",
    "VIRTIO_ADMIN_CMD_DEV_PARTS_METADATA_GET": "6.13",
    "VIRTIO_ADMIN_CMD_DEV_PARTS_GET": "6.13",
    "VIRTIO_ADMIN_CMD_DEV_PARTS_SET": "6.13",
    "VIRTIO_ADMIN_CMD_DEV_MODE_SET": "6.13",
    "VIRTIO_ADMIN_CMD_DEV_PARTS_METADATA_TYPE_SIZE": "6.13",
    "VIRTIO_ADMIN_CMD_DEV_PARTS_METADATA_TYPE_COUNT": "6.13",
    "VIRTIO_ADMIN_CMD_DEV_PARTS_METADATA_TYPE_LIST": "6.13",
    "VIRTIO_ADMIN_CMD_DEV_PARTS_GET_TYPE_SELECTED": "6.13",
    "VIRTIO_ADMIN_CMD_DEV_PARTS_GET_TYPE_ALL": "6.13",
    "VIRTIO_ADMIN_CMD_DEV_MODE_F_STOPPED": "6.13",
    "VIRTIO_DEV_PARTS_CAP": "6.13",
    "VIRTIO_RESOURCE_OBJ_DEV_PARTS": "6.13",
    "VIRTIO_RESOURCE_OBJ_DEV_PARTS_TYPE_GET": "6.13",
    "VIRTIO_RESOURCE_OBJ_DEV_PARTS_TYPE_SET": "6.13",
    "VIRTIO_DEV_PART_F_OPTIONAL": "6.13",
    "MAX_CAP_ID": "6.13",
    "virtio_dev_parts_cap": "6.13",
    "virtio_admin_cmd_query_cap_id_result": "6.13",
    "virtio_admin_cmd_cap_get_data": "6.13",
    "virtio_admin_cmd_cap_set_data": "6.13",
    "virtio_admin_cmd_resource_obj_cmd_hdr": "6.13",
    "virtio_admin_cmd_resource_obj_create_data": "6.13",
    "virtio_resource_obj_dev_parts": "6.13",
    "virtio_admin_cmd_dev_parts_metadata_data": "6.13",
    "virtio_dev_part_hdr_pci_common_cfg": "6.13",
    "virtio_dev_part_hdr_vq_index": "6.13",
    "virtio_dev_part_hdr_selector": "6.13",
    "virtio_dev_part_hdr": "6.13",
    "virtio_dev_part": "6.13",
    "virtio_admin_cmd_dev_parts_metadata_result_parts_size": "6.13",
    "virtio_admin_cmd_dev_parts_metadata_result_hdr_list_count": "6.13",
    "virtio_admin_cmd_dev_parts_metadata_result_hdr_list": "6.13",
    "virtio_admin_cmd_dev_parts_metadata_result": "6.13",
    "virtio_admin_cmd_dev_parts_get_data": "6.13",
    "virtio_admin_cmd_dev_parts_set_data": "6.13",
    "virtio_admin_cmd_dev_mode_set_data": "6.13",
    "VIRTIO_PCI_CAP_VENDOR_CFG": "6.14",
    "virtio_pci_vndr_data": "6.14",
    "VIRTIO_ADMIN_GROUP_TYPE_SELF": "6.15",
}

CHANGED: Final = {
    "virtio_pci_cap.padding": "5.10",  # id has its first byte
    # they were packed in 6.8
    "virtio_admin_cmd_hdr": "6.9",
    "virtio_admin_cmd_status": "6.9",
    "virtio_admin_cmd_notify_info_data": "6.9",
    "virtio_admin_cmd_notify_info_result": "6.9",
}

IN_C: Final = {"VIRTIO_PCI_CONFIG": "#define VIRTIO_PCI_CONFIG(dev) VIRTIO_PCI_CONFIG_OFF((dev)->msix_enabled)"}
