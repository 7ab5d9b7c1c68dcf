"""Files without a name: eventfd, pipes and Unix socket pairs (fs/eventfd.c, fs/pipe.c, net/unix/af_unix.c)."""

from __future__ import annotations

import os
import stat
from collections import deque
from errno import EAGAIN, EINVAL, ENOTCONN, EPIPE, ESPIPE
from typing import TYPE_CHECKING

from pykernel.errors import err
from pykernel.fs.vfs import File, Inode, PollTable
from pykernel.uapi.linux.eventfd import EFD_SEMAPHORE
from pykernel.uapi.linux.eventpoll import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP, EPOLLRDNORM, EPOLLWRNORM

if TYPE_CHECKING:
    from pykernel.kernel import Kernel

__all__ = ["EventFd", "PipeEnd", "SocketEnd", "pipe", "socketpair"]

ULLONG_MAX = (1 << 64) - 1
PIPE_BUF = 65536


class AnonInode(Inode):
    """An inode of anon_inodefs, pipefs or sockfs."""

    __slots__ = ()

    def __init__(self, kernel: Kernel, kind: int, mode: int = 0o600) -> None:
        super().__init__(kernel, kind | mode, 1)
        cred = kernel.current.cred
        self.uid, self.gid = cred.uid, cred.gid


class AnonFile(File):
    """A stream: no position."""

    __slots__ = ()
    seekable = False

    def llseek(self, offset: int, whence: int) -> int:
        """Raises ESPIPE."""
        raise err(ESPIPE)

    def pread(self, pos: int, count: int) -> bytes:
        """Raises ESPIPE."""
        raise err(ESPIPE)

    def pwrite(self, pos: int, data: bytes) -> int:
        """Raises ESPIPE."""
        raise err(ESPIPE)

    @property
    def nonblock(self) -> bool:
        """O_NONBLOCK."""
        return bool(self.flags & os.O_NONBLOCK)


class EventFd(AnonFile):
    """``struct eventfd_ctx`` as a file."""

    __slots__ = ("count", "queue", "semaphore")

    def __init__(self, kernel: Kernel, count: int, flags: int) -> None:
        super().__init__(AnonInode(kernel, 0), os.O_RDWR | flags & os.O_NONBLOCK)
        self.count = count
        self.semaphore = bool(flags & EFD_SEMAPHORE)
        self.queue = kernel.waitqueue()

    def read(self, count: int) -> bytes:
        """The counter, or 1 of a semaphore. Raises EINVAL (under 8 bytes), EAGAIN."""
        if count < 8:
            raise err(EINVAL)
        if not self.count:
            if self.nonblock:
                raise err(EAGAIN)
            self.queue.wait_event(lambda: self.count > 0)
        n = 1 if self.semaphore else self.count
        self.count -= n
        self.queue.wake_up()
        return n.to_bytes(8, "little")

    def write(self, data: bytes) -> int:
        """Add. Raises EINVAL (under 8 bytes, or all ones), EAGAIN (it would overflow)."""
        if len(data) < 8:
            raise err(EINVAL)
        n = int.from_bytes(data[:8], "little")
        if n == ULLONG_MAX:
            raise err(EINVAL)
        if ULLONG_MAX - self.count <= n:
            if self.nonblock:
                raise err(EAGAIN)
            self.queue.wait_event(lambda: ULLONG_MAX - self.count > n)
        self.count += n
        self.queue.wake_up()
        return 8

    def signal(self, n: int = 1) -> None:
        """C: ``__u64 eventfd_signal(struct eventfd_ctx *, __u64)``."""
        self.count = min(self.count + n, ULLONG_MAX)
        self.queue.wake_up()

    def poll(self, pt: PollTable) -> int:
        """fs/eventfd.c:eventfd_poll()."""
        pt.poll_wait(self.queue)
        events = EPOLLIN if self.count else 0
        events |= EPOLLERR if self.count == ULLONG_MAX else 0
        return events | (EPOLLOUT if self.count < ULLONG_MAX - 1 else 0)


class PipeBuffer:
    """``struct pipe_inode_info``."""

    def __init__(self, kernel: Kernel) -> None:
        self.inode = AnonInode(kernel, stat.S_IFIFO)
        self.data = bytearray()
        self.queue = kernel.waitqueue()
        self.readers = self.writers = 1


class PipeEnd(AnonFile):
    """One end of a pipe."""

    __slots__ = ("buffer",)

    def __init__(self, buffer: PipeBuffer, flags: int) -> None:
        super().__init__(buffer.inode, flags)
        self.buffer = buffer

    def read(self, count: int) -> bytes:
        """Raises EAGAIN; nothing is the end of file."""
        b = self.buffer
        if count and not b.data and b.writers:
            if self.nonblock:
                raise err(EAGAIN)
            b.queue.wait_event(lambda: bool(b.data) or not b.writers)
        data = bytes(b.data[:count])
        del b.data[:count]
        b.queue.wake_up()
        return data

    def write(self, data: bytes) -> int:
        """Raises EPIPE, EAGAIN."""
        b, sent = self.buffer, 0
        while sent < len(data):
            if not b.readers:
                raise err(EPIPE)
            room = PIPE_BUF - len(b.data)
            if not room or (len(data) <= 4096 and room < len(data)):
                if self.nonblock:
                    if sent:
                        return sent
                    raise err(EAGAIN)
                b.queue.wait_event(lambda: len(b.data) < PIPE_BUF or not b.readers)
                continue
            b.data += data[sent : sent + room]
            sent += min(room, len(data) - sent)
            b.queue.wake_up()
        return sent

    def poll(self, pt: PollTable) -> int:
        """fs/pipe.c:pipe_poll()."""
        b = self.buffer
        pt.poll_wait(b.queue)
        events = 0
        if self.can_read:
            events |= EPOLLIN | EPOLLRDNORM if b.data else 0
            events |= 0 if b.writers else EPOLLHUP
        if self.can_write:
            events |= EPOLLOUT | EPOLLWRNORM if len(b.data) < PIPE_BUF else 0
            events |= 0 if b.readers else EPOLLERR
        return events

    def release(self) -> None:
        """One end less."""
        b = self.buffer
        b.readers -= self.can_read
        b.writers -= self.can_write
        b.queue.wake_up()


def pipe(kernel: Kernel, flags: int = 0) -> tuple[PipeEnd, PipeEnd]:
    """C: ``int do_pipe_flags(int *, int)``."""
    b = PipeBuffer(kernel)
    return PipeEnd(b, os.O_RDONLY | flags & os.O_NONBLOCK), PipeEnd(b, os.O_WRONLY | flags & os.O_NONBLOCK)


class SocketEnd(AnonFile):
    """One end of a stream socket pair; messages carry files (SCM_RIGHTS)."""

    __slots__ = ("closed", "inbox", "peer", "queue")

    def __init__(self, kernel: Kernel, flags: int) -> None:
        super().__init__(AnonInode(kernel, stat.S_IFSOCK, 0o777), os.O_RDWR | flags & os.O_NONBLOCK)
        self.inbox: deque[tuple[bytes, list[File]]] = deque()
        self.queue = kernel.waitqueue()
        self.peer: SocketEnd | None = None
        self.closed = False

    def sendmsg(self, data: bytes, files: list[File]) -> int:
        """Send *data*, with references of *files*. Raises EPIPE, ENOTCONN, EINVAL (files without data)."""
        if self.peer is None:
            raise err(ENOTCONN)
        if self.peer.closed:
            raise err(EPIPE)
        if not data:
            if files:
                raise err(EINVAL)
            return 0
        self.peer.inbox.append((data, [f.get() for f in files]))
        self.peer.queue.wake_up()
        return len(data)

    def recvmsg(self, count: int) -> tuple[bytes, list[File]]:
        """
        The next bytes and the files that came with them; data never runs past a message with files.

        Raises EAGAIN.
        """
        peer = self.peer
        if not self.inbox and peer is not None and not peer.closed:
            if self.nonblock:
                raise err(EAGAIN)
            self.queue.wait_event(lambda: bool(self.inbox) or peer.closed)
        out, files = b"", list[File]()
        while self.inbox and len(out) < count and not files:
            data, came = self.inbox[0]
            if came and out:
                break
            take = data[: count - len(out)]
            out, files = out + take, came
            self.inbox.popleft()
            if len(take) < len(data):
                self.inbox.appendleft((data[len(take) :], []))
        return out, files

    def read(self, count: int) -> bytes:
        """Files that come with the data are closed, as Linux does."""
        data, files = self.recvmsg(count)
        for f in files:
            f.put()
        return data

    def write(self, data: bytes) -> int:
        """Send."""
        return self.sendmsg(data, [])

    def poll(self, pt: PollTable) -> int:
        """net/unix/af_unix.c:unix_poll()."""
        pt.poll_wait(self.queue)
        gone = self.peer is None or self.peer.closed
        events = EPOLLOUT | EPOLLWRNORM
        events |= EPOLLIN | EPOLLRDNORM if self.inbox or gone else 0
        return events | (EPOLLHUP | EPOLLRDHUP if gone else 0)

    def release(self) -> None:
        """Files that nobody took go, too."""
        self.closed = True
        for _, files in self.inbox:
            for f in files:
                f.put()
        self.inbox.clear()
        if self.peer is not None:
            self.peer.queue.wake_up()


def socketpair(kernel: Kernel, flags: int = 0) -> tuple[SocketEnd, SocketEnd]:
    """C: ``long sys_socketpair(AF_UNIX, SOCK_STREAM, 0, int *)``."""
    a, b = SocketEnd(kernel, flags), SocketEnd(kernel, flags)
    a.peer, b.peer = b, a
    return a, b
