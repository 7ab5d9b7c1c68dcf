"""
The cases of the kernel's own test that need its mock device, by their names: what they assert, in the order they do.

tools/testing/selftests/iommu/iommufd.c of Linux 6.12, with CONFIG_IOMMUFD_TEST.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from errno import EADDRINUSE, EBUSY, EFAULT, EINVAL, EMSGSIZE, ENOENT, EOPNOTSUPP
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, PROT_READ, PROT_WRITE
from typing import NamedTuple

import pytest
from errnos import errno_of
from iommufdclient import ALL, PAGE, private, shared
from iommufdmock import LAST, MOCK_PAGE, START, Device, Mock

from pykernel.iommufd import selftest_uapi as u
from pykernel.uapi.linux import iommufd as i
from pykernel.uapi.linux import vfio as v

BUFFER_SIZE = 16 * PAGE
HUGEPAGE_SIZE = 2 << 20
WRITEABLE = i.IOMMU_IOAS_MAP_FIXED_IOVA | i.IOMMU_IOAS_MAP_WRITEABLE
NEST, DIRTY = i.IOMMU_HWPT_ALLOC_NEST_PARENT, i.IOMMU_HWPT_ALLOC_DIRTY_TRACKING
DEFAULT = u.IOMMU_TEST_IOTLB_DEFAULT


@pytest.fixture
def config():
    return "IOMMUFD_TEST"


@pytest.fixture
def mock(proc):
    return Mock(proc)


class Ioas(NamedTuple):
    """Fixture iommufd_ioas."""

    mock: Mock
    id: int
    devices: list[Device]
    base: int

    @property
    def dev(self) -> Device:
        return self.devices[0]


VARIANTS = {"no_domain": 0, "mock_domain": 1, "two_mock_domain": 2, "mock_domain_limit": 1}


@pytest.fixture(params=list(VARIANTS))
def ioas(mock, request):
    id = mock.ioas()
    limit = 16 if request.param == "mock_domain_limit" else 65536
    mock.test(u.MockOp.SET_TEMP_MEMORY_LIMIT, 0, u.one_id(id=limit))
    devices = [mock.domain(id) for _ in range(VARIANTS[request.param])]
    return Ioas(mock, id, devices, START if devices else 0)


# ---- fixture iommufd_ioas


def test_iommufd_ioas_ioas_auto_destroy(ioas):
    ioas.mock.close()


def test_iommufd_ioas_ioas_destroy(ioas):
    assert errno_of(ioas.mock.destroy, ioas.id) == (EBUSY if ioas.devices else 0)


def test_iommufd_ioas_alloc_hwpt_nested(ioas):
    mock = ioas.mock
    if not ioas.devices:
        assert errno_of(mock.hwpt, 0, ioas.id) == ENOENT
        assert errno_of(mock.nested, 0, 0) == ENOENT
        assert errno_of(mock.replace, 0, 0) == ENOENT
        return
    dev = ioas.dev
    assert errno_of(mock.hwpt, ioas.id, dev.idev) == ENOENT
    assert errno_of(mock.hwpt, dev.idev, dev.idev) == EINVAL
    assert errno_of(mock.hwpt, dev.idev, ioas.id, NEST | i.IOMMU_HWPT_FAULT_ID_VALID) == EOPNOTSUPP
    parent = mock.hwpt(dev.idev, ioas.id, NEST)
    no_parent = mock.hwpt(dev.idev, ioas.id)

    def nested(parent: int = parent, flags: int = 0, **fields: int) -> int | None:
        return errno_of(lambda: mock.nested(dev.idev, parent, flags, **fields))

    assert nested(kind=i.IOMMU_HWPT_DATA_NONE) == EINVAL
    assert nested(kind=u.IOMMU_HWPT_DATA_SELFTEST + 1) == EOPNOTSUPP
    assert nested(data_len=3) == EINVAL
    assert nested(data_uptr=0) == EFAULT
    assert nested(flags=NEST) == EOPNOTSUPP
    assert nested(no_parent) == EINVAL

    queue = mock(i.IOMMU_FAULT_QUEUE_ALLOC)
    pts = [mock.nested(dev.idev, parent) for _ in range(2)]
    valid = i.IOMMU_HWPT_FAULT_ID_VALID
    assert nested(flags=valid, fault_id=0xFFFFFFFF) == ENOENT
    iopf = mock.nested(dev.idev, parent, valid, fault_id=queue.out_fault_id)
    for pt in pts:
        mock.check_iotlb(pt, *[DEFAULT] * 4)
    assert nested(pts[0]) == EINVAL
    assert errno_of(mock.destroy, parent) == EBUSY
    check_invalidations(mock, parent, pts)

    mock.replace(dev.stdev, pts[0])
    assert errno_of(mock.destroy, pts[0]) == EBUSY
    mock.replace(dev.stdev, pts[1])
    assert errno_of(mock.destroy, pts[1]) == EBUSY
    mock.destroy(pts[0])
    mock.replace(dev.stdev, iopf)
    assert errno_of(mock.destroy, iopf) == EBUSY
    check_iopf(mock, dev.idev, queue.out_fault_fd)
    mock.replace(dev.stdev, parent)
    mock.destroy(pts[1])
    mock.destroy(iopf)
    mock.replace(dev.stdev, ioas.id)
    mock.destroy(parent)
    mock.destroy(no_parent)
    mock.proc.close(queue.out_fault_fd)
    mock.destroy(queue.out_fault_id)


def check_invalidations(mock: Mock, parent: int, pts: list[int]) -> None:
    first, second = pts
    none, everything = 0xFFFFFFFF, u.IOMMU_TEST_INVALIDATE_FLAG_ALL
    assert mock.invalidate(parent, (0, 0)) == (ENOENT, 0)
    assert mock.invalidate(first) == (0, 0)
    assert mock.invalidate(first, (0, 0), data_type=0xDADBEEF) == (EINVAL, 0)
    assert mock.invalidate(first, (0, 0), entry_len=9) == (EINVAL, 0)
    assert mock.invalidate(first, (0, 0), entry_len=1) == (EINVAL, 0)
    assert mock.invalidate(first, (none, 0)) == (EOPNOTSUPP, 0)
    assert mock.invalidate(first, (0, 0), data_uptr=0) == (EINVAL, 0)
    assert mock.invalidate(first, (0, 0), entry_len=0) == (EINVAL, 0)
    assert mock.invalidate(first, (0, 4)) == (EINVAL, 0)
    assert mock.invalidate(first, (0, 0), (none, 1)) == (EOPNOTSUPP, 1)
    mock.check_iotlb(first, 0, DEFAULT, DEFAULT, DEFAULT)
    assert mock.invalidate(first, (0, 0), (0, 4)) == (EINVAL, 1)
    mock.check_iotlb(first, 0, DEFAULT, DEFAULT, DEFAULT)
    assert mock.invalidate(first, (0, 1)) == (0, 1)
    mock.check_iotlb(first, 0, 0, DEFAULT, DEFAULT)
    assert mock.invalidate(first, (0, 2), (0, 3)) == (0, 2)
    mock.check_iotlb(first, 0, 0, 0, 0)
    assert mock.invalidate(second, (everything, 0)) == (0, 1)
    mock.check_iotlb(second, 0, 0, 0, 0)


def check_iopf(mock: Mock, idev: int, fd: int) -> None:
    """iommufd_utils.h:_test_cmd_trigger_iopf()."""
    mock.test(u.MockOp.TRIGGER_IOPF, 0, u.trigger_iopf(dev_id=idev, pasid=1, grpid=2, perm=3, addr=0xDEADBEAF))
    fault = i.iommu_hwpt_pgfault.from_bytes(mock.proc.read(fd, 40))
    assert (fault.dev_id, fault.pasid, fault.grpid, fault.perm, fault.addr) == (idev, 1, 2, 3, 0xDEADBEAF)
    response = bytes(i.iommu_hwpt_page_response(cookie=fault.cookie, code=i.IOMMUFD_PAGE_RESP_SUCCESS))
    assert mock.proc.write(fd, response) == 8


def test_iommufd_ioas_hwpt_attach(ioas):
    if ioas.devices:
        ioas.mock.domain(ioas.dev.hwpt)
    else:
        assert errno_of(ioas.mock.domain, 0) == ENOENT


def test_iommufd_ioas_ioas_area_destroy(ioas, buffer):
    ioas.mock.map_fixed(ioas.id, buffer, PAGE, ioas.base)
    assert errno_of(ioas.mock.destroy, ioas.id) == (EBUSY if ioas.devices else 0)


def test_iommufd_ioas_ioas_area_auto_destroy(ioas, buffer):
    for n in range(10):
        ioas.mock.map_fixed(ioas.id, buffer, PAGE, ioas.base + n * PAGE)
    ioas.mock.close()


@pytest.mark.parametrize("room", [0, 8, 16, 4], ids=["nothing", "exact", "larger", "smaller"])
def test_iommufd_ioas_get_hw_info(ioas, room):
    mock = ioas.mock
    at = mock.put(b"\xaa" * room)
    ask = lambda: mock(  # noqa: E731
        i.IOMMU_GET_HW_INFO, dev_id=ioas.dev.idev if ioas.devices else 0, data_len=room, data_uptr=at
    )
    if not ioas.devices:
        assert errno_of(ask) == ENOENT
        return
    row = ask()
    assert (row.data_len, row.out_data_type) == (8, u.IOMMU_HW_INFO_TYPE_SELFTEST)
    info = bytes(u.iommu_test_hw_info(test_reg=u.IOMMU_HW_INFO_SELFTEST_REGVAL))
    assert mock.proc.mem.read(at, room) == info[:room].ljust(room, b"\0")
    assert row.out_max_pasid_log2 == 0


def test_iommufd_ioas_area_auto_iova(ioas, buffer):
    mock = ioas.mock

    def map_all(va: int = buffer) -> list[tuple[int, int]]:
        rows = [(mock.map(ioas.id, va, PAGE * n), PAGE * n) for n in range(1, 11)]
        assert all(iova % (length & -length) == 0 for iova, length in rows)
        return rows

    def unmap_all(rows: list[tuple[int, int]]) -> None:
        for iova, length in rows:
            assert mock.unmap(ioas.id, iova, length) == length

    unmap_all([(mock.map(ioas.id, buffer, PAGE), PAGE) for _ in range(10)])
    unmap_all(map_all(buffer if ioas.devices else 1 << 31))
    mock.reserve(ioas.id, PAGE * 4, PAGE * 100)
    rows = map_all()
    assert not any(PAGE * 4 < iova < PAGE * 104 for iova, _ in rows)
    unmap_all(rows)
    assert errno_of(mock.allow, ioas.id, (PAGE, PAGE * 600)) == EADDRINUSE
    start, last = START + PAGE if ioas.devices else PAGE * 200, (START if ioas.devices else 0) + PAGE * 600 - 1
    mock.allow(ioas.id, (start, last))
    rows = map_all()
    assert all(start <= iova and iova + length <= last + 1 for iova, length in rows)
    unmap_all(rows)


def test_iommufd_ioas_area_allowed(ioas):
    mock, allowed = ioas.mock, (ioas.base, ioas.base + PAGE * 600)
    mock.allow(ioas.id, allowed)
    assert errno_of(mock.reserve, ioas.id, ioas.base + PAGE, PAGE) == EADDRINUSE
    mock.allow(ioas.id)
    mock.reserve(ioas.id, ioas.base + PAGE, PAGE)
    assert errno_of(mock.allow, ioas.id, allowed) == EADDRINUSE


def test_iommufd_ioas_iova_ranges(ioas, buffer):
    mock = ioas.mock

    def ask(room: int) -> tuple[int | None, int, list[int]]:
        mock.proc.mem.write(buffer, bytes(64))
        cmd = i.iommu_ioas_iova_ranges(size=32, ioas_id=ioas.id, num_iovas=room, allowed_iovas=buffer)
        error = errno_of(mock.proc.ioctl, mock.fd, i.IOMMU_IOAS_IOVA_RANGES, cmd)
        return error, cmd.num_iovas, [int.from_bytes(mock.proc.mem.read(buffer + 8 * n, 8), "little") for n in range(4)]

    aperture = [START, LAST] if ioas.devices else [0, ALL]
    assert ask(4096) == (0, 1, [*aperture, 0, 0])
    assert mock.ranges(ioas.id)[1] == (MOCK_PAGE if ioas.devices else 1)
    assert ask(0) == (EMSGSIZE, 1, [0] * 4)
    mock.reserve(ioas.id, PAGE, PAGE)
    if ioas.devices:
        assert ask(4096) == (0, 1, [*aperture, 0, 0])
        assert ask(1) == (0, 1, [*aperture, 0, 0])
    else:
        assert ask(4096) == (0, 2, [0, PAGE - 1, 2 * PAGE, ALL])
        assert ask(1) == (EMSGSIZE, 2, [0, PAGE - 1, 0, 0])


def test_iommufd_ioas_access_domain_destory(ioas):
    """With small pages for large ones: the name is the kernel's."""
    mock = ioas.mock
    buf = shared(mock.proc, 2 * HUGEPAGE_SIZE, 0x610000000000)
    mock.map_fixed(ioas.id, buf, 2 * HUGEPAGE_SIZE, ioas.base)
    access = mock.access(ioas.id, pins=True)
    pages = mock.access_pages(access, ioas.base + PAGE, PAGE, buf + PAGE)
    for dev in ioas.devices:
        mock.destroy(dev.stdev)
    mock.destroy_access_pages(access, pages)
    mock.proc.close(access)
    mock.proc.munmap(buf, 2 * HUGEPAGE_SIZE)


def test_iommufd_ioas_access_pin(ioas, buffer):
    mock = ioas.mock
    access = mock.access(ioas.id, pins=True)
    for npages in range(1, 16):
        mock.map_fixed(ioas.id, buffer, BUFFER_SIZE, START)
        pin = lambda: mock.access_pages(access, START, npages * PAGE, buffer)  # noqa: B023, E731
        mock.destroy_access_pages(access, pin())
        first, second = pin(), pin()
        mock.destroy_access_pages(access, second)
        mock.destroy_access_pages(access, first)
        pages = pin()
        dev = mock.domain(ioas.id)
        mock.check_map(dev.hwpt, buffer, START, BUFFER_SIZE)
        mock.destroy(dev.stdev)
        mock.destroy_access_pages(access, pages)
        assert mock.unmap(ioas.id, START, BUFFER_SIZE) == BUFFER_SIZE
    mock.proc.close(access)


def test_iommufd_ioas_access_pin_unmap(ioas, buffer):
    mock = ioas.mock
    access = mock.access(ioas.id, pins=True)
    mock.map_fixed(ioas.id, buffer, BUFFER_SIZE, START)
    pages = mock.access_pages(access, START, BUFFER_SIZE, buffer)
    assert mock.unmap(ioas.id, START, BUFFER_SIZE) == BUFFER_SIZE
    assert errno_of(mock.destroy_access_pages, access, pages) == ENOENT


def check_access_rw(mock: Mock, access: int, iova: int, buffer: int, flags: int, rng: random.Random) -> None:
    """Of the kernel's lengths, which are all, some."""
    proc = mock.proc
    proc.mem.write(buffer, rng.randbytes(BUFFER_SIZE))
    tmp = proc.mem.alloc(64)
    for at in range(PAGE - 50, PAGE + 50, 7):
        for length in (1, 2, 7, 31, 49, 50, 51, 63):
            mock.access_rw(access, iova + at, length, tmp, flags)
            assert proc.mem.read(buffer + at, length) == proc.mem.read(tmp, length)
            proc.mem.write(tmp, rng.randbytes(64))
            mock.access_rw(access, iova + at, length, tmp, flags | u.MOCK_ACCESS_RW_WRITE)
            assert proc.mem.read(buffer + at, length) == proc.mem.read(tmp, length)
    whole = proc.mem.alloc(BUFFER_SIZE)
    mock.access_rw(access, iova, BUFFER_SIZE, whole, flags)
    assert proc.mem.read(buffer, BUFFER_SIZE) == proc.mem.read(whole, BUFFER_SIZE)


@pytest.mark.parametrize("flags", [0, u.MOCK_ACCESS_RW_SLOW_PATH], ids=["fast", "slow"])
def test_iommufd_ioas_access_rw(ioas, buffer, flags):
    mock = ioas.mock
    access = mock.access(ioas.id, pins=False)
    iova = mock.map(ioas.id, buffer, BUFFER_SIZE)
    check_access_rw(mock, access, iova, buffer, flags, random.Random(1))
    assert mock.unmap(ioas.id, iova, BUFFER_SIZE) == BUFFER_SIZE
    mock.proc.close(access)


def test_iommufd_ioas_access_rw_unaligned(ioas, buffer):
    mock = ioas.mock
    access = mock.access(ioas.id, pins=False)
    iova = ioas.base + MOCK_PAGE
    mock.map_fixed(ioas.id, buffer, BUFFER_SIZE, iova)
    check_access_rw(mock, access, iova, buffer, 0, random.Random(2))
    mock.unmap(ioas.id, iova, BUFFER_SIZE)
    mock.proc.close(access)


def fork(mock: Mock) -> Mock:
    """A child that has the same descriptors."""
    return Mock(mock.proc.fork(), mock.fd)


def test_iommufd_ioas_fork_gone(ioas, buffer):
    mock = ioas.mock
    access = mock.access(ioas.id, pins=False)
    mock.proc.mem.write(buffer, b"\1" * BUFFER_SIZE)  # both have it: shared pages that are there
    child = fork(mock)
    child.map_fixed(ioas.id, buffer, BUFFER_SIZE, START)
    child.proc.exit()
    if ioas.devices:
        mock.domain(ioas.id)
        check_access_rw(mock, access, START, buffer, 0, random.Random(3))
    else:
        assert errno_of(mock.domain, ioas.id) == EFAULT
    mock.proc.close(access)


def test_iommufd_ioas_fork_present(ioas, buffer):
    mock = ioas.mock
    access = mock.access(ioas.id, pins=False)
    mock.proc.mem.write(buffer, b"\1" * BUFFER_SIZE)
    child = fork(mock)
    child.map_fixed(ioas.id, buffer, BUFFER_SIZE, START)
    mock.domain(ioas.id)
    check_access_rw(mock, access, START, buffer, 0, random.Random(4))
    child.proc.exit()
    mock.proc.close(access)


def test_iommufd_ioas_ioas_iova_alloc(ioas, buffer):
    mock = ioas.mock
    for length in {*range(1, PAGE * 2, 61), MOCK_PAGE, PAGE, PAGE + MOCK_PAGE}:
        if ioas.devices and length % MOCK_PAGE:
            assert errno_of(mock.map, ioas.id, buffer, length) == EINVAL
        else:
            assert mock.unmap(ioas.id, mock.map(ioas.id, buffer, length), length) == length


def test_iommufd_ioas_copy_sweep(ioas, buffer):
    mock, dst = ioas.mock, ioas.mock.ioas()
    last = START + BUFFER_SIZE - (1 if ioas.devices else 2)
    mock.map_fixed(ioas.id, buffer, last - START + 1, START)
    for iova in range(START - PAGE, last + 1, 511):
        error = errno_of(mock.copy, dst, ioas.id, MOCK_PAGE, START, iova, WRITEABLE)
        if iova < START or iova + MOCK_PAGE - 1 > last:
            assert error == ENOENT
        else:
            assert error == 0
            mock.unmap(dst, START, MOCK_PAGE)
    mock.destroy(dst)


# ---- fixture iommufd_mock_domain


@pytest.fixture(params=[1, 2], ids=["one_domain", "two_domains"])
def two(mock, request):
    id = mock.ioas()
    return Ioas(mock, id, [mock.domain(id) for _ in range(request.param)], START)


def check_mock_iova(two: Ioas, va: int, iova: int, length: int) -> None:
    for dev in two.devices:
        two.mock.check_map(dev.hwpt, va, iova, length)


def test_iommufd_mock_domain_basic(two, buffer):
    mock, size = two.mock, 8 * PAGE
    check_mock_iova(two, buffer, mock.map(two.id, buffer, PAGE), PAGE)
    buf = shared(mock.proc, size, 0x610000000000)
    mock.proc.munmap(buf + size // 2, size // 2)
    assert errno_of(mock.map, two.id, buf, size) == EFAULT
    mock.proc.munmap(buf, size // 2)
    assert errno_of(mock.map, two.id, buf, size) == EFAULT


def test_iommufd_mock_domain_ro_unshare(two):
    """Of private anonymous memory that was forked, in place of a private file."""
    mock = two.mock
    buf = mock.proc.mmap(0, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS)
    mock.proc.mem.write(buf, b"\2" * PAGE)
    child = mock.proc.fork()
    iova = mock.map(two.id, buf, PAGE, i.IOMMU_IOAS_MAP_READABLE)
    check_mock_iova(two, buf, iova, PAGE)
    mock.proc.mem.write(buf, b"\1" * PAGE)
    check_mock_iova(two, buf, iova, PAGE)
    mock.proc.munmap(buf, PAGE)
    child.exit()


def sweep(two: Ioas, check: Callable[[int, int, int, int, int], None]) -> None:
    mock, size = two.mock, 8 * PAGE
    buf = shared(mock.proc, size, 0x610000000000)
    mock.check_refs(buf, size, 0)
    for start in range(0, size, MOCK_PAGE):
        for end in range(start + MOCK_PAGE, size, MOCK_PAGE):
            iova = mock.map(two.id, buf + start, end - start)
            check(buf, start, end, iova, end - start)
            assert mock.unmap(two.id, iova, end - start) == end - start
    mock.check_refs(buf, size, 0)
    mock.proc.munmap(buf, size)


def check_whole_refs(mock: Mock, buf: int, start: int, end: int) -> None:
    first = start // PAGE * PAGE
    mock.check_refs(buf + first, end // PAGE * PAGE - first, 1)


def test_iommufd_mock_domain_all_aligns(two):
    def check(buf: int, start: int, end: int, iova: int, length: int) -> None:
        check_mock_iova(two, buf + start, iova, length)
        check_whole_refs(two.mock, buf, start, end)

    sweep(two, check)


def test_iommufd_mock_domain_all_aligns_copy(two):
    def check(buf: int, start: int, end: int, iova: int, length: int) -> None:
        dev = two.mock.domain(two.id)
        check_mock_iova(two, buf + start, iova, length)
        two.mock.check_map(dev.hwpt, buf + start, iova, length)
        check_whole_refs(two.mock, buf, start, end)
        two.mock.destroy(dev.stdev)

    sweep(two, check)


def test_iommufd_mock_domain_user_copy(two, buffer):
    mock = two.mock
    ioas = mock.ioas()
    src = mock.map(ioas, buffer, BUFFER_SIZE)
    access = mock.access(ioas, pins=True)
    mock.access_pages(access, src, BUFFER_SIZE, buffer)
    mock.copy(two.id, ioas, BUFFER_SIZE, START, src, WRITEABLE)
    check_mock_iova(two, buffer, START, BUFFER_SIZE)

    new = mock.ioas()
    src = mock.map(new, buffer, BUFFER_SIZE)
    mock.access_replace(access, new)
    assert mock.unmap(two.id, START, BUFFER_SIZE) == BUFFER_SIZE
    mock.destroy(ioas)
    pages = mock.access_pages(access, src, BUFFER_SIZE, buffer)
    mock.copy(two.id, new, BUFFER_SIZE, START, src, WRITEABLE)
    check_mock_iova(two, buffer, START, BUFFER_SIZE)
    mock.destroy_access_pages(access, pages)
    mock.proc.close(access)
    mock.destroy(new)


def test_iommufd_mock_domain_replace(two):
    mock, first = two.mock, two.dev
    ioas = mock.ioas()
    mock.replace(first.stdev, ioas)
    if len(two.devices) == 1:
        assert errno_of(mock.replace, first.stdev, first.hwpt) == ENOENT
    mock.replace(first.stdev, ioas)
    if len(two.devices) > 1:
        for hwpt in (two.devices[1].hwpt, two.devices[1].hwpt, first.hwpt):
            mock.replace(first.stdev, hwpt)
    mock.replace(first.stdev, two.id)
    mock.destroy(ioas)


def test_iommufd_mock_domain_alloc_hwpt(two):
    mock = two.mock
    for dev in two.devices:
        assert errno_of(mock.hwpt, dev.idev, two.id, ~NEST & 0xFFFFFFFF) == EOPNOTSUPP
        plain, nest = mock.hwpt(dev.idev, two.id), mock.hwpt(dev.idev, two.id, NEST)
        for hwpt in (plain, nest):
            mock.replace(dev.stdev, hwpt)
            assert errno_of(mock.destroy, hwpt) == EBUSY
        mock.replace(dev.stdev, two.id)
        mock.destroy(nest)
        mock.destroy(mock.domain(plain).stdev)
        mock.destroy(plain)


# ---- fixture iommufd_dirty_tracking


class Tracked(NamedTuple):
    mock: Mock
    ioas: int
    dev: Device
    buffer: int
    size: int
    page: int
    """What one entry of the page table has."""
    bitmap: int


SIZES = {
    "domain_dirty8k": 8 << 10,
    "domain_dirty16k": 16 << 10,
    "domain_dirty64k": 64 << 10,
    "domain_dirty128k": 128 << 10,
    "domain_dirty320k": 320 << 10,
    "domain_dirty4M_huge": 4 << 20,
}


@pytest.fixture(params=list(SIZES))
def tracked(mock, request):
    size, huge = SIZES[request.param], request.param.endswith("huge")
    buffer = (private if huge else shared)(mock.proc, size, 0x620000000000)
    ioas = mock.ioas()
    dev = mock.domain(ioas, u.MOCK_FLAGS_DEVICE_HUGE_IOVA if huge else None)
    bitmap = mock.proc.mem.alloc(size // MOCK_PAGE // 8 + 2 * PAGE, PAGE)
    return Tracked(mock, ioas, dev, buffer, size, u.MOCK_HUGE_PAGE_SIZE if huge else MOCK_PAGE, bitmap)


def track(t: Tracked, hwpt: int, flag: int) -> None:
    t.mock(i.IOMMU_HWPT_SET_DIRTY_TRACKING, hwpt_id=hwpt, flags=flag)


def test_iommufd_dirty_tracking_enforce_dirty(tracked):
    mock, no_dirty = tracked.mock, u.MOCK_FLAGS_DEVICE_NO_DIRTY
    hwpt = mock.hwpt(tracked.dev.idev, tracked.ioas, DIRTY)
    dev = mock.domain(hwpt)
    assert errno_of(mock.domain, hwpt, no_dirty) == EINVAL
    mock.destroy(dev.stdev)
    mock.destroy(hwpt)
    ioas = mock.ioas()
    dev = mock.domain(ioas, no_dirty)
    assert errno_of(mock.hwpt, dev.idev, ioas, DIRTY) == EOPNOTSUPP
    mock.destroy(dev.stdev)


def test_iommufd_dirty_tracking_set_dirty_tracking(tracked):
    mock = tracked.mock
    hwpt = mock.hwpt(tracked.dev.idev, tracked.ioas, DIRTY)
    dev = mock.domain(hwpt)
    track(tracked, hwpt, 1)
    track(tracked, hwpt, 0)
    mock.destroy(dev.stdev)
    mock.destroy(hwpt)


def test_iommufd_dirty_tracking_device_dirty_capability(tracked):
    mock = tracked.mock
    hwpt = mock.hwpt(tracked.dev.idev, tracked.ioas)
    dev = mock.domain(hwpt)
    row = mock(i.IOMMU_GET_HW_INFO, dev_id=tracked.dev.idev)
    assert row.out_capabilities & i.IOMMU_HW_CAP_DIRTY_TRACKING
    mock.destroy(dev.stdev)
    mock.destroy(hwpt)


def check_dirty_bitmaps(t: Tracked, hwpt: int, bitmap: int, flags: int) -> None:
    """iommufd_utils.h:_test_mock_dirty_bitmaps()."""
    mem, nbits = t.mock.proc.mem, t.size // MOCK_PAGE
    npte = t.page // MOCK_PAGE
    nbytes = -(-nbits // 8)
    every_second = sum(1 << n for n in range(0, nbits, 2 * npte))
    mem.write(bitmap, every_second.to_bytes(nbytes, "little"))
    assert t.mock.set_dirty(hwpt, START, t.size, MOCK_PAGE, bitmap) == (nbits // (2 * npte) or 1)
    expected = sum((1 << npte) - 1 << n for n in range(0, nbits, 2 * npte))
    for wanted in (expected, expected if flags else 0):
        mem.write(bitmap, bytes(nbytes))
        t.mock.get_dirty(hwpt, START, t.size, MOCK_PAGE, bitmap, flags)
        assert int.from_bytes(mem.read(bitmap, nbytes), "little") == wanted


@pytest.mark.parametrize("offset", [0, MOCK_PAGE, 0xFF1], ids=["aligned", "unaligned", "u64_unaligned"])
@pytest.mark.parametrize(
    "flags", [0, i.IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR], ids=["get_dirty_bitmap", "get_dirty_bitmap_no_clear"]
)
def test_iommufd_dirty_tracking(tracked, flags, offset):
    t, mock = tracked, tracked.mock
    mock.map_fixed(t.ioas, t.buffer, t.size, START)
    hwpt = mock.hwpt(t.dev.idev, t.ioas, DIRTY)
    track(t, hwpt, 1)
    check_dirty_bitmaps(t, hwpt, t.bitmap + offset, flags)
    mock.destroy(hwpt)


# ---- fixture vfio_compat_mock_domain


class Compat(NamedTuple):
    mock: Mock
    ioas: int
    version: int

    def ioctl(self, row: object, cmd: object) -> int | None:
        return errno_of(self.mock.proc.ioctl, self.mock.fd, row, cmd)


@pytest.fixture(params=[v.VFIO_TYPE1v2_IOMMU, v.VFIO_TYPE1_IOMMU], ids=["Ver1v2", "Ver1v0"])
def compat(mock, request):
    ioas = mock.ioas()
    mock.domain(ioas)
    mock(i.IOMMU_VFIO_IOAS, op=i.IOMMU_VFIO_IOAS_SET, ioas_id=ioas)
    mock.proc.ioctl(mock.fd, v.VFIO_SET_IOMMU, request.param)
    return Compat(mock, ioas, request.param)


def test_vfio_compat_mock_domain_simple_close(compat):
    compat.mock.close()


def test_vfio_compat_mock_domain_option_huge_pages(compat):
    value = compat.mock.option(i.IOMMU_OPTION_HUGE_PAGES, i.IOMMU_OPTION_OP_GET, 3, compat.ioas)
    assert value == (compat.version != v.VFIO_TYPE1_IOMMU)


def chain(data: bytes, info: v.vfio_iommu_type1_info) -> dict[int, bytes]:
    """The capabilities by number; the headers must lie within argsz."""
    found, at = {}, info.cap_offset
    while at:
        header = v.vfio_info_cap_header.from_bytes(data[at : at + 8])
        assert header.version == 1
        assert not header.next or at < header.next <= info.argsz - 8
        found[header.id] = data[at : header.next or info.argsz]
        at = header.next
    return found


def test_vfio_compat_mock_domain_get_info(compat):
    size = v.vfio_iommu_type1_info.sizeof()

    def ask(argsz: int) -> tuple[v.vfio_iommu_type1_info, bytes]:
        data = bytearray(argsz.to_bytes(4, "little") + bytes(argsz - 4) + b"\xaa" * 256)
        assert compat.ioctl(v.VFIO_IOMMU_GET_INFO, data) == 0
        assert data[argsz:] == b"\xaa" * 256
        info = v.vfio_iommu_type1_info.from_bytes(bytes(data[: min(argsz, size)]).ljust(size, b"\0"))
        assert info.flags == v.VFIO_IOMMU_INFO_PGSIZES | v.VFIO_IOMMU_INFO_CAPS
        return info, bytes(data[:argsz])

    info, _ = ask(16)
    assert info.iova_pgsizes
    info, _ = ask(size)
    assert info.iova_pgsizes
    assert (info.cap_offset, info.argsz) == (0, size + 16 + 32)
    for argsz in range(size, info.argsz):
        assert ask(argsz)[0].cap_offset == 0
    info, data = ask(info.argsz)
    caps = chain(data, info)
    assert list(caps) == [v.VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL, v.VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE]
    avail, ranges = caps.values()
    assert v.vfio_iommu_type1_info_dma_avail.from_bytes(avail[:12]).avail == 0xFFFFFFFF
    assert v.vfio_iommu_type1_info_cap_iova_range.from_bytes(ranges[:16]).nr_iovas == 1
    assert ranges[16:] == bytes(v.vfio_iova_range(start=START, end=LAST))


def test_vfio_compat_mock_domain_map(compat, buffer):
    flags = v.VFIO_DMA_MAP_FLAG_READ | v.VFIO_DMA_MAP_FLAG_WRITE
    row = v.vfio_iommu_type1_dma_map(argsz=32, flags=flags, vaddr=buffer, size=BUFFER_SIZE, iova=START)
    un = v.vfio_iommu_type1_dma_unmap(argsz=24, size=BUFFER_SIZE, iova=START)
    assert compat.ioctl(v.VFIO_IOMMU_MAP_DMA, row) == 0
    assert compat.ioctl(v.VFIO_IOMMU_UNMAP_DMA, un) == 0
    assert un.size == BUFFER_SIZE
    assert compat.ioctl(v.VFIO_IOMMU_UNMAP_DMA, un) == 0

    assert compat.ioctl(v.VFIO_IOMMU_MAP_DMA, row) == 0
    un.flags, un.size = v.VFIO_DMA_UNMAP_FLAG_ALL, BUFFER_SIZE
    assert compat.ioctl(v.VFIO_IOMMU_UNMAP_DMA, un) == EINVAL
    un.iova = un.size = 0
    assert compat.ioctl(v.VFIO_IOMMU_UNMAP_DMA, un) == 0
    assert un.size == BUFFER_SIZE

    iovas = [START + n * PAGE for n in range(16)]
    for n, iova in enumerate(iovas):
        row.iova, row.vaddr, row.size = iova, buffer + n * PAGE, PAGE
        assert compat.ioctl(v.VFIO_IOMMU_MAP_DMA, row) == 0
    random.Random(5).shuffle(iovas)
    for iova in iovas:
        un = v.vfio_iommu_type1_dma_unmap(argsz=24, size=PAGE, iova=iova)
        assert compat.ioctl(v.VFIO_IOMMU_UNMAP_DMA, un) == 0


def test_vfio_compat_mock_domain_huge_map(compat):
    """With small pages for large ones; pieces of 1/16 of the whole."""
    size = 16 * 16 * PAGE
    buf = shared(compat.mock.proc, size, 0x610000000000)
    flags = v.VFIO_DMA_MAP_FLAG_READ | v.VFIO_DMA_MAP_FLAG_WRITE
    row = v.vfio_iommu_type1_dma_map(argsz=32, flags=flags, vaddr=buf, size=size, iova=START)
    assert compat.ioctl(v.VFIO_IOMMU_MAP_DMA, row) == 0
    pieces = list(range(START, START + size, size // 16))
    random.Random(6).shuffle(pieces)
    for iova in pieces:
        un = v.vfio_iommu_type1_dma_unmap(argsz=24, size=size // 16, iova=iova)
        assert compat.ioctl(v.VFIO_IOMMU_UNMAP_DMA, un) == (0 if compat.version == v.VFIO_TYPE1_IOMMU else ENOENT)


def test_shared_pages_are_pinned_once_whoever_maps_them(mock, buffer):
    """Not a case of the kernel's: a copy in another IOAS, two domains and an access share one pin."""
    a, b = mock.ioas(), mock.ioas()
    first, second = mock.domain(a), mock.domain(b)
    mock.map_fixed(a, buffer, BUFFER_SIZE, START)
    mock.copy(b, a, BUFFER_SIZE, START, START)
    access = mock.access(b, pins=True)
    mock.access_pages(access, START, PAGE, buffer)
    mock.check_refs(buffer, BUFFER_SIZE, 1)
    mock.destroy(first.stdev)
    mock.check_refs(buffer, BUFFER_SIZE, 1)
    mock.destroy(second.stdev)
    mock.check_refs(buffer, PAGE, 1)
    mock.check_refs(buffer + PAGE, BUFFER_SIZE - PAGE, 0)
    mock.proc.close(access)
    mock.check_refs(buffer, BUFFER_SIZE, 0)
