"""Bad input: whatever clients do, they get an errno, and what they held is free when they are gone."""

from __future__ import annotations

import pytest
import vfioclient as client
from vandal import Vandal

import pykernel
from pykernel.iommu.core import IommuCore
from pykernel.iommu.iommu import iommu_group_dma_owner_claimed
from pykernel.machine import parse
from pykernel.mm.phys import PhysMem

EDU, DSA = "0000:00:04.0", "0000:6a:01.0"
UUID = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"
MACHINE = f"""
[[pci]]
model = "edu"
address = "{EDU}"
[[pci]]
model = "dsa"
address = "{DSA}"
[modules]
vfio_pci = "disable_denylist=1"
mtty = ""
"""
STEPS = 600


def play(profile, seed, steps, *, faults=False):
    """Random calls on a machine that is whole again at the end."""
    kernel = pykernel.boot(parse(MACHINE), profile)
    root = kernel.process()
    for bdf in (EDU, DSA):
        client.detach(root, bdf)
    mdev_type = "/sys/class/mdev_bus/mtty/mdev_supported_types/mtty-2"
    root.write_text(f"{mdev_type}/create", UUID)
    vandal = Vandal(kernel, seed, [EDU, DSA, UUID], mdev_type)
    for path in vandal.paths:
        root.chmod(path, 0o666)
    if faults:
        kernel.faults.fail("alloc", nth=3 + seed % 11, every=5 + seed % 17)
        kernel.faults.fail("copy", nth=30 + seed % 13, every=37 + seed % 29)

    for _ in range(steps):
        vandal.step()
    kernel.faults.clear()
    vandal.end()

    assert not kernel.oopses
    assert kernel.sub(PhysMem).pinned == 0
    assert not [group for group in kernel.sub(IommuCore).groups.values() if iommu_group_dma_owner_claimed(group)]
    assert sum(n for what, n in vandal.said.items() if what.endswith(": ok")) > steps // 10  # they met some state
    if UUID in root.listdir("/sys/bus/mdev/devices"):
        root.write_text(f"/sys/bus/mdev/devices/{UUID}/remove", "1")
    for bdf in (EDU, DSA):
        client.reattach(root, bdf)
    root.exit()
    kernel.shutdown()


@pytest.mark.parametrize("seed", range(16))
@pytest.mark.parametrize("profile", ["linux-6.1", "linux-6.12"])
def test_random_calls_of_several_clients_end_in_errnos_and_leave_nothing(profile, seed):
    """No oops, no leak: nothing is pinned, no group is held, no memory is locked."""
    play(profile, seed, STEPS)


@pytest.mark.parametrize("seed", range(100, 108))
@pytest.mark.parametrize("profile", ["linux-6.1", "linux-6.12"])
def test_random_calls_while_allocations_fail_leave_nothing(profile, seed):
    """The way back out of what was half done."""
    play(profile, seed, STEPS, faults=True)
