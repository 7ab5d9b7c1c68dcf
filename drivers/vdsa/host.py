"""The host's side of a virtual DSA: commands to the real queue, and its portal pages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pykernel.drivers.idxd.config import set_pasid_locked, set_priv_locked
from pykernel.drivers.idxd.device import cmd_exec, wq_operand
from pykernel.drivers.idxd.registers import IDXD_WQ_BAR, WQCFG_OCCUP_IDX, WQCFG_OCCUP_MASK, WQCFG_PASID_IDX, Cmd
from pykernel.fs.vfs import PAGE_SIZE

if TYPE_CHECKING:
    from pykernel.drivers.idxd.idxd import IdxdWq
    from pykernel.pci.iomem import Iomem

__all__ = ["PORTAL_PAGES", "HostQueue"]

PORTAL_PAGES: Final = 4
LIMITED: Final = 1
IMS: Final = 2


class HostQueue:
    """
    The work queue behind one virtual device.

    A dedicated queue is on when its guest turned it on; a shared one is always on, and what a guest does to "its" queue
    reaches the host only as drains and aborts of the guest's own PASIDs.
    """

    def __init__(self, wq: IdxdWq) -> None:
        self.wq = wq
        self.idxd = wq.idxd
        self.on = False
        self.pasid: int | None = None

    def enable(self, pasid: int, *, priv: bool) -> int:
        """Turn a dedicated queue on for *pasid*; the status of the command."""
        with self.wq.wq_lock:
            set_pasid_locked(self.wq, pasid)
            set_priv_locked(self.wq, int(priv))
            status = cmd_exec(self.idxd, Cmd.ENABLE_WQ, self.wq.id) & 0xFF
        self.on = not status
        self.pasid = pasid if self.on else None
        return status

    def disable(self) -> None:
        """Wait for what a dedicated queue has, and turn it off; its PASID is gone from the hardware."""
        if not self.on:
            return
        with self.wq.wq_lock:
            cmd_exec(self.idxd, Cmd.DISABLE_WQ, wq_operand(self.wq))
            regs, at = self.idxd.reg_base, self.idxd.wqcfg_at(self.wq.id, WQCFG_PASID_IDX)
            with self.idxd.dev_lock:
                regs.writel(regs.readl(at) & ~(0xFFFFF << 8 | 1 << 28 | 1 << 29), at)
        self.on, self.pasid = False, None

    def drain(self) -> None:
        """Wait for all that a dedicated queue has."""
        if self.on:
            cmd_exec(self.idxd, Cmd.DRAIN_WQ, wq_operand(self.wq))

    def abort(self) -> None:
        """Forget all that a dedicated queue has."""
        if self.on:
            cmd_exec(self.idxd, Cmd.ABORT_WQ, wq_operand(self.wq))

    def drain_pasid(self, pasid: int) -> None:
        """Wait for the descriptors of a host PASID, in all queues."""
        cmd_exec(self.idxd, Cmd.DRAIN_PASID, pasid)

    def abort_pasid(self, pasid: int) -> None:
        """Forget the descriptors of a host PASID, in all queues."""
        cmd_exec(self.idxd, Cmd.ABORT_PASID, pasid)

    def occupancy(self) -> int:
        """Entries, now."""
        if not self.idxd.hw.wq_cap.occupancy:
            return 0
        return self.idxd.reg_base.readl(self.idxd.wqcfg_at(self.wq.id, WQCFG_OCCUP_IDX)) & WQCFG_OCCUP_MASK

    def portal(self, page: int) -> Iomem:
        """
        The host's page behind page *page* of BAR 2: its IMS flavour, unlimited of a dedicated queue only.

        Page 1 is the limited one; any other asks for the unlimited one.
        """
        limited = page == LIMITED or self.wq.shared
        host = self.wq.id * PORTAL_PAGES + (LIMITED if limited else 0) + IMS
        return self.idxd.pdev.iomap(IDXD_WQ_BAR, host * PAGE_SIZE, PAGE_SIZE)
