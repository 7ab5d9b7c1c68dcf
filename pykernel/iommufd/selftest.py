"""IOMMU_TEST_CMD, of a kernel with CONFIG_IOMMUFD_TEST (drivers/iommu/iommufd/selftest.c): mocks for tests."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from errno import EBADE, EBADFD, EFAULT, EINVAL, EIO, ENOENT, ENOMEM, EOPNOTSUPP, EOVERFLOW
from typing import TYPE_CHECKING, Any, Final, TypeVar

from pykernel.errors import err
from pykernel.fs.anon import AnonFile, AnonInode
from pykernel.fs.fdtable import current_files
from pykernel.iommufd.access import IommufdAccess, iommufd_access_create, iommufd_access_destroy
from pykernel.iommufd.device import IommufdDevice, iommufd_device_bind, iommufd_device_unbind
from pykernel.iommufd.fault import Fault
from pykernel.iommufd.hw_pagetable import HwptNested, HwptPaging
from pykernel.iommufd.interval import ULONG_MAX
from pykernel.iommufd.ioas import IommufdIoas
from pykernel.iommufd.mock import MockDev, MockDomain, MockNestedDomain
from pykernel.iommufd.objects import IommufdCtx, IommufdObject
from pykernel.iommufd.selftest_uapi import (
    IOMMU_TEST_CMD,
    MOCK_ACCESS_RW_SLOW_PATH,
    MOCK_ACCESS_RW_WRITE,
    MOCK_FLAGS_ACCESS_CREATE_NEEDS_PIN_PAGES,
    MOCK_FLAGS_ACCESS_WRITE,
    MOCK_IO_PAGE_SIZE,
    MockOp,
    access_pages,
    access_rw,
    add_reserved,
    check_iotlb,
    check_map,
    check_refs,
    create_access,
    dirty,
    iommu_test_cmd,
    mock_domain,
    one_id,
    trigger_iopf,
)
from pykernel.lib.locking import Mutex
from pykernel.mm.phys import PIN, PhysMem
from pykernel.mm.uaccess import PAGE_SIZE, copy_from_user, copy_to_user
from pykernel.uapi.linux.iommufd import IOMMU_PGFAULT_FLAGS_LAST_PAGE, IOMMU_PGFAULT_FLAGS_PASID_VALID

if TYPE_CHECKING:
    from pykernel.iommufd.ucmd import Ucmd
    from pykernel.kernel import Kernel
    from pykernel.uapi.struct import Struct

__all__ = ["IOMMU_TEST_CMD", "iommufd_test"]

LARGEST: Final = 16 << 20
NO_PASID: Final = 0

S = TypeVar("S", bound="Struct")


class Call:
    """One command, and the struct of its operation."""

    def __init__(self, ucmd: Ucmd, cmd: iommu_test_cmd) -> None:
        self.ucmd, self.cmd = ucmd, cmd
        self.kernel: Kernel = ucmd.kernel
        self.ictx: IommufdCtx = ucmd.ictx

    def args(self, struct: type[S]) -> S:
        """What the operation is given."""
        return struct.from_bytes(bytes(self.cmd)[iommu_test_cmd.offsetof("args") :][: struct.sizeof()])

    def respond(self, args: Struct) -> None:
        """Give *args* back. Raises EFAULT."""
        data, at = bytearray(bytes(self.cmd)), iommu_test_cmd.offsetof("args")
        data[at : at + len(bytes(args))] = bytes(args)
        self.ucmd.respond(iommu_test_cmd.from_bytes(bytes(data)))


# ---- mock devices


class SelftestObj(IommufdObject):
    """``struct selftest_obj``: a mock device that is bound and attached."""

    mock_dev: MockDev
    idev: IommufdDevice

    def create(self, flags: int, pt_id: int) -> int:
        """A mock device, attached to *pt_id*; the number of its page table. Raises what it meets on the way."""
        with ExitStack() as undo:
            self.mock_dev = MockDev(self.ictx.kernel, flags)
            undo.callback(self.mock_dev.destroy)
            self.idev = iommufd_device_bind(self.ictx, self.mock_dev, holds_ctx=False)
            undo.callback(iommufd_device_unbind, self.idev)
            pt_id = self.idev.attach(pt_id)
            undo.pop_all()
        return pt_id

    def destroy(self) -> None:
        """drivers/iommu/iommufd/selftest.c:iommufd_selftest_destroy()."""
        self.idev.detach()
        iommufd_device_unbind(self.idev)
        self.mock_dev.destroy()


def _mock_domain(call: Call) -> None:
    # drivers/iommu/iommufd/selftest.c:iommufd_test_mock_domain()
    args = call.args(mock_domain)
    sobj = SelftestObj(call.ictx)
    try:
        flags = args.dev_flags if call.cmd.op == MockOp.MOCK_DOMAIN_FLAGS else 0
        args.out_hwpt_id = sobj.create(flags, call.cmd.id)
    except OSError:
        call.ictx.abort(sobj)
        raise
    args.out_stdev_id, args.out_idev_id = sobj.id, sobj.idev.id
    try:
        call.respond(args)
    except OSError:
        call.ictx.abort_and_destroy(sobj)
        raise
    call.ictx.finalize(sobj)


def _mock_domain_replace(call: Call) -> None:
    args = call.args(one_id)
    with call.ictx.get(call.cmd.id, SelftestObj) as sobj:
        args.id = sobj.idev.replace(args.id)
        call.respond(args)


def _add_reserved(call: Call) -> None:
    args = call.args(add_reserved)
    last = args.start + args.length - 1
    if not args.length or last > ULONG_MAX:
        raise err(EOVERFLOW if args.length else EINVAL)
    with call.ictx.get(call.cmd.id, IommufdIoas) as ioas, ioas.iopt.iova_lock.write():
        ioas.iopt.reserve(args.start, last, None)


def _trigger_iopf(call: Call) -> None:
    args = call.args(trigger_iopf)
    with call.ictx.get(args.dev_id, IommufdDevice) as idev:
        if not isinstance(idev.dev, MockDev):
            raise err(EINVAL)
        flags = int(IOMMU_PGFAULT_FLAGS_LAST_PAGE)
        flags |= IOMMU_PGFAULT_FLAGS_PASID_VALID if args.pasid != NO_PASID else 0
        fault = Fault(flags, args.pasid, args.grpid, args.perm, args.addr)
        idev.report_fault([fault], lambda _: None)


# ---- looking into domains and pages


def _page_of(kernel: Kernel, uptr: int) -> int:
    """Where the caller's page is now. C: ``get_user_pages_fast()``. Raises EFAULT."""
    mm = kernel.current.mm
    if mm is None:
        raise err(EFAULT)
    runs = mm.mem.pin_user_pages(uptr & -PAGE_SIZE, 1, write=False)
    mm.mem.unpin_user_pages(runs)
    pa: int = runs[0].pa
    return pa


def _paging(call: Call) -> MockDomain:
    hwpt = call.ictx.find(call.cmd.id, HwptPaging)
    if not isinstance(hwpt.domain, MockDomain):
        raise err(EINVAL)
    return hwpt.domain


def _check_map(call: Call) -> None:
    # drivers/iommu/iommufd/selftest.c:iommufd_test_md_check_pa()
    args = call.args(check_map)
    if (args.iova | args.length | args.uptr) % MOCK_IO_PAGE_SIZE or args.uptr + args.length > ULONG_MAX:
        raise err(EINVAL)
    domain = _paging(call)
    for at in range(0, args.length, MOCK_IO_PAGE_SIZE):
        uptr = args.uptr + at
        if domain.iova_to_phys(args.iova + at) != _page_of(call.kernel, uptr) + uptr % PAGE_SIZE:
            raise err(EINVAL, f"{args.iova + at:#x} is not the page at {uptr:#x}")


def _check_refs(call: Call) -> None:
    # drivers/iommu/iommufd/selftest.c:iommufd_test_md_check_refs()
    args = call.args(check_refs)
    if (args.length | args.uptr) % PAGE_SIZE or args.uptr + args.length > ULONG_MAX:
        raise err(EINVAL)
    phys = call.kernel.sub(PhysMem)
    for uptr in range(args.uptr, args.uptr + args.length, PAGE_SIZE):
        pa = _page_of(call.kernel, uptr)
        if phys.is_ram(pa) and phys.refs[pa >> 12] // PIN != args.refs:  # a real process's pages have no such count
            raise err(EIO, f"{uptr:#x} is not pinned {args.refs} times")


def _check_iotlb(call: Call) -> None:
    args = call.args(check_iotlb)
    domain = call.ictx.find(call.cmd.id, HwptNested).domain
    if not isinstance(domain, MockNestedDomain) or args.id >= len(domain.iotlb) or domain.iotlb[args.id] != args.iotlb:
        raise err(EINVAL)


def _dirty(call: Call) -> None:
    # drivers/iommu/iommufd/selftest.c:iommufd_test_dirty()
    args = call.args(dirty)
    size = args.page_size
    if not size or not args.length or args.iova % size or args.length % size or not args.uptr:
        raise err(EINVAL)
    count = args.length // size
    if count > LARGEST * 8:
        raise err(EOVERFLOW)
    domain = _paging(call)
    if not domain.tracking:
        raise err(EINVAL, "dirty tracking is off")
    bits = int.from_bytes(copy_from_user(call.kernel, args.uptr, -(-count // 8)), "little")
    numbers = ((args.iova + n * size) // size for n in range(count) if bits >> n & 1)
    args.out_nr_dirty = sum(map(domain.mark_dirty, numbers))
    call.respond(args)


# ---- accesses


@dataclass(frozen=True)
class Item:
    """``struct selftest_access_item``: pages that an access has pinned."""

    id: int
    iova: int
    length: int


class AccessFile(AnonFile):
    """``struct selftest_access``: an access that user space holds by a descriptor."""

    __slots__ = ("access", "items", "lock", "next_id", "pins")
    has_fasync = False
    access: IommufdAccess

    def __init__(self, kernel: Kernel, *, pins: bool) -> None:
        super().__init__(AnonInode(kernel, 0, "iommufd_test_staccess"), os.O_RDWR)
        self.pins = pins
        self.items: list[Item] = []
        self.next_id = 0
        self.lock = Mutex(kernel, "staccess.lock")

    def unmap(self, iova: int, length: int) -> None:
        """drivers/iommu/iommufd/selftest.c:iommufd_test_access_unmap()."""
        with self.lock:
            for item in list(self.items):
                if item.iova < iova + length and iova < item.iova + item.length:
                    self._unpin(item)

    def _unpin(self, item: Item) -> None:
        self.items.remove(item)
        self.access.unpin_pages(item.iova, item.length)

    def destroy_item(self, id: int) -> None:
        """Raises ENOENT."""
        with self.lock:
            item = next((item for item in self.items if item.id == id), None)
            if item is None:
                raise err(ENOENT)
            self._unpin(item)

    def pin(self, kernel: Kernel, iova: int, length: int, uptr: int, flags: int) -> int:
        """The number of the pinned pages. Raises EBADE: they are not what is at *uptr*; what pinning raises."""
        with self.lock:
            pages = self.access.pin_pages(iova, length, flags & MOCK_FLAGS_ACCESS_WRITE)
            start = uptr - iova % PAGE_SIZE
            if uptr and any(_page_of(kernel, start + n * PAGE_SIZE) != pa for n, pa in enumerate(pages)):
                self.access.unpin_pages(iova, length)
                raise err(EBADE)
            item = Item(self.next_id, iova, length)
            self.next_id += 1
            self.items.append(item)
        return item.id

    def release(self) -> None:
        """drivers/iommu/iommufd/selftest.c:iommufd_test_staccess_release()."""
        if hasattr(self, "access"):
            self.unmap(0, ULONG_MAX)
            iommufd_access_destroy(self.access)


def _access_of(call: Call) -> AccessFile:
    # drivers/iommu/iommufd/selftest.c:iommufd_access_get(): no descriptor is EBADFD, too
    file = current_files(call.kernel).files.get(call.cmd.id)
    if not isinstance(file, AccessFile):
        raise err(EBADFD)
    return file


def _create_access(call: Call) -> None:
    args = call.args(create_access)
    if args.flags & ~MOCK_FLAGS_ACCESS_CREATE_NEEDS_PIN_PAGES:
        raise err(EOPNOTSUPP)
    file = AccessFile(call.kernel, pins=bool(args.flags))
    fds = current_files(call.kernel)
    try:
        with fds.unused_fd() as args.out_access_fd:
            access = iommufd_access_create(call.ictx, file.unmap, needs_pin_pages=file.pins)
            try:
                access.attach(call.cmd.id)
                call.respond(args)
            except OSError:
                iommufd_access_destroy(access)
                raise
            file.access = access
            fds.fd_install(args.out_access_fd, file, cloexec=True)
    except OSError:
        file.put()
        raise


def _access_replace_ioas(call: Call) -> None:
    _access_of(call).access.replace(call.args(one_id).id)


def _access_pages(call: Call) -> None:
    args = call.args(access_pages)
    if args.length > LARGEST:
        raise err(ENOMEM)
    if args.flags & ~MOCK_FLAGS_ACCESS_WRITE:
        raise err(EOPNOTSUPP)
    file = _access_of(call)
    if not file.pins:
        raise err(EOPNOTSUPP)
    args.out_access_pages_id = file.pin(call.kernel, args.iova, args.length, args.uptr, args.flags)
    try:
        call.respond(args)
    except OSError:
        file.destroy_item(args.out_access_pages_id)
        raise


def _access_rw(call: Call) -> None:
    args = call.args(access_rw)
    if args.length > LARGEST:
        raise err(ENOMEM)
    if args.flags & ~(MOCK_ACCESS_RW_WRITE | MOCK_ACCESS_RW_SLOW_PATH):
        raise err(EOPNOTSUPP)
    file, buf = _access_of(call), bytearray(args.length)
    if args.flags & MOCK_ACCESS_RW_WRITE:
        buf[:] = copy_from_user(call.kernel, args.uptr, args.length)
    file.access.rw(args.iova, buf, args.flags)
    if not args.flags & MOCK_ACCESS_RW_WRITE:
        copy_to_user(call.kernel, args.uptr, buf)


def _destroy_access_pages(call: Call) -> None:
    _access_of(call).destroy_item(call.args(one_id).id)


def _memory_limit(call: Call) -> None:
    # how much the kernel takes at once for its own lists; here nothing depends on it
    if call.args(one_id).id < 12:
        raise err(EINVAL)


OPS: Final[dict[int, Callable[[Call], Any]]] = {
    MockOp.ADD_RESERVED: _add_reserved,
    MockOp.MOCK_DOMAIN: _mock_domain,
    MockOp.MOCK_DOMAIN_FLAGS: _mock_domain,
    MockOp.MOCK_DOMAIN_REPLACE: _mock_domain_replace,
    MockOp.MD_CHECK_MAP: _check_map,
    MockOp.MD_CHECK_REFS: _check_refs,
    MockOp.MD_CHECK_IOTLB: _check_iotlb,
    MockOp.CREATE_ACCESS: _create_access,
    MockOp.ACCESS_REPLACE_IOAS: _access_replace_ioas,
    MockOp.ACCESS_PAGES: _access_pages,
    MockOp.ACCESS_RW: _access_rw,
    MockOp.DESTROY_ACCESS_PAGES: _destroy_access_pages,
    MockOp.SET_TEMP_MEMORY_LIMIT: _memory_limit,
    MockOp.DIRTY: _dirty,
    MockOp.TRIGGER_IOPF: _trigger_iopf,
}


def iommufd_test(ucmd: Ucmd, cmd: iommu_test_cmd) -> None:
    """IOMMU_TEST_CMD. Raises EOPNOTSUPP: no such operation; what it raises."""
    op = OPS.get(cmd.op)
    if op is None:
        raise err(EOPNOTSUPP, f"operation {cmd.op}")
    op(Call(ucmd, cmd))
