"""
What Linux 6.1.0-56 and 6.12.95 answered for `edu` on vfio-pci, a q35 machine with VT-d: recorded, and asked here.

Both gave the same where no kernel is named.
"""

from __future__ import annotations

import struct
from errno import EINVAL, ENOTTY
from types import SimpleNamespace

import pytest
import vfioclient as client
from vfiotoy import get_device_fd, set_container

from pykernel.machine import parse
from pykernel.start import boot
from pykernel.uapi.linux import vfio as v

BDF = "0000:00:01.0"
MACHINE = f"""
[[pci]]
model = "edu"
address = "{BDF}"
[modules]
vfio_pci = ""
"""
G, S, P = v.VFIO_DEVICE_FEATURE_GET, v.VFIO_DEVICE_FEATURE_SET, v.VFIO_DEVICE_FEATURE_PROBE
FLAGS = (1 << 19, G, S, G | S, P, P | G, P | S, P | G | S)
SIZES = (7, 8, 72)
# one word for each of FLAGS, one letter for each of SIZES: I EINVAL, T ENOTTY, 0 success
NEITHER = "III ITT ITT III ITT ITT ITT ITT"
FEATURES = {
    0: NEITHER, 1: NEITHER, 2: NEITHER,
    3: "III III I0I III I00 III I00 III",  # low power: the second time it is in that state
    4: "III III III III I00 III I00 III",
    5: "III III I00 III I00 III I00 III",
    6: NEITHER, 7: NEITHER, 8: NEITHER, 9: NEITHER, 10: NEITHER, 11: NEITHER,
}  # fmt: skip


@pytest.fixture(params=["linux-6.1", "linux-6.12"])
def w(request):
    """The device in a container of type 1, with two descriptors; Debian's kernels have no IOMMUFD."""
    options = () if request.param == "linux-6.1" else ("-IOMMUFD",)
    kernel = boot(parse(MACHINE), request.param, config=options)
    proc = kernel.process()
    client.detach(proc, BDF)
    c, g = proc.open("/dev/vfio/vfio", 2), proc.open("/dev/vfio/0", 2)
    set_container(proc, g, c)
    proc.ioctl(c, v.VFIO_SET_IOMMU, v.VFIO_TYPE1v2_IOMMU)
    fds = [get_device_fd(proc, g, BDF) for _ in range(2)]
    yield SimpleNamespace(kernel=kernel, proc=proc, c=c, g=g, fds=fds, old=request.param == "linux-6.1")
    proc.exit()
    kernel.shutdown()
    assert not kernel.oopses


def test_every_feature_with_all_flags(w):
    """The order of the questions matters: low power is entered, and is in that state then."""
    letters = {0: "0", EINVAL: "I", ENOTTY: "T"}
    for index, wanted in FEATURES.items():
        words = []
        for flags in FLAGS:
            word = ""
            for size in SIZES:
                arg = bytearray(struct.pack("<II", size, index | flags) + bytes(64))
                try:
                    w.proc.ioctl(w.fds[0], v.VFIO_DEVICE_FEATURE, arg)
                    word += "0"
                except OSError as e:
                    word += letters[e.errno or 0]
            words.append(word)
        assert (index, " ".join(words)) == (index, wanted)


def refcnt(w, module):
    return int(w.proc.read_text(f"/sys/module/{module}/refcnt"))


def test_references_of_the_modules(w):
    """The container, the group (cdev and fops), two devices; three modules; of 6.12 the mount of the inodes."""
    assert refcnt(w, "vfio") == (8 if w.old else 9)
    assert refcnt(w, "vfio_pci") == (2 if w.old else 1)
    assert (refcnt(w, "vfio_iommu_type1"), refcnt(w, "vfio_pci_core")) == (1, 1)
    w.proc.close(w.g)  # which stays open, for its device is
    w.proc.close(w.fds[1])
    assert refcnt(w, "vfio") == (7 if w.old else 8)
    assert refcnt(w, "vfio_pci") == 1


def test_while_the_driver_is_unbound(w):
    """Linux 6.1 keeps vfio0 until the last descriptor is closed, the group stays on both."""
    seen = []

    def unbind():
        w.kernel.process().write_text("/sys/bus/pci/drivers/vfio-pci/unbind", BDF)

    remover = w.kernel.spawn(unbind)
    w.kernel.sched.run_ready()
    there = w.proc.listdir(f"/sys/bus/pci/devices/{BDF}")
    seen.append(("vfio-dev" in there, sorted(w.proc.listdir("/dev/vfio"))))
    for fd in w.fds:
        w.proc.close(fd)
    remover.join()
    there = w.proc.listdir(f"/sys/bus/pci/devices/{BDF}")
    seen.append(("vfio-dev" in there, sorted(w.proc.listdir("/dev/vfio"))))
    assert seen == [(w.old, ["0", "vfio"]), (False, ["vfio"])]
