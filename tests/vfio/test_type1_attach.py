"""Groups come into a container of type 1 and leave it: conflicts, domains, usable addresses, who is charged."""

from __future__ import annotations

import struct
from errno import EBUSY, EFAULT, EINVAL, ENOMEM, EPERM
from typing import Any

import pytest
from errnos import errno_of
from type1_scenarios import NESTING, START, UNMAP_VADDR, VADDR, K, R, info, play
from type1box import Box, emulated, machine, physical

import pykernel
from pykernel.iommu.domain import IommuDomain
from pykernel.machine import parse
from pykernel.mm.phys import PhysMem
from pykernel.uapi.linux import vfio as v
from pykernel.vfio.container import IommuDrivers
from pykernel.vfio.main import vfio_pin_pages, vfio_unpin_pages

ENDS_39 = [(0, 0xFEDFFFFF), (0xFEF00000, (1 << 39) - 1)]
BOTH = ["linux-6.1", "linux-6.12"]


def boot(profile, cards=2, **kw):
    """A kernel, its physical devices, and one that does no DMA."""
    kernel = pykernel.boot(parse(machine(cards, **kw)), profile)
    return kernel, physical(kernel).vdevs, emulated(kernel)


def join(box, vdev):
    """VFIO_GROUP_SET_CONTAINER of a group that is opened for it: 0 or -errno, and the descriptor."""
    fd = box.proc.open(f"/dev/vfio/{box.group_name(vdev)}", 2)
    try:
        box.proc.ioctl(fd, v.VFIO_GROUP_SET_CONTAINER, bytearray(struct.pack("<i", box.container)))
    except OSError as e:
        box.proc.close(fd)
        return -(e.errno or 0), -1
    return 0, fd


def group_of(vdev) -> Any:
    """The IOMMU's group of the device."""
    return vdev.dev.iommu_group


def leave(box, fd):
    """VFIO_GROUP_UNSET_CONTAINER."""
    box.proc.ioctl(fd, v.VFIO_GROUP_UNSET_CONTAINER)
    box.proc.close(fd)


def state(kernel):
    """``struct vfio_iommu`` of the only container."""
    drivers = kernel.sub(IommuDrivers).drivers
    (data,) = next(d for d in drivers if d.name == "vfio-iommu-type1").live
    return data


def ranges(box):
    """The usable addresses of GET_INFO, or None."""
    code, text = play(box, [info(256)])[0]
    data = bytes.fromhex(text)
    assert code == 0
    at = struct.unpack_from("<I", data, 16)[0]
    while at:
        id_, _, following = struct.unpack_from("<HHI", data, at)
        if id_ == 1:
            n = struct.unpack_from("<I", data, at + 8)[0]
            return [struct.unpack_from("<QQ", data.ljust(512, b"\0"), at + 16 + 16 * i) for i in range(n)]
        at = following
    return None


@pytest.mark.parametrize("profile", BOTH)
@pytest.mark.parametrize(
    ("iova", "size", "code"),
    [
        pytest.param(0xFEE00000, K, -EINVAL, id="in-the-msi-window"),
        pytest.param(0xFEDFF000, 2 * K, -EINVAL, id="into-the-msi-window"),
        pytest.param(0xFEEFF000, 2 * K, -EINVAL, id="out-of-the-msi-window"),
        pytest.param(1 << 39, K, -EFAULT, id="beyond-the-aperture"),
        pytest.param(0xFEDFF000, K, 0, id="before-the-msi-window"),
        pytest.param(0xFEF00000, K, 0, id="behind-the-msi-window"),
        pytest.param((1 << 39) - K, K, 0, id="at-the-end-of-the-aperture"),
    ],
)
def test_what_is_mapped_before_a_domain_comes_must_be_usable(profile, iova, size, code):
    """A conflict refuses the group, and leaves the container as it was."""
    kernel, (card, _), emu = boot(profile)
    box = Box(kernel, emu)
    box.set_iommu()
    assert box.map(iova, size) == 0

    got, fd = join(box, card)

    assert got == code
    assert box.locked() == (0 if code else 1)
    assert (ranges(box) is None) == bool(code)
    assert box.unmap(iova, size) == (0, size)
    if not code:
        assert ranges(box) == ENDS_39
        leave(box, fd)
    box.close()
    assert kernel.sub(PhysMem).pinned == 0


@pytest.mark.parametrize("profile", BOTH)
@pytest.mark.parametrize(("flags", "code"), [(R, 0), (3, -EFAULT)], ids=["read", "write"])
def test_a_domain_gets_what_is_mapped_and_pins_it_all_or_none(profile, flags, code):
    """vfio_iommu_replay(): of three mappings the last cannot be pinned; then none is, and nothing is charged."""
    kernel, (card, _), emu = boot(profile)
    box = Box(kernel, emu)
    box.set_iommu()
    box.map(0, 4 * K)
    box.map(8 * K, 4 * K)
    box.map(16 * K, 2 * K, flags, vaddr=box.areas["ro"])

    got, _ = join(box, card)

    assert got == code
    if code:
        assert (box.locked(), kernel.sub(PhysMem).pinned) == (0, 0)
        assert state(kernel).domain_list == []
    else:
        domain = state(kernel).domain_list[0].domain
        found = domain.iova_to_phys(8 * K + 5)
        assert kernel.sub(PhysMem).read(found, 1) == b"\1"
        assert box.locked() == (8 if profile == "linux-6.1" else 10)  # a page of zeros counts from 6.2 on
    box.close()
    assert kernel.sub(PhysMem).pinned == 0


@pytest.mark.parametrize("profile", BOTH)
def test_a_domain_that_would_lock_too_much_does_not_come(profile):
    """ENOMEM from SET_CONTAINER, and nothing is charged."""
    kernel, (card, _), emu = boot(profile)
    box = Box(kernel, emu)
    box.set_iommu()
    fd = box.proc.open(f"/dev/vfio/{box.group_name(card)}", 2)
    box.limit(6 * K)
    box.map(0, 4 * K)
    box.map(4 * K, 4 * K)
    row = bytearray(struct.pack("<i", box.container))
    assert errno_of(box.proc.ioctl, fd, v.VFIO_GROUP_SET_CONTAINER, row) == ENOMEM
    assert (box.locked(), kernel.sub(PhysMem).pinned) == (0, 0)
    box.close()


@pytest.mark.parametrize("profile", BOTH)
def test_pages_that_a_driver_has_pinned_are_charged_once(profile):
    """Whether the domain comes after the pin or before it, and when it goes while the pin stays."""
    kernel, (card, _), emu = boot(profile)
    box = Box(kernel, emu)
    box.set_iommu()
    box.open(emu)
    box.map(0, 4 * K)
    locked = [box.locked()]
    with kernel.as_task(box.proc.task):
        vfio_pin_pages(emu, K, 2, 3)
    locked.append(box.locked())
    _, fd = join(box, card)
    locked.append(box.locked())
    with kernel.as_task(box.proc.task):
        vfio_pin_pages(emu, 0, 1, 3)
        vfio_unpin_pages(emu, K, 1)
    locked.append(box.locked())
    leave(box, fd)
    locked.append(box.locked())
    vfio_unpin_pages(emu, 0, 4)
    locked.append(box.locked())

    assert locked == [0, 2, 4, 4, 2, 0]
    assert box.unmap(0, 4 * K) == (0, 4 * K)
    assert kernel.sub(PhysMem).pinned == 0
    box.close()


@pytest.mark.parametrize("profile", BOTH)
def test_a_failed_attach_charges_nothing(profile):
    """Neither for pins of drivers that were reached, nor for those behind: each of three tries leaves two pages."""
    kernel, (card,), emu = boot(profile, 1)
    box = Box(kernel, emu)
    box.set_iommu()
    box.open(emu)
    box.map(0, 2 * K)
    box.map(16 * K, 8 * K, vaddr=box.areas["beforehole"])  # the last four pages are not there
    with kernel.as_task(box.proc.task):
        vfio_pin_pages(emu, K, 1, 3)
        vfio_pin_pages(emu, 17 * K, 1, 3)
        for _ in range(3):
            assert join(box, card) == (-EFAULT, -1)
            assert (box.locked(), kernel.sub(PhysMem).pinned) == (2, 2)
        vfio_unpin_pages(emu, K, 1)
        vfio_unpin_pages(emu, 17 * K, 1)
    assert box.locked() == 0
    box.close()


@pytest.mark.parametrize("profile", BOTH)
def test_groups_with_equal_abilities_share_a_domain(profile):
    """Its page tables are one; it goes with the last group, and all mappings with it."""
    kernel, (a, b), _ = boot(profile)
    box = Box(kernel, a)
    box.set_iommu()
    box.map(0, 4 * K)
    code, fd = join(box, b)

    assert code == 0
    (domain,) = state(kernel).domain_list
    assert [g.iommu_group for g in domain.group_list] == [b.dev.iommu_group, a.dev.iommu_group]
    assert group_of(a).domain is group_of(b).domain is domain.domain
    assert box.locked() == 4

    leave(box, fd)
    assert box.locked() == 4
    leave(box, box.groups[0])
    assert box.locked() == 0
    assert play(box, [info(24)])[0][0] == -EINVAL  # the last group took the IOMMU driver
    box.close()


@pytest.mark.parametrize("profile", BOTH)
def test_groups_of_other_coherency_have_domains_of_their_own(profile, monkeypatch):
    """What is mapped is in both, pinned once; CHECK_EXTENSION says coherent if all are."""
    kernel, (a, b), _ = boot(profile, snoop=True)
    box = Box(kernel, a)
    box.set_iommu()
    box.map(0, 4 * K)
    assert play(box, [("extension", v.VFIO_DMA_CC_IOMMU)]) == [1]
    kind = type(state(kernel).domain_list[0].domain)
    with monkeypatch.context() as patch:
        patch.setattr(kind, "enforce_cache_coherency", lambda self: False)
        _, fd = join(box, b)
    new, old = state(kernel).domain_list
    assert new.domain is group_of(b).domain
    assert play(box, [("extension", v.VFIO_DMA_CC_IOMMU)]) == [0]
    box.map(M_IOVA, 2 * K)

    for iova in (0, 3 * K, M_IOVA + K):
        assert new.domain.iova_to_phys(iova) == old.domain.iova_to_phys(iova) is not None
    assert box.locked() == 6
    assert box.unmap(0, 4 * K) == (0, 4 * K)
    assert new.domain.iova_to_phys(0) is old.domain.iova_to_phys(0) is None
    leave(box, fd)
    assert box.locked() == 2
    box.close()
    assert kernel.sub(PhysMem).pinned == 0


M_IOVA = 0x200000


@pytest.mark.parametrize("profile", BOTH)
def test_without_interrupt_remapping_a_group_is_refused(profile):
    """EPERM and a line; the parameter allows it, from then on."""
    kernel, (card,), _ = boot(profile, 1, remap=False)
    box = Box(kernel, card)
    assert box.set_iommu() == -EPERM
    text = (
        "vfio_iommu_type1_attach_group: No interrupt remapping support.  Use the module param "
        '"allow_unsafe_interrupts" to enable VFIO IOMMU support on this platform'
    )
    assert text in [record.text for record in kernel.log.since(0)]

    box.proc.write_text("/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts", "1")
    assert box.set_iommu() == 0
    box.close()


@pytest.mark.parametrize("profile", BOTH)
@pytest.mark.parametrize("who", ["physical", "emulated"])
def test_while_an_address_is_taken_back_no_group_comes(profile, who):
    """EBUSY, until it is given again."""
    kernel, (a, b), emu = boot(profile)
    box = Box(kernel, a)
    box.set_iommu()
    box.map(0, K)
    box.unmap(0, K, UNMAP_VADDR)
    other = b if who == "physical" else emu
    assert join(box, other)[0] == -EBUSY
    assert box.map(0, K, VADDR) == 0
    assert join(box, other)[0] == 0
    box.close()


@pytest.mark.parametrize("profile", BOTH)
def test_who_gives_an_address_is_charged(profile):
    """The mapping moves to the process that updates it; the one that made it is charged no more."""
    kernel, (a, _), _ = boot(profile)
    box = Box(kernel, a)
    box.set_iommu()
    box.map(0, 4 * K)
    box.unmap(0, 4 * K, UNMAP_VADDR)
    child: Any = box.proc.fork()
    row = v.vfio_iommu_type1_dma_map(argsz=32, flags=VADDR, vaddr=box.areas["a"], iova=0, size=4 * K)
    child.ioctl(box.container, v.VFIO_IOMMU_MAP_DMA, row)

    assert (box.locked(), child.task.mm.locked_vm) == (0, 4)
    assert box.unmap(0, 4 * K) == (0, 4 * K)
    assert (box.locked(), child.task.mm.locked_vm) == (0, 0)
    child.exit()
    box.close()


@pytest.mark.parametrize("profile", BOTH)
def test_a_mapping_outlives_the_process_that_made_it(profile):
    """While another one has the container open, devices reach the pages; they are free when it closes."""
    kernel, (a, _), _ = boot(profile)
    box = Box(kernel, a)
    box.set_iommu()
    box.proc.mem.write(box.areas["a"], b"still there")
    box.map(0, K)
    child = box.proc.fork()
    box.proc.exit()

    pa = state(kernel).domain_list[0].domain.iova_to_phys(0)
    assert kernel.sub(PhysMem).read(pa, 11) == b"still there"
    child.exit()
    assert kernel.sub(PhysMem).pinned == 0


@pytest.mark.parametrize("profile", BOTH)
def test_usable_addresses_when_the_last_domain_goes(profile):
    """With emulated devices left, the list stays, and has all addresses; pages are of all sizes again."""
    kernel, (a, _), emu = boot(profile)
    box = Box(kernel, emu)
    box.set_iommu()
    assert ranges(box) is None
    _, fd = join(box, a)
    assert ranges(box) == ENDS_39
    leave(box, fd)
    assert ranges(box) == [(0, (1 << 64) - 1)]
    sizes = struct.unpack_from("<Q", bytes.fromhex(play(box, [info(16)])[0][1]), 8)[0]
    assert sizes == (1 << 64) - K
    box.close()


@pytest.mark.parametrize("profile", BOTH)
def test_when_a_group_that_writes_unseen_goes_all_is_written(profile):
    """num_non_pinned_groups: the bitmaps are full once more, then only what drivers write counts."""
    kernel, (a, _), emu = boot(profile)
    box = Box(kernel, emu)
    box.set_iommu()
    _, fd = join(box, a)
    box.map(0, 8 * K)
    box.dirty(START)
    assert [box.bitmap(0, 8), box.bitmap(0, 8)] == [0xFF, 0xFF]
    leave(box, fd)
    assert [box.bitmap(0, 8), box.bitmap(0, 8)] == [0xFF, 0]
    box.close()


@pytest.mark.parametrize("profile", BOTH)
def test_the_nesting_type_is_for_emulated_devices_only_as_vtd_cannot(profile):
    """EINVAL from iommu_enable_nesting()."""
    kernel, (a, _), emu = boot(profile)
    box = Box(kernel, a, kind=NESTING)
    assert box.set_iommu() == -EINVAL
    assert group_of(a).domain is not group_of(a).default_domain  # the group is still owned
    box.close()
    box = Box(kernel, emu, kind=NESTING)
    assert box.set_iommu() == 0
    box.close()


@pytest.mark.parametrize("huge", [True, False], ids=["huge", "disable_hugepages"])
def test_what_is_contiguous_is_mapped_at_once(huge, monkeypatch):
    """One extent of 2 MiB; page by page with disable_hugepages."""
    kernel, (a, _), _ = boot("linux-6.1", params="" if huge else "disable_hugepages=1")
    box = Box(kernel, a)
    box.set_iommu()
    domain = state(kernel).domain_list[0].domain
    calls = []
    real = type(domain).map

    def note(self, *args):
        calls.append(args[2])
        real(self, *args)

    monkeypatch.setattr(type(domain), "map", note)
    vaddr = -(-box.areas["a"] // 0x200000) * 0x200000

    box.map(0x40000000, 0x200000, vaddr=vaddr)

    assert calls == ([0x200000] if huge else [K] * 512)
    assert isinstance(domain, IommuDomain)
    box.close()
    assert kernel.sub(PhysMem).pinned == 0
