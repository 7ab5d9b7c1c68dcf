"""The CMD register of a virtual DSA: what each command checks, and what of it reaches the host's queue."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

from pykernel.drivers.idxd.registers import IDXD_INTC_CMD, IDXD_INTC_ERR, Cmd, DeviceState
from pykernel.drivers.vdsa.regs import BUSY, DISABLED, ENABLED, VECTORS

if TYPE_CHECKING:
    from collections.abc import Callable

    from pykernel.drivers.vdsa.device import VdsaDevice

__all__ = ["Status", "VdsaCommands"]

IMS_TABLE = 1 << 16
# the guest's processor goes on while these wait for work to end: that may need a page that only it can bring
WAITING = (Cmd.DISABLE_DEVICE, Cmd.DRAIN_ALL, Cmd.DISABLE_WQ, Cmd.DRAIN_WQ, Cmd.DRAIN_PASID)
CMD_REG_ERROR = 0x51  # uncertain: the series names DSA_ERR_CMD_REG, no public source its number


class Status(IntEnum):
    """CMDSTS bits 0-7."""

    SUCCESS = 0x00
    INVALID_CMD = 0x01
    INVALID_WQ_IDX = 0x02
    DEV_NOT_DISABLED = 0x10
    BUS_MASTER_DISABLED = 0x12
    PASID_INVALID = 0x13
    DEV_NOT_ENABLED = 0x20
    WQ_NOT_DISABLED = 0x21
    WQ_MODE = 0x24
    WQ_PASID_EN = 0x26
    WQ_PRIV = 0x2A
    DISABLE_NOT_ENABLED = 0x31
    WQS_NOT_ENABLED = 0x32
    INT_INDEX = 0x41
    NO_HANDLE = 0x42


class VdsaCommands:
    """
    The command interface of one device.

    Attributes:
        handle: the interrupt handle that the guest asked for.
    """

    def __init__(self, device: VdsaDevice) -> None:
        self.device = device
        self._table: dict[int, Callable[[int], int]] = {
            Cmd.ENABLE_DEVICE: self._enable_device,
            Cmd.DISABLE_DEVICE: self._disable_device,
            Cmd.DRAIN_ALL: self._drain_all,
            Cmd.ABORT_ALL: self._abort_all,
            Cmd.RESET_DEVICE: self._reset_device,
            Cmd.ENABLE_WQ: self._enable_wq,
            Cmd.DISABLE_WQ: self._disable_wq,
            Cmd.DRAIN_WQ: self._drain_wq,
            Cmd.ABORT_WQ: self._abort_wq,
            Cmd.RESET_WQ: self._reset_wq,
            Cmd.DRAIN_PASID: self._drain_pasid,
            Cmd.ABORT_PASID: self._abort_pasid,
            Cmd.REQUEST_INT_HANDLE: self._request_handle,
            Cmd.RELEASE_INT_HANDLE: self._release_handle,
        }
        self.handle: int | None = None
        self._result = self._era = 0

    def run(self, number: int, operand: int, *, int_req: bool) -> None:
        """
        Do it, show its status, interrupt. While one is active another one is a software error.

        What waits for work to end does so in a task of its own.
        """
        device, regs = self.device, self.device.regs
        if regs.cmdsts.active:
            regs.software_error(CMD_REG_ERROR)
            if regs.genctrl.softerr_int_en:
                device.interrupt(IDXD_INTC_ERR)
            return
        regs.cmdsts.bits, self._result = 0, 0
        regs.cmdsts.active = 1
        era = self._era
        if number in WAITING:
            device.kernel.sched.spawn(lambda: self._execute(number, operand, era, int_req=int_req), "vdsa")
        else:
            self._execute(number, operand, era, int_req=int_req)

    def _execute(self, number: int, operand: int, era: int, *, int_req: bool) -> None:
        if era != self._era:  # a reset came first
            return
        device, kernel = self.device, self.device.kernel
        handler = self._table.get(number)
        status = Status.INVALID_CMD if handler is None else handler(operand)
        if kernel.trace:
            kernel.trace("vdsa_cmd", device=device.name, cmd=number, operand=operand, status=int(status))
        if era != self._era and number != Cmd.RESET_DEVICE:
            return
        device.regs.complete(status, self._result)
        if int_req:
            device.interrupt(IDXD_INTC_CMD)

    def reset(self) -> None:
        """The registers are as at the beginning: a command that is active will never say that it ended."""
        self.handle = None
        self._era += 1

    # ------------------------------------------------------------------ the device

    def _enable_device(self, operand: int) -> int:
        config, regs = self.device.config, self.device.regs
        if regs.gensts.state != DeviceState.DISABLED:
            return Status.DEV_NOT_DISABLED
        if not config.bus_master:
            return Status.BUS_MASTER_DISABLED
        if (config.pasid and not config.ats) or config.pasid != config.pri:
            return Status.PASID_INVALID
        regs.gensts.state = DeviceState.ENABLED
        return Status.SUCCESS

    def _disable_device(self, operand: int) -> int:
        if not self.device.regs.enabled:
            return Status.DISABLE_NOT_ENABLED
        self.quiesce()
        self.device.regs.gensts.state = DeviceState.DISABLED
        return Status.SUCCESS

    def _drain_all(self, operand: int) -> int:
        if not self.device.regs.enabled:
            return Status.DISABLE_NOT_ENABLED
        self.finish(abort=False)
        return Status.SUCCESS

    def _abort_all(self, operand: int) -> int:
        if not self.device.regs.enabled:
            return Status.DISABLE_NOT_ENABLED
        self.finish(abort=True)
        return Status.SUCCESS

    def _reset_device(self, operand: int) -> int:
        self.quiesce(abort=True)
        self.device.reset_state()
        return Status.SUCCESS

    # ------------------------------------------------------------------ the queue

    @property
    def wq_on(self) -> bool:
        """The guest turned its queue on."""
        return bool(self.device.regs.wqcfg[0].status.state == ENABLED)

    @property
    def wq_off(self) -> bool:
        """It is off; not "busy", which is on its way there."""
        return bool(self.device.regs.wqcfg[0].status.state == DISABLED)

    def _enable_wq(self, operand: int) -> int:
        device, cfg = self.device, self.device.regs.wqcfg[0]
        if operand:
            return Status.INVALID_WQ_IDX
        if not device.regs.enabled:
            return Status.DEV_NOT_ENABLED
        if not self.wq_off:
            return Status.WQ_NOT_DISABLED
        flags = cfg.flags
        if flags.mode != int(device.wq.dedicated):
            return Status.WQ_MODE
        if flags.pasid_en and not device.config.pasid and device.wq.dedicated:
            return Status.WQ_PASID_EN
        if device.wq.shared and not flags.pasid_en:
            return Status.WQ_PASID_EN
        if flags.priv and flags.pasid_en and not device.config.pasid_priv:
            return Status.WQ_PRIV
        status = device.pasids.enable() if device.wq.dedicated else Status.SUCCESS
        if status == Status.SUCCESS:
            self._set_wq(ENABLED)
        return status

    def _set_wq(self, state: int) -> None:
        """Of the guest's queue; whether its portals reach the host's is to be looked at again."""
        self.device.regs.wqcfg[0].status.state = state
        self.device.portal.zap()

    def _check_wq(self, operand: int) -> int:
        if operand != 1:
            return Status.INVALID_WQ_IDX
        return Status.SUCCESS if self.wq_on else Status.WQS_NOT_ENABLED

    def _disable_wq(self, operand: int) -> int:
        status = self._check_wq(operand)
        if status == Status.SUCCESS:
            self.quiesce()
        return status

    def _drain_wq(self, operand: int) -> int:
        status = self._check_wq(operand)
        if status == Status.SUCCESS:
            self.finish(abort=False)
        return status

    def _abort_wq(self, operand: int) -> int:
        status = self._check_wq(operand)
        if status == Status.SUCCESS:
            self.finish(abort=True)
        return status

    def _reset_wq(self, operand: int) -> int:
        status = self._check_wq(operand)
        if status == Status.SUCCESS:
            self.quiesce(abort=True)
            self.device.regs.wqcfg[0].flags.bits = self.device.initial_flags
        return status

    def finish(self, *, abort: bool) -> None:
        """What the guest submitted ends, or is forgotten: of a shared queue that is its PASIDs'."""
        device = self.device
        if device.wq.dedicated:
            (device.host.abort if abort else device.host.drain)()
            return
        for pasid in device.pasids.host_pasids():
            (device.host.abort_pasid if abort else device.host.drain_pasid)(pasid)

    def quiesce(self, *, abort: bool = False) -> None:
        """The queue goes off, with nothing left in it: it takes no more, then what it has ends, or is forgotten."""
        if self.wq_off:
            return
        era = self._era
        self._set_wq(BUSY)
        self.finish(abort=abort)
        if era != self._era:  # somebody else has reset it meanwhile, and the guest may have begun anew
            return
        self.device.pasids.disable()
        self._set_wq(DISABLED)

    # ------------------------------------------------------------------ PASIDs

    def _drain_pasid(self, operand: int) -> int:
        return self._pasid_command(operand, abort=False)

    def _abort_pasid(self, operand: int) -> int:
        return self._pasid_command(operand, abort=True)

    def _pasid_command(self, operand: int, *, abort: bool) -> int:
        """Of one of the guest's PASIDs; another one has nothing here to wait for."""
        device = self.device
        if not device.regs.enabled:
            return Status.DISABLE_NOT_ENABLED
        pasid = device.pasids.host_pasid(operand)
        if pasid is not None:
            (device.host.abort_pasid if abort else device.host.drain_pasid)(pasid)
        return Status.SUCCESS

    # ------------------------------------------------------------------ interrupt handles

    def _request_handle(self, operand: int) -> int:
        """Vector 0 is nobody's handle; of vector 1 it is the index in the host's IMS."""
        if operand & IMS_TABLE:
            return Status.NO_HANDLE
        if not 0 < operand < VECTORS:
            return Status.INT_INDEX
        self.program_ims()
        self._result = self.handle = self.device.ims.index
        return Status.SUCCESS

    def _release_handle(self, operand: int) -> int:
        if self.handle is None or operand != self.handle:
            return Status.INT_INDEX
        self.handle = None
        return Status.SUCCESS

    def program_ims(self) -> None:
        """The host's entry follows MSIX_PERM of vector 1: the guest's PASID there is the host's here."""
        device = self.device
        perm = device.regs.perm[1].perm
        pasid = device.pasids.host_pasid(perm.pasid) if perm.pasid_en else device.pasids.default
        if pasid is None:
            device.ims.mask()
        else:
            device.ims.set_pasid(pasid)
