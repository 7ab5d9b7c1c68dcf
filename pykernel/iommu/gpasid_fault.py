"""
Page requests of PASIDs that a guest has bound: its VMM answers them (drivers/iommu/intel/svm.c of Linux 5.10:
intel_svm_page_response(), the part for guests).

A guest that answers none would hold others up: a drain of its work occupies the device's one command register. So each
request has ten seconds ("iommu: handle page response timeout" of the series of 2018: ``prq_timeout``), and after one
that ran out those of the next ten seconds fail at once. Who takes a PASID away lets none wait at all.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from errno import EINVAL, ENODEV
from typing import TYPE_CHECKING, Any, Final

from pykernel.errors import err
from pykernel.iommu.iopf import (
    iommu_register_device_fault_handler,
    iommu_unregister_device_fault_handler,
    page_response,
)
from pykernel.uapi.linux import iommu as u

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pykernel.base.core import Device
    from pykernel.iommu.gpasid import GuestPasids, SvmDev
    from pykernel.iommu.iopf import Fault, FaultParam

__all__ = ["PRQ_TIMEOUT_NS", "answer_all", "iommu_page_response", "listen", "refusing_page_requests", "unlisten"]

PRQ_TIMEOUT_NS: Final = 10 * 10**9


def _param(sdev: SvmDev) -> FaultParam | None:
    unit: Any = sdev.dev.iommu
    info = None if unit is None else unit.info(sdev.dev)
    param: FaultParam | None = None if info is None else info.fault_param
    return param


def listen(sdev: SvmDev, handler_of: Callable[[SvmDev], Callable[[SvmDev, u.iommu_fault], None] | None]) -> None:
    """Page requests of the PASID are the guest's from now on; *handler_of* tells who takes them, None: nobody."""

    def take(fault: Fault, _data: object) -> None:
        handler = None if sdev.refusing or sdev.late_ns > sdev.dev.kernel.sched.clock_ns() else handler_of(sdev)
        if handler is not None:
            if fault.last:
                _expect(sdev, fault)
            handler(sdev, _message(fault))
        elif fault.last:
            _respond(sdev, fault)

    with suppress(OSError):  # a device without page requests makes none
        iommu_register_device_fault_handler(sdev.dev, take, pasid=sdev.pasid)


def _expect(sdev: SvmDev, fault: Fault) -> None:
    """An answer to *fault*, in time."""
    sched = sdev.dev.kernel.sched

    def late() -> None:
        param = _param(sdev)
        if param is None or not any(f is fault for f in param.pending):
            return
        sdev.late_ns = sched.clock_ns() + PRQ_TIMEOUT_NS
        param.info.unit.iopf_queue.warn(sdev.dev, f"no answer to a page request of PASID {sdev.pasid}")
        _respond(sdev, fault)

    fault.timer = sched.call_later(PRQ_TIMEOUT_NS, lambda: sched.schedule_work(late, "kworker/prq_timeout"))


def unlisten(sdev: SvmDev) -> None:
    """The entry is gone: what waits gets a bad answer, what comes is nobody's."""
    answer_all(sdev)
    with suppress(OSError):
        iommu_unregister_device_fault_handler(sdev.dev, pasid=sdev.pasid)


def answer_all(sdev: SvmDev) -> None:
    """Nobody will answer: each request that waits gets a bad answer."""
    param = _param(sdev)
    for fault in [] if param is None else [f for f in param.pending if f.pasid == sdev.pasid]:
        _respond(sdev, fault)


@contextmanager
def refusing_page_requests(core: GuestPasids, dev: Device, pasids: Iterable[int]) -> Iterator[None]:
    """While this lasts no page request of *pasids* of *dev* waits for a guest: what waits gets a bad answer."""
    found = [sdev for sdev in (core.find(dev, pasid) for pasid in pasids) if sdev is not None]
    for sdev in found:
        sdev.refusing += 1
        answer_all(sdev)
    try:
        yield
    finally:
        for sdev in found:
            sdev.refusing -= 1


def _respond(sdev: SvmDev, fault: Fault) -> None:
    param = _param(sdev)
    if param is not None:
        param.respond(fault, int(u.IOMMU_PAGE_RESP_INVALID))


def _message(fault: Fault) -> u.iommu_fault:
    """As user space knows it, with the host's PASID."""
    message = u.iommu_fault(type=u.IOMMU_FAULT_PAGE_REQ)
    prm = message.prm
    prm.flags, prm.pasid, prm.grpid, prm.perm, prm.addr = fault.flags, fault.pasid, fault.grpid, fault.perm, fault.addr
    if fault.private is not None:
        prm.private_data[0], prm.private_data[1] = fault.private
    return message


def iommu_page_response(core: GuestPasids, dev: Device, message: u.iommu_page_response) -> None:
    """
    The VMM's answer. C: ``int iommu_page_response(struct device *, struct iommu_page_response *)``.

    Raises:
        ENODEV: nothing is bound to the PASID. EINVAL: another process bound it; what :func:`page_response` says.
    """
    sdev = core.find(dev, message.pasid)
    if sdev is None:
        raise err(ENODEV, f"PASID {message.pasid} of {dev.name} is not bound")
    if sdev.mm is not dev.kernel.current.mm:
        raise err(EINVAL, f"PASID {message.pasid} was bound by another process")
    page_response(dev, message)
    sdev.late_ns = 0
