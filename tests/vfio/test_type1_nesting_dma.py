"""Containers that nest, with the IOMMU itself: DMA of a device through a guest's tables, and what it may not reach."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from type1box import Box, machine, physical

import pykernel
from pykernel.iommu import ioasid as i
from pykernel.machine import parse
from pykernel.pci.function import DmaFault

NESTING = 6
GVA = 0x7F00_0000_0000
PML4, PDPT, PD, PT, DATA = 0x1000, 0x2000, 0x3000, 0x4000, 0x8000
SIZE = 0x20000


class Vmm(Box):
    """A client whose memory is a guest's from address 0 on; the guest has one page at GVA."""

    def __init__(self, kernel: Any, vdev: Any) -> None:
        super().__init__(kernel, vdev, kind=NESTING)
        self.vdev, self.dev = vdev, vdev.dev
        self.ids = self.proc.open("/dev/ioasid", os.O_RDWR)
        assert self.set_iommu() == 0
        assert self.map(0, SIZE) == 0
        for table, index, to in ((PML4, GVA >> 39 & 511, PDPT), (PDPT, 0, PD), (PD, 0, PT), (PT, 0, DATA)):
            self.poke(table + 8 * index, struct.pack("<Q", to | 7))
        self.poke(DATA, b"the guest's")

    def poke(self, gpa: int, data: bytes) -> None:
        self.proc.mem.write(self.areas["a"] + gpa, data)

    def peek(self, gpa: int, n: int) -> bytes:
        return self.bytes(self.areas["a"] + gpa, n)

    def alloc(self) -> int:
        return self.proc.ioctl(self.ids, 0x6966, bytearray(struct.pack("<IIII", 16, 0, 1, 0xFFFFF)))

    def free(self, pasid: int) -> int:
        return self.proc.ioctl(self.ids, 0x6967, bytearray(struct.pack("<i", pasid)))

    def op(self, number: int, data: bytes) -> int:
        return self.ioctl(0x3B76, bytearray(struct.pack("<II", 8 + len(data), number) + data))[0]

    def bind(self, pasid: int, gpasid: int = 101, op: int = 0, flags: int = 1, width: int = 48) -> int:
        return self.op(op, struct.pack("<IIIIQQQQ8x", 72, 1, 1, width, flags, PML4, pasid, gpasid) + bytes(16))

    def unbind(self, pasid: int, flags: int = 1) -> int:
        return self.bind(pasid, op=1, flags=flags)

    def invalidate(self, pasid: int, addr: int) -> int:
        return self.op(2, struct.pack("<IIBB6xIIQQQQ", 56, 1, 1, 2, 1, 0, pasid, addr, 4096, 1))

    def dma_read(self, addr: int, n: int, pasid: int | None) -> bytes:
        """What the device reads; b"" for a fault."""
        try:
            found: bytes = self.dev.slot.dma_read(addr, n, pasid)
        except DmaFault:
            return b""
        return found


@pytest.fixture(params=["linux-6.1", "linux-6.12"])
def host(request) -> Iterator[Any]:
    kernel: Any = pykernel.boot(parse(machine(2, width=48) + 'ioasid_user = ""\n'), request.param)
    kernel.vfio = physical(kernel)
    kernel.boxes = []
    yield kernel
    for box in kernel.boxes:
        box.close()
    kernel.sched.run_ready()
    assert not kernel.oopses
    kernel.sub(i.Ioasid)._check()
    kernel.vfio.unregister()
    kernel.shutdown()


@pytest.fixture
def vmm(host) -> Vmm:
    return box_of(host)


def box_of(host: Any, n: int = 0) -> Vmm:
    box = Vmm(host, host.vfio.vdevs[n])
    host.boxes.append(box)
    return box


def test_dma_goes_through_the_guests_tables(vmm):
    pasid = vmm.alloc()
    assert vmm.dma_read(GVA, 11, pasid) == b""
    assert vmm.bind(pasid) == 0
    assert vmm.dma_read(GVA, 11, pasid) == b"the guest's"
    vmm.dev.slot.dma_write(GVA + 0x100, b"device", pasid)
    assert vmm.peek(DATA + 0x100, 6) == b"device"


def test_without_a_pasid_addresses_are_the_guests_physical_ones(vmm):
    assert vmm.dma_read(DATA, 11, None) == b"the guest's"


def test_nothing_is_reached_after_unbind_nor_after_free(vmm):
    for end in (vmm.unbind, vmm.free):
        pasid = vmm.alloc()
        assert vmm.bind(pasid) == 0
        assert vmm.dma_read(GVA, 3, pasid) == b"the"
        assert end(pasid) == 0
        vmm.kernel.sched.run_ready()
        assert vmm.dma_read(GVA, 3, pasid) == b""


def test_what_the_guest_unmaps_is_reached_until_it_invalidates_and_no_longer(vmm):
    pasid = vmm.alloc()
    vmm.bind(pasid)
    assert vmm.dma_read(GVA, 3, pasid) == b"the"
    vmm.poke(PT, struct.pack("<Q", (DATA + 0x1000) | 7))
    vmm.poke(DATA + 0x1000, b"new")
    assert vmm.invalidate(pasid, GVA) == 0
    assert vmm.dma_read(GVA, 3, pasid) == b"new"
    vmm.poke(PT, bytes(8))
    assert vmm.invalidate(pasid, GVA) == 0
    assert vmm.dma_read(GVA, 3, pasid) == b""


def test_a_guest_reaches_no_more_than_its_memory(vmm):
    """Its tables point beyond what was mapped for it: a fault of the second stage."""
    pasid = vmm.alloc()
    vmm.bind(pasid)
    vmm.poke(PT, struct.pack("<Q", (1 << 30) | 7))
    vmm.invalidate(pasid, GVA)
    assert vmm.dma_read(GVA, 3, pasid) == b""


def test_guests_of_two_devices_do_not_meet(host):
    """Each has its own PASID table: the other's number says nothing."""
    one, two = box_of(host, 0), box_of(host, 1)
    a, b = one.alloc(), two.alloc()
    assert [one.bind(a), two.bind(b)] == [0, 0]
    two.poke(DATA, b"THE OTHER'S")
    assert (one.dma_read(GVA, 11, a), two.dma_read(GVA, 11, b)) == (b"the guest's", b"THE OTHER'S")
    assert (one.dma_read(GVA, 11, b), two.dma_read(GVA, 11, a)) == (b"", b"")
    assert one.bind(b) == -errno.EACCES


def test_requests_without_a_pasid_through_the_guests_tables(vmm):
    assert vmm.bind(0, flags=2) == 0
    assert vmm.dma_read(GVA, 11, None) == b"the guest's"
    assert vmm.dma_read(DATA, 11, None) == b""
    assert vmm.unbind(0, flags=2) == 0
    assert vmm.dma_read(DATA, 11, None) == b"the guest's"


@pytest.mark.parametrize("width", [0, 39, 57, 64])
def test_a_width_that_the_unit_has_not_is_einval(vmm, width):
    pasid = vmm.alloc()
    assert vmm.bind(pasid, width=width) == -errno.EINVAL
    assert vmm.bind(pasid) == 0


def test_a_guest_that_is_killed_reaches_nothing(host):
    vmm = box_of(host)
    pasid = vmm.alloc()
    vmm.bind(pasid)
    vmm.proc.exit()
    host.sched.run_ready()
    assert vmm.dma_read(GVA, 3, pasid) == b""
    assert not host.sub(i.Ioasid).mm_sets


def test_page_requests_reach_the_vmm_and_its_answer_the_device(vmm):
    """The device asks, the VMM reads it, maps the page as its guest would, answers; the device goes on."""
    fd = vmm.op(3, b"")
    pasid = vmm.alloc()
    vmm.bind(pasid)
    answers: list[Any] = []
    there = GVA + 0x1000
    assert vmm.dma_read(there, 3, pasid) == b""
    vmm.dev.slot.page_request_async(there, write=True, pasid=pasid, priv=False, done=answers.append)
    vmm.kernel.sched.run_ready()
    record = vmm.proc.read(fd, 72)
    group, _, kind = struct.unpack_from("<III", record)
    flags, host_pasid, grpid, perm, addr = struct.unpack_from("<IIIIQ", record, 16)
    assert (group, kind, host_pasid, addr) == (int(vmm.group_name(vmm.vdev)), 2, pasid, there)
    assert (flags & 3, perm & 2) == (3, 2)
    assert not answers
    vmm.poke(PT + 8, struct.pack("<Q", (DATA + 0x1000) | 7))
    vmm.poke(DATA + 0x1000, b"now")
    vmm.proc.write(fd, struct.pack("<IIIIIIII", group, 0, 24, 1, 1, pasid, grpid, 0))
    vmm.kernel.sched.run_ready()
    assert answers == [True]
    assert vmm.dma_read(there, 3, pasid) == b"now"


@pytest.mark.parametrize("end", ["unbind", "close", "exit"])
def test_a_page_request_that_is_not_answered_ends_with_the_binding(vmm, end):
    fd = vmm.op(3, b"")
    pasid = vmm.alloc()
    vmm.bind(pasid)
    answers: list[Any] = []
    vmm.dev.slot.page_request_async(GVA + 0x1000, write=False, pasid=pasid, priv=False, done=answers.append)
    vmm.kernel.sched.run_ready()
    if end == "unbind":
        assert vmm.unbind(pasid) == 0
    elif end == "close":
        vmm.proc.close(fd)
    else:
        vmm.proc.exit()
    vmm.kernel.sched.run_ready()
    assert answers == [False]
