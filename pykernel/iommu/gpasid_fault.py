"""
Page requests of PASIDs that a guest has bound: its VMM answers them (drivers/iommu/intel/svm.c of Linux 5.10:
intel_svm_page_response(), the part for guests).
"""

from __future__ import annotations

from contextlib import suppress
from errno import EINVAL, ENODEV
from typing import TYPE_CHECKING, Any

from pykernel.errors import err
from pykernel.iommu.iopf import (
    iommu_register_device_fault_handler,
    iommu_unregister_device_fault_handler,
    page_response,
)
from pykernel.uapi.linux import iommu as u

if TYPE_CHECKING:
    from collections.abc import Callable

    from pykernel.base.core import Device
    from pykernel.iommu.gpasid import GuestPasids, SvmDev
    from pykernel.iommu.iopf import Fault, FaultParam

__all__ = ["answer_all", "iommu_page_response", "listen", "unlisten"]


def _param(sdev: SvmDev) -> FaultParam | None:
    unit: Any = sdev.dev.iommu
    info = None if unit is None else unit.info(sdev.dev)
    param: FaultParam | None = None if info is None else info.fault_param
    return param


def listen(sdev: SvmDev, handler_of: Callable[[SvmDev], Callable[[SvmDev, u.iommu_fault], None] | None]) -> None:
    """Page requests of the PASID are the guest's from now on; *handler_of* tells who takes them, None: nobody."""

    def take(fault: Fault, _data: object) -> None:
        handler = handler_of(sdev)
        if handler is not None:
            handler(sdev, _message(fault))
        elif fault.last:
            _respond(sdev, fault)

    with suppress(OSError):  # a device without page requests makes none
        iommu_register_device_fault_handler(sdev.dev, take, pasid=sdev.pasid)


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
    if core.find(dev, message.pasid) is None:
        raise err(ENODEV, f"PASID {message.pasid} of {dev.name} is not bound")
    svm = core.svms.get(message.pasid)
    if svm is not None and svm.mm is not dev.kernel.current.mm:
        raise err(EINVAL, f"PASID {message.pasid} was bound by another process")
    page_response(dev, message)
