"""Files without a name: eventfd, pipes, sockets, epoll."""

from __future__ import annotations

import os
from collections.abc import Sequence
from errno import (
    EINVAL,
    EMFILE,
    ENOTSOCK,
    EOPNOTSUPP,
    EPERM,
)

from pykernel.calls.arguments import buffer_of
from pykernel.calls.entry import Caller, syscall
from pykernel.errors import err
from pykernel.fs import anon
from pykernel.fs.eventpoll import EP_MAX_EVENTS, EventPoll, file_can_poll
from pykernel.fs.vfs import (
    File,
)
from pykernel.uapi.linux.eventfd import EFD_CLOEXEC, EFD_NONBLOCK, EFD_SEMAPHORE
from pykernel.uapi.linux.eventpoll import EPOLL_CLOEXEC

__all__ = ["Anonymous"]

SCM_MAX_FD = 253
MSG_CTRUNC, MSG_CMSG_CLOEXEC = 0x8, 0x40000000  # include/linux/socket.h


class Anonymous(Caller):
    """Files without a name: part of ``Process``."""

    # ---- anonymous files

    @syscall
    def eventfd(self, count: int = 0, flags: int = 0) -> int:
        """C: ``int eventfd(unsigned int, int)``. Raises EINVAL: unknown flags."""
        if flags & ~(EFD_CLOEXEC | EFD_NONBLOCK | EFD_SEMAPHORE):
            raise err(EINVAL)
        return self.fds.install(anon.EventFd(self.kernel, count & 0xFFFFFFFF, flags), cloexec=bool(flags & EFD_CLOEXEC))

    @syscall
    def pipe(self, flags: int = 0) -> tuple[int, int]:
        """C: ``int pipe2(int [2], int)``."""
        if flags & ~(os.O_CLOEXEC | os.O_NONBLOCK | os.O_DIRECT):
            raise err(EINVAL)
        return self._install_two(anon.pipe(self.kernel, flags), cloexec=bool(flags & os.O_CLOEXEC))

    def _install_two(self, files: tuple[File, File], *, cloexec: bool) -> tuple[int, int]:
        """Both or none. Raises EMFILE."""
        if len(self.fds.files) > self.fds.limit - 2:
            for file in files:
                file.put()
            raise err(EMFILE)
        return self.fds.install(files[0], cloexec=cloexec), self.fds.install(files[1], cloexec=cloexec)

    @syscall
    def socketpair(self, flags: int = 0) -> tuple[int, int]:
        """C: ``int socketpair(AF_UNIX, SOCK_STREAM | flags, 0, int [2])``."""
        if flags & ~(os.O_CLOEXEC | os.O_NONBLOCK):
            raise err(EINVAL)
        return self._install_two(anon.socketpair(self.kernel, flags), cloexec=bool(flags & os.O_CLOEXEC))

    def _socket(self, fd: int) -> anon.SocketEnd:
        file = self._fd(fd)
        if not isinstance(file, anon.SocketEnd):
            raise err(ENOTSOCK)
        return file

    @syscall
    def sendmsg(self, fd: int, data: bytes, fds: Sequence[int] = ()) -> int:
        """
        C: ``ssize_t sendmsg(int, const struct msghdr *, int)`` with SCM_RIGHTS *fds*.

        Raises EBADF, EPIPE; EINVAL: over 253 descriptors.
        """
        sock = self._socket(fd)
        if len(fds) > SCM_MAX_FD:
            raise err(EINVAL)
        return sock.sendmsg(buffer_of(data), [self.fds.get(n) for n in fds])

    @syscall
    def recvmsg(self, fd: int, count: int, room: int = SCM_MAX_FD, flags: int = 0) -> tuple[bytes, list[int], int]:
        """
        C: ``ssize_t recvmsg(int, struct msghdr *, int)``: the data, new descriptors, and the message's flags.

        Args:
            room: how many descriptors the control buffer holds; the others are lost, and MSG_CTRUNC says so.
            flags: MSG_CMSG_CLOEXEC or none. Raises EOPNOTSUPP for others.
        """
        sock = self._socket(fd)
        if flags & ~MSG_CMSG_CLOEXEC:
            raise err(EOPNOTSUPP, "of recvmsg's flags there is MSG_CMSG_CLOEXEC only")
        data, files = sock.recvmsg(count)
        fds: list[int] = []
        for file in files:  # net/core/scm.c:scm_detach_fds()
            if len(fds) < room and len(self.fds.files) < self.fds.limit:
                fds.append(self.fds.install(file, cloexec=bool(flags)))
            else:
                file.put()
        return data, fds, flags | (MSG_CTRUNC if len(fds) < len(files) else 0)

    # ---- epoll

    @syscall
    def epoll_create(self, flags: int = 0) -> int:
        """C: ``int epoll_create1(int)``. Raises EINVAL: unknown flags."""
        if flags & ~EPOLL_CLOEXEC:
            raise err(EINVAL)
        return self.fds.install(EventPoll(self.kernel), cloexec=bool(flags))

    @syscall
    def epoll_ctl(self, epfd: int, op: int, fd: int, events: int = 0, data: int | None = None) -> None:
        """
        C: ``int epoll_ctl(int, int, int, struct epoll_event *)``; *data* is *fd* unless said.

        Raises EBADF, EPERM (it cannot be polled), EINVAL, ELOOP, EEXIST, ENOENT.
        """
        ep, file = self._fd(epfd), self._fd(fd)
        if not file_can_poll(file):
            raise err(EPERM)
        if not isinstance(ep, EventPoll):
            raise err(EINVAL)
        ep.ctl(op, file, fd, events, fd if data is None else data)

    @syscall
    def epoll_wait(self, epfd: int, maxevents: int = 64, timeout_ms: float | None = 0) -> list[tuple[int, int]]:
        """C: ``int epoll_wait(int, struct epoll_event *, int, int)``: data and events; None waits for ever."""
        if not self.kernel.profile.epoll_wait_fd_first and not 0 < maxevents <= EP_MAX_EVENTS:
            raise err(EINVAL)
        ep = self._fd(epfd)
        if not 0 < maxevents <= EP_MAX_EVENTS or not isinstance(ep, EventPoll):
            raise err(EINVAL)
        return ep.wait(maxevents, None if timeout_ms is None or timeout_ms < 0 else int(timeout_ms * 1e6))
