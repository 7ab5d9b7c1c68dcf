"""
Uevents on their way to user space: the kernel's netlink socket, and a systemd-udevd that has no rules.

Such a udevd tells each event on, with the time at which it set the device up
(src/udev/udev-event.c:device_ensure_usec_initialized()), and has no other properties, no tags and no links to add.
"""

from __future__ import annotations

import os
import stat
import struct
from collections import deque
from errno import EAGAIN
from typing import TYPE_CHECKING

from pykernel.base.uevent import Uevents
from pykernel.errors import err
from pykernel.fs.anon import AnonFile, AnonInode
from pykernel.uapi.linux.eventpoll import EPOLLIN, EPOLLOUT, EPOLLRDNORM, EPOLLWRNORM

if TYPE_CHECKING:
    from collections.abc import Callable

    from pykernel.fs.vfs import PollTable
    from pykernel.kernel import Kernel

__all__ = ["GROUPS", "UdevSocket", "Udevd"]

# src/libsystemd/sd-device/device-monitor-private.h: MonitorNetlinkGroup; None is no group at all
GROUPS = ("kernel", "udev", None)
UDEV_MONITOR_MAGIC = 0xFEEDCAFE
HEADER = struct.Struct(">8sI")  # "libudev", magic
OFFSETS = struct.Struct("=III")  # of the header's end, the properties, their length
FILTERS = bytes(16)  # for filters in the host's kernel: ours look at the properties


class UdevSocket(AnonFile):
    """
    A socket of NETLINK_KOBJECT_UEVENT in one of :data:`GROUPS`.

    Each message is the datagram and its properties. *passes* says whether one is queued at all, as a socket filter.
    """

    __slots__ = ("bound", "group", "messages", "passes", "queue")

    def __init__(self, kernel: Kernel, group: str | None) -> None:
        super().__init__(AnonInode(kernel, stat.S_IFSOCK, "socket", 0o777), os.O_RDWR | os.O_NONBLOCK)
        self.group = group
        self.bound = False
        self.messages: deque[tuple[bytes, dict[str, str]]] = deque()
        self.passes: Callable[[dict[str, str]], bool] = lambda _env: True
        self.queue = kernel.waitqueue()
        kernel.sub(Udevd).sockets.append(self)

    def deliver(self, datagram: bytes, env: dict[str, str]) -> None:
        """A message of its group was sent."""
        if self.bound and self.passes(env):
            self.messages.append((datagram, env))
            self.queue.wake_up()

    def receive(self) -> tuple[bytes, dict[str, str]]:
        """The next message. Raises EAGAIN: none."""
        while not self.messages:
            if self.nonblock:
                raise err(EAGAIN)
            self.queue.wait_event(lambda: bool(self.messages))
        return self.messages.popleft()

    def read(self, count: int) -> bytes:
        """One datagram; what does not fit is lost. Raises EAGAIN."""
        return self.receive()[0][:count]

    def poll(self, pt: PollTable) -> int:
        """net/core/datagram.c:datagram_poll()."""
        pt.poll_wait(self.queue)
        return EPOLLOUT | EPOLLWRNORM | (EPOLLIN | EPOLLRDNORM if self.messages else 0)

    def release(self) -> None:
        """It hears no more."""
        self.inode.kernel.sub(Udevd).sockets.remove(self)


class Udevd:
    """Hears the kernel's events, and tells them to the sockets of both groups: first the kernel's, then its own."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.sockets: list[UdevSocket] = []
        self._set_up: dict[str, int] = {}
        self._started_us = self._now_us()
        kernel.sub(Uevents).subscribe(self._event)

    def set_up_us(self, devpath: str) -> int:
        """When a device was set up, in microseconds of the kernel's clock: at its "add", or when udevd started."""
        return self._set_up.get(devpath, self._started_us)

    def now_us(self) -> int:
        """CLOCK_MONOTONIC."""
        return self._now_us()

    def _now_us(self) -> int:
        return max(1, self.kernel.sched.clock_ns() // 1000)  # 0 is "never"

    def _event(self, action: str, devpath: str, env: dict[str, str]) -> None:
        if action == "add":
            self._set_up[devpath] = self._now_us()
        told = {**env, "USEC_INITIALIZED": str(self.set_up_us(devpath))}
        if action == "remove":
            self._set_up.pop(devpath, None)
        self._send("kernel", f"{action}@{devpath}\0".encode("latin-1") + _block(env), env)
        block = _block(told)
        size = HEADER.size + OFFSETS.size + len(FILTERS)
        head = HEADER.pack(b"libudev", UDEV_MONITOR_MAGIC) + OFFSETS.pack(size, size, len(block)) + FILTERS
        self._send("udev", head + block, told)

    def _send(self, group: str, datagram: bytes, env: dict[str, str]) -> None:
        for socket in tuple(self.sockets):
            if socket.group == group:
                socket.deliver(datagram, env)


def _block(env: dict[str, str]) -> bytes:
    return "".join(f"{key}={value}\0" for key, value in env.items()).encode("latin-1")
