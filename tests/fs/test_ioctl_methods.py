"""``@ioctl``: a driver's file answers ioctls by methods; what goes in and out is what the number says (ioctl(2))."""

from __future__ import annotations

import re
import struct
from collections.abc import MutableSequence
from errno import EFAULT, EINVAL, EIO, ENOTTY
from typing import Annotated, Any

import pytest
from errnos import errno_of

from pykernel.base.core import Device, cdev_device_add, cdev_device_del
from pykernel.fs.chardev import alloc_chrdev_region, unregister_chrdev_region
from pykernel.fs.ioctl import IoctlFile, ioctl
from pykernel.fs.vfs import File
from pykernel.mm.uaccess import copy_from_user
from pykernel.uapi.ioctl import _IO, _IOR, _IOW, _IOWR
from pykernel.uapi.struct import ZERO, Struct, u32, u64


class pair(Struct):
    a: u32 = 0
    b: u32 = 0


class info(Struct):
    argsz: u32 = 0
    flags: u32 = 0
    late: u64 = 0


NOTHING, VALUE = _IO(0x70, 0), _IO(0x70, 1)
GET, SET, BOTH = _IOR(0x70, 2, pair), _IOW(0x70, 3, pair), _IOWR(0x70, 4, pair)
GET_U64, SET_INT, SWAP_INT = _IOR(0x70, 5, "__u64"), _IOW(0x70, 6, "int"), _IOWR(0x70, 7, "int")
INFO = _IO(0x70, 8, info, minsz="flags")
LATER = _IO(0x70, 9)
S64, ARRAY = _IOW(0x70, 10, "__s64"), _IOWR(0x70, 11, "char[4]")
GET_U8, WRONG = _IOR(0x70, 12, "__u8"), _IO(0x70, 14)


class table(Struct):
    count: u32 = 0
    rows: Annotated[MutableSequence[int], u32, ...] = ZERO


TABLE = _IOW(0x70, 13, table)


class Base(IoctlFile):
    __slots__ = ("seen",)

    @ioctl(NOTHING)
    def nothing(self, arg: int) -> None:
        pass

    @ioctl(VALUE)
    def value(self, arg: int) -> int:
        return arg + 1

    @ioctl(GET)
    def get_pair(self, arg: pair) -> pair:
        assert (arg.a, arg.b) == (0, 0)  # what the caller has there is not looked at
        return pair(a=1, b=2)

    @ioctl(SET)
    def set(self, arg: pair) -> int:
        return arg.a * 10 + arg.b

    @ioctl(BOTH)
    def both(self, arg: pair) -> pair:
        arg.a, arg.b = arg.b, arg.a
        return arg

    @ioctl(GET_U64)
    def get_u64(self, arg: int) -> int:
        return 1 << 63 | arg

    @ioctl(SET_INT)
    def set_int(self, arg: int) -> int:
        return arg

    @ioctl(SWAP_INT)
    def swap_int(self, arg: int) -> int:
        return -arg

    @ioctl(INFO)
    def info(self, arg: info) -> info:
        arg.flags, arg.late = 7, 8
        return arg


class Other(IoctlFile):
    __slots__ = ()

    @ioctl(S64)
    def s64(self, arg: int) -> None:
        assert arg == -9

    @ioctl(ARRAY)
    def array(self, arg: bytes) -> bytes:
        return arg[::-1]

    @ioctl(GET_U8)
    def get_u8(self, arg: int) -> int:
        return 300

    @ioctl(TABLE)
    def table(self, arg: table, user: int) -> int:
        rows = copy_from_user(self.inode.kernel, user + table.sizeof(), 4 * arg.count)
        return sum(int.from_bytes(rows[i : i + 4], "little") for i in range(0, len(rows), 4))

    @ioctl(WRONG)
    def wrong(self, arg: int) -> Any:
        return {1: -22, 2: "x", 3: 1.5, 4: pair(), 5: 1 << 31}[arg]


class Derived(Base, Other):
    __slots__ = ()

    @ioctl(LATER)
    def later(self, arg: int) -> int:
        return 42


@pytest.fixture
def device(kernel):
    """A process and its descriptor of a file of class Derived."""
    kernel.up()
    devt = alloc_chrdev_region(kernel, 0, 1, "toy")
    dev = Device(kernel, "toy0", devt=devt)
    cdev_device_add(dev, Derived)
    proc = kernel.process()
    yield proc, proc.open("/dev/toy0")
    proc.exit()
    cdev_device_del(dev)
    unregister_chrdev_region(kernel, devt, 1)


def test_plain_numbers(device):
    proc, fd = device
    assert proc.ioctl(fd, NOTHING, 5) == 0
    assert proc.ioctl(fd, VALUE, 5) == 6
    assert proc.ioctl(fd, LATER) == 42
    assert errno_of(proc.ioctl, fd, LATER.nr + 1) == ENOTTY


def test_structs_go_in_and_out_as_the_direction_says(device):
    proc, fd = device
    for row, before, result, after in ((GET, (8, 9), 0, (1, 2)), (SET, (3, 4), 34, (3, 4)), (BOTH, (3, 4), 0, (4, 3))):
        arg = pair(a=before[0], b=before[1])
        assert proc.ioctl(fd, row, arg) == result
        assert (arg.a, arg.b) == after


def test_scalars_go_in_and_out_as_the_direction_says(device):
    proc, fd = device
    room = bytearray(b"\1" * 8)
    assert proc.ioctl(fd, GET_U64, room) == 0
    assert int.from_bytes(room, "little") == 1 << 63
    assert proc.ioctl(fd, SET_INT, bytearray(b"\5\0\0\0")) == 5
    room = bytearray(b"\5\0\0\0\xaa")
    assert proc.ioctl(fd, SWAP_INT, room) == 0
    assert bytes(room) == (-5).to_bytes(4, "little", signed=True) + b"\xaa"


def test_signed_scalars_and_arrays(device):
    proc, fd = device
    assert proc.ioctl(fd, SET_INT, bytearray((5).to_bytes(4, "little"))) == 5
    assert proc.ioctl(fd, S64, bytearray((-9).to_bytes(8, "little", signed=True))) == 0
    room = bytearray(b"abcd")
    assert proc.ioctl(fd, ARRAY, room) == 0
    assert bytes(room) == b"dcba"


def test_a_second_parameter_is_the_pointer_for_what_lies_behind(device):
    proc, fd = device
    assert proc.ioctl(fd, TABLE, bytearray(struct.pack("<4I", 3, 10, 20, 30))) == 60
    assert errno_of(proc.ioctl, fd, TABLE, bytearray(struct.pack("<I", 1 << 30))) == EFAULT


@pytest.mark.parametrize(
    ("arg", "said"),
    [
        (1, r"Derived.wrong\(\) returned -22: raise err\(EINVAL\)"),
        (2, "returned 'x'"),
        (3, "returned 1.5"),
        (4, "returned pair"),
        (5, "returned 2147483648"),
    ],
)
def test_what_is_no_result_is_an_oops_that_names_the_method(device, arg, said):
    proc, fd = device
    assert errno_of(proc.ioctl, fd, WRONG, arg) == EIO
    (oops,) = proc.kernel.oopses
    proc.kernel.oopses.clear()
    assert re.search(said, str(oops))


def test_a_number_that_does_not_fit_is_an_oops(device):
    proc, fd = device
    assert errno_of(proc.ioctl, fd, GET_U8, bytearray(1)) == EIO
    assert isinstance(proc.kernel.oopses.pop(), OverflowError)


def test_what_is_wrong_with_a_declaration_is_told_when_the_class_is_made():
    def make(bases, *marks, times=1, wrap=lambda fn: fn):
        def method(self, arg):
            return 0

        marked = wrap(method)
        for mark in marks:
            marked = mark(marked)
        return type("Made", bases, {f"m{n}": marked for n in range(times)})

    for bad in (
        lambda: ioctl(lambda self, arg: 0),  # type: ignore[arg-type]
        lambda: ioctl(123),  # type: ignore[arg-type]
        lambda: make((File,), ioctl(NOTHING)),
        lambda: make((IoctlFile,), ioctl(NOTHING), wrap=staticmethod),
        lambda: make((IoctlFile,), ioctl(NOTHING), ioctl(_IO(0x70, 0))),
        lambda: _IO("c", 1),  # type: ignore[call-overload]
        lambda: _IO(1, 256),
        lambda: _IOR(1, 1, "uint32_t"),
        lambda: _IO(1, 1, info, minsz="flag"),
    ):
        with pytest.raises((TypeError, RuntimeError)):
            bad()


def test_two_numbers_may_have_one_method(device):
    class Both(IoctlFile):
        @ioctl(NOTHING)
        @ioctl(VALUE)
        def both(self, arg: int) -> int:
            return 7

    assert sorted(Both.ioctls()) == sorted([NOTHING.nr, VALUE.nr])


def test_a_bad_pointer_is_efault(device):
    proc, fd = device
    for row in (GET, SET, BOTH, GET_U64, SET_INT, SWAP_INT, INFO):
        assert errno_of(proc.ioctl, fd, row, 8) == EFAULT


@pytest.mark.parametrize(
    ("argsz", "written"), [(8, 8), (12, 12), (16, 16), (99, 16)], ids=["old", "between", "new", "newer"]
)
def test_argsz_says_how_much_the_caller_has(device, argsz, written):
    """drivers/vfio: what the caller has no room for is not written, and the caller may be newer than the kernel."""
    proc, fd = device
    room = bytearray(argsz.to_bytes(4, "little") + b"\xff" * 60)

    assert proc.ioctl(fd, INFO, room) == 0

    whole = bytes(info(argsz=argsz, flags=7, late=8))
    assert bytes(room) == whole[:written] + b"\xff" * (64 - written)


@pytest.mark.parametrize("argsz", [0, 7])
def test_an_argsz_below_the_first_fields_is_einval(device, argsz):
    proc, fd = device
    assert errno_of(proc.ioctl, fd, INFO, info(argsz=argsz)) == EINVAL
