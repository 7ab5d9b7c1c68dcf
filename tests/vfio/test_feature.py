"""VFIO_DEVICE_FEATURE: the decision table, migration, the log of DMA (drivers/vfio/vfio_main.c, linux/vfio.h)."""

from __future__ import annotations

import fcntl
import struct
from errno import E2BIG, EFAULT, EINVAL, EMFILE, ENOTTY, EOPNOTSUPP, EOVERFLOW, EPIPE
from itertools import product
from types import SimpleNamespace

import pytest
from errnos import errno_of
from hypothesis import given
from hypothesis import strategies as st
from vfiotoy import add_mappings, add_toy, get_device_fd, usable

from pykernel.errors import err
from pykernel.fs.anon import EventFd
from pykernel.machine import Machine
from pykernel.mm.uaccess import copy_from_user, copy_to_user
from pykernel.start import boot
from pykernel.uapi.linux import vfio as v
from pykernel.vfio.feature import vfio_check_feature

GET, SET, PROBE = v.VFIO_DEVICE_FEATURE_GET, v.VFIO_DEVICE_FEATURE_SET, v.VFIO_DEVICE_FEATURE_PROBE
RUNNING, STOP, STOP_COPY = v.VFIO_DEVICE_STATE_RUNNING, v.VFIO_DEVICE_STATE_STOP, v.VFIO_DEVICE_STATE_STOP_COPY


class Migration:
    """Goes wherever it is told; a stream begins in STOP_COPY."""

    def __init__(self, kernel):
        self.kernel, self.state, self.fails = kernel, RUNNING, None

    def migration_set_state(self, new_state):
        if self.fails is not None:
            raise self.fails
        self.state = new_state
        return EventFd(self.kernel, 5, 0) if new_state == STOP_COPY else None

    def migration_get_state(self):
        return self.state

    def migration_get_data_size(self):
        return 12345


class Log:
    """Notes what it is told; says what it has been given as written."""

    def __init__(self):
        self.calls, self.dirty = [], []

    def log_start(self, ranges, page_size):
        self.calls.append(("start", ranges, page_size))
        return 8192

    def log_stop(self):
        self.calls.append(("stop",))

    def log_read_and_clear(self, iova, length, page_size):
        self.calls.append(("read", iova, length, page_size))
        return self.dirty


@pytest.fixture
def w(vfio_kernel):
    """A toy device that migrates and logs, its descriptor."""
    kernel = vfio_kernel
    add_mappings(kernel)
    toy = add_toy(kernel)
    toy.migration_flags = v.VFIO_MIGRATION_STOP_COPY | v.VFIO_MIGRATION_P2P
    toy.mig_ops, toy.log_ops = Migration(kernel), Log()
    proc = kernel.process()
    _c, g = usable(proc, toy)
    return SimpleNamespace(kernel=kernel, toy=toy, proc=proc, d=get_device_fd(proc, g, "toy0"))


def feature(w, index, flags, payload=b"", argsz=None):
    """The payload as it is afterwards."""
    size = 8 + len(payload) if argsz is None else argsz
    arg = bytearray(struct.pack("<II", size, index | flags) + payload)
    w.proc.ioctl(w.d, v.VFIO_DEVICE_FEATURE, arg)
    return bytes(arg[8:])


def why(w, *args, **kw):
    """The errno of it."""
    return errno_of(lambda: feature(w, *args, **kw))


# ---- the decision table

FEATURES = {
    # index: operations, size of the payload
    v.VFIO_DEVICE_FEATURE_MIGRATION: (GET, 8),
    v.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE: (GET | SET, 8),
    v.VFIO_DEVICE_FEATURE_DMA_LOGGING_START: (SET, 24),
    v.VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP: (SET, 0),
    v.VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT: (GET, 32),
    v.VFIO_DEVICE_FEATURE_MIG_DATA_SIZE: (GET, 8),
}
FLAGS = [0, GET, SET, GET | SET, PROBE, PROBE | GET, PROBE | SET, PROBE | GET | SET]


def known(w, index):
    return index != v.VFIO_DEVICE_FEATURE_MIG_DATA_SIZE or w.kernel.profile.name != "linux-6.1"


@pytest.mark.parametrize(("index", "flags"), [*product(FEATURES, FLAGS)], ids=str)
def test_what_comes_before_the_operation(w, index, flags):
    """With a payload that is a byte too small: every check but the last, in the order of vfio_check_feature()."""
    ops, size = FEATURES[index]
    wanted = 0
    if flags & (GET | SET) == GET | SET and not flags & PROBE:
        wanted = EINVAL
    elif not known(w, index):
        wanted = ENOTTY
    elif flags & (GET | SET) & ~ops:
        wanted = EINVAL
    elif not flags & PROBE and (not flags or size):
        wanted = EINVAL  # neither GET nor SET, or too small
    assert why(w, index, flags, bytes(40), argsz=8 + max(size - 1, 0)) == wanted


@pytest.mark.parametrize("index", FEATURES)
def test_a_device_without_it(w, index):
    """ENOTTY, for probes too; flags that make no sense are looked at first."""
    w.toy.mig_ops = w.toy.log_ops = None
    for flags in FLAGS:
        wanted = EINVAL if flags == GET | SET else ENOTTY
        assert why(w, index, flags, bytes(40)) == wanted


def test_the_head(w):
    assert errno_of(w.proc.ioctl, w.d, v.VFIO_DEVICE_FEATURE, 8) == EFAULT
    assert why(w, 1, GET, bytes(8), argsz=7) == EINVAL
    assert why(w, 1, GET, bytes(8), argsz=16) == 0
    assert why(w, 1, GET, bytes(8), argsz=0xFFFFFFFF) == 0
    for bit in range(19, 32):
        assert why(w, 1, GET | 1 << bit, bytes(8)) == EINVAL


def test_others_are_the_drivers(w):
    assert why(w, 3, SET) == ENOTTY
    seen = []

    def device_feature(flags, arg, argsz):
        seen.append((flags, copy_from_user(w.kernel, arg, 4), argsz))
        copy_to_user(w.kernel, arg, b"back")
        raise err(EOPNOTSUPP)

    w.toy.device_feature = device_feature
    assert why(w, 0, SET, b"here") == EOPNOTSUPP
    assert seen == [(SET, b"here", 4)]


@pytest.mark.parametrize("flags", FLAGS)
@pytest.mark.parametrize("ops", [GET, SET, GET | SET])
@pytest.mark.parametrize("argsz", [7, 8])
def test_drivers_check_alike(flags, ops, argsz):
    """vfio_check_feature() of include/linux/vfio.h: 1 goes on, 0 is a probe."""
    wanted: int | bool
    got: int | bool
    if flags & (GET | SET) & ~ops:
        wanted = EINVAL
    elif flags & PROBE:
        wanted = False
    elif not flags or argsz < 8:
        wanted = EINVAL
    else:
        wanted = True
    try:
        got = vfio_check_feature(flags, argsz, ops, 8)
    except OSError as e:
        got = e.errno or 0
    assert got == wanted


# ---- migration


def test_what_a_device_can(w):
    assert feature(w, 1, GET, bytes(8)) == struct.pack("<Q", 3)
    w.toy.migration_flags = 7
    assert feature(w, 1, GET, bytes(8)) == struct.pack("<Q", 7)


def test_the_state(w):
    assert feature(w, 2, GET, b"\xee" * 8) == struct.pack("<Ii", RUNNING, -1)
    assert feature(w, 2, SET, struct.pack("<Ii", STOP, 77)) == struct.pack("<Ii", STOP, -1)
    assert feature(w, 2, GET, b"\xee" * 8) == struct.pack("<Ii", STOP, -1)


def test_a_stream_comes_with_a_descriptor(w):
    state, fd = struct.unpack("<Ii", feature(w, 2, SET, struct.pack("<Ii", STOP_COPY, 77)))
    assert state == STOP_COPY
    assert w.proc.read(fd, 8) == struct.pack("<Q", 5)
    assert w.proc.fcntl(fd, fcntl.F_GETFD) == fcntl.FD_CLOEXEC


def test_a_state_that_is_not_reached(w):
    """data_fd is -1 even then, and the state is the one that was asked for."""
    w.toy.mig_ops.fails = err(EPIPE)
    arg = bytearray(struct.pack("<IIIi", 16, 2 | SET, STOP, 77))
    assert errno_of(w.proc.ioctl, w.d, v.VFIO_DEVICE_FEATURE, arg) == EPIPE
    assert arg[8:] == struct.pack("<Ii", STOP, -1)


def test_a_stream_without_a_free_descriptor(w):
    """The device went there; its file is put."""
    w.proc.fds.limit = len(w.proc.fds.files)
    assert why(w, 2, SET, struct.pack("<Ii", STOP_COPY, 0)) == EMFILE
    assert w.toy.mig_ops.state == STOP_COPY


def test_how_much_there_is_to_copy(w):
    if w.kernel.profile.name == "linux-6.1":
        assert why(w, 9, GET, bytes(8)) == ENOTTY
    else:
        assert feature(w, 9, GET, bytes(8)) == struct.pack("<Q", 12345)


# ---- the log of DMA


def start(w, ranges, page_size=4096, count=None):
    """VFIO_DEVICE_FEATURE_DMA_LOGGING_START."""
    data = b"".join(struct.pack("<QQ", *r) for r in ranges)
    addr = w.proc.mem.alloc(max(len(data), 1))
    w.proc.mem.write(addr, data)
    n = len(ranges) if count is None else count
    return feature(w, 6, SET, struct.pack("<QIIQ", page_size, n, 0, addr))


TOP = 1 << 64
# ranges, page size -> why
RANGES = [
    ([(0, 4096)], 4096, 0),
    ([(0x3000, 4096), (0, 0x3000), (0x4000, 0x8000)], 4096, 0),
    ([(0x1800, 4096)], 4096, EINVAL),
    ([(0x1000, 2048)], 4096, EINVAL),
    ([(0x1000, 0x1000)], 8192, EINVAL),
    ([(0, 4096), (0, 4096)], 4096, EINVAL),
    ([(0, 0x4000), (0x1000, 0x1000)], 4096, EINVAL),
    ([(0x1000, 0x1000), (0, 0x4000)], 4096, EINVAL),
    ([(0x1000, 0x2000), (0, 0x2000)], 4096, EINVAL),
    ([(TOP - 4096, 4096)], 4096, EOVERFLOW),
    ([(TOP - 8192, 4096)], 4096, 0),
    ([(0, 4096), (TOP - 4096, 8192)], 4096, EOVERFLOW),
    ([(TOP - 4095, 4096)], 4096, EINVAL),  # whole pages are looked at first
]


@pytest.mark.parametrize(("ranges", "page_size", "wanted"), RANGES, ids=lambda x: str(x)[:60])
def test_ranges(w, ranges, page_size, wanted):
    assert errno_of(start, w, ranges, page_size) == wanted
    assert w.toy.log_ops.calls == ([] if wanted else [("start", sorted(ranges), page_size)])


@pytest.mark.parametrize(("count", "wanted"), [(0, EINVAL), (256, 0), (257, E2BIG), (0xFFFFFFFF, E2BIG)])
def test_how_many_ranges(w, count, wanted):
    ranges = [(n << 12, 4096) for n in range(256)]
    assert errno_of(lambda: start(w, ranges, count=count)) == wanted


def test_ranges_that_cannot_be_read(w):
    assert why(w, 6, SET, struct.pack("<QIIQ", 4096, 1, 0, 8)) == EFAULT


def test_the_page_size_that_the_device_chose_comes_back(w):
    assert start(w, [(0, 8192)])[:8] == struct.pack("<Q", 8192)
    feature(w, 7, SET)
    assert w.toy.log_ops.calls[-1] == ("stop",)


REPORTS = [
    ((0, 4096, 2048), EINVAL),
    ((0, 4096, 0), EINVAL),
    ((0, 4096, 12288), EINVAL),
    ((TOP - 4096, 4096, 4096), EOVERFLOW),
    ((0, 4096, 4096), 0),
    ((0, 1 << 30, 1 << 30), 0),
]


@pytest.mark.parametrize(("args", "wanted"), REPORTS, ids=str)
def test_what_can_be_reported(w, args, wanted):
    assert why(w, 8, GET, struct.pack("<QQQQ", *args, w.proc.mem.alloc(4096))) == wanted


def report(w, iova, length, page_size, room):
    """The bitmap at the end, of *room* before."""
    addr = w.proc.mem.alloc(len(room))
    w.proc.mem.write(addr, room)
    feature(w, 8, GET, struct.pack("<QQQQ", iova, length, page_size, addr))
    return w.proc.mem.read(addr, len(room))


def test_written_pages_are_bits_and_others_stay(w):
    """Bit n is page n of the range; bits that were set are not cleared (iova_bitmap_set())."""
    w.toy.log_ops.dirty = [(0x10000, 1), (0x13FFF, 2), (0x1F000, 0x1000)]
    assert report(w, 0x10000, 0x10000, 4096, b"\x02\0\xff") == b"\x1b\x80\xff"
    assert w.toy.log_ops.calls == [("read", 0x10000, 0x10000, 4096)]


PROFILES = {"linux-6.1": EFAULT, "linux-6.12": 0}


@pytest.mark.parametrize("dirty", [[], [(0, 4096)]], ids=["clean", "dirty"])
def test_a_bitmap_that_cannot_be_written(w, dirty):
    """Linux 6.1 pins it first; since 6.8 it is pinned where a bit is set, and what fails there is not told."""
    w.toy.log_ops.dirty = dirty
    assert why(w, 8, GET, struct.pack("<QQQQ", 0, 0x10000, 4096, 8)) == PROFILES[w.kernel.profile.name]


@pytest.fixture(scope="module")
def hyp():
    """One device for many examples."""
    kernel = boot(Machine("bare"))
    kernel.up()
    kernel.modules.modprobe("vfio")
    add_mappings(kernel)
    toy = add_toy(kernel)
    toy.log_ops = Log()
    proc = kernel.process()
    _c, g = usable(proc, toy)
    return SimpleNamespace(kernel=kernel, toy=toy, proc=proc, d=get_device_fd(proc, g, "toy0"))


@given(ranges=st.lists(st.tuples(st.integers(0, 12), st.integers(1, 4)), min_size=1, max_size=6))
def test_overlaps_are_what_two_ranges_share(hyp, ranges):
    """Against counting pages."""
    pages = [p for first, n in ranges for p in range(first, first + n)]
    wanted = EINVAL if len(set(pages)) < len(pages) else 0
    assert errno_of(start, hyp, [(a << 12, n << 12) for a, n in ranges]) == wanted


@given(
    shift=st.integers(12, 16),
    first=st.integers(0, 40),
    count=st.integers(1, 90),
    dirty=st.lists(st.tuples(st.integers(0, 140), st.integers(1, 20)), max_size=6),
)
def test_bits_are_the_pages_of_the_range(hyp, shift, first, count, dirty):
    """Against a set of page numbers; what lies outside the range sets nothing."""
    hyp.toy.log_ops.dirty = [(a << shift, n << shift) for a, n in dirty]
    room = bytes(-(-count // 64) * 8)
    got = report(hyp, first << shift, count << shift, 1 << shift, room)
    pages = {p - first for a, n in dirty for p in range(a, a + n)}
    wanted = sum(1 << p for p in pages if 0 <= p < count)
    assert int.from_bytes(got, "little") == wanted
