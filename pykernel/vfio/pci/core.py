"""
A PCI device in the hands of a user: opened, closed, asked (drivers/vfio/pci/vfio_pci_core.c).

A driver subclasses :class:`VfioPciCoreDevice`, makes one in its probe() and calls register_device(); its
open_device() calls enable(), adds regions with register_dev_region() and calls finish_enable().
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from errno import EAGAIN, EBUSY, EINVAL, EIO
from typing import TYPE_CHECKING, Any

from pykernel.errors import err
from pykernel.fs.ioctl import ioctl
from pykernel.lib.locking import Mutex
from pykernel.lib.ratelimit import RatelimitState
from pykernel.log import WARNING
from pykernel.mm.uaccess import copy_from_user
from pykernel.mm.vma import Vma
from pykernel.pci.power import PCI_D0, SavedState
from pykernel.uapi.linux import pci_regs as r
from pykernel.uapi.linux.vfio import (
    VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY,
    VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP,
    VFIO_DEVICE_FEATURE_LOW_POWER_EXIT,
    VFIO_DEVICE_FEATURE_MASK,
    VFIO_DEVICE_FEATURE_PCI_VF_TOKEN,
    VFIO_DEVICE_GET_INFO,
    VFIO_DEVICE_GET_IRQ_INFO,
    VFIO_DEVICE_GET_PCI_HOT_RESET_INFO,
    VFIO_DEVICE_GET_REGION_INFO,
    VFIO_DEVICE_IOEVENTFD,
    VFIO_DEVICE_IOEVENTFD_SIZE_MASK,
    VFIO_DEVICE_PCI_HOT_RESET,
    VFIO_DEVICE_RESET,
    VFIO_DEVICE_SET_IRQS,
    VFIO_MIGRATION_STOP_COPY,
    VFIO_PCI_CONFIG_REGION_INDEX,
    VFIO_PCI_ERR_IRQ_INDEX,
    VFIO_PCI_NUM_IRQS,
    VFIO_PCI_NUM_REGIONS,
    VFIO_PCI_REQ_IRQ_INDEX,
    VFIO_PCI_ROM_REGION_INDEX,
    VFIO_PCI_VGA_REGION_INDEX,
    vfio_device_info,
    vfio_device_ioeventfd,
    vfio_irq_info,
    vfio_irq_set,
    vfio_pci_hot_reset,
    vfio_pci_hot_reset_info,
    vfio_region_info,
)
from pykernel.vfio.device import VfioDevice
from pykernel.vfio.main import (
    vfio_assign_device_set,
    vfio_put_device,
    vfio_register_group_dev,
    vfio_set_irqs_validate_and_prepare,
    vfio_unregister_group_dev,
)
from pykernel.vfio.pci.config import VirtConfig
from pykernel.vfio.pci.hot_reset import get_hot_reset_info, hot_reset, try_reset_set
from pykernel.vfio.pci.info import get_info, get_irq_info, get_region_info
from pykernel.vfio.pci.intrs import Interrupts
from pykernel.vfio.pci.lowpower import LowPower
from pykernel.vfio.pci.mmap import OFFSET_SHIFT, mmap_region
from pykernel.vfio.pci.params import CoreParams
from pykernel.vfio.pci.rdwr import Bars
from pykernel.vfio.pci.regions import Region, RegionOps
from pykernel.vfio.pci.sriov import Sriov

if TYPE_CHECKING:
    from pykernel.pci.dev import PciDev

__all__ = ["VfioPciCoreDevice"]

OFFSET_MASK = (1 << OFFSET_SHIFT) - 1
INTEL, CLASS_VGA = 0x8086, 0x0300
# Ethernet controllers whose INTx is broken: vfio_pci_core.c:vfio_pci_nointx()
NO_INTX = {0x1572, 0x1574, 0x1580, 0x1581, *range(0x1583, 0x158C), 0x37D0, 0x37D1, 0x37D2, 0x1563}


class VfioPciCoreDevice(VfioDevice):
    """
    ``struct vfio_pci_core_device``.

    Attributes:
        config: its configuration space as the user sees it, while it is open.
        bars, irqs: its registers and interrupts.
        regions: those that a driver added.
        reset_works: the function can be reset.
        needs_reset: it was closed without one.
    """

    pdev: PciDev
    config: VirtConfig

    def __init__(self, pdev: PciDev) -> None:
        """vfio_pci_core_init_dev()."""
        super().__init__(pdev)
        self.pdev = pdev
        self.params = self.kernel.sub(CoreParams)
        self.disable_idle_d3 = self.params.disable_idle_d3
        self.is_open = False
        self.nointx = False
        self.has_vga = False
        self.reset_works = False
        self.needs_reset = False
        self.sriov_active = False
        self.regions: list[Region] = []
        self.bars = Bars(self)
        self.irqs = Interrupts(self)
        self.power = LowPower(self)
        self.sriov = Sriov(self)
        self.limits: dict[str, RatelimitState] = {}
        self.igate = Mutex(self.kernel, "vdev->igate")
        self._saved: SavedState | None = None

    # ---- registration

    def register_device(self) -> None:
        """
        C: ``int vfio_pci_core_register_device(struct vfio_pci_core_device *)``.

        Raises:
            EINVAL: no endpoint; migration or DMA logging in parts. EBUSY: it has virtual functions. And what VFIO says.
        """
        pdev = self.pdev
        if pdev.read_config_byte(r.PCI_HEADER_TYPE) & r.PCI_HEADER_TYPE_MASK:
            raise err(EINVAL, f"{pdev.name} is no endpoint")
        if self.mig_ops is not None and not self.migration_flags & VFIO_MIGRATION_STOP_COPY:
            raise err(EINVAL, "migration without stop-copy")
        if pdev.iov is not None and pdev.iov.vfs:
            pdev.warn("Cannot bind to PF with SR-IOV enabled")
            raise err(EBUSY)
        alone = pdev.pci_bus.is_root or pdev.is_virtfn
        vfio_assign_device_set(self, self if alone else pdev.hotplug_slot or pdev.pci_bus)
        try:
            self.sriov.init()
            self.set_power_state(PCI_D0)
            pdev.power.allow()
            if not self.disable_idle_d3:
                pdev.power.put()
            try:
                vfio_register_group_dev(self)
            except OSError:
                self._unregistered()
                raise
        except OSError:
            if self.dev_set is not None:
                vfio_put_device(self)
            raise

    def _unregistered(self) -> None:
        self.sriov.uninit()
        if not self.disable_idle_d3:
            self.pdev.power.get_noresume()
        self.pdev.power.forbid()

    def unregister_device(self) -> None:
        """C: ``void vfio_pci_core_unregister_device(struct vfio_pci_core_device *)``: waits while it is open."""
        self.sriov.configure(0)
        vfio_unregister_group_dev(self)
        self._unregistered()

    # ---- opened and closed

    def open_device(self) -> None:
        """What a driver without regions of its own does. Raises an errno."""
        self.enable()
        self.finish_enable()

    def enable(self) -> None:
        """
        C: ``int vfio_pci_core_enable(struct vfio_pci_core_device *)``.

        Raises:
            EAGAIN: the device's lock is held, so it cannot be reset.
        """
        pdev = self.pdev
        if not self.disable_idle_d3:
            pdev.power.resume_and_get()
        pdev.clear_master()
        pdev.enable_device()
        try:
            self.reset_works = self._reset_works()
            pdev.save_state()
            self._saved = pdev.store_saved_state()
            self._probe_intx()
            self.config = VirtConfig(self)
        except OSError:
            pdev.disable_device()
            if not self.disable_idle_d3:
                pdev.power.put()
            raise
        self._find_msix()
        self.has_vga = not self.params.disable_vga and pdev.class_code >> 8 == CLASS_VGA
        self.is_open = True

    def _reset_works(self) -> bool:
        try:
            self.pdev.try_reset_function()
        except OSError as e:
            if e.errno == EAGAIN:
                raise
            return False
        return True

    def _probe_intx(self) -> None:
        pdev = self.pdev
        if not self.params.nointxmask:
            if pdev.vendor == INTEL and pdev.device in NO_INTX:
                pdev.info("Masking broken INTx support")
                self.nointx = True
                pdev.intx(enable=False)
            else:
                self.irqs.pci_2_3 = not pdev.broken_intx_masking
        command = pdev.read_config_word(r.PCI_COMMAND)
        if self.irqs.pci_2_3 and command & r.PCI_COMMAND_INTX_DISABLE:
            pdev.write_config_word(r.PCI_COMMAND, command & ~r.PCI_COMMAND_INTX_DISABLE)

    def _find_msix(self) -> None:
        at = self.pdev.find_capability(r.PCI_CAP_ID_MSIX)
        if at:
            table = self.pdev.read_config_dword(at + r.PCI_MSIX_TABLE)
            start = table & r.PCI_MSIX_TABLE_OFFSET
            self.bars.msix_bar = table & r.PCI_MSIX_TABLE_BIR
            self.bars.msix_table = range(start, start + r.PCI_MSIX_ENTRY_SIZE * self.pdev.msix_vec_count())

    def finish_enable(self) -> None:
        """C: ``void vfio_pci_core_finish_enable(struct vfio_pci_core_device *)``."""
        self.bars.probe_mmaps()
        self.sriov.opened()

    def close_device(self) -> None:
        """C: ``void vfio_pci_core_close_device(struct vfio_device *)``."""
        self.sriov.closed()
        self.disable()
        self.irqs.single.clear()

    def disable(self) -> None:
        """C: ``void vfio_pci_core_disable(struct vfio_pci_core_device *)``: off, reset, as it was."""
        pdev = self.pdev
        self.power.leave()
        pdev.power.resume()
        self.set_power_state(PCI_D0)
        pdev.clear_master()
        self.irqs.disable()
        for region in self.regions:
            region.ops.release(self, region)
        self.regions.clear()
        self.is_open = False
        self.bars.close()
        self.bars.mmap_supported.clear()
        self.needs_reset = True
        self._reset_and_restore()
        pdev.disable_device()
        try_reset_set(self.the_set)
        if not self.disable_idle_d3:
            pdev.power.put()

    def _reset_and_restore(self) -> None:
        pdev = self.pdev
        pdev.load_saved_state(self._saved)
        self._saved = None
        pdev.write_config_word(r.PCI_COMMAND, r.PCI_COMMAND_INTX_DISABLE)
        if self.reset_works and pdev.mutex.trylock():
            try:
                pdev.reset_function_locked()
                self.needs_reset = False
            except OSError as e:
                pdev.dbg(f"reset: {e}")
            finally:
                pdev.mutex.unlock()
        pdev.restore_state()

    # ---- messages

    def info_ratelimited(self, where: str, text: str) -> None:
        """C: ``pci_info_ratelimited()`` at *where*, ten in five seconds."""
        if self.may_print(where):
            self.pdev.info(text)

    def may_print(self, where: str) -> bool:
        """Whether the place *where* may say something again."""
        limit = self.limits.get(where)
        if limit is None:
            limit = self.limits[where] = RatelimitState(
                self.kernel.sched.clock_ns,
                lambda lost: self.kernel.log.printk(WARNING, f"{where}: {lost} callbacks suppressed"),
            )
        return limit.ratelimit()

    # ---- for drivers

    def register_dev_region(
        self, type: int, subtype: int, ops: RegionOps, size: int, flags: int, data: Any = None
    ) -> Region:
        """A region more, until the device is closed. C: ``int vfio_pci_core_register_dev_region(...)``."""
        region = Region(type, subtype, ops, size, flags, data)
        self.regions.append(region)
        return region

    def set_power_state(self, state: int) -> None:
        """C: ``int vfio_pci_set_power_state(...)``. Raises as :meth:`LowPower.set_power_state`."""
        self.power.set_power_state(state)

    @property
    def pm_runtime_engaged(self) -> bool:
        """The user asked for low power."""
        return self.power.engaged

    @contextmanager
    def memory_forced(self) -> Iterator[None]:
        """
        Memory is decoded in the body, whatever the user's COMMAND says.

        C: ``vfio_pci_memory_lock_and_enable()``, ``vfio_pci_memory_unlock_and_restore()``.
        """
        pdev = self.pdev
        command = pdev.read_config_word(r.PCI_COMMAND)
        if not command & r.PCI_COMMAND_MEMORY:
            pdev.write_config_word(r.PCI_COMMAND, command | r.PCI_COMMAND_MEMORY)
        try:
            yield
        finally:
            pdev.write_config_word(r.PCI_COMMAND, command)

    # ---- ioctls

    def pm_runtime_get(self) -> None:
        """C: ``int vfio_device_pm_runtime_get(struct vfio_device *)``. Raises EIO: it does not wake up."""
        try:
            self.pdev.power.resume_and_get()
        except OSError as e:
            self.info_ratelimited("vfio_device_pm_runtime_get", f"vfio: runtime resume failed {-(e.errno or 0)}")
            raise err(EIO) from e

    def pm_runtime_put(self) -> None:
        """C: ``void vfio_device_pm_runtime_put(struct vfio_device *)``."""
        self.pdev.power.put()

    @ioctl(VFIO_DEVICE_GET_INFO)
    def get_info(self, info: vfio_device_info, arg: int) -> None:
        """VFIO_DEVICE_GET_INFO."""
        get_info(self, info, arg)

    @ioctl(VFIO_DEVICE_GET_REGION_INFO)
    def get_region_info(self, info: vfio_region_info, arg: int) -> None:
        """VFIO_DEVICE_GET_REGION_INFO."""
        get_region_info(self, info, arg)

    @ioctl(VFIO_DEVICE_GET_IRQ_INFO)
    def get_irq_info(self, info: vfio_irq_info, arg: int) -> None:
        """VFIO_DEVICE_GET_IRQ_INFO."""
        get_irq_info(self, info, arg)

    @ioctl(VFIO_DEVICE_SET_IRQS)
    def set_irqs(self, hdr: vfio_irq_set, arg: int) -> int:
        """VFIO_DEVICE_SET_IRQS. Raises EINVAL, EFAULT, and as :meth:`Interrupts.set`."""
        size = vfio_set_irqs_validate_and_prepare(hdr, self.irqs.count(hdr.index), VFIO_PCI_NUM_IRQS)
        data = copy_from_user(self.kernel, arg + vfio_irq_set.offsetofend("count"), size)
        with self.igate:
            return self.irqs.set(hdr.flags, hdr.index, hdr.start, hdr.count, data)

    @ioctl(VFIO_DEVICE_RESET)
    def reset(self, _: int) -> None:
        """VFIO_DEVICE_RESET. Raises EINVAL: it cannot be; EAGAIN: the device's lock is held."""
        if not self.reset_works:
            raise err(EINVAL, f"{self.pdev.name} has no way to be reset")
        self.set_power_state(PCI_D0)
        self.pdev.try_reset_function()

    @ioctl(VFIO_DEVICE_GET_PCI_HOT_RESET_INFO)
    def get_hot_reset_info(self, hdr: vfio_pci_hot_reset_info, arg: int) -> None:
        """VFIO_DEVICE_GET_PCI_HOT_RESET_INFO."""
        get_hot_reset_info(self, hdr, arg)

    @ioctl(VFIO_DEVICE_PCI_HOT_RESET)
    def hot_reset(self, hdr: vfio_pci_hot_reset, arg: int) -> None:
        """VFIO_DEVICE_PCI_HOT_RESET."""
        hot_reset(self, hdr, arg)

    @ioctl(VFIO_DEVICE_IOEVENTFD)
    def ioeventfd(self, args: vfio_device_ioeventfd) -> None:
        """VFIO_DEVICE_IOEVENTFD. Raises EINVAL: not one size, fd < -1; and as :meth:`Bars.ioeventfd`."""
        count = args.flags & VFIO_DEVICE_IOEVENTFD_SIZE_MASK
        if args.flags != count or count.bit_count() != 1 or args.fd < -1:
            raise err(EINVAL)
        index, pos = divmod(args.offset, 1 << OFFSET_SHIFT)
        self.bars.ioeventfd(index, pos, args.data, count, args.fd)

    def device_feature(self, flags: int, arg: int, argsz: int) -> int:
        """C: ``int vfio_pci_core_ioctl_feature(...)``. Raises ENOTTY."""
        features: dict[int, Callable[[int, int, int], int]] = {
            VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY: self.power.entry,
            VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP: self.power.entry_with_wakeup,
            VFIO_DEVICE_FEATURE_LOW_POWER_EXIT: self.power.exit,
            VFIO_DEVICE_FEATURE_PCI_VF_TOKEN: self.sriov.feature_token,
        }
        feature = features.get(flags & VFIO_DEVICE_FEATURE_MASK)
        return super().device_feature(flags, arg, argsz) if feature is None else feature(flags, arg, argsz)

    # ---- reads, writes, mappings

    def _region(self, pos: int) -> int:
        index = pos >> OFFSET_SHIFT
        if index >= VFIO_PCI_NUM_REGIONS + len(self.regions):
            raise err(EINVAL, f"there is no region {index}")
        self.pm_runtime_get()
        return index

    def read(self, count: int, pos: int) -> bytes:
        """C: ``ssize_t vfio_pci_core_read(...)``. Raises EINVAL: no region; and what the region says."""
        if not count:
            return b""
        index, at = self._region(pos), pos & OFFSET_MASK
        try:
            if index <= VFIO_PCI_ROM_REGION_INDEX:
                return self.bars.read(index, at, count)
            if index == VFIO_PCI_CONFIG_REGION_INDEX:
                return self.config.read(at, count)
            if index == VFIO_PCI_VGA_REGION_INDEX:
                return self.bars.vga_read(at, count)
            region = self.regions[index - VFIO_PCI_NUM_REGIONS]
            return region.ops.read(self, region, at, count)
        finally:
            self.pm_runtime_put()

    def write(self, data: bytes, pos: int) -> int:
        """C: ``ssize_t vfio_pci_core_write(...)``. Raises EINVAL: no region, the ROM; and what the region says."""
        if not data:
            return 0
        index, at = self._region(pos), pos & OFFSET_MASK
        try:
            if index < VFIO_PCI_ROM_REGION_INDEX:
                return self.bars.write(index, at, data)
            if index == VFIO_PCI_CONFIG_REGION_INDEX:
                return self.config.write(at, data)
            if index == VFIO_PCI_ROM_REGION_INDEX:
                raise err(EINVAL, "the ROM cannot be written")
            if index == VFIO_PCI_VGA_REGION_INDEX:
                return self.bars.vga_write(at, data)
            region = self.regions[index - VFIO_PCI_NUM_REGIONS]
            return region.ops.write(self, region, at, data)
        finally:
            self.pm_runtime_put()

    def mmap(self, vma: Vma) -> None:
        """C: ``int vfio_pci_core_mmap(...)``. Raises EINVAL."""
        mmap_region(self, vma)

    # ---- events

    def request(self, count: int) -> None:
        """C: ``void vfio_pci_core_request(struct vfio_device *, unsigned int)``."""
        eventfd = self.irqs.single.get(VFIO_PCI_REQ_IRQ_INDEX)
        if eventfd is not None:
            if count % 10 == 0 and self.may_print("vfio_pci_core_request"):
                self.pdev.notice(f"Relaying device request to user (#{count})")
            eventfd.signal()
        elif count == 0:
            self.pdev.warn("No device request channel registered, blocked until released by user")

    def match(self, buf: str) -> bool:
        """C: ``int vfio_pci_core_match(struct vfio_device *, char *)``. Raises EACCES, EINVAL."""
        return self.sriov.match(buf)

    def aer_err_detected(self) -> None:
        """C: ``pci_ers_result_t vfio_pci_core_aer_err_detected(struct pci_dev *, pci_channel_state_t)``."""
        eventfd = self.irqs.single.get(VFIO_PCI_ERR_IRQ_INDEX)
        if eventfd is not None:
            eventfd.signal()
