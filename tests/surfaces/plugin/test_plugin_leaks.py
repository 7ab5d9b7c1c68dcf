"""Everything that can be taken from a kernel: left behind, it fails the test and is named; given back, it does not."""

from __future__ import annotations

import re
from textwrap import indent

import pytest
from inner import Run, run_suite

HEAD = """
import mmap, os, pytest
from errno import ENODEV
from pykernel.base.bus import Bus, Driver
from pykernel.base.class_ import Class
from pykernel.base.core import Device
from pykernel.base.module import Module
from pykernel.base.uevent import Uevents
from pykernel.errors import err
from pykernel.fs.chardev import MKDEV, Chrdevs, NullFile, alloc_chrdev_region, unregister_chrdev_region
from pykernel.hw import make
from pykernel.iommu.dma import dma_alloc_coherent, dma_free_coherent
from pykernel.iommu.sva import iommu_sva_bind_device, iommu_sva_unbind_device
from pykernel.lib.notifier import NotifierBlock
from pykernel.pci.core import Pci
from pykernel.pci.irq import Irqs
from pykernel.tools.dsa import enable_wq

ADDRESS = "0000:6a:01.0"
WQ = "/sys/bus/dsa/devices/wq0.0"
pytestmark = pytest.mark.machine("dsa")
held = []

@pytest.fixture
def p(kernel_process):
    return kernel_process

@pytest.fixture
def pdev(kernel, p):
    "A PCI device without a driver."
    p.write_text("/sys/bus/pci/drivers/idxd/unbind", ADDRESS)
    return kernel.sub(Pci).devices[ADDRESS]

class OnBus(Device):
    pass

class Bad(Driver):
    "Its remove() forgets what its probe() took."
    fails = False
    def probe(self, dev):
        self.dev = dev
        dev.irqs = self.kernel.sub(Irqs)
        dev.irqs.request(dev.irqs.legacy(7).irq, print, "bad", dev)  # PROBE
        if self.fails:
            raise err(ENODEV)

class BadModule(Module):
    name_ = "bad"
    def init(self):
        self.devt = alloc_chrdev_region(self.kernel, 0, 1, "bad")  # INIT

def bus_with_driver(kernel):
    bus = Bus(kernel, "b")
    drv, dev = Bad(kernel, "bad", bus), OnBus(kernel, "d0", bus=bus)
    for it in (bus, drv, dev):
        it.register()
    return bus, drv, dev
"""

OPEN = "opened = p.open({})  # HERE"
TEST = "test_it.py"

# id, what takes it, what gives it back, the sentence
ROWS = [
    ("sysfs", OPEN.format('WQ + "/state"'), "p.close(opened)", "descriptor 0 of test (pid 1): /sys/devices/*wq0.0/state"),
    ("char_device", OPEN.format('"/dev/zero"'), "p.close(opened)", "descriptor 0 of test (pid 1): /dev/zero"),
    ("kmsg", OPEN.format('"/dev/kmsg"'), "p.close(opened)", "descriptor 0 of test (pid 1): /dev/kmsg"),
    ("proc", OPEN.format('"/proc/interrupts"'), "p.close(opened)", "descriptor 0 of test (pid 1): /proc/interrupts"),
    ("directory", OPEN.format('"/sys/bus", os.O_DIRECTORY'), "p.close(opened)", "descriptor 0 of test (pid 1): /sys/bus"),
    ("place", OPEN.format('"/sys/bus", os.O_PATH'), "p.close(opened)", "descriptor 0 of test (pid 1): /sys/bus"),
    ("dup", OPEN.format("'/sys'") + "\np.dup(opened)\np.close(opened)", "p.close(1)", "descriptor 1 of test (pid 1): /sys"),
    ("pipe", "r, w = p.pipe()  # HERE", "p.close(r); p.close(w)", "descriptor 1 of test (pid 1): pipe:[*]"),
    ("eventfd", "opened = p.eventfd()  # HERE", "p.close(opened)", "descriptor 0 of test (pid 1): anon_inode:[eventfd]"),
    ("epoll", "opened = p.epoll_create()  # HERE", "p.close(opened)",
     "descriptor 0 of test (pid 1): anon_inode:[eventpoll]"),
    ("socket", "a, b = p.socketpair()  # HERE", "p.close(a); p.close(b)", "descriptor 1 of test (pid 1): socket:[*]"),
    ("in_flight", OPEN.format("WQ") + "\na, b = p.socketpair()\np.sendmsg(a, b'x', [opened])\np.close(opened)",
     "p.close(a); p.close(b)", "file in a message to socket:[*] of test (pid 1): /sys/devices/*wq0.0"),
    ("forked", OPEN.format("WQ") + "\nchild = p.fork()\np.close(opened)", "child.exit()",
     "descriptor 0 of test (pid 2): /sys/devices/*wq0.0"),
    ("os_open", 'opened = os.open(WQ + "/state", os.O_RDONLY)  # HERE', "os.close(opened)",
     "descriptor * of __main__.py (pid *): /sys/devices/*wq0.0/state"),
    ("open_function", 'held.append(open(WQ + "/state"))  # HERE', "held.pop().close()",
     "descriptor * of __main__.py (pid *): /sys/devices/*wq0.0/state"),
    ("library", 'import pathlib\nheld.append(pathlib.Path(WQ, "state").open())  # HERE', "held.pop().close()",
     "descriptor * of __main__.py (pid *): /sys/devices/*wq0.0/state"),
    ("anonymous", "addr = p.mmap(0, 4096, 3, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # HERE", "p.munmap(addr, 4096)",
     "mapping 0x*-0x* of test (pid 1): anonymous"),
    ("portal", "enable_wq(p, 'wq0.0')\nfd = p.open('/dev/dsa/wq0.0', os.O_RDWR)\n"
     "addr = p.mmap(0, 4096, mmap.PROT_WRITE, mmap.MAP_SHARED, fd)  # HERE\np.close(fd)", "p.munmap(addr, 4096)",
     "mapping 0x*-0x* of test (pid 1): /dev/dsa/wq0.0"),
    ("half_a_portal", "zero = p.open('/dev/zero')\naddr = p.mmap(0, 8192, 1, mmap.MAP_PRIVATE, zero)  # HERE\n"
     "p.close(zero)\np.munmap(addr, 4096)", "p.munmap(addr, 8192)", "mapping 0x*-0x* of test (pid 1): /dev/zero"),
    ("mmap_object", "enable_wq(p, 'wq0.0')\nfd = os.open('/dev/dsa/wq0.0', os.O_RDWR)\n"
     "held.append(mmap.mmap(fd, 4096, prot=mmap.PROT_WRITE))  # HERE\nos.close(fd)", "held.pop().close()",
     "mapping 0x*-0x* of __main__.py (pid *): /dev/dsa/wq0.0"),
    ("user_context", "enable_wq(p, 'wq0.0')\n" + OPEN.format("'/dev/dsa/wq0.0', os.O_RDWR"), "p.close(opened)",
     "PASID 1 of test (pid 1) bound to 0000:6a:01.0"),
    ("sva_bind", "dev = (kernel.up(), kernel.sub(Pci).devices[ADDRESS])[1]\n"
     "handle = iommu_sva_bind_device(dev, p.task.mm)  # HERE", "iommu_sva_unbind_device(handle)",
     "PASID 1 of test (pid 1) bound to 0000:6a:01.0"),
    ("pin", "addr = p.mem.alloc(4096, 4096)\npages = p.mem.pin(addr, 10)  # HERE", "p.mem.unpin(pages)",
     "pinned page 0x*"),
    ("pin_of_a_dead_process", "addr = p.mem.alloc(4096, 4096)\npages = p.mem.pin(addr, 10)  # HERE\np.exit()",
     "p.mem.unpin(pages)", "pinned page 0x*"),
    ("interrupt", "irqs = kernel.sub(Irqs)\nirqs.request(irqs.legacy(5).irq, print, 'mine', held)  # HERE",
     "irqs.free_irq(5, held)", "interrupt 5 (mine)"),
    ("enabled", "pdev.enable_device()  # HERE", "pdev.disable_device()", "PCI device 0000:6a:01.0, enabled"),
    ("vectors", "pdev.enable_device()\npdev.alloc_irq_vectors(1, 4)  # HERE",
     "pdev.free_irq_vectors()\npdev.disable_device()", "4 MSIX vectors of 0000:6a:01.0"),
    ("vector_irq", "pdev.enable_device()\npdev.alloc_irq_vectors(1, 1)\n"
     "pdev.request_irq(pdev.irq_vector(0), print, 'mine')  # HERE",
     "pdev.free_irq(pdev.irq_vector(0))\npdev.free_irq_vectors()\npdev.disable_device()", "interrupt * (mine)"),
    ("regions", "pdev.request_regions('mine')  # HERE", "pdev.release_regions()",
     "BARs of 0000:6a:01.0, requested as 'mine'"),
    ("dma", "buffer = pdev.dma_alloc_coherent(5000)  # HERE", "buffer.free()",
     "8192 bytes of DMA memory at 0x* for 0000:6a:01.0"),
    ("dma_of_the_iommu", "buffer = dma_alloc_coherent(pdev, 5000)  # HERE", "dma_free_coherent(buffer)",
     "5000 bytes of DMA memory at 0x* for 0000:6a:01.0"),
    ("dma_of_a_bound_device", "kernel.up()\npdev = kernel.sub(Pci).devices[ADDRESS]\n"
     "buffer = dma_alloc_coherent(pdev, 5000)  # HERE", "dma_free_coherent(buffer)",
     "5000 bytes of DMA memory at 0x* for 0000:6a:01.0"),
    ("device", "dev = Device(kernel, 'd0')\ndev.register()  # HERE", "dev.unregister()", "device d0"),
    ("class", "cls = Class(kernel, 'c0')\ncls.register()  # HERE", "cls.unregister()", "class c0"),
    ("bus", "bus = Bus(kernel, 'b0')\nbus.register()  # HERE", "bus.unregister()", "bus b0"),
    ("driver", "kernel.up()\ndrv = Driver(kernel, 'mine', kernel.sub(Pci).bus)\n"
     "drv.bus.match = lambda *_: False\ndrv.register()  # HERE", "drv.unregister()", "driver mine of bus pci"),
    ("notifier", "kernel.up()\nbus, nb = kernel.sub(Pci).bus, NotifierBlock(lambda *_: 0)\n"
     "bus.notifier.register(nb)  # HERE", "bus.notifier.unregister(nb)",
     "notifier *test_*notifier.<locals>.<lambda>() at */test_it.py:* of bus pci"),
    ("uevents", "stop = kernel.sub(Uevents).subscribe(lambda *_: None)  # HERE", "stop()",
     "uevent listener test_*uevents.<locals>.<lambda>() at */test_it.py:*"),
    ("chrdev_region", "devt = alloc_chrdev_region(kernel, 0, 4, 'mine')  # HERE",
     "unregister_chrdev_region(kernel, devt, 4)", "character device numbers *:0+4 of 'mine'"),
    ("cdev", "kernel.sub(Chrdevs).add(MKDEV(300, 2), NullFile)  # HERE", "kernel.sub(Chrdevs).delete(MKDEV(300, 2))",
     "character device 300:2"),
    ("timer", "timer = kernel.sched.call_later(10**9, lambda: None)  # HERE", "timer.cancel()",
     "timer for test_*timer.<locals>.<lambda>() at */test_it.py:*, 1000000000 ns to go"),
    ("task", "queue, done = kernel.waitqueue(), []\n"
     "task = kernel.sched.spawn(lambda: queue.wait_event(lambda: bool(done)), 'mine')  # HERE\nkernel.sched.run_ready()",
     "done.append(1)\nqueue.wake_up()\nkernel.sched.run_ready()", "task mine, which has not ended"),
    ("bad_remove", "bus, drv, dev = bus_with_driver(kernel)\ndrv.unregister()\ndev.unregister()\nbus.unregister()",
     "dev.irqs.free_irq(7, dev)", "interrupt 7 (bad) of driver bad on d0, which is gone"),
    ("bad_probe", "Bad.fails = True\nbus, drv, dev = bus_with_driver(kernel)\nBad.fails = False",
     "dev.irqs.free_irq(7, dev)\ndrv.unregister()\ndev.unregister()\nbus.unregister()",
     "interrupt 7 (bad) of driver bad on d0, which is gone"),
    ("bad_exit", "kernel.modules.add('bad', lambda: BadModule)\nbad = kernel.modules.modprobe('bad')\n"
     "kernel.modules.rmmod('bad')", "unregister_chrdev_region(kernel, bad.devt, 1)",
     "character device numbers *:0+1 of 'bad' of module bad, which is gone"),
    ("hook", "queue = kernel.waitqueue()\nheld.append(queue)\nqueue.hooks.append(lambda: None)  # HERE",
     "queue.hooks.clear()", None),
]  # fmt: skip

STATE = [  # what the machine has, not the test
    ("module", "kernel.modules.add('bad', lambda: BadModule)\nkernel.modules.modprobe('bad')"),
    ("user_queue", "enable_wq(p, 'wq0.0')"),
    ("kernel_queue", "more = {'driver_name': 'dmaengine'} if kernel.profile.idxd_driver_name else {}\n"
     "enable_wq(p, 'wq0.0', type='kernel', **more)"),
    ("process", "kernel.process()"),
    ("recording", "kernel.trace.record()"),
    ("silicon", "kernel.up()\npci = kernel.sub(Pci)\npci.plug('0000:20:00.0', make('edu', {}))\npci.rescan()"),
    ("rebound", "kernel.up()\nfor verb in ('unbind', 'bind'):\n"
     "    p.write_text(f'/sys/bus/pci/drivers/idxd/{verb}', ADDRESS)"),
    ("unloaded", "enable_wq(p, 'wq0.0')\nkernel.modules.rmmod('idxd')"),
    ("removed", "enable_wq(p, 'wq0.0')\np.write_text(f'/sys/bus/pci/devices/{ADDRESS}/remove', '1')"),
    ("heap", "p.mem.alloc(10000)"),
]  # fmt: skip


def function(name: str, *parts: str) -> str:
    return f"def {name}(kernel, p, request):\n" + indent("\n".join(parts), "    ") + "\n\n"


def with_device(text: str) -> str:
    return "pdev = request.getfixturevalue('pdev')\n" + text if text.startswith(("pdev.", "buffer = ")) else text


FILE = HEAD + "\n"
for name, take, give, _ in ROWS:
    FILE += function(f"test_leak_{name}", with_device(take))
    FILE += function(f"test_clean_{name}", with_device(take), give)
for name, text in STATE:
    for profile in ("61", "612"):
        mark = f'@pytest.mark.profile("linux-6.{profile[1:]}")\n'
        FILE += mark + function(f"test_state_{name}_{profile}", text)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return run_suite(tmp_path_factory.mktemp("leaks"), FILE)


def line_of(name: str) -> int:
    """Where the test *name*, or the driver that it uses, takes what it leaves."""
    lines = FILE.splitlines()
    mark = {"test_leak_bad_exit": "# INIT", "test_leak_bad_remove": "# PROBE", "test_leak_bad_probe": "# PROBE"}.get(
        name
    )
    start = 0 if mark else next(n for n, line in enumerate(lines) if line.startswith(f"def {name}("))
    return next(n for n in range(start, len(lines)) if lines[n].endswith(mark or "# HERE")) + 1


@pytest.mark.parametrize(("name", "sentence"), [(row[0], row[3]) for row in ROWS], ids=[row[0] for row in ROWS])
def test_what_is_left_fails_the_test_and_is_named(run, name, sentence):
    """With what it is, and the line of the test, or of the driver, that took it."""
    case = run.cases[f"test_leak_{name}"]
    assert case.outcome == "error", run.stdout
    line = line_of(f"test_leak_{name}")
    if sentence is None:
        assert f"a wait queue calls test_leak_{name}.<locals>.<lambda>() at " in case.text
        assert f"{TEST}:{line} when it wakes up" in case.text
        return
    pattern = re.escape(sentence).replace(r"\*", ".*") + rf", taken at .*{TEST}:{line} in \w+(\.\w+)*\(\)$"
    assert re.search(pattern, case.text, re.M), (pattern, case.text)


@pytest.mark.parametrize("name", [row[0] for row in ROWS])
def test_what_is_given_back_is_no_complaint(run, name):
    assert run.cases[f"test_clean_{name}"].outcome == "passed", run.cases[f"test_clean_{name}"].text


@pytest.mark.parametrize("profile", ["61", "612"])
@pytest.mark.parametrize("name", [row[0] for row in STATE])
def test_the_machines_state_is_no_leak(run, name, profile):
    """A module that was loaded, a queue that is enabled, what drivers hold; nor what they gave back when they went."""
    case = run.cases[f"test_state_{name}_{profile}"]
    assert case.outcome == "passed", case.text
