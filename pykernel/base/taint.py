"""What taints the kernel, /proc/sys/kernel/tainted (kernel/panic.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pykernel.fs.procfs import ProcDir, ProcFile, ProcFs

if TYPE_CHECKING:
    from pykernel.kernel import Kernel

__all__ = ["TAINT_USER", "Taint"]

TAINT_USER = 6  # include/linux/panic.h


class Taint:
    """``tainted_mask``, and its file; made when something first taints the kernel."""

    def __init__(self, kernel: Kernel) -> None:
        self.mask = 0
        root = kernel.sub(ProcFs).root
        sys = ProcDir(kernel, 0o555, root)
        where = ProcDir(kernel, 0o555, sys)
        root.attach("sys", sys)
        sys.attach("kernel", where)
        where.attach("tainted", ProcFile(kernel, lambda: f"{self.mask}\n", where, 0o644))

    def add(self, flag: int) -> None:
        """C: ``void add_taint(unsigned flag, enum lockdep_ok)``."""
        self.mask |= 1 << flag
