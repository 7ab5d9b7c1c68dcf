"""
What KVM does at a VM exit (arch/x86/kvm/vmx/vmx.c: kvm_vmx_exit_handlers[], x86.c).

A handler gives the answer for the guest, which goes on at once, or raises :class:`ToUser`: KVM_RUN returns with kvm_run
filled, and the next one goes on with what the VMM put there.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EFAULT
from typing import TYPE_CHECKING, Any, Final

from pykernel.cpu.trap import GP, UD, Trap
from pykernel.errors import err
from pykernel.uapi.linux import kvm as k
from pykernel.virt.kvm.vmcs import (
    EXIT_REASON_CPUID,
    EXIT_REASON_ENQCMD,
    EXIT_REASON_ENQCMDS,
    EXIT_REASON_EPT_VIOLATION,
    EXIT_REASON_EXTERNAL_INTERRUPT,
    EXIT_REASON_HLT,
    EXIT_REASON_MSR_READ,
    EXIT_REASON_MSR_WRITE,
    EXIT_REASON_TRIPLE_FAULT,
    GUEST_RFLAGS,
    VM_EXIT_REASON,
)

if TYPE_CHECKING:
    from pykernel.virt.kvm.vcpu import Exit, Vcpu

__all__ = ["HANDLERS", "ToUser", "handle"]


class ToUser(Exception):
    """The exit is the VMM's: *reason* is KVM_EXIT_*; *complete* gives the guest's answer at the next KVM_RUN."""

    def __init__(self, reason: int, complete: Callable[[], Any] | None = None) -> None:
        super().__init__(reason)
        self.reason, self.complete = reason, complete


def handle(vcpu: Vcpu, why: Exit) -> Any:
    """C: ``int vmx_handle_exit(struct kvm_vcpu *, fastpath_t)``: the answer. Raises ToUser; Trap, the guest's."""
    info = why.info
    vcpu.stat["exits"] += 1
    vcpu.vmcs.exited(why.reason, length=info.get("length", 0), gpa=info.get("gpa", 0))
    handler = HANDLERS.get(why.reason)
    if handler is None:
        _internal_error(vcpu, k.KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON, (why.reason,))
        raise ToUser(k.KVM_EXIT_INTERNAL_ERROR)
    return handler(vcpu, info)


def _internal_error(vcpu: Vcpu, suberror: int, data: tuple[int, ...] = ()) -> None:
    internal = vcpu.run.internal
    internal.suberror, internal.ndata = suberror, len(data)
    for at, value in enumerate(data):
        internal.data[at] = value


def handle_external_interrupt(vcpu: Vcpu, info: dict[str, Any]) -> None:
    """A kick, or the host has something else to run: nothing is to be done."""


def handle_halt(vcpu: Vcpu, info: dict[str, Any]) -> None:
    """C: ``int kvm_emulate_halt(struct kvm_vcpu *)``: without an interrupt controller in the kernel the VMM waits."""
    vcpu.stat["halt_exits"] += 1
    if not vcpu.vm.irqchip:
        raise ToUser(k.KVM_EXIT_HLT, lambda: None)
    if not vcpu.has_events():
        vcpu.mp_state = k.KVM_MP_STATE_HALTED


def handle_cpuid(vcpu: Vcpu, info: dict[str, Any]) -> tuple[int, int, int, int]:
    """C: ``int kvm_emulate_cpuid(struct kvm_vcpu *)``."""
    return vcpu.vm.cpuid(vcpu, info["leaf"], info["subleaf"])


def handle_rdmsr(vcpu: Vcpu, info: dict[str, Any]) -> int:
    """C: ``int kvm_emulate_rdmsr(struct kvm_vcpu *)``. Raises Trap: #GP."""
    return vcpu.msrs.get(info["index"])


def handle_wrmsr(vcpu: Vcpu, info: dict[str, Any]) -> None:
    """C: ``int kvm_emulate_wrmsr(struct kvm_vcpu *)``. Raises Trap: #GP."""
    vcpu.msrs.set(info["index"], info["value"])


def handle_ept(vcpu: Vcpu, info: dict[str, Any]) -> Any:
    """
    An address that the VMM emulates: an eventfd takes the store, or KVM_EXIT_MMIO.

    C: ``int handle_ept_violation(struct kvm_vcpu *)``, ``handle_ept_misconfig()``, ``x86.c:emulator_read_write()``.

    Raises:
        Trap: #UD, an instruction that the emulator does not know (64 bytes), in user mode.
        OSError: EFAULT, a slot without memory behind it.
    """
    gpa, size, write, value = info["gpa"], info["size"], info["write"], info["value"]
    if vcpu.vm.mmu.slots.find(gpa >> 12) is not None and not vcpu.vm.emulated(gpa, write=write):
        raise err(EFAULT, f"the VMM has no memory for guest-physical {gpa:#x}")
    if size == 64:
        if info.get("supervisor"):
            _internal_error(vcpu, k.KVM_INTERNAL_ERROR_EMULATION)
            raise ToUser(k.KVM_EXIT_INTERNAL_ERROR)
        raise Trap(UD, f"KVM does not emulate a store of 64 bytes to {gpa:#x}")
    if write and vcpu.vm.ioeventfds.write(gpa, size, value, pio=False):
        return None
    vcpu.stat["mmio_exits"] += 1
    run = vcpu.run.mmio
    run.phys_addr, run.len, run.is_write = gpa, size, int(write)
    run.data = value.to_bytes(size, "little").ljust(8, b"\0") if write else bytes(8)
    done = (lambda: None) if write else (lambda: int.from_bytes(bytes(vcpu.run.mmio.data)[:size], "little"))
    raise ToUser(k.KVM_EXIT_MMIO, done)


def handle_enqcmd(vcpu: Vcpu, info: dict[str, Any]) -> bool:
    """
    ENQCMD with a PASID that has no translation, which no well-behaved guest has: it is told "retry", and goes on.

    ZF=1 and no other flag, whatever a talk says of CF: Intel's manual has ZF, and so has Linux. The instruction is
    skipped, so a guest that retries for ever spins in itself; how often it happened counts ``enqcmd_exits``. With the
    parameter ``enqcmd_gp`` of kvm_intel it is what TDX does: #GP, or #UD for ENQCMDS. Raises Trap.
    """
    vcpu.stat["enqcmd_exits"] += 1
    if vcpu.vm.enqcmd_gp:
        raise Trap(GP, f"PASID {info['pasid']} has no translation")
    vcpu.vmcs.set_zf()
    vcpu.vmcs.skip()
    if vcpu.kernel.trace:
        fields = vcpu.vmcs.fields
        vcpu.kernel.trace(
            "kvm_enqcmd_exit", vcpu=vcpu.vcpu_id, reason=fields[VM_EXIT_REASON], rflags=fields[GUEST_RFLAGS]
        )
    return False


def handle_enqcmds(vcpu: Vcpu, info: dict[str, Any]) -> bool:
    """ENQCMDS likewise."""
    if vcpu.vm.enqcmd_gp:
        vcpu.stat["enqcmd_exits"] += 1
        raise Trap(UD, f"PASID {info['pasid']} has no translation")
    return handle_enqcmd(vcpu, info)


def handle_triple_fault(vcpu: Vcpu, info: dict[str, Any]) -> None:
    """The program is over: KVM_EXIT_SHUTDOWN; KVM_EXIT_INTERNAL_ERROR when an exception ended it."""
    if info.get("error") is None:
        raise ToUser(k.KVM_EXIT_SHUTDOWN)
    _internal_error(vcpu, k.KVM_INTERNAL_ERROR_EMULATION)
    raise ToUser(k.KVM_EXIT_INTERNAL_ERROR)


HANDLERS: Final[dict[int, Callable[[Vcpu, dict[str, Any]], Any]]] = {
    EXIT_REASON_EXTERNAL_INTERRUPT: handle_external_interrupt,
    EXIT_REASON_TRIPLE_FAULT: handle_triple_fault,
    EXIT_REASON_CPUID: handle_cpuid,
    EXIT_REASON_HLT: handle_halt,
    EXIT_REASON_MSR_READ: handle_rdmsr,
    EXIT_REASON_MSR_WRITE: handle_wrmsr,
    EXIT_REASON_EPT_VIOLATION: handle_ept,
    EXIT_REASON_ENQCMD: handle_enqcmd,
    EXIT_REASON_ENQCMDS: handle_enqcmds,
}
