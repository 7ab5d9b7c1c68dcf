"""
RAM of a virtual machine's kernel: host frames, mapped again at the addresses where the guest has them.

The arena of a :class:`GuestRam` is one range of this process, and that range never moves: views of it stay good as
long as the object is there. Frames of the host's memfd are mapped into it run by run, so an access of the guest is a
plain access of memory, what devices of the host write there is seen at once, and after a live migration the same
objects of the guest go on over the frames of another host.

Each frame that is placed has a reference: whatever the VMM does with its address space, it is nobody else's as long as
the guest can reach it. What the VMM unmaps, or has not faulted in, is hence no matter here: it places pinned frames,
and one that it lets go stays the guest's until it is unplaced, as a pinned page stays a device's. Where nothing is
placed the guest has memory of nobody: zeros at first, no frame of any host. The frames that a kernel boots over are
zeros, as a VMM's fresh memory is: its allocator takes what is free for clean.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterable, Iterator
from errno import EEXIST, EINVAL, ENODEV, ENOMEM
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sortedcontainers import SortedDict

from pykernel.errors import err
from pykernel.mm.memfd import map_fixed
from pykernel.mm.phys import PAGE_SIZE, PhysMem, Run, merged

if TYPE_CHECKING:
    from pykernel.kernel import Kernel

__all__ = ["GuestRam"]

_FEW: Final = 512  # so many mappings more are asked of the host without looking at its limit
_SPARE: Final = 4096  # mappings that are left to the rest of the process


class GuestRam(PhysMem):
    """
    The physical memory of a guest's kernel. Its references and free frames are its own, over guest addresses.

    Args:
        size: bytes of RAM; what does not fit below the hole is above 4 GiB, as on the host.
        kernel: the guest's; ``boot(phys=...)`` says it later.

    Attributes:
        host: whose frames are placed; None while nothing is.
    """

    def __init__(self, size: int, kernel: Kernel | None = None) -> None:
        super().__init__(None, size)
        self.kernel = kernel
        self.host: PhysMem | None = None
        self._base = ctypes.addressof(ctypes.c_char.from_buffer(self.arena))
        self._runs: SortedDict = SortedDict()  # gpa -> Run of host frames

    def __del__(self) -> None:
        runs = self.__dict__.get("_runs", {})
        if self.__dict__.get("host") is not None:
            for run in runs.values():
                self.host.free_later(*run)  # type: ignore[union-attr]

    # ---- what is where

    def placed(self) -> Iterator[tuple[int, Run]]:
        """What is placed, by rising guest-physical address: the address and the host's frames."""
        yield from self._runs.items()

    def extents(self) -> list[Run]:
        """The guest's ranges where something is placed, each as long as it goes on."""
        return merged(Run(gpa, run.npages) for gpa, run in self._runs.items())

    def host_phys(self, gpa: int) -> int | None:
        """The host's address of the byte at *gpa*; None: nothing is placed there."""
        at = self._runs.bisect_right(gpa) - 1
        if at >= 0:
            start, run = self._runs.peekitem(at)
            if gpa < start + (run.npages << 12):
                return int(run.pa + gpa - start)
        return None

    def place(self, gpa: int, host_phys: PhysMem, runs: Iterable[Run]) -> None:
        """
        Put frames of the host at *gpa* and on; each gets a reference.

        Raises:
            OSError: EINVAL, not at a page, no RAM of the guest or of the host; ENODEV, a host without ``[cpu] vmx``;
                EEXIST, something is placed there, or another host's frames are; ENOMEM, the process has no room for so
                many mappings. Nothing is placed then.
        """
        runs = merged(runs)
        npages = sum(run.npages for run in runs)
        end = gpa + (npages << 12)
        if host_phys.fd < 0:
            raise err(ENODEV, "the host machine has no [cpu] vmx = true: its RAM is no file")
        if gpa % PAGE_SIZE or (npages and not (self.is_ram(gpa) and self.view(gpa, end - gpa) is not None)):
            raise err(EINVAL, f"{gpa:#x} to {end:#x} is no RAM of the guest")
        if any(host_phys.view(run.pa, run.npages << 12) is None or run.pa % PAGE_SIZE for run in runs):
            raise err(EINVAL, "not all of it is RAM of the host")
        if self.host not in (None, host_phys) or any(True for _ in self._overlapping(gpa, end)):
            raise err(EEXIST, f"frames are placed at {gpa:#x} already, or another host's are elsewhere")
        self._room(len(runs))
        self._map(gpa, host_phys, runs)
        self.host = host_phys
        for run in runs:
            host_phys.get_pages(*run)
            self._runs[gpa] = run
            gpa += run.npages << 12

    def unplace(self, gpa: int, npages: int) -> None:
        """What is placed from *gpa* on is the guest's no more; holes are no error."""
        end = gpa + (npages << 12)
        host = self.host
        found = list(self._overlapping(gpa, end))
        if host is None or not found:
            return
        map_fixed(self._base + gpa, end - gpa)
        for start, run in found:
            del self._runs[start]
            low, high = max(gpa - start, 0) >> 12, min(end - start >> 12, run.npages)
            if low:
                self._runs[start] = Run(run.pa, low)
            if high < run.npages:
                self._runs[start + (high << 12)] = Run(run.pa + (high << 12), run.npages - high)
            host.free_pages(run.pa + (low << 12), high - low)
        if not self._runs:
            self.host = None

    def move(self, to_host_phys: PhysMem, runs: Iterable[Run]) -> None:
        """
        Put all that is placed on other frames: those of *runs*, by rising guest address; the content is there already.

        For live migration, or one host's frames for others. The arena stays where it is.

        Raises:
            OSError: as :meth:`place`; EINVAL also for another number of pages. All is as before then.
        """
        before, host = list(self._runs.items()), self.host
        places = list(_dealt(before, list(runs)))
        self._room(len(places))
        if host is None:
            return
        for _, run in before:  # they stay until it is sure that nobody needs them again
            host.get_pages(*run)
        try:
            self._replace(before, to_host_phys, places)
        except OSError:
            self.clear()
            for gpa, run in before:
                self.place(gpa, host, [run])
            raise
        finally:
            for _, run in before:
                host.free_pages(*run)

    def _replace(self, before: list[tuple[int, Run]], host: PhysMem, places: list[tuple[int, Run]]) -> None:
        for gpa, run in before:
            self.unplace(gpa, run.npages)
        for gpa, run in places:
            self.place(gpa, host, [run])

    def clear(self) -> None:
        """Nothing is placed any more."""
        for gpa, run in list(self._runs.items()):
            self.unplace(gpa, run.npages)

    # ---- the host's mappings

    def _overlapping(self, gpa: int, end: int) -> Iterator[tuple[int, Run]]:
        at = max(self._runs.bisect_right(gpa) - 1, 0)
        first = self._runs.peekitem(at)[0] if self._runs else 0
        for start in self._runs.irange(first, end, inclusive=(True, False)):
            run = self._runs[start]
            if start + (run.npages << 12) > gpa:
                yield start, run

    def _map(self, gpa: int, host: PhysMem, runs: list[Run]) -> None:
        start = gpa
        try:
            for run in runs:
                map_fixed(self._base + gpa, run.npages << 12, host.fd, run.pa)
                gpa += run.npages << 12
        except OSError:
            map_fixed(self._base + start, gpa - start)
            raise

    def _room(self, more: int) -> None:
        """Whether the process may have so many mappings more. Raises ENOMEM."""
        if more <= _FEW:
            return
        limit = int(Path("/proc/sys/vm/max_map_count").read_text())
        used = Path("/proc/self/maps").read_bytes().count(b"\n")
        if used + more + _SPARE > limit:
            raise err(ENOMEM, f"{more} mappings for scattered frames, {used} are there: vm.max_map_count is {limit}")

    def _empty(self, pfn: int, n: int) -> None:
        """Frames that are free are zeros: those of the host stay the guest's, with no bytes in them."""
        start, end = pfn << 12, (pfn + n) << 12
        self.arena.madvise(mmap.MADV_DONTNEED, start, end - start)
        for gpa, run in self._overlapping(start, end):
            low, high = max(start, gpa), min(end, gpa + (run.npages << 12))
            self.arena.madvise(mmap.MADV_REMOVE, low, high - low)
        self._free.give(pfn, n)


def _dealt(before: list[tuple[int, Run]], runs: list[Run]) -> Iterator[tuple[int, Run]]:
    """*runs* in the places of those before, by guest address. Raises EINVAL: not as many pages."""
    if sum(run.npages for run in runs) != sum(run.npages for _, run in before):
        raise err(EINVAL, "as many pages must follow as are placed")
    runs.reverse()
    for gpa, (_, left) in before:
        while left:
            pa, n = runs.pop()
            if n > left:
                runs.append(Run(pa + (left << 12), n - left))
                n = left
            yield gpa, Run(pa, n)
            gpa, left = gpa + (n << 12), left - n
