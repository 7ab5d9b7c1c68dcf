"""KVM_CHECK_EXTENSION: what this KVM can (x86.c:kvm_vm_ioctl_check_extension())."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pykernel.uapi.linux import kvm as k

if TYPE_CHECKING:
    from pykernel.kernel import Kernel

__all__ = ["check_extension"]

# What works here; of the rest of Linux's list the answer is 0, which is what a VMM has to expect of each
CAPS: Final = {
    k.KVM_CAP_IRQCHIP: 1,
    k.KVM_CAP_HLT: 1,
    k.KVM_CAP_USER_MEMORY: 1,
    k.KVM_CAP_SET_TSS_ADDR: 1,
    k.KVM_CAP_EXT_CPUID: 1,
    k.KVM_CAP_CLOCKSOURCE: 1,
    k.KVM_CAP_MP_STATE: 1,
    k.KVM_CAP_SYNC_MMU: 1,
    k.KVM_CAP_DESTROY_MEMORY_REGION_WORKS: 1,
    k.KVM_CAP_JOIN_MEMORY_REGIONS_WORKS: 1,
    k.KVM_CAP_IRQ_ROUTING: 4096,
    k.KVM_CAP_IRQ_INJECT_STATUS: 1,
    k.KVM_CAP_IRQFD: 1,
    k.KVM_CAP_IRQFD_RESAMPLE: 1,
    k.KVM_CAP_SET_BOOT_CPU_ID: 1,
    k.KVM_CAP_IOEVENTFD: 1,
    k.KVM_CAP_IOEVENTFD_NO_LENGTH: 1,
    k.KVM_CAP_IOEVENTFD_ANY_LENGTH: 1,
    k.KVM_CAP_SET_IDENTITY_MAP_ADDR: 1,
    k.KVM_CAP_ADJUST_CLOCK: k.KVM_CLOCK_TSC_STABLE | k.KVM_CLOCK_REALTIME | k.KVM_CLOCK_HOST_TSC,
    k.KVM_CAP_INTERNAL_ERROR_DATA: 1,
    k.KVM_CAP_VCPU_EVENTS: 1,
    k.KVM_CAP_DEBUGREGS: 1,
    k.KVM_CAP_ENABLE_CAP: 1,
    k.KVM_CAP_ENABLE_CAP_VM: 1,
    k.KVM_CAP_XSAVE: 1,
    k.KVM_CAP_XSAVE2: 4096,
    k.KVM_CAP_XCRS: 1,
    k.KVM_CAP_GET_TSC_KHZ: 1,
    k.KVM_CAP_TSC_DEADLINE_TIMER: 1,
    k.KVM_CAP_SYNC_REGS: k.KVM_SYNC_X86_VALID_FIELDS,
    k.KVM_CAP_KVMCLOCK_CTRL: 1,
    k.KVM_CAP_SIGNAL_MSI: 1,
    k.KVM_CAP_READONLY_MEM: 1,
    k.KVM_CAP_DEVICE_CTRL: 1,
    k.KVM_CAP_CHECK_EXTENSION_VM: 1,
    k.KVM_CAP_MULTI_ADDRESS_SPACE: 2,
    k.KVM_CAP_IMMEDIATE_EXIT: 1,
    k.KVM_CAP_GET_MSR_FEATURES: 1,
    k.KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2: k.KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | k.KVM_DIRTY_LOG_INITIALLY_SET,
    k.KVM_CAP_HALT_POLL: 1,
    k.KVM_CAP_BINARY_STATS_FD: 1,
    k.KVM_CAP_MAX_VCPUS: 1024,
    k.KVM_CAP_MAX_VCPU_ID: 4096,
    k.KVM_CAP_NR_MEMSLOTS: 32764,
}


def check_extension(kernel: Kernel, cap: int) -> int:
    """C: ``int kvm_vm_ioctl_check_extension_generic(struct kvm *, long)``."""
    if cap == k.KVM_CAP_NR_VCPUS:
        return min(int(kernel.machine.cpus), 1024)
    return CAPS.get(cap, 0)
