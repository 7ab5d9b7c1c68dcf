"""``linux/virtio_config.h``: the status byte and the feature bits that every virtio device has, as in Linux 7.3."""

from __future__ import annotations

from typing import Final

# Device status: the driver's progress, and what the device says to it
VIRTIO_CONFIG_S_ACKNOWLEDGE: Final = 1
VIRTIO_CONFIG_S_DRIVER: Final = 2
VIRTIO_CONFIG_S_DRIVER_OK: Final = 4
VIRTIO_CONFIG_S_FEATURES_OK: Final = 8
VIRTIO_CONFIG_S_NEEDS_RESET: Final = 0x40
VIRTIO_CONFIG_S_FAILED: Final = 0x80

# Feature bits of ring and transport: numbers of bits; the first and the first beyond the last
VIRTIO_TRANSPORT_F_START: Final = 28
VIRTIO_TRANSPORT_F_END: Final = 42

# Legacy devices only
VIRTIO_F_NOTIFY_ON_EMPTY: Final = 24
VIRTIO_F_ANY_LAYOUT: Final = 27

VIRTIO_F_VERSION_1: Final = 32
VIRTIO_F_ACCESS_PLATFORM: Final = 33
VIRTIO_F_IOMMU_PLATFORM: Final = VIRTIO_F_ACCESS_PLATFORM
VIRTIO_F_RING_PACKED: Final = 34
VIRTIO_F_IN_ORDER: Final = 35
VIRTIO_F_ORDER_PLATFORM: Final = 36
VIRTIO_F_SR_IOV: Final = 37
VIRTIO_F_NOTIFICATION_DATA: Final = 38
VIRTIO_F_NOTIF_CONFIG_DATA: Final = 39
VIRTIO_F_RING_RESET: Final = 40
VIRTIO_F_ADMIN_VQ: Final = 41

NEWER: Final = {
    "VIRTIO_F_RING_PACKED": "5.0",
    "VIRTIO_F_ORDER_PLATFORM": "5.0",
    "VIRTIO_F_ACCESS_PLATFORM": "5.9",
    "VIRTIO_F_IN_ORDER": "5.18",
    "VIRTIO_F_RING_RESET": "6.0",
    "VIRTIO_F_NOTIFICATION_DATA": "6.4",
    "VIRTIO_F_NOTIF_CONFIG_DATA": "6.7",
    "VIRTIO_F_ADMIN_VQ": "6.8",
}

CHANGED: Final = {"VIRTIO_TRANSPORT_F_END": "6.8"}  # it was 38, and 41 since 6.1
