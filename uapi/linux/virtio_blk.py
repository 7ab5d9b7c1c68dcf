"""``linux/virtio_blk.h``: block devices (virtio id 2), as in Linux 7.3."""

from __future__ import annotations

from collections.abc import MutableSequence
from typing import Annotated, Final

from pykernel.uapi.struct import ZERO, Struct, le32, le64, u8, virtio16, virtio32, virtio64

# Numbers of feature bits
VIRTIO_BLK_F_SIZE_MAX: Final = 1
VIRTIO_BLK_F_SEG_MAX: Final = 2
VIRTIO_BLK_F_GEOMETRY: Final = 4
VIRTIO_BLK_F_RO: Final = 5
VIRTIO_BLK_F_BLK_SIZE: Final = 6
VIRTIO_BLK_F_TOPOLOGY: Final = 10
VIRTIO_BLK_F_MQ: Final = 12
VIRTIO_BLK_F_DISCARD: Final = 13
VIRTIO_BLK_F_WRITE_ZEROES: Final = 14
VIRTIO_BLK_F_SECURE_ERASE: Final = 16
VIRTIO_BLK_F_ZONED: Final = 17

# Legacy devices only
VIRTIO_BLK_F_BARRIER: Final = 0
VIRTIO_BLK_F_SCSI: Final = 7
VIRTIO_BLK_F_FLUSH: Final = 9
VIRTIO_BLK_F_CONFIG_WCE: Final = 11
VIRTIO_BLK_F_WCE: Final = VIRTIO_BLK_F_FLUSH

VIRTIO_BLK_ID_BYTES: Final = 20


class virtio_blk_geometry(Struct):
    """``struct virtio_blk_geometry``: cylinders, heads, sectors, when VIRTIO_BLK_F_GEOMETRY."""

    cylinders: virtio16 = 0
    heads: u8 = 0
    sectors: u8 = 0


class virtio_blk_zoned_characteristics(Struct):
    """``struct virtio_blk_zoned_characteristics``: sizes and limits of zones, when VIRTIO_BLK_F_ZONED."""

    zone_sectors: virtio32 = 0
    max_open_zones: virtio32 = 0
    max_active_zones: virtio32 = 0
    max_append_sectors: virtio32 = 0
    write_granularity: virtio32 = 0
    model: u8 = 0
    unused2: Annotated[bytes, u8, 3] = b""


class virtio_blk_config(Struct, packed=True):
    """``struct virtio_blk_config``: configuration space; ``capacity`` counts sectors of 512 bytes."""

    capacity: virtio64 = 0
    size_max: virtio32 = 0
    seg_max: virtio32 = 0
    geometry: virtio_blk_geometry = ZERO
    blk_size: virtio32 = 0
    physical_block_exp: u8 = 0
    alignment_offset: u8 = 0
    min_io_size: virtio16 = 0
    opt_io_size: virtio32 = 0
    wce: u8 = 0
    unused: u8 = 0
    num_queues: virtio16 = 0
    max_discard_sectors: virtio32 = 0
    max_discard_seg: virtio32 = 0
    discard_sector_alignment: virtio32 = 0
    max_write_zeroes_sectors: virtio32 = 0
    max_write_zeroes_seg: virtio32 = 0
    write_zeroes_may_unmap: u8 = 0
    unused1: Annotated[bytes, u8, 3] = b""
    max_secure_erase_sectors: virtio32 = 0
    max_secure_erase_seg: virtio32 = 0
    secure_erase_sector_alignment: virtio32 = 0
    zoned: virtio_blk_zoned_characteristics = ZERO


# virtio_blk_outhdr.type
VIRTIO_BLK_T_IN: Final = 0
VIRTIO_BLK_T_OUT: Final = 1
VIRTIO_BLK_T_SCSI_CMD: Final = 2
VIRTIO_BLK_T_FLUSH: Final = 4
VIRTIO_BLK_T_GET_ID: Final = 8
VIRTIO_BLK_T_DISCARD: Final = 11
VIRTIO_BLK_T_WRITE_ZEROES: Final = 13
VIRTIO_BLK_T_SECURE_ERASE: Final = 14
VIRTIO_BLK_T_ZONE_APPEND: Final = 15
VIRTIO_BLK_T_ZONE_REPORT: Final = 16
VIRTIO_BLK_T_ZONE_OPEN: Final = 18
VIRTIO_BLK_T_ZONE_CLOSE: Final = 20
VIRTIO_BLK_T_ZONE_FINISH: Final = 22
VIRTIO_BLK_T_ZONE_RESET: Final = 24
VIRTIO_BLK_T_ZONE_RESET_ALL: Final = 26
VIRTIO_BLK_T_BARRIER: Final = 0x80000000


class virtio_blk_outhdr(Struct):
    """``struct virtio_blk_outhdr``: what a request begins with."""

    type: virtio32 = 0
    ioprio: virtio32 = 0
    sector: virtio64 = 0


# virtio_blk_zoned_characteristics.model
VIRTIO_BLK_Z_NONE: Final = 0
VIRTIO_BLK_Z_HM: Final = 1
VIRTIO_BLK_Z_HA: Final = 2


class virtio_blk_zone_descriptor(Struct):
    """``struct virtio_blk_zone_descriptor``: one zone in the answer to VIRTIO_BLK_T_ZONE_REPORT."""

    z_cap: virtio64 = 0
    z_start: virtio64 = 0
    z_wp: virtio64 = 0
    z_type: u8 = 0
    z_state: u8 = 0
    reserved: Annotated[bytes, u8, 38] = b""


class virtio_blk_zone_report(Struct):
    """``struct virtio_blk_zone_report``: the answer to VIRTIO_BLK_T_ZONE_REPORT."""

    nr_zones: virtio64 = 0
    reserved: Annotated[bytes, u8, 56] = b""
    zones: Annotated[MutableSequence[virtio_blk_zone_descriptor], virtio_blk_zone_descriptor, ...] = ZERO


# virtio_blk_zone_descriptor.z_type
VIRTIO_BLK_ZT_CONV: Final = 1
VIRTIO_BLK_ZT_SWR: Final = 2
VIRTIO_BLK_ZT_SWP: Final = 3

# virtio_blk_zone_descriptor.z_state
VIRTIO_BLK_ZS_NOT_WP: Final = 0
VIRTIO_BLK_ZS_EMPTY: Final = 1
VIRTIO_BLK_ZS_IOPEN: Final = 2
VIRTIO_BLK_ZS_EOPEN: Final = 3
VIRTIO_BLK_ZS_CLOSED: Final = 4
VIRTIO_BLK_ZS_RDONLY: Final = 13
VIRTIO_BLK_ZS_FULL: Final = 14
VIRTIO_BLK_ZS_OFFLINE: Final = 15

VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP: Final = 0x00000001


class virtio_blk_discard_write_zeroes(Struct):
    """``struct virtio_blk_discard_write_zeroes``: one range to discard, erase or fill with zeros."""

    sector: le64 = 0
    num_sectors: le32 = 0
    flags: le32 = 0


class virtio_scsi_inhdr(Struct):
    """``struct virtio_scsi_inhdr``: the end of a VIRTIO_BLK_T_SCSI_CMD; legacy devices only."""

    errors: virtio32 = 0
    data_len: virtio32 = 0
    sense_len: virtio32 = 0
    residual: virtio32 = 0


# The last byte of a request
VIRTIO_BLK_S_OK: Final = 0
VIRTIO_BLK_S_IOERR: Final = 1
VIRTIO_BLK_S_UNSUPP: Final = 2
VIRTIO_BLK_S_ZONE_INVALID_CMD: Final = 3
VIRTIO_BLK_S_ZONE_UNALIGNED_WP: Final = 4
VIRTIO_BLK_S_ZONE_OPEN_RESOURCE: Final = 5
VIRTIO_BLK_S_ZONE_ACTIVE_RESOURCE: Final = 6

NEWER: Final = {
    "virtio_blk_config.wce": "3.6",
    "VIRTIO_BLK_F_CONFIG_WCE": "3.6",
    "virtio_blk_config.unused": "3.17",
    "virtio_blk_config.num_queues": "3.17",
    "VIRTIO_BLK_F_MQ": "3.17",
    "virtio_blk_config.max_discard_sectors": "5.0",
    "virtio_blk_config.max_discard_seg": "5.0",
    "virtio_blk_config.discard_sector_alignment": "5.0",
    "virtio_blk_config.max_write_zeroes_sectors": "5.0",
    "virtio_blk_config.max_write_zeroes_seg": "5.0",
    "virtio_blk_config.write_zeroes_may_unmap": "5.0",
    "virtio_blk_config.unused1": "5.0",
    "VIRTIO_BLK_F_DISCARD": "5.0",
    "VIRTIO_BLK_F_WRITE_ZEROES": "5.0",
    "VIRTIO_BLK_T_DISCARD": "5.0",
    "VIRTIO_BLK_T_WRITE_ZEROES": "5.0",
    "VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP": "5.0",
    "virtio_blk_discard_write_zeroes": "5.0",
    "virtio_blk_config.max_secure_erase_sectors": "6.1",
    "virtio_blk_config.max_secure_erase_seg": "6.1",
    "virtio_blk_config.secure_erase_sector_alignment": "6.1",
    "VIRTIO_BLK_F_SECURE_ERASE": "6.1",
    "VIRTIO_BLK_T_SECURE_ERASE": "6.1",
    "virtio_blk_config.zoned": "6.3",
    "virtio_blk_zoned_characteristics": "6.3",
    "virtio_blk_zone_descriptor": "6.3",
    "virtio_blk_zone_report": "6.3",
    "VIRTIO_BLK_F_ZONED": "6.3",
    "VIRTIO_BLK_T_ZONE_APPEND": "6.3",
    "VIRTIO_BLK_T_ZONE_REPORT": "6.3",
    "VIRTIO_BLK_T_ZONE_OPEN": "6.3",
    "VIRTIO_BLK_T_ZONE_CLOSE": "6.3",
    "VIRTIO_BLK_T_ZONE_FINISH": "6.3",
    "VIRTIO_BLK_T_ZONE_RESET": "6.3",
    "VIRTIO_BLK_T_ZONE_RESET_ALL": "6.3",
    "VIRTIO_BLK_Z_NONE": "6.3",
    "VIRTIO_BLK_Z_HM": "6.3",
    "VIRTIO_BLK_Z_HA": "6.3",
    "VIRTIO_BLK_ZT_CONV": "6.3",
    "VIRTIO_BLK_ZT_SWR": "6.3",
    "VIRTIO_BLK_ZT_SWP": "6.3",
    "VIRTIO_BLK_ZS_NOT_WP": "6.3",
    "VIRTIO_BLK_ZS_EMPTY": "6.3",
    "VIRTIO_BLK_ZS_IOPEN": "6.3",
    "VIRTIO_BLK_ZS_EOPEN": "6.3",
    "VIRTIO_BLK_ZS_CLOSED": "6.3",
    "VIRTIO_BLK_ZS_RDONLY": "6.3",
    "VIRTIO_BLK_ZS_FULL": "6.3",
    "VIRTIO_BLK_ZS_OFFLINE": "6.3",
    "VIRTIO_BLK_S_ZONE_INVALID_CMD": "6.3",
    "VIRTIO_BLK_S_ZONE_UNALIGNED_WP": "6.3",
    "VIRTIO_BLK_S_ZONE_OPEN_RESOURCE": "6.3",
    "VIRTIO_BLK_S_ZONE_ACTIVE_RESOURCE": "6.3",
}
