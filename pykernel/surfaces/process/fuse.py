"""
A FUSE server on the raw device: one message, one system call in, one out; no library (a binding costs two to five
times as much as all that is done here).

Calls on files (open, read, write, release, getattr, poll, ioctl) are here, the others in ``fuse_dirs.py``; each is a
row of ``ops``. A row returns the reply's payload, or None for no reply (now), or raises an errno.

Attributes are opened FOPEN_DIRECT_IO: each read and each store reaches the kernel, whatever st_size says, and nothing
outlives a removed node. FLUSH is not asked for unless the file has one.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from errno import EAGAIN, ECONNABORTED, EINTR, EINVAL, EIO, ENODEV, ENOENT, ENOSYS, ENOTTY, ENXIO, EPERM, EPROTO, ESTALE
from typing import TYPE_CHECKING, Any

from pykernel.errors import ENOIOCTLCMD, ERESTARTSYS, err, is_errno
from pykernel.fs.ioctl import vfs_ioctl
from pykernel.fs.vfs import File, FsNotify, Inode, PollTable
from pykernel.surfaces.process import fuse_abi as abi
from pykernel.surfaces.process.flush import Flusher, host_path
from pykernel.surfaces.process.fuse_abi import INIT, Notify, Op
from pykernel.surfaces.process.fuse_dirs import DirOps
from pykernel.surfaces.process.nodes import Node, NodeTable
from pykernel.surfaces.process.sleep import Sleepers
from pykernel.syscalls import do_open

if TYPE_CHECKING:
    from pykernel.kernel import Kernel
    from pykernel.sched import WaitQueue
    from pykernel.surfaces.process.clients import Clients

__all__ = ["FuseServer"]

MAX_PAGES = 256
MAX_WRITE = MAX_PAGES * 4096
HEADER = abi.IN_HEADER.size
_IFMT = 0o170000
_WRITE_DATA = HEADER + abi.WRITE_IN.size
_BASE_FLAGS = abi.FOPEN_DIRECT_IO | abi.FOPEN_PARALLEL_DIRECT_WRITES
_MAX_WALKS = 256  # whoever walks once more does so at once
_ERRNO_MAX = 512  # fs/fuse/dev.c:fuse_dev_do_write() refuses more
_ERRNO_OUT = {ERESTARTSYS: EINTR, ENOIOCTLCMD: ENOTTY}
# The host holds no directory's lock while it waits for these.
GONE = (ENODEV, ECONNABORTED)  # fs/fuse/dev.c:fuse_dev_do_read(): unmounted, or aborted while requests were waiting
_HOLDABLE = frozenset({Op.OPEN, Op.READ, Op.WRITE, Op.IOCTL, Op.FLUSH, Op.FSYNC})
_WANTED = (
    INIT.ASYNC_READ | INIT.ATOMIC_O_TRUNC | INIT.BIG_WRITES | INIT.PARALLEL_DIROPS | INIT.MAX_PAGES
)  # fmt: skip

Row = Callable[[int, int, int], bytes | None]


class FuseServer:
    """
    Serves *root* on the /dev/fuse descriptor *fd*, which it owns.

    *extras* are names that the kernel's own directories do not have (mount points for what is the host's); *only_id*
    is the one uid and gid that exist in the clients' user namespace; *flusher* makes the host forget names.
    """

    def __init__(
        self,
        kernel: Kernel,
        fd: int,
        clients: Clients,
        root: Inode,
        flusher: Flusher,
        *,
        extras: dict[Inode, dict[str, Inode]] | None = None,
        only_id: tuple[int, int] | None = None,
    ) -> None:
        self.kernel = kernel
        self.fd = fd
        self.clients = clients
        self.nodes = NodeTable(root, only_id)
        self.flusher = flusher
        flusher.settle = self.nodes.settle
        self.files: dict[int, File] = {}
        self.connected = True
        self.requests = 0
        self.buf = bytearray(MAX_WRITE + 4096)
        self.view = memoryview(self.buf)
        self._iov = [self.buf]
        self.sleepers = Sleepers(self)
        self.caller = 0
        self.again: dict[int, Node] = {}  # threads that were told ESTALE, and where their next walk is
        self._last_fh = 0
        self._polls: dict[int, list[tuple[WaitQueue, Callable[[], None]]]] = {}
        self.ops: dict[int, Row] = {
            Op.FORGET: self.forget,
            Op.GETATTR: self.getattr,
            Op.OPEN: self.open,
            Op.READ: self.read,
            Op.WRITE: self.write,
            Op.RELEASE: self.release,
            Op.FLUSH: self.flush,
            Op.FSYNC: self.fsync,
            Op.LSEEK: self.lseek,
            Op.FALLOCATE: self.fallocate,
            Op.IOCTL: self.ioctl,
            Op.POLL: self.poll,
            Op.INIT: self.init,
            Op.DESTROY: lambda *_: b"",
            Op.BATCH_FORGET: self.batch_forget,
            Op.INTERRUPT: self.interrupt,
            **DirOps(self, extras or {}).ops,
        }
        kernel.sub(FsNotify).subscribe(self.fs_event)

    # ---- transport

    def on_readable(self) -> None:
        """Serve one message."""
        try:
            n = os.readv(self.fd, self._iov)
        except OSError as e:
            if e.errno in GONE:
                self.connected = False
            elif e.errno not in (EINTR, EAGAIN, ENOENT):
                raise
            return
        self.requests += 1
        _, op, unique, nodeid, uid, gid, pid, _, _ = abi.IN_HEADER.unpack_from(self.buf)
        kernel = self.kernel
        kernel.current = self.clients.get(pid, uid, gid)
        self.caller = pid
        row = self.ops.get(op)
        try:
            if row is None:
                raise err(ENOSYS)
            reply = row(nodeid, n, unique)
            if kernel.sched.ready:
                kernel.sched.run_ready()
        except (Exception, SystemExit) as e:
            self.fail(unique, e, now=op not in _HOLDABLE)
        else:
            if reply is not None:
                self.reply(unique, reply, now=op not in _HOLDABLE)
        finally:
            kernel.current = kernel.idle_task
            self.caller = 0
            if self.flusher.waiting:
                self.flusher.kick()

    def reply(self, unique: int, payload: bytes, *, now: bool = False) -> None:
        """Answer; *now* to one who may hold a lock that the flusher needs."""
        self._answer(0, unique, payload, now)

    def fail(self, unique: int, e: BaseException, *, now: bool = False) -> None:
        """Answer with an errno; whatever has none is an oops, and EIO."""
        code = EIO
        if isinstance(e, OSError) and is_errno(e):
            code = _ERRNO_OUT.get(e.errno or EIO, e.errno or EIO)
        else:
            self.kernel.oops(e)
        self._answer(-(code if code < _ERRNO_MAX else EINVAL), unique, b"", now)

    def _answer(self, error: int, unique: int, payload: bytes, now: bool) -> None:
        flusher = self.flusher
        if flusher.waiting:
            flusher.kick()
        if now or flusher.current is None:
            self._send(16 + len(payload), error, unique, payload)
        else:
            flusher.held.append(lambda: self._send(16 + len(payload), error, unique, payload))

    def notify(self, code: Notify, payload: bytes) -> None:
        """Tell the host something."""
        self._send(16 + len(payload), code, 0, payload)

    def _send(self, length: int, error: int, unique: int, payload: bytes = b"") -> None:
        """
        A request that was withdrawn, a node that is not known any more and a mount that ended are no errors.

        What the host refuses else is our bug: an oops, and EIO for that one request (fs/fuse/dev.c:fuse_dev_do_write()
        has ended it so already, if it got as far as the payload).
        """
        try:
            os.write(self.fd, abi.OUT_HEADER.pack(length, error, unique) + payload)
        except OSError as e:
            if e.errno == ENOENT:
                return
            if e.errno in (EPERM, *GONE):
                self.connected = False
                return
            e.add_note(f"the host refused {length} bytes in answer to request {unique}")
            self.kernel.oops(e)
            if unique and not error:
                self._send(abi.OUT_HEADER.size, -EIO, unique)

    def close(self) -> None:
        """End the connection: the host aborts it, and what clients had open is released."""
        self.kernel.sub(FsNotify).hooks.remove(self.fs_event)
        self.connected = False
        for unique in tuple(self.sleepers.threads):
            self._end(self.sleepers.interrupt, unique)
        os.close(self.fd)
        for fh in tuple(self.files):
            self._end(self._put, fh)

    def _end(self, end: Callable[[int], None], which: int) -> None:
        """End one call or file: a bug in it must not keep the others open; an errno has no one to go to."""
        try:
            end(which)
        except (Exception, SystemExit) as e:
            if not is_errno(e):
                self.kernel.oops(e)

    def name(self, start: int, n: int) -> str:
        """The NUL-terminated name at *start* of the message."""
        return bytes(self.view[start : self.buf.index(0, start, n)]).decode("latin-1")

    def fs_event(self, event: str, parent: Inode, name: str, inode: Inode) -> None:
        """A node came or went: the host must ask again."""
        if event == "modify" or not self.connected:
            return
        node = self.nodes.removed(parent, name, inode) if event == "remove" else None
        if node is not None:
            self._invalidate(node)
            self.flusher.add(node, f"{host_path(parent)}/{name}")
            if self.caller == 0:  # no answer will do it
                self.flusher.kick()
        if inode.is_dir and parent in self.nodes.by_inode:  # its st_nlink changed
            self._invalidate(self.nodes.by_inode[parent])

    def _invalidate(self, node: Node) -> None:
        self.notify(Notify.INVAL_INODE, abi.NOTIFY_INVAL_INODE_OUT.pack(node.id, -1, 0))

    def live(self, nodeid: int) -> Inode:
        """
        The inode, for a call that came by path. Raises ESTALE: its name is no longer its own.

        The host walks once more and no third time: a node that the second walk has come to answers for itself.
        """
        node = self.nodes.by_id[nodeid]
        if node.stale and not self.keeps(node):
            if self.again.get(self.caller) is node and self.caller != self.flusher.tid:
                return node.inode
            if len(self.again) >= _MAX_WALKS:
                del self.again[next(iter(self.again))]
            self.again[self.caller] = node
            raise err(ESTALE)
        return node.inode

    def keeps(self, node: Node) -> bool:
        """The flusher still finds the removed *node*: it is on its way to another."""
        return self.caller == self.flusher.tid and node is not self.flusher.current

    # ---- session

    def init(self, nodeid: int, n: int, unique: int) -> bytes:
        """FUSE_INIT."""
        major, minor, readahead, flags = abi.INIT_IN.unpack_from(self.buf, HEADER)
        if major != abi.KERNEL_VERSION or minor < abi.KERNEL_MINOR_VERSION:
            raise err(EPROTO, f"the host speaks FUSE {major}.{minor}")
        # Background requests are releases: the limit must never let another call overtake one.
        return abi.INIT_OUT.pack(
            major, abi.KERNEL_MINOR_VERSION, readahead, flags & _WANTED, 65535, 65535, MAX_WRITE, 1, MAX_PAGES, 0, 0
        )

    def forget(self, nodeid: int, n: int, unique: int) -> None:
        """FUSE_FORGET."""
        self.nodes.forget(nodeid, int.from_bytes(self.buf[HEADER : HEADER + 8], "little"))

    def batch_forget(self, nodeid: int, n: int, unique: int) -> None:
        """FUSE_BATCH_FORGET."""
        for one in abi.FORGET_ONE.iter_unpack(self.buf[HEADER + 8 : n]):
            self.nodes.forget(*one)

    def interrupt(self, nodeid: int, n: int, unique: int) -> None:
        """FUSE_INTERRUPT: a signal for the caller of a request."""
        self.sleepers.interrupt(abi.INTERRUPT_IN.unpack_from(self.buf, HEADER)[0])

    # ---- attributes

    def getattr(self, nodeid: int, n: int, unique: int) -> bytes:
        """FUSE_GETATTR: fstat() of a removed node's descriptor works, stat() of its path does not."""
        node = self.nodes.by_id[nodeid]
        if node.stale and not self.buf[HEADER] & abi.GETATTR_FH:
            self.live(nodeid)
        return self.nodes.attr_out(node)

    # ---- files

    def open(self, nodeid: int, n: int, unique: int) -> bytes:
        """FUSE_OPEN."""
        flags, _ = abi.OPEN_IN.unpack_from(self.buf, HEADER)
        return self.opened(do_open(self.kernel, self.live(nodeid), flags))

    def opened(self, file: File) -> bytes:
        """``fuse_open_out`` for a file that was just opened."""
        self._last_fh = fh = self._last_fh + 1
        self.files[fh] = file
        flags = _BASE_FLAGS
        if type(file).flush is File.flush:
            flags |= abi.FOPEN_NOFLUSH
        if not file.seekable:
            flags |= abi.FOPEN_NONSEEKABLE | abi.FOPEN_STREAM
        return abi.OPEN_OUT.pack(fh, flags, 0)

    def read(self, nodeid: int, n: int, unique: int) -> bytes | None:
        """
        FUSE_READ.

        A read without a lock owner fills the host's page cache: sendfile(), splice(), a private mapping. The cache
        would keep old text and change st_size, so it is refused: EINVAL sends the caller of sendfile() to read() and
        write().
        """
        fh, off, size, read_flags, _, flags, _ = abi.READ_IN.unpack_from(self.buf, HEADER)
        if not read_flags & abi.READ_LOCKOWNER:
            raise err(EINVAL)
        file = self.files[fh]
        file.flags = flags
        if file.inode.mode & _IFMT == stat.S_IFCHR:
            return self.sleepers.call(unique, lambda: _read(file, off, size))
        return _read(file, off, size)

    def write(self, nodeid: int, n: int, unique: int) -> bytes | None:
        """FUSE_WRITE."""
        fh, off, size, _, _, flags, _ = abi.WRITE_IN.unpack_from(self.buf, HEADER)
        file = self.files[fh]
        file.flags = flags
        data = bytes(self.view[_WRITE_DATA : _WRITE_DATA + size])
        if file.inode.mode & _IFMT == stat.S_IFCHR:
            return self.sleepers.call(unique, lambda: _write(file, off, data))
        return _write(file, off, data)

    def release(self, nodeid: int, n: int, unique: int) -> bytes:
        """FUSE_RELEASE: the last descriptor and mapping went."""
        self._put(abi.RELEASE_IN.unpack_from(self.buf, HEADER)[0])
        return b""

    def _put(self, fh: int) -> None:
        for queue, hook in self._polls.pop(fh, ()):
            queue.hooks.remove(hook)
        self.files.pop(fh).put()

    def flush(self, nodeid: int, n: int, unique: int) -> bytes:
        """FUSE_FLUSH, for a file that has a flush operation."""
        self._file().flush()
        return b""

    def fsync(self, nodeid: int, n: int, unique: int) -> bytes:
        """FUSE_FSYNC, FUSE_FSYNCDIR."""
        self._file().fsync()
        return b""

    def lseek(self, nodeid: int, n: int, unique: int) -> bytes:
        """FUSE_LSEEK: the host asks for SEEK_DATA and SEEK_HOLE only."""
        fh, off, whence, _ = abi.LSEEK_IN.unpack_from(self.buf, HEADER)
        if not self.files[fh].seekable:
            raise err(ENXIO)
        return abi.LSEEK_OUT.pack(self.files[fh].llseek(off, whence))

    def fallocate(self, nodeid: int, n: int, unique: int) -> bytes:
        """FUSE_FALLOCATE. Raises ENODEV: the host takes a device for a regular file."""
        fh, off, length, mode, _ = abi.FALLOCATE_IN.unpack_from(self.buf, HEADER)
        if not stat.S_ISREG(self.files[fh].inode.mode):
            raise err(ENODEV)
        self.files[fh].fallocate(mode, off, length)
        return b""

    def ioctl(self, nodeid: int, n: int, unique: int) -> bytes | None:
        """FUSE_IOCTL: no data travels, the driver reaches into the client's memory (``kernel.current.mm``) itself."""
        fh, _, cmd, arg, _, _ = abi.IOCTL_IN.unpack_from(self.buf, HEADER)
        file = self.files[fh]
        return self.sleepers.call(unique, lambda: abi.IOCTL_OUT.pack(vfs_ioctl(file, cmd, arg), 0, 0, 0))

    def poll(self, nodeid: int, n: int, unique: int) -> bytes:
        """FUSE_POLL. Wake-ups of the file's wait queues are passed on until it is released."""
        fh, kh, flags, _ = abi.POLL_IN.unpack_from(self.buf, HEADER)
        pt = PollTable()
        mask = self.files[fh].poll(pt)
        if flags & abi.POLL_SCHEDULE_NOTIFY and fh not in self._polls:
            payload = abi.NOTIFY_POLL_WAKEUP_OUT.pack(kh)
            self._polls[fh] = [(queue, lambda: self.notify(Notify.POLL, payload)) for queue in pt.queues]
            for queue, hook in self._polls[fh]:
                queue.hooks.append(hook)
        return abi.POLL_OUT.pack(mask, 0)

    def _file(self) -> Any:
        return self.files[int.from_bytes(self.buf[HEADER : HEADER + 8], "little")]


def _read(file: File, off: int, size: int) -> bytes:
    data = file.pread(off, size)
    file.pos = off + len(data)
    return data


def _write(file: File, off: int, data: bytes) -> bytes:
    """``fuse_write_out``. The host's idea of a file's end is not ours: an appending write finds it itself."""
    if file.flags & os.O_APPEND:
        return abi.WRITE_OUT.pack(file.write(data), 0)
    done = file.pwrite(off, data)
    file.pos = off + done
    return abi.WRITE_OUT.pack(done, 0)
