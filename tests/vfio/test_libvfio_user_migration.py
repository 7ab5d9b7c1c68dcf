"""
libvfio-user's tests of migration and of VFIO_DEVICE_FEATURE (test/py/test_migration.py), case by case, against mtty.

Each test has the name of the case that it mirrors. libvfio-user moves data by messages, Linux by a descriptor that
comes with a state; where answers differ the docstring says so and the test has Linux's.
"""

from __future__ import annotations

import os
import struct
from collections import deque
from errno import EBADF, EFAULT, EINVAL, EIO, ENODEV, ENOMEM
from typing import Any

import pytest
import vfioclient as client
from errnos import errno_of
from vfiotoy import Toy

import pykernel
from pykernel.base.core import Device
from pykernel.drivers.mtty.migration import MttyMigration
from pykernel.machine import parse
from pykernel.uapi.linux import vfio as v
from pykernel.vfio.main import vfio_mig_get_next_state, vfio_register_emulated_iommu_dev

GET, SET, PROBE = v.VFIO_DEVICE_FEATURE_GET, v.VFIO_DEVICE_FEATURE_SET, v.VFIO_DEVICE_FEATURE_PROBE
MIGRATION, STATE = v.VFIO_DEVICE_FEATURE_MIGRATION, v.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE
ERROR, STOP, RUNNING, STOP_COPY, RESUMING, RUNNING_P2P, PRE_COPY, PRE_COPY_P2P = list(v.vfio_device_mig_state)[:8]
STATES = (ERROR, STOP, RUNNING, STOP_COPY, RESUMING, RUNNING_P2P, PRE_COPY, PRE_COPY_P2P)
SAVING = {PRE_COPY, PRE_COPY_P2P, STOP_COPY}
ALL = v.VFIO_MIGRATION_STOP_COPY | v.VFIO_MIGRATION_P2P | v.VFIO_MIGRATION_PRE_COPY
UUID = "00000001-0000-4000-8000-000000000000"
HEADER, SIZE = 24, 60

# the arcs that include/uapi/linux/vfio.h describes, for a device with all states
ARCS = {
    ERROR: set(),
    STOP: {RUNNING_P2P, STOP_COPY, RESUMING},
    RUNNING: {RUNNING_P2P, PRE_COPY},
    STOP_COPY: {STOP},
    RESUMING: {STOP},
    RUNNING_P2P: {RUNNING, STOP, PRE_COPY_P2P},
    PRE_COPY: {RUNNING, PRE_COPY_P2P},
    PRE_COPY_P2P: {RUNNING_P2P, PRE_COPY, STOP_COPY},
}
# and the original's, for a device without the P2P states
ARCS_WITHOUT_P2P = {
    ERROR: set(),
    STOP: {RUNNING, STOP_COPY, RESUMING},
    RUNNING: {STOP, PRE_COPY},
    STOP_COPY: {STOP},
    RESUMING: {STOP},
    RUNNING_P2P: set(),
    PRE_COPY: {RUNNING, STOP_COPY},
    PRE_COPY_P2P: set(),
}


class Client:
    """Somebody with a device that migrates; ``path`` has the states that it went through."""

    def __init__(self, kernel, directory):
        self.kernel = kernel
        self.proc = kernel.process()
        group = client.Container(self.proc).group(os.path.basename(self.proc.readlink(f"{directory}/iommu_group")))
        name = bytearray(os.path.basename(directory).encode() + b"\0")
        self.fd = self.proc.ioctl(group, v.VFIO_GROUP_GET_DEVICE_FD, name)
        self.path = []
        self.toy: Any = None

    def feature(self, flags, payload, argsz=None):
        """VFIO_DEVICE_FEATURE; the payload afterwards."""
        buf = bytearray(struct.pack("<II", 8 + len(payload) if argsz is None else argsz, flags) + payload)
        self.proc.ioctl(self.fd, v.VFIO_DEVICE_FEATURE, buf)
        return bytes(buf[8:])

    def why(self, flags, argsz, payload=b""):
        """The errno, 0 without one."""
        return errno_of(self.feature, flags, payload, argsz)

    def go(self, state):
        """The descriptor of the stream, or -1. Raises an errno."""
        return struct.unpack("<Ii", self.feature(SET | STATE, struct.pack("<Ii", state, 0)))[1]

    def state(self):
        return struct.unpack("<Ii", self.feature(GET | STATE, bytes(8)))[0]

    def resume(self):
        """To RESUMING, with what there was to copy, for the device leaves it only with all data."""
        out = self.go(STOP_COPY)
        data = self.proc.read(out, 100) if out >= 0 else b""
        into = self.go(RESUMING)
        if into >= 0:
            assert self.proc.write(into, data) == len(data)
        return into


class Mover(Toy):
    """A device without the P2P states, whose next step may fail."""

    def __init__(self, dev):
        super().__init__(dev, [])
        self.migration_flags = v.VFIO_MIGRATION_STOP_COPY | v.VFIO_MIGRATION_PRE_COPY
        self.mig_ops = self
        self.state, self.path, self.fails = RUNNING, [], None

    def migration_set_state(self, new_state):
        while self.state != new_state:
            step = vfio_mig_get_next_state(self, self.state, new_state)
            if self.fails is not None:
                raise self.fails
            self.state = step
            self.path.append(step)

    def migration_get_state(self):
        return self.state

    def migration_get_data_size(self):
        return 0


@pytest.fixture
def card(monkeypatch):
    """mtty of Linux 6.12, which has all states."""
    kernel = pykernel.boot(parse('[modules]\nvfio_iommu_type1 = ""\nmtty = ""\n'), "linux-6.12")
    kernel.process().write_text("/sys/class/mdev_bus/mtty/mdev_supported_types/mtty-1/create", UUID)
    card = Client(kernel, f"/sys/bus/mdev/devices/{UUID}")
    step = MttyMigration._step

    def noted(self, new):
        file = step(self, new)
        card.path.append(new)
        return file

    monkeypatch.setattr(MttyMigration, "_step", noted)
    return card


@pytest.fixture
def mover():
    """The device without the P2P states."""
    kernel = pykernel.boot(parse('[modules]\nvfio_iommu_type1 = ""\n'), "linux-6.12")
    kernel.up()
    dev = Device(kernel, "mover0")
    dev.register()
    toy = Mover(dev)
    vfio_register_emulated_iommu_dev(toy)
    who = Client(kernel, "/sys/devices/mover0")
    who.toy, who.path = toy, toy.path
    return who


def shortest(arcs, source, target):
    """
    The way by breadth-first search, None without one.

    The states that save are ends only, never on the way; from one of them to another the way stays among them.
    """
    inside = SAVING if source in SAVING and target in SAVING else set(STATES) - SAVING
    queue, before = deque([source]), {source: None}
    while queue:
        now = queue.popleft()
        if now == target:
            way = []
            while now != source:
                way.insert(0, now)
                now = before[now]
            return way
        for following in sorted(arcs[now]):
            if following not in before and (following in inside or following == target):
                before[following] = now
                queue.append(following)
    return None


# every state by a way that no rule forbids
TO = {
    STOP: [STOP],
    RUNNING: [RUNNING],
    STOP_COPY: [STOP, STOP_COPY],
    RUNNING_P2P: [RUNNING_P2P],
    PRE_COPY: [RUNNING, PRE_COPY],
    PRE_COPY_P2P: [RUNNING_P2P, PRE_COPY_P2P],
}


def walk(who, arcs, source, target):
    """One pair of the original's loops."""
    if source == ERROR or not arcs[source]:
        assert errno_of(who.go, source) == EINVAL
        return
    for state in TO.get(source, ()):
        who.go(state)
    if source == RESUMING:
        who.resume()
    who.path.clear()
    wanted = shortest(arcs, source, target)
    if wanted is None:
        assert errno_of(who.go, target) == EINVAL
        assert (who.path, who.state()) == ([], source)
    else:
        who.go(target)
        assert who.path == wanted
        assert who.state() == target


@pytest.mark.parametrize("target", STATES, ids=lambda s: s.name[18:])
@pytest.mark.parametrize("source", STATES, ids=lambda s: s.name[18:])
def test_migration_shortest_state_transition_paths(card, source, target):
    """Linux has the P2P states besides: mtty goes through them."""
    walk(card, ARCS, source, target)


@pytest.mark.parametrize("target", STATES, ids=lambda s: s.name[18:])
@pytest.mark.parametrize("source", STATES, ids=lambda s: s.name[18:])
def test_migration_shortest_state_transition_paths_without_p2p(mover, source, target):
    """The original's graph."""
    walk(mover, ARCS_WITHOUT_P2P, source, target)


def test_migration_stop_copy_to_pre_copy_rejected(card):
    card.go(STOP_COPY)
    assert errno_of(card.go, PRE_COPY) == EINVAL
    assert errno_of(card.go, PRE_COPY_P2P) == EINVAL


def test_migration_nonexistent_state(card):
    assert errno_of(card.go, 0xABCD) == EINVAL


def test_migration_failed_callback(mover):
    """The driver's errno, and the state that it is in."""
    mover.toy.fails = OSError(EIO, "broken")
    assert errno_of(mover.go, STOP) == EIO
    assert mover.state() == RUNNING


def test_migration_get_state(card):
    card.go(RUNNING)
    assert card.state() == RUNNING
    assert struct.unpack("<Ii", card.feature(GET | STATE, bytes(8))) == (RUNNING, -1)


# ---- the data


def test_handle_mig_data_read(card):
    """A stream comes with PRE_COPY, or with STOP_COPY without it; with no other state that has data to read."""
    for state, there in ((RUNNING, None), (PRE_COPY, HEADER), (STOP, None), (STOP_COPY, SIZE), (STOP, None)):
        fd = card.go(state)
        assert (fd == -1) == (there is None)
        if there:
            assert len(card.proc.read(fd, 100)) == there
    assert errno_of(card.proc.read, card.go(RESUMING), 4) == EBADF


def test_handle_mig_data_read_too_long(card):
    """What is there; libvfio-user's messages have a limit, EINVAL."""
    card.go(RUNNING)
    fd = card.go(PRE_COPY)
    assert len(card.proc.read(fd, 1 << 20)) == HEADER
    assert card.proc.read(fd, 1) == b""


def test_handle_mig_data_read_failed_callback(card):
    """mtty fails when the state is left: ENODEV."""
    fd = card.go(STOP_COPY)
    card.go(STOP)
    assert errno_of(card.proc.read, fd, 4) == ENODEV


def test_handle_mig_data_write(card):
    """What another device said."""
    card.resume()
    card.go(RUNNING)
    assert card.state() == RUNNING


def test_handle_mig_data_write_invalid_state(card):
    """A descriptor of a state that was left: ENODEV; one to read from: EBADF. libvfio-user: EINVAL."""
    fd = card.resume()
    card.go(RUNNING)
    assert errno_of(card.proc.write, fd, b"\1\2\3\4") == ENODEV
    assert errno_of(card.proc.write, card.go(PRE_COPY), b"\1\2\3\4") == EBADF


def test_handle_mig_data_write_too_long(card):
    """More than the device has is ENOMEM; libvfio-user's limit of a message is EINVAL."""
    assert errno_of(card.proc.write, card.go(RESUMING), bytes(SIZE + 1)) == ENOMEM


def test_handle_mig_data_write_failed_callback(card):
    """What mtty refuses: EFAULT."""
    assert errno_of(card.proc.write, card.go(RESUMING), bytes(HEADER)) == EFAULT


# ---- VFIO_DEVICE_FEATURE


def test_device_feature_migration_get(card):
    assert struct.unpack("<Q", card.feature(GET | MIGRATION, bytes(8))) == (ALL,)


def test_device_feature_short_write(card):
    """The last byte is not memory: EFAULT. libvfio-user: EINVAL."""
    page = client.anonymous(card.proc, 4096)
    at = page + 4096 - 7
    card.proc.store(at, struct.pack("<II", 16, GET | MIGRATION)[:7])
    assert errno_of(card.proc.ioctl, card.fd, v.VFIO_DEVICE_FEATURE, at) == EFAULT


def test_device_feature_unsupported_operation(card):
    assert card.why(SET | MIGRATION, 16, bytes(8)) == EINVAL


def test_device_feature_bad_argsz_probe(card):
    assert card.why(PROBE | MIGRATION, 2) == EINVAL


def test_device_feature_bad_argsz_get_migration(card):
    assert card.why(GET | MIGRATION, 8) == EINVAL


def test_device_feature_bad_argsz_get_dma(card):
    """The bitmap is elsewhere in Linux: it has no part in argsz."""
    report = struct.pack("<QQQQ", 0x10000, 0x20000, 4096, client.anonymous(card.proc, 4096))
    assert card.why(GET | v.VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT, 8 + len(report) - 1, report) == EINVAL
    assert card.why(GET | v.VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT, 8 + len(report), report) == 0


def test_device_feature_bad_argsz_set(card):
    assert card.why(SET | STATE, 8, struct.pack("<Ii", RUNNING, 0)) == EINVAL


def test_device_feature_probe(card):
    assert card.why(PROBE | MIGRATION, 8) == 0
    assert card.why(PROBE | SET | GET | MIGRATION, 8) == EINVAL
