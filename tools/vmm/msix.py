"""
MSI-X of an assigned device: the guest's table is the VMM's, and an eventfd stands for each vector.

An unmasked vector's eventfd is KVM's, which sends the message itself; a masked one's keeps its count, which is the
pending bit, until KVM has it again.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

from pykernel.pci.function import MsixTable
from pykernel.tools.vmm.state import MsixState
from pykernel.uapi.linux.vfio import VFIO_PCI_MSIX_IRQ_INDEX

if TYPE_CHECKING:
    from pykernel.syscalls import Process
    from pykernel.tools.vmm.vfio import VfioDevice

__all__ = ["MessageRoutes", "Msix"]

POLLIN = 1
ENTRY, CONTROL = 16, 12


class MessageRoutes(Protocol):
    """What sends messages when eventfds are signalled: KVM's routes and irqfds."""

    def attach(self, fd: int, address: int, data: int) -> int:
        """From now on *fd* means this message; the number of the route."""
        ...

    def change(self, route: int, address: int, data: int) -> None:
        """Another message."""

    def detach(self, route: int, fd: int) -> None:
        """No more."""


class Msix:
    """The MSI-X capability of *device* with *vectors* vectors, as the guest sees it."""

    def __init__(self, proc: Process, device: VfioDevice, routes: MessageRoutes, vectors: int) -> None:
        self.proc, self.device, self.routes = proc, device, routes
        self.table = MsixTable(vectors)
        self.enabled = self.mask_all = False
        self.fds: list[int] = []
        self.attached: dict[int, int] = {}  # vector -> route

    # ---- what the guest does

    def control(self, *, enable: bool, mask_all: bool) -> None:
        """The two bits of Message Control."""
        self.mask_all = mask_all
        if enable and not self.enabled:
            self.fds = [self.proc.eventfd(0, os.O_NONBLOCK) for _ in range(self.table.vectors)]
            self.device.signal_by(VFIO_PCI_MSIX_IRQ_INDEX, self.fds)
        elif self.enabled and not enable:
            self._off()
        self.enabled = enable
        self._update(range(self.table.vectors))

    def read(self, off: int, size: int) -> int:
        """Of the table."""
        return int.from_bytes(self.table.entries[off : off + size], "little")

    def write(self, off: int, size: int, value: int) -> None:
        """To the table."""
        if off + size > len(self.table.entries):
            return
        self.table.entries[off : off + size] = value.to_bytes(size, "little")
        vector = off // ENTRY
        if vector in self.attached:
            self.routes.change(self.attached[vector], *self.table.message(vector))
        self._update([vector])

    def read_pba(self, off: int, size: int) -> int:
        """Of the pending bits."""
        pending = 0
        if self.enabled:
            masked = [n for n in range(self.table.vectors) if n not in self.attached]
            ready = {fd for fd, _ in self.proc.poll([(self.fds[n], POLLIN) for n in masked], 0)} if masked else set()
            pending = sum(1 << n for n in masked if self.fds[n] in ready)
        return pending >> 8 * off & (1 << 8 * size) - 1

    def reset(self) -> None:
        """Of the function: off, and every vector masked."""
        self.control(enable=False, mask_all=False)
        self.table.reset()

    # ---- migration

    def save(self) -> MsixState:
        """What the guest made of it."""
        return MsixState(bytes(self.table.entries), self.enabled, self.mask_all, self.read_pba(0, 8))

    def load(self, state: MsixState) -> None:
        """Be what it was elsewhere; what is pending is sent when it is unmasked. Raises OSError."""
        self.table.entries[:] = state.entries
        self.control(enable=state.enabled, mask_all=state.mask_all)
        for vector in range(self.table.vectors) if self.enabled else ():
            if state.pending >> vector & 1:
                self.proc.write(self.fds[vector], (1).to_bytes(8, "little"))

    # ----

    def _update(self, vectors: range | list[int]) -> None:
        """Let KVM have exactly the vectors that can send."""
        for vector in vectors:
            wanted = self.enabled and not self.mask_all and not self.table.masked(vector)
            if wanted and vector not in self.attached:
                self.attached[vector] = self.routes.attach(self.fds[vector], *self.table.message(vector))
            elif not wanted and vector in self.attached:
                self.routes.detach(self.attached.pop(vector), self.fds[vector])

    def _off(self) -> None:
        for vector, route in self.attached.items():
            self.routes.detach(route, self.fds[vector])
        self.attached.clear()
        self.device.signal_by(VFIO_PCI_MSIX_IRQ_INDEX, [])
        for fd in self.fds:
            self.proc.close(fd)
        self.fds = []
