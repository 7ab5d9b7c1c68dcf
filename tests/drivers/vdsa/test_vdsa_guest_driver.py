"""The driver of another kernel on a virtual DSA: the same idxd, a device that cannot be configured, its commands."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Iterator
from copy import deepcopy
from mmap import MAP_SHARED, PROT_WRITE
from typing import Any

import pytest

from pykernel.kernel import Kernel
from pykernel.machine import Machine
from pykernel.mdev.core import MdevCore
from pykernel.pci.core import Pci
from pykernel.pci.function import PciFunction
from pykernel.start import boot

BUS = "/sys/bus/dsa"
PAGE = 4096


class Assigned(PciFunction):
    """A virtual DSA in a guest's slot; what the processor of a guest does to a PASID is done here."""

    def __init__(self, vdsa: Any) -> None:
        self.vdsa = vdsa
        driver = vdsa.vmm.kernel.sub(MdevCore).devices[vdsa.uuid].drvdata
        super().__init__(deepcopy(driver.config.space))
        self.place_msix(2, 0, 0x600, 0x700)
        self.fds = vdsa.eventfds()
        self.portal = vdsa.bar2.mmap(PAGE, PAGE)
        self.io = vdsa.vmm.proc.task.mm.mem.vmas.find(self.portal).io

    def config_write(self, off: int, size: int, value: int) -> None:
        super().config_write(off, size, value)
        if off >= 0x40 or off == 4:
            self.vdsa.set_cfg(off, value, size)

    def bar_read(self, bar: int, off: int, size: int) -> int:
        return int(self.vdsa.rd(off, size)) if bar == 0 else (1 << 8 * size) - 1

    def bar_write(self, bar: int, off: int, size: int, value: int) -> None:
        if bar == 0:
            self.vdsa.wr(off, value, size)
            self.interrupts()

    def interrupts(self) -> None:
        """What was signalled."""
        for vector, fd in enumerate(self.fds):
            if self.vdsa.signals(fd):
                self.raise_msix(vector)

    def posted_write(self, bar: int, off: int, data: bytes) -> None:
        self.vdsa.vmm.proc.movdir64b(self.portal + off % PAGE, data)

    def dmwr(self, bar: int, off: int, data: bytes) -> bool:
        first = int.from_bytes(data[:4], "little")
        host = self.vdsa.vmm.bound.get(first & 0xFFFFF)
        if host is None:  # VM exit 72: retry, and skip
            return False
        base = self.vdsa.bar2.info.offset + PAGE
        return bool(self.io.enqcmd(base + off % PAGE, (first & ~0xFFFFF | host).to_bytes(4, "little") + data[4:]))


class Guest:
    """A kernel with a virtual DSA."""

    def __init__(self, vdsa: Any, profile: str) -> None:
        self.kernel: Kernel = boot(Machine("guest", modules={"idxd": ""}), profile)
        self.kernel.up()
        self.function = Assigned(vdsa)
        pci = self.kernel.sub(Pci)
        pci.plug("0000:00:05.0", self.function)
        pci.rescan()
        self.proc = self.kernel.process(comm="app")

    def get(self, attr: str) -> str:
        """An attribute, stripped."""
        return self.proc.read_text(f"{BUS}/devices/{attr}").strip()

    def put(self, path: str, text: str | int) -> str:
        """ "" or the name of the errno."""
        try:
            self.proc.write_text(f"{BUS}/{path}", str(text))
        except OSError as e:
            return errno.errorcode[e.errno or 0]
        return ""

    def up(self) -> None:
        """Queue 0 for users."""
        if self.get("dsa0/state") != "enabled":
            assert self.put("drivers/idxd/bind", "dsa0") == ""
        rows = [("type", "user"), ("name", "app")]
        if self.kernel.profile.idxd_driver_name:
            rows.append(("driver_name", "user"))
        for attr, text in rows:
            assert self.put(f"devices/wq0.0/{attr}", text) == ""
        assert self.put("drivers/user/bind", "wq0.0") == "", self.get("dsa0/cmd_status")

    def open(self) -> int:
        """/dev/dsa/wq0.0, mapped."""
        fd = self.proc.open("/dev/dsa/wq0.0", 2)
        self.portal = self.proc.mmap(0, PAGE, PROT_WRITE, MAP_SHARED, fd, 0)
        return fd

    @property
    def pasid(self) -> int:
        """The guest's number of its process."""
        return int(self.kernel.pasid_of(self.proc.task.mm))


@pytest.fixture
def guest_of(profile: str, vmm: Any) -> Iterator[Callable[[Any], Guest]]:
    made: list[Guest] = []

    def make(vdsa: Any) -> Guest:
        made.append(Guest(vdsa, profile))
        return made[-1]

    yield make
    for guest in made:
        guest.proc.exit()
        assert not guest.kernel.oopses
        guest.kernel.shutdown()


def noop() -> bytes:
    return struct.pack("<IIQQQIHH24s", 0, 0, 0, 0, 0, 0, 0, 0, b"")


# ---- what its sysfs shows


def test_shared_queue_shows_the_hosts_configuration(guest_of: Callable[[Any], Guest], swq: Any) -> None:
    guest = guest_of(swq)
    attrs = {"dsa0/configurable": "0", "dsa0/max_work_queues": "1", "dsa0/max_work_queues_size": "32",
             "dsa0/pasid_enabled": "1", "wq0.0/mode": "shared", "wq0.0/size": "32", "wq0.0/threshold": "24",
             "wq0.0/priority": "10", "wq0.0/group_id": "0", "wq0.0/max_transfer_size": "2097152"}  # fmt: skip
    assert {a: guest.get(a) for a in attrs} == attrs


@pytest.mark.parametrize(
    ("attr", "text", "error"),
    [("size", 8, "EPERM"), ("mode", "dedicated", "EPERM"), ("threshold", 4, "EPERM"), ("priority", 1, "EPERM"),
     ("group_id", -1, "EPERM"), ("max_transfer_size", 4096, "EPERM"), ("block_on_fault", 1, "EPERM"),
     ("type", "user", ""), ("name", "x", "")],
)  # fmt: skip
def test_what_the_host_decided_cannot_be_stored(
    guest_of: Callable[[Any], Guest], swq: Any, attr: str, text: str | int, error: str
) -> None:
    guest = guest_of(swq)
    guest.put("drivers/idxd/unbind", "dsa0")
    assert guest.put(f"devices/wq0.0/{attr}", text) == error


# ---- the shared queue


def test_shared_queue_for_users_with_enqcmd(guest_of: Callable[[Any], Guest], swq: Any, vmm: Any, host: Any) -> None:
    """The guest's process submits with its guest PASID; the device sees the host's."""
    guest = guest_of(swq)
    guest.up()
    assert (guest.get("wq0.0/state"), swq.wq_state) == ("enabled", 1)
    guest.open()
    number = vmm.bind(guest.pasid)
    host.hold()
    assert guest.proc.enqcmd(guest.portal, noop()) is False
    (work,) = host.silicon.wqs[1].entries
    assert (work.pasid, work.priv) == (number, False)
    assert number != guest.pasid
    host.run()


def test_shared_queue_without_the_bind_answers_retry(guest_of: Callable[[Any], Guest], swq: Any, host: Any) -> None:
    guest = guest_of(swq)
    guest.up()
    guest.open()
    assert guest.proc.enqcmd(guest.portal, noop()) is True
    assert not host.silicon.wqs[1].entries


def test_close_drains_the_hosts_pasid(guest_of: Callable[[Any], Guest], swq: Any, vmm: Any, host: Any) -> None:
    guest = guest_of(swq)
    guest.up()
    fd = guest.open()
    number = vmm.bind(guest.pasid)
    drained: list[int] = []
    host.kernel.trace.listeners.append(
        lambda e: (
            drained.append(e.fields["value"] & 0xFFFFF)
            if e.name == "mmio_write" and e.fields["off"] == 0xA0 and e.fields["value"] >> 20 & 0x1F == 11
            else None
        )
    )
    guest.proc.munmap(guest.portal, PAGE)
    guest.proc.close(fd)
    assert drained == [number]


def test_queue_can_be_unbound_and_bound_again(guest_of: Callable[[Any], Guest], swq: Any) -> None:
    """Linux forgets mode and threshold, which nobody could store again: they are read from the device."""
    guest = guest_of(swq)
    for _ in range(2):
        guest.up()
        assert guest.put("drivers/user/unbind", "wq0.0") == ""
        assert (guest.get("wq0.0/mode"), guest.get("wq0.0/threshold"), swq.wq_state) == ("shared", "24", 0)


# ---- the dedicated queue


def test_dedicated_queue_gets_the_openers_pasid(
    guest_of: Callable[[Any], Guest], dwq: Any, vmm: Any, host: Any
) -> None:
    guest = guest_of(dwq)
    assert (guest.get("wq0.0/mode"), guest.get("wq0.0/size")) == ("dedicated", "16")
    guest.up()
    fd = guest.open()
    number = vmm.bind(guest.pasid)
    flags = host.silicon.regs.wqcfg[0].flags
    assert (dwq.rd(0x508) >> 8 & 0xFFFFF, flags.pasid) == (guest.pasid, number)
    guest.proc.munmap(guest.portal, PAGE)
    guest.proc.close(fd)
    assert flags.pasid != number


def test_dedicated_queue_takes_movdir64b(guest_of: Callable[[Any], Guest], dwq: Any, vmm: Any, host: Any) -> None:
    guest = guest_of(dwq)
    guest.up()
    guest.open()
    number = vmm.bind(guest.pasid)
    host.hold()
    guest.proc.movdir64b(guest.portal, noop())
    (work,) = host.silicon.wqs[0].entries
    assert work.pasid == number
    host.run()


def test_guest_that_unbinds_its_device_turns_the_hosts_queue_off(
    guest_of: Callable[[Any], Guest], dwq: Any, host: Any
) -> None:
    guest = guest_of(dwq)
    guest.up()
    assert guest.put("drivers/idxd/unbind", "dsa0") == ""
    assert (dwq.rd(0x90) & 3, dwq.wq_state, host.silicon.regs.wqcfg[0].status.state) == (0, 0, 0)
