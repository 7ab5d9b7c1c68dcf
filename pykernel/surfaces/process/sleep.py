"""
Calls that may sleep: reads, writes and ioctls of devices run as kernel tasks, so that one client can wait for another.

While such a call sleeps the server goes on; its answer is sent when it ends. A signal for the caller (FUSE_INTERRUPT,
which the host also sends for a deadly one) ends the sleep with EINTR where it sleeps. Calls of attributes run in
place: a wait in one of them runs the scheduler until it is over.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EINTR, EIO
from typing import TYPE_CHECKING

from pykernel.errors import Oops, err, is_errno

if TYPE_CHECKING:
    from pykernel.kernel import Kernel
    from pykernel.sched import Thread
    from pykernel.surfaces.process.fuse import FuseServer

__all__ = ["Sleepers"]


class Sleepers:
    """The calls of one server that may sleep, by the request's number."""

    def __init__(self, server: FuseServer) -> None:
        self.server = server
        self.kernel: Kernel = server.kernel
        self.threads: dict[int, Thread] = {}

    def call(self, unique: int, fn: Callable[[], bytes]) -> bytes | None:
        """Run *fn* as a task: its reply when it did not sleep, else None, and the answer comes later."""
        sched = self.kernel.sched
        thread = sched.spawn(lambda: self._body(unique, fn), f"request/{unique}")
        thread.context = sched.get_context()
        sched.run_ready()
        if thread.done:
            return _result(thread)
        self.threads[unique] = thread
        return None

    def interrupt(self, unique: int) -> None:
        """End the sleep of request *unique*; one that was answered meanwhile is no error."""
        from greenlet import getcurrent

        thread = self.threads.get(unique)
        if thread is None or thread.done:
            return
        sched = self.kernel.sched
        before, sched.thread = sched.thread, thread
        context = sched.get_context()
        sched.set_context(thread.context)
        thread.greenlet.parent = getcurrent()
        try:
            thread.greenlet.throw(err(EINTR))
        finally:
            sched.thread = before
            sched.set_context(context)

    def _body(self, unique: int, fn: Callable[[], bytes]) -> bytes:
        try:
            return fn()
        except SystemExit as e:  # for the scheduler it would be the end of everything
            raise Oops(f"SystemExit: {e}") from e
        finally:
            self.kernel.sched.call_soon(lambda: self._finish(unique))

    def _finish(self, unique: int) -> None:
        """Answer a call that slept; one that did not was answered by its row."""
        thread = self.threads.pop(unique, None)
        if thread is None:
            return
        try:
            reply = _result(thread)
        except OSError as e:
            self.server.fail(unique, e)
        else:
            self.server.reply(unique, reply)


def _result(thread: Thread) -> bytes:
    """What an ended call gave. Raises its errno; EIO for a bug, which the scheduler reported."""
    if thread.error is not None:
        raise thread.error if is_errno(thread.error) else err(EIO)
    result: bytes = thread.result
    return result
