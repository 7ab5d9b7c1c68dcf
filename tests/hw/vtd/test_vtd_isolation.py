"""Who gets whose memory: PASIDs come, change and go on several devices, and the caches know only what they may."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from vtdbench import Bench

from pykernel.pci.function import DmaFault
from pykernel.pci.irq import Irqs

RW, US = 3, 4
PASIDS = [1, 63, 64, 201, 202, 0xFFFFF]
ADDR = 0x7000_0000
FIRST, SECOND, NESTED = "first", "second", "nested"


class Isolation(RuleBasedStateMachine):
    """
    The model: (device, PASID) -> the frame that its address leads to.

    Software invalidates as VT-d wants: whatever was in a cache, a device then reaches what the model says, or nothing.
    """

    ats = False

    def __init__(self) -> None:
        super().__init__()
        self.b = Bench(ats=self.ats, seconds=3)
        self.directories = {}
        for slot in self.b.slots:
            self.b.scalable(flags=1 | 8 | (4 if self.ats else 0), source=slot.source)
            self.directories[slot] = self.b.directory
        self.b.on()
        self.bound: dict[tuple, tuple] = {}  # (slot, PASID) -> (kind, domain, leaf, frame, entry)
        self.frames = 0

    def teardown(self) -> None:
        del self.b.kernel.sub(Irqs).raise_irq

    def frame(self) -> int:
        """A frame that says whose it is."""
        self.frames += 1
        pa = self.b.page()
        self.b.phys.write(pa, self.frames.to_bytes(8, "little"))
        return pa

    def guest_page(self, ss: int, gpa: int, *words: int) -> None:
        """A page of a guest's: what it calls *gpa*."""
        self.b.map(ss, gpa, self.b.page(*words) | RW)

    def bind(self, slot, pasid, kind) -> None:
        b, frame = self.b, self.frame()
        # a domain ID and a PASID are one address space: what is cached by them is not of a device
        did = 10 + len(PASIDS) * b.slots.index(slot) + PASIDS.index(pasid)
        b.directory = self.directories[slot]
        root = b.page()
        if kind == FIRST:
            leaf = b.map(root, ADDR, frame | RW | US)
            entry = b.first(pasid, root, did=did)
        elif kind == SECOND:
            leaf = b.map(root, ADDR, frame | RW)
            entry = b.second(pasid, root, did=did)
        else:
            # the guest's four tables are at 0x1000 to 0x4000 of its memory, its page at 0x5000
            for level, gpa in ((4, 0x1000), (3, 0x2000), (2, 0x3000), (1, 0x4000)):
                words = [0] * 512
                words[ADDR >> 3 + 9 * level & 511] = gpa + 0x1000 | RW | US
                self.guest_page(root, gpa, *words)
            leaf = b.map(root, 0x5000, frame | RW)
            entry = b.nested(pasid, 0x1000, root, did=did)
        self.bound[slot, pasid] = (kind, did, leaf, frame, entry)

    def flush(self, slot, pasid, *, page: bool) -> None:
        """What is cached of translations: IOTLB, then the device's."""
        kind, did, *_ = self.bound[slot, pasid]
        if kind == FIRST:
            what = (6 | 3 << 4 | did << 16 | pasid << 32, ADDR) if page else (6 | 2 << 4 | did << 16 | pasid << 32, 0)
        else:
            gpa = ADDR if kind == SECOND else 0x5000
            what = (2 | 3 << 4 | did << 16, gpa) if page else (2 | 2 << 4 | did << 16, 0)
        device = (8 | slot.source << 16 | pasid << 32, ADDR if page else 0x7FFFFFFFFFFFF000 | 1 << 11)
        self.b.submit(what, *([device] if self.ats else []))

    slots = st.integers(0, 2)
    pasids = st.sampled_from(PASIDS)

    @rule(n=slots, pasid=pasids, kind=st.sampled_from([FIRST, SECOND, NESTED]))
    def binds(self, n, pasid, kind):
        """Not-present to present needs no invalidation."""
        if (self.b.slots[n], pasid) not in self.bound:
            self.bind(self.b.slots[n], pasid, kind)

    @rule(n=slots, pasid=pasids)
    def unbinds(self, n, pasid):
        """P, PASID cache, IOTLB, device-TLB."""
        key = slot, _ = self.b.slots[n], pasid
        if key not in self.bound:
            return
        _, did, _, frame, entry = self.bound[key]
        self.b.put(entry, 0)
        self.b.submit((7 | 1 << 4 | did << 16 | pasid << 32, 0))
        self.flush(slot, pasid, page=False)
        del self.bound[key]
        self.b.phys.write(frame, bytes(8))

    @rule(n=slots, pasid=pasids, page=st.booleans())
    def moves_the_page(self, n, pasid, page):
        """Another frame at the address; the old one is somebody else's."""
        key = slot, _ = self.b.slots[n], pasid
        if key not in self.bound:
            return
        kind, did, leaf, old, entry = self.bound[key]
        frame = self.frame()
        self.b.put(leaf, frame | RW | (US if kind == FIRST else 0))
        self.flush(slot, pasid, page=page)
        self.b.phys.write(old, bytes(8))
        self.bound[key] = (kind, did, leaf, frame, entry)

    @rule(n=slots, pasid=pasids, size=st.sampled_from([8, 16]), off=st.sampled_from([0, 0xFF8]))
    def reads(self, n, pasid, size, off):
        """What it caches is for later."""
        slot = self.b.slots[n]
        if (slot, pasid) in self.bound and off + size <= 4096:
            slot.dma_read(ADDR + off, size, pasid)

    @invariant()
    def each_reaches_its_own(self):
        """And who has nothing reaches nothing."""
        for slot in self.b.slots:
            for pasid in PASIDS:
                bound = self.bound.get((slot, pasid))
                if bound is None:
                    with pytest.raises(DmaFault):
                        slot.dma_read(ADDR, 8, pasid)
                else:
                    assert slot.dma_read(ADDR, 8, pasid) == self.b.phys.read(bound[3], 8) != bytes(8)


class IsolationWithAts(Isolation):
    """The same with what devices remember."""

    ats = True


TestIsolation = Isolation.TestCase
TestIsolationWithAts = IsolationWithAts.TestCase
TestIsolation.settings = TestIsolationWithAts.settings = settings(
    max_examples=15, stateful_step_count=30, deadline=None
)
