"""
VFIO and iommufd where the headers of one kernel cannot tell: what ioctls ask for at least, and how structs grew.

Sizes are what cc gives for the headers of the kernels named. The least sizes are those of the drivers: vfio_pci_core.c,
vfio_main.c, device_cdev.c and vfio_iommu_type1.c, samples/vfio-mdev/mbochs.c, and the table of iommufd/main.c.
"""

from __future__ import annotations

from typing import Any

import pytest

from pykernel.uapi.history import at, parse, sizes
from pykernel.uapi.ioctl import Ioctl, decode
from pykernel.uapi.linux import iommu, iommufd, vfio
from pykernel.uapi.struct import Struct

# number, least size, size in Linux 7.3
VFIO: list[tuple[Ioctl[Any], int, int, int]] = [
    (vfio.VFIO_GET_API_VERSION, 0x3B64, 0, 0),
    (vfio.VFIO_CHECK_EXTENSION, 0x3B65, 0, 0),
    (vfio.VFIO_SET_IOMMU, 0x3B66, 0, 0),
    (vfio.VFIO_GROUP_GET_STATUS, 0x3B67, 8, 8),
    (vfio.VFIO_GROUP_SET_CONTAINER, 0x3B68, 4, 4),
    (vfio.VFIO_GROUP_UNSET_CONTAINER, 0x3B69, 0, 0),
    (vfio.VFIO_GROUP_GET_DEVICE_FD, 0x3B6A, 0, 0),
    (vfio.VFIO_DEVICE_GET_INFO, 0x3B6B, 16, 24),
    (vfio.VFIO_DEVICE_GET_REGION_INFO, 0x3B6C, 32, 32),
    (vfio.VFIO_DEVICE_GET_IRQ_INFO, 0x3B6D, 16, 16),
    (vfio.VFIO_DEVICE_SET_IRQS, 0x3B6E, 20, 20),
    (vfio.VFIO_DEVICE_RESET, 0x3B6F, 0, 0),
    (vfio.VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, 0x3B70, 12, 12),
    (vfio.VFIO_DEVICE_PCI_HOT_RESET, 0x3B71, 12, 12),
    (vfio.VFIO_DEVICE_QUERY_GFX_PLANE, 0x3B72, 60, 64),
    (vfio.VFIO_DEVICE_GET_GFX_DMABUF, 0x3B73, 4, 4),
    (vfio.VFIO_DEVICE_IOEVENTFD, 0x3B74, 28, 32),
    (vfio.VFIO_DEVICE_FEATURE, 0x3B75, 8, 8),
    (vfio.VFIO_DEVICE_BIND_IOMMUFD, 0x3B76, 16, 24),
    (vfio.VFIO_DEVICE_ATTACH_IOMMUFD_PT, 0x3B77, 12, 16),
    (vfio.VFIO_DEVICE_DETACH_IOMMUFD_PT, 0x3B78, 8, 12),
    (vfio.VFIO_MIG_GET_PRECOPY_INFO, 0x3B79, 24, 24),
    (vfio.VFIO_IOMMU_GET_INFO, 0x3B70, 16, 24),
    (vfio.VFIO_IOMMU_MAP_DMA, 0x3B71, 32, 32),
    (vfio.VFIO_IOMMU_UNMAP_DMA, 0x3B72, 24, 24),
    (vfio.VFIO_IOMMU_ENABLE, 0x3B73, 0, 0),
    (vfio.VFIO_IOMMU_DISABLE, 0x3B74, 0, 0),
    (vfio.VFIO_IOMMU_DIRTY_PAGES, 0x3B75, 8, 8),
]

IOMMUFD: list[tuple[Ioctl[Any], int, int, int]] = [
    (iommufd.IOMMU_DESTROY, 0x3B80, 8, 8),
    (iommufd.IOMMU_IOAS_ALLOC, 0x3B81, 12, 12),
    (iommufd.IOMMU_IOAS_ALLOW_IOVAS, 0x3B82, 24, 24),
    (iommufd.IOMMU_IOAS_COPY, 0x3B83, 40, 40),
    (iommufd.IOMMU_IOAS_IOVA_RANGES, 0x3B84, 32, 32),
    (iommufd.IOMMU_IOAS_MAP, 0x3B85, 40, 40),
    (iommufd.IOMMU_IOAS_UNMAP, 0x3B86, 24, 24),
    (iommufd.IOMMU_OPTION, 0x3B87, 24, 24),
    (iommufd.IOMMU_VFIO_IOAS, 0x3B88, 12, 12),
    (iommufd.IOMMU_HWPT_ALLOC, 0x3B89, 24, 48),
    (iommufd.IOMMU_GET_HW_INFO, 0x3B8A, 32, 40),
    (iommufd.IOMMU_HWPT_SET_DIRTY_TRACKING, 0x3B8B, 16, 16),
    (iommufd.IOMMU_HWPT_GET_DIRTY_BITMAP, 0x3B8C, 48, 48),
    (iommufd.IOMMU_HWPT_INVALIDATE, 0x3B8D, 32, 32),
    (iommufd.IOMMU_FAULT_QUEUE_ALLOC, 0x3B8E, 16, 16),
    (iommufd.IOMMU_IOAS_MAP_FILE, 0x3B8F, 40, 40),
    (iommufd.IOMMU_VIOMMU_ALLOC, 0x3B90, 24, 40),
    (iommufd.IOMMU_VDEVICE_ALLOC, 0x3B91, 24, 24),
    (iommufd.IOMMU_IOAS_CHANGE_PROCESS, 0x3B92, 8, 8),
    (iommufd.IOMMU_VEVENTQ_ALLOC, 0x3B93, 32, 32),
    (iommufd.IOMMU_HW_QUEUE_ALLOC, 0x3B94, 40, 40),
    (iommufd.IOMMU_IOAS_NOIOMMU_GET_PA, 0x3B95, 40, 40),
]

# (kernel, sizeof since then)
GROWTH: list[tuple[type[Struct], list[tuple[str, int]]]] = [
    (vfio.vfio_device_info, [("4.20", 16), ("5.9", 16), ("5.10", 20), ("6.5", 20), ("6.6", 24)]),
    (vfio.vfio_iommu_type1_info, [("4.20", 16), ("5.3", 16), ("5.4", 24), ("6.6", 24)]),
    (vfio.vfio_device_gfx_plane_info, [("5.10", 64), ("6.12", 64)]),
    (vfio.vfio_device_ioeventfd, [("5.10", 32), ("6.12", 32)]),
    (vfio.vfio_device_bind_iommufd, [("6.6", 16), ("6.16", 16), ("6.19", 24)]),
    (vfio.vfio_device_attach_iommufd_pt, [("6.6", 12), ("6.13", 12), ("6.16", 16)]),
    (vfio.vfio_device_detach_iommufd_pt, [("6.6", 8), ("6.13", 8), ("6.16", 12)]),
    (iommufd.iommu_hwpt_alloc, [("6.6", 24), ("6.7", 40), ("6.10", 40), ("6.11", 48)]),
    (iommufd.iommu_hw_info, [("6.6", 32), ("6.7", 40), ("6.12", 40)]),
    (iommufd.iommu_hwpt_pgfault, [("6.11", 40), ("6.13", 40)]),
    (iommufd.iommu_viommu_alloc, [("6.13", 24), ("6.15", 24), ("6.19", 40)]),
]


def test_every_ioctl_of_iommufd_has_a_row_above() -> None:
    """Debian 12 has no linux/iommufd.h to compare with: nothing may be left out here."""
    assert {id(row) for row in vars(iommufd).values() if isinstance(row, Ioctl)} == {id(row) for row, *_ in IOMMUFD}


NAMES = {id(row): name for module in (vfio, iommufd) for name, row in vars(module).items() if isinstance(row, Ioctl)}


@pytest.mark.parametrize(
    ("row", "nr", "minsz", "size"), [*VFIO, *IOMMUFD], ids=[NAMES[id(row)] for row, *_ in [*VFIO, *IOMMUFD]]
)
def test_ioctl_asks_for_at_least_what_the_drivers_want(row: Ioctl[Any], nr: int, minsz: int, size: int) -> None:
    """Number, least size and whole size; the number itself carries no size."""
    assert (row.nr, row.minsz, row.size) == (nr, minsz, size)
    assert decode(row.nr)[0] == decode(row.nr).size == 0


@pytest.mark.parametrize(("cls", "grown"), GROWTH, ids=lambda v: getattr(v, "__name__", ""))
def test_structs_grew_as_the_headers_did(cls: type[Struct], grown: list[tuple[str, int]]) -> None:
    """NEWER names every late member, so the size in older kernels follows from it."""
    assert [(kernel, at(cls, parse(kernel)).sizeof()) for kernel, _ in grown] == grown
    assert [size for _, size in sizes(cls)] == sorted({size for _, size in grown})


def test_states_of_both_versions_of_migration_have_names() -> None:
    """Linux 5.18 gave RUNNING another value, and named the old bits V1."""
    assert (vfio.VFIO_DEVICE_STATE_RUNNING, vfio.VFIO_DEVICE_STATE_V1_RUNNING) == (2, 1)
    assert vfio.CHANGED["VFIO_DEVICE_STATE_RUNNING"] == vfio.NEWER["VFIO_DEVICE_STATE_V1_RUNNING"] == "5.18"
    assert vfio.OLDER["VFIO_DEVICE_STATE_SAVING"] == "5.17"


def test_negative_constants_fit_their_fields_when_masked() -> None:
    """They are ints in C, which converts them to the __u32 of the field."""
    kind = vfio.vfio_region_info_cap_type(type=vfio.VFIO_REGION_TYPE_PCI_VENDOR_TYPE & 0xFFFFFFFF | 0x8086)
    device = vfio.vfio_pci_dependent_device(devid=vfio.VFIO_PCI_DEVID_NOT_OWNED & 0xFFFFFFFF)
    assert (kind.type, device.group_id) == (0x80008086, 0xFFFFFFFF)


def test_members_of_unions_share_their_bytes() -> None:
    """An anonymous union, and two that are the type of a member."""
    info = iommufd.iommu_hw_info(in_data_type=iommufd.IOMMU_HW_INFO_TYPE_ARM_SMMUV3)
    assert info.out_data_type == iommufd.IOMMU_HW_INFO_TYPE_ARM_SMMUV3
    request = iommu.iommu_cache_invalidate_info(granularity=iommu.IOMMU_INV_GRANU_PASID)
    request.granu.pasid_info.pasid = 5
    assert request.granu.addr_info.pasid == 5
    assert bytes(request)[24:32] == (5).to_bytes(8, "little")
    bind = iommu.iommu_gpasid_bind_data()
    bind.vendor.vtd.pat = 0x0606
    assert bytes(bind)[-8:-4] == (0x0606).to_bytes(4, "little")
