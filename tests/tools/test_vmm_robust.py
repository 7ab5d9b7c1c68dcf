"""Virtual machines and mistakes: of who makes them, of who calls the wrong kernel, of guests, of the host."""

from __future__ import annotations

import gc
from dataclasses import replace
from errno import EBUSY, EEXIST, EIO, ENOENT, ENOSPC
from itertools import count
from typing import Any, cast

import pytest
from guestwork import copy, running
from hypothesis import given
from hypothesis import strategies as st

from pykernel import boot
from pykernel.errors import HungTask, Oops
from pykernel.machine import load
from pykernel.tools.dsa import enable_wq, memmove
from pykernel.tools.vmm.layout import DMAR_BASE, ECAM_BASE, ecam_offset
from pykernel.tools.vmm.pasids import GuestPasids
from pykernel.tools.vmm.setup import enable, prepare
from pykernel.tools.vmm.vmm import DSA_SLOT, LEAST_MEMORY, Died, Vmm

MEMORY = 16 << 20
DATA = bytes(range(256)) * 20
ECAM = ECAM_BASE + ecam_offset(DSA_SLOT)
FUNCTION = "0000:6a:01.0"


@pytest.fixture
def host():
    kernel = boot("vmm", seed=3)
    yield kernel
    kernel.shutdown()
    assert kernel.oopses == []


@pytest.fixture
def ready(host):
    proc = host.process()
    prepare(proc, shared=16, dedicated=1)
    proc.exit()
    return host


# ---- making one


def test_a_name_that_is_taken_is_eexist_and_the_other_machine_goes_on(ready):
    vmm = running(ready, memory=MEMORY, name="x")

    with pytest.raises(FileExistsError) as caught:
        Vmm(ready, name="x", memory=MEMORY)

    assert caught.value.errno == EEXIST
    assert vmm.run(copy, vmm, DATA) == DATA
    vmm.shutdown()


def test_a_whole_function_that_a_machine_has_is_ebusy_and_stays_its(host):
    vmm = Vmm(host, name="x", memory=MEMORY, mdev="")
    vmm.run(lambda: enable_wq(vmm.process(), "wq0.0", mode="shared", size=16))

    with pytest.raises(OSError, match="busy") as caught:
        Vmm(host, name="y", memory=MEMORY, mdev="")

    assert caught.value.errno == EBUSY
    assert vmm.run(lambda: memmove(vmm.process(), "/dev/dsa/wq0.0", DATA)) == DATA
    vmm.shutdown()


@pytest.mark.parametrize(
    ("mistake", "says"),
    [
        ({"pasids": "other"}, "'private' or 'identity'"),
        ({"profile": "linux-9"}, "no profile 'linux-9'"),
        ({"vcpus": 0}, "0 processors"),
        ({"memory": 0}, "0 bytes of memory"),
        ({"memory": 5000}, "pages of 4096"),
        ({"memory": 4096}, "at least"),
        ({"memory": 65536}, "at least"),
        ({"memory": -(16 << 20)}, "at least"),
    ],
)
def test_a_machine_that_cannot_be_is_a_sentence_and_leaves_nothing(ready, mistake, says):
    with pytest.raises(ValueError, match=says):
        Vmm(ready, **{"memory": MEMORY, **mistake})

    vmm = running(ready, memory=MEMORY)  # of the same name
    assert vmm.run(copy, vmm, DATA) == DATA
    vmm.shutdown()


def test_a_machine_as_small_as_can_be_works(ready):
    vmm = Vmm(ready, memory=LEAST_MEMORY)
    vmm.run(lambda: enable(vmm.process()))

    assert vmm.run(copy, vmm, DATA) == DATA
    vmm.shutdown()


# ---- the wrong kernel


def calls_of_the_host(host, vmm):
    return {
        "system call": lambda: host.process().listdir("/dev"),
        "run": lambda: vmm.run(lambda: 5),
        "spawn": lambda: vmm.spawn(lambda: 5),
        "wait": lambda: vmm.wait([]),
        "gather": lambda: host.gather(lambda: 5),
        "shutdown": vmm.shutdown,
        "kill": vmm.kill,
        "another": lambda: Vmm(host, name="inner", memory=MEMORY),
    }


@pytest.mark.parametrize("what", ["system call", "run", "spawn", "wait", "gather", "shutdown", "kill", "another"])
def test_a_guest_s_program_cannot_call_the_host(ready, what):
    vmm = running(ready, memory=MEMORY)

    with pytest.raises(RuntimeError, match="a guest's program cannot call the host"):
        vmm.run(calls_of_the_host(ready, vmm)[what])

    assert vmm.run(copy, vmm, DATA) == DATA
    vmm.shutdown()


def test_a_guest_s_process_is_used_inside_only(ready):
    vmm = Vmm(ready, memory=MEMORY)
    early = vmm.process()
    for _ in range(2):  # before it has run, and after
        with pytest.raises(RuntimeError, match=r"only inside vmm\.run\(\)"):
            early.listdir("/dev")
        assert "kmsg" in vmm.run(lambda: early.listdir("/dev"))

    assert vmm.guest.kernel.oopses == []
    vmm.shutdown()


# ---- guests


@pytest.mark.parametrize("where", [0x100000, ECAM_BASE, DMAR_BASE & -0x10000])
def test_a_bar_over_ram_or_the_platform_takes_nothing_from_it(ready, where):
    vmm = running(ready, memory=MEMORY)

    def move(bar, to):
        vmm.guest.mmio_write(ECAM + 0x10 + 4 * bar, 4, to & 0xFFFFFFFF)
        vmm.guest.mmio_write(ECAM + 0x14 + 4 * bar, 4, to >> 32)

    def moved():
        before = vmm.devices[DSA_SLOT].bars[2][0]
        move(2, where)
        ident = vmm.guest.mmio_read(ECAM, 4)
        move(2, before)
        return ident & 0xFFFF

    assert vmm.run(moved) == 0x8086
    assert vmm.run(copy, vmm, DATA) == DATA
    vmm.shutdown()


@pytest.mark.parametrize("profile", ["linux-6.1", "linux-6.12", "linux-7.2"])
def test_registers_that_say_all_ones_halt_the_driver(profile):
    """A program of the guest turns memory decoding off while an interrupt is on its way."""
    host = boot("vmm", profile=profile)
    prepare(host.process())
    vmm = running(host, memory=MEMORY)

    def odd():
        bar0 = vmm.devices[DSA_SLOT].bars[0][0]
        vmm.guest.mmio_write(bar0 + 0xA0, 4, 0x80000000)  # any command that asks for an interrupt
        vmm.guest.mmio_write(ECAM + 4, 2, 0x0400)
        vmm.process().poll([], 1)
        return vmm.process().read_text("/sys/bus/dsa/devices/dsa0/state")

    assert vmm.run(odd) == "disabled\n"  # as Linux says of a halt that a reset of the driver's does not end
    vmm.kill()
    host.shutdown()


def test_a_guest_s_kernel_that_spins_on_a_device_is_told_of(ready, monkeypatch):
    monkeypatch.setattr("pykernel.tools.vmm.guest.SOFT_LOCKUP", 300)
    vmm = running(ready, memory=MEMORY)

    def spins():
        while True:
            vmm.guest.mmio_read(ECAM, 4)

    with pytest.raises(Oops, match="soft lockup"):
        vmm.run(spins)
    assert vmm.run(copy, vmm, DATA) == DATA
    vmm.shutdown()


# ---- the end


def test_who_waits_for_a_machine_that_died_is_told_why(ready, monkeypatch):
    vmm = running(ready, memory=MEMORY)

    def broken(*_):
        raise ZeroDivisionError("broken VMM")

    monkeypatch.setattr(vmm, "read", broken)
    with pytest.raises(Died, match="ZeroDivisionError: broken VMM") as caught:
        vmm.run(lambda: vmm.guest.mmio_read(ECAM, 4))
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    with pytest.raises(Died, match="broken VMM"):
        vmm.run(lambda: 5)
    with pytest.raises(Died, match="broken VMM"):
        vmm.shutdown()  # and leaves nothing


@pytest.mark.parametrize(("end", "says"), [("kill", "was killed"), ("shutdown", "was switched off")])
def test_a_machine_that_ended_runs_nothing(ready, end, says):
    vmm = running(ready, memory=MEMORY)
    getattr(vmm, end)()

    with pytest.raises(Died, match=says):
        vmm.run(lambda: 5)
    getattr(vmm, end)()  # once more does nothing


def test_a_machine_that_was_killed_is_collected_as_garbage(ready):
    """Its parts are a dead cycle then, views of its memory among them."""
    vmm = running(ready, memory=MEMORY)
    vmm.run(copy, vmm, DATA)
    vmm.kill()
    del vmm
    gc.collect()


@pytest.mark.parametrize("end", ["shutdown", "kill"])
@pytest.mark.parametrize(
    ("mdev", "path", "text"),
    [
        ("1swq", "/sys/bus/mdev/devices/{}/remove", "1"),
        ("1swq", "/sys/bus/dsa/drivers/mdev/unbind", "wq0.0"),
        ("1swq", "/sys/bus/pci/drivers/idxd/unbind", FUNCTION),
        ("1swq", f"/sys/bus/pci/devices/{FUNCTION}/remove", "1"),
        ("", "/sys/bus/pci/drivers/vfio-pci/unbind", FUNCTION),
        ("", f"/sys/bus/pci/devices/{FUNCTION}/remove", "1"),
    ],
)
def test_a_machine_ends_whose_device_the_host_takes_away(mdev, path, text, end):
    host = boot("vmm")
    root = host.process()
    if mdev:
        prepare(root)
    vmm = Vmm(host, memory=MEMORY, mdev=mdev)
    remover = host.spawn(lambda: root.write_text(path.format(vmm.mdev), text))
    root.poll([], 5)
    assert not remover.done  # it waits for the machine

    getattr(vmm, end)()

    remover.join()
    assert vmm.proc.exited is not None
    with pytest.raises(OSError, match="No such file") as caught:
        root.readlink(f"/sys/bus/mdev/devices/{vmm.mdev or 'none'}")
    assert caught.value.errno == ENOENT
    host.shutdown()
    assert host.oopses == []


@pytest.mark.parametrize("dedicated", [0, 1])
@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/sys/bus/mdev/devices/{}/remove", "1"),
        ("/sys/bus/dsa/drivers/mdev/unbind", "wq0.0"),
        ("/sys/bus/pci/drivers/idxd/unbind", FUNCTION),
        (f"/sys/bus/pci/devices/{FUNCTION}/remove", "1"),
    ],
)
def test_a_removal_that_nobody_can_end_leaves_all_as_before(path, text, dedicated):
    """Whoever would close the device waits for the removal himself: EIO. Later it is removed."""
    host = boot("vmm")
    root = host.process()
    prepare(root, shared=16, dedicated=dedicated)
    vmm = running(host, memory=MEMORY)
    where = path.format(vmm.mdev)

    for _ in range(2):
        with pytest.raises(OSError, match="Input/output error") as caught:
            root.write_text(where, text)
        assert caught.value.errno == EIO
        assert vmm.run(copy, vmm, DATA) == DATA
        assert root.listdir("/sys/class/mdev_bus") == [FUNCTION]
    assert [type(e) for e in host.oopses] == [HungTask] * 2
    host.oopses.clear()
    second = Vmm(host, name="second", memory=MEMORY)  # it still takes devices
    second.shutdown()
    vmm.shutdown()
    if "mdev/devices" not in where:
        root.write_text(where, text)

    assert host.oopses == []
    host.shutdown()


# ---- many


class Numbers:
    """The host's PASIDs, from far away, none given twice."""

    def __init__(self):
        self.last, self.free = 5000, lambda _pasid: None

    def alloc(self, low, high):
        self.last += 7
        return self.last


@given(came=st.sets(st.integers(1, 12)), steps=st.lists(st.one_of(st.none(), st.integers(0, 20)), max_size=60))
def test_a_guest_gets_its_lowest_free_number_and_is_found_by_the_host_s(came, steps):
    pasids = GuestPasids(cast("Any", Numbers()))
    pasids.replay(sorted(came), [])
    model = set(came)
    for step in steps:
        if step is None:
            lowest = next(n for n in count(1) if n not in model)
            assert pasids.alloc() == lowest
            model.add(lowest)
        else:
            assert pasids.free(step) == (step in model)
            model.discard(step)
        assert set(pasids.host_of) == model
        assert {pasids.guest_of(host): host for host in pasids.host_of.values()} == pasids.host_of
        assert pasids.guest_of(5001) is None


def test_a_hundred_thousand_numbers_cost_each_the_same():
    """No look at any of the others: with them this would take hours."""
    pasids = GuestPasids(cast("Any", Numbers()))
    for guest in range(1, 100_001):
        assert pasids.alloc() == guest
    for guest in range(1, 100_001):
        pasids.guest_of(pasids.host_of[guest])
        pasids.free(guest)
    assert pasids.alloc() == 1


# ---- machines with few PASIDs


def few(bits):
    """The machine ``vmm`` with an IOMMU whose PASIDs have *bits* bits."""
    spec = load("vmm")
    return boot(replace(spec, iommu=replace(spec.iommu, pasid_bits=bits)))


def test_a_process_of_the_host_leaves_pasids_for_a_machine():
    host = few(11)
    root = host.process()
    prepare(root, shared=16)
    assert memmove(root, "/dev/dsa/wq0.0", DATA) == DATA

    vmm = running(host, memory=MEMORY)

    assert vmm.run(copy, vmm, DATA) == DATA
    with pytest.raises(OSError, match="No space left") as caught:  # each machine is promised a thousand
        Vmm(host, name="second", memory=MEMORY)
    assert caught.value.errno == ENOSPC
    assert vmm.run(copy, vmm, DATA) == DATA
    vmm.shutdown()
    host.shutdown()
    assert host.oopses == []
