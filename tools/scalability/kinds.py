"""
The ways to give an accelerator to many clients: one host with one DSA, and who gets which of its queues.

Whatever the machine is asked for it is asked by system calls, and who is refused is refused by its errno.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import pykernel
from pykernel import machine as machines
from pykernel.tools.dsa import BUS, enable_wq
from pykernel.tools.vmm.setup import enable, prepare
from pykernel.tools.vmm.vmm import Vmm

if TYPE_CHECKING:
    from pykernel.kernel import Kernel
    from pykernel.sched import Thread

__all__ = ["KINDS", "Kind", "Seat"]

DSA = "0000:6a:01.0"
SYSFS = f"/sys/bus/pci/devices/{DSA}"
VFS = 16  # how many virtual functions the part has; its 128 entries are divided among them
MEMORY = 32 << 20  # of a virtual machine


@dataclass
class Seat:
    """Where a client lives, a kernel, and the path of the queue that it may open."""

    kernel: Kernel
    path: str
    vmm: Vmm | None = None

    def call(self, fn: Callable[[], Any]) -> Any:
        """Run *fn* there: what it returns. Raises what it raises."""
        return fn() if self.vmm is None else self.vmm.run(fn)

    def spawn(self, fn: Callable[[], Any], name: str) -> Thread:
        """Let *fn* run there beside all others."""
        return self.kernel.spawn(fn, name) if self.vmm is None else self.vmm.spawn(fn, name)


class Kind:
    """
    A host that *clients* want to be served by.

    Attributes:
        entries: of all its queues together.
    """

    title: ClassVar[str]
    entries: int

    def __init__(self, clients: int, *, seed: int, profile: str) -> None:
        spec = machines.load("vmm")
        options = {"vfs": VFS, "vf_wq_size": 128 // VFS}
        spec = replace(spec, pci=tuple(replace(p, options={**p.options, **options}) for p in spec.pci))
        self.clients = clients
        self.host = pykernel.boot(spec, profile, seed=seed)
        self.root = self.host.process(comm="admin")
        self.vms: list[Vmm] = []

    def prepare(self) -> None:
        """What the administrator does once."""
        raise NotImplementedError

    def seat(self, n: int) -> Seat:
        """What is done for client *n*. Raises OSError: it cannot be served."""
        raise NotImplementedError

    def end(self) -> None:
        """Everything goes. Raises Leak: something stayed."""
        for vmm in self.vms:
            vmm.shutdown()
        self.root.exit()
        self.host.shutdown()

    def limit(self, attr: str) -> int:
        """A limit of the hardware: an attribute of the accelerator in sysfs."""
        return int(self.root.read_text(f"{BUS}/devices/dsa0/{attr}"))

    def boot(self, mdev: str) -> Vmm:
        """One more virtual machine, with a mediated device whose queue is ready. Raises OSError."""
        vmm = Vmm(self.host, name=f"vm{len(self.vms)}", memory=MEMORY, parent=DSA, mdev=mdev)
        self.vms.append(vmm)
        vmm.run(lambda: self._enable(vmm))
        return vmm

    @staticmethod
    def _enable(vmm: Vmm) -> None:
        proc = vmm.process(comm="admin")
        enable(proc)
        proc.exit()


class VirtualFunctions(Kind):
    """
    SR-IOV: client *n* has virtual function *n*, whose one queue is dedicated.

    It is a process of the host: a virtual function has no PASID capability of its own, so the driver in a virtual
    machine to which VFIO passes one has no shared address spaces.
    """

    title = "SR-IOV, a VF each"

    def prepare(self) -> None:
        """Ask for as many as there are clients; the hardware says how many there are."""
        wanted = self.clients
        try:
            self.root.write_text(f"{SYSFS}/sriov_numvfs", str(wanted))
        except OSError:  # ERANGE
            wanted = int(self.root.read_text(f"{SYSFS}/sriov_totalvfs"))
            self.root.write_text(f"{SYSFS}/sriov_numvfs", str(wanted))
        found = (re.fullmatch(r"dsa([1-9]\d*)", name) for name in self.root.listdir(f"{BUS}/devices"))
        self.numbers = sorted(int(m[1]) for m in found if m)
        self.entries = wanted * self._size(self.numbers[0])

    def _size(self, number: int) -> int:
        return int(self.root.read_text(f"{BUS}/devices/dsa{number}/max_work_queues_size"))

    def seat(self, n: int) -> Seat:
        """Who comes when all are taken finds the queue of another."""
        number = self.numbers[n % len(self.numbers)]
        wq = f"wq{number}.0"
        if n < len(self.numbers):
            enable_wq(self.root, wq, mode="dedicated", size=self._size(number))
        return Seat(self.host, f"/dev/dsa/{wq}")

    def end(self) -> None:
        """The functions go first."""
        self.root.write_text(f"{SYSFS}/sriov_numvfs", "0")
        super().end()


class DedicatedAdis(Kind):
    """Scalable IOV with a dedicated queue: client *n* is a process of virtual machine *n*, which has an mdev 1dwq."""

    title = "ADI, a queue and a VM each"

    def prepare(self) -> None:
        """All queues that there are, dedicated."""
        queues = self.limit("max_work_queues")
        prepare(self.root, shared=0, dedicated=queues)
        self.entries = sum(int(self.root.read_text(f"{BUS}/devices/wq0.{n}/size")) for n in range(queues))

    def seat(self, n: int) -> Seat:
        """As libvirt does, look whether there is one before a machine is started. Raises ENODEV."""
        mtype = f"{SYSFS}/mdev_supported_types/idxd-dsa-1dwq-v1"
        if not int(self.root.read_text(f"{mtype}/available_instances")):
            self.root.write_text(f"{mtype}/create", str(uuid.uuid5(uuid.NAMESPACE_URL, str(n))))
        vmm = self.boot("1dwq")
        return Seat(vmm.guest.kernel, "/dev/dsa/wq0.0", vmm)


class Shared(Kind):
    """ENQCMD: one shared queue with all entries that there are, for all processes of the host."""

    title = "shared queue, host processes"
    threshold = 0  # of the limited portal; 0: all entries

    def prepare(self) -> None:
        """One queue of type mdev: processes of the host and virtual machines may have it."""
        self.entries = self.limit("max_work_queues_size")
        names = {"driver_name": "mdev"} if "driver_name" in self.root.listdir(f"{BUS}/devices/wq0.0") else {}
        threshold = self.threshold or self.entries
        enable_wq(self.root, "wq0.0", mode="shared", size=self.entries, threshold=threshold, type="mdev", **names)

    def seat(self, n: int) -> Seat:
        """The same for everybody."""
        return Seat(self.host, "/dev/dsa/wq0.0")


class SharedByAll(Shared):
    """ENQCMD with PASID translation: the same queue for processes of eight virtual machines (1swq) and of the host."""

    title = "shared queue, 8 VMs and the host"
    machines = 8

    def seat(self, n: int) -> Seat:
        """The next machine's turn, and after the last one the host's."""
        turn = n % (self.machines + 1)
        if turn == self.machines:
            return super().seat(n)
        vmm = self.vms[turn] if turn < len(self.vms) else self.boot("1swq")
        return Seat(vmm.guest.kernel, "/dev/dsa/wq0.0", vmm)


KINDS: dict[str, type[Kind]] = {
    "vf": VirtualFunctions,
    "1dwq": DedicatedAdis,
    "swq": Shared,
    "1swq": SharedByAll,
}
