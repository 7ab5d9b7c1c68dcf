"""/dev/kmsg: the log as records (kernel/printk/printk.c:devkmsg_read())."""

from __future__ import annotations

import os
import re
from errno import EAGAIN, EINVAL, EPERM, EPIPE, ESPIPE
from typing import TYPE_CHECKING

from pykernel.errors import err
from pykernel.fs.vfs import File, Inode, PollTable
from pykernel.log import WARNING, Record
from pykernel.task import CAP_SYS_ADMIN, CAP_SYSLOG
from pykernel.uapi.linux.eventpoll import EPOLLERR, EPOLLIN, EPOLLPRI, EPOLLRDNORM

if TYPE_CHECKING:
    from pykernel.sched import WaitQueue

__all__ = ["KmsgFile", "kmsg_record"]

LOG_USER = 1
MESSAGE_LOGLEVEL_DEFAULT = WARNING
LOG_LINE_MAX = 1024 - 48
LEVEL = re.compile(r"<(\d*)>")


def kmsg_record(r: Record) -> bytes:
    """One record: ``prio,seq,usec,-;text`` and the device's lines. kernel/printk/printk.c:info_print_ext_header()."""
    text = "".join(c if " " <= c <= "~" and c != "\\" else f"\\x{ord(c):02x}" for c in r.text)
    head = f"{r.facility << 3 | r.level},{r.seq},{r.time_ns // 1000},-;{text}\n"
    extra = f" SUBSYSTEM={r.subsystem}\n" if r.subsystem else ""
    extra += f" DEVICE={r.device}\n" if r.device else ""
    return (head + extra).encode("latin-1", "replace")


class KmsgFile(File):
    """An open /dev/kmsg: each read gives one record."""

    __slots__ = ("queue", "seq")
    read_iter = False

    def __init__(self, inode: Inode, flags: int) -> None:
        super().__init__(inode, flags)
        log = inode.kernel.log
        cred = inode.kernel.current.cred
        if flags & os.O_ACCMODE != os.O_WRONLY and not (cred.capable(CAP_SYSLOG) or cred.capable(CAP_SYS_ADMIN)):
            raise err(EPERM, "kernel.dmesg_restrict is 1")
        self.seq = log.records[0].seq if log.records else log.seq
        self.queue: WaitQueue = inode.kernel.waitqueue()
        log.listeners.append(self._arrived)

    def _arrived(self, record: Record) -> None:
        self.queue.wake_up()

    def read(self, count: int) -> bytes:
        """The next record. Raises EAGAIN (O_NONBLOCK), EPIPE (it was overwritten), EINVAL (*count* too small)."""
        log = self.inode.kernel.log
        if self.seq >= log.seq:
            if self.flags & os.O_NONBLOCK:
                raise err(EAGAIN)
            self.queue.wait_event(lambda: self.seq < log.seq)
        if log.records and self.seq < log.records[0].seq:
            self.seq = log.records[0].seq
            raise err(EPIPE)
        data = kmsg_record(log.records[self.seq - log.records[0].seq])
        self.seq += 1
        if len(data) > count:
            raise err(EINVAL)
        return data

    def pread(self, pos: int, count: int) -> bytes:
        """Records have no position."""
        return self.read(count)

    def pwrite(self, pos: int, data: bytes) -> int:
        """``<N>text`` with facility N >> 3 and level N & 7. kernel/printk/printk.c:devkmsg_write(). Raises EINVAL."""
        if len(data) > LOG_LINE_MAX:
            raise err(EINVAL)
        level, facility, text = MESSAGE_LOGLEVEL_DEFAULT, LOG_USER, data.decode("latin-1").partition("\0")[0]
        if m := LEVEL.match(text):
            n, text = int(m[1] or 0), text[m.end() :]
            level, facility = n & 7, n >> 3 & 0xFF or LOG_USER
        self.inode.kernel.log.printk(level, text, facility=facility)
        return len(data)

    def llseek(self, offset: int, whence: int) -> int:
        """SEEK_SET: first record; SEEK_DATA: after the last clear; SEEK_END: behind the last. Raises ESPIPE, EINVAL."""
        log = self.inode.kernel.log
        if offset:
            raise err(ESPIPE)
        if whence == os.SEEK_SET:
            self.seq = log.records[0].seq if log.records else log.seq
        elif whence == os.SEEK_DATA:
            self.seq = log.cleared
        elif whence == os.SEEK_END:
            self.seq = log.seq
        else:
            raise err(EINVAL)
        return 0

    def poll(self, pt: PollTable) -> int:
        """Readable while there is a record; EPOLLERR|EPOLLPRI when ours was overwritten."""
        log = self.inode.kernel.log
        pt.poll_wait(self.queue)
        if self.seq >= log.seq:
            return 0
        lost = bool(log.records) and self.seq < log.records[0].seq
        return EPOLLIN | EPOLLRDNORM | (EPOLLERR | EPOLLPRI if lost else 0)

    def release(self) -> None:
        """Stop listening."""
        self.inode.kernel.log.listeners.remove(self._arrived)
