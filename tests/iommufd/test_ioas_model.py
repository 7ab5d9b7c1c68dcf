"""Two IOAS, a mock device that comes and goes, and random maps, copies and unmaps, against a list of areas."""

from __future__ import annotations

from dataclasses import dataclass, field
from errno import EADDRINUSE, EEXIST, EINVAL, ENOENT, EPERM
from typing import Any

from errnos import errno_of
from hypothesis import given, settings
from hypothesis import strategies as st
from iommufdclient import FIXED, PAGE, shared
from iommufdmock import LAST, MOCK_PAGE, START, Device, Mock

from pykernel.iommufd.pages import UserLockedVm
from pykernel.machine import Machine
from pykernel.start import boot
from pykernel.uapi.linux import iommufd as i

SIZE = 8 * PAGE
UNIT = PAGE // 4
WRITE, READ = i.IOMMU_IOAS_MAP_WRITEABLE, i.IOMMU_IOAS_MAP_READABLE
ANYWHERE = ~i.IOMMU_IOAS_MAP_FIXED_IOVA


@dataclass
class Area:
    iova: int
    length: int
    va: int
    may_write: bool  # of the memory, when it was mapped first

    @property
    def end(self) -> int:
        return self.iova + self.length


@dataclass
class Model:
    """What one IOAS must hold."""

    areas: list[Area] = field(default_factory=list)
    attached: bool = False

    @property
    def alignment(self) -> int:
        return MOCK_PAGE if self.attached else 1

    def insert(self, iova: int, pieces: list[Area], flags: int) -> int:
        """The errno of mapping *pieces* in a row at *iova*; without one they are there."""
        length, mask = sum(p.length for p in pieces), self.alignment - 1
        if length & mask or iova & mask:
            return EINVAL
        if self.attached and not (iova >= START and iova + length - 1 <= LAST):
            return EINVAL
        if any(a.iova < iova + length and iova < a.end for a in self.areas):
            return EEXIST
        for p in pieces:
            if flags & WRITE and not p.may_write:
                return EPERM
            if p.va & mask:
                return EINVAL
        if any(p.length & mask for p in pieces):  # so says the IOMMU's driver: they are not at pages of its own
            return EINVAL
        for p in pieces:
            self.areas.append(Area(iova, p.length, p.va, p.may_write))
            iova += p.length
        return 0

    def slices(self, iova: int, length: int) -> list[Area] | None:
        """The memory behind a range, which must be mapped without a hole."""
        found, end = [], iova + length
        while iova < end:
            area = next((a for a in self.areas if a.iova <= iova < a.end), None)
            if area is None:
                return None
            n = min(end, area.end) - iova
            found.append(Area(iova, n, area.va + iova - area.iova, area.may_write))
            iova += n
        return found

    def unmap(self, iova: int, length: int) -> tuple[int, int]:
        """The errno and how many bytes went."""
        gone = 0
        for area in sorted(self.areas, key=lambda a: a.iova):
            if area.iova < iova + length and iova < area.end:
                if area.iova < iova or area.end > iova + length:
                    return ENOENT, gone
                self.areas.remove(area)
                gone += area.length
        return (0 if gone else ENOENT), gone

    def suits_a_device(self) -> bool:
        return all(
            not (a.iova | a.length | a.va) & MOCK_PAGE - 1 and a.iova >= START and a.end - 1 <= LAST for a in self.areas
        )


class World:
    """The kernel's and the model's."""

    def __init__(self) -> None:
        self.kernel = boot(Machine("model", modules={"iommufd": ""}), "linux-6.12", config="IOMMUFD_TEST")
        self.kernel.up()
        root = self.kernel.process()
        root.chmod("/dev/iommu", 0o666)
        root.exit()
        self.mock = Mock(self.kernel.process(uid=7, gid=7))
        self.buffer = shared(self.mock.proc, SIZE)
        self.ids = [self.mock.ioas(), self.mock.ioas()]
        self.models = [Model(), Model()]
        self.devices: list[Device | None] = [None, None]

    def apply(self, op: str, which: int, iova: int, at: int, length: int, flags: int) -> None:
        getattr(self, op)(which, START + (iova - 8) * UNIT, at * UNIT, length * UNIT, flags)
        self.check(which)

    def map(self, which: int, iova: int, at: int, length: int, flags: int) -> None:
        length = min(length, SIZE - at)
        area = Area(0, length, self.buffer + at, bool(flags & WRITE))
        error = errno_of(self.mock.map_fixed, self.ids[which], self.buffer + at, length, iova, flags)
        assert error == self.models[which].insert(iova, [area], flags)

    def map_anywhere(self, which: int, iova: int, at: int, length: int, flags: int) -> None:
        length = min(length, SIZE - at)
        model, va = self.models[which], self.buffer + at
        if (length | va) & model.alignment - 1:
            assert errno_of(self.mock.map, self.ids[which], va, length, flags & ANYWHERE) == EINVAL
            return
        iova = self.mock.map(self.ids[which], va, length, flags & ANYWHERE)
        assert iova
        assert iova & va % PAGE == va % PAGE
        assert model.insert(iova, [Area(0, length, va, bool(flags & WRITE))], flags) == 0

    def copy(self, which: int, iova: int, at: int, length: int, flags: int) -> None:
        source, target = self.models[1 - which], self.models[which]
        src = START + at - 4 * UNIT
        pieces = source.slices(src, length)
        wanted = ENOENT if pieces is None else target.insert(iova, pieces, flags)
        assert errno_of(self.mock.copy, self.ids[which], self.ids[1 - which], length, iova, src, flags) == wanted

    def unmap(self, which: int, iova: int, at: int, length: int, flags: int) -> None:
        error, gone = self.models[which].unmap(iova, length)
        if error:
            assert errno_of(self.mock.unmap, self.ids[which], iova, length) == error
        else:
            assert self.mock.unmap(self.ids[which], iova, length) == gone

    def attach(self, which: int, iova: int, at: int, length: int, flags: int) -> None:
        model = self.models[which]
        if self.devices[which] is not None:
            return
        if not model.suits_a_device():
            assert errno_of(self.mock.domain, self.ids[which]) == EADDRINUSE
            return
        self.devices[which], model.attached = self.mock.domain(self.ids[which]), True

    def detach(self, which: int, iova: int, at: int, length: int, flags: int) -> None:
        device = self.devices[which]
        if device is not None:
            self.mock.destroy(device.stdev)
            self.devices[which], self.models[which].attached = None, False

    def check(self, which: int) -> None:
        """The domain holds the memory of each area."""
        device = self.devices[which]
        if device is not None:
            for area in self.models[which].areas:
                self.mock.check_map(device.hwpt, area.va, area.iova, area.length)

    def end(self) -> None:
        """Nothing is pinned or charged when everything is unmapped, and nothing leaks."""
        for which in (0, 1):
            self.mock.unmap(self.ids[which], 0, (1 << 64) - 1)
        self.mock.check_refs(self.buffer, SIZE, 0)
        assert not any(self.kernel.sub(UserLockedVm).pages.values())
        mm = self.mock.proc.task.mm
        assert mm is not None
        assert mm.pinned_pages == 0
        self.mock.proc.exit()
        assert not self.kernel.oopses
        self.kernel.shutdown()


OPS: Any = st.tuples(
    st.sampled_from(["map", "map", "map_anywhere", "copy", "copy", "unmap", "unmap", "attach", "detach"]),
    st.sampled_from([0, 1]),
    st.integers(0, 48),
    st.integers(0, 28),
    st.one_of(st.integers(1, 12), st.sampled_from([4, 8, 16, 60])),
    st.sampled_from([FIXED, FIXED & ~WRITE, FIXED & ~READ]),
)


@settings(max_examples=100)
@given(st.lists(OPS, max_size=40))
def test_maps_copies_and_unmaps(ops):
    world = World()
    for op in ops:
        world.apply(*op)
    world.end()
