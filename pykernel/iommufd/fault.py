"""
Page faults of devices for user space to answer (drivers/iommu/iommufd/fault.c).

Whoever models a device's page requests delivers them to ``domain.iopf_handler`` as an :class:`IopfGroup`; the queue
that the page table was made with gets them, and its file is read and written by user space.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from errno import EINVAL, EOPNOTSUPP, ESPIPE
from typing import TYPE_CHECKING

from pykernel.errors import err
from pykernel.fs.anon import AnonFile, AnonInode
from pykernel.fs.fdtable import current_files
from pykernel.fs.vfs import PollTable
from pykernel.iommu.iopf import Fault, IopfGroup
from pykernel.iommufd.objects import IommufdCtx, IommufdObject
from pykernel.lib.xarray import XaFlags, XArray
from pykernel.uapi.linux.eventpoll import EPOLLIN, EPOLLOUT, EPOLLRDNORM
from pykernel.uapi.linux.iommufd import (
    IOMMUFD_PAGE_RESP_INVALID,
    IOMMUFD_PAGE_RESP_SUCCESS,
    iommu_fault_alloc,
    iommu_hwpt_page_response,
    iommu_hwpt_pgfault,
)

if TYPE_CHECKING:
    from pykernel.iommufd.device import IommufdDevice
    from pykernel.iommufd.hw_pagetable import HwPagetable
    from pykernel.iommufd.ucmd import Ucmd

__all__ = ["AttachHandle", "Fault", "IommufdFault", "IopfGroup", "fault_alloc", "fault_auto_response"]


@dataclass(eq=False)
class AttachHandle:
    """``struct iommufd_attach_handle``: an attachment; faults that came by it go with it."""

    idev: IommufdDevice


class IommufdFault(IommufdObject):
    """``struct iommufd_fault``: groups that wait to be read, and groups that were read and wait for an answer."""

    def __init__(self, ictx: IommufdCtx) -> None:
        super().__init__(ictx)
        self.deliver: deque[IopfGroup] = deque()
        self.response: XArray[IopfGroup] = XArray(XaFlags.ALLOC1, faults=ictx.kernel.faults, where="iommufd fault")
        self.queue = ictx.kernel.waitqueue()

    def handle(self, group: IopfGroup) -> None:
        """C: ``int iommufd_fault_iopf_handler(struct iopf_group *)``."""
        self.deliver.append(group)
        self.queue.wake_up()

    def destroy(self) -> None:
        """drivers/iommu/iommufd/fault.c:iommufd_fault_destroy(): who waits for an answer gets a bad one."""
        self.answer(lambda _: True)

    def answer(self, which: Callable[[IopfGroup], bool]) -> None:
        """Answer the groups that *which* chooses with IOMMU_PAGE_RESP_INVALID."""
        gone = [group for group in self.deliver if which(group)]
        for group in gone:
            self.deliver.remove(group)
        for cookie, group in list(self.response.for_each()):
            if which(group):
                self.response.erase(cookie)
                gone.append(group)
        for group in gone:
            group.respond(IOMMUFD_PAGE_RESP_INVALID)


class IommufdFaultFile(AnonFile):
    """The descriptor of a fault queue."""

    __slots__ = ("fault",)
    has_fasync = read_iter = write_iter = False

    def __init__(self, fault: IommufdFault) -> None:
        super().__init__(AnonInode(fault.ictx.kernel, 0, "iommufd-pgfault"), os.O_RDWR)
        self.fault = fault
        fault.users += 1
        fault.ictx.get_ref()

    def read(self, count: int) -> bytes:
        """
        Whole groups, as many as fit; nothing when none waits.

        Raises:
            ESPIPE: no whole number of faults. EINVAL: the first group does not fit.
        """
        # drivers/iommu/iommufd/fault.c:iommufd_fault_fops_read()
        size, fault = iommu_hwpt_pgfault.sizeof(), self.fault
        if count % size:
            raise err(ESPIPE, f"{count} bytes are no whole number of faults")
        out = b""
        while fault.deliver:
            group = fault.deliver[0]
            if len(group.faults) * size > count - len(out):
                if not out:
                    raise err(EINVAL, f"{len(group.faults)} faults belong together, {count // size} fit")
                break
            group.cookie = fault.response.alloc(group)
            fault.deliver.popleft()
            out += b"".join(_message(group, f) for f in group.faults)
        return out

    def write(self, data: bytes) -> int:
        """
        Answers; how many bytes of them were good.

        Raises:
            ESPIPE: no whole number of answers. EINVAL: the first has no known code or cookie.
        """
        # drivers/iommu/iommufd/fault.c:iommufd_fault_fops_write()
        size, done = iommu_hwpt_page_response.sizeof(), 0
        if len(data) % size:
            raise err(ESPIPE, f"{len(data)} bytes are no whole number of answers")
        while done < len(data):
            answer = iommu_hwpt_page_response.from_bytes(data[done : done + size])
            good = answer.code in (IOMMUFD_PAGE_RESP_SUCCESS, IOMMUFD_PAGE_RESP_INVALID)
            group = self.fault.response.erase(answer.cookie) if good else None
            if group is None:
                if not done:
                    raise err(EINVAL, f"cookie {answer.cookie}, code {answer.code}")
                break
            group.respond(answer.code)
            done += size
        return done

    def poll(self, pt: PollTable) -> int:
        """drivers/iommu/iommufd/fault.c:iommufd_fault_fops_poll()."""
        pt.poll_wait(self.fault.queue)
        return EPOLLOUT | (EPOLLIN | EPOLLRDNORM if self.fault.deliver else 0)

    def release(self) -> None:
        """drivers/iommu/iommufd/fault.c:iommufd_fault_fops_release()."""
        self.fault.users -= 1
        self.fault.ictx.put_ref()


def _message(group: IopfGroup, fault: Fault) -> bytes:
    # drivers/iommu/iommufd/fault.c:iommufd_compose_fault_message()
    assert group.handle is not None
    dev_id, cookie = group.handle.idev.id, group.cookie
    row = iommu_hwpt_pgfault(
        flags=fault.flags, dev_id=dev_id, pasid=fault.pasid, grpid=fault.grpid, perm=fault.perm, addr=fault.addr
    )
    row.cookie = cookie
    return bytes(row)


def fault_auto_response(hwpt: HwPagetable, handle: AttachHandle | None) -> None:
    """C: ``void iommufd_auto_response_faults(...)``: a device leaves *hwpt*; its faults get a bad answer."""
    if hwpt.fault is not None:
        hwpt.fault.answer(lambda group: group.handle is handle)


def fault_alloc(ucmd: Ucmd, cmd: iommu_fault_alloc) -> None:
    """IOMMU_FAULT_QUEUE_ALLOC. Raises EOPNOTSUPP: a flag. EMFILE, EFAULT, ENOMEM."""
    if cmd.flags:
        raise err(EOPNOTSUPP, f"flags {cmd.flags:#x}")
    ictx, fds = ucmd.ictx, current_files(ucmd.kernel)
    fault = IommufdFault(ictx)
    file = IommufdFaultFile(fault)
    try:
        with fds.unused_fd() as fd:
            cmd.out_fault_id, cmd.out_fault_fd = fault.id, fd
            ucmd.respond(cmd)
            fds.fd_install(fd, file, cloexec=True)
    except OSError:
        file.put()
        ictx.abort_and_destroy(fault)
        raise
    ictx.finalize(fault)
