"""
What a virtual machine is besides its memory, as ioctls tell it: processors, message routes, devices, IOMMU, clock.

All of it is of the guest: numbers of the host, PASIDs above all, are nowhere in it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from errno import E2BIG
from typing import TYPE_CHECKING, Final

from pykernel.uapi.linux import kvm as k

if TYPE_CHECKING:
    from pykernel.hw.vtd.tables import PasidEntry
    from pykernel.tools.vmm.kvm import KvmVcpu, KvmVm

__all__ = ["Clock", "DeviceState", "IommuState", "MachineState", "MsixState", "VcpuState", "features"]

# the order of QEMU's kvm_arch_put_registers(): what later ones depend on comes first; get, set, bytes
REGISTERS: Final = (
    (k.KVM_GET_REGS, k.KVM_SET_REGS, k.kvm_regs.sizeof()),
    (k.KVM_GET_XSAVE, k.KVM_SET_XSAVE, 4096),
    (k.KVM_GET_XCRS, k.KVM_SET_XCRS, k.kvm_xcrs.sizeof()),
    (k.KVM_GET_SREGS, k.KVM_SET_SREGS, k.kvm_sregs.sizeof()),
    (k.KVM_GET_FPU, k.KVM_SET_FPU, k.kvm_fpu.sizeof()),
    (k.KVM_GET_LAPIC, k.KVM_SET_LAPIC, k.kvm_lapic_state.sizeof()),
    (k.KVM_GET_VCPU_EVENTS, k.KVM_SET_VCPU_EVENTS, k.kvm_vcpu_events.sizeof()),
    (k.KVM_GET_DEBUGREGS, k.KVM_SET_DEBUGREGS, k.kvm_debugregs.sizeof()),
    (k.KVM_GET_MP_STATE, k.KVM_SET_MP_STATE, k.kvm_mp_state.sizeof()),
)
ROWS: Final = 255
MSR: Final = struct.Struct("<IIQ")
CPUID: Final = struct.Struct("<7I12x")
# (leaf, subleaf) -> which of EAX, EBX, ECX, EDX have a bit for each thing that a program may use
FEATURES: Final = {(1, 0): (2, 3), (7, 0): (1, 2, 3), (0xD, 0): (0, 3), (0xD, 1): (0, 2)}


@dataclass(frozen=True)
class VcpuState:
    """
    A processor: registers by the ioctl that sets them, and (number, value) of its MSRs.

    IA32_PASID is among the MSRs: the standard format of XSAVE has no place for its component, 10.
    """

    registers: tuple[tuple[int, bytes], ...]
    msrs: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, vcpu: KvmVcpu) -> VcpuState:
        """Read them. Raises OSError."""
        proc = vcpu.proc
        rows: list[tuple[int, bytes]] = []
        for get, put, size in REGISTERS:
            buf = bytearray(size)
            proc.ioctl(vcpu.fd, get, buf)
            rows.append((int(put), bytes(buf)))
        wanted = _index_list(vcpu.vm)
        msrs = bytearray(struct.pack("<II", len(wanted), 0) + b"".join(MSR.pack(index, 0, 0) for index in wanted))
        proc.ioctl(vcpu.fd, k.KVM_GET_MSRS, msrs)
        return cls(tuple(rows), tuple((index, value) for index, _, value in MSR.iter_unpack(msrs[8:])))

    def load(self, vcpu: KvmVcpu) -> None:
        """Write them: the time stamp counter goes on from where it was. Raises OSError; ValueError: it lacks an MSR."""
        for put, data in self.registers:
            vcpu.proc.ioctl(vcpu.fd, put, bytearray(data))
        rows = b"".join(MSR.pack(index, 0, value) for index, value in self.msrs)
        done = vcpu.proc.ioctl(vcpu.fd, k.KVM_SET_MSRS, bytearray(struct.pack("<II", len(self.msrs), 0) + rows))
        if done < len(self.msrs):
            raise ValueError(f"no MSR {self.msrs[done][0]:#x} = {self.msrs[done][1]:#x} here")


def _index_list(vm: KvmVm) -> list[int]:
    """KVM_GET_MSR_INDEX_LIST."""
    buf = bytearray(4 + 4 * ROWS)
    buf[:4] = ROWS.to_bytes(4, "little")
    vm.proc.ioctl(vm.kvm, k.KVM_GET_MSR_INDEX_LIST, buf)
    (n,) = struct.unpack_from("<I", buf)
    return list(struct.unpack_from(f"<{n}I", buf, 4))


def features(vm: KvmVm) -> dict[tuple[int, int, int], int]:
    """What programs in a machine may use (KVM_GET_SUPPORTED_CPUID): leaf, subleaf, register -> bits."""
    n = 64
    while True:
        buf = bytearray(struct.pack("<II", n, 0) + bytes(CPUID.size * n))
        try:
            vm.proc.ioctl(vm.kvm, k.KVM_GET_SUPPORTED_CPUID, buf)
        except OSError as e:
            if e.errno != E2BIG or n > ROWS:
                raise
            n *= 2
            continue
        (found,) = struct.unpack_from("<I", buf)
        rows = [CPUID.unpack_from(buf, 8 + CPUID.size * i) for i in range(found)]
        return {(*row[:2], n): row[3 + n] for row in rows for n in FEATURES.get(row[:2], ())}


@dataclass(frozen=True)
class Clock:
    """KVM's clock and the time stamp counter, in nanoseconds."""

    kvm: int

    @classmethod
    def of(cls, vm: KvmVm) -> Clock:
        """KVM_GET_CLOCK."""
        data = k.kvm_clock_data()
        vm.proc.ioctl(vm.fd, k.KVM_GET_CLOCK, data)
        return cls(int(data.clock))

    def load(self, vm: KvmVm) -> None:
        """KVM_SET_CLOCK: the guest was not there meanwhile, so no time passed."""
        vm.proc.ioctl(vm.fd, k.KVM_SET_CLOCK, k.kvm_clock_data(clock=self.kvm))


@dataclass(frozen=True)
class MsixState:
    """A device's MSI-X: the table, the two bits of Message Control, and which vectors are pending."""

    entries: bytes
    enabled: bool
    mask_all: bool
    pending: int


@dataclass(frozen=True)
class DeviceState:
    """A device: the stream of VFIO's migration, and what the VMM has of it."""

    stream: bytes
    msix: MsixState | None


@dataclass(frozen=True)
class IommuState:
    """
    The virtual IOMMU: its registers, among them heads and tails of its queues; virtual commands; root; PASIDs.

    Attributes:
        pasids: the guest's numbers.
        bound: those whose entry of the guest's table is in force, with it; 0: requests without PASID.
    """

    registers: bytes
    operand_b: int
    response: int
    root: int
    pasids: tuple[int, ...]
    bound: tuple[tuple[int, PasidEntry], ...]


@dataclass(frozen=True)
class MachineState:
    """All of a machine that is stopped."""

    vcpus: tuple[VcpuState, ...]
    devices: dict[str, DeviceState]
    iommu: IommuState
    clock: Clock
