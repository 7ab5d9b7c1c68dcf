"""epoll: a set of files and a list of those that may be ready (fs/eventpoll.c)."""

from __future__ import annotations

import os
from errno import EEXIST, EINVAL, ELOOP, ENOENT
from typing import TYPE_CHECKING, Final

from pykernel.errors import err
from pykernel.fs.anon import AnonFile, AnonInode
from pykernel.fs.vfs import File, PollTable
from pykernel.uapi.linux.eventpoll import (
    EPOLL_CTL_ADD,
    EPOLL_CTL_DEL,
    EPOLL_CTL_MOD,
    EPOLLERR,
    EPOLLET,
    EPOLLEXCLUSIVE,
    EPOLLHUP,
    EPOLLIN,
    EPOLLONESHOT,
    EPOLLOUT,
    EPOLLRDNORM,
    EPOLLWAKEUP,
)

if TYPE_CHECKING:
    from pykernel.kernel import Kernel

__all__ = ["EP_MAX_EVENTS", "EventPoll", "file_can_poll"]

EP_MAX_EVENTS: Final = 0x7FFFFFFF // 12
EP_MAX_NESTS: Final = 4
EP_PRIVATE_BITS: Final = EPOLLWAKEUP | EPOLLONESHOT | EPOLLET | EPOLLEXCLUSIVE
EPOLLEXCLUSIVE_OK_BITS: Final = EPOLLIN | EPOLLOUT | EPOLLERR | EPOLLHUP | EPOLLWAKEUP | EPOLLET | EPOLLEXCLUSIVE


def file_can_poll(file: File) -> bool:
    """C: ``bool file_can_poll(struct file *)``."""
    return type(file).poll is not File.poll


class EpItem:
    """``struct epitem``: a descriptor's file in a set, hooked to the wait queues that its poll() names."""

    __slots__ = ("data", "ep", "events", "file", "queues")

    def __init__(self, ep: EventPoll, file: File, events: int, data: int) -> None:
        self.ep = ep
        self.file = file
        self.events = events
        self.data = data
        table = PollTable()
        file.poll(table)
        self.queues = table.queues
        for queue in self.queues:
            queue.hooks.append(self.wake)
        if isinstance(file, EventPoll):
            file.outer.append(ep)

    def wake(self) -> None:
        """The file may be ready. C: ``ep_poll_callback()``; a one-shot that was reported stays silent."""
        if self.events & ~EP_PRIVATE_BITS and self.file.refs:
            self.ep.ready[self] = None
            self.ep.queue.wake_up()

    def poll(self) -> int:
        """C: ``__poll_t ep_item_poll(...)``."""
        return self.file.poll(PollTable()) & self.events & ~EP_PRIVATE_BITS

    def drop(self) -> None:
        """Unhooked. C: ``ep_unregister_pollwait()``."""
        for queue in self.queues:
            queue.hooks.remove(self.wake)
        if isinstance(self.file, EventPoll):
            self.file.outer.remove(self.ep)
        self.ep.ready.pop(self, None)


class EventPoll(AnonFile):
    """
    ``struct eventpoll`` as a file.

    ``items`` has an item for each file and number, ``ready`` is the list of those that a wake-up or a report left in
    line (rdllist), first come first; ``outer`` are the sets that this one is in.
    """

    __slots__ = ("items", "outer", "queue", "ready")
    has_fasync = False

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(AnonInode(kernel, 0, "eventpoll"), os.O_RDWR)
        self.items: dict[tuple[File, int], EpItem] = {}
        self.ready: dict[EpItem, None] = {}
        self.outer: list[EventPoll] = []
        self.queue = kernel.waitqueue()

    def read(self, count: int) -> bytes:
        """Raises EINVAL: no such operation."""
        raise err(EINVAL)

    def write(self, data: bytes) -> int:
        """Raises EINVAL: no such operation."""
        raise err(EINVAL)

    def llseek(self, offset: int, whence: int) -> int:
        """C: ``noop_llseek()``."""
        return 0

    # ---- the set

    def ctl(self, op: int, file: File, fd: int, events: int, data: int) -> None:
        """
        Add, change or remove *file* under the number *fd*. C: ``int do_epoll_ctl(...)``, behind its look-ups.

        Raises:
            EINVAL: itself, an unknown *op*, EPOLLEXCLUSIVE where it may not be.
            ELOOP: sets within each other, or too deep.   EEXIST, ENOENT.
        """
        if file is self or (events & EPOLLEXCLUSIVE and not self._exclusive(op, events, file)):
            raise err(EINVAL)
        if op == EPOLL_CTL_ADD and isinstance(file, EventPoll):
            self._loop_check(file)
        self.forget()
        item = self.items.get((file, fd))
        if op == EPOLL_CTL_ADD:
            if item is not None:
                raise err(EEXIST)
            item = self.items[file, fd] = EpItem(self, file, events | EPOLLERR | EPOLLHUP, data)
        elif op not in (EPOLL_CTL_DEL, EPOLL_CTL_MOD):
            raise err(EINVAL)
        elif item is None:
            raise err(ENOENT)
        elif op == EPOLL_CTL_DEL:
            self.items.pop((file, fd)).drop()
            return
        elif item.events & EPOLLEXCLUSIVE:
            raise err(EINVAL)
        else:
            item.events, item.data = events | EPOLLERR | EPOLLHUP, data
        if item.poll():
            item.wake()

    @staticmethod
    def _exclusive(op: int, events: int, file: File) -> bool:
        if op == EPOLL_CTL_ADD:
            return not isinstance(file, EventPoll) and not events & ~EPOLLEXCLUSIVE_OK_BITS
        return op != EPOLL_CTL_MOD

    def _inner(self) -> list[EventPoll]:
        return [file for file, _ in self.items if isinstance(file, EventPoll)]

    def _down(self) -> int:
        return max((1 + ep._down() for ep in self._inner()), default=0)

    def _up(self) -> int:
        return max((1 + ep._up() for ep in self.outer), default=0)

    def _reaches(self, other: EventPoll) -> bool:
        return any(ep is other or ep._reaches(other) for ep in self._inner())

    def _loop_check(self, inner: EventPoll) -> None:
        """C: ``int ep_loop_check(struct eventpoll *, struct eventpoll *)``. Raises ELOOP."""
        if inner._reaches(self) or inner._down() + 1 + self._up() > EP_MAX_NESTS:
            raise err(ELOOP)

    def forget(self) -> None:
        """What was closed leaves the set. C: ``eventpoll_release_file()``."""
        for key in [key for key in self.items if not key[0].refs]:
            self.items.pop(key).drop()

    # ---- what is ready

    def send_events(self, maxevents: int) -> list[tuple[int, int]]:
        """
        The data and events of at most *maxevents* ready items. C: ``int ep_send_events(...)``.

        A level-triggered item goes to the end of the line again, an edge-triggered one waits for a wake-up.
        """
        self.forget()
        out: list[tuple[int, int]] = []
        again: list[EpItem] = []
        for item in tuple(self.ready):
            if len(out) >= maxevents:
                break
            del self.ready[item]
            events = item.poll()
            if not events:
                continue
            out.append((item.data, events))
            if item.events & EPOLLONESHOT:
                item.events &= EP_PRIVATE_BITS
            elif not item.events & EPOLLET:
                again.append(item)
        self.ready.update(dict.fromkeys(again))
        return out

    def wait(self, maxevents: int, timeout_ns: int | None) -> list[tuple[int, int]]:
        """The ready ones, as soon as there is one; none when the time is over. C: ``int ep_poll(...)``."""
        out = self.send_events(maxevents)

        def look() -> bool:
            if not out:
                out.extend(self.send_events(maxevents))
            return bool(out)

        if not out and timeout_ns != 0:
            self.queue.wait_event(look, timeout_ns)
        return out

    def poll(self, pt: PollTable) -> int:
        """C: ``__poll_t ep_eventpoll_poll(struct file *, poll_table *)``: readable while one is ready."""
        pt.poll_wait(self.queue)
        self.forget()
        for item in tuple(self.ready):
            if item.poll():
                return EPOLLIN | EPOLLRDNORM
            del self.ready[item]
        return 0

    def release(self) -> None:
        """C: ``int ep_eventpoll_release(...)``."""
        for item in self.items.values():
            item.drop()
        self.items.clear()
