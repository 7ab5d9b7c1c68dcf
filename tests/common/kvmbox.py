"""A host with a card that has an enqueue register, and virtual machines on it whose programs are functions."""

from __future__ import annotations

import os
from collections.abc import Callable
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, MAP_SHARED, PROT_READ, PROT_WRITE
from typing import Any, cast

from pykernel.iommu import ioasid as i
from pykernel.kernel import Kernel
from pykernel.machine import parse
from pykernel.pci.config import ConfigSpace
from pykernel.pci.core import Pci
from pykernel.pci.function import PciFunction
from pykernel.start import boot
from pykernel.syscalls import Process
from pykernel.uapi.linux import kvm as k
from pykernel.virt.kvm.main import kvm_from_fd, vcpu_from_fd

__all__ = ["CARD", "PORTAL", "Box", "Card", "Program", "Vm"]

CARD = "0000:00:05.0"
PORTAL = 0xF0000000  # guest-physical
RAM = 1 << 20
MACHINE = "[cpu]\nvmx = true\ncount = 2\n{more}\n[modules]\nkvm_intel = '{args}'\n"


class Card(PciFunction):
    """It takes every command, unless *full*; ``arrived`` are (PASID, PRIV, descriptor)."""

    def __init__(self) -> None:
        config = ConfigSpace(0x1234, 0x5678, 0x0B4000)
        config.add_bar(0, 0x1000)
        config.add_pcie(0x40, flags=0x92, devcap=0)
        config.add_dmwr_completer()
        config.settle()
        super().__init__(config)
        self.full = False
        self.arrived: list[tuple[int, int, bytes]] = []
        self.told: Callable[[int], None] = lambda _pasid: None

    def takes_dmwr(self, bar: int, off: int) -> bool:
        return True

    def dmwr(self, bar: int, off: int, data: bytes) -> bool:
        first = int.from_bytes(data[:4], "little")
        if self.full:
            return False
        self.arrived.append((first & 0xFFFFF, first >> 31, bytes(data[4:])))
        self.told(first & 0xFFFFF)
        return True


class Program:
    """A guest without a kernel: a function of the processor."""

    def __init__(self, fn: Callable[[Any], Any], kernel: Kernel | None = None) -> None:
        self.fn, self.kernel = fn, kernel
        self.vcpu: Any = None
        self.interrupts: list[tuple[int, int]] = []
        self.result: Any = None

    def run(self, vcpu: Any) -> None:
        self.result = self.fn(vcpu)

    def interrupt(self, address: int, data: int) -> None:
        self.interrupts.append((address, data))


class Vm:
    """A virtual machine of process *proc*, with RAM at 0 and the card's portal."""

    def __init__(self, box: Box, proc: Process, *, irqchip: bool = True, portal: bool = True) -> None:
        self.box, self.proc = box, proc
        self.kvm_fd = proc.open("/dev/kvm", os.O_RDWR)
        self.fd = proc.ioctl(self.kvm_fd, k.KVM_CREATE_VM, 0)
        with box.host.as_task(proc.task):
            self.vm = cast("Any", kvm_from_fd(box.host, self.fd))
        if irqchip:
            proc.ioctl(self.fd, k.KVM_CREATE_IRQCHIP, 0)
        self.ram = proc.mmap(0, RAM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS)
        self.region(0, 0, RAM, self.ram)
        if portal:
            self.region(1, PORTAL, 0x1000, box.map_portal(proc))
        self.vcpus: list[Any] = []
        self.fds: list[int] = []

    def region(self, slot: int, gpa: int, size: int, hva: int, flags: int = 0) -> None:
        row = k.kvm_userspace_memory_region(
            slot=slot, flags=flags, guest_phys_addr=gpa, memory_size=size, userspace_addr=hva
        )
        self.proc.ioctl(self.fd, k.KVM_SET_USER_MEMORY_REGION, row)

    def vcpu(self, fn: Callable[[Any], Any] | None = None) -> Any:
        fd = self.proc.ioctl(self.fd, k.KVM_CREATE_VCPU, len(self.fds))
        with self.box.host.as_task(self.proc.task):
            vcpu = vcpu_from_fd(self.box.host, fd)
        if fn is not None:
            vcpu.program = Program(fn)
        self.fds.append(fd)
        self.vcpus.append(vcpu)
        return vcpu

    def run(self, index: int = 0) -> int:
        """KVM_RUN: the exit reason. A secondary processor that was started meanwhile says EAGAIN first."""
        try:
            self.proc.ioctl(self.fds[index], k.KVM_RUN, 0)
        except BlockingIOError:
            return self.run(index)
        return int(self.vcpus[index].run.exit_reason)

    def loop(self, index: int = 0) -> int:
        """KVM_RUN until the program is over, emulating nothing: the last exit reason."""
        reason = self.run(index)
        while reason not in (k.KVM_EXIT_SHUTDOWN, k.KVM_EXIT_INTERNAL_ERROR, k.KVM_EXIT_FAIL_ENTRY):
            reason = self.run(index)
        return reason

    def execute(self, fn: Callable[[Any], Any]) -> Any:
        """Run *fn* as the program of a processor: what it returned."""
        vcpu = self.vcpu(fn)
        assert self.loop(len(self.fds) - 1) == k.KVM_EXIT_SHUTDOWN, vcpu.error
        return vcpu.program.result

    def close(self) -> None:
        for fd in (*self.fds, self.fd, self.kvm_fd):
            self.proc.close(fd)


class Box:
    """The host."""

    def __init__(
        self, more: str = "", args: str = "", profile: str = "linux-6.1", kernel: Kernel | None = None
    ) -> None:
        self.host = kernel or boot(parse(MACHINE.format(more=more, args=args)))
        self.host.up()
        pci = self.host.sub(Pci)
        self.card = Card()
        pci.plug(CARD, self.card)
        pci.rescan()
        self.procs: list[Process] = []
        self.sets: list[i.IoasidSet] = []

    def process(self) -> Process:
        proc = self.host.process()
        self.procs.append(proc)
        return proc

    def map_portal(self, proc: Process) -> int:
        proc.write_text(f"/sys/bus/pci/devices/{CARD}/enable", "1")
        fd = proc.open(f"/sys/bus/pci/devices/{CARD}/resource0", os.O_RDWR)
        at = proc.mmap(0, 0x1000, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
        proc.close(fd)
        return at

    def vm(self, **kw: Any) -> Vm:
        return Vm(self, self.process(), **kw)

    def ids(self, proc: Process, quota: int = 64) -> i.IoasidSet:
        """The set of *proc*'s address space."""
        self.sets.append(i.ioasid_alloc_set(self.host, proc.task.mm, quota, i.IOASID_SET_TYPE_MM))
        return self.sets[-1]

    def bind(self, owner: i.IoasidSet, pasid: int) -> int:
        """A PASID of the host for the guest's *pasid*, as the IOMMU's driver binds one; the IOMMU's reference."""
        host = i.ioasid_alloc(owner, 1, 0xFFFFF)
        self.rebind(owner, host, pasid)
        return host

    def rebind(self, owner: i.IoasidSet, host: int, pasid: int) -> None:
        i.ioasid_get(self.host, owner, host)
        i.ioasid_attach_spid(self.host, host, pasid)
        i.ioasid_flush_work(self.host)

    def unbind(self, host: int, *, flush: bool = True) -> None:
        i.ioasid_detach_spid(self.host, host)
        if flush:
            i.ioasid_flush_work(self.host)
        i.ioasid_put(self.host, None, host)

    def refs(self, host: int) -> int:
        data = self.host.sub(i.Ioasid).ids.get(host)
        return 0 if data is None else data.refs

    def shutdown(self) -> None:
        self.shutdown_only()
        self.host.shutdown()

    def shutdown_only(self) -> None:
        """All processes, and their PASIDs."""
        for proc in self.procs:
            if proc.exited is None:
                proc.exit()
        for owner in self.sets:
            for data in list(owner.spids.values()):
                self.unbind(data.id)
            i.ioasid_free_all_in_set(owner)
            i.ioasid_set_free(owner)
