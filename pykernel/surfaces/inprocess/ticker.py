"""A POSIX timer that sends this thread a signal again and again: setitimer(2)'s are the program's own."""

from __future__ import annotations

import ctypes
import os
import threading

__all__ = ["Ticker"]

# include/uapi/linux/time.h, include/uapi/asm-generic/siginfo.h
CLOCK_MONOTONIC, SIGEV_THREAD_ID = 1, 4


class _Sigevent(ctypes.Structure):
    _fields_ = (
        ("sigev_value", ctypes.c_void_p),
        ("sigev_signo", ctypes.c_int),
        ("sigev_notify", ctypes.c_int),
        ("sigev_notify_thread_id", ctypes.c_int),
        ("_pad", ctypes.c_char * 44),
    )


class _Itimerspec(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_long) for name in ("interval_s", "interval_ns", "value_s", "value_ns"))


class Ticker:
    """Sends *signum* every *period_ms* milliseconds while it is :attr:`on`. Raises OSError: no timers are left."""

    def __init__(self, signum: int, period_ms: int) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._timer = ctypes.c_void_p()
        self._ns = period_ms * 1_000_000
        self._on = False
        event = _Sigevent(None, signum, SIGEV_THREAD_ID, threading.get_native_id())
        self._check(self._libc.timer_create(CLOCK_MONOTONIC, ctypes.byref(event), ctypes.byref(self._timer)))

    @property
    def on(self) -> bool:
        """Whether it ticks; may be set."""
        return self._on

    @on.setter
    def on(self, on: bool) -> None:
        if on != self._on:
            self._on = on
            ns = self._ns if on else 0
            spec = _Itimerspec(0, ns, 0, ns)
            self._check(self._libc.timer_settime(self._timer, 0, ctypes.byref(spec), None))

    def close(self) -> None:
        """Give the timer back."""
        self._libc.timer_delete(self._timer)

    def _check(self, result: int) -> None:
        if result:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), "timer")
