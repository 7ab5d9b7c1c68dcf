"""
The VMCS: fields by their encodings (Intel SDM volume 3, appendix B), the capability MSRs, and the checks of VM entry.

Of the fields those are there that this hypervisor has a use for; VMREAD and VMWRITE of another one fail as they do for
an unsupported component. What the manual leaves open of "PASID translation" is decided here: the two directories must
be page-aligned and have no bits beyond the processor's physical-address width, or VM entry fails with an invalid
control field; the exit qualification of exits 72 and 73 is 0, and the failing PASID is not told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pykernel.cpu.cpuid import MAXPHYADDR
from pykernel.cpu.msr import Msr
from pykernel.mm.phys import PAGE_SIZE, PhysMem
from pykernel.virt.kvm.pasid import lookup

if TYPE_CHECKING:
    from pykernel.virt.kvm.vm import Kvm

__all__ = ["FIELDS", "Vmcs", "VmxInstructionError", "capability_msrs"]

# arch/x86/include/uapi/asm/vmx.h; 72 and 73: SDM appendix C
EXIT_REASON_EXCEPTION_NMI: Final = 0
EXIT_REASON_EXTERNAL_INTERRUPT: Final = 1
EXIT_REASON_TRIPLE_FAULT: Final = 2
EXIT_REASON_CPUID: Final = 10
EXIT_REASON_HLT: Final = 12
EXIT_REASON_MSR_READ: Final = 31
EXIT_REASON_MSR_WRITE: Final = 32
EXIT_REASON_INVALID_STATE: Final = 33
EXIT_REASON_EPT_VIOLATION: Final = 48
EXIT_REASON_EPT_MISCONFIG: Final = 49
EXIT_REASON_ENQCMD: Final = 72
EXIT_REASON_ENQCMDS: Final = 73

VIRTUAL_PROCESSOR_ID: Final = 0x0000
MSR_BITMAP: Final = 0x2004
EPT_POINTER: Final = 0x201A
XSS_EXIT_BITMAP: Final = 0x202C
LOW_PASID_DIRECTORY: Final = 0x2038
HIGH_PASID_DIRECTORY: Final = 0x203A
GUEST_PHYSICAL_ADDRESS: Final = 0x2400
VMCS_LINK_POINTER: Final = 0x2800
PIN_BASED_VM_EXEC_CONTROL: Final = 0x4000
CPU_BASED_VM_EXEC_CONTROL: Final = 0x4002
EXCEPTION_BITMAP: Final = 0x4004
SECONDARY_VM_EXEC_CONTROL: Final = 0x401E
VM_INSTRUCTION_ERROR: Final = 0x4400
VM_EXIT_REASON: Final = 0x4402
VM_EXIT_INSTRUCTION_LEN: Final = 0x440C
EXIT_QUALIFICATION: Final = 0x6400
GUEST_RSP: Final = 0x681C
GUEST_RIP: Final = 0x681E
GUEST_RFLAGS: Final = 0x6820

FIELDS: Final = {
    VIRTUAL_PROCESSOR_ID: "virtual-processor identifier",
    MSR_BITMAP: "address of MSR bitmaps",
    EPT_POINTER: "EPT pointer",
    XSS_EXIT_BITMAP: "XSS-exiting bitmap",
    LOW_PASID_DIRECTORY: "low PASID directory address",
    HIGH_PASID_DIRECTORY: "high PASID directory address",
    GUEST_PHYSICAL_ADDRESS: "guest-physical address",
    VMCS_LINK_POINTER: "VMCS link pointer",
    PIN_BASED_VM_EXEC_CONTROL: "pin-based VM-execution controls",
    CPU_BASED_VM_EXEC_CONTROL: "primary processor-based VM-execution controls",
    EXCEPTION_BITMAP: "exception bitmap",
    SECONDARY_VM_EXEC_CONTROL: "secondary processor-based VM-execution controls",
    VM_INSTRUCTION_ERROR: "VM-instruction error",
    VM_EXIT_REASON: "exit reason",
    VM_EXIT_INSTRUCTION_LEN: "VM-exit instruction length",
    EXIT_QUALIFICATION: "exit qualification",
    GUEST_RSP: "guest RSP",
    GUEST_RIP: "guest RIP",
    GUEST_RFLAGS: "guest RFLAGS",
}
READ_ONLY: Final = frozenset(
    {GUEST_PHYSICAL_ADDRESS, VM_INSTRUCTION_ERROR, VM_EXIT_REASON, VM_EXIT_INSTRUCTION_LEN, EXIT_QUALIFICATION}
)

# primary controls: HLT exiting, use MSR bitmaps, activate secondary controls
CPU_BASED_HLT_EXITING: Final = 1 << 7
CPU_BASED_USE_MSR_BITMAPS: Final = 1 << 28
CPU_BASED_ACTIVATE_SECONDARY_CONTROLS: Final = 1 << 31
# secondary controls
SECONDARY_EXEC_ENABLE_EPT: Final = 1 << 1
SECONDARY_EXEC_ENABLE_VPID: Final = 1 << 5
SECONDARY_EXEC_ENABLE_XSAVES: Final = 1 << 20
SECONDARY_EXEC_PASID_TRANSLATION: Final = 1 << 21
PIN_BASED_EXT_INTR_MASK: Final = 1 << 0

PIN_DEFAULT1: Final = 0x16
CPU_DEFAULT1: Final = 0x0401E172
XSS_PASID: Final = 1 << 10

VMXERR_ENTRY_INVALID_CONTROL_FIELD: Final = 7
VMXERR_UNSUPPORTED_VMCS_COMPONENT: Final = 12
VMXERR_WRITE_VMCS_READ_ONLY_COMPONENT: Final = 13

_RFLAGS_FIXED: Final = 0x2
ARITHMETIC: Final = 0x8D5  # CF, PF, AF, ZF, SF, OF
ZF: Final = 1 << 6


class VmxInstructionError(ArithmeticError):
    """VMfailValid: ``number`` is what the VM-instruction error field says (SDM volume 3, 31.4)."""

    def __init__(self, number: int, why: str) -> None:
        super().__init__(f"VMX instruction error {number}: {why}")
        self.number = number


def _allowed(must: int, may: int) -> int:
    """A capability MSR: bits 31:0 are the controls that must be 1, bits 63:32 those that may be."""
    return must | (must | may) << 32


def secondary_allowed(has_enqcmd: bool) -> int:
    """Secondary controls that the part has."""
    both = SECONDARY_EXEC_ENABLE_EPT | SECONDARY_EXEC_ENABLE_VPID | SECONDARY_EXEC_ENABLE_XSAVES
    return both | (SECONDARY_EXEC_PASID_TRANSLATION if has_enqcmd else 0)


def capability_msrs(has_enqcmd: bool) -> tuple[Msr, ...]:
    """IA32_VMX_BASIC to IA32_VMX_EPT_VPID_CAP, read-only (SDM volume 3, appendix A)."""
    pin = _allowed(PIN_DEFAULT1, PIN_BASED_EXT_INTR_MASK)
    proc = CPU_BASED_HLT_EXITING | CPU_BASED_USE_MSR_BITMAPS | CPU_BASED_ACTIVATE_SECONDARY_CONTROLS
    rows = {
        0x480: ("IA32_VMX_BASIC", 4 | PAGE_SIZE << 32 | 6 << 50 | 1 << 54 | 1 << 55),
        0x481: ("IA32_VMX_PINBASED_CTLS", pin),
        0x482: ("IA32_VMX_PROCBASED_CTLS", _allowed(CPU_DEFAULT1, proc)),
        0x483: ("IA32_VMX_EXIT_CTLS", _allowed(0x00036DFF, 0)),
        0x484: ("IA32_VMX_ENTRY_CTLS", _allowed(0x000011FF, 0)),
        0x485: ("IA32_VMX_MISC", 0),
        0x48A: ("IA32_VMX_VMCS_ENUM", 0x2E),
        0x48B: ("IA32_VMX_PROCBASED_CTLS2", _allowed(0, secondary_allowed(has_enqcmd))),
        0x48C: ("IA32_VMX_EPT_VPID_CAP", 1 << 0 | 1 << 6 | 1 << 14 | 1 << 16 | 1 << 17 | 1 << 21),
        0x48D: ("IA32_VMX_TRUE_PINBASED_CTLS", pin),
        0x48E: ("IA32_VMX_TRUE_PROCBASED_CTLS", _allowed(0x04006172, proc)),
    }
    return tuple(Msr(index, name, value, 0) for index, (name, value) in rows.items())


class Vmcs:
    """
    The VMCS of one virtual processor of *vm*, as KVM sets it up.

    The control "PASID translation" is on whenever the part has ENQCMD, even while the tables are empty: without it
    the number of a guest would go to the device as it is, and be another's.
    """

    def __init__(self, vm: Kvm) -> None:
        self.phys = vm.kernel.sub(PhysMem)
        self.has_enqcmd = vm.has("enqcmd")
        self._allowed = {row.index: row.reset for row in capability_msrs(self.has_enqcmd)}
        table = vm.pasid_table
        secondary = secondary_allowed(self.has_enqcmd)
        self.fields = dict.fromkeys(FIELDS, 0) | {
            PIN_BASED_VM_EXEC_CONTROL: PIN_DEFAULT1 | PIN_BASED_EXT_INTR_MASK,
            CPU_BASED_VM_EXEC_CONTROL: CPU_DEFAULT1
            | CPU_BASED_HLT_EXITING
            | CPU_BASED_USE_MSR_BITMAPS
            | CPU_BASED_ACTIVATE_SECONDARY_CONTROLS,
            SECONDARY_VM_EXEC_CONTROL: secondary,
            EPT_POINTER: vm.mmu.ept.eptp,
            LOW_PASID_DIRECTORY: table.low if table is not None else 0,
            HIGH_PASID_DIRECTORY: table.high if table is not None else 0,
            XSS_EXIT_BITMAP: (1 << 64) - 1 & ~(XSS_PASID if self.has_enqcmd else 0),
            VMCS_LINK_POINTER: (1 << 64) - 1,
            GUEST_RFLAGS: _RFLAGS_FIXED,
            GUEST_RIP: 0xFFF0,
        }

    # ---- VMREAD, VMWRITE

    def _field(self, encoding: int) -> tuple[int, bool]:
        """The field, and whether it is its high half (bit 0, of 64-bit fields)."""
        high = bool(encoding & 1) and encoding >> 13 & 3 == 1
        return (encoding - 1 if high else encoding), high

    def read(self, encoding: int) -> int:
        """VMREAD; an odd encoding of a 64-bit field is its high half. Raises VmxInstructionError 12."""
        field, high = self._field(encoding)
        if field not in self.fields:
            raise VmxInstructionError(VMXERR_UNSUPPORTED_VMCS_COMPONENT, f"no field {encoding:#x}")
        return self.fields[field] >> 32 if high else self.fields[field]

    def write(self, encoding: int, value: int) -> None:
        """VMWRITE. Raises VmxInstructionError 12, or 13: it is read-only."""
        field, high = self._field(encoding)
        if field not in self.fields:
            raise VmxInstructionError(VMXERR_UNSUPPORTED_VMCS_COMPONENT, f"no field {encoding:#x}")
        if field in READ_ONLY:
            raise VmxInstructionError(VMXERR_WRITE_VMCS_READ_ONLY_COMPONENT, f"field {encoding:#x} is read-only")
        width = 32 if encoding >> 13 & 3 == 2 else 16 if encoding >> 13 & 3 == 0 else 64
        value &= (1 << width) - 1
        self.fields[field] = self.fields[field] & 0xFFFFFFFF | (value & 0xFFFFFFFF) << 32 if high else value

    # ---- VM entry

    def check(self) -> None:
        """
        The checks of the execution controls at VM entry (SDM volume 3, 27.2.1.1).

        Raises:
            VmxInstructionError: 7.
        """
        fields = self.fields
        for name, msr in (
            (PIN_BASED_VM_EXEC_CONTROL, 0x481),
            (CPU_BASED_VM_EXEC_CONTROL, 0x482),
            (SECONDARY_VM_EXEC_CONTROL, 0x48B),
        ):
            allowed = self._allowed[msr]
            if fields[name] & ~(allowed >> 32) or allowed & 0xFFFFFFFF & ~fields[name]:
                raise VmxInstructionError(
                    VMXERR_ENTRY_INVALID_CONTROL_FIELD, f"{FIELDS[name]} {fields[name]:#x}, allowed are {allowed:#x}"
                )
        if not self.pasid_translation:
            return
        for name in (LOW_PASID_DIRECTORY, HIGH_PASID_DIRECTORY):
            if fields[name] & PAGE_SIZE - 1 or fields[name] >> MAXPHYADDR:
                raise VmxInstructionError(VMXERR_ENTRY_INVALID_CONTROL_FIELD, f"{FIELDS[name]} {fields[name]:#x}")

    @property
    def pasid_translation(self) -> bool:
        """The secondary control "PASID translation", bit 21."""
        secondary = self.fields[CPU_BASED_VM_EXEC_CONTROL] & CPU_BASED_ACTIVATE_SECONDARY_CONTROLS
        return bool(secondary and self.fields[SECONDARY_VM_EXEC_CONTROL] & SECONDARY_EXEC_PASID_TRANSLATION)

    def translate_pasid(self, pasid: int) -> int:
        """What ENQCMD sends for the guest's *pasid*; -1: a VM exit. Without the control the number itself."""
        if not self.pasid_translation:
            return pasid
        fields = self.fields
        return lookup(self.phys, fields[LOW_PASID_DIRECTORY], fields[HIGH_PASID_DIRECTORY], pasid)

    # ---- VM exit

    def exited(self, reason: int, *, qualification: int = 0, length: int = 0, gpa: int = 0) -> None:
        """What the processor writes at a VM exit."""
        self.fields |= {
            VM_EXIT_REASON: reason,
            EXIT_QUALIFICATION: qualification,
            VM_EXIT_INSTRUCTION_LEN: length,
            GUEST_PHYSICAL_ADDRESS: gpa,
        }

    def skip(self) -> None:
        """The next instruction. C: ``int skip_emulated_instruction(struct kvm_vcpu *)``."""
        self.fields[GUEST_RIP] = self.fields[GUEST_RIP] + self.fields[VM_EXIT_INSTRUCTION_LEN] & (1 << 64) - 1

    def set_zf(self) -> None:
        """ZF=1 and no other arithmetic flag: "retry"."""
        self.fields[GUEST_RFLAGS] = self.fields[GUEST_RFLAGS] & ~ARITHMETIC | ZF
