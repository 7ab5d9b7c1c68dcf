"""
Class ``Kernel``: it owns everything. No module of this project keeps state of its own, so two kernels run side by side.

A subsystem is a class whose only constructor argument is the kernel; ``kernel.sub(IoasidSpace)`` returns this kernel's
instance and makes it at first use. Boot is lazy: devices come up when somebody looks (:meth:`Kernel.up`).
"""

from __future__ import annotations

import gc
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from errno import EDEADLK
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

from pykernel.errors import Oops, err
from pykernel.lib.fault_inject import FaultInjector
from pykernel.log import CRIT, Dmesg
from pykernel.sched import Completion, Scheduler, WaitQueue
from pykernel.task import Cred, Task
from pykernel.trace import Trace

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from types import FrameType, ModuleType

    from pykernel.base.module import Modules
    from pykernel.fs.vfs import Inode
    from pykernel.profile import Profile
    from pykernel.surfaces.inprocess import Patched
    from pykernel.syscalls import Process

__all__ = ["Cpu", "Kernel", "Leak"]

T = TypeVar("T")
RINGS_S = (0.001, 0.01, 0.05, *(0.1,) * 20)  # how long a thread waits for the owner after each ring
PATIENCE_S = sum(RINGS_S)


@contextmanager
def _collector_paused() -> Generator[None, None, None]:
    """Bringing a large machine up makes nothing but what stays: looking through it again and again costs a third."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


class Leak(AssertionError):
    """Something was still there at :meth:`Kernel.shutdown`; the message names each object and where it was taken."""


class Cpu:
    """The machine's processor as far as drivers ask: feature flags by their /proc/cpuinfo names."""

    def __init__(self, flags: dict[str, bool]) -> None:
        self.flags = flags

    def has(self, flag: str) -> bool:
        """C: ``boot_cpu_has(X86_FEATURE_...)``."""
        return self.flags.get(flag, False)


class Kernel:
    """One emulated machine with its kernel. Made by :func:`pykernel.boot`; belongs to the thread that booted it."""

    def __init__(self, profile: Profile, cpu: dict[str, bool], *, seed: int = 0, clock: str = "virtual") -> None:
        self.profile = profile
        self.cpu = Cpu(cpu)
        self.sched = Scheduler(clock, seed)
        self.log = Dmesg(self.sched.clock_ns)
        self.idle_task = Task(self, 0)
        self.current = self.idle_task
        self.trace = Trace(self.sched.clock_ns, lambda: f"{self.current.comm}-{self.current.pid}")
        self.faults = FaultInjector()
        self.oopses: list[BaseException] = []
        self.owner = threading.get_ident()
        self.initcalls: list[Callable[[], None]] = []
        self.is_up = False
        self.dead = False
        self.machine: Any = None
        self.foreign: deque[Callable[[], None]] = deque()
        self.depth = 0  # calls into the kernel that the owner is in
        self.doorbells: list[Callable[[], None]] = []
        self.arrival = threading.Event()
        self.track_origins = False
        self._origins: WeakKeyDictionary[Any, str] = WeakKeyDictionary()
        self.pasid_of: Callable[[Any], int] = lambda _mm: 0
        self._subs: dict[type, Any] = {}
        self._root: Inode | None = None
        # what root found where in sysfs; whatever comes or goes empties it (FsNotify)
        self.dcache: dict[str, Inode] = {}
        self._exits: list[Callable[[], None]] = []
        self._leaks: list[Callable[[], list[str]]] = []
        self.sched.on_oops = self.oops
        self.sched.idle_context = self.idle_task
        self.sched.get_context = lambda: self.current
        self.sched.set_context = self._set_current
        self.sched.on_stuck = self.wait_for_threads

    # ---- subsystems and life

    def sub(self, cls: type[T]) -> T:
        """This kernel's instance of subsystem *cls*, made at first use as ``cls(kernel)``."""
        try:
            return self._subs[cls]  # type: ignore[no-any-return]
        except KeyError:
            made = self._subs[cls] = cls(self)  # type: ignore[call-arg]
            return made

    def up(self) -> None:
        """
        Bring the devices up (initcalls, in order).

        Called by the first look at /sys or /dev; calling again is free.
        """
        if self.is_up:
            return
        self.check_alive()
        self.is_up = True
        with self.as_task(self.idle_task), _collector_paused():
            for call in self.initcalls:
                call()
            self.sched.run_ready()

    def at_exit(self, fn: Callable[[], None]) -> None:
        """Call *fn* at shutdown, last registered first."""
        self._exits.append(fn)

    def check_leaks(self, fn: Callable[[], list[str]]) -> None:
        """Ask *fn* at shutdown for what is still taken: one sentence an object."""
        self._leaks.append(fn)

    def took(self, thing: Any) -> None:
        """Remember which line of the client's code took *thing*; called while ``track_origins`` is on."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and frame.f_globals.get("__name__", "").startswith("pykernel."):
            frame = frame.f_back
        if frame is not None:
            code = frame.f_code
            self._origins[thing] = f", taken at {code.co_filename}:{frame.f_lineno} in {code.co_qualname}()"

    def origin(self, thing: Any) -> str:
        """Where *thing* was taken, for a leak report; empty when nobody noted it."""
        return self._origins.get(thing, "")

    def check_alive(self) -> None:
        """Raises RuntimeError after :meth:`shutdown`."""
        if self.dead:
            raise RuntimeError("this kernel was shut down: boot another one")

    def shutdown(self) -> None:
        """
        Stop the machine; a second time does nothing.

        What is still taken is told with its path; set ``track_origins`` before, and with the line that took it.
        Another thread's call is served as its system calls are. Afterwards the calls of processes raise ESRCH, and
        what belongs to the kernel itself (``process()``, ``patched()``, ``modules``, ``up()``) RuntimeError.

        Raises:
            Leak: something that a client or a driver took was not given back.
            RuntimeError: a system call is under way, which would wake up without a machine.
        """
        if self.dead:
            return
        if self.owner != threading.get_ident():
            self.call_from_thread(self.shutdown)
            return
        if self.depth:
            raise RuntimeError("a system call is under way: shut down when it has returned")
        self.sched.run_ready()
        leaks = [line for fn in self._leaks for line in fn()]
        for fn in reversed(self._exits):
            try:
                fn()
            except Exception as e:
                self.oops(e)
        self.dead = True
        if leaks:
            raise Leak("still there at shutdown:\n  " + "\n  ".join(leaks))

    # ---- who is running

    @contextmanager
    def as_task(self, task: Task) -> Generator[Task, None, None]:
        """Run kernel code in the name of *task*."""
        before, self.current = self.current, task
        try:
            yield task
        finally:
            self.current = before

    def mm_pasid(self, mm: Any) -> int:
        """The PASID that IA32_PASID holds while *mm* runs; 0 for none. The IOMMU layer answers."""
        return self.pasid_of(mm)

    def call_from_thread(self, fn: Callable[[], T]) -> T:
        """
        Another thread calls: served when the owner next enters the kernel, sleeps in it, or hears a doorbell.

        Raises:
            EDEADLK: the owner did not enter within two seconds.
            RuntimeError: the kernel was shut down.
        """
        self.check_alive()
        done = threading.Event()
        box: list[tuple[T | None, BaseException | None]] = []

        def serve() -> None:
            try:
                box.append((fn(), None))
            except BaseException as e:
                box.append((None, e))
            done.set()

        self.foreign.append(serve)
        self.arrival.set()
        if not self._ring_until(done):
            try:
                self.foreign.remove(serve)
            except ValueError:
                done.wait()  # it is being served: a call that sleeps
            else:
                raise err(EDEADLK, "the thread that booted this kernel does not enter it: no one can serve this call")
        result, error = box[0]
        if error is not None:
            raise error
        return result  # type: ignore[return-value]

    def _ring_until(self, done: threading.Event) -> bool:
        # a bell that rings just before the owner falls asleep is not heard: ring again
        for pause in RINGS_S:
            for ring in tuple(self.doorbells):
                ring()
            if done.wait(pause):
                return True
        return False

    def serve_threads(self) -> None:
        """Serve calls of other threads that wait; a signal handler may do so in between."""
        while self.foreign:
            try:
                serve = self.foreign.popleft()
            except IndexError:
                return
            serve()

    def wait_for_threads(self) -> bool:
        """The owner has nothing to run: wait for a call of another thread and serve it. False: none comes."""
        if threading.active_count() < 2:
            return False
        self.arrival.clear()
        if not self.foreign and not self.arrival.wait(PATIENCE_S):
            return False
        self.serve_threads()
        return True

    def _set_current(self, task: Task) -> None:
        self.current = task

    # ---- waiting

    def waitqueue(self) -> WaitQueue:
        """C: ``init_waitqueue_head()``."""
        return WaitQueue(self.sched)

    def completion(self) -> Completion:
        """C: ``init_completion()``."""
        return Completion(self.sched)

    # ---- trouble

    def oops(self, e: BaseException) -> None:
        """A bug in kernel code: its stack goes to dmesg, and the surfaces report failure."""
        self.oopses.append(e)
        head = f"BUG: {type(e).__name__}: {e}"
        self.log.printk(CRIT, head)
        for line in "".join(traceback.format_exception(e)).splitlines():
            self.log.printk(CRIT, line)
        if self.trace:
            self.trace("oops", error=head)

    def bug(self, why: str) -> None:
        """C: ``BUG()``. Raises :class:`~pykernel.errors.Oops`."""
        raise Oops(why)

    @property
    def modules(self) -> Modules:
        """The modules: ``kernel.modules.modprobe("idxd")``."""
        self.check_alive()
        from pykernel.base.module import Modules

        return self.sub(Modules)

    # ---- surfaces (imported when asked for: a kernel without clients needs none)

    @property
    def root(self) -> Inode:
        """The inode of "/"."""
        if self._root is None:
            from pykernel.fs.rootfs import RootFs

            self._root = self.sub(RootFs).root
        return self._root

    def process(self, *, uid: int = 0, gid: int = 0, comm: str = "test", cred: Cred | None = None) -> Process:
        """A new client process on the direct surface: system calls as methods."""
        self.check_alive()
        from pykernel.syscalls import Process

        return Process.create(self, cred or Cred(uid, gid), comm)

    def patched(
        self,
        *,
        real_files: bool = True,
        uid: int | None = None,
        gid: int | None = None,
        modules: Iterable[ModuleType] = (),
    ) -> AbstractContextManager[Patched]:
        """
        Unmodified Python code inside this context sees the emulated /sys and /dev; other paths are real, or
        pyfakefs'.
        """
        self.check_alive()
        from pykernel.surfaces.inprocess import Patched

        return Patched(self, real_files=real_files, uid=uid, gid=gid, modules=modules)
