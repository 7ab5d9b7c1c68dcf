"""Parents that come and go, and who creates and removes at the same time (drivers/vfio/mdev/mdev_core.c)."""

from __future__ import annotations

from errno import EACCES, EAGAIN, EBUSY, EEXIST, ENODEV, ENOENT, EUSERS

import pytest
from errnos import errno_of

from pykernel import explore
from pykernel.machine import Machine
from pykernel.mdev import mdev_unregister_parent

DEVICES = "/sys/bus/mdev/devices"
PARENT = "/sys/devices/virtual/toy/toy0"


# ---- registration and what is told of it


def test_a_parent_comes(kernel, make_toy, proc, events):
    """The types, the link, then the uevent."""
    toy = make_toy()
    events.clear()
    seen = []
    kernel.sub(_uevents()).subscribe(lambda *_: seen.append((proc.listdir("/sys/class/mdev_bus"), _types(proc))))

    toy.register()

    assert [(e["ACTION"], e["DEVPATH"], e["SUBSYSTEM"], e["MDEV_STATE"]) for e in events] == [
        ("change", "/devices/virtual/toy/toy0", "toy", "registered")
    ]
    assert seen == [(["toy0"], ["toy-one", "toy-two"])]
    assert [r.text for r in kernel.log.records][-1] == "toy toy0: MDEV: Registered"


def test_a_parent_goes(kernel, toy, proc, events, uuids):
    """Its devices, its types; then the uevent."""
    for uuid in uuids[:2]:
        proc.write_text(f"{toy.type()}/create", uuid)
    events.clear()
    seen = []
    kernel.sub(_uevents()).subscribe(lambda *_: seen.append((proc.listdir("/sys/class/mdev_bus"), _types(proc))))

    mdev_unregister_parent(toy.parent)

    told = [(e["ACTION"], e["DEVPATH"].rpartition("/")[2], e.get("MDEV_STATE")) for e in events]
    assert told == [
        ("unbind", uuids[0], None),
        ("remove", uuids[0], None),
        ("unbind", uuids[1], None),
        ("remove", uuids[1], None),
        ("change", "toy0", "unregistered"),
    ]
    assert seen[0] == ([], ["toy-one", "toy-two"])  # the link went first
    assert seen[-1] == ([], [])  # and the types before the parent's uevent
    assert proc.listdir(DEVICES) == []
    assert "MDEV: Unregistering" in [r.text for r in kernel.log.records][-1]


def test_a_parent_that_comes_again(toy, proc, uuids):
    """It has all its instances."""
    proc.write_text(f"{toy.type()}/create", uuids[0])
    mdev_unregister_parent(toy.parent)
    toy.register()

    assert proc.read_text(f"{toy.type()}/available_instances") == "2\n"
    proc.write_text(f"{toy.type()}/create", uuids[0])


def test_other_children_of_a_parent_stay(kernel, toy, proc):
    """mdev_device_remove_cb() takes those of its bus."""
    from pykernel.base.core import Device

    child = Device(kernel, "child", parent=toy.dev, class_=toy.dev.class_)
    child.register()

    mdev_unregister_parent(toy.parent)

    assert child.registered


def test_a_parent_whose_link_is_taken(kernel, make_toy, proc):
    """It is told, and the parent works."""
    from pykernel.mdev.core import MdevCore

    toy = make_toy()
    kernel.sub(MdevCore).compat_class.dir.create_dir("toy0")
    toy.register()

    assert "toy toy0: Failed to create compatibility class link" in [r.text for r in kernel.log.records]
    assert _types(proc) == ["toy-one", "toy-two"]


def _uevents():
    from pykernel.base.uevent import Uevents

    return Uevents


def _types(proc) -> list[str]:
    try:
        return sorted(proc.listdir(f"{PARENT}/mdev_supported_types"))
    except FileNotFoundError:
        return []


# ---- at the same time


def test_unregistering_waits_for_who_has_a_device(kernel, toy, proc, uuids):
    proc.write_text(f"{toy.type()}/create", uuids[0])
    closed = toy.driver.opened[uuids[0]] = kernel.completion()
    order = []

    def driver():
        mdev_unregister_parent(toy.parent)
        order.append("gone")

    def user():
        other = kernel.process()
        while other.listdir("/sys/class/mdev_bus"):
            pass  # others run where a system call ends
        order.append("closed")
        closed.complete()

    kernel.gather(driver, user)

    assert order == ["closed", "gone"]


@pytest.mark.parametrize("file", ["create", "remove"])
def test_nobody_creates_or_removes_while_a_parent_goes(kernel, toy, proc, uuids, file):
    """ENODEV at once, not a wait; a device whose remove failed is taken by the parent."""
    for uuid in uuids[:2]:
        proc.write_text(f"{toy.type()}/create", uuid)
        toy.driver.opened[uuid] = kernel.completion()
    toy.parent.available_instances = 5

    def client():
        other = kernel.process()
        while other.listdir("/sys/class/mdev_bus"):
            pass  # others run where a system call ends
        path = f"{PARENT}/mdev_supported_types/toy-one/create" if file == "create" else f"{PARENT}/{uuids[1]}/remove"
        errno = errno_of(other.write_text, path, uuids[2] if file == "create" else "1")
        for closed in toy.driver.opened.values():
            closed.complete()
        return errno

    assert kernel.gather(lambda: mdev_unregister_parent(toy.parent), client)[1] == ENODEV
    assert proc.listdir(DEVICES) == []


def test_a_parent_waits_for_who_creates(kernel, toy, proc, uuids):
    """A device that is half made is made, and then removed."""
    begun, hold, order = kernel.completion(), kernel.completion(), []

    def probe(mdev):
        begun.complete()
        hold.wait()
        order.append("probed")

    toy.driver.probe = probe

    def creator():
        proc.write_text(f"{toy.type()}/create", uuids[0])

    def driver():
        begun.wait()
        kernel.spawn(third)
        mdev_unregister_parent(toy.parent)
        order.append("gone")

    def third():
        assert toy.parent.unreg_sem.writers_waiting
        other = kernel.process()
        order.append(errno_of(other.write_text, f"{PARENT}/mdev_supported_types/toy-one/create", uuids[1]))
        hold.complete()

    kernel.gather(creator, driver)

    assert order == [ENODEV, "probed", "gone"]
    assert toy.driver.log == [f"remove {uuids[0]}"]
    assert proc.listdir(DEVICES) == []


# what each client may be told while the others do what they do
FINE = {
    "create": {0, EEXIST, EUSERS, ENODEV, ENOENT, EBUSY},
    "remove": {0, ENODEV, ENOENT, EAGAIN, EACCES},
}


def busy(toy, uuids) -> set[tuple[str, int | None]]:
    """Two create what is the same, two remove it, and the parent goes and comes."""
    kernel = toy.dev.kernel
    seen: list[tuple[str, int | None]] = []

    def creator(kind):
        proc = kernel.process()
        for uuid in uuids[:2]:
            seen.append(("create", errno_of(proc.write_text, f"{toy.type(kind)}/create", uuid)))

    def remover():
        proc = kernel.process()
        for uuid in uuids[:2]:
            seen.append(("remove", errno_of(proc.write_text, f"{PARENT}/{uuid}/remove", "1")))

    def parent():
        mdev_unregister_parent(toy.parent)
        toy.register()

    kernel.gather(lambda: creator("one"), lambda: creator("two"), remover, remover, parent)

    assert {(what, errno) for what, errno in seen if errno not in FINE[what]} == set()
    check_whole(toy)
    return set(seen)


def check_whole(toy) -> None:
    """What is there is there altogether, and is counted."""
    from pykernel.mdev.core import MdevCore

    kernel = toy.dev.kernel
    proc, core = kernel.process(), kernel.sub(MdevCore)
    alive = sorted(proc.listdir(DEVICES))
    assert sorted(core.devices) == alive
    linked = sorted(u for kind in ("one", "two") for u in proc.listdir(f"{toy.type(kind)}/devices"))
    assert linked == alive
    for uuid in alive:
        assert core.devices[uuid].active
        assert {"driver", "mdev_type"} <= set(proc.listdir(f"{DEVICES}/{uuid}"))
    assert proc.read_text(f"{toy.type()}/available_instances") == f"{2 - len(alive)}\n"
    assert not toy.parent.unreg_sem.is_locked
    assert not core.list_lock.is_locked


@pytest.mark.parametrize("strategy", ["random", "pct"])
@pytest.mark.parametrize("profile_", ["linux-6.1", "linux-6.12"])
def test_all_at_once(toy_on, uuids, profile_, strategy):
    """Under any order every write has one of Linux's answers, and what is left is whole."""
    machine = Machine("bare", modules={"mdev": ""})
    for kernel in explore(seeds=60, strategy=strategy, machine=machine, profile=profile_):
        toy = toy_on(kernel).register()
        busy(toy, uuids)
        toy.take_down()


def test_the_races_happen(toy_on, uuids):
    """Over some seeds who creates finds the parent going, who removes finds a device half made and half gone."""
    seen = set()
    for kernel in explore(seeds=80, machine=Machine("bare", modules={"mdev": ""})):
        toy = toy_on(kernel).register()
        seen |= busy(toy, uuids)
        toy.take_down()

    assert {("create", 0), ("create", EEXIST), ("create", ENODEV), ("create", ENOENT)} <= seen
    assert {("remove", 0), ("remove", ENODEV), ("remove", ENOENT), ("remove", EAGAIN)} <= seen
