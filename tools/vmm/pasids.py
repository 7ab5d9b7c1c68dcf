"""
The PASIDs of a virtual machine: which number of the host each of the guest's has, and what is bound to it.

The host's numbers come from /dev/ioasid and are never told to the guest, unless its numbers are to be the same
(``identity``): then it cannot move to a host where others have them.
"""

from __future__ import annotations

from collections.abc import Iterable
from errno import EINVAL
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Final, Protocol

from pykernel.errors import err
from pykernel.hw.vtd.tables import Pgtt

if TYPE_CHECKING:
    from pykernel.hw.vtd.tables import PasidEntry
    from pykernel.trace import Trace

__all__ = ["DEFAULT", "GuestPasids", "HostPasids"]

DEFAULT: Final = 0  # the PASID of requests without one, in every table that Linux makes
PASID_MIN, PASID_MAX = 1, 0xFFFFF


class HostPasids(Protocol):
    """What the host's kernel does about PASIDs for a VMM; every call raises OSError."""

    def alloc(self, low: int, high: int) -> int:
        """A host PASID, of the range if the set is asked for one."""
        ...

    def free(self, pasid: int) -> None:
        """Give it back."""

    def bind(self, pasid: int, guest: int, entry: PasidEntry) -> None:
        """Nest the guest's first-stage table in *entry* for the devices of the machine."""

    def unbind(self, pasid: int, guest: int) -> None:
        """No more."""

    def bind_default(self, entry: PasidEntry) -> None:
        """The same for requests without a PASID."""

    def unbind_default(self) -> None:
        """Requests without a PASID have guest-physical addresses again."""

    def flush(self, pasid: int | None, addr: int, order: int) -> None:
        """Forget translations of *pasid* (None: of requests without one); *order* 64: all of them."""


class GuestPasids:
    """
    Attributes:
        host_of: the guest's number -> the host's.
        bound: the guest's number -> the entry of its table that is in force.
        refused: what the host did not bind, and why.
        trace: told of each step; None: of none.
    """

    def __init__(self, host: HostPasids, policy: str = "private", trace: Trace | None = None) -> None:
        if policy not in ("private", "identity"):
            raise ValueError(f"pasids must be 'private' or 'identity', not {policy!r}")
        self.host, self.policy, self.trace = host, policy, trace
        self.host_of: dict[int, int] = {}
        self._guest_of: dict[int, int] = {}
        self._freed: list[int] = []  # a heap of the guest's numbers below _next, as far as nobody has them again
        self._next = PASID_MIN
        self.bound: dict[int, PasidEntry] = {}
        self.refused: list[tuple[int, OSError]] = []

    # ---- virtual commands

    def alloc(self) -> int | None:
        """A PASID for the guest; None: the host has none for it."""
        try:
            host = self.host.alloc(PASID_MIN, PASID_MAX)
        except OSError:
            return None
        guest = host if self.policy == "identity" else self._lowest()
        self._know(guest, host)
        return guest

    def _know(self, guest: int, host: int) -> None:
        self.host_of[guest], self._guest_of[host] = host, guest
        if self.trace:
            self.trace("viommu_alloc_pasid", guest=guest, host=host)

    def guest_of(self, host: int) -> int | None:
        """The guest's number of a host PASID."""
        return self._guest_of.get(host)

    def _lowest(self) -> int:
        """There is one: the host has not more PASIDs than the guest has numbers."""
        while self._freed and self._freed[0] < self._next:
            if (number := heappop(self._freed)) not in self.host_of:
                return number
        while self._next in self.host_of:  # of a machine that came with its numbers
            self._next += 1
        self._next += 1
        return self._next - 1

    def free(self, guest: int) -> bool:
        """The guest gives a PASID back; False: it is none of its."""
        if guest not in self.host_of:
            return False
        self.apply(guest, None)
        host = self.host_of.pop(guest)
        del self._guest_of[host]
        if self.policy == "private":
            heappush(self._freed, guest)
        if self.trace:
            self.trace("viommu_free_pasid", guest=guest, host=host)
        self.host.free(host)
        return True

    # ---- entries

    def apply(self, guest: int, entry: PasidEntry | None) -> None:
        """The guest's table has *entry* for a PASID now: bind it, bind it anew, or unbind it."""
        if entry is not None and entry.pgtt != Pgtt.FIRST and (guest == DEFAULT or entry.pgtt != Pgtt.PASS_THROUGH):
            entry = None  # there a device has guest-physical addresses anyway; second stages are not offered
        if guest != DEFAULT and guest not in self.host_of:
            return  # a number that the guest made up
        before = self.bound.get(guest)
        if before == entry:
            return
        if before is not None:
            self._unbind(guest)
        if entry is not None:
            self._bind(guest, entry)

    def _bind(self, guest: int, entry: PasidEntry) -> None:
        if self.trace:
            self.trace("viommu_bind", guest=guest, host=self.host_of.get(guest), pgd=entry.first)
        try:
            if guest == DEFAULT:
                self.host.bind_default(entry)
            else:
                self.host.bind(self.host_of[guest], guest, entry)
        except OSError as e:
            self.refused.append((guest, e))
            return
        self.bound[guest] = entry

    def _unbind(self, guest: int) -> None:
        del self.bound[guest]
        if self.trace:
            self.trace("viommu_unbind", guest=guest, host=self.host_of.get(guest))
        if guest == DEFAULT:
            self.host.unbind_default()
        else:
            self.host.unbind(self.host_of[guest], guest)

    def flush(self, guest: int, addr: int, order: int) -> None:
        """The guest's table of a PASID changed."""
        if guest in self.bound:
            self.host.flush(None if guest == DEFAULT else self.host_of[guest], addr, order)

    def replay(self, numbers: Iterable[int], bound: Iterable[tuple[int, PasidEntry]]) -> None:
        """
        Have the guest's *numbers*, each with a PASID of this host, and bind what is *bound*.

        Raises:
            OSError: EINVAL, the host has no more for it, or the number is none; what binding says.
        """
        for guest in numbers:
            if not PASID_MIN <= guest <= PASID_MAX:
                raise err(EINVAL, f"{guest:#x} is no PASID")
            self._know(guest, self.host.alloc(PASID_MIN, PASID_MAX))
        for guest, entry in bound:
            self.apply(guest, entry)
            if guest not in self.bound:
                raise self.refused.pop()[1]

    def reset(self) -> None:
        """The guest begins anew: nothing is bound, no PASID is its."""
        for guest in list(self.bound):
            self._unbind(guest)
        for guest in list(self.host_of):
            self.free(guest)
