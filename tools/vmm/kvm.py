"""/dev/kvm as a VMM uses it: a machine with memory slots and message routes, and processors that run till they exit."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from mmap import MAP_SHARED, PROT_READ, PROT_WRITE
from typing import TYPE_CHECKING

from pykernel.uapi.linux import kvm as k
from pykernel.virt.kvm.vcpufile import VcpuFile
from pykernel.virt.kvm.vmfile import VmFile

if TYPE_CHECKING:
    from pykernel.mm.guest import GuestRam
    from pykernel.syscalls import Process
    from pykernel.virt.kvm.vcpu import Program, Vcpu
    from pykernel.virt.kvm.vm import Kvm

__all__ = ["KvmVcpu", "KvmVm", "MmioExit"]

# struct kvm_run: where the exit's reason and its details are
IMMEDIATE_EXIT, EXIT_REASON, DETAILS = 1, 8, 32
MMIO = struct.Struct("<Q8sIB")


@dataclass(frozen=True)
class MmioExit:
    """KVM_EXIT_MMIO: *size* bytes at *gpa*; a store has *data*."""

    gpa: int
    size: int
    write: bool
    data: bytes


@dataclass
class _Route:
    address: int
    data: int


class KvmVm:
    """A virtual machine's descriptor."""

    def __init__(self, proc: Process) -> None:
        self.proc = proc
        self.kvm = proc.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
        if proc.ioctl(self.kvm, k.KVM_GET_API_VERSION) != k.KVM_API_VERSION:
            raise RuntimeError("/dev/kvm speaks another version")
        self.run_size = proc.ioctl(self.kvm, k.KVM_GET_VCPU_MMAP_SIZE)
        self.fd = proc.ioctl(self.kvm, k.KVM_CREATE_VM, 0)
        proc.ioctl(self.fd, k.KVM_CREATE_IRQCHIP)
        self.slots: dict[int, tuple[int, int, int]] = {}
        self.routes: dict[int, _Route] = {}
        self._vfio = -1

    def load(self, program: Program) -> None:
        """What the processors execute: of silicon it would lie in memory, and no call would say it."""
        self._vm.program = program

    def leave(self) -> None:
        """The guest's kernel goes on elsewhere: its RAM is left to who is next."""
        self._vm.mmu.leave()

    def back(self, ram: GuestRam) -> None:
        """The guest's kernel has the slots' memory as *ram*, those to come among them: silicon needs no call for it."""
        self._vm.mmu.back(ram)

    @property
    def _vm(self) -> Kvm:
        file = self.proc.fds.get(self.fd)
        assert isinstance(file, VmFile)
        return file.vm

    # ---- memory slots

    def add(self, gpa: int, size: int, hva: int) -> int:
        """Let the guest see *size* bytes of the VMM at *hva*; the number of the slot."""
        slot = next(n for n in range(len(self.slots) + 1) if n not in self.slots)
        self._region(slot, gpa, size, hva)
        self.slots[slot] = (gpa, size, hva)
        return slot

    def remove(self, slot: int) -> None:
        """Not any more."""
        gpa, _, hva = self.slots.pop(slot)
        self._region(slot, gpa, 0, hva)

    def _region(self, slot: int, gpa: int, size: int, hva: int, flags: int = 0) -> None:
        row = k.kvm_userspace_memory_region(
            slot=slot, flags=flags, guest_phys_addr=gpa, memory_size=size, userspace_addr=hva
        )
        self.proc.ioctl(self.fd, k.KVM_SET_USER_MEMORY_REGION, row)

    def log(self, slot: int, *, on: bool) -> None:
        """Let KVM keep a log of the slot's pages that are written, or not any more."""
        self._region(slot, *self.slots[slot], flags=k.KVM_MEM_LOG_DIRTY_PAGES if on else 0)

    def dirty(self, slot: int, bitmap: int) -> bytes:
        """KVM_GET_DIRTY_LOG by way of a buffer at *bitmap*: a bit for each page written since the last call."""
        size = -(-(self.slots[slot][1] >> 12) // 64) * 8
        self.proc.ioctl(self.fd, k.KVM_GET_DIRTY_LOG, k.kvm_dirty_log(slot=slot, dirty_bitmap=bitmap))
        return bytes(self.proc.mem.read(bitmap, size))

    # ---- messages

    def attach(self, fd: int, address: int, data: int) -> int:
        """From now on eventfd *fd* is this message; the number of the route."""
        gsi = next(n for n in range(len(self.routes) + 1) if n not in self.routes)
        self.routes[gsi] = _Route(address, data)
        self._set_routes()
        self.proc.ioctl(self.fd, k.KVM_IRQFD, k.kvm_irqfd(fd=fd, gsi=gsi))
        return gsi

    def change(self, route: int, address: int, data: int) -> None:
        """Another message."""
        self.routes[route] = _Route(address, data)
        self._set_routes()

    def detach(self, route: int, fd: int) -> None:
        """No more."""
        self.proc.ioctl(self.fd, k.KVM_IRQFD, k.kvm_irqfd(fd=fd, gsi=route, flags=k.KVM_IRQFD_FLAG_DEASSIGN))
        del self.routes[route]
        self._set_routes()

    def _set_routes(self) -> None:
        rows = b"".join(
            struct.pack(
                "<IIIIIII20x", gsi, k.KVM_IRQ_ROUTING_MSI, 0, 0, m.address & 0xFFFFFFFF, m.address >> 32, m.data
            )
            for gsi, m in self.routes.items()
        )
        head = struct.pack("<II", len(self.routes), 0)
        self.proc.ioctl(self.fd, k.KVM_SET_GSI_ROUTING, bytearray(head + rows))

    def signal(self, address: int, data: int) -> None:
        """KVM_SIGNAL_MSI."""
        row = k.kvm_msi(address_lo=address & 0xFFFFFFFF, address_hi=address >> 32, data=data)
        self.proc.ioctl(self.fd, k.KVM_SIGNAL_MSI, row)

    # ---- VFIO

    def add_group(self, fd: int) -> None:
        """Tell KVM of a VFIO group of the machine's (the KVM VFIO device)."""
        if self._vfio < 0:
            made = k.kvm_create_device(type=k.KVM_DEV_TYPE_VFIO)
            self.proc.ioctl(self.fd, k.KVM_CREATE_DEVICE, made)
            self._vfio = int(made.fd)
        at = self.proc.mem.alloc(4)
        self.proc.mem.write(at, fd.to_bytes(4, "little"))
        row = k.kvm_device_attr(group=k.KVM_DEV_VFIO_GROUP, attr=k.KVM_DEV_VFIO_GROUP_ADD, addr=at)
        self.proc.ioctl(self._vfio, k.KVM_SET_DEVICE_ATTR, row)

    def close(self) -> None:
        """Give the descriptors back; the machine is gone when nobody else has it."""
        for fd in (self._vfio, self.fd, self.kvm):
            if fd >= 0:
                self.proc.close(fd)


class KvmVcpu:
    """A processor's descriptor and its shared page."""

    def __init__(self, vm: KvmVm, index: int) -> None:
        self.vm, self.index, self.proc = vm, index, vm.proc
        self.fd = self.proc.ioctl(vm.fd, k.KVM_CREATE_VCPU, index)
        self.page = self.proc.mmap(0, vm.run_size, PROT_READ | PROT_WRITE, MAP_SHARED, self.fd, 0)

    def run(self) -> int:
        """KVM_RUN: why it came back, KVM_EXIT_*."""
        try:
            self.proc.ioctl(self.fd, k.KVM_RUN, 0)
        except BlockingIOError:  # a secondary processor, which was started meanwhile
            return self.run()
        return int.from_bytes(self.proc.mem.read(self.page + EXIT_REASON, 4), "little")

    def mmio(self) -> MmioExit:
        """What it wants of which address."""
        gpa, data, size, write = MMIO.unpack(self.proc.mem.read(self.page + DETAILS, MMIO.size))
        return MmioExit(gpa, size, bool(write), data[:size])

    def answer(self, data: bytes) -> None:
        """What a load found."""
        self.proc.mem.write(self.page + DETAILS + 8, data)

    def stop(self, *, on: bool) -> None:
        """Let KVM_RUN come back at once, with EINTR, until this is off again."""
        self.proc.mem.write(self.page + IMMEDIATE_EXIT, bytes([on]))

    def adopt(self, other: KvmVcpu) -> None:
        """Execute what *other*, of another host, does; no call says it, as :meth:`KvmVm.load`."""
        self.silicon.adopt(other.silicon)

    @property
    def silicon(self) -> Vcpu:
        """What the guest's code sees."""
        file = self.proc.fds.get(self.fd)
        assert isinstance(file, VcpuFile)
        return file.vcpu

    def close(self) -> None:
        """Give it back."""
        self.proc.munmap(self.page, self.vm.run_size)
        self.proc.close(self.fd)
