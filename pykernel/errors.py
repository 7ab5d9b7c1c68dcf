"""
The one error a user of the kernel sees: an errno.

``raise err(EPERM, "device is enabled")`` gives the ``OSError`` subclass that a real system call would give, with the
C library's text; the reason travels in a note, to the trace and to dmesg, never into ``strerror``.
"""

from __future__ import annotations

import os

# include/linux/errno.h: errnos that the kernel uses inside and that no system call returns.
ERESTARTSYS = 512
ENOIOCTLCMD = 515
EPROBE_DEFER = 517
ENOTSUPP = 524

__all__ = ["ENOIOCTLCMD", "ENOTSUPP", "EPROBE_DEFER", "ERESTARTSYS", "Oops", "err"]


def err(code: int, why: str = "", filename: str | None = None) -> OSError:
    """
    Make the exception for errno *code*; *why* is a note for the person who debugs.

    C: ``return -EPERM;``
    """
    e = OSError(code, os.strerror(code)) if filename is None else OSError(code, os.strerror(code), filename)
    if why:
        e.add_note(why)
    return e


class Oops(RuntimeError):
    """A bug in kernel code (BUG(), a wild exception): logged with its stack, the caller gets EIO."""
