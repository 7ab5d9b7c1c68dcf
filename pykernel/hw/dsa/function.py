"""The accelerator as a PCI function: configuration space, BARs, interrupts, reset, and doors for faulty silicon."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pykernel.hw.dsa.commands import Commands, Err
from pykernel.hw.dsa.desc import Context, Work
from pykernel.hw.dsa.engine import Group
from pykernel.hw.dsa.execute import Executor
from pykernel.hw.dsa.faults import PlantedFaults
from pykernel.hw.dsa.ims import Ims
from pykernel.hw.dsa.pages import PageRequests
from pykernel.hw.dsa.params import DsaParams
from pykernel.hw.dsa.queue import PORTAL_PAGES, WorkQueue, is_portal_write, portal
from pykernel.hw.dsa.regs import IMS, MSIX_PBA, MSIX_TABLE, Cmd, DeviceState, DsaRegs, IntCause, ResetType
from pykernel.hw.dsa.report import ErrorReport, SwErr
from pykernel.pci.config import ConfigSpace
from pykernel.pci.function import PciFunction
from pykernel.uapi.linux.pci_regs import (
    PCI_ATS_CTRL,
    PCI_ATS_CTRL_ENABLE,
    PCI_EXT_CAP_ID_ATS,
    PCI_EXT_CAP_ID_PASID,
    PCI_EXT_CAP_ID_PRI,
    PCI_PASID_CTRL,
    PCI_PASID_CTRL_ENABLE,
    PCI_PASID_CTRL_PRIV,
    PCI_PRI_ALLOC_REQ,
    PCI_PRI_CTRL,
    PCI_PRI_CTRL_ENABLE,
)

__all__ = ["BAR0_SIZE", "PORTALS", "REGISTERS", "DsaFunction", "make_config", "portals_size"]

REGISTERS, PORTALS = 0, 2  # BARs
BAR0_SIZE = 0x10000
NO_LIMIT = 1 << 32
BAR2_LEAST = 0x20000


def portals_size(params: DsaParams) -> int:
    """Bytes of BAR 2: room for all portals, a power of two."""
    portals = params.num_wqs * PORTAL_PAGES * 4096
    return max(BAR2_LEAST, 1 << (portals - 1).bit_length())


def make_config(params: DsaParams) -> ConfigSpace:
    """Configuration space: a root complex integrated endpoint with FLR, MSI-X, PM, ATS, PRI and PASID."""
    config = ConfigSpace(0x8086, params.device, 0x088000, subsystem=(0x8086, 0))
    config.add_bar(REGISTERS, BAR0_SIZE)
    config.add_bar(PORTALS, portals_size(params))
    config.add_pcie(0x40, flags=0x0092, devcap=0x10008002, devctl=0x2910, devcap2=0x200010)
    config.add_dmwr_completer()
    if params.vectors:
        config.add_msix(0x80, params.vectors, table=(REGISTERS, MSIX_TABLE), pba=(REGISTERS, MSIX_PBA))
    config.add_pm(0x90)
    at = 0x100
    for wanted, add in ((params.ats, config.add_ats), (params.pri, config.add_pri), (params.pasid, config.add_pasid)):
        if wanted:
            add(at)
            at += 0x10
    config.settle()
    return config


class DsaFunction(PciFunction):
    """
    A DSA or IAX made of *params*.

    The last block of methods is what a test or a machine file uses to make the silicon misbehave.
    """

    def __init__(self, params: DsaParams, config: ConfigSpace | None = None) -> None:
        super().__init__(config or make_config(params))
        if params.vectors:
            self.place_msix(params.vectors, REGISTERS, MSIX_TABLE, MSIX_PBA)
        self.params = params
        self.regs = DsaRegs(self)
        self.wqs = [WorkQueue(self, n, cfg) for n, cfg in enumerate(self.regs.wqcfg)]
        self.groups: list[Group] = []
        self.ims = Ims(params.ims_entries)
        self.pages = PageRequests(self)
        self.faults = PlantedFaults(params.faults)
        self.report = ErrorReport(self)
        self._commands = Commands(self)
        self._executor = Executor(self)

    # ------------------------------------------------------------------ state in configuration space
    def _ext_control(self, cap: int, control: int, bit: int) -> bool:
        at = self.config.ext_caps.get(cap)
        return at is not None and bool(self.config.get(at + control, 2) & bit)

    @property
    def pasid_enabled(self) -> bool:
        """PASID capability, enable."""
        return self._ext_control(PCI_EXT_CAP_ID_PASID, PCI_PASID_CTRL, PCI_PASID_CTRL_ENABLE)

    @property
    def pasid_priv_enabled(self) -> bool:
        """PASID capability, privileged mode enable."""
        return self._ext_control(PCI_EXT_CAP_ID_PASID, PCI_PASID_CTRL, PCI_PASID_CTRL_PRIV)

    @property
    def ats_enabled(self) -> bool:
        """ATS capability, enable."""
        return self._ext_control(PCI_EXT_CAP_ID_ATS, PCI_ATS_CTRL, PCI_ATS_CTRL_ENABLE)

    @property
    def pri_enabled(self) -> bool:
        """PRI capability, enable."""
        return self._ext_control(PCI_EXT_CAP_ID_PRI, PCI_PRI_CTRL, PCI_PRI_CTRL_ENABLE)

    @property
    def page_request_limit(self) -> int:
        """Outstanding Page Request Allocation; no limit while page requests are not switched on."""
        at = self.config.ext_caps.get(PCI_EXT_CAP_ID_PRI)
        return self.config.get(at + PCI_PRI_ALLOC_REQ, 4) if at is not None and self.pri_enabled else NO_LIMIT

    @property
    def running(self) -> bool:
        """Engines work while the device is enabled, and while it drains."""
        return self.regs.gensts.bits & 3 in (DeviceState.ENABLED, DeviceState.DRAIN)

    # ------------------------------------------------------------------ BARs
    def bar_read(self, bar: int, off: int, size: int) -> int:
        """Registers; a portal reads as all ones."""
        if bar == REGISTERS:
            if IMS <= off < IMS + len(self.ims.entries):
                return self.ims.read(off - IMS, size)
            return self.regs.mmio_read(off, size)
        return (1 << 8 * size) - 1

    def bar_write(self, bar: int, off: int, size: int, value: int) -> None:
        """Registers; a write to a portal that is not 64 bytes is a software error (uncertain)."""
        if bar == REGISTERS:
            if IMS <= off < IMS + len(self.ims.entries):
                self._write_ims(off - IMS, size, value)
            else:
                self.regs.mmio_write(off, value, size)
        else:
            self.report.portal(SwErr.PORTAL_WRITE, portal(off)[0])

    def posted_write(self, bar: int, off: int, data: bytes) -> None:
        """MOVDIR64B to a dedicated WQ. What cannot be taken is dropped and is a software error (uncertain)."""
        if bar != PORTALS:
            super().posted_write(bar, off, data)
            return
        if not self._decodes(off, len(data)):
            return
        index, _, ims = portal(off)
        if not is_portal_write(off, data):
            self.report.portal(SwErr.PORTAL_WRITE, index)
        elif not self._open(index) or not self.wqs[index].dedicated:
            self.report.portal(SwErr.WQ_NOT_READY, index)
        else:
            wq = self.wqs[index]
            accepted = wq.submit_posted(data, ims=ims)
            if getattr(self.port, "trace", None):
                flags = wq.cfg.flags
                self._tell_enqueue(wq, flags.pasid if flags.pasid_en else None, accepted, wq.cfg.size.size)
            if not accepted:
                self.report.portal(SwErr.WQ_FULL, index)

    def takes_dmwr(self, bar: int, off: int) -> bool:
        """Portals do."""
        return bar == PORTALS

    def dmwr(self, bar: int, off: int, data: bytes) -> bool:
        """ENQCMD or ENQCMDS to a shared WQ. False ("retry"): full, off, or not shared (the last uncertain)."""
        if bar != PORTALS or not self._decodes(off, len(data)):
            return False
        index, limited, ims = portal(off)
        if not is_portal_write(off, data) or not self._open(index) or self.wqs[index].dedicated:
            return False
        wq = self.wqs[index]
        accepted = wq.submit_deferrable(data, limited=limited, ims=ims)
        if getattr(self.port, "trace", None):
            pasid = int.from_bytes(data[:4], "little") & 0xFFFFF
            self._tell_enqueue(wq, pasid, accepted, wq.cfg.threshold.threshold if limited else wq.cfg.size.size)
        return accepted

    def _tell_enqueue(self, wq: WorkQueue, pasid: int | None, accepted: bool, room: int) -> None:
        waiting = len(wq.entries)
        self.tell("dsa_enqueue", wq=wq.index, pasid=pasid, accepted=accepted, occupancy=waiting, room=room)

    def _decodes(self, off: int, size: int) -> bool:
        return self.memory_enabled and off + size <= self.bar_sizes[PORTALS]

    def _open(self, index: int) -> bool:
        """May the WQ take work? One that is in no group may not (uncertain): nothing would ever serve it."""
        if self.regs.gensts.bits & 3 != DeviceState.ENABLED or index >= len(self.wqs):
            return False
        wq = self.wqs[index]
        return wq.group is not None and wq.enabled

    # ------------------------------------------------------------------ commands and reset
    def cmd_written(self, cmd: Cmd) -> None:
        """CMD was written. While a command is active another one is a software error."""
        if self.regs.cmdsts.active:
            self.report.device(SwErr.CMD_REG)
            return
        planted = self.faults.command(cmd.cmd)
        if planted.halt is not None:
            # Uncertain: GENSTS shows the halt at once, the command ends with an error; the halt's interrupt comes after
            # the command's. Both in one INTCAUSE, Linux's driver would see the halt alone and wait for ever.
            self._show_halt(planted.halt)
            self._commands.complete(Err.HW_ERR, 0, int_req=bool(cmd.int_req))
            self.port.call_soon(lambda: self.interrupt(IntCause.HALT))
        elif planted.code:
            self._commands.complete(planted.code, 0, int_req=bool(cmd.int_req))
        else:
            self._commands.start(cmd.cmd, cmd.operand, int_req=bool(cmd.int_req))

    def software_reset(self) -> None:
        """Reset Device: registers and queues; configuration space and the MSI-X table stay."""
        for wq in self.wqs:
            wq.abort(lambda work: True)
            wq.group = None
        self.groups = []
        self.pages.reset()
        self.ims.reset()
        self._commands.waiting = None
        self.regs.reset()

    def flr(self) -> None:
        """Function-level reset."""
        super().flr()
        self.software_reset()

    # ------------------------------------------------------------------ work
    def tell(self, name: str, **fields: Any) -> None:
        """A trace event, where the port has somebody who listens."""
        trace = getattr(self.port, "trace", None)
        if trace:
            trace(name, device=getattr(self.port, "address", ""), **fields)

    def execute(self, ctx: Context) -> int:
        """Do one descriptor, write its record, interrupt; gives the completion status. Raises Blocked."""
        status = self._executor.execute(ctx)
        if getattr(self.port, "trace", None):
            work, desc = ctx.work, ctx.desc
            self.tell("dsa_complete", wq=work.wq.index, pasid=work.pasid, opcode=desc.opcode, status=status,
                      record=desc.completion_addr, dropped=work.dropped)  # fmt: skip
        return status

    def page_request(self, work: Work, addr: int, write: bool, done: Callable[[bool], None]) -> None:
        """Ask for a page for *work*; *done* hears whether it came."""
        self.tell("dsa_page_request", wq=work.wq.index, pasid=work.pasid, addr=addr, write=write)
        self.pages.ask(work, addr, write, done)

    def resume(self, work: Work) -> None:
        """The answer that *work* waited for came; after a reset nobody waits."""
        if work.wq.group is not None and work in work.wq.inflight:
            self.tell("dsa_resume", wq=work.wq.index, pasid=work.pasid, opcode=work.desc.opcode)
            work.wq.group.resume(work)

    def work_done(self) -> None:
        """An engine finished something: a command may wait for that."""
        self._commands.poll()

    # ------------------------------------------------------------------ interrupts
    def interrupt(self, cause: int) -> None:
        """Set bits of INTCAUSE and send the message of vector 0."""
        self.regs.intcause.bits |= cause
        self.raise_msix(0)

    def handle_exists(self, handle: int, *, ims: bool = False) -> bool:
        """Interrupt handles are MSI-X vectors, or entries of IMS."""
        return handle < (self.ims.size if ims else self.params.vectors)

    def raise_handle(self, handle: int, *, ims: bool) -> None:
        """The interrupt that a descriptor or a WQ names."""
        if not ims:
            self.raise_msix(handle)
        elif self.bus_master and (message := self.ims.take(handle)) is not None:
            self.port.msi_write(*message)

    def _write_ims(self, off: int, size: int, value: int) -> None:
        unmasked = self.ims.write(off, size, value)
        if unmasked is not None:
            self.raise_handle(unmasked, ims=True)

    def occupancy_interrupt(self, wq: WorkQueue) -> None:
        """A WQ fell to its occupancy limit: vector 0 has a cause register, the others are the message itself."""
        handle, ims = wq.cfg.occupancy_int.handle, bool(wq.cfg.occupancy_int.table)
        if handle == 0 and not ims:
            self.interrupt(IntCause.OCCUPANCY)
        else:
            self.raise_handle(handle, ims=ims)

    # ------------------------------------------------------------------ faulty silicon
    def fail_command(self, code: int) -> None:
        """Let the next command do nothing and end with *code*."""
        self.faults.fail_command(code)

    def raise_swerr(self, words: Sequence[int]) -> None:
        """Raise a software error with four quadwords; while one is valid, only its overflow bit is set."""
        swerr = self.regs.swerr
        if swerr.valid:
            swerr.overflow = 1
        else:
            swerr.bits = sum(word << 64 * i for i, word in enumerate(words))
        self.interrupt(IntCause.ERR)

    def halt(self, reset_type: int) -> None:
        """Halt; *reset_type* is what it takes to get going again."""
        self._show_halt(reset_type)
        self.interrupt(IntCause.HALT)

    def _show_halt(self, reset_type: int) -> None:
        self.regs.gensts.state = DeviceState.HALT
        self.regs.gensts.reset_type = ResetType(reset_type)

    def set_gensts(self, value: int) -> None:
        """Set GENSTS, with no interrupt."""
        self.regs.gensts.bits = value & 0xFF

    def set_occupancy(self, wq: int, n: int) -> None:
        """Let WQ *wq* show an occupancy of *n* until an entry comes or goes."""
        self.regs.wqcfg[wq].status.occupancy = n & 0xFFFF

    def raise_cause(self, causes: int) -> None:
        """Set bits of INTCAUSE and interrupt."""
        self.interrupt(causes)
