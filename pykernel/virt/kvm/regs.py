"""
Registers of a virtual processor that its program, which is Python, does not have: stored and given back.

RIP and RFLAGS are VMCS fields on silicon; here they are of no use either, but for what KVM itself does to them.
"""

from __future__ import annotations

from errno import EINVAL
from typing import Final

from pykernel.errors import err
from pykernel.uapi.linux import kvm as k

__all__ = ["Registers"]

X86_EFLAGS_FIXED: Final = 1 << 1
CR0_RESET: Final = 0x60000010
CR4_RESERVED: Final = ~0x3FFFFF & (1 << 64) - 1


def _segment(selector: int, base: int, kind: int, *, s: int = 1) -> k.kvm_segment:
    return k.kvm_segment(base=base, limit=0xFFFF, selector=selector, type=kind, present=1, s=s)


class Registers:
    """What KVM_GET_REGS and its like give: the state after reset (SDM volume 3, table 10-1) at first."""

    def __init__(self) -> None:
        self.regs = k.kvm_regs(rdx=0x600, rip=0xFFF0, rflags=X86_EFLAGS_FIXED)
        self.sregs = k.kvm_sregs(cr0=CR0_RESET, apic_base=0xFEE00900)
        for name in ("ds", "es", "fs", "gs", "ss"):
            setattr(self.sregs, name, _segment(0, 0, 3))
        self.sregs.cs = _segment(0xF000, 0xFFFF0000, 11)
        self.sregs.tr = _segment(0, 0, 11, s=0)
        self.sregs.ldt = _segment(0, 0, 2, s=0)
        self.sregs.gdt.limit = self.sregs.idt.limit = 0xFFFF
        self.fpu = k.kvm_fpu(fcw=0x37F, mxcsr=0x1F80)
        self.debugregs = k.kvm_debugregs(dr6=0xFFFF0FF0, dr7=0x400)
        self.events = k.kvm_vcpu_events()
        self.xcr0 = 1
        self.lapic = k.kvm_lapic_state()

    def set_regs(self, regs: k.kvm_regs) -> None:
        """C: ``int kvm_arch_vcpu_ioctl_set_regs(...)``."""
        self.regs = k.kvm_regs.from_bytes(bytes(regs))
        self.regs.rflags |= X86_EFLAGS_FIXED

    def set_sregs(self, sregs: k.kvm_sregs) -> None:
        """
        C: ``int kvm_arch_vcpu_ioctl_set_sregs(...)``.

        Raises:
            EINVAL: reserved bits of CR4, CR0.PG without PE or against EFER.LMA, an APIC base that cannot be.
        """
        # arch/x86/kvm/x86.c:kvm_is_valid_sregs()
        pe, pg, lme, lma = sregs.cr0 & 1, sregs.cr0 >> 31 & 1, sregs.efer >> 8 & 1, sregs.efer >> 10 & 1
        if lme and pg:
            if not sregs.cr4 >> 5 & 1 or not lma:
                raise err(EINVAL, "long mode without PAE or LMA")
        elif lma or sregs.cs.l:
            raise err(EINVAL, "LMA or a 64-bit code segment without long mode")
        if sregs.cr4 & CR4_RESERVED or sregs.cr0 >> 32 or (pg and not pe):
            raise err(EINVAL, f"CR0 {sregs.cr0:#x}, CR4 {sregs.cr4:#x}")
        if (sregs.cr0 >> 29 & 1) and not sregs.cr0 >> 30 & 1:
            raise err(EINVAL, "CR0.NW without CD")
        if sregs.apic_base & 0xFF or sregs.apic_base >> 52 or sregs.apic_base & 0xC00 == 0x400:
            raise err(EINVAL, f"APIC base {sregs.apic_base:#x}")
        self.sregs = k.kvm_sregs.from_bytes(bytes(sregs))

    def load(self, given: k.kvm_sync_regs, classes: int) -> None:
        """From kvm_run. Raises EINVAL."""
        if classes & k.KVM_SYNC_X86_REGS:
            self.set_regs(given.regs)
        if classes & k.KVM_SYNC_X86_SREGS:
            self.set_sregs(given.sregs)
        if classes & k.KVM_SYNC_X86_EVENTS:
            self.set_events(given.events)

    def store(self, to: k.kvm_sync_regs, classes: int) -> None:
        """Into kvm_run."""
        if classes & k.KVM_SYNC_X86_REGS:
            to.regs = self.regs
        if classes & k.KVM_SYNC_X86_SREGS:
            to.sregs = self.sregs
        if classes & k.KVM_SYNC_X86_EVENTS:
            to.events = self.events

    def get_events(self) -> k.kvm_vcpu_events:
        """C: ``void kvm_vcpu_ioctl_x86_get_vcpu_events(...)``."""
        events = k.kvm_vcpu_events.from_bytes(bytes(self.events))
        events.flags = (
            k.KVM_VCPUEVENT_VALID_NMI_PENDING | k.KVM_VCPUEVENT_VALID_SHADOW | k.KVM_VCPUEVENT_VALID_SMM
        )  # sipi_vector is never valid when it is read
        return events

    def set_events(self, events: k.kvm_vcpu_events) -> None:
        """
        C: ``int kvm_vcpu_ioctl_x86_set_vcpu_events(...)``.

        Raises:
            EINVAL: flags that there are not or need a capability; an exception above 31, or number 2; both injected and
                pending; a system management interrupt flag without SMM.
        """
        known = (
            k.KVM_VCPUEVENT_VALID_NMI_PENDING
            | k.KVM_VCPUEVENT_VALID_SIPI_VECTOR
            | k.KVM_VCPUEVENT_VALID_SHADOW
            | k.KVM_VCPUEVENT_VALID_SMM
        )
        if events.flags & ~known:
            raise err(EINVAL, f"flags {events.flags:#x}")
        exception = events.exception
        if (exception.injected or exception.pending) and (exception.nr > 31 or exception.nr == 2):
            raise err(EINVAL, f"exception {exception.nr}")
        self.events = k.kvm_vcpu_events.from_bytes(bytes(events))
