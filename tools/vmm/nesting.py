"""The host's PASIDs, as a VMM asks for them: /dev/ioasid, and binding by the container of its devices."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pykernel.uapi.rfc import ioasid as i

if TYPE_CHECKING:
    from pykernel.syscalls import Process
    from pykernel.tools.vmm.vfio import VfioContainer

__all__ = ["Nesting"]


class Nesting:
    """``/dev/ioasid`` of one process, and the nesting container of its devices."""

    def __init__(self, proc: Process, container: VfioContainer) -> None:
        self.proc, self.container = proc, container
        self.fd = proc.open("/dev/ioasid", os.O_RDWR | os.O_CLOEXEC)

    def alloc(self, low: int, high: int) -> int:
        """IOASID_REQUEST_ALLOC. Raises OSError."""
        size = i.ioasid_alloc_request.sizeof()
        row = i.ioasid_alloc_request(argsz=size, range=i.ioasid_alloc_request_range(min=low, max=high))
        return self.proc.ioctl(self.fd, i.IOASID_REQUEST_ALLOC, row)

    def free(self, pasid: int) -> None:
        """IOASID_REQUEST_FREE. Raises OSError."""
        self.proc.ioctl(self.fd, i.IOASID_REQUEST_FREE, bytearray(pasid.to_bytes(4, "little")))

    def close(self) -> None:
        """The PASIDs go with it."""
        self.proc.close(self.fd)
