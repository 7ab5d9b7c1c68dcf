"""
The invalidation queue (VT-d 6.5.2): descriptors of 128 or 256 bits that software puts into memory.

``InvalidationQueue`` fetches, checks and orders them; what a descriptor does is a method of who inherits: silicon
empties its caches, an emulated unit tells its VMM (``on_invalidate``).
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from typing import Final, NamedTuple

from pykernel.hw.vtd import regs as r
from pykernel.hw.vtd.registers import VtdRegisters

__all__ = ["Invalidation", "InvalidationQueue", "Kind", "QueueError"]

ADDR: Final = (1 << 64) - 4096
PASID: Final = 0xFFFFF
SHAPES: Final = {16: Struct("<2Q"), 32: Struct("<4Q")}


class Kind(IntEnum):
    """Types of descriptors."""

    CONTEXT = 1
    IOTLB = 2
    DEVICE_TLB = 3
    INTERRUPT = 4
    WAIT = 5
    PASID_IOTLB = 6
    PASID = 7
    PASID_DEVICE_TLB = 8
    PAGE_RESPONSE = 9


class QueueError(IntEnum):
    """IQERCD.IQEI: what was wrong with the queue."""

    TAIL = 1
    FETCH = 2
    TYPE = 3
    RESERVED = 4
    WIDTH = 5


class Invalidation(NamedTuple):
    """
    A descriptor, taken apart; fields that its type does not have are 0.

    Attributes:
        granularity: G as it stands there.
        addr, order: from *addr* on ``4096 << order`` bytes; *order* 64: all addresses.
        mask: how many low bits of the function number do not matter (context), IM (interrupt entries).
        hint: IH: no table changed, only leaves.
        words: the descriptor itself.
    """

    kind: Kind
    granularity: int = 0
    did: int = 0
    source: int = 0
    pasid: int = 0
    addr: int = 0
    order: int = 0
    mask: int = 0
    hint: bool = False
    words: tuple[int, ...] = ()


# which bits a descriptor of each type may have: low word, high word, whether there is more in 256 bits
FIELDS: Final[dict[int, tuple[int, int]]] = {
    Kind.CONTEXT: (0x0003_FFFF_FFFF_003F, 0),
    Kind.IOTLB: (0x0000_0000_FFFF_00FF, ADDR | 0x7F),
    Kind.DEVICE_TLB: (0xFFF0_FFFF_001F_F00F, ADDR | 1),
    Kind.INTERRUPT: (0x0000_FFFF_F800_001F, 0),
    Kind.WAIT: (0xFFFF_FFFF_0000_00FF, (1 << 64) - 4),
    Kind.PASID_IOTLB: (0x000F_FFFF_FFFF_003F, ADDR | 0x7F),
    Kind.PASID: (0x000F_FFFF_FFFF_003F, 0),
    Kind.PASID_DEVICE_TLB: (0xFFFF_FFFF_FFFF_F1FF, ADDR | 0x801),
    Kind.PAGE_RESPONSE: (0x000F_FFFF_FFFF_F03F, ADDR | 0xFFC),
}
GRANULARITIES: Final[dict[int, frozenset[int]]] = {
    Kind.CONTEXT: frozenset({1, 2, 3}),
    Kind.IOTLB: frozenset({1, 2, 3}),
    Kind.PASID_IOTLB: frozenset({2, 3}),
    Kind.PASID: frozenset({0, 1, 3}),
}
KINDS: Final = {int(kind): kind for kind in Kind}
WAIT_INTERRUPT, WAIT_STATUS, WAIT_DRAIN = 1 << 4, 1 << 5, 1 << 7


def _device_range(high: int, size_bit: int) -> tuple[int, int]:
    """ATS: with S set the lowest zero bit of the address, from bit 12 on, tells the size."""
    addr = high & ADDR
    if not high & size_bit:
        return addr, 0
    order, bit = 1, 1 << 12
    while addr & bit and bit < 1 << 63:
        order, bit = order + 1, bit << 1
    if order >= 52:
        return 0, 64
    return addr & -(4096 << order), order


def decode(words: tuple[int, ...]) -> Invalidation:
    """The descriptor in *words*, which its checks have passed."""
    low, high = words[0], words[1]
    kind = KINDS[low & 0xF]
    granularity = low >> 4 & 3
    if kind is Kind.CONTEXT:
        return Invalidation(kind, granularity, low >> 16 & 0xFFFF, low >> 32 & 0xFFFF, mask=low >> 48 & 3, words=words)
    if kind in (Kind.IOTLB, Kind.PASID_IOTLB):
        pasid = low >> 32 & PASID if kind is Kind.PASID_IOTLB else 0
        order = high & 0x3F
        addr, hint = high & ADDR & -(4096 << order), bool(high & 0x40)
        if granularity != 3:
            addr, order = 0, 64
        did = low >> 16 & 0xFFFF
        return Invalidation(kind, granularity, did, 0, pasid, addr, order, hint=hint, words=words)
    if kind is Kind.PASID:
        return Invalidation(kind, granularity, low >> 16 & 0xFFFF, 0, low >> 32 & PASID, words=words)
    if kind is Kind.DEVICE_TLB:
        return Invalidation(kind, 0, 0, low >> 32 & 0xFFFF, 0, *_device_range(high, 1), words=words)
    if kind is Kind.PASID_DEVICE_TLB:
        where = _device_range(high, 1 << 11)
        return Invalidation(kind, high & 1, 0, low >> 16 & 0xFFFF, low >> 32 & PASID, *where, words=words)
    if kind is Kind.PAGE_RESPONSE:
        return Invalidation(kind, 0, 0, low >> 16 & 0xFFFF, low >> 32 & PASID, words=words)
    return Invalidation(kind, low >> 4 & 1, mask=low >> 27 & 0x1F, words=words)


class InvalidationQueue(VtdRegisters):
    """The registers, and the queue that they tell of."""

    _busy = False
    _timed_out: int | None = None  # a device that did not answer an invalidation

    def on_queue_tail(self) -> None:
        """Take what is in the queue, until it is empty or a descriptor is wrong."""
        if self._busy or not self.get32(r.GSTS) & r.QIE:
            return
        self._busy = True
        try:
            while not self.get32(r.FSTS) & (r.IQE | r.ITE) and self._step():
                pass
        finally:
            self._busy = False

    def _step(self) -> bool:
        """One descriptor; False: there is none, or it is wrong."""
        head, tail = self.get64(r.IQH), self.get64(r.IQT)
        if head == tail:
            return False
        iqa = self.get64(r.IQA)
        width, size = 32 if iqa & 1 << 11 else 16, 4096 << (iqa & 7)
        if tail & width - 1 or tail >= size:
            return self._error(QueueError.TAIL)
        if width == 16 and self.get64(r.RTADDR) >> 10 & 3 == r.TTM_SCALABLE:
            return self._error(QueueError.WIDTH)
        try:
            words = SHAPES[width].unpack(self.read_phys((iqa & ADDR) + head, width))
        except (LookupError, OSError):
            return self._error(QueueError.FETCH)
        error = self._check(words)
        if error is not None:
            return self._error(error)
        go_on = True
        if words[0] & 0xF == Kind.WAIT:
            go_on = self._wait(words[0], words[1])
            if self.get32(r.FSTS) & r.IQE:
                return False
        else:
            self.on_invalidate(decode(words))
        self.set64(r.IQH, (head + width) % size)
        return go_on

    def _error(self, error: QueueError) -> bool:
        self.set64(r.IQERCD, self.get64(r.IQERCD) & ~0xF | error)
        self.raise_status(r.IQE)
        return False

    @staticmethod
    def _check(words: tuple[int, ...]) -> QueueError | None:
        low = words[0]
        kind = low & 0xF
        fields = FIELDS.get(kind)
        if fields is None or low & 0xE00 or (kind > Kind.WAIT and len(words) == 2):
            return QueueError.TYPE
        private = kind == Kind.PAGE_RESPONSE and low & 1 << 5
        if low & ~fields[0] or words[1] & ~fields[1] or (any(words[2:]) and not private):
            return QueueError.RESERVED
        if kind in GRANULARITIES and low >> 4 & 3 not in GRANULARITIES[kind]:
            return QueueError.RESERVED
        return None

    def _wait(self, low: int, high: int) -> bool:
        """A wait descriptor: all before it is done. False: the queue stands."""
        if self._timed_out is not None:  # a wait behind it is given up
            self.set64(r.IQERCD, self.get64(r.IQERCD) & 0xFFFF0000FFFFFFFF | self._timed_out << 32)
            self._timed_out = None
            self.raise_status(r.ITE)
            return False
        if low & WAIT_DRAIN:
            self.on_drain()
        if low & WAIT_STATUS:
            try:
                self.write_phys(high & -4, (low >> 32).to_bytes(4, "little"))
            except (LookupError, OSError):
                return self._error(QueueError.FETCH)
        if low & WAIT_INTERRUPT and not self.get32(r.ICS) & r.IWC:
            self.set32(r.ICS, r.IWC)
            self.completion_event.fire()
        return True

    def device_timed_out(self, source: int) -> None:
        """The device *source* does not answer: the next wait descriptor ends with ITE."""
        self._timed_out = source

    def on_invalidate(self, what: Invalidation) -> None:
        """A descriptor of any type but WAIT."""

    def on_drain(self) -> None:
        """A wait descriptor with PD: page requests that came before it are in their queue when this returns."""
