"""
The one error a user of the kernel sees: an errno.

``raise err(EPERM, "device is enabled")`` gives the ``OSError`` subclass that a real system call would give, with the
C library's text; the reason travels in a note, to the trace and to dmesg, never into ``strerror``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from errno import errorcode
from typing import NoReturn

# include/linux/errno.h: errnos that the kernel uses inside and that no system call returns.
ERESTARTSYS = 512
ENOIOCTLCMD = 515
EPROBE_DEFER = 517
ENOTSUPP = 524

MAX_ERRNO = 4095  # include/linux/err.h

__all__ = [
    "ENOIOCTLCMD",
    "ENOTSUPP",
    "EPROBE_DEFER",
    "ERESTARTSYS",
    "MAX_ERRNO",
    "HungTask",
    "Oops",
    "call_void",
    "err",
    "is_bug",
    "is_errno",
    "returned",
]


def err(code: int, why: str = "", filename: str | None = None) -> OSError:
    """
    Make the exception for errno *code*; *why* is a note for the person who debugs.

    C: ``return -EPERM;``

    Raises:
        ValueError: *code* is no errno, as -EPERM is none here.
    """
    if not 0 < code <= MAX_ERRNO:
        raise ValueError(f"err({code}): an errno is 1 to {MAX_ERRNO}{_meant(code)}")
    e = OSError(code, os.strerror(code)) if filename is None else OSError(code, os.strerror(code), filename)
    if why:
        e.add_note(why)
    return e


class Oops(RuntimeError):
    """A bug in kernel code (BUG(), a wild exception): logged with its stack, the caller gets EIO."""


class HungTask(Oops):
    """A driver's remove() waits for what nobody will do. On Linux it would for ever; here the device is kept."""


def is_errno(e: BaseException) -> bool:
    """Whether *e* is something that a system call can end with: an OSError that has an errno."""
    return isinstance(e, OSError) and isinstance(e.errno, int) and 0 < e.errno <= MAX_ERRNO


def is_bug(e: BaseException) -> bool:
    """
    Whether *e*, which kernel code raised, is a bug: no errno, and nothing that is meant to end the program.

    sys.exit() is a bug in kernel code; a client's own, which another client's call waits for, is not.
    """
    if isinstance(e, Exception):
        return not is_errno(e)
    tb = e.__traceback__
    if not isinstance(e, SystemExit) or tb is None:
        return False
    while tb.tb_next is not None and tb.tb_next.tb_frame.f_globals.get("__name__") != "_sitebuiltins":  # exit()
        tb = tb.tb_next
    namespace = tb.tb_frame.f_globals
    return namespace.get("__name__", "").startswith("pykernel.") or "__pykernel__" in namespace


def returned(fn: Callable[..., object], result: object, wanted: str) -> NoReturn:
    """Raises Oops: the driver's *fn* returned *result*, by C's habit perhaps, and not what is *wanted*."""
    name = getattr(fn, "__qualname__", None) or repr(fn)
    said = _meant(result) if isinstance(result, int) else ""
    raise Oops(f"{name}() returned {result!r}{said or f': it must return {wanted}'}")


def call_void(fn: Callable[..., object], *args: object) -> None:
    """Call a driver's function that has only errnos to tell; 0 is nothing. Raises Oops: it returned something else."""
    result = fn(*args)
    if result is not None and (type(result) is not int or result != 0):
        returned(fn, result, "nothing")


def _meant(code: int) -> str:
    """What to write in place of a negative errno."""
    return f": raise err({errorcode[-code]})" if -code in errorcode else ""
