"""
The commands of /dev/iommu: each rule of include/uapi/linux/iommufd.h and of drivers/iommu/iommufd of Linux 6.12 a row.
"""

from __future__ import annotations

import os
import stat
import struct
from errno import (
    E2BIG,
    EACCES,
    EADDRINUSE,
    EBUSY,
    EEXIST,
    EFAULT,
    EINVAL,
    ENODEV,
    ENOENT,
    ENOTTY,
    EOPNOTSUPP,
    EOVERFLOW,
    EPERM,
    ESPIPE,
)
from functools import partial
from typing import Any

import pytest
from errnos import errno_of
from iommufdclient import ALL, FIXED, PAGE, RW, Cdev, Iommufd, shared
from vfioclient import detach, reattach, sysfs
from vfiominimal import add_minimal, remove_minimal
from vfiotoy import open_group

from pykernel.iommufd.fault import Fault, IopfGroup
from pykernel.iommufd.iova_bitmap import IovaBitmap
from pykernel.machine import Machine
from pykernel.pci.core import Pci
from pykernel.start import boot
from pykernel.uapi.ioctl import _IO
from pykernel.uapi.linux import iommufd as i
from pykernel.uapi.linux import vfio as v
from pykernel.uapi.linux.eventpoll import EPOLLIN, EPOLLOUT

# ---- the node


def test_the_node(kernel, proc):
    st = proc.stat("/dev/iommu")
    assert stat.S_IMODE(st.st_mode) == 0o660
    assert os.major(st.st_rdev) == 10
    assert f"{os.minor(st.st_rdev):3d} iommu\n" in proc.read_text("/proc/misc")
    assert errno_of(kernel.process(uid=1000, gid=1000).open, "/dev/iommu", os.O_RDWR) == EACCES


@pytest.mark.parametrize("profile", ["linux-6.1", "linux-6.12"])
def test_kernels_without_it_have_no_module(profile):
    kernel = boot(Machine("none"), profile, config="-IOMMUFD" if profile == "linux-6.12" else ())
    kernel.up()
    assert errno_of(kernel.modules.modprobe, "iommufd") == ENOENT
    kernel.shutdown()


def test_without_it_the_kernel_is_debian_s():
    kernel = boot(Machine("none", modules={"vfio": ""}), "linux-6.12", config="-IOMMUFD")
    proc = kernel.process()
    assert kernel.profile.config == boot(Machine("none"), "linux-6.1").profile.config
    assert proc.listdir("/dev/vfio") == ["vfio"]
    assert "iommu" not in proc.listdir("/dev")
    proc.exit()
    kernel.shutdown()


def test_6_1_has_none_of_its_options():
    with pytest.raises(ValueError, match="CONFIG_IOMMUFD"):
        boot(Machine("none"), "linux-6.1", config="IOMMUFD")


def test_the_container_s_node_may_be_its():
    kernel = boot(Machine("none", modules={"iommufd": ""}), "linux-6.12", config="IOMMUFD_VFIO_CONTAINER")
    proc = kernel.process()
    iommu = Iommufd(proc, proc.open("/dev/vfio/vfio", os.O_RDWR))
    assert iommu.option(i.IOMMU_OPTION_RLIMIT_MODE, i.IOMMU_OPTION_OP_GET) == 1  # charged as VFIO does
    assert "iommufd: IOMMUFD is providing /dev/vfio/vfio, not VFIO." in [r.text for r in kernel.log.records]
    assert stat.S_IMODE(proc.stat("/dev/vfio/vfio").st_mode) == 0o666
    proc.exit()
    kernel.shutdown()


def test_the_module_is_in_use_while_a_file_is_open(kernel, proc, iommu):
    assert kernel.modules.loaded["iommufd"].refcnt >= 1
    before = kernel.modules.loaded["iommufd"].refcnt
    iommu.close()
    assert kernel.modules.loaded["iommufd"].refcnt == before - 1


# ---- numbers and sizes

ROWS: list[tuple[Any, int, int]] = [
    (i.IOMMU_DESTROY, 8, 8),
    (i.IOMMU_IOAS_ALLOC, 12, 12),
    (i.IOMMU_IOAS_ALLOW_IOVAS, 24, 24),
    (i.IOMMU_IOAS_COPY, 40, 40),
    (i.IOMMU_IOAS_IOVA_RANGES, 32, 32),
    (i.IOMMU_IOAS_MAP, 40, 40),
    (i.IOMMU_IOAS_UNMAP, 24, 24),
    (i.IOMMU_OPTION, 24, 24),
    (i.IOMMU_VFIO_IOAS, 12, 12),
    (i.IOMMU_HWPT_ALLOC, 24, 48),
    (i.IOMMU_GET_HW_INFO, 32, 40),
    (i.IOMMU_HWPT_SET_DIRTY_TRACKING, 16, 16),
    (i.IOMMU_HWPT_GET_DIRTY_BITMAP, 48, 48),
    (i.IOMMU_HWPT_INVALIDATE, 32, 32),
    (i.IOMMU_FAULT_QUEUE_ALLOC, 16, 16),
]
NUMBERS = [0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8B, 0x8C, 0x8D, 0x8E]


@pytest.mark.parametrize(
    ("row", "least", "full", "number"),
    [(*row, number) for row, number in zip(ROWS, NUMBERS, strict=True)],
    ids=[row.struct.__name__ for row, _, _ in ROWS],
)
def test_sizes(iommu, row, least, full, number):
    assert row.nr == 0x3B00 + number
    call = lambda data: errno_of(iommu.proc.ioctl, iommu.fd, row, bytearray(data))  # noqa: E731
    assert call((least - 1).to_bytes(4, "little") + bytes(full)) == EINVAL
    assert call((full + 4).to_bytes(4, "little") + bytes(full - 4) + b"\0\0\0\1") == E2BIG
    assert call(least.to_bytes(4, "little") + bytes(full)) not in (E2BIG, ENOTTY, EFAULT)
    assert errno_of(iommu.proc.ioctl, iommu.fd, row, 8) == EFAULT


NO_COMMANDS = {
    "one_below": _IO(ord(";"), 0x7F),
    "newer_than_6.12": _IO(ord(";"), 0x8F),
    "test_command": _IO(ord(";"), 0xA0),
    "another_type": _IO(ord("x"), 0x81),
    "with_a_size": 0xC0003B00 | 12 << 16 | 0x81,
}


@pytest.mark.parametrize("cmd", NO_COMMANDS.values(), ids=list(NO_COMMANDS))
def test_unknown_numbers(iommu, cmd):
    assert errno_of(iommu.proc.ioctl, iommu.fd, cmd, i.iommu_ioas_alloc(size=12)) == ENOTTY


def test_a_huge_struct_of_zeros_must_be_readable(iommu, buffer):
    """Its tail is looked at to the end: EFAULT where memory ends, though all before is zeros."""
    iommu.proc.mem.write(buffer, (1 << 30).to_bytes(4, "little"))
    assert errno_of(iommu.proc.ioctl, iommu.fd, i.IOMMU_IOAS_ALLOC, buffer) == EFAULT


# ---- flags and reserved fields

REFUSED: dict[str, tuple[Any, dict[str, int]]] = {
    "ioas_alloc_flags": (i.IOMMU_IOAS_ALLOC, {"flags": 1}),
    "iova_ranges_reserved": (i.IOMMU_IOAS_IOVA_RANGES, {"reserved": 1}),
    "allow_iovas_reserved": (i.IOMMU_IOAS_ALLOW_IOVAS, {"reserved": 1}),
    "map_flags": (i.IOMMU_IOAS_MAP, {"flags": 8 | RW}),
    "map_reserved": (i.IOMMU_IOAS_MAP, {"flags": RW, "reserved": 1}),
    "copy_flags": (i.IOMMU_IOAS_COPY, {"flags": 8 | RW}),
    "option_reserved": (i.IOMMU_OPTION, {"reserved": 1}),
    "option_unknown": (i.IOMMU_OPTION, {"option_id": 2}),
    "rlimit_mode_of_an_object": (i.IOMMU_OPTION, {"op": 1, "object_id": 1}),
    "rlimit_mode_operation": (i.IOMMU_OPTION, {"op": 2}),
    "vfio_ioas_reserved": (i.IOMMU_VFIO_IOAS, {"reserved": 1}),
    "vfio_ioas_operation": (i.IOMMU_VFIO_IOAS, {"op": 3}),
    "hwpt_alloc_reserved": (i.IOMMU_HWPT_ALLOC, {"reserved": 1}),
    "hw_info_flags": (i.IOMMU_GET_HW_INFO, {"flags": 1}),
    "set_dirty_flags": (i.IOMMU_HWPT_SET_DIRTY_TRACKING, {"flags": 2}),
    "get_dirty_flags": (i.IOMMU_HWPT_GET_DIRTY_BITMAP, {"flags": 2}),
    "get_dirty_reserved": (i.IOMMU_HWPT_GET_DIRTY_BITMAP, {"reserved": 1}),
    "invalidate_reserved": (i.IOMMU_HWPT_INVALIDATE, {"reserved": 1}),
    "fault_queue_flags": (i.IOMMU_FAULT_QUEUE_ALLOC, {"flags": 1}),
}


@pytest.mark.parametrize(("row", "fields"), REFUSED.values(), ids=list(REFUSED))
def test_what_is_not_known_is_not_supported(iommu, row, fields):
    assert errno_of(lambda: iommu(row, **fields)) == EOPNOTSUPP


NO_IDS: dict[str, tuple[Any, dict[str, int]]] = {
    "destroy": (i.IOMMU_DESTROY, {"id": 9}),
    "iova_ranges": (i.IOMMU_IOAS_IOVA_RANGES, {"ioas_id": 9}),
    "allow_iovas": (i.IOMMU_IOAS_ALLOW_IOVAS, {"ioas_id": 9}),
    "map": (i.IOMMU_IOAS_MAP, {"ioas_id": 9, "flags": RW, "length": PAGE}),
    "unmap": (i.IOMMU_IOAS_UNMAP, {"ioas_id": 9, "length": PAGE}),
    "copy_source": (i.IOMMU_IOAS_COPY, {"src_ioas_id": 9, "dst_ioas_id": 1, "flags": RW, "length": PAGE}),
    "huge_pages": (i.IOMMU_OPTION, {"option_id": 1, "op": 1, "object_id": 9}),
    "vfio_ioas_set": (i.IOMMU_VFIO_IOAS, {"op": 1, "ioas_id": 9}),
    "hwpt_alloc_device": (i.IOMMU_HWPT_ALLOC, {"dev_id": 1, "pt_id": 1}),  # an IOAS is no device
    "hw_info_device": (i.IOMMU_GET_HW_INFO, {"dev_id": 1}),
    "set_dirty": (i.IOMMU_HWPT_SET_DIRTY_TRACKING, {"hwpt_id": 1}),
    "get_dirty": (i.IOMMU_HWPT_GET_DIRTY_BITMAP, {"hwpt_id": 1, "length": PAGE, "page_size": PAGE}),
    "invalidate": (i.IOMMU_HWPT_INVALIDATE, {"hwpt_id": 1}),
}


@pytest.mark.parametrize(("row", "fields"), NO_IDS.values(), ids=list(NO_IDS))
def test_an_object_that_is_not_there_or_of_another_type(iommu, ioas, row, fields):
    assert ioas == 1
    assert errno_of(lambda: iommu(row, **fields)) == ENOENT


def test_numbers_are_given_again(iommu):
    first, second = iommu.ioas(), iommu.ioas()
    assert (first, second) == (1, 2)
    iommu.destroy(first)
    assert iommu.ioas() == first


# ---- IOAS_MAP

MAPS: dict[str, tuple[dict[str, int], int]] = {
    "no_right": ({"flags": i.IOMMU_IOAS_MAP_FIXED_IOVA}, EINVAL),
    "length_0": ({"length": 0}, EINVAL),
    "length_0_anywhere": ({"length": 0, "flags": RW}, EINVAL),
    "length_ulong_max": ({"length": ALL}, EOVERFLOW),
    "iova_ulong_max": ({"iova": ALL}, EOVERFLOW),
    "length_before_rights": ({"length": ALL, "flags": 0}, EOVERFLOW),
    "iova_wraps": ({"iova": ALL - PAGE + 2}, EOVERFLOW),
    "va_wraps": ({"user_va": ALL - 10, "length": PAGE}, EOVERFLOW),
    "length_near_max": ({"length": ALL - 1}, EINVAL),
    "nothing_there_yet": ({"user_va": 0x1000}, 0),
    "too_long_to_choose": ({"flags": RW, "user_va": 0, "length": 1 << 63}, EOVERFLOW),
    "exactly_there": ({"iova": 0x100000, "length": PAGE}, EEXIST),
    "the_last_byte": ({"iova": 0x100000 + 4 * PAGE - 1, "length": 1}, EEXIST),
    "around_it": ({"iova": 0x100000 - PAGE, "length": 8 * PAGE}, EEXIST),
    "right_behind_it": ({"iova": 0x100000 + 4 * PAGE}, 0),
    "at_the_top": ({"iova": ALL - PAGE, "length": PAGE}, 0),
}


@pytest.mark.parametrize(("fields", "error"), MAPS.values(), ids=list(MAPS))
def test_map(iommu, ioas, buffer, fields, error):
    iommu.map_fixed(ioas, buffer, 4 * PAGE, 0x100000)
    given = {"ioas_id": ioas, "flags": FIXED, "user_va": buffer, "length": PAGE, "iova": 0x500000} | fields
    assert errno_of(lambda: iommu(i.IOMMU_IOAS_MAP, **given)) == error


def test_the_chosen_address_keeps_the_place_in_the_page(iommu, ioas, buffer):
    assert iommu.map(ioas, buffer + 0x123, 10) % PAGE == 0x123
    assert iommu.map(ioas, buffer, PAGE) != 0


def test_the_chosen_address_keeps_the_alignment_of_the_memory_up_to_2_mib(iommu, ioas, buffer):
    assert buffer % (4 << 20) == 0
    iommu.map(ioas, buffer, PAGE)
    assert iommu.map(ioas, buffer, 8 << 20) % (2 << 20) == 0
    assert iommu.map(ioas, buffer + (1 << 20), 8 << 20) % (1 << 20) == 0


def test_allowed_ranges_are_for_choosing_only(iommu, ioas, buffer):
    iommu.allow(ioas, (0x100000, 0x101FFF))
    assert iommu.map(ioas, buffer, PAGE) == 0x100000
    assert iommu.map(ioas, buffer, PAGE) == 0x101000
    assert errno_of(iommu.map, ioas, buffer, PAGE) == 28  # ENOSPC
    iommu.map_fixed(ioas, buffer, PAGE, 0x900000)
    iommu.allow(ioas)
    assert iommu.map(ioas, buffer, PAGE) == PAGE


ALLOWS = {
    "start_is_last": ([(5, 5)], EINVAL),
    "start_behind_last": ([(6, 5)], EINVAL),
    "overlap": ([(0, 10), (10, 20)], EINVAL),
    "neighbours": ([(0, 10), (11, 20)], 0),
    "backwards": ([(11, 20), (0, 10)], 0),
}


@pytest.mark.parametrize(("ranges", "error"), ALLOWS.values(), ids=list(ALLOWS))
def test_allow_iovas(iommu, ioas, ranges, error):
    assert errno_of(iommu.allow, ioas, *ranges) == error


# ---- IOAS_COPY, IOAS_UNMAP

COPIES: dict[str, tuple[dict[str, int], int]] = {
    "no_right": ({"flags": i.IOMMU_IOAS_MAP_FIXED_IOVA}, EINVAL),
    "length_0": ({"length": 0}, EINVAL),
    "length_ulong_max": ({"length": ALL}, EOVERFLOW),
    "source_wraps": ({"src_iova": ALL - 10}, EOVERFLOW),
    "a_hole": ({"length": 8 * PAGE}, ENOENT),
    "before_it": ({"src_iova": 0x100000 - 1}, ENOENT),
    "writable_of_readable": ({"src_iova": 0x200000, "length": PAGE}, EPERM),
    "readable_of_readable": (
        {"src_iova": 0x200000, "length": PAGE, "flags": FIXED & ~i.IOMMU_IOAS_MAP_WRITEABLE},
        0,
    ),
    "a_byte_in_the_middle": ({"src_iova": 0x100123, "length": 1}, 0),
    "two_areas": ({"length": 4 * PAGE}, 0),
    "onto_itself": ({"dst_iova": 0x100000}, EEXIST),
    "no_destination": ({"dst_ioas_id": 9}, ENOENT),
}


@pytest.mark.parametrize(("fields", "error"), COPIES.values(), ids=list(COPIES))
def test_copy(iommu, ioas, buffer, fields, error):
    iommu.map_fixed(ioas, buffer, 2 * PAGE, 0x100000)
    iommu.map_fixed(ioas, buffer, 2 * PAGE, 0x102000)
    iommu.map_fixed(ioas, buffer, PAGE, 0x200000, FIXED & ~i.IOMMU_IOAS_MAP_WRITEABLE)
    given = {
        "flags": FIXED, "dst_ioas_id": ioas, "src_ioas_id": ioas,
        "length": 2 * PAGE, "src_iova": 0x100000, "dst_iova": 0x800000,
    } | fields  # fmt: skip
    assert errno_of(lambda: iommu(i.IOMMU_IOAS_COPY, **given)) == error


UNMAPS: dict[str, tuple[tuple[int, int], int, int]] = {
    "all_of_one": ((0x100000, 2 * PAGE), 0, 2 * PAGE),
    "more_than_one": ((0xFF000, 16 * PAGE), 0, 4 * PAGE),
    "its_first_page": ((0x100000, PAGE), ENOENT, 0),
    "its_last_page": ((0x101000, PAGE), ENOENT, 0),
    "cut_at_the_end": ((0x100000, 3 * PAGE), ENOENT, 2 * PAGE),
    "nothing": ((0x900000, PAGE), ENOENT, 0),
    "length_0": ((0x100000, 0), EINVAL, 0),
    "wraps": ((0x100000, ALL - 1), EOVERFLOW, 0),
    "length_ulong_max_but_not_all": ((0x100000, ALL), EOVERFLOW, 0),
    "all": ((0, ALL), 0, 4 * PAGE),
}


@pytest.mark.parametrize(("what", "error", "gone"), UNMAPS.values(), ids=list(UNMAPS))
def test_unmap(iommu, ioas, buffer, what, error, gone):
    """Whole areas before a cut are gone when ENOENT comes."""
    iommu.map_fixed(ioas, buffer, 2 * PAGE, 0x100000)
    iommu.map_fixed(ioas, buffer, 2 * PAGE, 0x102000)
    if error:
        assert errno_of(iommu.unmap, ioas, *what) == error
    else:
        assert iommu.unmap(ioas, *what) == gone
    assert iommu.unmap(ioas, 0, ALL) == 4 * PAGE - gone


# ---- options


def test_rlimit_mode_needs_the_capability_and_no_objects(kernel, proc, iommu):
    put = lambda who: errno_of(who.option, i.IOMMU_OPTION_RLIMIT_MODE, i.IOMMU_OPTION_OP_SET, 1)  # noqa: E731
    proc.chmod("/dev/iommu", 0o666)
    assert put(Iommufd(kernel.process(uid=1000))) == EPERM
    assert put(iommu) == 0
    iommu.ioas()
    assert put(iommu) == EBUSY


# ---- fault queues


def test_a_fault_queue(kernel, proc, iommu):
    row = iommu(i.IOMMU_FAULT_QUEUE_ALLOC)
    fd = row.out_fault_fd
    assert fd in proc.fds.cloexec
    assert proc.fds.get(fd).inode.describe() == "anon_inode:[iommufd-pgfault]"
    assert proc.read(fd, 40) == b""
    assert errno_of(proc.read, fd, 41) == ESPIPE
    assert errno_of(proc.write, fd, bytes(9)) == ESPIPE
    assert errno_of(proc.write, fd, bytes(8)) == EINVAL  # no such cookie
    assert errno_of(proc.lseek, fd, 0, os.SEEK_SET) == ESPIPE
    assert proc.poll([(fd, EPOLLIN | EPOLLOUT)]) == [(fd, EPOLLOUT)]
    assert errno_of(iommu.destroy, row.out_fault_id) == EBUSY
    proc.close(fd)
    iommu.destroy(row.out_fault_id)


def _note(answers: list[tuple[int, int]], group: int, code: int) -> None:
    answers.append((group, code))


def test_groups_of_faults_are_read_whole_and_answered_by_cookie(kernel, proc, iommu):
    """Delivered by hand, as a device that asks for pages would."""

    class Handle:
        class idev:
            id = 77

    row = iommu(i.IOMMU_FAULT_QUEUE_ALLOC)
    fd: int = row.out_fault_fd
    answers: list[tuple[int, int]] = []
    handle: Any = Handle
    queue = proc.fds.get(fd).fault
    for n in (1, 2):
        faults = [Fault(flags=2, pasid=n, grpid=9, perm=1, addr=PAGE * k) for k in range(n)]
        queue.handle(IopfGroup(faults, partial(_note, answers, n), handle))
    assert proc.poll([(fd, EPOLLIN)]) == [(fd, EPOLLIN)]
    first = proc.read(fd, 80)  # the second group has two and does not fit
    assert len(first) == 40
    one = i.iommu_hwpt_pgfault.from_bytes(first)
    assert (one.dev_id, one.pasid, one.grpid, one.perm, one.length) == (77, 1, 9, 1, 0)
    assert errno_of(proc.read, fd, 40) == EINVAL
    second = proc.read(fd, 120)
    assert len(second) == 80
    cookie = i.iommu_hwpt_pgfault.from_bytes(second[40:]).cookie
    answer = lambda cookie, code: bytes(i.iommu_hwpt_page_response(cookie=cookie, code=code))  # noqa: E731
    assert errno_of(proc.write, fd, answer(cookie, 2)) == EINVAL
    assert proc.write(fd, answer(cookie, 1) + answer(99, 0)) == 8
    assert answers == [(2, 1)]
    proc.close(fd)
    iommu.destroy(row.out_fault_id)  # who still waits gets a bad answer
    assert answers == [(2, 1), (1, 1)]


# ---- VFIO's ioctls


@pytest.fixture
def compat(iommu, ioas):
    """One IOAS stands for a container."""
    iommu(i.IOMMU_VFIO_IOAS, op=i.IOMMU_VFIO_IOAS_SET, ioas_id=ioas)
    return iommu


EXTENSIONS = {1: 1, 2: 0, 3: 1, 4: 1, 5: 0, 6: 0, 7: 0, 8: 0, 9: 1, 10: 0, 11: 0}


@pytest.mark.parametrize(("number", "answer"), EXTENSIONS.items())
def test_check_extension(compat, number, answer):
    """8 is no-IOMMU mode, of kernels that were built with it; 4 is true where no page table says else."""
    assert compat.proc.ioctl(compat.fd, v.VFIO_CHECK_EXTENSION, number) == answer


def test_no_iommu_mode_of_kernels_that_have_it():
    kernel = boot(Machine("none", modules={"iommufd": ""}), "linux-6.12", config="VFIO_NOIOMMU")
    proc = kernel.process()
    assert proc.ioctl(proc.open("/dev/iommu", os.O_RDWR), v.VFIO_CHECK_EXTENSION, v.VFIO_NOIOMMU_IOMMU) == 1
    proc.exit()
    kernel.shutdown()


def test_coherency_without_an_ioas_is_enodev(iommu):
    assert errno_of(iommu.proc.ioctl, iommu.fd, v.VFIO_CHECK_EXTENSION, v.VFIO_DMA_CC_IOMMU) == ENODEV


@pytest.mark.parametrize(("type", "error"), [(1, 0), (3, 0), (2, EINVAL), (8, EINVAL), (0, EINVAL)])
def test_set_iommu(compat, type, error):
    for _ in range(2):  # it may be repeated
        assert errno_of(compat.proc.ioctl, compat.fd, v.VFIO_SET_IOMMU, type) == error


def test_dirty_pages_is_enotty(compat):
    row = v.vfio_iommu_type1_dirty_bitmap(argsz=8)
    assert errno_of(compat.proc.ioctl, compat.fd, v.VFIO_IOMMU_DIRTY_PAGES, row) == ENOTTY


def dma_map(compat: Iommufd, va: int, iova: int, size: int, flags: int = 3, argsz: int = 32) -> int | None:
    row = v.vfio_iommu_type1_dma_map(argsz=argsz, flags=flags, vaddr=va, iova=iova, size=size)
    return errno_of(compat.proc.ioctl, compat.fd, v.VFIO_IOMMU_MAP_DMA, row)


def dma_unmap(compat: Iommufd, iova: int, size: int, flags: int = 0, argsz: int = 24) -> tuple[int | None, int]:
    row = v.vfio_iommu_type1_dma_unmap(argsz=argsz, flags=flags, iova=iova, size=size)
    return errno_of(compat.proc.ioctl, compat.fd, v.VFIO_IOMMU_UNMAP_DMA, row), row.size


DMA_MAPS = {
    "good": ({}, 0),
    "argsz": ({"argsz": 31}, EINVAL),
    "vaddr_flag": ({"flags": v.VFIO_DMA_MAP_FLAG_VADDR}, EINVAL),
    "neither_right": ({"flags": 0}, 0),
    "overlap": ({"iova": 0x100000}, EEXIST),
}


@pytest.mark.parametrize(("fields", "error"), DMA_MAPS.values(), ids=list(DMA_MAPS))
def test_dma_map(compat, buffer, fields, error):
    """Without rights too: what a domain says to that comes when there is one."""
    assert dma_map(compat, buffer, 0x100000, PAGE) == 0
    assert dma_map(compat, **{"va": buffer, "iova": 0x200000, "size": PAGE} | fields) == error


UNMAP_ALL = v.VFIO_DMA_UNMAP_FLAG_ALL
DMA_UNMAPS: dict[str, tuple[int, dict[str, int], tuple[int, int]]] = {
    "whole": (3, {}, (0, 4 * PAGE)),
    "nothing": (3, {"iova": 0x900000}, (0, 0)),
    "argsz": (3, {"argsz": 23}, (EINVAL, 4 * PAGE)),
    "bitmap_flag": (3, {"flags": v.VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP}, (EINVAL, 4 * PAGE)),
    "vaddr_flag": (3, {"flags": v.VFIO_DMA_UNMAP_FLAG_VADDR}, (EINVAL, 4 * PAGE)),
    "all_with_an_address": (3, {"flags": UNMAP_ALL, "size": 0}, (EINVAL, 0)),
    "all_with_a_size": (3, {"flags": UNMAP_ALL, "iova": 0}, (EINVAL, 4 * PAGE)),
    "all": (3, {"flags": UNMAP_ALL, "iova": 0, "size": 0}, (0, 4 * PAGE)),
    "size_0": (3, {"size": 0}, (EINVAL, 0)),
    "v2_in_the_middle": (3, {"iova": 0x101000, "size": PAGE}, (ENOENT, 0)),
    "v1_in_the_middle": (1, {"iova": 0x101000, "size": PAGE}, (0, PAGE)),
    "v1_within_a_page": (1, {"iova": 0x101000, "size": 100}, (EINVAL, 100)),
}


@pytest.mark.parametrize(("type", "fields", "answer"), DMA_UNMAPS.values(), ids=list(DMA_UNMAPS))
def test_dma_unmap(compat, buffer, type, fields, answer):
    """The size is written back when it was unmapped or could not be, and not when it was not tried."""
    compat.proc.ioctl(compat.fd, v.VFIO_SET_IOMMU, type)
    assert dma_map(compat, buffer, 0x100000, 4 * PAGE) == 0
    assert dma_unmap(compat, **{"iova": 0x100000, "size": 4 * PAGE} | fields) == answer


def test_unmapping_nothing_three_ways(compat, ioas, buffer):
    """Pitfall: the container's ioctl calls it success, IOAS_UNMAP does not; a part is ENOENT here, EINVAL of type 1."""
    assert dma_unmap(compat, 0x100000, PAGE) == (0, 0)
    assert errno_of(compat.unmap, ioas, 0x100000, PAGE) == ENOENT
    dma_map(compat, buffer, 0x100000, 2 * PAGE)
    assert dma_unmap(compat, 0x100000, PAGE) == (ENOENT, 0)


def test_a_group_brings_a_compatible_ioas(kernel, proc, iommu, buffer):
    """VFIO_GROUP_SET_CONTAINER with a descriptor of /dev/iommu; a second group shares it."""
    devices = [add_minimal(kernel, f"minimal{n}") for n in range(2)]
    groups = [open_group(proc, device) for device in devices]
    for group in groups:
        proc.ioctl(group, v.VFIO_GROUP_SET_CONTAINER, bytearray(struct.pack("<i", iommu.fd)))
    assert iommu(i.IOMMU_VFIO_IOAS, op=i.IOMMU_VFIO_IOAS_GET).ioas_id == 1
    proc.ioctl(iommu.fd, v.VFIO_SET_IOMMU, v.VFIO_TYPE1v2_IOMMU)
    assert dma_map(iommu, buffer, 0x100000, PAGE) == 0
    name = bytearray(b"minimal0\0")
    device = proc.ioctl(groups[0], v.VFIO_GROUP_GET_DEVICE_FD, name)
    assert errno_of(iommu.destroy, 1) == EBUSY  # the device is attached to it
    assert errno_of(dma_map, iommu, buffer, 0x200000, 100) == 0
    assert dma_map(iommu, buffer, 0x200000, 100) == EINVAL  # and needs whole pages
    for fd in (device, *groups):
        proc.close(fd)
    for vdev in devices:
        remove_minimal(vdev)


# ---- page tables of a physical device


@pytest.fixture
def bound(vdev, cdev, iommu, ioas):
    """A device that is bound: its number, and the descriptor."""
    return cdev.bind(iommu.fd), cdev


physical = pytest.mark.parametrize("vdev", ["physical"], indirect=True)
S1 = {"data_type": i.IOMMU_HWPT_DATA_VTD_S1, "data_len": 24}
HWPTS: dict[str, tuple[str, dict[str, Any], int]] = {
    "of_an_ioas": ("ioas", {}, 0),
    "of_a_device": ("device", {}, EINVAL),
    "of_nothing": ("nothing", {}, EINVAL),
    "nest_parent": ("ioas", {"flags": 1}, 0),
    "dirty_tracking": ("ioas", {"flags": 2}, 0),
    "unknown_flag": ("ioas", {"flags": 1 << 7}, EOPNOTSUPP),
    "pasid_is_newer": ("ioas", {"flags": 8}, EOPNOTSUPP),
    "fault_queue_on_an_ioas": ("ioas", {"flags": 4}, EOPNOTSUPP),
    "fault_queue_of_a_parent": ("ioas", {"flags": 1 | 4}, EOPNOTSUPP),
    "no_type_with_length": ("ioas", {"data_len": 24}, EINVAL),
    "type_without_length": ("ioas", {"data_type": 1}, EINVAL),
    "data_for_an_ioas": ("ioas", S1, EOPNOTSUPP),
    "nested": ("parent", S1, 0),
    "nested_without_data": ("parent", {}, EOPNOTSUPP),
    "nested_of_another_type": ("parent", S1 | {"data_type": 2}, EOPNOTSUPP),
    "nested_too_short": ("parent", S1 | {"data_len": 23}, EINVAL),
    "nested_too_long": ("parent", S1 | {"data_len": 32}, EINVAL),
    "nested_bad_pointer": ("parent", S1 | {"data_uptr": 8}, EFAULT),
    "nested_parent_flag": ("parent", S1 | {"flags": 1}, EOPNOTSUPP),
    "nested_bad_fault_id": ("parent", S1 | {"flags": 4, "fault_id": 99}, ENOENT),
    "nested_on_plain": ("plain", S1, EINVAL),
    "nested_on_nested": ("nested", S1, EINVAL),
}


@physical
@pytest.mark.parametrize(("pt", "fields", "error"), HWPTS.values(), ids=list(HWPTS))
def test_hwpt_alloc(iommu, ioas, bound, pt, fields, error):
    device, cdev = bound
    data = iommu.put(bytes(i.iommu_hwpt_vtd_s1(addr_width=48)))
    plain, parent = iommu.hwpt(device, ioas), iommu.hwpt(device, ioas, i.IOMMU_HWPT_ALLOC_NEST_PARENT)
    nested = iommu.hwpt(device, parent, **S1, data_uptr=data)
    pts = {"ioas": ioas, "device": device, "nothing": 99, "plain": plain, "parent": parent, "nested": nested}
    assert errno_of(lambda: iommu.hwpt(device, pts[pt], **{"data_uptr": data} | fields)) == error
    assert errno_of(iommu.destroy, parent) == EBUSY
    cdev.close()


WIDTHS = {39: EINVAL, 57: EINVAL, 48: 0}


@physical
@pytest.mark.parametrize(("width", "error"), WIDTHS.items())
def test_a_nested_table_is_looked_at_when_it_is_attached(iommu, ioas, bound, width, error):
    device, cdev = bound
    parent = iommu.hwpt(device, ioas, i.IOMMU_HWPT_ALLOC_NEST_PARENT)
    data = iommu.put(bytes(i.iommu_hwpt_vtd_s1(addr_width=width)))
    nested = iommu.hwpt(device, parent, **S1, data_uptr=data)
    cdev.attach(ioas)
    assert errno_of(cdev.attach, nested) == error
    cdev.close()


INVALIDATES: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[int, int]]] = {
    "good": ({}, {}, (0, 2)),
    "probe": ({}, {"entry_num": 0, "data_uptr": 0, "entry_len": 0}, (0, 0)),
    "probe_of_another_type": ({}, {"entry_num": 0, "data_type": 1}, (EINVAL, 0)),
    "another_type": ({}, {"data_type": 1}, (EINVAL, 0)),
    "entry_len": ({}, {"entry_len": 23}, (EINVAL, 0)),
    "no_pointer": ({}, {"data_uptr": 0}, (EINVAL, 0)),
    "bad_pointer": ({}, {"data_uptr": 8}, (EFAULT, 0)),
    "too_many": ({}, {"entry_num": (1 << 19) + 1}, (EINVAL, 0)),
    "unknown_flag_in_the_second": ({"flags": 2}, {}, (EOPNOTSUPP, 1)),
    "reserved_in_the_second": ({"reserved": 1}, {}, (EOPNOTSUPP, 1)),
    "within_a_page": ({"addr": 5}, {}, (EINVAL, 1)),
    "everything_from_an_address": ({"addr": PAGE, "npages": ALL}, {}, (EINVAL, 1)),
    "everything": ({"npages": ALL}, {}, (0, 2)),
}


@physical
@pytest.mark.parametrize(("entry", "fields", "answer"), INVALIDATES.values(), ids=list(INVALIDATES))
def test_hwpt_invalidate(iommu, ioas, bound, entry, fields, answer):
    device, cdev = bound
    parent = iommu.hwpt(device, ioas, i.IOMMU_HWPT_ALLOC_NEST_PARENT)
    nested = iommu.hwpt(device, parent, **S1, data_uptr=iommu.put(bytes(i.iommu_hwpt_vtd_s1(addr_width=48))))
    entries = bytes(i.iommu_hwpt_vtd_s1_invalidate(flags=1)) + bytes(i.iommu_hwpt_vtd_s1_invalidate(**entry))
    given = {"data_uptr": iommu.put(entries), "entry_len": 24, "entry_num": 2} | fields
    cmd = i.iommu_hwpt_invalidate(size=32, hwpt_id=nested, **given)
    error = errno_of(iommu.proc.ioctl, iommu.fd, i.IOMMU_HWPT_INVALIDATE, cmd)
    assert (error, cmd.entry_num) == answer
    cdev.close()


def test_an_invalidation_that_fails_says_that_none_was_done(iommu, ioas):
    cmd = i.iommu_hwpt_invalidate(size=32, hwpt_id=ioas, entry_num=5, data_uptr=8, entry_len=24)
    assert errno_of(iommu.proc.ioctl, iommu.fd, i.IOMMU_HWPT_INVALIDATE, cmd) == ENOENT
    assert cmd.entry_num == 0


@physical
def test_hw_info(iommu, ioas, bound):
    """VT-d's registers, by the fields that drivers/iommu/intel/iommu.h takes from them."""
    device, cdev = bound
    at = iommu.put(b"\xaa" * 32)
    row = iommu(i.IOMMU_GET_HW_INFO, dev_id=device, data_len=32, data_uptr=at)
    assert (row.data_len, row.out_data_type) == (24, i.IOMMU_HW_INFO_TYPE_INTEL_VTD)
    info = i.iommu_hw_info_vtd.from_bytes(iommu.proc.mem.read(at, 24))
    assert iommu.proc.mem.read(at + 24, 8) == bytes(8)
    cap, ecap = info.cap_reg, info.ecap_reg
    assert ((cap >> 16 & 0x3F) + 1, cap >> 8 & 0x1F, cap >> 34 & 0xF) == (48, 1 << 2, 3)  # MGAW, SAGAW, SLLPS
    # SMTS, NEST, SLADS, PASID, SC, IR
    assert [ecap >> bit & 1 for bit in (43, 26, 45, 40, 7, 3)] == [1] * 6
    assert row.out_capabilities == i.IOMMU_HW_CAP_DIRTY_TRACKING
    assert errno_of(lambda: iommu(i.IOMMU_GET_HW_INFO, dev_id=device, data_len=1, data_uptr=8)) == EFAULT
    assert iommu(i.IOMMU_GET_HW_INFO, dev_id=device).data_len == 24
    cdev.close()


@physical
def test_addresses_that_a_device_reserves(kernel, iommu, ioas, buffer, bound):
    """The window of interrupts; what is mapped there keeps the device from being attached."""
    _, cdev = bound
    msi = 0xFEE00000
    iommu.map_fixed(ioas, buffer, PAGE, msi)
    assert errno_of(cdev.attach, ioas) == EADDRINUSE
    iommu.unmap(ioas, msi, PAGE)
    iommu.allow(ioas, (msi, msi + PAGE))
    assert errno_of(cdev.attach, ioas) == EADDRINUSE
    iommu.allow(ioas)
    cdev.attach(ioas)
    assert iommu.ranges(ioas) == ([(0, 0xFEDFFFFF), (0xFEF00000, (1 << 48) - 1)], PAGE)
    assert errno_of(iommu.map_fixed, ioas, buffer, PAGE, msi) == EINVAL
    assert errno_of(iommu.map_fixed, ioas, buffer, PAGE, 1 << 48) == EINVAL
    assert errno_of(iommu.allow, ioas, (msi, msi + PAGE)) == EADDRINUSE
    cdev.detach()
    assert iommu.ranges(ioas) == ([(0, ALL)], 1)
    cdev.close()


@physical
def test_what_is_mapped_must_suit_a_device_that_comes(iommu, ioas, buffer, bound):
    _, cdev = bound
    iommu.map_fixed(ioas, buffer, 100, 0x100000)
    assert errno_of(cdev.attach, ioas) == EADDRINUSE
    iommu.unmap(ioas, 0x100000, 100)
    iommu.map_fixed(ioas, 0x123000, PAGE, 0x100000)  # nothing is there
    assert errno_of(cdev.attach, ioas) == EFAULT
    cdev.close()


DIRTIES: dict[str, tuple[dict[str, Any], int]] = {
    "good": ({}, 0),
    "length_0": ({"length": 0}, EINVAL),
    "page_size_0": ({"page_size": 0}, EINVAL),
    "iova_within_a_page": ({"iova": 0x100800}, EINVAL),
    "end_within_a_page": ({"length": PAGE + 1}, EINVAL),
    "larger_pages": ({"page_size": 2 << 20}, EINVAL),
    "smaller_pages": ({"page_size": 512}, 0),
    "wraps": ({"length": ALL - 1}, EOVERFLOW),
    "tracking_is_off": ({"on": 0}, 0),
    "a_hole": ({"iova": 0x900000}, 0),
    "bad_pointer": ({"data": 8}, 0),
    "made_without": ({"hwpt": "plain"}, EOPNOTSUPP),
}


@physical
@pytest.mark.parametrize(("fields", "error"), DIRTIES.values(), ids=list(DIRTIES))
def test_get_dirty_bitmap(iommu, ioas, buffer, bound, fields, error):
    """What goes wrong while the tables are read is not told in Linux 6.12: iommu_read_and_clear_dirty()."""
    device, cdev = bound
    tracks, plain = iommu.hwpt(device, ioas, i.IOMMU_HWPT_ALLOC_DIRTY_TRACKING), iommu.hwpt(device, ioas)
    assert errno_of(lambda: iommu(i.IOMMU_HWPT_SET_DIRTY_TRACKING, hwpt_id=plain, flags=1)) == EOPNOTSUPP
    cdev.attach(tracks)
    iommu.map_fixed(ioas, buffer, 16 * PAGE, 0x100000)
    fields = dict(fields)
    iommu(i.IOMMU_HWPT_SET_DIRTY_TRACKING, hwpt_id=tracks, flags=fields.pop("on", 1))
    hwpt = plain if fields.pop("hwpt", "") else tracks
    given = {"iova": 0x100000, "length": 16 * PAGE, "page_size": PAGE, "data": iommu.put(bytes(16))} | fields
    assert errno_of(lambda: iommu(i.IOMMU_HWPT_GET_DIRTY_BITMAP, hwpt_id=hwpt, **given)) == error
    cdev.close()


@physical
def test_dirty_pages_of_a_device(kernel, iommu, ioas, buffer, bound):
    device, cdev = bound
    hwpt = iommu.hwpt(device, ioas, i.IOMMU_HWPT_ALLOC_DIRTY_TRACKING)
    cdev.attach(hwpt)
    iommu.map_fixed(ioas, buffer, 16 * PAGE, 0x100000)
    space = kernel.sub(Pci).devices["0000:00:05.0"].slot.space
    at = iommu.put(bytes(8))

    def ask(flags: int = 0) -> int:
        iommu.proc.mem.write(at, bytes(8))
        iommu(
            i.IOMMU_HWPT_GET_DIRTY_BITMAP,
            hwpt_id=hwpt, flags=flags, iova=0x100000, length=16 * PAGE, page_size=PAGE, data=at,
        )  # fmt: skip
        return int.from_bytes(iommu.proc.mem.read(at, 8), "little")

    space.write(0x100000, b"before tracking")
    iommu(i.IOMMU_HWPT_SET_DIRTY_TRACKING, hwpt_id=hwpt, flags=1)
    assert ask() == 0
    space.write(0x103FFF, b"two pages")
    space.read(0x108000, 4)
    assert ask(i.IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR) == 0b11000
    assert ask() == 0b11000
    assert ask() == 0
    space.write(0x103000, b"again")
    assert ask() == 0b1000
    cdev.close()


@physical
def test_written_pages_in_a_row_are_one_stretch_of_bits(kernel, iommu, ioas, bound, monkeypatch):
    """Two thousand pages are two accesses to the user's bitmap; a bit that is set there stays."""
    device, cdev = bound
    hwpt, pages = iommu.hwpt(device, ioas, i.IOMMU_HWPT_ALLOC_DIRTY_TRACKING), 2048
    cdev.attach(hwpt)
    iommu.option(i.IOMMU_OPTION_HUGE_PAGES, i.IOMMU_OPTION_OP_SET, 0, ioas)
    iommu.map_fixed(ioas, shared(iommu.proc, pages * PAGE), pages * PAGE, 0x100000)
    iommu(i.IOMMU_HWPT_SET_DIRTY_TRACKING, hwpt_id=hwpt, flags=1)
    space = kernel.sub(Pci).devices["0000:00:05.0"].slot.space
    for n in range(pages):
        if n not in (100, 101):
            space.write(0x100000 + n * PAGE, b"x")
    rows, set_ = [], IovaBitmap.set

    def noted(self, *row):
        rows.append(row)
        set_(self, *row)

    monkeypatch.setattr(IovaBitmap, "set", noted)
    at = iommu.put((1 << 101).to_bytes(pages // 8, "little"))
    iommu(i.IOMMU_HWPT_GET_DIRTY_BITMAP, hwpt_id=hwpt, iova=0x100000, length=pages * PAGE, page_size=PAGE, data=at)
    assert int.from_bytes(iommu.proc.mem.read(at, pages // 8), "little") == (1 << pages) - 1 - (1 << 100)
    assert rows == [(0x100000, 100 * PAGE), (0x100000 + 102 * PAGE, (pages - 102) * PAGE)]
    cdev.close()


def test_bits_before_a_page_that_is_not_there_are_set(kernel, proc):
    """iova_bitmap_set() in a bitmap whose second page of memory nobody has: the first one's bits, to the last."""
    at = shared(proc, 2 * PAGE)
    proc.munmap(at + PAGE, PAGE)
    with kernel.as_task(proc.task):
        bitmap = IovaBitmap(kernel, 0, 1 << 40, PAGE, at + PAGE - 4)
        bitmap.set(5 * PAGE, 1 << 30)
    assert proc.mem.read(at + PAGE - 4, 4) == b"\xe0\xff\xff\xff"


@physical
def test_two_devices_of_one_ioas_share_the_page_table(kernel, proc, iommu, ioas, bound):
    _, cdev = bound
    first = cdev.attach(ioas)
    detach(proc, "0000:00:06.0")
    other = Cdev(proc, sysfs("0000:00:06.0"))
    other.bind(iommu.fd)
    assert other.attach(ioas) == first
    cdev.detach()
    assert errno_of(iommu.destroy, first) == EBUSY
    other.detach()
    assert errno_of(iommu.destroy, first) == ENOENT  # it went with the last
    other.close()
    cdev.close()
    reattach(proc, "0000:00:06.0")
