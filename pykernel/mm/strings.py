"""Strings of user memory (mm/util.c)."""

from __future__ import annotations

from errno import EFAULT, EINVAL
from typing import TYPE_CHECKING

from pykernel.errors import err
from pykernel.mm.uaccess import PAGE_SIZE, copy_from_user

if TYPE_CHECKING:
    from pykernel.kernel import Kernel

__all__ = ["strndup_user"]


def strndup_user(kernel: Kernel, addr: int, n: int) -> bytes:
    """
    The string at *addr* of the running task, of at most *n* bytes with its NUL, which is not returned.

    C: ``char *strndup_user(const char __user *, long)``.

    Raises:
        EFAULT: memory ends before the string does. EINVAL: it is longer.
    """
    out = b""
    while len(out) < n:
        step = min(n - len(out), PAGE_SIZE - (addr + len(out)) % PAGE_SIZE)
        try:
            out += copy_from_user(kernel, addr + len(out), step)
        except OSError as e:
            raise err(EFAULT, f"no string at {addr:#x}") from e
        text, nul, _ = out.partition(b"\0")
        if nul:
            return text
    raise err(EINVAL, f"the string at {addr:#x} has more than {n - 1} bytes")
