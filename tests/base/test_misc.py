"""Misc devices: numbers, nodes, /proc/misc. Expected values: a booted Linux 6.1.0-56 and 6.12.95 of Debian."""

from __future__ import annotations

import stat
from errno import EBUSY

import pytest

from pykernel.base.misc import MISC_DYNAMIC_MINOR, MiscDevice, misc_deregister, misc_register
from pykernel.fs.chardev import NullFile
from pykernel.machine import IommuSpec, Machine
from pykernel.start import boot


@pytest.mark.parametrize(
    ("profile", "minors"), [("linux-6.1", [127, 126, 125]), ("linux-6.12", [256, 257, 258])], ids=["6.1", "6.12"]
)
def test_dynamic_minors(profile, minors):
    kernel = boot(Machine("none", iommu=IommuSpec(enabled=False, sva=False)), profile)
    kernel.up()
    made = [MiscDevice(kernel, name, MISC_DYNAMIC_MINOR, NullFile) for name in "abc"]
    for device in made:
        misc_register(device)
    proc = kernel.process()
    assert proc.read_text("/proc/misc") == "".join(
        f"{minor:3d} {name}\n" for minor, name in reversed(list(zip(minors, "abc", strict=True)))
    )
    assert " 10 misc\n" in proc.read_text("/proc/devices")
    for device in made:
        misc_deregister(device)
    proc.exit()
    kernel.shutdown()


def test_a_named_node_with_a_mode():
    kernel = boot(Machine("none", iommu=IommuSpec(enabled=False, sva=False)))
    kernel.up()
    vfio = MiscDevice(kernel, "vfio", 196, NullFile, nodename="vfio/vfio", mode=0o666)
    misc_register(vfio)
    proc = kernel.process()
    st = proc.stat("/dev/vfio/vfio")
    assert (stat.S_IMODE(st.st_mode), st.st_rdev) == (0o666, 10 << 8 | 196)
    assert proc.read_text("/sys/class/misc/vfio/uevent") == "MAJOR=10\nMINOR=196\nDEVNAME=vfio/vfio\nDEVMODE=0666\n"
    assert proc.read_text("/proc/misc") == "196 vfio\n"
    with pytest.raises(OSError) as e:  # noqa: PT011
        misc_register(MiscDevice(kernel, "other", 196, NullFile))
    assert e.value.errno == EBUSY
    misc_deregister(vfio)
    assert "misc" in proc.listdir("/sys/class")
    with pytest.raises(FileNotFoundError):
        proc.stat("/dev/vfio/vfio")
    proc.exit()
    kernel.shutdown()
