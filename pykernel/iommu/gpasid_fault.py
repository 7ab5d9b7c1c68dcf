"""
Page requests of PASIDs that a guest has bound: its VMM answers them (drivers/iommu/iommu.c of Linux 5.10:
iommu_report_device_fault(), iommu_page_response(); intel/svm.c: intel_svm_page_response()).
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EINVAL, ENODEV
from typing import TYPE_CHECKING, Any

from pykernel.errors import err
from pykernel.log import WARNING
from pykernel.uapi.linux import iommu as u

if TYPE_CHECKING:
    from pykernel.base.core import Device
    from pykernel.pci.dev import PciDev

__all__ = ["PageRequests", "Respond", "iommu_page_response", "iommu_report_guest_fault"]

Respond = Callable[[int], None]


class PageRequests:
    """``struct iommu_fault_param.faults`` of a device and a PASID: each group's last request, and how to answer it."""

    __slots__ = ("dev", "pending")

    def __init__(self, dev: PciDev) -> None:
        self.dev = dev
        self.pending: list[tuple[u.iommu_fault_page_request, Respond]] = []

    def take(self, message: u.iommu_page_response) -> Respond:
        """
        The request that *message* answers is one no more.

        Raises:
            EINVAL: version, flags, nothing waits, or nothing of that group and PASID.
        """
        if message.version != u.IOMMU_PAGE_RESP_VERSION_1 or message.flags & ~u.IOMMU_PAGE_RESP_PASID_VALID:
            raise err(EINVAL, f"version {message.version}, flags {message.flags:#x}")
        if not self.pending:
            self.dev.kernel.log.printk(WARNING, f"{self.dev.name}: no pending PRQ, drop response")
            raise err(EINVAL, "no request waits")
        for entry in self.pending:
            prm = entry[0]
            needs = prm.flags & u.IOMMU_FAULT_PAGE_RESPONSE_NEEDS_PASID
            has = message.flags & u.IOMMU_PAGE_RESP_PASID_VALID
            if prm.grpid == message.grpid and (not needs or (has and message.pasid == prm.pasid)):
                self.pending.remove(entry)
                return entry[1]
        raise err(EINVAL, f"no request of group {message.grpid} waits")

    def answer_all(self) -> None:
        """Nobody will: each gets a bad answer."""
        pending, self.pending = self.pending, []
        for _, respond in pending:
            respond(u.IOMMU_PAGE_RESP_INVALID)


def iommu_report_guest_fault(dev: Device, prm: u.iommu_fault_page_request, respond: Respond) -> bool:
    """
    A page request of *dev*; False: its PASID is no guest's, so somebody else answers it.

    C: ``int iommu_report_device_fault(struct device *, struct iommu_fault_event *)``. *respond* is called once with
    IOMMU_PAGE_RESP_SUCCESS, _INVALID or _FAILURE, but for requests that are not the last of their group: never.
    """
    from pykernel.iommu.gpasid import GuestPasids

    core = dev.kernel.sub(GuestPasids)
    sdev = core.find(dev, prm.pasid)
    if sdev is None:
        return False
    handler = core.handlers.get(sdev.domain)
    last = prm.flags & u.IOMMU_FAULT_PAGE_REQUEST_LAST_PAGE
    if handler is None:
        if last:
            respond(u.IOMMU_PAGE_RESP_INVALID)
        return True
    if last:
        sdev.requests.pending.append((prm, respond))
    fault = u.iommu_fault(type=u.IOMMU_FAULT_PAGE_REQ)
    fault.prm = prm
    handler(sdev, fault)
    return True


def iommu_page_response(dev: Device, message: u.iommu_page_response) -> None:
    """
    The VMM's answer. C: ``int iommu_page_response(struct device *, struct iommu_page_response *)``.

    Raises:
        EINVAL: version, flags; no such request waits; the PASID was bound by another process.
        ENODEV: nothing is bound to the PASID.
    """
    from pykernel.iommu.gpasid import GuestPasids

    core: Any = dev.kernel.sub(GuestPasids)
    sdev = core.find(dev, message.pasid)
    if sdev is None:
        raise err(ENODEV, f"PASID {message.pasid} of {dev.name} is not bound")
    svm = core.svms.get(message.pasid)
    if svm is not None and svm.mm is not dev.kernel.current.mm:
        raise err(EINVAL, f"PASID {message.pasid} was bound by another process")
    sdev.requests.take(message)(message.code)
