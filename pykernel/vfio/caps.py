"""Chains of capabilities behind an INFO ioctl's struct (drivers/vfio/vfio_main.c:vfio_info_cap_add())."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pykernel.uapi.linux.vfio import vfio_info_cap_header

if TYPE_CHECKING:
    from pykernel.kernel import Kernel

__all__ = ["InfoCaps"]


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
