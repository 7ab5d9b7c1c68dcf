"""
Which IDs are taken, and who hands them out: the default allocator and custom ones (drivers/iommu/ioasid.c).

The rules of custom allocators:

1. The default allocator is always there: the lowest free ID of the range asked for. A custom one comes before it.
2. The first one is registered only while the default has given out nothing, and is active at once.
3. Those with the same pair of functions are a group and share what they gave out; their ``pdata`` differ.
4. Another pair waits, in the order of registration, until the active group's last member goes.

Linux keeps the numbers of each group apart, so a number whose allocator went away with it is lost and can be given out
again while somebody's hardware still has it. Here one map has all numbers: such an ID lives on until its users drop it.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EAGAIN, EEXIST
from typing import TYPE_CHECKING, Any, Final

from pykernel.errors import Oops, err
from pykernel.log import ERR, INFO, WARNING

if TYPE_CHECKING:
    from pykernel.kernel import Kernel

__all__ = ["INVALID_IOASID", "PCI_PASID_MAX", "AllocatorGroup", "Allocators", "IdSpace", "IoasidAllocatorOps"]

INVALID_IOASID: Final = 0xFFFFFFFF
PCI_PASID_MAX: Final = 1 << 20
SHIFT: Final = 10
MASK: Final = (1 << SHIFT) - 1


class IdSpace:
    """
    The free numbers below 2^20: a bit each, and a bit for each 1024 of them that has one. 0 is never free.

    Both levels are integers of 1024 bits, so that the lowest free number costs the same however many are taken.
    """

    def __init__(self) -> None:
        full = (1 << (1 << SHIFT)) - 1
        self.words = [full] * (PCI_PASID_MAX >> SHIFT)
        self.some = full
        self.words[0] &= ~1

    def lowest(self, low: int, high: int) -> int:
        """The lowest free number from *low* to *high*, both included; -1: none."""
        if low > high:
            return -1
        at = low >> SHIFT
        bits = self.words[at] >> (low & MASK)
        if bits:
            found = low + (bits & -bits).bit_length() - 1
        else:
            rest = self.some >> at + 1
            if not rest:
                return -1
            at += (rest & -rest).bit_length()
            bits = self.words[at]
            found = (at << SHIFT) + (bits & -bits).bit_length() - 1
        return found if found <= high else -1

    def is_free(self, number: int) -> bool:
        """Whether it may be taken."""
        return bool(self.words[number >> SHIFT] >> (number & MASK) & 1)

    def take(self, number: int) -> None:
        """It is free, and then it is not."""
        at = number >> SHIFT
        self.words[at] &= ~(1 << (number & MASK))
        if not self.words[at]:
            self.some &= ~(1 << at)

    def give(self, number: int) -> None:
        """It is free again."""
        at = number >> SHIFT
        self.words[at] |= 1 << (number & MASK)
        self.some |= 1 << at

    def taken(self) -> int:
        """How many are not free, 0 left out."""
        return PCI_PASID_MAX - 1 - sum(word.bit_count() for word in self.words)


class IoasidAllocatorOps:
    """
    ``struct ioasid_allocator_ops``: somebody else who hands out IDs, as a hypervisor does for its guest.

    Args:
        alloc: called with the lowest and the highest ID wanted and *pdata*; an ID, or INVALID_IOASID.
        free: called with an ID and *pdata*.
    """

    __slots__ = ("alloc", "free", "pdata")

    def __init__(
        self, alloc: Callable[[int, int, Any], int], free: Callable[[int, Any], None], pdata: Any = None
    ) -> None:
        self.alloc, self.free, self.pdata = alloc, free, pdata


class AllocatorGroup:
    """
    ``struct ioasid_allocator_data``: allocators with the same two functions; the default one has no *members*.

    Attributes:
        live: how many IDs of it are not reclaimed.
    """

    __slots__ = ("custom", "live", "members")

    def __init__(self, *members: IoasidAllocatorOps) -> None:
        self.members = list(members)
        self.custom = bool(members)
        self.live = 0

    def has_functions_of(self, ops: IoasidAllocatorOps) -> bool:
        """C: ``bool use_same_ops(a, b)``."""
        mine = self.members[0]
        return mine.alloc == ops.alloc and mine.free == ops.free


class Allocators:
    """All allocators of a kernel; the caller holds the lock."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.space = IdSpace()
        self.default = AllocatorGroup()
        self.active = self.default
        self.groups: list[AllocatorGroup] = []

    def say(self, level: int, text: str) -> None:
        """A line in dmesg; Linux gives these no prefix."""
        self.kernel.log.printk(level, text)

    def alloc(self, low: int, high: int) -> int:
        """An ID of the active allocator from *low* to *high*, 1 to 2^20 - 1 at most; INVALID_IOASID: none."""
        group = self.active
        if not group.custom:
            found = self.space.lowest(low, high)
            if found < 0:
                self.say(ERR, f"Failed to alloc ioasid from {low} to {high}")
        else:
            found = self._ask(group.members[0], low, high)
        if found < 0:
            self.say(ERR, f"Failed ASID allocation {int(group.custom)}")
            return INVALID_IOASID
        self.space.take(found)
        group.live += 1
        return found

    def _ask(self, ops: IoasidAllocatorOps, low: int, high: int) -> int:
        """What *ops* gives, unless it is outside of what was asked for or somebody has it: then it gets it back."""
        found = ops.alloc(low, high, ops.pdata)
        if found == INVALID_IOASID:
            return -1
        if low <= found <= high and self.space.is_free(found):
            return found
        self.say(ERR, f"Failed to alloc ioasid from {found}")
        ops.free(found, ops.pdata)
        return -1

    def free(self, number: int, group: AllocatorGroup) -> None:
        """Nobody uses *number* of *group* any more."""
        if group.members:
            ops = group.members[0]
            ops.free(number, ops.pdata)
        self.space.give(number)
        group.live -= 1

    def register(self, ops: IoasidAllocatorOps) -> None:
        """As :func:`ioasid_register_allocator`."""
        if not self.groups:
            if self.default.live:
                self.say(WARNING, "Default allocator active with outstanding IOASID")
                raise err(EAGAIN, "the default allocator has given out IDs")
            self.active = AllocatorGroup(ops)
            self.groups.append(self.active)
            return
        # all members are looked at: Linux compares with the first of each group only
        if any(ops is member for group in self.groups for member in group.members):
            self.say(ERR, "IOASID allocator already registered")
            raise err(EEXIST, "it is registered")
        for group in self.groups:
            if group.has_functions_of(ops):
                group.members.append(ops)
                return
        self.groups.append(AllocatorGroup(ops))

    def unregister(self, ops: IoasidAllocatorOps) -> None:
        """As :func:`ioasid_unregister_allocator`. What it is not registered as is left alone."""
        if not self.groups:
            self.say(WARNING, "No custom IOASID allocators active!")
            return
        group = next((g for g in self.groups if ops in g.members), None)
        if group is None:
            return
        if len(group.members) > 1:
            group.members.remove(ops)  # the first one too: the next one then serves what it gave out
            return
        self._remove(group)

    def _remove(self, group: AllocatorGroup) -> None:
        self.groups.remove(group)
        group.members.clear()
        if group.live:
            self.kernel.oops(Oops(f"WARN_ON(!xa_empty(&pallocator->xa)): {group.live} IOASIDs have no allocator"))
        if not self.groups:
            self.say(INFO, "No custom IOASID allocators, switch to default.")
            self.active = self.default
        elif self.active is group:
            self.active = self.groups[0]
            self.say(INFO, "IOASID allocator changed")
