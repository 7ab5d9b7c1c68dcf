"""
Page requests as the driver of VT-d serves them: descriptors in the ring, checks in Linux's order, answers (svm.c).

Requests are put into the ring as the specification lays them out (VT-d 7.4.1.1); answers are taken from the
invalidation queue (6.5.2.9): group and code.
"""

from __future__ import annotations

import errno
import mmap
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import pytest

import pykernel
from pykernel.hw.vtd import regs as r
from pykernel.iommu import iopf
from pykernel.iommu.iommu import iommu_attach_device_pasid, iommu_detach_device_pasid
from pykernel.iommu.sva import iommu_dev_disable_feature, iommu_dev_enable_feature, iommu_sva_bind_device
from pykernel.iommu.sva import iommu_sva_unbind_device as unbind
from pykernel.machine import parse
from pykernel.pci.core import Pci
from pykernel.surfaces.explore import explore
from pykernel.uapi.linux.iommu import iommu_page_response

DSA = "[[pci]]\nmodel='dsa'\naddress='0000:6a:01.0'\n"
RID = 0x6A08
READ, WRITE, LAST = 1, 2, 4
BOTH = pytest.mark.parametrize("profile", ["linux-6.1", "linux-6.12", "linux-7.2"])
RW, ANON = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS


class Box:
    """A process bound to an accelerator that may ask for pages; ``answers`` are (group, code)."""

    def __init__(self, profile: str = "linux-6.1", kernel: Any = None) -> None:
        self.kernel = kernel or pykernel.boot(parse(DSA), profile)
        self.kernel.up()
        self.dev = cast("Any", self.kernel.sub(Pci).devices["0000:6a:01.0"])
        self.unit = cast("Any", self.kernel.dmar)
        for feature in self.kernel.profile.idxd_sva_features:
            iommu_dev_enable_feature(self.dev, feature)
        self.p = self.kernel.process()
        self.handle = iommu_sva_bind_device(self.dev, cast("Any", self.p.task.mm))
        self.pasid = self.handle.pasid
        self.addr = self.p.mmap(0, 0x4000, RW, ANON)
        self.answers: list[tuple[int, int]] = []
        respond = self.unit.requests.respond

        def record(what: Any) -> None:
            self.answers.append((what.words[1] >> 3 & 0x1FF, what.words[0] >> 12 & 0xF))
            respond(what)

        self.unit.requests.respond = record

    def ask(self, low: int, high: int, *private: int) -> None:
        """One descriptor more in the ring, and the interrupt."""
        unit, tail = self.unit, self.unit.get64(r.PQT)
        words = (low, high, *(private or (0, 0)))
        unit.write_phys((unit.get64(r.PQA) & -4096) + tail, b"".join(w.to_bytes(8, "little") for w in words))
        unit.set64(r.PQT, (tail + 32) % 0x10000)
        unit.requests._tell(r.PRS_PPR)

    def request(self, addr: int, access: int = READ | LAST, group: int = 7, extra: int = 0, *private: int) -> None:
        """A request with the process's PASID."""
        low = 1 | 1 << 8 | RID << 16 | self.pasid << 32 | extra
        self.ask(low, access | group << 3 | addr & (1 << 64) - 4096, *private)

    def run(self) -> list[tuple[int, int]]:
        """Let the kernel work; the answers since the last time."""
        self.kernel.sched.run_ready()
        answers, self.answers[:] = list(self.answers), []
        return answers

    def log(self) -> list[str]:
        return [x.text for x in self.kernel.log.records if "DMAR:" in x.text]


@BOTH
@pytest.mark.parametrize("access", [READ, WRITE, READ | WRITE])
def test_success(profile, access):
    """handle_mm_fault() in the bound address space, then code 0; the page is there."""
    box = Box(profile)
    box.request(box.addr + 0x1000, access | LAST)
    assert box.run() == [(7, 0)]
    assert box.p.mem.translate(box.addr + 0x1000, write=bool(access & WRITE)) is not None
    unbind(box.handle)


@BOTH
@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        pytest.param(1 | RID << 16, 0x1000 | READ | LAST, "Page request without PASID", id="no PASID"),
        pytest.param(None, 1 << 47 | READ | LAST, "Address is not canonical", id="non-canonical"),
        pytest.param(1 << 53, 0x1000 | READ | LAST, "Page request in Privilege Mode", id="privileged read"),
        pytest.param(1 << 53, 0x1000 | WRITE | LAST, "Page request in Privilege Mode", id="privileged write"),
        pytest.param(1 << 52, 0x1000 | READ | LAST, "Execution request not supported", id="execute and read"),
        pytest.param(1 << 52 | 1 << 53, 1 << 47 | READ | LAST, "Address is not canonical", id="the first of two"),
    ],
)
def test_checks(profile, low, high, text):
    """prq_event_thread(): what is malformed is told and answered with 1, invalid request."""
    box = Box(profile)
    if low is None or low >> 52:
        low = (low or 0) | 1 | 1 << 8 | RID << 16 | box.pasid << 32
    box.ask(low, high | 9 << 3)
    assert box.run() == [(9, 1)]
    assert box.log()[-2:] == [
        f"DMAR: IOMMU: dmar0: {text}",
        f"DMAR: dmar0: Invalid page request: {low:08x} {high | 9 << 3:08x}",
    ]
    unbind(box.handle)


@BOTH
def test_no_response_unless_the_last_of_its_group(profile):
    """LPIG: an invalid request in the middle of a group is told only."""
    box = Box(profile)
    box.ask(1 | RID << 16, 0x1000 | READ)
    assert box.run() == []
    assert box.log()[-1].startswith("DMAR: dmar0: Invalid page request")
    unbind(box.handle)


def answered(box: Box) -> list[Any]:
    """The page group responses from now on, as they are in the queue."""
    words: list[Any] = []
    respond = box.unit.requests.respond

    def record(what: Any) -> None:
        words.append(what.words)
        respond(what)

    box.unit.requests.respond = record
    return words


def test_response_because_of_private_data():
    """6.1: private data asks for an answer, too, and comes back with it."""
    box = Box()
    words = answered(box)
    box.request(box.addr, READ, 3, 1 << 9, 0x1111, 0x2222)
    assert box.run() == [(3, 0)]
    assert (words[0][0] >> 5 & 1, words[0][2:]) == (1, (0x1111, 0x2222))
    box.ask(1 | 1 << 9 | RID << 16, 0x1000 | READ | 4 << 3, 0x1111, 0x2222)
    assert box.run() == [(4, 1)]
    assert (words[1][0] >> 5 & 1, words[1][2:]) == (1, (0x1111, 0x2222))
    unbind(box.handle)


@pytest.mark.parametrize("profile", ["linux-6.12", "linux-7.2"])
def test_later_kernels_do_not_know_of_private_data(profile):
    """intel/prq.c: only the last of a group is answered, good or bad; the upper words of the answer are 0."""
    box = Box(profile)
    words = answered(box)
    box.request(box.addr, READ, 3, 1 << 9, 0x1111, 0x2222)
    box.ask(1 | 1 << 9 | RID << 16, 0x1000 | READ | 4 << 3, 0x1111, 0x2222)
    assert box.run() == []
    box.request(box.addr, READ | LAST, 3, 1 << 9, 0x1111, 0x2222)
    box.ask(1 | 1 << 9 | RID << 16, 0x1000 | READ | LAST | 4 << 3, 0x1111, 0x2222)
    assert sorted(box.run()) == [(3, 0), (4, 1)]
    assert [(row[0] >> 5 & 1, row[2:]) for row in words] == [(0, (0, 0))] * 2
    unbind(box.handle)


@BOTH
def test_stop_marker(profile):
    """LPIG without access: dropped, no response."""
    box = Box(profile)
    box.request(box.addr, LAST)
    assert box.run() == []
    unbind(box.handle)


@BOTH
def test_unknown_pasid(profile):
    """Nobody's PASID: invalid."""
    box = Box(profile)
    box.ask(1 | 1 << 8 | RID << 16 | 999 << 32, 0x1000 | READ | LAST | 5 << 3)
    assert box.run() == [(5, 1)]
    unbind(box.handle)


@BOTH
def test_unknown_device(profile):
    """No such requester: invalid."""
    box = Box(profile)
    box.ask(1 | 1 << 8 | 0x1234 << 16 | box.pasid << 32, 0x1000 | READ | LAST)
    assert box.run() == [(0, 1)]
    unbind(box.handle)


@BOTH
@pytest.mark.parametrize("what", ["no vma", "wrong permission", "mm gone"])
def test_address_spaces_that_have_no_such_page(profile, what):
    """Code 1: no area there, one that forbids it, or the process has ended."""
    box = Box(profile)
    addr = box.addr
    if what == "no vma":
        box.p.munmap(addr, 0x1000)
    elif what == "wrong permission":
        box.p.mprotect(addr, 0x1000, mmap.PROT_READ)
    else:
        box.p.exit()
    box.request(addr, WRITE | LAST)
    assert box.run() == [(7, 1)]
    unbind(box.handle)


@BOTH
def test_groups(profile):
    """One answer for all requests of a group; after the first that fails the others are not looked at."""
    box = Box(profile)
    for page, access in ((0, READ), (1, WRITE), (2, READ | LAST)):
        box.request(box.addr + page * 0x1000, access, 4)
    assert box.run() == [(4, 0)]
    assert [box.p.mem.translate(box.addr + n * 0x1000) is not None for n in range(4)] == [True, True, True, False]
    box.request(0x1000, READ, 5)
    box.request(box.addr + 0x3000, READ | LAST, 5)
    assert box.run() == [(5, 1)]
    assert box.p.mem.translate(box.addr + 0x3000) is None
    unbind(box.handle)


@BOTH
def test_overflow(profile):
    """PRO: told, incomplete groups are forgotten, cleared; the next requests are served."""
    box = Box(profile)
    box.request(box.addr, READ, 1)
    box.kernel.sched.run_ready()
    box.unit.set32(r.PRS, r.PRS_PRO)
    box.request(box.addr + 0x1000, READ | LAST, 2)
    assert box.run() == [(2, 0)]
    assert box.log()[-2:] == [
        "DMAR: IOMMU: dmar0: PRQ overflow detected",
        "DMAR: IOMMU: dmar0: PRQ overflow cleared",
    ]
    assert box.unit.get32(r.PRS) & r.PRS_PRO == 0
    assert box.dev.iommu.info(box.dev).fault_param.partial == []
    unbind(box.handle)


@BOTH
def test_drain(profile):
    """7.10: what is in the ring is served before unbind returns; then a wait with fence, and one with drain."""
    box = Box(profile)
    events = box.kernel.trace.record()
    box.request(box.addr, READ | LAST, 1)
    unbind(box.handle)
    assert box.answers == [(1, 0)]
    kinds = [e.fields["kind"] for e in events if e.name == "vtd_invalidate"]
    assert kinds[:3] == ["PASID", "PASID_IOTLB", "PASID_DEVICE_TLB"], "VT-d 6.5.3.3"
    assert kinds[-2:] == ["PASID_IOTLB", "PASID_DEVICE_TLB"], "between the fence and the drain"


def test_guests_requests_are_their_owners():
    """A PASID of a guest is reported to who gave it away, who answers by group and PASID; others are the host's."""
    box = Box()
    seen: list[tuple[int, int, int, Any]] = []
    handler: Callable[..., None] = lambda fault, data: seen.append((fault.pasid, fault.addr, fault.perm, data))  # noqa: E731
    iopf.iommu_register_device_fault_handler(box.dev, handler, "vm", pasid=50)
    assert code(iopf.iommu_register_device_fault_handler, box.dev, handler, pasid=50) == errno.EBUSY
    box.ask(1 | 1 << 8 | RID << 16 | 50 << 32, 0x7000 | WRITE | LAST | 6 << 3)
    box.request(box.addr)
    assert box.run() == [(7, 0)]
    assert seen == [(50, 0x7000, 2, "vm")]
    assert code(iopf.iommu_unregister_device_fault_handler, box.dev, pasid=50) == errno.EBUSY
    wrong = iommu_page_response(version=1, flags=1, pasid=51, grpid=6)
    assert code(iopf.page_response, box.dev, wrong) == errno.EINVAL
    iopf.page_response(box.dev, iommu_page_response(version=1, flags=1, pasid=50, grpid=6, code=1))
    assert box.run() == [(6, 1)]
    assert code(iopf.page_response, box.dev, wrong) == errno.EINVAL
    assert box.kernel.log.records[-1].text.endswith("no pending PRQ, drop response")
    iopf.iommu_unregister_device_fault_handler(box.dev, pasid=50)
    unbind(box.handle)


@pytest.mark.parametrize("profile", ["linux-6.12", "linux-7.2"])
def test_requests_of_a_domain_s_pasid(profile):
    """What is attached to a PASID and takes page faults, as IOMMUFD's page tables do, has its groups, and answers."""
    box = Box(profile)
    domain: Any = box.dev.iommu.domain_alloc(1)
    groups: list[Any] = []
    domain.iopf_handler = groups.append
    iommu_attach_device_pasid(domain, box.dev, 77, owner := object())
    for access, group in ((READ, 3), (WRITE | LAST, 3), (READ | LAST, 4)):
        box.ask(1 | 1 << 8 | RID << 16 | 77 << 32, 0x9000 | access | group << 3)
    assert box.run() == []
    assert [(len(g.faults), g.faults[-1].perm, g.handle) for g in groups] == [(2, 2, owner), (1, 1, owner)]
    groups[0].respond(0)
    groups[1].respond(2)
    groups[1].respond(0)  # once
    assert box.answers == [(3, 0), (4, 0xF)], "a failure is 0xF (VT-d 7.7)"
    iommu_detach_device_pasid(domain, box.dev, 77)
    domain.free()
    unbind(box.handle)


@pytest.mark.parametrize(("version", "flags"), [(2, 1), (0, 1), (1, 2)])
def test_page_response_that_nobody_knows(version, flags):
    """iommu_page_response(): version 1, PASID_VALID."""
    box = Box()
    assert code(iopf.page_response, box.dev, iommu_page_response(version=version, flags=flags)) == errno.EINVAL
    unbind(box.handle)


def test_feature_off_with_requests_pending():
    """6.12: who waits when IOPF goes is answered with "invalid" (iopf_queue_remove_device())."""
    box = Box("linux-6.12")
    iopf.iommu_register_device_fault_handler(box.dev, lambda fault, data: None, pasid=50)
    box.ask(1 | 1 << 8 | RID << 16 | 50 << 32, 0x7000 | READ | LAST | 6 << 3)
    assert box.run() == []
    unbind(box.handle)
    for feature in ("sva", "iopf"):
        iommu_dev_disable_feature(box.dev, feature)
    assert box.answers == [(6, 1)]


@pytest.mark.parametrize("profile", ["linux-6.1", "linux-6.12"])
def test_unbind_against_requests(profile):
    """
    Whatever the order: each request has one answer, and from 6.2 on none is served after unbind.

    Before, the PASID is enough to find the address space, bound or not (iommu_sva_find()).
    """
    for kernel in explore(seeds=25, machine=parse(DSA), profile=profile):
        box = Box(kernel=kernel)
        late: list[int] = []

        def ask(box: Any = box) -> None:
            for n in range(4):
                box.request(box.addr + n * 0x1000, READ | LAST, n)
                box.kernel.sched.point()

        def end(box: Any = box, late: list[int] = late) -> None:
            unbind(box.handle)
            late += [n for n in range(4) if box.p.mem.translate(box.addr + n * 0x1000) is None]

        kernel.gather(ask, end)
        kernel.sched.run_ready()
        assert sorted(group for group, _ in box.answers) == [0, 1, 2, 3]
        served = [group for group, answer in box.answers if not answer]
        assert all(box.p.mem.translate(box.addr + n * 0x1000) is not None for n in served)
        assert profile == "linux-6.1" or not set(late) & set(served)
        box.p.exit()


@BOTH
def test_who_binds_while_unbind_waits_for_page_requests_waits_for_it(profile):
    """iommu_sva_lock, in 6.1 group->mutex: the bond that comes then is good, never EBUSY."""
    for kernel in explore(seeds=25, machine=parse(DSA), profile=profile):
        box = Box(kernel=kernel)
        again: list[Any] = []
        for n in range(3):
            box.request(box.addr + n * 0x1000, READ | LAST, n)

        def rebind(box: Any = box, again: list[Any] = again) -> None:
            box.kernel.sched.point()
            again.append(iommu_sva_bind_device(box.dev, box.p.task.mm))

        kernel.gather(partial(unbind, box.handle), rebind)
        kernel.sched.run_ready()
        box.answers.clear()
        assert again[0].users == 1
        box.request(box.addr + 0x3000, WRITE | LAST, 5)
        assert box.run() == [(5, 0)]
        unbind(again[0])
        box.p.exit()


def code(fn: Any, *args: Any, **kw: Any) -> int:
    try:
        fn(*args, **kw)
    except OSError as e:
        return e.errno or 0
    return 0
