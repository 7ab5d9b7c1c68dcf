"""Interrupts of a virtual DSA: MSI-X by eventfds, vector 1 behind an entry of the host's IMS that knows its PASID."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from pykernel.uapi.linux import vfio as v

PAGE = 4096
RCI = 0x10
REQUEST_INT, ENABLE_DEV = 13, 1
MSIX = v.VFIO_PCI_MSIX_IRQ_INDEX
TRIGGER, MASK = v.VFIO_IRQ_SET_ACTION_TRIGGER, v.VFIO_IRQ_SET_ACTION_MASK
NONE, BOOL, EVENTFD = v.VFIO_IRQ_SET_DATA_NONE, v.VFIO_IRQ_SET_DATA_BOOL, v.VFIO_IRQ_SET_DATA_EVENTFD


def noop(pasid: int, handle: int) -> bytes:
    return struct.pack("<IIQQQIHH24s", pasid, RCI, 0, 0, 0, 0, handle, 0, b"")


def test_two_vectors_of_msix_and_nothing_else(dwq: Any) -> None:
    assert [dwq.device.irq(n).count for n in range(5)] == [0, 0, 2, 0, 0]
    assert dwq.device.irq(MSIX).flags == v.VFIO_IRQ_INFO_EVENTFD | v.VFIO_IRQ_INFO_NORESIZE


def test_loopback_signals_each_vector(dwq: Any) -> None:
    fds = dwq.eventfds()
    dwq.device.trigger(MSIX, 1)
    assert [dwq.signals(fd) for fd in fds] == [0, 1]
    dwq.device.set_irqs(MSIX, BOOL | TRIGGER, 0, 2, b"\1\0")
    assert [dwq.signals(fd) for fd in fds] == [1, 0]


def test_disabled_vectors_signal_nobody(dwq: Any) -> None:
    fds = dwq.eventfds()
    dwq.device.disable(MSIX)
    dwq.device.trigger(MSIX, 0)
    assert [dwq.signals(fd) for fd in fds] == [0, 0]


def test_eventfd_minus_one_takes_one_away(dwq: Any) -> None:
    fds = dwq.eventfds()
    dwq.device.signal_by(MSIX, [-1], 1)
    dwq.device.trigger(MSIX, 1)
    dwq.device.trigger(MSIX, 0)
    assert [dwq.signals(fd) for fd in fds] == [1, 0]


@pytest.mark.parametrize(
    ("index", "flags", "start", "count", "data", "error"),
    [
        (MSIX, NONE | MASK, 0, 1, b"", "Inappropriate ioctl"),
        (MSIX, NONE | TRIGGER, 2, 1, b"", "Invalid argument"),
        (MSIX, NONE | TRIGGER, 1, 2, b"", "Invalid argument"),
        (v.VFIO_PCI_INTX_IRQ_INDEX, NONE | TRIGGER, 0, 1, b"", "Invalid argument"),
        (v.VFIO_PCI_MSI_IRQ_INDEX, NONE | TRIGGER, 0, 1, b"", "Invalid argument"),
        (9, NONE | TRIGGER, 0, 1, b"", "Invalid argument"),
        (MSIX, EVENTFD | TRIGGER, 0, 1, struct.pack("<i", 999), "Bad file descriptor"),
        (MSIX, EVENTFD | TRIGGER, 0, 1, b"", "Invalid argument"),
    ],
)
def test_what_cannot_be_set(dwq: Any, index: int, flags: int, start: int, count: int, data: bytes, error: str) -> None:
    with pytest.raises(OSError, match=error):
        dwq.device.set_irqs(index, flags, start, count, data)


def ready(d: Any, guest: int) -> int:
    """On, user interrupts allowed on the host, the handle asked for; the handle."""
    d.up(guest)
    d.wr(0x308, guest << 12 | 8)
    return int(d.command(REQUEST_INT, 1) >> 8)


def test_completion_signals_vector_1(swq: Any, vmm: Any, host: Any) -> None:
    vmm.bind(101)
    handle = ready(swq, 101)
    fds = swq.eventfds()
    host.silicon.regs.gencfg.user_int_en = 1
    swq.bar2.write(PAGE, noop(101, handle))
    host.run()
    assert [swq.signals(fd) for fd in fds] == [0, 1]


def test_handle_of_another_guest_is_refused_by_its_pasid(swq: Any, vmm: Any, another_vmm: Any, host: Any) -> None:
    """Two guests on one queue: a descriptor that names the other's handle ends with "bad handle" and rings nobody."""
    other = another_vmm.open("idxd-dsa-1swq-v1")
    vmm.bind(101)
    another_vmm.bind(101)
    mine, theirs = ready(swq, 101), ready(other, 101)
    fds, their_fds = swq.eventfds(), other.eventfds()
    host.silicon.regs.gencfg.user_int_en = 1
    assert mine != theirs
    swq.bar2.write(PAGE, noop(101, theirs))
    host.run()
    assert [other.signals(fd) for fd in their_fds] == [0, 0]
    assert swq.signals(fds[1]) == 0


def test_host_error_of_the_guests_pasid_is_told_in_its_numbers(swq: Any, vmm: Any, another_vmm: Any, host: Any) -> None:
    """A record that cannot be written: SWERR of the host, with the queue and the PASID that the guest knows."""
    other = another_vmm.open("idxd-dsa-1swq-v1")
    vmm.bind(101)
    another_vmm.bind(101)
    for d in (swq, other):
        d.up()
        d.wr(0x88, 1)
    fds, their_fds = swq.eventfds(), other.eventfds()
    bad = struct.pack("<IIQQQIHH24s", 101, 0xC, 0x1000, 0, 0, 0, 0, 0, b"")
    swq.bar2.write(PAGE, bad)
    host.run()
    first = swq.rd(0xC0, 8)
    assert (first & 1, first >> 8 & 0xFF, first >> 16 & 0xFF, first >> 40 & 0xFFFFF) == (1, 0x1A, 0, 101)
    assert (swq.rd(0xD0, 8), swq.rd(0x98) & 1) == (0x1000, 1)
    assert [swq.signals(fd) for fd in fds] == [1, 0]
    assert (other.rd(0xC0), [other.signals(fd) for fd in their_fds]) == (0, [0, 0])
