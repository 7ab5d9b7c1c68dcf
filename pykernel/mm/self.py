"""
The memory of this Python process as user memory: for clients that run inside it and hand out real addresses.

A bad pointer is EFAULT here as elsewhere, because the real kernel checks it. After a fork() the child's own is meant.
"""

from __future__ import annotations

import os

from pykernel.mm.phys import PhysMem
from pykernel.mm.process import ProcessMemory

__all__ = ["SelfMemory"]


class SelfMemory(ProcessMemory):
    """
    This process's address space.

    Args:
        syscalls: False leaves process_vm_readv() and process_vm_writev() alone.
        phys: the machine that its pages are pinned in; none: they cannot be.
    """

    def __init__(self, *, syscalls: bool = True, phys: PhysMem | None = None) -> None:
        super().__init__(0, syscalls=syscalls, phys=phys)

    @property
    def pid(self) -> int:
        """This process, whichever it is after a fork()."""
        return os.getpid()
