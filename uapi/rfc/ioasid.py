"""
``uapi/linux/ioasid.h`` of "IOASID extensions for guest SVA", version 4, 27 February 2021: never in a header of Linux.

``/dev/ioasid`` gave a process host PASIDs for its assigned devices. No ioctl number has a size in it.
"""

from __future__ import annotations

from typing import Final

from pykernel.uapi.ioctl import _IO
from pykernel.uapi.struct import ZERO, Struct, u32

HEADERS: Final = ()

IOASID_API_VERSION: Final = 0

IOASID_TYPE: Final = ord("i")
IOASID_BASE: Final = 100


class ioasid_info(Struct):
    """``struct ioasid_info``: how many bits a PASID may have (IOASID_GET_INFO); flags are 0."""

    argsz: u32 = 0
    flags: u32 = 0
    ioasid_bits: u32 = 0


class ioasid_alloc_request_range(Struct, ctype="__typeof__(((struct ioasid_alloc_request *)0)->range)"):
    """``ioasid_alloc_request.range``: both ends are included."""

    min: u32 = 0
    max: u32 = 0


class ioasid_alloc_request(Struct):
    """``struct ioasid_alloc_request``: from where to take a PASID (IOASID_REQUEST_ALLOC, which returns it)."""

    argsz: u32 = 0
    flags: u32 = 0
    range: ioasid_alloc_request_range = ZERO


IOASID_GET_API_VERSION: Final = _IO(IOASID_TYPE, IOASID_BASE + 0)
IOASID_GET_INFO: Final = _IO(IOASID_TYPE, IOASID_BASE + 1, ioasid_info)
IOASID_REQUEST_ALLOC: Final = _IO(IOASID_TYPE, IOASID_BASE + 2, ioasid_alloc_request)
IOASID_REQUEST_FREE: Final = _IO(IOASID_TYPE, IOASID_BASE + 3)  # of the PASID in an int
