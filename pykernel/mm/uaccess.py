"""
User memory: the one interface through which kernel code and devices see a client's address space.

Three classes have it: ``SimMemory`` (simulated pages), ``SelfMemory`` (this process), ``ProcessMemory`` (another one).
The contract, the same for all:

1. Addresses are integers; nothing of Python is shared. Every access finds the mapping anew, so an address is good as
   long as the client keeps it mapped, and no longer.
2. A read returns a copy. ``readinto`` fills the caller's buffer and ``write`` reads it only during the call.
3. A bad pointer is EFAULT, never a crash: unmapped, forbidden by the protection, not canonical, in the kernel's half,
   wrapping around the end of the address space, or in a process that is gone. SIGBUS of a mapping is EFAULT, too.
4. Length 0 always succeeds and looks at no address.
5. ``read``, ``readinto`` and ``write`` do all or raise. Memory before the fault may have been written; a buffer given
   to ``readinto`` holds what could be read, then zeros.
6. ``copy_from`` and ``copy_to`` do what they can and return the number of bytes that they did not copy. A range that
   reaches into the kernel's half is refused as a whole.
7. No access is atomic, none is ordered against the client's own.
8. Pages can be pinned for devices: then they have physical addresses of the machine that :attr:`UserMemory.phys` is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from errno import EFAULT
from functools import cached_property
from typing import TYPE_CHECKING, Final

from pykernel.errors import err
from pykernel.mm.notifier import MmuNotifiers
from pykernel.mm.phys import PAGE_SIZE, PhysMem, Run

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

    from pykernel.kernel import Kernel

__all__ = ["PAGE_SIZE", "TASK_SIZE_MAX", "UserMemory", "access_ok", "copy_from_user", "copy_to_user"]

READ_STEP: Final = 1 << 20
# arch/x86/include/asm/page_64.h, with 4-level page tables
TASK_SIZE_MAX: Final = (1 << 47) - PAGE_SIZE


def access_ok(addr: int, n: int) -> bool:
    """Whether *n* bytes at *addr* lie in the user's half. C: ``access_ok(const void __user *, unsigned long)``."""
    # include/asm-generic/access_ok.h:__access_ok()
    return 0 <= addr <= TASK_SIZE_MAX - n


class UserMemory(ABC):
    """
    An address space. The contract is at the top of this module.

    Attributes:
        phys: the machine's memory; who makes an address space for a client of a kernel gives it that kernel's.
    """

    phys: PhysMem

    @abstractmethod
    def copy_from(self, addr: int, buf: WriteableBuffer) -> int:
        """
        Fill *buf* from *addr*; the part that could not be read is zeros.

        C: ``unsigned long copy_from_user(void *to, const void __user *from, unsigned long n)``

        Returns:
            The number of bytes not copied: 0 is success.
        """

    @abstractmethod
    def copy_to(self, addr: int, data: ReadableBuffer) -> int:
        """
        Write *data* to *addr*.

        C: ``unsigned long copy_to_user(void __user *to, const void *from, unsigned long n)``

        Returns:
            The number of bytes not copied: 0 is success.
        """

    def read(self, addr: int, n: int) -> bytes:
        """The *n* bytes at *addr*. EFAULT; only what was found takes memory here."""
        if n and (n < 0 or not access_ok(addr, n)):
            raise err(EFAULT, f"{n} bytes at {addr:#x} are not of the user's half")
        out = bytearray(min(n, READ_STEP))
        self.readinto(addr, out)
        while len(out) < n:
            more = bytearray(min(n - len(out), READ_STEP))
            self.readinto(addr + len(out), more)
            out += more
        return bytes(out)

    def readinto(self, addr: int, buf: WriteableBuffer) -> None:
        """Fill *buf* from *addr*. EFAULT."""
        left = self.copy_from(addr, buf)
        if left:
            raise err(EFAULT, f"{left} bytes from {addr:#x} cannot be read")

    def write(self, addr: int, data: ReadableBuffer) -> None:
        """Write *data* to *addr*. EFAULT."""
        left = self.copy_to(addr, data)
        if left:
            raise err(EFAULT, f"{left} bytes to {addr:#x} cannot be written")

    @abstractmethod
    def pin_user_pages(self, addr: int, npages: int, *, write: bool) -> list[Run]:
        """
        Keep the *npages* pages from the one of *addr* on, for a device; :meth:`unpin_user_pages` gives them back.

        C: ``long pin_user_pages_remote(mm, start, nr_pages, FOLL_LONGTERM [| FOLL_WRITE], pages)``

        Returns:
            Where they are, in order: few runs where physical addresses follow each other.

        Raises:
            OSError: EFAULT, a page is not there, or not to be written (read), or registers; ENOMEM, no page is free.
                Nothing is pinned then.
        """

    def unpin_user_pages(self, runs: Iterable[Run], *, dirty: bool = False) -> None:
        """
        Give pins back, in whatever pieces; *dirty* says that they were written, for whoever would write them to a disk.

        C: ``void unpin_user_pages_dirty_lock(struct page **pages, unsigned long npages, bool make_dirty)``

        Raises:
            Oops: a page is not pinned.
        """
        self.phys.unpin(runs)

    def follow_pfnmap(self, addr: int, *, write: bool = False) -> int:
        """
        The physical address behind *addr* where registers are mapped (a BAR).

        C: ``int follow_pfn(vma, address, &pfn)``, ``follow_pfnmap_start()``

        Raises:
            OSError: EFAULT, no registers, or the protection forbids it.
        """
        raise err(EFAULT, f"no BAR is mapped at {addr:#x}")

    # ---- sharing with hardware

    def get_user_page(self, addr: int, *, write: bool = False) -> int:
        """
        The physical address of the byte at *addr*, its page brought in; nothing keeps it: notifiers tell when it goes.

        C: ``get_user_pages_unlocked(addr, 1, &page, write ? FOLL_WRITE : 0)`` and ``put_page()``

        Raises:
            OSError: EFAULT, no memory, or the protection forbids it, or it is a real process's; ENOMEM.
        """
        raise err(EFAULT, f"{addr:#x}: the pages of a real process have no frames of this machine")

    @cached_property
    def notifiers(self) -> MmuNotifiers:
        """Who hears of changes; see mmu_notifier_register()."""
        return MmuNotifiers(self.subscribe)

    def subscribe(self, invalidate: Callable[[int, int], None]) -> Callable[[], None]:
        """
        Call *invalidate(start, end)* before pages of that range go, change or lose rights; returns how to end it.

        Real memory changes behind our back: an access finds out.
        """
        return lambda: None

    def pgd(self) -> int:
        """
        The physical address of the top page table, for hardware that shares the address space.

        A simulated one has tables of x86-64 there. What stands for a real process's is a frame of zeros, and
        ``phys.foreign_pgd[pa]`` is its memory: who walks asks that instead.

        Raises:
            OSError: ENOMEM.
        """
        return self._token

    @cached_property
    def _token(self) -> int:
        return self.phys.foreign_token(self)

    def exit(self) -> None:
        """The last user is gone. C: ``void exit_mmap(struct mm_struct *)``."""
        self.release()

    def release(self) -> None:
        """Tell the notifiers of the end. C: ``void mmu_notifier_release(struct mm_struct *)``."""
        if "notifiers" in self.__dict__:
            self.notifiers.release()

    def mmdrop(self) -> int:
        """Somebody holds the address space no more; how many still do. C: ``void mmdrop(struct mm_struct *)``."""
        return self.notifiers.held


def _current(kernel: Kernel, where: str) -> UserMemory:
    if kernel.sched.exploring:
        kernel.sched.might_sleep(where)  # include/linux/uaccess.h:might_fault()
    if kernel.faults.active:
        kernel.faults.copy(where)
    mm = kernel.current.mm
    if mm is None:
        raise err(EFAULT, f"{where}: a kernel thread has no user memory")
    mem: UserMemory = mm.mem
    return mem


def copy_from_user(kernel: Kernel, addr: int, n: int) -> bytes:
    """
    *n* bytes at *addr* of the running task.

    C: ``if (copy_from_user(&to, from, n)) return -EFAULT;``

    Raises:
        OSError: EFAULT.
    """
    return _current(kernel, "copy_from_user").read(addr, n) if n else b""


def copy_to_user(kernel: Kernel, addr: int, data: ReadableBuffer) -> None:
    """
    Write *data* to *addr* of the running task.

    C: ``if (copy_to_user(to, &from, n)) return -EFAULT;``

    Raises:
        OSError: EFAULT.
    """
    if memoryview(data).nbytes:
        _current(kernel, "copy_to_user").write(addr, data)
