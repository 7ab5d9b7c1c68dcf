"""
KVM_RUN: the loop around VM entries (arch/x86/kvm/x86.c: kvm_arch_vcpu_ioctl_run(), vcpu_run(), vcpu_block()).

There are no signals: ``kvm_run.immediate_exit`` stands for one that is pending, whenever it is set. As in Linux KVM_RUN
then fails with EINTR; out of a guest that runs or halts it says KVM_EXIT_INTR as well.
"""

from __future__ import annotations

from errno import EAGAIN, EINTR, EINVAL
from typing import TYPE_CHECKING, Any

from pykernel.cpu import Cpus
from pykernel.cpu.trap import Trap
from pykernel.errors import err
from pykernel.uapi.linux import kvm as k
from pykernel.virt.kvm.exits import ToUser, handle
from pykernel.virt.kvm.vcpu import IN_GUEST_MODE, OUTSIDE_GUEST_MODE, Exit, Vcpu, _Raise
from pykernel.virt.kvm.vmcs import VmxInstructionError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["kvm_arch_vcpu_ioctl_run"]


def kvm_arch_vcpu_ioctl_run(vcpu: Vcpu) -> int:
    """
    C: ``int kvm_arch_vcpu_ioctl_run(struct kvm_vcpu *)``.

    Raises:
        EINTR: immediate_exit. EAGAIN: a secondary processor was started meanwhile. EINVAL: register classes of kvm_run.
        EFAULT: the guest's memory is not there.
    """
    vcpu_load(vcpu)
    try:
        return _run(vcpu)
    finally:
        vcpu.store_regs()
        vcpu.run.ready_for_interrupt_injection = 1
        vcpu.run.if_flag = 1
        vcpu.run.apic_base = vcpu.apic_base


def vcpu_load(vcpu: Vcpu) -> None:
    """
    The host's state of the running task is saved, IA32_PASID among it: the guest's is another.

    C: ``void vcpu_load(struct kvm_vcpu *)``, ``kvm_load_guest_fpu()``. The task's is loaded again when it needs it.
    """
    kernel = vcpu.kernel
    kernel.sub(Cpus).of(kernel.current).save()


def _run(vcpu: Vcpu) -> int:
    run = vcpu.run
    run.flags = 0
    if vcpu.mp_state == k.KVM_MP_STATE_UNINITIALIZED:
        _wait_for_sipi(vcpu)
    if (run.kvm_valid_regs | run.kvm_dirty_regs) & ~k.KVM_SYNC_X86_VALID_FIELDS:
        raise err(EINVAL, "register classes that there are not")
    vcpu.sync_regs()
    complete, vcpu.complete = vcpu.complete, None
    if complete is not None:
        try:
            vcpu.answer = complete()
        except ToUser as e:
            return _to_user(vcpu, e)
    if vcpu.signal_pending():
        raise err(EINTR, "immediate_exit")
    vcpu.vm.before_run(vcpu)
    run.exit_reason = k.KVM_EXIT_UNKNOWN
    try:
        while True:
            if vcpu.mp_state == k.KVM_MP_STATE_RUNNABLE:
                vcpu_enter_guest(vcpu)
            else:
                vcpu_block(vcpu)
            _work_pending(vcpu)
    except ToUser as e:
        return _to_user(vcpu, e)


def _to_user(vcpu: Vcpu, e: ToUser) -> int:
    vcpu.run.exit_reason = e.reason
    vcpu.complete = e.complete
    return 0


def _wait_for_sipi(vcpu: Vcpu) -> None:
    # arch/x86/kvm/x86.c:kvm_arch_vcpu_ioctl_run(), KVM_MP_STATE_UNINITIALIZED
    if vcpu.signal_pending():
        raise err(EINTR, "immediate_exit")
    _block(vcpu, lambda: vcpu.mp_state != k.KVM_MP_STATE_UNINITIALIZED)
    if vcpu.signal_pending():
        vcpu.run.exit_reason = k.KVM_EXIT_INTR
        vcpu.stat["signal_exits"] += 1
        raise err(EINTR, "immediate_exit")
    raise err(EAGAIN, "it was started")


def _block(vcpu: Vcpu, cond: Callable[[], bool]) -> None:
    """C: ``bool kvm_vcpu_block(struct kvm_vcpu *)``."""
    sched = vcpu.kernel.sched
    left = max(vcpu.deadline - sched.clock_ns(), 0) if vcpu.deadline else None
    sched.idle_until(lambda: cond() or vcpu.signal_pending(), left, vcpu)


def vcpu_block(vcpu: Vcpu) -> None:
    """A halted processor: until it has something to do. C: ``int vcpu_block(struct kvm_vcpu *)``."""
    _block(vcpu, vcpu.has_events)
    if vcpu.has_events():
        vcpu.mp_state = k.KVM_MP_STATE_RUNNABLE


def _work_pending(vcpu: Vcpu) -> None:
    """C: ``int xfer_to_guest_mode_handle_work(struct kvm_vcpu *)``. Raises EINTR."""
    if vcpu.signal_pending():
        vcpu.run.exit_reason = k.KVM_EXIT_INTR
        vcpu.stat["signal_exits"] += 1
        raise err(EINTR, "immediate_exit")
    sched = vcpu.kernel.sched
    if sched.ready:
        sched.resched()


def vcpu_enter_guest(vcpu: Vcpu) -> None:
    """
    One VM entry and its exit. C: ``int vcpu_enter_guest(struct kvm_vcpu *)``.

    Raises:
        ToUser: the VMM has to do with it. EFAULT.
    """
    gate = vcpu.vm.gate
    if gate is not None and gate.closed:
        gate.wait_open()
    vcpu.requests = False
    if vcpu.deadline and vcpu.kernel.sched.clock_ns() >= vcpu.deadline:
        vcpu.deadline = 0  # the local timer's interrupt
    try:
        vcpu.vmcs.check()
    except VmxInstructionError as e:
        vcpu.run.fail_entry.hardware_entry_failure_reason = e.number
        vcpu.run.fail_entry.cpu = vcpu.kernel.sub(Cpus).of(vcpu.kernel.current).index
        raise ToUser(k.KVM_EXIT_FAIL_ENTRY) from None
    answer, vcpu.answer = vcpu.answer, None
    vcpu.mode = IN_GUEST_MODE
    try:
        why = vcpu.enter(answer)
    finally:
        vcpu.mode = OUTSIDE_GUEST_MODE
        if gate is not None:
            gate.left()
    vcpu.answer = _answer(vcpu, why)


def _answer(vcpu: Vcpu, why: Exit) -> Any:
    try:
        return handle(vcpu, why)
    except Trap as e:
        return _Raise(e)
    except OSError:
        vcpu.complete = lambda: _answer(vcpu, why)  # the same instruction again
        raise
