"""
The PCI driver and the module (drivers/dma/idxd/init.c).
"""

from __future__ import annotations

from contextlib import ExitStack
from errno import ENODEV, ENOSPC
from typing import ClassVar

from pykernel.base.bus import Driver
from pykernel.base.dd import device_release_driver
from pykernel.base.module import Module, Param
from pykernel.drivers.idxd.bind import device_drv_probe, device_drv_remove
from pykernel.drivers.idxd.bus import DsaBus
from pykernel.drivers.idxd.cdev import CdevContext, UserDriver
from pykernel.drivers.idxd.config import idxd_device_load_config
from pykernel.drivers.idxd.defaults import load_iaa_device_defaults
from pykernel.drivers.idxd.device import (
    device_disable,
    init_reset,
    mask_error_interrupts,
    set_user_intr,
    unmask_error_interrupts,
)
from pykernel.drivers.idxd.dma import DmaengineDriver, IdxdDma
from pykernel.drivers.idxd.evl import EventLog
from pykernel.drivers.idxd.halt import SavedStates
from pykernel.drivers.idxd.idxd import (
    IDXD_DRIVER_DATA,
    IOMMU_PASID_INVALID,
    DevType,
    DriverData,
    Hw,
    IdxdDevice,
    IrqEntry,
)
from pykernel.drivers.idxd.irq import idxd_misc_thread
from pykernel.drivers.idxd.perfmon import pmu_init
from pykernel.drivers.idxd.registers import (
    DEVICE_VERSION_2,
    DEVICE_VERSION_3,
    IDXD_CMDCAP_OFFSET,
    IDXD_DSACAP0_OFFSET,
    IDXD_ENGCAP_OFFSET,
    IDXD_GENCAP_OFFSET,
    IDXD_GRPCAP_OFFSET,
    IDXD_IAACAP_OFFSET,
    IDXD_MMIO_BAR,
    IDXD_TABLE_MULT,
    IDXD_TABLE_OFFSET,
    IDXD_VER_OFFSET,
    IDXD_WQCAP_OFFSET,
    IDXD_WQCFG_MIN,
    Cmd,
    GenCap,
    GroupCap,
    WqCap,
)
from pykernel.drivers.idxd.sysfs import EngineConfDev, GroupConfDev, IdxdConfDev
from pykernel.drivers.idxd.sysfs_wq import WqConfDev
from pykernel.errors import err
from pykernel.iommu.dma import iommu_alloc_system_pasid, iommu_free_system_pasid
from pykernel.iommu.sva import (
    iommu_dev_disable_feature,
    iommu_dev_enable_feature,
)
from pykernel.lib.idr import Ida
from pykernel.lib.ratelimit import RatelimitState
from pykernel.log import WARNING
from pykernel.pci.dev import PciDev
from pykernel.pci.driver import PciDriver, PciId

PCI_VENDOR_ID_INTEL = 0x8086


# ---- what probe reads


def read_caps(idxd: IdxdDevice) -> None:
    """C: ``void idxd_read_caps(struct idxd_device *idxd)``."""
    regs, hw = idxd.reg_base, idxd.hw
    hw.gen_cap = GenCap(regs.readq(IDXD_GENCAP_OFFSET))
    if hw.gen_cap.cmd_cap:
        hw.cmd_cap = regs.readl(IDXD_CMDCAP_OFFSET)
    idxd.request_int_handles = bool(hw.cmd_cap & 1 << Cmd.REQUEST_INT_HANDLE)
    idxd.max_xfer_bytes = 1 << hw.gen_cap.max_xfer_shift
    idxd.max_batch_size = 0 if idxd.is_iax else 1 << hw.gen_cap.max_batch_shift
    idxd.configurable = bool(hw.gen_cap.config_en)
    hw.group_cap = GroupCap(regs.readq(IDXD_GRPCAP_OFFSET))
    idxd.max_groups = hw.group_cap.num_groups
    idxd.max_rdbufs = idxd.nr_rdbufs = hw.group_cap.total_rdbufs
    idxd.max_engines = regs.readq(IDXD_ENGCAP_OFFSET) & 0xFF
    hw.wq_cap = WqCap(regs.readq(IDXD_WQCAP_OFFSET))
    idxd.max_wq_size = hw.wq_cap.total_wq_size
    idxd.max_wqs = hw.wq_cap.num_wqs
    idxd.wqcfg_size = 1 << (hw.wq_cap.wqcfg_size + IDXD_WQCFG_MIN)
    hw.opcap = idxd.read_opcap()
    idxd.opcap_bmap = sum(q << 64 * i for i, q in enumerate(hw.opcap))
    _read_newer_caps(idxd)


def _read_newer_caps(idxd: IdxdDevice) -> None:
    regs, hw, profile = idxd.reg_base, idxd.hw, idxd.kernel.profile
    if profile.idxd_iaa_cap and idxd.is_iax and hw.version >= DEVICE_VERSION_2:
        hw.iaa_cap = regs.readq(IDXD_IAACAP_OFFSET)
    if profile.idxd_dsacaps and not idxd.is_iax and hw.version >= DEVICE_VERSION_3:
        first = IDXD_DSACAP0_OFFSET
        hw.dsacaps = (regs.readq(first), regs.readq(first + 8), regs.readq(first + 16))


def read_table_offsets(idxd: IdxdDevice) -> None:
    """C: ``void idxd_read_table_offsets(struct idxd_device *idxd)``."""
    first, second = idxd.reg_base.readq(IDXD_TABLE_OFFSET), idxd.reg_base.readq(IDXD_TABLE_OFFSET + 8)
    idxd.grpcfg_offset = (first & 0xFFFF) * IDXD_TABLE_MULT
    idxd.wqcfg_offset = (first >> 16 & 0xFFFF) * IDXD_TABLE_MULT
    idxd.msix_perm_offset = (first >> 32 & 0xFFFF) * IDXD_TABLE_MULT
    idxd.perfmon_offset = (second & 0xFFFF) * IDXD_TABLE_MULT


def setup_internals(idxd: IdxdDevice) -> None:
    """Queues, engines, groups, in this order. C: ``int idxd_setup_internals(idxd)``. Raises ENOMEM."""
    faults = idxd.kernel.faults
    faults.alloc("idxd_setup_wqs")
    idxd.wqs = [WqConfDev(idxd, i) for i in range(idxd.max_wqs)]
    faults.alloc("idxd_setup_engines")
    idxd.engines = [EngineConfDev(idxd, i) for i in range(idxd.max_engines)]
    faults.alloc("idxd_setup_groups")
    idxd.groups = [GroupConfDev(idxd, i) for i in range(idxd.max_groups)]
    for group in idxd.groups:
        group.set_defaults()
    if idxd.kernel.profile.idxd_event_log and idxd.hw.gen_cap.evl_support:
        idxd.evl = EventLog(idxd)


# ---- interrupts


def setup_interrupts(idxd: IdxdDevice) -> None:
    """
    All vectors that the device has; the first is the device's own.

    C: ``int idxd_setup_interrupts(struct idxd_device *idxd)``. Raises ENOSPC.
    """
    pdev = idxd.pdev
    try:
        count = pdev.msix_vec_count()
    except OSError:
        pdev.err("Not MSI-X interrupt capable.")
        raise err(ENOSPC, "no MSI-X") from None
    idxd.irq_cnt = count
    try:
        pdev.alloc_irq_vectors(count, count)
    except OSError as e:
        pdev.err(f"Failed enabling {count} MSIX entries: {-(e.errno or 0)}")
        raise err(ENOSPC, "MSI-X vectors") from e
    idxd.ie = IrqEntry(id=0, vector=pdev.irq_vector(0))
    try:
        pdev.request_irq(idxd.ie.vector, lambda: idxd_misc_thread(idxd), "idxd-misc")
    except OSError:
        pdev.err("Failed to allocate misc interrupt.")
        mask_error_interrupts(idxd)
        pdev.free_irq_vectors()
        pdev.err("No usable interrupts")
        raise
    unmask_error_interrupts(idxd)


def cleanup_interrupts(idxd: IdxdDevice) -> None:
    """C: ``void idxd_cleanup_interrupts(struct idxd_device *idxd)``."""
    mask_error_interrupts(idxd)
    idxd.pdev.free_irq(idxd.ie.vector)
    idxd.pdev.free_irq_vectors()


# ---- shared virtual addressing


def enable_sva(idxd: IdxdDevice) -> None:
    """User PASIDs, and a PASID for the kernel's own DMA. C: the SVA part of ``idxd_probe()``."""
    pdev, profile = idxd.pdev, idxd.kernel.profile
    if not idxd.module.param["sva"]:
        pdev.warn("User forced SVA off via module param.")
        return
    if "INTEL_IDXD_SVM" not in profile.config:
        return
    if not _enable_features(pdev, profile.idxd_sva_features):
        pdev.warn("Unable to turn on user SVA feature.")
        return
    idxd.user_pasid_on = True
    _enable_system_pasid(idxd)


def _enable_features(pdev: PciDev, features: tuple[str, ...]) -> bool:
    done: list[str] = []
    try:
        for feature in features:
            iommu_dev_enable_feature(pdev, feature)
            done.append(feature)
    except OSError:
        for feature in reversed(done):
            iommu_dev_disable_feature(pdev, feature)
        return False
    return True


def _enable_system_pasid(idxd: IdxdDevice) -> None:
    # drivers/dma/idxd/init.c:idxd_enable_system_pasid()
    pdev = idxd.pdev
    if not idxd.kernel.profile.idxd_system_pasid:
        pdev.warn("No in-kernel DMA with PASID.")
        return
    try:
        idxd.pasid = iommu_alloc_system_pasid(pdev)
    except OSError as e:
        pdev.warn(f"No in-kernel DMA with PASID. {-(e.errno or 0)}")
        return
    set_user_intr(idxd, 1)
    idxd.pasid_on = True


def disable_sva(idxd: IdxdDevice) -> None:
    """Undo :func:`enable_sva`."""
    if idxd.pasid_on:
        iommu_free_system_pasid(idxd.pdev, idxd.pasid)
        idxd.pasid = IOMMU_PASID_INVALID
        idxd.pasid_on = False
    if idxd.user_pasid_on:
        for feature in reversed(idxd.kernel.profile.idxd_sva_features):
            iommu_dev_disable_feature(idxd.pdev, feature)
        idxd.user_pasid_on = False


# ---- probe and remove


def idxd_probe(idxd: IdxdDevice) -> None:
    """C: ``int idxd_probe(struct idxd_device *idxd)``. Raises ENXIO: halted; ENOSPC: no MSI-X; EOPNOTSUPP; ENOMEM."""
    init_reset(idxd)
    enable_sva(idxd)
    try:
        read_caps(idxd)
        read_table_offsets(idxd)
        setup_internals(idxd)
        if not idxd.configurable:
            idxd_device_load_config(idxd)
        setup_interrupts(idxd)
    except OSError:
        disable_sva(idxd)
        raise
    idxd.major = idxd.module.ictx[idxd.data.type].major
    try:
        pmu_init(idxd)
    except OSError as e:
        idxd.pdev.warn(f"Failed to initialize perfmon. No PMU support: {-(e.errno or 0)}")


def register_devices(idxd: IdxdDevice) -> None:
    """C: ``int idxd_register_devices(struct idxd_device *idxd)``. Raises EEXIST, ENOMEM; then nothing is registered."""
    with ExitStack() as undo:
        for dev in (idxd, *idxd.wqs, *idxd.engines, *idxd.groups):
            dev.register()
            undo.callback(dev.unregister)
        undo.pop_all()


def unregister_devices(idxd: IdxdDevice) -> None:
    """Queues first, which unbinds them. C: ``void idxd_unregister_devices(struct idxd_device *idxd)``."""
    for child in (*idxd.wqs, *idxd.engines, *idxd.groups):
        child.unregister()


class IdxdPciDriver(PciDriver):
    """``idxd_pci_driver``."""

    module: IdxdModule

    def __init__(self, module: IdxdModule) -> None:
        super().__init__(module.kernel, "idxd", module)
        self.id_table = tuple(  # type: ignore[misc]  # which parts are known differs from kernel to kernel
            PciId(PCI_VENDOR_ID_INTEL, device, driver_data=IDXD_DRIVER_DATA[kind])
            for device, kind in module.kernel.profile.idxd_device_ids
        )

    def probe(self, pdev: PciDev) -> None:
        """C: ``int idxd_pci_probe(struct pci_dev *, const struct pci_device_id *)``. Raises as idxd_probe()."""
        row = self.match_id(pdev)
        data = row.driver_data if row is not None else None
        if not isinstance(data, DriverData):
            raise err(ENODEV, "an ID without the driver's data")
        pdev.enable_device()
        idxd: IdxdDevice | None = None
        try:
            idxd = IdxdConfDev(self.module, pdev, data)
            self._bring_up(idxd)
        except OSError:
            if idxd is not None:
                self.module.ida.free(idxd.id)
            pdev.drvdata = None
            pdev.disable_device()
            raise

    def _bring_up(self, idxd: IdxdDevice) -> None:
        pdev = idxd.pdev
        idxd.reg_base = pdev.iomap(IDXD_MMIO_BAR)
        pdev.set_dma_mask(64)
        pdev.set_master()
        pdev.drvdata = idxd
        idxd.hw = Hw(version=idxd.reg_base.readl(IDXD_VER_OFFSET))
        try:
            idxd_probe(idxd)
        except OSError:
            pdev.err("Intel(R) IDXD DMA Engine init failed")
            raise
        if idxd.is_iax and idxd.kernel.profile.idxd_iaa_defaults:
            try:
                load_iaa_device_defaults(idxd)
            except OSError:
                pdev.warn("IDXD loading device defaults failed")
        try:
            register_devices(idxd)
        except OSError:
            pdev.err("IDXD sysfs setup failed")
            cleanup_interrupts(idxd)
            disable_sva(idxd)
            raise
        pdev.info(f"Intel(R) Accelerator Device (v{idxd.hw.version:x})")
        idxd.user_submission_safe = idxd.data.user_submission_safe

    def shutdown(self, pdev: PciDev) -> None:
        """C: ``void idxd_shutdown(struct pci_dev *pdev)``."""
        idxd: IdxdDevice = pdev.drvdata
        try:
            device_disable(idxd)
        except OSError:
            pdev.err("Disabling device failed")
        mask_error_interrupts(idxd)
        idxd.flush_work()

    def remove(self, pdev: PciDev) -> None:
        """C: ``void idxd_remove(struct pci_dev *pdev)``."""
        idxd: IdxdDevice = pdev.drvdata
        if pdev.iov is not None:
            pdev.iov.disable()
        unregister_devices(idxd)
        idxd.unregister()
        self.shutdown(pdev)
        cleanup_interrupts(idxd)
        disable_sva(idxd)
        self.module.ida.free(idxd.id)
        idxd.removed = True
        pdev.disable_device()

    def sriov_configure(self, pdev: PciDev, n: int) -> int:
        """
        As many virtual functions as asked for, which this driver takes, too. C: ``pci_sriov_configure_simple()``.

        Linux's driver has no such operation, since no accelerator that it knows has virtual functions.
        """
        if pdev.iov is None:
            return 0
        if n:
            pdev.iov.enable(n)
        else:
            pdev.iov.disable()
        return n

    def reset_prepare(self, pdev: PciDev) -> None:
        """Before a function-level reset: keep what the user configured. C: ``idxd_reset_prepare()``."""
        idxd: IdxdDevice | None = pdev.drvdata
        if idxd is not None and self.kernel.profile.idxd_halt_flr:
            self.module.saved[idxd.name] = SavedStates.save(idxd)

    def reset_done(self, pdev: PciDev) -> None:
        """After it: interrupts, configuration, device and queues again. C: ``idxd_reset_done()``."""
        idxd: IdxdDevice | None = pdev.drvdata
        saved = self.module.saved.pop(idxd.name, None) if idxd is not None else None
        if idxd is None or saved is None:
            return
        pdev.free_irq(idxd.ie.vector)
        pdev.free_irq_vectors()
        setup_interrupts(idxd)
        device_release_driver(idxd)
        init_reset(idxd)
        unmask_error_interrupts(idxd)
        if idxd.pasid_on:
            set_user_intr(idxd, 1)
        saved.restore(idxd)


class DeviceDriver(Driver):
    """``idxd_drv``: takes the accelerators themselves."""

    types = (DevType.DSA, DevType.IAX)

    def probe(self, dev: IdxdDevice) -> None:
        """See :func:`~pykernel.drivers.idxd.bind.device_drv_probe`."""
        device_drv_probe(dev)

    def remove(self, dev: IdxdDevice) -> None:
        """See :func:`~pykernel.drivers.idxd.bind.device_drv_remove`."""
        device_drv_remove(dev)


class IdxdModule(Module):
    """Module ``idxd``."""

    name_ = "idxd"
    depends: ClassVar[tuple[str, ...]] = ("idxd_bus",)
    params: ClassVar[tuple[Param, ...]] = (
        Param("sva", "bool", default=True, mode=0o644),
        Param("tc_override", "bool", default=False, mode=0o644),
    )

    support_enqcmd: bool
    bus: DsaBus
    ictx: dict[DevType, CdevContext]
    dma: IdxdDma

    @property
    def tc_override(self) -> bool:
        """The parameter, now: it may be written while the module is loaded."""
        return bool(self.param["tc_override"])

    def init(self) -> None:
        """C: ``int idxd_init_module(void)``. Raises ENODEV: the CPU has no MOVDIR64B; EBUSY, ENOMEM."""
        kernel = self.kernel
        if not kernel.cpu.has("movdir64b"):
            kernel.log.printk(WARNING, "idxd driver failed to load without MOVDIR64B.")
            raise err(ENODEV, "no MOVDIR64B")
        self.support_enqcmd = kernel.cpu.has("enqcmd")
        if not self.support_enqcmd:
            kernel.log.printk(WARNING, "Platform does not have ENQCMD(S) support.")
        self.ida = Ida()
        self.file_ida = Ida()
        self.warned: set[str] = set()
        self.ratelimits: dict[str, RatelimitState] = {}
        self.saved: dict[str, SavedStates] = {}
        self.bus = kernel.sub(DsaBus)
        self.dma = IdxdDma(kernel)
        self.bus_drivers = [
            DeviceDriver(kernel, "idxd", self.bus, self),
            DmaengineDriver(kernel, "dmaengine", self.bus, self),
            UserDriver(kernel, "user", self.bus, self),
        ]
        with ExitStack() as undo:
            for driver in self.bus_drivers:
                driver.register()
                undo.callback(driver.unregister)
            self.ictx = {}
            for kind, name in ((DevType.DSA, "dsa"), (DevType.IAX, "iax")):
                self.ictx[kind] = CdevContext(kernel, name)
                undo.callback(self.ictx[kind].remove)
            self.pci_driver = IdxdPciDriver(self)
            self.pci_driver.register()
            undo.pop_all()

    def exit(self) -> None:
        """C: ``void idxd_exit_module(void)``."""
        for driver in reversed(self.bus_drivers):
            driver.unregister()
        self.pci_driver.unregister()
        for context in self.ictx.values():
            context.remove()

    def flr(self, idxd: IdxdDevice) -> None:
        """The device halted and asks for a function-level reset. C: ``void idxd_device_flr(struct work_struct *)``."""
        try:
            idxd.pdev.reset_function()
        except OSError:
            idxd.pdev.err("FLR failed")
