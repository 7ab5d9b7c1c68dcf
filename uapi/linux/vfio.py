"""
``linux/vfio.h``: containers, groups and devices of VFIO, as in Linux 7.3.

All ioctls are ``_IO()`` numbers, which carry no size: the struct starts with ``argsz``, and *minsz* names the last
field that the kernel must be given. ``NEWER`` says which names came when, ``OLDER`` which ones are gone.
"""

from __future__ import annotations

from collections.abc import MutableSequence
from enum import IntEnum
from typing import Annotated, Final

from pykernel.uapi.ioctl import _IO
from pykernel.uapi.struct import ZERO, CType, Name, Struct, aligned_u64, anon_union, s32, u8, u16, u32, u64

VFIO_API_VERSION: Final = 0

# VFIO_CHECK_EXTENSION and VFIO_SET_IOMMU
VFIO_TYPE1_IOMMU: Final = 1
VFIO_SPAPR_TCE_IOMMU: Final = 2
VFIO_TYPE1v2_IOMMU: Final = 3
VFIO_DMA_CC_IOMMU: Final = 4
VFIO_EEH: Final = 5
VFIO_TYPE1_NESTING_IOMMU: Final = 6
__VFIO_RESERVED_TYPE1_NESTING_IOMMU: Final = 6
VFIO_SPAPR_TCE_v2_IOMMU: Final = 7
VFIO_NOIOMMU_IOMMU: Final = 8
VFIO_UNMAP_ALL: Final = 9
VFIO_UPDATE_VADDR: Final = 10
VFIO_TYPE: Final = ord(";")
VFIO_BASE: Final = 100


class vfio_info_cap_header(Struct):
    """Heads each capability in the chain behind an INFO ioctl's struct; ``next`` counts from the struct's start."""

    id: u16 = 0
    version: u16 = 0
    next: u32 = 0


# ioctls of the container; those without a struct here take a number; VFIO_GROUP_GET_DEVICE_FD takes a string
VFIO_GET_API_VERSION: Final = _IO(VFIO_TYPE, VFIO_BASE + 0)
VFIO_CHECK_EXTENSION: Final = _IO(VFIO_TYPE, VFIO_BASE + 1)
VFIO_SET_IOMMU: Final = _IO(VFIO_TYPE, VFIO_BASE + 2)


# ioctls of a group
VFIO_GROUP_FLAGS_VIABLE: Final = 1 << 0
VFIO_GROUP_FLAGS_CONTAINER_SET: Final = 1 << 1


class vfio_group_status(Struct):
    """``VFIO_GROUP_GET_STATUS``: may the group be used, and is it in a container?"""

    argsz: u32 = 0
    flags: u32 = 0


VFIO_GROUP_GET_STATUS: Final = _IO(VFIO_TYPE, VFIO_BASE + 3, vfio_group_status, minsz="flags")
VFIO_GROUP_SET_CONTAINER: Final = _IO(VFIO_TYPE, VFIO_BASE + 4, "__s32")
VFIO_GROUP_UNSET_CONTAINER: Final = _IO(VFIO_TYPE, VFIO_BASE + 5)
VFIO_GROUP_GET_DEVICE_FD: Final = _IO(VFIO_TYPE, VFIO_BASE + 6)


# ioctls of a device. Their numbers overlap with those of the container.
VFIO_DEVICE_FLAGS_RESET: Final = 1 << 0
VFIO_DEVICE_FLAGS_PCI: Final = 1 << 1
VFIO_DEVICE_FLAGS_PLATFORM: Final = 1 << 2
VFIO_DEVICE_FLAGS_AMBA: Final = 1 << 3
VFIO_DEVICE_FLAGS_CCW: Final = 1 << 4
VFIO_DEVICE_FLAGS_AP: Final = 1 << 5
VFIO_DEVICE_FLAGS_FSL_MC: Final = 1 << 6
VFIO_DEVICE_FLAGS_CAPS: Final = 1 << 7
VFIO_DEVICE_FLAGS_CDX: Final = 1 << 8


class vfio_device_info(Struct):
    """``VFIO_DEVICE_GET_INFO``: the kind of device, how many regions and interrupt indexes."""

    argsz: u32 = 0
    flags: u32 = 0
    num_regions: u32 = 0
    num_irqs: u32 = 0
    cap_offset: u32 = 0
    pad: u32 = 0


VFIO_DEVICE_GET_INFO: Final = _IO(VFIO_TYPE, VFIO_BASE + 7, vfio_device_info, minsz="num_irqs")

# The device_api that an mdev type shows
VFIO_DEVICE_API_PCI_STRING: Final = "vfio-pci"
VFIO_DEVICE_API_PLATFORM_STRING: Final = "vfio-platform"
VFIO_DEVICE_API_AMBA_STRING: Final = "vfio-amba"
VFIO_DEVICE_API_CCW_STRING: Final = "vfio-ccw"
VFIO_DEVICE_API_AP_STRING: Final = "vfio-ap"

# Capabilities of vfio_device_info
VFIO_DEVICE_INFO_CAP_ZPCI_BASE: Final = 1
VFIO_DEVICE_INFO_CAP_ZPCI_GROUP: Final = 2
VFIO_DEVICE_INFO_CAP_ZPCI_UTIL: Final = 3
VFIO_DEVICE_INFO_CAP_ZPCI_PFIP: Final = 4
VFIO_DEVICE_INFO_CAP_PCI_ATOMIC_COMP: Final = 5

VFIO_PCI_ATOMIC_COMP32: Final = 1 << 0
VFIO_PCI_ATOMIC_COMP64: Final = 1 << 1
VFIO_PCI_ATOMIC_COMP128: Final = 1 << 2


class vfio_device_info_cap_pci_atomic_comp(Struct):
    """Capability 5 of ``vfio_device_info``: widths of AtomicOps that the root port completes."""

    header: vfio_info_cap_header = ZERO
    flags: u32 = 0
    reserved: u32 = 0


VFIO_REGION_INFO_FLAG_READ: Final = 1 << 0
VFIO_REGION_INFO_FLAG_WRITE: Final = 1 << 1
VFIO_REGION_INFO_FLAG_MMAP: Final = 1 << 2
VFIO_REGION_INFO_FLAG_CAPS: Final = 1 << 3


class vfio_region_info(Struct):
    """``VFIO_DEVICE_GET_REGION_INFO``: size and place of region ``index`` in the device's file."""

    argsz: u32 = 0
    flags: u32 = 0
    index: u32 = 0
    cap_offset: u32 = 0
    size: aligned_u64 = 0
    offset: aligned_u64 = 0


VFIO_DEVICE_GET_REGION_INFO: Final = _IO(VFIO_TYPE, VFIO_BASE + 8, vfio_region_info, minsz="offset")

# Capabilities of vfio_region_info
VFIO_REGION_INFO_CAP_SPARSE_MMAP: Final = 1


class vfio_region_sparse_mmap_area(Struct):
    """One part of a region that mmap() may reach."""

    offset: aligned_u64 = 0
    size: aligned_u64 = 0


class vfio_region_info_cap_sparse_mmap(Struct):
    """Capability 1 of ``vfio_region_info``: the parts that mmap() may reach."""

    header: vfio_info_cap_header = ZERO
    nr_areas: u32 = 0
    reserved: u32 = 0
    areas: Annotated[MutableSequence[vfio_region_sparse_mmap_area], vfio_region_sparse_mmap_area, ...] = ZERO


VFIO_REGION_INFO_CAP_TYPE: Final = 2


class vfio_region_info_cap_type(Struct):
    """Capability 2 of ``vfio_region_info``: what a device specific region is."""

    header: vfio_info_cap_header = ZERO
    type: u32 = 0
    subtype: u32 = 0


# vfio_region_info_cap_type.type and .subtype
# An int in C, so negative; the u32 field holds it & 0xFFFFFFFF
VFIO_REGION_TYPE_PCI_VENDOR_TYPE: Final = -(1 << 31)
VFIO_REGION_TYPE_PCI_VENDOR_MASK: Final = 0xFFFF
VFIO_REGION_TYPE_GFX: Final = 1
VFIO_REGION_TYPE_CCW: Final = 2
VFIO_REGION_TYPE_MIGRATION_DEPRECATED: Final = 3
VFIO_REGION_TYPE_MIGRATION: Final = 3

# Subtypes of PCI vendor 0x8086
VFIO_REGION_SUBTYPE_INTEL_IGD_OPREGION: Final = 1
VFIO_REGION_SUBTYPE_INTEL_IGD_HOST_CFG: Final = 2
VFIO_REGION_SUBTYPE_INTEL_IGD_LPC_CFG: Final = 3

# Subtypes of PCI vendors 0x10de and 0x1014
VFIO_REGION_SUBTYPE_NVIDIA_NVLINK2_RAM: Final = 1
VFIO_REGION_SUBTYPE_IBM_NVLINK2_ATSD: Final = 1

# Subtypes of VFIO_REGION_TYPE_GFX
VFIO_REGION_SUBTYPE_GFX_EDID: Final = 1

VFIO_DEVICE_GFX_LINK_STATE_UP: Final = 1
VFIO_DEVICE_GFX_LINK_STATE_DOWN: Final = 2


class vfio_region_gfx_edid(Struct):
    """The head of the region where user space gives a virtual display its EDID."""

    edid_offset: u32 = 0
    edid_max_size: u32 = 0
    edid_size: u32 = 0
    max_xres: u32 = 0
    max_yres: u32 = 0
    link_state: u32 = 0


# Subtypes of VFIO_REGION_TYPE_CCW
VFIO_REGION_SUBTYPE_CCW_ASYNC_CMD: Final = 1
VFIO_REGION_SUBTYPE_CCW_SCHIB: Final = 2
VFIO_REGION_SUBTYPE_CCW_CRW: Final = 3

# Subtypes of VFIO_REGION_TYPE_MIGRATION
VFIO_REGION_SUBTYPE_MIGRATION_DEPRECATED: Final = 1
VFIO_REGION_SUBTYPE_MIGRATION: Final = 1


# vfio_device_migration_info.device_state; before Linux 5.18 these had no V1 in their names
VFIO_DEVICE_STATE_V1_STOP: Final = 0
VFIO_DEVICE_STATE_V1_RUNNING: Final = 1 << 0
VFIO_DEVICE_STATE_V1_SAVING: Final = 1 << 1
VFIO_DEVICE_STATE_SAVING: Final = 1 << 1
VFIO_DEVICE_STATE_V1_RESUMING: Final = 1 << 2
VFIO_DEVICE_STATE_MASK: Final = (
    VFIO_DEVICE_STATE_V1_RUNNING | VFIO_DEVICE_STATE_V1_SAVING | VFIO_DEVICE_STATE_V1_RESUMING
)


def VFIO_DEVICE_STATE_VALID(state: int) -> int:
    """1 unless RESUMING comes together with another bit."""
    if state & VFIO_DEVICE_STATE_V1_RESUMING:
        return int(state & VFIO_DEVICE_STATE_MASK == VFIO_DEVICE_STATE_V1_RESUMING)
    return 1


def VFIO_DEVICE_STATE_IS_ERROR(state: int) -> int:
    """1 when SAVING and RESUMING are set and RUNNING is not: so a device told of an error."""
    error = VFIO_DEVICE_STATE_V1_SAVING | VFIO_DEVICE_STATE_V1_RESUMING
    return int(state & VFIO_DEVICE_STATE_MASK == error)


def VFIO_DEVICE_STATE_SET_ERROR(state: int) -> int:
    """*state* with the bits that tell of an error, the bits outside the mask kept."""
    return state & ~VFIO_DEVICE_STATE_MASK | VFIO_DEVICE_STATE_V1_SAVING | VFIO_DEVICE_STATE_V1_RESUMING


class vfio_device_migration_info(Struct):
    """The head of the migration region of migration's version 1."""

    device_state: u32 = 0
    reserved: u32 = 0
    pending_bytes: aligned_u64 = 0
    data_offset: aligned_u64 = 0
    data_size: aligned_u64 = 0


VFIO_REGION_INFO_CAP_MSIX_MAPPABLE: Final = 3
VFIO_REGION_INFO_CAP_NVLINK2_SSATGT: Final = 4


class vfio_region_info_cap_nvlink2_ssatgt(Struct):
    """Capability 4 of ``vfio_region_info``: the system address of a GPU's memory; no longer given."""

    header: vfio_info_cap_header = ZERO
    tgt: aligned_u64 = 0


VFIO_REGION_INFO_CAP_NVLINK2_LNKSPD: Final = 5


class vfio_region_info_cap_nvlink2_lnkspd(Struct):
    """Capability 5 of ``vfio_region_info``: an NVLink's speed; no longer given."""

    header: vfio_info_cap_header = ZERO
    link_speed: u32 = 0
    pad: Annotated[u32, Name("__pad")] = 0


VFIO_IRQ_INFO_EVENTFD: Final = 1 << 0
VFIO_IRQ_INFO_MASKABLE: Final = 1 << 1
VFIO_IRQ_INFO_AUTOMASKED: Final = 1 << 2
VFIO_IRQ_INFO_NORESIZE: Final = 1 << 3


class vfio_irq_info(Struct):
    """``VFIO_DEVICE_GET_IRQ_INFO``: what interrupt ``index`` can, and how many it has."""

    argsz: u32 = 0
    flags: u32 = 0
    index: u32 = 0
    count: u32 = 0


VFIO_DEVICE_GET_IRQ_INFO: Final = _IO(VFIO_TYPE, VFIO_BASE + 9, vfio_irq_info, minsz="count")

VFIO_IRQ_SET_DATA_NONE: Final = 1 << 0
VFIO_IRQ_SET_DATA_BOOL: Final = 1 << 1
VFIO_IRQ_SET_DATA_EVENTFD: Final = 1 << 2
VFIO_IRQ_SET_ACTION_MASK: Final = 1 << 3
VFIO_IRQ_SET_ACTION_UNMASK: Final = 1 << 4
VFIO_IRQ_SET_ACTION_TRIGGER: Final = 1 << 5


class vfio_irq_set(Struct):
    """``VFIO_DEVICE_SET_IRQS``: mask, unmask or trigger interrupts, or bind them to eventfds in ``data``."""

    argsz: u32 = 0
    flags: u32 = 0
    index: u32 = 0
    start: u32 = 0
    count: u32 = 0
    data: Annotated[bytes, u8, ...] = b""


VFIO_DEVICE_SET_IRQS: Final = _IO(VFIO_TYPE, VFIO_BASE + 10, vfio_irq_set, minsz="count")

# Exactly one of each of the two kinds
VFIO_IRQ_SET_DATA_TYPE_MASK: Final = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_DATA_BOOL | VFIO_IRQ_SET_DATA_EVENTFD
VFIO_IRQ_SET_ACTION_TYPE_MASK: Final = (
    VFIO_IRQ_SET_ACTION_MASK | VFIO_IRQ_SET_ACTION_UNMASK | VFIO_IRQ_SET_ACTION_TRIGGER
)
VFIO_DEVICE_RESET: Final = _IO(VFIO_TYPE, VFIO_BASE + 11)

# Regions of vfio-pci
VFIO_PCI_BAR0_REGION_INDEX: Final = 0
VFIO_PCI_BAR1_REGION_INDEX: Final = 1
VFIO_PCI_BAR2_REGION_INDEX: Final = 2
VFIO_PCI_BAR3_REGION_INDEX: Final = 3
VFIO_PCI_BAR4_REGION_INDEX: Final = 4
VFIO_PCI_BAR5_REGION_INDEX: Final = 5
VFIO_PCI_ROM_REGION_INDEX: Final = 6
VFIO_PCI_CONFIG_REGION_INDEX: Final = 7
VFIO_PCI_VGA_REGION_INDEX: Final = 8
VFIO_PCI_NUM_REGIONS: Final = 9

# Interrupts of vfio-pci
VFIO_PCI_INTX_IRQ_INDEX: Final = 0
VFIO_PCI_MSI_IRQ_INDEX: Final = 1
VFIO_PCI_MSIX_IRQ_INDEX: Final = 2
VFIO_PCI_ERR_IRQ_INDEX: Final = 3
VFIO_PCI_REQ_IRQ_INDEX: Final = 4
VFIO_PCI_NUM_IRQS: Final = 5

# Regions of vfio-ccw
VFIO_CCW_CONFIG_REGION_INDEX: Final = 0
VFIO_CCW_NUM_REGIONS: Final = 1

# Interrupts of vfio-ccw
VFIO_CCW_IO_IRQ_INDEX: Final = 0
VFIO_CCW_CRW_IRQ_INDEX: Final = 1
VFIO_CCW_REQ_IRQ_INDEX: Final = 2
VFIO_CCW_NUM_IRQS: Final = 3

# Interrupts of vfio-ap
VFIO_AP_REQ_IRQ_INDEX: Final = 0
VFIO_AP_CFG_CHG_IRQ_INDEX: Final = 1
VFIO_AP_NUM_IRQS: Final = 2

VFIO_PCI_DEVID_OWNED: Final = 0
VFIO_PCI_DEVID_NOT_OWNED: Final = -1  # an int in C; the u32 field holds it & 0xFFFFFFFF


class vfio_pci_dependent_device(Struct):
    """A device that a hot reset also hits, by its group or by its iommufd device ID."""

    _union = anon_union(until="devid")
    group_id: u32 = 0
    devid: u32 = 0
    segment: u16 = 0
    bus: u8 = 0
    devfn: u8 = 0


VFIO_PCI_HOT_RESET_FLAG_DEV_ID: Final = 1 << 0
VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED: Final = 1 << 1


class vfio_pci_hot_reset_info(Struct):
    """``VFIO_DEVICE_GET_PCI_HOT_RESET_INFO``: all devices that a hot reset hits."""

    argsz: u32 = 0
    flags: u32 = 0
    count: u32 = 0
    devices: Annotated[MutableSequence[vfio_pci_dependent_device], vfio_pci_dependent_device, ...] = ZERO


VFIO_DEVICE_GET_PCI_HOT_RESET_INFO: Final = _IO(VFIO_TYPE, VFIO_BASE + 12, vfio_pci_hot_reset_info, minsz="count")


class vfio_pci_hot_reset(Struct):
    """``VFIO_DEVICE_PCI_HOT_RESET``: reset, with the groups that prove ownership."""

    argsz: u32 = 0
    flags: u32 = 0
    count: u32 = 0
    group_fds: Annotated[MutableSequence[int], s32, ...] = ZERO


VFIO_DEVICE_PCI_HOT_RESET: Final = _IO(VFIO_TYPE, VFIO_BASE + 13, vfio_pci_hot_reset, minsz="count")

VFIO_GFX_PLANE_TYPE_PROBE: Final = 1 << 0
VFIO_GFX_PLANE_TYPE_DMABUF: Final = 1 << 1
VFIO_GFX_PLANE_TYPE_REGION: Final = 1 << 2


class vfio_device_gfx_plane_info(Struct):
    """``VFIO_DEVICE_QUERY_GFX_PLANE``: format, size and place of a guest's plane."""

    argsz: u32 = 0
    flags: u32 = 0
    drm_plane_type: u32 = 0
    drm_format: u32 = 0
    drm_format_mod: aligned_u64 = 0
    width: u32 = 0
    height: u32 = 0
    stride: u32 = 0
    size: u32 = 0
    x_pos: u32 = 0
    y_pos: u32 = 0
    x_hot: u32 = 0
    y_hot: u32 = 0
    _union = anon_union(until="dmabuf_id")
    region_index: u32 = 0
    dmabuf_id: u32 = 0
    reserved: u32 = 0


VFIO_DEVICE_QUERY_GFX_PLANE: Final = _IO(VFIO_TYPE, VFIO_BASE + 14, vfio_device_gfx_plane_info, minsz="region_index")
VFIO_DEVICE_GET_GFX_DMABUF: Final = _IO(VFIO_TYPE, VFIO_BASE + 15, "__u32")

VFIO_DEVICE_IOEVENTFD_8: Final = 1 << 0
VFIO_DEVICE_IOEVENTFD_16: Final = 1 << 1
VFIO_DEVICE_IOEVENTFD_32: Final = 1 << 2
VFIO_DEVICE_IOEVENTFD_64: Final = 1 << 3
VFIO_DEVICE_IOEVENTFD_SIZE_MASK: Final = 0xF


class vfio_device_ioeventfd(Struct):
    """``VFIO_DEVICE_IOEVENTFD``: the kernel does this write to the device when ``fd`` is signalled."""

    argsz: u32 = 0
    flags: u32 = 0
    offset: aligned_u64 = 0
    data: aligned_u64 = 0
    fd: s32 = 0
    reserved: u32 = 0


VFIO_DEVICE_IOEVENTFD: Final = _IO(VFIO_TYPE, VFIO_BASE + 16, vfio_device_ioeventfd, minsz="fd")

VFIO_DEVICE_FEATURE_MASK: Final = 0xFFFF
VFIO_DEVICE_FEATURE_GET: Final = 1 << 16
VFIO_DEVICE_FEATURE_SET: Final = 1 << 17
VFIO_DEVICE_FEATURE_PROBE: Final = 1 << 18


class vfio_device_feature(Struct):
    """``VFIO_DEVICE_FEATURE``: get, set or probe the feature in the low half of ``flags``."""

    argsz: u32 = 0
    flags: u32 = 0
    data: Annotated[bytes, u8, ...] = b""


VFIO_DEVICE_FEATURE: Final = _IO(VFIO_TYPE, VFIO_BASE + 17, vfio_device_feature, minsz="flags")

VFIO_DEVICE_BIND_FLAG_TOKEN: Final = 1 << 0


class vfio_device_bind_iommufd(Struct):
    """``VFIO_DEVICE_BIND_IOMMUFD``: give a device that was opened as a cdev to an iommufd."""

    argsz: u32 = 0
    flags: u32 = 0
    iommufd: s32 = 0
    out_devid: u32 = 0
    token_uuid_ptr: aligned_u64 = 0


VFIO_DEVICE_BIND_IOMMUFD: Final = _IO(VFIO_TYPE, VFIO_BASE + 18, vfio_device_bind_iommufd, minsz="out_devid")

VFIO_DEVICE_ATTACH_PASID: Final = 1 << 0


class vfio_device_attach_iommufd_pt(Struct):
    """``VFIO_DEVICE_ATTACH_IOMMUFD_PT``: attach the device, or one PASID, to an IOAS or HWPT."""

    argsz: u32 = 0
    flags: u32 = 0
    pt_id: u32 = 0
    pasid: u32 = 0


VFIO_DEVICE_ATTACH_IOMMUFD_PT: Final = _IO(VFIO_TYPE, VFIO_BASE + 19, vfio_device_attach_iommufd_pt, minsz="pt_id")

VFIO_DEVICE_DETACH_PASID: Final = 1 << 0


class vfio_device_detach_iommufd_pt(Struct):
    """``VFIO_DEVICE_DETACH_IOMMUFD_PT``: detach the device, or one PASID."""

    argsz: u32 = 0
    flags: u32 = 0
    pasid: u32 = 0


VFIO_DEVICE_DETACH_IOMMUFD_PT: Final = _IO(VFIO_TYPE, VFIO_BASE + 20, vfio_device_detach_iommufd_pt, minsz="flags")

# Features of VFIO_DEVICE_FEATURE, each with the struct of its data
VFIO_DEVICE_FEATURE_PCI_VF_TOKEN: Final = 0

VFIO_MIGRATION_STOP_COPY: Final = 1 << 0
VFIO_MIGRATION_P2P: Final = 1 << 1
VFIO_MIGRATION_PRE_COPY: Final = 1 << 2


class vfio_device_feature_migration(Struct):
    """``VFIO_DEVICE_FEATURE_MIGRATION``: which migration flows the device has."""

    flags: aligned_u64 = 0


VFIO_DEVICE_FEATURE_MIGRATION: Final = 1


class vfio_device_feature_mig_state(Struct):
    """``VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE``: set or get the state; a transfer comes with ``data_fd``."""

    device_state: u32 = 0
    data_fd: s32 = 0


VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE: Final = 2


class vfio_device_mig_state(IntEnum):
    """The states of ``vfio_device_feature_mig_state.device_state``."""

    VFIO_DEVICE_STATE_ERROR = 0
    VFIO_DEVICE_STATE_STOP = 1
    VFIO_DEVICE_STATE_RUNNING = 2
    VFIO_DEVICE_STATE_STOP_COPY = 3
    VFIO_DEVICE_STATE_RESUMING = 4
    VFIO_DEVICE_STATE_RUNNING_P2P = 5
    VFIO_DEVICE_STATE_PRE_COPY = 6
    VFIO_DEVICE_STATE_PRE_COPY_P2P = 7
    VFIO_DEVICE_STATE_NR = 8


(
    VFIO_DEVICE_STATE_ERROR, VFIO_DEVICE_STATE_STOP, VFIO_DEVICE_STATE_RUNNING, VFIO_DEVICE_STATE_STOP_COPY,
    VFIO_DEVICE_STATE_RESUMING, VFIO_DEVICE_STATE_RUNNING_P2P, VFIO_DEVICE_STATE_PRE_COPY,
    VFIO_DEVICE_STATE_PRE_COPY_P2P, VFIO_DEVICE_STATE_NR,
) = vfio_device_mig_state  # fmt: skip

VFIO_PRECOPY_INFO_REINIT: Final = 1 << 0


class vfio_precopy_info(Struct):
    """``VFIO_MIG_GET_PRECOPY_INFO``: how much is left to read from a migration's ``data_fd``."""

    argsz: u32 = 0
    flags: u32 = 0
    initial_bytes: aligned_u64 = 0
    dirty_bytes: aligned_u64 = 0


VFIO_MIG_GET_PRECOPY_INFO: Final = _IO(VFIO_TYPE, VFIO_BASE + 21, vfio_precopy_info, minsz="dirty_bytes")
VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY: Final = 3


class vfio_device_low_power_entry_with_wakeup(Struct):
    """``VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP``: the eventfd that tells of a wake-up."""

    wakeup_eventfd: s32 = 0
    reserved: u32 = 0


VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP: Final = 4
VFIO_DEVICE_FEATURE_LOW_POWER_EXIT: Final = 5


class vfio_device_feature_dma_logging_control(Struct):
    """``VFIO_DEVICE_FEATURE_DMA_LOGGING_START``: the ranges to watch for DMA writes."""

    page_size: aligned_u64 = 0
    num_ranges: u32 = 0
    reserved: Annotated[u32, Name("__reserved")] = 0
    ranges: aligned_u64 = 0


class vfio_device_feature_dma_logging_range(Struct):
    """One range for ``vfio_device_feature_dma_logging_control.ranges``."""

    iova: aligned_u64 = 0
    length: aligned_u64 = 0


VFIO_DEVICE_FEATURE_DMA_LOGGING_START: Final = 6
VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP: Final = 7


class vfio_device_feature_dma_logging_report(Struct):
    """``VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT``: fetch and clear the bitmap of written pages."""

    iova: aligned_u64 = 0
    length: aligned_u64 = 0
    page_size: aligned_u64 = 0
    bitmap: aligned_u64 = 0


VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT: Final = 8


class vfio_device_feature_mig_data_size(Struct):
    """``VFIO_DEVICE_FEATURE_MIG_DATA_SIZE``: how much a stop-and-copy would transfer."""

    stop_copy_length: aligned_u64 = 0


VFIO_DEVICE_FEATURE_MIG_DATA_SIZE: Final = 9

VFIO_DEVICE_FEATURE_CLEAR_MASTER: Final = 0
VFIO_DEVICE_FEATURE_SET_MASTER: Final = 1


class vfio_device_feature_bus_master(Struct):
    """``VFIO_DEVICE_FEATURE_BUS_MASTER``: may the device do DMA?"""

    op: u32 = 0


VFIO_DEVICE_FEATURE_BUS_MASTER: Final = 10
VFIO_DEVICE_FEATURE_DMA_BUF: Final = 11


class vfio_region_dma_range(Struct):
    """One part of a region for ``vfio_device_feature_dma_buf``."""

    offset: u64 = 0
    length: u64 = 0


class vfio_device_feature_dma_buf(Struct):
    """``VFIO_DEVICE_FEATURE_DMA_BUF``: export parts of a region as a dma-buf."""

    region_index: u32 = 0
    open_flags: u32 = 0
    flags: u32 = 0
    nr_ranges: u32 = 0
    dma_ranges: Annotated[MutableSequence[vfio_region_dma_range], vfio_region_dma_range, ...] = ZERO


VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2: Final = 12


class vfio_device_feature_zpci_err(Struct):
    """``VFIO_DEVICE_FEATURE_ZPCI_ERROR``: where to write the pending error of an s390 PCI function."""

    data: aligned_u64 = 0


VFIO_DEVICE_FEATURE_ZPCI_ERROR: Final = 13


# ioctls of a container with a type 1 IOMMU
VFIO_IOMMU_INFO_PGSIZES: Final = 1 << 0
VFIO_IOMMU_INFO_CAPS: Final = 1 << 1


class vfio_iommu_type1_info(Struct):
    """``VFIO_IOMMU_GET_INFO``: page sizes, and capabilities behind it."""

    argsz: u32 = 0
    flags: u32 = 0
    iova_pgsizes: aligned_u64 = 0
    cap_offset: u32 = 0
    pad: u32 = 0


# Capabilities of vfio_iommu_type1_info
VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE: Final = 1


class vfio_iova_range(Struct):
    """One range of I/O virtual addresses, both ends included."""

    start: u64 = 0
    end: u64 = 0


class vfio_iommu_type1_info_cap_iova_range(Struct):
    """Capability 1 of ``vfio_iommu_type1_info``: the addresses that may be mapped."""

    header: vfio_info_cap_header = ZERO
    nr_iovas: u32 = 0
    reserved: u32 = 0
    iova_ranges: Annotated[MutableSequence[vfio_iova_range], vfio_iova_range, ...] = ZERO


VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION: Final = 2


class vfio_iommu_type1_info_cap_migration(Struct):
    """Capability 2 of ``vfio_iommu_type1_info``: limits of logging written pages."""

    header: vfio_info_cap_header = ZERO
    flags: u32 = 0
    pgsize_bitmap: u64 = 0
    max_dirty_bitmap_size: u64 = 0


VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL: Final = 3


class vfio_iommu_type1_info_dma_avail(Struct):
    """Capability 3 of ``vfio_iommu_type1_info``: how many more mappings may be made."""

    header: vfio_info_cap_header = ZERO
    avail: u32 = 0


VFIO_IOMMU_GET_INFO: Final = _IO(VFIO_TYPE, VFIO_BASE + 12, vfio_iommu_type1_info, minsz="iova_pgsizes")

VFIO_DMA_MAP_FLAG_READ: Final = 1 << 0
VFIO_DMA_MAP_FLAG_WRITE: Final = 1 << 1
VFIO_DMA_MAP_FLAG_VADDR: Final = 1 << 2


class vfio_iommu_type1_dma_map(Struct):
    """``VFIO_IOMMU_MAP_DMA``: let devices reach ``size`` bytes of memory at ``vaddr``."""

    argsz: u32 = 0
    flags: u32 = 0
    vaddr: u64 = 0
    iova: u64 = 0
    size: u64 = 0


VFIO_IOMMU_MAP_DMA: Final = _IO(VFIO_TYPE, VFIO_BASE + 13, vfio_iommu_type1_dma_map, minsz="size")


class vfio_bitmap(Struct):
    """Where a bitmap of written pages goes; ``data`` is a pointer."""

    pgsize: u64 = 0
    size: u64 = 0
    data: Annotated[u64, CType("__u64 *")] = 0


VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP: Final = 1 << 0
VFIO_DMA_UNMAP_FLAG_ALL: Final = 1 << 1
VFIO_DMA_UNMAP_FLAG_VADDR: Final = 1 << 2


class vfio_iommu_type1_dma_unmap(Struct):
    """``VFIO_IOMMU_UNMAP_DMA``: ``size`` comes back as what was unmapped; ``data`` may hold a ``vfio_bitmap``."""

    argsz: u32 = 0
    flags: u32 = 0
    iova: u64 = 0
    size: u64 = 0
    data: Annotated[bytes, u8, ...] = b""


VFIO_IOMMU_UNMAP_DMA: Final = _IO(VFIO_TYPE, VFIO_BASE + 14, vfio_iommu_type1_dma_unmap, minsz="size")
VFIO_IOMMU_ENABLE: Final = _IO(VFIO_TYPE, VFIO_BASE + 15)
VFIO_IOMMU_DISABLE: Final = _IO(VFIO_TYPE, VFIO_BASE + 16)

VFIO_IOMMU_DIRTY_PAGES_FLAG_START: Final = 1 << 0
VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP: Final = 1 << 1
VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP: Final = 1 << 2


class vfio_iommu_type1_dirty_bitmap(Struct):
    """``VFIO_IOMMU_DIRTY_PAGES``: start, stop or read the log of written pages."""

    argsz: u32 = 0
    flags: u32 = 0
    data: Annotated[bytes, u8, ...] = b""


class vfio_iommu_type1_dirty_bitmap_get(Struct):
    """The ``data`` of ``vfio_iommu_type1_dirty_bitmap`` with GET_BITMAP."""

    iova: u64 = 0
    size: u64 = 0
    bitmap: vfio_bitmap = ZERO


VFIO_IOMMU_DIRTY_PAGES: Final = _IO(VFIO_TYPE, VFIO_BASE + 17, vfio_iommu_type1_dirty_bitmap, minsz="flags")


class vfio_iommu_spapr_tce_ddw_info(Struct):
    """What dynamic DMA windows a POWER server allows."""

    pgsizes: u64 = 0
    max_dynamic_windows_supported: u32 = 0
    levels: u32 = 0


# ioctls of a container on a POWER server
VFIO_IOMMU_SPAPR_INFO_DDW: Final = 1 << 0


class vfio_iommu_spapr_tce_info(Struct):
    """``VFIO_IOMMU_SPAPR_TCE_GET_INFO``: the 32 bit DMA window."""

    argsz: u32 = 0
    flags: u32 = 0
    dma32_window_start: u32 = 0
    dma32_window_size: u32 = 0
    ddw: vfio_iommu_spapr_tce_ddw_info = ZERO


VFIO_IOMMU_SPAPR_TCE_GET_INFO: Final = _IO(
    VFIO_TYPE, VFIO_BASE + 12, vfio_iommu_spapr_tce_info, minsz="dma32_window_size"
)


class vfio_eeh_pe_err(Struct):
    """The error that ``VFIO_EEH_PE_INJECT_ERR`` injects."""

    type: u32 = 0
    func: u32 = 0
    addr: u64 = 0
    mask: u64 = 0


class vfio_eeh_pe_op(Struct):
    """``VFIO_EEH_PE_OP``: error handling of a POWER partitionable endpoint."""

    argsz: u32 = 0
    flags: u32 = 0
    op: u32 = 0
    _union = anon_union(until="err")
    err: vfio_eeh_pe_err = ZERO


# vfio_eeh_pe_op.op, and what VFIO_EEH_PE_GET_STATE returns
VFIO_EEH_PE_DISABLE: Final = 0
VFIO_EEH_PE_ENABLE: Final = 1
VFIO_EEH_PE_UNFREEZE_IO: Final = 2
VFIO_EEH_PE_UNFREEZE_DMA: Final = 3
VFIO_EEH_PE_GET_STATE: Final = 4
VFIO_EEH_PE_STATE_NORMAL: Final = 0
VFIO_EEH_PE_STATE_RESET: Final = 1
VFIO_EEH_PE_STATE_STOPPED: Final = 2
VFIO_EEH_PE_STATE_STOPPED_DMA: Final = 4
VFIO_EEH_PE_STATE_UNAVAIL: Final = 5
VFIO_EEH_PE_RESET_DEACTIVATE: Final = 5
VFIO_EEH_PE_RESET_HOT: Final = 6
VFIO_EEH_PE_RESET_FUNDAMENTAL: Final = 7
VFIO_EEH_PE_CONFIGURE: Final = 8
VFIO_EEH_PE_INJECT_ERR: Final = 9
VFIO_EEH_PE_OP: Final = _IO(VFIO_TYPE, VFIO_BASE + 21, vfio_eeh_pe_op, minsz="op")


class vfio_iommu_spapr_register_memory(Struct):
    """``VFIO_IOMMU_SPAPR_REGISTER_MEMORY`` and ``_UNREGISTER_MEMORY``: memory to pin for DMA."""

    argsz: u32 = 0
    flags: u32 = 0
    vaddr: u64 = 0
    size: u64 = 0


VFIO_IOMMU_SPAPR_REGISTER_MEMORY: Final = _IO(VFIO_TYPE, VFIO_BASE + 17, vfio_iommu_spapr_register_memory, minsz="size")
VFIO_IOMMU_SPAPR_UNREGISTER_MEMORY: Final = _IO(
    VFIO_TYPE, VFIO_BASE + 18, vfio_iommu_spapr_register_memory, minsz="size"
)


class vfio_iommu_spapr_tce_create(Struct):
    """``VFIO_IOMMU_SPAPR_TCE_CREATE``: make a DMA window."""

    argsz: u32 = 0
    flags: u32 = 0
    page_shift: u32 = 0
    resv1: Annotated[u32, Name("__resv1")] = 0
    window_size: u64 = 0
    levels: u32 = 0
    resv2: Annotated[u32, Name("__resv2")] = 0
    start_addr: u64 = 0


VFIO_IOMMU_SPAPR_TCE_CREATE: Final = _IO(VFIO_TYPE, VFIO_BASE + 19, vfio_iommu_spapr_tce_create, minsz="start_addr")


class vfio_iommu_spapr_tce_remove(Struct):
    """``VFIO_IOMMU_SPAPR_TCE_REMOVE``: take a DMA window away."""

    argsz: u32 = 0
    flags: u32 = 0
    start_addr: u64 = 0


VFIO_IOMMU_SPAPR_TCE_REMOVE: Final = _IO(VFIO_TYPE, VFIO_BASE + 20, vfio_iommu_spapr_tce_remove, minsz="start_addr")

# What headers before Linux 7.3 do not have, or have otherwise, and the kernel that brought it; back to 4.20,
# and further for members that made a struct longer
NEWER: Final = {
    "__VFIO_RESERVED_TYPE1_NESTING_IOMMU": "6.13",
    "vfio_eeh_pe_op.err": "4.1",
    "vfio_iommu_spapr_tce_info.ddw": "4.2",
    "vfio_region_info.cap_offset": "4.6",
    "VFIO_DEVICE_FLAGS_AP": "4.20",
    "VFIO_DEVICE_API_AP_STRING": "4.20",
    "VFIO_REGION_TYPE_GFX": "4.20",
    "VFIO_REGION_SUBTYPE_GFX_EDID": "4.20",
    "VFIO_DEVICE_GFX_LINK_STATE_UP": "4.20",
    "VFIO_DEVICE_GFX_LINK_STATE_DOWN": "4.20",
    "vfio_region_gfx_edid": "4.20",
    "VFIO_REGION_SUBTYPE_NVIDIA_NVLINK2_RAM": "5.0",
    "VFIO_REGION_SUBTYPE_IBM_NVLINK2_ATSD": "5.0",
    "VFIO_REGION_INFO_CAP_NVLINK2_SSATGT": "5.0",
    "vfio_region_info_cap_nvlink2_ssatgt": "5.0",
    "VFIO_REGION_INFO_CAP_NVLINK2_LNKSPD": "5.0",
    "vfio_region_info_cap_nvlink2_lnkspd": "5.0",
    "VFIO_REGION_TYPE_CCW": "5.2",
    "VFIO_REGION_SUBTYPE_CCW_ASYNC_CMD": "5.2",
    "VFIO_IOMMU_INFO_CAPS": "5.4",
    "vfio_iommu_type1_info.cap_offset": "5.4",
    "VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE": "5.4",
    "vfio_iova_range": "5.4",
    "vfio_iommu_type1_info_cap_iova_range": "5.4",
    "VFIO_DEVICE_FEATURE_MASK": "5.7",
    "VFIO_DEVICE_FEATURE_GET": "5.7",
    "VFIO_DEVICE_FEATURE_SET": "5.7",
    "VFIO_DEVICE_FEATURE_PROBE": "5.7",
    "vfio_device_feature": "5.7",
    "VFIO_DEVICE_FEATURE": "5.7",
    "VFIO_DEVICE_FEATURE_PCI_VF_TOKEN": "5.7",
    "VFIO_REGION_TYPE_MIGRATION": "5.8",
    "VFIO_REGION_SUBTYPE_CCW_SCHIB": "5.8",
    "VFIO_REGION_SUBTYPE_CCW_CRW": "5.8",
    "VFIO_REGION_SUBTYPE_MIGRATION": "5.8",
    "VFIO_DEVICE_STATE_SAVING": "5.8",
    "VFIO_DEVICE_STATE_MASK": "5.8",
    "VFIO_DEVICE_STATE_VALID": "5.8",
    "VFIO_DEVICE_STATE_IS_ERROR": "5.8",
    "vfio_device_migration_info": "5.8",
    "VFIO_CCW_CRW_IRQ_INDEX": "5.8",
    "VFIO_DEVICE_STATE_RESUMING": "5.8",
    "VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION": "5.8",
    "vfio_iommu_type1_info_cap_migration": "5.8",
    "vfio_bitmap": "5.8",
    "VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP": "5.8",
    "vfio_iommu_type1_dma_unmap.data": "5.8",
    "VFIO_IOMMU_DIRTY_PAGES_FLAG_START": "5.8",
    "VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP": "5.8",
    "VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP": "5.8",
    "vfio_iommu_type1_dirty_bitmap": "5.8",
    "vfio_iommu_type1_dirty_bitmap_get": "5.8",
    "VFIO_IOMMU_DIRTY_PAGES": "5.8",
    "VFIO_DEVICE_FLAGS_FSL_MC": "5.10",
    "VFIO_DEVICE_FLAGS_CAPS": "5.10",
    "vfio_device_info.cap_offset": "5.10",
    "VFIO_DEVICE_INFO_CAP_ZPCI_BASE": "5.10",
    "VFIO_DEVICE_INFO_CAP_ZPCI_GROUP": "5.10",
    "VFIO_DEVICE_INFO_CAP_ZPCI_UTIL": "5.10",
    "VFIO_DEVICE_INFO_CAP_ZPCI_PFIP": "5.10",
    "VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL": "5.10",
    "vfio_iommu_type1_info_dma_avail": "5.10",
    "VFIO_CCW_REQ_IRQ_INDEX": "5.11",
    "VFIO_UNMAP_ALL": "5.12",
    "VFIO_UPDATE_VADDR": "5.12",
    "VFIO_DMA_MAP_FLAG_VADDR": "5.12",
    "VFIO_DMA_UNMAP_FLAG_ALL": "5.12",
    "VFIO_DMA_UNMAP_FLAG_VADDR": "5.12",
    "VFIO_REGION_TYPE_MIGRATION_DEPRECATED": "5.18",
    "VFIO_REGION_SUBTYPE_MIGRATION_DEPRECATED": "5.18",
    "VFIO_DEVICE_STATE_V1_STOP": "5.18",
    "VFIO_DEVICE_STATE_V1_RUNNING": "5.18",
    "VFIO_DEVICE_STATE_V1_SAVING": "5.18",
    "VFIO_DEVICE_STATE_V1_RESUMING": "5.18",
    "VFIO_DEVICE_STATE_SET_ERROR": "5.18",
    "VFIO_MIGRATION_STOP_COPY": "5.18",
    "VFIO_MIGRATION_P2P": "5.18",
    "vfio_device_feature_migration": "5.18",
    "VFIO_DEVICE_FEATURE_MIGRATION": "5.18",
    "vfio_device_feature_mig_state": "5.18",
    "VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE": "5.18",
    "VFIO_DEVICE_STATE_ERROR": "5.18",
    "VFIO_DEVICE_STATE_STOP_COPY": "5.18",
    "VFIO_DEVICE_STATE_RUNNING_P2P": "5.18",
    "VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY": "6.1",
    "vfio_device_low_power_entry_with_wakeup": "6.1",
    "VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP": "6.1",
    "VFIO_DEVICE_FEATURE_LOW_POWER_EXIT": "6.1",
    "vfio_device_feature_dma_logging_control": "6.1",
    "vfio_device_feature_dma_logging_range": "6.1",
    "VFIO_DEVICE_FEATURE_DMA_LOGGING_START": "6.1",
    "VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP": "6.1",
    "vfio_device_feature_dma_logging_report": "6.1",
    "VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT": "6.1",
    "VFIO_MIGRATION_PRE_COPY": "6.2",
    "VFIO_DEVICE_STATE_PRE_COPY": "6.2",
    "VFIO_DEVICE_STATE_PRE_COPY_P2P": "6.2",
    "vfio_precopy_info": "6.2",
    "VFIO_MIG_GET_PRECOPY_INFO": "6.2",
    "vfio_device_feature_mig_data_size": "6.2",
    "VFIO_DEVICE_FEATURE_MIG_DATA_SIZE": "6.2",
    "VFIO_DEVICE_FLAGS_CDX": "6.5",
    "VFIO_DEVICE_INFO_CAP_PCI_ATOMIC_COMP": "6.5",
    "VFIO_PCI_ATOMIC_COMP32": "6.5",
    "VFIO_PCI_ATOMIC_COMP64": "6.5",
    "VFIO_PCI_ATOMIC_COMP128": "6.5",
    "vfio_device_info_cap_pci_atomic_comp": "6.5",
    "VFIO_AP_REQ_IRQ_INDEX": "6.5",
    "vfio_device_info.pad": "6.6",
    "VFIO_PCI_DEVID_OWNED": "6.6",
    "VFIO_PCI_DEVID_NOT_OWNED": "6.6",
    "vfio_pci_dependent_device.devid": "6.6",
    "VFIO_PCI_HOT_RESET_FLAG_DEV_ID": "6.6",
    "VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED": "6.6",
    "vfio_device_bind_iommufd": "6.6",
    "VFIO_DEVICE_BIND_IOMMUFD": "6.6",
    "vfio_device_attach_iommufd_pt": "6.6",
    "VFIO_DEVICE_ATTACH_IOMMUFD_PT": "6.6",
    "vfio_device_detach_iommufd_pt": "6.6",
    "VFIO_DEVICE_DETACH_IOMMUFD_PT": "6.6",
    "vfio_iommu_type1_info.pad": "6.6",
    "vfio_device_gfx_plane_info.reserved": "6.7",
    "vfio_device_ioeventfd.reserved": "6.7",
    "VFIO_DEVICE_FEATURE_CLEAR_MASTER": "6.7",
    "VFIO_DEVICE_FEATURE_SET_MASTER": "6.7",
    "vfio_device_feature_bus_master": "6.7",
    "VFIO_DEVICE_FEATURE_BUS_MASTER": "6.7",
    "VFIO_DEVICE_STATE_NR": "6.8",
    "VFIO_AP_CFG_CHG_IRQ_INDEX": "6.15",
    "VFIO_DEVICE_ATTACH_PASID": "6.15",
    "vfio_device_attach_iommufd_pt.pasid": "6.15",
    "VFIO_DEVICE_DETACH_PASID": "6.15",
    "vfio_device_detach_iommufd_pt.pasid": "6.15",
    "VFIO_DEVICE_BIND_FLAG_TOKEN": "6.17",
    "vfio_device_bind_iommufd.token_uuid_ptr": "6.17",
    "VFIO_DEVICE_FEATURE_DMA_BUF": "6.19",
    "vfio_region_dma_range": "6.19",
    "vfio_device_feature_dma_buf": "6.19",
    "VFIO_PRECOPY_INFO_REINIT": "7.1",
    "VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2": "7.1",
    "vfio_device_feature_zpci_err": "7.3",
    "VFIO_DEVICE_FEATURE_ZPCI_ERROR": "7.3",
}

# What had another value, or another place
CHANGED: Final = {
    "VFIO_CCW_NUM_IRQS": "5.11",
    "VFIO_DEVICE_STATE_STOP": "5.18",
    "VFIO_DEVICE_STATE_RUNNING": "5.18",
    "VFIO_AP_NUM_IRQS": "6.15",
}

# What is gone, and the last kernel that had it
OLDER: Final = {
    "VFIO_TYPE1_NESTING_IOMMU": "6.12",
    "VFIO_REGION_TYPE_MIGRATION": "5.17",
    "VFIO_REGION_SUBTYPE_MIGRATION": "5.17",
    "VFIO_DEVICE_STATE_SAVING": "5.17",
}
