"""
``linux/kvm.h`` and ``asm/kvm.h`` of x86: virtual machines, as in Linux 6.1.

What only other processors have is left out (``OMITTED``). ``KVM_SET_USER_MEMORY_REGION`` and its like belong to a VM's
descriptor, ``KVM_RUN`` to a virtual processor's; the first few to that of /dev/kvm. Some numbers mean two things: that
of ``KVM_GET_PIT2`` is a VM's, and with another size ``KVM_GET_VCPU_EVENTS`` of a processor.
"""

from __future__ import annotations

from collections.abc import MutableSequence
from enum import IntEnum
from typing import Annotated, Any, Final

from pykernel.uapi.ioctl import _IO, _IOR, _IOW, _IOWR
from pykernel.uapi.struct import (
    ZERO,
    Bits,
    CType,
    Struct,
    Union,
    anon_struct,
    anon_union,
    char,
    s16,
    s32,
    s64,
    u8,
    u16,
    u32,
    u64,
)

KVMIO: Final = 0xAE
KVM_PIO_PAGE_OFFSET: Final = 1
KVM_COALESCED_MMIO_PAGE_OFFSET: Final = 2
KVM_DIRTY_LOG_PAGE_OFFSET: Final = 64
DE_VECTOR: Final = 0
DB_VECTOR: Final = 1
BP_VECTOR: Final = 3
OF_VECTOR: Final = 4
BR_VECTOR: Final = 5
UD_VECTOR: Final = 6
NM_VECTOR: Final = 7
DF_VECTOR: Final = 8
TS_VECTOR: Final = 10
NP_VECTOR: Final = 11
SS_VECTOR: Final = 12
GP_VECTOR: Final = 13
PF_VECTOR: Final = 14
MF_VECTOR: Final = 16
AC_VECTOR: Final = 17
MC_VECTOR: Final = 18
XM_VECTOR: Final = 19
VE_VECTOR: Final = 20
KVM_NR_INTERRUPTS: Final = 256


class kvm_memory_alias(Struct):
    """Of ``KVM_SET_MEMORY_ALIAS``."""

    slot: u32 = 0
    flags: u32 = 0
    guest_phys_addr: u64 = 0
    memory_size: u64 = 0
    target_phys_addr: u64 = 0


class kvm_pic_state(Struct):
    """One 8259A, in ``kvm_irqchip``."""

    last_irr: u8 = 0
    irr: u8 = 0
    imr: u8 = 0
    isr: u8 = 0
    priority_add: u8 = 0
    irq_base: u8 = 0
    read_reg_select: u8 = 0
    poll: u8 = 0
    special_mask: u8 = 0
    init_state: u8 = 0
    auto_eoi: u8 = 0
    rotate_on_auto_eoi: u8 = 0
    special_fully_nested_mode: u8 = 0
    init4: u8 = 0
    elcr: u8 = 0
    elcr_mask: u8 = 0


KVM_IOAPIC_NUM_PINS: Final = 24


class kvm_ioapic_state_redirtbl_fields(Struct, ctype="__typeof__(((struct kvm_ioapic_state *)0)->redirtbl[0].fields)"):
    """The ``redirtbl.fields`` of ``kvm_ioapic_state``."""

    vector: u8 = 0
    delivery_mode: Annotated[u8, Bits(3)] = 0
    dest_mode: Annotated[u8, Bits(1)] = 0
    delivery_status: Annotated[u8, Bits(1)] = 0
    polarity: Annotated[u8, Bits(1)] = 0
    remote_irr: Annotated[u8, Bits(1)] = 0
    trig_mode: Annotated[u8, Bits(1)] = 0
    mask: Annotated[u8, Bits(1)] = 0
    reserve: Annotated[u8, Bits(7)] = 0
    reserved: Annotated[bytes, u8, 4] = b""
    dest_id: u8 = 0


class kvm_ioapic_state_redirtbl(Union, ctype="__typeof__(((struct kvm_ioapic_state *)0)->redirtbl[0])"):
    """The ``redirtbl`` of ``kvm_ioapic_state``."""

    bits: u64 = 0
    fields: kvm_ioapic_state_redirtbl_fields = ZERO


class kvm_ioapic_state(Struct):
    """The IO APIC, in ``kvm_irqchip``."""

    base_address: u64 = 0
    ioregsel: u32 = 0
    id: u32 = 0
    irr: u32 = 0
    pad: u32 = 0
    redirtbl: Annotated[MutableSequence[kvm_ioapic_state_redirtbl], kvm_ioapic_state_redirtbl, 24] = ZERO


KVM_IRQCHIP_PIC_MASTER: Final = 0
KVM_IRQCHIP_PIC_SLAVE: Final = 1
KVM_IRQCHIP_IOAPIC: Final = 2
KVM_NR_IRQCHIPS: Final = 3
KVM_RUN_X86_SMM: Final = 1 << 0
KVM_RUN_X86_BUS_LOCK: Final = 1 << 1


class kvm_regs(Struct):
    """Of ``KVM_GET_REGS``, ``KVM_SET_REGS``."""

    rax: u64 = 0
    rbx: u64 = 0
    rcx: u64 = 0
    rdx: u64 = 0
    rsi: u64 = 0
    rdi: u64 = 0
    rsp: u64 = 0
    rbp: u64 = 0
    r8: u64 = 0
    r9: u64 = 0
    r10: u64 = 0
    r11: u64 = 0
    r12: u64 = 0
    r13: u64 = 0
    r14: u64 = 0
    r15: u64 = 0
    rip: u64 = 0
    rflags: u64 = 0


KVM_APIC_REG_SIZE: Final = 0x400


class kvm_lapic_state(Struct):
    """Of ``KVM_GET_LAPIC``, ``KVM_SET_LAPIC``."""

    regs: Annotated[bytes, char, 1024] = b""


class kvm_segment(Struct):
    """One segment of ``kvm_sregs``."""

    base: u64 = 0
    limit: u32 = 0
    selector: u16 = 0
    type: u8 = 0
    present: u8 = 0
    dpl: u8 = 0
    db: u8 = 0
    s: u8 = 0
    l: u8 = 0  # noqa: E741  the header's
    g: u8 = 0
    avl: u8 = 0
    unusable: u8 = 0
    padding: u8 = 0


class kvm_dtable(Struct):
    """A descriptor table of ``kvm_sregs``."""

    base: u64 = 0
    limit: u16 = 0
    padding: Annotated[MutableSequence[int], u16, 3] = ZERO


class kvm_sregs(Struct):
    """Of ``KVM_GET_SREGS``, ``KVM_SET_SREGS``."""

    cs: kvm_segment = ZERO
    ds: kvm_segment = ZERO
    es: kvm_segment = ZERO
    fs: kvm_segment = ZERO
    gs: kvm_segment = ZERO
    ss: kvm_segment = ZERO
    tr: kvm_segment = ZERO
    ldt: kvm_segment = ZERO
    gdt: kvm_dtable = ZERO
    idt: kvm_dtable = ZERO
    cr0: u64 = 0
    cr2: u64 = 0
    cr3: u64 = 0
    cr4: u64 = 0
    cr8: u64 = 0
    efer: u64 = 0
    apic_base: u64 = 0
    interrupt_bitmap: Annotated[MutableSequence[int], u64, 4] = ZERO


class kvm_sregs2(Struct):
    """Of ``KVM_GET_SREGS2``, ``KVM_SET_SREGS2``."""

    cs: kvm_segment = ZERO
    ds: kvm_segment = ZERO
    es: kvm_segment = ZERO
    fs: kvm_segment = ZERO
    gs: kvm_segment = ZERO
    ss: kvm_segment = ZERO
    tr: kvm_segment = ZERO
    ldt: kvm_segment = ZERO
    gdt: kvm_dtable = ZERO
    idt: kvm_dtable = ZERO
    cr0: u64 = 0
    cr2: u64 = 0
    cr3: u64 = 0
    cr4: u64 = 0
    cr8: u64 = 0
    efer: u64 = 0
    apic_base: u64 = 0
    flags: u64 = 0
    pdptrs: Annotated[MutableSequence[int], u64, 4] = ZERO


KVM_SREGS2_FLAGS_PDPTRS_VALID: Final = 1


class kvm_fpu(Struct):
    """Of ``KVM_GET_FPU``, ``KVM_SET_FPU``."""

    fpr: Annotated[Any, u8, 8, 16] = ZERO
    fcw: u16 = 0
    fsw: u16 = 0
    ftwx: u8 = 0
    pad1: u8 = 0
    last_opcode: u16 = 0
    last_ip: u64 = 0
    last_dp: u64 = 0
    xmm: Annotated[Any, u8, 16, 16] = ZERO
    mxcsr: u32 = 0
    pad2: u32 = 0


class kvm_msr_entry(Struct):
    """One register of ``kvm_msrs``."""

    index: u32 = 0
    reserved: u32 = 0
    data: u64 = 0


class kvm_msrs(Struct):
    """Of ``KVM_GET_MSRS``, ``KVM_SET_MSRS``."""

    nmsrs: u32 = 0
    pad: u32 = 0
    entries: Annotated[MutableSequence[kvm_msr_entry], kvm_msr_entry, ...] = ZERO


class kvm_msr_list(Struct):
    """Of ``KVM_GET_MSR_INDEX_LIST``, ``KVM_GET_MSR_FEATURE_INDEX_LIST``."""

    nmsrs: u32 = 0
    indices: Annotated[MutableSequence[int], u32, ...] = ZERO


KVM_MSR_FILTER_MAX_BITMAP_SIZE: Final = 0x600
KVM_MSR_FILTER_READ: Final = 1 << 0
KVM_MSR_FILTER_WRITE: Final = 1 << 1


class kvm_msr_filter_range(Struct):
    """Registers of ``kvm_msr_filter``."""

    flags: u32 = 0
    nmsrs: u32 = 0
    base: u32 = 0
    bitmap: Annotated[u64, CType("__u8 *")] = 0


KVM_MSR_FILTER_MAX_RANGES: Final = 16
KVM_MSR_FILTER_DEFAULT_ALLOW: Final = 0 << 0
KVM_MSR_FILTER_DEFAULT_DENY: Final = 1 << 0


class kvm_msr_filter(Struct):
    """Of ``KVM_X86_SET_MSR_FILTER``."""

    flags: u32 = 0
    ranges: Annotated[MutableSequence[kvm_msr_filter_range], kvm_msr_filter_range, 16] = ZERO


class kvm_cpuid_entry(Struct):
    """One leaf of ``kvm_cpuid``."""

    function: u32 = 0
    eax: u32 = 0
    ebx: u32 = 0
    ecx: u32 = 0
    edx: u32 = 0
    padding: u32 = 0


class kvm_cpuid(Struct):
    """Of ``KVM_SET_CPUID``."""

    nent: u32 = 0
    padding: u32 = 0
    entries: Annotated[MutableSequence[kvm_cpuid_entry], kvm_cpuid_entry, ...] = ZERO


class kvm_cpuid_entry2(Struct):
    """One leaf of ``kvm_cpuid2``."""

    function: u32 = 0
    index: u32 = 0
    flags: u32 = 0
    eax: u32 = 0
    ebx: u32 = 0
    ecx: u32 = 0
    edx: u32 = 0
    padding: Annotated[MutableSequence[int], u32, 3] = ZERO


KVM_CPUID_FLAG_SIGNIFCANT_INDEX: Final = 1 << 0
KVM_CPUID_FLAG_STATEFUL_FUNC: Final = 1 << 1
KVM_CPUID_FLAG_STATE_READ_NEXT: Final = 1 << 2


class kvm_cpuid2(Struct):
    """Of ``KVM_GET_SUPPORTED_CPUID``, ``KVM_GET_EMULATED_CPUID``."""

    nent: u32 = 0
    padding: u32 = 0
    entries: Annotated[MutableSequence[kvm_cpuid_entry2], kvm_cpuid_entry2, ...] = ZERO


class kvm_pit_channel_state(Struct):
    """One counter of the interval timer."""

    count: u32 = 0
    latched_count: u16 = 0
    count_latched: u8 = 0
    status_latched: u8 = 0
    status: u8 = 0
    read_state: u8 = 0
    write_state: u8 = 0
    write_latch: u8 = 0
    rw_mode: u8 = 0
    mode: u8 = 0
    bcd: u8 = 0
    gate: u8 = 0
    count_load_time: s64 = 0


class kvm_debug_exit_arch(Struct):
    """``KVM_EXIT_DEBUG``."""

    exception: u32 = 0
    pad: u32 = 0
    pc: u64 = 0
    dr6: u64 = 0
    dr7: u64 = 0


KVM_GUESTDBG_USE_SW_BP: Final = 0x00010000
KVM_GUESTDBG_USE_HW_BP: Final = 0x00020000
KVM_GUESTDBG_INJECT_DB: Final = 0x00040000
KVM_GUESTDBG_INJECT_BP: Final = 0x00080000
KVM_GUESTDBG_BLOCKIRQ: Final = 0x00100000


class kvm_guest_debug_arch(Struct):
    """Debug registers of ``kvm_guest_debug``."""

    debugreg: Annotated[MutableSequence[int], u64, 8] = ZERO


class kvm_pit_state(Struct):
    """Of ``KVM_GET_PIT``, ``KVM_SET_PIT``."""

    channels: Annotated[MutableSequence[kvm_pit_channel_state], kvm_pit_channel_state, 3] = ZERO


KVM_PIT_FLAGS_HPET_LEGACY: Final = 0x00000001
KVM_PIT_FLAGS_SPEAKER_DATA_ON: Final = 0x00000002


class kvm_pit_state2(Struct):
    """Of ``KVM_GET_PIT2``, ``KVM_SET_PIT2``."""

    channels: Annotated[MutableSequence[kvm_pit_channel_state], kvm_pit_channel_state, 3] = ZERO
    flags: u32 = 0
    reserved: Annotated[MutableSequence[int], u32, 9] = ZERO


class kvm_reinject_control(Struct):
    """``KVM_REINJECT_CONTROL``."""

    pit_reinject: u8 = 0
    reserved: Annotated[bytes, u8, 31] = b""


KVM_VCPUEVENT_VALID_NMI_PENDING: Final = 0x00000001
KVM_VCPUEVENT_VALID_SIPI_VECTOR: Final = 0x00000002
KVM_VCPUEVENT_VALID_SHADOW: Final = 0x00000004
KVM_VCPUEVENT_VALID_SMM: Final = 0x00000008
KVM_VCPUEVENT_VALID_PAYLOAD: Final = 0x00000010
KVM_VCPUEVENT_VALID_TRIPLE_FAULT: Final = 0x00000020
KVM_X86_SHADOW_INT_MOV_SS: Final = 0x01
KVM_X86_SHADOW_INT_STI: Final = 0x02


class kvm_vcpu_events_exception(Struct, ctype="__typeof__(((struct kvm_vcpu_events *)0)->exception)"):
    """The ``exception`` of ``kvm_vcpu_events``."""

    injected: u8 = 0
    nr: u8 = 0
    has_error_code: u8 = 0
    pending: u8 = 0
    error_code: u32 = 0


class kvm_vcpu_events_interrupt(Struct, ctype="__typeof__(((struct kvm_vcpu_events *)0)->interrupt)"):
    """The ``interrupt`` of ``kvm_vcpu_events``."""

    injected: u8 = 0
    nr: u8 = 0
    soft: u8 = 0
    shadow: u8 = 0


class kvm_vcpu_events_nmi(Struct, ctype="__typeof__(((struct kvm_vcpu_events *)0)->nmi)"):
    """The ``nmi`` of ``kvm_vcpu_events``."""

    injected: u8 = 0
    pending: u8 = 0
    masked: u8 = 0
    pad: u8 = 0


class kvm_vcpu_events_smi(Struct, ctype="__typeof__(((struct kvm_vcpu_events *)0)->smi)"):
    """The ``smi`` of ``kvm_vcpu_events``."""

    smm: u8 = 0
    pending: u8 = 0
    smm_inside_nmi: u8 = 0
    latched_init: u8 = 0


class kvm_vcpu_events_triple_fault(Struct, ctype="__typeof__(((struct kvm_vcpu_events *)0)->triple_fault)"):
    """The ``triple_fault`` of ``kvm_vcpu_events``."""

    pending: u8 = 0


class kvm_vcpu_events(Struct):
    """Of ``KVM_GET_VCPU_EVENTS``, ``KVM_SET_VCPU_EVENTS``."""

    exception: kvm_vcpu_events_exception = ZERO
    interrupt: kvm_vcpu_events_interrupt = ZERO
    nmi: kvm_vcpu_events_nmi = ZERO
    sipi_vector: u32 = 0
    flags: u32 = 0
    smi: kvm_vcpu_events_smi = ZERO
    triple_fault: kvm_vcpu_events_triple_fault = ZERO
    reserved: Annotated[bytes, u8, 26] = b""
    exception_has_payload: u8 = 0
    exception_payload: u64 = 0


class kvm_debugregs(Struct):
    """Of ``KVM_GET_DEBUGREGS``, ``KVM_SET_DEBUGREGS``."""

    db: Annotated[MutableSequence[int], u64, 4] = ZERO
    dr6: u64 = 0
    dr7: u64 = 0
    flags: u64 = 0
    reserved: Annotated[MutableSequence[int], u64, 9] = ZERO


class kvm_xsave(Struct):
    """Of ``KVM_GET_XSAVE``, ``KVM_SET_XSAVE``."""

    region: Annotated[MutableSequence[int], u32, 1024] = ZERO
    extra: Annotated[MutableSequence[int], u32, ...] = ZERO


KVM_MAX_XCRS: Final = 16


class kvm_xcr(Struct):
    """One register of ``kvm_xcrs``."""

    xcr: u32 = 0
    reserved: u32 = 0
    value: u64 = 0


class kvm_xcrs(Struct):
    """Of ``KVM_GET_XCRS``, ``KVM_SET_XCRS``."""

    nr_xcrs: u32 = 0
    flags: u32 = 0
    xcrs: Annotated[MutableSequence[kvm_xcr], kvm_xcr, 16] = ZERO
    padding: Annotated[MutableSequence[int], u64, 16] = ZERO


KVM_SYNC_X86_REGS: Final = 1 << 0
KVM_SYNC_X86_SREGS: Final = 1 << 1
KVM_SYNC_X86_EVENTS: Final = 1 << 2
KVM_SYNC_X86_VALID_FIELDS: Final = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS


class kvm_sync_regs(Struct):
    """Registers in ``kvm_run``."""

    regs: kvm_regs = ZERO
    sregs: kvm_sregs = ZERO
    events: kvm_vcpu_events = ZERO


KVM_X86_QUIRK_LINT0_REENABLED: Final = 1 << 0
KVM_X86_QUIRK_CD_NW_CLEARED: Final = 1 << 1
KVM_X86_QUIRK_LAPIC_MMIO_HOLE: Final = 1 << 2
KVM_X86_QUIRK_OUT_7E_INC_RIP: Final = 1 << 3
KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT: Final = 1 << 4
KVM_X86_QUIRK_FIX_HYPERCALL_INSN: Final = 1 << 5
KVM_X86_QUIRK_MWAIT_NEVER_UD_FAULTS: Final = 1 << 6
KVM_STATE_NESTED_FORMAT_VMX: Final = 0
KVM_STATE_NESTED_FORMAT_SVM: Final = 1
KVM_STATE_NESTED_GUEST_MODE: Final = 0x00000001
KVM_STATE_NESTED_RUN_PENDING: Final = 0x00000002
KVM_STATE_NESTED_EVMCS: Final = 0x00000004
KVM_STATE_NESTED_MTF_PENDING: Final = 0x00000008
KVM_STATE_NESTED_GIF_SET: Final = 0x00000100
KVM_STATE_NESTED_SMM_GUEST_MODE: Final = 0x00000001
KVM_STATE_NESTED_SMM_VMXON: Final = 0x00000002
KVM_STATE_NESTED_VMX_VMCS_SIZE: Final = 0x1000
KVM_STATE_NESTED_SVM_VMCB_SIZE: Final = 0x1000
KVM_STATE_VMX_PREEMPTION_TIMER_DEADLINE: Final = 0x00000001
KVM_X86_XCOMP_GUEST_SUPP: Final = 0


class kvm_vmx_nested_state_data(Struct):
    """Intel's part of ``kvm_nested_state``: two VMCSs."""

    vmcs12: Annotated[bytes, u8, 4096] = b""
    shadow_vmcs12: Annotated[bytes, u8, 4096] = b""


class kvm_vmx_nested_state_hdr_smm(Struct, ctype="__typeof__(((struct kvm_vmx_nested_state_hdr *)0)->smm)"):
    """The ``smm`` of ``kvm_vmx_nested_state_hdr``."""

    flags: u16 = 0


class kvm_vmx_nested_state_hdr(Struct):
    """Intel's part of the head of ``kvm_nested_state``."""

    vmxon_pa: u64 = 0
    vmcs12_pa: u64 = 0
    smm: kvm_vmx_nested_state_hdr_smm = ZERO
    pad: u16 = 0
    flags: u32 = 0
    preemption_timer_deadline: u64 = 0


class kvm_svm_nested_state_data(Struct):
    """AMD's part of ``kvm_nested_state``: the VMCB."""

    vmcb12: Annotated[bytes, u8, 4096] = b""


class kvm_svm_nested_state_hdr(Struct):
    """AMD's part of the head of ``kvm_nested_state``."""

    vmcb_pa: u64 = 0
    gpat: u64 = 0


class kvm_nested_state_hdr(Union, ctype="__typeof__(((struct kvm_nested_state *)0)->hdr)"):
    """The ``hdr`` of ``kvm_nested_state``."""

    vmx: kvm_vmx_nested_state_hdr = ZERO
    svm: kvm_svm_nested_state_hdr = ZERO
    pad: Annotated[bytes, u8, 120] = b""


class kvm_nested_state(Struct):
    """Of ``KVM_GET_NESTED_STATE``, ``KVM_SET_NESTED_STATE``."""

    flags: u16 = 0
    format: u16 = 0
    size: u32 = 0
    hdr: kvm_nested_state_hdr = ZERO


class kvm_pmu_event_filter(Struct):
    """Of ``KVM_SET_PMU_EVENT_FILTER``."""

    action: u32 = 0
    nevents: u32 = 0
    fixed_counter_bitmap: u32 = 0
    flags: u32 = 0
    pad: Annotated[MutableSequence[int], u32, 4] = ZERO
    events: Annotated[MutableSequence[int], u64, ...] = ZERO


KVM_PMU_EVENT_ALLOW: Final = 0
KVM_PMU_EVENT_DENY: Final = 1
KVM_VCPU_TSC_CTRL: Final = 0
KVM_VCPU_TSC_OFFSET: Final = 0
KVM_API_VERSION: Final = 12
KVM_TRC_SHIFT: Final = 16
KVM_TRC_ENTRYEXIT: Final = 1 << KVM_TRC_SHIFT
KVM_TRC_HANDLER: Final = 1 << (KVM_TRC_SHIFT + 1)
KVM_TRC_VMENTRY: Final = KVM_TRC_ENTRYEXIT + 0x01
KVM_TRC_VMEXIT: Final = KVM_TRC_ENTRYEXIT + 0x02
KVM_TRC_PAGE_FAULT: Final = KVM_TRC_HANDLER + 0x01
KVM_TRC_HEAD_SIZE: Final = 12
KVM_TRC_CYCLE_SIZE: Final = 8
KVM_TRC_EXTRA_MAX: Final = 7
KVM_TRC_INJ_VIRQ: Final = KVM_TRC_HANDLER + 0x02
KVM_TRC_REDELIVER_EVT: Final = KVM_TRC_HANDLER + 0x03
KVM_TRC_PEND_INTR: Final = KVM_TRC_HANDLER + 0x04
KVM_TRC_IO_READ: Final = KVM_TRC_HANDLER + 0x05
KVM_TRC_IO_WRITE: Final = KVM_TRC_HANDLER + 0x06
KVM_TRC_CR_READ: Final = KVM_TRC_HANDLER + 0x07
KVM_TRC_CR_WRITE: Final = KVM_TRC_HANDLER + 0x08
KVM_TRC_DR_READ: Final = KVM_TRC_HANDLER + 0x09
KVM_TRC_DR_WRITE: Final = KVM_TRC_HANDLER + 0x0A
KVM_TRC_MSR_READ: Final = KVM_TRC_HANDLER + 0x0B
KVM_TRC_MSR_WRITE: Final = KVM_TRC_HANDLER + 0x0C
KVM_TRC_CPUID: Final = KVM_TRC_HANDLER + 0x0D
KVM_TRC_INTR: Final = KVM_TRC_HANDLER + 0x0E
KVM_TRC_NMI: Final = KVM_TRC_HANDLER + 0x0F
KVM_TRC_VMMCALL: Final = KVM_TRC_HANDLER + 0x10
KVM_TRC_HLT: Final = KVM_TRC_HANDLER + 0x11
KVM_TRC_CLTS: Final = KVM_TRC_HANDLER + 0x12
KVM_TRC_LMSW: Final = KVM_TRC_HANDLER + 0x13
KVM_TRC_APIC_ACCESS: Final = KVM_TRC_HANDLER + 0x14
KVM_TRC_TDP_FAULT: Final = KVM_TRC_HANDLER + 0x15
KVM_TRC_GTLB_WRITE: Final = KVM_TRC_HANDLER + 0x16
KVM_TRC_STLB_WRITE: Final = KVM_TRC_HANDLER + 0x17
KVM_TRC_STLB_INVAL: Final = KVM_TRC_HANDLER + 0x18


class kvm_user_trace_setup(Struct):
    """Of ``__KVM_DEPRECATED_MAIN_W_0x06``."""

    buf_size: u32 = 0
    buf_nr: u32 = 0


__KVM_DEPRECATED_MAIN_W_0x06: Final = _IOW(KVMIO, 0x06, kvm_user_trace_setup)
__KVM_DEPRECATED_MAIN_0x07: Final = _IO(KVMIO, 0x07)
__KVM_DEPRECATED_MAIN_0x08: Final = _IO(KVMIO, 0x08)


class kvm_breakpoint(Struct):
    """One of ``kvm_debug_guest``."""

    enabled: u32 = 0
    padding: u32 = 0
    address: u64 = 0


class kvm_debug_guest(Struct):
    """Of ``__KVM_DEPRECATED_VCPU_W_0x87``."""

    enabled: u32 = 0
    pad: u32 = 0
    breakpoints: Annotated[MutableSequence[kvm_breakpoint], kvm_breakpoint, 4] = ZERO
    singlestep: u32 = 0


__KVM_DEPRECATED_VCPU_W_0x87: Final = _IOW(KVMIO, 0x87, kvm_debug_guest)


class kvm_memory_region(Struct):
    """Of ``KVM_SET_MEMORY_REGION``."""

    slot: u32 = 0
    flags: u32 = 0
    guest_phys_addr: u64 = 0
    memory_size: u64 = 0


class kvm_userspace_memory_region(Struct):
    """Of ``KVM_SET_USER_MEMORY_REGION``."""

    slot: u32 = 0
    flags: u32 = 0
    guest_phys_addr: u64 = 0
    memory_size: u64 = 0
    userspace_addr: u64 = 0


KVM_MEM_LOG_DIRTY_PAGES: Final = 1 << 0
KVM_MEM_READONLY: Final = 1 << 1


class kvm_irq_level(Struct):
    """Of ``KVM_IRQ_LINE``, ``KVM_IRQ_LINE_STATUS``."""

    _union = anon_union(until="status")
    irq: u32 = 0
    status: s32 = 0
    level: u32 = 0


class kvm_irqchip_chip(Union, ctype="__typeof__(((struct kvm_irqchip *)0)->chip)"):
    """The ``chip`` of ``kvm_irqchip``."""

    dummy: Annotated[bytes, char, 512] = b""
    pic: kvm_pic_state = ZERO
    ioapic: kvm_ioapic_state = ZERO


class kvm_irqchip(Struct):
    """Of ``KVM_GET_IRQCHIP``, ``KVM_SET_IRQCHIP``."""

    chip_id: u32 = 0
    pad: u32 = 0
    chip: kvm_irqchip_chip = ZERO


class kvm_pit_config(Struct):
    """Of ``KVM_CREATE_PIT2``."""

    flags: u32 = 0
    pad: Annotated[MutableSequence[int], u32, 15] = ZERO


KVM_PIT_SPEAKER_DUMMY: Final = 1
KVM_EXIT_HYPERV_SYNIC: Final = 1
KVM_EXIT_HYPERV_HCALL: Final = 2
KVM_EXIT_HYPERV_SYNDBG: Final = 3


class kvm_hyperv_exit_u_synic(Struct, ctype="__typeof__(((struct kvm_hyperv_exit *)0)->u.synic)"):
    """The ``u.synic`` of ``kvm_hyperv_exit``."""

    msr: u32 = 0
    pad2: u32 = 0
    control: u64 = 0
    evt_page: u64 = 0
    msg_page: u64 = 0


class kvm_hyperv_exit_u_hcall(Struct, ctype="__typeof__(((struct kvm_hyperv_exit *)0)->u.hcall)"):
    """The ``u.hcall`` of ``kvm_hyperv_exit``."""

    input: u64 = 0
    result: u64 = 0
    params: Annotated[MutableSequence[int], u64, 2] = ZERO


class kvm_hyperv_exit_u_syndbg(Struct, ctype="__typeof__(((struct kvm_hyperv_exit *)0)->u.syndbg)"):
    """The ``u.syndbg`` of ``kvm_hyperv_exit``."""

    msr: u32 = 0
    pad2: u32 = 0
    control: u64 = 0
    status: u64 = 0
    send_page: u64 = 0
    recv_page: u64 = 0
    pending_page: u64 = 0


class kvm_hyperv_exit_u(Union, ctype="__typeof__(((struct kvm_hyperv_exit *)0)->u)"):
    """The ``u`` of ``kvm_hyperv_exit``."""

    synic: kvm_hyperv_exit_u_synic = ZERO
    hcall: kvm_hyperv_exit_u_hcall = ZERO
    syndbg: kvm_hyperv_exit_u_syndbg = ZERO


class kvm_hyperv_exit(Struct):
    """``KVM_EXIT_HYPERV``."""

    type: u32 = 0
    pad1: u32 = 0
    u: kvm_hyperv_exit_u = ZERO


KVM_EXIT_XEN_HCALL: Final = 1


class kvm_xen_exit_u_hcall(Struct, ctype="__typeof__(((struct kvm_xen_exit *)0)->u.hcall)"):
    """The ``u.hcall`` of ``kvm_xen_exit``."""

    longmode: u32 = 0
    cpl: u32 = 0
    input: u64 = 0
    result: u64 = 0
    params: Annotated[MutableSequence[int], u64, 6] = ZERO


class kvm_xen_exit_u(Union, ctype="__typeof__(((struct kvm_xen_exit *)0)->u)"):
    """The ``u`` of ``kvm_xen_exit``."""

    hcall: kvm_xen_exit_u_hcall = ZERO


class kvm_xen_exit(Struct):
    """``KVM_EXIT_XEN``."""

    type: u32 = 0
    u: kvm_xen_exit_u = ZERO


KVM_EXIT_UNKNOWN: Final = 0
KVM_EXIT_EXCEPTION: Final = 1
KVM_EXIT_IO: Final = 2
KVM_EXIT_HYPERCALL: Final = 3
KVM_EXIT_DEBUG: Final = 4
KVM_EXIT_HLT: Final = 5
KVM_EXIT_MMIO: Final = 6
KVM_EXIT_IRQ_WINDOW_OPEN: Final = 7
KVM_EXIT_SHUTDOWN: Final = 8
KVM_EXIT_FAIL_ENTRY: Final = 9
KVM_EXIT_INTR: Final = 10
KVM_EXIT_SET_TPR: Final = 11
KVM_EXIT_TPR_ACCESS: Final = 12
KVM_EXIT_DCR: Final = 15
KVM_EXIT_NMI: Final = 16
KVM_EXIT_INTERNAL_ERROR: Final = 17
KVM_EXIT_OSI: Final = 18
KVM_EXIT_PAPR_HCALL: Final = 19
KVM_EXIT_WATCHDOG: Final = 21
KVM_EXIT_EPR: Final = 23
KVM_EXIT_SYSTEM_EVENT: Final = 24
KVM_EXIT_IOAPIC_EOI: Final = 26
KVM_EXIT_HYPERV: Final = 27
KVM_EXIT_X86_RDMSR: Final = 29
KVM_EXIT_X86_WRMSR: Final = 30
KVM_EXIT_DIRTY_RING_FULL: Final = 31
KVM_EXIT_AP_RESET_HOLD: Final = 32
KVM_EXIT_X86_BUS_LOCK: Final = 33
KVM_EXIT_XEN: Final = 34
KVM_EXIT_NOTIFY: Final = 37
KVM_INTERNAL_ERROR_EMULATION: Final = 1
KVM_INTERNAL_ERROR_SIMUL_EX: Final = 2
KVM_INTERNAL_ERROR_DELIVERY_EV: Final = 3
KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON: Final = 4
KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES: Final = 1 << 0
KVM_EXIT_IO_IN: Final = 0
KVM_EXIT_IO_OUT: Final = 1
KVM_SYSTEM_EVENT_SHUTDOWN: Final = 1
KVM_SYSTEM_EVENT_RESET: Final = 2
KVM_SYSTEM_EVENT_CRASH: Final = 3
KVM_SYSTEM_EVENT_WAKEUP: Final = 4
KVM_SYSTEM_EVENT_SUSPEND: Final = 5
KVM_SYSTEM_EVENT_SEV_TERM: Final = 6
KVM_MSR_EXIT_REASON_INVAL: Final = 1 << 0
KVM_MSR_EXIT_REASON_UNKNOWN: Final = 1 << 1
KVM_MSR_EXIT_REASON_FILTER: Final = 1 << 2
KVM_NOTIFY_CONTEXT_INVALID: Final = 1 << 0
SYNC_REGS_SIZE_BYTES: Final = 2048


class kvm_run_hw(Struct, ctype="__typeof__(((struct kvm_run *)0)->hw)"):
    """The ``hw`` of ``kvm_run``."""

    hardware_exit_reason: u64 = 0


class kvm_run_fail_entry(Struct, ctype="__typeof__(((struct kvm_run *)0)->fail_entry)"):
    """The ``fail_entry`` of ``kvm_run``."""

    hardware_entry_failure_reason: u64 = 0
    cpu: u32 = 0


class kvm_run_ex(Struct, ctype="__typeof__(((struct kvm_run *)0)->ex)"):
    """The ``ex`` of ``kvm_run``."""

    exception: u32 = 0
    error_code: u32 = 0


class kvm_run_io(Struct, ctype="__typeof__(((struct kvm_run *)0)->io)"):
    """The ``io`` of ``kvm_run``."""

    direction: u8 = 0
    size: u8 = 0
    port: u16 = 0
    count: u32 = 0
    data_offset: u64 = 0


class kvm_run_debug(Struct, ctype="__typeof__(((struct kvm_run *)0)->debug)"):
    """The ``debug`` of ``kvm_run``."""

    arch: kvm_debug_exit_arch = ZERO


class kvm_run_mmio(Struct, ctype="__typeof__(((struct kvm_run *)0)->mmio)"):
    """The ``mmio`` of ``kvm_run``."""

    phys_addr: u64 = 0
    data: Annotated[bytes, u8, 8] = b""
    len: u32 = 0
    is_write: u8 = 0


class kvm_run_hypercall(Struct, ctype="__typeof__(((struct kvm_run *)0)->hypercall)"):
    """The ``hypercall`` of ``kvm_run``."""

    nr: u64 = 0
    args: Annotated[MutableSequence[int], u64, 6] = ZERO
    ret: u64 = 0
    longmode: u32 = 0
    pad: u32 = 0


class kvm_run_tpr_access(Struct, ctype="__typeof__(((struct kvm_run *)0)->tpr_access)"):
    """The ``tpr_access`` of ``kvm_run``."""

    rip: u64 = 0
    is_write: u32 = 0
    pad: u32 = 0


class kvm_run_s390_sieic(Struct, ctype="__typeof__(((struct kvm_run *)0)->s390_sieic)"):
    """The ``s390_sieic`` of ``kvm_run``."""

    icptcode: u8 = 0
    ipa: u16 = 0
    ipb: u32 = 0


class kvm_run_s390_ucontrol(Struct, ctype="__typeof__(((struct kvm_run *)0)->s390_ucontrol)"):
    """The ``s390_ucontrol`` of ``kvm_run``."""

    trans_exc_code: u64 = 0
    pgm_code: u32 = 0


class kvm_run_dcr(Struct, ctype="__typeof__(((struct kvm_run *)0)->dcr)"):
    """The ``dcr`` of ``kvm_run``."""

    dcrn: u32 = 0
    data: u32 = 0
    is_write: u8 = 0


class kvm_run_internal(Struct, ctype="__typeof__(((struct kvm_run *)0)->internal)"):
    """The ``internal`` of ``kvm_run``."""

    suberror: u32 = 0
    ndata: u32 = 0
    data: Annotated[MutableSequence[int], u64, 16] = ZERO


class kvm_run_emulation_failure(Struct, ctype="__typeof__(((struct kvm_run *)0)->emulation_failure)"):
    """The ``emulation_failure`` of ``kvm_run``."""

    suberror: u32 = 0
    ndata: u32 = 0
    flags: u64 = 0
    _union2 = anon_union(until="insn_bytes")
    _struct = anon_struct(until="insn_bytes")
    insn_size: u8 = 0
    insn_bytes: Annotated[bytes, u8, 15] = b""


class kvm_run_osi(Struct, ctype="__typeof__(((struct kvm_run *)0)->osi)"):
    """The ``osi`` of ``kvm_run``."""

    gprs: Annotated[MutableSequence[int], u64, 32] = ZERO


class kvm_run_papr_hcall(Struct, ctype="__typeof__(((struct kvm_run *)0)->papr_hcall)"):
    """The ``papr_hcall`` of ``kvm_run``."""

    nr: u64 = 0
    ret: u64 = 0
    args: Annotated[MutableSequence[int], u64, 9] = ZERO


class kvm_run_s390_tsch(Struct, ctype="__typeof__(((struct kvm_run *)0)->s390_tsch)"):
    """The ``s390_tsch`` of ``kvm_run``."""

    subchannel_id: u16 = 0
    subchannel_nr: u16 = 0
    io_int_parm: u32 = 0
    io_int_word: u32 = 0
    ipb: u32 = 0
    dequeued: u8 = 0


class kvm_run_epr(Struct, ctype="__typeof__(((struct kvm_run *)0)->epr)"):
    """The ``epr`` of ``kvm_run``."""

    epr: u32 = 0


class kvm_run_system_event(Struct, ctype="__typeof__(((struct kvm_run *)0)->system_event)"):
    """The ``system_event`` of ``kvm_run``."""

    type: u32 = 0
    ndata: u32 = 0
    _union = anon_union(until="data")
    flags: u64 = 0
    data: Annotated[MutableSequence[int], u64, 16] = ZERO


class kvm_run_s390_stsi(Struct, ctype="__typeof__(((struct kvm_run *)0)->s390_stsi)"):
    """The ``s390_stsi`` of ``kvm_run``."""

    addr: u64 = 0
    ar: u8 = 0
    reserved: u8 = 0
    fc: u8 = 0
    sel1: u8 = 0
    sel2: u16 = 0


class kvm_run_eoi(Struct, ctype="__typeof__(((struct kvm_run *)0)->eoi)"):
    """The ``eoi`` of ``kvm_run``."""

    vector: u8 = 0


class kvm_run_arm_nisv(Struct, ctype="__typeof__(((struct kvm_run *)0)->arm_nisv)"):
    """The ``arm_nisv`` of ``kvm_run``."""

    esr_iss: u64 = 0
    fault_ipa: u64 = 0


class kvm_run_msr(Struct, ctype="__typeof__(((struct kvm_run *)0)->msr)"):
    """The ``msr`` of ``kvm_run``."""

    error: u8 = 0
    pad: Annotated[bytes, u8, 7] = b""
    reason: u32 = 0
    index: u32 = 0
    data: u64 = 0


class kvm_run_riscv_sbi(Struct, ctype="__typeof__(((struct kvm_run *)0)->riscv_sbi)"):
    """The ``riscv_sbi`` of ``kvm_run``."""

    extension_id: Annotated[u64, CType("long unsigned int")] = 0
    function_id: Annotated[u64, CType("long unsigned int")] = 0
    args: Annotated[MutableSequence[int], Annotated[u64, CType("long unsigned int")], 6] = ZERO
    ret: Annotated[MutableSequence[int], Annotated[u64, CType("long unsigned int")], 2] = ZERO


class kvm_run_riscv_csr(Struct, ctype="__typeof__(((struct kvm_run *)0)->riscv_csr)"):
    """The ``riscv_csr`` of ``kvm_run``."""

    csr_num: Annotated[u64, CType("long unsigned int")] = 0
    new_value: Annotated[u64, CType("long unsigned int")] = 0
    write_mask: Annotated[u64, CType("long unsigned int")] = 0
    ret_value: Annotated[u64, CType("long unsigned int")] = 0


class kvm_run_notify(Struct, ctype="__typeof__(((struct kvm_run *)0)->notify)"):
    """The ``notify`` of ``kvm_run``."""

    flags: u32 = 0


class kvm_run_s(Union, ctype="__typeof__(((struct kvm_run *)0)->s)"):
    """The ``s`` of ``kvm_run``."""

    regs: kvm_sync_regs = ZERO
    padding: Annotated[bytes, char, 2048] = b""


class kvm_run(Struct):
    """The page that a virtual processor shares with its VMM: mmap() at offset 0."""

    request_interrupt_window: u8 = 0
    immediate_exit: u8 = 0
    padding1: Annotated[bytes, u8, 6] = b""
    exit_reason: u32 = 0
    ready_for_interrupt_injection: u8 = 0
    if_flag: u8 = 0
    flags: u16 = 0
    cr8: u64 = 0
    apic_base: u64 = 0
    _union = anon_union(until="padding")
    hw: kvm_run_hw = ZERO
    fail_entry: kvm_run_fail_entry = ZERO
    ex: kvm_run_ex = ZERO
    io: kvm_run_io = ZERO
    debug: kvm_run_debug = ZERO
    mmio: kvm_run_mmio = ZERO
    hypercall: kvm_run_hypercall = ZERO
    tpr_access: kvm_run_tpr_access = ZERO
    s390_sieic: kvm_run_s390_sieic = ZERO
    s390_reset_flags: u64 = 0
    s390_ucontrol: kvm_run_s390_ucontrol = ZERO
    dcr: kvm_run_dcr = ZERO
    internal: kvm_run_internal = ZERO
    emulation_failure: kvm_run_emulation_failure = ZERO
    osi: kvm_run_osi = ZERO
    papr_hcall: kvm_run_papr_hcall = ZERO
    s390_tsch: kvm_run_s390_tsch = ZERO
    epr: kvm_run_epr = ZERO
    system_event: kvm_run_system_event = ZERO
    s390_stsi: kvm_run_s390_stsi = ZERO
    eoi: kvm_run_eoi = ZERO
    hyperv: kvm_hyperv_exit = ZERO
    arm_nisv: kvm_run_arm_nisv = ZERO
    msr: kvm_run_msr = ZERO
    xen: kvm_xen_exit = ZERO
    riscv_sbi: kvm_run_riscv_sbi = ZERO
    riscv_csr: kvm_run_riscv_csr = ZERO
    notify: kvm_run_notify = ZERO
    padding: Annotated[bytes, char, 256] = b""
    kvm_valid_regs: u64 = 0
    kvm_dirty_regs: u64 = 0
    s: kvm_run_s = ZERO


class kvm_coalesced_mmio_zone(Struct):
    """Of ``KVM_REGISTER_COALESCED_MMIO``, ``KVM_UNREGISTER_COALESCED_MMIO``."""

    addr: u64 = 0
    size: u32 = 0
    _union = anon_union(until="pio")
    pad: u32 = 0
    pio: u32 = 0


class kvm_coalesced_mmio(Struct):
    """One store in ``kvm_coalesced_mmio_ring``."""

    phys_addr: u64 = 0
    len: u32 = 0
    _union = anon_union(until="pio")
    pad: u32 = 0
    pio: u32 = 0
    data: Annotated[bytes, u8, 8] = b""


class kvm_coalesced_mmio_ring(Struct):
    """Stores that are put aside, one page."""

    first: u32 = 0
    last: u32 = 0
    coalesced_mmio: Annotated[MutableSequence[kvm_coalesced_mmio], kvm_coalesced_mmio, ...] = ZERO


class kvm_translation(Struct):
    """Of ``KVM_TRANSLATE``."""

    linear_address: u64 = 0
    physical_address: u64 = 0
    valid: u8 = 0
    writeable: u8 = 0
    usermode: u8 = 0
    pad: Annotated[bytes, u8, 5] = b""


class kvm_interrupt(Struct):
    """Of ``KVM_INTERRUPT``."""

    irq: u32 = 0


class kvm_dirty_log(Struct):
    """Of ``KVM_GET_DIRTY_LOG``."""

    slot: u32 = 0
    padding1: u32 = 0
    _union = anon_union(until="padding2")
    dirty_bitmap: Annotated[u64, CType("void *")] = 0
    padding2: u64 = 0


class kvm_clear_dirty_log(Struct):
    """Of ``KVM_CLEAR_DIRTY_LOG``."""

    slot: u32 = 0
    num_pages: u32 = 0
    first_page: u64 = 0
    _union = anon_union(until="padding2")
    dirty_bitmap: Annotated[u64, CType("void *")] = 0
    padding2: u64 = 0


class kvm_signal_mask(Struct):
    """Of ``KVM_SET_SIGNAL_MASK``."""

    len: u32 = 0
    sigset: Annotated[bytes, u8, ...] = b""


class kvm_tpr_access_ctl(Struct):
    """Of ``KVM_TPR_ACCESS_REPORTING``."""

    enabled: u32 = 0
    flags: u32 = 0
    reserved: Annotated[MutableSequence[int], u32, 8] = ZERO


class kvm_vapic_addr(Struct):
    """Of ``KVM_SET_VAPIC_ADDR``."""

    vapic_addr: u64 = 0


KVM_MP_STATE_RUNNABLE: Final = 0
KVM_MP_STATE_UNINITIALIZED: Final = 1
KVM_MP_STATE_INIT_RECEIVED: Final = 2
KVM_MP_STATE_HALTED: Final = 3
KVM_MP_STATE_SIPI_RECEIVED: Final = 4
KVM_MP_STATE_STOPPED: Final = 5
KVM_MP_STATE_CHECK_STOP: Final = 6
KVM_MP_STATE_OPERATING: Final = 7
KVM_MP_STATE_LOAD: Final = 8
KVM_MP_STATE_AP_RESET_HOLD: Final = 9
KVM_MP_STATE_SUSPENDED: Final = 10


class kvm_mp_state(Struct):
    """Of ``KVM_GET_MP_STATE``, ``KVM_SET_MP_STATE``."""

    mp_state: u32 = 0


KVM_GUESTDBG_ENABLE: Final = 0x00000001
KVM_GUESTDBG_SINGLESTEP: Final = 0x00000002


class kvm_guest_debug(Struct):
    """Of ``KVM_SET_GUEST_DEBUG``."""

    control: u32 = 0
    pad: u32 = 0
    arch: kvm_guest_debug_arch = ZERO


kvm_ioeventfd_flag_nr_datamatch: Final = 0
kvm_ioeventfd_flag_nr_pio: Final = 1
kvm_ioeventfd_flag_nr_deassign: Final = 2
kvm_ioeventfd_flag_nr_virtio_ccw_notify: Final = 3
kvm_ioeventfd_flag_nr_fast_mmio: Final = 4
kvm_ioeventfd_flag_nr_max: Final = 5
KVM_IOEVENTFD_FLAG_DATAMATCH: Final = 1 << kvm_ioeventfd_flag_nr_datamatch
KVM_IOEVENTFD_FLAG_PIO: Final = 1 << kvm_ioeventfd_flag_nr_pio
KVM_IOEVENTFD_FLAG_DEASSIGN: Final = 1 << kvm_ioeventfd_flag_nr_deassign
KVM_IOEVENTFD_FLAG_VIRTIO_CCW_NOTIFY: Final = 1 << kvm_ioeventfd_flag_nr_virtio_ccw_notify
KVM_IOEVENTFD_VALID_FLAG_MASK: Final = (1 << kvm_ioeventfd_flag_nr_max) - 1


class kvm_ioeventfd(Struct):
    """Of ``KVM_IOEVENTFD``."""

    datamatch: u64 = 0
    addr: u64 = 0
    len: u32 = 0
    fd: s32 = 0
    flags: u32 = 0
    pad: Annotated[bytes, u8, 36] = b""


KVM_X86_DISABLE_EXITS_MWAIT: Final = 1 << 0
KVM_X86_DISABLE_EXITS_HLT: Final = 1 << 1
KVM_X86_DISABLE_EXITS_PAUSE: Final = 1 << 2
KVM_X86_DISABLE_EXITS_CSTATE: Final = 1 << 3
KVM_X86_DISABLE_VALID_EXITS: Final = (
    KVM_X86_DISABLE_EXITS_MWAIT | KVM_X86_DISABLE_EXITS_HLT | KVM_X86_DISABLE_EXITS_PAUSE | KVM_X86_DISABLE_EXITS_CSTATE
)


class kvm_enable_cap(Struct):
    """Of ``KVM_ENABLE_CAP``."""

    cap: u32 = 0
    flags: u32 = 0
    args: Annotated[MutableSequence[int], u64, 4] = ZERO
    pad: Annotated[bytes, u8, 64] = b""


KVM_GET_API_VERSION: Final = _IO(KVMIO, 0x00)
KVM_CREATE_VM: Final = _IO(KVMIO, 0x01)
KVM_GET_MSR_INDEX_LIST: Final = _IOWR(KVMIO, 0x02, kvm_msr_list)
KVM_CHECK_EXTENSION: Final = _IO(KVMIO, 0x03)
KVM_GET_VCPU_MMAP_SIZE: Final = _IO(KVMIO, 0x04)
KVM_GET_SUPPORTED_CPUID: Final = _IOWR(KVMIO, 0x05, kvm_cpuid2)
KVM_TRACE_ENABLE: Final = __KVM_DEPRECATED_MAIN_W_0x06
KVM_TRACE_PAUSE: Final = __KVM_DEPRECATED_MAIN_0x07
KVM_TRACE_DISABLE: Final = __KVM_DEPRECATED_MAIN_0x08
KVM_GET_EMULATED_CPUID: Final = _IOWR(KVMIO, 0x09, kvm_cpuid2)
KVM_GET_MSR_FEATURE_INDEX_LIST: Final = _IOWR(KVMIO, 0x0A, kvm_msr_list)
KVM_CAP_IRQCHIP: Final = 0
KVM_CAP_HLT: Final = 1
KVM_CAP_MMU_SHADOW_CACHE_CONTROL: Final = 2
KVM_CAP_USER_MEMORY: Final = 3
KVM_CAP_SET_TSS_ADDR: Final = 4
KVM_CAP_VAPIC: Final = 6
KVM_CAP_EXT_CPUID: Final = 7
KVM_CAP_CLOCKSOURCE: Final = 8
KVM_CAP_NR_VCPUS: Final = 9
KVM_CAP_NR_MEMSLOTS: Final = 10
KVM_CAP_PIT: Final = 11
KVM_CAP_NOP_IO_DELAY: Final = 12
KVM_CAP_PV_MMU: Final = 13
KVM_CAP_MP_STATE: Final = 14
KVM_CAP_COALESCED_MMIO: Final = 15
KVM_CAP_SYNC_MMU: Final = 16
KVM_CAP_IOMMU: Final = 18
KVM_CAP_DESTROY_MEMORY_REGION_WORKS: Final = 21
KVM_CAP_USER_NMI: Final = 22
KVM_CAP_SET_GUEST_DEBUG: Final = 23
KVM_CAP_REINJECT_CONTROL: Final = 24
KVM_CAP_IRQ_ROUTING: Final = 25
KVM_CAP_IRQ_INJECT_STATUS: Final = 26
KVM_CAP_ASSIGN_DEV_IRQ: Final = 29
KVM_CAP_JOIN_MEMORY_REGIONS_WORKS: Final = 30
KVM_CAP_MCE: Final = 31
KVM_CAP_IRQFD: Final = 32
KVM_CAP_PIT2: Final = 33
KVM_CAP_SET_BOOT_CPU_ID: Final = 34
KVM_CAP_PIT_STATE2: Final = 35
KVM_CAP_IOEVENTFD: Final = 36
KVM_CAP_SET_IDENTITY_MAP_ADDR: Final = 37
KVM_CAP_XEN_HVM: Final = 38
KVM_CAP_ADJUST_CLOCK: Final = 39
KVM_CAP_INTERNAL_ERROR_DATA: Final = 40
KVM_CAP_VCPU_EVENTS: Final = 41
KVM_CAP_HYPERV: Final = 44
KVM_CAP_HYPERV_VAPIC: Final = 45
KVM_CAP_HYPERV_SPIN: Final = 46
KVM_CAP_PCI_SEGMENT: Final = 47
KVM_CAP_INTR_SHADOW: Final = 49
KVM_CAP_DEBUGREGS: Final = 50
KVM_CAP_X86_ROBUST_SINGLESTEP: Final = 51
KVM_CAP_ENABLE_CAP: Final = 54
KVM_CAP_XSAVE: Final = 55
KVM_CAP_XCRS: Final = 56
KVM_CAP_ASYNC_PF: Final = 59
KVM_CAP_TSC_CONTROL: Final = 60
KVM_CAP_GET_TSC_KHZ: Final = 61
KVM_CAP_MAX_VCPUS: Final = 66
KVM_CAP_ONE_REG: Final = 70
KVM_CAP_TSC_DEADLINE_TIMER: Final = 72
KVM_CAP_SYNC_REGS: Final = 74
KVM_CAP_PCI_2_3: Final = 75
KVM_CAP_KVMCLOCK_CTRL: Final = 76
KVM_CAP_SIGNAL_MSI: Final = 77
KVM_CAP_READONLY_MEM: Final = 81
KVM_CAP_IRQFD_RESAMPLE: Final = 82
KVM_CAP_DEVICE_CTRL: Final = 89
KVM_CAP_EXT_EMUL_CPUID: Final = 95
KVM_CAP_HYPERV_TIME: Final = 96
KVM_CAP_IOAPIC_POLARITY_IGNORED: Final = 97
KVM_CAP_ENABLE_CAP_VM: Final = 98
KVM_CAP_IOEVENTFD_NO_LENGTH: Final = 100
KVM_CAP_VM_ATTRIBUTES: Final = 101
KVM_CAP_CHECK_EXTENSION_VM: Final = 105
KVM_CAP_DISABLE_QUIRKS: Final = 116
KVM_CAP_X86_SMM: Final = 117
KVM_CAP_MULTI_ADDRESS_SPACE: Final = 118
KVM_CAP_GUEST_DEBUG_HW_BPS: Final = 119
KVM_CAP_GUEST_DEBUG_HW_WPS: Final = 120
KVM_CAP_SPLIT_IRQCHIP: Final = 121
KVM_CAP_IOEVENTFD_ANY_LENGTH: Final = 122
KVM_CAP_HYPERV_SYNIC: Final = 123
KVM_CAP_VCPU_ATTRIBUTES: Final = 127
KVM_CAP_MAX_VCPU_ID: Final = 128
KVM_CAP_X2APIC_API: Final = 129
KVM_CAP_MSI_DEVID: Final = 131
KVM_CAP_IMMEDIATE_EXIT: Final = 136
KVM_CAP_X86_DISABLE_EXITS: Final = 143
KVM_CAP_HYPERV_SYNIC2: Final = 148
KVM_CAP_HYPERV_VP_INDEX: Final = 149
KVM_CAP_GET_MSR_FEATURES: Final = 153
KVM_CAP_HYPERV_EVENTFD: Final = 154
KVM_CAP_HYPERV_TLBFLUSH: Final = 155
KVM_CAP_NESTED_STATE: Final = 157
KVM_CAP_MSR_PLATFORM_INFO: Final = 159
KVM_CAP_HYPERV_SEND_IPI: Final = 161
KVM_CAP_COALESCED_PIO: Final = 162
KVM_CAP_HYPERV_ENLIGHTENED_VMCS: Final = 163
KVM_CAP_EXCEPTION_PAYLOAD: Final = 164
KVM_CAP_MANUAL_DIRTY_LOG_PROTECT: Final = 166
KVM_CAP_HYPERV_CPUID: Final = 167
KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2: Final = 168
KVM_CAP_PMU_EVENT_FILTER: Final = 173
KVM_CAP_HYPERV_DIRECT_TLBFLUSH: Final = 175
KVM_CAP_HALT_POLL: Final = 182
KVM_CAP_ASYNC_PF_INT: Final = 183
KVM_CAP_LAST_CPU: Final = 184
KVM_CAP_SMALLER_MAXPHYADDR: Final = 185
KVM_CAP_STEAL_TIME: Final = 187
KVM_CAP_X86_USER_SPACE_MSR: Final = 188
KVM_CAP_X86_MSR_FILTER: Final = 189
KVM_CAP_ENFORCE_PV_FEATURE_CPUID: Final = 190
KVM_CAP_SYS_HYPERV_CPUID: Final = 191
KVM_CAP_DIRTY_LOG_RING: Final = 192
KVM_CAP_X86_BUS_LOCK_EXIT: Final = 193
KVM_CAP_SET_GUEST_DEBUG2: Final = 195
KVM_CAP_SGX_ATTRIBUTE: Final = 196
KVM_CAP_VM_COPY_ENC_CONTEXT_FROM: Final = 197
KVM_CAP_PTP_KVM: Final = 198
KVM_CAP_HYPERV_ENFORCE_CPUID: Final = 199
KVM_CAP_SREGS2: Final = 200
KVM_CAP_EXIT_HYPERCALL: Final = 201
KVM_CAP_BINARY_STATS_FD: Final = 203
KVM_CAP_EXIT_ON_EMULATION_FAILURE: Final = 204
KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM: Final = 206
KVM_CAP_VM_GPA_BITS: Final = 207
KVM_CAP_XSAVE2: Final = 208
KVM_CAP_SYS_ATTRIBUTES: Final = 209
KVM_CAP_PMU_CAPABILITY: Final = 212
KVM_CAP_DISABLE_QUIRKS2: Final = 213
KVM_CAP_VM_TSC_CONTROL: Final = 214
KVM_CAP_SYSTEM_EVENT_DATA: Final = 215
KVM_CAP_X86_TRIPLE_FAULT_EVENT: Final = 218
KVM_CAP_X86_NOTIFY_VMEXIT: Final = 219
KVM_CAP_VM_DISABLE_NX_HUGE_PAGES: Final = 220
KVM_CAP_DIRTY_LOG_RING_ACQ_REL: Final = 223


class kvm_irq_routing_irqchip(Struct):
    """A pin of an interrupt controller."""

    irqchip: u32 = 0
    pin: u32 = 0


class kvm_irq_routing_msi(Struct):
    """A message."""

    address_lo: u32 = 0
    address_hi: u32 = 0
    data: u32 = 0
    _union = anon_union(until="devid")
    pad: u32 = 0
    devid: u32 = 0


class kvm_irq_routing_s390_adapter(Struct):
    """Of s390, in the union of ``kvm_irq_routing_entry``."""

    ind_addr: u64 = 0
    summary_addr: u64 = 0
    ind_offset: u64 = 0
    summary_offset: u32 = 0
    adapter_id: u32 = 0


class kvm_irq_routing_hv_sint(Struct):
    """A synthetic interrupt of Hyper-V's."""

    vcpu: u32 = 0
    sint: u32 = 0


class kvm_irq_routing_xen_evtchn(Struct):
    """Of ``KVM_XEN_HVM_EVTCHN_SEND``."""

    port: u32 = 0
    vcpu: u32 = 0
    priority: u32 = 0


KVM_IRQ_ROUTING_XEN_EVTCHN_PRIO_2LEVEL: Final = 0xFFFFFFFF
KVM_IRQ_ROUTING_IRQCHIP: Final = 1
KVM_IRQ_ROUTING_MSI: Final = 2
KVM_IRQ_ROUTING_HV_SINT: Final = 4
KVM_IRQ_ROUTING_XEN_EVTCHN: Final = 5


class kvm_irq_routing_entry_u(Union, ctype="__typeof__(((struct kvm_irq_routing_entry *)0)->u)"):
    """The ``u`` of ``kvm_irq_routing_entry``."""

    irqchip: kvm_irq_routing_irqchip = ZERO
    msi: kvm_irq_routing_msi = ZERO
    adapter: kvm_irq_routing_s390_adapter = ZERO
    hv_sint: kvm_irq_routing_hv_sint = ZERO
    xen_evtchn: kvm_irq_routing_xen_evtchn = ZERO
    pad: Annotated[MutableSequence[int], u32, 8] = ZERO


class kvm_irq_routing_entry(Struct):
    """What one GSI is."""

    gsi: u32 = 0
    type: u32 = 0
    flags: u32 = 0
    pad: u32 = 0
    u: kvm_irq_routing_entry_u = ZERO


class kvm_irq_routing(Struct):
    """Of ``KVM_SET_GSI_ROUTING``."""

    nr: u32 = 0
    flags: u32 = 0
    entries: Annotated[MutableSequence[kvm_irq_routing_entry], kvm_irq_routing_entry, ...] = ZERO


class kvm_x86_mce(Struct):
    """Of ``KVM_X86_SET_MCE``."""

    status: u64 = 0
    addr: u64 = 0
    misc: u64 = 0
    mcg_status: u64 = 0
    bank: u8 = 0
    pad1: Annotated[bytes, u8, 7] = b""
    pad2: Annotated[MutableSequence[int], u64, 3] = ZERO


KVM_XEN_HVM_CONFIG_HYPERCALL_MSR: Final = 1 << 0
KVM_XEN_HVM_CONFIG_INTERCEPT_HCALL: Final = 1 << 1
KVM_XEN_HVM_CONFIG_SHARED_INFO: Final = 1 << 2
KVM_XEN_HVM_CONFIG_RUNSTATE: Final = 1 << 3
KVM_XEN_HVM_CONFIG_EVTCHN_2LEVEL: Final = 1 << 4
KVM_XEN_HVM_CONFIG_EVTCHN_SEND: Final = 1 << 5


class kvm_xen_hvm_config(Struct):
    """Of ``KVM_XEN_HVM_CONFIG``."""

    flags: u32 = 0
    msr: u32 = 0
    blob_addr_32: u64 = 0
    blob_addr_64: u64 = 0
    blob_size_32: u8 = 0
    blob_size_64: u8 = 0
    pad2: Annotated[bytes, u8, 30] = b""


KVM_IRQFD_FLAG_DEASSIGN: Final = 1 << 0
KVM_IRQFD_FLAG_RESAMPLE: Final = 1 << 1


class kvm_irqfd(Struct):
    """Of ``KVM_IRQFD``."""

    fd: u32 = 0
    gsi: u32 = 0
    flags: u32 = 0
    resamplefd: u32 = 0
    pad: Annotated[bytes, u8, 16] = b""


KVM_CLOCK_TSC_STABLE: Final = 2
KVM_CLOCK_REALTIME: Final = 1 << 2
KVM_CLOCK_HOST_TSC: Final = 1 << 3


class kvm_clock_data(Struct):
    """Of ``KVM_SET_CLOCK``, ``KVM_GET_CLOCK``."""

    clock: u64 = 0
    flags: u32 = 0
    pad0: u32 = 0
    realtime: u64 = 0
    host_tsc: u64 = 0
    pad: Annotated[MutableSequence[int], u32, 4] = ZERO


KVM_REG_ARCH_MASK: Final = 0xFF00000000000000
KVM_REG_GENERIC: Final = 0x0000000000000000
KVM_REG_X86: Final = 0x2000000000000000
KVM_REG_SIZE_SHIFT: Final = 52
KVM_REG_SIZE_MASK: Final = 0x00F0000000000000
KVM_REG_SIZE_U8: Final = 0x0000000000000000
KVM_REG_SIZE_U16: Final = 0x0010000000000000
KVM_REG_SIZE_U32: Final = 0x0020000000000000
KVM_REG_SIZE_U64: Final = 0x0030000000000000
KVM_REG_SIZE_U128: Final = 0x0040000000000000
KVM_REG_SIZE_U256: Final = 0x0050000000000000
KVM_REG_SIZE_U512: Final = 0x0060000000000000
KVM_REG_SIZE_U1024: Final = 0x0070000000000000
KVM_REG_SIZE_U2048: Final = 0x0080000000000000


class kvm_reg_list(Struct):
    """Of ``KVM_GET_REG_LIST``."""

    n: u64 = 0
    reg: Annotated[MutableSequence[int], u64, ...] = ZERO


class kvm_one_reg(Struct):
    """Of ``KVM_GET_ONE_REG``, ``KVM_SET_ONE_REG``."""

    id: u64 = 0
    addr: u64 = 0


KVM_MSI_VALID_DEVID: Final = 1 << 0


class kvm_msi(Struct):
    """Of ``KVM_SIGNAL_MSI``."""

    address_lo: u32 = 0
    address_hi: u32 = 0
    data: u32 = 0
    flags: u32 = 0
    devid: u32 = 0
    pad: Annotated[bytes, u8, 12] = b""


KVM_CREATE_DEVICE_TEST: Final = 1


class kvm_create_device(Struct):
    """Of ``KVM_CREATE_DEVICE``."""

    type: u32 = 0
    fd: u32 = 0
    flags: u32 = 0


class kvm_device_attr(Struct):
    """Of ``KVM_SET_DEVICE_ATTR``, ``KVM_GET_DEVICE_ATTR``."""

    flags: u32 = 0
    group: u32 = 0
    attr: u64 = 0
    addr: u64 = 0


KVM_DEV_VFIO_GROUP: Final = 1
KVM_DEV_VFIO_GROUP_ADD: Final = 1
KVM_DEV_VFIO_GROUP_DEL: Final = 2


class kvm_device_type(IntEnum):
    """``kvm_create_device.type``."""

    KVM_DEV_TYPE_FSL_MPIC_20 = 1
    KVM_DEV_TYPE_FSL_MPIC_42 = 2
    KVM_DEV_TYPE_XICS = 3
    KVM_DEV_TYPE_VFIO = 4
    KVM_DEV_TYPE_ARM_VGIC_V2 = 5
    KVM_DEV_TYPE_FLIC = 6
    KVM_DEV_TYPE_ARM_VGIC_V3 = 7
    KVM_DEV_TYPE_ARM_VGIC_ITS = 8
    KVM_DEV_TYPE_XIVE = 9
    KVM_DEV_TYPE_ARM_PV_TIME = 10


(
    KVM_DEV_TYPE_FSL_MPIC_20,
    KVM_DEV_TYPE_FSL_MPIC_42,
    KVM_DEV_TYPE_XICS,
    KVM_DEV_TYPE_VFIO,
    KVM_DEV_TYPE_ARM_VGIC_V2,
    KVM_DEV_TYPE_FLIC,
    KVM_DEV_TYPE_ARM_VGIC_V3,
    KVM_DEV_TYPE_ARM_VGIC_ITS,
    KVM_DEV_TYPE_XIVE,
    KVM_DEV_TYPE_ARM_PV_TIME,
) = kvm_device_type
KVM_SET_MEMORY_REGION: Final = _IOW(KVMIO, 0x40, kvm_memory_region)
KVM_CREATE_VCPU: Final = _IO(KVMIO, 0x41)
KVM_GET_DIRTY_LOG: Final = _IOW(KVMIO, 0x42, kvm_dirty_log)
KVM_SET_MEMORY_ALIAS: Final = _IOW(KVMIO, 0x43, kvm_memory_alias)
KVM_SET_NR_MMU_PAGES: Final = _IO(KVMIO, 0x44)
KVM_GET_NR_MMU_PAGES: Final = _IO(KVMIO, 0x45)
KVM_SET_USER_MEMORY_REGION: Final = _IOW(KVMIO, 0x46, kvm_userspace_memory_region)
KVM_SET_TSS_ADDR: Final = _IO(KVMIO, 0x47)
KVM_SET_IDENTITY_MAP_ADDR: Final = _IOW(KVMIO, 0x48, "__u64")
KVM_CREATE_IRQCHIP: Final = _IO(KVMIO, 0x60)
KVM_IRQ_LINE: Final = _IOW(KVMIO, 0x61, kvm_irq_level)
KVM_GET_IRQCHIP: Final = _IOWR(KVMIO, 0x62, kvm_irqchip)
KVM_SET_IRQCHIP: Final = _IOR(KVMIO, 0x63, kvm_irqchip)
KVM_CREATE_PIT: Final = _IO(KVMIO, 0x64)
KVM_GET_PIT: Final = _IOWR(KVMIO, 0x65, kvm_pit_state)
KVM_SET_PIT: Final = _IOR(KVMIO, 0x66, kvm_pit_state)
KVM_IRQ_LINE_STATUS: Final = _IOWR(KVMIO, 0x67, kvm_irq_level)
KVM_REGISTER_COALESCED_MMIO: Final = _IOW(KVMIO, 0x67, kvm_coalesced_mmio_zone)
KVM_UNREGISTER_COALESCED_MMIO: Final = _IOW(KVMIO, 0x68, kvm_coalesced_mmio_zone)
KVM_SET_GSI_ROUTING: Final = _IOW(KVMIO, 0x6A, kvm_irq_routing)
KVM_REINJECT_CONTROL: Final = _IO(KVMIO, 0x71)
KVM_IRQFD: Final = _IOW(KVMIO, 0x76, kvm_irqfd)
KVM_CREATE_PIT2: Final = _IOW(KVMIO, 0x77, kvm_pit_config)
KVM_SET_BOOT_CPU_ID: Final = _IO(KVMIO, 0x78)
KVM_IOEVENTFD: Final = _IOW(KVMIO, 0x79, kvm_ioeventfd)
KVM_XEN_HVM_CONFIG: Final = _IOW(KVMIO, 0x7A, kvm_xen_hvm_config)
KVM_SET_CLOCK: Final = _IOW(KVMIO, 0x7B, kvm_clock_data)
KVM_GET_CLOCK: Final = _IOR(KVMIO, 0x7C, kvm_clock_data)
KVM_GET_PIT2: Final = _IOR(KVMIO, 0x9F, kvm_pit_state2)
KVM_SET_PIT2: Final = _IOW(KVMIO, 0xA0, kvm_pit_state2)
KVM_SET_TSC_KHZ: Final = _IO(KVMIO, 0xA2)
KVM_GET_TSC_KHZ: Final = _IO(KVMIO, 0xA3)
KVM_SIGNAL_MSI: Final = _IOW(KVMIO, 0xA5, kvm_msi)
KVM_SET_PMU_EVENT_FILTER: Final = _IOW(KVMIO, 0xB2, kvm_pmu_event_filter)
KVM_CREATE_DEVICE: Final = _IOWR(KVMIO, 0xE0, kvm_create_device)
KVM_SET_DEVICE_ATTR: Final = _IOW(KVMIO, 0xE1, kvm_device_attr)
KVM_GET_DEVICE_ATTR: Final = _IOW(KVMIO, 0xE2, kvm_device_attr)
KVM_HAS_DEVICE_ATTR: Final = _IOW(KVMIO, 0xE3, kvm_device_attr)
KVM_RUN: Final = _IO(KVMIO, 0x80)
KVM_GET_REGS: Final = _IOR(KVMIO, 0x81, kvm_regs)
KVM_SET_REGS: Final = _IOW(KVMIO, 0x82, kvm_regs)
KVM_GET_SREGS: Final = _IOR(KVMIO, 0x83, kvm_sregs)
KVM_SET_SREGS: Final = _IOW(KVMIO, 0x84, kvm_sregs)
KVM_TRANSLATE: Final = _IOWR(KVMIO, 0x85, kvm_translation)
KVM_INTERRUPT: Final = _IOW(KVMIO, 0x86, kvm_interrupt)
KVM_DEBUG_GUEST: Final = __KVM_DEPRECATED_VCPU_W_0x87
KVM_GET_MSRS: Final = _IOWR(KVMIO, 0x88, kvm_msrs)
KVM_SET_MSRS: Final = _IOW(KVMIO, 0x89, kvm_msrs)
KVM_SET_CPUID: Final = _IOW(KVMIO, 0x8A, kvm_cpuid)
KVM_SET_SIGNAL_MASK: Final = _IOW(KVMIO, 0x8B, kvm_signal_mask)
KVM_GET_FPU: Final = _IOR(KVMIO, 0x8C, kvm_fpu)
KVM_SET_FPU: Final = _IOW(KVMIO, 0x8D, kvm_fpu)
KVM_GET_LAPIC: Final = _IOR(KVMIO, 0x8E, kvm_lapic_state)
KVM_SET_LAPIC: Final = _IOW(KVMIO, 0x8F, kvm_lapic_state)
KVM_SET_CPUID2: Final = _IOW(KVMIO, 0x90, kvm_cpuid2)
KVM_GET_CPUID2: Final = _IOWR(KVMIO, 0x91, kvm_cpuid2)
KVM_TPR_ACCESS_REPORTING: Final = _IOWR(KVMIO, 0x92, kvm_tpr_access_ctl)
KVM_SET_VAPIC_ADDR: Final = _IOW(KVMIO, 0x93, kvm_vapic_addr)
KVM_GET_MP_STATE: Final = _IOR(KVMIO, 0x98, kvm_mp_state)
KVM_SET_MP_STATE: Final = _IOW(KVMIO, 0x99, kvm_mp_state)
KVM_NMI: Final = _IO(KVMIO, 0x9A)
KVM_SET_GUEST_DEBUG: Final = _IOW(KVMIO, 0x9B, kvm_guest_debug)
KVM_X86_SETUP_MCE: Final = _IOW(KVMIO, 0x9C, "__u64")
KVM_X86_GET_MCE_CAP_SUPPORTED: Final = _IOR(KVMIO, 0x9D, "__u64")
KVM_X86_SET_MCE: Final = _IOW(KVMIO, 0x9E, kvm_x86_mce)
KVM_GET_VCPU_EVENTS: Final = _IOR(KVMIO, 0x9F, kvm_vcpu_events)
KVM_SET_VCPU_EVENTS: Final = _IOW(KVMIO, 0xA0, kvm_vcpu_events)
KVM_GET_DEBUGREGS: Final = _IOR(KVMIO, 0xA1, kvm_debugregs)
KVM_SET_DEBUGREGS: Final = _IOW(KVMIO, 0xA2, kvm_debugregs)
KVM_ENABLE_CAP: Final = _IOW(KVMIO, 0xA3, kvm_enable_cap)
KVM_GET_XSAVE: Final = _IOR(KVMIO, 0xA4, kvm_xsave)
KVM_SET_XSAVE: Final = _IOW(KVMIO, 0xA5, kvm_xsave)
KVM_GET_XCRS: Final = _IOR(KVMIO, 0xA6, kvm_xcrs)
KVM_SET_XCRS: Final = _IOW(KVMIO, 0xA7, kvm_xcrs)
KVM_GET_ONE_REG: Final = _IOW(KVMIO, 0xAB, kvm_one_reg)
KVM_SET_ONE_REG: Final = _IOW(KVMIO, 0xAC, kvm_one_reg)
KVM_KVMCLOCK_CTRL: Final = _IO(KVMIO, 0xAD)
KVM_GET_REG_LIST: Final = _IOWR(KVMIO, 0xB0, kvm_reg_list)
KVM_SMI: Final = _IO(KVMIO, 0xB7)
KVM_MEMORY_ENCRYPT_OP: Final = _IOWR(KVMIO, 0xBA, "unsigned long")


class kvm_enc_region(Struct):
    """Of ``KVM_MEMORY_ENCRYPT_REG_REGION``, ``KVM_MEMORY_ENCRYPT_UNREG_REGION``."""

    addr: u64 = 0
    size: u64 = 0


KVM_MEMORY_ENCRYPT_REG_REGION: Final = _IOR(KVMIO, 0xBB, kvm_enc_region)
KVM_MEMORY_ENCRYPT_UNREG_REGION: Final = _IOR(KVMIO, 0xBC, kvm_enc_region)
KVM_GET_NESTED_STATE: Final = _IOWR(KVMIO, 0xBE, kvm_nested_state)
KVM_SET_NESTED_STATE: Final = _IOW(KVMIO, 0xBF, kvm_nested_state)
KVM_CLEAR_DIRTY_LOG: Final = _IOWR(KVMIO, 0xC0, kvm_clear_dirty_log)
KVM_GET_SUPPORTED_HV_CPUID: Final = _IOWR(KVMIO, 0xC1, kvm_cpuid2)
KVM_X86_SET_MSR_FILTER: Final = _IOW(KVMIO, 0xC6, kvm_msr_filter)
KVM_RESET_DIRTY_RINGS: Final = _IO(KVMIO, 0xC7)
KVM_XEN_EVTCHN_DEASSIGN: Final = 1 << 0
KVM_XEN_EVTCHN_UPDATE: Final = 1 << 1
KVM_XEN_EVTCHN_RESET: Final = 1 << 2


class kvm_xen_hvm_attr_u_shared_info(Struct, ctype="__typeof__(((struct kvm_xen_hvm_attr *)0)->u.shared_info)"):
    """The ``u.shared_info`` of ``kvm_xen_hvm_attr``."""

    gfn: u64 = 0


class kvm_xen_hvm_attr_u_evtchn_deliver_port(
    Struct, ctype="__typeof__(((struct kvm_xen_hvm_attr *)0)->u.evtchn.deliver.port)"
):
    """The ``u.evtchn.deliver.port`` of ``kvm_xen_hvm_attr``."""

    port: u32 = 0
    vcpu: u32 = 0
    priority: u32 = 0


class kvm_xen_hvm_attr_u_evtchn_deliver_eventfd(
    Struct, ctype="__typeof__(((struct kvm_xen_hvm_attr *)0)->u.evtchn.deliver.eventfd)"
):
    """The ``u.evtchn.deliver.eventfd`` of ``kvm_xen_hvm_attr``."""

    port: u32 = 0
    fd: s32 = 0


class kvm_xen_hvm_attr_u_evtchn_deliver(Union, ctype="__typeof__(((struct kvm_xen_hvm_attr *)0)->u.evtchn.deliver)"):
    """The ``u.evtchn.deliver`` of ``kvm_xen_hvm_attr``."""

    port: kvm_xen_hvm_attr_u_evtchn_deliver_port = ZERO
    eventfd: kvm_xen_hvm_attr_u_evtchn_deliver_eventfd = ZERO
    padding: Annotated[MutableSequence[int], u32, 4] = ZERO


class kvm_xen_hvm_attr_u_evtchn(Struct, ctype="__typeof__(((struct kvm_xen_hvm_attr *)0)->u.evtchn)"):
    """The ``u.evtchn`` of ``kvm_xen_hvm_attr``."""

    send_port: u32 = 0
    type: u32 = 0
    flags: u32 = 0
    deliver: kvm_xen_hvm_attr_u_evtchn_deliver = ZERO


class kvm_xen_hvm_attr_u(Union, ctype="__typeof__(((struct kvm_xen_hvm_attr *)0)->u)"):
    """The ``u`` of ``kvm_xen_hvm_attr``."""

    long_mode: u8 = 0
    vector: u8 = 0
    shared_info: kvm_xen_hvm_attr_u_shared_info = ZERO
    evtchn: kvm_xen_hvm_attr_u_evtchn = ZERO
    xen_version: u32 = 0
    pad: Annotated[MutableSequence[int], u64, 8] = ZERO


class kvm_xen_hvm_attr(Struct):
    """Of ``KVM_XEN_HVM_GET_ATTR``, ``KVM_XEN_HVM_SET_ATTR``."""

    type: u16 = 0
    pad: Annotated[MutableSequence[int], u16, 3] = ZERO
    u: kvm_xen_hvm_attr_u = ZERO


KVM_XEN_HVM_GET_ATTR: Final = _IOWR(KVMIO, 0xC8, kvm_xen_hvm_attr)
KVM_XEN_HVM_SET_ATTR: Final = _IOW(KVMIO, 0xC9, kvm_xen_hvm_attr)
KVM_XEN_ATTR_TYPE_LONG_MODE: Final = 0x0
KVM_XEN_ATTR_TYPE_SHARED_INFO: Final = 0x1
KVM_XEN_ATTR_TYPE_UPCALL_VECTOR: Final = 0x2
KVM_XEN_ATTR_TYPE_EVTCHN: Final = 0x3
KVM_XEN_ATTR_TYPE_XEN_VERSION: Final = 0x4
KVM_XEN_HVM_EVTCHN_SEND: Final = _IOW(KVMIO, 0xD0, kvm_irq_routing_xen_evtchn)
KVM_GET_SREGS2: Final = _IOR(KVMIO, 0xCC, kvm_sregs2)
KVM_SET_SREGS2: Final = _IOW(KVMIO, 0xCD, kvm_sregs2)


class kvm_xen_vcpu_attr_u_runstate(Struct, ctype="__typeof__(((struct kvm_xen_vcpu_attr *)0)->u.runstate)"):
    """The ``u.runstate`` of ``kvm_xen_vcpu_attr``."""

    state: u64 = 0
    state_entry_time: u64 = 0
    time_running: u64 = 0
    time_runnable: u64 = 0
    time_blocked: u64 = 0
    time_offline: u64 = 0


class kvm_xen_vcpu_attr_u_timer(Struct, ctype="__typeof__(((struct kvm_xen_vcpu_attr *)0)->u.timer)"):
    """The ``u.timer`` of ``kvm_xen_vcpu_attr``."""

    port: u32 = 0
    priority: u32 = 0
    expires_ns: u64 = 0


class kvm_xen_vcpu_attr_u(Union, ctype="__typeof__(((struct kvm_xen_vcpu_attr *)0)->u)"):
    """The ``u`` of ``kvm_xen_vcpu_attr``."""

    gpa: u64 = 0
    pad: Annotated[MutableSequence[int], u64, 8] = ZERO
    runstate: kvm_xen_vcpu_attr_u_runstate = ZERO
    vcpu_id: u32 = 0
    timer: kvm_xen_vcpu_attr_u_timer = ZERO
    vector: u8 = 0


class kvm_xen_vcpu_attr(Struct):
    """Of ``KVM_XEN_VCPU_GET_ATTR``, ``KVM_XEN_VCPU_SET_ATTR``."""

    type: u16 = 0
    pad: Annotated[MutableSequence[int], u16, 3] = ZERO
    u: kvm_xen_vcpu_attr_u = ZERO


KVM_XEN_VCPU_GET_ATTR: Final = _IOWR(KVMIO, 0xCA, kvm_xen_vcpu_attr)
KVM_XEN_VCPU_SET_ATTR: Final = _IOW(KVMIO, 0xCB, kvm_xen_vcpu_attr)
KVM_XEN_VCPU_ATTR_TYPE_VCPU_INFO: Final = 0x0
KVM_XEN_VCPU_ATTR_TYPE_VCPU_TIME_INFO: Final = 0x1
KVM_XEN_VCPU_ATTR_TYPE_RUNSTATE_ADDR: Final = 0x2
KVM_XEN_VCPU_ATTR_TYPE_RUNSTATE_CURRENT: Final = 0x3
KVM_XEN_VCPU_ATTR_TYPE_RUNSTATE_DATA: Final = 0x4
KVM_XEN_VCPU_ATTR_TYPE_RUNSTATE_ADJUST: Final = 0x5
KVM_XEN_VCPU_ATTR_TYPE_VCPU_ID: Final = 0x6
KVM_XEN_VCPU_ATTR_TYPE_TIMER: Final = 0x7
KVM_XEN_VCPU_ATTR_TYPE_UPCALL_VECTOR: Final = 0x8


class sev_cmd_id(IntEnum):
    """``kvm_sev_cmd.id``."""

    KVM_SEV_INIT = 0
    KVM_SEV_ES_INIT = 1
    KVM_SEV_LAUNCH_START = 2
    KVM_SEV_LAUNCH_UPDATE_DATA = 3
    KVM_SEV_LAUNCH_UPDATE_VMSA = 4
    KVM_SEV_LAUNCH_SECRET = 5
    KVM_SEV_LAUNCH_MEASURE = 6
    KVM_SEV_LAUNCH_FINISH = 7
    KVM_SEV_SEND_START = 8
    KVM_SEV_SEND_UPDATE_DATA = 9
    KVM_SEV_SEND_UPDATE_VMSA = 10
    KVM_SEV_SEND_FINISH = 11
    KVM_SEV_RECEIVE_START = 12
    KVM_SEV_RECEIVE_UPDATE_DATA = 13
    KVM_SEV_RECEIVE_UPDATE_VMSA = 14
    KVM_SEV_RECEIVE_FINISH = 15
    KVM_SEV_GUEST_STATUS = 16
    KVM_SEV_DBG_DECRYPT = 17
    KVM_SEV_DBG_ENCRYPT = 18
    KVM_SEV_CERT_EXPORT = 19
    KVM_SEV_GET_ATTESTATION_REPORT = 20
    KVM_SEV_SEND_CANCEL = 21


(
    KVM_SEV_INIT,
    KVM_SEV_ES_INIT,
    KVM_SEV_LAUNCH_START,
    KVM_SEV_LAUNCH_UPDATE_DATA,
    KVM_SEV_LAUNCH_UPDATE_VMSA,
    KVM_SEV_LAUNCH_SECRET,
    KVM_SEV_LAUNCH_MEASURE,
    KVM_SEV_LAUNCH_FINISH,
    KVM_SEV_SEND_START,
    KVM_SEV_SEND_UPDATE_DATA,
    KVM_SEV_SEND_UPDATE_VMSA,
    KVM_SEV_SEND_FINISH,
    KVM_SEV_RECEIVE_START,
    KVM_SEV_RECEIVE_UPDATE_DATA,
    KVM_SEV_RECEIVE_UPDATE_VMSA,
    KVM_SEV_RECEIVE_FINISH,
    KVM_SEV_GUEST_STATUS,
    KVM_SEV_DBG_DECRYPT,
    KVM_SEV_DBG_ENCRYPT,
    KVM_SEV_CERT_EXPORT,
    KVM_SEV_GET_ATTESTATION_REPORT,
    KVM_SEV_SEND_CANCEL,
) = sev_cmd_id


class kvm_sev_cmd(Struct):
    """``KVM_MEMORY_ENCRYPT_OP`` on AMD."""

    id: u32 = 0
    data: u64 = 0
    error: u32 = 0
    sev_fd: u32 = 0


class kvm_sev_launch_start(Struct):
    """``KVM_SEV_LAUNCH_START``."""

    handle: u32 = 0
    policy: u32 = 0
    dh_uaddr: u64 = 0
    dh_len: u32 = 0
    session_uaddr: u64 = 0
    session_len: u32 = 0


class kvm_sev_launch_update_data(Struct):
    """``KVM_SEV_LAUNCH_UPDATE_DATA``."""

    uaddr: u64 = 0
    len: u32 = 0


class kvm_sev_launch_secret(Struct):
    """``KVM_SEV_LAUNCH_SECRET``."""

    hdr_uaddr: u64 = 0
    hdr_len: u32 = 0
    guest_uaddr: u64 = 0
    guest_len: u32 = 0
    trans_uaddr: u64 = 0
    trans_len: u32 = 0


class kvm_sev_launch_measure(Struct):
    """``KVM_SEV_LAUNCH_MEASURE``."""

    uaddr: u64 = 0
    len: u32 = 0


class kvm_sev_guest_status(Struct):
    """``KVM_SEV_GUEST_STATUS``."""

    handle: u32 = 0
    policy: u32 = 0
    state: u32 = 0


class kvm_sev_dbg(Struct):
    """``KVM_SEV_DBG_DECRYPT``, ``KVM_SEV_DBG_ENCRYPT``."""

    src_uaddr: u64 = 0
    dst_uaddr: u64 = 0
    len: u32 = 0


class kvm_sev_attestation_report(Struct):
    """``KVM_SEV_GET_ATTESTATION_REPORT``."""

    mnonce: Annotated[bytes, u8, 16] = b""
    uaddr: u64 = 0
    len: u32 = 0


class kvm_sev_send_start(Struct):
    """``KVM_SEV_SEND_START``."""

    policy: u32 = 0
    pdh_cert_uaddr: u64 = 0
    pdh_cert_len: u32 = 0
    plat_certs_uaddr: u64 = 0
    plat_certs_len: u32 = 0
    amd_certs_uaddr: u64 = 0
    amd_certs_len: u32 = 0
    session_uaddr: u64 = 0
    session_len: u32 = 0


class kvm_sev_send_update_data(Struct):
    """``KVM_SEV_SEND_UPDATE_DATA``."""

    hdr_uaddr: u64 = 0
    hdr_len: u32 = 0
    guest_uaddr: u64 = 0
    guest_len: u32 = 0
    trans_uaddr: u64 = 0
    trans_len: u32 = 0


class kvm_sev_receive_start(Struct):
    """``KVM_SEV_RECEIVE_START``."""

    handle: u32 = 0
    policy: u32 = 0
    pdh_uaddr: u64 = 0
    pdh_len: u32 = 0
    session_uaddr: u64 = 0
    session_len: u32 = 0


class kvm_sev_receive_update_data(Struct):
    """``KVM_SEV_RECEIVE_UPDATE_DATA``."""

    hdr_uaddr: u64 = 0
    hdr_len: u32 = 0
    guest_uaddr: u64 = 0
    guest_len: u32 = 0
    trans_uaddr: u64 = 0
    trans_len: u32 = 0


KVM_DEV_ASSIGN_ENABLE_IOMMU: Final = 1 << 0
KVM_DEV_ASSIGN_PCI_2_3: Final = 1 << 1
KVM_DEV_ASSIGN_MASK_INTX: Final = 1 << 2


class kvm_assigned_pci_dev(Struct):
    """Of ``KVM_ASSIGN_PCI_DEVICE``, ``KVM_DEASSIGN_PCI_DEVICE``."""

    assigned_dev_id: u32 = 0
    busnr: u32 = 0
    devfn: u32 = 0
    flags: u32 = 0
    segnr: u32 = 0
    _union = anon_union(until="reserved")
    reserved: Annotated[MutableSequence[int], u32, 11] = ZERO


KVM_ASSIGN_PCI_DEVICE: Final = _IOR(KVMIO, 0x69, kvm_assigned_pci_dev)
KVM_DEASSIGN_PCI_DEVICE: Final = _IOW(KVMIO, 0x72, kvm_assigned_pci_dev)
KVM_ASSIGN_SET_INTX_MASK: Final = _IOW(KVMIO, 0xA4, kvm_assigned_pci_dev)
KVM_DEV_IRQ_HOST_INTX: Final = 1 << 0
KVM_DEV_IRQ_HOST_MSI: Final = 1 << 1
KVM_DEV_IRQ_HOST_MSIX: Final = 1 << 2
KVM_DEV_IRQ_GUEST_INTX: Final = 1 << 8
KVM_DEV_IRQ_GUEST_MSI: Final = 1 << 9
KVM_DEV_IRQ_GUEST_MSIX: Final = 1 << 10
KVM_DEV_IRQ_HOST_MASK: Final = 0x00FF
KVM_DEV_IRQ_GUEST_MASK: Final = 0xFF00


class kvm_assigned_irq(Struct):
    """Of ``__KVM_DEPRECATED_VM_R_0x70``, ``KVM_ASSIGN_DEV_IRQ``."""

    assigned_dev_id: u32 = 0
    host_irq: u32 = 0
    guest_irq: u32 = 0
    flags: u32 = 0
    _union = anon_union(until="reserved")
    reserved: Annotated[MutableSequence[int], u32, 12] = ZERO


__KVM_DEPRECATED_VM_R_0x70: Final = _IOR(KVMIO, 0x70, kvm_assigned_irq)
KVM_ASSIGN_IRQ: Final = __KVM_DEPRECATED_VM_R_0x70
KVM_ASSIGN_DEV_IRQ: Final = _IOW(KVMIO, 0x70, kvm_assigned_irq)
KVM_DEASSIGN_DEV_IRQ: Final = _IOW(KVMIO, 0x75, kvm_assigned_irq)


class kvm_assigned_msix_nr(Struct):
    """Of ``KVM_ASSIGN_SET_MSIX_NR``."""

    assigned_dev_id: u32 = 0
    entry_nr: u16 = 0
    padding: u16 = 0


KVM_ASSIGN_SET_MSIX_NR: Final = _IOW(KVMIO, 0x73, kvm_assigned_msix_nr)
KVM_MAX_MSIX_PER_DEV: Final = 256


class kvm_assigned_msix_entry(Struct):
    """Of ``KVM_ASSIGN_SET_MSIX_ENTRY``."""

    assigned_dev_id: u32 = 0
    gsi: u32 = 0
    entry: u16 = 0
    padding: Annotated[MutableSequence[int], u16, 3] = ZERO


KVM_ASSIGN_SET_MSIX_ENTRY: Final = _IOW(KVMIO, 0x74, kvm_assigned_msix_entry)
KVM_X2APIC_API_USE_32BIT_IDS: Final = 1 << 0
KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK: Final = 1 << 1


class kvm_hyperv_eventfd(Struct):
    """Of ``KVM_HYPERV_EVENTFD``."""

    conn_id: u32 = 0
    fd: s32 = 0
    flags: u32 = 0
    padding: Annotated[MutableSequence[int], u32, 3] = ZERO


KVM_HYPERV_EVENTFD: Final = _IOW(KVMIO, 0xBD, kvm_hyperv_eventfd)
KVM_HYPERV_CONN_ID_MASK: Final = 0x00FFFFFF
KVM_HYPERV_EVENTFD_DEASSIGN: Final = 1 << 0
KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE: Final = 1 << 0
KVM_DIRTY_LOG_INITIALLY_SET: Final = 1 << 1
KVM_DIRTY_GFN_F_DIRTY: Final = 1 << 0
KVM_DIRTY_GFN_F_RESET: Final = 1 << 1
KVM_DIRTY_GFN_F_MASK: Final = 0x3


class kvm_dirty_gfn(Struct):
    """One entry of a dirty ring."""

    flags: u32 = 0
    slot: u32 = 0
    offset: u64 = 0


KVM_BUS_LOCK_DETECTION_OFF: Final = 1 << 0
KVM_BUS_LOCK_DETECTION_EXIT: Final = 1 << 1
KVM_PMU_CAP_DISABLE: Final = 1 << 0


class kvm_stats_header(Struct):
    """What a statistics file begins with."""

    flags: u32 = 0
    name_size: u32 = 0
    num_desc: u32 = 0
    id_offset: u32 = 0
    desc_offset: u32 = 0
    data_offset: u32 = 0


KVM_STATS_TYPE_SHIFT: Final = 0
KVM_STATS_TYPE_MASK: Final = 0xF << KVM_STATS_TYPE_SHIFT
KVM_STATS_TYPE_CUMULATIVE: Final = 0x0 << KVM_STATS_TYPE_SHIFT
KVM_STATS_TYPE_INSTANT: Final = 0x1 << KVM_STATS_TYPE_SHIFT
KVM_STATS_TYPE_PEAK: Final = 0x2 << KVM_STATS_TYPE_SHIFT
KVM_STATS_TYPE_LINEAR_HIST: Final = 0x3 << KVM_STATS_TYPE_SHIFT
KVM_STATS_TYPE_LOG_HIST: Final = 0x4 << KVM_STATS_TYPE_SHIFT
KVM_STATS_TYPE_MAX: Final = KVM_STATS_TYPE_LOG_HIST
KVM_STATS_UNIT_SHIFT: Final = 4
KVM_STATS_UNIT_MASK: Final = 0xF << KVM_STATS_UNIT_SHIFT
KVM_STATS_UNIT_NONE: Final = 0x0 << KVM_STATS_UNIT_SHIFT
KVM_STATS_UNIT_BYTES: Final = 0x1 << KVM_STATS_UNIT_SHIFT
KVM_STATS_UNIT_SECONDS: Final = 0x2 << KVM_STATS_UNIT_SHIFT
KVM_STATS_UNIT_CYCLES: Final = 0x3 << KVM_STATS_UNIT_SHIFT
KVM_STATS_UNIT_BOOLEAN: Final = 0x4 << KVM_STATS_UNIT_SHIFT
KVM_STATS_UNIT_MAX: Final = KVM_STATS_UNIT_BOOLEAN
KVM_STATS_BASE_SHIFT: Final = 8
KVM_STATS_BASE_MASK: Final = 0xF << KVM_STATS_BASE_SHIFT
KVM_STATS_BASE_POW10: Final = 0x0 << KVM_STATS_BASE_SHIFT
KVM_STATS_BASE_POW2: Final = 0x1 << KVM_STATS_BASE_SHIFT
KVM_STATS_BASE_MAX: Final = KVM_STATS_BASE_POW2


class kvm_stats_desc(Struct):
    """One statistic."""

    flags: u32 = 0
    exponent: s16 = 0
    size: u16 = 0
    offset: u32 = 0
    bucket_size: u32 = 0
    name: Annotated[bytes, char, ...] = b""


KVM_GET_STATS_FD: Final = _IO(KVMIO, 0xCE)
KVM_GET_XSAVE2: Final = _IOR(KVMIO, 0xCF, kvm_xsave)
KVM_X86_NOTIFY_VMEXIT_ENABLED: Final = 1 << 0
KVM_X86_NOTIFY_VMEXIT_USER: Final = 1 << 1

# From which kernel's header this was made: names of later ones are not known here
AS_OF: Final = "6.1"

# Until which kernel a name was there: the last header that has it, of those from 6.1 to 6.12
OLDER: Final = {
    name: last
    for last, names in {
        "6.1": "kvm_memory_alias kvm_memory_region KVM_SET_MEMORY_REGION KVM_SET_MEMORY_ALIAS",
        "6.3": "kvm_run_hypercall.pad",
        "6.7": """
            KVM_TRC_SHIFT KVM_TRC_ENTRYEXIT KVM_TRC_HANDLER KVM_TRC_VMENTRY KVM_TRC_VMEXIT KVM_TRC_PAGE_FAULT
            KVM_TRC_HEAD_SIZE KVM_TRC_CYCLE_SIZE KVM_TRC_EXTRA_MAX KVM_TRC_INJ_VIRQ KVM_TRC_REDELIVER_EVT
            KVM_TRC_PEND_INTR KVM_TRC_IO_READ KVM_TRC_IO_WRITE KVM_TRC_CR_READ KVM_TRC_CR_WRITE KVM_TRC_DR_READ
            KVM_TRC_DR_WRITE KVM_TRC_MSR_READ KVM_TRC_MSR_WRITE KVM_TRC_CPUID KVM_TRC_INTR KVM_TRC_NMI
            KVM_TRC_VMMCALL KVM_TRC_HLT KVM_TRC_CLTS KVM_TRC_LMSW KVM_TRC_APIC_ACCESS KVM_TRC_TDP_FAULT
            KVM_TRC_GTLB_WRITE KVM_TRC_STLB_WRITE KVM_TRC_STLB_INVAL kvm_user_trace_setup
            __KVM_DEPRECATED_MAIN_W_0x06 __KVM_DEPRECATED_MAIN_0x07 __KVM_DEPRECATED_MAIN_0x08 kvm_breakpoint
            kvm_debug_guest __KVM_DEPRECATED_VCPU_W_0x87 KVM_TRACE_ENABLE KVM_TRACE_PAUSE KVM_TRACE_DISABLE
            KVM_DEBUG_GUEST KVM_ASSIGN_PCI_DEVICE KVM_DEASSIGN_PCI_DEVICE KVM_ASSIGN_SET_INTX_MASK
            __KVM_DEPRECATED_VM_R_0x70 KVM_ASSIGN_IRQ KVM_ASSIGN_DEV_IRQ KVM_DEASSIGN_DEV_IRQ KVM_ASSIGN_SET_MSIX_NR
            KVM_ASSIGN_SET_MSIX_ENTRY
        """,
        "6.8": """
            KVM_DEV_ASSIGN_ENABLE_IOMMU KVM_DEV_ASSIGN_PCI_2_3 KVM_DEV_ASSIGN_MASK_INTX kvm_assigned_pci_dev
            KVM_DEV_IRQ_HOST_INTX KVM_DEV_IRQ_HOST_MSI KVM_DEV_IRQ_HOST_MSIX KVM_DEV_IRQ_GUEST_INTX
            KVM_DEV_IRQ_GUEST_MSI KVM_DEV_IRQ_GUEST_MSIX KVM_DEV_IRQ_HOST_MASK KVM_DEV_IRQ_GUEST_MASK
            kvm_assigned_irq kvm_assigned_msix_nr KVM_MAX_MSIX_PER_DEV kvm_assigned_msix_entry
        """,
        "6.16": "KVM_X86_DISABLE_VALID_EXITS",  # uncertain: it is in 6.13, and not in 6.19
    }.items()
    for name in names.split()
}

# Which kernel brought a name: after 6.12, by 7.2; by which of them is uncertain
NEWER: Final = {"kvm_svm_nested_state_hdr.gpat": "7.1"}

OMITTED: Final = {
    "KVM_DEV_TYPE_MAX": "one more than the last, which each kernel moves",
    "KVM_SEV_NR_MAX": "one more than the last, which each kernel moves",
    "*.__empty_*": "how the header spells a flexible array",
    "KVM_COALESCED_MMIO_MAX": "needs the size of a page",
    "kvm_nested_state.data*": "a union without a size",
    **dict.fromkeys(
        (
            "*S390*", "*s390*", "*PPC*", "*ppc*", "*MIPS*", "*_ARM*", "*arm_*", "*RISCV*", "KVM_PV*", "kvm_pv_*",
            "pv_cmd*",
            "*SPAPR*", "*spapr*", "*BOOKE*", "*_MPIC*", "*_XICS*", "KVM_CAP_SW_TLB", "KVM_REG_IA64", "KVM_ALLOCATE_RMA",
            "KVM_DIRTY_TLB", "kvm_dirty_tlb*", "kvm_config_tlb*",
        ),
        "another processor's",
    ),
}  # fmt: skip
