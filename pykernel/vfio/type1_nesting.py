"""
Containers of type VFIO_TYPE1_NESTING_IOMMU, whose user binds its guest's page tables (vfio_iommu_type1.c of
"vfio: expose virtual Shared Virtual Addressing to VMs", version 8).

Linux takes such a container's first group only where the IOMMU can nest, which VT-d's driver never said. The series
changes that; it was not merged, so here it is so only while the module ``ioasid_user`` is loaded, which it needs.

Where the series has one group a container, here are many: what is bound is bound to each device, or to none. Mediated
devices of one parent are one device to the IOMMU.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from errno import EBUSY, EINVAL, EOPNOTSUPP, ESPIPE
from typing import TYPE_CHECKING, Any

from pykernel.errors import err
from pykernel.fs.anon import AnonFile, AnonInode
from pykernel.fs.fdtable import current_files
from pykernel.iommu.gpasid import (
    GuestPasids,
    iommu_sva_bind_gpasid,
    iommu_sva_unbind_gpasid,
    nesting_supported,
    unbind_all,
)
from pykernel.iommu.gpasid_data import copy_bind_data, copy_invalidate_info
from pykernel.iommu.gpasid_fault import answer_all, iommu_page_response
from pykernel.iommu.gpasid_invalidate import iommu_cache_invalidate
from pykernel.iommu.ioasid import Ioasid
from pykernel.iommu.sva import iommu_dev_disable_feature, iommu_dev_enable_feature
from pykernel.mm.uaccess import copy_from_user
from pykernel.pci.dev import PciDev
from pykernel.uapi.linux.eventpoll import EPOLLIN, EPOLLOUT, EPOLLRDNORM
from pykernel.uapi.linux.iommu import IOMMU_PASID_FORMAT_INTEL_VTD, iommu_fault
from pykernel.uapi.rfc import vfio_nesting as n
from pykernel.vfio.type1_mdev import iommu_devices

if TYPE_CHECKING:
    from pykernel.base.core import Device
    from pykernel.fs.vfs import PollTable
    from pykernel.iommu.gpasid import SvmDev
    from pykernel.iommu.iommu import IommuDomain
    from pykernel.kernel import Kernel
    from pykernel.vfio.type1_state import VfioDomain, VfioIommu, VfioIommuGroup

__all__ = ["FaultQueue", "enable_nesting", "leave", "nesting_info", "nesting_op", "supports_nesting"]


def supports_nesting(kernel: Kernel) -> bool:
    """Whether this kernel has the series."""
    return kernel.sub(Ioasid).for_users


def enable_nesting(kernel: Kernel, domain: IommuDomain) -> None:
    """C: ``int iommu_enable_nesting(struct iommu_domain *)``. Raises EINVAL: the IOMMU has no nesting."""
    if not supports_nesting(kernel) or not nesting_supported(domain.unit):
        raise err(EINVAL, "the IOMMU has no nesting")
    domain.nesting = True


def nesting_info(data: VfioIommu) -> n.iommu_nesting_info | None:
    """What the guest's IOMMU may be; None: nothing is nested. C: ``intel_iommu_get_nesting_info()``."""
    domain = next((d.domain for d in data.domain_list if d.domain.nesting), None)
    if domain is None:
        return None
    unit: Any = domain.unit
    vtd = n.iommu_nesting_info_vtd(cap_reg=unit.caps.cap, ecap_reg=unit.caps.ecap)
    return n.iommu_nesting_info(
        argsz=n.iommu_nesting_info.sizeof(),
        format=IOMMU_PASID_FORMAT_INTEL_VTD,
        features=n.IOMMU_NESTING_FEAT_BIND_PGTBL | n.IOMMU_NESTING_FEAT_CACHE_INVLD,
        addr_width=unit.address_width,
        pasid_bits=data.kernel.machine.iommu.pasid_bits,
        vendor=n.iommu_nesting_info_vendor(vtd=vtd),
    )


def _devices(data: VfioIommu) -> list[tuple[Device, IommuDomain, int]]:
    """The IOMMU's devices of a container, each with its domain and the PASID of what has none; lock held."""
    found: dict[Device, tuple[IommuDomain, int]] = {}
    for domain in data.domain_list:
        for group in domain.group_list:
            for dev, pasid in iommu_devices(group).items():
                found.setdefault(dev, (domain.domain, pasid))
    return [(dev, domain, pasid) for dev, (domain, pasid) in found.items()]


def nesting_op(data: VfioIommu, arg: int) -> int:
    """
    VFIO_IOMMU_NESTING_OP.

    Raises:
        EFAULT. EINVAL: argsz, a flag, no such operation. EOPNOTSUPP: the container does not nest.
        What :func:`iommu_sva_bind_gpasid` and its like do.
    """
    kernel, head = data.kernel, n.vfio_iommu_type1_nesting_op.sizeof()
    op = n.vfio_iommu_type1_nesting_op.from_bytes(copy_from_user(kernel, arg, head))
    if op.argsz < head or op.flags & ~n.VFIO_NESTING_OP_MASK:
        raise err(EINVAL, f"argsz {op.argsz}, flags {op.flags:#x}")
    method = _OPS.get(op.flags)
    if method is None:
        raise err(EINVAL, f"operation {op.flags}")
    with data.lock:
        if not any(d.domain.nesting for d in data.domain_list):
            raise err(EOPNOTSUPP, "the container does not nest")
        return method(data, arg + head)


def _bind(data: VfioIommu, uptr: int) -> int:
    # C: vfio_iommu_handle_pgtbl_op(). What was bound by this call is unbound when one device fails: the series unbinds
    # all, also what an earlier call had bound. It reads the struct for each device; but binding sleeps, and its user
    # can change what stands there
    done: list[tuple[Device, IommuDomain, int]] = []
    what = copy_bind_data(data.kernel, uptr)
    try:
        for dev, domain, pasid in _devices(data):
            iommu_sva_bind_gpasid(domain, dev, what, default_pasid=pasid)
            done.append((dev, domain, pasid))
    except OSError:
        for dev, domain, pasid in reversed(done):
            with suppress(OSError):  # the PASID was freed meanwhile: its entries go with it
                iommu_sva_unbind_gpasid(domain, dev, what, default_pasid=pasid)
        raise
    return 0


def _unbind(data: VfioIommu, uptr: int) -> int:
    what = copy_bind_data(data.kernel, uptr)
    for dev, domain, pasid in _devices(data):
        iommu_sva_unbind_gpasid(domain, dev, what, default_pasid=pasid)
    return 0


def _invalidate(data: VfioIommu, uptr: int) -> int:
    # the series forgets all errors of this one; here somebody hears of it when no device has done it. Of several, those
    # that came after the PASID was bound have nothing to forget
    failure: OSError | None = None
    done = 0
    what = copy_invalidate_info(data.kernel, uptr)
    for dev, domain, pasid in _devices(data):
        try:
            iommu_cache_invalidate(domain, dev, what, default_pasid=pasid)
            done += 1
        except OSError as e:
            failure = failure or e
    if failure is not None and not done:
        raise failure
    return 0


def _fault_fd(data: VfioIommu, _uptr: int) -> int:
    if data.faults is not None:
        raise err(EBUSY, "the container has a descriptor for page requests")
    files = current_files(data.kernel)
    queue = FaultQueue(data)
    file = FaultFile(queue)
    try:
        with files.unused_fd() as fd:
            files.fd_install(fd, file, cloexec=True)
    except OSError:
        file.put()
        raise
    data.faults = queue
    queue.listen()
    return fd


_OPS: dict[int, Callable[[VfioIommu, int], int]] = {
    n.VFIO_IOMMU_NESTING_OP_BIND_PGTBL: _bind,
    n.VFIO_IOMMU_NESTING_OP_UNBIND_PGTBL: _unbind,
    n.VFIO_IOMMU_NESTING_OP_CACHE_INVLD: _invalidate,
    n.VFIO_IOMMU_NESTING_OP_FAULT_FD: _fault_fd,
}


def leave(data: VfioIommu, domain: VfioDomain, group: VfioIommuGroup) -> None:
    """*group* leaves *domain*: what is bound to devices that no other group has is unbound. C: in detach_group()."""
    if not domain.domain.nesting:
        return
    if domain.group_list == [group]:
        data.kernel.sub(GuestPasids).handlers.pop(domain.domain, None)
    others = {dev for g in domain.group_list if g is not group for dev in iommu_devices(g)}
    for dev in iommu_devices(group):
        if dev not in others:
            unbind_all(dev, domain.domain)
            if data.faults is not None:
                data.faults.forget(dev)


class FaultQueue:
    """
    Page requests of a container's devices that wait to be read.

    Attributes:
        enabled: devices whose page requests it switched on; none where the IOMMU's driver does that by itself.
    """

    def __init__(self, data: VfioIommu) -> None:
        self.data, self.kernel = data, data.kernel
        self.waiting: deque[tuple[SvmDev, iommu_fault]] = deque()
        self.queue = data.kernel.waitqueue()
        self.enabled: list[PciDev] = []

    def listen(self) -> None:
        """Page requests of all devices that the container has now come here."""
        handlers = self.kernel.sub(GuestPasids).handlers
        for dev, domain, _ in _devices(self.data):
            handlers[domain] = self.handle
            if self.kernel.profile.vtd_iopf_enables_pri and isinstance(dev, PciDev) and dev not in self.enabled:
                with suppress(OSError):  # its own driver has done so, or it has none
                    iommu_dev_enable_feature(dev, "iopf")
                    self.enabled.append(dev)

    def forget(self, dev: Device) -> None:
        """*dev* leaves the container."""
        if isinstance(dev, PciDev) and dev in self.enabled:
            self.enabled.remove(dev)
            with suppress(OSError):
                iommu_dev_disable_feature(dev, "iopf")

    def handle(self, sdev: SvmDev, fault: iommu_fault) -> None:
        """C: ``iommu_dev_fault_handler_t``."""
        self.waiting.append((sdev, fault))
        self.queue.wake_up()

    def close(self) -> None:
        """Nobody reads any more: what waits, and what was read, gets a bad answer; so does what will come."""
        core = self.kernel.sub(GuestPasids)
        for domain in [d for d, handler in core.handlers.items() if handler == self.handle]:
            del core.handlers[domain]
            for sdev in [*(s for svm in core.svms.values() for s in svm.devs.values()), *core.defaults.values()]:
                if sdev.domain is domain:
                    answer_all(sdev)
        self.waiting.clear()
        for dev in list(self.enabled):
            self.forget(dev)
        if self.data.faults is self:
            self.data.faults = None

    def group_of(self, sdev: SvmDev) -> int:
        """The number of the IOMMU group by which its device is in the container."""
        for domain in self.data.domain_list:
            for group in domain.group_list:
                if sdev.dev in iommu_devices(group):
                    return group.iommu_group.id
        return 0

    def device(self, group: int) -> Device:
        """The IOMMU's device of group *group*. Raises EINVAL: it is not in the container."""
        for domain in self.data.domain_list:
            for g in domain.group_list:
                if g.iommu_group.id == group:
                    return next(iter(iommu_devices(g)))
        raise err(EINVAL, f"group {group} is not in the container")


class FaultFile(AnonFile):
    """The descriptor of VFIO_IOMMU_NESTING_OP_FAULT_FD; whole records only, and nothing is read when none waits."""

    __slots__ = ("faults",)
    has_fasync = read_iter = write_iter = False

    def __init__(self, faults: FaultQueue) -> None:
        super().__init__(AnonInode(faults.kernel, 0, "vfio-nesting-fault"), os.O_RDWR)
        self.faults = faults

    def read(self, count: int) -> bytes:
        """``struct vfio_nesting_fault``, as many as fit. Raises ESPIPE: no whole number of them."""
        size = n.vfio_nesting_fault.sizeof()
        if count % size:
            raise err(ESPIPE, f"{count} bytes are no whole number of faults")
        out = b""
        while self.faults.waiting and len(out) < count:
            sdev, fault = self.faults.waiting.popleft()
            row = n.vfio_nesting_fault(group=self.faults.group_of(sdev))
            row.fault = fault
            out += bytes(row)
        return out

    def write(self, data: bytes) -> int:
        """
        ``struct vfio_nesting_response``; how many bytes of them were good.

        Raises:
            ESPIPE: no whole number of them. What :func:`iommu_page_response` says of the first.
        """
        size, done = n.vfio_nesting_response.sizeof(), 0
        core = self.faults.kernel.sub(GuestPasids)
        if len(data) % size:
            raise err(ESPIPE, f"{len(data)} bytes are no whole number of answers")
        while done < len(data):
            row = n.vfio_nesting_response.from_bytes(data[done : done + size])
            try:
                iommu_page_response(core, self.faults.device(row.group), row.response)
            except OSError:
                if not done:
                    raise
                break
            done += size
        return done

    def poll(self, pt: PollTable) -> int:
        """There is always room for answers."""
        pt.poll_wait(self.faults.queue)
        return EPOLLOUT | (EPOLLIN | EPOLLRDNORM if self.faults.waiting else 0)

    def release(self) -> None:
        """The last descriptor is closed."""
        self.faults.close()
