"""A kernel with IOMMUFD and a small device behind its IOMMU; it must have nothing left at the end."""

from __future__ import annotations

import pytest
from iommufdclient import PAGE, Cdev, Iommufd, shared
from vfioclient import detach, reattach, sysfs
from vfiominimal import add_minimal, remove_minimal

from pykernel.machine import Machine, PciSpec
from pykernel.start import boot
from pykernel.syscalls import Pids

MODULES = {"vfio_pci": ""}
BUFFER_SIZE = 16 * PAGE


@pytest.fixture(params=["linux-6.12"])
def profile(request):
    return request.param


@pytest.fixture
def config():
    return ()


@pytest.fixture
def kernel(profile, config):
    pci = (PciSpec("edu", "0000:00:05.0"), PciSpec("edu", "0000:00:06.0"))
    kernel = boot(Machine("iommufd", pci=pci, modules=MODULES), profile, config=config)
    kernel.up()
    yield kernel
    assert not kernel.oopses
    for process in list(kernel.sub(Pids).processes.values()):
        process.exit()
    kernel.shutdown()


@pytest.fixture
def proc(kernel):
    return kernel.process()


@pytest.fixture
def iommu(proc):
    return Iommufd(proc)


@pytest.fixture
def ioas(iommu):
    return iommu.ioas()


@pytest.fixture
def buffer(proc):
    """BUFFER_SIZE bytes of shared anonymous memory, at a huge page."""
    return shared(proc, BUFFER_SIZE)


@pytest.fixture(params=["physical", "emulated"])
def vdev(request, kernel, proc):
    """The directory in sysfs of a device that VFIO has: edu on vfio-pci, and one without silicon."""
    if request.param == "physical":
        detach(proc, "0000:00:05.0")
        yield sysfs("0000:00:05.0")
        reattach(proc, "0000:00:05.0")
    else:
        minimal = add_minimal(kernel)
        yield "/sys/devices/minimal0"
        remove_minimal(minimal)


@pytest.fixture
def cdev(vdev, proc, kernel):
    """A descriptor of its node, not bound."""
    return Cdev(proc, vdev)
