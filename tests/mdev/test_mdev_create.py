"""Writes to ``create`` and ``remove``, by the rows of drivers/vfio/mdev/mdev_sysfs.c and mdev_core.c."""

from __future__ import annotations

import os
from errno import EAGAIN, EEXIST, EINVAL, ENODEV, ENOENT, ENOMEM, ENOSPC, EUSERS

import pytest
from errnos import errno_of
from hypothesis import given
from hypothesis import strategies as st

from pykernel.errors import EPROBE_DEFER, err
from pykernel.machine import Machine
from pykernel.mdev.sysfs import guid_parse
from pykernel.start import boot

DEVICES = "/sys/bus/mdev/devices"
UUID = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"


def write(proc, path, data) -> int:
    fd = proc.open(path, os.O_WRONLY)
    try:
        return proc.write(fd, data)
    finally:
        proc.close(fd)


# ---- create

WRITES = {
    "36 bytes": (UUID.encode(), 36),
    "a newline": (UUID.encode() + b"\n", 37),
    "a NUL": (UUID.encode() + b"\0", 37),
    "any 37th byte": (UUID.encode() + b"z", 37),
    "upper case": (UUID.upper().encode(), 36),
    "both cases": (UUID[:18].upper().encode() + UUID[18:].encode(), 36),
    "no bytes": (b"", 0),
}
BAD_WRITES = {
    "35 bytes": UUID[:-1].encode(),
    "38 bytes": UUID.encode() + b"\n\n",
    "one byte": b"\n",
    "no hex digit": UUID.replace("8", "g", 1).encode(),
    "a blank first": b" " + UUID.encode(),
    "braces": b"{" + UUID[1:-1].encode() + b"}",
    "0x": b"0x" + UUID[2:].encode(),
    "no dashes": UUID.replace("-", "0").encode(),
    "a dash too early": b"83b8f4f-2509f-382f-3c1e-e6bfe0fa1001",
    "a dash too late": b"83b8f4f25-09f-382f-3c1e-e6bfe0fa1001",
    "a NUL in it": UUID[:20].encode() + b"\0" + UUID[21:].encode(),
    "digits of Unicode": UUID.encode().replace(b"8", "²".encode("latin-1"), 1),
}


@pytest.mark.parametrize("row", WRITES)
def test_a_uuid(toy, proc, row):
    """The 37th byte is not looked at; the name is in lower case; nothing written is nothing done."""
    data, count = WRITES[row]

    assert write(proc, f"{toy.type()}/create", data) == count
    assert proc.listdir(DEVICES) == [UUID] * bool(count)


@pytest.mark.parametrize("row", BAD_WRITES)
def test_no_uuid(toy, proc, row):
    assert errno_of(write, proc, f"{toy.type()}/create", BAD_WRITES[row]) == EINVAL
    assert proc.listdir(DEVICES) == []


@given(st.text("0123456789abcdefABCDEF-gG x", min_size=30, max_size=40))
def test_what_is_a_uuid(text):
    """lib/uuid.c:uuid_is_valid(), character by character."""
    valid = len(text) >= 36 and all(
        c == "-" if i in (8, 13, 18, 23) else c in "0123456789abcdefABCDEF" for i, c in enumerate(text[:36])
    )
    assert errno_of(guid_parse, text) == (0 if valid else EINVAL)
    if valid:
        assert guid_parse(text) == text[:36].lower()


def test_a_uuid_is_there_once(toy, proc):
    """Whatever its case, whatever the type."""
    write(proc, f"{toy.type()}/create", UUID.encode())

    assert errno_of(write, proc, f"{toy.type()}/create", UUID.upper().encode()) == EEXIST
    assert errno_of(write, proc, f"{toy.type('two')}/create", UUID.encode()) == EEXIST


def test_a_uuid_is_there_once_on_the_whole_system(toy, make_toy, proc):
    """Also with another parent."""
    other = make_toy(name="toy1", driver_name="other").register()
    write(proc, f"{toy.type()}/create", UUID.encode())

    assert errno_of(write, proc, f"{other.type()}/create", UUID.encode()) == EEXIST
    assert errno_of(write, proc, f"{other.type()}/create", UUID.replace("8", "9").encode()) == 0


def test_the_core_counts(toy, proc, uuids):
    """max_instances are a parent's, over all types; the next one is EUSERS."""
    write(proc, f"{toy.type()}/create", uuids[0].encode())
    assert proc.read_text(f"{toy.type('two')}/available_instances") == "1\n"
    write(proc, f"{toy.type('two')}/create", uuids[1].encode())
    assert proc.read_text(f"{toy.type()}/available_instances") == "0\n"

    assert errno_of(write, proc, f"{toy.type()}/create", uuids[2].encode()) == EUSERS
    assert errno_of(write, proc, f"{toy.type()}/create", uuids[1].encode()) == EEXIST

    write(proc, f"{DEVICES}/{uuids[0]}/remove", b"1")
    assert proc.read_text(f"{toy.type()}/available_instances") == "1\n"
    assert errno_of(write, proc, f"{toy.type()}/create", uuids[2].encode()) == 0


def test_a_driver_counts_itself(make_toy, counting, proc, uuids):
    """Pitfall: EUSERS is the core's, ENOSPC the driver's; max_instances mean nothing then."""
    toy = make_toy(counting).register()
    for uuid in uuids[:5]:
        write(proc, f"{toy.type()}/create", uuid.encode())
    toy.driver.answer = err(ENOSPC)

    assert errno_of(write, proc, f"{toy.type()}/create", uuids[6].encode()) == ENOSPC


@pytest.mark.parametrize(
    ("answer", "errno"), [(ENOSPC, ENOSPC), (ENOMEM, ENOMEM), (ENODEV, ENODEV), (EPROBE_DEFER, EAGAIN)],
    ids=["ENOSPC", "ENOMEM", "ENODEV", "EPROBE_DEFER"],
)  # fmt: skip
def test_the_drivers_answer(toy, proc, answer, errno):
    """What probe says is what write() says, but for a deferred one; nothing is left, and the instance is free again."""
    toy.driver.answer = err(answer)

    assert errno_of(write, proc, f"{toy.type()}/create", UUID.encode()) == errno
    assert proc.listdir(DEVICES) == []
    assert proc.listdir(f"{toy.type()}/devices") == []
    assert UUID not in proc.listdir(toy.path)
    assert proc.read_text(f"{toy.type()}/available_instances") == "2\n"


def test_a_device_that_cannot_be_added(kernel, toy, proc):
    """Its errno, and the UUID is free: here the parent has a file of that name."""
    toy.dev.dir.create_dir(UUID)

    assert errno_of(write, proc, f"{toy.type()}/create", UUID.encode()) == EEXIST
    assert proc.read_text(f"{toy.type()}/available_instances") == "2\n"
    toy.dev.dir.children[UUID].remove()
    assert errno_of(write, proc, f"{toy.type()}/create", UUID.encode()) == 0


def test_every_allocation_of_create_may_fail(kernel, toy, proc):
    failed = 0
    for nth in range(1, 20):
        with kernel.faults.fail("alloc", nth=nth) as rule:
            errno = errno_of(write, proc, f"{toy.type()}/create", UUID.encode())
        if not rule.fired:
            break
        failed += 1
        assert errno == ENOMEM
        assert proc.listdir(DEVICES) == []
    assert failed >= 3


def test_quirk_an_instance_is_lost_for_want_of_memory(kernel, toy, proc):
    """mdev_device_create() takes one off available_instances before kzalloc(), and does not put it back."""
    with kernel.faults.fail("alloc", "mdev_device"):
        assert errno_of(write, proc, f"{toy.type()}/create", UUID.encode()) == ENOMEM

    assert proc.read_text(f"{toy.type()}/available_instances") == "1\n"


def test_all_is_there_when_write_returns(toy, proc, events):
    """And in this order it came."""
    write(proc, f"{toy.type()}/create", UUID.encode())
    write(proc, f"{DEVICES}/{UUID}/remove", b"1")

    where = f"/devices/virtual/toy/toy0/{UUID}"
    assert [(e["ACTION"], e["DEVPATH"], e["SUBSYSTEM"], e.get("DRIVER")) for e in events] == [
        ("add", where, "mdev", None),
        ("bind", where, "mdev", "toydrv"),
        ("unbind", where, "mdev", None),
        ("remove", where, "mdev", None),
    ]


# ---- remove

REMOVING = [b"1", b"1\n", b"+1", b"0x1", b"2", b"99", b"010", b"18446744073709551615"]
LEAVING = [b"0", b"0\n", b"0x0", b"00"]
REFUSED = [b"-1", b" 1", b"1 ", b"1x", b"yes", b"\n", b"1\n\n", b"18446744073709551616", b"08", b"0x", b"+"]


@pytest.mark.parametrize("data", REMOVING, ids=lambda data: repr(data)[1:])
def test_a_number_removes(toy, proc, data):
    write(proc, f"{toy.type()}/create", UUID.encode())

    assert write(proc, f"{DEVICES}/{UUID}/remove", data) == len(data)
    assert proc.listdir(DEVICES) == []
    assert UUID not in proc.listdir(toy.path)


@pytest.mark.parametrize("data", [*LEAVING, b""], ids=lambda data: repr(data)[1:])
def test_zero_and_nothing_do_nothing(toy, proc, data):
    write(proc, f"{toy.type()}/create", UUID.encode())

    assert write(proc, f"{DEVICES}/{UUID}/remove", data) == len(data)
    assert proc.listdir(DEVICES) == [UUID]


@pytest.mark.parametrize("data", REFUSED, ids=lambda data: repr(data)[1:])
def test_no_number(toy, proc, data):
    """EINVAL, also of what is too large."""
    write(proc, f"{toy.type()}/create", UUID.encode())

    assert errno_of(write, proc, f"{DEVICES}/{UUID}/remove", data) == EINVAL
    assert proc.listdir(DEVICES) == [UUID]


def test_a_uuid_can_be_used_again_at_once(toy, proc):
    for _ in range(5):
        write(proc, f"{toy.type()}/create", UUID.encode())
        write(proc, f"{DEVICES}/{UUID}/remove", b"1")


def test_remove_waits_for_who_has_the_device(kernel, toy, proc):
    """Pitfall: the write blocks until the device is closed. Meanwhile it has no name, and no file to remove it with."""
    write(proc, f"{toy.type()}/create", UUID.encode())
    closed = toy.driver.opened[UUID] = kernel.completion()
    order = []

    def remover():
        order.append(f"removed {write(proc, f'{DEVICES}/{UUID}/remove', b'1')}")

    def user():
        other = kernel.process()
        while UUID in other.listdir(DEVICES):
            pass  # others run where a system call ends
        assert "remove" not in other.listdir(f"{toy.path}/{UUID}")
        assert errno_of(write, other, f"{toy.type()}/create", UUID.encode()) == EEXIST
        order.append("closed")
        closed.complete()

    kernel.gather(remover, user)

    assert order == ["closed", "removed 1"]


def test_remove_before_a_device_is_complete(kernel, toy, proc):
    """EAGAIN, and the file is gone for good, as it went first."""
    hold = kernel.completion()

    def probe(mdev):
        hold.wait()

    toy.driver.probe = probe

    def creator():
        write(proc, f"{toy.type()}/create", UUID.encode())

    def remover():
        other = kernel.process()
        while UUID not in other.listdir(toy.path):
            pass  # others run where a system call ends
        errno = errno_of(write, other, f"{toy.path}/{UUID}/remove", b"1")
        hold.complete()
        return errno

    assert kernel.gather(creator, remover)[1] == EAGAIN
    assert proc.listdir(DEVICES) == [UUID]
    assert errno_of(proc.open, f"{DEVICES}/{UUID}/remove", os.O_WRONLY) == ENOENT


# ---- mdevctl: the system calls of the real one (strace)


@pytest.mark.parametrize("profile_", ["linux-6.1", "linux-6.12"])
def test_the_calls_of_mdevctl(profile_):
    """types, start, list, stop: links that lead there, O_CREAT and O_TRUNC, 36 bytes without a newline."""
    kernel = boot(Machine("m", modules={"mtty": ""}), profile_)
    proc = kernel.process(comm="mdevctl")
    parents = "/sys/class/mdev_bus"

    found = {}
    for parent in proc.listdir(parents):
        types = f"{parents}/{parent}/mdev_supported_types"
        for name in proc.listdir(types):
            assert int(proc.read_text(f"{types}/{name}/available_instances")) > 0
            assert proc.read_text(f"{types}/{name}/device_api").strip() == "vfio-pci"
            found[name] = proc.read_text(f"{types}/{name}/name").strip()
            assert errno_of(proc.stat, f"{types}/{name}/description") == ENOENT
    assert found == {"mtty-1": "Single port serial", "mtty-2": "Dual port serial"}

    assert errno_of(proc.stat, f"{DEVICES}/{UUID}") == ENOENT
    for path in ("", "/mdev_supported_types", "/mdev_supported_types/mtty-2"):
        proc.stat(f"{parents}/mtty{path}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    fd = proc.open(f"{parents}/mtty/mdev_supported_types/mtty-2/create", flags, 0o666)
    assert proc.write(fd, UUID.encode()) == 36
    proc.close(fd)

    assert proc.listdir(DEVICES) == [UUID]
    where = _realpath_by_links(proc, f"{DEVICES}/{UUID}")
    assert where == f"/sys/devices/virtual/mtty/mtty/{UUID}"
    kind = _realpath_by_links(proc, f"{DEVICES}/{UUID}/mdev_type")
    assert kind == "/sys/devices/virtual/mtty/mtty/mdev_supported_types/mtty-2"

    fd = proc.open(f"{where}/remove", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    assert proc.write(fd, b"1") == 1
    proc.close(fd)
    assert errno_of(proc.stat, f"{DEVICES}/{UUID}") == ENOENT
    kernel.shutdown()


def _realpath_by_links(proc, path) -> str:
    """Component by component, as realpath() does: a directory is EINVAL for readlink()."""
    done, todo = "", path.strip("/").split("/")
    while todo:
        part = todo.pop(0)
        if part == "..":
            done = done.rpartition("/")[0]
            continue
        if errno_of(proc.readlink, f"{done}/{part}") == EINVAL:
            done += f"/{part}"
            continue
        target = proc.readlink(f"{done}/{part}")
        assert not target.startswith("/")
        todo = target.split("/") + todo
    return done
