"""Headers that never were in Linux: numbers and places of the patches."""

from __future__ import annotations

from struct import pack

import pytest

from pykernel.uapi.catalog import header_modules, headers
from pykernel.uapi.linux import vhost
from pykernel.uapi.linux.vhost_types import vhost_memory, vhost_memory_region, vhost_vring_addr, vhost_vring_state
from pykernel.uapi.rfc import ioasid, vfio_nesting, vhost_mdev
from pykernel.uapi.rfc.vhost_mdev import vhost_vfio_op


def test_no_header_of_linux_is_asked_for() -> None:
    """The checker compares them with nothing of Linux."""
    found = [m for m in header_modules() if m.__name__.startswith("pykernel.uapi.rfc.")]
    assert {ioasid, vfio_nesting, vhost_mdev} <= set(found)
    assert [headers(m) for m in found] == [()] * len(found)


def test_ioasid_requests_carry_no_size() -> None:
    """Type 'i', numbers from 100."""
    rows = [
        ioasid.IOASID_GET_API_VERSION, ioasid.IOASID_GET_INFO, ioasid.IOASID_REQUEST_ALLOC, ioasid.IOASID_REQUEST_FREE,
    ]  # fmt: skip
    assert [row.nr for row in rows] == [0x6964, 0x6965, 0x6966, 0x6967]


def test_ioasid_structs() -> None:
    """{argsz, flags, ioasid_bits} and {argsz, flags, {min, max}}, all of 32 bits."""
    assert bytes(ioasid.ioasid_info(argsz=12, ioasid_bits=31)) == pack("<III", 12, 0, 31)
    request = ioasid.ioasid_alloc_request(argsz=16)
    request.range.min, request.range.max = 1, 0xFFFFF
    assert bytes(request) == pack("<IIII", 16, 0, 1, 0xFFFFF)


def test_nesting_op_is_ioctl_18_of_vfio() -> None:
    """{argsz, flags}, the operation in the lower 16 bits of the flags, its data behind; no size in the number."""
    assert vfio_nesting.VFIO_IOMMU_NESTING_OP.nr == 0x3B76
    assert vfio_nesting.VFIO_NESTING_OP_MASK == 0xFFFF
    assert bytes(vfio_nesting.vfio_iommu_type1_nesting_op(argsz=80, flags=1)) == pack("<II", 80, 1)


def test_nesting_capability() -> None:
    """8 bytes of header, 4 numbers of 32 bits, 2 of 16, 12 of padding; VT-d's half at 40, its registers 16 behind."""
    info = vfio_nesting.iommu_nesting_info(argsz=64, format=1, features=3, addr_width=48, pasid_bits=20)
    info.vendor.vtd.cap_reg, info.vendor.vtd.ecap_reg = 5, 6
    assert bytes(info) == pack("<IIIIHH12xI12xQQ", 64, 0, 1, 3, 48, 20, 0, 5, 6)
    assert vfio_nesting.vfio_iommu_type1_info_cap_nesting.offsetof("info") == 8
    assert vfio_nesting.VFIO_IOMMU_TYPE1_INFO_CAP_NESTING == 4


def test_nesting_faults_and_answers() -> None:
    """A group, then the struct of linux/iommu.h: 64 bytes of a fault, 24 of an answer."""
    assert (vfio_nesting.vfio_nesting_fault.sizeof(), vfio_nesting.vfio_nesting_fault.offsetof("fault")) == (72, 8)
    assert vfio_nesting.vfio_nesting_response.sizeof() == 32


def test_message_is_a_header_and_a_payload() -> None:
    """u64 request, u32 flags, u32 size; 16 and 40 bytes."""
    assert (vhost_vfio_op.sizeof(), vhost_vfio_op.offsetof("payload")) == (56, vhost_mdev.VHOST_VFIO_OP_HDR_SIZE)
    assert [vhost_vfio_op.offsetof(name) for name in ("request", "flags", "size")] == [0, 8, 12]


def test_set_features_message() -> None:
    """24 bytes on the wire."""
    op = vhost_vfio_op(request=vhost.VHOST_SET_FEATURES.nr, size=8)
    op.payload.u64_ = 1 << 32
    assert bytes(op)[:24] == pack("<QIIQ", 0x4008AF00, 0, 8, 1 << 32)


def test_get_vring_base_message() -> None:
    """It asks for an answer, and says of which ring."""
    op = vhost_vfio_op(request=vhost.VHOST_GET_VRING_BASE.nr, flags=vhost_mdev.VHOST_VFIO_NEED_REPLY, size=8)
    op.payload.state = vhost_vring_state(index=3)
    assert bytes(op)[:24] == pack("<QIIII", 0xC008AF12, 1, 8, 3, 0)


def test_set_vring_addr_message() -> None:
    """56 bytes: index, flags, desc, used, avail, log."""
    op = vhost_vfio_op(request=vhost.VHOST_SET_VRING_ADDR.nr, size=40)
    op.payload.addr = vhost_vring_addr(
        index=1, desc_user_addr=0x1000, used_user_addr=0x3000, avail_user_addr=0x2000, log_guest_addr=0x4000
    )
    assert bytes(op) == pack("<QIIIIQQQQ", 0x4028AF11, 0, 40, 1, 0, 0x1000, 0x3000, 0x2000, 0x4000)


@pytest.mark.parametrize("regions", [1, 31])
def test_memory_table_lies_behind_the_header(regions: int) -> None:
    """v2018: 8 bytes and 32 a region; 31 regions are the most that the 1024 bytes of rfc2 would hold."""
    size = 8 + 32 * regions
    head = vhost_vfio_op(request=vhost.VHOST_SET_MEM_TABLE.nr, size=size)
    head.payload.memory_.nregions = regions
    message = bytearray(bytes(head)[: vhost_mdev.VHOST_VFIO_OP_HDR_SIZE + 8].ljust(16 + size, b"\0"))
    table = vhost_memory.from_buffer(message, vhost_mdev.VHOST_VFIO_OP_HDR_SIZE)
    assert (table.nregions, len(table.regions)) == (regions, regions)
    table.regions[regions - 1] = vhost_memory_region(guest_phys_addr=1, memory_size=2, userspace_addr=3)
    assert message[:24] == pack("<QIIII", 0x4008AF03, 0, size, regions, 0)
    assert message[-32:] == pack("<QQQQ", 1, 2, 3, 0)
    assert size <= vhost_mdev.VHOST_VFIO_OP_PAYLOAD_MAX_SIZE < size + 32 * (32 - regions)


def test_start_and_stop() -> None:
    """The number that later became that of another request, with another direction and size."""
    assert vhost_mdev.VHOST_DEVICE_SET_STATE.nr == 0x4008AF70
    assert (vhost_mdev.VHOST_DEVICE_S_STOPPED, vhost_mdev.VHOST_DEVICE_S_RUNNING) == (0, 1)
    assert vhost.VHOST_VDPA_GET_DEVICE_ID.nr == 0x8004AF70


def test_device_of_the_second_version() -> None:
    """2 regions, 1 interrupt index, flag 64, messages in 16 MiB at 0, kicks at 1 << 40."""
    assert (vhost_mdev.VFIO_VHOST_NUM_REGIONS, vhost_mdev.VFIO_VHOST_NUM_IRQS) == (2, 1)
    assert (vhost_mdev.VFIO_DEVICE_FLAGS_VHOST, vhost_mdev.VFIO_DEVICE_API_VHOST_STRING) == (64, "vfio-vhost")
    assert vhost_mdev.VDPA_CONFIG_SIZE == 16 << 20
    begin = [vhost_mdev.VDPA_VFIO_VHOST_INDEX_TO_OFFSET(i) for i in range(vhost_mdev.VFIO_VHOST_NUM_REGIONS)]
    assert begin == [0, 1 << 40]


@pytest.mark.parametrize(
    ("offset", "index", "inside"), [(0, 0, 0), (0x1000, 0, 0x1000), ((1 << 40) + 0x2000, 1, 0x2000)]
)
def test_offset_says_region_and_place(offset: int, index: int, inside: int) -> None:
    """40 bits of place."""
    assert vhost_mdev.VDPA_VFIO_VHOST_OFFSET_TO_INDEX(offset) == index
    assert vhost_mdev.VDPA_VFIO_VHOST_REGION_OFFSET(offset) == inside
