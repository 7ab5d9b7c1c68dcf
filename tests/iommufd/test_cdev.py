"""
Devices of VFIO on IOMMUFD by their own nodes: drivers/vfio/device_cdev.c and iommufd.c of Linux 6.12.

Each for a physical device (edu on vfio-pci) and for an emulated one; and the cases of the kernel's
tools/testing/selftests/vfio/vfio_iommufd_setup_test.c, by their names.
"""

from __future__ import annotations

from errno import EBADF, EBADFD, EBUSY, EFAULT, EINVAL, ENOENT, EPERM

import pytest
from errnos import errno_of
from iommufdclient import PAGE, Cdev, Iommufd
from vfiominimal import add_minimal, remove_minimal
from vfiotoy import open_group

from pykernel.fs.anon import EventFd
from pykernel.pci.core import Pci
from pykernel.uapi.linux import iommufd as i
from pykernel.uapi.linux import vfio as v
from pykernel.vfio.main import (
    vfio_dma_read,
    vfio_dma_write,
    vfio_pin_pages,
    vfio_unpin_pages,
)

BUFFER_SIZE = 16 * PAGE


def is_physical(vdev: str) -> bool:
    return "pci" in vdev


# ---- vfio_iommufd_setup_test.c


def test_bind(cdev, iommu):
    assert cdev.bind(iommu.fd) > 0
    assert cdev.get_info() == 0
    cdev.close()


def test_get_info_without_bind_fails(cdev, iommu):
    assert errno_of(cdev.get_info) == EINVAL
    cdev.close()


def test_bind_bad_iommufd_fails(cdev):
    assert errno_of(cdev.bind, -2) == EINVAL
    cdev.close()


def test_repeated_bind_fails(cdev, iommu):
    cdev.bind(iommu.fd)
    assert errno_of(cdev.bind, iommu.fd) == EINVAL
    cdev.close()


def test_attach_detatch_pt(cdev, iommu, ioas):
    cdev.bind(iommu.fd)
    cdev.attach(ioas)
    cdev.detach()
    cdev.close()


def test_attach_invalid_pt_fails(cdev, iommu):
    cdev.bind(iommu.fd)
    assert errno_of(cdev.attach, 0xFFFFFFFF) == ENOENT
    cdev.close()


# ---- who may bind


BAD_BINDS = {
    "argsz_too_small": ({"argsz": 15}, EINVAL),
    "an_unknown_flag": ({"flags": 2}, EINVAL),
    "a_negative_descriptor": ({"iommufd": -1}, EINVAL),
    "no_descriptor": ({"iommufd": 99}, EBADF),
}


@pytest.mark.parametrize(("fields", "error"), BAD_BINDS.values(), ids=list(BAD_BINDS))
def test_a_bad_bind(cdev, iommu, fields, error):
    assert errno_of(lambda: cdev.bind(**{"iommufd": iommu.fd} | fields)) == error
    cdev.bind(iommu.fd)
    cdev.close()


def test_a_descriptor_of_something_else_is_ebadfd(cdev, proc):
    other = proc.eventfd(0)
    assert errno_of(cdev.bind, other) == EBADFD
    assert isinstance(proc.fds.get(other), EventFd)
    cdev.close()


def test_an_unreadable_bind_is_efault(cdev, proc):
    assert errno_of(proc.ioctl, cdev.fd, v.VFIO_DEVICE_BIND_IOMMUFD, 8) == EFAULT
    cdev.close()


def test_a_second_descriptor_cannot_bind_while_the_first_is_bound(cdev, iommu):
    other = cdev.again()
    cdev.bind(iommu.fd)
    assert errno_of(other.bind, iommu.fd) == EINVAL
    cdev.close()
    other.bind(iommu.fd)
    other.close()


def test_group_and_node_exclude_each_other(kernel, proc, iommu):
    dev = add_minimal(kernel)
    cdev = Cdev(proc, "/sys/devices/minimal0")
    group = open_group(proc, dev)
    assert errno_of(cdev.bind, iommu.fd) == EBUSY
    proc.close(group)
    cdev.bind(iommu.fd)
    assert errno_of(open_group, proc, dev) == EBUSY
    cdev.close()
    proc.close(open_group(proc, dev))
    remove_minimal(dev)


@pytest.mark.parametrize("vdev", ["physical"], indirect=True)
def test_another_owner_of_the_dma_is_eperm(kernel, proc, vdev, cdev, iommu):
    group = kernel.sub(Pci).devices["0000:00:05.0"].iommu_group
    group.claim_dma_owner(proc)
    assert errno_of(cdev.bind, iommu.fd) == EPERM
    group.release_dma_owner()
    cdev.bind(iommu.fd)
    cdev.close()


# ---- attach


BAD_ATTACHES = {"argsz_too_small": ({"argsz": 11}, EINVAL), "a_flag": ({"flags": 2}, EINVAL)}


@pytest.mark.parametrize(("fields", "error"), BAD_ATTACHES.values(), ids=list(BAD_ATTACHES))
def test_a_bad_attach(cdev, iommu, ioas, fields, error):
    cdev.bind(iommu.fd)
    assert errno_of(lambda: cdev.attach(ioas, **fields)) == error
    cdev.close()


def test_an_object_of_another_type(vdev, cdev, iommu):
    """EINVAL for a device, which looks at any object; an access looks for an IOAS only."""
    devid = cdev.bind(iommu.fd)
    assert errno_of(cdev.attach, devid) == (EINVAL if is_physical(vdev) else ENOENT)
    cdev.close()


def test_pt_id_comes_back(vdev, cdev, iommu, ioas):
    devid = cdev.bind(iommu.fd)
    pt_id = cdev.attach(ioas)
    assert pt_id == (devid + 1 if is_physical(vdev) else ioas)
    assert errno_of(iommu.destroy, ioas) == EBUSY
    cdev.close()


def test_an_emulated_device_has_no_number_for_page_tables(vdev, cdev, iommu, ioas):
    devid = cdev.bind(iommu.fd)
    wanted = 0 if is_physical(vdev) else ENOENT
    assert errno_of(iommu.hwpt, devid, ioas) == wanted
    assert errno_of(lambda: iommu(i.IOMMU_GET_HW_INFO, dev_id=devid)) == wanted
    cdev.close()


def test_a_second_attach_replaces(vdev, cdev, iommu, ioas):
    cdev.bind(iommu.fd)
    cdev.attach(ioas)
    other = iommu.ioas()
    cdev.attach(other)
    iommu.destroy(ioas)
    assert errno_of(iommu.destroy, other) == EBUSY
    assert errno_of(cdev.attach, 99) == ENOENT
    assert errno_of(iommu.destroy, other) == EBUSY
    cdev.detach()
    iommu.destroy(other)
    cdev.close()


def test_detach_of_nothing_is_fine(cdev, iommu):
    cdev.bind(iommu.fd)
    cdev.detach()
    cdev.close()


@pytest.mark.parametrize(("fields", "error"), [({"argsz": 7}, EINVAL), ({"flags": 2}, EINVAL)], ids=["argsz", "flags"])
def test_a_bad_detach(cdev, iommu, fields, error):
    cdev.bind(iommu.fd)
    assert errno_of(lambda: cdev.detach(**fields)) == error
    cdev.close()


def test_closing_detaches_and_unbinds(cdev, iommu, ioas):
    cdev.bind(iommu.fd)
    cdev.attach(ioas)
    cdev.close()
    iommu.destroy(ioas)


def test_the_iommufd_may_be_closed_first(cdev, iommu, ioas, buffer):
    """The device keeps the context: what is mapped stays until it goes, too."""
    cdev.bind(iommu.fd)
    cdev.attach(ioas)
    iommu.map(ioas, buffer, PAGE)
    iommu.close()
    assert cdev.get_info() == 0
    cdev.close()


def test_structs_that_grew_are_not_written_beyond_argsz(cdev, iommu, ioas, proc):
    """Pitfall: bind grew from 16 to 24 bytes, attach from 12 to 16, detach from 8 to 12, vfio_device_info to 24."""
    at = proc.mem.alloc(64)

    def call(row, data: bytes, size: int) -> bytes:
        proc.mem.write(at, data.ljust(size, b"\0") + b"\xaa" * 24)
        assert proc.ioctl(cdev.fd, row, at) == 0
        assert proc.mem.read(at + size, 24) == b"\xaa" * 24
        return proc.mem.read(at, size)

    u32 = lambda *words: b"".join(w.to_bytes(4, "little") for w in words)  # noqa: E731
    call(v.VFIO_DEVICE_BIND_IOMMUFD, u32(16, 0, iommu.fd), 16)
    call(v.VFIO_DEVICE_ATTACH_IOMMUFD_PT, u32(12, 0, ioas), 12)
    for size in (16, 20):
        call(v.VFIO_DEVICE_GET_INFO, u32(size), size)
    call(v.VFIO_DEVICE_DETACH_IOMMUFD_PT, u32(8, 0), 8)
    cdev.close()


# ---- what a device sees


@pytest.mark.parametrize("vdev", ["physical"], indirect=True)
def test_a_physical_device_reaches_what_is_mapped(kernel, proc, cdev, iommu, ioas, buffer):
    cdev.bind(iommu.fd)
    cdev.attach(ioas)
    iova = iommu.map(ioas, buffer, BUFFER_SIZE)
    space = kernel.sub(Pci).devices["0000:00:05.0"].slot.space
    proc.mem.write(buffer + 2 * PAGE, b"from user")
    assert space.read(iova + 2 * PAGE, 9) == b"from user"
    space.write(iova + 5 * PAGE - 3, b"from device")
    assert proc.mem.read(buffer + 5 * PAGE - 3, 11) == b"from device"
    cdev.close()


@pytest.fixture
def emulated(kernel, proc, iommu, ioas):
    """An emulated device that is bound and attached; what its driver is told to unmap."""
    dev = add_minimal(kernel)
    told = []
    dev.dma_unmap = lambda iova, length: told.append((iova, length))
    cdev = Cdev(proc, "/sys/devices/minimal0")
    cdev.bind(iommu.fd)
    cdev.attach(ioas)
    yield dev, cdev, told
    cdev.close()
    remove_minimal(dev)


def test_an_emulated_device_reads_and_writes_what_is_mapped(proc, iommu, ioas, buffer, emulated):
    dev, _, _ = emulated
    iommu.map_fixed(ioas, buffer, BUFFER_SIZE, 1 << 20)
    proc.mem.write(buffer + PAGE - 2, b"abcd")
    assert vfio_dma_read(dev, (1 << 20) + PAGE - 2, 4) == b"abcd"
    vfio_dma_write(dev, (1 << 20) + PAGE - 2, b"ABCD")
    assert proc.mem.read(buffer + PAGE - 2, 4) == b"ABCD"


def test_rights_and_holes_of_an_access(iommu, ioas, buffer, emulated):
    dev, _, _ = emulated
    read_only = i.IOMMU_IOAS_MAP_FIXED_IOVA | i.IOMMU_IOAS_MAP_READABLE
    write_only = i.IOMMU_IOAS_MAP_FIXED_IOVA | i.IOMMU_IOAS_MAP_WRITEABLE
    iommu.map_fixed(ioas, buffer, PAGE, 0x10000, read_only)
    iommu.map_fixed(ioas, buffer, PAGE, 0x20000, write_only)
    assert errno_of(vfio_dma_write, dev, 0x10000, b"x") == EPERM
    assert errno_of(vfio_dma_read, dev, 0x20000, 1) == EPERM
    assert errno_of(vfio_dma_read, dev, 0x10000 + PAGE - 1, 2) == ENOENT
    assert errno_of(vfio_pin_pages, dev, 0x10000, 1, 2) == EPERM
    assert errno_of(vfio_pin_pages, dev, 0x30000, 1, 1) == ENOENT


def test_unmapping_tells_the_driver_which_gives_its_pages_back(kernel, proc, iommu, ioas, buffer, emulated):
    dev, _, told = emulated
    iommu.map_fixed(ioas, buffer, BUFFER_SIZE, 1 << 20)
    pages = vfio_pin_pages(dev, (1 << 20) + PAGE, 2, 3)
    assert len(pages) == 2

    def give_back(iova: int, length: int) -> None:
        told.append((iova, length))
        vfio_unpin_pages(dev, (1 << 20) + PAGE, 2)

    dev.dma_unmap = give_back
    assert iommu.unmap(ioas, 1 << 20, BUFFER_SIZE) == BUFFER_SIZE
    assert told == [(1 << 20, BUFFER_SIZE)]


def test_a_driver_that_keeps_its_pages_is_edeadlock(iommu, ioas, buffer, emulated):
    dev, _, told = emulated
    iommu.map_fixed(ioas, buffer, BUFFER_SIZE, 1 << 20)
    vfio_pin_pages(dev, 1 << 20, 1, 3)
    assert errno_of(iommu.unmap, ioas, 1 << 20, BUFFER_SIZE) == 35
    assert set(told) == {(1 << 20, BUFFER_SIZE)}
    assert errno_of(vfio_pin_pages, dev, 1 << 20, 1, 3) == EINVAL  # it is about to go
    vfio_unpin_pages(dev, 1 << 20, 1)
    assert iommu.unmap(ioas, 1 << 20, BUFFER_SIZE) == BUFFER_SIZE


def test_detaching_tells_the_driver_of_everything(iommu, ioas, buffer, emulated):
    dev, cdev, told = emulated
    iommu.map_fixed(ioas, buffer, BUFFER_SIZE, 1 << 20)
    vfio_pin_pages(dev, 1 << 20, 1, 3)

    def give_back(iova: int, length: int) -> None:
        told.append((iova, length))
        vfio_unpin_pages(dev, 1 << 20, 1)

    dev.dma_unmap = give_back
    cdev.detach()
    assert told == [(0, (1 << 64) - 1)]
    assert errno_of(vfio_dma_read, dev, 1 << 20, 1) == ENOENT


def test_an_emulated_device_needs_whole_pages(iommu, ioas, buffer, emulated):
    """Attached, the IOAS is aligned to pages; what was mapped before must be, too."""
    assert iommu.ranges(ioas)[1] == PAGE
    assert errno_of(iommu.map, ioas, buffer, 100) == EINVAL


def test_objects_are_per_context(proc, cdev, iommu):
    other = Iommufd(proc)
    foreign = other.ioas()
    assert foreign == 1
    assert cdev.bind(iommu.fd) == 1
    assert errno_of(cdev.attach, 7) == ENOENT
    cdev.close()
    other.close()
