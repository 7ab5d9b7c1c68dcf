"""
The kernel's selftests of VFIO (tools/testing/selftests/vfio, Linux 6.18 and later), case by case, by their names.

vfio_iommufd_setup_test is in tests/iommufd/test_cdev.py; a driver's and virtual functions' cases are beside this file.
Modes are those of lib/iommu.c; where an older kernel answers otherwise, the docstring says so.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EFAULT, EINVAL, EOVERFLOW
from functools import partial
from typing import Any

import pytest
import vfioclient as client
from errnos import errno_of

import pykernel
from pykernel.machine import parse
from pykernel.uapi.linux import pci_regs as r
from pykernel.uapi.linux import vfio as v

EDU, DSA = "0000:00:04.0", "0000:6a:01.0"
MACHINE = f"""
[[pci]]
model = "edu"
address = "{EDU}"
[[pci]]
model = "dsa"
address = "{DSA}"
[modules]
vfio_pci = "disable_denylist=1"
"""
MODES: dict[str, Callable[..., Any]] = {
    "vfio_type1_iommu": partial(client.Container, iommu_type=v.VFIO_TYPE1_IOMMU),
    "vfio_type1v2_iommu": partial(client.Container, iommu_type=v.VFIO_TYPE1v2_IOMMU),
    "iommufd_compat_type1": partial(client.Container, iommu_type=v.VFIO_TYPE1_IOMMU, path="/dev/iommu"),
    "iommufd_compat_type1v2": partial(client.Container, iommu_type=v.VFIO_TYPE1v2_IOMMU, path="/dev/iommu"),
    "iommufd": client.Iommufd,
}
ALL_MODES = [
    (profile, mode)
    for profile in ("linux-6.1", "linux-6.12", "linux-7.2")
    for mode in MODES
    if profile != "linux-6.1" or "iommufd" not in mode
]
PAGE, M, G = 1 << 12, 1 << 20, 1 << 30
MAX_TEST_MSI = 16


class Bed:
    """One of the devices, opened in a mode."""

    def __init__(self, profile: str, mode: str, bdf: str = EDU) -> None:
        self.kernel = pykernel.boot(parse(MACHINE), profile)
        self.root, self.proc = self.kernel.process(comm="run.sh"), self.kernel.process(comm="selftest")
        self.bdf = bdf
        client.detach(self.root, bdf)
        self.iommu = MODES[mode](self.proc)
        self.device = self.iommu.device(client.sysfs(bdf))

    def tear_down(self):
        self.proc.exit()
        client.reattach(self.root, self.bdf)
        self.root.exit()
        self.kernel.shutdown()
        assert not self.kernel.oopses


@pytest.fixture(params=ALL_MODES, ids="-".join)
def bed(request):
    profile, mode = request.param
    bed = Bed(profile, mode)
    yield bed
    bed.tear_down()


@pytest.fixture(params=[EDU, DSA], ids=["edu", "dsa"])
def device(request, bed_mode):
    bed = Bed(bed_mode[0], bed_mode[1], request.param)
    yield bed.device
    bed.tear_down()


@pytest.fixture(params=[row for row in ALL_MODES if row[1] in ("vfio_type1_iommu", "iommufd")], ids="-".join)
def bed_mode(request):
    return request.param


# ---- vfio_dma_mapping_test


@pytest.mark.parametrize("size", [PAGE, 2 * M, 64 * M], ids=["page", "2mb", "64mb"])
def test_vfio_dma_mapping_test_dma_map_unmap(bed, size):
    """As much is unmapped as was mapped; then the place is free."""
    memory = client.anonymous(bed.proc, size)
    iova = 4 * G
    for _ in range(2):
        bed.iommu.map(memory, iova, size)
        assert bed.iommu.unmap(iova, size) == size
    bed.proc.munmap(memory, size)


@pytest.fixture
def last_page(bed):
    """Where the last page is that can be mapped."""
    return bed.iommu.ranges()[-1][1] & -PAGE


@pytest.fixture
def memory(bed):
    return client.anonymous(bed.proc, 2 * PAGE)


def test_vfio_dma_map_limit_test_unmap_range(bed, last_page, memory):
    bed.iommu.map(memory, last_page, PAGE)
    assert bed.iommu.unmap(last_page, PAGE) == PAGE


def test_vfio_dma_map_limit_test_unmap_all(bed, last_page, memory):
    bed.iommu.map(memory, last_page, PAGE)
    assert bed.iommu.unmap_all() == PAGE


def test_vfio_dma_map_limit_test_overflow(request, bed, memory):
    """Type 1 said EINVAL before Linux 6.18."""
    profile, mode = request.node.callspec.params["bed"]
    wanted = EINVAL if mode.startswith("vfio_type1") and profile != "linux-7.2" else EOVERFLOW
    last = (1 << 64) - PAGE
    assert errno_of(bed.iommu.map, memory, last, 2 * PAGE) == wanted
    assert errno_of(bed.iommu.unmap, last, 2 * PAGE) == wanted


# ---- vfio_dma_mapping_mmio_test


@pytest.mark.parametrize(("off", "size"), [(0, M), (PAGE, PAGE)], ids=["full_bar", "partial_bar"])
def test_vfio_dma_mapping_mmio_test_map(request, bed, off, size):
    """A device's memory can be another's by type 1; IOMMUFD refuses it: EFAULT."""
    bed.device.enable_memory()
    bar = bed.device.region(v.VFIO_PCI_BAR0_REGION_INDEX).mmap()
    _, mode = request.node.callspec.params["bed"]
    if mode.startswith("vfio_type1"):
        bed.iommu.map(bar + off, 4 * G, size)
        assert bed.iommu.unmap(4 * G, size) == size
    else:
        assert errno_of(bed.iommu.map, bar + off, 4 * G, size) == EFAULT


def test_vfio_dma_mapping_mmio_test_map_bar_misaligned(request, bed):
    """The address may be anywhere in 2 MiB, type 1 takes it by pages."""
    bed.device.enable_memory()
    bar = bed.device.region(v.VFIO_PCI_BAR0_REGION_INDEX).mmap()
    _, mode = request.node.callspec.params["bed"]
    iova = 4 * G + 0x5000
    if mode.startswith("vfio_type1"):
        bed.iommu.map(bar, iova, M)
        assert bed.iommu.unmap(iova, M) == M
    else:
        assert errno_of(bed.iommu.map, bar, iova, M) == EFAULT


# ---- vfio_pci_device_test


def test_vfio_pci_device_test_config_space_read_write(device):
    config = device.config()
    path = client.sysfs(EDU if device.region(0).info.size == M else DSA)
    for name, at in (("vendor", r.PCI_VENDOR_ID), ("device", r.PCI_DEVICE_ID)):
        assert int(device.proc.read_text(f"{path}/{name}"), 16) == int.from_bytes(config.read(at, 2), "little")

    def command():
        return int.from_bytes(config.read(r.PCI_COMMAND, 2), "little")

    assert not command() & r.PCI_COMMAND_MASTER
    config.write(r.PCI_COMMAND, (command() | r.PCI_COMMAND_MASTER).to_bytes(2, "little"))
    assert command() & r.PCI_COMMAND_MASTER
    config.write(r.PCI_COMMAND, (command() & ~r.PCI_COMMAND_MASTER).to_bytes(2, "little"))
    assert not command() & r.PCI_COMMAND_MASTER


def test_vfio_pci_device_test_validate_bars(device):
    """What can be mapped is, and has a size; what cannot has none that could be."""
    mapped = 0
    for index in range(v.VFIO_PCI_BAR5_REGION_INDEX + 1):
        bar = device.region(index)
        if bar.info.flags & v.VFIO_REGION_INFO_FLAG_MMAP:
            assert bar.info.size
            assert bar.mmap()
            mapped += 1
        else:
            assert errno_of(bar.mmap, PAGE) == EINVAL
    assert mapped


def test_vfio_pci_device_test_reset(device):
    if device.info.flags & v.VFIO_DEVICE_FLAGS_RESET:
        assert device.reset() == 0
    else:
        assert errno_of(device.reset) == EINVAL


@pytest.mark.parametrize("index", [v.VFIO_PCI_MSI_IRQ_INDEX, v.VFIO_PCI_MSIX_IRQ_INDEX], ids=["msi", "msix"])
def test_vfio_pci_irq_test_enable_trigger_disable(device, index):
    """edu has one MSI and no MSI-X, a DSA nine MSI-X and no MSI; without any it is EINVAL."""
    count = min(device.irq(index).count, MAX_TEST_MSI)
    proc = device.proc
    events = [proc.eventfd() for _ in range(count)]
    if not count:
        assert errno_of(device.signal_by, index, [proc.eventfd()]) == EINVAL
        return
    device.signal_by(index, events)
    for n, event in enumerate(events):
        device.trigger(index, n)
        assert proc.read(event, 8) == (1).to_bytes(8, "little")
    assert device.disable(index) == 0
    assert errno_of(device.trigger, index, 0) == EINVAL
