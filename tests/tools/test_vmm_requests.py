"""Page requests of a machine's devices: into the guest's queue, and the guest's answers back to the host."""

from __future__ import annotations

from errno import EINVAL, ENODEV
from types import SimpleNamespace
from typing import Any

import pytest

from pykernel.errors import err
from pykernel.hw.vtd.queue import Invalidation, Kind
from pykernel.tools.vmm.requests import PageRequests
from pykernel.uapi.linux import iommu as u

SOURCE, GUEST, HOST = 0x20, 7, 4242
READ, WRITE = u.IOMMU_FAULT_PERM_READ, u.IOMMU_FAULT_PERM_WRITE
LAST, HAS_PASID = u.IOMMU_FAULT_PAGE_REQUEST_LAST_PAGE, u.IOMMU_FAULT_PAGE_REQUEST_PASID_VALID


class Machine:
    """A container that has requests to read, a unit that takes them."""

    def __init__(self, *, room=True):
        self.answers, self.queue, self.room = [], [], room
        nesting: Any = SimpleNamespace(
            proc=SimpleNamespace(eventfd=lambda *_: 3, close=lambda _: None),
            answer=lambda group, prm, code: self.answers.append((group, prm.grpid, prm.pasid, code)),
        )
        pasids: Any = SimpleNamespace(host_of={GUEST: HOST}, guest_of={HOST: GUEST}.get)
        self.faults: list[Any] = []
        viommu: Any = SimpleNamespace(page_request=self.take, fault=lambda *a, **kw: self.faults.append((a, kw)))
        self.requests = PageRequests(nesting, pasids, viommu)
        self.requests.sources[9] = SOURCE

    def take(self, words):
        self.queue.append(words)
        return self.room

    def ask(self, pasid=HOST, perm=READ, group=5, addr=0x1234567):
        prm = u.iommu_fault_page_request(flags=LAST | HAS_PASID, pasid=pasid, grpid=group, perm=perm, addr=addr)
        self.requests._hand_on(9, prm)

    def respond(self, code, pasid=GUEST, group=5, source=SOURCE):
        words = (code << 12 | 1 << 4 | 9, group << 3, 0, 0)
        self.requests.respond(Invalidation(Kind.PAGE_RESPONSE, source=source, pasid=pasid, words=words))


@pytest.mark.parametrize(("perm", "bits"), [(READ, 1), (WRITE, 2), (READ | WRITE, 3)])
def test_a_request_is_a_descriptor_with_the_guest_s_pasid(perm, bits):
    """VT-d 7.5.1: type 1, PASID present, requester, PASID; read, write, last in group, group, page."""
    machine = Machine()

    machine.ask(perm=perm)

    assert machine.queue == [(1 | 1 << 8 | SOURCE << 16 | GUEST << 32, bits | 1 << 2 | 5 << 3 | 0x1234000, 0, 0)]
    assert machine.answers == []


@pytest.mark.parametrize("code", [0, 1, 0xF])
def test_the_guest_s_answer_has_the_host_s_pasid(code):
    machine = Machine()
    machine.ask()

    machine.respond(code)
    machine.respond(code)

    assert machine.answers == [(9, 5, HOST, code)]


@pytest.mark.parametrize("wrong", [{"pasid": 8}, {"group": 6}, {"source": SOURCE + 8}])
def test_an_answer_that_nobody_waits_for_is_dropped(wrong):
    machine = Machine()
    machine.ask()

    machine.respond(0, **wrong)

    assert machine.answers == []


def test_a_pasid_that_is_none_of_the_guest_s_is_refused():
    machine = Machine()

    machine.ask(pasid=HOST + 1)

    assert machine.queue == []
    assert machine.answers == [(9, 5, HOST + 1, 0xF)]


def test_a_full_queue_lets_the_device_ask_again():
    machine = Machine(room=False)

    machine.ask()

    assert machine.answers == [(9, 5, HOST, 0)]


def test_a_request_that_was_blocked_is_a_fault_record_of_the_guest_s():
    machine = Machine()
    event = u.iommu_fault_unrecoverable(
        reason=u.IOMMU_FAULT_REASON_PERMISSION, flags=u.IOMMU_FAULT_UNRECOV_PASID_VALID, pasid=HOST, perm=WRITE
    )
    event.addr = 0x7000

    machine.requests._record(9, event)

    assert machine.faults == [((SOURCE, 0x7000, 0x85), {"write": True, "pasid": GUEST})]


def test_a_machine_that_ends_refuses_what_waits():
    machine = Machine()
    machine.ask()

    machine.requests.close()

    assert machine.answers == [(9, 5, HOST, 0xF)]


@pytest.mark.parametrize("number", [EINVAL, ENODEV], ids=["no request waits", "the PASID is not bound"])
@pytest.mark.parametrize("when", ["answer", "full queue", "nobody's", "end"])
def test_what_the_host_has_answered_in_the_guest_s_place_is_no_error(when, number):
    """A guest that unbinds a PASID, and answers its requests then, does not end its VMM."""
    machine = Machine(room=when != "full queue")

    def answered(*_args):
        raise err(number)

    nesting: Any = machine.requests.nesting
    nesting.answer = answered
    machine.ask(pasid=HOST + (when == "nobody's"))
    if when == "answer":
        machine.respond(0)
    machine.requests.close()

    assert machine.requests.waiting == {}
