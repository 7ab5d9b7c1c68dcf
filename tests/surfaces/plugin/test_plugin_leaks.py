"""Everything that can be taken from a kernel: left behind, it fails the test and is named; given back, it does not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from textwrap import dedent, indent

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

TEST = "test_it.py"

# name: the sentence; the lines that take it, then those that give it back
ROWS = r"""
sysfs: descriptor 0 of test (pid 1): /sys/devices/*wq0.0/state
    opened = p.open(WQ + "/state")  # HERE
release:
    p.close(opened)

char_device: descriptor 0 of test (pid 1): /dev/zero
    opened = p.open("/dev/zero")  # HERE
release:
    p.close(opened)

kmsg: descriptor 0 of test (pid 1): /dev/kmsg
    opened = p.open("/dev/kmsg")  # HERE
release:
    p.close(opened)

proc: descriptor 0 of test (pid 1): /proc/interrupts
    opened = p.open("/proc/interrupts")  # HERE
release:
    p.close(opened)

directory: descriptor 0 of test (pid 1): /sys/bus
    opened = p.open("/sys/bus", os.O_DIRECTORY)  # HERE
release:
    p.close(opened)

place: descriptor 0 of test (pid 1): /sys/bus
    opened = p.open("/sys/bus", os.O_PATH)  # HERE
release:
    p.close(opened)

dup: descriptor 1 of test (pid 1): /sys
    opened = p.open('/sys')  # HERE
    p.dup(opened)
    p.close(opened)
release:
    p.close(1)

pipe: descriptor 1 of test (pid 1): pipe:[*]
    r, w = p.pipe()  # HERE
release:
    p.close(r)
    p.close(w)

eventfd: descriptor 0 of test (pid 1): anon_inode:[eventfd]
    opened = p.eventfd()  # HERE
release:
    p.close(opened)

epoll: descriptor 0 of test (pid 1): anon_inode:[eventpoll]
    opened = p.epoll_create()  # HERE
release:
    p.close(opened)

socket: descriptor 1 of test (pid 1): socket:[*]
    a, b = p.socketpair()  # HERE
release:
    p.close(a)
    p.close(b)

in_flight: file in a message to socket:[*] of test (pid 1): /sys/devices/*wq0.0
    opened = p.open(WQ)  # HERE
    a, b = p.socketpair()
    p.sendmsg(a, b'x', [opened])
    p.close(opened)
release:
    p.close(a)
    p.close(b)

forked: descriptor 0 of test (pid 2): /sys/devices/*wq0.0
    opened = p.open(WQ)  # HERE
    child = p.fork()
    p.close(opened)
release:
    child.exit()

os_open: descriptor * of __main__.py (pid *): /sys/devices/*wq0.0/state
    opened = os.open(WQ + "/state", os.O_RDONLY)  # HERE
release:
    os.close(opened)

open_function: descriptor * of __main__.py (pid *): /sys/devices/*wq0.0/state
    held.append(open(WQ + "/state"))  # HERE
release:
    held.pop().close()

scandir: descriptor * of __main__.py (pid *): /sys/bus
    held.append(os.scandir("/sys/bus"))  # HERE
    next(held[-1])
release:
    for entry in held.pop():
        pass

scandir_of_a_descriptor: descriptor * of __main__.py (pid *): /sys/bus
    opened = os.open("/sys/bus", os.O_RDONLY)  # HERE
    held.append(os.scandir(opened))
    os.close(opened)
release:
    held.pop().close()

library: descriptor * of __main__.py (pid *): /sys/devices/*wq0.0/state
    import pathlib
    held.append(pathlib.Path(WQ, "state").open())  # HERE
release:
    held.pop().close()

anonymous: mapping 0x*-0x* of test (pid 1): anonymous
    addr = p.mmap(0, 4096, 3, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # HERE
release:
    p.munmap(addr, 4096)

portal: mapping 0x*-0x* of test (pid 1): /dev/dsa/wq0.0
    enable_wq(p, 'wq0.0')
    fd = p.open('/dev/dsa/wq0.0', os.O_RDWR)
    addr = p.mmap(0, 4096, mmap.PROT_WRITE, mmap.MAP_SHARED, fd)  # HERE
    p.close(fd)
release:
    p.munmap(addr, 4096)

half_a_portal: mapping 0x*-0x* of test (pid 1): /dev/zero
    zero = p.open('/dev/zero')
    addr = p.mmap(0, 8192, 1, mmap.MAP_PRIVATE, zero)  # HERE
    p.close(zero)
    p.munmap(addr, 4096)
release:
    p.munmap(addr, 8192)

mmap_object: mapping 0x*-0x* of __main__.py (pid *): /dev/dsa/wq0.0
    enable_wq(p, 'wq0.0')
    fd = os.open('/dev/dsa/wq0.0', os.O_RDWR)
    held.append(mmap.mmap(fd, 4096, prot=mmap.PROT_WRITE))  # HERE
    os.close(fd)
release:
    held.pop().close()

user_context: PASID 1 of test (pid 1) bound to 0000:6a:01.0
    enable_wq(p, 'wq0.0')
    opened = p.open('/dev/dsa/wq0.0', os.O_RDWR)  # HERE
release:
    p.close(opened)

sva_bind: PASID 1 of test (pid 1) bound to 0000:6a:01.0
    dev = (kernel.up(), kernel.sub(Pci).devices[ADDRESS])[1]
    handle = iommu_sva_bind_device(dev, p.task.mm)  # HERE
release:
    iommu_sva_unbind_device(handle)

pin: pinned memory at 0x*, 4096 bytes
    addr = p.mem.alloc(4096, 4096)
    pages = p.mem.pin_user_pages(addr, 1, write=True)  # HERE
release:
    p.mem.unpin_user_pages(pages)

pin_of_a_dead_process: pinned memory at 0x*, 4096 bytes
    addr = p.mem.alloc(4096, 4096)
    pages = p.mem.pin_user_pages(addr, 1, write=True)  # HERE
    p.exit()
release:
    p.mem.unpin_user_pages(pages)

interrupt: interrupt 5 (mine)
    irqs = kernel.sub(Irqs)
    irqs.request(irqs.legacy(5).irq, print, 'mine', held)  # HERE
release:
    irqs.free_irq(5, held)

enabled: PCI device 0000:6a:01.0, enabled
    pdev.enable_device()  # HERE
release:
    pdev.disable_device()

vectors: 4 MSIX vectors of 0000:6a:01.0
    pdev.enable_device()
    pdev.alloc_irq_vectors(1, 4)  # HERE
release:
    pdev.free_irq_vectors()
    pdev.disable_device()

vector_irq: interrupt * (mine)
    pdev.enable_device()
    pdev.alloc_irq_vectors(1, 1)
    pdev.request_irq(pdev.irq_vector(0), print, 'mine')  # HERE
release:
    pdev.free_irq(pdev.irq_vector(0))
    pdev.free_irq_vectors()
    pdev.disable_device()

regions: BARs of 0000:6a:01.0, requested as 'mine'
    pdev.request_regions('mine')  # HERE
release:
    pdev.release_regions()

dma_of_the_iommu: 5000 bytes of DMA memory at 0x* for 0000:6a:01.0
    buffer = dma_alloc_coherent(pdev, 5000)  # HERE
release:
    dma_free_coherent(buffer)

dma_of_a_bound_device: 5000 bytes of DMA memory at 0x* for 0000:6a:01.0
    kernel.up()
    pdev = kernel.sub(Pci).devices[ADDRESS]
    buffer = dma_alloc_coherent(pdev, 5000)  # HERE
release:
    dma_free_coherent(buffer)

device: device d0
    dev = Device(kernel, 'd0')
    dev.register()  # HERE
release:
    dev.unregister()

class: class c0
    cls = Class(kernel, 'c0')
    cls.register()  # HERE
release:
    cls.unregister()

bus: bus b0
    bus = Bus(kernel, 'b0')
    bus.register()  # HERE
release:
    bus.unregister()

driver: driver mine of bus pci
    kernel.up()
    drv = Driver(kernel, 'mine', kernel.sub(Pci).bus)
    drv.bus.match = lambda *_: False
    drv.register()  # HERE
release:
    drv.unregister()

notifier: notifier *test_*notifier.<locals>.<lambda>() at */test_it.py:* of bus pci
    kernel.up()
    bus, nb = kernel.sub(Pci).bus, NotifierBlock(lambda *_: 0)
    bus.notifier.register(nb)  # HERE
release:
    bus.notifier.unregister(nb)

uevents: uevent listener test_*uevents.<locals>.<lambda>() at */test_it.py:*
    stop = kernel.sub(Uevents).subscribe(lambda *_: None)  # HERE
release:
    stop()

chrdev_region: character device numbers *:0+4 of 'mine'
    devt = alloc_chrdev_region(kernel, 0, 4, 'mine')  # HERE
release:
    unregister_chrdev_region(kernel, devt, 4)

cdev: character device 300:2
    kernel.sub(Chrdevs).add(MKDEV(300, 2), NullFile)  # HERE
release:
    kernel.sub(Chrdevs).delete(MKDEV(300, 2))

timer: timer for test_*timer.<locals>.<lambda>() at */test_it.py:*, 1000000000 ns to go
    timer = kernel.sched.call_later(10**9, lambda: None)  # HERE
release:
    timer.cancel()

task: task mine, which has not ended
    queue, done = kernel.waitqueue(), []
    task = kernel.sched.spawn(lambda: queue.wait_event(lambda: bool(done)), 'mine')  # HERE
    kernel.sched.run_ready()
release:
    done.append(1)
    queue.wake_up()
    kernel.sched.run_ready()

bad_remove: interrupt 7 (bad) of driver bad on d0, which is gone
    bus, drv, dev = bus_with_driver(kernel)
    drv.unregister()
    dev.unregister()
    bus.unregister()
release:
    dev.irqs.free_irq(7, dev)

bad_probe: interrupt 7 (bad) of driver bad on d0, which is gone
    Bad.fails = True
    bus, drv, dev = bus_with_driver(kernel)
    Bad.fails = False
release:
    dev.irqs.free_irq(7, dev)
    drv.unregister()
    dev.unregister()
    bus.unregister()

bad_exit: character device numbers *:0+1 of 'bad' of module bad, which is gone
    kernel.modules.add('bad', lambda: BadModule)
    bad = kernel.modules.modprobe('bad')
    kernel.modules.rmmod('bad')
release:
    unregister_chrdev_region(kernel, bad.devt, 1)

hook: a wait queue calls test_leak_hook.<locals>.<lambda>() at */test_it.py:* when it wakes up
    queue = kernel.waitqueue()
    held.append(queue)
    queue.hooks.append(lambda: None)  # HERE
release:
    queue.hooks.clear()
"""

# what the machine has, not the test
STATE = """
module:
    kernel.modules.add('bad', lambda: BadModule)
    kernel.modules.modprobe('bad')

user_queue:
    enable_wq(p, 'wq0.0')

kernel_queue:
    more = {'driver_name': 'dmaengine'} if kernel.profile.idxd_driver_name else {}
    enable_wq(p, 'wq0.0', type='kernel', **more)

process:
    kernel.process()

recording:
    kernel.trace.record()

silicon:
    kernel.up()
    pci = kernel.sub(Pci)
    pci.plug('0000:20:00.0', make('edu', {}))
    pci.rescan()

rebound:
    kernel.up()
    for verb in ('unbind', 'bind'):
        p.write_text(f'/sys/bus/pci/drivers/idxd/{verb}', ADDRESS)

unloaded:
    enable_wq(p, 'wq0.0')
    kernel.modules.rmmod('idxd')

removed:
    enable_wq(p, 'wq0.0')
    p.write_text(f'/sys/bus/pci/devices/{ADDRESS}/remove', '1')

heap:
    p.mem.alloc(10000)
"""


def sections(text: str) -> Iterator[tuple[str, str, str]]:
    """Name, sentence and lines of each."""
    for part in re.split(r"\n(?=\w+:)", text.strip()):
        head, _, body = part.partition("\n")
        name, _, sentence = head.partition(":")
        yield name, sentence.strip(), dedent(body).strip() + "\n"


def rows() -> Iterator[tuple[str, str, str, str]]:
    """Name, sentence, what takes it, what gives it back."""
    parts = sections(ROWS)
    for (name, sentence, take), (_, _, give) in zip(parts, parts, strict=True):
        yield name, sentence, take, give


def function(name: str, *parts: str) -> str:
    return f"def {name}(kernel, p, request):\n" + indent("\n".join(parts), "    ") + "\n\n"


def with_device(text: str) -> str:
    return "pdev = request.getfixturevalue('pdev')\n" + text if text.startswith(("pdev.", "buffer = ")) else text


FILE = HEAD + "\n"
for name, _, take, give in rows():
    FILE += function(f"test_leak_{name}", with_device(take))
    FILE += function(f"test_clean_{name}", with_device(take), give)
for name, _, text in sections(STATE):
    for profile in ("61", "612"):
        mark = f'@pytest.mark.profile("linux-6.{profile[1:]}")\n'
        FILE += mark + function(f"test_state_{name}_{profile}", text)


NAMES = [row[0] for row in rows()]


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


@pytest.mark.parametrize(("name", "sentence"), [row[:2] for row in rows()], ids=NAMES)
def test_what_is_left_fails_the_test_and_is_named(run, name, sentence):
    """With what it is, and the line of the test, or of the driver, that took it."""
    case = run.cases[f"test_leak_{name}"]
    assert case.outcome == "error", run.stdout
    line = line_of(f"test_leak_{name}")
    pattern = re.escape(sentence).replace(r"\*", ".*")
    # who hangs a call into a wait queue is known by the call
    pattern += "$" if name == "hook" else rf", taken at .*{TEST}:{line} in \w+(\.\w+)*\(\)$"
    assert re.search(pattern, case.text, re.M), (pattern, case.text)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_given_back_is_no_complaint(run, name):
    assert run.cases[f"test_clean_{name}"].outcome == "passed", run.cases[f"test_clean_{name}"].text


@pytest.mark.parametrize("profile", ["61", "612"])
@pytest.mark.parametrize("name", [row[0] for row in sections(STATE)])
def test_the_machines_state_is_no_leak(run, name, profile):
    """A module that was loaded, a queue that is enabled, what drivers hold; nor what they gave back when they went."""
    case = run.cases[f"test_state_{name}_{profile}"]
    assert case.outcome == "passed", case.text
