"""
Guests' page tables bound to host PASIDs: the checks of drivers/iommu/iommu.c and intel/svm.c of Linux 5.10 in their
order, and what happens to references, events and entries.
"""

from __future__ import annotations

import errno
import struct
from typing import Any

import pytest
from fakevtd import FakeVtd

import pykernel
from pykernel.errors import ENOTSUPP
from pykernel.iommu import ioasid as i
from pykernel.iommu.domain import IOMMU_DOMAIN_UNMANAGED
from pykernel.iommu.gpasid import (
    GuestPasids,
    iommu_uapi_sva_bind_gpasid,
    iommu_uapi_sva_unbind_gpasid,
    unbind_all,
)
from pykernel.iommu.gpasid_fault import iommu_page_response
from pykernel.iommu.gpasid_invalidate import iommu_uapi_cache_invalidate
from pykernel.iommu.iopf import Fault, iommu_report_device_fault
from pykernel.iommu.sva import Iommu
from pykernel.lib.notifier import NOTIFY_OK, NotifierBlock
from pykernel.machine import parse
from pykernel.pci.core import Pci
from pykernel.uapi.linux import iommu as u

DSA = "[[pci]]\nmodel='dsa'\naddress='0000:6a:01.0'\n"
MACHINE = DSA + DSA.replace("6a:01", "6f:01")
MAX = 0xFFFFF
BIND, UNBIND = i.IOASID_NOTIFY_BIND, i.IOASID_NOTIFY_UNBIND


class Box:
    def __init__(self, monkeypatch: Any) -> None:
        self.kernel = pykernel.boot(parse(MACHINE))
        self.kernel.up()
        devices = self.kernel.sub(Pci).devices
        self.dev, self.second = devices["0000:6a:01.0"], devices["0000:6f:01.0"]
        self.vtd = FakeVtd(monkeypatch)
        self.domain: Any = self.kernel.sub(Iommu).unit.domain_alloc(IOMMU_DOMAIN_UNMANAGED)
        self.domain.nesting = True
        self.p = self.kernel.process()
        self.set = i.ioasid_alloc_set(self.kernel, self.p.task.mm, 100, i.IOASID_SET_TYPE_MM)
        self.core = self.kernel.sub(i.Ioasid)

    def alloc(self) -> int:
        return i.ioasid_alloc(self.set, 1, MAX)

    def refs(self, pasid: int) -> int:
        return self.core.ids[pasid].refs

    def put(self, data: bytes, p: Any = None) -> int:
        p = p or self.p
        addr: int = p.mem.alloc(len(data))
        p.mem.write(addr, data)
        return addr

    def call(self, fn: Any, data: bytes | int, dev: Any = None, p: Any = None, domain: Any = None, **kw: Any) -> int:
        p = p or self.p
        addr = data if isinstance(data, int) else self.put(data, p)
        with self.kernel.as_task(p.task):
            try:
                fn(domain or self.domain, dev or self.dev, addr, **kw)
            except OSError as e:
                return e.errno or 0
        return 0

    def bind(self, pasid: int = 0, gpasid: int = 101, dev: Any = None, p: Any = None, **kw: Any) -> int:
        return self.call(iommu_uapi_sva_bind_gpasid, bind_data(hpasid=pasid, gpasid=gpasid, **kw), dev, p)

    def unbind(self, pasid: int = 0, dev: Any = None, p: Any = None, **kw: Any) -> int:
        return self.call(iommu_uapi_sva_unbind_gpasid, bind_data(hpasid=pasid, **kw), dev, p)

    def listen(self, then: Any = None) -> None:
        def call(_nb: NotifierBlock, event: int, args: i.IoasidNbArgs) -> int:
            if event in (BIND, UNBIND):
                self.vtd.log.append((event, args.id, args.spid))
                i.ioasid_queue_work(self.kernel, lambda: self.vtd.log.append(("cpu", event, args.id)))
            return NOTIFY_OK

        i.ioasid_register_notifier(self.kernel, self.set, NotifierBlock(call, i.IOASID_PRIO_CPU))

    def end(self) -> None:
        i.ioasid_free_all_in_set(self.set)
        self.kernel.sched.run_ready()
        assert not self.vtd.entries
        assert not self.core.ids
        self.core._check()
        i.ioasid_set_free(self.set)
        self.domain.free()
        self.p.exit()
        self.kernel.shutdown()


@pytest.fixture
def box(monkeypatch):
    made = Box(monkeypatch)
    yield made
    made.end()


def bind_data(
    *, argsz=72, version=1, format=1, width=48, flags=1, gpgd=0x5000, hpasid=0, gpasid=101, pad=b"", vtd=0
) -> bytes:
    """The layout by hand: 56 bytes, then the flags, pat and emt of VT-d."""
    head = struct.pack("<IIIIQQQQ8s", argsz, version, format, width, flags, gpgd, hpasid, gpasid, pad)
    return head + struct.pack("<QII", vtd, 0, 0)


# ---- bind: what is refused, the first reason first


REFUSED = [
    ({"argsz": 55}, errno.EINVAL),
    ({"version": 0}, errno.EINVAL),
    ({"version": 2}, errno.EINVAL),
    ({"format": 2}, errno.EINVAL),
    ({"format": 0}, errno.EINVAL),
    ({"flags": 4}, errno.EINVAL),
    ({"pad": b"\0\0\0\0\0\0\0\1"}, errno.EINVAL),
    ({"argsz": 71}, errno.EINVAL),
    ({"vtd": 1 << 7}, errno.EINVAL),
    ({"vtd": 1 << 5}, errno.EINVAL),
    ({"hpasid": 0}, errno.EINVAL),
    ({"hpasid": 1 << 20}, errno.EINVAL),
    ({"hpasid": 1 << 20 | 1}, errno.EINVAL),
    ({"hpasid": 1 << 32 | 1}, errno.EINVAL),
    ({"hpasid": 77}, errno.ENOENT),
]


@pytest.mark.parametrize(("kw", "number"), REFUSED)
def test_bind_refuses(box, kw, number):
    good = {"hpasid": box.alloc()}
    assert box.call(iommu_uapi_sva_bind_gpasid, bind_data(**(good | kw))) == number
    assert box.refs(good["hpasid"]) == 1
    assert not box.vtd.entries


def test_bind_efault(box):
    assert box.call(iommu_uapi_sva_bind_gpasid, 0) == errno.EFAULT


def test_bind_of_a_domain_without_tables_is_enodev(box):
    blocked = box.kernel.sub(Iommu).unit.blocked
    assert box.call(iommu_uapi_sva_bind_gpasid, 0, domain=blocked) == errno.ENODEV, "before the struct is looked at"
    assert box.call(iommu_uapi_sva_unbind_gpasid, 0, domain=blocked) == errno.ENODEV
    assert box.call(iommu_uapi_cache_invalidate, 0, domain=blocked) == errno.ENODEV


def test_bind_of_what_is_no_pci_device_is_enotsupp(box):
    from pykernel.base.core import Device

    assert box.bind(box.alloc(), dev=Device(box.kernel, "x")) == ENOTSUPP


def test_bind_needs_a_device_with_20_bits(box):
    box.vtd.max_pasids = 1 << 16
    assert box.bind(box.alloc()) == errno.EINVAL


def test_a_longer_struct_is_cut(box):
    pasid = box.alloc()
    data = bind_data(hpasid=pasid, argsz=80) + bytes(8)
    assert box.call(iommu_uapi_sva_bind_gpasid, data) == 0


def test_bind_of_another_processs_id_is_eacces(box):
    q = box.kernel.process()
    pasid = box.alloc()
    assert box.bind(pasid, p=q) == errno.EACCES, "it has no set"
    other = i.ioasid_alloc_set(box.kernel, q.task.mm, 10, i.IOASID_SET_TYPE_MM)
    assert box.bind(pasid, p=q) == errno.EACCES
    assert box.bind(pasid) == 0
    assert box.unbind(pasid, p=q) == errno.EACCES
    assert box.refs(pasid) == 2
    i.ioasid_set_free(other)
    q.exit()


def test_bind_twice_is_ebusy(box):
    pasid = box.alloc()
    assert box.bind(pasid) == 0
    assert box.bind(pasid) == errno.EBUSY
    assert box.refs(pasid) == 2


def test_bind_of_what_is_being_freed_is_ebusy(box):
    pasid = box.alloc()
    i.ioasid_get(box.kernel, None, pasid)
    i.ioasid_free(box.set, pasid)
    assert box.bind(pasid) == errno.EBUSY
    i.ioasid_put(box.kernel, None, pasid)


def test_bind_of_an_id_with_data_of_others_is_ebusy_and_keeps_no_reference(box):
    pasid = box.alloc()
    i.ioasid_attach_data(box.kernel, pasid, "somebody's")
    assert box.bind(pasid) == errno.EBUSY
    assert box.refs(pasid) == 1


@pytest.mark.parametrize("where", ["intel_svm", "intel_svm_dev"])
def test_bind_without_memory_leaves_nothing(box, where):
    pasid = box.alloc()
    with box.kernel.faults.fail("alloc", where):
        assert box.bind(pasid) == errno.ENOMEM
    assert box.refs(pasid) == 1
    assert box.bind(pasid) == 0


def test_bind_that_the_entry_refuses_leaves_nothing(box):
    pasid = box.alloc()
    box.vtd.fail = errno.EINVAL
    box.listen()
    assert box.bind(pasid) == errno.EINVAL
    assert box.refs(pasid) == 1
    assert i.ioasid_find(box.kernel, box.set, pasid) is None
    assert not box.vtd.done()
    assert f"Failed to set up PASID {pasid} in nested mode, Err -22" in box.kernel.log.records[-1].text


def test_g_bind_fails_when_the_spid_cannot_be_attached(box):
    """Linux forgets that error: two host PASIDs would be one of the guest's."""
    a, b = box.alloc(), box.alloc()
    assert box.bind(a, 101) == 0
    assert box.bind(b, 101) == errno.EINVAL
    assert (box.refs(b), list(box.vtd.entries)) == (1, [(box.dev.name, a)])
    assert box.bind(b, 1 << 20) == errno.EINVAL
    assert box.bind(b, 102) == 0


# ---- bind and unbind: what happens


@pytest.mark.parametrize("gpgd", [0x1001, 0x5800, 1 << 52, 1 << 60, (1 << 64) - 0x1000])
def test_a_table_that_cannot_be_there_is_einval(box, gpgd):
    """Neither is it another table, whose address is what would be left, nor one by which all requests fault."""
    pasid = box.alloc()
    assert box.bind(pasid, gpgd=gpgd) == errno.EINVAL
    assert box.bind(pasid, gpgd=(1 << 52) - 0x1000) == 0
    assert box.unbind(pasid) == 0


def test_unbinding_what_was_never_bound_is_nothing_and_what_is_nobodys_enoent(box):
    pasid = box.alloc()
    assert [box.unbind(pasid) for _ in range(2)] == [0, 0]
    assert box.bind(pasid) == 0
    assert [box.unbind(pasid) for _ in range(2)] == [0, 0]
    i.ioasid_free(box.set, pasid)
    assert box.unbind(pasid) == errno.ENOENT


def test_bind_programs_two_stages(box):
    pasid = box.alloc()
    assert box.bind(pasid, gpgd=0x1234000, width=57, vtd=0b1000011) == 0
    assert box.vtd.entries == {(box.dev.name, pasid): ("nested", 0x1234000, box.domain, 57, 0b111)}
    assert box.core.ids[pasid].spid == 101
    assert i.ioasid_find_by_spid(box.set, 101) == pasid


def test_bind_without_a_guests_number_makes_no_event(box):
    box.listen()
    pasid = box.alloc()
    assert box.bind(pasid, flags=0) == 0
    assert box.unbind(pasid) == 0
    assert [row[0] for row in box.vtd.done()] == ["enter", "leave", "drain"]


def test_order_of_bind_and_unbind(box):
    """The entry stands before BIND is told and until all that UNBIND made others queue is done."""
    box.listen()
    name, pasid = box.dev.name, box.alloc()
    assert box.bind(pasid) == 0
    assert box.vtd.done() == [("enter", name, pasid, "nested"), (BIND, pasid, 101), ("cpu", BIND, pasid)]
    assert box.unbind(pasid) == 0
    assert box.vtd.done() == [
        (UNBIND, pasid, 101),
        ("cpu", UNBIND, pasid),
        ("leave", name, pasid),
        ("drain", name, pasid),
    ]
    assert box.refs(pasid) == 1
    assert i.ioasid_find(box.kernel, box.set, pasid) is None


def test_several_devices_make_one_bind_and_one_unbind(box):
    box.listen()
    pasid = box.alloc()
    assert [box.bind(pasid), box.bind(pasid, dev=box.second)] == [0, 0]
    assert box.refs(pasid) == 2
    assert [row[0] for row in box.vtd.done()] == ["enter", BIND, "cpu", "enter"]
    assert box.unbind(pasid) == 0
    assert [row[0] for row in box.vtd.done()] == ["leave", "drain"]
    assert box.unbind(pasid, dev=box.second) == 0
    assert [row[0] for row in box.vtd.done()] == [UNBIND, "cpu", "leave", "drain"]


def test_unbind_of_what_is_not_bound_is_no_error(box):
    pasid = box.alloc()
    assert box.unbind(pasid) == 0
    assert box.unbind(pasid + 1) == errno.ENOENT
    assert box.unbind(0) == errno.EINVAL
    assert box.unbind(pasid, version=2) == errno.EINVAL


def test_the_same_number_of_the_guest_can_be_bound_again(box):
    for _ in range(3):
        pasid = box.alloc()
        assert box.bind(pasid, 101) == 0
        assert box.unbind(pasid) == 0
        i.ioasid_free(box.set, pasid)


def test_free_before_unbind(box):
    """
    The abnormal order: FREE lets the IOMMU's driver unbind by itself, in two works: processors come between.
    A later unbind finds nothing.
    """
    box.listen()
    name, pasid = box.dev.name, box.alloc()
    box.bind(pasid)
    box.vtd.done()
    i.ioasid_free(box.set, pasid)
    assert box.core.ids[pasid].state is i.IoasidState.FREE_PENDING
    i.ioasid_flush_work(box.kernel)
    box.kernel.sched.run_ready()
    assert box.vtd.done() == [
        (UNBIND, pasid, 101),
        ("cpu", UNBIND, pasid),
        ("leave", name, pasid),
        ("drain", name, pasid),
    ]
    assert pasid not in box.core.ids
    assert box.unbind(pasid) == errno.ENOENT


def test_free_before_unbind_with_several_devices(box):
    pasid = box.alloc()
    box.bind(pasid)
    box.bind(pasid, dev=box.second)
    i.ioasid_free(box.set, pasid)
    assert box.bind(pasid, gpasid=7) == errno.EBUSY
    box.kernel.sched.run_ready()
    assert not box.vtd.entries
    assert pasid not in box.core.ids


def test_unbind_all_when_a_device_leaves_its_domain(box):
    a, b = box.alloc(), box.alloc()
    box.bind(a, 1)
    box.bind(b, 2)
    box.bind(b, dev=box.second)
    unbind_all(box.dev, box.domain)
    assert list(box.vtd.entries) == [(box.second.name, b)]
    assert (box.refs(a), box.refs(b)) == (1, 2)


def test_what_is_bound_is_in_the_leak_report(box):
    pasid = box.alloc()
    box.bind(pasid)
    assert f"PASID {pasid} bound to {box.dev.name} for a guest" in box.kernel.leaks()


# ---- requests without a PASID


def test_default_pasid_gets_the_guests_tables_and_back(box):
    box.vtd.entries[box.dev.name, 9] = ("second", box.domain)
    kw = {"default_pasid": 9}
    data = bind_data(flags=2)
    assert box.call(iommu_uapi_sva_bind_gpasid, data, **kw) == 0
    assert box.vtd.entries[box.dev.name, 9][0] == "nested"
    assert box.call(iommu_uapi_sva_bind_gpasid, data, **kw) == errno.EBUSY
    assert box.call(iommu_uapi_sva_unbind_gpasid, data, **kw) == 0
    assert box.vtd.entries.pop((box.dev.name, 9)) == ("second", box.domain)


def test_default_pasid_that_is_refused_has_what_it_had(box):
    box.vtd.entries[box.dev.name, 9] = ("second", box.domain)
    box.vtd.fail = errno.EINVAL
    assert box.call(iommu_uapi_sva_bind_gpasid, bind_data(flags=2), default_pasid=9) == errno.EINVAL
    assert box.vtd.entries.pop((box.dev.name, 9)) == ("second", box.domain)


# ---- invalidations


def inv_pasid(pasid=0, *, argsz=56, version=1, cache=1, granularity=1, flags=1, pad=b"") -> bytes:
    head = struct.pack("<IIBB6s", argsz, version, cache, granularity, pad)
    return (head + struct.pack("<IIQ", flags, 0, pasid)).ljust(56, b"\0")


def inv_addr(pasid=0, addr=0, *, granule=4096, count=1, cache=1, flags=1) -> bytes:
    head = struct.pack("<IIBB6s", 56, 1, cache, 2, b"")
    return head + struct.pack("<IIQQQQ", flags, 0, pasid, addr, granule, count)


@pytest.mark.parametrize(
    "kw",
    [
        {"argsz": 15},
        {"argsz": 31},
        {"argsz": 55, "granularity": 2},
        {"version": 0},
        {"cache": 8},
        {"granularity": 3},
        {"granularity": 2, "cache": 4},
        {"granularity": 2, "flags": 8},
        {"flags": 4},
        {"granularity": 0, "cache": 2},
        {"granularity": 0, "cache": 1},
        {"pad": b"\0\0\0\0\0\1"},
    ],
)
def test_cache_invalidate_einval(box, kw):
    pasid = box.alloc()
    box.bind(pasid)
    box.vtd.done()
    assert box.call(iommu_uapi_cache_invalidate, inv_pasid(pasid, **kw)) == errno.EINVAL
    assert not box.vtd.done()


def test_cache_invalidate_of_a_domain_that_is_not_for_nesting_is_einval(box):
    box.domain.nesting = False
    assert box.call(iommu_uapi_cache_invalidate, inv_pasid()) == errno.EINVAL


def test_cache_invalidate_needs_a_pasid_of_the_callers_that_is_bound(box):
    """Linux takes any number."""
    pasid = box.alloc()
    assert box.call(iommu_uapi_cache_invalidate, inv_pasid(pasid)) == errno.EINVAL
    assert box.call(iommu_uapi_cache_invalidate, inv_pasid(pasid + 1)) == errno.ENOENT
    assert box.call(iommu_uapi_cache_invalidate, inv_pasid(1 << 20 | pasid)) == errno.EINVAL
    box.bind(pasid)
    q = box.kernel.process()
    assert box.call(iommu_uapi_cache_invalidate, inv_pasid(pasid), p=q) == errno.EACCES
    q.exit()


def test_cache_invalidate(box):
    pasid = box.alloc()
    box.bind(pasid)
    box.vtd.done()

    def done(data: bytes, **kw: Any) -> list[tuple[Any, ...]]:
        assert box.call(iommu_uapi_cache_invalidate, data, **kw) == 0
        found: list[tuple[Any, ...]] = box.vtd.done()
        return found

    assert done(inv_pasid(pasid)) == [("piotlb", pasid, 0, -1, False), ("dev-iotlb", pasid, 0, 52)]
    assert done(inv_pasid(pasid, cache=2)) == [("dev-iotlb", pasid, 0, 52)]
    assert done(inv_pasid(pasid, cache=4)) == [("pasid-cache", 1, pasid)]
    assert done(inv_pasid(granularity=0, cache=4), default_pasid=9) == [("pasid-cache", 0, 9)]
    rows = done(inv_addr(pasid, 0x7000, flags=1 | 4))
    assert rows == [("piotlb", pasid, 0x7000, 1, True), ("dev-iotlb", pasid, 0x7000, 0)]
    rows = done(inv_addr(pasid, 0x9000, count=3))
    assert rows == [("piotlb", pasid, 0x8000, 4, False), ("dev-iotlb", pasid, 0x8000, 2)]
    assert done(inv_addr(0, 0x1000, flags=0), default_pasid=9)[0] == ("piotlb", 9, 0x1000, 1, False)


# ---- page requests


class Faults:
    def __init__(self, box: Box) -> None:
        self.box = box
        self.seen: list[tuple[str, int, int]] = []
        self.core = box.kernel.sub(GuestPasids)
        self.core.handlers[box.domain] = self._take

    @property
    def answers(self) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = self.box.vtd.answers
        return found

    def _take(self, sdev: Any, fault: u.iommu_fault) -> None:
        self.seen.append((sdev.dev.name, fault.prm.pasid, fault.prm.grpid))

    def request(self, pasid: int, group: int, *, last: bool = True, needs: bool = True) -> int:
        flags = u.IOMMU_FAULT_PAGE_REQUEST_PASID_VALID
        flags |= u.IOMMU_FAULT_PAGE_REQUEST_LAST_PAGE if last else 0
        flags |= u.IOMMU_FAULT_PAGE_RESPONSE_NEEDS_PASID if needs else 0
        try:
            iommu_report_device_fault(self.box.dev, Fault(flags, pasid, group, 1, 0x1000))
        except OSError as e:
            return e.errno or 0
        return 0

    def respond(self, pasid: int, group: int, code: int = 0, *, version=1, flags=1, p: Any = None) -> int:
        message = u.iommu_page_response(argsz=24, version=version, flags=flags, pasid=pasid, grpid=group, code=code)
        with self.box.kernel.as_task((p or self.box.p).task):
            try:
                iommu_page_response(self.core, self.box.dev, message)
            except OSError as e:
                return e.errno or 0
        return 0


@pytest.fixture
def faults(box):
    return Faults(box)


def test_a_page_request_of_nobodys_guest_is_somebody_elses(box, faults):
    assert faults.request(5, 1) == errno.EINVAL
    assert not faults.seen


def test_page_requests_are_answered_by_group(box, faults):
    pasid = box.alloc()
    box.bind(pasid)
    assert [faults.request(pasid, 1), faults.request(pasid, 2)] == [0, 0]
    assert faults.seen == [(box.dev.name, pasid, 1), (box.dev.name, pasid, 2)]
    assert faults.respond(pasid, 2, u.IOMMU_PAGE_RESP_FAILURE) == 0
    assert faults.respond(pasid, 1) == 0
    assert faults.answers == [(2, 2), (1, 0)]
    assert faults.respond(pasid, 1) == errno.EINVAL
    assert any("no pending PRQ, drop response" in r.text for r in box.kernel.log.records)


def test_page_response_einval(box, faults):
    pasid = box.alloc()
    box.bind(pasid)
    faults.request(pasid, 1)
    assert faults.respond(pasid, 1, version=2) == errno.EINVAL
    assert faults.respond(pasid, 1, flags=3) == errno.EINVAL
    assert faults.respond(pasid, 1, flags=0) == errno.EINVAL, "the device wants the PASID in it"
    assert faults.respond(pasid, 3) == errno.EINVAL
    assert faults.respond(pasid + 1, 1) == errno.ENODEV
    q = box.kernel.process()
    assert faults.respond(pasid, 1, p=q) == errno.EINVAL, "another process bound it"
    q.exit()
    assert not faults.answers


def test_a_page_response_need_not_name_the_pasid_of_a_device_that_does_not_care(box, faults):
    pasid = box.alloc()
    box.bind(pasid)
    faults.request(pasid, 1, needs=False)
    assert faults.respond(pasid, 1, flags=0) == 0


def test_only_the_last_of_a_group_is_answered(box, faults):
    pasid = box.alloc()
    box.bind(pasid)
    faults.request(pasid, 1, last=False)
    faults.request(pasid, 1)
    assert len(faults.seen) == 2
    assert faults.respond(pasid, 1) == 0
    assert faults.respond(pasid, 1) == errno.EINVAL
    assert faults.answers == [(1, 0)]


def test_unbind_answers_what_waits(box, faults):
    pasid = box.alloc()
    box.bind(pasid)
    faults.request(pasid, 1)
    box.unbind(pasid)
    assert faults.answers == [(1, u.IOMMU_PAGE_RESP_INVALID)]


def test_a_page_request_that_nobody_takes_is_refused(box, faults):
    pasid = box.alloc()
    box.bind(pasid)
    box.kernel.sub(GuestPasids).handlers.clear()
    assert faults.request(pasid, 1) == 0
    assert faults.answers == [(1, u.IOMMU_PAGE_RESP_INVALID)]
