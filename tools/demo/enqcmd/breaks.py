"""
What happens when a step is missing: each break removes a mechanism in the running machine, and puts it back.

A break yields after each thing that it lets happen: what was done, and what came of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from pykernel.cpu import Cpus
from pykernel.pci.config import (
    PCI_DEV3_DEVCAP3,
    PCI_DEV3_DEVCAP3_DMWR_REQ,
    PCI_DEV3_DEVCTL3,
    PCI_DEV3_DEVCTL3_DMWR_EGRESS_BLK,
    PCI_EXT_CAP_ID_DEV3,
)
from pykernel.pci.core import Pci
from pykernel.tools.demo.enqcmd import tables as tables
from pykernel.tools.demo.enqcmd.scene import DSA, PAGE, PORTS, THRESHOLD, Outcome, Scene
from pykernel.uapi.linux.pci_regs import PCI_ERR_UNCOR_STATUS, PCI_EXT_CAP_ID_ERR
from pykernel.virt.kvm import vmcs

__all__ = ["BREAKS", "Act", "Break"]


@dataclass(frozen=True)
class Act:
    """One thing that a break let happen: what was done, and what came of it; *more* is what else was looked at."""

    did: str
    outcome: Outcome
    more: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Break:
    """
    Attributes:
        step: which of the nine.
        missing: what is taken away.
        lesson: what is to be seen.
        acts: do it.
    """

    step: int
    missing: str
    lesson: str
    acts: Callable[[Scene], Iterator[Act]]


# ---- 1, the guest's process


def forge(scene: Scene) -> Iterator[Act]:
    """The tenant's number in the descriptor."""
    number = scene.tenant_pasid
    yield Act(f"descriptor bits 19:0 = {number}, the host tenant's PASID", scene.submission(first=number))


def fixup(scene: Scene) -> Iterator[Act]:
    """The guest's kernel takes the #GP for one that it has mended before."""
    task = scene.app.proc.task
    task.pasid_activated = True
    yield Act(f"task->pasid_activated = 1 while IA32_PASID is {scene.msr():#x}", scene.submission())
    task.pasid_activated = False


# ---- 2, the register


def xsave(scene: Scene) -> Iterator[Act]:
    """Another process gets the processor, and the register stays as the first one had it."""
    scene.submission()
    first, number = scene.app, scene.gpasid
    scene.app = scene.open(b"what a second process has to copy, at most")
    task, cpus = scene.app.proc.task, scene.guest.sub(Cpus)
    scene.run(first.clear)
    before = scene.run(first.arrived)

    def work() -> None:
        cpu = cpus.current
        cpu.load(first.proc.task)
        cpu.save()
        cpu.owner, cpus.fpu(task).cpu = task, cpu  # as after XRSTORS, which did not happen
        if scene.app.submit(scene.app.descriptor()):
            scene.app.wait()
        cpus.flush_thread(task)

    did = f"a process of PASID {scene.gpasid} runs after one of {number}; no XRSTORS of component 10"
    outcome = scene.watch(work)
    after = scene.run(first.arrived)
    yield Act(did, outcome, (("other", f"the first process's destination was {before[:8]!r}, is {after[:8]!r}"),))
    scene.app = first


# ---- 3, VMX


def control(scene: Scene) -> Iterator[Act]:
    """No translation: as on a host that does not set the control."""
    cpus = [vcpu.vmcs for vcpu in scene.kvm.vcpus.values()]
    before = [each.read(vmcs.SECONDARY_VM_EXEC_CONTROL) for each in cpus]
    for each, value in zip(cpus, before, strict=True):
        each.write(vmcs.SECONDARY_VM_EXEC_CONTROL, value & ~vmcs.SECONDARY_EXEC_PASID_TRANSLATION)
    yield Act("VMCS secondary controls, bit 21 = 0 in every virtual processor", scene.submission())
    for each, value in zip(cpus, before, strict=True):
        each.write(vmcs.SECONDARY_VM_EXEC_CONTROL, value)


def _entry(scene: Scene, pa: int, size: int, value: int, did: str) -> Iterator[Act]:
    """An entry in the host's memory has *value* for one submission."""
    old = tables.peek(scene.host, pa, size)
    with tables.changed(scene.host, pa, size, value):
        yield Act(f"{did} at {pa:#x}: {old:#x} -> {value:#x}", scene.submission())


def directory(scene: Scene) -> Iterator[Act]:
    """Present of the directory's entry is clear."""
    found = tables.translation(scene, scene.gpasid)
    yield from _entry(scene, found.directory_at, 8, found.directory_entry & ~1, "PASID directory entry")


def entry(scene: Scene) -> Iterator[Act]:
    """Valid of the table's entry is clear."""
    found = tables.translation(scene, scene.gpasid)
    yield from _entry(scene, found.at, 4, found.entry & ~(1 << 31), "PASID table entry")


def reserved(scene: Scene) -> Iterator[Act]:
    """Bit 20: a host's PASID of 21 bits."""
    found = tables.translation(scene, scene.gpasid)
    yield from _entry(scene, found.at, 4, found.entry | 1 << 20, "PASID table entry")


# ---- 4, PCI Express


@contextmanager
def _port(scene: Scene, address: str, register: int, *, set_: int = 0, clear: int = 0) -> Iterator[str]:
    """A port's register of the Device 3 capability is another one meanwhile."""
    config = scene.host.sub(Pci).slots[address].function.config
    at = config.ext_caps[PCI_EXT_CAP_ID_DEV3] + register
    before = config.get(at, 4)
    config.put(at, 4, before & ~clear | set_)
    yield f"{before:#x} -> {config.get(at, 4):#x}"
    config.put(at, 4, before)


def routing(scene: Scene) -> Iterator[Act]:
    """The switch is one of those that do not know the request."""
    with _port(scene, PORTS[2], PCI_DEV3_DEVCAP3, clear=PCI_DEV3_DEVCAP3_DMWR_REQ) as how:
        yield Act(f"downstream port {PORTS[2]}, DevCap3 {how}: routes no DMWr", scene.submission())


def egress(scene: Scene) -> Iterator[Act]:
    """Software forbids the request to leave."""
    with _port(scene, PORTS[0], PCI_DEV3_DEVCTL3, set_=PCI_DEV3_DEVCTL3_DMWR_EGRESS_BLK) as how:
        outcome = scene.submission()
        config = scene.host.sub(Pci).slots[PORTS[0]].function.config
        status = config.get(config.ext_caps[PCI_EXT_CAP_ID_ERR] + PCI_ERR_UNCOR_STATUS, 4)
        bits = ", ".join(str(n) for n in range(32) if status >> n & 1)
        more = ("AER", f"root port's uncorrectable error status {status:#x}: bit {bits}")
        yield Act(f"root port {PORTS[0]}, DevCtl3 {how}: DMWr egress blocked", outcome, (more,))


# ---- 5, the queue


def full(scene: Scene) -> Iterator[Act]:
    """More commands at once than a limited portal may put into the queue; then the last again."""
    app, n = scene.app, THRESHOLD + 1

    def work() -> None:
        app.burst(app.descriptor(), n)
        app.wait()

    yield Act(f"{n} ENQCMDs in a row, while the engine takes none", scene.watch(work))
    yield Act("the last one again, a moment later", scene.submission())


# ---- 6 and 7, the IOMMU


def pasid_entry(scene: Scene) -> Iterator[Act]:
    """P of the host's PASID-table entry is clear."""
    at = tables.pasid_entry(scene.host, tables.source_id(DSA), scene.hpasid)
    value = tables.peek(scene.host, at, 8) & ~1
    yield from _entry(scene, at, 8, value, f"IOMMU's PASID-table entry of {scene.hpasid}")


def guest_page(scene: Scene) -> Iterator[Act]:
    """The destination is an area that nobody has touched."""
    scene.run(scene.app.untouched)
    yield Act(f"destination GVA {scene.app.dst:#x}: mapped, no page; block on fault", scene.submission(block=True))


def no_block(scene: Scene) -> Iterator[Act]:
    """The same, and the descriptor does not ask to wait; then the process touches the page."""
    scene.run(scene.app.untouched)
    yield Act(f"destination GVA {scene.app.dst:#x}: mapped, no page; no block on fault", scene.submission())
    scene.run(scene.app.proc.mem.write, scene.app.dst, b"\0")
    yield Act("the process touches the page, and submits again", scene.submission())


def second_stage(scene: Scene) -> Iterator[Act]:
    """What the VMM has not mapped: the page is the guest's, but not the device's."""
    at = tables.pasid_entry(scene.host, tables.source_id(DSA), scene.hpasid)
    pgd = tables.peek(scene.host, at + 16, 8) & tables.ADDRESS
    gpa = tables.peek(scene.guest, tables.leaf(scene.guest, pgd, scene.app.dst), 8) & tables.ADDRESS
    where = tables.leaf(scene.host, tables.second_stage(scene.host, at), gpa)
    yield from _entry(scene, where, 8, 0, f"second-stage entry of GPA {gpa:#x}")


# ---- 8 and 9, completion


def record(scene: Scene) -> Iterator[Act]:
    """The page with the completion record goes away before the device writes it, and comes back too late."""
    app = scene.app

    def work() -> None:
        desc = app.descriptor()
        app.proc.munmap(app.record, PAGE)
        if app.submit(desc):
            app.proc.poll([], 5)
        app.record = app.proc.mmap(app.record, PAGE, 3, 0x32)

    yield Act(f"munmap() of the record's page, GVA {app.record:#x}, before ENQCMD", scene.watch(work))


def unbind(scene: Scene) -> Iterator[Act]:
    """The process closes the queue while the engine waits for a page for its command, and tries another one."""
    app = scene.app

    def work() -> None:
        app.untouched()
        app.proc.close(app.fd)  # the mapping still holds the file
        desc = app.descriptor(block=True)
        app.burst(desc, 1)
        app.proc.munmap(app.portal, PAGE)
        app.submit(desc)

    yield Act("close(), ENQCMD, and at once munmap() of the portal; then ENQCMD again", scene.watch(work))


BREAKS: Final[dict[str, Break]] = {
    "forge": Break(1, "the process names a PASID in the descriptor",
                   "#GP, and a second one after the fix-up: SIGSEGV. Only the MSR says whose work it is.", forge),
    "fixup": Break(1, "the guest's kernel mends no #GP",
                   "IA32_PASID stays invalid: SIGSEGV at the first ENQCMD of the thread.", fixup),
    "xsave": Break(
        2,
        "a context switch leaves IA32_PASID as it was",
        "The command has the PASID of whoever ran before, whose memory is used: so the register is a component of "
        "XSAVE, and new threads begin with it invalid.",
        xsave,
    ),
    "control": Break(3, "VMX control \"PASID translation\" is off",
                     "The guest's number goes to the device as it is: another tenant's memory is read and written, "
                     "while the flag says \"accepted\". So KVM sets the control whenever ENQCMD is usable.", control),
    "directory": Break(3, "the directory's entry is not present",
                       "VM exit 72. KVM sets ZF=1, not CF as the talk has it, and skips the instruction.", directory),
    "entry": Break(3, "the table has no valid entry for the PASID",
                   "VM exit 72, ZF=1. The guest cannot tell it from a full queue, so retries need a bound.", entry),
    "reserved": Break(3, "the entry names a host's PASID of 21 bits",
                      "A reserved bit is an exit, too: cut to 20 bits it would be another's PASID.", reserved),
    "routing": Break(4, "a switch port routes no deferrable writes",
                     "Unsupported Request, which ENQCMD tells as ZF=1. The device hears nothing.", routing),
    "egress": Break(4, "the root port blocks deferrable writes",
                    "Unsupported Request, and ZF=1; the port's AER status has bit 27.", egress),
    "full": Break(5, "the queue is as full as limited portals may make it",
                  "Request Retry Status, ZF=1, nothing is lost: the same command is taken a moment later.", full),
    "pasid-entry": Break(6, "the IOMMU's entry of the host's PASID is not present",
                         "Accepted is not done: ZF=0, then every DMA faults, that of the record too.", pasid_entry),
    "guest-page": Break(7, "the destination has no page in the guest, and the work may block",
                        "A page request goes to the host, the VMM, the guest's kernel; the engine goes on.",
                        guest_page),
    "no-block": Break(7, "the destination has no page in the guest, and the work may not block",
                      "Partial completion: the record has the address. Touch the page and submit again.", no_block),
    "second-stage": Break(7, "the guest's page is not mapped for the device",
                          "The guest's tables alone reach nothing: the host decides what a GPA is.", second_stage),
    "record": Break(8, "the completion record's page is gone",
                    "The copy is made and nobody is told; SWERR says so in both kernels, each with its PASID.", record),
    "unbind": Break(9, "the process unbinds while its command is in flight",
                    "The virtual device drains first, then KVM's entry goes, then the IOMMU's; the portal is gone.",
                    unbind),
}  # fmt: skip
