"""The ioctls of a virtual machine's descriptor (virt/kvm/kvm_main.c:kvm_vm_ioctl(), x86.c:kvm_arch_vm_ioctl())."""

from __future__ import annotations

import os
from errno import EBUSY, EINVAL, EIO, ENXIO
from typing import TYPE_CHECKING, Final

from pykernel.errors import err
from pykernel.fs.anon import AnonInode
from pykernel.fs.fdtable import current_files
from pykernel.fs.ioctl import IoctlFile, ioctl
from pykernel.mm.uaccess import copy_from_user, copy_to_user
from pykernel.uapi.linux import kvm as k
from pykernel.virt.kvm.caps import check_extension
from pykernel.virt.kvm.device import kvm_ioctl_create_device
from pykernel.virt.kvm.irq import CHIPS, KVM_MAX_IRQ_ROUTES
from pykernel.virt.kvm.stats import StatsFile
from pykernel.virt.kvm.vcpufile import VcpuFile
from pykernel.virt.kvm.vm import KVM_MAX_VCPU_IDS

if TYPE_CHECKING:
    from pykernel.virt.kvm.vm import Kvm

__all__ = ["VmFile"]

CLOCK_FLAGS: Final = k.KVM_CLOCK_TSC_STABLE | k.KVM_CLOCK_REALTIME | k.KVM_CLOCK_HOST_TSC


class VmFile(IoctlFile):
    """An open virtual machine; *vm* is its machine."""

    __slots__ = ("irqchips", "vm")
    seekable = False

    def __init__(self, vm: Kvm) -> None:
        super().__init__(AnonInode(vm.kernel, 0, "kvm-vm"), os.O_RDWR)
        self.vm = vm
        self.irqchips: dict[int, bytes] = {}

    def llseek(self, offset: int, whence: int) -> int:
        """C: ``noop_llseek()``."""
        return 0

    def release(self) -> None:
        """C: ``int kvm_vm_release(struct inode *, struct file *)``."""
        self.vm.irqfds.release()
        self.vm.put_ref()

    @ioctl(k.KVM_CHECK_EXTENSION)
    def check_extension(self, cap: int) -> int:
        """What it can, as a number. C: ``int kvm_vm_ioctl_check_extension_generic(struct kvm *, long)``."""
        return check_extension(self.vm.kernel, cap)

    # ---- processors

    @ioctl(k.KVM_CREATE_VCPU)
    def create_vcpu(self, vcpu_id: int) -> int:
        """Raises EINVAL, EEXIST, ENOMEM, EMFILE."""
        vcpu = self.vm.create_vcpu(vcpu_id)
        try:
            return current_files(self.vm.kernel).install(VcpuFile(vcpu), cloexec=True)
        except OSError:
            del self.vm.vcpus[vcpu_id]
            self.vm.put_ref()
            raise

    @ioctl(k.KVM_SET_BOOT_CPU_ID)
    def set_boot_cpu_id(self, vcpu_id: int) -> None:
        """Raises EBUSY: processors are there. EINVAL: beyond what an ID can be."""
        if self.vm.vcpus:
            raise err(EBUSY)
        if vcpu_id > (self.vm.max_vcpu_ids or KVM_MAX_VCPU_IDS):
            raise err(EINVAL, f"processor {vcpu_id}")
        self.vm.bsp_id = vcpu_id

    # ---- memory

    @ioctl(k.KVM_SET_USER_MEMORY_REGION)
    def set_user_memory_region(self, mem: k.kvm_userspace_memory_region) -> None:
        """Raises EINVAL, EEXIST, ENOMEM: see Mmu.set_memory_region()."""
        self.vm.mmu.set_memory_region(mem.slot, mem.flags, mem.guest_phys_addr, mem.memory_size, mem.userspace_addr)

    @ioctl(k.KVM_GET_DIRTY_LOG)
    def get_dirty_log(self, log: k.kvm_dirty_log) -> None:
        """The bitmap of the pages of a slot that were written. Raises EINVAL, ENOENT, EFAULT."""
        copy_to_user(self.vm.kernel, log.dirty_bitmap, self.vm.mmu.get_dirty_log(log.slot))

    @ioctl(k.KVM_CLEAR_DIRTY_LOG)
    def clear_dirty_log(self, log: k.kvm_clear_dirty_log) -> None:
        """Raises EINVAL, ENOENT, EFAULT."""
        self.vm.mmu.clear_dirty_log(
            log.slot, log.first_page, log.num_pages, lambda n: copy_from_user(self.vm.kernel, log.dirty_bitmap, n)
        )

    @ioctl(k.KVM_SET_TSS_ADDR)
    def set_tss_addr(self, addr: int) -> None:
        """Three pages for real mode, which no program here needs. Raises EINVAL: beyond 4 GiB."""
        if addr > (1 << 32) - 3 * 4096:
            raise err(EINVAL, f"{addr:#x}")

    @ioctl(k.KVM_SET_IDENTITY_MAP_ADDR)
    def set_identity_map_addr(self, _addr: int) -> None:
        """Likewise. Raises EFAULT; EINVAL: processors are there, see :meth:`ioctl`."""

    # ---- interrupts

    @ioctl(k.KVM_CREATE_IRQCHIP)
    def create_irqchip(self, _arg: int) -> None:
        """Raises EEXIST, EINVAL."""
        self.vm.create_irqchip()

    def _chip(self, chip: k.kvm_irqchip) -> int:
        if not self.vm.irqchip:
            raise err(ENXIO, "no interrupt controller")
        if chip.chip_id not in CHIPS:
            raise err(EINVAL, f"chip {chip.chip_id}")
        return int(chip.chip_id)

    @ioctl(k.KVM_GET_IRQCHIP)
    def get_irqchip(self, chip: k.kvm_irqchip) -> k.kvm_irqchip:
        """What was stored. Raises ENXIO: there is none. EINVAL: no such chip."""
        stored = self.irqchips.get(self._chip(chip))
        return chip if stored is None else k.kvm_irqchip.from_bytes(stored)

    @ioctl(k.KVM_SET_IRQCHIP)
    def set_irqchip(self, _zeros: k.kvm_irqchip, arg: int) -> None:
        """Its number says that the kernel writes, and it reads. Raises ENXIO, EINVAL, EFAULT."""
        data = copy_from_user(self.vm.kernel, arg, k.kvm_irqchip.sizeof())
        self.irqchips[self._chip(k.kvm_irqchip.from_bytes(data))] = data

    @ioctl(k.KVM_IRQ_LINE)
    def irq_line(self, line: k.kvm_irq_level) -> None:
        """Raises ENXIO: no interrupt controller."""
        self._line(line)

    @ioctl(k.KVM_IRQ_LINE_STATUS)
    def irq_line_status(self, line: k.kvm_irq_level) -> k.kvm_irq_level:
        """The same, and how many processors got it. Raises ENXIO."""
        line.status = self._line(line)
        return line

    def _line(self, line: k.kvm_irq_level) -> int:
        # arch/x86/kvm/x86.c:kvm_vm_ioctl_irq_line()
        if not self.vm.irqchip:
            raise err(ENXIO, "no interrupt controller")
        return self.vm.irqs.set_irq(line.irq, level=bool(line.level))

    @ioctl(k.KVM_SET_GSI_ROUTING)
    def set_gsi_routing(self, routing: k.kvm_irq_routing, arg: int) -> None:
        """Raises EINVAL: no interrupt controller, too many, flags, or an entry; EFAULT."""
        if not self.vm.irqchip or routing.nr > KVM_MAX_IRQ_ROUTES or routing.flags:
            raise err(EINVAL)
        size = k.kvm_irq_routing_entry.sizeof()
        data = copy_from_user(self.vm.kernel, arg + k.kvm_irq_routing.sizeof(), routing.nr * size)
        rows = [k.kvm_irq_routing_entry.from_bytes(data[at : at + size]) for at in range(0, len(data), size)]
        self.vm.irqs.set_routing(rows)

    @ioctl(k.KVM_SIGNAL_MSI)
    def signal_msi(self, msi: k.kvm_msi) -> int:
        """How many processors got it. Raises EINVAL, EPERM."""
        return self.vm.irqs.send_userspace_msi(msi)

    @ioctl(k.KVM_IRQFD)
    def irqfd(self, args: k.kvm_irqfd) -> None:
        """Raises EINVAL, EBADF, EBUSY."""
        self.vm.irqfds.set(args)

    @ioctl(k.KVM_IOEVENTFD)
    def ioeventfd(self, args: k.kvm_ioeventfd) -> None:
        """Raises EINVAL, EBADF, EEXIST, ENOENT."""
        self.vm.ioeventfds.set(args)

    # ---- the rest

    @ioctl(k.KVM_CREATE_DEVICE)
    def create_device(self, cd: k.kvm_create_device) -> k.kvm_create_device:
        """Raises ENODEV, EBUSY."""
        return kvm_ioctl_create_device(self.vm, cd)

    @ioctl(k.KVM_ENABLE_CAP)
    def enable_cap(self, cap: k.kvm_enable_cap) -> None:
        """
        C: ``int kvm_vm_ioctl_enable_cap_generic(struct kvm *, struct kvm_enable_cap *)``, and x86's.

        Raises:
            EINVAL: flags, an argument, or nothing that can be enabled.
        """
        value = cap.args[0]
        if cap.flags:
            raise err(EINVAL, f"flags {cap.flags:#x}")
        if cap.cap == k.KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2:
            allowed = k.KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE
            if value & allowed:
                allowed |= k.KVM_DIRTY_LOG_INITIALLY_SET
            if value & ~allowed:
                raise err(EINVAL, f"{value:#x}")
            self.vm.mmu.manual_protect = value
        elif cap.cap == k.KVM_CAP_HALT_POLL:
            if value >> 32:
                raise err(EINVAL, f"{value:#x}")
        elif cap.cap == k.KVM_CAP_MAX_VCPU_ID:
            self._limit_ids(value)
        else:
            raise err(EINVAL, f"capability {cap.cap}")

    def _limit_ids(self, value: int) -> None:
        # arch/x86/kvm/x86.c:kvm_vm_ioctl_enable_cap(), KVM_CAP_MAX_VCPU_ID: once, or the same again
        vm = self.vm
        if value > KVM_MAX_VCPU_IDS or vm.bsp_id > value or vm.max_vcpu_ids not in (0, value):
            raise err(EINVAL, f"IDs below {value}")
        vm.max_vcpu_ids = value

    @ioctl(k.KVM_SET_CLOCK)
    def set_clock(self, data: k.kvm_clock_data) -> None:
        """
        C: ``int kvm_vm_ioctl_set_clock(struct kvm *, void __user *)``.

        Only REALTIME does something; the others may be given back as they came.

        Raises:
            EINVAL: flags that there are not.
        """
        if data.flags & ~CLOCK_FLAGS:
            raise err(EINVAL, f"flags {data.flags:#x}")
        sched, clock = self.vm.kernel.sched, data.clock
        if data.flags & k.KVM_CLOCK_REALTIME:
            clock += max(sched.realtime_ns() - data.realtime, 0)
        self.vm.clock_offset = clock - sched.clock_ns()

    @ioctl(k.KVM_GET_CLOCK)
    def get_clock(self, data: k.kvm_clock_data) -> k.kvm_clock_data:
        """C: ``void get_kvmclock(struct kvm *, struct kvm_clock_data *)``."""
        sched = self.vm.kernel.sched
        data.clock, data.flags = self.vm.clock(), CLOCK_FLAGS
        data.realtime, data.host_tsc = sched.realtime_ns(), sched.clock_ns()
        return data

    @ioctl(k.KVM_GET_STATS_FD)
    def get_stats_fd(self, _arg: int) -> int:
        """Counters of the machine. C: ``int kvm_vm_ioctl_get_stats_fd(struct kvm *)``."""
        name = f"kvm-{self.vm.kernel.current.pid}"
        return current_files(self.vm.kernel).install(StatsFile(self.vm, name, self.vm.stat), cloexec=True)

    # ---- the door, last: from here on ``ioctl`` is this method

    def ioctl(self, cmd: int, arg: int) -> int:
        """C: ``long kvm_vm_ioctl(...)``. Raises EIO: another process's machine; ENOTTY."""
        if self.vm.mm is not self.vm.kernel.current.mm:
            raise err(EIO, "the virtual machine is another process's")
        if cmd == k.KVM_SET_IDENTITY_MAP_ADDR.nr and self.vm.vcpus:  # comes before the pointer is looked at
            raise err(EINVAL, "processors are there")
        return super().ioctl(cmd, arg)
