"""``@ioctl``: a driver's file answers ioctls by methods; what goes in and out is what the number says (ioctl(2))."""

from __future__ import annotations

from errno import EFAULT, EINVAL, ENOTTY

import pytest

from pykernel.base.core import Device, cdev_device_add, cdev_device_del
from pykernel.fs.chardev import alloc_chrdev_region, unregister_chrdev_region
from pykernel.fs.ioctl import IoctlFile, ioctl
from pykernel.uapi.ioctl import _IO, _IOR, _IOW, _IOWR
from pykernel.uapi.struct import Struct, u32, u64


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


class Derived(Base):
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


def errno_of(fn, *args):
    try:
        fn(*args)
    except OSError as e:
        return e.errno
    return 0


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
