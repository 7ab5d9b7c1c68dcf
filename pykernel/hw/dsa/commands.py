"""
The CMD register: what each command checks, in order, and what it does.

A command gives its status at once, or it waits for work to drain and gives it then; CMDSTS.active says which.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

from pykernel.hw.dsa.desc import Work
from pykernel.hw.dsa.engine import Group
from pykernel.hw.dsa.queue import WorkQueue
from pykernel.hw.dsa.regs import DeviceState, IntCause, WqCfg, WqState

if TYPE_CHECKING:
    from pykernel.hw.dsa.function import DsaFunction

__all__ = ["Command", "Commands", "Err"]


class Command(IntEnum):
    """CMD bits 20-24."""

    ENABLE_DEV = 1
    DISABLE_DEV = 2
    DRAIN_ALL = 3
    ABORT_ALL = 4
    RESET_DEV = 5
    ENABLE_WQ = 6
    DISABLE_WQ = 7
    DRAIN_WQ = 8
    ABORT_WQ = 9
    RESET_WQ = 10
    DRAIN_PASID = 11
    ABORT_PASID = 12
    REQUEST_INT = 13
    RELEASE_INT = 14


class Err(IntEnum):
    """CMDSTS bits 0-7."""

    SUCCESS = 0x00
    INVALID_CMD = 0x01
    INVALID_WQ_IDX = 0x02
    HW_ERR = 0x03
    NONZERO_RESERVED = 0x04
    DEV_NOT_DISABLED = 0x10
    BUS_MASTER_DISABLED = 0x12
    PASID_INVALID = 0x13
    WQ_SIZES_ERANGE = 0x14
    GROUP_CONFIG = 0x15
    GROUP_WQS = 0x16
    GROUP_ENGINES = 0x17
    READ_BUFFERS = 0x18
    DEV_NOT_ENABLED = 0x20
    WQ_NOT_DISABLED = 0x21
    WQ_SIZE_ZERO = 0x22
    WQ_PRIORITY_ZERO = 0x23
    WQ_MODE = 0x24
    WQ_BLOCK_ON_FAULT = 0x25
    WQ_PASID_EN = 0x26
    WQ_MAX_BATCH = 0x27
    WQ_MAX_TRANSFER = 0x28
    WQ_PRIV = 0x2A
    WQ_OCCUPANCY_INT = 0x2B
    WQ_ATS = 0x2C
    DISABLE_NOT_ENABLED = 0x31
    WQS_NOT_ENABLED = 0x32
    INT_INDEX = 0x41


@dataclass(slots=True)
class Waiting:
    """A command that is active until *drained* says so; then *finish* does what is left to do."""

    drained: Callable[[], bool]
    finish: Callable[[], None]
    int_req: bool


class Commands:
    """The command interface of one device."""

    def __init__(self, device: DsaFunction) -> None:
        self.device, self.regs = device, device.regs
        self.waiting: Waiting | None = None
        self._table: dict[int, Callable[[int], int]] = {
            Command.ENABLE_DEV: self._enable_device,
            Command.DISABLE_DEV: self._disable_device,
            Command.DRAIN_ALL: self._drain_all,
            Command.ABORT_ALL: self._abort_all,
            Command.RESET_DEV: self._reset_device,
            Command.ENABLE_WQ: self._enable_wq,
            Command.DISABLE_WQ: self._disable_wqs,
            Command.DRAIN_WQ: self._drain_wqs,
            Command.ABORT_WQ: self._abort_wqs,
            Command.RESET_WQ: self._reset_wqs,
            Command.DRAIN_PASID: self._drain_pasid,
            Command.ABORT_PASID: self._abort_pasid,
            Command.REQUEST_INT: self._request_int,
            Command.RELEASE_INT: self._release_int,
        }
        self._result = 0
        self._wait: tuple[Callable[[], bool], Callable[[], None]] | None = None

    # ------------------------------------------------------------------ starting and finishing
    def start(self, number: int, operand: int, *, int_req: bool) -> None:
        """Run command *number*; its status is in CMDSTS when this returns, unless it has to wait for work."""
        self._result, self._wait = 0, None
        err = self._run(number, operand)
        if err == Err.SUCCESS and self._wait is not None and not self._wait[0]():
            self.regs.cmdsts.bits = 0
            self.regs.cmdsts.active = 1
            self.waiting = Waiting(self._wait[0], self._wait[1], int_req)
            return
        if err == Err.SUCCESS and self._wait is not None:
            self._wait[1]()
        self.complete(err, self._result, int_req=int_req)

    def complete(self, err: int, result: int, *, int_req: bool) -> None:
        """Show the status and tell the driver, if it asked for an interrupt."""
        self.regs.cmdsts.bits = err | result << 8
        if int_req:
            self.device.interrupt(IntCause.CMD)

    def poll(self) -> None:
        """Some work ended: is that what a command waits for?"""
        waiting = self.waiting
        if waiting is not None and waiting.drained():
            self.waiting = None
            waiting.finish()
            self.complete(Err.SUCCESS, 0, int_req=waiting.int_req)

    def _run(self, number: int, operand: int) -> int:
        if self.regs.gensts.state == DeviceState.HALT and number != Command.RESET_DEV:
            return Err.HW_ERR
        if number not in self._table or not self._announced(number):
            return Err.INVALID_CMD
        if number <= Command.RESET_DEV and operand:
            return Err.NONZERO_RESERVED
        return self._table[number](operand)

    def _announced(self, number: int) -> bool:
        """Handle commands exist only where CMDCAP says so; the others always do unless CMDCAP counts and denies it."""
        params = self.device.params
        if number >= Command.REQUEST_INT or params.command_capability:
            return bool(params.cmdcap >> number & 1)
        return True

    def _wait_for(self, wqs: Iterable[WorkQueue], finish: Callable[[], None]) -> int:
        wqs = list(wqs)
        self._wait = (lambda: all(wq.idle for wq in wqs)), finish
        return Err.SUCCESS

    # ------------------------------------------------------------------ the device
    def _enable_device(self, operand: int) -> int:
        device, params, regs = self.device, self.device.params, self.regs
        if regs.gensts.state != DeviceState.DISABLED:
            return Err.DEV_NOT_DISABLED
        if not device.bus_master:
            return Err.BUS_MASTER_DISABLED
        if device.pri_enabled and not device.ats_enabled:
            return Err.PASID_INVALID
        if sum(wq.size.size for wq in regs.wqcfg) > params.total_wq_size:
            return Err.WQ_SIZES_ERANGE
        err = self._check_groups()
        if err != Err.SUCCESS:
            return err
        regs.gensts.state = DeviceState.ENABLED
        device.groups = [
            Group(device, [device.wqs[n] for n in group.wqs.members()], group.engines.members())
            for group in regs.grpcfg
            if group.wqs.bits
        ]
        return Err.SUCCESS

    def _check_groups(self) -> int:
        params = self.device.params
        seen_wqs = seen_engines = reserved = 0
        for group in self.regs.grpcfg:
            wqs, engines, flags = group.wqs.bits, group.engines.bits, group.flags
            if bool(wqs) != bool(engines):
                return Err.GROUP_CONFIG
            if wqs & seen_wqs or wqs >> params.num_wqs:
                return Err.GROUP_WQS
            if engines & seen_engines or engines >> params.num_engines:
                return Err.GROUP_ENGINES
            seen_wqs, seen_engines, reserved = (
                seen_wqs | wqs,
                seen_engines | engines,
                reserved + flags.read_buffers_reserved,
            )
            least = 4 * engines.bit_count()
            if (
                engines
                and params.read_buffer_control
                and not least <= flags.read_buffers_allowed <= params.read_buffers
            ):
                return Err.READ_BUFFERS
        return Err.READ_BUFFERS if reserved > params.read_buffers else Err.SUCCESS

    def _disable_device(self, operand: int) -> int:
        if self.regs.gensts.state != DeviceState.ENABLED:
            return Err.DISABLE_NOT_ENABLED
        self.regs.gensts.state = DeviceState.DRAIN
        return self._wait_for(self.device.wqs, self._device_disabled)

    def _device_disabled(self) -> None:
        self.regs.gensts.state = DeviceState.DISABLED
        self.device.groups = []
        for wq in self.device.wqs:
            wq.cfg.status.state = WqState.DISABLED
            wq.group = None

    def _drain_all(self, operand: int) -> int:
        if self.regs.gensts.state != DeviceState.ENABLED:
            return Err.DISABLE_NOT_ENABLED
        return self._wait_for(self.device.wqs, lambda: None)

    def _abort_all(self, operand: int) -> int:
        if self.regs.gensts.state != DeviceState.ENABLED:
            return Err.DISABLE_NOT_ENABLED
        return self._abort(self.device.wqs, lambda work: True)

    def _reset_device(self, operand: int) -> int:
        self.device.software_reset()
        return Err.SUCCESS

    # ------------------------------------------------------------------ one WQ
    def _enable_wq(self, n: int) -> int:
        device, regs = self.device, self.regs
        if n >= device.params.num_wqs:
            return Err.INVALID_WQ_IDX
        if regs.gensts.state != DeviceState.ENABLED:
            return Err.DEV_NOT_ENABLED
        wq = device.wqs[n]
        if wq.cfg.status.state != WqState.DISABLED:
            return Err.WQ_NOT_DISABLED
        err = self._check_wq(wq)
        if err == Err.SUCCESS:
            wq.cfg.status.state = WqState.ENABLED
        return err

    def _check_wq(self, wq: WorkQueue) -> int:
        """The order of the checks from 0x2a on, and the last two, are uncertain."""
        device, params, cfg, flags = self.device, self.device.params, wq.cfg, wq.cfg.flags
        mode_bit = 49 if flags.dedicated else 48
        checks = (
            (not cfg.size.size, Err.WQ_SIZE_ZERO),
            (not flags.priority, Err.WQ_PRIORITY_ZERO),
            (not params.wqcap >> mode_bit & 1, Err.WQ_MODE),
            (flags.bof and not params.block_on_fault, Err.WQ_BLOCK_ON_FAULT),
            (flags.pasid_en and not device.pasid_enabled, Err.WQ_PASID_EN),
            (not flags.dedicated and not flags.pasid_en, Err.WQ_PASID_EN),
            (cfg.limits.max_batch_shift > params.max_batch_shift, Err.WQ_MAX_BATCH),
            (cfg.limits.max_xfer_shift > params.max_transfer_shift, Err.WQ_MAX_TRANSFER),
            (flags.priv and flags.pasid_en and not device.pasid_priv_enabled, Err.WQ_PRIV),
            (cfg.occupancy_limit.int_en and not self._occupancy_handle(cfg), Err.WQ_OCCUPANCY_INT),
            (flags.ats_disable and not params.wqcap >> 50 & 1, Err.WQ_ATS),
        )
        return next((err for wrong, err in checks if wrong), Err.SUCCESS)

    def _occupancy_handle(self, cfg: WqCfg) -> bool:
        return self.device.handle_exists(cfg.occupancy_int.handle, ims=bool(cfg.occupancy_int.table))

    # ------------------------------------------------------------------ sets of WQs
    def _named(self, operand: int) -> list[WorkQueue]:
        """The WQs of a mask of sixteen and a block number; none at all if one of them does not exist."""
        ids = [(operand >> 16) * 16 + bit for bit in range(16) if operand >> bit & 1]
        return [] if any(n >= len(self.device.wqs) for n in ids) else [self.device.wqs[n] for n in ids]

    def _check_enabled(self, wqs: list[WorkQueue]) -> int:
        if not wqs:
            return Err.INVALID_WQ_IDX
        if self.regs.gensts.state != DeviceState.ENABLED or not all(wq.enabled for wq in wqs):
            return Err.WQS_NOT_ENABLED
        return Err.SUCCESS

    def _disable_wqs(self, operand: int) -> int:
        wqs = self._named(operand)
        err = self._check_enabled(wqs)
        if err != Err.SUCCESS:
            return err
        for wq in wqs:
            wq.cfg.status.state = WqState.BUSY
        return self._wait_for(wqs, lambda: self._wqs_disabled(wqs))

    def _wqs_disabled(self, wqs: list[WorkQueue]) -> None:
        for wq in wqs:
            wq.cfg.status.state = WqState.DISABLED

    def _drain_wqs(self, operand: int) -> int:
        wqs = self._named(operand)
        return self._check_enabled(wqs) or self._wait_for(wqs, lambda: None)

    def _abort_wqs(self, operand: int) -> int:
        wqs = self._named(operand)
        err = self._check_enabled(wqs)
        return err or self._abort(wqs, lambda work: True)

    def _reset_wqs(self, operand: int) -> int:
        """Any state will do: abort, disable, and clear the configuration."""
        wqs = self._named(operand)
        if not wqs:
            return Err.INVALID_WQ_IDX
        for wq in wqs:
            wq.abort(lambda work: True)
            wq.cfg.clear(keep_size=self.regs.gensts.state != DeviceState.DISABLED)
        return Err.SUCCESS

    # ------------------------------------------------------------------ PASIDs
    def _drain_pasid(self, pasid: int) -> int:
        if self.regs.gensts.state != DeviceState.ENABLED:
            return Err.DISABLE_NOT_ENABLED
        wqs = self.device.wqs
        self._wait = (lambda: not any(wq.holds(pasid) for wq in wqs)), lambda: None
        return Err.SUCCESS

    def _abort_pasid(self, pasid: int) -> int:
        if self.regs.gensts.state != DeviceState.ENABLED:
            return Err.DISABLE_NOT_ENABLED
        return self._abort(self.device.wqs, lambda work: work.pasid == pasid)

    def _abort(self, wqs: list[WorkQueue], match: Callable[[Work], bool]) -> int:
        """Forget what *match*es; an answer to a page request of it that comes later is nobody's."""
        for wq in wqs:
            wq.abort(match)
        return Err.SUCCESS

    # ------------------------------------------------------------------ interrupt handles
    def _request_int(self, operand: int) -> int:
        """The handle of MSI-X vector n is n, and so is that of entry n of IMS (bit 16)."""
        if not self._has_handle(operand):
            return Err.INT_INDEX
        self._result = operand & 0xFFFF
        return Err.SUCCESS

    def _release_int(self, operand: int) -> int:
        return Err.SUCCESS if self._has_handle(operand) else Err.INT_INDEX

    def _has_handle(self, operand: int) -> bool:
        if operand >> 16 == 1:
            return self.device.handle_exists(operand & 0xFFFF, ims=True)
        return operand < max(self.device.params.vectors, 1)
