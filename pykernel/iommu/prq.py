"""
The page request queue of a VT-d unit (drivers/iommu/intel/svm.c, in 6.12 prq.c; VT-d 7.4 to 7.10).

The unit writes what devices ask for into a ring in memory and sends an interrupt; a thread checks each request and
reports it to who answers. Before a PASID is anybody else's, what is on its way in ring, queue and unit is drained.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pykernel.iommu.iopf import Fault, IopfQueue, iommu_report_device_fault
from pykernel.iommu.pasid import FLPT_DEFAULT_DID, IOMMU_NO_PASID
from pykernel.iommu.qi import (
    IOTLB_DSI,
    IWD_FENCE,
    MAX_AGAW_PFN_WIDTH,
    QI_DONE,
    QI_IWD,
    QI_RESP_FAILURE,
    QI_RESP_INVALID,
    dev_iotlb_desc,
    dev_iotlb_pasid_desc,
    iotlb_desc,
    page_group_response,
    piotlb_desc,
)
from pykernel.iommu.vtdregs import (
    DMAR_PECTL_REG,
    DMAR_PQA_REG,
    DMAR_PQH_REG,
    DMAR_PQT_REG,
    DMAR_PRS_REG,
    PRS_PPR,
    PRS_PRO,
)
from pykernel.lib.ratelimit import RatelimitState
from pykernel.log import ERR, INFO
from pykernel.uapi.linux.iommu import (
    IOMMU_FAULT_PAGE_REQUEST_LAST_PAGE,
    IOMMU_FAULT_PAGE_REQUEST_PASID_VALID,
    IOMMU_FAULT_PAGE_REQUEST_PRIV_DATA,
    IOMMU_FAULT_PAGE_RESPONSE_NEEDS_PASID,
    IOMMU_PAGE_RESP_FAILURE,
)

if TYPE_CHECKING:
    from pykernel.iommu.devinfo import DeviceDomainInfo
    from pykernel.iommu.intel import IntelIommu

__all__ = ["PRQ_RING_MASK", "PageReqDsc", "PageRequestQueue"]

PRQ_ORDER: Final = 4
SIZE: Final = 32  # of a descriptor
PRQ_RING_MASK: Final = (0x1000 << PRQ_ORDER) - SIZE
VIRTUAL_BITS: Final = 48


class PageReqDsc:
    """``struct page_req_dsc``: 32 bytes of the ring (VT-d 7.4.1.1)."""

    __slots__ = ("qw0", "qw1", "qw2", "qw3")

    def __init__(self, qw0: int, qw1: int, qw2: int = 0, qw3: int = 0) -> None:
        self.qw0, self.qw1, self.qw2, self.qw3 = qw0, qw1, qw2, qw3

    @property
    def pasid_present(self) -> bool:
        """The request has a PASID."""
        return bool(self.qw0 >> 8 & 1)

    @property
    def private(self) -> tuple[int, int] | None:
        """Private data, which the answer brings back."""
        return (self.qw2, self.qw3) if self.qw0 >> 9 & 1 else None

    @property
    def rid(self) -> int:
        """The requester."""
        return self.qw0 >> 16 & 0xFFFF

    @property
    def pasid(self) -> int:
        """The PASID."""
        return self.qw0 >> 32 & 0xFFFFF

    @property
    def exe_req(self) -> bool:
        """To execute."""
        return bool(self.qw0 >> 52 & 1)

    @property
    def pm_req(self) -> bool:
        """Privileged."""
        return bool(self.qw0 >> 53 & 1)

    @property
    def access(self) -> int:
        """1: to read; 2: to write."""
        return self.qw1 & 3

    @property
    def lpig(self) -> bool:
        """The last of its group."""
        return bool(self.qw1 >> 2 & 1)

    @property
    def prg_index(self) -> int:
        """The group."""
        return self.qw1 >> 3 & 0x1FF

    @property
    def addr(self) -> int:
        """The page."""
        return self.qw1 & -4096

    @property
    def perm(self) -> int:
        """C: ``prq_to_iommu_prot()``."""
        return self.access | self.exe_req << 2 | self.pm_req << 3


class PageRequestQueue:
    """
    The ring, its interrupt, and the queue that serves address spaces.

    Attributes:
        served: turns of the interrupt's thread. C: ``iommu->prq_complete``.
    """

    def __init__(self, unit: IntelIommu) -> None:
        self.unit, self.reg = unit, unit.reg
        self.words = unit.phys.words
        self.ring = unit.phys.alloc_pages(1 << PRQ_ORDER)
        self.iopf = IopfQueue(unit.kernel, f"{unit.name}-iopfq")
        self.served = 0
        self.limit = RatelimitState(unit.kernel.sched.clock_ns, lambda n: None)
        self.irq = unit.request_irq(DMAR_PECTL_REG, self.thread, f"{unit.name}-prq", hard=False)
        self.reg.writeq(DMAR_PQH_REG, 0)
        self.reg.writeq(DMAR_PQT_REG, 0)
        self.reg.writeq(DMAR_PQA_REG, self.ring | PRQ_ORDER)

    def _request(self, at: int) -> PageReqDsc:
        first = self.ring + at >> 3
        return PageReqDsc(*self.words[first : first + 4].tolist())

    def _ends(self) -> tuple[int, int]:
        tail = self.reg.readq(DMAR_PQT_REG) & PRQ_RING_MASK
        return self.reg.readq(DMAR_PQH_REG) & PRQ_RING_MASK, tail

    # ---- the interrupt's thread

    def thread(self) -> None:
        """C: ``static irqreturn_t prq_event_thread(int irq, void *d)``."""
        self.reg.writel(DMAR_PRS_REG, PRS_PPR)
        head, tail = self._ends()
        while head != tail:
            self._serve(self._request(head))
            head = (head + SIZE) & PRQ_RING_MASK
        self.reg.writeq(DMAR_PQH_REG, tail)
        if self.reg.readl(DMAR_PRS_REG) & PRS_PRO:
            self._overflow()
        self.served += 1

    def _overflow(self) -> None:
        self._inform("PRQ overflow detected")
        head, tail = self._ends()
        if head == tail:
            self.iopf.discard_partial()
            self.reg.writel(DMAR_PRS_REG, PRS_PRO)
            self._inform("PRQ overflow cleared")

    def _inform(self, text: str) -> None:
        if self.limit.ratelimit():
            self.unit.kernel.log.printk(INFO, f"DMAR: IOMMU: {self.unit.name}: {text}")

    def _serve(self, req: PageReqDsc) -> None:
        """Check one request, in Linux's order, and report it."""
        wrong = self._wrong(req)
        if wrong:
            self.unit.kernel.log.printk(ERR, f"DMAR: IOMMU: {self.unit.name}: {wrong}")
            self._bad(req)
            return
        if req.lpig and not req.access:  # a stop marker
            return
        info = self.unit.by_sid(req.rid)
        if info is None:
            self._bad(req)
            return
        late = self.unit.kernel.profile.iommu_sva_domain
        try:
            iommu_report_device_fault(info.dev, self._fault(req))
        except OSError:
            if not late:  # later ones have had their answer
                self._bad(req)
            return
        if self.unit.kernel.trace:
            self.unit.kernel.trace("prq_report", device=info.dev.name, pasid=req.pasid, addr=req.addr, perm=req.perm)

    @staticmethod
    def _wrong(req: PageReqDsc) -> str:
        if not req.pasid_present:
            return "Page request without PASID"
        if req.addr >> VIRTUAL_BITS - 1 not in (0, (1 << 64 - VIRTUAL_BITS + 1) - 1):
            return "Address is not canonical"
        if req.pm_req and req.access:
            return "Page request in Privilege Mode"
        return "Execution request not supported" if req.exe_req and req.access & 1 else ""

    def _private(self, req: PageReqDsc) -> tuple[int, int] | None:
        """Private data, as far as this kernel knows of it."""
        return req.private if self.unit.kernel.profile.vtd_prq_private_data else None

    def _fault(self, req: PageReqDsc) -> Fault:
        """C: ``intel_svm_prq_report()``: who has private data is answered, as the last of a group is."""
        private = self._private(req)
        flags = IOMMU_FAULT_PAGE_REQUEST_PASID_VALID | IOMMU_FAULT_PAGE_RESPONSE_NEEDS_PASID
        if req.lpig or private is not None:
            flags |= IOMMU_FAULT_PAGE_REQUEST_LAST_PAGE
        if private is not None:
            flags |= IOMMU_FAULT_PAGE_REQUEST_PRIV_DATA
        return Fault(flags, req.pasid, req.prg_index, req.perm, req.addr, private)

    def _bad(self, req: PageReqDsc) -> None:
        """C: ``static void handle_bad_prq_event(...)`` with QI_RESP_INVALID."""
        text = f"DMAR: {self.unit.name}: Invalid page request: {req.qw0:08x} {req.qw1:08x}"
        self.unit.kernel.log.printk(ERR, text)
        private = self._private(req)
        if not req.lpig and private is None:
            return
        pasid = req.pasid if req.pasid_present else None
        desc = page_group_response(req.rid, pasid, req.prg_index, QI_RESP_INVALID, last=req.lpig, private=private)
        self.unit.qi.submit_sync(desc)

    # ---- answers

    def respond(self, info: DeviceDomainInfo, fault: Fault, code: int) -> None:
        """
        C: ``int intel_svm_page_response(...)``; *code* is IOMMU_PAGE_RESP_*.

        Linux hands its number of a failure, 2, to the unit, which is reserved there (VT-d 7.7): here it is 0xF.
        """
        code = QI_RESP_FAILURE if code == IOMMU_PAGE_RESP_FAILURE else code
        if not fault.last and not self.unit.kernel.profile.iommu_sva_domain:
            return
        pasid = fault.pasid if fault.flags & IOMMU_FAULT_PAGE_REQUEST_PASID_VALID else None
        desc = page_group_response(info.sid, pasid, fault.grpid, code, last=fault.last, private=fault.private)
        self.unit.qi.submit_sync(desc)

    # ---- draining

    def drain(self, info: DeviceDomainInfo, pasid: int) -> None:
        """
        No request of *pasid* is on its way any more. Its entry is cleared, and the IOTLB does not know it.

        C: ``intel_svm_drain_prq()``, in 6.12 ``intel_iommu_drain_pasid_prq()``
        """
        if not info.pri_enabled:
            return
        while self._waiting(pasid):
            self._wait_turn()
        self.iopf.flush()
        did = getattr(info.domain, "id", FLPT_DEFAULT_DID)
        fence = (QI_DONE << 32 | IWD_FENCE | QI_IWD, 0, 0, 0)
        if pasid == IOMMU_NO_PASID:
            iotlb = iotlb_desc(did, 0, 0, IOTLB_DSI)
            devtlb = dev_iotlb_desc(info.sid, info.pfsid, info.ats_qdep, 0, MAX_AGAW_PFN_WIDTH)
        else:
            iotlb = piotlb_desc(did, pasid, 0, -1)
            devtlb = dev_iotlb_pasid_desc(info.sid, info.pfsid, pasid, info.ats_qdep, 0, MAX_AGAW_PFN_WIDTH)
        self.unit.qi.submit_sync(fence, iotlb, devtlb, drain=True)
        while self.reg.readl(DMAR_PRS_REG) & PRS_PRO:
            self._wait_turn()
            self.unit.qi.submit_sync(fence, iotlb, devtlb, drain=True)

    def _waiting(self, pasid: int) -> bool:
        head, tail = self._ends()
        while head != tail:
            req = self._request(head)
            if req.pasid_present and req.pasid == pasid:
                return True
            head = (head + SIZE) & PRQ_RING_MASK
        return False

    def _wait_turn(self) -> None:
        before: Any = self.served
        self.unit.kernel.sched.idle_until(lambda: self.served != before, waits_for=self)
