"""Files without a name: eventfd, pipes and Unix socket pairs (fs/eventfd.c, fs/pipe.c, net/unix/af_unix.c)."""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Callable, Container
from errno import EAGAIN, EBUSY, ECONNRESET, EINVAL, ENOTTY, EPERM, EPIPE, ESPIPE
from typing import TYPE_CHECKING

from pykernel.errors import err
from pykernel.fs.fdtable import fget
from pykernel.fs.garbage import UnixGarbage
from pykernel.fs.ramfs import InoCounter
from pykernel.fs.vfs import PAGE_SIZE, File, Inode, PollTable
from pykernel.mm.uaccess import copy_to_user
from pykernel.task import CAP_SYS_RESOURCE, Cred
from pykernel.uapi.linux.eventfd import EFD_SEMAPHORE
from pykernel.uapi.linux.eventpoll import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP, EPOLLRDNORM, EPOLLWRNORM

if TYPE_CHECKING:
    from pykernel.kernel import Kernel
    from pykernel.sched import Thread

__all__ = ["AnonInode", "EventFd", "PipeEnd", "SocketEnd", "eventfd_ctx_fdget", "pipe", "socketpair"]

ULLONG_MAX = (1 << 64) - 1
PIPE_SLOTS = 16
PIPE_MAX_SIZE = 1 << 20
FIONREAD = 0x541B


class AnonInode(Inode):
    """An inode of anon_inodefs, pipefs or sockfs; *what* is its kind in words."""

    __slots__ = ("what",)

    def __init__(self, kernel: Kernel, kind: int, what: str, mode: int = 0o600) -> None:
        super().__init__(kernel, kind | mode, kernel.sub(InoCounter).next())
        self.what = what
        cred = kernel.current.cred
        self.uid, self.gid = cred.uid, cred.gid

    def describe(self) -> str:
        """As fs/pipe.c:pipefs_dname() and its like."""
        return f"{self.what}:[{self.ino}]" if stat.S_IFMT(self.mode) else f"anon_inode:[{self.what}]"


class AnonFile(File):
    """A stream: no position."""

    __slots__ = ()
    seekable = False
    has_fasync = True

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


class EventFdWakeups:
    """Which tasks, None outside of any, are in an eventfd's wake-up: interrupts are off (``current->in_eventfd``)."""

    def __init__(self, _kernel: Kernel) -> None:
        self.threads: set[Thread | None] = set()


class EventFd(AnonFile):
    """``struct eventfd_ctx`` as a file; ``arrived`` tells who is woken whether it was by a write or by a read."""

    __slots__ = ("arrived", "count", "queue", "released", "semaphore", "waking")
    has_fasync = False
    write_iter = False

    def __init__(self, kernel: Kernel, count: int, flags: int) -> None:
        super().__init__(AnonInode(kernel, 0, "eventfd"), os.O_RDWR | flags & os.O_NONBLOCK)
        self.count = count
        self.semaphore = bool(flags & EFD_SEMAPHORE)
        self.waking = kernel.sub(EventFdWakeups)
        self.queue = kernel.waitqueue()
        self.released = False
        self.arrived = False

    def _wake(self, *, arrived: bool) -> None:
        self.arrived = arrived
        waking, thread = self.waking.threads, self.inode.kernel.sched.thread
        inner = thread in waking
        waking.add(thread)
        try:
            self.queue.wake_up()
        finally:
            if not inner:
                waking.remove(thread)

    def read(self, count: int) -> bytes:
        """The counter, or 1 of a semaphore. Raises EINVAL (under 8 bytes), EAGAIN."""
        if count < 8:
            raise err(EINVAL)
        if not self.count:
            if self.nonblock:
                raise err(EAGAIN)
            self.queue.wait_event(lambda: self.count > 0)
        n = self.do_read()
        self._wake(arrived=False)
        return n.to_bytes(8, "little")

    def do_read(self) -> int:
        """Take the counter, or 1 of a semaphore. C: ``void eventfd_ctx_do_read(struct eventfd_ctx *, __u64 *)``."""
        n = 1 if self.semaphore and self.count else self.count
        self.count -= n
        return n

    def write(self, data: bytes) -> int:
        """Add. Raises EINVAL (not 8 bytes, or all ones), EAGAIN (it would overflow)."""
        if len(data) < 8 or (len(data) > 8 and self.inode.kernel.profile.eventfd_write_exact):
            raise err(EINVAL)
        n = int.from_bytes(data[:8], "little")
        if n == ULLONG_MAX:
            raise err(EINVAL)
        if ULLONG_MAX - self.count <= n:
            if self.nonblock:
                raise err(EAGAIN)
            self.queue.wait_event(lambda: ULLONG_MAX - self.count > n)
        self.count += n
        self._wake(arrived=True)
        return 8

    def llseek(self, offset: int, whence: int) -> int:
        """C: ``noop_llseek()``."""
        return 0

    def signal(self, n: int = 1) -> None:
        """
        An interrupt that arrives because an eventfd wakes somebody waits until interrupts are on again: a later turn.

        C: ``__u64 eventfd_signal(struct eventfd_ctx *, __u64)``.
        """
        sched = self.inode.kernel.sched
        if sched.thread in self.waking.threads:
            sched.call_soon(lambda: self.signal(n))
            return
        self.count = min(self.count + n, ULLONG_MAX)
        self._wake(arrived=True)

    def remove_wait_queue(self, hook: Callable[[], None]) -> int:
        """
        Who was told of signals no longer is, and takes what the counter still has.

        C: ``int eventfd_ctx_remove_wait_queue(struct eventfd_ctx *, wait_queue_entry_t *, __u64 *)``.
        """
        n = self.do_read()
        self.queue.hooks.remove(hook)
        if n:
            self._wake(arrived=False)
        return n

    def poll(self, pt: PollTable) -> int:
        """fs/eventfd.c:eventfd_poll()."""
        pt.poll_wait(self.queue)
        events = EPOLLIN if self.count else 0
        events |= EPOLLERR if self.count == ULLONG_MAX else 0
        return events | (EPOLLOUT if self.count < ULLONG_MAX - 1 else 0)

    def release(self) -> None:
        """Who acts on it is told (EPOLLHUP). C: ``int eventfd_release(struct inode *, struct file *)``."""
        self.released = True
        self.queue.wake_up()


def eventfd_ctx_fdget(kernel: Kernel, fd: int) -> EventFd:
    """
    The eventfd that *fd* of the running task is, no reference of the file taken.

    C: ``struct eventfd_ctx *eventfd_ctx_fdget(int)``. Raises EBADF; EINVAL: it is no eventfd.
    """
    file = fget(kernel, fd)
    if not isinstance(file, EventFd):
        raise err(EINVAL, f"descriptor {fd} is no eventfd")
    return file


class PipeBuffer:
    """``struct pipe_inode_info``: a ring of pages, 16 at first; ``packet`` pages take no second write (O_DIRECT)."""

    def __init__(self, kernel: Kernel) -> None:
        self.inode = AnonInode(kernel, stat.S_IFIFO, "pipe")
        self.slots: deque[bytearray] = deque()
        self.ring_size = PIPE_SLOTS
        self.packets: deque[bool] = deque()
        self.queue = kernel.waitqueue()
        self.readers = self.writers = 1

    @property
    def full(self) -> bool:
        """C: ``bool pipe_full(...)``."""
        return len(self.slots) >= self.ring_size

    @property
    def capacity(self) -> int:
        """F_GETPIPE_SZ: bytes, if every page is full."""
        return self.ring_size * PAGE_SIZE

    def resize(self, size: int, cred: Cred) -> int:
        """
        F_SETPIPE_SZ: the new capacity. C: ``long pipe_set_size(struct pipe_inode_info *, unsigned long)``.

        Raises:
            EINVAL: over 2 GiB.   EPERM: over pipe-max-size, without CAP_SYS_RESOURCE.   EBUSY: more pages are in use.
        """
        if size > 1 << 31:
            raise err(EINVAL)
        size = 1 << (max(PAGE_SIZE, size) - 1).bit_length()
        slots = size // PAGE_SIZE
        if slots > self.ring_size and size > PIPE_MAX_SIZE and not cred.capable(CAP_SYS_RESOURCE):
            raise err(EPERM)
        if slots < len(self.slots):
            raise err(EBUSY)
        self.ring_size = slots
        self.queue.wake_up()
        return self.capacity

    def push(self, data: bytes, *, packet: bool) -> None:
        """A new page."""
        self.slots.append(bytearray(data))
        self.packets.append(packet)

    def take(self, count: int) -> bytes:
        """From the first page; the rest of a packet is lost."""
        first = self.slots[0]
        data = bytes(first[:count])
        del first[:count]
        if not first or self.packets[0]:
            self.slots.popleft()
            self.packets.popleft()
        return data


class PipeEnd(AnonFile):
    """One end of a pipe."""

    __slots__ = ("buffer",)

    def __init__(self, buffer: PipeBuffer, flags: int) -> None:
        super().__init__(buffer.inode, flags)
        self.buffer = buffer

    def read(self, count: int) -> bytes:
        """fs/pipe.c:pipe_read(). Raises EAGAIN; nothing is the end of file."""
        b, out = self.buffer, b""
        if not count:
            return out
        if not b.slots and b.writers:
            if self.nonblock:
                raise err(EAGAIN)
            b.queue.wait_event(lambda: bool(b.slots) or not b.writers)
        while b.slots and len(out) < count:
            packet = b.packets[0]
            out += b.take(count - len(out))
            if packet:
                break
        b.queue.wake_up()
        return out

    def write(self, data: bytes) -> int:
        """fs/pipe.c:pipe_write(). Raises EPIPE, EAGAIN."""
        b, sent = self.buffer, 0
        if not data:
            return 0
        if not b.readers:
            raise err(EPIPE)
        tail = len(data) % PAGE_SIZE
        if tail and b.slots and not b.packets[-1] and len(b.slots[-1]) + tail <= PAGE_SIZE:
            b.slots[-1] += data[:tail]
            sent = tail
        while sent < len(data):
            if not b.readers:
                if sent:
                    break
                raise err(EPIPE)
            if b.full:
                if self.nonblock:
                    if sent:
                        break
                    raise err(EAGAIN)
                b.queue.wake_up()
                b.queue.wait_event(lambda: not b.full or not b.readers)
                continue
            page = data[sent : sent + PAGE_SIZE]
            b.push(page, packet=bool(self.flags & os.O_DIRECT))
            sent += len(page)
        b.queue.wake_up()
        return sent

    def ioctl(self, cmd: int, arg: int) -> int:
        """FIONREAD: how many bytes wait. fs/pipe.c:pipe_ioctl(). Raises ENOTTY, EFAULT."""
        if cmd != FIONREAD:
            raise err(ENOTTY)
        kernel = self.inode.kernel
        copy_to_user(kernel, arg, sum(map(len, self.buffer.slots)).to_bytes(4, "little"))
        return 0

    def poll(self, pt: PollTable) -> int:
        """fs/pipe.c:pipe_poll()."""
        b = self.buffer
        pt.poll_wait(b.queue)
        events = 0
        if self.can_read:
            events |= EPOLLIN | EPOLLRDNORM if b.slots else 0
            events |= 0 if b.writers else EPOLLHUP
        if self.can_write:
            events |= 0 if b.full else EPOLLOUT | EPOLLWRNORM
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
    keep = flags & (os.O_NONBLOCK | os.O_DIRECT)
    return PipeEnd(b, os.O_RDONLY | flags & os.O_NONBLOCK), PipeEnd(b, os.O_WRONLY | keep)


Message = tuple[bytes, list[File]]


class SocketEnd(AnonFile):
    """One end of a stream socket pair; messages carry files (SCM_RIGHTS)."""

    __slots__ = ("closed", "garbage", "inbox", "peer", "queue", "reset")

    peer: SocketEnd

    def __init__(self, kernel: Kernel, flags: int) -> None:
        super().__init__(AnonInode(kernel, stat.S_IFSOCK, "socket", 0o777), os.O_RDWR | flags & os.O_NONBLOCK)
        self.inbox: deque[Message] = deque()
        self.queue = kernel.waitqueue()
        self.garbage = kernel.sub(UnixGarbage)
        self.closed = False
        self.reset = False

    def sendmsg(self, data: bytes, files: list[File]) -> int:
        """Send *data*, with references of *files*, which no data carries nowhere. Raises EPIPE."""
        if self.peer.closed:
            raise err(EPIPE)
        if data:
            self.peer.inbox.append((data, [f.get() for f in files]))
            for f in files:
                if isinstance(f, SocketEnd):
                    self.garbage.sent(f)
            self.peer.queue.wake_up()
        return len(data)

    def recvmsg(self, count: int) -> tuple[bytes, list[File]]:
        """
        The next bytes and the files that came with them; no data of a later message follows files.

        Raises EAGAIN, and once ECONNRESET: the peer closed before it had read all. unix_release_sock().
        """
        if not self.inbox and not self.peer.closed:
            if self.nonblock:
                raise err(EAGAIN)
            self.queue.wait_event(lambda: bool(self.inbox) or self.peer.closed)
        if not self.inbox and self.reset:
            self.reset = False
            raise err(ECONNRESET)
        out, files = b"", list[File]()
        while self.inbox and len(out) < count and not files:
            data, came = self.inbox[0]
            take = data[: count - len(out)]
            out, files = out + take, came
            self.inbox.popleft()
            if len(take) < len(data):
                self.inbox.appendleft((data[len(take) :], []))
        return out, self._landed(files)

    def _landed(self, files: list[File]) -> list[File]:
        for f in files:
            if isinstance(f, SocketEnd):
                self.garbage.received(f)
        return files

    def read(self, count: int) -> bytes:
        """Files that come with the data are closed, as Linux does."""
        if not count:
            return b""
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
        gone = self.peer.closed
        events = EPOLLOUT | EPOLLWRNORM | (EPOLLERR if self.reset else 0)
        events |= EPOLLIN | EPOLLRDNORM if self.inbox or gone else 0
        return events | (EPOLLHUP | EPOLLRDHUP if gone else 0)

    def release(self) -> None:
        """Files that nobody took go, too."""
        self.closed = True
        self.peer.reset = bool(self.inbox)
        for f in self.drop():
            f.put()
        self.peer.queue.wake_up()

    def put(self) -> None:
        """A reference less: perhaps the last one from outside of messages."""
        super().put()
        if self.garbage.inflight:
            self.garbage.collect()

    def drop(self, having: Container[File] | None = None) -> list[File]:
        """
        Drop the messages that carry one of *having*, or all.

        Returns:
            Their files, whose references are the caller's now.
        """
        gone = [m for m in self.inbox if having is None or any(f in having for f in m[1])]
        self.inbox = deque(m for m in self.inbox if m not in gone) if having else deque()
        return self._landed([f for _, files in gone for f in files])


def socketpair(kernel: Kernel, flags: int = 0) -> tuple[SocketEnd, SocketEnd]:
    """C: ``long sys_socketpair(AF_UNIX, SOCK_STREAM, 0, int *)``."""
    a, b = SocketEnd(kernel, flags), SocketEnd(kernel, flags)
    a.peer, b.peer = b, a
    return a, b
