"""/dev/ioasid: the ioctls and rules of drivers/iommu/ioasid_user.c, and what is left when its clients go."""

from __future__ import annotations

import errno
import os
import struct
from typing import Any

import pytest

import pykernel
from pykernel.iommu.ioasid import (
    Ioasid,
    IoasidState,
    ioasid_find_mm_set,
    ioasid_get,
    ioasid_put,
)
from pykernel.kernel import Leak
from pykernel.machine import parse

BASE = ord("i") << 8 | 100
GET_API_VERSION, GET_INFO, REQUEST_ALLOC, REQUEST_FREE = range(BASE, BASE + 4)
MACHINE = "[modules]\nioasid_user = ''\n"


class Box:
    def __init__(self) -> None:
        self.kernel = pykernel.boot(parse(MACHINE))
        self.kernel.up()
        self.core = self.kernel.sub(Ioasid)
        self.clients: list[Any] = []

    def client(self, *, uid: int = 0):
        p = self.kernel.process(uid=uid)
        self.clients.append(p)
        return p, p.open("/dev/ioasid", os.O_RDWR)

    def leaks(self) -> list[str]:
        return self.kernel.leaks()


@pytest.fixture
def box():
    made = Box()
    yield made
    for p in made.clients:
        p.exit()
    made.core._check()
    made.kernel.shutdown()


def alloc(p, fd, low=1, high=0xFFFFF, *, argsz=16, flags=0) -> int:
    return p.ioctl(fd, REQUEST_ALLOC, bytearray(struct.pack("<IIII", argsz, flags, low, high)))


def free(p, fd, number) -> int:
    return p.ioctl(fd, REQUEST_FREE, bytearray(struct.pack("<i", number)))


def fails(fn, *args, **kw) -> int:
    try:
        fn(*args, **kw)
    except OSError as e:
        return e.errno or 0
    return 0


def test_node(box):
    """A misc device of mode 0666, which anybody may open."""
    p, fd = box.client(uid=1000)
    assert p.stat("/dev/ioasid").st_mode == 0o020666
    assert fails(p.lseek, fd, 0, os.SEEK_SET) == errno.ESPIPE


def test_node_is_only_where_the_module_is():
    kernel = pykernel.boot(parse(""))
    kernel.up()
    p = kernel.process()
    assert fails(p.open, "/dev/ioasid", os.O_RDWR) == errno.ENOENT
    p.exit()
    kernel.shutdown()


def test_open_makes_an_mm_set_of_quota_1000_and_the_second_open_is_ebusy(box):
    p, fd = box.client()
    made = ioasid_find_mm_set(box.kernel, p.task.mm)
    assert made is not None
    assert (made.quota, made.nr_ioasids) == (1000, 0)
    assert fails(p.open, "/dev/ioasid", os.O_RDWR) == errno.EBUSY
    p.close(fd)
    p.close(p.open("/dev/ioasid", os.O_RDWR))


def test_get_api_version(box):
    p, fd = box.client()
    assert p.ioctl(fd, GET_API_VERSION, 0) == 0


def test_get_info(box):
    """{argsz, flags, ioasid_bits}: 31 bits; a short struct is EINVAL, a bad pointer EFAULT."""
    p, fd = box.client()
    buffer = bytearray(struct.pack("<III", 12, 7, 0))
    assert p.ioctl(fd, GET_INFO, buffer) == 0
    assert struct.unpack("<III", buffer) == (12, 0, 31)
    assert fails(p.ioctl, fd, GET_INFO, bytearray(struct.pack("<III", 8, 0, 0))) == errno.EINVAL
    assert fails(p.ioctl, fd, GET_INFO, 0) == errno.EFAULT


def test_request_alloc_gives_the_lowest_of_the_range_both_ends_included(box):
    p, fd = box.client()
    assert [alloc(p, fd, 7, 8), alloc(p, fd, 7, 8)] == [7, 8]
    assert fails(alloc, p, fd, 7, 8) == errno.EINVAL
    assert alloc(p, fd, 0, 0x7FFFFFFF) == 1, "0 is never given out"


@pytest.mark.parametrize(
    ("why", "kw"),
    [
        ("argsz", {"argsz": 15}),
        ("flags", {"flags": 1}),
        ("the range is empty", {"low": 9, "high": 8}),
        ("only 0", {"low": 0, "high": 0}),
        ("above 20 bits, not masked", {"low": 1 << 20, "high": (1 << 31) - 1}),
    ],
)
def test_request_alloc_einval(box, why, kw):
    p, fd = box.client()
    assert fails(alloc, p, fd, **kw) == errno.EINVAL


def test_request_alloc_stops_at_the_quota(box):
    p, fd = box.client()
    assert [alloc(p, fd) for _ in range(1000)] == list(range(1, 1001))
    assert fails(alloc, p, fd) == errno.EINVAL
    assert "IOASID set out of quota 1000" in [r.text for r in box.kernel.log.records]


def test_request_free(box):
    p, fd = box.client()
    number = alloc(p, fd)
    assert free(p, fd, number) == 0
    assert number not in box.core.ids
    assert fails(free, p, fd, -1) == errno.EINVAL
    assert fails(p.ioctl, fd, REQUEST_FREE, 0) == errno.EFAULT


def test_f_request_free_of_what_is_not_the_callers_is_einval(box):
    """The module says 0 for any ID; who is told that the other's ID is gone would use it again."""
    (p, a), (q, b) = box.client(), box.client()
    number = alloc(p, a)
    assert fails(free, q, b, number) == errno.EINVAL
    assert fails(free, q, b, 4711) == errno.EINVAL
    assert box.core.ids[number].refs == 1


def test_request_free_while_it_is_used_is_0_each_time(box):
    p, fd = box.client()
    number = alloc(p, fd)
    ioasid_get(box.kernel, None, number)
    assert [free(p, fd, number), free(p, fd, number)] == [0, 0]
    assert box.core.ids[number].state is IoasidState.FREE_PENDING
    assert ioasid_put(box.kernel, None, number)


def test_unknown_ioctl_is_einval(box):
    p, fd = box.client()
    assert fails(p.ioctl, fd, BASE + 4, 0) == errno.EINVAL


def test_close_frees_the_ids_and_the_set(box):
    p, fd = box.client()
    alloc(p, fd)
    alloc(p, fd)
    p.close(fd)
    assert not box.core.ids
    assert not box.core.sets
    assert box.core.capacity_avail == box.core.capacity


def test_close_while_an_id_is_used_leaves_the_set_until_the_last_put(box):
    p, fd = box.client()
    number = alloc(p, fd)
    ioasid_get(box.kernel, None, number)
    p.close(fd)
    assert fails(p.open, "/dev/ioasid", os.O_RDWR) == errno.EBUSY
    assert any(f"IOASID {number} (FREE_PENDING, 1 reference)" in line for line in box.leaks())
    assert ioasid_put(box.kernel, None, number)
    assert not box.core.sets
    p.close(p.open("/dev/ioasid", os.O_RDWR))


def test_a_killed_client_leaves_nothing(box):
    p, fd = box.client()
    alloc(p, fd)
    p.exit()
    assert not box.core.ids
    assert not box.leaks()


def test_what_a_client_holds_is_in_the_leak_report():
    kernel = pykernel.boot(parse(MACHINE))
    kernel.track_origins = True
    p = kernel.process()
    fd = p.open("/dev/ioasid", os.O_RDWR)
    number = alloc(p, fd)
    with pytest.raises(Leak, match=rf"IOASID {number} \(IDLE, 1 reference\) of the set of .*test_ioasid_user"):
        kernel.shutdown()


def test_a_user_that_never_lets_go_is_in_the_leak_report_after_its_client_died():
    kernel = pykernel.boot(parse(MACHINE))
    p = kernel.process()
    fd = p.open("/dev/ioasid", os.O_RDWR)
    number = alloc(p, fd)
    ioasid_get(kernel, None, number)
    p.exit()
    with pytest.raises(Leak, match=rf"IOASID {number} \(FREE_PENDING, 1 reference\)"):
        kernel.shutdown()


def test_an_inherited_file_is_the_same_set(box):
    """fork(): the child has another address space, the file is the parent's; the last close frees."""
    p, fd = box.client()
    number = alloc(p, fd)
    child = p.fork()
    assert alloc(child, fd) == number + 1
    p.close(fd)
    assert set(box.core.ids) == {number, number + 1}
    child.exit()
    assert not box.core.ids
