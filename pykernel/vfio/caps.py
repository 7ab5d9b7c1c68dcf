"""Chains of capabilities behind an INFO ioctl's struct (drivers/vfio/vfio_main.c:vfio_info_cap_add())."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pykernel.mm.uaccess import copy_to_user
from pykernel.uapi.linux.vfio import VFIO_REGION_INFO_FLAG_CAPS, vfio_info_cap_header, vfio_region_info

if TYPE_CHECKING:
    from pykernel.kernel import Kernel

__all__ = ["InfoCaps", "put_region_info"]


class InfoCaps:
    """``struct vfio_info_cap``: capabilities, back to back; from Linux 6.6 on each begins at a multiple of 8."""

    def __init__(self, kernel: Kernel) -> None:
        self.align = 8 if kernel.profile.vfio_info_cap_aligned else 1
        self.caps: list[tuple[int, int, bytes]] = []

    def add(self, id: int, version: int, payload: bytes = b"") -> None:
        """
        C: ``struct vfio_info_cap_header *vfio_info_cap_add(struct vfio_info_cap *, size_t, u16 id, u16 version)``.

        *payload* is what comes after the header.
        """
        size = vfio_info_cap_header.sizeof() + len(payload)
        self.caps.append((id, version, payload + bytes(-size % self.align)))

    @property
    def size(self) -> int:
        """How many bytes they take."""
        return sum(vfio_info_cap_header.sizeof() + len(payload) for _, _, payload in self.caps)

    def __bool__(self) -> bool:
        return bool(self.caps)

    def shifted(self, offset: int) -> bytes:
        """
        The chain as it lies *offset* bytes behind the struct's start, from where ``next`` counts.

        C: ``void vfio_info_cap_shift(struct vfio_info_cap *, size_t)``.
        """
        out = b""
        for n, (id, version, payload) in enumerate(self.caps, 1):
            offset += vfio_info_cap_header.sizeof() + len(payload)
            following = offset if n < len(self.caps) else 0
            out += bytes(vfio_info_cap_header(id=id, version=version, next=following)) + payload
        return out


def put_region_info(kernel: Kernel, info: vfio_region_info, caps: InfoCaps, arg: int) -> None:
    """
    The answer to VFIO_DEVICE_GET_REGION_INFO: *caps* behind *info*, or how large argsz must be for them.

    Raises:
        EFAULT: *arg* is not the caller's.
    """
    # drivers/vfio/pci/vfio_pci_core.c:vfio_pci_ioctl_get_region_info()
    if caps:
        size = vfio_region_info.sizeof()
        info.flags |= VFIO_REGION_INFO_FLAG_CAPS
        if info.argsz < size + caps.size:
            info.argsz, info.cap_offset = size + caps.size, 0
        else:
            copy_to_user(kernel, arg + size, caps.shifted(size))
            info.cap_offset = size
    copy_to_user(kernel, arg, bytes(info))
