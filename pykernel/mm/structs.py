"""Structs that user space and the kernel know in different lengths (include/linux/uaccess.h)."""

from __future__ import annotations

from errno import E2BIG
from typing import TYPE_CHECKING, Final, TypeVar

from pykernel.errors import err
from pykernel.mm.uaccess import copy_from_user

if TYPE_CHECKING:
    from pykernel.kernel import Kernel
    from pykernel.uapi.struct import Struct

__all__ = ["copy_struct_from_user"]

STEP: Final = 1 << 16

S = TypeVar("S", bound="Struct")


def copy_struct_from_user(kernel: Kernel, struct: type[S], addr: int, usize: int) -> S:
    """
    What the caller does not send is zeros; what it sends beyond what the kernel knows must be.

    C: ``int copy_struct_from_user(void *dst, size_t ksize, const void __user *src, size_t usize)``.

    Raises:
        EFAULT: it cannot be read. E2BIG: it is longer than the kernel's, and not zeros there.
    """
    ksize = struct.sizeof()
    for at in range(ksize, usize, STEP):
        if any(copy_from_user(kernel, addr + at, min(STEP, usize - at))):
            raise err(E2BIG, f"{struct.__name__} has {ksize} bytes here, and more than zeros come behind them")
    return struct.from_bytes(copy_from_user(kernel, addr, min(ksize, usize)).ljust(ksize, b"\0"))
