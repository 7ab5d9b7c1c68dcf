"""
Character devices: /dev/dsa/wq<D>.<W> and /dev/iax/..., and the driver ``user`` (drivers/dma/idxd/cdev.c).
"""

from __future__ import annotations

from errno import EBUSY, EFAULT, EINVAL, ENODEV, ENXIO, EOPNOTSUPP, EPERM
from typing import TYPE_CHECKING, Any

from pykernel.base.bus import Driver
from pykernel.base.core import cdev_device_add, cdev_device_del
from pykernel.drivers.idxd.bind import drv_disable_wq, drv_enable_wq
from pykernel.drivers.idxd.device import device_drain_pasid, portal_offset, wq_disable_pasid, wq_drain, wq_set_pasid
from pykernel.drivers.idxd.idxd import DESC_SIZE, DevType, IdxdDev, IdxdState, IdxdWq, WqType
from pykernel.drivers.idxd.registers import IDXD_PORTAL_SIZE, IDXD_WQ_BAR
from pykernel.drivers.idxd.submit import portal_write
from pykernel.drivers.idxd.sysfs import batch_unsafe
from pykernel.errors import Oops, err
from pykernel.fs.chardev import MAJOR, MKDEV, alloc_chrdev_region, unregister_chrdev_region
from pykernel.fs.sysfs import AttrGroup
from pykernel.fs.vfs import PAGE_SIZE, File, Inode, PollTable, no_llseek
from pykernel.iommu.sva import iommu_sva_bind_device, iommu_sva_unbind_device
from pykernel.lib.idr import Ida
from pykernel.mm.vma import VM_DONTCOPY, Vma
from pykernel.pci.iomem import MappedIo
from pykernel.task import CAP_SYS_RAWIO
from pykernel.uapi.linux.eventpoll import EPOLLIN, EPOLLNVAL, EPOLLRDNORM
from pykernel.uapi.linux.idxd import (
    DSA_OPCODE_BATCH,
    IDXD_SCMD_CDEV_ERR,
    IDXD_SCMD_WQ_NO_DRV_NAME,
    IDXD_SCMD_WQ_USER_NO_IOMMU,
)

if TYPE_CHECKING:
    from pykernel.kernel import Kernel

MINORMASK = (1 << 20) - 1


class CdevContext:
    """``struct idxd_cdev_context``: the major and the minors of one kind of accelerator."""

    def __init__(self, kernel: Kernel, name: str) -> None:
        self.kernel = kernel
        self.devt = alloc_chrdev_region(kernel, 0, MINORMASK, name)
        self.minor_ida = Ida()

    @property
    def major(self) -> int:
        """C: ``int idxd_cdev_get_major(struct idxd_device *idxd)``."""
        return MAJOR(self.devt)

    def remove(self) -> None:
        """C: ``void idxd_cdev_remove(void)``, one of the two."""
        unregister_chrdev_region(self.kernel, self.devt, MINORMASK)


class IdxdCdev(IdxdDev):
    """``struct idxd_cdev``: the character device of an enabled user queue."""

    dev_type = DevType.CDEV

    def __init__(self, wq: IdxdWq, context: CdevContext) -> None:
        idxd = wq.idxd
        self.context = context
        self.minor = context.minor_ida.alloc_max(MINORMASK)
        super().__init__(
            wq.kernel,
            f"{idxd.data.name_prefix}/wq{idxd.id}.{wq.id}",
            parent=wq,
            bus=idxd.bus,
            type="idxd_cdev",
            devt=MKDEV(context.major, self.minor),
        )


class FileDev(IdxdDev):
    """``file<N>``: an open file as a device below the queue's character device."""

    dev_type = DevType.CDEV_FILE
    attrs = AttrGroup("cr_faults", "cr_fault_failures", "pid")

    def __init__(self, ctx: UserContext, id: int) -> None:
        cdev = ctx.wq.idxd_cdev
        if cdev is None:
            # drivers/dma/idxd/cdev.c:idxd_cdev_open() waits for wq_lock while the queue is unbound, and does not look
            raise Oops(f"unable to handle kernel NULL pointer dereference: cdev_dev() of {ctx.wq.name}")
        super().__init__(ctx.wq.kernel, f"file{id}", parent=cdev, bus=ctx.wq.idxd.bus, type="idxd_file")
        self.ctx = ctx
        self.id = id

    def attr_is_visible(self, name: str) -> bool:
        """C: ``umode_t cdev_file_attr_visible(...)``."""
        if name in ("cr_faults", "cr_fault_failures", "pid"):
            return self.ctx.wq.pasid_enabled()
        return super().attr_is_visible(name)

    def cr_faults_show(self) -> str:
        """Completion records that the kernel wrote, or tried to."""
        return f"{self.ctx.counters['cr_faults']}\n"

    def cr_fault_failures_show(self) -> str:
        """Completion records that could not be written."""
        return f"{self.ctx.counters['cr_fault_failures']}\n"

    def pid_show(self) -> str:
        """Who opened it."""
        return f"{self.ctx.pid}\n"

    def release(self) -> None:
        """C: ``void idxd_file_dev_release(struct device *dev)``."""
        self.ctx.wq.idxd.module.file_ida.free(self.id)
        self.ctx.finish()


class UserContext:
    """``struct idxd_user_context``: one open of a queue."""

    def __init__(self, wq: IdxdWq) -> None:
        self.wq = wq
        self.pid = wq.kernel.current.pid
        self.mm: Any = None
        self.pasid = 0
        self.sva: Any = None
        self.counters = {"cr_faults": 0, "cr_fault_failures": 0}
        self.file_dev: FileDev | None = None

    def bind(self) -> None:
        """Give the opener's address space to the queue. Raises what SVA says, ENXIO."""
        wq, pdev = self.wq, self.wq.idxd.pdev
        mm = wq.kernel.current.mm
        try:
            if mm is None:
                raise err(EINVAL, "a kernel thread has no address space to bind")
            self.sva = iommu_sva_bind_device(pdev, mm)
        except OSError as e:
            pdev.err(f"pasid allocation failed: {-(e.errno or 0)}")
            raise
        self.pasid = self.sva.pasid
        self.mm = mm
        with wq.uc_lock:
            taken = wq.upasid_xa.setdefault(self.pasid, self) is not self
        if taken:
            pdev.warn("PASID entry already exist in xarray.")
        if not wq.dedicated:
            return
        try:
            wq_set_pasid(wq, self.pasid)
        except OSError as e:
            pdev.err(f"wq set pasid failed: {-(e.errno or 0)}")
            self.unbind()
            raise

    def unbind(self) -> None:
        """Undo what :meth:`bind` did."""
        if self.sva is None:
            return
        iommu_sva_unbind_device(self.sva)
        self.sva = None
        with self.wq.uc_lock:
            mine = self.wq.upasid_xa.get(self.pasid) is self
            if mine:
                del self.wq.upasid_xa[self.pasid]
        if not mine:
            self.wq.idxd.pdev.warn(f"xarray cmpxchg failed for pasid {self.pasid}")

    def finish(self) -> None:
        """The last reference went: wait for what is in flight, then let the address space go."""
        # drivers/dma/idxd/cdev.c:idxd_cdev_release()
        wq, idxd = self.wq, self.wq.idxd
        if wq.shared:
            device_drain_pasid(idxd, self.pasid)
        elif idxd.user_pasid_on:
            try:
                wq_disable_pasid(wq)
            except OSError:
                (self.file_dev or idxd.pdev).err("wq disable pasid failed.")
        else:
            wq_drain(wq)
        if self.sva is not None and idxd.evl is not None:
            idxd.evl.drain_pasid(wq, self.pasid)
        self.unbind()
        with wq.wq_lock:
            wq.client_put()


def cdev_open(wq: IdxdWq, inode: Inode, flags: int) -> CdevFile:
    """
    C: ``int idxd_cdev_open(struct inode *inode, struct file *filp)``.

    Raises:
        EBUSY: a dedicated queue has its client.
        ENXIO: the queue could not be given the PASID. And what SVA says.
    """
    with wq.wq_lock:
        return _cdev_open(wq, inode, flags)


def _cdev_open(wq: IdxdWq, inode: Inode, flags: int) -> CdevFile:
    idxd = wq.idxd
    if wq.client_count > 0 and wq.dedicated:
        raise err(EBUSY, f"{wq.name} is dedicated and open")
    ctx = UserContext(wq)
    if idxd.user_pasid_on:
        ctx.bind()
    if wq.kernel.profile.idxd_file_devices:
        try:
            ctx.file_dev = FileDev(ctx, idxd.module.file_ida.alloc())
            ctx.file_dev.register()
        except OSError:
            ctx.unbind()
            raise
    wq.client_get()
    return CdevFile(inode, flags, ctx)


class CdevFile(File):
    """An open work queue: ``idxd_cdev_fops``."""

    __slots__ = ("ctx",)

    seekable = False
    write_iter = False

    def __init__(self, inode: Inode, flags: int, ctx: UserContext) -> None:
        super().__init__(inode, flags)
        self.ctx = ctx

    def llseek(self, offset: int, whence: int) -> int:
        """Raises ESPIPE."""
        return no_llseek(self, offset, whence)

    def _foreign(self) -> bool:
        """The caller is not the address space that opened it: a child after fork(), or who got the descriptor."""
        return self.ctx.wq.kernel.current.mm is not self.ctx.mm

    def pwrite(self, pos: int, data: bytes) -> int:
        """
        Submit whole descriptors; a rest is ignored, and an error after the first is a short write.

        C: ``ssize_t idxd_cdev_write(...)``. Raises EPERM, EFAULT, EINVAL, EAGAIN.
        """
        if self._foreign():
            raise err(EPERM, "another address space opened this queue")
        written = 0
        for at in range(0, len(data) - DESC_SIZE + 1, DESC_SIZE):
            try:
                self._submit(bytearray(data[at : at + DESC_SIZE]))
            except OSError:
                if written:
                    return written
                raise
            written += DESC_SIZE
        return written

    def _submit(self, desc: bytearray) -> None:
        # drivers/dma/idxd/cdev.c:idxd_submit_user_descriptor()
        wq, idxd = self.ctx.wq, self.ctx.wq.idxd
        if wq.kernel.faults.should_fail("copy", "idxd_cdev_write"):
            raise err(EFAULT)
        if not idxd.is_iax and desc[7] == DSA_OPCODE_BATCH and batch_unsafe(idxd):
            raise err(EINVAL, "batches of users cannot be checked on this part")
        completion_addr = int.from_bytes(desc[8:16], "little")
        if completion_addr % idxd.data.align:
            raise err(EINVAL, f"completion record at {completion_addr:#x} is not aligned to {idxd.data.align}")
        if not wq.dedicated:
            # C sets PASID and privilege and leaves bits 20 to 30 to the user, for which ENQCMDS is an exception
            desc[0:4] = self.ctx.pasid.to_bytes(4, "little")
        portal_write(wq, bytes(desc))

    def mmap(self, vma: Vma) -> None:
        """
        The queue's limited portal, one page, whatever the offset.

        C: ``int idxd_cdev_mmap(struct file *, struct vm_area_struct *)``. Raises EPERM, EINVAL.
        """
        wq, idxd, current = self.ctx.wq, self.ctx.wq.idxd, self.ctx.wq.kernel.current
        if not idxd.user_submission_safe and not current.cred.capable(CAP_SYS_RAWIO):
            raise err(EPERM, "this part is not safe for direct submission: CAP_SYS_RAWIO")
        if self._foreign():
            raise err(EPERM, "another address space opened this queue")
        size = vma.vm_end - vma.vm_start
        if size > PAGE_SIZE:
            if idxd.ratelimit("check_vma"):
                idxd.pdev.info(f"{current.comm}: idxd_cdev_mmap: mapping too large: {size}")
            raise err(EINVAL, "more than one page")
        vma.vm_flags |= VM_DONTCOPY
        vma.vm_private_data = self.ctx
        portal = idxd.pdev.iomap(IDXD_WQ_BAR, portal_offset(wq), IDXD_PORTAL_SIZE)
        vma.io = MappedIo(portal, vma.vm_pgoff * PAGE_SIZE)

    def poll(self, pt: PollTable) -> int:
        """Readable while the device has a software error. C: ``__poll_t idxd_cdev_poll(...)``."""
        if self._foreign():
            return EPOLLNVAL
        wq = self.ctx.wq
        pt.poll_wait(wq.err_queue)
        with wq.idxd.dev_lock:
            return EPOLLIN | EPOLLRDNORM if wq.idxd.sw_err[0] & 1 else 0

    def release(self) -> None:
        """C: ``int idxd_cdev_release(struct inode *node, struct file *filep)``."""
        if self.ctx.file_dev is not None:
            self.ctx.file_dev.unregister()
        else:
            self.ctx.finish()


def add_cdev(wq: IdxdWq) -> None:
    """C: ``int idxd_wq_add_cdev(struct idxd_wq *wq)``. Raises ENOSPC, ENOMEM."""
    try:
        cdev = IdxdCdev(wq, wq.idxd.module.ictx[wq.idxd.data.type])
        wq.idxd_cdev = cdev
        cdev_device_add(cdev, lambda inode, flags: cdev_open(wq, inode, flags), wq.idxd.module)
    except OSError:
        wq.idxd_cdev = None
        raise


def remove_cdev(wq: IdxdWq) -> None:
    """Open files stay open. C: ``void idxd_wq_del_cdev(struct idxd_wq *wq)``."""
    cdev, wq.idxd_cdev = wq.idxd_cdev, None
    if cdev is not None:
        cdev_device_del(cdev)
        cdev.context.minor_ida.free(cdev.minor)


class UserDriver(Driver):
    """``idxd_user_drv``: takes any work queue and makes it a user's."""

    types = (DevType.WQ,)

    def probe(self, wq: IdxdWq) -> None:
        """
        C: ``int idxd_user_drv_probe(struct idxd_dev *idxd_dev)``.

        Raises:
            ENXIO: the device is not enabled. ENODEV: driver_name. EOPNOTSUPP: no SVA. And what drv_enable_wq() says.
        """
        idxd = wq.idxd
        if idxd.state != IdxdState.ENABLED:
            raise err(ENXIO, "the device is not enabled")
        if not wq.driver_name_match(self.name):
            idxd.cmd_status = IDXD_SCMD_WQ_NO_DRV_NAME
            raise err(ENODEV, f"driver_name is {wq.driver_name!r}")
        if not idxd.user_pasid_on:
            idxd.cmd_status = IDXD_SCMD_WQ_USER_NO_IOMMU
            raise err(EOPNOTSUPP, "user queues need SVA")
        with wq.wq_lock:
            self._enable(wq)

    def _enable(self, wq: IdxdWq) -> None:
        idxd = wq.idxd
        wq.wq_type = WqType.USER
        try:
            drv_enable_wq(wq)
            self._add(wq)
        except OSError:
            wq.wq_type = WqType.NONE
            raise
        idxd.cmd_status = 0

    def _add(self, wq: IdxdWq) -> None:
        try:
            add_cdev(wq)
        except OSError:
            drv_disable_wq(wq)
            wq.idxd.cmd_status = IDXD_SCMD_CDEV_ERR
            raise

    def remove(self, wq: IdxdWq) -> None:
        """Open files stay open, without a queue behind them. C: ``void idxd_user_drv_remove(struct idxd_dev *)``."""
        with wq.wq_lock:
            remove_cdev(wq)
            drv_disable_wq(wq)
            wq.wq_type = WqType.NONE
