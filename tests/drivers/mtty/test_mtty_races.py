"""Cards are made, opened, removed, unbound and their module is unloaded, all at once."""

from __future__ import annotations

import os
from errno import EAGAIN, EBUSY, EEXIST, EINVAL, ENODEV, ENOENT, ENXIO, EPERM

import pytest
from errnos import errno_of

from pykernel import explore, machine
from pykernel.uapi.linux import vfio as v

MACHINE = machine.parse('[modules]\nvfio_iommu_type1 = ""\nmtty = "ports=3"\n')
DEVICES = "/sys/bus/mdev/devices"
TYPES = "/sys/class/mdev_bus/mtty/mdev_supported_types"
UUIDS = [f"{n:08x}-0000-4000-8000-000000000000" for n in range(2)]

FINE = {
    "create": {0, EEXIST, ENODEV, ENOENT, EBUSY},
    "remove": {0, ENODEV, ENOENT, EAGAIN},
    "unbind": {0, ENODEV, ENOENT},
    "rmmod": {0, EAGAIN, EBUSY, ENOENT},
    "modprobe": {0, EBUSY, EEXIST},
    "open": {0, ENOENT, ENXIO, EBUSY, ENODEV, EINVAL, EPERM},
    "read": {0},
}


class Tally:
    """What each kind of call answered."""

    def __init__(self) -> None:
        self.seen: set[tuple[str, int | None]] = set()

    def call(self, what: str, fn, *args) -> bool:
        errno = errno_of(fn, *args)
        self.seen.add((what, errno))
        assert errno in FINE[what], (what, errno)
        return errno == 0


def maker(kernel, tally: Tally) -> None:
    proc = kernel.process(comm="mdevctl")
    for uuid in UUIDS:
        tally.call("create", proc.write_text, f"{TYPES}/mtty-1/create", uuid)
    for uuid in UUIDS:
        tally.call("remove", proc.write_text, f"{DEVICES}/{uuid}/remove", "1")


def unbinder(kernel, tally: Tally) -> None:
    proc = kernel.process(comm="sh")
    for uuid in UUIDS:
        tally.call("unbind", proc.write_text, "/sys/bus/mdev/drivers/mtty/unbind", uuid)


def unloader(kernel, tally: Tally) -> None:
    tally.call("rmmod", kernel.modules.rmmod, "mtty")
    tally.call("modprobe", kernel.modules.modprobe, "mtty", "ports=3")


def user(kernel, tally: Tally) -> None:
    proc = kernel.process(comm="qemu")
    for uuid in UUIDS:
        try:
            number = os.path.basename(proc.readlink(f"{DEVICES}/{uuid}/iommu_group"))
        except OSError:
            continue
        tally.call("open", _open_and_read, proc, number, uuid, tally)
        for fd in sorted(proc.fds.files, reverse=True):
            proc.close(fd)


def _open_and_read(proc, number: str, uuid: str, tally: Tally) -> None:
    container = proc.open("/dev/vfio/vfio", os.O_RDWR)
    group = proc.open(f"/dev/vfio/{number}", os.O_RDWR)
    proc.ioctl(group, v.VFIO_GROUP_SET_CONTAINER, bytearray(container.to_bytes(4, "little")))
    proc.ioctl(container, v.VFIO_SET_IOMMU, v.VFIO_TYPE1v2_IOMMU)
    device = proc.ioctl(group, v.VFIO_GROUP_GET_DEVICE_FD, bytearray(uuid.encode() + b"\0"))
    assert tally.call("read", proc.pread, device, 4, v.VFIO_PCI_CONFIG_REGION_INDEX << 40)


@pytest.mark.parametrize("strategy", ["random", "pct"])
@pytest.mark.parametrize("profile", ["linux-6.1", "linux-6.12"])
def test_all_at_once(profile, strategy):
    """Each call has one of Linux's answers; at the end all ports are free, and nothing is left."""
    tally = Tally()
    for kernel in explore(seeds=60, strategy=strategy, machine=MACHINE, profile=profile):
        clients = (maker, maker, user, user, unbinder, unloader)
        kernel.gather(*(lambda client=client, kernel=kernel: client(kernel, tally) for client in clients))
        kernel.modules.modprobe("mtty", "ports=3")
        proc = kernel.process()
        kernel.modules.rmmod("mtty")
        kernel.modules.modprobe("mtty", "ports=3")
        assert proc.read_text(f"{TYPES}/mtty-1/available_instances") == "3\n"
        assert proc.listdir(DEVICES) == []
        assert [name for name in proc.listdir("/dev/vfio") if name.isdigit()] == []

    wanted = {("create", 0), ("remove", 0), ("open", 0), ("unbind", 0), ("rmmod", 0), ("create", EEXIST)}
    assert wanted <= tally.seen
