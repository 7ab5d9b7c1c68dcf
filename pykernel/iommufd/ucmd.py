"""How the answer to a command of ``/dev/iommu`` goes out (drivers/iommu/iommufd/iommufd_private.h)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pykernel.mm.uaccess import copy_to_user

if TYPE_CHECKING:
    from pykernel.iommufd.objects import IommufdCtx
    from pykernel.uapi.struct import Struct

__all__ = ["Ucmd"]


class Ucmd:
    """``struct iommufd_ucmd``: one call: whose context, where its struct is and how much of it the caller knows."""

    __slots__ = ("ictx", "kernel", "ubuffer", "user_size")

    def __init__(self, ictx: IommufdCtx, ubuffer: int, user_size: int) -> None:
        self.ictx, self.kernel = ictx, ictx.kernel
        self.ubuffer, self.user_size = ubuffer, user_size

    def respond(self, cmd: Struct) -> None:
        """Give the struct back as far as the caller knows it. C: ``iommufd_ucmd_respond()``. Raises EFAULT."""
        copy_to_user(self.kernel, self.ubuffer, bytes(cmd)[: self.user_size])
