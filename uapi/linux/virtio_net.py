"""
``linux/virtio_net.h``: network devices (virtio id 1), as in Linux 7.3.

Fields are little-endian in modern devices, in the guest's byte order in legacy ones: what is read here is the host's.
"""

from __future__ import annotations

from collections.abc import MutableSequence
from typing import Annotated, Final

from pykernel.uapi.struct import (
    ZERO,
    Name,
    Struct,
    anon_struct,
    anon_union,
    le16,
    le32,
    le64,
    u8,
    virtio16,
    virtio32,
)

# Numbers of feature bits
VIRTIO_NET_F_CSUM: Final = 0
VIRTIO_NET_F_GUEST_CSUM: Final = 1
VIRTIO_NET_F_CTRL_GUEST_OFFLOADS: Final = 2
VIRTIO_NET_F_MTU: Final = 3
VIRTIO_NET_F_MAC: Final = 5
VIRTIO_NET_F_GUEST_TSO4: Final = 7
VIRTIO_NET_F_GUEST_TSO6: Final = 8
VIRTIO_NET_F_GUEST_ECN: Final = 9
VIRTIO_NET_F_GUEST_UFO: Final = 10
VIRTIO_NET_F_HOST_TSO4: Final = 11
VIRTIO_NET_F_HOST_TSO6: Final = 12
VIRTIO_NET_F_HOST_ECN: Final = 13
VIRTIO_NET_F_HOST_UFO: Final = 14
VIRTIO_NET_F_MRG_RXBUF: Final = 15
VIRTIO_NET_F_STATUS: Final = 16
VIRTIO_NET_F_CTRL_VQ: Final = 17
VIRTIO_NET_F_CTRL_RX: Final = 18
VIRTIO_NET_F_CTRL_VLAN: Final = 19
VIRTIO_NET_F_CTRL_RX_EXTRA: Final = 20
VIRTIO_NET_F_GUEST_ANNOUNCE: Final = 21
VIRTIO_NET_F_MQ: Final = 22
VIRTIO_NET_F_CTRL_MAC_ADDR: Final = 23
VIRTIO_NET_F_DEVICE_STATS: Final = 50
VIRTIO_NET_F_VQ_NOTF_COAL: Final = 52
VIRTIO_NET_F_NOTF_COAL: Final = 53
VIRTIO_NET_F_GUEST_USO4: Final = 54
VIRTIO_NET_F_GUEST_USO6: Final = 55
VIRTIO_NET_F_HOST_USO: Final = 56
VIRTIO_NET_F_HASH_REPORT: Final = 57
VIRTIO_NET_F_GUEST_HDRLEN: Final = 59
VIRTIO_NET_F_RSS: Final = 60
VIRTIO_NET_F_RSC_EXT: Final = 61
VIRTIO_NET_F_STANDBY: Final = 62
VIRTIO_NET_F_SPEED_DUPLEX: Final = 63
VIRTIO_NET_F_GUEST_UDP_TUNNEL_GSO: Final = 65
VIRTIO_NET_F_GUEST_UDP_TUNNEL_GSO_CSUM: Final = 66
VIRTIO_NET_F_HOST_UDP_TUNNEL_GSO: Final = 67
VIRTIO_NET_F_HOST_UDP_TUNNEL_GSO_CSUM: Final = 68

# What the features beyond bit 63 are in VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET: numbers of bits
VIRTIO_NET_F_GUEST_UDP_TUNNEL_GSO_MAPPED: Final = 46
VIRTIO_NET_F_GUEST_UDP_TUNNEL_GSO_CSUM_MAPPED: Final = 47

VIRTIO_NET_F_GSO: Final = 6  # legacy devices only

# virtio_net_config.status
VIRTIO_NET_S_LINK_UP: Final = 1
VIRTIO_NET_S_ANNOUNCE: Final = 2

# virtio_net_config.supported_hash_types
VIRTIO_NET_RSS_HASH_TYPE_IPv4: Final = 1 << 0
VIRTIO_NET_RSS_HASH_TYPE_TCPv4: Final = 1 << 1
VIRTIO_NET_RSS_HASH_TYPE_UDPv4: Final = 1 << 2
VIRTIO_NET_RSS_HASH_TYPE_IPv6: Final = 1 << 3
VIRTIO_NET_RSS_HASH_TYPE_TCPv6: Final = 1 << 4
VIRTIO_NET_RSS_HASH_TYPE_UDPv6: Final = 1 << 5
VIRTIO_NET_RSS_HASH_TYPE_IP_EX: Final = 1 << 6
VIRTIO_NET_RSS_HASH_TYPE_TCP_EX: Final = 1 << 7
VIRTIO_NET_RSS_HASH_TYPE_UDP_EX: Final = 1 << 8


class virtio_net_config(Struct, packed=True):
    """``struct virtio_net_config``: configuration space; ``speed`` in Mb/s."""

    mac: Annotated[bytes, u8, 6] = b""
    status: virtio16 = 0
    max_virtqueue_pairs: virtio16 = 0
    mtu: virtio16 = 0
    speed: le32 = 0
    duplex: u8 = 0
    rss_max_key_size: u8 = 0
    rss_max_indirection_table_length: le16 = 0
    supported_hash_types: le32 = 0


# virtio_net_hdr_v1.flags
VIRTIO_NET_HDR_F_NEEDS_CSUM: Final = 1
VIRTIO_NET_HDR_F_DATA_VALID: Final = 2
VIRTIO_NET_HDR_F_RSC_INFO: Final = 4
VIRTIO_NET_HDR_F_UDP_TUNNEL_CSUM: Final = 8

# virtio_net_hdr_v1.gso_type
VIRTIO_NET_HDR_GSO_NONE: Final = 0
VIRTIO_NET_HDR_GSO_TCPV4: Final = 1
VIRTIO_NET_HDR_GSO_UDP: Final = 3
VIRTIO_NET_HDR_GSO_TCPV6: Final = 4
VIRTIO_NET_HDR_GSO_UDP_L4: Final = 5
VIRTIO_NET_HDR_GSO_UDP_TUNNEL_IPV4: Final = 0x20
VIRTIO_NET_HDR_GSO_UDP_TUNNEL_IPV6: Final = 0x40
VIRTIO_NET_HDR_GSO_ECN: Final = 0x80
VIRTIO_NET_HDR_GSO_UDP_TUNNEL: Final = VIRTIO_NET_HDR_GSO_UDP_TUNNEL_IPV4 | VIRTIO_NET_HDR_GSO_UDP_TUNNEL_IPV6


class virtio_net_hdr_v1_csum(Struct, ctype="__typeof__(((struct virtio_net_hdr_v1 *)0)->csum)"):
    """``virtio_net_hdr_v1.csum``: from where to sum, and where to put the sum, counted from there."""

    start: virtio16 = 0
    offset: virtio16 = 0


class virtio_net_hdr_v1_rsc(Struct, ctype="__typeof__(((struct virtio_net_hdr_v1 *)0)->rsc)"):
    """``virtio_net_hdr_v1.rsc``: what the device merged into one packet."""

    segments: le16 = 0
    dup_acks: le16 = 0


class virtio_net_hdr_v1(Struct):
    """``struct virtio_net_hdr_v1``: what a packet of a modern device begins with."""

    flags: u8 = 0
    gso_type: u8 = 0
    hdr_len: virtio16 = 0
    gso_size: virtio16 = 0
    _sum = anon_union(until="rsc")
    _flat = anon_struct(until="csum_offset")
    csum_start: virtio16 = 0
    csum_offset: virtio16 = 0
    csum: virtio_net_hdr_v1_csum = ZERO
    rsc: virtio_net_hdr_v1_rsc = ZERO
    num_buffers: virtio16 = 0


class virtio_net_hdr_v1_hash(Struct):
    """``struct virtio_net_hdr_v1_hash``: with the hash of the packet; before Linux 6.18 aligned to 4 bytes."""

    hdr: virtio_net_hdr_v1 = ZERO
    hash_value_lo: le16 = 0
    hash_value_hi: le16 = 0
    hash_report: le16 = 0
    padding: le16 = 0

    @property
    def hash_value(self) -> int:
        """Both halves: the field of this name before Linux 6.18."""
        return self.hash_value_hi << 16 | self.hash_value_lo


# virtio_net_hdr_v1_hash.hash_report
VIRTIO_NET_HASH_REPORT_NONE: Final = 0
VIRTIO_NET_HASH_REPORT_IPv4: Final = 1
VIRTIO_NET_HASH_REPORT_TCPv4: Final = 2
VIRTIO_NET_HASH_REPORT_UDPv4: Final = 3
VIRTIO_NET_HASH_REPORT_IPv6: Final = 4
VIRTIO_NET_HASH_REPORT_TCPv6: Final = 5
VIRTIO_NET_HASH_REPORT_UDPv6: Final = 6
VIRTIO_NET_HASH_REPORT_IPv6_EX: Final = 7
VIRTIO_NET_HASH_REPORT_TCPv6_EX: Final = 8
VIRTIO_NET_HASH_REPORT_UDPv6_EX: Final = 9


class virtio_net_hdr_v1_hash_tunnel(Struct):
    """``struct virtio_net_hdr_v1_hash_tunnel``: with the places of the headers around and in a UDP tunnel."""

    hash_hdr: virtio_net_hdr_v1_hash = ZERO
    outer_th_offset: le16 = 0
    inner_nh_offset: le16 = 0


class virtio_net_hdr(Struct):
    """``struct virtio_net_hdr``: what a packet of a legacy device begins with."""

    flags: u8 = 0
    gso_type: u8 = 0
    hdr_len: virtio16 = 0
    gso_size: virtio16 = 0
    csum_start: virtio16 = 0
    csum_offset: virtio16 = 0


class virtio_net_hdr_mrg_rxbuf(Struct):
    """``struct virtio_net_hdr_mrg_rxbuf``: the same when VIRTIO_NET_F_MRG_RXBUF."""

    hdr: virtio_net_hdr = ZERO
    num_buffers: virtio16 = 0


class virtio_net_ctrl_hdr(Struct, packed=True):
    """``struct virtio_net_ctrl_hdr``: what a command on the control queue begins with; a byte of status ends it."""

    class_: Annotated[u8, Name("class")] = 0
    cmd: u8 = 0


VIRTIO_NET_OK: Final = 0
VIRTIO_NET_ERR: Final = 1

# virtio_net_ctrl_hdr.class, and the commands of each
VIRTIO_NET_CTRL_RX: Final = 0
VIRTIO_NET_CTRL_RX_PROMISC: Final = 0
VIRTIO_NET_CTRL_RX_ALLMULTI: Final = 1
VIRTIO_NET_CTRL_RX_ALLUNI: Final = 2
VIRTIO_NET_CTRL_RX_NOMULTI: Final = 3
VIRTIO_NET_CTRL_RX_NOUNI: Final = 4
VIRTIO_NET_CTRL_RX_NOBCAST: Final = 5


class virtio_net_ctrl_mac(Struct, packed=True):
    """``struct virtio_net_ctrl_mac``: half of VIRTIO_NET_CTRL_MAC_TABLE_SET; 6 bytes an entry, one after the other."""

    entries: virtio32 = 0
    macs: Annotated[bytes, u8, ..., 6] = b""


VIRTIO_NET_CTRL_MAC: Final = 1
VIRTIO_NET_CTRL_MAC_TABLE_SET: Final = 0
VIRTIO_NET_CTRL_MAC_ADDR_SET: Final = 1

VIRTIO_NET_CTRL_VLAN: Final = 2
VIRTIO_NET_CTRL_VLAN_ADD: Final = 0
VIRTIO_NET_CTRL_VLAN_DEL: Final = 1

VIRTIO_NET_CTRL_ANNOUNCE: Final = 3
VIRTIO_NET_CTRL_ANNOUNCE_ACK: Final = 0

VIRTIO_NET_CTRL_MQ: Final = 4


class virtio_net_ctrl_mq(Struct):
    """``struct virtio_net_ctrl_mq``: VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET."""

    virtqueue_pairs: virtio16 = 0


VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET: Final = 0
VIRTIO_NET_CTRL_MQ_VQ_PAIRS_MIN: Final = 1
VIRTIO_NET_CTRL_MQ_VQ_PAIRS_MAX: Final = 0x8000


class virtio_net_rss_config(Struct):
    """
    ``struct virtio_net_rss_config``: VIRTIO_NET_CTRL_MQ_RSS_CONFIG with a table of one entry.

    With a longer table the rest moves: that takes ``virtio_net_rss_config_hdr`` and ``virtio_net_rss_config_trailer``.
    """

    hash_types: le32 = 0
    indirection_table_mask: le16 = 0
    unclassified_queue: le16 = 0
    indirection_table: Annotated[MutableSequence[int], le16, 1] = ZERO
    max_tx_vq: le16 = 0
    hash_key_length: u8 = 0
    hash_key_data: Annotated[bytes, u8, ...] = b""


class virtio_net_rss_config_hdr(Struct):
    """``struct virtio_net_rss_config_hdr``: VIRTIO_NET_CTRL_MQ_RSS_CONFIG up to its table."""

    hash_types: le32 = 0
    indirection_table_mask: le16 = 0
    unclassified_queue: le16 = 0
    indirection_table: Annotated[MutableSequence[int], le16, ...] = ZERO


class virtio_net_rss_config_trailer(Struct):
    """``struct virtio_net_rss_config_trailer``: VIRTIO_NET_CTRL_MQ_RSS_CONFIG behind its table."""

    max_tx_vq: le16 = 0
    hash_key_length: u8 = 0
    hash_key_data: Annotated[bytes, u8, ...] = b""


VIRTIO_NET_CTRL_MQ_RSS_CONFIG: Final = 1


class virtio_net_hash_config(Struct):
    """``struct virtio_net_hash_config``: VIRTIO_NET_CTRL_MQ_HASH_CONFIG."""

    hash_types: le32 = 0
    reserved: Annotated[MutableSequence[int], le16, 4] = ZERO
    hash_key_length: u8 = 0
    hash_key_data: Annotated[bytes, u8, ...] = b""


VIRTIO_NET_CTRL_MQ_HASH_CONFIG: Final = 2

VIRTIO_NET_CTRL_GUEST_OFFLOADS: Final = 5
VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET: Final = 0

VIRTIO_NET_CTRL_NOTF_COAL: Final = 6


class virtio_net_ctrl_coal_tx(Struct):
    """``struct virtio_net_ctrl_coal_tx``: VIRTIO_NET_CTRL_NOTF_COAL_TX_SET; time in microseconds."""

    tx_max_packets: le32 = 0
    tx_usecs: le32 = 0


VIRTIO_NET_CTRL_NOTF_COAL_TX_SET: Final = 0


class virtio_net_ctrl_coal_rx(Struct):
    """``struct virtio_net_ctrl_coal_rx``: VIRTIO_NET_CTRL_NOTF_COAL_RX_SET; time in microseconds."""

    rx_max_packets: le32 = 0
    rx_usecs: le32 = 0


VIRTIO_NET_CTRL_NOTF_COAL_RX_SET: Final = 1
VIRTIO_NET_CTRL_NOTF_COAL_VQ_SET: Final = 2
VIRTIO_NET_CTRL_NOTF_COAL_VQ_GET: Final = 3


class virtio_net_ctrl_coal(Struct):
    """``struct virtio_net_ctrl_coal``: how long notifications of a queue may wait; time in microseconds."""

    max_packets: le32 = 0
    max_usecs: le32 = 0


class virtio_net_ctrl_coal_vq(Struct):
    """``struct virtio_net_ctrl_coal_vq``: VIRTIO_NET_CTRL_NOTF_COAL_VQ_SET and ..._GET."""

    vqn: le16 = 0
    reserved: le16 = 0
    coal: virtio_net_ctrl_coal = ZERO


VIRTIO_NET_CTRL_STATS: Final = 8
VIRTIO_NET_CTRL_STATS_QUERY: Final = 0
VIRTIO_NET_CTRL_STATS_GET: Final = 1


class virtio_net_stats_capabilities(Struct):
    """``struct virtio_net_stats_capabilities``: the answer to VIRTIO_NET_CTRL_STATS_QUERY."""

    supported_stats_types: Annotated[MutableSequence[int], le64, 1] = ZERO


# Bits of virtio_net_stats_capabilities.supported_stats_types
VIRTIO_NET_STATS_TYPE_CVQ: Final = 1 << 32
VIRTIO_NET_STATS_TYPE_RX_BASIC: Final = 1 << 0
VIRTIO_NET_STATS_TYPE_RX_CSUM: Final = 1 << 1
VIRTIO_NET_STATS_TYPE_RX_GSO: Final = 1 << 2
VIRTIO_NET_STATS_TYPE_RX_SPEED: Final = 1 << 3
VIRTIO_NET_STATS_TYPE_TX_BASIC: Final = 1 << 16
VIRTIO_NET_STATS_TYPE_TX_CSUM: Final = 1 << 17
VIRTIO_NET_STATS_TYPE_TX_GSO: Final = 1 << 18
VIRTIO_NET_STATS_TYPE_TX_SPEED: Final = 1 << 19


class virtio_net_ctrl_queue_stats_stats(
    Struct, ctype="__typeof__(((struct virtio_net_ctrl_queue_stats *)0)->stats[0])"
):
    """``virtio_net_ctrl_queue_stats.stats``: what is asked of one queue."""

    vq_index: le16 = 0
    reserved: Annotated[MutableSequence[int], le16, 3] = ZERO
    types_bitmap: Annotated[MutableSequence[int], le64, 1] = ZERO


class virtio_net_ctrl_queue_stats(Struct):
    """``struct virtio_net_ctrl_queue_stats``: VIRTIO_NET_CTRL_STATS_GET."""

    stats: Annotated[MutableSequence[virtio_net_ctrl_queue_stats_stats], virtio_net_ctrl_queue_stats_stats, 1] = ZERO


# virtio_net_stats_reply_hdr.type
VIRTIO_NET_STATS_TYPE_REPLY_CVQ: Final = 32
VIRTIO_NET_STATS_TYPE_REPLY_RX_BASIC: Final = 0
VIRTIO_NET_STATS_TYPE_REPLY_RX_CSUM: Final = 1
VIRTIO_NET_STATS_TYPE_REPLY_RX_GSO: Final = 2
VIRTIO_NET_STATS_TYPE_REPLY_RX_SPEED: Final = 3
VIRTIO_NET_STATS_TYPE_REPLY_TX_BASIC: Final = 16
VIRTIO_NET_STATS_TYPE_REPLY_TX_CSUM: Final = 17
VIRTIO_NET_STATS_TYPE_REPLY_TX_GSO: Final = 18
VIRTIO_NET_STATS_TYPE_REPLY_TX_SPEED: Final = 19


class virtio_net_stats_reply_hdr(Struct):
    """``struct virtio_net_stats_reply_hdr``: what each piece of the answer to VIRTIO_NET_CTRL_STATS_GET begins with."""

    type: u8 = 0
    reserved: u8 = 0
    vq_index: le16 = 0
    reserved1: le16 = 0
    size: le16 = 0


class virtio_net_stats_cvq(Struct):
    """``struct virtio_net_stats_cvq``: counts of the control queue."""

    hdr: virtio_net_stats_reply_hdr = ZERO
    command_num: le64 = 0
    ok_num: le64 = 0


class virtio_net_stats_rx_basic(Struct):
    """``struct virtio_net_stats_rx_basic``: counts of a receive queue."""

    hdr: virtio_net_stats_reply_hdr = ZERO
    rx_notifications: le64 = 0
    rx_packets: le64 = 0
    rx_bytes: le64 = 0
    rx_interrupts: le64 = 0
    rx_drops: le64 = 0
    rx_drop_overruns: le64 = 0


class virtio_net_stats_tx_basic(Struct):
    """``struct virtio_net_stats_tx_basic``: counts of a transmit queue."""

    hdr: virtio_net_stats_reply_hdr = ZERO
    tx_notifications: le64 = 0
    tx_packets: le64 = 0
    tx_bytes: le64 = 0
    tx_interrupts: le64 = 0
    tx_drops: le64 = 0
    tx_drop_malformed: le64 = 0


class virtio_net_stats_rx_csum(Struct):
    """``struct virtio_net_stats_rx_csum``: counts of checksums of received packets."""

    hdr: virtio_net_stats_reply_hdr = ZERO
    rx_csum_valid: le64 = 0
    rx_needs_csum: le64 = 0
    rx_csum_none: le64 = 0
    rx_csum_bad: le64 = 0


class virtio_net_stats_tx_csum(Struct):
    """``struct virtio_net_stats_tx_csum``: counts of checksums of packets to send."""

    hdr: virtio_net_stats_reply_hdr = ZERO
    tx_csum_none: le64 = 0
    tx_needs_csum: le64 = 0


class virtio_net_stats_rx_gso(Struct):
    """``struct virtio_net_stats_rx_gso``: counts of large received packets."""

    hdr: virtio_net_stats_reply_hdr = ZERO
    rx_gso_packets: le64 = 0
    rx_gso_bytes: le64 = 0
    rx_gso_packets_coalesced: le64 = 0
    rx_gso_bytes_coalesced: le64 = 0


class virtio_net_stats_tx_gso(Struct):
    """``struct virtio_net_stats_tx_gso``: counts of large packets to send."""

    hdr: virtio_net_stats_reply_hdr = ZERO
    tx_gso_packets: le64 = 0
    tx_gso_bytes: le64 = 0
    tx_gso_segments: le64 = 0
    tx_gso_segments_bytes: le64 = 0
    tx_gso_packets_noseg: le64 = 0
    tx_gso_bytes_noseg: le64 = 0


class virtio_net_stats_rx_speed(Struct):
    """``struct virtio_net_stats_rx_speed``: counts of received packets over the rate limit."""

    hdr: virtio_net_stats_reply_hdr = ZERO
    rx_ratelimit_packets: le64 = 0
    rx_ratelimit_bytes: le64 = 0


class virtio_net_stats_tx_speed(Struct):
    """``struct virtio_net_stats_tx_speed``: counts of packets to send over the rate limit."""

    hdr: virtio_net_stats_reply_hdr = ZERO
    tx_ratelimit_packets: le64 = 0
    tx_ratelimit_bytes: le64 = 0


NEWER: Final = {
    "virtio_net_config.max_virtqueue_pairs": "3.8",
    "virtio_net_config.mtu": "4.8",
    "virtio_net_config.speed": "4.16",
    "virtio_net_config.duplex": "4.16",
    "virtio_net_config.rss_max_key_size": "5.7",
    "virtio_net_config.rss_max_indirection_table_length": "5.7",
    "virtio_net_config.supported_hash_types": "5.7",
    "VIRTIO_NET_F_HASH_REPORT": "5.7",
    "VIRTIO_NET_F_RSS": "5.7",
    "VIRTIO_NET_F_RSC_EXT": "5.7",
    "VIRTIO_NET_HDR_F_RSC_INFO": "5.7",
    "VIRTIO_NET_HASH_REPORT_NONE": "5.7",
    "VIRTIO_NET_HASH_REPORT_IPv4": "5.7",
    "VIRTIO_NET_HASH_REPORT_TCPv4": "5.7",
    "VIRTIO_NET_HASH_REPORT_UDPv4": "5.7",
    "VIRTIO_NET_HASH_REPORT_IPv6": "5.7",
    "VIRTIO_NET_HASH_REPORT_TCPv6": "5.7",
    "VIRTIO_NET_HASH_REPORT_UDPv6": "5.7",
    "VIRTIO_NET_HASH_REPORT_IPv6_EX": "5.7",
    "VIRTIO_NET_HASH_REPORT_TCPv6_EX": "5.7",
    "VIRTIO_NET_HASH_REPORT_UDPv6_EX": "5.7",
    "VIRTIO_NET_CTRL_MQ_RSS_CONFIG": "5.7",
    "VIRTIO_NET_CTRL_MQ_HASH_CONFIG": "5.7",
    "VIRTIO_NET_RSS_HASH_TYPE_IPv4": "5.7",
    "VIRTIO_NET_RSS_HASH_TYPE_TCPv4": "5.7",
    "VIRTIO_NET_RSS_HASH_TYPE_UDPv4": "5.7",
    "VIRTIO_NET_RSS_HASH_TYPE_IPv6": "5.7",
    "VIRTIO_NET_RSS_HASH_TYPE_TCPv6": "5.7",
    "VIRTIO_NET_RSS_HASH_TYPE_UDPv6": "5.7",
    "VIRTIO_NET_RSS_HASH_TYPE_IP_EX": "5.7",
    "VIRTIO_NET_RSS_HASH_TYPE_TCP_EX": "5.7",
    "VIRTIO_NET_RSS_HASH_TYPE_UDP_EX": "5.7",
    "virtio_net_hdr_v1.csum": "5.7",
    "virtio_net_hdr_v1_csum": "5.7",
    "virtio_net_hdr_v1.rsc": "5.7",
    "virtio_net_hdr_v1_rsc": "5.7",
    "virtio_net_hdr_v1_hash": "5.7",
    "virtio_net_rss_config": "5.7",
    "virtio_net_hash_config": "5.7",
    "VIRTIO_NET_F_NOTF_COAL": "6.0",
    "VIRTIO_NET_CTRL_NOTF_COAL": "6.0",
    "virtio_net_ctrl_coal_tx": "6.0",
    "VIRTIO_NET_CTRL_NOTF_COAL_TX_SET": "6.0",
    "virtio_net_ctrl_coal_rx": "6.0",
    "VIRTIO_NET_CTRL_NOTF_COAL_RX_SET": "6.0",
    "VIRTIO_NET_F_GUEST_USO4": "6.2",
    "VIRTIO_NET_F_GUEST_USO6": "6.2",
    "VIRTIO_NET_F_HOST_USO": "6.2",
    "VIRTIO_NET_HDR_GSO_UDP_L4": "6.2",
    "VIRTIO_NET_F_GUEST_HDRLEN": "6.4",
    "VIRTIO_NET_F_VQ_NOTF_COAL": "6.6",
    "VIRTIO_NET_CTRL_NOTF_COAL_VQ_SET": "6.6",
    "VIRTIO_NET_CTRL_NOTF_COAL_VQ_GET": "6.6",
    "virtio_net_ctrl_coal": "6.6",
    "virtio_net_ctrl_coal_vq": "6.6",
    "VIRTIO_NET_F_DEVICE_STATS": "6.10",
    "VIRTIO_NET_CTRL_STATS": "6.10",
    "VIRTIO_NET_CTRL_STATS_QUERY": "6.10",
    "VIRTIO_NET_CTRL_STATS_GET": "6.10",
    "VIRTIO_NET_STATS_TYPE_REPLY_CVQ": "6.10",
    "VIRTIO_NET_STATS_TYPE_REPLY_RX_BASIC": "6.10",
    "VIRTIO_NET_STATS_TYPE_REPLY_RX_CSUM": "6.10",
    "VIRTIO_NET_STATS_TYPE_REPLY_RX_GSO": "6.10",
    "VIRTIO_NET_STATS_TYPE_REPLY_RX_SPEED": "6.10",
    "VIRTIO_NET_STATS_TYPE_REPLY_TX_BASIC": "6.10",
    "VIRTIO_NET_STATS_TYPE_REPLY_TX_CSUM": "6.10",
    "VIRTIO_NET_STATS_TYPE_REPLY_TX_GSO": "6.10",
    "VIRTIO_NET_STATS_TYPE_REPLY_TX_SPEED": "6.10",
    "VIRTIO_NET_STATS_TYPE_CVQ": "6.10",
    "VIRTIO_NET_STATS_TYPE_RX_BASIC": "6.10",
    "VIRTIO_NET_STATS_TYPE_RX_CSUM": "6.10",
    "VIRTIO_NET_STATS_TYPE_RX_GSO": "6.10",
    "VIRTIO_NET_STATS_TYPE_RX_SPEED": "6.10",
    "VIRTIO_NET_STATS_TYPE_TX_BASIC": "6.10",
    "VIRTIO_NET_STATS_TYPE_TX_CSUM": "6.10",
    "VIRTIO_NET_STATS_TYPE_TX_GSO": "6.10",
    "VIRTIO_NET_STATS_TYPE_TX_SPEED": "6.10",
    "virtio_net_stats_capabilities": "6.10",
    "virtio_net_ctrl_queue_stats_stats": "6.10",
    "virtio_net_ctrl_queue_stats": "6.10",
    "virtio_net_stats_reply_hdr": "6.10",
    "virtio_net_stats_cvq": "6.10",
    "virtio_net_stats_rx_basic": "6.10",
    "virtio_net_stats_tx_basic": "6.10",
    "virtio_net_stats_rx_csum": "6.10",
    "virtio_net_stats_tx_csum": "6.10",
    "virtio_net_stats_rx_gso": "6.10",
    "virtio_net_stats_tx_gso": "6.10",
    "virtio_net_stats_rx_speed": "6.10",
    "virtio_net_stats_tx_speed": "6.10",
    "virtio_net_rss_config_hdr": "6.15",
    "virtio_net_rss_config_trailer": "6.15",
    "VIRTIO_NET_F_GUEST_UDP_TUNNEL_GSO": "6.17",
    "VIRTIO_NET_F_GUEST_UDP_TUNNEL_GSO_CSUM": "6.17",
    "VIRTIO_NET_F_HOST_UDP_TUNNEL_GSO": "6.17",
    "VIRTIO_NET_F_HOST_UDP_TUNNEL_GSO_CSUM": "6.17",
    "VIRTIO_NET_F_GUEST_UDP_TUNNEL_GSO_MAPPED": "6.17",
    "VIRTIO_NET_F_GUEST_UDP_TUNNEL_GSO_CSUM_MAPPED": "6.17",
    "VIRTIO_NET_HDR_F_UDP_TUNNEL_CSUM": "6.17",
    "VIRTIO_NET_HDR_GSO_UDP_TUNNEL_IPV4": "6.17",
    "VIRTIO_NET_HDR_GSO_UDP_TUNNEL_IPV6": "6.17",
    "VIRTIO_NET_HDR_GSO_UDP_TUNNEL": "6.17",
    "virtio_net_hdr_v1_hash_tunnel": "6.17",
    "virtio_net_hdr_v1_hash.hash_value_lo": "6.18",
    "virtio_net_hdr_v1_hash.hash_value_hi": "6.18",
}

# Names in NEWER that stable versions of older kernels got, too
BACKPORTED: Final = frozenset(
    {
        "virtio_net_rss_config_hdr",
        "virtio_net_rss_config_trailer",
    }
)

CHANGED: Final = {"virtio_net_hdr_v1_hash": "6.18"}  # it was aligned to 4 bytes

OLDER: Final = {"virtio_net_hdr_v1_hash.hash_value": "6.17"}  # two halves since then

IN_C: Final = {"virtio_net_ctrl_ack": "typedef __u8 virtio_net_ctrl_ack;"}  # VIRTIO_NET_OK, VIRTIO_NET_ERR
