"""
The cases of the kernel's own test that need no mock device, by their names: what they assert, in the order they do.

tools/testing/selftests/iommu/iommufd.c of Linux 6.12; fixture iommufd, and iommufd_ioas in its variant no_domain.
"""

from __future__ import annotations

import struct
from errno import E2BIG, EADDRINUSE, EEXIST, EFAULT, EINVAL, EMSGSIZE, ENODEV, ENOENT, ENOTTY, EOPNOTSUPP
from typing import Any

import pytest
from errnos import errno_of
from iommufdclient import ALL, FIXED, PAGE, Iommufd

from pykernel.uapi.ioctl import _IO
from pykernel.uapi.linux import iommufd as i
from pykernel.uapi.linux import vfio as v

MOCK_APERTURE_START = 1 << 24
MOCK_PAGE_SIZE = PAGE // 2
BUFFER_SIZE = 16 * PAGE
WRITEABLE = i.IOMMU_IOAS_MAP_FIXED_IOVA | i.IOMMU_IOAS_MAP_WRITEABLE


# ---- fixture iommufd


def test_iommufd_simple_close(iommu):
    iommu.close()


def test_iommufd_cmd_fail(iommu):
    assert errno_of(iommu.destroy, 0) == ENOENT
    assert errno_of(iommu.proc.ioctl, iommu.fd, i.IOMMU_DESTROY, 0) == EFAULT
    unknown = _IO(i.IOMMUFD_TYPE, i.IOMMUFD_CMD_BASE - 1)
    assert errno_of(iommu.proc.ioctl, iommu.fd, unknown, i.iommu_destroy(size=8)) == ENOTTY


LENGTHS: list[tuple[Any, str]] = [
    (i.IOMMU_DESTROY, "id"),
    (i.IOMMU_GET_HW_INFO, "reserved"),
    (i.IOMMU_HWPT_ALLOC, "reserved"),
    (i.IOMMU_HWPT_INVALIDATE, "reserved"),
    (i.IOMMU_IOAS_ALLOC, "out_ioas_id"),
    (i.IOMMU_IOAS_IOVA_RANGES, "out_iova_alignment"),
    (i.IOMMU_IOAS_ALLOW_IOVAS, "allowed_iovas"),
    (i.IOMMU_IOAS_MAP, "iova"),
    (i.IOMMU_IOAS_COPY, "src_iova"),
    (i.IOMMU_IOAS_UNMAP, "length"),
    (i.IOMMU_OPTION, "val64"),
    (i.IOMMU_VFIO_IOAS, "reserved"),
]


@pytest.mark.parametrize(("row", "last"), LENGTHS, ids=[row.struct.__name__ for row, _ in LENGTHS])
def test_iommufd_cmd_length(iommu, row, last):
    size = row.struct.sizeof()

    def call(given: int, extra: int) -> int | None:
        cmd = bytearray(given.to_bytes(4, "little") + bytes(size - 4) + bytes([extra]))
        return errno_of(iommu.proc.ioctl, iommu.fd, row, cmd)

    assert call(row.struct.offsetofend(last) - 1, 0xFF) == EINVAL
    assert call(size + 1, 0xFF) == E2BIG
    assert call(size, 0xFF) == call(size + 1, 0)


def test_iommufd_cmd_ex_fail(iommu):
    def call(size: int, future: int) -> int | None:
        return errno_of(iommu.proc.ioctl, iommu.fd, i.IOMMU_DESTROY, bytearray(struct.pack("<IIQ", size, 0, future)))

    assert call(16, 0) == ENOENT
    assert call(16, 1) == E2BIG
    assert call(8, 1) == ENOENT
    assert call(7, 1) == EINVAL


def test_iommufd_global_options(iommu):
    rlimit, huge = i.IOMMU_OPTION_RLIMIT_MODE, i.IOMMU_OPTION_HUGE_PAGES
    put, get = i.IOMMU_OPTION_OP_SET, i.IOMMU_OPTION_OP_GET
    assert iommu.option(rlimit, get, 1) == 0
    iommu.option(rlimit, put, 1)
    assert errno_of(iommu.option, rlimit, put, 2) == EINVAL
    assert iommu.option(rlimit, get) == 1
    iommu.option(rlimit, put, 0)
    assert errno_of(iommu.option, huge, get) == ENOENT
    assert errno_of(iommu.option, huge, put) == ENOENT


def test_iommufd_simple_ioctls(iommu):
    assert iommu.proc.ioctl(iommu.fd, v.VFIO_GET_API_VERSION) == v.VFIO_API_VERSION
    assert iommu.proc.ioctl(iommu.fd, v.VFIO_CHECK_EXTENSION, v.VFIO_TYPE1v2_IOMMU) == 1


def test_iommufd_unmap_cmd(iommu):
    cmd = v.vfio_iommu_type1_dma_unmap(argsz=1, iova=MOCK_APERTURE_START, size=PAGE)
    call = lambda: errno_of(iommu.proc.ioctl, iommu.fd, v.VFIO_IOMMU_UNMAP_DMA, cmd)  # noqa: E731
    assert call() == EINVAL
    cmd.argsz, cmd.flags = cmd.sizeof(), 1 << 31
    assert call() == EINVAL
    cmd.flags = 0
    assert call() == ENODEV


def test_iommufd_map_cmd(iommu, buffer):
    cmd = v.vfio_iommu_type1_dma_map(argsz=1, iova=MOCK_APERTURE_START, size=PAGE, vaddr=buffer)
    call = lambda: errno_of(iommu.proc.ioctl, iommu.fd, v.VFIO_IOMMU_MAP_DMA, cmd)  # noqa: E731
    assert call() == EINVAL
    cmd.argsz, cmd.flags = cmd.sizeof(), 1 << 31
    assert call() == EINVAL
    cmd.flags = v.VFIO_DMA_MAP_FLAG_READ | v.VFIO_DMA_MAP_FLAG_WRITE
    assert call() == ENODEV


def test_iommufd_info_cmd(iommu):
    cmd = v.vfio_iommu_type1_info(argsz=1)
    assert errno_of(iommu.proc.ioctl, iommu.fd, v.VFIO_IOMMU_GET_INFO, cmd) == EINVAL
    cmd.argsz = cmd.sizeof()
    assert errno_of(iommu.proc.ioctl, iommu.fd, v.VFIO_IOMMU_GET_INFO, cmd) == ENODEV


def test_iommufd_set_iommu_cmd(iommu):
    assert errno_of(iommu.proc.ioctl, iommu.fd, v.VFIO_SET_IOMMU, v.VFIO_TYPE1v2_IOMMU) == ENODEV
    assert errno_of(iommu.proc.ioctl, iommu.fd, v.VFIO_SET_IOMMU, v.VFIO_TYPE1_IOMMU) == ENODEV


def test_iommufd_vfio_ioas(iommu):
    def op(op: int, ioas_id: int = 0) -> int:
        return int(iommu(i.IOMMU_VFIO_IOAS, op=op, ioas_id=ioas_id).ioas_id)

    assert errno_of(op, i.IOMMU_VFIO_IOAS_GET) == ENODEV
    assert errno_of(op, i.IOMMU_VFIO_IOAS_SET) == ENOENT
    ioas_id = iommu.ioas()
    op(i.IOMMU_VFIO_IOAS_SET, ioas_id)
    assert op(i.IOMMU_VFIO_IOAS_GET) == ioas_id
    op(i.IOMMU_VFIO_IOAS_CLEAR)
    assert errno_of(op, i.IOMMU_VFIO_IOAS_GET) == ENODEV


# ---- fixture iommufd_ioas, variant no_domain


def test_iommufd_ioas_ioas_auto_destroy(iommu, ioas):
    iommu.close()


def test_iommufd_ioas_ioas_destroy(iommu, ioas):
    iommu.destroy(ioas)


def test_iommufd_ioas_alloc_hwpt_nested(iommu, ioas):
    assert errno_of(iommu.hwpt, 0, ioas) == ENOENT
    data = {"data_type": 0xDEAD, "data_len": 4, "data_uptr": iommu.put(bytes(4))}
    for _ in range(2):
        assert errno_of(lambda: iommu.hwpt(0, 0, **data)) == ENOENT


def test_iommufd_ioas_ioas_area_destroy(iommu, ioas, buffer):
    iommu.map_fixed(ioas, buffer, PAGE, 0)
    iommu.destroy(ioas)


def test_iommufd_ioas_ioas_area_auto_destroy(iommu, ioas, buffer):
    for n in range(10):
        iommu.map_fixed(ioas, buffer, PAGE, n * PAGE)
    iommu.close()


@pytest.mark.parametrize("larger", [0, 8])
def test_iommufd_ioas_get_hw_info(iommu, ioas, larger):
    at = iommu.put(bytes(8 + larger))
    assert errno_of(lambda: iommu(i.IOMMU_GET_HW_INFO, dev_id=0, data_len=8 + larger, data_uptr=at)) == ENOENT


def test_iommufd_ioas_area(iommu, ioas, buffer):
    for n in range(10):
        assert errno_of(iommu.unmap, ioas, n * PAGE, PAGE) == ENOENT
    for n in range(10):
        iommu.map_fixed(ioas, buffer, PAGE, n * PAGE)
    for n in range(10):
        assert iommu.unmap(ioas, n * PAGE, PAGE) == PAGE
    iommu.map_fixed(ioas, buffer, 2 * PAGE, 16 * PAGE)
    for n in (16, 17):
        assert errno_of(iommu.unmap, ioas, n * PAGE, PAGE) == ENOENT
    for n, length in ((16, 2), (16, 1), (17, 1), (15, 2), (15, 3)):
        assert errno_of(iommu.map_fixed, ioas, buffer, length * PAGE, n * PAGE) == EEXIST
    iommu.unmap(ioas, 0, ALL)
    iommu.unmap(ioas, 0, ALL)


def test_iommufd_ioas_unmap_fully_contained_areas(iommu, ioas, buffer):
    base = 4 * PAGE
    for n in range(4):
        iommu.map_fixed(ioas, buffer, 8 * PAGE, base + n * 16 * PAGE)
    assert errno_of(iommu.unmap, ioas, base - 4 * PAGE, 8 * PAGE) == ENOENT
    assert errno_of(iommu.unmap, ioas, base + 3 * 16 * PAGE + 8 * PAGE - 4 * PAGE, 8 * PAGE) == ENOENT
    assert iommu.unmap(ioas, base - 4 * PAGE, (3 * 16 + 8 + 4) * PAGE) == 32 * PAGE


def ffs_aligned(iova: int, length: int) -> bool:
    return iova % (length & -length) == 0


def test_iommufd_ioas_area_auto_iova(iommu, ioas, buffer):
    """Without its reserved region, which a mock command makes."""
    iovas = [iommu.map(ioas, buffer, PAGE) for _ in range(10)]
    for iova in iovas:
        iommu.unmap(ioas, iova, PAGE)
    iovas = []
    for n in range(10):
        iovas.append(iommu.map(ioas, 1 << 31, PAGE * (n + 1)))
        assert ffs_aligned(iovas[n], PAGE * (n + 1))
    for n in range(10):
        assert iommu.unmap(ioas, iovas[n], PAGE * (n + 1)) == PAGE * (n + 1)
    start, last = PAGE * 200, PAGE * 600 - 1
    iommu.allow(ioas, (start, last))
    for n in range(10):
        length = PAGE * (n + 1)
        iova = iommu.map(ioas, buffer, length)
        assert ffs_aligned(iova, length)
        assert start <= iova
        assert iova + length <= last + 1


def test_iommufd_ioas_copy_area(iommu, ioas, buffer):
    iommu.map_fixed(ioas, buffer, PAGE, 0)
    iommu.copy(ioas, ioas, PAGE, PAGE, 0, WRITEABLE)
    iommu.copy(iommu.ioas(), ioas, PAGE, 0, 0, WRITEABLE)


def test_iommufd_ioas_iova_ranges(iommu, ioas, buffer):
    ranges, alignment = iommu.ranges(ioas, 16)
    assert (ranges, alignment) == ([(0, ALL)], 1)
    cmd = i.iommu_ioas_iova_ranges(size=32, ioas_id=ioas, num_iovas=0, allowed_iovas=buffer)
    assert errno_of(iommu.proc.ioctl, iommu.fd, i.IOMMU_IOAS_IOVA_RANGES, cmd) == EMSGSIZE
    assert cmd.num_iovas == 1
    assert iommu.proc.mem.read(buffer, 16) == bytes(16)


def test_iommufd_ioas_ioas_option_huge_pages(iommu, ioas):
    huge, put, get = i.IOMMU_OPTION_HUGE_PAGES, i.IOMMU_OPTION_OP_SET, i.IOMMU_OPTION_OP_GET
    assert iommu.option(huge, get, 3, ioas) == 1
    iommu.option(huge, put, 0, ioas)
    assert iommu.option(huge, get, 3, ioas) == 0
    assert errno_of(iommu.option, huge, put, 2, ioas) == EINVAL
    iommu.option(huge, put, 1, ioas)


def test_iommufd_ioas_ioas_iova_alloc(iommu, ioas, buffer):
    for length in range(1, 2 * PAGE, 7):  # of the kernel's every one
        iova = iommu.map(ioas, buffer, length)
        assert iommu.unmap(ioas, iova, length) == length


def test_iommufd_ioas_ioas_align_change(iommu, ioas, buffer):
    small = lambda value: iommu.option(i.IOMMU_OPTION_HUGE_PAGES, i.IOMMU_OPTION_OP_SET, value, ioas)  # noqa: E731
    iommu.map_fixed(ioas, buffer, PAGE, MOCK_APERTURE_START)
    small(0)
    second = MOCK_APERTURE_START + PAGE
    assert errno_of(iommu.map_fixed, ioas, buffer + MOCK_PAGE_SIZE, PAGE, second) == EINVAL
    small(0)
    small(1)
    iommu.map_fixed(ioas, buffer + MOCK_PAGE_SIZE, PAGE, second)
    assert errno_of(small, 0) == EADDRINUSE
    iommu.unmap(ioas, second, PAGE)
    iommu.unmap(ioas, MOCK_APERTURE_START, PAGE)


def test_iommufd_ioas_copy_sweep(iommu, ioas, buffer):
    dst = iommu.ioas()
    last = MOCK_APERTURE_START + BUFFER_SIZE - 2
    iommu.map_fixed(ioas, buffer, last - MOCK_APERTURE_START + 1, MOCK_APERTURE_START)
    for iova in range(MOCK_APERTURE_START - PAGE, last + 1, 511):
        copy = lambda: iommu.copy(dst, ioas, MOCK_PAGE_SIZE, MOCK_APERTURE_START, iova, WRITEABLE)  # noqa: B023, E731
        if iova < MOCK_APERTURE_START or iova + MOCK_PAGE_SIZE - 1 > last:
            assert errno_of(copy) == ENOENT
        else:
            copy()
            assert iommu.unmap(dst, MOCK_APERTURE_START, MOCK_PAGE_SIZE) == MOCK_PAGE_SIZE
    iommu.destroy(dst)


def test_unknown_flags_of_a_map_are_refused(iommu, ioas, buffer):
    """iommufd_utils.h has no helper for it, cmd_fail's sibling for flags: EOPNOTSUPP and not EINVAL."""
    assert errno_of(iommu.map, ioas, buffer, PAGE, FIXED | 1 << 3) == EOPNOTSUPP


def test_contexts_share_no_objects(iommu, proc):
    mine = iommu.ioas()
    other = Iommufd(proc)
    assert errno_of(other.destroy, mine) == ENOENT
    assert other.ioas() == 1
