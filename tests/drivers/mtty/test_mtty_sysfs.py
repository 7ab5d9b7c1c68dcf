"""What mtty is called, what it makes, how many (samples/vfio-mdev/mtty.c)."""

from __future__ import annotations

from errno import EAGAIN, EIO, ENOSPC

import pytest
from errnos import errno_of

import pykernel

PARENT = "/sys/devices/virtual/mtty/mtty"
TYPES = f"{PARENT}/mdev_supported_types"
DEVICES = "/sys/bus/mdev/devices"

TEXTS = [
    ("mtty-1/name", "Single port serial\n"),
    ("mtty-2/name", "Dual port serial\n"),
    ("mtty-1/device_api", "vfio-pci\n"),
    ("mtty-2/device_api", "vfio-pci\n"),
    ("mtty-1/available_instances", "24\n"),
    ("mtty-2/available_instances", "12\n"),
]


@pytest.mark.parametrize(("path", "text"), TEXTS, ids=[path for path, _ in TEXTS])
def test_types(proc, path, text):
    assert proc.read_text(f"{TYPES}/{path}") == text


def test_the_parent(proc):
    assert sorted(proc.listdir(TYPES)) == ["mtty-1", "mtty-2"]
    assert "description" not in proc.listdir(f"{TYPES}/mtty-1")
    assert proc.readlink("/sys/class/mdev_bus/mtty") == "../../devices/virtual/mtty/mtty"
    assert proc.readlink("/sys/class/mtty/mtty") == "../../devices/virtual/mtty/mtty"
    assert " mtty\n" in proc.read_text("/proc/devices")


def test_the_module_has_no_parameters_that_linux_has_not(proc):
    assert "parameters" not in proc.listdir("/sys/module/mtty")


def test_the_files_of_a_card(client, proc):
    uuid = client.create()

    assert {
        "driver",
        "iommu_group",
        "mdev_type",
        "power",
        "remove",
        "subsystem",
        "uevent",
        "vendor",
        "vfio-dev",
    } == set(proc.listdir(f"{DEVICES}/{uuid}"))
    assert proc.read_text(f"{DEVICES}/{uuid}/vendor/sample_mdev_dev") == f"This is MDEV {uuid}\n"
    assert proc.readlink(f"{DEVICES}/{uuid}/driver").endswith("/bus/mdev/drivers/mtty")
    group = proc.readlink(f"{DEVICES}/{uuid}/iommu_group").rpartition("/")[2]
    assert proc.read_text(f"/sys/kernel/iommu_groups/{group}/name") == "vfio-noiommu\n"
    assert proc.listdir(f"/sys/kernel/iommu_groups/{group}/devices") == [uuid]
    assert group in proc.listdir("/dev/vfio")


def test_what_the_driver_brought_goes_with_it(client, proc):
    """Unbound, a card has no group and no vendor files, its ports are free, and the device stays."""
    uuid = client.create(2)
    proc.write_text("/sys/bus/mdev/drivers/mtty/unbind", uuid)

    assert not {"driver", "iommu_group", "vendor", "vfio-dev"} & set(proc.listdir(f"{DEVICES}/{uuid}"))
    assert proc.read_text(f"{TYPES}/mtty-1/available_instances") == "24\n"
    client.remove(uuid)


def test_ports_are_of_all_types(client, proc):
    """A pool of 24; ENOSPC is the driver's answer, and what is left can still be had."""
    for _ in range(11):
        client.create(2)
    client.create(1)
    assert proc.read_text(f"{TYPES}/mtty-1/available_instances") == "1\n"
    assert proc.read_text(f"{TYPES}/mtty-2/available_instances") == "0\n"

    assert errno_of(client.create, 2) == ENOSPC
    last = client.create(1)
    assert errno_of(client.create, 1) == ENOSPC

    client.remove(last)
    assert proc.read_text(f"{TYPES}/mtty-1/available_instances") == "1\n"


def test_ports_that_are_ours(boot, client_of):
    client = client_of(boot("ports=3"))
    client.create(2)

    assert errno_of(client.create, 2) == ENOSPC
    client.create(1)


def test_parents_that_are_ours(boot, client_of):
    """Each has ports of its own; the first is Linux's."""
    client = client_of(boot("ports=1 parents=3"))

    assert sorted(client.proc.listdir("/sys/class/mdev_bus")) == ["mtty", "mtty1", "mtty2"]
    for parent in ("mtty", "mtty1", "mtty2"):
        client.create(1, parent)
        assert errno_of(client.create, 1, parent) == ENOSPC
    assert sorted(client.proc.listdir("/sys/class/mdev_bus/mtty2/mdev_supported_types")) == ["mtty-1", "mtty-2"]


def test_a_card_that_cannot_be_registered_gives_its_ports_back(kernel, client, proc):
    for nth in range(1, 30):
        with kernel.faults.fail("alloc", nth=nth) as rule:
            failed = errno_of(client.create)
        if not rule.fired:
            assert nth > 5
            return
        if failed:
            assert proc.listdir(DEVICES) == []
            assert proc.read_text(f"{TYPES}/mtty-1/available_instances") == "24\n"
        else:
            client.remove(proc.listdir(DEVICES)[0])
    pytest.fail("create asks for memory without an end")


def test_the_module_goes_with_its_cards(kernel, client, proc):
    for _ in range(3):
        client.create()
    kernel.modules.rmmod("mtty")

    assert proc.listdir(DEVICES) == []
    assert proc.listdir("/dev/vfio") in (["vfio"], ["devices", "vfio"], ["vfio", "devices"])
    assert not set(proc.listdir("/sys/class")) & {"mtty"}
    kernel.modules.modprobe("mtty")
    assert proc.read_text(f"{TYPES}/mtty-1/available_instances") == "24\n"


def test_the_module_stays_while_a_card_is_open(kernel, client):
    client.open()

    assert errno_of(kernel.modules.rmmod, "mtty") == EAGAIN


def test_remove_waits_until_a_card_is_closed(kernel, client, proc):
    """Pitfall: the write blocks; mtty has no interrupt that would ask for the card."""
    card = client.open()
    uuid, order = card.device.proc.listdir(DEVICES)[0], []

    def remover():
        kernel.process().write_text(f"{DEVICES}/{uuid}/remove", "1")
        order.append("removed")

    def user():
        while uuid in proc.listdir(DEVICES):
            pass  # others run where a system call ends
        assert card.config(0, 4) == b"\x48\x43\x53\x32"  # the card itself works as before
        order.append("closed")
        card.device.close()

    kernel.gather(remover, user)

    assert order == ["closed", "removed"]
    assert proc.read_text(f"{TYPES}/mtty-1/available_instances") == "24\n"


def test_a_module_that_goes_leaves_its_character_device_to_nobody():
    """mtty and mdpy open the same class of file; what one gives back is its own."""
    kernel = pykernel.boot("mdev")
    kernel.modules.rmmod("mtty")
    kernel.shutdown()  # raises Leak if anything is left


def test_who_removes_a_card_that_he_has_open_hangs_and_keeps_it(profile, client_of):
    """Linux would wait for ever. The write fails, the card works on, and goes when it is closed."""
    kernel = pykernel.boot("mdev", profile)
    client = client_of(kernel)
    card = client.open()
    uuid = client.proc.listdir(DEVICES)[0]
    before = {path: sorted(client.proc.listdir(path)) for path in (f"{DEVICES}/{uuid}", "/dev/vfio", f"{TYPES}/mtty-1")}
    for _ in range(2):
        assert errno_of(client.remove, uuid) == EIO
        assert {path: sorted(client.proc.listdir(path)) for path in before} == before
        assert client.proc.realpath(f"{DEVICES}/{uuid}/driver") == "/sys/bus/mdev/drivers/mtty"
        assert card.config(0, 4) == bytes.fromhex("48435332")
    assert all(str(e).startswith(f"{uuid} is open: hung task") for e in kernel.oopses)
    assert len(kernel.oopses) == 2
    client.proc.close(card.fd)
    client.remove(uuid)
    assert client.proc.listdir(DEVICES) == []
    for fd in sorted(client.proc.fds.files):
        client.proc.close(fd)
    kernel.shutdown()
