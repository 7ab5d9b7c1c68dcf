"""
A virtual machine (virt/kvm/kvm_main.c: struct kvm): its processors, memory, interrupts and PASIDs.

It lives as long as one of its files is open: its own, those of its processors and devices. ``program`` is what its
processors execute, which no ioctl says: on silicon it is in memory, here the VMM's author sets it.
"""

from __future__ import annotations

from errno import EEXIST, EINVAL
from typing import TYPE_CHECKING, Any, Final

from pykernel.cpu import cpuid
from pykernel.errors import err
from pykernel.lib.locking import Mutex
from pykernel.mm.phys import PhysFault, PhysMem
from pykernel.uapi.linux import kvm as k
from pykernel.virt.kvm.ept import EptMisconfig, EptViolation
from pykernel.virt.kvm.eventfd import IoEventFds, IrqFds
from pykernel.virt.kvm.gate import PasidGate
from pykernel.virt.kvm.irq import Irqs
from pykernel.virt.kvm.mmu import Mmu
from pykernel.virt.kvm.pasid import PasidTable
from pykernel.virt.kvm.vcpu import Program, Vcpu

if TYPE_CHECKING:
    from pykernel.fs.vfs import File
    from pykernel.kernel import Kernel

__all__ = ["KVM_MAX_VCPUS", "KVM_MAX_VCPU_IDS", "Kvm"]

KVM_MAX_VCPUS: Final = 1024  # arch/x86/include/asm/kvm_host.h
KVM_MAX_VCPU_IDS: Final = 4096  # KVM_MAX_VCPUS * KVM_VCPU_ID_RATIO


class Kvm:
    """
    ``struct kvm``.

    Args:
        kernel: the host's.
        enqcmd_gp: a PASID without translation is an exception of the guest's, not "retry".

    Attributes:
        mm: the VMM's address space: nobody else may use the machine's files.
        vcpus: its processors, by their APIC IDs.
        pasid_table: the PASIDs that its processors translate, None without ENQCMD; *gate* changes it.
        program: what the processors execute that have no program of their own.
        irqchip: interrupt controllers are in the kernel.
        assigned: files of VFIO that the VFIO device has.

    Raises:
        OSError: ENOMEM.
    """

    def __init__(self, kernel: Kernel, *, enqcmd_gp: bool = False) -> None:
        self.kernel, self.enqcmd_gp = kernel, enqcmd_gp
        self.mm: Any = kernel.current.mm
        self.lock = Mutex(kernel, "kvm->lock")
        self.mmu = Mmu(self)
        self.irqchip = False
        self.vcpus: dict[int, Vcpu] = {}
        self.started = False
        self.program: Program | None = None
        self.max_vcpus = KVM_MAX_VCPUS
        self.max_vcpu_ids = 0  # until it is set, or the first processor is made
        self.bsp_id = 0
        self.clock_offset = -kernel.sched.clock_ns()
        self.tsc_offset: int | None = None  # of the processor whose time stamp counter was written last
        self.irqs, self.irqfds, self.ioeventfds = Irqs(self), IrqFds(self), IoEventFds(self)
        self.devices: list[File] = []
        self.assigned: list[File] = []
        self._phys = kernel.sub(PhysMem)
        self.pasid_table: PasidTable | None = None
        self.gate: PasidGate | None = None
        if self.has("enqcmd"):
            self.pasid_table = PasidTable(self._phys)
            self.gate = PasidGate(self, self.pasid_table)
        self.refs = 1

    def has(self, flag: str) -> bool:
        """A feature of the host's processors."""
        return self.kernel.cpu.has(flag)

    @property
    def translates_pasids(self) -> bool:
        """
        A guest's ENQCMD has a PASID of the host's when it leaves the processor: "PASID translation" is on.

        Each VMCS of a machine with tables has the control set, be they empty.
        """
        return self.pasid_table is not None

    # ---- life

    def get_ref(self) -> None:
        """C: ``void kvm_get_kvm(struct kvm *)``."""
        self.refs += 1

    def put_ref(self) -> None:
        """C: ``void kvm_put_kvm(struct kvm *)``."""
        self.refs -= 1
        if not self.refs:
            self._destroy()

    def _destroy(self) -> None:
        """C: ``void kvm_destroy_vm(struct kvm *)``: its programs end, its PASIDs are given back."""
        self.irqfds.release()
        for vcpu in self.vcpus.values():
            vcpu.destroy()
        if self.gate is not None:
            self.gate.destroy()
        self.vcpus.clear()
        if self.pasid_table is not None:
            self.pasid_table.destroy()
        self.mmu.destroy()

    # ---- processors

    def create_irqchip(self) -> None:
        """C: ``KVM_CREATE_IRQCHIP``. Raises EEXIST: they are there. EINVAL: processors are there."""
        if self.irqchip:
            raise err(EEXIST)
        if self.vcpus:
            raise err(EINVAL, "interrupt controllers come before processors")
        self.irqs.set_default()
        self.irqchip = True

    def create_vcpu(self, vcpu_id: int) -> Vcpu:
        """
        C: ``int kvm_vm_ioctl_create_vcpu(struct kvm *, unsigned long)``, without its file.

        Raises:
            EINVAL: such an ID cannot be, or there are as many as there may be. EEXIST. ENOMEM.
        """
        if vcpu_id >= KVM_MAX_VCPU_IDS or len(self.vcpus) >= self.max_vcpus:
            raise err(EINVAL, f"processor {vcpu_id}")
        self.max_vcpu_ids = self.max_vcpu_ids or KVM_MAX_VCPU_IDS
        if vcpu_id >= self.max_vcpu_ids:
            raise err(EINVAL, f"processor {vcpu_id} of {self.max_vcpu_ids}")
        if vcpu_id in self.vcpus:
            raise err(EEXIST, f"processor {vcpu_id} is there")
        vcpu = Vcpu(self, vcpu_id)
        if self.irqchip and vcpu_id != self.bsp_id:
            vcpu.mp_state = k.KVM_MP_STATE_UNINITIALIZED
        self.vcpus[vcpu_id] = vcpu
        self._start_secondaries()
        return vcpu

    def before_run(self, vcpu: Vcpu) -> None:
        """
        The first entry of the first processor starts the others.

        A firmware's or a kernel's code sends them INIT and SIPI; a program of Python has no such code.
        """
        if not self.started:
            self.started = True
            self._start_secondaries()

    def _start_secondaries(self) -> None:
        for vcpu in self.vcpus.values():
            if self.started and vcpu.mp_state == k.KVM_MP_STATE_UNINITIALIZED:
                vcpu.mp_state = k.KVM_MP_STATE_RUNNABLE

    # ---- what the guest's instructions reach

    def _translate(self, gpa: int, *, write: bool) -> int | None:
        """The host's physical address; None: an exit. C: EPT."""
        try:
            return self.mmu.translate(gpa, write=write)
        except (EptViolation, EptMisconfig):
            return None

    def emulated(self, gpa: int, *, write: bool) -> bool:
        """Whether a slot is there, but the access is the VMM's to emulate: a store to read-only memory."""
        slot = self.mmu.slots.find(gpa >> 12)
        return slot is None or (write and slot.readonly)

    def guest_load(self, gpa: int, size: int) -> int | None:
        """A load without exit; None: an exit."""
        pa = self._translate(gpa, write=False)
        return None if pa is None else int.from_bytes(self._phys.read(pa, size), "little")

    def guest_store(self, gpa: int, data: bytes) -> bool:
        """A store without exit, 64 bytes at once; False: an exit."""
        pa = self._translate(gpa, write=True)
        if pa is None:
            return False
        self._phys.write(pa, data)
        if self._phys.is_ram(pa):
            self.mmu.mark_dirty(gpa)
        return True

    def guest_enqueue(self, gpa: int, command: bytes) -> bool | None:
        """
        The store of ENQCMD: whether it was accepted; None: an exit.

        Memory, or a BAR that no deferrable write reaches, is no enqueue register: "retry", and nothing is written.
        """
        pa = self._translate(gpa, write=True)
        if pa is None:
            return None
        window = None if self._phys.is_ram(pa) else self.kernel.mmio_at(pa)
        if window is None:
            return False
        try:
            return bool(window.dmwr(pa - window.base, command))
        except (PhysFault, OSError):
            return False

    def cpuid(self, vcpu: Vcpu, leaf: int, subleaf: int) -> tuple[int, int, int, int]:
        """What the VMM gave it for a leaf. C: ``bool kvm_cpuid(struct kvm_vcpu *, u32 *, ...)``."""
        found = vcpu.find_cpuid(leaf, subleaf)
        if found is None and not leaf & 0xC0000000:
            highest = vcpu.find_cpuid(0, 0)
            if highest is not None and leaf > highest.eax:  # of Intel, the highest basic leaf
                found = vcpu.find_cpuid(highest.eax, subleaf)
        return (0, 0, 0, 0) if found is None else (found.eax, found.ebx, found.ecx, found.edx)

    # ---- what is counted

    def clock(self) -> int:
        """KVM's clock of the machine, in nanoseconds. C: ``u64 get_kvmclock_ns(struct kvm *)``."""
        return self.kernel.sched.clock_ns() + self.clock_offset & (1 << 64) - 1

    def stat(self) -> dict[str, int]:
        """Counters of the machine, those of its processors among them."""
        total = {"enqcmd_exits": 0, "kicks": 0 if self.gate is None else self.gate.kicks}
        total["enqcmd_exits"] = sum(vcpu.stat["enqcmd_exits"] for vcpu in self.vcpus.values())
        table = self.pasid_table
        return total | {
            "pasids": 0 if table is None else len(table),
            "pasid_pages": 0 if table is None else table.pages,
        }


def supported_cpuid(kernel: Kernel) -> list[k.kvm_cpuid_entry2]:
    """
    KVM_GET_SUPPORTED_CPUID: the host's leaves without VMX, and KVM's own.

    ENQCMD is among them: its PASIDs are translated, so the guest's cannot reach anybody else's.
    """
    has = kernel.cpu.has
    rows: list[k.kvm_cpuid_entry2] = []
    for leaf, subleaf in cpuid.LEAVES:
        regs = cpuid.cpuid(lambda flag: flag != "vmx" and has(flag), leaf, subleaf)
        indexed = leaf in cpuid.SUBLEAVES
        flags = k.KVM_CPUID_FLAG_SIGNIFCANT_INDEX if indexed else 0
        row = k.kvm_cpuid_entry2(function=leaf, index=subleaf, flags=flags)
        row.eax, row.ebx, row.ecx, row.edx = regs
        rows.append(row)
    signature = [int.from_bytes(part, "little") for part in (b"KVMK", b"VMKV", b"M\0\0\0")]
    rows.append(k.kvm_cpuid_entry2(function=0x40000000, eax=0x40000001, ebx=signature[0], ecx=signature[1]))
    rows[-1].edx = signature[2]
    rows.append(k.kvm_cpuid_entry2(function=0x40000001, eax=1 << 0 | 1 << 3))  # KVM_FEATURE_CLOCKSOURCE, CLOCKSOURCE2
    return rows
