"""The address space: mmap, munmap, mprotect, and the instructions that submit work (mm/mmap.c)."""

from __future__ import annotations

import errno
from errno import (
    EFAULT,
    EINVAL,
    EPERM,
)
from mmap import MAP_ANONYMOUS, MAP_SHARED, PROT_EXEC, PROT_WRITE

from pykernel.calls.entry import Caller, syscall
from pykernel.calls.limits import can_do_mlock, check_locked
from pykernel.errors import err
from pykernel.mm.vma import MAP_LOCKED, VM_MAYEXEC, VM_MAYWRITE, VM_SHARED, VM_WRITE, Vma, page_align

__all__ = ["Memory"]


class Memory(Caller):
    """The address space: part of ``Process``."""

    # ---- memory

    @syscall
    def mmap(self, addr: int, length: int, prot: int, flags: int, fd: int = -1, offset: int = 0) -> int:
        """C: ``void *mmap(void *, size_t, int, int, int, off_t)``."""
        if offset & 4095:
            raise err(EINVAL)
        if flags & MAP_LOCKED or getattr(self.mem, "lock_future", 0):
            if flags & MAP_LOCKED:
                can_do_mlock(self.task)
            check_locked(self.task, page_align(length) >> 12)
        if flags & MAP_ANONYMOUS:
            return self._mapped(int(self.mem.mmap(addr, length, prot, flags)))
        file = self._fd(fd)
        if not file.can_read:
            raise err(errno.EACCES)
        shared = bool(flags & MAP_SHARED)
        if shared and prot & PROT_WRITE and not file.can_write:
            raise err(errno.EACCES)
        if file.inode.noexec and prot & PROT_EXEC:
            raise err(EPERM)

        def setup(vma: Vma) -> None:
            if file.inode.noexec:
                vma.vm_flags &= ~VM_MAYEXEC
            if shared and not file.can_write:
                vma.vm_flags &= ~(VM_MAYWRITE | VM_SHARED)
            file.mmap(vma)
            file.get()
            then = vma.close

            def close(gone: Vma) -> None:
                if then is not None:
                    then(gone)
                file.put()

            vma.close = close
            opened = vma.open

            def open(made: Vma) -> None:
                file.get()
                if opened is not None:
                    opened(made)

            vma.open = open

        return self._mapped(int(self.mem.mmap(addr, length, prot, flags, pgoff=offset >> 12, file=file, setup=setup)))

    def _mapped(self, addr: int) -> int:
        """Note who mapped it, for a leak report."""
        vma = self.mem.vmas.find(addr) if self.kernel.track_origins else None
        if vma is not None:
            vma.origin = self.kernel.where()
        return addr

    @syscall
    def munmap(self, addr: int, length: int) -> None:
        """C: ``int munmap(void *, size_t)``."""
        self.mem.munmap(addr, length)

    @syscall
    def mprotect(self, addr: int, length: int, prot: int) -> None:
        """C: ``int mprotect(void *, size_t, int)``."""
        self.mem.mprotect(addr, length, prot)

    @syscall
    def load(self, addr: int, n: int) -> bytes:
        """Instructions that read *n* bytes. Raises EFAULT where a program would get SIGSEGV or SIGBUS."""
        data: bytes = self.mem.read(addr, n)
        return data

    @syscall
    def store(self, addr: int, data: bytes) -> None:
        """Instructions that write *data*. Raises EFAULT where a program would get SIGSEGV or SIGBUS."""
        self.mem.write(addr, data)

    @syscall
    def movdir64b(self, addr: int, data: bytes) -> None:
        """The instruction: 64 bytes to *addr*, at once. Raises EFAULT where a program would get SIGSEGV or SIGBUS."""
        if len(data) != 64 or addr % 64:
            raise err(EINVAL, "64 bytes, to an address that is a multiple of 64 (#GP)")
        self.mem.write(addr, data)

    @syscall
    def enqcmd(self, addr: int, data: bytes) -> bool:
        """
        The instruction: a 64-byte command with this process's PASID; True means retry (ZF).

        Raises:
            EFAULT: not a mapped portal, or no PASID is bound (#GP in Linux).
        """
        if len(data) != 64 or addr % 64:
            raise err(EINVAL, "64 bytes, to an address that is a multiple of 64 (#GP)")
        vma = self.mem.vmas.find(addr)
        submit = getattr(vma.io, "enqcmd", None) if vma is not None and vma.vm_flags & VM_WRITE else None
        pasid = self.kernel.mm_pasid(self.task.mm)
        if submit is None or vma is None or not pasid:
            raise err(EFAULT, "no portal there, or no PASID for this address space")
        head = int.from_bytes(data[:4], "little") & ~0x800FFFFF | pasid
        return not submit(vma.offset(addr), head.to_bytes(4, "little") + data[4:])
