"""Limits of real processes: the host's, which the program sees and sets itself."""

from __future__ import annotations

from resource import prlimit

from pykernel.task import RLIM_INFINITY, Task

__all__ = ["HostTask", "ProgramTask"]


class HostTask(Task):
    """A thread of a real process."""

    __slots__ = ()

    @property
    def host_pid(self) -> int:
        """The number that the host knows it by."""
        return self.pid

    def rlim(self, resource: int) -> tuple[int, int]:
        """As :meth:`Task.rlim`, of the process on the host; those of a fresh one when it is gone."""
        try:
            soft, hard = prlimit(self.host_pid, resource)
        except (OSError, ValueError):
            return super().rlim(resource)
        return soft & RLIM_INFINITY, hard & RLIM_INFINITY


class ProgramTask(HostTask):
    """The program that runs in this process, whatever its number in the emulated machine is."""

    __slots__ = ()

    @property
    def host_pid(self) -> int:
        """The caller itself."""
        return 0
