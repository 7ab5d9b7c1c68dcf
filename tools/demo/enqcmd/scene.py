"""
The machine of ``pykernel demo enqcmd``: a host with an accelerator below a switch, a tenant, a virtual machine.

The tenant is a process of the host that uses the same accelerator. It is there before the machine, so that a number
that the guest's kernel gives out is also one of the host's, and somebody else's there.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, MAP_SHARED, PROT_READ, PROT_WRITE
from typing import TYPE_CHECKING, Any, Final

from pykernel import boot
from pykernel import machine as machines
from pykernel.cpu import Cpus, Fault, insn
from pykernel.tools.dsa import BUS, settings
from pykernel.tools.vmm.setup import enable
from pykernel.tools.vmm.vmm import Vmm
from pykernel.uapi.linux.idxd import (
    DSA_OPCODE_MEMMOVE,
    IDXD_OP_FLAG_BOF,
    IDXD_OP_FLAG_CRAV,
    IDXD_OP_FLAG_RCR,
    dsa_completion_record,
    dsa_hw_desc,
)
from pykernel.virt.kvm.vmfile import VmFile

if TYPE_CHECKING:
    from pykernel.kernel import Kernel
    from pykernel.log import Record
    from pykernel.syscalls import Process
    from pykernel.trace import Event
    from pykernel.virt.kvm.vm import Kvm

__all__ = ["DSA", "PAGE", "PORTS", "SIZE", "THRESHOLD", "TRIES", "App", "Outcome", "Scene"]

PORTS: Final = ("0000:64:00.0", "0000:65:00.0", "0000:66:00.0")
DSA: Final = "0000:67:00.0"
TOPOLOGY: Final = f"""
[[pci]]
model = "root-port"
address = "{PORTS[0]}"
secondary = 0x65
subordinate = 0x67
dmwr = true

[[pci]]
model = "upstream-port"
address = "{PORTS[1]}"
secondary = 0x66
subordinate = 0x67
dmwr = true

[[pci]]
model = "downstream-port"
address = "{PORTS[2]}"
secondary = 0x67
dmwr = true

[[pci]]
model = "dsa"
address = "{DSA}"
"""
SIZE, THRESHOLD = 16, 8  # entries of the shared queue, and how many of them limited portals may fill
PAGE = 4096
TRIES = 3  # of one ENQCMD: ZF=1 has no reason, so who retries must stop some time
POLLS = 20  # of the completion record, a millisecond of sleep after each


class App:
    """
    A process with a work queue: its portal, and a page each for the source, the destination and the record.

    Attributes:
        zf: what each ENQCMD gave.
        fault: the signal that ended it, if one did.
        polls: how often it looked at the record.
        fresh: the destination has no page yet, and the next command shall find it so.
    """

    def __init__(self, proc: Process, path: str, data: bytes) -> None:
        self.proc, self.data = proc, data
        self.fd = proc.open(path, os.O_RDWR)
        self.portal = proc.mmap(0, PAGE, PROT_WRITE, MAP_SHARED, self.fd, 0)
        self.src, self.dst, self.record = (self._page() for _ in range(3))
        for at, what in ((self.src, data), (self.dst, bytes(PAGE)), (self.record, bytes(32))):
            proc.mem.write(at, what)
        self.zf: list[bool] = []
        self.fault: Fault | None = None
        self.polls = 0
        self.fresh = False

    def _page(self) -> int:
        return self.proc.mmap(0, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS)

    def untouched(self) -> None:
        """Have another destination: an area in which no page is there yet."""
        self.proc.munmap(self.dst, PAGE)
        self.dst = self._page()
        self.fresh = True

    def clear(self) -> None:
        """Nothing is in the record, nor at the destination, unless that is to stay without a page."""
        self.proc.mem.write(self.record, bytes(32))
        if not self.fresh:
            self.proc.mem.write(self.dst, bytes(len(self.data)))
        self.fresh = False

    def descriptor(self, *, first: int = 0, block: bool = False) -> bytes:
        """The copy as 64 bytes; *first* is what bits 31:0 have, *block* is "block on fault"."""
        flags = IDXD_OP_FLAG_CRAV | IDXD_OP_FLAG_RCR | (IDXD_OP_FLAG_BOF if block else 0)
        desc = dsa_hw_desc(
            flags=flags,
            opcode=DSA_OPCODE_MEMMOVE,
            completion_addr=self.record,
            src_addr=self.src,
            dst_addr=self.dst,
            xfer_size=len(self.data),
        )
        return first.to_bytes(4, "little") + bytes(desc)[4:]

    def burst(self, desc: bytes, n: int) -> None:
        """*n* ENQCMDs with nothing between them, no system call and no interrupt: the engine gets no turn."""
        task = self.proc.task
        cpus = self.proc.kernel.sub(Cpus)
        for _ in range(n):
            self.zf.append(cpus.execute(task, insn.enqcmd, self.proc.mem, self.portal, desc).zf)

    def submit(self, desc: bytes, tries: int = TRIES) -> bool:
        """ENQCMD until ZF=0, at most *tries* times; whether the queue has it. A signal is kept in ``fault``."""
        for n in range(tries):
            if n:
                self.proc.poll([], 1)
            try:
                self.zf.append(self.proc.enqcmd(self.portal, desc))
            except Fault as e:
                self.fault = e
                return False
            if not self.zf[-1]:
                return True
        return False

    def wait(self) -> dsa_completion_record:
        """Poll the completion record; its status is 0 when none was written in time."""
        for _ in range(POLLS):
            self.polls += 1
            record = self.look()
            if record.status:
                return record
            self.proc.poll([], 1)
        return self.look()

    def look(self) -> dsa_completion_record:
        """The completion record as it is."""
        return dsa_completion_record.from_bytes(bytes(self.proc.mem.read(self.record, 32)))

    def arrived(self) -> bytes:
        """What is at the destination."""
        return bytes(self.proc.mem.read(self.dst, len(self.data)))

    def close(self) -> None:
        """Unmap the portal and close the queue: the last user of the PASID unbinds it."""
        self.proc.munmap(self.portal, PAGE)
        self.proc.close(self.fd)


@dataclass
class Outcome:
    """
    What a submission came to.

    Attributes:
        zf: of each ENQCMD.
        fault: the signal that the process got.
        record: the completion record; status 0: none came.
        copied: the data is at the destination.
        exits: VM exits because of a PASID without translation.
        host, guest: what the two kernels logged.
        events: what happened on the host, as traced, and in the guest.
    """

    zf: list[bool]
    fault: Fault | None
    record: dsa_completion_record
    copied: bool
    exits: int
    host: list[Record]
    guest: list[Record]
    events: list[Event] = field(repr=False)
    inside: list[Event] = field(repr=False)

    def named(self, name: str) -> list[dict[str, Any]]:
        """The fields of the host's events with this name."""
        return [event.fields for event in self.events if event.name == name]


class Scene:
    """
    The host, its tenant, and a virtual machine with one process.

    Attributes:
        setup: what happened on the host while the process opened the queue.
        app: the guest's process that submits; *apps*: all of them.
        hpasid_was: the host's PASID for it, also when it is not bound any more.
    """

    def __init__(self, profile: str = "linux-6.1", *, vcpus: int = 1, seed: int = 1) -> None:
        spec = replace(machines.load("vmm"), pci=machines.parse(TOPOLOGY).pci)
        self.host = boot(spec, profile, seed=seed)
        self.root = self.host.process(comm="admin")
        self._configure()
        self.events = self.host.trace.record()
        self.tenant = App(self.host.process(comm="tenant"), "/dev/dsa/wq0.1", b"the tenant's own bytes, nobody else's")
        self._warm()
        self.vmm = Vmm(self.host, name="vm0", memory=32 << 20, vcpus=vcpus, parent=DSA)
        self.guest: Kernel = self.vmm.guest.kernel
        self.inside = self.guest.trace.record()
        self.run(self._enable)
        before = len(self.events)
        self.apps: list[App] = []
        self.app = self.open(b"one copy by a device that both of us share")
        self.setup = self.events[before:]
        self.hpasid_was = self.hpasid

    def _warm(self) -> None:
        """The tenant has used the device, and then has something else at its destination."""
        tenant = self.tenant
        tenant.submit(tenant.descriptor())
        tenant.wait()
        tenant.proc.mem.write(tenant.dst, b"-" * len(tenant.data))
        tenant.proc.mem.write(tenant.record, bytes(32))

    def _configure(self) -> None:
        """Queue 0 for guests, by the mediated device; queue 1 for processes of the host."""
        proc = self.root
        rows: list[tuple[str, str]] = []
        for wq, kind, more in (("wq0.0", "mdev", {"block_on_fault": 1}), ("wq0.1", "user", {})):
            named = {"driver_name": kind} if "driver_name" in proc.listdir(f"{BUS}/devices/{wq}") else {}
            rows += settings(
                proc, wq, mode="shared", size=SIZE, threshold=THRESHOLD, type=kind, name=f"{kind}s", **named, **more
            )
        rows.sort(key=lambda row: row[0].endswith("/bind"))  # a device that is on takes no settings any more
        for path, text in dict.fromkeys(rows):
            proc.write_text(path, text + "\n")

    def _enable(self) -> None:
        proc = self.vmm.process(comm="admin")
        enable(proc)
        proc.exit()

    def open(self, data: bytes) -> App:
        """A new process of the guest that has opened the queue, to copy *data*."""
        app: App = self.run(lambda: App(self.vmm.process(comm="app"), "/dev/dsa/wq0.0", data))
        self.apps.append(app)
        return app

    def run(self, fn: Callable[..., Any], *args: Any) -> Any:
        """Run *fn* in the guest."""
        return self.vmm.run(fn, *args)

    # ---- who is who

    @property
    def kvm(self) -> Kvm:
        """The host's kernel's side of the machine."""
        file = self.vmm.proc.fds.get(self.vmm.vm.fd)
        assert isinstance(file, VmFile)
        return file.vm

    @property
    def gpasid(self) -> int:
        """The process's PASID, as the guest has it."""
        return self.guest.mm_pasid(self.app.proc.task.mm)

    @property
    def hpasid(self) -> int:
        """The same as the host has it, says the VMM."""
        return self.vmm.pasids.host_of[self.gpasid]

    @property
    def tenant_pasid(self) -> int:
        """That of the host's process."""
        return self.host.mm_pasid(self.tenant.proc.task.mm)

    def tenant_bytes(self) -> bytes:
        """What the tenant has at its destination."""
        return self.tenant.arrived()

    def msr(self) -> int:
        """IA32_PASID of the guest's process."""
        return self.guest.sub(Cpus).pasid_msr(self.app.proc.task)

    # ---- a submission

    def watch(self, work: Callable[[], Any]) -> Outcome:
        """Let the guest do *work*, which submits with ``app``: what came of it."""
        app, start, inside = self.app, len(self.events), len(self.inside)
        app.zf, app.fault, app.polls = [], None, 0
        host, guest, exits = self.host.log.seq, self.guest.log.seq, self.kvm.stat()["enqcmd_exits"]
        self.run(work)
        record, arrived = self.run(lambda: (app.look(), app.arrived()))
        return Outcome(
            app.zf,
            app.fault,
            record,
            arrived == app.data,
            self.kvm.stat()["enqcmd_exits"] - exits,
            self.host.log.since(host),
            self.guest.log.since(guest),
            self.events[start:],
            self.inside[inside:],
        )

    def submission(self, *, first: int = 0, block: bool = False) -> Outcome:
        """One copy: fill, ENQCMD, poll."""

        def work() -> None:
            self.app.clear()
            if self.app.submit(self.app.descriptor(first=first, block=block)):
                self.app.wait()

        return self.watch(work)

    def close(self) -> None:
        """All of it ends."""
        self.run(self._leave)
        self.vmm.shutdown()
        self.tenant.close()
        self.tenant.proc.exit()
        self.root.exit()
        self.host.shutdown()

    def _leave(self) -> None:
        for app in self.apps:
            app.proc.exit()
