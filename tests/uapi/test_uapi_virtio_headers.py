"""
The vhost, vduse and virtio headers where the installed ones may be too old to say.

Numbers and places are those that cc gives with the headers of Linux 7.3.4; sizes by kernel are those that cc gives
with the headers of that kernel.
"""

from __future__ import annotations

import pytest

from pykernel.uapi.history import Version, at, nr_at, sizes
from pykernel.uapi.ioctl import Ioctl
from pykernel.uapi.linux import vduse, vhost, vhost_types, virtio_blk, virtio_config, virtio_ids, virtio_net, virtio_pci
from pykernel.uapi.struct import Struct

IOCTLS = {
    "VHOST_NEW_WORKER": 0x8004AF08,
    "VHOST_FREE_WORKER": 0x4004AF09,
    "VHOST_ATTACH_VRING_WORKER": 0x4008AF15,
    "VHOST_GET_VRING_WORKER": 0xC008AF16,
    "VHOST_VDPA_RESUME": 0xAF7E,
    "VHOST_VDPA_GET_VRING_DESC_GROUP": 0xC008AF7F,
    "VHOST_VDPA_GET_VRING_SIZE": 0xC008AF82,
    "VHOST_GET_FEATURES_ARRAY": 0x8008AF83,
    "VHOST_SET_FEATURES_ARRAY": 0x4008AF83,
    "VHOST_SET_FORK_FROM_OWNER": 0x4001AF84,
    "VHOST_GET_FORK_FROM_OWNER": 0x8001AF85,
    "VDUSE_CREATE_DEV": 0x41508102,
    "VDUSE_DESTROY_DEV": 0x41008103,
    "VDUSE_GET_FEATURES": 0x80088104,
    "VDUSE_SET_FEATURES": 0x40088105,
    "VDUSE_VQ_SETUP": 0x40208114,
    "VDUSE_IOTLB_REG_UMEM": 0x40308118,
    "VDUSE_IOTLB_GET_INFO": 0xC030811A,
    "VDUSE_IOTLB_GET_FD2": 0xC050811B,
}

PLACES = [
    (vduse.vduse_dev_config, "ngroups", 280),
    (vduse.vduse_dev_config, "nas", 284),
    (vduse.vduse_dev_config, "reserved", 288),
    (vduse.vduse_dev_config, "config_size", 332),
    (vduse.vduse_vq_config, "reserved1", 6),
    (vduse.vduse_vq_config, "group", 8),
    (vduse.vduse_vq_config, "reserved2", 12),
    (vduse.vduse_iova_umem, "asid", 24),
    (vduse.vduse_iova_umem, "reserved", 28),
    (vduse.vduse_iova_info, "asid", 24),
    (vduse.vduse_iova_info, "reserved", 28),
    (vduse.vduse_iotlb_entry_v2, "asid", 32),
    (vduse.vduse_iotlb_entry_v2, "reserved", 36),
    (vduse.vduse_iova_range_v2, "asid", 16),
    (vduse.vduse_dev_request, "iova_v2", 24),
    (vduse.vduse_dev_request, "vq_ready", 24),
    (virtio_blk.virtio_blk_config, "zoned", 72),
    (virtio_blk.virtio_blk_zoned_characteristics, "model", 20),
    (virtio_blk.virtio_blk_zone_descriptor, "z_state", 25),
    (virtio_blk.virtio_blk_zone_report, "zones", 64),
    (virtio_net.virtio_net_hdr_v1_hash, "hash_value_hi", 14),
    (virtio_net.virtio_net_hdr_v1_hash_tunnel, "outer_th_offset", 20),
    (virtio_net.virtio_net_rss_config_trailer, "hash_key_data", 3),
    (virtio_net.virtio_net_ctrl_coal_vq, "coal", 4),
    (virtio_net.virtio_net_ctrl_queue_stats, "stats", 0),
    (virtio_net.virtio_net_stats_rx_basic, "rx_drop_overruns", 48),
    (virtio_net.virtio_net_stats_tx_gso, "tx_gso_bytes_noseg", 48),
    (virtio_pci.virtio_pci_modern_common_cfg, "queue_notify_data", 56),
    (virtio_pci.virtio_pci_modern_common_cfg, "admin_queue_num", 62),
    (virtio_pci.virtio_pci_vndr_data, "vendor_id", 4),
    (virtio_pci.virtio_admin_cmd_hdr, "group_member_id", 16),
    (virtio_pci.virtio_admin_cmd_notify_info_data, "offset", 8),
    (virtio_pci.virtio_admin_cmd_resource_obj_create_data, "flags", 8),
    (virtio_pci.virtio_dev_part_hdr, "selector", 4),
    (virtio_pci.virtio_dev_part_hdr, "length", 12),
    (virtio_pci.virtio_dev_part, "value", 16),
    (virtio_pci.virtio_admin_cmd_dev_parts_get_data, "hdr_list", 16),
]

SIZES = [
    (vduse.vduse_dev_config, 336),
    (vduse.vduse_vq_config, 32),
    (vduse.vduse_iova_umem, 48),
    (vduse.vduse_iova_info, 48),
    (vduse.vduse_iotlb_entry_v2, 80),
    (vduse.vduse_iova_range_v2, 24),
    (vduse.vduse_dev_request, 152),
    (virtio_blk.virtio_blk_config, 96),
    (virtio_blk.virtio_blk_zone_descriptor, 64),
    (virtio_net.virtio_net_hdr_v1_hash, 20),
    (virtio_net.virtio_net_hdr_v1_hash_tunnel, 24),
    (virtio_net.virtio_net_stats_rx_basic, 56),
    (virtio_net.virtio_net_stats_tx_gso, 56),
    (virtio_pci.virtio_pci_modern_common_cfg, 64),
    (virtio_pci.virtio_admin_cmd_hdr, 24),
    (virtio_pci.virtio_admin_cmd_notify_info_result, 64),
    (virtio_pci.virtio_dev_part_hdr, 16),
    (virtio_pci.virtio_admin_cmd_dev_parts_metadata_result, 8),
]


@pytest.mark.parametrize(("name", "number"), IOCTLS.items())
def test_ioctls_have_the_numbers_of_7_3(name: str, number: int) -> None:
    row = getattr(vhost, name, None) or getattr(vduse, name)
    assert isinstance(row, Ioctl)
    assert row.nr == number


@pytest.mark.parametrize(("cls", "field", "offset"), PLACES, ids=lambda v: getattr(v, "__name__", str(v)))
def test_fields_lie_where_7_3_has_them(cls: type[Struct], field: str, offset: int) -> None:
    assert cls.offsetof(field) == offset


@pytest.mark.parametrize(("cls", "size"), SIZES, ids=lambda v: getattr(v, "__name__", str(v)))
def test_structs_are_as_long_as_in_7_3(cls: type[Struct], size: int) -> None:
    assert cls.sizeof() == size


@pytest.mark.parametrize(
    ("cls", "grown"),
    [
        (virtio_net.virtio_net_config, {(4, 4): 10, (4, 8): 12, (4, 17): 17, (5, 6): 17, (5, 7): 24, (7, 3): 24}),
        (virtio_blk.virtio_blk_config, {(4, 20): 36, (5, 0): 60, (6, 0): 60, (6, 1): 72, (6, 2): 72, (6, 3): 96}),
        (virtio_pci.virtio_pci_modern_common_cfg, {(6, 7): 60, (6, 8): 64}),
        (vduse.vduse_vq_config, {(5, 15): 32, (7, 3): 32}),
        (vduse.vduse_iova_umem, {(6, 0): 48, (7, 3): 48}),
        (vhost_types.vhost_msg_v2, {(5, 0): 72, (5, 19): 72}),
    ],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_structs_grew_in_the_kernels_that_made_them_longer(
    cls: type[Struct], grown: dict[tuple[int, int], int]
) -> None:
    assert {kernel: at(cls, Version(*kernel)).sizeof() for kernel in grown} == grown


def test_configuration_of_block_devices_has_a_history_from_the_start() -> None:
    """cd5d503862b0 (3.6), 6a27b656fc02 (3.17) and what cc says of later headers."""
    assert sizes(virtio_blk.virtio_blk_config) == (
        ("", 32), ("3.6", 33), ("3.17", 36), ("5.0", 60), ("6.1", 72), ("6.3", 96),
    )  # fmt: skip


def test_numbers_of_vduse_did_not_change_with_the_members_that_took_reserved_bytes() -> None:
    """An ioctl's size is in its number: 6.1 and 7.3 agree."""
    for row in (vduse.VDUSE_VQ_SETUP, vduse.VDUSE_IOTLB_REG_UMEM, vduse.VDUSE_IOTLB_GET_INFO, vduse.VDUSE_CREATE_DEV):
        assert nr_at(row, Version(6, 1)) == row.nr


def test_older_name_of_the_hash_reads_both_halves() -> None:
    """Little-endian: the low half comes first, so the old 32-bit field reads the same bytes."""
    header = virtio_net.virtio_net_hdr_v1_hash.from_bytes(bytes(12) + 0x12345678.to_bytes(4, "little") + bytes(4))
    assert header.hash_value == 0x12345678


def test_member_that_python_cannot_name_has_its_c_name() -> None:
    """``class`` is the first byte of a control command."""
    command = virtio_net.virtio_net_ctrl_hdr(
        class_=virtio_net.VIRTIO_NET_CTRL_MQ, cmd=virtio_net.VIRTIO_NET_CTRL_MQ_RSS_CONFIG
    )
    assert bytes(command) == b"\4\1"


def test_table_of_mac_addresses_is_read_as_one_piece() -> None:
    """6 bytes an entry."""
    table = virtio_net.virtio_net_ctrl_mac.from_bytes((2).to_bytes(4, "little") + b"\2\0\0\0\0\1\2\0\0\0\0\2")
    assert [table.macs[i : i + 6].hex(":") for i in (0, 6)] == ["02:00:00:00:00:01", "02:00:00:00:00:02"]


def test_iotlb_messages_leave_their_padding_out_of_repr_but_not_out_of_bytes() -> None:
    """72 bytes, both versions; in the first, four bytes that nobody names."""
    mapping = vhost_types.vhost_iotlb_msg(
        iova=0x1000, size=0x2000, uaddr=0x3000, perm=vhost_types.VHOST_ACCESS_RW, type=vhost_types.VHOST_IOTLB_UPDATE
    )
    old = vhost_types.vhost_msg(type=vhost_types.VHOST_IOTLB_MSG)
    old.iotlb = mapping
    new = vhost_types.vhost_msg_v2(type=vhost_types.VHOST_IOTLB_MSG_V2, asid=1)
    new.iotlb = mapping
    assert (len(bytes(old)), len(bytes(new))) == (72, 72)
    assert bytes(old)[8:] == bytes(new)[8:]
    assert (bytes(old)[:8], bytes(new)[:8]) == (b"\1\0\0\0\0\0\0\0", b"\2\0\0\0\1\0\0\0")


def test_legacy_configuration_space_moves_with_msix() -> None:
    """Two registers of vectors before it."""
    assert (virtio_pci.VIRTIO_PCI_CONFIG_OFF(0), virtio_pci.VIRTIO_PCI_CONFIG_OFF(1)) == (20, 24)


def test_transport_features_end_where_the_next_would_begin() -> None:
    """38 until 6.0, 41 until 6.7."""
    assert virtio_config.VIRTIO_TRANSPORT_F_END == virtio_config.VIRTIO_F_ADMIN_VQ + 1


def test_transitional_ids_are_hexadecimal() -> None:
    """Linux 5.14 to 5.17 had them without the 0x."""
    assert virtio_ids.VIRTIO_TRANS_ID_9P == 0x1009
