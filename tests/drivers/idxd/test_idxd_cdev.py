"""The character devices. Truth: drivers/dma/idxd/cdev.c, and the recorded answers of Linux 7.2."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from errno import EBUSY, EINVAL, ENOTTY, EPERM, ESPIPE
from select import POLLIN, POLLOUT, POLLRDNORM
from typing import TYPE_CHECKING

import pytest

from pykernel.syscalls import Process
from pykernel.task import CAP_SYS_RAWIO, Cred
from pykernel.uapi.linux.idxd import (
    DSA_COMP_BATCH_EVL_ERR,
    DSA_COMP_CRA_XLAT,
    DSA_OPCODE_BATCH,
    DSA_OPCODE_MEMMOVE,
    DSA_OPCODE_NOOP,
    IDXD_OP_FLAG_CRAV,
    IDXD_OP_FLAG_RCR,
)

if TYPE_CHECKING:
    from conftest import Accel

Make = Callable[..., "Accel"]
PROFILES = ("linux-6.1", "linux-6.12", "linux-7.2")
NEWER = ("linux-6.12", "linux-7.2")
RW = mmap.PROT_READ | mmap.PROT_WRITE


def descriptor(op: int, record: int, *, src: int = 0, dst: int = 0, size: int = 0, flags: int = 0) -> bytes:
    """A struct dsa_hw_desc; without *flags*, one that asks for its record."""
    flags = flags or IDXD_OP_FLAG_CRAV | IDXD_OP_FLAG_RCR
    fields = (0, flags | op << 24, record, src, dst, size)
    sizes = (4, 4, 8, 8, 8, 4)
    raw = b"".join(value.to_bytes(n, "little") for value, n in zip(fields, sizes, strict=True))
    return raw.ljust(64, b"\0")


def error(fn: Callable[[], object]) -> int | None:
    """The errno of a call."""
    try:
        fn()
    except OSError as e:
        return e.errno
    return None


def copy(one: Accel, submit: Callable[[Process, int, bytes], object]) -> tuple[int, bytes]:
    """One Memory Move of 100 bytes: the record's status, and what arrived."""
    proc = one.proc
    fd = proc.open(one.node, os.O_RDWR)
    src, dst, record = proc.mem.alloc(4096, 4096), proc.mem.alloc(4096, 4096), proc.mem.alloc(64, 64)
    proc.mem.write(src, bytes(range(100)))
    proc.mem.write(dst, bytes(100))
    proc.mem.write(record, bytes(64))
    submit(proc, fd, descriptor(DSA_OPCODE_MEMMOVE, record, src=src, dst=dst, size=100))
    one.kernel.sched.run_ready()
    result = proc.mem.read(record, 1)[0], proc.mem.read(dst, 100)
    proc.close(fd)
    return result


def by_write(proc: Process, fd: int, desc: bytes) -> None:
    assert proc.write(fd, desc) == 64


def by_instruction(proc: Process, fd: int, desc: bytes) -> None:
    portal = proc.mmap(0, 4096, RW, mmap.MAP_SHARED, fd)
    proc.movdir64b(portal + 64, desc)
    proc.munmap(portal, 4096)


def by_enqcmd(proc: Process, fd: int, desc: bytes) -> None:
    portal = proc.mmap(0, 4096, RW, mmap.MAP_SHARED, fd)
    assert proc.enqcmd(portal, desc) is False
    proc.munmap(portal, 4096)


# ---- work


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("submit", [by_write, by_instruction], ids=["write", "movdir64b"])
def test_dedicated_queue_copies(profile: str, submit: Callable[[Process, int, bytes], None], accel: Make) -> None:
    one = accel(profile)
    one.up()
    assert copy(one, submit) == (1, bytes(range(100)))


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("submit", [by_write, by_enqcmd], ids=["write", "enqcmd"])
def test_shared_queue_copies(profile: str, submit: Callable[[Process, int, bytes], None], accel: Make) -> None:
    one = accel(profile)
    one.up(mode="shared", threshold=8)
    assert copy(one, submit) == (1, bytes(range(100)))


def test_write_takes_whole_descriptors(accel: Make) -> None:
    """A rest is ignored, less than one is 0, and an error after the first shortens the count."""
    one = accel()
    one.up()
    proc = one.proc
    fd = proc.open(one.node, os.O_RDWR)
    good = descriptor(DSA_OPCODE_NOOP, 0, flags=1)
    bad = descriptor(DSA_OPCODE_NOOP, 1)
    assert [proc.write(fd, d) for d in (b"", good[:32], good + good[:10], good + bad)] == [0, 0, 64, 64]
    assert error(lambda: proc.write(fd, bad)) == EINVAL
    proc.close(fd)


@pytest.mark.parametrize(("kind", "align"), [("dsa", 32), ("iax", 64)])
def test_completion_address_is_checked_without_crav_too(kind: str, align: int, accel: Make) -> None:
    one = accel("linux-6.1", kind)
    one.up()
    fd = one.proc.open(one.node, os.O_RDWR)
    desc = descriptor(DSA_OPCODE_NOOP, align // 2, flags=1)
    assert error(lambda: one.proc.write(fd, desc)) == EINVAL
    one.proc.close(fd)


@pytest.mark.parametrize(
    ("profile", "preset", "want"),
    [("linux-6.1", "dsa2", EINVAL), ("linux-7.2", "spr", EINVAL), ("linux-7.2", "dsa2", None)],
)
def test_batches_through_write(profile: str, preset: str, want: int | None, accel: Make) -> None:
    """Refused on unsafe parts: all before 7.2, version 1 since."""
    one = accel(profile, preset=preset)
    one.up()
    fd = one.proc.open(one.node, os.O_RDWR)
    assert error(lambda: one.proc.write(fd, descriptor(DSA_OPCODE_BATCH, 0))) == want
    one.kernel.sched.run_ready()
    one.proc.close(fd)


# ---- who may


def test_open_of_a_dedicated_queue_is_exclusive(accel: Make) -> None:
    one = accel()
    one.up()
    fd = one.proc.open(one.node, os.O_RDWR)
    assert error(lambda: one.proc.open(one.node, os.O_RDWR)) == EBUSY
    assert (one.get("wq0.0/clients"), one.get("dsa0/clients")) == ("1\n", "1\n")
    one.proc.close(fd)
    assert one.get("wq0.0/clients") == "0\n"


def test_operations_that_are_not_there(accel: Make) -> None:
    one = accel()
    one.up()
    proc = one.proc
    fd = proc.open(one.node, os.O_RDWR)
    calls: list[Callable[[], object]] = [
        lambda: proc.read(fd, 4),
        lambda: proc.lseek(fd, 5),
        lambda: proc.ioctl(fd, 0x1234, 0),
    ]
    assert [error(call) for call in calls] == [EINVAL, ESPIPE, ENOTTY]
    proc.close(fd)


def test_a_child_has_the_descriptor_but_not_the_right(accel: Make) -> None:
    """mmap and write are EPERM in another address space, poll sees nothing, and the mapping is not inherited."""
    one = accel()
    one.up()
    fd = one.proc.open(one.node, os.O_RDWR)
    portal = one.proc.mmap(0, 4096, RW, mmap.MAP_SHARED, fd)
    child = one.proc.fork()
    assert error(lambda: child.mmap(0, 4096, RW, mmap.MAP_SHARED, fd)) == EPERM
    assert error(lambda: child.write(fd, bytes(32))) == EPERM
    assert child.poll([(fd, POLLIN | POLLOUT)], 0) == []
    assert error(lambda: child.movdir64b(portal, bytes(64))) is not None
    child.exit()
    one.proc.munmap(portal, 4096)
    one.proc.close(fd)


def test_mmap_checks(accel: Make) -> None:
    """One page at any offset, shared or private; more is EINVAL."""
    one = accel()
    one.up()
    proc = one.proc
    fd = proc.open(one.node, os.O_RDWR)
    before = one.kernel.log.seq
    assert error(lambda: proc.mmap(0, 8192, RW, mmap.MAP_SHARED, fd)) == EINVAL
    assert one.messages(before) == ["idxd 0000:6a:01.0: test: idxd_cdev_mmap: mapping too large: 8192"]
    for flags, offset, prot in ((mmap.MAP_PRIVATE, 0, RW), (mmap.MAP_SHARED, 4096, RW), (mmap.MAP_SHARED, 0, 1)):
        proc.munmap(proc.mmap(0, 4096, prot, flags, fd, offset), 4096)
    proc.close(fd)


def test_mmap_needs_cap_sys_rawio_and_write_does_not(accel: Make) -> None:
    """INTEL-SA-01084."""
    one = accel()
    one.up()
    one.proc.chmod(one.node, 0o666)
    user = one.kernel.process(uid=65534)
    fd = user.open(one.node, os.O_RDWR)
    assert error(lambda: user.mmap(0, 4096, RW, mmap.MAP_SHARED, fd)) == EPERM
    assert user.write(fd, descriptor(DSA_OPCODE_NOOP, 0, flags=1)) == 64
    user.close(fd)
    user.exit()
    able = one.kernel.process(cred=Cred(65534, 0, caps=1 << CAP_SYS_RAWIO))
    fd = able.open(one.node, os.O_RDWR)
    able.mmap(0, 4096, RW, mmap.MAP_SHARED, fd)
    able.exit()


# ---- PASIDs and files


def test_a_dedicated_queue_gets_the_pasid_at_open(accel: Make) -> None:
    """WQCFG[2] has no PASID while nobody has the queue open."""
    one = accel()
    one.up()
    enabled = [one.silicon.mmio_read(0, 0x408, 4) >> 28 & 1]
    fd = one.proc.open(one.node, os.O_RDWR)
    enabled.append(one.silicon.mmio_read(0, 0x408, 4) >> 28 & 1)
    assert one.silicon.mmio_read(0, 0x408, 4) >> 8 & 0xFFFFF != 0
    one.proc.close(fd)
    enabled.append(one.silicon.mmio_read(0, 0x408, 4) >> 28 & 1)
    assert enabled == [0, 1, 0]


@pytest.mark.parametrize("profile", PROFILES)
def test_opening_a_shared_queue_twice(profile: str, accel: Make) -> None:
    """The same process has the same PASID: the table keeps the first open, and the second's close warns."""
    one = accel(profile)
    one.up(mode="shared", threshold=8)
    before = one.kernel.log.seq
    fds = [one.proc.open(one.node, os.O_RDWR) for _ in range(2)]
    clients = [one.get("wq0.0/clients")]
    for fd in fds:
        one.proc.close(fd)
        clients.append(one.get("wq0.0/clients"))
    assert clients == ["2\n", "1\n", "0\n"]
    texts = [text.partition(": ")[2].rstrip("0123456789") for text in one.messages(before)]
    assert texts == ["PASID entry already exist in xarray.", "xarray cmpxchg failed for pasid "]


@pytest.mark.parametrize("profile", NEWER)
def test_each_open_is_a_device(profile: str, accel: Make) -> None:
    """file<N> below the character device, numbered by one counter, gone with the last reference."""
    one = accel(profile)
    one.up(mode="shared", threshold=8)
    cdev = "/sys/bus/dsa/devices/wq0.0/dsa!wq0.0"
    fds = [one.proc.open(one.node, os.O_RDWR) for _ in range(2)]
    assert {"file0", "file1"} <= set(one.proc.listdir(cdev))
    texts = [one.proc.read_text(f"{cdev}/file0/{a}") for a in ("pid", "cr_faults", "cr_fault_failures", "uevent")]
    assert texts == [f"{one.proc.pid}\n", "0\n", "0\n", "DEVTYPE=idxd_file\nMODALIAS=idxd:t0\n"]
    one.proc.close(fds[0])
    assert "file0" not in one.proc.listdir(cdev)
    again = one.proc.open(one.node, os.O_RDWR)
    assert "file0" in one.proc.listdir(cdev)
    one.proc.close(fds[1])
    one.proc.close(again)


def test_6_1_has_no_file_devices(accel: Make) -> None:
    one = accel("linux-6.1")
    one.up()
    fd = one.proc.open(one.node, os.O_RDWR)
    entries = one.proc.listdir("/sys/bus/dsa/devices/wq0.0/dsa!wq0.0")
    assert sorted(entries) == ["dev", "power", "subsystem", "uevent"]
    one.proc.close(fd)


def test_unbinding_under_a_client(accel: Make) -> None:
    """It is only warned of; the descriptor stays usable as far as it needs no queue, and clients ends at -1."""
    one = accel("linux-7.2")
    one.up()
    proc = one.proc
    fd = proc.open(one.node, os.O_RDWR)
    before = one.kernel.log.seq
    assert one.unbind("wq0.0", "user") == 5
    assert one.messages(before) == ["idxd 0000:6a:01.0: Clients has claim on wq 0: 1"]
    assert one.get("wq0.0/clients") == "0\n"
    assert proc.write(fd, bytes(32)) == 0
    proc.munmap(proc.mmap(0, 4096, RW, mmap.MAP_SHARED, fd), 4096)
    proc.close(fd)
    assert one.get("wq0.0/clients") == "-1\n"


def test_poll_tells_of_software_errors(accel: Make) -> None:
    """Readable from the first error on: the cached SWERR is never cleared."""
    one = accel()
    one.up()
    fd = one.proc.open(one.node, os.O_RDWR)
    assert one.proc.poll([(fd, POLLIN | POLLOUT)], 0) == []
    one.silicon.raise_swerr([0x03001009, 1, 0xDEADBEEF0000, 0x1234])
    one.kernel.sched.run_ready()
    assert one.proc.poll([(fd, POLLIN | POLLRDNORM)], 0) == [(fd, POLLIN | POLLRDNORM)]
    text = "0x0000000003001009 0x0000000000000001 0x0000deadbeef0000 0x0000000000001234\n"
    assert one.get("dsa0/errors") == text
    assert one.messages()[-4:] == [f"idxd 0000:6a:01.0: err[{i}]: {q}" for i, q in enumerate(text.split())]
    one.proc.close(fd)


def log_event(one: Accel, code: int, pasid: int, address: int, record: bytes) -> None:
    """Play the silicon's part: an entry of the event log for queue 0, and its interrupt."""
    base, size = (one.silicon.mmio_read(0, at, 8) for at in (0xE0, 0xE8))
    regs = one.silicon.regs
    index = regs.evlstatus.tail
    first = 0xC | code << 8 | pasid << 40
    entry = first.to_bytes(8, "little") + bytes(8) + address.to_bytes(8, "little") + bytes(8) + record
    one.silicon.port.dma_write((base & ~0xFFF) + 64 * index, entry)
    regs.evlstatus.tail = (index + 1) % (size & 0xFFFF)
    regs.evlstatus.int_pending = 1
    one.silicon.raise_cause(0x20)
    one.kernel.sched.run_ready()


@pytest.mark.parametrize("profile", NEWER)
def test_the_kernel_writes_a_record_that_faulted(profile: str, accel: Make) -> None:
    """Event log: the kernel writes the record for the device, counts it, and counts what it could not write."""
    one = accel(profile, preset="dsa2")
    one.up()
    proc = one.proc
    fd = proc.open(one.node, os.O_RDWR)
    pasid = one.silicon.mmio_read(0, 0x408, 4) >> 8 & 0xFFFFF
    record = proc.mmap(0, 4096, RW, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

    log_event(one, DSA_COMP_CRA_XLAT, pasid, record, b"\x01" + bytes(range(31)))
    log_event(one, DSA_COMP_CRA_XLAT, pasid, record + 4096, bytes(32))

    assert proc.mem.read(record, 32) == b"\x01" + bytes(range(31))
    cdev = "/sys/bus/dsa/devices/wq0.0/dsa!wq0.0"
    assert [proc.read_text(f"{cdev}/file0/{a}") for a in ("cr_faults", "cr_fault_failures")] == ["2\n", "1\n"]
    assert one.silicon.regs.evlstatus.head == 2
    proc.munmap(record, 4096)
    proc.close(fd)


@pytest.mark.parametrize("profile", NEWER)
def test_other_events_are_printed(profile: str, accel: Make) -> None:
    one = accel(profile, preset="dsa2")
    one.up()
    log_event(one, 0x13, 0, 0x1000, bytes(32))
    assert one.messages()[-1] == "idxd 0000:6a:01.0: Device error 0x13 operation: 0x0 fault addr: 0x1000"


def test_status_codes_of_the_event_log() -> None:
    """include/uapi/linux/idxd.h."""
    assert (DSA_COMP_CRA_XLAT, DSA_COMP_BATCH_EVL_ERR) == (0x1A, 0x27)
