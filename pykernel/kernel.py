"""
Class ``Kernel``: it owns everything. No module of this project keeps state of its own, so two kernels run side by side.

A subsystem is a class whose only constructor argument is the kernel; ``kernel.sub(IoasidSpace)`` returns this kernel's
instance and makes it at first use. Boot is lazy: devices come up when somebody looks (:meth:`Kernel.up`).
"""

from __future__ import annotations

import math
import sys
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from errno import EDEADLK
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary, WeakSet

from pykernel.errors import Oops, err
from pykernel.lib.collector import collector_paused
from pykernel.lib.fault_inject import FaultInjector
from pykernel.lib.ledger import Holder, Ledger, place, place_of
from pykernel.log import CRIT, Dmesg
from pykernel.sched import Clock, Completion, Scheduler, Thread, Timer, WaitQueue
from pykernel.task import Cred, Task
from pykernel.trace import Trace

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from types import FrameType, ModuleType

    from pykernel.base.module import Modules
    from pykernel.fs.vfs import Inode
    from pykernel.pci.mmio import Mmio
    from pykernel.profile import Profile
    from pykernel.surfaces.inprocess import Patched
    from pykernel.syscalls import Process

__all__ = ["Cpu", "Kernel", "Leak"]

T = TypeVar("T")
WAITS = ("pykernel.sched", "pykernel.lib.wait")  # whose timers are time-outs of a wait, nobody's to cancel
RINGS_S = (0.001, 0.01, 0.05, *(0.1,) * 20)  # how long a thread waits for the owner after each ring
PATIENCE_S = sum(RINGS_S)


def _is_kernel_code(namespace: dict[str, Any]) -> bool:
    return namespace.get("__name__", "").startswith("pykernel.") or "__pykernel__" in namespace


class Leak(AssertionError):
    """
    Something was still there at :meth:`Kernel.shutdown`; the message names each object and where it was taken.

    Attributes:
        lines: one sentence an object.
    """

    def __init__(self, lines: list[str]) -> None:
        super().__init__("still there at shutdown:\n  " + "\n  ".join(lines))
        self.lines = lines


Note = tuple[Holder | None, str]  # whose, and where it was made


class _Scheduler(Scheduler):
    """A kernel's scheduler: it knows that work of the kernel runs, and on request who made each timer and task."""

    def __init__(self, clock: str | Clock, seed: int) -> None:
        super().__init__(clock, seed)
        self.note: Callable[[], Note] | None = None
        self._running = 0
        self._made: list[tuple[Timer | Thread, Note]] = []

    def call_later(self, ns: int, fn: Callable[[], None]) -> Timer:
        timer = super().call_later(ns, fn)
        if self.note is not None and getattr(fn, "__module__", "") not in WAITS:
            self._add(timer, self.note())
        return timer

    def spawn(self, fn: Callable[[], Any], name: str = "kthread", **kw: Any) -> Thread:
        thread = super().spawn(fn, name, **kw)
        if self.note is not None:
            self._add(thread, self.note())
        return thread

    def _add(self, made: Timer | Thread, note: Note) -> None:
        self._made.append((made, note))
        if not len(self._made) % 256:
            self._made = self.pending()

    def pending(self) -> list[tuple[Timer | Thread, Note]]:
        """The timers and tasks that have not ended."""
        return [(m, note) for m, note in self._made if (not m.done if isinstance(m, Thread) else m.fn is not None)]

    @property
    def busy(self) -> bool:
        """Whether ready work is under way, and not a client that is a task."""
        return self._running > 0 and not getattr(self.thread, "client", False)

    def _run_one(self) -> bool:
        self._running += 1
        try:
            return super()._run_one()
        finally:
            self._running -= 1


class _Queue(WaitQueue):
    """A wait queue that can be found."""

    __slots__ = ("__weakref__",)


def _describe(made: Timer | Thread, now_ns: int) -> str:
    if isinstance(made, Thread):
        return f"task {made.name}, which has not ended"
    return f"timer for {place_of(made.fn)}, {made.when_ns - now_ns} ns to go"


def _is_clients(fn: Any) -> bool:
    """Whether a function is neither the kernel's own nor a bound method of its objects."""
    fn = getattr(fn, "func", fn)
    owner = type(getattr(fn, "__self__", fn))
    return not (getattr(fn, "__module__", None) or owner.__module__ or "").startswith("pykernel.")


class Cpu:
    """
    The machine's processor as far as drivers ask: feature flags by their /proc/cpuinfo names.

    Attributes:
        cleared: what the kernel must not use, though it is there. C: ``cpu_caps_cleared``.
    """

    def __init__(self, flags: dict[str, bool]) -> None:
        self.flags = flags
        self.cleared: set[str] = set()

    def has(self, flag: str) -> bool:
        """C: ``boot_cpu_has(X86_FEATURE_...)``."""
        return self.silicon(flag) and flag not in self.cleared

    def silicon(self, flag: str) -> bool:
        """Whether the processor has it, as CPUID tells."""
        return self.flags.get(flag, False)


class Kernel:
    """One emulated machine with its kernel. Made by :func:`pykernel.boot`; belongs to the thread that booted it."""

    def __init__(
        self, profile: Profile, cpu: dict[str, bool], *, seed: int = 0, clock: str | Clock = "virtual"
    ) -> None:
        self.profile = profile
        self.cpu = Cpu(cpu)
        self.sched = _Scheduler(clock, seed)
        self.log = Dmesg(self.sched.clock_ns)
        self.idle_task = Task(self, 0)
        self.current = self.idle_task
        self.trace = Trace(self.sched.clock_ns, lambda: f"{self.current.comm}-{self.current.pid}")
        self.faults = FaultInjector()
        self.oopses: list[BaseException] = []
        self.owner = threading.get_ident()
        self.initcalls: list[Callable[[], None]] = []
        self.is_up = self._coming_up = False
        self.dead = False
        self.barred = ""  # why no program may call it now, of a host and its guests
        self.machine: Any = None
        self.foreign: deque[Callable[[], None]] = deque()
        self.depth = 0  # calls into the kernel that the owner is in
        self.doorbells: list[Callable[[], None]] = []
        self.arrival = threading.Event()
        self._origins: WeakKeyDictionary[Any, str] | None = None
        self._queues: WeakSet[_Queue] = WeakSet()
        self._at_work: FrameType | None = None  # where another thread is whose call is served
        self._last_calls: WeakKeyDictionary[threading.Thread, float] = WeakKeyDictionary()
        self._bystanders = WeakSet(threading.enumerate())
        self.ledger = Ledger(self.where, lambda: self.current is not self.idle_task or self.sched.busy)
        self.pasid_of: Callable[[Any], int] = lambda _mm: 0
        self.mmio_at: Callable[[int], Any] = lambda _pa: None  # the PCI layer's: a BAR as a window of physical memory
        self.dmar: Mmio | None = None  # the registers of the IOMMU, where firmware's DMAR table names one
        self._subs: dict[type, Any] = {}
        self._root: Inode | None = None
        # what root found where in sysfs; whatever comes or goes empties it (FsNotify)
        self.dcache: dict[str, Inode] = {}
        self._exits: list[Callable[[], None]] = []
        self._leaks: list[Callable[[], list[str]]] = []
        self.sched.on_oops = self.oops
        self.sched.idle_context = (self.idle_task, None)
        self.sched.get_context = lambda: (self.current, self.ledger.holder)
        self.sched.set_context = self._set_current
        self.sched.on_stuck = self.wait_for_threads
        self.sched.on_busy = lambda: self.serve_threads() if self.foreign else None

    # ---- subsystems and life

    def sub(self, cls: type[T]) -> T:
        """This kernel's instance of subsystem *cls*, made at first use as ``cls(kernel)``."""
        try:
            return self._subs[cls]  # type: ignore[no-any-return]
        except KeyError:
            with self.ledger.held(self.ledger.kernel):
                made = self._subs[cls] = cls(self)  # type: ignore[call-arg]
            return made

    def put(self, cls: type[T], made: T) -> None:
        """Let *made* be this kernel's instance of *cls*. Raises ValueError: it has one."""
        if cls in self._subs:
            raise ValueError(f"this kernel has its {cls.__name__}")
        self._subs[cls] = made

    def up(self) -> None:
        """
        Bring the devices up (initcalls, in order).

        Called by the first look at /sys or /dev; calling again is free.
        """
        if self.is_up:
            return
        self.check_alive()
        self.is_up = self._coming_up = True
        with self.as_task(self.idle_task), self.ledger.held(self.ledger.kernel), collector_paused():
            for call in self.initcalls:
                call()
            self.sched.run_ready()
        self._coming_up = False

    def at_exit(self, fn: Callable[[], None]) -> None:
        """Call *fn* at shutdown, last registered first."""
        self._exits.append(fn)

    def check_leaks(self, fn: Callable[[], list[str]]) -> None:
        """Ask *fn* at shutdown for what is still taken: one sentence an object."""
        self._leaks.append(fn)

    @property
    def track_origins(self) -> bool:
        """Whether a leak is told with the line of the client's code that took it; set it before."""
        return self._origins is not None

    @track_origins.setter
    def track_origins(self, value: bool) -> None:
        self._origins = WeakKeyDictionary() if value else None
        self.sched.note = self._note if value else None

    def where(self) -> str:
        """Which line of the client's code is running, for a leak report; empty while ``track_origins`` is off."""
        if self._origins is None or self._coming_up or self.ledger.holder is self.ledger.kernel:
            return ""
        text = place(self._at_work or sys._getframe(1), _is_kernel_code)
        return f", taken at {text}" if text else ""

    def took(self, thing: Any) -> None:
        """Remember which line of the client's code took *thing*; called while ``track_origins`` is on."""
        if self._origins is not None:
            self._origins[thing] = self.where()

    def origin(self, thing: Any) -> str:
        """Where *thing* was taken, for a leak report; empty when nobody noted it."""
        return "" if self._origins is None else self._origins.get(thing, "")

    def _note(self) -> tuple[Holder | None, str]:
        holder = self.ledger.whose()
        return holder, "" if holder is self.ledger.kernel else self.where()

    def _left_to_do(self) -> list[str]:
        """Timers that will fire and tasks that have not ended, of nobody or of what is gone; calls at a wake-up."""
        lines = [
            f"{_describe(made, self.sched.clock_ns())}{origin}"
            for made, (holder, origin) in self.sched.pending()
            if holder is None or holder.gone
        ]
        for queue in self._queues:
            lines += [f"a wait queue calls {place_of(h)} when it wakes up" for h in queue.hooks if _is_clients(h)]
        return lines

    def leaks(self) -> list[str]:
        """What a client or a driver took and has not given back: a sentence each, with its path and its birthplace."""
        return [*(line for fn in self._leaks for line in fn()), *self.ledger.leaks(), *self._left_to_do()]

    def check_alive(self) -> None:
        """Raises RuntimeError after :meth:`shutdown`."""
        if self.dead:
            raise RuntimeError("this kernel was shut down: boot another one")

    def check_open(self) -> None:
        """Raises RuntimeError: programs of this kernel are not those that run now."""
        if self.barred:
            raise RuntimeError(self.barred)

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
        forgotten = self._end_clients()
        if self.depth:
            raise RuntimeError("a system call is under way: shut down when it has returned")
        self.sched.run_ready()
        leaks = forgotten + self.leaks()
        for fn in reversed(self._exits):
            try:
                fn()
            except Exception as e:
                self.oops(e)
        self.dead = True
        self.serve_threads()  # who still waits is told that there is no machine any more
        if leaks:
            raise Leak(leaks)

    def _end_clients(self) -> list[str]:
        """End the clients that nobody waited for, as far as they do not end by themselves: a sentence each."""
        sched = self.sched
        if sched.thread is not None or not sched.clients():
            return []
        sched.run_ready()
        forgotten = sched.clients()
        lines = [f"client {client}: join() it" for client in forgotten]
        for client in forgotten:
            sched.kill(client)
        return lines

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

        frame = sys._getframe(1)

        def serve() -> None:
            before, self._at_work = self._at_work, frame
            try:
                box.append((fn(), None))
            except BaseException as e:
                box.append((None, e))
            finally:
                self._at_work = before
            done.set()

        caller = threading.current_thread()
        self._last_calls[caller] = math.inf
        try:
            self.foreign.append(serve)
            self.arrival.set()
            if not self._ring_until(done):
                try:
                    self.foreign.remove(serve)
                except ValueError:
                    done.wait()  # it is being served: a call that sleeps
                else:
                    self.check_alive()
                    raise err(EDEADLK, "the thread that booted this kernel does not enter it: no one can serve this")
        finally:
            self._last_calls[caller] = time.monotonic()
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
            if self.dead:
                break
        return False

    def serve_threads(self) -> None:
        """Serve calls of other threads that wait; a signal handler may do so in between."""
        while self.foreign:
            try:
                serve = self.foreign.popleft()
            except IndexError:
                return
            serve()

    def has_other_threads(self) -> bool:
        """
        Whether a thread but the caller's may call this kernel: one that has, or one that is younger than the kernel.

        What was there before it is somebody else's: a pool that idles, a watchdog.
        """
        others = {*threading.enumerate()} - {threading.current_thread()}
        return any(t in self._last_calls or t not in self._bystanders for t in others)

    def last_calls(self) -> dict[threading.Thread, float]:
        """Other threads that called and live: when, by time.monotonic(); infinity: a call is under way."""
        alive = [t for t in threading.enumerate() if t is not threading.current_thread()]
        return {t: self._last_calls[t] for t in alive if t in self._last_calls}

    def is_bystander(self, thread: threading.Thread) -> bool:
        """Whether *thread* is older than this kernel."""
        return thread in self._bystanders

    def wait_for_threads(self) -> bool:
        """The owner has nothing to run: wait for a call of another thread and serve it. False: none comes."""
        if not self.has_other_threads():
            return False
        self.arrival.clear()
        if not self.foreign and not self.arrival.wait(PATIENCE_S):
            return False
        self.serve_threads()
        return True

    def _set_current(self, context: tuple[Task, Holder | None]) -> None:
        self.current, self.ledger.holder = context

    # ---- waiting

    def waitqueue(self) -> WaitQueue:
        """C: ``init_waitqueue_head()``."""
        if self._origins is None:
            return WaitQueue(self.sched)
        queue = _Queue(self.sched)
        self._queues.add(queue)
        return queue

    def completion(self) -> Completion:
        """C: ``init_completion()``."""
        return Completion(self.sched)

    # ---- clients at once

    def spawn(self, fn: Callable[[], Any], name: str = "") -> Thread:
        """
        Run *fn* as a client of its own beside the test: a task, switched where it waits and where system calls end.

        It begins when the test next waits or ends a system call; ``join()`` gives its result. On the patched surface
        it is a thread of the same program; for another process, *fn* makes its own: ``kernel.process()``.
        """
        self.check_alive()
        thread = self.sched.spawn(fn, name or getattr(fn, "__name__", type(fn).__name__), client=True)
        thread.context = self.sched.get_context()
        return thread

    def gather(self, *fns: Callable[[], Any]) -> list[Any]:
        """
        Run clients at once (:meth:`spawn`) and wait for all: their results, in order.

        Raises:
            Oops: a hung task; it names who waits for what, and who holds it. The clients are ended.
            What a client raised; an ExceptionGroup when several did.
        """
        self.check_open()
        threads = [self.spawn(fn) for fn in fns]
        counts = Counter(t.name for t in threads)
        for n, thread in enumerate(threads):
            if counts[thread.name] > 1:
                thread.name += f"[{n}]"
        return self.sched.gather(threads)

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
