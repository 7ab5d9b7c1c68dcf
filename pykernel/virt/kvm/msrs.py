"""
Model-specific registers of a virtual processor (arch/x86/kvm/x86.c: kvm_set_msr_common(), msrs_to_save[]).

Most are stored and given back. IA32_PASID is the guest's own, reached without an exit: KVM has it between two runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pykernel.cpu.msr import IA32_PASID, IA32_XSS, PASID_MASK, PASID_VALID
from pykernel.cpu.trap import GP, Trap

if TYPE_CHECKING:
    from pykernel.virt.kvm.vcpu import Vcpu

__all__ = ["GuestMsrs", "feature_msrs", "index_list"]

IA32_TSC: Final = 0x10
IA32_APIC_BASE: Final = 0x1B
IA32_TSC_DEADLINE: Final = 0x6E0
U64: Final = (1 << 64) - 1
IA32_PAT: Final = 0x277
CANONICAL: Final = frozenset({0xC0000082, 0xC0000083, 0xC0000100, 0xC0000101, 0xC0000102})  # LSTAR, CSTAR, the bases
SYSENTER: Final = frozenset({0x175, 0x176})
APIC_ENABLE: Final = 1 << 11
X2APIC_ENABLE: Final = 1 << 10
SECOND_NS: Final = 10**9

# index -> value after reset, bits that may be written
STORED: Final = {
    0x174: (0, U64),  # IA32_SYSENTER_CS, ESP, EIP
    0x175: (0, U64),
    0x176: (0, U64),
    0xC0000081: (0, U64),  # IA32_STAR, LSTAR, CSTAR, FMASK
    0xC0000082: (0, U64),
    0xC0000083: (0, U64),
    0xC0000084: (0, U64),
    0xC0000100: (0, U64),
    0xC0000101: (0, U64),
    0xC0000102: (0, U64),
    0xC0000103: (0, 0xFFFFFFFF),  # IA32_TSC_AUX
    0xC0000080: (0, 0xD01),  # IA32_EFER
    0x277: (0x0007040600070406, 0x0707070707070707),  # IA32_PAT
    0x1A0: (1, U64),  # IA32_MISC_ENABLE
    0x3A: (0, 0x5),  # IA32_FEATURE_CONTROL
    0x3B: (0, U64),  # IA32_TSC_ADJUST
    0x2FF: (0, 0xCFF),  # IA32_MTRR_DEF_TYPE
    0x4B564D00: (0, U64),  # MSR_KVM_WALL_CLOCK_NEW, SYSTEM_TIME_NEW
    0x4B564D01: (0, U64),
}
READ_ONLY: Final = {0x8B: 0x100000000, 0xFE: 0x508, 0x10A: 0, 0xCE: 1 << 31}  # UCODE_REV, MTRRcap, ARCH_CAP, PLATFORM


def is_canonical(addr: int) -> bool:
    """Of 48 bits, sign-extended."""
    return addr >> 47 in (0, 0x1FFFF)


def pat_valid(value: int) -> bool:
    """C: ``bool kvm_pat_valid(u64)``: eight types, 0, 1, 4, 5, 6 or 7."""
    return all(value >> at & 0xFF in (0, 1, 4, 5, 6, 7) for at in range(0, 64, 8))


def index_list(has_enqcmd: bool) -> list[int]:
    """KVM_GET_MSR_INDEX_LIST."""
    extra = [IA32_PASID] if has_enqcmd else []
    return [IA32_TSC, *STORED, IA32_TSC_DEADLINE, IA32_XSS, *extra]


def feature_msrs(rows: dict[int, int]) -> dict[int, int]:
    """What /dev/kvm itself tells: KVM_GET_MSR_FEATURE_INDEX_LIST, of it KVM_GET_MSRS; *rows*: the VMX capabilities."""
    return {0x8B: READ_ONLY[0x8B], 0x10A: 0} | rows


class GuestMsrs:
    """The registers of *vcpu*."""

    def __init__(self, vcpu: Vcpu) -> None:
        self.vcpu = vcpu
        self.values = {index: reset for index, (reset, _) in STORED.items()}
        self.tsc_offset = 0
        self.xss = 0
        self.has_enqcmd = vcpu.vm.has("enqcmd")

    def get(self, index: int) -> int:
        """RDMSR. Raises Trap: #GP, no such register."""
        vcpu = self.vcpu
        if index in self.values:
            return self.values[index]
        if index in READ_ONLY:
            return READ_ONLY[index]
        if index == IA32_TSC:
            return vcpu.kernel.sched.clock_ns() + self.tsc_offset & U64
        if index == IA32_TSC_DEADLINE:
            return vcpu.deadline + self.tsc_offset & U64 if vcpu.deadline else 0
        if index == IA32_APIC_BASE:
            return vcpu.apic_base
        if index == IA32_XSS:
            return self.xss
        if index == IA32_PASID and self.has_enqcmd:
            return vcpu.fpu.pasid
        raise Trap(GP, f"RDMSR of {index:#x}")

    def _write_tsc(self, value: int) -> None:
        """
        Processors whose counters are written within a second of each other are to have the same.

        C: ``void kvm_synchronize_tsc(struct kvm_vcpu *, u64 *)``; a machine's first write counts as it is.
        """
        vm, offset = self.vcpu.vm, value - self.vcpu.kernel.sched.clock_ns()
        if vm.tsc_offset is None or abs(offset - vm.tsc_offset) >= SECOND_NS:
            vm.tsc_offset = offset
        self.tsc_offset = vm.tsc_offset

    @staticmethod
    def _storable(index: int, value: int) -> bool:
        if index == IA32_PAT:
            return pat_valid(value)
        return not value & ~(STORED[index][1] | STORED[index][0]) and (index not in CANONICAL or is_canonical(value))

    def _apic_base_valid(self, value: int) -> bool:
        """C: ``int kvm_set_apic_base(struct kvm_vcpu *, struct msr_data *)``, of the VMM."""
        features, widths = self.vcpu.find_cpuid(1, 0), self.vcpu.find_cpuid(0x80000008, 0)
        width = 36 if widths is None else widths.eax & 0xFF  # cpuid.c:cpuid_query_maxphyaddr()
        reserved = 0x2FF | U64 >> width << width
        if features is None or not features.ecx >> 21 & 1:
            reserved |= X2APIC_ENABLE
        return not value & reserved and value & (APIC_ENABLE | X2APIC_ENABLE) != X2APIC_ENABLE

    def set(self, index: int, value: int) -> None:
        """WRMSR. Raises Trap: #GP, no such register, read-only, or a reserved bit is set."""
        vcpu = self.vcpu
        if index in self.values and self._storable(index, value):
            # arch/x86/kvm/x86.c:__kvm_set_msr(): these are made canonical
            high = U64 >> 48 << 48 if index in SYSENTER and value >> 47 & 1 else 0
            self.values[index] = value & U64 >> 16 | high if index in SYSENTER else value
        elif index == IA32_TSC:
            self._write_tsc(value)
        elif index == IA32_TSC_DEADLINE:
            vcpu.deadline = max(value - self.tsc_offset, 1) if value else 0
        elif index == IA32_APIC_BASE and self._apic_base_valid(value):
            vcpu.apic_base = value
        elif index == IA32_XSS and not value & ~(1 << 10 if self.has_enqcmd else 0):
            self.xss = value
        elif index == IA32_PASID and self.has_enqcmd and not value & ~(PASID_VALID | PASID_MASK):
            vcpu.fpu.pasid = value
        else:
            raise Trap(GP, f"WRMSR of {index:#x}, value {value:#x}")
