"""
How a command of ``/dev/iommu`` comes in and its answer goes out (iommufd/main.c, include/linux/uaccess.h).

Each struct begins with the size that the caller knows, so that it can grow: what a caller does not send is zeros, and
what it sends beyond what this kernel knows must be zeros.
"""

from __future__ import annotations

from errno import E2BIG
from typing import TYPE_CHECKING, Final, TypeVar

from pykernel.errors import err
from pykernel.mm.uaccess import copy_from_user, copy_to_user

if TYPE_CHECKING:
    from pykernel.iommufd.objects import IommufdCtx
    from pykernel.kernel import Kernel
    from pykernel.uapi.struct import Struct

__all__ = ["Ucmd", "copy_struct_from_user"]

STEP: Final = 1 << 16

S = TypeVar("S", bound="Struct")


def copy_struct_from_user(kernel: Kernel, struct: type[S], addr: int, usize: int) -> S:
    """
    C: ``int copy_struct_from_user(void *dst, size_t ksize, const void __user *src, size_t usize)``.

    Raises:
        EFAULT: it cannot be read. E2BIG: it is longer than the kernel's, and not zeros there.
    """
    ksize = struct.sizeof()
    for at in range(ksize, usize, STEP):
        if any(copy_from_user(kernel, addr + at, min(STEP, usize - at))):
            raise err(E2BIG, f"{struct.__name__} has {ksize} bytes here, and more than zeros come behind them")
    return struct.from_bytes(copy_from_user(kernel, addr, min(ksize, usize)).ljust(ksize, b"\0"))


class Ucmd:
    """``struct iommufd_ucmd``: one call: whose context, where its struct is and how much of it the caller knows."""

    __slots__ = ("ictx", "kernel", "ubuffer", "user_size")

    def __init__(self, ictx: IommufdCtx, ubuffer: int, user_size: int) -> None:
        self.ictx, self.kernel = ictx, ictx.kernel
        self.ubuffer, self.user_size = ubuffer, user_size

    def respond(self, cmd: Struct) -> None:
        """Give the struct back as far as the caller knows it. C: ``iommufd_ucmd_respond()``. Raises EFAULT."""
        copy_to_user(self.kernel, self.ubuffer, bytes(cmd)[: self.user_size])
