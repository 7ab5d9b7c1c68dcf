"""
statfs(2) and fstatfs(2) of clients: the one thing that FUSE cannot say is which file system it is.

For the host every file of ours is of FUSE_SUPER_MAGIC; libudev and sd-device refuse a /sys that is not sysfs. So the
clients' filter notifies init, their pid 1, of these two calls. It makes the call itself, sees the tree as the client
does (root, working directory, ids, capabilities), and where the answer says FUSE it asks K by :data:`STATFS_XATTR` what
the node's own file system says. All else, and all that fails, is left to the host's kernel.

K is not asked to wait for anybody: it only answers one more request. Each call has a thread of its own while it lasts:
the walk may lead through file systems that other clients serve, and nobody else may have to wait for these.
"""

from __future__ import annotations

import fcntl
import os
import re
import select
import socket
import threading
from contextlib import suppress
from struct import Struct

from pykernel.surfaces.process import host, seccomp

__all__ = ["STATFS_XATTR", "STATFS_XATTR_VALUE", "StatfsCalls"]

STATFS_XATTR = "system.pykernel.statfs"  # in "system." the host asks for no right to read the file
STATFS_XATTR_VALUE = Struct("=qqq")  # f_type, f_bsize, f_namelen
FUSE_SUPER_MAGIC = 0x65735546  # include/uapi/linux/magic.h
_STATFS = Struct("=2q5Q2i3q4q")  # include/uapi/asm-generic/statfs.h: struct statfs, 64 bit
_TYPE, _BSIZE, _NAMELEN, _FRSIZE = 0, 1, 9, 10
# include/uapi/linux/seccomp.h: struct seccomp_notif, struct seccomp_notif_resp
_NOTIF = Struct("=QIIiIQ6Q")
_RESP = Struct("=QqiI")
_NOTIF_RECV, _NOTIF_SEND, _NOTIF_ID_VALID = 0xC0502100, 0xC0182101, 0x40082102
_FLAG_CONTINUE = 1
_OWN_FD = re.compile(rb"/(?:proc/(?:self|thread-self)|dev)/fd/(\d+)")


class StatfsCalls:
    """
    Answers what the descriptor *listener* tells of, until no client is left.

    There is always a thread that waits for the next call, however long the others take.
    """

    def __init__(self, listener: int) -> None:
        self.listener = listener
        self.root = os.open("/", os.O_PATH | os.O_CLOEXEC)
        self.caps = int(host.status_fields("self")["CapPrm"], 16)
        self.turn, self.counting = threading.Lock(), threading.Lock()
        self.idle = 1

    @staticmethod
    def possible() -> bool:
        """Clients can be listened to here: the host is new enough, and /proc has the numbers that it names them by."""
        with suppress(OSError):
            return seccomp.has_continue() and os.readlink("/proc/self") == str(os.getpid())
        return False

    @classmethod
    def start(cls, client: socket.socket) -> None:
        """Serve, in threads, the listener that the first *client* sends; it sends none when it has none."""
        threading.Thread(target=cls._begin, args=(client,), daemon=True).start()

    @classmethod
    def _begin(cls, client: socket.socket) -> None:
        with suppress(OSError):
            _, fds, _, _ = socket.recv_fds(client, 1, 1)
            client.close()
            for fd in fds:
                cls(fd).serve()

    def serve(self) -> None:
        """The life of one thread; who started it may be in a client's root directory by now."""
        host.unshare(host.CLONE_FS)
        _chroot(self.root)
        while True:
            with self.turn:
                call = self._next()
            if call is None:
                return
            if self._somebody_waits():
                call.answer()
            else:
                call.send(_FLAG_CONTINUE)
            with self.counting:
                self.idle += 1

    def _next(self) -> _Call | None:
        """The next call; None when no client is left."""
        poll = select.poll()
        poll.register(self.listener, select.POLLIN)
        notif = bytearray(_NOTIF.size)
        while poll.poll()[0][1] & select.POLLIN:
            with suppress(OSError):  # a signal withdrew it
                fcntl.ioctl(self.listener, _NOTIF_RECV, notif)
                return _Call(self, notif)
        return None

    def _somebody_waits(self) -> bool:
        """This thread waits no more, another does; False when the host allows no more threads."""
        with self.counting:
            self.idle -= 1
            if not self.idle:
                try:
                    threading.Thread(target=self.serve, daemon=True).start()
                except RuntimeError:
                    return False
                self.idle += 1
        return True


class _Call:
    """One call of thread *tid*."""

    def __init__(self, calls: StatfsCalls, notif: bytearray) -> None:
        self.listener, self.root, self.caps = calls.listener, calls.root, calls.caps
        self.id, self.tid, _, self.nr, _, _, self.where, self.buf, *_ = _NOTIF.unpack(notif)

    def answer(self) -> None:
        """Answer it, in a thread that has a root, a working directory and file system ids of its own."""
        flags = _FLAG_CONTINUE
        try:
            with suppress(OSError, KeyError):  # KeyError: no status, it is gone
                statfs = self._look()
                if statfs is not None and self._waits():
                    host.write_memory(self.tid, self.buf, statfs)
                    flags = 0
        finally:
            self.send(flags)

    def _look(self) -> bytes | None:
        """``struct statfs`` as the emulated kernel says it; None for what is not its own."""
        if self.nr == seccomp.system_call("fstatfs"):
            return _statfs(f"/proc/{self.tid}/fd/{self.where & 0xFFFFFFFF}".encode())
        path = host.read_string(self.tid, self.where)
        own_fd = _OWN_FD.fullmatch(path)
        if own_fd:
            return _statfs(b"/proc/%d/fd/%s" % (self.tid, own_fd[1]))
        before = os.geteuid(), os.getegid()
        try:
            self._go_to_client()
            return _statfs(path)
        finally:
            host.set_fs_ids(*before)
            host.set_effective_caps(self.caps, self.caps)
            _chroot(self.root)

    def send(self, flags: int) -> None:
        """Success, or let the host's kernel answer; a client that was killed needs none."""
        with suppress(OSError):
            fcntl.ioctl(self.listener, _NOTIF_SEND, bytearray(_RESP.pack(self.id, 0, 0, flags)))

    def _waits(self) -> bool:
        """The client is still in this call: *tid* is nobody else's. Raises ENOENT."""
        fcntl.ioctl(self.listener, _NOTIF_ID_VALID, self.id.to_bytes(8, "little"))
        return True

    def _go_to_client(self) -> None:
        """Root, working directory, and the ids and capabilities that count for a path walk."""
        status = host.status_fields(self.tid)
        cwd = os.open(f"/proc/{self.tid}/cwd", os.O_PATH | os.O_CLOEXEC)
        try:
            os.chroot(f"/proc/{self.tid}/root")
            os.fchdir(cwd)
        finally:
            os.close(cwd)
        host.set_fs_ids(*(int(status[name].split()[3]) for name in ("Uid", "Gid")))
        host.set_effective_caps(int(status["CapEff"], 16), self.caps)


def _chroot(root: int) -> None:
    os.fchdir(root)
    os.chroot(".")


def _statfs(path: bytes) -> bytes | None:
    fields = list(_STATFS.unpack(host.statfs(path, _STATFS.size)))
    if fields[_TYPE] != FUSE_SUPER_MAGIC:
        return None
    fields[_TYPE], fields[_BSIZE], fields[_NAMELEN] = STATFS_XATTR_VALUE.unpack(os.getxattr(path, STATFS_XATTR))
    fields[_FRSIZE] = fields[_BSIZE]
    return _STATFS.pack(*fields)
