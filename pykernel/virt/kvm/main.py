"""
/dev/kvm: the modules ``kvm`` and ``kvm_intel`` (virt/kvm/kvm_main.c, arch/x86/kvm/vmx/vmx.c).

A machine that shall run virtual machines has ``[cpu] vmx = true``; without it kvm_intel does not load, as on a part
whose firmware has VMX locked off. ``kvm_intel enqcmd_gp=1`` is the answer of Intel's TDX module to a PASID that has no
translation.
"""

from __future__ import annotations

from errno import E2BIG, EINVAL, EOPNOTSUPP
from typing import TYPE_CHECKING, ClassVar, Final

from pykernel.base.misc import MiscDevice, misc_deregister, misc_register
from pykernel.base.module import Module, Param
from pykernel.cpu import Cpus
from pykernel.cpu.trap import GP, Trap
from pykernel.errors import err
from pykernel.fs.fdtable import current_files, fget
from pykernel.fs.ioctl import IoctlFile, ioctl
from pykernel.log import ERR
from pykernel.uapi.linux import kvm as k
from pykernel.virt.kvm.caps import check_extension
from pykernel.virt.kvm.msrs import feature_msrs, index_list
from pykernel.virt.kvm.vcpufile import (
    KVM_MAX_CPUID_ENTRIES,
    VcpuFile,
    read_cpuid,
    transfer_msrs,
    write_cpuid,
    write_index_list,
)
from pykernel.virt.kvm.vm import Kvm, supported_cpuid
from pykernel.virt.kvm.vmcs import capability_msrs
from pykernel.virt.kvm.vmfile import VmFile

if TYPE_CHECKING:
    from pykernel.fs.vfs import Inode
    from pykernel.kernel import Kernel
    from pykernel.virt.kvm.vcpu import Vcpu

__all__ = ["KvmFile", "KvmIntelModule", "KvmModule", "kvm_from_fd", "vcpu_from_fd"]

KVM_MINOR: Final = 232
PAGE_SIZE: Final = 4096


class KvmModule(Module):
    """What the modules of both vendors share."""

    name_ = "kvm"
    params: ClassVar[tuple[Param, ...]] = (Param("halt_poll_ns", "uint", default=200000, mode=0o644),)


class KvmIntelModule(Module):
    """VMX."""

    name_ = "kvm_intel"
    depends = ("kvm",)
    params: ClassVar[tuple[Param, ...]] = (
        Param("ept", "bool", default=True, mode=0o444),
        Param("nested", "bool", default=False, mode=0o444),
        Param("enqcmd_gp", "bool", default=False, mode=0o444),
    )

    def init(self) -> None:
        """C: ``int vmx_init(void)``. Raises EOPNOTSUPP: the processor has no VMX. EBUSY: the minor is taken."""
        if not self.kernel.cpu.has("vmx"):
            self.kernel.log.printk(ERR, "kvm: VMX not supported by CPU 0")
            raise err(EOPNOTSUPP, "no VMX: the machine needs [cpu] vmx = true")
        for cpu in self.kernel.sub(Cpus).cpus:
            for row in capability_msrs(self.kernel.cpu.has("enqcmd")):
                cpu.msrs.add(row)
        self.misc = MiscDevice(self.kernel, "kvm", KVM_MINOR, self.open, mode=0o666, owner=self)
        misc_register(self.misc)

    def exit(self) -> None:
        """C: ``void vmx_exit(void)``."""
        misc_deregister(self.misc)

    def open(self, inode: Inode, flags: int) -> KvmFile:
        """An open /dev/kvm."""
        return KvmFile(inode, flags, self)


class KvmFile(IoctlFile):
    """``kvm_chardev_ops``."""

    __slots__ = ("module",)
    seekable = False

    def __init__(self, inode: Inode, flags: int, module: KvmIntelModule) -> None:
        super().__init__(inode, flags)
        self.module = module

    @property
    def kernel(self) -> Kernel:
        """The host's."""
        return self.inode.kernel

    def llseek(self, offset: int, whence: int) -> int:
        """C: ``noop_llseek()``."""
        return 0

    @ioctl(k.KVM_GET_API_VERSION)
    def get_api_version(self, arg: int) -> int:
        """Raises EINVAL: an argument."""
        if arg:
            raise err(EINVAL)
        return k.KVM_API_VERSION

    @ioctl(k.KVM_CHECK_EXTENSION)
    def check_extension(self, cap: int) -> int:
        """What KVM can, as a number; 0: not."""
        return check_extension(self.kernel, cap)

    @ioctl(k.KVM_GET_VCPU_MMAP_SIZE)
    def get_vcpu_mmap_size(self, arg: int) -> int:
        """kvm_run, the page of port IO, the ring of coalesced stores. Raises EINVAL: an argument."""
        if arg:
            raise err(EINVAL)
        return 3 * PAGE_SIZE

    @ioctl(k.KVM_CREATE_VM)
    def create_vm(self, kind: int) -> int:
        """
        A machine's descriptor. C: ``int kvm_dev_ioctl_create_vm(unsigned long)``.

        Raises:
            EMFILE, which comes first. EINVAL: a type but the default one. ENOMEM.
        """
        files = current_files(self.kernel)
        with files.unused_fd() as fd:
            if kind:
                raise err(EINVAL, f"type {kind}")
            file = VmFile(Kvm(self.kernel, enqcmd_gp=bool(self.module.param["enqcmd_gp"])))
            file.owner = self.module
            self.module.get_ref()
            files.fd_install(fd, file, cloexec=True)
        return fd

    @ioctl(k.KVM_GET_SUPPORTED_CPUID)
    def get_supported_cpuid(self, cpuid: k.kvm_cpuid2, arg: int) -> None:
        """C: ``int kvm_dev_ioctl_get_cpuid(...)``. Raises E2BIG: there are more rows. EFAULT."""
        self._cpuid(cpuid, supported_cpuid(self.kernel), arg)

    @ioctl(k.KVM_GET_EMULATED_CPUID)
    def get_emulated_cpuid(self, cpuid: k.kvm_cpuid2, arg: int) -> None:
        """
        Instructions that KVM's emulator knows whatever the host has. C: ``int __do_cpuid_func_emulated(...)``.

        Raises:
            E2BIG. EINVAL: what is reserved in the caller's rows is set, or they cannot be read. EFAULT.
        """
        n = min(cpuid.nent, KVM_MAX_CPUID_ENTRIES)
        try:
            given = read_cpuid(self.kernel, n, arg)
        except OSError:
            raise err(EINVAL, "the rows cannot be read") from None
        if any(any(row.padding) for row in given):  # arch/x86/kvm/cpuid.c:sanity_check_entries()
            raise err(EINVAL, "what is reserved is set")
        self._cpuid(cpuid, emulated_cpuid(), arg)

    def _cpuid(self, cpuid: k.kvm_cpuid2, rows: list[k.kvm_cpuid_entry2], arg: int) -> None:
        if not cpuid.nent or min(cpuid.nent, KVM_MAX_CPUID_ENTRIES) < len(rows):
            raise err(E2BIG, f"{len(rows)} rows")
        write_cpuid(self.kernel, rows, arg)

    @ioctl(k.KVM_GET_MSR_INDEX_LIST)
    def get_msr_index_list(self, msrs: k.kvm_msr_list, arg: int) -> None:
        """The registers that KVM_GET_MSRS of a processor has. Raises E2BIG: there are more. EFAULT."""
        write_index_list(self.kernel, msrs.nmsrs, index_list(self.kernel.cpu.has("enqcmd")), arg)

    def _features(self) -> dict[int, int]:
        rows = capability_msrs(self.kernel.cpu.has("enqcmd"))
        return feature_msrs({row.index: row.reset for row in rows})

    @ioctl(k.KVM_GET_MSR_FEATURE_INDEX_LIST)
    def get_msr_feature_index_list(self, msrs: k.kvm_msr_list, arg: int) -> None:
        """Those that tell what the host can. Raises E2BIG, EFAULT."""
        write_index_list(self.kernel, msrs.nmsrs, list(self._features()), arg)

    @ioctl(k.KVM_GET_MSRS)
    def get_msrs(self, msrs: k.kvm_msrs, arg: int) -> int:
        """What they tell: how many were read. Raises E2BIG, EFAULT."""
        features = self._features()

        def read(index: int, _value: int) -> int:
            if index not in features:
                raise Trap(GP, f"{index:#x} is no feature")
            return features[index]

        return transfer_msrs(self.kernel, msrs.nmsrs, arg, read)

    # ---- the door, last: from here on ``ioctl`` is this method

    def ioctl(self, cmd: int, arg: int) -> int:
        """C: ``long kvm_dev_ioctl(struct file *, unsigned int, unsigned long)``. Raises EINVAL: no such ioctl."""
        if self.method_row(cmd) is None:
            raise err(EINVAL, f"no ioctl {cmd:#x} of /dev/kvm")
        return super().ioctl(cmd, arg)


def emulated_cpuid() -> list[k.kvm_cpuid_entry2]:
    """MOVBE and RDPID."""
    significant = k.KVM_CPUID_FLAG_SIGNIFCANT_INDEX
    return [
        k.kvm_cpuid_entry2(function=0, eax=7),
        k.kvm_cpuid_entry2(function=1, ecx=1 << 22),
        k.kvm_cpuid_entry2(function=7, flags=significant, ecx=1 << 22),
    ]


def kvm_from_fd(kernel: Kernel, fd: int) -> Kvm:
    """The virtual machine behind *fd* of the running task. Raises EBADF; EINVAL: none is."""
    file = fget(kernel, fd)
    if not isinstance(file, VmFile):
        raise err(EINVAL, f"descriptor {fd} is no virtual machine")
    return file.vm


def vcpu_from_fd(kernel: Kernel, fd: int) -> Vcpu:
    """The virtual processor behind *fd* of the running task. Raises EBADF; EINVAL: none is."""
    file = fget(kernel, fd)
    if not isinstance(file, VcpuFile):
        raise err(EINVAL, f"descriptor {fd} is no virtual processor")
    return file.vcpu
