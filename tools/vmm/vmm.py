"""
The VMM: a process of the host that makes a virtual machine of /dev/kvm, /dev/vfio and /dev/ioasid.

What a machine is made of stands in one place each: ``memory`` (its RAM), ``vcpus`` (descriptors and threads),
``devices`` (by their address on the guest's bus), ``viommu`` (its IOMMU), ``guest`` (the kernel inside).
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from errno import EAGAIN, ENODEV, ENOENT
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from greenlet import GreenletExit

from pykernel.mm.guest import GuestRam
from pykernel.tools.vmm.device import AssignedDevice
from pykernel.tools.vmm.extcaps import SvaRegisters, host_registers
from pykernel.tools.vmm.guest import CONSOLE_IRQ, ONLY_INSIDE, Guest
from pykernel.tools.vmm.kvm import KvmVcpu, KvmVm
from pykernel.tools.vmm.layout import DMAR_BASE, DMAR_SIZE, ECAM_BASE, ECAM_SIZE, ecam_address, ecam_offset
from pykernel.tools.vmm.memory import GuestMemory
from pykernel.tools.vmm.migration import Migration, Progress
from pykernel.tools.vmm.nesting import Nesting
from pykernel.tools.vmm.pasids import GuestPasids
from pykernel.tools.vmm.requests import PageRequests
from pykernel.tools.vmm.vfio import VfioContainer
from pykernel.tools.vmm.viommu import VirtualIommu
from pykernel.uapi.linux import kvm as k
from pykernel.uapi.linux import vfio as v

if TYPE_CHECKING:
    from pykernel.kernel import Kernel
    from pykernel.sched import Thread
    from pykernel.syscalls import Process

__all__ = ["DSA_SLOT", "Died", "Vmm"]

DSA_SLOT: Final = "0000:00:04.0"
MORE_SLOTS: Final = ("0000:00:05.0", "0000:00:06.0", "0000:00:07.0")
PCI: Final = "/sys/bus/pci"
POLLIN: Final = 1
PAGE: Final = 4096
LEAST_MEMORY: Final = 2 << 20  # with less a kernel has no room for its own
ALL_CPUS: Final = 0xFEEFF000  # the address of a message to every processor


class Died(RuntimeError):
    """A virtual machine does not run any more; the message says why."""


class Vmm:
    """
    A virtual machine on *host*.

    Args:
        memory: bytes of RAM.
        vcpus: processors.
        parent: the PCI address of the host's accelerator.
        mdev: "1swq" or "1dwq", a mediated device of *parent*; "": *parent* itself, or a virtual function, by vfio-pci.
        functions: PCI addresses of more functions of the host, by vfio-pci, too.
        pasids: which number the guest has for a PASID of the host's: "private" or "identity", which cannot migrate.
            It is identity where nothing is said of a machine with whole functions: the guest writes PASIDs into their
            queues itself. With private ones only shared queues, for which the processor translates, are of use to it.
        modules: what the guest loads.
        incoming: the machine that is to move here (:meth:`migrate`); until then this one is paused and has no guest.
    """

    def __init__(
        self,
        host: Kernel,
        *,
        name: str = "vm",
        memory: int = 64 << 20,
        vcpus: int = 1,
        parent: str = "0000:6a:01.0",
        mdev: str = "1swq",
        functions: Sequence[str] = (),
        pasids: str = "",
        modules: Mapping[str, str] | None = None,
        profile: str = "",
        cmdline: str = "",
        incoming: Vmm | None = None,
    ) -> None:
        if mdev and functions:
            raise ValueError(
                f"{name}: a mediated device has the host's PASIDs, functions {', '.join(functions)} have the guest's: "
                "one translation table of the processor's cannot serve both"
            )
        if len(functions) > len(MORE_SLOTS):
            raise ValueError(f"{name}: {len(functions)} more functions, but there are {len(MORE_SLOTS)} slots")
        if vcpus < 1:
            raise ValueError(f"{name}: {vcpus} processors, but there is one at least")
        if memory < LEAST_MEMORY or memory % PAGE:
            raise ValueError(
                f"{name}: {memory} bytes of memory; it is pages of {PAGE}, and {LEAST_MEMORY} bytes at least"
            )
        host.check_open()
        self.host, self.name, self.kind, self.parent = host, name, mdev, parent
        self.functions = () if mdev else (parent, *functions)
        self.mdev = str(uuid.uuid5(uuid.NAMESPACE_URL, name)) if mdev else ""
        self.devices: dict[str, AssignedDevice] = {}
        self.vcpus: list[KvmVcpu] = []
        self.threads: list[Thread] = []
        self.helpers: list[Thread] = []
        self.ram: GuestRam
        self.guest: Guest
        self.exits: dict[int, int] = {}
        self.parked: set[int] = set()
        self._paused, self._killed = incoming is not None, False
        self._taken: list[str] = []  # functions of the host that this VMM took from their drivers
        self._made = False  # the mediated device, by this VMM
        self.proc: Process = host.process(comm=f"vmm-{name}")
        try:
            self._build(memory, pasids or ("identity" if self.functions else "private"))
            if incoming is not None:
                self.ram, self.guest = incoming.ram, incoming.guest
            else:
                self.ram = GuestRam(memory)
                self.vm.back(self.ram)
                self.guest = Guest(
                    self.ram,
                    functions=self.devices,
                    modules={"idxd": ""} if modules is None else modules,
                    vcpus=vcpus,
                    profile=profile or host.profile.name,
                    cmdline=cmdline,
                    name=name,
                    now_ns=host.sched.clock_ns,
                )
                self.guest.kernel.barred = ONLY_INSIDE
            self._start(vcpus)
        except BaseException:
            self.retire(1)
            if incoming is None and hasattr(self, "ram"):
                self.ram.clear()
            raise

    # ---- what it is made of

    def _build(self, memory: int, pasids: str) -> None:
        host = self.host
        self.vm = KvmVm(self.proc)
        self.memory = GuestMemory(self.proc, memory)
        for area in self.memory.areas:
            self.vm.add(area.gpa, area.size, area.hva)
        self.container = VfioContainer(self.proc, v.VFIO_TYPE1_NESTING_IOMMU)
        self.nesting = Nesting(self.proc, self.container)
        self.pasids = GuestPasids(self.nesting, pasids, host.trace)
        slots = (DSA_SLOT, *MORE_SLOTS)[: len(self.functions) or 1]
        self.viommu = VirtualIommu(
            self.memory,
            self.pasids,
            [_source(slot) for slot in slots],
            self.vm.signal,
            respond=lambda what: self.requests.respond(what),
            drain=lambda: self.requests.drain(),
        )
        self.requests = PageRequests(self.nesting, self.pasids, self.viommu)
        if self.kind:
            self._plug(DSA_SLOT, self._mediated())
        for slot, function in zip(slots, self.functions, strict=False):
            sysfs = f"{PCI}/devices/{function}"
            if _driver(self.proc, sysfs) != "vfio-pci":  # else somebody gave it, or has it: then its group is busy
                self._taken.append(function)
                _override(self.proc, function, "vfio-pci")
            self._plug(slot, sysfs, host_registers(self.proc, sysfs))

    def _mediated(self) -> str:
        """A mediated device of the parent's: where it is in sysfs."""
        proc, sysfs = self.proc, f"{PCI}/devices/{self.parent}"
        driver = _driver(proc, sysfs)
        proc.write_text(f"{sysfs}/mdev_supported_types/{driver}-dsa-{self.kind}-v1/create", self.mdev)
        self._made = True
        return f"/sys/bus/mdev/devices/{self.mdev}"

    def _plug(self, address: str, sysfs: str, sva: SvaRegisters | None = None) -> None:
        """The host's device becomes one of the guest's: with the first one guest memory becomes the device's, too."""
        first, known = not self.devices, set(self.container.groups)
        device = self.container.device(sysfs)
        for number in self.container.groups.keys() - known:
            self.vm.add_group(self.container.groups[number])
        for area in self.memory.areas if first else ():
            self.container.map(area.hva, area.gpa, area.size)
        group = int(self.proc.readlink(f"{sysfs}/iommu_group").rsplit("/", 1)[-1])
        self.requests.sources[group] = _source(address)
        self.devices[address] = AssignedDevice(self.proc, device, address, self.vm, self.vm, sva)

    def _start(self, vcpus: int) -> None:
        """Processors, and the threads."""
        self.vm.load(self.guest)
        self.vcpus = [KvmVcpu(self.vm, n) for n in range(vcpus)]
        self._going = self.proc.eventfd(int(not self._paused))  # readable while the machine is not paused
        for vcpu in self.vcpus:
            vcpu.stop(on=self._paused)
            self.threads.append(self.host.spawn(partial(self._loop, vcpu), f"{self.name}/vcpu{vcpu.index}"))
        self.helpers.append(self.host.spawn(self.requests.loop, f"{self.name}/page-requests"))

    # ---- the threads of the processors

    def _loop(self, vcpu: KvmVcpu) -> None:
        while not self._killed:
            try:
                reason = vcpu.run()
            except InterruptedError:
                self._park(vcpu)
                continue
            self.exits[reason] = self.exits.get(reason, 0) + 1
            if reason == k.KVM_EXIT_MMIO:
                self._mmio(vcpu)
            elif reason in (k.KVM_EXIT_SHUTDOWN, k.KVM_EXIT_SYSTEM_EVENT):
                return
            elif reason == k.KVM_EXIT_INTERNAL_ERROR and vcpu.silicon.error is not None:
                raise vcpu.silicon.error
            elif reason not in (k.KVM_EXIT_INTR, k.KVM_EXIT_HLT):
                raise RuntimeError(f"{self.name}: exit {reason} is none that this VMM knows")

    def _park(self, vcpu: KvmVcpu) -> None:
        """Out of the guest until the machine goes on."""
        self.parked.add(vcpu.index)
        while self._paused:  # it may be so again since the poll saw the opposite
            self.proc.poll([(self._going, POLLIN)], -1)
        self.parked.discard(vcpu.index)

    def pause(self) -> None:
        """No processor executes the guest until :meth:`resume`; each is out when this returns."""
        self._paused = True
        self.proc.read(self._going, 8)
        for vcpu in self.vcpus:
            vcpu.stop(on=True)
        self.host.sched.idle_until(lambda: len(self.parked) == sum(not t.done for t in self.threads))

    def resume(self) -> None:
        """The processors go on where they were."""
        for vcpu in self.vcpus:
            vcpu.stop(on=False)
        self._paused = False
        self.proc.write(self._going, (1).to_bytes(8, "little"))

    def _mmio(self, vcpu: KvmVcpu) -> None:
        access = vcpu.mmio()
        if access.write:
            self.write(access.gpa, access.size, int.from_bytes(access.data, "little"))
        else:
            vcpu.answer(self.read(access.gpa, access.size).to_bytes(access.size, "little"))

    def read(self, gpa: int, size: int) -> int:
        """What a load finds that no memory slot answers: all ones where nothing is."""
        if ECAM_BASE <= gpa < ECAM_BASE + ECAM_SIZE:
            address, off = ecam_address(gpa - ECAM_BASE)
            if address in self.devices:
                return self.devices[address].config_read(off, size)
        elif DMAR_BASE <= gpa < DMAR_BASE + DMAR_SIZE:
            return self.viommu.read(gpa - DMAR_BASE, size)
        else:
            for device in self.devices.values():
                if hit := device.hit(gpa):
                    return device.mmio_read(*hit, size)
        return (1 << 8 * size) - 1

    def write(self, gpa: int, size: int, value: int) -> None:
        """What a store does that no memory slot takes: nothing where nothing is."""
        if ECAM_BASE <= gpa < ECAM_BASE + ECAM_SIZE:
            address, off = ecam_address(gpa - ECAM_BASE)
            if address in self.devices:
                self.devices[address].config_write(off, size, value)
        elif DMAR_BASE <= gpa < DMAR_BASE + DMAR_SIZE:
            self.viommu.write(gpa - DMAR_BASE, size, value)
        else:
            for device in self.devices.values():
                if hit := device.hit(gpa):
                    device.mmio_write(*hit, size, value)

    # ---- using it

    def spawn(self, fn: Callable[[], Any], name: str = "") -> Thread:
        """
        Let *fn* be a client of the guest; its ``done``, ``result`` and ``error`` tell what became of it.

        Raises:
            Died: the machine does not run. RuntimeError: called by a guest's program.
        """
        self.host.check_open()
        if self.proc.exited is not None or all(t.done for t in self.threads):
            raise self._died()
        thread = self.guest.spawn(fn, name)
        self.vm.signal(ALL_CPUS, CONSOLE_IRQ)
        return thread

    def run(self, fn: Callable[..., Any], *args: Any) -> Any:
        """
        Run *fn* as a client of the guest, on its processors: what it returns.

        Raises:
            Died: the machine does not run, or not to the end of *fn*. RuntimeError: called by a guest's program.
            What *fn* raised.
        """
        thread = self.spawn(lambda: fn(*args), getattr(fn, "__name__", ""))
        self.wait([thread])
        if isinstance(thread.error, GreenletExit):
            raise self._died()
        if thread.error is not None:
            raise thread.error
        return thread.result

    def wait(self, threads: list[Thread]) -> None:
        """Until clients of the guest ended. Raises Died: the machine ended before; RuntimeError as :meth:`run`."""
        self.host.check_open()
        self.host.sched.idle_until(lambda: all(t.done for t in threads) or all(t.done for t in self.threads))
        if not all(t.done for t in threads):
            raise self._died()

    def _died(self) -> Died:
        """Why nothing runs in the guest any more."""
        errors = [t.error for t in self.threads if t.error is not None]
        if errors:
            died = Died(f"{self.name} died: {type(errors[0]).__name__}: {errors[0]}")
            died.__cause__ = errors[0]
            return died
        return Died(f"{self.name} " + ("was killed, or is elsewhere" if self._killed else "was switched off"))

    def process(self, **kw: Any) -> Process:
        """A process of the guest, for a function that :meth:`run` gets."""
        return self.guest.kernel.process(**kw)

    # ---- moving

    def migrate(self, to: Kernel, *, parent: str = "", progress: Callable[[Progress], None] | None = None) -> Vmm:
        """
        Let the machine go on on host *to*, where an accelerator like this one is ready: the VMM there.

        What runs in the guest notices nothing; this VMM has ended then.

        Args:
            parent: the PCI address of the accelerator there; the same as here when it is not given.
            progress: told of each step before it is made; what it raises ends the migration.

        Raises:
            MigrationError: it cannot, or something failed: the machine goes on here as if nothing had been.
        """
        return Migration(self, to, parent or self.parent, progress).run()

    # ---- its end

    def shutdown(self) -> None:
        """
        Switch the machine off: its kernel shuts down first, then nothing of the VMM is left on the host.

        Raises:
            Leak: what the guest's kernel found left over.
            Died: the machine did not run any more; nothing of it is left now.
            OSError: EIO, the host does not take its device back.
        """
        self.host.check_open()
        if self.proc.exited is not None:
            return
        if any(t.error is not None for t in self.threads):
            died = self._died()
            self.kill()
            raise died
        self.guest.power_off()
        self.vm.signal(ALL_CPUS, CONSOLE_IRQ)
        self.host.sched.gather(self.threads)
        self.requests.stop()
        self.host.sched.gather(self.helpers)
        self.viommu.power_on()
        self.requests.close()
        self.proc.close(self._going)
        for vcpu in self.vcpus:
            vcpu.close()
        for device in self.devices.values():
            device.close()
        self.nesting.close()
        self.container.close()
        self.vm.close()
        self.ram.clear()
        self.memory.close()
        failed = None
        try:
            self._give_back(self.proc)
        except OSError as e:
            failed = e
        self.proc.exit()
        if self.guest.error is not None or failed is not None:
            raise self.guest.error or failed  # type: ignore[misc]

    def kill(self) -> None:
        """
        SIGKILL: what is in a system call ends it, the host's kernel cleans up; libvirt takes the device back.

        Raises:
            RuntimeError: called by a guest's program. OSError: EIO, the host does not take its device back.
        """
        self.host.check_open()
        if self.proc.exited is not None:
            return
        try:
            self.retire(137)
        finally:
            self.guest.crash()
            self.ram.clear()

    def retire(self, status: int = 0) -> None:
        """The process ends, and nothing of it stays on the host; what is of the guest is left alone."""
        self._killed = True
        if self.threads:
            self.resume()
            for vcpu in self.vcpus:
                vcpu.stop(on=True)
        if self.helpers:
            self.requests.stop()
        self.host.sched.run_until([*self.threads, *self.helpers])
        self.proc.exit(status)
        libvirt = self.host.process(comm="virtqemud")
        try:
            self._give_back(libvirt)
        finally:
            libvirt.exit()

    def _give_back(self, proc: Process) -> None:
        """What the host takes away itself, or has taken, is not given back."""
        made, self._made = self._made, False
        if made:
            try:
                proc.write_text(f"/sys/bus/mdev/devices/{self.mdev}/remove", "1")
            except OSError as e:
                if e.errno not in (ENOENT, ENODEV, EAGAIN):
                    raise
        there = proc.listdir(f"{PCI}/devices")
        while self._taken:
            function = self._taken.pop()
            if function in there:  # a virtual one may have been waiting to go
                _override(proc, function, "")


def _source(slot: str) -> int:
    """The requester ID of the function in *slot*."""
    return ecam_offset(slot) >> 12


def _driver(proc: Process, sysfs: str) -> str:
    """Who has a function of the host; "": nobody. Raises ENOENT: there is no such function."""
    return proc.readlink(f"{sysfs}/driver").rsplit("/", 1)[-1] if "driver" in proc.listdir(sysfs) else ""


def _override(proc: Process, function: str, driver: str) -> None:
    """Give a whole function of the host to *driver*, or with "" to whoever takes it."""
    sysfs = f"{PCI}/devices/{function}"
    proc.write_text(f"{sysfs}/driver_override", driver + "\n")
    if "driver" in proc.listdir(sysfs):
        proc.write_text(f"{sysfs}/driver/unbind", function)
    proc.write_text(f"{PCI}/drivers_probe", function)
