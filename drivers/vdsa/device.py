"""A virtual DSA as a device of VFIO: regions, interrupts, mappings."""

from __future__ import annotations

from collections.abc import Iterator
from errno import EINVAL
from typing import TYPE_CHECKING, Final

from pykernel.drivers.idxd.registers import IDXD_INTC_HALT_STATE, IDXD_INTC_INT_HANDLE_REVOKED, DeviceState, ResetType
from pykernel.drivers.vdsa.commands import VdsaCommands
from pykernel.drivers.vdsa.config import VdsaConfig
from pykernel.drivers.vdsa.host import PORTAL_PAGES, HostQueue
from pykernel.drivers.vdsa.irq import Vectors
from pykernel.drivers.vdsa.migration import VdsaMigration
from pykernel.drivers.vdsa.pasid import Pasids
from pykernel.drivers.vdsa.portal import Portal
from pykernel.drivers.vdsa.regs import BAR_SIZE, MSIX_PBA, MSIX_TABLE, VECTORS, Swerr, VdsaRegs
from pykernel.errors import err
from pykernel.fs.ioctl import ioctl
from pykernel.fs.vfs import PAGE_SIZE
from pykernel.lib.locking import Mutex
from pykernel.mm.uaccess import copy_from_user, copy_to_user
from pykernel.mm.vma import Vma
from pykernel.pci.iomem import natural
from pykernel.uapi.linux import vfio as v
from pykernel.vfio.caps import InfoCaps, put_region_info
from pykernel.vfio.device import VfioDevice
from pykernel.vfio.main import vfio_set_irqs_validate_and_prepare

if TYPE_CHECKING:
    from pykernel.drivers.idxd.idxd import IdxdWq
    from pykernel.drivers.vdsa.module import VdsaParent
    from pykernel.mdev import MdevDevice

__all__ = ["OFFSET_SHIFT", "VdsaDevice"]

OFFSET_SHIFT: Final = 40
OFFSET_MASK: Final = (1 << OFFSET_SHIFT) - 1
REGISTERS, PORTALS, CONFIG = v.VFIO_PCI_BAR0_REGION_INDEX, v.VFIO_PCI_BAR2_REGION_INDEX, v.VFIO_PCI_CONFIG_REGION_INDEX
SIZES: Final = {REGISTERS: BAR_SIZE, PORTALS: PORTAL_PAGES * PAGE_SIZE, CONFIG: 4096}
PCI_CFG_ERROR: Final = 0x53  # uncertain: the series names DSA_ERR_PCI_CFG, no public source its number


def pieces(pos: int, count: int, most: int) -> Iterator[tuple[int, int]]:
    """How an access is cut: naturally aligned powers of two of at most *most* bytes, the largest first."""
    end = pos + count
    while pos < end:
        size = natural(pos, min(end - pos, most))
        yield pos, size
        pos += size


class VdsaDevice(VfioDevice):
    """
    ``struct vdcm_idxd``.

    Raises:
        ENXIO: the queue cannot be turned off. ENOSPC: the host has no IMS entry left. ENOMEM by fault injection.
    """

    ops_name = "vfio-idxd"

    def __init__(self, mdev: MdevDevice, parent: VdsaParent, wq: IdxdWq) -> None:
        super().__init__(mdev)
        self.mdev, self.parent, self.wq = mdev, parent, wq
        self.kernel.faults.alloc("vdcm_idxd")
        self.dev_lock = Mutex(self.kernel, f"dev_lock of {mdev.name}")
        self.host = HostQueue(wq)
        self.config = VdsaConfig(wq.idxd, PORTAL_PAGES * PAGE_SIZE)
        self.regs = VdsaRegs(self, wq)
        self.msix_table = bytearray(16 * VECTORS)
        self.vectors = Vectors(self.kernel)
        self.initial_flags = self.regs.wqcfg[0].flags.bits
        self.commands = VdsaCommands(self)
        self.pasids = Pasids(self)
        self.ims = parent.ims.alloc(lambda: self.vectors.signal(1), f"vdsa {mdev.name}")
        try:
            parent.take(wq, self)
        except OSError:
            self.ims.free()
            raise
        self.portal = Portal(self)
        self.migration = VdsaMigration(self)
        self.reset_state()

    def release(self) -> None:
        """The queue is free again."""
        self.parent.give(self.wq, self)
        self.ims.free()
        self.portal.free()

    def open_device(self) -> None:
        """It begins as after a reset, with the PASIDs of who opens it. Raises EBUSY, ENOMEM."""
        self.reset_state()
        self.pasids.open()

    def kvm_changed(self) -> None:
        """Whether a guest may have the portals is to be looked at again."""
        self.portal.zap()

    def close_device(self) -> None:
        """Nothing of its guest is left, and nobody waits for pages that it would have to bring."""
        with self.pasids.refusing(self.pasids.host_pasids()), self.dev_lock:
            if self.wq.shared:  # the guest reaches the host's queue whether its own is on or not
                self.commands.finish(abort=True)
            self.commands.quiesce(abort=True)
            self.pasids.close()
            self.reset_state()
            self.config.reset()
            self.migration.reset()
            self.vectors.clear()

    # ---- what the registers set off

    def reset_state(self) -> None:
        """Registers as at the beginning; the queue is off."""
        self.pasids.disable()
        self.regs.reset()
        self.commands.reset()
        self.ims.mask()
        for vector in range(VECTORS):
            self.msix_table[16 * vector : 16 * vector + 16] = bytes(12) + b"\1\0\0\0"

    def suspend(self) -> None:
        """Migration stops it: what the guest submitted ends, and the host's queue knows nothing of it any more."""
        self.settle()
        if self.commands.wq_on:
            self.pasids.disable()
        self.ims.mask()

    def settle(self) -> None:
        """Wait for what the guest has submitted."""
        if not self.commands.wq_off:
            self.commands.finish(abort=False)

    def resume(self) -> None:
        """It goes on, here or where it came: the guest's PASIDs are looked up again."""
        if self.commands.wq_on and self.wq.dedicated:
            self.pasids.enable()
        self.commands.program_ims()
        if self.regs.intcause.bits & IDXD_INTC_INT_HANDLE_REVOKED:
            self.vectors.signal(0)

    def command(self, cmd: int, operand: int, *, int_req: bool) -> None:
        """CMD was written."""
        self.commands.run(cmd, operand, int_req=int_req)

    def msix_perm_written(self, vector: int) -> None:
        """MSIX_PERM of the vector that the host's IMS backs."""
        self.commands.program_ims()

    def occupancy(self) -> int:
        """Of the host's queue."""
        return self.host.occupancy()

    def interrupt(self, cause: int) -> None:
        """Bits of INTCAUSE, and vector 0."""
        self.regs.intcause.bits |= cause
        self.vectors.signal(0)

    def host_error(self, words: list[int]) -> None:
        """The host's SWERR, if it is about this guest's queue and PASIDs: told in the guest's numbers."""
        error = Swerr(sum(word << 64 * i for i, word in enumerate(words)))
        if not error.valid or not error.desc_valid or not self.commands.wq_on:
            return
        pasid = self.pasids.guest_pasid(error.pasid)
        if pasid is None and (error.pasid != self.pasids.default or self.pasids.default is None):
            return
        error.pasid, error.wq_idx = pasid or 0, 0
        self.regs.host_error(error)
        if self.regs.genctrl.softerr_int_en:
            self.vectors.signal(0)

    # ---- regions

    def read(self, count: int, pos: int) -> bytes:
        """C: ``ssize_t idxd_vdcm_read(...)``. Raises EINVAL: no such region."""
        with self.dev_lock:
            return b"".join(self._read(at, size) for at, size in pieces(pos, count, 8))

    def write(self, data: bytes, pos: int) -> int:
        """C: ``ssize_t idxd_vdcm_write(...)``: at most four bytes at a time. Raises EINVAL: no such region."""
        with self.dev_lock:
            for at, size in pieces(pos, len(data), 4):
                self._write(at, data[at - pos : at - pos + size])
        return len(data)

    def _where(self, pos: int, size: int) -> tuple[int, int]:
        index, off = pos >> OFFSET_SHIFT, pos & OFFSET_MASK
        if off + size > SIZES.get(index, 0):
            raise err(EINVAL, f"nothing at {off:#x} of region {index}")
        return index, off

    def _read(self, pos: int, size: int) -> bytes:
        index, off = self._where(pos, size)
        if index == CONFIG:
            return self.config.read(off, size)
        if index == PORTALS:
            return b"\xff" * size
        if MSIX_TABLE <= off < MSIX_TABLE + len(self.msix_table):
            return bytes(self.msix_table[off - MSIX_TABLE : off - MSIX_TABLE + size])
        return self.regs.read(off, size)

    def _write(self, pos: int, data: bytes) -> None:
        index, off = self._where(pos, len(data))
        if index == CONFIG:
            self._write_config(off, data)
        elif index == PORTALS:
            self.portal.write(off, data)
        elif MSIX_TABLE <= off < MSIX_TABLE + len(self.msix_table):
            self.msix_table[off - MSIX_TABLE : off - MSIX_TABLE + len(data)] = data
        elif not MSIX_PBA <= off < MSIX_PBA + 8:
            self.regs.mmio_write(off, int.from_bytes(data, "little"), len(data))

    def _write_config(self, off: int, data: bytes) -> None:
        before = self.config.bus_master
        self.config.write(off, data)
        if self.config.wants_flr(off, data):
            self.commands.quiesce()
            self.reset_state()
            self.config.reset()
        elif before and not self.config.bus_master and self.regs.enabled:
            self._halt()

    def _halt(self) -> None:
        """Bus mastering went while the device is on: a software error, and only a reset gets it going."""
        self.host.disable()
        self.regs.software_error(PCI_CFG_ERROR)
        self.regs.gensts.state, self.regs.gensts.reset_type = DeviceState.HALT, ResetType.FLR
        self.portal.zap()
        if self.regs.genctrl.halt_int_en:
            self.interrupt(IDXD_INTC_HALT_STATE)

    def mmap(self, vma: Vma) -> None:
        """A page of BAR 2. Raises EINVAL: another region, more than a page, or not MAP_SHARED."""
        self.portal.mmap(vma)

    # ---- ioctls

    @ioctl(v.VFIO_DEVICE_GET_INFO)
    def get_info(self, info: v.vfio_device_info, arg: int) -> None:
        """A PCI device that can be reset."""
        info.flags = v.VFIO_DEVICE_FLAGS_PCI | v.VFIO_DEVICE_FLAGS_RESET
        info.num_regions, info.num_irqs = v.VFIO_PCI_NUM_REGIONS, v.VFIO_PCI_NUM_IRQS
        copy_to_user(self.kernel, arg, bytes(info)[: v.VFIO_DEVICE_GET_INFO.minsz])

    @ioctl(v.VFIO_DEVICE_GET_REGION_INFO)
    def get_region_info(self, info: v.vfio_region_info, arg: int) -> None:
        """BAR 2 says which pages can be mapped. Raises EINVAL: no such region."""
        if info.index >= v.VFIO_PCI_NUM_REGIONS:
            raise err(EINVAL, f"region {info.index}")
        info.offset = info.index << OFFSET_SHIFT
        info.size = SIZES.get(info.index, 0)
        info.flags = v.VFIO_REGION_INFO_FLAG_READ | v.VFIO_REGION_INFO_FLAG_WRITE if info.size else 0
        caps = InfoCaps(self.kernel)
        if info.index == PORTALS:
            info.flags |= v.VFIO_REGION_INFO_FLAG_MMAP
            caps.add(v.VFIO_REGION_INFO_CAP_SPARSE_MMAP, 1, Portal.areas())
        put_region_info(self.kernel, info, caps, arg)

    @ioctl(v.VFIO_DEVICE_GET_IRQ_INFO)
    def get_irq_info(self, info: v.vfio_irq_info, arg: int) -> None:
        """MSI-X alone. Raises EINVAL: no such interrupt."""
        if info.index >= v.VFIO_PCI_NUM_IRQS:
            raise err(EINVAL, f"interrupt {info.index}")
        msix = info.index == v.VFIO_PCI_MSIX_IRQ_INDEX
        info.count = VECTORS if msix else 0
        info.flags = v.VFIO_IRQ_INFO_EVENTFD | v.VFIO_IRQ_INFO_NORESIZE if msix else 0
        copy_to_user(self.kernel, arg, bytes(info)[: v.VFIO_DEVICE_GET_IRQ_INFO.minsz])

    @ioctl(v.VFIO_DEVICE_SET_IRQS)
    def set_irqs(self, hdr: v.vfio_irq_set, arg: int) -> None:
        """Raises EINVAL, EFAULT, ENOTTY, EBADF."""
        count = VECTORS if hdr.index == v.VFIO_PCI_MSIX_IRQ_INDEX else 0
        size = vfio_set_irqs_validate_and_prepare(hdr, count, v.VFIO_PCI_NUM_IRQS)
        data = copy_from_user(self.kernel, arg + v.VFIO_DEVICE_SET_IRQS.minsz, size) if size else b""
        with self.dev_lock:
            self.vectors.set_irqs(hdr, data)

    @ioctl(v.VFIO_DEVICE_RESET)
    def reset(self, arg: int) -> None:
        """C: ``idxd_vdcm_reset()``: registers and configuration space; what was submitted is gone."""
        with self.dev_lock:
            self.commands.quiesce(abort=True)
            self.reset_state()
            self.config.reset()
            self.migration.reset()
