"""A bench to try silicon on, without a kernel: a port over plain memory, with pages that can be absent."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from pykernel.pci.function import DmaFault, PciFunction
from pykernel.uapi.linux.pci_regs import PCI_COMMAND, PCI_COMMAND_MASTER, PCI_COMMAND_MEMORY

__all__ = ["Bench"]

PAGE = 4096


class Bench:
    """
    A ``Port``: memory from address 0, work that runs when ``run()`` says so, and a record of what the function did.

    ``absent`` holds the page numbers that fault; ``readonly`` those that fault on writes; a page request brings a
    page in if ``grant`` is true, and is not answered before ``answer()`` if ``hold`` is. ``messages`` are the
    (address, data) of interrupts, ``accesses`` the DMA.
    """

    def __init__(self, function: PciFunction, size: int = 1 << 20, *, command: int | None = None) -> None:
        self.function = function
        self.memory = bytearray(size)
        self.absent: set[int] = set()
        self.readonly: set[int] = set()
        self.grant = self.hold = False
        self.held: deque[Callable[[], None]] = deque()
        self.pin = False
        self.soon: deque[Callable[[], None]] = deque()
        self.messages: list[tuple[int, int]] = []
        self.requests: list[tuple[int, bool, int | None]] = []
        self.accesses: list[tuple[str, int, int, int | None, bool]] = []
        function.port = self
        if command is None:
            command = PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER
        function.config_write(PCI_COMMAND, 2, command)

    def run(self) -> None:
        """Run what was put off, and what that puts off, until nothing is left."""
        while self.soon:
            self.soon.popleft()()

    def _check(self, addr: int, n: int, *, write: bool) -> None:
        for page in range(addr // PAGE, (addr + max(n, 1) - 1) // PAGE + 1):
            if page in self.absent or (write and page in self.readonly) or (page + 1) * PAGE > len(self.memory):
                raise DmaFault(max(addr, page * PAGE), write, "page")

    def dma_read(self, addr: int, n: int, pasid: int | None = None, priv: bool = False) -> bytes:
        """Read memory."""
        self._check(addr, n, write=False)
        self.accesses.append(("read", addr, n, pasid, priv))
        return bytes(self.memory[addr : addr + n])

    def dma_write(self, addr: int, data: bytes | memoryview, pasid: int | None = None, priv: bool = False) -> None:
        """Write memory, all of it or nothing."""
        self._check(addr, len(data), write=True)
        self.accesses.append(("write", addr, len(data), pasid, priv))
        self.memory[addr : addr + len(data)] = data

    def dma_view(
        self, addr: int, n: int, *, write: bool, pasid: int | None = None, priv: bool = False
    ) -> list[memoryview] | None:
        """None: every access is to be seen."""
        return None

    def page_request(self, addr: int, write: bool, pasid: int | None) -> bool:
        """Bring the page in, or refuse."""
        self.requests.append((addr, write, pasid))
        if self.grant:
            self.absent.discard(addr // PAGE)
            self.readonly.discard(addr // PAGE)
        return self.grant

    def page_request_async(
        self, addr: int, write: bool, pasid: int | None, priv: bool, done: Callable[[bool], None]
    ) -> None:
        """Answered at once, or when ``answer()`` says so while ``hold`` is true."""
        if self.hold:
            self.held.append(lambda: done(self.page_request(addr, write, pasid)))
        else:
            done(self.page_request(addr, write, pasid))

    def answer(self) -> None:
        """Answer the oldest page request that is held."""
        self.held.popleft()()

    def msi_write(self, address: int, data: int) -> None:
        """Note a message."""
        self.messages.append((address, data))

    def intx(self, asserted: bool) -> None:
        """Note the level of the pin."""
        self.pin = asserted

    def call_soon(self, fn: Callable[[], None]) -> None:
        """Put off."""
        self.soon.append(fn)

    def reset_secondary(self, bus: int) -> None:
        """Nothing is below it."""
