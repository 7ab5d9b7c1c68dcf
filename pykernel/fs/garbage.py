"""
Sockets that nobody can reach: they wait, as passengers of messages, in one another's queues (net/unix/garbage.c).

A file in flight holds a reference, so a socket that was sent over itself, or two that carry each other, would stay for
ever with all that they carry. Linux looks for them when next some Unix socket closes; here each reference of a socket
that goes is the occasion, so what a test looks at has happened.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pykernel.fs.anon import SocketEnd
    from pykernel.fs.vfs import File
    from pykernel.kernel import Kernel

__all__ = ["UnixGarbage"]


class UnixGarbage:
    """``unix_tot_inflight`` of one kernel, and its collector."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.inflight: dict[SocketEnd, int] = {}
        self._collecting = False

    def sent(self, sock: SocketEnd) -> None:
        """C: ``void unix_inflight(struct user_struct *, struct file *)``."""
        self.inflight[sock] = self.inflight.get(sock, 0) + 1

    def received(self, sock: SocketEnd) -> None:
        """C: ``void unix_notinflight(struct user_struct *, struct file *)``."""
        self.inflight[sock] -= 1
        if not self.inflight[sock]:
            del self.inflight[sock]

    def collect(self) -> None:
        """C: ``void unix_gc(void)``."""
        if self._collecting:
            return
        self._collecting = True
        try:
            garbage = self._garbage()
            # as C: what else is in the queues goes when the socket does, and its peer is told (ECONNRESET)
            files = [file for sock in garbage.values() for file in sock.drop(garbage)]
            for file in files:
                file.put()
        finally:
            self._collecting = False

    def _garbage(self) -> dict[File, SocketEnd]:
        """The sockets whose every reference is in a message that only such sockets hold."""
        inner: dict[File, int] = {sock: n for sock, n in self.inflight.items() if n == sock.refs}
        socks: dict[File, SocketEnd] = {sock: sock for sock in self.inflight if sock in inner}
        carried = {sock: [f for _, files in socks[sock].inbox for f in files if f in inner] for sock in inner}
        for files in carried.values():
            for file in files:
                inner[file] -= 1
        # who is carried by a socket that somebody has, and all that they carry
        todo = [sock for sock, outside in inner.items() if outside]
        while todo:
            if socks.pop(alive := todo.pop(), None):
                todo += carried[alive]
        return socks
