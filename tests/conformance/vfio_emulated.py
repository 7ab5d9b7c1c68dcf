"""The VFIO probe's host on the patched surface: raw ioctls, children, faults and time of the emulated kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from probing import call
from stand_ins import UeventSocket
from vfio_host import Host

from pykernel.hw.bridge import BridgeFunction
from pykernel.hw.edu import EduFunction
from pykernel.pci.core import Pci
from pykernel.syscalls import Pids
from pykernel.task import RLIMIT_MEMLOCK, Cred, Mm, Task

if TYPE_CHECKING:
    import mmap

    from pykernel.kernel import Kernel
    from pykernel.surfaces.inprocess.patched import Patched

__all__ = ["EmulatedHost", "firmware"]


def firmware(kernel: Kernel) -> None:
    """What QEMU's firmware leaves in the configuration space of what is no bridge: COMMAND, the interrupt line."""
    for slot in kernel.sub(Pci).slots.values():
        if not isinstance(slot.function, BridgeFunction):
            slot.function.config_write(0x04, 2, 0x103)
            slot.function.config_write(0x3C, 1, 0x0A if isinstance(slot.function, EduFunction) else 0x0B)


class EmulatedHost(Host):  # type: ignore[misc,unused-ignore]  # probes are imported by plain names
    """As :class:`vfio_host.Host`, of the process that ``kernel.patched()`` makes."""

    def __init__(self, kernel: Kernel, patched: Patched) -> None:
        super().__init__()
        self.kernel = kernel
        self.process = patched.process

    def ioctl(self, fd: int, request: int, address: int) -> int:
        """ioctl(2)."""
        return self.process.ioctl(fd, request, address)

    def in_child(self, f: Callable[[], object], uid: int = 0, memlock: int | None = None) -> object:
        """The program is another task while ``f`` runs, with a descriptor table of its own."""
        with self._another_task(uid, memlock), self._another_table():
            return call(f)

    @contextmanager
    def _another_task(self, uid: int, memlock: int | None) -> Iterator[None]:
        process, parent = self.process, self.process.task
        assert parent.mm is not None
        pids = self.kernel.sub(Pids)
        child = Task(self.kernel, pids.alloc(), parent.comm, Cred(uid, uid), Mm(parent.mm.mem.fork()))
        child.files = parent.files
        child.rlimits = dict(parent.rlimits)
        if memlock is not None:
            child.rlimits[RLIMIT_MEMLOCK] = (memlock, memlock)
        process.task = child
        try:
            yield
        finally:
            process.task = parent
            assert child.mm is not None
            child.mm.mem.exit()

    @contextmanager
    def _another_table(self) -> Iterator[None]:
        """What is closed and opened meanwhile is the child's: the parent's files are held, and put back."""
        table: Any = self.process.fds
        held = {fd: file.get() for fd, file in table.files.items()}
        try:
            yield
        finally:
            for fd in [fd for fd in table.files if fd not in held]:
                table.close(fd)
            for fd, file in held.items():
                if fd in table.files:
                    file.put()
                else:
                    table.dup2_real(table.placeholder, fd)
                    table.files[fd] = file

    def meanwhile(self, f: Callable[[], object]) -> Any:
        """A client of its own."""
        return self.kernel.spawn(f)

    def touch(self, area: mmap.mmap, at: int) -> object:
        """A fault is EFAULT here."""
        got = call(lambda: bytes(area[at : at + 4]))
        return "SIGBUS" if got == "EFAULT" else got

    def address_of(self, area: Any) -> int:
        """An emulated mapping says it."""
        return area.address if hasattr(area, "address") else super().address_of(area)

    def locked(self) -> str:
        """VmLck of the task."""
        mm = self.process.task.mm
        assert mm is not None
        return f"{mm.locked_vm * 4} kB"

    def uevent_socket(self) -> UeventSocket:
        """Netlink sockets are the host's."""
        return UeventSocket(self.kernel)

    def pause(self, seconds: float) -> None:
        """The virtual clock goes on."""
        self.kernel.sched.idle_until(lambda: False, int(seconds * 1e9))
