"""
Who produces interrupts that could go past the host (virt/lib/irqbypass.c).

Nobody consumes them here: an irqfd of KVM takes the eventfd. What a client sees is that one may produce but once.
"""

from __future__ import annotations

import zlib
from errno import EBUSY
from typing import TYPE_CHECKING

from pykernel.errors import err

if TYPE_CHECKING:
    from pykernel.fs.anon import EventFd
    from pykernel.kernel import Kernel

__all__ = ["IrqBypass", "hashed_pointer"]


class IrqBypass:
    """The producers of one kernel, by token."""

    def __init__(self, _kernel: Kernel) -> None:
        self.producers: set[EventFd] = set()

    def register_producer(self, token: EventFd) -> None:
        """C: ``int irq_bypass_register_producer(struct irq_bypass_producer *)``. Raises EBUSY: it produces already."""
        if token in self.producers:
            raise err(EBUSY)
        self.producers.add(token)

    def unregister_producer(self, token: EventFd) -> None:
        """C: ``void irq_bypass_unregister_producer(struct irq_bypass_producer *)``."""
        self.producers.remove(token)


def hashed_pointer(token: EventFd) -> str:
    """As ``%p`` tells an address, without telling it: 32 bits of a hash. lib/vsprintf.c:__ptr_to_hashval()."""
    return f"{zlib.crc32(token.inode.ino.to_bytes(8, 'little')):016x}"
