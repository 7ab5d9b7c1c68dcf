"""What a virtual machine costs: PASID translation, entries and exits, a change of PASIDs under many processors."""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pykernel
from pykernel.iommu import ioasid as i
from pykernel.machine import parse
from pykernel.mm.phys import PhysMem
from pykernel.tools.bench.measure import Row, per_call
from pykernel.uapi.linux import kvm as k
from pykernel.virt.kvm.main import kvm_from_fd
from pykernel.virt.kvm.pasid import PasidTable
from pykernel.virt.kvm.vcpu import IN_GUEST_MODE, OUTSIDE_GUEST_MODE

__all__ = ["rows"]

COUNTS = (1, 8, 64)
EXITS = 200


def rows() -> Iterator[Row]:
    """Of the group "sva"."""
    table = PasidTable(PhysMem(size=64 << 20))
    table.set(0xABCDE, 202)
    yield Row("a guest's PASID translated", per_call(lambda: table.lookup(0xABCDE), calls=5000), 3e-6)
    kernel = pykernel.boot(parse("memory = '256M'\n[cpu]\nvmx = true\n[modules]\nkvm_intel = ''"))
    kernel.up()
    process = kernel.process()
    dev = process.open("/dev/kvm", os.O_RDWR)
    fd = process.ioctl(dev, k.KVM_CREATE_VM, 0)
    with kernel.as_task(process.task):
        vm = kvm_from_fd(kernel, fd)
    yield _exit(process, vm, fd)
    owner = i.ioasid_alloc_set(kernel, process.task.mm, 8, i.IOASID_SET_TYPE_MM)
    first = ""
    for count in COUNTS:
        name = f"a PASID bound and unbound, {count} processors kicked"
        yield Row(name, _kick(kernel, process, vm, fd, owner, count), 100e-6 + count * 3e-6, first)
        first = first or name
    i.ioasid_set_free(owner)
    process.exit()
    kernel.shutdown()


def _exit(process: Any, vm: Any, fd: int) -> Row:
    """RDMSR of the guest: out, answered in the kernel, in again."""
    processor = process.ioctl(fd, k.KVM_CREATE_VCPU, 0)

    def program(vcpu: Any) -> None:
        for _ in range(EXITS):
            vcpu.rdmsr(0x10)

    def run() -> None:
        guest = SimpleNamespace(kernel=None, vcpu=None, run=program)
        vm.vcpus[0].start(guest)
        process.ioctl(processor, k.KVM_RUN, 0)

    return Row("an exit of a virtual processor and its entry", per_call(run, calls=5) / EXITS, 20e-6)


def _kick(kernel: Any, process: Any, vm: Any, fd: int, owner: Any, count: int) -> float:
    """A BIND and an UNBIND while *count* processors are in the guest, each of which comes out at once."""
    for n in range(len(vm.vcpus), count):
        process.ioctl(fd, k.KVM_CREATE_VCPU, n)
    host = i.ioasid_alloc(owner, 1, 0xFFFFF)
    vcpus = list(vm.vcpus.values())[:count]

    def leave() -> None:
        for vcpu in vcpus:
            vcpu.mode = OUTSIDE_GUEST_MODE
        i.ioasid_flush_work(kernel)

    def once() -> None:
        for bind in (True, False):
            for vcpu in vcpus:
                vcpu.mode = IN_GUEST_MODE
            if bind:
                i.ioasid_attach_spid(kernel, host, 7)
            else:
                i.ioasid_detach_spid(kernel, host)
            leave()

    cost = per_call(once, calls=50)
    i.ioasid_free(owner, host)
    return cost
