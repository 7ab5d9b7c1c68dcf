"""The IOMMU of a virtual machine: what the guest writes into tables and queues, and what the host is asked for."""

from __future__ import annotations

import struct
from errno import EBUSY, ENOSPC, EPERM
from typing import Any, cast

import pytest

from pykernel.errors import err
from pykernel.hw.vtd import regs as r
from pykernel.hw.vtd.vcmd import EARLY
from pykernel.tools.vmm.memory import GuestFault
from pykernel.tools.vmm.pasids import GuestPasids
from pykernel.tools.vmm.viommu import VirtualIommu

SOURCE = 0x0020
ROOT, CONTEXTS, DIRECTORY, TABLE, QUEUE, STATUS, PRQ = (n << 12 for n in range(1, 8))
FIRST, SECOND, PASS_THROUGH = 1, 2, 4
VCMD, VCRSP = 0xE00, 0xE10


class Memory:
    def __init__(self):
        self.ram = bytearray(16 << 12)

    def read(self, gpa, n):
        if gpa + n > len(self.ram):
            raise GuestFault(gpa)
        return bytes(self.ram[gpa : gpa + n])

    def write(self, gpa, data):
        if gpa + len(data) > len(self.ram):
            raise GuestFault(gpa)
        self.ram[gpa : gpa + len(data)] = data


class Host:
    """Writes down what it is asked for; its PASIDs begin at 500."""

    def __init__(self):
        self.calls = []
        self.next = 500
        self.refuse = 0

    def alloc(self, low, high):
        if self.next == 503:
            raise err(ENOSPC)
        self.next += 1
        return self.next - 1

    def free(self, pasid):
        self.calls.append(("free", pasid))

    def bind(self, pasid, guest, entry):
        if self.refuse:
            raise err(self.refuse)
        self.calls.append(("bind", pasid, guest, entry.first))

    def unbind(self, pasid, guest):
        self.calls.append(("unbind", pasid, guest))

    def bind_default(self, entry):
        self.calls.append(("bind_default", entry.first))

    def unbind_default(self):
        self.calls.append(("unbind_default",))

    def flush(self, pasid, addr, order):
        self.calls.append(("flush", pasid, addr, order))


class Unit:
    """A guest's driver, by hand."""

    def __init__(self, policy="private", **kw):
        self.memory = memory = cast("Any", Memory())
        self.host, self.messages, self.responses = Host(), [], []
        self.pasids = GuestPasids(self.host, policy)
        self.unit = VirtualIommu(
            memory, self.pasids, [SOURCE], lambda *m: self.messages.append(m), self.responses.append, **kw
        )
        self.tail = 0
        self.memory.write(ROOT, struct.pack("<QQ", CONTEXTS | 1, 0))
        self.memory.write(CONTEXTS + 32 * SOURCE, struct.pack("<QQ", DIRECTORY | 1 | 1 << 3 | 1 << 4, 0))
        self.memory.write(DIRECTORY, struct.pack("<Q", TABLE | 1))
        self.unit.write(r.RTADDR, 8, ROOT | 1 << 10)
        self.unit.write(r.GCMD, 4, r.SRTP)
        self.unit.write(r.IQA, 8, QUEUE | 1 << 11)
        self.unit.write(r.GCMD, 4, r.QIE)
        self.unit.write(r.GCMD, 4, r.QIE | r.TE)

    def entry(self, pasid, pgtt=FIRST, pgd=0xABC000, did=7, present=True):
        low = int(present) | pgtt << 6 | 2 << 2
        self.memory.write(TABLE + 64 * pasid, struct.pack("<3Q40x", low, did, pgd if pgtt == FIRST else 0))

    def submit(self, low, high=0):
        self.memory.write(QUEUE + self.tail, struct.pack("<4Q", low, high, 0, 0))
        self.tail += 32
        self.unit.write(r.IQT, 8, self.tail)

    def invalidate_pasid(self, pasid, did=7):
        self.submit(7 | 1 << 4 | did << 16 | pasid << 32)

    def alloc(self):
        self.unit.write(VCMD, 8, 1)
        response = self.unit.read(VCRSP, 8)
        return response >> 1 & 0x7F, response >> 16 & 0xFFFFF

    def free(self, pasid):
        self.unit.write(VCMD, 8, 2 | pasid << 16)
        return self.unit.read(VCRSP, 8) >> 1 & 0x7F


@pytest.fixture
def guest():
    return Unit()


def test_it_says_that_it_is_virtual(guest):
    cap, ecap = guest.unit.read(r.CAP, 8), guest.unit.read(r.ECAP, 8)

    assert cap >> 7 & 1, "caching mode: or the guest would not tell of new entries"
    assert ecap >> 44 & 1, "virtual commands"
    assert ecap >> 43 & 1, "scalable mode"
    assert ecap >> 40 & 1, "PASIDs"
    assert ecap >> 35 & 31 == 19, "of 20 bits"
    assert ecap >> 47 & 1, "first stage"


def test_the_guest_s_numbers_are_its_own(guest):
    assert [guest.alloc() for _ in range(2)] == [(0, 1), (0, 2)]
    assert guest.pasids.host_of == {1: 500, 2: 501}


def test_or_the_host_s_if_they_shall_be_the_same():
    guest = Unit("identity")

    assert guest.alloc() == (0, 500)


def test_no_pasid_is_a_status_of_its_own(guest):
    for _ in range(3):
        guest.alloc()

    assert guest.alloc() == (16, 0)


def test_before_3_3_of_the_specification_the_registers_were_elsewhere():
    guest = Unit(layout=EARLY)

    guest.unit.write(0xE10, 8, 1)

    assert guest.unit.read(0xE00, 8) == 1
    assert guest.unit.read(0xE20, 8) == 1 << 8


def test_a_new_entry_is_bound_when_its_cache_is_invalidated(guest):
    guest.alloc()
    guest.entry(1)
    assert guest.host.calls == []

    guest.invalidate_pasid(1)

    assert guest.host.calls == [("bind", 500, 1, 0xABC000)]


def test_the_same_entry_is_bound_once(guest):
    guest.alloc()
    guest.entry(1)

    guest.invalidate_pasid(1)
    guest.invalidate_pasid(1)

    assert guest.host.calls == [("bind", 500, 1, 0xABC000)]


def test_an_entry_that_goes_is_unbound(guest):
    guest.alloc()
    guest.entry(1)
    guest.invalidate_pasid(1)
    guest.entry(1, present=False)

    guest.invalidate_pasid(1)

    assert guest.host.calls[1:] == [("unbind", 500, 1)]


def test_another_table_for_the_same_pasid_is_bound_anew(guest):
    guest.alloc()
    guest.entry(1)
    guest.invalidate_pasid(1)
    guest.entry(1, pgd=0xDEF000)

    guest.invalidate_pasid(1)

    assert guest.host.calls[1:] == [("unbind", 500, 1), ("bind", 500, 1, 0xDEF000)]


def test_a_number_that_the_guest_made_up_is_nobody_s(guest):
    guest.entry(33)

    guest.invalidate_pasid(33)

    assert guest.host.calls == []


@pytest.mark.parametrize("pgtt", [SECOND, PASS_THROUGH])
def test_what_is_no_first_stage_needs_no_binding(guest, pgtt):
    guest.entry(0, pgtt)

    guest.invalidate_pasid(0)

    assert guest.host.calls == []


def test_requests_without_a_pasid_have_the_entry_of_pasid_0(guest):
    guest.entry(0, pgd=0x123000)
    guest.invalidate_pasid(0)
    guest.submit(6 | 2 << 4 | 7 << 16)
    guest.entry(0, PASS_THROUGH)
    guest.invalidate_pasid(0)

    assert guest.host.calls == [("bind_default", 0x123000), ("flush", None, 0, 64), ("unbind_default",)]


def test_a_domain_s_invalidation_reads_all_its_entries(guest):
    for pasid, did in ((1, 7), (2, 8), (3, 7)):
        guest.alloc()
        guest.entry(pasid, did=did)

    guest.submit(7 | 7 << 16)

    assert [call[:3] for call in guest.host.calls] == [("bind", 500, 1), ("bind", 502, 3)]


def test_a_global_invalidation_reads_everything(guest):
    for pasid in (1, 2):
        guest.alloc()
        guest.entry(pasid, did=pasid)

    guest.submit(7 | 3 << 4)

    assert [call[2] for call in guest.host.calls] == [1, 2]


@pytest.mark.parametrize(
    ("low", "high", "flushed"),
    [(2 << 4, 0, (0, 64)), (3 << 4, 0x7000, (0x7000, 0)), (3 << 4, 0x8000 | 3, (0x8000, 3))],
)
def test_pages_of_a_pasid_are_flushed_by_the_host_s_number(guest, low, high, flushed):
    guest.alloc()
    guest.entry(1)
    guest.invalidate_pasid(1)

    guest.submit(6 | low | 7 << 16 | 1 << 32, high)

    assert guest.host.calls[1:] == [("flush", 500, *flushed)]


def test_what_is_not_bound_is_not_flushed(guest):
    guest.alloc()

    guest.submit(6 | 2 << 4 | 7 << 16 | 1 << 32)

    assert guest.host.calls == []


def test_a_pasid_that_is_freed_is_unbound_first(guest):
    guest.alloc()
    guest.entry(1)
    guest.invalidate_pasid(1)

    assert guest.free(1) == 0
    assert guest.free(1) == 16
    assert guest.host.calls[1:] == [("unbind", 500, 1), ("free", 500)]


def test_what_the_host_refuses_is_remembered_and_tried_again(guest):
    guest.alloc()
    guest.entry(1)
    guest.host.refuse = EBUSY
    guest.invalidate_pasid(1)

    assert [(pasid, e.errno) for pasid, e in guest.pasids.refused] == [(1, EBUSY)]
    guest.host.refuse = 0
    guest.invalidate_pasid(1)
    assert guest.host.calls == [("bind", 500, 1, 0xABC000)]


def test_translation_off_binds_nothing(guest):
    guest.alloc()
    guest.entry(1)
    guest.invalidate_pasid(1)

    guest.unit.write(r.GCMD, 4, r.QIE)
    guest.unit.write(r.GCMD, 4, r.QIE | r.TE)

    assert [call[0] for call in guest.host.calls] == ["bind", "unbind", "bind"]


def test_a_wait_descriptor_is_answered_in_guest_memory(guest):
    guest.submit(5 | 1 << 5 | 0xCAFE << 32, STATUS)

    assert guest.memory.read(STATUS, 4) == (0xCAFE).to_bytes(4, "little")


def test_a_queue_that_is_no_memory_of_the_guest_is_an_error_of_the_queue(guest):
    guest.unit.write(r.IQA, 8, 0x7F000000 | 1 << 11)

    guest.unit.write(r.IQT, 8, 32)

    assert guest.unit.read(r.FSTS, 4) & r.IQE


def test_a_page_request_is_put_into_the_guest_s_queue_with_an_interrupt(guest):
    guest.unit.write(r.PQA, 8, PRQ)
    for off, value in ((r.PEDATA, 33), (r.PEADDR, 0xFEE00000), (r.PECTL, 0)):
        guest.unit.write(off, 4, value)

    assert guest.unit.page_request((1, 2, 3, 4))

    assert struct.unpack("<4Q", guest.memory.read(PRQ, 32)) == (1, 2, 3, 4)
    assert guest.messages == [(0xFEE00000, 33)]
    assert guest.unit.read(r.PQT, 8) == 32


def test_a_full_queue_of_page_requests_overflows_and_says_so(guest):
    guest.unit.write(r.PQA, 8, PRQ)
    taken = [guest.unit.page_request((n, 0, 0, 0)) for n in range(128)]

    assert taken == [True] * 127 + [False]
    assert guest.unit.read(r.PRS, 4) & r.PRS_PRO


def test_a_response_of_the_guest_goes_on_its_way(guest):
    guest.submit(9 | 1 << 4 | SOURCE << 16 | 1 << 32, 5 << 3 | 1 << 2)

    (what,) = guest.responses
    assert (what.source, what.pasid) == (SOURCE, 1)


def test_a_fault_is_recorded_and_one_more_overflows(guest):
    guest.unit.fault(SOURCE, 0x5123, 0x71, write=False, pasid=9)
    guest.unit.fault(SOURCE, 0x6123, 0x71, write=True, pasid=9)

    low, high = guest.unit.read(r.FRCD, 8), guest.unit.read(r.FRCD + 8, 8)
    assert low == 0x5000
    assert (high & 0xFFFF, high >> 32 & 0xFF, high >> 40 & 0xFFFFF) == (SOURCE, 0x71, 9)
    assert (high >> 63, high >> 62 & 1, high >> 31 & 1) == (1, 1, 1)
    assert guest.unit.read(r.FSTS, 4) & (r.PPF | r.PFO) == r.PPF | r.PFO


def test_a_guest_that_begins_anew_has_nothing(guest):
    guest.alloc()
    guest.entry(1)
    guest.invalidate_pasid(1)

    guest.unit.power_on()

    assert guest.host.calls[1:] == [("unbind", 500, 1), ("free", 500)]
    assert not guest.unit.enabled
    assert guest.alloc() == (0, 1)


@pytest.mark.parametrize("number", [1 | 1 << 20, 1 | 1 << 32, 0xFFFFF << 20 | 1, 0, 2])
def test_a_number_that_is_no_pasid_of_the_guest_s_frees_none(guest, number):
    """Status 16; one of over 20 bits is none, whatever its lower ones are."""
    guest.alloc()
    guest.entry(1)
    guest.invalidate_pasid(1)

    assert guest.free(number) == 16
    assert guest.pasids.host_of == {1: 500}
    assert [call[0] for call in guest.host.calls] == ["bind"]


@pytest.mark.parametrize("pqa", [0x7F000000, 0xFFFF_FFFF_FFFF_F000, 0x10000])
def test_a_page_request_queue_that_is_no_memory_of_the_guest_loses_requests(guest, pqa):
    """As silicon does: the tail stays, no event, and the VMM goes on."""
    guest.unit.write(r.PQA, 8, pqa)

    assert not guest.unit.page_request((1, 2, 3, 4))

    assert guest.unit.read(r.PQT, 8) == 0
    assert guest.unit.read(r.PRS, 4) == 0
    assert guest.messages == []


def test_a_page_request_queue_whose_tail_is_beyond_its_end_overflows(guest):
    guest.unit.write(r.PQA, 8, PRQ)
    guest.unit.write(r.PQT, 8, 0x1000)

    assert not guest.unit.page_request((1, 2, 3, 4))

    assert guest.unit.read(r.PRS, 4) & r.PRS_PRO
    assert guest.memory.read(PRQ + 0x1000, 32) == bytes(32)


def test_a_status_that_is_no_memory_of_the_guest_is_an_error_of_the_queue(guest):
    guest.submit(5 | 1 << 5 | 0xCAFE << 32, 0x7F000000)

    assert guest.unit.read(r.FSTS, 4) & r.IQE


@pytest.mark.parametrize("what", ["root", "contexts", "directory", "table"])
def test_tables_that_are_no_memory_of_the_guest_bind_nothing(guest, what):
    """Wherever the guest says that the next table is."""
    guest.alloc()
    guest.entry(1)
    away = 0x7F000000
    if what == "root":
        guest.unit.write(r.RTADDR, 8, away | 1 << 10)
        guest.unit.write(r.GCMD, 4, r.SRTP | r.QIE | r.TE)
    elif what == "contexts":
        guest.memory.write(ROOT, struct.pack("<QQ", away | 1, 0))
    elif what == "directory":
        guest.memory.write(CONTEXTS + 32 * SOURCE, struct.pack("<QQ", away | 1 | 1 << 3, 0))
    else:
        guest.memory.write(DIRECTORY, struct.pack("<Q", away | 1))

    guest.invalidate_pasid(1)

    assert guest.host.calls == []


@pytest.mark.parametrize("order", [51, 52, 63])
def test_no_range_of_the_guest_s_is_too_large_to_flush(guest, order):
    """What the host cannot say as a number of bytes is everything."""
    guest.alloc()
    guest.entry(1)
    guest.invalidate_pasid(1)

    guest.submit(6 | 3 << 4 | 7 << 16 | 1 << 32, order)

    assert guest.host.calls[1:] == [("flush", 500, 0, order if order < 52 else 64)]


def test_an_interrupt_to_a_processor_that_is_none_is_lost(guest):
    """KVM_SIGNAL_MSI is EPERM then; the request is in the queue, and the VMM goes on."""

    def nobody(_address, _data):
        raise err(EPERM)

    guest.unit._message = nobody
    guest.unit.write(r.PQA, 8, PRQ)
    for off, value in ((r.PEDATA, 33), (r.PEADDR, 0xFEEFF000), (r.PECTL, 0)):
        guest.unit.write(off, 4, value)

    assert guest.unit.page_request((1, 2, 3, 4))
