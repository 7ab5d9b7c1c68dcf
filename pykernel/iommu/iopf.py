"""
Page faults of devices, whoever answers them (drivers/iommu/io-pgfault.c; drivers/iommu/iommu.c before 6.8).

A device asks for pages in groups; the last request of a group gets the answer. The IOMMU's driver reports each request
with :func:`iommu_report_device_fault`. Whose it is: an owner of the PASID, as one who gave it to a guest; before 6.8
the device's one handler, which is :func:`iommu_queue_iopf` where processes share their address spaces; from then on the
domain that is attached to the PASID. Address spaces are served by work of the unit's queue.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from errno import EBUSY, EINVAL, ENODEV, EOPNOTSUPP
from typing import TYPE_CHECKING, Any, Final

from pykernel.errors import err
from pykernel.lib.ratelimit import RatelimitState
from pykernel.log import WARNING
from pykernel.uapi.linux.iommu import (
    IOMMU_FAULT_PAGE_REQ,
    IOMMU_FAULT_PAGE_REQUEST_LAST_PAGE,
    IOMMU_FAULT_PAGE_REQUEST_PASID_VALID,
    IOMMU_FAULT_PAGE_RESPONSE_NEEDS_PASID,
    IOMMU_FAULT_PERM_EXEC,
    IOMMU_FAULT_PERM_READ,
    IOMMU_FAULT_PERM_WRITE,
    IOMMU_PAGE_RESP_FAILURE,
    IOMMU_PAGE_RESP_INVALID,
    IOMMU_PAGE_RESP_PASID_VALID,
    IOMMU_PAGE_RESP_SUCCESS,
    IOMMU_PAGE_RESP_VERSION_1,
    iommu_page_response,
)

if TYPE_CHECKING:
    from pykernel.base.core import Device
    from pykernel.iommu.devinfo import DeviceDomainInfo
    from pykernel.iommu.iommu import PasidHandle
    from pykernel.kernel import Kernel
    from pykernel.sched import Timer
    from pykernel.task import Mm

__all__ = [
    "Fault",
    "FaultParam",
    "IopfGroup",
    "IopfQueue",
    "handle_mm",
    "iommu_queue_iopf",
    "iommu_register_device_fault_handler",
    "iommu_report_device_fault",
    "iommu_unregister_device_fault_handler",
    "page_response",
    "serve_mm",
]

Handler = Callable[["Fault", Any], None]  # raises an errno when it does not take the request
NEEDS_PASID: Final = IOMMU_FAULT_PAGE_RESPONSE_NEEDS_PASID | IOMMU_FAULT_PAGE_REQUEST_PASID_VALID


@dataclass
class Fault:
    """
    ``struct iommu_fault``: one page request, in the numbers of ``iommu_fault_page_request``.

    Attributes:
        timer: what happens when nobody answers in time.
    """

    flags: int = 0
    pasid: int = 0
    grpid: int = 0
    perm: int = 0
    addr: int = 0
    private: tuple[int, int] | None = None
    type: int = IOMMU_FAULT_PAGE_REQ
    timer: Timer | None = field(default=None, compare=False)

    def answered(self) -> None:
        """Nobody waits for it any more."""
        if self.timer is not None:
            self.timer.cancel()

    @property
    def last(self) -> bool:
        """It ends its group, and is answered."""
        return bool(self.flags & IOMMU_FAULT_PAGE_REQUEST_LAST_PAGE)


@dataclass(eq=False)
class IopfGroup:
    """``struct iopf_group``: requests that are answered at once, by *respond(code)*."""

    faults: list[Fault]
    respond: Callable[[int], None]
    handle: Any = None
    cookie: int = field(default=0, init=False)


class IopfQueue:
    """``struct iopf_queue``: serves groups of page requests, each in its own turn."""

    def __init__(self, kernel: Kernel, name: str) -> None:
        self.kernel, self.name = kernel, name
        self.devices: list[FaultParam] = []
        self.works = 0
        self.limit = RatelimitState(kernel.sched.clock_ns, lambda n: None)

    def add_device(self, param: FaultParam) -> None:
        """C: ``int iopf_queue_add_device(struct iopf_queue *, struct device *)``. Raises EBUSY: it is in a queue."""
        if param.queue is not None:
            raise err(EBUSY, f"{param.info.dev.name} has a fault queue")
        param.queue = self
        self.devices.append(param)

    def remove_device(self, param: FaultParam) -> None:
        """
        C: ``iopf_queue_remove_device(struct iopf_queue *, struct device *)``: who still waits gets a bad answer (6.8).

        Raises:
            EINVAL: it is not in this queue.
        """
        if param.queue is not self:
            raise err(EINVAL, f"{param.info.dev.name} has no fault queue")
        self.devices.remove(param)
        param.queue = None
        param.partial.clear()
        if self.kernel.profile.iommu_sva_domain:
            while param.pending:
                param.respond(param.pending[0], IOMMU_PAGE_RESP_INVALID)

    def discard_partial(self) -> None:
        """Requests may have been lost: incomplete groups go. C: ``int iopf_queue_discard_partial(...)``."""
        for param in self.devices:
            param.partial.clear()

    def queue_work(self, work: Callable[[], None]) -> None:
        """C: ``queue_work(iopf_param->queue->wq, &group->work)``."""
        self.works += 1

        def run() -> None:
            try:
                work()
            finally:
                self.works -= 1

        self.kernel.sched.schedule_work(run, f"kworker/{self.name}")

    def flush(self) -> None:
        """All groups that are queued have been served. C: ``int iopf_queue_flush_dev(struct device *)``."""
        if self.works:
            self.kernel.sched.idle_until(lambda: not self.works, waits_for=self)

    def warn(self, dev: Device, text: str) -> None:
        """C: ``dev_warn_ratelimited()``."""
        if self.limit.ratelimit():
            dev._printk(WARNING, text)


@dataclass(eq=False)
class FaultParam:
    """
    ``struct iommu_fault_param``.

    Attributes:
        owners: handlers of single PASIDs, with their data.
        handler: the device's own handler, with its data.
        queue: where groups for address spaces are served; None: it is in none.
        partial: requests whose group is not complete.
        pending: last requests that wait for their answer.
    """

    info: DeviceDomainInfo
    owners: dict[int, tuple[Handler, Any]] = field(default_factory=dict)
    handler: tuple[Handler, Any] | None = None
    queue: IopfQueue | None = None
    partial: list[Fault] = field(default_factory=list)
    pending: list[Fault] = field(default_factory=list)

    def group_of(self, last: Fault) -> list[Fault]:
        """The requests of the group that *last* ends. C: ``iopf_group_alloc()``."""
        mine = [f for f in self.partial if f.grpid == last.grpid]
        self.partial = [f for f in self.partial if f.grpid != last.grpid]
        return [*mine, last]

    def respond(self, fault: Fault, code: int) -> None:
        """Answer *fault*, if it still waits. C: ``void iopf_group_response(struct iopf_group *, ...)``."""
        if any(f is fault for f in self.pending):
            self.pending = [f for f in self.pending if f is not fault]
            fault.answered()
            self.info.unit.page_response(self.info, fault, code)


def _param(dev: Device) -> FaultParam | None:
    info = dev.iommu.info(dev) if dev.iommu is not None else None
    return info.fault_param if info is not None else None


# ---- handlers


def iommu_register_device_fault_handler(
    dev: Device, handler: Handler, data: Any = None, *, pasid: int | None = None
) -> None:
    """
    Have *handler(fault, data)* hear of the page requests of *dev*; it answers with :func:`page_response`.

    C: ``int iommu_register_device_fault_handler(struct device *, iommu_dev_fault_handler_t, void *)``

    Args:
        pasid: only those of this PASID, for a guest that owns it: a device has PASIDs of the host and of guests.

    Raises:
        EINVAL: no IOMMU. EBUSY: there is a handler.
    """
    param = _param(dev)
    if param is None:
        raise err(EINVAL, f"{dev.name} is behind no IOMMU")
    if param.handler is not None if pasid is None else pasid in param.owners:
        raise err(EBUSY, f"{dev.name} has a fault handler")
    if pasid is None:
        param.handler = handler, data
    else:
        param.owners[pasid] = handler, data


def iommu_unregister_device_fault_handler(dev: Device, *, pasid: int | None = None) -> None:
    """
    C: ``int iommu_unregister_device_fault_handler(struct device *)``.

    Raises:
        EINVAL: no IOMMU. EBUSY: requests wait for an answer.
    """
    param = _param(dev)
    if param is None:
        raise err(EINVAL, f"{dev.name} is behind no IOMMU")
    there = param.handler is not None if pasid is None else pasid in param.owners
    if there and any(f.pasid == pasid if pasid is not None else f.pasid not in param.owners for f in param.pending):
        raise err(EBUSY, f"page requests of {dev.name} wait for an answer")
    if pasid is None:
        param.handler = None
    else:
        param.owners.pop(pasid, None)


# ---- reports


def iommu_report_device_fault(dev: Device, fault: Fault) -> None:
    """
    C: ``int iommu_report_device_fault(struct device *, struct iommu_fault_event *)``; 6.8: ``struct iopf_fault *``.

    Raises:
        EINVAL: nobody hears of it (6.8 has answered by then). What the handler raises.
    """
    param = _param(dev)
    if param is None:
        raise err(EINVAL, f"{dev.name} is behind no IOMMU")
    handler = param.handler
    if fault.flags & IOMMU_FAULT_PAGE_REQUEST_PASID_VALID:
        handler = param.owners.get(fault.pasid, handler)
    if handler is not None:
        _call(param, handler, fault)
    elif dev.kernel.profile.iommu_sva_domain:
        _report_to_domain(dev, param, fault)
    else:
        raise err(EINVAL, f"nobody handles faults of {dev.name}")


def _call(param: FaultParam, handler: tuple[Handler, Any], fault: Fault) -> None:
    if fault.last:
        param.pending.append(fault)
    try:
        handler[0](fault, handler[1])
    except OSError:
        param.pending = [f for f in param.pending if f is not fault]
        raise


def _report_to_domain(dev: Device, param: FaultParam, fault: Fault) -> None:
    # drivers/iommu/io-pgfault.c:find_fault_handler()
    group = dev.iommu_group
    handle: PasidHandle | None = None
    if group is not None and fault.flags & IOMMU_FAULT_PAGE_REQUEST_PASID_VALID:
        handle = group.pasids.get(fault.pasid)
    if handle is None or handle.domain.iopf_handler is None or param.queue is None:
        param.info.unit.page_response(param.info, fault, IOMMU_PAGE_RESP_INVALID)
        raise err(EINVAL, f"nobody handles faults of PASID {fault.pasid} of {dev.name}")
    if not fault.last:
        param.partial.append(fault)
        return
    param.pending.append(fault)
    owner = handle.owner or handle
    iopf = IopfGroup(param.group_of(fault), lambda code: param.respond(fault, code), owner)
    try:
        handle.domain.iopf_handler(iopf)
    except OSError:
        param.queue.warn(dev, f"iopf with pasid {fault.pasid} aborted")
        param.respond(fault, IOMMU_PAGE_RESP_FAILURE)


# ---- answers


def page_response(dev: Device, msg: iommu_page_response) -> None:
    """
    Answer the group that *msg* names.

    C: ``int iommu_page_response(struct device *, struct iommu_page_response *)``

    Raises:
        ENODEV: no IOMMU. EINVAL: no handler; a version, flag or code that is unknown; nobody waits for this answer.
    """
    if dev.iommu is None:
        raise err(ENODEV, f"{dev.name} is behind no IOMMU")
    param = _param(dev)
    if param is None or (param.handler is None and not param.owners):
        raise err(EINVAL, f"{dev.name} has no fault handler")
    if msg.version != IOMMU_PAGE_RESP_VERSION_1 or msg.flags & ~IOMMU_PAGE_RESP_PASID_VALID:
        raise err(EINVAL, f"version {msg.version}, flags {msg.flags:#x}")
    # Linux hands a code on as it is, so its upper bits become those of the requester and the PASID of the descriptor;
    # where user space answers for good, IOMMUFD looks at it (drivers/iommu/iommufd/fault.c:iommufd_fault_fops_write())
    if msg.code not in (IOMMU_PAGE_RESP_SUCCESS, IOMMU_PAGE_RESP_INVALID, IOMMU_PAGE_RESP_FAILURE):
        raise err(EINVAL, f"code {msg.code:#x}")
    if not param.pending:
        dev.iommu.iopf_queue.warn(dev, "no pending PRQ, drop response")
        raise err(EINVAL, "no page request waits for an answer")
    for fault in param.pending:
        needs_pasid = fault.flags & IOMMU_FAULT_PAGE_RESPONSE_NEEDS_PASID
        has_pasid = msg.flags & IOMMU_PAGE_RESP_PASID_VALID
        if fault.grpid == msg.grpid and (not needs_pasid or (has_pasid and msg.pasid == fault.pasid)):
            param.respond(fault, msg.code)
            return
    raise err(EINVAL, f"no page request of group {msg.grpid} waits for an answer")


# ---- address spaces


def iommu_queue_iopf(fault: Fault, dev: Any) -> None:
    """
    The fault handler of a device whose PASIDs are processes' (before 6.8).

    C: ``int iommu_queue_iopf(struct iommu_fault *, void *cookie)``

    Raises:
        EOPNOTSUPP: no page request. ENODEV: the device is in no queue. ENOMEM: by fault injection.
    """
    if fault.type != IOMMU_FAULT_PAGE_REQ:
        raise err(EOPNOTSUPP)
    param = _param(dev)
    if param is None or param.queue is None:
        raise err(ENODEV, f"{dev.name} has no fault queue")
    if not fault.last:
        param.partial.append(fault)
        return
    faults = param.group_of(fault)
    dev.kernel.faults.alloc("iommu_queue_iopf")
    group = IopfGroup(faults, lambda code: _complete(dev, fault, code))
    param.queue.queue_work(lambda: _handle_group(group, dev.iommu.find_mm))


def _complete(dev: Device, fault: Fault, code: int) -> None:
    # drivers/iommu/io-pgfault.c:iopf_complete_group()
    flags = IOMMU_PAGE_RESP_PASID_VALID if fault.flags & NEEDS_PASID == NEEDS_PASID else 0
    msg = iommu_page_response(version=IOMMU_PAGE_RESP_VERSION_1, flags=flags, pasid=fault.pasid)
    msg.grpid, msg.code = fault.grpid, code
    page_response(dev, msg)


def serve_mm(queue: IopfQueue, group: IopfGroup, mm: Mm) -> None:
    """C: ``int iommu_sva_iopf_handler(struct iopf_group *)``."""
    queue.queue_work(lambda: _handle_group(group, lambda _pasid: mm))


def _handle_group(group: IopfGroup, find: Callable[[int], Mm | None]) -> None:
    """C: ``iopf_handle_group()``, ``iommu_sva_handle_iopf()``: after an error the others are not looked at."""
    status = int(IOMMU_PAGE_RESP_SUCCESS)
    for fault in group.faults:
        if status == IOMMU_PAGE_RESP_SUCCESS:
            status = handle_mm(fault, find(fault.pasid))
    group.respond(status)


def handle_mm(fault: Fault, mm: Mm | None) -> int:
    """Bring in the page as if the process had asked. C: ``iopf_handle_single()``, ``iommu_sva_handle_mm()``."""
    if not fault.flags & IOMMU_FAULT_PAGE_REQUEST_PASID_VALID or mm is None or mm.users <= 0:
        return int(IOMMU_PAGE_RESP_INVALID)
    mem, write = mm.mem, bool(fault.perm & IOMMU_FAULT_PERM_WRITE)
    try:
        if not hasattr(mem, "vmas"):  # a real process: an access brings the page in
            data = mem.read(fault.addr, 1)
            if write:
                mem.write(fault.addr, data)
            return int(IOMMU_PAGE_RESP_SUCCESS)
        vma = mem.vmas.find(fault.addr)
        wanted = fault.perm & (IOMMU_FAULT_PERM_READ | IOMMU_FAULT_PERM_WRITE | IOMMU_FAULT_PERM_EXEC)
        if vma is None or wanted & ~vma.vm_flags:  # VM_READ, VM_WRITE and VM_EXEC are these bits
            return int(IOMMU_PAGE_RESP_INVALID)
        mem.fault(fault.addr, write=write)
    except OSError:
        return int(IOMMU_PAGE_RESP_INVALID)
    return int(IOMMU_PAGE_RESP_SUCCESS)
