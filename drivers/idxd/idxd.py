"""
The driver's own data: devices, groups, work queues, engines (drivers/dma/idxd/idxd.h).

Each structure is a device of the bus ``dsa``; :mod:`.sysfs` adds the attributes, :mod:`.device` the hardware's side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from pykernel.base.core import Device
from pykernel.drivers.idxd.registers import (
    DEVICE_VERSION_2,
    IDXD_OPCAP_OFFSET,
    GenCap,
    GroupCap,
    GroupFlags,
    WqCap,
    WqCfg,
)
from pykernel.lib.locking import Mutex, Spinlock
from pykernel.lib.ratelimit import RatelimitState
from pykernel.log import WARNING

if TYPE_CHECKING:
    from pykernel.drivers.idxd.cdev import IdxdCdev, UserContext
    from pykernel.drivers.idxd.dma import IdxdDmaChan, IdxdDmaDevice
    from pykernel.drivers.idxd.evl import EventLog
    from pykernel.drivers.idxd.init import IdxdModule
    from pykernel.drivers.idxd.submit import Desc
    from pykernel.kernel import Kernel
    from pykernel.pci.dev import PciDev
    from pykernel.pci.iomem import Iomem
    from pykernel.sched import Thread

INVALID_INT_HANDLE = -1
IOMMU_PASID_INVALID = -1

IDXD_ENQCMDS_RETRIES = 32
IDXD_ENQCMDS_MAX_RETRIES = 64
IDXD_MAX_PRIORITY = 0xF
WQ_NAME_SIZE = 1024
DRIVER_NAME_SIZE = 128
WQ_DEFAULT_QUEUE_DEPTH = 16
WQ_DEFAULT_MAX_XFER = 2 << 20
WQ_DEFAULT_MAX_BATCH = 32
IDXD_PORTAL_MASK = 4095
DESC_SIZE = 64


class DevType(IntEnum):
    """``enum idxd_dev_type``: what a device of the bus is."""

    DSA = 0
    IAX = 1
    WQ = 2
    GROUP = 3
    ENGINE = 4
    CDEV = 5
    CDEV_FILE = 6


class IdxdState(IntEnum):
    """``enum idxd_device_state``."""

    HALTED = -1
    DISABLED = 0
    ENABLED = 1


class WqState(IntEnum):
    """``enum idxd_wq_state``."""

    DISABLED = 0
    ENABLED = 1
    LOCKED = 2  # a mediated device has it; its guest says when it is on


class WqType(IntEnum):
    """``enum idxd_wq_type``: who uses a work queue."""

    NONE = 0
    KERNEL = 1
    USER = 2
    MDEV = 3  # with the module vdsa


@dataclass(frozen=True)
class DriverData:
    """``struct idxd_driver_data``: what is the same for all devices of one kind; sizes and offsets in bytes."""

    name_prefix: str
    type: DevType
    compl_size: int
    align: int
    evl_cr_off: int
    cr_status_off: int
    cr_result_off: int
    user_submission_safe: bool = False  # INTEL-SA-01084


IDXD_DRIVER_DATA = {
    "dsa": DriverData("dsa", DevType.DSA, compl_size=32, align=32, evl_cr_off=32, cr_status_off=0, cr_result_off=1),
    "iax": DriverData("iax", DevType.IAX, compl_size=64, align=64, evl_cr_off=64, cr_status_off=0, cr_result_off=1),
}


@dataclass
class IrqEntry:
    """``struct idxd_irq_entry``: one MSI-X vector and the descriptors whose completion it signals."""

    id: int = 0
    vector: int = -1
    int_handle: int = INVALID_INT_HANDLE
    pasid: int = IOMMU_PASID_INVALID
    pending: list[Desc] = field(default_factory=list)
    work_list: list[Desc] = field(default_factory=list)


@dataclass
class Hw:
    """``struct idxd_hw``: the capability registers as read at probe."""

    version: int = 0
    gen_cap: GenCap = field(default_factory=lambda: GenCap(0))
    wq_cap: WqCap = field(default_factory=lambda: WqCap(0))
    group_cap: GroupCap = field(default_factory=lambda: GroupCap(0))
    opcap: tuple[int, int, int, int] = (0, 0, 0, 0)
    cmd_cap: int = 0
    iaa_cap: int = 0
    dsacaps: tuple[int, int, int] = (0, 0, 0)


class IdxdDev(Device):
    """``struct idxd_dev``: a device of the bus with its type."""

    dev_type: DevType


class IdxdEngine(IdxdDev):
    """``struct idxd_engine``."""

    dev_type = DevType.ENGINE

    def __init__(self, idxd: IdxdDevice, id: int) -> None:
        super().__init__(idxd.kernel, f"engine{idxd.id}.{id}", parent=idxd, bus=idxd.bus, type="engine")
        self.idxd = idxd
        self.id = id
        self.group: IdxdGroup | None = None


class IdxdGroup(IdxdDev):
    """``struct idxd_group``."""

    dev_type = DevType.GROUP

    def __init__(self, idxd: IdxdDevice, id: int) -> None:
        super().__init__(idxd.kernel, f"group{idxd.id}.{id}", parent=idxd, bus=idxd.bus, type="group")
        self.idxd = idxd
        self.id = id
        self.grpcfg_wqs = [0, 0, 0, 0]
        self.grpcfg_engines = 0
        self.grpcfg_flags = GroupFlags(0)
        self.num_engines = 0
        self.num_wqs = 0
        self.use_rdbuf_limit = False
        self.rdbufs_allowed = 0
        self.rdbufs_reserved = 0
        self.tc_a = 0
        self.tc_b = 0
        self.desc_progress_limit = 0
        self.batch_progress_limit = 0

    def set_defaults(self) -> None:
        """Traffic classes and read buffers of a group that nobody configured."""
        # drivers/dma/idxd/init.c:idxd_setup_groups()
        self.tc_a, self.tc_b = (-1, -1) if self.idxd.tc_writable() else (1, 1)
        self.rdbufs_allowed = self.idxd.max_rdbufs if self.kernel.profile.idxd_rdbufs_allowed_max else 0


class IdxdWq(IdxdDev):
    """``struct idxd_wq``."""

    dev_type = DevType.WQ

    def __init__(self, idxd: IdxdDevice, id: int) -> None:
        super().__init__(idxd.kernel, f"wq{idxd.id}.{id}", parent=idxd, bus=idxd.bus, type="wq")
        self.idxd = idxd
        self.id = id
        self.wq_lock = Mutex(idxd.kernel, f"{self.name} wq_lock")
        self.uc_lock = Mutex(idxd.kernel, f"{self.name} uc_lock")
        self.ie = IrqEntry(id=id + 1)
        self.portal: Iomem | None = None
        self.portal_offset = 0
        self.err_queue = idxd.kernel.waitqueue()
        self.on_error: Callable[[list[int]], None] | None = None
        self.idxd_cdev: IdxdCdev | None = None
        self.wq_type = WqType.NONE
        self.group: IdxdGroup | None = None
        self.client_count = 0
        self.size = 0
        self.threshold = 0
        self.priority = 0
        self.state = WqState.DISABLED
        self.dedicated = False
        self.block_on_fault = False
        self.ats_disable = False
        self.prs_disable = False
        self.wqcfg = WqCfg(idxd.wqcfg_size)
        self.opcap_bmap: int | None = idxd.opcap_bmap if idxd.hw.wq_cap.op_config else None
        self.wq_name = ""
        self.driver_name = ""
        self.max_xfer_bytes = WQ_DEFAULT_MAX_XFER
        self.max_batch_size = 0
        self.set_max_batch_size(WQ_DEFAULT_MAX_BATCH)
        self.enqcmds_retries = IDXD_ENQCMDS_RETRIES
        self.upasid_xa: dict[int, UserContext] = {}
        self.wq_active = False
        self.submitters = 0
        self.resurrect = idxd.kernel.waitqueue()
        self.wq_dead = idxd.kernel.waitqueue()
        self.num_descs = 0
        self.descs: list[Desc] = []
        self.free_descs: list[Desc] = []
        self.desc_waiters = idxd.kernel.waitqueue()
        self.compls: Any = None
        self.idxd_chan: IdxdDmaChan | None = None

    @property
    def shared(self) -> bool:
        """C: ``bool wq_shared(struct idxd_wq *wq)``."""
        return not self.dedicated

    def pasid_enabled(self) -> bool:
        """C: ``bool wq_pasid_enabled(struct idxd_wq *wq)``."""
        if self.wq_type == WqType.KERNEL:
            return self.idxd.pasid_on
        return self.wq_type in (WqType.USER, WqType.MDEV) and self.idxd.user_pasid_on

    def shared_supported(self) -> bool:
        """C: ``bool wq_shared_supported(struct idxd_wq *wq)``."""
        return self.idxd.module.support_enqcmd and self.pasid_enabled()

    def set_max_batch_size(self, size: int) -> None:
        """IAX has no batches: always 0. C: ``idxd_wq_set_max_batch_size()``."""
        self.max_batch_size = 0 if self.idxd.is_iax else size

    def driver_name_match(self, name: str) -> bool:
        """A prefix match, on kernels that have driver_name. C: ``idxd_wq_driver_name_match()``."""
        return not self.kernel.profile.idxd_driver_name or self.driver_name.startswith(name)

    def portal_addr(self) -> int:
        """Where in the portal to submit next: writes are spread over the page. C: ``idxd_wq_portal_addr()``."""
        ofs = self.portal_offset
        self.portal_offset = (ofs + DESC_SIZE) & IDXD_PORTAL_MASK
        return ofs

    def client_get(self) -> None:
        """C: ``idxd_wq_get()``."""
        self.client_count += 1

    def client_put(self) -> None:
        """May go below zero when the queue was unbound under its client. C: ``idxd_wq_put()``."""
        self.client_count -= 1


class IdxdDevice(IdxdDev):
    """``struct idxd_device``: one accelerator."""

    def __init__(self, module: IdxdModule, pdev: PciDev, data: DriverData) -> None:
        kernel: Kernel = pdev.kernel
        self.id = module.ida.alloc()
        super().__init__(kernel, f"{data.name_prefix}{self.id}", parent=pdev, bus=module.bus, type=data.name_prefix)
        self.module = module
        self.pdev = pdev
        self.data = data
        self.dev_type = data.type
        self.reg_base: Iomem = None  # type: ignore[assignment]  # mapped first thing in probe
        self.hw = Hw()
        self.state = IdxdState.DISABLED
        self.configurable = False
        self.pasid_on = False
        self.user_pasid_on = False
        self.user_submission_safe = False
        self.pasid = IOMMU_PASID_INVALID
        self.major = 0
        self.cmd_status = 0
        self.cmd_running = False
        self.removed = False
        self.dev_lock = Spinlock(kernel, f"{self.name} dev_lock")
        self.cmd_lock = Spinlock(kernel, f"{self.name} cmd_lock")
        self.works: list[Thread] = []
        self.cmd_done = kernel.completion()
        self.cmd_waitq = kernel.waitqueue()
        self.ie = IrqEntry()
        self.irq_cnt = 0
        self.request_int_handles = False
        self.groups: list[IdxdGroup] = []
        self.wqs: list[IdxdWq] = []
        self.engines: list[IdxdEngine] = []
        self.msix_perm_offset = 0
        self.wqcfg_offset = 0
        self.grpcfg_offset = 0
        self.perfmon_offset = 0
        self.max_xfer_bytes = 0
        self.max_batch_size = 0
        self.max_groups = 0
        self.max_engines = 0
        self.max_rdbufs = 0
        self.max_wqs = 0
        self.max_wq_size = 0
        self.rdbuf_limit = 0
        self.nr_rdbufs = 0
        self.wqcfg_size = 0
        self.wq_enable_map = 0
        self.sw_err = [0, 0, 0, 0]
        self.opcap_bmap = 0
        self.idxd_dma: IdxdDmaDevice | None = None
        self.evl: EventLog | None = None

    @property
    def is_iax(self) -> bool:
        """C: ``bool is_iax_dev(struct idxd_dev *idxd_dev)``."""
        return self.data.type == DevType.IAX

    def tc_writable(self) -> bool:
        """Traffic classes of old parts are fixed unless the module says otherwise."""
        return self.hw.version > DEVICE_VERSION_2 or self.module.tc_override

    def wqcfg_at(self, wq: int, dword: int) -> int:
        """C: ``WQCFG_OFFSET(idxd, n, ofs)``."""
        return self.wqcfg_offset + wq * self.wqcfg_size + 4 * dword

    def queue_work(self, fn: Callable[[], None]) -> None:
        """C: ``queue_work(idxd->wq, work)``."""
        self.works = [work for work in self.works if not work.done]
        self.works.append(self.kernel.sched.spawn(fn, "kworker"))

    def flush_work(self) -> None:
        """What was queued so far has ended. C: ``flush_workqueue(idxd->wq)``, ``drain_workqueue()``."""
        sched, works = self.kernel.sched, list(self.works)
        if sched.exploring:
            sched.idle_until(lambda: all(work.done for work in works))
        else:
            sched.run_ready()

    def irq_entry(self, index: int) -> IrqEntry:
        """Vector 0 is the device's own, vector i belongs to work queue i - 1. C: ``idxd_get_ie()``."""
        return self.ie if index == 0 else self.wqs[index - 1].ie

    def warn_once(self, dev: Device, key: str, text: str) -> None:
        """C: ``dev_warn_once()``: one message a kernel, not a device."""
        if key not in self.module.warned:
            self.module.warned.add(key)
            dev.warn(text)

    def ratelimit(self, func: str) -> bool:
        """May a message of C function *func* go out? One state a kernel and call site. C: ``dev_*_ratelimited()``."""
        state = self.module.ratelimits.get(func)
        if state is None:
            log = self.kernel.log
            state = self.module.ratelimits[func] = RatelimitState(
                self.kernel.sched.clock_ns, lambda n: log.printk(WARNING, f"{func}: {n} callbacks suppressed")
            )
        return state.ratelimit()

    def read_opcap(self) -> tuple[int, int, int, int]:
        """The 256 bits of OPCAP as four quadwords."""
        q = [self.reg_base.readq(IDXD_OPCAP_OFFSET + 8 * i) for i in range(4)]
        return q[0], q[1], q[2], q[3]
