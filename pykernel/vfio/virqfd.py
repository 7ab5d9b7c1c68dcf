"""
Eventfds that a user signals and a device acts on: unmasking an interrupt (drivers/vfio/virqfd.c).
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EBUSY
from typing import TYPE_CHECKING

from pykernel.errors import err
from pykernel.fs.anon import eventfd_ctx_fdget

if TYPE_CHECKING:
    from pykernel.fs.anon import EventFd
    from pykernel.kernel import Kernel

__all__ = ["Virqfd", "VirqfdSlot", "vfio_virqfd_disable", "vfio_virqfd_enable", "vfio_virqfd_flush_thread"]


class VirqfdSlot:
    """The place where a driver keeps its Virqfd (``struct virqfd *``): emptied when the eventfd goes."""

    __slots__ = ("virqfd",)

    def __init__(self) -> None:
        self.virqfd: Virqfd | None = None


class Virqfd:
    """``struct virqfd``. *handler* is called at once and says whether *thread* shall be called as work."""

    def __init__(
        self,
        kernel: Kernel,
        slot: VirqfdSlot,
        eventfd: EventFd,
        handler: Callable[[], bool] | None,
        thread: Callable[[], None] | None,
    ) -> None:
        self.kernel = kernel
        self.slot = slot
        self.eventfd = eventfd
        self.handler = handler
        self.thread = thread
        self.pending = False
        self.idle = kernel.waitqueue()

    def act(self) -> None:
        """The eventfd was signalled."""
        if (self.handler is None or self.handler()) and self.thread is not None and not self.pending:
            self.pending = True
            self.kernel.sched.schedule_work(self._inject, "virqfd_inject")

    def _inject(self) -> None:
        # drivers/vfio/virqfd.c:virqfd_inject()
        self.pending = False
        try:
            if self.thread is not None:
                self.thread()
        finally:
            self.idle.wake_up()

    def wakeup(self) -> None:
        """C: ``int virqfd_wakeup(wait_queue_entry_t *, unsigned, int, void *)``."""
        if self.eventfd.released:
            if self.slot.virqfd is self:
                self.slot.virqfd = None
                self.kernel.sched.schedule_work(self.shutdown, "vfio-irqfd-cleanup")
        elif self.eventfd.arrived:  # an earlier one may have taken the counter
            self.eventfd.do_read()
            self.act()

    def shutdown(self) -> None:
        """C: ``void virqfd_shutdown(struct work_struct *)``."""
        self.eventfd.remove_wait_queue(self.wakeup)
        self.flush()

    def flush(self) -> None:
        """Wait for the work that was queued. C: ``flush_work(&virqfd->inject)``."""
        self.idle.wait_event(lambda: not self.pending)


def vfio_virqfd_enable(
    kernel: Kernel,
    slot: VirqfdSlot,
    fd: int,
    handler: Callable[[], bool] | None,
    thread: Callable[[], None] | None,
) -> None:
    """
    From now on the eventfd *fd* acts; one that is signalled already acts at once, and stays signalled.

    C: ``int vfio_virqfd_enable(void *, int (*handler)(), void (*thread)(), void *, struct virqfd **, int fd)``.

    Raises:
        EBADF. EINVAL: no eventfd. EBUSY: *slot* is taken.
    """
    eventfd = eventfd_ctx_fdget(kernel, fd)
    if slot.virqfd is not None:
        raise err(EBUSY)
    virqfd = slot.virqfd = Virqfd(kernel, slot, eventfd, handler, thread)
    eventfd.queue.hooks.insert(0, virqfd.wakeup)
    if eventfd.count:
        virqfd.act()


def vfio_virqfd_disable(slot: VirqfdSlot) -> None:
    """C: ``void vfio_virqfd_disable(struct virqfd **)``: nothing of it runs any more."""
    virqfd, slot.virqfd = slot.virqfd, None
    if virqfd is not None:
        virqfd.shutdown()


def vfio_virqfd_flush_thread(slot: VirqfdSlot) -> None:
    """C: ``void vfio_virqfd_flush_thread(struct virqfd **)``."""
    if slot.virqfd is not None:
        slot.virqfd.flush()
