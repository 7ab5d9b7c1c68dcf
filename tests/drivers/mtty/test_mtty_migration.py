"""A card moves to another machine (samples/vfio-mdev/mtty.c of Linux 6.12): the stream, the states, what is refused."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from errno import EBADF, EFAULT, EINVAL, ENODEV, ENOMEM, ENOTTY, ESPIPE

import pytest
from errnos import errno_of

from pykernel import explore, machine
from pykernel.uapi.linux import vfio as v

ERROR, STOP, RUNNING, STOP_COPY, RESUMING, RUNNING_P2P, PRE_COPY, PRE_COPY_P2P = list(v.vfio_device_mig_state)[:8]
STATES = (STOP, RUNNING, STOP_COPY, RESUMING, RUNNING_P2P, PRE_COPY, PRE_COPY_P2P)
GET, SET, PROBE = v.VFIO_DEVICE_FEATURE_GET, v.VFIO_DEVICE_FEATURE_SET, v.VFIO_DEVICE_FEATURE_PROBE
MIGRATION, STATE = v.VFIO_DEVICE_FEATURE_MIGRATION, v.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE
MAGIC = 0x7E9D09898C3E2C4E
HEADER = struct.Struct("<QIIII")
MACHINE = '[modules]\nvfio_iommu_type1 = ""\nmtty = ""\n'


@pytest.fixture(params=["linux-6.12"])
def profile(request) -> str:
    return str(request.param)


def set_state(card, state: int) -> int:
    """The descriptor of the stream, or -1."""
    return struct.unpack("<Ii", card.device.feature(SET | STATE, struct.pack("<Ii", state, 77)))[1]


def state_of(card) -> int:
    state, fd = struct.unpack("<Ii", card.device.feature(GET | STATE, bytes(8)))
    assert fd == -1
    return state


def read_all(card, fd: int, chunk: int = 7) -> bytes:
    return b"".join(iter(lambda: card.proc.read(fd, chunk), b""))


def write_all(card, fd: int, data: bytes, chunk: int = 11) -> None:
    for at in range(0, len(data), chunk):
        part = data[at : at + chunk]
        assert card.proc.write(fd, part) == len(part)


def drain(card, port: int) -> bytes:
    """All that waits in a port."""
    text = b""
    while card.inb(5, port) & 1:
        text += bytes((card.inb(0, port),))
    return text


def precopy_info(card, fd: int) -> tuple[int, int]:
    info = v.vfio_precopy_info(argsz=24)
    card.proc.ioctl(fd, v.VFIO_MIG_GET_PRECOPY_INFO, info)
    return info.initial_bytes, info.dirty_bytes


# ---- the whole way, between two machines


def stop_copy(source, target) -> None:
    """libvirt's plain migration: stop, copy, resume."""
    out = set_state(source, STOP_COPY)
    data = read_all(source, out)
    source.proc.close(out)
    into = set_state(target, RESUMING)
    write_all(target, into, data)
    set_state(target, RUNNING)
    target.proc.close(into)
    set_state(source, STOP)


def pre_copy(source, target) -> None:
    """The header while the guest runs; the rest from the same descriptor."""
    out = set_state(source, PRE_COPY)
    into = set_state(target, RESUMING)
    assert precopy_info(source, out) == (24, 0)
    write_all(target, into, source.proc.read(out, 10))
    assert precopy_info(source, out) == (14, 0)
    write_all(target, into, read_all(source, out))
    source.outb(0, ord("!"))  # the guest goes on
    assert set_state(source, PRE_COPY_P2P) == -1
    assert set_state(source, STOP_COPY) == -1
    write_all(target, into, read_all(source, out))
    set_state(target, RUNNING)
    for card, fd in ((source, out), (target, into)):
        card.proc.close(fd)
    set_state(source, STOP)


@pytest.mark.parametrize(("move", "extra"), [(stop_copy, ""), (pre_copy, "!")], ids=["stop-copy", "pre-copy"])
@pytest.mark.parametrize("nr_ports", [1, 2])
def test_the_serial_stream_arrives_whole(boot, client_of, move: Callable, extra: str, nr_ports: int):
    """Mid-transfer the card moves to another kernel: no character is lost, doubled or out of order."""
    source, target = (client_of(boot()).open(nr_ports) for _ in range(2))
    text = [b"", b""]
    for port in range(nr_ports):
        for c in b"the first half,":
            source.outb(0, c, port)
    text[0] += bytes(source.inb(0, 0) for _ in range(4))

    move(source, target)

    for port in range(nr_ports):
        text[port] += drain(target, port)
        for c in b" the second":
            target.outb(0, c, port)
        text[port] += drain(target, port)
    assert text[0].decode() == f"the first half,{extra} the second"
    assert text[1].decode() == ("the first half, the second" if nr_ports == 2 else "")


@pytest.mark.parametrize("move", [stop_copy, pre_copy], ids=["stop-copy", "pre-copy"])
def test_registers_arrive(boot, client_of, move):
    """All of both ports; configuration space and interrupts are QEMU's to set again."""
    source, target = (client_of(boot()).open(2) for _ in range(2))
    for port in (0, 1):
        for register, value in ((2, 0x01), (3, 0x83), (0, 0x0C), (1, 0x01), (3, 0x03), (1, 0x05), (4, 0x0B), (7, port)):
            source.outb(register, value, port)
    source.set_config(0x3C, b"\x0b")
    before = [[source.inb(register, port) for register in range(1, 8)] for port in (0, 1)]

    move(source, target)

    if move is pre_copy:
        target.inb(0)
    assert [[target.inb(register, port) for register in range(1, 8)] for port in (0, 1)] == before
    assert target.config(0x3C, 1) == b"\0"


def test_the_stream(card):
    """Byte by byte: a header, and 36 bytes of each port."""
    for register, value in ((2, 1), (1, 0x0F), (3, 0x83), (0, 0x34), (1, 0x12), (4, 0x20), (7, 0x99)):
        card.outb(register, value, 1)
    card.outb(3, 0x03, 1)
    for c in b"abc":
        card.outb(0, c, 1)
    card.inb(0, 1)
    data = read_all(card, set_state(card, STOP_COPY))

    assert len(data) == 96
    assert HEADER.unpack(data[:24]) == (MAGIC, 1, 0, 2, 0)
    port = data[60:]
    assert port[0:8] == bytes((0, 0x0F, 0, 0x03, 0x20, 0, 0, 0x99))  # registers
    assert port[8:24] == b"abc".ljust(16, b"\0")
    assert tuple(port[24:29]) == (3, 1, 2, 0, 0)  # head, tail, count, dlab, overrun
    assert port[30:32] == b"\x34\x12"
    assert tuple(port[32:35]) == (1, 16, 1)  # fcr, max_fifo_size, intr_trigger_level
    assert data[24:60] == bytes(33) + b"\x10\0\0"


@pytest.mark.parametrize(("nr_ports", "size"), [(1, 60), (2, 96)])
def test_sizes(client, nr_ports, size):
    card = client.open(nr_ports)
    asked = card.device.feature(GET | v.VFIO_DEVICE_FEATURE_MIG_DATA_SIZE, bytes(8))

    assert int.from_bytes(asked, "little") == size
    assert len(read_all(card, set_state(card, STOP_COPY))) == size


# ---- the states

# the numbers and the table of include/uapi/linux/vfio.h: the next step from a state (row) on the way to another
NEXT: dict[int, tuple[int | None, ...]] = {
    STOP: (STOP, RUNNING_P2P, STOP_COPY, RESUMING, RUNNING_P2P, RUNNING_P2P, RUNNING_P2P),
    RUNNING: (RUNNING_P2P, RUNNING, RUNNING_P2P, RUNNING_P2P, RUNNING_P2P, PRE_COPY, RUNNING_P2P),
    STOP_COPY: (STOP, STOP, STOP_COPY, STOP, STOP, None, None),
    RESUMING: (STOP, STOP, STOP, RESUMING, STOP, STOP, STOP),
    RUNNING_P2P: (STOP, RUNNING, STOP, STOP, RUNNING_P2P, RUNNING, PRE_COPY_P2P),
    PRE_COPY: (RUNNING, RUNNING, PRE_COPY_P2P, RUNNING, RUNNING, PRE_COPY, PRE_COPY_P2P),
    PRE_COPY_P2P: (RUNNING_P2P, RUNNING_P2P, STOP_COPY, RUNNING_P2P, RUNNING_P2P, PRE_COPY, PRE_COPY_P2P),
}
AT: dict[int, int] = {state: at for at, state in enumerate(STATES)}
SAVING = (STOP_COPY, PRE_COPY, PRE_COPY_P2P)


def brought_to(client, state: int):
    """A card in *state*; one that resumes has got all that it needs."""
    card = client.open(1)
    fd = set_state(card, state)
    if state == RESUMING:
        write_all(card, fd, HEADER.pack(MAGIC, 1, 0, 1, 0) + bytes(36))
    return card


@pytest.mark.parametrize("target", STATES, ids=lambda s: f"to_{s.name.removeprefix('VFIO_DEVICE_STATE_')}")
@pytest.mark.parametrize("state", STATES, ids=lambda s: f"from_{s.name.removeprefix('VFIO_DEVICE_STATE_')}")
def test_each_transition(client, state, target):
    """It ends where it should, or is EINVAL and changes nothing; a descriptor comes when a stream begins."""
    card = brought_to(client, state)
    assert state_of(card) == state

    if NEXT[state][AT[target]] is None:
        assert errno_of(set_state, card, target) == EINVAL
        assert state_of(card) == state
        return
    fd = set_state(card, target)

    assert state_of(card) == target
    goes_on = state == target or (state in SAVING and _saving_all_the_way(state, target))
    assert (fd >= 0) == (target in (*SAVING, RESUMING) and not goes_on)


def _saving_all_the_way(state: int, target: int) -> bool:
    while state != target:
        step = NEXT[state][AT[target]]
        if step is None or step not in SAVING:
            return False
        state = step
    return True


@pytest.mark.parametrize("target", [ERROR, 8, 100, 0xFFFFFFFF])
@pytest.mark.parametrize("state", STATES, ids=lambda s: s.name.removeprefix("VFIO_DEVICE_STATE_"))
def test_no_state(client, state, target):
    card = brought_to(client, state)

    assert errno_of(set_state, card, target) == EINVAL
    assert state_of(card) == state


def test_what_the_card_can(card):
    flags = v.VFIO_MIGRATION_STOP_COPY | v.VFIO_MIGRATION_P2P | v.VFIO_MIGRATION_PRE_COPY

    assert int.from_bytes(card.device.feature(GET | MIGRATION, bytes(8)), "little") == flags


@pytest.mark.parametrize("profile", ["linux-6.1"], indirect=True)
@pytest.mark.parametrize("feature", [MIGRATION, STATE, v.VFIO_DEVICE_FEATURE_MIG_DATA_SIZE])
def test_a_card_of_linux_6_1_stays_where_it_is(card, feature):
    assert errno_of(card.device.feature, GET | feature, bytes(8)) == ENOTTY
    assert errno_of(card.device.feature, PROBE | GET | feature, b"") == ENOTTY


def test_reset_leads_to_running(client):
    """From everywhere, and the stream is over."""
    for state in STATES:
        card = client.open(1)
        fd = set_state(card, state)
        card.device.reset()
        assert state_of(card) == RUNNING
        if fd >= 0:
            use = (card.proc.write, fd, b"x") if state == RESUMING else (card.proc.read, fd, 1)
            assert errno_of(*use) == ENODEV


def test_quirk_a_card_that_is_opened_again_is_where_it_was(client):
    """mtty_close() ends the streams and leaves the state."""
    card = client.open(1)
    fd = set_state(card, STOP_COPY)
    uuid = client.proc.listdir("/sys/bus/mdev/devices")[0]
    card.device.close()
    assert errno_of(card.proc.read, fd, 1) == ENODEV

    card.device = client.container.device(f"/sys/bus/mdev/devices/{uuid}")
    assert state_of(card) == STOP_COPY


# ---- the descriptor of the source


def test_the_descriptor(card):
    fd = set_state(card, STOP_COPY)

    assert card.proc.fcntl(fd, 1) == 1  # F_GETFD: FD_CLOEXEC
    assert card.proc.fds.get(fd).inode.describe() == "anon_inode:mtty_mig"
    assert errno_of(card.proc.lseek, fd, 0, os.SEEK_SET) == ESPIPE
    assert errno_of(card.proc.pread, fd, 1, 0) == ESPIPE
    assert errno_of(card.proc.write, fd, b"x") == EBADF
    assert errno_of(card.proc.ioctl, fd, v.VFIO_DEVICE_RESET) == ENOTTY
    assert read_all(card, fd)
    assert card.proc.read(fd, 1) == b""


PRECOPY = {
    "argsz": (PRE_COPY, 23, EINVAL),
    "STOP_COPY": (STOP_COPY, 24, EINVAL),
    "PRE_COPY": (PRE_COPY, 24, 0),
    "PRE_COPY_P2P": (PRE_COPY_P2P, 24, 0),
    "a larger argsz": (PRE_COPY, 64, 0),
}


@pytest.mark.parametrize("row", PRECOPY)
def test_precopy_info(card, row):
    state, argsz, errno = PRECOPY[row]
    fd = set_state(card, state)
    buf = bytearray(struct.pack("<II", argsz, 0) + b"\xff" * 56)

    assert errno_of(card.proc.ioctl, fd, v.VFIO_MIG_GET_PRECOPY_INFO, buf) == errno
    if not errno:
        assert struct.unpack("<IIQQ", buf[:24]) == (argsz, 0, 24, 0)
        assert buf[24:] == b"\xff" * 40
    assert errno_of(card.proc.ioctl, fd, v.VFIO_MIG_GET_PRECOPY_INFO, 0) == EFAULT


def test_precopy_info_of_a_session_that_is_over(card):
    old = set_state(card, PRE_COPY)
    set_state(card, RUNNING)
    assert errno_of(precopy_info, card, old) == EINVAL
    set_state(card, PRE_COPY)

    assert errno_of(precopy_info, card, old) == ENODEV
    assert errno_of(card.proc.read, old, 1) == ENODEV


def test_a_source_that_gives_up(card):
    """The stream is over when the card runs again; a new one begins from the start."""
    fd = set_state(card, PRE_COPY)
    card.proc.read(fd, 24)
    set_state(card, RUNNING)

    assert errno_of(card.proc.read, fd, 1) == ENODEV
    assert len(read_all(card, set_state(card, STOP_COPY))) == 96


# ---- the descriptor of the destination


def test_the_destinations_descriptor(card):
    fd = set_state(card, RESUMING)

    assert errno_of(card.proc.read, fd, 1) == EBADF
    assert errno_of(card.proc.pwrite, fd, b"x", 0) == ESPIPE
    assert errno_of(card.proc.lseek, fd, 0, os.SEEK_CUR) == ESPIPE
    assert errno_of(card.proc.ioctl, fd, v.VFIO_MIG_GET_PRECOPY_INFO, bytearray(24)) == ENOTTY


HEADERS = {
    "magic": (MAGIC + 1, 1, 0, 2, 0),
    "major version": (MAGIC, 2, 0, 2, 0),
    "minor version": (MAGIC, 1, 1, 2, 0),
    "number of ports": (MAGIC, 1, 0, 1, 0),
    "flags": (MAGIC, 1, 0, 2, 1),
}


@pytest.mark.parametrize("row", HEADERS)
def test_a_header_that_does_not_fit(card, row):
    """Told by the write that completes it; what was written is kept all the same."""
    fd = set_state(card, RESUMING)
    header = HEADER.pack(*HEADERS[row])
    assert card.proc.write(fd, header[:23]) == 23

    assert errno_of(card.proc.write, fd, header[23:]) == EFAULT
    assert card.proc.write(fd, bytes(72)) == 72
    assert errno_of(card.proc.write, fd, b"x") == ENOMEM


def test_more_than_there_is(card):
    fd = set_state(card, RESUMING)
    assert errno_of(card.proc.write, fd, bytes(97)) == ENOMEM
    write_all(card, fd, HEADER.pack(MAGIC, 1, 0, 2, 0) + bytes(72))

    assert errno_of(card.proc.write, fd, b"x") == ENOMEM


@pytest.mark.parametrize("size", [0, 23, 24, 95])
def test_less_than_there_is(card, size):
    """The card goes on resuming, and can get the rest."""
    card.outb(7, 5)
    fd = set_state(card, RESUMING)
    data = HEADER.pack(MAGIC, 1, 0, 2, 0) + bytes(72)
    if size:
        write_all(card, fd, data[:size])

    assert errno_of(set_state, card, RUNNING) == EINVAL
    assert state_of(card) == RESUMING
    write_all(card, fd, data[size:])
    set_state(card, RUNNING)
    assert card.inb(7) == 0
    assert errno_of(card.proc.write, fd, b"x") == ENODEV


# ---- the log of its DMA, of which there is none


def test_the_log(card):
    ranges = card.proc.mem.alloc(16)
    card.proc.mem.write(ranges, struct.pack("<QQ", 0, 0x10000))
    start = struct.pack("<QIIQ", 4096, 1, 0, ranges)
    bitmap = card.proc.mem.alloc(8)

    card.device.feature(SET | v.VFIO_DEVICE_FEATURE_DMA_LOGGING_START, start)
    report = struct.pack("<QQQQ", 0, 0x10000, 4096, bitmap)
    card.device.feature(GET | v.VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT, report)
    card.device.feature(SET | v.VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP)

    assert card.proc.mem.read(bitmap, 8) == bytes(8)


# ---- at the same time


def test_a_reset_while_the_card_moves(client_of):
    """mtty_state_mutex_unlock(): under any order the reset is done, at once or by who moves the card."""
    for kernel in explore(seeds=40, machine=machine.parse(MACHINE), profile="linux-6.12"):
        client = client_of(kernel)
        card = client.open(1)

        def mover(card=card):
            for state in (PRE_COPY, STOP_COPY, STOP, RUNNING):
                errno_of(set_state, card, state)

        def resetter(card=card):
            card.device.reset()
            assert state_of(card) in STATES

        kernel.gather(mover, resetter)
        card.device.reset()
        assert state_of(card) == RUNNING
        client.proc.exit()
