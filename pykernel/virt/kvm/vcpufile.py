"""The ioctls of a virtual processor's descriptor (kvm_main.c:kvm_vcpu_ioctl(), x86.c:kvm_arch_vcpu_ioctl())."""

from __future__ import annotations

import os
from errno import E2BIG, EFAULT, EINVAL, EIO, ENXIO
from typing import TYPE_CHECKING, Final

from pykernel.cpu import xsave
from pykernel.cpu.trap import Trap
from pykernel.errors import err
from pykernel.fs.anon import AnonInode
from pykernel.fs.fdtable import current_files
from pykernel.fs.ioctl import IoctlFile, ioctl
from pykernel.mm.uaccess import copy_from_user, copy_to_user
from pykernel.uapi.ioctl import decode
from pykernel.uapi.linux import kvm as k
from pykernel.virt.kvm.run import kvm_arch_vcpu_ioctl_run
from pykernel.virt.kvm.stats import StatsFile

if TYPE_CHECKING:
    from collections.abc import Callable

    from pykernel.kernel import Kernel
    from pykernel.mm.vma import Page, Vma
    from pykernel.virt.kvm.vcpu import Vcpu

__all__ = [
    "KVM_MAX_CPUID_ENTRIES",
    "VcpuFile",
    "read_cpuid",
    "transfer_msrs",
    "write_cpuid",
    "write_index_list",
]

KVM_MAX_CPUID_ENTRIES: Final = 256
MAX_IO_MSRS: Final = 256
PIO_PAGE: Final = k.KVM_PIO_PAGE_OFFSET
SETTABLE: Final = frozenset(
    {
        k.KVM_MP_STATE_RUNNABLE,
        k.KVM_MP_STATE_UNINITIALIZED,
        k.KVM_MP_STATE_INIT_RECEIVED,
        k.KVM_MP_STATE_HALTED,
        k.KVM_MP_STATE_AP_RESET_HOLD,
        k.KVM_MP_STATE_SIPI_RECEIVED,
    }
)


class VcpuFile(IoctlFile):
    """An open virtual processor."""

    __slots__ = ("vcpu",)
    seekable = False

    def __init__(self, vcpu: Vcpu) -> None:
        super().__init__(AnonInode(vcpu.kernel, 0, f"kvm-vcpu:{vcpu.vcpu_id}"), os.O_RDWR)
        self.vcpu = vcpu
        vcpu.vm.get_ref()

    def llseek(self, offset: int, whence: int) -> int:
        """C: ``noop_llseek()``."""
        return 0

    def mmap(self, vma: Vma) -> None:
        """C: ``int kvm_vcpu_mmap(struct file *, struct vm_area_struct *)``."""
        vma.fault = self._fault

    def _fault(self, pgoff: int) -> Page:
        """C: ``vm_fault_t kvm_vcpu_fault(struct vm_fault *)``. Raises EFAULT: a bus error."""
        if pgoff == 0:
            return self.vcpu.run_page
        if pgoff == PIO_PAGE:
            return self.vcpu.pio_page
        if pgoff == k.KVM_COALESCED_MMIO_PAGE_OFFSET:
            return self.vcpu.ring_page
        raise err(EFAULT, f"page {pgoff} of a processor")

    def release(self) -> None:
        """C: ``int kvm_vcpu_release(struct inode *, struct file *)``."""
        self.vcpu.vm.put_ref()

    # ---- running

    @ioctl(k.KVM_RUN)
    def run(self, arg: int) -> int:
        """Raises EINVAL: an argument; and what KVM_RUN does."""
        if arg:
            raise err(EINVAL, "KVM_RUN takes no argument")
        return kvm_arch_vcpu_ioctl_run(self.vcpu)

    @ioctl(k.KVM_INTERRUPT)
    def interrupt(self, irq: k.kvm_interrupt) -> None:
        """
        A vector for the guest. C: ``int kvm_vcpu_ioctl_interrupt(struct kvm_vcpu *, struct kvm_interrupt *)``.

        Raises:
            EINVAL: over 255. ENXIO: interrupt controllers are in the kernel.
        """
        if irq.irq >= k.KVM_NR_INTERRUPTS:
            raise err(EINVAL, f"vector {irq.irq}")
        if self.vcpu.vm.irqchip:
            raise err(ENXIO, "interrupt controllers are in the kernel")
        self.vcpu.vectors.append(irq.irq)

    @ioctl(k.KVM_NMI)
    def nmi(self, _arg: int) -> None:
        """Noted, and seen in KVM_GET_VCPU_EVENTS: programs of Python take none."""
        self.vcpu.regs.events.nmi.pending = 1

    @ioctl(k.KVM_SET_SIGNAL_MASK)
    def set_signal_mask(self, arg: k.kvm_signal_mask, at: int) -> None:
        """
        Which signals KVM_RUN takes; there are none here. C: ``KVM_SET_SIGNAL_MASK`` of kvm_vcpu_ioctl().

        Raises:
            EINVAL: a set that has not eight bytes. EFAULT.
        """
        if at and arg.len != 8:
            raise err(EINVAL, f"a signal set of {arg.len} bytes")
        if at:
            copy_from_user(self.vcpu.kernel, at + 4, 8)

    @ioctl(k.KVM_GET_MP_STATE)
    def get_mp_state(self, state: k.kvm_mp_state) -> k.kvm_mp_state:
        """C: ``int kvm_arch_vcpu_ioctl_get_mpstate(...)``."""
        state.mp_state = self.vcpu.mp_state
        return state

    @ioctl(k.KVM_SET_MP_STATE)
    def set_mp_state(self, state: k.kvm_mp_state) -> None:
        """
        C: ``int kvm_arch_vcpu_ioctl_set_mpstate(...)``.

        Raises:
            EINVAL: no such state; any but RUNNABLE without interrupt controllers in the kernel.
        """
        value = state.mp_state
        if value not in SETTABLE or (not self.vcpu.vm.irqchip and value != k.KVM_MP_STATE_RUNNABLE):
            raise err(EINVAL, f"state {value}")
        # a SIPI that is pending is taken before anybody looks: arch/x86/kvm/lapic.c:kvm_apic_accept_events()
        self.vcpu.mp_state = k.KVM_MP_STATE_RUNNABLE if value == k.KVM_MP_STATE_SIPI_RECEIVED else value

    # ---- registers

    @ioctl(k.KVM_GET_REGS)
    def get_regs(self, _regs: k.kvm_regs) -> k.kvm_regs:
        """C: ``int kvm_arch_vcpu_ioctl_get_regs(...)``."""
        return self.vcpu.regs.regs

    @ioctl(k.KVM_SET_REGS)
    def set_regs(self, regs: k.kvm_regs) -> None:
        """C: ``int kvm_arch_vcpu_ioctl_set_regs(...)``."""
        self.vcpu.regs.set_regs(regs)

    @ioctl(k.KVM_GET_SREGS)
    def get_sregs(self, _sregs: k.kvm_sregs) -> k.kvm_sregs:
        """C: ``int kvm_arch_vcpu_ioctl_get_sregs(...)``."""
        sregs = self.vcpu.regs.sregs
        sregs.apic_base = self.vcpu.apic_base
        return sregs

    @ioctl(k.KVM_SET_SREGS)
    def set_sregs(self, sregs: k.kvm_sregs) -> None:
        """Raises EINVAL: what no processor can be in."""
        self.vcpu.regs.set_sregs(sregs)
        self.vcpu.apic_base = sregs.apic_base

    @ioctl(k.KVM_GET_FPU)
    def get_fpu(self, _fpu: k.kvm_fpu) -> k.kvm_fpu:
        """C: ``int kvm_arch_vcpu_ioctl_get_fpu(...)``."""
        return self.vcpu.regs.fpu

    @ioctl(k.KVM_SET_FPU)
    def set_fpu(self, fpu: k.kvm_fpu) -> None:
        """C: ``int kvm_arch_vcpu_ioctl_set_fpu(...)``."""
        self.vcpu.regs.fpu = fpu

    @ioctl(k.KVM_GET_XSAVE)
    @ioctl(k.KVM_GET_XSAVE2)
    def get_xsave(self, _xsave: k.kvm_xsave) -> k.kvm_xsave:
        """In the standard format, which has no place for IA32_PASID: that is among the MSRs."""
        return k.kvm_xsave.from_bytes(bytes(self.vcpu.xsave))

    @ioctl(k.KVM_SET_XSAVE)
    def set_xsave(self, given: k.kvm_xsave) -> None:
        """
        C: ``int kvm_vcpu_ioctl_x86_set_xsave(...)``.

        Raises:
            EINVAL: components that the guest cannot have, supervisor ones among them; the compacted format; what is
                reserved in the header.
        """
        data = bytes(given)
        xstate_bv, xcomp_bv = (int.from_bytes(data[at : at + 8], "little") for at in (512, 520))
        if xstate_bv & ~xsave.XCR0 or xcomp_bv or any(data[528:576]):
            raise err(EINVAL, f"components {xstate_bv:#x}, format {xcomp_bv:#x}")
        self.vcpu.xsave[:] = data[:4096]

    @ioctl(k.KVM_GET_XCRS)
    def get_xcrs(self, _xcrs: k.kvm_xcrs) -> k.kvm_xcrs:
        """XCR0."""
        out = k.kvm_xcrs(nr_xcrs=1)
        out.xcrs[0].value = self.vcpu.regs.xcr0
        return out

    @ioctl(k.KVM_SET_XCRS)
    def set_xcrs(self, xcrs: k.kvm_xcrs) -> None:
        """
        C: ``int kvm_vcpu_ioctl_x86_set_xcrs(...)``.

        Raises:
            EINVAL: over 16, flags, or a value of XCR0 that cannot be.
        """
        if xcrs.nr_xcrs > k.KVM_MAX_XCRS or xcrs.flags:
            raise err(EINVAL)
        for row in list(xcrs.xcrs)[: xcrs.nr_xcrs]:
            if row.xcr == 0:  # only XCR0 is supported
                if not row.value & 1 or row.value & ~xsave.XCR0 or row.value & 6 == 4:
                    raise err(EINVAL, f"XCR0 {row.value:#x}")
                self.vcpu.regs.xcr0 = row.value
                return

    @ioctl(k.KVM_GET_DEBUGREGS)
    def get_debugregs(self, _regs: k.kvm_debugregs) -> k.kvm_debugregs:
        """C: ``void kvm_vcpu_ioctl_x86_get_debugregs(...)``."""
        return self.vcpu.regs.debugregs

    @ioctl(k.KVM_SET_DEBUGREGS)
    def set_debugregs(self, regs: k.kvm_debugregs) -> None:
        """Raises EINVAL: flags, DR6 or DR7 beyond 32 bits."""
        if regs.flags or regs.dr6 >> 32 or regs.dr7 >> 32:
            raise err(EINVAL)
        self.vcpu.regs.debugregs = regs

    @ioctl(k.KVM_GET_VCPU_EVENTS)
    def get_vcpu_events(self, _events: k.kvm_vcpu_events) -> k.kvm_vcpu_events:
        """C: ``void kvm_vcpu_ioctl_x86_get_vcpu_events(...)``."""
        return self.vcpu.regs.get_events()

    @ioctl(k.KVM_SET_VCPU_EVENTS)
    def set_vcpu_events(self, events: k.kvm_vcpu_events) -> None:
        """Raises EINVAL."""
        self.vcpu.regs.set_events(events)

    @ioctl(k.KVM_GET_LAPIC)
    def get_lapic(self, _lapic: k.kvm_lapic_state) -> k.kvm_lapic_state:
        """Stored registers; the APIC has none that work. Raises EINVAL: it is not in the kernel."""
        if not self.vcpu.vm.irqchip:
            raise err(EINVAL, "the local APIC is not in the kernel")
        return self.vcpu.regs.lapic

    @ioctl(k.KVM_SET_LAPIC)
    def set_lapic(self, lapic: k.kvm_lapic_state) -> None:
        """Raises EINVAL: it is not in the kernel."""
        if not self.vcpu.vm.irqchip:
            raise err(EINVAL, "the local APIC is not in the kernel")
        self.vcpu.regs.lapic = lapic

    @ioctl(k.KVM_GET_MSRS)
    def get_msrs(self, msrs: k.kvm_msrs, arg: int) -> int:
        """How many were read: it ends at the first that is not there. Raises E2BIG: over 255. EFAULT."""
        return transfer_msrs(self.vcpu.kernel, msrs.nmsrs, arg, lambda index, _value: self.vcpu.msrs.get(index))

    @ioctl(k.KVM_SET_MSRS)
    def set_msrs(self, msrs: k.kvm_msrs, arg: int) -> int:
        """How many were written: it ends at the first that cannot be. Raises E2BIG: over 255. EFAULT."""

        def store(index: int, value: int) -> None:
            self.vcpu.msrs.set(index, value)

        return transfer_msrs(self.vcpu.kernel, msrs.nmsrs, arg, store)

    # ---- CPUID

    @ioctl(k.KVM_SET_CPUID2)
    def set_cpuid2(self, cpuid: k.kvm_cpuid2, arg: int) -> None:
        """
        C: ``int kvm_vcpu_ioctl_set_cpuid2(...)``.

        Raises:
            E2BIG: over 256 rows. EFAULT. EINVAL: it has run with other ones.
        """
        rows = read_cpuid(self.vcpu.kernel, cpuid.nent, arg)
        # arch/x86/kvm/cpuid.c:kvm_cpuid_check_equal()
        if self.vcpu.stat["exits"] and [_known(row) for row in rows] != [_known(row) for row in self.vcpu.cpuid_rows]:
            raise err(EINVAL, "the guest has seen another processor")
        self.vcpu.cpuid_rows = rows

    @ioctl(k.KVM_GET_CPUID2)
    def get_cpuid2(self, cpuid: k.kvm_cpuid2, arg: int) -> None:
        """C: ``int kvm_vcpu_ioctl_get_cpuid2(...)``. Raises E2BIG: there are more. EFAULT."""
        rows = self.vcpu.cpuid_rows
        if cpuid.nent < len(rows):
            raise err(E2BIG, f"{len(rows)} rows")
        write_cpuid(self.vcpu.kernel, rows, arg)

    # ---- the rest

    @ioctl(k.KVM_GET_TSC_KHZ)
    def get_tsc_khz(self, _arg: int) -> int:
        """A count each nanosecond."""
        return 1_000_000

    @ioctl(k.KVM_SET_TSC_KHZ)
    def set_tsc_khz(self, khz: int) -> None:
        """Raises EINVAL: another one; there is no scaling."""
        if khz not in (0, 1_000_000):
            raise err(EINVAL, f"{khz} kHz")

    @ioctl(k.KVM_KVMCLOCK_CTRL)
    def kvmclock_ctrl(self, _arg: int) -> None:
        """C: ``int kvm_set_guest_paused(struct kvm_vcpu *)``. Raises EINVAL: the guest has no pvclock."""
        if not self.vcpu.msrs.values[0x4B564D01] & 1:
            raise err(EINVAL, "the guest has no pvclock")

    @ioctl(k.KVM_ENABLE_CAP)
    def enable_cap(self, cap: k.kvm_enable_cap) -> None:
        """C: ``int kvm_vcpu_ioctl_enable_cap(...)``. Raises EINVAL: none of a processor can be here."""
        raise err(EINVAL, f"capability {cap.cap}")

    @ioctl(k.KVM_GET_STATS_FD)
    def get_stats_fd(self, _arg: int) -> int:
        """Counters of the processor."""
        vcpu = self.vcpu
        name = f"kvm-{vcpu.kernel.current.pid}/vcpu-{vcpu.vcpu_id}"
        return current_files(vcpu.kernel).install(StatsFile(vcpu.vm, name, lambda: vcpu.stat), cloexec=True)

    # ---- the door, last: from here on ``ioctl`` is this method

    def ioctl(self, cmd: int, arg: int) -> int:
        """
        One at a time: who comes while it runs waits.

        C: ``long kvm_vcpu_ioctl(struct file *, unsigned int, unsigned long)``.

        Raises:
            EIO: another process's machine. EINVAL: not an ioctl of KVM's, or not one of a processor.
        """
        if self.vcpu.vm.mm is not self.vcpu.kernel.current.mm:
            raise err(EIO, "the virtual machine is another process's")
        if decode(cmd).type != k.KVMIO or self.method_row(cmd) is None:
            raise err(EINVAL, f"no ioctl {cmd:#x} of a processor")
        with self.vcpu.mutex:
            return super().ioctl(cmd, arg)


def transfer_msrs(kernel: Kernel, n: int, arg: int, do: Callable[[int, int], int | None]) -> int:
    """
    *n* registers of the user's ``kvm_msrs`` at *arg*: *do* (number, value) gives what is copied out, if anything.

    C: ``int msr_io(struct kvm_vcpu *, struct kvm_msrs __user *, ..., int)``: how many were done.

    Raises:
        E2BIG: 256 or more. EFAULT.
    """
    if n >= MAX_IO_MSRS:
        raise err(E2BIG, f"{n} registers")
    size = k.kvm_msr_entry.sizeof()
    at = arg + k.kvm_msrs.sizeof()
    rows = [k.kvm_msr_entry.from_bytes(copy_from_user(kernel, at + i * size, size)) for i in range(n)]
    for done, row in enumerate(rows):
        try:
            value = do(row.index, row.data)
        except Trap:
            return done
        if value is not None:
            row.data = value
            copy_to_user(kernel, at + done * size, bytes(row))
    return n


def _known(row: k.kvm_cpuid_entry2) -> bytes:
    """A row but for what is reserved."""
    return bytes(row)[: k.kvm_cpuid_entry2.offsetof("padding")]


def read_cpuid(kernel: Kernel, n: int, arg: int) -> list[k.kvm_cpuid_entry2]:
    """The rows of the user's ``kvm_cpuid2``. Raises E2BIG: over 256. EFAULT."""
    if n > KVM_MAX_CPUID_ENTRIES:
        raise err(E2BIG, f"{n} rows")
    size = k.kvm_cpuid_entry2.sizeof()
    data = copy_from_user(kernel, arg + k.kvm_cpuid2.sizeof(), n * size)
    return [k.kvm_cpuid_entry2.from_bytes(data[at : at + size]) for at in range(0, n * size, size)]


def write_cpuid(kernel: Kernel, rows: list[k.kvm_cpuid_entry2], arg: int) -> None:
    """Rows into the user's ``kvm_cpuid2``, with their number. Raises EFAULT."""
    copy_to_user(kernel, arg + k.kvm_cpuid2.sizeof(), b"".join(map(bytes, rows)))
    copy_to_user(kernel, arg, len(rows).to_bytes(4, "little"))


def write_index_list(kernel: Kernel, n: int, indices: list[int], arg: int) -> None:
    """
    Numbers of MSRs into the user's ``kvm_msr_list``, which has room for *n*; their number goes out first.

    Raises:
        E2BIG: there are more. EFAULT.
    """
    copy_to_user(kernel, arg, len(indices).to_bytes(4, "little"))
    if n < len(indices):
        raise err(E2BIG, f"{len(indices)} registers")
    copy_to_user(kernel, arg + 4, b"".join(index.to_bytes(4, "little") for index in indices))
