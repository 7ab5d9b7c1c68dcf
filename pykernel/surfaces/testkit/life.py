"""The life of a test's kernel: its start, and the verdict at its end. For pytest, unittest and whatever runs tests."""

from __future__ import annotations

import gc
import math
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures.thread import _worker
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pykernel.surfaces.testkit.marks import BOOT, PATCHED
from pykernel.surfaces.unfaked import unfaked

if TYPE_CHECKING:
    from pykernel.kernel import Kernel
    from pykernel.surfaces.inprocess import Patched
    from pykernel.trace import Event

__all__ = ["BadOption", "Ring", "report", "start", "stragglers", "try_to_start", "verdict"]

PATIENCE_S = 1.0  # for a thread that calls and is about to end, or to give back what it holds
QUIET_S = 0.05  # a thread that did not call for so long idles
POOL_WORKER: Any = _worker  # where a thread of an executor waits for work
EVENTS = 200  # of the trace that a failing test shows
LINES = 300  # of the log
PLAIN = (int, str, bytes, type(None), float, bool)


class BadOption(ValueError):
    """A value that no kernel can be booted with: one sentence."""


class Ring:
    """The last events of a kernel, from when its devices are up; what a failing test shows."""

    def __init__(self, kernel: Kernel) -> None:
        self.events: deque[Event] = deque(maxlen=EVENTS)
        self.seen = 0
        kernel.initcalls.append(lambda: kernel.trace.listeners.append(self._hear))

    def _hear(self, event: Event) -> None:
        self.seen += 1
        args = event.fields.get("args")
        if args is not None and not all(isinstance(a, PLAIN) for a in args):
            # a buffer of the client's must not be kept alive, or it could not be resized
            fields = {**event.fields, "args": tuple(a if isinstance(a, PLAIN) else type(a).__name__ for a in args)}
            event = type(event)(event.time_ns, event.name, fields, event.task)
        self.events.append(event)

    def human(self) -> str:
        """One line an event, as ``pykernel trace`` prints them."""
        return _last([str(e) for e in self.events], self.seen)


def start(*, place_of: Callable[[str], str] = str, **options: Any) -> tuple[Kernel, Patched, Ring]:
    """
    Boot a kernel for a test: the kernel, the context in which the test sees its files, its last events.

    *options* are those of ``pykernel.boot()`` and ``kernel.patched()``; *place_of* says where an option
    was given.

    Raises:
        BadOption: no such machine, profile or option, or a value of the wrong kind.
    """
    with unfaked():
        from pykernel.start import boot

        _check_kinds(options, place_of)
        try:
            kernel = boot(**{k: v for k, v in options.items() if k in BOOT})
            patched = kernel.patched(**{k: v for k, v in options.items() if k in PATCHED})
        except (ValueError, TypeError) as e:
            raise BadOption(_guilty(options, place_of, e)) from e
    kernel.track_origins = True
    return kernel, patched, Ring(kernel)  # type: ignore[return-value]


def try_to_start(**options: Any) -> tuple[Kernel, Patched, Ring] | str:
    """As :func:`start`, but what is wrong with the options is the result: no exception that others would chain to."""
    try:
        return start(**options)
    except BadOption as e:
        return str(e)


def _check_kinds(options: dict[str, Any], place_of: Callable[[str], str]) -> None:
    """Raises BadOption: a value that has no sense for its option."""
    from pykernel.machine import Machine

    for name, value in options.items():
        if name == "machine":
            wanted = "a name, the path of a file or a Machine"
            fits = isinstance(value, str | os.PathLike | Machine)
        elif name in ("profile", "clock"):
            wanted, fits = "a name", isinstance(value, str)
        elif name == "seed":
            wanted, fits = "a number", _is_number(value)
        elif name == "config":
            wanted, fits = "names of options", isinstance(value, Iterable)
        elif name in ("uid", "gid"):
            wanted, fits = "a number or None", value is None or (_is_number(value) and value >= 0)
        elif name == "modules":
            wanted = "modules that were imported"
            fits = isinstance(value, Iterable) and all(isinstance(m, ModuleType) for m in value)
        else:
            continue
        if not fits:
            raise BadOption(f"{place_of(name)}: {name} takes {wanted}, not {value!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _guilty(options: dict[str, Any], place_of: Callable[[str], str], e: Exception) -> str:
    """What boot() complained of, with the place where that option was given."""
    from pykernel import machine, profile
    from pykernel.sched import Scheduler

    checks: dict[str, Callable[[Any], object]] = {
        "machine": lambda v: v if isinstance(v, machine.Machine) else machine.load(v),
        "profile": profile.get,
        "config": lambda v: profile.configure(profile.get("linux-6.1"), v),
        "clock": Scheduler,
    }
    for name, check in checks.items():
        try:
            if name in options:
                check(options[name])
        except (ValueError, TypeError) as found:
            return f"{place_of(name)}: {found}"
    return str(e)


def stragglers(kernel: Kernel, *, failed: bool = False) -> list[str]:
    """
    Threads that go on calling the kernel: a sentence each.

    Called while the test's view of the kernel is still there: one that is about to end can make its last calls. One
    that idles is no straggler, as a pool's workers do; nor is one that is older than the kernel.

    Args:
        failed: the test failed already: what is held is not waited for.
    """
    begin = time.monotonic()
    while not kernel.dead:
        kernel.serve_threads()
        calls = kernel.last_calls()
        calling = [t for t in calls if not kernel.is_bystander(t) and _is_calling(t, max(begin, calls[t]))]
        if not calling and not (calls and not failed and _held(kernel)):
            break
        if time.monotonic() > begin + PATIENCE_S:
            return [
                f"thread {t.name!r} uses the kernel and outlived the test: join() it, or shut its executor down"
                for t in calling
            ]
        next(iter(calling or calls)).join(0.002)
    return []


def _is_calling(thread: threading.Thread, last_call: float) -> bool:
    """Whether a thread is in a call or was a moment ago; a pool's worker that has nothing to do is not."""
    if not math.isinf(last_call):
        frame = sys._current_frames().get(thread.ident or 0)
        if frame is None or frame.f_code is POOL_WORKER.__code__:
            return False
    return time.monotonic() - last_call < QUIET_S


def _held(kernel: Kernel) -> list[str]:
    """What was not given back, and is not about to be."""
    if kernel.depth:
        return []
    kernel.sched.run_ready()
    if kernel.leaks():
        gc.collect()  # what only a cycle of references holds is about to be given back
    return kernel.leaks()


def verdict(kernel: Kernel, *, failed: bool, hint: Callable[[], str] = str) -> list[str]:
    """
    Shut *kernel* down and say what is wrong with the test: a leak, an oops.

    Args:
        failed: the test failed already. Its traceback keeps local variables alive, and what was to be given back was
            perhaps not reached: leaks are no complaint then.
        hint: what else to say with a leak.
    """
    from pykernel.kernel import Leak

    complaints: list[str] = []
    if not kernel.dead:
        _held(kernel)
    try:
        kernel.shutdown()
    except Leak as e:
        if not failed:
            complaints.append(f"{e}{hint()}")
    if kernel.oopses:
        complaints.append("the kernel had an oops: " + "; ".join(f"{type(e).__name__}: {e}" for e in kernel.oopses))
    return complaints


def report(kernel: Kernel, ring: Ring, options: dict[str, Any]) -> list[tuple[str, str]]:
    """The sections of a failing test's report: which kernel, its log, its last events."""
    which = ", ".join(f"{name} {options[name]!r}" for name in BOOT if name in options)
    log = _last(kernel.log.human().splitlines(), len(kernel.log.records))
    return [("kernel", which), ("dmesg", log or "(empty)"), ("trace", ring.human() or "(empty)")]


def _last(lines: list[str], seen: int) -> str:
    kept = lines[-LINES:]
    left_out = seen - len(kept)
    head = [f"... {left_out} earlier lines left out"] if left_out > 0 else []
    return "\n".join([*head, *kept])
