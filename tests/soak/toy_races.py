"""Toy drivers with a planted bug each, and the same without it (*right*). They sit in /sys/kernel."""

from __future__ import annotations

from typing import Any

from pykernel.fs.sysfs import AttrGroup, Kobject, SysFs
from pykernel.kernel import Kernel
from pykernel.lib.locking import Mutex, Spinlock
from pykernel.pci.iomem import Iomem


class Scratch:
    """Silicon: one register."""

    def __init__(self):
        self.value = 0

    def mmio_read(self, bar: int, off: int, size: int) -> int:
        return self.value

    def mmio_write(self, bar: int, off: int, size: int, value: int) -> None:
        self.value = value


class Toy(Kobject):
    """A directory /sys/kernel/toy."""

    def __init__(self, kernel: Kernel, *, right: bool):
        super().__init__(kernel, "toy", kernel.sub(SysFs).top["kernel"])
        self.right = right
        self.regs = Iomem(kernel, Scratch(), 0, 0, 4096, "toy")  # type: ignore[arg-type]
        self.add()


class LostUpdate(Toy):
    """Adds to a register: read, then write, and the bug is that nothing is locked."""

    attrs = AttrGroup("count")

    def __init__(self, kernel: Kernel, *, right: bool):
        super().__init__(kernel, right=right)
        self.lock = Spinlock(kernel, "count")

    def count_show(self) -> str:
        return f"{self.regs.readl(0)}\n"

    def count_store(self, buf: str) -> None:
        if self.right:
            with self.lock:
                self.regs.writel(self.regs.readl(0) + int(buf), 0)
        else:
            self.regs.writel(self.regs.readl(0) + int(buf), 0)


class Abba(Toy):
    """Moves between two accounts: the bug is that each direction takes its own account's lock first."""

    attrs = AttrGroup("a", "b")

    def __init__(self, kernel: Kernel, *, right: bool):
        super().__init__(kernel, right=right)
        self.locks = Mutex(kernel, "lock of a"), Mutex(kernel, "lock of b")

    def a_store(self, buf: str) -> None:
        self._both(*self.locks)

    def b_store(self, buf: str) -> None:
        self._both(*(self.locks if self.right else self.locks[::-1]))

    def _both(self, first: Mutex, second: Mutex) -> None:
        with first:
            self.regs.readl(0)
            with second:
                self.regs.writel(1, 0)


class UseAfterFree(Toy):
    """A store starts work that uses a buffer: the bug is that remove() frees it without waiting for the work."""

    attrs = AttrGroup("start")

    def __init__(self, kernel: Kernel, *, right: bool):
        super().__init__(kernel, right=right)
        self.buffer: Any = [0]
        self.works: list[Any] = []

    def start_store(self, buf: str) -> None:
        self.works.append(self.kernel.sched.spawn(self._work, "toy work"))

    def _work(self) -> None:
        self.regs.readl(0)
        self.buffer[0] += 1

    def remove(self) -> None:
        self.delete()  # nobody stores any more
        if self.right:
            for work in self.works:
                work.join()
        self.buffer = None
